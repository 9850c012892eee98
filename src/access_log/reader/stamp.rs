//! The time of a line as text: `2026-11-28T12:30:00.000Z`. All texts have the same length and the same time zone. So
//! the order of the texts is the order of the times, and two times are compared as texts.

use std::time::{SystemTime, UNIX_EPOCH};

use time::UtcDateTime;

/// The length of the text.
const LENGTH: usize = 24;

/// A time with a precision of one millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp([u8; LENGTH]);

impl Stamp {
    /// Returns the time of a line. `None`: the text is not a time in this form.
    pub(crate) fn of_text(text: &[u8]) -> Option<Self> {
        text.try_into().ok().map(Self).filter(|_| is_stamp(text))
    }

    /// Returns the stamp of a time in the years 1970 to 9999. For any other time, returns a stamp in the first or the
    /// last second of these years.
    pub(crate) fn of_time(time: SystemTime) -> Self {
        const LAST_SECOND: u64 = 253_402_300_799;
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs().min(LAST_SECOND)).unwrap_or_default();
        let date = UtcDateTime::from_unix_timestamp(seconds).unwrap_or(UtcDateTime::UNIX_EPOCH);
        let text = format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            date.hour(),
            date.minute(),
            date.second(),
            since.subsec_millis(),
        );
        Self::of_text(text.as_bytes()).unwrap_or(Self(*b"1970-01-01T00:00:00.000Z"))
    }

    /// Returns the text of the stamp, which is ASCII.
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Returns whether a text has the form of a stamp.
pub(super) fn is_stamp(text: &[u8]) -> bool {
    const FORM: &[u8; LENGTH] = b"0000-00-00T00:00:00.000Z";
    let same = |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
    text.len() == LENGTH && text.iter().zip(FORM).all(same)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn stamp_when_made_of_a_time_then_is_formatted_and_sorts_by_time() {
        let at = |millis| Stamp::of_time(UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(at(1_795_345_741_042).text(), "2026-11-22T11:09:01.042Z");
        assert!(at(1_795_345_741_042) < at(1_795_345_741_043) && at(999_999_999_999) < at(1_000_000_000_000));
        assert_eq!(at(u64::MAX / 1_000_000_000 * 1_000_000_000).text().get(..4), Some("9999"));
    }

    #[test]
    fn text_when_not_a_stamp_then_rejected() {
        for text in [
            "",
            "2026-11-22T11:09:01Z",
            "2026-11-22 11:09:01.042Z",
            "2026-11-22T11:09:01.042z",
            "2026-1a-22T11:09:01.042Z",
        ] {
            assert_eq!(Stamp::of_text(text.as_bytes()), None, "{text}");
        }
    }
}
