//! The parts of one worker that depend on the configuration: the layers, the client of the origin and the limits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection_limits::Limits;
use super::drain::Drain;
use super::peers::Peers;
use crate::edge::request::EdgeRequest;
use crate::ids::{ProviderId, Reason};
use crate::origin;
use crate::runtime::{EdgeService, Runtime, Slot};

/// A worker with the layers for the active configuration. After a configuration swap, the next request, the next
/// connection or the next call of [`prune`](Self::prune) builds the layers again.
pub(super) struct Worker<E> {
    pub(super) slot: &'static Slot,
    pub(super) drain: Arc<Drain>,
    pub(super) peers: Peers,
    current: Mutex<Current<E>>,
}

struct Current<E> {
    runtime: Arc<Runtime>,
    stack: E,
    origin: Arc<origin::Client>,
    limits: Arc<Limits>,
    build: Build<E>,
}

/// Creates the layers and the client of the origin for a configuration. The second argument is the previous client.
type Build<E> = fn(&Runtime, Option<&Arc<origin::Client>>) -> (E, Arc<origin::Client>);

impl<E> Current<E> {
    fn new(runtime: Arc<Runtime>, build: Build<E>, previous: Option<&Arc<origin::Client>>) -> Self {
        let (stack, origin) = build(&runtime, previous);
        let limits = Arc::new(Limits::new(runtime.settings()));
        Self { runtime, stack, origin, limits, build }
    }
}

impl<E: EdgeService> Worker<E> {
    /// Calls the layers of the active configuration. A request reads the slot only here, so its configuration does not
    /// change until its end.
    pub(super) fn call(&self, request: Box<EdgeRequest>) -> E::Future {
        self.current().stack.call(request)
    }

    /// Drops the layers of an old configuration, so that a worker without requests does not keep these layers. If the
    /// new configuration needs another client for the origin, also closes the idle connections of the old client. In
    /// the current client, closes the connections that have been idle for too long.
    pub(super) fn prune(&self) {
        let origin = Arc::clone(&self.current().origin);
        origin.prune();
    }

    pub(super) fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.current().limits)
    }

    fn current(&self) -> MutexGuard<'_, Current<E>> {
        let mut current = self.lock();
        if !self.slot.holds(&current.runtime) {
            let next = Current::new(self.slot.load(), current.build, Some(&current.origin));
            if !Arc::ptr_eq(&next.origin, &current.origin) {
                current.origin.retire();
            }
            *current = next;
        }
        current
    }
}

impl<E> Worker<E> {
    /// Creates a worker. `build` creates the layers and the client of the origin for a configuration.
    pub(super) fn new(slot: &'static Slot, drain: Arc<Drain>, build: Build<E>) -> Self {
        Self { slot, drain, peers: Peers::default(), current: Mutex::new(Current::new(slot.load(), build, None)) }
    }

    /// Counts a refusal for which there is no complete request head, for example because of a malformed head or a flood
    /// of HTTP/2 frames. The provider label is `none`, because the provider is not known.
    pub(super) fn refused(&self, reason: Reason) {
        self.slot.load().ledger().refused(ProviderId::NONE, reason);
    }

    fn lock(&self) -> MutexGuard<'_, Current<E>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
