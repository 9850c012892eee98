//! Logs that CDNs push: the formats of batches, the counts in the metrics, the offload, and refused batches.

mod support;

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use support::origin::{ClosedPort, fixed};
use support::raw::{exchange, fetch, request};
use support::shim::Config;
use support::{Metrics, Origin, PATIENCE, Raw, Response, Shim, wait_until};

const TOKEN: (&str, &str) = ("Authorization", "Bearer common-token");
const GZIP: (&str, &str) = ("Content-Encoding", "gzip");

fn config(origin: impl std::fmt::Display) -> Config {
    Shim::config(origin).with(
        "[edge_logs]\ntoken = \"common-token\"\n\
         [[provider]]\nname = \"fastly\"\n\
         [[provider]]\nname = \"cloudflare\"\nedge_log_token = \"own-token\"\n\
         [[provider]]\nname = \"akamai\"\nedge_log_sampling = 10\n\
         [[provider]]\nname = \"cloudfront\"\n\
         [[provider]]\nname = \"mine\"\nedge_log_fields = { time = 1, bytes = 3, result = \"cache\" }",
    )
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn push(shim: &Shim, provider: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
    exchange(shim.addr, request("POST", &format!("/.edgeshim/edge-logs/{provider}"), fields, body))
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).expect("writing to memory does not fail");
    encoder.finish().expect("writing to memory does not fail")
}

/// Returns a log line in Fastly's format.
fn fastly(time: u64, state: &str, bytes: u64) -> String {
    format!(
        "{{\"timestamp\":{time},\"url\":\"/a\",\"response_state\":\"{state}\",\"response_status\":200,\
         \"response_body_size\":{bytes}}}\n"
    )
}

/// Returns three numbers of lines: lines that were parsed, lines that could not be parsed, and lines whose time is
/// outside of the window.
fn lines(metrics: &Metrics, provider: &str) -> [u64; 3] {
    ["parsed", "unparsed", "outside"]
        .map(|result| metrics.count("edgeshim_edge_log_lines_total", &[("provider", provider), ("result", result)]))
}

/// Returns the number of requests by result: hit, miss, pass, error, other.
fn requests(metrics: &Metrics, provider: &str) -> [u64; 5] {
    ["hit", "miss", "pass", "error", "other"]
        .map(|result| metrics.count("edgeshim_edge_requests_total", &[("provider", provider), ("result", result)]))
}

fn batches(metrics: &Metrics, provider: &str, result: &str) -> u64 {
    metrics.count("edgeshim_edge_log_batches_total", &[("provider", provider), ("result", result)])
}

fn bytes(metrics: &Metrics, provider: &str) -> u64 {
    metrics.count("edgeshim_edge_bytes_total", &[("provider", provider)])
}

#[test]
fn batch_when_sent_as_lines_array_or_gzip_then_has_the_same_counts() {
    let shim = Shim::start(config(ClosedPort::new().addr).with("[identity]\nunknown = \"reject\""));
    let start = shim.metrics();
    assert_eq!((lines(&start, "fastly"), requests(&start, "fastly"), bytes(&start, "fastly")), ([0; 3], [0; 5], 0));
    let text = [fastly(now(), "HIT-CLUSTER", 10), fastly(now(), "MISS", 20), fastly(now(), "PASS", 30)].concat();
    let array = format!("[{}]", text.trim_end().replace('\n', ","));
    let json = ("Content-Type", "application/json");
    let sent = [
        push(&shim, "fastly", &[TOKEN], text.as_bytes()),
        push(&shim, "FASTLY", &[TOKEN, ("Content-Type", "application/x-ndjson")], text.trim_end().as_bytes()),
        push(&shim, "fastly", &[TOKEN, json], array.as_bytes()),
        push(&shim, "fastly", &[TOKEN, json, GZIP], &gzip(array.as_bytes())),
        push(&shim, "fastly", &[TOKEN, GZIP], &[gzip(text.as_bytes()), gzip(text.as_bytes())].concat()),
        push(&shim, "fastly", &[TOKEN, ("Content-Type", "application/octet-stream")], &gzip(text.as_bytes())),
    ];
    for response in &sent {
        assert_eq!(response.status, 200, "{response:?}");
        assert!(response.problems.is_empty() && response.field("cache-control") == Some("no-store"), "{response:?}");
    }
    assert_eq!(sent[0].json(), serde_json::json!({ "parsed": 3, "unparsed": 0, "outside": 0 }));
    let metrics = shim.metrics();
    assert_eq!(lines(&metrics, "fastly"), [21, 0, 0]);
    assert_eq!(requests(&metrics, "fastly"), [7, 7, 7, 0, 0]);
    assert_eq!((bytes(&metrics, "fastly"), batches(&metrics, "fastly", "counted")), (420, 6));
    assert!(metrics.count("edgeshim_pulls_total", &[]) == 0, "a batch must not be counted as a pull");
}

