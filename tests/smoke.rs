//! Tests of `edgeshim smoke` with scripted edges, and of the signed paths of `[smoke]`. `tests/real/smoke` has the
//! tests with real caches.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by a panic

mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use hmac::{Hmac, KeyInit as _, Mac};
use sha2::Sha256;
use support::shim::binary;
use support::tls_origin::{Authority, Options, TlsOrigin, Valid};
use support::{After, Conn, Origin, Request, Shim, origin, raw, temp_dir};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// The argument of `--token`. Each run of smoke has [`TOKEN`] in this environment variable.
const TOKEN_ARGUMENT: &str = "env:SMOKE_TEST_TOKEN";
const URL: &str = "http://www.smoke.test/page.html";

/// Runs smoke, without a terminal.
fn smoke(arguments: &[&str]) -> Output {
    binary()
        .arg("smoke")
        .args(arguments)
        .env("SMOKE_TEST_TOKEN", TOKEN)
        .env("SMOKE_SHORT_TOKEN", "short")
        .output()
        .expect("the edgeshim binary starts")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

/// Runs smoke for [`URL`] at a server, with further arguments. Returns the exit code and the JSON.
fn at(edge: SocketAddr, more: &[&str]) -> (i32, serde_json::Value) {
    let edge = edge.to_string();
    let output = smoke(&[&[URL, "--connect-to", &edge, "--json"], more].concat());
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", out(&output), String::from_utf8_lossy(&output.stderr)));
    (code(&output), json)
}

/// Returns the names of the checks with this result.
fn named<'a>(json: &'a serde_json::Value, result: &str) -> BTreeSet<&'a str> {
    let checks = json["targets"][0]["checks"].as_array().expect("checks");
    checks.iter().filter(|check| check["result"] == result).filter_map(|check| check["name"].as_str()).collect()
}

fn check<'a>(json: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let checks = json["targets"][0]["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check {name} in {json}"))
}

// ---- a scripted edge ------------------------------------------------------------------------------------------------

/// What is wrong with a [`Site`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    None,
    NoGzip,
    CookieCached,
    WrongTtl,
    VaryUserAgent,
    CachedByBrowser,
    LostTag,
    BrokenRange,
    OtherHead,
    No304,
    NeverHit,
    /// Only a shield behind the edge has the response in its cache.
    ShieldHit,
    /// Another browser gets the cookie of another client.
    CookieOfVariant,
    VaryReferer,
    /// The Age of each response is larger than its lifetime.
    TooOld,
    /// From the second request on, a stored error comes in place of the page.
    LaterError,
    /// From the second request on, the connection is reset in place of a response.
    LaterReset,
    /// Every fifth request gets an error, beginning with the 16th request.
    SomeErrors,
    Loop,
}

/// A site with one page, which behaves like a cache from the second request on.
struct Site {
    defect: Defect,
    /// The keys of the requests so far.
    known: Mutex<BTreeSet<String>>,
    requests: AtomicUsize,
    delay: Duration,
}

impl Site {
    fn start(defect: Defect, delay: Duration) -> Origin {
        let site = Self { defect, known: Mutex::default(), requests: AtomicUsize::new(0), delay };
        Origin::start(move |request, conn| site.respond(request, conn))
    }

