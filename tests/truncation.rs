//! Tests of truncated responses and uploads. If a body does not arrive complete, the receiver must be able to see that
//! the body is truncated. The tests cover all protocols of clients and origins, gzip, and known and unknown lengths.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use support::clients::{CLIENTS, Client, plain, text};
use support::frames::{CANCEL, DATA, END_STREAM, FrameOrigin, GOAWAY, INTERNAL_ERROR, NO_ERROR, frame, head, reset};
use support::h2::Received;
use support::{After, Metrics, Origin, PATIENCE, Raw, Shim, frames, origin, raw, temp_dir, wait_until};

const FAULTS: &str = "edgeshim_origin_faults_total";
const PULLS: &str = "edgeshim_pulls_total";

/// Waits until a pull is counted after `before`. Returns the number of faults after `before`. Panics if a fault has a
/// cause that is not in `causes`.
fn faults_since(shim: &Shim, before: &Metrics, causes: &[&str]) -> u64 {
    let after = shim.wait_metrics(|now| now.count(PULLS, &[]) > before.count(PULLS, &[]));
    let all = after.count(FAULTS, &[]) - before.count(FAULTS, &[]);
    let named = |metrics: &Metrics| causes.iter().map(|cause| metrics.count(FAULTS, &[("cause", cause)])).sum::<u64>();
    assert_eq!(all, named(&after) - named(before), "a fault has a cause that is not in {causes:?}");
    all
}

/// A gate at which the origin waits until the client has received the head. Each opening lets one response continue.
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
        self.open.send(()).expect("a receiver at the gate");
    }

    fn wait(&self) {
        let _ = self.wait.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(PATIENCE);
    }
}

fn body_text() -> String {
    "Once upon a time there was a body. ".repeat(40)[..1200].to_owned()
}

// ---- ends of bodies from HTTP/2 origins -----------------------------------------------------------------------------

/// What an HTTP/2 origin sends after 1,200 bytes of a body.
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
    /// `END_STREAM`, although Content-Length declares more than 1,200 bytes.
    Short,
    /// More bytes, although Content-Length declares 1,200 bytes.
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

#[test]
fn response_when_http2_origin_body_fails_then_is_incomplete_or_replaced_by_page() {
    let origin = FrameOrigin::start();
    let shim = origin.shim();
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
                            assert!(!got.complete, "{case}: the response looks complete");
                            let (plain, ended) = plain(&got);
                            assert!(!ended, "{case}: the gzip stream looks complete");
                            assert!(body_text().as_bytes().starts_with(&plain), "{case}");
                            // If the body has the declared length, the shim sends the last bytes only after END_STREAM.
                            // The compressor also delays bytes.
                            let waits = length == Some("1200") || coding == "gzip";
                            assert!(
                                at_once || waits || plain.len() == 1200,
                                "{case}: the client got only {} of 1200 bytes",
                                plain.len()
                            );
                        }
                        // If the stream fails before the shim has read the head, the cause is not always `cut`.
                        let causes =
                            if got.status == 502 { &["cut", "reset", "broken_head", "closed"][..] } else { &["cut"] };
                        assert_eq!(faults_since(&shim, &before, causes), 1, "{case}: the number of faults");
                    }
                }
            }
        }
    }
}

#[test]
fn response_when_http2_origin_ends_the_stream_then_is_complete() {
    let origin = FrameOrigin::start();
    let shim = origin.shim();
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
                        assert_eq!(faults_since(&shim, &before, &[]), 0, "{case}: the number of faults");
                    }
                }
            }
        }
    }
}

#[test]
fn bodiless_response_when_end_stream_is_in_head_or_in_later_frame_then_is_complete() {
    let origin = FrameOrigin::start();
    let shim = origin.shim();
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
    assert_eq!(shim.metrics().count(FAULTS, &[]), 0);
}

// ---- uploads --------------------------------------------------------------------------------------------------------

const UPLOAD: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "shim.test")];

#[test]
fn upload_when_http2_client_resets_the_stream_then_is_incomplete_at_origin() {
    let origin = Origin::start(origin::echo());
    let shim = Shim::start(Shim::config(origin.url()));
    for code in [NO_ERROR, CANCEL, INTERNAL_ERROR] {
        for trial in 0..20 {
            let before = shim.metrics();
            let received = origin.connections();
            let mut client = frames::connect(shim.addr);
            let pieces = [head(1, 0, &UPLOAD), frame(DATA, 0, 1, b"half of an order"), reset(1, code)];
            if trial % 2 == 0 {
                client.write_all(&pieces.concat()).expect("the client can send");
            } else {
                client.write_all(&pieces[..2].concat()).expect("the client can send");
                // The client resets the stream only after the shim has connected to the origin.
                assert!(wait_until(PATIENCE, || origin.connections() > received));
                client.write_all(&pieces[2]).expect("the client can send");
            }
            shim.wait_metrics(|now| now.sum(PULLS, &[]) > before.sum(PULLS, &[]) + 0.5);
        }
    }
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0), "a connection to the origin is still open");
    assert!(
        origin.requests().iter().all(|request| !request.complete),
        "a truncated upload looks complete to the origin"
    );
}

