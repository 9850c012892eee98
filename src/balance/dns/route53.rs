//! The client of Route 53 of AWS. It lists the record sets of each node with GET, and changes all nodes of a target
//! with one batch. Route 53 makes all changes of a batch or none.
//!
//! A batch deletes each record set that it replaces, with exactly the content that was read. If someone has changed
//! this record set since the reading, Route 53 rejects the batch. So the change of another person is not overwritten.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use super::aws_signature::{Signed, Signer, query, timestamp};
use super::record_sets::{self, RecordSet};
use super::xml_tree::Element;
use super::{Failed, Wanted, Write};
use crate::balance::api_call::{Caller, Reply};
use crate::balance::balance_file::{ServiceKeys, TargetKeys};
use crate::balance::base_url::BaseUrl;
use crate::balance::node::Found;
use crate::clock;
use crate::keys::quote;
use crate::wire::names::{AUTHORIZATION, CONTENT_TYPE, X_AMZ_DATE};
use crate::wire::secret::Secret;

/// The region that signatures for Route 53 must have.
const REGION: &str = "us-east-1";
const VERSION: &str = "/2013-04-01";
const NAMESPACE: &str = "https://route53.amazonaws.com/doc/2013-04-01/";
/// The largest number of pages that are read for one node. A page has up to 300 record sets.
const MAX_PAGES: u32 = 20;
/// The limits of Route 53 for one batch: the number of records and the length of their values. A record that is written
/// with UPSERT counts twice.
const MAX_RECORDS: usize = 1000;
const MAX_VALUE_BYTES: usize = 32_000;
/// The largest number of repeats of a call while Route 53 accepts no more requests.
const MAX_REPEATS: u32 = 5;
/// The wait before the first repeat. The wait doubles with each repeat, and a random factor from 0.5 to 1.5 is applied
/// to each wait.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The longest wait until all DNS servers of Route 53 have the changes. Usually the wait is shorter than a minute.
const IN_SYNC_LIMIT: Duration = Duration::from_mins(3);
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// A hosted zone of Route 53.
#[derive(Debug)]
pub(crate) struct Route53 {
    name: String,
    url: BaseUrl,
    key: Secret,
    secret: Secret,
    zone_id: String,
    limit: Duration,
    caller: Caller,
    /// The ids of the changes that some DNS servers of Route 53 do not have yet.
    pending: Mutex<Vec<String>>,
}

/// Why a call failed.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// The call could not be sent, or no complete and valid response arrived.
    Exchange(String),
    /// Route 53 reports an error.
    Reported { status: u16, code: String, text: String },
}

impl Trouble {
    fn read(reply: &Reply) -> Self {
        let document = Element::parse(&reply.body).unwrap_or_default();
        // A rejected batch has a list of messages. Other errors have one element Error.
        let (code, texts) = match (document.name.as_str(), document.child("Error")) {
            ("InvalidChangeBatch", _) => {
                let messages = document.child("Messages").map(|list| list.children.as_slice()).unwrap_or_default();
                ("InvalidChangeBatch", messages.iter().map(|message| message.text.as_str()).collect())
            }
            (_, Some(error)) => {
                (error.text_of("Code").unwrap_or_default(), vec![error.text_of("Message").unwrap_or_default()])
            }
            _ => ("", vec![]),
        };
        Self::Reported { status: reply.status, code: code.to_owned(), text: texts.join(" ").trim().to_owned() }
    }

    /// Returns whether Route 53 has rejected the call only because there are too many calls, or because an earlier call
    /// still runs. Then the call had no effect.
    fn is_temporary(&self) -> bool {
        let codes = ["Throttling", "ThrottlingException", "PriorRequestNotComplete"];
        matches!(self, Self::Reported { code, .. } if codes.contains(&code.as_str()))
    }

    /// Returns whether Route 53 has rejected the call with a status from 400 to 499, so that the call had no effect.
    fn is_rejection(&self) -> bool {
        matches!(self, Self::Reported { status: 400..500, .. })
    }

