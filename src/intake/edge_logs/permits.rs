//! The state that all workers share: limits on the batches that are read at the same time, the ids of accepted batches
//! (a CDN can send a batch again), and limits on messages.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::background::Background;
use crate::metrics::Throttle;

/// The largest number of batches that all workers together read at the same time.
const MAX_BATCHES: usize = 8;
/// The largest number of these batches that belong to one provider. So the other providers can push their logs, even
/// if all senders of one provider are slow.
const MAX_PROVIDER_BATCHES: usize = MAX_BATCHES / 2;
/// The number of request ids that are stored, to recognise repeated batches. Only batches from Firehose have an id.
const REMEMBERED: usize = 1024;
/// The shortest time between two warnings that the log of one provider lacks a field.
const MESSAGE_PERIOD: Duration = Duration::from_mins(1);

/// The state that all workers and configurations share.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    /// The number of permits in use by each provider.
    active: Mutex<BTreeMap<&'static str, usize>>,
    /// The hashes of the request ids of the accepted batches. The oldest hash is first.
    accepted: Mutex<VecDeque<u64>>,
    hashes: RandomState,
    messages: Mutex<BTreeMap<&'static str, Arc<Throttle>>>,
    pub(super) background: Background,
}

/// The permission to read one batch of a provider. When the permit is dropped, another batch can get a permit.
#[derive(Debug)]
pub(super) struct Permit {
    intake: Arc<Intake>,
    provider: &'static str,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(active) = lock(&self.intake.active).get_mut(self.provider) {
            *active -= 1;
        }
    }
}

impl Intake {
    /// Returns a permit, or `None` if too many batches of all providers or of this provider are being read.
    pub(super) fn permit(self: &Arc<Self>, provider: &'static str) -> Option<Permit> {
        let mut active = lock(&self.active);
        let all: usize = active.values().sum();
        let own = active.entry(provider).or_default();
        if all >= MAX_BATCHES || *own >= MAX_PROVIDER_BATCHES {
            return None;
        }
        *own += 1;
        Some(Permit { intake: Arc::clone(self), provider })
    }

    /// Stores the request id of a batch of a provider. Returns false if the id is already stored: a batch of this
    /// provider with this id was accepted before.
    pub(crate) fn accept(&self, provider: &str, id: &str) -> bool {
        let id = self.hashes.hash_one((provider, id));
        let mut accepted = lock(&self.accepted);
        if accepted.contains(&id) {
            return false;
        }
        if accepted.len() >= REMEMBERED {
            accepted.pop_front();
        }
        accepted.push_back(id);
        true
    }

    /// Returns the limit of the warnings about the log of a provider. All workers share this limit.
    pub(crate) fn messages(&self, provider: &'static str) -> Arc<Throttle> {
        let mut messages = lock(&self.messages);
        Arc::clone(messages.entry(provider).or_insert_with(|| Arc::new(Throttle::new(MESSAGE_PERIOD))))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permit_when_a_provider_has_half_of_all_permits_then_only_other_providers_get_permits() {
        let intake = Arc::new(Intake::default());
        let take = |provider| -> Vec<_> { (0..MAX_BATCHES).filter_map(|_| intake.permit(provider)).collect() };
        let mut first = take("fastly");
        assert!(first.len() == MAX_PROVIDER_BATCHES && intake.permit("fastly").is_none());
        let second = take("akamai");
        assert_eq!(second.len(), MAX_PROVIDER_BATCHES);
        assert!(intake.permit("bunny").is_none(), "all permits are in use");
        first.pop();
        assert!(intake.permit("bunny").is_some() && intake.permit("akamai").is_none());
        assert!(intake.permit("fastly").is_some());
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

    #[test]
    fn warning_when_repeated_then_allowed_once_for_each_provider() {
        let intake = Intake::default();
        assert_eq!(intake.messages("fastly").pass(), Some(1));
        assert_eq!(intake.messages("fastly").pass(), None);
        assert_eq!(intake.messages("akamai").pass(), Some(1));
    }
}
