//! The country of a beacon's sender, from a file in `MaxMind`'s format that may be replaced at any time.
//!
//! The file is kept in memory and looked at every second, by a thread that ends with the last user. A look-up takes no lock. What
//! cannot be used, a file half written or of another kind, is said once in the log, and the one before stays in use.

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
/// How many networks are looked at for a first country; files begin with a few that have none.
const SEARCHED_NETWORKS: usize = 65_536;

/// Why a file cannot be used; reads on from its name.
#[derive(Debug)]
pub enum CountryError {
    /// It is not there, or not for this user.
    Read(io::Error),
    /// It is longer than 256 MiB.
    TooLarge,
    /// It is not in `MaxMind`'s format, or broken.
    Format(MaxMindDbError),
    /// Its records are about something else.
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
                "is longer than {} MiB; name a file of countries, which is a tenth of that",
                MAX_FILE_BYTES >> 20
            ),
            Self::Format(error) => write!(
                f,
                "is no file in MaxMind's format ({}); name an unpacked one, whose name ends in .mmdb",
                error.to_string().escape_debug()
            ),
            Self::NoCountries => f.write_str(
                "has no countries in it (no record has country.iso_code); name a file of countries or cities, for example \
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
    /// Reads a file, of which every byte is taken to be possibly wrong.
    ///
    /// # Errors
    /// See [`CountryError`].
    pub fn open(path: &Path) -> Result<Self, CountryError> {
        let (opened, content) = Followed::open(path, MAX_FILE_BYTES)?;
        Ok(Self { opened, reader: ArcSwap::from_pointee(reader(content)?) })
    }

    /// Where an address is; one that the file does not know is in [`Country::OTHER`].
    pub fn of(&self, address: IpAddr) -> Country {
        code(&self.reader.load(), address.to_canonical()).unwrap_or(Country::OTHER)
    }

    /// Follows the file's changes, on a thread that ends some seconds after the last use of this value.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn watch(self: &Arc<Self>) -> io::Result<()> {
        let mut followed = self.opened.clone();
        follow("countries", self, move |countries| countries.look(&mut followed))
    }

    /// Takes the file in if it has become another one.
    fn look(&self, followed: &mut Followed) {
        let Some(read) = followed.news(MAX_FILE_BYTES) else { return };
        match read.map_err(CountryError::from).and_then(reader) {
            Ok(reader) => self.reader.store(Arc::new(reader)),
            Err(error) => {
                let path = followed.path().display();
                tracing::warn!("beacon.country_database: {path} {error}; the one read before stays in use");
            }
        }
    }
}

fn reader(content: Content) -> Result<Reader<Vec<u8>>, CountryError> {
    let reader = Reader::from_source(content.bytes).map_err(CountryError::Format)?;
    // Networks without data are handed out too, so that a broken tree cannot keep us looking.
    let options = WithinOptions::default().include_networks_without_data();
    for network in reader.networks(options).map_err(CountryError::Format)?.take(SEARCHED_NETWORKS) {
        let network = network.map_err(CountryError::Format)?;
        // A record of another shape is no reason to stop: some files mix them.
        if network.decode_path::<&str>(&path!["country", "iso_code"]).is_ok_and(|code| code.is_some()) {
            return Ok(reader);
        }
    }
    Err(CountryError::NoCountries)
}

/// The country of an address: none where the file has none, or is broken just there.
fn code(reader: &Reader<Vec<u8>>, address: IpAddr) -> Option<Country> {
    let found = reader.lookup(address).ok()?;
    found.decode_path::<&str>(&path!["country", "iso_code"]).ok()?.map(Country::from_code)
}
