//! Framing of HTTP/1.1 requests, watched byte by byte before hyper parses them.
//!
//! hyper drops Content-Length without a word when Transfer-Encoding stands beside it, so nothing behind it can tell
//! that a request was ambiguous (RFC 9112 §6.1, §11.2: request smuggling). [`HeadGuard`] sees every byte read from a
//! client's connection, follows heads and bodies by hyper's own rules, and keeps a verdict on each head until the
//! service asks for it.
//!
//! It is no second parser: names, methods and values are hyper's to judge. It only has to agree with hyper on where
//! each message ends *whenever hyper accepts it*. Where hyper refuses (a bad chunk size, unlike lengths, a coding that
//! is not chunked at last) the guard just stops, and an unknown head is a refused head, so that a disagreement can only
//! ever refuse too much.
//!
//! Cost: one `memchr2` a line, a few compared bytes for lines that begin with `c` or `t`, nothing kept but where it is.

use memchr::memchr2;

/// Where in the stream of messages the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Between messages; of the next one nothing has come (empty lines before a request line are nothing).
    Boundary,
    /// Inside a head.
    Head,
    /// Inside a body, its chunk lines and trailers included.
    Body,
    /// Not followed any more: after an upgrade, after a flaw, or after bytes that hyper refuses.
    Opaque,
}

/// What is known of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its framing can be read in one way only.
    Clear,
    /// It must be answered with 400 and the connection closed.
    Refuse(Flaw),
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Both Content-Length and Transfer-Encoding (RFC 9112 §6.1).
    LengthAndCoding,
    /// A CR that no LF follows (RFC 9112 §2.2).
    BareCr,
    /// A line that goes on with white space (RFC 9112 §5.2).
    ObsFold,
    /// The guard lost track: no statement about this head is possible.
    Untracked,
}

/// The largest length that hyper takes; the two above it are its own marks.
const LONGEST_BODY: u64 = u64::MAX - 2;

const CONTENT_LENGTH: &[u8] = b"content-length";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";
const CHUNKED: &[u8] = b"chunked";

/// The two fields that frame a body.
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

/// How the last member of a Transfer-Encoding line compares with `chunked` so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// So many of its letters have been seen.
    Matching(u8),
    /// The word, then white space.
    Whole,
    /// Another word; the next comma begins anew.
    Other,
    /// A byte outside visible ASCII: hyper reads nothing from such a line.
    Unreadable,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Between,
    /// After a CR before a request line.
    BetweenCr,
    /// The rest of a head's line that does not matter: the request line, or a field of no interest.
    Line,
    /// The first byte of a line after the request line.
    LineStart,
    /// In a name that equals one of ours so far.
    Name(Field, u8),
    /// In the value of Content-Length, before, inside and after the digits.
    LengthBefore,
    LengthDigits,
    LengthAfter,
    Codings(Coding),
    /// After the CR that ends a line, or an empty one.
    LineCr,
    EmptyCr,
    /// In a body of known length.
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

/// Follows the bytes of one connection; see the module's head.
///
/// A flawed head ends the watch: its connection is to be closed, so what comes after it is never asked for. That is why
/// a count of clear heads and one flaw behind them are all the queue that pipelining needs, however deep it is.
#[derive(Clone, Debug)]
pub(crate) struct HeadGuard {
    /// Bytes left of a body or chunk; the number being read in a chunk's size.
    remaining: u64,
    /// The number being read in Content-Length.
    number: u64,
    /// Content-Length of this head.
    length: u64,
    /// Clear heads not yet asked for.
    clear: u32,
    state: State,
    flaw: Option<Flaw>,
    has_length: bool,
    has_coding: bool,
    /// Whether the last Transfer-Encoding line ended in `chunked`.
    chunked: bool,
}

impl Default for HeadGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl HeadGuard {
    /// A guard for a connection of which nothing has been read.
    pub(crate) const fn new() -> Self {
        Self {
            remaining: 0,
            number: 0,
            length: 0,
            clear: 0,
            state: State::Between,
            flaw: None,
            has_length: false,
            has_coding: false,
            chunked: false,
        }
    }

