//! Tests of the faults in `src/fault.rs`. Scripted origins and clients cause the failures.
//!
//! The tests check the status, Proxy-Status (RFC 9209) and no-store of the response, on HTTP/1.1 and HTTP/2. They check
//! that each failed request is counted once as a pull, under the status of the response, and once as a fault, under the
//! cause. A failure of a client must not be counted as a fault. A client must be able to see that a truncated body is
//! incomplete.
//!
//! `tests/admission.rs` covers the cause `overload`, and `tests/origin_tls.rs` the causes of TLS.

mod support;

use bytes::Bytes;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use support::h2::{H2, Pieces, Received};
use support::http1::{self, Framing, Reader};
use support::{
    After, Conn, Metrics, Origin, PATIENCE, Raw, Request, Response, Shim, origin, raw, temp_dir, wait_until,
};

/// The longest time that a test waits for an event that follows one of the shim's timeouts.
const LONG: Duration = Duration::from_secs(20);

// ---- requests on both protocols -------------------------------------------------------------------------------------

fn received(response: Response) -> Received {
    let Response { status, fields, body, trailers, complete, .. } = response;
    Received { status, fields, body, trailers, complete, ..Received::default() }
}

fn ask_h1(shim: &Shim, bytes: impl AsRef<[u8]>) -> Received {
    let mut client = Raw::connect(shim.addr).patient(LONG);
    client.send(bytes);
    let response = client.response().unwrap_or_else(|why| panic!("no response: {why:?}"));
    assert_eq!(response.problems, Vec::<String>::new());
    assert!(!matches!(response.framing, Some(Framing::Close)), "the response has neither Content-Length nor chunks");
    received(response)
}

// ---- checks ---------------------------------------------------------------------------------------------------------

/// The expected effects of a fault.
#[derive(Debug, Clone, Copy)]
struct Expected {
    cause: &'static str,
    status: u16,
    error: &'static str,
}

const fn expected(cause: &'static str, status: u16, error: &'static str) -> Expected {
    Expected { cause, status, error }
}

const REFUSED: Expected = expected("refused", 502, "connection_refused");
const CONNECT_TIMEOUT: Expected = expected("connect_timeout", 504, "connection_timeout");
const UNREACHABLE: Expected = expected("unreachable", 502, "destination_unavailable");
const RESET: Expected = expected("reset", 502, "connection_terminated");
const CLOSED: Expected = expected("closed", 502, "connection_terminated");
const TIMEOUT: Expected = expected("timeout", 504, "http_response_timeout");
const BROKEN_HEAD: Expected = expected("broken_head", 502, "http_protocol_error");
const LARGE_HEAD: Expected = expected("broken_head", 502, "http_response_header_section_size");
const UPLOAD_STALLED: Expected = expected("upload_stalled", 504, "connection_write_timeout");
const REQUEST_STALLED: Expected = expected("request_stalled", 408, "http_request_error");
const REQUEST_TOO_LARGE: Expected = expected("request_too_large", 413, "http_request_error");
const REQUEST_CUT: Expected = expected("request_cut", 400, "http_request_error");

const FAULTS: &str = "edgeshim_origin_faults_total";
const PULLS: &str = "edgeshim_pulls_total";

impl Expected {
    fn is_of_client(self) -> bool {
        self.cause.starts_with("request_")
    }

