//! The compressor, which writes one gzip member (RFC 1952) for each body.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress, Status};

use super::Counts;
use super::twins::Draft;
use crate::ids::ClassId;

/// The header of a member (RFC 1952 §2.3.1): method deflate, no file name, no time, unknown operating system.
pub(super) const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The usual size of the output buffer, in bytes. This is enough for one write to the socket.
pub(super) const OUTPUT_BYTES: usize = 16 * 1024;
/// The largest number of compressors that a worker keeps for its next responses. Each compressor needs some 270 KiB of
/// memory.
const SPARES: usize = 4;

thread_local! {
    static SPARE: RefCell<Vec<(u32, Compress)>> = const { RefCell::new(Vec::new()) };
}

/// Returns the time that a compression level needs at most, as a multiple of the time that level 4 needs.
pub(super) fn weight(level: u32) -> usize {
    match level {
        0..=5 => 1,
        6 => 2,
        7 => 3,
        _ => 5,
    }
}

/// Writes one member: header, compressed data, checksum and length. Counts the input and output bytes when dropped.
pub(super) struct Deflater {
    deflate: Option<Compress>,
    level: u32,
    crc: crc32fast::Hasher,
    output: BytesMut,
    /// Whether to flush the output after each frame of input, without waiting for more input.
    unbuffered: bool,
    /// Whether there was input since the last flush.
    unflushed: bool,
    input_bytes: u64,
    output_bytes: u64,
    draft: Option<Draft>,
    class: ClassId,
    counts: Arc<Counts>,
}

impl Deflater {
    /// Creates a compressor with an output buffer of at least `expected` bytes. `draft` becomes the twin of the body.
    pub(super) fn new(
        level: u32,
        expected: usize,
        unbuffered: bool,
        draft: Option<Draft>,
        class: ClassId,
        counts: Arc<Counts>,
    ) -> Self {
        // The spare at the end of the list was used last, so its memory is most likely still in the CPU's cache.
        let spare = SPARE.with_borrow_mut(|spares| {
            let position = spares.iter().rposition(|(spare_level, _)| *spare_level == level)?;
            Some(spares.swap_remove(position).1)
        });
        let mut output = BytesMut::with_capacity(expected.max(1024));
        output.extend_from_slice(&HEADER);
        Self {
            deflate: Some(spare.unwrap_or_else(|| Compress::new(Compression::new(level), false))),
            level,
            crc: crc32fast::Hasher::new(),
            output,
            unbuffered,
            unflushed: false,
            input_bytes: 0,
            output_bytes: 0,
            draft,
            class,
            counts,
        }
    }

    /// Returns the [`weight`] of this compressor's level.
    pub(super) fn weight(&self) -> usize {
        weight(self.level)
    }

    /// Compresses `input`. `last` is true if `input` is the last piece of its frame. In an unbuffered response, the
    /// output is flushed after the last piece.
    pub(super) fn take(&mut self, input: &[u8], last: bool) {
        self.input_bytes += input.len() as u64;
        self.crc.update(input);
        let flush = self.unbuffered && last;
        self.run(input, if flush { FlushCompress::Sync } else { FlushCompress::None });
        self.unflushed = !flush;
    }

    /// Makes output from all input so far. Returns false if there is no output.
    pub(super) fn flush(&mut self) -> bool {
        if self.unflushed {
            self.run(&[], FlushCompress::Sync);
            self.unflushed = false;
        }
        !self.output.is_empty()
    }

    /// Whether a flush would make output.
    pub(super) fn holds_back(&self) -> bool {
        self.unflushed
    }

    /// Writes the end of the member. If there is a draft, [`Draft::finish`] can then store it as the twin.
    pub(super) fn finish(&mut self) {
        self.run(&[], FlushCompress::Finish);
        let crc = std::mem::take(&mut self.crc).finalize();
        self.output.extend_from_slice(&crc.to_le_bytes());
        #[allow(clippy::cast_possible_truncation, reason = "ISIZE is the length modulo 2^32 (RFC 1952 §2.3.1)")]
        let isize = self.input_bytes as u32;
        self.output.extend_from_slice(&isize.to_le_bytes());
        if let Some(mut draft) = self.draft.take()
            && draft.push(&self.output)
        {
            draft.finish(self.input_bytes, crc);
        }
    }

    /// Whether there is enough output to send now. In an unbuffered response one byte is enough after a flush.
    pub(super) fn is_ready(&self) -> bool {
        let enough = if self.unbuffered && !self.unflushed { 1 } else { OUTPUT_BYTES / 2 };
        self.output.len() >= enough
    }

    /// Returns the output so far and empties the buffer.
    pub(super) fn emit(&mut self) -> Bytes {
        self.output_bytes += self.output.len() as u64;
        // After the end of the body there is no draft, because `finish` has removed the draft.
        if self.draft.as_mut().is_some_and(|draft| !draft.push(&self.output)) {
            self.draft = None;
        }
        self.output.split().freeze()
    }

    /// Runs the compressor over `input`. The output buffer grows as needed.
    fn run(&mut self, mut input: &[u8], flush: FlushCompress) {
        let Some(deflate) = &mut self.deflate else { return };
        loop {
            if self.output.capacity() - self.output.len() < 1024 {
                self.output.reserve(OUTPUT_BYTES);
            }
            let start = self.output.len();
            // The compressor needs initialised memory. Filling 16 KiB with zeros takes about 1% of the time that
            // compressing 16 KiB takes.
            self.output.resize(self.output.capacity(), 0);
            let (before_in, before_out) = (deflate.total_in(), deflate.total_out());
            let room = self.output.get_mut(start..).unwrap_or_default();
            let status = deflate.compress(input, room, flush);
            let taken = usize::try_from(deflate.total_in() - before_in).unwrap_or(usize::MAX);
            let made = usize::try_from(deflate.total_out() - before_out).unwrap_or(usize::MAX);
            let full = made == self.output.len() - start;
            self.output.truncate(start + made);
            input = input.get(taken..).unwrap_or_default();
            let done = match status {
                Ok(Status::StreamEnd) | Err(_) => true,
                Ok(Status::BufError) => !full,
                // The call is complete when the input is consumed and the output has room left. At the end of a member
                // the status is `StreamEnd` instead.
                Ok(Status::Ok) => input.is_empty() && !full && flush != FlushCompress::Finish,
            };
            if done {
                return;
            }
        }
    }
}

impl Drop for Deflater {
    fn drop(&mut self) {
        self.counts.compressed(self.class, self.input_bytes, self.output_bytes);
        if let Some(mut deflate) = self.deflate.take() {
            SPARE.with_borrow_mut(|spares| {
                // Spares of another level are dropped, because one configuration uses only one level.
                spares.retain(|(level, _)| *level == self.level);
                if spares.len() < SPARES {
                    deflate.reset();
                    spares.push((self.level, deflate));
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Labels, Metrics};

    #[test]
    fn spare_compressors_when_level_changes_then_all_have_the_new_level() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        let counts = Arc::new(Counts::new(Arc::new(metrics.ledger(&Labels::default()))));
        for level in [4, 6] {
            let some = || Deflater::new(level, 0, false, None, ClassId::OTHER, Arc::clone(&counts));
            drop((0..=SPARES).map(|_| some()).collect::<Vec<_>>());
            let kept: Vec<u32> = SPARE.with_borrow(|spares| spares.iter().map(|(level, _)| *level).collect());
            assert_eq!(kept, [level; SPARES]);
        }
    }
}
