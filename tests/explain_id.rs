//! Tests of `edgeshim explain ID`: it finds the requests with an id in logs that a real edgeshim has written.

mod support;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use support::raw::fetch;
use support::shim::{Config, binary};
use support::{After, Origin, PATIENCE, Shim, origin, temp_dir};

const GIF: &str = "/status/images/beacon.gif";

fn config(origin: impl std::fmt::Display, format: &str) -> Config {
    Shim::config(origin)
        .with("[[provider]]\nname = \"fastly\"")
        .with(&format!("[access_log]\noutput = \"file:access.log\"\nformat = \"{format}\"\n[origin]\nretries = 0"))
}

fn site() -> Origin {
    Origin::start(|request, conn| match request.target.as_str() {
        "/hang-up" => After::Close,
        _ => origin::respond(request, conn, 200, &[], b"0123456789"),
    })
}

/// Sends a request that ends in a page, the beacon of this page, and other requests. Returns the page.
fn traffic(shim: &Shim) -> String {
    let fastly = ("X-CDN-Provider", "fastly");
    let page = fetch(shim.addr, "/hang-up", &[fastly, ("Accept", "text/html"), ("X-Request-Id", "made-1")]);
    assert_eq!(page.status, 502);
    fetch(shim.addr, &format!("{GIF}?source=fastly&server_identity=&reason=closed&id=made-1"), &[]);
    fetch(shim.addr, "/twice?first", &[fastly, ("X-Request-Id", "made-2")]);
    fetch(shim.addr, "/twice?second", &[fastly, ("X-Request-Id", "made-2")]);
    // These requests contain the id in other places.
    fetch(shim.addr, "/other?id=made-1", &[fastly, ("X-Request-Id", "made-12"), ("User-Agent", "made-1")]);
    page.text()
}

/// Stops the shim, so that its log is complete.
fn stop(mut shim: Shim) -> support::TempDir {
    shim.signal("TERM");
    assert!(shim.wait_exit(PATIENCE * 4).success(), "{}", shim.stderr());
    let dir = temp_dir();
    std::fs::copy(shim.dir.join("access.log"), dir.join("access.log")).expect("a copy of the log");
    dir
}

