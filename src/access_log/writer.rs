//! The queue of the access log, and the thread that writes the queued records.
//!
//! **Cost** of a request: its record moves into a lock-free queue. If the writer sleeps, the request also makes one
//! system call to wake the writer. The writer sleeps after half a second without a record. **Can fail:** lines are lost
//! if the queue is full, or if the output accepts no lines, for example because the disk is full or the pipe is closed.
//! A request never waits. The metric `edgeshim_access_log_dropped_total` counts each lost line. So the number of
//! written lines plus the number of lost lines equals the number of records.
//!
//! All slots of the queue, about 36 MiB, are allocated when a log is opened.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use metrics::Counter;

use super::formats::{Formatter, LogFormat};
use super::output::{BATCH_BYTES, LogOutput, Sink};
use super::record::Record;
use crate::keys::{Keys, Visitor};

/// The largest number of records that wait for the writer. One machine receives fewer requests than this number in one
/// second.
const QUEUE_RECORDS: usize = 65_536;
/// If more than this number of records wait, the writer is too slow. Each new record then gets copies of its values, so
/// that it does not keep the read buffer of its connection in memory ([`Record::detach`]). A read buffer can be a
/// hundred times as large as a record.
const ATTACHED_RECORDS: usize = 2_048;
/// The interval at which the writer polls the queue. While there is traffic, a line waits at most for this time.
const POLL: Duration = Duration::from_millis(20);
/// After this number of polls without a record, the writer sleeps until another thread wakes it.
const IDLE_POLLS: u32 = 25;
/// The longest sleep of the writer. A new record ends the sleep at once. The limit matters only if a wake-up is lost,
/// which can happen only through a bug in this file.
const PARK: Duration = Duration::from_secs(5);
/// The longest time that [`AccessLog::close`] waits while the queue does not shrink. After that time `close` assumes
/// that the disk, or the reader of the pipe, is stuck.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// The states of the writer. [`AccessLog::record`](super::AccessLog::record) reads the state after each push.
mod state {
    /// The writer polls the queue.
    pub(super) const POLLING: u8 = 0;
    /// The writer sleeps and must be woken.
    pub(super) const PARKED: u8 = 1;
    /// The writer no longer reads the queue.
    pub(super) const ENDED: u8 = 2;
}

/// The keys of `[access_log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogSettings {
    pub output: LogOutput,
    pub format: LogFormat,
}

impl Default for AccessLogSettings {
    fn default() -> Self {
        Self { output: LogOutput::Off, format: LogFormat::Json }
    }
}

impl Keys for AccessLogSettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        let formats = [("json", LogFormat::Json), ("combined", LogFormat::Combined), ("etsy", LogFormat::Etsy)];
        v.text("output", &LogOutput::TEXT, &mut self.output);
        v.choice("format", &formats, &mut self.format);
    }
}

/// The log line of a request in flight. The layer that completes the response, `pulls` or `local`, writes the line,
/// once.
#[derive(Debug)]
pub(crate) struct Line {
    /// The values known so far. The record is boxed, because it takes half a kilobyte and moves through every layer.
    pub(crate) record: Box<Record>,
    log: AccessLog,
}

impl Line {
    /// Begins a line that will be written to `log`.
    pub(crate) fn new(log: &AccessLog, record: Record) -> Self {
        Self { record: Box::new(record), log: log.clone() }
    }

    /// Sets the line's total time to the time since `arrived`, and queues the line.
    pub(crate) fn write(mut self, arrived: Instant) {
        self.record.total_us = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.log.record(*self.record);
    }
}

/// A handle of the access log. A clone is cheap, and all clones share one writer. The log is closed when the last clone
/// is dropped.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog(Arc<Handle>);

/// The open logs of all configurations. Two configurations with equal settings share one log. A log of an old
/// configuration stays open at least until the last request under that configuration has ended.
#[derive(Debug, Default)]
pub(crate) struct Logs(Mutex<Vec<(AccessLogSettings, AccessLog)>>);

impl Logs {
    fn list(&self) -> MutexGuard<'_, Vec<(AccessLogSettings, AccessLog)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the open log with these settings, or opens a log. Returns `None` if the log is off.
    ///
    /// # Errors
    /// See [`AccessLog::open`].
    pub(crate) fn open(&self, settings: &AccessLogSettings, dropped: Counter) -> Result<Option<AccessLog>, OpenError> {
        let mut list = self.list();
        if let Some((_, log)) = list.iter().find(|(open, _)| open == settings) {
            return Ok(Some(log.clone()));
        }
        let opened = AccessLog::open(settings, dropped)?;
        list.extend(opened.clone().map(|log| (settings.clone(), log)));
        Ok(opened)
    }

