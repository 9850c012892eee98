//! Holds a claimed provider against its proofs.
//!
//! **Place:** after `local`, whose browsers and log shippers prove nothing, and before `pulls`, which counts under the verdict.
//! **Reads:** `Ctx::provider`. A provider without a `verify` block is believed by name (spec.md §5), and the configuration refuses
//! such a block as long as no proof is built in, so believing is all there is to decide.
//! **Metrics:** none. **Cost:** a comparison. **Can fail:** no.

use std::task::{Context, Poll};

use tower::{Layer, Service};

use super::request::EdgeRequest;
use crate::cdn::proof::Proof;

/// Puts [`Verify`] around a service.
#[derive(Debug, Clone, Copy)]
pub struct VerifyLayer;

impl<S> Layer<S> for VerifyLayer {
    type Service = Verify<S>;

    fn layer(&self, inner: S) -> Verify<S> {
        Verify { inner }
    }
}

/// See the head of this file.
#[derive(Debug, Clone)]
pub struct Verify<S> {
    inner: S,
}

impl<S: Service<Box<EdgeRequest>>> Service<Box<EdgeRequest>> for Verify<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Box<EdgeRequest>) -> S::Future {
        if request.ctx.provider.position().is_some() {
            request.ctx.proof = Proof::Believed;
        }
        self.inner.call(request)
    }
}
