//! Makes a change: reads, refuses, shows, asks, writes, reads back, and notes the result in the journal.

use std::path::Path;
use std::process::ExitCode;

use super::arguments::{Confirm, Way};
use super::change_history::warn_about;
use super::prompt::{Stop, confirm, with_runtime};
use super::target_file;
use super::{Failure, Result};
use crate::balance::announce::announce;
use crate::balance::api_call::Caller;
use crate::balance::balance_file::{BalanceFile, TargetKeys};
use crate::balance::journal::{DONE, Entry, Journal, STARTED, Writer, new_id, now};
use crate::balance::plan::{Action, Plan, Trouble, compute};
use crate::balance::refuse::refusals;
use crate::balance::share::Mode;
use crate::balance::tables::difference;
use crate::balance::transaction::{Outcome, Services};
use crate::cli::terminal::print;

/// What the command line asks for.
pub(super) enum Request {
    Set { provider: String, weight: Option<u32>, mode: Option<Mode>, permille: Option<u32> },
    Init,
    Rollback(u16),
}

impl Request {
    fn action(self, journal: &Journal) -> Result<Action> {
        Ok(match self {
            Self::Set { provider, weight, mode, permille } => Action::Set { provider, weight, mode, permille },
            Self::Init => Action::Init,
            Self::Rollback(changes) => {
                let changes = usize::from(changes);
                Action::Rollback { changes, to: journal.before(changes).map_err(Failure::failed)? }
            }
        })
    }
}

/// Makes the change. For a rollback, the targets come from the journal.
pub(super) fn run(file: &BalanceFile, way: &Way, targets: &[&TargetKeys], request: Request) -> Result {
    let Way { out, confirm, common } = way;
    let out = out.as_deref();
    if let Some(folder) = out.filter(|folder| !folder.is_dir()) {
        return Err(Failure::usage(format!("-o {}: there is no such folder; create the folder", folder.display())));
    }
    let journal = Journal::read(&file.journal).map_err(Failure::failed)?;
    warn_about(file, &journal);
    let action = request.action(&journal)?;
    let targets = match &action {
        Action::Rollback { to, .. } => to.keys().map(|name| target(file, name)).collect::<Result<Vec<_>>>()?,
        Action::Set { .. } | Action::Init => targets.to_vec(),
    };
    with_runtime(async {
        let change = Change { file, confirm, out, targets, caller: Caller { is_verbose: common.verbose } };
        change.run(action, &journal).await
    })
}

fn target<'f>(file: &'f BalanceFile, name: &str) -> Result<&'f TargetKeys> {
    file.target(name).ok_or_else(|| {
        Failure::failed(format!("the change concerns the target {name}, which balance.toml no longer has"))
    })
}

struct Change<'f> {
    file: &'f BalanceFile,
    confirm: &'f Confirm,
    out: Option<&'f Path>,
    targets: Vec<&'f TargetKeys>,
    caller: Caller,
}

