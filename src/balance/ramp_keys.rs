//! The keys of `[ramp]` in `balance.toml`: the steps of a ramp, its times and its guards. A guard of a ramp is a limit
//! for the figures of the provider whose share grows.

use std::time::Duration;

use crate::config::Section;
use crate::keys::quantities::{TIMEOUT, duration_text};
use crate::keys::{Checked, Keys, Text, Visitor, quote};

/// The weights to which a ramp returns after a breach of a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnBreach {
    /// The weights before the ramp.
    Start,
    /// The weights before the most recent step.
    Previous,
}

const PLACES: [(&str, OnBreach); 2] = [("start", OnBreach::Start), ("previous", OnBreach::Previous)];

/// The keys of `[ramp]`.
#[derive(Debug, Clone)]
pub(crate) struct RampKeys {
    /// The share of the provider after each step, in per cent.
    pub steps: Vec<u32>,
    /// The time between two readings of the figures.
    pub every: Duration,
    /// How long the guards must hold after the share has arrived.
    pub soak: Duration,
    /// How long a share may take to arrive.
    pub arrive: Duration,
    pub on_breach: OnBreach,
    pub guard: GuardKeys,
}

impl Default for RampKeys {
    fn default() -> Self {
        Self {
            steps: vec![1, 5, 10, 25, 50, 75, 100],
            every: Duration::from_secs(15),
            soak: Duration::from_mins(10),
            arrive: Duration::from_mins(15),
            on_breach: OnBreach::Start,
            guard: GuardKeys::default(),
        }
    }
}

/// The limits of the guards. `None`: the guard is off.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct GuardKeys {
    /// The part of the provider's pulls that end with a 5xx, from 0 to 1.
    pub errors: Option<f64>,
    pub beacons_per_minute: Option<f64>,
    /// The 95th percentile of the provider's times, divided by the 95th percentile of the other providers' times.
    pub p95_ratio: Option<f64>,
    /// The offload of the other providers minus the provider's offload. Both are parts of 1.
    pub offload_drop: Option<f64>,
}

impl GuardKeys {
    /// Returns the limits by the names of the guards.
    pub(crate) fn limits(&self) -> [(&'static str, Option<f64>); 4] {
        [
            ("errors", self.errors),
            ("beacons_per_minute", self.beacons_per_minute),
            ("p95_ratio", self.p95_ratio),
            ("offload_drop", self.offload_drop),
        ]
    }
}

impl Keys for RampKeys {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.integers("steps", 1..=100, &mut self.steps);
        v.text("every", &TIMEOUT, &mut self.every);
        v.text("soak", &TIMEOUT, &mut self.soak);
        v.text("arrive", &TIMEOUT, &mut self.arrive);
        v.choice("on_breach", &PLACES, &mut self.on_breach);
        v.block("guard", |v| self.guard.keys(v));
    }
}

impl Keys for GuardKeys {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.number("errors", &PART, &mut self.errors);
        v.number("beacons_per_minute", &RATE, &mut self.beacons_per_minute);
        v.number("p95_ratio", &RATIO, &mut self.p95_ratio);
        v.number("offload_drop", &PART, &mut self.offload_drop);
    }
}

const PART: Text<f64> =
    Text { example: "0.01", read: |text, _| limit(text, 0.0, 1.0, "0.01"), write: ToString::to_string };
const RATE: Text<f64> =
    Text { example: "50", read: |text, _| limit(text, 0.0, 1_000_000.0, "50"), write: ToString::to_string };
const RATIO: Text<f64> =
    Text { example: "1.2", read: |text, _| limit(text, 1.0, 100.0, "1.2"), write: ToString::to_string };

fn limit(text: &str, least: f64, most: f64, example: &str) -> Checked<f64> {
    text.replace('_', "").parse().ok().filter(|limit| (least..=most).contains(limit)).ok_or_else(|| {
        format!("is not a number from {least} to {most}; write for example {example}, or leave the guard out")
    })
}

/// Checks whether the values of different keys fit together.
pub(super) fn check(keys: &RampKeys, max_step: u32, block: &Section<'_>) {
    check_steps(keys, max_step, block);
    let least = keys.every.saturating_mul(2);
    for (name, value) in [("soak", keys.soak), ("arrive", keys.arrive)] {
        if value < least && !block.is_bad(name) && !block.is_bad("every") {
            let (least, every) = (duration_text(least), duration_text(keys.every));
            let message = format!(
                "is shorter than two times the value of every ({}); write at least {}, or a shorter every",
                quote(&every),
                quote(&least)
            );
            if block.has(name) {
                block.reject(name, message)
            } else {
                block.reject("every", not_fitting(name, &duration_text(value)))
            }
        }
    }
}

