//! One target of `edgeshim balance watch`. After each round of probes, the target is brought into the state that the
//! modes of its providers define.
//!
//! Each act (a change that `watch` makes) begins with a new reading of DNS, because a person or a ramp may change the
//! weights at any time. If the weights change before the act is written, the act is dropped. If the target still needs
//! the act in the next round, the act is made in that round.

use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::{MutexGuard, mpsc, watch};

use super::between_targets::{News, Shared};
use super::edge_health::EdgeState;
use super::next_act::{Next, next};
use super::tries::{Tries, Trouble};
use super::watched_edges::{Edges, Seen};
use crate::balance::balance_file::TargetKeys;
use crate::balance::change::{Change, Planned};
use crate::balance::journal::{Entry, Journal, KEPT, Writer, new_id, now as time_now};
use crate::balance::node::Node;
use crate::balance::plan::{self, Action, common_shares, compute};
use crate::balance::refuse::problems;
use crate::balance::share::{Mode, Shares};

/// The name of the watch in the journal.
pub(crate) const WHO: &str = "watch";

/// The longest text about probes in a line of the journal, in characters. The length of a line is limited.
const MAX_WHY: usize = 5_000;

/// Why a step failed: the trouble, and the texts about it.
type Hindrance = (Trouble, Vec<String>);

/// One target of `edgeshim balance watch`.
pub(crate) struct Target<'f> {
    shared: &'f Shared<'f>,
    keys: &'f TargetKeys,
    /// The number of each provider's edge. A provider without a probe has no edge here.
    edges: BTreeMap<String, usize>,
    seen: watch::Receiver<Vec<Seen>>,
    /// What was known about the edges in the last round that this target has looked at.
    states: BTreeMap<usize, EdgeState>,
    acts: mpsc::Sender<Entry>,
    tries: Tries,
    /// The providers that are down but stay served, because all served providers are down.
    kept: Vec<String>,
    /// Whether the journal has the line about `kept`.
    is_noted: bool,
    /// The providers that are away. `None`: the weights have not been read.
    away: Option<Vec<String>>,
}

/// An act that can be made now.
pub(crate) struct Act<'f> {
    change: Change<'f>,
    planned: Planned,
    provider: String,
    away: bool,
    /// The shares from which the act follows.
    shares: Shares,
}

/// An act that has begun: the journal is locked, and no other target writes.
pub(crate) struct Begun<'f> {
    writer: Writer,
    _turn: MutexGuard<'f, ()>,
}

impl<'f> Target<'f> {
    /// `acts` gets the acts that have to be announced.
    pub(crate) fn new(
        shared: &'f Shared<'f>,
        keys: &'f TargetKeys,
        edges: &Edges<'_>,
        acts: mpsc::Sender<Entry>,
    ) -> Self {
        Self {
            shared,
            keys,
            edges: edges.numbers(keys),
            seen: edges.seen(),
            states: BTreeMap::new(),
            acts,
            tries: Tries::default(),
            kept: Vec::new(),
            is_noted: false,
            away: None,
        }
    }

    /// Describes which providers are away, or says that the weights have not been read. Returns `None` if no provider
    /// is away.
    pub(crate) fn standing(&self) -> Option<String> {
        let name = &self.keys.name;
        match self.away.as_deref() {
            None => Some(format!("{name}: the weights have not been read")),
            Some([]) => None,
            Some(away) => Some(format!("{name}: away: {}", away.join(", "))),
        }
    }

    /// Waits for the end of the next round of probes. Returns at once if a round has ended since the last call.
    pub(crate) async fn next_round(&mut self) {
        if self.seen.changed().await.is_err() {
            // There are no further rounds.
            std::future::pending::<()>().await;
        }
        for &edge in self.edges.values() {
            let state = state(&self.seen.borrow(), edge);
            if self.states.insert(edge, state).unwrap_or_default() != state {
                self.tries.hurry(state == EdgeState::Down);
            }
        }
    }

