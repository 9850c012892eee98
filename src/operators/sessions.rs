//! Decides who is allowed to use a listener for operators. A request needs the token as a bearer token, or the cookie
//! of a session. A browser gets this cookie at its log-in. This file also finds the POST requests that a page of
//! another site has caused.
//!
//! The cookie contains the time at which the session ends, and a keyed hash (HMAC-SHA256) of this time and of the
//! token. The key is random and never leaves the process. So nobody can compute the token from the cookie. A restart of
//! edgeshim or a change of the token ends all sessions.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use sha2::Sha256;

use crate::wire::hex;
use crate::wire::names::{AUTHORIZATION, COOKIE, HOST, ORIGIN, REFERER, SEC_FETCH_SITE};
use crate::wire::secret::Secret;

/// The length of a session, in seconds.
const SESSION_SECONDS: u64 = 12 * 3600;

/// What allowed a request: the token that was configured, and the end of the session in seconds of Unix time. A
/// stream of events must end when the pass of its request is not valid any more.
#[derive(Debug)]
pub(crate) struct Pass {
    token: Option<Secret>,
    end: u64,
}

impl Pass {
    /// Returns the pass of each request while no token is configured.
    pub(crate) fn without_token() -> Self {
        Self { token: None, end: u64::MAX }
    }

    /// Returns whether the pass is still valid. `token` is the token that is configured now.
    pub(crate) fn is_valid(&self, token: Option<&Secret>, now: u64) -> bool {
        // Both tokens are configured values, so the comparison need not take constant time.
        self.token.as_ref() == token && now < self.end
    }
}

/// The sessions of one listener. No list of sessions is stored: the key is enough to check a cookie.
pub(crate) struct Sessions {
    /// The name of the cookie. Browsers send a cookie to all ports of a host. If two listeners had the same name, a
    /// log-in at one listener would end the session at the other listener.
    cookie_name: &'static str,
    key: [u8; 32],
}

/// Hides the key.
impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions")
    }
}

impl Sessions {
    /// Creates the sessions of a listener. `cookie_name` must differ from the cookie names of all other listeners.
    pub(crate) fn new(cookie_name: &'static str) -> io::Result<Self> {
        let mut key = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        Ok(Self { cookie_name, key })
    }

    /// Returns the value of Set-Cookie for a new session.
    pub(crate) fn cookie(&self, token: &Secret, now: u64) -> String {
        let end = now + SESSION_SECONDS;
        let hash = self.hash(token, end);
        let name = self.cookie_name;
        format!("{name}={end}.{hash}; Path=/; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Strict")
    }

    /// Checks whether a request has the token or the cookie of a valid session. If Authorization has at least seven
    /// bytes, which is the length of `Bearer `, the cookie is ignored. `None`: the request is not allowed.
    pub(crate) fn pass(&self, headers: &HeaderMap, token: &Secret, now: u64) -> Option<Pass> {
        let pass = |end| Pass { token: Some(token.clone()), end };
        let sent = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        if let Some((scheme, sent)) = sent.split_at_checked(7) {
            return (scheme.eq_ignore_ascii_case(b"Bearer ") && token.matches(sent)).then(|| pass(u64::MAX));
        }
        let cookies = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        cookies
            .flat_map(|line| line.split(';'))
            .find_map(|cookie| self.session_end(cookie.trim(), token, now))
            .map(pass)
    }

    /// Returns the end of the session of a cookie, or `None` if the cookie is not valid.
    fn session_end(&self, cookie: &str, token: &Secret, now: u64) -> Option<u64> {
        let (end, hash) = cookie.strip_prefix(self.cookie_name)?.strip_prefix('=')?.split_once('.')?;
        let end = end.parse().ok()?;
        // `Secret::matches` compares in constant time.
        let is_valid =
            now < end && end <= now + SESSION_SECONDS && Secret::new(self.hash(token, end)).matches(hash.as_bytes());
        is_valid.then_some(end)
    }

    fn hash(&self, token: &Secret, end: u64) -> String {
        let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(&self.key) else {
            unreachable!("HMAC accepts a key of any length")
        };
        hmac.update(&end.to_be_bytes());
        hmac.update(token.expose().as_bytes());
        hex::text(&hmac.finalize().into_bytes())
    }
}