    /// Sends one request, and checks the response and all counters.
    fn check(self, name: &str, shim: &Shim, ask: impl FnOnce(&Shim) -> Received) {
        let before = shim.metrics();
        let response = ask(shim);
        let context = format!("{name}: {} {:?}", response.status, response.fields);
        assert_eq!(response.status, self.status, "{context}");
        assert!(response.complete, "{context}: the page is incomplete");
        assert_eq!(response.field("cache-control"), Some("no-store"), "{context}");
        let proxy_status = format!("edgeshim; error={}", self.error);
        assert_eq!(response.field("proxy-status"), Some(proxy_status.as_str()), "{context}");
        if !self.is_of_client() {
            assert!(response.field("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{context}");
            assert!(response.body.starts_with(b"<!"), "{context}: the body is not a page");
            assert!(response.field("retry-after").is_some(), "{context}");
        }
        self.counted(name, shim, &before, self.status);
    }

    /// Checks that one pull with the status `code` and one fault with this cause were counted since `before`. If the
    /// client caused the failure, checks that no fault was counted.
    fn counted(self, name: &str, shim: &Shim, before: &Metrics, code: u16) {
        let code = code.to_string();
        let after = shim.wait_metrics(|now| now.sum(PULLS, &[]) > before.sum(PULLS, &[]));
        let more = |metric, labels: &[(&str, &str)]| after.sum(metric, labels) - before.sum(metric, labels);
        let close = |a: f64, b: f64| (a - b).abs() < 0.5;
        assert!(close(more(PULLS, &[]), 1.0), "{name}: {} pulls were counted", more(PULLS, &[]));
        let labels = [("provider", "none"), ("class", "other"), ("code", code.as_str())];
        assert!(close(more(PULLS, &labels), 1.0), "{name}: the pull is not counted as {code}");
        let wanted = if self.is_of_client() { 0.0 } else { 1.0 };
        assert!(close(more(FAULTS, &[]), wanted), "{name}: {} faults were counted", more(FAULTS, &[]));
        assert!(
            close(more(FAULTS, &[("cause", self.cause)]), wanted),
            "{name}: the number of faults with the cause {} is wrong:\n{}",
            self.cause,
            after.text.lines().filter(|line| line.starts_with(FAULTS)).collect::<Vec<_>>().join("\n")
        );
    }

    /// Sends a GET that causes this fault on HTTP/1.1 and on HTTP/2, and checks the responses and all counters.
    fn check_get(self, name: &str, shim: &Shim, target: &str) {
        let request = format!("GET {target} HTTP/1.1\r\nHost: shim.test\r\n\r\n");
        self.check(&format!("{name}, HTTP/1.1"), shim, |shim| ask_h1(shim, &request));
        let mut client = H2::connect(shim.addr);
        self.check(&format!("{name}, HTTP/2"), shim, |_| client.ask("GET", target, &[], Pieces::default()));
    }

    fn check_origin(self, name: &str, url: &str, config: &str) {
        let shim = Shim::start(Shim::config(url).with(config));
        self.check_get(name, &shim, "/");
    }
}

// ---- no connection --------------------------------------------------------------------------------------------------

#[test]
fn fault_causes_when_shim_has_started_then_each_has_a_series_at_zero() {
    let closed = origin::ClosedPort::new();
    let metrics = Shim::start(Shim::config(closed.addr)).metrics();
    let mut named: Vec<_> =
        metrics.matching(FAULTS, &[]).flat_map(|series| series.labels.iter().map(|(_, value)| value.clone())).collect();
    named.sort();
    let wanted = "broken_head closed connect_timeout cut overload refused reset stalled timeout \
                  tls_alert tls_certificate tls_protocol unreachable upload_stalled";
    assert_eq!(named.join(" "), wanted);
    assert!(metrics.sum(FAULTS, &[]) < 0.5);
}

#[test]
fn fault_when_origin_has_no_listener_then_cause_is_refused_and_status_is_502() {
    let closed = origin::ClosedPort::new();
    REFUSED.check_origin("a port without a listener", &format!("http://{}", closed.addr), "");
    let dir = temp_dir();
    let path = dir.join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket file"));
    REFUSED.check_origin("a socket file without a listener", &format!("unix:{}", path.display()), "");
}

#[test]
fn fault_when_socket_file_is_missing_then_cause_is_unreachable_and_status_is_502() {
    let dir = temp_dir();
    UNREACHABLE.check_origin("a missing socket file", &format!("unix:{}", dir.join("none.sock").display()), "");
}

/// A listener whose backlog is full, so that the kernel completes no more handshakes.
struct FullQueue {
    listener: socket2::Socket,
    waiting: Vec<TcpStream>,
}

impl FullQueue {
    fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        listener.listen(0).expect("a listener");
        let mut full = Self { listener, waiting: Vec::new() };
        while let Ok(stream) = TcpStream::connect_timeout(&full.addr(), Duration::from_millis(300)) {
            full.waiting.push(stream);
            assert!(full.waiting.len() < 100, "the backlog does not fill");
        }
        full
    }

