//! A forwarded message is complete or visibly cut, and contains only allowed fields: tables over client and origin
//! protocols, gzip, known and unknown lengths, and methods.

mod support;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use support::frames::{
    ACK, CANCEL, DATA, END_STREAM, FrameOrigin, GOAWAY, INTERNAL_ERROR, NO_ERROR, SETTINGS, frame, head, reset,
};
use support::h2::{H2, Pieces, Received};
use support::{After, Conn, Metrics, Origin, PATIENCE, Raw, Request, Shim, frames, origin, raw, temp_dir, wait_until};

// ---- requests -------------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Http10,
    Http11,
    Http2,
}

const CLIENTS: [Client; 3] = [Client::Http10, Client::Http11, Client::Http2];

/// The body without gzip, as far as it decodes; true when the gzip stream is complete.
fn plain(received: &Received) -> (Vec<u8>, bool) {
    if received.field("content-encoding") != Some("gzip") {
        return (received.body.clone(), received.complete);
    }
    let mut plain = Vec::new();
    let ended = flate2::read::GzDecoder::new(&received.body[..]).read_to_end(&mut plain).is_ok();
    (plain, ended)
}

impl Client {
    fn get(self, shim: &Shim, target: &str, fields: &[(&str, &str)], at_head: impl FnOnce()) -> Received {
        self.ask(shim, "GET", target, fields, at_head)
    }

    /// Sends a request on its own connection; calls `at_head` when the response's head has arrived.
    fn ask(self, shim: &Shim, method: &str, target: &str, fields: &[(&str, &str)], at_head: impl FnOnce()) -> Received {
        match self {
            Self::Http2 => ask_h2(shim, method, target, fields, at_head),
            Self::Http10 => {
                let mut client = Raw::connect(shim.addr);
                client.send(text(method, target, "1.0", fields));
                let Ok(head) = client.response_head() else { return Received::default() };
                at_head();
                let (body, was_reset) = client.read_to_reset();
                let length = head.field("content-length").map(|length| length.parse::<usize>().expect("a number"));
                let complete = !was_reset && (method == "HEAD" || length.is_none_or(|length| length == body.len()));
                assert_eq!(head.field("connection"), None, "the end of the connection is the end of the response");
                Received { status: head.status, fields: head.fields, body, complete, ..Received::default() }
            }
            Self::Http11 => {
                let mut client = Raw::connect(shim.addr);
                client.send(text(method, target, "1.1", fields));
                let Ok(head) = client.response_head() else { return Received::default() };
                at_head();
                if method == "HEAD" || matches!(head.status, 204 | 304) {
                    return Received {
                        status: head.status,
                        fields: head.fields,
                        complete: true,
                        ..Received::default()
                    };
                }
                let body = client.body(&head);
                assert!(!body.complete || body.problems.is_empty(), "{target}: {:?}", body.problems);
                let (body, trailers, complete) = (body.data, body.trailers, body.complete);
                Received { status: head.status, fields: head.fields, body, trailers, complete, ..Received::default() }
            }
        }
    }
}

fn text(method: &str, target: &str, version: &str, fields: &[(&str, &str)]) -> String {
    let mut text = format!("{method} {target} HTTP/{version}\r\nHost: shim.test\r\n");
    for (name, value) in fields {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text + "\r\n"
}

fn ask_h2(shim: &Shim, method: &str, target: &str, fields: &[(&str, &str)], at_head: impl FnOnce()) -> Received {
    let mut client = H2::connect(shim.addr);
    let allowed = |field: &&(&str, &str)| field.0 != "Connection" && field.1 != "trailers, x";
    let fields: Vec<_> = fields.iter().filter(allowed).copied().collect();
    let Ok(response) = client.head(method, target, &fields, Pieces::default()) else { return Received::default() };
    at_head();
    client.rest(response)
}

const FAULTS: &str = "edgeshim_origin_faults_total";
const PULLS: &str = "edgeshim_pulls_total";

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 0.5
}

/// The faults since `before`, after the pull was counted.
fn faults_since(shim: &Shim, before: &Metrics, causes: &[&str]) -> f64 {
    let after = shim.wait_metrics(|now| now.sum(PULLS, &[]) > before.sum(PULLS, &[]) + 0.5);
    let all = after.sum(FAULTS, &[]) - before.sum(FAULTS, &[]);
    let named = |metrics: &Metrics| causes.iter().map(|cause| metrics.sum(FAULTS, &[("cause", cause)])).sum::<f64>();
    assert!(near(all, named(&after) - named(before)), "{all} faults, and not all of {causes:?}");
    all
}

/// A gate at which the origin waits until the client has the head; each opening lets one pass.
#[derive(Clone)]
struct Gate {
    open: Sender<()>,
    wait: Arc<Mutex<Receiver<()>>>,
}

impl Gate {
    fn new() -> Self {
        let (open, wait) = channel();
        Self { open, wait: Arc::new(Mutex::new(wait)) }
    }

    fn open(&self) {
        self.open.send(()).expect("a waiting origin");
    }

    fn wait(&self) {
        let _ = self.wait.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(PATIENCE);
    }
}

fn body_text() -> String {
    "Once upon a time there was a body. ".repeat(40)[..1200].to_owned()
}

// ---- ends of HTTP/2 origins -----------------------------------------------------------------------------------------

/// How the body of an HTTP/2 origin ends after its 1,200 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    EndStream,
    EndStreamThenReset,
    Trailers,
    NoError,
    Cancel,
    InternalError,
    GoAway,
    Close,
    /// END_STREAM after fewer bytes than declared.
    Short,
    /// More bytes than declared.
    Beyond,
}

impl Ending {
    const GOOD: [Self; 3] = [Self::EndStream, Self::EndStreamThenReset, Self::Trailers];
    const CUT: [Self; 7] =
        [Self::NoError, Self::Cancel, Self::InternalError, Self::GoAway, Self::Close, Self::Short, Self::Beyond];

