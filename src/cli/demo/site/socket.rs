//! A TCP stream as hyper wants it.
//!
//! hyper's read cursor can be advanced only by `unsafe` or by copying: it is copied here, since a demo has time for
//! that.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The most that one read takes; it lives on the stack.
const CHUNK_BYTES: usize = 8 * 1024;

/// A TCP stream that hyper's connections can drive.
#[derive(Debug)]
pub(crate) struct Socket(TcpStream);

impl Socket {
    /// Takes over a connected stream and turns Nagle's delay off.
    pub(crate) fn new(stream: TcpStream) -> Self {
        // Without it small answers may come 40 ms late; nothing else depends on it.
        let _ = stream.set_nodelay(true);
        Self(stream)
    }
}

impl Read for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut out: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut chunk = [0; CHUNK_BYTES];
        let room = out.remaining().min(CHUNK_BYTES);
        let mut taken = ReadBuf::new(chunk.get_mut(..room).unwrap_or_default());
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut taken))?;
        out.put_slice(taken.filled());
        Poll::Ready(Ok(()))
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, data)
    }
}
