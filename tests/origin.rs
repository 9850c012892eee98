//! Tests of the forwarding to an HTTP/1.1 origin: reused connections, retries, clients that disconnect, streaming with
//! back-pressure, upgrades, Host, and every framing of a response. `tests/origin_http2.rs` covers HTTP/2 origins.

mod support;

use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use support::h2::{H2, Pieces};
use support::http1::{self, Framing};
use support::raw::{exchange, fetch, get, request, upgrade};
use support::{After, Conn, Origin, PATIENCE, Raw, Request, Shim, origin, temp_dir, wait_until};

/// The longest time that a test waits for an event that is slow on a busy machine.
const LONG: Duration = Duration::from_secs(20);
const PULLS: &str = "edgeshim_pulls_total";
const FAULTS: &str = "edgeshim_origin_faults_total";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn one_worker(origin: &Origin) -> support::Config {
    Shim::config(origin.url()).with("[server]\nworkers = 1")
}

// ---- connections that close -----------------------------------------------------------------------------------------

/// Starts an origin that responds to the first request on each connection. When the second request on the connection
/// has arrived, the origin closes the connection.
fn closing_on_reuse() -> Origin {
    let served = Mutex::new(BTreeMap::<usize, usize>::new());
    Origin::start(move |request, conn| {
        let mut served = lock(&served);
        let count = served.entry(request.connection).or_default();
        *count += 1;
        if *count > 1 {
            return After::Close;
        }
        drop(served);
        origin::respond(request, conn, 200, &[], b"hi")
    })
}

/// Sends `total` requests over eight connections. Returns the status for each target.
fn send_many(shim: &Shim, method: &str, total: usize) -> BTreeMap<String, u16> {
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let (addr, method) = (shim.addr, method.to_owned());
            std::thread::spawn(move || {
                let mut client = Raw::connect(addr).patient(LONG);
                let mut statuses = Vec::new();
                for number in (thread..total).step_by(8) {
                    let target = format!("/{method}/{number}");
                    let length = if method == "POST" { "Content-Length: 5\r\n\r\nhello" } else { "\r\n" };
                    client.send(format!("{method} {target} HTTP/1.1\r\nHost: shim.test\r\n{length}"));
                    let response = client.response().unwrap_or_else(|why| panic!("{target}: no response: {why:?}"));
                    assert!(response.complete && response.problems.is_empty(), "{target}: {response:?}");
                    statuses.push((target, response.status));
                }
                statuses
            })
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().expect("the client's thread")).collect()
}

fn count_of(statuses: &BTreeMap<String, u16>, status: u16) -> usize {
    statuses.values().filter(|&&have| have == status).count()
}

#[test]
fn get_requests_when_connections_close_on_reuse_then_all_get_200() {
    let origin = closing_on_reuse();
    let shim = Shim::start(Shim::config(origin.url()));
    let statuses = send_many(&shim, "GET", 4000);
    assert_eq!(count_of(&statuses, 200), 4000, "some requests did not get 200");
    assert!(origin.count() > 5000, "too few connections closed on reuse: the origin got {} requests", origin.count());
    assert!(shim.metrics().sum(FAULTS, &[]) < 0.5, "a retried request counts as a fault");
}

#[test]
fn get_requests_when_connections_close_after_responses_then_all_get_200() {
    for (late, total) in [(false, 3000), (true, 3000)] {
        let origin = Origin::start(move |request, conn| {
            origin::respond(request, conn, 200, &[], b"hi");
            if late {
                // The random delay makes it likely that the close and the next request happen at the same time.
                std::thread::sleep(Duration::from_micros(u64::from(fastrand::u16(0..800))));
            }
            After::Close
        });
        let shim = Shim::start(Shim::config(origin.url()));
        let statuses = send_many(&shim, "GET", total);
        assert_eq!(count_of(&statuses, 200), total, "late = {late}: some requests did not get 200");
    }
}

#[test]
fn post_requests_when_connections_close_then_no_request_reaches_the_origin_twice() {
    let closing = Origin::start(|request, conn| {
        origin::respond(request, conn, 200, &[], b"hi");
        std::thread::sleep(Duration::from_micros(u64::from(fastrand::u16(0..800))));
        After::Close
    });
    for (origin, name) in [(closing_on_reuse(), "closes on reuse"), (closing, "closes after responses")] {
        let shim = Shim::start(Shim::config(origin.url()));
        let statuses = send_many(&shim, "POST", 500);
        let mut arrived = BTreeMap::<String, usize>::new();
        for request in origin.requests() {
            *arrived.entry(request.target).or_default() += 1;
        }
        for (target, status) in &statuses {
            let times = arrived.get(target).copied().unwrap_or(0);
            assert!(times <= 1, "{name}: {target} reached the origin {times} times");
            assert!(
                *status == 502 || (*status == 200 && times == 1),
                "{name}: {target} got {status} and reached the origin {times} times"
            );
        }
        if name == "closes on reuse" {
            assert!(count_of(&statuses, 502) > 0, "{name}: no POST got 502");
        }
    }
}

#[test]
fn idempotent_request_when_connection_closes_then_retried_only_without_a_body() {
    let origin = closing_on_reuse();
    let shim = Shim::start(one_worker(&origin));
    let put = "PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(fetch(shim.addr, "/", &[]).status, 200);
    assert_eq!(exchange(shim.addr, put).status, 502, "the shim cannot send a streamed body again");
    assert_eq!(origin.requests().iter().filter(|request| request.target == "/put").count(), 1);
    assert_eq!(fetch(shim.addr, "/", &[]).status, 200);
    let delete = "DELETE /delete HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(exchange(shim.addr, delete).status, 200, "the shim must retry a DELETE without a body");
    assert_eq!(origin.requests().iter().filter(|request| request.target == "/delete").count(), 2);
}

