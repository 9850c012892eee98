//! The envelope in which Amazon Firehose sends records to an HTTP endpoint: an object with `requestId`, `timestamp` and
//! `records`. `records` is an array. Each of its elements is an object whose member `data` has log lines in base64.
//!
//! Cost: one pass over the bytes. The base64 is decoded as it arrives, so an element of any size needs little memory.
//!
//! Source: <https://docs.aws.amazon.com/firehose/latest/dev/httpdeliveryrequestresponse.html>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memchr2;
use serde::Deserialize;

use super::split::{Brackets, Lines, Record};

/// The longest envelope without the elements of `records`, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The member of an element that has the log lines.
const DATA: &[u8] = b"data";

/// The error that the bytes are not an envelope, or that the envelope is truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotAnEnvelope;

/// The member of an envelope that the response to Firehose repeats.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    #[serde(rename = "requestId")]
    pub request_id: String,
}

/// The bytes that can come next in an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The members before `records`.
    Head,
    /// The first element of `records`, or the end of an empty array.
    ElementOrEnd,
    Element,
    CommaOrEnd,
    /// More bytes of an element, outside of its strings.
    Inside,
    /// More bytes of a string in an element.
    Text,
    /// The byte after a backslash in a string of an element.
    Escaped,
    /// The members after `records`.
    Tail,
}

/// Reads an envelope as its bytes arrive.
#[derive(Debug)]
pub(super) struct Envelope {
    next: Next,
    /// The part of the envelope that has arrived so far, without the elements of `records`.
    head: Vec<u8>,
    /// Whether the next byte of the head is inside a JSON string.
    is_in_text: bool,
    /// Whether the next byte of the head follows a backslash in a JSON string.
    is_escaped: bool,
    /// The brackets that are open in the current element, and their number.
    brackets: Brackets,
    depth: u32,
    /// The start of the name of the current member of the element.
    key: Vec<u8>,
    /// Whether the name of the current member is complete, so that its value comes next.
    is_value: bool,
    data: Data,
}

impl Envelope {
    pub(super) fn new() -> Self {
        Self {
            next: Next::Head,
            head: Vec::new(),
            is_in_text: false,
            is_escaped: false,
            brackets: Brackets::default(),
            depth: 0,
            key: Vec::new(),
            is_value: false,
            data: Data::new(),
        }
    }

    /// Returns whether the start of a body is the start of an envelope. The name `records` must be the first name, or
    /// come after `requestId` and `timestamp` only. A log line can have these two names too, but not before an array
    /// with the name `records`.
    pub(super) fn is_start(body: &[u8]) -> bool {
        fn member(body: &[u8]) -> Option<(&[u8], &[u8])> {
            let (name, rest) = string(body.trim_ascii_start())?;
            Some((name, rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start()))
        }
        fn string(body: &[u8]) -> Option<(&[u8], &[u8])> {
            let body = body.strip_prefix(b"\"")?;
            let end = memchr2(b'"', b'\\', body)?;
            Some((body.get(..end)?, body.get(end..)?.strip_prefix(b"\"")?))
        }
        let mut rest = body.strip_prefix(b"{");
        while let Some((name, value)) = rest.and_then(member) {
            match name {
                b"records" => return value.starts_with(b"["),
                b"requestId" | b"timestamp" => {}
                _ => return false,
            }
            let value = string(value).map_or(value, |(_, rest)| rest);
            rest = memchr2(b',', b'}', value).and_then(|end| value.get(end..)?.strip_prefix(b","));
        }
        false
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8], each: &mut impl FnMut(Record<'_>)) -> Result<(), NotAnEnvelope> {
        if self.next == Next::Head {
            let Some(start) = self.start_of_records(bytes) else { return self.push_head(bytes) };
            let (before, rest) = bytes.split_at_checked(start).unwrap_or_default();
            self.push_head(before)?;
            // An empty array replaces `records` in the head, so that the head is valid JSON.
            self.push_head(b"[]")?;
            self.next = Next::ElementOrEnd;
            bytes = rest.get(1..).unwrap_or_default();
        }
        bytes = self.feed_records(bytes, each)?;
        self.push_head(bytes)
    }

