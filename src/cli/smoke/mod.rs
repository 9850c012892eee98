//! `edgeshim smoke`: checks URLs at the edges of CDNs. The checks are in the room `smoke`.

mod flags;
mod machine;
mod table;

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use self::flags::Plan;
pub(super) use self::flags::SmokeArguments;
use self::table::Paint;
use super::terminal::{USAGE, WRONG, print};
use crate::smoke::{Card, Note, Report, Target, compare, smoke as check};

/// Runs the command. The exit code is 0 if nothing failed, 1 if a check or a row of a score card failed, and 2 if an
/// argument is wrong or the result cannot be written.
pub(super) fn smoke(arguments: &SmokeArguments) -> ExitCode {
    let started = Instant::now();
    let plan = match arguments.plan() {
        Ok(plan) => plan,
        Err(why) => return failed(&why),
    };
    // The file is opened now, so that a wrong path is noticed before the checks and not after them.
    let junit = match arguments.junit.as_deref().map(|path| (path, File::create(path))) {
        None => None,
        Some((path, Ok(file))) => Some((path, file)),
        Some((path, Err(error))) => return failed(&unwritable(path, &error)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("the runtime cannot start: {error}")),
    };
    let (reports, cards) = runtime.block_on(run(plan, arguments.json));
    clear_progress();
    let seconds = started.elapsed().as_secs_f64();
    let is_good = |report: &Report| report.failed().next().is_none();
    let passed =
        reports.iter().all(is_good) && cards.iter().flat_map(|card| &card.rows).all(|row| row.passed != Some(false));
    if arguments.json {
        print(&machine::json(&reports, &cards, passed, seconds));
    } else {
        let is_on = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        print(&table::table(&reports, &cards, seconds, Paint { is_on }));
    }
    if let Some((path, mut file)) = junit
        && let Err(error) = file.write_all(machine::junit(&reports, seconds).as_bytes())
    {
        return failed(&unwritable(path, &error));
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::from(WRONG) }
}

async fn run(plan: Plan, measures: bool) -> (Vec<Report>, Vec<Card>) {
    let Plan { targets, incumbents, options, baseline } = plan;
    let options = Arc::new(options);
    let is_terminal = std::io::stderr().is_terminal();
    let note: Note = Arc::new(move |target: &Target, step| {
        if is_terminal {
            show_progress(&format!("{}: {step}", title(target)));
        }
    });
    let done = |report: &Report| {
        if !is_terminal {
            let failed: Vec<_> = report.failed().collect();
            let failed =
                if failed.is_empty() { "no check failed".to_owned() } else { format!("failed: {}", failed.join(", ")) };
            eprintln!("smoke: {} at {}: {failed}", report.url, report.edge);
        }
    };
    let measures = measures || !incumbents.is_empty();
    let reports = check(targets.clone(), Arc::clone(&options), baseline, measures, Arc::clone(&note), done).await;
    let mut cards = Vec::new();
    for incumbent in &incumbents {
        // The first provider is the candidate.
        if let Some(candidate) = targets.iter().find(|target| target.url == incumbent.url) {
            cards.push(compare(candidate, incumbent, &options, &note).await);
        }
    }
    (reports, cards)
}

fn title(target: &Target) -> String {
    match &target.provider {
        Some(named) => format!("{} {}", named.name, target.url.text),
        None => target.url.text.clone(),
    }
}

/// Replaces the line of progress on the terminal.
fn show_progress(text: &str) {
    let short: String = text.chars().take(76).collect();
    let mut out = std::io::stderr();
    let _ = write!(out, "\r\x1b[K{short}").and_then(|()| out.flush());
}

fn clear_progress() {
    if std::io::stderr().is_terminal() {
        show_progress("");
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> String {
    format!("--junit: {} cannot be written: {error}", path.display())
}

fn failed(why: &str) -> ExitCode {
    eprintln!("edgeshim smoke: {why}");
    ExitCode::from(USAGE)
}
