//! A table with the kinds of entity tags: how the origin sends a tag, and how this layer forwards the tag. The table
//! has a fixed size and no lock. All workers share the table.
//!
//! The table is needed for two reasons. First: a 304 seldom has a type or a coding. Second: a weak tag in a request
//! does not show whether the origin or this layer made the tag weak.
//!
//! After a start or a swap of the configuration, a tag is missing in the table until a response shows the kind of the
//! tag. A tag is also missing after another tag has replaced it. For a missing tag, `decide.rs` and
//! `request_facts.rs` guess. After a wrong guess a client gets, at worst, a 200 in place of a 304. For Akamai,
//! `vary_for_akamai` in `apply.rs` also guesses.

use std::sync::atomic::{AtomicU32, Ordering};

/// The largest number of tags in the table. The table needs 128 KiB of memory.
const TAGS: usize = 32_768;
/// The bits of an entry that contain the kind.
const KIND: u32 = 0b1111;

/// How the origin sends a tag, and how this layer forwards the tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TagKind {
    /// The origin sends the tag weak.
    Weak = 1,
    /// The origin sends the tag strong. A client that accepts gzip gets the body compressed and the tag weak.
    Compressed,
    /// The origin sends the tag strong. The body is too short to be compressed, but its length was not declared. So
    /// this layer forwards the tag unchanged and adds `Vary: Accept-Encoding`.
    Kept,
    /// The origin sends the tag strong, and the body in gzip. A client that does not accept gzip gets the body inflated
    /// and the tag weak.
    Inflated,
    /// The origin sends the tag strong. This layer forwards the tag unchanged and adds no Vary. Possible reasons: gzip
    /// is off, the type is not in `gzip.types`, Content-Length is too small, or Cache-Control contains `no-transform`.
    Fixed,
    /// The origin sends the tag strong, for several bodies of different kinds. Example: a body in br and the same body
    /// without a coding.
    Mixed,
    /// Like `Kept`, but the reason is that the origin has encoded the body in at least one response.
    KeptCoded,
    /// Like `Fixed`, but the origin has encoded the body in at least one response.
    FixedCoded,
}

impl TagKind {
    /// Returns the kind that an entry contains.
    fn of(entry: u32) -> Option<Self> {
        let known = [Self::Weak, Self::Compressed, Self::Kept, Self::Inflated, Self::Fixed, Self::Mixed];
        let coded = [Self::KeptCoded, Self::FixedCoded];
        known.into_iter().chain(coded).find(|kind| *kind as u32 == entry & KIND)
    }

    /// Returns the kind to store for a tag that now has the kind `self` and was stored with the kind `earlier`.
    fn and(self, earlier: Self) -> Self {
        match (self, earlier) {
            (Self::Kept, Self::KeptCoded) | (Self::KeptCoded, Self::Kept) => Self::KeptCoded,
            (Self::Fixed, Self::FixedCoded) | (Self::FixedCoded, Self::Fixed) => Self::FixedCoded,
            (Self::Weak, _) | (_, Self::Weak) => self,
            _ if self == earlier => self,
            _ => Self::Mixed,
        }
    }
}

/// The table. A hash is computed from the target and the tag. One part of the hash selects a place in the table.
/// Another part of the hash is stored at that place, together with the kind.
///
/// The hash mixes two checksums, so collisions can be constructed on purpose. But only the origin chooses tags, and a
/// collision can only cause a wrong tag or a wrong Vary in the origin's own responses.
#[derive(Debug)]
pub(super) struct KnownTags {
    seen: Box<[AtomicU32]>,
}

impl KnownTags {
    pub(super) fn new() -> Self {
        Self { seen: (0..TAGS).map(|_| AtomicU32::new(0)).collect() }
    }

    /// Returns the place of a tag in the table, and the tag's entry without the kind.
    #[allow(clippy::cast_possible_truncation, reason = "the casts cut parts out of a hash")]
    fn place(&self, target: u32, opaque: &[u8]) -> (Option<&AtomicU32>, u32) {
        let both = u64::from(target) << 32 | u64::from(crc32fast::hash(opaque));
        // This is Fibonacci hashing, in which the high bits of the product depend on all bits of the input.
        let hash = both.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (self.seen.get(usize::from((hash >> 48) as u16) % TAGS), (hash >> 16) as u32 & !KIND)
    }

    /// Stores the kind of a tag. `opaque` is the opaque part of the tag.
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

    /// Returns the kind of a tag, if the tag is in the table.
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
    fn table_when_tag_is_noted_then_returns_the_kind_for_tag_and_target() {
        let tags = KnownTags::new();
        assert_eq!(tags.kind(1, b"a"), None);
        for (noted, known) in [
            (TagKind::Weak, TagKind::Weak),
            (TagKind::Compressed, TagKind::Compressed),
            (TagKind::Compressed, TagKind::Compressed),
            (TagKind::Kept, TagKind::Mixed),
            (TagKind::Compressed, TagKind::Mixed),
            (TagKind::Weak, TagKind::Weak),
            (TagKind::Kept, TagKind::Kept),
            (TagKind::KeptCoded, TagKind::KeptCoded),
            (TagKind::Kept, TagKind::KeptCoded),
            (TagKind::Weak, TagKind::Weak),
            (TagKind::FixedCoded, TagKind::FixedCoded),
            (TagKind::Fixed, TagKind::FixedCoded),
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
    fn table_when_many_tags_are_noted_then_size_is_constant_and_false_hits_are_rare() {
        let tags = KnownTags::new();
        for number in 0..100_000_u32 {
            tags.note(1, &number.to_le_bytes(), TagKind::Weak);
        }
        assert_eq!(tags.seen.len(), TAGS);
        let mistaken = (100_000..200_000_u32).filter(|number| tags.kind(1, &number.to_le_bytes()).is_some()).count();
        assert!(mistaken <= 1, "the table returns a kind for {mistaken} tags that were never noted");
    }
}
