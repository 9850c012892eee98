//! Makes the pictures and the font at start. The pictures are valid PNG and baseline JPEG files, made without an image
//! library.
//!
//! All pictures show the same small seascape, each in different colours. So no two pictures have the same bytes. The
//! bytes of a picture are the same on every start.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde::Deserialize;

/// The colours of one picture: the top of the sky, the horizon, the light and the bottom of the water.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Palette {
    pub(super) zenith: [u8; 3],
    pub(super) horizon: [u8; 3],
    /// The colour of the sun and of the crests of the waves.
    pub(super) light: [u8; 3],
    pub(super) deep: [u8; 3],
}

/// Makes a PNG (ISO 15948) with 8 bits for each RGB component and uncompressed pixels.
pub(super) fn png(width: u16, height: u16, palette: &Palette) -> Vec<u8> {
    let mut rows = Vec::with_capacity(usize::from(height) * (usize::from(width) * 3 + 1));
    for y in 0..height {
        rows.push(0);
        for x in 0..width {
            rows.extend_from_slice(&scene(x, y, width, height, palette));
        }
    }
    let mut header = Vec::with_capacity(13);
    header.extend_from_slice(&u32::from(width).to_be_bytes());
    header.extend_from_slice(&u32::from(height).to_be_bytes());
    header.extend_from_slice(&[8, 2, 0, 0, 0]);

    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut file, *b"IHDR", &header);
    chunk(&mut file, *b"IDAT", &zlib(&rows));
    chunk(&mut file, *b"IEND", &[]);
    file
}

fn chunk(file: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    file.extend_from_slice(&length.to_be_bytes());
    file.extend_from_slice(&kind);
    file.extend_from_slice(data);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&kind);
    crc.update(data);
    file.extend_from_slice(&crc.finalize().to_be_bytes());
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::none());
    let written = encoder.write_all(data).and_then(|()| encoder.finish());
    written.expect("writing to a Vec cannot fail")
}

/// Makes a baseline JPEG (ITU-T T.81) from blocks of 8×8 pixels, each block in a single colour. The file has only DC
/// coefficients, so the encoder needs no cosine transform, and its two Huffman tables are trivial. `across` and `down`
/// are numbers of blocks.
pub(super) fn jpeg(across: u16, down: u16, palette: &Palette) -> Vec<u8> {
    let mut file = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00".to_vec();
    // All quantisers are 8. So a DC coefficient is the mean of its block minus 128.
    file.extend_from_slice(b"\xff\xdb\x00\x43\x00");
    file.extend_from_slice(&[8; 64]);
    file.extend_from_slice(b"\xff\xc0\x00\x11\x08");
    file.extend_from_slice(&down.saturating_mul(8).to_be_bytes());
    file.extend_from_slice(&across.saturating_mul(8).to_be_bytes());
    file.extend_from_slice(b"\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00");
    // The DC table has twelve codes of four bits, one for each category. The AC table has one code of one bit, which
    // ends a block.
    file.extend_from_slice(
        b"\xff\xc4\x00\x1f\x00\0\0\0\x0c\0\0\0\0\0\0\0\0\0\0\0\0\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b",
    );
    file.extend_from_slice(b"\xff\xc4\x00\x14\x10\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x00");
    file.extend_from_slice(b"\xff\xda\x00\x0c\x03\x01\x00\x02\x00\x03\x00\x00\x3f\x00");

    let mut bits = Bits { file, pending: 0, held: 0 };
    let mut before = [0_i32; 3];
    for y in 0..down {
        for x in 0..across {
            let now = luma_chroma(scene(x, y, across, down, palette));
            for (last, level) in before.iter_mut().zip(now) {
                bits.difference(level - *last);
                *last = level;
            }
        }
    }
    bits.finish()
}

/// Writes the entropy-coded bits of T.81: the most significant bit first, and a zero byte after each 0xff byte.
struct Bits {
    file: Vec<u8>,
    pending: u32,
    held: u32,
}

impl Bits {
    fn push(&mut self, value: u32, count: u32) {
        self.pending = (self.pending << count) | value;
        self.held += count;
        while self.held >= 8 {
            self.held -= 8;
            let [.., byte] = (self.pending >> self.held).to_be_bytes();
            self.file.push(byte);
            if byte == 0xff {
                self.file.push(0);
            }
        }
        self.pending &= (1 << self.held) - 1;
    }

    fn difference(&mut self, change: i32) {
        let size = change.unsigned_abs();
        let category = u32::BITS - size.leading_zeros();
        self.push(category, 4);
        let bits = if change < 0 { ((1 << category) - 1) - size } else { size };
        self.push(bits, category);
        self.push(0, 1);
    }

    fn finish(mut self) -> Vec<u8> {
        // The last byte is padded with ones (T.81 F.1.2.3).
        let gap = (8 - self.held % 8) % 8;
        self.push((1 << gap) - 1, gap);
        self.file.extend_from_slice(b"\xff\xd9");
        self.file
    }
}

