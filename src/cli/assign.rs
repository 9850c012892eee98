//! `edgeshim assign`: shows which arm of each experiment a visitor gets, and why.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use super::config_argument::ConfigArgument;
use super::terminal::{USAGE, print};
use crate::edge::assign::Decision;
use crate::edge::assign::experiment::Experiment;

#[derive(Debug, clap::Args)]
pub(super) struct AssignArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The visitor's id: the value of the cookie or of the header field that `experiment.id` names.
    #[arg(long)]
    id: String,
    /// The visitor's group, as a trusted proxy sends it.
    #[arg(long)]
    group: Option<String>,
    /// Show only this experiment.
    #[arg(long, value_name = "NAME")]
    experiment: Option<String>,
    /// Print the result as a JSON list.
    #[arg(long)]
    json: bool,
}

/// The arm of the visitor in one experiment.
#[derive(Debug, Serialize)]
struct Shown {
    experiment: &'static str,
    /// The arm, or `none`.
    arm: &'static str,
    /// The value of the field for the origin. `None`: the origin gets no field.
    value: Option<String>,
    why: String,
}

pub(super) fn assign(arguments: &AssignArguments) -> ExitCode {
    let settings = match arguments.config.load_or_print() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    if arguments.id.is_empty() {
        return failed("--id is empty; write the visitor's id");
    }
    let experiments: Vec<_> = settings.experiments.into_iter().filter_map(Experiment::new).collect();
    let names = experiments.iter().map(|experiment| experiment.name).collect::<Vec<_>>().join(", ");
    let is_wanted = |experiment: &&Experiment| {
        arguments.experiment.as_ref().is_none_or(|name| experiment.name.eq_ignore_ascii_case(name))
    };
    let shown: Vec<_> = experiments.iter().filter(is_wanted).map(|experiment| show(experiment, arguments)).collect();
    if names.is_empty() {
        return failed("the configuration has no experiment; write an [[experiment]] block");
    }
    if shown.is_empty() {
        return failed(&format!("--experiment: there is no such experiment; write one of {names}"));
    }
    if arguments.json {
        return match serde_json::to_string_pretty(&shown) {
            Ok(text) => {
                print(&(text + "\n"));
                ExitCode::SUCCESS
            }
            Err(error) => failed(&error.to_string()),
        };
    }
    let mut text = String::new();
    for Shown { experiment, arm, why, .. } in shown {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{experiment}: {arm} ({why})");
    }
    print(&text);
    ExitCode::SUCCESS
}

fn show(experiment: &Experiment, arguments: &AssignArguments) -> Shown {
    if !experiment.settings.enabled {
        let why = "experiment.enabled is false".to_owned();
        return Shown { experiment: experiment.name, arm: "none", value: None, why };
    }
    let (id, group) = (arguments.id.as_bytes(), arguments.group.as_deref().map(str::as_bytes));
    let (arm, why) = experiment.choose(None, Some(id), group);
    let value = arm.and_then(|arm| experiment.arms.get(arm)).and_then(|arm| arm.value.to_str().ok());
    let value = value.map(str::to_owned);
    let arm = Decision { experiment, arm, why }.arm_name();
    Shown { experiment: experiment.name, arm, value, why: why.explanation() }
}

fn failed(message: &str) -> ExitCode {
    eprintln!("edgeshim assign: {message}");
    ExitCode::from(USAGE)
}
