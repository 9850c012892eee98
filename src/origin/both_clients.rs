//! Exchanges with an origin that sends scripted bytes. With these exchanges, the fuzz target `origin_responses` and the
//! test below compare the two clients of HTTP/1.1 origins: `origin/plain/` and hyper's client.

use std::io;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::ext::ReasonPhrase;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::client::{Client, ClientSettings};
use super::connection::{Connection, Counted, Link};
use super::endpoint::{Endpoint, Place};
use super::exchange::OriginResponse;
use super::options::{MessageLimits, OriginSettings};
use super::plain::Plain;
use super::resolver::Resolver;
use super::socket::Socket;
use super::target::{Role, Target};
use super::upstream::Upstream;
use crate::clock;
use crate::fault::{Cause, Fault};
use crate::metrics::Metrics;
use crate::wire::names::HOST;
use crate::wire::received::Received;

/// What an origin sends, and with which client edgeshim reads it.
#[derive(Debug, Clone, Copy)]
pub struct Script<'a> {
    /// The bytes that the origin sends after the request. The origin then closes the connection.
    pub bytes: &'a [u8],
    /// The size of the pieces in which the origin writes the bytes. The size must not be 0.
    pub piece: usize,
    pub is_head: bool,
    /// Whether hyper makes the exchange. [`Script::compare`] ignores this field and makes both exchanges.
    pub by_hyper: bool,
}

/// A response, as the layers see it.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub reason: Option<Vec<u8>>,
    pub fields: Vec<(String, HeaderValue)>,
    /// The length of the body, if it was known before the body was read.
    pub length: Option<u64>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, HeaderValue)>,
}

impl Script<'_> {
    /// Makes one exchange. The caller must not run in a tokio runtime.
    ///
    /// # Errors
    /// Returns the cause of the fault, without the information whether the fault came before the body or in the body.
    /// The same bytes can lead to either, depending on the time at which they arrive.
    pub fn run(&self, metrics: &'static Metrics) -> Result<Answer, Cause> {
        let failed = |error: io::Error| Fault::from_error(Cause::Unreachable, error);
        let answer = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)
            .and_then(|runtime| runtime.block_on(self.exchange(metrics)));
        // No worker sweeps the deadlines of this thread.
        clock::sweep();
        answer.map_err(|fault| fault.cause())
    }

    /// Makes the exchange without hyper and with hyper, and returns the result.
    ///
    /// # Errors
    /// Returns the cause of the fault.
    ///
    /// # Panics
    /// Panics if the results differ. Exception: if the response arrives in pieces, the causes of two faults may differ.
    /// If a head is both invalid and truncated, the cause depends on the bytes that one read returns.
    pub fn compare(&self, metrics: &'static Metrics) -> Result<Answer, Cause> {
        let [found, wanted] = [false, true].map(|by_hyper| Script { by_hyper, ..*self }.run(metrics));
        let agree = match (&found, &wanted) {
            (Err(_), Err(_)) if self.piece < self.bytes.len() => true,
            _ => found == wanted,
        };
        let bytes = self.bytes.escape_ascii();
        assert!(agree, "the plain exchange differs from hyper\n{bytes}\n{self:?}\n{found:?}\n{wanted:?}");
        found
    }

    async fn exchange(&self, metrics: &'static Metrics) -> Result<Answer, Fault> {
        let failed = |error: io::Error| Fault::from_error(Cause::Unreachable, error);
        let (near, mut far) = UnixStream::pair().map_err(failed)?;
        let client = Arc::new(client(metrics)?);
        let upstream = &client.settings.upstream;
        let counted = Arc::new(Counted::new(&upstream.connections));
        let link = if self.by_hyper {
            Link::Hyper(upstream.handshake_http1(near, &counted).await?)
        } else {
            Link::Plain(Plain::new(Socket::Unix(near)))
        };
        let endpoint = Arc::new(Endpoint::new(Place::Unix("scripted".into())));
        client.pool().put(Connection::new(link, counted, endpoint, None));
        // hyper's task has to run before the connection is ready.
        tokio::task::yield_now().await;
        let mut request = Request::new(());
        *request.method_mut() = if self.is_head { Method::HEAD } else { Method::GET };
        request.headers_mut().insert(HOST, HeaderValue::from_static("www.example.com"));
        let (head, ()) = request.into_parts();
        let serving = async {
            let mut received = Vec::new();
            while !received.ends_with(b"\r\n\r\n") && far.read_buf(&mut received).await? > 0 {}
            for piece in self.bytes.chunks(self.piece) {
                far.write_all(piece).await?;
                tokio::task::yield_now().await;
            }
            far.shutdown().await
        };
        let asking = async {
            let OriginResponse { head, body, .. } = Arc::clone(&client).call(head, None, Received::empty()).await?;
            let length = body.size_hint().exact();
            let collected = body.collect().await?;
            Ok(Answer {
                status: head.status.as_u16(),
                reason: head.extensions.get::<ReasonPhrase>().map(|reason| reason.as_bytes().to_vec()),
                fields: listed(&head.headers),
                length,
                trailers: collected.trailers().map(listed).unwrap_or_default(),
                body: collected.to_bytes().to_vec(),
            })
        };
        // The result of `serving` is ignored: if edgeshim has closed the connection, the origin's writes fail.
        tokio::join!(serving, asking).1
    }
}

