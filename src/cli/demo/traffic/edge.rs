//! One simulated CDN: looks in its cache, pulls from the shim over a few kept connections, and counts both sides.
//!
//! Requests for the same path are not joined into one pull: small caches do not do it either, and the shim has to
//! bear it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Tally;
use super::cache::{Cache, Dialect, Found, Stored, Terms};
use crate::cli::demo::site::Socket;
use crate::wire::names;

/// Connections that a CDN keeps for its next pulls.
const KEPT_CONNECTIONS: usize = 4;
/// Pulls of one CDN at once.
const PULLS_AT_ONCE: usize = 8;
/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer may take to begin, and again to end.
const PULL_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that one CDN's cache holds.
const CACHE_BYTES: usize = 32 * 1024 * 1024;
/// The largest body that is kept in memory; what is beyond is counted and let go.
const MAX_OBJECT_BYTES: usize = 8 * 1024 * 1024;

/// One request of one visitor.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    /// Path and query.
    pub(super) path: Arc<str>,
    /// The browser takes gzip.
    pub(super) gzip: bool,
    /// Accept.
    pub(super) accept: HeaderValue,
    /// Accept-Language.
    pub(super) language: HeaderValue,
    /// The visitor's address, as the CDN passes it on.
    pub(super) address: HeaderValue,
}

/// What the visitor was given.
#[derive(Debug)]
pub(super) struct Delivered {
    /// Its status; 502 where the CDN got no answer.
    pub(super) status: StatusCode,
    /// Its body.
    pub(super) body: Bytes,
    /// Whether the body is gzip.
    pub(super) gzip: bool,
}

/// One simulated CDN.
#[derive(Debug)]
pub(super) struct Cdn {
    shim: SocketAddr,
    dialect: Dialect,
    identity: HeaderValue,
    host: HeaderValue,
    via: HeaderValue,
    cache: Mutex<Cache>,
    idle: Mutex<Vec<Connection>>,
    turns: Semaphore,
}

impl Cdn {
    /// A CDN with an empty cache in front of the shim at this address.
    pub(super) fn new(
        shim: SocketAddr,
        name: &'static str,
        dialect: Dialect,
        via: &'static str,
        host: &'static str,
    ) -> Self {
        Self {
            shim,
            dialect,
            identity: HeaderValue::from_static(name),
            host: HeaderValue::from_static(host),
            via: HeaderValue::from_static(via),
            cache: Mutex::new(Cache::new(CACHE_BYTES)),
            idle: Mutex::new(Vec::new()),
            turns: Semaphore::new(PULLS_AT_ONCE),
        }
    }

    /// Serves one visitor, from the cache or by a pull, and counts it once.
    pub(super) async fn serve(&self, visit: &Visit, tally: &Tally) -> Delivered {
        let found = locked(&self.cache).find(&visit.path, visit.gzip, Instant::now());
        let (old, usable) = match found {
            Found::Fresh(stored) => return deliver(stored, &tally.hits, tally),
            Found::Stale { stored, usable } => (Some(stored), usable),
            Found::Nothing => (None, false),
        };
        let pulled = self.pull(visit, old.as_ref(), tally).await;
        match (pulled, old) {
            (Some(pulled), Some(old)) if pulled.status == StatusCode::NOT_MODIFIED => {
                let renewed = self.renew(visit, old, &pulled.headers);
                deliver(renewed, &tally.revalidated, tally)
            }
            (Some(pulled), _) if pulled.status.as_u16() < 500 && pulled.status != StatusCode::NOT_MODIFIED => {
                let stored = pulled.stored(self.dialect);
                let mut cache = locked(&self.cache);
                match &stored {
                    Ok(stored) => cache.keep(&visit.path, visit.gzip, stored.clone(), Instant::now()),
                    Err(_) => cache.forget(&visit.path, visit.gzip),
                }
                drop(cache);
                let delivered = stored.map_or_else(|delivered| delivered, Delivered::from);
                delivered.count(&tally.misses, tally)
            }
            // 5xx, a 304 that nobody asked for, or no answer: an old copy where one may be used, else what came.
            (_, Some(old)) if usable => deliver(old, &tally.errors, tally),
            (Some(pulled), _) => pulled.delivered().count(&tally.errors, tally),
            (None, _) => {
                let nothing = Delivered { status: StatusCode::BAD_GATEWAY, body: Bytes::new(), gzip: false };
                nothing.count(&tally.errors, tally)
            }
        }
    }

