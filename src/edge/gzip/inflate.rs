//! The decompressor for the origin's gzip (RFC 1952), with limits against decompression bombs. A gzip stream is a
//! sequence of members. Each member has its own header and checksum.

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

use crate::fault::{Cause, Fault};
use crate::metrics::Metrics;

/// The size of the output buffer of one step, in bytes.
const OUTPUT_BYTES: usize = 32 * 1024;
/// The largest allowed length of an inflated body, in bytes: 1 GiB.
pub(super) const LONGEST: u64 = 1 << 30;
/// The largest allowed ratio of all output bytes to all input bytes. A body with a higher ratio is treated as a
/// decompression bomb. Markup reaches a ratio of 20, and deflate can reach 1,032.
pub(super) const RATIO: u64 = 200;
/// The ratio is checked only after this number of output bytes, because the ratio varies too much at the start of a
/// body.
const RATIO_FROM: u64 = 1 << 20;
/// The size of zlib's largest window, as an exponent of 2.
const WINDOW_BITS: u8 = 15;
/// The first byte of a gzip member.
const MAGIC: u8 = 0x1f;

/// A decompressor with its byte counts.
pub(super) struct Inflater {
    inflate: Decompress,
    output: BytesMut,
    /// Whether a member has ended and no other member has started.
    ended: bool,
    /// Whether bytes that are not gzip follow the last member.
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

    /// Does one step, which consumes `input` or a part of `input`. Returns the output, which can be empty.
    ///
    /// # Errors
    /// The bytes are not valid gzip, or the inflated body exceeds a limit.
    pub(super) fn step(&mut self, input: &mut Bytes) -> Result<Bytes, Fault> {
        if self.ended {
            self.padding |= input.first() != Some(&MAGIC);
            if self.padding {
                // Bytes after the last member are padding. They are skipped, as gzip(1) and browsers do.
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
            Ok(Status::BufError) if !input.is_empty() => return Err(self.fail("the origin's gzip stream is invalid")),
            Ok(_) => false,
            Err(error) => return Err(self.fail(error)),
        };
        if self.output_bytes > LONGEST
            || (self.output_bytes > RATIO_FROM && self.output_bytes / RATIO > self.input_bytes)
        {
            return Err(self.fail("the inflated body exceeds 1 GiB or 200 times the length of its gzip form"));
        }
        Ok(self.output.split_to(usize::try_from(made).unwrap_or(usize::MAX).min(self.output.len())).freeze())
    }

    /// Checks that the gzip stream is complete. Must be called at the end of the body.
    ///
    /// # Errors
    /// The body ended within a member. An empty body is not an error, because some origins label even an empty body as
    /// gzip.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        if self.ended || self.input_bytes == 0 {
            Ok(())
        } else {
            Err(self.fail("the origin's gzip stream is incomplete"))
        }
    }

    /// Returns the cause if inflating has failed.
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
