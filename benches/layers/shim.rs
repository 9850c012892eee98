//! An edgeshim in the process of the bench, an origin, and a client. The client and the origin are on loopback, so a
//! pull includes the work of the kernel and the switches between the threads.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use edgeshim::internals::{Drain, Metrics, Runtime, Server, Slot, config};

/// Builds a runtime with separate metrics. `further` is the rest of the configuration.
pub(crate) fn runtime(origin: SocketAddr, further: &str) -> Runtime {
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n[origin]\nurl = \"http://{origin}\"\n\
         [[provider]]\nname = \"fastly\"\n[[provider]]\nname = \"akamai\"\n{further}"
    );
    let settings = config::parse(&text, "bench.toml", Path::new(".")).unwrap();
    let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
    Runtime::build(settings, metrics, &Arc::default()).unwrap()
}

/// The address of an origin that gets no requests.
pub(crate) fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

/// Starts an origin that sends the same response to each request.
fn origin(response: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let response: Arc<[u8]> = response.into();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let response = Arc::clone(&response);
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                // A request of these benches arrives in one piece.
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) && stream.write_all(&response).is_ok() {}
            });
        }
    });
    address
}

/// A client with one persistent connection to an edgeshim.
pub(crate) struct Client {
    _server: Server,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Starts an edgeshim in front of an origin that always sends `response`.
    pub(crate) fn new(response: Vec<u8>, further: &str) -> Self {
        let slot: &'static Slot = Box::leak(Box::new(Slot::new(runtime(origin(response), further))));
        let server = Server::start(slot, &Arc::new(Drain::default())).unwrap();
        let stream = TcpStream::connect(server.tcp_address().unwrap()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { _server: server, stream, buffer: vec![0; 256 * 1024] }
    }

    /// Sends a request and reads the complete response. `end` returns true if the bytes are a complete response.
    /// Returns the size of the response.
    pub(crate) fn pull(&mut self, request: &[u8], end: impl Fn(&[u8]) -> bool) -> usize {
        self.stream.write_all(request).unwrap();
        let mut filled = 0;
        while !end(&self.buffer[..filled]) {
            let read = self.stream.read(&mut self.buffer[filled..]).unwrap();
            assert!(read > 0, "edgeshim closed the connection");
            filled += read;
        }
        filled
    }
}

/// Whether a response with Content-Length is complete.
pub(crate) fn has_length(response: &[u8]) -> bool {
    let Some(head) = response.windows(4).position(|part| part == b"\r\n\r\n") else { return false };
    let lines = String::from_utf8_lossy(&response[..head]);
    let length = lines.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.expect("the response has Content-Length").parse().unwrap();
    response.len() >= head + 4 + length
}

/// Whether a response with chunks or with Content-Length is complete.
pub(crate) fn is_complete(response: &[u8]) -> bool {
    let chunked = b"transfer-encoding: chunked";
    if response.windows(chunked.len()).take(2048).any(|part| part == chunked) {
        return response.ends_with(b"\r\n0\r\n\r\n");
    }
    has_length(response)
}

/// A response with a body and a strong `ETag`.
pub(crate) fn response(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nETag: \"e2098b96\"\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
