//! Collects the writes of an HTTP/2 connection, so that small responses that become ready in one poll need one
//! system call and, with TLS, one record.
//!
//! The codec (h2) writes after each DATA frame of 256 bytes or more, and flushes after each of these writes. So the
//! stream ignores these flushes. `conn.rs` sends the collected bytes after each poll of the connection
//! ([`Batch::poll_send`]).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The largest number of collected bytes. One TLS record has room for this number of bytes, and so has a DATA frame.
const LIMIT: usize = 16 * 1024;

/// The stream that hyper uses. hyper owns the stream, so the stream and the handle [`Batch`] share the socket.
#[derive(Debug)]
pub(super) struct Batched<S>(Arc<Mutex<Output<S>>>);

/// The handle with which `conn.rs` sends the collected bytes.
#[derive(Debug)]
pub(super) struct Batch<S>(Arc<Mutex<Output<S>>>);

#[derive(Debug)]
struct Output<S> {
    stream: S,
    /// The bytes that are not written yet. The memory of an empty buffer is freed, so that an idle connection needs
    /// less memory.
    collected: BytesMut,
}

/// Wraps a stream.
pub(super) fn batched<S>(stream: S) -> (Batched<S>, Batch<S>) {
    let output = Arc::new(Mutex::new(Output { stream, collected: BytesMut::new() }));
    (Batched(Arc::clone(&output)), Batch(output))
}

/// Both handles are used by one task, so the lock is never contended.
fn lock<S>(output: &Mutex<Output<S>>) -> MutexGuard<'_, Output<S>> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncWrite + Unpin> Batch<S> {
    /// Writes the collected bytes to the stream and flushes the stream.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_send(cx)
    }
}

impl<S: AsyncWrite + Unpin> Output<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.collected.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.collected))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.collected.advance(written),
            }
        }
        self.collected = BytesMut::new();
        // A TLS stream can still have encrypted bytes in memory.
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_collect(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.collected.len() >= LIMIT {
            ready!(self.poll_send(cx))?;
        }
        let total = bufs.iter().fold(0_usize, |total, buf| total.saturating_add(buf.len()));
        if self.collected.is_empty() {
            if total >= LIMIT {
                return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
            }
            self.collected.reserve(LIMIT);
        }
        let before = self.collected.len();
        for buf in bufs {
            let room = LIMIT.saturating_sub(self.collected.len());
            self.collected.extend_from_slice(buf.get(..room).unwrap_or(buf));
        }
        Poll::Ready(Ok(self.collected.len() - before))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Batched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Batched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_collect(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_collect(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = lock(&self.0);
        ready!(output.poll_send(cx))?;
        Pin::new(&mut output.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    /// A peer that reads at most `room` bytes.
    #[derive(Debug, Default)]
    struct Peer {
        room: usize,
        writes: Vec<Vec<u8>>,
        is_shut_down: bool,
    }

    impl AsyncWrite for Peer {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let written = self.room.min(buf.len());
            if written == 0 {
                return Poll::Pending;
            }
            self.room -= written;
            self.writes.push(buf[..written].to_vec());
            Poll::Ready(Ok(written))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_shut_down = true;
            Poll::Ready(Ok(()))
        }
    }

    fn write(stream: &mut Batched<Peer>, bufs: &[&[u8]]) -> Poll<usize> {
        let bufs: Vec<_> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
        pin!(stream).poll_write_vectored(&mut Context::from_waker(Waker::noop()), &bufs).map(Result::unwrap)
    }

    #[test]
    fn small_writes_when_sent_then_need_one_write() {
        let cx = &mut Context::from_waker(Waker::noop());
        let (mut stream, batch) = batched(Peer { room: usize::MAX, ..Peer::default() });
        assert_eq!(write(&mut stream, &[b"ab", b"c"]), Poll::Ready(3));
        assert!(pin!(&mut stream).poll_flush(cx).is_ready());
        assert_eq!(write(&mut stream, &[b"de"]), Poll::Ready(2));
        assert!(lock(&batch.0).stream.writes.is_empty());
        assert!(batch.poll_send(cx).is_ready());
        assert_eq!(lock(&batch.0).stream.writes, [b"abcde"]);
        assert_eq!(lock(&batch.0).collected.capacity(), 0);
        assert!(batch.poll_send(cx).is_ready());
        assert_eq!(lock(&batch.0).stream.writes.len(), 1);
    }

    #[test]
    fn large_write_when_nothing_is_collected_then_is_passed_on_and_when_bytes_are_collected_then_is_divided() {
        let (mut stream, batch) = batched(Peer { room: usize::MAX, ..Peer::default() });
        let frame = [b'x'; LIMIT];
        assert_eq!(write(&mut stream, &[&frame]), Poll::Ready(LIMIT));
        assert_eq!(lock(&batch.0).stream.writes, [frame]);
        assert_eq!(write(&mut stream, &[b"ab"]), Poll::Ready(2));
        assert_eq!(write(&mut stream, &[&frame, b"cd"]), Poll::Ready(LIMIT - 2));
        assert_eq!(write(&mut stream, &[b"xxcd"]), Poll::Ready(4));
        assert!(batch.poll_send(&mut Context::from_waker(Waker::noop())).is_ready());
        let all = lock(&batch.0).stream.writes.concat();
        assert_eq!(all, [&frame[..], b"ab", &frame, b"cd"].concat());
    }

    #[test]
    fn stream_when_peer_does_not_read_then_collects_a_bounded_number_of_bytes() {
        let cx = &mut Context::from_waker(Waker::noop());
        let (mut stream, batch) = batched(Peer::default());
        assert_eq!(write(&mut stream, &[&[b'x'; LIMIT - 1]]), Poll::Ready(LIMIT - 1));
        assert!(batch.poll_send(cx).is_pending());
        assert_eq!(write(&mut stream, &[b"yz"]), Poll::Ready(1));
        assert_eq!(write(&mut stream, &[b"z"]), Poll::Pending);
        assert!(pin!(&mut stream).poll_shutdown(cx).is_pending());
        lock(&batch.0).stream.room = LIMIT;
        assert!(pin!(&mut stream).poll_shutdown(cx).is_ready());
        let output = lock(&batch.0);
        assert!(output.stream.is_shut_down && output.stream.writes.concat().ends_with(b"xy"));
    }
}