impl Change<'_> {
    async fn run(&self, action: Action, journal: &Journal) -> Result {
        let mut stop = Stop::watch()?;
        let services = Services::new(self.file, &self.caller, stop.interrupt.clone()).map_err(Failure::usage)?;
        let nodes = stop.or(services.read(&self.targets)).await?.map_err(Failure::Failed)?;
        let plan = compute(self.file, &self.targets, &nodes, action).map_err(|trouble| match trouble {
            Trouble::Usage(text) => Failure::usage(text),
            Trouble::Refused(text) => Failure::failed(format!("refused: {text}")),
        })?;
        print(&difference(&self.targets, &plan));
        // After an interrupted change, the journal gets the weights that the nodes have, even if nothing is written to
        // DNS.
        let is_interrupted = self.targets.iter().any(|target| journal.unfinished.contains_key(&target.name));
        if !plan.is_changed() && (!is_interrupted || self.confirm.dry_run) {
            say!("\nNothing to do.");
            return Ok(ExitCode::SUCCESS);
        }
        self.refuse(&plan, journal)?;
        if self.confirm.dry_run {
            say!("\nDry run: nothing was written.");
            return Ok(ExitCode::SUCCESS);
        }
        if plan.is_changed() && !self.confirm.yes {
            confirm(&mut stop).await?;
        }
        let who = who();
        let mut writer = Writer::open(&self.file.journal, &who).map_err(Failure::failed)?;
        let again = stop.or(services.read(&self.targets)).await?.map_err(Failure::Failed)?;
        if again != nodes {
            let text = "refused: DNS is no longer as it was shown, because someone else has changed it; nothing was \
                        changed; look at the weights and try again";
            return Err(Failure::failed(text));
        }
        let mut entry = self.entry(&plan, who);
        writer.append(&entry).map_err(|error| Failure::failed(format!("{error}; nothing was changed")))?;
        let outcome = services.apply(&plan).await;
        (entry.time, entry.result) = (now(), result(&outcome));
        if let Err(error) = writer.append(&entry) {
            return Err(unwritten(&services, &plan, &outcome, &error).await);
        }
        drop(writer);
        self.report(&entry, outcome).await
    }

    /// Prints what speaks against the plan.
    fn refuse(&self, plan: &Plan, journal: &Journal) -> Result<()> {
        let refusals = refusals(self.file, plan, journal);
        let stands = |can_be_forced: bool| !can_be_forced || self.confirm.force.is_none();
        let mut texts = Vec::new();
        for refusal in &refusals {
            if stands(refusal.can_be_forced) {
                texts.push(format!("refused: {}", refusal.text));
            } else {
                complain!("forced: {}", refusal.text);
            }
        }
        if texts.is_empty() {
            return Ok(());
        }
        if refusals.iter().all(|refusal| refusal.can_be_forced) {
            texts.push("nothing was changed; to make the change anyway, add --force REASON".to_owned());
        } else {
            texts.push("nothing was changed".to_owned());
        }
        Err(Failure::Failed(texts))
    }

    /// Returns the first line of the change.
    fn entry(&self, plan: &Plan, who: String) -> Entry {
        Entry {
            time: now(),
            id: new_id(),
            who,
            action: plan.action.to_string(),
            provider: plan.action.provider().map(str::to_owned),
            from: plan.targets.iter().map(|target| (target.name.clone(), target.before.clone())).collect(),
            to: plan.targets.iter().map(|target| (target.name.clone(), target.after.clone())).collect(),
            why: self.confirm.why.clone().filter(|why| !why.trim().is_empty()),
            force: self.confirm.force.clone(),
            result: STARTED.to_owned(),
        }
    }

    async fn report(&self, entry: &Entry, outcome: Outcome) -> Result {
        match outcome {
            Outcome::Done(unknown) => {
                for text in unknown {
                    complain!("warning: written and read back, but not looked up: {text}");
                }
                for target in &self.targets {
                    if let (Some(folder), Some(shares)) = (self.out, entry.to.get(&target.name))
                        && let Err(error) = target_file::write(folder, &target.name, shares)
                    {
                        complain!("warning: {error}");
                    }
                }
                for warning in announce(self.file, &self.caller, entry).await {
                    complain!("warning: the change is made, but not announced: {warning}");
                }
                say!("\nDone ({}).", entry.id);
                Ok(ExitCode::SUCCESS)
            }
            Outcome::PutBack(error) => Err(Failure::Failed(vec![error, "all nodes are as before".to_owned()])),
            Outcome::Split { error, differences } => {
                let mut texts = vec![error, "NOT all nodes could be put back:".to_owned()];
                texts.extend(differences);
                Err(Failure::Failed(texts))
            }
        }
    }
}

fn result(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(unknown) if unknown.is_empty() => DONE.to_owned(),
        Outcome::Done(unknown) => format!("{DONE}, not checked: {}", unknown.join("; ")),
        Outcome::PutBack(error) => format!("put back: {error}"),
        Outcome::Split { error, differences } => format!("split: {error}; {}", differences.join("; ")),
    }
}

/// A change whose result cannot be written into the journal is put back.
async fn unwritten(services: &Services<'_>, plan: &Plan, outcome: &Outcome, error: &str) -> Failure {
    let mut texts = vec![format!("the result of the change: {error}")];
    let differences = match outcome {
        Outcome::Done(_) => services.put_back(plan).await,
        Outcome::PutBack(failed) => {
            texts.push(failed.clone());
            Vec::new()
        }
        Outcome::Split { error, differences } => {
            texts.push(error.clone());
            differences.clone()
        }
    };
    if differences.is_empty() {
        texts.push("all nodes are as before".to_owned());
    } else {
        texts.push("NOT all nodes could be put back:".to_owned());
        texts.extend(differences);
    }
    Failure::Failed(texts)
}

/// Returns who makes the change: the user who called sudo, else the user.
fn who() -> String {
    let of = |name: &str| std::env::var(name).ok().filter(|user| !user.trim().is_empty());
    let who = of("SUDO_USER").or_else(|| of("USER")).unwrap_or_else(|| "unknown".to_owned());
    who.chars().filter(|character| !character.is_control()).take(100).collect()
}
