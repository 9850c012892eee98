//! A strict reader of HTTP/1.1 messages (RFC 9112). The reader preserves the case of names and the order of fields. It
//! describes each breach of the grammar in `problems`. After a breach that hides where the message ends, the reader
//! stops and returns an error or an incomplete body.

use std::io::{ErrorKind, Read};

/// Header fields in the order and case of the wire.
pub type Fields = Vec<(String, String)>;

/// The start line and the fields of a message, as bytes and parsed.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// Every byte up to and including the empty line.
    pub raw: Vec<u8>,
    /// The first line without its CRLF. Bytes above 127 are read as Latin-1.
    pub start: String,
    /// The fields.
    pub fields: Fields,
    /// Breaches of the grammar. Empty for a well-formed head.
    pub problems: Vec<String>,
}

/// The reason why the reader found no head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoHead {
    /// The peer closed before the first byte.
    Closed,
    /// The connection was reset, or the time limit passed, before the first byte.
    Nothing(String),
    /// The head is longer than 1 MiB, or the connection was closed, was reset or timed out before the head was
    /// complete.
    Broken(String),
}

/// The received part of a body.
#[derive(Debug, Clone, Default)]
pub struct Body {
    /// The bytes of the body, without framing.
    pub data: Vec<u8>,
    /// The trailers after the body.
    pub trailers: Fields,
    /// True when the framing says that the body is complete.
    pub complete: bool,
    /// Breaches of the chunked grammar. If the body is incomplete, also the reason.
    pub problems: Vec<String>,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// The body ends after this number of bytes.
    Length(u64),
    /// The body ends with the last chunk of the chunked coding.
    Chunked,
    /// The body ends when the peer closes. Only responses can end in this way.
    Close,
}

/// A stream, and the bytes that were read from the stream and have not been consumed.
pub struct Reader<R> {
    inner: R,
    buffer: Vec<u8>,
    at: usize,
}

impl<R: Read> Reader<R> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, buffer: Vec::new(), at: 0 }
    }

    /// Returns the stream.
    pub fn inner(&mut self) -> &mut R {
        &mut self.inner
    }

    /// Returns the bytes that were read from the stream and have not been consumed.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    /// Reads more bytes. Returns false at the end of the stream.
    pub fn fill(&mut self) -> std::io::Result<bool> {
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        }
        let mut piece = [0; 16 * 1024];
        loop {
            match self.inner.read(&mut piece) {
                Ok(0) => return Ok(false),
                Ok(length) => {
                    self.buffer.extend_from_slice(&piece[..length]);
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, most: usize) -> Vec<u8> {
        let end = self.buffer.len().min(self.at + most);
        let piece = self.buffer[self.at..end].to_vec();
        self.at = end;
        piece
    }

    /// Returns the remaining bytes, but at most `most`. Also returns true if the peer closed normally before that.
    pub fn rest(&mut self, most: usize) -> (Vec<u8>, bool) {
        while self.pending().len() < most {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return (self.take(most), true),
                Err(_) => return (self.take(most), false),
            }
        }
        (self.take(most), false)
    }

    /// Reads one line with its LF. Fails if more than `most` bytes have arrived without an LF.
    fn line(&mut self, most: usize) -> Result<Vec<u8>, NoHead> {
        let mut searched = 0;
        loop {
            if let Some(found) = self.pending()[searched..].iter().position(|&byte| byte == b'\n') {
                return Ok(self.take(searched + found + 1));
            }
            searched = self.pending().len();
            if searched > most {
                return Err(NoHead::Broken(format!("a line has more than {most} bytes")));
            }
            match self.fill() {
                Ok(true) => {}
                Ok(false) if searched == 0 => return Err(NoHead::Closed),
                Ok(false) => {
                    let line = lossy(self.pending());
                    return Err(NoHead::Broken(format!("the connection was closed inside the line {line:?}")));
                }
                Err(error) if searched == 0 => return Err(NoHead::Nothing(error.to_string())),
                Err(error) => return Err(NoHead::Broken(error.to_string())),
            }
        }
    }

    /// Reads a head.
    pub fn head(&mut self) -> Result<Head, NoHead> {
        const MOST: usize = 1 << 20;
        let mut head = Head::default();
        loop {
            let line = match self.line(MOST) {
                Err(NoHead::Closed) if !head.raw.is_empty() => {
                    Err(NoHead::Broken("the connection was closed inside the head".into()))
                }
                Err(NoHead::Nothing(why)) if !head.raw.is_empty() => Err(NoHead::Broken(why)),
                other => other,
            }?;
            head.raw.extend_from_slice(&line);
            if head.raw.len() > MOST {
                return Err(NoHead::Broken(format!("the head has more than {MOST} bytes")));
            }
            let text = strip_line_end(&line, &mut head.problems);
            if head.start.is_empty() {
                if text.is_empty() {
                    head.problems.push("the head has an empty line before the start line".into());
                    continue;
                }
                head.start = lossy(text);
            } else if text.is_empty() {
                return Ok(head);
            } else {
                field(text, &mut head.fields, &mut head.problems);
            }
        }
    }

    /// Reads a body. If more than `most` bytes have arrived and the body has not ended, stops; `complete` is then
    /// false.
    pub fn body(&mut self, framing: Framing, most: usize) -> Body {
        let mut body = Body::default();
        match framing {
            Framing::Length(length) => {
                body.complete = self.bytes(length, most, &mut body);
            }
            Framing::Close => loop {
                let piece = self.take(usize::MAX / 2);
                body.data.extend_from_slice(&piece);
                if body.data.len() > most {
                    body.problems.push(format!("the body has more than {most} bytes"));
                    break;
                }
                match self.fill() {
                    Ok(true) => {}
                    Ok(false) => {
                        body.complete = true;
                        break;
                    }
                    Err(error) => {
                        body.problems.push(error.to_string());
                        break;
                    }
                }
            },
            Framing::Chunked => body.complete = self.chunked(most, &mut body).is_some(),
        }
        body
    }

    fn bytes(&mut self, length: u64, most: usize, body: &mut Body) -> bool {
        let mut left = length;
        loop {
            let piece = self.take(usize::try_from(left).unwrap_or(usize::MAX / 2).min(usize::MAX / 2));
            left -= piece.len() as u64;
            body.data.extend_from_slice(&piece);
            if left == 0 {
                return true;
            }
            if body.data.len() > most {
                body.problems.push(format!("the body has more than {most} bytes"));
                return false;
            }
            match self.fill() {
                Ok(true) => {}
                Ok(false) => {
                    body.problems.push(format!("the connection was closed when {left} bytes were still missing"));
                    return false;
                }
                Err(error) => {
                    body.problems.push(format!("{error}, when {left} bytes were still missing"));
                    return false;
                }
            }
        }
    }

    /// Reads a chunked body. If the body is incomplete, returns `None` and adds the reason to `problems`.
    fn chunked(&mut self, most: usize, body: &mut Body) -> Option<()> {
        loop {
            let line = self.body_line(body)?;
            let text = strip_line_end(&line, &mut body.problems);
            let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let extension = text[digits..].trim_ascii_start();
            if digits == 0 || digits > 15 || !(extension.is_empty() || extension[0] == b';') {
                body.problems.push(format!("the line of a chunk size is invalid: {:?}", lossy(text)));
                return None;
            }
            let size = u64::from_str_radix(&lossy(&text[..digits]), 16).ok()?;
            if size == 0 {
                break;
            }
            if !self.bytes(size, most, body) {
                return None;
            }
            let end = self.body_line(body)?;
            if end != b"\r\n" {
                body.problems.push(format!("{:?} follows a chunk; CRLF must follow", lossy(&end)));
                return None;
            }
        }
        loop {
            let line = self.body_line(body)?;
            let text = strip_line_end(&line, &mut body.problems);
            if text.is_empty() {
                return Some(());
            }
            field(text, &mut body.trailers, &mut body.problems);
        }
    }

    fn body_line(&mut self, body: &mut Body) -> Option<Vec<u8>> {
        match self.line(64 * 1024) {
            Ok(line) => Some(line),
            Err(NoHead::Closed) => {
                body.problems.push("the connection was closed inside a chunked body".into());
                None
            }
            Err(NoHead::Nothing(why) | NoHead::Broken(why)) => {
                body.problems.push(why);
                None
            }
        }
    }
}

