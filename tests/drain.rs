//! Tests of signals. After SIGTERM or SIGINT, requests in flight complete, idle connections close, and the shim refuses
//! new connections. SIGUSR1 reopens the log file. SIGHUP ends no request and no connection.
//!
//! A slow response waits at a gate until the test opens the gate. So the tests need no delays of fixed length.

mod support;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::collections::HashSet;
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::frames::{self, DATA, GOAWAY, HEADERS, RST_STREAM};
use support::http1::{self, Reader};
use support::raw::{fetch, get, upgrade};
use support::{After, Config, Conn, Gate, Origin, PATIENCE, Raw, Shim, origin, wait_until};

/// The longest time that a test waits for an event that follows one of the shim's timeouts.
const LONG: Duration = Duration::from_secs(20);

fn config(origin: &Origin) -> Config {
    Shim::config(origin.addr).with("[server]\nworkers = 2")
}

/// Returns a connection that is idle after one request.
fn idle(shim: &Shim) -> Raw {
    let mut client = Raw::connect(shim.addr).patient(LONG);
    client.send(get("/quick"));
    let response = client.response().expect("a response");
    assert_eq!((response.status, response.field("connection")), (200, None));
    client
}

/// Sends a request and waits until it has reached the origin.
fn in_flight(shim: &Shim, origin: &Origin, request: &str) -> Raw {
    let before = origin.count();
    let mut client = Raw::connect(shim.addr).patient(LONG);
    client.send(request);
    assert!(wait_until(LONG, || origin.count() > before), "{request:?} did not reach the origin");
    client
}

