//! A client's socket that is registered with the runtime only when it must wait.
//!
//! The registration and its removal need two system calls and an allocation. If a client opens a connection for each
//! request, the request has mostly arrived when edgeshim accepts the connection, and the socket's buffer has room for
//! the response. So edgeshim tries the first read and each write before the registration. The socket of such a
//! connection is mostly never registered.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::watched::{PipeWrite, Socket};
use crate::origin::Pipe;

/// The size of the buffer for the first read, in bytes. Most request heads fit into this buffer.
pub(super) const FIRST_READ: usize = 2048;

/// A connected socket, TCP or unix.
#[derive(Debug)]
pub(super) struct Lazy {
    stage: Stage,
    /// Whether the runtime or a write has found out if the registered socket is writable.
    is_known: bool,
}

#[derive(Debug)]
enum Stage {
    NewTcp(std::net::TcpStream),
    NewUnix(std::os::unix::net::UnixStream),
    Tcp(TcpStream),
    Unix(UnixStream),
    /// The registration has failed, and the socket is closed.
    Failed,
}

impl Lazy {
    /// Wraps a socket that is set to non-blocking.
    pub(super) fn tcp(socket: OwnedFd) -> Self {
        Self { stage: Stage::NewTcp(socket.into()), is_known: false }
    }

    /// Wraps a socket that is set to non-blocking.
    pub(super) fn unix(socket: OwnedFd) -> Self {
        Self { stage: Stage::NewUnix(socket.into()), is_known: false }
    }

    /// Registers the socket with this thread's runtime, if it is not registered.
    fn register(&mut self) -> io::Result<()> {
        if self.is_registered() {
            return Ok(());
        }
        self.stage = match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::NewTcp(socket) => Stage::Tcp(TcpStream::from_std(socket)?),
            Stage::NewUnix(socket) => Stage::Unix(UnixStream::from_std(socket)?),
            registered => registered,
        };
        Ok(())
    }

    /// Returns the socket if it is not registered.
    fn new_socket(&mut self) -> Option<&mut dyn ReadWrite> {
        match &mut self.stage {
            Stage::NewTcp(socket) => Some(socket),
            Stage::NewUnix(socket) => Some(socket),
            Stage::Tcp(_) | Stage::Unix(_) | Stage::Failed => None,
        }
    }

    /// Calls `write` if the socket is not registered. If the write must wait, registers the socket. Returns `None` if
    /// the caller has to write with the registered socket.
    fn write_new(&mut self, write: impl FnOnce(&mut dyn ReadWrite) -> io::Result<usize>) -> Option<io::Result<usize>> {
        match write(self.new_socket()?) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.register().err().map(Err),
            written => Some(written),
        }
    }

    /// Calls `write` if `polled` is pending only because the runtime has not found out yet whether the socket is
    /// writable. `polled` is the result of a write with the registered socket. Without this function, a response head
    /// could wait here until its body fails, and hyper would then drop the head.
    fn write_early(
        &mut self,
        polled: Poll<io::Result<usize>>,
        write: impl FnOnce(&mut &socket2::Socket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.is_known || polled.is_ready() {
            self.is_known = true;
            return polled;
        }
        let written = match &self.stage {
            Stage::Tcp(stream) => write(&mut &*SockRef::from(stream)),
            Stage::Unix(stream) => write(&mut &*SockRef::from(stream)),
            Stage::NewTcp(_) | Stage::NewUnix(_) | Stage::Failed => return failed(),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_known = true;
                Poll::Pending
            }
            written => Poll::Ready(written),
        }
    }
}

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

