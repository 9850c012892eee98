//! HTTP/2 clients by prior knowledge, on hyper. For frames that hyper would not send, see `frames`.

use std::error::Error;
use std::net::SocketAddr;

use hyper::body::Body;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};

/// A runtime on the thread of the test.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Connects to a TCP address; the current runtime drives the connection in the background.
pub async fn connect<B>(addr: SocketAddr) -> http2::SendRequest<B>
where
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    handshake(tokio::net::TcpStream::connect(addr).await.expect("a connection")).await
}

/// The same over an open stream.
pub async fn handshake<S, B>(stream: S) -> http2::SendRequest<B>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = shaken.expect("an HTTP/2 connection");
    tokio::spawn(connection);
    sender
}
