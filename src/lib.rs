#![doc = include_str!("ARCHITECTURE.md")]

mod cli;

mod serve;

mod admin;

mod runtime;

mod config;

mod edge;

mod origin;

mod intake;

mod access_log;

mod cdn;

mod pages;

mod metrics;

mod keys;

mod fault;

mod ids;

mod wire;

mod clock;

pub use cli::main;

/// What tests, benches and fuzz targets may use; not an API.
#[doc(hidden)]
pub mod internals {
    pub use crate::cdn::addresses::AddressSet;
    pub use crate::cdn::dialect::Dialect;
    pub use crate::cdn::preset::NAMES as PRESET_NAMES;
    pub use crate::cdn::proof::g2o::{Data as G2oData, Replays, Verifier};
    pub use crate::cdn::proof::{G2oKeys, Require};
    pub use crate::edge::cache_control::outcome::Guard;
    pub use crate::edge::cache_control::policy::{Facts, Prepared};
    pub use crate::edge::request::class::{CacheMode, CachePolicy};
    pub use crate::fault::Cause;
    pub use crate::ids::{Country, Reason};
    pub use crate::intake::country::{Countries, CountryError};
    pub use crate::intake::ranges::parse as parse_ranges;
    pub use crate::metrics::{Description, Kind, METRICS, Metrics};
    pub use crate::runtime::{Runtime, Slot};
    pub use crate::serve::{Drain, Server};
    pub use crate::wire::cache_control::CacheControl;
    pub use crate::wire::cache_fields::edge_control;
    pub use crate::wire::quality::{Coding, gzip_acceptance};
    pub use crate::wire::secret::Secret;
    pub use crate::wire::vary::merge_accept_encoding;

    pub mod config {
        pub use crate::access_log::{LogFormat, LogOutput};
        pub use crate::config::{AddressSource, Settings, load, parse};
        pub use crate::origin::Target;
    }

    pub mod etag {
        pub use crate::wire::etag::{EntityTag, Listed, listed, strengthen, weaken};
    }

    pub mod names {
        pub use crate::wire::names::*;
    }
}
