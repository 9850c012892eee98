//! Tests of `gzip.inflate`. The shim inflates the origin's gzip for a CDN that does not accept gzip. For all other CDNs
//! the shim leaves the body unchanged. If the gzip is invalid or a decompression bomb, the shim truncates the response
//! or sends the error page.

mod support;

use flate2::Compression;
use flate2::write::GzEncoder;
use std::fmt::Write as _;
use std::io::Write as _;
use support::http1::Framing;
use support::{After, Conn, Metrics, Origin, Raw, Request, Response, Shim, origin, raw};

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(plain).expect("a write into memory");
    encoder.finish().expect("a write into memory")
}

fn text(size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(size as u64);
    (0..size).map(|_| b"<p>etaoin shrdlu</p>\n"[random.usize(..21)]).collect()
}

/// Returns the origin's body for a path. Some bodies are invalid gzip.
fn stored(target: &str) -> Vec<u8> {
    match target {
        "/small" => gzip(&text(10)),
        "/empty" => gzip(b""),
        "/page" => gzip(&text(100_000)),
        "/large" => gzip(&text(5_000_000)),
        "/members" => [gzip(&text(70_000)), gzip(b""), gzip(&text(9))].concat(),
        "/nothing" => vec![],
        // The bytes after the gzip member are not another member, although some chunks of 777 bytes start with 0x1f,
        // the first byte of a member.
        "/litter" => [gzip(&text(70_000)), vec![0; 7], vec![0x1f; 5000]].concat(),
        "/padded" => [gzip(&text(70_000)), vec![0; 512]].concat(),
        "/zeros" => gzip(&vec![b'0'; 1 << 20]),
        "/bomb" => gzip(&vec![b'0'; 64 << 20]),
        "/cut" => gzip(&text(100_000))[..5000].to_vec(),
        "/crc" => {
            let mut bytes = gzip(&text(100_000));
            let at = bytes.len() - 6;
            bytes[at] ^= 1;
            bytes
        }
        "/junk" => text(5000),
        other => panic!("no body for {other}"),
    }
}

fn respond_as_requested(request: &Request, conn: &mut Conn) -> After {
    let body = stored(&request.target);
    let mut head = format!(
        "HTTP/1.1 {} X\r\nContent-Type: text/html\r\nETag: \"g\"\r\nAccept-Ranges: bytes\r\nDigest: x=y\r\n\
         Content-Encoding: {}\r\n",
        request.field("x-status").unwrap_or("200"),
        request.field("x-coding").unwrap_or("gzip"),
    );
    let chunked = request.field("x-chunked").is_some();
    let message = if chunked {
        head.push_str("Transfer-Encoding: chunked\r\n\r\n");
        body.chunks(777).flat_map(origin::chunk).chain(*b"0\r\n\r\n").collect()
    } else {
        let _ = write!(head, "Content-Length: {}\r\n\r\n", body.len());
        body
    };
    let body: &[u8] = if request.method == "HEAD" { b"" } else { &message };
    // The origin writes the head and the body with one call. Otherwise the shim could send a response head before the
    // shim receives the invalid gzip.
    if conn.write_all(&[head.as_bytes(), body].concat()).is_ok() { After::Keep } else { After::Close }
}

fn start() -> (Origin, Shim) {
    let origin = Origin::start(respond_as_requested);
    let shim = Shim::start(Shim::config(origin.addr).with("[gzip]\ninflate = true"));
    (origin, shim)
}

fn get(shim: &Shim, target: &str, fields: &[(&str, &str)]) -> Response {
    raw::fetch(shim.addr, target, &[&[("Connection", "close")], fields].concat())
}

#[test]
fn gzip_of_the_origin_when_not_accepted_by_the_cdn_then_inflated() {
    let (_origin, shim) = start();
    for (target, plain) in [
        ("/small", text(10)),
        ("/empty", vec![]),
        ("/page", text(100_000)),
        ("/large", text(5_000_000)),
        ("/members", [text(70_000), text(9)].concat()),
        ("/nothing", vec![]),
        ("/litter", text(70_000)),
        ("/padded", text(70_000)),
        ("/zeros", vec![b'0'; 1 << 20]),
    ] {
        for accept in [&[][..], &[("Accept-Encoding", "identity")], &[("Accept-Encoding", "br, gzip;q=0")]] {
            for framing in [&[][..], &[("X-Chunked", "1")]] {
                let response = get(&shim, target, &[accept, framing].concat());
                assert!(
                    response.complete && response.body == plain,
                    "{target}, {accept:?}: {} bytes",
                    response.body.len()
                );
                assert_eq!(response.field("content-encoding"), None, "{target}");
                assert_eq!(response.field("etag"), Some("W/\"g\""), "the strong tag belongs to the gzip form only");
                assert_eq!(response.fields_named("vary"), ["Accept-Encoding"]);
                assert_eq!((response.field("accept-ranges"), response.field("digest")), (None, None));
                // The length is known only at the end, so the body is chunked. Exception: an empty body has the length
                // 0 in its head.
                let framing = response.framing.expect("framing");
                let is_empty = plain.is_empty() && framing == Framing::Length(0);
                assert!(is_empty || framing == Framing::Chunked, "{target}: {framing:?}");
            }
        }
    }
}