    /// Opens the files of all logs again by their names, for log rotation.
    pub(crate) fn reopen(&self) {
        self.list().iter().for_each(|(_, log)| log.reopen());
    }

    /// Closes the logs that no configuration and no request uses. Blocks like [`AccessLog::close`].
    pub(crate) fn close_unused(&self) {
        self.list().retain(|(_, log)| Arc::strong_count(&log.0) > 1);
    }

    /// Closes all logs. Blocks like [`AccessLog::close`].
    pub(crate) fn close(&self) {
        self.list().drain(..).for_each(|(_, log)| log.close());
    }
}

/// Why a log cannot be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The file cannot be opened for appending, or standard output cannot be used.
    Output(LogOutput, io::Error),
    /// The thread that writes the log cannot be started.
    Thread(io::Error),
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    writer: Thread,
    /// A channel that is disconnected when the writer has ended. `None` after the first call to `close`.
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
    /// Opens the output and starts the writer's thread. Returns `None` if the log is off. `dropped` counts the records
    /// that never become a line.
    ///
    /// # Errors
    /// The output cannot be opened, or the system cannot create a thread.
    pub(crate) fn open(settings: &AccessLogSettings, dropped: Counter) -> Result<Option<Self>, OpenError> {
        let AccessLogSettings { output, format } = settings.clone();
        let sink =
            Sink::open(output, dropped.clone()).map_err(|error| OpenError::Output(settings.output.clone(), error));
        let Some(sink) = sink? else { return Ok(None) };
        let shared = Arc::new(Shared {
            queue: ArrayQueue::new(QUEUE_RECORDS),
            state: AtomicU8::new(state::POLLING),
            reopen: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            dropped,
        });
        let (alive, ended) = mpsc::channel();
        let for_writer = Arc::clone(&shared);
        let writer = thread::Builder::new().name("access-log".into()).spawn(move || {
            for_writer.write_until_closed(sink, Formatter::new(format));
            drop::<mpsc::Sender<()>>(alive);
        });
        let writer = writer.map_err(OpenError::Thread)?.thread().clone();
        Ok(Some(Self(Arc::new(Handle { shared, writer, ended: Mutex::new(Some(ended)) }))))
    }

    /// Queues one record without blocking. If the queue is full or the log is closed, the record is counted as dropped.
    pub(crate) fn record(&self, mut record: Record) {
        let shared = &*self.0.shared;
        if shared.queue.len() > ATTACHED_RECORDS {
            record.detach();
        }
        if shared.queue.push(record).is_err() {
            shared.dropped.increment(1);
        }
        // This thread pushes, then loads the state. The writer stores the state, then checks the queue. All four
        // operations are sequentially consistent. So at least one of the two threads sees what the other thread has
        // stored.
        match shared.state.load(Ordering::SeqCst) {
            // Several threads can see `PARKED`. Only the thread that changes the state wakes the writer.
            state::PARKED if shared.move_on(state::PARKED, state::POLLING) => self.0.writer.unpark(),
            state::ENDED => shared.discard(),
            _ => {}
        }
    }

    /// Makes the writer open the file again by its name, for log rotation (SIGUSR1). Returns at once. Every record made
    /// after this call goes to the new file. If the new file cannot be opened, the old file stays in use and an error
    /// is logged. If the output is stdout, the call does nothing.
    pub(crate) fn reopen(&self) {
        self.0.shared.reopen.store(true, Ordering::SeqCst);
        self.0.writer.unpark();
    }

    /// Writes all queued records and ends the writer. Waits as long as the queue shrinks. If the queue does not shrink
    /// for five seconds, the queued records are dropped and counted. A record made after `close` has returned is
    /// dropped and counted too. A second call does nothing. `close` blocks its thread, so it must be called at the end
    /// of the drain, and not on a worker that has requests in flight.
    pub(crate) fn close(&self) {
        self.0.close();
    }
}

impl Handle {
    fn close(&self) {
        // The mutex stays locked during the wait, so that a second call does not return before the first call.
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ended) = ended.take() else { return };
        self.shared.closing.store(true, Ordering::SeqCst);
        self.writer.unpark();
        let mut waiting = self.shared.queue.len();
        while ended.recv_timeout(CLOSE_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            let left = self.shared.queue.len();
            if left >= waiting {
                tracing::error!(
                    "access log: the output accepts no lines; {left} queued lines and the lines being written are \
                     dropped"
                );
                break;
            }
            waiting = left;
        }
        // The next two calls are for a writer that is stuck or has panicked. A writer that ends normally has already
        // set this state and discarded the queued records.
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

    /// Removes the queued records, which will not be written, and counts them as dropped. A record can be removed only
    /// once. So each record is counted only once, even if two threads call this function at the same time.
    fn discard(&self) {
        while self.queue.pop().is_some() {
            self.dropped.increment(1);
        }
    }

