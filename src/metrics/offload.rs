//! Calculates three figures for each provider: the offload, which is the share of the requests or bytes at the edge
//! that never became pulls, the provider's share in all pulls, and the age of the provider's log.
//!
//! The logs that a CDN pushes report the requests at its edge. edgeshim counts the pulls. The offload compares the
//! requests with the pulls of the same five minutes, the window. The logs arrive late, so the window ends at the newest
//! time for which the logs are complete, not at the current time. Once a second, [`Offload::sample`] stores the totals
//! of pulls since the start. So the pulls of a past window are the difference of two totals.
//!
//! Two properties of real logs would make the result wrong:
//!
//! - The servers of a CDN push at different times, so the newest seconds of the log are incomplete until the slowest
//!   server has pushed. The window ends before these seconds.
//! - A log can have a gap, because the log was off or lines were lost. edgeshim detects a gap by the pulls in the time
//!   of the gap. The window begins after the gap.
//!
//! While a figure is unknown, the metrics page has no series for the figure. A value such as 0 would be wrong.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::describe;
use super::held_gauges::family;
use crate::clock;

/// The length of the window, in seconds.
pub(crate) const WINDOW_SECONDS: i64 = 300;
/// How far a time in a log can be ahead of this host's clock, in seconds. Log lines with a later time are not counted.
pub(crate) const AHEAD_SECONDS: i64 = 60;
/// The time for which totals of pulls are stored, in seconds. The newest second of the log can be five minutes old. The
/// window leaves out incomplete seconds, so it can end one more minute earlier and begin eleven minutes ago.
const STORED_SECONDS: i64 = 2 * WINDOW_SECONDS + AHEAD_SECONDS;
/// A log that covers less than this time, in seconds, is short. For a short log, a small difference between the CDN's
/// clock and this host's clock would change the result a lot.
const SHORT_SECONDS: i64 = 60;

/// If this host's clock is set back by more than this time, in seconds, the stored figures are dropped, because their
/// times are wrong. Smaller steps do not matter.
const CLOCK_STEP_SECONDS: f64 = 2.0;

/// The requests and bytes at the edge in each second, as one batch of log lines reports them. The oldest second is
/// [`WINDOW_SECONDS`] before the arrival of the batch begins, and the newest second is at most [`AHEAD_SECONDS`] after
/// the arrival ends. At most [`STORED_SECONDS`] + 1 seconds are stored.
#[derive(Debug)]
pub(crate) struct Seconds {
    first: i64,
    sums: VecDeque<(u64, u64)>,
}

impl Seconds {
    /// Returns sums of 0. `now` is the time at which the batch begins to arrive, in seconds of Unix time.
    pub(crate) fn new(now: i64) -> Self {
        Self { first: now - WINDOW_SECONDS, sums: VecDeque::new() }
    }

