//! A connection to one address, below TLS and HTTP.

use std::io;

use tokio::net::{TcpStream, UnixStream};

use super::endpoint::Place;
use crate::fault::{Cause, Fault};

/// A connection without TLS.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Connects to one address.
pub(super) async fn connect(place: Place) -> io::Result<Socket> {
    match place {
        Place::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Socket::Tcp(stream))
        }
        Place::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?)),
    }
}

/// Returns the fault for a connection that could not be made.
pub(super) fn fault_of_connect(error: io::Error) -> Fault {
    let cause = match error.kind() {
        io::ErrorKind::ConnectionRefused => Cause::Refused,
        io::ErrorKind::TimedOut => Cause::ConnectTimeout,
        _ => Cause::Unreachable,
    };
    Fault::from_error(cause, error)
}
