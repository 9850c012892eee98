//! The white space at the edges of field values.
//!
//! It is no part of a value (RFC 9110 §5.5). HTTP/1.1 parsers take it off; HTTP/2 forbids it (RFC 9113 §8.2.1), but curl, nginx and Go
//! let it pass, so a message that has it is mended here and not refused. What goes on is what an HTTP/1.1 recipient would have read.

use http::{HeaderMap, HeaderValue};

/// Takes spaces and tabs off both ends of every value. Allocates only for a value that has some.
pub(crate) fn trim(headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        let bytes = value.as_bytes();
        let has_edge = |edge: Option<&u8>| matches!(edge, Some(b' ' | b'\t'));
        if !has_edge(bytes.first()) && !has_edge(bytes.last()) {
            continue;
        }
        let is_sensitive = value.is_sensitive();
        // A part of a valid value is one.
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
    fn values_when_trimmed_then_only_their_edges_change() {
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

    proptest! {
        #[test]
        fn trimmed_values_have_no_white_space_at_their_edges(value in "[ \t!-~]{0,20}") {
            let mut headers = HeaderMap::new();
            headers.append("x-a", HeaderValue::from_str(&value).unwrap());
            trim(&mut headers);
            prop_assert_eq!(headers["x-a"].to_str().unwrap(), value.trim_matches([' ', '\t']));
        }
    }
}
