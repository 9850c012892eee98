//! The journal: one JSON object per line, and a lock so that two changes never run at the same time.
//!
//! A change has two lines with the same id. The first line has the result `started`, and is written before DNS is
//! changed. The second line has the result. If the process is killed between the two lines, the first line remains as a
//! trace.
//!
//! Earlier lines never change. If a line was cut, for example by a full disk, readers skip this line, and the next
//! change begins on a new line. The order of the lines counts, and not their times. So a clock that jumps does no harm.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;
use serde_json::{Map, Value, json};

use super::share::Shares;
use crate::clock;
use crate::keys::quote;
use crate::regular_file;
use crate::wire::json::is_active;

/// The largest number of entries that stay in memory. `history` and `rollback` use only these entries.
const MAX_ENTRIES: usize = 10_000;
/// The longest line, in bytes.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// The longest result in a line, in bytes. In JSON, each quote and each backslash of the result needs two bytes.
/// Control characters would need up to six bytes, and are replaced.
const MAX_RESULT_BYTES: usize = 8 * 1024;
/// The largest journal that is read and written, in bytes.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;
/// The largest number of attempts to read the name of the process that has a lock.
const HOLDER_TRIES: u32 = 20;
/// The wait after an attempt that finds no name.
const HOLDER_WAIT: Duration = Duration::from_millis(5);
/// The result of a change that succeeded. After a comma, the result can say what could not be checked.
pub(crate) const DONE: &str = "done";
/// The result of a line that says why no change was made. Nothing was written to DNS.
pub(crate) const KEPT: &str = "kept";
/// The result of a change that has begun.
pub(crate) const STARTED: &str = "started";

/// One change, or a note that says why no change was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The time in UTC, in the form of RFC 3339.
    pub time: String,
    pub id: String,
    pub who: String,
    pub action: String,
    pub provider: Option<String>,
    /// The shares of each target before the change. `None`: the nodes had different shares, or a node had no shares.
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

    /// Returns whether the journal has no result of the change.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.result == STARTED
    }

    /// Returns whether the nodes can have the shares of this change: the change succeeded, or its result is unknown.
    pub(crate) fn counts(&self) -> bool {
        self.is_done() || self.is_unfinished()
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

    /// Reads an entry. Messages show the id, the time and the targets. If one of them has characters that control a
    /// terminal, the line is rejected. edgeshim writes no such line.
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
        let entry = Self {
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
        };
        let is_plain = |text: &String| !text.chars().any(|character| character.is_control() || is_active(character));
        let mut targets = entry.from.keys().chain(entry.to.keys());
        let is_fit = is_plain(&entry.time) && is_plain(&entry.id) && targets.all(is_plain);
        is_fit.then_some(entry)
    }
}

/// The content of the journal.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// The changes, and the lines that say why no change was made. The oldest is first.
    pub entries: VecDeque<Entry>,
    /// The shares of each target after its last change, without the change in `unfinished`. A target is missing if
    /// these shares are unknown.
    pub last: BTreeMap<String, Shares>,
    /// The last change of each target, if the journal has no result of the change.
    pub unfinished: BTreeMap<String, Entry>,
    /// The number of lines that cannot be read as an entry, for example because they were cut.
    pub bad_lines: usize,
    /// The line number of the first line that cannot be read as an entry.
    pub first_bad_line: Option<usize>,
}

impl Journal {
    /// Reads the journal. A missing file is an empty journal.
    ///
    /// # Errors
    /// Returns a message if the file cannot be read, or if it is too large.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let failed = |error| format!("the journal {} cannot be read ({error})", shown(path));
        let file = match regular_file::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
        };
        if file.metadata().map_err(failed)?.len() > MAX_FILE_BYTES {
            return Err(too_large(path));
        }
        let mut journal = Self::default();
        // The file can grow while it is read.
        let mut reader = BufReader::new(file.take(MAX_FILE_BYTES));
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let most = MAX_LINE_BYTES as u64 + 1;
            if reader.by_ref().take(most).read_until(b'\n', &mut line).map_err(failed)? == 0 {
                break;
            }
            let is_too_long = line.len() > MAX_LINE_BYTES && !line.ends_with(b"\n");
            if is_too_long {
                reader.skip_until(b'\n').map_err(failed)?;
            }
            if line.iter().all(u8::is_ascii_whitespace) && !is_too_long {
                continue;
            }
            let parsed = || Entry::from_json(&serde_json::from_slice(&line).ok()?);
            if let Some(entry) = parsed().filter(|_| !is_too_long) {
                journal.add(entry);
            } else {
                journal.bad_lines += 1;
                journal.first_bad_line.get_or_insert(number);
            }
        }
        Ok(journal)
    }

    fn add(&mut self, entry: Entry) {
        if entry.result == KEPT {
            return self.push(entry);
        }
        let began = self.entries.iter().rposition(|began| began.is_unfinished() && began.id == entry.id);
        for (target, to) in &entry.to {
            let mut left = |shares: Option<&Shares>| match shares {
                Some(shares) => drop(self.last.insert(target.clone(), shares.clone())),
                // The shares of the nodes are unknown.
                None => drop(self.last.remove(target)),
            };
            if entry.is_unfinished() {
                if self.unfinished.insert(target.clone(), entry.clone()).is_some() {
                    // The earlier change was interrupted. `from` of the new change has the shares after the
                    // interruption.
                    left(entry.from.get(target).and_then(Option::as_ref));
                }
                continue;
            }
            self.unfinished.remove(target);
            if entry.is_done() {
                left(Some(to));
            } else if entry.result.starts_with("split") {
                left(None);
            }
        }
        if let Some(began) = began.and_then(|at| self.entries.get_mut(at)) {
            *began = entry;
            return;
        }
        self.push(entry);
    }

    fn push(&mut self, entry: Entry) {
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }
}

