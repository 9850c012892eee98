//! The store of twins. A twin has the compressed forms of one of the origin's bodies. A twin stays in memory after
//! the response for which the twin was made.
//!
//! Many points of presence of several CDNs pull the same object, so one twin serves many pulls. A twin is found by
//! host, target, strong entity tag and length. The twin is used only if the origin's whole body has the same CRC-32 as
//! the body from which the twin was made. If an origin sends two different bodies with the same length and the same
//! strong tag, that is an error of the origin. CRC-32 misses this error in about one of 2^32 cases. CRC-32 also misses
//! this error if the two bodies were deliberately made to have the same CRC-32.
//!
//! After a pull has got its body from a twin, `ripener.rs` compresses the body again: to a smaller gzip member and to
//! brotli.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::ids::label;

/// The longest body that can have a twin, in bytes. For a longer body, the head would wait too long for the comparison.
pub(super) const LONGEST: u64 = 4 * 1024 * 1024;
/// The memory that a twin needs in addition to its compressed bytes, in bytes.
const OVERHEAD_BYTES: u64 = 192;

label! {
    /// The result of a lookup in the store of twins: the label `result` of `edgeshim_gzip_twins_total`.
    pub(super) enum Found {
        /// The twin was used.
        Hit = "hit",
        /// There is no twin, or the body was not compared with the twin. A body is not compared if the body fails, if
        /// the body arrives too slowly, or if bodies in flight use too much memory.
        Miss = "miss",
        /// There is a twin, but the origin has now sent a body that differs from the body of the twin.
        Changed = "changed",
    }
}

/// The key of a twin. `hash` is computed from host, target and tag. `length` is the length of the body before
/// compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    hash: u64,
    pub(super) length: u64,
}

/// Whether a twin has been compressed again (`ripener.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The twin is not ripe, and the ripener does not have its key. The twin has the gzip form from its first response,
    /// and can have the brotli form from an incomplete attempt of the ripener.
    Green,
    /// The ripener has the key of the twin: in its queue, or while it compresses the body of the twin. Further pulls do
    /// not put the key into the queue again.
    Queued,
    /// The ripener has finished. The twin has the smallest forms that the ripener could make, and the ripener never
    /// compresses the body again.
    Ripe,
}

/// The compressed forms of a body.
#[derive(Debug, Clone)]
pub(super) struct Twin {
    /// One complete gzip member (RFC 1952).
    pub(super) gzip: Bytes,
    /// A complete brotli stream (RFC 7932). `None` if the ripener has not made a stream that is smaller than the first
    /// gzip member.
    pub(super) br: Option<Bytes>,
    pub(super) stage: Stage,
    /// The CRC-32 of the body before compression.
    pub(super) crc: u32,
}

impl Twin {
    /// Returns the length of all forms.
    fn bytes(&self) -> u64 {
        (self.gzip.len() + self.br.as_ref().map_or(0, Bytes::len)) as u64
    }
}

#[derive(Debug, Clone)]
struct Weigh;

impl Weighter<Key, Twin> for Weigh {
    fn weight(&self, _: &Key, twin: &Twin) -> u64 {
        twin.bytes() + OVERHEAD_BYTES
    }
}

/// The store, which all workers share.
#[derive(Debug)]
pub(super) struct Twins {
    cache: Cache<Key, Twin, Weigh>,
    capacity: u64,
    /// The sum of all loans, in bytes (see [`Loan`]).
    on_loan: AtomicU64,
    hasher: RandomState,
}

impl Twins {
    /// Creates a store of at most `capacity` bytes. Bodies in flight can use another `capacity` bytes.
    pub(super) fn new(capacity: u64) -> Self {
        // 16 KiB is the compressed size of a usual page or style sheet. This estimate only sets the initial size of a
        // table.
        let items = usize::try_from(capacity / (16 * 1024)).unwrap_or(usize::MAX).clamp(16, 65_536);
        Self {
            cache: Cache::with_weighter(items, capacity, Weigh),
            capacity,
            on_loan: AtomicU64::new(0),
            hasher: RandomState::new(),
        }
    }

    /// Returns the hash of host and target, from which [`key`](Self::key) computes a key.
    pub(super) fn target(&self, host: &[u8], target: &[u8]) -> u64 {
        self.hasher.hash_one((host, target))
    }

    pub(super) fn key(&self, target: u64, tag: &[u8], length: u64) -> Key {
        Key { hash: self.hasher.hash_one((target, tag)), length }
    }

    pub(super) fn find(&self, key: &Key) -> Option<Twin> {
        self.cache.get(key)
    }

    /// Removes a twin that is damaged, or whose body differs from the origin's current body.
    pub(super) fn remove(&self, key: &Key) {
        self.cache.remove(key);
    }

    /// Returns the size of the store, which is also the limit for bodies in flight, in bytes.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Stores a twin. A stored twin with the same key is replaced.
    fn store(&self, key: Key, twin: Twin) {
        self.cache.insert(key, twin);
    }

    /// Changes a stored twin, if the twin was made from a body with the checksum `crc` and has the stage `stage`.
    /// Returns false if there is no such twin, or if the changed twin would fill more than an eighth of the store. If a
    /// worker stores another twin at the same moment, one of the two twins stays. Each pull compares the checksum, so
    /// the pull gets correct bytes in both cases.
    pub(super) fn change(&self, key: &Key, crc: u32, stage: Stage, change: impl FnOnce(&mut Twin)) -> bool {
        let Some(mut twin) = self.cache.peek(key).filter(|twin| twin.crc == crc && twin.stage == stage) else {
            return false;
        };
        change(&mut twin);
        let fits = twin.bytes() <= self.capacity / 8;
        if fits {
            self.store(*key, twin);
        }
        fits
    }
}

