//! Months in UTC, the times of samples, and the slots of 5 minutes.

use std::fmt;

use time::{Date, Time, UtcDateTime};

/// The length of a slot. Many CDNs measure traffic in slots of 5 minutes, and bill the 95th percentile of the slots.
pub(crate) const SLOT_SECONDS: u64 = 300;
pub(crate) const DAY_SECONDS: u64 = 86_400;

/// A calendar month in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Month {
    year: i32,
    month: time::Month,
}

impl Month {
    /// Returns the month of a Unix time.
    pub(crate) fn of_unix(seconds: u64) -> Self {
        let time = i64::try_from(seconds).ok().and_then(|seconds| UtcDateTime::from_unix_timestamp(seconds).ok());
        let time = time.unwrap_or(UtcDateTime::UNIX_EPOCH);
        Self { year: time.year(), month: time.month() }
    }

    /// Reads a month in the form `2026-11`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (year, month) = text.split_once('-')?;
        let digits = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(year, 4) || !digits(month, 2) {
            return None;
        }
        let year = year.parse().ok().filter(|year| *year >= 1970)?;
        Some(Self { year, month: month.parse::<u8>().ok()?.try_into().ok()? })
    }

    /// Returns the Unix time at which the month starts.
    pub(crate) fn start(self) -> u64 {
        Date::from_calendar_date(self.year, self.month, 1).map_or(0, |date| unix(date, Time::MIDNIGHT))
    }

    pub(crate) fn seconds(self) -> u64 {
        u64::from(self.month.length(self.year)) * DAY_SECONDS
    }

    /// Returns the number of the slot that contains a Unix time. `None`: the time is not in this month.
    pub(crate) fn slot(self, seconds: u64) -> Option<u32> {
        let since = seconds.checked_sub(self.start()).filter(|since| *since < self.seconds())?;
        u32::try_from(since / SLOT_SECONDS).ok()
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, u8::from(self.month))
    }
}

fn unix(date: Date, time: Time) -> u64 {
    u64::try_from(UtcDateTime::new(date, time).unix_timestamp()).unwrap_or(0)
}

/// Reads a time in UTC such as `2026-11-29T02:55:00Z`, with or without a fraction of a second. Returns the Unix time.
/// `None`: the text has another form, or there is no such time.
pub(crate) fn unix_of(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (month, day) = date.rsplit_once('-')?;
    let month = Month::parse(month)?;
    let date = Date::from_calendar_date(month.year, month.month, two_digits(day)?).ok()?;
    let mut parts = time.split(':').map(two_digits);
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() {
        return None;
    }
    Some(unix(date, Time::from_hms(hour, minute, second).ok()?))
}

fn two_digits(text: &str) -> Option<u8> {
    (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Writes a Unix time in the form that [`unix_of`] reads.
pub(crate) fn time_text(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| UtcDateTime::from_unix_timestamp(seconds).ok());
    let time = time.unwrap_or(UtcDateTime::UNIX_EPOCH);
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time.hour(), time.minute(), time.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn month(text: &str) -> Month {
        Month::parse(text).unwrap_or_else(|| panic!("{text} is a month"))
    }

    #[test]
    fn february_when_year_is_a_leap_year_then_has_29_days() {
        for (text, days) in
            [("2024-02", 29), ("2025-02", 28), ("2000-02", 29), ("2100-02", 28), ("2026-11", 30), ("2026-12", 31)]
        {
            assert_eq!(month(text).seconds(), days * DAY_SECONDS, "{text}");
        }
        let leap_day = unix_of("2024-02-29T23:59:59Z").expect("a leap day");
        assert_eq!(month("2024-02").slot(leap_day), Some(29 * 288 - 1));
        assert_eq!(unix_of("2025-02-29T00:00:00Z"), None);
    }

    #[test]
    fn slot_when_time_is_at_the_border_of_the_month_then_belongs_to_one_month() {
        let (november, december) = (month("2026-11"), month("2026-12"));
        let first = unix_of("2026-12-01T00:00:00Z").expect("a time");
        assert_eq!((november.slot(first - 1), december.slot(first - 1)), (Some(30 * 288 - 1), None));
        assert_eq!((november.slot(first), december.slot(first)), (None, Some(0)));
        assert_eq!(december.slot(first + 299), Some(0));
        assert_eq!(december.slot(first + 300), Some(1));
        assert_eq!((Month::of_unix(first - 1), Month::of_unix(first)), (november, december));
        assert_eq!(month("2026-12").start() + month("2026-12").seconds(), month("2027-01").start());
    }

    #[test]
    fn text_when_not_a_month_or_a_time_then_is_rejected() {
        for bad in ["", "2026", "2026-13", "2026-00", "26-11", "2026-1", "2026-11-01", "1969-12", "+026-11", "2026-１1"]
        {
            assert_eq!(Month::parse(bad), None, "{bad}");
        }
        assert_eq!(unix_of("1970-01-01T00:00:01.999Z"), Some(1));
        for bad in [
            "",
            "2026-11-29",
            "2026-11-29T02:55:00",
            "2026-11-29T02:55:00+01:00",
            "2026-11-29 02:55:00Z",
            "2026-11-29T02:55Z",
            "2026-11-29T24:00:00Z",
            "2026-11-29T02:60:00Z",
            "2026-11-29T02:55:60Z",
            "2026-11-31T02:55:00Z",
            "2026-11-29T02:55:00.Z",
            "2026-11-29T02:55:00:00Z",
            "99999-11-29T02:55:00Z",
        ] {
            assert_eq!(unix_of(bad), None, "{bad}");
        }
        let seconds = unix_of("2026-11-29T02:55:07Z").expect("a time");
        assert_eq!(time_text(seconds), "2026-11-29T02:55:07Z");
        assert_eq!(month("2026-11").to_string(), "2026-11");
    }
}
