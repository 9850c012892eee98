//! Checks the claimed provider against its proofs.
//!
//! **Place:** after `local`, whose requests come from browsers and need no proof; before `pulls`, which counts under
//! the result.
//! **Reads:** `Ctx::{provider, trail}`, the fields and the address of the proofs. It removes the fields of secrets
//! and signatures from every request. A provider without a `verify` block is trusted by name.
//! **Metrics:** none; a failed proof is only marked.
//! **Cost:** by the proof: a comparison, a search in a sorted list, a MAC. **Can fail:** no.

use std::sync::Arc;

use http::HeaderName;

use super::request::inspect::Inspect;
use super::request::{COUNT_OR_REJECT, EdgeRequest};
use crate::cdn::known::{self, Known};
use crate::ids::Reason;
use crate::keys::{Keys, Visitor};

/// A key of `[identity]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifySettings {
    /// Refuse pulls whose proof fails.
    pub reject_unverified: bool,
}

impl Keys for VerifySettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.choice("unverified", &COUNT_OR_REJECT, &mut self.reject_unverified);
    }
}

/// Checks claims against their proofs.
#[derive(Debug)]
pub(crate) struct Verifier {
    settings: VerifySettings,
    /// Configured providers, in the order of their ids.
    providers: Arc<[Known]>,
    /// The fields that hold a secret or a signature, of all providers.
    confidential: Vec<HeaderName>,
}

impl Verifier {
    pub(crate) fn new(settings: VerifySettings, providers: Arc<[Known]>) -> Self {
        let mut confidential: Vec<HeaderName> = Vec::new();
        for field in known::confidential(&providers) {
            if !confidential.contains(field) {
                confidential.push(field.clone());
            }
        }
        Self { settings, providers, confidential }
    }
}

impl Inspect for Verifier {
    fn inspect(&self, request: &mut EdgeRequest) {
        let EdgeRequest { ctx, peer, head, .. } = request;
        let holds = ctx.verify(&self.providers, head, peer);
        if !holds && self.settings.reject_unverified && ctx.refusal.is_none() {
            ctx.refusal = Some(Reason::Unverified);
        }
        for field in &self.confidential {
            head.headers.remove(field);
        }
    }
}
