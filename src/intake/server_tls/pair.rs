//! A certificate with its chain and its private key, read from two PEM files.

use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

use super::provider;
use crate::wire::certificate::Facts;

/// One of the two files of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PairFile {
    Certificate,
    Key,
}

impl PairFile {
    /// Returns the key of the configuration that names the file.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Key => "key",
        }
    }
}

/// A usable pair.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) certified: Arc<CertifiedKey>,
    /// The host names in the certificate, in lower case.
    pub(super) names: Vec<String>,
    /// The first and the last second of the validity, in seconds since 1970.
    pub(super) valid: (i64, i64),
}

impl Pair {
    /// Reads a pair from the contents of its files.
    ///
    /// # Errors
    /// Returns the unusable file, and a message with the problem and what to write instead. The message continues a
    /// sentence that begins with the path.
    pub(super) fn new(chain: &[u8], private: &[u8]) -> Result<Self, (PairFile, String)> {
        let of_certificate = |message| (PairFile::Certificate, message);
        let chain = certificates(chain).map_err(of_certificate)?;
        let facts = chain.first().and_then(|leaf| Facts::read(leaf)).ok_or_else(|| {
            let message = "has a first certificate that is not an X.509 certificate; name a PEM file with X.509 \
                           certificates";
            of_certificate(message.to_owned())
        })?;
        let key = signing_key(private).map_err(|message| (PairFile::Key, message))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                let message = "is not the key of the certificate; name the key for which the certificate was issued. \
                               The first certificate in the file of `certificate` must be your own certificate";
                return Err((PairFile::Key, message.to_owned()));
            }
            Err(error) => return Err(of_certificate(format!("has an unusable certificate ({error})"))),
        }
        let names = facts.names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(Self { certified: Arc::new(certified), names, valid: facts.valid })
    }
}

/// Reads all certificates of a PEM file. The result has at least one certificate.
pub(super) fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let chain =
        chain.map_err(|error| format!("is not a valid PEM file ({error}); name a PEM file with certificates"))?;
    if chain.is_empty() {
        return Err("contains no certificate; name a PEM file with -----BEGIN CERTIFICATE-----".to_owned());
    }
    Ok(chain)
}

fn signing_key(bytes: &[u8]) -> Result<Arc<dyn SigningKey>, String> {
    let key = PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
        pem::Error::NoItemsFound if memchr::memmem::find(bytes, b"BEGIN ENCRYPTED PRIVATE KEY").is_some() => {
            "is encrypted with a passphrase, which edgeshim cannot ask for; \
             decrypt the key: openssl pkey -in KEY -out NEW, and name the new file"
                .to_owned()
        }
        pem::Error::NoItemsFound => {
            "contains no private key; name a PEM file with -----BEGIN PRIVATE KEY----- (or RSA or EC PRIVATE KEY)"
                .to_owned()
        }
        error => format!("is not a valid PEM file ({error}); name a PEM file with the private key"),
    })?;
    provider().key_provider.load_private_key(key).map_err(|error| {
        format!(
            "has an unusable key ({error}); name an RSA key of 2048 to 8192 bits, an ECDSA key (P-256, P-384 or P-521) \
             or an Ed25519 key"
        )
    })
}
