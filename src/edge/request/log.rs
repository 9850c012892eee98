//! The access log: one line for every request, written by a thread of its own.
//!
//! Place: `observe` begins a [`Line`], `pulls` (or `local`) writes it when the answer has ended, beside the counters; everything else happens here, off the request's path. Cost to
//! the request: moving the record into a lock-free queue, and one system call when the writer slept because nothing had come for
//! half a second. How it can fail: a full queue, a full disk or a closed pipe lose lines, never time: each lost line is counted in
//! the counter given to [`AccessLog::open`] (`edgeshim_access_log_dropped_total`), so lines and counter together are the records.
//!
//! The queue's slots are taken up front (some 36 MiB), only while an access log is configured.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use metrics::Counter;

use super::format::Formatter;
pub(crate) use super::format::{LogFormat, Record};

/// Records that can wait for the writer: more than a second of what one machine pulls. Slots are taken up front.
const QUEUE_RECORDS: usize = 65_536;
/// With more than this waiting the writer is behind, and records give up their handles on the connections' read buffers: those can be
/// a hundred times the size of a record, and a stalled disk must not hold them.
const ATTACHED_RECORDS: usize = 2_048;
/// A batch is written once it has reached this size, or when the queue is empty.
const BATCH_BYTES: usize = 64 * 1024;
/// Room for the one line that passes the mark: 2,048 + 12 × 256 bytes, each of which can become six.
const LINE_BYTES: usize = 32 * 1024;
/// How long a line waits at most while there is traffic.
const POLL: Duration = Duration::from_millis(20);
/// After so many polls without a record the writer sleeps until it is woken.
const IDLE_POLLS: u32 = 25;
/// The longest sleep. Waking does not depend on it; it bounds the delay should the queue's memory ordering ever change.
const PARK: Duration = Duration::from_secs(5);
/// How often, a `POLL` apart, a pipe in non-blocking mode is asked again before its reader counts as stuck.
const PATIENCE: u32 = 50;
/// How long [`AccessLog::close`] waits for a writer that makes no progress, because a reader or a disk is stuck.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// The writer's state, read by `record` after each push.
mod state {
    /// It looks into the queue by itself.
    pub(super) const POLLING: u8 = 0;
    /// It has to be woken.
    pub(super) const PARKED: u8 = 1;
    /// It does not look any more.
    pub(super) const ENDED: u8 = 2;
}

/// Where the lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard output, locked for each batch.
    Stdout,
    /// A file that is appended to, made where it is missing.
    File(PathBuf),
}

/// The line of a request that is under way: filled in as it goes, written once by whoever answers it.
#[derive(Debug)]
pub struct Line {
    /// What is known so far. Boxed: a record is half a kilobyte, and it moves through every layer.
    pub record: Box<Record>,
    log: AccessLog,
}

impl Line {
    /// A line of `log` that begins as `record`.
    pub fn new(log: &AccessLog, record: Record) -> Self {
        Self { record: Box::new(record), log: log.clone() }
    }

    /// Hands the line to the writer, with the time since `arrived`.
    pub fn write(mut self, arrived: Instant) {
        self.record.total_us = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.log.record(*self.record);
    }
}

/// A handle on the access log. Clones are cheap and share one writer; the last one to go closes the log.
#[derive(Debug, Clone)]
pub struct AccessLog(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    writer: Thread,
    /// Disconnected when the writer has ended; none once somebody has waited for that.
    ended: Mutex<Option<Receiver<()>>>,
}

#[derive(Debug)]
struct Shared {
    queue: ArrayQueue<Record>,
    state: AtomicU8,
    reopen: AtomicBool,
    closing: AtomicBool,
    dropped: Counter,
}

impl AccessLog {
    /// Opens the output and starts the writer's thread. `dropped` counts records that never became a line.
    ///
    /// # Errors
    /// When the file cannot be opened for appending, or the system gives no thread or file descriptor.
    pub fn open(output: LogOutput, format: LogFormat, dropped: Counter) -> io::Result<Self> {
        let sink = Sink::open(output, dropped.clone())?;
        let shared = Arc::new(Shared {
            queue: ArrayQueue::new(QUEUE_RECORDS),
            state: AtomicU8::new(state::POLLING),
            reopen: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            dropped,
        });
        let (alive, ended) = mpsc::channel();
        let of_writer = Arc::clone(&shared);
        let writer = thread::Builder::new().name("access-log".into()).spawn(move || {
            of_writer.write_until_closed(sink, Formatter::new(format));
            drop::<mpsc::Sender<()>>(alive);
        })?;
        let writer = writer.thread().clone();
        Ok(Self(Arc::new(Handle { shared, writer, ended: Mutex::new(Some(ended)) })))
    }

