//! The TLS handshake of a client connection. Each handshake is counted once, by its result.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::task::Poll;

use rustls::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::super::lazy::Lazy;
use super::super::sniff::{proxy_source, read_more};
use super::super::state::State;
use super::super::watched::Socket as _;
use super::secured::{Secured, Tcp};
use crate::clock::{self, Deadline};
use crate::ids::Handshake;
use crate::intake::server_tls::{Active, ServerTls};
use crate::wire::certificate::Certificate;

/// The type of a TLS record that contains a handshake message. Each TLS connection begins with this byte.
const HANDSHAKE_RECORD: u8 = 22;
/// The response to HTTP without TLS.
const NEEDS_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\
    Content-Length: 48\r\n\r\nThis port needs HTTPS. Use https:// in the URL.\n";

/// A connection after its handshake.
pub(in super::super) struct Begun {
    pub(in super::super) stream: Secured,
    /// The client address in the PROXY header, if there is one.
    pub(in super::super) source: Option<IpAddr>,
    pub(in super::super) certificate: Option<Certificate>,
    /// Whether ALPN selected HTTP/2. `None`: the client offered no protocol.
    pub(in super::super) is_h2: Option<bool>,
}

/// Reads the PROXY header, if the configuration requires it, and does the handshake.
///
/// # Errors
/// Returns an error if there is no usable connection. The error has the kind `InvalidData` only if the PROXY header is
/// malformed. In all other cases, the failed handshake has been counted.
pub(in super::super) async fn begin(
    mut stream: Lazy,
    tls: &ServerTls,
    state: &State,
    proxy_protocol: bool,
) -> io::Result<Begun> {
    let first_bytes = async {
        let mut buffer = stream.first_read()?;
        let mut source = None;
        if proxy_protocol {
            source = proxy_source(&mut stream, &mut buffer, state).await?;
        }
        while buffer.is_empty() {
            read_more(&mut stream, &mut buffer, state).await?;
        }
        io::Result::Ok((buffer, source))
    };
    let (buffer, source) = match first_bytes.await {
        Ok(begun) => begun,
        Err(error) => {
            match error.kind() {
                io::ErrorKind::InvalidData => {}
                io::ErrorKind::TimedOut => tls.count(Handshake::Timeout),
                _ => tls.count(Handshake::Gone),
            }
            return Err(error);
        }
    };
    if buffer.first() != Some(&HANDSHAKE_RECORD) {
        tls.count(Handshake::NotTls);
        if buffer.first().is_some_and(u8::is_ascii_uppercase) {
            let _ = tokio::time::timeout(clock::TICK, stream.write_all(NEEDS_TLS)).await;
        }
        close(stream).await;
        return Err(io::ErrorKind::Unsupported.into());
    }
    let active = tls.active();
    let tcp = Tcp::new(stream, buffer.freeze());
    match handshake(tcp, &active, &state.deadline).await {
        Ok((stream, certificate)) => {
            tls.count(Handshake::Ok);
            let is_h2 = stream.session().alpn_protocol().map(|protocol| protocol == b"h2");
            Ok(Begun { stream, source, certificate, is_h2 })
        }
        Err(result) => {
            tls.count(result);
            Err(io::ErrorKind::ConnectionAborted.into())
        }
    }
}

async fn handshake(
    tcp: Tcp,
    active: &Active,
    deadline: &Deadline,
) -> Result<(Secured, Option<Certificate>), Handshake> {
    let acceptor = TlsAcceptor::from(active.config.clone());
    let mut accepting = pin!(acceptor.accept(tcp).into_fallible());
    let accepted = poll_fn(|cx| {
        if let Poll::Ready(accepted) = accepting.as_mut().poll(cx) {
            return Poll::Ready(Some(accepted));
        }
        deadline.watch(cx);
        if deadline.is_due() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await;
    match accepted {
        None => Err(Handshake::Timeout),
        Some(Err((error, tcp))) => {
            tracing::debug!(%error, "a TLS handshake failed");
            // If rustls has rejected the handshake, it has already sent an alert with the reason.
            close(tcp).await;
            Err(result_of(&error))
        }
        Some(Ok(stream)) => {
            let stream = Secured::new(stream);
            let Ok(certificate) = active.client(stream.session().peer_certificates().unwrap_or_default()) else {
                close(stream).await;
                return Err(Handshake::ClientCertificate);
            };
            Ok((stream, certificate))
        }
    }
}

/// Closes a connection in an orderly way. If the socket still has unread bytes, the kernel resets the connection at the
/// close, and the client can lose the last bytes that edgeshim has sent. So after the shutdown, the function reads and
/// discards bytes until the client closes the connection. The function returns after [`clock::TICK`] at the latest.
async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let closing = async {
        stream.shutdown().await?;
        let mut rest = [0; 512];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(clock::TICK, closing).await;
}

fn result_of(error: &io::Error) -> Handshake {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => Handshake::NoCommon,
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => Handshake::ClientCertificate,
        // The client has ended the connection, with or without an alert.
        Some(Error::AlertReceived(_)) | None => Handshake::Gone,
        Some(_) => Handshake::NotTls,
    }
}
