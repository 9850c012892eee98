//! The origin's gzip undone (RFC 1952), within bounds.

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

use crate::fault::{Cause, Fault};
use crate::metrics::Metrics;

/// Room for output of one step.
const OUTPUT_BYTES: usize = 32 * 1024;
/// The most that a body may become, in bytes: 1 GiB.
pub(super) const LONGEST: u64 = 1 << 30;
/// Bytes out for one byte in, beyond which it is a bomb. Markup comes to 20, deflate to 1,032 at most.
pub(super) const RATIO: u64 = 200;
/// Output from which the ratio counts: until then it says little.
const RATIO_FROM: u64 = 1 << 20;
/// zlib's largest window.
const WINDOW_BITS: u8 = 15;
/// The first byte of a member.
const MAGIC: u8 = 0x1f;

/// A decompressor and what it has seen.
pub(super) struct Inflater {
    inflate: Decompress,
    output: BytesMut,
    /// A member has ended, and no other has begun.
    ended: bool,
    /// Something else has begun after the last member.
    padding: bool,
    input_bytes: u64,
    output_bytes: u64,
    fault: Option<Cause>,
    metrics: &'static Metrics,
}

impl Inflater {
    pub(super) fn new(metrics: &'static Metrics) -> Self {
        Self {
            inflate: Decompress::new_gzip(WINDOW_BITS),
            output: BytesMut::new(),
            ended: false,
            padding: false,
            input_bytes: 0,
            output_bytes: 0,
            fault: None,
            metrics,
        }
    }

    /// One step: takes some of `input` off and gives what became of it, which may be nothing yet.
    ///
    /// # Errors
    /// The bytes are no gzip, or a bomb.
    pub(super) fn step(&mut self, input: &mut Bytes) -> Result<Bytes, Fault> {
        if self.ended {
            self.padding |= input.first() != Some(&MAGIC);
            if self.padding {
                // What stands behind the last member is padding; gzip(1) and browsers pass over it, too.
                input.clear();
                return Ok(Bytes::new());
            }
            self.inflate = Decompress::new_gzip(WINDOW_BITS);
            self.ended = false;
        }
        self.output.resize(OUTPUT_BYTES, 0);
        let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(input, &mut self.output, FlushDecompress::None);
        let (taken, made) = (self.inflate.total_in() - before_in, self.inflate.total_out() - before_out);
        self.input_bytes += taken;
        self.output_bytes += made;
        input.advance(usize::try_from(taken).unwrap_or(usize::MAX).min(input.len()));
        self.ended = match status {
            Ok(Status::StreamEnd) => true,
            Ok(Status::BufError) if !input.is_empty() => return Err(self.fail("its gzip does not go on")),
            Ok(_) => false,
            Err(error) => return Err(self.fail(error)),
        };
        if self.output_bytes > LONGEST
            || (self.output_bytes > RATIO_FROM && self.output_bytes / RATIO > self.input_bytes)
        {
            return Err(self.fail("its gzip grows beyond all measure"));
        }
        Ok(self.output.split_to(usize::try_from(made).unwrap_or(usize::MAX).min(self.output.len())).freeze())
    }

    /// To be asked when the body has ended.
    ///
    /// # Errors
    /// It ended within a member. An empty one is left to be empty: some label even that as gzip.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        if self.ended || self.input_bytes == 0 { Ok(()) } else { Err(self.fail("its gzip breaks off")) }
    }

    /// Why it failed, if it did.
    pub(super) fn fault(&self) -> Option<Cause> {
        self.fault
    }

    fn fail(&mut self, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fault {
        self.fault = Some(Cause::Cut);
        let fault = Fault::from_error(Cause::Cut, why);
        self.metrics.fault(&fault, None);
        fault
    }
}