fn failed<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl Socket for Lazy {
    const CLOSE_SHUTS_DOWN: bool = true;

    fn first_read(&mut self) -> io::Result<BytesMut> {
        let Some(socket) = self.new_socket() else { return Ok(BytesMut::new()) };
        let mut buffer = [0; FIRST_READ];
        match socket.read(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => Ok(buffer.get(..read).unwrap_or_default().into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(BytesMut::new()),
            Err(error) => Err(error),
        }
    }

    fn is_registered(&self) -> bool {
        !matches!(self.stage, Stage::NewTcp(_) | Stage::NewUnix(_))
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.register()?;
        match &self.stage {
            Stage::Tcp(stream) => stream.poll_read_ready(cx),
            Stage::Unix(stream) => stream.poll_read_ready(cx),
            Stage::NewTcp(_) | Stage::NewUnix(_) | Stage::Failed => failed(),
        }
    }

    fn reset_at_close(&self, reset: bool) -> bool {
        let linger = reset.then_some(Duration::ZERO);
        match &self.stage {
            Stage::NewTcp(socket) => SockRef::from(socket).set_linger(linger).is_ok(),
            Stage::Tcp(stream) => SockRef::from(stream).set_linger(linger).is_ok(),
            Stage::NewUnix(_) | Stage::Unix(_) | Stage::Failed => false,
        }
    }
}

impl AsyncRead for Lazy {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.register()?;
        match &mut self.stage {
            Stage::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stage::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stage::NewTcp(_) | Stage::NewUnix(_) | Stage::Failed => failed(),
        }
    }
}

impl AsyncWrite for Lazy {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(written) = self.write_new(|socket| socket.write(buf)) {
            return Poll::Ready(written);
        }
        let polled = match &mut self.stage {
            Stage::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stage::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stage::NewTcp(_) | Stage::NewUnix(_) | Stage::Failed => failed(),
        };
        self.write_early(polled, |socket| socket.write(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(written) = self.write_new(|socket| socket.write_vectored(bufs)) {
            return Poll::Ready(written);
        }
        let polled = match &mut self.stage {
            Stage::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stage::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stage::NewTcp(_) | Stage::NewUnix(_) | Stage::Failed => failed(),
        };
        self.write_early(polled, |socket| socket.write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing, because each write passes its bytes to the kernel.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stage {
            Stage::NewTcp(socket) => Poll::Ready(socket.shutdown(Shutdown::Write)),
            Stage::NewUnix(socket) => Poll::Ready(socket.shutdown(Shutdown::Write)),
            Stage::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stage::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stage::Failed => failed(),
        }
    }
}

impl PipeWrite for Lazy {
    fn takes_pipes(&self) -> bool {
        matches!(self.stage, Stage::NewTcp(_) | Stage::Tcp(_))
    }

    fn poll_write_pipe(mut self: Pin<&mut Self>, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        if let Stage::NewTcp(socket) = &self.stage {
            match pipe.write_to(socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.register()?,
                written => return Poll::Ready(written),
            }
        }
        let Stage::Tcp(stream) = &self.stage else { return failed() };
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_io(Interest::WRITABLE, || pipe.write_to(stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::task::Waker;

    use super::*;

    /// Returns a socket that is not registered, and its peer.
    fn pair() -> (Lazy, std::os::unix::net::UnixStream) {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        (Lazy::unix(near.into()), far)
    }

    #[test]
    fn socket_when_no_wait_is_necessary_then_is_not_registered() {
        // Outside of a runtime, a registration would panic.
        let (mut socket, mut far) = pair();
        assert!(socket.first_read().unwrap().is_empty());
        far.write_all(b"ab").unwrap();
        assert_eq!(socket.first_read().unwrap()[..], b"ab"[..]);
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(matches!(Pin::new(&mut socket).poll_write(cx, b"cde"), Poll::Ready(Ok(3))));
        assert!(!socket.is_registered());
        let mut buffer = [0; 3];
        far.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"cde");
        drop(far);
        assert_eq!(socket.first_read().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn write_when_socket_was_just_registered_then_does_not_wait() {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _entered = tokio.enter();
        let (mut socket, far) = pair();
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(socket.poll_readable(cx).is_pending());
        assert!(socket.is_registered());
        // The runtime has not polled the sockets since the registration.
        assert!(matches!(Pin::new(&mut socket).poll_write(cx, b"abc"), Poll::Ready(Ok(3))));
        // A socket whose buffer is full must wait.
        let full = (0..100_000).any(|_| Pin::new(&mut socket).poll_write(cx, &[0; 4096]).is_pending());
        assert!(full, "the socket never waits");
        drop(far);
    }
}
