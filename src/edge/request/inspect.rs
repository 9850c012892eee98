//! Adapts layers that only read or change the request, and do not touch the response.

use std::sync::Arc;
use std::task::{Context, Poll};

use tower::{Layer, Service};

use super::EdgeRequest;

/// The work of a layer that does not touch the response.
pub(crate) trait Inspect {
    /// Reads or changes a request before the next layer gets the request.
    fn inspect(&self, request: &mut EdgeRequest);
}

/// Puts an [`Inspected`] around a service.
pub(crate) struct InspectLayer<I> {
    inspector: Arc<I>,
}

impl<I: Inspect> InspectLayer<I> {
    pub(crate) fn new(inspector: I) -> Self {
        Self { inspector: Arc::new(inspector) }
    }
}

impl<S, I> Layer<S> for InspectLayer<I> {
    type Service = Inspected<S, I>;

    fn layer(&self, inner: S) -> Inspected<S, I> {
        Inspected { inner, inspector: Arc::clone(&self.inspector) }
    }
}

/// A service that passes each request to the inspector first.
pub(crate) struct Inspected<S, I> {
    inner: S,
    inspector: Arc<I>,
}

// `Clone` is not derived, because the derived implementation would require `I: Clone`.
impl<S: Clone, I> Clone for Inspected<S, I> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), inspector: Arc::clone(&self.inspector) }
    }
}

impl<S: Service<Box<EdgeRequest>>, I: Inspect> Service<Box<EdgeRequest>> for Inspected<S, I> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Box<EdgeRequest>) -> S::Future {
        self.inspector.inspect(&mut request);
        self.inner.call(request)
    }
}
