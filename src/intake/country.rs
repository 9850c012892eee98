//! Finds the country of a client that loads a beacon. The countries come from a file in the format of `MaxMind`. The
//! file can be replaced at any time.
//!
//! The whole file is in memory. A thread checks every second whether the file has changed. The thread ends after the
//! last reference to [`Countries`] is dropped. A lookup takes no lock. If a new file is unusable, for example because
//! it is incomplete, the log gets one message, and the previous content stays in use.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use maxminddb::{MaxMindDbError, Reader, WithinOptions, path};

use super::followed::{Content, Followed, ReadError, follow};
use crate::ids::Country;

/// The largest file that is read, in bytes. Country files have some 10 MB, and city files have up to 130 MB.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;
/// The number of networks, from the start of a file, in which [`reader`] looks for a country. One country is enough to
/// accept the file. Most files begin with a few networks that have no country.
const SEARCHED_NETWORKS: usize = 65_536;

/// The reason why a country file cannot be used. The messages are written after the name of the file.
#[derive(Debug)]
pub enum CountryError {
    /// The file is missing, is not a regular file, or is not readable for the user of this process.
    Read(io::Error),
    /// The file is longer than 256 MiB.
    TooLarge,
    /// The file is damaged, or is not in the format of `MaxMind`.
    Format(MaxMindDbError),
    /// None of the first networks in the file has a country.
    NoCountries,
}

impl fmt::Display for CountryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(
                f,
                "cannot be read ({error}); name a file that this user may read, for example \
                 \"GeoLite2-Country.mmdb\""
            ),
            Self::TooLarge => write!(
                f,
                "is longer than {} MiB; name a file of countries, which is less than a tenth of that size",
                MAX_FILE_BYTES >> 20
            ),
            Self::Format(error) => write!(
                f,
                "is not in the MaxMind format ({}); name an unpacked file, whose name ends in .mmdb",
                error.to_string().escape_debug()
            ),
            Self::NoCountries => f.write_str(
                "has no countries (its first networks have no country.iso_code); name a file of countries or cities, \
                 for example \"GeoLite2-Country.mmdb\"",
            ),
        }
    }
}

impl std::error::Error for CountryError {}

impl From<ReadError> for CountryError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Read(error),
            ReadError::TooLarge => Self::TooLarge,
        }
    }
}

/// A country file in memory.
pub struct Countries {
    opened: Followed,
    reader: ArcSwap<Reader<Vec<u8>>>,
}

impl fmt::Debug for Countries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Countries").field("path", &self.opened.path()).finish_non_exhaustive()
    }
}

impl Countries {
    /// Reads a country file. The file is treated as untrusted input.
    ///
    /// # Errors
    /// The file cannot be used, for a reason in [`CountryError`].
    pub fn open(path: &Path) -> Result<Self, CountryError> {
        let (opened, content) = Followed::open(path, MAX_FILE_BYTES)?;
        Ok(Self { opened, reader: ArcSwap::from_pointee(reader(content)?) })
    }

    /// Returns the country of an address. Returns [`Country::OTHER`] if the file has no readable country for the
    /// address, or a code that is not in edgeshim's list of countries.
    pub fn of(&self, address: IpAddr) -> Country {
        code(&self.reader.load(), address.to_canonical()).unwrap_or(Country::OTHER)
    }

    /// Starts a thread that reads the file again when the file changes. After the last reference to this value is
    /// dropped, the thread ends within about a second.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn watch(self: &Arc<Self>) -> io::Result<()> {
        let mut followed = self.opened.clone();
        follow("countries", self, move |countries| countries.check(&mut followed))
    }

    /// Reads the file again if it has changed.
    fn check(&self, followed: &mut Followed) {
        let Some(read) = followed.changed(MAX_FILE_BYTES) else { return };
        match read.map_err(CountryError::from).and_then(reader) {
            Ok(reader) => self.reader.store(Arc::new(reader)),
            Err(error) => {
                let path = followed.path().display();
                tracing::warn!("beacon.country_database: {path} {error}; the previous file stays in use");
            }
        }
    }
}

fn reader(content: Content) -> Result<Reader<Vec<u8>>, CountryError> {
    let reader = Reader::from_source(content.bytes).map_err(CountryError::Format)?;
    // The search also visits networks without data. So the limit counts all networks, and the search ends even in a
    // damaged file.
    let options = WithinOptions::default().include_networks_without_data();
    for network in reader.networks(options).map_err(CountryError::Format)?.take(SEARCHED_NETWORKS) {
        let network = network.map_err(CountryError::Format)?;
        // Some files contain records of several kinds. A record without a country code is skipped.
        if network.decode_path::<&str>(&path!["country", "iso_code"]).is_ok_and(|code| code.is_some()) {
            return Ok(reader);
        }
    }
    Err(CountryError::NoCountries)
}

/// Returns the country of an address. Returns `None` if the file has no country for the address, or if the record of
/// the address is damaged.
fn code(reader: &Reader<Vec<u8>>, address: IpAddr) -> Option<Country> {
    let found = reader.lookup(address).ok()?;
    found.decode_path::<&str>(&path!["country", "iso_code"]).ok()?.map(Country::from_code)
}
