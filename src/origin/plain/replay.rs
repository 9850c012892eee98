//! The stream of a connection that hyper takes over in the middle of an exchange.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that continues an exchange. hyper writes the request head again, and this stream discards the bytes that
/// have already been sent. Then hyper gets the bytes of the response that have already been read. After these bytes,
/// hyper reads from the connection.
#[derive(Debug)]
pub(in crate::origin) struct Replay<S> {
    stream: S,
    /// The start of the request head, which has been sent.
    sent: Bytes,
    /// The start of the response, which has been read.
    received: Bytes,
    /// The error of the read that followed the read of `received`.
    failure: Option<io::Error>,
    /// The task that waits to read. It waits until hyper has written `sent`, because for hyper a response before its
    /// request is an error.
    reader: Option<Waker>,
}

impl<S> Replay<S> {
    pub(super) fn new(stream: S, sent: Bytes, received: Bytes, failure: Option<io::Error>) -> Self {
        Self { stream, sent, received, failure, reader: None }
    }

    /// Discards the part of `bytes` that has been sent, and returns its length.
    fn discard(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(self.sent.len());
        if bytes.get(..length) != self.sent.get(..length) {
            return Err(io::Error::other("hyper writes a head that differs from the head that was sent"));
        }
        self.sent.advance(length);
        if self.sent.is_empty()
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
        Ok(length)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.sent.is_empty() {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if !self.received.is_empty() {
            let length = self.received.len().min(buf.remaining());
            buf.put_slice(&self.received.split_to(length));
            return Poll::Ready(Ok(()));
        }
        match self.failure.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.sent.is_empty() {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        Poll::Ready(self.discard(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.sent.is_empty() {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        Poll::Ready(self.discard(bufs.iter().find(|buf| !buf.is_empty()).map_or(&[], |buf| buf)))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
