//! The permit that each open client connection needs, and the limit on the number of permits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::drain::Drain;
use super::flag::Flag;
use crate::intake::server_tls::ServerTls;
use crate::metrics::Metrics;

/// The permits for `server.max_connections` connections. A reload can change their number.
#[derive(Debug)]
pub(super) struct Permits {
    free: Arc<Semaphore>,
    limit: Mutex<usize>,
    /// The number of permits that must not become free again, because a reload has lowered the limit below the number
    /// of open connections.
    excess: AtomicUsize,
}

impl Permits {
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(limit)), limit: Mutex::new(limit), excess: AtomicUsize::new(0) }
    }

    /// Changes the limit. If more connections are open than `limit` allows, these connections stay open, and new
    /// connections wait until enough connections have closed.
    pub(super) fn set_limit(&self, limit: usize) {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let mut current = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        if limit < *current {
            let surplus = *current - limit;
            self.excess.fetch_add(surplus - self.free.forget_permits(surplus), Ordering::AcqRel);
        }
        let added = (*current..limit).filter(|_| !self.take_excess()).count();
        self.free.add_permits(added);
        *current = limit;
    }

    /// Waits for a free permit. Returns `None` if the semaphore is closed. edgeshim never closes the semaphore.
    pub(super) async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// Returns a free permit, if there is one. A freed permit goes to a caller of [`acquire`](Self::acquire) first.
    pub(super) fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// Reduces the excess by one. Returns false if there is no excess.
    fn take_excess(&self) -> bool {
        let less = |excess: usize| excess.checked_sub(1);
        self.excess.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
    }
}

/// What all connections of one listener share.
pub(super) struct ListenerState {
    pub(super) permits: Arc<Permits>,
    pub(super) drain: Arc<Drain>,
    /// Set when a reload has removed the listener.
    pub(super) removed: Arc<Flag>,
    pub(super) metrics: &'static Metrics,
    tls: Mutex<Option<Arc<ServerTls>>>,
}

impl ListenerState {
    pub(super) fn new(permits: &Arc<Permits>, drain: &Arc<Drain>, metrics: &'static Metrics) -> Self {
        let (permits, drain) = (Arc::clone(permits), Arc::clone(drain));
        Self { permits, drain, removed: Arc::default(), metrics, tls: Mutex::default() }
    }

    /// Sets the certificates for the next connections of the listener. The certificates of a removed listener stay
    /// until the connections in the listener's queue have been handed to workers.
    pub(super) fn set_tls(&self, tls: Option<Arc<ServerTls>>) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = tls;
    }

    /// Returns whether the drain has begun or a reload has removed the listener.
    pub(super) fn is_closing(&self) -> bool {
        self.drain.is_closing() || self.removed.is_set()
    }

    pub(super) fn tls(&self) -> Option<Arc<ServerTls>> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The permit of one connection. The worker, the drain and the metrics count the connection until its permit is
/// dropped.
pub(super) struct ConnectionPermit {
    load: Arc<AtomicUsize>,
    shared: Arc<ListenerState>,
    is_tunnel: AtomicBool,
    permit: Option<OwnedSemaphorePermit>,
}

impl ConnectionPermit {
    pub(super) fn new(load: &Arc<AtomicUsize>, shared: &Arc<ListenerState>, permit: OwnedSemaphorePermit) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        shared.drain.opened();
        shared.metrics.connections.increment(1.0);
        let (load, shared) = (Arc::clone(load), Arc::clone(shared));
        Self { load, shared, is_tunnel: AtomicBool::new(false), permit: Some(permit) }
    }

    /// Returns whether the connection must end after its requests in flight: the drain has begun, or a reload has
    /// removed the listener of the connection.
    pub(super) fn is_closing(&self) -> bool {
        self.shared.is_closing()
    }

    pub(super) fn drain(&self) -> &Drain {
        &self.shared.drain
    }

    /// Notes that the connection is now a tunnel.
    pub(super) fn upgraded(&self) {
        self.is_tunnel.store(true, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for ConnectionPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionPermit").field("is_tunnel", &self.is_tunnel).finish_non_exhaustive()
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        let ListenerState { permits, drain, metrics, .. } = &*self.shared;
        metrics.connections.decrement(1.0);
        if let Some(permit) = self.permit.take()
            && permits.take_excess()
        {
            permit.forget();
        }
        if self.is_tunnel.load(Ordering::Relaxed) {
            drain.cut_tunnel();
        }
        drain.closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_when_limit_changes_then_open_connections_stay_counted() {
        let permits = Permits::new(3);
        let mut held: Vec<_> = (0..3).map_while(|_| permits.try_acquire()).collect();
        let close = |held: &mut Vec<OwnedSemaphorePermit>| {
            let permit = held.pop().unwrap();
            if permits.take_excess() { permit.forget() } else { drop(permit) }
        };
        permits.set_limit(1);
        close(&mut held);
        close(&mut held);
        assert!(permits.try_acquire().is_none(), "one connection is open, and the limit is 1");
        close(&mut held);
        held.extend(permits.try_acquire());
        assert!(held.len() == 1 && permits.try_acquire().is_none());
        permits.set_limit(4);
        permits.set_limit(0);
        permits.set_limit(2);
        held.extend(permits.try_acquire());
        assert!(held.len() == 2 && permits.try_acquire().is_none());
    }
}