#[test]
fn upload_when_reset_after_early_response_then_is_incomplete_at_origin() {
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
            let begun = [head(1, 0, &UPLOAD), frame(DATA, 0, 1, b"half of an order")].concat();
            client.write_all(&begun).expect("the client can send");
            let has_data = std::iter::from_fn(|| frames::read(&mut client)).any(|frame| frame.kind == DATA);
            assert!(has_data, "the early response did not arrive");
            client.write_all(&reset(1, code)).expect("the client can send");
            let upload = uploads.recv_timeout(PATIENCE).expect("the upload that the origin received");
            assert!(
                !upload.ends_with(b"0\r\n\r\n"),
                "error code {code}: a truncated upload looks complete to the origin"
            );
        }
    }
}

// ---- HTTP/1.0 -------------------------------------------------------------------------------------------------------

/// Starts an HTTP/1.1 origin. The request target has the form `/FRAMING/END`. `FRAMING` selects how the body is framed,
/// and `END` selects how the body ends.
fn truncating_origin(gate: Gate) -> Origin {
    Origin::start(move |request, conn| {
        let (framing, end) = request.target[1..].split_once('/').expect("a target of the form /FRAMING/END");
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
            other => panic!("the framing {other:?} in the target is unknown"),
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
fn http10_response_when_truncated_then_connection_is_reset_or_body_is_too_short() {
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
                    assert!(
                        was_reset,
                        "{case}: the shim closed the connection without a reset, after {} bytes",
                        body.len()
                    );
                    assert_eq!(head.field("connection"), None, "{case}");
                }
            }
        }
    }
}

#[test]
fn http10_response_when_complete_then_connection_is_not_reset() {
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
                    // Content-Length shows where the body ends, so the connection can serve another request.
                    let body = client.body(&head);
                    assert!(body.complete, "{case}");
                    client.send(text("GET", "/length/whole", "1.0", &[]));
                    assert!(client.response().expect("the next response").complete, "{case}");
                    continue;
                }
                let (body, was_reset) = client.read_to_reset();
                assert!(!was_reset, "{case}: the shim reset the connection after a complete body");
                let got = Received { status: 200, fields: head.fields, body, complete: true, ..Received::default() };
                assert_eq!(plain(&got), (body_text().into_bytes(), true), "{case}");
            }
        }
    }
}

#[test]
fn http10_unix_connection_when_body_is_truncated_then_stays_open_until_client_closes() {
    let gate = Gate::new();
    let origin = truncating_origin(gate.clone());
    let folder = temp_dir();
    let path = folder.join("shim.sock");
    let listen = format!("[server]\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]", path.display());
    let shim = Shim::start(Shim::config(origin.url()).with(&listen));
    let mut client = Raw::connect_unix(&path);
    client.send(text("GET", "/chunked/fin", "1.0", &[]));
    assert_eq!(client.response_head().expect("a head").status, 200);
    gate.open();
    assert_eq!(client.more().expect("the first bytes of the body").len(), 1200);
    let mut client = client.patient(Duration::from_millis(500));
    assert_eq!(client.end(), raw::End::Open, "the truncated body must not end with a close");
    let open = |metrics: &Metrics| metrics.sum("edgeshim_connections", &[]);
    assert!(open(&shim.metrics()) > 0.5);
    drop(client);
    shim.wait_metrics(|metrics| open(metrics) < 0.5);
    // After a complete body, the shim closes a connection on a Unix socket normally.
    let mut client = Raw::connect_unix(&path);
    client.send(text("GET", "/chunked/whole", "1.0", &[]));
    assert_eq!(client.response_head().expect("a head").status, 200);
    let (body, was_reset) = client.read_to_reset();
    assert_eq!((body.len(), was_reset), (1200, false));
}

#[test]
fn http10_response_when_client_stops_reading_then_connection_is_reset() {
    let origin = Origin::start(origin::endless(&[b'x'; 4096]));
    let shim = Shim::start(Shim::config(origin.url()).with("[server]\nbody_timeout = \"500ms\""));
    let mut client = Raw::connect(shim.addr).patient(Duration::from_secs(20));
    client.send(text("GET", "/", "1.0", &[]));
    assert_eq!(client.response_head().expect("a head").status, 200);
    shim.wait_metrics(|metrics| metrics.sum(PULLS, &[("code", "499")]) > 0.5);
    let (_, was_reset) = client.read_to_reset();
    assert!(was_reset, "the shim closed the connection normally before the end of the body");
}

#[test]
fn http10_response_when_complete_before_upload_ends_then_connection_is_not_reset() {
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
fn http10_response_when_shim_is_killed_then_connection_is_reset() {
    let gate = Gate::new();
    let origin = truncating_origin(gate);
    let shim = Shim::start(Shim::config(origin.url()));
    let mut client = Raw::connect(shim.addr);
    client.send(text("GET", "/chunked/fin", "1.0", &[]));
    assert_eq!(client.response_head().expect("a head").status, 200);
    assert_eq!(client.more().expect("the first bytes of the body").len(), 1200);
    // The drop kills the shim with SIGKILL.
    drop(shim);
    let (_, was_reset) = client.read_to_reset();
    assert!(was_reset, "the connection was closed normally before the end of the body");
}

// ---- invalid chunks from the origin ---------------------------------------------------------------------------------

#[test]
fn response_when_first_chunk_is_invalid_then_replaced_by_page() {
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
                assert_eq!(faults_since(&shim, &before, &["cut"]), 1, "{case}");
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
fn response_when_second_chunk_is_invalid_then_head_is_sent_and_body_is_incomplete() {
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
