//! The leaf: one origin, reached over kept connections, streaming both ways.
//!
//! Each worker has a [`Client`] of its own, so a kept connection never changes its core and the pool's lock is never waited for.
//! The only error is a [`Fault`]. When a request is sent a second time is written down in `ARCHITECTURE.md`, under the pool.
//!
//! Cost: no allocation of our own per request over a kept connection. Can fail: with every [`Cause`] but the overload.

mod body;
mod connect;
pub(crate) mod forward;
mod pool;
mod tunnel;

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use http::{HeaderName, Method, Request, Response, StatusCode, Version, request};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2;
use hyper::upgrade::OnUpgrade;

pub(crate) use body::{OriginBody, Upload};
use body::{Progress, Stage};
use pool::{Connection, Pool};
pub(crate) use tunnel::Tunnel;

use crate::clock;
use crate::fault::{Begun, Cause, Fault, cause_in};
use crate::ids::intern;
use crate::metrics::Metrics;
use crate::wire::received::Received;
use crate::wire::values;

/// Where the origin listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A name or address, and a port.
    Tcp {
        /// Resolved anew for each connection.
        host: String,
        /// 1–65535.
        port: u16,
    },
    /// A socket file.
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What the client needs to know: `[origin]` and some keys of `[server]`.
#[derive(Debug, Clone)]
pub struct OriginSettings {
    /// Where it is.
    pub target: Target,
    /// HTTP/2 by prior knowledge instead of HTTP/1.1.
    pub http2: bool,
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// From the last byte of the request to the response head.
    pub response_timeout: Duration,
    /// Without progress on a body.
    pub body_timeout: Duration,
    /// How long a kept connection waits for its next request.
    pub idle_timeout: Duration,
    /// Kept connections of this worker.
    pub max_idle: usize,
    /// Second tries of an idempotent request.
    pub retries: u32,
    /// Bytes of a request body; none: any.
    pub max_request_body: Option<u64>,
    /// Lines of a response head.
    pub max_headers: usize,
    /// Bytes of a response head.
    pub max_header_bytes: usize,
    /// For an upgraded connection on which nothing moves.
    pub tunnel_timeout: Duration,
    /// Send the header names' case on as it came (HTTP/1.1).
    pub preserve_header_case: bool,
    /// What says or proves who pulls, which a request's trailers may not hold.
    pub claims: Arc<[HeaderName]>,
}

/// What has to live as long as an upgraded connection does: its place among the visitors' connections. Put into a request's
/// extensions by whoever accepted it, where it asks for an upgrade.
#[derive(Clone)]
pub(crate) struct Hold(pub Arc<dyn Any + Send + Sync>);

/// One worker's way to the origin.
pub struct Client {
    settings: OriginSettings,
    /// Its address, for messages.
    name: &'static str,
    metrics: &'static Metrics,
    pool: Mutex<Pool>,
    multiplexed: Mutex<Multiplexed>,
}

/// The HTTP/2 connection that new requests take. Its number tells it from the one after it.
#[derive(Default)]
struct Multiplexed {
    number: u64,
    sender: Option<http2::SendRequest<Upload>>,
}

impl Client {
    /// Nothing is connected before the first request.
    pub fn new(settings: OriginSettings, metrics: &'static Metrics) -> Self {
        let pool = Mutex::new(Pool::new(settings.max_idle, settings.idle_timeout));
        let name = intern(&settings.target.to_string());
        Self { settings, name, metrics, pool, multiplexed: Mutex::default() }
    }

    /// Closes connections that were kept for longer than `origin.idle_timeout`; called now and then by the worker.
    pub fn prune(&self) {
        self.pool().prune();
    }