    fn respond(&self, request: &Request, conn: &mut Conn) -> After {
        let body = "<p>A paragraph of a page.</p>".repeat(200);
        let has = |defect| self.defect == defect;
        if has(Defect::Loop) {
            return origin::respond(request, conn, 508, &[], b"");
        }
        std::thread::sleep(self.delay);
        let accepts_gzip = request.field("accept-encoding") == Some("gzip");
        let is_gzip = accepts_gzip && !has(Defect::NoGzip);
        let mut key = format!("{}{is_gzip}", request.target);
        if has(Defect::CachedByBrowser) {
            key += request.field("user-agent").unwrap_or_default();
        }
        let is_new = self.known.lock().unwrap().insert(key);
        let cache = match self.defect {
            Defect::NeverHit => "MISS",
            Defect::ShieldHit => "HIT, MISS",
            _ if is_new => "MISS",
            _ => "HIT",
        };
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        if has(Defect::LaterReset) && number == 1 {
            return After::Reset;
        }
        if has(Defect::LaterError) && number == 1 || has(Defect::SomeErrors) && number > 12 && number.is_multiple_of(5)
        {
            return origin::respond(request, conn, 503, &[("X-Cache", "HIT")], b"not now");
        }
        let mut fields = vec![("X-Cache", cache), ("Content-Type", "text/html")];
        if has(Defect::TooOld) {
            fields.push(("Age", "999999"));
        }
        if has(Defect::CookieOfVariant)
            && request.field("user-agent").is_some_and(|agent| agent.starts_with("edgeshim-smoke-B"))
        {
            fields.push(("Set-Cookie", "session=victim"));
        }
        fields.push(("Cache-Control", if has(Defect::WrongTtl) { "max-age=86400" } else { "max-age=60" }));
        let vary = match self.defect {
            Defect::VaryUserAgent => "Accept-Encoding, User-Agent",
            Defect::VaryReferer => "Accept-Encoding, Referer",
            _ => "Accept-Encoding",
        };
        fields.push(("Vary", vary));
        if !has(Defect::LostTag) {
            fields.push(("ETag", "W/\"1\""));
        }
        if has(Defect::CookieCached) {
            fields.push(("Set-Cookie", "session=1"));
        }
        if request.field("if-none-match") == Some("W/\"1\"") && !has(Defect::No304) {
            return origin::respond(request, conn, 304, &fields, b"");
        }
        if request.method == "HEAD" && has(Defect::OtherHead) {
            return origin::respond(request, conn, 404, &fields, b"");
        }
        if let Some(range) = request.field("range") {
            let (first, last) = range.trim_start_matches("bytes=").split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            let named = format!("bytes {first}-{last}/{}", body.len());
            fields.push(("Content-Range", &named));
            let from = first + usize::from(has(Defect::BrokenRange));
            return origin::respond(request, conn, 206, &fields, &body.as_bytes()[from..=last]);
        }
        if !is_gzip {
            return origin::respond(request, conn, 200, &fields, body.as_bytes());
        }
        fields.push(("Content-Encoding", "gzip"));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(body.as_bytes()).unwrap();
        origin::respond(request, conn, 200, &fields, &encoder.finish().unwrap())
    }
}

#[test]
fn edge_when_it_has_one_defect_then_exactly_the_check_of_the_defect_fails() {
    let sound = Site::start(Defect::None, Duration::ZERO);
    let origin = format!("http://{}", sound.addr);
    for (defect, failed) in [
        (Defect::None, None),
        (Defect::NoGzip, Some("gzip")),
        (Defect::CookieCached, Some("cookies")),
        (Defect::WrongTtl, Some("ttl")),
        (Defect::VaryUserAgent, Some("vary")),
        (Defect::CachedByBrowser, Some("vary")),
        (Defect::LostTag, Some("validators")),
        (Defect::BrokenRange, Some("range")),
        (Defect::OtherHead, Some("head")),
        (Defect::No304, Some("revalidate")),
        (Defect::NeverHit, Some("miss-then-hit")),
        (Defect::ShieldHit, Some("miss-then-hit")),
        (Defect::LaterError, Some("miss-then-hit")),
        (Defect::LaterReset, Some("miss-then-hit")),
        (Defect::CookieOfVariant, Some("cookies")),
        (Defect::VaryReferer, Some("vary")),
        (Defect::TooOld, Some("ttl")),
        (Defect::Loop, Some("loop")),
    ] {
        let edge = Site::start(defect, Duration::ZERO);
        let (code, json) = at(edge.addr, &["--origin", &origin]);
        assert_eq!(named(&json, "fail"), failed.into_iter().collect(), "{defect:?}: {json:#}");
        assert_eq!(code, i32::from(failed.is_some()), "{defect:?}");
        if let Some(failed) = failed {
            let check = check(&json, failed);
            for key in ["seen", "expected", "change"] {
                assert!(check[key].as_str().is_some_and(|text| text.len() > 2), "{defect:?}: {check}");
            }
        }
        assert!(edge.problems().is_empty(), "{:?}", edge.problems());
    }
}

#[test]
fn request_when_sent_to_edge_or_origin_then_has_the_host_of_the_url() {
    let (edge, other) = (Site::start(Defect::None, Duration::ZERO), Site::start(Defect::None, Duration::ZERO));
    let (code, _) = at(edge.addr, &["--origin", &format!("http://{}", other.addr), "--provider", "my-akamai:akamai"]);
    assert_eq!(code, 0);
    for request in edge.requests().iter().chain(&other.requests()) {
        assert_eq!((request.field("host"), request.target.as_str()), (Some("www.smoke.test"), "/page.html"));
    }
    // Akamai reports a hit or a miss only if the request has Pragma. The request to the origin has the name of the CDN,
    // so that edgeshim responds as it would respond to this CDN.
    assert!(edge.requests().iter().all(|request| request.field("pragma") == Some("akamai-x-cache-on")));
    assert!(other.requests().iter().all(|request| request.field("x-cdn-provider") == Some("my-akamai")));
    assert!(other.count() >= 2 && edge.requests().iter().all(|request| request.field("x-cdn-provider").is_none()));
}

