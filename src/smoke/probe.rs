//! A client for one server. It sends one request after the other, over one connection if the server keeps the
//! connection open. Time and memory are bounded, whatever the server sends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::checks::reached::TlsFacts;
use super::place::Server;
use super::recorded::{Ending, MOST_BODY_BYTES, Outcome, Recorded, Trouble};
use super::trust::Trust;
use crate::clock::unix_time;
use crate::wire::names::{ACCEPT, HOST, USER_AGENT};

/// The limits of a response head.
const MOST_HEAD_BYTES: usize = 128 * 1024;
const MOST_HEADERS: usize = 256;

/// A request without a body: method, path with query, and header fields.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub method: Method,
    pub target: String,
    pub fields: HeaderMap,
}

impl Question {
    /// Returns a GET.
    pub(crate) fn get(target: &str) -> Self {
        Self { method: Method::GET, target: target.to_owned(), fields: HeaderMap::new() }
    }

    /// Adds a field. A value that is not valid in a header field is left out.
    pub(crate) fn with(mut self, name: &HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::try_from(value) {
            self.fields.insert(name, value);
        }
        self
    }
}

/// The server, and how to connect to it.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub server: Server,
    /// The settings of TLS and the name that the certificate must have. `None`: no TLS.
    pub tls: Option<(Trust, String)>,
    /// The value of Host.
    pub authority: String,
    /// The time limit of one request with its response, the connection included.
    pub timeout: Duration,
}

/// A client for one server.
pub(crate) struct Probe {
    route: Route,
    connection: Option<Connection>,
    /// The local address of the most recent connection.
    pub local: Option<IpAddr>,
    /// What is known about TLS of the most recent connection.
    pub tls: Option<TlsFacts>,
    /// What the current request waits for.
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Connection,
    Handshake,
    Head,
}

struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: JoinHandle<()>,
    is_used: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Without this call, the task would run as long as the server sends.
        self.driver.abort();
    }
}

impl Probe {
    pub(crate) fn new(route: Route) -> Self {
        Self { route, connection: None, local: None, tls: None, step: Step::Connection }
    }

    /// Sends a request and reads the response.
    pub(crate) async fn ask(&mut self, question: &Question) -> Outcome {
        let limit = self.route.timeout;
        let deadline = Instant::now() + limit;
        let (mut connection, response, ttfb) = match timeout(limit, self.head(question)).await {
            Ok(head) => head?,
            Err(_) => {
                return Err(match self.step {
                    Step::Connection => Trouble::Late("the connection"),
                    Step::Handshake => Trouble::Tls("it took longer than --timeout".to_owned()),
                    Step::Head => Trouble::Late("the response head"),
                });
            }
        };
        let (head, body) = response.into_parts();
        let left = deadline.saturating_duration_since(Instant::now());
        let mut read = BytesMut::new();
        let ending = timeout(left, read_body(body, &mut read)).await.unwrap_or(Ending::Late);
        if ending == Ending::Whole && !connection.sender.is_closed() {
            connection.is_used = true;
            self.connection = Some(connection);
        }
        Ok(Recorded { status: head.status, headers: head.headers, body: read.freeze(), ending, ttfb })
    }

    /// Sends a request and reads the head of the response. If a kept connection was closed, a new connection is used.
    async fn head(&mut self, question: &Question) -> Result<(Connection, Response<Incoming>, Duration), Trouble> {
        loop {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            if let Err(error) = connection.sender.ready().await {
                if connection.is_used {
                    continue;
                }
                return Err(trouble(&error));
            }
            self.step = Step::Head;
            let sent = Instant::now();
            match connection.sender.send_request(self.request(question)?).await {
                Ok(response) => return Ok((connection, response, sent.elapsed())),
                Err(error) if connection.is_used && (error.is_incomplete_message() || error.is_canceled()) => {}
                Err(error) => return Err(trouble(&error)),
            }
        }
    }

