//! The preview and the change that a person requests on the page. A preview writes nothing.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Number, Value, json};

use super::super::asked_values::{mode, permille, reason, weight};
use super::super::balance_file::TargetKeys;
use super::super::change::{Change, Made, Planned};
use super::super::journal::{Journal, NotBegun};
use super::super::plan::{Action, NodePlan, TargetPlan, Trouble};
use super::super::refuse::refusals;
use super::super::share::Share;
use super::super::tables::{Difference, differences};
use super::Page;

/// The longest reason, in characters.
const MAX_REASON_CHARS: usize = 500;

/// A response: its status and its JSON.
type Reply = (StatusCode, Value);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    targets: Vec<String>,
    provider: String,
    weight: Option<Number>,
    pct: Option<Number>,
    mode: Option<String>,
    why: Option<String>,
    force: Option<String>,
    /// The digest of the preview that the person has confirmed. Only a change needs this key.
    preview: Option<String>,
}

/// The requested change, after all values except `preview` have been checked.
struct Checked {
    targets: Vec<&'static TargetKeys>,
    action: Action,
    why: Option<String>,
    force: Option<String>,
    preview: Option<String>,
}

fn failed(status: StatusCode, errors: &[String]) -> Reply {
    (status, json!({ "errors": errors }))
}

fn bad(text: impl Into<String>) -> Reply {
    failed(StatusCode::BAD_REQUEST, &[text.into()])
}

fn unplanned(trouble: Trouble) -> Reply {
    match trouble {
        Trouble::Usage(text) => bad(text),
        Trouble::Refused(text) => failed(StatusCode::UNPROCESSABLE_ENTITY, &[text]),
        Trouble::Failed(texts) => failed(StatusCode::BAD_GATEWAY, &texts),
    }
}

impl Page {
    /// Computes a change, and lists the objections to the change. Writes nothing.
    pub(super) async fn preview(&self, body: &[u8]) -> Reply {
        let asked = match self.checked(body) {
            Ok(asked) => asked,
            Err(message) => return bad(message),
        };
        let journal = match self.journal().await {
            Ok(journal) => journal,
            Err(error) => return failed(StatusCode::INTERNAL_SERVER_ERROR, &[error]),
        };
        let change = self.of(&asked, String::new());
        let planned = match change.plan(asked.action.clone()).await {
            Ok(planned) => planned,
            Err(trouble) => return unplanned(trouble),
        };
        let warnings = self.cost_warnings(&planned.plan).await;
        (StatusCode::OK, self.shown(&planned, &journal, &warnings))
    }

    /// Makes a change that a person has confirmed. The change goes on even if the client closes the connection.
    pub(super) async fn change(&'static self, who: String, body: Bytes) -> Reply {
        let task = tokio::spawn(async move {
            let Ok(changing) = self.changing.try_lock() else {
                let text = "another change of this page is in progress; wait until it has ended, and look again";
                return failed(StatusCode::CONFLICT, &[text.to_owned()]);
            };
            let reply = self.make(who, &body).await;
            // This counts the change. The stored state of the nodes has the old count, so the page reads them again.
            self.changes.fetch_add(1, Ordering::Relaxed);
            drop(changing);
            reply
        });
        task.await.unwrap_or_else(|_| {
            let text =
                "a bug in edgeshim: the change has panicked; edgeshim balance status shows the state of the nodes";
            failed(StatusCode::INTERNAL_SERVER_ERROR, &[text.to_owned()])
        })
    }

    async fn make(&'static self, who: String, body: &[u8]) -> Reply {
        let asked = match self.checked(body) {
            Ok(asked) => asked,
            Err(message) => return bad(message),
        };
        let Some(preview) = &asked.preview else {
            return bad("the key \"preview\" is missing; copy its value from the response of /api/preview");
        };
        if !is_digest(preview) {
            return bad("the value of \"preview\" is not a digest; copy it from the response of /api/preview");
        }
        let journal = match self.journal().await {
            Ok(journal) => journal,
            Err(error) => return failed(StatusCode::INTERNAL_SERVER_ERROR, &[error]),
        };
        let change = self.of(&asked, who);
        let planned = match change.plan(asked.action.clone()).await {
            Ok(planned) => planned,
            Err(trouble) => return unplanned(trouble),
        };
        if planned.digest() != *preview {
            let text = "refused: DNS is no longer as it was shown, or the preview was for another change; nothing was \
                        changed; look at the new preview";
            return failed(StatusCode::CONFLICT, &[text.to_owned()]);
        }
        let is_interrupted = asked.targets.iter().any(|target| journal.unfinished.contains_key(&target.name));
        if !planned.plan.is_changed() && !is_interrupted {
            return (StatusCode::OK, json!({ "is_changed": false, "nodes": nodes(&planned), "warnings": [] }));
        }
        let objections = change.objections(&planned.plan, &journal);
        if !objections.refused.is_empty() {
            return failed(StatusCode::UNPROCESSABLE_ENTITY, &objections.refused);
        }
        let writer = match change.begin(&planned).await {
            Ok(writer) => writer,
            Err(NotBegun { is_conflict: true, texts }) => return failed(StatusCode::CONFLICT, &texts),
            Err(NotBegun { texts, .. }) => return failed(StatusCode::BAD_GATEWAY, &texts),
        };
        match change.make(&planned, writer).await {
            Ok(Made { entry, warnings }) => {
                let value = json!({
                    "is_changed": true,
                    "id": entry.id,
                    "result": entry.result,
                    "nodes": nodes(&planned),
                    "warnings": warnings,
                });
                (StatusCode::OK, value)
            }
            Err(texts) => failed(StatusCode::BAD_GATEWAY, &texts),
        }
    }

