//! Locale files. Each file has the texts of one language. If a file is valid TOML, the reader reports every mistake
//! in the file, not only the first.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistakes::{Mistake, shown};
use super::plural::{self, Category, Plural};
use crate::keys::grammar;

/// The keys of a locale file that have one text each.
pub(super) const TEXT_KEYS: [&str; 17] = [
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
    // The separator between groups of three digits.
    THOUSANDS,
];

const THOUSANDS: &str = "thousands";

/// What to write for the separator.
const THOUSANDS_REMEDY: &str = "the separator, for example thousands = \",\", or thousands = \"\" for no separator";

/// The tables of a locale file. Each table has a text for each plural category of the language.
pub(super) const FORM_KEYS: [&str; 3] = ["seconds", "minutes", "waiting"];

/// The placeholder for the number in a form.
pub(super) const NUMBER: &str = "{n}";

/// The texts of one locale.
#[derive(Debug)]
pub(super) struct LocaleTexts {
    /// A BCP 47 tag.
    pub(super) language: String,
    pub(super) direction: String,
    pub(super) plural: Arc<Plural>,
    /// The texts, in the order of [`TEXT_KEYS`].
    texts: Vec<String>,
    /// The plural forms, in the order of [`FORM_KEYS`].
    forms: Vec<Vec<(Category, String)>>,
}

impl LocaleTexts {
    /// Parses the content of a locale file. `name` is the file's name without `.toml`. The file must have every key and
    /// no unknown key. If there are mistakes, returns all of them, in the order of lines. If the file is not TOML,
    /// returns only the first mistake.
    pub(super) fn parse(name: &str, file: &str) -> Result<Self, Vec<Mistake>> {
        let tree = DeTable::parse(file).map_err(|error| {
            let message = error.message().replace('\n', ", ");
            let at = error.span().unwrap_or_default().start;
            vec![Mistake::at(
                file,
                at,
                format!("{message}: this is not TOML; write key = \"text\", and use each key and each [table] once"),
            )]
        })?;
        let mut reader = Reader { file, mistakes: Vec::new() };
        let tree = tree.get_ref();
        let language = reader.text(tree, "language");
        let line = reader.line_of(tree, "language");
        if !language.is_empty() && grammar::locale(&language).is_err() {
            reader.report(
                line,
                format!("`language` is `{}`; write a BCP 47 tag such as `de` or `pt-BR`", shown(&language)),
            );
        } else if !language.is_empty() && language != name {
            let message = format!(
                "`language` is `{language}`, which differs from the file's name; name the file `{language}.toml`, \
                 or write language = \"{}\"",
                shown(name)
            );
            reader.report(line, message);
        }
        let direction = reader.text(tree, "direction");
        if !matches!(direction.as_str(), "" | "ltr" | "rtl") {
            let line = reader.line_of(tree, "direction");
            reader.report(line, format!("`direction` is `{}`; write `ltr` or `rtl`", shown(&direction)));
        }
        let texts: Vec<String> = TEXT_KEYS.iter().map(|key| reader.text(tree, key)).collect();
        // If `language` is missing, the file's name replaces it. Otherwise correct plural forms would be reported as
        // mistakes too.
        let plural = Plural::of(if language.is_empty() { name } else { &language });
        let forms = FORM_KEYS.iter().map(|key| reader.forms(tree, key, &plural)).collect();
        for key in tree.keys() {
            let name = key.get_ref();
            if !["language", "direction"].iter().chain(&TEXT_KEYS).chain(&FORM_KEYS).any(|known| known == name) {
                let line = Mistake::line_at(file, key.span().start);
                reader.report(line, format!("`{}` is not a key of locale files; remove the key", shown(name)));
            }
        }
        let texts = Self { language, direction, plural: Arc::new(plural), texts, forms };
        if texts.text(THOUSANDS).chars().count() > 1 {
            let line = reader.line_of(tree, THOUSANDS);
            reader.report(line, format!("`thousands` must be at most one character; write {THOUSANDS_REMEDY}"));
        }
        reader.mistakes.sort_by_key(|mistake| mistake.line);
        if reader.mistakes.is_empty() { Ok(texts) } else { Err(reader.mistakes) }
    }

