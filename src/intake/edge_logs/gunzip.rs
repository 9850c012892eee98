//! Inflates the gzip of a batch (RFC 1952) in small steps. A gzip body is a sequence of members. Each member has its
//! own header and checksum.
//!
//! Cost: one step makes at most [`STEP_BYTES`], even if a few bytes of gzip inflate to many megabytes.

use flate2::{Decompress, FlushDecompress, Status};

/// The largest number of bytes that one step makes.
pub(super) const STEP_BYTES: usize = 16 * 1024;
/// The size of zlib's largest window, as an exponent of 2.
const WINDOW_BITS: u8 = 15;

/// The error that the bytes are not gzip, or that the gzip is truncated or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotGzip;

/// The decompressor of one batch.
#[derive(Debug)]
pub(super) struct Gunzip {
    inflate: Decompress,
    output: Box<[u8]>,
    /// Whether a member has ended and no other member has begun.
    has_ended: bool,
}

impl Gunzip {
    pub(super) fn new() -> Self {
        Self { inflate: Decompress::new_gzip(WINDOW_BITS), output: vec![0; STEP_BYTES].into(), has_ended: false }
    }

    /// Inflates a part of `input`, and removes this part from `input`. Returns the inflated bytes. If `input` and the
    /// inflated bytes are empty, more input is needed.
    pub(super) fn step(&mut self, input: &mut &[u8]) -> Result<&[u8], NotGzip> {
        if self.has_ended {
            if input.is_empty() {
                return Ok(&[]);
            }
            self.inflate = Decompress::new_gzip(WINDOW_BITS);
            self.has_ended = false;
        }
        let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(input, &mut self.output, FlushDecompress::None);
        let length = |from: u64, to: u64| usize::try_from(to - from).map_err(|_| NotGzip);
        let taken = length(before_in, self.inflate.total_in())?;
        let made = length(before_out, self.inflate.total_out())?;
        match status {
            Ok(Status::StreamEnd) => self.has_ended = true,
            Ok(Status::BufError) if !input.is_empty() => return Err(NotGzip),
            Ok(_) => {}
            Err(_) => return Err(NotGzip),
        }
        *input = input.get(taken..).ok_or(NotGzip)?;
        self.output.get(..made).ok_or(NotGzip)
    }

    /// Checks that the last member is complete.
    pub(super) fn finish(&self) -> Result<(), NotGzip> {
        if self.has_ended { Ok(()) } else { Err(NotGzip) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn gzip_bomb_when_inflated_then_each_step_makes_at_most_16_kib() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![b' '; 4 << 20]).expect("writing to memory does not fail");
        let body = encoder.finish().expect("writing to memory does not fail");
        let mut gunzip = Gunzip::new();
        let (mut input, mut total) = (&body[..], 0);
        loop {
            let had_input = !input.is_empty();
            let made = gunzip.step(&mut input).expect("the gzip must be valid").len();
            assert!(made <= STEP_BYTES, "{made}");
            total += made;
            if made == 0 && !had_input {
                break;
            }
        }
        assert_eq!((total, gunzip.finish()), (4 << 20, Ok(())));
    }
}
