//! Listening sockets, TCP and unix.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, ready};

use socket2::{Domain, Protocol, SockRef, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::Listen;
use crate::runtime::Socket;

/// The length of the queue for connections that are not accepted yet. The kernel's own limit (`somaxconn`) can be
/// lower.
const BACKLOG: i32 = 4096;
/// The largest number of connections that are accepted while a listener closes. A socket of systemd can have a longer
/// queue than [`BACKLOG`].
const MOST_QUEUED: usize = 16 * 1024;

/// The address that a listener is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// A TCP address. If port 0 was configured, the address contains the port that the kernel chose.
    Tcp(SocketAddr),
    /// A TCP address at which connections begin with a TLS handshake.
    Tls(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Tls(address) => write!(f, "https://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bound socket that is not registered with a runtime yet.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    bound: Bound,
}

/// An accepted connection and the address of its peer. The peer of a unix socket has no IP address and counts as
/// 127.0.0.1.
pub(super) enum Accepted {
    Tcp(TcpStream, IpAddr),
    Tls(TcpStream, IpAddr),
    Unix(UnixStream),
}

impl Accepted {
    pub(super) fn address(&self) -> IpAddr {
        match self {
            Self::Tcp(_, address) | Self::Tls(_, address) => *address,
            Self::Unix(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// Removes the connection from this thread's runtime.
    pub(super) fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Self::Tcp(stream, address) => Detached::Tcp(stream.into_std()?, address),
            Self::Tls(stream, address) => Detached::Tls(stream.into_std()?, address),
            Self::Unix(stream) => Detached::Unix(stream.into_std()?),
        })
    }
}

/// A connection that is registered with no runtime until a worker attaches the connection.
pub(super) enum Detached {
    Tcp(std::net::TcpStream, IpAddr),
    Tls(std::net::TcpStream, IpAddr),
    Unix(std::os::unix::net::UnixStream),
}

impl Detached {
    /// Registers the connection with this thread's runtime.
    pub(super) fn attach(self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(stream, address) => {
                stream.set_nonblocking(true)?;
                Accepted::Tcp(TcpStream::from_std(stream)?, address)
            }
            Self::Tls(stream, address) => {
                stream.set_nonblocking(true)?;
                Accepted::Tls(TcpStream::from_std(stream)?, address)
            }
            Self::Unix(stream) => {
                stream.set_nonblocking(true)?;
                Accepted::Unix(UnixStream::from_std(stream)?)
            }
        })
    }
}

/// A listener that is registered with a runtime.
pub(super) enum Incoming {
    Tcp(TcpListener),
    Tls(TcpListener),
    Unix(UnixListener),
}

impl Incoming {
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        Poll::Ready(Ok(match self {
            Self::Tcp(listener) => {
                let (stream, address) = ready!(listener.poll_accept(cx))?;
                Accepted::Tcp(stream, address.ip())
            }
            Self::Tls(listener) => {
                let (stream, address) = ready!(listener.poll_accept(cx))?;
                Accepted::Tls(stream, address.ip())
            }
            Self::Unix(listener) => Accepted::Unix(ready!(listener.poll_accept(cx))?.0),
        }))
    }

    /// Closes the listener and returns the connections that the kernel has already accepted. The function empties the
    /// kernel's queue before it closes the listener, because closing the listener resets all connections in this queue.
    /// The function removes the listener from the runtime first and then accepts the connections directly, because the
    /// runtime would notice these connections only at its next poll.
    /// At most [`MOST_QUEUED`] connections are returned, so that new connections cannot delay the close.
    pub(super) fn close(self) -> Vec<Detached> {
        fn all(accept: impl Fn() -> io::Result<Detached>) -> Vec<Detached> {
            std::iter::from_fn(|| accept().ok()).take(MOST_QUEUED).collect()
        }
        match self {
            Self::Tcp(listener) => listener
                .into_std()
                .map(|listener| all(|| listener.accept().map(|(stream, address)| Detached::Tcp(stream, address.ip())))),
            Self::Tls(listener) => listener
                .into_std()
                .map(|listener| all(|| listener.accept().map(|(stream, address)| Detached::Tls(stream, address.ip())))),
            Self::Unix(listener) => {
                listener.into_std().map(|listener| all(|| listener.accept().map(|(stream, _)| Detached::Unix(stream))))
            }
        }
        .unwrap_or_default()
    }
}

impl Listener {
    fn new(socket: Socket, listen: &Listen) -> io::Result<Self> {
        let bound = match (&socket, listen) {
            (Socket::Tcp(socket), Listen::Tls(_)) => Bound::Tls(socket.local_addr()?),
            (Socket::Tcp(socket), _) => Bound::Tcp(socket.local_addr()?),
            (Socket::Unix(socket), _) => {
                Bound::Unix(socket.local_addr()?.as_pathname().map(Path::to_path_buf).unwrap_or_default())
            }
        };
        Ok(Self { socket, bound })
    }

    pub(super) fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Returns another descriptor of the same socket. The socket stays open until all its descriptors are closed.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, bound: self.bound.clone() })
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Registers the listener with this thread's runtime.
    pub(super) fn attach(self) -> io::Result<Incoming> {
        Ok(match self.socket {
            Socket::Tcp(listener) if matches!(self.bound, Bound::Tls(_)) => {
                Incoming::Tls(TcpListener::from_std(listener)?)
            }
            Socket::Tcp(listener) => Incoming::Tcp(TcpListener::from_std(listener)?),
            Socket::Unix(listener) => Incoming::Unix(UnixListener::from_std(listener)?),
        })
    }
}

/// Binds an address, or takes the inherited socket for the address.
pub(super) fn bind(listen: &Listen, inherited: Option<Socket>) -> io::Result<Listener> {
    let socket = match (inherited, listen) {
        (Some(socket), _) => adopt(socket),
        (None, Listen::Tcp(address) | Listen::Tls(address)) => tcp(*address),
        (None, Listen::Unix(path)) => unix(path),
    };
    socket.and_then(|socket| Listener::new(socket, listen)).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "; another process listens on this address. If this process is an edgeshim, send it SIGUSR2 to replace \
                 it without downtime. Otherwise stop the process, or write another address"
            }
            _ => "",
        };
        io::Error::new(error.kind(), format!("cannot listen on {listen}: {error}{remedy}"))
    })
}

/// Prepares an inherited socket. The process that made the socket may have chosen other options.
fn adopt(socket: Socket) -> io::Result<Socket> {
    match &socket {
        Socket::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            let options = SockRef::from(listener);
            options.set_keepalive(true)?;
            options.set_tcp_nodelay(true)?;
        }
        Socket::Unix(listener) => listener.set_nonblocking(true)?,
    }
    Ok(socket)
}

fn tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // This allows a configuration that listens on both `[::]` and `0.0.0.0`.
        socket.set_only_v6(true)?;
    }
    // Accepted sockets inherit these two options, which saves system calls for each connection. Keep-alive detects that
    // a peer has vanished, even on a connection without timeouts, such as a WebSocket. With TCP_NODELAY a small
    // response does not wait until the peer has acknowledged the previous response.
    socket.set_keepalive(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(Socket::Tcp(socket.into()))
}

fn unix(path: &Path) -> io::Result<Socket> {
    // If a connection to an existing socket file is refused, no process listens on the socket: a killed process has
    // left the file behind. So the file is removed. Any other existing file is not removed, and `bind` fails.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let is_refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err_and(is_refused) {
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(Socket::Unix(listener))
}
