//! Bytes as hexadecimal text.

/// Returns the lower-case hexadecimal digit of a number below 16.
pub(crate) const fn digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

/// Returns the two digits of a byte.
pub(crate) const fn digits(byte: u8) -> [u8; 2] {
    [digit(byte >> 4), digit(byte & 0x0f)]
}

/// Returns two lower-case digits for each byte.
pub(crate) fn text(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| digits(*byte)).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_when_written_then_has_two_lower_case_digits_for_each_byte() {
        assert_eq!(text(&[0, 0x09, 0xaf, 0xff]), "0009afff");
        assert_eq!(text(&[]), "");
    }
}
