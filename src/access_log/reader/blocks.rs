//! Reads a log in blocks of complete lines. The log is a file, a gzip file (recognised by its first bytes, because a
//! rotated file can have any name), or standard input. Memory: one block of [`BLOCK_BYTES`].

use std::io::{self, Cursor, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use memchr::{memchr, memrchr};

use crate::regular_file;

/// The size of a block. A line that is longer than a block is skipped. Such a line is not from edgeshim: edgeshim cuts
/// each value, so its lines have at most about 30 KiB.
pub(crate) const BLOCK_BYTES: usize = 1 << 20;

/// The largest number of bytes without a newline. Without this limit, `/dev/zero` on standard input would never end.
const MOST_LINE_BYTES: u64 = 64 << 20;

/// The path that means standard input.
pub(crate) const STANDARD_INPUT: &str = "-";

/// A log that is read from its start to its end. After the end, [`next`](Self::next) tries to read the bytes that were
/// added since then.
pub(crate) struct Blocks {
    input: Box<dyn Read>,
    buffer: Box<[u8]>,
    /// The bytes that were read and not returned yet.
    start: usize,
    end: usize,
    /// The number of skipped bytes of a line that is too long. The bytes until the next newline belong to this line. 0:
    /// no line is being skipped.
    skipped: u64,
    is_gzip: bool,
    /// The number of bytes that were read, after decompression.
    pub(crate) bytes: u64,
}

/// A part of a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'b> {
    /// One or more complete lines. The last byte is a newline.
    Lines(&'b [u8]),
    /// A line that is longer than a block. Its bytes are not returned.
    LongLine,
}

impl Blocks {
    /// Opens the log with this path, or standard input if the path is `-`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if path.as_os_str() == STANDARD_INPUT { Self::new(io::stdin()) } else { Self::new(regular_file::open(path)?) }
    }

    pub(super) fn new(mut input: impl Read + 'static) -> io::Result<Self> {
        const GZIP: [u8; 2] = [0x1F, 0x8B];
        let mut first = [0; GZIP.len()];
        let mut length = 0;
        while let Some(free) = first.get_mut(length..).filter(|free| !free.is_empty()) {
            match read(&mut input, free)? {
                0 => break,
                count => length += count,
            }
        }
        let is_gzip = length == GZIP.len() && first == GZIP;
        let all = Cursor::new(first).take(length as u64).chain(input);
        let input: Box<dyn Read> = if is_gzip { Box::new(MultiGzDecoder::new(all)) } else { Box::new(all) };
        Ok(Self { input, buffer: vec![0; BLOCK_BYTES].into(), start: 0, end: 0, skipped: 0, is_gzip, bytes: 0 })
    }

    /// Returns the next part, or `None` at the end of the log.
    ///
    /// # Errors
    /// The log cannot be read, its gzip is damaged or truncated, or it has [`MOST_LINE_BYTES`] without a newline.
    pub(crate) fn next(&mut self) -> io::Result<Option<Part<'_>>> {
        loop {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let mut has_ended = false;
            while self.end < self.buffer.len() && !has_ended {
                let free = self.buffer.get_mut(self.end..).unwrap_or_default();
                let count = read(&mut self.input, free).map_err(|error| self.named(error))?;
                has_ended = count == 0;
                self.end += count;
                self.bytes += count as u64;
            }
            let filled = self.buffer.get(..self.end).unwrap_or_default();
            if self.skipped > 0 {
                let newline = memchr(b'\n', filled);
                if newline.is_none() && !has_ended {
                    self.skip()?;
                    continue;
                }
                (self.skipped, self.start) = (0, newline.map_or(self.end, |newline| newline + 1));
                return Ok(Some(Part::LongLine));
            }
            if let Some(last) = memrchr(b'\n', filled) {
                self.start = last + 1;
                return Ok(Some(Part::Lines(self.buffer.get(..self.start).unwrap_or_default())));
            }
            if has_ended {
                return Ok(None);
            }
            self.skip()?;
        }
    }

    /// Skips the bytes in the buffer, which belong to a line that is too long.
    fn skip(&mut self) -> io::Result<()> {
        self.skipped += self.end as u64;
        self.end = 0;
        if self.skipped < MOST_LINE_BYTES {
            return Ok(());
        }
        let most = MOST_LINE_BYTES >> 20;
        Err(io::Error::other(format!("there are {most} MiB without a newline, so this is no log; name a text file")))
    }

    /// Returns the error of a failed read. If the log is a gzip file, the error says what is wrong with the file.
    fn named(&self, error: io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof if self.is_gzip => {
                io::Error::new(error.kind(), "the gzip file is truncated; copy the complete file, and name the copy")
            }
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData if self.is_gzip => {
                io::Error::new(error.kind(), format!("the gzip file is damaged ({error}); copy it again"))
            }
            _ => error,
        }
    }

    /// Returns the bytes after the last newline: a line that is still being written, or was never completed.
    pub(crate) fn rest(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }
}