    /// Reads the target if a look is due, and returns the act that the target needs. Changes nothing in DNS, so the
    /// caller may drop the future.
    pub(crate) async fn look(&mut self) -> Option<Act<'f>> {
        if !self.tries.is_due(self.shared.now()) {
            return None;
        }
        match self.step().await {
            Ok(Some(act)) => Some(act),
            Ok(None) => {
                if self.tries.rest(self.shared.now()) {
                    self.say("fine again");
                }
                None
            }
            Err(hindrance) => {
                self.hindered(hindrance);
                None
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Act<'f>>, Hindrance> {
        let keys = self.keys;
        let nodes = self.shared.services.read(&[keys]).await.map_err(|texts| (Trouble::Unreadable, texts))?;
        let is_down = self.edges.keys().any(|provider| self.state(provider) == EdgeState::Down);
        let unable = if is_down { Trouble::Refused } else { Trouble::Unfit };
        let Some(shares) = common_shares(&nodes.iter().collect::<Vec<_>>()) else {
            let text = format!(
                "{}: the nodes have different weights, or no weights; edgeshim balance status -t {} shows them",
                keys.name, keys.name
            );
            return Err((unable, vec![text]));
        };
        self.away = Some(away_of(&shares));
        let next = self.next(&shares);
        if !matches!(next, Next::Keep(_)) {
            self.kept.clear();
        }
        let (provider, away) = match next {
            Next::Away(provider) => (provider, true),
            Next::Back(provider) => (provider, false),
            Next::Keep(names) => {
                self.keep(&names, &shares).await?;
                return self.check(&nodes, unable).map(|()| None);
            }
            // An edge can be down although its provider is away already, or always stays.
            Next::Nothing => return self.check(&nodes, Trouble::Unfit).map(|()| None),
        };
        self.prepare(provider, away, shares).await.map(Some)
    }

    /// Plans an act that takes one provider away or brings it back.
    async fn prepare(&self, provider: String, away: bool, shares: Shares) -> Result<Act<'f>, Hindrance> {
        let change = Change {
            file: self.shared.file,
            caller: self.shared.caller,
            services: self.shared.services,
            targets: vec![self.keys],
            who: WHO.to_owned(),
            why: self.figures(&provider),
            force: None,
        };
        let planned =
            change.plan(Action::Away { provider: provider.clone(), away }).await.map_err(|trouble| match trouble {
                plan::Trouble::Usage(text) | plan::Trouble::Refused(text) => (Trouble::Refused, vec![text]),
                plan::Trouble::Failed(texts) => (Trouble::Unreadable, texts),
            })?;
        let is_as_read = planned.plan.targets.iter().all(|target| target.before.as_ref() == Some(&shares));
        if !is_as_read || !planned.plan.is_changed() {
            return Err((Trouble::Busy, vec![format!("{}: someone else changes the weights", self.keys.name)]));
        }
        let journal = self.journal(Trouble::Refused)?;
        let refused = change.objections(&planned.plan, &journal).refused;
        if !refused.is_empty() {
            return Err((Trouble::Refused, refused));
        }
        Ok(Act { change, planned, provider, away, shares })
    }

