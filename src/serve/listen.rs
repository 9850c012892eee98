//! Listening sockets, TCP and unix.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, ready};

use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::lazy::Lazy;
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
pub(super) struct Accepted {
    pub(super) stream: Lazy,
    pub(super) address: IpAddr,
    pub(super) is_tls: bool,
}

/// A listener that is registered with a runtime.
pub(super) struct Incoming {
    socket: AsyncFd<Socket>,
    is_tls: bool,
}

impl Incoming {
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            if let Ok(accepted) = ready.try_io(|socket| accept(socket.get_ref(), self.is_tls)) {
                return Poll::Ready(accepted);
            }
        }
    }

    /// Removes the listener from the runtime. Dropping the returned queue closes the listener.
    pub(super) fn into_queue(self) -> Queue {
        Queue { socket: self.socket.into_inner(), is_tls: self.is_tls, left: MOST_QUEUED }
    }
}

/// The connections that wait in the kernel's queue when a listener closes. Closing the listener would reset these
/// connections, so they are accepted first. They are accepted without the runtime, because the runtime would notice
/// them only at its next poll.
///
/// At most [`MOST_QUEUED`] connections are accepted, so that new connections cannot delay the close.
pub(super) struct Queue {
    socket: Socket,
    is_tls: bool,
    left: usize,
}

impl Queue {
    /// Returns the next connection. Returns `None` if the queue is empty, or after [`MOST_QUEUED`] calls.
    pub(super) fn accept(&mut self) -> Option<io::Result<Accepted>> {
        self.left = self.left.checked_sub(1)?;
        match accept(&self.socket, self.is_tls) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            accepted => Some(accepted),
        }
    }
}

/// Accepts a connection without waiting. The new socket is set to non-blocking in the same system call.
fn accept(socket: &Socket, is_tls: bool) -> io::Result<Accepted> {
    let (stream, address) = acceptfrom_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let address = address.and_then(|address| SocketAddr::try_from(address).ok()).map(|address| address.ip());
    let stream = match socket {
        Socket::Tcp(_) => Lazy::tcp(stream),
        Socket::Unix(_) => Lazy::unix(stream),
    };
    Ok(Accepted { stream, address: address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), is_tls })
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

    /// Registers the listener with this thread's runtime. tokio's own listener is not used, because it registers each
    /// accepted connection (see `lazy.rs`).
    #[expect(
        deprecated,
        reason = "tokio deprecates this function, because a type could change its descriptor; `Socket` never changes \
                  its descriptor, and the new function is unsafe"
    )]
    pub(super) fn attach(self) -> io::Result<Incoming> {
        let is_tls = matches!(self.bound, Bound::Tls(_));
        Ok(Incoming { socket: AsyncFd::with_interest(self.socket, Interest::READABLE)?, is_tls })
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
                "; another process already listens on this address, or the path is a file that is not a socket. If the \
                 other process is an edgeshim, send SIGUSR2 to it, to replace it without downtime. Otherwise stop the \
                 other process, remove the file, or write another address"
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
