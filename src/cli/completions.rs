//! `edgeshim completions`: writes the completion script for a shell to standard output.

use std::process::ExitCode;

use clap_complete::Shell;

use super::terminal::print;

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArguments {
    /// The shell whose completions are written.
    shell: Shell,
}

pub(super) fn completions(arguments: &CompletionsArguments, command: &mut clap::Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, command, "edgeshim", &mut script);
    print(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
