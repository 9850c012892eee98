//! Keys whose feature a later release brings, all in one place so that they are easily lifted.
//!
//! They are read and type-checked as the contract has them, and may stand at their defaults. Anything else is
//! refused: an operator who configured a proof or a certificate must not believe that it works because nobody
//! complained.

use super::file::{Checked, Section};
use super::net::{listen, local_path, network, strip_scheme};
use super::scalar::size;
use super::words::{header_name, one_of};

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

/// `tag_header` and `[provider.verify]`.
pub(super) fn provider(provider: &mut Section<'_>) {
    empty(provider, "tag_header", "the translation of cache tags");
    let mut verify = provider.block("verify");
    verify.text("require", "\"any\"", (), |text| one_of(text, &[("any", ()), ("all", ())]));
    let mut secret = verify.block("secret");
    secret.text("header", "\"X-Origin-Secret\"", (), |text| header_name(text).map(|_| ()));
    secret.list("values", "\"env:FASTLY_SECRET\"", Vec::new(), any);
    secret.finish();
    verify.list("addresses", "\"151.101.0.0/16\"", Vec::new(), |text| {
        if text.starts_with("file:") { Ok(()) } else { network(text).map(|_| ()) }
    });
    let mut client_cert = verify.block("client_cert");
    client_cert.list("san", "\"*.fastly.example\"", Vec::new(), any);
    client_cert.list("sha256", "\"9f86d081…\"", Vec::new(), any);
    client_cert.finish();
    let mut g2o = verify.block("g2o");
    g2o.map("keys", "nonce1 = \"env:G2O_KEY\"", |name| Ok(name.to_owned()), any);
    g2o.integers("versions", 1..=5);
    g2o.finish();
    if verify.is_present() {
        let message = "asks for proofs, which come with a later release";
        verify.reject_block(format!("{message}; take the block out, and let only this CDN's addresses reach the shim"));
    }
    verify.finish();
}

/// `[edge_logs]`.
pub(super) fn intake(root: &mut Section<'_>) {
    let mut edge_logs = root.block("edge_logs");
    edge_logs.text("path", "\"/.edgeshim/edge-logs\"", (), |text| local_path(text, "/.edgeshim/edge-logs").map(|_| ()));
    edge_logs.text("max_body", "\"100MiB\"", 0, size);
    empty(&mut edge_logs, "token", "the CDNs' own logs");
    edge_logs.finish();
}
