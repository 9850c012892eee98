//! The listening socket of a page for operators, and its connections. The number of connections and the time for a
//! request head are bounded.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::config::Listen;
use crate::runtime::Socket;

/// The time within which a client must send a complete request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest number of open connections. Each further connection is closed at once. One scraper uses one connection.
const MAX_CONNECTIONS: usize = 256;

/// Responds to the requests of a listener.
pub(crate) trait Respond: Send + Sync + 'static {
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;

    /// `peer` is the address of the client, or `None` at a unix socket.
    fn respond(
        &self,
        request: Request<Incoming>,
        peer: Option<IpAddr>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Binds the address. For messages, `key` is the configuration key of the address, and `purpose` is the purpose of the
/// listener.
pub(crate) fn bind_for(listen: &Listen, key: &str, purpose: &str) -> io::Result<Socket> {
    bind(listen).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "; another process or another file has this address. Stop the other process, remove the other file, or \
                 write another address in {key}"
            ),
            _ => String::new(),
        };
        io::Error::new(error.kind(), format!("cannot listen on {listen} for {purpose}: {error}{remedy}"))
    })
}

/// Binds the address.
pub(crate) fn bind(listen: &Listen) -> io::Result<Socket> {
    match listen {
        // The pages for operators have no TLS.
        Listen::Tcp(address) | Listen::Tls(address) => std::net::TcpListener::bind(address).map(Socket::Tcp),
        Listen::Unix(path) => {
            // If a connection to the socket file is refused, no process listens on it: a killed process has left the
            // file behind. So the file is removed. In all other cases the file is not removed, and `bind` fails.
            let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
            let is_refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            if is_socket && std::os::unix::net::UnixStream::connect(path).is_err_and(is_refused) {
                std::fs::remove_file(path)?;
            }
            std::os::unix::net::UnixListener::bind(path).map(Socket::Unix)
        }
    }
}

/// Returns the address as edgeshim prints it at its start: `http://…` or `unix:…`.
pub(crate) fn address(listener: &Socket) -> io::Result<String> {
    Ok(match listener {
        Socket::Tcp(listener) => format!("http://{}", listener.local_addr()?),
        Socket::Unix(_) => listener.to_string(),
    })
}

/// Accepts connections and responds to their requests. This function returns only if the socket cannot be used.
pub(crate) async fn accept(listener: Socket, responder: Arc<impl Respond>) -> io::Result<()> {
    match listener {
        Socket::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            let accept = async || listener.accept().await.map(|(stream, peer)| (stream, Some(peer.ip())));
            serve(accept, &responder).await;
        }
        Socket::Unix(listener) => {
            listener.set_nonblocking(true)?;
            let listener = UnixListener::from_std(listener)?;
            serve(async || listener.accept().await.map(|(stream, _)| (stream, None)), &responder).await;
        }
    }
    Ok(())
}

async fn serve<S>(accept: impl AsyncFn() -> io::Result<(S, Option<IpAddr>)>, responder: &Arc<impl Respond>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        match accept().await {
            Ok((stream, peer)) => spawn(stream, peer, responder, &open),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn spawn<S>(stream: S, peer: Option<IpAddr>, responder: &Arc<impl Respond>, open: &Arc<AtomicUsize>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if open.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
        return;
    }
    open.fetch_add(1, Ordering::Relaxed);
    let place = Place(Arc::clone(open));
    let responder = Arc::clone(responder);
    tokio::spawn(async move {
        let _place = place;
        let service =
            service_fn(|request| async { Ok::<_, std::convert::Infallible>(responder.respond(request, peer).await) });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection of an operator failed");
        }
    });
}

/// The place of one connection in the count of open connections. Dropping this value frees the place, even after a
/// panic.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
