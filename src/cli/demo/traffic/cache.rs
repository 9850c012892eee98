//! The cache of a simulated CDN. The cache decides which responses the CDN stores, and for how long.
//!
//! The cache reads the caching headers that edgeshim writes, in the dialect of its CDN. A response without a lifetime
//! is not stored, because a guessed lifetime would make the demo's offload better than edgeshim's headers allow. The
//! cache needs no size limit, because the visitors request a fixed list of paths.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::wire::cache_control::CacheControl;
use crate::wire::{names, vary};

/// The fields from which a CDN reads its lifetimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The lifetime comes from Surrogate-Control, or from Cache-Control if Surrogate-Control has no lifetime.
    /// `no-store` and `private` apply only in Cache-Control. `no-cache` never applies.
    Fastly,
    /// The lifetime comes from only one field: the first of Cloudflare-CDN-Cache-Control, CDN-Cache-Control and
    /// Cache-Control that is present.
    Cloudflare,
    /// The lifetime comes from Cache-Control. A response with Vary is stored only if its body is gzip.
    Akamai,
}

/// The conditions under which a cache is allowed to use a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// The time for which the response is fresh. Zero: the response must be revalidated for each request.
    pub(super) lifetime: Duration,
    /// The time after the end of `lifetime` during which the stale response can replace an error (RFC 5861 §4).
    pub(super) stale_if_error: Duration,
    /// Whether the response depends on Accept-Encoding.
    pub(super) by_encoding: bool,
}

impl Terms {
    /// Returns the conditions under which this CDN is allowed to use a response. `gzip`: whether the body is gzip.
    /// `None`: the response is not stored.
    pub(super) fn read(dialect: Dialect, status: StatusCode, headers: &HeaderMap, gzip: bool) -> Option<Self> {
        let storable = matches!(status.as_u16(), 200 | 203 | 301 | 308 | 404 | 410);
        if !storable || headers.contains_key(names::SET_COOKIE) {
            return None;
        }
        let accept_encoding = names::ACCEPT_ENCODING.as_str();
        if headers.contains_key(names::VARY) && !vary::is_only(headers, accept_encoding) {
            return None;
        }
        let by_encoding = gzip || headers.contains_key(names::VARY);
        let cache_control = directives(headers, &names::CACHE_CONTROL);
        let control = match dialect {
            Dialect::Fastly => {
                let general = cache_control.unwrap_or_default();
                let own = directives(headers, &names::SURROGATE_CONTROL).unwrap_or_default();
                CacheControl {
                    max_age: own.max_age.or(general.s_maxage).or(general.max_age),
                    stale_if_error: own.stale_if_error.or(general.stale_if_error),
                    no_store: general.no_store || general.private,
                    ..CacheControl::default()
                }
            }
            Dialect::Cloudflare => directives(headers, &names::CLOUDFLARE_CDN_CACHE_CONTROL)
                .or_else(|| directives(headers, &names::CDN_CACHE_CONTROL))
                .or(cache_control)?,
            Dialect::Akamai if by_encoding && !gzip => return None,
            Dialect::Akamai => cache_control?,
        };
        if control.no_store || control.private {
            return None;
        }
        let age = headers.get(names::AGE).and_then(|age| age.to_str().ok()?.parse().ok()).unwrap_or(0);
        let granted = if control.no_cache { 0 } else { control.s_maxage.or(control.max_age)? };
        // RFC 9111 §5.2.2.10: s-maxage implies proxy-revalidate.
        let strict = control.must_revalidate || control.proxy_revalidate || control.s_maxage.is_some();
        let stale_if_error = if strict { 0 } else { control.stale_if_error.unwrap_or(0) };
        let terms = Self {
            lifetime: Duration::from_secs(granted.saturating_sub(age)),
            stale_if_error: Duration::from_secs(stale_if_error),
            by_encoding,
        };
        let validator = headers.contains_key(names::ETAG) || headers.contains_key(names::LAST_MODIFIED);
        let useful = !terms.lifetime.is_zero() || validator || !terms.stale_if_error.is_zero();
        useful.then_some(terms)
    }

    /// Whether a head has a field from which a CDN reads a lifetime. After a 304 without such a field, the stored
    /// response keeps its terms.
    pub(super) fn are_in(headers: &HeaderMap) -> bool {
        headers.contains_key(names::CACHE_CONTROL)
            || [&names::SURROGATE_CONTROL, &names::CDN_CACHE_CONTROL, &names::CLOUDFLARE_CDN_CACHE_CONTROL]
                .into_iter()
                .any(|name| headers.contains_key(name))
    }
}

