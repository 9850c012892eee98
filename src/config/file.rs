//! What was typed: the TOML tree with its lines, and a reader that takes keys from it one by one.
//!
//! The house asks for serde structs here. serde's derive stops at the first unknown key or wrong type, but an
//! operator is owed every problem of the file at once, so the tree is walked by hand: each key is taken by name,
//! whatever is wrong with it is noted and its default stands in, and the keys that nobody took are the unknown ones.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::problems::Problem;
use super::shown::{kind, shown};
use super::words::{closest, quote};

/// Longest list that is read; every entry costs something later.
const MAX_ENTRIES: usize = 10_000;

/// The value checked, or what to say of it: a sentence that reads on from the value ("is no duration; write …").
pub(super) type Checked<T> = Result<T, String>;

/// A file while it is read.
pub(super) struct TypedFile<'t> {
    /// Where each line starts, so that a line is found without counting again.
    line_starts: Vec<usize>,
    folder: &'t Path,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> TypedFile<'t> {
    pub(super) fn new(text: &str, folder: &'t Path) -> Self {
        let line_starts = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1).collect();
        Self { line_starts, folder, problems: RefCell::new(Vec::new()) }
    }

    pub(super) fn root<'f>(&'f self, table: &'f DeTable<'f>) -> Section<'f> {
        Section { file: self, key: String::new(), line: None, table: Some(table), known: Vec::new() }
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= at) + 1
    }

    fn report(&self, key: String, line: Option<usize>, value: String, message: String) {
        self.problems.borrow_mut().push(Problem { file: None, key, line, column: None, value, message });
    }
}

/// What became of a key.
#[derive(Debug)]
pub(super) enum Read<T> {
    /// It is not there.
    Absent,
    /// It is there and wrong, which has been noted.
    Bad,
    /// It is there and right.
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
}

/// One value with its place.
struct Item<'f> {
    key: String,
    line: Option<usize>,
    value: &'f DeValue<'f>,
}

/// One block: a table, or the lack of one, which reads as a table without keys.
pub(super) struct Section<'f> {
    file: &'f TypedFile<'f>,
    key: String,
    line: Option<usize>,
    table: Option<&'f DeTable<'f>>,
    known: Vec<&'static str>,
}

