//! Tests of an origin with several addresses: which address a connection uses, how a dead address is passed over and
//! probed, the health check, new addresses of the name, and the retry budget.
//!
//! The shim runs in the process of the test, with a resolver of the test in place of DNS. The addresses are those of
//! the loopback network, so that several origins can have the same port.

#![allow(clippy::unwrap_used, reason = "a failed test is a panic")]

mod support;

use edgeshim::internals::{Drain, Lasting, Metrics, Resolver, Runtime, Server, Slot, config};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use support::raw::fetch;
use support::{Gate, Response, wait_until};

/// The longest time that a test waits for one event.
const LONG: Duration = Duration::from_secs(20);
const FAULTS: &str = "edgeshim_origin_faults_total";

const A: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// The addresses that the resolver of a test returns, and the number of lookups.
#[derive(Clone, Default)]
struct Names(Arc<(Mutex<Vec<IpAddr>>, AtomicUsize)>, Hanging);

/// While this value has a gate, each lookup waits for the gate.
type Hanging = Arc<Mutex<Option<Gate>>>;

impl Names {
    fn of(addresses: &[IpAddr]) -> Self {
        let names = Self::default();
        names.set(addresses);
        names
    }

    fn set(&self, addresses: &[IpAddr]) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = addresses.to_vec();
    }

    /// Lets each lookup hang until the returned gate opens.
    fn hang(&self) -> Gate {
        let gate = Gate::default();
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(gate.clone());
        gate
    }

    fn lookups(&self) -> usize {
        self.0.1.load(Ordering::Relaxed)
    }

    /// Returns a resolver with a lookup every 100 ms and this hold time.
    fn resolver(&self, hold: Duration) -> Resolver {
        let names = self.clone();
        let resolver = Resolver::new(move |host, port| {
            assert_eq!(host, "origin.test");
            names.0.1.fetch_add(1, Ordering::Relaxed);
            let gate = names.1.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(gate) = gate {
                gate.wait();
            }
            let addresses = names.0.0.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(addresses.iter().map(|&ip| SocketAddr::new(ip, port)).collect())
        });
        resolver.with_times(Duration::from_millis(100), hold)
    }
}

/// A shim in the process of the test.
struct InProcess {
    addr: SocketAddr,
    metrics: &'static Metrics,
    server: Server,
}

impl InProcess {
    fn start(names: &Names, port: u16, keys: &str) -> Self {
        Self::start_with(names.resolver(Duration::from_millis(300)), port, keys)
    }

    fn start_with(resolver: Resolver, port: u16, keys: &str) -> Self {
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n[origin]\nurl = \"http://origin.test:{port}\"\n{keys}"
        );
        let settings = config::parse(&text, "test.toml", Path::new(".")).unwrap();
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        let lasting = Arc::new(Lasting::with_resolver(resolver));
        let runtime = Runtime::build(settings, metrics, &lasting).unwrap();
        let slot: &'static Slot = Box::leak(Box::new(Slot::new(runtime)));
        let server = Server::start(slot, &Arc::new(Drain::default())).unwrap();
        Self { addr: server.tcp_address().unwrap(), metrics, server }
    }

    fn get(&self, target: &str) -> Response {
        fetch(self.addr, target, &[])
    }

    fn faults(&self) -> u64 {
        support::Metrics::parse(&self.metrics.render()).count(FAULTS, &[])
    }
}

/// An origin at one address. It can be stopped, and started again at the same port.
struct Site {
    state: Arc<State>,
    addr: SocketAddr,
}

#[derive(Default)]
struct State {
    connections: AtomicUsize,
    requests: AtomicUsize,
    ill: AtomicBool,
    down: AtomicBool,
}

impl Site {
    /// Starts origins at these addresses, with one free port for all of them.
    fn start_all<const N: usize>(addresses: [IpAddr; N]) -> [Self; N] {
        loop {
            let first = TcpListener::bind((addresses[0], 0)).unwrap();
            let port = first.local_addr().unwrap().port();
            let rest: Vec<_> = addresses[1..].iter().filter_map(|&ip| TcpListener::bind((ip, port)).ok()).collect();
            if rest.len() == N - 1 {
                let mut listeners = std::iter::once(first).chain(rest);
                return addresses.map(|_| Self::on(listeners.next().unwrap()));
            }
        }
    }