    /// Hands one record to the writer. Never blocks and never waits: where the queue is full, or the log closed, the record is
    /// counted as dropped.
    pub fn record(&self, mut record: Record) {
        let shared = &*self.0.shared;
        if shared.queue.len() > ATTACHED_RECORDS {
            record.detach();
        }
        if shared.queue.push(record).is_err() {
            shared.dropped.increment(1);
        }
        // The push and this load are sequentially consistent, as are the writer's store of its state and its last look into the
        // queue: one of the two sides sees the other.
        match shared.state.load(Ordering::SeqCst) {
            // Only one of all the threads that see it parked pays for the wake-up.
            state::PARKED if shared.move_on(state::PARKED, state::POLLING) => self.0.writer.unpark(),
            state::ENDED => shared.discard(),
            _ => {}
        }
    }

    /// Closes the file and opens it again by its name, for log rotation (SIGUSR1). Does not wait; every record made after this call
    /// goes to the new file. Where that cannot be opened the old one stays in use, with a message. Nothing happens to stdout.
    pub fn reopen(&self) {
        self.0.shared.reopen.store(true, Ordering::SeqCst);
        self.0.writer.unpark();
    }

    /// Writes everything that is queued and ends the writer. Waits for that as long as the queue shrinks; where nothing moves for five
    /// seconds (a stuck reader or disk) what is queued is dropped and counted. Calling it again does nothing, and records made later
    /// are counted as dropped. It blocks: it belongs at the end of the drain, not on a worker with requests in flight.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Handle {
    fn close(&self) {
        // Held while waiting, so that a second caller does not return before the first.
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ended) = ended.take() else { return };
        self.shared.closing.store(true, Ordering::SeqCst);
        self.writer.unpark();
        let mut waiting = self.shared.queue.len();
        while ended.recv_timeout(CLOSE_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            let left = self.shared.queue.len();
            if left >= waiting {
                tracing::error!(
                    "access log: the output takes nothing; {left} lines and those on their way are dropped"
                );
                break;
            }
            waiting = left;
        }
        // The writer has done this itself unless it is stuck or has panicked.
        self.shared.state.store(state::ENDED, Ordering::SeqCst);
        self.shared.discard();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn move_on(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Counts what nobody will write. Each record is popped once, so each is counted once, whoever comes here at the same time.
    fn discard(&self) {
        while self.queue.pop().is_some() {
            self.dropped.increment(1);
        }
    }

    fn write_until_closed(&self, mut sink: Sink, mut formatter: Formatter) {
        let mut idle: u32 = 0;
        loop {
            // Read before the queue is: what was queued before the call to close is then in this round.
            let closing = self.closing.load(Ordering::SeqCst);
            let mut empty = false;
            let held = sink.batch.lines.len();
            while sink.batch.lines.len() < BATCH_BYTES {
                let Some(record) = self.queue.pop() else {
                    empty = true;
                    break;
                };
                formatter.line(&record, &mut sink.batch.lines);
            }
            let some = sink.batch.lines.len() > held;
            // Read behind the queue: a record made after the call to reopen brings the flag along.
            if self.reopen.swap(false, Ordering::SeqCst) {
                sink.reopen();
            }
            // Without a new line there may still be the rest of a torn one.
            sink.write();
            idle = if some { 0 } else { idle.saturating_add(1) };
            match (empty, closing) {
                (false, _) => {}
                (true, true) => break,
                (true, false) if idle < IDLE_POLLS => thread::park_timeout(POLL),
                (true, false) => self.park(),
            }
        }
        self.state.store(state::ENDED, Ordering::SeqCst);
        self.discard();
        sink.give_up();
    }

    /// Sleeps until `record`, `reopen` or `close` wakes it. The two latter set their flag and then unpark, which `park` remembers, so
    /// only the queue needs a second look.
    fn park(&self) {
        if self.move_on(state::POLLING, state::PARKED) {
            if self.queue.is_empty() {
                thread::park_timeout(PARK);
            }
            self.move_on(state::PARKED, state::POLLING);
        }
    }
}

/// Where the lines go, and what to say and count when they cannot.
#[derive(Debug)]
struct Sink {
    output: LogOutput,
    file: File,
    batch: Batch,
    dropped: Counter,
    /// The last write failed: messages are for changes only.
    failing: bool,
}

impl Sink {
    fn open(output: LogOutput, dropped: Counter) -> io::Result<Self> {
        let (file, open_ended) = match &output {
            // A descriptor of its own: std's handle buffers what a failed write leaves behind, and then nobody can count it.
            LogOutput::Stdout => (File::from(io::stdout().as_fd().try_clone_to_owned()?), false),
            LogOutput::File(path) => open_file(path)?,
        };
        let lines = Vec::with_capacity(BATCH_BYTES + LINE_BYTES);
        Ok(Self { output, file, batch: Batch { lines, torn: 0, open_ended }, dropped, failing: false })
    }

