//! Small `Copy` ids for what a request is counted under: provider, class, locale.
//!
//! Nothing that a client wrote becomes a label, so all three index tables that the configuration filled.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// A CDN by its place in the table of providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProviderId(pub u16);

impl ProviderId {
    /// No sign of any CDN.
    pub const NONE: Self = Self(0);
    /// A name or a sign that the configuration does not hold, or two that disagree.
    pub const OTHER: Self = Self(1);
    /// Claims a provider and failed its proofs.
    pub const UNVERIFIED: Self = Self(2);
    /// The labels of the three above, in order; configured providers follow.
    pub const RESERVED: [&'static str; 3] = ["none", "other", "unverified"];

    /// The id of the `position`-th configured provider.
    #[must_use]
    pub fn configured(position: usize) -> Self {
        Self(u16::try_from(position + Self::RESERVED.len()).unwrap_or(Self::OTHER.0))
    }

    /// The place among the configured providers, for one of them.
    #[must_use]
    pub fn position(self) -> Option<usize> {
        self.index().checked_sub(Self::RESERVED.len())
    }

    /// The place in a table that starts with the reserved labels.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A class of the site by its place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClassId(pub u16);

impl ClassId {
    /// No class matched, or none was decided.
    pub const OTHER: Self = Self(0);

    /// The id of the `position`-th configured class.
    #[must_use]
    pub fn configured(position: usize) -> Self {
        Self(u16::try_from(position + 1).unwrap_or(0))
    }

    /// The place in a table that starts with `other`.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A language of the pages by its place in their table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LocaleId(pub u8);

/// The one copy of a label that lives as long as the process.
///
/// Labels come from the configuration alone, so what is kept is bounded by the configurations that were ever loaded; a log line can
/// then name its provider without touching a reference count.
#[must_use]
pub fn intern(label: &str) -> &'static str {
    static LABELS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut labels = LABELS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = labels.get(label) {
        return known;
    }
    let kept: &'static str = Box::leak(label.to_owned().into_boxed_str());
    labels.insert(kept);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_ids_follow_the_reserved_ones() {
        assert_eq!(ProviderId::configured(0).index(), 3);
        assert_eq!(ProviderId::configured(4).position(), Some(4));
        assert_eq!(ProviderId::NONE.position(), None);
        assert_eq!(ClassId::configured(0).index(), 1);
    }

    #[test]
    fn a_label_is_kept_once() {
        assert!(std::ptr::eq(intern("fastly"), intern(&String::from("fastly"))));
    }
}
