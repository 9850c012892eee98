//! One address of the origin, and whether new connections pass it over.
//!
//! All workers share the state of an address. The state has only atomics, so that no worker waits for another worker.
//! New connections, lookups of the name and health checks change the state. A request on a kept connection only reads
//! one flag.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The longest time for which new connections pass an address over after its first failure. Each further failure
/// doubles this time, up to `LONGEST_PAUSE_MS`.
const FIRST_PAUSE_MS: u64 = 1_000;
const LONGEST_PAUSE_MS: u64 = 60_000;
/// The time that one request has to probe an address that was passed over. If the probe has no result in this time (for
/// example because the client of the request disconnected), the next request probes the address.
const PROBE_MS: u64 = 5_000;

/// The start of the clock in this file. Each worker has its own clock, but the threads that share an address need the
/// same clock.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(super) fn now_ms() -> u64 {
    u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The place to which connections are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One address of the origin.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) place: Place,
    /// The number of failures in a row.
    failures: AtomicU32,
    /// The time until which new connections pass the address over. 0: new connections use the address.
    until_ms: AtomicU64,
    /// How often the address was used again after failures.
    recoveries: AtomicU32,
    /// The time of the first lookup that did not return the address. 0: the most recent lookup returned the address, or
    /// there was no lookup.
    missing_since_ms: AtomicU64,
    /// Whether the address is unhealthy by the rule in `health.rs`.
    unhealthy: AtomicBool,
    /// Whether kept connections to this address get no further requests.
    left: AtomicBool,
    /// The number of equal results of the health check in a row: positive for good results, negative for bad results.
    pub(super) streak: AtomicI32,
}

/// Whether a new connection may be made to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// New connections use the address.
    Open,
    /// The address was passed over, and the caller probes the address.
    Probe,
    /// The address is passed over.
    Over,
}

/// The state of an address when a connection attempt began. A failure counts only if no other attempt has changed the
/// state since then. So if many attempts fail at the same moment, they count as one failure. If an attempt began before
/// the address was used again, its late failure does not count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    until_ms: u64,
    recoveries: u32,
}

impl Seen {
    /// The value for an attempt at an address that is passed over. Such an attempt is made only if no other address is
    /// usable. If the attempt fails, the state does not change.
    pub(super) const FORCED: Self = Self { until_ms: u64::MAX, recoveries: 0 };
}

