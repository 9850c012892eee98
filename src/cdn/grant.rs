//! Whether a CDN is allowed to store a response, and for which lifetime the CDN can use the stored response.

use http::{HeaderValue, StatusCode};

use super::dialect::Dialect;
use crate::wire::cache_control::CacheControl;
use crate::wire::cache_fields::edge_control;
use crate::wire::head_fields::Fields;
use crate::wire::names::{CACHE_CONTROL, VARY};
use crate::wire::vary;

/// What a CDN is allowed to do with a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grant {
    /// The CDN must not store the response.
    Forbidden,
    /// The CDN can store the response, and can use it without revalidation for this number of seconds. The number is 0
    /// if the response has no lifetime, or if it has a `no-cache` that the CDN obeys.
    Lifetime(u64),
}

impl Grant {
    /// Reads the fields that a CDN with this dialect obeys. `fields` is the response head that edgeshim sends to the
    /// CDN, after all changes.
    pub(crate) fn of<'a>(dialect: Dialect, status: StatusCode, fields: impl Into<Fields<'a>>) -> Self {
        let fields = fields.into();
        let lines = |name| fields.lines(name).map(HeaderValue::as_bytes);
        if fields.can_have(&VARY) && vary::names(fields.headers()).any(|name| name == b"*") {
            return Self::Forbidden;
        }
        let passed = dialect.passed_field().and_then(|name| edge_control(lines(name)));
        let targeted = || {
            let mut fields = dialect.reads().iter().map(|name| CacheControl::parse(lines(*name)));
            fields.find(|directives| !directives.is_empty())
        };
        let for_all = CacheControl::parse(lines(&CACHE_CONTROL));
        Self::by(dialect, status, passed.or_else(targeted).as_ref(), &for_all)
    }

    /// Returns the grant of a response that has the directives `targeted` in the field that the CDN obeys before
    /// Cache-Control, and the directives `for_all` in Cache-Control. Does not check Vary.
    pub(crate) fn by(
        dialect: Dialect,
        status: StatusCode,
        targeted: Option<&CacheControl<'_>>,
        for_all: &CacheControl<'_>,
    ) -> Self {
        let obeyed = match targeted {
            Some(targeted) if dialect.ignores_no_cache() => {
                // This CDN reads only the lifetime in its targeted field. It obeys the prohibitions in Cache-Control.
                // If the targeted field has a lifetime, `no-cache` in Cache-Control is not a prohibition.
                match targeted.max_age {
                    Some(seconds) if !for_all.is_unshared() => return Self::Lifetime(seconds),
                    _ => for_all,
                }
            }
            Some(targeted) => targeted,
            None => for_all,
        };
        if status != StatusCode::NOT_MODIFIED && !obeyed.is_storable(status) || obeyed.is_unshared() {
            Self::Forbidden
        } else if obeyed.no_cache && !(dialect.ignores_no_cache() && obeyed.has_lifetime()) {
            Self::Lifetime(0)
        } else {
            Self::Lifetime(obeyed.s_maxage.or(obeyed.max_age).unwrap_or(0))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn grant_when_response_has_cache_fields_then_follows_the_dialect() {
        for (dialect, fields, grant) in [
            (Dialect::Generic, &[("cache-control", "max-age=5, s-maxage=9")][..], Grant::Lifetime(9)),
            (Dialect::Generic, &[("cache-control", "no-cache")], Grant::Lifetime(0)),
            (Dialect::Generic, &[("cache-control", "private")], Grant::Forbidden),
            (Dialect::Generic, &[], Grant::Lifetime(0)),
            (Dialect::Generic, &[("cache-control", "max-age=5"), ("vary", "Accept, *")], Grant::Forbidden),
            (
                Dialect::Fastly,
                &[("cache-control", "max-age=5"), ("surrogate-control", "max-age=7")],
                Grant::Lifetime(7),
            ),
            (Dialect::Fastly, &[("cache-control", "max-age=5"), ("surrogate-control", "no-store")], Grant::Lifetime(5)),
            (Dialect::Fastly, &[("cache-control", "private"), ("surrogate-control", "no-store")], Grant::Forbidden),
            (Dialect::Fastly, &[("cache-control", "no-store"), ("surrogate-control", "max-age=7")], Grant::Forbidden),
            (Dialect::Fastly, &[("cache-control", "no-cache"), ("surrogate-control", "max-age=7")], Grant::Lifetime(7)),
            (Dialect::Fastly, &[("surrogate-control", "no-store, max-age=7")], Grant::Lifetime(7)),
            (Dialect::Fastly, &[("cache-control", "s-maxage=3"), ("surrogate-control", "x=y")], Grant::Lifetime(3)),
            (Dialect::Fastly, &[("cache-control", "max-age=5")], Grant::Lifetime(5)),
            (Dialect::Fastly, &[("cache-control", "max-age=5, no-cache")], Grant::Lifetime(5)),
            (Dialect::Fastly, &[("cache-control", "no-cache")], Grant::Lifetime(0)),
            (Dialect::Generic, &[("cache-control", "max-age=5, no-cache")], Grant::Lifetime(0)),
            (
                Dialect::Cloudflare,
                &[("cache-control", "no-store"), ("cloudflare-cdn-cache-control", "max-age=3")],
                Grant::Lifetime(3),
            ),
            (Dialect::Akamai, &[("cache-control", "max-age=5"), ("edge-control", "max-age=2m")], Grant::Lifetime(120)),
        ] {
            let headers: HeaderMap =
                fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            assert_eq!(Grant::of(dialect, StatusCode::OK, &headers), grant, "{dialect:?} {fields:?}");
        }
        let none = HeaderMap::new();
        assert_eq!(Grant::of(Dialect::Generic, StatusCode::NOT_MODIFIED, &none), Grant::Lifetime(0));
        assert_eq!(Grant::of(Dialect::Generic, StatusCode::INTERNAL_SERVER_ERROR, &none), Grant::Forbidden);
    }
}
