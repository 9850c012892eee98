//! Tests of `[server.tls]`: HTTP over TLS, handshakes that fail, certificates by host name, resumption, changed files,
//! client certificates, and the drain.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::CipherSuite;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use sha2::{Digest as _, Sha256};
use support::frames::{self, GOAWAY};
use support::h2::{self, Pieces};
use support::raw::{End, exchange, fetch, get, request, upgrade};
use support::tls_client::{ClientOptions, TlsClient, der, is_resumed, presented};
use support::tls_origin::{Authority, Identity, Valid};
use support::{After, Config, Gate, Origin, PATIENCE, Raw, Response, Shim, TempDir, origin, temp_dir, wait_until};

const HANDSHAKES: &str = "edgeshim_tls_handshakes_total";
const RELOADS: &str = "edgeshim_config_reloads_total";
const EXPIRY: &str = "edgeshim_certificate_expiry_timestamp_seconds";
/// The longest time until edgeshim uses a changed file.
const FOLLOWED: Duration = Duration::from_secs(10);
/// The longest time that a test waits for an event that follows one of the shim's timeouts.
const LONG: Duration = Duration::from_secs(20);

/// Writes a certificate and its key.
fn write_pair(dir: &TempDir, name: &str, pair: &Identity) {
    dir.write(&format!("{name}.pem"), &pair.certificate);
    dir.write(&format!("{name}.key"), &pair.key);
}

fn config(origin: &Origin, keys: &str) -> Config {
    Shim::config(origin.addr).with("[server]\nworkers = 2").with(&format!(
        "[server.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificate = \"www.pem\"\nkey = \"www.key\"\n{keys}"
    ))
}

/// Makes an authority, and a folder with its certificate (`ca.pem`) and a pair for `www.test`.
fn folder() -> (Authority, TempDir) {
    let (authority, dir) = (Authority::new("right"), temp_dir());
    write_pair(&dir, "www", &authority.issue(&["www.test"], Valid::Now));
    dir.write("ca.pem", authority.pem());
    (authority, dir)
}

/// Starts a shim with TLS. `keys` are further keys of `[server.tls]`.
fn start(origin: &Origin, keys: &str) -> (Authority, Shim) {
    let (authority, dir) = folder();
    (authority, Shim::start_in(dir, config(origin, keys)))
}

fn connect(shim: &Shim, client: &TlsClient) -> Raw {
    client.connect(shim.tls_addr(), "www.test").expect("a TLS connection")
}

/// Sends a GET without `Connection: close` and reads the response.
fn ask(raw: &mut Raw, target: &str) -> Response {
    raw.send(get(target)).response().unwrap_or_else(|why| panic!("no response arrived: {why:?}"))
}

/// Returns the number of handshakes with this result.
fn handshakes(shim: &Shim, result: &str) -> u64 {
    shim.metrics().count(HANDSHAKES, &[("result", result)])
}

/// Waits until this number of handshakes has this result. Checks that all other handshakes have succeeded.
fn wait_handshakes(shim: &Shim, result: &str, times: u64) {
    let now = shim.wait_metrics(|now| now.count(HANDSHAKES, &[("result", result)]) >= times);
    let ok = now.count(HANDSHAKES, &[("result", "ok")]);
    assert_eq!(now.count(HANDSHAKES, &[("result", result)]), times, "{}", now.text);
    assert_eq!(now.count(HANDSHAKES, &[]) - ok, times, "another result was counted: {}", now.text);
}

/// Asserts that the peer ends the connection with `close_notify`.
fn assert_orderly_end(raw: &mut Raw) {
    match raw.more() {
        Ok(bytes) if bytes.is_empty() => {}
        other => panic!("the connection did not end with close_notify: {other:?}"),
    }
}

// ---- HTTP over TLS --------------------------------------------------------------------------------------------------

