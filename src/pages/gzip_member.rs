//! The parts of a gzip member (RFC 1951, RFC 1952). For each request, `render.rs` assembles a member from these parts
//! without compression.
//!
//! A page consists of fixed texts with short values between them. Each fixed text is deflated once, by a separate
//! stream. So the deflated text does not refer to earlier bytes, and any value can precede the deflated text. The
//! deflated text ends with a flush, and a flush ends with an empty stored block. The length fields of this block are
//! replaced by the length fields and the bytes of the value. So the block that ended the flush becomes the block of the
//! value.
//!
//! Cost of a request: each part is copied. The checksum takes 33 XORs for each fixed text, whatever the length of the
//! text, and hashes the bytes of each value.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;

/// The header of a gzip member (RFC 1952 §2.3): deflate, no flags, no modification time, best compression, unknown
/// operating system.
pub(super) const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255];

/// The length of the trailer, which has the fields CRC32 and ISIZE.
pub(super) const TRAILER_BYTES: usize = 8;

/// The length of the fields LEN and NLEN of a stored block.
pub(super) const LENGTH_BYTES: usize = 4;

/// LEN and NLEN of the empty stored block that a flush writes.
const EMPTY: [u8; LENGTH_BYTES] = [0, 0, 0xff, 0xff];

/// A byte with the header bits of a stored block that other blocks follow.
const STORED: u8 = 0;

/// An empty last block with fixed Huffman codes. The block contains only the end-of-block code.
const END: [u8; 2] = [3, 0];

/// Deflates fixed texts one after the other. A new compressor fills about 300 KiB with zeros, so all texts share one.
#[derive(Debug)]
pub(super) struct Deflater(DeflateEncoder<Vec<u8>>);

impl Deflater {
    pub(super) fn new() -> Self {
        Self(DeflateEncoder::new(Vec::new(), Compression::best()))
    }

    /// Deflates a fixed text that a value follows. After the output, the caller must write the length of the value with
    /// [`push_length`], then the bytes of the value.
    pub(super) fn before_value(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        self.begin(plain)?;
        self.0.flush()?;
        let mut stored = stored(plain);
        stored.push(STORED);
        // The text is stored without compression if compression does not make it shorter.
        Ok(match self.0.get_ref().strip_suffix(&EMPTY) {
            Some(deflated) if deflated.len() < stored.len() => deflated.to_vec(),
            _ => stored,
        })
    }

    /// Deflates `plain` as the end of the stream.
    pub(super) fn at_end(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        self.begin(plain)?;
        self.0.try_finish()?;
        let deflated = self.0.get_ref();
        let mut stored = stored(plain);
        stored.extend_from_slice(&END);
        Ok(if deflated.len() < stored.len() { deflated.clone() } else { stored })
    }

    /// Begins a new stream with `plain`. Drops the output of the last stream.
    fn begin(&mut self, plain: &[u8]) -> io::Result<()> {
        // The reset writes the end of the last stream to the old output. The old output is not needed.
        drop(self.0.reset(Vec::new())?);
        self.0.write_all(plain)
    }
}

/// Writes the length of a value, after the output of [`Deflater::before_value`].
pub(super) fn push_length(out: &mut Vec<u8>, bytes: u16) {
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(&(!bytes).to_le_bytes());
}

/// Writes the trailer (RFC 1952 §2.3.1). ISIZE is the length of the plain text modulo 2^32.
pub(super) fn push_trailer(out: &mut Vec<u8>, crc: u32, plain_bytes: usize) {
    out.extend_from_slice(&crc.to_le_bytes());
    let [a, b, c, d, ..] = (plain_bytes as u64).to_le_bytes();
    out.extend_from_slice(&[a, b, c, d]);
}

/// Returns `plain` as stored blocks. None of these blocks is marked as the last block. For an empty text, the result is
/// empty.
fn stored(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plain.len() + 8);
    for chunk in plain.chunks(usize::from(u16::MAX)) {
        out.push(STORED);
        push_length(&mut out, u16::try_from(chunk.len()).unwrap_or(u16::MAX));
        out.extend_from_slice(chunk);
    }
    out
}

/// The checksum (CRC32) of a fixed text, and a matrix that computes the checksum of a page to which the fixed text is
/// appended.
///
/// The bytes of the fixed text need not be hashed again: when a text of known length is appended, each bit of the
/// checksum before the text has a fixed effect on the result. The matrix has one column for each of the 32 bits, and is
/// computed once for each fixed text. `crc32fast` can also combine two checksums, but each call would compute these
/// effects again from the length.
#[derive(Debug)]
pub(super) struct Checksum {
    crc: u32,
    columns: [u32; 32],
}

