//! The warnings about certificates that have expired or will soon expire.

use std::time::{Duration, SystemTime};

use crate::clock;

/// A certificate that expires within this time causes a warning.
const WARN_BEFORE: Duration = Duration::from_hours(14 * 24);
const DAY_SECONDS: i64 = 86_400;

/// Returns a warning if a certificate is not valid now, or expires within [`WARN_BEFORE`]. `not_before` and
/// `not_after` are the first and the last second of the validity. The warning continues a sentence that begins with the
/// path.
pub(super) fn warning((not_before, not_after): (i64, i64), now: i64) -> Option<String> {
    const REMEDY: &str = "renew the certificate, and write the new certificate and its key to the same files; \
                          edgeshim reads the files again after a change";
    let date = |seconds: i64| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        httpdate::fmt_http_date(time)
    };
    let before = i64::try_from(WARN_BEFORE.as_secs()).unwrap_or(i64::MAX);
    if now < not_before {
        Some(format!(
            "is not valid before {}; check the clock of this host, or name a certificate that is valid now",
            date(not_before)
        ))
    } else if now > not_after {
        Some(format!("expired on {}, so clients refuse the certificate; {REMEDY}", date(not_after)))
    } else if not_after - now < before {
        let left = match days_left(not_after, now) {
            0 => "in less than a day".to_owned(),
            1 => "in 1 day".to_owned(),
            days => format!("in {days} days"),
        };
        Some(format!("expires {left}, on {}; {REMEDY}", date(not_after)))
    } else {
        None
    }
}

/// Returns the number of complete days until a certificate expires. The number is negative after the expiry.
pub(super) fn days_left(not_after: i64, now: i64) -> i64 {
    (not_after - now).div_euclid(DAY_SECONDS)
}

/// Returns the current time, in seconds of Unix time.
pub(super) fn unix_now() -> i64 {
    i64::try_from(clock::unix_time().as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warning_when_certificate_is_invalid_or_expires_soon_then_says_when() {
        const NOW: i64 = 1_700_000_000;
        for (seconds, expected) in [
            (0, "expires in less than a day, on "),
            (DAY_SECONDS - 1, "expires in less than a day, on "),
            (DAY_SECONDS, "expires in 1 day, on "),
            (2 * DAY_SECONDS, "expires in 2 days, on "),
            (-1, "expired on Tue, 14 Nov 2023 22:13:19 GMT, so clients refuse"),
        ] {
            let text = warning((0, NOW + seconds), NOW).unwrap();
            assert!(text.starts_with(expected), "{seconds}: {text}");
        }
        assert_eq!(warning((0, NOW + 14 * DAY_SECONDS), NOW), None);
        assert!(warning((NOW + 1, NOW + DAY_SECONDS), NOW).unwrap().starts_with("is not valid before "));
    }
}
