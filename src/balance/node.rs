//! What a DNS service has under the name of a node.

use serde_json::Value;

use super::runs::Run;
use super::share::{Mode, Share, Shares, WEIGHTS};

/// A record that edgeshim wrote or will write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub shares: Shares,
    /// The weights as the service has them, in the service's order. Only served providers are in the list. A provider
    /// can have several entries.
    pub weights: Vec<Run>,
}

impl Record {
    /// Returns whether both records have the same effect and the same data.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        self.weights == other.weights && self.shares.agrees_with(&other.shares)
    }
}

/// What is under the name of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holding {
    Nothing,
    /// A plain CNAME to this provider.
    Cname(String),
    /// A record of edgeshim.
    Ours(Record),
    /// A record that has edgeshim's data, but is not as edgeshim would write it, or has other records beside it. The
    /// text says what is wrong.
    Edited(Record, String),
    /// Anything else, with a description.
    Foreign(String),
}

/// The holding of a node, and `raw`: the holding in the form in which the service reports it. To undo a change, `raw`
/// is written back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub holding: Holding,
    pub raw: Value,
}

impl Found {
    pub(crate) fn record(&self) -> Option<&Record> {
        match &self.holding {
            Holding::Ours(record) | Holding::Edited(record, _) => Some(record),
            Holding::Nothing | Holding::Cname(_) | Holding::Foreign(_) => None,
        }
    }

    /// Returns the shares in the record. For a plain CNAME, one provider has all clients. Returns `None` if there is no
    /// record, or if the record is foreign.
    pub(crate) fn shares(&self) -> Option<Shares> {
        match &self.holding {
            Holding::Cname(provider) => {
                Some(Shares([(provider.clone(), Share::new(Mode::Obey, *WEIGHTS.end()))].into()))
            }
            _ => self.record().map(|record| record.shares.clone()),
        }
    }

    /// Describes the holding in a few words, for messages.
    pub(crate) fn describe(&self) -> String {
        let weights = |record: &Record| {
            let entry = |(name, share): (&String, &Share)| {
                let away = if share.away { " away" } else { "" };
                format!("{name} {} {}{away}", share.mode.name(), share.weight)
            };
            record.shares.0.iter().map(entry).collect::<Vec<_>>().join(", ")
        };
        match &self.holding {
            Holding::Nothing => "no record".to_owned(),
            Holding::Cname(provider) => format!("a plain CNAME to {provider}"),
            Holding::Ours(record) => weights(record),
            Holding::Edited(record, what) => format!("{} ({what})", weights(record)),
            Holding::Foreign(what) => what.clone(),
        }
    }
}

/// A node of a target at one service, with what the service has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub target: String,
    pub service: String,
    pub name: String,
    pub found: Found,
}

impl Node {
    /// Returns the name of the node and of the service, for messages.
    pub(crate) fn place(&self) -> String {
        place(&self.name, &self.service)
    }
}

pub(crate) fn place(node: &str, service: &str) -> String {
    format!("{node} at {service}")
}
