//! Tests of `edgeshim bundle`: the evidence of a running edgeshim in one file, without secrets and personal values.

mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use serde_json::Value;
use support::raw::{exchange, fetch, request};
use support::shim::{Config, binary};
use support::{After, Origin, PATIENCE, Shim, origin, temp_dir, wait_until};

const TOKEN: &str = "hunter2-admin";
const SECRET: &str = "hunter2-proof";

fn config(origin: impl std::fmt::Display) -> Config {
    Shim::config(origin).with(&format!(
        r#"
        [admin]
        token = "{TOKEN}"
        [[provider]]
        name = "fastly"
        verify.secret = {{ header = "X-Origin-Secret", values = ["{SECRET}"] }}
        [access_log]
        output = "file:access.log"
        [origin]
        retries = 0
        "#
    ))
}

/// Runs the command in a folder. Returns the exit code, stdout and stderr.
fn bundle(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = binary();
    command.env("ADMIN_TOKEN", TOKEN).arg("bundle").args(arguments).current_dir(folder);
    let output = command.output().expect("edgeshim runs");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("output in UTF-8");
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Returns the files of a bundle. The reader is a program of the system, so that the test does not depend on the crate
/// that wrote the archive.
fn unpacked(path: &Path) -> BTreeMap<String, String> {
    let dir = temp_dir();
    let status =
        std::process::Command::new("tar").arg("-xzf").arg(path).arg("-C").arg(&*dir).status().expect("tar runs");
    assert!(status.success());
    let folder = std::fs::read_dir(dir.join("edgeshim-bundle")).expect("the folder of the bundle");
    folder
        .map(|file| {
            let file = file.expect("a file");
            let text = std::fs::read_to_string(file.path()).expect("a file in UTF-8");
            (file.file_name().into_string().expect("a name in UTF-8"), text)
        })
        .collect()
}

/// Starts a shim, and sends requests that contain secrets and personal values.
fn incident() -> (Shim, Origin) {
    let origin = Origin::start(|request, conn| {
        if request.target.starts_with("/fail") {
            return After::Close;
        }
        origin::respond(request, conn, 200, &[("Content-Type", "text/html")], b"0123456789")
    });
    let shim = Shim::start(config(origin.addr).with("[server]\ntrusted_proxies = [\"127.0.0.1/32\"]"));
    let fastly = [
        ("X-CDN-Provider", "fastly"),
        ("X-Origin-Secret", SECRET),
        ("Fastly-Client-IP", "203.0.113.77"),
        ("Cookie", "hunter2-cookie=1"),
        ("Authorization", "Bearer hunter2-login"),
        ("Referer", "https://www.test/cart?hunter2=hunter2"),
    ];
    for number in 0..3 {
        fetch(shim.addr, &format!("/page/{number}?session=hunter2&plain"), &fastly);
        fetch(shim.addr, &format!("/fail/reset/hunter2hunter2hunter2{number}"), &fastly);
    }
    fetch(shim.addr, "/x", &[("X-CDN-Provider", "fastly"), ("X-Origin-Secret", "hunter2-wrong")]);
    let note = br#"{"text":"deploy <b>1234</b> by hunter2@b.test"}"#;
    let authorization = format!("Bearer {TOKEN}");
    let fields = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    assert_eq!(exchange(shim.admin, request("POST", "/annotations", &fields, note)).status, 201);
    shim.wait_metrics(|now| now.count("edgeshim_pulls_total", &[]) == 7);
    let log = shim.dir.join("access.log");
    let is_complete = || std::fs::read_to_string(&log).is_ok_and(|text| text.lines().count() == 7);
    assert!(wait_until(PATIENCE, is_complete), "the log is incomplete");
    (shim, origin)
}

#[test]
fn bundle_when_made_of_a_running_shim_then_has_all_parts_and_no_secret() {
    let (shim, _origin) = incident();
    let url = format!("http://{}", shim.admin);
    let old = concat!(
        r#"{"time":"2001-01-01T00:00:00.000Z","id":"ancient","provider":"fastly","class":"html","status":500,"#,
        r#""bytes":1,"origin_bytes":1}"#,
        "\n"
    );
    shim.dir.write("access.log.1", old);
    let arguments =
        ["--admin", &url, "--token", "env:ADMIN_TOKEN", "--log", "access.log.1", "access.log", "--out", "b.tar.gz"];
    let (code, out, err) = bundle(&shim.dir, &arguments);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("b.tar.gz: 13 files, ") && out.contains("index.html"), "{out}");
    let files = unpacked(&shim.dir.join("b.tar.gz"));
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    let expected = [
        "access-log.ndjson",
        "annotations.json",
        "config.json",
        "counters.txt",
        "failures.ndjson",
        "index.html",
        "manifest.json",
        "metrics.txt",
        "series-15m.json",
        "series-1h.json",
        "series-2m.json",
        "summary.json",
        "top.json",
    ];
    assert_eq!(names, expected);
    for (name, text) in &files {
        assert!(!text.contains("hunter2-"), "{name} contains a secret");
        assert!(!text.contains("203.0.113.77"), "{name} contains the address of a client");
        // The name of a parameter is not a value, so the bundle keeps the name.
        let values = text.replace("?hunter2=***", "");
        assert!(!values.contains("hunter2"), "{name} contains a value of a query, or a token of a path:\n{text}");
    }
    assert_eq!(files["access-log.ndjson"].lines().count(), 7, "a line older than the window must be left out");
    assert!(files["access-log.ndjson"].contains("\"client\":\"203.0.113.0/24\""), "{}", files["access-log.ndjson"]);
    assert!(files["access-log.ndjson"].contains("/page/0?session=***&***"), "{}", files["access-log.ndjson"]);
    assert_eq!(files["failures.ndjson"].lines().count(), 3);
    assert!(files["counters.txt"].contains("code=\"502\"} 3\n"), "{}", files["counters.txt"]);
    assert!(files["metrics.txt"].contains("edgeshim_pulls_total{") && files["config.json"].contains("***"));
    assert!(files["annotations.json"].contains("deploy"));
    let page = &files["index.html"];
    for part in ["deploy &lt;b&gt;1234&lt;/b&gt;", "/fail/reset/***", "href=\"metrics.txt\""] {
        assert!(page.contains(part), "{part:?} is missing in\n{page}");
    }
    assert!(!page.contains("<script") && !page.contains("Missing:"), "{page}");
    let manifest: Value = serde_json::from_str(&files["manifest.json"]).expect("JSON");
    assert_eq!(manifest["problems"], serde_json::json!([]));
    assert_eq!(manifest["running"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(manifest["log"]["lines"], 7);
    for file in manifest["files"].as_array().expect("a list") {
        let name = file["name"].as_str().expect("a name");
        assert_eq!(file["bytes"].as_u64(), Some(files[name].len() as u64), "{name}");
    }
    // The gzip header has neither a time nor a name, so that equal content makes equal bytes.
    let bytes = std::fs::read(shim.dir.join("b.tar.gz")).expect("the bundle");
    let mut gzip = GzDecoder::new(&bytes[..]);
    gzip.read_to_end(&mut Vec::new()).expect("valid gzip");
    let header = gzip.header().expect("a header");
    assert_eq!((header.mtime(), header.filename()), (0, None));
}

#[test]
fn bundle_file_when_it_exists_then_replaced_only_with_force() {
    let (shim, _origin) = incident();
    let url = format!("http://{}", shim.admin);
    let arguments = ["--since", "5m", "--admin", &url, "--token", "env:ADMIN_TOKEN", "--out", "b.tar.gz"];
    assert_eq!(bundle(&shim.dir, &arguments).0, 0);
    shim.dir.write("b.tar.gz", "old");
    let (code, _, err) = bundle(&shim.dir, &arguments);
    assert!(code == 2 && err.contains("the file exists") && err.contains("--force"), "{err}");
    assert_eq!(std::fs::read(shim.dir.join("b.tar.gz")).expect("the file"), b"old");
    assert_eq!(bundle(&shim.dir, &[&arguments[..], &["--force"]].concat()).0, 0);
    assert!(unpacked(&shim.dir.join("b.tar.gz")).contains_key("index.html"));
    let leftover = std::fs::read_dir(&*shim.dir).expect("the folder").filter_map(Result::ok);
    let leftover: Vec<_> = leftover.filter(|file| file.file_name().to_string_lossy().ends_with(".tmp")).collect();
    assert!(leftover.is_empty(), "{leftover:?}");
}

#[test]
fn bundle_when_parts_are_missing_then_is_written_and_exits_with_1() {
    let (shim, _origin) = incident();
    let url = format!("http://{}", shim.admin);
    let missing = |arguments: &[&str]| {
        let (code, _, err) = bundle(&shim.dir, &[arguments, &["--out", "b.tar.gz", "--force"]].concat());
        assert_eq!(code, 1, "{err}");
        let files = unpacked(&shim.dir.join("b.tar.gz"));
        let manifest: Value = serde_json::from_str(&files["manifest.json"]).expect("JSON");
        let problem = manifest["problems"][0].as_str().expect("a problem").to_owned();
        assert!(err.contains(&problem), "{err}");
        assert!(files["index.html"].contains("Missing:"), "{}", files["index.html"]);
        (files, problem)
    };
    // Without the token, only the metrics can be read.
    let (files, problem) = missing(&["--admin", &url, "--log", "access.log"]);
    assert!(files.contains_key("metrics.txt") && !files.contains_key("config.json"));
    assert!(problem.starts_with("/config, /api/summary, ") && problem.contains("--token env:NAME"), "{problem}");
    // The listener is down. The log is there.
    let closed = support::origin::ClosedPort::new();
    let closed = format!("http://{}", closed.addr);
    let (files, problem) = missing(&["--admin", &closed, "--log", "access.log"]);
    assert_eq!(files["access-log.ndjson"].lines().count(), 7);
    assert!(problem.contains("no connection"), "{problem}");
    // The log is missing, or the file is not a log.
    let token = ["--admin", &url, "--token", "env:ADMIN_TOKEN"];
    let (files, problem) = missing(&[&token[..], &["--log", "absent.log"]].concat());
    assert!(files.contains_key("summary.json") && problem.contains("absent.log"), "{problem}");
    let (_, problem) = missing(&[&token[..], &["--log", "edgeshim.toml"]].concat());
    assert!(problem.contains("this is not a line of an access log of edgeshim"), "{problem}");
}

/// A listener that accepts connections and hands each of them to `serve`.
fn listener(serve: impl Fn(std::net::TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(serve));
    url
}

#[test]
fn admin_listener_when_hostile_then_time_and_size_of_the_bundle_are_bounded() {
    let endless = listener(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let piece = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
        while stream.write_all(&piece).is_ok() {}
    });
    let garbage = listener(|mut stream| {
        let body = b"{\"providers\":[{\"name\":\"</style><script>\\u001b\"}],\"outages\":7,\"times\":[1,2]}";
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(&[head.as_bytes(), body].concat());
    });
    let broken = listener(|mut stream| {
        let _ = stream.write_all(b"SSH-2.0-x\r\n");
    });
    let dir = temp_dir();
    for (url, code, part) in
        [(&endless, 1, "the response is longer than"), (&garbage, 0, ""), (&broken, 1, "is this the admin listener")]
    {
        let begun = Instant::now();
        let (exit, _, err) = bundle(&dir, &["--admin", url, "--out", "b.tar.gz", "--force"]);
        assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
        assert!(exit == code && err.contains(part), "{exit}: {err}");
        let files = unpacked(&dir.join("b.tar.gz"));
        assert!(!files["index.html"].contains("<script") && !files["index.html"].contains('\u{1b}'));
        let size: usize = files.values().map(String::len).sum();
        assert!(size < 1 << 20, "{size} bytes");
    }
}

#[test]
fn arguments_when_wrong_then_exits_with_2_and_writes_nothing() {
    let dir = temp_dir();
    for (arguments, part) in [
        (&["--admin", "http://127.0.0.1:1", "--since", "soon", "--out", "b"][..], "--since \"soon\" is not a duration"),
        (&["--admin", "ftp://x", "--out", "b"], "--admin \"ftp://x\" is not the URL of an admin listener"),
        (&["--admin", "http://127.0.0.1:1", "--token", TOKEN, "--out", "b"], "write env:NAME or file:PATH"),
        (&["--admin", "http://127.0.0.1:1", "--token", "env:UNSET", "--out", "b"], "not set"),
        (&["--admin", "http://127.0.0.1:1", "--out", "no/such/folder/b"], "name a file in a folder"),
        (&["--out", "b"], "--admin <URL>"),
    ] {
        let (code, out, err) = bundle(&dir, arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(err.contains(part) && !err.contains(TOKEN), "{part:?} is missing in {err}");
    }
    assert_eq!(std::fs::read_dir(&*dir).expect("the folder").count(), 0);
}

#[test]
fn arguments_when_out_is_not_a_regular_file_or_a_log_is_named_twice_then_exits_with_2_and_says_why() {
    let dir = temp_dir();
    std::os::unix::fs::symlink("nowhere", dir.join("dangling")).expect("a link");
    for (out, part) in
        [("dangling", "a symbolic link to a file that does not exist"), ("/dev/null", "not a regular file")]
    {
        let (code, _, err) = bundle(&dir, &["--admin", "http://127.0.0.1:1", "--out", out, "--force"]);
        assert!(code == 2 && err.contains(part), "{out}: {err}");
    }
    dir.write("log", "");
    let arguments = ["--admin", "http://127.0.0.1:1", "--out", "b", "--log", "log", "./log"];
    let (code, _, err) = bundle(&dir, &arguments);
    assert!(code == 2 && err.contains("is the same file as"), "{err}");
}
