//! The parts of a gzip member (RFC 1951, RFC 1952), to assemble one for each request without compression.
//!
//! A page is fixed text with a few short values in between. Each fixed text is deflated once, by a separate compressor:
//! it refers to no bytes before it, so any value may precede it. It ends with a flush, which ends with an empty stored
//! block. The length field of that block is removed, and the length and bytes of the value follow instead. So flush and
//! value share one block header.
//!
//! Cost of a request: a copy of each part, and for the checksum at most 32 XORs for each fixed text of any length.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;

/// RFC 1952 §2.3: deflate, no flags, no time, best compression, unknown system.
pub(super) const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255];

/// CRC32 and ISIZE.
pub(super) const TRAILER_BYTES: usize = 8;

/// LEN and NLEN of a stored block.
pub(super) const LENGTH_BYTES: usize = 4;

/// LEN and NLEN of the empty stored block after a flush.
const EMPTY: [u8; LENGTH_BYTES] = [0, 0, 0xff, 0xff];

/// A byte with the header bits of a stored block that is not the last.
const STORED: u8 = 0;

/// An empty last block: fixed codes, end of block.
const END: [u8; 2] = [3, 0];

/// Deflates `plain`. The length of a stored block must follow ([`push_length`]), then its bytes.
pub(super) fn before_value(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain)?;
    encoder.flush()?;
    let mut stored = stored(plain);
    stored.push(STORED);
    // Text that does not get shorter is stored.
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

/// The length of a stored block, after the output of [`before_value`].
pub(super) fn push_length(out: &mut Vec<u8>, bytes: u16) {
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(&(!bytes).to_le_bytes());
}

/// RFC 1952 §2.3.1; ISIZE is the length modulo 2^32.
pub(super) fn push_trailer(out: &mut Vec<u8>, crc: u32, plain_bytes: usize) {
    out.extend_from_slice(&crc.to_le_bytes());
    let [a, b, c, d, ..] = (plain_bytes as u64).to_le_bytes();
    out.extend_from_slice(&[a, b, c, d]);
}

/// `plain` in complete stored blocks, none of them the last; empty for an empty text.
fn stored(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plain.len() + 8);
    for chunk in plain.chunks(usize::from(u16::MAX)) {
        out.push(STORED);
        push_length(&mut out, u16::try_from(chunk.len()).unwrap_or(u16::MAX));
        out.extend_from_slice(chunk);
    }
    out
}

/// Appends a fixed text to a CRC32.
///
/// `crc32fast` can combine two checksums too, but each call computes with the length again, one multiplication for each
/// bit set in it. Appending bytes is linear in the checksum before them, so 32 columns, computed once, describe a fixed
/// text.
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

    /// The checksum of a text with checksum `before`, followed by this text.
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

    /// Bytes that no compressor makes shorter.
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