    fn on(listener: TcpListener) -> Self {
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let site = Self { state: Arc::clone(&state), addr };
        site.listen(listener);
        site
    }

    fn listen(&self, listener: TcpListener) {
        let state = Arc::clone(&self.state);
        let name = self.addr.ip().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if state.down.load(Ordering::Relaxed) {
                    return;
                }
                state.connections.fetch_add(1, Ordering::Relaxed);
                let (state, name) = (Arc::clone(&state), name.clone());
                std::thread::spawn(move || serve(stream, &state, &name));
            }
        });
    }

    /// Stops listening. The kernel then refuses connections.
    fn stop(&self) {
        self.state.down.store(true, Ordering::Relaxed);
        // This connection ends the loop of the listener, which closes the listener.
        drop(TcpStream::connect(self.addr));
        assert!(wait_until(LONG, || TcpStream::connect(self.addr).is_err()), "the listener is still open");
    }

    /// Listens again after `stop`.
    fn restart(&self) {
        self.state.down.store(false, Ordering::Relaxed);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&self.addr.into()).unwrap();
        socket.listen(128).unwrap();
        self.listen(socket.into());
    }

    fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }

    fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }
}

/// Responds with the address of the origin. `/healthz` gets a 503 while the origin is unhealthy. `/drop` gets no
/// response, and `/last` is the last request of its connection.
fn serve(mut stream: TcpStream, state: &State, name: &str) {
    let mut head = Vec::new();
    let mut byte = [0];
    while matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        if state.down.load(Ordering::Relaxed) || head.starts_with(b"GET /drop ") {
            return;
        }
        let is_check = head.starts_with(b"GET /healthz ");
        if !is_check {
            state.requests.fetch_add(1, Ordering::Relaxed);
        }
        let status = if is_check && state.ill.load(Ordering::Relaxed) { 503 } else { 200 };
        let is_last = head.starts_with(b"GET /last ");
        let connection = if is_last { "close" } else { "keep-alive" };
        let text =
            format!("HTTP/1.1 {status} \r\nConnection: {connection}\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        if stream.write_all(text.as_bytes()).is_err() || is_last {
            return;
        }
        head.clear();
    }
}

/// Keys with which each request needs a new connection and is never sent again.
const NO_REUSE: &str = "max_idle = 0\nretries = 0\n";

// ---- connections ----------------------------------------------------------------------------------------------------

#[test]
fn connections_when_name_has_two_addresses_then_use_the_addresses_in_turn() {
    let [a, b] = Site::start_all([A, B]);
    let shim = InProcess::start(&Names::of(&[A, B]), a.addr.port(), NO_REUSE);
    for _ in 0..10 {
        assert_eq!(shim.get("/").status, 200);
    }
    assert_eq!((a.requests(), b.requests()), (5, 5));
}

#[test]
fn request_when_one_address_is_dead_then_other_address_serves_and_dead_address_is_passed_over() {
    let [a, b] = Site::start_all([A, B]);
    a.stop();
    let shim = InProcess::start(&Names::of(&[A, B]), b.addr.port(), NO_REUSE);
    for method in ["GET", "POST"] {
        for _ in 0..20 {
            let response = support::raw::exchange(shim.addr, support::raw::request(method, "/", &[], b""));
            assert_eq!((response.status, response.text().as_str()), (200, "127.0.0.2"));
        }
    }
    assert_eq!((b.requests(), shim.faults()), (40, 0));
}

#[test]
fn address_when_origin_comes_back_then_one_request_probes_and_address_is_used_again() {
    let [a, b] = Site::start_all([A, B]);
    a.stop();
    let shim = InProcess::start(&Names::of(&[A, B]), b.addr.port(), NO_REUSE);
    for _ in 0..4 {
        assert_eq!(shim.get("/").text(), "127.0.0.2");
    }
    let before = a.connections();
    a.restart();
    assert!(wait_until(LONG, || shim.get("/").text() == "127.0.0.1"), "the address must be probed");
    assert_eq!(a.connections(), before + 1, "more than one connection probed the address");
    for _ in 0..10 {
        assert_eq!(shim.get("/").status, 200);
    }
    assert!(a.requests() >= 5, "the address got {} requests", a.requests());
    assert_eq!(shim.faults(), 0);
}