    fn addr(&self) -> SocketAddr {
        self.listener.local_addr().ok().and_then(|addr| addr.as_socket()).expect("an IPv4 address")
    }
}

#[test]
fn fault_when_handshake_hangs_then_cause_is_connect_timeout_and_status_is_504() {
    let full = FullQueue::new();
    let url = format!("http://{}", full.addr());
    CONNECT_TIMEOUT.check_origin("a full queue", &url, "[origin]\nconnect_timeout = \"300ms\"");
}

// ---- no response ----------------------------------------------------------------------------------------------------

#[test]
fn fault_when_connection_ends_before_the_response_then_cause_is_closed_or_reset() {
    let origin = Origin::start(origin::hang_up());
    CLOSED.check_origin("closed", &origin.url(), "");
    let origin = Origin::start(origin::reset());
    RESET.check_origin("reset", &origin.url(), "");
}

#[test]
fn fault_when_response_head_is_truncated_then_cause_is_closed_and_status_is_502() {
    let origin = Origin::start(|_, conn: &mut Conn| {
        let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Le");
        After::Close
    });
    CLOSED.check_origin("half a head", &origin.url(), "");
}

#[test]
fn fault_when_response_head_does_not_arrive_then_cause_is_timeout_and_status_is_504() {
    let origin = Origin::start(origin::silent());
    TIMEOUT.check_origin("silence", &origin.url(), "[origin]\nresponse_timeout = \"300ms\"");
    let origin = Origin::start(|_, conn: &mut Conn| {
        let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n");
        origin::silent()(&Request::default(), conn)
    });
    TIMEOUT.check_origin("half a head", &origin.url(), "[origin]\nresponse_timeout = \"300ms\"");
}

