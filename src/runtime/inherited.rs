//! Listening sockets that this process got at its start, from systemd (socket activation) or from the process that this
//! process replaces. The environment variable `LISTEN_FDS` has the number of the sockets, and `LISTEN_FDNAMES` has
//! their names.
//!
//! If the address of a socket is configured, the socket belongs to the listener with this address. Otherwise the name
//! of the socket selects the listener. In a hand-over, the name contains the address in the configuration of the old
//! process, so that a socket is not matched with a listener whose address was changed.

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener};

use listenfd::ListenFd;

use crate::config::Listen;
use crate::wire::hex;

/// The name of the socket on which this process reports to the old process that this process is ready.
pub(crate) const PREDECESSOR: &str = "edgeshim-predecessor";

/// Returns the name with which a socket is passed in a hand-over. `name` is the name of the socket for systemd, and
/// `listen` is the address in the configuration.
pub(crate) fn name_in_hand_over(name: &str, listen: &Listen) -> String {
    // A name cannot contain a colon, so the address is written in hexadecimal.
    format!("{name}-{}", hex::text(listen.to_string().as_bytes()))
}

/// The end of the name of a unix socket whose file the new process must remove at its end.
const OWNED: &str = "-owned";

/// Returns `name` with the note that the new process must remove the file of the unix socket at its end.
pub(crate) fn with_file(name: &str) -> String {
    format!("{name}{OWNED}")
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
        })
    }

    fn is_at(&self, listen: &Listen) -> bool {
        match (self, listen) {
            (Self::Tcp(socket), Listen::Tcp(address) | Listen::Tls(address)) => {
                socket.local_addr().is_ok_and(|own| own == *address)
            }
            (Self::Unix(socket), Listen::Unix(path)) => {
                socket.local_addr().is_ok_and(|own| own.as_pathname() == Some(path))
            }
            _ => false,
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        match socket {
            Socket::Tcp(socket) => socket.into(),
            Socket::Unix(socket) => socket.into(),
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(socket) => match socket.local_addr() {
                Ok(address) => address.fmt(f),
                Err(error) => write!(f, "a TCP socket without an address ({error})"),
            },
            Self::Unix(socket) => match socket.local_addr() {
                Ok(address) if address.as_pathname().is_some() => {
                    write!(f, "unix:{}", address.as_pathname().unwrap_or("".as_ref()).display())
                }
                _ => f.write_str("a unix socket without a path"),
            },
        }
    }
}

/// An inherited socket.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) socket: Socket,
    /// Whether edgeshim (this process or an earlier one) has made the file of the unix socket. The last process that
    /// uses the socket removes the file. The file of a socket from systemd belongs to systemd.
    pub(crate) owns_file: bool,
}

/// The inherited sockets that are not matched yet, each with its name.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    sockets: Vec<(String, Socket)>,
    predecessor: Option<UnixDatagram>,
}

