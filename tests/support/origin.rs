//! A scripted origin with one thread for each connection. A closure of the test writes the bytes of the responses. The
//! origin records all requests, and how the requests break the protocol.

use super::Gate;
use super::http1::{self, Fields, Framing, Head, NoHead, Reader};
use rustls::{ClientConnection, StreamOwned};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The longest request body that the origin records. A longer body is recorded as incomplete.
const MOST_BODY_BYTES: usize = 256 << 20;

/// A received request.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The number of the request's connection. The first connection has the number 0.
    pub connection: usize,
    /// The bytes of the head, up to and including the empty line.
    pub raw: Vec<u8>,
    /// The method in the request line.
    pub method: String,
    /// The target in the request line.
    pub target: String,
    /// The version in the request line.
    pub version: String,
    /// The fields in the order and case of the wire.
    pub fields: Fields,
    /// The body, without the bytes of its framing.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Fields,
    /// True when the framing says that the body is complete.
    pub complete: bool,
    /// Breaches of the protocol. Empty for a well-formed request.
    pub problems: Vec<String>,
}

impl Request {
    /// Returns the value of the first field with this name. The case of the letters does not matter.
    pub fn field(&self, name: &str) -> Option<&str> {
        http1::find(&self.fields, name)
    }

    /// Returns all values of the fields with this name, in order.
    pub fn fields_named(&self, name: &str) -> Vec<&str> {
        http1::find_all(&self.fields, name)
    }
}

/// What happens to the connection after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The connection stays open for the next request.
    Keep,
    /// The origin closes the connection normally (FIN).
    Close,
    /// The origin resets the connection (RST). A Unix socket has no reset, so the origin closes the socket normally.
    Reset,
}

/// A connection over TCP, over TLS (as the client) or over a Unix socket, with a count of the written bytes.
#[derive(Debug)]
pub struct Conn {
    socket: Socket,
    /// The time from which all reads and writes fail.
    deadline: Option<Instant>,
    written: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Unix(UnixStream),
}

impl Conn {
    /// Connects by TCP.
    pub fn tcp(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        Ok(Self::of_tcp(TcpStream::connect_timeout(&address, timeout)?))
    }

    /// Connects to a Unix socket.
    pub fn unix(path: &Path) -> io::Result<Self> {
        Ok(Self::of_unix(UnixStream::connect(path)?))
    }

    /// Does a TLS handshake on a connection. `first` is sent before the handshake.
    pub fn tls(mut stream: TcpStream, session: ClientConnection, first: &[u8], timeout: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(timeout))?;
        stream.set_nodelay(true)?;
        stream.write_all(first)?;
        let mut stream = StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { socket: Socket::Tls(Box::new(stream)), deadline: None, written: Arc::default() })
    }

    /// Returns the TLS session. Panics if the connection does not use TLS.
    pub fn session(&self) -> &ClientConnection {
        let Socket::Tls(stream) = &self.socket else { panic!("the connection has no TLS") };
        &stream.conn
    }

    fn of_tcp(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self { socket: Socket::Tcp(stream), deadline: None, written: Arc::default() }
    }

    fn of_unix(stream: UnixStream) -> Self {
        Self { socket: Socket::Unix(stream), deadline: None, written: Arc::default() }
    }

    /// Returns another handle to the same socket. The two handles share the count of written bytes.
    pub fn again(&self) -> io::Result<Self> {
        let socket = match &self.socket {
            Socket::Tcp(stream) => Socket::Tcp(stream.try_clone()?),
            Socket::Tls(_) => return Err(io::ErrorKind::Unsupported.into()),
            Socket::Unix(stream) => Socket::Unix(stream.try_clone()?),
        };
        Ok(Self { socket, deadline: self.deadline, written: Arc::clone(&self.written) })
    }

    /// Makes all reads and writes fail when `timeout` has passed from now.
    pub fn limit(&mut self, timeout: Duration) {
        self.deadline = Some(Instant::now() + timeout);
    }

    /// Closes one direction or both directions.
    pub fn shutdown(&self, how: Shutdown) {
        let _ = match &self.socket {
            Socket::Tcp(stream) => stream.shutdown(how),
            Socket::Tls(stream) => stream.sock.shutdown(how),
            Socket::Unix(stream) => stream.shutdown(how),
        };
    }

    /// Makes the kernel keep the last bytes of later writes until the connection is shut down, for at most 200 ms
    /// (`TCP_CORK`). The last bytes and the end of the connection are then one segment.
    pub fn send_end_with_last_bytes(&self) {
        if let Socket::Tcp(stream) = &self.socket {
            rustix::net::sockopt::set_tcp_cork(stream, true).expect("the socket accepts TCP_CORK");
        }
    }

    /// Makes sure that a later close of the socket sends a reset.
    pub fn reset_at_close(&self) {
        if let Socket::Tcp(stream) = &self.socket {
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => Err(io::Error::new(io::ErrorKind::TimedOut, "the time limit of the test passed")),
            left => Ok(left),
        }
    }
}