    fn message(&self, zone_id: &str) -> String {
        let Self::Reported { status, code, text } = self else {
            let Self::Exchange(text) = self else { unreachable!("there are two kinds of trouble") };
            return text.clone();
        };
        let text = if text.is_empty() { String::new() } else { format!(": {}", quote(text)) };
        let name = if code.is_empty() { status.to_string() } else { format!("{status} {}", quote(code)) };
        let (what, remedy) = match code.as_str() {
            "InvalidClientTokenId" | "UnrecognizedClientException" => {
                ("AWS does not know the key", "correct the value of key")
            }
            "SignatureDoesNotMatch" | "IncompleteSignature" => {
                ("AWS rejects the signature", "correct the value of secret, and check the clock of this machine")
            }
            "RequestExpired" => ("AWS rejects the time of the request", "check the clock of this machine"),
            "AccessDenied" | "AccessDeniedException" => (
                "the key does not have all permissions",
                "it needs route53:ListResourceRecordSets, route53:ChangeResourceRecordSets and route53:GetChange",
            ),
            "NoSuchHostedZone" => {
                return format!(
                    "there is no hosted zone {zone_id} ({name}{text}); correct the value of zone_id, for example \
                     \"Z148QEXAMPLE8V\""
                );
            }
            "InvalidChangeBatch" => (
                "Route 53 rejects the change",
                "if a record was not found, someone has changed it meanwhile; look again, and repeat the command",
            ),
            _ if self.is_temporary() => ("Route 53 accepts no more requests at the moment", "try again later"),
            _ => return format!("Route 53 failed ({name}{text})"),
        };
        format!("{what} ({name}{text}); {remedy}")
    }
}

impl Route53 {
    pub(super) fn new(keys: &ServiceKeys, caller: Caller) -> Result<Self, String> {
        let (Some(key), Some(secret), Some(zone_id)) = (&keys.key, &keys.secret, &keys.zone_id) else {
            return Err(format!("the DNS service {} has no key, no secret or no zone_id", keys.name));
        };
        let aws = BaseUrl { tls: true, host: "route53.amazonaws.com".to_owned(), port: 443, path: String::new() };
        Ok(Self {
            name: keys.name.clone(),
            url: keys.url.clone().unwrap_or(aws),
            key: key.clone(),
            secret: secret.clone(),
            zone_id: zone_id.clone(),
            limit: keys.timeout,
            caller,
            pending: Mutex::default(),
        })
    }

    /// Makes a call. While Route 53 accepts no more requests, repeats the call up to `MAX_REPEATS` times.
    async fn call(&self, method: Method, path: &str, query: &str, body: &str) -> Result<Element, Trouble> {
        let mut wait = FIRST_WAIT;
        for repeat in 0.. {
            let trouble = match self.exchange(&method, path, query, body).await {
                Ok(element) => return Ok(element),
                Err(trouble) => trouble,
            };
            if repeat >= MAX_REPEATS || !trouble.is_temporary() {
                return Err(trouble);
            }
            // Because of the random factor, several programs do not repeat their calls at the same time.
            sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
            wait *= 2;
        }
        Err(Trouble::Exchange("no response".to_owned()))
    }

    fn message(&self, trouble: &Trouble) -> String {
        format!("{}: {}", self.name, trouble.message(&self.zone_id))
    }

    async fn exchange(&self, method: &Method, path: &str, query: &str, body: &str) -> Result<Element, Trouble> {
        let full_path = format!("{}{VERSION}{path}", self.url.path);
        let now = OffsetDateTime::from_unix_timestamp(i64::try_from(clock::unix_time().as_secs()).unwrap_or(0));
        let date = timestamp(now.unwrap_or(OffsetDateTime::UNIX_EPOCH));
        let signer =
            Signer { key: self.key.expose(), secret: self.secret.expose(), region: REGION, service: "route53" };
        let authorization = signer.authorization(Signed {
            method: method.as_str(),
            host: &self.url.host_field(),
            path: &full_path,
            query,
            date: &date,
            body: body.as_bytes(),
        });
        let value = |text: &str| {
            HeaderValue::from_str(text)
                .map_err(|_| Trouble::Exchange("key cannot be sent in a header field".to_owned()))
        };
        let mut authorization = value(&authorization)?;
        authorization.set_sensitive(true);
        let mut fields = HeaderMap::from_iter([(AUTHORIZATION, authorization), (X_AMZ_DATE.clone(), value(&date)?)]);
        if !body.is_empty() {
            fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/xml"));
        }
        let question = if query.is_empty() { "" } else { "?" };
        let target = format!("{VERSION}{path}{question}{query}");
        let reply = self.caller.call(&self.url, (method.clone(), &target), &fields, body.as_bytes(), self.limit).await;
        let reply = reply.map_err(Trouble::Exchange)?;
        if !(200..300).contains(&reply.status) {
            return Err(Trouble::read(&reply));
        }
        let failed = |error| {
            let url = &self.url;
            Trouble::Exchange(format!("the response is not XML of Route 53 ({error}); is {url} the API of Route 53?"))
        };
        Element::parse(&reply.body).map_err(failed)
    }

