//! Server-Timing (W3C Server Timing): the CDN of a response, and the origin's time for it.
//!
//! A script reads it in `PerformanceResourceTiming.serverTiming`. A CDN stores the field with the response, so on a hit
//! the time is that of the pull that filled the cache.

use std::io::Write as _;

use http::HeaderValue;

/// The longest value: the fixed parts, a label of 64 bytes, and a time of eleven bytes.
const MAX_BYTES: usize = 128;

/// The values of all providers, without the time.
#[derive(Debug, Clone)]
pub(crate) struct ServerTiming {
    prefixes: Vec<String>,
}

impl ServerTiming {
    /// Prepares the values. No label may have a character that must be escaped in a quoted string.
    pub(crate) fn new<'l>(labels: impl IntoIterator<Item = &'l str>) -> Self {
        Self { prefixes: labels.into_iter().map(|label| format!("cdn;desc=\"{label}\", origin;dur=")).collect() }
    }

    /// The value for the label at `index` and the origin's time; `dur` is in milliseconds. `None` if there is no such
    /// label. Allocates once.
    pub(crate) fn value(&self, index: usize, micros: u32) -> Option<HeaderValue> {
        let mut text = [0; MAX_BYTES];
        let mut rest = &mut text[..];
        write!(rest, "{}{}.{:03}", self.prefixes.get(index)?, micros / 1000, micros % 1000).ok()?;
        let length = MAX_BYTES - rest.len();
        HeaderValue::from_bytes(text.get(..length)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_when_label_exists_then_has_provider_and_milliseconds() {
        let longest = "x".repeat(64);
        let timing = ServerTiming::new(["none", "fastly", &longest]);
        assert_eq!(timing.value(0, 0).unwrap(), "cdn;desc=\"none\", origin;dur=0.000");
        assert_eq!(timing.value(1, 12_045).unwrap(), "cdn;desc=\"fastly\", origin;dur=12.045");
        assert!(timing.value(2, u32::MAX).unwrap().as_bytes().ends_with(b"\", origin;dur=4294967.295"));
        assert_eq!(timing.value(3, 0), None);
    }
}
