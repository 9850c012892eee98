//! Makes calls of HTTP APIs: one request per connection, with a time limit and a limit on the size of the response.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::base_url::BaseUrl;
use crate::wire::names::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};

/// The largest response body, in bytes. The API of PowerDNS returns complete zones.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
/// After this many bytes of the body of a probe's response, no further frame is read.
const MAX_PROBE_BYTES: usize = 64 * 1024;
/// The largest number of repeats of a call after responses with Retry-After.
const MAX_REPEATS: u32 = 3;
/// The longest sum of the waits before the repeats of a call.
const MAX_WAIT: Duration = Duration::from_mins(1);
/// How long the certificate authorities of the system are used after they were read.
const AUTHORITIES_AGE: Duration = Duration::from_mins(1);

/// The response to a call.
#[derive(Debug)]
pub(crate) struct Reply {
    pub status: u16,
    pub body: Bytes,
    /// How long to wait before the call is repeated. `None`: the call is not to be repeated.
    pub retry_after: Option<Duration>,
}

/// The repeats of a call after responses with Retry-After.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    count: u32,
    waited: Duration,
}

impl Repeats {
    /// Waits for the time in Retry-After, within `MAX_REPEATS` and `MAX_WAIT`. Returns false, without a wait, if the
    /// call is not to be repeated.
    pub(crate) async fn wait(&mut self, reply: &Reply) -> bool {
        let Some(wait) = reply.retry_after else { return false };
        if self.count >= MAX_REPEATS || self.waited.saturating_add(wait) > MAX_WAIT {
            return false;
        }
        self.count += 1;
        self.waited += wait;
        sleep(wait).await;
        true
    }
}

/// Writes a line to standard error, and ignores a failed write. If the reader of standard error has closed the pipe,
/// `eprintln!` would panic in the middle of a change.
pub(crate) fn report(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Makes the calls of HTTP APIs.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Whether each call is reported on standard error.
    pub is_verbose: bool,
}

impl Caller {
    /// Makes one call. If the response is 429 or 503 with Retry-After, waits for the time in this field and repeats the
    /// call, within `MAX_REPEATS` and `MAX_WAIT`. The time limit applies to each attempt.
    ///
    /// # Errors
    /// Returns a message if the call is invalid, or if no complete response of at most `MAX_BODY_BYTES` arrives within
    /// the time limit.
    pub(crate) async fn call(
        &self,
        url: &BaseUrl,
        (method, path): (Method, &str),
        fields: &HeaderMap,
        body: &[u8],
        limit: Duration,
    ) -> Result<Reply, String> {
        let mut repeats = Repeats::default();
        loop {
            let reply = self.call_once(url, (method.clone(), path), fields, body, limit).await?;
            if !repeats.wait(&reply).await {
                return Ok(reply);
            }
        }
    }

    /// Makes one call and ignores Retry-After. Calls to shims and Prometheus use this function: a late answer from them
    /// is of no use, and other work must not wait for this answer. A write that must not be repeated before a new read
    /// uses this function too.
    ///
    /// # Errors
    /// Returns a message if the call is invalid, or if no complete response of at most `MAX_BODY_BYTES` arrives within
    /// the time limit.
    pub(crate) async fn call_once(
        &self,
        url: &BaseUrl,
        (method, path): (Method, &str),
        fields: &HeaderMap,
        body: &[u8],
        limit: Duration,
    ) -> Result<Reply, String> {
        let shown = format!("{method} {url}{path}");
        let started = Instant::now();
        let request = request(url, &method, path, fields, body)?;
        let result = match timeout(limit, exchange(url, request, Reading::Complete)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no complete response within {} ms", limit.as_millis())),
        };
        if self.is_verbose {
            let outcome = match &result {
                Ok(reply) => {
                    let wait = reply.retry_after.map(|wait| format!(", Retry-After {} s", wait.as_secs()));
                    format!("{}, {} bytes{}", reply.status, reply.body.len(), wait.unwrap_or_default())
                }
                Err(error) => error.clone(),
            };
            report(&format!("{shown}: {outcome}, {} ms", started.elapsed().as_millis()));
        }
        result.map_err(|error| format!("{shown}: {error}"))
    }
}

/// How much of a response body is read.
#[derive(Clone, Copy)]
enum Reading {
    /// The whole body. A body that is cut or too long is an error.
    Complete,
    /// The frames of the body until they have [`MAX_PROBE_BYTES`].
    Beginning,
}

/// Makes one GET. Returns the status of the response.
///
/// # Errors
/// Returns a message if the request is invalid, or if the response does not arrive within the time limit. Of a long
/// body, only the first [`MAX_PROBE_BYTES`] must arrive.
pub(super) async fn probe(url: &BaseUrl, target: &str, limit: Duration) -> Result<u16, String> {
    let request = request(url, &Method::GET, target, &HeaderMap::new(), b"")?;
    match timeout(limit, exchange(url, request, Reading::Beginning)).await {
        Ok(result) => result.map(|reply| reply.status),
        Err(_) => Err(format!("no complete response within {} ms", limit.as_millis())),
    }
}

