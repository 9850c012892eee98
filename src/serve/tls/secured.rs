//! The stream of decrypted bytes.
//!
//! An orderly end of a TLS connection begins with `close_notify`, which only `poll_shutdown` sends. If the stream is
//! dropped, no `close_notify` is sent. So a truncated response does not look complete.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::super::lazy::Lazy;
use super::super::watched::{PipeWrite, Socket};

/// The socket below TLS.
#[derive(Debug)]
pub(super) struct Tcp {
    stream: Lazy,
    /// Bytes that were read from the socket before the handshake.
    prefix: Bytes,
    /// Whether the socket is set to send a reset on close.
    resets: AtomicBool,
    /// Whether the most recent read of the socket found no bytes. Otherwise `TlsStream` can have stored an error. For
    /// example, one read brings bytes, and the next read fails. Then `TlsStream` returns the bytes first and reports
    /// the error later.
    is_drained: bool,
}

impl Tcp {
    pub(super) fn new(stream: Lazy, prefix: Bytes) -> Self {
        Self { stream, prefix, resets: AtomicBool::new(false), is_drained: false }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.has_remaining() {
            let length = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix.split_to(length));
            if self.prefix.is_empty() {
                self.prefix = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.is_drained = polled.is_pending();
        polled
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// `TlsStream` calls this function after it has written every byte and `close_notify`.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.resets.swap(false, Ordering::Relaxed) {
            self.stream.reset_at_close(false);
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The stream of decrypted bytes. It is boxed, so that the task of the connection stays small.
#[derive(Debug)]
pub(in super::super) struct Secured(Box<TlsStream<Tcp>>);

impl Secured {
    pub(super) fn new(stream: TlsStream<Tcp>) -> Self {
        Self(Box::new(stream))
    }

    pub(super) fn session(&self) -> &ServerConnection {
        self.0.get_ref().1
    }
}

/// The bytes must be encrypted, so they are copied.
impl PipeWrite for Secured {}

impl Socket for Secured {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (tcp, session) = self.0.get_mut();
        // Bytes that were read from the socket can still be in memory, encrypted or decrypted, and so can an error.
        if session.wants_read() && tcp.prefix.is_empty() && tcp.is_drained {
            tcp.stream.poll_readable(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    /// When this function is called with `false`, the encrypted end of a response can still be in memory. So the reset
    /// is cancelled only after everything has been written (`Tcp::poll_shutdown`).
    fn reset_at_close(&self, reset: bool) -> bool {
        let tcp = self.0.get_ref().0;
        if !reset {
            return true;
        }
        tcp.resets.store(true, Ordering::Relaxed);
        tcp.stream.reset_at_close(true)
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // hyper reads several times for each request, and mostly there is nothing to read. Without this check,
        // `TlsStream` would need three times as many instructions to find that out.
        ready!(self.poll_readable(cx))?;
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
