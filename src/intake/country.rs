//! The country of a beacon's sender, from a file in the format of `MaxMind` that may be replaced at any time.
//!
//! The file is in memory. A thread checks it every second, until the last use ends. A lookup takes no lock. A file that
//! cannot be used, because it is incomplete or of another kind, gets one message in the log, and the previous one stays
//! in use.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use maxminddb::{MaxMindDbError, Reader, WithinOptions, path};

use super::followed::{Content, Followed, ReadError, follow};
use crate::ids::Country;

/// The largest file that is read, in bytes. Country files have some 10 MB, city files up to 130.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;
/// The largest number of networks that are searched for a first country. Files begin with a few networks that have
/// none.
const SEARCHED_NETWORKS: usize = 65_536;

/// Why a file cannot be used. The message continues the file's name.
#[derive(Debug)]
pub enum CountryError {
    /// It is missing, or this user may not read it.
    Read(io::Error),
    /// It is longer than 256 MiB.
    TooLarge,
    /// It is not in the format of `MaxMind`, or damaged.
    Format(MaxMindDbError),
    /// Its records have no countries.
    NoCountries,
}

impl fmt::Display for CountryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(
                f,
                "cannot be read ({error}); name a file that exists and that this user may read, for example \
                 \"GeoLite2-Country.mmdb\""
            ),
            Self::TooLarge => write!(
                f,
                "is longer than {} MiB; name a file of countries, which is a tenth of that size",
                MAX_FILE_BYTES >> 20
            ),
            Self::Format(error) => write!(
                f,
                "is not in the MaxMind format ({}); name an unpacked file, whose name ends in .mmdb",
                error.to_string().escape_debug()
            ),
            Self::NoCountries => f.write_str(
                "has no countries (no record has country.iso_code); name a file of countries or cities, for example \
                 \"GeoLite2-Country.mmdb\"",
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
    /// Reads a file. No byte of it is trusted.
    ///
    /// # Errors
    /// See [`CountryError`].
    pub fn open(path: &Path) -> Result<Self, CountryError> {
        let (opened, content) = Followed::open(path, MAX_FILE_BYTES)?;
        Ok(Self { opened, reader: ArcSwap::from_pointee(reader(content)?) })
    }

    /// The country of an address; [`Country::OTHER`] if the file does not contain it.
    pub fn of(&self, address: IpAddr) -> Country {
        code(&self.reader.load(), address.to_canonical()).unwrap_or(Country::OTHER)
    }

    /// Follows changes of the file, on a thread that ends some seconds after the last use of this value.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn watch(self: &Arc<Self>) -> io::Result<()> {
        let mut followed = self.opened.clone();
        follow("countries", self, move |countries| countries.check(&mut followed))
    }

    /// Reads the file if it changed.
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
    // Networks without data count too, so that a damaged tree cannot make the search endless.
    let options = WithinOptions::default().include_networks_without_data();
    for network in reader.networks(options).map_err(CountryError::Format)?.take(SEARCHED_NETWORKS) {
        let network = network.map_err(CountryError::Format)?;
        // A record of another shape is skipped: some files mix them.
        if network.decode_path::<&str>(&path!["country", "iso_code"]).is_ok_and(|code| code.is_some()) {
            return Ok(reader);
        }
    }
    Err(CountryError::NoCountries)
}

/// The country of an address. None: the file has none, or is damaged there.
fn code(reader: &Reader<Vec<u8>>, address: IpAddr) -> Option<Country> {
    let found = reader.lookup(address).ok()?;
    found.decode_path::<&str>(&path!["country", "iso_code"]).ok()?.map(Country::from_code)
}