    fn frames(self, stream: u32) -> Vec<u8> {
        match self {
            Self::EndStream | Self::Short => frame(DATA, END_STREAM, stream, b""),
            Self::EndStreamThenReset => [frame(DATA, END_STREAM, stream, b""), reset(stream, NO_ERROR)].concat(),
            Self::Trailers => head(stream, END_STREAM, &[("x-sum", "7")]),
            Self::NoError => reset(stream, NO_ERROR),
            Self::Cancel => reset(stream, CANCEL),
            Self::InternalError => reset(stream, INTERNAL_ERROR),
            Self::GoAway => frame(GOAWAY, 0, 0, &[0; 8]),
            Self::Close => Vec::new(),
            Self::Beyond => frame(DATA, END_STREAM, stream, b"and a few bytes more"),
        }
    }
}

fn respond_with(origin: &FrameOrigin, ending: Ending, length: Option<&'static str>, gate: Option<Gate>) {
    origin.does(move |stream, out: &mut TcpStream| {
        let mut fields = vec![(":status", "200"), ("content-type", "text/html"), ("etag", "\"x\"")];
        fields.extend(length.map(|length| ("content-length", length)));
        let begun = [head(stream, 0, &fields), frame(DATA, 0, stream, body_text().as_bytes())].concat();
        let end = ending.frames(stream);
        if let Some(gate) = &gate {
            out.write_all(&begun)?;
            gate.wait();
            out.write_all(&end)?;
        } else {
            out.write_all(&[begun, end].concat())?;
        }
        if matches!(ending, Ending::Close | Ending::GoAway) { Err(std::io::ErrorKind::Other.into()) } else { Ok(()) }
    });
}

fn over_http2(origin: &FrameOrigin) -> Shim {
    Shim::start(Shim::config(origin.addr).with("[origin]\nhttp2 = true\nretries = 0\n[gzip]\ntwins = \"0\""))
}

#[test]
fn body_when_http2_origin_does_not_end_stream_then_cut() {
    let origin = FrameOrigin::start();
    let shim = over_http2(&origin);
    for client in CLIENTS {
        for coding in ["identity", "gzip"] {
            for ending in Ending::CUT {
                for length in [None, Some("1200"), Some("4000")] {
                    for at_once in [false, true] {
                        let length = match (ending, length) {
                            (Ending::Short, None | Some("1200")) | (Ending::Beyond, None | Some("4000")) => continue,
                            (_, length) => length,
                        };
                        let case = format!("{client:?}, {coding}, {ending:?}, {length:?}, at once: {at_once}");
                        let gate = (!at_once).then(Gate::new);
                        respond_with(&origin, ending, length, gate.clone());
                        let before = shim.metrics();
                        let got = client.get(&shim, "/", &[("Accept-Encoding", coding)], || {
                            if let Some(gate) = &gate {
                                gate.open();
                            }
                        });
                        if got.status == 502 {
                            assert!(at_once && got.complete, "{case}: {got:?}");
                            assert_eq!(got.field("etag"), None, "{case}");
                        } else {
                            assert_eq!(got.status, 200, "{case}: {got:?}");
                            assert!(!got.complete, "{case}: looks complete");
                            let (plain, ended) = plain(&got);
                            assert!(!ended, "{case}: a complete gzip stream");
                            assert!(body_text().as_bytes().starts_with(&plain), "{case}");
                            // The last bytes of a declared length are held back until END_STREAM.
                            let waits = length == Some("1200") || coding == "gzip";
                            assert!(at_once || waits || plain.len() == 1200, "{case}: {}", plain.len());
                        }
                        // A stream that fails before its head is read has another cause.
                        let causes =
                            if got.status == 502 { &["cut", "reset", "broken_head", "closed"][..] } else { &["cut"] };
                        assert!(near(faults_since(&shim, &before, causes), 1.0), "{case}: faults");
                    }
                }
            }
        }
    }
}

#[test]
fn body_when_http2_origin_ends_stream_then_complete() {
    let origin = FrameOrigin::start();
    let shim = over_http2(&origin);
    for client in CLIENTS {
        for coding in ["identity", "gzip"] {
            for ending in Ending::GOOD {
                for length in [None, Some("1200")] {
                    for at_once in [false, true] {
                        let case = format!("{client:?}, {coding}, {ending:?}, {length:?}, at once: {at_once}");
                        let gate = (!at_once).then(Gate::new);
                        respond_with(&origin, ending, length, gate.clone());
                        let before = shim.metrics();
                        let got = client.get(&shim, "/", &[("Accept-Encoding", coding)], || {
                            if let Some(gate) = &gate {
                                gate.open();
                            }
                        });
                        assert_eq!((got.status, got.complete), (200, true), "{case}: {got:?}");
                        assert_eq!(plain(&got), (body_text().into_bytes(), true), "{case}");
                        let trailers = usize::from(ending == Ending::Trailers && client == Client::Http2);
                        assert_eq!(got.trailers.len(), trailers, "{case}");
                        assert!(near(faults_since(&shim, &before, &[]), 0.0), "{case}: faults");
                    }
                }
            }
        }
    }
}

#[test]
fn head_204_and_304_when_http2_origin_ends_them_late_then_complete() {
    let origin = FrameOrigin::start();
    let shim = over_http2(&origin);
    for client in CLIENTS {
        for (method, status) in [("HEAD", "200"), ("GET", "204"), ("GET", "304"), ("HEAD", "304")] {
            for end in [0, END_STREAM] {
                origin.does(move |stream, out| {
                    let mut fields = vec![(":status", status), ("etag", "\"x\""), ("content-type", "text/html")];
                    if status != "204" && end != 0 {
                        fields.push(("content-length", "4000"));
                    }
                    out.write_all(&head(stream, end, &fields))?;
                    if end == 0 { out.write_all(&frame(DATA, END_STREAM, stream, b"")) } else { Ok(()) }
                });
                let got = client.ask(&shim, method, "/", &[], || {});
                let case = format!("{client:?}, {method}, {status}, {end}: {got:?}");
                assert!(got.complete && got.status == status.parse::<u16>().expect("a status"), "{case}");
                assert!(got.body.is_empty() && (status != "204" || got.field("content-length").is_none()), "{case}");
            }
        }
    }
    assert!(near(shim.metrics().sum(FAULTS, &[]), 0.0));
}

