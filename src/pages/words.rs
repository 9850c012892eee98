//! The words of one locale, read from a file with every mistake that is in it.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::plural::{self, Category, Plural};
use super::{Mistake, shown};

/// The keys of a locale file that a template may show as they are.
pub(super) const TEXTS: [&str; 17] = [
    "this_site",
    "heading",
    "explanation",
    "next_step",
    "wait_heading",
    "wait_explanation",
    "wait_next_step",
    "retry",
    "retrying",
    "stop",
    "stopped",
    "status_link",
    "support_link",
    "reference",
    "copy",
    "copied",
    // Between groups of three digits.
    THOUSANDS,
];

const THOUSANDS: &str = "thousands";

/// The tables of forms, one for each plural category of the language.
pub(super) const FORMS: [&str; 3] = ["seconds", "minutes", "waiting"];

/// What stands for the number in a form.
pub(super) const NUMBER: &str = "{n}";

/// The longest language tag that RFC 5646 §4.4.1 tells anyone to expect, in bytes.
const MOST_TAG_BYTES: usize = 35;

/// The words of one locale.
#[derive(Debug)]
pub(super) struct Words {
    /// BCP 47.
    pub(super) language: String,
    pub(super) direction: String,
    pub(super) plural: Arc<Plural>,
    /// In the order of [`TEXTS`].
    texts: Vec<String>,
    /// In the order of [`FORMS`].
    forms: Vec<Vec<(Category, String)>>,
}

impl Words {
    /// Reads a locale file of that name (without `.toml`): every key there is, once, and no other. Tells every mistake, in the file's
    /// order; of one that is no TOML, the first.
    pub(super) fn parse(name: &str, file: &str) -> Result<Self, Vec<Mistake>> {
        let tree = DeTable::parse(file).map_err(|error| {
            let said = error.message().replace('\n', ", ");
            let at = error.span().unwrap_or_default().start;
            vec![Mistake::at(
                file,
                at,
                format!("{said}: this is no TOML; write key = \"text\", each key and [table] once"),
            )]
        })?;
        let mut reader = Reader { file, mistakes: Vec::new() };
        let tree = tree.get_ref();
        let language = reader.text(tree, "language");
        let line = reader.line_of(tree, "language");
        if !language.is_empty() && !is_tag(&language) {
            reader.tell(
                line,
                format!("`language` is `{}`; write a BCP 47 tag such as `de` or `pt-BR`", shown(&language)),
            );
        } else if !language.is_empty() && language != name {
            let message = format!(
                "`language` is `{language}`, which is not the file's name; call the file `{language}.toml`, or write language = \"{}\"",
                shown(name)
            );
            reader.tell(line, message);
        }
        let direction = reader.text(tree, "direction");
        if !matches!(direction.as_str(), "" | "ltr" | "rtl") {
            let line = reader.line_of(tree, "direction");
            reader.tell(line, format!("`direction` is `{}`; write `ltr` or `rtl`", shown(&direction)));
        }
        let texts: Vec<String> = TEXTS.iter().map(|key| reader.text(tree, key)).collect();
        let plural = Plural::of(&language);
        let forms = FORMS.iter().map(|key| reader.forms(tree, key, &plural)).collect();
        for key in tree.keys() {
            let name = key.get_ref();
            if !["language", "direction"].iter().chain(&TEXTS).chain(&FORMS).any(|known| known == name) {
                let line = Mistake::line_at(file, key.span().start);
                reader.tell(line, format!("`{}` is not a key of locale files; take it out", shown(name)));
            }
        }
        let words = Self { language, direction, plural: Arc::new(plural), texts, forms };
        if words.text(THOUSANDS).chars().count() > 1 {
            let line = reader.line_of(tree, THOUSANDS);
            reader.tell(line, "`thousands` must be one character, or empty where the language has none");
        }
        reader.mistakes.sort_by_key(|mistake| mistake.line);
        if reader.mistakes.is_empty() { Ok(words) } else { Err(reader.mistakes) }
    }

    pub(super) fn text(&self, name: &str) -> &str {
        let place = TEXTS.iter().position(|known| *known == name);
        place.and_then(|place| self.texts.get(place)).map_or("", String::as_str)
    }

    pub(super) fn forms(&self, name: &str) -> &[(Category, String)] {
        let place = FORMS.iter().position(|known| *known == name);
        place.and_then(|place| self.forms.get(place)).map_or(&[], Vec::as_slice)
    }
}