#[test]
fn origin_when_it_fails_then_reach_fails_and_names_the_origin() {
    let (edge, broken) = (Site::start(Defect::None, Duration::ZERO), Origin::start(origin::fixed(403, &[], "")));
    let (code, json) = at(edge.addr, &["--origin", &format!("http://{}", broken.addr)]);
    assert_eq!((code, named(&json, "fail")), (1, ["reach"].into()));
    assert!(check(&json, "reach")["seen"].as_str().unwrap().contains("403"), "{json:#}");
}

// ---- hostile edges --------------------------------------------------------------------------------------------------

#[test]
fn edge_when_hostile_then_smoke_ends_in_time_with_a_clear_failure() {
    let write = |bytes: Vec<u8>| {
        move |_: &Request, conn: &mut Conn| {
            let _ = conn.write_all(&bytes);
            After::Close
        }
    };
    let head = |field: String| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{field}\r\n\r\n").into_bytes();
    let slow = |_: &Request, conn: &mut Conn| {
        let mut going = conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").is_ok();
        while going {
            std::thread::sleep(Duration::from_millis(20));
            going = conn.write_all(b"x").is_ok();
        }
        After::Close
    };
    let reset = |_: &Request, conn: &mut Conn| {
        let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0123456789");
        After::Reset
    };
    let bomb = {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&vec![b'a'; 40 << 20]).unwrap();
        let zipped = encoder.finish().unwrap();
        let fields = [("Content-Type", "text/html"), ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")];
        origin::fixed(200, &fields, zipped)
    };
    let cases: Vec<(&str, Origin, &str, &str)> = vec![
        ("garbage", Origin::start(write(b"\x16\x03\x01\x02garbage\r\n\r\n".to_vec())), "reach", "not valid HTTP/1.1"),
        ("huge head", Origin::start(write(head(format!("X-A: {}", "a".repeat(300_000))))), "reach", "128 KiB"),
        ("many fields", Origin::start(write(head("X-A: b\r\n".repeat(1_000) + "X-B: c"))), "reach", "256 fields"),
        ("no response", Origin::start(origin::hang_up()), "reach", "ended without a response"),
        ("reset", Origin::start(origin::reset()), "reach", "without a response"),
        ("silence", Origin::start(origin::silent()), "reach", "longer than --timeout"),
        ("slow body", Origin::start(slow), "gzip", "did not end in time"),
        ("cut body", Origin::start(origin::cut(1000, 10)), "gzip", "broke off after 10 bytes"),
        ("reset body", Origin::start(reset), "gzip", "broke off after 10 bytes: error reading a body from connection:"),
        ("endless body", Origin::start(origin::endless(&[b'x'; 65_536])), "gzip", "did not end in time"),
        (
            "control characters",
            Origin::start(write(head("ETag: \"\x1b[2J\"".to_owned()))),
            "reach",
            "not valid HTTP/1.1",
        ),
        ("escapes", Origin::start(origin::fixed(302, &[("Location", "/\u{9b}2J\u{202e}")], "")), "reach", "/?2J?"),
    ];
    for (name, edge, failed, words) in cases {
        let started = Instant::now();
        let (code, json) = at(edge.addr, &["--timeout", "500ms"]);
        assert!(started.elapsed() < Duration::from_secs(20), "{name}: smoke took {:?}", started.elapsed());
        assert!(named(&json, "fail").contains(failed), "{name}: {json:#}");
        let seen = check(&json, failed)["seen"].as_str().unwrap();
        assert!(seen.contains(words) && !seen.contains(char::is_control), "{name}: {seen:?}");
        assert_eq!(code, 1, "{name}");
    }
    // This body is valid but too large. So smoke reports its size, and does not compare the body.
    let edge = Origin::start(bomb);
    let (_, json) = at(edge.addr, &["--timeout", "5s"]);
    let identity = check(&json, "identity");
    assert!(identity.to_string().contains("too large") || identity["result"] == "fail", "{identity}");
}

