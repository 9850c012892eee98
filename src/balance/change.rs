//! The steps of a change: read the nodes, compute and check the plan, lock the journal, write the records, read the
//! records again to check them, write the result into the journal, and announce the change. Until the records are
//! written, the caller decides after each step whether to go on.

use sha2::{Digest as _, Sha256};

use super::announce::announce;
use super::api_call::Caller;
use super::balance_file::{BalanceFile, TargetKeys};
use super::journal::{DONE, Entry, Journal, NotBegun, STARTED, Writer, new_id, now};
use super::node::Node;
use super::plan::{Action, Plan, Trouble, compute};
use super::refuse::refusals;
use super::transaction::{Outcome, Services};
use crate::wire::hex;

/// A change of some targets, by a person, by a ramp or by `watch`.
#[derive(Debug)]
pub(crate) struct Change<'f> {
    pub file: &'f BalanceFile,
    pub caller: &'f Caller,
    pub services: &'f Services<'f>,
    pub targets: Vec<&'f TargetKeys>,
    /// Who makes the change.
    pub who: String,
    pub why: Option<String>,
    /// The reason after `--force`. With a reason, refusals that can be forced do not stop the change.
    pub force: Option<String>,
}

/// A plan, and the nodes from which the plan was computed.
#[derive(Debug)]
pub(crate) struct Planned {
    pub plan: Plan,
    nodes: Vec<Node>,
}

impl Planned {
    /// Returns a hash of the plan and of the nodes as they were read. Two plans have the same hash only if they write
    /// the same records and were computed from the same records. Hashes of different versions of edgeshim cannot be
    /// compared.
    pub(crate) fn digest(&self) -> String {
        hex::text(&Sha256::digest(format!("{:?} {:?}", self.plan, self.nodes)))
    }
}

/// What speaks against a plan.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Objections {
    /// The reasons why the change is not made. Empty if the change may be made.
    pub refused: Vec<String>,
    /// Whether `force` would overrule all of these reasons.
    pub can_all_be_forced: bool,
    /// The reasons that `force` overrules.
    pub forced: Vec<String>,
}

/// A change that was made.
#[derive(Debug)]
pub(crate) struct Made {
    /// The second line of the change in the journal.
    pub entry: Entry,
    /// The warnings: lookups that were not possible, shims that did not get the announcement, and services whose DNS
    /// servers may not have the change yet.
    pub warnings: Vec<String>,
}

