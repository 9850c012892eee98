//! Tests of origins that use HTTP/2 without TLS (`origin.http2`): streamed bodies, trailers, resets, GOAWAY and
//! retries.

mod support;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::frames::{ACK, END_STREAM, Frame, GOAWAY, HEADERS, PING, PREFACE, REFUSED_STREAM, SETTINGS, frame};
use support::h2::{H2, Pieces};
use support::http1;
use support::raw::{exchange, fetch, get, request, upgrade};
use support::{Origin, PATIENCE, Raw, Shim, frames, h2, origin, wait_until};

/// The longest time that a test waits for an event that is slow on a busy machine.
const LONG: Duration = Duration::from_secs(20);
const FAULTS: &str = "edgeshim_origin_faults_total";

type Reply = hyper::Response<Pieces>;

/// An HTTP/2 origin without TLS (with prior knowledge). The path of a request selects the response.
struct H2Origin {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// The number of open streams. For most paths, a stream counts only until the response is ready.
    open: Arc<AtomicUsize>,
    /// A signal that continues the response body of `/stream` or `/cut`.
    go: Sender<()>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl H2Origin {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a non-blocking listener");
        let addr = listener.local_addr().expect("the port's number");
        let (connections, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (go, gone) = channel();
        let gone = Arc::new(Mutex::new(gone));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (counting, opening) = (Arc::clone(&connections), Arc::clone(&open));
        std::thread::spawn(move || {
            let tokio = h2::runtime();
            let accepting = async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                while let Ok((stream, _)) = listener.accept().await {
                    counting.fetch_add(1, Ordering::SeqCst);
                    let leaving = Arc::new(AtomicBool::new(false));
                    let (signalled, gone, opening) = (Arc::clone(&leaving), Arc::clone(&gone), Arc::clone(&opening));
                    let service = hyper::service::service_fn(move |request| {
                        let (signalled, gone, opening) =
                            (Arc::clone(&signalled), Arc::clone(&gone), Arc::clone(&opening));
                        async move { reply(request, &signalled, gone, opening).await }
                    });
                    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service);
                    tokio::spawn(async move {
                        let mut serving = std::pin::pin!(serving);
                        std::future::poll_fn(|cx| {
                            if leaving.swap(false, Ordering::SeqCst) {
                                serving.as_mut().graceful_shutdown();
                            }
                            serving.as_mut().poll(cx)
                        })
                        .await
                    });
                }
            };
            tokio.block_on(async {
                tokio::select! { () = accepting => {}, _ = stopped => {} }
            });
        });
        Self { addr, connections, open, go, stop: Some(stop) }
    }

    fn shim(&self) -> Shim {
        Shim::start(Shim::config(self.addr).with("[server]\nworkers = 1\n[origin]\nhttp2 = true"))
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for H2Origin {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

/// Counts a stream as open until this value is dropped.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn reply(
    request: hyper::Request<Incoming>,
    leaving: &AtomicBool,
    gone: Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
    open: Arc<AtomicUsize>,
) -> Result<Reply, std::io::Error> {
    open.fetch_add(1, Ordering::SeqCst);
    let open = Open(open);
    let (head, body) = request.into_parts();
    let mut pieces = Pieces::default();
    match head.uri.path() {
        "/reset" => return Err(std::io::Error::other("reset")),
        "/hang" => std::future::pending::<()>().await,
        "/cut" => {
            pieces.frames.push_back(Bytes::from_static(b"first"));
            pieces.later = Some(gone);
            pieces.breaks = true;
        }
        "/stream" => {
            pieces.frames.push_back(Bytes::from_static(b"first"));
            pieces.later = Some(gone);
        }
        "/endless" => {
            pieces.endless = true;
            pieces.guard = Some(Box::new(open));
        }
        "/leave" => leaving.store(true, Ordering::SeqCst),
        _ => {
            let fields: Vec<(String, String)> = head
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect();
            let body = body.collect().await.map_err(std::io::Error::other)?;
            let trailers = body.trailers().is_some_and(|trailers| trailers.contains_key("x-sum"));
            let json = serde_json::json!({
                "method": head.method.as_str(),
                "target": head.uri.to_string(),
                "version": format!("{:?}", head.version),
                "fields": fields,
                "trailers": trailers,
                "body": String::from_utf8_lossy(&body.to_bytes()),
            });
            pieces.frames.push_back(Bytes::from(json.to_string()));
            if trailers {
                let mut back = hyper::HeaderMap::new();
                back.insert("x-sum", "down".parse().expect("a valid field value"));
                pieces.trailers = Some(back);
            }
        }
    }
    Ok(hyper::Response::new(pieces))
}

#[test]
fn http2_origin_when_clients_use_http1_and_http2_then_all_requests_share_a_connection() {
    let origin = H2Origin::start();
    let shim = origin.shim();
    let response = fetch(shim.addr, "/a?b=c", &[("X-A", "b"), ("Connection", "close, X-Hop"), ("X-Hop", "1")]);
    assert_eq!(response.status, 200, "{response:?}");
    let seen = response.json();
    assert_eq!((seen["method"].as_str(), seen["version"].as_str()), (Some("GET"), Some("HTTP/2.0")));
    assert_eq!(seen["target"], format!("http://{}/a?b=c", shim.addr));
    let names: Vec<_> =
        seen["fields"].as_array().expect("a list of fields").iter().filter_map(|field| field[0].as_str()).collect();
    assert!(names.contains(&"x-a") && names.contains(&"via"), "{names:?}");
    for hop in ["connection", "host", "x-hop", "te", "transfer-encoding", "upgrade"] {
        assert!(!names.contains(&hop), "the origin must not receive {hop}: {names:?}");
    }
    let mut client = Raw::connect(shim.addr);
    for (framing, body) in [
        ("Content-Length: 5\r\n\r\nhello", "hello"),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\n ho\r\n0\r\n\r\n", "hello ho"),
        ("Content-Length: 0\r\n\r\n", ""),
    ] {
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}"));
        let response = client.response().expect("a response");
        assert_eq!((response.status, response.json()["body"].as_str()), (200, Some(body)), "{framing}");
        assert!(response.complete && response.problems.is_empty(), "{response:?}");
    }
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_to_head().expect("a response").status, 200);
    client.send(upgrade("websocket"));
    assert_eq!(
        client.response().expect("a response").status,
        200,
        "HTTP/2 has no Upgrade, so the origin responds normally"
    );
    let mut client = H2::connect(shim.addr);
    assert_eq!(client.ask("GET", "/", &[], Pieces::default()).status, 200);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn requests_when_no_connection_is_open_then_share_one_new_connection() {
    let origin = H2Origin::start();
    let shim = origin.shim();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..30).map(|_| scope.spawn(|| fetch(shim.addr, "/", &[]).status)).collect();
        for client in clients {
            assert_eq!(client.join().expect("a client"), 200);
        }
    });
    assert_eq!(origin.connections(), 1, "each request must not open a connection of its own");
}

