//! The check of the time to the first byte.

use std::time::Duration;

use crate::smoke::results::Verdict;

/// The allowed deviation from the baseline.
pub(crate) const TOLERANCE: f64 = 0.05;
/// The smallest difference that counts. The measurement is not more exact than this time.
const LEAST_DIFFERENCE: Duration = Duration::from_millis(1);

/// Returns the middle value. Returns `None` for an empty series.
pub(crate) fn median(mut series: Vec<Duration>) -> Option<Duration> {
    series.sort_unstable();
    series.get(series.len() / 2).copied()
}

/// Returns whether a time is at most 5 %, or less than [`LEAST_DIFFERENCE`], above the baseline.
pub(crate) fn is_as_fast(time: Duration, baseline: Duration) -> bool {
    time <= baseline.mul_f64(1.0 + TOLERANCE) || time.saturating_sub(baseline) < LEAST_DIFFERENCE
}

/// Returns the deviation from the baseline as text, for example `+4.2 %`.
pub(crate) fn deviation(value: f64, baseline: f64) -> String {
    if baseline > 0.0 { format!("{:+.1} %", (value / baseline - 1.0) * 100.0) } else { "–".to_owned() }
}

/// Whether the edge is as fast as the baseline. `failed` is the number of requests to the edge that got an error or no
/// response. `name` is the file or URL of the baseline.
pub(crate) fn ttfb(edge: Option<Duration>, failed: usize, baseline: Option<Duration>, name: &str) -> Verdict {
    if failed > 0 {
        return Verdict::fail(
            format!("{failed} requests of the measurement got an error or no response"),
            "a success for each request",
            "find the reason in the log of the edge; if the edge limits the number of requests, raise the limit",
        );
    }
    let Some(edge) = edge else { return Verdict::skip("no response arrived during the measurement") };
    let Some(baseline) = baseline else {
        return Verdict::skip(format!("the baseline {name} has no time for this URL and this provider"));
    };
    let text = format!(
        "{} ms, baseline {} ms ({})",
        millis(edge),
        millis(baseline),
        deviation(edge.as_secs_f64(), baseline.as_secs_f64())
    );
    if is_as_fast(edge, baseline) {
        Verdict::pass(text)
    } else {
        Verdict::fail(
            format!("{text}, median of the time to the first byte"),
            format!("at most {} ms (5 % more than the baseline)", millis(baseline.mul_f64(1.0 + TOLERANCE))),
            "find out whether the edge pulls, and what is slow: the network, the cache, the shield or the origin",
        )
    }
}

/// Returns a time in milliseconds, without the unit.
pub(crate) fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    if millis < 10.0 { format!("{millis:.2}") } else { format!("{millis:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: f64) -> Duration {
        Duration::from_secs_f64(millis / 1000.0)
    }

    #[test]
    fn ttfb_when_4_or_6_per_cent_above_the_baseline_then_passes_or_fails() {
        let word = |edge, baseline| ttfb(Some(ms(edge)), 0, Some(ms(baseline)), "b").word();
        assert_eq!(word(104.0, 100.0), "pass");
        assert_eq!(word(106.0, 100.0), "fail");
        assert_eq!(word(50.0, 100.0), "pass");
        // A difference below one millisecond does not count.
        assert_eq!(word(1.9, 1.0), "pass");
        assert_eq!(word(2.1, 1.0), "fail");
        assert_eq!(ttfb(None, 0, Some(ms(1.0)), "b").word(), "skip");
        assert_eq!(ttfb(Some(ms(1.0)), 0, None, "b").word(), "skip");
        // The responses without an error can be fast although others fail.
        assert_eq!(ttfb(Some(ms(1.0)), 1, Some(ms(1.0)), "b").word(), "fail");
    }

    #[test]
    fn median_when_series_has_outliers_then_is_the_middle_value() {
        assert_eq!(median(vec![ms(9000.0), ms(1.0), ms(2.0)]), Some(ms(2.0)));
        assert_eq!(median(Vec::new()), None);
    }
}
