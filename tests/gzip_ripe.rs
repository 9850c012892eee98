//! Tests of ripe twins (`gzip.ripen`). After the first use of a twin, the shim compresses the object again in the
//! background. Later pulls get br if they accept it, and otherwise a smaller gzip body.
//!
//! `X-Body` selects the text of the origin's response: `SIZE/SEED`. The target does not select the text, so two
//! responses with one tag can have different bodies.

mod support;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use flate2::bufread::GzDecoder;
use support::http1::Framing;
use support::{After, Conn, Origin, Request, Response, Shim, raw, wait_until};

/// The thread that makes twins ripe has the lowest priority, so other tests can delay the thread for a long time.
const LONG: Duration = Duration::from_mins(3);

fn text(of: &str) -> Vec<u8> {
    let (size, seed) = of.split_once('/').expect("SIZE/SEED");
    let mut random = fastrand::Rng::with_seed(seed.parse().expect("a seed"));
    let words = ["<p>", "</p>", "the ", "and ", "of ", "a ", "class=\"x\" ", "\n"];
    let mut text = Vec::new();
    let size = size.parse().expect("a size");
    while text.len() < size {
        text.extend_from_slice(words[random.usize(..words.len())].as_bytes());
    }
    text.truncate(size);
    text
}

fn respond_as_requested(request: &Request, conn: &mut Conn) -> After {
    if request.field("if-none-match") == Some("\"v1\"") {
        let head = "HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n";
        return if conn.write_all(head.as_bytes()).is_ok() { After::Keep } else { After::Close };
    }
    let body = text(request.field("x-body").unwrap_or(SMALL));
    let private = if request.field("x-private").is_some() { "Cache-Control: private\r\n" } else { "" };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nETag: \"v1\"\r\n{private}\r\n"
    );
    let body = if request.method == "HEAD" { &[][..] } else { &body };
    let sent = conn.write_all(&[head.as_bytes(), body].concat());
    if sent.is_ok() { After::Keep } else { After::Close }
}

const SMALL: &str = "5000/1";

fn decoded(response: &Response) -> Vec<u8> {
    let mut plain = Vec::new();
    match response.field("content-encoding") {
        None => plain.clone_from(&response.body),
        Some("gzip") => {
            GzDecoder::new(&response.body[..]).read_to_end(&mut plain).expect("one gzip member");
        }
        Some("br") => {
            brotli::Decompressor::new(&response.body[..], 4096).read_to_end(&mut plain).expect("one brotli stream");
        }
        other => panic!("the coding {other:?} was not requested"),
    }
    plain
}

fn pull(shim: &Shim, fields: &[(&str, &str)]) -> Response {
    let response = raw::fetch(shim.addr, "/page", &[&[("Connection", "close")], fields].concat());
    assert!(response.complete, "{fields:?}: the response is truncated");
    response
}

fn ripened(shim: &Shim, coding: &str) -> u64 {
    shim.metrics().count("edgeshim_twins_ripened_total", &[("coding", coding)])
}

/// Pulls the text twice and waits until its twin is ripe. Returns the first response.
fn ripen(shim: &Shim, fields: &[(&str, &str)]) -> Response {
    let (br, gzip) = (ripened(shim, "br"), ripened(shim, "gzip"));
    let fields = [&[("Accept-Encoding", "gzip")], fields].concat();
    let first = pull(shim, &fields);
    assert_eq!(first.field("content-encoding"), Some("gzip"));
    assert!(pull(shim, &fields).body == first.body, "the second pull got another twin than the first pull made");
    let is_ripe = || ripened(shim, "br") > br && ripened(shim, "gzip") > gzip;
    assert!(wait_until(LONG, is_ripe), "the twin is not ripe: {}", shim.stderr());
    first
}