#[test]
fn only_address_when_dead_then_each_request_tries_the_address() {
    let [a] = Site::start_all([A]);
    a.stop();
    let shim = InProcess::start(&Names::of(&[A]), a.addr.port(), NO_REUSE);
    for _ in 0..5 {
        assert_eq!(shim.get("/").status, 502);
    }
    a.restart();
    let began = Instant::now();
    assert_eq!(shim.get("/").status, 200, "the only address must not be passed over");
    assert!(began.elapsed() < LONG);
    assert_eq!(shim.faults(), 5);
}

#[test]
fn address_when_connections_hang_then_other_address_serves_without_the_connect_timeout() {
    let [a, b] = Site::start_all([A, B]);
    a.stop();
    // The queue of this listener is full, so the kernel drops further connections.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&a.addr.into()).unwrap();
    socket.listen(0).unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&a.addr, Duration::from_millis(300)) {
        held.push(stream);
    }
    let shim = InProcess::start(&Names::of(&[A, B]), b.addr.port(), "max_idle = 0\nconnect_timeout = \"10s\"");
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(shim.get("/").text(), "127.0.0.2");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "ten requests took {:?}", began.elapsed());
}

// ---- names ----------------------------------------------------------------------------------------------------------

#[test]
fn name_when_addresses_change_then_new_address_serves_and_old_address_is_unused() {
    let [a, b] = Site::start_all([A, B]);
    let names = Names::of(&[A]);
    let shim = InProcess::start(&names, a.addr.port(), "");
    assert_eq!(shim.get("/").text(), "127.0.0.1");
    names.set(&[B]);
    assert!(wait_until(LONG, || shim.get("/").text() == "127.0.0.2"), "the name must be looked up again");
    let requests = a.requests();
    for _ in 0..10 {
        assert_eq!(shim.get("/").text(), "127.0.0.2");
    }
    assert_eq!((a.requests(), shim.faults()), (requests, 0), "the old address still gets requests");
    names.set(&[]);
    let lookups = names.lookups();
    assert!(wait_until(LONG, || names.lookups() > lookups + 1));
    assert_eq!(shim.get("/").status, 200, "the last addresses must stay in use");
    drop(b);
}

#[test]
fn address_when_missing_in_some_lookups_then_stays_in_use_until_an_attempt_fails() {
    let [a, _b] = Site::start_all([A, B]);
    let names = Names::of(&[A, B]);
    let shim = InProcess::start_with(names.resolver(Duration::from_hours(1)), a.addr.port(), NO_REUSE);
    assert_eq!(shim.get("/").status, 200);
    names.set(&[B]);
    let lookups = names.lookups();
    assert!(wait_until(LONG, || names.lookups() > lookups + 3));
    let before = a.requests();
    for _ in 0..10 {
        assert_eq!(shim.get("/").status, 200);
    }
    assert_eq!(a.requests(), before + 5, "the address that some lookups lack must stay in use");
    a.stop();
    for _ in 0..10 {
        assert_eq!(shim.get("/").text(), "127.0.0.2");
    }
    let lookups = names.lookups();
    assert!(wait_until(LONG, || names.lookups() > lookups + 1));
    a.restart();
    // Without the lookup, one of these requests would probe the address after a second.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        assert_eq!(shim.get("/").text(), "127.0.0.2", "an address that is missing and has failed must be dropped");
    }
    assert_eq!(shim.faults(), 0);
}

#[test]
fn requests_when_lookup_hangs_then_share_one_lookup_and_wait_at_most_the_connect_timeout() {
    const CLIENTS: usize = 20;
    let [a] = Site::start_all([A]);
    let names = Names::of(&[A]);
    let gate = names.hang();
    let shim = InProcess::start(&names, a.addr.port(), "connect_timeout = \"1s\"\n");
    let ask_all = |status| {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| shim.get("/").status)).collect();
            for client in clients {
                assert_eq!(client.join().unwrap(), status);
            }
        });
    };
    ask_all(504);
    ask_all(504);
    assert_eq!(names.lookups(), 1, "a second lookup began while the first one was running");
    gate.open();
    assert!(wait_until(LONG, || shim.get("/").status == 200));
    ask_all(200);
}

