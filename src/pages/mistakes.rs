//! Mistakes in page files and in the settings of pages.

use std::error::Error;
use std::{fmt, io};

/// A mistake in a template or a locale file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// The line number. The first line is 1.
    pub(super) line: usize,
    pub(super) message: String,
}

impl Mistake {
    pub(super) fn at(text: &str, at: usize, message: String) -> Self {
        Self { line: Self::line_at(text, at), message }
    }

    /// Returns the number of the line that contains a byte offset.
    pub(super) fn line_at(text: &str, at: usize) -> usize {
        text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
    }
}

/// Returns a part of a file for a message: at most 60 characters, with control characters escaped.
pub(super) fn shown(text: &str) -> String {
    let mut escaped = text.escape_debug();
    let mut shown = escaped.by_ref().take(60).collect::<String>();
    if escaped.next().is_some() {
        shown.push('…');
    }
    shown
}

/// A mistake in a file of a page folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    /// The path of the file or of its folder, with control characters escaped. If `Pages::build` or `export`
    /// finds the mistake, this text is `whoopsie.html` or the tag of the locale.
    pub file: String,
    /// The line number. The first line is 1. `None` if the problem has no line, for example because the file cannot be
    /// read.
    pub line: Option<usize>,
    /// The problem, and what to write instead.
    pub message: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(out, ":{line}")?;
        }
        write!(out, ": {}", self.message)
    }
}

/// Writes each problem on its own line.
pub(super) fn lines(problems: &[FileProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The reason why the pages cannot be built.
#[derive(Debug)]
pub enum PagesError {
    /// The template or a locale file has mistakes.
    Files(Vec<FileProblem>),
    /// A setting names an unknown locale.
    UnknownLocale {
        /// The full name of the key, such as `whoopsie.default_locale`.
        key: String,
        /// The value of the key.
        value: String,
        /// The tags of the known locales, separated by commas.
        known: String,
    },
    /// Two entries of `whoopsie.hosts` have the same host. The comparison ignores letter case and port.
    HostTwice {
        /// The host in lowercase, without a port.
        host: String,
    },
    /// There are more than 256 locales. A locale id is one byte, so there are only 256 ids.
    TooManyLocales,
    /// The compressor failed.
    Deflate(io::Error),
    /// Several of these reasons.
    Several(Vec<Self>),
}

impl PagesError {
    /// Returns each of the reasons.
    pub(crate) fn all(self) -> Vec<Self> {
        match self {
            Self::Several(all) => all,
            one => vec![one],
        }
    }
}

impl fmt::Display for PagesError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(problems) => out.write_str(&lines(problems)),
            Self::UnknownLocale { key, value, known } => {
                write!(out, "{key} = \"{value}\": there is no such locale; write one of {known}")
            }
            Self::HostTwice { host } => {
                write!(
                    out,
                    "whoopsie.hosts: \"{host}\" occurs more than once (letter case and port are ignored); \
                     keep one entry"
                )
            }
            Self::TooManyLocales => out.write_str("there are more than 256 locale files; remove some"),
            Self::Deflate(_) => out.write_str("a page could not be compressed"),
            Self::Several(all) => {
                let lines: Vec<_> = all.iter().map(ToString::to_string).collect();
                out.write_str(&lines.join("\n"))
            }
        }
    }
}

impl Error for PagesError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Deflate(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_when_longer_than_60_characters_then_is_cut() {
        for (text, cut) in [("ü".repeat(60), false), ("ü".repeat(61), true), ("\n".repeat(31), true)] {
            let shown = shown(&text);
            assert_eq!((shown.ends_with('…'), shown.chars().count()), (cut, 60 + usize::from(cut)), "{shown}");
        }
        assert_eq!(shown("\n"), "\\n");
    }
}