fn request(
    url: &BaseUrl,
    method: &Method,
    path: &str,
    fields: &HeaderMap,
    body: &[u8],
) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(body)));
    *request.method_mut() = method.clone();
    *request.uri_mut() = format!("{}{path}", url.path).parse().map_err(|_| format!("{path:?} is no path of a URL"))?;
    let host = HeaderValue::from_str(&url.host_field()).map_err(|_| format!("{url} has no valid host"))?;
    let headers = request.headers_mut();
    headers.extend(fields.clone());
    headers.insert(HOST, host);
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("edgeshim/", env!("CARGO_PKG_VERSION"))));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if !body.is_empty() && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Ok(request)
}

async fn exchange(url: &BaseUrl, request: Request<Full<Bytes>>, reading: Reading) -> Result<Reply, String> {
    let socket = TcpStream::connect((url.host.as_str(), url.port)).await;
    let socket = socket.map_err(|error| format!("no connection ({error})"))?;
    if url.tls {
        let name = ServerName::try_from(url.host.clone())
            .map_err(|_| "the host is not a name that a certificate can have".to_owned())?;
        let stream = TlsConnector::from(tls_config()?).connect(name, socket).await;
        send(stream.map_err(|error| format!("TLS failed ({error})"))?, request, reading).await
    } else {
        send(socket, request, reading).await
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    reading: Reading,
) -> Result<Reply, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| format!("no valid response ({error})"))?;
        let (head, mut body) = response.into_parts();
        let status = head.status.as_u16();
        let reply = |body| Reply { status, body, retry_after: retry_after(status, &head.headers) };
        if matches!(reading, Reading::Beginning) {
            let mut length = 0;
            while length < MAX_PROBE_BYTES
                && let Some(frame) = body.frame().await
            {
                let frame = frame.map_err(|error| format!("the response is cut ({error})"))?;
                length = length.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            }
            return Ok(reply(Bytes::new()));
        }
        let body = Limited::new(body, MAX_BODY_BYTES)
            .collect()
            .await
            .map_err(|error| format!("the response is cut or longer than {MAX_BODY_BYTES} bytes ({error})"))?;
        Ok(reply(body.to_bytes()))
    };
    let result = exchange.await;
    connection.abort();
    result
}

/// Returns the settings of TLS. The certificate authorities of the system are kept for [`AUTHORITIES_AGE`], because
/// `watch` makes many calls, and each reading of the authorities takes milliseconds.
fn tls_config() -> Result<Arc<ClientConfig>, String> {
    static KEPT: Mutex<Option<(Instant, Arc<ClientConfig>)>> = Mutex::new(None);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((read, config)) = &*kept
        && read.elapsed() < AUTHORITIES_AGE
    {
        return Ok(Arc::clone(config));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("this system has no certificate authorities; install the package ca-certificates, or name a PEM \
                    file in the environment variable SSL_CERT_FILE"
            .to_owned());
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A resumed session would skip the check of the certificate.
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    *kept = Some((Instant::now(), Arc::clone(&config)));
    Ok(config)
}

/// Returns how long to wait before the call is repeated. Returns `None` if the call is not to be repeated.
fn retry_after(status: u16, fields: &HeaderMap) -> Option<Duration> {
    if !matches!(status, 429 | 503) {
        return None;
    }
    let value = fields.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(std::time::SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_when_used_twice_within_a_minute_then_are_read_once_and_sessions_are_not_resumed() {
        let config = || tls_config().expect("this system has authorities");
        assert!(Arc::ptr_eq(&config(), &config()));
        assert!(format!("{:?}", config().resumption).contains("NoClientSessionStorage"), "{:?}", config().resumption);
    }

    #[test]
    fn retry_after_when_status_is_not_429_or_503_or_value_is_invalid_then_is_ignored() {
        let fields = |value: &'static str| HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
        assert_eq!(retry_after(429, &fields("2")), Some(Duration::from_secs(2)));
        assert_eq!(retry_after(503, &fields(" 0 ")), Some(Duration::ZERO));
        assert_eq!(retry_after(429, &fields("Sun, 06 Nov 1994 08:49:37 GMT")), Some(Duration::ZERO));
        for (status, value) in [(500, "2"), (200, "2"), (429, "soon"), (429, "-1"), (429, "")] {
            assert_eq!(retry_after(status, &fields(value)), None, "{status} {value}");
        }
        assert_eq!(retry_after(429, &HeaderMap::new()), None);
    }
}
