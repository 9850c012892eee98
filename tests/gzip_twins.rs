//! Tests of gzip twins (`gzip.twins`). The second pull of an object needs no compression, because the shim sends the
//! twin. The decoded body must equal the origin's current body. A tag that a CDN sends back must match at the origin,
//! even if the origin compares tags as text.
//!
//! The request decides the origin's response. The target `/SIZE/SEED` selects the text, `X-Tag` is the tag of the
//! response, and each `X-Say` is a header field of the response.

mod support;

use flate2::bufread::GzDecoder;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::time::Duration;
use support::http1::Framing;
use support::{After, Conn, Metrics, Origin, PATIENCE, Raw, Request, Response, Shim, raw, wait_until};

fn text(target: &str) -> Vec<u8> {
    let mut parts = target.split('/').skip(1).map(|part| part.parse::<u64>().expect("a number"));
    let (size, seed) = (parts.next().expect("a size"), parts.next().expect("a seed"));
    let mut random = fastrand::Rng::with_seed(seed);
    let words = ["<p>", "</p>", "the ", "and ", "of ", "a ", "class=\"x\" ", "\n"];
    let mut text = Vec::new();
    while (text.len() as u64) < size {
        text.extend_from_slice(words[random.usize(..words.len())].as_bytes());
    }
    text.truncate(usize::try_from(size).expect("a size"));
    text
}