// ---- uploads --------------------------------------------------------------------------------------------------------

const UPLOAD: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "shim.test")];

#[test]
fn upload_when_http2_client_resets_stream_then_incomplete_at_origin() {
    let origin = Origin::start(origin::echo());
    let shim = Shim::start(Shim::config(origin.url()));
    for code in [NO_ERROR, CANCEL, INTERNAL_ERROR] {
        for trial in 0..20 {
            let before = shim.metrics();
            let mut client = frames::connect(shim.addr);
            let pieces = [head(1, 0, &UPLOAD), frame(DATA, 0, 1, b"half of an order"), reset(1, code)];
            if trial % 2 == 0 {
                client.write_all(&pieces.concat()).expect("a write");
            } else {
                client.write_all(&pieces[..2].concat()).expect("a write");
                // The upload reaches the origin first; then the client resets it.
                assert!(wait_until(PATIENCE, || origin.connections() > 0));
                client.write_all(&pieces[2]).expect("a write");
            }
            shim.wait_metrics(|now| now.sum(PULLS, &[]) > before.sum(PULLS, &[]) + 0.5);
        }
    }
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0), "uploads are still open");
    assert!(origin.requests().iter().all(|request| !request.complete), "half an upload looks complete at the origin");
}

#[test]
fn upload_when_reset_after_early_response_then_incomplete_at_origin() {
    let (seen, uploads) = channel();
    let seen = Mutex::new(seen);
    let origin = Origin::start_at_head(move |_, conn| {
        let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n");
        let mut upload = Vec::new();
        let mut some = [0; 1024];
        while let Ok(read @ 1..) = conn.read(&mut some) {
            upload.extend_from_slice(&some[..read]);
            if upload.ends_with(b"0\r\n\r\n") {
                break;
            }
        }
        let _ = seen.lock().unwrap_or_else(PoisonError::into_inner).send(upload);
        After::Close
    });
    let shim = Shim::start(Shim::config(origin.url()));
    for code in [NO_ERROR, CANCEL] {
        for _ in 0..10 {
            let mut client = frames::connect(shim.addr);
            client.write_all(&[head(1, 0, &UPLOAD), frame(DATA, 0, 1, b"half of an order")].concat()).expect("a write");
            let answered = std::iter::from_fn(|| frames::read(&mut client)).any(|frame| frame.kind == DATA);
            assert!(answered, "the early response has begun");
            client.write_all(&reset(1, code)).expect("a write");
            let upload = uploads.recv_timeout(PATIENCE).expect("the upload ends");
            assert!(!upload.ends_with(b"0\r\n\r\n"), "{code}: half an upload looks complete at the origin");
        }
    }
}

// ---- HTTP/1.0 -------------------------------------------------------------------------------------------------------

/// An HTTP/1.1 origin that ends its body as the target `/FRAMING/END` says.
fn truncating_origin(gate: Gate) -> Origin {
    Origin::start(move |request, conn| {
        let (framing, end) = request.target[1..].split_once('/').expect("framing and end");
        let body = body_text();
        let mut message = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n".to_vec();
        let whole = end == "whole";
        match framing {
            "length" => {
                let declared = if whole { 1200 } else { 9000 };
                message.extend_from_slice(format!("Content-Length: {declared}\r\n\r\n{body}").as_bytes());
            }
            "chunked" => {
                message.extend_from_slice(format!("Transfer-Encoding: chunked\r\n\r\n4b0\r\n{body}\r\n").as_bytes());
            }
            "close" => message.extend_from_slice(format!("Connection: close\r\n\r\n{body}").as_bytes()),
            other => panic!("{other}"),
        }
        let _ = conn.write_all(&message);
        if !end.ends_with("at-once") && !whole {
            gate.wait();
        }
        match (framing, end) {
            ("chunked", "whole") => {
                let _ = conn.write_all(b"0\r\n\r\n");
                return After::Keep;
            }
            ("length", "whole") => return After::Keep,
            (_, "reset" | "reset-at-once") => conn.reset_at_close(),
            (_, "junk") => {
                let _ = conn.write_all(b"nonsense\r\n");
            }
            _ => {}
        }
        After::Close
    })
}

#[test]
fn http10_response_when_body_truncated_then_reset() {
    let gate = Gate::new();
    let origin = truncating_origin(gate.clone());
    let shim = Shim::start(Shim::config(origin.url()).with("[gzip]\ntwins = \"0\""));
    for coding in ["identity", "gzip"] {
        for connection in [None, Some("keep-alive")] {
            for target in
                ["/chunked/fin", "/chunked/reset", "/chunked/junk", "/length/fin", "/length/reset", "/close/reset"]
            {
                let case = format!("{target}, {coding}, {connection:?}");
                let mut fields = vec![("Accept-Encoding", coding)];
                fields.extend(connection.map(|connection| ("Connection", connection)));
                let mut client = Raw::connect(shim.addr);
                client.send(text("GET", target, "1.0", &fields));
                let head = client.response_head().expect("a head");
                assert_eq!(head.status, 200, "{case}");
                gate.open();
                let (body, was_reset) = client.read_to_reset();
                if let Some(length) = head.field("content-length") {
                    assert!(body.len() < length.parse().expect("a number"), "{case}");
                    assert!(head.field("content-encoding").is_none(), "{case}");
                } else {
                    assert!(was_reset, "{case}: a normal close after {} bytes", body.len());
                    assert_eq!(head.field("connection"), None, "{case}");
                }
            }
        }
    }
}

