//! The counts of the simulated CDNs.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// The counts of one CDN. `edge_requests` is the sum of `hits`, `misses`, `revalidated` and `errors`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::cli::demo) struct Counts {
    /// The provider's name.
    pub(super) name: &'static str,
    /// The number of visitors' requests that got a response.
    pub(super) edge_requests: u64,
    /// The number of requests that were served from the cache without a pull.
    pub(super) hits: u64,
    /// The number of requests that were served with the response to a pull.
    pub(super) misses: u64,
    /// The number of requests that were served from the cache after a 304.
    pub(super) revalidated: u64,
    /// The number of pulls that were sent to edgeshim.
    pub(super) pulls: u64,
    /// The number of body bytes that were sent to visitors.
    pub(super) bytes_edge: u64,
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

/// The counts of one CDN, which grow during the run.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Counts>);

impl Tally {
    pub(super) fn new(name: &'static str) -> Self {
        Self(Mutex::new(Counts { name, ..Counts::default() }))
    }

    pub(super) fn add(&self, add: impl FnOnce(&mut Counts)) {
        add(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn counts(&self) -> Counts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
}
