//! One simulated CDN. The CDN serves visitors from its cache, pulls from edgeshim over a few reused connections, and
//! counts the requests and bytes on both sides.
//!
//! If two concurrent requests have the same path, and the cache has no fresh response, they cause two pulls.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::cache::{Cache, Dialect, Found, Stored, Terms};
use super::edge_log::{self, Entry, Outcome};
use super::tally::Tally;
use crate::wire::names;

/// The largest number of idle connections of one CDN.
const MAX_IDLE: usize = 4;
/// The largest number of concurrent pulls of one CDN.
const MAX_PULLS: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The time limit for the head of a response. A second limit of the same length applies to the body.
const PULL_TIMEOUT: Duration = Duration::from_secs(5);
/// The size of the largest body that is stored, in bytes. A larger body is counted, but only its first part is read
/// into memory.
const MAX_OBJECT_BYTES: usize = 8 * 1024 * 1024;

/// The request of one visitor.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    /// The path with its query.
    pub(super) path: Arc<str>,
    /// Whether the browser accepts gzip.
    pub(super) gzip: bool,
    pub(super) accept: HeaderValue,
    pub(super) language: HeaderValue,
    /// The visitor's address, which the CDN sends in X-Forwarded-For.
    pub(super) address: HeaderValue,
}

/// The response that a visitor gets from the CDN.
#[derive(Debug)]
pub(super) struct Delivered {
    /// The status. The status is 502 if the CDN got no complete response and has no usable stale response.
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    /// Whether the body is gzip.
    pub(super) gzip: bool,
}

#[derive(Debug)]
pub(super) struct Cdn {
    shim: SocketAddr,
    dialect: Dialect,
    identity: HeaderValue,
    host: HeaderValue,
    via: HeaderValue,
    cache: Mutex<Cache>,
    idle: Mutex<Vec<Connection>>,
    pull_permits: Semaphore,
    /// Whether the CDN writes a log. `false` if no log is pushed, because the lines would only fill the memory.
    keeps_log: bool,
}

impl Cdn {
    pub(super) fn new(
        shim: SocketAddr,
        name: &'static str,
        dialect: Dialect,
        via: &'static str,
        host: &'static str,
        keeps_log: bool,
    ) -> Self {
        Self {
            shim,
            dialect,
            identity: HeaderValue::from_static(name),
            host: HeaderValue::from_static(host),
            via: HeaderValue::from_static(via),
            cache: Mutex::default(),
            idle: Mutex::default(),
            pull_permits: Semaphore::new(MAX_PULLS),
            keeps_log,
        }
    }

    /// Serves one visitor from the cache or by a pull, counts the request and writes its log line.
    pub(super) async fn serve(&self, visit: &Visit, tally: &Tally) -> Delivered {
        let (delivered, outcome) = self.respond(visit, tally).await;
        let (status, bytes) = (delivered.status, delivered.body.len());
        let entry = Entry { path: &visit.path, status, bytes, outcome };
        tally.add_logged(|counts, log| {
            counts.edge_requests += 1;
            counts.bytes_edge += bytes as u64;
            *match outcome {
                Outcome::Hit => &mut counts.hits,
                Outcome::Miss => &mut counts.misses,
                Outcome::Revalidated => &mut counts.revalidated,
                Outcome::Error => &mut counts.errors,
            } += 1;
            if self.keeps_log {
                self.dialect.log(log, edge_log::now(), &entry);
            }
        });
        delivered
    }