/// Reads once. A signal does not end the read.
fn read(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Returns the lines of a part, without their newlines.
pub(crate) fn lines(part: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = part;
    std::iter::from_fn(move || {
        let newline = memchr(b'\n', rest)?;
        let (line, after) = rest.split_at(newline);
        rest = after.get(1..).unwrap_or_default();
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// Returns all lines, the number of long lines, and the rest.
    fn read_all(input: impl Read + 'static) -> io::Result<(Vec<Vec<u8>>, usize, Vec<u8>)> {
        let mut blocks = Blocks::new(input)?;
        let (mut all, mut long) = (Vec::new(), 0);
        while let Some(part) = blocks.next()? {
            match part {
                Part::Lines(part) => all.extend(lines(part).map(<[u8]>::to_vec)),
                Part::LongLine => long += 1,
            }
        }
        Ok((all, long, blocks.rest().to_vec()))
    }

    fn gzipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Returns one byte for each read.
    struct Slow(Cursor<Vec<u8>>);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer.get_mut(..1).unwrap_or_default())
        }
    }

    #[test]
    fn log_when_plain_or_gzip_or_in_small_pieces_then_lines_are_equal() {
        let text = b"one\n\ntwo\r\nthree\nlast".to_vec();
        let expected = (vec![b"one".to_vec(), Vec::new(), b"two\r".to_vec(), b"three".to_vec()], 0, b"last".to_vec());
        assert_eq!(read_all(Cursor::new(text.clone())).unwrap(), expected);
        assert_eq!(read_all(Slow(Cursor::new(text.clone()))).unwrap(), expected);
        // A rotated log can have several gzip members.
        let (first, second) = text.split_at(7);
        assert_eq!(read_all(Cursor::new([gzipped(first), gzipped(second)].concat())).unwrap(), expected);
        assert_eq!(read_all(Cursor::new(Vec::new())).unwrap(), (Vec::new(), 0, Vec::new()));
        assert_eq!(read_all(Cursor::new(vec![0x1F])).unwrap().2, [0x1F]);
    }

    #[test]
    fn line_when_longer_than_a_block_then_is_skipped_and_next_line_is_complete() {
        let mut text = b"one\n".to_vec();
        text.extend(vec![b'x'; BLOCK_BYTES * 2 + 5]);
        text.extend_from_slice(b"\ntwo\n");
        text.extend(vec![b'y'; BLOCK_BYTES - 1]);
        text.extend_from_slice(b"\n");
        text.extend(vec![b'z'; BLOCK_BYTES + 1]);
        let (lines, long, rest) = read_all(Cursor::new(text)).unwrap();
        assert_eq!((lines.len(), long), (3, 2), "a long line at the end does not need a newline");
        assert_eq!((lines[1].as_slice(), lines[2].len(), rest.len()), (&b"two"[..], BLOCK_BYTES - 1, 0));
    }

    #[test]
    fn gzip_when_truncated_or_damaged_then_is_an_error() {
        let mut gzip = gzipped(&b"line\n".repeat(1000));
        let whole = gzip.len();
        gzip.truncate(whole - 4);
        assert!(read_all(Cursor::new(gzip.clone())).is_err());
        gzip[5] ^= 0xFF;
        gzip[12] ^= 0xFF;
        assert!(read_all(Cursor::new(gzip)).is_err());
    }

    #[test]
    fn log_when_extended_after_the_end_was_read_then_new_lines_are_returned() {
        let path = std::env::temp_dir().join(format!("edgeshim-blocks-{}", std::process::id()));
        let mut file = File::create(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        let mut blocks = Blocks::open(&path).unwrap();
        assert_eq!(blocks.next().unwrap(), Some(Part::Lines(&b"one\n"[..])));
        assert_eq!(blocks.next().unwrap(), None);
        assert_eq!(blocks.rest(), b"tw");
        file.write_all(b"o\n").unwrap();
        assert_eq!(blocks.next().unwrap(), Some(Part::Lines(&b"two\n"[..])));
        assert_eq!(blocks.next().unwrap(), None);
        std::fs::remove_file(&path).unwrap();
    }
}
