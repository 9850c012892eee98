//! Tells a pull that was tried again from a first one, by the id that its CDN gives both.
//!
//! A table of fixed size holds the hash of the last pull that fell on each of its places, so that telling costs a hash and an exchange
//! of one word, whatever the traffic. A pull that was pushed out by another is not told; a first pull is never taken for a second.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, Uri};

use crate::wire::names::RANGE;

/// Places of the table: at ten thousand pulls a second, one is remembered for some six seconds.
const PLACES: usize = 1 << 16;

/// The pulls that were seen of late.
#[derive(Debug)]
pub struct Attempts {
    seen: Box<[AtomicU64]>,
    hashes: RandomState,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { seen: (0..PLACES).map(|_| AtomicU64::new(0)).collect(), hashes: RandomState::new() }
    }
}

impl Attempts {
    /// Notes a pull with the id in `field`; whether the same one, for the same bytes of the same target, was there before.
    pub fn is_again(&self, field: &HeaderName, headers: &HeaderMap, target: &Uri) -> bool {
        let Some(id) = headers.get(field).filter(|id| !id.is_empty()) else { return false };
        let mut hasher = self.hashes.build_hasher();
        id.as_bytes().hash(&mut hasher);
        target.path_and_query().map(http::uri::PathAndQuery::as_str).hash(&mut hasher);
        // A CDN that fetches a file in slices asks for all of them with one id.
        headers.get(RANGE).map(http::HeaderValue::as_bytes).hash(&mut hasher);
        let hash = hasher.finish();
        let place = usize::try_from(hash).unwrap_or(usize::MAX) % self.seen.len();
        // Nothing else is published by it, so no order is asked for.
        self.seen.get(place).is_some_and(|seen| seen.swap(hash, Ordering::Relaxed) == hash)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::wire::names::X_REQUEST_ID;

    #[test]
    fn pull_when_its_id_comes_again_for_the_same_bytes_is_told() {
        let attempts = Attempts::default();
        let again = |id: &'static str, target: &'static str, range: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(&X_REQUEST_ID, HeaderValue::from_static(id));
            headers.extend(range.map(|range| (RANGE, HeaderValue::from_static(range))));
            attempts.is_again(&X_REQUEST_ID, &headers, &Uri::from_static(target))
        };
        assert!(!again("a", "/x", None));
        assert!(again("a", "/x", None));
        assert!(again("a", "/x", None));
        for (id, target, range) in
            [("b", "/x", None), ("a", "/y", None), ("a", "/x", Some("bytes=0-9")), ("a", "/x", Some("bytes=10-19"))]
        {
            assert!(!again(id, target, range), "{id} {target} {range:?}");
        }
        assert!(!again("", "/x", None) && !again("", "/x", None));
        assert!(!attempts.is_again(&RANGE, &HeaderMap::new(), &Uri::from_static("/x")));
    }
}
