//! One connection: hyper's, with this configuration's limits, under a watch for time and for the drain.

use std::any::Any;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version, response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use tokio::io::AsyncWriteExt;

use super::sniff::sniff;
use super::watched::{Busy, Purpose, Socket, State, Timeouts, Watched};
use super::workers::{Place, Worker};
use crate::clock::{self, Deadline};
use crate::edge::pipeline::AnswerBody;
use crate::edge::request::{Ctx, EdgeRequest, EdgeResponse};
use crate::fault::Fault;
use crate::ids::ProviderId;
use crate::metrics::Reason;
use crate::origin::Hold;
use crate::runtime::EdgeService;
use crate::wire::forwarded::{Peer, Scheme, Trail};
use crate::wire::hops;
use crate::wire::names::UPGRADE;
use crate::wire::received::Received;
use crate::wire::values;

/// What hyper holds at most for a visitor who does not read, and reads ahead of an upload. Never below the largest head.
const BUFFER_BYTES: usize = 64 * 1024;
/// Streams at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// How long the peer of a cut HTTP/1.0 response on a unix socket has to give up. nginx does so after 60 seconds.
const HOLD: std::time::Duration = std::time::Duration::from_mins(10);
/// The least that hyper takes.
const LEAST_BUFFER_BYTES: usize = 8192;

/// The limits of `[server]` that hyper enforces, made once for a worker and configuration.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    http1: http1::Builder,
    http2: http2::Builder<StreamExecutor>,
    timeouts: Timeouts,
    proxy_protocol: bool,
}

impl Limits {
    pub(super) fn new(server: &crate::config::Server, origin: &crate::config::Origin) -> Self {
        let timeouts = Timeouts { header: server.header_timeout, body: server.body_timeout, idle: server.idle_timeout };
        let mut http1 = http1::Builder::new();
        http1
            .max_buf_size(BUFFER_BYTES.max(server.max_header_bytes).max(LEAST_BUFFER_BYTES))
            .max_header_size(server.max_header_bytes)
            .max_headers(server.max_headers)
            // Both sides have to keep it: hyper carries the names as they came from one to the other.
            .preserve_header_case(origin.preserve_header_case);
        // A stream that is not asked for anything for so long waits for a visitor who does not read.
        let stalled = server.body_timeout.max(origin.response_timeout).max(origin.connect_timeout) + clock::TICK * 2;
        let mut http2 = http2::Builder::new(StreamExecutor { stalled });
        http2
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(BUFFER_BYTES)
            .max_header_list_size(u32::try_from(server.max_header_bytes).unwrap_or(u32::MAX));
        Self { http1, http2, timeouts, proxy_protocol: server.proxy_protocol }
    }
}

/// Serves a connection until it ends.
pub(super) async fn serve<S, E>(mut stream: S, address: IpAddr, worker: Arc<Worker<E>>, place: Arc<Place>)
where
    S: Socket,
    E: EdgeService,
{
    let limits = worker.limits();
    let deadline = Deadline::new();
    deadline.arm(limits.timeouts.header);
    let sniffed = match sniff(&mut stream, &deadline, limits.proxy_protocol, || worker.is_closing()).await {
        Ok(sniffed) => sniffed,
        Err(error) => {
            if error.kind() == io::ErrorKind::TimedOut {
                worker.refused(Reason::HeaderTimeout);
            } else if error.kind() == io::ErrorKind::InvalidData {
                worker.refused(Reason::Malformed);
            }
            return;
        }
    };
    let peer = Arc::new(Peer::new(sniffed.source.unwrap_or(address), Scheme::Http));
    let state = Arc::new(State::new(deadline, sniffed.is_h2, limits.timeouts));
    if sniffed.is_h2 {
        // The preface is here, and no head has begun.
        state.disarm();
    }
    let service = Requests { worker: Arc::clone(&worker), peer, state: Arc::clone(&state), place };
    if sniffed.is_h2 {
        let io = TokioIo::new(Watched::new(stream, sniffed.prefix, Arc::clone(&state)));
        Box::pin(drive_h2(limits.http2.serve_connection(io, service), &state, &worker)).await;
        return;
    }
    let mut prefix = sniffed.prefix;
    loop {
        let limits = worker.limits();
        let io = TokioIo::new(Watched::new(stream, prefix, Arc::clone(&state)));
        let connection = limits.http1.serve_connection(io, service.clone()).with_upgrades();
        // Boxed where it is made: a connection's task is moved some times before it runs, and stays small while it is parked.
        let Some(parked) = Box::pin(drive_h1(connection, &state, &worker)).await else { return };
        if state.is_open_ended() {
            wait_for_peer(&parked, &worker).await;
            return;
        }
        state.arm(Purpose::Idle, state.idle_left());
        if !is_wanted(&parked, &state, &worker).await {
            return;
        }
        state.disarm();
        (stream, prefix) = (parked, Bytes::new());
    }
}

