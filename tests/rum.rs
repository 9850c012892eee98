//! Tests of RUM (real user monitoring), which records load times that browsers report. There is a histogram for each
//! provider and page. The tests also cover invalid load times, and Server-Timing, which names the provider to browsers.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use support::origin::ClosedPort;
use support::raw::{End, exchange, fetch, request};
use support::shim::{Config, run};
use support::{Metrics, Origin, PATIENCE, Raw, Response, Shim, origin, temp_dir};

const RUM: &str = "/status/rum";
const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const FASTLY: (&str, &str) = ("X-CDN-Provider", "fastly");

fn config(origin: impl std::fmt::Display) -> Config {
    Shim::config(origin).with(
        "[rum]\npath = \"/status/rum\"\npages = [\"home\", \"listing\"]\n\
         [[provider]]\nname = \"fastly\"\n[[provider]]\nname = \"akamai\"",
    )
}

fn post(shim: &Shim, fields: &[(&str, &str)], body: &[u8]) -> Response {
    exchange(shim.addr, request("POST", RUM, fields, body))
}

/// Returns the number of samples by provider and page. Leaves out zeros.
fn counts(metrics: &Metrics) -> BTreeMap<(String, String), u64> {
    let value = |labels: &[(String, String)], name: &str| {
        labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.clone()).expect("a series with the label")
    };
    metrics
        .matching("edgeshim_rum_seconds_count", &[])
        .filter(|series| series.value > 0.0)
        .map(|series| {
            let labels = &series.labels;
            let count = format!("{}", series.value).parse().expect("a whole number");
            ((value(labels, "provider"), value(labels, "page")), count)
        })
        .collect()
}

fn rejected(metrics: &Metrics, reason: &str) -> f64 {
    metrics.value("edgeshim_rum_rejected_total", &[("reason", reason)])
}

fn near(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-9
}

#[test]
fn load_times_when_origin_does_not_listen_then_recorded_by_provider_and_page() {
    let shim = Shim::start(
        config(ClosedPort::new().addr).with("[identity]\nunknown = \"reject\"\n[server]\nhosts = [\"www.test\"]"),
    );
    let start = shim.metrics();
    for provider in ["none", "other", "unverified", "fastly", "akamai"] {
        for page in ["home", "listing", "other"] {
            let labels = [("provider", provider), ("page", page)];
            assert!(near(start.value("edgeshim_rum_seconds_count", &labels), 0.0), "{}", start.text);
        }
    }
    for reason in ["missing", "number", "media_type", "too_large", "late", "cut", "method"] {
        assert!(near(rejected(&start, reason), 0.0), "{reason}");
    }
    let sent = [
        fetch(shim.addr, &format!("{RUM}?t_done=300&h.pg=home&v=1.737.60&u=https%3A%2F%2Fwww.test%2F"), &[FASTLY]),
        fetch(shim.addr, &format!("{RUM}?t_done=1234.5&page=LISTING"), &[FASTLY]),
        post(&shim, &[FASTLY, FORM], b"u=https%3A%2F%2Fa.test%2F&t_done=300&h.pg=home&sb=1"),
        post(
            &shim,
            &[("X-CDN-Provider", "Akamai"), ("Content-Type", "text/plain;charset=UTF-8")],
            b"t_done=%33%30&page=x",
        ),
        post(&shim, &[FORM, ("Origin", "https://www.shop.test")], b"t_done=40"),
        post(
            &shim,
            &[("X-CDN-Provider", "unheard-of"), ("Transfer-Encoding", "chunked")],
            b"9\r\nt_done=77\r\n0\r\n\r\n",
        ),
        // The load time is in the body, and the page is in the query.
        exchange(shim.addr, request("POST", &format!("{RUM}?page=home"), &[FASTLY, FORM], b"t_done=9")),
    ];
    for response in &sent {
        assert_eq!((response.status, response.body.len()), (204, 0), "{response:?}");
        assert_eq!(response.field("cache-control"), Some("no-store"));
        assert!(response.problems.is_empty() && response.field("content-type").is_none(), "{response:?}");
    }
    let metrics = shim.metrics();
    let expected = [
        (("fastly", "home"), 3),
        (("fastly", "listing"), 1),
        (("akamai", "other"), 1),
        (("none", "other"), 1),
        (("other", "other"), 1),
    ];
    let expected: BTreeMap<_, _> =
        expected.into_iter().map(|((provider, page), count)| ((provider.to_owned(), page.to_owned()), count)).collect();
    assert_eq!(counts(&metrics), expected);
    let home = [("provider", "fastly"), ("page", "home")];
    assert!(near(metrics.value("edgeshim_rum_seconds_sum", &home), 0.609), "{}", metrics.text);
    let bucket = |le| metrics.value("edgeshim_rum_seconds_bucket", &[home[0], home[1], ("le", le)]);
    assert!(near(bucket("0.1"), 1.0) && near(bucket("0.25"), 1.0) && near(bucket("0.5"), 3.0), "{}", metrics.text);
    assert!(near(metrics.sum("edgeshim_rum_rejected_total", &[]), 0.0));
    assert!(near(metrics.sum("edgeshim_pulls_total", &[]), 0.0), "a load time must not be counted as a pull");
    assert!(near(metrics.sum("edgeshim_refused_total", &[]), 0.0));
    // A request for a path below the path of RUM is a pull, so the shim refuses its unknown host.
    assert_eq!(fetch(shim.addr, &format!("{RUM}/x"), &[("Host", "else.test")]).status, 421);
}

