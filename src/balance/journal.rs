//! The journal: one JSON object a line for each change, and a lock so that two changes never run at the same time.
//!
//! The file only grows. A line that was cut, for example by a full disk, is skipped when the journal is read, and the
//! next line begins in a new line. The order of the lines counts, not their times, so a clock that jumps does no harm.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::share::Shares;
use crate::clock;
use crate::keys::quote;
use crate::regular_file;

/// The largest number of changes that stay in memory. `history` and `rollback` see these changes.
const MAX_ENTRIES: usize = 10_000;
/// The longest line that is read, in bytes.
const MAX_LINE_BYTES: u64 = 4 * 1024 * 1024;
/// The result of a change that succeeded. A result that begins with this word and a comma succeeded too.
pub(crate) const DONE: &str = "done";

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// RFC 3339, in UTC.
    pub time: String,
    pub id: String,
    pub who: String,
    pub action: String,
    pub provider: Option<String>,
    /// The shares of each target before the change. `None`: its nodes had different shares, or no shares.
    pub from: BTreeMap<String, Option<Shares>>,
    pub to: BTreeMap<String, Shares>,
    pub why: Option<String>,
    pub force: Option<String>,
    pub result: String,
}

impl Entry {
    pub(crate) fn is_done(&self) -> bool {
        self.result.strip_prefix(DONE).is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
    }

    pub(crate) fn to_json(&self) -> Value {
        let shares = |shares: &Option<Shares>| shares.as_ref().map(Shares::to_json).unwrap_or_default();
        let from: Map<_, _> = self.from.iter().map(|(target, one)| (target.clone(), shares(one))).collect();
        let to: Map<_, _> = self.to.iter().map(|(target, one)| (target.clone(), one.to_json())).collect();
        json!({
            "time": self.time,
            "id": self.id,
            "who": self.who,
            "action": self.action,
            "targets": self.to.keys().collect::<Vec<_>>(),
            "provider": self.provider,
            "from": from,
            "to": to,
            "why": self.why,
            "force": self.force,
            "result": self.result,
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let text = |key: &str| Some(value.get(key)?.as_str()?.to_owned());
        let optional = |key: &str| match value.get(key) {
            None | Some(Value::Null) => Some(None),
            Some(other) => other.as_str().map(|text| Some(text.to_owned())),
        };
        let from = |(target, value): (&String, &Value)| match value {
            Value::Null => Some((target.clone(), None)),
            value => Some((target.clone(), Some(Shares::from_json(value)?))),
        };
        let to = |(target, value): (&String, &Value)| Some((target.clone(), Shares::from_json(value)?));
        Some(Self {
            time: text("time")?,
            id: text("id")?,
            who: text("who")?,
            action: text("action")?,
            provider: optional("provider")?,
            from: value.get("from")?.as_object()?.iter().map(from).collect::<Option<_>>()?,
            to: value.get("to")?.as_object()?.iter().map(to).collect::<Option<_>>()?,
            why: optional("why")?,
            force: optional("force")?,
            result: text("result")?,
        })
    }
}

/// What the journal says.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// The changes, the oldest first.
    pub entries: VecDeque<Entry>,
    /// The shares that the last change of each target left.
    pub last: BTreeMap<String, Shares>,
    /// The numbers of lines that are not changes, for example because they were cut.
    pub bad_lines: Vec<usize>,
}

impl Journal {
    /// Reads the journal. A missing file is an empty journal.
    ///
    /// # Errors
    /// Returns a message if the file cannot be read.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let failed = |error| format!("the journal {} cannot be read ({error})", quote(&path.display().to_string()));
        let file = match regular_file::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
        };
        let mut journal = Self::default();
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let length = reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(failed)?;
            if length == 0 {
                break;
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let entry = serde_json::from_slice(&line).ok().and_then(|value| Entry::from_json(&value));
            match entry {
                Some(entry) => journal.add(entry),
                None => journal.bad_lines.push(number),
            }
        }
        Ok(journal)
    }

    fn add(&mut self, entry: Entry) {
        if entry.is_done() {
            self.last.extend(entry.to.clone());
        } else if entry.result.starts_with("split") {
            // The nodes were left in different states, so the journal does not know what they have.
            self.last.retain(|target, _| !entry.to.contains_key(target));
        }
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// Returns the shares of each target before its part of the last changes.
    ///
    /// # Errors
    /// Returns a message if there are not so many changes, or if the earlier shares are not known.
    pub(crate) fn before(&self, changes: usize) -> Result<BTreeMap<String, Shares>, String> {
        let done: Vec<&Entry> = self.entries.iter().rev().filter(|entry| entry.is_done()).take(changes).collect();
        if done.len() < changes || done.is_empty() {
            let count = self.entries.iter().filter(|entry| entry.is_done()).count();
            return Err(format!("the journal has {count} changes; edgeshim balance history lists them"));
        }
        let mut to = BTreeMap::new();
        for entry in done {
            for (target, shares) in &entry.from {
                match shares {
                    Some(shares) => to.insert(target.clone(), shares.clone()),
                    None => {
                        return Err(format!(
                            "the change {} of {} began with nodes of {target} that had no weights or different \
                             weights, so there is nothing to go back to; set the weights with -p",
                            entry.id, entry.time
                        ));
                    }
                };
            }
        }
        Ok(to)
    }
}

