//! The drain ends the process in steps. First /readyz reports 503. Then the listeners close, and each connection ends
//! after its requests. Last, the workers drop the connections that remain.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::flag::Flag;

/// The progress of the drain. The workers, `admin` and the main thread share this value.
#[derive(Debug, Default)]
pub struct Drain {
    not_ready: AtomicBool,
    closing: Flag,
    stopped: Flag,
    /// The number of open connections of all workers together. A listener counts as one connection.
    connections: AtomicUsize,
    cut_requests: AtomicUsize,
    cut_tunnels: AtomicUsize,
    empty: Condvar,
    lock: Mutex<()>,
}

/// What the last step of the drain has cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub requests: usize,
    /// A tunnel is an upgraded connection, for example a WebSocket.
    pub tunnels: usize,
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
    /// files of `serve`, "the drain has begun" means this step. If a reload removes a listener, the removal has the
    /// same effect on the connections of this listener.
    pub(super) fn close(&self) {
        self.closing.set();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_set()
    }

    /// Takes the last step: the workers end and drop the connections that are still open.
    pub(super) fn stop(&self) {
        self.stopped.set();
    }

    /// Waits until [`close`](Self::close) is called.
    pub(super) async fn closing(&self) {
        self.closing.wait().await;
    }

    /// Waits until [`stop`](Self::stop) is called.
    pub(super) async fn stopped(&self) {
        self.stopped.wait().await;
    }

    /// Counts a request in flight that ends now, if the last step of the drain has cut the request off.
    pub(super) fn cut_request(&self) {
        if self.stopped.is_set() {
            self.cut_requests.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Counts a tunnel that ends now, if the last step of the drain has cut the tunnel off.
    pub(super) fn cut_tunnel(&self) {
        if self.stopped.is_set() {
            self.cut_tunnels.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Returns what the drain has cut off. The numbers are complete after the workers have ended.
    pub(super) fn cut(&self) -> Cut {
        let (requests, tunnels) = (&self.cut_requests, &self.cut_tunnels);
        Cut { requests: requests.load(Ordering::Acquire), tunnels: tunnels.load(Ordering::Acquire) }
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
