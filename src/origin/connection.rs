//! An HTTP/1.1 connection to the origin, with the data that it stores between and during requests.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Request, Uri};
use hyper::client::conn::http1;
use metrics::Gauge;

use super::endpoint::Endpoint;
use super::tls_stream::TlsEnd;
use super::upload::Upload;
use crate::clock::Deadline;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: http1::SendRequest<Upload>,
    pub(super) deadline: Deadline,
    /// Whether the connection has already carried a complete response.
    pub(super) reused: bool,
    pub(super) idle_since_ms: u64,
    /// The address to which the connection was made.
    pub(super) endpoint: Arc<Endpoint>,
    /// Stores why TLS failed. `None`: the connection does not use TLS.
    pub(super) tls: Option<Arc<TlsEnd>>,
    memory: Memory,
    /// Counts this connection as open in the metrics. The task that drives the connection has the same `Arc`. So the
    /// connection is counted until both this value and that task are dropped.
    _counted: Arc<Counted>,
}

/// The head of a request that possibly has to be sent again. Storing a head usually allocates nothing, because the list
/// keeps its capacity and the names and values are reference-counted.
#[derive(Debug, Default)]
struct Memory {
    line: Option<(Method, Uri)>,
    fields: Vec<(HeaderName, HeaderValue)>,
    /// With `preserve_header_case`, hyper's copy of the field names in their original case. Otherwise empty.
    extensions: http::Extensions,
}

impl Connection {
    pub(super) fn new(
        sender: http1::SendRequest<Upload>,
        counted: Arc<Counted>,
        endpoint: Arc<Endpoint>,
        tls: Option<Arc<TlsEnd>>,
    ) -> Box<Self> {
        Box::new(Self {
            sender,
            deadline: Deadline::new(),
            reused: false,
            idle_since_ms: 0,
            endpoint,
            tls,
            memory: Memory::default(),
            _counted: counted,
        })
    }

    /// Stores the request's head for `recall`.
    pub(super) fn remember(&mut self, request: &Request<Upload>) {
        self.memory.line = Some((request.method().clone(), request.uri().clone()));
        self.memory.fields.clear();
        let fields = request.headers().iter().map(|(name, value)| (name.clone(), value.clone()));
        self.memory.fields.extend(fields);
        self.memory.extensions = request.extensions().clone();
    }

    /// Drops the head that `remember` stored.
    pub(super) fn forget(&mut self) {
        self.memory.line = None;
        self.memory.extensions.clear();
        self.memory.fields.clear();
    }

    /// Returns the head that `remember` stored, and removes it.
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

/// Adds 1 to a gauge when it is created, and subtracts 1 when it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Gauge);

impl Counted {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