#[test]
fn connection_when_idle_for_the_idle_timeout_then_is_closed() {
    let origin = H2Origin::start();
    let keys = "[server]\nworkers = 1\n[origin]\nhttp2 = true\nidle_timeout = \"200ms\"";
    let shim = Shim::start(Shim::config(origin.addr).with(keys));
    for connections in 1..=2 {
        assert_eq!(fetch(shim.addr, "/", &[]).status, 200);
        assert_eq!(origin.connections(), connections);
        shim.wait_metrics(|now| now.value("edgeshim_origin_connections", &[]) < 0.5);
    }
}

#[test]
fn stream_when_origin_uses_http2_then_first_chunk_and_trailers_are_forwarded() {
    let origin = H2Origin::start();
    let shim = origin.shim();
    let mut client = Raw::connect(shim.addr);
    client.send(get("/stream"));
    assert_eq!(client.response_head().expect("a head").status, 200);
    assert_eq!(client.some("the first chunk"), b"5\r\nfirst\r\n");
    origin.go.send(()).expect("the origin still runs");
    let mut rest = Vec::new();
    while !rest.ends_with(b"0\r\n\r\n") {
        rest.extend(client.some("the rest of the body"));
    }
    assert_eq!(rest, b"4\r\nlast\r\n0\r\n\r\n");

    // gRPC sends trailers, but no Trailer field that announces the trailers.
    let mut client = H2::connect(shim.addr);
    let mut trailers = hyper::HeaderMap::new();
    trailers.insert("x-sum", "up".parse().expect("a valid field value"));
    let body = Pieces { frames: [Bytes::from_static(b"hi")].into(), trailers: Some(trailers), ..Pieces::default() };
    let response = client.ask("POST", "/", &[("te", "trailers")], body);
    let seen: serde_json::Value = serde_json::from_slice(&response.body).expect("valid JSON");
    assert_eq!((seen["body"].as_str(), seen["trailers"].as_bool()), (Some("hi"), Some(true)), "{seen}");
    let te = seen["fields"].as_array().expect("a list of fields").iter().find(|field| field[0] == "te");
    assert_eq!(te.and_then(|field| field[1].as_str()), Some("trailers"), "{seen}");
    let sum = http1::find(&response.trailers, "x-sum");
    assert_eq!(sum, Some("down"), "{response:?}");
}

