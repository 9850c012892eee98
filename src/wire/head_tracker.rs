//! Tracks the framing of HTTP/1.1 requests byte by byte, before hyper parses them.
//!
//! hyper silently drops Content-Length if Transfer-Encoding is also present. So no code behind hyper can see that a
//! request was ambiguous (request smuggling: RFC 9112 §6.1 and RFC 9112 §11.2). [`HeadTracker`] sees every byte that
//! edgeshim reads from a client's connection. The tracker follows heads and bodies by hyper's rules, and stores a
//! verdict on each head until `serve/requests.rs` takes the verdict. The tracker refuses a head that has both fields
//! (RFC 9112 §6.1), a CR without an LF directly after the CR (RFC 9112 §2.2), a field line that continues on the next
//! line (RFC 9112 §5.2), or a target with a fragment, which hyper would remove (RFC 9112 §3.2).
//!
//! The tracker is not a second parser: hyper checks names, methods and values. For each message that hyper accepts, the
//! tracker must find the same end as hyper, or stop (for example at an LF without a CR in a trailer line). If hyper
//! refuses a message (a bad chunk size, different values of Content-Length, a last transfer coding that is not
//! chunked), the tracker stops. A head after this position gets no clear verdict and is refused. So if the tracker and
//! hyper disagree, the worst result is the refusal of a valid request.
//!
//! Cost for a head: one `memchr2` per field line, two `memchr3` and one `memchr2` for the request line, and a few
//! compared bytes for lines that start with `c` or `t`. The tracker stores only its position, the number of clear heads
//! and a few facts about the current head.

use memchr::{memchr2, memchr3};

/// The position of a connection in its stream of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The position is at the start of the connection or after a complete message. Empty lines before a request line
    /// belong to no message.
    Boundary,
    /// The position is inside a head.
    Head,
    /// The position is inside a body, including chunk lines and trailers.
    Body,
    /// The connection is no longer tracked: after an upgrade, a refused head, or a body that the tracker cannot follow.
    Opaque,
}

/// The result of the check of one request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The framing of the request can be read in one way only.
    Clear,
    /// The request must get a 400, and its connection must close.
    Refuse,
}

/// The largest Content-Length that hyper accepts. hyper uses the two larger `u64` values as markers.
const LONGEST_BODY: u64 = u64::MAX - 2;

const CONTENT_LENGTH: &[u8] = b"content-length";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";
const CHUNKED: &[u8] = b"chunked";

/// The two fields that define where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    ContentLength,
    TransferEncoding,
}

impl Field {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::ContentLength => CONTENT_LENGTH,
            Self::TransferEncoding => TRANSFER_ENCODING,
        }
    }
}

/// The result so far of comparing the current member of a Transfer-Encoding line with `chunked`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// All bytes of the member so far match. The number counts the matching letters.
    Matching(u8),
    /// All letters of `chunked` have matched, and white space follows.
    Whole,
    /// The member is another coding. The next comma starts a new member.
    Other,
    /// The line contains a byte other than visible ASCII, space and tab. hyper ignores such a line.
    Unreadable,
}

/// The part of a message that the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Between,
    /// After a CR before a request line.
    BetweenCr,
    /// The next two states are in the request line: in the method, and after the method.
    Method,
    Target,
    /// In a line whose rest does not affect framing, or at the CR or LF that ends any line of the head.
    Line,
    /// At the first byte of a line after the request line.
    LineStart,
    /// In a field name that equals the name of this [`Field`] so far. The number counts the matching bytes.
    Name(Field, u8),
    /// The next three states are in the value of Content-Length: before, inside and after the digits.
    LengthBefore,
    LengthDigits,
    LengthAfter,
    Codings(Coding),
    /// The next two states are after the CR of a line, and after the CR of the empty line that ends the head.
    LineCr,
    EmptyCr,
    /// In a body whose length is known.
    Sized,
    ChunkStart,
    ChunkSize,
    ChunkSpace,
    ChunkExtension,
    ChunkLf,
    ChunkData,
    ChunkDataCr,
    ChunkDataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Opaque,
}

