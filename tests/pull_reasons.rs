//! The reason of each pull (why the CDN pulls) in the metrics and in the access log, and the list of the top URLs.

mod support;

use support::origin::respond;
use support::raw::{exchange, fetch, request};
use support::{After, Metrics, Origin, PATIENCE, Response, Shim, temp_dir, wait_until};

const FASTLY: (&str, &str) = ("X-CDN-Provider", "fastly");
const AKAMAI: (&str, &str) = ("X-CDN-Provider", "akamai");

/// An origin whose responses can be stored for a minute. Exceptions: `/private` must not be stored by a CDN, `/short`
/// has the lifetime 0, and `/down` gets no response.
fn origin() -> Origin {
    Origin::start(|request, conn| {
        let path = request.target.split('?').next().unwrap_or_default();
        let caching = match path {
            "/private" => "private",
            "/short" => "max-age=0",
            _ => "max-age=60",
        };
        let status = if request.field("if-none-match").is_some() { 304 } else { 200 };
        let body: &[u8] = if path == "/down" { return After::Close } else { &[b'x'; 600] };
        let fields = [("Cache-Control", caching), ("Content-Type", "text/css"), ("ETag", "\"1\"")];
        respond(request, conn, status, &fields, if status == 304 { b"" } else { body })
    })
}

fn count(metrics: &Metrics, provider: &str, reason: &str) -> u64 {
    metrics.count("edgeshim_pull_reasons_total", &[("provider", provider), ("reason", reason)])
}

#[test]
fn reason_when_pull_ends_then_counted_in_the_metric_and_written_to_the_log() {
    let origin = origin();
    let folder = temp_dir();
    let log = folder.join("access.log");
    let shim = Shim::start(Shim::config(origin.url()).with(&format!(
        "[[provider]]\nname = \"fastly\"\n[[provider]]\nname = \"akamai\"\n[access_log]\noutput = \"file:{}\"",
        log.display()
    )));
    let get = |target: &str, fields: &[(&str, &str)]| fetch(shim.addr, target, fields);
    let gzip = ("Accept-Encoding", "gzip");
    let pulls: [(Response, &str); 17] = [
        (get("/a", &[FASTLY]), "first"),
        (get("/a", &[FASTLY]), "early"),
        (get("/a?x=1", &[FASTLY]), "variant"),
        (get("/a?x=1", &[FASTLY]), "early"),
        (get("/a", &[AKAMAI]), "elsewhere"),
        (get("/a", &[AKAMAI]), "early"),
        (get("/a", &[FASTLY, gzip]), "first"),
        (get("/a", &[FASTLY, gzip]), "early"),
        (get("/a", &[FASTLY, ("Range", "bytes=0-9")]), "slice"),
        (get("/a", &[FASTLY, ("If-None-Match", "\"1\"")]), "revalidation"),
        (exchange(shim.addr, request("HEAD", "/h", &[FASTLY, ("Connection", "close")], b"")), "first"),
        (get("/h", &[FASTLY]), "first"),
        (get("/short", &[FASTLY]), "first"),
        (get("/short", &[FASTLY]), "expired"),
        (get("/private", &[FASTLY]), "uncacheable"),
        (exchange(shim.addr, request("POST", "/a", &[FASTLY], b"x")), "uncacheable"),
        (get("/down", &[FASTLY]), "uncacheable"),
    ];
    let written = || std::fs::read_to_string(&log).unwrap_or_default();
    assert!(wait_until(PATIENCE, || written().lines().count() == pulls.len()), "{}", written());
    let lines: Vec<serde_json::Value> =
        written().lines().map(|line| serde_json::from_str(line).expect("each log line must be JSON")).collect();
    for (position, ((response, reason), line)) in pulls.iter().zip(&lines).enumerate() {
        assert_eq!(line["why"], *reason, "pull {position}: {response:?}");
    }
    let metrics = shim.metrics();
    for (reason, fastly, akamai) in [
        ("uncacheable", 3, 0),
        ("slice", 1, 0),
        ("revalidation", 1, 0),
        ("early", 3, 1),
        ("expired", 1, 0),
        ("variant", 1, 0),
        ("elsewhere", 0, 1),
        ("first", 5, 0),
    ] {
        let counts = (count(&metrics, "fastly", reason), count(&metrics, "akamai", reason));
        assert_eq!(counts, (fastly, akamai), "{reason}: {}", metrics.text);
    }
    let sum = |name| metrics.count(name, &[]);
    assert_eq!(sum("edgeshim_pull_reasons_total"), sum("edgeshim_pulls_total"));
}

#[test]
fn beacon_when_logged_then_line_has_no_reason() {
    let folder = temp_dir();
    let log = folder.join("access.log");
    let config = Shim::config(origin().url()).with(&format!("[access_log]\noutput = \"file:{}\"", log.display()));
    let shim = Shim::start(config);
    assert_eq!(fetch(shim.addr, "/status/images/beacon.gif?source=fastly", &[]).status, 200);
    let written = || std::fs::read_to_string(&log).unwrap_or_default();
    assert!(wait_until(PATIENCE, || written().ends_with('\n')), "the access log has no line");
    assert!(!written().contains("\"why\""), "{}", written());
    assert_eq!(shim.metrics().count("edgeshim_pull_reasons_total", &[]), 0);
}

#[test]
fn top_list_when_urls_are_pulled_then_lists_urls_without_queries_most_pulled_first() {
    let origin = origin();
    let shim = Shim::start(
        Shim::config(origin.url()).with("[[provider]]\nname = \"fastly\"\n[[provider]]\nname = \"akamai\""),
    );
    assert_eq!(fetch(shim.admin, "/api/top", &[]).json(), serde_json::json!([]));
    for (target, provider) in
        [("/a?token=secret", FASTLY), ("/b", FASTLY), ("/a?x=1", FASTLY), ("/a?x=1", FASTLY), ("/a", AKAMAI)]
    {
        assert_eq!(fetch(shim.addr, target, &[("Host", "www.test"), provider]).status, 200);
    }
    // The list counts a pull when the pull has arrived, and the bytes of a pull when the pull has ended.
    let top = || fetch(shim.admin, "/api/top", &[]).json();
    assert!(wait_until(PATIENCE, || top()[0]["bytes"] == 2400), "{}", top());
    let list = top();
    // The number of queries is an estimate. The hash of a query has a random key. So in one of 20 runs, two of the
    // three queries are in the same group.
    let queries = list[0]["queries"].as_u64().expect("a number");
    assert!(queries == 3 || queries == 2, "{list}");
    let expected = serde_json::json!([
        { "url": "www.test/a", "pulls": 4, "bytes": 2400, "providers": 2, "early": 1, "queries": queries, "error": 0 },
        { "url": "www.test/b", "pulls": 1, "bytes": 600, "providers": 1, "early": 0, "queries": 1, "error": 0 },
    ]);
    assert_eq!(list, expected);
}
