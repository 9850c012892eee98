//! Server-Timing (W3C Server Timing): by which CDN an answer came, and how long the origin took for it.
//!
//! A page's script reads it in `PerformanceResourceTiming.serverTiming`, and so learns which CDN served it. A CDN keeps the line with
//! the answer: on a hit the name is right, and the time is that of the pull which filled the cache.

use std::io::Write as _;

use http::HeaderValue;

/// The longest value: the fixed parts, a label of 64 bytes, a time of eleven digits and a point.
const MAX_BYTES: usize = 128;

/// The values of all providers, but for the time.
#[derive(Debug, Clone)]
pub(crate) struct ServerTiming {
    begun: Vec<String>,
}

impl ServerTiming {
    /// Prepares the values for labels, which have no character that a quoted string would have to escape.
    pub(crate) fn new<'l>(labels: impl IntoIterator<Item = &'l str>) -> Self {
        Self { begun: labels.into_iter().map(|label| format!("cdn;desc=\"{label}\", origin;dur=")).collect() }
    }

    /// The value for the label at `place` and an origin that took so many microseconds; `dur` is in milliseconds. One allocation. None
    /// for a place that there is not.
    pub(crate) fn value(&self, place: usize, micros: u32) -> Option<HeaderValue> {
        let mut text = [0; MAX_BYTES];
        let mut rest = &mut text[..];
        write!(rest, "{}{}.{:03}", self.begun.get(place)?, micros / 1000, micros % 1000).ok()?;
        let length = MAX_BYTES - rest.len();
        HeaderValue::from_bytes(text.get(..length)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_say_provider_and_milliseconds() {
        let longest = "x".repeat(64);
        let timing = ServerTiming::new(["none", "fastly", &longest]);
        assert_eq!(timing.value(0, 0).unwrap(), "cdn;desc=\"none\", origin;dur=0.000");
        assert_eq!(timing.value(1, 12_045).unwrap(), "cdn;desc=\"fastly\", origin;dur=12.045");
        assert!(timing.value(2, u32::MAX).unwrap().as_bytes().ends_with(b"\", origin;dur=4294967.295"));
        assert_eq!(timing.value(3, 0), None);
    }
}
