//! The active health check: the keys of `origin.health`, and the rule by which the results of checks change the state
//! of an address. `upkeep.rs` runs the checks.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::uri::PathAndQuery;

use super::endpoint::Endpoint;
use crate::keys::quantities::TIMEOUT;
use crate::keys::{Checked, Keys, Text, Visitor};

/// The keys of `origin.health`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSettings {
    /// The path and query that each check requests. `None`: there are no checks.
    pub path: Option<String>,
    /// The time between two checks of an address, and the longest time of a check.
    pub interval: Duration,
    /// The number of bad checks in a row after which an address becomes unhealthy.
    pub unhealthy_after: i32,
    /// The number of good checks in a row after which an unhealthy address becomes healthy again.
    pub healthy_after: i32,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self { path: None, interval: Duration::from_secs(5), unhealthy_after: 3, healthy_after: 2 }
    }
}

impl Keys for HealthSettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.nonempty("path", &CHECK_PATH, &mut self.path);
        v.text("interval", &TIMEOUT, &mut self.interval);
        v.integer("unhealthy_after", 1..=1_000, &mut self.unhealthy_after);
        v.integer("healthy_after", 1..=1_000, &mut self.healthy_after);
    }
}

const CHECK_PATH: Text<String> = Text { example: "/healthz", read: |text, _| check_path(text), write: String::clone };

fn check_path(text: &str) -> Checked<String> {
    const MOST_BYTES: usize = 2_048;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !text.starts_with('/') || !is_plain || text.len() > MOST_BYTES || PathAndQuery::try_from(text).is_err() {
        return Err("is not a path that can be requested; write a path of at most 2048 ASCII characters that starts \
                    with \"/\" and has no space and no \"#\", for example \"/healthz\", or \"\" for no checks"
            .to_owned());
    }
    Ok(text.to_owned())
}

/// Records the result of a check. If the result has changed the state of the address, returns whether the address is
/// healthy now.
pub(super) fn record(settings: &HealthSettings, endpoint: &Endpoint, good: bool) -> Option<bool> {
    let before = endpoint.streak.load(Ordering::Relaxed);
    let streak = if good { before.max(0).saturating_add(1) } else { before.min(0).saturating_sub(1) };
    endpoint.streak.store(streak, Ordering::Relaxed);
    let healthy = endpoint.is_healthy();
    let changed = if healthy { streak <= -settings.unhealthy_after } else { streak >= settings.healthy_after };
    changed.then(|| {
        endpoint.set_healthy(!healthy);
        !healthy
    })
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::Place;
    use super::*;

    #[test]
    fn address_when_enough_consecutive_checks_agree_then_health_changes() {
        let endpoint = Endpoint::new(Place::Unix("/a".into()));
        let settings = HealthSettings::default();
        let results = [false, false, true, false, false, false, true, false, true, true];
        let changes: Vec<_> = results.iter().map(|&good| record(&settings, &endpoint, good)).collect();
        let mut expected = [None; 10];
        expected[5] = Some(false);
        expected[9] = Some(true);
        assert_eq!(changes, expected);
    }

    #[test]
    fn check_path_when_not_a_path_or_too_long_then_rejected() {
        assert!(check_path("/healthz?full=1").is_ok());
        for bad in ["healthz", "http://a/", "/a b", "/a#b", "/\u{e9}", &format!("/{}", "a".repeat(3_000))] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }
}
