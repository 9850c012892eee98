//! Tests of the keys in `[server]` that protect the shim: the limits of connections, sizes and times, `max_hops` and
//! `hosts`. Tests of the keys that decide the client's address: `trusted_proxies` and `proxy_protocol`. One test checks
//! that the shim refuses CONNECT. The HTTP/1.1 tests send raw bytes. The HTTP/2 tests use hyper's client or send
//! hand-written frames.
//!
//! Most timeouts are about a second, so that a slow machine does not exceed a timeout by accident. The tests also check
//! that no timeout expires too early.

mod support;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use support::frames::{
    self, Client as Frames, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame,
};
use support::raw::{End, exchange, fetch, get, request};
use support::{Metrics, Origin, PATIENCE, Raw, Response, Shim, origin, temp_dir, wait_until};

/// The longest time that a test waits for the effect of a timeout of the shim.
const LONG: Duration = Duration::from_secs(15);
/// The pause between two writes of a slow client. This pause is far shorter than every timeout in this file.
const PACE: Duration = Duration::from_millis(100);

// ---- requests -------------------------------------------------------------------------------------------------------

/// Returns a GET request with `fields` after Host. `fields` contains complete lines with CRLF.
fn get_with(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: shim.test\r\n{fields}\r\n")
}

fn start(origin: &Origin, server: &str) -> Shim {
    Shim::start(Shim::config(origin.addr).with(&format!("[server]\nworkers = 2\n{server}")))
}

/// A short response timeout. An HTTP/2 stream that the client does not read ends after the longest of `body_timeout`,
/// `response_timeout` and `connect_timeout`.
const HASTY: &str = "[origin]\nresponse_timeout = \"1s\"";

fn start_hasty(origin: &Origin, server: &str) -> Shim {
    Shim::start(Shim::config(origin.addr).with(HASTY).with(&format!("[server]\nworkers = 2\n{server}")))
}

fn refused(metrics: &Metrics, reason: &str) -> f64 {
    metrics.sum("edgeshim_refused_total", &[("reason", reason)])
}

/// Waits until `count` requests were refused for this reason. Panics if more requests were refused.
fn wait_refused(shim: &Shim, reason: &str, count: u32) {
    shim.wait_metrics(|metrics| refused(metrics, reason) >= f64::from(count));
    let exact = (refused(&shim.metrics(), reason) - f64::from(count)).abs() < f64::EPSILON;
    assert!(exact, "more than {count} requests were refused for the reason {reason}");
}

fn pulls(metrics: &Metrics, code: &str) -> f64 {
    metrics.sum("edgeshim_pulls_total", &[("code", code)])
}

fn once(pulls: f64) -> bool {
    (pulls - 1.0).abs() < f64::EPSILON
}

/// Sends one request over a new HTTP/2 connection. Returns an error if the stream is reset or the connection is closed.
fn h2<B>(addr: SocketAddr, request: http::Request<B>) -> Result<(http::response::Parts, Bytes), hyper::Error>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let asking = async {
        let mut sender = support::h2::connect(addr).await;
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok((head, body.collect().await?.to_bytes()))
    };
    let response = support::h2::runtime().block_on(async { tokio::time::timeout(LONG, asking).await });
    response.expect("a response in time")
}

/// Returns the builder of a GET request for HTTP/2.
fn h2_get(target: &str) -> http::request::Builder {
    http::Request::builder().uri(format!("http://shim.test{target}"))
}

fn nothing() -> Full<Bytes> {
    Full::new(Bytes::new())
}

/// A body that waits for [`PACE`] before each frame. If `hangs` is true, the body never ends.
struct Paced {
    frames: tokio::sync::mpsc::UnboundedReceiver<Bytes>,
    hangs: bool,
}

fn paced(frames: Vec<&'static [u8]>, hangs: bool) -> Paced {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for frame in frames {
            std::thread::sleep(PACE);
            if sender.send(Bytes::from_static(frame)).is_err() {
                return;
            }
        }
    });
    Paced { frames: receiver, hangs }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.frames.poll_recv(cx) {
            Poll::Ready(Some(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Poll::Ready(None) if !self.hangs => Poll::Ready(None),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

#[test]
fn streams_when_reset_rapidly_then_connection_ends_and_libraries_log_nothing() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "");
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "shim.test"), (":path", "/")];
    let streams = (0..200).map(|number| 2 * number + 1);
    let flood: Vec<u8> = streams
        .flat_map(|stream| [frames::head(stream, END_STREAM, &fields), frames::reset(stream, frames::CANCEL)].concat())
        .collect();
    let mut client = Frames::connect(shim.addr, 65_535);
    client.raw.send(flood);
    assert!(client.until(GOAWAY).is_some(), "the shim did not end the connection");
    wait_refused(&shim, "flood", 1);
    // If h2 wrote a message about the connection, the message would be in stderr before this later message.
    shim.signal("HUP");
    shim.wait_stderr("reload: the new configuration is active");
    assert!(!shim.stderr().contains("WARN"), "{}", shim.stderr());
}

#[test]
fn frames_when_they_carry_no_request_and_are_too_many_then_connection_is_closed_and_counted() {
    // This is more than twice the limit for one second, so the limit is exceeded even if the frames take two seconds.
    const FRAMES: usize = 25_000;
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "");
    let post = [(":method", "POST"), (":scheme", "http"), (":authority", "shim.test"), (":path", "/")];
    for (number, flood) in [
        // The padding length and one byte of padding.
        frame(DATA, PADDED, 1, &[1, 0]),
        frame(DATA, PADDED, 1, &[0]),
        frame(DATA, 0, 1, &[]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Frames::connect(shim.addr, 65_535);
        client.raw.send(frames::head(1, 0, &post));
        client.raw.send(flood.repeat(FRAMES));
        wait_refused(&shim, "flood", u32::try_from(number + 1).expect("a small number"));
        while client.next().is_some() {}
    }
}

#[test]
fn window_updates_when_client_reads_a_large_body_in_small_steps_then_response_is_complete() {
    const STEP: u32 = 16;
    let body = vec![b'x'; 1 << 20];
    let origin = Origin::start(origin::fixed(200, &[("Content-Type", "image/png")], body.clone()));
    let shim = start(&origin, "");
    let mut client = Frames::connect(shim.addr, 65_535);
    client.get(1, "/");
    let mut length = 0;
    loop {
        let frame = client.next().expect("the connection stays open");
        if frame.kind == DATA {
            length += frame.payload.len();
            // Most clients send one frame for the stream and one for the connection. This client sends four of each.
            let share = u32::try_from(frame.payload.len()).expect("a short frame").div_ceil(4).max(STEP);
            for _ in 0..4 {
                client.grant(0, share);
                client.grant(1, share);
            }
        }
        if frame.ends_stream() {
            break;
        }
    }
    assert_eq!((length, refused(&shim.metrics(), "flood")), (body.len(), 0.0));
}

