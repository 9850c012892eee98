//! `edgeshim balance ramp`: raises the share of a provider step by step. If a guard is broken, puts the weights back.

mod put_back;

use std::collections::BTreeMap;
use std::process::ExitCode;

use tokio::time::{Instant, sleep};

use super::arguments::RampFlags;
use super::change_history::warn_about;
use super::month_cost::warn_about_cost;
use super::prompt::{Stop, confirm, with_runtime};
use super::{Failure, Result, with_provider};
use crate::balance::api_call::Caller;
use crate::balance::balance_file::{BalanceFile, TargetKeys};
use crate::balance::change::{Change, Made, Planned, user};
use crate::balance::figure_source::{LIMIT, has_figures, snapshot};
use crate::balance::figures::{Base, Snapshot};
use crate::balance::interrupt::Interrupt;
use crate::balance::journal::{Journal, now as utc};
use crate::balance::plan::{Action, Plan, common_shares};
use crate::balance::ramp::journal_of_ramps::stopped;
use crate::balance::ramp::progress::{Next, Parties, Step, steps, time};
use crate::balance::ramp::timetable::{per_cent, timetable};
use crate::balance::ramp_keys::GuardKeys;
use crate::balance::share::Shares;
use crate::balance::transaction::Services;
use crate::cli::terminal::print;

/// The exit code after a breach.
const PUT_BACK: u8 = 3;

type ByTarget = BTreeMap<String, Shares>;

/// A ramp that runs.
struct Ramp<'f> {
    change: Change<'f>,
    /// The services for putting the weights back. A signal does not stop the calls of these services, because a stopped
    /// change could leave nodes with different weights.
    patient: &'f Services<'f>,
    provider: String,
    end: u32,
    /// The shares before the ramp, before the most recent step, and after the most recent step.
    start: ByTarget,
    previous: ByTarget,
    present: ByTarget,
    /// The provider's share in per cent.
    share: f64,
    /// The number of steps that were made, also by earlier processes.
    made: usize,
    clock: Instant,
}

pub(super) fn run(file: &BalanceFile, flags: &RampFlags, targets: &[&TargetKeys]) -> Result {
    let provider = flags.provider.to_ascii_lowercase();
    let targets = &with_provider(targets.to_vec(), &provider, flags.choice.all)?[..];
    if !has_figures(file) {
        return Err(Failure::usage(
            "a ramp needs the figures of the shims; write shims = [\"http://127.0.0.1:9900\"] or prometheus = \
             \"http://127.0.0.1:9090\" into balance.toml",
        ));
    }
    let journal = Journal::read(&file.journal).map_err(Failure::failed)?;
    warn_about(file, &journal);
    let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
    let earlier = if flags.resume {
        Some(stopped(&journal, &names, &provider).map_err(|error| Failure::failed(format!("refused: {error}")))?)
    } else {
        None
    };
    let last = file.ramp.steps.last().copied().unwrap_or(100);
    let end = flags.to.or(earlier.as_ref().map(|earlier| earlier.end)).unwrap_or(last);
    let caller = Caller { is_verbose: flags.common.verbose };
    with_runtime(async {
        let mut stop = Stop::watch()?;
        let services = Services::new(file, &caller, stop.interrupt.clone()).map_err(Failure::usage)?;
        let patient = Services::new(file, &caller, Interrupt::default()).map_err(Failure::usage)?;
        let change = Change {
            file,
            caller: &caller,
            services: &services,
            targets: targets.to_vec(),
            who: user(),
            why: flags.why.clone(),
            force: None,
        };
        let action = Action::RampStep { provider: provider.clone(), share: end, end, is_first: false };
        let planned = stop.or(change.plan(action)).await??;
        let (present, hundredths) = present_share(&planned.plan, &provider)?;
        let remaining = steps(&file.ramp, hundredths, end);
        // If the earlier ramp stopped during a step, this step must pass before the ramp makes the next step.
        let is_inside = earlier.as_ref().is_some_and(|earlier| earlier.start.is_some()) && hundredths <= end * 100;
        if hundredths > end * 100 {
            return Err(Failure::failed(format!(
                "refused: the share of {provider} is {} already, and this ramp would end at {end} %; to lower the \
                 share, write: edgeshim balance -t {} -p {provider} --pct {end}",
                per_cent(f64::from(hundredths) / 100.0),
                names.join(" -t ")
            )));
        }
        if remaining.is_empty() && !is_inside {
            say!("Nothing to do: the share of {provider} is {end} % already.");
            return Ok(ExitCode::SUCCESS);
        }
        check_gaps(file.max_step, hundredths, &remaining)?;
        let mut ramp = Ramp {
            patient: &patient,
            provider,
            end,
            start: earlier.as_ref().and_then(|earlier| earlier.start.clone()).unwrap_or_else(|| present.clone()),
            previous: earlier.as_ref().and_then(|earlier| earlier.previous.clone()).unwrap_or_else(|| present.clone()),
            present,
            share: f64::from(hundredths) / 100.0,
            made: earlier.as_ref().map_or(0, |earlier| earlier.steps),
            clock: Instant::now(),
            change,
        };
        if let Some(&first) = remaining.first() {
            let planned = stop.or(ramp.change.plan(ramp.step(first))).await??;
            let objections = ramp.change.objections(&planned.plan, &journal);
            if !objections.refused.is_empty() {
                return Err(Failure::Failed(objections.refused));
            }
        }
        ramp.print_timetable(&remaining, is_inside);
        // The warnings compare the cost now with the cost at the end of the ramp.
        warn_about_cost(file, &planned.plan);
        let first_snapshot = stop.or(snapshot(file, &caller, LIMIT)).await?.map_err(|error| {
            Failure::failed(format!("the figures of the shims are not known, so nothing was changed: {error}"))
        })?;
        ramp.warn(&first_snapshot);
        if flags.dry_run {
            say!("\nDry run: nothing was written.");
            return Ok(ExitCode::SUCCESS);
        }
        if !flags.yes {
            confirm(&stop).await?;
        }
        ramp.clock = Instant::now();
        ramp.drive(&remaining, is_inside, &mut stop).await
    })
}

