//! Handles the keys of features that this release does not have: HTTPS and client certificates.
//!
//! edgeshim reads and checks these keys. The blocks `[server.tls]` and `[provider.verify.client_cert]` are rejected,
//! because an operator who configures a certificate must not assume that the certificate is in use.

use super::file::Section;
use super::listeners::LISTEN;
use crate::keys::{PATH, Visitor};

/// Reads the keys of `[server.tls]`, and rejects the block if it is present. `/config` does not show these keys.
pub(super) fn hidden(root: &mut Section<'_>) {
    let mut tls = root.section("server").section("tls");
    tls.list("listen", &LISTEN, &mut Vec::new());
    for name in ["certificate", "key", "client_ca"] {
        tls.text(name, &PATH, &mut "tls/cert.pem".into());
    }
    if tls.is_present() {
        tls.reject_block(
            "asks for HTTPS, a feature of a later release; remove the block, and terminate TLS in a load balancer",
        );
    }
}

/// Rejects a `[provider.verify.client_cert]` block, because without HTTPS there is no certificate to check. The caller
/// has checked the keys of the block.
pub(super) fn client_cert(client_cert: &Section<'_>) {
    client_cert.reject_block("needs server.tls.client_ca, but HTTPS is a feature of a later release; remove the block");
}