#[test]
fn http10_response_when_body_complete_then_normal_close() {
    let gate = Gate::new();
    let origin = truncating_origin(gate);
    let shim = Shim::start(Shim::config(origin.url()).with("[gzip]\ntwins = \"0\""));
    for coding in ["identity", "gzip"] {
        for target in ["/chunked/whole", "/length/whole", "/close/whole"] {
            for connection in [None, Some("keep-alive")] {
                let case = format!("{target}, {coding}, {connection:?}");
                let mut fields = vec![("Accept-Encoding", coding)];
                fields.extend(connection.map(|connection| ("Connection", connection)));
                let mut client = Raw::connect(shim.addr);
                client.send(text("GET", target, "1.0", &fields));
                let head = client.response_head().expect("a head");
                let kept = head.field("connection").is_some();
                assert_eq!(kept, connection.is_some() && head.field("content-length").is_some(), "{case}: {head:?}");
                if kept {
                    // The length marks the end, so another request follows.
                    let body = client.body(&head);
                    assert!(body.complete, "{case}");
                    client.send(text("GET", "/length/whole", "1.0", &[]));
                    assert!(client.response().expect("the next one").complete, "{case}");
                    continue;
                }
                let (body, was_reset) = client.read_to_reset();
                assert!(!was_reset, "{case}: reset");
                let got = Received { status: 200, fields: head.fields, body, complete: true, ..Received::default() };
                assert_eq!(plain(&got), (body_text().into_bytes(), true), "{case}");
            }
        }
    }
}

#[test]
fn http10_response_when_cut_on_unix_socket_then_open_until_client_closes() {
    let gate = Gate::new();
    let origin = truncating_origin(gate.clone());
    let folder = temp_dir();
    let path = folder.join("shim.sock");
    let listen = format!("[server]\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]", path.display());
    let shim = Shim::start(Shim::config(origin.url()).with(&listen));
    let mut client = Raw::connect_unix(&path).patient(Duration::from_millis(500));
    client.send(text("GET", "/chunked/fin", "1.0", &[]));
    assert_eq!(client.response_head().expect("a head").status, 200);
    gate.open();
    assert_eq!(client.more().expect("the beginning").len(), 1200);
    assert_eq!(client.end(), raw::End::Open, "a close that looks like the end of the body");
    let open = |metrics: &Metrics| metrics.sum("edgeshim_connections", &[]);
    assert!(open(&shim.metrics()) > 0.5);
    drop(client);
    shim.wait_metrics(|metrics| open(metrics) < 0.5);
    // A complete body ends with a normal close there too.
    let mut client = Raw::connect_unix(&path);
    client.send(text("GET", "/chunked/whole", "1.0", &[]));
    assert_eq!(client.response_head().expect("a head").status, 200);
    let (body, was_reset) = client.read_to_reset();
    assert_eq!((body.len(), was_reset), (1200, false));
}

#[test]
fn http10_response_when_client_stops_reading_then_reset() {
    let origin = Origin::start(origin::endless(&[b'x'; 4096]));
    let shim = Shim::start(Shim::config(origin.url()).with("[server]\nbody_timeout = \"500ms\""));
    let mut client = Raw::connect(shim.addr).patient(Duration::from_secs(20));
    client.send(text("GET", "/", "1.0", &[]));
    assert_eq!(client.response_head().expect("a head").status, 200);
    shim.wait_metrics(|metrics| metrics.sum(PULLS, &[("code", "499")]) > 0.5);
    let (_, was_reset) = client.read_to_reset();
    assert!(was_reset, "a normal close of an endless body");
}

#[test]
fn http10_response_when_complete_before_request_then_normal_close() {
    let origin = Origin::start_at_head(|_, conn| {
        let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        let _ = conn.read(&mut [0; 4096]);
        After::Keep
    });
    let shim = Shim::start(Shim::config(origin.url()).with("[server]\nbody_timeout = \"500ms\""));
    let mut client = Raw::connect(shim.addr);
    client.send("POST / HTTP/1.0\r\nHost: shim.test\r\nContent-Length: 100000\r\n\r\nten bytes.");
    assert_eq!(client.response_head().expect("a head").status, 200);
    assert_eq!(client.read_to_reset(), (b"hello".to_vec(), false));
}

#[test]
fn http10_response_when_process_killed_then_reset() {
    let gate = Gate::new();
    let origin = truncating_origin(gate);
    let shim = Shim::start(Shim::config(origin.url()));
    let mut client = Raw::connect(shim.addr);
    client.send(text("GET", "/chunked/fin", "1.0", &[]));
    assert_eq!(client.response_head().expect("a head").status, 200);
    assert_eq!(client.more().expect("the beginning").len(), 1200);
    // Dropping the shim sends SIGKILL.
    drop(shim);
    let (_, was_reset) = client.read_to_reset();
    assert!(was_reset, "a normal close");
}

// ---- failures before the first byte is sent -------------------------------------------------------------------------

#[test]
fn response_when_body_fails_at_once_then_replaced_by_page() {
    let origin = Origin::start(|request, conn| {
        let fields = "Content-Type: text/html\r\nETag: \"x\"\r\nSet-Cookie: a=b\r\nTransfer-Encoding: chunked\r\n";
        let chunk = if request.target == "/size" { "zz\r\n" } else { "ffffffffffffffffff\r\n" };
        let _ = conn.write_all(format!("HTTP/1.1 200 OK\r\n{fields}\r\n{chunk}").as_bytes());
        After::Close
    });
    let shim = Shim::start(Shim::config(origin.url()).with("[access_log]\noutput = \"stdout\""));
    for client in CLIENTS {
        for coding in ["identity", "gzip"] {
            for target in ["/size", "/overflow"] {
                let before = shim.metrics();
                let got = client.get(&shim, target, &[("Accept-Encoding", coding)], || {});
                let case = format!("{client:?}, {coding}, {target}: {got:?}");
                assert_eq!((got.status, got.complete), (502, true), "{case}");
                assert_eq!(got.field("proxy-status"), Some("edgeshim; error=http_response_incomplete"), "{case}");
                assert_eq!((got.field("etag"), got.field("set-cookie")), (None, None), "{case}");
                assert_eq!(got.field("cache-control"), Some("no-store"), "{case}");
                assert!(near(faults_since(&shim, &before, &["cut"]), 1.0), "{case}");
            }
        }
    }
    assert!(wait_until(PATIENCE, || shim.stdout().lines().count() == 12));
    for line in shim.stdout().lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        assert_eq!(
            (&line["status"], &line["origin_status"], &line["cause"]),
            (&502.into(), &200.into(), &"cut".into())
        );
    }
}

