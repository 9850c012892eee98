//! Tests of the metrics. The metrics must equal the numbers of requests and bytes that the client and the origin count.
//! Values that a client invents must create no series.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;
use support::origin::ClosedPort;
use support::raw::{End, exchange, fetch, request};
use support::shim::Config;
use support::{
    After, Conn, Gate, Metrics, Origin, PATIENCE, Raw, Request, Response, Shim, frames, metrics, origin, wait_until,
};

const PROVIDERS: [&str; 3] = ["akamai", "edgecast", "fastly"];
const LABELS: [&str; 6] = ["none", "other", "unverified", "akamai", "edgecast", "fastly"];
const CLASSES: [&str; 4] = ["other", "image", "static", "page"];
const GIF: &str = "/status/images/beacon.gif";

/// Configures three CDNs and several classes.
fn config(origin: impl std::fmt::Display) -> Config {
    Shim::config(origin).with(
        r#"
        [[provider]]
        name = "akamai"
        [[provider]]
        name = "edgecast"
        [[provider]]
        name = "fastly"
        [[class]]
        name = "image"
        path = ["*.png"]
        cache = { mode = "override", ttl = "1000s" }
        [[class]]
        name = "static"
        path = ["*.css"]
        cache = { mode = "default", ttl = "100s" }
        [[class]]
        name = "page"
        content_type = ["text/html"]
        "#,
    )
}

/// Returns the sums of a metric's series, grouped by the values of these labels. Leaves out sums of 0.
fn counted(metrics: &Metrics, name: &str, labels: &[&str]) -> BTreeMap<Vec<String>, u64> {
    let mut found = BTreeMap::new();
    for series in metrics.matching(name, &[]).filter(|series| series.value != 0.0) {
        let value = |label: &&str| {
            let mut pairs = series.labels.iter();
            pairs.find(|(have, _)| have == label).map(|(_, value)| value.clone()).unwrap_or_default()
        };
        *found.entry(labels.iter().map(value).collect()).or_default() += metrics::whole(series.value);
    }
    found
}

/// Makes a table from rows, in the form of the result of [`counted`].
fn table<const N: usize>(rows: &[([&str; N], u64)]) -> BTreeMap<Vec<String>, u64> {
    rows.iter().map(|(labels, count)| (labels.iter().map(|&label| label.to_owned()).collect(), *count)).collect()
}

/// Waits until `pulls` pulls are counted and no pull is in flight. Returns the metrics.
fn settled(shim: &Shim, pulls: u64) -> Metrics {
    let metrics = shim.wait_metrics(|metrics| {
        metrics.count("edgeshim_pulls_total", &[]) >= pulls && metrics.count("edgeshim_in_flight", &[]) == 0
    });
    assert_eq!(metrics.count("edgeshim_pulls_total", &[]), pulls, "{}", metrics.text);
    metrics
}

/// Sends one request on a connection that stays open, and reads the response.
fn ask(client: &mut Raw, method: &str, target: &str, fields: &[(&str, &str)]) -> Response {
    let fields: Vec<_> = fields.iter().copied().chain([("Connection", "keep-alive")]).collect();
    client.send(request(method, target, &fields, b""));
    let response = if method == "HEAD" { client.response_to_head() } else { client.response() };
    let response = response.unwrap_or_else(|why| panic!("no response to {method} {target}: {why:?}"));
    assert!(response.complete && response.problems.is_empty(), "{method} {target}: {response:?}");
    response
}

/// Responds to a target of the form `/STATUS/LENGTH/NAME.EXTENSION`. The extension decides the content type. If the
/// target contains "chunked", the response is a chunked 200.
fn by_path(request: &Request, conn: &mut Conn) -> After {
    let mut parts = request.target.trim_start_matches('/').split('/');
    let status = parts.next().and_then(|part| part.parse().ok()).unwrap_or(200);
    let length = parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    let body: Vec<u8> = b"all that is gold does not glitter, ".iter().copied().cycle().take(length).collect();
    let path = request.target.split('?').next().unwrap_or_default();
    let kind = match path.rsplit('.').next() {
        Some("png") => "image/png",
        Some("css") => "text/css",
        Some("html") => "text/html; charset=utf-8",
        _ => "application/octet-stream",
    };
    if request.target.contains("chunked") {
        let chunks: Vec<&[u8]> = body.chunks(1000).collect();
        return origin::chunked(&[("Content-Type", kind)], &chunks, &[])(request, conn);
    }
    origin::respond(request, conn, status, &[("Content-Type", kind)], &body)
}

