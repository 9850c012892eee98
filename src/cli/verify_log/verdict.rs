//! The result of `verify-log`, as text and as JSON.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use super::comparison::{Row, missing_pulls};
use crate::access_log::reader::recount::{Counters, Recount, Series};
use crate::access_log::reader::stamp::Stamp;

/// The largest number of differing series of one metric that are shown.
const MOST_SHOWN: usize = 20;

/// What is known about one log.
pub(super) struct FileLines {
    pub(super) name: String,
    pub(super) lines: u64,
    pub(super) unreadable: u64,
    /// The number of the first unreadable line, and why it cannot be read.
    pub(super) first_unreadable: Option<(u64, String)>,
    pub(super) has_incomplete_line: bool,
}

/// The comparison with a running edgeshim.
pub(super) struct Compared {
    pub(super) rows: Vec<Row>,
    /// Whether requests ended, or were in flight, while the log was read.
    pub(super) is_moving: bool,
    pub(super) started: Option<Stamp>,
    pub(super) dropped: u64,
}

/// The result of `verify-log`.
pub(super) struct Verdict {
    pub(super) files: Vec<FileLines>,
    pub(super) recount: Recount,
    pub(super) counters: Counters,
    pub(super) compared: Option<Compared>,
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
}

impl Verdict {
    fn unreadable(&self) -> u64 {
        self.files.iter().map(|file| file.unreadable).sum()
    }

    fn all_lines(&self) -> u64 {
        self.files.iter().map(|file| file.lines).sum()
    }

    fn differing(&self) -> usize {
        let rows = self.compared.iter().flat_map(|compared| &compared.rows).filter(|row| row.is_exact());
        rows.map(|row| row.differences.len()).sum()
    }

    /// Returns whether all lines can be read and the log equals the counters.
    pub(super) fn is_fine(&self) -> bool {
        self.unreadable() == 0 && self.differing() == 0
    }

    #[allow(clippy::cast_precision_loss, reason = "a rate needs no exact number")]
    fn lines_per_second(&self) -> f64 {
        (self.all_lines() as f64 / self.elapsed.as_secs_f64().max(1e-6)).round()
    }

    /// Returns the notes about lines that do not count and about possible causes of a difference.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for file in &self.files {
            if let Some((number, why)) = &file.first_unreadable {
                let unreadable = file.unreadable;
                notes.push(format!(
                    "{}: {unreadable} unreadable lines do not count; the first is line {number}: {why}",
                    file.name
                ));
            }
            if file.has_incomplete_line {
                notes.push(format!("{}: the last line is incomplete and does not count", file.name));
            }
        }
        let Some(compared) = &self.compared else { return notes };
        let earlier = self.recount.earlier_lines;
        if let (Some(started), true) = (compared.started, earlier > 0) {
            notes.push(format!(
                "{earlier} lines do not count, because they are older than the process, which started at {}",
                started.text()
            ));
        }
        if compared.is_moving {
            notes.push(
                "requests ended, or were in flight, while the log was read: each counter was read before and after \
                 the log, and the log must be between the two values"
                    .to_owned(),
            );
        }
        let missing = missing_pulls(&compared.rows);
        if compared.dropped > 0 {
            let explained = match missing {
                0 => "no line of a pull is missing",
                missing if missing <= compared.dropped => "this explains the missing lines",
                _ => "this explains only a part of the missing lines",
            };
            notes.push(format!(
                "edgeshim dropped {} lines of its access log (edgeshim_access_log_dropped_total); pulls without a \
                 line: {missing}; {explained}",
                compared.dropped
            ));
        } else if missing > 0 {
            let first =
                self.recount.span.map_or("there is no line since the start of the process".to_owned(), |(first, _)| {
                    format!("the time of the first line that counts is {}", first.text())
                });
            let started = compared
                .started
                .map_or(String::new(), |started| format!(", and the process started at {}", started.text()));
            notes.push(format!(
                "pulls without a line: {missing}; {first}{started}; name all rotated files since the start, and \
                 check that access_log did not change since the start"
            ));
        }
        notes
    }

    /// Returns the result as one JSON object.
    pub(super) fn json(&self) -> Value {
        let span = self.recount.span;
        let files: Vec<_> = self
            .files
            .iter()
            .map(|file| {
                json!({
                    "name": file.name,
                    "lines": file.lines,
                    "unreadable": file.unreadable,
                    "first_unreadable": file.first_unreadable.as_ref().map(|(number, _)| number),
                    "has_incomplete_line": file.has_incomplete_line,
                })
            })
            .collect();
        let counters: Vec<_> =
            self.counters.iter().map(|(series, count)| labelled(series, json!({ "log": count }))).collect();
        let differences = |exact: bool| -> Vec<Value> {
            let rows = self.compared.iter().flat_map(|compared| &compared.rows).filter(|row| row.is_exact() == exact);
            rows.flat_map(|row| &row.differences)
                .map(|one| labelled(&one.series, json!({ "log": one.log, "counter": one.counter })))
                .collect()
        };
        json!({
            "fine": self.is_fine(),
            "equal": self.compared.as_ref().map(|_| self.differing() == 0),
            "files": files,
            "lines": self.recount.lines,
            "local_lines": self.recount.local_lines,
            "earlier_lines": self.recount.earlier_lines,
            "first": span.map(|(first, _)| first.text().to_owned()),
            "last": span.map(|(_, last)| last.text().to_owned()),
            "dropped": self.compared.as_ref().map(|compared| compared.dropped),
            "differences": differences(true),
            "approximate_differences": differences(false),
            "counters": counters,
            "notes": self.notes(),
            "bytes": self.bytes,
            "seconds": self.elapsed.as_secs_f64(),
            "lines_per_second": self.lines_per_second(),
        })
    }
}

