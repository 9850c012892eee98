//! Limits how many requests are at the origin at the same time. Further requests wait in a queue. If the queue is full,
//! a new request is shed: it fails at once and does not reach the origin.
//!
//! **Place:** innermost, so that only requests that go to the origin take a permit. A request to which an outer layer
//! responds takes no permit, and a retry to the origin uses the permit of its request. **Reads:** `Ctx::class` and the
//! class's setting `admission`; Expect and a short request body; the response's status. **Metrics:**
//! `edgeshim_waiting`; `edgeshim_origin_faults_total{cause="overload"}` for shed requests. **Cost:** none without a
//! limit and in classes without `admission`. Otherwise each request that gets a permit at once locks the limiter twice
//! and updates a reference count. Each queued request also allocates memory, and locks the limiter each time it is
//! polled. A short request body costs a few allocations. **Can fail:** with the cause `overload`. If the queue is full,
//! a new request fails at once. A request that waits in the queue fails after `origin.response_timeout`. A short
//! request body can be too large, stalled or cut. A fault of the leaf is passed on.
//!
//! A short request body is read completely before the request asks for a permit (`origin/gather.rs`). So a slow client
//! does not occupy a permit.
//!
//! A request keeps its permit until the body of the response has ended or was dropped. An upgraded connection returns
//! its permit with the 101, because the connection can stay open for hours without another response. If the client
//! disconnects, the future and its ticket are dropped. There is one exception: on HTTP/1.1, while a request body is
//! unread, hyper does not notice the disconnect. Such a request stays in the queue until it gets a permit or its
//! timeout has passed.

pub(crate) mod limiter;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use self::limiter::{Entry, Limiter, Ticket};
use super::request::class::Classes;
use super::request::{EdgeBody, EdgeRequest, EdgeResponse, Tally};
use crate::clock::Deadline;
use crate::fault::Fault;
use crate::origin::{MessageLimits, Pipe, Reserved, gather};
use crate::wire::received::Received;

/// What the layer needs in addition to the classes.
#[derive(Debug)]
pub(crate) struct AdmissionParts {
    /// The limiter of the process. `None` while there is no limit.
    pub limiter: Option<Arc<Limiter>>,
    /// The longest time that a request waits in the queue.
    pub queue_timeout: Duration,
    /// The limits for a short request body.
    pub limits: MessageLimits,
}

/// Puts [`Admission`] around a service.
#[derive(Debug, Clone)]
pub(crate) struct AdmissionLayer {
    shared: Option<Arc<Shared>>,
    limits: MessageLimits,
}

#[derive(Debug)]
struct Shared {
    limiter: Arc<Limiter>,
    queue_timeout: Duration,
    classes: Arc<Classes>,
}

impl AdmissionLayer {
    pub(crate) fn new(parts: AdmissionParts, classes: &Arc<Classes>) -> Self {
        let AdmissionParts { limiter, queue_timeout, limits } = parts;
        let shared = limiter.map(|limiter| Arc::new(Shared { limiter, queue_timeout, classes: Arc::clone(classes) }));
        Self { shared, limits }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner, shared: self.shared.clone(), limits: self.limits }
    }
}

/// The service of [`AdmissionLayer`].
#[derive(Debug, Clone)]
pub(crate) struct Admission<S> {
    inner: S,
    shared: Option<Arc<Shared>>,
    limits: MessageLimits,
}

impl<S: Service<Box<EdgeRequest>> + Clone> Admission<S> {
    /// Sends the request to the origin, or puts it into the queue, or sheds it.
    fn admit(&mut self, request: Box<EdgeRequest>) -> AdmissionFuture<S, S::Future> {
        let limited = self.shared.as_ref().filter(|shared| shared.classes.rule(request.ctx.class).admission);
        let Some(shared) = limited else {
            return AdmissionFuture::Inner { inner: self.inner.call(request), ticket: None };
        };
        // The request enters the queue in `admit`, not at the first poll, so that the queue has the order of arrival.
        match shared.limiter.enter() {
            Entry::Admitted(ticket) => AdmissionFuture::Inner { inner: self.inner.call(request), ticket: Some(ticket) },
            Entry::Queued(ticket) => {
                let deadline = Deadline::new();
                deadline.arm(shared.queue_timeout);
                let queued = Queued { ticket, deadline, request, service: self.inner.clone() };
                AdmissionFuture::Queued { queued: Some(queued) }
            }
            Entry::Full(fault) => AdmissionFuture::Full { fault: Some(fault) },
        }
    }
}

