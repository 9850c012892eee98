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
            say!("{problems}");
            return print_count(&name, problems.len());
        }
    };
    match Runtime::check(&settings) {
        Ok(()) => {
            for warning in Runtime::warnings(&settings) {
                say!("{name}: warning: {warning}");
            }
            say!("{name}: fine");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let problems = error.all();
            for problem in &problems {
                say!("{name}: {problem}");
            }
            print_count(&name, problems.len())
        }
    }
}

fn print_count(name: &str, count: usize) -> ExitCode {
    say!("{name}: {count} problem{}", if count == 1 { "" } else { "s" });
    ExitCode::from(WRONG)
}
