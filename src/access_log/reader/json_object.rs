//! Splits a line with one JSON object into keys and values, without a copy. A value is decoded only when it is needed,
//! because most values of most lines are only skipped.

use std::borrow::Cow;

use memchr::memchr2;

use crate::wire::json::is_active;

/// The deepest nesting of lists and objects that the reader skips. edgeshim writes no lists and no nested objects, but
/// a program that ships logs can add them.
const DEEPEST: u32 = 64;

/// A JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'l> {
    Text(Text<'l>),
    /// A number, `true` or `false`, as written. The word is not checked.
    Word(&'l [u8]),
    Null,
    /// A list or an object, which is not read.
    Nested,
}

/// A text that is still escaped as in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Text<'l>(&'l [u8]);

impl<'l> Text<'l> {
    /// `raw` is the text between the quotes of a JSON string.
    pub(crate) fn of_raw(raw: &'l [u8]) -> Self {
        Self(raw)
    }

    /// Returns the escaped bytes. They equal the text if they contain no backslash.
    pub(crate) fn raw(self) -> &'l [u8] {
        self.0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Returns the text. A damaged `\u` escape becomes U+FFFD, and so do a backslash at the end and bytes that are not
    /// UTF-8.
    pub(crate) fn decoded(self) -> Cow<'l, str> {
        if !self.0.contains(&b'\\') {
            return String::from_utf8_lossy(self.0);
        }
        let mut units = Vec::new();
        let raw = String::from_utf8_lossy(self.0);
        let mut characters = raw.chars();
        while let Some(character) = characters.next() {
            let plain = match character {
                '\\' => match characters.next() {
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some('b') => '\u{8}',
                    Some('f') => '\u{c}',
                    Some('u') => {
                        let digits = characters.as_str().get(..4).unwrap_or_default();
                        let unit = u16::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
                        if unit.is_some() {
                            characters = characters.as_str().get(4..).unwrap_or_default().chars();
                        }
                        units.push(unit.unwrap_or(0xFFFD));
                        continue;
                    }
                    Some(other) => other,
                    None => '\u{FFFD}',
                },
                other => other,
            };
            units.extend_from_slice(plain.encode_utf16(&mut [0; 2]));
        }
        Cow::Owned(String::from_utf16_lossy(&units))
    }

    /// Returns the text for people. A character that controls a terminal becomes U+FFFD, and a text of more than `most`
    /// characters is cut.
    pub(crate) fn shown(self, most: usize) -> String {
        shown(&self.decoded(), most)
    }
}

/// Returns a text without characters that control a terminal, cut after `most` characters.
pub(crate) fn shown(text: &str, most: usize) -> String {
    let visible = |character: char| if character.is_control() || is_active(character) { '\u{FFFD}' } else { character };
    let mut shown: String = text.chars().take(most).map(visible).collect();
    if text.chars().nth(most).is_some() {
        shown.push('…');
    }
    shown
}

/// Calls `field` with each key and value of the object in `line`. Keys are still escaped.
///
/// # Errors
/// The line is not one JSON object, or `field` returned an error. The error says what is wrong.
pub(super) fn fields<'l>(
    line: &'l [u8],
    mut field: impl FnMut(&'l [u8], Value<'l>) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    let mut scanner = Scanner { line, at: 0 };
    scanner.expect(b'{', "the line does not begin with `{`")?;
    if scanner.peek() == Some(b'}') {
        scanner.at += 1;
    } else {
        loop {
            scanner.expect(b'"', "a key does not begin with a quote")?;
            let key = scanner.string()?;
            scanner.expect(b':', "a key has no colon after it")?;
            let value = scanner.value()?;
            field(key, value)?;
            match scanner.next() {
                Some(b',') => {}
                Some(b'}') => break,
                Some(_) => return Err("a value has neither a comma nor `}` after it"),
                None => return Err("the line is incomplete"),
            }
        }
    }
    if scanner.peek().is_some() { Err("the line continues after its `}`") } else { Ok(()) }
}

struct Scanner<'l> {
    line: &'l [u8],
    at: usize,
}