/// Returns the present shares of the targets, and the provider's share in hundredths of a per cent.
fn present_share(plan: &Plan, provider: &str) -> Result<(ByTarget, u32)> {
    let (mut all, mut found) = (ByTarget::new(), None);
    for target in &plan.targets {
        let Some(shares) = &target.before else {
            return Err(Failure::failed(format!(
                "refused: the nodes of {} have different weights; edgeshim balance status -t {} shows them",
                target.name, target.name
            )));
        };
        let share = shares.percents().get(provider).copied().unwrap_or(0);
        if found.is_some_and(|other| share.abs_diff(other) > 10) {
            return Err(Failure::failed(format!(
                "refused: the targets have different shares of {provider}; ramp each target by itself, or set the same \
                 share first with --pct"
            )));
        }
        found = Some(share);
        all.insert(target.name.clone(), shares.clone());
    }
    Ok((all, found.unwrap_or(0)))
}

/// Checks that no step is larger than `max_step`. A larger step would be refused in the middle of the ramp.
fn check_gaps(max_step: u32, present: u32, remaining: &[u32]) -> Result<()> {
    let mut before = present;
    for step in remaining {
        if step * 100 - before > max_step * 100 {
            return Err(Failure::failed(format!(
                "refused: the step from {} to {step} % is larger than max_step, which allows {max_step} points; write \
                 smaller steps in [ramp], or a larger max_step",
                per_cent(f64::from(before) / 100.0)
            )));
        }
        before = step * 100;
    }
    Ok(())
}

