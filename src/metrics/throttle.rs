//! Limits how often a message is logged. An event that occurs thousands of times a second is logged only once in each
//! period, with the number of events.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The moment of the first use of a throttle in this process.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The limit for one kind of log message. The caller logs a message only if [`pass`](Self::pass) returns a number. The
/// limit needs no lock. If two threads call `pass` at the same moment, at most one of the calls returns a number.
#[derive(Debug)]
pub(crate) struct Throttle {
    period_ms: u64,
    /// When the next message is allowed, in milliseconds since [`EPOCH`].
    next_ms: AtomicU64,
    /// The number of events since the last message.
    count: AtomicU64,
}

impl Throttle {
    /// Creates a throttle that allows one message in each `period`. The first message is allowed at once.
    pub(crate) const fn new(period: Duration) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "a u64 can count the milliseconds of 584 million years")]
        Self { period_ms: period.as_millis() as u64, next_ms: AtomicU64::new(0), count: AtomicU64::new(0) }
    }

    /// Counts an event. If a message is allowed now, returns the number of events since the last message, including
    /// this event. Otherwise returns `None`.
    pub(crate) fn pass(&self) -> Option<u64> {
        self.pass_many(1)
    }

    /// Counts `n` events. Returns the same as [`pass`](Self::pass).
    pub(crate) fn pass_many(&self, n: u64) -> Option<u64> {
        self.pass_at(u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX), n)
    }

    fn pass_at(&self, now_ms: u64, n: u64) -> Option<u64> {
        self.count.fetch_add(n, Ordering::Relaxed);
        let next = self.next_ms.load(Ordering::Relaxed);
        if now_ms < next {
            return None;
        }
        let after = now_ms.saturating_add(self.period_ms);
        self.next_ms.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        Some(self.count.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_when_events_are_frequent_then_allowed_once_per_period_with_the_count() {
        let throttle = Throttle::new(Duration::from_secs(5));
        assert_eq!(throttle.pass_at(0, 1), Some(1), "the first message must be allowed at once");
        for now in [0, 1, 4_999] {
            assert_eq!(throttle.pass_at(now, 1), None);
        }
        assert_eq!(throttle.pass_at(5_000, 7), Some(10));
        assert_eq!(throttle.pass_at(9_999, 1), None);
        assert_eq!(throttle.pass_at(1_000_000, 1), Some(2));
    }

    #[test]
    fn throttle_when_threads_count_concurrently_then_no_event_is_lost_or_counted_twice() {
        let throttle = Throttle::new(Duration::from_millis(1));
        let reported: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..10_000).filter_map(|now| throttle.pass_at(now, 1)).sum::<u64>()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(reported + throttle.count.load(Ordering::Relaxed), 40_000);
    }
}