    pub(super) fn text(&self, name: &str) -> &str {
        let place = TEXT_KEYS.iter().position(|known| *known == name);
        place.and_then(|place| self.texts.get(place)).map_or("", String::as_str)
    }

    pub(super) fn forms(&self, name: &str) -> &[(Category, String)] {
        let place = FORM_KEYS.iter().position(|known| *known == name);
        place.and_then(|place| self.forms.get(place)).map_or(&[], Vec::as_slice)
    }
}

/// Reads the values of a file and collects the mistakes. A missing or wrong text becomes an empty text. A missing or
/// wrong plural form is left out.
struct Reader<'f> {
    file: &'f str,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn report(&mut self, line: usize, message: impl Into<String>) {
        self.mistakes.push(Mistake { line, message: message.into() });
    }

    /// Returns the line of a key, or 1 if the key is missing.
    fn line_of(&self, table: &DeTable<'_>, key: &str) -> usize {
        table.get_key_value(key).map_or(1, |(key, _)| Mistake::line_at(self.file, key.span().start))
    }

    fn text(&mut self, table: &DeTable<'_>, key: &str) -> String {
        match table.get(key).map(Spanned::get_ref) {
            Some(DeValue::String(text)) if !text.trim().is_empty() || key == THOUSANDS => return text.to_string(),
            Some(_) if key == THOUSANDS => {
                let line = self.line_of(table, key);
                self.report(line, format!("`{key}` must be a text; write {THOUSANDS_REMEDY}"));
            }
            Some(_) => {
                let line = self.line_of(table, key);
                self.report(line, format!("`{key}` must be a non-empty text; write {key} = \"…\""));
            }
            None if key == THOUSANDS => {
                self.report(1, format!("`{key}` is missing; write {THOUSANDS_REMEDY}, before the first table"));
            }
            None => self.report(1, format!("`{key}` is missing; write {key} = \"…\", before the first table")),
        }
        String::new()
    }

    /// Reads a table of plural forms. The table must have one form for each plural category of the language, and no
    /// other key.
    fn forms(&mut self, table: &DeTable<'_>, key: &str, plural: &Plural) -> Vec<(Category, String)> {
        let line = self.line_of(table, key);
        let Some(DeValue::Table(table)) = table.get(key).map(Spanned::get_ref) else {
            self.report(line, format!("`[{key}]` is missing; write this table with the keys {}", names(plural)));
            return Vec::new();
        };
        let mut forms = Vec::new();
        for category in plural.categories() {
            let name = plural::name(category);
            let Some(DeValue::String(form)) = table.get(name).map(Spanned::get_ref) else {
                let line = if table.contains_key(name) { self.line_of(table, name) } else { line };
                self.report(
                    line,
                    format!(
                        "`{key}.{name}` is missing, or is not a text, but the language needs this form; \
                         write {name} = \"… {NUMBER} …\""
                    ),
                );
                continue;
            };
            let may_lack_it = plural.is_one_number(category) && !form.trim().is_empty();
            if matches!((form.matches(NUMBER).count(), may_lack_it), (1, _) | (0, true)) {
                forms.push((category, form.to_string()));
            } else {
                let line = self.line_of(table, name);
                self.report(
                    line,
                    format!("`{key}.{name}` must contain `{NUMBER}` exactly once, in place of the number"),
                );
            }
        }
        for (name, _) in table {
            if !plural.categories().any(|category| plural::name(category) == name.get_ref()) {
                let message = format!(
                    "`{key}.{}` is not a form for whole numbers in this language; remove the key, and use only {}",
                    shown(name.get_ref()),
                    names(plural)
                );
                self.report(Mistake::line_at(self.file, name.span().start), message);
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
    fn locale_file_when_invalid_then_mistake_names_problem_and_line() {
        for (from, to, expected) in [
            ("retry = \"Try again\"\n", "", "`retry` is missing"),
            ("retry = \"Try again\"", "retry = \" \"", "`retry` must be a non-empty text"),
            ("retry = \"Try again\"", "retry = 1", "`retry` must be a non-empty text"),
            ("retry = ", "extra = \"x\"\nretry = ", "`extra` is not a key"),
            ("thousands = \",\"", "thousands = \"..\"", "`thousands` must be at most one character; write"),
            ("thousands = \",\"", "thousands = 1", "`thousands` must be a text; write the separator"),
            ("thousands = \",\"\n", "", "`thousands` is missing; write the separator, for example thousands = \",\","),
            ("[minutes]", "[hours]", "`[minutes]` is missing; write this table with the keys `one`, `other`"),
            ("one = \"Trying again in {n} minute\"\n", "", "`minutes.one` is missing"),
            ("one = \"Trying again in {n} minute\"", "few = \"{n}\"\none = \"{n}\"", "`minutes.few` is not a form"),
            ("in {n} minutes", "in minutes", "`minutes.other` must contain `{n}`"),
            ("in {n} minute\"", "in {n} minute {n}\"", "`minutes.one` must contain `{n}`"),
            ("\"ltr\"", "\"left\"", "`direction` is `left`"),
            ("\"en\"", "\"en_GB\"", "`language` is `en_GB`"),
            ("\"en\"", "\"e\"", "`language` is `e`; write a BCP 47 tag"),
            ("\"en\"", "\"de\"", "name the file `de.toml`, or write language = \"en\""),
            ("\"en\"", "\"en\"x", "this is not TOML"),
        ] {
            let at = ENGLISH.find(from).unwrap_or_else(|| panic!("en.toml does not contain {from}"));
            let mistakes = LocaleTexts::parse("en", &ENGLISH.replacen(from, to, 1)).unwrap_err();
            assert!(mistakes.iter().any(|mistake| mistake.message.contains(expected)), "{expected}: {mistakes:?}");
            let line = ENGLISH[..at].matches('\n').count() + 1;
            if !expected.contains("missing") && !expected.contains(": write") {
                assert!(mistakes.iter().any(|mistake| mistake.line == line), "{expected}: {line}: {mistakes:?}");
            }
        }
    }

    #[test]
    fn locale_file_when_several_values_are_wrong_then_every_mistake_is_reported() {
        let wrong = ENGLISH
            .replacen("\"ltr\"", "\"left\"", 1)
            .replacen("retry = ", "retri = ", 1)
            .replacen("copied = \"Copied\"", "copied = \"\"", 1)
            .replacen("[minutes]\none", "[minutes]\nfew", 1);
        let mistakes = LocaleTexts::parse("en", &wrong).unwrap_err();
        // A misspelt name causes two mistakes: the correct name is missing, and the misspelt name is unknown.
        assert_eq!(mistakes.len(), 6, "{mistakes:?}");
        assert!(mistakes.is_sorted_by_key(|mistake| mistake.line));
    }

    proptest! {
        #[test]
        fn locale_file_when_text_is_arbitrary_then_returns_texts_or_mistakes(
            text in any::<String>(), from in any::<prop::sample::Index>(), bytes in 0..60_usize,
        ) {
            // A part of the English file is replaced, so that the result is sometimes valid TOML.
            let start = ENGLISH.floor_char_boundary(from.index(ENGLISH.len()));
            let end = ENGLISH.ceil_char_boundary((start + bytes).min(ENGLISH.len()));
            let mut file = ENGLISH.to_owned();
            file.replace_range(start..end, &text);
            for file in [&text, &file] {
                if let Err(mistakes) = LocaleTexts::parse("en", file) {
                    prop_assert!(!mistakes.is_empty());
                    prop_assert!(mistakes.iter().all(|mistake| mistake.line >= 1));
                    prop_assert!(!mistakes.iter().any(|mistake| mistake.message.contains(char::is_control)));
                }
            }
        }
    }
}