/// Returns response heads that are malformed or ambiguous.
fn broken_heads() -> Vec<(&'static str, String)> {
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
    let chunked = |line: &str, fields: &str| format!("{line}\r\n{fields}\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let ok = |fields: &str| chunked("HTTP/1.1 200 OK", fields);
    let many = (0..300).map(|number| format!("X-{number}: 1")).collect::<Vec<_>>().join("\r\n");
    vec![
        ("garbage", "\u{1}\u{2}\u{3} what is this\r\n\r\n".into()),
        ("a page without a head", "<html>hello</html>\r\n\r\n".into()),
        ("another protocol", "SSH-2.0-OpenSSH_9.0\r\n".into()),
        ("another version", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n".into()),
        ("no status", "HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n".into()),
        ("status 99", "HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n".into()),
        ("status 099", "HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n".into()),
        ("status 000", "HTTP/1.1 000 None\r\nContent-Length: 0\r\n\r\n".into()),
        ("status 600", "HTTP/1.1 600 High\r\nContent-Length: 0\r\n\r\n".into()),
        ("status 999", "HTTP/1.1 999 High\r\nContent-Length: 0\r\n\r\n".into()),
        ("status 1000", "HTTP/1.1 1000 High\r\nContent-Length: 0\r\n\r\n".into()),
        (
            "101 without a request for it",
            "HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".into(),
        ),
        ("different lengths", head("Content-Length: 5\r\nContent-Length: 6") + "hello!"),
        ("different lengths in a list", head("Content-Length: 5, 6") + "hello!"),
        ("a length in words", head("Content-Length: five") + "hello"),
        ("a length with a sign", head("Content-Length: +5") + "hello"),
        ("a length below zero", head("Content-Length: -5") + "hello"),
        ("a length without a value", head("Content-Length:") + "hello"),
        ("a length above 64 bits", head("Content-Length: 18446744073709551621") + "hello"),
        ("length and coding", ok("Content-Length: 5\r\nTransfer-Encoding: chunked")),
        ("coding and length", ok("Transfer-Encoding: chunked\r\nContent-Length: 5")),
        ("an unknown coding", ok("Transfer-Encoding: gzip")),
        ("an unknown coding before chunked", ok("Transfer-Encoding: gzip, chunked")),
        ("chunked before another coding", ok("Transfer-Encoding: chunked, gzip")),
        ("chunked twice", ok("Transfer-Encoding: chunked, chunked")),
        ("a coding in two lines", ok("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked")),
        ("no coding at all", ok("Transfer-Encoding:")),
        ("a coding on HTTP/1.0", chunked("HTTP/1.0 200 OK", "Transfer-Encoding: chunked")),
        ("a folded line", head("X-A: a\r\n b\r\nContent-Length: 0")),
        ("a space before the colon", head("Content-Length : 0")),
        ("no colon", head("Content-Length 0")),
        ("NUL in a value", head("X-A: a\0b\r\nContent-Length: 0")),
        ("300 fields", head(&format!("{many}\r\nContent-Length: 0"))),
        ("a head of 160 KiB", head(&format!("X-Big: {}\r\nContent-Length: 0", "a".repeat(160 << 10)))),
        ("a head of 160 KiB in short lines", head(&format!("{}Content-Length: 0", "X: a\r\n".repeat(28_000)))),
    ]
}

#[test]
fn fault_when_response_head_is_malformed_then_cause_is_broken_head_and_status_is_502() {
    let heads: Vec<String> = broken_heads().into_iter().map(|(_, head)| head).collect();
    let origin = Origin::start(move |request, conn| {
        let number: usize = request.target.trim_start_matches('/').parse().expect("the number of a head");
        let _ = conn.write_all(heads[number].as_bytes());
        // The origin does not close the connection. So the head causes the fault, and not the end of the connection.
        origin::silent()(request, conn)
    });
    // The origin sends nothing after the head. If the shim waited for more bytes, the fault would be a timeout.
    let shim = Shim::start(Shim::config(origin.url()).with("[origin]\nresponse_timeout = \"5s\""));
    let mut failed = Vec::new();
    for (number, (name, _)) in broken_heads().iter().enumerate() {
        let expected = if name.contains("head of") || name.contains("300 fields") { LARGE_HEAD } else { BROKEN_HEAD };
        let judged = std::panic::catch_unwind(|| expected.check_get(name, &shim, &format!("/{number}")));
        if judged.is_err() {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "these heads do not cause the expected fault: {failed:?}");
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0), "a connection stays open after a broken head");
}

// ---- uploads --------------------------------------------------------------------------------------------------------

#[test]
fn fault_when_origin_stops_reading_then_cause_is_upload_stalled_and_status_is_504() {
    const LENGTH: usize = 64 << 20;
    // The origin reads no byte of the body until the end of the test.
    let (over, waiting) = channel::<()>();
    let waiting = Mutex::new(waiting);
    let origin = Origin::start_at_head(move |_, _| {
        let _ = waiting.lock().map(|waiting| waiting.recv_timeout(LONG * 3));
        After::Close
    });
    let shim = Shim::start(Shim::config(origin.url()).with("[server]\nbody_timeout = \"500ms\""));
    UPLOAD_STALLED.check("upload, HTTP/1.1", &shim, |shim| {
        let stream = TcpStream::connect(shim.addr).expect("a connection");
        let mut uplink = stream.try_clone().expect("a second handle");
        stream.set_read_timeout(Some(LONG)).expect("a timeout");
        let writer = std::thread::spawn(move || {
            let head = format!("POST / HTTP/1.1\r\nHost: shim.test\r\nContent-Length: {LENGTH}\r\n\r\n");
            let piece = vec![b'x'; 1 << 20];
            let mut left = LENGTH;
            let mut going = uplink.write_all(head.as_bytes()).is_ok();
            while going && left > 0 {
                going = uplink.write_all(&piece).is_ok();
                left -= piece.len();
            }
            left
        });
        let mut reader = Reader::new(&stream);
        let head = reader.head().expect("a response before the upload has ended");
        let framing = http1::framing(&head.fields, &mut Vec::new()).expect("a framing");
        let body = reader.body(framing, 1 << 20);
        let _ = stream.shutdown(std::net::Shutdown::Both);
        assert!(writer.join().expect("the writer") > 0, "the shim has read the complete upload");
        let status = head.start.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        Received { status, fields: head.fields, body: body.data, complete: body.complete, ..Received::default() }
    });
    let mut client = H2::connect(shim.addr);
    UPLOAD_STALLED.check("upload, HTTP/2", &shim, |_| {
        let frames = vec![Bytes::from(vec![b'x'; 1 << 20]); LENGTH >> 20];
        client.ask("POST", "/", &[], Pieces::of(frames))
    });
    drop(over);
}

#[test]
fn upload_when_client_stops_sending_then_shim_sends_408_and_counts_no_fault() {
    let origin = Origin::start(origin::echo());
    let shim = Shim::start(Shim::config(origin.url()).with("[server]\nbody_timeout = \"400ms\""));
    for (name, framing) in [
        ("stalled length", "Content-Length: 50\r\n\r\nhello"),
        ("stalled chunk", "Transfer-Encoding: chunked\r\n\r\n5\r\nhel"),
        ("stalled between chunks", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        ("stalled before the first byte", "Content-Length: 50\r\n\r\n"),
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: shim.test\r\n{framing}");
        REQUEST_STALLED.check(name, &shim, |shim| ask_h1(shim, &request));
    }
    let mut client = H2::connect(shim.addr);
    REQUEST_STALLED.check("stalled, HTTP/2", &shim, |_| {
        client.ask("POST", "/", &[], Pieces { hangs: true, ..Pieces::of([Bytes::from_static(b"hello")]) })
    });
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0), "the origin still waits for a failed request");
    assert!(
        origin.requests().iter().all(|request| !request.complete),
        "a stalled request looks complete to the origin"
    );
}

