//! Reads the access logs that a command line names. A file that is not a log of edgeshim causes an error with advice.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::access_log::reader::blocks::{BLOCK_BYTES, Blocks, Part, STANDARD_INPUT, lines};
use crate::access_log::reader::entry::{Entry, shown};
use crate::access_log::reader::ncsa::NcsaLine;

/// The number of lines at the start of a file that are checked. If none of these lines can be read, the file is not a
/// log of edgeshim.
const FIRST_LINES: u64 = 10;

/// One access log.
pub(super) struct LogFile {
    /// The path, without characters that control a terminal.
    pub(super) name: String,
    blocks: Blocks,
    /// Whether the bytes after the last newline were a complete line, which was read.
    has_read_rest: bool,
    pub(super) tally: Tally,
}

/// The counts of the lines of a log that were read so far.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) lines: u64,
    /// The number of lines that are not empty.
    filled: u64,
    pub(super) unreadable: u64,
    pub(super) first_unreadable: Option<Unreadable>,
}

/// A line that cannot be read.
pub(super) struct Unreadable {
    pub(super) number: u64,
    pub(super) why: String,
    /// Whether the line has the format combined or etsy.
    is_ncsa: bool,
}

/// Opens logs. The path `-` is standard input.
///
/// # Errors
/// Returns a message with the name of the file.
pub(super) fn open_all(paths: &[PathBuf]) -> Result<Vec<LogFile>, String> {
    refuse_repeats(paths)?;
    paths.iter().map(|path| LogFile::open(path)).collect()
}

/// Refuses a file that is named twice, because its lines would be counted twice. Two paths name the same file if the
/// device and the inode are equal.
pub(super) fn refuse_repeats(paths: &[PathBuf]) -> Result<(), String> {
    let mut seen: Vec<(&Path, (u64, u64))> = Vec::new();
    for path in paths {
        let Some(file) = identity(path) else { continue };
        if let Some((first, _)) = seen.iter().find(|(_, known)| *known == file) {
            let [first, path] = [first, path.as_path()].map(|path| shown(&path.display().to_string(), 4096));
            return Err(format!("{path} is the same file as {first}; name each log once"));
        }
        seen.push((path, file));
    }
    Ok(())
}

/// Returns the device and the inode of a log.
fn identity(path: &Path) -> Option<(u64, u64)> {
    if path.as_os_str() == STANDARD_INPUT {
        let file = rustix::fs::fstat(io::stdin()).ok()?;
        return Some((file.st_dev, file.st_ino));
    }
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// Opens one log. The name in the error is shown without characters that control a terminal.
pub(super) fn open_blocks(path: &Path) -> Result<(String, Blocks), String> {
    let name = shown(&path.display().to_string(), 4096);
    match Blocks::open(path) {
        Ok(blocks) => Ok((name, blocks)),
        Err(error) => {
            Err(format!("{name}: {error}; name a regular file that this user may read, or - for standard input"))
        }
    }
}

impl LogFile {
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let (name, blocks) = open_blocks(path)?;
        Ok(Self { name, blocks, has_read_rest: false, tally: Tally::default() })
    }

    /// Returns the number of bytes that were read so far, after decompression.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks.bytes
    }

    /// Returns whether the log ends inside a line.
    pub(super) fn has_incomplete_line(&self) -> bool {
        !self.has_read_rest && !self.blocks.rest().is_empty()
    }

    /// Reads to the end of the log, and calls `line` with each line that can be read. The last line does not need a
    /// newline. A second call reads what was added to the log.
    ///
    /// # Errors
    /// The log cannot be read or is no log of edgeshim, or `line` returned an error. The message begins with the name
    /// of the log.
    pub(super) fn read(&mut self, mut line: impl FnMut(&[u8], &Entry<'_>) -> Result<(), String>) -> Result<(), String> {
        let Self { name, blocks, has_read_rest, tally } = self;
        loop {
            let part = match blocks.next() {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(error) => return Err(format!("{name}, after line {}: {error}", tally.lines)),
            };
            let Part::Lines(part) = part else {
                tally.begin(true);
                tally.fail(format!("the line is longer than {BLOCK_BYTES} bytes"), b"");
                tally.check(name, FIRST_LINES)?;
                continue;
            };
            // The previous call can have read the first of these lines before its newline was written. Then this line
            // is not read again.
            for text in lines(part).skip(usize::from(std::mem::take(has_read_rest))) {
                let is_filled = !text.trim_ascii().is_empty();
                tally.begin(is_filled);
                match Entry::read(text) {
                    Ok(entry) => line(text, &entry).map_err(|why| format!("{name}, line {}: {why}", tally.lines))?,
                    Err(_) if !is_filled => {}
                    Err(why) => {
                        tally.fail(why.to_owned(), text);
                        tally.check(name, FIRST_LINES)?;
                    }
                }
            }
        }
        let rest = blocks.rest();
        if *has_read_rest || rest.trim_ascii().is_empty() {
            return tally.check(name, 1);
        }
        match Entry::read(rest) {
            Ok(entry) => {
                tally.begin(true);
                *has_read_rest = true;
                line(rest, &entry).map_err(|why| format!("{name}, line {}: {why}", tally.lines))?;
            }
            // edgeshim is still writing this line: the line begins with `{` and does not end with `}`.
            Err(_) if rest.starts_with(b"{") && !rest.trim_ascii_end().ends_with(b"}") => {}
            Err(why) if tally.filled == tally.unreadable => {
                tally.begin(true);
                tally.fail(why.to_owned(), rest);
            }
            Err(_) => {}
        }
        tally.check(name, 1)
    }
}

impl Tally {
    fn begin(&mut self, is_filled: bool) {
        self.lines += 1;
        self.filled += u64::from(is_filled);
    }

    fn fail(&mut self, why: String, line: &[u8]) {
        self.unreadable += 1;
        let number = self.lines;
        self.first_unreadable.get_or_insert_with(|| Unreadable {
            number,
            why,
            is_ncsa: NcsaLine::read(line).is_some(),
        });
    }

    /// Fails if at least `least` lines that are not empty were read, and none of these lines is a line of edgeshim.
    fn check(&self, name: &str, least: u64) -> Result<(), String> {
        match &self.first_unreadable {
            Some(first) if self.unreadable == self.filled && self.filled >= least => Err(first.message(name)),
            _ => Ok(()),
        }
    }
}

impl Unreadable {
    fn message(&self, name: &str) -> String {
        let Self { number, why, is_ncsa } = self;
        if *is_ncsa {
            return format!(
                "{name}, line {number}: this log has the format combined or etsy, whose lines have neither a request \
                 id nor a class; write access_log.format = \"json\", and name a log that was written after this change"
            );
        }
        format!(
            "{name}, line {number}: this is not a line of an access log of edgeshim: {why}; name a log that edgeshim \
             wrote with access_log.format = \"json\""
        )
    }
}