    /// A 304 renews the old answer under the terms that it brings, or drops it where they forbid keeping it.
    fn renew(&self, visit: &Visit, old: Stored, fields: &HeaderMap) -> Stored {
        let mut cache = locked(&self.cache);
        let terms = if Terms::spoken(fields) {
            // What the 304 leaves out of the validators is the old answer's still.
            let mut fields = fields.clone();
            if let (false, Some(etag)) = (fields.contains_key(names::ETAG), &old.etag) {
                fields.insert(names::ETAG, etag.clone());
            }
            Terms::read(self.dialect, old.status, &fields, old.gzip)
        } else {
            Some(old.terms)
        };
        let Some(terms) = terms else {
            cache.forget(&visit.path, visit.gzip);
            return old;
        };
        let renewed =
            Stored { terms: Terms { by_encoding: old.terms.by_encoding || terms.by_encoding, ..terms }, ..old };
        cache.keep(&visit.path, visit.gzip, renewed.clone(), Instant::now());
        renewed
    }

    /// One pull, counted as such if any of it was sent; `None` where no whole answer came.
    async fn pull(&self, visit: &Visit, old: Option<&Stored>, tally: &Tally) -> Option<Pulled> {
        let _turn = self.turns.acquire().await.ok()?;
        let mut request = self.request(visit, old)?;
        // Again only where a kept connection turns out to be closed before anything of the request was sent.
        for _ in 0..=KEPT_CONNECTIONS {
            let mut connection = self.connection().await?;
            match timeout(PULL_TIMEOUT, connection.sender.try_send_request(request)).await {
                Ok(Ok(response)) => {
                    tally.pulls.fetch_add(1, Relaxed);
                    let pulled = timeout(PULL_TIMEOUT, Pulled::read(response, tally)).await.ok().flatten()?;
                    let mut idle = locked(&self.idle);
                    if idle.len() < KEPT_CONNECTIONS {
                        idle.push(connection);
                    }
                    return Some(pulled);
                }
                Ok(Err(mut failed)) => {
                    let Some(unsent) = failed.take_message() else {
                        tally.pulls.fetch_add(1, Relaxed);
                        return None;
                    };
                    request = unsent;
                }
                Err(_) => {
                    tally.pulls.fetch_add(1, Relaxed);
                    return None;
                }
            }
        }
        None
    }

    fn request(&self, visit: &Visit, old: Option<&Stored>) -> Option<Request<Empty<Bytes>>> {
        let mut request = Request::new(Empty::new());
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
            // Taken in its own statement: the lock must be gone before anything is awaited.
            let kept = locked(&self.idle).pop();
            let Some(mut connection) = kept else { break };
            if let Ok(Ok(())) = timeout(CONNECT_TIMEOUT, connection.sender.ready()).await {
                return Some(connection);
            }
        }
        Connection::open(self.shim).await
    }
}

/// A connection to the shim and the task that drives it.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: JoinHandle<()>,
}

impl Connection {
    async fn open(shim: SocketAddr) -> Option<Self> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(shim)).await.ok()?.ok()?;
        let (sender, connection) = http1::handshake(Socket::new(stream)).await.ok()?;
        let driver = tokio::spawn(async move {
            // How it ended is seen by whoever used it.
            let _ = connection.await;
        });
        Some(Self { sender, driver })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A whole answer as pulled.
#[derive(Debug)]
struct Pulled {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    /// `false`: too large to be kept.
    kept: bool,
}

