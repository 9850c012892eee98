//! Reads all nodes of some targets, and writes and checks a plan. If a write or a check fails, or if a signal arrives
//! before the last write, restores the earlier records.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::watch;

use super::api_call::Caller;
use super::balance_file::{BalanceFile, TargetKeys};
use super::dns::{Answers, Failed, Service, Wanted, Write};
use super::node::{Found, Holding, Node};
use super::plan::{NodePlan, Plan, TargetPlan};

/// The largest number of attempts to undo a batch.
const UNDO_TRIES: u32 = 2;

/// Whether a signal has arrived. After a signal, a change stops before its next write, and is put back. After the last
/// write, a signal only ends the lookups and the wait for the DNS servers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(watch::Sender<bool>);

impl Interrupt {
    pub(crate) fn set(&self) {
        self.0.send_replace(true);
    }

    fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for a signal.
    pub(crate) async fn wait(&self) {
        // There is no error, because this value is a sender.
        let _ = self.0.subscribe().wait_for(|is_set| *is_set).await;
    }
}

/// How the writing of a plan ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All nodes have the new weights. The texts say what could not be checked.
    Done(Vec<String>),
    /// The change failed or was interrupted, and all nodes are as before.
    PutBack(String),
    /// The change failed or was interrupted. These nodes are not as before, or their records are unknown.
    Split { error: String, differences: Vec<String> },
}

/// All DNS services of the file.
#[derive(Debug)]
pub(crate) struct Services<'f> {
    file: &'f BalanceFile,
    by_name: BTreeMap<&'f str, Service>,
    interrupt: Interrupt,
}

/// The nodes of one target that a plan changes at one service. These nodes are written together.
struct Batch<'p> {
    target: &'p TargetKeys,
    service: &'p Service,
    service_name: &'p str,
    nodes: Vec<&'p NodePlan>,
}

impl<'f> Services<'f> {
    /// Makes a client for the API of each service.
    ///
    /// # Errors
    /// Returns a message if the keys of a service cannot be used.
    pub(crate) fn new(file: &'f BalanceFile, caller: &Caller, interrupt: Interrupt) -> Result<Self, String> {
        let service =
            |keys: &'f super::balance_file::ServiceKeys| Ok((keys.name.as_str(), Service::new(keys, caller.clone())?));
        let services = file.services.iter().map(service).collect::<Result<_, String>>()?;
        Ok(Self { file, by_name: services, interrupt })
    }

    /// Reads all nodes of some targets.
    ///
    /// # Errors
    /// Returns a message for each different failure.
    pub(crate) async fn read(&self, targets: &[&TargetKeys]) -> Result<Vec<Node>, Vec<String>> {
        let (mut nodes, mut errors) = (Vec::new(), Vec::new());
        for target in targets {
            for name in &target.services {
                match self.read_at(target, name).await {
                    Ok(found) => nodes.extend(found),
                    // The same failure of two targets is reported once.
                    Err(error) if errors.contains(&error) => {}
                    Err(error) => errors.push(error),
                }
            }
        }
        if errors.is_empty() { Ok(nodes) } else { Err(errors) }
    }

    /// Reads the nodes of a target at one of its services.
    ///
    /// # Errors
    /// Returns a message if the service fails.
    pub(crate) async fn read_at(&self, target: &TargetKeys, service_name: &str) -> Result<Vec<Node>, String> {
        let Some(service) = self.by_name.get(service_name) else { return Ok(Vec::new()) };
        let mut found = service.read(target).await?;
        let node = |name: &String| {
            Some(Node {
                target: target.name.clone(),
                service: service_name.to_owned(),
                name: name.clone(),
                found: found.remove(name)?,
            })
        };
        Ok(target.nodes.iter().filter_map(node).collect())
    }

