//! Decides who is allowed to use the admin listener. A request needs the token as a bearer token, or the cookie of a
//! session, which a browser gets at its log-in. Also finds the POST requests that a page of another site caused.
//!
//! The cookie contains the time at which the session ends, and a keyed hash (HMAC-SHA256) of this time and of the
//! token. The key is random and never leaves the process. So nobody can find the token from the cookie. A restart of
//! edgeshim or a change of the token ends all sessions.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderValue};
use sha2::Sha256;

use crate::wire::names::{AUTHORIZATION, COOKIE, HOST, ORIGIN, SEC_FETCH_SITE};
use crate::wire::secret::Secret;

const COOKIE_NAME: &str = "edgeshim_session";
/// The length of a session, in seconds.
const SESSION_SECONDS: u64 = 12 * 3600;

/// The sessions of this process. No list of sessions is stored: the key is enough to check a cookie.
pub(super) struct Sessions {
    key: [u8; 32],
}

impl Sessions {
    pub(super) fn new() -> io::Result<Self> {
        let mut key = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        Ok(Self { key })
    }

    /// Returns the value of Set-Cookie for a new session.
    pub(super) fn cookie(&self, token: &Secret, now: u64) -> String {
        let end = now + SESSION_SECONDS;
        let hash = self.hash(token, end);
        format!("{COOKIE_NAME}={end}.{hash}; Path=/; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Strict")
    }

    /// Returns whether a request has the token or the cookie of a valid session. If the request has credentials in
    /// Authorization, the cookie is ignored.
    pub(super) fn allow(&self, headers: &HeaderMap, token: &Secret, now: u64) -> bool {
        let sent = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        if let Some((scheme, sent)) = sent.split_at_checked(7) {
            return scheme.eq_ignore_ascii_case(b"Bearer ") && token.matches(sent);
        }
        let cookies = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        cookies.flat_map(|line| line.split(';')).any(|cookie| self.is_session(cookie.trim(), token, now))
    }

    fn is_session(&self, cookie: &str, token: &Secret, now: u64) -> bool {
        let value = cookie.strip_prefix(COOKIE_NAME).and_then(|rest| rest.strip_prefix('='));
        let Some((end, hash)) = value.and_then(|value| value.split_once('.')) else { return false };
        let Ok(end) = end.parse() else { return false };
        // `Secret::matches` compares in constant time.
        now < end && end <= now + SESSION_SECONDS && Secret::new(self.hash(token, end)).matches(hash.as_bytes())
    }

    fn hash(&self, token: &Secret, end: u64) -> String {
        let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(&self.key) else {
            unreachable!("HMAC accepts a key of any length")
        };
        hmac.update(&end.to_be_bytes());
        hmac.update(token.expose().as_bytes());
        hmac.finalize().into_bytes().iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// Returns whether a page of another site caused a POST. Browsers report the page in Sec-Fetch-Site and in Origin. A
/// request that has neither field does not come from a browser, so the result is false.
///
/// If no token is configured, the Host of a browser must be an IP address or `localhost`. Otherwise another site could
/// let its own host name resolve to the address of this listener. To the browser, the page of that site and this
/// listener would then be the same site.
pub(super) fn is_cross_site(headers: &HeaderMap, has_token: bool) -> bool {
    let site = headers.get(&SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    if site.is_some_and(|site| !matches!(site, b"same-origin" | b"none")) {
        return true;
    }
    let mut origins = headers.get_all(ORIGIN).iter().map(HeaderValue::as_bytes);
    let Some(origin) = origins.next() else { return false };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let origin = str::from_utf8(origin).unwrap_or_default();
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let is_same = authority.is_some_and(|authority| !host.is_empty() && authority.eq_ignore_ascii_case(host));
    !is_same || origins.next().is_some() || !(has_token || is_local(host))
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
    fn cookie_when_changed_expired_or_of_another_token_or_process_then_refused() {
        let (sessions, other) = (Sessions::new().unwrap(), Sessions::new().unwrap());
        let (token, changed) = (Secret::new("hunter2"), Secret::new("hunter3"));
        let cookie = sessions.cookie(&token, 1000);
        assert!(!cookie.contains("hunter2") && cookie.contains("HttpOnly; SameSite=Strict"));
        let value = cookie.split(';').next().unwrap();
        let allowed = |sessions: &Sessions, token: &Secret, cookie: &str, now| {
            sessions.allow(&headers(&[(&COOKIE, cookie)]), token, now)
        };
        assert!(allowed(&sessions, &token, value, 1001));
        assert!(allowed(&sessions, &token, &format!("a=b; {value}; c=d"), 1001));
        assert!(!allowed(&sessions, &token, value, 1000 + SESSION_SECONDS), "expired");
        assert!(!allowed(&sessions, &changed, value, 1001), "another token");
        assert!(!allowed(&other, &token, value, 1001), "another process");
        let later = value.replacen("=4", "=5", 1);
        assert_ne!(later, value);
        for bad in [later.as_str(), &value[..value.len() - 1], "edgeshim_session=", "edgeshim_session=.", "hunter2"] {
            assert!(!allowed(&sessions, &token, bad, 1001), "{bad}");
        }
        assert!(sessions.allow(&headers(&[(&AUTHORIZATION, "bearer hunter2")]), &token, 0));
        assert!(!sessions.allow(&headers(&[(&AUTHORIZATION, "Bearer x"), (&COOKIE, value)]), &token, 1001));
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
