//! The reads of DNS for the page. Each target is read at each of its services by a task of its own. So a service that
//! does not respond delays only its own targets, and the page names the service.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::super::balance_file::TargetKeys;
use super::super::node::Node;
use super::super::transaction::Services;

type Found = Result<Vec<Node>, String>;

/// The newest reads. There is at most one running task for each target and service.
#[derive(Debug, Default)]
pub(super) struct DnsReads(Vec<Read>);

#[derive(Debug)]
struct Read {
    target: &'static TargetKeys,
    service: &'static str,
    running: Option<Running>,
    /// The newest complete read, and the time when it began.
    last: Option<(Instant, Found)>,
}

#[derive(Debug)]
struct Running {
    began: Instant,
    /// The number of changes of this process before the read began.
    changes: u64,
    task: JoinHandle<Found>,
}

/// The nodes of a target, and the services that have not responded yet.
pub(super) struct Nodes {
    pub nodes: Result<Vec<Node>, Vec<String>>,
    pub late: Vec<String>,
}

impl DnsReads {
    pub(super) fn new(targets: &'static [TargetKeys]) -> Self {
        let of_target = |target: &'static TargetKeys| {
            let read = move |service| Read { target, service, running: None, last: None };
            target.services.iter().map(move |service| read(service.as_str()))
        };
        Self(targets.iter().flat_map(of_target).collect())
    }

    /// Reads all targets, and waits for the results until `patience` has passed. A read that takes longer goes on, and
    /// a later call gets its result.
    pub(super) async fn refresh(&mut self, services: &'static Services<'static>, changes: u64, patience: Duration) {
        let began = Instant::now();
        for read in &mut self.0 {
            // A read that began before a change can show the old weights.
            if let Some(old) = read.running.take_if(|running| running.changes != changes) {
                old.task.abort();
            }
            if read.running.is_none() {
                let (target, service) = (read.target, read.service);
                let task = tokio::spawn(async move { services.read_at(target, service).await });
                read.running = Some(Running { began, changes, task });
            }
        }
        for read in &mut self.0 {
            if let Some(running) = &mut read.running
                && let Ok(ended) = timeout_at(began + patience, &mut running.task).await
            {
                let found = ended.unwrap_or_else(|error| Err(format!("{}: a bug in edgeshim: {error}", read.service)));
                read.last = Some((running.began, found));
                read.running = None;
            }
        }
    }

    /// Returns what is known about a target.
    pub(super) fn of(&self, target: &TargetKeys) -> Nodes {
        let (mut nodes, mut errors, mut late) = (Vec::new(), Vec::new(), Vec::new());
        for read in self.0.iter().filter(|read| read.target.name == target.name) {
            let waits = read.running.as_ref().map(|running| {
                format!("{}: has not responded for {} s", read.service, running.began.elapsed().as_secs())
            });
            match (&read.last, waits) {
                (Some((_, Ok(found))), None) => nodes.extend(found.iter().cloned()),
                (Some((began, Ok(found))), Some(waits)) => {
                    nodes.extend(found.iter().cloned());
                    late.push(format!("{waits}; the weights are those of {} s ago", began.elapsed().as_secs()));
                }
                (Some((_, Err(error))), _) => errors.push(error.clone()),
                (None, waits) => errors.extend(waits),
            }
        }
        Nodes { nodes: if errors.is_empty() { Ok(nodes) } else { Err(errors) }, late }
    }
}
