//! Ready gzip twins of the origin's bodies, which outlive the response that made them.
//!
//! Every POP of every CDN pulls the same object. A twin is found by host, target, strong entity tag and length, and is used only where the
//! origin's bytes, all of them read, have the checksum of those that it was made from. Two bodies of one length under one strong tag are
//! an origin's mistake, and CRC-32 finds it out but for one case in four thousand million, unless somebody made the bytes so.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::ids::label;

/// Longer bodies are compressed each time: they would be held back too long for the comparison.
pub(super) const LONGEST: u64 = 4 * 1024 * 1024;
/// What a twin costs beside its bytes.
const OVERHEAD_BYTES: u64 = 128;

label! {
    /// Result of a lookup in the gzip cache: the label `result` of `edgeshim_gzip_twins_total`.
    pub(super) enum Found {
        /// Its twin.
        Hit = "hit",
        /// No twin; or none that could be compared, since the body came too slowly or too much is on loan.
        Miss = "miss",
        /// A twin of other bytes than the origin's.
        Changed = "changed",
    }
}

/// Which body: a hash of host and target, of the tag, and the length. Another body with the same key has another checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    hash: u64,
    pub(super) length: u64,
}

/// A body's gzip form.
#[derive(Debug, Clone)]
pub(super) struct Twin {
    /// One whole member.
    pub(super) gzip: Bytes,
    /// CRC-32 of what it was made from.
    pub(super) crc: u32,
}

#[derive(Debug, Clone)]
struct Weigh;

impl Weighter<Key, Twin> for Weigh {
    fn weight(&self, _: &Key, twin: &Twin) -> u64 {
        twin.gzip.len() as u64 + OVERHEAD_BYTES
    }
}

/// The store, shared by all workers.
#[derive(Debug)]
pub(super) struct Twins {
    cache: Cache<Key, Twin, Weigh>,
    capacity: u64,
    /// Bytes of bodies that are held for a comparison, and of twins in the making.
    on_loan: AtomicU64,
    hasher: RandomState,
}

impl Twins {
    /// A store of at most `capacity` bytes; as many again may be on loan.
    pub(super) fn new(capacity: u64) -> Self {
        // Of the length that style sheets and pages have when they are compressed; it only sets the first size of a table.
        let items = usize::try_from(capacity / (16 * 1024)).unwrap_or(usize::MAX).clamp(16, 65_536);
        Self {
            cache: Cache::with_weighter(items, capacity, Weigh),
            capacity,
            on_loan: AtomicU64::new(0),
            hasher: RandomState::new(),
        }
    }

    /// The first half of a key.
    pub(super) fn target(&self, host: &[u8], target: &[u8]) -> u64 {
        self.hasher.hash_one((host, target))
    }

    /// A whole key.
    pub(super) fn key(&self, target: u64, tag: &[u8], length: u64) -> Key {
        Key { hash: self.hasher.hash_one((target, tag)), length }
    }

    /// The twin, if there is one.
    pub(super) fn find(&self, key: &Key) -> Option<Twin> {
        self.cache.get(key)
    }

    /// Keeps a twin, in the place of another of the same key.
    fn keep(&self, key: Key, twin: Twin) {
        self.cache.insert(key, twin);
    }
}

/// Memory that a body in flight has from the store's bound; given back when dropped.
#[derive(Debug)]
pub(super) struct Loan {
    twins: Arc<Twins>,
    bytes: u64,
}

impl Loan {
    /// None where too much is on loan.
    pub(super) fn take(twins: &Arc<Twins>, bytes: u64) -> Option<Self> {
        let mut loan = Self { twins: Arc::clone(twins), bytes: 0 };
        loan.grow(bytes).then_some(loan)
    }

    fn grow(&mut self, by: u64) -> bool {
        let before = self.twins.on_loan.fetch_add(by, Ordering::Relaxed);
        self.bytes += by;
        before + by <= self.twins.capacity
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.twins.on_loan.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A twin in the making.
#[derive(Debug)]
pub(super) struct Draft {
    loan: Loan,
    key: Key,
    gzip: BytesMut,
}

impl Draft {
    /// Nothing yet of the twin of that key's body.
    pub(super) fn new(twins: &Arc<Twins>, key: Key) -> Option<Self> {
        Some(Self { loan: Loan::take(twins, 0)?, key, gzip: BytesMut::new() })
    }

    /// Adds what went out. False: the store has no room for it, or the twin would fill more than an eighth of it.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = self.gzip.len() as u64 + bytes.len() as u64 <= self.loan.twins.capacity / 8;
        if !fits || !self.loan.grow(bytes.len() as u64) {
            return false;
        }
        self.gzip.extend_from_slice(bytes);
        true
    }

    /// Keeps the twin of a whole body of `length` bytes.
    pub(super) fn finish(self, length: u64, crc: u32) {
        if length == self.key.length {
            // Copied to its exact size: it will be there for long.
            let gzip = Bytes::from(self.gzip.to_vec().into_boxed_slice());
            self.loan.twins.keep(self.key, Twin { gzip, crc });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(twins: &Arc<Twins>, target: u64, length: usize) -> bool {
        let key = twins.key(target, b"tag", length as u64);
        let mut draft = Draft::new(twins, key).unwrap();
        let fits = draft.push(&vec![1; length]);
        if fits {
            draft.finish(length as u64, 7);
        }
        fits
    }

    #[test]
    fn a_twin_when_kept_then_is_found_by_everything_that_makes_its_key() {
        let twins = Arc::new(Twins::new(1 << 20));
        let target = twins.target(b"host", b"/a?b");
        assert!(keep(&twins, target, 100));
        assert_eq!(twins.find(&twins.key(target, b"tag", 100)).unwrap().gzip.len(), 100);
        assert!(twins.find(&twins.key(target, b"other", 100)).is_none());
        assert!(twins.find(&twins.key(target, b"tag", 101)).is_none());
        assert!(twins.find(&twins.key(twins.target(b"host", b"/a"), b"tag", 100)).is_none());
        assert!(twins.find(&twins.key(twins.target(b"other", b"/a?b"), b"tag", 100)).is_none());
        assert_eq!(twins.on_loan.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_draft_when_its_body_was_shorter_then_is_not_kept() {
        let twins = Arc::new(Twins::new(1 << 20));
        let key = twins.key(1, b"tag", 100);
        let mut draft = Draft::new(&twins, key).unwrap();
        assert!(draft.push(b"some"));
        draft.finish(99, 7);
        assert!(twins.find(&key).is_none());
    }

    #[test]
    fn the_store_when_more_is_kept_than_it_holds_then_stays_within_its_bound() {
        let twins = Arc::new(Twins::new(1 << 20));
        for target in 0..1000 {
            assert!(keep(&twins, target, 10_000));
        }
        assert!(twins.cache.weight() <= 1 << 20, "{}", twins.cache.weight());
        assert!(twins.cache.len() > 50, "{}", twins.cache.len());
        assert!(!keep(&twins, 0, (1 << 17) + 1), "an eighth is the most");
    }

    #[test]
    fn loans_when_they_reach_the_bound_then_no_more_are_given() {
        let twins = Arc::new(Twins::new(1000));
        let first = Loan::take(&twins, 600).unwrap();
        assert!(Loan::take(&twins, 600).is_none());
        let second = Loan::take(&twins, 400).unwrap();
        drop((first, second));
        assert_eq!(twins.on_loan.load(Ordering::Relaxed), 0);
    }
}
