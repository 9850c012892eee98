//! Checks `[server.tls]` and the files that it names.

use super::file::Section;
use super::listeners::{Claimed, TLS_LISTEN};
use super::settings::Tls;
use crate::intake::server_tls::{self, FileKey, PairPaths};

/// Reports missing keys, addresses that collide with another listener, and files that cannot be used.
pub(super) fn check(tls: &Tls, block: &mut Section<'_>, claimed: &mut Claimed) {
    if !block.has("listen") {
        block.missing("listen", "is missing; write the addresses for HTTPS, for example listen = [\"0.0.0.0:8443\"]");
    } else if tls.listen.is_empty() && !block.is_bad("listen") {
        block.reject(
            "listen",
            "is empty; write at least one address, for example [\"0.0.0.0:8443\"], or remove the block",
        );
    }
    for (entry, text) in block.texts("listen") {
        if let Ok(address) = (TLS_LISTEN.read)(text, block.folder())
            && let Err(message) = claimed.claim(&address)
        {
            block.reject_entry("listen", entry, message);
        }
    }
    let more = block.bounded_sections("more");
    let mut complete = names_both(block, &tls.files.first);
    for (section, paths) in more.iter().zip(&tls.files.more) {
        complete &= names_both(section, paths);
    }
    if !complete || more.len() != tls.files.more.len() {
        return;
    }
    let (errors, _) = server_tls::check(&tls.files);
    for error in errors {
        match error.key {
            FileKey::Pair(0, file) => block.reject(file.key(), error.message),
            FileKey::Pair(number, file) => {
                if let Some(section) = more.get(number - 1) {
                    section.reject(file.key(), error.message);
                }
            }
            FileKey::ClientCa => block.reject("client_ca", error.message),
            // `provider_proofs` checks the files of the providers.
            FileKey::ProviderCa(_) => {}
        }
    }
}

/// Returns whether the block names both files of its pair. Reports each key of the pair that is missing or empty.
fn names_both(block: &Section<'_>, paths: &PairPaths) -> bool {
    let mut complete = true;
    for (name, path, example) in
        [("certificate", &paths.certificate, "tls/cert.pem"), ("key", &paths.key, "tls/key.pem")]
    {
        let remedy = format!("write {name} = \"{example}\", the path of a PEM file");
        if block.is_bad(name) {
            complete = false;
        } else if !block.has(name) {
            block.missing(name, format!("is missing; {remedy}"));
            complete = false;
        } else if path.typed.is_empty() {
            block.reject(name, format!("is empty; {remedy}"));
            complete = false;
        }
    }
    complete
}
