//! Tests of the access log. They check the keys of a line and the order of the keys. They check the values for each
//! kind of request, and that each pull and each beacon has one line. They also check that a request cannot forge a
//! line.
//!
//! Each test stops the shim before it reads the log file, so that the file is complete.

mod support;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::origin::ClosedPort;
use support::raw::{exchange, fetch, request};
use support::shim::Config;
use support::{After, Origin, PATIENCE, Raw, Shim, metrics, origin, temp_dir, wait_until};

/// The keys that every line has, in order.
const KEYS: [&str; 24] = [
    "time",
    "id",
    "provider",
    "claimed",
    "proof",
    "pop",
    "client",
    "method",
    "host",
    "path",
    "protocol",
    "class",
    "status",
    "bytes",
    "origin_status",
    "origin_bytes",
    "origin_ms",
    "total_ms",
    "encoding",
    "guard",
    "cause",
    "locale",
    "referer",
    "user_agent",
];
const GIF: &str = "/status/images/beacon.gif";

/// A JSON object that keeps its keys in their order, and also keeps repeated keys.
#[derive(Debug)]
struct Line(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Line;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Line(pairs))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl Line {
    fn parse(text: &str) -> Self {
        let line: Self = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
        let keys: Vec<_> = line.0.iter().map(|(key, _)| key.as_str()).collect();
        // Only the line of a pull has the key `why`. Only the line of a conditional pull has `revalidated` before
        // `why`.
        let keys = keys.strip_suffix(&["why"]).unwrap_or(&keys);
        assert_eq!(keys.strip_suffix(&["revalidated"]).unwrap_or(keys), KEYS, "{text}");
        line
    }

    fn of(&self, key: &str) -> &Value {
        &self.0.iter().find(|(have, _)| have == key).unwrap_or_else(|| panic!("the line has no key {key}: {self:?}")).1
    }

    fn text(&self, key: &str) -> &str {
        self.of(key).as_str().unwrap_or_else(|| panic!("{key} is not a string in {self:?}"))
    }

    fn number(&self, key: &str) -> u64 {
        self.of(key).as_u64().unwrap_or_else(|| panic!("{key} is not an integer in {self:?}"))
    }

    fn millis(&self, key: &str) -> f64 {
        self.of(key).as_f64().unwrap_or_else(|| panic!("{key} is not a number in {self:?}"))
    }
}

/// Configures two CDNs, two classes, and a log file in the folder of the configuration.
fn config(origin: impl fmt::Display, format: &str) -> Config {
    Shim::config(origin)
        .with(
            r#"
            [[provider]]
            name = "akamai"
            [[provider]]
            name = "fastly"
            [[class]]
            name = "image"
            path = ["*.png"]
            [[class]]
            name = "static"
            path = ["*.css"]
            [access_log]
            output = "file:access.log"
            "#,
        )
        .with(&format!("[access_log]\nformat = \"{format}\""))
}

/// Waits until `pulls` pulls and `beacons` beacons are counted, stops the shim and returns the lines of its log.
fn lines(mut shim: Shim, pulls: u64, beacons: u64) -> Vec<String> {
    let metrics = shim.wait_metrics(|metrics| {
        metrics.count("edgeshim_pulls_total", &[]) >= pulls
            && metrics.count("edgeshim_beacons_total", &[]) >= beacons
            && metrics.count("edgeshim_in_flight", &[]) == 0
    });
    assert_eq!(metrics.count("edgeshim_pulls_total", &[]), pulls, "{}", metrics.text);
    assert_eq!(metrics.count("edgeshim_beacons_total", &[]), beacons, "{}", metrics.text);
    assert_eq!(metrics.count("edgeshim_access_log_dropped_total", &[]), 0);
    shim.signal("TERM");
    assert!(shim.wait_exit(PATIENCE * 4).success(), "{}", shim.stderr());
    let text = std::fs::read_to_string(shim.dir.join("access.log")).expect("a log file in UTF-8");
    assert!(text.is_empty() || text.ends_with('\n'), "the last line of the log is incomplete");
    text.lines().map(str::to_owned).collect()
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that shows a time after 1970").as_secs()
}

