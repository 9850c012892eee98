#![doc = include_str!("ARCHITECTURE.md")]
// `println!` panics if standard output is closed or the disk is full. Commands use `cli::terminal::print`.
#![cfg_attr(not(test), warn(clippy::print_stdout))]

// The modules are in the order of the rooms in ARCHITECTURE.md.

// The commands.
mod cli;
// Sockets, worker threads, connections, the drain.
mod serve;
// The page for operators, the metrics, the probes and the effective configuration, served by a separate thread.
mod admin;
// The checks of `edgeshim smoke`.
mod smoke;
// The weights of the CDNs in DNS: a command of its own, which `run` does not use.
mod balance;
// What the pages for operators have in common.
mod operators;
// The runtime: all layers and tables of one configuration. A runtime is built once and replaced only as a whole.
mod runtime;
// The configuration file, and the list of the mistakes in it.
mod config;
// The layers that a request passes through, and their order (`pipeline.rs`).
mod edge;
// The service below the layers: connections to the origin, retries, timeouts.
mod origin;
// Input other than pulls: beacons, load times, pushed logs, address lists, the country file, files of `[server.tls]`.
mod intake;
// Log records, their formats, and the writer.
mod access_log;
// Knowledge about each CDN: presets, proofs, dialects.
mod cdn;
// The whoopsie pages: the error pages that people see when the origin fails.
mod pages;
// Every metric, with its labels and handles.
mod metrics;
// How a settings type declares its configuration keys.
mod keys;
// The causes of failures, and the status for each cause.
mod fault;
// Small ids for providers, classes and labels.
mod ids;
// Header fields: names, parsers and writers.
mod wire;
// A coarse clock and deadlines.
mod clock;
// Opens the files whose paths a person wrote.
mod regular_file;

pub use cli::main;

/// The items that tests, benches and fuzz targets use. These items are not a public API.
#[doc(hidden)]
pub mod internals {
    pub use crate::access_log::reader::outcome as access_log_outcome;
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
    pub use crate::intake::edge_logs::outcome as edge_log_outcome;
    pub use crate::intake::ranges::parse as parse_ranges;
    pub use crate::metrics::{Description, Kind, METRICS, Metrics};
    pub use crate::origin::Resolver;
    pub use crate::origin::{Answer, Script};
    pub use crate::runtime::{Lasting, Runtime, Slot};
    pub use crate::serve::{Cut, Drain, Server, plain_head_bytes};
    pub use crate::wire::cache_control::CacheControl;
    pub use crate::wire::cache_fields::edge_control;
    pub use crate::wire::quality::{Coding, gzip_acceptance};
    pub use crate::wire::secret::Secret;
    pub use crate::wire::vary::merge_accept_encoding;

    /// Returns a function that decides the provider of a pull, as the layer `identify` does. The function returns the
    /// id of the provider.
    pub fn identifier(runtime: &Runtime) -> impl Fn(&http::HeaderMap) -> u16 + use<> {
        let parts = runtime.parts();
        let identifier = crate::edge::identify::Identifier::new(parts.identify, parts.providers);
        move |headers| identifier.identify(headers).0.0
    }

    pub mod config {
        pub use crate::access_log::{LogFormat, LogOutput};
        pub use crate::config::{AddressSource, Settings, load, parse};
        pub use crate::origin::Target;
    }

    pub mod etag {
        pub use crate::wire::etag::{EntityTag, Listed, listed, strengthen, weaken};
    }

    pub mod forwarded {
        pub use crate::wire::forwarded::{Peer, Scheme, client_from_xff, write};
    }

    pub mod trackers {
        pub use crate::wire::frame_tracker::FrameTracker;
        pub use crate::wire::head_tracker::{HeadTracker, Verdict};
    }

    pub mod names {
        pub use crate::wire::names::*;
    }
}
