//! Escaping of values in a page: as HTML text, or percent-encoded in a query.

use crate::wire::hex;

/// How a value is escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    Html,
    Query,
}

impl Escape {
    /// Returns the escaping for a value that follows the text `before`.
    pub(super) fn after(before: &str) -> Self {
        let tag = match (before.rfind('<'), before.rfind('>')) {
            (Some(open), Some(close)) if close > open => "",
            (Some(open), _) => before.get(open..).unwrap_or_default(),
            (None, _) => "",
        };
        let mut quotes = tag.rsplit('"');
        let attribute = quotes.next().unwrap_or_default();
        let is_quoted = quotes.count() % 2 == 1;
        if is_quoted && attribute.contains('?') { Self::Query } else { Self::Html }
    }

    /// Returns whether a value that follows the text `before` is inside a tag, but not inside double quotes.
    pub(super) fn is_bare(before: &str) -> bool {
        let tag = before.rfind('<').and_then(|open| before.get(open..)).unwrap_or_default();
        !tag.is_empty() && !tag.contains('>') && tag.matches('"').count().is_multiple_of(2)
    }

    pub(super) fn push(self, out: &mut Vec<u8>, text: &[u8]) {
        for &byte in text {
            match self {
                Self::Html => match entity(byte) {
                    Some(entity) => out.extend_from_slice(entity),
                    None => out.push(byte),
                },
                Self::Query if is_unreserved(byte) => out.push(byte),
                Self::Query => {
                    out.push(b'%');
                    out.extend(hex::digits(byte).map(|digit| digit.to_ascii_uppercase()));
                }
            }
        }
    }
}

/// Two lengths of each byte: after escaping as HTML in the lower half, and after escaping for a query in the upper
/// half. The table makes rendering fast, because each page needs these lengths for all bytes of its values.
#[expect(clippy::cast_possible_truncation, reason = "the longest entity has six bytes")]
static WIDTHS: [u32; 256] = {
    let mut all = [0; 256];
    let mut byte = u8::MAX;
    loop {
        let html = match entity(byte) {
            Some(entity) => entity.len() as u32,
            None => 1,
        };
        let query = if is_unreserved(byte) { 1 } else { 3 };
        all[byte as usize] = query << 16 | html;
        if byte == 0 {
            break all;
        }
        byte -= 1;
    }
};

/// Returns two lengths of `text`: after escaping as HTML, and after escaping for a query. `text` has at most 256 bytes,
/// so neither sum overflows its half.
pub(super) fn widths(text: &[u8]) -> (u16, u16) {
    let sum = text.iter().fold(0_u32, |sum, &byte| sum.wrapping_add(WIDTHS[usize::from(byte)]));
    (u16::try_from(sum & 0xffff).unwrap_or(u16::MAX), u16::try_from(sum >> 16).unwrap_or(u16::MAX))
}

const fn entity(byte: u8) -> Option<&'static [u8]> {
    Some(match byte {
        b'&' => b"&amp;",
        b'<' => b"&lt;",
        b'>' => b"&gt;",
        b'"' => b"&quot;",
        b'\'' => b"&#39;",
        _ => return None,
    })
}

/// Returns whether a query can contain the byte without encoding (unreserved characters, RFC 3986 §2.3).
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}
