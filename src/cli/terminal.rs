//! Exit codes, and output to the terminal.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::wire::json::is_active;

/// The exit code of a command that has found that something is wrong or missing, and of a `balance` that was refused,
/// was interrupted or has failed.
pub(super) const WRONG: u8 = 1;
/// The exit code if the command line or the configuration is wrong, or if the command fails. There are two exceptions:
/// `check` exits with [`WRONG`] if the configuration is wrong, and `balance` exits with [`WRONG`] if it fails.
pub(super) const USAGE: u8 = 2;

/// Whether a text is missing in standard output, because a write has failed.
static IS_INCOMPLETE: AtomicBool = AtomicBool::new(false);

/// Writes to standard output. A closed pipe is not a mistake, for example with `| head`. After any other error, for
/// example on a full disk, [`exit_code`] returns [`USAGE`] in place of success. The command goes on, because it can be
/// in the middle of a change.
pub(super) fn print(text: &str) {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe && !IS_INCOMPLETE.swap(true, Ordering::Relaxed) => {
            // Standard error can be closed too.
            let _ = writeln!(
                std::io::stderr(),
                "edgeshim: cannot write to standard output: {error}; the output is incomplete"
            );
        }
        _ => {}
    }
}

/// Returns the exit code of a command: its own exit code, or [`USAGE`] if it succeeded but its output is incomplete.
pub(super) fn exit_code(own: ExitCode) -> ExitCode {
    if own == ExitCode::SUCCESS && IS_INCOMPLETE.load(Ordering::Relaxed) { ExitCode::from(USAGE) } else { own }
}

/// Writes a JSON object to standard output, on one line. Characters that control a terminal are escaped.
pub(super) fn print_json(value: &serde_json::Value) {
    print(&(inert_json(&value.to_string()) + "\n"));
}

/// Writes a JSON value to standard output, with one member on each line. Characters that control a terminal are
/// escaped.
pub(super) fn print_json_lines(value: &serde_json::Value) {
    print(&(inert_json(&format!("{value:#}")) + "\n"));
}

/// Escapes the characters of a JSON text that a terminal or an editor interprets. serde escapes only some of them.
/// Outside of strings JSON has no such character.
fn inert_json(text: &str) -> String {
    if !text.contains(is_active) {
        return text.to_owned();
    }
    let mut inert = String::with_capacity(text.len());
    for character in text.chars() {
        if is_active(character) {
            // All these characters are in the basic plane.
            let _ = write!(inert, "\\u{:04x}", u32::from(character));
        } else {
            inert.push(character);
        }
    }
    inert
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_when_active_characters_are_present_then_is_escaped_and_has_the_same_value() {
        let value = serde_json::json!({ "a": "x\u{9b}31m\u{202e}\u{7f}\u{1b}é" });
        let text = inert_json(&value.to_string());
        assert!(!text.contains(|character: char| character.is_control() || is_active(character)), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