    fn reopen(&mut self) {
        let LogOutput::File(path) = &self.output else { return };
        let opened = open_file(path);
        if let Err(error) = &opened {
            tracing::error!(
                "access log: cannot open {} again: {error}; the old file stays in use. Check that the folder exists and may be \
                 written, then send SIGUSR1 once more",
                path.display()
            );
        }
        // A line ends in the file in which it began.
        self.dropped.increment(self.batch.part(&mut &self.file));
        if let Ok((file, open_ended)) = opened {
            self.file = file;
            self.batch.open_ended = open_ended;
        }
    }

    fn write(&mut self) {
        if self.batch.lines.is_empty() {
            return;
        }
        let (lost, outcome) = match self.output {
            LogOutput::Stdout => {
                let mut stdout = io::stdout().lock();
                // What others have printed goes first; where that fails, the write below fails too and is reported.
                drop(stdout.flush());
                self.batch.write(&mut &self.file)
            }
            LogOutput::File(_) => self.batch.write(&mut &self.file),
        };
        self.dropped.increment(lost);
        match outcome {
            Err(error) if !self.failing => {
                tracing::error!(
                    "access log: cannot write: {error}; lines are dropped and counted until the output takes them"
                );
                self.failing = true;
            }
            Ok(()) if self.failing => {
                tracing::info!("access log: the output takes lines again");
                self.failing = false;
            }
            _ => {}
        }
    }

    /// The end: what is still in the batch will not be written.
    fn give_up(&mut self) {
        self.dropped.increment(newlines(&self.batch.lines));
        self.batch.lines.clear();
    }
}

/// Lines on their way to an output that may take any part of them.
#[derive(Debug, Default)]
struct Batch {
    /// Whole lines; only the first may be the rest of one whose beginning is written.
    lines: Vec<u8>,
    /// The length of that rest.
    torn: usize,
    /// The output ends inside a line that nobody will finish (a crash, a full disk): a newline has to come first.
    open_ended: bool,
}

impl Batch {
    /// Writes all lines. Gives how many are lost: where the output fails, those that it has not begun. One that it has begun stays
    /// here, to be finished before the next batch.
    fn write(&mut self, output: &mut impl Write) -> (u64, io::Result<()>) {
        if self.open_ended {
            if let (_, Err(error)) = write_out(output, b"\n") {
                let lost = newlines(&self.lines);
                self.lines.clear();
                return (lost, Err(error));
            }
            self.open_ended = false;
        }
        let (written, outcome) = write_out(output, &self.lines);
        let inside = match written.checked_sub(1).and_then(|last| self.lines.get(last)) {
            Some(&last) => last != b'\n',
            None => self.torn > 0,
        };
        self.lines.drain(..written);
        let end = self.lines.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        self.torn = if inside { end } else { 0 };
        let lost = newlines(self.lines.get(self.torn..).unwrap_or_default());
        self.lines.truncate(self.torn);
        (lost, outcome)
    }

