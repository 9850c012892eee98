//! Writes the response to a plain request, with the bytes that hyper would write.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf as _, Bytes};
use http::{StatusCode, response};
use http_body::Body;
use hyper::ext::ReasonPhrase;
use pin_project_lite::pin_project;
use tokio::io::AsyncWrite;

use super::connection_limits::BUFFER_BYTES;
use super::plain_request;
use super::trailers::LAST_CHUNK;
use super::watched::PipeWrite;
use crate::edge::request::EdgeBody;
use crate::origin::Pipe;
use crate::wire::decimal;
use crate::wire::names::{CONNECTION, CONTENT_LENGTH, DATE, TRAILER, TRANSFER_ENCODING};
use crate::wire::tokens;

/// The largest number of pieces in the queue. One write takes all of them.
const MOST_PIECES: usize = 16;
/// After this number of writes in one poll, the connection lets other tasks run.
const MOST_WRITES: usize = 16;

/// If fewer bytes of the body are missing, they are copied. Two copies of so few bytes cost no more than the system
/// calls of a pipe.
const LEAST_SPLICED: u64 = 32 * 1024;

thread_local! {
    /// The memory in which each head is written before it is copied to its own bytes.
    static HEAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The value of Date, and the second for which it is valid.
    static NOW: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// How the client finds the end of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// The number of bytes of the body that are missing in the queue.
    Length(u64),
    Chunked,
}

/// What is known about a body before its first frame.
#[derive(Debug, Clone, Copy)]
enum Content {
    None,
    /// The length in bytes.
    Known(u64),
    Unknown,
}

impl Content {
    fn of<B: Body>(body: &B) -> Self {
        if body.is_end_stream() { Self::None } else { body.size_hint().exact().map_or(Self::Unknown, Self::Known) }
    }
}

pin_project! {
    /// A response that is being written.
    pub(super) struct PlainResponse<B> {
        #[pin]
        body: Option<B>,
        framing: Framing,
        queue: Queue,
        // Bytes of the body that follow the queue.
        pipe: Option<Pipe>,
        // Whether the body has no frame at the moment.
        is_waiting: bool,
        is_last: bool,
    }
}

impl<B: EdgeBody> PlainResponse<B> {
    /// Prepares the response to a request. `is_head` tells whether the method of the request is HEAD. With `closes`,
    /// the connection ends after the response.
    pub(super) fn new(mut head: response::Parts, body: B, is_head: bool, closes: bool, queue: Queue) -> Self {
        let content = Content::of(&body);
        let (bytes, framing, is_last) = HEAD.with_borrow_mut(|out| {
            out.clear();
            let (framing, is_last) = write_head(&head, content, is_head, closes, out);
            (Bytes::copy_from_slice(out), framing, is_last)
        });
        plain_request::recycle(std::mem::take(&mut head.headers));
        let mut response = Self { body: Some(body), framing, queue, pipe: None, is_waiting: false, is_last };
        response.queue.push(bytes);
        if framing == Framing::Length(0) {
            response.body = None;
        }
        response
    }

    /// Returns whether the connection ends after the response.
    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// Returns the empty queue, for the next response.
    pub(super) fn take_queue(self: Pin<&mut Self>) -> Queue {
        std::mem::take(self.project().queue)
    }

    /// Writes the response. When the result is `Ready(Ok)`, the response has been written completely.
    ///
    /// # Errors
    /// The body has failed or is too short, or the connection has failed. The connection must be closed.
    pub(super) fn poll_send<W: PipeWrite>(
        mut self: Pin<&mut Self>,
        stream: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        *self.as_mut().project().is_waiting = false;
        for _ in 0..MOST_WRITES {
            let takes_pipes = stream.takes_pipes();
            self.as_mut().gather(takes_pipes, cx)?;
            let this = self.as_mut().project();
            if this.queue.is_empty() {
                if let Some(pipe) = this.pipe {
                    if ready!(Pin::new(&mut *stream).poll_write_pipe(cx, pipe))? == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    if pipe.bytes() == 0
                        && let Some(pipe) = this.pipe.take()
                    {
                        pipe.recycle();
                    }
                    continue;
                }
                let flushed = Pin::new(&mut *stream).poll_flush(cx)?;
                return if *this.is_waiting { Poll::Pending } else { flushed.map(Ok) };
            }
            ready!(this.queue.poll_write(stream, cx))?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves frames of the body to the queue, until the queue is full, bytes are in the pipe or the body has no frame
    /// at the moment.
    fn gather(self: Pin<&mut Self>, takes_pipes: bool, cx: &mut Context<'_>) -> io::Result<()> {
        let mut this = self.project();
        while !*this.is_waiting && this.pipe.is_none() && this.queue.has_room() {
            let Some(mut body) = this.body.as_mut().as_pin_mut() else { break };
            if let Framing::Length(left) = this.framing
                && takes_pipes
                && *left >= LEAST_SPLICED
            {
                match body.as_mut().poll_splice(cx) {
                    Poll::Ready(Some(filled)) => {
                        let pipe = filled.map_err(io::Error::other)?;
                        *left -= pipe.bytes() as u64;
                        *this.pipe = Some(pipe);
                        if *left == 0 {
                            this.body.set(None);
                        }
                        break;
                    }
                    Poll::Ready(None) => {}
                    Poll::Pending => {
                        *this.is_waiting = true;
                        break;
                    }
                }
            }
            let frame = match body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(frame)) => frame.map_err(io::Error::other)?,
                Poll::Ready(None) => {
                    this.body.set(None);
                    this.queue.end(this.framing)?;
                    break;
                }
                Poll::Pending => {
                    *this.is_waiting = true;
                    break;
                }
            };
            // The client takes no trailers: a request with `TE: trailers` is not plain. Trailers are the last frame.
            let (data, is_last) = match frame.into_data() {
                Ok(data) => (data, body.is_end_stream()),
                Err(_) => (Bytes::new(), true),
            };
            this.queue.push_data(data, this.framing);
            if is_last || *this.framing == Framing::Length(0) {
                this.body.set(None);
                this.queue.end(this.framing)?;
            }
        }
        Ok(())
    }
}