impl<S, B> Service<Box<EdgeRequest>> for Admission<S>
where
    S: Service<Box<EdgeRequest>, Response = EdgeResponse<B>, Error = Fault> + Clone,
    B: EdgeBody,
{
    type Response = EdgeResponse<AdmissionBody<B>>;
    type Error = Fault;
    type Future = AdmissionFuture<S, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Box<EdgeRequest>) -> Self::Future {
        let Some(reserved) = Reserved::for_body(&request.head, &request.body) else {
            return self.admit(request);
        };
        let body = std::mem::replace(&mut request.body, Received::empty());
        let body = Box::pin(gather(body, reserved, self.limits));
        AdmissionFuture::Gathering { gathering: Some(Gathering { body, request, service: self.clone() }) }
    }
}

pin_project! {
    /// Waits for a short request body, then for a permit, then for the response.
    #[project = Projected]
    pub enum AdmissionFuture<S, F> {
        /// The request has a short body, which is being read.
        Gathering {
            gathering: Option<Gathering<S>>,
        },
        /// The request is at the origin. A request without a limit has no ticket.
        Inner {
            // This field is dropped before the ticket, so that the connection to the origin is closed or back in the
            // pool before the next request gets the permit.
            #[pin]
            inner: F,
            ticket: Option<Ticket>,
        },
        /// The request is in the queue.
        Queued {
            queued: Option<Queued<S>>,
        },
        /// The queue is full, so the request is shed.
        Full {
            fault: Option<Fault>,
        },
    }
}

/// A request whose short body is being read, and the service that then admits the request.
pub(crate) struct Gathering<S> {
    body: Pin<Box<dyn Future<Output = Result<Received, Fault>> + Send>>,
    request: Box<EdgeRequest>,
    service: Admission<S>,
}

/// A request in the queue, and the service to call when the request gets a permit.
#[derive(Debug)]
pub(crate) struct Queued<S> {
    ticket: Ticket,
    deadline: Deadline,
    request: Box<EdgeRequest>,
    service: S,
}

impl<S, F, B> Future for AdmissionFuture<S, F>
where
    S: Service<Box<EdgeRequest>, Future = F> + Clone,
    F: Future<Output = Result<EdgeResponse<B>, Fault>>,
    B: EdgeBody,
{
    type Output = Result<EdgeResponse<AdmissionBody<B>>, Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const ONCE: &str = "the future was polled again after it had returned its result";
        loop {
            let Queued { ticket, mut service, request, .. } = match self.as_mut().project() {
                Projected::Gathering { gathering } => {
                    let body = ready!(gathering.as_mut().expect(ONCE).body.as_mut().poll(cx));
                    let Gathering { mut request, mut service, .. } = gathering.take().expect(ONCE);
                    request.body = body?;
                    let admitted = service.admit(request);
                    self.set(admitted);
                    continue;
                }
                Projected::Inner { inner, ticket } => {
                    let response = ready!(inner.poll(cx));
                    let ticket = ticket.take();
                    return Poll::Ready(response.map(|response| with_ticket(response, ticket)));
                }
                Projected::Full { fault } => return Poll::Ready(Err(fault.take().expect(ONCE))),
                Projected::Queued { queued } => {
                    let waiting = queued.as_ref().expect(ONCE);
                    if waiting.ticket.poll_permit(cx).is_pending() {
                        waiting.deadline.watch(cx);
                        if !waiting.deadline.is_due() {
                            return Poll::Pending;
                        }
                        let fault = waiting.ticket.overload();
                        *queued = None;
                        return Poll::Ready(Err(fault));
                    }
                    queued.take().expect(ONCE)
                }
            };
            let inner = service.call(request);
            self.set(AdmissionFuture::Inner { inner, ticket: Some(ticket) });
        }
    }
}

/// Stores the ticket in the body. If the body is empty or belongs to an upgraded connection, the ticket is dropped
/// instead.
fn with_ticket<B: EdgeBody>(response: EdgeResponse<B>, ticket: Option<Ticket>) -> EdgeResponse<AdmissionBody<B>> {
    let over = response.head.status == StatusCode::SWITCHING_PROTOCOLS || response.body.is_end_stream();
    response.map(|inner| AdmissionBody { inner, ticket: ticket.filter(|_| !over) })
}

pin_project! {
    /// A response body that keeps the ticket until the body ends.
    pub struct AdmissionBody<B> {
        // This field is dropped before the ticket, for the same reason as in `AdmissionFuture`.
        #[pin]
        inner: B,
        ticket: Option<Ticket>,
    }
}