#[test]
fn http11_when_sent_over_tls_then_serves_several_requests_and_origin_sees_https() {
    let origin = Origin::start(origin::echo());
    let (authority, shim) = start(&origin, "");
    for version in [&TLS12, &TLS13] {
        let client = ClientOptions { versions: &[version], ..ClientOptions::new(&authority) }.build();
        let mut raw = connect(&shim, &client);
        assert_eq!(raw.session().alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(raw.session().protocol_version(), Some(version.version));
        assert_eq!(ask(&mut raw, "/a").status, 200);
        // The client sends two requests in one TLS record.
        raw.send(get("/b") + &get("/c"));
        for target in ["/b", "/c"] {
            let response = raw.response().expect("a response");
            assert_eq!((response.status, response.json()["target"].as_str()), (200, Some(target)));
            assert_eq!(response.problems, [""; 0]);
        }
        let seen = origin.last();
        assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
        // A request with `Connection: close` ends the connection in an orderly way.
        raw.send(request("GET", "/d", &[], b""));
        assert_eq!(raw.response().expect("a response").status, 200);
        assert_orderly_end(&mut raw);
    }
    wait_handshakes(&shim, "gone", 0);
    assert_eq!(handshakes(&shim, "ok"), 2);
}

#[test]
fn cipher_suite_when_client_prefers_aes_256_then_aes_128_is_chosen() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, shim) = start(&origin, "");
    let chosen = [
        (&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
        (&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ];
    for (version, suite) in chosen {
        // The suites with AES-256 are the first suites of this client.
        let client = ClientOptions { versions: &[version], ..ClientOptions::new(&authority) }.build();
        let mut raw = connect(&shim, &client);
        assert_eq!(raw.session().negotiated_cipher_suite().map(|found| found.suite()), Some(suite));
        assert_eq!(ask(&mut raw, "/").status, 200);
    }
}

#[test]
fn protocol_when_client_offers_no_alpn_then_first_bytes_decide() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, shim) = start(&origin, "");
    let client = ClientOptions { protocols: &[], ..ClientOptions::new(&authority) }.build();
    let mut raw = connect(&shim, &client);
    assert_eq!(raw.session().alpn_protocol(), None);
    assert_eq!(ask(&mut raw, "/").status, 200);
    let mut raw = connect(&shim, &client);
    raw.send(frames::PREFACE).send(frames::frame(frames::SETTINGS, 0, 0, &[]));
    let mut client = frames::Client::over(raw);
    client.get(1, "/");
    assert!(client.ended_normally(1), "HTTP/2 without ALPN got no response");
}

#[test]
fn protocol_when_bytes_differ_from_alpn_then_connection_is_closed() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, shim) = start(&origin, "");
    for (protocol, bytes) in [("h2", get("/").into_bytes()), ("http/1.1", frames::PREFACE.to_vec())] {
        let client = ClientOptions { protocols: &[protocol], ..ClientOptions::new(&authority) }.build();
        let mut raw = connect(&shim, &client);
        raw.send(bytes);
        assert!(raw.closed(), "{protocol}");
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn http2_when_chosen_by_alpn_then_serves_requests_in_parallel_and_origin_sees_https() {
    let origin = Origin::start(origin::echo());
    let (authority, shim) = start(&origin, "");
    let client = ClientOptions { protocols: &["h2", "http/1.1"], ..ClientOptions::new(&authority) }.build();
    let (addr, config) = (shim.tls_addr(), Arc::clone(&client.0));
    h2::runtime().block_on(async {
        let tcp = tokio::net::TcpStream::connect(addr).await.expect("a connection");
        let name = ServerName::try_from("www.test").expect("a name");
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.expect("a TLS connection");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut sender = h2::handshake(stream).await;
        let mut requests = Vec::new();
        for number in 0..8 {
            let request = hyper::Request::get(format!("https://www.test/{number}"));
            requests.push(sender.send_request(request.body(Pieces::default()).expect("a request")));
        }
        for request in requests {
            let response = tokio::time::timeout(PATIENCE, request).await.expect("a response in time");
            assert_eq!(response.expect("a response").status().as_u16(), 200);
        }
    });
    assert_eq!(origin.count(), 8);
    assert_eq!(origin.last().field("x-forwarded-proto"), Some("https"));
}

#[test]
fn connection_when_idle_for_a_second_then_serves_the_next_request() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, shim) = start(&origin, "");
    let client = ClientOptions::new(&authority).build();
    let mut raw = connect(&shim, &client);
    for _ in 0..3 {
        assert_eq!(ask(&mut raw, "/").status, 200);
        // The connection is parked while the client waits here.
        raw = raw.patient(Duration::from_secs(1));
        assert_eq!(raw.end(), End::Open);
        raw = raw.patient(PATIENCE);
    }
    assert_eq!(handshakes(&shim, "ok"), 1);
}

#[test]
fn connection_when_idle_timeout_passes_then_ends_with_close_notify() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, dir) = folder();
    let shim = Shim::start_in(dir, config(&origin, "").with("[server]\nidle_timeout = \"1s\""));
    let mut raw = connect(&shim, &ClientOptions::new(&authority).build());
    assert_eq!(ask(&mut raw, "/").status, 200);
    assert_orderly_end(&mut raw);
}

#[test]
fn head_when_framing_is_ambiguous_over_tls_then_gets_400_and_connection_is_closed() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, shim) = start(&origin, "");
    let mut raw = connect(&shim, &ClientOptions::new(&authority).build());
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(raw.response().expect("a response").status, 400);
    assert!(raw.closed());
    assert_eq!(origin.count(), 0);
}