/// Returns the directives of a field, or `None` if the field is absent. A directive with a list of field names has the
/// same effect as the directive without the list.
fn directives<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<CacheControl<'a>> {
    let mut lines = headers.get_all(name).iter().map(HeaderValue::as_bytes).peekable();
    lines.peek()?;
    let mut control = CacheControl::parse(lines);
    control.private |= !control.private_fields.is_empty();
    control.no_cache |= !control.no_cache_fields.is_empty();
    Some(control)
}

/// A stored response.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    /// Whether the body is gzip.
    pub(super) gzip: bool,
    pub(super) etag: Option<HeaderValue>,
    pub(super) last_modified: Option<HeaderValue>,
    pub(super) terms: Terms,
}

/// The result of a lookup.
#[derive(Debug)]
pub(super) enum Found {
    Fresh(Stored),
    /// The response must be revalidated. `usable`: the CDN is allowed to serve this stale response in place of an
    /// error.
    Stale {
        stored: Stored,
        usable: bool,
    },
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Variant {
    Any,
    Gzip,
    Plain,
}

impl Variant {
    fn of(gzip: bool) -> Self {
        if gzip { Self::Gzip } else { Self::Plain }
    }
}

#[derive(Debug)]
struct Entry {
    stored: Stored,
    fresh_until: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<(Arc<str>, Variant), Entry>,
}

impl Cache {
    /// Looks up a response for a visitor. `gzip`: whether the visitor accepts gzip.
    pub(super) fn find(&self, path: &Arc<str>, gzip: bool, now: Instant) -> Found {
        let [own, any] = Self::keys(path, gzip);
        let Some(Entry { stored, fresh_until }) = self.entries.get(&own).or_else(|| self.entries.get(&any)) else {
            return Found::Nothing;
        };
        let stored = stored.clone();
        if now < *fresh_until {
            return Found::Fresh(stored);
        }
        let usable = now.saturating_duration_since(*fresh_until) < stored.terms.stale_if_error;
        Found::Stale { stored, usable }
    }

    /// Stores a response that was pulled for a visitor, in place of the previous response. `gzip`: whether that visitor
    /// accepts gzip.
    pub(super) fn store(&mut self, path: &Arc<str>, gzip: bool, stored: Stored, now: Instant) {
        self.remove(path, gzip);
        let variant = if stored.terms.by_encoding { Variant::of(gzip) } else { Variant::Any };
        // If the lifetime is too long for the clock's range, the response is stale at once.
        let fresh_until = now.checked_add(stored.terms.lifetime).unwrap_or(now);
        self.entries.insert((Arc::clone(path), variant), Entry { stored, fresh_until });
    }

    /// Removes all responses that `find` can return for the same path and the same `gzip`.
    pub(super) fn remove(&mut self, path: &Arc<str>, gzip: bool) {
        for key in Self::keys(path, gzip) {
            self.entries.remove(&key);
        }
    }