    pub(super) async fn read(&self, target: &TargetKeys) -> Result<BTreeMap<String, Found>, String> {
        let mut all = BTreeMap::new();
        for node in &target.nodes {
            let mut elements = self.list(node).await?;
            elements.sort_by_cached_key(|element| {
                let set = RecordSet::read(element);
                (set.kind, set.identifier)
            });
            let sets: Vec<RecordSet> = elements.iter().map(RecordSet::read).collect();
            let raw: Vec<String> = elements.iter().map(ToString::to_string).collect();
            all.insert(node.clone(), Found { holding: record_sets::holding(target, &sets), raw: json!(raw) });
        }
        Ok(all)
    }

    /// Lists the record sets under a name. The list of Route 53 begins with this name and continues with later names.
    /// The record sets of these later names are left out.
    async fn list(&self, node: &str) -> Result<Vec<Element>, String> {
        let path = format!("/hostedzone/{}/rrset", self.zone_id);
        let name = format!("{node}.");
        let mut found = Vec::new();
        let (mut kind, mut identifier) = (String::new(), String::new());
        for _ in 0..MAX_PAGES {
            let mut pairs = vec![("name", name.as_str())];
            pairs.extend(
                [("type", kind.as_str()), ("identifier", &identifier)].iter().filter(|pair| !pair.1.is_empty()),
            );
            let page = self.call(Method::GET, &path, &query(&pairs), "").await;
            let page = page.map_err(|trouble| self.message(&trouble))?;
            let Some(sets) = page.child("ResourceRecordSets") else {
                return Err(format!(
                    "{}: the response has no list of record sets; is {} the API of Route 53?",
                    self.name, self.url
                ));
            };
            let own = sets.children.iter().filter(|element| RecordSet::read(element).is_of(node));
            found.extend(own.cloned());
            let next = page.text_of("NextRecordName").unwrap_or_default();
            let is_last = page.text_of("IsTruncated") != Some("true")
                || !next.strip_suffix('.').unwrap_or(next).eq_ignore_ascii_case(node);
            if is_last {
                return Ok(found);
            }
            page.text_of("NextRecordType").unwrap_or_default().clone_into(&mut kind);
            page.text_of("NextRecordIdentifier").unwrap_or_default().clone_into(&mut identifier);
        }
        Err(format!("{}: {node} has record sets on more than {MAX_PAGES} pages; remove unused record sets", self.name))
    }

    pub(super) async fn write(&self, target: &TargetKeys, writes: &[Write<'_>]) -> Result<(), Failed> {
        let changes = changes(target, writes).map_err(|error| Failed::Rejected(format!("{}: {error}", self.name)))?;
        if changes.is_empty() {
            return Ok(());
        }
        let comment = Element::with_text("Comment", "edgeshim balance");
        let batch = Element::new("ChangeBatch", vec![comment, Element::new("Changes", changes)]);
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ChangeResourceRecordSetsRequest xmlns=\"{NAMESPACE}\">{batch}\
             </ChangeResourceRecordSetsRequest>"
        );
        let path = format!("/hostedzone/{}/rrset", self.zone_id);
        let answer = self.call(Method::POST, &path, "", &body).await.map_err(|trouble| {
            let text = self.message(&trouble);
            if trouble.is_rejection() { Failed::Rejected(text) } else { Failed::Unknown(text) }
        })?;
        let info = answer.child("ChangeInfo");
        let text = |name| info.and_then(|info| info.text_of(name)).unwrap_or_default();
        if text("Status") != "INSYNC" {
            self.pending().push(text("Id").to_owned());
        }
        Ok(())
    }

    fn pending(&self) -> MutexGuard<'_, Vec<String>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all DNS servers of Route 53 have the changes. Returns an error if a call fails, or after
    /// `IN_SYNC_LIMIT`. The caller may drop the future, and call this function again.
    pub(super) async fn settle(&self) -> Result<(), String> {
        let end = Instant::now() + IN_SYNC_LIMIT;
        loop {
            let Some(id) = self.pending().first().cloned() else { return Ok(()) };
            let settled = self.in_sync(&id, end).await;
            self.pending().retain(|other| *other != id);
            settled?;
        }
    }