#[test]
fn upload_when_refused_then_client_gets_the_complete_response_and_can_finish_the_upload() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "max_request_body = \"4B\"");
    let piece = [b'a'; 10_000];
    let mut client = Raw::connect(shim.addr).patient(LONG);
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 50 * piece.len()));
    assert_eq!(client.response().expect("a response").status, 413);
    for _ in 0..50 {
        client.send(piece);
    }
    let end = client.more();
    assert!(end.as_ref().is_ok_and(Vec::is_empty), "the connection did not end in an orderly way: {end:?}");

    let length = (10 * piece.len()).to_string();
    let authority = ("content-length", length.as_str());
    let post = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/"), authority];
    let mut client = Frames::connect(shim.addr, 65_535);
    client.raw.send(frames::head(1, 0, &post));
    assert!(client.ended_normally(1), "the response is not complete");
    for number in 1..=10 {
        client.send(DATA, if number == 10 { END_STREAM } else { 0 }, 1, &piece);
    }
    // If the shim had reset the stream, the frame would arrive before the response to the next request.
    client.get(3, "/");
    let next = std::iter::from_fn(|| client.next()).find(|frame| frame.kind == RST_STREAM || frame.stream == 3);
    assert!(next.is_some_and(|frame| frame.kind == HEADERS && frame.stream == 3));
}

#[test]
fn upload_when_refused_and_endless_then_connection_or_stream_ends_soon() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "max_request_body = \"4B\"");
    let since = Instant::now();
    let mut client = Raw::connect(shim.addr).patient(LONG);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\nabc");
    assert_eq!(client.response().expect("a response").status, 413);
    assert!(client.closed());
    let post =
        [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/"), ("content-length", "1000000")];
    let mut client = Frames::connect(shim.addr, 65_535);
    client.raw.send(frames::head(1, 0, &post));
    assert!(client.ended_normally(1), "the response is not complete");
    assert!(client.until(RST_STREAM).is_some_and(|frame| frame.payload == frames::NO_ERROR.to_be_bytes()));
    assert!(since.elapsed() < LONG, "{:?}", since.elapsed());
}

#[test]
fn upload_when_refused_before_100_continue_then_client_gets_no_100() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "max_request_body = \"4B\"");
    let mut client = Raw::connect(shim.addr).patient(LONG);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n");
    let bytes = client.read_to_end();
    assert!(bytes.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&bytes));
}

// ---- connections ----------------------------------------------------------------------------------------------------

/// Sends a GET request over a connection, and reads the response. The connection stays open.
fn served(client: &mut Raw, target: &str) -> Response {
    client.send(get(target));
    let response = client.response().unwrap_or_else(|why| panic!("no response to {target}: {why:?}"));
    assert_eq!(response.status, 200, "{}", response.line);
    response
}

#[test]
fn start_when_descriptors_do_not_suffice_for_all_workers_then_exits_with_2() {
    let dir = temp_dir();
    let file = dir.write(
        "edgeshim.toml",
        "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 64\n[admin]\nlisten = \"127.0.0.1:0\"\n",
    );
    let program = support::shim::binary().get_program().to_owned();
    let script = "ulimit -n 40 && exec \"$0\" run --config \"$1\"";
    let output = Command::new("sh").arg("-c").arg(script).arg(program).arg(file).output().expect("a shell");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("cannot start (Too many open files") && stderr.contains("server.workers"), "{stderr}");
}

#[test]
fn accept_when_no_descriptor_is_free_then_fails_quietly_until_one_is_free() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "");
    let pid = Pid::from_raw(i32::try_from(shim.pid).expect("a process id"));
    let before = getrlimit(Resource::Nofile);
    let limit = |files: Option<u64>| {
        prlimit(pid, Resource::Nofile, Rlimit { current: files, ..before }).expect("the limit is set");
    };
    assert_eq!(fetch(shim.addr, "/", &[]).status, 200);
    // The descriptors 0 to 2 are in use, so that no other descriptor can be opened.
    limit(Some(3));
    let mut waiting = Raw::connect(shim.addr).patient(LONG);
    waiting.send(get("/"));
    shim.wait_stderr("cannot accept a connection");
    // The shim tries ten times a second, and logs a message at most once in five seconds.
    let is_loud = || shim.stderr().matches("cannot accept a connection").count() > 1;
    assert!(!wait_until(Duration::from_secs(1), is_loud), "{}", shim.stderr());
    limit(before.current);
    assert_eq!(waiting.response().expect("a response").status, 200);
}

#[test]
fn max_connections_when_reached_then_next_connection_waits_until_another_closes() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "max_connections = 2");
    let mut first = Raw::connect(shim.addr);
    let mut second = Raw::connect(shim.addr);
    served(&mut first, "/first");
    served(&mut second, "/second");
    let mut third = Raw::connect(shim.addr).patient(Duration::from_millis(400));
    third.send(get("/third"));
    assert_eq!(third.end(), End::Open, "the third connection must wait");
    assert_eq!(origin.count(), 2);
    let open = shim.metrics().value("edgeshim_connections", &[]);
    assert!((open - 2.0).abs() < f64::EPSILON, "{open} connections are open");
    served(&mut second, "/second-again");
    drop(first);
    third = third.patient(LONG);
    assert_eq!(third.response().expect("a response after the first connection was closed").status, 200);
    served(&mut second, "/second-to-the-end");
}

#[test]
fn max_connections_when_one_of_three_listeners_gets_all_clients_then_all_are_served() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "max_connections = 3\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0\", \"unix:shim.sock\"]");
    let mut clients: Vec<Raw> = (0..3).map(|_| Raw::connect(shim.addr)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        served(client, &format!("/{number}"));
    }
}

// ---- heads ----------------------------------------------------------------------------------------------------------

#[test]
fn max_header_bytes_when_exceeded_then_shim_sends_431() {
    const LIMIT: usize = 16 << 10;
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "max_header_bytes = \"16KiB\"");
    let sized = |bytes: usize| {
        let bare = get_with("X-Big: \r\nConnection: close\r\n").len();
        get_with(&format!("X-Big: {}\r\nConnection: close\r\n", "a".repeat(bytes - bare)))
    };
    for (bytes, status) in [(LIMIT, 200), (LIMIT + 1, 431), (LIMIT + 4096, 431)] {
        assert_eq!(sized(bytes).len(), bytes);
        let response = exchange(shim.addr, sized(bytes));
        assert_eq!(response.status, status, "the status for a head of {bytes} bytes");
        assert_eq!(response.field("connection"), Some("close"));
    }
    let mut pieces = Raw::connect(shim.addr);
    pieces.send_pieces(sized(LIMIT + 1), 1000);
    assert_eq!(pieces.response().expect("a response").status, 431, "the status for a head that is sent in pieces");
    assert!(pieces.closed());
    let of = |bytes: usize| {
        h2(shim.addr, h2_get("/").header("x-big", "a".repeat(bytes)).body(nothing()).expect("a valid request"))
    };
    assert_eq!(of(15 << 10).expect("a response").0.status, 200);
    assert_eq!(of(16 << 10).expect("a response").0.status, 431);
    assert_eq!(origin.count(), 2, "one request with each protocol must reach the origin");
    assert!(refused(&shim.metrics(), "malformed") >= 3.0);
}