#[test]
fn pull_when_twin_is_ripe_then_gets_the_coding_with_the_highest_weight() {
    let origin = Origin::start(respond_as_requested);
    let shim = Shim::start(Shim::config(origin.addr).with("[access_log]\noutput = \"stdout\""));
    for body in ["1000/1", SMALL, "70000/1"] {
        let first = ripen(&shim, &[("X-Body", body)]);
        for (accepted, coding) in [
            (Some("gzip"), Some("gzip")),
            (Some("br, gzip"), Some("br")),
            (Some("gzip, br"), Some("br")),
            (Some("zstd, br, gzip"), Some("br")),
            (Some("br;q=0.5, gzip;q=0.5"), Some("br")),
            (Some("br;q=0.5, gzip"), Some("gzip")),
            (Some("br;q=0, gzip"), Some("gzip")),
            (Some("br;q=x, gzip"), Some("gzip")),
            (Some("br"), Some("br")),
            (Some("BR"), Some("br")),
            (Some("gzip;q=0, br"), Some("br")),
            (Some("br, identity;q=0.5"), Some("br")),
            (Some("br;q=0.5, identity"), None),
            (Some("br;q=0"), None),
            (Some("*"), Some("br")),
            (Some("*;q=0.1, gzip"), Some("gzip")),
            (Some("identity"), None),
            (Some("zstd"), None),
            (None, None),
        ] {
            let fields: Vec<_> = accepted.map(|accepted| ("Accept-Encoding", accepted)).into_iter().collect();
            let fields = [&fields[..], &[("X-Body", body)]].concat();
            let response = pull(&shim, &fields);
            assert_eq!(response.field("content-encoding"), coding, "{body} {accepted:?}");
            assert!(decoded(&response) == text(body), "{body} {accepted:?}: the bytes differ");
            let tag = if coding.is_some() { "W/\"v1\"" } else { "\"v1\"" };
            assert_eq!(response.fields_named("etag"), [tag], "{accepted:?}");
            assert_eq!(response.fields_named("vary"), ["Accept-Encoding"], "{accepted:?}");
            assert_eq!(response.framing, Some(Framing::Length(response.body.len() as u64)), "{accepted:?}");
            if coding.is_some() {
                assert!(response.body.len() < first.body.len(), "{body} {accepted:?}: the ripe twin is not smaller");
            }
            let host = shim.addr.to_string();
            let fields = [&fields[..], &[("Host", host.as_str())]].concat();
            let head = raw::exchange(shim.addr, raw::request("HEAD", "/page", &fields, b""));
            for name in ["content-encoding", "etag", "vary"] {
                assert_eq!(head.field(name), response.field(name), "HEAD {accepted:?}: {name}");
            }
        }
    }
    assert!(wait_until(LONG, || shim.stdout().contains("\"encoding\":\"br\"")), "{}", shim.stdout());
}

#[test]
fn conditions_and_ranges_when_twin_is_ripe_then_handled_as_without_br() {
    let origin = Origin::start(respond_as_requested);
    let shim = Shim::start(Shim::config(origin.addr));
    let _ = ripen(&shim, &[]);
    for (accepted, named, tag) in [
        ("br, gzip", "W/\"v1\"", "W/\"v1\""),
        ("br, gzip", "\"v1\"", "W/\"v1\""),
        ("gzip", "W/\"v1\"", "W/\"v1\""),
        ("br", "W/\"v1\"", "W/\"v1\""),
        ("br", "\"v1\"", "\"v1\""),
        ("identity", "\"v1\"", "\"v1\""),
    ] {
        let response = pull(&shim, &[("Accept-Encoding", accepted), ("If-None-Match", named)]);
        assert_eq!((response.status, response.field("etag")), (304, Some(tag)), "{accepted} {named}");
        assert_eq!(response.field("vary"), Some("Accept-Encoding"), "{accepted} {named}");
        assert_eq!(origin.last().field("if-none-match"), Some("\"v1\""), "{accepted} {named}");
    }
    for accepted in ["br, gzip", "br"] {
        let response = pull(&shim, &[("Accept-Encoding", accepted), ("Range", "bytes=0-9")]);
        assert_eq!(response.field("content-encoding"), None, "{accepted}");
        assert!(response.body == text(SMALL), "{accepted}: the bytes differ");
    }
}

#[test]
fn ripe_twin_when_origin_changes_the_body_under_the_same_tag_then_new_bytes_are_sent() {
    let origin = Origin::start(respond_as_requested);
    for accepted in ["br, gzip", "br", "gzip"] {
        let shim = Shim::start(Shim::config(origin.addr));
        let _ = ripen(&shim, &[("X-Body", "5000/1")]);
        let changed = shim.metrics().count("edgeshim_gzip_twins_total", &[("result", "changed")]);
        let response = pull(&shim, &[("Accept-Encoding", accepted), ("X-Body", "5000/2")]);
        assert_ne!(response.field("content-encoding"), Some("br"), "{accepted}");
        assert!(decoded(&response) == text("5000/2"), "{accepted}: the bytes differ");
        assert_eq!(shim.metrics().count("edgeshim_gzip_twins_total", &[("result", "changed")]), changed + 1);
        // The twin of the old bytes was replaced, so the old bytes get no br either.
        let response = pull(&shim, &[("Accept-Encoding", "br"), ("X-Body", "5000/1")]);
        assert_eq!(response.field("content-encoding"), None, "{accepted}");
        assert!(decoded(&response) == text("5000/1"), "{accepted}: the bytes differ");
    }
}

