//! New connections to the origin.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};

use super::connection::{Connection, Counted, Link};
use super::endpoint::Endpoint;
use super::errors::cause_of_io;
use super::plain::Plain;
use super::socket::{Socket, connect, fault_of_connect};
use super::tls::H2;
use super::tls_faults::{self, Server};
use super::tls_stream::{Stream, TlsEnd};
use super::upload::Upload;
use super::upstream::Upstream;
use crate::fault::{Cause, Fault};

/// The size limit of hyper's read buffer on an HTTP/1.1 connection to the origin, in bytes. The limit is raised if the
/// configuration allows heads that do not fit. On HTTP/2, this number limits the send buffer of a stream. With 200
/// clients that do not read, memory stays below 64 MiB. The CPU time is the same as with hyper's default of 400 KiB.
const READ_BUFFER_BYTES: usize = 66 * 1024;
/// The HTTP/2 receive windows, in bytes. The windows are large enough for one stream to fill a fast link. If the client
/// of a response does not read, edgeshim buffers at most the window of the response's stream.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// A new connection that is ready for requests.
pub(super) enum Opened {
    Http1(Box<Connection>),
    Http2(Multiplexed),
}

/// A connection to an HTTP/2 origin.
#[derive(Clone)]
pub(super) struct Multiplexed {
    pub(super) sender: http2::SendRequest<Upload>,
    pub(super) endpoint: Arc<Endpoint>,
    /// Stores why TLS failed. `None`: the connection does not use TLS.
    pub(super) tls: Option<Arc<TlsEnd>>,
}

impl Upstream {
    /// Opens a connection to one of the origin's addresses. `origin.connect_timeout` limits the whole time.
    pub(super) async fn open(self: &Arc<Self>) -> Result<Opened, Fault> {
        let deadline = Instant::now() + self.origin.connect_timeout;
        let (socket, endpoint, seen) = self.reach(deadline).await?;
        let opened = self.speak(socket, &endpoint, deadline).await;
        match &opened {
            Ok(_) => endpoint.succeeded(),
            Err(_) => endpoint.failed(seen),
        }
        opened
    }

    /// Opens a connection to one address.
    pub(super) async fn open_at(&self, endpoint: &Arc<Endpoint>, deadline: Instant) -> Result<Opened, Fault> {
        let socket = timeout_at(deadline, connect(endpoint.place.clone()))
            .await
            .map_err(|_| Fault::new(Cause::ConnectTimeout))?
            .map_err(fault_of_connect)?;
        self.speak(socket, endpoint, deadline).await
    }

    /// Does the handshakes of TLS and HTTP. With `origin.http2`, a TLS origin chooses the version of HTTP (ALPN).
    async fn speak(&self, socket: Socket, endpoint: &Arc<Endpoint>, deadline: Instant) -> Result<Opened, Fault> {
        match (socket, &self.tls) {
            (Socket::Tcp(stream), Some(tls)) => {
                // An alert must be read even if the origin has closed the connection.
                let stream = ReadsAfterClose::new(stream);
                let stream = timeout_at(deadline, tls.handshake(stream))
                    .await
                    .map_err(|_| Fault::from_error(Cause::ConnectTimeout, "the TLS handshake takes too long"))?
                    .map_err(|error| fault_of_handshake(&error, tls.server()))?;
                let is_h2 = stream.get_ref().1.alpn_protocol() == Some(H2);
                let stream = Stream::new(stream, tls.server());
                let end = stream.end();
                self.handshake(stream, is_h2, endpoint, Some(end), deadline).await
            }
            // HTTP/2 and field names in their original case need hyper.
            (socket, _) if self.origin.http2 || self.origin.preserve_header_case => {
                self.handshake(socket, self.origin.http2, endpoint, None, deadline).await
            }
            (socket, _) => {
                let link = Link::Plain(Plain::new(socket));
                let counted = Arc::new(Counted::new(&self.connections));
                Ok(Opened::Http1(Connection::new(link, counted, Arc::clone(endpoint), None)))
            }
        }
    }

    async fn handshake<S>(
        &self,
        stream: S,
        is_h2: bool,
        endpoint: &Arc<Endpoint>,
        tls: Option<Arc<TlsEnd>>,
        deadline: Instant,
    ) -> Result<Opened, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let endpoint = Arc::clone(endpoint);
        if is_h2 {
            let sender = self.handshake_h2(stream, deadline).await?;
            return Ok(Opened::Http2(Multiplexed { sender, endpoint, tls }));
        }
        let counted = Arc::new(Counted::new(&self.connections));
        let sender = self.handshake_http1(stream, &counted).await?;
        Ok(Opened::Http1(Connection::new(Link::Hyper(sender), counted, endpoint, tls)))
    }

    /// Starts hyper's client on a connection.
    pub(super) async fn handshake_http1<S>(
        &self,
        stream: S,
        counted: &Arc<Counted>,
    ) -> Result<http1::SendRequest<Upload>, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_BUFFER_BYTES.max(self.limits.max_header_bytes + 2 * 1024))
            .max_header_size(self.limits.max_header_bytes)
            .max_headers(self.limits.max_headers)
            .preserve_header_case(self.origin.preserve_header_case)
            .handshake(TokioIo::new(ReadsAfterClose::new(stream)))
            .await
            .map_err(|error| Fault::from_error(Cause::Closed, error))?;
        let counted = Arc::clone(counted);
        tokio::spawn(async move {
            let _counted = counted;
            // hyper also passes an error to the request that uses the connection. If there is no request, nothing needs
            // the error.
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    async fn handshake_h2<S>(&self, stream: S, deadline: Instant) -> Result<http2::SendRequest<Upload>, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(READ_BUFFER_BYTES)
            // If a head is larger than this limit, h2 resets the stream without a reason. `forward::check_size` has a
            // lower limit and reports the reason.
            .max_header_list_size(u32::try_from(2 * self.limits.max_header_bytes).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(stream));
        let Ok(result) = timeout_at(deadline, handshake).await else {
            return Err(Fault::new(Cause::ConnectTimeout));
        };
        let (sender, connection) = result.map_err(|error| Fault::from_error(Cause::BrokenHead, error))?;
        let counted = Counted::new(&self.connections);
        tokio::spawn(async move {
            let _counted = counted;
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// Returns the fault for a failed TLS handshake. The error can also come from the connection below TLS.
fn fault_of_handshake(error: &io::Error, server: Server) -> Fault {
    tls_faults::fault_in(error, server).unwrap_or_else(|| {
        let cause = cause_of_io(error);
        let name = server.role.name();
        Fault::from_error(cause, format!("the {name} ended the connection during the TLS handshake ({error})"))
    })
}

/// Discards writes after the peer has closed the connection, so that hyper still reads the response.
///
/// An origin can refuse an upload (413, 401) and close the connection before it has read the whole body. The origin's
/// response can then already have arrived. Without this wrapper, hyper would stop at the first failed write and would
/// not read the response.
pub(super) struct ReadsAfterClose<S> {
    stream: S,
    discards_writes: bool,
}

impl<S> ReadsAfterClose<S> {
    fn new(stream: S) -> Self {
        Self { stream, discards_writes: false }
    }

    fn after_write(&mut self, polled: Poll<io::Result<usize>>, length: usize) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(Err(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                self.discards_writes = true;
                Poll::Ready(Ok(length))
            }
            polled => polled,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadsAfterClose<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadsAfterClose<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.discards_writes {
            return Poll::Ready(Ok(buf.len()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.after_write(polled, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if self.discards_writes {
            return Poll::Ready(Ok(length));
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.after_write(polled, length)
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