impl Read for Conn {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left()?;
        match &mut self.socket {
            Socket::Tcp(stream) => {
                stream.set_read_timeout(left)?;
                stream.read(buffer)
            }
            Socket::Tls(stream) => {
                stream.sock.set_read_timeout(left)?;
                stream.read(buffer)
            }
            Socket::Unix(stream) => {
                stream.set_read_timeout(left)?;
                stream.read(buffer)
            }
        }
    }
}

impl Write for Conn {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let left = self.left()?;
        let written = match &mut self.socket {
            Socket::Tcp(stream) => {
                stream.set_write_timeout(left)?;
                stream.write(buffer)
            }
            Socket::Tls(stream) => {
                stream.sock.set_write_timeout(left)?;
                stream.write(buffer)
            }
            Socket::Unix(stream) => {
                stream.set_write_timeout(left)?;
                stream.write(buffer)
            }
        }?;
        self.written.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reserved loopback port without a listener. The kernel refuses connections to this port.
pub struct ClosedPort {
    _socket: socket2::Socket,
    /// The address.
    pub addr: SocketAddr,
}

impl ClosedPort {
    /// Reserves a port.
    pub fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        let addr = socket.local_addr().ok().and_then(|addr| addr.as_socket()).expect("an IPv4 address");
        Self { _socket: socket, addr }
    }
}

type Handler = Box<dyn Fn(&Request, &mut Conn) -> After + Send + Sync>;

struct Shared {
    handler: Handler,
    /// Whether the handler runs before the origin reads the request body.
    at_head: bool,
    requests: Mutex<Vec<Request>>,
    /// Descriptions of received bytes that are not a complete request head.
    problems: Mutex<Vec<String>>,
    open: Mutex<BTreeMap<usize, Conn>>,
    connections: AtomicUsize,
    written: Arc<AtomicU64>,
    stopping: AtomicBool,
}

