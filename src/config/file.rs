//! Reads a configuration file key by key. `TypedFile` is the file with the positions of its lines and with the problems
//! that were found so far. A `Section` is one block of the TOML tree, from which keys are read.
//!
//! serde's derive stops at the first unknown key or wrong type, but operators need to see all problems of a file at
//! once. So this module reads each key by its name. If a value is wrong, the module reports the problem and continues
//! with the default. At the end, the module reports the unknown keys, which are the keys that no code has read.

mod named_blocks;
mod numbers;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::problems::Problem;
use super::shown::{HIDDEN, kind, shown};
use crate::keys::grammar::closest;
use crate::keys::{Checked, quote};

/// The largest number of entries in a list.
const MAX_ENTRIES: usize = 10_000;

/// The state of reading one file: the problems so far, and the keys that were read so far.
pub(super) struct TypedFile<'t> {
    /// The byte offset at which each line after the first line starts.
    line_starts: Vec<usize>,
    folder: &'t Path,
    problems: RefCell<Vec<Problem>>,
    /// The names of the keys that code has tried to read, grouped by the path of their block. A key is in this list
    /// even if the file does not have the key.
    known: RefCell<HashMap<String, Vec<&'static str>>>,
}

impl<'t> TypedFile<'t> {
    pub(super) fn new(text: &str, folder: &'t Path) -> Self {
        let line_starts = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1).collect();
        Self { line_starts, folder, problems: RefCell::default(), known: RefCell::default() }
    }

    pub(super) fn root<'f>(&'f self, table: &'f DeTable<'f>) -> Section<'f> {
        Section { file: self, key: String::new(), line: None, table: Some(table) }
    }

    /// Reports the unknown keys of `table`, which are the keys that no code has read. Then returns all problems.
    pub(super) fn into_problems(self, table: &DeTable<'_>) -> Vec<Problem> {
        self.root(table).reject_unknown();
        self.problems.into_inner()
    }

    fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= at) + 1
    }

    fn report(&self, key: String, line: Option<usize>, value: String, message: String) {
        self.problems.borrow_mut().push(Problem { file: None, key, line, column: None, value, message });
    }
}

/// The result of reading one key.
#[derive(Debug)]
pub(super) enum Read<T> {
    Absent,
    /// The value is wrong, and the problem has been reported.
    Bad,
    Good(T),
}

impl<T> Read<T> {
    pub(super) fn good(self) -> Option<T> {
        match self {
            Self::Good(value) => Some(value),
            Self::Absent | Self::Bad => None,
        }
    }

    pub(super) fn or(self, default: T) -> T {
        self.good().unwrap_or(default)
    }

    /// Returns the default if the key is absent, and `None` if the value is wrong.
    pub(super) fn unless_bad(self, default: impl FnOnce() -> T) -> Option<T> {
        match self {
            Self::Absent => Some(default()),
            Self::Bad => None,
            Self::Good(value) => Some(value),
        }
    }
}

/// One value of the file, with the path of its key and with its line.
struct Item<'f> {
    key: String,
    line: Option<usize>,
    value: &'f DeValue<'f>,
}

/// Identifies one entry: by its position in a list, or by its name in a block of texts. A block of texts is a TOML
/// table whose names the operator chooses and whose values are strings.
pub(super) enum Entry<'n> {
    /// A position in a list, counted from 0.
    At(usize),
    /// A name in a block of texts, exactly as in the file.
    Named(&'n str),
}

/// One block of the file. If the file does not have the block, the section has no keys.
pub(crate) struct Section<'f> {
    file: &'f TypedFile<'f>,
    key: String,
    line: Option<usize>,
    table: Option<&'f DeTable<'f>>,
}

