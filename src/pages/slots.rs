//! The values of one request, as texts.

use time::UtcDateTime;

use super::escape::{Escape, widths};
use super::page_values::{PageValues, cut};
use crate::wire::decimal;

/// A placeholder for a value of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Status,
    Id,
    Provider,
    Pop,
    Cause,
    Time,
    TimeRfc3339,
    RetryAfter,
    Waiting,
    /// `Waiting` as [`Digits::grouped`] writes it.
    WaitingGrouped,
}

const SLOTS: usize = 10;

impl Slot {
    pub(super) const ALL: [(&str, Self); 9] = [
        ("status", Self::Status),
        ("id", Self::Id),
        ("provider", Self::Provider),
        ("pop", Self::Pop),
        ("cause", Self::Cause),
        ("time", Self::Time),
        ("time_rfc3339", Self::TimeRfc3339),
        ("retry_after", Self::RetryAfter),
        ("waiting", Self::Waiting),
    ];
}

/// The numbers of one request, as texts.
pub(super) struct Numbers {
    pub(super) retry_after: Digits,
    pub(super) waiting: Digits,
    pub(super) waiting_grouped: Digits,
}

/// A number as a text, without an allocation.
#[derive(Clone, Copy)]
pub(super) struct Digits {
    /// The text. The longest text has 22 bytes: ten digits, and three separators of four bytes each.
    bytes: [u8; 22],
    count: usize,
}

impl Digits {
    pub(super) fn plain(number: u32) -> Self {
        let mut digits = Self { bytes: [0; 22], count: 0 };
        digits.push(decimal::write(number.into(), &mut [0; 20]));
        digits
    }

    /// Writes a number with a separator between groups of three digits. A number of four digits gets no separator,
    /// because some languages do not allow a separator in such a number.
    pub(super) fn grouped(number: u32, separator: &str) -> Self {
        let plain = Self::plain(number);
        if plain.count < 5 {
            return plain;
        }
        let mut digits = Self { bytes: [0; 22], count: 0 };
        for (place, digit) in plain.as_bytes().iter().enumerate() {
            let separator = if place > 0 && (plain.count - place).is_multiple_of(3) { separator } else { "" };
            digits.push(separator.as_bytes());
            digits.push(&[*digit]);
        }
        digits
    }

    /// Appends `text`. `bytes` is large enough for every number.
    fn push(&mut self, text: &[u8]) {
        let end = self.count + text.len();
        if let Some(free) = self.bytes.get_mut(self.count..end) {
            free.copy_from_slice(text);
            self.count = end;
        }
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.count).unwrap_or_default()
    }
}

/// The values of one request as texts.
pub(super) struct SlotTexts<'a> {
    /// Each value, its length after escaping as HTML, and its length after escaping for a query. The order is the order
    /// of the variants of [`Slot`].
    all: [(&'a [u8], u16, u16); SLOTS],
}

impl<'a> SlotTexts<'a> {
    pub(super) fn new(values: &PageValues<'a>, status: &'a str, clock: &'a Clock, numbers: &'a Numbers) -> Self {
        let measured = |text: &'a [u8]| {
            let (html, query) = widths(text);
            (text, html, query)
        };
        let all = [
            status.as_bytes(),
            cut(values.id).as_bytes(),
            cut(values.provider).as_bytes(),
            cut(values.pop).as_bytes(),
            cut(values.cause).as_bytes(),
            &clock.readable,
            &clock.rfc3339,
            numbers.retry_after.as_bytes(),
            numbers.waiting.as_bytes(),
            numbers.waiting_grouped.as_bytes(),
        ];
        Self { all: all.map(measured) }
    }

    /// Returns the length of a value after escaping. Without a value, the length is 0.
    pub(super) fn bytes(&self, value: Option<(Slot, Escape)>) -> u16 {
        value.map_or(0, |(slot, escape)| {
            let (_, html, query) = self.all[usize::from(slot as u8)];
            match escape {
                Escape::Html => html,
                Escape::Query => query,
            }
        })
    }

    pub(super) fn push(&self, out: &mut Vec<u8>, value: Option<(Slot, Escape)>) {
        let Some((slot, escape)) = value else { return };
        let (text, ..) = self.all[usize::from(slot as u8)];
        if text.len() == usize::from(self.bytes(value)) {
            out.extend_from_slice(text);
        } else {
            escape.push(out, text);
        }
    }
}

/// A time in UTC as two texts, in whole seconds.
pub(super) struct Clock {
    /// `2026-11-22 11:09:01 UTC`
    readable: [u8; 23],
    /// `2026-11-22T11:09:01Z` (RFC 3339)
    rfc3339: [u8; 20],
}

impl Clock {
    /// Formats a time. RFC 3339 cannot express a time after the year 9999, so such a time becomes the last second of
    /// the year 9999.
    pub(super) fn at(unix_seconds: u64) -> Self {
        const LAST_SECOND: i64 = 253_402_300_799;
        let seconds = i64::try_from(unix_seconds).unwrap_or(LAST_SECOND).min(LAST_SECOND);
        let time = UtcDateTime::from_unix_timestamp(seconds).unwrap_or(UtcDateTime::UNIX_EPOCH);
        let (year, month, day) = time.to_calendar_date();
        let (hour, minute, second) = time.as_hms();
        // `write!` would take ten times as long as this loop.
        let [century, year] = [year / 100, year % 100].map(|number| u8::try_from(number).unwrap_or_default());
        let mut readable = *b"0000-00-00 00:00:00 UTC";
        for (start, number) in
            [(0, century), (2, year), (5, month.into()), (8, day), (11, hour), (14, minute), (17, second)]
        {
            readable[start] += number / 10;
            readable[start + 1] += number % 10;
        }
        let mut rfc3339 = [b'Z'; 20];
        for (to, from) in rfc3339.iter_mut().zip(readable).take(19) {
            *to = if from == b' ' { b'T' } else { from };
        }
        Self { readable, rfc3339 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_when_longer_than_four_digits_then_gets_separators() {
        for (number, separator, grouped) in [
            (0, ",", "0"),
            (9_999, ",", "9999"),
            (10_000, ",", "10,000"),
            (123_456, "", "123456"),
            (u32::MAX, "\u{10ffff}", "4\u{10ffff}294\u{10ffff}967\u{10ffff}295"),
        ] {
            assert_eq!(Digits::grouped(number, separator).as_bytes(), grouped.as_bytes());
        }
    }

    #[test]
    fn clock_when_unix_time_is_given_then_formats_utc_time() {
        for (second, readable) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_868_799, "2000-02-29 23:59:59 UTC"),
            (1_795_345_741, "2026-11-22 11:09:01 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (253_402_300_799, "9999-12-31 23:59:59 UTC"),
            (u64::MAX, "9999-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(Clock::at(second).readable, readable.as_bytes());
        }
        assert_eq!(Clock::at(1_795_345_741).rfc3339, *b"2026-11-22T11:09:01Z");
    }
}
