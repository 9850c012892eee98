//! Pipes of the kernel. The body of a large response moves through a pipe from the origin's socket to the client's
//! socket, and its bytes are never copied to this process (`splice(2)`).
//!
//! Each worker has its own pipes. A response has a pipe only while the pipe has bytes, so a worker mostly needs one
//! pipe. The pipe of a client that reads slowly stays with its response. The number of pipes is limited. Above the
//! limit, and if the kernel refuses a pipe or `splice`, bodies are copied.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

/// The largest number of pipes of a worker. Each pipe has two file descriptors and, by default, room for 64 KiB.
const MOST_PIPES: usize = 128;
/// The largest number of empty pipes that a worker keeps open.
const MOST_EMPTY: usize = 4;

/// The sockets are not blocking, and the pipe must not block either.
const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK;

thread_local! {
    static PIPES: RefCell<Pipes> = RefCell::default();
}

/// The pipes of a worker.
#[derive(Debug, Default)]
struct Pipes {
    empty: Vec<Ends>,
    /// The number of pipes, empty or not.
    open: usize,
    /// Whether the kernel has refused to splice from a socket.
    is_refused: bool,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe, with the number of bytes in it.
#[derive(Debug)]
pub struct Pipe {
    /// `None` after the ends were given back.
    ends: Option<Ends>,
    bytes: usize,
}

impl Pipe {
    /// Returns an empty pipe, or `None` if no pipe can be used now.
    pub(crate) fn take() -> Option<Self> {
        PIPES.with_borrow_mut(|pipes| {
            if pipes.is_refused {
                return None;
            }
            let ends = match pipes.empty.pop() {
                Some(ends) => ends,
                None if pipes.open < MOST_PIPES => {
                    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
                    pipes.open += 1;
                    Ends { read, write }
                }
                None => return None,
            };
            Some(Self { ends: Some(ends), bytes: 0 })
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Moves up to `most` bytes from `source` to this pipe, which must be empty. Returns the number of bytes, which is
    /// 0 at the end of the stream, or `None` if the kernel cannot splice from `source`.
    ///
    /// # Errors
    /// `WouldBlock` if no bytes have arrived; otherwise the connection has failed.
    pub(super) fn fill(&mut self, source: impl AsFd, most: usize) -> io::Result<Option<usize>> {
        let Some(ends) = &self.ends else { return Ok(None) };
        match splice(source, None, &ends.write, None, most, FLAGS) {
            Ok(moved) => {
                self.bytes += moved;
                Ok(Some(moved))
            }
            // A seccomp filter, a kernel of another kind (gVisor) or a socket of another kind (MPTCP).
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {
                PIPES.with_borrow_mut(|pipes| pipes.is_refused = true);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Moves bytes from this pipe, which must not be empty, to `target`. Returns their number.
    ///
    /// # Errors
    /// `WouldBlock` if the buffer of `target` is full; otherwise the connection has failed.
    pub(crate) fn write_to(&mut self, target: impl AsFd) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Ok(0) };
        let moved = splice(&ends.read, None, target, None, self.bytes, FLAGS)?;
        self.bytes -= moved;
        Ok(moved)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let ends = self.ends.take();
        // The thread can be at its end.
        let _ = PIPES.try_with(|pipes| {
            let mut pipes = pipes.borrow_mut();
            match ends {
                // Bytes of one response must not get into another.
                Some(ends) if self.bytes == 0 && pipes.empty.len() < MOST_EMPTY => pipes.empty.push(ends),
                _ => pipes.open = pipes.open.saturating_sub(1),
            }
        });
    }
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

    fn received(stream: &mut TcpStream, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn bytes_when_moved_then_arrive_once_and_no_other_pipe_has_them() {
        let (mut origin, source) = pair();
        let (target, mut client) = pair();
        origin.write_all(b"abcdefgh").unwrap();
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(pipe.fill(&source, 5).unwrap(), Some(5));
        assert_eq!(pipe.write_to(&target).unwrap(), 5);
        assert!(pipe.is_empty());
        assert_eq!(received(&mut client, 5), b"abcde");
        assert_eq!(pipe.fill(&source, 2).unwrap(), Some(2));
        // The response of this pipe was dropped, and "fg" with it.
        drop(pipe);
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(pipe.fill(&source, 5).unwrap(), Some(1));
        assert_eq!(pipe.write_to(&target).unwrap(), 1);
        assert_eq!(received(&mut client, 1), b"h");
        source.set_nonblocking(true).unwrap();
        assert_eq!(pipe.fill(&source, 5).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(origin);
        source.set_nonblocking(false).unwrap();
        assert_eq!(pipe.fill(&source, 5).unwrap(), Some(0));
    }

    #[test]
    fn pipe_when_limit_is_reached_then_is_refused_until_another_is_dropped() {
        let mut pipes: Vec<_> = (0..MOST_PIPES).map(|_| Pipe::take().unwrap()).collect();
        assert!(Pipe::take().is_none());
        pipes.truncate(MOST_PIPES - 1);
        assert!(Pipe::take().is_some());
        drop(pipes);
        PIPES.with_borrow(|pipes| assert_eq!((pipes.open, pipes.empty.len()), (MOST_EMPTY, MOST_EMPTY)));
    }

    #[test]
    fn source_when_kernel_cannot_splice_from_it_then_pipes_are_not_used_any_more() {
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(pipe.fill(File::open(".").unwrap(), 1).unwrap(), None);
        assert!(Pipe::take().is_none());
    }
}
