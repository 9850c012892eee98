//! Records for `explain` how each layer changes a request and its response.
//!
//! A [`Probe`] below each layer copies the heads of the request and the response. The stacks of the workers have no
//! probes.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::{request, response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::request::{Ctx, EdgeFuture, EdgeRequest, EdgeResponse, Facts, Tally};

/// Everything that was recorded about one request.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    /// The names of all layers, outermost first.
    pub layers: Vec<&'static str>,
    /// The requests that the layers passed to the next layer below, outermost layer first. If a layer responds itself,
    /// that layer and all layers below that layer are missing.
    pub requests: Vec<Passed>,
    /// The response or the error that each layer in `requests` received from the layer below, innermost layer first.
    pub responses: Vec<Returned>,
}

/// A request that a layer passed to the next layer below.
#[derive(Debug)]
pub(crate) struct Passed {
    pub layer: &'static str,
    pub head: request::Parts,
    pub ctx: Ctx,
}

/// A response or an error that a layer received from the next layer below.
#[derive(Debug)]
pub(crate) struct Returned {
    pub layer: &'static str,
    pub outcome: Result<response::Parts, String>,
}

/// Makes probes, and collects what the probes record.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder(Rc<RefCell<Recording>>);

impl Recorder {
    /// Returns `layer` with a probe below it. The caller must start with the outermost layer.
    pub(crate) fn below<L>(&self, name: &'static str, layer: L) -> Recorded<L> {
        self.0.borrow_mut().layers.push(name);
        Recorded { name, layer, recorder: self.clone() }
    }

    pub(crate) fn take(&self) -> Recording {
        self.0.take()
    }
}

/// A layer with a probe below it.
pub(crate) struct Recorded<L> {
    name: &'static str,
    layer: L,
    recorder: Recorder,
}

impl<S, L: Layer<Probe<S>>> Layer<S> for Recorded<L> {
    type Service = L::Service;

    fn layer(&self, inner: S) -> L::Service {
        self.layer.layer(Probe { name: self.name, inner, recorder: self.recorder.clone() })
    }
}

/// Records what passes between a layer and the next layer below.
#[derive(Clone)]
pub(crate) struct Probe<S> {
    name: &'static str,
    inner: S,
    recorder: Recorder,
}

impl<S, B> Service<Box<EdgeRequest>> for Probe<S>
where
    S: Service<Box<EdgeRequest>, Response = EdgeResponse<B>, Error: fmt::Display>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ProbeFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Box<EdgeRequest>) -> Self::Future {
        let passed = Passed { layer: self.name, head: request.head.clone(), ctx: request.ctx };
        self.recorder.0.borrow_mut().requests.push(passed);
        ProbeFuture { layer: self.name, recorder: self.recorder.clone(), inner: self.inner.call(request) }
    }
}

pin_project! {
    /// Waits for the response.
    pub struct ProbeFuture<F> {
        layer: &'static str,
        recorder: Recorder,
        #[pin]
        inner: F,
    }
}

impl<F, B, E: fmt::Display> Future for ProbeFuture<F>
where
    F: Future<Output = Result<EdgeResponse<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outcome = ready!(this.inner.poll(cx));
        let recorded = match &outcome {
            Ok(response) => Ok(response.head.clone()),
            Err(error) => Err(error.to_string()),
        };
        this.recorder.0.borrow_mut().responses.push(Returned { layer: this.layer, outcome: recorded });
        Poll::Ready(outcome)
    }
}

impl<F: EdgeFuture> EdgeFuture for ProbeFuture<F> {
    fn begun(&self) -> Option<(Facts, Tally)> {
        self.inner.begun()
    }
}
