//! What proves that a pull comes from the CDN that it claims to be.

use std::collections::BTreeMap;

use http::HeaderName;

use crate::wire::secret::Secret;

/// How a provider's name is known to be right, or why it is not: the log's `proof`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// No provider, so nothing to prove.
    None,
    /// A configured provider without proofs: believed by name.
    Believed,
    /// The secret that only the CDN knows.
    Secret,
    /// It comes from the CDN's own addresses.
    Addresses,
    /// It holds the key of a client certificate.
    ClientCert,
    /// It is signed by Akamai's G2O.
    G2o,
    /// All that were asked for.
    All,
    /// It claims a provider and proves nothing.
    Failed(Failure),
}

/// Why a proof did not hold. Where several were tried, the first that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The secret's field is missing.
    NoSecret,
    /// The secret's field is there more than once, or holds something else.
    WrongSecret,
    /// The address is in none of the lists.
    WrongAddress,
    /// No client certificate was shown.
    NoCertificate,
    /// The client certificate is somebody else's.
    WrongCertificate,
    /// One of G2O's fields is missing, there twice, or cannot be read.
    NoG2o,
    /// A version of G2O that the configuration does not accept, or a nonce that names no key.
    G2oKey,
    /// The signature does not fit what was asked.
    G2oSignature,
    /// Signed longer ago, or later, than clocks may differ.
    G2oTime,
    /// The same signature was there before.
    G2oReplay,
    /// More signatures within the window than are remembered, so that a replay could not be told.
    G2oFull,
}

impl Proof {
    /// The log's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Believed => "believed",
            Self::Secret => "secret",
            Self::Addresses => "addresses",
            Self::ClientCert => "client_cert",
            Self::G2o => "g2o",
            Self::All => "all",
            Self::Failed(failure) => failure.as_str(),
        }
    }
}

impl Failure {
    /// The log's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSecret => "no_secret",
            Self::WrongSecret => "wrong_secret",
            Self::WrongAddress => "wrong_address",
            Self::NoCertificate => "no_certificate",
            Self::WrongCertificate => "wrong_certificate",
            Self::NoG2o => "no_g2o",
            Self::G2oKey => "g2o_key",
            Self::G2oSignature => "g2o_signature",
            Self::G2oTime => "g2o_time",
            Self::G2oReplay => "g2o_replay",
            Self::G2oFull => "g2o_full",
        }
    }
}

/// How many of a provider's proofs have to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Require {
    /// One of them.
    #[default]
    Any,
    /// Each of them.
    All,
}

/// A secret in a field of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretField {
    /// The field, which leaves every request.
    pub field: HeaderName,
    /// The secrets that are right at the moment, never none: several while one is being replaced.
    pub values: Vec<Secret>,
}

/// Which client certificates are the CDN's. Never both empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateRule {
    /// Names in lower case, one of which has to stand in the certificate; `*.` before a name means one label more.
    pub san: Vec<String>,
    /// SHA-256 of whole certificates (DER), one of which it has to be.
    pub sha256: Vec<[u8; 32]>,
}

/// Akamai's signature of what it forwards to the origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct G2oKeys {
    /// By the nonce that names them; never none.
    pub keys: BTreeMap<String, Secret>,
    /// Versions that are accepted, of 1 to 5; never none.
    pub versions: Vec<u8>,
}