/// The journal, opened for one more line. While this value exists, no other process can open the journal so.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    path: PathBuf,
    _lock: File,
}

impl Writer {
    /// Locks the journal and opens it.
    ///
    /// # Errors
    /// Returns a message if another change is in progress, or if the journal cannot be written.
    pub(crate) fn open(path: &Path, who: &str) -> Result<Self, String> {
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let shown = |path: &Path| quote(&path.display().to_string());
        let failed = |path: &Path, error| {
            format!(
                "{} cannot be written ({error}), so no change is made; name a file in balance.toml (journal) that this \
                 user may write",
                shown(path)
            )
        };
        let mut open = OpenOptions::new();
        open.read(true).append(true).create(true);
        let lock_path = PathBuf::from(lock_path);
        let mut lock = open.open(&lock_path).map_err(|error| failed(&lock_path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.take(200).read_to_string(&mut holder);
                let holder = quote(holder.trim());
                return Err(format!(
                    "another change is in progress ({holder}); wait until it has ended, and look again"
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&lock_path, error)),
        }
        // Only a message uses the content of the lock file.
        let _ = lock.set_len(0);
        let _ = writeln!(lock, "{who}, process {}, since {}", std::process::id(), now());
        let file = open.open(path).map_err(|error| failed(path, error))?;
        Ok(Self { file, path: path.to_owned(), _lock: lock })
    }

    /// Appends a line and waits until it is on the disk.
    ///
    /// # Errors
    /// Returns a message if the line cannot be written.
    pub(crate) fn append(&mut self, entry: &Entry) -> Result<(), String> {
        let mut line = entry.to_json().to_string();
        line.push('\n');
        let mut write = |file: &mut File| {
            if !ends_with_line_end(file)? {
                line.insert(0, '\n');
            }
            file.write_all(line.as_bytes())?;
            file.sync_data()
        };
        write(&mut self.file).map_err(|error| format!("{} cannot be written ({error})", self.path.display()))
    }
}

fn ends_with_line_end(file: &mut File) -> std::io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Returns the present time as RFC 3339, in UTC.
pub(crate) fn now() -> String {
    let seconds = i64::try_from(clock::unix_time().as_secs()).unwrap_or(0);
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time.hour(), time.minute(), time.second())
}

/// Returns a new id for a change.
pub(crate) fn new_id() -> String {
    format!("{:08x}", fastrand::u32(..))
}

#[cfg(test)]
mod tests;
