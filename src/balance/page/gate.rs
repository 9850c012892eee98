//! Decides who may use the page: the user whom a trusted proxy names, or a person with the token.

use std::io;
use std::net::IpAddr;

use http::request::Parts;
use http::uri::Authority;

use super::super::page_keys::PageKeys;
use super::super::watch::watched_target::WHO;
use crate::cdn::addresses::AddressSet;
use crate::clock;
use crate::operators::document::LogIn;
use crate::operators::sessions::Sessions;
use crate::wire::names::HOST;

/// The configuration key of the token.
pub(super) const TOKEN_KEY: &str = "serve.token";
/// The name that the journal has for a person with the token.
const WITH_TOKEN: &str = "token";
/// The names in the journal that are not names of users. A user with such a name is shown as `user NAME`.
const NOT_USERS: [&str; 2] = [WITH_TOKEN, WHO];
/// The longest name of a user, in bytes.
const MAX_USER_BYTES: usize = 100;

#[derive(Debug)]
pub(super) struct Gate {
    keys: &'static PageKeys,
    trusted: AddressSet,
    pub sessions: Sessions,
    pub log_in: LogIn,
}

impl Gate {
    pub(super) fn new(keys: &'static PageKeys) -> io::Result<Self> {
        let trusted = AddressSet::new(keys.trusted_proxies.iter().copied());
        Ok(Self { keys, trusted, sessions: Sessions::new("edgeshim_balance_session")?, log_in: LogIn::new(TOKEN_KEY) })
    }

    pub(super) fn keys(&self) -> &'static PageKeys {
        self.keys
    }

    /// Returns who has sent a request, or `None` if the request is not allowed. `peer` is the address of the client, or
    /// `None` at a unix socket.
    pub(super) fn user(&self, head: &Parts, peer: Option<IpAddr>) -> Option<String> {
        self.named_by_proxy(head, peer).or_else(|| {
            let token = self.keys.token.as_ref()?;
            self.sessions.pass(&head.headers, token, now()).map(|_| WITH_TOKEN.to_owned())
        })
    }

    /// Returns the user whom a trusted proxy names. At a unix socket, each client counts as a trusted proxy.
    ///
    /// The field Host must have the configured name. Without this rule, another site could let its own host name
    /// resolve to the address of this listener (DNS rebinding). Then a page of that site, in a browser on the machine
    /// of the proxy, could send the header field that names the user.
    fn named_by_proxy(&self, head: &Parts, peer: Option<IpAddr>) -> Option<String> {
        let (field, host) = (self.keys.user_header.as_ref()?, self.keys.host.as_deref()?);
        let is_trusted = peer.is_none_or(|peer| self.trusted.contains(peer));
        let mut users = head.headers.get_all(field).iter();
        let (user, further) = (users.next()?, users.next());
        let user = user.to_str().ok()?.trim();
        let is_name = !user.is_empty() && user.len() <= MAX_USER_BYTES;
        let shown = || if NOT_USERS.contains(&user) { format!("user {user}") } else { user.to_owned() };
        (is_trusted && further.is_none() && is_name && has_host(head, host)).then(shown)
    }
}

/// Returns whether the field Host of a request has this name, with or without a port.
fn has_host(head: &Parts, name: &str) -> bool {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let authority = Authority::try_from(host.as_bytes()).ok();
    authority.is_some_and(|authority| !authority.as_str().contains('@') && authority.host().eq_ignore_ascii_case(name))
}

/// Returns the present time in seconds of Unix time.
pub(super) fn now() -> u64 {
    clock::unix_time().as_secs()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;
    use crate::wire::names::AUTHORIZATION;
    use crate::wire::secret::Secret;

    fn head(fields: &[(&str, &str)]) -> Parts {
        let request =
            fields.iter().fold(http::Request::builder(), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn user_when_proxy_is_not_trusted_or_host_is_of_another_site_then_is_unknown() {
        let keys = Box::leak(Box::new(PageKeys {
            token: Some(Secret::new("s3cret")),
            user_header: Some(HeaderName::from_static("x-remote-user")),
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            host: Some("balance.example.com".to_owned()),
            ..PageKeys::default()
        }));
        let gate = Gate::new(keys).unwrap();
        let proxy = Some("10.1.2.3".parse().unwrap());
        let named = [("host", "Balance.Example.com:8443"), ("x-remote-user", "alice")];
        assert_eq!(gate.user(&head(&named), proxy).as_deref(), Some("alice"));
        assert_eq!(gate.user(&head(&named), None).as_deref(), Some("alice"), "a unix socket");
        for name in ["token", "watch"] {
            let user = gate.user(&head(&[named[0], ("x-remote-user", name)]), proxy);
            assert_eq!(user, Some(format!("user {name}")));
        }
        assert_eq!(gate.user(&head(&named), Some("192.0.2.1".parse().unwrap())), None, "another client");
        for fields in [
            &[("host", "evil.example"), ("x-remote-user", "alice")][..],
            &[("host", "balance.example.com@evil.example"), ("x-remote-user", "alice")],
            &[("host", "balance.example.com"), ("host", "evil.example"), ("x-remote-user", "alice")],
            &[("x-remote-user", "alice")],
            &[("host", "balance.example.com")],
            &[("host", "balance.example.com"), ("x-remote-user", " ")],
            &[("host", "balance.example.com"), ("x-remote-user", "alice"), ("x-remote-user", "bob")],
            &[("host", "balance.example.com"), ("x-remote-user", &"a".repeat(101))],
        ] {
            assert_eq!(gate.user(&head(fields), proxy), None, "{fields:?}");
        }
        let bearer = |token: &str| head(&[(AUTHORIZATION.as_str(), &format!("Bearer {token}"))]);
        assert_eq!(gate.user(&bearer("s3cret"), None).as_deref(), Some("token"));
        assert_eq!(gate.user(&bearer("wrong"), None), None);
    }
}