    /// Writes a plan and checks it. If a write or a check fails, or if a signal arrives before the last write, restores
    /// the earlier records.
    pub(crate) async fn apply(&self, plan: &Plan) -> Outcome {
        let batches = self.batches(plan);
        let mut error = None;
        let mut tried = 0;
        let mut rejected = None;
        for batch in &batches {
            // The task that waits for signals runs now. So the check below finds a signal that has arrived.
            tokio::task::yield_now().await;
            if self.interrupt.is_set() {
                error = Some("interrupted by a signal".to_owned());
                break;
            }
            match batch.write().await {
                Ok(()) => tried += 1,
                // This batch is not undone, because nothing of it was written.
                Err(Failed::Rejected(text)) => {
                    rejected = Some(batch);
                    error = Some(text);
                    break;
                }
                Err(Failed::Unknown(text)) => {
                    tried += 1;
                    error = Some(text);
                    break;
                }
            }
        }
        let mut unknown = Vec::new();
        let mut silent = BTreeSet::new();
        if error.is_none() {
            for batch in &batches {
                match batch.verify(&self.interrupt, silent.contains(batch.service_name)).await {
                    Ok(None) => {}
                    Ok(Some(text)) => {
                        silent.insert(batch.service_name);
                        unknown.push(text);
                    }
                    Err(failed) => {
                        error = Some(failed);
                        break;
                    }
                }
            }
        }
        let Some(error) = error else { return Outcome::Done(unknown) };
        let mut differences = match rejected {
            Some(batch) => batch.changed_by_others().await,
            None => Vec::new(),
        };
        for batch in batches.iter().take(tried).rev() {
            differences.extend(batch.undo().await);
        }
        if differences.is_empty() { Outcome::PutBack(error) } else { Outcome::Split { error, differences } }
    }

    /// Waits until the DNS servers of all services have the written records, or until a signal arrives. During this
    /// wait, the journal need not be locked, because the records were checked before. Returns a text for each service
    /// whose DNS servers may lack the records.
    pub(crate) async fn settle(&self) -> Vec<String> {
        let mut unknown = Vec::new();
        for (name, service) in &self.by_name {
            let settled = tokio::select! {
                biased;
                settled = service.settle() => settled,
                () = self.interrupt.wait() => Err("a signal has ended the wait".to_owned()),
            };
            unknown.extend(settled.err().map(|error| {
                format!("the new records are written, but perhaps not all DNS servers of {name} have them yet: {error}")
            }));
        }
        unknown
    }

    /// Puts back a plan that was written. Returns a text for each node that is not as before.
    pub(crate) async fn put_back(&self, plan: &Plan) -> Vec<String> {
        let mut differences = Vec::new();
        for batch in self.batches(plan).iter().rev() {
            differences.extend(batch.undo().await);
        }
        differences
    }

    fn batches<'p>(&'p self, plan: &'p Plan) -> Vec<Batch<'p>> {
        let batches_of = |planned: &'p TargetPlan| {
            let target = self.file.target(&planned.name)?;
            let batch = move |(name, service): (&&'p str, &'p Service)| {
                let nodes = planned.nodes.iter().filter(|node| node.node.service == **name && node.is_changed());
                let nodes: Vec<&NodePlan> = nodes.collect();
                (!nodes.is_empty()).then_some(Batch { target, service, service_name: name, nodes })
            };
            Some(self.by_name.iter().filter_map(batch))
        };
        plan.targets.iter().filter_map(batches_of).flatten().collect()
    }
}