fn shown(path: &Path) -> String {
    quote(&path.display().to_string())
}

fn too_large(path: &Path) -> String {
    format!(
        "the journal {} has no more room (the limit is {} MiB); rename the file, and keep it; the next change \
         begins a new journal, and history and rollback then use only the changes in the new journal",
        shown(path),
        MAX_FILE_BYTES / 1024 / 1024
    )
}

/// Why a lock was not taken.
#[derive(Debug)]
pub(super) enum Locked {
    /// The file is locked already. The text says by whom.
    By(String),
    Failed(std::io::Error),
}

/// Why a change cannot begin.
#[derive(Debug)]
pub(crate) struct NotBegun {
    /// Whether another change is the reason. If not, a DNS service or the journal cannot be used.
    pub is_conflict: bool,
    pub texts: Vec<String>,
}

impl NotBegun {
    pub(super) fn conflict(text: String) -> Self {
        Self { is_conflict: true, texts: vec![text] }
    }

    pub(super) fn failed(texts: Vec<String>) -> Self {
        Self { is_conflict: false, texts }
    }
}

fn appending() -> OpenOptions {
    let mut open = OpenOptions::new();
    open.read(true).append(true).create(true);
    open
}

/// Locks a file until the returned value is dropped.
pub(super) fn lock(path: &Path, who: &str) -> Result<File, Locked> {
    // The content of the lock file is replaced. If the lock file is a symbolic link, the link is not followed.
    // Otherwise the file to which the link points would lose its content.
    let mut open = appending();
    let open = open.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let mut lock = open.open(path).map_err(Locked::Failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            // The other process writes its name just after it has locked the file.
            for _ in 0..HOLDER_TRIES {
                let mut holder = String::new();
                let _ = lock.rewind().and_then(|()| (&lock).take(200).read_to_string(&mut holder));
                if !holder.trim().is_empty() {
                    return Err(Locked::By(quote(holder.trim())));
                }
                thread::sleep(HOLDER_WAIT);
            }
            return Err(Locked::By("by a process that has not written its name".to_owned()));
        }
        Err(TryLockError::Error(error)) => return Err(Locked::Failed(error)),
    }
    // The content of the lock file is used only in a message.
    let _ = lock.set_len(0);
    let _ = writeln!(lock, "{who}, process {}, since {}", std::process::id(), now());
    Ok(lock)
}

/// The journal, opened for the lines of one change. While this value exists, no other change can lock the journal.
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
    pub(crate) fn open(path: &Path, who: &str) -> Result<Self, NotBegun> {
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let failed = |path: &Path, error| {
            NotBegun::failed(vec![format!(
                "{} cannot be written ({error}), so no change is made; in balance.toml, set journal to a file that \
                 this user can write",
                shown(path)
            )])
        };
        let lock_path = PathBuf::from(lock_path);
        let lock = lock(&lock_path, who).map_err(|error| match error {
            Locked::By(holder) => NotBegun::conflict(format!(
                "another change is in progress ({holder}); wait until it has ended, and look again"
            )),
            Locked::Failed(error) => failed(&lock_path, error),
        })?;
        let file = appending().open(path).map_err(|error| failed(path, error))?;
        Ok(Self { file, path: path.to_owned(), _lock: lock })
    }

    /// Appends a line and waits until the line is on the disk. After a failure, the line is removed again, if possible.
    ///
    /// # Errors
    /// Returns a message if the line cannot be written.
    pub(crate) fn append(&mut self, entry: &Entry) -> Result<(), String> {
        self.append_with(entry, File::sync_data)
    }

    fn append_with(&mut self, entry: &Entry, sync: impl Fn(&File) -> std::io::Result<()>) -> Result<(), String> {
        let failed = |error| format!("{} cannot be written ({error})", self.path.display());
        let length = self.file.metadata().map_err(failed)?.len();
        let mut line = line(entry)?;
        if length + line.len() as u64 > MAX_FILE_BYTES {
            return Err(too_large(&self.path));
        }
        let file = &mut self.file;
        let mut write = || {
            if !ends_with_line_end(file)? {
                line.insert(0, '\n');
            }
            file.write_all(line.as_bytes())?;
            sync(file)
        };
        write().map_err(|error| {
            // Part of the line, or all of it, may be in the file.
            let cut = self.file.set_len(length).and_then(|()| sync(&self.file));
            let left = cut.err().filter(|_| self.file.metadata().map_or(true, |metadata| metadata.len() != length));
            let left = left.map(|error| format!("; the new line cannot be removed ({error}): remove the line by hand"));
            failed(error) + &left.unwrap_or_default()
        })
    }
}

/// Returns the line of an entry. A result that is too long is cut.
fn line(entry: &Entry) -> Result<String, String> {
    let mut entry = entry.clone();
    entry.result = entry.result.replace(|character: char| character.is_control(), " ");
    if entry.result.len() > MAX_RESULT_BYTES {
        entry.result.truncate(entry.result.floor_char_boundary(MAX_RESULT_BYTES));
        entry.result += " …";
    }
    let line = entry.to_json().to_string() + "\n";
    // The first line of a change leaves room for the result in the second line.
    let reserve = if entry.is_unfinished() { 2 * MAX_RESULT_BYTES + 16 } else { 0 };
    if line.len() + reserve > MAX_LINE_BYTES {
        let size = line.len();
        return Err(format!(
            "the line of this change would have {size} bytes, and {} are the limit; change fewer targets at a time, or \
             write a shorter --why or --force",
            MAX_LINE_BYTES - reserve
        ));
    }
    Ok(line)
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