impl Checksum {
    pub(super) fn of(plain: &[u8]) -> Self {
        let mut columns = [0; 32];
        for (bit, column) in columns.iter_mut().enumerate() {
            let mut one = crc32fast::Hasher::new_with_initial_len(1 << bit, 0);
            one.combine(&crc32fast::Hasher::new_with_initial_len(0, plain.len() as u64));
            *column = one.finalize();
        }
        Self { crc: crc32fast::hash(plain), columns }
    }

    /// Returns the checksum of a page after this fixed text is appended. `before` is the checksum of the page without
    /// this fixed text.
    pub(super) fn after(&self, before: u32) -> u32 {
        let moved = self
            .columns
            .iter()
            .enumerate()
            .fold(0, |sum, (bit, column)| sum ^ (column & ((before >> bit) & 1).wrapping_neg()));
        moved ^ self.crc
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn member(first: &[u8], value: &[u8], last: &[u8]) -> Vec<u8> {
        let mut out = HEADER.to_vec();
        let mut deflater = Deflater::new();
        out.extend(deflater.before_value(first).unwrap());
        push_length(&mut out, u16::try_from(value.len()).unwrap());
        out.extend_from_slice(value);
        out.extend(deflater.at_end(last).unwrap());
        let mut crc = crc32fast::Hasher::new_with_initial(Checksum::of(first).after(0));
        crc.update(value);
        push_trailer(&mut out, Checksum::of(last).after(crc.finalize()), first.len() + value.len() + last.len());
        out
    }

    fn inflate(member: &[u8]) -> Vec<u8> {
        let mut decoder = flate2::read::GzDecoder::new(member);
        let mut plain = Vec::new();
        decoder.read_to_end(&mut plain).unwrap();
        assert!(decoder.into_inner().is_empty(), "there are bytes after the gzip member");
        plain
    }

    #[test]
    fn member_when_any_part_is_empty_then_inflates_to_the_joined_parts() {
        assert_eq!(inflate(&member(b"", b"", b"")), b"");
        assert_eq!(inflate(&member(b"", b"x", b"")), b"x");
        assert_eq!(inflate(&member(b"a", b"", b"b")), b"ab");
    }

    /// Returns pseudo-random bytes, which a compressor cannot make shorter.
    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(next).take(bytes).collect()
    }

    #[test]
    fn member_when_text_exceeds_one_stored_block_then_inflates_to_the_joined_parts() {
        let noise = noise(150_000);
        let plain = inflate(&member(&noise, b"value", &noise));
        assert_eq!(plain, [&noise[..], b"value", &noise[..]].concat());
    }

    #[test]
    fn fixed_text_when_another_text_was_deflated_before_then_has_the_same_form() {
        let words = "the same words again and again, ".repeat(64);
        let mut deflater = Deflater::new();
        let first = deflater.before_value(words.as_bytes()).unwrap();
        let end = deflater.at_end(words.as_bytes()).unwrap();
        deflater.at_end(&noise(150_000)).unwrap();
        assert_eq!(deflater.before_value(words.as_bytes()).unwrap(), first);
        assert_eq!(Deflater::new().at_end(words.as_bytes()).unwrap(), end);
    }

    #[test]
    fn fixed_text_when_incompressible_then_stored_without_compression() {
        let mut deflater = Deflater::new();
        assert_eq!(deflater.before_value(&noise(1_000)).unwrap().len(), 1_000 + 6);
        let words = "the same words again and again, ".repeat(64);
        assert!(deflater.before_value(words.as_bytes()).unwrap().len() < words.len() / 10);
    }

    proptest! {
        #[test]
        fn member_when_parts_are_arbitrary_then_inflates_to_the_joined_parts(
            first in proptest::collection::vec(any::<u8>(), 0..600),
            value in proptest::collection::vec(any::<u8>(), 0..600),
            last in proptest::collection::vec(0..4_u8, 0..600),
        ) {
            prop_assert_eq!(inflate(&member(&first, &value, &last)), [first, value, last].concat());
        }

        #[test]
        fn checksum_when_text_is_appended_then_equals_checksum_of_the_joined_text(
            a in proptest::collection::vec(any::<u8>(), 0..300),
            b in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            prop_assert_eq!(Checksum::of(&b).after(crc32fast::hash(&a)), crc32fast::hash(&[a, b].concat()));
        }
    }
}