impl<'f> Section<'f> {
    /// Returns the folder at which relative paths in the file start.
    pub(crate) fn folder(&self) -> &'f Path {
        self.file.folder
    }

    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Returns `Absent` if the file does not have this block, and `Bad` if the file has another value in place of this
    /// block. Returns `None` if the file has the block.
    pub(super) fn unread<T>(&self) -> Option<Read<T>> {
        match (self.table, self.line) {
            (Some(_), _) => None,
            (None, Some(_)) => Some(Read::Bad),
            (None, None) => Some(Read::Absent),
        }
    }

    /// Whether the file has the key `name` in this block.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Whether a problem has been reported for the key `name`, or for a key or an entry below this key.
    pub(crate) fn is_bad(&self, name: &str) -> bool {
        let path = self.path(name);
        let problems = self.file.problems.borrow();
        problems.iter().any(|problem| {
            problem.key.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
        })
    }

    /// Returns the texts in the list or the block of texts `name`, with their positions or names. Entries that are not
    /// texts are left out. The texts are unchecked, so a text can be invalid. `read_list` and `read_map` return no
    /// value if one entry is wrong. With this function, a check can still examine the other entries.
    pub(super) fn texts(&self, name: &str) -> Vec<(Entry<'f>, &'f str)> {
        match self.find(name).map(|item| item.value) {
            Some(DeValue::Array(array)) => {
                let entries = array.iter().enumerate();
                entries.filter_map(|(index, entry)| Some((Entry::At(index), entry.get_ref().as_str()?))).collect()
            }
            Some(DeValue::Table(table)) => {
                let entries = table.iter();
                entries
                    .filter_map(|(name, entry)| Some((Entry::Named(name.get_ref()), entry.get_ref().as_str()?)))
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// Reads a text, which `check` converts to the type of the key. Error messages show `example`, so the caller must
    /// put `example` in quotes.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        example: &str,
        check: impl FnOnce(&str) -> Checked<T>,
    ) -> Read<T> {
        let Some(item) = self.take(name) else { return Read::Absent };
        self.check_text(&item, example, check)
    }

    /// Reads `true` or `false`.
    pub(super) fn read_flag(&mut self, name: &'static str) -> Read<bool> {
        let Some(item) = self.take(name) else { return Read::Absent };
        if let DeValue::Boolean(value) = item.value {
            return Read::Good(*value);
        }
        self.wrong_type(&item, "true or false belongs", "true or false");
        Read::Bad
    }

    /// Reads a list of texts. `check` checks and converts each text.
    pub(super) fn read_list<T>(
        &mut self,
        name: &'static str,
        example: &str,
        mut check: impl FnMut(&str) -> Checked<T>,
    ) -> Read<Vec<T>> {
        let Some(item) = self.take(name) else { return Read::Absent };
        let Some(entries) = self.entries(&item, example) else { return Read::Bad };
        let read = |entry| self.check_text(entry, example, &mut check).good();
        let values: Vec<T> = entries.iter().filter_map(read).collect();
        if values.len() == entries.len() { Read::Good(values) } else { Read::Bad }
    }

    fn entries(&self, list: &Item<'f>, example: &str) -> Option<Vec<Item<'f>>> {
        let DeValue::Array(array) = list.value else {
            self.wrong_type(list, "a list belongs", &format!("[{example}]"));
            return None;
        };
        if array.len() > MAX_ENTRIES {
            self.complain(list, format!("has {} entries; write at most {MAX_ENTRIES}", array.len()));
            return None;
        }
        let entry = |(index, entry): (usize, &'f toml::Spanned<DeValue<'f>>)| Item {
            key: format!("{}[{index}]", list.key),
            line: Some(self.file.line(entry.span().start)),
            value: entry.get_ref(),
        };
        Some(array.iter().enumerate().map(entry).collect())
    }

    /// Reads a block of texts. `check_name` checks each name, and `check` checks and converts each text.
    pub(super) fn read_map<T>(
        &mut self,
        name: &'static str,
        example: &str,
        check_name: impl Fn(&str) -> Checked<String>,
        check: impl Fn(&str) -> Checked<T>,
    ) -> Read<BTreeMap<String, T>> {
        self.read_entries(name, example, check_name, |block, entry, example| block.check_text(entry, example, &check))
    }

    /// Reads a block as [`read_map`](Self::read_map) does. But a value of this block can be a text or a whole number
    /// within `range`. `number` converts a whole number to `T`.
    pub(super) fn read_mixed_map<T, N: TryFrom<i64>>(
        &mut self,
        name: &'static str,
        example: &str,
        check_name: impl Fn(&str) -> Checked<String>,
        check: impl Fn(&str) -> Checked<T>,
        (range, number): (RangeInclusive<i64>, fn(N) -> T),
    ) -> Read<BTreeMap<String, T>> {
        self.read_entries(name, example, check_name, |block, entry, example| match entry.value {
            DeValue::Integer(_) => {
                let value = block.check_integer(entry, &range).and_then(|value| N::try_from(value).ok());
                value.map_or(Read::Bad, |value| Read::Good(number(value)))
            }
            _ => block.check_text(entry, example, &check),
        })
    }

    fn read_entries<T>(
        &mut self,
        name: &'static str,
        example: &str,
        check_name: impl Fn(&str) -> Checked<String>,
        read_value: impl Fn(&Self, &Item<'f>, &str) -> Read<T>,
    ) -> Read<BTreeMap<String, T>> {
        let Some(item) = self.take(name) else { return Read::Absent };
        let DeValue::Table(table) = item.value else {
            self.wrong_type(&item, "a block belongs", &format!("{{ {example} }}"));
            return Read::Bad;
        };
        let value_example = example.rsplit(" = ").next().unwrap_or(example);
        let mut values = BTreeMap::new();
        for (typed, value) in table {
            let line = Some(self.file.line(typed.span().start));
            let name = check_name(typed.get_ref());
            let key = match &name {
                Ok(_) => format!("{}.{}", item.key, quote(typed.get_ref())),
                // A wrong name can be a secret in the wrong place. So `shown` decides whether the message shows the
                // name, as for a value.
                Err(message) => {
                    let typed = DeValue::String(typed.get_ref().as_ref().into());
                    self.file.report(item.key.clone(), line, shown(&item.key, &typed), message.clone());
                    item.key.clone()
                }
            };
            let entry = Item { key, line, value: value.get_ref() };
            let value = read_value(self, &entry, value_example);
            if let (Ok(name), Read::Good(value)) = (name, value)
                && values.insert(name, value).is_some()
            {
                self.complain(
                    &entry,
                    "has a name that differs from another name only in case; keep one of the two names".to_owned(),
                );
            }
        }
        if values.len() == table.len() { Read::Good(values) } else { Read::Bad }
    }

    /// Opens the block `[name]`. If this block was opened before, a value that is not a block is not reported
    /// again.
    pub(crate) fn section(&mut self, name: &'static str) -> Self {
        let again = self.is_known(name);
        let item = self.take(name);
        let mut block = Section { file: self.file, key: self.path(name), line: None, table: None };
        if let Some(item) = item {
            block.line = item.line;
            match item.value {
                DeValue::Table(table) => block.table = Some(table),
                _ if again => {}
                _ => self.wrong_type(&item, "a block belongs", &format!("[{}] and its keys below it", block.key)),
            }
        }
        block
    }

    /// Opens the blocks `[[name]]`. If these blocks were opened before, a value of the wrong type is not reported
    /// again.
    pub(super) fn sections(&mut self, name: &'static str) -> Vec<Self> {
        let again = self.is_known(name);
        let Some(item) = self.take(name) else { return Vec::new() };
        let DeValue::Array(array) = item.value else {
            if again {
                return Vec::new();
            }
            self.wrong_type(&item, "a list of blocks belongs", &format!("[[{}]] and its keys below it", item.key));
            return Vec::new();
        };
        let mut blocks = Vec::with_capacity(array.len());
        for (index, entry) in array.iter().enumerate() {
            let key = format!("{}[{index}]", item.key);
            let line = Some(self.file.line(entry.span().start));
            if let DeValue::Table(table) = entry.get_ref() {
                blocks.push(Section { file: self.file, key, line, table: Some(table) });
            } else if !again {
                let entry = Item { key, line, value: entry.get_ref() };
                self.wrong_type(&entry, "a block belongs", &format!("[[{}]] and its keys below it", item.key));
            }
        }
        blocks
    }

    /// Reports a problem with the key `name`, if the file has this key.
    pub(crate) fn reject(&self, name: &str, message: impl Into<String>) {
        if let Some(item) = self.find(name) {
            self.complain(&item, message.into());
        }
    }

    /// Reports a problem with one entry of the key `name`, whose value is a list or a block of texts.
    pub(super) fn reject_entry(&self, name: &str, entry: Entry<'_>, message: impl Into<String>) {
        let Some(item) = self.find(name) else { return };
        let entry = match (item.value, entry) {
            (DeValue::Array(array), Entry::At(index)) => {
                array.get(index).map(|value| (format!("{}[{index}]", item.key), value.span().start, value.get_ref()))
            }
            (DeValue::Table(table), Entry::Named(name)) => {
                table.iter().find(|(typed, _)| typed.get_ref() == name).map(|(typed, value)| {
                    (format!("{}.{}", item.key, quote(typed.get_ref())), typed.span().start, value.get_ref())
                })
            }
            _ => None,
        };
        if let Some((key, at, value)) = entry {
            self.complain(&Item { key, line: Some(self.file.line(at)), value }, message.into());
        }
    }

    /// Reports that the key `name` is missing. The problem has the line of the block.
    pub(crate) fn missing(&self, name: &str, message: impl Into<String>) {
        self.file.report(self.path(name), self.line, String::new(), message.into());
    }

    /// Reports a problem in another file, which the configuration names.
    pub(super) fn reject_file(&self, file: String, line: Option<usize>, message: String) {
        let problem = Problem { file: Some(file), line, ..Problem::of_file("", message) };
        self.file.problems.borrow_mut().push(problem);
    }

    /// Reports a problem with the block as a whole.
    pub(super) fn reject_block(&self, message: impl Into<String>) {
        self.file.report(self.key.clone(), self.line, "{…}".to_owned(), message.into());
    }

    /// Reports the unknown keys in this block and in the blocks below it.
    pub(super) fn reject_unknown(&self) {
        let Some(table) = self.table else { return };
        let known = self.file.known.borrow().get(&self.key).cloned();
        // In some blocks the operator chooses the names. `read_entries` and `named_sections` have already checked these
        // names. Such a block has no entry in `known`, so no name of the block is unknown here.
        let Some(known) = known else { return };
        for (name, value) in table {
            let typed: &str = name.get_ref();
            let key = self.path(typed);
            let line = Some(self.file.line(name.span().start));
            if !known.contains(&typed) {
                let meant = closest(typed, &known);
                let remedy = match meant {
                    Some(meant) => format!("did you mean {}?", quote(meant)),
                    None => format!("write one of {}, or remove the key", known.join(", ")),
                };
                // The value can be a secret under a mistyped key, so the value is hidden if the meant key hides it.
                let as_meant = meant.map(|meant| shown(&self.path(meant), value.get_ref()));
                let text = as_meant.filter(|text| text == HIDDEN).unwrap_or_else(|| shown(&key, value.get_ref()));
                self.file.report(key, line, text, format!("is the value of an unknown key; {remedy}"));
                continue;
            }
            let below = |key, table| Section { file: self.file, key, line: None, table: Some(table) }.reject_unknown();
            match value.get_ref() {
                DeValue::Table(table) => below(key, table),
                DeValue::Array(array) => {
                    for (index, entry) in array.iter().enumerate() {
                        if let DeValue::Table(table) = entry.get_ref() {
                            below(format!("{key}[{index}]"), table);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn path(&self, name: &str) -> String {
        // Only a name of 1 to 64 ASCII letters, digits, `_` and `-` is shown unchanged. Any other name is quoted and
        // escaped, because control characters could change what the operator's terminal shows.
        let bare = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let name = if bare { name.to_owned() } else { quote(name) };
        if self.key.is_empty() { name } else { format!("{}.{name}", self.key) }
    }

    fn is_known(&self, name: &str) -> bool {
        self.file.known.borrow().get(&self.key).is_some_and(|known| known.contains(&name))
    }

    /// Records that the key `name` is known, even if the file does not have the key. Returns the key's item, or `None`
    /// if the file does not have the key.
    fn take(&mut self, name: &'static str) -> Option<Item<'f>> {
        if !self.is_known(name) {
            self.file.known.borrow_mut().entry(self.key.clone()).or_default().push(name);
        }
        self.find(name)
    }

    fn find(&self, name: &str) -> Option<Item<'f>> {
        let (typed, value) = self.table?.get_key_value(name)?;
        let line = Some(self.file.line(typed.span().start));
        Some(Item { key: self.path(name), line, value: value.get_ref() })
    }

    fn check_text<T>(&self, item: &Item<'f>, example: &str, check: impl FnOnce(&str) -> Checked<T>) -> Read<T> {
        let DeValue::String(text) = item.value else {
            self.wrong_type(item, "a text in quotes belongs", &format!("for example {example}"));
            return Read::Bad;
        };
        match check(text) {
            Ok(value) => Read::Good(value),
            Err(message) => {
                self.complain(item, message);
                Read::Bad
            }
        }
    }

    fn wrong_type(&self, item: &Item<'f>, wanted: &str, remedy: &str) {
        let found = kind(item.value);
        self.complain(item, format!("is {found} where {wanted}; write {remedy}"));
    }

    fn complain(&self, item: &Item<'f>, message: String) {
        self.file.report(item.key.clone(), item.line, shown(&item.key, item.value), message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str, read: impl FnOnce(&mut Section<'_>)) -> Vec<String> {
        let tree = DeTable::parse(text).expect("the text is valid TOML");
        let file = TypedFile::new(text, Path::new("."));
        read(&mut file.root(tree.get_ref()));
        file.into_problems(tree.get_ref())
            .iter()
            .map(|problem| format!("{}: {problem}", problem.line.unwrap_or(0)))
            .collect()
    }

    #[test]
    fn key_when_unknown_then_problem_names_known_keys() {
        let found = with("levle = 3\nzzz = 4\n", |root| {
            root.read_integer::<u32>("level", 1..=9);
        });
        assert_eq!(
            found,
            [
                "1: levle: 3 is the value of an unknown key; did you mean \"level\"?",
                "2: zzz: 4 is the value of an unknown key; write one of level, or remove the key",
            ]
        );
    }

    #[test]
    fn key_when_mistyped_and_meant_key_has_a_secret_then_value_is_hidden() {
        let found = with("[dns]\nkeey = \"hunter2\"\ntokken = 12345\n", |root| {
            let mut dns = root.section("dns");
            for name in ["key", "token"] {
                dns.read(name, "\"x\"", |_| Ok(()));
            }
        });
        let expected = |line, typed, meant| {
            format!("{line}: dns.{typed}: *** is the value of an unknown key; did you mean \"{meant}\"?")
        };
        assert_eq!(found, [expected(2, "keey", "key"), expected(3, "tokken", "token")]);
    }

    #[test]
    fn number_when_out_of_range_then_is_rejected() {
        for typed in ["0", "10", "-1", "99999999999999999999999999", "0xff"] {
            let found = with(&format!("level = {typed}"), |root| {
                assert!(matches!(root.read_integer::<u32>("level", 1..=9), Read::Bad));
            });
            assert_eq!(found.len(), 1, "{typed}: {found:?}");
            assert!(found[0].contains("from 1 to 9"), "{found:?}");
        }
    }

    #[test]
    fn value_when_type_is_wrong_then_message_names_the_right_type() {
        let found = with("a = \"3\"\nb = 1\nc = 2.5\nd = \"x\"\ne = 1979-05-27\nf = [1]\n", |root| {
            root.read_integer::<u32>("a", 1..=9);
            root.read_flag("b");
            root.read("c", "\"10s\"", |_| Ok(()));
            root.read_list("d", "\"x\"", |_| Ok(()));
            root.section("e");
            root.sections("f");
            // Opening the same blocks again reports no second problem.
            root.section("e");
            root.sections("f");
        });
        assert_eq!(found.len(), 6, "{found:?}");
        assert!(found[0].contains("a text where a whole number belongs"), "{found:?}");
        assert!(found[3].contains("write [\"x\"]"), "{found:?}");
        assert!(found[4].contains("write [e]"), "{found:?}");
        assert!(found[5].contains("write [[f]]"), "{found:?}");
    }

    #[test]
    fn secret_when_key_is_unknown_then_is_hidden() {
        let found = with("tokn = 1\napi_token = \"hunter2\"\nurl = \"http://me:hunter2@host/\"\n", |root| {
            _ = root.read_flag("a");
        })
        .join("\n");
        assert!(!found.contains("hunter2"), "{found}");
        assert!(found.contains("***@host"), "{found}");
    }

    #[test]
    fn key_when_name_has_control_characters_then_is_escaped() {
        let found = with("\"a\\u001b[2J\" = 1", |root| _ = root.read_flag("a")).join("\n");
        assert!(!found.contains('\u{1b}'), "{found}");
    }
}
