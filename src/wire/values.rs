//! The values of header fields: white space at the ends of a value, the number in Content-Length, and fields that must
//! have exactly one line.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::decimal;
use super::head_fields::Fields;
use super::names::CONTENT_LENGTH;

/// Returns the number in Content-Length (RFC 9110 §8.6), or `None` if this field is absent. Equal numbers in several
/// field lines or in one list count as one number.
///
/// # Errors
/// Returns an error if a member is not a number, or if two numbers differ.
pub(crate) fn content_length<'a>(fields: impl Into<Fields<'a>>) -> Result<Option<u64>, &'static str> {
    let mut length = None;
    for line in fields.into().lines(&CONTENT_LENGTH) {
        for member in line.as_bytes().split(|&byte| byte == b',') {
            let Some(number) = decimal::read(member.trim_ascii()) else {
                return Err("the value of Content-Length is not a valid number");
            };
            if *length.get_or_insert(number) != number {
                return Err("Content-Length has two different values");
            }
        }
    }
    Ok(length)
}

/// The error for a field that does not have exactly one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    None,
    Several,
}

/// Returns the value of a field that has exactly one line.
///
/// # Errors
/// Returns an error if the field has no line or several lines.
pub(crate) fn only_line<'a>(headers: &'a HeaderMap, field: &HeaderName) -> Result<&'a HeaderValue, Lines> {
    let mut lines = headers.get_all(field).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Err(Lines::None),
        (Some(line), None) => Ok(line),
        (Some(_), Some(_)) => Err(Lines::Several),
    }
}

/// Truncates `text` to at most `most` bytes. The result ends with a complete character.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

/// Removes spaces and tabs from both ends of every value. Allocates only for a value that has such white space.
///
/// White space at the ends is not part of a value (RFC 9110 §5.5). HTTP/1.1 parsers remove this white space. HTTP/2
/// forbids such values (RFC 9113 §8.2.1), but curl, nginx and Go accept them. Therefore edgeshim repairs the message
/// with this function and does not refuse the message. The next recipient gets the value that an HTTP/1.1 parser would
/// read.
pub(crate) fn trim(headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        let bytes = value.as_bytes();
        let is_space = |edge: Option<&u8>| matches!(edge, Some(b' ' | b'\t'));
        if !is_space(bytes.first()) && !is_space(bytes.last()) {
            continue;
        }
        let is_sensitive = value.is_sensitive();
        // A part of a valid value is a valid value.
        if let Ok(mut trimmed) = HeaderValue::from_bytes(bytes.trim_ascii()) {
            trimmed.set_sensitive(is_sensitive);
            *value = trimmed;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn value_when_trimmed_then_loses_only_spaces_and_tabs_at_the_ends() {
        for (before, after) in [
            ("", ""),
            ("b", "b"),
            ("b\t", "b"),
            (" c", "c"),
            (" \t d e\tf \t", "d e\tf"),
            ("\t", ""),
            ("   ", ""),
            ("\u{a0}g\u{a0}", "\u{a0}g\u{a0}"),
        ] {
            let mut headers = HeaderMap::new();
            headers.append("x-a", HeaderValue::from_str(before).unwrap());
            headers.append("x-a", HeaderValue::from_static("same"));
            trim(&mut headers);
            let values: Vec<_> = headers.get_all("x-a").iter().map(HeaderValue::as_bytes).collect();
            assert_eq!(values, [after.as_bytes(), b"same"], "{before:?}");
        }
    }

    #[test]
    fn content_length_when_all_values_are_one_number_then_accepted_otherwise_rejected() {
        for (lines, length) in [
            (&[][..], Ok(None)),
            (&["5"], Ok(Some(5))),
            (&["0"], Ok(Some(0))),
            (&["0005"], Ok(Some(5))),
            (&["5", "5"], Ok(Some(5))),
            (&["5, 5 ,05"], Ok(Some(5))),
            (&["18446744073709551615"], Ok(Some(u64::MAX))),
            (&["18446744073709551616"], Err("the value of Content-Length is not a valid number")),
            (&["5", "6"], Err("Content-Length has two different values")),
            (&["5,6"], Err("Content-Length has two different values")),
            (&["5,"], Err("the value of Content-Length is not a valid number")),
            (&["+5"], Err("the value of Content-Length is not a valid number")),
            (&["-5"], Err("the value of Content-Length is not a valid number")),
            (&["5 5"], Err("the value of Content-Length is not a valid number")),
            (&["0x5"], Err("the value of Content-Length is not a valid number")),
            (&[""], Err("the value of Content-Length is not a valid number")),
        ] {
            let headers = lines.iter().map(|line| (CONTENT_LENGTH, HeaderValue::from_static(line))).collect();
            assert_eq!(content_length(&headers), length, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn value_when_trimmed_then_has_no_space_or_tab_at_either_end(value in "[ \t!-~]{0,20}") {
            let mut headers = HeaderMap::new();
            headers.append("x-a", HeaderValue::from_str(&value).unwrap());
            trim(&mut headers);
            prop_assert_eq!(headers["x-a"].to_str().unwrap(), value.trim_matches([' ', '\t']));
        }
    }
}
