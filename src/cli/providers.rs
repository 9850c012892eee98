//! `edgeshim providers`: the CDNs that a configuration can name.

use std::process::ExitCode;

use crate::cdn::preset::PRESETS;

pub(super) fn providers() -> ExitCode {
    println!("{:<12}{:<50}its pulls carry", "preset", "what");
    for preset in PRESETS {
        println!("{:<12}{:<50}{}", preset.name, preset.title, preset.sign);
    }
    println!(
        "\nEach is told its lifetimes by Cache-Control (max-age, s-maxage) and recognised by its X-CDN-Provider header."
    );
    ExitCode::SUCCESS
}