#[test]
fn invalid_load_time_when_sent_then_gets_one_line_message_and_is_counted() {
    let shim = Shim::start(config(ClosedPort::new().addr));
    let long = [b"t_done=1&x=".to_vec(), vec![b'x'; 16 * 1024]].concat();
    let limit = [b"t_done=1&x=".to_vec(), vec![b'x'; 16 * 1024 - 11]].concat();
    assert_eq!(post(&shim, &[FORM], &limit).status, 204);
    let chunked = [format!("{:x}\r\n", long.len()).into_bytes(), long.clone(), b"\r\n0\r\n\r\n".to_vec()].concat();
    let odd = [[0xff, 0, b'%', b'&'].repeat(2000), b"=&&t_done=\xc3\x28".to_vec()].concat();
    let get = |query: &str| fetch(shim.addr, &format!("{RUM}{query}"), &[FASTLY]);
    let cases = [
        (get(""), 400, "missing"),
        (get("?t_done"), 400, "missing"),
        (get("?h.pg=home"), 400, "missing"),
        (post(&shim, &[FORM], b""), 400, "missing"),
        (get("?t_done="), 400, "number"),
        (get("?t_done=abc"), 400, "number"),
        (get("?t_done=-5"), 400, "number"),
        (get("?t_done=NaN"), 400, "number"),
        (get("?t_done=1e3"), 400, "number"),
        (get("?t_done=600001"), 400, "number"),
        (get(&format!("?t_done={}", "9".repeat(7000))), 400, "number"),
        (get("?t_done=%3Cscript%3Ealert(1)%3C/script%3E"), 400, "number"),
        (post(&shim, &[FORM], &odd), 400, "number"),
        (post(&shim, &[("Content-Type", "application/json")], b"{\"t_done\":1}"), 415, "media_type"),
        (post(&shim, &[("Content-Type", "multipart/form-data; boundary=x")], b"--x"), 415, "media_type"),
        (post(&shim, &[FORM], &long), 413, "too_large"),
        (post(&shim, &[FORM, ("Transfer-Encoding", "chunked")], &chunked), 413, "too_large"),
    ];
    let mut counted = BTreeMap::new();
    for (response, status, reason) in &cases {
        let text = response.text();
        assert_eq!(response.status, *status, "{reason}: {text}");
        assert!(text.ends_with('\n') && text.lines().count() == 1 && !text.contains("script"), "{text:?}");
        assert_eq!(response.field("cache-control"), Some("no-store"), "{reason}");
        assert_eq!(response.field("content-type"), Some("text/plain; charset=utf-8"), "{reason}");
        *counted.entry(*reason).or_insert(0.0) += 1.0;
    }
    for method in ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let response = exchange(shim.addr, request(method, &format!("{RUM}?t_done=1"), &[FORM], b""));
        assert_eq!((response.status, response.field("allow")), (405, Some("GET, POST")), "{method}");
        *counted.entry("method").or_insert(0.0) += 1.0;
    }
    let metrics = shim.metrics();
    for (reason, count) in counted {
        assert!(near(rejected(&metrics, reason), count), "the counter of {reason} is not {count}:\n{}", metrics.text);
    }
    assert_eq!(counts(&metrics).values().sum::<u64>(), 1, "only the body at the size limit must be recorded");
    assert!(
        near(metrics.sum("edgeshim_pulls_total", &[]), 0.0) && near(metrics.sum("edgeshim_refused_total", &[]), 0.0)
    );
}