#[test]
fn age_when_it_grows_then_shows_a_hit_and_when_constant_then_shows_nothing() {
    let started = Instant::now();
    let growing = Origin::start(move |request: &Request, conn: &mut Conn| {
        let age = (started.elapsed().as_secs() + 1).to_string();
        origin::respond(request, conn, 200, &[("Cache-Control", "max-age=600"), ("Age", &age)], b"text")
    });
    let constant = Origin::start(origin::fixed(200, &[("Cache-Control", "max-age=600"), ("Age", "5")], "text"));
    for (edge, result) in [(growing, "pass"), (constant, "skip")] {
        let (_, json) = at(edge.addr, &[]);
        let verdict = check(&json, "miss-then-hit");
        assert_eq!(verdict["result"], result, "{verdict}");
    }
}

#[test]
fn edge_when_nobody_listens_then_the_table_names_the_problem_and_one_line_has_all_skipped_checks() {
    let closed = origin::ClosedPort::new();
    let output = smoke(&[URL, "--connect-to", &closed.addr.to_string()]);
    let text = out(&output);
    assert_eq!(code(&output), 1);
    assert!(text.contains("FAIL  reach") && text.contains("Connection refused"), "{text}");
    assert_eq!(text.matches("there is no response").count(), 1, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    assert!(text.trim_end().lines().last().unwrap().starts_with("0 passed, 1 failed, 17 skipped in "), "{text}");
}

// ---- TLS ------------------------------------------------------------------------------------------------------------

#[test]
fn certificate_when_expired_expiring_or_for_another_name_then_tls_fails_and_reach_passes() {
    let authority = Authority::new("smoke");
    let dir = temp_dir();
    let ca = dir.write("ca.pem", authority.pem());
    let ca = ca.to_str().unwrap();
    for (names, valid, more, expected) in [
        (["www.smoke.test"], Valid::Now, ["--ca", ca], ("fail", "expires in 0 days")),
        (["www.smoke.test"], Valid::Until9DaysAgo, ["--ca", ca], ("fail", "expired")),
        (["other.test"], Valid::Now, ["--ca", ca], ("fail", "not valid for name")),
        (["other.test"], Valid::Now, ["--insecure", "--json"], ("skip", "--insecure")),
    ] {
        let identity = authority.issue(&names, valid);
        let edge = TlsOrigin::start(&Options { protocols: &["http/1.1"], ..Options::new(&identity) });
        let address = edge.addr.to_string();
        let mut arguments = vec!["https://www.smoke.test/", "--connect-to", &address];
        arguments.extend(more.iter().filter(|argument| **argument != "--json"));
        arguments.push("--json");
        let output = smoke(&arguments);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let tls = check(&json, "tls");
        assert_eq!(tls["result"], expected.0, "{tls}");
        assert!(tls.to_string().contains(expected.1), "{tls}");
        assert_eq!(check(&json, "reach")["result"], "pass", "{json:#}");
    }
}

#[test]
fn protocol_when_url_and_port_disagree_then_the_remedy_names_the_other_scheme() {
    let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = plain.local_addr().expect("an address").to_string();
    let server = std::thread::spawn(move || {
        let (mut client, _) = plain.accept().unwrap();
        client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
        // Reads until smoke closes the connection.
        std::io::copy(&mut client, &mut std::io::sink())
    });
    let output = smoke(&["https://www.smoke.test/", "--insecure", "--connect-to", &address, "--json"]);
    let _ = server.join().expect("the server ends");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(named(&json, "fail"), ["tls"].into());
    assert!(check(&json, "tls")["seen"].as_str().unwrap().contains("responds without TLS"), "{json:#}");
    assert!(check(&json, "tls")["change"].as_str().unwrap().starts_with("write http://"), "{json:#}");

    // The server accepts the connection and then waits for a line of a request.
    let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = plain.local_addr().expect("an address").to_string();
    let arguments = ["https://www.smoke.test/", "--insecure", "--connect-to", &address, "--timeout", "1s", "--json"];
    let output = smoke(&arguments);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(named(&json, "fail"), ["tls"].into());
    // Smoke sends no further request. Each further request would take another second.
    assert!(json["seconds"].as_f64().is_some_and(|seconds| seconds < 10.0), "{json:#}");
    assert!(check(&json, "tls")["change"].as_str().unwrap().contains("write http://"), "{json:#}");

    let authority = Authority::new("smoke");
    let identity = authority.issue(&["www.smoke.test"], Valid::Now);
    let edge = TlsOrigin::start(&Options::new(&identity));
    let (_, json) = at(edge.addr, &["--timeout", "2s"]);
    assert_eq!(named(&json, "fail"), ["reach"].into());
    assert!(check(&json, "reach")["change"].as_str().unwrap().contains("https://"), "{json:#}");
}

// ---- time to the first byte, several targets, files -----------------------------------------------------------------

#[test]
fn ttfb_when_50_ms_above_the_baseline_of_a_file_or_url_then_fails() {
    let fast = Site::start(Defect::None, Duration::from_millis(5));
    let slow = Site::start(Defect::None, Duration::from_millis(55));
    let dir = temp_dir();
    let output = smoke(&[URL, "--connect-to", &fast.addr.to_string(), "--json"]);
    let file = dir.write("baseline.json", &output.stdout);
    let (code, json) = at(slow.addr, &["--baseline", file.to_str().unwrap()]);
    assert_eq!((code, named(&json, "fail")), (1, ["ttfb"].into()), "{json:#}");
    let (code, json) = at(slow.addr, &["--baseline", &format!("http://{}", fast.addr)]);
    assert_eq!((code, named(&json, "fail")), (1, ["ttfb"].into()), "{json:#}");
    // An edge that is faster than the baseline passes.
    let (code, json) = at(fast.addr, &["--baseline", &format!("http://{}", slow.addr)]);
    assert_eq!((code, check(&json, "ttfb")["result"].as_str()), (0, Some("pass")), "{json:#}");
}

#[test]
fn score_card_when_candidate_is_slower_or_has_fewer_hits_then_fails_in_these_rows() {
    let fast = Site::start(Defect::None, Duration::from_millis(5));
    let slow = Site::start(Defect::NeverHit, Duration::from_millis(15));
    let run = |candidate: &Origin, incumbent: &Origin| {
        let (candidate, incumbent) = (format!("bunny={}", candidate.addr), format!("fastly={}", incumbent.addr));
        let arguments = ["--provider", "bunny", "--connect-to", &candidate, "--connect-to", &incumbent];
        let output = smoke(&[&[URL, "--compare", "fastly", "--json"][..], &arguments].concat());
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let rows = json["score_cards"][0]["rows"].as_array().expect("rows").clone();
        let failed = rows.iter().filter(|row| row["passed"] == false).filter_map(|row| row["name"].as_str());
        (code(&output), failed.map(str::to_owned).collect::<Vec<_>>(), json)
    };
    let (code, failed, json) = run(&slow, &fast);
    assert_eq!((code, failed), (1, vec!["ttfb, median".to_owned(), "hit ratio".to_owned()]), "{json:#}");
    let (_, failed, json) = run(&fast, &slow);
    assert_eq!(failed, [""; 0], "{json:#}");
    let broken = Site::start(Defect::SomeErrors, Duration::ZERO);
    let (code, failed, json) = run(&broken, &slow);
    assert_eq!((code, failed), (1, vec!["failed requests".to_owned()]), "{json:#}");
    let rows = json["score_cards"][0]["rows"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["passed"] != true), "{json:#}");
    let count: usize = rows[5]["candidate"].as_str().unwrap().parse().unwrap();
    assert!((5..=20).contains(&count), "{json:#}");
    // Errors of the CDN that is in use now do not count against the candidate.
    let (_, failed, json) = run(&fast, &broken);
    assert!(!failed.contains(&"failed requests".to_owned()), "{json:#}");
    let offload = &json["score_cards"][0]["rows"][3];
    assert!(offload["name"] == "offload" && offload["candidate"].is_null() && offload["passed"].is_null(), "{offload}");
}