#[test]
fn max_headers_when_exceeded_on_http1_or_http2_then_shim_sends_431() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "");
    for (lines, status) in [(128, 200), (129, 431)] {
        // Host and Connection count as two of the fields.
        let mut fields = String::new();
        for number in 2..lines {
            let _ = write!(fields, "X-{number}: {number}\r\n");
        }
        let response = exchange(shim.addr, get_with(&format!("{fields}Connection: close\r\n")));
        assert_eq!(response.status, status, "{lines} lines on HTTP/1.1");
        let mut builder = h2_get("/");
        for number in 0..lines {
            builder = builder.header(format!("x-{number}"), "1");
        }
        let (head, _) = h2(shim.addr, builder.body(nothing()).expect("a valid request")).expect("a response");
        assert_eq!(head.status, status, "{lines} lines on HTTP/2");
        let repeated = (0..lines).fold(h2_get("/"), |builder, _| builder.header("x-same", "1"));
        let (head, _) = h2(shim.addr, repeated.body(nothing()).expect("a valid request")).expect("a response");
        assert_eq!(head.status, status, "{lines} lines of one name on HTTP/2");
    }
    assert_eq!(origin.count(), 3);
    wait_refused(&shim, "malformed", 3);
}

#[test]
fn max_headers_when_below_the_default_then_configured_limit_applies() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "max_headers = 3");
    assert_eq!(fetch(shim.addr, "/", &[("A", "1")]).status, 200);
    assert_eq!(fetch(shim.addr, "/", &[("A", "1"), ("B", "2")]).status, 431);
}

// ---- request bodies -------------------------------------------------------------------------------------------------

#[test]
fn max_request_body_when_declared_length_is_larger_then_413_is_sent_at_once() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "max_request_body = \"1KiB\"");
    let whole = exchange(shim.addr, request("POST", "/just-below", &[], &[b'x'; 1024]));
    assert_eq!(whole.status, 200);
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut client = Raw::connect(shim.addr);
        client.send(format!("POST / HTTP/1.1\r\nHost: shim.test\r\n{expect}Content-Length: 1025\r\n\r\n"));
        let response = client.response().expect("a response without the body");
        assert_eq!((response.status, response.interim.len()), (413, 0));
        assert!(client.closed());
    }
    let of = |length: usize| {
        let body = Full::new(Bytes::from(vec![b'x'; length]));
        h2(shim.addr, h2_get("/").method("POST").header("content-length", length).body(body).expect("a valid request"))
    };
    assert_eq!(of(1024).expect("a response").0.status, 200);
    assert_eq!(of(1025).expect("a response").0.status, 413);
    assert_eq!(origin.count(), 2, "only the allowed requests must reach the origin");
    wait_refused(&shim, "body_too_large", 3);
    assert!((pulls(&shim.metrics(), "413") - 3.0).abs() < f64::EPSILON);
}

#[test]
fn max_request_body_when_streamed_body_is_larger_then_origin_gets_incomplete_request() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "max_request_body = \"1KiB\"");
    let chunked = |target: &str, chunks: &[usize]| {
        let mut text = format!("POST {target} HTTP/1.1\r\nHost: shim.test\r\nTransfer-Encoding: chunked\r\n\r\n");
        for &size in chunks {
            let _ = write!(text, "{size:x}\r\n{}\r\n", "x".repeat(size));
        }
        text + "0\r\n\r\n"
    };
    let mut client = Raw::connect(shim.addr);
    client.send(chunked("/below", &[1000, 24]));
    assert_eq!(client.response().expect("a response").status, 200);
    for chunks in [&[1025][..], &[1000, 25], &[1024, 1], &[65_536; 16]] {
        let mut client = Raw::connect(shim.addr);
        client.send(chunked("/above", chunks));
        match client.response() {
            Ok(response) => assert_eq!(response.status, 413, "{chunks:?}"),
            // If the client sends data after the shim has closed the connection, the kernel resets the connection and
            // the response is lost.
            Err(_) => assert!(client.closed()),
        }
    }
    let frames = |target: &str, count: usize| {
        let body = paced(vec![&[b'x'; 512]; count], false);
        h2(shim.addr, h2_get(target).method("POST").body(body).expect("a valid request"))
    };
    assert_eq!(frames("/below", 2).expect("a response").0.status, 200);
    if let Ok((head, _)) = frames("/above", 3) {
        assert_eq!(head.status, 413);
    }
    shim.wait_metrics(|metrics| refused(metrics, "body_too_large") >= 5.0);
    assert!(
        wait_until(PATIENCE, || origin.open_connections() <= 2),
        "an origin connection of a truncated request is open"
    );
    let requests = origin.requests();
    let whole = |target: &str| requests.iter().filter(|seen| seen.target == target && seen.complete).count();
    assert_eq!((whole("/below"), whole("/above")), (2, 0));
    assert!(requests.iter().all(|seen| seen.body.len() <= 1024));
}

// ---- header_timeout -------------------------------------------------------------------------------------------------

/// Checks that the client gets a 408 with `Connection: close`, and that the connection then closes.
fn times_out(client: &mut Raw) {
    let response = client.response().unwrap_or_else(|why| panic!("no response arrived; a 408 is expected: {why:?}"));
    assert_eq!(response.status, 408);
    assert_eq!(response.field("connection"), Some("close"));
    assert!(client.closed());
}

#[test]
fn header_timeout_when_head_is_incomplete_then_shim_sends_408_and_closes() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "header_timeout = \"1s\"");
    let since = Instant::now();
    let mut first = Raw::connect(shim.addr).patient(LONG);
    first.send("GET / HTTP/1.1\r\nHost: shim.test\r\nX-A");
    let mut kept = Raw::connect(shim.addr).patient(LONG);
    served(&mut kept, "/kept");
    kept.send("G");
    let mut body = Raw::connect(shim.addr).patient(LONG);
    body.send("POST / HTTP/1.1\r\nHost: shim.test\r\nContent-Length: 2\r\n\r\nhiGET /");
    assert_eq!(body.response().expect("a response").status, 200);
    times_out(&mut first);
    assert!(since.elapsed() >= Duration::from_millis(500), "the 408 arrived too early, after {:?}", since.elapsed());
    times_out(&mut kept);
    times_out(&mut body);
    wait_refused(&shim, "header_timeout", 3);
    assert_eq!(origin.count(), 2, "only the complete requests must reach the origin");
    assert!((pulls(&shim.metrics(), "408")).abs() < f64::EPSILON, "an incomplete head is not a pull");
}