/// Converts a colour to JFIF's colour space. 128 is subtracted from each level.
fn luma_chroma([red, green, blue]: [u8; 3]) -> [i32; 3] {
    let (red, green, blue) = (i32::from(red), i32::from(green), i32::from(blue));
    [
        (299 * red + 587 * green + 114 * blue) / 1000 - 128,
        ((-169 * red - 331 * green + 500 * blue) / 1000).clamp(-128, 127),
        ((500 * red - 419 * green - 81 * blue) / 1000).clamp(-128, 127),
    ]
}

/// Makes a file with the signature of WOFF2 and incompressible bytes. A cache cannot distinguish this file from a font.
pub(super) fn font(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(0);
    let noise = std::iter::repeat_with(|| random.u8(..));
    b"wOF2".iter().copied().chain(noise).take(length).collect()
}

/// Returns one pixel of the picture: a sky with a sun above striped water.
fn scene(x: u16, y: u16, width: u16, height: u16, palette: &Palette) -> [u8; 3] {
    let (x, y, width, height) = (u32::from(x), u32::from(y), u32::from(width), u32::from(height));
    let shore = height * 3 / 5;
    if y >= shore {
        let below = y - shore;
        let water = blend(palette.horizon, palette.deep, below, height - shore);
        let crest = (x + 3 * y + below * below / 16).is_multiple_of(7);
        return if crest { blend(water, palette.light, 1, 3) } else { water };
    }
    let (across, down) = (x.abs_diff(width * 2 / 3), y.abs_diff(height / 3));
    if (across * across + down * down) * 81 < height * height {
        return palette.light;
    }
    blend(palette.zenith, palette.horizon, y, shore)
}

fn blend(from: [u8; 3], to: [u8; 3], part: u32, whole: u32) -> [u8; 3] {
    let (part, whole) = (part.min(whole), whole.max(1));
    let mut out = from;
    for (level, goal) in out.iter_mut().zip(to) {
        let mixed = (u32::from(*level) * (whole - part) + u32::from(goal) * part) / whole;
        *level = u8::try_from(mixed).unwrap_or(u8::MAX);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const DUSK: Palette =
        Palette { zenith: [40, 44, 90], horizon: [230, 140, 90], light: [255, 240, 200], deep: [10, 30, 60] };

    #[test]
    fn png_when_made_then_has_valid_chunks_and_all_pixels() {
        let file = png(300, 120, &DUSK);
        let mut rest = file.strip_prefix(b"\x89PNG\r\n\x1a\n".as_slice()).expect("the file has the PNG signature");
        let mut kinds = Vec::new();
        let mut pixels = Vec::new();
        while !rest.is_empty() {
            let length = usize::try_from(u32::from_be_bytes(rest[..4].try_into().unwrap())).unwrap();
            let crc = u32::from_be_bytes(rest[8 + length..12 + length].try_into().unwrap());
            assert_eq!(crc, crc32fast::hash(&rest[4..8 + length]));
            if &rest[4..8] == b"IDAT" {
                flate2::read::ZlibDecoder::new(&rest[8..8 + length])
                    .read_to_end(&mut pixels)
                    .expect("the zlib data is valid");
            }
            kinds.push(rest[4..8].to_vec());
            rest = &rest[12 + length..];
        }
        assert_eq!(kinds, [b"IHDR", b"IDAT", b"IEND"]);
        assert_eq!(pixels.len(), 120 * (300 * 3 + 1));
    }

    #[test]
    fn jpeg_when_made_then_decodes_to_the_scene() {
        let file = jpeg(60, 40, &DUSK);
        assert!(file.starts_with(b"\xff\xd8\xff\xe0") && file.ends_with(b"\xff\xd9"));
        let scan = file.windows(2).position(|pair| pair == b"\xff\xda").expect("the file has a scan") + 14;
        let coded = &file[scan..file.len() - 2];
        assert!(coded.windows(2).all(|pair| pair[0] != 0xff || pair[1] == 0));
        // Decodes the file: every block ends with a code of one bit, and after the last block only padding is left.
        let plain: Vec<u8> = {
            let mut after_marker = false;
            coded
                .iter()
                .copied()
                .filter(|&byte| !std::mem::replace(&mut after_marker, byte == 0xff) || byte != 0)
                .collect()
        };
        let mut bits = plain.iter().flat_map(|byte| (0..8).rev().map(move |shift| (byte >> shift) & 1));
        let mut levels = [0_i32; 3];
        for block in 0..60 * 40 {
            for level in &mut levels {
                let category: u32 =
                    (0..4).fold(0, |all, _| all << 1 | u32::from(bits.next().expect("the scan has more bits")));
                let raw: i32 =
                    (0..category).fold(0, |all, _| all << 1 | i32::from(bits.next().expect("the scan has more bits")));
                *level += if category > 0 && raw < 1 << (category - 1) { raw - (1 << category) + 1 } else { raw };
                assert_eq!(bits.next(), Some(0));
            }
            let (x, y) = (u16::try_from(block % 60).unwrap(), u16::try_from(block / 60).unwrap());
            assert_eq!(levels, luma_chroma(scene(x, y, 60, 40, &DUSK)));
        }
        assert!(bits.all(|bit| bit == 1));
    }

    #[test]
    fn font_when_made_then_has_the_given_length_and_is_reproducible() {
        assert_eq!(font(1001).len(), 1001);
        assert_eq!(font(1001), font(1001));
        assert!(font(64).starts_with(b"wOF2"));
    }
}