fn labelled(series: &Series, mut values: Value) -> Value {
    if let Some(object) = values.as_object_mut() {
        object.insert("name".to_owned(), json!(series.name));
        let labels = series.labels.iter().map(|(name, value)| (name.clone(), json!(value)));
        object.insert("labels".to_owned(), Value::Object(labels.collect()));
    }
    values
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Recount { lines, local_lines, beacons, span, .. } = &self.recount;
        let files = self.files.len();
        write!(f, "{files} file{}, {lines} lines that count", if files == 1 { "" } else { "s" })?;
        if let Some((first, last)) = span {
            write!(f, ", from {} to {}", first.text(), last.text())?;
        }
        writeln!(
            f,
            "\npulls: {}; requests to local endpoints: {local_lines}, of these beacons: {beacons}\n",
            lines - local_lines
        )?;
        match &self.compared {
            None => {
                for (series, count) in &self.counters {
                    writeln!(f, "{series} {count}")?;
                }
            }
            Some(compared) => {
                writeln!(f, "{:<32} {:>6} {:>16} {:>16}", "counter", "series", "log", "edgeshim")?;
                for row in &compared.rows {
                    write_row(f, row)?;
                }
            }
        }
        let notes = self.notes();
        if !notes.is_empty() {
            f.write_char('\n')?;
        }
        for note in notes {
            writeln!(f, "note: {note}")?;
        }
        writeln!(
            f,
            "\nread {} bytes in {:.2} s, {} lines per second",
            self.bytes,
            self.elapsed.as_secs_f64(),
            self.lines_per_second()
        )?;
        match (&self.compared, self.differing()) {
            (None, _) if self.is_fine() => Ok(()),
            (None, _) => writeln!(f, "the log has unreadable lines"),
            (Some(_), 0) if self.is_fine() => writeln!(f, "the log equals the counters"),
            (Some(_), 0) => writeln!(f, "the readable lines equal the counters, but the log has unreadable lines"),
            (Some(_), count) => {
                let series = if count == 1 { "1 series differs".to_owned() } else { format!("{count} series differ") };
                writeln!(f, "the log does not equal the counters: {series}")
            }
        }
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, row: &Row) -> fmt::Result {
    let word = match (row.is_exact(), row.differences.is_empty()) {
        (true, true) => "equal",
        (true, false) => "DIFFERS",
        (false, _) => "not compared: the log shows only a part",
    };
    let Row { metric, series, log_sum, counter_sum, differences } = row;
    writeln!(f, "{:<32} {series:>6} {log_sum:>16} {counter_sum:>16}  {word}", metric.name())?;
    let shown = if row.is_exact() { differences } else { &[][..] };
    for one in shown.iter().take(MOST_SHOWN) {
        let (by, what) = match one.log.checked_sub(one.counter) {
            Some(more) => (more, "more"),
            None => (one.counter - one.log, "less"),
        };
        writeln!(f, "  {}: log {}, edgeshim {}: the log has {by} {what}", one.series, one.log, one.counter)?;
    }
    match shown.len().checked_sub(MOST_SHOWN) {
        Some(more @ 1..) => writeln!(f, "  and {more} more series"),
        _ => Ok(()),
    }
}