#[test]
fn header_timeout_when_head_arrives_slowly_then_is_not_extended() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "header_timeout = \"1s\"");
    let head = get_with(&format!("X-Slow: {}\r\n", "a".repeat(200)));
    std::thread::scope(|scope| {
        for kept in [false, true] {
            let (addr, head) = (shim.addr, head.as_bytes());
            scope.spawn(move || {
                let mut client = Raw::connect(addr);
                if kept {
                    served(&mut client, "/kept");
                }
                client = client.patient(PACE);
                let ended = head.iter().any(|byte| {
                    client.send([*byte]);
                    client.end() != End::Open
                });
                assert!(ended, "the shim accepted a head after header_timeout");
                client = client.patient(PATIENCE);
                assert_eq!(
                    client.response().expect("a response").status,
                    408,
                    "the status on the connection with kept = {kept}"
                );
            });
        }
    });
    wait_refused(&shim, "header_timeout", 2);
    assert_eq!(origin.count(), 1);
}

#[test]
fn header_timeout_when_head_is_complete_in_time_then_request_is_served() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "header_timeout = \"3s\"");
    let mut client = Raw::connect(shim.addr).patient(PACE);
    let text = get("/slow");
    let (most, rest) = text.split_at(text.len() - 6);
    for piece in most.as_bytes().chunks(8) {
        client.send(piece);
        assert_eq!(client.end(), End::Open);
    }
    client = client.patient(LONG);
    client.send(rest);
    assert_eq!(client.response().expect("a response").status, 200);
}

#[test]
fn header_timeout_when_no_or_few_bytes_arrive_then_closes_and_counts_a_refusal() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "header_timeout = \"500ms\"");
    let starts = ["", "P", "PRI * HTTP/2.0\r\n\r\nSM"];
    let clients = starts.map(|start| {
        let mut client = Raw::connect(shim.addr).patient(LONG);
        client.send(start);
        client
    });
    for (start, mut client) in starts.into_iter().zip(clients) {
        let received = client.read_to_end();
        assert!(
            received.is_empty() || received.starts_with(b"HTTP/1.1 408 "),
            "{start:?}: {}",
            String::from_utf8_lossy(&received)
        );
        assert!(client.closed(), "the connection is open after {start:?}");
    }
    wait_refused(&shim, "header_timeout", 3);
}

#[test]
fn header_timeout_when_next_head_begins_during_response_then_response_is_complete() {
    let origin = Origin::start(|request, conn| {
        // The pause is longer than header_timeout. header_timeout must not apply while the shim waits for a response.
        std::thread::sleep(Duration::from_millis(2200));
        origin::respond(request, conn, 200, &[], b"slow but complete")
    });
    let shim = start(&origin, "header_timeout = \"1s\"");
    let mut client = Raw::connect(shim.addr).patient(LONG);
    client.send(get("/first") + "GET /second HTTP/1.1\r\nHost: ");
    let response = client.response().expect("the first response");
    assert_eq!((response.status, response.text().as_str()), (200, "slow but complete"));
    times_out(&mut client);
    wait_refused(&shim, "header_timeout", 1);
}

#[test]
fn header_timeout_when_http2_head_arrives_slowly_then_connection_is_closed() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "header_timeout = \"1s\"\nidle_timeout = \"1s\"");
    let mut slow = Frames::connect(shim.addr, 65_535);
    slow.get(1, "/");
    assert!(slow.ended_normally(1));
    // The HEADERS frame never reaches the declared length. Each byte 0x82 is valid: it is the field `:method: GET`.
    let head = frame(HEADERS, END_STREAM | END_HEADERS, 3, &[0x82; 10_000]);
    slow.raw = slow.raw.patient(PACE);
    let ended = head.iter().take(60).any(|byte| {
        slow.raw.send([*byte]);
        // The shim may send a GOAWAY before it closes the connection.
        while slow.raw.end() == End::More && slow.raw.more().is_ok_and(|bytes| !bytes.is_empty()) {}
        slow.raw.end() == End::Closed
    });
    assert!(ended, "the connection is still open after header_timeout");
    wait_refused(&shim, "header_timeout", 1);
}

// ---- body_timeout ---------------------------------------------------------------------------------------------------

/// The framing field of a head and the first five bytes of the body. The body is incomplete.
const FRAMINGS: [&str; 2] = ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"];

#[test]
fn body_timeout_when_upload_stops_then_shim_sends_408_and_closes_origin_connection() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "body_timeout = \"1s\"");
    let since = Instant::now();
    std::thread::scope(|scope| {
        for framing in FRAMINGS {
            let addr = shim.addr;
            scope.spawn(move || {
                let mut client = Raw::connect(addr).patient(LONG);
                client.send(format!("POST /stops HTTP/1.1\r\nHost: shim.test\r\n{framing}"));
                times_out(&mut client);
                let elapsed = since.elapsed();
                assert!(elapsed >= Duration::from_millis(500), "the 408 arrived too early, after {elapsed:?}");
            });
        }
        let stops = h2_get("/stops").method("POST").body(paced(vec![b"hello"], true)).expect("a valid request");
        assert_eq!(h2(shim.addr, stops).expect("a response").0.status, 408);
    });
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0), "a connection to the origin is still open");
    assert!(origin.requests().iter().all(|request| !request.complete));
    let metrics = shim.wait_metrics(|metrics| pulls(metrics, "408") >= 3.0);
    assert!(
        metrics.sum("edgeshim_origin_faults_total", &[]).abs() < f64::EPSILON,
        "a failure of the client must not be a fault of the origin"
    );
}

#[test]
fn body_timeout_when_client_stops_after_early_response_then_connections_are_closed() {
    let origin = Origin::start_at_head(origin::fixed(200, &[], "thanks"));
    let shim = start(&origin, "body_timeout = \"1s\"");
    let mut client = Raw::connect(shim.addr).patient(LONG);
    client.send("POST / HTTP/1.1\r\nHost: shim.test\r\nContent-Length: 50000\r\n\r\n");
    assert_eq!(client.response().expect("an early response").text(), "thanks");
    // Each byte that the shim receives starts the timeout again.
    let since = Instant::now();
    for _ in 0..20 {
        std::thread::sleep(PACE);
        client.send("x");
    }
    assert!(client.closed());
    let elapsed = since.elapsed();
    assert!(
        elapsed >= PACE * 20 + Duration::from_millis(900),
        "the connection was closed too early, after {elapsed:?}"
    );
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0), "the connection to the origin is still open");
    shim.wait_metrics(|metrics| metrics.value("edgeshim_connections", &[]).abs() < f64::EPSILON);
}