#[test]
fn retries_when_set_to_zero_then_no_request_is_sent_twice() {
    let origin = closing_on_reuse();
    let shim = Shim::start(one_worker(&origin).with("[origin]\nretries = 0"));
    let statuses: Vec<u16> = (0..6).map(|number| fetch(shim.addr, &format!("/{number}"), &[]).status).collect();
    assert_eq!(statuses, [200, 502, 200, 502, 200, 502]);
    assert_eq!(origin.count(), 6);
}

#[test]
fn new_connection_when_closed_without_a_response_then_request_gets_502_without_retry() {
    let origin = Origin::start(origin::hang_up());
    let shim = Shim::start(one_worker(&origin).with("[origin]\nretries = 3"));
    assert_eq!(fetch(shim.addr, "/", &[]).status, 502);
    assert_eq!(origin.count(), 1, "the shim sent the request again after a new connection was closed");
}

#[test]
fn response_when_extra_bytes_follow_then_extra_bytes_are_never_served() {
    let origin = Origin::start(|_, conn: &mut Conn| {
        let first = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        let second = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
        if conn.write_all(&[&first[..], second].concat()).is_ok() { After::Keep } else { After::Close }
    });
    let shim = Shim::start(one_worker(&origin));
    let mut client = Raw::connect(shim.addr);
    for number in 0..20 {
        client.send(get(&format!("/{number}")));
        let response = client.response().expect("a response");
        assert_eq!((response.status, response.text().as_str()), (200, "hi"), "request {number}");
    }
}

// ---- the pool -------------------------------------------------------------------------------------------------------

#[test]
fn origin_connection_when_response_is_complete_then_reused() {
    let origin = Origin::start(|request, conn| match request.target.rsplit('/').next() {
        Some("chunked") => origin::chunked(&[], &[b"a", b"bc"], &[])(request, conn),
        Some("trailers") => origin::chunked(&[("Trailer", "X-T")], &[b"abc"], &[("X-T", "1")])(request, conn),
        Some("204") => origin::respond(request, conn, 204, &[], b""),
        Some("304") => origin::respond(request, conn, 304, &[("ETag", "\"a\"")], b""),
        Some("500") => origin::respond(request, conn, 500, &[], b"broken"),
        _ => origin::respond(request, conn, 200, &[], b"abc"),
    });
    let shim = Shim::start(one_worker(&origin));
    for kind in ["length", "chunked", "204", "304", "500", "head", "post", "trailers"] {
        let before = origin.connections();
        let mut client = Raw::connect(shim.addr);
        for number in 0..50 {
            let response = match kind {
                "head" => {
                    client.send(format!("HEAD /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
                    client.response_to_head()
                }
                "post" => {
                    client.send(format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"));
                    client.response()
                }
                "trailers" => {
                    client.send(format!(
                        "GET /{number}/trailers HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\n\r\n"
                    ));
                    client.response()
                }
                _ => {
                    client.send(get(&format!("/{number}/{kind}")));
                    client.response()
                }
            };
            let response = response.unwrap_or_else(|why| panic!("{kind} {number}: no response: {why:?}"));
            assert!(response.complete && response.problems.is_empty(), "{kind} {number}: {response:?}");
            if kind == "trailers" {
                assert_eq!(response.trailers.len(), 1, "{response:?}");
            }
        }
        let more = origin.connections() - before;
        let allowed = usize::from(before == 0);
        assert!(more <= allowed, "50 requests ({kind}) needed {more} new connections");
    }
    let gauge = shim.metrics().value("edgeshim_origin_connections", &[]);
    assert!((gauge - 1.0).abs() < 0.1, "edgeshim_origin_connections is {gauge}, not 1");
}

#[test]
fn max_idle_when_exceeded_then_surplus_connections_are_closed() {
    for (most, gauge) in [(0, 0.0), (2, 2.0)] {
        let gate = Arc::new(std::sync::Barrier::new(6));
        let waiting = Arc::clone(&gate);
        let origin = Origin::start(move |request, conn| {
            waiting.wait();
            origin::respond(request, conn, 200, &[], b"")
        });
        let shim = Shim::start(one_worker(&origin).with(&format!("[origin]\nmax_idle = {most}")));
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let addr = shim.addr;
                std::thread::spawn(move || fetch(addr, "/", &[]).status)
            })
            .collect();
        for client in clients {
            assert_eq!(client.join().expect("the client's thread"), 200);
        }
        assert_eq!(origin.connections(), 6, "six concurrent requests need six connections");
        let closed = wait_until(PATIENCE, || origin.open_connections() == most);
        assert!(closed, "{} connections are open, not {most}", origin.open_connections());
        shim.wait_metrics(|metrics| (metrics.value("edgeshim_origin_connections", &[]) - gauge).abs() < 0.1);
    }
}

#[test]
fn idle_timeout_when_no_request_arrives_then_idle_connection_is_closed() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = Shim::start(one_worker(&origin).with("[origin]\nidle_timeout = \"200ms\""));
    assert_eq!(fetch(shim.addr, "/", &[]).status, 200);
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0), "the idle connection is still open");
    assert_eq!(fetch(shim.addr, "/", &[]).status, 200);
    assert_eq!(origin.connections(), 2);
}

// ---- clients that disconnect ----------------------------------------------------------------------------------------

#[test]
fn abort_when_response_head_has_not_arrived_then_origin_connection_is_closed() {
    let origin = Origin::start(origin::silent());
    let shim = Shim::start(Shim::config(origin.url()));
    for (number, times, by_reset) in [(1, 1, false), (2, 2, true)] {
        let mut client = Raw::connect(shim.addr);
        client.send(get("/"));
        assert!(
            wait_until(PATIENCE, || origin.open_connections() == 1 && origin.count() == number),
            "request {number} did not reach the origin"
        );
        if by_reset {
            client.reset();
        } else {
            drop(client);
        }
        assert!(
            wait_until(PATIENCE, || origin.open_connections() == 0),
            "the connection of the aborted request is still open"
        );
        shim.wait_aborts(times);
    }
    let mut client = H2::connect(shim.addr);
    client.leave("/", || origin.count() == 3);
    assert!(
        wait_until(PATIENCE, || client.drive() && origin.open_connections() == 0),
        "HTTP/2: the connection of the aborted request is still open"
    );
    shim.wait_aborts(3);
}