/// The outer form of BCP 47.
fn is_tag(text: &str) -> bool {
    let mut subtags = text.split('-');
    let language = subtags.next().unwrap_or_default();
    text.len() <= MOST_TAG_BYTES
        && (2..=8).contains(&language.len())
        && language.bytes().all(|byte| byte.is_ascii_alphabetic())
        && subtags
            .all(|subtag| (1..=8).contains(&subtag.len()) && subtag.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// A file while it is read: what is wrong is noted, and something empty stands in.
struct Reader<'f> {
    file: &'f str,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn tell(&mut self, line: usize, message: impl Into<String>) {
        self.mistakes.push(Mistake { line, message: message.into() });
    }

    /// Where a key stands; where it is missing, the file's first line.
    fn line_of(&self, table: &DeTable<'_>, key: &str) -> usize {
        table.get_key_value(key).map_or(1, |(key, _)| Mistake::line_at(self.file, key.span().start))
    }

    fn text(&mut self, table: &DeTable<'_>, key: &str) -> String {
        match table.get(key).map(Spanned::get_ref) {
            Some(DeValue::String(text)) if !text.trim().is_empty() || key == THOUSANDS => return text.to_string(),
            Some(_) => {
                let line = self.line_of(table, key);
                self.tell(line, format!("`{key}` must be a text that is not empty; write {key} = \"…\""));
            }
            None => self.tell(1, format!("`{key}` is missing; write {key} = \"…\", before the first table")),
        }
        String::new()
    }

    /// A table of forms: one for each category that the language needs, and no other.
    fn forms(&mut self, table: &DeTable<'_>, key: &str, plural: &Plural) -> Vec<(Category, String)> {
        let line = self.line_of(table, key);
        let Some(DeValue::Table(table)) = table.get(key).map(Spanned::get_ref) else {
            self.tell(line, format!("`[{key}]` is missing; write that table with {}", names(plural)));
            return Vec::new();
        };
        let mut forms = Vec::new();
        for category in plural.categories() {
            let name = plural::name(category);
            let Some(DeValue::String(form)) = table.get(name).map(Spanned::get_ref) else {
                let line = if table.contains_key(name) { self.line_of(table, name) } else { line };
                self.tell(
                    line,
                    format!("`{key}.{name}` is missing: the language has that form; write {name} = \"… {NUMBER} …\""),
                );
                continue;
            };
            let may_lack_it = plural.is_one_number(category) && !form.trim().is_empty();
            if matches!((form.matches(NUMBER).count(), may_lack_it), (1, _) | (0, true)) {
                forms.push((category, form.to_string()));
            } else {
                let line = self.line_of(table, name);
                self.tell(line, format!("`{key}.{name}` must hold `{NUMBER}`, the number, once"));
            }
        }
        for (name, _) in table {
            if !plural.categories().any(|category| plural::name(category) == name.get_ref()) {
                let message = format!(
                    "`{key}.{}` is not a form that the language has for whole numbers; take it out: it has {}",
                    shown(name.get_ref()),
                    names(plural)
                );
                self.tell(Mistake::line_at(self.file, name.span().start), message);
            }
        }
        forms
    }
}

fn names(plural: &Plural) -> String {
    plural.categories().map(|category| format!("`{}`", plural::name(category))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ENGLISH: &str = include_str!("../../config/locales/en.toml");

    #[test]
    fn a_wrong_locale_file_is_told_with_its_line() {
        for (from, to, expected) in [
            ("retry = \"Try again\"\n", "", "`retry` is missing"),
            ("retry = \"Try again\"", "retry = \" \"", "`retry` must be a text"),
            ("retry = \"Try again\"", "retry = 1", "`retry` must be a text"),
            ("retry = ", "extra = \"x\"\nretry = ", "`extra` is not a key"),
            ("thousands = \",\"", "thousands = \"..\"", "`thousands` must be one character"),
            ("[minutes]", "[hours]", "`[minutes]` is missing; write that table with `one`, `other`"),
            ("one = \"Trying again in {n} minute\"\n", "", "`minutes.one` is missing"),
            ("one = \"Trying again in {n} minute\"", "few = \"{n}\"\none = \"{n}\"", "`minutes.few` is not a form"),
            ("in {n} minutes", "in minutes", "`minutes.other` must hold `{n}`"),
            ("in {n} minute\"", "in {n} minute {n}\"", "`minutes.one` must hold `{n}`, the number, once"),
            ("\"ltr\"", "\"left\"", "`direction` is `left`"),
            ("\"en\"", "\"en_GB\"", "`language` is `en_GB`"),
            ("\"en\"", "\"e\"", "`language` is `e`; write a BCP 47 tag"),
            ("\"en\"", "\"de\"", "call the file `de.toml`, or write language = \"en\""),
            ("\"en\"", "\"en\"x", "this is no TOML"),
        ] {
            let at = ENGLISH.find(from).unwrap_or_else(|| panic!("{from}"));
            let told = Words::parse("en", &ENGLISH.replacen(from, to, 1)).unwrap_err();
            assert!(told.iter().any(|mistake| mistake.message.contains(expected)), "{expected}: {told:?}");
            let line = ENGLISH[..at].matches('\n').count() + 1;
            if !expected.contains("missing") && !expected.contains(": write") {
                assert!(told.iter().any(|mistake| mistake.line == line), "{expected}: {line}: {told:?}");
            }
        }
    }

    #[test]
    fn every_mistake_of_a_file_is_told_at_once() {
        let wrong = ENGLISH
            .replacen("\"ltr\"", "\"left\"", 1)
            .replacen("retry = ", "retri = ", 1)
            .replacen("copied = \"Copied\"", "copied = \"\"", 1)
            .replacen("[minutes]\none", "[minutes]\nfew", 1);
        let told = Words::parse("en", &wrong).unwrap_err();
        // A key and a form that are misspelt are missing and unknown.
        assert_eq!(told.len(), 6, "{told:?}");
        assert!(told.is_sorted_by_key(|mistake| mistake.line));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_told(text in any::<String>(), from in any::<prop::sample::Index>(), bytes in 0..60_usize) {
            // The English file with a piece replaced, so that it gets past the TOML now and then.
            let start = ENGLISH.floor_char_boundary(from.index(ENGLISH.len()));
            let end = ENGLISH.ceil_char_boundary((start + bytes).min(ENGLISH.len()));
            let mut file = ENGLISH.to_owned();
            file.replace_range(start..end, &text);
            for file in [&text, &file] {
                if let Err(told) = Words::parse("en", file) {
                    prop_assert!(!told.is_empty());
                    prop_assert!(told.iter().all(|mistake| mistake.line >= 1 && !mistake.message.contains(char::is_control)));
                }
            }
        }
    }
}
