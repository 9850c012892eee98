//! Reads numbers: whole numbers within a range, lists of whole numbers, and decimal numbers as their digits.

use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::{Item, Read, Section};
use crate::keys::Checked;

impl<'f> Section<'f> {
    /// Reads a whole number within `range`.
    pub(in crate::config) fn read_integer<T: TryFrom<i64>>(
        &mut self,
        name: &'static str,
        range: RangeInclusive<i64>,
    ) -> Read<T> {
        let Some(item) = self.take(name) else { return Read::Absent };
        self.check_integer(&item, &range).and_then(|value| T::try_from(value).ok()).map_or(Read::Bad, Read::Good)
    }

    /// Reads a number. `check` gets its digits as in the file, with a sign if there is one.
    pub(in crate::config) fn read_number<T>(
        &mut self,
        name: &'static str,
        example: &str,
        check: impl FnOnce(&str) -> Checked<T>,
    ) -> Read<T> {
        let Some(item) = self.take(name) else { return Read::Absent };
        let digits = match item.value {
            DeValue::Integer(typed) if typed.radix() == 10 => typed.as_str(),
            DeValue::Float(typed) => typed.as_str(),
            _ => {
                self.wrong_type(&item, "a decimal number belongs", &format!("for example {example}, without quotes"));
                return Read::Bad;
            }
        };
        match check(digits) {
            Ok(value) => Read::Good(value),
            Err(message) => {
                self.complain(&item, message);
                Read::Bad
            }
        }
    }

    /// Reads a list of whole numbers within `range`.
    pub(in crate::config) fn read_integers<T: TryFrom<i64>>(
        &mut self,
        name: &'static str,
        range: RangeInclusive<i64>,
    ) -> Read<Vec<T>> {
        let Some(item) = self.take(name) else { return Read::Absent };
        let Some(entries) = self.entries(&item, &range.end().to_string()) else { return Read::Bad };
        let read = |entry| T::try_from(self.check_integer(entry, &range)?).ok();
        let values: Vec<T> = entries.iter().filter_map(read).collect();
        if values.len() == entries.len() { Read::Good(values) } else { Read::Bad }
    }

    pub(super) fn check_integer(&self, item: &Item<'f>, range: &RangeInclusive<i64>) -> Option<i64> {
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
}