#[test]
fn body_timeout_when_http2_upload_stops_after_response_then_origin_connection_closes() {
    let origin = Origin::start_at_head(origin::fixed(200, &[], "thanks"));
    let shim = start(&origin, "body_timeout = \"1s\"");
    let mut client = Frames::connect(shim.addr, 65_535);
    // This is the header block of a POST. The HEADERS frame has no END_STREAM, so a body must follow.
    let post = [&[0x83, 0x86, 0x84, 0x41, 9][..], b"shim.test"].concat();
    client.send(HEADERS, END_HEADERS, 1, &post);
    client.send(DATA, 0, 1, b"hel");
    assert!(client.ended_normally(1), "the early response is incomplete");
    assert!(wait_until(LONG, || origin.open_connections() == 0), "the connection to the origin is still open");
    // Only the stream has ended. The connection still serves requests.
    client.get(3, "/");
    assert!(client.ended_normally(3));
}

#[test]
fn body_timeout_when_upload_is_slow_but_progresses_then_upload_completes() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start_hasty(&origin, "body_timeout = \"1s\"");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Raw::connect(shim.addr).patient(PACE);
            client.send("POST /slow HTTP/1.1\r\nHost: shim.test\r\nContent-Length: 25\r\n\r\n");
            for _ in 0..25 {
                assert_eq!(client.end(), End::Open);
                client.send("x");
            }
            client = client.patient(LONG);
            assert_eq!(client.response().expect("a response").status, 200);
        });
        let slow = h2_get("/slow").method("POST").body(paced(vec![b"x"; 25], false)).expect("a valid request");
        assert_eq!(h2(shim.addr, slow).expect("a response").0.status, 200);
    });
    assert!(origin.requests().iter().all(|request| request.body == [b'x'; 25]));
}

#[test]
fn body_timeout_when_client_stops_reading_then_connections_are_closed() {
    // The body without a length is copied. The body with a length moves through a pipe.
    let endless = Origin::start(origin::endless(&[b'x'; 16 << 10]));
    let large = Origin::start(origin::fixed(200, &[], vec![b'x'; 32 << 20]));
    for origin in [endless, large] {
        let shim = start_hasty(&origin, "body_timeout = \"1s\"");
        let mut client = Raw::connect(shim.addr).patient(LONG);
        client.send(get("/"));
        assert_eq!(client.response_head().expect("a head").status, 200);
        assert!(wait_until(LONG, || origin.open_connections() == 0), "the connection to the origin is still open");
        shim.wait_metrics(|metrics| metrics.value("edgeshim_connections", &[]).abs() < f64::EPSILON);
        assert!(once(pulls(&shim.metrics(), "499")));
        client.read_to_end();
        assert!(client.closed());
    }
}

#[test]
fn body_timeout_when_http2_stream_is_unread_then_only_the_unread_stream_is_reset() {
    let origin = Origin::start(|request, conn| match request.target.as_str() {
        "/endless" => origin::endless(&[b'x'; 16 << 10])(request, conn),
        _ => origin::respond(request, conn, 200, &[], b"hi"),
    });
    let shim = start_hasty(&origin, "body_timeout = \"1s\"");
    let mut client = Frames::connect(shim.addr, 1000);
    client.get(1, "/endless");
    let since = Instant::now();
    assert!(!client.ended_normally(1));
    assert!(
        since.elapsed() >= Duration::from_millis(500),
        "the stream was reset too early, after {:?}",
        since.elapsed()
    );
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0), "the connection to the origin is still open");
    client.get(3, "/");
    assert!(client.ended_normally(3), "another stream of the connection must not be reset");
    shim.wait_metrics(|metrics| once(pulls(metrics, "499")) && once(pulls(metrics, "200")));
}

#[test]
fn body_timeout_when_http2_connection_is_unread_then_connection_is_closed() {
    let origin = Origin::start(origin::endless(&[b'x'; 16 << 10]));
    let shim = start_hasty(&origin, "body_timeout = \"1s\"");
    let mut client = Frames::connect(shim.addr, i32::MAX.unsigned_abs());
    client.grant(0, 1 << 30);
    client.get(1, "/endless");
    assert!(
        wait_until(LONG, || origin.connections() == 1 && origin.open_connections() == 0),
        "the connection to the origin is still open"
    );
    shim.wait_metrics(|metrics| metrics.value("edgeshim_connections", &[]).abs() < f64::EPSILON);
    shim.wait_metrics(|metrics| once(pulls(metrics, "499")));
}

/// A stream makes progress when data leaves the send buffer of the stream. The size of this buffer is 64 KiB, so the
/// client reads more than 64 KiB within each timeout.
#[test]
fn body_timeout_when_download_is_slow_but_progresses_then_download_completes() {
    const BYTES: usize = 1 << 20;
    let origin = Origin::start(origin::fixed(200, &[], vec![b'x'; BYTES]));
    let shim = start_hasty(&origin, "body_timeout = \"1s\"");
    let mut client = Frames::connect(shim.addr, 32 << 10);
    client.get(1, "/");
    let (mut bytes, mut owed) = (0, 0);
    while bytes < BYTES {
        let got = client.next().expect("a frame on an open connection");
        assert_ne!(got.kind, RST_STREAM, "the stream was reset after {bytes} bytes");
        if got.kind != DATA {
            continue;
        }
        bytes += got.payload.len();
        owed += u32::try_from(got.payload.len()).expect("a length that fits into 32 bits");
        if owed >= 32 << 10 {
            std::thread::sleep(PACE);
            client.grant(1, owed);
            client.grant(0, owed);
            owed = 0;
        }
    }
    assert_eq!(bytes, BYTES);
}

#[test]
fn body_timeout_when_origin_stops_sending_then_response_is_visibly_incomplete() {
    let origin = Origin::start(|request, conn| {
        let framing = if request.target == "/length" { FRAMINGS[0] } else { FRAMINGS[1] };
        let _ = conn.write_all(format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{framing}").as_bytes());
        origin::silent()(request, conn)
    });
    let shim = start_hasty(&origin, "body_timeout = \"1s\"");
    let since = Instant::now();
    std::thread::scope(|scope| {
        for target in ["/length", "/chunked"] {
            let addr = shim.addr;
            scope.spawn(move || {
                let mut client = Raw::connect(addr).patient(LONG);
                client.send(get(target));
                let response = client.response().expect("a head");
                assert_eq!((response.status, response.body.as_slice(), response.complete), (200, &b"hello"[..], false));
                assert!(client.closed());
                let elapsed = since.elapsed();
                assert!(elapsed >= Duration::from_millis(500), "the response ended too early, after {elapsed:?}");
            });
            scope.spawn(move || {
                let response = h2(addr, h2_get(target).body(nothing()).expect("a valid request"));
                assert!(response.is_err(), "{target} looks complete over HTTP/2");
            });
        }
    });
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0), "the connection to the origin is still open");
    shim.wait_metrics(|metrics| {
        let stalled = metrics.sum("edgeshim_origin_faults_total", &[("cause", "stalled")]);
        (stalled - 4.0).abs() < f64::EPSILON && (pulls(metrics, "200") - 4.0).abs() < f64::EPSILON
    });
}