#[test]
fn record_when_malformed_after_a_request_then_connection_ends_at_once() {
    /// The plaintext of a record that fills one read of the shim's TLS library (4 KiB).
    const FULL: usize = 4096 - 5 - 1 - 16;
    let gate = Gate::default();
    let origin = Origin::start(origin::gated(&gate));
    let (authority, shim) = start(&origin, "[server]\nidle_timeout = \"10m\"");
    let client = ClientOptions { versions: &[&TLS13], ..ClientOptions::new(&authority) }.build();
    let mut stream = TcpStream::connect(shim.tls_addr()).expect("a connection");
    stream.set_read_timeout(Some(LONG)).expect("a timeout");
    let name = ServerName::try_from("www.test").expect("a name");
    let mut session = rustls::ClientConnection::new(Arc::clone(&client.0), name).expect("a session");
    while session.is_handshaking() || session.wants_write() {
        session.complete_io(&mut stream).expect("a handshake");
    }
    let before = format!("GET /late HTTP/1.1\r\nHost: www.test\r\nX-Padding: {}\r\n\r\n", "x".repeat(FULL));
    let surplus = before.len() - FULL;
    session.writer().write_all(before.replacen(&"x".repeat(surplus), "", 1).as_bytes()).expect("a request");
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes).expect("a record");
    assert_eq!(bytes.len(), 4096, "the request does not fill one record");
    bytes.extend_from_slice(&[[23, 3, 3, 0, 32].as_slice(), &[0; 32]].concat());
    stream.write_all(&bytes).expect("a request and a malformed record");
    // The origin does not respond, so only the malformed record ends the connection.
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(!ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "the connection stays open");
    gate.open();
}

#[test]
fn upgrade_when_granted_over_tls_then_bytes_are_forwarded_in_both_directions() {
    let origin = Origin::start(|_, conn| {
        let _ =
            conn.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = conn.read(&mut bytes) {
            if conn.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        After::Close
    });
    let (authority, shim) = start(&origin, "");
    let mut raw = connect(&shim, &ClientOptions::new(&authority).build());
    raw.send(upgrade("websocket"));
    assert_eq!(raw.response().expect("a response").status, 101);
    for size in [5, 100_000] {
        let sent = vec![b'x'; size];
        raw.send(&sent);
        let mut received = Vec::new();
        while received.len() < size {
            received.extend(raw.some("the echo"));
        }
        assert!(received == sent, "the echo differs");
    }
}

#[test]
fn http10_response_when_complete_or_cut_then_only_a_complete_response_ends_with_close_notify() {
    let origin = Origin::start(|request, conn| {
        let body = "x".repeat(50_000);
        let end = if request.target == "/whole" { "0\r\n\r\n" } else { "" };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = conn.write_all(format!("{head}c350\r\n{body}\r\n{end}").as_bytes());
        After::Close
    });
    let (authority, shim) = start(&origin, "");
    for version in [&TLS12, &TLS13] {
        let client = ClientOptions { versions: &[version], ..ClientOptions::new(&authority) }.build();
        for (target, is_whole) in [("/whole", true), ("/cut", false)] {
            let mut raw = connect(&shim, &client);
            raw.send(format!("GET {target} HTTP/1.0\r\nHost: www.test\r\n\r\n"));
            let head = raw.response_head().expect("a head");
            assert_eq!((head.status, head.field("content-length")), (200, None));
            let mut length = 0;
            let end = loop {
                match raw.more() {
                    Ok(bytes) if bytes.is_empty() => break Ok(()),
                    Ok(bytes) => length += bytes.len(),
                    Err(error) => break Err(error),
                }
            };
            assert_eq!(end.is_ok(), is_whole, "{target}: {end:?}");
            if is_whole {
                assert_eq!(length, 50_000);
            }
        }
    }
}

#[test]
fn proxy_header_when_sent_before_handshake_then_header_address_is_the_client() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, dir) = folder();
    let keys = "[server]\nproxy_protocol = true\nheader_timeout = \"2s\"";
    let shim = Shim::start_in(dir, config(&origin, "").with(keys));
    let client = ClientOptions::new(&authority).build();
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\r\n";
    let mut raw = client.connect_after(header, shim.tls_addr(), "www.test").expect("a TLS connection");
    assert_eq!(ask(&mut raw, "/").status, 200);
    assert_eq!(origin.last().field("x-forwarded-for"), Some("192.0.2.7"));
    assert!(client.connect(shim.tls_addr(), "www.test").is_err(), "a handshake without a PROXY header succeeded");
    assert_eq!(handshakes(&shim, "ok"), 1);
}

// ---- handshakes that fail -------------------------------------------------------------------------------------------

#[test]
fn handshake_when_slow_then_ends_at_header_timeout_and_is_counted() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (_, dir) = folder();
    let shim = Shim::start_in(dir, config(&origin, "").with("[server]\nheader_timeout = \"1s\""));
    // A silent client, and a client that sends a part of a ClientHello.
    for (times, bytes) in [(1, &b""[..]), (2, &[22, 3, 1, 2, 0, 1, 0][..])] {
        let started = Instant::now();
        let mut raw = Raw::connect(shim.tls_addr()).patient(LONG);
        raw.send(bytes);
        assert!(raw.closed());
        assert!(started.elapsed() >= Duration::from_millis(800), "{:?}", started.elapsed());
        wait_handshakes(&shim, "timeout", times);
    }
}

