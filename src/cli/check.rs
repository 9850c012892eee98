//! `edgeshim check`: lists the problems of a configuration.

use std::process::ExitCode;

use super::config_argument::ConfigArgument;
use super::terminal::WRONG;
use crate::runtime::Runtime;

pub(super) fn check(argument: &ConfigArgument) -> ExitCode {
    let name = argument.file().map_or_else(|| "the defaults".to_owned(), |file| file.display().to_string());
    let settings = match argument.load() {
        Ok(settings) => settings,
        Err(problems) => {
            println!("{problems}");
            let count = problems.len();
            println!("{name}: {count} problem{}", if count == 1 { "" } else { "s" });
            return ExitCode::from(WRONG);
        }
    };
    match Runtime::check(&settings) {
        Ok(()) => {
            println!("{name}: fine");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            println!("{name}: {problem}\n{name}: 1 problem");
            ExitCode::from(WRONG)
        }
    }
}
