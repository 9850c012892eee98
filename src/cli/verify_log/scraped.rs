//! Reads the counters from the text of the metrics.

use std::collections::BTreeMap;

use crate::access_log::reader::recount::{COUNTED, Counters, Series};
use crate::access_log::reader::stamp::Stamp;
use crate::metrics::describe;
use std::time::{Duration, UNIX_EPOCH};

/// One reading of the metrics.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Scraped {
    /// The counters that can also be computed from a log, with the labels that a log has.
    pub(super) counters: Counters,
    /// The number of requests in flight.
    pub(super) in_flight: u64,
    /// The number of log lines that were never written.
    pub(super) dropped: u64,
    /// The time at which the process started. `None`: the metrics do not contain the time.
    pub(super) started: Option<Stamp>,
}

impl Scraped {
    /// Reads the text of the metrics.
    ///
    /// # Errors
    /// The text is not the metrics of edgeshim. The message says what is wrong.
    pub(super) fn read(text: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(text).map_err(|_| "the metrics are not UTF-8".to_owned())?;
        let mut scraped = Self::default();
        let metrics: BTreeMap<_, _> = COUNTED.iter().map(|metric| (metric.name(), metric)).collect();
        let mut has_pulls = false;
        for (line, number) in text.lines().zip(1..) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let broken = || format!("line {number} of the metrics cannot be read");
            let (name, labels, value) = series(line).ok_or_else(broken)?;
            let float = || value.parse::<f64>().map_err(|_| broken());
            let whole = || value.parse::<u64>().or_else(|_| float().map(whole));
            if let Some(metric) = metrics.get(name) {
                has_pulls |= name == describe::PULLS.name();
                if let Some(labels) = metric.counted_labels(labels) {
                    let counter = scraped.counters.entry(Series { name: name.to_owned(), labels }).or_default();
                    *counter = counter.saturating_add(whole()?);
                }
            } else if name == describe::IN_FLIGHT.name() {
                scraped.in_flight = scraped.in_flight.saturating_add(whole()?);
            } else if name == describe::ACCESS_LOG_DROPPED.name() {
                scraped.dropped = whole()?;
            } else if name == describe::START.name() {
                let since = Duration::try_from_secs_f64(float()?).map_err(|_| broken())?;
                // The fraction of the number is not exact in binary. So half a millisecond is added before the stamp
                // cuts off all digits after the milliseconds.
                let started =
                    since.checked_add(Duration::from_micros(500)).and_then(|since| UNIX_EPOCH.checked_add(since));
                scraped.started = Some(Stamp::of_time(started.ok_or_else(broken)?));
            }
        }
        if has_pulls { Ok(scraped) } else { Err("the metrics contain no edgeshim_pulls_total".to_owned()) }
    }
}

/// Returns the nearest whole number that is not negative.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast of a float saturates")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

type Labels = Vec<(String, String)>;

/// Splits a line into the name, the labels and the value of a series.
fn series(line: &str) -> Option<(&str, Labels, &str)> {
    let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((label.trim_start_matches(',').to_owned(), value));
            rest = after;
        }
        rest = rest.strip_prefix('}')?;
    }
    Some((name, labels, rest.split_ascii_whitespace().next()?))
}

/// Splits a text at the closing quote. Returns the label value before the quote, and the text after the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, text.get(at + 1..)?)),
            (_, '\\') => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn metrics_when_of_edgeshim_then_counters_gauges_and_start_are_read() {
        let text = concat!(
            "# HELP edgeshim_pulls_total x\n",
            "edgeshim_pulls_total{provider=\"a\\\"\\\\\",class=\"html\",code=\"200\"} 7\n",
            "edgeshim_pull_seconds_bucket{provider=\"a\",class=\"html\",le=\"1\"} 9\n",
            "edgeshim_pull_seconds_count{provider=\"a\",class=\"html\"} 9\n",
            "edgeshim_refused_total{provider=\"none\",reason=\"malformed\"} 3\n",
            "edgeshim_refused_total{provider=\"none\",reason=\"host\"} 2\n",
            "edgeshim_beacons_total{source=\"a\",country=\"DE\"} 4\n",
            "edgeshim_beacons_total{source=\"b\",country=\"FR\"} 5\n",
            "edgeshim_in_flight{provider=\"a\"} 1\nedgeshim_in_flight{provider=\"b\"} 2\n",
            "edgeshim_access_log_dropped_total 6\n\n",
            "edgeshim_start_timestamp_seconds 1795345741.042\n",
            "edgeshim_offload_ratio{provider=\"a\",of=\"bytes\"} 0.5\n",
        );
        let scraped = Scraped::read(text.as_bytes()).unwrap();
        let values: Vec<_> = scraped.counters.iter().map(|(series, value)| (series.name.as_str(), *value)).collect();
        let expected = [
            ("edgeshim_beacons_total", 9),
            ("edgeshim_pull_seconds_count", 9),
            ("edgeshim_pulls_total", 7),
            ("edgeshim_refused_total", 2),
        ];
        assert_eq!(values, expected);
        let pulls = scraped.counters.keys().find(|series| series.name == "edgeshim_pulls_total").unwrap();
        assert_eq!(pulls.labels[0], ("provider".to_owned(), "a\"\\".to_owned()));
        assert_eq!((scraped.in_flight, scraped.dropped), (3, 6));
        assert_eq!(scraped.started.unwrap().text(), "2026-11-22T11:09:01.042Z");
    }

    #[test]
    fn metrics_when_of_another_program_or_damaged_then_rejected() {
        for text in ["", "up 1\n", "<html>", "edgeshim_pulls_total{provider=\"a} 1\n", "edgeshim_pulls_total x\n"] {
            assert!(Scraped::read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Scraped::read(b"\xff").is_err());
    }

    proptest! {
        #[test]
        fn metrics_when_arbitrary_then_read_does_not_panic(
            text in "(edgeshim_(pulls_total|in_flight)?[{}=\",\\\\ 0-9a-e.+-]{0,30}\n){0,4}",
        ) {
            let _ = Scraped::read(text.as_bytes());
        }
    }
}
