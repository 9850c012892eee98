//! An origin and a client that send hand-written HTTP/2 frames (RFC 9113 §4), also frames that hyper would not send.

use super::{PATIENCE, Raw, Shim};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const ACK: u8 = 1;

pub const NO_ERROR: u32 = 0;
pub const INTERNAL_ERROR: u32 = 2;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Returns the bytes of one frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns a header block of literal fields without indexing (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        assert!(text.len() < 127, "{text:?} is too long: the length must fit into one byte");
        [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat()
    };
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// Returns a HEADERS frame that contains all fields, so that no CONTINUATION frame follows.
pub fn head(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &block(fields))
}

/// Returns an `RST_STREAM` frame with this error code.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// A received frame.
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn ends_stream(&self) -> bool {
        [DATA, HEADERS].contains(&self.kind) && self.flags & END_STREAM != 0
    }
}

/// Reads one frame. Returns `None` at the end of the connection or at an error.
pub fn read(stream: &mut impl Read) -> Option<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let [a, b, c, kind, flags, id @ ..] = head;
    let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
    stream.read_exact(&mut payload).ok()?;
    Some(Frame { kind, flags, stream: u32::from_be_bytes(id), payload })
}

/// A client for which the test writes each frame that is sent and reads each frame that arrives.
pub struct Client {
    pub raw: Raw,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects. `window` is the initial flow-control window of each stream, in bytes.
    pub fn connect(addr: SocketAddr, window: u32) -> Self {
        let mut client = Self::over(Raw::connect(addr).patient(PATIENCE * 4));
        client.raw.send(PREFACE);
        client.send(SETTINGS, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat());
        client
    }

    /// Makes a client from an open connection. The caller must have sent the preface and the settings.
    pub fn over(raw: Raw) -> Self {
        Self { raw, buffer: Vec::new() }
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.raw.send(frame(kind, flags, stream, payload));
    }

    /// Sends a GET without a body.
    pub fn get(&mut self, stream: u32, target: &str) {
        let fields = [(":method", "GET"), (":scheme", "http"), (":path", target), (":authority", "shim.test")];
        self.raw.send(head(stream, END_STREAM, &fields));
    }

    /// Extends the flow-control window of a stream. Stream 0 means the connection.
    pub fn grant(&mut self, stream: u32, bytes: u32) {
        self.send(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
    }

    /// Returns the next frame, or `None` at the end of the connection. Acknowledges and skips pings and settings.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            let mut unread = &self.buffer[..];
            let Some(frame) = read(&mut unread) else {
                match self.raw.more() {
                    Ok(bytes) if !bytes.is_empty() => self.buffer.extend_from_slice(&bytes),
                    Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("no frame arrived: {error}"),
                    Ok(_) | Err(_) => return None,
                }
                continue;
            };
            let read = self.buffer.len() - unread.len();
            self.buffer.drain(..read);
            match frame.kind {
                PING if frame.flags & ACK == 0 => self.send(PING, ACK, 0, &frame.payload),
                SETTINGS if frame.flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]),
                PING | SETTINGS => {}
                _ => return Some(frame),
            }
        }
    }

    /// Skips frames until a frame of this kind arrives. Returns this frame, or `None` if the connection ends before.
    pub fn until(&mut self, kind: u8) -> Option<Frame> {
        std::iter::from_fn(|| self.next()).find(|frame| frame.kind == kind)
    }

    /// Skips frames until a stream ends. Returns true if the stream ended with `END_STREAM`.
    pub fn ended_normally(&mut self, stream: u32) -> bool {
        std::iter::from_fn(|| self.next())
            .filter(|frame| frame.stream == stream)
            .find(|frame| frame.kind == RST_STREAM || frame.ends_stream())
            .is_some_and(|frame| frame.kind != RST_STREAM)
    }
}

type Script = Arc<dyn Fn(u32, &mut TcpStream) -> io::Result<()> + Send + Sync>;

/// An HTTP/2 origin without TLS (with prior knowledge). For each request head, the origin runs the current script.
pub struct FrameOrigin {
    pub addr: SocketAddr,
    script: Arc<Mutex<Option<Script>>>,
}

impl FrameOrigin {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let script: Arc<Mutex<Option<Script>>> = Arc::default();
        let shared = Arc::clone(&script);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let script = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &script));
            }
        });
        Self { addr, script }
    }

    /// Starts a shim for this origin, without retries and without twins.
    pub fn shim(&self) -> Shim {
        Shim::start(Shim::config(self.addr).with("[origin]\nhttp2 = true\nretries = 0\n[gzip]\ntwins = \"0\""))
    }

    /// Sets the script for the next requests. If the script returns an error, the origin closes the connection.
    pub fn does(&self, script: impl Fn(u32, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(script));
    }
}

fn serve(mut stream: TcpStream, script: &Mutex<Option<Script>>) -> Option<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).ok()?;
    while let Some(Frame { kind, flags, stream: id, payload }) = read(&mut stream) {
        match kind {
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[])).ok()?,
            PING if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload)).ok()?,
            HEADERS => {
                let script = script.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
                script(id, &mut stream).ok()?;
            }
            _ => {}
        }
    }
    Some(())
}

/// Opens a connection as a client, and sends the preface and empty settings.
pub fn connect(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket with a read timeout");
    stream.set_nodelay(true).expect("a socket with TCP_NODELAY");
    stream.write_all(PREFACE).expect("the client can send the preface");
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).expect("the client can send the settings");
    stream
}