#[test]
fn body_of_the_origin_when_shim_does_not_inflate_then_unchanged_with_vary() {
    let (origin, shim) = start();
    let response = get(&shim, "/page", &[("Accept-Encoding", "gzip")]);
    assert_eq!(response.body, stored("/page"));
    assert_eq!((response.field("etag"), response.field("content-encoding")), (Some("\"g\""), Some("gzip")));
    assert_eq!(response.fields_named("vary"), ["Accept-Encoding"]);
    for (coding, status) in [("br", "200"), ("gzip, gzip", "200"), ("gzip", "206"), ("gzip", "403")] {
        let response = get(&shim, "/page", &[("X-Coding", coding), ("X-Status", status), ("X-Chunked", "1")]);
        assert!(
            response.body == stored("/page") && response.field("content-encoding") == Some(coding),
            "{coding} {status}"
        );
    }
    // The page of edgeshim replaces an error of the origin. The page is not the body of the origin.
    let page = get(&shim, "/page", &[("X-Status", "500"), ("X-Chunked", "1")]);
    assert_eq!((page.status, page.field("content-encoding")), (500, None), "{page:?}");
    assert!(page.complete && page.text().starts_with("<!doctype html>"), "{page:?}");
    let off = Shim::start(Shim::config(origin.addr));
    let response = get(&off, "/page", &[]);
    assert!(response.body == stored("/page") && response.field("etag") == Some("\"g\""));
    assert_eq!(
        response.fields_named("vary"),
        ["Accept-Encoding"],
        "without Vary a cache sends gzip to clients that do not accept gzip"
    );
}

#[test]
fn response_to_head_when_get_would_be_inflated_then_does_not_describe_the_gzip() {
    let (_origin, shim) = start();
    let mut client = Raw::connect(shim.addr);
    client.send(raw::request("HEAD", "/page", &[], b""));
    let head = client.response_to_head().expect("a response");
    for name in ["content-encoding", "content-length", "accept-ranges", "digest"] {
        assert_eq!(head.field(name), None, "{name}");
    }
    assert_eq!((head.field("etag"), head.field("vary")), (Some("W/\"g\""), Some("Accept-Encoding")));
}

#[test]
fn response_when_gzip_is_invalid_or_a_bomb_then_is_truncated_or_a_page_and_counts_as_a_fault() {
    let (_origin, shim) = start();
    let mut faults = 0.0;
    for (target, fails_at_once) in [("/bomb", false), ("/cut", false), ("/crc", false), ("/junk", true)] {
        let mut client = Raw::connect(shim.addr);
        client.send(raw::request("GET", target, &[], b""));
        let response = client.response().expect("a head");
        if fails_at_once {
            // The shim had sent nothing before the failure, so the client gets a 502.
            assert_eq!((response.status, response.complete), (502, true), "{target}");
            assert_eq!(response.field("proxy-status"), Some("edgeshim; error=http_response_incomplete"));
            assert_eq!((response.field("etag"), response.field("cache-control")), (None, Some("no-store")));
        } else {
            assert_eq!((response.status, response.complete), (200, false), "{target}: the response looks complete");
        }
        if target == "/bomb" {
            assert!(
                response.body.len() < 4 << 20,
                "the shim sent {} bytes of the decompression bomb",
                response.body.len()
            );
            assert!(response.body.iter().all(|byte| *byte == b'0'));
        }
        faults += 1.0;
        let counted = shim.metrics().value("edgeshim_origin_faults_total", &[("cause", "cut")]);
        assert!((counted - faults).abs() < 0.5, "{target}: {counted} faults");
    }
    // The pull is counted under the status that was sent, and the shim still serves requests.
    assert!(get(&shim, "/page", &[]).complete);
    let pulls = |metrics: &Metrics, code| {
        let labels = [("code", code), ("class", "other"), ("provider", "none")];
        metrics.count("edgeshim_pulls_total", &labels)
    };
    shim.wait_metrics(|metrics| pulls(metrics, "200") == 4 && pulls(metrics, "502") == 1);
}
