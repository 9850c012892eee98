//! Compression: the check of Accept-Encoding, a page that is compressed for each pull, and a page whose compressed body
//! is stored.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use edgeshim::internals::gzip_acceptance;
use http::{HeaderMap, HeaderValue};

use crate::shim::{Client, is_complete, response};

const PULL: &[u8] =
    b"GET /page.html HTTP/1.1\r\nHost: www.example.com\r\nX-CDN-Provider: fastly\r\nAccept-Encoding: gzip\r\n\r\n";

/// A page of 100 KiB that compresses about as well as real pages.
fn page() -> Vec<u8> {
    let text = include_str!("../../src/ARCHITECTURE.md");
    let lines = text.lines().cycle().enumerate();
    let paragraphs = lines.map(|(number, line)| format!("<p class=\"text\" id=\"p{number}\">{line}</p>\n"));
    paragraphs.flat_map(String::into_bytes).take(100 * 1024).collect()
}

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("gzip");
    let mut headers = HeaderMap::new();
    headers.insert("accept-encoding", HeaderValue::from_static("br;q=1.0, gzip;q=0.8, *;q=0.1"));
    group.bench_function("accept-encoding", |b| b.iter(|| gzip_acceptance(black_box(&headers))));

    let page = page();
    group.throughput(Throughput::Bytes(page.len() as u64));
    for (name, twins) in [("compress 100 KiB", "0"), ("stored 100 KiB", "64MiB")] {
        let mut client = Client::new(response("200 OK", &page), &format!("[gzip]\ntwins = \"{twins}\"\n"));
        let size = client.pull(PULL, is_complete);
        assert!(size < page.len() / 2, "the page is not compressed: {size} bytes");
        group.bench_function(name, |b| b.iter(|| client.pull(PULL, is_complete)));
    }
}
