//! Exit codes, and output to the terminal.

use std::io::Write as _;

/// The exit code of `check` for a configuration with problems.
pub(super) const WRONG: u8 = 1;
/// The exit code if the command line is wrong, if the configuration of a command other than `check` is wrong, or if a
/// command fails.
pub(super) const USAGE: u8 = 2;

/// Writes to standard output. An error is ignored, because a closed pipe, for example with `| head`, is not a mistake.
pub(super) fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
