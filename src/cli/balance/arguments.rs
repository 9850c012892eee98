//! The arguments of `edgeshim balance`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Failure, Result};
use crate::balance::asked_values::{mode, permille, reason, weight};
use crate::balance::balance_file::{BalanceFile, DEFAULT_FILE};
use crate::balance::cost::month::Month;
use crate::balance::share::Mode;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_value_name = "COMMAND")]
#[command(
    after_help = "Modes: always (served whatever a probe reports), obey (not served while away), remove (as obey, \
        but away until the mode or the weight is set again), no (never served).\n\
        Exit code: 0 done or nothing to do, 1 refused or failed, 2 wrong usage or configuration, 3 a ramp was \
        put back.\n\n\
        Examples:\n  \
        edgeshim balance -t images --show\n  \
        edgeshim balance -t images -p fastly --pct 5 --why 'first step'\n  \
        edgeshim balance --all -p fastly -m no --force 'fastly is down'\n  \
        edgeshim balance rollback"
)]
pub(in crate::cli) struct BalanceArguments {
    #[command(subcommand)]
    pub(super) command: Option<BalanceCommand>,
    #[command(flatten)]
    pub(super) flags: Flags,
}

#[derive(Debug, Subcommand)]
pub(super) enum BalanceCommand {
    /// Write the first weights to names that have no record, or a plain CNAME to one of the target's providers.
    #[command(
        after_help = "If a name of the target has weights already, all names of the target get these weights. If no \
            name has weights, but a name has a CNAME, the provider of the CNAME still gets all requests. In all other \
            cases, all providers get equal weights.\n\n\
            Example:\n  edgeshim balance init -t images"
    )]
    Init(InitFlags),
    /// Show the weights, and whether DNS has the weights that the last change wrote.
    #[command(after_help = "Exit code: 1 if a target is not as it should be.\n\n\
            Example:\n  edgeshim balance status")]
    Status(StatusFlags),
    /// Show the last changes: who, what, why, and how each change ended.
    #[command(after_help = "Example:\n  edgeshim balance history 5")]
    History(HistoryFlags),
    /// Go back to the modes and weights before the last changes.
    #[command(
        after_help = "Without -t, the last N changes of all targets are undone. With -t, the last N changes of these \
            targets are undone, and only for these targets.\n\
            Acts of watch (away, back) are counted and undone only with --with-watch. Without it, a provider that \
            watch has taken away stays away until watch brings it back.\n\
            max_step does not limit a rollback. A rollback is a change too, so a second rollback undoes the first \
            rollback.\n\n\
            Examples:\n  \
            edgeshim balance rollback --why 'too early'\n  \
            edgeshim balance rollback 2 -t images"
    )]
    Rollback(RollbackFlags),
    /// Show what each CDN costs in a month: so far, and the forecast with its range.
    #[command(after_help = "Each line of the samples is a JSON object with the traffic of one CDN in 5 minutes:\n  \
            {\"time\": \"2026-11-29T02:55:00Z\", \"provider\": \"fastly\", \"bytes\": 123456789, \"requests\": 4567}\n\
            The prices are in balance.toml.\n\n\
            Example:\n  edgeshim balance cost --month 2026-11 --samples samples.ndjson")]
    Cost(CostFlags),
    /// Probe the edges of the CDNs, take a CDN away while its edge is down, and bring it back.
    #[command(
        after_help = "Modes: always (stays whatever a probe reports), obey (away while the edge is down), remove (as \
            obey, but away until the mode or the weight is set again), no (never served).\n\
            Exit code: 0 after a signal, 1 if another watch with this journal runs, 2 if no provider has a probe; with \
            --once 1 if a probe fails.\n\n\
            Examples:\n  \
            edgeshim balance watch --once\n  \
            edgeshim balance watch"
    )]
    Watch(WatchFlags),
    /// Raise the share of a provider step by step, and go back if a guard is broken.
    #[command(
        after_help = "[ramp] in balance.toml has the steps, the times and the guards. After each step, the ramp \
            waits until the observed share has arrived, and then for the time soak.\n\
            Exit code: 1 if the ramp was refused or has stopped, 3 if a guard was broken and the weights are back.\n\n\
            Examples:\n  \
            edgeshim balance ramp -t images -p fastly --to 50 --dry-run\n  \
            edgeshim balance ramp -t images -p fastly --to 50 --why 'new CDN'\n  \
            edgeshim balance ramp -t images -p fastly --resume"
    )]
    Ramp(RampFlags),
    /// Serve a page that shows and changes the weights, until a signal arrives.
    #[command(after_help = "balance.toml needs the block [serve].\n\n\
            Example:\n  edgeshim balance serve --config /etc/edgeshim/balance.toml")]
    Serve(Common),
    /// Check balance.toml and list every problem in it.
    #[command(after_help = "Exit code: 0 if there is no problem, 2 if there are problems.\n\n\
            Example:\n  edgeshim balance check --config balance.toml")]
    Check(Common),
}

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each flag of the command line is one field")]
pub(super) struct Flags {
    #[command(flatten)]
    pub choice: Choice,
    /// Show the weights. This is the default without -p.
    #[arg(long, conflicts_with = "provider")]
    pub show: bool,
    /// Show the weights as JSON.
    #[arg(long, conflicts_with = "provider")]
    pub json: bool,
    /// Write the weights to `cdn_TARGET.json` in the folder of -o, by default the current folder.
    #[arg(long, conflicts_with = "provider")]
    pub write: bool,
    /// The provider to change.
    #[arg(short = 'p', long, value_name = "PROVIDER")]
    pub provider: Option<String>,
    /// The new weight, from 1 to 15.
    #[arg(short = 'w', long, value_name = "N", value_parser = weight, allow_hyphen_values = true)]
    pub weight: Option<u32>,
    /// The new mode: always, obey, remove or no.
    #[arg(short = 'm', long, value_name = "MODE", value_parser = mode)]
    pub mode: Option<Mode>,
    /// The new share in per cent, from 0 to 100. The other providers keep their ratio.
    #[arg(long, value_name = "N", value_parser = permille, conflicts_with = "weight", allow_hyphen_values = true)]
    pub pct: Option<u32>,
    #[command(flatten)]
    pub way: Way,
}

