//! Tests of TLS to the origin: the checks of the origin's certificate, client certificates, the choice of the version
//! of HTTP, session resumption, truncated bodies, changed files, and the messages of `check`.

mod support;

use std::io::Read as _;
use std::net::TcpListener;
use std::time::Duration;
use support::h2::{H2, Pieces};
use support::raw::fetch;
use support::tls_origin::{Authority, Identity, Options, Reply, TlsOrigin, Valid, files};
use support::{Config, Shim, TempDir, raw, shim, wait_until};

const FAULTS: &str = "edgeshim_origin_faults_total";
const RELOADS: &str = "edgeshim_config_reloads_total";
/// The longest time until edgeshim uses a changed file.
const FOLLOWED: Duration = Duration::from_secs(10);

fn config(origin: &TlsOrigin, tls: &str) -> Config {
    let url = format!("https://localhost:{}", origin.addr.port());
    Shim::config(url).with("[origin]\nconnect_timeout = \"3s\"").with(&format!("[origin.tls]\n{tls}"))
}

const TRUSTED: &str = "ca = \"ca.pem\"\nserver_name = \"origin.test\"";
const WITH_CLIENT: &str =
    "ca = \"ca.pem\"\nserver_name = \"origin.test\"\ncertificate = \"client.pem\"\nkey = \"client.key\"";

fn start(dir: TempDir, origin: &TlsOrigin, tls: &str) -> Shim {
    Shim::start_in(dir, config(origin, tls))
}

/// Sends a GET and checks the fault that it causes.
fn check_fault(shim: &Shim, cause: &str, error: &str, words: &str) {
    let before = shim.metrics();
    let response = fetch(shim.addr, "/", &[]);
    assert_eq!(response.status, 502, "{}", shim.stderr());
    assert_eq!(response.field("proxy-status"), Some(format!("edgeshim; error={error}").as_str()));
    assert_eq!(response.field("cache-control"), Some("no-store"));
    let after = shim.metrics();
    let more = |labels: &[(&str, &str)]| after.count(FAULTS, labels) - before.count(FAULTS, labels);
    assert_eq!((more(&[("cause", cause)]), more(&[])), (1, 1), "{}", shim.stderr());
    shim.wait_stderr(words);
}

// ---- the origin's certificate ---------------------------------------------------------------------------------------

#[test]
fn origin_over_tls_when_certificate_is_valid_then_serves_and_gets_the_server_name() {
    let authority = Authority::new("right");
    let identity = authority.issue(&["origin.test"], Valid::Now);
    let origin = TlsOrigin::start(&Options::new(&identity));
    let shim = start(files(&authority, None), &origin, TRUSTED);
    let response = fetch(shim.addr, "/a?b", &[]);
    assert_eq!((response.status, response.text().as_str()), (200, "HTTP/1.1 /a?b"), "{}", shim.stderr());
    let seen = origin.handshakes();
    assert_eq!((seen.len(), seen[0].name.as_deref(), seen[0].protocol.as_str()), (1, Some("origin.test"), "http/1.1"));
    assert_eq!(fetch(shim.addr, "/again", &[]).status, 200);
    assert_eq!(origin.handshakes().len(), 1, "the second request did not reuse the connection");
}

#[test]
fn origin_certificate_when_invalid_then_fault_names_the_reason_and_no_handshake_succeeds() {
    let (authority, foreign) = (Authority::new("right"), Authority::new("foreign"));
    for (identity, words) in [
        (authority.issue(&["origin.test"], Valid::Until9DaysAgo), "expired 9 days ago: renew the certificate"),
        (authority.issue(&["other.test"], Valid::Now), "is not for \"origin.test\" (it is for \"other.test\")"),
        (foreign.issue(&["origin.test"], Valid::Now), "no trusted authority issued the origin's certificate"),
    ] {
        let origin = TlsOrigin::start(&Options::new(&identity));
        let shim = start(files(&authority, None), &origin, TRUSTED);
        check_fault(&shim, "tls_certificate", "tls_certificate_error", words);
        assert_eq!(origin.handshakes(), []);
    }
}

