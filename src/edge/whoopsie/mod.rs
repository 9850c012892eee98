//! Sends the whoopsie page when the origin fails. The page replaces a 5xx of the origin, with the same status, or it
//! is the response to a fault.
//!
//! **Place:** outside of `gzip`, because pages have their own gzip form. Outside of `cache_control`, so that the rule
//! of a class cannot make an error cacheable. Inside `pulls`, which counts pages like any other response. The layers
//! outside of this layer never get a fault.
//! **Reads:** `Ctx`. Of the request: method, Accept, Accept-Encoding, Accept-Language, Content-Type, Host and
//! X-Request-Id. Of the response: status, and the fields that are copied to the page. Of the class: `whoopsie`.
//! **Metrics:** `edgeshim_whoopsies_total`; `edgeshim_refused_total` for request bodies that are too large.
//! **Cost:** at most six updates of a reference count for each request. A page costs one copy of a few kilobytes.
//! **Can fail:** no.

mod replacement;
mod request_fields;
mod statuses;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use self::replacement::{Replacement, RetryAfter, Shared};
use self::request_fields::RequestFields;
use self::statuses::StatusSet;
use super::request::class::Classes;
use super::request::{EdgeBody, EdgeFuture, EdgeRequest, EdgeResponse, Facts, Tally};
use crate::cdn::grant::Grant;
use crate::fault::Fault;
use crate::keys::quantities::WHOLE_SECONDS;
use crate::keys::{Keys, Visitor};
use crate::metrics::{Ledger, describe};
use crate::origin::Pipe;
use crate::pages::Pages;
use crate::wire::head_fields::Names;

/// The grant of every response that this layer makes. These responses have no-store, in the form that the pulling CDN
/// obeys.
const FORBIDDEN: Option<Grant> = Some(Grant::Forbidden);

/// Some of the keys of `[whoopsie]`. `PageSettings` has the other keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WhoopsieSettings {
    /// The statuses of the origin's responses that a page replaces.
    pub statuses: StatusSet,
    /// The value of Retry-After if the origin sends no valid Retry-After. The unit is whole seconds. The minimum is 1.
    pub retry_after: Duration,
}

impl Default for WhoopsieSettings {
    fn default() -> Self {
        Self { statuses: StatusSet::all(), retry_after: Duration::from_secs(30) }
    }
}

impl Keys for WhoopsieSettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        let mut ranges = self.statuses.ranges();
        v.list("statuses", &StatusSet::RANGE, &mut ranges);
        self.statuses = ranges.into_iter().collect();
        v.text("retry_after", &WHOLE_SECONDS, &mut self.retry_after);
    }
}

/// The rest of a replaced body is read, so that the origin's connection can be reused. While the rest arrives, the page
/// is delayed by at most this number of further polls of the request's future.
const DRAIN_TURNS: u8 = 2;

/// Puts [`Whoopsie`] around a service.
#[derive(Clone)]
pub(crate) struct WhoopsieLayer {
    shared: Arc<Shared>,
}

impl WhoopsieLayer {
    pub(crate) fn new(
        settings: WhoopsieSettings,
        pages: Arc<Pages>,
        classes: Arc<Classes>,
        ledger: Arc<Ledger>,
    ) -> Self {
        let seconds = settings.retry_after.as_secs().max(1);
        let retry_after =
            RetryAfter { field: HeaderValue::from(seconds), seconds: u32::try_from(seconds).unwrap_or(u32::MAX) };
        let served = ledger.lazy(&describe::WHOOPSIES);
        let statuses = settings.statuses;
        Self { shared: Arc::new(Shared { statuses, retry_after, pages, classes, ledger, served }) }
    }
}

impl<S> Layer<S> for WhoopsieLayer {
    type Service = Whoopsie<S>;

    fn layer(&self, inner: S) -> Whoopsie<S> {
        Whoopsie { inner, shared: Arc::clone(&self.shared) }
    }
}

/// The service of [`WhoopsieLayer`].
#[derive(Clone)]
pub(crate) struct Whoopsie<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B> Service<Box<EdgeRequest>> for Whoopsie<S>
where
    S: Service<Box<EdgeRequest>, Response = EdgeResponse<B>, Error = Fault>,
    B: EdgeBody,
{
    type Response = EdgeResponse<WhoopsieBody<B>>;
    type Error = Infallible;
    type Future = WhoopsieFuture<S::Future, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Every inner layer is always ready. A test of the pipeline checks this.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Box<EdgeRequest>) -> Self::Future {
        let request_fields = RequestFields::of(&request.head, request.ctx);
        WhoopsieFuture {
            inner: self.inner.call(request),
            request: request_fields,
            shared: Arc::clone(&self.shared),
            replaced: None,
            turns: DRAIN_TURNS,
        }
    }
}

