//! One gzip member (RFC 1952) in the making.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress, Status};

use super::Counts;
use super::twins::Draft;
use crate::ids::ClassId;

/// RFC 1952 §2.3.1: deflate, no name, no time, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// Room for output: a socket buffer's worth, so that hyper writes it at once.
pub(super) const OUTPUT_BYTES: usize = 16 * 1024;
/// Compressors that a worker keeps for its next answers; each holds some 270 KiB.
const SPARES: usize = 4;

thread_local! {
    static SPARE: RefCell<Vec<(u32, Compress)>> = const { RefCell::new(Vec::new()) };
}

/// How many times as long as level 4 a level takes, at most.
pub(super) fn weight(level: u32) -> usize {
    match level {
        0..=5 => 1,
        6 => 2,
        7 => 3,
        _ => 5,
    }
}

/// A compressor with its member's head, checksum and end; counts itself when dropped.
pub(super) struct Deflater {
    deflate: Option<Compress>,
    level: u32,
    crc: crc32fast::Hasher,
    output: BytesMut,
    /// Every piece goes out at once.
    unbuffered: bool,
    /// Input since the last flush.
    unflushed: bool,
    input_bytes: u64,
    output_bytes: u64,
    draft: Option<Draft>,
    class: ClassId,
    counts: Arc<Counts>,
}

impl Deflater {
    /// With room for `expected` bytes at first; `draft` becomes the body's twin.
    pub(super) fn new(
        level: u32,
        expected: usize,
        unbuffered: bool,
        draft: Option<Draft>,
        class: ClassId,
        counts: Arc<Counts>,
    ) -> Self {
        // The last one given back is the likeliest to be in the processor's cache still.
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

    /// See [`weight`].
    pub(super) fn weight(&self) -> usize {
        weight(self.level)
    }

    /// Compresses `input`; `last` says that no more has come so far.
    pub(super) fn take(&mut self, input: &[u8], last: bool) {
        self.input_bytes += input.len() as u64;
        self.crc.update(input);
        let flush = self.unbuffered && last;
        self.run(input, if flush { FlushCompress::Sync } else { FlushCompress::None });
        self.unflushed = !flush;
    }

    /// Lets go of all that was taken. False: there was nothing.
    pub(super) fn flush(&mut self) -> bool {
        if self.unflushed {
            self.run(&[], FlushCompress::Sync);
            self.unflushed = false;
        }
        !self.output.is_empty()
    }

    /// Whether a flush would bring anything to light.
    pub(super) fn holds_back(&self) -> bool {
        self.unflushed
    }

    /// Writes the member's end.
    pub(super) fn finish(&mut self) {
        self.run(&[], FlushCompress::Finish);
        let crc = std::mem::take(&mut self.crc).finalize();
        self.output.extend_from_slice(&crc.to_le_bytes());
        // ISIZE is the length modulo 2^32 (RFC 1952 §2.3.1).
        #[allow(clippy::cast_possible_truncation)]
        let isize = self.input_bytes as u32;
        self.output.extend_from_slice(&isize.to_le_bytes());
        if let Some(mut draft) = self.draft.take()
            && draft.push(&self.output)
        {
            draft.finish(self.input_bytes, crc);
        }
    }

    /// Whether what has been made goes out now: unbuffered at once, all else when it is worth a write.
    pub(super) fn is_ready(&self) -> bool {
        let enough = if self.unbuffered && !self.unflushed { 1 } else { OUTPUT_BYTES / 2 };
        self.output.len() >= enough
    }

    /// What has been made.
    pub(super) fn emit(&mut self) -> Bytes {
        self.output_bytes += self.output.len() as u64;
        // After the end the draft is gone, and whole.
        if self.draft.as_mut().is_some_and(|draft| !draft.push(&self.output)) {
            self.draft = None;
        }
        self.output.split().freeze()
    }

    /// Runs the compressor over `input`, growing the output as needed.
    fn run(&mut self, mut input: &[u8], flush: FlushCompress) {
        let Some(deflate) = &mut self.deflate else { return };
        loop {
            if self.output.capacity() - self.output.len() < 1024 {
                self.output.reserve(OUTPUT_BYTES);
            }
            let start = self.output.len();
            // The compressor writes into initialised memory; zeroing 16 KiB is a hundredth of compressing it.
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
                // A flush is over when it leaves room; plain compression when the input is used up.
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
                // Those of a level that is no longer configured would be in the way for good.
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
    fn compressors_of_a_level_that_is_gone_do_not_stay() {
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
