//! The permit that each open client connection needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::OwnedSemaphorePermit;

use super::drain::Drain;
use crate::metrics::Metrics;

/// One of the `server.max_connections` permits. The worker, the drain and the metrics count the connection until its
/// permit is dropped.
pub(super) struct ConnectionPermit {
    load: Arc<AtomicUsize>,
    drain: Arc<Drain>,
    metrics: &'static Metrics,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionPermit {
    pub(super) fn new(
        load: &Arc<AtomicUsize>,
        drain: &Arc<Drain>,
        metrics: &'static Metrics,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        drain.opened();
        metrics.connections.increment(1.0);
        Self { load: Arc::clone(load), drain: Arc::clone(drain), metrics, _permit: permit }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections.decrement(1.0);
        self.drain.closed();
    }
}
