//! `edgeshim balance history`: the last changes of the journal.

use std::process::ExitCode;

use super::arguments::HistoryFlags;
use super::{Failure, Result};
use crate::balance::balance_file::BalanceFile;
use crate::balance::journal::{Entry, Journal};
use crate::balance::tables::counted;
use crate::cli::terminal::print_json;
use crate::wire::json::is_active;

pub(super) fn history(file: &BalanceFile, flags: &HistoryFlags) -> Result {
    let journal = Journal::read(&file.journal).map_err(Failure::failed)?;
    warn_about(file, &journal);
    if journal.entries.is_empty() && !flags.json {
        say!("{} has no changes yet", file.journal.display());
    }
    let skipped = journal.entries.len().saturating_sub(flags.changes);
    for entry in journal.entries.iter().skip(skipped) {
        if flags.json { print_json(&entry.to_json()) } else { say!("{}", line(entry)) }
    }
    Ok(ExitCode::SUCCESS)
}

/// Warns about lines of the journal that cannot be read as changes, and about changes whose result is not in the
/// journal.
pub(super) fn warn_about(file: &BalanceFile, journal: &Journal) {
    if let Some(line) = journal.first_bad_line {
        let path = file.journal.display();
        match journal.bad_lines {
            0 | 1 => complain!("warning: line {line} of {path} cannot be read as a change, and is skipped"),
            count => complain!(
                "warning: line {line} and {} of {path} cannot be read as changes, and are skipped",
                counted(count - 1, "more line")
            ),
        }
    }
    let mut changes: Vec<&Entry> = journal.unfinished.values().collect();
    changes.sort_by_key(|entry| &entry.id);
    changes.dedup_by_key(|entry| &entry.id);
    for entry in changes {
        complain!(
            "warning: the journal has no result of this change, which was interrupted or is in progress, so DNS can \
             have the old or the new weights: {}",
            line(entry)
        );
    }
}

/// Returns a change as one line.
pub(super) fn line(entry: &Entry) -> String {
    let targets: Vec<&str> = entry.to.keys().map(String::as_str).collect();
    let provider = entry.provider.as_ref().map(|provider| format!("{provider} ")).unwrap_or_default();
    let reason = |word: &str, text: &Option<String>| text.as_ref().map(|text| format!(", {word} {text:?}"));
    let line = format!(
        "{} {} {} {}: {provider}{}{}{}: {}",
        entry.time,
        entry.id,
        entry.who,
        targets.join(", "),
        entry.action,
        reason("why", &entry.why).unwrap_or_default(),
        reason("forced", &entry.force).unwrap_or_default(),
        entry.result
    );
    // Someone could have written control characters for a terminal into the journal.
    line.chars().filter(|&character| !character.is_control() && !is_active(character)).collect()
}
