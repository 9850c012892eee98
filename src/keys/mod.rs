//! The keys of the configuration, described once: a settings type lists its keys in [`Keys::keys`], and a [`Visitor`]
//! reads them from a file or shows what is in effect.
//!
//! Place: below every room that has settings, so that each layer declares its own keys next to their use. TOML and JSON
//! stay in `config`, which has both visitors.

pub(crate) mod grammar;
pub(crate) mod quantities;
pub(crate) mod urls;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The value, or a message that reads on from the value as typed: "is no duration; write …".
pub(crate) type Checked<T> = Result<T, String>;

/// Settings that are a block of the file, or a part of one. Their defaults are the file's.
pub(crate) trait Keys: Default {
    /// Shows each key with its value to the visitor, which may replace the value.
    fn keys<V: Visitor>(&mut self, visitor: &mut V);
}

/// Reads or shows keys, one call a key.
pub(crate) trait Visitor {
    /// `true` or `false`.
    fn flag(&mut self, name: &'static str, value: &mut bool);

    /// A whole number.
    fn integer<T>(&mut self, name: &'static str, range: RangeInclusive<i64>, value: &mut T)
    where
        T: Copy + TryFrom<i64> + TryInto<i64>;

    /// One of a fixed set of texts.
    fn choice<T: Copy + PartialEq>(&mut self, name: &'static str, choices: &[(&'static str, T)], value: &mut T);

    /// A text.
    fn text<T>(&mut self, name: &'static str, text: &Text<T>, value: &mut T);

    /// A text; an empty one means none.
    fn nonempty<T>(&mut self, name: &'static str, text: &Text<T>, value: &mut Option<T>);

    /// A text; a missing key means none.
    fn optional<T>(&mut self, name: &'static str, text: &Text<T>, value: &mut Option<T>);

    /// A list of texts.
    fn list<T>(&mut self, name: &'static str, text: &Text<T>, values: &mut Vec<T>);

    /// A list of texts; a missing key means none.
    fn optional_list<T>(&mut self, name: &'static str, text: &Text<T>, values: &mut Option<Vec<T>>);

    /// A block of texts under names that the operator chooses. `example` is one line of it.
    fn map(
        &mut self,
        name: &'static str,
        example: &str,
        texts: (&Text<String>, &Text<String>),
        values: &mut BTreeMap<String, String>,
    );

    /// The block `[name]`.
    fn block(&mut self, name: &'static str, keys: impl FnOnce(&mut Self));

    /// The blocks `[[name]]`.
    fn blocks<T: Keys>(&mut self, name: &'static str, values: &mut Vec<T>);
}

/// How a value is written as a text.
pub(crate) struct Text<T> {
    /// The example in messages, if the default is empty.
    pub example: &'static str,
    /// Reads it; relative paths start at the folder.
    pub read: fn(text: &str, folder: &Path) -> Checked<T>,
    /// Writes it so that it reads as the same value. A secret becomes `***`.
    pub write: fn(value: &T) -> String,
}

/// A path; empty stays empty.
pub(crate) const PATH: Text<PathBuf> = Text {
    example: "pages",
    read: |text, folder| Ok(if text.is_empty() { PathBuf::new() } else { folder.join(text) }),
    write: |path| path.display().to_string(),
};

/// A text in quotes, escaped and cut to a length that fits a message.
pub(crate) fn quote(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{:?}…", text.get(..at).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}
