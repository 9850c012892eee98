//! The decision about the provider: by the identity header, by the signals of the presets, and without either.

use std::hint::black_box;

use criterion::Criterion;
use edgeshim::internals::identifier;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::shim;

const BROWSER: &[(&str, &str)] = &[
    ("host", "www.example.com"),
    ("accept", "text/html,*/*;q=0.8"),
    ("accept-encoding", "gzip"),
    ("accept-language", "de-CH,de;q=0.9,en;q=0.5"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("x-forwarded-for", "203.0.113.7, 192.0.2.1"),
];
const FASTLY: &[(&str, &str)] =
    &[("fastly-ff", "a1b2c3!LHR!cache-lhr-1"), ("fastly-client-ip", "203.0.113.7"), ("cdn-loop", "Fastly")];
const CHAIN: &[(&str, &str)] =
    &[("fastly-ff", "a1b2c3!LHR!cache-lhr-1"), ("cf-ray", "8a1b2c3d4e5f6071-LHR"), ("cdn-loop", "Fastly, cloudflare")];

fn headers(fields: &[&[(&'static str, &'static str)]]) -> HeaderMap {
    let fields = fields.iter().copied().flatten();
    fields.map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("identify");
    let identify = identifier(&shim::runtime(shim::nobody(), ""));
    for (name, fields) in [
        ("named", headers(&[BROWSER, FASTLY, &[("x-cdn-provider", "fastly")]])),
        ("recognised", headers(&[BROWSER, FASTLY])),
        ("chain of two CDNs", headers(&[BROWSER, CHAIN])),
        ("neither header nor signal", headers(&[BROWSER])),
    ] {
        group.bench_function(name, |b| b.iter(|| identify(black_box(&fields))));
    }
}
