//! Compares the counters of a log with the counters of a running edgeshim.
//!
//! Requests can end while the log is read. So the counters are read before and after the log: the log must have at
//! least the lines that were counted before, and at most the lines that were counted after. Some counters are increased
//! before the request ends. For these counters, the log may have fewer lines, by the number of requests that were in
//! flight when the counters were read first. Approximate counters do not have to agree.

use crate::access_log::reader::recount::{COUNTED, Counted, Counters, Exactness, Series};

/// The comparison of one metric.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) metric: &'static Counted,
    /// The number of series that the log or the counters have.
    pub(super) series: usize,
    pub(super) log_sum: u64,
    pub(super) counter_sum: u64,
    /// The series that differ.
    pub(super) differences: Vec<Difference>,
}

/// One series that differs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) series: Series,
    pub(super) log: u64,
    pub(super) counter: u64,
}

impl Row {
    /// Returns whether the log must agree with this metric. The log shows only a part of an approximate metric.
    pub(super) fn is_exact(&self) -> bool {
        self.metric.exactness != Exactness::Approximate
    }
}

/// Compares all metrics. `in_flight` is the number of requests in flight at the first reading of the counters.
pub(super) fn compare(log: &Counters, before: &Counters, after: &Counters, in_flight: u64) -> Vec<Row> {
    COUNTED.into_iter().map(|metric| row(metric, log, before, after, in_flight)).collect()
}

fn row(metric: &'static Counted, log: &Counters, before: &Counters, after: &Counters, in_flight: u64) -> Row {
    let name = metric.name();
    let of = |counters: &Counters| -> Vec<(Series, u64)> {
        counters
            .iter()
            .filter(|(series, _)| series.name == name)
            .map(|(series, count)| (series.clone(), *count))
            .collect()
    };
    let mut all: Vec<Series> = of(log).into_iter().chain(of(after)).map(|(series, _)| series).collect();
    all.sort();
    all.dedup();
    let sum = |counters: &Counters| of(counters).iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
    let value = |counters: &Counters, series: &Series| counters.get(series).copied().unwrap_or(0);
    // A counter that is increased before the end of a request can be ahead of the log by the requests in flight.
    let early = if metric.exactness == Exactness::AtEnd { 0 } else { in_flight };
    let differs = |series: &Series| {
        let log = value(log, series);
        log < value(before, series).saturating_sub(early) || log > value(after, series)
    };
    Row {
        metric,
        series: all.len(),
        log_sum: sum(log),
        counter_sum: sum(after),
        differences: all
            .into_iter()
            .filter(differs)
            .map(|series| Difference { log: value(log, &series), counter: value(after, &series), series })
            .collect(),
    }
}

/// Returns the number of pulls by which the counters are ahead of the log. The number is 0 if the log has more pulls.
pub(super) fn missing_pulls(rows: &[Row]) -> u64 {
    rows.first().map_or(0, |pulls| pulls.counter_sum.saturating_sub(pulls.log_sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(values: &[(&str, &str, u64)]) -> Counters {
        let series = |(name, label, count): &(&str, &str, u64)| {
            let labels = if label.is_empty() { Vec::new() } else { vec![("l".to_owned(), (*label).to_owned())] };
            (Series { name: (*name).to_owned(), labels }, *count)
        };
        values.iter().map(series).collect()
    }

    /// Returns the label, the count of the log and the counter of each series that differs. Leaves out
    /// approximate counters.
    fn differences(log: &Counters, before: &Counters, after: &Counters, in_flight: u64) -> Vec<(String, u64, u64)> {
        let rows = compare(log, before, after, in_flight).into_iter().filter(Row::is_exact);
        let label = |series: &Series| series.labels.first().map_or(String::new(), |(_, value)| value.clone());
        rows.flat_map(|row| row.differences).map(|one| (label(&one.series), one.log, one.counter)).collect()
    }

    const PULLS: &str = "edgeshim_pulls_total";

    #[test]
    fn counters_when_no_request_ends_meanwhile_then_one_line_more_or_less_is_a_difference() {
        let counted = counters(&[(PULLS, "a", 10), (PULLS, "zero", 0), (PULLS, "b", 3)]);
        assert!(differences(&counted, &counted, &counted, 5).is_empty());
        let log = counters(&[(PULLS, "a", 9), (PULLS, "b", 3), (PULLS, "c", 1)]);
        let found = differences(&log, &counted, &counted, 5);
        assert_eq!(found, [("a".to_owned(), 9, 10), ("c".to_owned(), 1, 0)]);
        assert_eq!(missing_pulls(&compare(&log, &counted, &counted, 0)), 0);
        assert_eq!(missing_pulls(&compare(&Counters::new(), &counted, &counted, 0)), 13);
    }

    #[test]
    fn counters_when_requests_end_meanwhile_then_log_must_be_between_the_two_readings() {
        let at = |count| counters(&[(PULLS, "a", count)]);
        for (log, differs) in [(9, true), (10, false), (12, false), (15, false), (16, true)] {
            assert_eq!(!differences(&at(log), &at(10), &at(15), 0).is_empty(), differs, "{log}");
        }
    }

    #[test]
    fn early_counter_when_requests_are_in_flight_then_may_be_ahead_by_the_number_in_flight() {
        let at = |count| counters(&[("edgeshim_whoopsies_total", "a", count)]);
        for (log, differs) in [(7, true), (8, false), (10, false), (11, true)] {
            assert_eq!(!differences(&at(log), &at(10), &at(10), 2).is_empty(), differs, "{log}");
        }
    }

    #[test]
    fn approximate_counter_when_log_differs_then_row_is_not_exact_and_is_left_out() {
        let counted = counters(&[("edgeshim_cache_guards_total", "error", 4)]);
        assert!(differences(&Counters::new(), &counted, &counted, 0).is_empty());
        let rows = compare(&Counters::new(), &counted, &counted, 0);
        assert_eq!(rows.iter().map(|row| row.differences.len()).sum::<usize>(), 1);
    }
}
