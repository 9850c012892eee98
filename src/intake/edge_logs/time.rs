//! Reads the time of a log line.

use time::{Date, Month};

/// Reads a time from a text: Unix time as a number, or a date with a time as in RFC 3339. Returns the seconds of Unix
/// time, or `None` if the text is not a time.
pub(super) fn of_text(text: &str) -> Option<i64> {
    let text = text.trim_ascii();
    match text.as_bytes().get(4) {
        Some(b'-') => of_date(text.as_bytes()),
        _ => of_number(text.parse().ok()?),
    }
}

/// Reads Unix time as a number of seconds, milliseconds, microseconds or nanoseconds. The size of the number decides
/// the unit. A number below 10^11 is a number of seconds, up to the year 5138.
pub(super) fn of_number(number: f64) -> Option<i64> {
    let seconds = match number {
        number if !(0.0..1e20).contains(&number) => return None,
        number if number < 1e11 => number,
        number if number < 1e14 => number / 1e3,
        number if number < 1e17 => number / 1e6,
        number => number / 1e9,
    };
    #[allow(clippy::cast_possible_truncation, reason = "a number below 1e11 fits, and the fraction is not needed")]
    Some(seconds as i64)
}

/// Reads `2026-11-28T12:30:00.25+01:00`. A space is allowed in place of the `T`, and the colon in the offset is
/// optional. A time without an offset is UTC.
fn of_date(text: &[u8]) -> Option<i64> {
    let (date, rest) = text.split_at_checked(19)?;
    let two = |at: usize| Some(digit(date, at)? * 10 + digit(date, at + 1)?);
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.into_iter().any(|(at, byte)| date.get(at) != Some(&byte))
        || !matches!(date.get(10), Some(b'T' | b't' | b' '))
    {
        return None;
    }
    let month = Month::try_from(u8::try_from(two(5)?).ok()?).ok()?;
    let year = i32::try_from(two(0)? * 100 + two(2)?).ok()?;
    let day = Date::from_calendar_date(year, month, u8::try_from(two(8)?).ok()?).ok()?;
    let (hours, minutes, seconds) = (two(11)?, two(14)?, two(17)?);
    // RFC 3339 allows the second 60 for a leap second.
    if hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    let days = i64::from(day.to_julian_day() - time::UtcDateTime::UNIX_EPOCH.date().to_julian_day());
    Some(days * 86_400 + hours * 3600 + minutes * 60 + seconds - offset(rest)?)
}

/// Reads the rest of a date after its seconds: the fraction of the second and the offset from UTC. Returns the offset
/// in seconds. The fraction is ignored.
fn offset(rest: &[u8]) -> Option<i64> {
    let fraction = rest.iter().skip(1).take_while(|byte| byte.is_ascii_digit()).count();
    let zone = if rest.first() == Some(&b'.') && fraction > 0 { rest.get(fraction + 1..)? } else { rest };
    let (sign, zone) = match zone.split_first() {
        None | Some((b'Z' | b'z', [])) => return Some(0),
        Some((b'+', zone)) => (1, zone),
        Some((b'-', zone)) => (-1, zone),
        Some((b' ', _)) => return offset(zone.trim_ascii()),
        _ => return None,
    };
    let (hours, minutes) = match zone.len() {
        4 => zone.split_at(2),
        5 if zone.get(2) == Some(&b':') => (zone.get(..2)?, zone.get(3..)?),
        _ => return None,
    };
    let two = |text: &[u8]| Some(digit(text, 0)? * 10 + digit(text, 1)?);
    Some(sign * (two(hours)? * 3600 + two(minutes)? * 60))
}

fn digit(text: &[u8], at: usize) -> Option<i64> {
    text.get(at).filter(|byte| byte.is_ascii_digit()).map(|byte| i64::from(byte - b'0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn time_when_valid_then_converted_to_seconds_of_unix_time() {
        for (text, seconds) in [
            ("1700000000", 1_700_000_000),
            ("1700000000.999", 1_700_000_000),
            ("1700000000123", 1_700_000_000),
            ("1700000000123456", 1_700_000_000),
            ("1700000000123456789", 1_700_000_000),
            ("2023-11-14T22:13:20Z", 1_700_000_000),
            ("2023-11-14 22:13:20", 1_700_000_000),
            ("2023-11-14T22:13:20.123456Z", 1_700_000_000),
            ("2023-11-14T23:13:20+01:00", 1_700_000_000),
            ("2023-11-14T16:43:20-0530", 1_700_000_000),
            ("2023-11-14 22:13:20 +0000", 1_700_000_000),
            ("1970-01-01T00:00:00Z", 0),
            ("2024-02-29T12:00:00Z", 1_709_208_000),
        ] {
            assert_eq!(of_text(text), Some(seconds), "{text}");
        }
    }

    #[test]
    fn time_when_invalid_then_rejected() {
        for text in [
            "",
            "-",
            "now",
            "-1",
            "NaN",
            "inf",
            "1e30",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-11-14T24:00:00Z",
            "2023-11-14",
            "2023-11-14T22:13:20X",
            "2023-11-14T22:13:20+1",
            "2023-11-14T22:13:20.Z",
            "2023/11/14T22:13:20Z",
        ] {
            assert_eq!(of_text(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn time_when_text_is_arbitrary_then_parse_does_not_panic(
            text in ".{0,40}", date in "[0-9-]{10}[T ][0-9:]{8}[Z.+0-9:-]{0,8}"
        ) {
            let _ = (of_text(&text), of_text(&date));
        }
    }
}