fn refuses(addr: SocketAddr) -> bool {
    TcpStream::connect(addr).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn readyz(shim: &Shim) -> u16 {
    fetch(shim.admin, "/readyz", &[]).status
}

// ---- SIGTERM, SIGINT ------------------------------------------------------------------------------------------------

#[test]
fn drain_when_signal_arrives_then_refuses_new_connections_and_completes_requests() {
    for signal in ["TERM", "INT"] {
        let gate = Gate::default();
        let origin = Origin::start(origin::gated(&gate));
        let mut shim = Shim::start(config(&origin));
        let mut resting = [idle(&shim), idle(&shim), idle(&shim)];
        let mut late = in_flight(&shim, &origin, &get("/late"));
        let mut half = in_flight(&shim, &origin, &get("/half"));
        let head = half.response_head().expect("a head");
        assert_eq!(head.status, 200);
        let mut upload = Raw::connect(shim.addr).patient(LONG);
        upload.send("POST /quick HTTP/1.1\r\nHost: shim.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        assert!(wait_until(LONG, || origin.requests().iter().any(|request| request.method == "POST")));
        assert_eq!(readyz(&shim), 200);

        shim.signal(signal);
        assert!(wait_until(LONG, || refuses(shim.addr)), "SIG{signal}: the listener is still open");
        assert_eq!(readyz(&shim), 503);
        for client in &mut resting {
            assert!(client.closed(), "SIG{signal}: an idle connection stays open");
        }
        assert!(shim.running(), "SIG{signal}: the shim exited while requests were in flight");
        upload.send("5\r\nafter\r\n0\r\n\r\n");
        let response = upload.response().expect("a response to the upload");
        assert_eq!((response.status, response.text().as_str()), (200, "quick"));
        gate.open();
        let response = late.response().expect("the late response");
        assert_eq!((response.status, response.text().as_str()), (200, "late but complete"));
        assert_eq!(response.field("connection"), Some("close"), "the response does not announce the close");
        let mut rest = Vec::new();
        while rest.len() < 12 {
            rest.extend(half.more().ok().filter(|bytes| !bytes.is_empty()).expect("the other half"));
        }
        assert_eq!(rest, b"first second");
        for client in [&mut upload, &mut late, &mut half] {
            assert!(client.closed());
        }
        assert_eq!(shim.wait_exit(LONG).code(), Some(0), "SIG{signal}: {}", shim.stderr());
        assert!(!shim.stderr().contains("drain_timeout"), "a request was aborted: {}", shim.stderr());
        assert_eq!(
            origin.requests().iter().find(|request| request.method == "POST").expect("the upload").body,
            b"firstafter"
        );
    }
}

#[test]
fn connections_when_waiting_for_a_permit_at_the_drain_then_served_before_the_exit() {
    let gate = Gate::default();
    let origin = Origin::start(origin::gated(&gate));
    let mut shim = Shim::start(config(&origin).with("[server]\nmax_connections = 1"));
    let mut late = in_flight(&shim, &origin, &get("/late"));
    // The shim accepts the first of these connections. The other connections stay in the queue of the kernel.
    let mut waiting: Vec<Raw> = (0..3).map(|_| Raw::connect(shim.addr).patient(LONG)).collect();
    for client in &mut waiting {
        client.send(get("/quick"));
    }
    shim.signal("TERM");
    assert!(wait_until(LONG, || refuses(shim.addr)), "the listener is still open");
    gate.open();
    assert_eq!(late.response().expect("the late response").status, 200);
    for client in &mut waiting {
        let response = client.response().expect("a response to a connection that waited for a permit");
        assert_eq!((response.status, response.text().as_str()), (200, "quick"));
    }
    assert_eq!(shim.wait_exit(LONG).code(), Some(0), "{}", shim.stderr());
    assert!(!shim.stderr().contains("drain_timeout"), "{}", shim.stderr());
}

#[test]
fn connection_in_queue_when_no_descriptor_is_free_at_the_drain_then_served_when_one_is_free() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let mut shim = Shim::start(config(&origin).with("[server]\nworkers = 1\ndrain_timeout = \"60s\""));
    let pid = Pid::from_raw(i32::try_from(shim.pid).expect("a process id"));
    let before = getrlimit(Resource::Nofile);
    let limit = |files: Option<u64>| {
        prlimit(pid, Resource::Nofile, Rlimit { current: files, ..before }).expect("the limit is set");
    };
    // The connection to the origin is reused, so the shim needs no other new descriptor.
    let mut kept = idle(&shim);
    limit(Some(3));
    let mut waiting = Raw::connect(shim.addr).patient(LONG);
    waiting.send(get("/"));
    shim.wait_stderr("cannot accept a connection");
    shim.signal("TERM");
    assert!(kept.closed(), "the drain has not begun");
    limit(before.current);
    assert_eq!(waiting.response().expect("a response").status, 200);
    assert_eq!(shim.wait_exit(LONG).code(), Some(0), "{}", shim.stderr());
}

#[test]
fn drain_when_no_request_is_in_flight_then_exits_at_once_and_removes_socket_file() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let mut shim = Shim::start(
        config(&origin).with("[server]\nlisten = [\"127.0.0.1:0\", \"unix:shim.sock\"]\ndrain_timeout = \"60s\""),
    );
    let path = shim.dir.join("shim.sock");
    let mut local = Raw::connect_unix(&path).patient(LONG);
    local.send(get("/"));
    assert_eq!(local.response().expect("a response").status, 200);
    let mut tcp = idle(&shim);
    // A connection on which no byte arrived has no request in flight.
    let mut silent = Raw::connect(shim.addr).patient(LONG);
    shim.wait_metrics(|metrics| metrics.value("edgeshim_connections", &[]) > 2.5);
    let since = Instant::now();
    shim.signal("TERM");
    assert!(local.closed() && tcp.closed() && silent.closed());
    assert_eq!(shim.wait_exit(Duration::from_secs(8)).code(), Some(0));
    // The limit of 5 seconds is far below header_timeout, idle_timeout and drain_timeout.
    assert!(since.elapsed() < Duration::from_secs(5), "the shim exited only after {:?}", since.elapsed());
    assert!(!path.exists(), "the socket file remains");
    assert!(UnixStream::connect(&path).is_err());
}

#[test]
fn drain_delay_when_running_then_readyz_sends_503_and_shim_serves_requests() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    // The delay of ten minutes does not elapse in this test. The second signal ends the delay.
    let mut shim = Shim::start(config(&origin).with("[server]\ndrain_delay = \"10m\""));
    let mut idle = idle(&shim);
    assert_eq!(readyz(&shim), 200);
    shim.signal("TERM");
    assert!(wait_until(LONG, || readyz(&shim) == 503), "readyz does not send 503 during the delay");
    for _ in 0..20 {
        assert_eq!(readyz(&shim), 503);
        assert_eq!(fetch(shim.addr, "/new", &[]).status, 200, "the response on a new connection during the delay");
        idle.send(get("/kept"));
        let response = idle.response().expect("a response on an idle connection");
        assert!(response.status == 200, "{}", response.line);
    }
    assert_eq!(fetch(shim.admin, "/livez", &[]).status, 200);
    shim.signal("TERM");
    assert!(idle.closed());
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
}

