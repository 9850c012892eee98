//! The client of PowerDNS's HTTP API. It reads the records of a zone with GET and writes them with PATCH.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Answers, Failed, Wanted, Write, lua, query};
use crate::balance::api_call::{Caller, Repeats, Reply};
use crate::balance::balance_file::{ServiceKeys, TargetKeys};
use crate::balance::base_url::BaseUrl;
use crate::balance::node::{Found, Holding, Record};
use crate::keys::quote;
use crate::wire::names::X_API_KEY;

/// The type of a record with a program.
const LUA: &str = "LUA";
/// The number of lookups for each node after a change. Each lookup reports a random client address.
const SAMPLES: u32 = 8;

/// A PowerDNS server.
#[derive(Debug)]
pub(crate) struct PowerDns {
    name: String,
    url: BaseUrl,
    key: HeaderMap,
    limit: Duration,
    lookup: Option<SocketAddr>,
    caller: Caller,
}

impl PowerDns {
    pub(super) fn new(keys: &ServiceKeys, caller: Caller) -> Result<Self, String> {
        let (Some(url), Some(key)) = (&keys.url, &keys.key) else {
            return Err(format!("the DNS service {} has no url or no key", keys.name));
        };
        let mut value = HeaderValue::from_str(key.expose())
            .map_err(|_| format!("the key of the DNS service {} cannot be sent in a header field", keys.name))?;
        value.set_sensitive(true);
        Ok(Self {
            name: keys.name.clone(),
            url: url.clone(),
            key: HeaderMap::from_iter([(X_API_KEY.clone(), value)]),
            limit: keys.timeout,
            lookup: keys.lookup,
            caller,
        })
    }

    fn path(target: &TargetKeys) -> String {
        format!("/api/v1/servers/localhost/zones/{}.", target.zone)
    }

    fn named(&self, error: impl Display) -> String {
        format!("{}: {error}", self.name)
    }

    fn error(&self, target: &TargetKeys, reply: &Reply) -> String {
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let said = body.get("error").and_then(Value::as_str).map(|said| format!(": {}", quote(said)));
        let said = said.unwrap_or_default();
        let (name, status, zone) = (&self.name, reply.status, &target.zone);
        match status {
            401 | 403 => format!(
                "{name}: the API rejects the key ({status}); in balance.toml, the key of this DNS service must be the \
                 value of api-key in pdns.conf"
            ),
            404 => {
                format!("{name}: there is no zone {zone}{said}; create the zone, or correct the key zone of the target")
            }
            409 | 422 => format!("{name}: the API rejects the record ({status}{said})"),
            429 => format!("{name}: too many requests ({status}{said}); try again later"),
            _ => format!("{name}: the API failed ({status}{said})"),
        }
    }

    pub(super) async fn read(&self, target: &TargetKeys) -> Result<BTreeMap<String, Found>, String> {
        let reply = self.caller.call(&self.url, (Method::GET, &Self::path(target)), &self.key, b"", self.limit).await;
        let reply = reply.map_err(|error| self.named(error))?;
        if !(200..300).contains(&reply.status) {
            return Err(self.error(target, &reply));
        }
        let zone: Value = serde_json::from_slice(&reply.body)
            .map_err(|error| format!("{}: the zone {} is not JSON ({error})", self.name, target.zone))?;
        let Some(all) = zone.get("rrsets").and_then(Value::as_array) else {
            return Err(format!(
                "{}: the response for the zone {} has no list of records; is url the URL of the API of PowerDNS?",
                self.name, target.zone
            ));
        };
        let found = |node: &String| {
            let name = |rrset: &&Value| {
                let name = rrset.get("name").and_then(Value::as_str).unwrap_or_default();
                name.trim_end_matches('.').eq_ignore_ascii_case(node)
            };
            let mut own: Vec<&Value> = all.iter().filter(name).collect();
            own.sort_by_key(|rrset| kind(rrset));
            (node.clone(), Found { holding: holding(target, &own), raw: json!(own) })
        };
        Ok(target.nodes.iter().map(found).collect())
    }

