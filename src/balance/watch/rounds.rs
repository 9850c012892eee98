//! The rounds of `watch`. A round probes all edges, counts the results, and brings each target into the state that the
//! modes ask for.
//!
//! Every step reads DNS anew. So a person or a ramp may change the weights at any time: the step is then given up, and
//! made again in the next round if it is still needed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::edge_health::{Health, Limits, Sight, is_blind};
use super::edge_probe::{Probed, probe_all};
use super::next_act::{Next, next};
use super::tries::{Tries, Trouble};
use crate::balance::api_call::Caller;
use crate::balance::balance_file::{BalanceFile, TargetKeys};
use crate::balance::change::{Change, Planned};
use crate::balance::journal::{Entry, Journal, KEPT, Writer, new_id, now as time_now};
use crate::balance::node::Node;
use crate::balance::plan::{self, Action, common_shares, compute};
use crate::balance::refuse::problems;
use crate::balance::share::{Mode, Shares};
use crate::balance::side_by_side::{Nodes, read_all};
use crate::balance::transaction::Services;
use crate::balance::watch_keys::ProbeUrl;

/// Who makes the changes, in the journal.
pub(super) const WHO: &str = "watch";

/// The longest figures in the journal, in characters. A line of the journal has a limit.
const MAX_WHY: usize = 5_000;

/// Something to tell the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct News {
    pub text: String,
    pub is_problem: bool,
}

/// What a step has found: the trouble, and the texts about it.
type Hindrance = (Trouble, Vec<String>);

#[derive(Debug)]
struct Edge {
    provider: String,
    url: ProbeUrl,
    health: Health,
    last: Option<Probed>,
}

#[derive(Debug)]
struct Watched<'f> {
    keys: &'f TargetKeys,
    /// The number of each provider's edge. A provider without a probe has none.
    edges: BTreeMap<String, usize>,
    tries: Tries,
    /// The providers that are down, but stay because no other provider is served.
    kept: Vec<String>,
    /// Whether the journal has the line about these providers.
    is_noted: bool,
    /// The providers that are away. `None`: the weights have not been read.
    away: Option<Vec<String>>,
}

/// The watch over some targets.
#[derive(Debug)]
pub(crate) struct Watch<'f> {
    file: &'f BalanceFile,
    caller: &'f Caller,
    services: &'f Services<'f>,
    edges: Vec<Edge>,
    targets: Vec<Watched<'f>>,
    is_blind: bool,
    /// The journal, with the size and the time of the file that was read.
    journal: Option<((u64, Option<SystemTime>), Journal)>,
    news: Vec<News>,
}

/// A change that can be made now.
#[derive(Debug)]
pub(crate) struct Work<'f> {
    pub change: Change<'f>,
    planned: Planned,
    provider: String,
    away: bool,
}

enum Step<'f> {
    Rest,
    Act(Box<Work<'f>>),
}

