//! Limits the number of batches that edgeshim reads at the same time, and recognises batches that a CDN sends again.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The largest number of batches that all workers together read at the same time.
const MAX_BATCHES: usize = 4;
/// The number of request ids that are stored, to recognise repeated batches. Only batches from Firehose have an id.
const REMEMBERED: usize = 1024;

/// The state that all workers and configurations share.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    /// The number of permits in use.
    active: AtomicUsize,
    /// The hashes of the request ids of the accepted batches. The oldest hash is first.
    accepted: Mutex<VecDeque<u64>>,
    hashes: RandomState,
}

/// The permission to read one batch. When the permit is dropped, another batch can get a permit.
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

    /// Stores the request id of a batch of a provider. Returns false if the id is already stored: a batch of this
    /// provider with this id was accepted before.
    pub(crate) fn accept(&self, provider: &str, id: &str) -> bool {
        let id = self.hashes.hash_one((provider, id));
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
    fn request_id_when_repeated_then_rejected_while_stored() {
        let intake = Intake::default();
        assert!(intake.accept("fastly", "a") && !intake.accept("fastly", "a"));
        for number in 0..REMEMBERED {
            assert!(intake.accept("fastly", &number.to_string()));
        }
        assert!(intake.accept("fastly", "a"), "the oldest id must be removed when the list is full");
    }
}