#[test]
fn drain_when_delay_is_set_then_begins_after_the_delay() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let mut shim = Shim::start(config(&origin).with("[server]\ndrain_delay = \"2s\""));
    let mut idle = idle(&shim);
    let since = Instant::now();
    shim.signal("TERM");
    assert!(idle.closed());
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
    assert!(
        since.elapsed() >= Duration::from_secs(2),
        "the shim exited after {:?}, before the end of the delay",
        since.elapsed()
    );
}

#[test]
fn drain_when_request_hangs_then_closes_the_connection_at_timeout_and_exits_with_0() {
    let origin = Origin::start(origin::silent());
    let mut shim = Shim::start(config(&origin).with("[server]\ndrain_timeout = \"1s\""));
    let mut hangs = in_flight(&shim, &origin, &get("/hangs"));
    let since = Instant::now();
    shim.signal("TERM");
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
    let took = since.elapsed();
    assert!(took >= Duration::from_secs(1), "the shim exited after {took:?}, before the timeout");
    assert!(took < Duration::from_secs(8), "the shim exited only after {took:?}");
    assert!(hangs.closed(), "the connection is open or has a response");
    let cut = "drain_timeout has passed; cut off: 1 requests in flight, 0 tunnels";
    assert!(shim.stderr().contains(cut), "stderr does not have {cut:?}: {}", shim.stderr());
}

#[test]
fn tunnel_when_open_at_drain_timeout_then_cut_and_counted_and_exit_code_is_0() {
    let origin = Origin::start(|_, conn| {
        let _ = conn.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
        // The origin waits until the tunnel ends.
        let _ = std::io::copy(conn, &mut std::io::sink());
        After::Close
    });
    let mut shim = Shim::start(config(&origin).with("[server]\ndrain_timeout = \"1s\""));
    let mut tunnel = Raw::connect(shim.addr).patient(LONG);
    tunnel.send(upgrade("echo"));
    assert_eq!(tunnel.response_head().expect("a head").status, 101);
    shim.signal("TERM");
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
    let cut = "cut off: 0 requests in flight, 1 tunnels";
    assert!(shim.stderr().contains(cut), "stderr does not have {cut:?}: {}", shim.stderr());
}

#[test]
fn response_when_cut_by_drain_timeout_then_is_visibly_incomplete() {
    let origin = Origin::start(origin::endless(b"more and more"));
    let mut shim = Shim::start(config(&origin).with("[server]\ndrain_timeout = \"500ms\""));
    let mut client = in_flight(&shim, &origin, &get("/endless"));
    let reading = std::thread::spawn(move || client.response());
    shim.signal("TERM");
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
    let response = reading.join().expect("a reader").expect("a head");
    assert!(!response.complete && !response.body.is_empty(), "the cut response looks complete");
}

#[test]
fn drain_when_second_signal_arrives_then_exits_at_once() {
    for (delay, second) in [("0s", "TERM"), ("60s", "INT")] {
        let origin = Origin::start(origin::silent());
        let mut shim =
            Shim::start(config(&origin).with(&format!("[server]\ndrain_delay = \"{delay}\"\ndrain_timeout = \"60s\"")));
        let mut hangs = in_flight(&shim, &origin, &get("/hangs"));
        shim.signal("TERM");
        assert!(wait_until(LONG, || readyz(&shim) == 503));
        assert!(shim.running());
        shim.signal(second);
        assert_eq!(shim.wait_exit(Duration::from_secs(8)).code(), Some(0), "drain_delay = {delay}");
        assert!(hangs.closed());
    }
}

