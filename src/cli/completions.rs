//! `edgeshim completions`: for the shells that clap knows.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Arguments;

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArguments {
    /// bash, zsh, fish, elvish or powershell.
    shell: Shell,
}

pub(super) fn completions(arguments: &CompletionsArguments) -> ExitCode {
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "edgeshim", &mut std::io::stdout());
    ExitCode::SUCCESS
}
