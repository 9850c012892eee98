//! The state of `gzip` that outlives one response.

use std::sync::Arc;

use super::keys::GzipSettings;
use super::known_tags::KnownTags;
use super::ripener::Ripener;
use super::twins::{Key, Twin, Twins};
use crate::metrics::{Ledger, describe};

/// The state that outlives one response. All workers of one configuration share this state.
#[derive(Debug, Clone)]
pub(crate) struct GzipMemory {
    pub(super) twins: Option<Arc<Twins>>,
    pub(super) tags: Arc<KnownTags>,
    /// `None` if `gzip.ripen` is off or `gzip.twins` is 0.
    ripener: Option<Arc<Ripener>>,
}

impl GzipMemory {
    /// Creates the state. If `gzip.twins` is 0, no twin is stored.
    pub(crate) fn new(settings: &GzipSettings, ledger: &Ledger) -> Self {
        let twins = (settings.twins_bytes > 0).then(|| Arc::new(Twins::new(settings.twins_bytes)));
        let ripener = twins
            .as_ref()
            .filter(|_| settings.ripen)
            .map(|twins| Arc::new(Ripener::new(twins, ledger.table(&describe::TWINS_RIPENED))));
        Self { twins, tags: Arc::new(KnownTags::new()), ripener }
    }

    /// Offers a twin to the ripener, if there is a ripener. See [`Ripener::offer`].
    pub(super) fn ripen(&self, twins: &Twins, key: Key, twin: &Twin) {
        if let Some(ripener) = &self.ripener {
            ripener.offer(twins, key, twin);
        }
    }

    /// Removes a twin whose body differs from the origin's current body.
    pub(super) fn forget(&self, key: &Key) {
        if let Some(twins) = &self.twins {
            twins.remove(key);
        }
    }
}
