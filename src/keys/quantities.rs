//! Durations and sizes.

use std::time::Duration;

use super::{Checked, Text, quote};

/// The longest duration in seconds: ten years of 365 days.
const MAX_DURATION_SECONDS: u64 = 10 * 365 * 86_400;

/// A duration that is allowed to be zero.
pub(crate) const DURATION: Text<Duration> =
    Text { example: "10s", read: |text, _| duration(text), write: |value| duration_text(*value) };

/// A time limit: a duration above zero.
pub(crate) const TIMEOUT: Text<Duration> =
    Text { example: "10s", read: |text, _| timeout(text), write: |value| duration_text(*value) };

/// A time limit in whole seconds.
pub(crate) const WHOLE_SECONDS: Text<Duration> = Text {
    example: "30s",
    read: |text, _| timeout(text).and_then(|_| seconds(text)).map(Duration::from_secs),
    write: |value| duration_text(*value),
};

/// A time that edgeshim writes into a header field, in whole seconds. Zero is allowed.
pub(crate) const SECONDS: Text<u64> =
    Text { example: "60s", read: |text, _| seconds(text), write: |value| format!("{value}s") };

/// A size in bytes.
pub(crate) const SIZE: Text<u64> =
    Text { example: "64KiB", read: |text, _| size(text), write: |value| size_text(*value) };

/// A limit on a size in bytes. `0` means no limit.
pub(crate) const SIZE_LIMIT: Text<Option<u64>> = Text {
    example: "64KiB",
    read: |text, _| size(text).map(|bytes| (bytes > 0).then_some(bytes)),
    write: |value| size_text(value.unwrap_or(0)),
};

/// Reads a duration, which is a whole number and one unit.
pub(crate) fn duration(text: &str) -> Checked<Duration> {
    const REMEDY: &str = "write a whole number and a unit (ms, s, m, h or d), for example";
    let (digits, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    if digits.is_empty() {
        return Err(format!("is not a duration; {REMEDY} \"10s\""));
    }
    let milliseconds_each: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => {
            return Err(format!("is a duration without a unit; {REMEDY} {}", quote(&format!("{digits}s"))));
        }
        _ => return Err(format!("is not a duration; {REMEDY} \"10s\"")),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(milliseconds_each))
        .filter(|&milliseconds| milliseconds <= MAX_DURATION_SECONDS * 1_000)
        .map(Duration::from_millis)
        .ok_or_else(|| "is longer than ten years; write at most \"3650d\"".to_owned())
}

/// Reads a duration above zero.
pub(crate) fn timeout(text: &str) -> Checked<Duration> {
    const ZERO: &str = "is zero; write a duration above 0, for example \"30s\"";
    // Without this condition, the message about "0" would say to write "0s".
    if !text.is_empty() && text.bytes().all(|byte| byte == b'0') {
        return Err(ZERO.to_owned());
    }
    let duration = duration(text)?;
    if duration.is_zero() {
        return Err(ZERO.to_owned());
    }
    Ok(duration)
}

/// Reads a duration that must be a whole number of seconds, because Cache-Control, Retry-After and the TTL of a record
/// in DNS contain whole seconds.
pub(crate) fn seconds(text: &str) -> Checked<u64> {
    let duration = duration(text)?;
    if duration.subsec_nanos() != 0 {
        return Err(format!(
            "has a fraction of a second, but whole seconds are needed here; write \"{}s\"",
            duration.as_secs() + 1
        ));
    }
    Ok(duration.as_secs())
}

/// Writes a duration in the largest unit that needs no fraction. The units are d, h, s and ms.
pub(crate) fn duration_text(duration: Duration) -> String {
    let (seconds, milliseconds) = (duration.as_secs(), duration.as_millis());
    match seconds {
        _ if duration.subsec_millis() != 0 => format!("{milliseconds}ms"),
        0 => "0s".to_owned(),
        // Minutes are not used, so two minutes are "120s".
        _ if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        _ if seconds.is_multiple_of(3_600) => format!("{}h", seconds / 3_600),
        _ => format!("{seconds}s"),
    }
}

/// Reads a size, which is a whole number and a unit, or `0`. Returns the number of bytes.
pub(crate) fn size(text: &str) -> Checked<u64> {
    const REMEDY: &str = "write a whole number and a unit (B, KiB, MiB or GiB), for example";
    let (digits, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    if digits.is_empty() {
        return Err(format!("is not a size; {REMEDY} \"64KiB\""));
    }
    let count = digits.parse::<u64>();
    let bytes_each: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" if count == Ok(0) => 1,
        "" => return Err(format!("is a size without a unit; {REMEDY} \"{digits}B\"")),
        _ => {
            let meant = match unit.to_ascii_lowercase().as_str() {
                "b" => "B",
                "k" | "kb" | "kib" => "KiB",
                "m" | "mb" | "mib" => "MiB",
                "g" | "gb" | "gib" => "GiB",
                _ => return Err(format!("is not a size; {REMEDY} \"64KiB\"")),
            };
            return Err(format!("has an ambiguous unit; write \"{digits}{meant}\""));
        }
    };
    count
        .ok()
        .and_then(|count| count.checked_mul(bytes_each))
        .filter(|&bytes| i64::try_from(bytes).is_ok())
        .ok_or_else(|| "is too large; write a smaller size, for example \"1000000GiB\"".to_owned())
}

/// Writes a size in the largest unit that needs no fraction.
pub(crate) fn size_text(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn duration_when_invalid_or_too_long_then_rejected() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Ok(Duration::from_mins(5)));
        assert_eq!(duration("2h"), Ok(Duration::from_hours(2)));
        assert_eq!(duration("7d"), Ok(Duration::from_hours(7 * 24)));
        assert_eq!(duration("94670800s"), Ok(Duration::from_secs(94_670_800)));
        for bad in
            ["", "s", "10", "1m30s", "-1s", "1.5s", " 1s", "1 s", "10 parsecs", "3651d", "99999999999999999999s", "１s"]
        {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(duration("10").is_err_and(|message| message.ends_with("\"10s\"")));
        assert!(timeout("0ms").is_err());
        assert!(seconds("1500ms").is_err_and(|message| message.contains("\"2s\"")));
        assert_eq!(seconds("2000ms"), Ok(2));
    }

    #[test]
    fn size_when_number_or_unit_is_invalid_then_rejected() {
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("100MiB"), Ok(104_857_600));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("512B"), Ok(512));
        assert_eq!(size("0"), Ok(0));
        for bad in ["", "KiB", "64", "64KB", "64kib", "1TiB", "-1B", "1.5MiB", "64 KiB", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(size("64kb").is_err_and(|message| message.contains("\"64KiB\"")));
    }

    proptest! {
        #[test]
        fn quantities_when_text_is_arbitrary_then_read_without_panic(text in any::<String>()) {
            let _ = (duration(&text), timeout(&text), seconds(&text), size(&text));
        }

        #[test]
        fn duration_and_size_when_written_then_read_back_as_the_same_value(
            milliseconds in 0..MAX_DURATION_SECONDS * 1_000,
            bytes in 0..u64::MAX >> 1,
        ) {
            let value = Duration::from_millis(milliseconds);
            prop_assert_eq!(duration(&duration_text(value)), Ok(value));
            prop_assert_eq!(size(&size_text(bytes)), Ok(bytes));
        }
    }
}
