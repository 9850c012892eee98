//! Makes a change for a person: shows the difference and the reasons against the change, asks for a confirmation,
//! writes the change, and reports the result.

use std::process::ExitCode;

use super::arguments::{Confirm, Way};
use super::change_history::{line, warn_about};
use super::month_cost::warn_about_cost;
use super::prompt::{Stop, confirm, with_runtime};
use super::target_file;
use super::{Failure, Result};
use crate::balance::api_call::Caller;
use crate::balance::balance_file::{BalanceFile, TargetKeys};
use crate::balance::change::{Change, Made, user};
use crate::balance::journal::{Entry, Journal};
use crate::balance::plan::Action;
use crate::balance::share::Mode;
use crate::balance::tables::difference;
use crate::balance::transaction::Services;
use crate::balance::undo::{Undo, undo};
use crate::cli::terminal::print;

/// The change that the command line requests.
pub(super) enum Request {
    Set { provider: String, weight: Option<u32>, mode: Option<Mode>, permille: Option<u32> },
    Init,
    Rollback { changes: u16, with_watch: bool },
}

/// Makes the change that the command line requests. A rollback without targets concerns all targets.
pub(super) fn run(file: &BalanceFile, way: &Way, targets: &[&TargetKeys], request: Request) -> Result {
    let Way { out, confirm, common } = way;
    let out = out.as_deref();
    if let Some(folder) = out.filter(|folder| !folder.is_dir()) {
        return Err(Failure::usage(format!("-o {}: there is no such folder; create the folder", folder.display())));
    }
    let journal = Journal::read(&file.journal).map_err(Failure::failed)?;
    warn_about(file, &journal);
    let mut targets = targets.to_vec();
    let action = match request {
        Request::Set { provider, weight, mode, permille } => Action::Set { provider, weight, mode, permille },
        Request::Init => Action::Init,
        Request::Rollback { changes, with_watch } => {
            let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
            let names = (!names.is_empty()).then_some(names.as_slice());
            let changes = usize::from(changes);
            let undo = undo(&journal, changes, names, with_watch).map_err(Failure::failed)?;
            targets = undo.to.keys().map(|name| target(file, name, &undo)).collect::<Result<_>>()?;
            print(&described(&undo));
            Action::Rollback { changes, to: undo.to }
        }
    };
    let caller = Caller { is_verbose: common.verbose };
    with_runtime(async {
        let stop = Stop::watch()?;
        let services = Services::new(file, &caller, stop.interrupt.clone()).map_err(Failure::usage)?;
        let change = Change {
            file,
            caller: &caller,
            services: &services,
            targets,
            who: user(),
            why: confirm.why.clone(),
            force: confirm.force.clone(),
        };
        let made = make(&change, action, &journal, &stop, confirm).await?;
        if let Some(Made { entry, warnings }) = made {
            for warning in warnings {
                complain!("warning: {warning}");
            }
            for (target, shares) in &entry.to {
                if let Some(Err(error)) = out.map(|folder| target_file::write(folder, target, shares)) {
                    complain!("warning: {error}");
                }
            }
            say!("\nDone ({}).", entry.id);
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn target<'f>(file: &'f BalanceFile, name: &str, undo: &Undo<'_>) -> Result<&'f TargetKeys> {
    file.target(name).ok_or_else(|| {
        let others: Vec<&str> = undo.to.keys().map(String::as_str).filter(|name| file.target(name).is_some()).collect();
        let others = match others.as_slice() {
            [] => String::new(),
            others => format!(", or roll back the other targets only, with -t {}", others.join(" -t ")),
        };
        Failure::failed(format!(
            "the rollback concerns the target {name}, which balance.toml no longer has; write the target into \
             balance.toml again{others}"
        ))
    })
}

/// Describes the changes that a rollback undoes, and the acts of `watch` that stay.
fn described(undo: &Undo<'_>) -> String {
    let lines = |entries: &[&Entry]| {
        let lines: Vec<String> = entries.iter().map(|entry| format!("  {}\n", line(entry))).collect();
        lines.concat()
    };
    let kept = match undo.kept.as_slice() {
        [] => String::new(),
        kept => format!("Acts of watch that stay (--with-watch undoes them too):\n{}", lines(kept)),
    };
    format!("Changes that are undone:\n{}{kept}\n", lines(&undo.undone))
}

/// Shows a change, asks for a confirmation unless `--yes` is set, and makes the change. Returns `None` if there is
/// nothing to change, and for `--dry-run`.
async fn make(
    change: &Change<'_>,
    action: Action,
    journal: &Journal,
    stop: &Stop,
    flags: &Confirm,
) -> Result<Option<Made>> {
    let planned = stop.or(change.plan(action)).await??;
    let plan = &planned.plan;
    print(&difference(&change.targets, plan));
    // After an interrupted change, the journal gets the weights that the nodes have, even if nothing is written to
    // DNS.
    let is_interrupted = change.targets.iter().any(|target| journal.unfinished.contains_key(&target.name));
    if !plan.is_changed() && (!is_interrupted || flags.dry_run) {
        say!("\nNothing to do.");
        return Ok(None);
    }
    warn_about_cost(change.file, plan);
    let mut objections = change.objections(plan, journal);
    for text in objections.forced {
        complain!("forced: {text}");
    }
    if !objections.refused.is_empty() {
        if objections.can_all_be_forced {
            objections.refused.push("to make the change anyway, add --force REASON".to_owned());
        }
        return Err(Failure::Failed(objections.refused));
    }
    if flags.dry_run {
        say!("\nDry run: nothing was written.");
        return Ok(None);
    }
    if plan.is_changed() && !flags.yes {
        confirm(stop).await?;
    }
    let writer = stop.or(change.begin(&planned)).await?.map_err(|why| Failure::Failed(why.texts))?;
    change.make(&planned, writer).await.map(Some).map_err(Failure::Failed)
}