#[test]
fn handshake_when_client_does_not_speak_tls_then_counted_and_plain_http_gets_400() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (_, shim) = start(&origin, "");
    let mut raw = Raw::connect(shim.tls_addr());
    let response = raw.send(get("/")).response().expect("a response");
    assert_eq!((response.status, response.complete), (400, true));
    assert!(response.text().contains("needs HTTPS"), "{}", response.text());
    assert!(raw.closed());
    let mut raw = Raw::connect(shim.tls_addr());
    assert!(raw.send([0; 64]).closed());
    wait_handshakes(&shim, "not_tls", 2);
    assert_eq!(origin.count(), 0);
}

#[test]
fn handshake_when_client_has_no_common_protocol_or_version_then_refused_and_counted() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, shim) = start(&origin, "");
    let client = ClientOptions { protocols: &["acme/1"], ..ClientOptions::new(&authority) }.build();
    let error = client.connect(shim.tls_addr(), "www.test").err().expect("an error").to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    wait_handshakes(&shim, "no_common", 1);
    // A ClientHello of TLS 1.1: a random, no session, one cipher suite, no compression, signature_algorithms.
    let extensions = [0, 8, 0, 13, 0, 4, 0, 2, 4, 3];
    let hello = [&[3, 2][..], &[7; 32], &[0, 0, 2, 0xc0, 0x13, 1, 0], &extensions].concat();
    let length = u8::try_from(hello.len()).expect("a short message");
    let mut raw = Raw::connect(shim.tls_addr());
    raw.send([&[22, 3, 1, 0, length + 4, 1, 0, 0, length], &hello[..]].concat());
    let alert = raw.read_to_end();
    // A fatal alert (2), with the description protocol_version (70).
    assert_eq!((alert.first(), &alert[alert.len() - 2..]), (Some(&21), &[2, 70][..]), "{alert:?}");
    wait_handshakes(&shim, "no_common", 2);
}

#[test]
fn handshake_when_client_leaves_then_counted_as_gone() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (_, shim) = start(&origin, "");
    drop(Raw::connect(shim.tls_addr()));
    wait_handshakes(&shim, "gone", 1);
    let mut raw = Raw::connect(shim.tls_addr());
    raw.send([22, 3, 1, 2, 0, 1, 0]);
    drop(raw);
    wait_handshakes(&shim, "gone", 2);
}

#[test]
fn handshake_when_client_does_not_trust_the_certificate_then_counted_as_gone() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (_, shim) = start(&origin, "");
    let client = ClientOptions { versions: &[&TLS12], ..ClientOptions::new(&Authority::new("foreign")) }.build();
    assert!(client.connect(shim.tls_addr(), "www.test").is_err());
    wait_handshakes(&shim, "gone", 1);
}

// ---- certificates ---------------------------------------------------------------------------------------------------

#[test]
fn certificate_when_sni_is_sent_then_exact_name_is_preferred_and_first_is_default() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, dir) = folder();
    write_pair(&dir, "wild", &authority.issue(&["*.shop.test"], Valid::Now));
    write_pair(&dir, "img", &authority.issue(&["img.shop.test"], Valid::Now));
    let more = ["wild", "img"].map(|name| format!("{{ certificate = \"{name}.pem\", key = \"{name}.key\" }}"));
    let shim = Shim::start_in(dir, config(&origin, &format!("more = [{}]", more.join(", "))));
    let client = ClientOptions::new(&authority).build();
    for (name, file) in
        [("www.test", "www"), ("img.shop.test", "img"), ("a.shop.test", "wild"), ("IMG.Shop.test", "img")]
    {
        let mut raw = client.connect(shim.tls_addr(), name).expect("a TLS connection");
        let certificate = std::fs::read_to_string(shim.dir.join(format!("{file}.pem"))).expect("a certificate");
        assert!(presented(&mut raw) == der(&Identity { certificate, key: String::new() }), "{name}");
    }
    for name in ["other.test", "a.b.shop.test", "127.0.0.1"] {
        let error = client.connect(shim.tls_addr(), name).err().expect("an error").to_string();
        assert!(error.contains("www.test"), "{name}: {error}");
    }
}