    /// Takes leave of an output: finishes the line that it has begun. Gives 1 where that fails and the line is lost, else 0.
    fn part(&mut self, output: &mut impl Write) -> u64 {
        let (written, _) = write_out(output, self.lines.get(..self.torn).unwrap_or_default());
        self.open_ended |= written < self.torn;
        let lost = u64::from(written < self.torn);
        self.lines.drain(..self.torn);
        self.torn = 0;
        lost
    }
}

fn newlines(lines: &[u8]) -> u64 {
    lines.iter().map(|&byte| u64::from(byte == b'\n')).sum()
}

/// `write_all` that says how far it came.
fn write_out(output: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    let mut refused = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match output.write(rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => {
                written += count.min(rest.len());
                refused = 0;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Whoever shares a terminal or pipe with us may have put it into non-blocking mode.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && refused < PATIENCE => {
                refused += 1;
                thread::sleep(POLL);
            }
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// Opens a log for appending, and says whether it ends inside a line.
fn open_file(path: &Path) -> io::Result<(File, bool)> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let meta = file.metadata()?;
    // Only a regular file has an end to look at, and a log that may be written but not read is taken as it is.
    let open_ended = meta.is_file() && meta.len() > 0 && last_byte(path).is_ok_and(|last| last != b'\n');
    Ok((file, open_ended))
}

fn last_byte(path: &Path) -> io::Result<u8> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    let [last] = last;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;
    use std::sync::atomic::AtomicU64;
    use std::time::Instant;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::super::format::tests::record;
    use super::*;

    /// A folder of this test's own, gone with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("edgeshim-log-{}-{test}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn log(&self) -> PathBuf {
            self.0.join("access.log")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn open(path: &Path) -> (AccessLog, Arc<AtomicU64>) {
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Counter::from_arc(Arc::clone(&dropped));
        (AccessLog::open(LogOutput::File(path.to_owned()), LogFormat::Json, counter).unwrap(), dropped)
    }

    fn numbered(number: u64) -> Record {
        Record { id: HeaderValue::from(number), ..record() }
    }

    /// The ids of all lines, each of which must be whole.
    fn ids(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        let id = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
        text.lines().map(id).collect()
    }

    fn until(what: impl Fn() -> bool) {
        let started = Instant::now();
        while !what() {
            assert!(started.elapsed() < Duration::from_secs(20), "it never came about");
            thread::yield_now();
        }
    }

    #[test]
    fn four_threads_lines_and_dropped_are_the_records() {
        let folder = Folder::new("four");
        let (log, dropped) = open(&folder.log());
        thread::scope(|scope| {
            for thread in 0..4 {
                let log = log.clone();
                scope.spawn(move || (0..25_000).for_each(|number| log.record(numbered(thread * 25_000 + number))));
            }
        });
        log.close();
        let lines = ids(&folder.log());
        assert_eq!(lines.len() as u64 + dropped.load(Ordering::SeqCst), 100_000);
        assert_eq!(lines.iter().collect::<HashSet<_>>().len(), lines.len(), "a line stands twice");
        assert!(lines.len() >= QUEUE_RECORDS, "what fits the queue is written: {}", lines.len());
    }

    #[test]
    fn records_during_and_after_close_are_lines_or_dropped() {
        let folder = Folder::new("late");
        let (log, dropped) = open(&folder.log());
        thread::scope(|scope| {
            for _ in 0..3 {
                let log = log.clone();
                scope.spawn(move || (0..5_000).for_each(|number| log.record(numbered(number))));
            }
            scope.spawn(|| log.close());
            scope.spawn(|| log.close());
        });
        log.record(record());
        log.close();
        assert_eq!(ids(&folder.log()).len() as u64 + dropped.load(Ordering::SeqCst), 15_001);
        assert!(dropped.load(Ordering::SeqCst) > 0);
    }

    #[test]
    fn sleeping_writer_is_woken_by_a_record() {
        let folder = Folder::new("sleep");
        let (log, _) = open(&folder.log());
        for number in 0..2 {
            until(|| log.0.shared.state.load(Ordering::SeqCst) == state::PARKED);
            let started = Instant::now();
            log.record(numbered(number));
            until(|| fs::read_to_string(folder.log()).unwrap().lines().count() as u64 == number + 1);
            assert!(started.elapsed() < PARK, "only the longest sleep's end woke it");
        }
    }

    #[test]
    fn dropping_the_last_handle_writes_what_is_queued() {
        let folder = Folder::new("drop");
        let (log, _) = open(&folder.log());
        let clone = log.clone();
        drop(log);
        (0..100).for_each(|number| clone.record(numbered(number)));
        drop(clone);
        assert_eq!(ids(&folder.log()).len(), 100);
    }

    #[test]
    fn reopen_after_rename_starts_the_new_file() {
        let folder = Folder::new("reopen");
        let (log, dropped) = open(&folder.log());
        let old = folder.0.join("access.log.1");
        log.record(numbered(1));
        until(|| fs::metadata(folder.log()).unwrap().len() > 0);
        fs::rename(folder.log(), &old).unwrap();
        log.reopen();
        log.record(numbered(2));
        log.close();
        assert_eq!((ids(&old), ids(&folder.log())), (vec!["1".to_owned()], vec!["2".to_owned()]));
        assert_eq!(dropped.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn reopen_under_traffic_loses_and_tears_nothing() {
        let folder = Folder::new("busy");
        let (log, dropped) = open(&folder.log());
        let names: Vec<_> = (0..5).map(|number| folder.0.join(format!("access.log.{number}"))).collect();
        thread::scope(|scope| {
            scope.spawn(|| (0..20_000).for_each(|number| log.record(numbered(number))));
            for name in &names {
                until(|| folder.log().exists());
                fs::rename(folder.log(), name).unwrap();
                log.reopen();
            }
        });
        log.close();
        let lines: usize = names.iter().chain([&folder.log()]).map(|name| ids(name).len()).sum();
        assert_eq!(lines as u64 + dropped.load(Ordering::SeqCst), 20_000);
    }

    #[test]
    fn reopen_when_impossible_keeps_the_old_file() {
        let folder = Folder::new("gone");
        let (log, dropped) = open(&folder.log());
        fs::rename(folder.log(), folder.0.join("old")).unwrap();
        fs::create_dir(folder.log()).unwrap();
        log.reopen();
        log.record(record());
        log.close();
        assert_eq!(ids(&folder.0.join("old")).len(), 1);
        assert_eq!(dropped.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn half_a_line_left_by_a_crash_does_not_spoil_the_next() {
        let folder = Folder::new("crash");
        fs::write(folder.log(), "{\"time\":\"20").unwrap();
        let (log, _) = open(&folder.log());
        log.record(record());
        log.close();
        let text = fs::read_to_string(folder.log()).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("{\"time\":\"20"));
        assert!(serde_json::from_str::<serde_json::Value>(lines.next().unwrap()).is_ok());
        assert_eq!(lines.next(), None);
    }

    #[test]
    fn full_disk_counts_every_line() {
        let (log, dropped) = open(Path::new("/dev/full"));
        (0..1_000).for_each(|number| log.record(numbered(number)));
        log.close();
        assert_eq!(dropped.load(Ordering::SeqCst), 1_000);
    }

    #[test]
    fn missing_folder_is_an_error_at_open() {
        let folder = Folder::new("missing");
        let output = LogOutput::File(folder.0.join("no/such/access.log"));
        assert!(AccessLog::open(output, LogFormat::Json, Counter::noop()).is_err());
    }

    /// Takes so many bytes, then fails once, and so on.
    struct Moody {
        taken: Vec<u8>,
        room: std::vec::IntoIter<usize>,
        left: usize,
    }

    impl Write for Moody {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.left == 0 {
                self.left = self.room.next().unwrap_or(usize::MAX);
                return Err(io::ErrorKind::StorageFull.into());
            }
            let count = bytes.len().min(self.left);
            self.left -= count;
            self.taken.extend_from_slice(bytes.get(..count).unwrap_or_default());
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn failing_output_holds_whole_lines_and_the_rest_is_counted(
            room in proptest::collection::vec(1_usize..40, 0..20),
            batches in proptest::collection::vec(0_usize..8, 1..20),
        ) {
            let mut output = Moody { taken: Vec::new(), room: room.into_iter(), left: 5 };
            let mut batch = Batch::default();
            let (mut sent, mut lost) = (0_u64, 0);
            for lines in batches {
                for _ in 0..lines {
                    batch.lines.extend_from_slice(format!("line {sent}!\n").as_bytes());
                    sent += 1;
                }
                lost += batch.write(&mut output).0;
            }
            lost += batch.part(&mut output);
            prop_assert!(batch.lines.is_empty());
            let taken = String::from_utf8(output.taken).unwrap();
            let whole = taken.matches("!\n").count() as u64;
            prop_assert_eq!(whole + lost, sent);
            // Only the last line can be half, where its end was refused.
            let mut lines = taken.split_inclusive('\n').filter(|line| !(line.starts_with("line ") && line.ends_with("!\n")));
            prop_assert_eq!(lines.next().is_some(), batch.open_ended);
            prop_assert!(lines.next().is_none());
        }
    }
}
