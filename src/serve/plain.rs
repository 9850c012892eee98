//! Serves plain requests of an HTTP/1.1 connection without hyper: requests without a body that ask for nothing unusual.
//! hyper takes the connection over at the first request that is not plain, and serves the connection until it is idle.
//! `ARCHITECTURE.md` ("The two servers of HTTP/1.1") has the reasons.
//!
//! Cost: a connection that waits for a request has no buffer. All connections of a worker read into one block of
//! memory, and the fields of a request are slices of the block. A new block is allocated only if slices of the old
//! block still exist and its free part is too small.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWrite as _};

use super::connection_limits::Limits;
use super::endings::{expired, has_expired, watch};
use super::plain_request::{HeadLimits, Parsed, PlainRequest, parse};
use super::plain_response::{PlainResponse, Queue};
use super::requests::Requests;
use super::state::State;
use super::watched::{Socket, Watched};
use crate::runtime::EdgeService;
use crate::wire::received::Received;

/// The size of the block into which the worker reads.
const BLOCK_BYTES: usize = 16 * 1024;
/// The smallest free part of a block into which the start of a head is read.
const LEAST_HEAD_BYTES: usize = 2 * 1024;
/// The largest number of reads for a head, and the largest size of an incomplete head. If a head exceeds one of these
/// limits, hyper reads the head.
const MOST_READS: usize = 8;
const MOST_PARTIAL_BYTES: usize = 8 * 1024;

thread_local! {
    static BLOCK: RefCell<BytesMut> = RefCell::default();
}

/// Why [`serve_plain`] has returned.
#[derive(Debug)]
pub(super) enum Served<S> {
    /// The connection is idle and can be parked.
    Parked(S),
    /// hyper has to continue with these bytes. The state of the connection has seen them already.
    Odd(S, Bytes),
    /// The connection has ended.
    Ended,
}

/// The event that ends the wait for a request.
#[expect(clippy::large_enum_variant, reason = "a box would cost an allocation for each request")]
enum Next {
    Request(PlainRequest),
    Odd,
    /// The client has closed the connection between two requests.
    Closed,
    /// The connection has failed, or the client has closed it within a head.
    Failed,
    Expired,
}

/// A connection whose requests are served without hyper.
struct Plain<S> {
    stream: Watched<S>,
    /// Bytes that were read and do not belong to an earlier request.
    received: Bytes,
}

/// Serves requests until one is not plain, the connection is idle or the connection has ended. `prefix` has the bytes
/// that were already read and that the state of the connection has seen.
pub(super) async fn serve_plain<S: Socket, E: EdgeService>(
    stream: S,
    prefix: Bytes,
    limits: &Limits,
    service: &Requests<E>,
) -> Served<S> {
    let Some(head_limits) = limits.plain else { return Served::Odd(stream, prefix) };
    let state = &*service.state;
    let stream = Watched::new(stream, Bytes::new(), Arc::clone(&service.state));
    let mut connection = Plain { stream, received: prefix };
    let mut queue = Queue::default();
    loop {
        let request = match connection.next_request(head_limits, state).await {
            Next::Request(request) => request,
            Next::Odd => return Served::Odd(connection.stream.into_stream(), connection.received),
            Next::Closed => {
                close(&mut connection.stream, state).await;
                return Served::Ended;
            }
            Next::Failed => return Served::Ended,
            Next::Expired => {
                // If the connection can be parked, `received` has at most empty lines, which can be dropped.
                let parked = expired(connection.stream.into_stream(), state, &service.worker).await;
                return parked.map_or(Served::Ended, Served::Parked);
            }
        };
        let (is_head, closes) = (request.head.method == Method::HEAD, request.closes);
        let response = {
            let mut future = pin!(service.begin(request.head, Received::empty()));
            poll_fn(|cx| {
                watch(state, cx);
                match future.as_mut().poll(cx) {
                    Poll::Ready(response) => Poll::Ready(response.ok()),
                    Poll::Pending => connection.poll_abandoned(cx, state).map(|()| None),
                }
            })
            .await
        };
        let Some(response) = response.filter(|response| !response.status().is_informational()) else {
            return Served::Ended;
        };
        let (head, body) = response.into_parts();
        let closes = closes || state.is_leaving();
        let mut response = pin!(PlainResponse::new(head, body, is_head, closes, std::mem::take(&mut queue)));
        let is_sent = poll_fn(|cx| {
            watch(state, cx);
            match response.as_mut().poll_send(&mut connection.stream, cx) {
                Poll::Ready(Ok(())) => Poll::Ready(true),
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "a client connection ended with an error");
                    Poll::Ready(false)
                }
                Poll::Pending => connection.poll_abandoned(cx, state).map(|()| false),
            }
        })
        .await;
        if !is_sent {
            return Served::Ended;
        }
        // If the drain has begun after the head was written, the client expects an open connection and can already have
        // sent its next request. So the connection waits for this request.
        if response.is_last() {
            close(&mut connection.stream, state).await;
            return Served::Ended;
        }
        queue = response.take_queue();
    }
}

