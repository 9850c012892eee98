//! Limits the lifetime of a response from the stand-in to the class's `error_ttl`, in every dialect. The stand-in
//! (`origin.stand_in`) is a static mirror of the site, which responds if the origin has failed.

use http::{HeaderMap, HeaderValue};

use crate::edge::request::class::{CacheMode, CachePolicy};
use crate::wire::cache_control::CacheControl;
use crate::wire::cache_fields::{TARGETED, edge_control};
use crate::wire::names::{CACHE_CONTROL, EDGE_CONTROL, EXPIRES, SURROGATE_CONTROL, X_ACCEL_EXPIRES};

/// Returns the policy of a class for responses from the stand-in. No lifetime is longer than `error_ttl`, and each
/// response that caches may store gets a lifetime, because some CDNs store a response without a lifetime for an hour.
pub(super) fn policy(policy: &CachePolicy) -> CachePolicy {
    let most = policy.error_ttl;
    let at_most = |ttl: Option<u64>| ttl.map(|seconds| seconds.min(most));
    let (mut ttl, edge_ttl) = (at_most(policy.ttl), at_most(policy.edge_ttl));
    if ttl.is_none() && edge_ttl.is_none() {
        ttl = Some(most);
    }
    CachePolicy {
        mode: if policy.mode == CacheMode::Keep { CacheMode::Default } else { policy.mode },
        ttl,
        edge_ttl,
        stale_while_revalidate: None,
        stale_if_error: None,
        immutable: false,
        ..policy.clone()
    }
}

/// Limits the lifetimes in the stand-in's Cache-Control, and removes its stale windows and `immutable`. Removes Expires
/// and the fields that only CDNs read. Prohibitions in a removed field move to Cache-Control, even if the pulling CDN
/// does not read the removed field: no-store and private become `private`, no-cache and a lifetime of 0 become
/// `s-maxage=0`. Expires and X-Accel-Expires are removed without a replacement.
pub(super) fn cap(headers: &mut HeaderMap, most: u64) {
    let lines: Vec<_> = headers.get_all(CACHE_CONTROL).iter().cloned().collect();
    let mut directives = CacheControl::parse(lines.iter().map(HeaderValue::as_bytes));
    for name in TARGETED.into_iter().chain([&SURROGATE_CONTROL]).filter(|name| **name != X_ACCEL_EXPIRES) {
        let lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let removed = if *name == EDGE_CONTROL { edge_control(lines) } else { Some(CacheControl::parse(lines)) };
        let removed = removed.unwrap_or_default();
        directives.private |= removed.is_unshared();
        if removed.no_cache || removed.s_maxage.or(removed.max_age) == Some(0) {
            directives.s_maxage = Some(0);
        }
    }
    for seconds in [&mut directives.max_age, &mut directives.s_maxage] {
        *seconds = seconds.map(|seconds| seconds.min(most));
    }
    directives.stale_while_revalidate = None;
    directives.stale_if_error = None;
    directives.immutable = false;
    directives.settle();
    match directives.settled_value() {
        Some(value) => drop(headers.insert(CACHE_CONTROL, value)),
        None => drop(headers.remove(CACHE_CONTROL)),
    }
    headers.remove(EXPIRES);
    headers.remove(&SURROGATE_CONTROL);
    for name in TARGETED {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::{Method, StatusCode};

    use super::super::policy::{Facts, Prepared};
    use super::*;
    use crate::cdn::dialect::Dialect;

    /// Returns the largest lifetime in a response of the stand-in, or `None` if shared caches must not store the
    /// response.
    fn longest(class: &CachePolicy, dialect: Dialect, sent: &[(&'static str, &'static str)]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_static(value));
        }
        cap(&mut headers, class.error_ttl);
        let facts = Facts { method: &Method::GET, authorization: false, assigned: false, now: SystemTime::now };
        Prepared::new(&policy(class), dialect).apply(&mut headers, StatusCode::OK, &facts);
        let fields =
            [CACHE_CONTROL].into_iter().chain(TARGETED.into_iter().cloned()).chain([SURROGATE_CONTROL.clone()]);
        let all: Vec<CacheControl<'_>> = fields
            .filter(|name| headers.contains_key(name))
            .map(|name| CacheControl::parse(headers.get_all(name).iter().map(HeaderValue::as_bytes)))
            .collect();
        assert!(!all.is_empty(), "{dialect:?} {class:?} {sent:?}: no caching field");
        for directives in &all {
            assert_eq!((directives.stale_while_revalidate, directives.stale_if_error), (None, None), "{headers:?}");
        }
        if all.iter().any(|directives| directives.no_store || directives.private) {
            return None;
        }
        let found = all.iter().flat_map(|directives| [directives.max_age, directives.s_maxage]).flatten().max();
        Some(found.unwrap_or_else(|| panic!("{dialect:?} {class:?} {sent:?}: no lifetime in {headers:?}")))
    }

    #[test]
    fn stand_in_response_when_lifetimes_are_long_then_lifetime_is_at_most_error_ttl() {
        let long = CachePolicy {
            ttl: Some(94_670_800),
            edge_ttl: Some(94_670_800),
            stale_if_error: Some(86_400),
            stale_while_revalidate: Some(60),
            immutable: true,
            ..CachePolicy::default()
        };
        let sent: [&[(&str, &str)]; 6] = [
            &[],
            &[("cache-control", "public, max-age=31536000, immutable")],
            &[("cache-control", "s-maxage=600, stale-if-error=9000"), ("surrogate-control", "max-age=9999")],
            &[("expires", "Thu, 01 Jan 2099 00:00:00 GMT")],
            &[("cdn-cache-control", "max-age=9999"), ("cloudflare-cdn-cache-control", "max-age=9999")],
            &[("edge-control", "max-age=9999")],
        ];
        for dialect in Dialect::ALL {
            for mode in [CacheMode::Keep, CacheMode::Default, CacheMode::Override] {
                for class in [CachePolicy { mode, ..long.clone() }, CachePolicy { mode, ..CachePolicy::default() }] {
                    for sent in sent {
                        let longest = longest(&class, dialect, sent);
                        assert!(longest.is_some_and(|seconds| seconds <= 10), "{dialect:?} {class:?} {sent:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn stand_in_response_when_storing_is_forbidden_then_is_not_stored_or_lifetime_is_0() {
        let never = CachePolicy { mode: CacheMode::Never, ..CachePolicy::default() };
        for dialect in Dialect::ALL {
            assert_eq!(longest(&never, dialect, &[("cache-control", "max-age=60")]), None);
            for said in ["private", "no-store"] {
                assert_eq!(longest(&CachePolicy::default(), dialect, &[("cache-control", said)]), None);
            }
            for (field, value, wanted) in [
                ("edge-control", "bypass-cache", None),
                ("cdn-cache-control", "private, max-age=9", None),
                ("surrogate-control", "no-store", None),
                ("edge-control", "max-age=0", Some(0)),
                ("cdn-cache-control", "no-cache", Some(0)),
                ("surrogate-control", "max-age=0", Some(0)),
            ] {
                assert_eq!(longest(&CachePolicy::default(), dialect, &[(field, value)]), wanted, "{field}: {value}");
            }
        }
    }
}