#[test]
fn drain_when_connection_is_http2_then_sends_goaway_and_completes_the_streams() {
    let gate = Gate::default();
    let origin = Origin::start(origin::gated(&gate));
    let mut shim = Shim::start(config(&origin));
    let mut resting = frames::Client::connect(shim.addr, 65_535);
    resting.get(1, "/rest");
    assert!(resting.ended_normally(1));
    // This client does not acknowledge the ping that follows the GOAWAY. Nevertheless, the shim must exit before the
    // end of drain_timeout.
    let mut deaf = frames::Client::connect(shim.addr, 65_535);
    deaf.get(1, "/rest");
    assert!(wait_until(LONG, || origin.count() == 2));
    let mut busy = frames::Client::connect(shim.addr, 65_535);
    busy.get(1, "/late");
    busy.get(3, "/half");
    assert!(wait_until(LONG, || origin.count() == 4));
    shim.signal("TERM");
    assert_eq!(resting.until(GOAWAY).expect("a GOAWAY").payload[4..8], [0; 4]);
    assert!(resting.next().is_none_or(|frame| frame.kind == GOAWAY), "another frame follows the GOAWAY");
    let mut bodies = [String::new(), String::new()];
    let (mut goaway, mut ended) = (false, 0);
    while let Some(frame) = busy.next() {
        match frame.kind {
            GOAWAY => {
                assert_eq!(frame.payload[4..8], [0; 4], "the error code of the GOAWAY must be NO_ERROR");
                if !goaway {
                    gate.open();
                }
                goaway = true;
            }
            DATA | HEADERS => {
                if frame.kind == DATA {
                    let body = &mut bodies[usize::from(frame.stream == 3)];
                    body.push_str(&String::from_utf8_lossy(&frame.payload));
                }
                ended += usize::from(frame.ends_stream());
            }
            other => assert_ne!(other, RST_STREAM, "stream {} is reset", frame.stream),
        }
    }
    assert!(goaway && ended == 2, "{ended} of 2 streams ended");
    assert_eq!(bodies, ["late but complete", "first second"]);
    deaf.raw.read_to_end();
    assert!(deaf.raw.closed());
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
    assert!(!shim.stderr().contains("drain_timeout"), "{}", shim.stderr());
}

// ---- under load -----------------------------------------------------------------------------------------------------

/// A request that got no complete response.
#[derive(Debug)]
struct Failed {
    /// The time at which the head of the request was sent.
    sent: Instant,
    what: String,
}

#[test]
fn requests_when_sent_under_load_before_the_listener_closes_then_get_responses() {
    let origin = Origin::start(origin::fixed(200, &[("Content-Type", "text/plain")], "here you are"));
    let served = Arc::new(AtomicUsize::new(0));
    for _ in 0..5 {
        let mut shim = Shim::start(config(&origin));
        let goal = served.load(Ordering::SeqCst) + 400;
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (addr, served) = (shim.addr, Arc::clone(&served));
                std::thread::spawn(move || send_load(addr, &served))
            })
            .collect();
        // The probe opens connections in a loop and returns the start time of the last accepted connection. The
        // listener was open at that time, so each request that was sent before that time must get a response.
        let stop = Arc::new(AtomicBool::new(false));
        let probe = std::thread::spawn({
            let (addr, stop) = (shim.addr, Arc::clone(&stop));
            move || {
                let mut open_at = Instant::now();
                while !stop.load(Ordering::SeqCst) {
                    let begun = Instant::now();
                    if TcpStream::connect(addr).is_err() {
                        break;
                    }
                    open_at = begun;
                    std::thread::sleep(Duration::from_micros(300));
                }
                open_at
            }
        });
        let busy = wait_until(LONG, || served.load(Ordering::SeqCst) >= goal);
        shim.signal("TERM");
        let status = shim.wait_exit(LONG);
        stop.store(true, Ordering::SeqCst);
        let open_at = probe.join().expect("the probe thread");
        let failed: Vec<Failed> =
            threads.into_iter().flat_map(|thread| thread.join().expect("a client thread")).collect();
        assert!(busy, "the load did not start");
        assert_eq!(status.code(), Some(0));
        let lost: Vec<_> = failed
            .iter()
            .filter(|failed| failed.sent <= open_at)
            .map(|failed| {
                format!("sent {:?} before the last accepted connection: {}", open_at - failed.sent, failed.what)
            })
            .collect();
        assert!(lost.is_empty(), "requests without a complete response: {lost:#?}");
        assert!(!shim.stderr().contains("drain_timeout"), "{}", shim.stderr());
    }
}

/// Sends GET requests until the listener closes, at most fifty on each connection. Returns the failed requests.
fn send_load(addr: SocketAddr, served: &AtomicUsize) -> Vec<Failed> {
    let mut failed = Vec::new();
    while let Ok(mut conn) = Conn::tcp(addr, PATIENCE) {
        conn.limit(LONG);
        let mut reader = Reader::new(conn.again().expect("a second handle"));
        for number in 0..50 {
            if conn.write_all(get("/load").as_bytes()).is_err() {
                // The shim closed the connection before the head was sent. A real client sends such a request again, so
                // the test does not count the request as failed.
                break;
            }
            let sent = Instant::now();
            match read_response(&mut reader) {
                Ok(last) => {
                    served.fetch_add(1, Ordering::SeqCst);
                    if last {
                        break;
                    }
                }
                Err(what) => {
                    failed.push(Failed { sent, what: format!("request {number} of the connection: {what}") });
                    break;
                }
            }
        }
    }
    failed
}

