//! Client certificates.

/// A client certificate. Its chain is valid, and the peer has proved that it has the private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The host names among the subject alternative names of the certificate, unchanged.
    pub names: Vec<String>,
    /// SHA-256 of the whole certificate (DER).
    pub sha256: [u8; 32],
}