/// Returns whether a page of another site caused a POST. Browsers report the page in Sec-Fetch-Site, in Origin and in
/// Referer. A request that has none of these fields does not come from a browser, so the result is false.
///
/// If no token is configured, the result is also true for a browser whose Host is neither an IP address nor `localhost`
/// (see [`is_rebound`]).
pub(crate) fn is_cross_site(headers: &HeaderMap, has_token: bool) -> bool {
    let site = headers.get(&SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    if site.is_some_and(|site| !matches!(site, b"same-origin" | b"none")) {
        return true;
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let is_other = |value: &HeaderValue, has_path: bool| {
        let text = str::from_utf8(value.as_bytes()).unwrap_or_default();
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        let authority =
            rest.map(|rest| if has_path { rest.split_once('/').map_or(rest, |(first, _)| first) } else { rest });
        let is_same = authority.is_some_and(|authority| !host.is_empty() && authority.eq_ignore_ascii_case(host));
        !is_same || !(has_token || is_local(host))
    };
    let mut origins = headers.get_all(ORIGIN).iter();
    // Current browsers send Origin with each POST. Old browsers can send only Referer, so a Referer counts too.
    origins.next().is_some_and(|origin| is_other(origin, false))
        || origins.next().is_some()
        || headers.get_all(REFERER).iter().any(|referer| is_other(referer, true))
}

/// Returns whether the Host of a request is a host name other than `localhost`. On a TCP listener without a token, such
/// a request gets only the probes and the metrics. Without this rule, another site could let its own host name resolve
/// to the address of this listener (DNS rebinding). To the browser, the page of that site and this listener would then
/// be the same site. A request without a Host does not come from a browser.
pub(crate) fn is_rebound(head: &Parts) -> bool {
    let host = match (head.uri.authority(), head.headers.get(HOST)) {
        (Some(authority), _) => authority.as_str().as_bytes(),
        (None, host) => host.map(HeaderValue::as_bytes).unwrap_or_default(),
    };
    !host.is_empty() && !str::from_utf8(host).is_ok_and(is_local)
}

/// Returns whether a Host is an IP address or `localhost`, with or without a port.
fn is_local(host: &str) -> bool {
    let without_port = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host });
    let name = without_port.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&http::HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| ((*name).clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn cookie_when_invalid_or_beside_a_wrong_bearer_token_then_refused() {
        let (sessions, other) = (Sessions::new("session").unwrap(), Sessions::new("session").unwrap());
        let (token, changed) = (Secret::new("hunter2"), Secret::new("hunter3"));
        let cookie = sessions.cookie(&token, 1000);
        assert!(!cookie.contains("hunter2") && cookie.contains("HttpOnly; SameSite=Strict"));
        let value = cookie.split(';').next().unwrap();
        let allowed = |sessions: &Sessions, token: &Secret, cookie: &str, now| {
            sessions.pass(&headers(&[(&COOKIE, cookie)]), token, now).is_some()
        };
        assert!(allowed(&sessions, &token, value, 1001));
        assert!(allowed(&sessions, &token, &format!("a=b; {value}; c=d"), 1001));
        assert!(!allowed(&sessions, &token, value, 1000 + SESSION_SECONDS), "expired");
        assert!(!allowed(&sessions, &changed, value, 1001), "another token");
        assert!(!allowed(&other, &token, value, 1001), "another process");
        let later = value.replacen("=4", "=5", 1);
        assert_ne!(later, value);
        let renamed = value.replacen("session", "other", 1);
        for bad in [later.as_str(), &value[..value.len() - 1], &renamed, "session=", "session=.", "hunter2"] {
            assert!(!allowed(&sessions, &token, bad, 1001), "{bad}");
        }
        assert!(sessions.pass(&headers(&[(&AUTHORIZATION, "bearer hunter2")]), &token, 0).is_some());
        assert!(sessions.pass(&headers(&[(&AUTHORIZATION, "Bearer x"), (&COOKIE, value)]), &token, 1001).is_none());
    }

    #[test]
    fn pass_when_token_changes_or_session_ends_then_is_invalid() {
        let (sessions, token, changed) =
            (Sessions::new("session").unwrap(), Secret::new("hunter2"), Secret::new("hunter3"));
        let bearer = sessions.pass(&headers(&[(&AUTHORIZATION, "Bearer hunter2")]), &token, 0).unwrap();
        assert!(bearer.is_valid(Some(&token), u64::MAX - 1));
        assert!(!bearer.is_valid(Some(&changed), 0) && !bearer.is_valid(None, 0));
        let cookie = sessions.cookie(&token, 1000);
        let session = sessions.pass(&headers(&[(&COOKIE, cookie.split(';').next().unwrap())]), &token, 1000).unwrap();
        assert!(session.is_valid(Some(&token), 1000 + SESSION_SECONDS - 1));
        assert!(!session.is_valid(Some(&token), 1000 + SESSION_SECONDS) && !session.is_valid(Some(&changed), 1000));
        let open = Pass::without_token();
        assert!(open.is_valid(None, 0) && !open.is_valid(Some(&token), 0), "a new token must end open streams");
    }

    #[test]
    fn host_when_neither_address_nor_localhost_then_is_rebound() {
        let rebound = |target: &str, host: Option<&str>| {
            let request = http::Request::builder().uri(target);
            let request = host.into_iter().fold(request, |request, host| request.header(HOST, host));
            is_rebound(&request.body(()).unwrap().into_parts().0)
        };
        for host in ["127.0.0.1:9900", "10.0.0.7", "[::1]:9900", "[::1]", "localhost", "LOCALHOST:80", ""] {
            assert!(!rebound("/", Some(host)), "{host}");
        }
        assert!(!rebound("/", None), "a request without Host does not come from a browser");
        for host in
            ["evil.example", "evil.example:9900", "localhost.evil.example", "127.0.0.1.evil.example", "a:b", "."]
        {
            assert!(rebound("/", Some(host)), "{host}");
        }
        assert!(
            rebound("http://evil.example/", Some("127.0.0.1")) && !rebound("http://127.0.0.1/", Some("evil.example"))
        );
    }

    #[test]
    fn post_when_sent_by_a_page_of_another_site_then_is_cross_site() {
        let post = |fields: &[(&http::HeaderName, &str)]| is_cross_site(&headers(fields), false);
        for (host, origin) in [
            ("127.0.0.1:9900", "http://127.0.0.1:9900"),
            ("[::1]:9900", "http://[::1]:9900"),
            ("LocalHost:9900", "http://localhost:9900"),
        ] {
            assert!(!post(&[(&HOST, host), (&ORIGIN, origin)]), "{origin}");
        }
        assert!(!post(&[(&HOST, "127.0.0.1:9900")]), "a request without Origin does not come from a browser");
        for (referer, is_refused) in [
            ("http://127.0.0.1:9900/", false),
            ("http://127.0.0.1:9900", false),
            ("http://evil.example/http://127.0.0.1:9900/", true),
            ("http://127.0.0.1:9900@evil.example/", true),
            ("127.0.0.1:9900/", true),
            ("", true),
        ] {
            let host = (&HOST, "127.0.0.1:9900");
            assert_eq!(post(&[host, (&REFERER, referer)]), is_refused, "{referer:?}");
            let both = [host, (&ORIGIN, "http://127.0.0.1:9900"), (&REFERER, referer)];
            assert_eq!(post(&both), is_refused, "{referer:?} beside Origin");
        }
        for (host, origin) in [
            ("127.0.0.1:9900", "http://evil.example"),
            ("127.0.0.1:9900", "http://127.0.0.1:9901"),
            ("127.0.0.1:9900", "null"),
            ("127.0.0.1:9900", "127.0.0.1:9900"),
            ("", "http://"),
            ("evil.example:9900", "http://evil.example:9900"),
        ] {
            assert!(post(&[(&HOST, host), (&ORIGIN, origin)]), "{origin}");
        }
        let named = headers(&[(&HOST, "ops.example"), (&ORIGIN, "https://ops.example")]);
        assert!(is_cross_site(&named, false) && !is_cross_site(&named, true));
        for site in ["cross-site", "same-site", ""] {
            assert!(post(&[(&HOST, "127.0.0.1"), (&ORIGIN, "http://127.0.0.1"), (&SEC_FETCH_SITE, site)]), "{site}");
        }
        assert!(!post(&[(&HOST, "127.0.0.1"), (&SEC_FETCH_SITE, "same-origin")]));
    }
}