#[test]
fn session_when_client_returns_after_a_reload_then_ticket_resumes_the_session() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, shim) = start(&origin, "");
    for (number, version) in [&TLS12, &TLS13].into_iter().enumerate() {
        let client = ClientOptions { versions: &[version], ..ClientOptions::new(&authority) }.build();
        let mut raw = connect(&shim, &client);
        // TLS 1.3 sends the tickets after the handshake, so the client reads a response first.
        assert_eq!(ask(&mut raw, "/").status, 200);
        assert!(!is_resumed(&mut raw));
        let mut raw = connect(&shim, &client);
        assert_eq!(ask(&mut raw, "/").status, 200);
        assert!(is_resumed(&mut raw), "{version:?}");
        shim.reload(config(&origin, "").with(&format!("[server]\nmax_hops = {}", number + 5)));
        let mut raw = connect(&shim, &client);
        assert_eq!(ask(&mut raw, "/").status, 200);
        assert!(is_resumed(&mut raw), "{version:?} after a reload");
    }
    assert_eq!(shim.metrics().count(RELOADS, &[("result", "ok")]), 2);
}

/// Sends requests on new connections until edgeshim presents this certificate. Each request must succeed.
fn wait_for_certificate(shim: &Shim, authority: &Authority, pair: &Identity) {
    let expected = der(pair);
    let found = wait_until(FOLLOWED, || {
        // A new client has no ticket. A resumed session would have the certificate of the first handshake.
        let mut raw = connect(shim, &ClientOptions::new(authority).build());
        assert_eq!(ask(&mut raw, "/").status, 200);
        presented(&mut raw) == expected
    });
    assert!(found, "the new certificate was not presented within {FOLLOWED:?}: {}", shim.stderr());
}

#[test]
fn certificate_when_replaced_then_presented_and_a_broken_file_changes_nothing() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, shim) = start(&origin, "");
    let mut kept = connect(&shim, &ClientOptions::new(&authority).build());
    assert_eq!(ask(&mut kept, "/").status, 200);
    let second = authority.issue(&["www.test"], Valid::Now);
    write_pair(&shim.dir, "www", &second);
    wait_for_certificate(&shim, &authority, &second);
    let expiry = shim.metrics().value(EXPIRY, &[("name", "www.pem")]);
    // The page of the admin listener marks the change.
    let is_marked = || {
        let response = fetch(shim.admin, "/annotations", &[]).json();
        let marks = response["annotations"].as_array().expect("a list").clone();
        marks.iter().filter(|mark| mark["kind"] == "certificate").count() == 1
    };
    assert!(wait_until(PATIENCE, is_marked), "the change was not marked once");
    let left = expiry - std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a time after 1970").as_secs_f64();
    assert!((80_000.0..=86_400.0).contains(&left), "the certificate expires in {left} s");

    shim.dir.write("www.pem", "broken");
    shim.wait_metrics(|now| now.count(RELOADS, &[("result", "failed")]) == 1);
    shim.wait_stderr("the previous files stay in use");
    wait_for_certificate(&shim, &authority, &second);
    let third = authority.issue(&["www.test"], Valid::Now);
    write_pair(&shim.dir, "www", &third);
    wait_for_certificate(&shim, &authority, &third);
    assert_eq!(shim.metrics().count(RELOADS, &[("result", "failed")]), 1, "{}", shim.stderr());
    assert_eq!(ask(&mut kept, "/").status, 200, "a change of the certificate ended an open connection");

    // After SIGHUP, the next handshake presents the new certificate.
    let fourth = authority.issue(&["www.test"], Valid::Now);
    write_pair(&shim.dir, "www", &fourth);
    shim.reload(config(&origin, ""));
    assert!(presented(&mut connect(&shim, &ClientOptions::new(&authority).build())) == der(&fourth));
    shim.dir.write("www.key", "broken");
    shim.signal("HUP");
    shim.wait_stderr("server.tls.key: \"www.key\" contains no private key");
    wait_for_certificate(&shim, &authority, &fourth);
}

#[test]
fn expiry_when_certificate_is_removed_by_reload_then_has_no_series() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, dir) = folder();
    write_pair(&dir, "img", &authority.issue(&["img.test"], Valid::Now));
    let shim = Shim::start_in(dir, config(&origin, "more = [{ certificate = \"img.pem\", key = \"img.key\" }]"));
    let wait = |expected: &[&str]| {
        let mut found = Vec::new();
        let reached = wait_until(FOLLOWED, || {
            let text = shim.metrics().text;
            let lines = text.lines().filter_map(|line| line.strip_prefix(EXPIRY)?.strip_prefix("{name=\""));
            found = lines.filter_map(|line| Some(line.split_once('"')?.0.to_owned())).collect();
            found == expected
        });
        assert!(reached, "{found:?} instead of {expected:?}");
    };
    wait(&["img.pem", "www.pem"]);
    shim.reload(config(&origin, ""));
    wait(&["www.pem"]);
    shim.reload(Shim::config(origin.addr).with("[server]\nworkers = 2"));
    wait(&[]);
    shim.reload(config(&origin, ""));
    wait(&["www.pem"]);
}

