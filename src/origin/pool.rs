//! Kept connections, last in first out: the warmest serves next, and the rest grow old and are closed.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Request, Uri};
use hyper::client::conn::http1;

use super::Upload;
use super::connect::Counted;
use crate::clock::{self, Deadline};

/// A connection to the origin and what it needs from request to request.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: http1::SendRequest<Upload>,
    pub(super) deadline: Deadline,
    /// Whether an answer has come over it before.
    pub(super) reused: bool,
    idle_since_ms: u64,
    memory: Memory,
    /// Counts it while it is open, here and in the task that drives it.
    _counted: Arc<Counted>,
}

/// The head of a request that may have to be sent once more. Fields go into a list that keeps its room, so remembering allocates
/// nothing in steady state: it only counts references.
#[derive(Debug, Default)]
struct Memory {
    line: Option<(Method, Uri)>,
    fields: Vec<(HeaderName, HeaderValue)>,
    /// The names as they came, where their case is kept; else empty.
    extensions: http::Extensions,
}

impl Connection {
    pub(super) fn new(sender: http1::SendRequest<Upload>, counted: Arc<Counted>) -> Box<Self> {
        Box::new(Self {
            sender,
            deadline: Deadline::new(),
            reused: false,
            idle_since_ms: 0,
            memory: Memory::default(),
            _counted: counted,
        })
    }

    pub(super) fn remember(&mut self, request: &Request<Upload>) {
        self.memory.line = Some((request.method().clone(), request.uri().clone()));
        self.memory.fields.clear();
        let fields = request.headers().iter().map(|(name, value)| (name.clone(), value.clone()));
        self.memory.fields.extend(fields);
        self.memory.extensions = request.extensions().clone();
    }

    pub(super) fn forget(&mut self) {
        self.memory.line = None;
        self.memory.extensions.clear();
        self.memory.fields.clear();
    }

    pub(super) fn recall(&mut self) -> Option<Request<()>> {
        let (method, uri) = self.memory.line.take()?;
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.extensions_mut() = std::mem::take(&mut self.memory.extensions);
        request.headers_mut().reserve(self.memory.fields.len());
        for (name, value) in self.memory.fields.drain(..) {
            request.headers_mut().append(name, value);
        }
        Some(request)
    }
}

/// One worker's kept connections.
#[derive(Debug)]
pub(super) struct Pool {
    // Boxed once: a connection moves with each response from here through all the layers' bodies and back.
    #[allow(clippy::vec_box, reason = "what is taken out stays boxed")]
    idle: Vec<Box<Connection>>,
    max_idle: usize,
    idle_timeout_ms: u64,
}

impl Pool {
    pub(super) fn new(max_idle: usize, idle_timeout: Duration) -> Self {
        let idle_timeout_ms = u64::try_from(idle_timeout.as_millis()).unwrap_or(u64::MAX);
        Self { idle: Vec::new(), max_idle, idle_timeout_ms }
    }

    /// The connection that was used last and can serve now.
    pub(super) fn take(&mut self) -> Option<Box<Connection>> {
        let mut position = self.idle.len();
        while let Some(next) = position.checked_sub(1) {
            position = next;
            let connection = self.idle.get(position)?;
            if connection.sender.is_closed() || self.is_old(connection) {
                self.idle.remove(position);
            } else if connection.sender.is_ready() {
                return Some(self.idle.remove(position));
            }
        }
        None
    }

    /// Keeps a connection whose answer has been read to its end.
    pub(super) fn put(&mut self, mut connection: Box<Connection>) {
        if connection.sender.is_closed() || self.max_idle == 0 {
            return;
        }
        if self.idle.len() >= self.max_idle {
            // The oldest gives way: it is the likeliest to be closed by the origin next.
            self.idle.remove(0);
        }
        connection.reused = true;
        connection.idle_since_ms = clock::now_ms();
        self.idle.push(connection);
    }

    /// Closes what is too old or was closed by the origin.
    pub(super) fn prune(&mut self) {
        let now = clock::now_ms();
        let timeout = self.idle_timeout_ms;
        self.idle.retain(|connection| {
            !connection.sender.is_closed() && now.saturating_sub(connection.idle_since_ms) < timeout
        });
    }

    fn is_old(&self, connection: &Connection) -> bool {
        clock::now_ms().saturating_sub(connection.idle_since_ms) >= self.idle_timeout_ms
    }
}