    /// Adds requests and bytes to a second. If the second is older than the stored seconds, nothing is added. If the
    /// second is newer than the stored seconds, the oldest seconds can be dropped. The caller has checked that the
    /// second is not too far in the future.
    pub(crate) fn add(&mut self, second: i64, requests: u64, bytes: u64) {
        let surplus = second - self.first - STORED_SECONDS;
        if surplus > 0 {
            let dropped = usize::try_from(surplus).unwrap_or(usize::MAX).min(self.sums.len());
            self.sums.drain(..dropped);
            self.first += surplus;
        }
        let Ok(position) = usize::try_from(second - self.first) else { return };
        if position >= self.sums.len() {
            self.sums.resize(position + 1, (0, 0));
        }
        if let Some(sum) = self.sums.get_mut(position) {
            sum.0 = sum.0.saturating_add(requests);
            sum.1 = sum.1.saturating_add(bytes);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (i64, u64, u64)> {
        let seconds = (self.first..).zip(&self.sums);
        seconds.filter(|(_, sum)| **sum != (0, 0)).map(|(second, &(requests, bytes))| (second, requests, bytes))
    }
}

/// The counts of one provider: its pulls, and the requests at its edge.
#[derive(Debug)]
pub(crate) struct Book {
    pulls: AtomicU64,
    bytes: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// The time since which the totals and the log are known, in seconds of Unix time: the start of the process, or the
    /// last time at which this host's clock was set back.
    since: f64,
    /// The totals of pulls that [`Offload::sample`] has stored, the oldest first.
    totals: VecDeque<Total>,
    /// The requests and bytes at the edge for each second of the log.
    edge: BTreeMap<i64, (u64, u64)>,
    /// The oldest and the newest second of the log. If the log has a gap, the oldest second is the first second after
    /// the gap. `None`: no batch has arrived.
    span: Option<(i64, i64)>,
    /// The first second after the last gap of the log. Lines of earlier seconds that arrive later are outside of the
    /// window.
    gap_end: Option<i64>,
    /// How incomplete the end of the log is. A late batch adds lines to the newest seconds that the log already has.
    /// The first value is how far one batch has reached back from the end of the log, in seconds: the largest value of
    /// about the last five minutes, and at most [`AHEAD_SECONDS`]. The second value is the newest second of the log
    /// after that batch.
    late: (i64, i64),
}

/// The number of pulls since the start, and the bytes of these pulls, at one moment.
#[derive(Debug, Clone, Copy)]
struct Total {
    /// The moment, in seconds of Unix time.
    at: f64,
    pulls: f64,
    bytes: f64,
}

/// The offload of one provider. A field is `None` while its value is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Ratios {
    /// The share of the requests at the edge that never became pulls.
    pub requests: Option<f64>,
    /// The share of the bytes at the edge that edgeshim did not have to send.
    pub bytes: Option<f64>,
    /// The age of the newest time in the log, in seconds.
    pub lag: Option<f64>,
}

impl Book {
    /// Creates the book of a provider. `since` is the time at which the process started, in seconds of Unix time.
    fn new(since: f64) -> Self {
        let book = Self { pulls: AtomicU64::new(0), bytes: AtomicU64::new(0), kept: Mutex::new(Kept::new(since)) };
        book.sample(since);
        book
    }

