//! `edgeshim providers`: the presets as a table, or all that is known of one.

use std::process::ExitCode;

use http::HeaderName;

use super::USAGE;
use crate::cdn::preset::{NAMES, Preset};

#[derive(Debug, clap::Args)]
pub(super) struct ProvidersArguments {
    /// Tells all of this preset, each fact with its source.
    name: Option<String>,
}

pub(super) fn providers(arguments: &ProvidersArguments) -> ExitCode {
    let Some(name) = &arguments.name else {
        table();
        return ExitCode::SUCCESS;
    };
    let Some(preset) = Preset::named(&name.to_ascii_lowercase()) else {
        eprintln!("edgeshim providers: no preset is called {name:?}; name one of {}", NAMES.join(", "));
        return ExitCode::from(USAGE);
    };
    one(preset);
    ExitCode::SUCCESS
}

fn table() {
    println!("{:<12}{:<36}{:<31}{:<26}proofs", "preset", "whose", "its own lifetimes in", "cache tags in");
    for preset in Preset::all() {
        let own = preset.dialect.own_field().map_or("Cache-Control (s-maxage)", HeaderName::as_str);
        println!(
            "{:<12}{:<36}{own:<31}{:<26}{}",
            preset.name,
            preset.title,
            preset.tag_place(),
            preset.proofs.join(", ")
        );
        let signals: Vec<_> = preset
            .signals
            .iter()
            .filter(|signal| !signal.order_only)
            .map(|signal| signal.matcher.to_string())
            .collect();
        let signals = if signals.is_empty() { "its name alone".to_owned() } else { signals.join("; ") };
        println!("{:<12}known by {signals}", "");
    }
    println!("\n`edgeshim providers NAME` tells all of one, each fact with its source.");
}

fn one(preset: &Preset) {
    println!("{}: {}", preset.name, preset.title);
    if let Some(day) = &preset.ended {
        println!("its service ended on {day}");
    }
    for fact in &preset.facts {
        println!("\n{:<11}{}\n{:<11}{}", fact.table, fact.text, "", fact.source);
    }
}
