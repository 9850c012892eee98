//! The DNS services: one interface, and one file for each kind of service.

mod aws_signature;
mod external;
mod lua;
mod powerdns;
mod query;
mod record_sets;
mod route53;
mod xml_tree;

use std::collections::BTreeMap;

use serde_json::Value;

use self::external::External;
use self::powerdns::PowerDns;
use self::route53::Route53;
use super::api_call::Caller;
use super::balance_file::{ServiceKeys, ServiceKind, TargetKeys};
use super::grid::Grid;
use super::node::{Found, Holding, Record};

/// A write of one node.
#[derive(Debug)]
pub(crate) struct Write<'p> {
    pub node: &'p str,
    /// What the service has under the name now.
    pub now: &'p Found,
    pub wanted: Wanted<'p>,
}

#[derive(Debug)]
pub(crate) enum Wanted<'p> {
    /// A new record.
    Record(&'p Record),
    /// The records that the service reported before a change.
    Raw(&'p Value),
}

/// Why a write failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The service has rejected the write, or the write was too large to be sent. Nothing was written.
    Rejected(String),
    /// Whether the service has written is unknown.
    Unknown(String),
}

impl Failed {
    pub(crate) fn text(self) -> String {
        let (Self::Rejected(text) | Self::Unknown(text)) = self;
        text
    }
}

impl From<String> for Failed {
    fn from(text: String) -> Self {
        Self::Unknown(text)
    }
}

/// The result of the check after a change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// Each lookup gave a right answer, or the service has no check.
    Right,
    /// The check could not be completed.
    Unknown(String),
    /// A DNS server gave a wrong answer.
    Wrong(String),
}

/// A DNS service.
#[derive(Debug)]
pub(crate) struct Service {
    api: Api,
    grid: Grid,
}

#[derive(Debug)]
enum Api {
    PowerDns(PowerDns),
    Route53(Route53),
    External(External),
}

impl Service {
    /// Makes a client for the API of a service.
    ///
    /// # Errors
    /// Returns a message if the keys cannot be used.
    pub(crate) fn new(keys: &ServiceKeys, caller: Caller) -> Result<Self, String> {
        let api = match keys.kind {
            ServiceKind::PowerDns => Api::PowerDns(PowerDns::new(keys, caller)?),
            ServiceKind::Route53 => Api::Route53(Route53::new(keys, caller)?),
            ServiceKind::Command => Api::External(External::new(keys, caller.is_verbose)),
        };
        Ok(Self { api, grid: keys.weight_grid() })
    }

    /// Reads what the service has under the nodes of a target.
    ///
    /// # Errors
    /// Returns a message if the service fails.
    pub(crate) async fn read(&self, target: &TargetKeys) -> Result<BTreeMap<String, Found>, String> {
        let mut all = match &self.api {
            Api::PowerDns(service) => service.read(target).await,
            Api::Route53(service) => service.read(target).await,
            Api::External(service) => service.read(target).await,
        }?;
        for found in all.values_mut() {
            found.holding =
                with_checked_weights(self.grid, target, std::mem::replace(&mut found.holding, Holding::Nothing));
        }
        Ok(all)
    }

    /// Writes several nodes of a target. PowerDNS and Route 53 write either all nodes or no node.
    ///
    /// # Errors
    /// Returns [`Failed`] if the service fails, or if the write is rejected.
    pub(crate) async fn write(&self, target: &TargetKeys, writes: &[Write<'_>]) -> Result<(), Failed> {
        match &self.api {
            Api::PowerDns(service) => service.write(target, writes).await,
            Api::Route53(service) => service.write(target, writes).await,
            Api::External(service) => Ok(service.write(target, writes).await?),
        }
    }

    /// Checks a node after a change. For PowerDNS, looks the node up as clients do. For the other services, checks
    /// nothing.
    pub(crate) async fn look_up(&self, target: &TargetKeys, node: &str, record: &Record) -> Answers {
        match &self.api {
            Api::PowerDns(service) => service.look_up(target, node, record).await,
            Api::Route53(_) | Api::External(_) => Answers::Right,
        }
    }

    /// Waits until all DNS servers of the service have the written records. Only Route 53 reports when this is so. For
    /// the other services, does not wait.
    ///
    /// # Errors
    /// Returns why it is unknown whether all DNS servers have the records.
    pub(crate) async fn settle(&self) -> Result<(), String> {
        match &self.api {
            Api::Route53(service) => service.settle().await,
            Api::PowerDns(_) | Api::External(_) => Ok(()),
        }
    }
}

/// Checks whether the weights in DNS follow from the modes and weights in the record. If they do not, for
/// example because someone has changed the record without edgeshim, the result is `Edited`.
fn with_checked_weights(grid: Grid, target: &TargetKeys, holding: Holding) -> Holding {
    let Holding::Ours(record) = holding else { return holding };
    let served = record.shares.served();
    // If balance.toml no longer has a served provider, `refuse` reports this provider by its name.
    if !served.keys().all(|name| target.providers.contains_key(*name)) {
        return Holding::Ours(record);
    }
    let mut stored: BTreeMap<String, u32> = BTreeMap::new();
    for (name, weight) in &record.weights {
        let sum = stored.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*weight);
    }
    match grid.weights(&served) {
        Ok(wanted) if wanted == stored => Holding::Ours(record),
        wanted => {
            let list = |weights: &BTreeMap<String, u32>| {
                let list = weights.iter().map(|(name, weight)| format!("{name} {weight}")).collect::<Vec<_>>();
                if list.is_empty() { "none".to_owned() } else { list.join(", ") }
            };
            let wanted =
                wanted.map_or_else(|error| error, |wanted| format!("its modes and weights give {}", list(&wanted)));
            Holding::Edited(record, format!("its weights in DNS are {}, but {wanted}", list(&stored)))
        }
    }
}

/// A target with the providers a and b.
#[cfg(test)]
fn sample_target() -> TargetKeys {
    use super::balance_file::ProviderKeys;
    let provider = |name: &str| {
        (name.to_owned(), ProviderKeys { cname: format!("{name}.example.net"), ..ProviderKeys::default() })
    };
    TargetKeys { providers: ["a", "b"].map(provider).into(), ..TargetKeys::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::share::{Mode, Share, Shares};

    #[test]
    fn weights_when_changed_by_hand_then_record_is_edited() {
        let shares = [("a", Share::new(Mode::Obey, 5)), ("b", Share::new(Mode::Obey, 15))];
        let shares = Shares(shares.map(|(name, share)| (name.to_owned(), share)).into());
        let holding = |grid, weights: &[(&str, u32)]| {
            let weights = weights.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
            with_checked_weights(grid, &sample_target(), Holding::Ours(Record { shares: shares.clone(), weights }))
        };
        let grid = Grid::AtMost(255);
        assert!(matches!(holding(grid, &[("a", 1), ("b", 3)]), Holding::Ours(_)));
        for weights in [&[("a", 1), ("b", 4)][..], &[("a", 1)], &[("a", 5), ("b", 15)], &[]] {
            assert!(matches!(holding(grid, weights), Holding::Edited(..)), "{weights:?}");
        }
        let runs = [("a", 100), ("b", 750), ("a", 150)];
        assert!(matches!(holding(Grid::Thousandths, &runs), Holding::Ours(_)), "the runs of a provider are added up");
        let Holding::Edited(_, text) = holding(grid, &[("a", 1), ("b", 4)]) else { panic!("edited") };
        assert_eq!(text, "its weights in DNS are a 1, b 4, but its modes and weights give a 1, b 3");
    }
}