#[test]
fn pulls_when_served_then_metrics_equal_the_counts_of_the_client() {
    let origin = Origin::start(by_path);
    let shim = Shim::start(config(origin.addr));
    // Each row has the target, the class and the number of body bytes.
    let targets = [
        ("/200/0/a.png", "image", 0),
        ("/200/70000/b.PNG", "image", 70_000),
        ("/404/12/c.css", "static", 12),
        ("/200/3333/chunked.css", "static", 3333),
        ("/203/5/d.html", "page", 5),
        ("/301/9/e", "other", 9),
        ("/418/7/f", "other", 7),
        ("/204/0/g", "other", 0),
        ("/200/100/h.html?x=.png", "page", 100),
    ];
    let mut pulls: BTreeMap<Vec<String>, u64> = BTreeMap::new();
    let mut bytes: BTreeMap<Vec<String>, u64> = BTreeMap::new();
    let mut rows: BTreeMap<Vec<String>, u64> = BTreeMap::new();
    let mut classes: BTreeMap<Vec<String>, u64> = BTreeMap::new();
    let mut count = 0;
    for provider in ["none", "akamai", "edgecast", "fastly"] {
        let mut client = Raw::connect(shim.addr);
        let claim = [("X-CDN-Provider", provider)];
        let claim = if provider == "none" { &[][..] } else { &claim };
        for (target, class, length) in targets {
            for method in ["GET", "HEAD", "GET"] {
                let response = ask(&mut client, method, target, claim);
                let row = vec![provider.to_owned(), class.to_owned()];
                let code = vec![provider.to_owned(), class.to_owned(), response.status.to_string()];
                assert!(target.starts_with(&format!("/{}/", response.status)), "{target}: {}", response.line);
                assert_eq!(response.body.len(), if method == "HEAD" { 0 } else { length }, "{method} {target}");
                *pulls.entry(code).or_default() += 1;
                *rows.entry(row.clone()).or_default() += 1;
                *classes.entry(vec![class.to_owned()]).or_default() += 1;
                if !response.body.is_empty() {
                    *bytes.entry(row).or_default() += response.body.len() as u64;
                }
                count += 1;
            }
        }
    }
    let metrics = settled(&shim, count);
    assert_eq!(origin.count() as u64, count);
    assert_eq!(counted(&metrics, "edgeshim_pulls_total", &["provider", "class", "code"]), pulls);
    assert_eq!(counted(&metrics, "edgeshim_pull_bytes_total", &["provider", "class"]), bytes);
    assert_eq!(counted(&metrics, "edgeshim_pull_seconds_count", &["provider", "class"]), rows);
    assert_eq!(counted(&metrics, "edgeshim_origin_seconds_count", &["class"]), classes);
    let mut of_classes: BTreeMap<Vec<String>, u64> = BTreeMap::new();
    for (row, bytes) in bytes {
        *of_classes.entry(vec![row[1].clone()]).or_default() += bytes;
    }
    assert_eq!(
        counted(&metrics, "edgeshim_origin_bytes_total", &["class"]),
        of_classes,
        "without compression, the origin must send as many bytes as the shim"
    );
    for name in ["edgeshim_origin_faults_total", "edgeshim_refused_total", "edgeshim_whoopsies_total"] {
        assert_eq!(metrics.count(name, &[]), 0, "{name}");
    }
}

#[test]
fn histograms_of_seconds_when_body_is_slow_then_only_pull_seconds_include_the_body() {
    let gate = Gate::default();
    let head_seen = gate.clone();
    let origin = Origin::start(move |_, conn| {
        let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
        head_seen.wait();
        // The last byte follows at least 300 ms after the shim has sent the head to the client.
        std::thread::sleep(Duration::from_millis(300));
        if conn.write_all(b"b").is_ok() { After::Keep } else { After::Close }
    });
    let shim = Shim::start(config(origin.addr));
    let mut client = Raw::connect(shim.addr);
    client.send(request("GET", "/", &[("X-CDN-Provider", "fastly")], b""));
    let head = client.response_head().expect("a head");
    gate.open();
    assert_eq!(client.body(&head).data, b"ab");
    let metrics = settled(&shim, 1);
    let pull = [("provider", "fastly"), ("class", "other")];
    let seconds = metrics.value("edgeshim_pull_seconds_sum", &pull);
    assert!((0.3..20.0).contains(&seconds), "the time from the request head to the last byte is {seconds} s");
    let bucket = |name: &str, labels: &[(&str, &str)], bound| {
        let labels: Vec<_> = labels.iter().copied().chain([("le", bound)]).collect();
        metrics::whole(metrics.value(name, &labels))
    };
    assert_eq!(bucket("edgeshim_pull_seconds_bucket", &pull, "0.25"), 0);
    assert_eq!(bucket("edgeshim_pull_seconds_bucket", &pull, "+Inf"), 1);
    assert_eq!(bucket("edgeshim_origin_seconds_bucket", &[("class", "other")], "+Inf"), 1);
    let head = metrics.value("edgeshim_origin_seconds_sum", &[("class", "other")]);
    assert!(head <= seconds - 0.29, "the origin's time is {head} s of {seconds} s, so it includes the body");
}

#[test]
fn conditional_pull_when_origin_responds_then_counted_as_revalidation_by_status() {
    let origin = Origin::start(by_path);
    let shim = Shim::start(config(origin.addr));
    let mut client = Raw::connect(shim.addr);
    let tag = ("If-None-Match", "\"a\"");
    let since = ("If-Modified-Since", "Sun, 22 Nov 2026 11:09:01 GMT");
    let (fastly, akamai) = (("X-CDN-Provider", "fastly"), ("X-CDN-Provider", "akamai"));
    for (method, target, fields) in [
        ("GET", "/304/0/a.png", vec![fastly, tag]),
        ("HEAD", "/304/0/a.png", vec![fastly, tag]),
        ("GET", "/304/0/a.png", vec![fastly, tag, since]),
        ("GET", "/200/9/a.png", vec![fastly, tag]),
        ("GET", "/304/0/b.css", vec![akamai, since]),
        ("GET", "/206/9/b.css", vec![akamai, since]),
        ("GET", "/200/9/b.css", vec![akamai, since]),
        // These pulls are not counted as revalidations, because they have no condition, or because the status does not
        // show whether the condition was true.
        ("GET", "/200/9/b.css", vec![akamai]),
        ("GET", "/404/9/b.css", vec![akamai, tag]),
        ("GET", "/500/9/b.css", vec![akamai, tag]),
        ("GET", "/301/9/b.css", vec![tag]),
    ] {
        ask(&mut client, method, target, &fields);
    }
    let metrics = settled(&shim, 11);
    assert_eq!(
        counted(&metrics, "edgeshim_revalidations_total", &["provider", "class", "result"]),
        table(&[
            (["fastly", "image", "not_modified"], 3),
            (["fastly", "image", "modified"], 1),
            (["akamai", "static", "not_modified"], 1),
            (["akamai", "static", "modified"], 2),
        ])
    );
}

/// Starts an origin that sends no response until the gate opens.
fn gated() -> (Origin, Gate) {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::start(move |request, conn| {
        held.wait();
        origin::respond(request, conn, 200, &[], b"late")
    });
    (origin, gate)
}