    /// Takes the next bytes of the connection, cut in any way.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((&first, after)) = rest.split_first() {
            rest = match self.state {
                State::Opaque => return,
                State::Between | State::BetweenCr => self.between(first, rest, after),
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
                    // The first byte of a trailer line is looked at again there: it may be a LF.
                    if first == b'\r' { after } else { rest }
                }
                State::TrailerLf => self.expect(first, b'\n', State::TrailerStart, after),
                State::EndLf => self.expect(first, b'\n', State::Between, after),
            };
        }
    }

    /// Where the connection is after all bytes fed.
    pub(crate) const fn phase(&self) -> Phase {
        match self.state {
            State::Between => Phase::Boundary,
            State::BetweenCr
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

    /// The verdict on the oldest head that is complete and was not yet asked for; to be asked once for each request.
    ///
    /// Without such a head the answer is a refusal: the guard and hyper do not agree on what came.
    pub(crate) fn take_verdict(&mut self) -> Verdict {
        if let Some(left) = self.clear.checked_sub(1) {
            self.clear = left;
            return Verdict::Clear;
        }
        Verdict::Refuse(self.flaw.unwrap_or(Flaw::Untracked))
    }

    /// Stops the watch: from here on the bytes are another protocol's. Verdicts on heads before stay.
    pub(crate) fn set_opaque(&mut self) {
        self.state = State::Opaque;
    }

    /// Before a request line: empty lines are skipped, as httparse does.
    fn between<'a>(&mut self, first: u8, rest: &'a [u8], after: &'a [u8]) -> &'a [u8] {
        match (self.state, first) {
            (_, b'\n') => self.state = State::Between,
            (State::Between, b'\r') => self.state = State::BetweenCr,
            (state, _) => {
                self.has_length = false;
                self.has_coding = false;
                self.chunked = false;
                if state == State::BetweenCr {
                    self.note(Flaw::BareCr);
                }
                self.state = State::Line;
                return rest;
            }
        }
        after
    }

    /// To the end of a line whose content does not matter.
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
                self.note(Flaw::ObsFold);
                self.state = State::Line;
            }
            b'c' | b'C' => self.state = State::Name(Field::ContentLength, 0),
            b't' | b'T' => self.state = State::Name(Field::TransferEncoding, 0),
            _ => {
                // The same state would be taken up at the next turn; most lines end here, so save it.
                self.state = State::Line;
                return self.line(rest);
            }
        }
        rest
    }

    /// Compares a name as far as the bytes go.
    fn name<'a>(&mut self, field: Field, matched: u8, rest: &'a [u8]) -> &'a [u8] {
        let mut matched = matched;
        let mut left = rest;
        while let Some((&byte, after)) = left.split_first() {
            match field.name().get(usize::from(matched)) {
                Some(wanted) if byte.to_ascii_lowercase() == *wanted => matched += 1,
                // hyper refuses white space before the colon, so the colon is next or it is another name.
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
        // The first line's number is kept to compare the next one with.
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

    /// At the end of a Content-Length line: hyper takes equal numbers and refuses unlike ones.
    fn end_length(&mut self) {
        let first = self.length == u64::MAX;
        if self.state == State::LengthBefore || self.number > LONGEST_BODY || (!first && self.length != self.number) {
            self.note(Flaw::Untracked);
        } else {
            self.length = self.number;
        }
    }

    /// A line for which hyper refuses the head, though only at its end.
    fn refused_line(&mut self) {
        self.note(Flaw::Untracked);
        self.state = State::Line;
    }

    fn codings<'a>(&mut self, coding: Coding, byte: u8, rest: &'a [u8], after: &'a [u8]) -> &'a [u8] {
        let next = match (coding, byte) {
            (_, b'\r' | b'\n') => {
                // Of several lines the last one counts.
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

    /// After the CR of a line.
    fn line_end<'a>(&mut self, first: u8, rest: &'a [u8], after: &'a [u8]) -> &'a [u8] {
        if first != b'\n' {
            self.note(Flaw::BareCr);
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
        if self.has_length && self.has_coding {
            // hyper forgives a bad length beside a coding, so this reason stands before "untracked".
            if matches!(self.flaw, None | Some(Flaw::Untracked)) {
                self.flaw = Some(Flaw::LengthAndCoding);
            }
        } else if self.has_coding && !self.chunked {
            self.note(Flaw::Untracked);
        }
        self.state = if self.flaw.is_some() {
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
        if self.flaw.is_none() {
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

    /// A chunk's size: hex digits, white space, then an extension or the line's end; hyper wants CR LF here.
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

    /// To the end of an extension or a trailer line. A bare LF is refused by hyper in the one and means nothing to it
    /// in the other, while others might see a line's end: not followed.
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

    /// The first flaw of a head is its reason.
    fn note(&mut self, flaw: Flaw) {
        self.flaw.get_or_insert(flaw);
    }

    fn stop(&mut self) {
        self.note(Flaw::Untracked);
        self.state = State::Opaque;
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// Feeds all at once and byte by byte; both must agree. Asks for `ask` verdicts.
    fn judged(bytes: &[u8], ask: usize) -> (Vec<Verdict>, Phase) {
        let mut whole = HeadGuard::new();
        whole.feed(bytes);
        let mut single = HeadGuard::new();
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
    fn guard_is_small() {
        assert!(size_of::<HeadGuard>() <= 40, "{}", size_of::<HeadGuard>());
    }

    #[test]
    fn a_new_guard_knows_of_no_head() {
        let mut guard = HeadGuard::default();
        assert_eq!(guard.phase(), Phase::Boundary);
        assert_eq!(guard.take_verdict(), Verdict::Refuse(Flaw::Untracked));
    }

    #[test]
    fn heads_with_one_framing_are_clear() {
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
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\n\r\n\r\r\nA \r\n0123456789\r\n00\r\nX: y\r\n\r\n",
                Phase::Boundary,
            ),
            (
                "GET / HTTP/1.1\r\nContent-Lengths: 5\r\nContent-Type: a\r\nTE: x\r\nX-Content-Length: 5\r\nTransfer-Encodin: b\r\n\r\n",
                Phase::Boundary,
            ),
            // A request line is no field, whatever it looks like; nor is a name before a value.
            ("Content-Length: 5 HTTP/1.1\r\nX: Content-Length: 5\r\n\r\n", Phase::Boundary),
            ("GET / HTTP/1.1\r\n\r\nG", Phase::Head),
            ("GET / HTTP/1.1\r\n\r\n\r", Phase::Head),
        ] {
            assert_eq!(one(bytes), (Verdict::Clear, phase), "{bytes:?}");
        }
    }

    #[test]
    fn flawed_heads_are_refused_at_their_end() {
        for (bytes, flaw) in [
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Flaw::LengthAndCoding),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nA: b\r\ncontent-length: 3\r\n\r\n",
                Flaw::LengthAndCoding,
            ),
            ("POST / HTTP/1.1\nTRANSFER-ENCODING:\nCONTENT-LENGTH:0\n\n", Flaw::LengthAndCoding),
            ("GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", Flaw::BareCr),
            ("GET / HTTP/1.1\r\nA: b\r\r\n\r\n", Flaw::BareCr),
            ("GET /\r HTTP/1.1\r\n\r\n", Flaw::BareCr),
            ("\rGET / HTTP/1.1\r\n\r\n", Flaw::BareCr),
            ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", Flaw::ObsFold),
            ("GET / HTTP/1.1\r\n\tA: b\r\n\r\n", Flaw::ObsFold),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", Flaw::Untracked),
            ("POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n", Flaw::Untracked),
            ("POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n", Flaw::Untracked),
            ("POST / HTTP/1.1\r\nContent-Length: 3 3\r\n\r\n", Flaw::Untracked),
            ("POST / HTTP/1.1\r\nContent-Length: \r\n\r\n", Flaw::Untracked),
            ("POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", Flaw::Untracked),
            ("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", Flaw::Untracked),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n", Flaw::Untracked),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, x\r\n\r\n", Flaw::Untracked),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chun ked\r\n\r\n", Flaw::Untracked),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunkedd\r\n\r\n", Flaw::Untracked),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: \u{e4}, chunked\r\n\r\n", Flaw::Untracked),
        ] {
            assert_eq!(one(bytes), (Verdict::Refuse(flaw), Phase::Opaque), "{bytes:?}");
            // Up to the last byte it is a head like others, so that a timeout for heads holds.
            let mut guard = HeadGuard::new();
            guard.feed(&bytes.as_bytes()[..bytes.len() - 1]);
            assert_eq!(guard.phase(), Phase::Head, "{bytes:?}");
        }
    }

    #[test]
    fn bodies_that_hyper_refuses_end_the_watch() {
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
            assert_eq!(
                judged(bytes.as_bytes(), 2),
                (vec![Verdict::Clear, Verdict::Refuse(Flaw::Untracked)], Phase::Opaque),
                "{body:?}"
            );
        }
    }

    #[test]
    fn verdicts_keep_their_order_however_deep_the_pipeline() {
        let mut text = GET.repeat(1000);
        text += "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        text += GET;
        let (verdicts, phase) = judged(text.as_bytes(), 1002);
        assert!(verdicts[..1000].iter().all(|&verdict| verdict == Verdict::Clear));
        assert_eq!(
            verdicts[1000..],
            [Verdict::Refuse(Flaw::LengthAndCoding); 2],
            "nothing after a flaw is let through"
        );
        assert_eq!(phase, Phase::Opaque);
    }

    #[test]
    fn verdicts_survive_an_upgrade_and_nothing_is_judged_after_it() {
        let mut guard = HeadGuard::new();
        guard.feed(GET.as_bytes());
        guard.set_opaque();
        guard.feed(GET.as_bytes());
        assert_eq!(guard.phase(), Phase::Opaque);
        assert_eq!(guard.take_verdict(), Verdict::Clear);
        assert_eq!(guard.take_verdict(), Verdict::Refuse(Flaw::Untracked));
    }

    /// A well-formed request, written down with the line ends and cases that are allowed.
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
                    // hyper reads the last coding line, so the order of these two must stay.
                    framing.insert(0, line);
                }
            }
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

    fn feed_in_pieces(bytes: &[u8], cuts: &[prop::sample::Index]) -> HeadGuard {
        let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.sort_unstable();
        let mut guard = HeadGuard::new();
        let mut from = 0;
        for to in at {
            guard.feed(&bytes[from..to]);
            from = to;
        }
        guard.feed(&bytes[from..]);
        guard
    }

    proptest! {
        #[test]
        fn pipelines_are_followed_in_any_split(
            messages in prop::collection::vec(message(), 1..6),
            flawed_at in prop::option::of(0_usize..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut bytes = Vec::new();
            let mut wanted = Vec::new();
            for (at, message) in messages.iter().enumerate() {
                if flawed_at == Some(at) {
                    bytes.extend_from_slice(b"PUT / HTTP/1.1\r\nContent-LENGTH: 9\r\nx: y\r\nTRANSFER-encoding: chunked\r\n\r\n");
                    wanted.push(Verdict::Refuse(Flaw::LengthAndCoding));
                    break;
                }
                message.write(&mut bytes);
                wanted.push(Verdict::Clear);
            }
            let mut guard = feed_in_pieces(&bytes, &cuts);
            let phase = if wanted.last() == Some(&Verdict::Clear) { Phase::Boundary } else { Phase::Opaque };
            prop_assert_eq!(guard.phase(), phase);
            let verdicts: Vec<_> = wanted.iter().map(|_| guard.take_verdict()).collect();
            prop_assert_eq!(verdicts, wanted);
            prop_assert!(guard.take_verdict() != Verdict::Clear);
        }

        #[test]
        fn any_bytes_in_any_split_give_the_same(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "GET / HTTP/1.1", "Content-Length", "transfer-encoding", ":", " ", "\t", "\r", "\n", "\r\n", "\r\n\r\n", "chunked", ",", "5", "0", "x", ";",
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
