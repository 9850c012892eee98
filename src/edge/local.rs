//! Answers the beacon itself, from memory.
//!
//! **Place:** outside of everything that speaks for the site: a beacon comes from a browser, so it is no pull and is never refused
//! for identity or Host, and it is answered while the origin is dead.
//! **Reads:** path and query. **Metrics:** `edgeshim_beacons_total`. **Cost:** one comparison of paths. **Can fail:** no.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::request::{EdgeBody, EdgeRequest, EdgeResponse, Facts, Tally};
use crate::fault::Fault;
use crate::ids::ClassId;
use crate::intake::beacon;
use crate::metrics::Ledger;
use crate::wire::names::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};

/// What `local` needs to know.
#[derive(Debug, Clone)]
pub struct LocalSettings {
    /// The beacon's path.
    pub beacon_path: String,
    /// Accepted `source` values, in the order of the ledger's.
    pub beacon_sources: Vec<String>,
}

/// Puts [`Local`] around a service.
#[derive(Debug, Clone)]
pub struct LocalLayer {
    settings: Arc<LocalSettings>,
    ledger: Arc<Ledger>,
}

impl LocalLayer {
    /// Answers by `settings`, counts in `ledger`.
    #[must_use]
    pub fn new(settings: LocalSettings, ledger: Arc<Ledger>) -> Self {
        Self { settings: Arc::new(settings), ledger }
    }
}

impl<S> Layer<S> for LocalLayer {
    type Service = Local<S>;

    fn layer(&self, inner: S) -> Local<S> {
        Local { inner, settings: Arc::clone(&self.settings), ledger: Arc::clone(&self.ledger) }
    }
}

/// See the head of this file.
#[derive(Debug, Clone)]
pub struct Local<S> {
    inner: S,
    settings: Arc<LocalSettings>,
    ledger: Arc<Ledger>,
}

impl<S, B> Service<Box<EdgeRequest>> for Local<S>
where
    S: Service<Box<EdgeRequest>, Response = EdgeResponse<B>>,
{
    type Response = EdgeResponse<LocalBody<B>>;
    type Error = S::Error;
    type Future = LocalFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Box<EdgeRequest>) -> Self::Future {
        if request.head.uri.path() != self.settings.beacon_path {
            return LocalFuture::Inner { inner: self.inner.call(request) };
        }
        let (mut head, ()) = http::Response::new(()).into_parts();
        head.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let pixel = match request.head.method {
            Method::GET | Method::HEAD => {
                let query = request.head.uri.query().unwrap_or_default();
                let source = beacon::source(query, &self.settings.beacon_sources);
                self.ledger.beacon(source.unwrap_or(usize::MAX));
                head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("image/gif"));
                Bytes::from_static(beacon::PIXEL)
            }
            _ => {
                head.status = StatusCode::METHOD_NOT_ALLOWED;
                head.headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                Bytes::new()
            }
        };
        if let Some(mut line) = request.line.take() {
            line.record.status = head.status.as_u16();
            line.record.bytes = if request.head.method == Method::HEAD { 0 } else { pixel.len() as u64 };
            line.record.provider = self.ledger.provider(request.ctx.provider);
            line.write(request.ctx.arrived);
        }
        LocalFuture::Answered { answer: Some((head, pixel)) }
    }
}

pin_project! {
    /// Waits for the site's answer, or has the local one.
    #[project = Projected]
    pub enum LocalFuture<F> {
        /// Not for us.
        Inner {
            #[pin]
            inner: F,
        },
        /// The beacon's answer.
        Answered {
            answer: Option<(response::Parts, Bytes)>,
        },
    }
}

impl<F, B, E> Future for LocalFuture<F>
where
    F: Future<Output = Result<EdgeResponse<B>, E>>,
{
    type Output = Result<EdgeResponse<LocalBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match self.project() {
            Projected::Inner { inner } => ready!(inner.poll(cx))?.map(|inner| LocalBody::Inner { inner }),
            Projected::Answered { answer } => {
                let (head, pixel) = answer.take().expect("a future is not polled after it was ready");
                let facts = Facts::new(ClassId::OTHER);
                EdgeResponse { head, body: LocalBody::Pixel { pixel }, facts }
            }
        }))
    }
}

pin_project! {
    /// The site's body or the pixel.
    #[project = ProjectedBody]
    pub enum LocalBody<B> {
        /// The site's.
        Inner {
            #[pin]
            inner: B,
        },
        /// From memory; empty when sent.
        Pixel {
            pixel: Bytes,
        },
    }
}

impl<B: EdgeBody> Body for LocalBody<B> {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self.project() {
            ProjectedBody::Inner { inner } => inner.poll_frame(cx),
            ProjectedBody::Pixel { pixel } if pixel.is_empty() => Poll::Ready(None),
            ProjectedBody::Pixel { pixel } => Poll::Ready(Some(Ok(Frame::data(std::mem::take(pixel))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Inner { inner } => inner.is_end_stream(),
            Self::Pixel { pixel } => pixel.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Inner { inner } => inner.size_hint(),
            Self::Pixel { pixel } => SizeHint::with_exact(pixel.len() as u64),
        }
    }
}

impl<B: EdgeBody> EdgeBody for LocalBody<B> {
    fn tally(&self) -> Tally {
        match self {
            Self::Inner { inner } => inner.tally(),
            Self::Pixel { .. } => Tally::default(),
        }
    }
}