#[test]
fn connections_in_queue_when_tls_listener_is_removed_then_served_and_drained() {
    let gate = Gate::default();
    let origin = Origin::start(origin::gated(&gate));
    let (authority, dir) = folder();
    let keys = "[server]\nmax_connections = 1";
    let shim = Shim::start_in(dir, config(&origin, "").with(keys).with("[server]\nlisten = [\"127.0.0.1:0\"]"));
    let client = ClientOptions::new(&authority).build();
    let mut late = Raw::connect(shim.addr).patient(LONG);
    late.send(get("/late"));
    assert!(wait_until(PATIENCE, || origin.count() == 1));
    // The shim accepts the first of these connections. The other connections stay in the queue of the kernel.
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let stream = TcpStream::connect(shim.tls_addr()).expect("a connection");
            let client = client.clone();
            std::thread::spawn(move || {
                let mut raw = client.over(stream, b"", "www.test", LONG).expect("a handshake").patient(LONG);
                ask(&mut raw, "/quick")
            })
        })
        .collect();
    shim.reload(Shim::config(origin.addr).with("[server]\nworkers = 2").with(keys));
    assert!(TcpStream::connect(shim.tls_addr()).is_err(), "the removed listener still accepts connections");
    gate.open();
    assert_eq!(late.response().expect("the late response").status, 200);
    drop(late);
    for waiting in waiting {
        let response = waiting.join().expect("a response to a connection that waited");
        assert_eq!((response.status, response.field("connection")), (200, Some("close")));
    }
}

#[test]
fn address_when_changed_from_tls_to_plain_then_queued_connections_still_get_tls() {
    let gate = Gate::default();
    let origin = Origin::start(origin::gated(&gate));
    let (authority, dir) = folder();
    let keys = "[server]\nmax_connections = 1\nlisten = [\"unix:first.sock\"]";
    let shim = Shim::start_in(dir, config(&origin, "").with(keys));
    let mut late = Raw::connect_unix(&shim.dir.join("first.sock")).patient(LONG);
    late.send(get("/late"));
    assert!(wait_until(PATIENCE, || origin.count() == 1));
    let client = ClientOptions::new(&authority).build();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let stream = TcpStream::connect(shim.tls_addr()).expect("a connection");
            let client = client.clone();
            std::thread::spawn(move || {
                let mut raw = client.over(stream, b"", "www.test", LONG).expect("a handshake").patient(LONG);
                ask(&mut raw, "/quick").status
            })
        })
        .collect();
    let keys = "[server]\nmax_connections = 1\nlisten = [\"unix:first.sock\", \"127.0.0.1:0\"]";
    shim.reload(Shim::config(origin.addr).with("[server]\nworkers = 2").with(keys));
    let mut plain = Raw::connect(shim.tls_addr()).patient(LONG);
    plain.send(request("GET", "/quick", &[], b""));
    gate.open();
    assert_eq!(late.response().expect("the late response").status, 200);
    drop(late);
    for waiting in waiting {
        assert_eq!(waiting.join().expect("a response over TLS"), 200);
    }
    assert_eq!(plain.response().expect("a response without TLS").status, 200);
}

// ---- client certificates --------------------------------------------------------------------------------------------

/// A provider whose proof is a client certificate. Pulls without the proof get 403.
fn with_proof(config: Config, rule: &str) -> Config {
    config.with(&format!(
        "[identity]\nunverified = \"reject\"\n[[provider]]\nname = \"fastly\"\nverify.client_cert = {{ {rule} }}"
    ))
}

fn pull(fields: &[(&str, &str)]) -> Vec<u8> {
    request("GET", "/", &[&[("X-CDN-Provider", "fastly")], fields].concat(), b"")
}

#[test]
fn pull_when_client_certificates_differ_then_only_matching_certificate_is_a_proof() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, dir) = folder();
    let foreign = Authority::new("foreign");
    let right = authority.issue(&["pop.cdn.test"], Valid::Now);
    let other_name = authority.issue(&["pop.other.test"], Valid::Now);
    let refused =
        [foreign.issue(&["pop.cdn.test"], Valid::Now), authority.issue(&["pop.cdn.test"], Valid::Until9DaysAgo)];
    let config = with_proof(config(&origin, "client_ca = \"ca.pem\""), "san = [\"*.cdn.test\"]");
    let shim = Shim::start_in(dir, config);
    let mut count = 0;
    for version in [&TLS12, &TLS13] {
        let client =
            |identity| ClientOptions { identity, versions: &[version], ..ClientOptions::new(&authority) }.build();
        for (identity, status) in [(Some(&right), 200), (Some(&other_name), 403), (None, 403)] {
            let client = client(identity);
            // The second connection resumes the session, so its certificate comes from the ticket.
            for resumed in [false, true] {
                let mut raw = connect(&shim, &client);
                let response = raw.send(pull(&[])).response().expect("a response");
                assert_eq!((response.status, is_resumed(&mut raw)), (status, resumed), "{version:?}");
            }
        }
        for identity in &refused {
            // With TLS 1.3, the client sees the alert only when it reads.
            let error = match client(Some(identity)).connect(shim.tls_addr(), "www.test") {
                Err(error) => error.to_string(),
                Ok(mut raw) => raw.more().expect_err("an alert").to_string(),
            };
            assert!(error.contains("alert"), "{error}");
            count += 1;
            wait_handshakes(&shim, "client_certificate", count);
        }
    }
    assert_eq!(origin.count(), 4);
}

