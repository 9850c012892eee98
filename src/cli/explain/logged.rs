//! `edgeshim explain ID`: finds one request in access logs, and shows what is known about the request.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::story::{Beacon, Told};
use crate::access_log::reader::blocks::{Part, lines};
use crate::access_log::reader::entry::{Entry, shown};
use crate::access_log::reader::id_search::{Found, IdSearch};
use crate::access_log::reader::ncsa::NcsaLine;
use crate::cli::log_files::{open_blocks, refuse_repeats};
use crate::cli::terminal::{USAGE, WRONG, print, print_json};
use crate::wire::trace_context::valid_request_id;

/// The largest numbers of requests, and of beacons, that are kept. Further requests and beacons are only counted. A
/// client can send the same request id any number of times.
const MOST_FOUND: usize = 1_000;
/// The largest size of the kept lines, in bytes. A line of edgeshim has at most about 30 KiB.
const MOST_BYTES: usize = 8 << 20;

/// The number of lines at the start of a file that decide its format. If none of these lines can be read, the file is
/// not a log of edgeshim.
const FIRST_LINES: usize = 10;

/// What was found in the logs.
#[derive(Default)]
struct Findings {
    requests: Vec<Told>,
    beacons: Vec<Beacon>,
    kept_bytes: usize,
    /// The number of requests and beacons that were found, but not kept.
    more: usize,
    /// The names of the logs in the format combined or etsy.
    other_formats: Vec<String>,
    /// The names of the files that are not logs of edgeshim.
    foreign: Vec<String>,
    /// The number of lines that contain the id but cannot be read.
    unreadable: u64,
    /// The file of the first such line, and why the line cannot be read.
    first_unreadable: Option<String>,
    bytes: u64,
    elapsed: Duration,
}

pub(super) fn explain_logged(id: &str, logs: &[PathBuf], as_json: bool) -> ExitCode {
    let found = request_id(id).and_then(|id| Ok((search(id, logs)?, id)));
    let (findings, id) = match found {
        Ok(found) => found,
        Err(message) => {
            eprintln!("edgeshim explain: {message}");
            return ExitCode::from(USAGE);
        }
    };
    let is_found = !findings.requests.is_empty() || !findings.beacons.is_empty();
    if as_json {
        print_json(&findings.json(id));
    } else {
        print(&findings.text(id));
    }
    if !is_found {
        eprintln!("edgeshim explain: {}", findings.remedy(id));
        return ExitCode::from(WRONG);
    }
    ExitCode::SUCCESS
}

/// Returns the request id in the text that the user wrote: the id, or the complete reference of a page, which begins
/// with the id.
fn request_id(text: &str) -> Result<&str, String> {
    let id = text.trim().split(|c: char| c.is_whitespace() || c == '·').next().unwrap_or_default();
    if valid_request_id(id.as_bytes()) {
        return Ok(id);
    }
    Err(format!(
        "{:?} is not a request id; write the first part of the reference on the error page: 1 to 128 letters, digits, \
         dots, underscores and hyphens",
        shown(text, 80)
    ))
}

fn search(id: &str, logs: &[PathBuf]) -> Result<Findings, String> {
    let search = IdSearch::new(id);
    let mut findings = Findings::default();
    let begun = Instant::now();
    refuse_repeats(logs)?;
    for path in logs {
        let (name, mut blocks) = open_blocks(path)?;
        let mut is_judged = false;
        while let Some(part) = blocks.next().map_err(|error| format!("{name}: {error}"))? {
            let Part::Lines(part) = part else { continue };
            if !std::mem::replace(&mut is_judged, true) {
                findings.judge(&name, lines(part));
            }
            search.search(part, |line, found| findings.add(&name, line, &found));
        }
        // The last line does not need a newline.
        let rest = blocks.rest();
        if !is_judged && rest.is_empty() && blocks.bytes > 0 {
            // All lines were too long.
            findings.foreign.push(name.clone());
        } else if !is_judged {
            findings.judge(&name, std::iter::once(rest));
        }
        search.search(rest, |line, found| findings.add(&name, line, &found));
        findings.bytes += blocks.bytes;
    }
    findings.elapsed = begun.elapsed();
    findings.requests.sort_by(|one, other| one.time.cmp(&other.time));
    Ok(findings)
}

