//! Whether an edge is up or down. Single results do not count: an edge is down after `down_after` failed probes in a
//! row, and up after `up_after` successful probes in a row. An edge that has gone down several times needs more
//! successful probes. So an edge that flaps does not make DNS flap.
//!
//! This file uses no clock and no socket.

use std::collections::BTreeSet;

/// The largest factor for `up_after`. An edge that has gone down three times needs 2 * `up_after` successes to be up
/// again. After it has gone down four times, it needs 4 * `up_after` successes, and so on.
const MAX_FACTOR: u32 = 32;
/// After `FORGOTTEN_AFTER * up_after` successes in a row, the earlier failures of an edge are forgotten.
const FORGOTTEN_AFTER: u32 = 64;

/// How many probes in a row change what is known about an edge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub down_after: u32,
    pub up_after: u32,
}

/// What is known about an edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum EdgeState {
    /// Too few probes in a row had the same result since the start.
    #[default]
    Unknown,
    Up,
    Down,
}

/// The results of the probes of one edge, counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    pub state: EdgeState,
    /// How many of the last probes succeeded in a row, and how many failed in a row. At least one of the two is 0.
    pub successes: u32,
    pub failures: u32,
    /// How many times the edge has gone down since its failures were last forgotten.
    times_down: u32,
}

impl Health {
    /// Counts the result of a probe. Returns whether `state` has changed.
    pub(crate) fn count(&mut self, is_success: bool, limits: Limits) -> bool {
        let before = self.state;
        if is_success {
            self.successes = self.successes.saturating_add(1);
            self.failures = 0;
            if self.successes >= self.needed(limits) {
                self.state = EdgeState::Up;
            }
            if self.state == EdgeState::Up && self.successes >= limits.up_after.saturating_mul(FORGOTTEN_AFTER) {
                self.times_down = 0;
            }
        } else {
            self.failures = self.failures.saturating_add(1);
            self.successes = 0;
            if self.failures >= limits.down_after {
                self.state = EdgeState::Down;
            }
        }
        let has_changed = self.state != before;
        if has_changed && self.state == EdgeState::Down {
            self.times_down = self.times_down.saturating_add(1);
        }
        has_changed
    }

    /// Returns how many successes in a row the edge needs until it is up.
    pub(crate) fn needed(&self, limits: Limits) -> u32 {
        let factor = 1_u32.checked_shl(self.times_down.saturating_sub(2)).unwrap_or(MAX_FACTOR).min(MAX_FACTOR);
        limits.up_after.saturating_mul(factor)
    }
}

/// Whether a round gives no information about the edges: no probe succeeded, and the edges that were not down before
/// belong to several providers. The likely cause is the network of this machine.
pub(crate) fn is_blind<'p>(results: impl IntoIterator<Item = (&'p str, EdgeState, bool)>) -> bool {
    let mut failing = BTreeSet::new();
    for (provider, state, is_success) in results {
        if is_success {
            return false;
        }
        if state != EdgeState::Down {
            failing.insert(provider);
        }
    }
    failing.len() >= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { down_after: 3, up_after: 6 };

    /// Counts one probe for each character: `+` is a success. Returns what is known after each probe.
    fn seen(health: &mut Health, probes: &str) -> String {
        let letter = |probe| {
            health.count(probe == '+', LIMITS);
            match health.state {
                EdgeState::Unknown => '?',
                EdgeState::Up => 'U',
                EdgeState::Down => 'D',
            }
        };
        probes.chars().map(letter).collect()
    }

    #[test]
    fn edge_when_probes_in_a_row_agree_then_is_up_or_down() {
        for (probes, wanted) in [
            ("---", "??D"),
            ("++++++", "?????U"),
            ("+++++-++++++", "???????????U"),
            ("--+--+---", "????????D"),
            ("---+++++-++++++", "??DDDDDDDDDDDDU"),
            ("++++++--+--+---", "?????UUUUUUUUUD"),
            ("+-+-+-+-+-+-+-", "??????????????"),
            ("---+-+-+-+-+-+-", "??DDDDDDDDDDDDD"),
        ] {
            assert_eq!(seen(&mut Health::default(), probes), wanted, "{probes}");
        }
    }

    #[test]
    fn edge_when_more_probes_fail_than_needed_then_change_is_reported_once() {
        let mut health = Health::default();
        let changes: Vec<bool> = "-----".chars().map(|probe| health.count(probe == '+', LIMITS)).collect();
        assert_eq!(changes, [false, false, true, false, false]);
    }

    #[test]
    fn edge_when_going_down_many_times_then_needs_more_successes() {
        let mut health = Health::default();
        let mut needed = Vec::new();
        for _ in 0..9 {
            seen(&mut health, "---");
            assert_eq!(health.state, EdgeState::Down);
            let mut successes = 0;
            while health.state == EdgeState::Down {
                health.count(true, LIMITS);
                successes += 1;
            }
            needed.push(successes);
        }
        assert_eq!(needed, [6, 6, 12, 24, 48, 96, 192, 192, 192]);
        seen(&mut health, &"+".repeat(6 * 64));
        assert_eq!(seen(&mut health, "---++++++"), "UUDDDDDDU", "the failures are forgotten after a long time");
        health.times_down = u32::MAX;
        assert_eq!(health.needed(LIMITS), 192);
    }

    #[test]
    fn round_when_no_probe_succeeds_then_is_blind_if_several_providers_were_not_down() {
        use EdgeState::{Down, Unknown, Up};
        for (results, wanted) in [
            (&[("a", Up, false), ("b", Up, false)][..], true),
            (&[("a", Unknown, false), ("b", Unknown, false)], true),
            (&[("a", Up, false), ("b", Up, true)], false),
            (&[("a", Up, false), ("b", Down, true)], false),
            (&[("a", Up, false), ("b", Down, false)], false),
            (&[("a", Up, false), ("b", Up, false), ("c", Down, false)], true),
            (&[("a", Up, false)], false),
            (&[("a", Up, false), ("a", Up, false)], false),
            (&[], false),
        ] {
            assert_eq!(is_blind(results.iter().copied()), wanted, "{results:?}");
        }
    }
}