    /// Begins an act, if the act still follows from the latest probes. Changes nothing in DNS, so the caller may drop
    /// the future.
    pub(crate) async fn begin(&mut self, act: &Act<'f>) -> Option<Begun<'f>> {
        let turn = self.shared.turn().await;
        let writer = match act.change.begin(&act.planned).await {
            Ok(writer) => writer,
            // Another change is in progress or was made, the nodes cannot be read, or the journal cannot be written.
            Err(why) => {
                self.hindered((Trouble::Busy, why.texts));
                return None;
            }
        };
        // Rounds of probes can have ended while the nodes were read and while this target waited for its turn.
        let is_still_needed = match self.next(&act.shares) {
            Next::Away(provider) => act.away && provider == act.provider,
            Next::Back(provider) => !act.away && provider == act.provider,
            Next::Nothing | Next::Keep(_) => false,
        };
        is_still_needed.then_some(Begun { writer, _turn: turn })
    }

    /// Makes an act. The caller must not drop the future. Returns whether the act was made.
    pub(crate) async fn make(&mut self, act: Act<'f>, begun: Begun<'f>) -> bool {
        let written = act.change.write(&act.planned, begun.writer).await;
        self.shared.has_written();
        let made = match written {
            Ok(made) => made,
            Err(texts) => {
                self.hindered((Trouble::Failed, texts));
                return false;
            }
        };
        let had_trouble = self.tries.made();
        self.away = made.entry.to.get(&self.keys.name).map(away_of);
        let result = if act.away { "is away now" } else { "is back" };
        self.say(&format!("{} {result} (change {})", act.provider, made.entry.id));
        if had_trouble {
            self.say("fine again");
        }
        made.warnings.iter().for_each(|warning| self.shared.warn(warning));
        if let Err(mpsc::error::TrySendError::Full(entry) | mpsc::error::TrySendError::Closed(entry)) =
            self.acts.try_send(made.entry)
        {
            self.shared.not_announced(&entry, "the shims are too slow");
        }
        true
    }

    /// Reports, and writes into the journal, that these providers are down but stay.
    async fn keep(&mut self, names: &[String], shares: &Shares) -> Result<(), Hindrance> {
        if self.kept != names {
            self.kept = names.to_vec();
            self.is_noted = false;
            let reason = match names {
                [one] => format!("{one} is down, but stays, because all other providers are down or not served"),
                _ => format!("all providers that are served are down, so these stay: {}", names.join(", ")),
            };
            self.complain(&reason);
        }
        if self.is_noted {
            return Ok(());
        }
        let name = &self.keys.name;
        let figures: Vec<String> = names.iter().filter_map(|name| self.figures(name)).collect();
        let figures: String = figures.join("; ").chars().take(MAX_WHY).collect();
        let entry = Entry {
            time: time_now(),
            id: new_id(),
            who: WHO.to_owned(),
            action: "away".to_owned(),
            provider: names.first().filter(|_| names.len() == 1).cloned(),
            from: [(name.clone(), Some(shares.clone()))].into(),
            to: [(name.clone(), shares.clone())].into(),
            why: Some(format!("{figures}; all other providers are down or not served")),
            force: None,
            result: KEPT.to_owned(),
        };
        let unwritten = |text| (Trouble::Busy, vec![text]);
        let _turn = self.shared.turn().await;
        let mut writer = Writer::open(&self.shared.file.journal, WHO).map_err(|why| (Trouble::Busy, why.texts))?;
        let journal = self.journal(Trouble::Busy)?;
        // After a restart of the watch, the journal may have the line already.
        let last = journal.entries.iter().rev().find(|entry| entry.to.contains_key(name));
        let is_known = last.is_some_and(|last| {
            last.result == KEPT && last.provider == entry.provider && last.to == entry.to && last.who == entry.who
        });
        if !is_known {
            writer.append(&entry).map_err(unwritten)?;
        }
        self.is_noted = true;
        Ok(())
    }

    /// Checks whether a change would be refused, so that the operator gets the reason before an edge is down.
    fn check(&self, nodes: &[Node], unable: Trouble) -> Result<(), Hindrance> {
        let file = self.shared.file;
        let journal = self.journal(unable)?;
        // A plan of `init` keeps the weights that the nodes have.
        let texts: Vec<String> = match compute(file, &[self.keys], nodes, Action::Init) {
            Ok(plan) => problems(file, &plan, &journal).into_iter().map(|problem| problem.text).collect(),
            Err(plan::Trouble::Usage(text) | plan::Trouble::Refused(text)) => vec![text],
            Err(plan::Trouble::Failed(texts)) => texts,
        };
        if texts.is_empty() { Ok(()) } else { Err((unable, texts)) }
    }

    fn hindered(&mut self, (trouble, texts): Hindrance) {
        if !self.tries.hindered(trouble, self.shared.now(), self.shared.file.watch.every) {
            return;
        }
        self.complain(match trouble {
            Trouble::Unreadable => "the weights cannot be read; watch tries again in each round",
            Trouble::Unfit => "watch could not take a provider away, because a change would be refused",
            Trouble::Refused => "watch cannot do what the modes ask for, and tries again in each round",
            Trouble::Busy => "watch has to wait",
            Trouble::Failed => "a change failed; watch tries again, with longer and longer pauses",
        });
        for text in texts {
            (self.shared.tell)(&News { text: format!("  {text}"), is_problem: true });
        }
    }

    fn say(&self, text: &str) {
        (self.shared.tell)(&News { text: format!("{}: {text}", self.keys.name), is_problem: false });
    }

    fn complain(&self, text: &str) {
        (self.shared.tell)(&News { text: format!("{}: {text}", self.keys.name), is_problem: true });
    }

    /// Returns what to do next, after the latest probes.
    fn next(&self, shares: &Shares) -> Next {
        next(shares, |provider| self.state(provider))
    }

    fn state(&self, provider: &str) -> EdgeState {
        self.edges.get(provider).map_or(EdgeState::Unknown, |&edge| state(&self.seen.borrow(), edge))
    }

    /// Describes the last probes of a provider's edge.
    fn figures(&self, provider: &str) -> Option<String> {
        Some(self.seen.borrow().get(*self.edges.get(provider)?)?.figures.clone())
    }

    fn journal(&self, unable: Trouble) -> Result<Rc<Journal>, Hindrance> {
        self.shared.journal().map_err(|text| (unable, vec![text]))
    }
}

fn state(seen: &[Seen], edge: usize) -> EdgeState {
    seen.get(edge).map_or(EdgeState::Unknown, |seen| seen.state)
}

/// Returns the providers that are away. Each text has the name and the mode.
fn away_of(shares: &Shares) -> Vec<String> {
    let away = shares.0.iter().filter(|(_, share)| share.away && matches!(share.mode, Mode::Obey | Mode::Remove));
    away.map(|(name, share)| format!("{name} ({})", share.mode.name())).collect()
}
