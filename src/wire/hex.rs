//! Bytes as hexadecimal text.

/// Returns the lower-case hexadecimal digit of a number below 16.
pub(crate) const fn digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

/// Returns the two digits of a byte.
pub(crate) const fn digits(byte: u8) -> [u8; 2] {
    [digit(byte >> 4), digit(byte & 0x0f)]
}

/// Returns the eight digits of a number. The function computes all digits at once: each request without an id or
/// without a traceparent needs 48 digits.
pub(crate) const fn eight_digits(number: u32) -> [u8; 8] {
    // The nibbles are spread, so that each byte of `spread` has one nibble.
    let spread = number as u64;
    let spread = (spread << 16 | spread) & 0x0000_ffff_0000_ffff;
    let spread = (spread << 8 | spread) & 0x00ff_00ff_00ff_00ff;
    let spread = (spread << 4 | spread) & 0x0f0f_0f0f_0f0f_0f0f;
    // Each byte whose nibble is above 9 becomes 1.
    let is_letter = (spread + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    (spread + 0x3030_3030_3030_3030 + is_letter * (b'a' - 10 - b'0') as u64).to_be_bytes()
}

/// Returns two lower-case digits for each byte.
pub(crate) fn text(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| digits(*byte)).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_when_written_as_eight_digits_then_equals_the_text_of_its_bytes() {
        for number in [0, 0x0123_4567, 0x89ab_cdef, 0x090a_0f10, 0xf0a9_9a00, u32::MAX] {
            assert_eq!(eight_digits(number), text(&number.to_be_bytes()).as_bytes());
        }
    }

    #[test]
    fn text_when_written_then_has_two_lower_case_digits_for_each_byte() {
        assert_eq!(text(&[0, 0x09, 0xaf, 0xff]), "0009afff");
        assert_eq!(text(&[]), "");
    }
}