#[test]
fn targets_when_several_then_each_has_a_report_and_the_junit_file_has_all() {
    let (good, bad) = (Site::start(Defect::None, Duration::ZERO), Site::start(Defect::NoGzip, Duration::ZERO));
    let dir = temp_dir();
    let junit = dir.join("smoke.xml");
    let (to_good, to_bad) = (format!("fastly={}", good.addr), format!("bunny={}", bad.addr));
    let output = smoke(&[
        "http://www.smoke.test/a.html?x=1&y=2",
        URL,
        "--provider",
        "fastly",
        "--provider",
        "bunny",
        "--connect-to",
        &to_good,
        "--connect-to",
        &to_bad,
        "--junit",
        junit.to_str().unwrap(),
    ]);
    let text = out(&output);
    assert_eq!(code(&output), 1, "{text}");
    assert!(text.contains(&format!("FAIL  {URL}  bunny at {}: gzip\n", bad.addr)), "{text}");
    assert!(text.contains(&format!("pass  {URL}  fastly at {}\n", good.addr)), "{text}");
    let progress = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(progress.lines().count(), 4, "{progress}");
    let xml = std::fs::read_to_string(junit).unwrap();
    assert_eq!(xml.matches("<testsuite ").count(), 4, "{xml}");
    assert_eq!(xml.matches("<failure ").count(), 2, "{xml}");
    assert!(xml.contains("x=1&amp;y=2") && !xml.contains("1&y"), "{xml}");
}