    /// Counts a pull that has ended. `requests` is 1, or 0 for a retry. A retry belongs to the same request at the edge
    /// as the first attempt, which was already counted. Callers do not count health checks here, because no request at
    /// the edge causes them.
    pub(crate) fn pull(&self, requests: u64, bytes: u64) {
        self.pulls.fetch_add(requests, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds the sums of one batch of log lines. `newest` is the newest time in the batch.
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
        let mut total = self.total(now);
        let mut kept = self.kept();
        if let Some(last) = kept.totals.back() {
            if now + CLOCK_STEP_SECONDS < last.at {
                *kept = Kept::new(now);
            } else {
                // The times of the totals never decrease.
                total.at = now.max(last.at);
            }
        }
        kept.totals.push_back(total);
        let end = now - seconds_f64(STORED_SECONDS);
        // One total that is older than the stored time stays, so that every moment of the stored time is between two
        // totals.
        while kept.totals.get(1).is_some_and(|second| second.at < end) {
            kept.totals.pop_front();
        }
        #[allow(clippy::cast_possible_truncation, reason = "a time in seconds fits")]
        let end = end as i64;
        kept.edge = kept.edge.split_off(&end);
    }

    /// Returns the number of pulls between two moments, and the bytes of these pulls. `now` is the current time.
    fn between(&self, from: f64, to: f64, now: f64) -> (f64, f64) {
        let current = self.total(now);
        let kept = self.kept();
        let at = |moment: f64| kept.total_at(moment, current);
        let (from, to) = (at(from), at(to));
        (to.0 - from.0, to.1 - from.1)
    }

    /// Calculates the offload. `now` is the current time.
    fn ratios(&self, now: f64) -> Ratios {
        let (since, span, late) = {
            let kept = self.kept();
            (kept.since, kept.span, kept.late.0)
        };
        let Some((oldest, newest)) = span else { return Ratios::default() };
        let lag = (now - seconds_f64(newest)).max(0.0);
        if lag > seconds_f64(WINDOW_SECONDS) {
            return Ratios { lag: Some(lag), ..Ratios::default() };
        }
        // The incomplete seconds at the end of the log are left out, unless less than a minute of log would remain.
        let newest = if newest - late - oldest >= SHORT_SECONDS { newest - late } else { newest };
        // Pulls before `since` are unknown, so the window does not begin before `since`. Exception: during the first
        // minute the window can begin up to a minute earlier, because the times in the log can be a little older than
        // the pulls that edgeshim has counted for the same requests.
        let start = if now - since < seconds_f64(SHORT_SECONDS) { since - seconds_f64(SHORT_SECONDS) } else { since };
        #[allow(clippy::cast_possible_truncation, reason = "a time in seconds fits")]
        let first = (newest - WINDOW_SECONDS + 1).max(oldest).max(start.ceil() as i64);
        if first > newest {
            // The whole log is older than `since`, so the pulls for its requests are unknown.
            return Ratios { lag: Some(lag), ..Ratios::default() };
        }
        // While the log is short, pulls that are a little older than the log (`slack`) count too. Exception: if there
        // were pulls even before that time, the log began later than the traffic. Then the log lacks the requests that
        // caused the older pulls, so `slack` is 0. Pulls that are newer than the log do not count, because their
        // requests are not in the log yet.
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
    fn new(since: f64) -> Self {
        let (totals, edge) = (VecDeque::new(), BTreeMap::new());
        Self { since, totals, edge, span: None, gap_end: None, late: (0, 0) }
    }

    /// Adds the seconds of a batch to the span. `oldest` and `newest` are the first and the last second of the batch.
    /// `current` is the current total.
    fn extend_span(&mut self, oldest: i64, newest: i64, current: Total) {
        let Some((from, to)) = self.span else {
            self.span = Some((oldest, newest));
            return;
        };
        // Lines from before a gap can arrive after the gap. These lines must not move the window back into the gap.
        let oldest = self.gap_end.map_or(oldest, |gap_end| oldest.max(gap_end));
        if newest < oldest {
            return;
        }
        // The seconds of the log to which the batch adds lines were incomplete until now.
        let late = (to + 1 - oldest).clamp(0, AHEAD_SECONDS);
        if late >= self.late.0 || newest - self.late.1 > WINDOW_SECONDS {
            self.late = (late, newest.max(to));
        }
        // Between the log so far and the batch there can be a gap. Each pull is caused by a request at the edge. So a
        // pull in the gap, at least half a minute from both ends, shows that log lines are missing.
        let (start, end) = (seconds_f64(to + SHORT_SECONDS / 2), seconds_f64(oldest - SHORT_SECONDS / 2));
        let is_missing = start < end && self.total_at(end, current).0 - self.total_at(start, current).0 >= 1.0;
        if is_missing {
            self.gap_end = Some(oldest);
        }
        self.span = Some(if is_missing { (oldest, newest) } else { (from.min(oldest), to.max(newest)) });
    }

    /// Returns the pulls and the bytes at a moment, by linear interpolation between the total before the moment and the
    /// total after the moment. If there is no total after the moment, `current` is used.
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

/// The books of all providers. A reload of the configuration does not reset the books.
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
    /// Returns the book of a provider. The first call for a provider creates the book.
    pub(crate) fn book(&self, provider: &'static str) -> Arc<Book> {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let started = self.started;
        Arc::clone(books.entry(provider).or_insert_with(|| Arc::new(Book::new(started))))
    }

    fn books(&self) -> Vec<(&'static str, Arc<Book>)> {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.iter().map(|(name, book)| (*name, Arc::clone(book))).collect()
    }

    /// Stores the totals of all providers. [`Metrics::upkeep`](super::Metrics::upkeep) calls this function once a
    /// second.
    pub(crate) fn sample(&self) {
        let now = now();
        for (_, book) in self.books() {
            book.sample(now);
        }
    }

    /// Appends to the metrics page all figures whose value is known. edgeshim writes these gauges without the exporter,
    /// because the exporter cannot leave out a series whose value has become unknown.
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
        let ratios: Vec<_> = books.iter().map(|(name, book)| (*name, book.ratios(now))).collect();
        let of = |of: &'static str, ratio: fn(&Ratios) -> Option<f64>| {
            ratios.iter().filter_map(move |(name, ratios)| Some((vec![*name, of], ratio(ratios)?)))
        };
        family(page, &describe::OFFLOAD, of("requests", |r| r.requests).chain(of("bytes", |r| r.bytes)));
        let lags = ratios.iter().filter_map(|(name, ratios)| Some((vec![*name], ratios.lag?)));
        family(page, &describe::EDGE_LOG_LAG, lags);
    }
}

/// Returns the current time, in seconds of Unix time.
fn now() -> f64 {
    clock::unix_time().as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "a time in seconds is exact")]