#[test]
fn batch_when_provider_has_another_log_format_then_fields_of_that_format_are_read() {
    let shim = Shim::start(config(ClosedPort::new().addr));
    let time = now();
    let cloudflare = format!(
        "{{\"EdgeStartTimestamp\":{time},\"CacheCacheStatus\":\"hit\",\"EdgeResponseBytes\":7,\
         \"EdgeResponseStatus\":200}}"
    );
    let own = ("Authorization", "bearer own-token");
    assert_eq!(push(&shim, "cloudflare", &[own], cloudflare.as_bytes()).status, 200);
    let akamai =
        format!("{{\"reqTimeSec\":\"{time}.5\",\"cacheStatus\":\"0\",\"bytes\":\"3\",\"statusCode\":\"200\"}}\n");
    // The password of Basic is the token: YTpjb21tb24tdG9rZW4= is "a:common-token".
    let basic = ("Authorization", "Basic YTpjb21tb24tdG9rZW4=");
    assert_eq!(push(&shim, "akamai", &[basic], akamai.repeat(2).as_bytes()).status, 200);
    let mine = format!("{time}\t200\t5\n{{\"time\":{time},\"cache\":\"pass\",\"bytes\":6}}\n");
    assert_eq!(push(&shim, "mine", &[TOKEN, ("Content-Type", "text/plain")], mine.as_bytes()).status, 200);
    let metrics = shim.metrics();
    assert_eq!((requests(&metrics, "cloudflare"), bytes(&metrics, "cloudflare")), ([1, 0, 0, 0, 0], 7));
    // With `edge_log_sampling = 10`, each line counts as ten requests.
    assert_eq!((requests(&metrics, "akamai"), bytes(&metrics, "akamai")), ([0, 20, 0, 0, 0], 60));
    assert_eq!(lines(&metrics, "akamai"), [2, 0, 0]);
    assert_eq!((requests(&metrics, "mine"), bytes(&metrics, "mine")), ([0, 0, 1, 0, 1], 11));
}