fn respond_as_requested(request: &Request, conn: &mut Conn) -> After {
    // `X-Body` selects another text, so that two responses can have the same tag and different bodies.
    let body = text(request.field("x-body").unwrap_or(&request.target));
    let mut head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n", body.len());
    for tag in request.fields_named("x-tag") {
        let _ = write!(head, "ETag: {tag}\r\n");
    }
    for field in request.fields_named("x-say") {
        let _ = write!(head, "{field}\r\n");
    }
    head.push_str("\r\n");
    let cut = if request.field("x-cut").is_some() { body.len() / 2 } else { body.len() };
    // The origin writes the head and the body with one call, so that the complete body has arrived when the shim
    // compares the body with the twin.
    let sent = conn.write_all(&[head.as_bytes(), &body[..cut]].concat());
    if request.field("x-cut") == Some("trickle") {
        // The rest of the body is too slow to end during the test, but has no long pause.
        while conn.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    if sent.is_ok() && cut == body.len() { After::Keep } else { After::Close }
}

fn decoded(response: &Response) -> Vec<u8> {
    if response.field("content-encoding") != Some("gzip") {
        return response.body.clone();
    }
    let mut decoder = GzDecoder::new(&response.body[..]);
    let mut plain = Vec::new();
    decoder.read_to_end(&mut plain).expect("one gzip member");
    plain
}

fn twins(shim: &Shim, result: &str) -> f64 {
    shim.metrics().value("edgeshim_gzip_twins_total", &[("result", result)])
}

/// Sends one pull. Returns the response, and whether the shim used a twin.
fn pull(shim: &Shim, target: &str, fields: &[(&str, &str)]) -> (Response, bool) {
    let fields = [&[("Accept-Encoding", "gzip"), ("Connection", "close")], fields].concat();
    let before = twins(shim, "hit");
    let response = raw::fetch(shim.addr, target, &fields);
    let twin = twins(shim, "hit") > before;
    if twin {
        assert_eq!(response.field("content-encoding"), Some("gzip"));
        assert_eq!(
            response.framing,
            Some(Framing::Length(response.body.len() as u64)),
            "the length of a twin must be in the head"
        );
    }
    (response, twin)
}

const TAG: (&str, &str) = ("X-Tag", "\"v1\"");

#[test]
fn second_pull_when_first_pull_was_compressed_then_gets_the_twin() {
    let origin = Origin::start(respond_as_requested);
    let shim = Shim::start(Shim::config(origin.addr));
    for target in ["/256/1", "/5000/1", "/100000/1", "/3000000/1", "/4194304/1"] {
        let (first, twin) = pull(&shim, target, &[TAG]);
        assert!(!twin, "{target}: the first pull got a twin");
        let (second, twin) = pull(&shim, target, &[TAG]);
        assert!(twin, "{target}: the second pull got no twin: {:?}", second.fields);
        assert!(second.body == first.body && decoded(&second) == text(target), "{target}: the bytes differ");
        for name in ["etag", "vary", "content-type", "content-encoding", "accept-ranges", "cache-control"] {
            assert_eq!(first.fields_named(name), second.fields_named(name), "{target}: {name}");
        }
        assert_eq!(second.field("etag"), Some("W/\"v1\""));
        // A pull without gzip gets the plain body.
        let plain = raw::fetch(shim.addr, target, &[("Connection", "close"), TAG]);
        assert!(plain.body == text(target) && plain.field("etag") == Some("\"v1\""));
    }
    let sum: f64 = [256.0, 5000.0, 100_000.0, 3_000_000.0, 4_194_304.0].iter().sum();
    let metrics = shim.metrics();
    let value = |name: &str| metrics.value(name, &[("class", "other")]);
    assert!((value("edgeshim_gzip_input_bytes_total") - 2.0 * sum).abs() < 0.5, "a twin must count like a compression");
    assert!(
        (value("edgeshim_origin_bytes_total") - 3.0 * sum).abs() < 0.5,
        "the shim must read all bytes of the origin"
    );
}

#[test]
fn twin_when_url_host_tag_or_length_differs_then_not_used() {
    let origin = Origin::start(respond_as_requested);
    let shim = Shim::start(Shim::config(origin.addr));
    let _ = pull(&shim, "/5000/1", &[TAG]);
    assert!(pull(&shim, "/5000/1", &[TAG]).1);
    assert!(!pull(&shim, "/5001/1", &[TAG]).1);
    assert!(!pull(&shim, "/5000/1", &[("X-Tag", "\"v2\"")]).1);
    let other_host = raw::request("GET", "/5000/1", &[("Accept-Encoding", "gzip"), TAG], b"");
    let other_host = String::from_utf8(other_host).expect("a request in UTF-8").replace("Host: ", "Host: other.");
    let mut client = Raw::connect(shim.addr);
    client.send(other_host.into_bytes());
    let before = twins(&shim, "hit");
    assert!(client.response().expect("a response").complete);
    assert!(twins(&shim, "hit") <= before);
}

#[test]
fn twin_when_origin_reuses_the_tag_for_other_bytes_then_new_bytes_are_sent() {
    let origin = Origin::start(respond_as_requested);
    let shim = Shim::start(Shim::config(origin.addr));
    for target in ["/300/1", "/100000/1", "/2000000/1"] {
        let other = target.replace("/1", "/2");
        let _ = pull(&shim, target, &[TAG]);
        assert!(pull(&shim, target, &[TAG]).1);
        let (response, twin) = pull(&shim, target, &[TAG, ("X-Body", &other)]);
        assert!(!twin && response.complete && decoded(&response) == text(&other), "{target}");
        assert!(twins(&shim, "changed") > 0.5);
        // The next pull gets the twin of the new bytes.
        let (response, twin) = pull(&shim, target, &[TAG, ("X-Body", &other)]);
        assert!(twin && decoded(&response) == text(&other), "{target}");
    }
}

#[test]
fn twin_when_tag_cache_control_buffering_or_length_forbids_storing_then_not_stored() {
    let origin = Origin::start(respond_as_requested);
    let shim = Shim::start(Shim::config(origin.addr));
    for (target, fields) in [
        ("/5000/1", vec![]),
        ("/5000/2", vec![("X-Tag", "W/\"v1\"")]),
        ("/5000/3", vec![TAG, ("X-Tag", "\"v2\"")]),
        ("/5000/4", vec![TAG, ("X-Say", "Cache-Control: private, max-age=60")]),
        ("/5000/5", vec![TAG, ("X-Say", "Cache-Control: no-store")]),
        ("/5000/6", vec![TAG, ("X-Say", "X-Accel-Buffering: no")]),
        ("/4194305/1", vec![TAG]),
        ("/200/1", vec![TAG]),
    ] {
        for round in 0..3 {
            let (response, twin) = pull(&shim, target, &fields);
            assert!(!twin && decoded(&response) == text(target), "{target}, {fields:?}, pull {round}");
        }
    }
    let off = Shim::start(Shim::config(origin.addr).with("[gzip]\ntwins = \"0\""));
    for _ in 0..3 {
        assert!(!pull(&off, "/5000/1", &[TAG]).1, "a twin was used although twins are turned off");
    }
}

#[test]
fn twin_when_origin_truncates_the_body_then_does_not_hide_the_truncation() {
    let origin = Origin::start(respond_as_requested);
    let shim = Shim::start(Shim::config(origin.addr));
    for target in ["/5000/1", "/1000000/1"] {
        let is_whole = || {
            let mut client = Raw::connect(shim.addr);
            client.send(raw::request("GET", target, &[("Accept-Encoding", "gzip"), TAG, ("X-Cut", "1")], b""));
            // If the shim has read the body ahead, the shim has sent nothing, so the client gets the error page.
            // Otherwise the client gets a truncated body.
            client.response().is_ok_and(|response| response.complete && response.status == 200)
        };
        assert!(!is_whole(), "{target}: the truncated response looks complete");
        assert!(!pull(&shim, target, &[TAG]).1, "{target}: an incomplete twin was stored");
        assert!(pull(&shim, target, &[TAG]).1);
        assert!(!is_whole(), "{target}: the twin hides the truncation");
        assert!(pull(&shim, target, &[TAG]).1, "{target}: the twin was removed");
    }
}

#[test]
fn origin_bytes_when_client_disconnects_during_read_ahead_then_counted_and_logged() {
    let origin = Origin::start(respond_as_requested);
    let shim = Shim::start(Shim::config(origin.addr).with("[access_log]\noutput = \"stdout\""));
    for _ in 0..2 {
        let _ = pull(&shim, "/300000/1", &[TAG]);
    }
    let bytes = |metrics: &Metrics| metrics.value("edgeshim_origin_bytes_total", &[("class", "other")]);
    let mut client = Raw::connect(shim.addr);
    client.send(raw::request("GET", "/300000/1", &[("Accept-Encoding", "gzip"), TAG, ("X-Cut", "trickle")], b""));
    assert!(wait_until(PATIENCE, || origin.bytes_written() > 750_245));
    client.reset();
    let metrics = shim.wait_metrics(|metrics| metrics.has("edgeshim_pulls_total", &[("code", "499")]));
    assert!(bytes(&metrics) > 600_000.5, "only {} bytes were counted", bytes(&metrics));
    assert!(
        metrics.value("edgeshim_origin_seconds_count", &[("class", "other")]) > 2.5,
        "fewer than three heads were counted"
    );
    let logged = || -> f64 {
        let lines = shim.stdout();
        lines
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["origin_bytes"].as_f64())
            .sum()
    };
    assert!(wait_until(PATIENCE, || (logged() - bytes(&metrics)).abs() < 0.5), "{} bytes are logged", logged());
}