#[test]
fn load_time_body_when_stalled_slow_or_truncated_then_rejected() {
    let shim = Shim::start(config(ClosedPort::new().addr).with("[server]\nbody_timeout = \"500ms\""));
    let head =
        format!("POST {RUM} HTTP/1.1\r\nHost: a.test\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\n");
    let started = Instant::now();
    let mut stopped = Raw::connect(shim.addr);
    stopped.send(&head).send("t_done=1");
    let response = stopped.response().expect("a response");
    assert_eq!((response.status, response.field("connection")), (408, Some("close")), "{response:?}");
    assert!(started.elapsed() >= Duration::from_millis(400), "the 408 arrived too early");
    assert_eq!(stopped.end(), End::Closed);
    // Each byte is progress, but for a load time the timeout applies to the complete body.
    let mut dripping = Raw::connect(shim.addr);
    dripping.send(&head);
    let started = Instant::now();
    let ended = support::wait_until(Duration::from_secs(5), || {
        dripping.send("x");
        near(rejected(&shim.metrics(), "late"), 2.0)
    });
    let elapsed = started.elapsed();
    assert!(
        ended && elapsed >= Duration::from_millis(400),
        "the slow body must be rejected after 500 ms; rejected: {ended}, after {elapsed:?}"
    );
    let mut left = Raw::connect(shim.addr);
    left.send(&head).send("t_done=1").finish();
    shim.wait_metrics(|metrics| near(rejected(metrics, "cut"), 1.0));
    assert!(counts(&shim.metrics()).is_empty());
}

#[test]
fn connection_when_load_time_was_read_then_serves_the_next_request() {
    let origin = Origin::start(origin::fixed(200, &[], "x"));
    let shim = Shim::start(config(origin.addr));
    let mut client = Raw::connect(shim.addr);
    for (framing, body, status) in [
        ("Content-Length: 8", "t_done=1", 204),
        ("Content-Length: 8", "t_done=x", 400),
        ("Content-Length: 0", "", 400),
        ("Transfer-Encoding: chunked", "8\r\nt_done=1\r\n0\r\n\r\n", 204),
        ("Transfer-Encoding: chunked", "8\r\nt_done=x\r\n0\r\n\r\n", 400),
    ] {
        client.send(format!("POST {RUM} HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n\r\n{body}"));
        assert_eq!(client.response().expect("a response").status, status, "{framing}: {body}");
    }
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.response().expect("a response").body, b"x");
}

/// Sends requests (method, target, body) over one HTTP/2 connection. Returns the status, the Content-Length and the
/// body of each response.
fn h2(shim: &Shim, requests: &[(&str, String, Vec<u8>)]) -> Vec<(u16, Option<String>, Bytes)> {
    let exchange = async {
        let mut sender = support::h2::connect(shim.addr).await;
        let mut responses = Vec::new();
        for (method, target, body) in requests {
            let request = http::Request::builder().method(*method).uri(format!("http://a.test{target}"));
            let request = request.body(Full::new(Bytes::from(body.clone()))).expect("a request");
            let (head, body) = sender.send_request(request).await.expect("a response").into_parts();
            let length = head.headers.get("content-length").map(|value| value.to_str().expect("a number").to_owned());
            responses.push((head.status.as_u16(), length, body.collect().await.expect("a complete body").to_bytes()));
        }
        responses
    };
    support::h2::runtime()
        .block_on(async { tokio::time::timeout(PATIENCE, exchange).await.expect("responses in time") })
}

