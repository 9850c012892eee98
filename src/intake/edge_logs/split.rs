//! Splits a batch into its records, as the bytes arrive. A record is a line, or an element of a JSON array.
//!
//! Cost: one pass over the bytes. A record is copied only if it arrives in several pieces. At most one record is in
//! memory. A record that is too long is skipped.

use memchr::{memchr, memchr2};

/// The longest record that is read, in bytes.
const MAX_RECORD_BYTES: usize = 64 * 1024;

/// One record of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record<'b> {
    Text(&'b [u8]),
    /// The record is longer than allowed, so it was skipped.
    TooLong,
}

/// The error that the bytes are not a JSON array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotAnArray;

/// The part of the current record that has arrived so far. It is empty between two records.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    is_too_long: bool,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.is_too_long
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.is_too_long || self.bytes.len() + bytes.len() > MAX_RECORD_BYTES {
            self.is_too_long = true;
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Completes the record with its last bytes, and passes the record to `each`.
    fn complete(&mut self, last: &[u8], each: &mut impl FnMut(Record<'_>)) {
        if self.is_empty() && last.len() <= MAX_RECORD_BYTES {
            each(Record::Text(last));
            return;
        }
        self.push(last);
        each(if self.is_too_long { Record::TooLong } else { Record::Text(&self.bytes) });
        self.bytes.clear();
        self.is_too_long = false;
    }
}

/// Splits a batch into lines. Lines that contain only whitespace are left out.
#[derive(Debug)]
pub(super) struct Lines {
    held: Held,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { held: Held::default() }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8], each: &mut impl FnMut(Record<'_>)) {
        while let Some((line, rest)) = memchr(b'\n', bytes).and_then(|end| bytes.split_at_checked(end)) {
            self.complete(line, each);
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.held.push(bytes);
    }

    /// Passes the last line to `each` if no line end follows the line.
    pub(super) fn finish(&mut self, each: &mut impl FnMut(Record<'_>)) {
        self.complete(b"", each);
    }

    fn complete(&mut self, line: &[u8], each: &mut impl FnMut(Record<'_>)) {
        self.held.complete(line, &mut |record| match record {
            Record::Text(line) if line.trim_ascii().is_empty() => {}
            record => each(record),
        });
    }
}

/// The bytes that can come next in an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The bracket that opens the array.
    Open,
    /// The first element, or the end of an empty array.
    ElementOrEnd,
    Element,
    /// More bytes of an element that is an object or an array. The number counts the open brackets in the element.
    Nested(u32),
    /// More bytes of a string. The number counts the brackets that are open around the string in its element. 0: the
    /// string is the element itself.
    Text(u32),
    /// The byte after a backslash in a string. The number has the same meaning as in `Text`.
    Escaped(u32),
    /// More bytes of an element that is a number, `true`, `false` or `null`.
    Word,
    CommaOrEnd,
    /// The array has ended.
    Ended,
}

/// The brackets that are open. Each bracket must be closed by a bracket of its kind.
#[derive(Debug, Default)]
pub(super) struct Brackets {
    /// One bit for each open bracket, the innermost bracket in the lowest bit. 1: the bracket is `{`. 0: it is `[`.
    kinds: u128,
}

impl Brackets {
    /// The largest number of brackets that can be open. `serde_json` has the same limit.
    const MOST: u32 = 128;

    /// Opens a bracket inside of `depth` open brackets. Returns the new number of open brackets, or `None` if too many
    /// brackets are open.
    pub(super) fn open(&mut self, depth: u32, bracket: u8) -> Option<u32> {
        self.kinds = self.kinds << 1 | u128::from(bracket == b'{');
        Some(depth + 1).filter(|depth| *depth <= Self::MOST)
    }

    /// Closes the innermost of `depth` open brackets. Returns the new number of open brackets, or `None` if `bracket`
    /// is of the other kind.
    pub(super) fn close(&mut self, depth: u32, bracket: u8) -> Option<u32> {
        let is_object = self.kinds & 1 == 1;
        self.kinds >>= 1;
        depth.checked_sub(1).filter(|_| is_object == (bracket == b'}'))
    }
}

/// Splits a JSON array into its elements. Of each element, only the brackets and the quotes are checked.
#[derive(Debug)]
pub(super) struct Array {
    next: Next,
    /// The brackets that are open in the current element.
    brackets: Brackets,
    held: Held,
}

impl Array {
    pub(super) fn new() -> Self {
        Self { next: Next::Open, brackets: Brackets::default(), held: Held::default() }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.next == Next::Ended
    }

    /// Passes each element whose end is in `bytes` to `each`. Returns the bytes after the end of the array.
    pub(super) fn feed<'b>(
        &mut self,
        bytes: &'b [u8],
        each: &mut impl FnMut(Record<'_>),
    ) -> Result<&'b [u8], NotAnArray> {
        // The position in `bytes` at which the new part of the current element begins. Earlier parts are in `held`.
        let mut start = 0;
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let is_space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
            let mut ends_after = None;
            self.next = match (self.next, byte) {
                (Next::Ended, _) => break,
                (Next::Open | Next::ElementOrEnd | Next::Element | Next::CommaOrEnd, _) if is_space => self.next,
                (Next::Open, b'[') => Next::ElementOrEnd,
                (Next::ElementOrEnd | Next::CommaOrEnd, b']') => Next::Ended,
                (Next::CommaOrEnd, b',') => Next::Element,
                (Next::ElementOrEnd | Next::Element, b']' | b',' | b'}' | b':')
                | (Next::Open | Next::CommaOrEnd, _) => {
                    return Err(NotAnArray);
                }
                (Next::ElementOrEnd | Next::Element, _) => {
                    start = at;
                    match byte {
                        b'{' | b'[' => Next::Nested(self.brackets.open(0, byte).ok_or(NotAnArray)?),
                        b'"' => Next::Text(0),
                        _ => Next::Word,
                    }
                }
                (Next::Nested(depth), b'{' | b'[') => Next::Nested(self.brackets.open(depth, byte).ok_or(NotAnArray)?),
                (Next::Text(0), b'"') => {
                    ends_after = Some(at + 1);
                    Next::CommaOrEnd
                }
                (Next::Nested(depth), b'}' | b']') => match self.brackets.close(depth, byte).ok_or(NotAnArray)? {
                    0 => {
                        ends_after = Some(at + 1);
                        Next::CommaOrEnd
                    }
                    depth => Next::Nested(depth),
                },
                (Next::Nested(depth), b'"') | (Next::Escaped(depth), _) => Next::Text(depth),
                (Next::Nested(depth), _) | (Next::Text(depth), b'"') => Next::Nested(depth),
                (Next::Text(depth), b'\\') => Next::Escaped(depth),
                (Next::Text(depth), _) => {
                    // A string can be long. So the search jumps to the next quote or backslash.
                    let rest = bytes.get(at..).unwrap_or_default();
                    at += memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                    self.next = Next::Text(depth);
                    continue;
                }
                (Next::Word, b',' | b']' | b' ' | b'\t' | b'\r' | b'\n') => {
                    self.held.complete(bytes.get(start..at).unwrap_or_default(), each);
                    self.next = Next::CommaOrEnd;
                    continue;
                }
                (Next::Word, b'{' | b'}' | b'[' | b'"' | b':') => return Err(NotAnArray),
                (Next::Word, _) => Next::Word,
            };
            at += 1;
            if let Some(end) = ends_after {
                self.held.complete(bytes.get(start..end).unwrap_or_default(), each);
            }
        }
        if matches!(self.next, Next::Nested(_) | Next::Text(_) | Next::Escaped(_) | Next::Word) {
            self.held.push(bytes.get(start..).unwrap_or_default());
        }
        Ok(bytes.get(at..).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owned(record: Record<'_>) -> String {
        match record {
            Record::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Record::TooLong => "too long".to_owned(),
        }
    }

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut found = Vec::new();
        let mut lines = Lines::new();
        for piece in pieces {
            lines.feed(piece, &mut |record| found.push(owned(record)));
        }
        lines.finish(&mut |record| found.push(owned(record)));
        found
    }

    fn elements(pieces: &[&[u8]]) -> Result<Vec<String>, NotAnArray> {
        let mut found = Vec::new();
        let mut array = Array::new();
        for piece in pieces {
            let rest = array.feed(piece, &mut |record| found.push(owned(record)))?;
            if !rest.trim_ascii().is_empty() {
                return Err(NotAnArray);
            }
        }
        if array.has_ended() { Ok(found) } else { Err(NotAnArray) }
    }

    #[test]
    fn lines_when_received_in_pieces_then_are_complete_and_empty_lines_are_left_out() {
        let text = b"{\"a\":1}\n\n \r\n{\"b\":2}\r\nlast";
        for at in 0..text.len() {
            let (one, two) = text.split_at(at);
            assert_eq!(lines(&[one, two]), ["{\"a\":1}", "{\"b\":2}\r", "last"], "{at}");
        }
        assert_eq!(lines(&[]), [""; 0]);
    }

    #[test]
    fn line_when_too_long_then_skipped_and_the_next_line_is_read() {
        let long = vec![b'x'; MAX_RECORD_BYTES + 1];
        assert_eq!(lines(&[&long, b"\nb\n"]), ["too long", "b"]);
        assert_eq!(lines(&[b"a\n", &long, &long, b"\nb"]), ["a", "too long", "b"]);
        assert_eq!(lines(&[&[&long[..], b"\nb"].concat()]), ["too long", "b"]);
        let array = [b"[\"", &long[..], b"\",7]"].concat();
        assert_eq!(elements(&[&array]), Ok(vec!["too long".to_owned(), "7".to_owned()]));
    }

    #[test]
    fn array_when_received_in_pieces_then_elements_are_complete() {
        let text = br#" [ {"a":"]}\"\\","b":[{}]} , "x,\"]", 12 ,null,[1,[2]] ] "#;
        let expected = [r#"{"a":"]}\"\\","b":[{}]}"#, r#""x,\"]""#, "12", "null", "[1,[2]]"];
        for at in 0..text.len() {
            let (one, two) = text.split_at(at);
            assert_eq!(elements(&[one, two]).as_deref(), Ok(expected.map(str::to_owned).as_slice()), "{at}");
        }
        assert_eq!(elements(&[b"[]"]), Ok(Vec::new()));
    }

    #[test]
    fn array_when_truncated_or_invalid_then_rejected() {
        for text in [
            "",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "[,1]",
            "[{}",
            "[{]",
            "{}",
            "[1] 2",
            "[1 2]",
            "[\"a",
            "[{} {}]",
            "[{]]",
            "[[}]",
            "[{\"a\":[1}]]",
            "[{\"a\":{\"b\":1]}]",
            "[1}]",
            "[x{]",
            "[a\"b\"]",
        ] {
            assert_eq!(elements(&[text.as_bytes()]), Err(NotAnArray), "{text}");
        }
        let deep = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
        // The outermost bracket belongs to the array, not to its element.
        assert!(elements(&[&deep(129)]).is_ok());
        assert_eq!(elements(&[&deep(130)]), Err(NotAnArray));
    }

    proptest! {
        #[test]
        fn records_when_bytes_arrive_in_several_pieces_then_do_not_depend_on_the_pieces(
            text in "[\\[\\]{}\",\\\\ a1\n]{0,60}", cuts in prop::collection::vec(0_usize..60, 0..4)
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|at| at.min(bytes.len())).collect();
            cuts.sort_unstable();
            let ends = cuts.iter().copied().chain([bytes.len()]);
            let pieces: Vec<_> =
                ends.scan(0, |start, end| Some(&bytes[std::mem::replace(start, end)..end])).collect();
            prop_assert_eq!(lines(&[bytes]), lines(&pieces));
            prop_assert_eq!(elements(&[bytes]), elements(&pieces));
        }
    }
}
