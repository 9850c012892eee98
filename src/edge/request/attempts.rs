//! Detects retries of pulls: a CDN gives a retry the request id of the first attempt.
//!
//! A table has a fixed number of slots, and each slot stores the hash of one pull. The hash of a new pull decides which
//! slot the pull uses. If that slot has the same hash already, the pull is a retry; otherwise the new hash replaces the
//! old hash. So detection costs one hash and one atomic exchange, at any load. A retry is missed if another pull has
//! used the slot since the first attempt. A first attempt counts as a retry only if its 64-bit hash is equal to the
//! hash in the slot by chance.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderName, request};

use crate::wire::names::RANGE;

/// The number of slots. At ten thousand pulls per second, a slot keeps the hash of a pull for about six seconds on
/// average.
const SLOTS: usize = 1 << 16;

/// The hashes of recent pulls.
#[derive(Debug)]
pub(crate) struct Attempts {
    seen: Box<[AtomicU64]>,
    hashes: RandomState,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { seen: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(), hashes: RandomState::new() }
    }
}

impl Attempts {
    /// Notes a pull whose request id is in `field`. Returns whether a recent pull had the same id, method, target and
    /// range.
    pub(crate) fn is_again(&self, field: &HeaderName, head: &request::Parts) -> bool {
        let Some(id) = head.headers.get(field).filter(|id| !id.is_empty()) else { return false };
        let mut hasher = self.hashes.build_hasher();
        id.as_bytes().hash(&mut hasher);
        head.method.hash(&mut hasher);
        head.uri.path_and_query().map(http::uri::PathAndQuery::as_str).hash(&mut hasher);
        // A CDN that fetches a file in slices uses one id for all slices, so the range is part of the hash.
        head.headers.get(RANGE).map(http::HeaderValue::as_bytes).hash(&mut hasher);
        let hash = hasher.finish();
        let slot = usize::try_from(hash).unwrap_or(usize::MAX) % self.seen.len();
        // No other memory depends on this value, so relaxed ordering is enough.
        self.seen.get(slot).is_some_and(|seen| seen.swap(hash, Ordering::Relaxed) == hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::names::X_REQUEST_ID;

    #[test]
    fn pull_when_id_method_target_and_range_repeat_then_is_a_retry() {
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
        for without_id in [&[(&X_REQUEST_ID, "")][..], &[]] {
            assert!(!again(without_id, "GET", "/x") && !again(without_id, "GET", "/x"));
        }
    }
}
