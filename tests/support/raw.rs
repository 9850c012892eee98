//! A client that sends raw bytes and reads responses strictly.

use super::PATIENCE;
use super::http1::{self, Fields, Framing, NoHead, Reader};
use super::origin::Conn;
use rustls::ClientConnection;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// The longest response body that the client reads.
const MOST_BODY_BYTES: usize = 256 << 20;

/// One response.
#[derive(Debug, Clone, Default)]
pub struct Response {
    /// The status line.
    pub line: String,
    /// The status code.
    pub status: u16,
    /// The fields in the order and case of the wire.
    pub fields: Fields,
    /// The body, without the bytes of its framing.
    pub body: Vec<u8>,
    /// How the body was framed. `None` if there is no body.
    pub framing: Option<Framing>,
    /// Trailers.
    pub trailers: Fields,
    /// True when the body is complete.
    pub complete: bool,
    /// Breaches of the protocol. Empty for a well-formed response.
    pub problems: Vec<String>,
    /// The status and fields of each 1xx response that came before this response.
    pub interim: Vec<(u16, Fields)>,
}

impl Response {
    /// Returns the value of the first field with this name. The case of the letters does not matter.
    pub fn field(&self, name: &str) -> Option<&str> {
        http1::find(&self.fields, name)
    }

    /// Returns all values of the fields with this name, in order.
    pub fn fields_named(&self, name: &str) -> Vec<&str> {
        http1::find_all(&self.fields, name)
    }

    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the body as JSON. Panics if the body is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("the body is not JSON ({error}): {}", self.text()))
    }
}

/// The result of [`Raw::end`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer closed or reset the connection.
    Closed,
    /// The peer sent more bytes.
    More,
    /// The connection was still open after the time limit, and no byte arrived.
    Open,
}

/// A client with one connection.
pub struct Raw {
    reader: Reader<Conn>,
    timeout: Duration,
}

impl Raw {
    /// Connects by TCP.
    pub fn connect(addr: SocketAddr) -> Self {
        let conn = Conn::tcp(addr, PATIENCE).unwrap_or_else(|error| panic!("cannot connect to {addr}: {error}"));
        Self { reader: Reader::new(conn), timeout: PATIENCE }
    }

    /// Connects to a Unix socket.
    pub fn connect_unix(path: &Path) -> Self {
        let conn = Conn::unix(path).unwrap_or_else(|error| panic!("cannot connect to {}: {error}", path.display()));
        Self { reader: Reader::new(conn), timeout: PATIENCE }
    }

    /// Makes a client from an open connection.
    pub fn over(conn: Conn) -> Self {
        Self { reader: Reader::new(conn), timeout: PATIENCE }
    }

    /// Returns the TLS session. Panics if the connection does not use TLS.
    pub fn session(&mut self) -> &ClientConnection {
        self.reader.inner().session()
    }

