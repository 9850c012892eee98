//! An HTTP/1.1 connection to the origin, with the data that it stores between and during requests.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use metrics::Gauge;

use super::endpoint::Endpoint;
use super::errors::fault_of;
use super::plain::{Odd, Plain};
use super::tls_stream::TlsEnd;
use super::upload::Upload;
use super::upstream::Upstream;
use crate::clock::Deadline;
use crate::fault::{Cause, Fault};

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) link: Link,
    pub(super) deadline: Deadline,
    /// Whether the connection has already carried a complete response.
    pub(super) reused: bool,
    pub(super) idle_since_ms: u64,
    /// The address to which the connection was made.
    pub(super) endpoint: Arc<Endpoint>,
    /// Stores why TLS failed. `None`: the connection does not use TLS.
    pub(super) tls: Option<Arc<TlsEnd>>,
    memory: Memory,
    /// Counts this connection as open in the metrics. The task of hyper's client has the same `Arc`. So the connection
    /// is counted until both this value and that task are dropped.
    counted: Arc<Counted>,
}

/// What reads and writes the connection.
#[derive(Debug)]
pub(super) enum Link {
    /// The task of the request, while all exchanges are plain.
    Plain(Plain),
    /// The task of hyper's client.
    Hyper(http1::SendRequest<Upload>),
    /// Neither of the two, because hyper is taking the connection over.
    Moving,
}

/// The body of a response that has just arrived.
#[derive(Debug)]
pub(super) enum Content {
    /// The body of a plain exchange, with its length.
    Plain(u64),
    Hyper(Incoming),
}

/// Why a request got no response. `unsent` is the request, if the request never left this process.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) unsent: Option<Request<Upload>>,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { fault, unsent: None }
    }
}

/// Whether an idle connection can carry a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// hyper's task has to run first.
    Busy,
    Closed,
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
        link: Link,
        counted: Arc<Counted>,
        endpoint: Arc<Endpoint>,
        tls: Option<Arc<TlsEnd>>,
    ) -> Box<Self> {
        Box::new(Self {
            link,
            deadline: Deadline::new(),
            reused: false,
            idle_since_ms: 0,
            endpoint,
            tls,
            memory: Memory::default(),
            counted,
        })
    }

    /// Returns whether the connection can carry a request.
    pub(super) fn state(&self) -> State {
        match &self.link {
            Link::Plain(plain) if plain.is_ready() => State::Ready,
            Link::Hyper(sender) if sender.is_ready() => State::Ready,
            Link::Hyper(sender) if !sender.is_closed() => State::Busy,
            _ => State::Closed,
        }
    }

    /// Returns whether it is already certain that the connection cannot carry another request.
    pub(super) fn is_spent(&self) -> bool {
        match &self.link {
            Link::Plain(plain) => !plain.is_kept(),
            Link::Hyper(sender) => sender.is_closed(),
            Link::Moving => true,
        }
    }

    /// Sends a request, and empties `request`. If `is_remembered` is true and hyper gets the request, the head
    /// of the request is stored for `recall` until the response head has arrived.
    pub(super) async fn send(
        &mut self,
        request: &mut Request<Upload>,
        is_remembered: bool,
        upstream: &Upstream,
    ) -> Result<Response<Content>, Failure> {
        if let Link::Plain(plain) = &mut self.link {
            match plain.exchange(request, &upstream.limits).await {
                Ok(response) => return Ok(response.map(Content::Plain)),
                Err(odd) => {
                    Upload::complete(request);
                    // The future is boxed, because it is large and most exchanges are plain.
                    Box::pin(self.hand_over(odd, request, upstream)).await?;
                }
            }
        }
        Upload::complete(request);
        if is_remembered {
            self.remember(request);
        }
        let Link::Hyper(sender) = &mut self.link else { return Err(Failure::from(Fault::new(Cause::Closed))) };
        match sender.try_send_request(Upload::taken(request)).await {
            Ok(response) => {
                self.forget();
                Ok(response.map(Content::Hyper))
            }
            Err(mut error) => {
                let unsent = error.take_message();
                Err(Failure { unsent, fault: fault_of(error.into_error(), self.tls.as_deref()) })
            }
        }
    }

    /// Hands the connection to hyper, which continues the exchange and uses the connection from then on.
    async fn hand_over(&mut self, odd: Odd, request: &Request<Upload>, upstream: &Upstream) -> Result<(), Fault> {
        if let Link::Plain(plain) = std::mem::replace(&mut self.link, Link::Moving) {
            let stream = plain.replay(odd, request);
            self.link = Link::Hyper(upstream.handshake_http1(stream, &self.counted).await?);
        }
        Ok(())
    }

    /// Stores the request's head for `recall`.
    fn remember(&mut self, request: &Request<Upload>) {
        self.memory.line = Some((request.method().clone(), request.uri().clone()));
        self.memory.fields.clear();
        let fields = request.headers().iter().map(|(name, value)| (name.clone(), value.clone()));
        self.memory.fields.extend(fields);
        self.memory.extensions = request.extensions().clone();
    }

    /// Drops the head that `remember` stored.
    fn forget(&mut self) {
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