pin_project! {
    /// Waits for the response or the fault.
    pub struct WhoopsieFuture<F, B> {
        #[pin]
        inner: F,
        request: RequestFields,
        shared: Arc<Shared>,
        // A response that a page replaces, while the rest of its body is read.
        replaced: Option<Box<EdgeResponse<B>>>,
        turns: u8,
    }
}

impl<F, B> Future for WhoopsieFuture<F, B>
where
    F: Future<Output = Result<EdgeResponse<B>, Fault>>,
    B: EdgeBody,
{
    type Output = Result<EdgeResponse<WhoopsieBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match this.replaced.take() {
            Some(response) => Ok(*response),
            None => ready!(this.inner.poll(cx)),
        };
        Poll::Ready(Ok(match response {
            Ok(response) if this.shared.passes(response.head.status, &response.facts) => {
                response.map(|inner| WhoopsieBody::Inner { inner })
            }
            Ok(mut response) => {
                if !response.body.drain() && *this.turns > 0 {
                    // The task of the origin's connection reads the end of a chunked body. That task runs after this
                    // task, so this task asks to be polled once more.
                    *this.turns -= 1;
                    *this.replaced = Some(Box::new(response));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let Replacement { head, page, locale } = this.shared.replace(this.request, &response);
                let facts = Facts { locale, names: Names::ALL, grant: FORBIDDEN, ..response.facts };
                EdgeResponse {
                    head,
                    body: WhoopsieBody::Page { page, tally: Tally { fault: None, ..response.body.tally() } },
                    facts,
                }
            }
            Err(fault) => {
                let Replacement { head, page, locale } = this.shared.fail(this.request, &fault);
                let class = this.request.ctx.class;
                let (cause, guard) = (Some(fault.cause()), fault.guard());
                let mut facts = Facts { cause, locale, guard, grant: FORBIDDEN, ..Facts::new(class) };
                let mut tally = Tally::default();
                if let Some(begun) = fault.begun() {
                    (facts.origin_status, facts.origin_us) = (Some(begun.status), Some(begun.micros));
                    tally.origin_bytes = begun.bytes;
                }
                EdgeResponse { head, body: WhoopsieBody::Page { page, tally }, facts }
            }
        }))
    }
}

impl<F: EdgeFuture, B: EdgeBody> EdgeFuture for WhoopsieFuture<F, B> {
    fn begun(&self) -> Option<(Facts, Tally)> {
        match &self.replaced {
            Some(response) => Some((response.facts, response.body.tally())),
            None => self.inner.begun(),
        }
    }
}

pin_project! {
    /// The origin's body, or a page.
    #[project = Projected]
    pub enum WhoopsieBody<B> {
        /// The origin's body.
        Inner {
            #[pin]
            inner: B,
        },
        /// A page. `page` is empty after it was sent.
        Page {
            page: Bytes,
            tally: Tally,
        },
    }
}

impl<B: EdgeBody> Body for WhoopsieBody<B> {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self.project() {
            Projected::Inner { inner } => inner.poll_frame(cx),
            Projected::Page { page, .. } if page.is_empty() => Poll::Ready(None),
            Projected::Page { page, .. } => Poll::Ready(Some(Ok(Frame::data(std::mem::take(page))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Inner { inner } => inner.is_end_stream(),
            Self::Page { page, .. } => page.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Inner { inner } => inner.size_hint(),
            Self::Page { page, .. } => SizeHint::with_exact(page.len() as u64),
        }
    }
}

impl<B: EdgeBody> EdgeBody for WhoopsieBody<B> {
    fn tally(&self) -> Tally {
        match self {
            Self::Inner { inner } => inner.tally(),
            Self::Page { tally, .. } => *tally,
        }
    }

    fn poll_splice(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, Fault>>> {
        match self.project() {
            Projected::Inner { inner } => inner.poll_splice(cx),
            Projected::Page { .. } => Poll::Ready(None),
        }
    }
}
