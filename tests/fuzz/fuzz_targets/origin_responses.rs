//! Fuzzes responses of a hostile origin. edgeshim's plain exchange must give the same response or the same cause of a
//! fault as hyper's client.
//!
//! The lower seven bits of the input's first byte are the size of the pieces in which the origin writes. The highest
//! bit selects HEAD.

#![no_main]

use edgeshim::internals::{Metrics, Script};
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

static METRICS: OnceLock<&'static Metrics> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let Some((&first, bytes)) = data.split_first() else { return };
    let metrics = METRICS.get_or_init(|| Box::leak(Box::new(Metrics::new().expect("metrics"))));
    let piece = match first & 0x7f {
        0 => usize::MAX,
        size => usize::from(size),
    };
    let script = Script { bytes, piece, is_head: first & 0x80 != 0, by_hyper: false };
    let _ = script.compare(metrics);
});