    fn write_until_closed(&self, mut sink: Sink, mut formatter: Formatter) {
        let mut idle: u32 = 0;
        loop {
            // `closing` is read before the queue. If `closing` is set, this round sees every record that was queued
            // before the call to `close`.
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
            // `reopen` is read after the queue. If this round took a record that was made after the call to `reopen`,
            // the flag is visible too, so the record goes to the new file.
            if self.reopen.swap(false, Ordering::SeqCst) {
                sink.reopen();
            }
            // `write` is called even if this round added no line, because the batch can still contain the rest of an
            // incomplete line.
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

    /// Sleeps until `record`, `reopen` or `close` wakes the writer. `reopen` and `close` set a flag, then call
    /// `unpark`. If `unpark` is called before the sleep begins, the sleep ends at once. `record` calls `unpark` only if
    /// it sees `PARKED`. A record that was pushed before `PARKED` was stored causes no `unpark`, so the queue is
    /// checked again after `PARKED` is stored.
    fn park(&self) {
        if self.move_on(state::POLLING, state::PARKED) {
            if self.queue.is_empty() {
                thread::park_timeout(PARK);
            }
            self.move_on(state::PARKED, state::POLLING);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::AtomicU64;

    use http::HeaderValue;

    use super::super::record::tests::record;
    use super::*;

    /// A folder for one test, which is removed at the end of the test.
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

    fn to_file(path: PathBuf) -> AccessLogSettings {
        AccessLogSettings { output: LogOutput::File(path), ..AccessLogSettings::default() }
    }

    fn open(path: &Path) -> (AccessLog, Arc<AtomicU64>) {
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Counter::from_arc(Arc::clone(&dropped));
        let log = AccessLog::open(&to_file(path.to_owned()), counter).unwrap();
        (log.unwrap(), dropped)
    }

    fn numbered(number: u64) -> Record {
        Record { id: HeaderValue::from(number), ..record() }
    }

    /// Returns the ids of all lines. Panics if a line is not complete.
    fn ids(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        let id = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
        text.lines().map(id).collect()
    }

    fn until(what: impl Fn() -> bool) {
        let started = Instant::now();
        while !what() {
            assert!(started.elapsed() < Duration::from_secs(20), "the condition did not become true in 20 seconds");
            thread::yield_now();
        }
    }

    #[test]
    fn log_when_four_threads_write_then_written_plus_dropped_lines_equal_the_records() {
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
        assert_eq!(lines.iter().collect::<HashSet<_>>().len(), lines.len(), "a record was written twice");
        assert!(lines.len() >= QUEUE_RECORDS, "fewer lines than fit into the queue: {}", lines.len());
    }

    #[test]
    fn record_when_log_is_closing_or_closed_then_is_written_or_counted_as_dropped() {
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
    fn writer_when_asleep_then_is_woken_by_a_record() {
        let folder = Folder::new("sleep");
        let (log, _) = open(&folder.log());
        for number in 0..2 {
            until(|| log.0.shared.state.load(Ordering::SeqCst) == state::PARKED);
            let started = Instant::now();
            log.record(numbered(number));
            until(|| fs::read_to_string(folder.log()).unwrap().lines().count() as u64 == number + 1);
            assert!(started.elapsed() < PARK, "the record did not wake the writer");
        }
    }

    #[test]
    fn log_when_last_handle_is_dropped_then_writes_the_queued_records() {
        let folder = Folder::new("drop");
        let (log, _) = open(&folder.log());
        let clone = log.clone();
        drop(log);
        (0..100).for_each(|number| clone.record(numbered(number)));
        drop(clone);
        assert_eq!(ids(&folder.log()).len(), 100);
    }

    #[test]
    fn log_when_file_is_renamed_and_reopened_then_new_lines_go_to_a_new_file() {
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
    fn reopen_when_records_arrive_then_written_plus_dropped_lines_equal_the_records() {
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
    fn reopen_when_new_file_cannot_be_opened_then_keeps_the_old_file() {
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
    fn log_when_file_ends_with_an_incomplete_line_then_next_line_is_complete() {
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
    fn log_when_disk_is_full_then_counts_every_line_as_dropped() {
        let (log, dropped) = open(Path::new("/dev/full"));
        (0..1_000).for_each(|number| log.record(numbered(number)));
        log.close();
        assert_eq!(dropped.load(Ordering::SeqCst), 1_000);
    }

    #[test]
    fn log_when_folder_is_missing_then_open_fails() {
        let folder = Folder::new("missing");
        let settings = to_file(folder.0.join("no/such/access.log"));
        assert!(AccessLog::open(&settings, Counter::noop()).is_err());
    }
}