    async fn respond(&self, visit: &Visit, tally: &Tally) -> (Delivered, Outcome) {
        let found = locked(&self.cache).find(&visit.path, visit.gzip, Instant::now());
        let (old, usable) = match found {
            Found::Fresh(stored) => return (stored.into(), Outcome::Hit),
            Found::Stale { stored, usable } => (Some(stored), usable),
            Found::Nothing => (None, false),
        };
        let pulled = self.pull(visit, old.as_ref(), tally).await;
        match (pulled, old) {
            (Some(pulled), Some(old)) if pulled.status == StatusCode::NOT_MODIFIED => {
                (self.renew(visit, old, &pulled.headers).into(), Outcome::Revalidated)
            }
            (Some(pulled), _) if pulled.status.as_u16() < 500 && pulled.status != StatusCode::NOT_MODIFIED => {
                let stored = pulled.stored(self.dialect);
                let mut cache = locked(&self.cache);
                match &stored {
                    Ok(stored) => cache.store(&visit.path, visit.gzip, stored.clone(), Instant::now()),
                    Err(_) => cache.remove(&visit.path, visit.gzip),
                }
                drop(cache);
                (stored.map_or_else(|delivered| delivered, Delivered::from), Outcome::Miss)
            }
            // The pull got a 5xx, an unexpected 304 or no complete response. If the stale response is usable, the CDN
            // serves the stale response. Otherwise the CDN serves the response to the pull, or a 502.
            (_, Some(old)) if usable => (old.into(), Outcome::Error),
            (Some(pulled), _) => (pulled.delivered(), Outcome::Error),
            (None, _) => {
                (Delivered { status: StatusCode::BAD_GATEWAY, body: Bytes::new(), gzip: false }, Outcome::Error)
            }
        }
    }

    /// Renews the stored response with the terms of a 304. If these terms forbid storing, removes the response from the
    /// cache.
    fn renew(&self, visit: &Visit, old: Stored, fields: &HeaderMap) -> Stored {
        let mut cache = locked(&self.cache);
        let terms = if Terms::are_in(fields) {
            // If the 304 has no entity tag, the entity tag of the stored response is still valid.
            let mut fields = fields.clone();
            if let (false, Some(etag)) = (fields.contains_key(names::ETAG), &old.etag) {
                fields.insert(names::ETAG, etag.clone());
            }
            Terms::read(self.dialect, old.status, &fields, old.gzip)
        } else {
            Some(old.terms)
        };
        let Some(terms) = terms else {
            cache.remove(&visit.path, visit.gzip);
            return old;
        };
        let renewed =
            Stored { terms: Terms { by_encoding: old.terms.by_encoding || terms.by_encoding, ..terms }, ..old };
        cache.store(&visit.path, visit.gzip, renewed.clone(), Instant::now());
        renewed
    }

    /// Makes one pull. Returns `None` if no complete response arrived.
    async fn pull(&self, visit: &Visit, old: Option<&Stored>, tally: &Tally) -> Option<Pulled> {
        let _permit = self.pull_permits.acquire().await.ok()?;
        let request = self.request(visit, old)?;
        let mut connection = self.connection().await?;
        tally.add(|counts| counts.pulls += 1);
        let response = timeout(PULL_TIMEOUT, connection.send(request)).await.ok()??;
        let pulled = timeout(PULL_TIMEOUT, Pulled::read(response, tally)).await.ok().flatten()?;
        let mut idle = locked(&self.idle);
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
        Some(pulled)
    }

    fn request(&self, visit: &Visit, old: Option<&Stored>) -> Option<Request<Full<Bytes>>> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = visit.path.parse().ok()?;
        let headers = request.headers_mut();
        headers.insert(names::HOST, self.host.clone());
        headers.insert(&names::X_CDN_PROVIDER, self.identity.clone());
        headers.insert(names::VIA, self.via.clone());
        headers.insert(&names::X_FORWARDED_FOR, visit.address.clone());
        headers.insert(names::USER_AGENT, HeaderValue::from_static("Mozilla/5.0 (a visitor of the demo)"));
        headers.insert(names::ACCEPT, visit.accept.clone());
        headers.insert(names::ACCEPT_LANGUAGE, visit.language.clone());
        if visit.gzip {
            headers.insert(names::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Some(etag) = old.and_then(|old| old.etag.clone()) {
            headers.insert(names::IF_NONE_MATCH, etag);
        }
        if let Some(date) = old.and_then(|old| old.last_modified.clone()) {
            headers.insert(names::IF_MODIFIED_SINCE, date);
        }
        Some(request)
    }

    async fn connection(&self) -> Option<Connection> {
        loop {
            // This is a separate statement, so that the lock is released before the await.
            let idle = locked(&self.idle).pop();
            let Some(mut connection) = idle else { break };
            if let Ok(Ok(())) = timeout(CONNECT_TIMEOUT, connection.sender.ready()).await {
                return Some(connection);
            }
        }
        Connection::open(self.shim).await
    }
}

/// A connection to edgeshim, and the task that drives the connection.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Connection {
    pub(super) async fn open(shim: SocketAddr) -> Option<Self> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(shim)).await.ok()?.ok()?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let driver = tokio::spawn(async move {
            // The error is ignored here, because the request on this connection fails too.
            let _ = connection.await;
        });
        Some(Self { sender, driver })
    }

    /// Sends a request. Returns `None` if no response arrived.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> Option<Response<Incoming>> {
        self.sender.send_request(request).await.ok()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The response to a pull.