#[test]
fn response_when_second_chunk_fails_at_once_then_first_is_sent() {
    let origin = Origin::start(|_, conn| {
        let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n");
        After::Close
    });
    let shim = Shim::start(Shim::config(origin.url()));
    for client in CLIENTS {
        for _ in 0..20 {
            let got = client.get(&shim, "/", &[], || {});
            assert_eq!((got.status, got.complete), (200, false), "{client:?}: {got:?}");
        }
    }
}

// ---- Content-Length -------------------------------------------------------------------------------------------------

#[test]
fn content_length_when_list_then_one_number_forwarded_or_502() {
    let origin = Origin::start(|request, conn| {
        let (status, length) = request.target[1..].split_once('/').expect("status and length");
        let length = length.replace('_', " ").replace('|', "\r\nContent-Length: ");
        let body = if request.method == "HEAD" || matches!(status, "204" | "304") { "" } else { "ab" };
        let head = format!("HTTP/1.1 {status} \r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n{body}");
        let _ = conn.write_all(head.as_bytes());
        After::Keep
    });
    let shim = Shim::start(Shim::config(origin.url()).with("[gzip]\nmin_bytes = 0"));
    for client in CLIENTS {
        for (length, valid) in [
            ("2,_2", true),
            ("2,2,_2", true),
            ("2|2", true),
            ("2,_2|2", true),
            ("002", true),
            ("2,_002", true),
            ("2,_3", false),
            ("2|3", false),
            ("2,_x", false),
            ("2,", false),
            (",2", false),
            ("2;2", false),
            ("99999999999999999999", false),
        ] {
            for (method, status) in [("GET", 200), ("HEAD", 200), ("GET", 304), ("GET", 204)] {
                for coding in ["identity", "gzip"] {
                    let target = format!("/{status}/{length}");
                    let got = client.ask(&shim, method, &target, &[("Accept-Encoding", coding)], || {});
                    let case = format!("{client:?}, {method} {target}, {coding}: {got:?}");
                    if !valid {
                        assert_eq!((got.status, got.complete), (502, true), "{case}");
                        continue;
                    }
                    assert_eq!((got.status, got.complete), (status, true), "{case}");
                    let told = got.fields_named("content-length");
                    match (method, status, coding) {
                        (_, 200, "identity") => assert_eq!(told, ["2"], "{case}"),
                        ("GET", 200, _) => assert_eq!(plain(&got).0, b"ab", "{case}"),
                        (_, 204, _) => assert!(told.is_empty(), "{case}"),
                        _ => assert!(told.is_empty() || told == ["2"], "{case}"),
                    }
                }
            }
        }
    }
    // Over HTTP/2 h2 refuses any list.
    let origin = FrameOrigin::start();
    let shim = over_http2(&origin);
    for lengths in [&["2, 2"][..], &["2", "3"], &["2", "2"]] {
        let is_valid = lengths == ["2", "2"];
        let lengths: Vec<&'static str> = lengths.to_vec();
        origin.does(move |stream, out| {
            let mut fields = vec![(":status", "200")];
            fields.extend(lengths.iter().map(|length| ("content-length", *length)));
            out.write_all(&[head(stream, 0, &fields), frame(DATA, END_STREAM, stream, b"ab")].concat())
        });
        for client in CLIENTS {
            let got = client.get(&shim, "/", &[], || {});
            assert_eq!((got.status, got.complete), (if is_valid { 200 } else { 502 }, true), "{client:?}: {got:?}");
            assert!(!is_valid || got.fields_named("content-length") == ["2"], "{client:?}: {got:?}");
        }
    }
}

// ---- trailers -------------------------------------------------------------------------------------------------------

/// Fields that only a head may contain.
const OF_HEAD: [&str; 34] = [
    "Keep-Alive",
    "Connection",
    "Proxy-Connection",
    "Transfer-Encoding",
    "Upgrade",
    "TE",
    "Content-Length",
    "Trailer",
    "Host",
    "Max-Forwards",
    "Authorization",
    "Cookie",
    "Set-Cookie",
    "Cache-Control",
    "Expires",
    "Age",
    "Vary",
    "ETag",
    "Surrogate-Control",
    "CDN-Cache-Control",
    "Edge-Control",
    "Surrogate-Key",
    "Cache-Tag",
    "Content-Type",
    "Content-Encoding",
    "Content-Range",
    "Content-Disposition",
    "Location",
    "Retry-After",
    "Strict-Transport-Security",
    "X-CDN-Provider",
    "X-Forwarded-For",
    "Forwarded",
    "Via",
];

#[test]
fn response_trailers_when_they_contain_head_fields_then_dropped_and_body_complete() {
    let http1 = Origin::start(|request, conn| {
        let name = &request.target[1..];
        let mut message = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let body = body_text();
        message.extend_from_slice(format!("4b0\r\n{body}\r\n0\r\n{name}: timeout=5\r\n").as_bytes());
        if request.field("x-more").is_some() {
            message.extend_from_slice(b"X-Sum: 7\r\n");
        }
        message.extend_from_slice(b"\r\n");
        let _ = conn.write_all(&message);
        After::Keep
    });
    let shim = Shim::start(Shim::config(http1.url()).with("[gzip]\ntwins = \"0\""));
    for client in [Client::Http11, Client::Http2] {
        for coding in ["identity", "gzip"] {
            for name in OF_HEAD {
                for more in [false, true] {
                    let mut fields = vec![("Accept-Encoding", coding), ("TE", "trailers"), ("Connection", "te")];
                    if more {
                        fields.push(("X-More", "1"));
                    }
                    let got = client.get(&shim, &format!("/{name}"), &fields, || {});
                    let case = format!("{client:?}, {coding}, {name}, {more}: {got:?}");
                    assert_eq!((got.status, got.complete), (200, true), "{case}");
                    assert_eq!(plain(&got), (body_text().into_bytes(), true), "{case}");
                    let sum = vec![("x-sum".to_owned(), "7".to_owned())];
                    assert_eq!(got.trailers, if more { sum } else { Vec::new() }, "{case}");
                }
            }
        }
    }
    assert!(near(shim.metrics().sum(FAULTS, &[]), 0.0));
}