impl Head {
    /// Returns the value of the first field with this name. The case of the letters does not matter.
    pub fn field(&self, name: &str) -> Option<&str> {
        find(&self.fields, name)
    }
}

/// Returns the value of the first field with this name. The case of the letters does not matter.
pub fn find<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Returns all values of the fields with this name, in order. The case of the letters does not matter.
pub fn find_all<'a>(fields: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    fields.iter().filter(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

/// Returns the framing that the fields declare, or `None` if the fields declare no body. Adds breaches of the grammar
/// to `problems`.
pub fn framing(fields: &[(String, String)], problems: &mut Vec<String>) -> Option<Framing> {
    let codings = find_all(fields, "transfer-encoding");
    let lengths = find_all(fields, "content-length");
    if !codings.is_empty() && !lengths.is_empty() {
        problems.push("the head has both Content-Length and Transfer-Encoding".into());
    }
    if lengths.len() > 1 {
        problems.push(format!("the head has {} Content-Length lines", lengths.len()));
    }
    if !codings.is_empty() {
        if codings.len() != 1 || !codings[0].eq_ignore_ascii_case("chunked") {
            problems.push(format!("Transfer-Encoding is {codings:?}, not chunked"));
        }
        return Some(Framing::Chunked);
    }
    let length = lengths.first()?;
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        problems.push(format!("Content-Length {length:?} is not a number"));
        return Some(Framing::Length(0));
    }
    if let Ok(length) = length.parse() {
        Some(Framing::Length(length))
    } else {
        problems.push(format!("Content-Length {length:?} is too large"));
        Some(Framing::Length(0))
    }
}

/// Returns whether the text is a token (RFC 9110 §5.6.2).
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Returns bytes as text. Bytes above 127 are read as Latin-1, so that no byte is lost.
pub fn lossy(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn strip_line_end<'a>(line: &'a [u8], problems: &mut Vec<String>) -> &'a [u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let Some(text) = line.strip_suffix(b"\r") else {
        problems.push(format!("a line ends without CR: {:?}", lossy(line)));
        return line;
    };
    if text.contains(&b'\r') {
        problems.push(format!("a line has a CR without LF: {:?}", lossy(text)));
    }
    text
}

fn field(line: &[u8], fields: &mut Fields, problems: &mut Vec<String>) {
    let text = lossy(line);
    let Some((name, value)) = text.split_once(':') else {
        problems.push(format!("the field line {text:?} has no colon"));
        return;
    };
    if !is_token(name) {
        problems.push(format!("the field name {name:?} is not a token"));
    }
    let value = value.trim_matches([' ', '\t']);
    if value.bytes().any(|byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f) {
        problems.push(format!("the value of {name} has a control character: {value:?}"));
    }
    fields.push((name.to_owned(), value.to_owned()));
}
