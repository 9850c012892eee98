#![doc = include_str!("ARCHITECTURE.md")]

// In the order in which a request meets them.

// The commands.
mod cli;
// Sockets, worker threads, connections, the drain.
mod serve;
// Metrics, probes and the effective configuration, on their own thread.
mod admin;
// Settings become a runtime: all layers and tables, built once and swapped as a whole.
mod runtime;
// The configuration file and its problems.
mod config;
// The layers that a request passes through, and their order (`pipeline.rs`).
mod edge;
// The innermost service: connections to the origin, retries, timeouts.
mod origin;
// Input other than pulls: beacons, RUM, address lists.
mod intake;
// Log records, their formats, and the writer.
mod access_log;
// What is known about each CDN: presets, proofs, dialects.
mod cdn;
// The pages for when the origin fails.
mod pages;
// Every metric, with its labels and handles.
mod metrics;
// How a key of the configuration is read and shown.
mod keys;
// Why the origin gave no response, and which status that becomes.
mod fault;
// Small ids for providers, classes and labels.
mod ids;
// Header fields: names, parsers and writers.
mod wire;
// A coarse clock and deadlines.
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