#[derive(Debug)]
struct Pulled {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    /// Whether `body` is complete. A body that was too large to store is not complete.
    is_whole: bool,
}

impl Pulled {
    async fn read(response: Response<Incoming>, tally: &Tally) -> Option<Self> {
        let (head, mut incoming) = response.into_parts();
        let mut body = BytesMut::new();
        let mut is_whole = true;
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame.ok()?.into_data() else { continue };
            tally.add(|counts| counts.bytes_pulled += data.len() as u64);
            is_whole = is_whole && body.len().saturating_add(data.len()) <= MAX_OBJECT_BYTES;
            if is_whole {
                body.extend_from_slice(&data);
            }
        }
        Some(Self { status: head.status, headers: head.headers, body: body.freeze(), is_whole })
    }

    fn gzip(&self) -> bool {
        self.headers.get(names::CONTENT_ENCODING).is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"gzip"))
    }

    fn stored(self, dialect: Dialect) -> Result<Stored, Delivered> {
        let gzip = self.gzip();
        let foreign = !gzip && self.headers.contains_key(names::CONTENT_ENCODING);
        let terms = Terms::read(dialect, self.status, &self.headers, gzip).filter(|_| self.is_whole && !foreign);
        let Some(terms) = terms else {
            return Err(self.delivered());
        };
        let etag = self.headers.get(names::ETAG).cloned();
        let last_modified = self.headers.get(names::LAST_MODIFIED).cloned();
        Ok(Stored { status: self.status, body: self.body, gzip, etag, last_modified, terms })
    }

    fn delivered(self) -> Delivered {
        let gzip = self.gzip();
        Delivered { status: self.status, body: self.body, gzip }
    }
}

impl From<Stored> for Delivered {
    fn from(stored: Stored) -> Self {
        Self { status: stored.status, body: stored.body, gzip: stored.gzip }
    }
}

