//! A configured provider with all that is known of it, and what is made of its claim.

use std::net::IpAddr;

use http::HeaderName;

use super::preset::{Pop, Preset};
use super::proof::{Evidence, Proof, Proofs};
use crate::wire::forwarded::Trail;

/// A configured provider.
#[derive(Debug)]
pub(crate) struct Known {
    /// The name in the identity field, in lower case.
    pub name: String,
    /// What is known of its CDN.
    pub preset: &'static Preset,
    /// What proves its pulls; none: its name is believed.
    pub proofs: Option<Proofs>,
}

/// What is made of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Judged {
    /// How it is known to be right, or why it is not.
    pub proof: Proof,
    /// The visitor's address, where it is proven.
    pub client: Option<IpAddr>,
    /// The point of presence; empty where it is not known.
    pub pop: Pop,
}

/// The fields that hold a secret or a signature, of whichever provider.
pub(crate) fn confidential(providers: &[Known]) -> impl Iterator<Item = &HeaderName> {
    providers.iter().filter_map(|known| known.proofs.as_ref()).flat_map(Proofs::fields)
}

/// The fields that say or prove who pulls: `identity` and the confidential ones.
pub(crate) fn claims<'a>(identity: &'a HeaderName, providers: &'a [Known]) -> impl Iterator<Item = &'a HeaderName> {
    std::iter::once(identity).chain(confidential(providers))
}

impl Known {
    /// Holds a request that claims to be this provider's against its proofs. What the CDN says of its visitor counts after proof
    /// alone, and an address that it signed before one that it only tells.
    pub(crate) fn judge(&self, evidence: &Evidence<'_>, trail: Trail) -> Judged {
        let headers = evidence.headers;
        let Some(proofs) = &self.proofs else {
            return Judged { proof: Proof::Believed, client: None, pop: self.preset.pop(headers) };
        };
        let verdict = proofs.check(evidence);
        if let Proof::Failed(_) = verdict.proof {
            return Judged { proof: verdict.proof, client: None, pop: Pop::default() };
        }
        let is_node = |address| proofs.addresses.as_ref().is_some_and(|list| list.contains(address));
        let client = verdict.client.or_else(|| self.preset.client(headers, trail, is_node));
        Judged { proof: verdict.proof, client, pop: self.preset.pop(headers) }
    }
}