#[test]
fn abort_when_response_body_is_in_progress_then_origin_connection_is_closed() {
    let origin = Origin::start(|request, conn| match request.target.as_str() {
        "/fine" => origin::respond(request, conn, 200, &[], b"fine"),
        _ => origin::endless(&[b'x'; 4096])(request, conn),
    });
    let shim = Shim::start(Shim::config(origin.url()));
    let mut client = Raw::connect(shim.addr);
    client.send(get("/"));
    assert_eq!(client.response_head().expect("a head").status, 200);
    drop(client);
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0), "the origin still sends the body");
    shim.wait_aborts(1);
    let mut client = H2::connect(shim.addr);
    let response = client.head("GET", "/", &[], Pieces::default()).expect("a head");
    assert_eq!(response.status(), 200);
    drop(response);
    assert!(
        wait_until(PATIENCE, || client.drive() && origin.open_connections() == 0),
        "HTTP/2: the origin still sends the body"
    );
    shim.wait_aborts(2);
    let next = client.ask("GET", "/fine", &[], Pieces::default());
    assert_eq!((next.status, &next.body[..]), (200, &b"fine"[..]), "the connection is no longer usable");
}

#[test]
fn abort_when_upload_is_in_progress_then_origin_connection_is_closed() {
    let origin = Origin::start(origin::echo());
    let shim = Shim::start(Shim::config(origin.url()));
    let mut client = Raw::connect(shim.addr);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nhello");
    assert!(wait_until(PATIENCE, || origin.count() == 1), "the request did not reach the origin");
    client.reset();
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0), "the origin still waits for the upload");
    assert!(!origin.last().complete, "the truncated request looks complete to the origin");
    let after = shim.wait_metrics(|now| now.sum(PULLS, &[]) > 0.5);
    assert!(after.sum(PULLS, &[("code", "499")]) + after.sum(PULLS, &[("code", "400")]) > 0.5, "{}", after.text);
    assert!(after.sum(FAULTS, &[]) < 0.5, "a disconnected client counts as a fault");
}

// ---- streaming ------------------------------------------------------------------------------------------------------

/// Waits until a counter is above 0 and has not changed for 300 ms. Returns the value of the counter.
fn settled(mut read: impl FnMut() -> u64) -> u64 {
    let (mut last, mut since) = (0, Instant::now());
    wait_until(LONG, || {
        let now = read();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        last > 0 && since.elapsed() > Duration::from_millis(300)
    });
    last
}

#[test]
fn download_when_client_does_not_read_then_shim_stops_reading_from_the_origin() {
    let origin = Origin::start(origin::endless(&[b'x'; 16 * 1024]));
    let shim = Shim::start(one_worker(&origin));
    let before = shim.rss_kib();
    let mut client = Raw::connect(shim.addr);
    client.send(get("/"));
    assert_eq!(client.response_head().expect("a head").status, 200);
    let sent = settled(|| origin.bytes_written());
    // The unread bytes are in four socket buffers and in the shim's buffers. The kernel can grow a socket buffer to
    // several MiB.
    assert!(sent < 32 << 20, "{sent} bytes were buffered");
    assert!(shim.rss_kib() < before + (8 << 10), "the unread response is in memory: {} KiB", shim.rss_kib());
    let mut read = 0;
    while read < sent + (1 << 20) {
        read += client.some("more of the body").len() as u64;
    }
    assert!(origin.bytes_written() > sent, "the origin sent nothing more after the client had read");

    let mut client = H2::connect(shim.addr);
    let start = origin.bytes_written();
    let response = client.head("GET", "/", &[], Pieces::default()).expect("a head");
    let sent = settled(|| {
        client.drive();
        origin.bytes_written()
    });
    assert!(sent - start < 64 << 20, "HTTP/2: {} bytes were buffered", sent - start);
    drop(response);
}

/// Returns the number of pipe ends that the shim has open.
fn pipe_ends(shim: &Shim) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", shim.pid)).expect("the shim's files");
    files
        .filter(|file| {
            let target = file.as_ref().ok().and_then(|file| std::fs::read_link(file.path()).ok());
            target.is_some_and(|target| target.to_string_lossy().starts_with("pipe:"))
        })
        .count()
}

#[test]
fn large_download_when_clients_are_slow_then_moves_through_pipes_and_is_unchanged() {
    const CLIENTS: usize = 3;
    let body: Vec<u8> = (0..8_u32 << 20).flat_map(u32::to_be_bytes).collect();
    let length = body.len();
    let origin = Origin::start(origin::fixed(200, &[("Content-Type", "video/mp4")], &body[..]));
    let shim = Shim::start(one_worker(&origin));
    let before = pipe_ends(&shim);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Raw::connect(shim.addr)).collect();
    for client in &mut clients {
        client.send(get("/"));
        assert_eq!(
            client.response_head().expect("a head").field("content-length"),
            Some(length.to_string()).as_deref()
        );
    }
    // The buffers of the sockets are smaller than the body, so each response soon has a pipe with bytes.
    assert!(wait_until(PATIENCE, || pipe_ends(&shim) == before + 2 * CLIENTS), "the responses do not use pipes");
    // One client leaves. The pull is counted with the bytes until then, and no other client gets them.
    drop(clients.pop());
    for client in &mut clients {
        let mut read = 0;
        while read < length {
            let piece = client.some("more of the body");
            assert!(body[read..].starts_with(&piece), "the bytes from {read} on differ");
            read += piece.len();
        }
        client.send(get("/"));
        let again = client.response().expect("a second response");
        assert!(again.complete && again.body == body, "the second response differs");
    }
    let metrics = shim.wait_metrics(|now| now.sum("edgeshim_in_flight", &[]) < 0.5);
    let pulled = metrics.count("edgeshim_pull_bytes_total", &[]);
    let responses = 2 * clients.len() as u64;
    let length = length as u64;
    assert!((responses * length..(responses + 1) * length).contains(&pulled), "{pulled} bytes were counted");
    assert_eq!(metrics.count("edgeshim_origin_bytes_total", &[]), pulled);
    assert!(pipe_ends(&shim) <= before + 8, "pipes stay open: {}", pipe_ends(&shim) - before);
    assert_eq!(origin.problems(), Vec::<String>::new());
}

