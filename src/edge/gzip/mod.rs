//! Compresses what the origin sent plain, for CDNs that ask for gzip.
//!
//! **Place:** outside of `cache_control`, which must see the origin's own fields; inside `whoopsie`, whose pages bring their own twin.
//! **Reads:** method, Accept-Encoding; the answer's status, type, length and the fields that forbid compression (see [`policy`]).
//! **Metrics:** `edgeshim_gzip_input_bytes_total`, `edgeshim_gzip_output_bytes_total`.
//! **Cost:** one look at Accept-Encoding; for an answer that is compressed the compressor's, whose state is kept for the next one.
//! **Can fail:** only as the body below it does; a compressor on memory has no errors of its own.

mod body;
pub mod policy;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

pub use body::GzipBody;
pub use policy::GzipSettings;
use policy::{Asked, Verdict};

use super::request::class::Classes;
use super::request::{EdgeBody, EdgeRequest, EdgeResponse};
use crate::fault::Fault;
use crate::metrics::Ledger;

/// Puts [`Gzip`] around a service.
#[derive(Debug, Clone)]
pub struct GzipLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: GzipSettings,
    classes: Arc<Classes>,
    ledger: Arc<Ledger>,
}

impl GzipLayer {
    /// Decides by `settings` and the classes, counts in `ledger`.
    #[must_use]
    pub fn new(settings: GzipSettings, classes: Arc<Classes>, ledger: Arc<Ledger>) -> Self {
        Self { shared: Arc::new(Shared { settings, classes, ledger }) }
    }
}

impl<S> Layer<S> for GzipLayer {
    type Service = Gzip<S>;

    fn layer(&self, inner: S) -> Gzip<S> {
        Gzip { inner, shared: Arc::clone(&self.shared) }
    }
}

/// See the head of this file.
#[derive(Debug, Clone)]
pub struct Gzip<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B> Service<Box<EdgeRequest>> for Gzip<S>
where
    S: Service<Box<EdgeRequest>, Response = EdgeResponse<B>, Error = Fault>,
    B: EdgeBody,
{
    type Response = EdgeResponse<GzipBody<B>>;
    type Error = Fault;
    type Future = GzipFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Box<EdgeRequest>) -> Self::Future {
        let asked = Asked::of(&request.head);
        if self.shared.settings.enabled {
            policy::restore_validators(&mut request.head.headers);
        }
        GzipFuture { inner: self.inner.call(request), asked, shared: Arc::clone(&self.shared) }
    }
}

pin_project! {
    /// Waits for the answer.
    pub struct GzipFuture<F> {
        #[pin]
        inner: F,
        asked: Asked,
        shared: Arc<Shared>,
    }
}

impl<F, B> Future for GzipFuture<F>
where
    F: Future<Output = Result<EdgeResponse<B>, Fault>>,
    B: EdgeBody,
{
    type Output = Result<EdgeResponse<GzipBody<B>>, Fault>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.inner.poll(cx))?;
        let shared = &**this.shared;
        let rule = shared.classes.rule(answer.facts.class);
        let verdict = if rule.gzip && shared.settings.enabled {
            policy::decide(&shared.settings, *this.asked, &answer.head, answer.body.size_hint().exact())
        } else {
            Verdict::Leave
        };
        Poll::Ready(Ok(match policy::apply(verdict, &mut answer.head) {
            Some(flush) if !this.asked.is_head => {
                let ledger = Arc::clone(&shared.ledger);
                let level = shared.settings.level;
                let class = answer.facts.class;
                answer.map(|inner| GzipBody::compressed(inner, level, flush, class, ledger))
            }
            // A HEAD's head says what the GET's would; there is no body to compress.
            _ => answer.map(GzipBody::plain),
        }))
    }
}