#[test]
fn gauges_when_requests_and_connections_end_then_return_to_zero() {
    let (origin, gate) = gated();
    let shim = Shim::start(config(origin.addr));
    let gauge = |metrics: &Metrics, name: &str| metrics.count(name, &[]);
    let mut clients = Vec::new();
    for provider in ["fastly", "fastly", "akamai", ""] {
        let mut client = Raw::connect(shim.addr).patient(PATIENCE * 4);
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-CDN-Provider: {provider}\r\n\r\n"));
        clients.push(client);
    }
    // The shim also counts a connection without a request as open.
    let quiet = Raw::connect(shim.addr);
    let metrics = shim.wait_metrics(|metrics| {
        gauge(metrics, "edgeshim_in_flight") == 4
            && gauge(metrics, "edgeshim_connections") == 5
            && gauge(metrics, "edgeshim_origin_connections") == 4
    });
    assert_eq!(
        counted(&metrics, "edgeshim_in_flight", &["provider"]),
        table(&[(["fastly"], 2), (["akamai"], 1), (["other"], 1)])
    );
    assert_eq!(metrics.count("edgeshim_pulls_total", &[]), 0, "a pull must not be counted before its end");
    assert_eq!(origin.open_connections(), 4);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().expect("a response").text(), "late");
    }
    let metrics = settled(&shim, 4);
    assert_eq!(gauge(&metrics, "edgeshim_connections"), 5, "idle client connections must be counted");
    assert_eq!(gauge(&metrics, "edgeshim_origin_connections"), 4, "idle origin connections must be counted");
    drop((clients, quiet));
    shim.wait_metrics(|metrics| gauge(metrics, "edgeshim_connections") == 0);
    origin.hang_up_all();
    shim.wait_metrics(|metrics| gauge(metrics, "edgeshim_origin_connections") == 0);
}

#[test]
fn pull_when_client_disconnects_before_head_or_in_body_then_counted_as_499() {
    let origin = Origin::start(|request, conn| match request.target.as_str() {
        "/silent.png" => origin::silent()(request, conn),
        "/endless" => origin::endless(&[b'x'; 4096])(request, conn),
        _ => origin::respond(request, conn, 200, &[], &vec![b'x'; 16 << 20]),
    });
    let shim = Shim::start(config(origin.addr));
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\nX-CDN-Provider: fastly\r\n\r\n");
    let mut read = 0;
    for reset in [false, true] {
        let mut client = Raw::connect(shim.addr);
        let before = origin.count();
        client.send(get("/silent.png"));
        assert!(wait_until(PATIENCE, || origin.count() > before), "the request did not reach the origin");
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        for target in ["/endless", "/large"] {
            let mut client = Raw::connect(shim.addr);
            client.send(get(target));
            assert_eq!(client.response_head().expect("a head").status, 200);
            read += client.more().expect("bytes of the body").len() as u64;
            if reset { client.reset() } else { drop(client) }
        }
    }
    let metrics = settled(&shim, 6);
    assert_eq!(
        counted(&metrics, "edgeshim_pulls_total", &["provider", "class", "code"]),
        table(&[(["fastly", "image", "499"], 2), (["fastly", "other", "499"], 4)])
    );
    assert_eq!(
        counted(&metrics, "edgeshim_pull_seconds_count", &["provider", "class"]),
        table(&[(["fastly", "image"], 2), (["fastly", "other"], 4)])
    );
    assert_eq!(metrics.count("edgeshim_origin_faults_total", &[]), 0, "a disconnected client must not be a fault");
    // `read` includes the framing of chunks, so `read` can be a little above the number in the metric.
    let bytes = metrics.count("edgeshim_pull_bytes_total", &[]);
    assert!(
        bytes + 1024 >= read && bytes < 4 * (16 << 20),
        "the metric has {bytes} bytes, but the client read {read} bytes"
    );
    assert!(
        wait_until(PATIENCE, || origin.open_connections() == 0),
        "a connection to the origin is open after the client has disconnected"
    );
    shim.wait_metrics(|metrics| metrics.count("edgeshim_origin_connections", &[]) == 0);
}

#[test]
fn pull_when_client_resets_http2_stream_then_counted_as_499() {
    let origin = Origin::start(|request, conn| {
        if request.target == "/s" { origin::silent()(request, conn) } else { origin::endless(b"more")(request, conn) }
    });
    let shim = Shim::start(config(origin.addr));
    let mut client = frames::Client::connect(shim.addr, 65_535);
    client.get(1, "/s");
    client.get(3, "/e");
    // edgeshim reads this short body before the request goes to the origin.
    let length = ("content-length", "3");
    let post = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/"), length];
    client.raw.send(frames::head(5, 0, &post));
    client.send(frames::DATA, 0, 5, b"x");
    assert!(wait_until(PATIENCE, || origin.count() == 2), "the requests did not reach the origin");
    shim.wait_metrics(|metrics| metrics.count("edgeshim_in_flight", &[]) == 3);
    assert_eq!(shim.metrics().count("edgeshim_connections", &[]), 1);
    for stream in [1, 3, 5] {
        client.raw.send(frames::reset(stream, frames::CANCEL));
    }
    let metrics = settled(&shim, 3);
    assert_eq!(
        counted(&metrics, "edgeshim_pulls_total", &["provider", "class", "code"]),
        table(&[(["none", "other", "499"], 3)])
    );
    assert_eq!(metrics.count("edgeshim_origin_faults_total", &[]), 0);
    assert!(
        wait_until(PATIENCE, || origin.open_connections() == 0),
        "a connection to the origin is open after the client has reset the streams"
    );
}