impl Ramp<'_> {
    fn step(&self, share: u32) -> Action {
        Action::RampStep { provider: self.provider.clone(), share, end: self.end, is_first: self.made == 0 }
    }

    fn targets(&self) -> String {
        self.change.targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(" -t ")
    }

    /// Prints the timetable of the steps.
    fn print_timetable(&self, remaining: &[u32], is_inside: bool) {
        let keys = &self.change.file.ramp;
        let share = per_cent(self.share);
        say!("{}: {} from {share} to {} %", self.targets().replace(" -t ", ", "), self.provider, self.end);
        print(&timetable(keys, self.made, is_inside.then_some(share.as_str()), remaining));
        if keys.guard == GuardKeys::default() {
            complain!(
                "warning: [ramp] has no guard, so nothing puts the weights back; write guard = {{ errors = 0.01 }}"
            );
        }
    }

    /// Warns about two causes of misleading figures: other targets, and beacons that are not counted.
    fn warn(&self, snapshot: &Snapshot) {
        let file = self.change.file;
        let is_other = |target: &&TargetKeys| !self.change.targets.iter().any(|one| one.name == target.name);
        if let Some(other) = file.targets.iter().find(is_other) {
            complain!(
                "warning: the shims count the requests of all targets together; if they serve {} too, the observed \
                 share mixes the targets, and may never reach the step (ramp the targets together with several -t)",
                other.name
            );
        }
        if file.ramp.guard.beacons_per_minute.is_some() && !snapshot.counts_beacons_of(&self.provider) {
            complain!(
                "warning: no shim counts beacons of {}; write the name into beacon.sources of edgeshim.toml, or remove \
                 the guard beacons_per_minute",
                self.provider
            );
        }
    }

    /// Makes and watches one step after the other.
    async fn drive(&mut self, remaining: &[u32], is_inside: bool, stop: &mut Stop) -> Result {
        if is_inside {
            // The share is a step of the earlier ramp, or between two steps if someone has just changed DNS.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share from 0 to 100")]
            let share = self.share.round() as u32;
            say!("\nStep {} at {} goes on.", self.made, per_cent(self.share));
            if let Some(code) = self.watch(share, None, stop).await? {
                return Ok(code);
            }
        }
        for &share in remaining {
            let before = self.served_share();
            let made = match self.make_step(share, stop).await {
                Ok(made) => made,
                Err(failure) => return self.stopped(failure),
            };
            say!("\nStep {} to {share} % is made ({}).", self.made, made.entry.id);
            if let Some(code) = self.watch(share, Some(before), stop).await? {
                return Ok(code);
            }
        }
        let took = time(self.clock.elapsed());
        say!("\nDone: {} has {} %, after {took}.", self.provider, self.end);
        Ok(ExitCode::SUCCESS)
    }

    /// Makes a step. If the change cannot begin, for example because an act of `watch` is in progress, tries again. The
    /// attempts end after the time `arrive`.
    async fn make_step(&mut self, share: u32, stop: &mut Stop) -> Result<Made> {
        let began = Instant::now();
        let keys = &self.change.file.ramp;
        loop {
            let planned = self.plan_step(share, stop).await?;
            match stop.or(self.change.begin(&planned)).await?.map_err(|why| why.texts) {
                Ok(writer) => {
                    let made = self.change.make(&planned, writer).await.map_err(Failure::Failed)?;
                    self.has_made(&made, f64::from(share));
                    self.made += 1;
                    return Ok(made);
                }
                Err(texts) if began.elapsed() >= keys.arrive => return Err(Failure::Failed(texts)),
                Err(texts) => {
                    for text in texts {
                        complain!("the step to {share} % waits: {text}");
                    }
                    stop.or(sleep(keys.every)).await?;
                }
            }
        }
    }

    async fn plan_step(&self, share: u32, stop: &Stop) -> Result<Planned> {
        let journal = Journal::read(&self.change.file.journal).map_err(Failure::failed)?;
        let planned = stop.or(self.change.plan(self.step(share))).await??;
        self.check_unchanged(&planned.plan)?;
        let objections = self.change.objections(&planned.plan, &journal);
        if objections.refused.is_empty() { Ok(planned) } else { Err(Failure::Failed(objections.refused)) }
    }

    fn has_made(&mut self, made: &Made, share: f64) {
        for warning in &made.warnings {
            complain!("warning: {warning}");
        }
        self.previous = std::mem::replace(&mut self.present, made.entry.to.clone());
        self.share = share;
    }

    /// Checks that the weights are still those that the ramp has found at its start or has written. The ramp does not
    /// overwrite the change of a person.
    fn check_unchanged(&self, plan: &Plan) -> Result<()> {
        for target in &plan.targets {
            let both = target.before.as_ref().zip(self.present.get(&target.name));
            if !both.is_some_and(|(before, left)| before.has_same_weights(left)) {
                return Err(Failure::failed(changed_by_others(&target.name)));
            }
        }
        Ok(())
    }

    /// Watches a step until it has passed. Returns an exit code if the ramp has ended.
    async fn watch(&mut self, share: u32, before: Option<f64>, stop: &mut Stop) -> Result<Option<ExitCode>> {
        let keys = &self.change.file.ramp;
        let parties = self.parties();
        let all = parties.all.clone();
        let mut watched = Step::new(keys, parties, before, self.served_share(), self.clock.elapsed());
        let mut base = Base::default();
        let first = self.snapshot(stop).await?;
        let _ = base.growth(first, self.clock.elapsed(), &all);
        loop {
            if let Err(failure) = stop.or(sleep(keys.every)).await {
                return self.stopped(failure).map(Some);
            }
            let found = self.snapshot(stop).await?;
            let now = self.clock.elapsed();
            let has_beacons = found.as_ref().is_ok_and(|snapshot| snapshot.counts_beacons_of(&self.provider));
            let growth = base.growth(found, now, &all);
            let next = watched.look(now, growth.as_ref().map_err(String::as_str), has_beacons);
            let time_of_day = utc().split_off(11);
            say!("{time_of_day}  step {}, {share} %: {}", self.made, watched.report());
            match next {
                Next::Look => {}
                Next::Passed => {
                    let convergence = watched.convergence().map(|text| format!(": {text}")).unwrap_or_default();
                    say!("Step {} to {share} % has passed{convergence}", self.made);
                    return Ok(None);
                }
                Next::Stop(why) => {
                    let moved = stop.or(self.moved_by_watch()).await.unwrap_or_default();
                    return self.stopped(Failure::Failed(moved.into_iter().chain([why]).collect())).map(Some);
                }
                Next::PutBack(why) => return self.put_back(&why, stop).await.map(Some),
            }
        }
    }

    /// Reads DNS, and returns a text for each provider that `watch` has taken away or brought back since the last step.
    /// The observed share then differs from the share of the step. Returns no text if DNS cannot be read.
    async fn moved_by_watch(&self) -> Vec<String> {
        let nodes = self.change.services.read(&self.change.targets).await.unwrap_or_default();
        let mut texts = Vec::new();
        for (target, left) in &self.present {
            let nodes: Vec<_> = nodes.iter().filter(|node| node.target == *target).collect();
            let Some(found) = common_shares(&nodes) else { continue };
            for (name, share) in found.0 {
                let was_away = left.0.get(&name).is_some_and(|left| left.away);
                match (was_away, share.away) {
                    (false, true) => texts.push(format!(
                        "{target}: watch has taken {name} away during this step, because its probe failed"
                    )),
                    (true, false) => texts.push(format!("{target}: watch has brought {name} back during this step")),
                    _ => {}
                }
            }
        }
        texts
    }

    /// Reads the counters. A signal stops the ramp.
    async fn snapshot(&self, stop: &mut Stop) -> Result<std::result::Result<Snapshot, String>> {
        match stop.or(snapshot(self.change.file, self.change.caller, LIMIT)).await {
            Ok(found) => Ok(found),
            Err(failure) => self.stopped(failure).map(|_| Err(String::new())),
        }
    }

    /// Returns the provider's share of the clients in per cent, as the mean of the targets.
    #[allow(clippy::cast_precision_loss, reason = "a small number of targets")]
    fn served_share(&self) -> f64 {
        let of = |shares: &Shares| shares.served_percents().get(&*self.provider).copied().map_or(0.0, f64::from);
        self.present.values().map(of).sum::<f64>() / (self.present.len().max(1) * 100) as f64
    }

    fn parties(&self) -> Parties {
        let mut all: Vec<String> = self.present.values().flat_map(|shares| shares.0.keys().cloned()).collect();
        let served = |shares: &Shares| shares.served().into_keys().map(str::to_owned).collect::<Vec<_>>();
        let mut others: Vec<String> = self.present.values().flat_map(served).collect();
        for names in [&mut all, &mut others] {
            names.sort();
            names.dedup();
        }
        others.retain(|name| *name != self.provider);
        Parties { provider: self.provider.clone(), others, all }
    }

    /// Returns the messages after a failure or a signal: the state of the ramp, and how to go on.
    fn stopped(&self, failure: Failure) -> Result {
        let mut texts = texts(failure);
        let (targets, provider) = (self.targets(), &self.provider);
        if self.made == 0 {
            texts.push("the ramp has stopped before its first step".to_owned());
            return Err(Failure::Failed(texts));
        }
        texts.push(format!(
            "the ramp to {} % has stopped after step {}; {provider} has {}",
            self.end,
            self.made,
            per_cent(self.share)
        ));
        texts.push(format!("to go on, write: edgeshim balance ramp -t {targets} -p {provider} --resume"));
        texts.push(format!(
            "to go back to the weights before the ramp, write: edgeshim balance rollback {} -t {targets} (if the \
             history shows a later change of someone else, set the weights with --pct instead)",
            self.made
        ));
        Err(Failure::Failed(texts))
    }
}

fn texts(failure: Failure) -> Vec<String> {
    match failure {
        Failure::Interrupted => vec!["interrupted".to_owned()],
        Failure::Usage(texts) | Failure::Failed(texts) => texts,
    }
}

fn changed_by_others(target: &str) -> String {
    format!(
        "{target}: someone else has changed the weights, so the ramp does not change the weights any more; edgeshim \
         balance history shows who"
    )
}