impl Change<'_> {
    /// Reads the nodes and computes the plan.
    ///
    /// # Errors
    /// Returns why there is no plan.
    pub(crate) async fn plan(&self, action: Action) -> Result<Planned, Trouble> {
        let nodes = self.services.read(&self.targets).await.map_err(Trouble::Failed)?;
        let plan = compute(self.file, &self.targets, &nodes, action)?;
        Ok(Planned { plan, nodes })
    }

    /// Returns what speaks against a plan.
    pub(crate) fn objections(&self, plan: &Plan, journal: &Journal) -> Objections {
        let mut objections = Objections { can_all_be_forced: true, ..Objections::default() };
        for refusal in refusals(self.file, plan, journal) {
            objections.can_all_be_forced &= refusal.can_be_forced;
            if refusal.can_be_forced && self.force.is_some() {
                objections.forced.push(refusal.text);
            } else {
                objections.refused.push(format!("refused: {}", refusal.text));
            }
        }
        if !objections.refused.is_empty() {
            objections.refused.push("nothing was changed".to_owned());
        }
        objections
    }

    /// Locks the journal, and checks that the nodes are still as they were when the plan was computed.
    ///
    /// # Errors
    /// Returns why the change is not made.
    pub(crate) async fn begin(&self, planned: &Planned) -> Result<Writer, NotBegun> {
        let writer = Writer::open(&self.file.journal, &self.who)?;
        if self.services.read(&self.targets).await.map_err(NotBegun::failed)? != planned.nodes {
            let text = "refused: DNS is no longer as it was shown, because someone else has changed it; nothing was \
                        changed; look at the weights and try again";
            return Err(NotBegun::conflict(text.to_owned()));
        }
        Ok(writer)
    }

    /// Writes the plan, announces the change to the shims, and waits until the DNS servers have the change.
    ///
    /// # Errors
    /// Returns why the change was not made, and the nodes that could not be put back.
    pub(crate) async fn make(&self, planned: &Planned, writer: Writer) -> Result<Made, Vec<String>> {
        let mut made = self.write(planned, writer).await?;
        let announced = announce(self.file, self.caller, &made.entry);
        let (announced, settled) = tokio::join!(announced, self.services.settle());
        made.warnings.extend(announced.into_iter().chain(settled));
        Ok(made)
    }

    /// Writes the plan, and then unlocks the journal. After that, the caller announces the change, and waits until
    /// Route 53 reports that its DNS servers have the change. This wait can take minutes.
    ///
    /// # Errors
    /// Returns why the change was not made, and the nodes that could not be put back.
    pub(crate) async fn write(&self, planned: &Planned, mut writer: Writer) -> Result<Made, Vec<String>> {
        let plan = &planned.plan;
        let mut entry = self.entry(plan);
        writer.append(&entry).map_err(|error| vec![format!("{error}; nothing was changed")])?;
        let outcome = self.services.apply(plan).await;
        (entry.time, entry.result) = (now(), result(&outcome));
        if let Err(error) = writer.append(&entry) {
            return Err(self.unwritten(plan, outcome, &error).await);
        }
        drop(writer);
        let unknown = match outcome {
            Outcome::Done(unknown) => unknown,
            Outcome::PutBack(error) => return Err(put_back(vec![error], Vec::new())),
            Outcome::Split { error, differences } => return Err(put_back(vec![error], differences)),
        };
        let not_looked_up = |text| format!("the new records are written, but not looked up: {text}");
        Ok(Made { entry, warnings: unknown.into_iter().map(not_looked_up).collect() })
    }

    /// Returns the first line of the change for the journal.
    fn entry(&self, plan: &Plan) -> Entry {
        Entry {
            time: now(),
            id: new_id(),
            who: self.who.clone(),
            action: plan.action.to_string(),
            provider: plan.action.provider().map(str::to_owned),
            from: plan.targets.iter().map(|target| (target.name.clone(), target.before.clone())).collect(),
            to: plan.targets.iter().map(|target| (target.name.clone(), target.after.clone())).collect(),
            why: self.why.clone().filter(|why| !why.trim().is_empty()),
            force: self.force.clone(),
            result: STARTED.to_owned(),
        }
    }

    /// Puts back a change whose result cannot be written into the journal. Returns the messages.
    async fn unwritten(&self, plan: &Plan, outcome: Outcome, error: &str) -> Vec<String> {
        let mut texts = vec![format!("the result of the change could not be recorded in the journal: {error}")];
        let differences = match outcome {
            Outcome::Done(_) => self.services.put_back(plan).await,
            Outcome::PutBack(failed) => {
                texts.push(failed);
                Vec::new()
            }
            Outcome::Split { error, differences } => {
                texts.push(error);
                differences
            }
        };
        put_back(texts, differences)
    }
}

/// Adds a text for each node that is not as before. If all nodes are as before, adds a text that says so.
fn put_back(mut texts: Vec<String>, differences: Vec<String>) -> Vec<String> {
    if differences.is_empty() {
        texts.push("all nodes are as before".to_owned());
    } else {
        texts.push("NOT all nodes could be put back:".to_owned());
        texts.extend(differences);
    }
    texts
}

fn result(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(unknown) if unknown.is_empty() => DONE.to_owned(),
        Outcome::Done(unknown) => format!("{DONE}, not checked: {}", unknown.join("; ")),
        Outcome::PutBack(error) => format!("put back: {error}"),
        Outcome::Split { error, differences } => format!("split: {error}; {}", differences.join("; ")),
    }
}

/// Returns the user who makes a change: the value of `SUDO_USER`, else the value of `USER`, else `unknown`. Control
/// characters are removed, and the name is cut after 100 characters.
pub(crate) fn user() -> String {
    let of = |name: &str| std::env::var(name).ok().filter(|user| !user.trim().is_empty());
    let user = of("SUDO_USER").or_else(|| of("USER")).unwrap_or_else(|| "unknown".to_owned());
    user.chars().filter(|character| !character.is_control()).take(100).collect()
}
