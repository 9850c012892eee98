//! Reads form fields in a query or a body (application/x-www-form-urlencoded). The text is not copied. A lookup reads
//! the text at most once. Any bytes are valid input.

use percent_encoding::percent_decode;

/// Returns the first value of the field `name`. The comparison of names ignores case. A piece of the text without `=`
/// has no value and is skipped.
pub(crate) fn value<'t>(text: &'t [u8], name: &str) -> Option<Value<'t>> {
    pieces(text).find(|(key, _)| key.is(name)).map(|(_, value)| value)
}

fn pieces(text: &[u8]) -> impl Iterator<Item = (Value<'_>, Value<'_>)> {
    text.split(|&byte| byte == b'&').filter_map(|piece| {
        let equals = piece.iter().position(|&byte| byte == b'=')?;
        Some((Value(piece.get(..equals)?), Value(piece.get(equals + 1..)?)))
    })
}

/// A name or a value in its encoded form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Value<'t>(&'t [u8]);

impl<'t> Value<'t> {
    /// Returns whether the decoded text is `word`. The comparison ignores case.
    pub(crate) fn is(self, word: &str) -> bool {
        // Three encoded bytes become at least one decoded byte. So a text that is more than three times as long as
        // `word` cannot match.
        self.0.len() <= word.len() * 3
            && self.bytes().map(|byte| byte.to_ascii_lowercase()).eq(word.bytes().map(|byte| byte.to_ascii_lowercase()))
    }

    /// Returns the decoded bytes. A `+` becomes a space. A `%` and two hexadecimal digits become one byte. A `%`
    /// without two hexadecimal digits after it stays unchanged.
    pub(crate) fn bytes(self) -> impl Iterator<Item = u8> + use<'t> {
        // Each part except the first follows a `+`. The split is safe, because a percent-encoding never contains a `+`.
        self.0.split(|&byte| byte == b'+').enumerate().flat_map(|(index, part)| {
            let space = (index > 0).then_some(b' ');
            space.into_iter().chain(percent_decode(part))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(text: &str, name: &str) -> Option<Vec<u8>> {
        value(text.as_bytes(), name).map(|value| value.bytes().collect())
    }

    #[test]
    fn value_when_form_contains_the_name_then_first_value_is_decoded() {
        for (text, found) in [
            ("a=1", Some(&b"1"[..])),
            ("b=2&a=1&a=3", Some(b"1")),
            ("A=1", Some(b"1")),
            ("%61=1", Some(b"1")),
            ("a=1+2%2B3%3d", Some(b"1 2+3=")),
            ("a=%", Some(b"%")),
            ("a=%4", Some(b"%4")),
            ("a=%4g%", Some(b"%4g%")),
            ("a=%FF%00", Some(b"\xff\0")),
            ("a==b", Some(b"=b")),
            ("a=", Some(b"")),
            ("a&a=1", Some(b"1")),
            ("a", None),
            ("", None),
            ("aa=1&=a&&", None),
        ] {
            assert_eq!(decoded(text, "a").as_deref(), found, "{text}");
        }
    }

    #[test]
    fn value_when_preceded_by_much_junk_then_found() {
        let junk = ["%", "&", "=", "a=", "%61%61=", "+"].map(|piece| piece.repeat(8192));
        for junk in junk {
            assert_eq!(decoded(&format!("{junk}&x=1"), "x").as_deref(), Some(&b"1"[..]));
        }
    }

    fn encode(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |text, byte| text + &format!("%{byte:02x}"))
    }

    proptest! {
        #[test]
        fn value_when_form_is_arbitrary_bytes_then_decoding_never_lengthens_the_value(
            text in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            for (key, value) in pieces(&text) {
                prop_assert!(value.bytes().count() <= value.0.len() && key.bytes().count() <= key.0.len());
            }
        }

        #[test]
        fn value_when_percent_encoded_then_decodes_to_the_original_bytes(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            before in "[a-z&=%+]{0,20}",
        ) {
            prop_assume!(decoded(&before, "name").is_none());
            let text = format!("{before}&name={}&name=x", encode(&bytes));
            prop_assert_eq!(decoded(&text, "name"), Some(bytes));
        }

        #[test]
        fn value_when_in_another_case_or_encoded_then_matches_the_word(
            word in "[a-z0-9_-]{1,64}",
            upper in any::<bool>(),
            encoded in any::<bool>(),
        ) {
            let written = if upper { word.to_uppercase() } else { word.clone() };
            let written = if encoded { encode(written.as_bytes()) } else { written };
            prop_assert!(Value(written.as_bytes()).is(&word));
            let longer = format!("{written}x");
            prop_assert!(!Value(longer.as_bytes()).is(&word));
        }
    }
}
