//! What each entity tag stood for when the origin last sent it: a table of fixed size, shared by the workers, without a lock.
//!
//! A 304 seldom gives type or coding, and the tag that comes back in a request does not say who made it weak. Both are answered from here.
//! A tag that is not in the table, after a start or when another has taken its place, costs at most a 304: see `policy.rs` for what is
//! done then.

use std::sync::atomic::{AtomicU32, Ordering};

/// Tags that are remembered; 128 KiB.
const TAGS: usize = 32_768;
/// The bits of an entry in which the kind stands.
const KIND: u32 = 0b111;

/// What a tag stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The origin itself sends it weak.
    Weak = 1,
    /// The origin sends it strong, and a client that takes gzip has it weak from here.
    Compressed,
    /// The origin sends it strong, and so it goes on with `Vary: Accept-Encoding`: it has a coding of the origin's, or was too short.
    Kept,
    /// The origin sends it strong, with gzip, which is undone for clients that do not take it: they have it weak from here.
    Inflated,
    /// The origin sends it strong, and so it goes on without Vary: of another type, too short by its length, not to be transformed.
    Fixed,
    /// The origin sends it strong for bodies of which several of these are true, such as its own br beside identity bytes.
    Mixed,
}

impl Kind {
    /// The kind in an entry.
    fn of(entry: u32) -> Option<Self> {
        let all = [Self::Weak, Self::Compressed, Self::Kept, Self::Inflated, Self::Fixed, Self::Mixed];
        all.into_iter().find(|kind| *kind as u32 == entry & KIND)
    }

    /// What stands for both.
    fn and(self, earlier: Self) -> Self {
        let both_strong = self != Self::Weak && earlier != Self::Weak;
        if both_strong && self != earlier { Self::Mixed } else { self }
    }
}

/// The table: a part of each hash of target and tag, and its kind, at the place that another part gives.
///
/// The hash is two checksums, mixed: the origin chooses the tags, and what it could gain by a collision is a wrong tag of its own.
#[derive(Debug)]
pub(super) struct Tags {
    seen: Box<[AtomicU32]>,
}

impl Tags {
    pub(super) fn new() -> Self {
        Self { seen: (0..TAGS).map(|_| AtomicU32::new(0)).collect() }
    }

    /// The tag's place, and what stands there for it without its kind.
    #[allow(clippy::cast_possible_truncation, reason = "parts of a hash")]
    fn place(&self, target: u32, opaque: &[u8]) -> (Option<&AtomicU32>, u32) {
        let both = u64::from(target) << 32 | u64::from(crc32fast::hash(opaque));
        // Fibonacci hashing: the high bits depend on all of it.
        let hash = both.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (self.seen.get((hash >> 48) as usize % TAGS), (hash >> 16) as u32 & !KIND)
    }

    /// Remembers a tag of a target by its opaque part.
    pub(super) fn note(&self, target: u32, opaque: &[u8], kind: Kind) {
        let (place, mark) = self.place(target, opaque);
        let Some(place) = place else { return };
        let seen = place.load(Ordering::Relaxed);
        if seen == mark | kind as u32 {
            return;
        }
        let kind = if seen & !KIND == mark { Kind::of(seen).map_or(kind, |earlier| kind.and(earlier)) } else { kind };
        place.store(mark | kind as u32, Ordering::Relaxed);
    }

    /// What it stands for, where that is remembered.
    pub(super) fn kind(&self, target: u32, opaque: &[u8]) -> Option<Kind> {
        let (place, mark) = self.place(target, opaque);
        let entry = place?.load(Ordering::Relaxed);
        Kind::of(entry).filter(|_| entry & !KIND == mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_when_noted_then_known_by_target_and_kind() {
        let tags = Tags::new();
        assert_eq!(tags.kind(1, b"a"), None);
        for (noted, known) in [
            (Kind::Weak, Kind::Weak),
            (Kind::Compressed, Kind::Compressed),
            (Kind::Compressed, Kind::Compressed),
            (Kind::Kept, Kind::Mixed),
            (Kind::Compressed, Kind::Mixed),
            (Kind::Weak, Kind::Weak),
            (Kind::Fixed, Kind::Fixed),
            (Kind::Inflated, Kind::Mixed),
        ] {
            tags.note(1, b"a", noted);
            assert_eq!(tags.kind(1, b"a"), Some(known), "{noted:?}");
        }
        assert_eq!(tags.kind(1, b"b"), None);
        assert_eq!(tags.kind(2, b"a"), None);
    }

    #[test]
    fn tags_when_many_are_noted_then_memory_stays_and_nothing_else_is_known() {
        let tags = Tags::new();
        for number in 0..100_000_u32 {
            tags.note(1, &number.to_le_bytes(), Kind::Weak);
        }
        assert_eq!(tags.seen.len(), TAGS);
        let mistaken = (100_000..200_000_u32).filter(|number| tags.kind(1, &number.to_le_bytes()).is_some()).count();
        assert!(mistaken <= 1, "{mistaken} tags that were never noted");
    }
}