#[test]
fn pull_when_origin_truncates_body_then_keeps_status_and_cause_is_cut() {
    const ROUNDS: u64 = 20;
    let origin = Origin::start(|request, conn| {
        let head = "HTTP/1.1 203 \r\nContent-Type: text/css\r\n";
        let body = "x".repeat(if request.target.contains("long") { 100_000 } else { 400 });
        let text = if request.target.contains("chunked") {
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.len())
        } else {
            format!("{head}Content-Length: 200000\r\n\r\n{body}")
        };
        let _ = conn.write_all(text.as_bytes());
        if request.target.contains("reset") { After::Reset } else { After::Close }
    });
    let shim = Shim::start(config(origin.addr));
    let mut bytes = 0;
    let mut compressed = 0;
    let mut count = 0;
    for round in 0..ROUNDS {
        for target in ["/length.css", "/chunked.css", "/length-long.css", "/chunked-long.css", "/gzip.css"] {
            let coding = if target == "/gzip.css" { "gzip" } else { "identity" };
            let response = fetch(shim.addr, target, &[("Accept-Encoding", coding)]);
            assert_eq!(response.status, 203, "round {round}, {target}");
            assert!(!response.complete, "round {round}, {target}: a truncated response looks complete");
            if coding == "gzip" {
                compressed += response.body.len() as u64;
            } else {
                bytes += response.body.len() as u64;
            }
            count += 1;
        }
    }
    let metrics = settled(&shim, count);
    assert_eq!(
        counted(&metrics, "edgeshim_pulls_total", &["provider", "class", "code"]),
        table(&[(["none", "static", "203"], count)])
    );
    assert_eq!(counted(&metrics, "edgeshim_origin_faults_total", &["cause"]), table(&[(["cut"], count)]));
    assert_eq!(
        metrics.count("edgeshim_pull_bytes_total", &[]),
        bytes + compressed,
        "the metric must equal the number of bytes that the client received"
    );
    assert_eq!(
        metrics.count("edgeshim_origin_bytes_total", &[]),
        ROUNDS * 201_200,
        "the metric must equal the number of bytes that the origin sent"
    );
    assert_eq!(counted(&metrics, "edgeshim_gzip_output_bytes_total", &["class"]).values().sum::<u64>(), compressed);
    // The reset can discard data that the origin has sent. If the head is discarded, the cause is `reset` instead of
    // `cut`.
    let response = fetch(shim.addr, "/length-reset.css", &[]);
    let metrics = settled(&shim, count + 1);
    let cause = if response.status == 203 { "cut" } else { "reset" };
    assert_eq!(metrics.count("edgeshim_origin_faults_total", &[]), count + 1);
    assert!(metrics.count("edgeshim_origin_faults_total", &[("cause", cause)]) >= 1, "{}", metrics.text);
}

#[test]
fn faults_and_pages_when_origin_fails_then_counted_by_cause() {
    // Each row has the path, the status and the cause. The path selects what the origin does.
    let rows = [
        ("/hang-up", 502, "closed"),
        ("/reset", 502, "reset"),
        ("/silent", 504, "timeout"),
        ("/garbage", 502, "broken_head"),
    ];
    let origin = Origin::start(|request, conn| match request.target.as_str() {
        "/hang-up" => After::Close,
        "/reset" => After::Reset,
        "/silent" => origin::silent()(request, conn),
        "/garbage" => {
            let _ = conn.write_all(b"SMTP ready\r\n\r\n");
            After::Close
        }
        "/stalled" => {
            let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
            origin::silent()(request, conn)
        }
        _ => origin::respond(request, conn, 503, &[], b"a bare 503"),
    });
    let limits = "[origin]\nresponse_timeout = \"300ms\"\nretries = 0\n[server]\nbody_timeout = \"500ms\"";
    let shim = Shim::start(config(origin.addr).with(limits));
    let ask = |provider: &str, language: &str, target: &str, accept: &str| {
        let fields = [("X-CDN-Provider", provider), ("Accept-Language", language), ("Accept", accept)];
        fetch(shim.addr, target, &fields)
    };
    let mut pages = Vec::new();
    let mut bytes = 0;
    for (target, status, cause) in rows {
        let response = ask("fastly", "de", target, "text/html");
        assert_eq!(response.status, status, "{target}");
        bytes += response.body.len() as u64;
        pages.push((["fastly", "de", cause], 1));
    }
    let response = ask("akamai", "fr-CA, en;q=0.3", "/own", "text/html");
    assert_eq!((response.status, response.field("content-language")), (503, Some("fr")));
    bytes += response.body.len() as u64;
    pages.push((["akamai", "fr", "origin_5xx"], 1));
    // A request for an image gets no page. So the shim counts the pull, but no page.
    let response = ask("akamai", "fr", "/own", "image/png");
    assert_eq!((response.status, response.body.len()), (503, 0));
    let stalled = ask("fastly", "de", "/stalled", "text/html");
    assert!(stalled.status == 200 && !stalled.complete && stalled.body == b"half", "{stalled:?}");
    bytes += 4;
    let metrics = settled(&shim, 7);
    assert_eq!(counted(&metrics, "edgeshim_whoopsies_total", &["provider", "locale", "cause"]), table(&pages));
    assert_eq!(
        counted(&metrics, "edgeshim_origin_faults_total", &["cause"]),
        table(&[(["closed"], 1), (["reset"], 1), (["timeout"], 1), (["broken_head"], 1), (["stalled"], 1)])
    );
    assert_eq!(
        counted(&metrics, "edgeshim_pulls_total", &["provider", "code"]),
        table(&[(["fastly", "502"], 3), (["fastly", "504"], 1), (["fastly", "200"], 1), (["akamai", "503"], 2),])
    );
    assert_eq!(metrics.count("edgeshim_pull_bytes_total", &[]), bytes, "the bytes of pages must be counted");
    assert_eq!(metrics.count("edgeshim_origin_bytes_total", &[]), 24, "the bytes of replaced bodies must be counted");
}

#[test]
fn fault_when_origin_does_not_listen_then_cause_is_refused_or_unreachable() {
    let closed = ClosedPort::new();
    let shim = Shim::start(config(closed.addr));
    let response = fetch(shim.addr, "/", &[("X-CDN-Provider", "fastly")]);
    assert_eq!(response.status, 502);
    let metrics = settled(&shim, 1);
    assert_eq!(counted(&metrics, "edgeshim_origin_faults_total", &["cause"]), table(&[(["refused"], 1)]));
    assert_eq!(
        counted(&metrics, "edgeshim_whoopsies_total", &["provider", "locale", "cause"]),
        table(&[(["fastly", "en", "refused"], 1)])
    );
    assert_eq!(metrics.count("edgeshim_origin_connections", &[]), 0);
    let nowhere = support::temp_dir();
    let shim = Shim::start(config(format!("unix:{}", nowhere.join("no.sock").display())));
    assert_eq!(fetch(shim.addr, "/", &[]).status, 502);
    let metrics = settled(&shim, 1);
    assert_eq!(counted(&metrics, "edgeshim_origin_faults_total", &["cause"]), table(&[(["unreachable"], 1)]));
}

