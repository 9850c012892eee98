//! The kind of each entity tag when the origin last sent it: a table of fixed size, shared by the workers, without a
//! lock.
//!
//! A 304 seldom has a type or a coding, and a weak tag in a request does not show whether the origin or this layer made
//! it weak. The table has both facts. If a tag is missing, after a start or because another tag replaced it,
//! `decide.rs` and `request_facts.rs` guess; a wrong guess costs a 304 at most.

use std::sync::atomic::{AtomicU32, Ordering};

/// The size of the table, in tags: 128 KiB.
const TAGS: usize = 32_768;
/// The bits of an entry that hold the kind.
const KIND: u32 = 0b111;

/// How the origin sends a tag, and how this layer sends it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TagKind {
    /// The origin sends it weak.
    Weak = 1,
    /// Strong from the origin. A client that accepts gzip gets it weak.
    Compressed,
    /// Strong, and sent on unchanged with `Vary: Accept-Encoding`: the origin coded the body, or the body was too
    /// short.
    Kept,
    /// Strong from the origin, with gzip. A client that does not accept gzip gets the body inflated, and the tag weak.
    Inflated,
    /// Strong, and sent on unchanged without Vary: another type, too short by its Content-Length, or `no-transform`.
    Fixed,
    /// Strong, for several bodies of different kinds, such as the origin's br and its identity bytes.
    Mixed,
}

impl TagKind {
    /// The kind in an entry.
    fn of(entry: u32) -> Option<Self> {
        let all = [Self::Weak, Self::Compressed, Self::Kept, Self::Inflated, Self::Fixed, Self::Mixed];
        all.into_iter().find(|kind| *kind as u32 == entry & KIND)
    }

    /// The combined kind of a tag that had the kind `earlier` before.
    fn and(self, earlier: Self) -> Self {
        let both_strong = self != Self::Weak && earlier != Self::Weak;
        if both_strong && self != earlier { Self::Mixed } else { self }
    }
}

/// The table. One part of the hash of target and tag gives the place; another part is stored there with the kind.
///
/// The hash is made of two mixed checksums. The origin chooses the tags: with a collision it can only get a wrong tag
/// for its own responses.
#[derive(Debug)]
pub(super) struct KnownTags {
    seen: Box<[AtomicU32]>,
}

impl KnownTags {
    pub(super) fn new() -> Self {
        Self { seen: (0..TAGS).map(|_| AtomicU32::new(0)).collect() }
    }

    /// The place of a tag, and its entry without the kind.
    #[allow(clippy::cast_possible_truncation, reason = "parts of a hash")]
    fn place(&self, target: u32, opaque: &[u8]) -> (Option<&AtomicU32>, u32) {
        let both = u64::from(target) << 32 | u64::from(crc32fast::hash(opaque));
        // Fibonacci hashing: the high bits depend on all bits.
        let hash = both.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (self.seen.get(usize::from((hash >> 48) as u16) % TAGS), (hash >> 16) as u32 & !KIND)
    }

    /// Stores the kind of a tag; `opaque` is its opaque part.
    pub(super) fn note(&self, target: u32, opaque: &[u8], kind: TagKind) {
        let (place, mark) = self.place(target, opaque);
        let Some(place) = place else { return };
        let seen = place.load(Ordering::Relaxed);
        if seen == mark | kind as u32 {
            return;
        }
        let kind =
            if seen & !KIND == mark { TagKind::of(seen).map_or(kind, |earlier| kind.and(earlier)) } else { kind };
        place.store(mark | kind as u32, Ordering::Relaxed);
    }

    /// The kind of a tag, if it is in the table.
    pub(super) fn kind(&self, target: u32, opaque: &[u8]) -> Option<TagKind> {
        let (place, mark) = self.place(target, opaque);
        let entry = place?.load(Ordering::Relaxed);
        TagKind::of(entry).filter(|_| entry & !KIND == mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_when_noted_then_known_by_target_and_kind() {
        let tags = KnownTags::new();
        assert_eq!(tags.kind(1, b"a"), None);
        for (noted, known) in [
            (TagKind::Weak, TagKind::Weak),
            (TagKind::Compressed, TagKind::Compressed),
            (TagKind::Compressed, TagKind::Compressed),
            (TagKind::Kept, TagKind::Mixed),
            (TagKind::Compressed, TagKind::Mixed),
            (TagKind::Weak, TagKind::Weak),
            (TagKind::Fixed, TagKind::Fixed),
            (TagKind::Inflated, TagKind::Mixed),
        ] {
            tags.note(1, b"a", noted);
            assert_eq!(tags.kind(1, b"a"), Some(known), "{noted:?}");
        }
        assert_eq!(tags.kind(1, b"b"), None);
        assert_eq!(tags.kind(2, b"a"), None);
    }

    #[test]
    fn tags_when_many_are_noted_then_size_stays_and_no_other_tag_is_known() {
        let tags = KnownTags::new();
        for number in 0..100_000_u32 {
            tags.note(1, &number.to_le_bytes(), TagKind::Weak);
        }
        assert_eq!(tags.seen.len(), TAGS);
        let mistaken = (100_000..200_000_u32).filter(|number| tags.kind(1, &number.to_le_bytes()).is_some()).count();
        assert!(mistaken <= 1, "{mistaken} tags that were never noted");
    }
}
