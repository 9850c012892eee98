//! The caching rules: from the header fields of the origin's response to the fields that a CDN gets.

use std::hint::black_box;
use std::time::SystemTime;

use criterion::{BatchSize, Criterion};
use edgeshim::internals::{CacheControl, CacheMode, CachePolicy, Dialect, Facts, Prepared, names};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

const CONTRADICTORY: &[&str] = &["private, max-age=0, must-revalidate", "public, s-maxage=60, stale-if-error=3600"];

fn response(lines: &[&'static str], set_cookie: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(&names::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    headers.insert(&names::EXPIRES, HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"));
    for line in lines {
        headers.append(&names::CACHE_CONTROL, HeaderValue::from_static(line));
    }
    if set_cookie {
        headers.insert(&names::SET_COOKIE, HeaderValue::from_static("session=1; Path=/; HttpOnly"));
    }
    headers
}

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache_control");
    group.bench_function("parse and write", |b| {
        b.iter(|| {
            let mut parsed = CacheControl::parse(black_box(CONTRADICTORY).iter().map(|line| line.as_bytes()));
            parsed.settle();
            parsed.settled_value()
        });
    });
    let rule = |mode| CachePolicy { mode, ttl: Some(5), edge_ttl: Some(3600), ..CachePolicy::default() };
    let facts = Facts { method: &Method::GET, authorization: false, assigned: false, now: SystemTime::now };
    for (name, mode, headers) in [
        ("keep, one line", CacheMode::Keep, response(&["max-age=60"], false)),
        ("keep, contradictory lines", CacheMode::Keep, response(CONTRADICTORY, false)),
        ("override", CacheMode::Override, response(&["max-age=60"], false)),
        ("override, Set-Cookie", CacheMode::Override, response(&["max-age=60"], true)),
    ] {
        let prepared = Prepared::new(&rule(mode), Dialect::Fastly);
        group.bench_function(name, |b| {
            let apply = |headers: &mut HeaderMap| prepared.apply(headers, StatusCode::OK, &facts);
            b.iter_batched_ref(|| headers.clone(), apply, BatchSize::SmallInput);
        });
    }
}
