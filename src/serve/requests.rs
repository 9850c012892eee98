//! Passes requests to the layers, and the layers' responses to the server: hyper, or `plain.rs`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version, request, response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use pin_project_lite::pin_project;

use super::discard::discard;
use super::state::{InFlight, State};
use super::worker::Worker;
use crate::edge::pipeline::StackBody;
use crate::edge::request::{Ctx, EdgeBody, EdgeRequest, EdgeResponse, Tally};
use crate::fault::Fault;
use crate::origin::{Hold, Pipe};
use crate::runtime::EdgeService;
use crate::wire::forwarded::Peer;
use crate::wire::names::{EXPECT, UPGRADE};
use crate::wire::received::Received;
use crate::wire::values;

/// The number of further fields for which each request head gets room. To most requests, the layers and the leaf add at
/// most these fields: two ids, Via, CDN-Loop, Forwarded, and three fields `X-Forwarded-*`.
const ADDED_FIELDS: usize = 8;

/// hyper's service for one HTTP/1.1 connection. [`Streams`] passes the requests of an HTTP/2 connection to this
/// service.
pub(super) struct Requests<E> {
    pub(super) worker: Arc<Worker<E>>,
    pub(super) peer: Arc<Peer>,
    pub(super) state: Arc<State>,
}

impl<E> Clone for Requests<E> {
    fn clone(&self) -> Self {
        Self { worker: Arc::clone(&self.worker), peer: Arc::clone(&self.peer), state: Arc::clone(&self.state) }
    }
}

impl<E: EdgeService> hyper::service::Service<Request<Incoming>> for Requests<E> {
    type Response = Response<ResponseBody>;
    type Error = Fault;
    type Future = ResponseFuture<E::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (head, body) = request.into_parts();
        let body = Received::new(body, head.version);
        self.begin(head, body)
    }
}

impl<E: EdgeService> Requests<E> {
    /// Passes a request to the layers.
    pub(super) fn begin(&self, mut head: request::Parts, mut body: Received) -> ResponseFuture<E::Future> {
        let in_flight = self.state.begin_request();
        if head.version == Version::HTTP_2 {
            values::trim(&mut head.headers);
        }
        // The map of a connection's first request has no room for more fields. Without this call, the map could grow
        // twice while the layers and the leaf add fields.
        head.headers.reserve(ADDED_FIELDS);
        let ctx = Ctx::new(&self.peer, &head.headers, self.state.is_unambiguous());
        if ctx.fields(&head.headers).has(&UPGRADE) {
            // The state has the permit of the connection. So the connection is counted until the tunnel has ended.
            head.extensions.insert(Hold::new(Arc::<State>::clone(&self.state)));
        }
        let client =
            ClientSupport { version: head.version, trailers: ctx.takes_trailers && head.version == Version::HTTP_11 };
        // A client that waits for a 100 has not sent the body. Reading the body would send the 100.
        if !ctx.fields(&head.headers).has(&EXPECT) {
            body = body.discarded_by(discard);
        }
        let request = Box::new(EdgeRequest { ctx, peer: Arc::clone(&self.peer), line: None, head, body });
        ResponseFuture { inner: self.worker.call(request), client, in_flight: Some(in_flight) }
    }
}

/// hyper's service for one HTTP/2 connection. Each response future is boxed: hyper moves the future of a stream several
/// times before the stream runs, and each move of an unboxed future copies several KiB.
pub(super) struct Streams<E>(pub(super) Requests<E>);

impl<E: EdgeService> hyper::service::Service<Request<Incoming>> for Streams<E> {
    type Response = Response<ResponseBody>;
    type Error = Fault;
    type Future = Pin<Box<ResponseFuture<E::Future>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(self.0.call(request))
    }
}

/// The client's capabilities that affect how hyper frames the response.
#[derive(Debug, Clone, Copy)]
struct ClientSupport {
    version: Version,
    /// Whether trailers can be written: the request is HTTP/1.1 and has `TE: trailers`.
    trailers: bool,
}

impl ClientSupport {
    /// Adjusts a response head and the connection's state to the way in which hyper will frame the response.
    fn adjust<B: Body>(self, head: &mut response::Parts, body: &B, state: &State) {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            state.upgraded();
        }
        if self.version == Version::HTTP_2 {
            return;
        }
        if head.status.canonical_reason().is_none() && head.extensions.get::<ReasonPhrase>().is_none() {
            // RFC 9112 §4 allows an empty reason phrase. Without this extension hyper would write `<none>`.
            head.extensions.insert(ReasonPhrase::from_static(b""));
        }
        if self.version == Version::HTTP_10 && !body.is_end_stream() && body.size_hint().exact().is_none() {
            // The version must be HTTP/1.0, because hyper would add `Connection: keep-alive` to an HTTP/1.1 response.
            head.version = Version::HTTP_10;
            state.ends_with_connection();
        }
    }
}

pin_project! {
    pub(super) struct ResponseFuture<F> {
        #[pin]
        inner: F,
        client: ClientSupport,
        in_flight: Option<InFlight>,
    }
}

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<EdgeResponse<StackBody>, Infallible>>,
{
    type Output = Result<Response<ResponseBody>, Fault>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(EdgeResponse { mut head, body, .. }) = ready!(this.inner.poll(cx));
        let in_flight = this.in_flight.take().expect("the response future must not be polled after it has returned");
        this.client.adjust(&mut head, &body, in_flight.state());
        let trailers = this.client.trailers;
        Poll::Ready(Ok(Response::from_parts(head, ResponseBody { inner: body, in_flight, trailers, end: None })))
    }
}

pin_project! {
    /// A response body. Its request counts as in flight until the body is dropped.
    pub(super) struct ResponseBody {
        #[pin]
        inner: StackBody,
        in_flight: InFlight,
        trailers: bool,
        // `end` is boxed to keep the body small, because few bodies need it.
        end: Option<Box<End>>,
    }
}

/// The end of a body. The end must wait until hyper has written the bytes before the end.
enum End {
    Trailers,
    Fault(Option<Fault>),
}

impl End {
    /// When a body fails, hyper drops all bytes that are not written yet, even the head. So the fault is reported only
    /// at the next poll. Before that poll, hyper can write these bytes.
    fn fault(fault: Fault, cx: &Context<'_>) -> Self {
        cx.waker().wake_by_ref();
        Self::Fault(Some(fault))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.project();
        if let Some(end) = this.end {
            return match &mut **end {
                End::Trailers => this.in_flight.state().trailers.poll().map(|()| None),
                End::Fault(fault) => Poll::Ready(fault.take().map(Err)),
            };
        }
        let mut inner = this.inner;
        let polled = ready!(inner.as_mut().poll_frame(cx));
        let state = this.in_flight.state();
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
                if let Ok(trailers) = frame.into_trailers() {
                    state.trailers.begin(&trailers);
                }
                *this.end = Some(Box::new(End::Trailers));
                state.trailers.poll().map(|()| None)
            }
            Some(Err(fault)) => {
                *this.end = Some(Box::new(End::fault(fault, cx)));
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

impl EdgeBody for ResponseBody {
    fn tally(&self) -> Tally {
        self.inner.tally()
    }

    fn poll_splice(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, Fault>>> {
        let this = self.project();
        if this.end.is_some() {
            return Poll::Ready(None);
        }
        match ready!(this.inner.poll_splice(cx)) {
            Some(Err(fault)) => {
                *this.end = Some(Box::new(End::fault(fault, cx)));
                Poll::Pending
            }
            filled => Poll::Ready(filled),
        }
    }
}
