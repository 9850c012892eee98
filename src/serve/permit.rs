//! The permit that each open client connection needs, and the limit on the number of permits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::drain::Drain;
use super::flag::Flag;
use crate::intake::server_tls::ServerTls;
use crate::metrics::Metrics;

/// The number of connections of each worker.
pub(super) type Loads = [AtomicUsize];

/// The permits for `server.max_connections` connections. A reload can change their number.
#[derive(Debug)]
pub(super) struct Permits {
    free: Semaphore,
    limit: Mutex<usize>,
    /// The number of permits that must not become free again, because a reload has lowered the limit below the number
    /// of open connections.
    excess: AtomicUsize,
}

impl Permits {
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { free: Semaphore::new(limit), limit: Mutex::new(limit), excess: AtomicUsize::new(0) }
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

    /// Waits for a free permit and takes it. The caller must make a [`ConnectionPermit`] of it. Returns false if the
    /// semaphore is closed. edgeshim never closes the semaphore.
    pub(super) async fn acquire(&self) -> bool {
        self.free.acquire().await.map(SemaphorePermit::forget).is_ok()
    }

    /// Takes a free permit, if there is one. The caller must make a [`ConnectionPermit`] of it. A freed permit goes to
    /// a caller of [`acquire`](Self::acquire) first.
    pub(super) fn try_acquire(&self) -> bool {
        self.free.try_acquire().map(SemaphorePermit::forget).is_ok()
    }

    /// Frees the permit of a connection that has closed.
    fn release(&self) {
        if !self.take_excess() {
            self.free.add_permits(1);
        }
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
    loads: Arc<Loads>,
    tls: Mutex<Option<Arc<ServerTls>>>,
}

impl ListenerState {
    pub(super) fn new(
        permits: &Arc<Permits>,
        drain: &Arc<Drain>,
        loads: &Arc<Loads>,
        metrics: &'static Metrics,
    ) -> Self {
        let (permits, drain, loads) = (Arc::clone(permits), Arc::clone(drain), Arc::clone(loads));
        Self { permits, drain, removed: Arc::default(), metrics, loads, tls: Mutex::default() }
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

    /// Returns the worker that has the fewest connections. If several workers have the fewest connections, returns the
    /// first of them.
    pub(super) fn least_loaded(&self) -> usize {
        let fewest = self.loads.iter().enumerate().min_by_key(|(_, load)| load.load(Ordering::Relaxed));
        fewest.map_or(0, |(worker, _)| worker)
    }

    fn load(&self, worker: usize) -> &AtomicUsize {
        static NONE: AtomicUsize = AtomicUsize::new(0);
        self.loads.get(worker).unwrap_or(&NONE)
    }

    pub(super) fn tls(&self) -> Option<Arc<ServerTls>> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The permit of one connection. The worker, the drain and the metrics count the connection until its permit is
/// dropped.
pub(super) struct ConnectionPermit {
    shared: Arc<ListenerState>,
    worker: usize,
    is_tunnel: AtomicBool,
}

impl ConnectionPermit {
    /// Counts a connection of `worker`. The caller must have taken a permit of [`Permits`].
    pub(super) fn new(shared: &Arc<ListenerState>, worker: usize) -> Self {
        shared.load(worker).fetch_add(1, Ordering::Relaxed);
        shared.drain.opened();
        shared.metrics.connections.increment(1.0);
        Self { shared: Arc::clone(shared), worker, is_tunnel: AtomicBool::new(false) }
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
        self.shared.load(self.worker).fetch_sub(1, Ordering::Relaxed);
        let ListenerState { permits, drain, metrics, .. } = &*self.shared;
        metrics.connections.decrement(1.0);
        permits.release();
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
        assert!((0..3).all(|_| permits.try_acquire()));
        permits.set_limit(1);
        permits.release();
        permits.release();
        assert!(!permits.try_acquire(), "one connection is open, and the limit is 1");
        permits.release();
        assert!(permits.try_acquire() && !permits.try_acquire());
        permits.set_limit(4);
        permits.set_limit(0);
        permits.set_limit(2);
        assert!(permits.try_acquire() && !permits.try_acquire());
    }
}
