//! Tests of `edgeshim verify-log`: it recounts logs that a real edgeshim has written, and compares them with the
//! counters of that edgeshim.

mod support;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use support::raw::{exchange, fetch, request};
use support::shim::{Config, binary};
use support::{After, Origin, PATIENCE, Raw, Shim, metrics, origin, temp_dir, wait_until};

const GIF: &str = "/status/images/beacon.gif";

fn config(origin: impl std::fmt::Display) -> Config {
    Shim::config(origin).with(
        r#"
        [[provider]]
        name = "fastly"
        [[provider]]
        name = "akamai"
        [[class]]
        name = "image"
        path = ["*.png"]
        [rum]
        path = "/rum"
        [access_log]
        output = "file:access.log"
        "#,
    )
}

/// An origin whose response depends on the path: complete, cut, status 503, 304, or no response at all.
fn site() -> Origin {
    Origin::start(|request, conn| match request.target.as_str() {
        "/hang-up" => After::Close,
        "/silent" => origin::silent()(request, conn),
        "/own" => origin::respond(request, conn, 503, &[], b"a bare 503"),
        "/cut" => origin::cut(10, 4)(request, conn),
        "/modified.png" => origin::respond(request, conn, 200, &[("ETag", "\"b\"")], b"new"),
        "/unchanged.png" => origin::respond(request, conn, 304, &[], b""),
        _ => origin::respond(request, conn, 200, &[("Set-Cookie", "a=b")], b"0123456789"),
    })
}

/// Sends requests with different outcomes, and requests that are not pulls. Returns the number of pulls.
fn traffic(shim: &Shim, origin: &Origin) -> u64 {
    let fastly = ("X-CDN-Provider", "fastly");
    let html = ("Accept", "text/html");
    for _ in 0..3 {
        fetch(shim.addr, "/a.png", &[fastly]);
        fetch(shim.addr, "/page", &[("X-CDN-Provider", "akamai"), ("Accept-Encoding", "gzip")]);
    }
    exchange(shim.addr, request("HEAD", "/a.png", &[fastly], b""));
    fetch(shim.addr, "/unchanged.png", &[fastly, ("If-None-Match", "\"a\"")]);
    fetch(shim.addr, "/modified.png", &[fastly, ("If-None-Match", "\"a\"")]);
    // A 304 in response to a request without a condition does not count as a revalidation.
    fetch(shim.addr, "/unchanged.png", &[fastly]);
    fetch(shim.addr, "/hang-up", &[fastly, html, ("Accept-Language", "fr")]);
    fetch(shim.addr, "/own", &[fastly, html]);
    fetch(shim.addr, "/cut", &[fastly]);
    fetch(shim.addr, "/x", &[fastly, ("Host", "else.test")]);
    exchange(
        shim.addr,
        "POST /x HTTP/1.1\r\nHost: shim.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         40\r\n0123456789012345678901234567890123456789012345678901234567890123\r\n0\r\n\r\n",
    );
    exchange(shim.addr, request("POST", "/x", &[fastly], &[b'x'; 64]));
    let waiting = origin.count();
    let mut leaving = Raw::connect(shim.addr);
    leaving.send(request("GET", "/silent", &[fastly], b""));
    assert!(wait_until(PATIENCE, || origin.count() > waiting), "the request did not reach the origin");
    leaving.reset();
    // These requests are not pulls. The last of these requests has no line in the log.
    fetch(shim.addr, &format!("{GIF}?source=fastly&id=r-1"), &[]);
    exchange(shim.addr, request("POST", GIF, &[], b"x"));
    fetch(shim.addr, "/rum?t_done=7", &[]);
    exchange(shim.addr, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n");
    17
}

/// Waits until this number of pulls is counted and no request is in flight.
fn wait_pulls(shim: &Shim, pulls: u64) {
    let metrics = shim.wait_metrics(|now| {
        now.count("edgeshim_pulls_total", &[]) >= pulls && now.count("edgeshim_in_flight", &[]) == 0
    });
    assert_eq!(metrics.count("edgeshim_pulls_total", &[]), pulls, "{}", metrics.text);
}

fn limited(config: Config) -> Config {
    config.with("[server]\nhosts = [\"shim.test\", \"127.0.0.1\"]\nmax_request_body = \"32B\"\n[origin]\nretries = 0")
}

/// Runs the command in a folder. Returns the exit code, stdout and stderr.
fn verify(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = binary().arg("verify-log").args(arguments).current_dir(folder).output().expect("edgeshim runs");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("output in UTF-8");
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("writing to memory does not fail");
    encoder.finish().expect("writing to memory does not fail")
}

#[test]
fn log_when_requests_have_different_outcomes_then_equals_the_counters() {
    let origin = site();
    let shim = Shim::start(limited(config(origin.addr)));
    let pulls = traffic(&shim, &origin);
    wait_pulls(&shim, pulls);
    let url = format!("http://{}", shim.admin);
    let (code, out, err) = verify(&shim.dir, &["access.log", "--metrics", &url]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.ends_with("the log equals the counters\n"), "{out}");
    let (code, out, _) = verify(&shim.dir, &["access.log", "--metrics", &url, "--json"]);
    assert_eq!((code, out.lines().count()), (0, 1), "{out}");
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&json["equal"], json["lines"].as_u64()), (&Value::Bool(true), Some(pulls + 3)), "{out}");
    // The test also compares the sums with metrics that it read itself, because the command could compare wrongly.
    let metrics = shim.metrics();
    for (name, labels) in [
        ("edgeshim_pulls_total", "code"),
        ("edgeshim_revalidations_total", "result"),
        ("edgeshim_refused_total", "reason"),
        ("edgeshim_whoopsies_total", "cause"),
        ("edgeshim_beacons_total", "source"),
    ] {
        let of_log: u64 = json["counters"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|counter| counter["name"] == name)
            .map(|counter| counter["log"].as_u64().expect("a number"))
            .sum();
        let malformed = metrics.sum(name, &[("reason", "malformed")]);
        assert_eq!(of_log, metrics::whole(metrics.sum(name, &[]) - malformed), "{name} by {labels}");
        assert!(of_log > 0, "the traffic did not cause {name}");
    }
}

