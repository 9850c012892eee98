//! New connections to the origin.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::connection::{Connection, Counted};
use super::options::ClientSettings;
use super::target::Target;
use super::upload::Upload;
use crate::fault::{Cause, Fault};
use crate::metrics::Metrics;

/// The size limit of hyper's read buffer on an HTTP/1.1 connection to the origin, in bytes. The limit is raised if the
/// configuration allows heads that do not fit. On HTTP/2, this number limits the send buffer of a stream. With 200
/// clients that do not read, memory stays below 64 MiB. The CPU time is the same as with hyper's default of 400 KiB.
const READ_BUFFER_BYTES: usize = 66 * 1024;
/// The HTTP/2 receive windows, in bytes. The windows are large enough for one stream to fill a fast link. A stream
/// whose client does not read buffers at most the window of one stream.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

pub(super) async fn http1(settings: &ClientSettings, metrics: &'static Metrics) -> Result<Box<Connection>, Fault> {
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(READ_BUFFER_BYTES.max(settings.limits.max_header_bytes + 2 * 1024))
        .max_header_size(settings.limits.max_header_bytes)
        .max_headers(settings.limits.max_headers)
        .preserve_header_case(settings.origin.preserve_header_case);
    match within(settings.origin.connect_timeout, connect(&settings.origin.target)).await? {
        Socket::Tcp(stream) => handshake(&builder, stream, metrics).await,
        Socket::Unix(stream) => handshake(&builder, stream, metrics).await,
    }
}

pub(super) async fn http2(
    settings: &ClientSettings,
    metrics: &'static Metrics,
) -> Result<http2::SendRequest<Upload>, Fault> {
    match within(settings.origin.connect_timeout, connect(&settings.origin.target)).await? {
        Socket::Tcp(stream) => handshake_h2(settings, stream, metrics).await,
        Socket::Unix(stream) => handshake_h2(settings, stream, metrics).await,
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn connect(target: &Target) -> io::Result<Socket> {
    match target {
        Target::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Ok(Socket::Tcp(stream))
        }
        Target::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?)),
    }
}

async fn within<T>(limit: Duration, connecting: impl Future<Output = io::Result<T>>) -> Result<T, Fault> {
    let Ok(connected) = tokio::time::timeout(limit, connecting).await else {
        return Err(Fault::new(Cause::ConnectTimeout));
    };
    connected.map_err(|error| {
        let cause = match error.kind() {
            io::ErrorKind::ConnectionRefused => Cause::Refused,
            io::ErrorKind::TimedOut => Cause::ConnectTimeout,
            _ => Cause::Unreachable,
        };
        Fault::from_error(cause, error)
    })
}

async fn handshake<S>(builder: &http1::Builder, stream: S, metrics: &'static Metrics) -> Result<Box<Connection>, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = builder
        .handshake(TokioIo::new(ReadsAfterClose::new(stream)))
        .await
        .map_err(|error| Fault::from_error(Cause::Closed, error))?;
    let counted = Arc::new(Counted::new(&metrics.origin_connections));
    let driver_counted = Arc::clone(&counted);
    tokio::spawn(async move {
        let _counted = driver_counted;
        // hyper passes an error to the request that uses the connection. Without a request nobody needs the error.
        let _ = connection.with_upgrades().await;
    });
    Ok(Connection::new(sender, counted))
}

async fn handshake_h2<S>(
    settings: &ClientSettings,
    stream: S,
    metrics: &'static Metrics,
) -> Result<http2::SendRequest<Upload>, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(READ_BUFFER_BYTES)
        // If a head is larger than this limit, h2 resets the stream without a reason. `forward::check_size` has a lower
        // limit and reports the reason.
        .max_header_list_size(u32::try_from(2 * settings.limits.max_header_bytes).unwrap_or(u32::MAX))
        .handshake(TokioIo::new(stream));
    let Ok(result) = tokio::time::timeout(settings.origin.connect_timeout, handshake).await else {
        return Err(Fault::new(Cause::ConnectTimeout));
    };
    let (sender, connection) = result.map_err(|error| Fault::from_error(Cause::BrokenHead, error))?;
    let counted = Counted::new(&metrics.origin_connections);
    tokio::spawn(async move {
        let _counted = counted;
        let _ = connection.await;
    });
    Ok(sender)
}

/// Discards writes after the peer has closed the connection, so that hyper still reads the response.
///
/// An origin can refuse an upload (413, 401) and close the connection before it has read the whole body. The origin's
/// response has then already arrived. Without this wrapper, hyper would stop at the first failed write and would not
/// read the response.
struct ReadsAfterClose<S> {
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