/// Runs the command in a folder. Returns the exit code, stdout and stderr.
fn explain(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = binary().arg("explain").args(arguments).current_dir(folder).output().expect("edgeshim runs");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("output in UTF-8");
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Returns the reference that the page shows, as a browser copies the reference.
fn reference(page: &str) -> String {
    let (_, line) = page.split_once("<p id=\"line\"").expect("a reference");
    let (_, line) = line.split_once('>').expect("the end of the tag");
    let (line, _) = line.split_once("</p>").expect("the end of the reference");
    let tags = regex::Regex::new("<[^>]*>").expect("a pattern");
    tags.replace_all(line, "").replace("&nbsp;", "\u{a0}")
}

#[test]
fn reference_of_a_page_when_explained_then_tells_what_happened_and_that_a_person_saw_the_page() {
    let origin = site();
    let shim = Shim::start(config(origin.addr, "json"));
    let page = traffic(&shim);
    let dir = stop(shim);
    let reference = reference(&page);
    assert!(reference.starts_with("made-1"), "{reference}");
    for id in ["made-1", &reference] {
        let (code, out, err) = explain(&dir, &[id, "--log", "access.log"]);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        for part in [
            " UTC, fastly requested GET 127.0.0.1",
            "/hang-up for the client 127.0.0.1.",
            "The origin closed the connection before it responded (closed).",
            "edgeshim sent status 502 and the whoopsie page in the language en",
            "\nid            made-1\n",
            "To do: check the origin's log",
            "A browser displayed the page with this reference: its beacon was requested once",
        ] {
            assert!(out.contains(part), "{part:?} is missing in\n{out}");
        }
        assert!(!out.contains("made-12") && !out.contains("/other"), "{out}");
    }
    let (code, out, _) = explain(&dir, &["made-1", "--log", "access.log", "--json"]);
    assert_eq!((code, out.lines().count()), (0, 1), "{out}");
    let json: Value = serde_json::from_str(&out).expect("JSON");
    let line = &json["requests"][0]["line"];
    assert_eq!((line["provider"].as_str(), line["cause"].as_str()), (Some("fastly"), Some("closed")), "{out}");
    assert_eq!(
        (json["requests"].as_array().map(Vec::len), json["beacons"].as_array().map(Vec::len)),
        (Some(1), Some(1))
    );
}

#[test]
fn id_when_sent_twice_then_both_requests_are_shown_in_order_of_time() {
    let origin = site();
    let shim = Shim::start(config(origin.addr, "json"));
    traffic(&shim);
    let dir = stop(shim);
    let log = std::fs::read_to_string(dir.join("access.log")).expect("the log");
    // The newer request is in the first file, and the older request in a rotated file, which is compressed.
    let at = log.find("/twice?second").expect("the second request");
    let at = log[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let mut old = GzEncoder::new(Vec::new(), Compression::default());
    old.write_all(&log.as_bytes()[..at]).expect("writing to memory does not fail");
    // Both requests can have the same millisecond, so the test moves the newer request into the next century.
    dir.write("new.log", log[at..].replacen("\"time\":\"20", "\"time\":\"21", 1));
    dir.write("old", old.finish().expect("writing to memory does not fail"));
    let (code, out, _) = explain(&dir, &["made-2", "--log", "new.log", "old"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.starts_with("2 requests have the id made-2"), "{out}");
    let (first, second) =
        (out.find("/twice?first").expect("the first"), out.find("/twice?second").expect("the second"));
    assert!(first < second, "{out}");
    // Standard input can be compressed too.
    let command = format!("{} explain made-2 --log - < old", env!("CARGO_BIN_EXE_edgeshim"));
    let piped = Command::new("sh").args(["-c", &command]).current_dir(&*dir).output().expect("sh runs");
    assert!(piped.status.success() && String::from_utf8_lossy(&piped.stdout).contains("/twice?first"));
}

#[test]
fn id_when_absent_or_format_has_no_ids_then_exits_with_1_and_says_what_to_do() {
    let origin = site();
    for format in ["json", "combined", "etsy"] {
        let shim = Shim::start(config(origin.addr, format));
        traffic(&shim);
        let dir = stop(shim);
        let (code, out, err) = explain(&dir, &["absent-1", "--log", "access.log"]);
        assert_eq!((code, out.as_str()), (1, ""), "{format}: {err}");
        let part = if format == "json" { "also the rotated files" } else { "access_log.format = \"json\"" };
        assert!(err.contains("no request with the id absent-1") && err.contains(part), "{format}: {err}");
        // In every format, the beacon has the id of its page.
        let (code, out, err) = explain(&dir, &["made-1", "--log", "access.log"]);
        assert_eq!(code, 0, "{format}: {err}");
        assert!(out.contains("its beacon was requested once"), "{format}: {out}");
    }
}

#[test]
fn id_or_log_when_hostile_then_no_control_character_reaches_the_terminal() {
    let dir = temp_dir();
    let line = concat!(
        r#"{"time":"2026-11-28T12:30:00.000Z","id":"r-1","provider":"fastly","claimed":"\u001b[2J","class":"html","#,
        r#""status":200,"bytes":1,"origin_bytes":1,"path":"/\u009b31m","user_agent":"\u202e\u0007","method":"GET"}"#
    );
    let raw = line.replace(r"\u001b", "\u{1b}").replace(r"\u009b", "\u{9b}");
    let mut log = format!("{line}\n{raw}\nr-1 \u{1b}]0;x\u{7}\n").into_bytes();
    log.extend_from_slice(b"\xff\xfe{\"id\":\"r-1\"\n");
    dir.write("log", log);
    for arguments in [&["r-1", "--log", "log"][..], &["r-1", "--log", "log", "--json"]] {
        let (code, out, err) = explain(&dir, arguments);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        let active = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!out.contains(active), "{out:?}");
        assert!(
            out.contains("2 lines contain the id but cannot be read") || out.contains("\"unreadable_lines\":2"),
            "{out}"
        );
    }
    for id in ["\u{1b}[2J", "a b\"", "", "../../etc/passwd", &"x".repeat(129)] {
        let (code, out, err) = explain(&dir, &[id, "--log", "log"]);
        // Of several words, only the first is the id.
        assert_eq!((code, out.as_str()), (if id == "a b\"" { 1 } else { 2 }, ""), "{err}");
        assert!(!err.contains('\u{1b}'), "{err:?}");
    }
    for arguments in
        [&["r-1"][..], &["r-1", "--log", "absent"], &["r-1", "--path", "/", "--log", "log"], &["--log", "log"]]
    {
        assert_eq!(explain(&dir, arguments).0, 2, "{arguments:?}");
    }
}

#[test]
fn log_when_it_has_a_long_line_then_the_other_lines_are_searched() {
    let dir = temp_dir();
    let line = concat!(
        r#"{"time":"2026-11-28T12:30:00.000Z","id":"r-1","provider":"fastly","class":"html","status":200,"#,
        r#""bytes":1,"origin_bytes":1}"#
    );
    let mut log = vec![b'r'; 3 << 20];
    log.extend_from_slice(format!("\n{line}\n").as_bytes());
    let mut child = binary()
        .args(["explain", "r-1", "--log", "-"])
        .current_dir(&*dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("edgeshim runs");
    child.stdin.take().expect("a pipe").write_all(&log).expect("edgeshim reads");
    let output = child.wait_with_output().expect("edgeshim ends");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn log_when_last_line_has_no_newline_then_searched_and_when_foreign_or_named_twice_then_refused() {
    let dir = temp_dir();
    let line = concat!(
        r#"{"time":"2026-11-28T12:30:00.000Z","id":"r-1","provider":"fastly","class":"html","status":200,"#,
        r#""bytes":10,"origin_bytes":20}"#
    );
    dir.write("one", line);
    let (code, out, err) = explain(&dir, &["r-1", "--log", "one"]);
    assert!(code == 0 && out.contains("r-1"), "{out}{err}");
    dir.write("text", "this is\nnot a log");
    dir.write("rest", "this is not a log");
    for name in ["text", "rest"] {
        let (code, _, err) = explain(&dir, &["r-1", "--log", name]);
        assert!(code == 1 && err.contains(&format!("{name} is not an access log of edgeshim")), "{err}");
    }
    let (code, _, err) = explain(&dir, &["r-1", "--log", "one", "one"]);
    assert!(code == 2 && err.contains("is the same file as"), "{err}");
}
