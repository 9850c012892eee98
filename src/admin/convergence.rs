//! Convergence: how fast the shares of pulls follow a change of the CDNs' weights. A client follows new weights only
//! when its DNS entry expires, and some resolvers keep entries for much longer. So a change arrives quickly for most
//! clients and slowly for the rest. For each step of the weights, this file finds t50, t90 and t99. These are the
//! seconds from the step until 50 %, 90 % and 99 % of the change of a share had arrived.
//!
//! The look of a step is the time from this step to the next step, or until now.
//!
//! A step is announced with `POST /annotations`, or it is detected in the shares. An announcement names providers and
//! their new weights. So each of these providers has a wanted share, and only the pulls of these providers count. The
//! shares of a detected step are shares of all pulls, and its wanted share is the share at the end of its look. When a
//! step is detected, a part of its change has arrived. The reported start of the step is the moment when half of this
//! part had arrived. This moment is some seconds late, so the times of the step are too short by these seconds.
//!
//! **Method:** the middle is halfway between the old and the wanted share. If a share rises, t50 is the moment that
//! best separates the seconds with a share below the middle from the seconds with a share above the middle. At this
//! moment, the running sum of `pulls of the provider - middle × all pulls` from the start of the look has its minimum.
//! The method needs no smoothing, so fast and slow changes are found with the same precision.
//!
//! **Error:** if chance does not move the shares, a time is right to one second, which is the length of a sample. With
//! random pulls, each time has an earliest and a latest value. If chance moves the shares by at most two standard
//! deviations of independent pulls, the true time is between these two values. A time counts as reached if the latest
//! value is before the end of the look. If a share changes by 40 percentage points, t99 counts as reached only when
//! there are about 20,000 pulls after t99. In a simulation of such a change with 200 random pulls in a second and a
//! long tail (see the tests), the mean error was 2.5 seconds for t50, 39 seconds for t90 and 137 seconds for t99, whose
//! true values were about 29, 400 and 1800 seconds.
//!
//! **Memory:** 104 bytes for each second of an hour, and at most [`MOST`] steps: less than 0.5 MiB.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::digits::{digits, round};
use super::history::{Column, MAX_PROVIDERS, Names, Sample};
use crate::metrics::arrival::{PARTS, arrival, chance, minimum, sums};

/// The number of stored seconds.
const SECONDS: usize = 3600;
/// The largest number of stored steps. If there are more, the oldest step is dropped.
const MOST: usize = 8;
/// The old shares of an announced step are calculated from the pulls in at most this time before the step, in seconds.
const BEFORE: f64 = 120.0;
/// The current share is calculated from the pulls in this time before the end of the look, in seconds.
const NOW: f64 = 30.0;
/// The smallest change of a share for which t50, t90 and t99 are computed. The change must also be larger than
/// [`chance`](crate::metrics::arrival::chance).
const SMALLEST: f64 = 0.01;

/// To detect a step, two shares of a provider are compared: the share in the last [`WINDOW`] seconds, and the share in
/// the [`WINDOW`] seconds that ended [`GAP`] seconds ago. A step is detected if the two shares differ by at least
/// [`DETECTED`], and by at least [`CERTAIN`] standard deviations. No further step is detected until this difference is
/// below [`STILL`] for every provider.
const WINDOW: f64 = 60.0;
const GAP: f64 = 120.0;
const DETECTED: f64 = 0.05;
const CERTAIN: f64 = 6.0;
const STILL: f64 = 0.025;
/// At the detection, a part of the change has already arrived. The start of the step is the moment when this fraction
/// of that part had arrived.
const START: f64 = 0.5;
/// The time after an announced step in which no step is detected, in seconds. In this time, the shares follow the
/// announced step.
const ANNOUNCED: f64 = 900.0;

/// The pulls of each provider in one second.
#[derive(Debug)]
struct Second {
    /// The end of the second, in seconds of Unix time.
    at: f64,
    pulls: [f32; MAX_PROVIDERS],
}