/// The origin, which stops when this value is dropped.
pub struct Origin {
    /// The address at which the origin listens, or 0.0.0.0:0 if the origin listens on a Unix socket.
    pub addr: SocketAddr,
    /// The path of the Unix socket on which the origin listens, if any.
    pub path: Option<PathBuf>,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Origin {
    /// Starts on a free port. `handler` runs when a request is complete. An incomplete request is recorded, but gets no
    /// response. If a request has `Expect: 100-continue` and a body, the origin sends a 100 before it reads the body.
    pub fn start(handler: impl Fn(&Request, &mut Conn) -> After + Send + Sync + 'static) -> Self {
        Self::tcp(Box::new(handler), false)
    }

    /// Starts like [`Origin::start`], but `handler` runs when the head has arrived. If the handler returns
    /// [`After::Keep`], the origin then reads the body. The origin sends no 100, but the handler can send a 100.
    pub fn start_at_head(handler: impl Fn(&Request, &mut Conn) -> After + Send + Sync + 'static) -> Self {
        Self::tcp(Box::new(handler), true)
    }

    /// Starts like [`Origin::start`], on a Unix socket at `path`.
    pub fn start_unix(path: &Path, handler: impl Fn(&Request, &mut Conn) -> After + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(path).expect("a Unix socket");
        let shared = Shared::new(Box::new(handler), false);
        let addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let accept = move || Ok(Conn::of_unix(listener.accept()?.0));
        Self { addr, path: Some(path.to_owned()), accepting: Some(accepting(&shared, accept)), shared }
    }

    fn tcp(handler: Handler, at_head: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let addr = listener.local_addr().expect("the port's number");
        let shared = Shared::new(handler, at_head);
        let accept = move || Ok(Conn::of_tcp(listener.accept()?.0));
        Self { addr, path: None, accepting: Some(accepting(&shared, accept)), shared }
    }

    /// Returns the value of `origin.url` for this origin.
    pub fn url(&self) -> String {
        match &self.path {
            Some(path) => format!("unix:{}", path.display()),
            None => format!("http://{}", self.addr),
        }
    }

    /// Returns the recorded requests, in the order in which their heads arrived.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// Returns the number of recorded requests, including requests whose body has not arrived.
    pub fn count(&self) -> usize {
        lock(&self.shared.requests).len()
    }

    /// Returns the last recorded request. Panics if no request is recorded.
    pub fn last(&self) -> Request {
        lock(&self.shared.requests).last().cloned().expect("a request at the origin")
    }

    /// Returns descriptions of received bytes that are not a complete request head.
    pub fn problems(&self) -> Vec<String> {
        lock(&self.shared.problems).clone()
    }

    /// Clears the recorded requests and problems.
    pub fn forget(&self) {
        lock(&self.shared.requests).clear();
        lock(&self.shared.problems).clear();
    }

    /// Returns the number of accepted connections.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Returns the number of open connections.
    pub fn open_connections(&self) -> usize {
        lock(&self.shared.open).len()
    }

    /// Returns the number of bytes that the origin has written to all connections, with heads and framing.
    pub fn bytes_written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Closes every open connection. The origin still accepts new connections.
    pub fn hang_up_all(&self) {
        for conn in lock(&self.shared.open).values() {
            conn.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // This connection wakes the thread that waits in accept(). The thread then stops.
        match &self.path {
            Some(path) => drop(UnixStream::connect(path)),
            None => drop(TcpStream::connect(self.addr)),
        }
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        self.hang_up_all();
    }
}

impl Shared {
    fn new(handler: Handler, at_head: bool) -> Arc<Self> {
        Arc::new(Self {
            handler,
            at_head,
            requests: Mutex::default(),
            problems: Mutex::default(),
            open: Mutex::default(),
            connections: AtomicUsize::new(0),
            written: Arc::default(),
            stopping: AtomicBool::new(false),
        })
    }

    fn record(&self, request: &Request) -> usize {
        let mut requests = lock(&self.requests);
        requests.push(request.clone());
        requests.len() - 1
    }

    /// Adds the body to a recorded request. Does nothing if the test called `forget` after the request was recorded.
    fn complete(&self, index: usize, request: &Request) {
        if let Some(slot) = lock(&self.requests).get_mut(index).filter(|slot| slot.raw == request.raw) {
            slot.clone_from(request);
        }
    }
}

fn accepting(shared: &Arc<Shared>, mut accept: impl FnMut() -> io::Result<Conn> + Send + 'static) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        while let Ok(mut conn) = accept() {
            if shared.stopping.load(Ordering::SeqCst) {
                return;
            }
            let number = shared.connections.fetch_add(1, Ordering::SeqCst);
            conn.written = Arc::clone(&shared.written);
            let (Ok(kept), Ok(reading)) = (conn.again(), conn.again()) else { continue };
            lock(&shared.open).insert(number, kept);
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut reader = Reader::new(reading);
                if serve(&shared, number, &mut reader, &mut conn) == After::Reset {
                    conn.reset_at_close();
                }
                // The entry is removed before the end of this closure closes the socket. So when the peer notices the
                // close, `open_connections` no longer counts this connection.
                lock(&shared.open).remove(&number);
            });
        }
    })
}

