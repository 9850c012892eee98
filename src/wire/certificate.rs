//! What is known of a client certificate once its chain has been checked.

/// What a certificate says of its holder, as far as anybody asks. That the peer holds its key is settled before one is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The host names among its subject's alternative names, as they are written there.
    pub names: Vec<String>,
    /// SHA-256 of the whole certificate (DER).
    pub sha256: [u8; 32],
}
