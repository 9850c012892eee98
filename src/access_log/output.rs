//! The output of the access log: a file or standard output. If the output does not accept lines, the lost lines are
//! counted and an error is logged.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use metrics::Counter;

use crate::keys::{Checked, Text};
use crate::regular_file;

/// A batch is written when it has reached this size in bytes, or when the queue is empty.
pub(super) const BATCH_BYTES: usize = 64 * 1024;
/// The additional space in the buffer for the last line of a batch, because this line can begin just below the limit
/// [`BATCH_BYTES`]. The values of a line have at most 2,048 + 12 × 256 bytes, and escaping can replace each byte by six
/// bytes.
const LINE_BYTES: usize = 32 * 1024;
/// The delay before the next attempt to write, if a pipe in non-blocking mode is full.
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// After this number of attempts without a written byte, the write fails, because the reader of the pipe is probably
/// stuck.
const MOST_TRIES: u32 = 50;

/// The target of the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOutput {
    /// No log.
    Off,
    /// Standard output. The log locks standard output while it writes a batch.
    Stdout,
    /// A file. Lines are appended. If the file is missing, it is created.
    File(PathBuf),
}

impl LogOutput {
    pub(super) const TEXT: Text<Self> = Text { example: "stdout", read: Self::read, write: Self::to_string };

    fn read(text: &str, folder: &Path) -> Checked<Self> {
        match text {
            "off" => Ok(Self::Off),
            "stdout" => Ok(Self::Stdout),
            _ => match text.strip_prefix("file:") {
                Some(path) if !path.is_empty() && !path.ends_with('/') && !path.contains(char::is_control) => {
                    Ok(Self::File(folder.join(path)))
                }
                _ => {
                    Err("is not a log output; write \"off\", \"stdout\" or file:PATH, for example \"file:access.log\""
                        .to_owned())
                }
            },
        }
    }
}

/// Writes the output as in the configuration.
impl fmt::Display for LogOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// An open output with the lines that are not written yet.
#[derive(Debug)]
pub(super) struct Sink {
    /// The path of the file. `None` means standard output.
    path: Option<PathBuf>,
    file: File,
    pub(super) batch: Batch,
    dropped: Counter,
    /// Whether the last write failed. A log message is written only when this value changes.
    failing: bool,
}

impl Sink {
    /// Opens `output`. Returns `None` if the log is off.
    pub(super) fn open(output: LogOutput, dropped: Counter) -> io::Result<Option<Self>> {
        let (path, (file, open_ended)) = match output {
            LogOutput::Off => return Ok(None),
            // The log writes to a duplicate of the file descriptor. Rust's `Stdout` would buffer the bytes that a
            // failed write leaves, so lost lines could not be counted.
            LogOutput::Stdout => (None, (File::from(io::stdout().as_fd().try_clone_to_owned()?), false)),
            LogOutput::File(path) => {
                let opened = open_file(&path)?;
                (Some(path), opened)
            }
        };
        let lines = Vec::with_capacity(BATCH_BYTES + LINE_BYTES);
        Ok(Some(Self { path, file, batch: Batch { lines, torn: 0, open_ended }, dropped, failing: false }))
    }

    /// Opens the file again by its name, for log rotation.
    pub(super) fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        let opened = open_file(path);
        if let Err(error) = &opened {
            tracing::error!(
                "access log: cannot open {} again: {error}; the old file stays in use. Check that the folder exists \
                 and is writable, then send SIGUSR1 again",
                path.display()
            );
        }
        // A line that is partly written to the old file is completed in the old file.
        self.dropped.increment(self.batch.finish_line(&mut &self.file));
        if let Ok((file, open_ended)) = opened {
            self.file = file;
            self.batch.open_ended = open_ended;
        }
    }

    /// Writes the batch.
    pub(super) fn write(&mut self) {
        if self.batch.lines.is_empty() {
            return;
        }
        let (lost, outcome) = if self.path.is_none() {
            let mut stdout = io::stdout().lock();
            // Text that other code has printed is flushed first, so that the text and the lines stay in order. An error
            // of the flush is ignored, because the write below then fails too and reports the error.
            drop(stdout.flush());
            self.batch.write(&mut &self.file)
        } else {
            self.batch.write(&mut &self.file)
        };
        self.dropped.increment(lost);
        match outcome {
            Err(error) if !self.failing => {
                tracing::error!(
                    "access log: cannot write: {error}; lines are dropped and counted until the output accepts lines \
                     again"
                );
                self.failing = true;
            }
            Ok(()) if self.failing => {
                tracing::info!("access log: the output accepts lines again");
                self.failing = false;
            }
            _ => {}
        }
    }

    /// Counts the lines that are still in the batch as dropped. The writer calls this function after the last write.
    pub(super) fn give_up(&mut self) {
        self.dropped.increment(newlines(&self.batch.lines));
        self.batch.lines.clear();
    }
}