impl Pulled {
    async fn read(response: Response<Incoming>, tally: &Tally) -> Option<Self> {
        let (head, mut incoming) = response.into_parts();
        let mut body = BytesMut::new();
        let mut kept = true;
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame.ok()?.into_data() else { continue };
            tally.bytes_pulled.fetch_add(count(data.len()), Relaxed);
            kept = kept && body.len().saturating_add(data.len()) <= MAX_OBJECT_BYTES;
            if kept {
                body.extend_from_slice(&data);
            }
        }
        Some(Self { status: head.status, headers: head.headers, body: body.freeze(), kept })
    }

    fn gzip(&self) -> bool {
        self.headers.get(names::CONTENT_ENCODING).is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"gzip"))
    }

    fn stored(self, dialect: Dialect) -> Result<Stored, Delivered> {
        let gzip = self.gzip();
        let foreign = !gzip && self.headers.contains_key(names::CONTENT_ENCODING);
        let terms = Terms::read(dialect, self.status, &self.headers, gzip).filter(|_| self.kept && !foreign);
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

impl Delivered {
    /// The one place where a visitor's request is counted.
    fn count(self, result: &AtomicU64, tally: &Tally) -> Self {
        tally.edge_requests.fetch_add(1, Relaxed);
        result.fetch_add(1, Relaxed);
        tally.bytes_edge.fetch_add(count(self.body.len()), Relaxed);
        self
    }
}

fn deliver(stored: Stored, result: &AtomicU64, tally: &Tally) -> Delivered {
    Delivered::from(stored).count(result, tally)
}

/// A GET by a browser that goes past every CDN, as a beacon does; `None` where no answer came.
pub(super) async fn direct(shim: SocketAddr, host: &'static str, path: &str) -> Option<StatusCode> {
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path.parse().ok()?;
    request.headers_mut().insert(names::HOST, HeaderValue::from_static(host));
    request.headers_mut().insert(names::ACCEPT, HeaderValue::from_static("image/*,*/*;q=0.5"));
    request.headers_mut().insert(names::USER_AGENT, HeaderValue::from_static("Mozilla/5.0 (a visitor of the demo)"));
    let mut connection = Connection::open(shim).await?;
    let answer = timeout(PULL_TIMEOUT, connection.sender.send_request(request)).await.ok()?.ok()?;
    Some(answer.status())
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Nothing that holds these locks can panic half-way, so that what is behind a poisoned one is sound.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers requests without bodies by these texts in turn, each on the connection it came by; then closes.
    async fn scripted(listener: TcpListener, answers: Vec<String>) -> (usize, Vec<String>) {
        let (mut connections, mut requests) = (0, Vec::new());
        let mut answers = answers.into_iter();
        while answers.len() > 0 {
            let (mut stream, _) = listener.accept().await.expect("accept");
            connections += 1;
            let mut held = Vec::new();
            while let Ok(1..) = stream.read_buf(&mut held).await {
                if held.ends_with(b"\r\n\r\n") {
                    requests.push(String::from_utf8(std::mem::take(&mut held)).expect("text"));
                    let answer = answers.next().expect("answer");
                    stream.write_all(answer.as_bytes()).await.expect("write");
                    if answer.contains("Connection: close") || answers.len() == 0 {
                        break;
                    }
                }
            }
        }
        (connections, requests)
    }

    fn answer(status: &str, fields: &str, body: &str) -> String {
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
        [&tally.edge_requests, &tally.hits, &tally.misses, &tally.revalidated, &tally.errors, &tally.pulls]
            .map(|counter| counter.load(Relaxed))
    }

    #[tokio::test]
    async fn cdn_when_the_shim_fails_hands_out_the_old_copy_as_long_as_it_was_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let shim = listener.local_addr().expect("address");
        let server = tokio::spawn(scripted(
            listener,
            vec![
                answer("200 OK", "ETag: \"1\"\r\nCache-Control: max-age=0, stale-if-error=60\r\n", "old"),
                answer("503 Service Unavailable", "Cache-Control: no-store\r\n", "sorry"),
                answer("304 Not Modified", "ETag: \"1\"\r\nCache-Control: max-age=60\r\n", "")
                    .replace("Content-Length: 0\r\n", ""),
            ],
        ));
        let (cdn, tally) = (Cdn::new(shim, "akamai", Dialect::Akamai, "1.1 demo", "demo.test"), Tally::default());
        for _ in 0..4 {
            let delivered = cdn.serve(&visit(), &tally).await;
            assert_eq!((delivered.status, delivered.body.as_ref()), (StatusCode::OK, b"old".as_slice()));
        }
        assert_eq!(counts(&tally), [4, 1, 1, 1, 1, 3]);
        assert_eq!((tally.bytes_edge.load(Relaxed), tally.bytes_pulled.load(Relaxed)), (12, 8));
        let (connections, requests) = server.await.expect("server");
        assert_eq!(connections, 1);
        assert!(requests[0].starts_with("GET /a?b=c HTTP/1.1\r\n"));
        for line in ["host: demo.test", "x-cdn-provider: akamai", "via: 1.1 demo", "accept-encoding: gzip"] {
            assert!(requests.iter().all(|request| request.contains(line)), "{line}");
        }
        let asked: Vec<_> = requests.iter().map(|request| request.contains("if-none-match: \"1\"")).collect();
        assert_eq!(asked, [false, true, true]);
    }

    #[tokio::test]
    async fn cdn_when_an_answer_breaks_off_counts_an_error_and_keeps_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let shim = listener.local_addr().expect("address");
        let cut = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nConnection: close\r\nContent-Length: 9\r\n\r\nhalf"
            .to_owned();
        let server =
            tokio::spawn(scripted(listener, vec![cut, answer("200 OK", "Cache-Control: max-age=60\r\n", "whole")]));
        let (cdn, tally) = (Cdn::new(shim, "fastly", Dialect::Fastly, "1.1 demo", "demo.test"), Tally::default());
        assert_eq!(cdn.serve(&visit(), &tally).await.status, StatusCode::BAD_GATEWAY);
        assert_eq!(cdn.serve(&visit(), &tally).await.body.as_ref(), b"whole");
        assert_eq!(cdn.serve(&visit(), &tally).await.body.as_ref(), b"whole");
        assert_eq!(counts(&tally), [3, 1, 1, 0, 1, 2]);
        assert_eq!(server.await.expect("server").0, 2);
    }
}