#[test]
fn rum_and_beacon_requests_when_sent_over_http2_then_get_the_expected_statuses() {
    let shim = Shim::start(config(ClosedPort::new().addr));
    let sample = format!("{RUM}?t_done=1");
    let gif = "/status/images/beacon.gif".to_owned();
    let responses = h2(
        &shim,
        &[
            ("POST", RUM.to_owned(), b"t_done=1".to_vec()),
            ("GET", sample.clone(), Vec::new()),
            ("POST", RUM.to_owned(), vec![b'x'; 40_000]),
            ("POST", RUM.to_owned(), Vec::new()),
            ("HEAD", sample, Vec::new()),
            ("HEAD", gif.clone(), Vec::new()),
            ("GET", gif, Vec::new()),
        ],
    );
    let statuses: Vec<_> = responses.iter().map(|(status, ..)| *status).collect();
    assert_eq!(statuses, [204, 204, 413, 400, 405, 200, 200]);
    // A response to HEAD must not have a body, because a strict client would reset the stream with PROTOCOL_ERROR.
    assert!(responses[4..6].iter().all(|(_, _, body)| body.is_empty()), "{responses:?}");
    assert_eq!(responses[5].1, responses[6].1, "the responses to HEAD and GET must have the same Content-Length");
    assert_eq!(responses[6].2.len(), 43);
}

#[test]
fn series_and_memory_when_clients_invent_values_then_are_bounded() {
    let shim = Shim::start(config(ClosedPort::new().addr));
    let flood = |from: u32| {
        let mut client = Raw::connect(shim.addr);
        for chunk in 0..100 {
            let mut sent = String::new();
            for n in (0..100).map(|place| from + chunk * 100 + place) {
                let form = format!("t_done={n}&h.pg=page{n}&page=p{n}&k{n}={n}");
                if n % 2 == 0 {
                    let _ = write!(sent, "GET {RUM}?{form} HTTP/1.1\r\nHost: a.test\r\nX-CDN-Provider: cdn{n}\r\n\r\n");
                } else {
                    let length = form.len();
                    let _ =
                        write!(sent, "POST {RUM} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n{form}");
                }
            }
            client.send(&sent);
            for _ in 0..100 {
                assert_eq!(client.response().expect("a response").status, 204);
            }
        }
    };
    flood(0);
    let (before, rss) = (shim.metrics(), shim.rss_kib());
    flood(10_000);
    let after = shim.metrics();
    assert_eq!(after.series_count(), before.series_count(), "{}", after.text);
    assert_eq!(counts(&after).values().sum::<u64>(), 20_000);
    assert_eq!(counts(&after).len(), 2, "{:?}", counts(&after));
    let grown = shim.rss_kib().saturating_sub(rss);
    assert!(grown < 4 << 10, "the memory has grown by {grown} KiB from {rss} KiB");
}

#[test]
fn access_log_when_load_time_is_rejected_then_has_the_reason() {
    let shim = Shim::start(config(ClosedPort::new().addr).with("[access_log]\noutput = \"file:access.log\""));
    fetch(shim.addr, &format!("{RUM}?t_done=x"), &[FASTLY]);
    post(&shim, &[FORM], b"t_done=5");
    let file = shim.dir.join("access.log");
    let log = || std::fs::read_to_string(&file).unwrap_or_default();
    assert!(support::wait_until(support::PATIENCE, || log().matches('\n').count() == 2), "{}", log());
    let lines: Vec<serde_json::Value> =
        log().lines().map(|line| serde_json::from_str(line).expect("valid JSON")).collect();
    assert_eq!(
        (&lines[0]["status"], &lines[0]["cause"], &lines[0]["provider"]),
        (&400.into(), &"number".into(), &"fastly".into())
    );
    assert_eq!((&lines[1]["status"], &lines[1]["cause"], &lines[1]["class"]), (&204.into(), &"".into(), &"".into()));
}