#[test]
fn upload_when_origin_does_not_read_then_shim_stops_reading_from_the_client() {
    const LENGTH: u64 = 64 << 20;
    let (go, gone) = channel();
    let gone = Mutex::new(gone);
    let origin = Origin::start_at_head(move |_, conn| {
        let _ = lock(&gone).recv_timeout(LONG);
        let mut sink = vec![0; 1 << 20];
        let mut left = LENGTH;
        while left > 0 {
            match conn.read(&mut sink) {
                Ok(length @ 1..) => left -= length as u64,
                _ => return After::Close,
            }
        }
        let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        After::Close
    });
    let shim = Shim::start(one_worker(&origin));
    let before = shim.rss_kib();
    let mut stream = TcpStream::connect(shim.addr).expect("a connection");
    stream.set_read_timeout(Some(LONG)).expect("a socket with a read timeout");
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {LENGTH}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("the client can send the head");
    assert!(wait_until(PATIENCE, || origin.count() == 1), "the shim did not send the head before the body");
    let sent = Arc::new(AtomicU64::new(0));
    let (mut writing, count) = (stream.try_clone().expect("a second handle"), Arc::clone(&sent));
    let writer = std::thread::spawn(move || {
        let piece = vec![b'x'; 64 << 10];
        while count.load(Ordering::Relaxed) < LENGTH {
            if writing.write_all(&piece).is_err() {
                return;
            }
            count.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    });
    let stopped = settled(|| sent.load(Ordering::Relaxed));
    assert!(stopped < 32 << 20, "{stopped} bytes were buffered");
    assert!(shim.rss_kib() < before + (8 << 10), "the unread upload is in memory: {} KiB", shim.rss_kib());
    go.send(()).expect("the origin still runs");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    writer.join().expect("the writer's thread");
    assert_eq!(sent.load(Ordering::Relaxed), LENGTH);
}

#[test]
fn response_when_streamed_then_first_chunk_arrives_before_the_last_chunk_is_sent() {
    let (go, gone) = channel();
    let gone = Mutex::new(gone);
    let origin = Origin::start(move |_, conn: &mut Conn| {
        let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        let signalled = lock(&gone).recv_timeout(LONG).is_ok();
        let _ = conn.write_all(if signalled { b"4\r\nlast\r\n0\r\n\r\n" } else { b"broken!\r\n" });
        After::Close
    });
    let shim = Shim::start(one_worker(&origin));
    let mut client = Raw::connect(shim.addr);
    client.send(get("/"));
    assert_eq!(client.response_head().expect("a head").status, 200);
    assert_eq!(client.some("the first chunk"), b"5\r\nfirst\r\n");
    go.send(()).expect("the origin still runs");
    let mut rest = client.some("the last chunk");
    while !rest.ends_with(b"0\r\n\r\n") {
        rest.extend(client.some("the end of the body"));
    }
    assert_eq!(rest, b"4\r\nlast\r\n0\r\n\r\n");

    let mut client = H2::connect(shim.addr);
    let mut body = client.head("GET", "/", &[], Pieces::default()).expect("a head").into_body();
    assert_eq!(client.frame(&mut body).expect("a frame").into_data().expect("data"), "first");
    go.send(()).expect("the origin still runs");
    assert_eq!(client.frame(&mut body).expect("a frame").into_data().expect("data"), "last");
}

#[test]
fn upload_when_streamed_then_each_chunk_is_echoed_before_the_next_chunk_is_sent() {
    let origin = Origin::start_at_head(|_, conn: &mut Conn| {
        let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        // The client sends a chunk only after the origin has echoed the previous chunk. The response is chunked like
        // the request, so the origin echoes the bytes unchanged.
        let mut piece = [0; 1024];
        while let Ok(length @ 1..) = conn.read(&mut piece) {
            if conn.write_all(&piece[..length]).is_err() || piece[..length].ends_with(b"0\r\n\r\n") {
                break;
            }
        }
        After::Close
    });
    let shim = Shim::start(one_worker(&origin));
    let mut client = Raw::connect(shim.addr);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.response_head().expect("a head before the upload begins").status, 200);
    for number in 0..10 {
        let chunk = format!("6\r\nround{number}\r\n");
        client.send(&chunk);
        assert_eq!(client.some("the chunk's echo"), chunk.as_bytes());
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.some("the end of the body"), b"0\r\n\r\n");
}

#[test]
fn early_response_when_upload_continues_then_client_gets_the_response() {
    for polite in [true, false] {
        let origin = Origin::start_at_head(move |request, conn| {
            origin::respond(request, conn, 413, &[("Connection", "close")], b"too much");
            if polite {
                // The origin closes its sending side but continues to read, as RFC 9112 §9.6 recommends.
                conn.shutdown(std::net::Shutdown::Write);
                origin::silent()(request, conn);
            }
            // If `polite` is false, the origin closes the socket before it has read the body. The kernel then sends a
            // reset.
            After::Close
        });
        let shim = Shim::start(one_worker(&origin));
        for number in 0..20 {
            let mut client = Raw::connect(shim.addr);
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").send(vec![b'x'; 100_000]);
            let response = client
                .response()
                .unwrap_or_else(|why| panic!("request {number}, polite = {polite}: no response: {why:?}"));
            let text: String = response.text().chars().take(80).collect();
            assert_eq!((response.status, text.as_str()), (413, "too much"), "request {number}, polite = {polite}");
        }
        let after = shim.wait_metrics(|now| now.sum(PULLS, &[]) > 19.5);
        assert!((after.sum(PULLS, &[("code", "413")]) - 20.0).abs() < 0.1, "polite = {polite}: {}", after.text);
    }

    // This origin responds before it reads the body, and then reads the complete body.
    let origin = Origin::start_at_head(origin::fixed(200, &[], "thanks"));
    let shim = Shim::start(one_worker(&origin));
    let mut client = Raw::connect(shim.addr);
    for number in 0..5 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n").send(vec![b'x'; 100_000]);
        assert_eq!(
            client.response().unwrap_or_else(|why| panic!("upload {number}: no response: {why:?}")).text(),
            "thanks"
        );
        client.send(vec![b'y'; 100_000]);
    }
    let whole = || origin.requests().iter().filter(|request| request.complete && request.body.len() == 200_000).count();
    assert!(wait_until(PATIENCE, || whole() == 5), "only {} of 5 uploads reached the origin completely", whole());
}

