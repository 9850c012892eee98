//! Holds a claimed provider against its proofs.
//!
//! **Place:** after `local`, whose browsers and log shippers prove nothing, and before `pulls`, which counts under the verdict.
//! **Reads:** `Ctx::{provider, trail}`, the fields and the address of the proofs. The fields of secrets and signatures leave every
//! request here, right or wrong. A provider without a `verify` block is believed by name (spec.md §5).
//! **Metrics:** none; what is not proved is only marked. **Cost:** by the proof: a comparison, a search in a sorted list, a MAC.
//! **Can fail:** no.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderName, request};
use tower::{Layer, Service};

use super::request::{COUNT_OR_REJECT, Ctx, EdgeRequest};
use crate::cdn::known::{self, Known};
use crate::ids::Reason;
use crate::keys::{Keys, Visitor};
use crate::wire::forwarded::Peer;

/// A key of `[identity]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifySettings {
    /// Refuse pulls whose claim was not proved.
    pub reject_unverified: bool,
}

impl Keys for VerifySettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.choice("unverified", &COUNT_OR_REJECT, &mut self.reject_unverified);
    }
}

/// Puts [`Verify`] around a service.
#[derive(Debug, Clone)]
pub(crate) struct VerifyLayer {
    judge: Arc<Judge>,
}

/// Judges claims.
#[derive(Debug)]
pub(crate) struct Judge {
    settings: VerifySettings,
    /// In the order of their ids.
    providers: Arc<[Known]>,
    /// What holds a secret or a signature, of whichever provider.
    confidential: Vec<HeaderName>,
}

impl VerifyLayer {
    /// Decides by `settings`.
    pub(crate) fn new(settings: VerifySettings, providers: Arc<[Known]>) -> Self {
        Self { judge: Arc::new(Judge::new(settings, providers)) }
    }
}

impl Judge {
    /// Prepares the decision.
    pub(crate) fn new(settings: VerifySettings, providers: Arc<[Known]>) -> Self {
        let mut confidential: Vec<HeaderName> = Vec::new();
        for field in known::confidential(&providers) {
            if !confidential.contains(field) {
                confidential.push(field.clone());
            }
        }
        Self { settings, providers, confidential }
    }

    /// What holds a secret or a signature, of whichever provider.
    pub(crate) fn confidential(&self) -> &[HeaderName] {
        &self.confidential
    }

    /// Holds the claim against its proofs, notes what follows, and takes the fields of all proofs off.
    pub(crate) fn judge(&self, head: &mut request::Parts, ctx: &mut Ctx, peer: &Peer) {
        let holds = ctx.judge(&self.providers, head, peer);
        if !holds && self.settings.reject_unverified && ctx.refusal.is_none() {
            ctx.refusal = Some(Reason::Unverified);
        }
        for field in &self.confidential {
            head.headers.remove(field);
        }
    }
}

impl<S> Layer<S> for VerifyLayer {
    type Service = Verify<S>;

    fn layer(&self, inner: S) -> Verify<S> {
        Verify { inner, judge: Arc::clone(&self.judge) }
    }
}

/// See the head of this file.
#[derive(Debug, Clone)]
pub(crate) struct Verify<S> {
    inner: S,
    judge: Arc<Judge>,
}

impl<S: Service<Box<EdgeRequest>>> Service<Box<EdgeRequest>> for Verify<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Box<EdgeRequest>) -> S::Future {
        let EdgeRequest { ctx, peer, head, .. } = &mut *request;
        self.judge.judge(head, ctx, peer);
        self.inner.call(request)
    }
}