    /// Sends a request whose head is ready for the origin (see [`forward`]).
    ///
    /// # Errors
    /// A [`Fault`] whose cause says what the origin or the visitor did wrong; it has been counted.
    pub async fn call(self: Arc<Self>, head: request::Parts, body: Received) -> Result<Response<OriginBody>, Fault> {
        let (metrics, name) = (self.metrics, self.name);
        let (head, mut body) = match self.exchange(head, body).await {
            Ok(response) => response.into_parts(),
            Err(fault) => {
                metrics.fault(&fault, Some(name));
                return Err(fault);
            }
        };
        let begun = Begun { status: head.status.as_u16(), micros: 0, bytes: 0 };
        poll_fn(|cx| Poll::Ready(body.begin(cx))).await.map_err(|fault| fault.after(begun))?;
        Ok(Response::from_parts(head, body))
    }

    async fn exchange(
        self: Arc<Self>,
        mut head: request::Parts,
        body: Received,
    ) -> Result<Response<OriginBody>, Fault> {
        let hold = head.extensions.remove::<Hold>();
        let client =
            head.extensions.remove::<OnUpgrade>().filter(|_| forward::asks_upgrade(&head)).map(|on| (on, hold));
        let upload = Upload::new(body, &self.settings);
        let progress = upload.progress();
        let replayable = head.method.is_idempotent() && upload.is_end_stream() && client.is_none();
        let is_head = head.method == Method::HEAD;
        forward::frame(&mut head, upload.is_end_stream());
        let request = Request::from_parts(head, upload);
        let (response, connection) = if self.settings.http2 {
            (self.send_multiplexed(request, progress.as_deref()).await?, None)
        } else {
            let (response, connection) = self.send(request, progress.as_deref(), replayable).await?;
            (response, Some(connection))
        };
        self.accept(response, connection, client, is_head)
    }

    /// Over one of the kept connections, or a new one.
    async fn send(
        &self,
        mut request: Request<Upload>,
        progress: Option<&Progress>,
        replayable: bool,
    ) -> Result<(Response<Incoming>, Box<Connection>), Fault> {
        let mut retries = self.settings.retries;
        let mut kept = self.kept(replayable).await;
        loop {
            let mut connection = if let Some(connection) = kept.take() {
                connection
            } else {
                match connect::http1(&self.settings, self.metrics).await {
                    Ok(connection) => connection,
                    // A second wait for an address that does not answer would only double the visitor's.
                    Err(fault) if replayable && retries > 0 && fault.cause() != Cause::ConnectTimeout => {
                        retries -= 1;
                        continue;
                    }
                    Err(fault) => return Err(fault),
                }
            };
            let reused = connection.reused;
            if reused && replayable && retries > 0 {
                connection.remember(&request);
            }
            let sent = self.timely(connection.sender.try_send_request(request), &connection.deadline, progress).await?;
            connection.deadline.disarm();
            let mut error = match sent {
                Ok(response) => {
                    connection.forget();
                    return Ok((response, connection));
                }
                Err(error) => error,
            };
            let unsent = error.take_message();
            let fault = fault_of(error.into_error());
            if reused && let Some(unsent) = unsent {
                request = unsent;
                kept = self.kept(replayable).await;
                continue;
            }
            match connection.recall() {
                Some(saved) if matches!(fault.cause(), Cause::Closed | Cause::Reset) => {
                    retries -= 1;
                    request = saved.map(|()| Upload::empty());
                }
                _ => return Err(fault),
            }
        }
    }

    /// A kept connection. What cannot be sent twice goes over none that the origin has closed a moment ago: the runtime looks at
    /// its sockets once more first, so that a connection whose end has arrived knows of it.
    async fn kept(&self, replayable: bool) -> Option<Box<Connection>> {
        loop {
            let connection = self.pool().take()?;
            if replayable {
                return Some(connection);
            }
            tokio::task::yield_now().await;
            if connection.sender.is_ready() {
                return Some(connection);
            }
        }
    }