/// Waits beside a parked connection. True when there is something to read; false when `idle_timeout` is over or the drain has begun.
async fn is_wanted<S: Socket, E>(stream: &S, state: &State, worker: &Worker<E>) -> bool {
    poll_fn(|cx| {
        state.deadline.watch(cx);
        if worker.is_closing() {
            state.leave();
        }
        match stream.poll_readable(cx) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if state.deadline.is_due() => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Waits until the other end has closed, at most [`HOLD`]. A unix socket has no reset, so the end of a cut HTTP/1.0 response would look
/// like its body's: the peer has to give up first. Should it have sent something instead, closing now does reset it.
async fn wait_for_peer<S: Socket, E>(stream: &S, worker: &Worker<E>) {
    let deadline = Deadline::new();
    deadline.arm(HOLD);
    poll_fn(|cx| {
        deadline.watch(cx);
        let over = worker.is_closing() || deadline.is_due();
        if over || stream.poll_readable(cx).is_ready() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Drives a connection to its end, or to where it can be parked, or where its peer has to close it: then its stream comes back.
async fn drive_h1<S, E>(
    mut connection: http1::UpgradeableConnection<TokioIo<Watched<S>>, Requests<E>>,
    state: &State,
    worker: &Worker<E>,
) -> Option<S>
where
    S: Socket,
    E: EdgeService,
{
    let mut closing = false;
    let ended = poll_fn(|cx| {
        state.deadline.watch(cx);
        if worker.is_closing() {
            state.leave();
        }
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Some(ended));
            }
            if closing || !state.is_leaving() || !state.is_busy() {
                break;
            }
            // The answer under way says that it is the last one. A connection that waits for a request stays a moment longer: the
            // head may be on its way, and hyper would close without looking.
            closing = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if !state.deadline.is_due() {
            return Poll::Pending;
        }
        if state.purpose() == Purpose::Head && state.is_busy() {
            // A pipelined head came in part while an answer is under way, and hyper reads on only after that.
            state.arm(Purpose::Head, clock::TICK * 10);
            return Poll::Pending;
        }
        Poll::Ready(None)
    })
    .await;
    if let Some(Err(error)) = &ended {
        if error.is_parse() {
            worker.refused(Reason::Malformed);
        }
        tracing::debug!(%error, "connection ended");
    }
    if state.is_open_ended() {
        let mut stream = connection.into_parts()?.io.into_inner().into_stream();
        if state.awaits_rest_alone() {
            // All has been sent, and the client sends no more: an orderly end.
            stream.reset_at_close(false);
            let _ = tokio::time::timeout(clock::TICK, stream.shutdown()).await;
            return None;
        }
        // Closing resets it, where that can be.
        return (!stream.reset_at_close(true)).then_some(stream);
    }
    match ended {
        None if state.purpose() == Purpose::Idle && !state.is_leaving() => {
            // Between two requests hyper's buffer holds nothing, or empty lines that mean nothing.
            return connection.into_parts().map(|parts| parts.io.into_inner().into_stream());
        }
        None if state.purpose() == Purpose::Head => {
            worker.refused(Reason::HeaderTimeout);
            if let Some(parts) = connection.into_parts() {
                let mut stream = parts.io.into_inner().into_stream();
                // RFC 9110 §15.5.9. Into an empty socket buffer it goes at once or, where there is none, not at all.
                let farewell = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                let _ = tokio::time::timeout(clock::TICK, stream.write_all(farewell)).await;
                let _ = tokio::time::timeout(clock::TICK, stream.shutdown()).await;
            }
        }
        // It is over, or nothing was asked, or nobody reads: there is nobody to tell.
        Some(_) | None => {}
    }
    None
}

async fn drive_h2<S, E>(
    mut connection: http2::Connection<TokioIo<Watched<S>>, Requests<E>, StreamExecutor>,
    state: &State,
    worker: &Worker<E>,
) where
    S: Socket,
    E: EdgeService,
{
    let mut closing = false;
    poll_fn(|cx| {
        state.deadline.watch(cx);
        if worker.is_closing() {
            if !closing {
                closing = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            // Who neither uses nor leaves the connection after GOAWAY is left.
            state.leave();
        }
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
            return Poll::Ready(());
        }
        if !state.deadline.is_due() {
            return Poll::Pending;
        }
        match state.purpose() {
            Purpose::Idle if state.is_busy() => state.disarm(),
            // GOAWAY first; who does not leave after that is left.
            Purpose::Idle if !closing => {
                closing = true;
                Pin::new(&mut connection).graceful_shutdown();
                state.arm(Purpose::Idle, clock::TICK * 10);
                cx.waker().wake_by_ref();
            }
            purpose => {
                if purpose == Purpose::Head {
                    worker.refused(Reason::HeaderTimeout);
                }
                return Poll::Ready(());
            }
        }
        Poll::Pending
    })
    .await;
}

/// Runs HTTP/2 streams as tasks of their own, and ends those whose visitor has stopped reading: dropping one resets it.
#[derive(Debug, Clone, Copy)]
struct StreamExecutor {
    stalled: std::time::Duration,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let deadline = Deadline::new();
        let stalled = self.stalled;
        tokio::spawn(async move {
            let mut stream = std::pin::pin!(stream);
            poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                if deadline.is_due() {
                    return Poll::Ready(());
                }
                // hyper polls a stream only when something has happened to it, so being polled is progress.
                deadline.arm(stalled);
                deadline.watch(cx);
                Poll::Pending
            })
            .await;
        });
    }
}

/// A connection's requests, handed to the layers of the configuration that is in force when they come.
struct Requests<E> {
    worker: Arc<Worker<E>>,
    peer: Arc<Peer>,
    state: Arc<State>,
    place: Arc<Place>,
}

impl<E> Clone for Requests<E> {
    fn clone(&self) -> Self {
        Self {
            worker: Arc::clone(&self.worker),
            peer: Arc::clone(&self.peer),
            state: Arc::clone(&self.state),
            place: Arc::clone(&self.place),
        }
    }
}

impl<E: EdgeService> hyper::service::Service<Request<Incoming>> for Requests<E> {
    type Response = Response<ServedBody>;
    type Error = Fault;
    type Future = Answer<E::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let busy = self.state.begin();
        let (mut head, body) = request.into_parts();
        if head.version == Version::HTTP_2 {
            values::trim(&mut head.headers);
        }
        if head.headers.contains_key(UPGRADE) {
            let place: Arc<dyn Any + Send + Sync> = Arc::<Place>::clone(&self.place);
            head.extensions.insert(Hold::new(place));
        }
        let trail = Trail { client: self.peer.address(), proven: false, kept: 0, peer_trusted: false };
        let mut ctx = Ctx::new(trail);
        ctx.takes_trailers = hops::wants_trailers(&head.headers);
        let asked = Asked { version: head.version, trailers: ctx.takes_trailers && head.version == Version::HTTP_11 };
        if !self.state.is_sound() {
            ctx.refusal = Some(Reason::Malformed);
        }
        let body = Received::new(body, head.version);
        let request = Box::new(EdgeRequest { ctx, peer: Arc::clone(&self.peer), line: None, head, body });
        Answer { inner: self.worker.call(request), asked, busy: Some(busy) }
    }
}