#[test]
fn origin_when_port_speaks_plain_http_then_fault_is_tls_protocol() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut sink = [0; 64];
            let _ = stream.read(&mut sink);
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let dir = files(&Authority::new("right"), None);
    let config = Shim::config(format!("https://127.0.0.1:{port}")).with("[origin.tls]\nca = \"ca.pem\"");
    let shim = Shim::start_in(dir, config);
    check_fault(&shim, "tls_protocol", "tls_protocol_error", "write http:// in origin.url");
}

#[test]
fn handshake_when_origin_is_silent_then_connect_timeout_ends_the_handshake() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let dir = files(&Authority::new("right"), None);
    let config = Shim::config(format!("https://127.0.0.1:{port}"))
        .with("[origin]\nconnect_timeout = \"300ms\"\n[origin.tls]\nca = \"ca.pem\"");
    let shim = Shim::start_in(dir, config);
    let response = fetch(shim.addr, "/", &[]);
    assert_eq!((response.status, response.field("proxy-status")), (504, Some("edgeshim; error=connection_timeout")));
    assert_eq!(shim.metrics().count(FAULTS, &[("cause", "connect_timeout")]), 1);
    drop(listener);
}

// ---- client certificates --------------------------------------------------------------------------------------------

#[test]
fn client_certificate_when_configured_then_origin_accepts_the_connection() {
    let authority = Authority::new("right");
    let identity = authority.issue(&["origin.test"], Valid::Now);
    let client = authority.issue(&["edgeshim.test"], Valid::Now);
    let origin = TlsOrigin::start(&Options { clients: Some(&authority), ..Options::new(&identity) });
    let shim = start(files(&authority, Some(&client)), &origin, WITH_CLIENT);
    assert_eq!(fetch(shim.addr, "/", &[]).status, 200, "{}", shim.stderr());
    assert_eq!(origin.handshakes()[0].certificate, Some(client.der()));
}

#[test]
fn client_certificate_when_missing_or_foreign_then_fault_is_tls_alert() {
    let (authority, foreign) = (Authority::new("right"), Authority::new("foreign"));
    let identity = authority.issue(&["origin.test"], Valid::Now);
    let clients = foreign.issue(&["edgeshim.test"], Valid::Now);
    let origin = TlsOrigin::start(&Options { clients: Some(&authority), ..Options::new(&identity) });
    let shim = start(files(&authority, None), &origin, TRUSTED);
    check_fault(&shim, "tls_alert", "tls_alert_received", "the origin requires a client certificate");
    let shim = start(files(&authority, Some(&clients)), &origin, WITH_CLIENT);
    check_fault(&shim, "tls_alert", "tls_alert_received", "the origin refuses the client certificate");
    let h2 = config(&origin, TRUSTED).with("[origin]\nhttp2 = true");
    let shim = Shim::start_in(files(&authority, None), h2);
    check_fault(&shim, "tls_alert", "tls_alert_received", "the origin requires a client certificate");
}

// ---- versions of HTTP, sessions -------------------------------------------------------------------------------------

#[test]
fn http_version_when_http2_is_configured_then_origin_chooses_by_alpn() {
    let authority = Authority::new("right");
    let identity = authority.issue(&["origin.test"], Valid::Now);
    for (http2, protocols, expected) in [
        (true, ["h2", "http/1.1"].as_slice(), ("h2", "HTTP/2.0 https://shim.test/a")),
        (true, &["http/1.1"], ("http/1.1", "HTTP/1.1 /a")),
        (true, &[], ("", "HTTP/1.1 /a")),
        (false, &["h2", "http/1.1"], ("http/1.1", "HTTP/1.1 /a")),
    ] {
        let origin = TlsOrigin::start(&Options { protocols, ..Options::new(&identity) });
        let config = config(&origin, TRUSTED).with(&format!("[origin]\nhttp2 = {http2}"));
        let shim = Shim::start_in(files(&authority, None), config);
        for _ in 0..3 {
            let response = raw::exchange(shim.addr, raw::get("/a"));
            assert_eq!((response.status, response.text().as_str()), (200, expected.1), "{}", shim.stderr());
        }
        let upload = raw::exchange(shim.addr, raw::request("POST", "/a", &[], b"body"));
        assert_eq!((upload.status, upload.text().as_str()), (200, expected.1));
        let seen = origin.handshakes();
        assert!(seen.iter().all(|handshake| handshake.protocol == expected.0), "{seen:?}");
    }
}

