//! New connections to the origin.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use metrics::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::pool::Connection;
use super::{OriginSettings, Target, Upload};
use crate::fault::{Cause, Fault};
use crate::metrics::Metrics;

/// The least that hyper reads from the origin at once, and holds for a client that does not read; a head has to fit in. hyper grows its
/// buffer up to this: 200 stalled readers stay under 64 MiB, at no measurable CPU against its default of 400 KiB.
const READ_BUFFER_BYTES: usize = 66 * 1024;
/// HTTP/2 receive windows: one busy stream fills a fast link, and a stalled one holds this much at most.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

pub(super) async fn http1(settings: &OriginSettings, metrics: &'static Metrics) -> Result<Box<Connection>, Fault> {
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(READ_BUFFER_BYTES.max(settings.max_header_bytes + 2 * 1024))
        .max_header_size(settings.max_header_bytes)
        .max_headers(settings.max_headers)
        .preserve_header_case(settings.preserve_header_case);
    match within(settings.connect_timeout, dial(&settings.target)).await? {
        Socket::Tcp(stream) => shake(&builder, Heard::new(stream), metrics).await,
        Socket::Unix(stream) => shake(&builder, Heard::new(stream), metrics).await,
    }
}

pub(super) async fn http2(
    settings: &OriginSettings,
    metrics: &'static Metrics,
) -> Result<http2::SendRequest<Upload>, Fault> {
    match within(settings.connect_timeout, dial(&settings.target)).await? {
        Socket::Tcp(stream) => shake2(settings, stream, metrics).await,
        Socket::Unix(stream) => shake2(settings, stream, metrics).await,
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn dial(target: &Target) -> io::Result<Socket> {
    match target {
        Target::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Ok(Socket::Tcp(stream))
        }
        Target::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?)),
    }
}

async fn within<T>(limit: Duration, dialling: impl Future<Output = io::Result<T>>) -> Result<T, Fault> {
    let Ok(dialled) = tokio::time::timeout(limit, dialling).await else {
        return Err(Fault::new(Cause::ConnectTimeout));
    };
    dialled.map_err(|error| {
        let cause = match error.kind() {
            io::ErrorKind::ConnectionRefused => Cause::Refused,
            io::ErrorKind::TimedOut => Cause::ConnectTimeout,
            _ => Cause::Unreachable,
        };
        Fault::from_error(cause, error)
    })
}

async fn shake<S>(builder: &http1::Builder, stream: S, metrics: &'static Metrics) -> Result<Box<Connection>, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| Fault::from_error(Cause::Closed, error))?;
    let counted = Arc::new(Counted::new(&metrics.origin_connections));
    let driven = Arc::clone(&counted);
    tokio::spawn(async move {
        let _driven = driven;
        // Its error reaches the request that was on it; an idle connection that the origin closes is nobody's.
        let _ = connection.with_upgrades().await;
    });
    Ok(Connection::new(sender, counted))
}

async fn shake2<S>(
    settings: &OriginSettings,
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
        // h2 resets a stream beyond this without saying why; `forward::check_size` refuses sooner, with the reason.
        .max_header_list_size(u32::try_from(2 * settings.max_header_bytes).unwrap_or(u32::MAX))
        .handshake(TokioIo::new(stream));
    let Ok(shaken) = tokio::time::timeout(settings.connect_timeout, handshake).await else {
        return Err(Fault::new(Cause::ConnectTimeout));
    };
    let (sender, connection) = shaken.map_err(|error| Fault::from_error(Cause::BrokenHead, error))?;
    let counted = Counted::new(&metrics.origin_connections);
    tokio::spawn(async move {
        let _counted = counted;
        let _ = connection.await;
    });
    Ok(sender)
}

/// A stream that is heard out: once nothing more can be written, writes go nowhere, and reading tells how it ends.
///
/// An origin may refuse an upload and close without reading the rest (413, 401). Its answer has arrived then, but hyper gives up at
/// the first write that fails, before it has read on.
struct Heard<S> {
    stream: S,
    deaf: bool,
}

impl<S> Heard<S> {
    fn new(stream: S) -> Self {
        Self { stream, deaf: false }
    }

    fn wrote(&mut self, polled: Poll<io::Result<usize>>, length: usize) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(Err(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                self.deaf = true;
                Poll::Ready(Ok(length))
            }
            polled => polled,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(polled, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if self.deaf {
            return Poll::Ready(Ok(length));
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(polled, length)
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

/// One more in a gauge for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
