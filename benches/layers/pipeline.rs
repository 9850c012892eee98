//! Complete pulls through all layers, each benchmark on one persistent connection.

use criterion::Criterion;

use crate::shim::{Client, has_length, response};

const SMALL: &[u8] = b"GET /a.jpg HTTP/1.1\r\nHost: www.example.com\r\nX-CDN-Provider: fastly\r\n\r\n";
const RICH: &[u8] = b"GET /a.jpg HTTP/1.1\r\nHost: www.example.com\r\nX-CDN-Provider: fastly\r\nAccept: text/html\r\n\
Accept-Language: de-CH,de;q=0.9\r\nAccept-Encoding: gzip\r\nUser-Agent: bench\r\nX-Request-Id: 0123456789abcdef\r\n\
traceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01\r\nX-Forwarded-For: 203.0.113.7, 192.0.2.1\r\n\
Fastly-FF: a!LHR!cache-1\r\nFastly-Client-IP: 203.0.113.7\r\nVia: 1.1 varnish\r\nCDN-Loop: Fastly\r\n\r\n";
const CLASS: &str = "[[class]]\nname = \"image\"\npath = [\"*.jpg\"]\n\
cache = { mode = \"override\", ttl = \"60s\", edge_ttl = \"1h\" }\n";

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    for (name, status, pull, bytes) in [
        ("small pull", "200 OK", SMALL, 1024),
        ("rich pull", "200 OK", RICH, 1024),
        ("pull of 64 KiB", "200 OK", SMALL, 64 * 1024),
        ("whoopsie page", "503 Service Unavailable", SMALL, 64),
    ] {
        let mut client = Client::new(response(status, &vec![b'x'; bytes]), CLASS);
        group.bench_function(name, |b| b.iter(|| client.pull(pull, has_length)));
    }
}