#[derive(Debug, Args)]
pub(super) struct InitFlags {
    #[command(flatten)]
    pub choice: Choice,
    #[command(flatten)]
    pub way: Way,
}

#[derive(Debug, Args)]
pub(super) struct StatusFlags {
    /// A target of balance.toml. Without -t: all targets.
    #[arg(short = 't', long = "target", value_name = "TARGET")]
    pub targets: Vec<String>,
    /// Show the status as JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub(super) struct WatchFlags {
    /// A target of balance.toml. Without -t: all targets.
    #[arg(short = 't', long = "target", value_name = "TARGET")]
    pub targets: Vec<String>,
    /// All targets. This is the default without -t.
    #[arg(long, conflicts_with = "targets")]
    pub all: bool,
    /// Probe each edge once, show the results, and change nothing.
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub(super) struct HistoryFlags {
    /// How many changes to show.
    #[arg(value_name = "N", default_value_t = 20)]
    pub changes: usize,
    /// Show the lines of the journal.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub(super) struct RollbackFlags {
    /// How many changes to undo, as one change.
    #[arg(value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub changes: u16,
    /// A target of balance.toml: only its changes are counted and undone. Without -t: the changes of all targets.
    #[arg(short = 't', long = "target", value_name = "TARGET")]
    pub targets: Vec<String>,
    /// All targets. This is the default without -t.
    #[arg(long, conflicts_with = "targets")]
    pub all: bool,
    /// Count and undo the acts of watch too.
    #[arg(long)]
    pub with_watch: bool,
    #[command(flatten)]
    pub way: Way,
}

#[derive(Debug, Args)]
pub(super) struct CostFlags {
    /// The month in UTC. The default is the current month.
    #[arg(long, value_name = "YYYY-MM", value_parser = month)]
    pub month: Option<Month>,
    /// The file with samples of the traffic, or `-` for standard input. The default is `samples` of balance.toml.
    #[arg(long, value_name = "FILE")]
    pub samples: Option<PathBuf>,
    /// Show the bills as JSON, with amounts as texts.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub(super) struct RampFlags {
    #[command(flatten)]
    pub choice: Choice,
    /// The provider whose share rises.
    #[arg(short = 'p', long, value_name = "PROVIDER")]
    pub provider: String,
    /// The share in per cent at which the ramp ends. The default is the last step in balance.toml, or with --resume
    /// the end of the earlier ramp.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100), allow_hyphen_values = true)]
    pub to: Option<u32>,
    /// Continue the ramp that made the last change of these targets, from the step at which the ramp stopped. If the
    /// weights were put back, the ramp begins again.
    #[arg(long)]
    pub resume: bool,
    /// Show the timetable, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Begin without a question.
    #[arg(long)]
    pub yes: bool,
    /// The reason for the ramp, for the journal.
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,
    #[command(flatten)]
    pub common: Common,
}

/// The targets of a command.
#[derive(Debug, Args)]
pub(super) struct Choice {
    /// A target of balance.toml. The targets of several -t are changed together.
    #[arg(short = 't', long = "target", value_name = "TARGET")]
    pub targets: Vec<String>,
    /// All targets. With -p, only the targets that have the provider.
    #[arg(long, conflicts_with = "targets")]
    pub all: bool,
}

impl Choice {
    pub(super) fn check(&self) -> Result<()> {
        if self.all || !self.targets.is_empty() {
            return Ok(());
        }
        let text = "there is no target; write -t TARGET or --all, or a command; edgeshim balance --help shows examples";
        Err(Failure::usage(text))
    }
}

/// How a change is made.
#[derive(Debug, Args)]
pub(super) struct Way {
    /// The folder for `cdn_TARGET.json`. With this option, a change also writes the file.
    #[arg(short = 'o', long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub confirm: Confirm,
    #[command(flatten)]
    pub common: Common,
}

/// How a change is confirmed.
#[derive(Debug, Args)]
pub(super) struct Confirm {
    /// Show the change and the objections to it, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Make the change without a question.
    #[arg(long)]
    pub yes: bool,
    /// The reason for the change, for the journal.
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,
    /// Make a change that is refused without --force. Some refusals cannot be forced. The reason goes into the journal.
    #[arg(long, value_name = "REASON", value_parser = reason)]
    pub force: Option<String>,
}

impl Confirm {
    pub(super) fn is_used(&self) -> bool {
        self.dry_run || self.yes || self.why.is_some() || self.force.is_some()
    }
}

/// The arguments that all commands have.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// The file with the DNS services and targets. The default is `balance.toml` in the current folder.
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Report each call of a DNS service.
    #[arg(short = 'v', long)]
    pub verbose: bool,
}

impl Common {
    pub(super) fn path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| DEFAULT_FILE.into())
    }

    pub(super) fn load(&self) -> Result<BalanceFile> {
        BalanceFile::load(&self.path())
            .map_err(|problems| Failure::Usage(problems.to_string().lines().map(str::to_owned).collect()))
    }
}

fn month(text: &str) -> std::result::Result<Month, String> {
    Month::parse(text).ok_or_else(|| "write a year and a month, for example 2026-11".to_owned())
}