#[test]
fn batch_when_firehose_sends_the_same_batch_twice_then_counted_once() {
    let shim = Shim::start(config(ClosedPort::new().addr));
    let columns: Vec<_> = (1..=25)
        .map(|number| match number {
            1 => format!("{}.123", now()),
            4 => "200".to_owned(),
            5 => "1000".to_owned(),
            25 => "Hit".to_owned(),
            _ => "-".to_owned(),
        })
        .collect();
    let line = format!("{}\n", columns.join("\t"));
    let data = base64(line.as_bytes());
    let body = format!(
        "{{\"requestId\":\"ed4acda5-034f\",\"timestamp\":1578090901599,\
         \"records\":[{{\"data\":\"{data}\"}},{{\"data\":\"{data}\"}}]}}"
    );
    let key = ("X-Amz-Firehose-Access-Key", "common-token");
    let id = ("X-Amz-Firehose-Request-Id", "ed4acda5-034f");
    let json = ("Content-Type", "application/json");
    for _ in 0..2 {
        let response = push(&shim, "cloudfront", &[key, id, json, GZIP], &gzip(body.as_bytes()));
        assert_eq!(response.field("content-type"), Some("application/json"));
        assert_eq!((response.status, &response.json()["requestId"]), (200, &serde_json::json!("ed4acda5-034f")));
        assert!(response.json()["timestamp"].as_u64().is_some_and(|millis| millis / 1000 + 60 > now()), "{response:?}");
    }
    let metrics = shim.metrics();
    assert_eq!((requests(&metrics, "cloudfront"), bytes(&metrics, "cloudfront")), ([2, 0, 0, 0, 0], 2000));
    assert_eq!((batches(&metrics, "cloudfront", "counted"), batches(&metrics, "cloudfront", "repeated")), (1, 1));
    // A line that is sent without an envelope is counted again, because it has no request id.
    assert_eq!(push(&shim, "cloudfront", &[TOKEN], line.as_bytes()).status, 200);
    assert_eq!(lines(&shim.metrics(), "cloudfront"), [3, 0, 0]);
    // Without Firehose's header field, an envelope is recognised in any order of its members.
    let turned = format!("{{\"records\":[{{\"data\":\"{data}\"}}],\"requestId\":\"other\"}}");
    let response = push(&shim, "cloudfront", &[TOKEN], turned.as_bytes());
    assert_eq!((response.status, &response.json()["requestId"]), (200, &serde_json::json!("other")));
    assert_eq!(lines(&shim.metrics(), "cloudfront"), [4, 0, 0]);
    let cut = &body[..body.len() - 2];
    assert_eq!(push(&shim, "cloudfront", &[key, id, json], cut.as_bytes()).status, 400);
    assert_eq!(lines(&shim.metrics(), "cloudfront"), [4, 0, 0]);
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number = group.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = usize::try_from(number >> (18 - 6 * place) & 63).expect("six bits");
            text.push(if place > group.len() { '=' } else { char::from(DIGITS[digit]) });
        }
    }
    text
}

#[test]
fn line_when_damaged_or_outside_of_the_window_then_counted_only_as_a_line() {
    let shim = Shim::start(config(ClosedPort::new().addr));
    let time = now();
    let text = [
        fastly(time, "HIT", 10),
        "not json\n".to_owned(),
        "{\"timestamp\":\n\n".to_owned(),
        fastly(time, "HIT", 1).replace("200", "\"abc\""),
        fastly(time, "HIT", 1).replace(":1}", ":-1}"),
        fastly(time, "HIT", 1).replace(":1}", ":1.5}"),
        fastly(time, "HIT", 1).replace(":1}", ":99999999999999999999}"),
        format!("{{\"timestamp\":{time},\"x\":\"{}\"}}\n", "x".repeat(70_000)),
        fastly(time - 400, "HIT", 100),
        fastly(time + 400, "HIT", 100),
        fastly(time, "HIT", 1).trim_end().trim_end_matches('}').to_owned(),
    ]
    .concat();
    let response = push(&shim, "fastly", &[TOKEN], text.as_bytes());
    assert_eq!((response.status, response.json()["unparsed"].as_u64()), (200, Some(8)));
    let metrics = shim.metrics();
    assert_eq!(lines(&metrics, "fastly"), [1, 8, 2]);
    assert_eq!((requests(&metrics, "fastly"), bytes(&metrics, "fastly")), ([1, 0, 0, 0, 0], 10));
}

