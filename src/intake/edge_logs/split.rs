//! Splits a batch into its records, as the bytes arrive. A record is a line, or an element of a JSON array.
//!
//! Cost: one pass over the bytes. A record that arrives in one piece is not copied. The memory is at most one record,
//! and a record that is too long is skipped.

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

/// The bytes are not a JSON array, or the array is truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotAnArray;

/// The start of a record whose end has not arrived.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    is_too_long: bool,
    longest: usize,
}

impl Held {
    fn new(longest: usize) -> Self {
        Self { bytes: Vec::new(), is_too_long: false, longest }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.is_too_long
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.is_too_long || self.bytes.len() + bytes.len() > self.longest {
            self.is_too_long = true;
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Completes the record with its last bytes, and passes the record on.
    fn complete(&mut self, last: &[u8], each: &mut impl FnMut(Record<'_>)) {
        if self.is_empty() && last.len() <= self.longest {
            each(Record::Text(last));
            return;
        }
        self.push(last);
        each(if self.is_too_long { Record::TooLong } else { Record::Text(&self.bytes) });
        self.bytes.clear();
        self.is_too_long = false;
    }
}

/// Splits lines. Lines without content are left out.
#[derive(Debug)]
pub(super) struct Lines {
    held: Held,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { held: Held::new(MAX_RECORD_BYTES) }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8], each: &mut impl FnMut(Record<'_>)) {
        while let Some((line, rest)) = memchr(b'\n', bytes).and_then(|end| bytes.split_at_checked(end)) {
            self.complete(line, each);
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.held.push(bytes);
    }

    /// Passes on the last line, which may have no line end.
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

/// What can come next in an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The bracket that opens the array.
    Open,
    /// An element, or the end of the array if it is empty.
    ElementOrEnd,
    Element,
    /// More bytes of an element that is an object or a list: the number of open brackets.
    Nested(u32),
    /// More bytes of a text, which is an element or in an element with this number of open brackets.
    Text(u32),
    /// The byte after a backslash in such a text.
    Escaped(u32),
    /// More bytes of an element that is a number or a word.
    Word,
    CommaOrEnd,
    /// The array has ended.
    Ended,
}

/// Splits the elements of a JSON array. The elements themselves are not checked.
#[derive(Debug)]
pub(super) struct Array {
    next: Next,
    held: Held,
}

impl Array {
    /// Splits an array whose elements have at most `longest` bytes.
    pub(super) fn new(longest: usize) -> Self {
        Self { next: Next::Open, held: Held::new(longest) }
    }

    pub(super) fn of_lines() -> Self {
        Self::new(MAX_RECORD_BYTES)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.next == Next::Ended
    }

    /// Passes on the elements that `bytes` complete. Returns the bytes after the end of the array.
    pub(super) fn feed<'b>(
        &mut self,
        bytes: &'b [u8],
        each: &mut impl FnMut(Record<'_>),
    ) -> Result<&'b [u8], NotAnArray> {
        // The position at which the part of the current element begins that is not held yet.
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
                        b'{' | b'[' => Next::Nested(1),
                        b'"' => Next::Text(0),
                        _ => Next::Word,
                    }
                }
                (Next::Nested(depth), b'{' | b'[') => Next::Nested(depth.saturating_add(1)),
                (Next::Nested(1), b'}' | b']') | (Next::Text(0), b'"') => {
                    ends_after = Some(at + 1);
                    Next::CommaOrEnd
                }
                (Next::Nested(depth), b'}' | b']') => Next::Nested(depth - 1),
                (Next::Nested(depth), b'"') | (Next::Escaped(depth), _) => Next::Text(depth),
                (Next::Nested(depth), _) | (Next::Text(depth), b'"') => Next::Nested(depth),
                (Next::Text(depth), b'\\') => Next::Escaped(depth),
                (Next::Text(depth), _) => {
                    // A text can be long, so its end is searched at once.
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
        let mut array = Array::of_lines();
        for piece in pieces {
            let rest = array.feed(piece, &mut |record| found.push(owned(record)))?;
            if !rest.trim_ascii().is_empty() {
                return Err(NotAnArray);
            }
        }
        if array.has_ended() { Ok(found) } else { Err(NotAnArray) }
    }

    #[test]
    fn lines_when_cut_anywhere_then_complete_and_without_empty_lines() {
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
    fn array_when_cut_anywhere_then_its_elements_are_complete() {
        let text = br#" [ {"a":"]}\"\\","b":[{}]} , "x,\"]", 12 ,null,[1,[2]] ] "#;
        let expected = [r#"{"a":"]}\"\\","b":[{}]}"#, r#""x,\"]""#, "12", "null", "[1,[2]]"];
        for at in 0..text.len() {
            let (one, two) = text.split_at(at);
            assert_eq!(elements(&[one, two]).as_deref(), Ok(expected.map(str::to_owned).as_slice()), "{at}");
        }
        assert_eq!(elements(&[b"[]"]), Ok(Vec::new()));
    }

    #[test]
    fn array_when_not_complete_or_not_an_array_then_error() {
        for text in ["", "[", "[1", "[1,", "[1,]", "[,1]", "[{}", "[{]", "{}", "[1] 2", "[1 2]", "[\"a", "[{} {}]"] {
            assert_eq!(elements(&[text.as_bytes()]), Err(NotAnArray), "{text}");
        }
    }

    proptest! {
        #[test]
        fn bytes_when_arbitrary_then_same_records_in_one_piece_or_many(
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