#[test]
fn http2_origin_when_stream_is_reset_then_shim_sends_502_or_truncates_the_body() {
    let origin = H2Origin::start();
    let shim = origin.shim();
    let response = fetch(shim.addr, "/reset", &[]);
    assert_eq!(response.status, 502);
    assert!(response.field("proxy-status").is_some_and(|value| value.starts_with("edgeshim; error=")), "{response:?}");
    let faults = shim.metrics();
    assert!((faults.sum(FAULTS, &[]) - 1.0).abs() < 0.1, "{}", faults.text);
    let mut client = Raw::connect(shim.addr);
    client.send(get("/cut"));
    assert_eq!(client.response_head().expect("a head").status, 200);
    assert_eq!(client.some("the first chunk"), b"5\r\nfirst\r\n");
    origin.go.send(()).expect("the origin still runs");
    let rest = client.read_to_end();
    assert!(!rest.windows(3).any(|piece| piece == b"0\r\n"), "the truncated body looks complete: {rest:?}");
    assert!(client.closed(), "the connection is still open");
    shim.wait_metrics(|now| (now.sum(FAULTS, &[("cause", "cut")]) - 1.0).abs() < 0.1);
    let mut client = H2::connect(shim.addr);
    let response = client.head("GET", "/cut", &[], Pieces::default()).expect("a head");
    origin.go.send(()).expect("the origin still runs");
    let response = client.rest(response);
    assert!(!response.complete, "the truncated body looks complete: {response:?}");
    shim.wait_metrics(|now| (now.sum(FAULTS, &[("cause", "cut")]) - 2.0).abs() < 0.1);
    assert_eq!(fetch(shim.addr, "/", &[]).status, 200);
    assert_eq!(origin.connections(), 1, "the shim made a new connection after a reset stream");
}

#[test]
fn http2_origin_when_client_disconnects_then_shim_resets_the_stream() {
    let origin = H2Origin::start();
    let shim = origin.shim();
    for target in ["/hang", "/endless"] {
        let mut client = Raw::connect(shim.addr);
        client.send(get(target));
        assert!(wait_until(PATIENCE, || origin.open.load(Ordering::SeqCst) == 1), "{target} did not reach the origin");
        if target == "/endless" {
            assert_eq!(client.response_head().expect("a head").status, 200);
        }
        drop(client);
        assert!(wait_until(PATIENCE, || origin.open.load(Ordering::SeqCst) == 0), "{target}: the stream is still open");
    }
    shim.wait_aborts(2);
    assert_eq!(fetch(shim.addr, "/", &[]).status, 200);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn http2_origin_when_goaway_is_sent_then_later_requests_use_a_new_connection() {
    let origin = H2Origin::start();
    let shim = origin.shim();
    for round in 1..=5 {
        assert_eq!(fetch(shim.addr, "/leave", &[]).status, 200, "round {round}");
        let post = "POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
        let response = exchange(shim.addr, post);
        assert_eq!((response.status, response.json()["body"].as_str()), (200, Some("hi")), "round {round}");
    }
    assert!(origin.connections() > 1, "the shim made no new connection after the GOAWAY");
    shim.wait_metrics(|now| (now.value("edgeshim_origin_connections", &[]) - 1.0).abs() < 0.1);
}

#[test]
fn http2_origin_when_response_is_in_http1_then_shim_sends_502() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = Shim::start(Shim::config(origin.url()).with("[origin]\nhttp2 = true\nconnect_timeout = \"500ms\""));
    let response = fetch(shim.addr, "/", &[]);
    assert_eq!(response.status, 502);
    assert_eq!(response.field("proxy-status"), Some("edgeshim; error=http_protocol_error"), "{response:?}");
}

/// Starts an origin that sends hand-written HTTP/2 frames. Each entry of `connections` selects the behaviour of one
/// connection:
///
/// - "stream" and "goaway" report that the first request has not been processed (RFC 9113 §8.7).
/// - "goaway to four" reports at the fourth request that no request has been processed.
/// - "die" closes the connection when the second request arrives.
/// - "mute" sends no response.
///
/// All other requests get 200. Returns the address and a counter of the received request heads.
fn by_hand(connections: &'static [&'static str]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let addr = listener.local_addr().expect("the port's number");
    let heads = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&heads);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().take(connections.len() + 1).flatten().enumerate() {
            let how = connections.get(number).copied().unwrap_or_default();
            let counting = Arc::clone(&counting);
            std::thread::spawn(move || serve_frames(stream, how, &counting));
        }
    });
    (addr, heads)
}

