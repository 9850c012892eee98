//! HTTP/2 by prior knowledge. hyper frames it; whoever needs frames that hyper would not send writes them himself.

use std::error::Error;
use std::net::SocketAddr;

use hyper::body::Body;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};

/// A runtime for one thread: the test's own.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A connection to a TCP address, driven in the background of the runtime that asks for it.
pub async fn connect<B>(addr: SocketAddr) -> http2::SendRequest<B>
where
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    handshake(tokio::net::TcpStream::connect(addr).await.expect("a connection")).await
}

/// The same over a stream that stands.
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