/// Lines for an output that can accept only a part of the lines at a time.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Lines that are not written yet. The first line can be the rest of a line whose beginning is already written.
    pub(super) lines: Vec<u8>,
    /// The length, in bytes, of the rest of a partly written line at the start of `lines`.
    torn: usize,
    /// Whether the output ends with an incomplete line that will never be completed, for example because of a crash or
    /// a full disk. If so, the next batch begins with a newline.
    open_ended: bool,
}

impl Batch {
    /// Writes all lines and returns the number of lost lines. If the output fails, the unwritten lines are lost. But
    /// the rest of a partly written line stays in the batch and is written before the next lines.
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

    /// Writes the rest of a partly written line. Returns the number of lost lines: 1 if the write fails, otherwise 0.
    fn finish_line(&mut self, output: &mut impl Write) -> u64 {
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

/// Tries to write all bytes. Returns the number of written bytes, and the error if the write failed. If a non-blocking
/// output is full, the function waits and tries again, until [`MOST_TRIES`] is reached.
fn write_out(output: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    let mut tries = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match output.write(rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => {
                written += count.min(rest.len());
                tries = 0;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The output can be in non-blocking mode, because another process that uses the same terminal or pipe can
            // set this mode.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < MOST_TRIES => {
                tries += 1;
                thread::sleep(RETRY_AFTER);
            }
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// Opens a log file for appending, and returns whether the file ends with an incomplete line.
fn open_file(path: &Path) -> io::Result<(File, bool)> {
    let file = regular_file::open_to_append(path)?;
    let meta = file.metadata()?;
    // Only a regular file has a last byte. If the file is writable but not readable, its last byte is unknown. In that
    // case the last line counts as complete.
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
    use proptest::prelude::*;

    use super::*;

    /// An output that accepts some bytes, fails once, accepts bytes again, and so on.
    struct Flaky {
        taken: Vec<u8>,
        room: std::vec::IntoIter<usize>,
        left: usize,
    }

    impl Write for Flaky {
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
        fn batch_when_output_fails_then_written_plus_lost_lines_equal_the_sent_lines(
            room in proptest::collection::vec(1_usize..40, 0..20),
            batches in proptest::collection::vec(0_usize..8, 1..20),
        ) {
            let mut output = Flaky { taken: Vec::new(), room: room.into_iter(), left: 5 };
            let mut batch = Batch::default();
            let (mut sent, mut lost) = (0_u64, 0);
            for lines in batches {
                for _ in 0..lines {
                    batch.lines.extend_from_slice(format!("line {sent}!\n").as_bytes());
                    sent += 1;
                }
                lost += batch.write(&mut output).0;
            }
            lost += batch.finish_line(&mut output);
            prop_assert!(batch.lines.is_empty());
            let taken = String::from_utf8(output.taken).unwrap();
            let whole = taken.matches("!\n").count() as u64;
            prop_assert_eq!(whole + lost, sent);
            // At most one line is incomplete: the last line, if the output failed before the end of this line.
            let is_whole = |line: &&str| line.starts_with("line ") && line.ends_with("!\n");
            let mut lines = taken.split_inclusive('\n').filter(|line| !is_whole(line));
            prop_assert_eq!(lines.next().is_some(), batch.open_ended);
            prop_assert!(lines.next().is_none());
        }
    }
}
