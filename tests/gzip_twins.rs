//! Ready gzip twins (`gzip.twins`): the second pull of an object is answered without compressing, and never with another body than
//! the origin's; and tags that come back match at the origin, however it compares them.
//!
//! The origin sends the text that `/SIZE/SEED` names, with the tag in `X-Tag` and the fields in `X-Say`.

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

fn obey(request: &Request, conn: &mut Conn) -> After {
    // The body is another one than the target's where the test wants an origin that uses a tag twice.
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
    let sent = conn.write_all(head.as_bytes()).and_then(|()| conn.write_all(&body[..cut]));
    if request.field("x-cut") == Some("trickle") {
        // Too slow to come to an end in time, and never silent for long.
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

/// One pull, and whether the answer was a twin.
fn pull(shim: &Shim, target: &str, fields: &[(&str, &str)]) -> (Response, bool) {
    let fields = [&[("Accept-Encoding", "gzip"), ("Connection", "close")], fields].concat();
    let before = twins(shim, "hit");
    let response = raw::fetch(shim.addr, target, &fields);
    let twin = twins(shim, "hit") > before;
    if twin {
        assert_eq!(response.field("content-encoding"), Some("gzip"));
        assert_eq!(response.framing, Some(Framing::Length(response.body.len() as u64)), "a twin's length is known");
    }
    (response, twin)
}

const TAG: (&str, &str) = ("X-Tag", "\"v1\"");

#[test]
fn second_pull_when_the_first_was_compressed_then_is_its_twin() {
    let origin = Origin::start(obey);
    let shim = Shim::start(Shim::config(origin.addr));
    for target in ["/256/1", "/5000/1", "/100000/1", "/3000000/1", "/4194304/1"] {
        let (first, twin) = pull(&shim, target, &[TAG]);
        assert!(!twin, "{target}: nothing is known of it");
        let (second, twin) = pull(&shim, target, &[TAG]);
        assert!(twin, "{target}: {:?}", second.fields);
        assert!(second.body == first.body && decoded(&second) == text(target), "{target}: other bytes");
        for name in ["etag", "vary", "content-type", "content-encoding", "accept-ranges", "cache-control"] {
            assert_eq!(first.fields_named(name), second.fields_named(name), "{target}: {name}");
        }
        assert_eq!(second.field("etag"), Some("W/\"v1\""));
        // Without gzip it is what it always was.
        let plain = raw::fetch(shim.addr, target, &[("Connection", "close"), TAG]);
        assert!(plain.body == text(target) && plain.field("etag") == Some("\"v1\""));
    }
    let sum: f64 = [256.0, 5000.0, 100_000.0, 3_000_000.0, 4_194_304.0].iter().sum();
    let metrics = shim.metrics();
    let value = |name: &str| metrics.value(name, &[("class", "other")]);
    assert!((value("edgeshim_gzip_input_bytes_total") - 2.0 * sum).abs() < 0.5, "a twin counts like compression");
    assert!((value("edgeshim_origin_bytes_total") - 3.0 * sum).abs() < 0.5, "the origin's bytes are all read");
}

#[test]
fn twin_when_another_url_host_tag_or_length_is_pulled_then_is_not_used() {
    let origin = Origin::start(obey);
    let shim = Shim::start(Shim::config(origin.addr));
    let _ = pull(&shim, "/5000/1", &[TAG]);
    assert!(pull(&shim, "/5000/1", &[TAG]).1);
    assert!(!pull(&shim, "/5001/1", &[TAG]).1);
    assert!(!pull(&shim, "/5000/1", &[("X-Tag", "\"v2\"")]).1);
    let other_host = raw::request("GET", "/5000/1", &[("Accept-Encoding", "gzip"), TAG], b"");
    let other_host = String::from_utf8(other_host).expect("text").replace("Host: ", "Host: other.");
    let mut client = Raw::connect(shim.addr);
    client.send(other_host.into_bytes());
    let before = twins(&shim, "hit");
    assert!(client.response().expect("a response").complete);
    assert!(twins(&shim, "hit") <= before);
}

#[test]
fn twin_when_the_origin_uses_its_tag_for_other_bytes_then_the_new_bytes_are_sent() {
    let origin = Origin::start(obey);
    let shim = Shim::start(Shim::config(origin.addr));
    for target in ["/300/1", "/100000/1", "/2000000/1"] {
        let other = target.replace("/1", "/2");
        let _ = pull(&shim, target, &[TAG]);
        assert!(pull(&shim, target, &[TAG]).1);
        let (response, twin) = pull(&shim, target, &[TAG, ("X-Body", &other)]);
        assert!(!twin && response.complete && decoded(&response) == text(&other), "{target}");
        assert!(twins(&shim, "changed") > 0.5);
        // And from now on those are known.
        let (response, twin) = pull(&shim, target, &[TAG, ("X-Body", &other)]);
        assert!(twin && decoded(&response) == text(&other), "{target}");
    }
}

#[test]
fn twin_when_the_body_is_private_unbuffered_weakly_tagged_or_too_long_then_is_not_made() {
    let origin = Origin::start(obey);
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
        assert!(!pull(&off, "/5000/1", &[TAG]).1, "off");
    }
}

#[test]
fn twin_when_the_origin_breaks_its_body_off_then_the_answer_is_cut() {
    let origin = Origin::start(obey);
    let shim = Shim::start(Shim::config(origin.addr));
    for target in ["/5000/1", "/1000000/1"] {
        let is_whole = || {
            let mut client = Raw::connect(shim.addr);
            client.send(raw::request("GET", target, &[("Accept-Encoding", "gzip"), TAG, ("X-Cut", "1")], b""));
            // Read ahead: nothing has been sent yet, and the client gets the page. Else the body is cut.
            client.response().is_ok_and(|response| response.complete && response.status == 200)
        };
        assert!(!is_whole(), "{target}");
        assert!(!pull(&shim, target, &[TAG]).1, "{target}: a twin in the making was kept");
        assert!(pull(&shim, target, &[TAG]).1);
        assert!(!is_whole(), "{target}: the twin in its place");
        assert!(pull(&shim, target, &[TAG]).1, "{target}: the twin is still good");
    }
}

#[test]
fn body_when_the_visitor_leaves_while_it_is_read_ahead_then_its_bytes_are_counted_and_logged() {
    let origin = Origin::start(obey);
    let shim = Shim::start(Shim::config(origin.addr).with("[access_log]\noutput = \"stdout\""));
    for _ in 0..2 {
        let _ = pull(&shim, "/300000/1", &[TAG]);
    }
    let bytes = |metrics: &Metrics| metrics.value("edgeshim_origin_bytes_total", &[("class", "other")]);
    let mut visitor = Raw::connect(shim.addr);
    visitor.send(raw::request("GET", "/300000/1", &[("Accept-Encoding", "gzip"), TAG, ("X-Cut", "trickle")], b""));
    assert!(wait_until(PATIENCE, || origin.bytes_written() > 750_245));
    visitor.reset();
    let metrics = shim.wait_metrics(|metrics| metrics.has("edgeshim_pulls_total", &[("code", "499")]));
    assert!(bytes(&metrics) > 600_000.5, "{} after a visitor who left", bytes(&metrics));
    assert!(metrics.value("edgeshim_origin_seconds_count", &[("class", "other")]) > 2.5, "three heads have come");
    let logged = || -> f64 {
        let lines = shim.stdout();
        lines
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["origin_bytes"].as_f64())
            .sum()
    };
    assert!(wait_until(PATIENCE, || (logged() - bytes(&metrics)).abs() < 0.5), "{} are logged", logged());
}

