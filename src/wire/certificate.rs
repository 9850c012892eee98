//! Reads from certificates the facts that edgeshim uses.

use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A client certificate. edgeshim or a trusted proxy has checked that its chain is valid and that the client has the
/// private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The host names among the subject alternative names of the certificate, unchanged.
    pub names: Vec<String>,
    /// SHA-256 of the whole certificate (DER).
    pub sha256: [u8; 32],
    /// SHA-256 of each CA certificate of `server.tls.client_ca` to which the chain leads. Empty if another machine
    /// checked the chain.
    pub authorities: Vec<[u8; 32]>,
}

/// The facts in a certificate that edgeshim uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The host names among the subject alternative names, unchanged.
    pub(crate) names: Vec<String>,
    /// The first and the last second of the validity, in seconds since 1970.
    pub(crate) valid: (i64, i64),
}

impl Facts {
    /// Reads a certificate (DER). Returns `None` if the bytes are not exactly one X.509 certificate, or if its subject
    /// alternative names cannot be read.
    pub(crate) fn read(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let alternatives = certificate.subject_alternative_name().ok()?;
        let names = alternatives.map_or_else(Vec::new, |names| {
            let names = names.value.general_names.iter();
            names
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some((*name).to_owned()),
                    _ => None,
                })
                .collect()
        });
        let validity = certificate.validity();
        Some(Self { names, valid: (validity.not_before.timestamp(), validity.not_after.timestamp()) })
    }

    /// Returns whether the certificate is valid at `now`, in seconds since 1970.
    pub(crate) fn is_valid_at(&self, now: i64) -> bool {
        (self.valid.0..=self.valid.1).contains(&now)
    }
}

/// Returns SHA-256 of a certificate (DER).
pub(crate) fn fingerprint(der: &[u8]) -> [u8; 32] {
    Sha256::digest(der).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn certificate_when_read_then_has_host_names_and_validity() {
        let key = KeyPair::generate().unwrap();
        let names = ["Edge.example".to_owned(), "*.cdn.example".to_owned(), "192.0.2.1".to_owned()];
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let der = parameters.self_signed(&key).unwrap().der().to_vec();
        let facts = Facts::read(&der).unwrap();
        assert_eq!(facts.names, ["Edge.example", "*.cdn.example"]);
        assert_eq!(facts.valid, (1_577_836_800, 1_609_459_200));
        assert!(facts.is_valid_at(1_577_836_800) && facts.is_valid_at(1_609_459_200));
        assert!(!facts.is_valid_at(1_577_836_799) && !facts.is_valid_at(1_609_459_201));
        assert_eq!(Facts::read(&[&der[..], b"x"].concat()), None, "bytes follow the certificate");
        for length in 0..der.len() {
            assert_eq!(Facts::read(&der[..length]), None, "only {length} bytes");
        }
        let bare = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        assert_eq!(Facts::read(bare.der()).unwrap().names, [""; 0]);
    }

    proptest! {
        #[test]
        fn certificate_when_bytes_are_arbitrary_then_reading_does_not_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = Facts::read(&bytes);
        }
    }
}
