//! Tells a pull that was tried again from a first one, by the id that its CDN gives both.
//!
//! A table of fixed size holds the hash of the last pull that fell on each of its places, so that telling costs a hash and an exchange
//! of one word, whatever the traffic. A pull that was pushed out by another is not told; a first pull is never taken for a second.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderName, request};

use crate::wire::names::RANGE;

/// Places of the table: at ten thousand pulls a second, one is remembered for some six seconds.
const PLACES: usize = 1 << 16;

/// The pulls that were seen of late.
#[derive(Debug)]
pub(crate) struct Attempts {
    seen: Box<[AtomicU64]>,
    hashes: RandomState,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { seen: (0..PLACES).map(|_| AtomicU64::new(0)).collect(), hashes: RandomState::new() }
    }
}

impl Attempts {
    /// Notes a pull with the id in `field`; whether the same one, by the same method for the same bytes of the same target, was there
    /// before.
    pub(crate) fn is_again(&self, field: &HeaderName, head: &request::Parts) -> bool {
        let Some(id) = head.headers.get(field).filter(|id| !id.is_empty()) else { return false };
        let mut hasher = self.hashes.build_hasher();
        id.as_bytes().hash(&mut hasher);
        head.method.hash(&mut hasher);
        head.uri.path_and_query().map(http::uri::PathAndQuery::as_str).hash(&mut hasher);
        // A CDN that fetches a file in slices asks for all of them with one id.
        head.headers.get(RANGE).map(http::HeaderValue::as_bytes).hash(&mut hasher);
        let hash = hasher.finish();
        let place = usize::try_from(hash).unwrap_or(usize::MAX) % self.seen.len();
        // Nothing else is published by it, so no order is asked for.
        self.seen.get(place).is_some_and(|seen| seen.swap(hash, Ordering::Relaxed) == hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::names::X_REQUEST_ID;

    #[test]
    fn pull_when_its_id_comes_again_for_the_same_bytes_is_told() {
        let attempts = Attempts::default();
        let again = |fields: &[(&HeaderName, &str)], method: &str, target: &str| {
            let request = http::Request::builder().method(method).uri(target);
            let request = fields.iter().fold(request, |request, &(name, value)| request.header(name, value));
            attempts.is_again(&X_REQUEST_ID, &request.body(()).unwrap().into_parts().0)
        };
        let (a, b) = ((&X_REQUEST_ID, "a"), (&X_REQUEST_ID, "b"));
        assert!(!again(&[a], "GET", "/x"));
        assert!(again(&[a], "GET", "/x"));
        assert!(again(&[a], "GET", "/x"));
        for (fields, method, target) in [
            (&[b][..], "GET", "/x"),
            (&[a], "GET", "/y"),
            (&[a], "HEAD", "/x"),
            (&[a, (&RANGE, "bytes=0-9")], "GET", "/x"),
            (&[a, (&RANGE, "bytes=10-19")], "GET", "/x"),
        ] {
            assert!(!again(fields, method, target), "{fields:?} {method} {target}");
        }
        for nameless in [&[(&X_REQUEST_ID, "")][..], &[]] {
            assert!(!again(nameless, "GET", "/x") && !again(nameless, "GET", "/x"));
        }
    }
}