// ---- idle_timeout ---------------------------------------------------------------------------------------------------

#[test]
fn idle_timeout_when_connection_is_idle_then_closed_at_the_timeout_and_not_before() {
    let origin = Origin::start(|request, conn| {
        if request.target == "/slow" {
            // The pause is longer than idle_timeout. A connection that waits for a response must not count as idle.
            std::thread::sleep(Duration::from_millis(1700));
        }
        origin::respond(request, conn, 200, &[], b"hi")
    });
    let shim = start(&origin, "idle_timeout = \"1s\"");
    let mut client = Raw::connect(shim.addr).patient(LONG);
    for number in 0..3 {
        let since = Instant::now();
        served(&mut client, &format!("/{number}"));
        client = client.patient(Duration::from_millis(400));
        // On a busy machine, the wait can take longer than idle_timeout. Then the shim has closed the connection.
        if client.end() != End::Open {
            assert!(
                since.elapsed() >= Duration::from_millis(900),
                "the connection was closed too early, after {:?}",
                since.elapsed()
            );
            client = Raw::connect(shim.addr);
        }
        client = client.patient(LONG);
    }
    // The timeout begins after the slow response.
    let since = Instant::now();
    served(&mut client, "/slow");
    assert!(client.closed());
    assert!(
        since.elapsed() >= Duration::from_millis(2600),
        "the connection was closed too early, after {:?}",
        since.elapsed()
    );
    shim.wait_metrics(|metrics| metrics.value("edgeshim_connections", &[]).abs() < f64::EPSILON);
    assert!(
        refused(&shim.metrics(), "header_timeout").abs() < f64::EPSILON,
        "the close of an idle connection must not be counted as a refusal"
    );
}

#[test]
fn idle_timeout_when_http2_connection_is_idle_then_shim_sends_goaway_and_closes() {
    let origin = Origin::start(|request, conn| {
        if request.target == "/slow" {
            // The pause is longer than idle_timeout. A connection that waits for a response must not count as idle.
            std::thread::sleep(Duration::from_millis(1700));
        }
        origin::respond(request, conn, 200, &[], b"hi")
    });
    let shim = start(&origin, "idle_timeout = \"1s\"");
    let mut client = Frames::connect(shim.addr, 65_535);
    let since = Instant::now();
    client.get(1, "/slow");
    assert!(client.ended_normally(1), "the slow response is incomplete");
    assert_eq!(client.until(GOAWAY).expect("a GOAWAY before the end of the connection").stream, 0);
    assert!(
        since.elapsed() >= Duration::from_millis(2600),
        "the connection was closed too early, after {:?}",
        since.elapsed()
    );
    while client.next().is_some() {}
    // The shim sends a ping together with the GOAWAY. The shim must also close a connection whose client does not
    // acknowledge this ping.
    let mut deaf = Frames::connect(shim.addr, 65_535);
    deaf.get(1, "/");
    deaf.raw.read_to_end();
    assert!(deaf.raw.closed());
    shim.wait_metrics(|metrics| metrics.value("edgeshim_connections", &[]).abs() < f64::EPSILON);
}

#[test]
fn idle_timeout_when_empty_lines_or_pings_arrive_then_is_not_extended() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "idle_timeout = \"1s\"");
    // The client repeatedly sends two empty lines or two pings, which belong to no request. Each time, it splits the
    // second line or ping into two writes.
    let pings = [frame(PING, 0, 0, b"pingpong"), frame(PING, 0, 0, b"pingpong")].concat();
    let (half, rest) = pings.split_at(20);
    let plain = || {
        let mut client = Raw::connect(shim.addr);
        served(&mut client, "/");
        client
    };
    let framed = || {
        let mut client = Frames::connect(shim.addr, 65_535);
        client.get(1, "/");
        assert!(client.ended_normally(1));
        client.raw
    };
    let cases: [(&dyn Fn() -> Raw, _); 2] = [(&plain, [&b"\r\n\r"[..], b"\n"]), (&framed, [half, rest])];
    for (connect, pieces) in cases {
        let since = Instant::now();
        let mut client = connect().patient(PACE);
        let mut open = true;
        while open && since.elapsed() < LONG {
            for piece in pieces {
                client.send(piece);
                // Skips the acknowledgements of the pings. If a read then times out, the connection is open. If a read
                // returns no bytes or another error, the connection is closed. Without the wait for the timeout, the
                // shim would refuse the pings as a flood.
                open = open
                    && loop {
                        match client.more() {
                            Ok(bytes) if !bytes.is_empty() => {}
                            Ok(_) => break false,
                            Err(error) => break error.kind() == ErrorKind::WouldBlock,
                        }
                    };
            }
        }
        assert!(!open, "the connection is still open after {LONG:?}");
        assert!(
            since.elapsed() >= Duration::from_millis(500),
            "the connection was closed too early, after {:?}",
            since.elapsed()
        );
    }
    shim.wait_metrics(|metrics| metrics.value("edgeshim_connections", &[]).abs() < f64::EPSILON);
}

// ---- loops, hosts, CONNECT ------------------------------------------------------------------------------------------

#[test]
fn max_hops_when_reached_then_shim_sends_508() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "");
    let loops = |lines: &[&str]| {
        let fields: Vec<_> = lines.iter().map(|line| ("CDN-Loop", *line)).collect();
        fetch(shim.addr, "/", &fields).status
    };
    assert_eq!(loops(&[]), 200);
    assert_eq!(origin.last().fields_named("cdn-loop"), ["edgeshim"]);
    assert_eq!(
        loops(&["fastly", "edgeshim, edgeshim;a=\"x, edgeshim\", Edgeshim, notedgeshim, cloudflare; edgeshim"]),
        200
    );
    let sent = origin.last();
    let passes = sent.fields_named("cdn-loop").join(", ");
    assert!(passes.starts_with("fastly, edgeshim, ") && passes.ends_with("cloudflare; edgeshim, edgeshim"), "{passes}");
    assert_eq!(origin.count(), 2);
    assert_eq!(loops(&["edgeshim, edgeshim, edgeshim, edgeshim"]), 508);
    assert_eq!(loops(&["edgeshim", "edgeshim;v=1", "EDGESHIM, fastly", "edgeshim"]), 508);
    let (head, _) = h2(
        shim.addr,
        h2_get("/")
            .header("cdn-loop", "edgeshim,edgeshim,edgeshim,edgeshim,edgeshim")
            .body(nothing())
            .expect("a valid request"),
    )
    .expect("a response");
    assert_eq!(head.status, 508);
    assert_eq!(origin.count(), 2, "a refused request reached the origin");
    wait_refused(&shim, "loop", 3);
    assert!((pulls(&shim.metrics(), "508") - 3.0).abs() < f64::EPSILON);
    let strict = start(&origin, "max_hops = 1");
    assert_eq!(fetch(strict.addr, "/", &[("CDN-Loop", "fastly")]).status, 200);
    assert_eq!(fetch(strict.addr, "/", &[("CDN-Loop", "edgeshim")]).status, 508);
}