    /// Reads bytes of `records`. Returns the bytes after the end of the array.
    fn feed_records<'b>(
        &mut self,
        mut bytes: &'b [u8],
        each: &mut impl FnMut(Record<'_>),
    ) -> Result<&'b [u8], NotAnEnvelope> {
        while let Some((&byte, rest)) = bytes.split_first() {
            self.next = match (self.next, byte) {
                (Next::Tail | Next::Head, _) => break,
                (Next::Text, b'"') => {
                    if self.is_data() {
                        self.data.finish(each);
                    }
                    Next::Inside
                }
                (Next::Text, b'\\') => Next::Escaped,
                (Next::Text, _) => {
                    let end = memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
                    let (text, rest) = bytes.split_at_checked(end).unwrap_or_default();
                    self.text(text, each);
                    bytes = rest;
                    continue;
                }
                (Next::Escaped, _) => {
                    // Base64 needs no escape except `\/`, which some writers use. Any other escape is read as a
                    // backslash, which makes the base64 invalid.
                    self.text(if byte == b'/' { b"/" } else { b"\\" }, each);
                    Next::Text
                }
                (next, b' ' | b'\t' | b'\r' | b'\n') => next,
                (Next::ElementOrEnd | Next::CommaOrEnd, b']') => Next::Tail,
                (Next::CommaOrEnd, b',') => Next::Element,
                (Next::ElementOrEnd | Next::Element, b'{') => {
                    self.depth = self.brackets.open(0, byte).ok_or(NotAnEnvelope)?;
                    self.is_value = false;
                    self.key.clear();
                    self.data = Data::new();
                    Next::Inside
                }
                (Next::ElementOrEnd | Next::Element | Next::CommaOrEnd, _) => return Err(NotAnEnvelope),
                (Next::Inside, b'"') => Next::Text,
                (Next::Inside, b'{' | b'[') => {
                    self.depth = self.brackets.open(self.depth, byte).ok_or(NotAnEnvelope)?;
                    Next::Inside
                }
                (Next::Inside, b'}' | b']') => {
                    self.depth = self.brackets.close(self.depth, byte).ok_or(NotAnEnvelope)?;
                    match self.depth {
                        0 => {
                            self.data.end_of_element(each);
                            Next::CommaOrEnd
                        }
                        _ => Next::Inside,
                    }
                }
                (Next::Inside, b':' | b',') => {
                    if self.depth == 1 {
                        self.is_value = byte == b':';
                    }
                    if self.depth == 1 && !self.is_value {
                        self.key.clear();
                    }
                    Next::Inside
                }
                (Next::Inside, _) => Next::Inside,
            };
            bytes = rest;
        }
        Ok(bytes)
    }

    /// Returns whether the current string is the value of the member `data`.
    fn is_data(&self) -> bool {
        self.depth == 1 && self.is_value && self.key == DATA
    }

    /// Reads a part of a string in an element.
    fn text(&mut self, text: &[u8], each: &mut impl FnMut(Record<'_>)) {
        if self.is_data() {
            self.data.feed(text, each);
        } else if self.depth == 1 && !self.is_value {
            // One byte more than `data` shows that the name is another name.
            let space = (DATA.len() + 1).saturating_sub(self.key.len());
            self.key.extend_from_slice(text.get(..space).unwrap_or(text));
        }
    }

    /// Returns the head of a complete envelope.
    pub(super) fn finish(self) -> Result<Head, NotAnEnvelope> {
        let head = serde_json::from_slice(&self.head).map_err(|_| NotAnEnvelope)?;
        if self.next == Next::Tail { Ok(head) } else { Err(NotAnEnvelope) }
    }

    /// Returns the position of the first `[` that is not in a JSON string. Only `records` is an array, so `records`
    /// begins there.
    fn start_of_records(&mut self, bytes: &[u8]) -> Option<usize> {
        bytes.iter().position(|byte| {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.is_in_text => self.is_escaped = true,
                b'"' => self.is_in_text = !self.is_in_text,
                b'[' => return !self.is_in_text,
                _ => {}
            }
            false
        })
    }

    fn push_head(&mut self, bytes: &[u8]) -> Result<(), NotAnEnvelope> {
        if self.head.len() + bytes.len() > MAX_HEAD_BYTES {
            return Err(NotAnEnvelope);
        }
        self.head.extend_from_slice(bytes);
        Ok(())
    }
}

/// The member `data` of one element.
#[derive(Debug)]
struct Data {
    /// The last digits that have arrived, fewer than four. Four digits of base64 are three bytes.
    digits: Vec<u8>,
    decoded: Vec<u8>,
    lines: Lines,
    state: DataState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DataState {
    /// No string has ended.
    Open,
    /// A `=` has arrived, so no further digits are allowed.
    Padded,
    /// The base64 is invalid. The lines before the invalid digits are counted.
    Damaged,
    /// A string has ended.
    Complete,
}

impl Data {
    fn new() -> Self {
        Self { digits: Vec::new(), decoded: Vec::new(), lines: Lines::new(), state: DataState::Open }
    }

