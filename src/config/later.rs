//! Keys whose feature comes with a later release.
//!
//! edgeshim reads and checks these keys. A key that would turn a feature on is accepted only with the value that leaves
//! the feature off. The blocks `[server.tls]` and `client_cert` are rejected, because an operator who configures a
//! certificate must not assume that the certificate is in use.

use super::file::Section;
use super::listeners::LISTEN;
use crate::keys::quantities::SIZE;
use crate::keys::urls::local_path;
use crate::keys::{PATH, Text, Visitor};

const TLS_TO_ORIGIN: Text<()> =
    Text { example: "", read: |text, _| empty(text, "TLS to the origin"), write: |()| String::new() };

const EDGE_LOGS: Text<()> =
    Text { example: "", read: |text, _| empty(text, "the CDNs' own logs"), write: |()| String::new() };

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

/// Visits the keys of `[edge_logs]`.
pub(super) fn edge_logs<V: Visitor>(edge_logs: &mut V) {
    edge_logs.text("token", &EDGE_LOGS, &mut ());
}

/// Reads the keys that `/config` does not show: `[server.tls]`, and `path` and `max_body` of `[edge_logs]`. These two
/// keys of `[edge_logs]` accept any valid value, because they have no effect without a token.
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
    let path = |text: &str| local_path(text, "/.edgeshim/edge-logs");
    let mut edge_logs = root.section("edge_logs");
    edge_logs.read("path", "\"/.edgeshim/edge-logs\"", path);
    edge_logs.text("max_body", &SIZE, &mut (100 * 1024 * 1024));
}

/// Rejects a `client_cert` block, because without HTTPS there is no certificate to check. The caller has checked the
/// keys of the block.
pub(super) fn client_cert(client_cert: &Section<'_>) {
    client_cert.reject_block("needs server.tls.client_ca, but HTTPS is a feature of a later release; remove the block");
}