/// Reads a complete response. Returns true if the response is the last response on the connection.
fn read_response(reader: &mut Reader<Conn>) -> Result<bool, String> {
    let head = reader.head().map_err(|why| format!("no head: {why:?}"))?;
    let framing = http1::framing(&head.fields, &mut Vec::new()).ok_or("no framing")?;
    let body = reader.body(framing, 1000);
    if !head.start.starts_with("HTTP/1.1 200") || !body.complete || body.data != b"here you are" {
        return Err(format!("{} {:?}", head.start, body.problems));
    }
    Ok(head.field("connection") == Some("close"))
}

// ---- SIGUSR1, SIGHUP ------------------------------------------------------------------------------------------------

#[test]
fn access_log_when_renamed_before_sigusr1_then_new_file_starts_and_no_line_is_lost() {
    const CLIENTS: usize = 3;
    let origin = Origin::start(origin::fixed(200, &[], "here you are"));
    let mut shim = Shim::start(config(&origin).with("[access_log]\noutput = \"file:access.log\""));
    let path = shim.dir.join("access.log");
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (addr, stop) = (shim.addr, Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut client = Raw::connect(addr).patient(LONG);
                let mut sent = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let id = format!("client-{number}-{}", sent.len());
                    client.send(format!("GET / HTTP/1.1\r\nHost: shim.test\r\nX-Request-Id: {id}\r\n\r\n"));
                    assert_eq!(client.response().expect("a response").status, 200);
                    sent.push(id);
                }
                sent
            })
        })
        .collect();
    let written = || std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > 0);
    let mut files = Vec::new();
    for rotation in 0..4 {
        assert!(wait_until(LONG, written), "rotation {rotation}: the new file is missing or empty");
        let old = shim.dir.join(format!("access.log.{rotation}"));
        std::fs::rename(&path, &old).expect("a renamed log file");
        files.push(old);
        shim.signal("USR1");
    }
    assert!(wait_until(LONG, written));
    files.push(path.clone());
    stop.store(true, Ordering::SeqCst);
    let sent: Vec<String> = threads.into_iter().flat_map(|thread| thread.join().expect("a client thread")).collect();
    let dropped = shim.metrics().value("edgeshim_access_log_dropped_total", &[]);
    assert!(dropped.abs() < f64::EPSILON, "{dropped} lines were dropped");
    shim.signal("TERM");
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
    let mut logged = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).expect("a log file");
        assert!(text.ends_with('\n'), "{} ends within a line", file.display());
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
            logged.push(line["id"].as_str().expect("an id").to_owned());
        }
    }
    let unique: HashSet<&String> = logged.iter().collect();
    assert_eq!(unique.len(), logged.len(), "a line was written twice");
    assert_eq!(unique, sent.iter().collect(), "the ids in the log differ from the ids of the requests");
}

#[test]
fn request_when_completed_during_the_drain_then_logged() {
    let gate = Gate::default();
    let origin = Origin::start(origin::gated(&gate));
    let mut shim = Shim::start(config(&origin).with("[access_log]\noutput = \"file:access.log\""));
    drop(idle(&shim));
    let mut late = in_flight(&shim, &origin, &get("/late"));
    shim.signal("TERM");
    assert!(wait_until(LONG, || refuses(shim.addr)));
    gate.open();
    assert_eq!(late.response().expect("a response").status, 200);
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
    let log = std::fs::read_to_string(shim.dir.join("access.log")).expect("a log file");
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("valid JSON")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert_eq!((&lines[1]["status"], &lines[1]["bytes"]), (&200.into(), &17.into()), "{log}");
}

#[test]
fn sighup_when_received_then_ends_no_request_and_no_connection() {
    let gate = Gate::default();
    let origin = Origin::start(origin::gated(&gate));
    let mut shim = Shim::start(config(&origin));
    let mut resting = idle(&shim);
    let mut late = in_flight(&shim, &origin, &get("/late"));
    shim.signal("HUP");
    shim.wait_metrics(|metrics| metrics.count("edgeshim_config_reloads_total", &[("result", "ok")]) == 1);
    assert!(shim.running());
    assert_eq!(readyz(&shim), 200);
    resting.send(get("/quick"));
    assert_eq!(resting.response().expect("a response on the idle connection").status, 200);
    assert_eq!(fetch(shim.addr, "/quick", &[]).status, 200);
    gate.open();
    assert_eq!(late.response().expect("a response").text(), "late but complete");
    shim.signal("TERM");
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
}
