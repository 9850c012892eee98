//! Reads a block whose keys are names that the operator chooses, and whose values are blocks or numbers.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::{Entry, Item, Read, Section};
use crate::keys::{Checked, quote};

impl Section<'_> {
    /// Opens the blocks in the block `name`. The operator chooses the names of these blocks. `check_name` checks each
    /// name.
    pub(in crate::config) fn named_sections(
        &mut self,
        name: &'static str,
        example: &str,
        check_name: impl Fn(&str) -> Checked<String>,
    ) -> Vec<(String, Self)> {
        let Some(item) = self.take(name) else { return Vec::new() };
        let DeValue::Table(table) = item.value else {
            self.wrong_type(&item, "a block belongs", &format!("{{ {example} }}"));
            return Vec::new();
        };
        let block = Section { file: self.file, key: item.key, line: item.line, table: Some(table) };
        let mut blocks: Vec<(String, Self)> = Vec::new();
        for (typed, value) in table {
            let key = block.path(typed.get_ref());
            let entry = Item { key, line: Some(self.file.line(typed.span().start)), value: value.get_ref() };
            let name = match check_name(typed.get_ref()) {
                Ok(name) if blocks.iter().any(|(known, _)| *known == name) => {
                    let message = "has a name that differs from another name only in case; keep one of the two names";
                    self.complain(&entry, message.to_owned());
                    continue;
                }
                Ok(name) => name,
                Err(message) => {
                    self.file.report(block.key.clone(), entry.line, quote(typed.get_ref()), message);
                    continue;
                }
            };
            match entry.value {
                DeValue::Table(table) => {
                    blocks.push((
                        name,
                        Section { file: self.file, key: entry.key, line: entry.line, table: Some(table) },
                    ));
                }
                _ => self.wrong_type(&entry, "a block belongs", &format!("{{ {example} }}")),
            }
        }
        blocks
    }

    /// Reads a block of numbers. The operator chooses the names of these numbers. `check_name` checks each name, and
    /// `check` reads each number from its text.
    pub(in crate::config) fn read_numbers<T>(
        &mut self,
        name: &'static str,
        example: &str,
        check_name: impl Fn(&str) -> Checked<String>,
        check: impl Fn(&str) -> Checked<T>,
    ) -> Read<BTreeMap<String, T>> {
        self.read_entries(name, example, check_name, |block, entry, example| {
            let text = match entry.value {
                DeValue::Integer(number) => number.to_string(),
                DeValue::Float(number) => number.as_str().to_owned(),
                _ => {
                    block.wrong_type(entry, "a number belongs", &format!("for example {example}, without quotes"));
                    return Read::Bad;
                }
            };
            check(&text).map_or_else(
                |message| {
                    block.complain(entry, message);
                    Read::Bad
                },
                Read::Good,
            )
        })
    }

    /// Reports a problem with the entry at a position of the list `name`.
    pub(crate) fn reject_at(&self, name: &str, index: usize, message: impl Into<String>) {
        self.reject_entry(name, Entry::At(index), message);
    }
}
