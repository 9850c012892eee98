//! The keys of the configuration. A settings type lists its keys once, in [`Keys::keys`]. One [`Visitor`] reads the
//! keys from a file. Another visitor shows the values that are in effect.
//!
//! This room is below every room that has settings, so that each layer can declare its keys next to the code that uses
//! these keys. The code for TOML and JSON is in `config`, which contains both visitors.

pub(crate) mod grammar;
pub(crate) mod quantities;
pub(crate) mod secrets;
pub(crate) mod urls;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The result of checking a text: the value, or an error message such as "is not a duration; write …". The message that
/// the operator sees is a sentence, which begins with the text that the operator wrote and continues with this error
/// message.
pub(crate) type Checked<T> = Result<T, String>;

/// Settings that are a block of the configuration file, or a part of a block. A block is a TOML table. A missing key
/// has its value from `Default`.
pub(crate) trait Keys: Default {
    /// Calls the visitor once for each key, with the key's value. The visitor can replace the value.
    fn keys<V: Visitor>(&mut self, visitor: &mut V);
}

/// Reads or shows keys. The settings type makes one call for each key.
pub(crate) trait Visitor {
    /// A key that is `true` or `false`.
    fn flag(&mut self, name: &'static str, value: &mut bool);

    /// A key that is a whole number.
    fn integer<T>(&mut self, name: &'static str, range: RangeInclusive<i64>, value: &mut T)
    where
        T: Copy + TryFrom<i64> + TryInto<i64>;

    /// A key that is a number, with or without a fraction. `text` reads the digits, so the number is exact. If the key
    /// is missing, the value is `None`.
    fn number<T>(&mut self, name: &'static str, text: &Text<T>, value: &mut Option<T>);

    /// A key that is a list of whole numbers.
    fn integers<T>(&mut self, name: &'static str, range: RangeInclusive<i64>, values: &mut Vec<T>)
    where
        T: Copy + TryFrom<i64> + TryInto<i64>;

    /// A key that is one of a fixed set of texts.
    fn choice<T: Copy + PartialEq>(&mut self, name: &'static str, choices: &[(&'static str, T)], value: &mut T);

    /// A key that is a text.
    fn text<T>(&mut self, name: &'static str, text: &Text<T>, value: &mut T);

    /// A key that is a text. If the text is empty, the value is `None`.
    fn nonempty<T>(&mut self, name: &'static str, text: &Text<T>, value: &mut Option<T>);

    /// A key that is a text. If the key is missing, the value is `None`.
    fn optional<T>(&mut self, name: &'static str, text: &Text<T>, value: &mut Option<T>);

    /// A key that is a list of texts.
    fn list<T>(&mut self, name: &'static str, text: &Text<T>, values: &mut Vec<T>);

    /// A key that is a list of texts. If the key is missing, the value is `None`.
    fn optional_list<T>(&mut self, name: &'static str, text: &Text<T>, values: &mut Option<Vec<T>>);

    /// A block whose keys are names that the operator chooses. The values are texts. `example` is one line of the
    /// block.
    fn map(
        &mut self,
        name: &'static str,
        example: &str,
        texts: (&Text<String>, &Text<String>),
        values: &mut BTreeMap<String, String>,
    );

    /// A block whose keys are names that the operator chooses. The values are numbers, which `number` reads from their
    /// text. `example` is one line of the block.
    fn numbers<T>(
        &mut self,
        name: &'static str,
        example: &str,
        names: &Text<String>,
        number: &Text<T>,
        values: &mut BTreeMap<String, T>,
    );

    /// A block whose keys are names that the operator chooses. The values are blocks. `example` is one line of the
    /// block.
    fn named_blocks<T: Keys>(
        &mut self,
        name: &'static str,
        example: &str,
        names: &Text<String>,
        values: &mut BTreeMap<String, T>,
    );

    /// The block `[name]`.
    fn block(&mut self, name: &'static str, keys: impl FnOnce(&mut Self));

    /// The block `[name]`. If the block is missing, the value is `None`.
    fn optional_block<T: Keys>(&mut self, name: &'static str, value: &mut Option<T>);

    /// The blocks `[[name]]`.
    fn blocks<T: Keys>(&mut self, name: &'static str, values: &mut Vec<T>);
}

/// The text form of a type: how a value is read from a text and written as a text.
pub(crate) struct Text<T> {
    /// The example that messages show if the key has no default or an empty default.
    pub example: &'static str,
    /// Reads a value. A relative path starts at `folder`.
    pub read: fn(text: &str, folder: &Path) -> Checked<T>,
    /// Writes a value as a text that `read` turns into the same value. Exceptions: the text of a secret is `***`, and
    /// the text of a relative path already begins with the folder.
    pub write: fn(value: &T) -> String,
}

/// A path. An empty path stays empty and does not become the folder.
pub(crate) const PATH: Text<PathBuf> = Text {
    example: "pages",
    read: |text, folder| Ok(if text.is_empty() { PathBuf::new() } else { folder.join(text) }),
    write: |path| path.display().to_string(),
};

/// Returns a text in quotes for a message. The text is cut after 80 characters and then escaped.
pub(crate) fn quote(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{:?}…", text.get(..at).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}