impl<'l> Scanner<'l> {
    /// Returns the next byte that is not a space, and stays in front of this byte.
    fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.line.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek();
        self.at += 1;
        byte
    }

    fn expect(&mut self, wanted: u8, message: &'static str) -> Result<(), &'static str> {
        match self.next() {
            Some(byte) if byte == wanted => Ok(()),
            Some(_) => Err(message),
            None => Err("the line is incomplete"),
        }
    }

    /// Reads the rest of a string whose first quote was read. Returns the bytes between the quotes.
    fn string(&mut self) -> Result<&'l [u8], &'static str> {
        let start = self.at;
        loop {
            let rest = self.line.get(self.at..).unwrap_or_default();
            let Some(found) = memchr2(b'"', b'\\', rest) else { return Err("the line ends inside a text") };
            self.at += found;
            if self.line.get(self.at) == Some(&b'"') {
                let text = self.line.get(start..self.at).unwrap_or_default();
                self.at += 1;
                return Ok(text);
            }
            // Skips the backslash and the byte after it.
            self.at += 2;
        }
    }

    fn value(&mut self) -> Result<Value<'l>, &'static str> {
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                Ok(Value::Text(Text(self.string()?)))
            }
            Some(b'{' | b'[') => self.skip_nested(),
            Some(_) => {
                let rest = self.line.get(self.at..).unwrap_or_default();
                let length =
                    rest.iter().position(|byte| matches!(byte, b',' | b'}' | b' ' | b']')).unwrap_or(rest.len());
                let word = rest.get(..length).unwrap_or_default();
                self.at += length;
                match word {
                    b"null" => Ok(Value::Null),
                    b"" => Err("a key has no value"),
                    word => Ok(Value::Word(word)),
                }
            }
            None => Err("the line is incomplete"),
        }
    }

    fn skip_nested(&mut self) -> Result<Value<'l>, &'static str> {
        let mut depth = 0_u32;
        loop {
            match self.next() {
                Some(b'{' | b'[') if depth < DEEPEST => depth += 1,
                Some(b'{' | b'[') => return Err("a value is nested too deeply"),
                Some(b'}' | b']') if depth == 1 => return Ok(Value::Nested),
                Some(b'}' | b']') => depth -= 1,
                Some(b'"') => drop(self.string()?),
                Some(_) => {}
                None => return Err("the line is incomplete"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &str) -> Result<Vec<(String, String)>, &'static str> {
        let mut all = Vec::new();
        fields(line.as_bytes(), |key, value| {
            let value = match value {
                Value::Text(text) => text.decoded().into_owned(),
                Value::Word(word) => String::from_utf8_lossy(word).into_owned(),
                Value::Null => "null".to_owned(),
                Value::Nested => "nested".to_owned(),
            };
            all.push((String::from_utf8_lossy(key).into_owned(), value));
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn object_when_valid_then_all_keys_and_values_are_returned() {
        let line = r#" {"a":"x\"\\\u0041\ud83d\ude00", "b" : 12.5,"c":null,"d":{"e":["}",{}]},"f":true} "#;
        let values: Vec<_> = read(line).unwrap().into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, ["x\"\\A\u{1F600}", "12.5", "null", "nested", "true"]);
        assert_eq!(read("{}"), Ok(Vec::new()));
    }

    #[test]
    fn object_when_damaged_then_rejected() {
        for line in [
            "",
            "x",
            "{",
            "{\"a",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":}",
            "{\"a\":1",
            "{\"a\":1,}",
            "{\"a\":\"x}",
            "{\"a\":\"\\",
            "{\"a\" 1}",
            "{a:1}",
            "{\"a\":1}{\"b\":2}",
            "{\"a\":[1}",
            "[1]",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
        assert!(read(&format!("{{\"a\":{}1{}}}", "[".repeat(65), "]".repeat(65))).is_err());
    }

    #[test]
    fn text_when_damaged_or_active_then_is_shown_with_replacement_characters() {
        let text = |raw| Text(raw).shown(9);
        assert_eq!(text(b"\\u001b[2J\x07\xff\xc2\x9b"), "\u{FFFD}[2J\u{FFFD}\u{FFFD}\u{FFFD}");
        assert_eq!(text(br"\u12 \ud800 \"), "\u{FFFD}12 \u{FFFD} \u{FFFD}");
        assert_eq!(text(b"1234567890"), "123456789…");
    }

    proptest! {
        #[test]
        fn object_when_written_by_serde_then_read_pairs_equal_the_written_pairs(
            pairs in proptest::collection::btree_map("[a-z\"\\\\é]{0,6}", ".{0,12}", 0..6),
        ) {
            let line = serde_json::to_string(&pairs).unwrap();
            let mut values = Vec::new();
            fields(line.as_bytes(), |key, value| {
                let Value::Text(text) = value else { return Err("no text") };
                values.push((Text(key).decoded().into_owned(), text.decoded().into_owned()));
                Ok(())
            }).unwrap();
            prop_assert_eq!(values, pairs.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn object_when_bytes_are_arbitrary_then_read_does_not_panic(
            line in proptest::collection::vec(any::<u8>(), 0..80), near in "[{]?([\"\\\\a:,{}\\[\\]1 ]){0,40}",
        ) {
            for line in [&line[..], near.as_bytes()] {
                let _ = fields(line, |_, value| {
                    if let Value::Text(text) = value {
                        let shown = text.shown(40);
                        assert!(!shown.contains(char::is_control), "{shown:?}");
                    }
                    Ok(())
                });
            }
        }
    }
}
