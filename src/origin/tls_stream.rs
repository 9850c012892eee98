//! A TLS connection that stores the error with which TLS failed.
//!
//! hyper's connection task gets the error of a read. If no request is in progress on the connection at this moment,
//! hyper drops the error. The next request then fails with an error that only says that the connection is closed. In
//! TLS 1.3, the alert about a missing client certificate often arrives at such a moment.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::tls_faults::{self, Server};
use crate::fault::Fault;

/// The error of TLS that ended a connection.
#[derive(Debug)]
pub(super) struct TlsEnd {
    error: OnceLock<rustls::Error>,
    server: Server,
}

impl TlsEnd {
    /// Returns the fault, if TLS failed.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.error.get().map(|error| tls_faults::fault_of(error, self.server))
    }
}

/// A TLS connection to the origin.
pub(super) struct Stream<S> {
    stream: TlsStream<S>,
    end: Arc<TlsEnd>,
}

impl<S> Stream<S> {
    pub(super) fn new(stream: TlsStream<S>, server: Server) -> Self {
        Self { stream, end: Arc::new(TlsEnd { error: OnceLock::new(), server }) }
    }

    pub(super) fn end(&self) -> Arc<TlsEnd> {
        Arc::clone(&self.end)
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            if let Some(error) = tls_faults::error_in(error) {
                // Only the first error is the reason for the end.
                let _ = self.end.error.set(error.clone());
            }
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        Poll::Ready(self.note(read))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(self.note(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        Poll::Ready(self.note(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        Poll::Ready(self.note(flushed))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
