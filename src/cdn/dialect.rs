//! How one CDN wants its lifetimes told.
//!
//! Pure knowledge: which directives and fields carry a class's `ttl` and `edge_ttl`. Which dialect a provider speaks is its preset's
//! business, when a lifetime applies is the `cache_control` layer's.

use http::HeaderName;

use crate::wire::names::{CDN_CACHE_CONTROL, CLOUDFLARE_CDN_CACHE_CONTROL, SURROGATE_CONTROL};

/// The header fields in which one CDN wants its lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Dialect {
    /// Cache-Control alone, the lifetime of shared caches as `s-maxage` (RFC 9111 §5.2.2.10).
    #[default]
    Generic,
    /// Surrogate-Control, by whose lifetimes alone it acts.
    Fastly,
    /// Cloudflare-CDN-Cache-Control.
    Cloudflare,
    /// Cache-Control as [`Generic`](Self::Generic), and a Vary that keeps nothing out but where the body is coded.
    Akamai,
    /// CDN-Cache-Control (RFC 9213).
    Rfc9213,
}

/// The lifetimes that go into Cache-Control, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// `max-age`.
    pub max_age: u64,
    /// `s-maxage`, where shared caches get a lifetime of their own.
    pub s_maxage: Option<u64>,
}

impl Dialect {
    /// The field in which its own lifetime goes; none: Cache-Control's s-maxage.
    pub fn field(self) -> Option<&'static HeaderName> {
        match self {
            Self::Generic | Self::Akamai => None,
            Self::Fastly => Some(&SURROGATE_CONTROL),
            Self::Cloudflare => Some(&CLOUDFLARE_CDN_CACHE_CONTROL),
            Self::Rfc9213 => Some(&CDN_CACHE_CONTROL),
        }
    }

    /// What Cache-Control says for a class's `ttl` and `edge_ttl` (seconds); `None` where the class sets neither.
    ///
    /// With `edge_ttl` alone browsers are told `max-age=0`. Who sets only the edge's lifetime relies on purges, and a bare
    /// `s-maxage` would let each browser invent a lifetime from Last-Modified (RFC 9111 §4.2.2) that no purge reaches.
    pub fn lifetimes(self, ttl: Option<u64>, edge_ttl: Option<u64>) -> Option<Lifetimes> {
        match (ttl, edge_ttl) {
            (None, None) => None,
            (ttl, s_maxage) => Some(Lifetimes { max_age: ttl.unwrap_or(0), s_maxage }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Dialect, Lifetimes};

    #[test]
    fn lifetimes_of_generic_when_each_combination_is_set() {
        let generic = Dialect::Generic;
        assert_eq!(generic.lifetimes(None, None), None);
        assert_eq!(generic.lifetimes(Some(5), None), Some(Lifetimes { max_age: 5, s_maxage: None }));
        assert_eq!(generic.lifetimes(Some(5), Some(9)), Some(Lifetimes { max_age: 5, s_maxage: Some(9) }));
        assert_eq!(generic.lifetimes(None, Some(9)), Some(Lifetimes { max_age: 0, s_maxage: Some(9) }));
    }
}