/// Tracks the bytes of one connection.
///
/// A head is flawed if the tracker has found a reason to refuse the head. A flawed head ends the tracking, because its
/// connection closes and no later head needs a verdict. So a count of clear heads and one flag suffice for any number
/// of pipelined requests.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each field is one fact about a head, and the facts are independent")]
pub struct HeadTracker {
    /// The number of bytes that are left of the body or chunk. While the tracker reads a chunk size, `remaining` is the
    /// part of the size that has been read.
    remaining: u64,
    /// The part of the number in the current Content-Length line that has been read.
    number: u64,
    /// The Content-Length of the current head, if `has_length` is set. `length` is `u64::MAX` until the first
    /// Content-Length line has ended.
    length: u64,
    /// The number of clear heads whose verdicts have not been taken yet.
    clear: u32,
    state: State,
    flawed: bool,
    has_length: bool,
    has_coding: bool,
    /// Whether the last Transfer-Encoding line ended in `chunked`.
    chunked: bool,
}

impl HeadTracker {
    /// Creates a tracker that expects the first byte of a connection.
    #[expect(clippy::new_without_default, reason = "`new` names the state: the start of a connection")]
    pub const fn new() -> Self {
        Self {
            remaining: 0,
            number: 0,
            length: 0,
            clear: 0,
            state: State::Between,
            flawed: false,
            has_length: false,
            has_coding: false,
            chunked: false,
        }
    }

