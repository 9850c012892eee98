//! Limits how many batches are read at the same time, and recognises batches that are sent again.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The largest number of batches that are read at the same time, on all workers together.
const MAX_BATCHES: usize = 4;
/// The number of request ids that are remembered.
const REMEMBERED: usize = 1024;

/// The state that all workers and configurations share.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    active: AtomicUsize,
    /// The hashes of the request ids of accepted batches, the oldest first.
    accepted: Mutex<VecDeque<u64>>,
    hashes: RandomState,
}

/// The permission to read one batch. Dropping it lets another batch begin.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Intake>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Intake {
    /// Returns a permit, or `None` if too many batches are being read.
    pub(crate) fn permit(self: &Arc<Self>) -> Option<Permit> {
        let more = |active| (active < MAX_BATCHES).then_some(active + 1);
        self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Permit(Arc::clone(self)))
    }

    /// Notes the request id of an accepted batch. Returns false if a batch with this id was accepted before.
    pub(crate) fn accept(&self, id: &str) -> bool {
        let id = self.hashes.hash_one(id);
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted.contains(&id) {
            return false;
        }
        if accepted.len() >= REMEMBERED {
            accepted.pop_front();
        }
        accepted.push_back(id);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permit_when_four_are_in_use_then_refused_until_one_is_dropped() {
        let intake = Arc::new(Intake::default());
        let mut permits: Vec<_> = (0..MAX_BATCHES).filter_map(|_| intake.permit()).collect();
        assert!(permits.len() == MAX_BATCHES && intake.permit().is_none());
        permits.pop();
        assert!(intake.permit().is_some());
    }

    #[test]
    fn id_when_repeated_then_refused_while_remembered() {
        let intake = Intake::default();
        assert!(intake.accept("a") && !intake.accept("a"));
        for number in 0..REMEMBERED {
            assert!(intake.accept(&number.to_string()));
        }
        assert!(intake.accept("a"), "a was forgotten");
    }
}