impl<B: EdgeBody> Body for AdmissionBody<B> {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        let continues = matches!(&frame, Some(Ok(frame)) if !frame.is_trailers()) && !this.inner.is_end_stream();
        if !continues {
            *this.ticket = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: EdgeBody> EdgeBody for AdmissionBody<B> {
    fn tally(&self) -> Tally {
        self.inner.tally()
    }

    fn drain(&mut self) -> bool {
        self.inner.drain()
    }

    fn poll_splice(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, Fault>>> {
        let mut this = self.project();
        let filled = ready!(this.inner.as_mut().poll_splice(cx));
        if matches!(filled, Some(Err(_))) || this.inner.is_end_stream() {
            *this.ticket = None;
        }
        Poll::Ready(filled)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use http::HeaderMap;

    use super::limiter::Limits;
    use super::*;
    use crate::edge::request::Facts;
    use crate::fault::Cause;
    use crate::ids::ClassId;
    use crate::metrics::Metrics;

    /// A body with the given frames. The flag decides whether `is_end_stream` reports the end after the last frame.
    struct Frames(VecDeque<Result<Frame<Bytes>, Fault>>, bool);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Fault;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
            Poll::Ready(self.0.pop_front())
        }

        fn is_end_stream(&self) -> bool {
            self.1 && self.0.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(7)
        }
    }

    impl EdgeBody for Frames {
        fn tally(&self) -> Tally {
            Tally { origin_bytes: 7, fault: None }
        }

        fn drain(&mut self) -> bool {
            false
        }
    }

    fn data() -> Frame<Bytes> {
        Frame::data(Bytes::from_static(b"x"))
    }

    fn response(
        status: u16,
        frames: impl IntoIterator<Item = Result<Frame<Bytes>, Fault>>,
        is_end_known: bool,
    ) -> Response {
        let (mut head, ()) = http::Response::new(()).into_parts();
        head.status = StatusCode::from_u16(status).unwrap();
        EdgeResponse {
            head,
            body: Frames(frames.into_iter().collect(), is_end_known),
            facts: Facts::new(ClassId::OTHER),
        }
    }

    type Response = EdgeResponse<Frames>;

    fn limiter() -> Arc<Limiter> {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        Arc::new(Limiter::new(Limits { max_in_flight: 1, max_waiting: 0 }, metrics))
    }

    /// Returns whether the permit is free.
    fn is_free(limiter: &Arc<Limiter>) -> bool {
        matches!(limiter.enter(), Entry::Admitted(_))
    }

    fn held(limiter: &Arc<Limiter>, response: Response) -> AdmissionBody<Frames> {
        let Entry::Admitted(ticket) = limiter.enter() else { panic!("the limiter did not grant a permit") };
        with_ticket(response, Some(ticket)).body
    }

    #[test]
    fn permit_when_body_is_polled_then_is_held_until_the_body_ends() {
        let trailers = Frame::trailers(HeaderMap::new());
        let cut = Fault::new(Cause::Cut);
        // Each row has the frames, whether `is_end_stream` reports the end, and the number of polls until the permit is
        // free.
        for (frames, is_end_known, held_for) in [
            (vec![Ok(data()), Ok(data())], true, 2),
            (vec![Ok(data()), Ok(data())], false, 3),
            (vec![Ok(data()), Ok(trailers)], false, 2),
            (vec![Ok(data()), Err(cut)], false, 2),
        ] {
            let limiter = limiter();
            let mut body = held(&limiter, response(200, frames, is_end_known));
            for polled in 1..=held_for {
                assert!(!is_free(&limiter), "the permit is free before poll {polled}");
                let _ = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
            }
            assert!(is_free(&limiter), "the permit is held after {held_for} polls, is_end_known: {is_end_known}");
        }
    }

    #[test]
    fn permit_when_body_is_dropped_or_empty_or_connection_is_upgraded_then_is_free() {
        let limiter = limiter();
        let body = held(&limiter, response(200, [Ok(data())], false));
        assert!(!is_free(&limiter));
        drop(body);
        assert!(is_free(&limiter));
        let _nothing = held(&limiter, response(304, [], true));
        assert!(is_free(&limiter), "an empty body must hold no permit");
        let _upgraded = held(&limiter, response(101, [Ok(data())], false));
        assert!(is_free(&limiter), "an upgraded connection must hold no permit");
    }

    #[test]
    fn admission_body_when_size_tally_or_drain_is_called_then_inner_body_is_called() {
        let mut body = held(&limiter(), response(200, [Ok(data())], true));
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(7), false));
        assert_eq!(body.tally().origin_bytes, 7);
        assert!(!body.drain());
    }
}