#[test]
fn upload_when_stream_exceeds_the_limit_then_shim_sends_413_and_counts_no_fault() {
    let origin = Origin::start(origin::echo());
    let shim = Shim::start(Shim::config(origin.url()).with("[server]\nmax_request_body = \"1KiB\""));
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    let chunked =
        |body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n");
    assert_eq!(ask_h1(&shim, chunked(&chunk)).status, 200, "a body exactly at the limit");
    shim.wait_metrics(|metrics| metrics.sum(PULLS, &[]) > 0.5);
    origin.forget();
    let one_more = chunked(&format!("{chunk}1\r\nx\r\n"));
    REQUEST_TOO_LARGE.check("too large, HTTP/1.1", &shim, |shim| ask_h1(shim, &one_more));
    let mut client = H2::connect(shim.addr);
    REQUEST_TOO_LARGE.check("too large, HTTP/2", &shim, |_| {
        let frames = [Bytes::from(vec![b'x'; 1024]), Bytes::from_static(b"x")];
        client.ask("POST", "/", &[], Pieces::of(frames))
    });
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0), "the origin still waits for a failed request");
    assert!(origin.requests().iter().all(|request| !request.complete), "a cut request looked complete to the origin");
}

#[test]
fn upload_when_truncated_or_malformed_then_shim_sends_400_and_counts_no_fault() {
    let origin = Origin::start(origin::echo());
    let shim = Shim::start(Shim::config(origin.url()));
    for (name, framing) in [
        ("cut length", "Content-Length: 50\r\n\r\nhello"),
        ("cut chunk", "Transfer-Encoding: chunked\r\n\r\n5\r\nhel"),
        ("cut before the last chunk", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        ("no chunk size", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\nhello\r\n0\r\n\r\n"),
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: shim.test\r\n{framing}");
        REQUEST_CUT.check(name, &shim, |shim| {
            let mut client = Raw::connect(shim.addr);
            client.send(&request).finish();
            let response = client.response().unwrap_or_else(|why| panic!("{name}: no response: {why:?}"));
            received(response)
        });
    }
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0), "the origin still waits for a failed request");
    assert!(origin.requests().iter().all(|request| !request.complete), "a cut request looked complete to the origin");
}

