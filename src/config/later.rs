//! Handles the keys of features that this release does not have: TLS to the origin, HTTPS and client certificates.
//!
//! edgeshim reads and checks these keys. A key of `[origin.tls]` is accepted only if its value is `""`, which leaves
//! TLS off. The blocks `[server.tls]` and `[provider.verify.client_cert]` are rejected, because an operator who
//! configures a certificate must not assume that the certificate is in use.

use super::file::Section;
use super::listeners::LISTEN;
use crate::keys::{PATH, Text, Visitor};

const TLS_TO_ORIGIN: Text<()> =
    Text { example: "", read: |text, _| empty(text, "TLS to the origin"), write: |()| String::new() };

fn empty(text: &str, feature: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    Err(format!("asks for {feature}, a feature of a later release; write \"\""))
}

/// Visits the keys of `[origin.tls]`.
pub(super) fn origin<V: Visitor>(origin: &mut V) {
    origin.block("tls", |tls| {
        for name in ["ca", "server_name", "certificate", "key"] {
            tls.text(name, &TLS_TO_ORIGIN, &mut ());
        }
    });
}

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