#[test]
fn gzip_bytes_when_responses_are_compressed_then_input_and_output_are_counted() {
    let origin = Origin::start(by_path);
    let shim = Shim::start(config(origin.addr));
    let mut client = Raw::connect(shim.addr);
    let gzip = ("Accept-Encoding", "gzip");
    let mut ask = |method, target, fields: &[(&str, &str)]| {
        let response = ask(&mut client, method, target, fields);
        (response.field("content-encoding") == Some("gzip"), response.body.len() as u64)
    };
    let (css, css_bytes) = ask("GET", "/200/50000/a.css", &[gzip]);
    let (chunked, chunked_bytes) = ask("GET", "/200/40000/chunked.css", &[gzip]);
    let (page, page_bytes) = ask("GET", "/404/3000/a.html", &[gzip]);
    assert!(css && chunked && page);
    // The shim compresses none of these responses.
    assert_eq!(ask("HEAD", "/200/50000/a.css", &[gzip]).1, 0);
    assert_eq!(ask("GET", "/200/50000/a.css", &[]), (false, 50_000));
    assert_eq!(ask("GET", "/200/100/a.css", &[gzip]), (false, 100));
    assert_eq!(ask("GET", "/200/50000/a.png", &[gzip]), (false, 50_000));
    let metrics = settled(&shim, 7);
    assert_eq!(
        counted(&metrics, "edgeshim_gzip_input_bytes_total", &["class"]),
        table(&[(["static"], 90_000), (["page"], 3000)])
    );
    assert_eq!(
        counted(&metrics, "edgeshim_gzip_output_bytes_total", &["class"]),
        table(&[(["static"], css_bytes + chunked_bytes), (["page"], page_bytes)])
    );
    assert_eq!(
        counted(&metrics, "edgeshim_pull_bytes_total", &["class"]),
        table(&[(["static"], css_bytes + chunked_bytes + 50_100), (["page"], page_bytes), (["image"], 50_000)])
    );
    assert_eq!(
        counted(&metrics, "edgeshim_origin_bytes_total", &["class"]),
        table(&[(["static"], 140_100), (["page"], 3000), (["image"], 50_000)])
    );
}

