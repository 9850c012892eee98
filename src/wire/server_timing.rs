//! Server-Timing (W3C Server Timing): the CDN of a response, and the time until the origin's response head arrived.
//!
//! A script in a page reads these values from `PerformanceResourceTiming.serverTiming`. A CDN stores the field with the
//! response. So if the CDN serves a response from its cache, the field contains the time of the pull that filled the
//! cache.

use std::io::Write as _;

use http::HeaderValue;

/// The size of the buffer for one value, in bytes. The longest value has 99 bytes: the fixed parts, a label of 64 bytes
/// and a time of 11 bytes.
const MAX_BYTES: usize = 128;

/// The prepared values of all providers, without the time.
#[derive(Debug, Clone)]
pub(crate) struct ServerTiming {
    prefixes: Vec<String>,
}

impl ServerTiming {
    /// Prepares the values. The labels must not have characters that need an escape in a quoted string.
    pub(crate) fn new<'l>(labels: impl IntoIterator<Item = &'l str>) -> Self {
        Self { prefixes: labels.into_iter().map(|label| format!("cdn;desc=\"{label}\", origin;dur=")).collect() }
    }

    /// Returns the value for the label at `index` and the origin's time, or `None` if no label has this index. In the
    /// value, `dur` is in milliseconds. Allocates once.
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
    fn value_when_label_exists_then_contains_label_and_milliseconds() {
        let longest = "x".repeat(64);
        let timing = ServerTiming::new(["none", "fastly", &longest]);
        assert_eq!(timing.value(0, 0).unwrap(), "cdn;desc=\"none\", origin;dur=0.000");
        assert_eq!(timing.value(1, 12_045).unwrap(), "cdn;desc=\"fastly\", origin;dur=12.045");
        assert!(timing.value(2, u32::MAX).unwrap().as_bytes().ends_with(b"\", origin;dur=4294967.295"));
        assert_eq!(timing.value(3, 0), None);
    }
}
