//! A client that speaks TLS.

use super::origin::Conn;
use super::tls_origin::{Authority, Identity};
use super::{PATIENCE, Raw};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, SupportedProtocolVersion};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// The settings of a [`TlsClient`].
pub struct ClientOptions<'a> {
    /// The authority that the client trusts.
    pub trusts: &'a Authority,
    /// The certificate that the client presents if the server asks for a certificate.
    pub identity: Option<&'a Identity>,
    /// The protocols that the client offers.
    pub protocols: &'a [&'a str],
    /// The versions of TLS that the client offers.
    pub versions: &'a [&'static SupportedProtocolVersion],
}

impl<'a> ClientOptions<'a> {
    /// Settings without a certificate, with HTTP/1.1 and both versions of TLS.
    pub fn new(trusts: &'a Authority) -> Self {
        Self { trusts, identity: None, protocols: &["http/1.1"], versions: rustls::ALL_VERSIONS }
    }

    /// Makes the client.
    pub fn build(&self) -> TlsClient {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .expect("versions")
            .with_root_certificates(self.trusts.roots());
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(vec![der(identity)], key).expect("an identity")
            }
        };
        config.alpn_protocols = self.protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsClient(Arc::new(config))
    }
}

/// A client that stores the tickets of its sessions.
#[derive(Clone)]
pub struct TlsClient(pub Arc<ClientConfig>);

impl TlsClient {
    /// Opens a connection. `name` is the host name that the client sends and checks. An IP address is not sent.
    pub fn connect(&self, addr: SocketAddr, name: &str) -> io::Result<Raw> {
        self.connect_after(b"", addr, name)
    }

    /// Opens a connection like [`TlsClient::connect`], and sends `first` before the handshake.
    pub fn connect_after(&self, first: &[u8], addr: SocketAddr, name: &str) -> io::Result<Raw> {
        self.over(TcpStream::connect_timeout(&addr, PATIENCE)?, first, name, PATIENCE)
    }

    /// Does a handshake on an open connection, like [`TlsClient::connect_after`]. The handshake fails if no byte
    /// arrives for `timeout`.
    pub fn over(&self, stream: TcpStream, first: &[u8], name: &str, timeout: Duration) -> io::Result<Raw> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let session = ClientConnection::new(Arc::clone(&self.0), name).expect("a session");
        Conn::tls(stream, session, first, timeout).map(Raw::over)
    }
}

/// Returns the certificate that the server has presented.
pub fn presented(raw: &mut Raw) -> CertificateDer<'static> {
    raw.session().peer_certificates().expect("a certificate")[0].clone().into_owned()
}

/// Returns whether the connection resumes an earlier session.
pub fn is_resumed(raw: &mut Raw) -> bool {
    raw.session().handshake_kind() == Some(HandshakeKind::Resumed)
}

/// Returns the certificate as DER.
pub fn der(identity: &Identity) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(identity.certificate.as_bytes()).expect("PEM")
}
