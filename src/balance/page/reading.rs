//! Reads what the page shows: the weights in DNS, the observed shares, the convergence of the last change, the cost and
//! the history. All open pages get the same reading, so the number of calls does not depend on the number of pages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::announce::token_field;
use super::super::balance_file::{ProviderKeys, TargetKeys};
use super::super::figure_source::{has_figures, snapshot};
use super::super::figures::Snapshot;
use super::super::journal::{Entry, Journal};
use super::super::observed_shares::{BETWEEN_LOOKS, Observed};
use super::super::plan::Trouble;
use super::super::share::Shares;
use super::super::standing::{Standing, standing};
use super::super::tables::{number, observed_text, tenths};
use super::Page;
use super::dns_reads::{DnsReads, Nodes};
use super::month_bills::{Stamp, stamp};

/// The age at which a reading is replaced.
const MAX_AGE: Duration = Duration::from_secs(3);
/// The time over which the observed shares are measured.
const WINDOW: Duration = Duration::from_mins(1);
/// The largest number of looks (readings of the counters) in `WINDOW`.
const MAX_LOOKS: usize = 32;
/// The largest number of changes that the page shows.
const HISTORY: usize = 20;
/// How long a reading waits for the DNS services and the shims. The page requests the state every 5 seconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// The newest reading, the weights in DNS, and the earlier counters, from which the observed shares are computed.
#[derive(Debug)]
pub(super) struct Reading {
    state: Option<Read>,
    dns: DnsReads,
    looks: VecDeque<(Instant, Snapshot)>,
}

#[derive(Debug)]
struct Read {
    began: Instant,
    /// The number of changes that this process had tried when the reading began.
    changes: u64,
    state: Value,
}

/// The journal, with the size of its file and the time of the file's last change. If one of the two has changed, the
/// journal is read again.
pub(super) type KnownJournal = Option<(Stamp, Arc<Journal>)>;

impl Page {
    /// Returns the JSON of `/api/state`.
    pub(super) async fn state(&'static self, user: &str) -> String {
        let mut reading = self.reading.lock().await;
        let changes = self.changes.load(Ordering::Relaxed);
        let is_new = |read: &&Read| read.began.elapsed() < MAX_AGE && read.changes == changes;
        let mut state = if let Some(read) = reading.state.as_ref().filter(is_new) {
            read.state.clone()
        } else {
            let began = Instant::now();
            let state = self.read_state(&mut reading, changes).await;
            reading.state = Some(Read { began, changes, state: state.clone() });
            state
        };
        drop(reading);
        state["user"] = user.into();
        format!("{state}\n")
    }

    /// Returns the journal.
    ///
    /// # Errors
    /// Returns a message if the journal cannot be read.
    pub(super) async fn journal(&self) -> Result<Arc<Journal>, String> {
        let mut known_journal = self.journal.lock().await;
        let path = &self.file.journal;
        let stamp = stamp(path);
        if let Some((known, journal)) = &*known_journal
            && *known == stamp
        {
            return Ok(Arc::clone(journal));
        }
        let read = tokio::task::spawn_blocking(|| Journal::read(path));
        let journal = Arc::new(read.await.map_err(|error| error.to_string())??);
        *known_journal = Some((stamp, Arc::clone(&journal)));
        Ok(journal)
    }

    async fn read_state(&'static self, reading: &mut Reading, changes: u64) -> Value {
        let (journal, look, (), convergence, cost) = tokio::join!(
            self.journal(),
            Box::pin(self.look()),
            reading.dns.refresh(&self.services, changes, PATIENCE),
            Box::pin(self.convergence()),
            self.cost(),
        );
        let mut warnings = Vec::new();
        let journal = journal.unwrap_or_else(|error| {
            warnings.push(error);
            Arc::default()
        });
        match look {
            Ok(look) => look.into_iter().for_each(|look| reading.add(look)),
            Err(error) => warnings.push(format!("the observed shares are not known: {error}")),
        }
        let convergence = convergence.unwrap_or_else(|error| {
            warnings.push(format!("the arrival of the last change is not known: {error}"));
            Value::Null
        });
        let targets: Vec<Value> =
            self.file.targets.iter().map(|target| self.target(target, &journal, reading)).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "max_step": self.file.max_step,
            "has_shims": !self.file.shims.is_empty(),
            "targets": targets,
            "convergence": convergence,
            "cost": cost,
            "history": journal.entries.iter().rev().take(HISTORY).map(entry).collect::<Vec<_>>(),
            "bad_lines": journal.bad_lines,
            "warnings": warnings,
        })
    }

    async fn look(&self) -> Result<Option<Snapshot>, String> {
        if has_figures(self.file) { snapshot(self.file, &self.caller, PATIENCE).await.map(Some) } else { Ok(None) }
    }

    fn target(&self, target: &TargetKeys, journal: &Journal, reading: &Reading) -> Value {
        let Nodes { nodes, late } = reading.dns.of(target);
        let names: Vec<&String> = target.providers.keys().collect();
        let observed = reading.observed(&names);
        let standing = nodes.and_then(|nodes| {
            standing(self.file, target, &nodes, journal).map_err(|trouble| match trouble {
                Trouble::Usage(text) | Trouble::Refused(text) => vec![text],
                Trouble::Failed(texts) => texts,
            })
        });
        let (shares, mut problems, is_read) = match standing {
            Ok(Standing { shares, problems }) => (shares, problems, true),
            Err(errors) => (Shares::default(), errors, false),
        };
        problems.extend(late);
        json!({
            "name": target.name,
            "nodes": target.nodes,
            "services": target.services,
            "ttl": target.ttl.as_secs(),
            "providers": providers(target, &shares, observed.as_ref()),
            "source": observed.map(|observed| observed.source),
            "is_read": is_read,
            "problems": problems,
            "is_unfinished": journal.unfinished.contains_key(&target.name),
        })
    }

    /// Returns how fast the clients follow the last announced change of the weights, by the counters of the first shim.
    /// If no change was announced, the last change that the shim has found is used. Returns `null` if there are no
    /// shims, or if the shim has found no change.
    ///
    /// # Errors
    /// Returns a message if the shim does not answer as expected.
    async fn convergence(&self) -> Result<Value, String> {
        let Some(shim) = self.file.shims.first() else { return Ok(Value::Null) };
        let call = (Method::GET, "/api/summary");
        let reply = self.caller.call_once(shim, call, &token_field(self.file), b"", PATIENCE).await?;
        match reply.status {
            200 => {}
            401 => return Err(format!("{shim} needs the right shims_token (401)")),
            status => return Err(format!("{shim}/api/summary answers {status}")),
        }
        let summary: Value = serde_json::from_slice(&reply.body).map_err(|_| format!("{shim} sends no JSON"))?;
        let steps = summary.get("convergence").and_then(Value::as_array).cloned().unwrap_or_default();
        let is_announced = |step: &&Value| step.get("is_announced").and_then(Value::as_bool) == Some(true);
        let Some(mut step) = steps.iter().find(is_announced).or(steps.first()).cloned() else { return Ok(Value::Null) };
        step["shim"] = shim.to_string().into();
        Ok(step)
    }
}

