//! The keys of `[serve]`: the page of `edgeshim balance serve`.

use std::net::SocketAddr;

use http::HeaderName;
use ipnet::IpNet;

use crate::cdn::addresses::NETWORK;
use crate::config::{LISTEN, Listen, Section};
use crate::keys::grammar::header_name;
use crate::keys::secrets::SECRET;
use crate::keys::{Checked, Keys, Text, Visitor};
use crate::wire::secret::Secret;

/// The keys of `[serve]`. At least one of `token` and `user_header` is present.
#[derive(Debug, Clone)]
pub(crate) struct PageKeys {
    pub listen: Listen,
    /// The token with which people log in.
    pub token: Option<Secret>,
    /// The header field in which a trusted proxy names the user.
    pub user_header: Option<HeaderName>,
    /// The proxies whose `user_header` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The host name in the URL with which people open the page through a trusted proxy.
    pub host: Option<String>,
}

impl Default for PageKeys {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 9911))),
            token: None,
            user_header: None,
            trusted_proxies: Vec::new(),
            host: None,
        }
    }
}

impl Keys for PageKeys {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.text("listen", &LISTEN, &mut self.listen);
        v.nonempty("token", &SECRET, &mut self.token);
        v.nonempty("user_header", &FIELD, &mut self.user_header);
        v.list("trusted_proxies", &NETWORK, &mut self.trusted_proxies);
        v.nonempty("host", &HOST_NAME, &mut self.host);
    }
}

const FIELD: Text<HeaderName> =
    Text { example: "X-Remote-User", read: |text, _| header_name(text), write: ToString::to_string };
const HOST_NAME: Text<String> =
    Text { example: "balance.example.com", read: |text, _| host_name(text), write: String::clone };

fn host_name(text: &str) -> Checked<String> {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    if text.len() > 253 || !text.bytes().all(is_name) {
        return Err("is not a host name; write the name without scheme and port, for example \"balance.example.com\""
            .to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

/// Checks that someone can log in, and that the user's name cannot be forged.
pub(super) fn check_page(keys: &PageKeys, block: &Section<'_>) {
    let is_bad = |name| block.is_bad(name);
    if keys.token.is_none() && keys.user_header.is_none() && !is_bad("token") && !is_bad("user_header") {
        let message = "is missing, so nobody can log in; write token = \"env:BALANCE_TOKEN\", or write \
                       user_header, trusted_proxies and host";
        if block.has("token") { block.reject("token", message) } else { block.missing("token", message) }
    }
    let is_unix = matches!(keys.listen, Listen::Unix(_));
    if keys.user_header.is_some() {
        if keys.trusted_proxies.is_empty() && !is_unix && !is_bad("trusted_proxies") && !is_bad("listen") {
            let message = "is missing, so user_header has no effect; write the addresses of the proxy, \
                           for example [\"127.0.0.1\"]";
            if block.has("trusted_proxies") {
                block.reject("trusted_proxies", message);
            } else {
                block.missing("trusted_proxies", message);
            }
        }
        if keys.host.is_none() && !is_bad("host") {
            let message = "is missing; write the host name in the URL of the page, for example host = \
                           \"balance.example.com\", so that the page of another site cannot use the proxy's trust";
            if block.has("host") { block.reject("host", message) } else { block.missing("host", message) }
        }
    } else if !is_bad("user_header") {
        for (name, is_set) in [("trusted_proxies", !keys.trusted_proxies.is_empty()), ("host", keys.host.is_some())] {
            if is_set {
                block.reject(name, "has no effect without user_header; write user_header, or remove this key");
            }
        }
    }
    if keys.trusted_proxies.iter().any(|network| network.prefix_len() == 0) {
        let message = "contains every address, so each client can name any user; write only the addresses of \
                       the proxy";
        block.reject("trusted_proxies", message);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse_keys;

    #[derive(Default)]
    struct Blocks(Option<PageKeys>);

    impl Keys for Blocks {
        fn keys<V: Visitor>(&mut self, v: &mut V) {
            v.optional_block("serve", &mut self.0);
        }
    }

    fn check(blocks: &mut Blocks, root: &mut Section<'_>) {
        check_page(blocks.0.as_ref().expect("the block"), &root.section("serve"));
    }

    #[test]
    fn serve_block_when_nobody_could_log_in_or_user_could_be_forged_then_is_rejected() {
        let read = |block: &str| {
            let read = parse_keys(&format!("[serve]\n{block}"), "b.toml", Path::new("conf"), check);
            read.map(|blocks: Blocks| blocks.0.unwrap()).map_err(|problems| problems.to_string())
        };
        let keys = read("token = \"t\"").unwrap();
        assert_eq!((keys.listen.to_string(), keys.user_header), ("127.0.0.1:9911".to_owned(), None));
        let proxied = "user_header = \"X-Remote-User\"\nhost = \"Balance.Example.com\"\n";
        let keys = read(&format!("{proxied}trusted_proxies = [\"127.0.0.1\"]")).unwrap();
        assert_eq!(keys.host.as_deref(), Some("balance.example.com"));
        assert!(read(&format!("{proxied}listen = \"unix:page.sock\"")).is_ok());
        for (block, part) in [
            ("", "serve.token: is missing"),
            ("token = \"\"", "nobody can log in"),
            (proxied, "serve.trusted_proxies: is missing"),
            ("user_header = \"X-Remote-User\"\ntrusted_proxies = [\"127.0.0.1\"]", "serve.host: is missing"),
            (&format!("{proxied}trusted_proxies = [\"0.0.0.0/0\"]"), "contains every address"),
            ("token = \"t\"\nhost = \"a.example\"", "no effect without user_header"),
            ("token = \"t\"\nuser_header = \"a b\"", "not a header field name"),
            ("token = \"t\"\nlisten = \"9911\"", "write \"127.0.0.1:9911\""),
            ("token = \"t\"\nuser_header = \"X-User\"\nhost = \"http://a/\"", "not a host name"),
        ] {
            let problems = read(block).expect_err(block);
            assert!(problems.contains(part), "{block}: {problems}");
        }
    }
}