impl Batch<'_> {
    async fn write(&self) -> Result<(), Failed> {
        let write = |node: &&'_ NodePlan| -> (String, Found) { (node.node.name.clone(), node.node.found.clone()) };
        let present: Vec<_> = self.nodes.iter().map(write).collect();
        let writes: Vec<Write<'_>> = self
            .nodes
            .iter()
            .zip(&present)
            .map(|(node, (name, now))| Write { node: name, now, wanted: Wanted::Record(&node.after) })
            .collect();
        self.service.write(self.target, &writes).await
    }

    /// Reads the nodes again to check them, and looks them up. Returns what could not be looked up. After a lookup
    /// without an answer, or after a signal, makes no further lookup. If `is_silent` is set, makes no lookup. So a
    /// silent DNS server does not hold the change for long.
    async fn verify(&self, interrupt: &Interrupt, is_silent: bool) -> Result<Option<String>, String> {
        let found = self.service.read(self.target).await?;
        for node in &self.nodes {
            let place = node.node.place();
            match found.get(&node.node.name) {
                Some(found) if has_written(node, found) => {}
                Some(found) => return Err(format!("{place} has {} after the write", found.describe())),
                None => return Err(format!("{place} is missing after the write")),
            }
        }
        if is_silent {
            return Ok(Some(format!("the nodes of {} at {}", self.target.name, self.service_name)));
        }
        for (at, node) in self.nodes.iter().enumerate() {
            let place = node.node.place();
            let answers = tokio::select! {
                biased;
                answers = self.service.look_up(self.target, &node.node.name, &node.after) => answers,
                () = interrupt.wait() => Answers::Unknown("a signal has ended the lookups".to_owned()),
            };
            match answers {
                Answers::Right => {}
                Answers::Unknown(text) => {
                    let more = match self.nodes.len() - at - 1 {
                        0 => String::new(),
                        more => format!("; not looked up either: {more} more of this target"),
                    };
                    return Ok(Some(format!("{place}: {text}{more}")));
                }
                Answers::Wrong(text) => return Err(format!("{place}: {text}")),
            }
        }
        Ok(None)
    }

    /// Writes the records from before the change to each node that has what the change wrote. A node with any other
    /// record stays as it is, because someone else has written this record. Returns a text for each node that is not as
    /// before.
    async fn undo(&self) -> Vec<String> {
        let mut differences = Vec::new();
        for _ in 0..UNDO_TRIES {
            let found = match self.service.read(self.target).await {
                Ok(found) => found,
                Err(error) => {
                    differences = self.texts(|_| Some(format!("is not known ({error})")));
                    continue;
                }
            };
            let written: Vec<_> = self
                .nodes
                .iter()
                .filter_map(|node| Some((node, found.get(&node.node.name)?)))
                .filter(|(node, now)| now.raw != node.node.found.raw && has_written(node, now))
                .collect();
            if written.is_empty() {
                return self.differences(&found);
            }
            let writes: Vec<Write<'_>> = written
                .iter()
                .map(|(node, now)| Write { node: &node.node.name, now, wanted: Wanted::Raw(&node.node.found.raw) })
                .collect();
            let result = self.service.write(self.target, &writes).await;
            differences = match self.service.read(self.target).await {
                Ok(found) => self.differences(&found),
                Err(error) => {
                    let error = result.err().map_or(error, Failed::text);
                    self.texts(|_| Some(format!("is not known ({error})")))
                }
            };
            if differences.is_empty() {
                return differences;
            }
        }
        differences
    }

    /// Returns a text for each node that is not as before. Nothing of this batch was written, so another person has
    /// changed these nodes. If the service cannot be read, returns no text.
    async fn changed_by_others(&self) -> Vec<String> {
        self.service.read(self.target).await.map(|found| self.differences(&found)).unwrap_or_default()
    }

    fn differences(&self, found: &BTreeMap<String, Found>) -> Vec<String> {
        self.texts(|node| {
            let now = found.get(&node.node.name)?;
            let whose = if has_written(node, now) { "" } else { ", which this change did not write, so it stays" };
            (now.raw != node.node.found.raw).then(|| format!("has {}{whose}", now.describe()))
        })
    }

    fn texts(&self, now: impl Fn(&NodePlan) -> Option<String>) -> Vec<String> {
        let text = |node: &&NodePlan| {
            let before = node.node.found.describe();
            Some(format!("{}: had {before}; now {}", node.node.place(), now(node)?))
        };
        self.nodes.iter().filter_map(text).collect()
    }
}

/// Returns whether a node has the record that the plan writes.
fn has_written(node: &NodePlan, now: &Found) -> bool {
    matches!(&now.holding, Holding::Ours(record) if record.equals(&node.after))
}
