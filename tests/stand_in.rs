//! Tests of the stand-in: which requests it gets, in which form, which parts of its response reach the CDN, and which
//! metrics count these requests.

mod support;

use support::origin::{ClosedPort, fixed, hang_up, reset, respond};
use support::raw::{exchange, fetch, request};
use support::{After, Config, Conn, Origin, Raw, Request, Response, Shim};

const STAND_IN: &str = "edgeshim_stand_in_total";
const FAULTS: &str = "edgeshim_origin_faults_total";
const PULLS: &str = "edgeshim_pulls_total";
const PAGE: &str = "<p>the page of the mirror</p>";

const CLASSES: &str = "
[[class]]
name = \"long\"
path = [\"/long/**\"]
cache = { mode = \"override\", ttl = \"365d\", edge_ttl = \"365d\", stale_if_error = \"7d\", error_ttl = \"7s\" }
[[class]]
name = \"never\"
path = [\"/never/**\"]
cache = { mode = \"never\" }
whoopsie = \"never\"
[[provider]]
name = \"fastly\"
";

/// A mirror that sends a page with the fields of an old copy. `/missing` is not in the mirror.
fn mirror() -> Origin {
    Origin::start(|request, conn| {
        if request.target == "/missing" {
            return respond(request, conn, 404, &[], b"not in the mirror");
        }
        let fields = [
            ("Content-Type", "text/html"),
            ("ETag", "\"copy\""),
            ("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"),
            ("Age", "86400"),
            ("Accept-Ranges", "bytes"),
            ("Cache-Control", "public, max-age=31536000, stale-if-error=86400"),
            ("Surrogate-Control", "max-age=31536000"),
        ];
        respond(request, conn, 200, &fields, PAGE.as_bytes())
    })
}

fn config(origin: impl std::fmt::Display, mirror: &Origin) -> Config {
    let keys = format!("[origin]\nretries = 0\nstand_in = \"{}\"", mirror.url());
    Shim::config(origin).with(&keys).with(CLASSES)
}

fn asked(shim: &Shim) -> [u64; 2] {
    let metrics = shim.metrics();
    ["served", "failed"].map(|result| metrics.count(STAND_IN, &[("result", result)]))
}

fn check_page(response: &Response) {
    assert_eq!((response.status, response.text().as_str()), (200, PAGE), "{response:?}");
    for name in ["age", "etag", "last-modified", "accept-ranges", "expires"] {
        assert_eq!(response.field(name), None, "{name} of the mirror was sent: {response:?}");
    }
}

// ---- when the stand-in is asked -------------------------------------------------------------------------------------

#[test]
fn stand_in_when_origin_has_a_fault_or_a_5xx_then_page_of_mirror_is_served() {
    let (mirror, closed) = (mirror(), ClosedPort::new());
    let origins =
        [Origin::start(hang_up()), Origin::start(reset()), Origin::start(fixed(503, &[("Retry-After", "60")], "down"))];
    let [closing, resetting, failing] = origins.each_ref().map(Origin::url);
    let failing: [(String, &str, u64); 4] =
        [(closed.addr.to_string(), "refused", 1), (closing, "closed", 1), (resetting, "reset", 1), (failing, "", 0)];
    for (origin, cause, faults) in failing {
        let shim = Shim::start(config(origin, &mirror));
        assert_eq!(asked(&shim), [0, 0]);
        check_page(&fetch(shim.addr, "/a", &[]));
        assert_eq!(asked(&shim), [1, 0], "{cause}");
        let metrics = shim.wait_metrics(|now| now.count(PULLS, &[]) == 1);
        assert_eq!(metrics.count(PULLS, &[("code", "200")]), 1);
        assert_eq!(metrics.count(FAULTS, &[]), faults, "the fault of the origin must be counted");
        if faults > 0 {
            assert_eq!(metrics.count(FAULTS, &[("cause", cause)]), 1);
        }
        assert_eq!(metrics.count("edgeshim_whoopsies_total", &[]), 0);
        assert_eq!(metrics.count("edgeshim_cache_guards_total", &[("guard", "error")]), 0);
    }
}

#[test]
fn stand_in_when_origin_responds_or_method_is_not_get_or_head_then_not_asked() {
    let mirror = mirror();
    let origin = Origin::start(fixed(404, &[], "not here"));
    let shim = Shim::start(config(origin.url(), &mirror));
    assert_eq!(fetch(shim.addr, "/a", &[]).status, 404);
    let closed = ClosedPort::new();
    let shim = Shim::start(config(closed.addr, &mirror));
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let response = exchange(shim.addr, request(method, "/a", &[], b""));
        assert_eq!((method, response.status), (method, 502));
    }
    let upgrade = exchange(shim.addr, support::raw::upgrade("websocket"));
    assert_eq!(upgrade.status, 502);
    assert_eq!((mirror.requests().len(), asked(&shim)), (0, [0, 0]));
}

#[test]
fn stand_in_when_request_is_shed_then_not_asked() {
    let mirror = mirror();
    let gate = support::Gate::default();
    let held = gate.clone();
    let origin = Origin::start(move |request: &Request, conn: &mut Conn| {
        held.wait();
        respond(request, conn, 200, &[], b"slow")
    });
    let shim = Shim::start(config(origin.url(), &mirror).with("[origin]\nmax_in_flight = 1"));
    let mut first = Raw::connect(shim.addr);
    first.send(support::raw::get("/first"));
    assert!(support::wait_until(support::PATIENCE, || origin.requests().len() == 1));
    let shed = fetch(shim.addr, "/second", &[]);
    assert_eq!((shed.status, shed.field("proxy-status")), (503, Some("edgeshim; error=connection_limit_reached")));
    gate.open();
    assert_eq!(first.response().expect("a response").status, 200);
    assert_eq!((mirror.requests().len(), asked(&shim)), (0, [0, 0]));
}

// ---- what the stand-in is asked -------------------------------------------------------------------------------------

#[test]
fn stand_in_request_when_client_sends_range_and_credentials_then_omits_these_fields() {
    let (mirror, closed) = (mirror(), ClosedPort::new());
    let shim = Shim::start(config(closed.addr, &mirror));
    let fields = [
        ("Range", "bytes=0-3"),
        ("If-Range", "\"copy\""),
        ("If-None-Match", "\"copy\""),
        ("If-Modified-Since", "Mon, 01 Jan 2035 00:00:00 GMT"),
        ("Cookie", "session=secret"),
        ("Authorization", "Basic c2VjcmV0"),
        ("X-Request-Id", "an-id"),
    ];
    check_page(&fetch(shim.addr, "/dir/page?x=1", &fields));
    let head = exchange(shim.addr, request("HEAD", "/dir/page", &[], b""));
    assert_eq!((head.status, head.body.len(), head.field("etag")), (200, 0, None));
    let asked = mirror.requests();
    assert_eq!((asked[0].method.as_str(), asked[0].target.as_str()), ("GET", "/dir/page?x=1"));
    assert_eq!(asked[1].method, "HEAD");
    for name in ["range", "if-range", "if-none-match", "if-modified-since", "cookie", "authorization"] {
        assert_eq!(asked[0].field(name), None, "{name}");
    }
    assert_eq!(asked[0].field("x-request-id"), Some("an-id"));
    assert_eq!(asked[0].field("host"), mirror.url().strip_prefix("http://"));
    assert_eq!(asked[0].field("x-forwarded-host"), Some(shim.addr.to_string().as_str()));
    assert!(asked.iter().all(|request| request.problems.is_empty()), "{asked:?}");
}

// ---- what reaches the CDN -------------------------------------------------------------------------------------------

#[test]
fn stand_in_response_when_class_or_mirror_lifetime_is_long_then_error_ttl_limits_lifetime() {
    let (mirror, closed) = (mirror(), ClosedPort::new());
    let shim = Shim::start(config(closed.addr, &mirror));
    let fastly = [("X-CDN-Provider", "fastly")];
    for (target, provider, cache_control, surrogate) in [
        ("/a", &[][..], "public, max-age=10", None),
        ("/a", &fastly, "public, max-age=10", None),
        ("/long/a", &[], "max-age=7, s-maxage=7", None),
        ("/long/a", &fastly, "max-age=7", Some("max-age=7")),
        ("/never/a", &[], "no-store", None),
        ("/never/a", &fastly, "no-store", Some("no-store")),
    ] {
        let response = fetch(shim.addr, target, provider);
        check_page(&response);
        assert_eq!(response.fields_named("cache-control"), [cache_control], "{target} {provider:?}");
        assert_eq!(response.field("surrogate-control"), surrogate, "{target} {provider:?}");
    }
}

#[test]
fn stand_in_response_when_client_accepts_gzip_then_compressed() {
    let closed = ClosedPort::new();
    let text = "a page of the mirror. ".repeat(100);
    let mirror = Origin::start(fixed(200, &[("Content-Type", "text/html"), ("ETag", "\"copy\"")], text.clone()));
    let shim = Shim::start(config(closed.addr, &mirror));
    let response = fetch(shim.addr, "/a", &[("Accept-Encoding", "gzip")]);
    assert_eq!(
        (response.status, response.field("content-encoding"), response.field("etag")),
        (200, Some("gzip"), None)
    );
    let mut inflated = String::new();
    let mut decoder = flate2::read::GzDecoder::new(response.body.as_slice());
    std::io::Read::read_to_string(&mut decoder, &mut inflated).expect("valid gzip");
    assert_eq!(inflated, text);
}

#[test]
fn stand_in_body_when_truncated_then_client_sees_the_truncation() {
    let closed = ClosedPort::new();
    let mirror = Origin::start(|_: &Request, conn: &mut Conn| {
        use std::io::Write as _;
        let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 500000\r\n\r\n");
        let _ = conn.write_all(&vec![b'x'; 300_000]);
        After::Close
    });
    let shim = Shim::start(config(closed.addr, &mirror));
    let response = fetch(shim.addr, "/a.png", &[]);
    assert!(response.status == 200 && !response.complete, "{} {}", response.status, response.complete);
    let metrics = shim.wait_metrics(|now| now.count(PULLS, &[("code", "200")]) == 1);
    assert_eq!(metrics.count(FAULTS, &[]), 1, "only the refused connection is a fault of the origin");
    assert_eq!(metrics.count("edgeshim_origin_bytes_total", &[]), 0, "the mirror's bytes are not the origin's");
}

// ---- failures of the stand-in ---------------------------------------------------------------------------------------

#[test]
fn stand_in_when_failing_then_client_gets_the_page_with_the_first_fault() {
    let (mirror, closed, dead) = (mirror(), ClosedPort::new(), ClosedPort::new());
    let shim = Shim::start(config(closed.addr, &mirror));
    let response = fetch(shim.addr, "/missing", &[("Accept", "text/html")]);
    assert_eq!((response.status, response.field("proxy-status")), (502, Some("edgeshim; error=connection_refused")));
    assert_eq!((response.field("cache-control"), asked(&shim)), (Some("no-store"), [0, 1]));
    for broken in [Origin::start(hang_up()), Origin::start(fixed(206, &[("Content-Range", "bytes 0-1/9")], "ab"))] {
        let shim = Shim::start(config(closed.addr, &broken));
        assert_eq!((fetch(shim.addr, "/a", &[]).status, asked(&shim)), (502, [0, 1]));
        assert_eq!(shim.metrics().count(FAULTS, &[]), 1, "the failure of the stand-in is not a fault of the origin");
    }
    let origin = Origin::start(fixed(503, &[("Retry-After", "77")], "the origin's own text"));
    let keys = format!("[origin]\nstand_in = \"http://{}\"", dead.addr);
    let shim = Shim::start(Shim::config(origin.url()).with(&keys).with(CLASSES));
    let response = fetch(shim.addr, "/a", &[]);
    let proxy_status = response.field("proxy-status");
    assert_eq!((response.status, proxy_status), (503, Some("edgeshim; received-status=503")));
    assert_eq!((response.field("retry-after"), asked(&shim)), (Some("77"), [0, 1]));
    let passed = fetch(shim.addr, "/never/a", &[]);
    assert_eq!((passed.status, passed.text().as_str()), (503, "the origin's own text"));
}

#[test]
fn access_log_when_stand_in_served_then_has_status_200_and_the_cause() {
    let (mirror, closed) = (mirror(), ClosedPort::new());
    let shim = Shim::start(config(closed.addr, &mirror).with("[access_log]\noutput = \"stdout\""));
    check_page(&fetch(shim.addr, "/a", &[]));
    assert!(support::wait_until(support::PATIENCE, || shim.stdout().contains("\"status\":200")), "{}", shim.stdout());
    let line: serde_json::Value = serde_json::from_str(shim.stdout().lines().next().expect("a line")).expect("JSON");
    assert_eq!((line["cause"].as_str(), line["origin_status"].is_null()), (Some("refused"), true), "{line}");
    assert_eq!((line["origin_bytes"].as_u64(), line["bytes"].as_u64()), (Some(0), Some(PAGE.len() as u64)), "{line}");
}