    fn feed(&mut self, mut text: &[u8], each: &mut impl FnMut(Record<'_>)) {
        if !self.digits.is_empty() {
            let (first, rest) = text.split_at_checked(4 - self.digits.len()).unwrap_or((text, b""));
            self.digits.extend_from_slice(first);
            text = rest;
            if self.digits.len() < 4 {
                return;
            }
            let digits = std::mem::take(&mut self.digits);
            self.decode(&digits, each);
        }
        let (groups, rest) = text.split_at_checked(text.len() / 4 * 4).unwrap_or_default();
        self.decode(groups, each);
        self.digits.extend_from_slice(rest);
    }

    /// Decodes groups of four digits. If a group is invalid, only the groups before it are decoded, so that the result
    /// does not depend on the pieces in which the groups arrive.
    fn decode(&mut self, groups: &[u8], each: &mut impl FnMut(Record<'_>)) {
        if groups.is_empty() || self.state == DataState::Damaged {
            return;
        }
        self.decoded.clear();
        if self.state != DataState::Open || STANDARD.decode_vec(groups, &mut self.decoded).is_err() {
            self.decoded.clear();
            for group in groups.chunks(4) {
                if self.state != DataState::Open || STANDARD.decode_vec(group, &mut self.decoded).is_err() {
                    self.state = DataState::Damaged;
                    break;
                }
                self.pad(group);
            }
        } else {
            self.pad(groups);
        }
        self.lines.feed(&self.decoded, each);
    }

    fn pad(&mut self, groups: &[u8]) {
        if groups.ends_with(b"=") {
            self.state = DataState::Padded;
        }
    }

    /// Ends the string.
    fn finish(&mut self, each: &mut impl FnMut(Record<'_>)) {
        if self.digits.is_empty() && matches!(self.state, DataState::Open | DataState::Padded) {
            self.lines.finish(each);
            self.state = DataState::Complete;
        } else {
            self.state = DataState::Damaged;
        }
    }

    /// Ends the element. If its member `data` is missing or damaged, the element counts as one more damaged line.
    /// For this, the function passes `{`, which is not a valid line.
    fn end_of_element(&mut self, each: &mut impl FnMut(Record<'_>)) {
        if self.state != DataState::Complete {
            each(Record::Text(b"{"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<(Vec<String>, String), NotAnEnvelope> {
        let mut found = Vec::new();
        let mut envelope = Envelope::new();
        for piece in pieces {
            envelope.feed(piece, &mut |record| {
                found.push(match record {
                    Record::Text(text) => String::from_utf8_lossy(text).into_owned(),
                    Record::TooLong => "too long".to_owned(),
                });
            })?;
        }
        envelope.finish().map(|head| (found, head.request_id))
    }

    #[test]
    fn envelope_when_received_in_pieces_then_lines_are_complete() {
        let line = STANDARD.encode("one\ttwo\n");
        let two = STANDARD.encode("three\nfour");
        let text = format!(
            r#"{{"requestId":"a[\"b","timestamp":1,"records":[{{"data":"{line}"}} , {{"x":["]"],"data":"{two}"}},
            {{"data":"{line}%"}},{{"data":"YQ==YQ=="}},{{"data":"YQo\/"}},{{"datax":"YQ=="}},{{}}]}}"#
        );
        let bytes = text.as_bytes();
        for at in 0..bytes.len() {
            let (found, id) = read(&[&bytes[..at], &bytes[at..]]).expect("the bytes must be a valid envelope");
            let lines = "one\ttwo|three|four|one\ttwo|{|{|a|?|{|{";
            assert_eq!((found.join("|").replace('\u{fffd}', "?"), id.as_str()), (lines.to_owned(), "a[\"b"), "{at}");
        }
    }

    #[test]
    fn envelope_when_truncated_or_invalid_then_rejected() {
        let text = br#"{"requestId":"a","timestamp":1,"records":[{"data":"YQ=="}]}"#;
        for end in 0..text.len() {
            assert_eq!(read(&[&text[..end]]), Err(NotAnEnvelope), "{end}");
        }
        for text in [
            &br#"{"records":[]}"#[..],
            br#"{"requestId":"a","records":[]} x"#,
            br#"{"requestId":"a"}"#,
            br#"{"requestId":"a","records":[{"data":"YQ=="]}]}"#,
            br#"{"requestId":"a","records":["YQ=="]}"#,
        ] {
            assert_eq!(read(&[text]), Err(NotAnEnvelope));
        }
        assert_eq!(read(&[&vec![b' '; MAX_HEAD_BYTES + 1]]), Err(NotAnEnvelope));
    }

    #[test]
    fn body_when_starting_with_envelope_members_then_recognised_as_envelope() {
        for body in [
            r#"{"records":[{"#,
            r#"{ "requestId" : "a,b" , "timestamp" : 1, "records" : ["#,
            r#"{"timestamp":"1","records":["#,
        ] {
            assert!(Envelope::is_start(body.as_bytes()), "{body}");
        }
        for body in [
            "",
            "{",
            r#"{"requestId":"a","url":"/"}"#,
            r#"{"requestId":"a","timestamp":1}"#,
            r#"{"timestamp":1,"url":"/","records":["#,
            r#"{"records":1}"#,
            r#"{"requestId":"a"}"#,
        ] {
            assert!(!Envelope::is_start(body.as_bytes()), "{body}");
        }
    }
}
