//! The configured providers, each with its preset and its proofs. [`Known::judge`] checks a request that claims to come
//! from a configured provider.

use std::net::IpAddr;

use http::HeaderName;

use super::preset::{Pop, Preset};
use super::proof::{Evidence, Proof, Proofs};
use crate::wire::certificate_fields::CertificateField;
use crate::wire::forwarded::Trail;
use crate::wire::head_fields::Fields;

/// A configured provider, prepared for checks.
#[derive(Debug)]
pub(crate) struct Known {
    /// The name that the identity header contains for this provider, in lower case.
    pub name: String,
    pub preset: &'static Preset,
    /// The configured proofs of the provider. `None`: a request that names the provider is accepted without a proof.
    pub proofs: Option<Proofs>,
}

/// The result of [`Known::judge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Judged {
    /// The proof that succeeded, the reason why a proof failed, or `Believed` if the provider has no proofs.
    pub proof: Proof,
    /// The client's address, if the CDN reports the address and a proof succeeded.
    pub client: Option<IpAddr>,
    /// The point of presence that the request names. Empty if the request names no point of presence, or if `proof` is
    /// `Failed`.
    pub pop: Pop,
}

/// Returns the header fields in which the configured providers send a secret or a signature.
pub(crate) fn confidential(providers: &[Known]) -> impl Iterator<Item = &HeaderName> {
    providers.iter().filter_map(|known| known.proofs.as_ref()).flat_map(Proofs::fields)
}

/// Returns the header fields that name the provider or prove its identity: `identity` and the fields with a secret or a
/// signature. If a provider has `client_cert.field`, the two fields with a client certificate are included.
pub(crate) fn claims<'a>(identity: &'a HeaderName, providers: &'a [Known]) -> impl Iterator<Item = &'a HeaderName> {
    let proofs = providers.iter().filter_map(|known| known.proofs.as_ref());
    let certificate = reads_certificate_field(providers).then(|| CertificateField::ALL.map(CertificateField::name));
    std::iter::once(identity).chain(proofs.flat_map(Proofs::fields)).chain(certificate.into_iter().flatten())
}

/// Returns whether a provider uses a header field with a client certificate.
pub(crate) fn reads_certificate_field(providers: &[Known]) -> bool {
    providers.iter().filter_map(|known| known.proofs.as_ref()).any(Proofs::reads_certificate_field)
}

impl Known {
    /// Checks a request that claims to come from this provider. The result contains the client's address only if a
    /// proof succeeded. An address in a valid G2O signature is preferred to an address in another header field.
    /// `fields` are the header fields of the evidence.
    pub(crate) fn judge(&self, evidence: &Evidence<'_>, fields: Fields<'_>, trail: Trail) -> Judged {
        let Some(proofs) = &self.proofs else {
            return Judged { proof: Proof::Believed, client: None, pop: self.preset.pop(fields) };
        };
        let verdict = proofs.check(evidence);
        if let Proof::Failed(_) = verdict.proof {
            return Judged { proof: verdict.proof, client: None, pop: Pop::default() };
        }
        let is_node = |address| proofs.addresses.as_ref().is_some_and(|list| list.contains(address));
        let client = verdict.client.or_else(|| self.preset.client(evidence.headers, trail, is_node));
        Judged { proof: verdict.proof, client, pop: self.preset.pop(fields) }
    }
}