    fn of<'p>(&'p self, asked: &Checked, who: String) -> Change<'p> {
        Change {
            file: self.file,
            caller: &self.caller,
            services: &self.services,
            targets: asked.targets.clone(),
            who,
            why: asked.why.clone(),
            force: asked.force.clone(),
        }
    }

    /// Reads and checks the requested change.
    ///
    /// # Errors
    /// Returns what is wrong, and what to write instead.
    fn checked(&self, body: &[u8]) -> Result<Checked, String> {
        let asked: Asked = serde_json::from_slice(body).map_err(|error| {
            format!(
                "the body is not the expected JSON ({error}); write for example {{\"targets\":[\"images\"],\
                 \"provider\":\"fastly\",\"pct\":5}}"
            )
        })?;
        let mut targets = Vec::new();
        for name in &asked.targets {
            let Some(target) = self.file.target(name) else {
                let known: Vec<&str> = self.file.targets.iter().map(|target| target.name.as_str()).collect();
                return Err(format!("there is no target {name:?}; write one of {}", known.join(", ")));
            };
            if !target.providers.contains_key(&asked.provider) {
                let names: Vec<&str> = target.providers.keys().map(String::as_str).collect();
                return Err(format!(
                    "the target {} has no provider {:?}; write one of {}",
                    target.name,
                    asked.provider,
                    names.join(", ")
                ));
            }
            if !targets.iter().any(|known: &&TargetKeys| known.name == *name) {
                targets.push(target);
            }
        }
        if targets.is_empty() {
            return Err("targets is empty; write at least one target".to_owned());
        }
        let value = |key: &str, parse: fn(&str) -> Result<u32, String>, number: Option<&Number>| {
            number.map(|number| parse(&number.to_string()).map_err(|error| format!("{key}: {error}"))).transpose()
        };
        let new_weight = value("weight", weight, asked.weight.as_ref())?;
        let new_permille = value("pct", permille, asked.pct.as_ref())?;
        let new_mode = asked.mode.as_deref().map(mode).transpose().map_err(|error| format!("mode: {error}"))?;
        if new_weight.is_some() && new_permille.is_some() {
            return Err("weight and pct cannot be changed together; write one of them".to_owned());
        }
        if new_weight.is_none() && new_permille.is_none() && new_mode.is_none() {
            return Err("there is nothing to change; write weight, pct or mode".to_owned());
        }
        let short = |key: &str, text: Option<String>| match text {
            Some(text) if text.chars().count() > MAX_REASON_CHARS => {
                Err(format!("{key} is too long; write at most {MAX_REASON_CHARS} characters"))
            }
            text => Ok(text),
        };
        let force = asked.force.as_deref().map(reason).transpose().map_err(|error| format!("force: {error}"))?;
        Ok(Checked {
            targets,
            action: Action::Set {
                provider: asked.provider,
                weight: new_weight,
                mode: new_mode,
                permille: new_permille,
            },
            why: short("why", asked.why)?,
            force: short("force", force)?,
            preview: asked.preview,
        })
    }

    fn shown(&self, planned: &Planned, journal: &Journal, warnings: &[String]) -> Value {
        let refusals: Vec<Value> = refusals(self.file, &planned.plan, journal)
            .into_iter()
            .map(|refusal| json!({ "text": refusal.text, "can_be_forced": refusal.can_be_forced }))
            .collect();
        let target = |target: &TargetPlan| {
            let providers: Vec<Value> = differences(target).iter().map(difference).collect();
            json!({ "name": target.name, "providers": providers })
        };
        json!({
            "preview": planned.digest(),
            "is_changed": planned.plan.is_changed(),
            "targets": planned.plan.targets.iter().map(target).collect::<Vec<_>>(),
            "nodes": nodes(planned),
            "refusals": refusals,
            "warnings": warnings,
        })
    }
}

/// Returns whether a text has the form of [`Planned::digest`].
fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn difference(difference: &Difference) -> Value {
    let share = |share: Option<Share>, text: &str| {
        share.map(
            |share| json!({ "mode": share.mode.name(), "weight": share.weight, "away": share.away, "share": text }),
        )
    };
    json!({
        "name": difference.name,
        "old": share(difference.old, &difference.old_share),
        "new": share(difference.new, &difference.new_share),
        "points": difference.points,
    })
}

fn nodes(planned: &Planned) -> Vec<Value> {
    let node = |plan: &NodePlan| {
        json!({
            "target": plan.node.target,
            "node": plan.node.name,
            "service": plan.node.service,
            "had": plan.node.found.describe(),
            "is_changed": plan.is_changed(),
        })
    };
    planned.plan.targets.iter().flat_map(|target| &target.nodes).map(node).collect()
}