    fn keys(path: &Arc<str>, gzip: bool) -> [(Arc<str>, Variant); 2] {
        [Variant::of(gzip), Variant::Any].map(|variant| (Arc::clone(path), variant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&HeaderName, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|&(name, value)| (name.clone(), HeaderValue::from_str(value).expect("the value is valid")))
            .collect()
    }

    fn lifetime(dialect: Dialect, lines: &[(&HeaderName, &str)]) -> Option<u64> {
        Terms::read(dialect, StatusCode::OK, &headers(lines), false).map(|terms| terms.lifetime.as_secs())
    }

    const ALL: [Dialect; 3] = [Dialect::Fastly, Dialect::Cloudflare, Dialect::Akamai];

    #[test]
    fn response_when_storing_is_forbidden_or_lifetime_is_missing_then_is_not_stored() {
        for dialect in ALL {
            for line in ["no-store", "max-age=60, no-store", "private", "Private=\"a, b\" , max-age=60", "", "public"] {
                assert_eq!(lifetime(dialect, &[(&names::CACHE_CONTROL, line)]), None, "{dialect:?} {line}");
            }
            let two = [(&names::CACHE_CONTROL, "max-age=60"), (&names::CACHE_CONTROL, "no-store")];
            assert_eq!(lifetime(dialect, &two), None);
            let cookie = [(&names::CACHE_CONTROL, "max-age=60"), (&names::SET_COOKIE, "a=b")];
            assert_eq!(lifetime(dialect, &cookie), None);
            assert_eq!(lifetime(dialect, &[]), None);
        }
    }

    #[test]
    fn lifetime_when_read_from_cache_control_and_age_then_follows_rfc_9111() {
        for dialect in ALL {
            assert_eq!(lifetime(dialect, &[(&names::CACHE_CONTROL, "max-age=5, s-maxage=\"90\"")]), Some(90));
            assert_eq!(lifetime(dialect, &[(&names::CACHE_CONTROL, "max-age=50"), (&names::AGE, "20")]), Some(30));
            assert_eq!(lifetime(dialect, &[(&names::CACHE_CONTROL, "max-age=99999999999999999999")]), Some(1 << 31));
        }
    }

    #[test]
    fn targeted_field_when_present_then_is_read_only_by_the_targeted_cdn() {
        let lines = [
            (&names::CACHE_CONTROL, "max-age=1"),
            (&names::SURROGATE_CONTROL, "max-age=2"),
            (&names::CLOUDFLARE_CDN_CACHE_CONTROL, "max-age=3"),
        ];
        assert_eq!(ALL.map(|dialect| lifetime(dialect, &lines)), [Some(2), Some(3), Some(1)]);
        let own = [(&names::CACHE_CONTROL, "no-store"), (&names::CLOUDFLARE_CDN_CACHE_CONTROL, "max-age=3")];
        assert_eq!(ALL.map(|dialect| lifetime(dialect, &own)), [None, Some(3), None]);
        // Fastly reads only lifetimes in Surrogate-Control.
        let own = [(&names::CACHE_CONTROL, "max-age=1"), (&names::SURROGATE_CONTROL, "no-store")];
        assert_eq!(ALL.map(|dialect| lifetime(dialect, &own)), [Some(1); 3]);
    }

    #[test]
    fn response_when_vary_has_more_than_accept_encoding_then_is_not_stored() {
        let vary = |line| headers(&[(&names::CACHE_CONTROL, "max-age=9"), (&names::VARY, line)]);
        for dialect in ALL {
            for line in ["*", "Cookie", "Accept-Encoding, Accept-Language"] {
                assert_eq!(Terms::read(dialect, StatusCode::OK, &vary(line), true), None, "{dialect:?} {line}");
            }
            let terms =
                Terms::read(dialect, StatusCode::OK, &vary("accept-encoding"), true).expect("the response is stored");
            assert!(terms.by_encoding);
        }
        assert_eq!(Terms::read(Dialect::Akamai, StatusCode::OK, &vary("Accept-Encoding"), false), None);
    }

    #[test]
    fn response_when_status_is_5xx_206_302_or_401_then_is_not_stored() {
        let long = headers(&[(&names::CACHE_CONTROL, "max-age=600")]);
        for status in [500, 502, 503, 599, 206, 302, 401] {
            let status = StatusCode::from_u16(status).expect("the status is valid");
            assert!(ALL.iter().all(|&dialect| Terms::read(dialect, status, &long, false).is_none()));
        }
    }

    #[test]
    fn stale_if_error_when_stale_responses_are_forbidden_then_is_ignored() {
        let grace = |line| {
            let headers = headers(&[(&names::CACHE_CONTROL, line)]);
            let terms = Terms::read(Dialect::Akamai, StatusCode::OK, &headers, false);
            terms.expect("the response is stored").stale_if_error.as_secs()
        };
        assert_eq!(grace("max-age=1, stale-if-error=30"), 30);
        assert_eq!(grace("max-age=1, stale-if-error=30, must-revalidate"), 0);
        assert_eq!(grace("s-maxage=1, stale-if-error=30"), 0);
    }

    fn stored(size: usize, lifetime: u64, stale_if_error: u64, by_encoding: bool) -> Stored {
        Stored {
            status: StatusCode::OK,
            body: vec![0; size].into(),
            gzip: false,
            etag: None,
            last_modified: None,
            terms: Terms {
                lifetime: Duration::from_secs(lifetime),
                stale_if_error: Duration::from_secs(stale_if_error),
                by_encoding,
            },
        }
    }

    #[test]
    fn stored_response_when_lifetime_is_over_then_is_stale_and_later_unusable() {
        let (mut cache, path, start) = (Cache::default(), Arc::from("/a"), Instant::now());
        cache.store(&path, true, stored(10, 5, 10, false), start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(matches!(cache.find(&path, false, at(4)), Found::Fresh(_)));
        assert!(matches!(cache.find(&path, true, at(5)), Found::Stale { usable: true, .. }));
        assert!(matches!(cache.find(&path, true, at(15)), Found::Stale { usable: false, .. }));
        cache.remove(&path, true);
        assert!(matches!(cache.find(&path, true, at(1)), Found::Nothing));
    }

    #[test]
    fn cache_when_response_varies_then_stores_a_response_for_each_coding() {
        let (mut cache, path, now) = (Cache::default(), Arc::from("/a"), Instant::now());
        cache.store(&path, true, stored(10, 60, 0, true), now);
        assert!(matches!(cache.find(&path, false, now), Found::Nothing));
        cache.store(&path, false, stored(20, 60, 0, true), now);
        let sizes = [true, false].map(|gzip| match cache.find(&path, gzip, now) {
            Found::Fresh(stored) => stored.body.len(),
            _ => 0,
        });
        assert_eq!(sizes, [10, 20]);
    }
}
