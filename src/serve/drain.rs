//! The drain ends the process in steps. First /readyz reports 503. Then the listeners close, and each connection ends
//! after its requests. Last, the workers drop the connections that remain.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The progress of the drain. The workers, `admin` and the main thread share it.
#[derive(Debug, Default)]
pub struct Drain {
    not_ready: AtomicBool,
    closing: AtomicBool,
    stopped: AtomicBool,
    /// The number of open connections of all workers together. A listener counts as one connection.
    connections: AtomicUsize,
    changed: Notify,
    empty: Condvar,
    lock: Mutex<()>,
}

impl Drain {
    /// Takes the first step: /readyz responds with 503. New connections are still served.
    pub fn announce(&self) {
        self.not_ready.store(true, Ordering::Release);
    }

    /// Returns whether load balancers are allowed to send new connections.
    pub fn is_ready(&self) -> bool {
        !self.not_ready.load(Ordering::Acquire)
    }

    /// Takes the second step: the listeners close, and each connection ends after its requests in flight. In the other
    /// files of `serve`, "the drain has begun" means this step.
    pub(super) fn close(&self) {
        self.announce();
        self.closing.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Takes the last step: the workers end and drop the connections that are still open.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Waits until [`close`](Self::close) is called.
    pub(super) async fn closing(&self) {
        self.until(&self.closing).await;
    }

    /// Waits until [`stop`](Self::stop) is called.
    pub(super) async fn stopped(&self) {
        self.until(&self.stopped).await;
    }

    async fn until(&self, flag: &AtomicBool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // The task registers before it reads the flag, so that it misses no change.
            changed.as_mut().enable();
            if flag.load(Ordering::Acquire) {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn opened(&self) {
        self.connections.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn closed(&self) {
        if self.connections.fetch_sub(1, Ordering::AcqRel) == 1 && self.is_closing() {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.empty.notify_all();
        }
    }

    /// Waits until all connections have closed, for at most `limit`. Returns whether all connections have closed.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.connections.load(Ordering::Acquire) == 0 {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            guard = self.empty.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