// ---- framing --------------------------------------------------------------------------------------------------------

#[test]
fn body_when_chunked_or_of_known_length_then_framing_is_kept() {
    let origin = Origin::start(origin::echo());
    let shim = Shim::start(one_worker(&origin));
    let chunked =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n3;x=y\r\n ho\r\n0\r\n\r\n";
    assert_eq!(exchange(shim.addr, chunked).json()["body"], "hi ho");
    let seen = origin.last();
    assert_eq!(seen.field("transfer-encoding"), Some("chunked"));
    assert_eq!(exchange(shim.addr, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").json()["body"], "hi");
    assert_eq!(origin.last().field("content-length"), Some("2"));
    assert_eq!(exchange(shim.addr, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").status, 200);
    assert_eq!(origin.last().field("content-length"), Some("0"), "an empty POST must keep `Content-Length: 0`");
    fetch(shim.addr, "/", &[]);
    assert_eq!((origin.last().field("content-length"), origin.last().field("transfer-encoding")), (None, None));
    let mut client = H2::connect(shim.addr);
    let frames = [Bytes::from_static(b"one"), Bytes::from_static(b"two")].into();
    let response = client.ask("POST", "/", &[], Pieces { frames, ..Pieces::default() });
    assert!(String::from_utf8_lossy(&response.body).contains("onetwo"), "{response:?}");
    for request in origin.requests() {
        assert!(request.complete && request.problems.is_empty(), "{request:?}");
    }

    let origin = Origin::start(origin::chunked(&[], &[b"one", b"two"], &[]));
    let shim = Shim::start(one_worker(&origin));
    let response = fetch(shim.addr, "/", &[]);
    assert_eq!((response.framing, response.text().as_str()), (Some(Framing::Chunked), "onetwo"));
    assert!(response.complete);
}

#[test]
fn get_head_and_delete_bodies_when_length_is_unknown_then_bodies_reach_the_origin() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = Shim::start(one_worker(&origin));
    for method in ["GET", "HEAD", "DELETE"] {
        for body in ["hello", ""] {
            let chunk = if body.is_empty() { String::new() } else { format!("{:x}\r\n{body}\r\n", body.len()) };
            let mut client = Raw::connect(shim.addr);
            client
                .send(format!("{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"));
            let response = if method == "HEAD" { client.response_to_head() } else { client.response() };
            assert_eq!(response.expect("a response").status, 200, "{method} {body:?}");
            let seen = origin.last();
            assert_eq!((seen.method.as_str(), seen.body.as_slice()), (method, body.as_bytes()));
        }
    }
    assert_eq!(origin.problems(), [""; 0]);
}

#[test]
fn trailers_when_announced_then_forwarded_in_both_directions() {
    let origin = Origin::start(|request, conn| {
        let had = request.trailers.iter().any(|(name, value)| name.eq_ignore_ascii_case("x-sum") && value == "up");
        let status: &[u8] = if had { b"had trailers" } else { b"had none" };
        origin::chunked(&[("Trailer", "X-Sum")], &[status], &[("X-Sum", "down")])(request, conn)
    });
    let shim = Shim::start(one_worker(&origin));
    let with = |te: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{te}Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\
             X-Sum: up\r\n\r\n"
        )
    };
    let response = exchange(shim.addr, with("TE: trailers\r\nConnection: te\r\n"));
    assert_eq!(response.text(), "had trailers");
    assert_eq!(response.trailers.len(), 1, "{response:?}");
    assert!(response.trailers[0].0.eq_ignore_ascii_case("x-sum") && response.trailers[0].1 == "down", "{response:?}");
    assert!(response.complete && response.problems.is_empty(), "{response:?}");
    assert_eq!(origin.last().field("te"), Some("trailers"), "`TE: trailers` did not reach the origin");
    let response = exchange(shim.addr, with(""));
    assert_eq!(response.text(), "had trailers");
    assert!(response.complete && response.trailers.is_empty(), "a client without TE got trailers: {response:?}");

    let mut client = H2::connect(shim.addr);
    let mut trailers = hyper::HeaderMap::new();
    trailers.insert("x-sum", "up".parse().expect("a valid field value"));
    let body = Pieces { frames: [Bytes::from_static(b"hi")].into(), trailers: Some(trailers), ..Pieces::default() };
    let response = client.ask("POST", "/", &[("te", "trailers"), ("trailer", "x-sum")], body);
    assert_eq!(String::from_utf8_lossy(&response.body), "had trailers");
    let sum = http1::find(&response.trailers, "x-sum");
    assert_eq!(sum, Some("down"), "{response:?}");
}

/// Waits until edgeshim has begun `total` requests that are still in progress.
fn wait_in_flight(shim: &Shim, total: f64) {
    shim.wait_metrics(|now| (now.sum("edgeshim_in_flight", &[]) - total).abs() < 0.5);
}

#[test]
fn short_body_when_client_is_slow_then_request_reaches_the_origin_after_the_last_byte() {
    for protocol in ["HTTP/1.1", "HTTP/2"] {
        let origin = Origin::start(origin::echo());
        let shim = Shim::start(one_worker(&origin));
        let (more, rest) = channel();
        let uploading = std::thread::spawn({
            let addr = shim.addr;
            move || slow_upload(protocol, addr, rest)
        });
        wait_in_flight(&shim, 1.0);
        // Later requests use the only connection to the origin, because the upload has not reached the origin.
        for _ in 0..3 {
            assert_eq!(exchange(shim.addr, get("/other")).status, 200);
        }
        let requests = origin.requests();
        assert!(
            requests.iter().all(|request| request.method == "GET"),
            "{protocol}: the origin got a part of the upload"
        );
        more.send(()).expect("the upload waits");
        assert_eq!(uploading.join().expect("the upload"), "slow last", "{protocol}");
        assert_eq!(origin.connections(), 1, "{protocol}: the upload needed a connection of its own");
        let last = origin.last();
        assert_eq!((last.field("content-length"), last.field("transfer-encoding")), (Some("9"), None), "{protocol}");
    }
}

/// Sends the body `slow last`, whose length is known, in two pieces. Sends the second piece when `rest` gets a message.
/// Returns the body that the origin got.
fn slow_upload(protocol: &str, addr: SocketAddr, rest: Receiver<()>) -> String {
    let body = if protocol == "HTTP/1.1" {
        let mut client = Raw::connect(addr).patient(LONG);
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nslow ");
        rest.recv_timeout(LONG).expect("the message");
        client.send("last");
        client.response().expect("a response").json()
    } else {
        let frames = [Bytes::from_static(b"slow ")].into();
        let body = Pieces { frames, later: Some(Arc::new(Mutex::new(rest))), ..Pieces::default() };
        let response = H2::connect(addr).ask("POST", "/", &[("content-length", "9")], body);
        serde_json::from_slice(&response.body).expect("JSON")
    };
    body["body"].as_str().expect("a body").to_owned()
}

#[test]
fn expect_100_continue_when_body_has_not_been_sent_then_client_gets_100() {
    let origin = Origin::start(origin::echo());
    let shim = Shim::start(one_worker(&origin));
    let mut client = Raw::connect(shim.addr);
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(client.some("the 100 response"), b"HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hello");
        let response = client.response().expect("a response");
        assert_eq!((response.status, response.interim.len()), (200, 0), "{response:?}");
        assert_eq!(response.json()["body"], "hello");
    }
}