#[test]
fn rum_settings_when_invalid_then_check_reports_the_key() {
    let folder = temp_dir();
    for (rum, message) in [
        ("path = \"/status/images/beacon.gif\"", "rum.path: \"/status/images/beacon.gif\" is the path of the beacon"),
        ("path = \"rum\"", "rum.path: \"rum\" is not a path"),
        ("pages = [\"a b\"]", "rum.pages[0]: \"a b\" is not a name"),
        ("pages = [\"other\"]", "rum.pages[0]: \"other\" is a name that edgeshim uses itself"),
    ] {
        let file = folder.write("edgeshim.toml", format!("[rum]\n{rum}\n"));
        let (code, stdout, _) = run(&["check", "--config", file.to_str().expect("a path in UTF-8")]);
        assert_eq!(code, 1, "{stdout}");
        assert!(stdout.contains(message), "{stdout}");
    }
}

/// Reads the Server-Timing value that the shim adds for this provider. Returns the duration in milliseconds.
fn duration(value: &str, provider: &str) -> f64 {
    let rest = value
        .strip_prefix(&format!("cdn;desc=\"{provider}\", origin;dur="))
        .unwrap_or_else(|| panic!("{value:?} is not a Server-Timing value for {provider}"));
    let (whole, part) = rest.split_once('.').unwrap_or_else(|| panic!("the duration in {value:?} has no decimals"));
    assert!(part.len() == 3 && !whole.is_empty(), "the duration in {value:?} does not have three decimals");
    rest.parse().unwrap_or_else(|_| panic!("the duration in {value:?} is not a number"))
}

#[test]
fn server_timing_when_rum_is_on_then_shim_adds_provider_and_duration() {
    const PAUSE: Duration = Duration::from_millis(30);
    let origin = Origin::start(|request, conn| {
        std::thread::sleep(PAUSE); // Server-Timing must contain at least this duration.
        let own = ("Server-Timing", "db;dur=53.2");
        match request.target.as_str() {
            "/304" => origin::respond(request, conn, 304, &[("ETag", "\"a\""), own], b""),
            "/500" => origin::respond(request, conn, 500, &[own], b""),
            "/plain" => origin::respond(request, conn, 200, &[("Content-Type", "text/html")], b"x"),
            _ => origin::respond(request, conn, 200, &[own, ("Content-Type", "text/html")], &b"x".repeat(4000)),
        }
    });
    let shim = Shim::start(config(origin.addr));
    for (target, fields, provider, own) in [
        ("/plain", vec![FASTLY], "fastly", false),
        ("/", vec![FASTLY, ("Accept-Encoding", "gzip")], "fastly", true),
        ("/", vec![], "none", true),
        ("/", vec![("X-CDN-Provider", "unheard-of")], "other", true),
        ("/304", vec![("X-CDN-Provider", "Akamai"), ("If-None-Match", "\"a\"")], "akamai", true),
    ] {
        let response = fetch(shim.addr, target, &fields);
        let mut values = response.fields_named("server-timing");
        let ours = values.pop().unwrap_or_else(|| panic!("Server-Timing is missing: {response:?}"));
        assert!(duration(ours, provider) >= 30.0, "the duration is less than 30 ms: {ours}");
        assert_eq!(values, if own { vec!["db;dur=53.2"] } else { vec![] }, "{target}");
    }
    // The shim replaces the 500 by a page, and a page has no Server-Timing.
    let page = fetch(shim.addr, "/500", &[FASTLY, ("Accept", "text/html")]);
    assert_eq!((page.status, page.field("server-timing")), (500, None));
    assert_eq!(fetch(shim.addr, &format!("{RUM}?t_done=1"), &[FASTLY]).field("server-timing"), None);
}

#[test]
fn server_timing_when_rum_is_off_then_has_only_the_value_of_the_origin() {
    let origin = Origin::start(origin::fixed(200, &[("Server-Timing", "db;dur=53.2")], "x"));
    let shim = Shim::start(Shim::config(origin.addr));
    assert_eq!(fetch(shim.addr, "/", &[]).fields_named("server-timing"), ["db;dur=53.2"]);
    // If RUM is off, the shim forwards a request for the path of RUM to the origin.
    assert_eq!(fetch(shim.addr, &format!("{RUM}?t_done=1"), &[]).status, 200);
    assert!(!shim.metrics().text.contains("edgeshim_rum_"));
}
