//! Puts the weights back after a breach of a guard.

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::sleep;

use super::{PUT_BACK, Ramp, changed_by_others, texts};
use crate::balance::change::{Change, Made};
use crate::balance::journal::Journal;
use crate::balance::plan::{Action, NodePlan, Trouble};
use crate::balance::ramp::progress::time;
use crate::balance::ramp::timetable::per_cent;
use crate::balance::ramp_keys::OnBreach;
use crate::cli::balance::prompt::Stop;
use crate::cli::balance::{Failure, Result};

/// The longest time between two attempts to put the weights back.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

const NOT_BACK: &str = "THE WEIGHTS ARE NOT BACK; look at them with --show, and set them with --pct";

impl Ramp<'_> {
    /// Puts the weights back after a breach. Tries again until an attempt succeeds, until another attempt is useless,
    /// or until a signal arrives. The number of attempts is not limited, because the breach lasts until the weights are
    /// back, and the DNS service can fail for hours.
    pub(super) async fn put_back(&mut self, why: &str, stop: &Stop) -> Result {
        let pause = self.change.file.ramp.every.min(LONGEST_PAUSE);
        let why = format!("breach at {}: {why}", per_cent(self.share));
        complain!("{why}");
        let mut is_repeated = false;
        loop {
            match self.try_put_back(&why, is_repeated).await {
                Ok(made) => {
                    for warning in &made.warnings {
                        complain!("warning: {warning}");
                    }
                    complain!(
                        "the weights are back ({}); when the cause is mended, go on with: edgeshim balance ramp -t {} \
                         -p {} --resume",
                        made.entry.id,
                        self.targets(),
                        self.provider
                    );
                    return Ok(ExitCode::from(PUT_BACK));
                }
                Err((true, mut texts)) => {
                    texts.push(NOT_BACK.to_owned());
                    return self.stopped(Failure::Failed(texts));
                }
                Err((false, found)) => {
                    for text in found {
                        complain!("not put back, tried again in {}: {text}", time(pause));
                    }
                    if let Err(failure) = stop.or(sleep(pause)).await {
                        return self.stopped(Failure::Failed([texts(failure), vec![NOT_BACK.to_owned()]].concat()));
                    }
                }
            }
            is_repeated = true;
        }
    }

    /// Puts the weights back once. In an error, `true` means that another attempt is useless. Before the attempt, each
    /// node must have the weights that the ramp has written, or already the weights to put back.
    async fn try_put_back(&self, why: &str, is_repeated: bool) -> std::result::Result<Made, (bool, Vec<String>)> {
        let again = |texts| (false, texts);
        let change = Change {
            file: self.change.file,
            caller: self.change.caller,
            services: self.patient,
            targets: self.change.targets.clone(),
            who: self.change.who.clone(),
            why: Some(match &self.change.why {
                Some(asked) => format!("{why} ({asked})"),
                None => why.to_owned(),
            }),
            // The earlier attempt can have left nodes with different weights.
            force: is_repeated.then(|| "the attempt before has failed".to_owned()),
        };
        let journal = Journal::read(&change.file.journal).map_err(|error| again(vec![error]))?;
        let mut to = match change.file.ramp.on_breach {
            OnBreach::Start => self.start.clone(),
            OnBreach::Previous => self.previous.clone(),
        };
        let action = |to| Action::RampBack { provider: self.provider.clone(), end: self.end, to };
        let in_trouble = |trouble| (!matches!(trouble, Trouble::Failed(_)), texts(trouble.into()));
        let now = change.plan(action(to.clone())).await.map_err(in_trouble)?.plan;
        for target in &now.targets {
            let goal = to.get(&target.name).cloned().unwrap_or_default();
            let left = self.present.get(&target.name);
            let is_known = |node: &NodePlan| {
                let found = node.node.found.shares().unwrap_or_default();
                found.has_same_weights(&goal) || left.is_some_and(|left| found.has_same_weights(left))
            };
            if !target.nodes.iter().all(is_known) {
                return Err((true, vec![changed_by_others(&target.name)]));
            }
            // A provider that is away now stays away.
            let found = target.nodes.first().and_then(|node| node.node.found.shares()).unwrap_or_default();
            for (name, share) in to.get_mut(&target.name).into_iter().flat_map(|shares| &mut shares.0) {
                share.away = found.0.get(name).is_some_and(|found| found.away);
            }
        }
        let planned = change.plan(action(to)).await.map_err(in_trouble)?;
        if let Some(target) = planned.plan.targets.iter().find(|target| target.after.served().is_empty()) {
            let text = format!("{}: no other provider is served now, so {} stays", target.name, self.provider);
            return Err((true, vec![text]));
        }
        let objections = change.objections(&planned.plan, &journal);
        if !objections.refused.is_empty() {
            // Another change can be in progress, for example of `watch`. The next attempt reads everything again, with
            // `force`.
            return Err((is_repeated, objections.refused));
        }
        let writer = change.begin(&planned).await.map_err(|why| again(why.texts))?;
        change.make(&planned, writer).await.map_err(again)
    }
}