#[test]
fn interim_responses_when_sent_by_origin_then_client_gets_the_final_response() {
    let origin = Origin::start(|request, conn| {
        let interim: &[u8] = match request.target.as_str() {
            "/100" => b"HTTP/1.1 100 Continue\r\n\r\n",
            "/102" => b"HTTP/1.1 102 Processing\r\n\r\n",
            "/103" => b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n",
            _ => {
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early \
                   Hints\r\n\r\n"
            }
        };
        let _ = conn.write_all(interim);
        origin::respond(request, conn, 200, &[("X-Final", "yes")], b"final")
    });
    let shim = Shim::start(one_worker(&origin));
    let mut client = Raw::connect(shim.addr);
    for target in ["/100", "/102", "/103", "/all", "/103"] {
        client.send(get(target));
        let response = client.response().expect("a response");
        assert_eq!((response.status, response.text().as_str()), (200, "final"), "{target}");
        assert_eq!((response.field("x-final"), response.field("link")), (Some("yes"), None), "{target}: {response:?}");
        assert!(response.interim.iter().all(|(status, _)| *status == 103), "{target}: {:?}", response.interim);
    }
    assert_eq!(origin.connections(), 1);
    let mut client = H2::connect(shim.addr);
    assert_eq!(client.ask("GET", "/all", &[], Pieces::default()).body, b"final");
}

#[test]
fn response_when_status_or_method_excludes_a_body_then_length_and_body_are_correct() {
    let origin = Origin::start(|request, conn| {
        let etag = [("ETag", "\"a\"")];
        match request.target.as_str() {
            "/204" => origin::respond(request, conn, 204, &etag, b""),
            "/204-length" => {
                let _ = conn.write_all(b"HTTP/1.1 204 \r\nContent-Length: 0\r\n\r\n");
                After::Keep
            }
            "/205" => origin::respond(request, conn, 205, &[], b""),
            "/304" => origin::respond(request, conn, 304, &etag, b""),
            "/304-length" => origin::respond(request, conn, 304, &[("ETag", "\"a\""), ("Content-Length", "99")], b""),
            "/206" => origin::respond(request, conn, 206, &[("Content-Range", "bytes 2-4/9")], b"cde"),
            "/chunked" => origin::chunked(&etag, &[b"abc"], &[])(request, conn),
            _ => origin::respond(request, conn, 200, &etag, b"abcdefghi"),
        }
    });
    let shim = Shim::start(one_worker(&origin));
    let mut client = Raw::connect(shim.addr);
    let mut ask = |method: &str, target: &str| {
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: identity\r\n\r\n"));
        let response = if method == "HEAD" { client.response_to_head() } else { client.response() };
        let response = response.unwrap_or_else(|why| panic!("{method} {target}: no response: {why:?}"));
        assert!(response.complete && response.problems.is_empty(), "{method} {target}: {response:?}");
        response
    };
    for (method, target, status, length, body) in [
        ("GET", "/", 200, Some("9"), "abcdefghi"),
        ("HEAD", "/", 200, Some("9"), ""),
        ("HEAD", "/chunked", 200, None, ""),
        ("GET", "/204", 204, None, ""),
        ("GET", "/204-length", 204, None, ""),
        ("HEAD", "/204", 204, None, ""),
        ("GET", "/205", 205, Some("0"), ""),
        ("GET", "/304", 304, None, ""),
        ("GET", "/206", 206, Some("3"), "cde"),
        ("HEAD", "/206", 206, Some("3"), ""),
        ("POST", "/204", 204, None, ""),
        ("GET", "/", 200, Some("9"), "abcdefghi"),
    ] {
        let response = ask(method, target);
        assert_eq!((response.status, response.text().as_str()), (status, body), "{method} {target}");
        assert_eq!(response.field("content-length"), length, "{method} {target}: {response:?}");
        if target == "/206" {
            assert_eq!(response.field("content-range"), Some("bytes 2-4/9"));
        }
    }
    let response = ask("GET", "/304-length");
    assert!(matches!(response.field("content-length"), None | Some("99")), "{response:?}");
    assert_eq!(ask("GET", "/").text(), "abcdefghi", "an earlier response left bytes on the connection");
    assert_eq!(origin.connections(), 1);

    let mut client = H2::connect(shim.addr);
    for (method, target, status, body) in
        [("HEAD", "/", 200, ""), ("GET", "/204", 204, ""), ("GET", "/304", 304, ""), ("GET", "/206", 206, "cde")]
    {
        let response = client.ask(method, target, &[("accept-encoding", "identity")], Pieces::default());
        assert_eq!(
            (response.status, String::from_utf8_lossy(&response.body).as_ref()),
            (status, body),
            "{method} {target}"
        );
    }
}