/// A change of the weights.
#[derive(Debug)]
struct Step {
    /// The start, in seconds of Unix time.
    at: f64,
    /// The text of the announcement. `None`: the step was detected.
    text: Option<String>,
    /// The providers whose pulls count, each as its position in [`Names`], with its old and its wanted share.
    members: Vec<Member>,
    /// The number of pulls from which the old shares were calculated.
    pulls_before: f64,
}

#[derive(Debug, Clone)]
struct Member {
    provider: usize,
    /// The old share. `None`: there were no pulls before the step.
    before: Option<f64>,
    /// The wanted share. `None`: the wanted share is not known, because the step was detected.
    wanted: Option<f64>,
}

/// A detected step.
#[derive(Debug)]
pub(super) struct Shift {
    pub at: f64,
    /// The provider whose share changes most, by its position.
    pub provider: usize,
    pub before: f64,
    pub is_rise: bool,
}

/// The pulls of the last hour by second, and the newest steps.
#[derive(Debug, Default)]
pub(super) struct Shares {
    seconds: VecDeque<Second>,
    steps: VecDeque<Step>,
    /// Whether the shares still follow the newest step.
    is_moving: bool,
}

impl Shares {
    /// Adds a sample of one second.
    pub(super) fn push(&mut self, sample: &Sample) {
        let mut pulls = [0.0; MAX_PROVIDERS];
        for (to, provider) in pulls.iter_mut().zip(&sample.providers) {
            *to = provider.row.counts[Column::Pulls as usize];
        }
        if self.seconds.back().is_some_and(|last| sample.at < last.at) {
            // The clock of the system was set back. The ring and the steps are cleared, because their times must be in
            // order.
            self.seconds.clear();
            self.steps.clear();
        }
        if self.seconds.len() >= SECONDS {
            self.seconds.pop_front();
        }
        self.seconds.push_back(Second { at: sample.at, pulls });
        let oldest = self.seconds.front().map_or(0.0, |second| second.at);
        self.steps.retain(|step| step.at >= oldest);
    }

    /// Adds an announced step. `weights` has the new weight of each provider, by its position.
    pub(super) fn announce(&mut self, at: f64, text: &str, weights: &[(usize, f64)]) {
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut members: Vec<Member> = Vec::new();
        for (provider, weight) in weights {
            let wanted = weight / sum;
            // All providers that the history counts as `other` have the same position.
            match members.iter_mut().find(|member| member.provider == *provider) {
                Some(member) => member.wanted = member.wanted.map(|other| other + wanted),
                None => members.push(Member { provider: *provider, before: None, wanted: Some(wanted) }),
            }
        }
        let previous = self.steps.back().map_or(0.0, |step| step.at);
        let from = (at - BEFORE).max(previous.min(at - 10.0));
        let names: Vec<_> = members.iter().map(|member| member.provider).collect();
        for member in &mut members {
            member.before = self.share(member.provider, &names, from, at);
        }
        let pulls_before = self.all(&names, from, at);
        self.add(Step { at, text: Some(text.to_owned()), members, pulls_before });
        self.is_moving = true;
    }

