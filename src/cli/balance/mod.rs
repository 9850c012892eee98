//! `edgeshim balance`: shows and changes the weights of the CDNs in DNS.

/// Writes a line to standard error, after the name of the command.
macro_rules! complain {
    ($($text:tt)*) => {
        crate::balance::api_call::report(&format!("edgeshim balance: {}", format_args!($($text)*)))
    };
}

mod arguments;
mod change_history;
mod make_change;
mod month_cost;
mod present;
mod prompt;
mod run_ramp;
mod serve_page;
mod target_file;
mod watch_edges;

use std::process::ExitCode;

pub(super) use self::arguments::BalanceArguments;
use self::arguments::{BalanceCommand, Choice, Flags, Way};
use self::make_change::Request;
use super::terminal::{USAGE, WRONG};
use crate::balance::balance_file::{BalanceFile, TargetKeys};
use crate::balance::plan::Trouble;

/// The result of a command: the exit code, or what went wrong.
type Result<T = ExitCode> = std::result::Result<T, Failure>;

/// Why a command has failed.
#[derive(Debug)]
enum Failure {
    /// The command line, the configuration or the file of samples is wrong.
    Usage(Vec<String>),
    /// The change was refused or not confirmed, or a service or a file failed.
    Failed(Vec<String>),
    /// A signal ended the command before anything was changed.
    Interrupted,
}

impl Failure {
    fn usage(text: impl Into<String>) -> Self {
        Self::Usage(vec![text.into()])
    }

    fn failed(text: impl Into<String>) -> Self {
        Self::Failed(vec![text.into()])
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Usage(text) => Self::usage(text),
            Trouble::Refused(text) => Self::failed(format!("refused: {text}")),
            Trouble::Failed(texts) => Self::Failed(texts),
        }
    }
}

pub(super) fn balance(arguments: BalanceArguments) -> ExitCode {
    let result = match arguments.command {
        None => without_command(arguments.flags),
        Some(BalanceCommand::Check(argument)) => return check(&argument),
        Some(BalanceCommand::Init(flags)) => flags.choice.check().and_then(|()| {
            let file = flags.way.common.load()?;
            let targets = chosen(&file, &flags.choice)?;
            make_change::run(&file, &flags.way, &targets, Request::Init)
        }),
        Some(BalanceCommand::Rollback(flags)) => flags.way.common.load().and_then(|file| {
            let targets = chosen(&file, &Choice { targets: flags.targets, all: false })?;
            let request = Request::Rollback { changes: flags.changes, with_watch: flags.with_watch };
            make_change::run(&file, &flags.way, &targets, request)
        }),
        Some(BalanceCommand::Ramp(flags)) => flags.choice.check().and_then(|()| {
            let file = flags.common.load()?;
            run_ramp::run(&file, &flags, &chosen(&file, &flags.choice)?)
        }),
        Some(BalanceCommand::Status(flags)) => flags.common.load().and_then(|file| {
            let all = flags.targets.is_empty();
            let targets = chosen(&file, &Choice { targets: flags.targets, all })?;
            present::status(&file, &flags.common, &targets, flags.json)
        }),
        Some(BalanceCommand::Watch(flags)) => flags.common.load().and_then(|file| {
            let all = flags.targets.is_empty();
            let targets = chosen(&file, &Choice { targets: flags.targets, all })?;
            watch_edges::watch(&file, &flags.common, &targets, flags.once)
        }),
        Some(BalanceCommand::Serve(common)) => common.load().and_then(|file| serve_page::serve(file, &common)),
        Some(BalanceCommand::History(flags)) => {
            flags.common.load().and_then(|file| change_history::history(&file, &flags))
        }
        Some(BalanceCommand::Cost(flags)) => flags.common.load().and_then(|file| month_cost::cost(&file, &flags)),
    };
    match result {
        Ok(code) => code,
        Err(Failure::Usage(texts)) => print(&texts, USAGE),
        Err(Failure::Failed(texts)) => print(&texts, WRONG),
        Err(Failure::Interrupted) => print(&["interrupted; nothing was changed".to_owned()], WRONG),
    }
}