#[test]
fn response_when_from_http10_or_ended_by_close_then_forwarded_with_http11_framing() {
    let origin = Origin::start(|request, conn| {
        let head = match request.target.as_str() {
            "/1.0" => "HTTP/1.0 200 OK\r\n\r\n",
            "/1.0-length" => "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        };
        let _ = conn.write_all(head.as_bytes());
        let _ = conn.write_all(b"hello");
        After::Close
    });
    let shim = Shim::start(one_worker(&origin));
    let mut client = Raw::connect(shim.addr);
    for (target, framing) in [
        ("/1.0", Framing::Chunked),
        ("/1.0-length", Framing::Length(5)),
        ("/1.1", Framing::Chunked),
        ("/1.0", Framing::Chunked),
    ] {
        client.send(get(target));
        let response = client.response().unwrap_or_else(|why| panic!("{target}: no response: {why:?}"));
        assert_eq!((response.framing, response.text().as_str()), (Some(framing), "hello"), "{target}");
        assert!(response.complete && response.problems.is_empty(), "{target}: {response:?}");
        assert!(response.line.starts_with("HTTP/1.1 "), "{target}: {}", response.line);
        assert_eq!(response.field("connection"), None, "{target}: the origin's Connection field reached the client");
    }
}

// ---- upgrades -------------------------------------------------------------------------------------------------------

/// Responds to an upgrade request. The protocols `no` and `never` get 200 and 426. Every other protocol is granted: the
/// origin sends the 101 and `hello`, and then echoes. After the echo of `close`, the origin closes the connection.
fn upgrading(request: &Request, conn: &mut Conn) -> After {
    match request.field("upgrade") {
        None | Some("no") => origin::respond(request, conn, 200, &[], b"stay"),
        Some("never") => {
            origin::respond(request, conn, 426, &[("Upgrade", "other"), ("Connection", "upgrade")], b"other")
        }
        Some(protocol) => {
            let head = format!("HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\nX-A: b\r\n\r\nhello");
            let mut going = conn.write_all(head.as_bytes()).is_ok();
            let mut piece = [0; 4096];
            while going {
                going = match conn.read(&mut piece) {
                    Ok(length @ 1..) => conn.write_all(&piece[..length]).is_ok() && piece[..length] != *b"close",
                    _ => false,
                };
            }
            After::Close
        }
    }
}

#[test]
fn upgrade_when_granted_then_bytes_are_forwarded_in_both_directions() {
    let origin = Origin::start(upgrading);
    // The HTTP timeouts do not apply to an upgraded connection.
    let quick = "[server]\nidle_timeout = \"300ms\"\nbody_timeout = \"300ms\"\n[origin]\nidle_timeout = \"300ms\"";
    let shim = Shim::start(one_worker(&origin).with(quick));
    for protocol in ["websocket", "echo/1.0"] {
        let mut client = Raw::connect(shim.addr);
        client.send(upgrade(protocol));
        let response = client.response().expect("a response");
        assert_eq!((response.status, response.field("upgrade")), (101, Some(protocol)), "{response:?}");
        assert!(
            response.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")),
            "{response:?}"
        );
        assert_eq!(response.field("x-a"), Some("b"));
        assert!(response.problems.is_empty(), "{response:?}");
        let mut received = client.some("the bytes after the 101");
        while received.len() < 5 {
            received.extend(client.some("the rest of `hello`"));
        }
        assert_eq!(received, b"hello");
        let mut quiet = client.patient(Duration::from_millis(900));
        assert_eq!(quiet.end(), support::raw::End::Open, "a silent upgraded connection was closed");
        let mut client = quiet.patient(PATIENCE);
        for text in ["GET / HTTP/1.1\r\n\r\n", "\0\u{1}\u{2}", "x"] {
            client.send(text);
            let mut back = client.some("the echo");
            while back.len() < text.len() {
                back.extend(client.some("the rest of the echo"));
            }
            assert_eq!(back, text.as_bytes());
        }
        client.send("close");
        assert_eq!(client.read_to_end(), b"close");
        assert!(client.closed(), "the connection stays open after the origin's close");
        let seen = origin.last();
        assert_eq!((seen.field("upgrade"), seen.field("connection")), (Some(protocol), Some("upgrade")));
        assert_eq!(seen.field("sec-websocket-version"), Some("13"));
    }
    let mut client = Raw::connect(shim.addr);
    client.send(upgrade("websocket"));
    assert_eq!(client.response().expect("a response").status, 101);
    drop(client);
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0), "the origin's connection stays open");
    let after = shim.wait_metrics(|now| now.sum(PULLS, &[("code", "101")]) > 2.5);
    assert!((after.sum(PULLS, &[]) - 3.0).abs() < 0.1, "{}", after.text);
}

