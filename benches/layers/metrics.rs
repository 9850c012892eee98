//! The metrics page, which Prometheus scrapes, the upkeep of the histograms, and one increment of a counter.

use std::fmt::Write;

use criterion::Criterion;

use crate::shim;

const CLASSES: usize = 50;

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("metrics");
    group.sample_size(20);
    let mut classes = String::new();
    for number in 0..CLASSES {
        writeln!(classes, "[[class]]\nname = \"class{number}\"\npath = [\"/{number}/**\"]").unwrap();
    }
    let runtime = shim::runtime(shim::nobody(), &classes);
    let metrics = runtime.metrics();
    group.bench_function("text page of 50 classes", |b| b.iter(|| metrics.render()));
    group.bench_function("protobuf page of 50 classes", |b| b.iter(|| metrics.render_protobuf()));
    group.bench_function("upkeep", |b| b.iter(|| metrics.upkeep()));
    group.bench_function("counter", |b| b.iter(|| metrics.access_log_dropped.increment(1)));
}