#[test]
fn max_hops_when_shim_forwards_to_itself_then_loop_ends() {
    let dir = support::temp_dir();
    let own = dir.join("own.sock");
    let url = format!("unix:{}", own.display());
    let shim = Shim::start_in(dir, Shim::config(&url).with(&format!("[server]\nlisten = [\"{url}\"]")));
    let mut client = Raw::connect_unix(&own);
    client.send(get("/"));
    // The shim receives the request five times and refuses the fifth request with a 508. The shim forwards this status
    // as the response to each of the four earlier requests, so the client gets a 508.
    assert_eq!(client.response().expect("a response").status, 508);
    shim.wait_metrics(|metrics| (pulls(metrics, "508") - 5.0).abs() < f64::EPSILON);
    wait_refused(&shim, "loop", 1);
}

#[test]
fn hosts_when_host_is_not_listed_then_shim_sends_421() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "hosts = [\"www.example.com\", \"api.example.com:8443\", \"[2001:db8::1]\"]");
    let allowed = [
        "www.example.com",
        "WWW.Example.COM",
        "www.example.com:8080",
        "www.example.com.",
        "api.example.com:8443",
        "API.example.com:8443",
        "[2001:db8::1]:443",
    ];
    for host in allowed {
        assert_eq!(fetch(shim.addr, "/", &[("Host", host)]).status, 200, "{host}");
        assert_eq!(origin.last().field("host"), Some(host), "Host must be forwarded unchanged");
    }
    let others = [
        "example.com",
        "www.example.com.evil.test",
        "xwww.example.com",
        "api.example.com",
        "api.example.com:443",
        "127.0.0.1",
        "[2001:db8::2]",
    ];
    for host in others {
        assert_eq!(fetch(shim.addr, "/", &[("Host", host)]).status, 421, "{host}");
    }
    assert_eq!(exchange(shim.addr, "GET / HTTP/1.0\r\n\r\n").status, 421, "the status for a request without Host");
    let of = |uri: &str| {
        h2(shim.addr, http::Request::builder().uri(uri).body(nothing()).expect("a valid request"))
            .expect("a response")
            .0
            .status
    };
    assert_eq!(of("http://www.example.com/"), 200);
    assert_eq!(of("http://shim.test/"), 421);
    assert_eq!(origin.count(), allowed.len() + 1);
    wait_refused(&shim, "host", u32::try_from(others.len()).expect("a small number") + 2);
    // The request that gets the 421 is well-formed and has no body, so the connection stays open.
    let mut client = Raw::connect(shim.addr);
    client.send(get("/"));
    assert_eq!(client.response().expect("a response").status, 421);
    client.send("GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
    assert_eq!(client.response().expect("a response").status, 200);
}

#[test]
fn connect_method_when_requested_then_refused_with_405() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "");
    let mut client = Raw::connect(shim.addr);
    client.send("CONNECT shim.test:443 HTTP/1.1\r\nHost: shim.test:443\r\n\r\n");
    let response = client.response().expect("a response");
    assert_eq!((response.status, response.complete), (405, true));
    assert!(response.field("allow").is_some_and(|allow| !allow.contains("CONNECT")));
    assert!(client.closed());
    let connect =
        http::Request::builder().method("CONNECT").uri("shim.test:443").body(nothing()).expect("a valid request");
    assert_eq!(h2(shim.addr, connect).expect("a response").0.status, 405);
    assert_eq!((origin.count(), origin.connections()), (0, 0));
    wait_refused(&shim, "method", 2);
}

// ---- client address -------------------------------------------------------------------------------------------------

/// Returns the values of X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host in the last request at the origin.
fn forwarded(origin: &Origin) -> [String; 3] {
    let request = origin.last();
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"].map(|name| request.fields_named(name).join(" & "))
}

#[test]
fn trusted_proxies_when_peer_is_not_listed_then_forwarded_fields_are_replaced() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let lies = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.test"),
        ("Forwarded", "for=203.0.113.9;host=evil.test;proto=https"),
    ];
    for server in ["", "trusted_proxies = [\"10.0.0.0/8\", \"127.0.0.2\"]"] {
        let shim = start(&origin, server);
        assert_eq!(fetch(shim.addr, "/", &lies).status, 200);
        assert_eq!(forwarded(&origin), ["127.0.0.1", "http", &shim.addr.to_string()], "{server}");
        assert_eq!(origin.last().fields_named("forwarded"), ["for=127.0.0.1;proto=http"]);
    }
}

#[test]
fn trusted_proxies_when_peer_is_listed_then_x_forwarded_for_is_read_from_the_right() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\", \"2001:db8:1::/48\"]");
    for (lines, expected) in [
        (&[][..], "127.0.0.1"),
        (&["203.0.113.7"][..], "203.0.113.7, 127.0.0.1"),
        (&["198.51.100.9, 203.0.113.7, 10.0.0.2"], "203.0.113.7, 10.0.0.2, 127.0.0.1"),
        (&["198.51.100.9", "203.0.113.7", "10.0.0.2,10.0.0.3"], "203.0.113.7, 10.0.0.2, 10.0.0.3, 127.0.0.1"),
        (&["203.0.113.7, evil, 10.0.0.2"], "10.0.0.2, 127.0.0.1"),
        (&["203.0.113.7, unknown"], "127.0.0.1"),
        (&["10.0.0.4, 10.0.0.2"], "10.0.0.4, 10.0.0.2, 127.0.0.1"),
        (&["203.0.113.7:4711, 10.0.0.2:80"], "203.0.113.7, 10.0.0.2, 127.0.0.1"),
        (&["\"[2001:db8::7]:443\", 2001:db8:1::2"], "2001:db8::7, 2001:db8:1::2, 127.0.0.1"),
        (&["10.0.0.5, ::ffff:10.0.0.2"], "10.0.0.5, 10.0.0.2, 127.0.0.1"),
    ] {
        let fields: Vec<_> = lines.iter().map(|line| ("X-Forwarded-For", *line)).collect();
        assert_eq!(fetch(shim.addr, "/", &fields).status, 200);
        assert_eq!(forwarded(&origin)[0], expected, "{lines:?}");
    }
    let words =
        [("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-Proto", "HTTPS"), ("X-Forwarded-Host", "www.test:81")];
    fetch(shim.addr, "/", &words);
    assert_eq!(forwarded(&origin), ["203.0.113.7, 127.0.0.1", "https", "www.test:81"]);
    fetch(shim.addr, "/", &[("X-Forwarded-Proto", "gopher"), ("X-Forwarded-Host", "a, b")]);
    assert_eq!(forwarded(&origin), ["127.0.0.1", "http", &shim.addr.to_string()]);
}

