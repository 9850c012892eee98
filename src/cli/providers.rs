//! `edgeshim providers`: the presets as a table, or all that is known of one.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::{USAGE, say};
use crate::cdn::preset::{NAMES, Preset};

#[derive(Debug, clap::Args)]
pub(super) struct ProvidersArguments {
    /// Tells all of this preset, each fact with its source.
    name: Option<String>,
}

pub(super) fn providers(arguments: &ProvidersArguments) -> ExitCode {
    let Some(name) = &arguments.name else {
        say(&table());
        return ExitCode::SUCCESS;
    };
    let Some(preset) = Preset::named(&name.to_ascii_lowercase()) else {
        eprintln!("edgeshim providers: no preset is called {name:?}; name one of {}", NAMES.join(", "));
        return ExitCode::from(USAGE);
    };
    say(&one(preset));
    ExitCode::SUCCESS
}

// Writing to a String cannot fail, here and below.
fn table() -> String {
    let mut text = row(["preset", "whose", "its own lifetimes in", "cache tags in", "proofs"]);
    for preset in Preset::all() {
        let own = preset.own_field.as_ref().map_or("Cache-Control (s-maxage)", |field| &field.spelled);
        text += &row([preset.name, &preset.title, own, preset.tag_place(), &preset.proofs.join(", ")]);
        let signals: Vec<_> = preset.signals.iter().map(ToString::to_string).collect();
        let signals = if signals.is_empty() { "its name alone".to_owned() } else { signals.join("; ") };
        let _ = writeln!(text, "{:<12}known by {signals}", "");
    }
    text + "\n`edgeshim providers NAME` tells all of one, each fact with its source.\n"
}

fn row([name, whose, own, tags, proofs]: [&str; 5]) -> String {
    format!("{name:<12}{whose:<50}{own:<31}{tags:<18}{proofs}\n")
}

fn one(preset: &Preset) -> String {
    let mut text = format!("{}: {}\n", preset.name, preset.title);
    if let Some(day) = &preset.ended {
        let _ = writeln!(text, "its service ended on {day}");
    }
    for fact in &preset.facts {
        let _ = writeln!(text, "\n{:<12}{}\n{:<12}{}", fact.table, fact.text, "", fact.source);
    }
    text
}
