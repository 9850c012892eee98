//! A decision about the caching fields of one response, and the changes that follow from it.

use http::{HeaderMap, StatusCode};

use super::changes::Change;
use super::outcome::{Action, Outcome};
use crate::cdn::dialect::Dialect;
use crate::wire::cache_fields::{CacheField, CacheFields, TARGETED};
use crate::wire::names;

#[derive(Debug, Clone)]
pub(super) struct Decision {
    pub(super) cache_control: Change,
    pub(super) targeted: Change,
    pub(super) surrogate_control: Change,
    pub(super) vary: Change,
    /// The change of the dialect's passed field (Edge-Control), which edgeshim never adds.
    pub(super) passed: Change,
    pub(super) strip_cookies: bool,
    pub(super) outcome: Outcome,
}

impl Decision {
    /// Whether a response without caching fields stays unchanged.
    pub(super) fn keeps(&self) -> bool {
        let Self { cache_control, targeted, surrogate_control, vary, passed, strip_cookies, .. } = self;
        [cache_control, targeted, surrogate_control, vary, passed].iter().all(|change| matches!(change, Change::Keep))
            && !strip_cookies
    }

    /// Changes a head. `present` has the caching fields of the head.
    pub(super) fn apply(
        &self,
        dialect: Dialect,
        headers: &mut HeaderMap,
        present: CacheFields,
        status: StatusCode,
    ) -> Outcome {
        let Self { cache_control, targeted, surrogate_control, vary, passed, strip_cookies, outcome } = self;
        let mut outcome = *outcome;
        let targeted_field = dialect.targeted_field();
        let mut changed = cache_control.apply(headers, &names::CACHE_CONTROL);
        if let Some(name) = targeted_field {
            changed |= targeted.apply(headers, name);
            for read in dialect.reads().iter().filter(|read| present.has(CacheField::Targeted) && **read != name) {
                changed |= headers.remove(*read).is_some();
            }
        }
        let passed_field = dialect.passed_field();
        if let Some(name) = passed_field.filter(|_| present.has(CacheField::Targeted)) {
            changed |= passed.apply(headers, name);
        }
        if !changed {
            // No field was changed up to here, so the emitted directives are the origin's directives. The changes below
            // are counted as `tidied`, whatever the class's rule is.
            outcome.action = Some(Action::Tidied);
        }
        for (field, name) in [(CacheField::Pragma, &names::PRAGMA), (CacheField::Expires, &names::EXPIRES)] {
            if present.has(field) {
                changed |= headers.remove(name).is_some();
            }
        }
        if present.has(CacheField::Targeted) {
            for name in TARGETED.into_iter().filter(|name| targeted_field != Some(name) && passed_field != Some(name)) {
                changed |= headers.remove(name).is_some();
            }
        }
        changed |= surrogate_control.apply(headers, &names::SURROGATE_CONTROL);
        changed |= vary.apply(headers, &names::VARY);
        if *strip_cookies {
            changed |= headers.remove(&names::SET_COOKIE).is_some();
        }
        if status.is_server_error() && present.has(CacheField::Age) {
            changed |= headers.remove(&names::AGE).is_some();
        }
        if !changed {
            outcome.action = None;
        }
        outcome
    }
}