#[test]
fn provider_ca_when_another_accepted_ca_issued_the_certificate_then_pull_is_not_proved() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, dir) = folder();
    let (own, other) = (Authority::new("own"), Authority::new("other"));
    dir.write("own.pem", own.pem());
    dir.write("clients.pem", own.pem() + &other.pem());
    let config = with_proof(config(&origin, "client_ca = \"clients.pem\""), "ca = \"own.pem\"");
    let shim = Shim::start_in(dir, config);
    for (issuer, status) in [(&own, 200), (&other, 403)] {
        let identity = issuer.issue(&["pop.cdn.test"], Valid::Now);
        let client = ClientOptions { identity: Some(&identity), ..ClientOptions::new(&authority) }.build();
        let response = connect(&shim, &client).send(pull(&[])).response().expect("a response");
        assert_eq!(response.status, status);
    }
}

#[test]
fn provider_ca_when_file_changes_then_followed_and_a_broken_file_changes_nothing() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, dir) = folder();
    let (one, two, three) = (Authority::new("one"), Authority::new("two"), Authority::new("three"));
    dir.write("own.pem", one.pem());
    dir.write("clients.pem", one.pem() + &two.pem());
    let config = with_proof(config(&origin, "client_ca = \"clients.pem\""), "ca = \"own.pem\"");
    let shim = Shim::start_in(dir, &config);
    let connect_with = |issuer: &Authority| {
        let identity = issuer.issue(&["pop.cdn.test"], Valid::Now);
        connect(&shim, &ClientOptions { identity: Some(&identity), ..ClientOptions::new(&authority) }.build())
    };
    let kept_pull = || get("/").replace("\r\n\r\n", "\r\nX-CDN-Provider: fastly\r\n\r\n");
    let mut of_one = connect_with(&one);
    let mut of_two = connect_with(&two);
    let mut wait = |statuses: (u16, u16)| {
        let mut found = (0, 0);
        let ask = |raw: &mut Raw| raw.send(kept_pull()).response().expect("a response").status;
        let reached = wait_until(FOLLOWED, || {
            found = (ask(&mut of_one), ask(&mut of_two));
            found == statuses
        });
        assert!(reached, "{found:?} instead of {statuses:?}: {}", shim.stderr());
    };
    let failed = |times: u64| {
        shim.wait_metrics(|now| now.count(RELOADS, &[("result", "failed")]) == times);
    };
    wait((200, 403));
    // The new list is also used by connections that are already open.
    shim.dir.write("own.pem", two.pem());
    wait((403, 200));
    failed(0);
    shim.dir.write("own.pem", "broken");
    failed(1);
    shim.wait_stderr("provider[fastly].verify.client_cert.ca: \"own.pem\" contains no certificate");
    wait((403, 200));
    // A CA that is not in `client_ca` is an error until that file has the CA too.
    shim.dir.write("own.pem", one.pem() + &three.pem());
    failed(2);
    shim.wait_stderr(
        "provider[fastly].verify.client_cert.ca: \"own.pem\" has a CA that is not in server.tls.client_ca",
    );
    wait((403, 200));
    shim.dir.write("clients.pem", one.pem() + &two.pem() + &three.pem());
    wait((200, 403));
    failed(2);
    // After SIGHUP, the broken file makes the whole reload fail.
    shim.dir.write("own.pem", "broken");
    shim.reload(config.with("[server]\nmax_hops = 7"));
    shim.wait_stderr("reload failed: ");
    wait((200, 403));
    assert_eq!(shim.metrics().count(RELOADS, &[("result", "ok")]), 0);
}

#[test]
fn session_when_client_cas_change_then_not_resumed_and_old_certificate_is_refused() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let (authority, dir) = folder();
    dir.write("clients.pem", Authority::new("first").pem() + &authority.pem());
    let shim = Shim::start_in(dir, config(&origin, "client_ca = \"clients.pem\""));
    let identity = authority.issue(&["pop.cdn.test"], Valid::Now);
    let client = ClientOptions { identity: Some(&identity), versions: &[&TLS12], ..ClientOptions::new(&authority) };
    let client = client.build();
    assert_eq!(ask(&mut connect(&shim, &client), "/").status, 200);
    assert!(is_resumed(&mut connect(&shim, &client)));
    shim.dir.write("clients.pem", Authority::new("second").pem());
    let mut last = String::new();
    let refused = wait_until(FOLLOWED, || match client.connect(shim.tls_addr(), "www.test") {
        Ok(_) => false,
        Err(error) => {
            last = error.to_string();
            true
        }
    });
    assert!(refused && last.contains("alert"), "the certificate of a removed CA is still accepted: {last}");
    assert_eq!(handshakes(&shim, "client_certificate"), 1);
}

