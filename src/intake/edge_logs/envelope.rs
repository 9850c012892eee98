//! The envelope in which Amazon Firehose sends records to an HTTP endpoint: an object with `requestId`, `timestamp` and
//! `records`. `records` is an array. Each of its elements has log lines in base64.
//!
//! Source: <https://docs.aws.amazon.com/firehose/latest/dev/httpdeliveryrequestresponse.html>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::split::{Array, Lines, Record};

/// The longest element of `records`, in bytes. Kinesis limits a record to 1 MiB, which is 1.4 MiB in base64.
const MAX_ELEMENT_BYTES: usize = 2 * 1024 * 1024;
/// The longest envelope without the elements of `records`, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The error that the bytes are not an envelope, or that the envelope is truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotAnEnvelope;

/// The member of an envelope that the response to Firehose repeats.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    #[serde(rename = "requestId")]
    pub request_id: String,
}

#[derive(Deserialize)]
struct Element<'e> {
    #[serde(borrow)]
    data: &'e str,
}

/// Reads an envelope as its bytes arrive.
#[derive(Debug)]
pub(super) struct Envelope {
    /// The part of the envelope that has arrived so far, without the elements of `records`.
    head: Vec<u8>,
    records: Array,
    /// Whether the array of records has begun.
    has_begun: bool,
    /// Whether the next byte is inside a JSON string.
    is_in_text: bool,
    /// Whether the next byte follows a backslash in a JSON string.
    is_escaped: bool,
    /// The decoded lines of one element.
    lines: Vec<u8>,
}

impl Envelope {
    pub(super) fn new() -> Self {
        let records = Array::new(MAX_ELEMENT_BYTES);
        Self { head: Vec::new(), records, has_begun: false, is_in_text: false, is_escaped: false, lines: Vec::new() }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8], each: &mut impl FnMut(Record<'_>)) -> Result<(), NotAnEnvelope> {
        if !self.has_begun {
            let Some(start) = self.start_of_records(bytes) else { return self.push_head(bytes) };
            let (before, rest) = bytes.split_at_checked(start).unwrap_or_default();
            self.push_head(before)?;
            // An empty array replaces `records` in the head, so that the head is valid JSON.
            self.push_head(b"[]")?;
            self.has_begun = true;
            bytes = rest;
        }
        if !self.records.has_ended() {
            let lines = &mut self.lines;
            bytes = self
                .records
                .feed(bytes, &mut |element| match element {
                    Record::Text(element) if decode(element, lines) => {
                        let mut split = Lines::new();
                        split.feed(lines, each);
                        split.finish(each);
                    }
                    // A damaged element counts as one damaged line: `{` is not a valid line.
                    Record::Text(_) => each(Record::Text(b"{")),
                    Record::TooLong => each(Record::TooLong),
                })
                .map_err(|_| NotAnEnvelope)?;
        }
        self.push_head(bytes)
    }

    /// Returns the head of a complete envelope.
    pub(super) fn finish(self) -> Result<Head, NotAnEnvelope> {
        serde_json::from_slice(&self.head)
            .map_err(|_| NotAnEnvelope)
            .and_then(|head| if self.records.has_ended() { Ok(head) } else { Err(NotAnEnvelope) })
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

/// Decodes the log lines of an element into `lines`. Returns false if the element is damaged.
fn decode(element: &[u8], lines: &mut Vec<u8>) -> bool {
    lines.clear();
    let Ok(element) = serde_json::from_slice::<Element<'_>>(element) else { return false };
    STANDARD.decode_vec(element.data, lines).is_ok()
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
            r#"{{"requestId":"a[\"b","timestamp":1,"records":[{{"data":"{line}"}},{{"data":"{two}"}},{{"data":"%"}}]}}"#
        );
        let bytes = text.as_bytes();
        for at in 0..bytes.len() {
            let (found, id) = read(&[&bytes[..at], &bytes[at..]]).expect("the bytes must be a valid envelope");
            assert_eq!((found.join("|"), id.as_str()), ("one\ttwo|three|four|{".to_owned(), "a[\"b"), "{at}");
        }
    }

    #[test]
    fn envelope_when_truncated_or_invalid_then_rejected() {
        let text = br#"{"requestId":"a","timestamp":1,"records":[{"data":"YQ=="}]}"#;
        for end in 0..text.len() {
            assert_eq!(read(&[&text[..end]]), Err(NotAnEnvelope), "{end}");
        }
        for text in [&br#"{"records":[]}"#[..], br#"{"requestId":"a","records":[]} x"#, br#"{"requestId":"a"}"#] {
            assert_eq!(read(&[text]), Err(NotAnEnvelope));
        }
        assert_eq!(read(&[&vec![b' '; MAX_HEAD_BYTES + 1]]), Err(NotAnEnvelope));
    }
}
