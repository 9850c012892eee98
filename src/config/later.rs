//! Keys whose feature a later release brings, all in one place so that they are easily lifted.
//!
//! They are read and type-checked as the contract has them, and may stand at their defaults. Anything else is
//! refused: an operator who configured a certificate must not believe that it works because nobody complained.

use super::file::{Checked, Section};
use super::net::{listen, local_path, strip_scheme};
use super::scalar::size;

/// Any text; a check like the others, though nothing fails it.
#[expect(clippy::unnecessary_wraps, reason = "it stands where a check is asked for")]
fn any(_: &str) -> Checked<()> {
    Ok(())
}

/// A text that has to be empty for now.
fn empty(section: &mut Section<'_>, name: &'static str, feature: &str) {
    section.text(name, "\"\"", (), |text| {
        if text.is_empty() {
            Ok(())
        } else {
            Err(format!("asks for {feature}, which comes with a later release; write \"\""))
        }
    });
}

/// `[server.tls]`.
pub(super) fn server(server: &mut Section<'_>) {
    let mut tls = server.block("tls");
    let folder = tls.folder();
    tls.list("listen", "\"127.0.0.1:8443\"", Vec::new(), |text| listen(text, folder).map(|_| ()));
    tls.text("certificate", "\"tls/cert.pem\"", (), any);
    tls.text("key", "\"tls/key.pem\"", (), any);
    tls.text("client_ca", "\"\"", (), any);
    if tls.is_present() {
        tls.reject_block(
            "asks for HTTPS, which comes with a later release; take the block out and let a balancer end TLS",
        );
    }
    tls.finish();
}

/// `origin.url` with https.
pub(super) fn origin_url(text: &str) -> Checked<()> {
    if strip_scheme(text, "https://").is_some() {
        return Err(
            "asks for TLS to the origin, which comes with a later release; write http://HOST:PORT or unix:PATH"
                .to_owned(),
        );
    }
    Ok(())
}

/// `[origin.tls]`.
pub(super) fn origin(origin: &mut Section<'_>) {
    let mut tls = origin.block("tls");
    for name in ["ca", "server_name", "certificate", "key"] {
        empty(&mut tls, name, "TLS to the origin");
    }
    tls.finish();
}

/// A client certificate that is right in itself.
pub(super) fn client_cert(client_cert: &Section<'_>) {
    client_cert
        .reject_block("needs server.tls.client_ca, and HTTPS comes with a later release; leave it out until then");
}

/// `[edge_logs]`.
pub(super) fn intake(root: &mut Section<'_>) {
    let mut edge_logs = root.block("edge_logs");
    edge_logs.text("path", "\"/.edgeshim/edge-logs\"", (), |text| local_path(text, "/.edgeshim/edge-logs").map(|_| ()));
    edge_logs.text("max_body", "\"100MiB\"", 0, size);
    empty(&mut edge_logs, "token", "the CDNs' own logs");
    edge_logs.finish();
}
