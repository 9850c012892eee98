//! Counts the allocations of one pull in steady state, and of a pull with its own connection. The shim runs in the
//! process of the test.
//!
//! The client and the origin are threads of this test, and they do not allocate while the test counts. So the test
//! counts only the allocations of the shim. The count includes hyper's read buffers, channels and parsed heads.

#![allow(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use edgeshim::internals::{Drain, Metrics, Runtime, Server, Slot, config};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: text/html\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\nhello";
const PULL: &[u8] = b"GET /index.html HTTP/1.1\r\nHost: shim.test\r\nX-CDN-Provider: fastly\r\n\r\n";
/// A pull with more header fields than [`PULL`]: ids, preferences of the browser, and fields that CDNs add.
const RICH_PULL: &[u8] =
    b"GET /index.html HTTP/1.1\r\nHost: shim.test\r\nX-CDN-Provider: fastly\r\nAccept: text/html\r\n\
Accept-Language: de\r\nX-Request-Id: abc\r\ntraceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01\r\n\
User-Agent: test\r\nX-Forwarded-For: 192.0.2.1\r\nVia: 1.1 varnish\r\nCDN-Loop: Fastly\r\n\r\n";
/// A pull with Fastly's header fields, the correct secret and the client's address.
const SIGNED_PULL: &[u8] =
    b"GET /index.html HTTP/1.1\r\nHost: shim.test\r\nFastly-FF: a!LHR!cache-1\r\nCDN-Loop: Fastly\r\n\
Fastly-Client-IP: 192.0.2.1\r\nX-Origin-Secret: a-secret\r\n\r\n";
/// The same pull as [`SIGNED_PULL`], with a wrong secret.
const UNPROVED_PULL: &[u8] =
    b"GET /index.html HTTP/1.1\r\nHost: shim.test\r\nFastly-FF: a!LHR!cache-1\r\nCDN-Loop: Fastly\r\n\
Fastly-Client-IP: 192.0.2.1\r\nX-Origin-Secret: a-guess!\r\n\r\n";
const PROOF: &str = "verify.secret = { header = \"X-Origin-Secret\", values = [\"a-secret\"] }";
const ROUNDS: u32 = 2_000;

/// Starts an origin that responds to every head without an allocation.
fn origin() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read) = stream.read(&mut buffer) {
                    if read == 0 || stream.write_all(RESPONSE).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn shim(origin: std::net::SocketAddr, verify: &str, further: &str) -> Server {
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n[origin]\nurl = \"http://{origin}\"\n\
         [[provider]]\nname = \"fastly\"\n{verify}\n\
         [[class]]\nname = \"html\"\npath = [\"*.html\"]\ncache = {{ mode = \"default\", ttl = \"5s\" }}\n{further}"
    );
    let settings = config::parse(&text, "test.toml", Path::new(".")).unwrap();
    let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
    let slot: &'static Slot =
        Box::leak(Box::new(Slot::new(Runtime::build(settings, metrics, &Arc::default()).unwrap())));
    Server::start(slot, &Arc::new(Drain::default())).unwrap()
}

/// Sends `pull` and reads the response, `rounds` times, with a buffer on the stack.
fn drive(mut stream: &TcpStream, pull: &[u8], rounds: u32) {
    let mut buffer = [0; 4096];
    for _ in 0..rounds {
        stream.write_all(pull).unwrap();
        let mut filled = 0;
        while !buffer[..filled].ends_with(b"\r\n\r\nhello") {
            let read = stream.read(&mut buffer[filled..]).unwrap();
            assert!(read > 0, "the shim closed the connection");
            filled += read;
        }
    }
}

#[test]
fn pull_when_connections_are_reused_or_new_then_allocates_at_most_the_limit() {
    let servers = [("", ""), ("", "[rum]\npath = \"/rum\"\n"), ("", "[identity]\nrecognise = false\n"), (PROOF, "")]
        .map(|(verify, further)| shim(origin(), verify, further));
    let [plain, timing, unasked, proving] = servers.each_ref().map(|server| server.tcp_address().unwrap());
    for (name, address, pull, limit) in [
        ("small", plain, PULL, LIMIT_SMALL),
        ("rich", plain, RICH_PULL, LIMIT_RICH),
        ("small with Server-Timing", timing, PULL, LIMIT_SMALL + 1.0),
        // Identification and proofs cost no allocation. The proved client address costs two allocations: the text that
        // is sent to the origin, and the reference count of the text.
        ("recognition turned off", unasked, SIGNED_PULL, LIMIT_SIGNED),
        ("recognised", plain, SIGNED_PULL, LIMIT_SIGNED),
        ("not proved", proving, UNPROVED_PULL, LIMIT_SIGNED),
        ("proved", proving, SIGNED_PULL, LIMIT_SIGNED + 2.0),
    ] {
        // A new connection for each row: on a busy machine, a row can take longer than `server.idle_timeout`.
        let stream = &TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        drive(stream, pull, 200);
        assert_allocations(name, limit, || drive(stream, pull, ROUNDS));
    }
    let last = [&PULL[..PULL.len() - 2], b"Connection: close\r\n\r\n"].concat();
    let connect = |rounds: u32| {
        for _ in 0..rounds {
            let stream = &TcpStream::connect(plain).unwrap();
            stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
            drive(stream, &last, 1);
        }
    };
    connect(200);
    assert_allocations("new connection", LIMIT_NEW, || connect(ROUNDS));
}

/// Counts the allocations of [`ROUNDS`] pulls.
fn assert_allocations(name: &str, limit: f64, pulls: impl FnOnce()) {
    let region = Region::new(ALLOCATOR);
    pulls();
    let change = region.change();
    let count = f64::from(u32::try_from(change.allocations + change.reallocations).unwrap()) / f64::from(ROUNDS);
    println!("{name}: {count:.2} allocations and {} bytes per pull", change.bytes_allocated / ROUNDS as usize);
    assert!(count <= limit, "{name}: {count:.2} allocations per pull, above the limit of {limit}");
}

/// The largest number of allocations for one pull. The limits have fractions, because the samples of a histogram are
/// stored in blocks and only some samples allocate a block.
const LIMIT_SMALL: f64 = 6.1;
/// The limit for a pull with its own connection.
const LIMIT_NEW: f64 = 13.1;
const LIMIT_RICH: f64 = 9.1;
const LIMIT_SIGNED: f64 = 9.1;
