//! Which upstreams the active configuration uses.
//!
//! A request keeps its [`Upstream`] until its response has ended, which can take hours. So the number of references to
//! an `Upstream` does not show whether the thread of `upkeep.rs` is still needed. Only a `Runtime` keeps leases. The
//! thread has a lease only while it works, and ends when the last lease of its upstream is dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::options::{MessageLimits, OriginSettings};
use super::target::Role;
use super::tls::TlsProblem;
use super::upstream::Upstream;

/// The use of an upstream by a configuration.
#[derive(Debug, Clone)]
pub(crate) struct Lease(Arc<InUse>);

/// The common part of all leases of one upstream.
#[derive(Debug)]
pub(super) struct InUse(Arc<Upstream>);

impl Lease {
    pub(crate) fn new(upstream: Arc<Upstream>) -> Self {
        Self(Arc::new(InUse(upstream)))
    }

    pub(crate) fn upstream(&self) -> &Arc<Upstream> {
        &self.0.0
    }

    pub(super) fn downgrade(&self) -> Weak<InUse> {
        Arc::downgrade(&self.0)
    }

    /// Returns a lease, if another lease of the same upstream still exists.
    pub(super) fn upgrade(in_use: &Weak<InUse>) -> Option<Self> {
        in_use.upgrade().map(Self)
    }
}

impl Drop for InUse {
    /// Wakes the thread in `upkeep.rs`, which then ends.
    fn drop(&mut self) {
        self.0.stale.notify_one();
    }
}

/// The upstreams that are in use. If a reload does not change the settings of an upstream, the new configuration uses
/// the same upstream, with its addresses and their states.
#[derive(Debug, Default)]
pub(crate) struct Upstreams(Mutex<Vec<Weak<InUse>>>);

impl Upstreams {
    /// Returns a lease of the upstream with these settings, if such an upstream is in use. If the upstream uses TLS,
    /// reads its TLS files again, and uses them if they have changed.
    ///
    /// # Errors
    /// Returns the problems of these files.
    pub(crate) fn find(
        &self,
        origin: &OriginSettings,
        limits: MessageLimits,
        role: Role,
    ) -> Result<Option<Lease>, Vec<TlsProblem>> {
        let leases: Vec<_> = self.lock().iter().filter_map(Lease::upgrade).collect();
        let found = leases.into_iter().find(|lease| {
            let upstream = lease.upstream();
            upstream.origin == *origin && upstream.limits == limits && upstream.role == role
        });
        if let Some(tls) = found.as_ref().and_then(|lease| lease.upstream().tls.as_ref()) {
            tls.reload()?;
        }
        Ok(found)
    }

    pub(crate) fn add(&self, lease: &Lease) {
        let mut known = self.lock();
        known.retain(|in_use| in_use.strong_count() > 0);
        known.push(lease.downgrade());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<InUse>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