/// What of a request decides how its response is framed.
#[derive(Debug, Clone, Copy)]
struct Asked {
    version: Version,
    /// HTTP/1.1 with `TE: trailers`.
    trailers: bool,
}

impl Asked {
    /// Brings a response's head in line with what hyper makes of it.
    fn frame<B: Body>(self, head: &mut response::Parts, body: &B, state: &State) {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            state.upgraded();
        }
        if self.version == Version::HTTP_2 {
            return;
        }
        if head.status.canonical_reason().is_none() && head.extensions.get::<ReasonPhrase>().is_none() {
            // RFC 9112 §4: it may be empty. hyper would write `<none>`.
            head.extensions.insert(ReasonPhrase::from_static(b""));
        }
        if self.version == Version::HTTP_10 && !body.is_end_stream() && body.size_hint().exact().is_none() {
            // hyper adds `Connection: keep-alive` to a response that says HTTP/1.1.
            head.version = Version::HTTP_10;
            state.ends_with_connection();
        }
    }
}

pin_project! {
    struct Answer<F> {
        #[pin]
        inner: F,
        asked: Asked,
        busy: Option<Busy>,
    }
}

impl<F> Future for Answer<F>
where
    F: Future<Output = Result<EdgeResponse<AnswerBody>, std::convert::Infallible>>,
{
    type Output = Result<Response<ServedBody>, Fault>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(EdgeResponse { mut head, body, .. }) = ready!(this.inner.poll(cx));
        let busy = this.busy.take().expect("a future is not polled after it was ready");
        this.asked.frame(&mut head, &body, busy.state());
        let trailers = this.asked.trailers;
        Poll::Ready(Ok(Response::from_parts(head, ServedBody { inner: body, busy, trailers, last: None })))
    }
}