fn seconds_f64(seconds: i64) -> f64 {
    seconds as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_700_000_000;

    /// The simulated traffic of one CDN.
    struct Traffic {
        book: Book,
        second: i64,
    }

    impl Traffic {
        fn new() -> Self {
            let book = Book::new(seconds_f64(START));
            Self { book, second: START }
        }

        /// Simulates some seconds. In each second the edge has `requests` requests, and `pulls` of them become pulls.
        /// The log of a second arrives `late` seconds later. `None`: no log arrives.
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
            self.book.ratios(seconds_f64(self.second))
        }
    }

    fn near(ratio: Option<f64>, expected: f64) -> bool {
        ratio.is_some_and(|ratio| (ratio - expected).abs() < 1e-3)
    }

    #[test]
    fn offload_when_log_is_late_then_uses_the_pulls_of_the_same_time() {
        for late in [0, 30, 200] {
            let mut traffic = Traffic::new();
            traffic.run(600, 10, 1, Some(late));
            let ratios = traffic.ratios();
            assert!(near(ratios.requests, 0.9) && near(ratios.bytes, 0.95), "{late}: {ratios:?}");
            // Now 9 of 10 requests become pulls. The log of this time has not arrived.
            traffic.run(late.min(90), 10, 9, None);
            assert!(near(traffic.ratios().requests, 0.9), "{late}: {:?}", traffic.ratios());
        }
    }

    #[test]
    fn offload_when_traffic_changes_then_has_the_new_value_after_five_minutes() {
        let mut traffic = Traffic::new();
        traffic.run(400, 10, 1, Some(0));
        traffic.run(150, 10, 5, Some(0));
        assert!(near(traffic.ratios().requests, 0.7), "{:?}", traffic.ratios());
        traffic.run(150, 10, 5, Some(0));
        assert!(near(traffic.ratios().requests, 0.5), "{:?}", traffic.ratios());
    }

    #[test]
    fn offload_when_log_stops_then_is_unknown_after_five_minutes() {
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
    fn offload_when_lines_from_before_a_gap_arrive_after_the_gap_then_window_does_not_move_back() {
        let mut traffic = Traffic::new();
        traffic.run(400, 10, 1, Some(0));
        traffic.run(100, 10, 10, None);
        traffic.run(20, 10, 1, Some(0));
        for newest in [START + 399, START + 505] {
            let mut log = Seconds::new(traffic.second);
            log.add(START + 390, 1, 200);
            log.add(newest, 1, 200);
            traffic.book.log(&log, newest);
            // The window has 200 requests, and at most one request is added, so the ratio hardly changes.
            let ratios = traffic.ratios();
            assert!(ratios.requests.is_some_and(|ratio| (ratio - 0.9).abs() < 2e-3), "{newest}: {ratios:?}");
        }
    }

    #[test]
    fn offload_when_visitors_are_absent_for_a_while_then_earlier_requests_still_count() {
        let mut traffic = Traffic::new();
        traffic.run(150, 10, 1, Some(0));
        traffic.run(100, 0, 0, None);
        traffic.run(50, 10, 5, Some(0));
        // In the window, 400 of 2,000 requests became pulls.
        assert!(near(traffic.ratios().requests, 0.8), "{:?}", traffic.ratios());
    }

    #[test]
    fn offload_when_servers_push_in_turn_then_incomplete_seconds_do_not_count() {
        let mut traffic = Traffic::new();
        // Each of two servers of the CDN has half of the requests and pushes the log of its last minute once a minute.
        // The second server pushes 30 seconds after the first server.
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
    fn offload_when_batches_end_inside_a_second_then_newest_second_does_not_count() {
        let mut traffic = Traffic::new();
        for _ in 0..70 {
            // The batch has the second half of the previous second and the first half of the current second.
            let mut log = Seconds::new(traffic.second);
            log.add(traffic.second - 1, 5, 1000);
            log.add(traffic.second, 5, 1000);
            traffic.book.log(&log, traffic.second);
            traffic.run(1, 0, 5, None);
        }
        assert!(near(traffic.ratios().requests, 0.5), "{:?}", traffic.ratios());
    }

    #[test]
    fn offload_when_clock_of_one_cdn_server_is_ahead_then_window_does_not_move() {
        let mut traffic = Traffic::new();
        for _ in 0..400 {
            traffic.run(1, 10, 1, Some(0));
            let mut log = Seconds::new(traffic.second);
            log.add(traffic.second + 50, 1, 200);
            traffic.book.log(&log, traffic.second + 50);
        }
        // In each second, the log has 10 requests and one further request of the server whose clock is ahead. One of
        // these requests becomes a pull.
        assert!(near(traffic.ratios().requests, 1.0 - 1.0 / 11.0), "{:?}", traffic.ratios());
    }

    #[test]
    fn offload_when_log_is_short_then_slightly_older_pulls_count_and_newer_pulls_do_not() {
        let book = Book::new(seconds_f64(START));
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
        let ratios = book.ratios(seconds_f64(START) + 5.5);
        assert!(near(ratios.requests, 0.9) && near(ratios.bytes, 0.5), "{ratios:?}");
    }

    #[test]
    fn offload_when_log_has_no_bytes_then_only_the_share_of_requests_is_known() {
        let book = Book::new(seconds_f64(START));
        let mut log = Seconds::new(START + 3);
        log.add(START + 3, 5, 0);
        book.log(&log, START + 3);
        let ratios = book.ratios(seconds_f64(START + 4));
        assert!(near(ratios.requests, 1.0) && ratios.bytes.is_none(), "{ratios:?}");
    }

    #[test]
    fn offload_when_clock_is_set_back_then_is_correct_after_the_first_log_of_the_new_time() {
        for step in [30, 4000] {
            let mut traffic = Traffic::new();
            traffic.second += 10_000;
            traffic.run(400, 10, 1, Some(0));
            traffic.run(100, 10, 10, None);
            traffic.run(20, 10, 1, Some(0));
            traffic.second -= step;
            traffic.book.sample(seconds_f64(traffic.second));
            assert_eq!(traffic.ratios(), Ratios::default(), "{step}");
            for seconds in [2, 60, 400] {
                traffic.run(seconds, 10, 5, Some(0));
                let ratios = traffic.ratios();
                assert!(near(ratios.requests, 0.5) && ratios.lag.is_some_and(|lag| lag < 2.0), "{step}: {ratios:?}");
            }
        }
    }

    #[test]
    fn seconds_when_batch_arrives_slowly_then_newest_seconds_are_stored_and_memory_is_bounded() {
        let mut log = Seconds::new(START);
        log.add(START - WINDOW_SECONDS - 1, 1, 1);
        for second in 0..5000 {
            log.add(START + second, 1, 2);
        }
        let stored: Vec<_> = log.iter().collect();
        assert_eq!(stored.len(), usize::try_from(STORED_SECONDS + 1).unwrap());
        assert_eq!(stored.last(), Some(&(START + 4999, 1, 2)));
        assert_eq!(stored.first(), Some(&(START + 4999 - STORED_SECONDS, 1, 2)));
    }

    #[test]
    fn book_when_traffic_lasts_long_then_memory_stays_bounded() {
        let mut traffic = Traffic::new();
        traffic.run(2000, 1, 1, Some(0));
        let kept = traffic.book.kept();
        assert!(kept.totals.len() <= 662 && kept.edge.len() <= 662, "{} {}", kept.totals.len(), kept.edge.len());
    }

    #[test]
    fn offload_when_the_whole_log_is_older_than_the_process_then_absent() {
        for (age, now) in [(130, 1), (1, 61)] {
            let book = Book::new(seconds_f64(START));
            let mut log = Seconds::new(START - age);
            log.add(START - age, 5, 100);
            book.log(&log, START - age);
            let ratios = book.ratios(seconds_f64(START + now));
            let lag = Some(seconds_f64(age + now));
            assert_eq!(ratios, Ratios { requests: None, bytes: None, lag }, "{age}");
        }
    }

    #[test]
    fn metrics_page_when_offload_is_unknown_then_has_no_offload_series() {
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
