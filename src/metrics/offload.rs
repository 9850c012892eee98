//! The offload of each provider: the share of the requests and bytes at the edge that never became pulls. And the share
//! of each provider in all pulls.
//!
//! The CDN's logs report the requests at the edge. They arrive late, so the window of five minutes ends at the newest
//! time for which the logs are complete, and the pulls of the same five minutes are subtracted. Pulls are counted by an
//! atomic add. Once a second [`Offload::sample`] notes the totals, so that the pulls of any past window are the
//! difference of two totals.
//!
//! Two properties of real logs would falsify the result. Several servers of a CDN push in turn, so the newest times are
//! incomplete until the slowest server has pushed: the window ends before them. And a log can have a gap, because it
//! was off or lines were lost: pulls in a gap show it, and the window begins after it.
//!
//! A figure that is not known is absent from the page, and is neither 0 nor 1.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::describe;

/// The length of the window, in seconds.
pub(crate) const WINDOW_SECONDS: i64 = 300;
/// How far ahead of our clock a time in a log can be, in seconds.
pub(crate) const AHEAD_SECONDS: i64 = 60;
/// The time for which totals of pulls are stored, in seconds. A window can end five minutes ago.
const STORED_SECONDS: i64 = 2 * WINDOW_SECONDS + AHEAD_SECONDS;
/// If the log covers less than this time, in seconds, the clocks of both sides cannot be compared precisely.
const SHORT_SECONDS: i64 = 60;

/// The requests and bytes at the edge in each second, from one window before `now` until the times that are accepted
/// as not too far in the future.
#[derive(Debug)]
pub(crate) struct Seconds {
    first: i64,
    sums: Box<[(u64, u64)]>,
}

impl Seconds {
    pub(crate) fn new(now: i64) -> Self {
        let length = usize::try_from(WINDOW_SECONDS + AHEAD_SECONDS + 1).unwrap_or_default();
        Self { first: now - WINDOW_SECONDS, sums: vec![(0, 0); length].into() }
    }

    /// Adds requests and bytes to a second. A second outside of the range is ignored.
    pub(crate) fn add(&mut self, second: i64, requests: u64, bytes: u64) {
        let position = usize::try_from(second - self.first).ok();
        if let Some(sum) = position.and_then(|position| self.sums.get_mut(position)) {
            sum.0 = sum.0.saturating_add(requests);
            sum.1 = sum.1.saturating_add(bytes);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (i64, u64, u64)> {
        let seconds = (self.first..).zip(&self.sums);
        seconds.filter(|(_, sum)| **sum != (0, 0)).map(|(second, &(requests, bytes))| (second, requests, bytes))
    }
}

/// The pulls of one provider, and what its logs report.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pulls: AtomicU64,
    bytes: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The totals of pulls, the oldest first.
    totals: VecDeque<Total>,
    /// The requests and bytes at the edge by second of the log.
    edge: BTreeMap<i64, (u64, u64)>,
    /// The oldest and the newest second of the log. Before the oldest second the log is not known, or has a gap.
    span: Option<(i64, i64)>,
    /// How many of the newest seconds were incomplete when a further batch arrived, and the newest second at that
    /// moment.
    late: (i64, i64),
}

/// The number of pulls and of their bytes at one moment.
#[derive(Debug, Clone, Copy)]
struct Total {
    /// The moment, in seconds of Unix time.
    at: f64,
    pulls: f64,
    bytes: f64,
}

/// The offload of one provider. A figure is `None` while it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Ratios {
    pub requests: Option<f64>,
    pub bytes: Option<f64>,
    /// The age of the newest time in the log, in seconds.
    pub lag: Option<f64>,
}