    /// Reads the next bytes of the connection. The bytes can be split at any position.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((&first, after)) = rest.split_first() {
            rest = match self.state {
                State::Opaque => return,
                State::Between | State::BetweenCr => self.between(first, rest, after),
                State::Method => self.request_line(rest, b' '),
                State::Target => self.request_line(rest, b'#'),
                State::Line => self.line(rest),
                State::LineStart => self.line_start(first, rest, after),
                State::Name(field, matched) => self.name(field, matched, rest),
                State::LengthBefore | State::LengthDigits | State::LengthAfter => self.length_value(first, rest, after),
                State::Codings(coding) => self.codings(coding, first, rest, after),
                State::LineCr | State::EmptyCr => self.line_end(first, rest, after),
                State::Sized | State::ChunkData => self.data(rest),
                State::ChunkStart | State::ChunkSize | State::ChunkSpace => self.chunk_size(first, after),
                State::ChunkExtension | State::Trailer => self.until_cr(rest),
                State::ChunkLf => {
                    let next = if self.remaining == 0 { State::TrailerStart } else { State::ChunkData };
                    self.expect(first, b'\n', next, after)
                }
                State::ChunkDataCr => self.expect(first, b'\r', State::ChunkDataLf, after),
                State::ChunkDataLf => self.expect(first, b'\n', State::ChunkStart, after),
                State::TrailerStart => {
                    self.state = if first == b'\r' { State::EndLf } else { State::Trailer };
                    // State::Trailer reads this byte again, because the byte can be an LF.
                    if first == b'\r' { after } else { rest }
                }
                State::TrailerLf => self.expect(first, b'\n', State::TrailerStart, after),
                State::EndLf => self.expect(first, b'\n', State::Between, after),
            };
        }
    }

    /// Returns the position after all bytes that were fed.
    pub const fn phase(&self) -> Phase {
        match self.state {
            State::Between => Phase::Boundary,
            State::BetweenCr
            | State::Method
            | State::Target
            | State::Line
            | State::LineStart
            | State::Name(..)
            | State::LengthBefore
            | State::LengthDigits
            | State::LengthAfter
            | State::Codings(_)
            | State::LineCr
            | State::EmptyCr => Phase::Head,
            State::Opaque => Phase::Opaque,
            _ => Phase::Body,
        }
    }

    /// Returns the verdict on the oldest complete head whose verdict has not been taken yet. The caller must take one
    /// verdict per request.
    ///
    /// If no clear head is left, the verdict is `Refuse`. In this case the head was flawed, or the tracker and hyper
    /// disagree.
    pub fn take_verdict(&mut self) -> Verdict {
        if let Some(left) = self.clear.checked_sub(1) {
            self.clear = left;
            return Verdict::Clear;
        }
        Verdict::Refuse
    }

    /// Stops tracking, because the next bytes belong to another protocol. The verdicts on earlier heads can still be
    /// taken.
    pub(crate) fn set_opaque(&mut self) {
        self.state = State::Opaque;
    }

    /// Skips empty lines before a request line, as hyper's parser does.
    fn between<'a>(&mut self, first: u8, rest: &'a [u8], after: &'a [u8]) -> &'a [u8] {
        match (self.state, first) {
            (_, b'\n') => self.state = State::Between,
            (State::Between, b'\r') => self.state = State::BetweenCr,
            (state, _) => {
                (self.has_length, self.has_coding, self.chunked) = (false, false, false);
                self.flawed |= state == State::BetweenCr;
                self.state = State::Method;
                return rest;
            }
        }
        after
    }

    /// Reads the request line up to `end` or to the end of the line. `end` is the space after the method, or the `#` of
    /// a fragment. A `#` in the method is not the start of a fragment.
    fn request_line<'a>(&mut self, rest: &'a [u8], end: u8) -> &'a [u8] {
        let Some(at) = memchr3(b'\r', b'\n', end, rest) else { return &[] };
        self.flawed |= rest.get(at) == Some(&b'#');
        self.state = if rest.get(at) == Some(&b' ') { State::Target } else { State::Line };
        rest.get(at..).unwrap_or_default()
    }

    /// Reads to the end of a line that does not affect framing.
    fn line<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let Some(end) = memchr2(b'\r', b'\n', rest) else { return &[] };
        let (ended, after) = rest.split_at_checked(end + 1).unwrap_or((rest, &[]));
        self.state = if ended.last() == Some(&b'\r') { State::LineCr } else { State::LineStart };
        after
    }

    fn line_start<'a>(&mut self, first: u8, rest: &'a [u8], after: &'a [u8]) -> &'a [u8] {
        match first {
            b'\r' => {
                self.state = State::EmptyCr;
                return after;
            }
            b'\n' => {
                self.end_head();
                return after;
            }
            b' ' | b'\t' => {
                self.flawed = true;
                self.state = State::Line;
            }
            b'c' | b'C' => self.state = State::Name(Field::ContentLength, 0),
            b't' | b'T' => self.state = State::Name(Field::TransferEncoding, 0),
            _ => {
                // Most lines take this branch. The direct call saves an iteration of the loop in `feed`.
                self.state = State::Line;
                return self.line(rest);
            }
        }
        rest
    }

    /// Compares the next bytes with the name of `field`, of which `matched` bytes have already been found.
    fn name<'a>(&mut self, field: Field, matched: u8, rest: &'a [u8]) -> &'a [u8] {
        let mut matched = matched;
        let mut left = rest;
        while let Some((&byte, after)) = left.split_first() {
            match field.name().get(usize::from(matched)) {
                Some(wanted) if byte.to_ascii_lowercase() == *wanted => matched += 1,
                // hyper refuses white space before the colon, so only a colon can follow the name.
                None if byte == b':' => {
                    match field {
                        Field::ContentLength => {
                            self.has_length_line();
                            self.state = State::LengthBefore;
                        }
                        Field::TransferEncoding => {
                            self.has_coding = true;
                            self.state = State::Codings(Coding::Matching(0));
                        }
                    }
                    return after;
                }
                _ => {
                    self.state = State::Line;
                    return left;
                }
            }
            left = after;
        }
        self.state = State::Name(field, matched);
        &[]
    }

    fn has_length_line(&mut self) {
        // With `u64::MAX`, `end_length` recognises the first Content-Length line.
        if !self.has_length {
            self.length = u64::MAX;
        }
        self.has_length = true;
        self.number = 0;
    }

    fn length_value<'a>(&mut self, byte: u8, rest: &'a [u8], after: &'a [u8]) -> &'a [u8] {
        match (self.state, byte) {
            (_, b'\r' | b'\n') => {
                self.end_length();
                self.state = State::Line;
                return rest;
            }
            (State::LengthBefore | State::LengthAfter, b' ' | b'\t') => {}
            (State::LengthDigits, b' ' | b'\t') => self.state = State::LengthAfter,
            (State::LengthBefore | State::LengthDigits, b'0'..=b'9') => {
                let digit = u64::from(byte - b'0');
                match self.number.checked_mul(10).and_then(|number| number.checked_add(digit)) {
                    Some(number) => {
                        self.number = number;
                        self.state = State::LengthDigits;
                    }
                    None => self.refused_line(),
                }
            }
            _ => self.refused_line(),
        }
        after
    }

    /// Handles the end of a Content-Length line. hyper accepts several lines only if their numbers are equal.
    fn end_length(&mut self) {
        let first = self.length == u64::MAX;
        if self.state == State::LengthBefore || self.number > LONGEST_BODY || (!first && self.length != self.number) {
            self.flawed = true;
        } else {
            self.length = self.number;
        }
    }

    /// Marks the head as flawed because of a line that hyper refuses. hyper refuses the head only when the head is
    /// complete, so the tracker reads the rest of the head too.
    fn refused_line(&mut self) {
        self.flawed = true;
        self.state = State::Line;
    }

    fn codings<'a>(&mut self, coding: Coding, byte: u8, rest: &'a [u8], after: &'a [u8]) -> &'a [u8] {
        let next = match (coding, byte) {
            (_, b'\r' | b'\n') => {
                // If there are several Transfer-Encoding lines, only the last line decides.
                self.chunked = coding == Coding::Whole || coding == Coding::Matching(7);
                self.state = State::Line;
                return rest;
            }
            (Coding::Unreadable, _) => Coding::Unreadable,
            (_, byte) if byte != b'\t' && !(b' '..=b'~').contains(&byte) => Coding::Unreadable,
            (_, b',') | (Coding::Matching(0), b' ' | b'\t') => Coding::Matching(0),
            (Coding::Matching(7) | Coding::Whole, b' ' | b'\t') => Coding::Whole,
            (Coding::Matching(matched), byte)
                if CHUNKED.get(usize::from(matched)) == Some(&byte.to_ascii_lowercase()) =>
            {
                Coding::Matching(matched + 1)
            }
            _ => Coding::Other,
        };
        self.state = State::Codings(next);
        after
    }

    /// Handles the byte after the CR of a line.
    fn line_end<'a>(&mut self, first: u8, rest: &'a [u8], after: &'a [u8]) -> &'a [u8] {
        if first != b'\n' {
            self.flawed = true;
            self.state = State::Line;
            return rest;
        }
        if self.state == State::EmptyCr {
            self.end_head();
        } else {
            self.state = State::LineStart;
        }
        after
    }

    fn end_head(&mut self) {
        self.flawed |= self.has_coding && (self.has_length || !self.chunked);
        self.state = if self.flawed {
            State::Opaque
        } else if self.has_coding {
            self.remaining = 0;
            State::ChunkStart
        } else if self.has_length && self.length > 0 {
            self.remaining = self.length;
            State::Sized
        } else {
            State::Between
        };
        if !self.flawed {
            match self.clear.checked_add(1) {
                Some(clear) => self.clear = clear,
                None => self.stop(),
            }
        }
    }

    fn data<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let here = usize::try_from(self.remaining).map_or(rest.len(), |remaining| remaining.min(rest.len()));
        self.remaining = self.remaining.saturating_sub(here as u64);
        if self.remaining == 0 {
            self.state = if self.state == State::Sized { State::Between } else { State::ChunkDataCr };
        }
        rest.get(here..).unwrap_or(&[])
    }

    /// Reads a chunk size: hex digits, optional white space, then an extension or CR LF. hyper refuses a bare LF here.
    fn chunk_size<'a>(&mut self, byte: u8, after: &'a [u8]) -> &'a [u8] {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => {
                match (self.state, byte) {
                    (State::ChunkStart, _) => self.stop(),
                    (_, b' ' | b'\t') => self.state = State::ChunkSpace,
                    (_, b';') => self.state = State::ChunkExtension,
                    (_, b'\r') => self.state = State::ChunkLf,
                    _ => self.stop(),
                }
                return after;
            }
        };
        match (self.state, self.remaining.checked_mul(16)) {
            (State::ChunkStart | State::ChunkSize, Some(shifted)) => {
                self.remaining = shifted | u64::from(digit);
                self.state = State::ChunkSize;
            }
            _ => self.stop(),
        }
        after
    }

    /// Reads to the end of a chunk extension or of a trailer line. Tracking stops at a bare LF. hyper refuses a bare LF
    /// in an extension. In a trailer line hyper ignores a bare LF, but another parser could treat the LF as the end of
    /// the line.
    fn until_cr<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let Some(end) = memchr2(b'\r', b'\n', rest) else { return &[] };
        let (ended, after) = rest.split_at_checked(end + 1).unwrap_or((rest, &[]));
        if ended.last() == Some(&b'\n') {
            self.stop();
        } else {
            self.state = if self.state == State::Trailer { State::TrailerLf } else { State::ChunkLf };
        }
        after
    }

    fn expect<'a>(&mut self, byte: u8, wanted: u8, next: State, after: &'a [u8]) -> &'a [u8] {
        if byte == wanted {
            self.state = next;
        } else {
            self.stop();
        }
        after
    }

    fn stop(&mut self) {
        self.flawed = true;
        self.state = State::Opaque;
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// Feeds all bytes with one call to one tracker, and one by one to a second tracker. The two trackers must end in
    /// the same state. Returns the first `ask` verdicts, and the phase after all bytes.
    fn judged(bytes: &[u8], ask: usize) -> (Vec<Verdict>, Phase) {
        let mut whole = HeadTracker::new();
        whole.feed(bytes);
        let mut single = HeadTracker::new();
        for byte in bytes {
            single.feed(std::slice::from_ref(byte));
        }
        assert_eq!(format!("{whole:?}"), format!("{single:?}"));
        let verdicts = (0..ask).map(|_| whole.take_verdict()).collect();
        (verdicts, whole.phase())
    }

    fn one(bytes: &str) -> (Verdict, Phase) {
        let (verdicts, phase) = judged(bytes.as_bytes(), 1);
        (verdicts[0], phase)
    }

    #[test]
    fn tracker_when_created_then_has_at_most_40_bytes() {
        assert!(size_of::<HeadTracker>() <= 40, "{}", size_of::<HeadTracker>());
    }

    #[test]
    fn verdict_when_no_head_has_arrived_then_is_refuse() {
        let mut tracker = HeadTracker::new();
        assert_eq!(tracker.phase(), Phase::Boundary);
        assert_eq!(tracker.take_verdict(), Verdict::Refuse);
    }

    #[test]
    fn head_when_framing_is_unambiguous_then_is_clear() {
        for (bytes, phase) in [
            (GET, Phase::Boundary),
            ("GET / HTTP/1.1\nHost: a\n\n", Phase::Boundary),
            ("\r\n\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n", Phase::Boundary),
            ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", Phase::Boundary),
            ("POST / HTTP/1.1\r\nCONTENT-length:\t 3 \t\r\n\r\nabc", Phase::Boundary),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\ncontent-length: 003\r\n\r\nab", Phase::Body),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", Phase::Body),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding:gzip\r\ntransfer-encoding: a , CHUNKED \r\n\r\n0\r\n\r\n",
                Phase::Boundary,
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\n\r\n\r\r\nA \
                \r\n0123456789\r\n00\r\nX: y\r\n\r\n",
                Phase::Boundary,
            ),
            (
                "GET / HTTP/1.1\r\nContent-Lengths: 5\r\nContent-Type: a\r\nTE: x\r\nX-Content-Length: \
                5\r\nTransfer-Encodin: b\r\n\r\n",
                Phase::Boundary,
            ),
            // A request line or the value of another field can look like a framing field.
            ("Content-Length: 5 HTTP/1.1\r\nX: Content-Length: 5\r\n\r\n", Phase::Boundary),
            ("GET / HTTP/1.1\r\n\r\nG", Phase::Head),
            ("GET / HTTP/1.1\r\n\r\n\r", Phase::Head),
        ] {
            assert_eq!(one(bytes), (Verdict::Clear, phase), "{bytes:?}");
        }
    }

    #[test]
    fn flawed_head_when_complete_then_is_refused() {
        for bytes in [
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nA: b\r\ncontent-length: 3\r\n\r\n",
            "POST / HTTP/1.1\nTRANSFER-ENCODING:\nCONTENT-LENGTH:0\n\n",
            "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\r\n\r\n",
            "GET /\r HTTP/1.1\r\n\r\n",
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
            "\rGET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\n\tA: b\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3 3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: \r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, x\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chun ked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunkedd\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: \u{e4}, chunked\r\n\r\n",
        ] {
            assert_eq!(one(bytes), (Verdict::Refuse, Phase::Opaque), "{bytes:?}");
            // Until its last byte arrives, a flawed head counts as an ordinary head, so the timeout for heads applies.
            let mut tracker = HeadTracker::new();
            tracker.feed(&bytes.as_bytes()[..bytes.len() - 1]);
            assert_eq!(tracker.phase(), Phase::Head, "{bytes:?}");
        }
    }

    #[test]
    fn tracking_when_chunked_body_is_malformed_then_stops() {
        for body in [
            "x",
            "\r\n",
            " 1\r\n",
            "1 1\r\n",
            "1\n",
            "1\rx",
            "1;\n",
            "1;a\rb",
            "1\r\nab",
            "1\r\na\rb",
            "10000000000000000\r\n",
            "0\r\n\n",
            "0\r\nA: b\n",
            "0\r\nA: b\rc",
            "0\r\n\rx",
        ] {
            let bytes = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}{GET}");
            assert_eq!(judged(bytes.as_bytes(), 2), (vec![Verdict::Clear, Verdict::Refuse], Phase::Opaque), "{body:?}");
        }
    }

    #[test]
    fn verdicts_when_requests_are_pipelined_then_are_in_order() {
        let mut text = GET.repeat(1000);
        text += "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        text += GET;
        let (verdicts, phase) = judged(text.as_bytes(), 1002);
        assert!(verdicts[..1000].iter().all(|&verdict| verdict == Verdict::Clear));
        assert_eq!(verdicts[1000..], [Verdict::Refuse; 2], "a head after a flawed head must not be clear");
        assert_eq!(phase, Phase::Opaque);
    }

    #[test]
    fn earlier_verdicts_when_connection_is_upgraded_then_stay_available() {
        let mut tracker = HeadTracker::new();
        tracker.feed(GET.as_bytes());
        tracker.set_opaque();
        tracker.feed(GET.as_bytes());
        assert_eq!(tracker.phase(), Phase::Opaque);
        assert_eq!(tracker.take_verdict(), Verdict::Clear);
        assert_eq!(tracker.take_verdict(), Verdict::Refuse);
    }

    /// A valid request. Its line ends, fields and body vary.
    #[derive(Clone, Debug)]
    struct Message {
        fields: Vec<(String, String)>,
        body: Body,
        bare_lf: bool,
        lines_before: u8,
    }

    #[derive(Clone, Debug)]
    enum Body {
        None,
        Length(Vec<u8>, bool),
        Chunked { chunks: Vec<(Vec<u8>, String)>, trailers: Vec<String>, before: bool },
    }

    impl Message {
        fn write(&self, out: &mut Vec<u8>) {
            let end = if self.bare_lf { "\n" } else { "\r\n" };
            let mut head = end.repeat(usize::from(self.lines_before));
            let method = if matches!(self.body, Body::None) { "GET" } else { "POST" };
            let _ = write!(head, "{method} /c?t HTTP/1.1{end}");
            let mut framing = Vec::new();
            match &self.body {
                Body::None => {}
                Body::Length(body, twice) => {
                    framing.extend(vec![format!("Content-Length: {}", body.len()); 1 + usize::from(*twice)]);
                }
                Body::Chunked { before, .. } => {
                    framing.extend(before.then(|| "transfer-ENCODING: gzip".to_owned()));
                    framing.push("Transfer-Encoding:\tChunked ".to_owned());
                }
            }
            for (name, value) in &self.fields {
                let _ = write!(head, "{name}: {value}{end}");
                if let Some(line) = framing.pop() {
                    framing.insert(0, line);
                }
            }
            // For hyper the last Transfer-Encoding line decides, so the line with `Chunked` must be the last line.
            if matches!(&self.body, Body::Chunked { before: true, .. }) {
                framing.sort_by_key(|line| !line.ends_with("gzip"));
            }
            for line in framing {
                let _ = write!(head, "{line}{end}");
            }
            head += end;
            out.extend_from_slice(head.as_bytes());
            match &self.body {
                Body::None => {}
                Body::Length(body, _) => out.extend_from_slice(body),
                Body::Chunked { chunks, trailers, .. } => {
                    for (chunk, extension) in chunks {
                        out.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
                        out.extend_from_slice(chunk);
                        out.extend_from_slice(b"\r\n");
                    }
                    out.extend_from_slice(b"000\r\n");
                    for trailer in trailers {
                        out.extend_from_slice(trailer.as_bytes());
                        out.extend_from_slice(b"\r\n");
                    }
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
    }

    fn bytes_that_look_like_framing() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(b"\r\n0a;: \xff".to_vec()), 1..20)
    }

    fn body() -> impl Strategy<Value = Body> {
        prop_oneof![
            Just(Body::None),
            (bytes_that_look_like_framing(), any::<bool>()).prop_map(|(body, twice)| Body::Length(body, twice)),
            (
                prop::collection::vec((bytes_that_look_like_framing(), "( ?;[a-z\"=;]{0,6}| )?"), 0..4),
                prop::collection::vec("[CTx][a-z-]{0,16}: ?[ -~]{0,8}", 0..3),
                any::<bool>()
            )
                .prop_map(|(chunks, trailers, before)| Body::Chunked { chunks, trailers, before }),
        ]
    }

    fn message() -> impl Strategy<Value = Message> {
        let name = prop_oneof![
            "[a-z-]{1,8}",
            "[cC]ontent-[lL]ength[s-]",
            "[cC]ontent-[lL]engt",
            "[tT]ransfer-[eE]ncoding-?x",
            "[tT]e"
        ];
        (prop::collection::vec((name, "[!-~\u{e4}][ -~]{0,12}"), 0..5), body(), any::<bool>(), 0_u8..2)
            .prop_map(|(fields, body, bare_lf, lines_before)| Message { fields, body, bare_lf, lines_before })
    }

    fn feed_in_pieces(bytes: &[u8], cuts: &[prop::sample::Index]) -> HeadTracker {
        let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.sort_unstable();
        let mut tracker = HeadTracker::new();
        let mut from = 0;
        for to in at {
            tracker.feed(&bytes[from..to]);
            from = to;
        }
        tracker.feed(&bytes[from..]);
        tracker
    }

    proptest! {
        #[test]
        fn pipelined_requests_when_bytes_are_split_anywhere_then_have_correct_verdicts(
            messages in prop::collection::vec(message(), 1..6),
            flawed_at in prop::option::of(0_usize..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut bytes = Vec::new();
            let mut wanted = Vec::new();
            for (at, message) in messages.iter().enumerate() {
                if flawed_at == Some(at) {
                    bytes.extend_from_slice(
                        b"PUT / HTTP/1.1\r\nContent-LENGTH: 9\r\nx: y\r\nTRANSFER-encoding: chunked\r\n\r\n",
                    );
                    wanted.push(Verdict::Refuse);
                    break;
                }
                message.write(&mut bytes);
                wanted.push(Verdict::Clear);
            }
            let mut tracker = feed_in_pieces(&bytes, &cuts);
            let phase = if wanted.last() == Some(&Verdict::Clear) { Phase::Boundary } else { Phase::Opaque };
            prop_assert_eq!(tracker.phase(), phase);
            let verdicts: Vec<_> = wanted.iter().map(|_| tracker.take_verdict()).collect();
            prop_assert_eq!(verdicts, wanted);
            prop_assert!(tracker.take_verdict() != Verdict::Clear);
        }

        #[test]
        fn arbitrary_bytes_when_split_anywhere_then_tracker_state_is_the_same(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "GET / HTTP/1.1", "Content-Length", "transfer-encoding", ":", " ", "\t", "\r", "\n", "\r\n",
                    "\r\n\r\n", "chunked", ",", "5", "0", "x", ";",
                ]),
                0..40,
            ),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let bytes = pieces.concat();
            let whole = feed_in_pieces(bytes.as_bytes(), &[]);
            let split = feed_in_pieces(bytes.as_bytes(), &cuts);
            prop_assert_eq!(format!("{whole:?}"), format!("{split:?}"));
        }
    }
}