#[test]
fn private_response_when_public_twin_is_ripe_then_gets_no_br() {
    let origin = Origin::start(respond_as_requested);
    let shim = Shim::start(Shim::config(origin.addr));
    let _ = ripen(&shim, &[]);
    let response = pull(&shim, &[("Accept-Encoding", "br, gzip"), ("X-Private", "1")]);
    assert_eq!(response.field("content-encoding"), Some("gzip"));
}

#[test]
fn br_when_preset_or_configuration_forbids_it_then_not_sent() {
    let origin = Origin::start(respond_as_requested);
    let providers =
        "[[provider]]\nname = \"gcore\"\n[[provider]]\nname = \"akamai\"\n[[provider]]\nname = \"cloudflare\"";
    let shim = Shim::start(Shim::config(origin.addr).with(providers));
    let _ = ripen(&shim, &[]);
    let from = |provider, accepted| {
        let response = pull(&shim, &[("X-CDN-Provider", provider), ("Accept-Encoding", accepted)]);
        assert!(decoded(&response) == text(SMALL), "{provider} {accepted}: the bytes differ");
        (response.field("content-encoding").map(str::to_owned), response.field("vary").is_some())
    };
    let coding = |name: &str| Some(name.to_owned());
    assert_eq!(from("gcore", "br, gzip"), (coding("gzip"), true));
    assert_eq!(from("gcore", "br"), (None, true));
    assert_eq!(from("cloudflare", "br, gzip"), (coding("br"), true));
    // Akamai stores a response with Vary only if the body has a coding.
    assert_eq!(from("akamai", "br, gzip"), (coding("br"), true));
    assert_eq!(from("akamai", "br"), (coding("br"), true));
    assert_eq!(from("akamai", "identity"), (None, false));

    let off = Shim::start(Shim::config(origin.addr).with("[gzip]\nripen = false"));
    for _ in 0..3 {
        let response = pull(&off, &[("Accept-Encoding", "br, gzip")]);
        assert_eq!(response.field("content-encoding"), Some("gzip"));
    }
    assert_eq!(threads(&off), Vec::<i64>::new());
}

/// Returns the nice values of the threads that make twins ripe.
fn threads(shim: &Shim) -> Vec<i64> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", shim.pid)).expect("a running shim");
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let nice = |stat: &str| stat.rsplit(')').next()?.split_whitespace().nth(16)?.parse().ok();
    stats.filter(|stat| stat.contains("(ripener)")).filter_map(|stat| nice(&stat)).collect()
}

#[test]
fn ripening_thread_when_twin_was_used_then_has_lowest_priority_and_ends_with_its_configuration() {
    let origin = Origin::start(respond_as_requested);
    let mut shim = Shim::start(Shim::config(origin.addr));
    let _ = pull(&shim, &[("Accept-Encoding", "gzip")]);
    assert_eq!(threads(&shim), Vec::<i64>::new(), "the first pull has started the thread");
    let _ = ripen(&shim, &[]);
    assert_eq!(threads(&shim), [19]);
    // The thread works on a long body at the time of the reload.
    for _ in 0..2 {
        let _ = pull(&shim, &[("Accept-Encoding", "gzip"), ("X-Body", "2000000/1")]);
    }
    shim.reload(Shim::config(origin.addr).with("[gzip]\nlevel = 4"));
    let is_gone = || {
        let _ = pull(&shim, &[("X-Body", SMALL)]);
        threads(&shim).is_empty()
    };
    assert!(wait_until(LONG, is_gone), "the thread of the old configuration still runs");
    for _ in 0..2 {
        let _ = pull(&shim, &[("Accept-Encoding", "gzip"), ("X-Body", "2000000/1")]);
    }
    assert!(wait_until(LONG, || threads(&shim) == [19]), "the new configuration has no thread");
    shim.signal("TERM");
    assert!(shim.wait_exit(Duration::from_secs(20)).success());
}