    /// Sets the time limit of each operation, which is [`PATIENCE`] by default.
    pub fn patient(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends bytes. Does not fail if the peer has closed the connection, because the client can still read a response
    /// that arrived before.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let timeout = self.timeout;
        let conn = self.reader.inner();
        conn.limit(timeout);
        match conn.write_all(bytes.as_ref()) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            Err(error) => panic!("cannot send: {error}"),
        }
        self
    }

    /// Sends bytes in writes of `size` bytes. Usually each write becomes a separate TCP segment.
    pub fn send_pieces(&mut self, bytes: impl AsRef<[u8]>, size: usize) -> &mut Self {
        for piece in bytes.as_ref().chunks(size.max(1)) {
            self.send(piece);
        }
        self
    }

    /// Closes the sending side. Responses can still be read.
    pub fn finish(&mut self) -> &mut Self {
        self.reader.inner().shutdown(Shutdown::Write);
        self
    }

    /// Resets the connection.
    pub fn reset(mut self) {
        self.reader.inner().reset_at_close();
    }

    /// Reads one final response, with the 1xx responses before it in `interim`. A 101 counts as a final response.
    pub fn response(&mut self) -> Result<Response, NoHead> {
        self.read(false)
    }

    /// Reads the response to HEAD, which has no body.
    pub fn response_to_head(&mut self) -> Result<Response, NoHead> {
        self.read(true)
    }

    /// Reads only the head of a response. Afterwards, [`Raw::more`] or [`Raw::body`] can read the body.
    pub fn response_head(&mut self) -> Result<Response, NoHead> {
        self.reader.inner().limit(self.timeout);
        self.head(true)
    }

    /// Reads the body after a head from [`Raw::response_head`].
    pub fn body(&mut self, head: &Response) -> http1::Body {
        let framing = http1::framing(&head.fields, &mut Vec::new()).unwrap_or(Framing::Close);
        self.reader.body(framing, MOST_BODY_BYTES)
    }

    /// Returns the next received bytes, with framing. The result is empty at the end of the stream.
    pub fn more(&mut self) -> std::io::Result<Vec<u8>> {
        self.reader.inner().limit(self.timeout);
        if self.reader.pending().is_empty() {
            self.reader.fill()?;
        }
        let there = self.reader.pending().len();
        Ok(self.reader.rest(there).0)
    }

    /// Returns the next received bytes. If the connection ends or the time limit passes before a byte arrives, panics
    /// with a message that contains `what`.
    pub fn some(&mut self, what: &str) -> Vec<u8> {
        let bytes = self.more().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(!bytes.is_empty(), "{what}: the connection was closed");
        bytes
    }

    /// Reads until the peer closes or resets the connection. Returns the bytes, and true after a reset. Panics on a
    /// timeout.
    pub fn read_to_reset(&mut self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        loop {
            match self.more() {
                Ok(more) if more.is_empty() => return (bytes, false),
                Ok(more) => bytes.extend_from_slice(&more),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return (bytes, true),
                Err(error) => panic!("the read failed after {} bytes: {error}", bytes.len()),
            }
        }
    }

    /// Returns all bytes until a close, a reset or a timeout.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        self.reader.inner().limit(self.timeout);
        self.reader.rest(MOST_BODY_BYTES).0
    }

    /// Waits for the end of the connection or for more bytes.
    pub fn end(&mut self) -> End {
        self.reader.inner().limit(self.timeout);
        if !self.reader.pending().is_empty() {
            return End::More;
        }
        match self.reader.fill() {
            Ok(true) => End::More,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => End::Open,
            Ok(false) | Err(_) => End::Closed,
        }
    }

    /// Returns true if the peer closes or resets the connection without sending more bytes.
    pub fn closed(&mut self) -> bool {
        self.end() == End::Closed
    }

    fn read(&mut self, to_head: bool) -> Result<Response, NoHead> {
        self.reader.inner().limit(self.timeout);
        let mut response = self.head(to_head)?;
        let Some(framing) = response.framing else {
            response.complete = true;
            return Ok(response);
        };
        let body = self.reader.body(framing, MOST_BODY_BYTES);
        response.body = body.data;
        response.trailers = body.trailers;
        response.complete = body.complete;
        response.problems.extend(body.problems);
        Ok(response)
    }

    fn head(&mut self, to_head: bool) -> Result<Response, NoHead> {
        let mut response = Response::default();
        loop {
            let head = self.reader.head()?;
            response.problems.extend(head.problems);
            let status = status(&head.start).unwrap_or_else(|| {
                response.problems.push(format!("the status line {:?} is invalid", head.start));
                0
            });
            if (100..200).contains(&status) && status != 101 {
                response.interim.push((status, head.fields));
                continue;
            }
            let declared = http1::framing(&head.fields, &mut response.problems);
            let bodiless = to_head || status == 204 || status == 304 || status == 101;
            if (status == 204 || status == 101) && declared.is_some() {
                response.problems.push(format!("a {status} declares a body"));
            }
            response.framing = (!bodiless).then(|| declared.unwrap_or(Framing::Close));
            response.line = head.start;
            response.status = status;
            response.fields = head.fields;
            return Ok(response);
        }
    }
}

/// Sends the bytes of a request on a new connection and returns the response. Panics if no response arrives.
pub fn exchange(addr: SocketAddr, request: impl AsRef<[u8]>) -> Response {
    let to_head = request.as_ref().starts_with(b"HEAD ");
    let mut raw = Raw::connect(addr);
    raw.send(request);
    let response = if to_head { raw.response_to_head() } else { raw.response() };
    response.unwrap_or_else(|why| panic!("no response arrived: {why:?}"))
}

/// Sends a GET with these fields on a new connection. If the fields have no Host, adds Host with the address, because
/// the admin listener refuses host names.
pub fn fetch(addr: SocketAddr, target: &str, fields: &[(&str, &str)]) -> Response {
    let host = addr.to_string();
    let is_given = fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
    let added = (!is_given).then_some(("Host", host.as_str()));
    let fields: Vec<_> = added.into_iter().chain(fields.iter().copied()).collect();
    exchange(addr, request("GET", target, &fields, b""))
}

/// Returns the text of a GET request without `Connection: close`.
pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: shim.test\r\n\r\n")
}

/// Returns the text of a GET that requests an upgrade.
pub fn upgrade(protocol: &str) -> String {
    format!(
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: {protocol}\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// Returns the bytes of a request with these fields. Adds `Host: shim.test` if Host is missing, and `Connection: close`
/// if Connection is missing. If the request has a body without declared framing, adds Content-Length.
pub fn request(method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let given = |name: &str| fields.iter().any(|(have, _)| have.eq_ignore_ascii_case(name));
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    if !given("host") {
        text.push_str("Host: shim.test\r\n");
    }
    for (name, value) in fields {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    if !body.is_empty() && !given("content-length") && !given("transfer-encoding") {
        let _ = write!(text, "Content-Length: {}\r\n", body.len());
    }
    if !given("connection") {
        text.push_str("Connection: close\r\n");
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn status(line: &str) -> Option<u16> {
    let code = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    let (digits, rest) = code.split_at_checked(3)?;
    let whole = (rest.is_empty() || rest.starts_with(' ')) && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|status| whole && (100..600).contains(status))
}
