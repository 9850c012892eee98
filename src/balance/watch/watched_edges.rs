//! The edges that are probed: the rounds of probes, and what is known about each edge.

use std::collections::BTreeMap;

use tokio::sync::watch;

use super::between_targets::{News, Tell};
use super::edge_health::{EdgeState, Health, Limits, is_blind};
use super::edge_probe::{Probed, probe_all};
use crate::balance::balance_file::TargetKeys;
use crate::balance::tables::counted;
use crate::balance::watch_keys::{ProbeUrl, WatchKeys};

#[derive(Debug)]
struct Edge {
    provider: String,
    url: ProbeUrl,
    health: Health,
    last: Option<Probed>,
}

/// What the targets get about an edge.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub state: EdgeState,
    /// Describes the last probes.
    pub figures: String,
}

/// The edges of all targets.
pub(crate) struct Edges<'f> {
    keys: &'f WatchKeys,
    is_verbose: bool,
    tell: Tell<'f>,
    list: Vec<Edge>,
    is_blind: bool,
    seen: watch::Sender<Vec<Seen>>,
}

impl<'f> Edges<'f> {
    /// Collects the edges of all targets.
    ///
    /// # Errors
    /// Returns a message if no provider of the targets has a probe.
    pub(crate) fn new(
        keys: &'f WatchKeys,
        is_verbose: bool,
        tell: Tell<'f>,
        targets: &[&TargetKeys],
    ) -> Result<Self, String> {
        let mut list: Vec<Edge> = Vec::new();
        for (provider, url) in targets.iter().flat_map(|target| probes(target)) {
            // Targets can have the same probe.
            if !list.iter().any(|edge| edge.provider == provider && edge.url == *url) {
                let (provider, url) = (provider.to_owned(), url.clone());
                list.push(Edge { provider, url, health: Health::default(), last: None });
            }
        }
        if list.is_empty() {
            return Err("no provider of these targets has a probe; write in balance.toml for example \
                        providers = { fastly = { cname = \"…\", probe = \"https://fastly-test.example.com/ping\" } }"
                .to_owned());
        }
        let seen = watch::Sender::new(vec![Seen::default(); list.len()]);
        Ok(Self { keys, is_verbose, tell, list, is_blind: false, seen })
    }

    /// Reports how many edges are watched, and which providers are not watched.
    pub(crate) fn introduce(&self, targets: &[&TargetKeys]) {
        let every = self.keys.every.as_millis();
        let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        self.say(format!("watching {} of {} every {every} ms", counted(self.list.len(), "edge"), names.join(", ")));
        for target in targets {
            let without = target.providers.iter().filter(|(_, provider)| provider.probe.is_none());
            let without: Vec<&str> = without.map(|(name, _)| name.as_str()).collect();
            if !without.is_empty() {
                self.say(format!("{}: not watched, because there is no probe: {}", target.name, without.join(", ")));
            }
        }
    }

    fn say(&self, text: String) {
        (self.tell)(&News { text, is_problem: false });
    }

    fn complain(&self, text: String) {
        (self.tell)(&News { text, is_problem: true });
    }

    /// Returns, for each provider of the target that has a probe, the position of its edge in the list.
    pub(super) fn numbers(&self, target: &TargetKeys) -> BTreeMap<String, usize> {
        let number = |(provider, url): (&str, &ProbeUrl)| {
            let at = self.list.iter().position(|edge| edge.provider == provider && edge.url == *url)?;
            Some((provider.to_owned(), at))
        };
        probes(target).filter_map(number).collect()
    }

    /// Returns a receiver of what is known about the edges, in the order of their numbers. The value changes after each
    /// round.
    pub(super) fn seen(&self) -> watch::Receiver<Vec<Seen>> {
        self.seen.subscribe()
    }

    /// Returns how many edges are down, and how many there are.
    pub(crate) fn down(&self) -> (usize, usize) {
        (self.list.iter().filter(|edge| edge.health.state == EdgeState::Down).count(), self.list.len())
    }

    /// Probes all edges.
    pub(crate) async fn probe(&self) -> Vec<Probed> {
        let urls = self.list.iter().map(|edge| edge.url.clone()).collect();
        probe_all(urls, self.keys.timeout, self.is_verbose).await
    }

    /// Returns the results of a round as rows of a table: the provider, whether the probe succeeded, and the figures.
    pub(crate) fn rows(&self, results: &[Probed]) -> Vec<Vec<String>> {
        let row = |(edge, probed): (&Edge, &Probed)| {
            let word = if probed.is_success() { "up" } else { "FAILS" };
            vec![edge.provider.clone(), word.to_owned(), format!("{}: {probed}", edge.url)]
        };
        self.list.iter().zip(results).map(row).collect()
    }

    /// Counts the results of a round, and publishes to the targets what is known about the edges.
    pub(crate) fn count(&mut self, results: Vec<Probed>) {
        let limits = Limits { down_after: self.keys.down_after, up_after: self.keys.up_after };
        let seen = self.list.iter().zip(&results);
        let is_blind =
            is_blind(seen.map(|(edge, probed)| (edge.provider.as_str(), edge.health.state, probed.is_success())));
        if is_blind && !self.is_blind {
            let last = results.first().map(ToString::to_string).unwrap_or_default();
            self.complain(format!(
                "all probes fail, and the edges that were not down before belong to several providers; the likely \
                 cause is the network of this machine, so the probes of these edges do not count; the first \
                 probe: {last}"
            ));
        } else if self.is_blind && !is_blind {
            self.say("the probes count again".to_owned());
        }
        self.is_blind = is_blind;
        for (at, probed) in results.into_iter().enumerate() {
            let Some(edge) = self.list.get_mut(at) else { continue };
            let before = edge.health.state;
            let has_changed =
                !(is_blind && before != EdgeState::Down) && edge.health.count(probed.is_success(), limits);
            edge.last = Some(probed);
            if !has_changed {
                continue;
            }
            let text = format!("{} is {}: {}", edge.provider, word(edge.health.state), figures(edge));
            if edge.health.state == EdgeState::Down {
                self.complain(text);
            } else if before == EdgeState::Down {
                self.say(text);
            }
        }
        let seen = |edge: &Edge| Seen { state: edge.health.state, figures: figures(edge) };
        self.seen.send_replace(self.list.iter().map(seen).collect());
    }
}

/// Returns the probes of a target, with the names of the providers.
fn probes(target: &TargetKeys) -> impl Iterator<Item = (&str, &ProbeUrl)> {
    target.providers.iter().filter_map(|(name, provider)| Some((name.as_str(), provider.probe.as_ref()?)))
}

fn word(state: EdgeState) -> &'static str {
    match state {
        EdgeState::Unknown => "unknown",
        EdgeState::Up => "up",
        EdgeState::Down => "down",
    }
}

/// Describes the last probes of an edge.
fn figures(edge: &Edge) -> String {
    let Health { successes, failures, .. } = edge.health;
    let (count, word) = if failures > 0 { (failures, "failed") } else { (successes, "succeeded") };
    let last = edge.last.as_ref().map(|last| format!(", the last: {last}")).unwrap_or_default();
    format!("{} of {} {word} in a row{last}", counted(count, "probe"), edge.url)
}
