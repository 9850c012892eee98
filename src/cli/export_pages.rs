//! `edgeshim whoopsie export`: writes the whoopsie pages as files, for CDNs and other hosts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::config_argument::ConfigArgument;
use super::terminal::USAGE;
use crate::pages::{Exported, LONGEST_COUNTDOWN_SECONDS, export};
use crate::runtime::{Runtime, page_settings};

#[derive(Debug, Args)]
pub(super) struct WhoopsieArguments {
    #[command(subcommand)]
    command: WhoopsieCommand,
}

#[derive(Debug, Subcommand)]
enum WhoopsieCommand {
    /// Write the pages as files: pages with one language, pages with all languages, and instructions for four CDNs.
    #[command(after_help = "Without --config: ./edgeshim.toml if it exists, else the defaults.\n\nExamples:\n  \
            edgeshim whoopsie export --out pages\n  \
            edgeshim whoopsie export --out pages --config edgeshim.toml --force")]
    Export(ExportArguments),
}

#[derive(Debug, Args)]
struct ExportArguments {
    /// The folder for the files. Without --force, the folder must be new or empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    config: ConfigArgument,
    /// Allow a folder that is not empty, and replace files that have the same names.
    #[arg(long)]
    force: bool,
}

pub(super) fn whoopsie(arguments: &WhoopsieArguments) -> ExitCode {
    let WhoopsieCommand::Export(arguments) = &arguments.command;
    let settings = match arguments.config.load_or_print() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    // The beacon of an exported page names the provider that has the CDN's preset, because the name of a provider can
    // differ from the name of its preset. If several providers have the preset, the beacon names the first of them. If
    // no provider has the preset, the beacon names the preset.
    let source = |preset: &str| {
        let provider = settings.providers.iter().find(|provider| provider.preset == preset);
        provider.map_or(preset, |provider| provider.name.as_str()).to_owned()
    };
    let files = Runtime::check(&settings)
        .map_err(|error| error.to_string())
        .and_then(|()| {
            // The countdown in the page has an upper limit, so a longer `whoopsie.retry_after` is shortened.
            let retry_after = settings.whoopsie.retry_after.as_secs().min(LONGEST_COUNTDOWN_SECONDS.into());
            export(&page_settings(&settings), retry_after, source).map_err(|error| error.to_string())
        })
        .and_then(|files| write(&arguments.out, &files, arguments.force).map(|()| files.len()));
    let out = arguments.out.display();
    match files {
        Ok(count) => {
            say!("{out}: {count} files; start with {out}/README.md");
            if settings.pages.beacon_base.is_empty() {
                eprintln!(
                    "warning: whoopsie.beacon_base is \"\", so the beacon goes to the page's own host, through the CDN \
                     that failed; write for example beacon_base = \"//beacon.example.com\", a host that reaches \
                     edgeshim without a CDN"
                );
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("edgeshim whoopsie export: {error}");
            ExitCode::from(USAGE)
        }
    }
}

/// Writes the files to the folder. Each file is written completely or not at all.
fn write(folder: &Path, files: &[Exported], force: bool) -> Result<(), String> {
    let failed = |path: &Path, error: &io::Error| {
        format!("--out: {} cannot be written ({error}); name a folder that this user may write to", path.display())
    };
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) if !force => {
            return Err(format!(
                "--out: {} is not empty; name a new folder, or write --force to replace files that have the same names",
                folder.display()
            ));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(folder, &error)),
        _ => {}
    }
    for file in files {
        let path = folder.join(&file.path);
        let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = fs::create_dir_all(path.parent().unwrap_or(folder))
            .and_then(|()| fs::write(&unfinished, &file.text))
            .and_then(|()| fs::rename(&unfinished, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&unfinished);
            return Err(failed(&path, &error));
        }
    }
    Ok(())
}