#[test]
fn twin_store_when_too_small_for_all_twins_then_bodies_are_correct() {
    let origin = Origin::start(respond_as_requested);
    let shim = Shim::start(Shim::config(origin.addr).with("[gzip]\ntwins = \"64KiB\""));
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..300 {
        let target = format!("/{}/{}", 1000 * random.u32(1..40), random.u32(..3));
        let (response, _) = pull(&shim, &target, &[TAG]);
        assert!(decoded(&response) == text(&target), "{target}");
    }
}

#[test]
fn weak_tag_of_the_origin_when_sent_back_by_a_cdn_then_forwarded_unchanged() {
    // Rack's ConditionalGet compares tags as text. So if the origin's tag has the form `W/"…"`, the shim must forward
    // the tag in this form to get a 304.
    let origin = Origin::start(respond_as_requested);
    let shim = Shim::start(Shim::config(origin.addr));
    let echo = |tag: &str| {
        let _ = pull(&shim, "/5000/1", &[("X-Tag", "\"any\""), ("If-None-Match", tag)]);
        origin.last().fields_named("if-none-match").join(", ")
    };
    assert_eq!(echo("W/\"seen\""), "W/\"seen\"", "an unknown tag");
    assert_eq!(pull(&shim, "/5000/1", &[("X-Tag", "W/\"seen\"")]).0.field("etag"), Some("W/\"seen\""));
    assert_eq!(pull(&shim, "/5000/1", &[("X-Tag", "\"other\"")]).0.field("etag"), Some("W/\"other\""));
    assert_eq!(echo("W/\"seen\""), "W/\"seen\"");
    assert_eq!(echo("W/\"other\", W/\"seen\""), "\"other\", W/\"seen\"");
}
