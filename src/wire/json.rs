//! Writing of JSON strings (RFC 8259 §7), for rooms that do not use serde.

use std::io::Write as _;

/// Appends `text` as the content of a JSON string, without the quotes. Bytes that are not UTF-8 become U+FFFD. The
/// function escapes the characters that JSON forbids in strings, and each character for which `also` returns true.
pub(crate) fn push_escaped(out: &mut Vec<u8>, text: &[u8], also: impl Fn(char) -> bool) {
    // Nearly all values are printable ASCII.
    let plain = |&byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\') && !also(char::from(byte));
    if text.iter().all(plain) {
        out.extend_from_slice(text);
        return;
    }
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                escaped if escaped < ' ' || also(escaped) => {
                    let mut units = [0; 2];
                    for unit in escaped.encode_utf16(&mut units) {
                        // Writing to a Vec does not fail.
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{FFFD}".as_bytes());
        }
    }
}

/// Returns whether a terminal or a text viewer interprets the character instead of displaying the character: DEL, C1
/// controls, line and paragraph separators, and characters that change the writing direction.
pub(crate) fn is_active(character: char) -> bool {
    matches!(
        character,
        '\x7F'..='\u{9F}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quoted(text: &[u8], also: impl Fn(char) -> bool) -> Vec<u8> {
        let mut out = b"\"".to_vec();
        push_escaped(&mut out, text, also);
        out.push(b'"');
        out
    }

    #[test]
    fn text_when_control_characters_or_invalid_bytes_are_present_then_escaped_or_replaced() {
        let json = quoted(b"a\r\n\x1b[2J\0\x7f\xff\xe2\x80\xa8\"\\", is_active);
        assert_eq!(json, "\"a\\r\\n\\u001b[2J\\u0000\\u007f\u{FFFD}\\u2028\\\"\\\\\"".as_bytes());
        assert_eq!(quoted("<\u{1F600}".as_bytes(), |_| true), b"\"\\u003c\\ud83d\\ude00\"");
    }

    proptest! {
        #[test]
        fn bytes_when_escaped_then_serde_reads_the_text_with_replacement_characters(
            text in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let out = quoted(&text, is_active);
            let read: String = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&text));
            let shown = str::from_utf8(&out).unwrap();
            prop_assert!(!shown.contains(char::is_control));
        }

        #[test]
        fn text_when_escaped_then_serde_reads_the_same_text(text in ".*", angle in any::<bool>()) {
            let out = quoted(text.as_bytes(), |character| angle && character == '<');
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
