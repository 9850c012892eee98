//! Exit codes, and output to the terminal.

use std::io::Write as _;

/// The exit code if what was checked is wrong.
pub(super) const WRONG: u8 = 1;
/// The exit code for wrong usage or a wrong configuration.
pub(super) const USAGE: u8 = 2;

/// Writes to standard output. An error is ignored, because a closed pipe, for example with `| head`, is not a mistake.
pub(super) fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