    /// Over the one HTTP/2 connection of this worker; made anew when it has ended.
    async fn send_multiplexed(
        &self,
        mut request: Request<Upload>,
        progress: Option<&Progress>,
    ) -> Result<Response<Incoming>, Fault> {
        forward::absolute(&mut request)?;
        let mut retries = self.settings.retries;
        // What has no body can be sent again where the origin says that it has not looked at it, or, when it is idempotent, where a
        // kept connection dies.
        let idempotent = request.method().is_idempotent();
        let mut saved = (retries > 0 && request.body().is_end_stream()).then(|| copy_of(&request));
        let deadline = clock::Deadline::new();
        let mut fresh = false;
        loop {
            let (mut number, ready) = {
                let multiplexed = self.multiplexed();
                (multiplexed.number, multiplexed.sender.clone())
            };
            let mut sender = if let Some(sender) = ready.filter(|sender| !fresh && !sender.is_closed()) {
                sender
            } else {
                fresh = true;
                let sender = connect::http2(&self.settings, self.metrics).await?;
                let mut multiplexed = self.multiplexed();
                multiplexed.number += 1;
                multiplexed.sender = Some(sender.clone());
                number = multiplexed.number;
                sender
            };
            let sent = self
                .timely(sender.try_send_request(request), &deadline, progress)
                .await
                .inspect_err(|fault| self.doubt(number, fault.cause()))?;
            let mut error = match sent {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let unsent = error.take_message();
            let error = error.into_error();
            let again = is_refused(&error) || (idempotent && !fresh && is_dead(&error));
            match (unsent, saved.take().filter(|_| again)) {
                // GOAWAY or a closed connection that never took the request.
                (Some(unsent), _) if !fresh => {
                    saved = (retries > 0 && unsent.body().is_end_stream()).then(|| copy_of(&unsent));
                    request = unsent;
                    fresh = true;
                }
                (_, Some(copy)) => {
                    retries -= 1;
                    saved = (retries > 0).then(|| copy_of(&copy));
                    request = copy;
                    // A stream that was refused says nothing against its connection.
                    fresh = is_dead(&error);
                }
                _ => return Err(fault_of(error)),
            }
        }
    }

    /// What of the origin's response may go on; puts the connection back where there is no body to wait for.
    fn accept(
        self: Arc<Self>,
        mut response: Response<Incoming>,
        mut connection: Option<Box<Connection>>,
        client: Option<(OnUpgrade, Option<Hold>)>,
        is_head: bool,
    ) -> Result<Response<OriginBody>, Fault> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some((client, hold)) = client else {
                return Err(Fault::from_error(Cause::BrokenHead, "101 without having been asked to upgrade"));
            };
            forward::check_size(&response, &self.settings)?;
            let origin = hyper::upgrade::on(&mut response);
            let tunnel = Arc::new(Tunnel::default());
            response.extensions_mut().insert(Arc::clone(&tunnel));
            let timeout = self.settings.tunnel_timeout;
            tokio::spawn(async move {
                // Both ends stay counted, and the drain waits for the client's, until the tunnel is gone.
                let _held = (hold, connection);
                tunnel::carry(tunnel, client, origin, timeout).await;
            });
            let (head, _) = response.into_parts();
            return Ok(Response::from_parts(head, OriginBody::new(Received::empty(), None, self)));
        }
        if response.version() == Version::HTTP_2 {
            values::trim(response.headers_mut());
        }
        forward::check_size(&response, &self.settings)?;
        forward::check_answer(&mut response)?;
        let (mut head, incoming) = response.into_parts();
        let never_has_content = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT);
        if never_has_content && !is_head && forward::declares_content(&head.headers) {
            // What follows may be that content, or not: no other response may be read there.
            connection = None;
        }
        let is_empty = is_head || never_has_content || head.status == StatusCode::NOT_MODIFIED;
        let body = if is_empty { Received::empty() } else { Received::new(incoming, head.version) };
        forward::tidy_answer(&mut head, is_head);
        Ok(Response::from_parts(head, OriginBody::new(body, connection, self)))
    }

    fn multiplexed(&self) -> std::sync::MutexGuard<'_, Multiplexed> {
        self.multiplexed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A connection on which an answer did not come in time may be dead: it keeps what is on it, and gets nothing new.
    fn doubt(&self, number: u64, cause: Cause) {
        let mut multiplexed = self.multiplexed();
        if cause == Cause::Timeout && multiplexed.number == number {
            multiplexed.sender = None;
        }
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What `sending` comes to, or the fault of a request that has waited too long for it.
    async fn timely<T>(
        &self,
        sending: impl Future<Output = T>,
        deadline: &clock::Deadline,
        progress: Option<&Progress>,
    ) -> Result<T, Fault> {
        deadline.arm(self.first_check(progress));
        let mut sending = pin!(sending);
        poll_fn(|cx| match sending.as_mut().poll(cx) {
            Poll::Ready(sent) => Poll::Ready(Ok(sent)),
            Poll::Pending => {
                deadline.watch(cx);
                if deadline.is_due() {
                    match self.overdue(progress) {
                        Some(fault) => return Poll::Ready(Err(fault)),
                        None => deadline.arm(clock::TICK),
                    }
                }
                Poll::Pending
            }
        })
        .await
    }

    /// When to look at a request's progress for the first time.
    fn first_check(&self, progress: Option<&Progress>) -> Duration {
        match progress {
            None => self.settings.response_timeout,
            Some(_) => self.settings.response_timeout.min(self.settings.body_timeout),
        }
    }

    /// The fault of a request that has waited too long, if it has: with an upload under way it depends on who keeps whom waiting.
    fn overdue(&self, progress: Option<&Progress>) -> Option<Fault> {
        let Some(progress) = progress else { return Some(Fault::new(Cause::Timeout)) };
        let (stage, for_) = progress.stage();
        let (cause, limit) = match stage {
            Stage::Visitor => (Cause::RequestStalled, self.settings.body_timeout),
            Stage::Origin => (Cause::UploadStalled, self.settings.body_timeout),
            Stage::Sent => (Cause::Timeout, self.settings.response_timeout),
        };
        (for_ >= limit).then(|| Fault::new(cause))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("target", &self.settings.target).finish_non_exhaustive()
    }
}

