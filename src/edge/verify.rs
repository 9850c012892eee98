//! Checks the claimed provider against its proofs.
//!
//! **Place:** inside `local`, whose requests are not pulls and need no proof; outside of `pulls`, which counts a pull
//! under the provider that this layer leaves in `Ctx`.
//! **Reads:** `Ctx::{provider, trail}`, the target, the client certificate, and the header fields of the provider's
//! proofs, client address and point of presence. The layer removes the fields with secrets and signatures from every
//! request. If a provider has `client_cert.field`, the layer also removes Client-Cert and X-Forwarded-Client-Cert from
//! the requests of peers that are not trusted proxies. A provider without a `verify` block needs no proof.
//! **Metrics:** none; a failed proof is only noted in `Ctx`.
//! **Cost:** depends on the kind of proof: a comparison, a search in a sorted list, or a message authentication code
//! (MAC). **Can fail:** no.

use std::sync::Arc;

use http::HeaderName;

use super::request::inspect::Inspect;
use super::request::{COUNT_OR_REJECT, EdgeRequest};
use crate::cdn::known::{self, Known};
use crate::ids::Reason;
use crate::keys::{Keys, Visitor};
use crate::wire::certificate_fields::CertificateField;

/// The key of `[identity]` that this layer uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifySettings {
    /// Whether pulls whose proof fails are refused.
    pub reject_unverified: bool,
}

impl Keys for VerifySettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.choice("unverified", &COUNT_OR_REJECT, &mut self.reject_unverified);
    }
}

/// Checks claimed providers against their proofs.
#[derive(Debug)]
pub(crate) struct Verifier {
    settings: VerifySettings,
    /// The configured providers, in the order of their ids.
    providers: Arc<[Known]>,
    /// The header fields of all providers that contain a secret or a signature.
    confidential: Vec<HeaderName>,
    /// Whether a provider has `client_cert.field`. Then only trusted proxies may send the fields that report a client
    /// certificate.
    reads_certificate_field: bool,
}

impl Verifier {
    pub(crate) fn new(settings: VerifySettings, providers: Arc<[Known]>) -> Self {
        let mut confidential: Vec<HeaderName> = Vec::new();
        for field in known::confidential(&providers) {
            if !confidential.contains(field) {
                confidential.push(field.clone());
            }
        }
        let reads_certificate_field = known::reads_certificate_field(&providers);
        Self { settings, providers, confidential, reads_certificate_field }
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
            if ctx.fields(&head.headers).can_have(field) {
                head.headers.remove(field);
            }
        }
        if self.reads_certificate_field && !ctx.trail.peer_trusted {
            for field in CertificateField::ALL {
                head.headers.remove(field.name());
            }
        }
    }
}