    /// Waits until all DNS servers of Route 53 have a change. Returns an error if a call fails, or if `end` is near.
    async fn in_sync(&self, id: &str, end: Instant) -> Result<(), String> {
        // The identifier becomes a part of a path, so only letters and digits are accepted.
        let short = id.strip_prefix("/change/").unwrap_or(id);
        if short.is_empty() || !short.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(format!("the change has no valid Id ({})", quote(id)));
        }
        loop {
            let answer = self.call(Method::GET, &format!("/change/{short}"), "", "").await;
            let answer = answer.map_err(|trouble| trouble.message(&self.zone_id))?;
            if answer.child("ChangeInfo").and_then(|info| info.text_of("Status")) == Some("INSYNC") {
                return Ok(());
            }
            if Instant::now() + BETWEEN_LOOKS > end {
                return Err(format!("the change {short} is not INSYNC after {} s", IN_SYNC_LIMIT.as_secs()));
            }
            sleep(BETWEEN_LOOKS).await;
        }
    }
}

/// Returns the changes of a batch, without the record sets that stay equal. All deletions come before the first new
/// record set, because Route 53 accepts no weighted record beside a record without a weight.
fn changes(target: &TargetKeys, writes: &[Write<'_>]) -> Result<Vec<Element>, String> {
    let (mut deletes, mut upserts) = (Vec::new(), Vec::new());
    for write in writes {
        let present = elements_of(&write.now.raw)?;
        let wanted = match write.wanted {
            Wanted::Record(record) => record_sets::elements(target, write.node, record),
            Wanted::Raw(raw) => elements_of(raw)?,
        };
        let minus = |all: &[Element], others: &[Element]| -> Vec<Element> {
            let others: Vec<RecordSet> = others.iter().map(RecordSet::read).collect();
            all.iter().filter(|element| !others.contains(&RecordSet::read(element))).cloned().collect()
        };
        deletes.extend(minus(&present, &wanted));
        upserts.extend(minus(&wanted, &present));
    }
    let size = |elements: &[Element]| {
        let lists = elements.iter().filter_map(|element| element.child("ResourceRecords"));
        let values = lists.flat_map(|list| &list.children).filter_map(|record| record.text_of("Value"));
        values.fold((0, 0), |(count, bytes), value| (count + 1, bytes + value.len()))
    };
    let (old, new) = (size(&deletes), size(&upserts));
    let (count, bytes) = (old.0 + 2 * new.0, old.1 + 2 * new.1);
    if count > MAX_RECORDS || bytes > MAX_VALUE_BYTES {
        return Err(format!(
            "for Route 53, the change counts as {count} records with {bytes} bytes, and one batch can have \
             {MAX_RECORDS} records with {MAX_VALUE_BYTES} bytes; divide the nodes of {} among several targets",
            target.name
        ));
    }
    let change = |action: &'static str| {
        move |element| Element::new("Change", vec![Element::with_text("Action", action), element])
    };
    Ok(deletes.into_iter().map(change("DELETE")).chain(upserts.into_iter().map(change("UPSERT"))).collect())
}