#[test]
fn request_when_origin_chooses_http1_on_the_first_connection_then_keeps_its_framing_and_fields() {
    let authority = Authority::new("right");
    let identity = authority.issue(&["origin.test"], Valid::Now);
    let options = Options { protocols: &["http/1.1"], reply: Reply::Echo, ..Options::new(&identity) };
    let sent = |ask: &dyn Fn(&Shim) -> (u16, String)| {
        // A new shim, because the first connection shows which version of HTTP the origin chooses.
        let origin = TlsOrigin::start(&options);
        let config = config(&origin, TRUSTED).with("[origin]\nhttp2 = true");
        let shim = Shim::start_in(files(&authority, None), config);
        let (status, text) = ask(&shim);
        assert_eq!((status, origin.handshakes().len()), (200, 1), "{}", shim.stderr());
        text
    };
    for method in ["GET", "HEAD", "POST", "DELETE"] {
        let text = sent(&|shim| {
            let body = Pieces::of(["GET /smuggled HTTP/1.1\r\n\r\n".into()]);
            let response = H2::connect(shim.addr).ask(method, "/a", &[("te", "trailers")], body);
            (response.status, String::from_utf8_lossy(&response.body).to_lowercase())
        });
        if method == "HEAD" {
            continue;
        }
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with(&format!("{} /a http/1.1\r\n", method.to_lowercase())), "{text}");
        for line in ["host: shim.test", "transfer-encoding: chunked", "te: trailers", "connection: te"] {
            assert_eq!(head.lines().filter(|found| *found == line).count(), 1, "{line}: {text}");
        }
        assert!(!head.contains("content-length"), "{text}");
        assert_eq!(body, "1a\r\nget /smuggled http/1.1\r\n\r\n\r\n0\r\n\r\n", "{method}");
    }
    let text = sent(&|shim| {
        let response = raw::exchange(shim.addr, raw::upgrade("echo"));
        (response.status, response.text().to_lowercase())
    });
    assert!(text.contains("upgrade: echo\r\n") && text.contains("connection: upgrade\r\n"), "{text}");
}

#[test]
fn requests_when_origin_chooses_http1_during_their_wait_then_each_gets_a_response() {
    let authority = Authority::new("right");
    let identity = authority.issue(&["origin.test"], Valid::Now);
    let origin = TlsOrigin::start(&Options { protocols: &["http/1.1"], ..Options::new(&identity) });
    let config = config(&origin, TRUSTED).with("[server]\nworkers = 1\n[origin]\nhttp2 = true");
    let shim = Shim::start_in(files(&authority, None), config);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..20).map(|_| scope.spawn(|| fetch(shim.addr, "/a", &[]))).collect();
        for response in clients.into_iter().map(|client| client.join().expect("a client")) {
            assert_eq!((response.status, response.text().as_str()), (200, "HTTP/1.1 /a"));
        }
    });
}

#[test]
fn tls_session_when_origin_sent_a_ticket_then_later_connection_resumes_the_session() {
    let authority = Authority::new("right");
    let identity = authority.issue(&["origin.test"], Valid::Now);
    let origin = TlsOrigin::start(&Options::new(&identity));
    let config = config(&origin, TRUSTED).with("[origin]\nmax_idle = 0");
    let shim = Shim::start_in(files(&authority, None), config);
    for _ in 0..3 {
        assert_eq!(fetch(shim.addr, "/", &[]).status, 200);
    }
    let resumed: Vec<bool> = origin.handshakes().iter().map(|handshake| handshake.resumed).collect();
    assert_eq!(resumed, [false, true, true]);
}

#[test]
fn request_when_connection_ends_in_handshake_then_retried_only_if_idempotent_and_empty() {
    let authority = Authority::new("right");
    let identity = authority.issue(&["origin.test"], Valid::Now);
    for http2 in [false, true] {
        for (method, body, retries, status) in
            [("GET", "", 1, 200), ("GET", "", 0, 502), ("PUT", "body", 1, 502), ("POST", "", 1, 502)]
        {
            let origin = TlsOrigin::start(&Options { closes: 1, ..Options::new(&identity) });
            let keys = format!("[origin]\nhttp2 = {http2}\nretries = {retries}");
            let shim = Shim::start_in(files(&authority, None), config(&origin, TRUSTED).with(&keys));
            let response = raw::exchange(shim.addr, raw::request(method, "/", &[], body.as_bytes()));
            assert_eq!(response.status, status, "{method} {body:?}, retries = {retries}, http2 = {http2}");
        }
    }
}