impl Endpoint {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            failures: AtomicU32::new(0),
            until_ms: AtomicU64::new(0),
            recoveries: AtomicU32::new(0),
            missing_since_ms: AtomicU64::new(0),
            unhealthy: AtomicBool::new(false),
            left: AtomicBool::new(false),
            streak: AtomicI32::new(0),
        }
    }

    /// Returns whether the caller may connect to the address. When the address was passed over for long enough, one
    /// caller in each [`PROBE_MS`] gets [`Turn::Probe`].
    pub(super) fn turn(&self) -> (Turn, Seen) {
        self.turn_at(now_ms())
    }

    fn turn_at(&self, now: u64) -> (Turn, Seen) {
        let recoveries = self.recoveries.load(Ordering::Relaxed);
        let until = self.until_ms.load(Ordering::Relaxed);
        if until == 0 {
            return (Turn::Open, Seen { until_ms: 0, recoveries });
        }
        let probing = now.saturating_add(PROBE_MS);
        if now < until || self.until_ms.compare_exchange(until, probing, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return (Turn::Over, Seen::FORCED);
        }
        (Turn::Probe, Seen { until_ms: probing, recoveries })
    }

    /// Records that a connection was made.
    pub(super) fn succeeded(&self) {
        if self.until_ms.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.recoveries.fetch_add(1, Ordering::Relaxed);
            self.until_ms.store(0, Ordering::Relaxed);
        }
    }

    /// Records that an attempt failed. New connections then pass the address over for a random time: at least half of
    /// the pause, and at most the pause. So several processes do not probe at the same moment.
    pub(super) fn failed(&self, seen: Seen) {
        self.failed_at(seen, now_ms());
    }

    fn failed_at(&self, seen: Seen, now: u64) {
        if seen.recoveries != self.recoveries.load(Ordering::Relaxed) {
            return;
        }
        let failures = self.failures.load(Ordering::Relaxed);
        let pause = FIRST_PAUSE_MS.saturating_mul(1 << failures.min(6)).min(LONGEST_PAUSE_MS);
        let until = now.saturating_add(pause / 2 + fastrand::u64(0..=pause / 2));
        if self.until_ms.compare_exchange(seen.until_ms, until, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.failures.store(failures.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Whether the most recent attempt at the address has failed. New connections then pass the address over, or one
    /// connection probes it.
    pub(super) fn is_passed_over(&self) -> bool {
        self.until_ms.load(Ordering::Relaxed) != 0
    }

    /// Notes that a lookup has returned the address.
    pub(super) fn returned(&self) {
        self.missing_since_ms.store(0, Ordering::Relaxed);
    }

    /// Notes that a lookup has not returned the address. Returns the time since the first of such lookups in a row.
    pub(super) fn missing_for(&self, now_ms: u64) -> Duration {
        let since = match self.missing_since_ms.load(Ordering::Relaxed) {
            0 => now_ms,
            since => since,
        };
        self.missing_since_ms.store(since, Ordering::Relaxed);
        Duration::from_millis(now_ms.saturating_sub(since))
    }

    pub(super) fn is_healthy(&self) -> bool {
        !self.unhealthy.load(Ordering::Relaxed)
    }

    pub(super) fn set_healthy(&self, healthy: bool) {
        self.unhealthy.store(!healthy, Ordering::Relaxed);
    }

    /// Whether kept connections to this address get no further requests.
    pub(super) fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    pub(super) fn set_left(&self, left: bool) {
        self.left.store(left, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state of an address that has not failed yet.
    const FIRST: Seen = Seen { until_ms: 0, recoveries: 0 };

    fn endpoint() -> Endpoint {
        Endpoint::new(Place::Tcp(SocketAddr::from(([127, 0, 0, 1], 1))))
    }

    #[test]
    fn address_when_connect_failed_then_passed_over_until_one_caller_probes() {
        let endpoint = endpoint();
        let (turn, seen) = endpoint.turn_at(1);
        assert_eq!(turn, Turn::Open);
        endpoint.failed_at(seen, 1);
        assert_eq!(endpoint.turn_at(2).0, Turn::Over);
        let later = 1 + FIRST_PAUSE_MS;
        let (turn, seen) = endpoint.turn_at(later);
        assert_eq!(turn, Turn::Probe);
        assert_eq!(endpoint.turn_at(later).0, Turn::Over, "two callers must not probe at the same time");
        endpoint.failed_at(seen, later);
        assert_eq!(
            endpoint.turn_at(later + FIRST_PAUSE_MS - 1).0,
            Turn::Over,
            "the second pause must be longer than the first pause"
        );
        assert_eq!(endpoint.turn_at(later + 2 * FIRST_PAUSE_MS).0, Turn::Probe);
        endpoint.succeeded();
        assert_eq!(endpoint.turn_at(later).0, Turn::Open);
    }

    #[test]
    fn failures_when_many_attempts_fail_at_one_moment_then_count_as_one_failure() {
        let endpoint = endpoint();
        for _ in 0..100 {
            endpoint.failed_at(FIRST, 1);
        }
        assert_eq!(endpoint.failures.load(Ordering::Relaxed), 1);
        endpoint.failed_at(Seen::FORCED, 2);
        assert_eq!(endpoint.turn_at(1 + FIRST_PAUSE_MS).0, Turn::Probe, "a forced attempt must not extend the pause");
    }

    #[test]
    fn failure_when_attempt_began_before_the_recovery_then_does_not_count() {
        let endpoint = endpoint();
        let (_, early) = endpoint.turn_at(1);
        endpoint.failed_at(early, 2);
        let (turn, _) = endpoint.turn_at(2 + FIRST_PAUSE_MS);
        assert_eq!(turn, Turn::Probe);
        endpoint.succeeded();
        endpoint.failed_at(early, 3 + FIRST_PAUSE_MS);
        let (turn, seen) = endpoint.turn_at(3 + FIRST_PAUSE_MS);
        assert_eq!(turn, Turn::Open, "the failure of an old attempt must not affect an address that works again");
        endpoint.failed_at(seen, 3 + FIRST_PAUSE_MS);
        assert!(endpoint.is_passed_over());
    }

    #[test]
    fn probe_when_abandoned_then_next_caller_probes_after_the_probe_time() {
        let endpoint = endpoint();
        endpoint.failed_at(FIRST, 1);
        assert_eq!(endpoint.turn_at(FIRST_PAUSE_MS + 1).0, Turn::Probe);
        assert_eq!(endpoint.turn_at(FIRST_PAUSE_MS + PROBE_MS + 1).0, Turn::Probe);
    }

    #[test]
    fn pause_when_failures_repeat_then_does_not_exceed_the_longest_pause() {
        let endpoint = endpoint();
        let mut now = 1;
        endpoint.failed_at(FIRST, now);
        for _ in 0..40 {
            now += LONGEST_PAUSE_MS;
            let (turn, seen) = endpoint.turn_at(now);
            assert_eq!(turn, Turn::Probe);
            endpoint.failed_at(seen, now);
        }
    }
}