/// Reads the record sets from [`Found::raw`], where [`Route53::read`] has stored them as XML.
fn elements_of(raw: &Value) -> Result<Vec<Element>, String> {
    let texts = raw.as_array().map(Vec::as_slice).unwrap_or_default();
    texts.iter().map(|text| Element::parse(text.as_str().unwrap_or_default().as_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::dns::sample_target as target;
    use crate::balance::node::{Holding, Record};
    use crate::balance::share::{Mode, Share, Shares};

    fn record(a: u32) -> Record {
        let shares = [("a", Share::new(Mode::Obey, a)), ("b", Share::new(Mode::Obey, 15))];
        Record {
            shares: Shares(shares.map(|(name, share)| (name.to_owned(), share)).into()),
            weights: vec![("a".to_owned(), a), ("b".to_owned(), 15)],
        }
    }

    fn found(elements: &[Element]) -> Found {
        let raw: Vec<String> = elements.iter().map(ToString::to_string).collect();
        Found { holding: Holding::Nothing, raw: json!(raw) }
    }

    fn summary(changes: &[Element]) -> Vec<String> {
        let line = |change: &Element| {
            let set = RecordSet::read(&change.children[1]);
            format!("{} {}", change.children[0].text, set.identifier.unwrap_or(set.kind))
        };
        changes.iter().map(line).collect()
    }

    #[test]
    fn batch_when_one_weight_changes_then_deletes_record_as_read_and_omits_equal_records() {
        let old = record_sets::elements(&target(), "img.example.com", &record(5));
        let now = found(&old);
        let (after, same) = (record(6), record(5));
        let write = |wanted| [Write { node: "img.example.com", now: &now, wanted }];
        let batch = changes(&target(), &write(Wanted::Record(&after))).expect("a batch");
        assert_eq!(summary(&batch), ["DELETE edgeshim a obey 5", "UPSERT edgeshim a obey 6"]);
        assert_eq!(batch[0].children[1], old[0], "the deleted record set must have the content that was read");
        assert_eq!(changes(&target(), &write(Wanted::Record(&same))), Ok(vec![]));
        let nothing = json!([]);
        let batch = changes(&target(), &write(Wanted::Raw(&nothing))).expect("a batch");
        assert_eq!(summary(&batch), ["DELETE edgeshim a obey 5", "DELETE edgeshim b obey 15"]);
    }

    #[test]
    fn batch_when_name_has_a_plain_cname_then_deletes_cname_before_weighted_records() {
        let value = Element::new("ResourceRecord", vec![Element::with_text("Value", "a.example.net")]);
        let cname = Element::new(
            "ResourceRecordSet",
            vec![
                Element::with_text("Name", "img.example.com."),
                Element::with_text("Type", "CNAME"),
                Element::with_text("TTL", "300"),
                Element::new("ResourceRecords", vec![value]),
            ],
        );
        let (now, after) = (found(std::slice::from_ref(&cname)), record(5));
        let write = Write { node: "img.example.com", now: &now, wanted: Wanted::Record(&after) };
        let batch = changes(&target(), &[write]).expect("a batch");
        assert_eq!(summary(&batch), ["DELETE CNAME", "UPSERT edgeshim a obey 5", "UPSERT edgeshim b obey 15"]);
        assert_eq!(batch[0].children[1], cname);
    }

    #[test]
    fn batch_when_larger_than_route_53_accepts_then_is_rejected_before_the_call() {
        let (now, after) = (found(&[]), record(5));
        let write = || Write { node: "img.example.com", now: &now, wanted: Wanted::Record(&after) };
        assert!(changes(&target(), &(0..250).map(|_| write()).collect::<Vec<_>>()).is_ok());
        let error = changes(&target(), &(0..251).map(|_| write()).collect::<Vec<_>>()).expect_err("too large");
        assert!(error.contains("1004 records") && error.contains("divide the nodes"), "{error}");
    }

    #[test]
    fn error_of_route_53_when_reported_then_message_names_the_cause() {
        let error = |code: &str| {
            format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>why</Message></Error>\
                 <RequestId>1</RequestId></ErrorResponse>"
            )
        };
        let batch = "<InvalidChangeBatch xmlns=\"x\"><Messages><Message>not found</Message></Messages>\
                     <RequestId>1</RequestId></InvalidChangeBatch>";
        for (status, body, part) in [
            (403, error("InvalidClientTokenId"), "AWS does not know the key (403 \"InvalidClientTokenId\": \"why\")"),
            (403, error("SignatureDoesNotMatch"), "correct the value of secret, and check the clock"),
            (403, error("RequestExpired"), "check the clock"),
            (403, error("AccessDenied"), "it needs route53:ListResourceRecordSets"),
            (404, error("NoSuchHostedZone"), "there is no hosted zone Z1"),
            (400, batch.to_owned(), "rejects the change (400 \"InvalidChangeBatch\": \"not found\")"),
            (400, error("Throttling"), "accepts no more requests at the moment"),
            (400, error("InvalidInput"), "Route 53 failed (400 \"InvalidInput\": \"why\")"),
            (500, String::new(), "Route 53 failed (500)"),
            (500, "<html>".to_owned(), "Route 53 failed (500)"),
        ] {
            let trouble = Trouble::read(&Reply { status, body: body.clone().into(), retry_after: None });
            assert!(trouble.message("Z1").contains(part), "{}", trouble.message("Z1"));
            assert_eq!(trouble.is_temporary(), body.contains("Throttling"), "{body}");
        }
    }
}
