//! The reasons why a valid configuration cannot be used.

use std::{fmt, io};

use rustix::io::Errno;

use crate::access_log::LogOutput;
use crate::intake::country::CountryError;
use crate::intake::ranges::RangesError;
use crate::intake::server_tls::TlsError;
use crate::origin::TlsProblem;
use crate::pages::PagesError;

/// The advice after an error of which [`is_about_open_files`] is true.
const MORE_OPEN_FILES: &str =
    "raise the limit of open files for this process (ulimit -n) or for the system (fs.file-max)";

/// The reason why a valid configuration cannot be used.
#[derive(Debug)]
pub enum BuildError {
    /// The pages cannot be rendered with these settings.
    Pages(PagesError),
    /// A glob or a value cannot be prepared, although the checks of the configuration accepted it.
    Value(String),
    /// The access log's file cannot be opened, or standard output cannot be used.
    Log(LogOutput, io::Error),
    /// The country file can no longer be used, although the checks of the configuration accepted it.
    Countries(CountryError),
    /// An address list can no longer be used, although the checks of the configuration accepted it.
    Ranges(RangesError),
    /// A file of `[origin.tls]` can no longer be used, although the checks of the configuration accepted it.
    OriginTls(TlsProblem),
    /// A file of `[server.tls]` or `client_cert.ca` can no longer be used, although the checks of the configuration
    /// accepted it.
    ServerTls(TlsError),
    /// A thread that writes the access log, or that watches files or the addresses of the origin, cannot be started, or
    /// the file descriptors that the thread needs cannot be opened.
    Thread(io::Error),
    /// Several of these reasons.
    Several(Vec<Self>),
}

impl BuildError {
    /// Returns each of the reasons.
    pub fn all(self) -> Vec<Self> {
        match self {
            Self::Several(all) => all,
            one => vec![one],
        }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pages(error) => error.fmt(f),
            Self::Value(error) => f.write_str(error),
            Self::Several(all) => {
                let lines: Vec<_> = all.iter().map(ToString::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
            Self::Countries(error) => write!(f, "beacon.country_database: the file {error}"),
            Self::Ranges(error) => write!(f, "provider.verify.addresses: {} {error}", error.path.display()),
            Self::OriginTls(problem) => problem.fmt(f),
            Self::ServerTls(error) => error.fmt(f),
            Self::Thread(error) => {
                let advice = if is_about_open_files(error) {
                    MORE_OPEN_FILES
                } else {
                    "raise the limit of threads for this user (ulimit -u)"
                };
                write!(f, "edgeshim cannot start a thread ({error}); {advice}")
            }
            Self::Log(output, error) => {
                let advice = match output {
                    _ if is_about_open_files(error) => MORE_OPEN_FILES,
                    LogOutput::File(_) => {
                        "write the path of a file in an existing folder in which this user is allowed to create files"
                    }
                    _ => "connect standard output, or write the path of a file: \"file:PATH\"",
                };
                write!(f, "access_log.output: {output} cannot be opened ({error}); {advice}")
            }
        }
    }
}

impl std::error::Error for BuildError {}

/// Returns whether the error means that no file descriptor is free.
fn is_about_open_files(error: &io::Error) -> bool {
    let codes = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_when_a_thread_cannot_start_then_names_the_limit_of_the_error() {
        for (errno, advice) in [(Errno::MFILE, "ulimit -n"), (Errno::NFILE, "fs.file-max"), (Errno::AGAIN, "ulimit -u")]
        {
            let text = BuildError::Thread(errno.into()).to_string();
            assert!(text.contains(advice) && text.contains("ulimit -u") == (advice == "ulimit -u"), "{text}");
        }
    }
}