#[test]
fn json_line_when_pull_is_logged_then_has_all_keys_in_order_with_correct_values() {
    let origin = Origin::start(|request, conn| {
        // The test expects that `origin_ms` is at least as long as this delay.
        std::thread::sleep(Duration::from_millis(30));
        let fields = [("Content-Type", "image/png"), ("Set-Cookie", "a=b"), ("Cache-Control", "max-age=60")];
        origin::respond(request, conn, 203, &fields, b"0123456789")
    });
    let shim = Shim::start(config(origin.addr, "json"));
    let started = unix_seconds();
    let fields = [
        ("Host", "img.Example.test:81"),
        ("X-CDN-Provider", "FastLY"),
        ("X-Request-Id", "made-by.the_CDN-1"),
        ("Referer", "https://example.test/?q=\"x\""),
        ("User-Agent", "curl/8 \u{e9}\\"),
        ("X-Forwarded-For", "203.0.113.9"),
    ];
    fetch(shim.addr, "/A%20b/c.PNG?x=1&y=%22", &fields);
    let received = origin.last().field("x-request-id").map(str::to_owned);
    let lines = lines(shim, 1, 0);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("{\"time\":\"") && lines[0].ends_with("\"}"), "{}", lines[0]);
    let line = Line::parse(&lines[0]);
    for (key, value) in [
        ("id", "made-by.the_CDN-1"),
        ("provider", "fastly"),
        ("claimed", "FastLY"),
        ("pop", ""),
        // The request has no proof, and its peer is not a trusted proxy. So the shim ignores X-Forwarded-For and logs
        // the address of the peer.
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("host", "img.Example.test:81"),
        ("path", "/A%20b/c.PNG?x=1&y=%22"),
        ("protocol", "HTTP/1.1"),
        ("class", "image"),
        ("encoding", "identity"),
        ("guard", "set_cookie"),
        ("cause", ""),
        ("locale", ""),
        ("referer", "https://example.test/?q=\"x\""),
        ("user_agent", "curl/8 \u{e9}\\"),
    ] {
        assert_eq!(line.text(key), value, "{key}");
    }
    assert!(!line.text("proof").is_empty());
    for (key, value) in [("status", 203), ("bytes", 10), ("origin_status", 203), ("origin_bytes", 10)] {
        assert_eq!(line.number(key), value, "{key}");
    }
    let (origin_ms, total_ms) = (line.millis("origin_ms"), line.millis("total_ms"));
    assert!(
        (30.0..30_000.0).contains(&origin_ms) && total_ms >= origin_ms,
        "origin_ms is {origin_ms}, total_ms is {total_ms}"
    );
    assert_eq!(received.as_deref(), Some("made-by.the_CDN-1"));
    // `time` is the time at which the head was complete, in UTC and in the format of RFC 3339.
    let time = line.text("time");
    let shape = regex::Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$").expect("a pattern");
    assert!(shape.is_match(time), "{time}");
    let (hours, rest) = time[11..].split_once(':').expect("hours");
    let of_day = hours.parse::<u64>().expect("hours") * 3600
        + rest[..2].parse::<u64>().expect("minutes") * 60
        + rest[3..5].parse::<u64>().expect("seconds");
    let late = (of_day + 86_400 - started % 86_400) % 86_400;
    assert!(late <= unix_seconds() - started, "the logged time {time} is in the future");
}

/// The expected values of a line: id, provider, class, status, bytes, origin status, origin bytes, cause, locale,
/// encoding.
type Row<'a> = (&'a str, &'a str, &'a str, u64, usize, Option<u64>, u64, &'a str, &'a str, &'a str);

