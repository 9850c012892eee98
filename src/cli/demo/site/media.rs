//! Pictures and the font, made once at start: valid PNG and baseline JPEG files without an image library.
//!
//! Every picture is the same small seascape under its own palette, so that each has its own bytes and is the same on
//! every start.

/// The colours of one picture, from the top of the sky to the bottom of the water.
#[derive(Debug, Clone, Copy)]
pub(super) struct Palette {
    /// Sky at the upper edge.
    pub(super) zenith: [u8; 3],
    /// Sky at the horizon.
    pub(super) horizon: [u8; 3],
    /// The disc, and the light on the waves.
    pub(super) light: [u8; 3],
    /// Water at the lower edge.
    pub(super) deep: [u8; 3],
}

/// A PNG (ISO 15948), 8 bits RGB, its pixels in stored deflate blocks.
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
    chunk(&mut file, *b"IDAT", &zlib_stored(&rows));
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

/// RFC 1950 around RFC 1951's stored blocks, whose length field has 16 bits.
fn zlib_stored(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let mut blocks = data.chunks(usize::from(u16::MAX)).peekable();
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.push(u8::from(blocks.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    let (mut low, mut high) = (1_u32, 0_u32);
    for &byte in data {
        low = (low + u32::from(byte)) % 65_521;
        high = (high + low) % 65_521;
    }
    out.extend_from_slice(&((high << 16) | low).to_be_bytes());
    out
}

/// A baseline JPEG (ITU-T T.81) of flat 8×8 blocks: only the DC coefficients are coded, which needs neither a cosine
/// transform nor real Huffman tables. `across` and `down` are in blocks.
pub(super) fn jpeg(across: u16, down: u16, palette: &Palette) -> Vec<u8> {
    let mut file = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00".to_vec();
    // One quantiser of 8 throughout: a DC coefficient is then the block's mean less 128.
    file.extend_from_slice(b"\xff\xdb\x00\x43\x00");
    file.extend_from_slice(&[8; 64]);
    file.extend_from_slice(b"\xff\xc0\x00\x11\x08");
    file.extend_from_slice(&down.saturating_mul(8).to_be_bytes());
    file.extend_from_slice(&across.saturating_mul(8).to_be_bytes());
    file.extend_from_slice(b"\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00");
    // DC table: twelve codes of four bits, each its own category. AC table: one code of one bit, the end of the
    // block.
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

/// T.81's entropy-coded bits: most significant first, a zero byte after each 0xff.
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
        // T.81 F.1.2.3: the last byte is filled with ones.
        let gap = (8 - self.held % 8) % 8;
        self.push((1 << gap) - 1, gap);
        self.file.extend_from_slice(b"\xff\xd9");
        self.file
    }
}

/// JFIF's colour space, each level less 128.
fn luma_chroma([red, green, blue]: [u8; 3]) -> [i32; 3] {
    let (red, green, blue) = (i32::from(red), i32::from(green), i32::from(blue));
    [
        (299 * red + 587 * green + 114 * blue) / 1000 - 128,
        ((-169 * red - 331 * green + 500 * blue) / 1000).clamp(-128, 127),
        ((500 * red - 419 * green - 81 * blue) / 1000).clamp(-128, 127),
    ]
}

/// Something with the head of a WOFF2 file and bytes that do not compress, which is all that a cache can tell of a
/// font.
pub(super) fn font(length: usize) -> Vec<u8> {
    let mut file = b"wOF2".to_vec();
    let mut round = 0_u32;
    while file.len() < length {
        file.extend_from_slice(&crc32fast::hash(&round.to_le_bytes()).to_le_bytes());
        round = round.wrapping_add(1);
    }
    file.truncate(length);
    file
}

/// One pixel of a sky, a disc in it and striped water below.
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
    fn png_when_made_has_sound_chunks_and_as_many_pixels_as_it_says() {
        let file = png(300, 120, &DUSK);
        let mut rest = file.strip_prefix(b"\x89PNG\r\n\x1a\n".as_slice()).expect("signature");
        let mut kinds = Vec::new();
        let mut pixels = Vec::new();
        while !rest.is_empty() {
            let length = usize::try_from(u32::from_be_bytes(rest[..4].try_into().unwrap())).unwrap();
            let crc = u32::from_be_bytes(rest[8 + length..12 + length].try_into().unwrap());
            assert_eq!(crc, crc32fast::hash(&rest[4..8 + length]));
            if &rest[4..8] == b"IDAT" {
                flate2::read::ZlibDecoder::new(&rest[8..8 + length]).read_to_end(&mut pixels).expect("zlib");
            }
            kinds.push(rest[4..8].to_vec());
            rest = &rest[12 + length..];
        }
        assert_eq!(kinds, [b"IHDR", b"IDAT", b"IEND"]);
        assert_eq!(pixels.len(), 120 * (300 * 3 + 1));
    }

    #[test]
    fn jpeg_when_made_stuffs_every_marker_byte_in_its_scan() {
        let file = jpeg(60, 40, &DUSK);
        assert!(file.starts_with(b"\xff\xd8\xff\xe0") && file.ends_with(b"\xff\xd9"));
        let scan = file.windows(2).position(|pair| pair == b"\xff\xda").expect("scan") + 14;
        let coded = &file[scan..file.len() - 2];
        assert!(coded.windows(2).all(|pair| pair[0] != 0xff || pair[1] == 0));
        // Decoded again by hand: every block ends in its one-bit code and nothing but filling ones is left.
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
                let category: u32 = (0..4).fold(0, |all, _| all << 1 | u32::from(bits.next().expect("bits")));
                let raw: i32 = (0..category).fold(0, |all, _| all << 1 | i32::from(bits.next().expect("bits")));
                *level += if category > 0 && raw < 1 << (category - 1) { raw - (1 << category) + 1 } else { raw };
                assert_eq!(bits.next(), Some(0));
            }
            let (x, y) = (u16::try_from(block % 60).unwrap(), u16::try_from(block / 60).unwrap());
            assert_eq!(levels, luma_chroma(scene(x, y, 60, 40, &DUSK)));
        }
        assert!(bits.all(|bit| bit == 1));
    }

    #[test]
    fn font_when_made_is_as_long_as_asked_and_the_same_again() {
        assert_eq!(font(1001).len(), 1001);
        assert_eq!(font(1001), font(1001));
        assert!(font(64).starts_with(b"wOF2"));
    }
}