#[test]
fn trailers_when_not_announced_then_forwarded_to_clients_that_accept_them() {
    let origin = Origin::start(|request, conn| {
        let trailers: Vec<_> = [("X-Sum", "7"), ("Server-Timing", "db;dur=3"), ("X-Sum", "8")].to_vec();
        let announced = request.target == "/announced";
        let large = vec![b'x'; if request.target == "/large" { 3 << 20 } else { 5 }];
        let fields: &[_] = if announced { &[("Trailer", "X-Sum")] } else { &[] };
        origin::chunked(fields, &[&large], &trailers)(request, conn)
    });
    let shim = Shim::start(Shim::config(origin.url()));
    let wanted = [("x-sum", "7"), ("x-sum", "8"), ("server-timing", "db;dur=3")];
    let mut sorted: Vec<_> = wanted.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    sorted.sort();
    for target in ["/", "/announced", "/large"] {
        for client in [Client::Http11, Client::Http2] {
            let mut got = client.get(&shim, target, &[("TE", "trailers"), ("Connection", "te")], || {});
            got.trailers.sort();
            assert!(
                got.complete && got.trailers == sorted,
                "{client:?}, {target}: {:?}, {}",
                got.trailers,
                got.complete
            );
        }
        // An HTTP/1.1 client without `TE: trailers` gets none.
        let got = Client::Http11.get(&shim, target, &[], || {});
        assert!(got.complete && got.trailers.is_empty(), "{target}: {:?}", got.trailers);
    }
    // Several requests on one connection, and a client that reads late.
    let mut client = Raw::connect(shim.addr);
    for target in ["/", "/large", "/", "/announced", "/large"] {
        client.send(text("GET", target, "1.1", &[("TE", "trailers"), ("Connection", "te")]));
        if target == "/large" {
            let before = origin.bytes_written();
            wait_until(Duration::from_millis(300), || origin.bytes_written() > before + (4 << 20));
        }
        let response = client.response().expect("a response");
        assert!(response.complete && response.trailers.len() == 3, "{target}: {:?}", response.trailers);
    }
    // Two requests in one write.
    let both = text("GET", "/", "1.1", &[("TE", "trailers"), ("Connection", "te")]).repeat(2);
    client.send(both);
    for _ in 0..2 {
        let response = client.response().expect("a response");
        assert!(response.complete && response.trailers.len() == 3 && response.body == b"xxxxx", "{response:?}");
    }
}

#[test]
fn request_trailers_when_they_contain_head_fields_then_dropped() {
    let origin = Origin::start(origin::echo());
    let shim = Shim::start(Shim::config(origin.url()));
    for name in OF_HEAD {
        let mut client = Raw::connect(shim.addr);
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum, {name}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n\
             0\r\n{name}: x\r\nX-Sum: 7\r\n\r\n"
        ));
        let response = client.response().expect("a response");
        assert_eq!((response.status, response.complete), (200, true), "{name}: {response:?}");
        let seen = origin.last();
        assert_eq!((seen.trailers.len(), seen.complete), (1, true), "{name}: {:?}", seen.trailers);
    }
}

// ---- white space in HTTP/2 ------------------------------------------------------------------------------------------

#[test]
fn values_from_http2_when_white_space_at_edges_then_stripped() {
    const ODD: [(&str, &str); 5] = [("x-a", "b\t"), ("x-b", " c"), ("x-c", " \t d e\t"), ("x-d", "\t"), ("x-e", "f")];
    const CLEAN: [(&str, &str); 5] = [("x-a", "b"), ("x-b", "c"), ("x-c", "d e"), ("x-d", ""), ("x-e", "f")];
    let http1 = Origin::start(origin::echo());
    let shim = Shim::start(
        Shim::config(http1.url())
            .with("[[provider]]\nname = \"fastly\"\nverify.secret = { header = \"X-Secret\", values = [\"s3cret\"] }"),
    );
    let fields: Vec<_> = ODD.into_iter().chain([("x-cdn-provider", " fastly "), ("x-secret", "\ts3cret ")]).collect();
    let got = Client::Http2.get(&shim, "/", &fields, || {});
    assert_eq!(got.status, 200, "{got:?}");
    let seen = http1.last();
    for (name, value) in CLEAN {
        assert_eq!(seen.field(name), Some(value), "{name}");
    }
    assert_eq!(seen.field("x-cdn-provider"), Some("fastly"), "the claim and its proof are read without white space");

    let http2 = FrameOrigin::start();
    let shim = over_http2(&http2);
    http2.does(move |stream, out| {
        let mut fields = vec![(":status", "200"), ("cache-control", " max-age=5 ")];
        fields.extend(ODD);
        let trailers = [("x-sum", " 7 ")];
        out.write_all(
            &[head(stream, 0, &fields), frame(DATA, 0, stream, b"hi"), head(stream, END_STREAM, &trailers)].concat(),
        )
    });
    for client in [Client::Http11, Client::Http2] {
        let got = client.get(&shim, "/", &[("TE", "trailers"), ("Connection", "te")], || {});
        for (name, value) in CLEAN.into_iter().chain([("cache-control", "max-age=5")]) {
            assert_eq!(got.field(name), Some(value), "{client:?}, {name}: {got:?}");
        }
        assert_eq!(got.trailers, [("x-sum".to_owned(), "7".to_owned())], "{client:?}");
    }
}

// ---- heads ----------------------------------------------------------------------------------------------------------