/// Returns a client that makes no retries. Each new connection of the client fails.
fn client(metrics: &'static Metrics) -> Result<Client, Fault> {
    let origin = OriginSettings { target: Target::Unix("scripted".into()), retries: 0, ..OriginSettings::default() };
    let upstream = Upstream::new(origin, MessageLimits::default(), Role::Origin, Resolver::default(), metrics)
        .map_err(|_| Fault::from_error(Cause::Unreachable, "the settings are invalid"))?;
    Ok(Client::new(ClientSettings { upstream, stand_in: None, max_idle: 1, claims: Arc::new([]) }, metrics))
}

fn listed(fields: &HeaderMap) -> Vec<(String, HeaderValue)> {
    fields.iter().map(|(name, value)| (name.as_str().to_owned(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of mutated responses. 200,000 responses take about a minute.
    const MUTATIONS: usize = 3_000;

    const SEEDS: [&str; 10] = [
        "HTTP/1.1 200 OK\r\nServer: a\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nETag: \"a\"\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nhello",
        "HTTP/1.1 205 Reset\r\nContent-Length: 5\r\nX-Folded: a\r\n b\r\n\r\nhello",
    ];

    const PARTS: [&[u8]; 16] = [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b",",
        b"0",
        b"5",
        b"\0",
        b"\x7f",
        b"\xff",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"X-Odd: a\r\n",
    ];

    fn mutated(random: &mut fastrand::Rng) -> Vec<u8> {
        let mut bytes = random.choice(SEEDS).unwrap().as_bytes().to_vec();
        for _ in 0..random.usize(0..4) {
            let at = random.usize(0..=bytes.len());
            let end = (at + random.usize(0..4)).min(bytes.len());
            let part = if random.bool() { random.choice(PARTS).unwrap() } else { b"" };
            bytes.splice(at..end, part.iter().copied());
        }
        bytes
    }

    #[test]
    fn response_when_mutated_then_both_clients_return_the_same_result() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        let mut random = fastrand::Rng::with_seed(7);
        let mut complete = 0;
        for _ in 0..MUTATIONS {
            let bytes = mutated(&mut random);
            let piece = if random.bool() { usize::MAX } else { random.usize(1..40) };
            let script = Script { bytes: &bytes, piece, is_head: random.u8(0..4) == 0, by_hyper: false };
            complete += usize::from(script.compare(metrics).is_ok());
        }
        assert!(complete > MUTATIONS / 4, "only {complete} responses are valid, so the test compares too little");
    }
}