    fn request(&self, question: &Question) -> Result<Request<Empty<Bytes>>, Trouble> {
        const AGENT: &str = concat!("edgeshim-smoke/", env!("CARGO_PKG_VERSION"));
        let invalid = |error: &dyn std::fmt::Display| Trouble::Unsendable(error.to_string());
        let mut request = Request::new(Empty::new());
        *request.method_mut() = question.method.clone();
        *request.uri_mut() = question.target.parse().map_err(|error: http::uri::InvalidUri| invalid(&error))?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::try_from(&self.route.authority).map_err(|error| invalid(&error))?);
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.extend(question.fields.clone());
        Ok(request)
    }

    async fn connect(&mut self) -> Result<Connection, Trouble> {
        self.step = Step::Connection;
        let Server { port, .. } = self.route.server;
        let addresses = lookup_host((self.route.server.bare_host(), port)).await;
        let addresses: Vec<_> = addresses.map_err(|error| Trouble::Name(error.to_string()))?.collect();
        let stream = TcpStream::connect(&addresses[..]).await.map_err(|error| Trouble::Connect(error.to_string()))?;
        // With Nagle's algorithm, the kernel could delay a request.
        let _ = stream.set_nodelay(true);
        self.local = stream.local_addr().ok().map(|address| address.ip());
        let Some((trust, name)) = &self.route.tls else { return handshake(stream).await };
        self.step = Step::Handshake;
        let name = ServerName::try_from(name.trim_end_matches('.').to_owned())
            .map_err(|_| Trouble::Tls(format!("{name} is not a name that a certificate can have")))?;
        let stream = TlsConnector::from(Arc::clone(&trust.config)).connect(name, stream).await;
        let stream = stream.map_err(|error| tls_trouble(&error))?;
        let session = stream.get_ref().1;
        let version = session.protocol_version().map_or_else(|| "TLS".to_owned(), |version| format!("{version:?}"));
        let expires_in = session.peer_certificates().and_then(|chain| time_left(chain.first()?));
        self.tls = Some(TlsFacts { version, expires_in });
        handshake(stream).await
    }
}

async fn handshake<S>(stream: S) -> Result<Connection, Trouble>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let builder = http1::Builder::new()
        .max_buf_size(2 * MOST_HEAD_BYTES)
        .max_header_size(MOST_HEAD_BYTES)
        .max_headers(MOST_HEADERS)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = builder.map_err(|error| trouble(&error))?;
    // `sender` returns the same errors.
    let driver = tokio::spawn(async move { _ = connection.await });
    Ok(Connection { sender, driver, is_used: false })
}

/// Reads a body. Without a Content-Length, a large body is read to its end, because a body without an end must be
/// noticed.
async fn read_body(mut body: Incoming, read: &mut BytesMut) -> Ending {
    let has_length = body.size_hint().exact().is_some();
    let mut is_large = false;
    while let Some(frame) = body.frame().await {
        match frame {
            Err(error) => return Ending::Cut(chain(&error)),
            Ok(frame) => {
                let Ok(data) = frame.into_data() else { continue };
                is_large |= read.len() + data.len() > MOST_BODY_BYTES;
                if !is_large {
                    read.extend_from_slice(&data);
                }
            }
        }
        if is_large && has_length {
            return Ending::TooLarge;
        }
    }
    if is_large { Ending::TooLarge } else { Ending::Whole }
}

/// Returns an error with its causes.
fn chain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// Turns an error of the TLS handshake into a [`Trouble`].
fn tls_trouble(error: &std::io::Error) -> Trouble {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        // The first bytes are no TLS record.
        Some(rustls::Error::InvalidMessage(_)) => Trouble::NoTls,
        _ => Trouble::Tls(error.to_string()),
    }
}

/// Turns an error of hyper into a [`Trouble`].
fn trouble(error: &hyper::Error) -> Trouble {
    let text = chain(error);
    if error.is_parse_too_large() {
        Trouble::HeadTooLarge
    } else if error.is_parse() {
        Trouble::NotHttp(text)
    } else {
        Trouble::Closed(text)
    }
}

/// Returns the time until a certificate expires.
fn time_left(certificate: &rustls::pki_types::CertificateDer<'_>) -> Option<Duration> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let end = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some(Duration::from_secs(end).saturating_sub(unix_time()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_when_target_or_host_is_invalid_then_message_says_that_it_cannot_be_sent() {
        for (target, authority, is_valid) in [("/a", "a.test", true), ("/a b", "a.test", false), ("/a", "a\n", false)] {
            let server = Server::parse("127.0.0.1:80").unwrap();
            let route = Route { server, tls: None, authority: authority.to_owned(), timeout: Duration::ZERO };
            match Probe::new(route).request(&Question::get(target)) {
                Ok(_) => assert!(is_valid, "{target} {authority:?}"),
                Err(trouble) => {
                    let text = trouble.seen();
                    assert!(!is_valid && text.starts_with("the request cannot be sent: "), "{target}: {text}");
                }
            }
        }
    }
}