fn serve(shared: &Shared, number: usize, reader: &mut Reader<Conn>, conn: &mut Conn) -> After {
    loop {
        let head = match reader.head() {
            Ok(head) => head,
            Err(NoHead::Closed | NoHead::Nothing(_)) => return After::Close,
            Err(NoHead::Broken(why)) => {
                lock(&shared.problems).push(format!("connection {number}: {why}"));
                return After::Close;
            }
        };
        let (mut request, framing) = request(number, head);
        let index = shared.record(&request);
        if shared.at_head {
            let after = (shared.handler)(&request, conn);
            if after != After::Keep {
                return after;
            }
            body(reader, framing, &mut request);
            shared.complete(index, &request);
        } else {
            let waits = request.field("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
            if waits && framing.is_some() && conn.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
                return After::Close;
            }
            body(reader, framing, &mut request);
            shared.complete(index, &request);
            if !request.complete {
                return After::Close;
            }
            let after = (shared.handler)(&request, conn);
            if after != After::Keep {
                return after;
            }
        }
        if !request.complete {
            return After::Close;
        }
    }
}

fn body(reader: &mut Reader<Conn>, framing: Option<Framing>, request: &mut Request) {
    let Some(framing) = framing else {
        request.complete = true;
        return;
    };
    let body = reader.body(framing, MOST_BODY_BYTES);
    request.complete = body.complete;
    request.body = body.data;
    request.trailers = body.trailers;
    request.problems.extend(body.problems);
}

fn request(connection: usize, head: Head) -> (Request, Option<Framing>) {
    let mut problems = head.problems;
    let framing = http1::framing(&head.fields, &mut problems);
    let mut parts = head.start.split(' ').map(str::to_owned);
    let method = parts.next().unwrap_or_default();
    let target = parts.next().unwrap_or_default();
    let version = parts.next().unwrap_or_default();
    if parts.next().is_some() || !http1::is_token(&method) || version != "HTTP/1.1" {
        problems.push(format!("the request line {:?} is invalid", head.start));
    }
    let visible = target.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    if !visible || !(target.starts_with('/') || (target == "*" && method == "OPTIONS")) {
        problems.push(format!("the request target {target:?} is invalid"));
    }
    let hosts = http1::find_all(&head.fields, "host").len();
    if hosts != 1 {
        problems.push(format!("the head has {hosts} Host lines, not one"));
    }
    let request = Request {
        connection,
        raw: head.raw,
        method,
        target,
        version,
        fields: head.fields,
        problems,
        ..Request::default()
    };
    (request, framing)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- behaviours -----------------------------------------------------------------------------------------------------

/// Writes a complete response with an empty reason phrase. Adds Content-Length if the field is missing. A 204 or a 304
/// gets no Content-Length and no body. A response to HEAD gets no body.
pub fn respond(request: &Request, conn: &mut Conn, status: u16, fields: &[(&str, &str)], body: &[u8]) -> After {
    let bodiless = status == 204 || status == 304;
    let mut text = format!("HTTP/1.1 {status} \r\n");
    for (name, value) in fields {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    if !bodiless && http1::find(&owned(fields), "content-length").is_none() {
        let _ = write!(text, "Content-Length: {}\r\n", body.len());
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    if !bodiless && request.method != "HEAD" {
        bytes.extend_from_slice(body);
    }
    if conn.write_all(&bytes).is_ok() { After::Keep } else { After::Close }
}

fn owned(fields: &[(&str, &str)]) -> Fields {
    fields.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Sends the same response to every request.
pub fn fixed(
    status: u16,
    fields: &[(&str, &str)],
    body: impl Into<Vec<u8>>,
) -> impl Fn(&Request, &mut Conn) -> After + Send + Sync + 'static {
    let (fields, body) = (owned(fields), body.into());
    move |request, conn| {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        respond(request, conn, status, &fields, &body)
    }
}

/// Responds to `/late` after the gate opens, and to other paths at once. For `/half`, sends the first half of the body
/// at once and the second half after the gate opens.
pub fn gated(gate: &Gate) -> impl Fn(&Request, &mut Conn) -> After + Send + Sync + 'static {
    let gate = gate.clone();
    move |request, conn| match request.target.as_str() {
        "/late" => {
            gate.wait();
            respond(request, conn, 200, &[("Content-Type", "text/plain")], b"late but complete")
        }
        "/half" => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nfirst ";
            let _ = conn.write_all(head.as_bytes());
            gate.wait();
            if conn.write_all(b"second").is_ok() { After::Keep } else { After::Close }
        }
        _ => respond(request, conn, 200, &[("Content-Type", "text/plain")], b"quick"),
    }
}

/// Sends a 200 that describes the request as a JSON object. Its keys are method, target, fields (a list of pairs), body
/// and trailers (a list of pairs).
pub fn echo() -> impl Fn(&Request, &mut Conn) -> After + Send + Sync + 'static {
    |request, conn| {
        let json = serde_json::json!({
            "method": request.method,
            "target": request.target,
            "fields": request.fields,
            "body": String::from_utf8_lossy(&request.body),
            "trailers": request.trailers,
        });
        respond(request, conn, 200, &[("Content-Type", "application/json")], json.to_string().as_bytes())
    }
}