    /// Looks for a step that was not announced. Returns each such step once.
    pub(super) fn detect(&mut self) -> Option<Shift> {
        let now = self.seconds.back()?.at;
        let step = self.steps.back();
        if step.is_some_and(|step| step.text.is_some() && now - step.at < ANNOUNCED) {
            self.is_moving = true;
            return None;
        }
        let (old, new) = (self.pulls(now - GAP - WINDOW, now - GAP), self.pulls(now - WINDOW, now));
        let sum = |pulls: &[f64; MAX_PROVIDERS]| pulls.iter().sum::<f64>();
        let (all_old, all_new) = (sum(&old), sum(&new));
        if all_old <= 0.0 || all_new <= 0.0 {
            return None;
        }
        let change = |provider: usize| new[provider] / all_new - old[provider] / all_old;
        let provider = (0..MAX_PROVIDERS).max_by(|a, b| change(*a).abs().total_cmp(&change(*b).abs()))?;
        let size = change(provider).abs();
        let mean = (old[provider] + new[provider]) / (all_old + all_new);
        let deviation = (mean * (1.0 - mean) * (1.0 / all_old + 1.0 / all_new)).sqrt();
        let was_moving = self.is_moving;
        self.is_moving = if was_moving { size >= STILL } else { size >= DETECTED && size >= CERTAIN * deviation };
        if was_moving || !self.is_moving {
            return None;
        }
        let all: Vec<_> = (0..MAX_PROVIDERS).filter(|member| old[*member] + new[*member] > 0.0).collect();
        let (before, rise) = (old[provider] / all_old, change(provider));
        let from = now - GAP - WINDOW;
        let look = self.look(provider, &all, from, now);
        let at = from + minimum(&sums(&look, before + START * rise, rise > 0.0)).0;
        let member = |provider| Member { provider, before: Some(old[provider] / all_old), wanted: None };
        self.add(Step { at, text: None, members: all.into_iter().map(member).collect(), pulls_before: all_old });
        Some(Shift { at, provider, before, is_rise: rise > 0.0 })
    }

    fn add(&mut self, step: Step) {
        if self.steps.len() >= MOST {
            self.steps.pop_front();
        }
        self.steps.push_back(step);
    }

    /// Returns the seconds that end after `from`, up to `to`.
    fn between(&self, from: f64, to: f64) -> impl Iterator<Item = &Second> {
        // Because of rounding, the end of a sample can be slightly after `from` or `to`. With the tolerance, such an
        // end counts as equal to `from` or `to`.
        let first = self.seconds.partition_point(|second| second.at <= from + 1e-6);
        self.seconds.iter().skip(first).take_while(move |second| second.at <= to + 1e-6)
    }

    /// Returns the number of pulls of each provider between two moments.
    fn pulls(&self, from: f64, to: f64) -> [f64; MAX_PROVIDERS] {
        let mut sum = [0.0; MAX_PROVIDERS];
        for second in self.between(from, to) {
            for (sum, pulls) in sum.iter_mut().zip(second.pulls) {
                *sum += f64::from(pulls);
            }
        }
        sum
    }

    /// Returns the share of a provider in the pulls of `members` between two moments. `None`: there are no pulls.
    fn share(&self, provider: usize, members: &[usize], from: f64, to: f64) -> Option<f64> {
        let pulls = self.pulls(from, to);
        let all: f64 = members.iter().map(|member| pulls[*member]).sum();
        (all > 0.0).then(|| pulls[provider] / all)
    }

    /// Returns the number of pulls of `members` between two moments.
    fn all(&self, members: &[usize], from: f64, to: f64) -> f64 {
        let pulls = self.pulls(from, to);
        members.iter().map(|member| pulls[*member]).sum()
    }

    /// Returns for each second between two moments: its end in seconds after `from`, the pulls of a provider, and the
    /// pulls of `members`.
    fn look(&self, provider: usize, members: &[usize], from: f64, to: f64) -> Vec<(f64, f64, f64)> {
        let pulls = |second: &Second, provider: usize| f64::from(second.pulls[provider]);
        let all = |second: &Second| members.iter().map(|member| pulls(second, *member)).sum();
        self.between(from, to).map(|second| (second.at - from, pulls(second, provider), all(second))).collect()
    }

    /// Returns the steps of the last hour as JSON, the newest step first.
    pub(super) fn json(&self, names: &Names) -> Value {
        let Some(now) = self.seconds.back().map(|second| second.at) else { return json!([]) };
        // The look of a step ends at the next step.
        let ends = std::iter::once(None).chain(self.steps.iter().rev().map(|step| Some(step.at)));
        let steps = self.steps.iter().rev().zip(ends);
        json!(steps.map(|(step, end)| self.described(step, end, now, names)).collect::<Vec<_>>())
    }

