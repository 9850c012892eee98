//! Why a valid configuration cannot be served.

use std::{fmt, io};

use crate::intake::country::CountryError;
use crate::intake::ranges::RangesError;
use crate::pages::PagesError;

/// Why a valid configuration cannot be served.
#[derive(Debug)]
pub enum BuildError {
    /// The pages cannot be rendered with these settings.
    Pages(PagesError),
    /// A glob or a value cannot be prepared, although the checks of the configuration accepted it.
    Value(String),
    /// The access log's file cannot be opened.
    Log(io::Error),
    /// The country file can no longer be used, although the checks of the configuration accepted it.
    Countries(CountryError),
    /// An address list can no longer be used, although the checks of the configuration accepted it.
    Ranges(RangesError),
    /// No thread can be started to follow a file.
    Thread(io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pages(error) => error.fmt(f),
            Self::Value(error) => f.write_str(error),
            Self::Countries(error) => write!(f, "beacon.country_database: the file {error}"),
            Self::Ranges(error) => write!(f, "provider.verify.addresses: {} {error}", error.path.display()),
            Self::Thread(error) => write!(f, "no thread can be started ({error}); allow this user more threads"),
            Self::Log(error) => write!(
                f,
                "access_log.output: the file cannot be opened ({error}); \
                 name one in a folder that exists and that this user may write to"
            ),
        }
    }
}

impl std::error::Error for BuildError {}