// ---- truncated bodies -----------------------------------------------------------------------------------------------

#[test]
fn body_until_close_when_close_notify_is_missing_then_body_is_cut() {
    let authority = Authority::new("right");
    let identity = authority.issue(&["origin.test"], Valid::Now);
    for (reply, complete) in [(Reply::UntilClose, true), (Reply::Truncated, false)] {
        let origin = TlsOrigin::start(&Options { reply, ..Options::new(&identity) });
        let shim = start(files(&authority, None), &origin, TRUSTED);
        let response = fetch(shim.addr, "/", &[]);
        assert_eq!((response.status, response.body.len(), response.complete), (200, 200_000, complete));
        shim.wait_metrics(|now| now.count(FAULTS, &[("cause", "cut")]) == u64::from(!complete));
    }
}

// ---- the configuration ----------------------------------------------------------------------------------------------

#[test]
fn ca_file_when_changed_then_used_within_10_seconds_and_broken_file_is_ignored() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let identity = new.issue(&["origin.test"], Valid::Now);
    let origin = TlsOrigin::start(&Options::new(&identity));
    let shim = start(files(&old, None), &origin, TRUSTED);
    assert_eq!(fetch(shim.addr, "/", &[]).status, 502);
    shim.dir.write("ca.pem", "nonsense");
    shim.wait_stderr("the last good files stay in use");
    shim.dir.write("new.pem", new.pem());
    std::fs::rename(shim.dir.join("new.pem"), shim.dir.join("ca.pem")).expect("a renamed file");
    assert!(wait_until(FOLLOWED, || fetch(shim.addr, "/", &[]).status == 200), "{}", shim.stderr());
}

#[test]
fn ca_file_when_broken_then_change_counts_as_one_failed_reload() {
    let authority = Authority::new("right");
    let identity = authority.issue(&["origin.test"], Valid::Now);
    let origin = TlsOrigin::start(&Options::new(&identity));
    // The stand-in reads the same file.
    let mirror = format!("[origin]\nstand_in = \"https://localhost:{}\"", origin.addr.port());
    let config = config(&origin, TRUSTED).with(&mirror);
    let shim = Shim::start_in(files(&authority, None), &config);
    let reloads = |result: &str| shim.metrics().count(RELOADS, &[("result", result)]);
    for changes in 1..=2 {
        shim.dir.write("ca.pem", "nonsense".repeat(changes));
        assert!(wait_until(FOLLOWED, || reloads("failed") == changes as u64), "{}", shim.stderr());
    }
    assert_eq!(fetch(shim.addr, "/", &[]).status, 200, "the last good file must stay in use");
    // After SIGHUP, the broken file makes the whole reload fail.
    shim.reload(config.clone().with("[server]\nmax_hops = 7"));
    assert!(wait_until(FOLLOWED, || reloads("failed") == 3));
    shim.dir.write("ca.pem", authority.pem());
    shim.wait_stderr("the files of [origin.tls] have changed and are in use");
    assert_eq!((reloads("failed"), reloads("ok")), (3, 0));
}

#[test]
fn origin_when_reloaded_with_unchanged_keys_then_stays_with_new_files_and_a_broken_file_makes_the_reload_fail() {
    let (authority, other) = (Authority::new("right"), Authority::new("other"));
    let identity = authority.issue(&["origin.test"], Valid::Now);
    let client = |name| other.issue(&[name], Valid::Now);
    let origin = TlsOrigin::start(&Options { clients: Some(&other), ..Options::new(&identity) });
    let one_worker = config(&origin, WITH_CLIENT).with("[server]\nworkers = 1");
    let old = client("one.test");
    let shim = Shim::start_in(files(&authority, Some(&old)), &one_worker);
    let ask = || assert_eq!(fetch(shim.addr, "/", &[]).status, 200, "{}", shim.stderr());
    ask();
    shim.reload(one_worker.clone().with("[server]\nmax_hops = 7"));
    ask();
    assert_eq!(origin.handshakes().len(), 1, "the reload has replaced the origin and closed its connection");
    let new = client("two.test");
    shim.dir.write("client.pem", &new.certificate);
    shim.dir.write("client.key", &new.key);
    shim.dir.write("ca.pem", "nonsense");
    shim.reload(one_worker.clone().with("[server]\nmax_hops = 8"));
    shim.wait_stderr("reload failed: ");
    shim.dir.write("ca.pem", authority.pem());
    shim.reload(one_worker.with("[server]\nmax_hops = 9"));
    shim.wait_metrics(|now| now.count(RELOADS, &[("result", "ok")]) == 2);
    // The next connection has the new client certificate.
    assert_eq!(fetch(shim.addr, "/close", &[]).status, 200, "{}", shim.stderr());
    ask();
    let certificates: Vec<_> = origin.handshakes().into_iter().map(|seen| seen.certificate).collect();
    assert_eq!(certificates, [Some(old.der()), Some(new.der())]);
}