#[test]
fn beacons_when_sent_then_counted_by_source_and_not_as_pulls() {
    let closed = ClosedPort::new();
    let rules = "[beacon]\nsources = [\"dyn\"]\n[identity]\nunknown = \"reject\"\n[server]\nhosts = [\"www.test\"]";
    let shim = Shim::start(config(closed.addr).with(rules));
    // The shim serves beacons even if the origin does not listen, and even if Host and the provider are unknown.
    for (query, source) in [
        ("?source=fastly", "fastly"),
        ("?source=FastLY&server_identity=cache-fra1&reason=timeout&id=7", "fastly"),
        ("?beacon_source=akamai", "akamai"),
        ("?SOURCE=akamai", "akamai"),
        ("?id=1&Beacon_Source=Akamai", "akamai"),
        ("?source=dyn", "dyn"),
        ("?source=edgecast&beacon_source=fastly", "edgecast"),
        ("?source=unheard-of", "other"),
        ("?source=other", "other"),
        ("?source=none", "other"),
        ("?source=", "other"),
        ("?source", "other"),
        ("?x=source=fastly", "other"),
        ("", "other"),
    ] {
        let count = || shim.metrics().count("edgeshim_beacons_total", &[("source", source)]);
        let before = count();
        let response = fetch(shim.addr, &format!("{GIF}{query}"), &[]);
        assert_eq!(response.status, 200, "{query}");
        assert_eq!(count(), before + 1, "{query} must count as {source}");
        assert!(response.body.starts_with(b"GIF89a") && response.problems.is_empty(), "{query}: {response:?}");
        assert_eq!(response.field("content-type"), Some("image/gif"));
        assert_eq!(response.field("cache-control"), Some("no-store"));
    }
    let head = exchange(shim.addr, request("HEAD", &format!("{GIF}?source=fastly"), &[], b""));
    assert_eq!((head.status, head.body.len()), (200, 0));
    let length = fetch(shim.addr, GIF, &[]).body.len().to_string();
    assert_eq!(head.field("content-length"), Some(length.as_str()));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let response = exchange(shim.addr, request(method, &format!("{GIF}?source=fastly"), &[], b""));
        assert_eq!((response.status, response.field("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    let metrics = shim.metrics();
    assert_eq!(
        counted(&metrics, "edgeshim_beacons_total", &["source"]),
        table(&[(["fastly"], 3), (["akamai"], 3), (["dyn"], 1), (["edgecast"], 1), (["other"], 8)])
    );
    assert_eq!(metrics.count("edgeshim_pulls_total", &[]), 0);
    assert_eq!(metrics.count("edgeshim_refused_total", &[]), 0);
    // A path below the beacon's path is not a beacon.
    assert_eq!(fetch(shim.addr, &format!("{GIF}/x"), &[]).status, 421);
    settled(&shim, 1);
}

#[test]
fn refusals_when_sent_then_counted_by_reason_and_code() {
    let origin = Origin::start(origin::fixed(200, &[], ""));
    let limits =
        "[server]\nhosts = [\"shim.test\"]\nmax_request_body = \"10B\"\nmax_headers = 20\nheader_timeout = \"300ms\"";
    let reject = "[identity]\nunknown = \"reject\"";
    let shim = Shim::start(config(origin.addr).with(limits).with(reject));
    let fastly = ("X-CDN-Provider", "fastly");
    let status = |bytes: &[u8]| exchange(shim.addr, bytes).status;
    // The shim refuses these well-formed requests and counts each of them as a pull.
    assert_eq!(status(&request("GET", "/a.png", &[], b"")), 403);
    assert_eq!(status(&request("GET", "/", &[("X-CDN-Provider", "cdn77")], b"")), 403);
    assert_eq!(status(&request("GET", "/", &[fastly, ("Host", "else.test")], b"")), 421);
    assert_eq!(
        status(&request("GET", "/", &[fastly, ("CDN-Loop", "edgeshim, edgeshim, a, edgeshim, edgeshim")], b"")),
        508
    );
    assert_eq!(status(&request("POST", "/", &[fastly], b"eleven byte")), 413);
    let chunked = [fastly, ("Transfer-Encoding", "chunked")];
    assert_eq!(status(&[request("POST", "/", &chunked, b""), b"b\r\neleven byte\r\n0\r\n\r\n".to_vec()].concat()), 413);
    assert_eq!(status(b"CONNECT shim.test:80 HTTP/1.1\r\nHost: shim.test:80\r\nX-CDN-Provider: fastly\r\n\r\n"), 405);
    let metrics = settled(&shim, 7);
    assert_eq!(
        counted(&metrics, "edgeshim_pulls_total", &["provider", "code"]),
        table(&[
            (["none", "403"], 1),
            (["other", "403"], 1),
            (["fastly", "421"], 1),
            (["fastly", "508"], 1),
            (["fastly", "413"], 2),
            (["fastly", "405"], 1),
        ])
    );
    let refused = table(&[
        (["none", "unknown_provider"], 1),
        (["other", "unknown_provider"], 1),
        (["fastly", "host"], 1),
        (["fastly", "loop"], 1),
        (["fastly", "body_too_large"], 2),
        (["fastly", "method"], 1),
    ]);
    assert_eq!(counted(&metrics, "edgeshim_refused_total", &["provider", "reason"]), refused);
    assert_eq!(metrics.count("edgeshim_origin_faults_total", &[]), 0, "a refusal must not be a fault of the origin");
    // The shim refuses these malformed heads and does not count them as pulls.
    let many: String = (0..21).fold(String::new(), |mut lines, number| {
        let _ = write!(lines, "X-{number}: 1\r\n");
        lines
    });
    let malformed = [
        "GET / HTTP/1.1\r\nHost: shim.test\r\nHost: shim.test\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: shim.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            .to_owned(),
        "POST / HTTP/1.1\r\nHost: shim.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned(),
        "GET / HTTP/1.1\r\nHost: shim.test\r\nX-A : b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: shim.test\r\nX-A: b\r\n c\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: shim.test\r\nX-A: b\0c\r\n\r\n".to_owned(),
        "GET http://else.test/ HTTP/1.1\r\nHost: shim.test\r\n\r\n".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nHost: shim.test\r\n{many}\r\n"),
    ];
    for (sent, head) in (1_u32..).zip(&malformed) {
        let mut client = Raw::connect(shim.addr);
        let response = client.send(head).response();
        if let Ok(response) = response {
            assert!([400, 431].contains(&response.status), "{head:?}: {}", response.line);
        }
        assert!(client.closed(), "the connection is open after {head:?}");
        let metrics = shim.wait_metrics(|metrics| {
            metrics.sum("edgeshim_refused_total", &[("reason", "malformed")]) >= f64::from(sent)
        });
        assert_eq!(metrics.count("edgeshim_refused_total", &[("reason", "malformed")]), u64::from(sent), "{head:?}");
    }
    // This head never ends.
    let mut slow = Raw::connect(shim.addr);
    slow.send("GET / HTTP/1.1\r\nHost: shim");
    assert_eq!(slow.response().map(|response| response.status), Ok(408));
    let metrics =
        shim.wait_metrics(|metrics| metrics.sum("edgeshim_refused_total", &[("reason", "header_timeout")]) >= 1.0);
    assert_eq!(metrics.count("edgeshim_refused_total", &[]), 7 + malformed.len() as u64 + 1);
    assert_eq!(metrics.count("edgeshim_pulls_total", &[]), 7, "a malformed head is not a pull");
    // Only the head of the chunked request may reach the origin before the limit is exceeded.
    assert!(origin.requests().iter().all(|request| request.method == "POST" && !request.complete));
}

#[test]
fn provider_label_when_identity_header_is_sent_or_missing_then_is_a_configured_name_or_other_or_none() {
    let origin = Origin::start(origin::fixed(200, &[], "x"));
    let shim = Shim::start(config(origin.addr));
    let rows: [(&[&str], &str); 18] = [
        (&[], "none"),
        (&["fastly"], "fastly"),
        (&["FASTLY"], "fastly"),
        (&[" Fastly\t"], "fastly"),
        (&["akamai"], "akamai"),
        (&["fastly", "fastly"], "fastly"),
        (&["Akamai", "aKAMAI", "akamai"], "akamai"),
        (&["fastly", "akamai"], "other"),
        (&["akamai", "cdn77"], "other"),
        (&["cdn77"], "other"),
        (&["cdn77", "cdn77"], "other"),
        (&["fastly, akamai"], "other"),
        (&["fastly "], "fastly"),
        (&["fastlyy"], "other"),
        (&["none"], "other"),
        (&["other"], "other"),
        (&["unverified"], "other"),
        (&["fastly\" x=\"\u{e9}"], "other"),
    ];
    let mut expected: BTreeMap<Vec<String>, u64> = BTreeMap::new();
    for (sent, (lines, label)) in (1..).zip(rows) {
        let fields: Vec<_> = lines.iter().map(|&line| ("x-cdn-PROVIDER", line)).collect();
        assert_eq!(fetch(shim.addr, "/", &fields).status, 200, "{lines:?}");
        assert_eq!(origin.count(), sent);
        let received = origin.last();
        let received = received.fields_named("x-cdn-provider");
        if PROVIDERS.contains(&label) {
            assert_eq!(received, [label], "{lines:?}");
        } else {
            assert!(received.is_empty(), "{lines:?}: the origin got {received:?}");
        }
        *expected.entry(vec![label.to_owned()]).or_default() += 1;
    }
    let metrics = settled(&shim, rows.len() as u64);
    assert_eq!(counted(&metrics, "edgeshim_pulls_total", &["provider"]), expected);
    // The shim does not treat X-CDN-Provider as a hop-by-hop field, even if Connection names this field.
    fetch(shim.addr, "/", &[("X-CDN-Provider", "fastly"), ("Connection", "close, X-CDN-Provider")]);
    assert_eq!(origin.last().fields_named("x-cdn-provider"), ["fastly"]);
}

#[test]
fn unknown_provider_when_rejected_then_gets_403_and_origin_gets_no_request() {
    let origin = Origin::start(origin::fixed(200, &[], "x"));
    let shim = Shim::start(config(origin.addr).with("[identity]\nunknown = \"reject\""));
    let mut client = Raw::connect(shim.addr);
    let rows: [&[(&str, &str)]; 4] = [
        &[],
        &[("X-CDN-Provider", "cdn77")],
        &[("X-CDN-Provider", "fastly"), ("X-CDN-Provider", "akamai")],
        &[("X-CDN-Provider", "unverified")],
    ];
    for fields in rows {
        let response = ask(&mut client, "GET", "/a.png", fields);
        assert_eq!((response.status, response.field("cache-control")), (403, Some("no-store")), "{fields:?}");
    }
    assert_eq!((origin.count(), origin.connections()), (0, 0));
    assert_eq!(ask(&mut client, "GET", "/a.png", &[("X-CDN-Provider", "Fastly")]).status, 200);
    let metrics = settled(&shim, 5);
    assert_eq!(
        counted(&metrics, "edgeshim_pulls_total", &["provider", "code"]),
        table(&[(["none", "403"], 1), (["other", "403"], 3), (["fastly", "200"], 1)])
    );
    assert_eq!(
        counted(&metrics, "edgeshim_refused_total", &["provider", "reason"]),
        table(&[(["none", "unknown_provider"], 1), (["other", "unknown_provider"], 3)])
    );
}

#[test]
fn cache_rules_and_guards_when_applied_then_counted() {
    let origin = Origin::start(|request, conn| {
        let fields: &[(&str, &str)] = match request.target.as_str() {
            "/plain" | "/default.css" => &[],
            "/tidy" => &[("Cache-Control", "max-age=5"), ("Cache-Control", "no-cache")],
            "/override.png" => &[("Cache-Control", "private")],
            "/cookie.png" => &[("Set-Cookie", "a=b")],
            "/star" => &[("Cache-Control", "max-age=60"), ("Vary", "*")],
            "/agent" => &[("Cache-Control", "max-age=60"), ("Vary", "User-Agent, Cookie")],
            "/authorization" => &[("Cache-Control", "max-age=60")],
            "/kept" => &[("Cache-Control", "no-store")],
            _ => return origin::respond(request, conn, 500, &[("Cache-Control", "max-age=60")], b"broken"),
        };
        origin::respond(request, conn, 200, fields, b"x")
    });
    let shim = Shim::start(config(origin.addr));
    let mut client = Raw::connect(shim.addr);
    let mut cache = |target, fields: &[(&str, &str)]| {
        ask(&mut client, "GET", target, fields).field("cache-control").unwrap_or_default().to_owned()
    };
    for (target, fields, says) in [
        ("/plain", &[][..], ""),
        ("/kept", &[], "no-store"),
        ("/default.css", &[], "max-age=100"),
        ("/override.png", &[], "max-age=1000"),
        ("/cookie.png", &[], "private"),
        ("/star", &[], "private"),
        ("/agent", &[], "max-age=60"),
        ("/authorization", &[("Authorization", "Basic eA==")], "private"),
        ("/broken", &[], "no-store"),
    ] {
        let found = cache(target, fields);
        assert!(if says.is_empty() { found.is_empty() } else { found.contains(says) }, "{target}: {found:?}");
    }
    let tidied = cache("/tidy", &[]);
    assert!(tidied.contains("no-cache") && !tidied.contains("max-age"), "{tidied}");
    let metrics = settled(&shim, 10);
    assert_eq!(
        counted(&metrics, "edgeshim_cache_guards_total", &["guard"]),
        table(&[
            (["set_cookie"], 1),
            (["vary_star"], 1),
            (["vary_user_agent"], 1),
            (["vary_cookie"], 1),
            (["authorization"], 1),
            (["error"], 1),
        ])
    );
    assert_eq!(
        counted(&metrics, "edgeshim_cache_rewrites_total", &["class", "action"]),
        table(&[
            (["other", "tidied"], 1),
            (["static", "defaulted"], 1),
            (["image", "overridden"], 1),
            (["image", "guarded"], 1),
            (["other", "guarded"], 3),
        ])
    );
}

#[test]
fn error_guard_when_origin_fails_then_counted() {
    let origin = Origin::start(origin::hang_up());
    let shim = Shim::start(config(origin.addr));
    let page = fetch(shim.addr, "/", &[]);
    assert_eq!((page.status, page.field("cache-control")), (502, Some("no-store")));
    // A cache must not store the whoopsie page, just as a cache must not store a 5xx of the origin. So the guard
    // `error` applies.
    let metrics = settled(&shim, 1);
    assert_eq!(counted(&metrics, "edgeshim_cache_guards_total", &["guard"]), table(&[(["error"], 1)]));
}

#[test]
fn series_when_shim_has_just_started_then_are_present_with_value_0() {
    let shim = Shim::start(config(ClosedPort::new().addr).with("[beacon]\nsources = [\"dyn\"]"));
    let metrics = shim.metrics();
    let mut missing = Vec::new();
    let mut zero = |name: &str, labels: &[(&str, &str)]| {
        let found: Vec<_> = metrics.matching(name, labels).collect();
        if found.is_empty() || found.iter().any(|series| series.value != 0.0) {
            missing.push(format!("{name} {labels:?}"));
        }
    };
    for provider in LABELS {
        let provider = ("provider", provider);
        zero("edgeshim_in_flight", &[provider]);
        for reason in ["malformed", "header_timeout", "unknown_provider", "host", "loop", "method", "body_too_large"] {
            zero("edgeshim_refused_total", &[provider, ("reason", reason)]);
        }
        for class in CLASSES {
            let class = ("class", class);
            zero("edgeshim_pulls_total", &[provider, class, ("code", "200")]);
            zero("edgeshim_pull_bytes_total", &[provider, class]);
            for part in ["bucket", "sum", "count"] {
                zero(&format!("edgeshim_pull_seconds_{part}"), &[provider, class]);
            }
            for result in ["not_modified", "modified"] {
                zero("edgeshim_revalidations_total", &[provider, class, ("result", result)]);
            }
        }
    }
    for class in CLASSES {
        let class = [("class", class)];
        for name in ["origin_bytes_total", "gzip_input_bytes_total", "gzip_output_bytes_total", "cache_rewrites_total"]
        {
            zero(&format!("edgeshim_{name}"), &class);
        }
        for part in ["bucket", "sum", "count"] {
            zero(&format!("edgeshim_origin_seconds_{part}"), &class);
        }
    }
    for source in ["akamai", "edgecast", "fastly", "dyn", "other"] {
        zero("edgeshim_beacons_total", &[("source", source)]);
    }
    for cause in
        ["refused", "connect_timeout", "unreachable", "reset", "closed", "timeout", "broken_head", "cut", "stalled"]
    {
        zero("edgeshim_origin_faults_total", &[("cause", cause)]);
    }
    for guard in ["set_cookie", "authorization", "error", "vary_star", "vary_user_agent", "vary_cookie", "assignment"] {
        zero("edgeshim_cache_guards_total", &[("guard", guard)]);
    }
    for name in ["connections", "origin_connections", "waiting", "access_log_dropped_total"] {
        zero(&format!("edgeshim_{name}"), &[]);
    }
    assert!(missing.is_empty(), "these series are missing or are not 0:\n{}", missing.join("\n"));
    assert!(
        (metrics.value("edgeshim_build_info", &[("version", env!("CARGO_PKG_VERSION"))]) - 1.0).abs() < f64::EPSILON
    );
    assert!(metrics.value("edgeshim_config_loaded_timestamp_seconds", &[]) > 1.7e9);
}

/// Returns the names and labels of all series. Leaves out series whose label `code` is not 200.
fn names(metrics: &Metrics) -> BTreeSet<String> {
    let odd = |(label, value): &(String, String)| label == "code" && value != "200";
    let series = metrics.series.iter().filter(|series| !series.labels.iter().any(odd));
    series.map(|series| format!("{} {:?}", series.name, series.labels)).collect()
}

/// Sends `count` requests with invented values over two connections. The values of each request contain a number. The
/// first number is `from`.
fn flood(shim: &Shim, origin: &Origin, from: u32, count: u32) {
    const AT_ONCE: u32 = 25;
    std::thread::scope(|scope| {
        for part in 0..2 {
            scope.spawn(move || {
                let mut client = Raw::connect(shim.addr).patient(PATIENCE * 4);
                let mut numbers = (from..from + count).filter(|number| number % 2 == part).peekable();
                while numbers.peek().is_some() {
                    let mut sent = String::new();
                    for n in numbers.by_ref().take(AT_ONCE as usize) {
                        let method = if n % 4 < 2 { "GET".to_owned() } else { format!("INVENT{n}") };
                        let target =
                            if n % 5 == 0 { format!("{GIF}?source=cdn{n}") } else { format!("/{n}/p{n}.x{n}") };
                        // A beacon with an invented method gets a 405.
                        let _ = write!(
                            sent,
                            "{method} {target} HTTP/1.1\r\nHost: h{n}.test\r\nX-CDN-Provider: cdn-{n}\r\n\
                             Accept-Language: l{n}\r\nX-Invented-{n}: {n}\r\nCDN-Loop: c{n}\r\n\r\n"
                        );
                    }
                    client.send(&sent);
                    for _ in 0..sent.matches("HTTP/1.1\r\n").count() {
                        let response = client.response().expect("a response");
                        assert!(response.complete && [200, 405].contains(&response.status), "{response:?}");
                    }
                    origin.forget();
                }
            });
        }
    });
}

#[test]
fn series_and_memory_when_clients_invent_values_then_bounded() {
    let origin = Origin::start(origin::fixed(200, &[("Content-Type", "text/html")], "x"));
    let shim = Shim::start(config(origin.addr));
    flood(&shim, &origin, 0, 2000);
    let before = settled(&shim, 1600);
    let rss = shim.rss_kib();
    flood(&shim, &origin, 10_000, 10_000);
    let after = settled(&shim, 1600 + 8000);
    let grown = shim.rss_kib().saturating_sub(rss);
    let new: Vec<_> = names(&after).difference(&names(&before)).cloned().collect();
    assert!(new.is_empty(), "the invented values created these series: {new:?}");
    assert_eq!(names(&after), names(&before));
    assert_eq!(counted(&after, "edgeshim_pulls_total", &["provider"]), table(&[(["other"], 9600)]));
    assert!(grown < 8 << 10, "the memory has grown by {grown} KiB from {rss} KiB");
    for invented in ["cdn-1", "INVENT", "h10", "/p1"] {
        assert!(!after.text.contains(invented), "the metrics contain the invented value {invented}");
    }
}

#[test]
fn connection_when_closed_without_a_request_then_not_counted_as_pull_or_refusal() {
    let origin = Origin::start(origin::fixed(200, &[], "x"));
    let shim = Shim::start(config(origin.addr));
    drop(Raw::connect(shim.addr));
    let mut closed = Raw::connect(shim.addr);
    assert_eq!(closed.finish().end(), End::Closed);
    let mut used = Raw::connect(shim.addr);
    ask(&mut used, "GET", "/", &[]);
    drop(used);
    let metrics = shim.wait_metrics(|metrics| {
        metrics.count("edgeshim_pulls_total", &[]) >= 1 && metrics.count("edgeshim_connections", &[]) == 0
    });
    assert_eq!(metrics.count("edgeshim_pulls_total", &[]), 1);
    assert_eq!(metrics.count("edgeshim_refused_total", &[]), 0, "{}", metrics.text);
}
