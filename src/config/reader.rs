//! Reads the values of the settings from a `Section`, which is one block of the file. A valid value replaces the
//! default. A wrong value is reported, and the default stays.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::file::{Read, Section};
use crate::keys::grammar::{one_of, text_of};
use crate::keys::{Keys, Text, Visitor, quote};

/// The largest number of blocks with the same name. The number is limited, because each class and each provider adds
/// metric series.
pub(super) const MAX_BLOCKS: usize = 500;

impl<T> Read<T> {
    fn put(self, value: &mut T) {
        if let Self::Good(read) = self {
            *value = read;
        }
    }
}

/// Returns the example for messages: the default, or the example of `text` if the default is absent or empty.
fn example<T>(text: &Text<T>, default: Option<&T>) -> String {
    let default = default.map(text.write).unwrap_or_default();
    quote(if default.is_empty() { text.example } else { &default })
}

impl Visitor for Section<'_> {
    fn flag(&mut self, name: &'static str, value: &mut bool) {
        self.read_flag(name).put(value);
    }

    fn integer<T>(&mut self, name: &'static str, range: RangeInclusive<i64>, value: &mut T)
    where
        T: Copy + TryFrom<i64> + TryInto<i64>,
    {
        self.read_integer(name, range).put(value);
    }

    fn number<T>(&mut self, name: &'static str, text: &Text<T>, value: &mut Option<T>) {
        let folder = self.folder();
        self.read_number(name, text.example, |digits| (text.read)(digits, folder).map(Some)).put(value);
    }

    fn integers<T>(&mut self, name: &'static str, range: RangeInclusive<i64>, values: &mut Vec<T>)
    where
        T: Copy + TryFrom<i64> + TryInto<i64>,
    {
        self.read_integers(name, range).put(values);
    }

    fn choice<T: Copy + PartialEq>(&mut self, name: &'static str, choices: &[(&'static str, T)], value: &mut T) {
        self.read(name, &quote(text_of(value, choices)), |text| one_of(text, choices)).put(value);
    }

    fn text<T>(&mut self, name: &'static str, text: &Text<T>, value: &mut T) {
        let folder = self.folder();
        self.read(name, &example(text, Some(value)), |typed| (text.read)(typed, folder)).put(value);
    }

    fn nonempty<T>(&mut self, name: &'static str, text: &Text<T>, value: &mut Option<T>) {
        let folder = self.folder();
        let read = |typed: &str| if typed.is_empty() { Ok(None) } else { (text.read)(typed, folder).map(Some) };
        self.read(name, &example(text, None), read).put(value);
    }

    fn optional<T>(&mut self, name: &'static str, text: &Text<T>, value: &mut Option<T>) {
        let folder = self.folder();
        self.read(name, &example(text, None), |typed| (text.read)(typed, folder).map(Some)).put(value);
    }

    fn list<T>(&mut self, name: &'static str, text: &Text<T>, values: &mut Vec<T>) {
        let folder = self.folder();
        self.read_list(name, &example(text, values.first()), |typed| (text.read)(typed, folder)).put(values);
    }

    fn optional_list<T>(&mut self, name: &'static str, text: &Text<T>, values: &mut Option<Vec<T>>) {
        let folder = self.folder();
        let read = self.read_list(name, &example(text, None), |typed| (text.read)(typed, folder));
        *values = read.good().or(values.take());
    }

    fn map(
        &mut self,
        name: &'static str,
        example: &str,
        (names, texts): (&Text<String>, &Text<String>),
        values: &mut BTreeMap<String, String>,
    ) {
        let folder = self.folder();
        self.read_map(name, example, |typed| (names.read)(typed, folder), |typed| (texts.read)(typed, folder))
            .put(values);
    }

    fn numbers<T>(
        &mut self,
        name: &'static str,
        example: &str,
        names: &Text<String>,
        number: &Text<T>,
        values: &mut BTreeMap<String, T>,
    ) {
        let folder = self.folder();
        self.read_numbers(name, example, |typed| (names.read)(typed, folder), |typed| (number.read)(typed, folder))
            .put(values);
    }

    fn named_blocks<T: Keys>(
        &mut self,
        name: &'static str,
        example: &str,
        names: &Text<String>,
        values: &mut BTreeMap<String, T>,
    ) {
        let folder = self.folder();
        let mut sections = self.named_sections(name, example, |typed| (names.read)(typed, folder));
        if sections.len() > MAX_BLOCKS {
            let count = sections.len();
            self.reject(name, format!("has {count} blocks; write at most {MAX_BLOCKS} blocks"));
            sections.truncate(MAX_BLOCKS);
        }
        for (name, mut section) in sections {
            let mut value = T::default();
            value.keys(&mut section);
            section.reject_unknown();
            values.insert(name, value);
        }
    }

    fn block(&mut self, name: &'static str, keys: impl FnOnce(&mut Self)) {
        keys(&mut self.section(name));
    }

    fn optional_block<T: Keys>(&mut self, name: &'static str, value: &mut Option<T>) {
        let mut section = self.section(name);
        if section.is_present() {
            value.get_or_insert_default().keys(&mut section);
        }
    }

    fn blocks<T: Keys>(&mut self, name: &'static str, values: &mut Vec<T>) {
        *values = self
            .bounded_sections(name)
            .iter_mut()
            .map(|section| {
                let mut value = T::default();
                value.keys(section);
                value
            })
            .collect();
    }
}

impl<'f> Section<'f> {
    /// Returns the blocks `[[name]]`, at most [`MAX_BLOCKS`] of them. If the file has more blocks, reports a problem.
    pub(crate) fn bounded_sections(&mut self, name: &'static str) -> Vec<Section<'f>> {
        let mut sections = self.sections(name);
        if sections.len() > MAX_BLOCKS {
            if !self.is_bad(name) {
                let count = sections.len();
                self.reject(name, format!("has {count} blocks; write at most {MAX_BLOCKS} blocks"));
            }
            sections.truncate(MAX_BLOCKS);
        }
        sections
    }
}