impl<'f> Watch<'f> {
    /// # Errors
    /// Returns a message if no provider of the targets has a probe.
    pub(crate) fn new(
        file: &'f BalanceFile,
        caller: &'f Caller,
        services: &'f Services<'f>,
        targets: &[&'f TargetKeys],
    ) -> Result<Self, String> {
        let mut edges: Vec<Edge> = Vec::new();
        let mut watched = Vec::new();
        for &keys in targets {
            let mut of_target = BTreeMap::new();
            for (provider, of_provider) in &keys.providers {
                let Some(url) = &of_provider.probe else { continue };
                // Targets can have the same probe.
                let known = edges.iter().position(|edge| edge.provider == *provider && edge.url == *url);
                let at = known.unwrap_or(edges.len());
                if known.is_none() {
                    let (provider, url) = (provider.clone(), url.clone());
                    edges.push(Edge { provider, url, health: Health::default(), last: None });
                }
                of_target.insert(provider.clone(), at);
            }
            watched.push(Watched {
                keys,
                edges: of_target,
                tries: Tries::default(),
                kept: Vec::new(),
                is_noted: false,
                away: None,
            });
        }
        if edges.is_empty() {
            return Err("no provider of these targets has a probe; write in balance.toml for example \
                        providers = { fastly = { cname = \"…\", probe = \"https://fastly-test.example.com/ping\" } }"
                .to_owned());
        }
        let mut watch =
            Self { file, caller, services, edges, targets: watched, is_blind: false, journal: None, news: Vec::new() };
        watch.introduce();
        Ok(watch)
    }

    /// Says what is watched, and what is not.
    fn introduce(&mut self) {
        let every = self.file.watch.every.as_millis();
        let names: Vec<&str> = self.targets.iter().map(|target| target.keys.name.as_str()).collect();
        let text = format!("watching {} edges of {} every {every} ms", self.edges.len(), names.join(", "));
        self.say(text);
        for at in 0..self.targets.len() {
            let Some(target) = self.targets.get(at) else { continue };
            let without = target.keys.providers.keys().filter(|name| !target.edges.contains_key(*name));
            let without: Vec<&str> = without.map(String::as_str).collect();
            if !without.is_empty() {
                let text =
                    format!("{}: not watched, because there is no probe: {}", target.keys.name, without.join(", "));
                self.say(text);
            }
        }
    }

    fn say(&mut self, text: String) {
        self.news.push(News { text, is_problem: false });
    }

    fn complain(&mut self, text: String) {
        self.news.push(News { text, is_problem: true });
    }

    /// Returns what there is to tell since the last call.
    pub(crate) fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// Returns how many edges are down, and how many there are.
    pub(crate) fn down(&self) -> (usize, usize) {
        let down = self.edges.iter().filter(|edge| edge.health.sight == Sight::Down);
        (down.count(), self.edges.len())
    }

    /// Says which providers are away.
    pub(crate) fn standing(&self) -> String {
        let one = |target: &Watched<'_>| {
            let name = &target.keys.name;
            match target.away.as_deref() {
                None => Some(format!("{name}: the weights have not been read")),
                Some([]) => None,
                Some(away) => Some(format!("{name}: away: {}", away.join(", "))),
            }
        };
        let texts: Vec<String> = self.targets.iter().filter_map(one).collect();
        if texts.is_empty() { "no provider is away".to_owned() } else { texts.join("; ") }
    }

    /// Probes all edges.
    pub(crate) async fn probe(&self) -> Vec<Probed> {
        let urls = self.edges.iter().map(|edge| edge.url.clone()).collect();
        probe_all(urls, self.file.watch.timeout, self.caller.is_verbose).await
    }

    /// Returns the results of a round as rows of a table: the provider, whether the probe succeeded, and the figures.
    pub(crate) fn rows(&self, results: &[Probed]) -> Vec<Vec<String>> {
        let row = |(edge, probed): (&Edge, &Probed)| {
            let word = if probed.is_success() { "up" } else { "FAILS" };
            vec![edge.provider.clone(), word.to_owned(), format!("{}: {probed}", edge.url)]
        };
        self.edges.iter().zip(results).map(row).collect()
    }

    /// Counts the results of a round.
    pub(crate) fn count(&mut self, results: Vec<Probed>) {
        let keys = &self.file.watch;
        let limits = Limits { down_after: keys.down_after, up_after: keys.up_after };
        let seen = self.edges.iter().zip(&results);
        let is_blind =
            is_blind(seen.map(|(edge, probed)| (edge.provider.as_str(), edge.health.sight, probed.is_success())));
        if is_blind && !self.is_blind {
            let last = results.first().map(ToString::to_string).unwrap_or_default();
            self.complain(format!(
                "all probes fail, and edges of several providers began to fail at the same time; the likely cause is \
                 the network of this machine, so these probes do not count; the first: {last}"
            ));
        } else if self.is_blind && !is_blind {
            self.say("the probes count again".to_owned());
        }
        self.is_blind = is_blind;
        for (at, probed) in results.into_iter().enumerate() {
            let Some(edge) = self.edges.get_mut(at) else { continue };
            let before = edge.health.sight;
            let has_changed = !(is_blind && before != Sight::Down) && edge.health.count(probed.is_success(), limits);
            edge.last = Some(probed);
            if !has_changed {
                continue;
            }
            let text = format!("{} is {}: {}", edge.provider, word(edge.health.sight), figures(edge));
            let is_down = edge.health.sight == Sight::Down;
            if is_down {
                self.complain(text);
            } else if before == Sight::Down {
                self.say(text);
            }
            for target in self.targets.iter_mut().filter(|target| target.edges.values().any(|edge| *edge == at)) {
                target.tries.hurry(is_down);
            }
        }
    }

