//! Pipes of the kernel. The body of a large response moves through a pipe from the origin's socket to the client's
//! socket, and its bytes are never copied to this process (`splice(2)`).
//!
//! Each worker has its own pipes. A response has a pipe only while the pipe has bytes, so a worker mostly needs one
//! pipe. The pipe of a client that reads slowly stays with its response. The number of pipes is limited. Above the
//! limit, and if the kernel refuses a pipe or `splice`, bodies are copied.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, pipe_with, splice};

/// The largest number of pipes of a worker, each with two file descriptors.
const MOST_PIPES: usize = 64;
/// The largest number of empty pipes that a worker keeps open.
const MOST_EMPTY: usize = 4;
/// The size of a pipe. If a user has many pipes (`fs.pipe-user-pages-soft`), the kernel makes smaller pipes, which cost
/// more than a copy.
const PIPE_BYTES: usize = 64 * 1024;
/// The sockets are not blocking, and the pipe must not block either.
const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK;

thread_local! {
    static EMPTY: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
    /// The number of pipes, empty or not.
    static OPEN: Cell<usize> = const { Cell::new(0) };
    /// Whether the kernel has refused `splice`.
    static IS_REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// A pipe with bytes of a body.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    bytes: usize,
    _open: Open,
}

/// Counts a pipe in [`OPEN`].
#[derive(Debug)]
struct Open;

impl Drop for Open {
    fn drop(&mut self) {
        OPEN.set(OPEN.get().saturating_sub(1));
    }
}

impl Pipe {
    /// Moves up to `most` bytes from `source` to a pipe. Returns `None` if the bytes have to be copied, because no pipe
    /// is free or the kernel refuses `splice`.
    ///
    /// # Errors
    /// `WouldBlock` if no bytes have arrived, `UnexpectedEof` at the end of the stream; otherwise the connection has
    /// failed.
    pub(super) fn filled(source: impl AsFd, most: usize) -> io::Result<Option<Self>> {
        let Some(mut pipe) = Self::empty() else { return Ok(None) };
        // The kernel refuses lengths above 63 bits.
        match splice(source, None, &pipe.write, None, most.min(PIPE_BYTES), FLAGS) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(moved) => {
                pipe.bytes = moved;
                Ok(Some(pipe))
            }
            Err(error) if is_refusal(error) => Ok(None),
            Err(error) => {
                pipe.recycle();
                Err(error.into())
            }
        }
    }

    fn empty() -> Option<Self> {
        if IS_REFUSED.get() {
            return None;
        }
        EMPTY.with_borrow_mut(Vec::pop).or_else(|| {
            if OPEN.get() >= MOST_PIPES {
                return None;
            }
            let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
            OPEN.set(OPEN.get() + 1);
            let pipe = Self { read, write, bytes: 0, _open: Open };
            (fcntl_getpipe_size(&pipe.write).ok()? >= PIPE_BYTES).then_some(pipe)
        })
    }

    /// Returns the number of bytes in the pipe.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Moves bytes from this pipe, which must not be empty, to `target`. Returns their number.
    ///
    /// # Errors
    /// `WouldBlock` if the buffer of `target` is full; otherwise the connection has failed.
    pub(crate) fn write_to(&mut self, target: impl AsFd) -> io::Result<usize> {
        let moved = splice(&self.read, None, target, None, self.bytes, FLAGS).inspect_err(|error| {
            is_refusal(*error);
        })?;
        self.bytes -= moved;
        Ok(moved)
    }

    /// Keeps the pipe for another body, if the pipe is empty. A pipe with bytes is closed: the bytes of one response
    /// must not get into another.
    pub(crate) fn recycle(self) {
        EMPTY.with_borrow_mut(|pipes| {
            if self.bytes == 0 && pipes.len() < MOST_EMPTY {
                pipes.push(self);
            }
        });
    }
}

/// Returns whether the kernel refuses `splice` itself: because of a seccomp filter, because the kernel is another one
/// (gVisor), or because the socket is of another kind (MPTCP). Then the worker copies all further bodies.
fn is_refusal(error: Errno) -> bool {
    let is_refused = matches!(error, Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP);
    if is_refused && !IS_REFUSED.replace(true) {
        tracing::info!(%error, "the kernel refuses splice(2), so this worker copies large bodies");
    }
    is_refused
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Returns both ends of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    fn filled(source: &TcpStream, most: usize) -> Pipe {
        Pipe::filled(source, most).unwrap().unwrap()
    }

    #[test]
    fn bytes_when_moved_then_arrive_once_and_no_other_pipe_has_them() {
        let (mut origin, source) = pair();
        let (target, mut client) = pair();
        origin.write_all(b"abcdefgh").unwrap();
        let mut pipe = filled(&source, 5);
        assert_eq!((pipe.write_to(&target).unwrap(), pipe.bytes()), (5, 0));
        pipe.recycle();
        assert_eq!(OPEN.get(), 1);
        // The response of this pipe fails, and "fg" is not sent.
        let pipe = filled(&source, 2);
        assert_eq!((pipe.bytes(), OPEN.get()), (2, 1));
        pipe.recycle();
        assert_eq!(OPEN.get(), 0);
        let mut pipe = filled(&source, usize::MAX);
        assert_eq!(pipe.write_to(&target).unwrap(), 1);
        let mut received = [0; 6];
        client.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"abcdeh");
        source.set_nonblocking(true).unwrap();
        assert_eq!(Pipe::filled(&source, 5).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(origin);
        source.set_nonblocking(false).unwrap();
        assert_eq!(Pipe::filled(&source, 5).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn pipe_when_limit_is_reached_then_is_refused_until_another_is_dropped() {
        let (mut origin, source) = pair();
        origin.write_all(&[b'x'; 2 * MOST_PIPES]).unwrap();
        let mut pipes: Vec<_> = (0..MOST_PIPES).map(|_| filled(&source, 1)).collect();
        assert!(Pipe::filled(&source, 1).unwrap().is_none());
        pipes.pop();
        assert!(Pipe::filled(&source, 1).unwrap().is_some());
        let (target, _client) = pair();
        for mut pipe in pipes {
            pipe.write_to(&target).unwrap();
            pipe.recycle();
        }
        assert_eq!((OPEN.get(), EMPTY.with_borrow(Vec::len)), (MOST_EMPTY, MOST_EMPTY));
    }

    #[test]
    fn source_when_kernel_cannot_splice_from_it_then_bodies_are_copied() {
        assert!(Pipe::filled(File::open(".").unwrap(), 1).unwrap().is_none());
        let (mut origin, source) = pair();
        origin.write_all(b"a").unwrap();
        assert!(Pipe::filled(&source, 1).unwrap().is_none());
    }
}
