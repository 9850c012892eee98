//! How one CDN expects its lifetimes.
//!
//! Pure knowledge: which directives and fields contain a class's `ttl` and `edge_ttl`, and which of an origin's fields
//! a CDN obeys. The preset of a provider sets its dialect. The `cache_control` layer decides when a lifetime applies.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::wire::names::{
    CACHE_CONTROL, CDN_CACHE_CONTROL, CLOUDFLARE_CDN_CACHE_CONTROL, EDGE_CONTROL, SURROGATE_CONTROL,
};

/// The header fields in which one CDN expects its lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Dialect {
    /// Cache-Control alone, the lifetime of shared caches as `s-maxage` (RFC 9111 §5.2.2.10).
    #[default]
    Generic,
    /// Surrogate-Control, of which it reads only lifetimes.
    Fastly,
    Cloudflare,
    /// Cache-Control as [`Generic`](Self::Generic). It stores a response with Vary only if the body has a content
    /// coding.
    Akamai,
    /// CDN-Cache-Control (RFC 9213).
    Rfc9213,
}

/// A class's lifetimes as they are written, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Cache-Control's `max-age`.
    pub max_age: u64,
    /// Cache-Control's `s-maxage`, if shared caches get their own lifetime there.
    pub s_maxage: Option<u64>,
    /// `max-age` of the CDN's targeted field, if it has one.
    pub targeted: Option<u64>,
}

impl Dialect {
    /// Every dialect, in the order of their discriminants.
    pub const ALL: [Self; 5] = [Self::Generic, Self::Fastly, Self::Cloudflare, Self::Akamai, Self::Rfc9213];

    /// The position in [`ALL`](Self::ALL).
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// The targeted field (RFC 9213) that is written for this CDN.
    pub fn targeted_field(self) -> Option<&'static HeaderName> {
        match self {
            Self::Generic | Self::Akamai => None,
            Self::Fastly => Some(&SURROGATE_CONTROL),
            Self::Cloudflare => Some(&CLOUDFLARE_CDN_CACHE_CONTROL),
            Self::Rfc9213 => Some(&CDN_CACHE_CONTROL),
        }
    }

    /// The targeted fields that this CDN obeys before Cache-Control, first to last. The first that has a directive is
    /// the only one that counts.
    pub fn reads(self) -> &'static [&'static HeaderName] {
        static FASTLY: [&HeaderName; 1] = [&SURROGATE_CONTROL];
        static CLOUDFLARE: [&HeaderName; 2] = [&CLOUDFLARE_CDN_CACHE_CONTROL, &CDN_CACHE_CONTROL];
        static RFC_9213: [&HeaderName; 1] = [&CDN_CACHE_CONTROL];
        match self {
            Self::Generic | Self::Akamai => &[],
            Self::Fastly => &FASTLY,
            Self::Cloudflare => &CLOUDFLARE,
            Self::Rfc9213 => &RFC_9213,
        }
    }

    /// A field with a syntax of its own that this CDN obeys before Cache-Control. It is never added here. The origin's
    /// field is removed, or passed on without the directives that a guard forbids.
    pub fn passed_field(self) -> Option<&'static HeaderName> {
        (self == Self::Akamai).then_some(&EDGE_CONTROL)
    }

    /// Whether the CDN honours max-age despite no-cache, and stores a response without a lifetime for an hour.
    pub fn ignores_no_cache(self) -> bool {
        self == Self::Fastly
    }

    /// Whether the CDN may get Surrogate-Control. Cloudflare ignores Cache-Control if it gets Surrogate-Control, with
    /// any directives.
    pub fn accepts_surrogate_control(self) -> bool {
        self != Self::Cloudflare
    }

    /// The lifetimes for a class's `ttl` and `edge_ttl` (seconds); `None` if the class sets neither.
    ///
    /// With `edge_ttl` alone browsers get `max-age=0`. An operator who sets only `edge_ttl` relies on purges. With
    /// `s-maxage` alone each browser may choose a lifetime from Last-Modified (RFC 9111 §4.2.2), which no purge
    /// reaches.
    pub fn lifetimes(self, ttl: Option<u64>, edge_ttl: Option<u64>) -> Option<Lifetimes> {
        let max_age = match (ttl, edge_ttl) {
            (None, None) => return None,
            (ttl, _) => ttl.unwrap_or(0),
        };
        Some(match self.targeted_field() {
            None => Lifetimes { max_age, s_maxage: edge_ttl, targeted: None },
            Some(_) => Lifetimes { max_age, s_maxage: None, targeted: edge_ttl },
        })
    }

    /// Writes no-store for all caches, in a response that the shim makes itself.
    pub fn forbid_storing(self, headers: &mut HeaderMap) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(name) = self.targeted_field() {
            headers.insert(name, HeaderValue::from_static("no-store"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lifetimes(dialect: Dialect, ttl: Option<u64>, edge_ttl: Option<u64>) -> Option<(u64, Option<u64>, Option<u64>)> {
        dialect.lifetimes(ttl, edge_ttl).map(|all| (all.max_age, all.s_maxage, all.targeted))
    }

    #[test]
    fn lifetimes_when_set_then_in_the_fields_of_the_dialect() {
        for dialect in Dialect::ALL {
            let is_targeted = dialect.targeted_field().is_some();
            let edge = |seconds: u64| if is_targeted { (None, Some(seconds)) } else { (Some(seconds), None) };
            assert_eq!(lifetimes(dialect, None, None), None);
            assert_eq!(lifetimes(dialect, Some(5), None), Some((5, None, None)), "{dialect:?}");
            let (s_maxage, targeted) = edge(9);
            assert_eq!(lifetimes(dialect, Some(5), Some(9)), Some((5, s_maxage, targeted)), "{dialect:?}");
            assert_eq!(lifetimes(dialect, None, Some(9)), Some((0, s_maxage, targeted)), "{dialect:?}");
        }
        let generic = Dialect::Generic;
        assert_eq!(generic.lifetimes(None, Some(9)), Some(Lifetimes { max_age: 0, s_maxage: Some(9), targeted: None }));
    }

    #[test]
    fn dialects_when_listed_then_in_the_order_of_their_positions() {
        for (index, dialect) in Dialect::ALL.into_iter().enumerate() {
            assert_eq!(dialect as usize, index);
            assert_eq!(
                dialect.reads().first().copied(),
                dialect.targeted_field(),
                "the field that is written is the first that is read"
            );
        }
    }

    #[test]
    fn storing_when_forbidden_then_in_both_fields() {
        for dialect in Dialect::ALL {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=9"));
            dialect.forbid_storing(&mut headers);
            let fields = std::iter::once(&CACHE_CONTROL).chain(dialect.targeted_field());
            assert!(fields.clone().all(|name| headers[name] == "no-store"), "{dialect:?}: {headers:?}");
            assert_eq!(headers.len(), fields.count(), "{dialect:?}");
        }
    }
}
