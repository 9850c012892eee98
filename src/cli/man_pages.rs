//! `edgeshim man`: writes the man pages into a folder. This command is for packagers, so `--help` does not list it.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use super::terminal::USAGE;

#[derive(Debug, clap::Args)]
pub(super) struct ManArguments {
    /// The folder for the pages. It is created if it does not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn man(arguments: &ManArguments, command: clap::Command) -> ExitCode {
    let out = &arguments.out;
    match fs::create_dir_all(out).and_then(|()| clap_mangen::generate_to(command.disable_help_subcommand(true), out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "edgeshim man: cannot write the pages into {}: {error}; name a folder with --out that this user may \
                 create or write to",
                out.display()
            );
            ExitCode::from(USAGE)
        }
    }
}