/// Shuts the stream down. If the client does not read, the deadline ends the wait.
async fn close<S: Socket>(stream: &mut Watched<S>, state: &State) {
    poll_fn(|cx| {
        watch(state, cx);
        let is_down = Pin::new(&mut *stream).poll_shutdown(cx).is_ready();
        if is_down || has_expired(state) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl<S: Socket> Plain<S> {
    /// Waits for the next request head.
    async fn next_request(&mut self, limits: HeadLimits, state: &State) -> Next {
        let mut reads = 0;
        poll_fn(|cx| {
            watch(state, cx);
            loop {
                if !self.received.is_empty() {
                    match parse(&self.received, limits) {
                        Parsed::Plain(request) => {
                            let _ = self.received.split_to(request.bytes);
                            return Poll::Ready(Next::Request(request));
                        }
                        Parsed::Partial if self.received.len() < MOST_PARTIAL_BYTES && reads < MOST_READS => {}
                        Parsed::Partial | Parsed::Odd => return Poll::Ready(Next::Odd),
                    }
                }
                match self.poll_read(cx) {
                    Poll::Ready(Ok(0)) if self.received.iter().all(|byte| matches!(byte, b'\r' | b'\n')) => {
                        return Poll::Ready(Next::Closed);
                    }
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Failed),
                    Poll::Ready(Ok(_)) => reads += 1,
                    Poll::Pending if has_expired(state) => return Poll::Ready(Next::Expired),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Reads once, and adds the bytes to `received`. Returns their number, which is 0 at the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        BLOCK.with_borrow_mut(|block| {
            if !block.try_reclaim(BLOCK_BYTES) && block.capacity() < LEAST_HEAD_BYTES {
                *block = BytesMut::with_capacity(BLOCK_BYTES);
            }
            let read = ready!(pin!(self.stream.read_buf(block)).poll(cx))?;
            let piece = block.split().freeze();
            self.received =
                if self.received.is_empty() { piece } else { Bytes::from([&self.received[..], &piece[..]].concat()) };
            Poll::Ready(Ok(read))
        })
    }

    /// Returns `Ready` if the request in progress must be dropped, because the client has closed the connection or a
    /// deadline has expired.
    fn poll_abandoned(&mut self, cx: &mut Context<'_>, state: &State) -> Poll<()> {
        // The next request can arrive early. Then nothing more is read before the end of the response.
        if self.received.is_empty()
            && let Poll::Ready(Ok(0) | Err(_)) = self.poll_read(cx)
        {
            return Poll::Ready(());
        }
        if has_expired(state) { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
    use http_body::{Body, Frame, SizeHint};
    use hyper::body::Incoming;
    use hyper::ext::ReasonPhrase;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::edge::request::{EdgeBody, Tally};
    use crate::fault::{Cause, Fault};
    use crate::serve::watched::PipeWrite;

    const LIMITS: HeadLimits = HeadLimits { bytes: 1024, fields: 8 };
    /// The number of mutated requests, and of responses.
    const CASES: usize = 20_000;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    /// A request as the layers see it.
    #[derive(Debug, PartialEq, Eq)]
    struct Seen {
        method: String,
        target: String,
        version: Version,
        fields: Vec<(String, HeaderValue)>,
        is_empty: bool,
    }

    impl Seen {
        fn new<B: Body>(head: &http::request::Parts, body: &B) -> Self {
            Self {
                method: head.method.to_string(),
                target: head.uri.to_string(),
                version: head.version,
                fields: head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.clone())).collect(),
                is_empty: body.is_end_stream(),
            }
        }
    }

    /// Returns the requests that hyper finds in `bytes`, and hyper's output. `is_complete` tells whether a response is
    /// expected.
    fn with_hyper(bytes: &[u8], is_complete: bool) -> (Vec<Seen>, Vec<u8>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let service = service_fn(|request: Request<Incoming>| {
            let (head, body) = request.into_parts();
            seen.lock().unwrap().push(Seen::new(&head, &body));
            std::future::ready(Ok::<_, Infallible>(Response::new(http_body_util::Empty::<Bytes>::new())))
        });
        let output = block_on(async {
            let (near, mut far) = tokio::io::duplex(1 << 16);
            let connection = http1::Builder::new()
                .max_header_size(LIMITS.bytes)
                .max_headers(LIMITS.fields)
                .serve_connection(TokioIo::new(near), service);
            let mut output = Vec::new();
            let client = async {
                far.write_all(bytes).await.unwrap();
                // hyper drops a response whose client has shut down.
                while is_complete && !output.ends_with(b"\r\n\r\n") {
                    far.read_buf(&mut output).await.unwrap();
                }
                far.shutdown().await.unwrap();
                far.read_to_end(&mut output).await.unwrap();
            };
            let _ = tokio::join!(connection, client);
            output
        });
        (Arc::into_inner(seen).unwrap().into_inner().unwrap(), output)
    }

    const SEEDS: [&str; 11] = [
        "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\n\r\n",
        "HEAD /a/b?c=d&e=%20 HTTP/1.1\r\nHost: a\r\nX-CDN-Provider: fastly\r\nX-A: 1\r\nX-a: 2\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "DELETE /a HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive, Close\r\nX-Empty:\r\n\r\n",
        "\r\n\nGET /a HTTP/1.1\r\nHost: a\r\nAccept:  b , c \r\n\r\n",
        "GET http://b/c HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nTE: gzip, chunked;q=0.5\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nTE: gzip;q=1, Trailers\r\n\r\n",
        "X-ODD /\u{e9}?\"{} HTTP/1.1\r\nHost: \u{e9}\r\nCookie: a\r\nCookie: b\r\n\r\n",
    ];

    const PARTS: [&[u8]; 18] = [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b",",
        b"/",
        b"#",
        b"\0",
        b"\x7f",
        b"\xff",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Expect: 100-continue\r\n",
        b"X-Odd: a\r\n",
        b"X-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
    ];

    #[test]
    fn request_when_mutated_then_plain_server_sees_what_hyper_sees_or_leaves_it_to_hyper() {
        let mut random = fastrand::Rng::with_seed(11);
        let (mut plain, mut partial, mut odd) = (0, 0, 0);
        for _ in 0..CASES {
            let mut bytes = random.choice(SEEDS).unwrap().as_bytes().to_vec();
            for _ in 0..random.usize(0..4) {
                let at = random.usize(0..=bytes.len());
                let end = (at + random.usize(0..4)).min(bytes.len());
                let part = if random.bool() { random.choice(PARTS).unwrap() } else { b"" };
                let repeats = if random.u8(0..20) == 0 { 12 } else { 1 };
                bytes.splice(at..end, part.repeat(repeats));
            }
            let text = bytes.escape_ascii().to_string();
            match parse(&Bytes::from(bytes.clone()), LIMITS) {
                Parsed::Plain(request) => {
                    plain += 1;
                    let (seen, output) = with_hyper(&bytes[..request.bytes], true);
                    assert_eq!(seen, [Seen::new(&request.head, &http_body_util::Empty::<Bytes>::new())], "{text}");
                    let output = String::from_utf8(output).unwrap();
                    assert_eq!(output.contains("connection: close"), request.closes, "{text}");
                }
                Parsed::Partial => {
                    partial += 1;
                    assert_eq!(with_hyper(&bytes, false).0, [], "{text}");
                }
                Parsed::Odd => odd += 1,
            }
        }
        assert!(
            plain > CASES / 5 && partial > CASES / 100 && odd > CASES / 5,
            "{plain} plain, {partial} partial, {odd} odd"
        );
    }

    /// A body with these frames. `None` is a moment in which no frame is there.
    #[derive(Debug, Clone)]
    struct Frames {
        parts: Vec<Option<Bytes>>,
        length: Option<u64>,
        fails: bool,
        has_trailers: bool,
    }

    impl EdgeBody for Frames {
        fn tally(&self) -> Tally {
            Tally::default()
        }
    }

    impl PipeWrite for Vec<u8> {}

    impl Body for Frames {
        type Data = Bytes;
        type Error = Fault;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
            if self.parts.is_empty() {
                if std::mem::take(&mut self.fails) {
                    return Poll::Ready(Some(Err(Fault::from_error(Cause::Cut, "the body is cut"))));
                }
                let trailers = std::mem::take(&mut self.has_trailers);
                return Poll::Ready(trailers.then(|| Ok(Frame::trailers(HeaderMap::new()))));
            }
            if let Some(data) = self.parts.remove(0) {
                Poll::Ready(Some(Ok(Frame::data(data))))
            } else {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }

        fn is_end_stream(&self) -> bool {
            self.parts.is_empty() && !self.fails && !self.has_trailers
        }

        fn size_hint(&self) -> SizeHint {
            self.length.map(SizeHint::with_exact).unwrap_or_default()
        }
    }

    /// Returns a response of the kind that the layers make.
    fn response(random: &mut fastrand::Rng, is_head: bool) -> Response<Frames> {
        let statuses = [200, 200, 200, 204, 206, 301, 304, 404, 500, 503, 599];
        let status = StatusCode::from_u16(*random.choice(&statuses).unwrap()).unwrap();
        let mut parts: Vec<_> = (0..random.usize(0..30))
            .map(|_| {
                (random.u8(0..5) > 0).then(|| Bytes::from(vec![random.alphanumeric() as u8; random.usize(0..9000)]))
            })
            .collect();
        if random.u8(0..3) == 0 {
            parts.clear();
        }
        let bytes: usize = parts.iter().flatten().map(Bytes::len).sum();
        let mut length = random.bool().then_some(bytes as u64);
        if parts.is_empty() || is_head {
            length = length.map(|_| 0);
            parts.clear();
        }
        let fails = random.u8(0..10) == 0;
        let has_trailers = !fails && length.is_none() && random.u8(0..5) == 0;
        let declares = random.bool();
        let mut response = Response::new(Frames { parts, length, fails, has_trailers });
        *response.status_mut() = status;
        if status.canonical_reason().is_none() {
            response.extensions_mut().insert(ReasonPhrase::from_static(b""));
        } else if random.u8(0..8) == 0 {
            response.extensions_mut().insert(ReasonPhrase::from_static(b"Own Phrase"));
        }
        let fields = response.headers_mut();
        let names = ["server", "vary", "x-a", "set-cookie", "trailer", "connection", "etag"];
        for _ in 0..random.usize(0..9) {
            let name = HeaderName::from_static(random.choice(names).unwrap());
            let close = name == "connection";
            fields.append(name, HeaderValue::from_static(if close { "close" } else { "x-b" }));
        }
        fields.insert("date", HeaderValue::from_static("Sun, 29 Nov 2026 16:00:00 GMT"));
        if declares && (length.is_some() || is_head) {
            let value = if is_head { 123 } else { bytes };
            fields.insert("content-length", HeaderValue::from(value));
        }
        response
    }

    #[test]
    fn response_when_made_by_the_layers_then_plain_server_writes_the_bytes_that_hyper_writes() {
        let mut random = fastrand::Rng::with_seed(13);
        let mut chunked = 0;
        for case in 0..CASES / 10 {
            let (is_head, closes) = (random.u8(0..5) == 0, random.u8(0..5) == 0);
            let response = response(&mut random, is_head);
            let wanted = block_on(async {
                let (near, mut far) = tokio::io::duplex(1 << 20);
                let given = Mutex::new(Some(response.clone()));
                let service = service_fn(|_: Request<Incoming>| {
                    std::future::ready(Ok::<_, Infallible>(given.lock().unwrap().take().unwrap()))
                });
                let connection = http1::Builder::new().serve_connection(TokioIo::new(near), service);
                let method = if is_head { "HEAD" } else { "GET" };
                let connection_field = if closes { "Connection: close\r\n" } else { "" };
                far.write_all(format!("{method} / HTTP/1.1\r\n{connection_field}\r\n").as_bytes()).await.unwrap();
                let mut output = Vec::new();
                let client = async {
                    if !closes {
                        // hyper drops a response whose client has shut down, so the client waits.
                        let wait = std::time::Duration::from_millis(5);
                        let _ = tokio::time::timeout(wait, far.read_to_end(&mut output)).await;
                        far.shutdown().await.unwrap();
                    }
                    far.read_to_end(&mut output).await.unwrap();
                };
                let _ = tokio::join!(connection, client);
                output
            });
            let (head, body) = response.clone().into_parts();
            let (found, is_last) = block_on(async {
                let mut sent = pin!(PlainResponse::new(head, body, is_head, closes, Queue::default()));
                let mut output = Vec::new();
                let result = std::future::poll_fn(|cx| sent.as_mut().poll_send(&mut output, cx)).await;
                (output, result.is_err() || sent.is_last())
            });
            chunked += usize::from(found.windows(7).any(|window| window == b"chunked"));
            let fails = response.body().fails;
            // Both drop what is not written when a body fails. hyper can have written more or less at that time.
            let agree = found == wanted || (fails && (found.starts_with(&wanted) || wanted.starts_with(&found)));
            assert!(agree, "case {case}: {}\n{}", found.escape_ascii(), wanted.escape_ascii());
            assert!(is_last || !closes, "case {case}");
        }
        assert!(chunked > CASES / 100, "only {chunked} responses were chunked");
    }
}