#[test]
fn reason_when_status_unknown_then_empty_or_origins() {
    let origin = Origin::start(|request, conn| {
        let _ = conn.write_all(
            format!("HTTP/1.1 {}\r\nContent-Length: 0\r\n\r\n", request.target[1..].replace('_', " ")).as_bytes(),
        );
        After::Keep
    });
    let config = |mode: &str| format!("[[class]]\nname = \"all\"\npath = [\"*\"]\nwhoopsie = \"{mode}\"");
    for mode in ["never", "auto"] {
        let shim = Shim::start(Shim::config(origin.url()).with(&config(mode)));
        for (target, never) in
            [("/520_", "520 "), ("/530_Origin", "530 Origin"), ("/599_", "599 "), ("/200_", "200 "), ("/299_", "299 ")]
        {
            for version in ["1.0", "1.1"] {
                let mut client = Raw::connect(shim.addr);
                client.send(text("GET", target, version, &[]));
                let line = client.response_head().expect("a head").line;
                let replaced = mode == "auto" && target.starts_with("/5");
                let wanted = if replaced { format!("{} ", &target[1..4]) } else { never.to_owned() };
                assert_eq!(line, format!("HTTP/{version} {wanted}"), "{mode}");
            }
        }
    }
}

#[test]
fn post_when_without_body_then_content_length_0_at_http11_origin() {
    let origin = Origin::start(origin::echo());
    let shim = Shim::start(Shim::config(origin.url()));
    for (method, wanted) in
        [("POST", Some("0")), ("PUT", Some("0")), ("PATCH", Some("0")), ("GET", None), ("DELETE", None)]
    {
        for client in CLIENTS {
            let got = client.ask(&shim, method, "/", &[("Connection", "close")], || {});
            assert_eq!(got.status, 200, "{client:?}, {method}: {got:?}");
            let seen = origin.last();
            assert_eq!(
                (seen.field("content-length"), seen.field("transfer-encoding")),
                (wanted, None),
                "{client:?}, {method}"
            );
        }
    }
}

#[test]
fn origin_heads_when_above_configured_limits_then_502_with_cause() {
    let fields = |count: usize, bytes: usize| -> Vec<(String, String)> {
        (0..count).map(|number| (format!("x-{number:04}"), "v".repeat(bytes))).collect()
    };
    let http1 = Origin::start(move |request, conn| {
        let (count, bytes) = request.target[1..].split_once('x').expect("count and bytes");
        let fields = fields(count.parse().expect("a number"), bytes.parse().expect("a number"));
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        origin::respond(request, conn, 200, &fields, b"ok")
    });
    for (limits, cases) in [
        ("", &[("/110x5", 200), ("/127x5", 200), ("/128x5", 502), ("/90x600", 200), ("/90x900", 502)][..]),
        ("max_headers = 20", &[("/19x5", 200), ("/20x5", 502)]),
        ("max_headers = 500\nmax_header_bytes = \"256KiB\"", &[("/400x5", 200), ("/100x2000", 200), ("/501x5", 502)]),
        ("max_header_bytes = \"8KiB\"", &[("/20x300", 200), ("/20x600", 502)]),
    ] {
        let shim = Shim::start(Shim::config(http1.url()).with(&format!("[server]\n{limits}")));
        for (target, status) in cases {
            let got = Client::Http11.get(&shim, target, &[], || {});
            assert_eq!((got.status, got.complete), (*status, true), "{limits} {target}: {:?}", got.fields.len());
            if *status == 502 {
                let wanted = "edgeshim; error=http_response_header_section_size";
                assert_eq!(got.field("proxy-status"), Some(wanted), "{limits} {target}");
            }
        }
        let refused = cases.iter().filter(|(_, status)| *status == 502).count();
        let counted = shim.metrics().sum(FAULTS, &[("cause", "broken_head")]);
        assert!(near(counted, f64::from(u32::try_from(refused).expect("few"))), "{limits}: {counted}");
    }
    let http2 = FrameOrigin::start();
    for (limits, count, bytes, status) in [
        ("", 110, 5, 200),
        ("", 129, 5, 502),
        ("max_headers = 20", 21, 5, 502),
        ("max_header_bytes = \"4KiB\"", 40, 90, 502),
    ] {
        let config = format!("[origin]\nhttp2 = true\n[server]\n{limits}");
        let shim = Shim::start(Shim::config(http2.addr).with(&config));
        http2.does(move |stream, out| {
            let own = fields(count, bytes);
            let own = own.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let all: Vec<_> = [(":status", "200")].into_iter().chain(own).collect();
            out.write_all(&head(stream, END_STREAM, &all))
        });
        let got = Client::Http2.get(&shim, "/", &[], || {});
        assert_eq!(got.status, status, "{limits} {count}: {got:?}");
        if status == 502 {
            assert_eq!(
                got.field("proxy-status"),
                Some("edgeshim; error=http_response_header_section_size"),
                "{limits}"
            );
        }
    }
}

#[test]
fn odd_heads_when_origin_sends_them_then_not_forwarded() {
    let origin = Origin::start(|request, conn| {
        let message = match request.target.as_str() {
            "/cookie-304" => "HTTP/1.1 304 \r\nETag: \"x\"\r\nSet-Cookie: a=b\r\nCache-Control: max-age=60\r\n\r\n",
            "/length-204" => "HTTP/1.1 204 \r\nContent-Length: 5\r\n\r\n",
            "/early" => {
                "HTTP/1.1 103 \r\nContent-Length: 5\r\nLink: </a>\r\n\r\nHTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"
            }
            "/early-coded" => {
                "HTTP/1.1 103 \r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"
            }
            _ => "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok",
        };
        let _ = conn.write_all(message.as_bytes());
        After::Keep
    });
    let config = "[[class]]\nname = \"all\"\npath = [\"*\"]\ncache = { mode = \"default\", ttl = \"60s\" }";
    let shim = Shim::start(Shim::config(origin.url()).with(config));
    for client in CLIENTS {
        let got = client.get(&shim, "/cookie-304", &[("If-None-Match", "\"x\"")], || {});
        assert_eq!(
            (got.status, got.complete, got.field("cache-control")),
            (304, true, Some("private")),
            "{client:?}: {got:?}"
        );
        let got = client.get(&shim, "/length-204", &[], || {});
        assert_eq!((got.status, got.field("content-length"), got.complete), (204, None, true), "{client:?}: {got:?}");
        for target in ["/early", "/early-coded", "/"] {
            let got = client.get(&shim, target, &[], || {});
            assert_eq!(
                (got.status, got.body.as_slice(), got.complete),
                (200, &b"ok"[..], true),
                "{client:?}, {target}: {got:?}"
            );
            assert_eq!(got.field("link"), None, "{client:?}");
        }
    }
    let refused = raw::exchange(shim.addr, "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n");
    assert_eq!(
        (refused.status, refused.field("content-length"), refused.complete),
        (405, Some("0"), true),
        "{refused:?}"
    );
}