pin_project! {
    /// The response's body; its connection is busy until it is gone.
    struct ServedBody {
        #[pin]
        inner: AnswerBody,
        busy: Busy,
        trailers: bool,
        // Boxed: few bodies end so.
        last: Option<Box<Last>>,
    }
}

/// How a body ends, while that waits for what goes before it to be written.
enum Last {
    Trailers(Option<HeaderMap>),
    Fault(Option<Fault>),
}

impl Body for ServedBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.project();
        if let Some(last) = this.last {
            return match &mut **last {
                Last::Trailers(trailers) => this.busy.state().poll_trailers(trailers).map(|()| None),
                Last::Fault(fault) => Poll::Ready(fault.take().map(Err)),
            };
        }
        let mut inner = this.inner;
        let polled = ready!(inner.as_mut().poll_frame(cx));
        let state = this.busy.state();
        let is_last = match &polled {
            Some(Ok(frame)) => state.is_open_ended() && (frame.is_trailers() || inner.is_end_stream()),
            Some(Err(_)) => false,
            None => true,
        };
        if is_last {
            state.body_ended();
        }
        match polled {
            Some(Ok(frame)) if *this.trailers && frame.is_trailers() => {
                let mut trailers = frame.into_trailers().ok();
                let polled = state.poll_trailers(&mut trailers).map(|()| None);
                *this.last = Some(Box::new(Last::Trailers(trailers)));
                polled
            }
            Some(Err(fault)) => {
                // hyper drops what it has not written when a body fails, the head above all; while it waits it writes.
                *this.last = Some(Box::new(Last::Fault(Some(fault))));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            frame => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<E> Worker<E> {
    fn refused(&self, reason: Reason) {
        self.runtime().ledger().refused(ProviderId::NONE, reason);
    }
}