// ---- truncated bodies -----------------------------------------------------------------------------------------------

/// Starts an origin that sends the first part of a body, waits for a signal of the test, and then ends the body. The
/// target `/FRAMING/END` selects the framing and the end. The ends `at-once` and `stall` do not wait for the signal.
fn truncating_origin() -> (Origin, Sender<()>) {
    let (go, gone) = channel();
    let gone = Mutex::new(gone);
    let origin = Origin::start(move |request, conn| part(request, conn, &gone));
    (origin, go)
}

fn part(request: &Request, conn: &mut Conn, gone: &Mutex<Receiver<()>>) -> After {
    let Some((framing, end)) = request.target.trim_start_matches('/').split_once('/') else {
        return origin::respond(request, conn, 200, &[], b"whole");
    };
    let text = "It was a dark and stormy night. ".repeat(64);
    let (field, body) = match framing {
        "length" => ("Content-Length: 9999", text.clone()),
        // The rest of so long a body moves through a pipe, if the client uses HTTP/1.1.
        "large" => ("Content-Length: 99999", text.clone()),
        "chunked" | "bad-chunk" => ("Transfer-Encoding: chunked", format!("{:x}\r\n{text}\r\n", text.len())),
        "in-chunk" => ("Transfer-Encoding: chunked", format!("{:x}\r\n{text}", text.len() + 1)),
        "in-trailer" => ("Transfer-Encoding: chunked", format!("{:x}\r\n{text}\r\n0\r\nX-T: 1\r\n", text.len())),
        "close" => ("X-Until: close", text.clone()),
        other => panic!("unknown framing {other}"),
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{field}\r\n\r\n");
    let _ = conn.write_all(head.as_bytes());
    let _ = conn.write_all(body.as_bytes());
    if end == "at-once" {
        return After::Close;
    }
    if end == "stall" {
        return origin::silent()(request, conn);
    }
    let _ = gone.lock().expect("a lock without an earlier panic").recv_timeout(LONG);
    if framing == "bad-chunk" {
        let _ = conn.write_all(b"what?\r\n");
        return origin::silent()(request, conn);
    }
    if end == "reset" { After::Reset } else { After::Close }
}

const CUT: Expected = expected("cut", 200, "");
const STALLED: Expected = expected("stalled", 200, "");

fn check_truncated(wanted: Expected, shim: &Shim, go: &Sender<()>, target: &str, coding: &str) {
    let zipped = coding == "gzip";
    let name = format!("{target}, {coding}, HTTP/1.1");
    let before = shim.metrics();
    let mut client = Raw::connect(shim.addr).patient(LONG);
    client.send(format!("GET {target} HTTP/1.1\r\nHost: shim.test\r\nAccept-Encoding: {coding}\r\n\r\n"));
    let head = client.response_head().unwrap_or_else(|why| panic!("{name}: no response head: {why:?}"));
    assert_eq!((head.status, head.field("content-encoding").is_some()), (200, zipped), "{name}");
    let framing = http1::framing(&head.fields, &mut Vec::new()).unwrap_or(Framing::Close);
    let wanted_framing = match target.split('/').nth(1) {
        Some("length") if !zipped => Framing::Length(9999),
        Some("large") if !zipped => Framing::Length(99_999),
        _ => Framing::Chunked,
    };
    assert_eq!(framing, wanted_framing, "{name}");
    // The compressor can delay the first bytes, so the test does not wait for them.
    let mut bytes = if zipped { Vec::new() } else { client.more().expect("the beginning of the body") };
    let _ = go.send(());
    bytes.extend(client.read_to_end());
    assert!(client.closed(), "{name}: the connection is still open");
    let body = Reader::new(&bytes[..]).body(framing, 1 << 20);
    assert!(!body.complete, "{name}: the cut body looks complete");
    prefix(&name, &body.data, zipped);
    wanted.counted(&name, shim, &before, 200);

    let name = format!("{target}, {coding}, HTTP/2");
    let before = shim.metrics();
    let mut client = H2::connect(shim.addr);
    let response = client.head("GET", target, &[("accept-encoding", coding)], Pieces::default()).expect("a head");
    assert_eq!(response.status(), 200, "{name}");
    let _ = go.send(());
    let response = client.rest(response);
    assert!(!response.complete, "{name}: the cut body looks complete");
    assert!(
        response.error.contains("stream error"),
        "{name}: the stream did not end with RST_STREAM, but with {:?}",
        response.error
    );
    prefix(&name, &response.body, zipped);
    wanted.counted(&name, shim, &before, 200);
    let next = client.ask("GET", "/", &[], Pieces::default());
    assert_eq!((next.status, &next.body[..]), (200, &b"whole"[..]), "{name}: the connection ended with the stream");
    let pulls = before.sum(PULLS, &[]);
    shim.wait_metrics(|now| now.sum(PULLS, &[]) > pulls + 1.5);
}

/// Checks that the body, inflated if it is gzip, is a prefix of the origin's text.
fn prefix(name: &str, body: &[u8], zipped: bool) {
    let text = "It was a dark and stormy night. ".repeat(64);
    let mut plain = Vec::new();
    if zipped {
        let unzipped = flate2::read::GzDecoder::new(body).read_to_end(&mut plain);
        assert!(unzipped.is_err(), "{name}: the gzip stream is complete");
    } else {
        plain.extend_from_slice(body);
    }
    assert!(
        text.as_bytes().starts_with(&plain),
        "{name}: the origin did not send {:?}",
        String::from_utf8_lossy(&plain)
    );
    assert!(zipped || !plain.is_empty(), "{name}: the body is empty");
}

#[test]
fn response_when_origin_body_is_truncated_then_truncated_and_counted_as_cut() {
    let (origin, go) = truncating_origin();
    let shim = Shim::start(Shim::config(origin.url()));
    for target in
        ["/length/close", "/length/reset", "/chunked/close", "/chunked/reset", "/in-chunk/close", "/bad-chunk/open"]
    {
        check_truncated(CUT, &shim, &go, target, "identity");
    }
    check_truncated(CUT, &shim, &go, "/large/close", "identity");
    check_truncated(CUT, &shim, &go, "/large/reset", "identity");
    check_truncated(CUT, &shim, &go, "/in-trailer/close", "identity");
    check_truncated(CUT, &shim, &go, "/close/reset", "identity");
    for target in ["/length/close", "/chunked/close", "/in-chunk/reset", "/bad-chunk/open", "/close/reset"] {
        check_truncated(CUT, &shim, &go, target, "gzip");
    }
}

#[test]
fn response_when_truncation_arrives_with_the_head_then_is_truncated_or_a_page() {
    let (origin, _go) = truncating_origin();
    let shim = Shim::start(Shim::config(origin.url()));
    for (target, coding) in [
        ("/length/at-once", "identity"),
        ("/chunked/at-once", "identity"),
        ("/in-chunk/at-once", "identity"),
        ("/length/at-once", "gzip"),
        ("/chunked/at-once", "gzip"),
    ] {
        let before = shim.metrics();
        let mut client = Raw::connect(shim.addr);
        client.send(format!("GET {target} HTTP/1.1\r\nHost: shim.test\r\nAccept-Encoding: {coding}\r\n\r\n"));
        let response = client.response().expect("a response head");
        // If the length is known, the shim reads the body ahead for gzip. So when the body is cut, the shim has sent
        // nothing and can send the error page. In the other gzip case the result depends on whether hyper returns the
        // bytes or the error first.
        let page = (502, true);
        let cut = (200, false);
        let wanted: &[_] = match (target, coding) {
            ("/length/at-once", "gzip") => &[page],
            (_, "gzip") => &[page, cut],
            _ => &[cut],
        };
        assert!(wanted.contains(&(response.status, response.complete)), "{target}, {coding}: {response:?}");
        assert!(response.complete || client.closed(), "{target}: the connection is still open");
        CUT.counted(target, &shim, &before, response.status);
    }
}

#[test]
fn response_when_origin_body_stalls_then_truncated_and_counted_as_stalled() {
    let (origin, go) = truncating_origin();
    let shim = Shim::start(Shim::config(origin.url()).with("[server]\nbody_timeout = \"500ms\""));
    check_truncated(STALLED, &shim, &go, "/length/stall", "identity");
    check_truncated(STALLED, &shim, &go, "/large/stall", "identity");
    check_truncated(STALLED, &shim, &go, "/chunked/stall", "identity");
    check_truncated(STALLED, &shim, &go, "/chunked/stall", "gzip");
    assert!(wait_until(PATIENCE, || origin.open_connections() <= 2), "stalled connections to the origin stay open");
}

#[test]
fn client_reset_when_response_is_in_progress_then_not_counted_as_a_fault() {
    let origin = Origin::start(origin::endless(&[b'x'; 4096]));
    let shim = Shim::start(Shim::config(origin.url()));
    let before = shim.metrics();
    let mut client = Raw::connect(shim.addr);
    client.send("GET / HTTP/1.1\r\nHost: shim.test\r\n\r\n");
    assert_eq!(client.response_head().expect("a head").status, 200);
    client.reset();
    let after = shim.wait_metrics(|now| now.sum(PULLS, &[("code", "499")]) > 0.5);
    assert!(after.sum(FAULTS, &[]) - before.sum(FAULTS, &[]) < 0.5, "a disconnected client counts as a fault");
}

#[test]
fn faults_when_repeated_then_logged_at_most_every_five_seconds_with_a_remedy() {
    let closed = origin::ClosedPort::new();
    let broken = Origin::start(|_, conn| {
        let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello");
        After::Close
    });
    let cut = Origin::start(|_, conn| {
        let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello");
        After::Close
    });
    for (address, message, remedy) in [
        (closed.addr, "refused: ", "start the origin, or correct origin.url"),
        (broken.addr, "broken_head: ", "curl -i"),
        (cut.addr, "cut: ", "workers that crashed"),
    ] {
        let shim = Shim::start(Shim::config(address));
        let begun = std::time::Instant::now();
        for _ in 0..50 {
            let mut client = Raw::connect(shim.addr);
            client.send(raw::request("GET", "/", &[], b""));
            let _ = client.response();
        }
        let elapsed = begun.elapsed().as_secs();
        let stderr = shim.stderr();
        let lines: Vec<&str> = stderr.lines().filter(|line| line.contains(message)).collect();
        let most = usize::try_from(elapsed / 5 + 1).expect("a small number");
        assert!((1..=most).contains(&lines.len()), "{} messages in {elapsed} s: {stderr}", lines.len());
        let first = lines[0];
        for part in [" WARN ", &format!("the origin at {address}: "), "(such faults since the last message: 1)", remedy]
        {
            assert!(first.contains(part), "the message does not contain {part:?}: {first}");
        }
    }
    // A failure of a client is not a fault of the origin and is not logged.
    let origin = Origin::start(origin::echo());
    let shim = Shim::start(Shim::config(origin.url()).with("[server]\nmax_request_body = \"1KiB\""));
    assert_eq!(ask_h1(&shim, raw::request("POST", "/", &[], &[b'x'; 5000])).status, 413);
    assert!(!shim.stderr().contains("WARN"), "{}", shim.stderr());
}