/// A request without a body once more.
fn copy_of(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// HTTP/2's own error below hyper's.
fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    error.source()?.downcast_ref()
}

/// Whether the origin says that it has not looked at the request (RFC 9113 §8.7).
fn is_refused(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        let left = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        error.is_remote() && (refused || left)
    })
}

/// Whether the connection is at its end, and not only a stream of it.
fn is_dead(error: &hyper::Error) -> bool {
    h2_error(error).is_none_or(|error| error.is_io() || error.is_go_away())
}

/// What an error of hyper's client means for the visitor.
fn fault_of(error: hyper::Error) -> Fault {
    let cause = if let Some(cause) = cause_in(&error) {
        cause
    } else if error.is_parse_too_large() {
        return Fault::head_too_large(error);
    } else if error.is_parse() {
        Cause::BrokenHead
    } else if let Some(cause) = h2_error(&error).and_then(h2_cause) {
        cause
    } else if let Some(cause) = io_cause(&error) {
        cause
    } else {
        Cause::Closed
    };
    Fault::from_error(cause, error)
}

/// A stream's reset is the origin's; an error that was found on this side says that its frames were none.
fn h2_cause(error: &h2::Error) -> Option<Cause> {
    if error.is_io() {
        return error.get_io().map(cause_of_io);
    }
    if !error.is_remote() && error.reason().is_some() {
        return Some(Cause::BrokenHead);
    }
    error.is_reset().then_some(Cause::Reset)
}

fn cause_of_io(error: &io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Cause::Reset,
        _ => Cause::Closed,
    }
}

fn io_cause(error: &hyper::Error) -> Option<Cause> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(cause_of_io(error));
        }
        next = error.source();
    }
    None
}