#[test]
fn store_when_it_is_small_then_bodies_are_right_all_the_same() {
    let origin = Origin::start(obey);
    let shim = Shim::start(Shim::config(origin.addr).with("[gzip]\ntwins = \"64KiB\""));
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..300 {
        let target = format!("/{}/{}", 1000 * random.u32(1..40), random.u32(..3));
        let (response, _) = pull(&shim, &target, &[TAG]);
        assert!(decoded(&response) == text(&target), "{target}");
    }
}

#[test]
fn weak_tag_when_the_origin_itself_sends_it_then_comes_back_as_it_was() {
    // Rack's ConditionalGet compares texts: W/"…" must come back as W/"…", or there is never a 304.
    let origin = Origin::start(obey);
    let shim = Shim::start(Shim::config(origin.addr));
    let echo = |tag: &str| {
        let _ = pull(&shim, "/5000/1", &[("X-Tag", "\"any\""), ("If-None-Match", tag)]);
        origin.last().fields_named("if-none-match").join(", ")
    };
    assert_eq!(echo("W/\"seen\""), "W/\"seen\"", "nothing is known of it");
    assert_eq!(pull(&shim, "/5000/1", &[("X-Tag", "W/\"seen\"")]).0.field("etag"), Some("W/\"seen\""));
    assert_eq!(pull(&shim, "/5000/1", &[("X-Tag", "\"other\"")]).0.field("etag"), Some("W/\"other\""));
    assert_eq!(echo("W/\"seen\""), "W/\"seen\"");
    assert_eq!(echo("W/\"other\", W/\"seen\""), "\"other\", W/\"seen\"");
}