    fn described(&self, step: &Step, end: Option<f64>, now: f64, names: &Names) -> Value {
        let to = end.unwrap_or(now);
        let members: Vec<_> = step.members.iter().map(|member| member.provider).collect();
        let (mut providers, mut has_arrived) = (Vec::new(), true);
        for member in &step.members {
            let Some(before) = member.before else { continue };
            let share = |from, to| self.share(member.provider, &members, from, to);
            let current = share((to - NOW).max(step.at), to);
            let settled = ((to - step.at) / 4.0).clamp(NOW, 600.0);
            let level = share((to - settled).max(step.at), to);
            let Some(wanted) = member.wanted.or(level) else { continue };
            let smallest = if member.wanted.is_some() {
                // The announced share is exact. So only the old share, which is measured, depends on chance.
                chance(wanted, 1.0 / step.pulls_before)
            } else {
                let pulls = self.all(&members, (to - settled).max(step.at), to);
                let mean = (before * step.pulls_before + wanted * pulls) / (step.pulls_before + pulls);
                chance(mean, 1.0 / step.pulls_before + 1.0 / pulls)
            };
            if (wanted - before).abs() < smallest.max(SMALLEST) {
                continue;
            }
            let mut entry = json!({
                "name": names.providers.get(member.provider),
                "from": digits(before),
                "to": digits(wanted),
                "now": current.map(digits),
            });
            let look = self.look(member.provider, &members, step.at, to);
            for (key, part) in PARTS {
                let arrival = arrival(&look, before + part * (wanted - before), wanted > before);
                has_arrived &= arrival.is_some();
                entry[key] = arrival.map_or(Value::Null, |arrival| {
                    json!({
                        "seconds": digits(arrival.seconds),
                        "earliest": digits(arrival.earliest),
                        "latest": digits(arrival.latest),
                    })
                });
            }
            if member.wanted.is_none() {
                let earlier = share((to - 2.0 * settled).max(step.at), to - settled);
                let drift = earlier.zip(level).map_or(f64::MAX, |(earlier, level)| (level - earlier).abs());
                has_arrived &= drift < SMALLEST.max(0.05 * (wanted - before).abs());
            }
            providers.push(entry);
        }
        json!({
            "time": round(step.at),
            "end": end.map(round),
            "text": step.text,
            "is_announced": step.text.is_some(),
            "has_arrived": has_arrived && !providers.is_empty(),
            "providers": providers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::{History, Snapshot};
    use super::*;

    const FASTLY: usize = 1;
    const AKAMAI: usize = 2;
    /// The time of the step. It is not a whole second, because an announcement can arrive at any time.
    const STEP: f64 = 1_000_300.4;

    /// A generator of pseudo-random numbers (`SplitMix64`), so that each run of a test has the same numbers.
    struct Random(u64);

    impl Random {
        /// Returns a number from 0 to below 1.
        #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
        fn unit(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    /// Clients of two CDNs. The weights change from 50/50 to 90/10 at the moment [`STEP`]. A client that changes its
    /// CDN does so when its DNS entry expires. This takes 30 seconds on average for 80 % of these clients, and 600
    /// seconds on average for the rest.
    struct Clients {
        /// The times at which clients of Akamai change to Fastly, in seconds after the step. The times are sorted.
        changes: Vec<f64>,
        /// The number of clients.
        all: f64,
    }

    impl Clients {
        #[allow(clippy::cast_precision_loss, reason = "the numbers are small")]
        fn new(all: usize, random: &mut Random) -> Self {
            let expiry = |random: &mut Random| {
                let mean = if random.unit() < 0.8 { 30.0 } else { 600.0 };
                -mean * (1.0 - random.unit()).ln()
            };
            let mut changes: Vec<_> = (0..all * 4 / 10).map(|_| expiry(random)).collect();
            changes.sort_by(f64::total_cmp);
            Self { changes, all: all as f64 }
        }

        /// Returns the share of the clients that use Fastly at a moment after the step.
        #[allow(clippy::cast_precision_loss, reason = "the numbers are small")]
        fn share(&self, after: f64) -> f64 {
            0.5 + self.changes.partition_point(|change| *change <= after) as f64 / self.all
        }

        /// Returns the seconds from the step until this part of the moving clients had moved.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a position in the list")]
        #[allow(clippy::cast_precision_loss, reason = "the numbers are small")]
        fn truth(&self, part: f64) -> f64 {
            self.changes[(self.changes.len() as f64 * part).ceil() as usize - 1]
        }
    }

    /// Traffic with one sample for each second of virtual time.
    struct Traffic {
        history: History,
        shares: Shares,
        totals: [u64; 2],
        time: f64,
        names: Names,
        shifts: Vec<Shift>,
    }

    impl Traffic {
        fn new() -> Self {
            let mut names = Names::default();
            assert_eq!((names.provider("fastly"), names.provider("akamai")), (FASTLY, AKAMAI));
            let (history, shares) = Default::default();
            Self { history, shares, totals: [0; 2], time: 1_000_000.0, names, shifts: Vec::new() }
        }

        fn second(&mut self, fastly: u64, akamai: u64) {
            self.totals[0] += fastly;
            self.totals[1] += akamai;
            self.time += 1.0;
            let mut snapshot = Snapshot::default();
            snapshot.provider(FASTLY).row.add(Column::Pulls, self.totals[0]);
            snapshot.provider(AKAMAI).row.add(Column::Pulls, self.totals[1]);
            self.history.push(snapshot, self.time, 1.0);
            if let Some(sample) = self.history.fine().back() {
                self.shares.push(sample);
            }
            self.shifts.extend(self.shares.detect());
        }

        /// Adds seconds in which each pull comes from a client that is selected at random.
        fn run(&mut self, seconds: u32, pulls: u64, random: &mut Random, share: impl Fn(f64) -> f64) {
            for _ in 0..seconds {
                let mut fastly = 0;
                for _ in 0..pulls {
                    let after = self.time + random.unit() - STEP;
                    fastly += u64::from(random.unit() < share(after));
                }
                self.second(fastly, pulls - fastly);
            }
        }

        fn announce(&mut self) {
            self.shares.announce(STEP, "50/50 to 90/10", &[(FASTLY, 90.0), (AKAMAI, 10.0)]);
        }

        /// Returns the newest step.
        fn step(&self) -> Value {
            self.shares.json(&self.names)[0].clone()
        }
    }

    fn number(value: &Value) -> f64 {
        value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
    }

    #[test]
    fn step_when_announced_then_reported_times_differ_from_true_times_by_at_most_one_second() {
        let mut random = Random(1);
        let clients = Clients::new(100_000, &mut random);
        // Each client pulls exactly once in each second, always at the same moment within the second. So no number of
        // pulls depends on chance.
        let mut traffic = Traffic::new();
        for _ in 0..300 {
            traffic.second(50_000, 50_000);
        }
        traffic.announce();
        let after = |traffic: &Traffic| traffic.time - STEP;
        let mut seen = Vec::new();
        for _ in 0..3200 {
            // The share in the middle of the second is used as the mean share in this second.
            let share = if after(&traffic) < 0.0 { 0.5 } else { clients.share(after(&traffic) + 0.5) };
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of pulls")]
            let fastly = (share * clients.all).round() as u64;
            traffic.second(fastly, 100_000 - fastly);
            if after(&traffic) > 400.0 && traffic.time % 50.0 > 0.5 {
                continue;
            }
            let step = traffic.step();
            for (key, part) in PARTS {
                if step["providers"][0][key].is_object() && !seen.contains(&key) {
                    seen.push(key);
                    assert!(after(&traffic) > clients.truth(part), "{key} must not be reported before its time");
                }
            }
        }
        let step = traffic.step();
        assert_eq!((&step["has_arrived"], &step["is_announced"]), (&json!(true), &json!(true)), "{step:#}");
        for provider in 0..2 {
            let provider = &step["providers"][provider];
            for (key, part) in PARTS {
                let truth = clients.truth(part);
                let found = number(&provider[key]["seconds"]);
                assert!((found - truth).abs() <= 1.0, "{key}: {found} s, but the truth is {truth} s: {provider:#}");
            }
        }
        let (t50, t99) = (clients.truth(0.5), clients.truth(0.99));
        assert!((20.0..40.0).contains(&t50) && (1500.0..2100.0).contains(&t99), "the tail must be long: {t50} {t99}");
        assert!(traffic.shifts.is_empty(), "an announced step must not be detected as a second step");
    }

    #[test]
    fn step_when_pulls_are_random_then_most_true_times_are_within_the_reported_bounds() {
        let (mut checked, mut outside) = (0, Vec::new());
        for seed in 0..6 {
            let mut random = Random(seed);
            let clients = Clients::new(50_000, &mut random);
            let mut traffic = Traffic::new();
            traffic.run(300, 200, &mut random, |_| 0.5);
            traffic.announce();
            traffic.run(3000, 200, &mut random, |after| if after < 0.0 { 0.5 } else { clients.share(after) });
            let step = traffic.step();
            for (key, part) in PARTS {
                let (found, truth) = (&step["providers"][0][key], clients.truth(part));
                if found.is_null() {
                    assert_eq!(key, "t99", "only the end of the tail can be too small to be seen: {step:#}");
                    continue;
                }
                checked += 1;
                if truth < number(&found["earliest"]) - 1.0 || truth > number(&found["latest"]) + 1.0 {
                    outside.push(format!("{key}: {found}, but the truth is {truth}"));
                }
                if key == "t50" {
                    assert!((number(&found["seconds"]) - truth).abs() < 6.0, "{found}, but the truth is {truth}");
                }
            }
        }
        assert!(
            checked >= 15 && outside.len() * 10 <= checked,
            "{checked} times were checked, at least 15 are needed; at most a tenth may be outside: {outside:#?}"
        );
    }

    #[test]
    fn change_when_only_a_part_has_arrived_then_later_times_are_null() {
        let mut random = Random(5);
        let clients = Clients::new(50_000, &mut random);
        let mut traffic = Traffic::new();
        traffic.run(300, 500, &mut random, |_| 0.5);
        traffic.announce();
        traffic.run(60, 500, &mut random, |after| if after < 0.0 { 0.5 } else { clients.share(after) });
        let step = traffic.step();
        let fastly = &step["providers"][0];
        assert_eq!(
            (&fastly["name"], &fastly["to"], &step["has_arrived"]),
            (&json!("fastly"), &json!(0.9), &json!(false))
        );
        assert!(fastly["t50"].is_object() && fastly["t90"].is_null() && fastly["t99"].is_null(), "{fastly:#}");
        assert!(number(&fastly["from"]) > 0.48 && number(&fastly["now"]) < 0.85, "{fastly:#}");
    }

    #[test]
    fn step_when_not_announced_then_detected_once_near_the_true_start() {
        let mut random = Random(2);
        let clients = Clients::new(50_000, &mut random);
        let mut traffic = Traffic::new();
        traffic.run(300, 300, &mut random, |_| 0.5);
        assert!(traffic.shifts.is_empty());
        traffic.run(3000, 300, &mut random, |after| if after < 0.0 { 0.5 } else { clients.share(after) });
        let [shift] = &traffic.shifts[..] else { panic!("expected one shift: {:?}", traffic.shifts) };
        assert!((shift.at - STEP).abs() < 6.0 && (shift.before - 0.5).abs() < 0.02, "{shift:?}");
        let step = traffic.step();
        assert_eq!((&step["is_announced"], &step["text"], &step["end"]), (&json!(false), &Value::Null, &Value::Null));
        let fastly = &step["providers"][0];
        assert!((number(&fastly["to"]) - 0.9).abs() < 0.01, "{fastly:#}");
        // The detected start is late by up to a few seconds, so the time is too short by as many seconds.
        let (found, truth) = (number(&fastly["t50"]["seconds"]), clients.truth(0.5));
        assert!((found - truth).abs() < 8.0, "{found} s, but the truth is {truth} s");
    }

    #[test]
    fn shares_when_weights_do_not_change_then_no_step_is_detected() {
        let mut random = Random(3);
        let mut traffic = Traffic::new();
        // A slow trend of four percentage points in an hour is not a step.
        traffic.run(3600, 60, &mut random, |after| 0.5 + 0.04 * (after + 300.0) / 3600.0);
        assert!(traffic.shifts.is_empty(), "{:?}", traffic.shifts);
        assert_eq!(traffic.shares.json(&traffic.names), json!([]));
    }

    #[test]
    fn share_when_difference_is_small_or_chance_then_is_not_listed_as_changed() {
        for (fastly, akamai, listed) in [
            // 8 seconds with 66 pulls each: 1.1 percentage points are less than three standard errors.
            ([13, 12, 13, 12, 13, 13, 12, 13], [53, 54, 53, 54, 53, 53, 54, 53], 0),
            // With a hundred times as many pulls, the differences are certain, but only a difference of at least one
            // percentage point counts.
            ([1_271; 8], [5_329; 8], 2),
            ([1_220; 8], [5_380; 8], 0),
            // A difference of eight percentage points is certain even with few pulls.
            ([17; 8], [49; 8], 2),
        ] {
            let mut traffic = Traffic::new();
            for (fastly, akamai) in fastly.into_iter().zip(akamai) {
                traffic.second(fastly, akamai);
            }
            let weights = [(FASTLY, 18.0), (AKAMAI, 82.0)];
            traffic.shares.announce(traffic.time, "step", &weights);
            for _ in 0..30 {
                traffic.second(18, 82);
            }
            let step = traffic.step();
            let providers = step["providers"].as_array().map(Vec::len);
            assert_eq!(providers, Some(listed), "{fastly:?} {akamai:?}: {step:#}");
        }
    }

    #[test]
    fn look_when_next_step_begins_then_ends() {
        let mut traffic = Traffic::new();
        for _ in 0..100 {
            traffic.second(100, 100);
        }
        let first = traffic.time;
        traffic.shares.announce(first, "to 90/10", &[(FASTLY, 9.0), (AKAMAI, 1.0)]);
        for _ in 0..100 {
            traffic.second(180, 20);
        }
        traffic.shares.announce(traffic.time, "back", &[(FASTLY, 1.0), (AKAMAI, 1.0)]);
        for _ in 0..100 {
            traffic.second(100, 100);
        }
        let steps = traffic.shares.json(&traffic.names);
        assert_eq!((&steps[1]["end"], &steps[1]["time"]), (&steps[0]["time"], &json!(first)));
        assert_eq!((&steps[1]["providers"][0]["now"], &steps[0]["providers"][0]["now"]), (&json!(0.9), &json!(0.5)));
        for step in 0..2 {
            let t50 = &steps[step]["providers"][0]["t50"];
            assert!(number(&t50["seconds"]).abs() < 1e-6, "a change within one second must have the time 0: {steps:#}");
        }
    }

    #[test]
    fn shares_when_full_then_keep_an_hour_and_the_last_steps() {
        let mut traffic = Traffic::new();
        for second in 0..5000 {
            traffic.second(1, 1);
            if second % 100 == 0 {
                traffic.shares.announce(traffic.time, "step", &[(FASTLY, 2.0), (AKAMAI, 1.0)]);
            }
        }
        assert_eq!((traffic.shares.seconds.len(), traffic.shares.steps.len()), (SECONDS, MOST));
        assert!(traffic.shares.seconds.capacity() * size_of::<Second>() < 512 * 1024);
        for _ in 0..5000 {
            traffic.second(1, 1);
        }
        assert!(
            traffic.shares.steps.is_empty(),
            "a step must be removed when the pulls at its start are no longer stored"
        );
    }
}
