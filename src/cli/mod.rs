//! The commands, one thin file each.

mod check;
mod completions;
mod demo;
mod explain;
mod providers;
mod run;
mod whoopsie;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Problems, Settings};

/// The configuration that is read where none is named.
const DEFAULT_CONFIG: &str = "edgeshim.toml";
/// The thing that was checked is wrong.
const WRONG: u8 = 1;
/// Wrong usage or configuration.
const USAGE: u8 = 2;

/// A reverse proxy between several CDNs and one origin.
#[derive(Debug, Parser)]
#[command(name = "edgeshim", version, about, arg_required_else_help = true)]
#[command(
    after_help = "Examples:\n  edgeshim demo --traffic\n  edgeshim check --config edgeshim.toml\n  edgeshim run --config edgeshim.toml"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve, until SIGTERM or SIGINT.
    #[command(
        after_help = "Without --config: ./edgeshim.toml if it is there, else the defaults.\n\nSignals: SIGTERM and SIGINT drain and exit 0, SIGUSR1 reopens the log file.\n\nExample:\n  edgeshim run --config edgeshim.toml"
    )]
    Run(ConfigArgument),
    /// Check a configuration and say everything that is wrong with it.
    #[command(after_help = "Exit code: 0 fine, 1 on any problem.\n\nExample:\n  edgeshim check --config edgeshim.toml")]
    Check(ConfigArgument),
    /// An embedded origin, the shim and the admin listener on loopback; needs no configuration.
    #[command(after_help = "Example:\n  edgeshim demo --traffic")]
    Demo(demo::DemoArguments),
    /// Say whose pull a request is, which class and rule it gets, which header fields go in and out, and why.
    #[command(
        after_help = "Examples:\n  edgeshim explain --path /logo.png --provider fastly\n  edgeshim explain --path /x.html --response-header 'Set-Cookie: a=1'\n  edgeshim explain --path / --request-header 'CF-Ray: 8a1-FRA' --status 503 --json"
    )]
    Explain(explain::ExplainArguments),
    /// List the CDNs that a configuration can name.
    #[command(after_help = "Examples:\n  edgeshim providers\n  edgeshim providers fastly")]
    Providers(providers::ProvidersArguments),
    /// The pages for when the origin fails.
    #[command(after_help = "Example:\n  edgeshim whoopsie export --out pages")]
    Whoopsie(whoopsie::WhoopsieArguments),
    /// Write a shell's completions to standard output.
    #[command(after_help = "Example:\n  edgeshim completions bash > /etc/bash_completion.d/edgeshim")]
    Completions(completions::CompletionsArguments),
}

#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgument {
    /// The file to read; none: the defaults.
    fn file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| Some(PathBuf::from(DEFAULT_CONFIG)).filter(|path| path.exists()))
    }
}

/// Runs the command that the arguments name. Exit codes: 0 fine, 1 the thing checked is wrong, 2 wrong usage or configuration.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // --help and --version come this way too, and are no mistakes.
            let code = if error.use_stderr() { USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match arguments.command {
        Command::Run(argument) => run::run(&argument),
        Command::Check(argument) => check::check(&argument),
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Providers(arguments) => providers::providers(&arguments),
        Command::Whoopsie(arguments) => whoopsie::whoopsie(&arguments),
        Command::Completions(arguments) => completions::completions(&arguments),
    }
}

/// Writes to standard output. That its reader has gone (`| head`) is nobody's mistake.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn load(file: Option<&Path>) -> Result<Settings, Problems> {
    file.map_or_else(|| Ok(Settings::default()), config::load)
}
