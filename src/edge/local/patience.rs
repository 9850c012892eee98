//! The time for which edgeshim waits for the bytes of one batch of log lines.

use std::time::Duration;

/// The lowest average rate at which the bytes of a batch may arrive, in bytes per second. With the default
/// `edge_logs.max_body`, a batch arrives within an hour.
const SLOWEST: u64 = 32 * 1024;

/// The time that is left to the sender of one batch. The sender has `server.body_timeout`, and gets more time with each
/// byte. So a sender that rarely sends a byte cannot keep its permit for long. Only the time in which edgeshim waits
/// for the sender counts.
#[derive(Debug)]
pub(super) struct Patience {
    /// The longest time without a byte: `server.body_timeout`.
    pause: Duration,
    left: Duration,
    /// When the current wait began, in milliseconds of the worker's clock.
    since_ms: Option<u64>,
}

impl Patience {
    pub(super) fn new(pause: Duration) -> Self {
        Self { pause, left: pause, since_ms: None }
    }

    /// Begins to wait for the sender. Returns the longest time of this wait.
    pub(super) fn wait(&mut self, now_ms: u64) -> Duration {
        self.since_ms = Some(now_ms);
        self.left.min(self.pause)
    }

    /// Ends the wait, because bytes have arrived.
    pub(super) fn received(&mut self, bytes: usize, now_ms: u64) {
        if let Some(since_ms) = self.since_ms.take() {
            self.left = self.left.saturating_sub(Duration::from_millis(now_ms.saturating_sub(since_ms)));
        }
        self.left = self.left.saturating_add(Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / SLOWEST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(30);

    #[test]
    fn sender_when_slower_than_the_lowest_rate_then_time_runs_out() {
        let mut patience = Patience::new(PAUSE);
        let mut now_ms = 0;
        let mut waits = 0;
        // The sender sends one byte in each second.
        while patience.wait(now_ms) > Duration::from_millis(1) {
            now_ms += 1000;
            patience.received(1, now_ms);
            waits += 1;
        }
        assert!((30..=32).contains(&waits), "{waits}");
    }

    #[test]
    fn sender_when_faster_than_the_lowest_rate_then_only_pauses_are_limited() {
        let mut patience = Patience::new(PAUSE);
        let mut now_ms = 0;
        for _ in 0..3600 {
            assert_eq!(patience.wait(now_ms), PAUSE);
            now_ms += 1000;
            patience.received(40 * 1024, now_ms);
        }
    }

    #[test]
    fn remaining_time_when_no_wait_has_begun_then_does_not_decrease() {
        let mut patience = Patience::new(PAUSE);
        patience.received(0, 1_000_000);
        assert_eq!(patience.wait(1_000_000), PAUSE);
    }
}