#[test]
fn line_when_missing_or_doubled_then_difference_is_named() {
    let origin = site();
    let shim = Shim::start(limited(config(origin.addr)));
    let pulls = traffic(&shim, &origin);
    wait_pulls(&shim, pulls);
    let url = format!("http://{}", shim.admin);
    assert_eq!(verify(&shim.dir, &["access.log", "--metrics", &url]).0, 0);
    let log = std::fs::read_to_string(shim.dir.join("access.log")).expect("the log");
    let lines: Vec<_> = log.lines().collect();
    let page = lines.iter().position(|line| line.contains("\"path\":\"/own\"")).expect("the line of the page");
    let mut left = lines.clone();
    left.remove(page);
    let without = left.join("\n") + "\n";
    shim.dir.write("without.log", &without);
    let (code, out, _) = verify(&shim.dir, &["without.log", "--metrics", &url]);
    assert_eq!(code, 1, "{out}");
    for part in [
        "edgeshim_pulls_total{provider=\"fastly\",class=\"other\",code=\"503\"}: log 0, edgeshim 1: the log has 1 less",
        "cause=\"origin_5xx\"}: log 0, edgeshim 1",
        "pulls without a line: 1;",
        "the log does not equal the counters",
    ] {
        assert!(out.contains(part), "{part:?} is missing in\n{out}");
    }
    let (code, out, _) = verify(&shim.dir, &["access.log", "without.log", "--metrics", &url]);
    assert!(code == 1 && out.contains("code=\"200\"}: log "), "{out}");
    assert!(out.contains(" more\n"), "{out}");
}