/// Returns a PROXY header of version 2. It contains the command, the family, the length of `rest`, and `rest`.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend_from_slice(&[0x20 | command, family]);
    bytes.extend_from_slice(&u16::try_from(rest.len()).expect("a short header").to_be_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

/// The addresses in a PROXY header: from 192.0.2.8, port 1, to 198.51.100.1, port 2.
const PAIR4: [u8; 12] = [192, 0, 2, 8, 198, 51, 100, 1, 0, 1, 0, 2];

fn pair6() -> Vec<u8> {
    let mut bytes = [[0; 16], [0; 16]].concat();
    bytes[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    bytes[15] = 8;
    bytes[31] = 1;
    bytes.extend_from_slice(&[0, 1, 0, 2]);
    bytes
}

/// If a PROXY header is UNKNOWN, has the command LOCAL or has an unspecified family, the peer's address is used.
#[test]
fn proxy_protocol_when_header_is_valid_then_client_is_the_header_address_or_the_peer() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "proxy_protocol = true");
    // The protocol allows type-length-value triples after the addresses. The shim ignores these triples.
    let extended = [&PAIR4[..], &[0xee, 0, 3, 1, 2, 3]].concat();
    let rows: Vec<(Vec<u8>, &str)> = vec![
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 80\r\n".to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 5000 80\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), "127.0.0.1"),
        (binary(1, 0x11, &PAIR4), "192.0.2.8"),
        (binary(1, 0x11, &extended), "192.0.2.8"),
        (binary(1, 0x21, &pair6()), "2001:db8::8"),
        (binary(0, 0x00, &[]), "127.0.0.1"),
        (binary(0, 0x11, &PAIR4), "127.0.0.1"),
        (binary(1, 0x00, &[]), "127.0.0.1"),
    ];
    for (header, expected) in &rows {
        for piece in [usize::MAX, 1] {
            let mut client = Raw::connect(shim.addr);
            client.send_pieces([header.as_slice(), get("/").as_bytes()].concat(), piece);
            let shown = String::from_utf8_lossy(header);
            let response = client.response().unwrap_or_else(|why| panic!("no response after {shown:?}: {why:?}"));
            assert_eq!(response.status, 200);
            assert_eq!(forwarded(&origin)[0], *expected, "{shown:?} in pieces of {piece} bytes");
            client.send(get_with("X-Forwarded-For: 203.0.113.1\r\n"));
            assert_eq!(client.response().expect("the next response on the connection").status, 200);
            assert_eq!(forwarded(&origin)[0], *expected, "{shown:?}, second request on the connection");
        }
    }
    // Each connection splits the header at a different byte. The shim reads the first part before the second part
    // arrives.
    for (header, expected) in [&rows[0], &rows[3], &rows[4]] {
        let text = [header.as_slice(), get("/").as_bytes()].concat();
        let mut clients: Vec<Raw> = (1..=header.len()).map(|_| Raw::connect(shim.addr)).collect();
        for (cut, client) in (1..).zip(&mut clients) {
            client.send(&text[..cut]);
        }
        shim.wait_metrics(|metrics| {
            metrics.value("edgeshim_connections", &[])
                >= f64::from(u32::try_from(clients.len()).expect("a small number"))
        });
        std::thread::sleep(PACE);
        for (cut, client) in (1..).zip(&mut clients) {
            client.send(&text[cut..]);
            let response =
                client.response().unwrap_or_else(|why| panic!("split after {cut} bytes: no response: {why:?}"));
            assert_eq!((response.status, forwarded(&origin)[0].as_str()), (200, *expected), "split after {cut} bytes");
        }
    }
    let mut client = Raw::connect(shim.addr);
    client.send([&rows[4].0[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"].concat());
    let mut client = Frames::over(client.patient(LONG));
    client.send(SETTINGS, 0, 0, &[]);
    client.get(1, "/");
    assert!(client.ended_normally(1), "the HTTP/2 response after a PROXY header is incomplete");
    assert_eq!(forwarded(&origin)[0], "192.0.2.8");
}

#[test]
fn proxy_protocol_when_header_is_missing_or_invalid_then_no_response_is_sent() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = start(&origin, "proxy_protocol = true\nheader_timeout = \"1s\"");
    let rows: [(&str, Vec<u8>); 9] = [
        ("no header", Vec::new()),
        ("invalid addresses", b"PROXY TCP4 x y 1 2\r\n".to_vec()),
        ("unknown family", b"PROXY TCP9 192.0.2.7 198.51.100.1 1 2\r\n".to_vec()),
        ("wrong family", b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n".to_vec()),
        ("invalid port", b"PROXY TCP4 192.0.2.7 198.51.100.1 70000 80\r\n".to_vec()),
        ("lower case", b"proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n".to_vec()),
        ("no end of line", format!("PROXY UNKNOWN {}", "a".repeat(5000)).into_bytes()),
        ("wrong version", {
            let mut bytes = binary(1, 0x11, &PAIR4);
            bytes[12] = 0x31;
            bytes
        }),
        ("too short for the family", binary(1, 0x11, &PAIR4[..8])),
    ];
    for (name, header) in &rows {
        let mut client = Raw::connect(shim.addr).patient(LONG);
        client.send([header.as_slice(), get("/").as_bytes()].concat());
        let received = client.read_to_end();
        assert!(received.is_empty(), "{name}: {}", String::from_utf8_lossy(&received));
        assert!(client.closed(), "{name}: the connection is open");
    }
    wait_refused(&shim, "malformed", 9);
    // This client never completes the PROXY header.
    let mut client = Raw::connect(shim.addr).patient(LONG);
    client.send("PROXY TCP4 192.0.2.7 ");
    assert!(client.closed());
    wait_refused(&shim, "header_timeout", 1);
    assert_eq!(origin.connections(), 0);
    let plain = start(&origin, "");
    let mut client = Raw::connect(plain.addr);
    client.send("PROXY TCP4 192.0.2.7 198.51.100.1 5000 80\r\n".to_owned() + &get("/"));
    assert_eq!(
        client.response().expect("a response").status,
        400,
        "without proxy_protocol, the shim must reject a PROXY header"
    );
    assert_eq!(origin.count(), 0);
}