fn not_fitting(name: &str, value: &str) -> String {
    format!(
        "is more than half of {name}, which is {} by default; write a longer {name}, or a shorter every",
        quote(value)
    )
}

fn check_steps(keys: &RampKeys, max_step: u32, block: &Section<'_>) {
    if block.is_bad("steps") {
        return;
    }
    let default = if block.has("steps") { "" } else { " (the default)" };
    if keys.steps.is_empty() {
        return block.reject("steps", "has no entry; write for example [1, 5, 10, 25, 50, 75, 100]");
    }
    let mut before = 0;
    for &step in &keys.steps {
        if step <= before {
            return block.reject(
                "steps",
                format!(
                    "has {step} after {before}, but each step must be above the step before; sort the steps, and write \
                     each step once"
                ),
            );
        }
        if step - before > max_step {
            let message = format!(
                "goes from {before} to {step} per cent{default}, but max_step allows {max_step} points at a time; \
                 write a step between, or a larger max_step"
            );
            // If the file has no steps, the operator has written only the small max_step.
            if default.is_empty() {
                block.reject("steps", message);
            } else {
                block.missing("steps", message);
            }
            return;
        }
        before = step;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse_keys;

    #[derive(Default)]
    struct OnlyRamp(RampKeys);

    impl Keys for OnlyRamp {
        fn keys<V: Visitor>(&mut self, v: &mut V) {
            v.block("ramp", |v| self.0.keys(v));
        }
    }

    fn read(text: &str) -> Result<RampKeys, String> {
        let check = |keys: &mut OnlyRamp, root: &mut Section<'_>| check(&keys.0, 25, &root.section("ramp"));
        let read = parse_keys(text, "b.toml", Path::new(""), check);
        read.map(|keys| keys.0).map_err(|problems| problems.to_string())
    }

    #[test]
    fn ramp_when_keys_are_set_then_are_read() {
        let text = "[ramp]\nsteps = [2, 20]\nevery = \"5s\"\nsoak = \"10s\"\narrive = \"1m\"\n\
                    on_breach = \"previous\"\n\
                    guard = { errors = 0.005, beacons_per_minute = 50, p95_ratio = 1.2 }";
        let keys = read(text).expect("valid");
        assert_eq!((keys.steps, keys.on_breach), (vec![2, 20], OnBreach::Previous));
        assert_eq!([keys.every, keys.soak, keys.arrive], [5, 10, 60].map(Duration::from_secs));
        let guard =
            GuardKeys { errors: Some(0.005), beacons_per_minute: Some(50.0), p95_ratio: Some(1.2), offload_drop: None };
        assert_eq!(keys.guard, guard);
        assert_eq!(read("").map(|keys| keys.steps.len()), Ok(7), "[ramp] can be left out");
    }

    #[test]
    fn ramp_when_keys_are_wrong_then_problem_says_what_to_write() {
        for (text, parts) in [
            ("steps = []", &["steps", "has no entry"] as &[_]),
            ("steps = [1, 5, 5]", &["has 5 after 5", "sort the steps"]),
            ("steps = [5, 1]", &["has 1 after 5"]),
            ("steps = [0, 5]", &["steps"]),
            ("steps = [5, 101]", &["steps"]),
            ("steps = [1, 30]", &["from 1 to 30 per cent", "max_step allows 25"]),
            ("steps = [26]", &["from 0 to 26 per cent"]),
            ("steps = [1.5]", &["steps"]),
            ("every = \"0s\"", &["every", "zero"]),
            ("soak = \"29s\"", &["soak", "at least \"30s\""]),
            ("every = \"6m\"", &["every", "is more than half of soak, which is \"600s\" by default"]),
            ("arrive = \"20s\"", &["arrive", "at least \"30s\""]),
            ("on_breach = \"stay\"", &["on_breach", "start", "previous"]),
            ("guard = { error = 0.1 }", &["error", "did you mean \"errors\""]),
            ("guard = { errors = 1.5 }", &["errors", "from 0 to 1"]),
            ("guard = { errors = \"1 %\" }", &["errors", "0.01"]),
            ("guard = { errors = nan }", &["errors"]),
            ("guard = { p95_ratio = 0.9 }", &["p95_ratio", "from 1 to 100"]),
            ("guard = { beacons_per_minute = -1 }", &["beacons_per_minute"]),
            ("guard = 1", &["guard"]),
            ("soaks = 1", &["soaks", "did you mean \"soak\""]),
        ] {
            let problems = read(&format!("[ramp]\n{text}\n")).expect_err(text);
            for part in parts {
                assert!(problems.contains(part), "{text}: no {part:?} in {problems}");
            }
        }
    }
}
