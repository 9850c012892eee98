//! A plain exchange with the origin: a request without a body, and a response whose body has a known length, over
//! HTTP/1.1 without TLS.
//!
//! hyper's client has a task for each connection, and each request and each response passes through a channel. In a
//! plain exchange, the task of the request itself writes the head and reads the response. If an exchange is not plain,
//! hyper continues it ([`Odd`]). `ARCHITECTURE.md` ("The two clients of HTTP/1.1 origins") has the reasons.
//!
//! Cost: one write and, if the response arrives at once, one read, or two if it has more than 16 KiB. All connections
//! of a worker read into one block of memory. The fields and the body of a response are slices of the block. When all
//! slices of the block are dropped, the block is used again. A new block is allocated only if slices of the old block
//! still exist and its free part is too small. A large body can move through a pipe in place of the block.

mod known_names;
mod replay;
mod request_head;
mod response_head;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use tokio::io::Interest;

use super::options::MessageLimits;
use super::pipe::Pipe;
use super::socket::Socket;
use super::upload::Upload;
pub(super) use replay::Replay;
use response_head::{Head, Parsed};

/// The size of a block. A body of 64 KiB fits, with some free space.
const BLOCK_BYTES: usize = 66 * 1024;
/// The smallest free part of a block into which the start of a response is read.
const LEAST_HEAD_BYTES: usize = 4 * 1024;
/// The smallest free part of a block into which the rest of a body is read. If the rest is shorter, a smaller part is
/// enough.
const LEAST_BODY_BYTES: usize = 32 * 1024;
/// The size of the first read, which has the head and the beginning of the body. The rest of a large body stays in the
/// socket, from where it can be moved to a pipe.
const FIRST_BYTES: usize = 16 * 1024;
/// The largest number of reads for a head, and the largest size of an incomplete head. If a head exceeds one of these
/// limits, hyper reads the head.
const MOST_READS: usize = 8;
const MOST_PARTIAL_BYTES: usize = 16 * 1024;
/// The largest capacity of a map that is kept for the next response.
const MOST_KEPT_FIELDS: usize = 128;

thread_local! {
    static BLOCK: RefCell<BytesMut> = RefCell::default();
    static HEAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// An empty map with capacity. The map of a request becomes the map of the next response.
    static FIELDS: Cell<Option<HeaderMap>> = const { Cell::new(None) };
}

/// A connection without TLS that hyper does not use.
#[derive(Debug)]
pub(super) struct Plain {
    socket: Socket,
    /// The part of the body that arrived together with the head.
    rest: Bytes,
    /// Whether another request may follow when the body has been read.
    is_kept: bool,
}

/// An exchange that hyper has to continue: the bytes that have been sent and received so far.
#[derive(Debug, Default)]
pub(super) struct Odd {
    /// The number of bytes of the request head that have been sent.
    sent: usize,
    /// The bytes that have been read.
    received: Bytes,
    /// The error of the most recent read, if this read failed.
    failure: Option<io::Error>,
}