fn print(texts: &[String], code: u8) -> ExitCode {
    for text in texts {
        complain!("{text}");
    }
    ExitCode::from(code)
}

/// Runs `edgeshim balance` without a command: the flags show or change targets.
fn without_command(flags: Flags) -> Result {
    let asks_for_change = flags.provider.is_some();
    if !asks_for_change && (flags.weight.is_some() || flags.mode.is_some() || flags.pct.is_some()) {
        return Err(Failure::usage("-w, -m and --pct change a provider; write also -p PROVIDER"));
    }
    if asks_for_change && flags.weight.is_none() && flags.mode.is_none() && flags.pct.is_none() {
        return Err(Failure::usage("-p PROVIDER alone changes nothing; write -w N, -m MODE or --pct N"));
    }
    flags.choice.check()?;
    let file = flags.way.common.load()?;
    let targets = chosen(&file, &flags.choice)?;
    let Some(provider) = flags.provider else {
        let Way { out, confirm, common } = &flags.way;
        if confirm.is_used() {
            return Err(Failure::usage(
                "--dry-run, --yes, --why and --force belong to a change; write also -p PROVIDER",
            ));
        }
        return present::show(&file, common, &targets, flags.json, flags.write, out.as_deref());
    };
    let provider = provider.to_ascii_lowercase();
    let targets = with_provider(targets, &provider, flags.choice.all)?;
    let request = Request::Set { provider, weight: flags.weight, mode: flags.mode, permille: flags.pct };
    make_change::run(&file, &flags.way, &targets, request)
}

/// Returns the targets that have the provider. Without `--all`, each target must have the provider. With `--all`, at
/// least one target must have the provider, and the targets without the provider are reported.
fn with_provider<'f>(targets: Vec<&'f TargetKeys>, provider: &str, all: bool) -> Result<Vec<&'f TargetKeys>> {
    let (with, without): (Vec<_>, Vec<_>) =
        targets.into_iter().partition(|target| target.providers.contains_key(provider));
    match without.first() {
        Some(target) if !all || with.is_empty() => {
            let names: Vec<&str> = target.providers.keys().map(String::as_str).collect();
            Err(Failure::usage(format!(
                "-p {provider:?}: the target {} has no such provider; write one of {}",
                target.name,
                names.join(", ")
            )))
        }
        _ => {
            for target in without {
                complain!("{}: has no provider {provider}, so nothing changes there", target.name);
            }
            Ok(with)
        }
    }
}

/// Returns the targets of `choice`, in the order of the file.
fn chosen<'f>(file: &'f BalanceFile, choice: &Choice) -> Result<Vec<&'f TargetKeys>> {
    if choice.all {
        return Ok(file.targets.iter().collect());
    }
    let wanted: Vec<String> = choice.targets.iter().map(|name| name.to_ascii_lowercase()).collect();
    if let Some(unknown) = wanted.iter().find(|name| file.target(name).is_none()) {
        let known: Vec<&str> = file.targets.iter().map(|target| target.name.as_str()).collect();
        return Err(Failure::usage(format!(
            "-t {unknown:?}: there is no such target; write one of {}",
            known.join(", ")
        )));
    }
    Ok(file.targets.iter().filter(|target| wanted.contains(&target.name)).collect())
}

fn check(argument: &arguments::Common) -> ExitCode {
    let name = argument.path().display().to_string();
    match BalanceFile::load(&argument.path()) {
        Ok(_) => {
            say!("{name}: fine");
            ExitCode::SUCCESS
        }
        Err(problems) => {
            let count = problems.len();
            say!("{problems}\n{name}: {count} problem{}", if count == 1 { "" } else { "s" });
            ExitCode::from(USAGE)
        }
    }
}
