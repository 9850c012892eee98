//! `edgeshim check`: every problem of a configuration at once.

use std::process::ExitCode;

use super::{ConfigArgument, WRONG, load};
use crate::runtime::Runtime;

pub(super) fn check(argument: &ConfigArgument) -> ExitCode {
    let file = argument.file();
    let name = file.as_ref().map_or_else(|| "the defaults".to_owned(), |file| file.display().to_string());
    let settings = match load(file.as_deref()) {
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
            println!("{name}: {problem}");
            println!("{name}: 1 problem");
            ExitCode::from(WRONG)
        }
    }
}
