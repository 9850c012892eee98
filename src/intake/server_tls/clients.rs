//! The CAs of client certificates.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::pair::certificates;
use super::provider;
use crate::keys::Checked;
use crate::wire::certificate::{Certificate, Facts, fingerprint};

/// The largest number of CA certificates in the file. Each connection with a client certificate is checked against each
/// CA.
const MOST_AUTHORITIES: usize = 100;

/// Checks client certificates.
#[derive(Debug)]
pub(super) struct Clients {
    verifier: Arc<dyn ClientCertVerifier>,
    /// For each CA, SHA-256 of the CA's certificate, and a verifier that trusts only this CA.
    authorities: Vec<([u8; 32], Arc<dyn ClientCertVerifier>)>,
    /// SHA-256 of the file.
    sha256: [u8; 32],
}

impl Clients {
    /// Reads the CAs from the content of a PEM file.
    ///
    /// # Errors
    /// Returns what is wrong and what to write instead. The message continues a sentence that begins with the path.
    pub(super) fn new(bytes: &[u8]) -> Checked<Self> {
        let certificates = certificates(bytes)?;
        if certificates.len() > MOST_AUTHORITIES {
            let count = certificates.len();
            return Err(format!(
                "has {count} certificates; write at most {MOST_AUTHORITIES}, only the CAs that issue the client \
                 certificates of your CDNs"
            ));
        }
        let authorities = certificates
            .iter()
            .map(|certificate| Ok((fingerprint(certificate), verifier(std::slice::from_ref(certificate))?)));
        Ok(Self {
            authorities: authorities.collect::<Checked<_>>()?,
            verifier: verifier(&certificates)?,
            sha256: fingerprint(bytes),
        })
    }

    /// Returns the verifier for handshakes. It accepts a client without a certificate.
    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.verifier)
    }

    pub(super) fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// Returns SHA-256 of each CA certificate.
    pub(super) fn authorities(&self) -> impl Iterator<Item = [u8; 32]> {
        self.authorities.iter().map(|(sha256, _)| *sha256)
    }

    /// Returns the facts of a client certificate. Returns `None` if the certificate cannot be read, or if its chain is
    /// valid for none of the CAs.
    pub(super) fn certificate(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Option<Certificate> {
        let now = UnixTime::now();
        let authorities: Vec<_> = self
            .authorities
            .iter()
            .filter(|(_, verifier)| verifier.verify_client_cert(leaf, intermediates, now).is_ok())
            .map(|(sha256, _)| *sha256)
            .collect();
        let facts = Facts::read(leaf)?;
        (!authorities.is_empty()).then(|| Certificate { names: facts.names, sha256: fingerprint(leaf), authorities })
    }
}

fn verifier(certificates: &[CertificateDer<'static>]) -> Checked<Arc<dyn ClientCertVerifier>> {
    const REMEDY: &str = "name a PEM file with the certificates of the CAs";
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate.clone())
            .map_err(|error| format!("has a certificate that cannot be a CA ({error}); {REMEDY}"))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| format!("has unusable certificates ({error}); {REMEDY}"))
}
