//! Lets no more requests to the origin at once than it can bear: the others wait in line, and what the line does not hold is shed.
//!
//! **Place:** innermost, so that a place is held by what is at the origin and by nothing else: whatever an outer layer answers by itself
//! takes none, and the origin's own retries take no second one.
//! **Reads:** `Ctx::class` and the class's `admission`; the answer's status. A waiting request's body is left unread.
//! **Metrics:** `edgeshim_waiting`, and `edgeshim_origin_faults_total{cause="overload"}` for what is shed.
//! **Cost:** nothing without a limit; with one, two locks and a reference count a request, and some allocations for one that waits.
//! **Can fail:** with an overload: at once where the line is full, after `origin.response_timeout` for a request still in it.
//!
//! A place is held until the response's body has ended or was dropped. An upgraded connection gives it back with the 101: it may live
//! for hours, and no answer is being worked on. A visitor who leaves drops the future, and that is how the line, or the place, is left
//! (hyper notices it late on HTTP/1.1 while a body is unread; then the wait's end is what ends it).

pub(crate) mod gate;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use self::gate::{Entered, Gate, Ticket};
use super::request::class::Classes;
use super::request::{EdgeBody, EdgeRequest, EdgeResponse, Tally};
use crate::clock::Deadline;
use crate::fault::Fault;

/// What `admission` needs to know.
#[derive(Debug)]
pub(crate) struct AdmissionSettings {
    /// The gate of the process; none while there is no limit.
    pub gate: Option<Arc<Gate>>,
    /// How long a request may stand in line.
    pub patience: Duration,
}

/// Puts [`Admission`] around a service.
#[derive(Debug, Clone)]
pub(crate) struct AdmissionLayer {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    gate: Arc<Gate>,
    patience: Duration,
    classes: Arc<Classes>,
}

impl AdmissionLayer {
    /// Exempts by the classes.
    pub(crate) fn new(settings: AdmissionSettings, classes: &Arc<Classes>) -> Self {
        let AdmissionSettings { gate, patience } = settings;
        let shared = gate.map(|gate| Arc::new(Shared { gate, patience, classes: Arc::clone(classes) }));
        Self { shared }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner, shared: self.shared.clone() }
    }
}

/// See the head of this file.
#[derive(Debug, Clone)]
pub(crate) struct Admission<S> {
    inner: S,
    shared: Option<Arc<Shared>>,
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

    fn call(&mut self, request: Box<EdgeRequest>) -> Self::Future {
        let limited = self.shared.as_ref().filter(|shared| shared.classes.rule(request.ctx.class).admission);
        let Some(shared) = limited else {
            return AdmissionFuture::Inner { inner: self.inner.call(request), ticket: None };
        };
        // Here and not when first polled, so that the line is in the order of arrival.
        match shared.gate.enter() {
            Entered::Inside(ticket) => AdmissionFuture::Inner { inner: self.inner.call(request), ticket: Some(ticket) },
            Entered::InLine(ticket) => {
                let deadline = Deadline::new();
                deadline.arm(shared.patience);
                let stay = Stay { ticket, deadline, request, service: self.inner.clone() };
                AdmissionFuture::InLine { stay: Some(stay) }
            }
            Entered::Full(fault) => AdmissionFuture::Full { fault: Some(fault) },
        }
    }
}

pin_project! {
    /// Waits for a place, then for the answer.
    #[project = Projected]
    pub enum AdmissionFuture<S, F> {
        /// At the origin; without a ticket where no limit holds.
        Inner {
            // Dropped before the ticket, so that who comes next finds the origin rid of this one.
            #[pin]
            inner: F,
            ticket: Option<Ticket>,
        },
        /// In line.
        InLine {
            stay: Option<Stay<S>>,
        },
        /// To be shed.
        Full {
            fault: Option<Fault>,
        },
    }
}

/// A request in line, and what takes it to the origin.
#[derive(Debug)]
pub(crate) struct Stay<S> {
    ticket: Ticket,
    deadline: Deadline,
    request: Box<EdgeRequest>,
    service: S,
}