#[test]
fn argument_when_wrong_then_exits_with_2_and_says_what_to_write() {
    for (arguments, words) in [
        (&["www.example.com"][..], "https://www.example.com/"),
        (&[URL, "--provider", "fasty"], "fastly, cloudflare"),
        (&[URL, "--connect-to", "edge.test"], "edge.example.net:443"),
        (&[URL, "--connect-to", "fastly=edge.test:80"], "add --provider fastly"),
        (&[URL, "--provider", "fastly", "--provider", "bunny", "--connect-to", "edge.test:80"], "NAME=HOST:PORT"),
        (&[URL, "--compare", "fastly"], "fastly=HOST:PORT"),
        (&[URL, "--origin", "http://origin.test/path"], "has a path"),
        (&[URL, "--token", "too-short-literal"], "write env:NAME or file:PATH"),
        (&[URL, "--token", "env:SMOKE_SHORT_TOKEN"], "openssl rand"),
        (&[URL, "--timeout", "0"], "write a duration above 0"),
        (&["http://joe:too-short@www.smoke.test/"], "has a user name or a password"),
        (&[URL, "--connect-to", "joe:too-short@edge.test"], "edge.example.net:443"),
        (&[URL, URL], "occurs twice"),
        (&[URL, "--provider", "fastly", "--provider", "Fastly"], "occurs twice"),
        (&[URL, "--provider", "fastly", "--compare", "fastly", "--connect-to", "fastly=a.test:80"], "with itself"),
        (&[URL, "--token", "env:EDGESHIM_UNSET"], "set \"EDGESHIM_UNSET\""),
        (&[URL, "--baseline", "no-such-file"], "edgeshim smoke --json"),
        (&[URL, "--timeout", "soon"], "\"10s\""),
        (&["https://www.smoke.test/", "--ca", "Cargo.toml"], "PEM"),
    ] {
        let output = smoke(arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((code(&output), out(&output).as_str()), (2, ""), "{arguments:?}: {message}");
        assert!(message.contains(words) && !message.contains("too-short"), "{arguments:?}: {message}");
    }
}

#[test]
fn junit_file_when_not_openable_then_no_request_is_sent_and_when_disk_is_full_then_results_are_printed() {
    let edge = Site::start(Defect::None, Duration::ZERO);
    let output = smoke(&[URL, "--connect-to", &edge.addr.to_string(), "--junit", "/no/such/folder/x.xml"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((code(&output), out(&output).as_str(), edge.count()), (2, "", 0), "{message}");
    assert!(message.contains("cannot be written"), "{message}");
    // The file can be opened, but no byte can be written. The results are printed nevertheless.
    let output = smoke(&[URL, "--connect-to", &edge.addr.to_string(), "--junit", "/dev/full"]);
    assert!(code(&output) == 2 && out(&output).contains("pass  reach"), "{}", out(&output));
}

// ---- signed paths ---------------------------------------------------------------------------------------------------

/// Signs a path as the documentation says.
fn signed(token: &str, task: &str, time: u64, nonce: &str) -> String {
    let path = format!("/.edgeshim/smoke/{task}/{time}/{nonce}");
    format!("{path}/{}", mac(token, &path))
}

/// Returns the MAC of a text in hexadecimal digits.
fn mac(token: &str, text: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(token.as_bytes()).unwrap().chain_update(text).finalize().into_bytes();
    let pairs: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.concat()
}

/// Returns a report as the documentation says. It responds to `path`, which is a signed path.
fn report(path: &str, ahead_ms: u64) -> String {
    let parts: Vec<_> = path.split('/').collect();
    let (task, nonce) = (parts[3], parts[5]);
    let now_ms = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() + u128::from(ahead_ms);
    let open = format!(
        "{{\"edgeshim\":\"0.1.0\",\"id\":\"{}\",\"task\":\"{task}\",\"nonce\":\"{nonce}\",\"now_ms\":{now_ms}",
        fastrand::u64(..)
    );
    format!("{open},\"mac\":\"{}\"}}\n", mac(TOKEN, &format!("report{nonce}{open}")))
}

/// Starts an edge that makes reports with [`report`] and changes them.
fn forging(ahead_ms: u64, change: impl Fn(&str, String) -> (u16, String) + Send + Sync + 'static) -> Origin {
    Origin::start(move |request: &Request, conn: &mut Conn| {
        if !request.target.starts_with("/.edgeshim/") {
            return origin::respond(request, conn, 200, &[("X-Cache", "HIT")], b"text");
        }
        let (status, body) = change(&request.target, report(&request.target, ahead_ms));
        origin::respond(request, conn, status, &[], body.as_bytes())
    })
}

/// Returns the signed paths that an edge got.
fn signed_paths(edge: &Origin) -> Vec<String> {
    let targets = edge.requests().into_iter().map(|request| request.target.clone());
    targets.filter(|target| target.starts_with("/.edgeshim/")).collect()
}

#[test]
fn report_when_its_time_is_out_of_the_window_then_no_path_is_signed_for_this_time() {
    let edge = forging(110_000, |_, report| (200, report));
    let (code, json) = at(edge.addr, &["--token", TOKEN_ARGUMENT]);
    assert_eq!((code, named(&json, "fail")), (1, ["provider"].into()), "{json:#}");
    assert!(check(&json, "provider")["seen"].as_str().unwrap().contains("differs"), "{json:#}");
    let paths = signed_paths(&edge);
    assert!(paths.len() == 1 && paths[0].contains("/echo/"), "{paths:?}");
}

#[test]
fn report_when_forged_changed_or_of_another_request_then_only_provider_fails() {
    let stored = Mutex::new(None::<String>);
    let edges = [
        ("without MAC", forging(0, |_, report| (200, report.split(",\"mac\"").next().unwrap().to_owned() + "}"))),
        ("changed", forging(0, |_, report| (200, report.replace("\"now_ms\":1", "\"now_ms\":2")))),
        (
            "of another request",
            forging(0, move |_, report| (200, stored.lock().unwrap().get_or_insert(report).clone())),
        ),
    ];
    for (name, edge) in &edges {
        let run = || at(edge.addr, &["--token", TOKEN_ARGUMENT, "--timeout", "2s"]);
        let (mut code, mut json) = run();
        if *name == "of another request" {
            // The first run has filled the store of the edge.
            (code, json) = run();
        }
        assert_eq!((code, named(&json, "fail")), (1, ["provider"].into()), "{name}: {json:#}");
        let provider = check(&json, "provider");
        assert!(provider["seen"].as_str().unwrap().contains("did not sign for this request"), "{name}: {provider}");
    }
}

#[test]
fn error_not_cached_when_edge_sends_another_page_with_success_then_fails() {
    let is_first = Mutex::new(true);
    let edge = forging(0, move |path, report| match path.contains("/error/") {
        false => (200, report),
        true if std::mem::take(&mut *is_first.lock().unwrap()) => (503, report),
        true => (200, "<h1>Sorry, be right back</h1>".to_owned()),
    });
    let (_, json) = at(edge.addr, &["--token", TOKEN_ARGUMENT]);
    let verdict = check(&json, "error-not-cached");
    assert_eq!(verdict["result"], "fail", "{verdict}");
    assert!(verdict["seen"].as_str().unwrap().contains("a page that is not from edgeshim"), "{verdict}");
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

fn shim_with_token(origin: &Origin) -> Shim {
    let provider = "[[provider]]\nname = \"fastly\"\nverify.secret = { header = \"X-Secret\", values = [\"pssst\"] }";
    Shim::start(Shim::config(origin.addr).with(&format!("[smoke]\ntoken = \"{TOKEN}\"\n{provider}")))
}

#[test]
fn signed_path_when_valid_then_edgeshim_reports_what_arrived_and_counts_no_pull() {
    let origin = Origin::start(origin::fixed(404, &[], "not here"));
    let shim = shim_with_token(&origin);
    let fields = [
        ("X-CDN-Provider", "fastly"),
        ("X-Secret", "pssst"),
        ("Fastly-Client-IP", "198.51.100.7"),
        ("CDN-Loop", "Fastly"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Forwarded-For", "192.0.2.2"),
    ];
    let response = raw::fetch(shim.addr, &signed(TOKEN, "echo", now(), "0123456789abcdef"), &fields);
    assert_eq!((response.status, response.field("cache-control")), (200, Some("no-store")));
    assert_eq!(response.field("surrogate-control"), Some("no-store"));
    let report = response.json();
    let text = response.text();
    let (open, sent) = text.rsplit_once(",\"mac\":\"").expect("a MAC");
    assert_eq!(sent, mac(TOKEN, &format!("report0123456789abcdef{open}")) + "\"}\n");
    for (key, value) in [
        ("provider", "fastly"),
        ("proof", "secret"),
        ("client", "198.51.100.7"),
        ("peer", "127.0.0.1"),
        ("cdn_loop", "Fastly"),
        ("x_forwarded_for", "192.0.2.1, 192.0.2.2"),
        ("version", "HTTP/1.1"),
        ("nonce", "0123456789abcdef"),
    ] {
        assert_eq!(report[key], value, "{key}: {report}");
    }
    assert_eq!(report["client_proven"], true);
    assert!(!response.text().contains("pssst") && !response.text().contains(TOKEN), "{report}");

    let error = signed(TOKEN, "error", now() + 1, "0123456789abcdef");
    assert_eq!(raw::fetch(shim.addr, &error, &[]).status, 503);
    let recovered = signed(TOKEN, "error", now() - 5, "0123456789abcdef");
    assert_eq!(raw::fetch(shim.addr, &recovered, &[]).status, 200);
    let cookie = raw::fetch(shim.addr, &signed(TOKEN, "cookie", now(), "0123456789abcdef"), &[]);
    assert_eq!(cookie.field("cache-control"), Some("private"));
    assert!(cookie.field("set-cookie").is_some_and(|cookie| cookie.starts_with("edgeshim-smoke=")));
    let cache = raw::fetch(shim.addr, &signed(TOKEN, "cache-3", now(), "0123456789abcdef"), &fields);
    assert_eq!(cache.field("cache-control"), Some("public, max-age=3"));
    assert!(cache.field("surrogate-control").is_none());

    assert_eq!(origin.count(), 0, "no request may reach the origin");
    assert_eq!(shim.metrics().count("edgeshim_pulls_total", &[]), 0);
}

#[test]
fn signed_path_when_invalid_or_off_then_goes_to_the_origin_like_any_other_path() {
    let origin = Origin::start(origin::fixed(404, &[], "not here"));
    let nonce = "0123456789abcdef";
    let valid = signed(TOKEN, "echo", now(), nonce);
    let paths = [
        "/.edgeshim/smoke/".to_owned(),
        "/.edgeshim/smoke/echo".to_owned(),
        valid[..valid.len() - 1].to_owned(),
        format!("{valid}0"),
        format!("{valid}/"),
        format!("{valid}?"),
        format!("{valid}?x=1"),
        valid.replace("/echo/", "/error/"),
        valid.replace("/.edgeshim", "/%2eedgeshim"),
        signed("another-token-of-32-characters-x", "echo", now(), nonce),
        signed(TOKEN, "echo", now() - 120, nonce),
        signed(TOKEN, "echo", now() + 120, nonce),
        signed(TOKEN, "cache-61", now(), nonce),
        signed(TOKEN, "other", now(), nonce),
        signed(TOKEN, "echo", now(), ""),
        format!("/.edgeshim/smoke/{}", "a/".repeat(20_000)),
    ];
    let shim = shim_with_token(&origin);
    for path in &paths {
        assert_eq!(raw::fetch(shim.addr, path, &[]).status, 404, "{path}");
    }
    // Other methods than GET and HEAD go to the origin.
    assert_eq!(raw::exchange(shim.addr, raw::request("POST", &valid, &[], b"x")).status, 404);
    assert_eq!(origin.count(), paths.len() + 1);

    let off = Shim::start(Shim::config(origin.addr));
    assert_eq!(raw::fetch(off.addr, &signed(TOKEN, "echo", now(), nonce), &[]).status, 404);
}

#[test]
fn smoke_when_no_cdn_is_in_front_of_the_shim_then_provider_and_forwarded_address_fail() {
    let origin = Site::start(Defect::None, Duration::ZERO);
    let shim = shim_with_token(&origin);
    let (code, json) = at(shim.addr, &["--token", TOKEN_ARGUMENT]);
    // There is no CDN, so no CDN is recognised, and no client address is forwarded.
    assert_eq!((code, named(&json, "fail")), (1, ["forwarded-address", "provider"].into()), "{json:#}");
    let passed = named(&json, "pass");
    for name in ["cookies", "error-not-cached", "loop"] {
        assert!(passed.contains(name), "{name}: {json:#}");
    }
    let sent = shim.metrics();
    assert!(!sent.text.contains(TOKEN));
}

#[test]
fn token_when_used_then_is_never_sent() {
    let edge = Site::start(Defect::None, Duration::ZERO);
    let (code, json) = at(edge.addr, &["--token", TOKEN_ARGUMENT]);
    assert_eq!((code, named(&json, "fail")), (1, ["provider"].into()), "{json:#}");
    assert!(edge.requests().iter().any(|request| request.target.starts_with("/.edgeshim/smoke/")));
    let is_clean = |request: &Request| !String::from_utf8_lossy(&request.raw).contains(TOKEN);
    assert!(edge.requests().iter().all(is_clean), "the token was sent");
}