impl<'f> Section<'f> {
    /// Where relative paths start.
    pub(super) fn folder(&self) -> &'f Path {
        self.file.folder
    }

    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Whether something stands under its name, a block or not.
    pub(super) fn is_typed(&self) -> bool {
        self.line.is_some()
    }

    /// A text that `check` turns into its type. `example` is what messages show, as it would be typed.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        example: &str,
        check: impl FnOnce(&str) -> Checked<T>,
    ) -> Read<T> {
        let Some(item) = self.take(name) else { return Read::Absent };
        self.check_text(&item, example, check)
    }

    /// As [`Section::read`], for a key with a default.
    pub(super) fn text<T>(
        &mut self,
        name: &'static str,
        example: &str,
        default: T,
        check: impl FnOnce(&str) -> Checked<T>,
    ) -> T {
        self.read(name, example, check).or(default)
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> bool {
        let Some(item) = self.take(name) else { return default };
        if let DeValue::Boolean(value) = item.value {
            return *value;
        }
        self.wrong_type(&item, "true or false belongs", "true or false");
        default
    }

    /// A whole number within `range`.
    pub(super) fn integer<T: TryFrom<i64>>(&mut self, name: &'static str, range: RangeInclusive<i64>, default: T) -> T {
        self.read_integer(name, range).or(default)
    }

    /// As [`Section::integer`], where it matters whether the key is there.
    pub(super) fn read_integer<T: TryFrom<i64>>(&mut self, name: &'static str, range: RangeInclusive<i64>) -> Read<T> {
        let Some(item) = self.take(name) else { return Read::Absent };
        self.check_integer(&item, &range).and_then(|value| T::try_from(value).ok()).map_or(Read::Bad, Read::Good)
    }

    /// A list of texts, each checked by itself.
    pub(super) fn list<T>(
        &mut self,
        name: &'static str,
        example: &str,
        default: Vec<T>,
        check: impl FnMut(&str) -> Checked<T>,
    ) -> Vec<T> {
        self.read_list(name, example, check).or(default)
    }

    /// As [`Section::list`], where it matters whether the key is there.
    pub(super) fn read_list<T>(
        &mut self,
        name: &'static str,
        example: &str,
        mut check: impl FnMut(&str) -> Checked<T>,
    ) -> Read<Vec<T>> {
        let Some(item) = self.take(name) else { return Read::Absent };
        let DeValue::Array(array) = item.value else {
            self.wrong_type(&item, "a list belongs", &format!("[{example}]"));
            return Read::Bad;
        };
        if array.len() > MAX_ENTRIES {
            self.complain(&item, format!("has {} entries; write at most {MAX_ENTRIES}", array.len()));
            return Read::Bad;
        }
        let mut values = Vec::with_capacity(array.len());
        for (index, entry) in array.iter().enumerate() {
            let line = Some(self.file.line(entry.span().start));
            let entry = Item { key: format!("{}[{index}]", item.key), line, value: entry.get_ref() };
            if let Read::Good(value) = self.check_text(&entry, example, &mut check) {
                values.push(value);
            }
        }
        if values.len() == array.len() { Read::Good(values) } else { Read::Bad }
    }

    /// A list of whole numbers within `range`, where it matters whether the key is there.
    pub(super) fn read_integers<T: TryFrom<i64>>(
        &mut self,
        name: &'static str,
        range: RangeInclusive<i64>,
    ) -> Read<Vec<T>> {
        let Some(item) = self.take(name) else { return Read::Absent };
        let DeValue::Array(array) = item.value else {
            self.wrong_type(&item, "a list belongs", &format!("[{}]", range.end()));
            return Read::Bad;
        };
        let mut values = Vec::with_capacity(array.len());
        for (index, entry) in array.iter().enumerate() {
            let line = Some(self.file.line(entry.span().start));
            let entry = Item { key: format!("{}[{index}]", item.key), line, value: entry.get_ref() };
            values.extend(self.check_integer(&entry, &range).and_then(|value| T::try_from(value).ok()));
        }
        if values.len() == array.len() { Read::Good(values) } else { Read::Bad }
    }

    /// A block of texts under names that the operator chose; both are checked.
    pub(super) fn map<T>(
        &mut self,
        name: &'static str,
        example: &str,
        check_name: impl Fn(&str) -> Checked<String>,
        check: impl Fn(&str) -> Checked<T>,
    ) -> BTreeMap<String, T> {
        self.read_map(name, example, check_name, check).or(BTreeMap::new())
    }

    /// As [`Section::map`], where it matters whether the key is there.
    pub(super) fn read_map<T>(
        &mut self,
        name: &'static str,
        example: &str,
        check_name: impl Fn(&str) -> Checked<String>,
        check: impl Fn(&str) -> Checked<T>,
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
                // What is no name may be a secret that went astray, and is told with care.
                Err(said) => {
                    let typed = DeValue::String(typed.get_ref().as_ref().into());
                    self.file.report(item.key.clone(), line, shown(&item.key, &typed), said.clone());
                    item.key.clone()
                }
            };
            let entry = Item { key, line, value: value.get_ref() };
            let value = self.check_text(&entry, value_example, &check);
            if let (Ok(name), Read::Good(value)) = (name, value)
                && values.insert(name, value).is_some()
            {
                self.complain(
                    &entry,
                    "stands under a name that is there twice but for its case; keep one of them".to_owned(),
                );
            }
        }
        if values.len() == table.len() { Read::Good(values) } else { Read::Bad }
    }

    /// The block `[name]`.
    pub(super) fn block(&mut self, name: &'static str) -> Self {
        let item = self.take(name);
        let mut block = Section { file: self.file, key: self.path(name), line: None, table: None, known: Vec::new() };
        if let Some(item) = item {
            block.line = item.line;
            match item.value {
                DeValue::Table(table) => block.table = Some(table),
                _ => self.wrong_type(&item, "a block belongs", &format!("[{}] and its keys below it", block.key)),
            }
        }
        block
    }

    /// The blocks `[[name]]`, as many as there are.
    pub(super) fn blocks(&mut self, name: &'static str) -> Vec<Self> {
        let Some(item) = self.take(name) else { return Vec::new() };
        let DeValue::Array(array) = item.value else {
            self.wrong_type(&item, "a list of blocks belongs", &format!("[[{}]] and its keys below it", item.key));
            return Vec::new();
        };
        let mut blocks = Vec::with_capacity(array.len());
        for (index, entry) in array.iter().enumerate() {
            let key = format!("{}[{index}]", item.key);
            let line = Some(self.file.line(entry.span().start));
            if let DeValue::Table(table) = entry.get_ref() {
                blocks.push(Section { file: self.file, key, line, table: Some(table), known: Vec::new() });
            } else {
                let entry = Item { key, line, value: entry.get_ref() };
                self.wrong_type(&entry, "a block belongs", &format!("[[{}]] and its keys below it", item.key));
            }
        }
        blocks
    }

    /// Notes that a key which is there is wrong beside others.
    pub(super) fn reject(&self, name: &str, message: impl Into<String>) {
        if let Some(item) = self.find(name) {
            self.complain(&item, message.into());
        }
    }

    /// Notes that a key is missing, at the block's own line.
    pub(super) fn missing(&self, name: &str, message: impl Into<String>) {
        self.file.report(self.path(name), self.line, String::new(), message.into());
    }

    /// Notes what is wrong in another file that the configuration names.
    pub(super) fn reject_file(&self, file: String, line: Option<usize>, message: String) {
        let problem = Problem { file: Some(file), line, ..Problem::of_file("", message) };
        self.file.problems.borrow_mut().push(problem);
    }

    /// Notes that the whole block is wrong.
    pub(super) fn reject_block(&self, message: impl Into<String>) {
        self.file.report(self.key.clone(), self.line, "{…}".to_owned(), message.into());
    }

    /// Ends the block: the keys that nobody took are unknown.
    pub(super) fn finish(self) {
        let Some(table) = self.table else { return };
        for (name, value) in table {
            let typed: &str = name.get_ref();
            if self.known.contains(&typed) {
                continue;
            }
            let line = Some(self.file.line(name.span().start));
            let item = Item { key: self.path(typed), line, value: value.get_ref() };
            let remedy = match closest(typed, &self.known) {
                Some(meant) => format!("did you mean {}?", quote(meant)),
                None => format!("write one of {} or take it out", self.known.join(", ")),
            };
            self.complain(&item, format!("stands under a key that does not exist; {remedy}"));
        }
    }

    fn path(&self, name: &str) -> String {
        // An odd name is quoted as TOML has it, and so cannot write to the terminal.
        let bare = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let name = if bare { name.to_owned() } else { quote(name) };
        if self.key.is_empty() { name } else { format!("{}.{name}", self.key) }
    }

    fn take(&mut self, name: &'static str) -> Option<Item<'f>> {
        if !self.known.contains(&name) {
            self.known.push(name);
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
            Err(said) => {
                self.complain(item, said);
                Read::Bad
            }
        }
    }

    fn check_integer(&self, item: &Item<'f>, range: &RangeInclusive<i64>) -> Option<i64> {
        let (low, high) = (range.start(), range.end());
        let DeValue::Integer(typed) = item.value else {
            self.wrong_type(item, "a whole number belongs", &format!("a number from {low} to {high}, without quotes"));
            return None;
        };
        let value = i64::from_str_radix(typed.as_str(), typed.radix()).ok().filter(|value| range.contains(value));
        if value.is_none() {
            self.complain(item, format!("is out of range; write a number from {low} to {high}"));
        }
        value
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
        let tree = DeTable::parse(text).expect("TOML");
        let file = TypedFile::new(text, Path::new("."));
        let mut root = file.root(tree.get_ref());
        read(&mut root);
        root.finish();
        file.into_problems().iter().map(|problem| format!("{}: {problem}", problem.line.unwrap_or(0))).collect()
    }

    #[test]
    fn key_that_nobody_took_is_unknown_with_a_suggestion() {
        let told = with("levle = 3\nzzz = 4\n", |root| {
            root.integer("level", 1..=9, 4_u32);
        });
        assert_eq!(
            told,
            [
                "1: levle: 3 stands under a key that does not exist; did you mean \"level\"?",
                "2: zzz: 4 stands under a key that does not exist; write one of level or take it out",
            ]
        );
    }

    #[test]
    fn numbers_are_held_to_their_range() {
        for typed in ["0", "10", "-1", "99999999999999999999999999", "0xff"] {
            let told = with(&format!("level = {typed}"), |root| {
                assert_eq!(root.integer("level", 1..=9, 4_u32), 4);
            });
            assert_eq!(told.len(), 1, "{typed}: {told:?}");
            assert!(told[0].contains("from 1 to 9"), "{told:?}");
        }
    }

    #[test]
    fn wrong_types_are_told_with_the_right_one() {
        let told = with("a = \"3\"\nb = 1\nc = 2.5\nd = \"x\"\ne = 1979-05-27\nf = [1]\n", |root| {
            root.integer("a", 1..=9, 4_u32);
            root.flag("b", true);
            root.text("c", "\"10s\"", (), |_| Ok(()));
            root.list("d", "\"x\"", Vec::new(), |_| Ok(()));
            root.block("e").finish();
            root.blocks("f");
        });
        assert_eq!(told.len(), 6, "{told:?}");
        assert!(told[0].contains("a text where a whole number belongs"), "{told:?}");
        assert!(told[3].contains("write [\"x\"]"), "{told:?}");
        assert!(told[4].contains("write [e]"), "{told:?}");
        assert!(told[5].contains("write [[f]]"), "{told:?}");
    }

    #[test]
    fn secrets_are_hidden_in_unknown_keys_too() {
        let told = with("tokn = 1\napi_token = \"hunter2\"\nurl = \"http://me:hunter2@host/\"\n", |_| {}).join("\n");
        assert!(!told.contains("hunter2"), "{told}");
        assert!(told.contains("***@host"), "{told}");
    }

    #[test]
    fn odd_key_is_quoted_and_cannot_steer_the_terminal() {
        let told = with("\"a\\u001b[2J\" = 1", |_| {}).join("\n");
        assert!(!told.contains('\u{1b}'), "{told}");
    }
}