#[test]
fn upgrade_when_method_is_not_get_then_request_is_forwarded_without_upgrade() {
    let origin = Origin::start(upgrading);
    let shim = Shim::start(one_worker(&origin));
    for method in ["POST", "HEAD", "OPTIONS"] {
        let mut client = Raw::connect(shim.addr);
        client.send(request(method, "/chat", &[("Connection", "Upgrade"), ("Upgrade", "websocket")], b""));
        let response = if method == "HEAD" { client.response_to_head() } else { client.response() };
        assert_eq!(response.expect("a response").status, 200, "{method}");
        assert_eq!((origin.last().field("upgrade"), origin.last().field("connection")), (None, None), "{method}");
    }
}

#[test]
fn upgrade_when_refused_then_client_gets_a_normal_response() {
    let origin = Origin::start(upgrading);
    let shim = Shim::start(one_worker(&origin));
    let mut client = Raw::connect(shim.addr);
    client.send(upgrade("no"));
    let response = client.response().expect("a response");
    assert_eq!((response.status, response.text().as_str()), (200, "stay"));
    client.send(upgrade("never"));
    let response = client.response().expect("a response");
    assert_eq!((response.status, response.text().as_str()), (426, "other"));
    client.send(get("/"));
    assert_eq!(client.response().expect("a response").text(), "stay", "the response after a refused upgrade");
    // The shim does not forward an upgrade to h2c, because the shim does not check HTTP/2 on an upgraded connection.
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \
                 AAMAAABk\r\n\r\n",
    );
    assert_eq!(client.response().expect("a response").text(), "stay");
    let seen = origin.last();
    assert_eq!((seen.field("upgrade"), seen.field("http2-settings"), seen.field("connection")), (None, None, None));
    assert_eq!(origin.connections(), 1);
}

// ---- heads ----------------------------------------------------------------------------------------------------------

#[test]
fn host_when_configured_missing_or_sent_then_origin_gets_one_host_field() {
    let origin = Origin::start(origin::echo());
    let shim = Shim::start(one_worker(&origin));
    fetch(shim.addr, "/", &[]);
    assert_eq!(origin.last().fields_named("host"), [shim.addr.to_string()]);
    let response = exchange(shim.addr, "GET /old HTTP/1.0\r\n\r\n");
    assert_eq!(response.status, 200, "the status of an HTTP/1.0 request without Host");
    let seen = origin.last();
    assert_eq!(seen.fields_named("host"), [origin.addr.to_string()], "a missing Host must become the origin's address");
    assert_eq!((seen.target.as_str(), seen.version.as_str()), ("/old", "HTTP/1.1"));
    assert_eq!(exchange(shim.addr, "GET / HTTP/1.0\r\nHost: named.test\r\n\r\n").status, 200);
    assert_eq!(origin.last().fields_named("host"), ["named.test"]);
    H2::connect(shim.addr).ask("GET", "/", &[], Pieces::default());
    assert_eq!(origin.last().fields_named("host"), ["shim.test"]);

    let shim = Shim::start(one_worker(&origin).with("[origin]\nhost = \"inside.test\""));
    for request in [request("GET", "/", &[], b""), b"GET / HTTP/1.0\r\n\r\n".to_vec()] {
        assert_eq!(exchange(shim.addr, request).status, 200);
        assert_eq!(origin.last().fields_named("host"), ["inside.test"]);
    }
    fetch(shim.addr, "/", &[]);
    let sent = shim.addr.to_string();
    assert_eq!(origin.last().field("x-forwarded-host"), Some(sent.as_str()), "X-Forwarded-Host must be the sent Host");
    for request in origin.requests() {
        assert!(request.problems.is_empty(), "{request:?}");
    }
}

#[test]
fn preserve_header_case_when_true_then_field_names_keep_the_case() {
    let origin = Origin::start(origin::fixed(200, &[("X-oRiGiN", "b")], "hi"));
    let sent = [("X-sHoP-iD", "a"), ("SOAPAction", "c")];
    let names = |shim: &Shim| -> (Vec<String>, Vec<String>) {
        let response = fetch(shim.addr, "/", &sent);
        let own = |fields: &[(String, String)]| {
            let mut names: Vec<String> = fields.iter().map(|(name, _)| name.clone()).collect();
            names.retain(|name| ["x-shop-id", "soapaction", "x-origin"].contains(&name.to_ascii_lowercase().as_str()));
            names
        };
        (own(&origin.last().fields), own(&response.fields))
    };
    let shim = Shim::start(one_worker(&origin).with("[origin]\npreserve_header_case = true"));
    let (up, down) = names(&shim);
    assert_eq!(up, ["X-sHoP-iD", "SOAPAction"], "the names at the origin");
    assert_eq!(down, ["X-oRiGiN"], "the names at the client");

    let origin = closing_on_reuse();
    let shim = Shim::start(one_worker(&origin).with("[origin]\npreserve_header_case = true"));
    for _ in 0..2 {
        assert_eq!(fetch(shim.addr, "/", &sent).status, 200);
    }
    let requests = origin.requests();
    assert_eq!(requests.len(), 3, "the second request must be retried");
    for request in requests {
        assert!(
            request.fields.iter().any(|(name, _)| name == "X-sHoP-iD"),
            "the case of a name changed: {:?}",
            request.fields
        );
    }
}

#[test]
fn unix_origin_when_configured_then_requests_share_a_connection() {
    let dir = temp_dir();
    let path = dir.join("origin.sock");
    let origin = Origin::start_unix(&path, origin::echo());
    let shim = Shim::start(one_worker(&origin));
    let mut client = Raw::connect(shim.addr);
    for number in 0..10 {
        client.send(format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"));
        let response = client.response().expect("a response");
        assert_eq!((response.status, response.json()["body"].as_str()), (200, Some("hi")));
    }
    assert_eq!(origin.connections(), 1, "the shim did not reuse the connection");
    assert_eq!(exchange(shim.addr, "GET / HTTP/1.0\r\n\r\n").status, 200);
    assert_eq!(origin.last().fields_named("host"), ["localhost"]);
    origin.hang_up_all();
    assert_eq!(fetch(shim.addr, "/again", &[]).status, 200);
}