    /// Returns the numbers of the targets that are read in this round.
    pub(crate) fn due(&self, now: Duration) -> Vec<usize> {
        let due = self.targets.iter().enumerate().filter(|(_, target)| target.tries.is_due(now));
        due.map(|(at, _)| at).collect()
    }

    /// Reads targets.
    pub(crate) async fn read(&self, targets: &[usize]) -> Vec<Nodes> {
        let keys: Vec<_> = targets.iter().filter_map(|&at| Some(self.targets.get(at)?.keys)).collect();
        read_all(self.services, &keys).await
    }

    /// Returns the change that a target needs. Changes nothing in DNS, so the caller may drop the future.
    pub(crate) async fn look(&mut self, at: usize, nodes: Nodes, now: Duration) -> Option<Box<Work<'f>>> {
        match self.step(at, nodes).await {
            Ok(Step::Act(work)) => Some(work),
            Ok(Step::Rest) => {
                if let Some(target) = self.targets.get_mut(at)
                    && target.tries.rest(now)
                {
                    let text = format!("{}: fine again", target.keys.name);
                    self.say(text);
                }
                None
            }
            Err(hindrance) => {
                self.hindered(at, now, hindrance);
                None
            }
        }
    }

    async fn step(&mut self, at: usize, nodes: Nodes) -> Result<Step<'f>, Hindrance> {
        let Some(target) = self.targets.get(at) else { return Ok(Step::Rest) };
        let keys = target.keys;
        let nodes = nodes.map_err(|texts| (Trouble::Unreadable, texts))?;
        let is_down = target.edges.values().any(|&edge| self.sight(edge) == Sight::Down);
        let unable = if is_down { Trouble::Refused } else { Trouble::Unfit };
        let Some(shares) = common_shares(&nodes.iter().collect::<Vec<_>>()) else {
            let text = format!(
                "{}: the nodes have different weights, or no weights; edgeshim balance status -t {} shows them",
                keys.name, keys.name
            );
            return Err((unable, vec![text]));
        };
        let wanted = next(&shares, |name| target.edges.get(name).map_or(Sight::Unknown, |&edge| self.sight(edge)));
        if let Some(target) = self.targets.get_mut(at) {
            target.away = Some(away_of(&shares));
            if !matches!(wanted, Next::Keep(_)) {
                target.kept.clear();
            }
        }
        let (provider, away) = match wanted {
            Next::Away(provider) => (provider, true),
            Next::Back(provider) => (provider, false),
            Next::Keep(names) => {
                self.keep(at, &names, &shares)?;
                self.check(keys, &nodes, unable)?;
                return Ok(Step::Rest);
            }
            Next::Nothing => {
                self.check(keys, &nodes, unable)?;
                return Ok(Step::Rest);
            }
        };
        self.prepare(at, provider, away, &shares).await.map(|work| Step::Act(Box::new(work)))
    }

    /// Plans the change of one provider.
    async fn prepare(
        &mut self,
        at: usize,
        provider: String,
        away: bool,
        shares: &Shares,
    ) -> Result<Work<'f>, Hindrance> {
        let target = self.targets.get(at).map(|target| (target.keys, target.edges.get(&provider).copied()));
        let (keys, edge) = target.ok_or((Trouble::Busy, Vec::new()))?;
        let change = Change {
            file: self.file,
            caller: self.caller,
            services: self.services,
            targets: vec![keys],
            who: WHO.to_owned(),
            why: edge.and_then(|edge| self.edges.get(edge)).map(figures),
            force: None,
        };
        let planned =
            change.plan(Action::Away { provider: provider.clone(), away }).await.map_err(|trouble| match trouble {
                plan::Trouble::Usage(text) | plan::Trouble::Refused(text) => (Trouble::Refused, vec![text]),
                plan::Trouble::Failed(texts) => (Trouble::Unreadable, texts),
            })?;
        let is_as_read = planned.plan.targets.iter().all(|target| target.before.as_ref() == Some(shares));
        if !is_as_read || !planned.plan.is_changed() {
            return Err((Trouble::Busy, vec![format!("{}: someone else changes the weights", keys.name)]));
        }
        let journal = self.journal().map_err(|text| (Trouble::Refused, vec![text]))?;
        let refused = change.objections(&planned.plan, journal).refused;
        if !refused.is_empty() {
            return Err((Trouble::Refused, refused));
        }
        Ok(Work { change, planned, provider, away })
    }

    /// Begins a change. Changes nothing in DNS, so the caller may drop the future.
    pub(crate) async fn begin(&mut self, at: usize, work: &Work<'f>, now: Duration) -> Option<Writer> {
        let begun = work.change.begin(&work.planned).await;
        // Another change is in progress or was made, or the journal cannot be written.
        begun.map_err(|texts| self.hindered(at, now, (Trouble::Busy, texts))).ok()
    }

    /// Makes a change. The caller must not drop the future. Returns the line of the journal.
    pub(crate) async fn act(&mut self, at: usize, work: &Work<'f>, writer: Writer, now: Duration) -> Option<Entry> {
        let written = work.change.write(&work.planned, writer).await;
        let made = written.map_err(|texts| self.hindered(at, now, (Trouble::Failed, texts))).ok()?;
        let target = self.targets.get_mut(at)?;
        target.tries.made();
        target.away = made.entry.to.get(&target.keys.name).map(away_of);
        let result = if work.away { "is away now" } else { "is back" };
        let text = format!("{}: {} {result} (change {})", target.keys.name, work.provider, made.entry.id);
        self.say(text);
        for warning in made.warnings {
            self.complain(format!("warning: {warning}"));
        }
        Some(made.entry)
    }

    /// Notes that the last provider which is served is down, but stays.
    fn keep(&mut self, at: usize, names: &[String], shares: &Shares) -> Result<(), Hindrance> {
        let Some(target) = self.targets.get_mut(at) else { return Ok(()) };
        let name = target.keys.name.clone();
        if target.kept != names {
            target.kept = names.to_vec();
            target.is_noted = false;
            let reason = match names {
                [one] => format!("{one} is down, but stays, because no other provider is served that is not down"),
                _ => format!("all providers that are served are down, so these stay: {}", names.join(", ")),
            };
            self.complain(format!("{name}: {reason}"));
        }
        if self.targets.get(at).is_none_or(|target| target.is_noted) {
            return Ok(());
        }
        let figures: Vec<String> = names.iter().filter_map(|name| Some(figures(self.edge(at, name)?))).collect();
        let figures: String = figures.join("; ").chars().take(MAX_WHY).collect();
        let entry = Entry {
            time: time_now(),
            id: new_id(),
            who: WHO.to_owned(),
            action: "away".to_owned(),
            provider: names.first().filter(|_| names.len() == 1).cloned(),
            from: [(name.clone(), Some(shares.clone()))].into(),
            to: [(name.clone(), shares.clone())].into(),
            why: Some(format!("{figures}; no other provider is served that is not down")),
            force: None,
            result: KEPT.to_owned(),
        };
        let unwritten = |text| (Trouble::Busy, vec![text]);
        let path = &self.file.journal;
        let mut writer = Writer::open(path, WHO).map_err(unwritten)?;
        let journal = self.journal().map_err(unwritten)?;
        // After a restart of the watch, the journal may have the line already.
        let last = journal.entries.iter().rev().find(|entry| entry.to.contains_key(&name));
        let is_known = last.is_some_and(|last| {
            last.result == KEPT && last.provider == entry.provider && last.to == entry.to && last.who == entry.who
        });
        if !is_known {
            writer.append(&entry).map_err(unwritten)?;
        }
        if let Some(target) = self.targets.get_mut(at) {
            target.is_noted = true;
        }
        Ok(())
    }

    /// Checks whether a change would be refused, so that the operator knows it before an edge is down.
    fn check(&mut self, target: &TargetKeys, nodes: &[Node], unable: Trouble) -> Result<(), Hindrance> {
        let file = self.file;
        let journal = self.journal().map_err(|text| (unable, vec![text]))?;
        // A plan for first weights keeps the weights that the nodes have.
        let texts: Vec<String> = match compute(file, &[target], nodes, Action::Init) {
            Ok(plan) => problems(file, &plan, journal).into_iter().map(|problem| problem.text).collect(),
            Err(plan::Trouble::Usage(text) | plan::Trouble::Refused(text)) => vec![text],
            Err(plan::Trouble::Failed(texts)) => texts,
        };
        if texts.is_empty() { Ok(()) } else { Err((unable, texts)) }
    }

    fn hindered(&mut self, at: usize, now: Duration, (trouble, texts): Hindrance) {
        let every = self.file.watch.every;
        let Some(target) = self.targets.get_mut(at) else { return };
        if !target.tries.hindered(trouble, now, every) {
            return;
        }
        let name = &target.keys.name;
        let heading = match trouble {
            Trouble::Unreadable => format!("{name}: the weights cannot be read; watch tries again in each round"),
            Trouble::Unfit => {
                format!("{name}: watch could not take a provider away, because a change would be refused")
            }
            Trouble::Refused => {
                format!("{name}: watch cannot do what the modes ask for, and tries again in each round")
            }
            Trouble::Busy => format!("{name}: watch has to wait"),
            Trouble::Failed => format!("{name}: a change failed; watch tries again, with longer and longer pauses"),
        };
        self.complain(heading);
        for text in texts {
            self.complain(format!("  {text}"));
        }
    }

    fn sight(&self, edge: usize) -> Sight {
        self.edges.get(edge).map_or(Sight::Unknown, |edge| edge.health.sight)
    }

    fn edge(&self, target: usize, provider: &str) -> Option<&Edge> {
        self.edges.get(*self.targets.get(target)?.edges.get(provider)?)
    }

    /// Reads the journal, if the file has changed.
    fn journal(&mut self) -> Result<&Journal, String> {
        let path = &self.file.journal;
        let metadata = std::fs::metadata(path).ok();
        let stamp = metadata.map_or((0, None), |metadata| (metadata.len(), metadata.modified().ok()));
        let journal = match self.journal.take() {
            Some((read, journal)) if read == stamp => journal,
            _ => Journal::read(path)?,
        };
        Ok(&self.journal.insert((stamp, journal)).1)
    }
}

/// Returns the providers that are away, with their modes.
fn away_of(shares: &Shares) -> Vec<String> {
    let away = shares.0.iter().filter(|(_, share)| share.away && matches!(share.mode, Mode::Obey | Mode::Remove));
    away.map(|(name, share)| format!("{name} ({})", share.mode.name())).collect()
}

fn word(sight: Sight) -> &'static str {
    match sight {
        Sight::Unknown => "unknown",
        Sight::Up => "up",
        Sight::Down => "down",
    }
}

/// Describes the last probes of an edge.
fn figures(edge: &Edge) -> String {
    let Health { successes, failures, .. } = edge.health;
    let (count, word) = if failures > 0 { (failures, "failed") } else { (successes, "succeeded") };
    let last = edge.last.as_ref().map(|last| format!(", the last: {last}")).unwrap_or_default();
    format!("{count} probes of {} {word} in a row{last}", edge.url)
}