#[test]
fn json_lines_when_requests_have_different_outcomes_then_have_correct_values() {
    let origin = Origin::start(|request, conn| match request.target.as_str() {
        "/silent" => origin::silent()(request, conn),
        "/hang-up" => After::Close,
        "/own" => origin::respond(request, conn, 503, &[], b"a bare 503"),
        "/cut" => origin::cut(10, 4)(request, conn),
        "/coded.css" => {
            let fields = [("Content-Type", "text/css"), ("Content-Encoding", "gzip")];
            origin::respond(request, conn, 200, &fields, b"so to speak")
        }
        "/a.css" => origin::respond(request, conn, 200, &[("Content-Type", "text/css")], &[b'a'; 5000]),
        _ => origin::respond(request, conn, 304, &[], b""),
    });
    let rules = "[identity]\nunknown = \"reject\"\n[origin]\nretries = 0\n\
                 [server]\nhosts = [\"shim.test\", \"127.0.0.1\"]\nmax_hops = 1";
    let shim = Shim::start(config(origin.addr, "json").with(rules));
    let id = |id: &'static str| ("X-Request-Id", id);
    let (fastly, html, gzip) = (("X-CDN-Provider", "fastly"), ("Accept", "text/html"), ("Accept-Encoding", "gzip"));
    assert_eq!(fetch(shim.addr, "/x.png", &[id("refused"), ("X-CDN-Provider", "cdn77")]).status, 403);
    assert_eq!(fetch(shim.addr, "/", &[id("misdirected"), fastly, ("Host", "else.test")]).status, 421);
    assert_eq!(fetch(shim.addr, "/", &[id("looping"), fastly, ("CDN-Loop", "edgeshim")]).status, 508);
    let mut leaving = Raw::connect(shim.addr);
    leaving.send(request("GET", "/silent", &[id("aborted"), fastly], b""));
    assert!(wait_until(PATIENCE, || origin.count() == 1), "the request did not reach the origin");
    leaving.reset();
    let page = fetch(shim.addr, "/hang-up", &[id("fault"), fastly, html, ("Accept-Language", "fr")]);
    assert_eq!((page.status, page.field("content-language")), (502, Some("fr")));
    let own = fetch(shim.addr, "/own", &[id("page"), fastly, html, gzip, ("Accept-Language", "de-AT")]);
    let cut = fetch(shim.addr, "/cut", &[id("cut"), fastly]);
    assert_eq!((own.status, own.field("content-encoding"), cut.complete), (503, Some("gzip"), false));
    let gzipped = fetch(shim.addr, "/a.css", &[id("gzip"), fastly, gzip]);
    assert_eq!(gzipped.field("content-encoding"), Some("gzip"));
    let coded = fetch(shim.addr, "/coded.css", &[id("coded"), fastly, gzip]);
    assert_eq!((coded.field("content-encoding"), coded.body.as_slice()), (Some("gzip"), &b"so to speak"[..]));
    assert_eq!(fetch(shim.addr, "/a.png", &[id("unchanged"), fastly, ("If-None-Match", "\"a\"")]).status, 304);
    let head = exchange(shim.addr, request("HEAD", "/a.css", &[id("head"), fastly], b""));
    assert_eq!(head.field("content-length"), Some("5000"));
    let old = exchange(
        shim.addr,
        "GET /a.css HTTP/1.0\r\nHost: shim.test\r\nX-Request-Id: old\r\nX-CDN-Provider: fastly\r\n\r\n",
    );
    assert_eq!(old.body.len(), 5000);
    let target = format!("{GIF}?source=fastly&server_identity=cache-fra1&reason=timeout&id=page");
    let pixel =
        fetch(shim.addr, &target, &[id("beacon"), ("Host", "browser.test"), ("Referer", "https://browser.test/")]);
    let posted = exchange(shim.addr, request("POST", GIF, &[id("posted")], b"x"));
    assert_eq!((pixel.status, posted.status), (200, 405));
    let lines = lines(shim, 12, 1);
    let parsed: Vec<Line> = lines.iter().map(|line| Line::parse(line)).collect();
    // The POST to the path of the beacon is neither a pull nor a beacon, but the log has a line for the POST too.
    assert_eq!(parsed.len(), 12 + 1 + 1, "{lines:#?}");
    let line = |id: &str| {
        let found = parsed.iter().find(|line| line.text("id") == id);
        found.unwrap_or_else(|| panic!("the log has no line with the id {id}"))
    };
    let rows: [Row<'_>; 14] = [
        ("refused", "other", "image", 403, 0, None, 0, "unknown_provider", "", ""),
        ("misdirected", "fastly", "other", 421, 0, None, 0, "host", "", ""),
        ("looping", "fastly", "other", 508, 0, None, 0, "loop", "", ""),
        ("aborted", "fastly", "other", 499, 0, None, 0, "", "", ""),
        ("fault", "fastly", "other", 502, page.body.len(), None, 0, "closed", "fr", ""),
        ("page", "fastly", "other", 503, own.body.len(), Some(503), 10, "", "de", "gzip"),
        ("cut", "fastly", "other", 200, cut.body.len(), Some(200), 4, "cut", "", ""),
        ("gzip", "fastly", "static", 200, gzipped.body.len(), Some(200), 5000, "", "", "gzip"),
        ("coded", "fastly", "static", 200, 11, Some(200), 11, "", "", "gzip"),
        ("unchanged", "fastly", "image", 304, 0, Some(304), 0, "", "", ""),
        ("head", "fastly", "static", 200, 0, Some(200), 0, "", "", ""),
        ("old", "fastly", "static", 200, 5000, Some(200), 5000, "", "", ""),
        ("beacon", "none", "", 200, pixel.body.len(), None, 0, "", "", ""),
        ("posted", "none", "", 405, 0, None, 0, "", "", ""),
    ];
    let mut wrong = Vec::new();
    for (id, provider, class, status, bytes, origin_status, origin_bytes, cause, locale, encoding) in rows {
        let line = line(id);
        let mut expect = |key: &str, right: bool| {
            if !right {
                wrong.push(format!("{id}: {key} is {}", line.of(key)));
            }
        };
        expect("provider", line.text("provider") == provider);
        expect("class", line.of("class").as_str().unwrap_or_default() == class);
        expect("status", line.number("status") == status);
        expect("bytes", line.number("bytes") == bytes as u64);
        expect("origin_status", line.of("origin_status").as_u64() == origin_status);
        expect("origin_bytes", line.number("origin_bytes") == origin_bytes);
        expect("origin_ms", line.of("origin_ms").is_null() == origin_status.is_none());
        // The cause in the row `page` is not compared, because the whoopsie page has replaced the origin's 503.
        expect("cause", id == "page" || line.text("cause") == cause);
        expect("guard", line.text("guard") == if ["fault", "page"].contains(&id) { "error" } else { "" });
        expect("locale", line.text("locale") == locale);
        let plain = ["", "identity"].contains(&line.text("encoding"));
        expect("encoding", if encoding.is_empty() { plain } else { line.text("encoding") == encoding });
        expect("total_ms", line.millis("total_ms") >= line.of("origin_ms").as_f64().unwrap_or_default());
        expect("client", line.text("client") == "127.0.0.1");
    }
    assert!(wrong.is_empty(), "{}\nin {lines:#?}", wrong.join("\n"));
    assert_eq!((line("refused").text("claimed"), line("beacon").text("claimed")), ("cdn77", ""));
    assert_eq!((line("head").text("method"), line("posted").text("method")), ("HEAD", "POST"));
    assert_eq!((line("old").text("protocol"), line("misdirected").text("host")), ("HTTP/1.0", "else.test"));
    assert_eq!((line("beacon").text("path"), line("beacon").text("host")), (target.as_str(), "browser.test"));
    assert_eq!(line("beacon").text("referer"), "https://browser.test/");
    assert!(lines.iter().all(|l| l.contains(r#""revalidated":"not_modified""#) == l.contains(r#""id":"unchanged""#)));
}

#[test]
fn shim_when_folder_of_the_log_is_missing_then_names_the_file_and_asks_for_an_existing_folder() {
    let config = Shim::config(ClosedPort::new().addr).with("[access_log]\noutput = \"file:missing/access.log\"");
    let (status, stderr) = Shim::try_start_with(temp_dir(), config, |_| {}).err().expect("the shim must not start");
    assert_eq!(status.and_then(|status| status.code()), Some(2));
    assert!(stderr.contains("missing/access.log cannot be opened (No such file"), "{stderr}");
    assert!(stderr.contains("existing folder") && !stderr.contains("ulimit"), "{stderr}");
}

#[test]
fn log_when_four_clients_have_finished_then_has_one_line_for_each_pull_and_beacon() {
    const EACH: u32 = 150;
    let origin = Origin::start(|request, conn| {
        let status = request.target[1..4].parse().unwrap_or(200);
        origin::respond(request, conn, status, &[], &vec![b'x'; request.target.len() * 100])
    });
    let shim = Shim::start(config(origin.addr, "json"));
    let mut bytes = 0;
    std::thread::scope(|scope| {
        let clients: Vec<_> = ["fastly", "akamai", "cdn77", ""]
            .map(|provider| {
                let addr = shim.addr;
                scope.spawn(move || {
                    let mut client = Raw::connect(addr).patient(PATIENCE * 4);
                    let mut bytes = 0;
                    for number in 0..EACH {
                        let target = match number % 5 {
                            0 => format!("/200/{number}.png"),
                            1 => format!("/404/{number}"),
                            2 => format!("{GIF}?source={provider}&id={number}"),
                            3 => "/500".to_owned(),
                            _ => format!("/304/{number}"),
                        };
                        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\nX-CDN-Provider: {provider}\r\n\r\n"));
                        let response = client.response().expect("a response");
                        assert!(response.complete, "{response:?}");
                        if number % 5 != 2 {
                            bytes += response.body.len() as u64;
                        }
                    }
                    bytes
                })
            })
            .into_iter()
            .collect();
        bytes += clients.into_iter().map(|client| client.join().expect("a client thread")).sum::<u64>();
    });
    // A request with a malformed head gets a 400 and has no line in the log.
    assert_eq!(exchange(shim.addr, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n").status, 400);
    let (pulls, beacons) = (u64::from(EACH) * 4 * 4 / 5, u64::from(EACH) * 4 / 5);
    let metrics = shim.wait_metrics(|metrics| metrics.count("edgeshim_pulls_total", &[]) == pulls);
    let lines = lines(shim, pulls, beacons);
    assert_eq!(lines.len() as u64, pulls + beacons);
    let parsed: Vec<Line> = lines.iter().map(|line| Line::parse(line)).collect();
    let of = |line: &Line, key: &str| line.of(key).as_str().unwrap_or_default().to_owned();
    for series in metrics.matching("edgeshim_pulls_total", &[]) {
        let label = |name: &str| series.labels.iter().find(|(have, _)| have == name).map(|(_, value)| value.clone());
        let same = parsed.iter().filter(|line| {
            label("provider") == Some(of(line, "provider"))
                && label("class") == Some(of(line, "class"))
                && label("code") == Some(line.number("status").to_string())
        });
        assert_eq!(same.count() as u64, metrics::whole(series.value), "{series:?}");
    }
    let pulled: u64 = parsed.iter().filter(|line| !of(line, "class").is_empty()).map(|line| line.number("bytes")).sum();
    assert_eq!(
        (pulled, metrics.count("edgeshim_pull_bytes_total", &[])),
        (bytes, bytes),
        "log, metric and clients must agree"
    );
    let from_origin: u64 = parsed.iter().map(|line| line.number("origin_bytes")).sum();
    assert_eq!(from_origin, metrics.count("edgeshim_origin_bytes_total", &[]));
    let ids: std::collections::BTreeSet<_> = parsed.iter().map(|line| line.text("id")).collect();
    assert_eq!(ids.len(), lines.len(), "two lines have the same id");
    let mut received: Vec<_> =
        origin.requests().iter().filter_map(|r| r.field("x-request-id").map(str::to_owned)).collect();
    received.sort();
    let mut logged: Vec<_> =
        parsed.iter().filter(|line| !of(line, "class").is_empty()).map(|line| of(line, "id")).collect();
    logged.sort();
    assert_eq!(logged, received, "the ids in the log differ from the ids that the origin received");
}

/// How the shim treats a forged request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The request is valid HTTP. The shim serves and logs the request.
    Served,
    /// The request is not valid HTTP. The shim rejects the request.
    Refused,
    /// The target breaks RFC 3986. The shim may serve or reject the request.
    Either,
}

/// Forged requests. Each row has the expected treatment, then the target, the Referer and the User-Agent. Each forged
/// value must remain one value in the log.
const FORGED: [(Fate, &str, &[u8], &[u8]); 9] = [
    (Fate::Served, "/%0d%0a%22%5c%00%e2%80%a8", b"\" 200 1 \"-\" \"-\" fastly", b"\" fastly\\"),
    (Fate::Served, "/a'b(c);d=1,e?f=%22&g=]", b"\xff\xfe\xc2\x9b31m", b"\xe2\x80\xa8 \xe2\x80\xae sdrawkcab \t\\n"),
    (Fate::Served, "/ok", b"\"},{\"status\":500,\"bytes\":9,\"a\":\"", b"\\u0000 \\x22 %22 \\"),
    (Fate::Served, "/ok", b"-", b"\"\"\"\"\"\"\"\""),
    (Fate::Refused, "/ok", b"a\n{\"time\":\"1970\"}", b"b"),
    (Fate::Refused, "/ok", b"\x1b[2J", b"b"),
    (Fate::Refused, "/ok?source=fastly HTTP/1.1\" 200 1", b"a", b"b"),
    (Fate::Either, "/\"}{\"status\":500,\"x\":\"", b"a", b"b"),
    (Fate::Either, "/\u{e9}\u{202e}", b"a", b"b"),
];

/// Sends the forged requests. Returns the indices of the served requests, which have a line in the log.
fn forge(shim: &Shim) -> Vec<usize> {
    let mut served = Vec::new();
    for (number, (fate, target, referer, agent)) in FORGED.iter().enumerate() {
        let mut bytes =
            format!("GET {target} HTTP/1.1\r\nHost: a\r\nX-Request-Id: f{number}\r\nReferer: ").into_bytes();
        bytes.extend_from_slice(referer);
        bytes.extend_from_slice(b"\r\nUser-Agent: ");
        bytes.extend_from_slice(agent);
        bytes.extend_from_slice(b"\r\nConnection: close\r\n\r\n");
        let response = exchange(shim.addr, bytes).status;
        match fate {
            Fate::Served => assert_eq!(response, 200, "forged request {number}"),
            Fate::Refused => assert_eq!(response, 400, "forged request {number}"),
            Fate::Either => assert!([200, 400].contains(&response), "forged request {number}: {response}"),
        }
        if response == 200 {
            served.push(number);
        }
    }
    served
}

#[test]
fn json_log_when_requests_forge_lines_then_has_one_correct_line_for_each_served_request() {
    let origin = Origin::start(origin::fixed(200, &[], "x"));
    let shim = Shim::start(config(origin.addr, "json"));
    let served = forge(&shim);
    let count = served.len() as u64 + 1;
    let long = "l".repeat(9000);
    let agent = "u".repeat(20_000);
    fetch(shim.addr, &format!("/{long}"), &[("X-Request-Id", "long"), ("User-Agent", &agent), ("Referer", &agent)]);
    let lines = lines(shim, count, 0);
    assert_eq!(lines.len() as u64, count, "{lines:#?}");
    let parsed: Vec<Line> = lines.iter().map(|line| Line::parse(line)).collect();
    for (text, line) in lines.iter().zip(&parsed) {
        assert!(!text.contains(char::is_control), "{text:?}");
        assert!(!text.contains(['\u{2028}', '\u{202e}', '\u{9b}']), "{text:?}");
        assert_eq!((line.number("status"), line.number("bytes")), (200, 1));
    }
    for number in served {
        let line = parsed.iter().find(|line| line.text("id") == format!("f{number}")).expect("the line of the request");
        let (_, target, referer, agent) = FORGED[number];
        assert_eq!(line.text("path"), target, "forged request {number}");
        let sent = |bytes: &[u8]| String::from_utf8_lossy(bytes.trim_ascii()).into_owned();
        assert_eq!(line.text("referer"), sent(referer), "forged request {number}");
        assert_eq!(line.text("user_agent"), sent(agent), "forged request {number}");
    }
    let line = parsed.iter().find(|line| line.text("id") == "long").expect("the line of the long request");
    for key in ["path", "referer", "user_agent"] {
        let text = line.text(key);
        assert!((200..=4096).contains(&text.len()), "{key} is {} bytes long", text.len());
        assert!(text[1..].chars().all(|c| c == 'l' || c == 'u'), "{key} is {text}");
    }
}

/// Returns a pattern for a line in the NCSA combined format that ends with the provider:
/// `FRONT - - [time] "request" status bytes "referer" "agent" provider`. `front` is the pattern for FRONT.
fn combined(front: &str) -> regex::Regex {
    let quoted = r#""([^"]*)""#;
    regex::Regex::new(&format!(
        // tidy: a regular expression is easier to read on one line
        r"^{front} - - \[(\d\d/[A-Z][a-z][a-z]/\d{{4}}:\d\d:\d\d:\d\d \+0000)\] {quoted} (\d{{3}}) (\d+) {quoted} {quoted} (\S+)$"
    ))
    .expect("a pattern")
}

#[test]
fn combined_line_when_written_then_has_the_ncsa_values_and_ends_with_the_provider() {
    let origin = Origin::start(origin::fixed(404, &[], "gone"));
    let shim = Shim::start(config(origin.addr, "combined"));
    let fields = [("X-CDN-Provider", "Akamai"), ("Referer", "http://r.test/ x"), ("User-Agent", "a \"b\" \\")];
    fetch(shim.addr, "/p.png?q=1", &fields);
    fetch(shim.addr, "/", &[]);
    fetch(shim.addr, &format!("{GIF}?source=fastly"), &[]);
    let lines = lines(shim, 2, 1);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    let pattern = combined(r"(\S+)");
    let found = |number: usize| {
        let found =
            pattern.captures(&lines[number]).unwrap_or_else(|| panic!("the pattern does not match {}", lines[number]));
        let part = |at: usize| found.get(at).map_or("", |part| part.as_str()).to_owned();
        [part(1), part(3), part(4), part(5), part(6), part(7), part(8)]
    };
    let address = "127.0.0.1";
    let agent = r"a \x22b\x22 \x5C";
    assert_eq!(found(0), [address, "GET /p.png?q=1 HTTP/1.1", "404", "4", "http://r.test/ x", agent, "akamai"]);
    assert_eq!(found(1), [address, "GET / HTTP/1.1", "404", "4", "-", "-", "none"]);
    let length = found(2)[3].clone();
    assert_eq!(found(2)[1..3], [format!("GET {GIF}?source=fastly HTTP/1.1"), "200".to_owned()]);
    assert!(length.parse::<u32>().is_ok_and(|length| length > 0), "{length}");
}

#[test]
fn etsy_line_when_beacon_arrives_then_matches_the_pattern_of_etsy() {
    let origin = Origin::start(origin::fixed(200, &[], "x"));
    let shim = Shim::start(config(origin.addr, "etsy").with("[server]\ntrusted_proxies = [\"127.0.0.1/32\"]"));
    let chain = [
        ("Host", "www.shop.test"),
        ("X-Forwarded-For", "198.51.100.7, 203.0.113.9"),
        ("User-Agent", "Mozilla/5.0 (X) \""),
    ];
    fetch(shim.addr, &format!("{GIF}?source=fastly"), &chain);
    fetch(
        shim.addr,
        &format!("{GIF}?beacon_source=akamai"),
        &[("Host", "www.shop.test"), ("X-CDN-Provider", "akamai")],
    );
    fetch(shim.addr, "/a.png", &[("Host", "www.shop.test"), ("X-CDN-Provider", "fastly")]);
    let lines = lines(shim, 1, 2);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    // This is the pattern that Etsy published, with one change. In the published pattern, `,- ` inside brackets is a
    // range whose start is above its end, and regex engines reject such a range. So here the hyphen is the last
    // character inside the brackets.
    let model = regex::Regex::new(concat!(
        r#"^\S+(\s:)? (?P<remote_addr>[0-9.]+),? [0-9., -]+ \[.*\] "GET /status/images/beacon.gif\?(beacon_)?"#,
        r#"source=(?P<source>\S+) HTTP/1.\d" \d+ [\d-]+ "[^"]*" "[^"]*" .*"#
    ))
    .expect("a valid pattern");
    let first = model.captures(&lines[0]).unwrap_or_else(|| panic!("the pattern does not match {}", lines[0]));
    // The client is the last address of X-Forwarded-For, because the peer is a trusted proxy.
    assert_eq!((&first["remote_addr"], &first["source"]), ("203.0.113.9", "fastly"), "{}", lines[0]);
    let second = model.captures(&lines[1]).unwrap_or_else(|| panic!("the pattern does not match {}", lines[1]));
    assert_eq!((&second["remote_addr"], &second["source"]), ("127.0.0.1", "akamai"), "{}", lines[1]);
    assert!(!model.is_match(&lines[2]), "the pattern matches the line of a pull: {}", lines[2]);
    let shape = combined(r"www\.shop\.test ([0-9., -]+)");
    let providers = ["none", "akamai", "fastly"];
    for (line, provider) in lines.iter().zip(providers) {
        let found = shape.captures(line).unwrap_or_else(|| panic!("the pattern does not match {line}"));
        assert_eq!(&found[8], provider, "{line}");
    }
    let pull = shape.captures(&lines[2]).unwrap_or_else(|| panic!("the pattern does not match {}", lines[2]));
    assert_eq!((&pull[3], &pull[4], &pull[5]), ("GET /a.png HTTP/1.1", "200", "1"));
}

#[test]
fn combined_and_etsy_logs_when_requests_forge_lines_then_have_one_line_per_served_request() {
    for (format, front) in [("combined", r"(\S+)"), ("etsy", r"\S+ ([0-9., -]+)")] {
        let origin = Origin::start(origin::fixed(200, &[], "x"));
        let shim = Shim::start(config(origin.addr, format));
        let count = forge(&shim).len() as u64;
        let host = fetch(shim.addr, "/", &[("X-Forwarded-For", "1.2.3.4\" \"GET / HTTP/1.1\" 200 1 \"-\" \"-\" x")]);
        assert_eq!(host.status, 200);
        let lines = lines(shim, count + 1, 0);
        assert_eq!(lines.len() as u64, count + 1, "{lines:#?}");
        for line in &lines {
            let found = combined(front).captures(line).unwrap_or_else(|| panic!("the pattern does not match {line}"));
            assert_eq!((&found[4], &found[5], &found[8]), ("200", "1", "none"), "{line}");
            assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
        }
    }
}

#[test]
fn log_when_output_is_stdout_then_stdout_has_only_log_lines() {
    let origin = Origin::start(origin::fixed(200, &[], "x"));
    let mut shim = Shim::start(config(origin.addr, "json").with("[access_log]\noutput = \"stdout\""));
    for _ in 0..5 {
        fetch(shim.addr, "/", &[("X-CDN-Provider", "fastly")]);
    }
    shim.wait_metrics(|metrics| metrics.count("edgeshim_pulls_total", &[]) == 5);
    shim.signal("TERM");
    assert!(shim.wait_exit(PATIENCE * 4).success());
    assert!(wait_until(PATIENCE, || shim.stdout().lines().count() == 5), "{}", shim.stdout());
    for line in shim.stdout().lines() {
        assert_eq!(Line::parse(line).text("provider"), "fastly");
    }
}

#[test]
fn log_when_off_then_writes_nothing() {
    let origin = Origin::start(origin::fixed(200, &[], "x"));
    let shim = Shim::start(Shim::config(origin.addr));
    fetch(shim.addr, "/", &[]);
    shim.wait_metrics(|metrics| metrics.count("edgeshim_pulls_total", &[]) == 1);
    assert_eq!(shim.stdout(), "");
    let files = std::fs::read_dir(&*shim.dir).expect("a readable folder").count();
    assert_eq!(files, 1, "the folder has other files than the configuration");
}

#[test]
fn log_when_origin_refuses_connections_then_has_the_lines_of_beacons() {
    let shim = Shim::start(config(ClosedPort::new().addr, "json"));
    assert_eq!(fetch(shim.addr, &format!("{GIF}?source=akamai"), &[]).status, 200);
    let mut head = Raw::connect(shim.addr);
    let _ = head.send(request("HEAD", GIF, &[], b"")).response_to_head().expect("a response");
    let lines = lines(shim, 0, 2);
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert_eq!(Line::parse(&lines[0]).number("bytes"), 43);
    assert_eq!(Line::parse(&lines[1]).number("bytes"), 0, "the response to HEAD has a body");
}