impl Inherited {
    /// Takes the inherited sockets. This function changes the environment, so it must be called before a thread starts.
    ///
    /// # Errors
    /// Returns an error if a socket has the wrong type. All sockets except [`PREDECESSOR`] must be listening TCP or
    /// unix stream sockets.
    pub(crate) fn from_env() -> io::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut found = ListenFd::from_env();
        let mut inherited = Self::default();
        for index in 0..found.len() {
            let name = names.next().unwrap_or_default().to_owned();
            if name == PREDECESSOR {
                inherited.predecessor = found.take_unix_datagram(index)?;
            } else if let Ok(Some(socket)) = found.take_tcp_listener(index) {
                inherited.sockets.push((name, Socket::Tcp(socket)));
            } else if let Ok(Some(socket)) = found.take_unix_listener(index) {
                inherited.sockets.push((name, Socket::Unix(socket)));
            } else {
                let number = index + 1;
                return Err(io::Error::other(format!(
                    "LISTEN_FDS: socket {number} ({name:?}) is not a TCP or unix stream socket; in the systemd socket \
                     unit, use ListenStream="
                )));
            }
        }
        Ok(inherited)
    }

    /// Matches the sockets with addresses. Each address has the name with which a socket can be matched. Returns one
    /// entry for each address, and the socket to the old process, if there is one. An entry is `None` if no socket
    /// belongs to its address.
    ///
    /// # Errors
    /// Returns an error if a socket belongs to no address. In a hand-over, such a socket is closed instead, because the
    /// configuration can have changed.
    pub(crate) fn assign(
        mut self,
        wanted: &[(&Listen, &str)],
    ) -> io::Result<(Vec<Option<Passed>>, Option<UnixDatagram>)> {
        let mut assigned: Vec<Option<Passed>> = wanted.iter().map(|_| None).collect();
        for by_name in [false, true] {
            for (place, (listen, wanted)) in assigned.iter_mut().zip(wanted) {
                let is_match = |(name, socket): &(String, Socket)| match (by_name, &self.predecessor) {
                    (false, _) => socket.is_at(listen),
                    (true, None) => name == wanted,
                    (true, Some(_)) => name.trim_end_matches(OWNED) == name_in_hand_over(wanted, listen),
                };
                if place.is_none()
                    && let Some(found) = self.sockets.iter().position(is_match)
                {
                    let (name, socket) = self.sockets.remove(found);
                    let owns_file = self.predecessor.is_some() && name.ends_with(OWNED);
                    *place = Some(Passed { socket, owns_file });
                }
            }
        }
        match self.sockets.first() {
            Some((name, socket)) if self.predecessor.is_none() => Err(io::Error::other(format!(
                "LISTEN_FDS: the configuration has no listener for the socket {socket} with the name {name:?}; write \
                 the address in server.listen, server.tls.listen or admin.listen, or set FileDescriptorName=http, \
                 FileDescriptorName=https or FileDescriptorName=admin in the systemd socket unit"
            ))),
            _ => Ok((assigned, self.predecessor)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(name: &str) -> (String, Socket) {
        (name.to_owned(), Socket::Tcp(TcpListener::bind("127.0.0.1:0").unwrap()))
    }

    fn address((_, socket): &(String, Socket)) -> Listen {
        let Socket::Tcp(socket) = socket else { panic!("not a TCP socket") };
        Listen::Tcp(socket.local_addr().unwrap())
    }

    #[test]
    fn socket_when_address_and_name_match_different_listeners_then_address_is_used() {
        let sockets = vec![tcp("http"), tcp("http"), tcp("admin")];
        let (first, second) = (address(&sockets[0]), address(&sockets[1]));
        let other = Listen::Tcp(([127, 0, 0, 1], 1).into());
        let inherited = Inherited { sockets, ..Inherited::default() };
        let wanted = [(&other, "http"), (&first, "http"), (&other, "admin")];
        let (assigned, _) = inherited.assign(&wanted).unwrap();
        let shown: Vec<_> = assigned.iter().flatten().map(|passed| passed.socket.to_string()).collect();
        assert_eq!(shown[..2], [second.to_string(), first.to_string()]);
        assert!(assigned[2].is_some());
    }

    #[test]
    fn socket_when_unmatched_then_rejected_at_start_and_closed_after_hand_over() {
        let other = Listen::Tcp(([127, 0, 0, 1], 1).into());
        let unmatched = || Inherited { sockets: vec![tcp("web")], ..Inherited::default() };
        let error = unmatched().assign(&[(&other, "http")]).unwrap_err().to_string();
        assert!(error.contains("127.0.0.1:") && error.contains("\"web\""), "{error}");
        let (predecessor, _other_end) = UnixDatagram::pair().unwrap();
        let handed_over = Inherited { predecessor: Some(predecessor), ..unmatched() };
        let (assigned, predecessor) = handed_over.assign(&[(&other, "http")]).unwrap();
        assert!(assigned[0].is_none() && predecessor.is_some());
    }
}