impl Book {
    /// Counts a pull that has ended. `requests` is 0 if the pull does not stand for a further request at the edge, such
    /// as a health check or a retry.
    pub(crate) fn pull(&self, requests: u64, bytes: u64) {
        self.pulls.fetch_add(requests, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds what a batch of log lines reports. `newest` is the newest time in the batch.
    pub(crate) fn log(&self, seconds: &Seconds, newest: i64) {
        let current = self.total(seconds_f64(newest + 1));
        let mut kept = self.kept();
        let oldest = seconds.iter().map(|(second, ..)| second).next().unwrap_or(newest);
        kept.extend_span(oldest, newest, current);
        for (second, requests, bytes) in seconds.iter() {
            let sum = kept.edge.entry(second).or_default();
            sum.0 = sum.0.saturating_add(requests);
            sum.1 = sum.1.saturating_add(bytes);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[allow(clippy::cast_precision_loss, reason = "a total below 2^53 is exact")]
    fn total(&self, at: f64) -> Total {
        Total { at, pulls: self.pulls.load(Ordering::Relaxed) as f64, bytes: self.bytes.load(Ordering::Relaxed) as f64 }
    }

    fn sample(&self, now: f64) {
        let total = self.total(now);
        let mut kept = self.kept();
        kept.totals.push_back(total);
        let end = now - seconds_f64(STORED_SECONDS);
        // One total before the stored time stays, so that any moment of that time lies between two totals.
        while kept.totals.get(1).is_some_and(|second| second.at < end) {
            kept.totals.pop_front();
        }
        #[allow(clippy::cast_possible_truncation, reason = "a time in seconds fits")]
        let end = end as i64;
        kept.edge = kept.edge.split_off(&end);
    }

    /// Returns the pulls and their bytes between two moments.
    fn between(&self, from: f64, to: f64, now: f64) -> (f64, f64) {
        let current = self.total(now);
        let kept = self.kept();
        let at = |moment: f64| kept.total_at(moment, current);
        let (from, to) = (at(from), at(to));
        (to.0 - from.0, to.1 - from.1)
    }

    fn ratios(&self, started: f64, now: f64) -> Ratios {
        let (span, late) = {
            let kept = self.kept();
            (kept.span, kept.late.0)
        };
        let Some((oldest, newest)) = span else { return Ratios::default() };
        let lag = now - seconds_f64(newest);
        if lag > seconds_f64(WINDOW_SECONDS) {
            return Ratios { lag: Some(lag), ..Ratios::default() };
        }
        // A short log is used up to its newest second, because nothing else is known.
        let newest = if newest - late - oldest >= SHORT_SECONDS { newest - late } else { newest };
        // Pulls before the start are unknown. In the first minute the window is not cut there, because the log may
        // already cover requests whose pulls are known.
        let start =
            if now - started < seconds_f64(SHORT_SECONDS) { started - seconds_f64(SHORT_SECONDS) } else { started };
        #[allow(clippy::cast_possible_truncation, reason = "a time in seconds fits")]
        let first = (newest - WINDOW_SECONDS + 1).max(oldest).max(start.ceil() as i64);
        // While the log is short, a pull counts also if it is a little older than the log. If pulls are known from the
        // time before, the log has begun later than the traffic: these pulls belong to requests that it lacks. Pulls
        // that are newer than the log do not count, because the log is always late.
        let slack = seconds_f64((SHORT_SECONDS - (newest - oldest)).max(0)) / 2.0;
        let has_begun_later = self.between(0.0, seconds_f64(first) - slack, now).0 >= 1.0;
        let slack = if has_begun_later { 0.0 } else { slack };
        let (pulls, pulled) = self.between(seconds_f64(first) - slack, seconds_f64(newest + 1), now);
        let (requests, bytes) =
            self.kept().edge.range(first..=newest).fold((0.0, 0.0), |(requests, bytes), (_, sum)| {
                #[allow(clippy::cast_precision_loss, reason = "a sum below 2^53 is exact")]
                (requests + sum.0 as f64, bytes + sum.1 as f64)
            });
        let ratio = |part: f64, whole: f64| (whole > 0.0).then(|| 1.0 - part / whole);
        Ratios { requests: ratio(pulls, requests), bytes: ratio(pulled, bytes), lag: Some(lag) }
    }
}

impl Kept {
    /// Notes the oldest and the newest second of a batch.
    fn extend_span(&mut self, oldest: i64, newest: i64, current: Total) {
        let Some((from, to)) = self.span else {
            self.span = Some((oldest, newest));
            return;
        };
        // If the batch has lines of the newest second, that second was incomplete.
        let late = (to + 1 - oldest).clamp(0, AHEAD_SECONDS);
        if late >= self.late.0 || newest - self.late.1 > WINDOW_SECONDS {
            self.late = (late, newest.max(to));
        }
        // Each pull comes from a request at the edge. A pull far from both sides of a gap shows that lines are missing.
        let (start, end) = (seconds_f64(to + SHORT_SECONDS / 2), seconds_f64(oldest - SHORT_SECONDS / 2));
        let is_missing = start < end && self.total_at(end, current).0 - self.total_at(start, current).0 >= 1.0;
        self.span = Some(if is_missing { (oldest, newest) } else { (from.min(oldest), to.max(newest)) });
    }

    /// Returns the totals at a moment, by linear interpolation between the totals before and after it.
    fn total_at(&self, moment: f64, current: Total) -> (f64, f64) {
        let position = self.totals.partition_point(|total| total.at <= moment);
        let after = self.totals.get(position).copied().unwrap_or(current);
        let Some(before) = position.checked_sub(1).and_then(|position| self.totals.get(position)) else {
            return (after.pulls, after.bytes);
        };
        let length = after.at - before.at;
        let part = if length > 0.0 { ((moment - before.at) / length).clamp(0.0, 1.0) } else { 1.0 };
        (before.pulls + part * (after.pulls - before.pulls), before.bytes + part * (after.bytes - before.bytes))
    }
}

/// The books of all providers. They outlive every reload.
#[derive(Debug)]
pub(crate) struct Offload {
    books: Mutex<BTreeMap<&'static str, Arc<Book>>>,
    /// When the process started, in seconds of Unix time.
    started: f64,
}

impl Default for Offload {
    fn default() -> Self {
        Self { books: Mutex::default(), started: now() }
    }
}

impl Offload {
    /// Returns the book of a provider.
    pub(crate) fn book(&self, provider: &'static str) -> Arc<Book> {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let started = self.started;
        let new = || {
            let book = Book::default();
            book.sample(started);
            Arc::new(book)
        };
        Arc::clone(books.entry(provider).or_insert_with(new))
    }

    fn books(&self) -> Vec<(&'static str, Arc<Book>)> {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.iter().map(|(name, book)| (*name, Arc::clone(book))).collect()
    }

    /// Notes the totals of all providers. The caller calls this once a second.
    pub(crate) fn sample(&self) {
        let now = now();
        for (_, book) in self.books() {
            book.sample(now);
        }
    }

    /// Appends the figures that are known now to the metrics page.
    pub(super) fn render(&self, page: &mut String) {
        let now = now();
        let books = self.books();
        let pulls: Vec<_> = books
            .iter()
            .map(|(name, book)| (*name, book.between(now - seconds_f64(WINDOW_SECONDS), now, now).0))
            .collect();
        let all: f64 = pulls.iter().map(|(_, pulls)| pulls).sum();
        let shares = pulls.iter().filter(|_| all > 0.0).map(|(name, pulls)| (vec![*name], pulls / all));
        family(page, &describe::SHARE, shares);
        let ratios: Vec<_> = books.iter().map(|(name, book)| (*name, book.ratios(self.started, now))).collect();
        let of = |of: &'static str, ratio: fn(&Ratios) -> Option<f64>| {
            ratios.iter().filter_map(move |(name, ratios)| Some((vec![*name, of], ratio(ratios)?)))
        };
        family(page, &describe::OFFLOAD, of("requests", |r| r.requests).chain(of("bytes", |r| r.bytes)));
        let lags = ratios.iter().filter_map(|(name, ratios)| Some((vec![*name], ratios.lag?)));
        family(page, &describe::EDGE_LOG_LAG, lags);
    }
}

/// Appends the series of one gauge to the page. The exporter cannot remove a series, so it does not write these gauges.
fn family(
    page: &mut String,
    metric: &describe::Metric<metrics::Gauge>,
    series: impl Iterator<Item = (Vec<&'static str>, f64)>,
) {
    let description = metric.description();
    let name = description.name;
    for (position, (values, value)) in series.enumerate() {
        if position == 0 {
            let _ = writeln!(page, "# HELP {name} {}\n# TYPE {name} gauge", description.help);
        }
        let labels: Vec<_> =
            description.labels.iter().zip(values).map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let _ = writeln!(page, "{name}{{{}}} {value}", labels.join(","));
    }
}

/// Returns the current time, in seconds of Unix time.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "a time in seconds is exact")]
fn seconds_f64(seconds: i64) -> f64 {
    seconds as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_700_000_000;

    /// A CDN that serves `requests` requests of `bytes` bytes each second, of which `pulls` become pulls.
    struct Traffic {
        book: Book,
        second: i64,
    }

    impl Traffic {
        fn new() -> Self {
            let book = Book::default();
            book.sample(seconds_f64(START));
            Self { book, second: START }
        }

        /// Runs for some seconds. The log arrives `late` seconds later; `None` if it does not arrive.
        fn run(&mut self, seconds: i64, requests: u64, pulls: u64, late: Option<i64>) {
            for _ in 0..seconds {
                for _ in 0..pulls {
                    self.book.pull(1, 100);
                }
                if let Some(late) = late {
                    let time = self.second - late;
                    let mut log = Seconds::new(self.second);
                    log.add(time, requests, requests * 200);
                    if time >= START {
                        self.book.log(&log, time);
                    }
                }
                self.second += 1;
                self.book.sample(seconds_f64(self.second));
            }
        }

        fn ratios(&self) -> Ratios {
            self.book.ratios(seconds_f64(START), seconds_f64(self.second))
        }
    }

    fn near(ratio: Option<f64>, expected: f64) -> bool {
        ratio.is_some_and(|ratio| (ratio - expected).abs() < 1e-3)
    }

    #[test]
    fn offload_when_log_is_late_then_compared_with_pulls_of_the_same_time() {
        for late in [0, 30, 200] {
            let mut traffic = Traffic::new();
            traffic.run(600, 10, 1, Some(late));
            let ratios = traffic.ratios();
            assert!(near(ratios.requests, 0.9) && near(ratios.bytes, 0.95), "{late}: {ratios:?}");
            // The origin becomes busier. The log of that time has not arrived.
            traffic.run(late.min(90), 10, 9, None);
            assert!(near(traffic.ratios().requests, 0.9), "{late}: {:?}", traffic.ratios());
        }
    }

    #[test]
    fn offload_when_traffic_changes_then_follows_within_the_window() {
        let mut traffic = Traffic::new();
        traffic.run(400, 10, 1, Some(0));
        traffic.run(150, 10, 5, Some(0));
        assert!(near(traffic.ratios().requests, 0.7), "{:?}", traffic.ratios());
        traffic.run(150, 10, 5, Some(0));
        assert!(near(traffic.ratios().requests, 0.5), "{:?}", traffic.ratios());
    }

    #[test]
    fn offload_when_log_stops_then_absent_after_the_window() {
        let mut traffic = Traffic::new();
        assert_eq!(traffic.ratios(), Ratios::default());
        traffic.run(400, 10, 1, Some(0));
        traffic.run(WINDOW_SECONDS - 1, 10, 1, None);
        assert!(near(traffic.ratios().requests, 0.9), "{:?}", traffic.ratios());
        traffic.run(2, 10, 1, None);
        let ratios = traffic.ratios();
        assert_eq!((ratios.requests, ratios.bytes), (None, None));
        assert!(ratios.lag.is_some_and(|lag| lag > 300.0));
    }

    #[test]
    fn offload_when_log_begins_later_than_pulls_then_earlier_pulls_do_not_count() {
        let mut traffic = Traffic::new();
        traffic.run(200, 10, 10, None);
        for seconds in [1, 4, 95] {
            traffic.run(seconds, 10, 1, Some(0));
            assert!(near(traffic.ratios().requests, 0.9), "{:?}", traffic.ratios());
        }
    }

    #[test]
    fn offload_when_log_resumes_after_a_gap_then_pulls_in_the_gap_do_not_count() {
        let mut traffic = Traffic::new();
        traffic.run(400, 10, 1, Some(0));
        traffic.run(100, 10, 10, None);
        for seconds in [1, 4, 95] {
            traffic.run(seconds, 10, 1, Some(0));
            assert!(near(traffic.ratios().requests, 0.9), "{:?}", traffic.ratios());
        }
    }

    #[test]
    fn offload_when_visitors_are_absent_for_a_while_then_earlier_requests_still_count() {
        let mut traffic = Traffic::new();
        traffic.run(150, 10, 1, Some(0));
        traffic.run(100, 0, 0, None);
        traffic.run(50, 10, 5, Some(0));
        // 2,000 requests and 400 pulls.
        assert!(near(traffic.ratios().requests, 0.8), "{:?}", traffic.ratios());
    }

    #[test]
    fn offload_when_servers_push_in_turn_then_incomplete_seconds_do_not_count() {
        let mut traffic = Traffic::new();
        // Two servers have half of the requests each. Each pushes the log of its last minute, 30 seconds apart.
        for half_minute in 1..=20 {
            traffic.run(30, 0, 2, None);
            let mut log = Seconds::new(traffic.second);
            let from = (traffic.second - 60).max(START);
            for second in from..traffic.second {
                log.add(second, 10, 2000);
            }
            traffic.book.log(&log, traffic.second - 1);
            if half_minute > 4 {
                assert!(near(traffic.ratios().requests, 0.9), "{half_minute}: {:?}", traffic.ratios());
            }
        }
    }

    #[test]
    fn offload_when_batches_end_within_a_second_then_its_pulls_do_not_count_yet() {
        let mut traffic = Traffic::new();
        for _ in 0..70 {
            // The batch has the second half of the last second and the first half of this one.
            let mut log = Seconds::new(traffic.second);
            log.add(traffic.second - 1, 5, 1000);
            log.add(traffic.second, 5, 1000);
            traffic.book.log(&log, traffic.second);
            traffic.run(1, 0, 5, None);
        }
        assert!(near(traffic.ratios().requests, 0.5), "{:?}", traffic.ratios());
    }

    #[test]
    fn offload_when_a_clock_is_ahead_then_its_times_do_not_shift_the_window() {
        let mut traffic = Traffic::new();
        for _ in 0..400 {
            traffic.run(1, 10, 1, Some(0));
            let mut log = Seconds::new(traffic.second);
            log.add(traffic.second + 50, 1, 200);
            traffic.book.log(&log, traffic.second + 50);
        }
        // Each second has 10 requests of the log and one of the server whose clock is ahead, and one pull.
        assert!(near(traffic.ratios().requests, 1.0 - 1.0 / 11.0), "{:?}", traffic.ratios());
    }

    #[test]
    fn offload_when_log_is_short_then_counts_pulls_shortly_before_it_and_none_after_it() {
        let book = Book::default();
        book.sample(seconds_f64(START));
        for _ in 0..10 {
            book.pull(1, 100);
        }
        book.sample(seconds_f64(START + 2));
        let mut log = Seconds::new(START + 3);
        log.add(START + 3, 100, 2000);
        book.log(&log, START + 3);
        book.sample(seconds_f64(START + 4));
        for _ in 0..50 {
            book.pull(1, 100);
        }
        book.sample(seconds_f64(START + 5));
        let ratios = book.ratios(seconds_f64(START), seconds_f64(START) + 5.5);
        assert!(near(ratios.requests, 0.9) && near(ratios.bytes, 0.5), "{ratios:?}");
    }

    #[test]
    fn offload_when_bytes_are_not_in_the_log_then_only_requests_are_known() {
        let book = Book::default();
        book.sample(seconds_f64(START));
        let mut log = Seconds::new(START + 3);
        log.add(START + 3, 5, 0);
        book.log(&log, START + 3);
        let ratios = book.ratios(seconds_f64(START), seconds_f64(START + 4));
        assert!(near(ratios.requests, 1.0) && ratios.bytes.is_none(), "{ratios:?}");
    }

    #[test]
    fn book_when_traffic_lasts_long_then_its_memory_stays_constant() {
        let mut traffic = Traffic::new();
        traffic.run(2000, 1, 1, Some(0));
        let kept = traffic.book.kept();
        assert!(kept.totals.len() <= 662 && kept.edge.len() <= 662, "{} {}", kept.totals.len(), kept.edge.len());
    }

    #[test]
    fn page_when_nothing_is_known_then_has_no_series() {
        let offload = Offload::default();
        let book = offload.book("fastly");
        offload.book("akamai");
        let mut page = String::new();
        offload.render(&mut page);
        assert_eq!(page, "");
        book.pull(1, 10);
        offload.render(&mut page);
        assert!(page.contains("edgeshim_share_ratio{provider=\"fastly\"} 1\n"), "{page}");
        assert!(page.contains("edgeshim_share_ratio{provider=\"akamai\"} 0\n"), "{page}");
        assert!(!page.contains("offload"), "{page}");
    }
}