impl Findings {
    /// Checks the first lines of a file. Notes the name of the file if the file has the format combined or etsy, or is
    /// not a log of edgeshim.
    fn judge<'l>(&mut self, name: &str, lines: impl Iterator<Item = &'l [u8]>) {
        let mut first = lines.filter(|line| !line.trim_ascii().is_empty()).take(FIRST_LINES).peekable();
        if first.peek().is_some_and(|line| NcsaLine::read(line).is_some()) {
            self.other_formats.push(name.to_owned());
        } else if first.peek().is_some() && !first.any(|line| Entry::read(line).is_ok()) {
            self.foreign.push(name.to_owned());
        }
    }

    fn add(&mut self, name: &str, line: &[u8], found: &Found<'_>) {
        match found {
            Found::Request(entry) if self.requests.len() < MOST_FOUND && self.kept_bytes + line.len() <= MOST_BYTES => {
                self.kept_bytes += line.len();
                self.requests.push(Told::new(name, line, entry));
            }
            Found::Beacon(Entry { time, client, .. }) if self.beacons.len() < MOST_FOUND => {
                self.beacons.push(Beacon { time: time.shown(40), client: client.shown(60) });
            }
            Found::NcsaBeacon(NcsaLine { time, .. }) if self.beacons.len() < MOST_FOUND => {
                let time = shown(&String::from_utf8_lossy(time), 40);
                self.beacons.push(Beacon { time, client: String::new() });
            }
            Found::Request(_) | Found::Beacon(_) | Found::NcsaBeacon(_) => self.more += 1,
            Found::OtherFormat => {}
            Found::Unreadable(why) => {
                self.unreadable += 1;
                self.first_unreadable.get_or_insert_with(|| format!("{name}: {why}"));
            }
        }
    }

    fn text(&self, id: &str) -> String {
        let mut parts: Vec<String> = self.requests.iter().map(Told::text).collect();
        if self.requests.len() > 1 {
            let count = self.requests.len();
            parts.insert(0, format!("{count} requests have the id {id}: the client or the CDN sent the id again.\n"));
        }
        if let Some(first) = self.beacons.first() {
            let count = self.beacons.len();
            let times = if count == 1 { "once".to_owned() } else { format!("{count} times") };
            let client = if first.client.is_empty() { String::new() } else { format!(" by {}", first.client) };
            parts.push(format!(
                "A browser displayed the page with this reference: its beacon was requested {times}, first at \
                 {}{client}.\n",
                first.time
            ));
        }
        if self.more > 0 {
            parts.push(format!("{} more lines with this id are not shown.\n", self.more));
        }
        if !parts.is_empty()
            && let Some(first) = &self.first_unreadable
        {
            parts.push(format!("{} lines contain the id but cannot be read; the first: {first}.\n", self.unreadable));
        }
        parts.join("\n")
    }

    /// Returns what the user can do if nothing was found.
    fn remedy(&self, id: &str) -> String {
        let mut text = format!("no request with the id {id} in {} bytes of log", self.bytes);
        if let Some(name) = self.other_formats.first() {
            let _ = write!(
                text,
                "; {name} has the format combined or etsy, whose lines have no request id; to find later requests, \
                 write access_log.format = \"json\""
            );
        } else if let Some(name) = self.foreign.first() {
            let _ = write!(
                text,
                "; {name} is not an access log of edgeshim: none of its first lines can be read; name a log that \
                 edgeshim wrote with access_log.format = \"json\""
            );
        } else {
            text += "; name the logs of all instances, also the rotated files, for the time in the reference";
        }
        if let Some(first) = &self.first_unreadable {
            let _ = write!(text, "; {} lines contain the id but cannot be read, the first: {first}", self.unreadable);
        }
        text
    }

    fn json(&self, id: &str) -> Value {
        let beacons: Vec<_> =
            self.beacons.iter().map(|beacon| json!({ "time": beacon.time, "client": beacon.client })).collect();
        json!({
            "id": id,
            "requests": self.requests.iter().map(Told::json).collect::<Vec<_>>(),
            "beacons": beacons,
            "more": self.more,
            "unreadable_lines": self.unreadable,
            "bytes": self.bytes,
            "seconds": self.elapsed.as_secs_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_when_written_as_complete_reference_then_first_part_is_used() {
        for text in ["r-1", " r-1 ", "r-1 · 2026-11-28 12:30:00 UTC · fastly FRA · 503", "r-1\u{a0}· x", "r-1·x"] {
            assert_eq!(request_id(text), Ok("r-1"), "{text}");
        }
        for text in ["", " ", "·", "a/b", "\u{1b}[2J", &"x".repeat(129), "r-1\"}"] {
            let message = request_id(text).unwrap_err();
            assert!(!message.contains('\u{1b}') && message.contains("write the first part"), "{message}");
        }
    }
}