/// The memory of one body in flight: of its unfinished twin, of the body while it waits for the comparison with its
/// twin, or of the ripener's work on the body. Until the loan is dropped, this memory counts against the store's limit
/// for bodies in flight.
#[derive(Debug)]
pub(super) struct Loan {
    twins: Arc<Twins>,
    bytes: u64,
}

impl Loan {
    /// Takes a loan of `bytes` bytes. Returns `None` if bodies in flight would then use more memory than their limit,
    /// which is the capacity of the store.
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

/// An unfinished twin.
#[derive(Debug)]
pub(super) struct Draft {
    loan: Loan,
    key: Key,
    gzip: BytesMut,
}

impl Draft {
    pub(super) fn new(twins: &Arc<Twins>, key: Key) -> Option<Self> {
        Some(Self { loan: Loan::take(twins, 0)?, key, gzip: BytesMut::new() })
    }

    /// Adds output of the compressor. Returns false if bodies in flight use too much memory, or if the twin would fill
    /// more than an eighth of the store.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = self.gzip.len() as u64 + bytes.len() as u64 <= self.loan.twins.capacity / 8;
        if !fits || !self.loan.grow(bytes.len() as u64) {
            return false;
        }
        self.gzip.extend_from_slice(bytes);
        true
    }

    /// Stores the twin, if the body had the length in the key. `length` and `crc` are the length and the CRC-32 of the
    /// body before compression. A stored twin of the same body stays, because the ripener may have made it smaller. Two
    /// pulls can compress the same body, for example if the second pull begins before the first has ended.
    pub(super) fn finish(self, length: u64, crc: u32) {
        let is_stored = || self.loan.twins.cache.peek(&self.key).is_some_and(|twin| twin.crc == crc);
        if length == self.key.length && !is_stored() {
            // The bytes are copied to a buffer of the exact size, because the twin stays in memory for a long time.
            let gzip = Bytes::from(self.gzip.to_vec().into_boxed_slice());
            self.loan.twins.store(self.key, Twin { gzip, br: None, stage: Stage::Green, crc });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(twins: &Arc<Twins>, target: u64, length: usize) -> bool {
        let key = twins.key(target, b"tag", length as u64);
        let mut draft = Draft::new(twins, key).unwrap();
        let fits = draft.push(&vec![1; length]);
        if fits {
            draft.finish(length as u64, 7);
        }
        fits
    }

    #[test]
    fn twin_when_stored_then_is_found_only_by_the_complete_key() {
        let twins = Arc::new(Twins::new(1 << 20));
        let target = twins.target(b"host", b"/a?b");
        assert!(store(&twins, target, 100));
        assert_eq!(twins.find(&twins.key(target, b"tag", 100)).unwrap().gzip.len(), 100);
        assert!(twins.find(&twins.key(target, b"other", 100)).is_none());
        assert!(twins.find(&twins.key(target, b"tag", 101)).is_none());
        assert!(twins.find(&twins.key(twins.target(b"host", b"/a"), b"tag", 100)).is_none());
        assert!(twins.find(&twins.key(twins.target(b"other", b"/a?b"), b"tag", 100)).is_none());
        assert_eq!(twins.on_loan.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn draft_when_body_is_shorter_than_the_length_in_the_key_then_is_not_stored() {
        let twins = Arc::new(Twins::new(1 << 20));
        let key = twins.key(1, b"tag", 100);
        let mut draft = Draft::new(&twins, key).unwrap();
        assert!(draft.push(b"some"));
        draft.finish(99, 7);
        assert!(twins.find(&key).is_none());
    }

    #[test]
    fn draft_when_twin_of_the_same_body_is_stored_then_that_twin_stays() {
        let twins = Arc::new(Twins::new(1 << 20));
        let key = twins.key(1, b"tag", 100);
        let finish = |crc| {
            let mut draft = Draft::new(&twins, key).unwrap();
            assert!(draft.push(b"gzip"));
            draft.finish(100, crc);
        };
        finish(7);
        let br = Some(Bytes::from_static(b"br"));
        assert!(twins.change(&key, 7, Stage::Green, |twin| (twin.br, twin.stage) = (br.clone(), Stage::Ripe)));
        finish(7);
        let twin = twins.find(&key).unwrap();
        assert_eq!((twin.stage, twin.br), (Stage::Ripe, br));
        finish(8);
        let twin = twins.find(&key).unwrap();
        assert_eq!((twin.stage, twin.br, twin.crc), (Stage::Green, None, 8), "the body has changed");
    }

    #[test]
    fn store_when_full_then_stays_within_the_limit() {
        let twins = Arc::new(Twins::new(1 << 20));
        for target in 0..1000 {
            assert!(store(&twins, target, 10_000));
        }
        assert!(twins.cache.weight() <= 1 << 20, "the twins use {} bytes", twins.cache.weight());
        assert!(twins.cache.len() > 50, "the store has only {} twins", twins.cache.len());
        assert!(!store(&twins, 0, (1 << 17) + 1), "a twin must not use more than an eighth of the store");
    }

    #[test]
    fn loan_when_limit_would_be_exceeded_then_is_refused() {
        let twins = Arc::new(Twins::new(1000));
        let first = Loan::take(&twins, 600).unwrap();
        assert!(Loan::take(&twins, 600).is_none());
        let second = Loan::take(&twins, 400).unwrap();
        drop((first, second));
        assert_eq!(twins.on_loan.load(Ordering::Relaxed), 0);
    }
}
