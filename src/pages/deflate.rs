//! The pieces of a gzip member (RFC 1951, RFC 1952) that is put together per request without compressing anything.
//!
//! A page is fixed text with a few short values between. Each fixed text is deflated once, by a compressor of its own: nothing in it
//! refers to bytes before it, so any value may stand there. It is ended by a flush, whose last sign is an empty stored block. The
//! empty block's length field is cut off, and the value's own length and bytes are written in its place: flush and value share one
//! block header.
//!
//! Cost per request: a copy for each piece, and for the checksum at most 32 XORs for each fixed text, however long it is.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;

/// RFC 1952 §2.3: deflate, no flags, no time, slowest and best, system unknown.
pub(super) const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255];

/// CRC32 and ISIZE.
pub(super) const TRAILER_BYTES: usize = 8;

/// LEN and NLEN of a stored block.
pub(super) const LENGTH_BYTES: usize = 4;

/// LEN and NLEN as a flush leaves them: an empty stored block.
const EMPTY: [u8; LENGTH_BYTES] = [0, 0, 0xff, 0xff];

/// The header bits of a stored block that is not the last, in a byte of their own.
const STORED: u8 = 0;

/// A last block with nothing in it: fixed codes, end of block.
const END: [u8; 2] = [3, 0];

/// Deflates `plain` so that the length of a stored block must follow ([`push_length`]), then its bytes.
pub(super) fn before_value(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain)?;
    encoder.flush()?;
    let mut stored = stored(plain);
    stored.push(STORED);
    // What does not shrink is kept as it is.
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

/// The length of a stored block, after what [`before_value`] made.
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

/// `plain` in whole stored blocks, none of them the last; nothing for nothing.
fn stored(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plain.len() + 8);
    for chunk in plain.chunks(usize::from(u16::MAX)) {
        out.push(STORED);
        push_length(&mut out, u16::try_from(chunk.len()).unwrap_or(u16::MAX));
        out.extend_from_slice(chunk);
    }
    out
}

/// What a fixed text does to the CRC32 of all that stands before it.
///
/// `crc32fast` combines two checksums too, but works the length in anew at each call, a multiplication for each bit set in it. The
/// length of a fixed text is known at start, and appending that many bytes is linear in the checksum before them: 32 columns say
/// all about it.
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

    /// The checksum of a text with checksum `before`, followed by this one.
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
    fn empty_texts_and_values_make_a_whole_member() {
        assert_eq!(inflate(&member(b"", b"", b"")), b"");
        assert_eq!(inflate(&member(b"", b"x", b"")), b"x");
        assert_eq!(inflate(&member(b"a", b"", b"b")), b"ab");
    }

    /// Bytes that no compressor makes fewer.
    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(next).take(bytes).collect()
    }

    #[test]
    fn texts_beyond_one_stored_block_make_a_whole_member() {
        let noise = noise(150_000);
        let plain = inflate(&member(&noise, b"value", &noise));
        assert_eq!(plain, [&noise[..], b"value", &noise[..]].concat());
    }

    #[test]
    fn noise_is_stored_and_words_are_deflated() {
        assert_eq!(before_value(&noise(1_000)).unwrap().len(), 1_000 + 6);
        let words = "the same words again and again, ".repeat(64);
        assert!(before_value(words.as_bytes()).unwrap().len() < words.len() / 10);
    }

    proptest! {
        #[test]
        fn any_pieces_inflate_to_what_went_in(
            first in proptest::collection::vec(any::<u8>(), 0..600),
            value in proptest::collection::vec(any::<u8>(), 0..600),
            last in proptest::collection::vec(0..4_u8, 0..600),
        ) {
            prop_assert_eq!(inflate(&member(&first, &value, &last)), [first, value, last].concat());
        }

        #[test]
        fn checksums_add_up(a in proptest::collection::vec(any::<u8>(), 0..300), b in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Checksum::of(&b).after(crc32fast::hash(&a)), crc32fast::hash(&[a, b].concat()));
        }
    }
}