    pub(super) async fn write(&self, target: &TargetKeys, writes: &[Write<'_>]) -> Result<(), Failed> {
        let rrsets: Vec<Value> = writes.iter().flat_map(|write| changes(target, write)).collect();
        let body = json!({ "rrsets": rrsets }).to_string();
        let path = Self::path(target);
        let mut repeats = Repeats::default();
        loop {
            let call = (Method::PATCH, path.as_str());
            let reply = self.caller.call_once(&self.url, call, &self.key, body.as_bytes(), self.limit).await;
            let reply = reply.map_err(|error| self.named(error))?;
            if (200..300).contains(&reply.status) {
                return Ok(());
            }
            // After a status from 400 to 499, nothing was written.
            let failed = |text| match reply.status {
                400..500 => Failed::Rejected(text),
                _ => Failed::Unknown(text),
            };
            if !repeats.wait(&reply).await {
                return Err(failed(self.error(target, &reply)));
            }
            // During the wait, another person can have changed the records.
            let found = self.read(target).await.map_err(failed)?;
            if writes.iter().any(|write| found.get(write.node).is_none_or(|found| found.raw != write.now.raw)) {
                let text = "someone has changed the records while the API asked to wait (Retry-After); look again, and \
                            repeat the command";
                return Err(failed(self.named(text)));
            }
        }
    }

    /// Looks the node up with the addresses of several clients. Each answer must be a CNAME to a served provider. If no
    /// provider is served, the answer must have no CNAME. PowerDNS accepts a LUA record whose program fails. Then
    /// clients get SERVFAIL.
    pub(super) async fn look_up(&self, target: &TargetKeys, node: &str, record: &Record) -> Answers {
        let address = match self.lookup {
            Some(address) => address,
            None => match first_address(self.limit, tokio::net::lookup_host((self.url.host.as_str(), 53))).await {
                Some(address) => address,
                None => return Answers::Unknown(format!("no address was found for the host {}", self.url.host)),
            },
        };
        let served: BTreeSet<&str> = record.weights.iter().map(|run| run.0.as_str()).collect();
        let expected = served.iter().copied().collect::<Vec<_>>().join(", ");
        for _ in 0..SAMPLES {
            let answer = query::cname(address, node, self.limit).await;
            let wrong = match answer {
                Err(error) => return Answers::Unknown(format!("a lookup at {address} failed ({error})")),
                Ok(query::Answer::Cname(cname)) => match target.provider_of(&cname) {
                    Some(provider) if served.contains(provider) => continue,
                    _ => format!("a CNAME to {}", quote(&cname)),
                },
                Ok(query::Answer::NoCname) if served.is_empty() => continue,
                Ok(query::Answer::NoCname) => "no CNAME".to_owned(),
                Ok(query::Answer::Error(code)) => code,
            };
            let expected = if expected.is_empty() { "no CNAME" } else { &expected };
            return Answers::Wrong(format!(
                "a lookup at {address} answers {wrong} instead of {expected}; if the answer is SERVFAIL, \
                 set enable-lua-records=yes in pdns.conf"
            ));
        }
        Answers::Right
    }
}

/// Returns the first address of a lookup. Returns `None` if no address is found within the time limit.
async fn first_address<I>(limit: Duration, lookup: impl Future<Output = io::Result<I>>) -> Option<SocketAddr>
where
    I: Iterator<Item = SocketAddr>,
{
    timeout(limit, lookup).await.ok()?.ok()?.next()
}

fn kind(rrset: &Value) -> String {
    rrset.get("type").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn holding(target: &TargetKeys, rrsets: &[&Value]) -> Holding {
    let contents = |rrset: &Value| -> Vec<String> {
        let records = rrset.get("records").and_then(Value::as_array);
        let content = |record: &Value| record.get("content").and_then(Value::as_str).unwrap_or_default().to_owned();
        records.map(|records| records.iter().map(content).collect()).unwrap_or_default()
    };
    // PowerDNS keeps a disabled record, and does not answer with it.
    let is_disabled = |rrset: &Value| {
        let records = rrset.get("records").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        records.iter().any(|record| record.get("disabled").and_then(Value::as_bool) == Some(true))
    };
    let kinds: Vec<String> = rrsets.iter().map(|rrset| kind(rrset)).collect();
    let described = |skipped: &str| {
        let parts = rrsets.iter().zip(&kinds).filter(|(_, kind)| *kind != skipped).map(|(rrset, kind)| {
            let disabled = if is_disabled(rrset) { "disabled " } else { "" };
            contents(rrset).iter().map(|content| format!("{disabled}{kind} {}", quote(content))).collect::<Vec<_>>()
        });
        parts.flatten().collect::<Vec<_>>().join(", ")
    };
    let foreign = || Holding::Foreign(format!("another record ({})", described("")));
    let [rrset] = rrsets else {
        // PowerDNS accepts other records beside a LUA record. Then the data of the LUA record is still read.
        let lua = rrsets.iter().find(|rrset| kind(rrset) == LUA).map(|rrset| contents(rrset));
        let lua = lua.as_deref().and_then(|contents| Some(lua::holding(target, contents.first()?)));
        return match lua {
            Some(Holding::Ours(record) | Holding::Edited(record, _)) => Holding::Edited(
                record,
                format!(
                    "the name also has records that edgeshim did not write ({}); a change deletes them",
                    described(LUA)
                ),
            ),
            _ if rrsets.is_empty() => Holding::Nothing,
            _ => foreign(),
        };
    };
    let contents = contents(rrset);
    let ([content], [kind]) = (contents.as_slice(), kinds.as_slice()) else { return foreign() };
    match kind.as_str() {
        "CNAME" if is_disabled(rrset) => foreign(),
        "CNAME" => target.provider_of(content).map_or_else(foreign, |provider| Holding::Cname(provider.to_owned())),
        LUA => match lua::holding(target, content) {
            Holding::Ours(record) if is_disabled(rrset) => {
                Holding::Edited(record, "the record is disabled in PowerDNS, so clients get no answer".to_owned())
            }
            Holding::Ours(record) if rrset.get("ttl").and_then(Value::as_u64) != Some(target.ttl.as_secs()) => {
                Holding::Edited(record, format!("its TTL is not {} s, the ttl in balance.toml", target.ttl.as_secs()))
            }
            holding => holding,
        },
        _ => foreign(),
    }
}

/// Returns the changes that replace the present record sets of a name by the wanted record sets.
fn changes(target: &TargetKeys, write: &Write<'_>) -> Vec<Value> {
    let name = format!("{}.", write.node);
    let wanted: Vec<Value> = match write.wanted {
        Wanted::Record(record) => vec![json!({
            "name": name,
            "type": LUA,
            "ttl": target.ttl.as_secs(),
            "records": [{ "content": lua::content(target, record), "disabled": false }],
        })],
        Wanted::Raw(raw) => raw.as_array().cloned().unwrap_or_default(),
    };
    let kinds: Vec<String> = wanted.iter().map(kind).collect();
    let present = write.now.raw.as_array().map(Vec::as_slice).unwrap_or_default();
    // The deletions come first, because PowerDNS accepts no other record beside a CNAME.
    let removed = present.iter().map(kind).filter(|kind| !kinds.contains(kind));
    let removed = removed.map(|kind| json!({ "name": name, "type": kind, "changetype": "DELETE" }));
    let mut changes: Vec<Value> = removed.collect();
    changes.extend(wanted.into_iter().map(|mut rrset| {
        rrset["changetype"] = "REPLACE".into();
        rrset
    }));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn address_when_lookup_never_ends_then_is_none_after_the_time_limit() {
        let never = std::future::pending::<io::Result<std::vec::IntoIter<SocketAddr>>>();
        assert_eq!(first_address(Duration::from_millis(1), never).await, None);
        let address = SocketAddr::from(([127, 0, 0, 1], 53));
        let ready = async { Ok(vec![address].into_iter()) };
        assert_eq!(first_address(Duration::from_mins(1), ready).await, Some(address));
    }
}