impl Plain {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, rest: Bytes::new(), is_kept: true }
    }

    /// Returns whether an idle connection can carry another request. The result is `false` if the previous response had
    /// `Connection: close`, if bytes have followed this response, or if the origin has closed the connection.
    pub(super) fn is_ready(&self) -> bool {
        self.is_kept && self.socket.early().is_none()
    }

    /// Returns whether another request may follow the response. Unlike [`Plain::is_ready`], this function does not
    /// look for bytes that have just arrived.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Sends the request and waits for the response head. After success, the request has no fields. The body of
    /// the response is the number of bytes to be read with [`Plain::poll_data`].
    ///
    /// # Errors
    /// hyper has to continue the exchange. The request is unchanged.
    pub(super) async fn exchange(
        &mut self,
        request: &mut Request<Upload>,
        limits: &MessageLimits,
    ) -> Result<Response<u64>, Odd> {
        if let Some(early) = self.socket.early() {
            // A response has arrived before its request, or the connection has ended. hyper reports the error.
            let (received, failure) = split(early);
            return Err(Odd { sent: 0, received, failure });
        }
        let sent = self.write(request)?;
        let mut received = Bytes::new();
        for _ in 0..MOST_READS {
            let piece = match poll_fn(|cx| poll_block(&mut self.socket, cx, LEAST_HEAD_BYTES, FIRST_BYTES)).await {
                Ok(piece) if !piece.is_empty() => piece,
                end => return Err(Odd { sent, received, failure: end.err() }),
            };
            let before = received.len();
            received = if before == 0 { piece } else { Bytes::from([received, piece].concat()) };
            // A short head that arrives in pieces is parsed again only when its end has arrived. hyper has the same
            // rule.
            if before > 0 && received.len() < MOST_PARTIAL_BYTES && !response_head::ends_after(&received, before) {
                continue;
            }
            let headers = FIELDS.take().unwrap_or_default();
            match response_head::parse(&received, request.method(), limits, headers) {
                Parsed::Plain(head) => return Ok(self.accept(head, received, request)),
                Parsed::Partial if received.len() < MOST_PARTIAL_BYTES => {}
                Parsed::Partial | Parsed::Odd => break,
            }
        }
        Err(Odd { sent, received, failure: None })
    }

    /// Writes the head of the request, and returns its size.
    fn write(&self, request: &Request<Upload>) -> Result<usize, Odd> {
        HEAD.with_borrow_mut(|head| {
            head.clear();
            if !request_head::write(request, head) {
                return Err(Odd::default());
            }
            // After an error nothing has been sent, and hyper tries again.
            match self.socket.try_write(head).unwrap_or(0) {
                sent if sent == head.len() => Ok(sent),
                sent => Err(Odd { sent, ..Odd::default() }),
            }
        })
    }

    fn accept(&mut self, head: Head, received: Bytes, request: &mut Request<Upload>) -> Response<u64> {
        let Head { response, bytes, is_kept } = head;
        let length = usize::try_from(*response.body()).unwrap_or(usize::MAX);
        self.rest = received;
        // The head has been parsed, so `received` has at least `bytes` bytes.
        let _ = self.rest.split_to(bytes);
        self.is_kept = is_kept && self.rest.len() <= length;
        self.rest.truncate(length);
        let mut fields = std::mem::take(request.headers_mut());
        fields.clear();
        if fields.capacity() <= MOST_KEPT_FIELDS {
            FIELDS.set(Some(fields));
        }
        response
    }

    /// Reads the next bytes of the body. `left` is the number of bytes that are missing until the end of the body, and
    /// is not 0.
    ///
    /// # Errors
    /// The origin closed the connection before the end of the body, or the connection failed.
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>, left: u64) -> Poll<io::Result<Bytes>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(std::mem::take(&mut self.rest)));
        }
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        // If the rest of the body is short, the buffer is larger than the rest. So bytes after the body are noticed,
        // and a read that does not fill the buffer shows tokio that the socket is empty.
        let least = left.saturating_add(1).min(LEAST_BODY_BYTES);
        let mut piece = ready!(poll_block(&mut self.socket, cx, least, BLOCK_BYTES))?;
        if piece.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        if piece.len() > left {
            self.is_kept = false;
            piece.truncate(left);
        }
        Poll::Ready(Ok(piece))
    }

    /// Moves the next bytes of the body to a pipe. `left` is the number of bytes that are missing until the end of the
    /// body, and is not 0. Returns `None` if the next bytes must be read with [`Plain::poll_data`].
    ///
    /// # Errors
    /// As [`Plain::poll_data`].
    pub(super) fn poll_splice(&self, cx: &mut Context<'_>, left: u64) -> Poll<io::Result<Option<Pipe>>> {
        let (Socket::Tcp(stream), true) = (&self.socket, self.rest.is_empty()) else { return Poll::Ready(Ok(None)) };
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_io(Interest::READABLE, || Pipe::filled(stream, left)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                filled => return Poll::Ready(filled),
            }
        }
    }

    /// Returns the stream with which hyper continues an exchange. `request` is the request of the exchange.
    pub(super) fn replay(self, odd: Odd, request: &Request<Upload>) -> Replay<Socket> {
        let mut head = Vec::new();
        if odd.sent > 0 {
            request_head::write(request, &mut head);
            head.truncate(odd.sent);
        }
        Replay::new(self.socket, head.into(), odd.received, odd.failure)
    }
}

/// Reads up to `most` bytes into the worker's block. If fewer than `least` bytes of the block are free, a new block is
/// allocated first. At the end of the stream, the result is empty.
fn poll_block(socket: &mut Socket, cx: &mut Context<'_>, least: usize, most: usize) -> Poll<io::Result<Bytes>> {
    BLOCK.with_borrow_mut(|block| {
        // If no slice of the block exists any more, the block is filled again from its start. This memory is probably
        // still in the CPU's cache.
        if !block.try_reclaim(BLOCK_BYTES) && block.capacity() < least {
            *block = BytesMut::with_capacity(BLOCK_BYTES);
        }
        ready!(socket.poll_fill(cx, &mut block.limit(most)))?;
        Poll::Ready(Ok(block.split().freeze()))
    })
}

fn split(early: io::Result<Bytes>) -> (Bytes, Option<io::Error>) {
    match early {
        Ok(received) => (received, None),
        Err(error) => (Bytes::new(), Some(error)),
    }
}