fn problems(dir: &TempDir, text: &str) -> String {
    let file = dir.write("edgeshim.toml", text);
    let (code, out, _) = shim::run(&["check", "--config", file.to_str().expect("a path")]);
    assert_eq!(code, i32::from(!out.contains(": fine")), "{out}");
    out
}

#[test]
fn origin_tls_keys_when_wrong_then_check_names_the_key_and_what_to_write() {
    let authority = Authority::new("right");
    let Identity { certificate, key } = authority.issue(&["a.test"], Valid::Now);
    let dir = files(&authority, Some(&Identity { certificate, key }));
    dir.write("other.key", authority.issue(&["a.test"], Valid::Now).key);
    dir.write("empty.pem", "");
    let https = "[origin]\nurl = \"https://a.test\"\n[origin.tls]\n";
    for (tls, expected) in [
        ("ca = \"none.pem\"", "origin.tls.ca: \"none.pem\" names a file that cannot be read"),
        ("ca = \"empty.pem\"", "origin.tls.ca: \"empty.pem\" names a file without valid certificates"),
        ("server_name = \"a b\"", "origin.tls.server_name: \"a b\" is not a name that a certificate can have"),
        ("ca = \"ca.pem\"\ncertificate = \"client.pem\"", "origin.tls.key: is missing; write the path"),
        ("ca = \"ca.pem\"\nkey = \"client.key\"", "origin.tls.certificate: is missing; write the path"),
        (
            "ca = \"ca.pem\"\ncertificate = \"client.pem\"\nkey = \"other.key\"",
            "origin.tls.key: \"other.key\" is not the key of origin.tls.certificate",
        ),
        (
            "ca = \"ca.pem\"\ncertificate = \"client.pem\"\nkey = \"client.pem\"",
            "origin.tls.key: \"client.pem\" names a file without a private key",
        ),
    ] {
        let out = problems(&dir, &format!("{https}{tls}"));
        assert!(out.contains(expected), "{tls}: {out}");
    }
    assert!(problems(&dir, &format!("{https}{WITH_CLIENT}")).contains(": fine"));
    let unused = problems(&dir, "[origin.tls]\nserver_name = \"a.test\"");
    assert!(unused.contains("origin.tls.server_name: \"a.test\" has no effect"), "{unused}");
    let tls = "[origin.tls]\nca = \"ca.pem\"\n";
    for (keys, expected) in [
        ("url = \"https://-a.test\"", "origin.tls.server_name: is missing, and \"-a.test\", the host of origin.url"),
        ("stand_in = \"https://-a.test\"", "origin.stand_in: \"https://-a.test\" has a host that is not a name"),
    ] {
        let out = problems(&dir, &format!("[origin]\n{keys}\n{tls}"));
        assert!(out.contains(expected) && out.contains("a name that a certificate can have"), "{out}");
    }
}

#[test]
fn system_authorities_when_absent_then_check_says_what_to_install() {
    let dir = files(&Authority::new("right"), None);
    let file = dir.write("edgeshim.toml", "[origin]\nurl = \"https://a.test\"\n");
    dir.write("empty.pem", "");
    for (authorities, expected) in [("empty.pem", "install the package ca-certificates"), ("ca.pem", ": fine")] {
        let mut command = shim::binary();
        let output =
            command.env("SSL_CERT_FILE", dir.join(authorities)).arg("check").arg("--config").arg(&file).output();
        let text = String::from_utf8_lossy(&output.expect("the edgeshim binary starts").stdout).into_owned();
        assert!(text.contains(expected), "{authorities}: {text}");
    }
}