/// Requests a beacon directly from edgeshim, not through a CDN. Returns the status of the response.
pub(super) async fn fetch_beacon(shim: SocketAddr, host: &'static str, path: &str) -> Option<StatusCode> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = path.parse().ok()?;
    request.headers_mut().insert(names::HOST, HeaderValue::from_static(host));
    request.headers_mut().insert(names::ACCEPT, HeaderValue::from_static("image/*,*/*;q=0.5"));
    request.headers_mut().insert(names::USER_AGENT, HeaderValue::from_static("Mozilla/5.0 (a visitor of the demo)"));
    let mut connection = Connection::open(shim).await?;
    let response = timeout(PULL_TIMEOUT, connection.send(request)).await.ok()??;
    Some(response.status())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::tally::Counts;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Sends the responses in order, each on the connection on which a request arrived. Returns the number of
    /// connections and the requests.
    async fn scripted(listener: TcpListener, responses: Vec<String>) -> (usize, Vec<String>) {
        let (mut connections, mut requests) = (0, Vec::new());
        let mut responses = responses.into_iter();
        while responses.len() > 0 {
            let (mut stream, _) = listener.accept().await.expect("the connection is made");
            connections += 1;
            let mut read = Vec::new();
            while let Ok(1..) = stream.read_buf(&mut read).await {
                if read.ends_with(b"\r\n\r\n") {
                    requests.push(String::from_utf8(std::mem::take(&mut read)).expect("the request is UTF-8"));
                    let response = responses.next().expect("the script has a response for each request");
                    stream.write_all(response.as_bytes()).await.expect("the write succeeds");
                    if response.contains("Connection: close") || responses.len() == 0 {
                        break;
                    }
                }
            }
        }
        (connections, requests)
    }

    fn response(status: &str, fields: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
    }

    fn visit() -> Visit {
        Visit {
            path: Arc::from("/a?b=c"),
            gzip: true,
            accept: HeaderValue::from_static("*/*"),
            language: HeaderValue::from_static("en"),
            address: HeaderValue::from_static("198.51.100.7"),
        }
    }

    fn counts(tally: &Tally) -> [u64; 6] {
        let Counts { edge_requests, hits, misses, revalidated, errors, pulls, .. } = tally.counts();
        [edge_requests, hits, misses, revalidated, errors, pulls]
    }

    #[tokio::test]
    async fn cdn_when_edgeshim_sends_503_then_serves_the_stale_response_and_later_revalidates_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port is available");
        let shim = listener.local_addr().expect("the listener has an address");
        let server = tokio::spawn(scripted(
            listener,
            vec![
                response("200 OK", "ETag: \"1\"\r\nCache-Control: max-age=0, stale-if-error=60\r\n", "old"),
                response("503 Service Unavailable", "Cache-Control: no-store\r\n", "sorry"),
                response("304 Not Modified", "ETag: \"1\"\r\nCache-Control: max-age=60\r\n", "")
                    .replace("Content-Length: 0\r\n", ""),
            ],
        ));
        let (cdn, tally) =
            (Cdn::new(shim, "akamai", Dialect::Akamai, "1.1 demo", "demo.test", false), Tally::default());
        for _ in 0..4 {
            let delivered = cdn.serve(&visit(), &tally).await;
            assert_eq!((delivered.status, delivered.body.as_ref()), (StatusCode::OK, b"old".as_slice()));
        }
        assert_eq!(counts(&tally), [4, 1, 1, 1, 1, 3]);
        assert_eq!((tally.counts().bytes_edge, tally.counts().bytes_pulled), (12, 8));
        let (connections, requests) = server.await.expect("the scripted server has ended without a panic");
        assert_eq!(connections, 1);
        assert!(requests[0].starts_with("GET /a?b=c HTTP/1.1\r\n"));
        for line in ["host: demo.test", "x-cdn-provider: akamai", "via: 1.1 demo", "accept-encoding: gzip"] {
            assert!(requests.iter().all(|request| request.contains(line)), "{line}");
        }
        let conditional: Vec<_> = requests.iter().map(|request| request.contains("if-none-match: \"1\"")).collect();
        assert_eq!(conditional, [false, true, true]);
    }

    #[tokio::test]
    async fn cdn_when_response_is_truncated_then_counts_an_error_and_stores_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port is available");
        let shim = listener.local_addr().expect("the listener has an address");
        let cut = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nConnection: close\r\nContent-Length: 9\r\n\r\nhalf"
            .to_owned();
        let server =
            tokio::spawn(scripted(listener, vec![cut, response("200 OK", "Cache-Control: max-age=60\r\n", "whole")]));
        let (cdn, tally) =
            (Cdn::new(shim, "fastly", Dialect::Fastly, "1.1 demo", "demo.test", false), Tally::default());
        assert_eq!(cdn.serve(&visit(), &tally).await.status, StatusCode::BAD_GATEWAY);
        assert_eq!(cdn.serve(&visit(), &tally).await.body.as_ref(), b"whole");
        assert_eq!(cdn.serve(&visit(), &tally).await.body.as_ref(), b"whole");
        assert_eq!(counts(&tally), [3, 1, 1, 0, 1, 2]);
        assert_eq!(server.await.expect("the scripted server has ended without a panic").0, 2);
    }
}
