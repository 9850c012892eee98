//! The counts of the simulated CDNs, and the log lines that are not pushed yet.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The counts of one CDN. `edge_requests` is the sum of `hits`, `misses`, `revalidated` and `errors`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::cli::demo) struct Counts {
    /// The provider's name.
    pub(in crate::cli::demo) name: &'static str,
    /// The number of visitors' requests that got a response.
    pub(in crate::cli::demo) edge_requests: u64,
    /// The number of requests that were served from the cache without a pull.
    pub(super) hits: u64,
    /// The number of requests that were served with the complete response to a pull. The status of such a response is
    /// below 500.
    pub(super) misses: u64,
    /// The number of requests that were served from the cache after a 304.
    pub(super) revalidated: u64,
    /// The number of pulls that were sent to edgeshim.
    pub(super) pulls: u64,
    /// The number of body bytes that were sent to visitors.
    pub(in crate::cli::demo) bytes_edge: u64,
    /// The number of body bytes that were received from edgeshim.
    pub(super) bytes_pulled: u64,
    /// The number of requests whose pull got a 5xx, an unexpected 304 or no complete response. For some of these
    /// requests, the CDN sent a stale response.
    pub(super) errors: u64,
}

impl Counts {
    /// Returns the offload of requests in tenths of a percent, rounded down. `None`: there are no edge requests. The
    /// offload can be negative while pulls are in flight, because a pull is counted before its edge request.
    fn offload_permille(&self) -> Option<i64> {
        let (edge, pulls) = (i128::from(self.edge_requests), i128::from(self.pulls));
        let permille = (edge - pulls).checked_mul(1000)?.checked_div_euclid(edge)?;
        i64::try_from(permille).ok()
    }
}

#[cfg(test)]
#[allow(clippy::cast_precision_loss, reason = "the counts of a test are small")]
impl Counts {
    pub(in crate::cli::demo) fn offload(&self) -> f64 {
        1.0 - self.pulls as f64 / self.edge_requests as f64
    }

    pub(in crate::cli::demo) fn offload_of_bytes(&self) -> f64 {
        1.0 - self.bytes_pulled as f64 / self.bytes_edge as f64
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, edge_requests, pulls, .. } = self;
        write!(f, "{name:<10}  edge {edge_requests} req  pulled {pulls}  offload ")?;
        match self.offload_permille() {
            Some(permille) => {
                let sign = if permille < 0 { "-" } else { "" };
                write!(f, "{sign}{}.{} %", permille.unsigned_abs() / 10, permille.unsigned_abs() % 10)
            }
            None => f.write_str("unknown"),
        }
    }
}

/// The counts of one CDN, and the lines of its log that are not pushed yet.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<(Counts, String)>);

impl Tally {
    pub(super) fn new(name: &'static str) -> Self {
        Self(Mutex::new((Counts { name, ..Counts::default() }, String::new())))
    }

    fn locked(&self) -> MutexGuard<'_, (Counts, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, add: impl FnOnce(&mut Counts)) {
        add(&mut self.locked().0);
    }

    /// Counts a request and writes its log line. Both changes happen under one lock, so the counts and the log always
    /// contain the same requests.
    pub(super) fn add_logged(&self, add: impl FnOnce(&mut Counts, &mut String)) {
        let (counts, log) = &mut *self.locked();
        add(counts, log);
    }

    pub(super) fn counts(&self) -> Counts {
        self.locked().0
    }

    /// Removes and returns the log lines that are not pushed yet.
    pub(super) fn take_log(&self) -> String {
        std::mem::take(&mut self.locked().1)
    }

    /// Puts back `lines`, whose push has failed, before the lines that were written in the meantime.
    pub(super) fn put_back(&self, mut lines: String) {
        let log = &mut self.locked().1;
        lines.push_str(log);
        *log = lines;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_when_displayed_then_contain_the_offload_or_the_word_unknown() {
        let tally = Tally::new("fastly");
        assert_eq!(tally.counts().to_string(), "fastly      edge 0 req  pulled 0  offload unknown");
        tally.add(|counts| (counts.edge_requests, counts.pulls) = (1234, 120));
        assert_eq!(tally.counts().to_string(), "fastly      edge 1234 req  pulled 120  offload 90.2 %");
    }

    #[test]
    fn log_when_lines_are_put_back_then_has_all_lines_in_order() {
        let tally = Tally::new("fastly");
        tally.add_logged(|_, log| log.push_str("1\n"));
        let lines = tally.take_log();
        tally.add_logged(|_, log| log.push_str("2\n"));
        tally.put_back(lines);
        assert_eq!((tally.take_log().as_str(), tally.take_log().as_str()), ("1\n2\n", ""));
    }
}