/// Serves one connection until the connection ends or an error occurs. Then returns `None`.
fn serve_frames(mut stream: TcpStream, how: &str, heads: &AtomicUsize) -> Option<()> {
    stream.set_read_timeout(Some(LONG)).ok()?;
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).ok()?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).ok()?;
    let (mut first, mut count) = (true, 0);
    loop {
        let Frame { kind, flags, stream: id, payload } = frames::read(&mut stream)?;
        match kind {
            HEADERS => {
                heads.fetch_add(1, Ordering::SeqCst);
                count += 1;
                if how == "mute" || (how == "goaway to four" && count < 4) {
                    continue;
                }
                let response = match how {
                    "goaway to four" => frame(GOAWAY, 0, 0, &[0; 8]),
                    "die" if !first => return None,
                    "stream" if first => frames::reset(id, REFUSED_STREAM),
                    // The payload contains NO_ERROR and the last processed stream 0, so no request was processed.
                    "goaway" if first => frame(GOAWAY, 0, 0, &[0; 8]),
                    _ => frames::head(id, END_STREAM, &[(":status", "200")]),
                };
                stream.write_all(&response).ok()?;
                first = false;
            }
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[])).ok()?,
            PING if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload)).ok()?,
            _ => {}
        }
    }
}

fn by_hand_shim(addr: SocketAddr, retries: u32) -> Shim {
    let config = format!("[server]\nworkers = 1\n[origin]\nhttp2 = true\nretries = {retries}");
    Shim::start(Shim::config(addr).with(&config))
}

#[test]
fn request_when_http2_origin_refuses_without_processing_then_retried() {
    for how in [&["stream"][..], &["goaway"]] {
        for method in ["GET", "POST"] {
            let (addr, heads) = by_hand(how);
            let shim = by_hand_shim(addr, 1);
            let response = exchange(shim.addr, request(method, "/", &[], b""));
            assert_eq!(response.status, 200, "{method}, {how:?}: the shim did not send the request again");
            assert_eq!(heads.load(Ordering::SeqCst), 2, "{method}, {how:?}");
            assert!(shim.metrics().sum(FAULTS, &[]) < 0.5, "{method}, {how:?}: a retried request counts as a fault");
        }
    }
    let (addr, heads) = by_hand(&["stream"]);
    assert_eq!(fetch(by_hand_shim(addr, 0).addr, "/", &[]).status, 502, "retried in spite of `retries = 0`");
    assert_eq!(heads.load(Ordering::SeqCst), 1);
}

#[test]
fn requests_when_http2_connection_goes_away_then_share_one_new_connection() {
    // The origin accepts two connections.
    let (addr, heads) = by_hand(&["goaway to four"]);
    let shim = by_hand_shim(addr, 1);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = Raw::connect(shim.addr).patient(LONG);
            client.send(get("/"));
            client
        })
        .collect();
    for mut client in clients {
        assert_eq!(client.response().expect("a response").status, 200);
    }
    assert_eq!(heads.load(Ordering::SeqCst), 8);
}

#[test]
fn http2_connection_when_response_times_out_then_next_request_uses_a_new_connection() {
    let (addr, heads) = by_hand(&["mute"]);
    let config = "[server]\nworkers = 1\n[origin]\nhttp2 = true\nresponse_timeout = \"300ms\"";
    let shim = Shim::start(Shim::config(addr).with(config));
    assert_eq!(fetch(shim.addr, "/", &[]).status, 504);
    assert_eq!(fetch(shim.addr, "/", &[]).status, 200);
    assert_eq!(heads.load(Ordering::SeqCst), 2);
}

#[test]
fn request_when_reused_http2_connection_closes_then_get_is_retried_and_post_is_not() {
    for (method, body, status, times) in [("GET", "", 200, 3), ("POST", "hi", 502, 2), ("POST", "", 502, 2)] {
        let (addr, heads) = by_hand(&["die"]);
        let shim = by_hand_shim(addr, 1);
        assert_eq!(fetch(shim.addr, "/", &[]).status, 200);
        let response = exchange(shim.addr, request(method, "/", &[], body.as_bytes()));
        assert_eq!(response.status, status, "{method} {body:?}");
        assert_eq!(heads.load(Ordering::SeqCst), times, "{method} {body:?}");
    }
}
