//! The parts of a gzip member (RFC 1951, RFC 1952). For each request, a member is assembled from these parts without
//! compression.
//!
//! A page consists of fixed texts with short values between them. Each fixed text is deflated once, by a separate
//! compressor. So the deflated text does not refer to earlier bytes, and any value can precede it. The deflated text
//! ends with a flush, and a flush ends with an empty stored block. The length field of that block is removed. In its
//! place, the length and the bytes of the value are written. So the flush and the value share one block header.
//!
//! Cost of a request: each part is copied. The checksum takes at most 32 XORs for each fixed text, whatever the length
//! of the text is.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;

/// The header of a gzip member (RFC 1952 §2.3): deflate, no flags, no time, best compression, unknown system.
pub(super) const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255];

/// The length of the trailer, which has the fields CRC32 and ISIZE.
pub(super) const TRAILER_BYTES: usize = 8;

/// The length of the fields LEN and NLEN of a stored block.
pub(super) const LENGTH_BYTES: usize = 4;

/// LEN and NLEN of the empty stored block that a flush writes.
const EMPTY: [u8; LENGTH_BYTES] = [0, 0, 0xff, 0xff];

/// A byte with the header bits of a stored block that is not the last block.
const STORED: u8 = 0;

/// An empty last block. It has fixed Huffman codes and contains only the end-of-block code.
const END: [u8; 2] = [3, 0];

/// Deflates a fixed text that is followed by a value. The caller must then write the value's length with
/// [`push_length`], and the value's bytes.
pub(super) fn before_value(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain)?;
    encoder.flush()?;
    let mut stored = stored(plain);
    stored.push(STORED);
    // A text that does not get shorter is stored without compression.
    Ok(match encoder.get_ref().strip_suffix(&EMPTY) {
        Some(deflated) if deflated.len() < stored.len() => deflated.to_vec(),
        _ => stored,
    })
}

/// Deflates `plain` as the end of the stream.
pub(super) fn at_end(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain)?;
    let deflated = encoder.finish()?;
    let mut stored = stored(plain);
    stored.extend_from_slice(&END);
    Ok(if deflated.len() < stored.len() { deflated } else { stored })
}

/// Writes the length of a value, after the output of [`before_value`].
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

/// Returns `plain` as stored blocks. None of these blocks is marked as the last block. An empty text has no block.
fn stored(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plain.len() + 8);
    for chunk in plain.chunks(usize::from(u16::MAX)) {
        out.push(STORED);
        push_length(&mut out, u16::try_from(chunk.len()).unwrap_or(u16::MAX));
        out.extend_from_slice(chunk);
    }
    out
}

/// Computes the CRC32 of a page when a fixed text is appended.
///
/// `crc32fast` can combine two checksums too. But each call takes one multiplication for each set bit in the length of
/// the second text. The effect of an appended text is linear in the bits of the checksum before it. So a matrix of 32
/// columns, computed once for each fixed text, is enough.
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

    /// Returns the checksum of a text with the checksum `before`, followed by this fixed text.
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
        out.extend(before_value(first).unwrap());
        push_length(&mut out, u16::try_from(value.len()).unwrap());
        out.extend_from_slice(value);
        out.extend(at_end(last).unwrap());
        let mut crc = crc32fast::Hasher::new_with_initial(Checksum::of(first).after(0));
        crc.update(value);
        push_trailer(&mut out, Checksum::of(last).after(crc.finalize()), first.len() + value.len() + last.len());
        out
    }

    fn inflate(member: &[u8]) -> Vec<u8> {
        let mut decoder = flate2::read::GzDecoder::new(member);
        let mut plain = Vec::new();
        decoder.read_to_end(&mut plain).unwrap();
        assert!(decoder.into_inner().is_empty(), "bytes after the member");
        plain
    }

    #[test]
    fn member_when_texts_and_values_are_empty_then_valid() {
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
    fn member_when_text_is_longer_than_a_stored_block_then_valid() {
        let noise = noise(150_000);
        let plain = inflate(&member(&noise, b"value", &noise));
        assert_eq!(plain, [&noise[..], b"value", &noise[..]].concat());
    }

    #[test]
    fn text_when_it_does_not_shrink_then_stored() {
        assert_eq!(before_value(&noise(1_000)).unwrap().len(), 1_000 + 6);
        let words = "the same words again and again, ".repeat(64);
        assert!(before_value(words.as_bytes()).unwrap().len() < words.len() / 10);
    }

    proptest! {
        #[test]
        fn any_parts_when_inflated_then_same_bytes(
            first in proptest::collection::vec(any::<u8>(), 0..600),
            value in proptest::collection::vec(any::<u8>(), 0..600),
            last in proptest::collection::vec(0..4_u8, 0..600),
        ) {
            prop_assert_eq!(inflate(&member(&first, &value, &last)), [first, value, last].concat());
        }

        #[test]
        fn checksum_when_text_is_appended_then_that_of_both(
            a in proptest::collection::vec(any::<u8>(), 0..300),
            b in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            prop_assert_eq!(Checksum::of(&b).after(crc32fast::hash(&a)), crc32fast::hash(&[a, b].concat()));
        }
    }
}
