//! Shows the present weights, and writes them to files.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Map, json};
use tokio::time::{Instant, sleep_until};

use super::arguments::Common;
use super::change_history::{line, warn_about};
use super::prompt::{Stop, with_runtime};
use super::target_file;
use super::{Failure, Result};
use crate::balance::api_call::Caller;
use crate::balance::balance_file::{BalanceFile, TargetKeys};
use crate::balance::figure_source::{LIMIT, last_minute, snapshot};
use crate::balance::journal::{Entry, Journal};
use crate::balance::observed_shares::{BETWEEN_LOOKS, Observed};
use crate::balance::plan::Trouble;
use crate::balance::refuse::half_made;
use crate::balance::share::Shares;
use crate::balance::standing::{Standing, standing};
use crate::balance::tables::{shown_json, table};
use crate::balance::transaction::Services;
use crate::cli::terminal::{WRONG, print, print_json_lines};

/// The weights, the observed shares and the problems of one target.
struct Present<'f> {
    target: &'f TargetKeys,
    shares: Shares,
    observed: Option<Observed>,
    problems: Vec<String>,
}

/// Shows the weights of targets, writes them to files, or does both.
pub(super) fn show(
    file: &BalanceFile,
    common: &Common,
    targets: &[&TargetKeys],
    as_json: bool,
    to_files: bool,
    out: Option<&Path>,
) -> Result {
    let present = read(file, common, targets, None, as_json || !to_files)?;
    let problems: Vec<String> = present.iter().flat_map(|present| present.problems.clone()).collect();
    if as_json {
        let all: Map<_, _> = present
            .iter()
            .map(|present| (present.target.name.clone(), shown_json(&present.shares, present.observed.as_ref())))
            .collect();
        print_json_lines(&all.into());
    } else if !to_files {
        print(
            &present
                .iter()
                .map(|one| table(one.target, &one.shares, one.observed.as_ref()))
                .collect::<Vec<_>>()
                .join("\n"),
        );
    }
    if !problems.is_empty() {
        return Err(Failure::Failed(problems));
    }
    if to_files {
        for present in &present {
            let path = target_file::write(out.unwrap_or(Path::new(".")), &present.target.name, &present.shares);
            let path = path.map_err(Failure::failed)?;
            // Standard output must have only the JSON.
            if !as_json {
                say!("{path}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows the weights of each target, its last change, and its problems.
pub(super) fn status(file: &BalanceFile, common: &Common, targets: &[&TargetKeys], as_json: bool) -> Result {
    let journal = Journal::read(&file.journal).map_err(Failure::failed)?;
    warn_about(file, &journal);
    let present = read(file, common, targets, Some(&journal), true)?;
    let whole = present.iter().filter(|one| one.problems.is_empty());
    let states: Vec<_> = whole.map(|one| (&*one.target.name, &one.shares, &one.shares)).collect();
    let half_made = half_made(&states, &journal);
    let problems = |one: &Present<'_>| -> Vec<String> {
        one.problems.iter().chain(half_made.get(&*one.target.name)).cloned().collect()
    };
    let last = |name: &str| journal.entries.iter().rev().find(|entry| entry.to.contains_key(name));
    if as_json {
        let one = |present: &Present<'_>| {
            let last = last(&present.target.name).map(Entry::to_json);
            let value = json!({
                "providers": shown_json(&present.shares, present.observed.as_ref()),
                "problems": problems(present),
                "last": last,
            });
            (present.target.name.clone(), value)
        };
        print_json_lines(&present.iter().map(one).collect::<Map<_, _>>().into());
    } else {
        for (number, one) in present.iter().enumerate() {
            let gap = if number > 0 { "\n" } else { "" };
            print(&format!("{gap}{}", table(one.target, &one.shares, one.observed.as_ref())));
            match last(&one.target.name) {
                Some(entry) => say!("  last change: {}", line(entry)),
                None => say!("  last change: none in the journal"),
            }
            if let Some(entry) = journal.unfinished.get(&one.target.name) {
                say!("  the journal has no result of this change; the nodes have {}", found_after(entry, one));
            }
            match problems(one).as_slice() {
                [] => say!("  all nodes are as they should be"),
                problems => problems.iter().for_each(|problem| say!("  WRONG: {problem}")),
            }
        }
    }
    let is_fine = half_made.is_empty() && present.iter().all(|present| present.problems.is_empty());
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::from(WRONG) })
}

/// Describes the weights that the nodes have after a change whose result is not in the journal.
fn found_after(entry: &Entry, present: &Present<'_>) -> &'static str {
    let name = &present.target.name;
    let agrees = |shares: &Shares| shares.agrees_with(&present.shares);
    if !present.problems.is_empty() {
        "other weights"
    } else if entry.to.get(name).is_some_and(agrees) {
        "the new weights"
    } else if entry.from.get(name).and_then(Option::as_ref).is_some_and(agrees) {
        "the old weights"
    } else {
        "other weights"
    }
}

/// Reads the targets from DNS, and lists their problems. If `with_observed` is set, also reads the observed shares.
fn read<'f>(
    file: &'f BalanceFile,
    common: &Common,
    targets: &[&'f TargetKeys],
    journal: Option<&Journal>,
    with_observed: bool,
) -> Result<Vec<Present<'f>>> {
    let mut found = Vec::new();
    with_runtime(async {
        let stop = Stop::watch()?;
        let caller = Caller { is_verbose: common.verbose };
        let services = Services::new(file, &caller, stop.interrupt.clone()).map_err(Failure::usage)?;
        let prometheus = file.prometheus.as_ref().filter(|_| with_observed);
        let has_looks = with_observed && prometheus.is_none() && !file.shims.is_empty();
        let first = if has_looks { Some(stop.or(snapshot(file, &caller, LIMIT)).await?) } else { None };
        let started = Instant::now();
        let nodes = stop.or(services.read(targets)).await?.map_err(Failure::Failed)?;
        let growth = match (prometheus, first) {
            (Some(url), _) => stop.or(last_minute(url, &caller)).await?.map_err(warn).ok(),
            (None, None) => None,
            (None, Some(Ok(first))) => {
                stop.or(sleep_until(started + BETWEEN_LOOKS)).await?;
                let second = stop.or(snapshot(file, &caller, LIMIT)).await?;
                second.and_then(|second| first.until(&second, started.elapsed().as_secs_f64())).map_err(warn).ok()
            }
            (None, Some(Err(error))) => {
                warn(error);
                None
            }
        };
        let nothing = Journal::default();
        for target in targets {
            let journal = journal.unwrap_or(&nothing);
            let standing = standing(file, target, &nodes, journal).map_err(|trouble| match trouble {
                Trouble::Usage(text) | Trouble::Refused(text) => Failure::failed(text),
                Trouble::Failed(texts) => Failure::Failed(texts),
            })?;
            let Standing { shares, problems } = standing;
            let names: Vec<&String> = target.providers.keys().collect();
            let observed = growth.as_ref().and_then(|growth| growth.observed(&names));
            found.push(Present { target, shares, observed, problems });
        }
        Ok(ExitCode::SUCCESS)
    })?;
    Ok(found)
}

#[allow(clippy::needless_pass_by_value, reason = "the signature that map_err needs")]
fn warn(error: String) {
    complain!("warning: the observed shares are not known: {error}");
}