#[test]
fn files_when_rotated_gzipped_or_piped_then_are_one_log() {
    let origin = site();
    let shim = Shim::start(limited(config(origin.addr)));
    let pulls = traffic(&shim, &origin);
    wait_pulls(&shim, pulls);
    let url = format!("http://{}", shim.admin);
    assert_eq!(verify(&shim.dir, &["access.log", "--metrics", &url]).0, 0, "the log must be complete");
    std::fs::rename(shim.dir.join("access.log"), shim.dir.join("old.log")).expect("a log");
    shim.signal("USR1");
    assert!(wait_until(PATIENCE, || shim.dir.join("access.log").exists()), "the log was not opened again");
    let old = std::fs::read(shim.dir.join("old.log")).expect("the old log");
    // A gzip file is recognised by its first bytes, so the name of this file does not end with `.gz`.
    shim.dir.write("access.log.1", gzip(&old));
    fetch(shim.addr, "/a.png", &[("X-CDN-Provider", "fastly")]);
    wait_pulls(&shim, pulls + 1);
    let (code, out, err) = verify(&shim.dir, &["access.log.1", "access.log", "--metrics", &url]);
    assert_eq!(code, 0, "{out}{err}");
    let (code, out, _) = verify(&shim.dir, &["access.log", "--metrics", &url]);
    assert!(code == 1 && out.contains(&format!("pulls without a line: {pulls};")), "{out}");
    let script = format!("{} verify-log - access.log --metrics {url} < access.log.1", env!("CARGO_BIN_EXE_edgeshim"));
    let piped =
        std::process::Command::new("sh").args(["-c", &script]).current_dir(&*shim.dir).output().expect("sh runs");
    assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stdout));
}

#[test]
fn log_when_requests_arrive_meanwhile_then_is_between_the_two_readings() {
    let origin = site();
    let shim = Shim::start(config(origin.addr));
    let url = format!("http://{}", shim.admin);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Raw::connect(shim.addr).patient(PATIENCE * 4);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                client.send("GET /a.png HTTP/1.1\r\nHost: a\r\nX-CDN-Provider: fastly\r\n\r\n");
                assert!(client.response().is_ok_and(|response| response.complete));
            }
        });
        let results: Vec<_> = (0..5).map(|_| verify(&shim.dir, &["access.log", "--metrics", &url])).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for (code, out, err) in &results {
            assert_eq!(*code, 0, "{out}{err}");
        }
        assert!(
            results.iter().any(|(_, out, _)| out.contains("requests ended, or were in flight, while the log was read")),
            "{results:?}"
        );
    });
}

#[test]
fn lines_when_older_than_the_process_then_do_not_count() {
    let origin = site();
    let first = Shim::start(limited(config(origin.addr)));
    let pulls = traffic(&first, &origin);
    wait_pulls(&first, pulls);
    let mut first = first;
    first.signal("TERM");
    assert!(first.wait_exit(PATIENCE * 4).success(), "{}", first.stderr());
    let log = std::fs::read_to_string(first.dir.join("access.log")).expect("the log of the first process");
    let second = Shim::start(config(origin.addr));
    fetch(second.addr, "/a.png", &[("X-CDN-Provider", "fastly")]);
    wait_pulls(&second, 1);
    second.dir.write("access.log.1", &log);
    let url = format!("http://{}/metrics", second.admin);
    let (code, out, err) = verify(&second.dir, &["access.log.1", "access.log", "--metrics", &url]);
    assert_eq!(code, 0, "{out}{err}");
    let older = log.lines().count();
    assert!(out.contains(&format!("{older} lines do not count, because they are older than the process")), "{out}");
    // A reload changes the time at which the configuration was loaded, but not the time at which the process started.
    second.reload(config(origin.addr).with("[gzip]\nlevel = 1"));
    assert_eq!(verify(&second.dir, &["access.log.1", "access.log", "--metrics", &url]).0, 0);
}

