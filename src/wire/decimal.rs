//! Whole numbers as decimal digits.

/// Reads a number from a text that consists only of digits. Returns `None` for any other text and for a number above
/// `u64::MAX`. `parse` of the standard library would also accept a `+`.
pub(crate) fn read(text: &[u8]) -> Option<u64> {
    let digit = |number: u64, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, digit) }
}

/// Like [`read`], but a number above `u64::MAX` becomes `u64::MAX`.
pub(crate) fn read_saturating(text: &[u8]) -> Option<u64> {
    let digit = |number: u64, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit))
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, digit) }
}

/// Writes a number into the last bytes of `digits` and returns these bytes. Heads and logs contain many numbers, so
/// `fmt` would be too slow.
pub(crate) fn write(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut start = digits.len();
    for (index, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        start = index;
        if number == 0 {
            break;
        }
    }
    digits.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_when_written_and_read_then_is_unchanged() {
        for number in [0, 9, 10, 1_234_567_890, u64::MAX] {
            let mut digits = [0; 20];
            assert_eq!(write(number, &mut digits), number.to_string().as_bytes());
            assert_eq!(read(write(number, &mut digits)), Some(number));
        }
    }

    #[test]
    fn number_when_text_is_invalid_or_too_large_then_is_rejected_or_saturated() {
        for text in ["", "+1", "-1", " 1", "1 ", "1_0", "0x1", "18446744073709551616"] {
            assert_eq!(read(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(read(b"0005"), Some(5));
        assert_eq!(read_saturating(b"18446744073709551616"), Some(u64::MAX));
        assert_eq!(read_saturating(b"00000000000000000000042"), Some(42));
        for text in ["", "+1", "99999999999999999999x"] {
            assert_eq!(read_saturating(text.as_bytes()), None, "{text:?}");
        }
    }
}
