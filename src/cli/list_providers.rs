//! `edgeshim providers`: the presets as a table, or all facts of one preset.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::terminal::{USAGE, print};
use crate::cdn::preset::{NAMES, Preset};

#[derive(Debug, clap::Args)]
pub(super) struct ProvidersArguments {
    /// Show all facts of this preset, each with its source.
    name: Option<String>,
}

pub(super) fn providers(arguments: &ProvidersArguments) -> ExitCode {
    let Some(name) = &arguments.name else {
        print(&table());
        return ExitCode::SUCCESS;
    };
    let Some(preset) = Preset::named(&name.to_ascii_lowercase()) else {
        eprintln!("edgeshim providers: there is no preset {name:?}; write one of {}", NAMES.join(", "));
        return ExitCode::from(USAGE);
    };
    print(&one(preset));
    ExitCode::SUCCESS
}

// Errors of `writeln!` are ignored in this file, because writing to a `String` cannot fail.
fn table() -> String {
    let mut text = row(["preset", "CDN", "targeted field", "cache tags in", "br from origin", "proofs"]);
    for preset in Preset::all() {
        let field = preset.targeted_field.as_ref().map_or("Cache-Control (s-maxage)", |field| &field.spelled);
        text += &row([
            preset.name,
            &preset.title,
            field,
            preset.tag_field_name(),
            preset.br.as_str(),
            &preset.proofs.join(", "),
        ]);
        let signals: Vec<_> = preset.signals.iter().map(ToString::to_string).collect();
        let signals = if signals.is_empty() { "the identity header only".to_owned() } else { signals.join("; ") };
        let _ = writeln!(text, "{:<12}signals: {signals}", "");
    }
    text + "\n`edgeshim providers NAME` shows all facts of one preset, each with its source.\n"
}

fn row([name, cdn, field, tags, br, proofs]: [&str; 6]) -> String {
    format!("{name:<12}{cdn:<50}{field:<31}{tags:<18}{br:<16}{proofs}\n")
}

fn one(preset: &Preset) -> String {
    let mut text = format!("{}: {}\n", preset.name, preset.title);
    if let Some(day) = &preset.ended {
        let _ = writeln!(text, "this CDN's service ended on {day}");
    }
    for fact in &preset.facts {
        let _ = writeln!(text, "\n{:<12}{}\n{:<12}{}", fact.table, fact.text, "", fact.source);
    }
    text
}
