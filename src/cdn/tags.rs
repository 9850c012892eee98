//! Where a CDN reads cache tags.

use http::HeaderName;

/// Where a CDN reads cache tags.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TagRule {
    /// Nothing is known of it: what the origin says stays.
    #[default]
    Unchanged,
    /// It has none.
    Dropped,
    /// In a field of its own.
    Field {
        /// The field.
        name: HeaderName,
        /// What stands between two tags.
        delimiter: u8,
        /// The most tags that it takes.
        max_tags: Option<usize>,
        /// The longest tag, in bytes.
        max_tag_bytes: Option<usize>,
        /// The longest field, in bytes.
        max_bytes: Option<usize>,
        /// Whether `a` and `A` are two tags.
        case_sensitive: bool,
    },
}