#[test]
fn connections_when_bodiless_response_declares_length_then_not_reused() {
    let origin = Origin::start(|request, conn| {
        let head: &[u8] = match request.target.as_str() {
            "/204-length" => b"HTTP/1.1 204 \r\nContent-Length: 5\r\n\r\n",
            "/204-chunked" => b"HTTP/1.1 204 \r\nTransfer-Encoding: chunked\r\n\r\n",
            "/205-chunked" => b"HTTP/1.1 205 \r\nTransfer-Encoding: chunked\r\n\r\n",
            _ => return origin::respond(request, conn, 200, &[], b"fine"),
        };
        let _ = conn.write_all(head);
        // The content arrives shortly after the head.
        std::thread::sleep(Duration::from_millis(5));
        let content: &[u8] = if head.ends_with(b"5\r\n\r\n") { b"hello" } else { b"5\r\nhello\r\n0\r\n\r\n" };
        let _ = conn.write_all(content);
        After::Keep
    });
    let shim = Shim::start(Shim::config(origin.url()).with("[server]\nworkers = 1\n[origin]\nretries = 0"));
    for client in CLIENTS {
        for target in ["/204-length", "/204-chunked", "/205-chunked"] {
            for _ in 0..5 {
                let got = client.get(&shim, target, &[], || {});
                let status = target[1..4].parse::<u16>().expect("a status");
                assert_eq!(
                    (got.status, got.body.len(), got.complete),
                    (status, 0, true),
                    "{client:?}, {target}: {got:?}"
                );
                let got = client.get(&shim, "/next", &[], || {});
                assert_eq!((got.status, got.body.as_slice()), (200, &b"fine"[..]), "{client:?}, after {target}");
            }
        }
    }
}

// ---- upgraded connections -------------------------------------------------------------------------------------------

/// Grants an upgrade, then does what the target says.
fn upgrading(request: &Request, conn: &mut Conn) -> After {
    let _ = conn.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello");
    let mut some = [0; 64];
    match request.target.as_str() {
        "/reset" => {
            let _ = conn.read(&mut some);
            conn.reset_at_close();
        }
        "/close" => {
            let _ = conn.read(&mut some);
        }
        _ => {
            while let Ok(read) = conn.read(&mut some) {
                if read == 0 || conn.write_all(&some[..read]).is_err() {
                    break;
                }
            }
        }
    }
    After::Close
}

fn upgraded(shim: &Shim, target: &str) -> Raw {
    let mut client = Raw::connect(shim.addr);
    client.send(text("GET", target, "1.1", &[("Connection", "upgrade"), ("Upgrade", "echo")]));
    assert_eq!(client.response_head().expect("a head").status, 101);
    let mut said = Vec::new();
    while said.len() < 5 {
        said.extend(client.more().expect("hello"));
    }
    assert_eq!(said, b"hello");
    client
}

#[test]
fn upgraded_connection_when_idle_then_closed_and_logged_with_bytes_and_time() {
    let origin = Origin::start(upgrading);
    let config = "[server]\ntunnel_timeout = \"600ms\"\n[access_log]\noutput = \"stdout\"";
    let shim = Shim::start(Shim::config(origin.url()).with(config));
    let mut client = upgraded(&shim, "/");
    for round in 0..6 {
        // Three times the timeout in total, but never silent for that long.
        std::thread::sleep(Duration::from_millis(250));
        client.send(format!("ping{round}"));
        assert_eq!(client.more().expect("an echo").len(), 5, "round {round}");
    }
    assert_eq!(shim.stdout(), "", "no line before its end");
    assert!(near(shim.metrics().sum("edgeshim_in_flight", &[]), 1.0));
    let (_, was_reset) = client.read_to_reset();
    assert!(was_reset, "a visible cut");
    assert!(wait_until(PATIENCE, || shim.stdout().lines().count() == 1));
    let line: serde_json::Value = serde_json::from_str(&shim.stdout()).expect("one line");
    assert_eq!(
        (&line["status"], &line["bytes"], &line["origin_bytes"]),
        (&101.into(), &35.into(), &35.into()),
        "{line}"
    );
    assert!(line["total_ms"].as_f64().expect("a time") > 1500.0, "{line}");
    let metrics = shim.metrics();
    assert!(
        near(metrics.sum(PULLS, &[("code", "101")]), 1.0) && near(metrics.sum("edgeshim_pull_bytes_total", &[]), 35.0)
    );
    assert!(near(metrics.sum("edgeshim_in_flight", &[]), 0.0));
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0));
}

#[test]
fn upgraded_connection_when_one_side_ends_then_other_ends_alike() {
    let origin = Origin::start(upgrading);
    let shim = Shim::start(Shim::config(origin.url()));
    for (target, reset) in [("/close", false), ("/reset", true)] {
        let mut client = upgraded(&shim, target);
        client.send("bye");
        assert_eq!(client.read_to_reset(), (Vec::new(), reset), "{target}");
    }
    let client = upgraded(&shim, "/");
    client.reset();
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0));
    shim.wait_metrics(|metrics| near(metrics.sum(PULLS, &[("code", "101")]), 3.0));
}

#[test]
fn settings_when_raw_client_connects_then_acknowledged() {
    // A test of the harness: the shim understands its frames.
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(Shim::config(origin.url()));
    let mut client = frames::connect(shim.addr);
    let acknowledged = std::iter::from_fn(|| frames::read(&mut client))
        .take(5)
        .any(|frame| frame.kind == SETTINGS && frame.flags == ACK);
    assert!(acknowledged);
}