/// Pieces of a response that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Returns whether another frame may be added. A frame of a chunked body needs three pieces, and the last
    /// chunk one.
    fn has_room(&self) -> bool {
        self.bytes < BUFFER_BYTES && self.pieces.len() + 4 <= MOST_PIECES
    }

    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    fn push_data(&mut self, mut data: Bytes, framing: &mut Framing) {
        match framing {
            Framing::Length(left) => {
                // A longer body must not run into the next response.
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
                self.push(data);
            }
            // An empty chunk would end the body.
            Framing::Chunked if data.is_empty() => {}
            Framing::Chunked => {
                self.push(format!("{:X}\r\n", data.len()).into());
                self.push(data);
                self.push(Bytes::from_static(b"\r\n"));
            }
        }
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The body is shorter than its length.
    fn end(&mut self, framing: &Framing) -> io::Result<()> {
        match framing {
            Framing::Length(0) => {}
            Framing::Length(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Framing::Chunked => self.push(Bytes::from_static(LAST_CHUNK)),
        }
        Ok(())
    }

    fn poll_write<W: AsyncWrite + Unpin>(&mut self, stream: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut slices = [IoSlice::new(&[]); MOST_PIECES];
        let count = self.pieces.len().min(MOST_PIECES);
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
        }
        let slices = slices.get(..count).unwrap_or_default();
        let mut written = ready!(Pin::new(stream).poll_write_vectored(cx, slices))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.bytes -= written;
        while let Some(piece) = self.pieces.front_mut() {
            if piece.len() > written {
                piece.advance(written);
                break;
            }
            written -= piece.len();
            self.pieces.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

/// Returns whether a response to the request has a body (RFC 9112 §6.3).
fn can_have_body(status: StatusCode, is_head: bool) -> bool {
    !is_head && can_have_length(status)
}

fn can_have_length(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Appends the head of a response to `out`. Returns the framing of the body, and whether the connection ends after the
/// response.
fn write_head(
    head: &response::Parts,
    content: Content,
    is_head: bool,
    closes: bool,
    out: &mut Vec<u8>,
) -> (Framing, bool) {
    // Most names and values together are shorter than this estimate.
    out.reserve(64 + head.headers.len() * 48);
    write_status(head, out);
    let mut framing = None;
    let mut says_close = false;
    let mut has_date = false;
    let mut merged = None;
    for (name, value) in &head.headers {
        match *name {
            CONTENT_LENGTH if framing.is_some() => continue,
            CONTENT_LENGTH => match content {
                // The length of the body is right, and the value is for a body that is not sent.
                Content::None if is_head => framing = Some(Framing::Length(0)),
                Content::None => continue,
                Content::Known(length) => {
                    let is_right = is_head || decimal::read(value.as_bytes()) == Some(length);
                    debug_assert!(is_right, "Content-Length and the length of the body differ");
                    framing = Some(Framing::Length(length));
                }
                Content::Unknown => match decimal::read(value.as_bytes()) {
                    Some(length) => framing = Some(Framing::Length(length)),
                    None => continue,
                },
            },
            // Only this function frames the body.
            TRANSFER_ENCODING => continue,
            TRAILER if !can_have_body(head.status, is_head) => continue,
            DATE => has_date = true,
            CONNECTION => {
                says_close |= tokens::of_line(value.as_bytes()).any(|token| token.eq_ignore_ascii_case(b"close"));
            }
            _ => {}
        }
        if merged == Some(name) {
            out.truncate(out.len() - 2);
            out.extend_from_slice(b", ");
        } else {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
        }
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
        merged = matches!(*name, CONNECTION | TRAILER).then_some(name);
    }
    if closes && !says_close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    let framing = framing.unwrap_or_else(|| write_framing(head.status, content, is_head, out));
    if !has_date {
        write_date(out);
    }
    out.extend_from_slice(b"\r\n");
    let framing = if can_have_body(head.status, is_head) { framing } else { Framing::Length(0) };
    (framing, closes || says_close)
}

fn write_status(head: &response::Parts, out: &mut Vec<u8>) {
    let phrase = head.extensions.get::<ReasonPhrase>();
    if head.status == StatusCode::OK && phrase.is_none() {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    match phrase {
        Some(phrase) => out.extend_from_slice(phrase.as_bytes()),
        None => out.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the field that frames the body, for a head that has none.
fn write_framing(status: StatusCode, content: Content, is_head: bool, out: &mut Vec<u8>) -> Framing {
    match content {
        Content::Unknown => {
            if can_have_body(status, is_head) {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            }
            Framing::Chunked
        }
        Content::None | Content::Known(0) => {
            if can_have_body(status, is_head) {
                out.extend_from_slice(b"content-length: 0\r\n");
            }
            Framing::Length(0)
        }
        Content::Known(length) => {
            if can_have_length(status) {
                // A write to memory cannot fail.
                let _ = write!(out, "content-length: {length}\r\n");
            }
            Framing::Length(length)
        }
    }
}

/// Writes the field Date, which RFC 9110 §6.6.1 asks for.
fn write_date(out: &mut Vec<u8>) {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    NOW.with_borrow_mut(|(known, text)| {
        if *known != second || text.is_empty() {
            *known = second;
            *text = httpdate::fmt_http_date(now);
        }
        out.extend_from_slice(b"date: ");
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\r\n");
    });
}
