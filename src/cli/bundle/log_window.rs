//! The lines of access logs in the window of a bundle. Memory is bounded: the newest lines are kept, and all lines are
//! counted. The logs can be read in any order.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::redaction;
use crate::access_log::reader::entry::Entry;
use crate::access_log::reader::recount::{Counters, Recount};
use crate::access_log::reader::stamp::Stamp;
use crate::cli::log_files::LogFile;

/// The largest sizes of the kept lines, in bytes.
const LINES_BYTES: usize = 32 << 20;
const FAILURES_BYTES: usize = 4 << 20;

/// The lines of the window, their counters, and the problems of the logs.
pub(super) struct LogWindow {
    /// The lines that were read last.
    pub(super) lines: Newest,
    /// The lines of failures (faults, refusals and 5xx) that were read last.
    pub(super) failures: Newest,
    pub(super) counters: Counters,
    pub(super) problems: Vec<String>,
}

/// The newest lines within a limit of bytes, without personal values and secrets.
pub(super) struct Newest {
    /// The lines by their times. The numbers keep the order of lines that have the same time.
    lines: BTreeMap<(Stamp, u64), String>,
    bytes: usize,
    most: usize,
    /// The number of lines that were added, including those that are no longer kept.
    pub(super) added: u64,
}

impl Newest {
    fn new(most: usize) -> Self {
        Self { lines: BTreeMap::new(), bytes: 0, most, added: 0 }
    }

    fn add(&mut self, time: Stamp, line: String) {
        self.added += 1;
        self.bytes += line.len() + 1;
        self.lines.insert((time, self.added), line);
        while self.bytes > self.most
            && let Some((_, oldest)) = self.lines.pop_first()
        {
            self.bytes -= oldest.len() + 1;
        }
    }

    /// Returns the lines, the oldest line first.
    pub(super) fn kept(&self) -> impl DoubleEndedIterator<Item = &String> {
        self.lines.values()
    }

    /// Returns the lines as the content of a file.
    pub(super) fn content(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(self.bytes);
        for line in self.kept() {
            content.extend_from_slice(line.as_bytes());
            content.push(b'\n');
        }
        content
    }
}

impl LogWindow {
    /// Reads the logs. A line is in the window if its time is `from` or later.
    pub(super) fn read(paths: &[PathBuf], from: Stamp) -> Self {
        let mut lines = Newest::new(LINES_BYTES);
        let mut failures = Newest::new(FAILURES_BYTES);
        let mut problems = Vec::new();
        let mut recount = Recount::new(Some(from), "");
        for path in paths {
            let read = LogFile::open(path).and_then(|mut file| {
                let result = file.read(|line, entry| {
                    let time = Stamp::of_text(entry.time.raw()).filter(|time| *time >= from);
                    let Some(time) = time else { return Ok(()) };
                    recount.add(entry).map_err(|_| {
                        "the log has more combinations of providers, classes and statuses than edgeshim can write; \
                         name a log of edgeshim"
                            .to_owned()
                    })?;
                    let shown = redaction::line(line, entry.is_pull()).map_err(str::to_owned)?;
                    if is_failure(entry) {
                        failures.add(time, shown.clone());
                    }
                    lines.add(time, shown);
                    Ok(())
                });
                let unreadable = file.tally.unreadable;
                if unreadable > 0 && result.is_ok() {
                    problems.push(format!("{}: {unreadable} lines cannot be read", file.name));
                }
                result
            });
            if let Err(problem) = read {
                problems.push(problem);
            }
        }
        Self { lines, failures, counters: recount.counters(), problems }
    }
}

/// Returns whether a pull failed: the line has a fault or a refusal, or the status is 5xx.
fn is_failure(entry: &Entry<'_>) -> bool {
    entry.is_pull() && (!entry.cause.is_empty() || entry.status >= 500)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn lines_when_larger_than_the_limit_then_newest_are_kept_and_all_are_counted() {
        let at = |millis| Stamp::of_time(UNIX_EPOCH + Duration::from_millis(millis));
        // The newer log is read first.
        for order in [(0..100).collect::<Vec<_>>(), (50..100).chain(0..50).collect()] {
            let mut newest = Newest::new(20);
            for number in order {
                newest.add(at(number), format!("line {number:02}"));
            }
            assert_eq!((newest.added, newest.kept().count()), (100, 2));
            assert_eq!(newest.content(), b"line 98\nline 99\n");
            newest.add(at(100), "x".repeat(30));
            assert_eq!((newest.kept().count(), newest.bytes), (0, 0));
        }
    }

    #[test]
    fn lines_when_their_times_are_equal_then_stay_in_the_order_of_the_log() {
        let mut newest = Newest::new(20);
        for line in ["b", "a", "c"] {
            newest.add(Stamp::of_time(UNIX_EPOCH), line.to_owned());
        }
        assert_eq!(newest.content(), b"b\na\nc\n");
    }
}
