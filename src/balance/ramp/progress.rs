//! Decides what a ramp does next, after each look at the figures. This file uses no socket and no clock: the caller
//! passes the figures and the time.
//!
//! A step has two phases. In the first phase, the observed share moves to the wanted share. This takes time, because
//! clients keep old DNS entries. The second phase is the soak: the guards must hold for the time `soak`. The guards are
//! read in both phases. Time without figures is not part of the soak.

use std::collections::VecDeque;
use std::time::Duration;

use super::guards::{Compared, Reading, Verdict, read};
use crate::balance::figures::Growth;
use crate::balance::ramp_keys::RampKeys;
use crate::metrics::arrival::{PARTS, arrival};

/// The number of recent looks whose growth is added up. The guards are read twice: for these recent looks, to find a
/// sudden failure, and for all looks of the step, to find a slow failure.
const RECENT_LOOKS: usize = 4;
/// A share has arrived if it differs from the wanted share by at most this number of percentage points.
const NEAR_POINTS: f64 = 2.0;
/// A share has also arrived if it differs from the wanted share by at most this part of the wanted share.
const NEAR_PART: f64 = 0.1;

/// What a ramp does next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Next {
    /// Looks again after `every`.
    Look,
    /// The step has passed.
    Passed,
    /// A guard is broken: the weights are put back. The text has the figures.
    PutBack(String),
    /// The ramp stops, and the weights stay. The text says why.
    Stop(String),
}

/// One step of a ramp.
#[derive(Debug)]
pub(crate) struct Step<'k> {
    keys: &'k RampKeys,
    provider: String,
    /// The other providers that are served.
    others: Vec<String>,
    /// All providers of the targets.
    all: Vec<String>,
    /// The share before the step, in per cent. `None`: an earlier process made the step.
    before: Option<f64>,
    /// The wanted share of the clients after the step, in per cent.
    share: f64,
    began: Duration,
    recent: VecDeque<Growth>,
    total: Growth,
    /// For each look: the seconds since the step, the pulls and the requests at the edge of the provider, and the pulls
    /// and the requests at the edge of all providers.
    looks: Vec<(f64, [f64; 2], [f64; 2])>,
    arrived: Option<Duration>,
    soaked: Duration,
    /// The time of the last look with figures. During the soak, the provider must also have requests at this look.
    seen: Duration,
    /// The guards that the last look showed as broken. Some of these breaches can be chance.
    suspects: Vec<&'static str>,
    /// A description of the last look.
    report: String,
}

/// The providers that a step concerns.
#[derive(Debug)]
pub(crate) struct Parties {
    pub provider: String,
    /// The other providers that are served after the step.
    pub others: Vec<String>,
    pub all: Vec<String>,
}

impl<'k> Step<'k> {
    /// Begins to watch a step.
    pub(crate) fn new(keys: &'k RampKeys, parties: Parties, before: Option<f64>, share: f64, now: Duration) -> Self {
        Self {
            keys,
            provider: parties.provider,
            others: parties.others,
            all: parties.all,
            before,
            share,
            began: now,
            recent: VecDeque::new(),
            total: Growth::default(),
            looks: Vec::new(),
            arrived: None,
            soaked: Duration::ZERO,
            seen: now,
            suspects: Vec::new(),
            report: String::new(),
        }
    }

    /// Takes the growth of the counters since the last look, or the reason why the growth is unknown. Returns what the
    /// ramp does next.
    pub(crate) fn look(&mut self, now: Duration, growth: Result<&Growth, &str>, has_beacons: bool) -> Next {
        let growth = match growth {
            Ok(growth) if growth.sum(self.all.iter()).pulls > 0.0 => growth,
            Ok(_) => return self.without_figures(now, "no provider has pulled anything"),
            Err(why) => return self.without_figures(now, why),
        };
        self.take(now, growth);
        let mut recent = Growth::default();
        self.recent.iter().for_each(|growth| recent.add(growth));
        let compared = Compared { provider: &self.provider, others: &self.others, has_beacons };
        let last = read(&self.keys.guard, compared, &recent);
        let total = read(&self.keys.guard, compared, &self.total);
        let observed = recent.observed(&self.all.iter().collect::<Vec<_>>());
        let share = observed.as_ref().and_then(|observed| observed.shares.get(&self.provider)).copied();
        let source = observed.map_or("pulls", |observed| observed.source);
        self.report = format!("observed {:.1} % ({source}){}", share.unwrap_or(0.0), figures(&last, &total));
        if let Some(broken) = self.breach(&last, &total) {
            return Next::PutBack(broken);
        }
        if self.arrived.is_none() {
            return self.arriving(now, share);
        }
        let own = recent.of(&self.provider);
        if own.pulls + own.edge_requests <= 0.0 {
            return self.without_figures(now, "the provider no longer gets requests");
        }
        self.seen = now;
        self.soaked += Duration::from_secs_f64(growth.seconds.max(0.0));
        self.report = format!("soaking {} of {}, {}", time(self.soaked), time(self.keys.soak), self.report);
        if self.soaked < self.keys.soak {
            return Next::Look;
        }
        let unknown = total.iter().find_map(|reading| match reading.verdict {
            Verdict::Unknown(why) => Some((reading.guard, why)),
            Verdict::Fine | Verdict::Breach { .. } => None,
        });
        match unknown {
            // A step must not pass while the next look can confirm a breach.
            None if !self.suspects.is_empty() => Next::Look,
            None => Next::Passed,
            Some((guard, why)) if self.soaked >= self.keys.soak * 2 => Next::Stop(format!(
                "the guard {guard} has had no figures for {}: {why}; remove the guard from [ramp] to ramp without it",
                time(self.soaked)
            )),
            Some(_) => Next::Look,
        }
    }