#[test]
fn certificate_field_when_received_then_read_from_trusted_peer_and_otherwise_removed() {
    let origin = Origin::start(origin::fixed(200, &[], "fine"));
    let authority = Authority::new("right");
    let right = authority.issue(&["pop.cdn.test"], Valid::Now);
    let expired = authority.issue(&["pop.cdn.test"], Valid::Until9DaysAgo);
    let foreign_name = authority.issue(&["pop.other.test"], Valid::Now);
    let client_cert = |pair: &Identity| format!(":{}:", STANDARD.encode(der(pair)));
    let sha256 = Sha256::digest(der(&right)).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let element = |name: &str| format!("By=spiffe://a;Hash={sha256};DNS={name}");
    for (field, good, bad) in [
        (
            "Client-Cert",
            client_cert(&right),
            vec![client_cert(&expired), client_cert(&foreign_name), "::".to_owned(), "pop.cdn.test".to_owned()],
        ),
        (
            "X-Forwarded-Client-Cert",
            format!("{},{}", element("pop.other.test"), element("pop.cdn.test")),
            vec![
                format!("{},{}", element("pop.cdn.test"), element("pop.other.test")),
                "DNS=pop.cdn.test".to_owned(),
                "DNS=\"pop.cdn.test".to_owned(),
            ],
        ),
    ] {
        let start = |trusted: &str| {
            let config = Shim::config(origin.addr).with(&format!("[server]\ntrusted_proxies = [\"{trusted}\"]"));
            Shim::start(with_proof(config, &format!("san = [\"*.cdn.test\"], field = \"{field}\"")))
        };
        let trusting = start("127.0.0.0/8");
        assert_eq!(exchange(trusting.addr, pull(&[(field, &good)])).status, 200, "{field}: {good}");
        for value in &bad {
            assert_eq!(exchange(trusting.addr, pull(&[(field, value)])).status, 403, "{field}: {value}");
        }
        assert_eq!(exchange(trusting.addr, pull(&[])).status, 403, "{field}");

        let untrusting = start("10.0.0.0/8");
        assert_eq!(exchange(untrusting.addr, pull(&[(field, &good)])).status, 403, "{field}: {good}");
        // A request without a provider reaches the origin, without either field. An origin with CGI reads the
        // spelling with underscores as the same field.
        let names = ["Client-Cert", "X-Forwarded-Client-Cert", "Client_Cert", "X_Forwarded_Client_Cert"];
        let forged = names.map(|name| (name, good.as_str()));
        assert_eq!(exchange(untrusting.addr, request("GET", "/", &forged, b"")).status, 200);
        let seen = origin.last();
        for name in names {
            assert_eq!(seen.field(&name.to_lowercase()), None, "{field}");
        }
    }
}

// ---- drain ----------------------------------------------------------------------------------------------------------

#[test]
fn drain_when_connections_use_tls_then_responses_complete_and_close_notify_is_sent() {
    let gate = Gate::default();
    let origin = Origin::start(origin::gated(&gate));
    let (authority, mut shim) = start(&origin, "");
    let client = ClientOptions::new(&authority).build();
    let mut idle = connect(&shim, &client).patient(LONG);
    assert_eq!(ask(&mut idle, "/").status, 200);
    let mut busy = connect(&shim, &client).patient(LONG);
    busy.send(get("/late"));
    let h2_client = ClientOptions { protocols: &["h2"], ..ClientOptions::new(&authority) }.build();
    let mut raw = connect(&shim, &h2_client).patient(LONG);
    raw.send(frames::PREFACE).send(frames::frame(frames::SETTINGS, 0, 0, &[]));
    let mut multiplexed = frames::Client::over(raw);
    multiplexed.get(1, "/late");
    assert!(wait_until(PATIENCE, || origin.count() == 3));

    shim.signal("TERM");
    assert!(multiplexed.until(GOAWAY).is_some(), "no GOAWAY arrived");
    assert_orderly_end(&mut idle);
    gate.open();
    let response = busy.response().expect("a response");
    assert_eq!((response.text().as_str(), response.field("connection")), ("late but complete", Some("close")));
    assert_orderly_end(&mut busy);
    assert!(multiplexed.ended_normally(1));
    while multiplexed.next().is_some() {}
    assert_orderly_end(&mut multiplexed.raw);
    assert_eq!(shim.wait_exit(LONG).code(), Some(0), "{}", shim.stderr());
}