impl<S, F, B> Future for AdmissionFuture<S, F>
where
    S: Service<Box<EdgeRequest>, Future = F>,
    F: Future<Output = Result<EdgeResponse<B>, Fault>>,
    B: EdgeBody,
{
    type Output = Result<EdgeResponse<AdmissionBody<B>>, Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const ONCE: &str = "a future is not polled after it was ready";
        loop {
            let Stay { ticket, mut service, request, .. } = match self.as_mut().project() {
                Projected::Inner { inner, ticket } => {
                    let answer = ready!(inner.poll(cx));
                    let ticket = ticket.take();
                    return Poll::Ready(answer.map(|answer| admitted(answer, ticket)));
                }
                Projected::Full { fault } => return Poll::Ready(Err(fault.take().expect(ONCE))),
                Projected::InLine { stay } => {
                    let waiting = stay.as_ref().expect(ONCE);
                    if waiting.ticket.poll_place(cx).is_pending() {
                        waiting.deadline.watch(cx);
                        if !waiting.deadline.is_due() {
                            return Poll::Pending;
                        }
                        let fault = waiting.ticket.overload();
                        *stay = None;
                        return Poll::Ready(Err(fault));
                    }
                    stay.take().expect(ONCE)
                }
            };
            let inner = service.call(request);
            self.set(AdmissionFuture::Inner { inner, ticket: Some(ticket) });
        }
    }
}

/// An answer that holds its place until its body has ended, where there is one to end.
fn admitted<B: EdgeBody>(answer: EdgeResponse<B>, ticket: Option<Ticket>) -> EdgeResponse<AdmissionBody<B>> {
    let over = answer.head.status == StatusCode::SWITCHING_PROTOCOLS || answer.body.is_end_stream();
    answer.map(|inner| AdmissionBody { inner, ticket: ticket.filter(|_| !over) })
}

pin_project! {
    /// Holds the place.
    pub struct AdmissionBody<B> {
        // Dropped before the ticket, as above.
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
        let goes_on = matches!(&frame, Some(Ok(frame)) if !frame.is_trailers()) && !this.inner.is_end_stream();
        if !goes_on {
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
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use http::HeaderMap;

    use super::gate::GateLimits;
    use super::*;
    use crate::edge::request::Facts;
    use crate::fault::Cause;
    use crate::ids::ClassId;
    use crate::metrics::Metrics;

    /// A body of frames that were made before.
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

    fn answer(status: u16, frames: impl IntoIterator<Item = Result<Frame<Bytes>, Fault>>, told: bool) -> Answer {
        let (mut head, ()) = http::Response::new(()).into_parts();
        head.status = StatusCode::from_u16(status).unwrap();
        EdgeResponse { head, body: Frames(frames.into_iter().collect(), told), facts: Facts::new(ClassId::OTHER) }
    }

    type Answer = EdgeResponse<Frames>;

    fn gate() -> Arc<Gate> {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        Arc::new(Gate::new(GateLimits { max_in_flight: 1, max_waiting: 0 }, metrics))
    }

    /// Whether nobody is inside.
    fn is_free(gate: &Arc<Gate>) -> bool {
        matches!(gate.enter(), Entered::Inside(_))
    }

    fn held(gate: &Arc<Gate>, answer: Answer) -> AdmissionBody<Frames> {
        let Entered::Inside(ticket) = gate.enter() else { panic!("no place") };
        admitted(answer, Some(ticket)).body
    }

    #[test]
    fn place_when_the_body_has_frames_then_held_to_the_last_of_them() {
        let trailers = Frame::trailers(HeaderMap::new());
        let cut = Fault::new(Cause::Cut);
        // Frames, whether the last of them is known as such, and after how many the place is free.
        for (frames, told, held_for) in [
            (vec![Ok(data()), Ok(data())], true, 2),
            (vec![Ok(data()), Ok(data())], false, 3),
            (vec![Ok(data()), Ok(trailers)], false, 2),
            (vec![Ok(data()), Err(cut)], false, 2),
        ] {
            let gate = gate();
            let mut body = held(&gate, answer(200, frames, told));
            for polled in 1..=held_for {
                assert!(!is_free(&gate), "before frame {polled}");
                let _ = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
            }
            assert!(is_free(&gate), "{held_for}, {told}");
        }
    }

    #[test]
    fn place_when_the_body_is_dropped_or_there_is_none_then_free() {
        let gate = gate();
        let body = held(&gate, answer(200, [Ok(data())], false));
        assert!(!is_free(&gate));
        drop(body);
        assert!(is_free(&gate));
        let _nothing = held(&gate, answer(304, [], true));
        assert!(is_free(&gate), "nothing is to come");
        let _tunnel = held(&gate, answer(101, [Ok(data())], false));
        assert!(is_free(&gate), "a tunnel holds no place");
    }

    #[test]
    fn body_when_asked_then_says_what_the_one_below_says() {
        let mut body = held(&gate(), answer(200, [Ok(data())], true));
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(7), false));
        assert_eq!(body.tally().origin_bytes, 7);
        assert!(!body.drain());
    }
}
