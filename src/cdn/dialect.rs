//! The dialects: the header fields in which each CDN reads the lifetimes of a response.
//!
//! This file defines into which directives and fields edgeshim writes the `ttl` and `edge_ttl` of a class, and which
//! fields from the origin a CDN obeys. The preset of a provider selects the dialect. The `cache_control` layer decides
//! whether a response gets a lifetime.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::wire::names::{
    CACHE_CONTROL, CDN_CACHE_CONTROL, CLOUDFLARE_CDN_CACHE_CONTROL, EDGE_CONTROL, SURROGATE_CONTROL,
};

/// The header fields in which one CDN reads lifetimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Dialect {
    /// The CDN reads only Cache-Control. The lifetime for shared caches is the `s-maxage` in Cache-Control (RFC 9111
    /// §5.2.2.10).
    #[default]
    Generic,
    /// The CDN reads the lifetimes in Surrogate-Control. The CDN ignores the other directives in this field, for
    /// example `no-store`.
    Fastly,
    /// The CDN reads Cloudflare-CDN-Cache-Control or, if that field has no directive, CDN-Cache-Control.
    Cloudflare,
    /// The CDN reads Cache-Control as in [`Generic`](Self::Generic), but obeys Edge-Control first, if the origin sends
    /// it. The CDN stores a response with Vary only if the content coding of the body is gzip or br.
    Akamai,
    /// The CDN reads CDN-Cache-Control (RFC 9213).
    Rfc9213,
}

/// The lifetimes of a class, in seconds, as they are written into the fields of one dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// The `max-age` in Cache-Control.
    pub max_age: u64,
    /// The `s-maxage` in Cache-Control, if the CDN has no targeted field and the class sets `edge_ttl`.
    pub s_maxage: Option<u64>,
    /// The `max-age` in the CDN's targeted field (RFC 9213), if the CDN has such a field and the class sets `edge_ttl`.
    pub targeted: Option<u64>,
}

impl Dialect {
    /// All dialects, in the order in which the enum declares them.
    pub const ALL: [Self; 5] = [Self::Generic, Self::Fastly, Self::Cloudflare, Self::Akamai, Self::Rfc9213];

    /// Returns the position of this dialect in [`ALL`](Self::ALL).
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// Returns the targeted field (RFC 9213) that edgeshim writes for this CDN, or `None` if this CDN has no such
    /// field.
    pub fn targeted_field(self) -> Option<&'static HeaderName> {
        match self {
            Self::Generic | Self::Akamai => None,
            Self::Fastly => Some(&SURROGATE_CONTROL),
            Self::Cloudflare => Some(&CLOUDFLARE_CDN_CACHE_CONTROL),
            Self::Rfc9213 => Some(&CDN_CACHE_CONTROL),
        }
    }

    /// Returns the targeted fields that this CDN obeys before Cache-Control, the most important field first. Only the
    /// first of these fields that has a directive counts.
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

    /// Returns the field that this CDN obeys before Cache-Control, if the field has its own syntax. edgeshim never adds
    /// this field. If the origin sends this field, the mode of the class decides whether edgeshim removes the field, or
    /// passes it on without the directives that a guard forbids.
    pub fn passed_field(self) -> Option<&'static HeaderName> {
        (self == Self::Akamai).then_some(&EDGE_CONTROL)
    }

    /// Returns whether the CDN obeys `max-age` even if the response also has `no-cache`. If a response has no lifetime,
    /// such a CDN stores the response for an hour.
    pub fn ignores_no_cache(self) -> bool {
        self == Self::Fastly
    }

    /// Returns whether Surrogate-Control can be sent to the CDN. Cloudflare ignores Cache-Control if the response also
    /// has Surrogate-Control, even a Surrogate-Control without lifetimes.
    pub fn accepts_surrogate_control(self) -> bool {
        self != Self::Cloudflare
    }

    /// Returns the lifetimes for a class's `ttl` and `edge_ttl`, both in seconds. Returns `None` if the class sets
    /// neither.
    ///
    /// If the class sets only `edge_ttl`, browsers get `max-age=0`. The reason: an operator who sets only `edge_ttl`
    /// relies on purges. Without `max-age`, each browser could choose a lifetime from Last-Modified (RFC 9111 §4.2.2),
    /// and a purge does not remove the copy in a browser.
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

    /// Writes `no-store` into a response that edgeshim makes itself: into Cache-Control and, if the CDN has a
    /// targeted field, into that field.
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
    fn lifetimes_when_class_sets_ttls_then_use_the_fields_of_the_dialect() {
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
    fn dialects_when_listed_then_indices_match_and_written_fields_are_read_first() {
        for (index, dialect) in Dialect::ALL.into_iter().enumerate() {
            assert_eq!(dialect as usize, index);
            assert_eq!(
                dialect.reads().first().copied(),
                dialect.targeted_field(),
                "edgeshim must write the field that the CDN reads first"
            );
        }
    }

    #[test]
    fn response_when_storing_is_forbidden_then_each_written_field_is_no_store() {
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