/// Closes the connection without a response.
pub fn hang_up() -> impl Fn(&Request, &mut Conn) -> After + Send + Sync + 'static {
    |_, _| After::Close
}

/// Resets the connection without a response.
pub fn reset() -> impl Fn(&Request, &mut Conn) -> After + Send + Sync + 'static {
    |_, _| After::Reset
}

/// Sends a 200 with a Content-Length of `promised`, and closes the connection after `sent` bytes of the body.
pub fn cut(promised: usize, sent: usize) -> impl Fn(&Request, &mut Conn) -> After + Send + Sync + 'static {
    move |_, conn| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {promised}\r\n\r\n");
        let mut bytes = head.into_bytes();
        bytes.resize(bytes.len() + sent, b'x');
        let _ = conn.write_all(&bytes);
        After::Close
    }
}

/// Waits without a response until the peer disconnects or the origin stops.
pub fn silent() -> impl Fn(&Request, &mut Conn) -> After + Send + Sync + 'static {
    |_, conn| {
        let mut sink = [0; 1024];
        while matches!(conn.read(&mut sink), Ok(1..)) {}
        After::Close
    }
}

/// Returns `data` as one chunk of the chunked coding.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// Sends a 200 whose body has these chunks and these trailers.
pub fn chunked(
    fields: &[(&str, &str)],
    chunks: &[&[u8]],
    trailers: &[(&str, &str)],
) -> impl Fn(&Request, &mut Conn) -> After + Send + Sync + 'static {
    let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n".to_vec();
    for (name, value) in fields {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    let head_length = bytes.len();
    bytes.extend(chunks.iter().flat_map(|data| chunk(data)));
    bytes.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    move |request, conn| {
        let part = if request.method == "HEAD" { &bytes[..head_length] } else { &bytes };
        if conn.write_all(part).is_ok() { After::Keep } else { After::Close }
    }
}

/// Sends a chunked 200 that repeats `piece` until the peer disconnects or the origin stops.
pub fn endless(piece: &[u8]) -> impl Fn(&Request, &mut Conn) -> After + Send + Sync + 'static {
    let chunk = chunk(piece);
    move |_, conn| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut going = conn.write_all(head.as_bytes()).is_ok();
        while going {
            going = conn.write_all(&chunk).is_ok();
        }
        After::Close
    }
}