#[test]
fn server_when_lookup_hangs_then_ends_without_waiting_for_the_lookup() {
    let names = Names::of(&[A]);
    let gate = names.hang();
    let shim = InProcess::start(&names, 1, "connect_timeout = \"200ms\"\n");
    assert_eq!(shim.get("/").status, 504);
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        shim.server.finish(Duration::from_millis(100));
        sender.send(()).unwrap();
    });
    // The gate opens by itself only after 20 seconds.
    assert!(ended.recv_timeout(LONG / 2).is_ok(), "the server waits for the lookup");
    gate.open();
}

// ---- the health check -----------------------------------------------------------------------------------------------

const CHECKED: &str =
    "health = { path = \"/healthz\", interval = \"100ms\", unhealthy_after = 2, healthy_after = 2 }\n";

#[test]
fn address_when_health_check_fails_then_passed_over_until_healthy_again() {
    let [a, b] = Site::start_all([A, B]);
    let shim = InProcess::start(&Names::of(&[A, B]), a.addr.port(), CHECKED);
    a.state.ill.store(true, Ordering::Relaxed);
    let only_b = || (0..10).all(|_| shim.get("/").text() == "127.0.0.2");
    assert!(wait_until(LONG, only_b), "the unhealthy address still gets requests, over kept connections or new ones");
    b.state.ill.store(true, Ordering::Relaxed);
    let both = || (0..10).all(|_| shim.get("/").status == 200);
    assert!(both(), "without a healthy address, all addresses must be used");
    b.state.ill.store(false, Ordering::Relaxed);
    a.state.ill.store(false, Ordering::Relaxed);
    let before = a.requests();
    // Kept connections are used first, so each of these requests ends its connection.
    let used_again = || {
        assert_eq!(shim.get("/last").status, 200);
        a.requests() > before
    };
    assert!(wait_until(LONG, used_again), "the healthy address gets no requests");
    assert_eq!(shim.faults(), 0);
}

#[test]
fn health_check_when_lookup_hangs_then_continues() {
    let [a, b] = Site::start_all([A, B]);
    let names = Names::of(&[A, B]);
    let shim = InProcess::start(&names, a.addr.port(), CHECKED);
    assert_eq!(shim.get("/").status, 200);
    let gate = names.hang();
    let lookups = names.lookups();
    assert!(wait_until(LONG, || names.lookups() > lookups));
    a.state.ill.store(true, Ordering::Relaxed);
    let only_b = || (0..10).all(|_| shim.get("/").text() == "127.0.0.2");
    assert!(wait_until(LONG, only_b), "the unhealthy address still gets requests");
    gate.open();
    drop(b);
}

#[test]
fn only_address_when_health_check_fails_then_still_serves() {
    let [a] = Site::start_all([A]);
    let shim = InProcess::start(&Names::of(&[A]), a.addr.port(), CHECKED);
    a.state.ill.store(true, Ordering::Relaxed);
    let before = a.connections();
    assert!(wait_until(LONG, || a.connections() > before + 4), "the health check must connect to the address");
    assert_eq!(shim.get("/").status, 200);
}

// ---- the retry budget -----------------------------------------------------------------------------------------------

#[test]
fn retries_when_every_request_fails_then_budget_bounds_the_attempts() {
    let [a] = Site::start_all([A]);
    let shim = InProcess::start(&Names::of(&[A]), a.addr.port(), "retries = 3\n");
    // Each pair of requests opens a connection, reuses the connection, and lets the second request fail on it.
    let began = Instant::now();
    let pulls = 400;
    let before = a.connections();
    for _ in 0..pulls {
        assert_eq!(shim.get("/").status, 200);
        assert_eq!(shim.get("/drop").status, 502);
    }
    // The failing request is sent over the reused connection, and then at most once more, over a new connection.
    let attempts = a.connections() - before;
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    let allowed = pulls + 50 + 2 * pulls / 5 + 5 * seconds;
    assert!(attempts <= allowed, "the shim made {attempts} connections, the limit is {allowed}");
    assert!(attempts >= pulls + 50, "{attempts} connections: the budget allows too few retries");
}
