//! The retry budget of one worker. While the origin fails, retries must not multiply its load.
//!
//! Each request adds a fifth of a retry to the budget, and each second adds five retries. At most 50 unused retries are
//! saved. A retry that leads to a response is paid back, because the response shows that only a kept connection was
//! dead, and not the origin. So the retries that fail are at most 20 % of the requests, plus five a second and the 50
//! saved retries, for each worker.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock;

/// The price of a retry, in units. A request adds one unit to the budget.
const PRICE: u64 = 5;
/// The time that adds one unit to the budget, in milliseconds: five retries a second.
const MS_PER_UNIT: u64 = 1_000 / (5 * PRICE);
/// The largest number of saved units: enough for 50 retries.
const MOST: u64 = 50 * PRICE;

/// One worker's budget. Only its worker uses the budget, so plain loads and stores of the atomics are enough.
#[derive(Debug)]
pub(super) struct Budget {
    saved: AtomicU64,
    /// The time up to which the elapsed time has been added to `saved`, in milliseconds of the worker's clock.
    since_ms: AtomicU64,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { saved: AtomicU64::new(MOST), since_ms: AtomicU64::new(clock::now_ms()) }
    }

    /// Adds the share of one request.
    pub(super) fn earn(&self) {
        let saved = self.saved.load(Ordering::Relaxed);
        if saved < MOST {
            self.saved.store(saved + 1, Ordering::Relaxed);
        }
    }

    /// Pays for one retry. Returns `false` if the budget does not allow the retry.
    pub(super) fn spend(&self) -> bool {
        self.spend_at(clock::now_ms())
    }

    /// Pays back retries that have led to a response.
    pub(super) fn refund(&self, retries: u32) {
        if retries > 0 {
            let saved = self.saved.load(Ordering::Relaxed).saturating_add(u64::from(retries) * PRICE);
            self.saved.store(saved.min(MOST), Ordering::Relaxed);
        }
    }

    fn spend_at(&self, now_ms: u64) -> bool {
        let since_ms = self.since_ms.load(Ordering::Relaxed);
        let earned = now_ms.saturating_sub(since_ms) / MS_PER_UNIT;
        // The rest of the elapsed time is less than one unit. It counts at a later call.
        self.since_ms.store(since_ms + earned * MS_PER_UNIT, Ordering::Relaxed);
        let saved = self.saved.load(Ordering::Relaxed).saturating_add(earned).min(MOST);
        let left = saved.checked_sub(PRICE);
        self.saved.store(left.unwrap_or(saved), Ordering::Relaxed);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_when_spent_then_allows_a_fifth_of_the_requests_and_five_retries_a_second() {
        let budget = Budget { saved: AtomicU64::new(0), since_ms: AtomicU64::new(1) };
        for _ in 0..20 {
            budget.earn();
        }
        assert_eq!((0..10).filter(|_| budget.spend_at(1)).count(), 4);
        assert_eq!((0..10).filter(|_| budget.spend_at(1_001)).count(), 5);
    }

    #[test]
    fn budget_when_retries_come_at_any_interval_then_allows_five_retries_a_second() {
        for interval_ms in [1, 7, 39, 41, 79, 133] {
            let budget = Budget { saved: AtomicU64::new(0), since_ms: AtomicU64::new(1) };
            let allowed = (1..=10_001).step_by(interval_ms).filter(|&now_ms| budget.spend_at(now_ms)).count();
            assert!(
                (49..=50).contains(&allowed),
                "{allowed} retries were allowed in 10 seconds, with one attempt every {interval_ms} ms"
            );
        }
    }

    #[test]
    fn budget_when_each_retry_leads_to_a_response_then_is_not_used_up() {
        let budget = Budget { saved: AtomicU64::new(PRICE), since_ms: AtomicU64::new(1) };
        for _ in 0..1_000 {
            assert!(budget.spend_at(1));
            budget.refund(1);
        }
    }

    #[test]
    fn budget_when_idle_for_an_hour_then_saves_no_more_than_the_limit() {
        let budget = Budget { saved: AtomicU64::new(0), since_ms: AtomicU64::new(1) };
        for _ in 0..10_000 {
            budget.earn();
        }
        assert_eq!((0..1_000).filter(|_| budget.spend_at(3_600_000)).count(), 50);
    }
}