    fn take(&mut self, now: Duration, growth: &Growth) {
        if self.recent.len() >= RECENT_LOOKS {
            self.recent.pop_front();
        }
        self.recent.push_back(growth.clone());
        self.total.add(growth);
        let (own, all) = (growth.of(&self.provider), growth.sum(self.all.iter()));
        let since = now.saturating_sub(self.began).as_secs_f64();
        self.looks.push((since, [own.pulls, own.edge_requests], [all.pulls, all.edge_requests]));
        if self.arrived.is_none() {
            self.seen = now;
        }
    }

    /// Handles a look without figures. Such a look does not show whether the guards hold.
    fn without_figures(&mut self, now: Duration, why: &str) -> Next {
        let blind = now.saturating_sub(self.seen);
        self.report = format!("holding, no figures for {}: {why}", time(blind));
        if blind >= self.keys.soak {
            return Next::Stop(format!("there were no figures for {}: {why}", time(blind)));
        }
        Next::Look
    }

    /// Checks whether the share has arrived. Stops the ramp if the share has not arrived in time.
    fn arriving(&mut self, now: Duration, observed: Option<f64>) -> Next {
        let (wanted, since) = (self.share, now.saturating_sub(self.began));
        let own = self.total.of(&self.provider);
        let has_requests = own.pulls + own.edge_requests > 0.0;
        let observed = observed.unwrap_or(0.0);
        self.report = format!("arriving since {}, {}", time(since), self.report);
        if has_requests && (observed - wanted).abs() <= NEAR_POINTS.max(wanted * NEAR_PART) {
            self.arrived = Some(now);
            self.seen = now;
            return Next::Look;
        }
        if since < self.keys.arrive {
            return Next::Look;
        }
        let none = if has_requests { "" } else { ", because not one request has come from the provider" };
        Next::Stop(format!(
            "the observed share of {} is {observed:.1} %, and {} % was wanted; it has not arrived within {}{none}",
            self.provider,
            (self.share * 10.0).round() / 10.0,
            time(self.keys.arrive)
        ))
    }

    /// Returns the figures of the broken guards. If the figures of a guard can be chance, the guard is broken only
    /// after a breach at two looks in a row.
    fn breach(&mut self, last: &[Reading], total: &[Reading]) -> Option<String> {
        let earlier = std::mem::take(&mut self.suspects);
        let mut broken = Vec::new();
        for reading in last.iter().chain(total) {
            let Verdict::Breach { is_certain } = reading.verdict else { continue };
            let is_new = broken.iter().all(|other: &&Reading| other.guard != reading.guard);
            if is_new && (is_certain || earlier.contains(&reading.guard)) {
                broken.push(reading);
            }
            self.suspects.push(reading.guard);
        }
        let limits = self.keys.guard.limits();
        let text = |reading: &&Reading| {
            let limit = limits.iter().find(|(name, _)| *name == reading.guard).and_then(|(_, limit)| *limit);
            format!("{}, and {} = {}", reading.figures, reading.guard, limit.unwrap_or_default())
        };
        (!broken.is_empty()).then(|| broken.iter().map(text).collect::<Vec<_>>().join("; "))
    }

    /// Describes the last look.
    pub(crate) fn report(&self) -> &str {
        &self.report
    }

    /// Describes how fast the share has arrived. `None`: the step was not measured from its start.
    pub(crate) fn convergence(&self) -> Option<String> {
        let before = self.before? / 100.0;
        let wanted = self.share / 100.0;
        let all: Vec<&String> = self.all.iter().collect();
        let by_edge = self.total.observed(&all).is_some_and(|observed| observed.source != "pulls");
        let of = |counts: &[f64; 2]| if by_edge { counts[1] } else { counts[0] };
        let looks: Vec<_> = self.looks.iter().map(|(since, own, all)| (*since, of(own), of(all))).collect();
        let mut parts = Vec::new();
        for (name, part) in PARTS {
            let level = before + part * (wanted - before);
            parts.push(match arrival(&looks, level, wanted > before) {
                Some(found) => format!("{name} {}", time(Duration::from_secs_f64(found.seconds.max(0.0)))),
                None => format!("{name} not reached"),
            });
        }
        let arrived = self.arrived.map(|at| format!("arrived after {}; ", time(at.saturating_sub(self.began))));
        Some(format!("{}{}", arrived.unwrap_or_default(), parts.join(", ")))
    }
}

/// Returns the figures of all guards for people: for each guard the figures of the recent looks or, if these are
/// unknown, the figures of the whole step.
fn figures(last: &[Reading], total: &[Reading]) -> String {
    let of = |(last, total): (&Reading, &Reading)| match last.verdict {
        Verdict::Unknown(_) => format!("; {}", total.figures),
        Verdict::Fine | Verdict::Breach { .. } => format!("; {}", last.figures),
    };
    last.iter().zip(total).map(of).collect()
}

/// Returns the shares of the steps between the present share and the share `end`, and then `end`. Returns no step if
/// the present share is not below `end`. `present` is in hundredths of a per cent; `end` and the steps are in per cent.
pub(crate) fn steps(keys: &RampKeys, present: u32, end: u32) -> Vec<u32> {
    let between = keys.steps.iter().copied().filter(|&step| step * 100 > present && step < end);
    between.chain((end * 100 > present).then_some(end)).collect()
}

/// Writes a duration with at most two units, the largest ones.
pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0) if !duration.is_zero() => format!("{} ms", duration.as_millis()),
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, 0) => format!("{minutes} min"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, 0, _) => format!("{hours} h"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests;