#[test]
fn batch_when_refused_then_status_shows_the_reason_and_no_line_is_counted() {
    let shim = Shim::start(config(ClosedPort::new().addr).with("[edge_logs]\nmax_body = \"2KiB\""));
    let line = fastly(now(), "HIT", 10);
    let body = line.as_bytes();
    let cut_gzip = gzip(&line.repeat(5).into_bytes());
    let bomb = gzip(&vec![b' '; 30 * 1024]);
    let cases = [
        (push(&shim, "fastly", &[], body), 401, "other", "token", 0),
        (push(&shim, "fastly", &[("Authorization", "Bearer common-tokem")], body), 401, "fastly", "token", 1),
        (push(&shim, "nobody", &[("Authorization", "Bearer x")], body), 401, "other", "token", 1),
        (push(&shim, "cloudflare", &[TOKEN], body), 401, "cloudflare", "token", 1),
        (push(&shim, "nobody", &[TOKEN], body), 404, "other", "provider", 1),
        (push(&shim, "", &[TOKEN], body), 404, "other", "provider", 2),
        (fetch(shim.addr, "/.edgeshim/edge-logs/fastly", &[TOKEN]), 405, "fastly", "method", 1),
        (push(&shim, "fastly", &[TOKEN, ("Content-Type", "text/html")], body), 415, "fastly", "media_type", 1),
        (push(&shim, "fastly", &[TOKEN, ("Content-Encoding", "br")], body), 415, "fastly", "media_type", 2),
        (push(&shim, "fastly", &[TOKEN], &[b'x'; 2049]), 413, "fastly", "too_large", 1),
        (
            push(
                &shim,
                "fastly",
                &[TOKEN, ("Transfer-Encoding", "chunked")],
                &[b"801\r\n", &[b'x'; 2049][..], b"\r\n0\r\n\r\n"].concat(),
            ),
            413,
            "fastly",
            "too_large",
            2,
        ),
        (push(&shim, "fastly", &[TOKEN, GZIP], &bomb), 413, "fastly", "too_large", 3),
        (push(&shim, "fastly", &[TOKEN, GZIP], body), 400, "fastly", "gzip", 1),
        (push(&shim, "fastly", &[TOKEN, GZIP], &cut_gzip[..cut_gzip.len() - 9]), 400, "fastly", "gzip", 2),
        (push(&shim, "fastly", &[TOKEN], format!("[{}", line.trim_end()).as_bytes()), 400, "fastly", "json", 1),
        (push(&shim, "fastly", &[TOKEN], format!("[{},]", line.trim_end()).as_bytes()), 400, "fastly", "json", 2),
        (
            push(&shim, "fastly", &[TOKEN], format!("[{}]]", line.replace('}', "]")).as_bytes()),
            400,
            "fastly",
            "json",
            3,
        ),
        (push(&shim, "fastly", &[TOKEN], br#"{"records":[{"data":"YQ=="}]}"#), 400, "fastly", "json", 4),
    ];
    for (position, (response, status, ..)) in cases.iter().enumerate() {
        assert_eq!(response.status, *status, "case {position}: {response:?}");
        assert!(response.text().ends_with('\n') && response.text().len() > 10, "case {position}: {}", response.text());
    }
    assert_eq!(cases[0].0.field("www-authenticate"), Some("Bearer"));
    assert_eq!(cases[6].0.field("allow"), Some("POST, PUT"));
    let metrics = shim.metrics();
    assert_eq!(lines(&metrics, "fastly"), [0; 3]);
    assert_eq!(bytes(&metrics, "fastly"), 0);
    for (provider, result, count) in [
        ("fastly", "token", 2),
        ("cloudflare", "token", 1),
        ("other", "token", 1),
        ("other", "provider", 2),
        ("fastly", "method", 1),
        ("fastly", "media_type", 2),
        ("fastly", "too_large", 3),
        ("fastly", "gzip", 2),
        ("fastly", "json", 4),
    ] {
        assert_eq!(batches(&metrics, provider, result), count, "{provider} {result}");
    }
}

/// The first lines of a batch of fastly.
const HEAD: &str =
    "POST /.edgeshim/edge-logs/fastly HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer common-token\r\n";

/// Begins four batches of `length` bytes. At most four batches of one provider are read at the same time. The thread
/// that reads the batches returns the permit of an earlier batch a moment after that batch has ended.
fn take_all_permits(shim: &Shim, length: usize) -> Vec<Raw> {
    let mut open = Vec::new();
    let all_begin = || {
        let mut client = Raw::connect(shim.addr);
        client.send(format!("{HEAD}Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n"));
        if client.some("a response").starts_with(b"HTTP/1.1 100") {
            open.push(client);
        }
        open.len() == 4
    };
    assert!(wait_until(PATIENCE, all_begin), "the earlier batch has not returned its permit");
    open
}

#[test]
fn batch_when_connection_breaks_then_no_line_is_counted_and_permit_is_free() {
    let shim = Shim::start(config(ClosedPort::new().addr));
    let line = fastly(now(), "HIT", 10);
    let mut client = Raw::connect(shim.addr);
    client.send(format!("{HEAD}Content-Length: 5000\r\n\r\n{line}{line}"));
    client.reset();
    assert!(
        wait_until(PATIENCE, || shim.metrics().count("edgeshim_connections", &[]) == 0),
        "the broken connection is still open"
    );
    let mut open = take_all_permits(&shim, line.len());
    let busy = push(&shim, "fastly", &[TOKEN], line.as_bytes());
    assert_eq!((busy.status, busy.field("retry-after")), (503, Some("5")));
    assert_eq!(push(&shim, "akamai", &[TOKEN], b"{}\n").status, 200, "another provider must get a permit");
    for client in &mut open {
        client.send(&line);
        assert_eq!(client.response().expect("a response").status, 200);
    }
    assert_eq!(push(&shim, "fastly", &[TOKEN], line.as_bytes()).status, 200);
    assert_eq!(lines(&shim.metrics(), "fastly"), [5, 0, 0]);
}

#[test]
fn batch_when_bytes_arrive_too_slowly_then_refused_with_408_counted_as_late_and_permit_is_free() {
    let config = config(ClosedPort::new().addr).with("[server]\nbody_timeout = \"1s\"");
    let shim = Shim::start(config);
    let mut client = Raw::connect(shim.addr).patient(Duration::from_millis(100));
    client.send(format!("{HEAD}Content-Length: 5000\r\n\r\n"));
    // Each pause is shorter than the timeout.
    let response = (0..600).find_map(|_| client.send(b" ").more().ok()).expect("the batch must be refused");
    assert!(response.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&response));
    assert_eq!(batches(&shim.metrics(), "fastly", "late"), 1);
    take_all_permits(&shim, 10);
}

#[test]
fn line_when_cdn_sent_the_request_then_request_is_not_counted() {
    let shim = Shim::start(config(ClosedPort::new().addr));
    let edge =
        |is_edge: bool| fastly(now(), "HIT", 10).replace("\"url\"", &format!("\"fastly_is_edge\":{is_edge},\"url\""));
    assert_eq!(push(&shim, "fastly", &[TOKEN], [edge(true), edge(false)].concat().as_bytes()).status, 200);
    let metrics = shim.metrics();
    assert_eq!(lines(&metrics, "fastly"), [2, 0, 0]);
    assert_eq!((requests(&metrics, "fastly"), bytes(&metrics, "fastly")), ([1, 0, 0, 0, 0], 10));
}

#[test]
fn test_request_when_sent_by_a_cdn_then_accepted_and_no_line_is_counted() {
    let shim = Shim::start(config(ClosedPort::new().addr));
    let challenge = fetch(shim.addr, "/.well-known/fastly/logging/challenge", &[]);
    assert_eq!((challenge.status, challenge.text().as_str()), (200, "*\n"));
    let test =
        push(&shim, "cloudflare", &[("Authorization", "Bearer own-token"), GZIP], &gzip(b"{\"content\":\"tests\"}"));
    assert_eq!(test.status, 200);
    assert_eq!(push(&shim, "fastly", &[TOKEN], b"").status, 200);
    let metrics = shim.metrics();
    assert_eq!((lines(&metrics, "cloudflare"), batches(&metrics, "cloudflare", "test")), ([0; 3], 1));
}

#[test]
fn endpoint_when_no_token_is_configured_then_requests_reach_the_origin() {
    let origin = Origin::start(fixed(200, &[], b"origin"));
    let shim = Shim::start(Shim::config(origin.url()).with("[[provider]]\nname = \"fastly\""));
    for target in ["/.edgeshim/edge-logs/fastly", "/.well-known/fastly/logging/challenge"] {
        assert_eq!(fetch(shim.addr, target, &[TOKEN]).text(), "origin", "{target}");
    }
    assert!(!shim.metrics().text.contains("edgeshim_edge_"));
}

#[test]
fn offload_when_logs_arrive_then_equals_the_share_that_caused_no_pulls() {
    let origin = Origin::start(fixed(200, &[("Content-Type", "image/png")], &[b'x'; 100]));
    let shim = Shim::start(config(origin.url()));
    let start = shim.metrics();
    for name in ["edgeshim_offload_ratio", "edgeshim_edge_log_lag_seconds", "edgeshim_share_ratio"] {
        assert!(!start.text.contains(name), "{name} has a value before the first log");
    }
    for _ in 0..10 {
        assert_eq!(fetch(shim.addr, "/a.png", &[("X-CDN-Provider", "fastly")]).status, 200);
    }
    assert_eq!(fetch(shim.addr, "/a.png", &[("X-CDN-Provider", "akamai")]).status, 200);
    let log: String = (0..100).map(|_| fastly(now(), "HIT", 20)).collect();
    assert_eq!(push(&shim, "fastly", &[TOKEN], log.as_bytes()).status, 200);
    let metrics = shim.metrics();
    let near = |value: f64, expected: f64| (value - expected).abs() < 1e-6;
    let offload = |of| metrics.value("edgeshim_offload_ratio", &[("provider", "fastly"), ("of", of)]);
    assert!(near(offload("requests"), 0.9) && near(offload("bytes"), 0.5), "{}", metrics.text);
    let lag = metrics.value("edgeshim_edge_log_lag_seconds", &[("provider", "fastly")]);
    assert!((-1.0..60.0).contains(&lag), "{lag}");
    let share = |provider| metrics.value("edgeshim_share_ratio", &[("provider", provider)]);
    assert!(near(share("fastly"), 10.0 / 11.0) && near(share("akamai"), 1.0 / 11.0), "{}", metrics.text);
    assert_eq!(
        metrics.matching("edgeshim_offload_ratio", &[("provider", "akamai")]).count(),
        0,
        "the offload must be absent without a log"
    );
}

#[test]
fn field_when_missing_in_every_line_then_all_workers_together_warn_once() {
    let mut shim = Shim::start(config(ClosedPort::new().addr).with("[server]\nworkers = 2"));
    let log = fastly(now(), "HIT", 20).replace("response_state", "cache_state").repeat(3);
    // While both connections are open, each worker has one of them.
    let mut clients = [Raw::connect(shim.addr), Raw::connect(shim.addr)];
    for client in &mut clients {
        client.send(request("POST", "/.edgeshim/edge-logs/fastly", &[TOKEN], log.as_bytes()));
    }
    for client in &mut clients {
        assert_eq!(client.response().expect("a response").status, 200);
    }
    let named =
        |stderr: &str| stderr.contains("no line of a batch has response_state") && stderr.contains("edge_log_fields");
    assert!(wait_until(PATIENCE, || named(&shim.stderr())), "{}", shim.stderr());
    assert_eq!(requests(&shim.metrics(), "fastly"), [0, 0, 0, 0, 6]);
    shim.signal("TERM");
    shim.wait_exit(PATIENCE);
    assert_eq!(shim.stderr().matches("no line of a batch").count(), 1, "{}", shim.stderr());
}
