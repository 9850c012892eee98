//! Benches of single layers and of the complete pipeline, with criterion.
//!
//! `cargo bench --bench layers` runs all benches and compares them with the previous run.
//! `cargo bench --bench layers -- identify` runs one group. `cargo test --bench layers` runs each bench once, to check
//! that it works.

#![allow(clippy::unwrap_used, reason = "a failed bench is a panic")]

mod cache_control;
mod gzip;
mod identify;
mod metrics;
mod pipeline;
mod shim;

use criterion::{criterion_group, criterion_main};

criterion_group!(benches, identify::bench, cache_control::bench, gzip::bench, pipeline::bench, metrics::bench);
criterion_main!(benches);
