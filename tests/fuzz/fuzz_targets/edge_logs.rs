//! Fuzzes batches of log lines in the format of each preset, with and without gzip. The result must not depend on the
//! pieces in which the body arrives.
//!
//! The first byte of the input decides whether the body must be an envelope of Firehose, and whether gzip is added. The
//! second byte is the size of the pieces. The rest is the body.

#![no_main]

use std::io::Write as _;

use edgeshim::internals::{PRESET_NAMES, edge_log_outcome};
use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;

const NOW: i64 = 1_700_000_000;

fuzz_target!(|data: &[u8]| {
    let [flags, size, body @ ..] = data else { return };
    let (is_firehose, is_gzip) = (flags & 1 == 1, flags & 2 == 2);
    let body = if is_gzip {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(body).expect("writing to memory does not fail");
        encoder.finish().expect("writing to memory does not fail")
    } else {
        body.to_vec()
    };
    for preset in PRESET_NAMES {
        let whole = edge_log_outcome(preset, &body, usize::MAX, is_firehose, || NOW);
        assert_eq!(whole, edge_log_outcome(preset, &body, usize::from(*size), is_firehose, || NOW), "{preset}");
    }
});
