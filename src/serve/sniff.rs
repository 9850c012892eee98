//! Reads the first bytes of a connection. If the configuration requires a PROXY header, the connection must begin with
//! this header. The next bytes decide between HTTP/1.1 and HTTP/2, which starts with a preface (RFC 9113 §3.4).

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::task::Poll;

use bytes::{Buf, BytesMut};
use ppp::{HeaderResult, PartialResult, v1, v2};
use tokio::io::AsyncReadExt;

use super::lazy::FIRST_READ;
use super::state::{LEAVE_AFTER, State};
use super::watched::Socket;

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const V1_START: &[u8] = b"PROXY ";
/// The length of the longest PROXY header of version 1, including the line end.
const MAX_V1_BYTES: usize = 107;
/// A PROXY header that is incomplete after this number of bytes is rejected. Version 2 allows 64 KiB, but in practice
/// no header is longer than this limit.
const MAX_PROXY_BYTES: usize = 4096;

/// The protocol of a connection, and the client address from its PROXY header.
#[derive(Debug)]
pub(super) struct Sniffed {
    /// The HTTP bytes that were already read, without the PROXY header.
    pub(super) prefix: BytesMut,
    pub(super) is_h2: bool,
    /// The client address in the PROXY header, if there is one.
    pub(super) source: Option<IpAddr>,
}

/// Reads until the protocol is known. Fails if the PROXY header is invalid, the deadline expires, the peer closes the
/// connection, or no byte arrives for [`LEAVE_AFTER`] during the drain.
pub(super) async fn sniff<S: Socket>(stream: &mut S, state: &State, proxy_protocol: bool) -> io::Result<Sniffed> {
    let mut buffer = stream.first_read()?;
    let mut source = None;
    if proxy_protocol {
        // The box keeps the task of the connection small.
        source = Box::pin(proxy_source(stream, &mut buffer, state)).await?;
    }
    loop {
        if let Some(is_h2) = protocol(&buffer) {
            return Ok(Sniffed { prefix: buffer, is_h2, source });
        }
        read_more(stream, &mut buffer, state).await?;
    }
}

/// Returns whether a connection that begins with these bytes is HTTP/2. Returns `None` if more bytes are needed.
fn protocol(bytes: &[u8]) -> Option<bool> {
    let seen = bytes.len().min(H2_PREFACE.len());
    let is_h2 = seen > 0 && bytes.get(..seen) == H2_PREFACE.get(..seen);
    (seen == H2_PREFACE.len() || (seen > 0 && !is_h2)).then_some(is_h2)
}

/// Reads a PROXY header and returns the client address in it. The bytes after the header stay in the buffer.
pub(super) async fn proxy_source<S: Socket>(
    stream: &mut S,
    buffer: &mut BytesMut,
    state: &State,
) -> io::Result<Option<IpAddr>> {
    loop {
        if let Some((length, source)) = proxy_header(buffer)? {
            buffer.advance(length);
            return Ok(source);
        }
        read_more(stream, buffer, state).await?;
    }
}

/// Reads once. Fails if the deadline expires, or the peer closes the connection. If `buffer` is empty, the function
/// waits at most [`LEAVE_AFTER`] for a byte during the drain, and then fails.
pub(super) async fn read_more<S: Socket>(stream: &mut S, buffer: &mut BytesMut, state: &State) -> io::Result<()> {
    let deadline = &state.deadline;
    let silent = buffer.is_empty();
    let mut left = false;
    let read = poll_fn(|cx| {
        if stream.poll_readable(cx)?.is_ready() {
            // The buffer is allocated only now, because a connection on which nothing has arrived needs no buffer.
            buffer.reserve(FIRST_READ);
            if let Poll::Ready(read) = pin!(stream.read_buf(buffer)).poll(cx) {
                return Poll::Ready(read);
            }
        }
        deadline.watch(cx);
        if silent && !left && state.permit.is_closing() {
            // The drain has begun. The client's first bytes can already be on their way, so the connection still stays
            // open for `LEAVE_AFTER`.
            left = true;
            deadline.arm(LEAVE_AFTER);
        }
        match (deadline.is_due(), left) {
            (false, _) => Poll::Pending,
            (true, false) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            (true, true) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    })
    .await?;
    if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Returns the length and the source address of the PROXY header, or `None` while the header is incomplete. The address
/// is `None` if the header has no IP address, or if its type is `LOCAL` or `UNKNOWN`. Load balancers use these two
/// types for their own connections, for example for health checks.
fn proxy_header(bytes: &[u8]) -> io::Result<Option<(usize, Option<IpAddr>)>> {
    let seen = bytes.len().min(V1_START.len());
    let is_v1 = bytes.get(..seen) == V1_START.get(..seen);
    if is_v1 && bytes.len() < MAX_V1_BYTES && memchr::memchr(b'\n', bytes).is_none() {
        // The rest of the line has not arrived. The parser must not see the line yet, because the parser treats a line
        // without the last port as invalid.
        return Ok(None);
    }
    let parsed = HeaderResult::parse(bytes);
    if parsed.is_incomplete() {
        return if bytes.len() < MAX_PROXY_BYTES { Ok(None) } else { Err(io::ErrorKind::InvalidData.into()) };
    }
    let found = match parsed {
        HeaderResult::V1(Ok(header)) => {
            let source = match header.addresses {
                v1::Addresses::Tcp4(pair) => Some(IpAddr::V4(pair.source_address)),
                v1::Addresses::Tcp6(pair) => Some(IpAddr::V6(pair.source_address)),
                v1::Addresses::Unknown => None,
            };
            (header.header.len(), source)
        }
        HeaderResult::V2(Ok(header)) => {
            let source = match header.addresses {
                v2::Addresses::IPv4(pair) => Some(IpAddr::V4(pair.source_address)),
                v2::Addresses::IPv6(pair) => Some(IpAddr::V6(pair.source_address)),
                v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
            };
            let source = source.filter(|_| header.command == v2::Command::Proxy);
            (header.len(), source)
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => return Err(io::ErrorKind::InvalidData.into()),
    };
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_header_when_complete_then_source_is_returned_and_when_incomplete_then_none() {
        let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 80\r\nGET /";
        assert_eq!(proxy_header(line).unwrap(), Some((line.len() - 5, Some("192.0.2.7".parse().unwrap()))));
        assert_eq!(proxy_header(b"PROXY UNKNOWN\r\n").unwrap(), Some((15, None)));
        let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        binary.extend_from_slice(&[192, 0, 2, 8, 198, 51, 100, 1, 0, 1, 0, 2]);
        assert_eq!(proxy_header(&binary).unwrap(), Some((28, Some("192.0.2.8".parse().unwrap()))));
        assert_eq!(proxy_header(&binary[..20]).unwrap(), None);
        for cut in 1..line.len() - 5 {
            assert_eq!(proxy_header(&line[..cut]).unwrap(), None, "{cut} bytes");
        }
    }

    #[test]
    fn proxy_header_when_malformed_then_rejected() {
        let endless = [&b"PROXY UNKNOWN "[..], &[b'a'; 100]].concat();
        for bytes in
            [&b"GET / HTTP/1.1\r\n"[..], &endless, b"PROXY TCP4 x y 1 2\r\n", b"PROXY TCP9 1.2.3.4 1.2.3.4 1 2\r\n"]
        {
            assert!(proxy_header(bytes).is_err(), "{bytes:?}");
        }
    }
}
