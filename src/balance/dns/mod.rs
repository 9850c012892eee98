//! The DNS services: one interface, and one file for each kind of service.

mod external;
mod lua;
mod powerdns;
mod query;

use std::collections::BTreeMap;

use serde_json::Value;

use self::external::External;
use self::powerdns::PowerDns;
use super::api_call::Caller;
use super::balance_file::{ServiceKeys, ServiceKind, TargetKeys};
use super::node::{Found, Record};

/// What to write under one name.
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
    /// What the service reported before a change.
    Raw(&'p Value),
}

/// The result of lookups after a change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// The answers are right, or the service has nothing to ask.
    Right,
    /// No answer arrived, so nothing is known.
    Unknown(String),
    /// An answer is wrong.
    Wrong(String),
}

/// A DNS service.
#[derive(Debug)]
pub(crate) enum Service {
    PowerDns(PowerDns),
    External(External),
}

impl Service {
    /// # Errors
    /// Returns a message if the keys cannot be used.
    pub(crate) fn new(keys: &ServiceKeys, caller: Caller) -> Result<Self, String> {
        match keys.kind {
            ServiceKind::PowerDns => PowerDns::new(keys, caller).map(Self::PowerDns),
            ServiceKind::Command => Ok(Self::External(External::new(keys, caller.is_verbose))),
        }
    }

    /// Reads what is under the nodes of a target.
    ///
    /// # Errors
    /// Returns a message if the service fails.
    pub(crate) async fn read(&self, target: &TargetKeys) -> Result<BTreeMap<String, Found>, String> {
        match self {
            Self::PowerDns(service) => service.read(target).await,
            Self::External(service) => service.read(target).await,
        }
    }

    /// Writes several nodes of a target. PowerDNS writes all of them or none.
    ///
    /// # Errors
    /// Returns a message if the service fails. Then it is not known whether the service has written.
    pub(crate) async fn write(&self, target: &TargetKeys, writes: &[Write<'_>]) -> Result<(), String> {
        match self {
            Self::PowerDns(service) => service.write(target, writes).await,
            Self::External(service) => service.write(target, writes).await,
        }
    }

    /// Looks the node up, as a client does.
    pub(crate) async fn look_up(&self, target: &TargetKeys, node: &str, record: &Record) -> Answers {
        match self {
            Self::PowerDns(service) => service.look_up(target, node, record).await,
            Self::External(_) => Answers::Right,
        }
    }
}