#[test]
fn lines_when_dropped_then_the_counter_explains_the_difference() {
    let origin = site();
    let shim = Shim::start(config(origin.addr).with("[access_log]\noutput = \"file:/dev/full\""));
    for _ in 0..4 {
        fetch(shim.addr, "/a.png", &[("X-CDN-Provider", "fastly")]);
    }
    wait_pulls(&shim, 4);
    shim.wait_metrics(|now| now.count("edgeshim_access_log_dropped_total", &[]) == 4);
    shim.dir.write("empty.log", "");
    let url = format!("http://{}", shim.admin);
    let (code, out, _) = verify(&shim.dir, &["empty.log", "--metrics", &url]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("edgeshim dropped 4 lines") && out.contains("this explains the missing lines"), "{out}");
}

#[test]
fn file_when_of_another_format_then_exits_with_2_and_names_line_and_remedy() {
    let dir = temp_dir();
    let mut nginx = String::new();
    for number in 0..20 {
        let _ = writeln!(nginx, "{{\"time_local\":\"28/Nov/2026\",\"status\":\"200\",\"n\":{number}}}");
    }
    dir.write("nginx.log", nginx);
    let ncsa = "192.0.2.1 - - [28/Nov/2026:12:30:00 +0000] \"GET / HTTP/1.1\" 200 43 \"-\" \"-\" fastly\n";
    dir.write("combined.log", ncsa.repeat(3));
    dir.write("binary.log", [0, 1, 2, 3, b'\n', 255]);
    dir.write("plain.gz", gzip(b"no log\n"));
    for (file, part) in [
        ("nginx.log", "line 1: this is not a line of an access log of edgeshim"),
        ("combined.log", "line 1: this log has the format combined or etsy"),
        ("binary.log", "line 1: "),
        ("plain.gz", "line 1: "),
    ] {
        let (code, out, err) = verify(&dir, &[file]);
        assert_eq!((code, out.as_str()), (2, ""), "{file}: {err}");
        let text = err.replace('\n', " ");
        assert!(text.contains(file) && text.contains(part) && text.contains("access_log.format = \"json\""), "{text}");
    }
    for arguments in [&["absent.log"][..], &["."], &[]] {
        assert_eq!(verify(&dir, arguments).0, 2, "{arguments:?}");
    }
}

#[test]
fn line_when_damaged_then_is_counted_and_shown_without_control_characters() {
    let origin = site();
    let shim = Shim::start(config(origin.addr));
    for _ in 0..2 {
        fetch(shim.addr, "/a.png", &[("X-CDN-Provider", "fastly")]);
    }
    wait_pulls(&shim, 2);
    let url = format!("http://{}", shim.admin);
    assert_eq!(verify(&shim.dir, &["access.log", "--metrics", &url]).0, 0);
    let log = std::fs::read_to_string(shim.dir.join("access.log")).expect("the log");
    let (first, second) = log.split_once('\n').expect("two lines");
    let damaged = format!("{first}\n\u{1b}[2J{{\n\n{second}{{\"time\":\"20");
    shim.dir.write("\u{1b}damaged.log", damaged);
    let (code, out, _) = verify(&shim.dir, &["\u{1b}damaged.log", "--metrics", &url]);
    assert_eq!(code, 1, "{out}");
    for part in ["1 unreadable lines do not count; the first is line 2", "the last line is incomplete", "equal"] {
        assert!(out.contains(part), "{part:?} is missing in\n{out}");
    }
    let (_, json, _) = verify(&shim.dir, &["\u{1b}damaged.log", "--json"]);
    assert!(!out.contains('\u{1b}') && !json.contains('\u{1b}'), "{out:?}{json:?}");
}

