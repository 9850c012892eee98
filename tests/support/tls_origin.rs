//! An origin that speaks TLS, and an authority that issues certificates for it.

use super::temp_dir;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An authority that issues certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, both as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl Identity {
    /// Returns the certificate as DER.
    pub fn der(&self) -> Vec<u8> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("PEM").to_vec()
    }
}

/// The times between which a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    /// From yesterday to tomorrow.
    Now,
    /// Until nine days ago.
    Until9DaysAgo,
}

impl Authority {
    /// Makes a new authority.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    /// Returns the certificate of the authority as PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for the names.
    pub fn issue(&self, names: &[&str], valid: Valid) -> Identity {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("parameters");
        let unix = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a time after 1970").as_secs();
        let now = OffsetDateTime::from_unix_timestamp(unix.cast_signed()).expect("a date");
        let day = time::Duration::days(1);
        (params.not_before, params.not_after) = match valid {
            Valid::Now => (now - day, now + day),
            Valid::Until9DaysAgo => (now - day * 20, now - day * 9),
        };
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Returns a store that trusts this authority.
    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("an authority");
        Arc::new(roots)
    }
}

/// What the origin sends after the handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// A 200 on HTTP/1.1 or HTTP/2. The body has the version of HTTP and the target. After a request for `/close`, the
    /// origin closes the connection of HTTP/1.1.
    Version,
    /// A body that ends with the connection. The connection ends with `close_notify`.
    UntilClose,
    /// The body of `UntilClose`, but the connection ends without `close_notify`.
    Truncated,
    /// The bytes of the request, as they arrived over HTTP/1.1.
    Echo,
}

/// What the origin saw in a handshake that has succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The protocol that ALPN chose.
    pub protocol: String,
    /// The server name that edgeshim sent.
    pub name: Option<String>,
    /// Whether edgeshim resumed a session.
    pub resumed: bool,
    /// The client certificate that edgeshim presented, as DER.
    pub certificate: Option<Vec<u8>>,
}

/// An origin that speaks TLS.
pub struct TlsOrigin {
    /// The address.
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Handshake>>>,
}

/// The settings of a [`TlsOrigin`].
pub struct Options<'a> {
    /// The certificate of the origin.
    pub identity: &'a Identity,
    /// The authority of the client certificates that the origin requires.
    pub clients: Option<&'a Authority>,
    /// The protocols that the origin offers.
    pub protocols: &'a [&'a str],
    /// What the origin sends.
    pub reply: Reply,
    /// The origin closes this number of connections before the handshake, beginning with the first connection.
    pub closes: usize,
}

impl<'a> Options<'a> {
    /// Settings without client certificates and with both versions of HTTP.
    pub fn new(identity: &'a Identity) -> Self {
        Self { identity, clients: None, protocols: &["h2", "http/1.1"], reply: Reply::Version, closes: 0 }
    }
}

impl TlsOrigin {
    /// Starts an origin on a free port. Its thread ends with the process.
    pub fn start(options: &Options<'_>) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match options.clients {
            None => builder.with_no_client_auth(),
            Some(authority) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(authority.roots(), provider).build().expect("a verifier"),
            ),
        };
        let chain = vec![CertificateDer::from_pem_slice(options.identity.certificate.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(options.identity.key.as_bytes()).expect("PEM");
        let mut config = builder.with_single_cert(chain, key).expect("an identity");
        config.alpn_protocols = options.protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a listener");
        let addr = listener.local_addr().expect("an address");
        let seen = Arc::default();
        let (recorded, reply, closes) = (Arc::clone(&seen), options.reply, options.closes);
        std::thread::spawn(move || {
            super::h2::runtime().block_on(serve(listener, Arc::new(config), (reply, closes), recorded));
        });
        Self { addr, seen }
    }

    /// Returns the handshakes that have succeeded so far, the oldest first.
    pub fn handshakes(&self) -> Vec<Handshake> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    (reply, mut closes): (Reply, usize),
    seen: Arc<Mutex<Vec<Handshake>>>,
) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    while let Ok((stream, _)) = listener.accept().await {
        if closes > 0 {
            closes -= 1;
            continue;
        }
        let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let session = stream.get_ref().1;
            let protocol = String::from_utf8_lossy(session.alpn_protocol().unwrap_or_default()).into_owned();
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(Handshake {
                protocol: protocol.clone(),
                name: session.server_name().map(str::to_owned),
                resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
                certificate: session.peer_certificates().and_then(<[_]>::first).map(|first| first.to_vec()),
            });
            let answer = service_fn(|request: hyper::Request<Incoming>| async move {
                let target = request.uri().to_string();
                let body = format!("{:?} {target}", request.version());
                let mut response = hyper::Response::new(Full::new(Bytes::from(body)));
                if target == "/close" {
                    response.headers_mut().insert("connection", "close".parse().expect("a value"));
                }
                Ok::<_, hyper::Error>(response)
            });
            match reply {
                Reply::Version if protocol == "h2" => {
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
                }
                Reply::Version => {
                    let builder = hyper::server::conn::http1::Builder::new();
                    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
                }
                Reply::Echo => {
                    let mut bytes = Vec::new();
                    let is_chunked = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains("chunked\r\n");
                    while !bytes.ends_with(if is_chunked(&bytes) { b"\r\n0\r\n\r\n" } else { b"\r\n\r\n" }) {
                        let Ok(byte) = stream.read_u8().await else { return };
                        bytes.push(byte);
                    }
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
                    let _ = stream.write_all(&[head.as_bytes(), &bytes].concat()).await;
                    let _ = stream.shutdown().await;
                }
                Reply::UntilClose | Reply::Truncated => {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let body = "x".repeat(200_000);
                    let text = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n{body}");
                    let _ = stream.write_all(text.as_bytes()).await;
                    let _ = stream.flush().await;
                    if reply == Reply::UntilClose {
                        let _ = stream.shutdown().await;
                    }
                }
            }
        });
    }
}

/// Makes a folder with the file `ca.pem`, and with `client.pem` and `client.key` if there is a client certificate.
pub fn files(authority: &Authority, client: Option<&Identity>) -> super::TempDir {
    let dir = temp_dir();
    dir.write("ca.pem", authority.pem());
    if let Some(client) = client {
        dir.write("client.pem", &client.certificate);
        dir.write("client.key", &client.key);
    }
    dir
}