impl Reading {
    pub(super) fn new(targets: &'static [TargetKeys]) -> Self {
        Self { state: None, dns: DnsReads::new(targets), looks: VecDeque::new() }
    }

    fn add(&mut self, look: Snapshot) {
        let now = Instant::now();
        self.looks.retain(|(time, _)| now.duration_since(*time) <= WINDOW);
        if self.looks.len() >= MAX_LOOKS {
            self.looks.pop_front();
        }
        self.looks.push_back((now, look));
    }

    /// Returns the observed shares since the oldest look with which the newest look can be compared. The time between
    /// the two looks is at least [`BETWEEN_LOOKS`].
    fn observed(&self, names: &[&String]) -> Option<Observed> {
        let (last, newest) = self.looks.back()?;
        let old = self.looks.iter().filter(|(time, _)| last.duration_since(*time) >= BETWEEN_LOOKS);
        let growth = |(time, oldest): &(Instant, Snapshot)| oldest.until(newest, (*last - *time).as_secs_f64()).ok();
        old.into_iter().find_map(growth)?.observed(names)
    }
}

/// Returns the providers of a target. A provider without weights in DNS has only its name, its CNAME and the observed
/// share. `pct` is the share among the enabled providers, as `--pct` sets it. `served_pct` and `share` are the share of
/// the clients: the share among the providers that are served.
fn providers(target: &TargetKeys, shares: &Shares, observed: Option<&Observed>) -> Vec<Value> {
    let (percents, served) = (shares.percents(), shares.served_percents());
    let one = |(name, keys): (&String, &ProviderKeys)| {
        let share = shares.0.get(name);
        let hundredths = served.get(name.as_str()).copied();
        let seen = observed.and_then(|observed| observed.shares.get(name)).copied();
        json!({
            "name": name,
            "cname": keys.cname,
            "mode": share.map(|share| share.mode.name()),
            "weight": share.map(|share| share.weight),
            "pct": share.map(|_| number(percents.get(name.as_str()).copied())),
            "served_pct": share.map(|_| number(hundredths)),
            "share": share.map(|_| tenths(hundredths.unwrap_or(0))),
            "away": share.is_some_and(|share| share.away),
            "observed": seen,
            "observed_share": seen.map(observed_text),
        })
    };
    target.providers.iter().map(one).collect()
}

/// Returns a change for the history: the values in the journal, and the changed shares of the clients as texts.
fn entry(entry: &Entry) -> Value {
    let mut shares = Vec::new();
    for (target, to) in &entry.to {
        let from = entry.from.get(target).and_then(Option::as_ref);
        let (old, new) = (from.map(Shares::served_percents).unwrap_or_default(), to.served_percents());
        for (name, hundredths) in &new {
            let before = old.get(name).copied();
            if before != Some(*hundredths) {
                let before = before.map(tenths);
                shares.push(json!({ "target": target, "provider": name, "from": before, "to": tenths(*hundredths) }));
            }
        }
    }
    json!({
        "time": entry.time,
        "id": entry.id,
        "who": entry.who,
        "action": entry.action,
        "targets": entry.to.keys().collect::<Vec<_>>(),
        "provider": entry.provider,
        "why": entry.why,
        "force": entry.force,
        "result": entry.result,
        "is_done": entry.is_done(),
        "shares": shares,
    })
}