#[test]
fn metrics_when_foreign_denied_or_unreachable_then_exits_with_2_and_says_why() {
    let dir = temp_dir();
    dir.write("empty.log", "");
    let foreign = Origin::start(origin::fixed(200, &[], "up 1\n"));
    let denying = Origin::start(origin::fixed(401, &[], "no"));
    let closed = support::origin::ClosedPort::new();
    let (foreign, denied) = (format!("http://{}", foreign.addr), format!("http://{}", denying.addr));
    let closed = format!("http://{}", closed.addr);
    for (url, part) in [
        (foreign.as_str(), "the metrics contain no edgeshim_pulls_total"),
        (denied.as_str(), "status 401; write the value of admin.token as --token env:NAME"),
        (closed.as_str(), "no connection"),
        ("https://127.0.0.1:1", "is not the URL of an admin listener"),
    ] {
        let (code, out, err) = verify(&dir, &["empty.log", "--metrics", url]);
        assert_eq!((code, out.as_str()), (2, ""), "{url}: {err}");
        assert!(err.contains(part), "{part:?} is missing in {err}");
    }
}

/// A line of edgeshim without a newline.
const LINE: &str = concat!(
    r#"{"time":"2026-11-28T12:30:00.000Z","id":"r-1","provider":"fastly","class":"html","status":200,"#,
    r#""bytes":10,"origin_bytes":20}"#
);

#[test]
fn file_when_it_has_no_newline_then_complete_line_counts_and_foreign_text_exits_with_2() {
    let dir = temp_dir();
    dir.write("log", format!("{LINE}\n{LINE}"));
    dir.write("one", LINE);
    for (name, pulls) in [("log", 2), ("one", 1)] {
        let (code, out, err) = verify(&dir, &[name, "--json"]);
        assert_eq!(code, 0, "{err}");
        let json: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(json["files"][0]["lines"], pulls, "{out}");
        assert_eq!(json["files"][0]["has_incomplete_line"], false, "{out}");
    }
    dir.write("cut", LINE.get(..60).expect("a part of the line"));
    let (code, out, _) = verify(&dir, &["cut"]);
    assert!(code == 0 && out.contains("the last line is incomplete"), "{out}");
    dir.write("text", "this is not a log");
    dir.write("json", "{\"a\":1}");
    dir.write("long", "x".repeat(3 << 20));
    for name in ["text", "json", "long"] {
        let (code, out, err) = verify(&dir, &[name]);
        assert!(code == 2 && err.contains("this is not a line of an access log of edgeshim"), "{name}: {out}{err}");
    }
}

#[test]
fn file_when_endless_truncated_or_no_regular_file_then_exits_with_2() {
    let dir = temp_dir();
    assert!(std::process::Command::new("mkfifo").arg(dir.join("fifo")).status().expect("mkfifo runs").success());
    for (name, part) in [("fifo", "but a pipe; name a regular file"), ("/dev/zero", "but a device")] {
        let (code, _, err) = verify(&dir, &[name]);
        assert!(code == 2 && err.contains(part), "{name}: {err}");
    }
    let zero = std::fs::File::open("/dev/zero").expect("the device");
    let output = binary().args(["verify-log", "-"]).stdin(zero).output().expect("edgeshim runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && err.contains("64 MiB without a newline"), "{err}");
    let whole = gzip(format!("{LINE}\n").repeat(100).as_bytes());
    std::fs::write(dir.join("cut.gz"), &whole[..whole.len() - 9]).expect("a file");
    let (code, _, err) = verify(&dir, &["cut.gz"]);
    assert!(code == 2 && err.contains("the gzip file is truncated"), "{err}");
}

#[test]
fn file_when_named_twice_then_exits_with_2() {
    let dir = temp_dir();
    dir.write("log", format!("{LINE}\n"));
    std::os::unix::fs::symlink("log", dir.join("link")).expect("a link");
    for names in [["log", "log"], ["log", "link"], ["-", "-"]] {
        let (code, _, err) = verify(&dir, &names);
        assert!(code == 2 && err.contains("is the same file as"), "{names:?}: {err}");
    }
}
