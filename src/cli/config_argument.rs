//! The `--config` argument.

use std::path::PathBuf;
use std::process::ExitCode;

use super::terminal::USAGE;
use crate::config::{self, Problems, Settings};

/// The file that is read if `--config` is absent and this file exists.
const DEFAULT_CONFIG: &str = "edgeshim.toml";

#[derive(Debug, Clone, clap::Args)]
pub(super) struct ConfigArgument {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgument {
    /// Returns the path of the file to read. `None`: `--config` is absent and the default file does not exist, so the
    /// defaults apply.
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| Some(PathBuf::from(DEFAULT_CONFIG)).filter(|path| path.exists()))
    }

    pub(super) fn load(&self) -> Result<Settings, Problems> {
        self.file().map_or_else(|| Ok(Settings::default()), |file| config::load(&file))
    }

    /// Loads the settings. If there are problems, prints the problems and returns the exit code.
    pub(super) fn load_or_print(&self) -> Result<Settings, ExitCode> {
        self.load().map_err(|problems| {
            eprintln!("{problems}");
            ExitCode::from(USAGE)
        })
    }
}
