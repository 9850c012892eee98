//! The demo's embedded origin: a small magazine with a shop, all of it in memory and the same on every start.
//!
//! Its manners are those of many a real origin: sound validators, ranges and lengths, but no compression and hardly a
//! word about caching, since those are what the shim adds. A few routes are slow, fail, stream or contradict
//! themselves on purpose.

mod content;
mod media;
mod socket;

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

pub(super) use self::socket::Socket;
use crate::wire::names;

/// Connections served at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 1024;
/// The largest body that `/api/echo` measures.
const MAX_ECHO_BYTES: u64 = 64 * 1024 * 1024;
/// The longest that `/slow` waits, in milliseconds.
const MAX_SLOW_MS: u64 = 10_000;
/// What `/slow` waits when it is not told, in milliseconds.
const DEFAULT_SLOW_MS: u64 = 800;
/// Events in one `/stream`.
const STREAM_EVENTS: u32 = 10;
/// Time between two of them.
const STREAM_PAUSE: Duration = Duration::from_millis(200);
/// Last-Modified of what has no date of its own: 1 October 2026.
const SITE_DATE: u64 = 1_790_812_800;

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// The body of every answer: whole, or the events of `/stream`.
pub(super) type SiteBody = Either<Full<Bytes>, Events>;

/// Serves the site on this listener for as long as it is polled; dropping it ends every connection.
///
/// HTTP/1.1 with keep-alive. A connection that fails is forgotten, and a listener that cannot accept (no descriptors
/// left) is asked again a little later.
pub(super) async fn serve(listener: TcpListener) {
    let site = Arc::new(Site::new());
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let site = Arc::clone(&site);
        connections.spawn(async move {
            let service = service_fn(|request| {
                let site = Arc::clone(&site);
                async move { Ok::<_, Infallible>(site.answer(request).await) }
            });
            // Whoever was on the other end has gone; there is nobody to tell.
            let _ = http1::Builder::new().serve_connection(Socket::new(stream), service).await;
        });
    }
}

/// The paths of everything that can be read again and again, those that visitors want most first.
pub(super) fn paths() -> Vec<String> {
    let mut paths: Vec<String> =
        ["/", "/assets/site.css", "/assets/site.js", "/images/logo.svg"].map(String::from).into();
    paths.extend(content::PICTURES.iter().take(4).map(|picture| picture.path.to_owned()));
    paths.extend(content::ARTICLES.iter().take(6).map(|article| format!("/articles/{}", article.slug)));
    paths.extend(["/assets/demo.woff2", "/shop", "/api/products", "/images/waves.svg"].map(String::from));
    paths.extend(content::PICTURES.iter().skip(4).map(|picture| picture.path.to_owned()));
    paths.extend(content::ARTICLES.iter().skip(6).map(|article| format!("/articles/{}", article.slug)));
    paths.extend((1..=content::PRODUCTS.len()).map(|number| format!("/api/products/{number}")));
    paths.extend(
        ["/about", "/images/compass.svg", "/login", "/nowhere", "/odd/two-lines", "/odd/expires"].map(String::from),
    );
    paths
}

/// One thing that has a path, a type and validators.
#[derive(Debug)]
struct Resource {
    content_type: &'static str,
    bytes: Bytes,
    etag: HeaderValue,
    modified: SystemTime,
    last_modified: HeaderValue,
    ranges: bool,
    odd: &'static [(HeaderName, &'static str)],
}

impl Resource {
    fn new(content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let etag = visible(&format!("\"{:08x}-{:x}\"", crc32fast::hash(&bytes), bytes.len()));
        Self { content_type, bytes, etag, ranges: false, odd: &[], ..Self::dated(SITE_DATE) }
    }

    fn dated(seconds: u64) -> Self {
        let modified = UNIX_EPOCH + Duration::from_secs(seconds);
        Self {
            content_type: TEXT,
            bytes: Bytes::new(),
            etag: HeaderValue::from_static("\"\""),
            modified,
            last_modified: visible(&httpdate::fmt_http_date(modified)),
            ranges: false,
            odd: &[],
        }
    }

    fn modified(self, seconds: u64) -> Self {
        let Self { modified, last_modified, .. } = Self::dated(seconds);
        Self { modified, last_modified, ..self }
    }

    fn with_ranges(self) -> Self {
        Self { ranges: true, ..self }
    }

    /// RFC 9110 §13.2.2's order for a GET or HEAD: If-None-Match, else If-Modified-Since, then Range under If-Range.
    fn answer(&self, method: &Method, request: &HeaderMap) -> Response<SiteBody> {
        if self.unchanged(request) {
            let mut response = Response::new(Either::Left(Full::default()));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            self.describe(response.headers_mut());
            return response;
        }
        let total = self.bytes.len();
        let wanted = match request.get(names::RANGE) {
            // RFC 9110 §14.2: the field means nothing but in a GET.
            Some(field) if self.ranges && method == Method::GET && self.range_applies(request) => {
                span(field.as_bytes(), total)
            }
            _ => Span::Whole,
        };
        let (status, bytes) = match &wanted {
            Span::Whole => (StatusCode::OK, self.bytes.clone()),
            Span::Part(part) => (StatusCode::PARTIAL_CONTENT, self.bytes.slice(part.clone())),
            Span::Outside => (StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new()),
        };
        let mut response = whole(status, self.content_type, bytes);
        let headers = response.headers_mut();
        self.describe(headers);
        match wanted {
            Span::Whole => {}
            Span::Part(part) => {
                let last = part.end.saturating_sub(1);
                headers.insert(names::CONTENT_RANGE, visible(&format!("bytes {}-{last}/{total}", part.start)));
            }
            Span::Outside => {
                headers.insert(names::CONTENT_RANGE, visible(&format!("bytes */{total}")));
            }
        }
        response
    }

    fn describe(&self, headers: &mut HeaderMap) {
        headers.insert(names::ETAG, self.etag.clone());
        headers.insert(names::LAST_MODIFIED, self.last_modified.clone());
        if self.ranges {
            headers.insert(names::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        for (name, value) in self.odd {
            headers.append(name, HeaderValue::from_static(value));
        }
    }

    fn unchanged(&self, request: &HeaderMap) -> bool {
        if request.contains_key(names::IF_NONE_MATCH) {
            // Weak comparison. None of our tags holds a comma, so that splitting at one cannot invent a match.
            return request
                .get_all(names::IF_NONE_MATCH)
                .iter()
                .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
                .map(<[u8]>::trim_ascii)
                .any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == self.etag.as_bytes());
        }
        date(request.get(names::IF_MODIFIED_SINCE)).is_some_and(|since| self.modified <= since)
    }

    /// RFC 9110 §13.1.5: strong comparison, and a date must be the very one.
    fn range_applies(&self, request: &HeaderMap) -> bool {
        match request.get(names::IF_RANGE) {
            None => true,
            Some(field) => field == self.etag || date(Some(field)) == Some(self.modified),
        }
    }
}

/// Everything that the site can answer.
#[derive(Debug)]
pub(super) struct Site {
    resources: HashMap<String, Resource>,
    missing: Bytes,
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    /// Writes the pages and paints the pictures.
    pub(super) fn new() -> Self {
        let mut resources = HashMap::new();
        let mut add = |path: &str, resource| {
            resources.insert(path.to_owned(), resource);
        };
        add("/", Resource::new(HTML, content::front()).modified(content::ARTICLES[0].published));
        add("/shop", Resource::new(HTML, content::shop()));
        add("/about", Resource::new(HTML, content::about()));
        add("/assets/site.css", Resource::new("text/css; charset=utf-8", content::STYLE));
        add("/assets/site.js", Resource::new("text/javascript; charset=utf-8", content::SCRIPT));
        add("/assets/demo.woff2", Resource::new("font/woff2", media::font(24_000)).with_ranges());
        for (place, article) in content::ARTICLES.iter().enumerate() {
            let page = Resource::new(HTML, content::article(place, article)).modified(article.published);
            add(&format!("/articles/{}", article.slug), page);
        }
        for (path, drawing) in content::DRAWINGS {
            add(path, Resource::new("image/svg+xml", drawing).with_ranges());
        }
        for content::Picture { path, palette } in &content::PICTURES {
            let picture = match path.rsplit_once('.') {
                Some((_, "png")) => Resource::new("image/png", media::png(240, 160, palette)),
                _ => Resource::new("image/jpeg", media::jpeg(120, 80, palette)),
            };
            add(path, picture.with_ranges());
        }
        let mut records = Vec::new();
        for (number, product) in (1..).zip(&content::PRODUCTS) {
            let content::Product { name, cents, picture, text } = product;
            let record = json!({"number": number, "name": name, "cents": cents, "picture": picture, "text": text});
            add(&format!("/api/products/{number}"), Resource::new(JSON, record.to_string()));
            records.push(record);
        }
        add("/api/products", Resource::new(JSON, json!({ "products": records }).to_string()));

        let two_lines = content::page(
            "Two lines",
            "<h1>Ten minutes, or not at all</h1>\n<p>Two Cache-Control lines disagree.</p>\n",
        );
        add(
            "/odd/two-lines",
            Resource {
                odd: &[(names::CACHE_CONTROL, "public, max-age=600"), (names::CACHE_CONTROL, "no-store")],
                ..Resource::new(HTML, two_lines)
            },
        );
        let expires = content::page(
            "Expires",
            "<h1>As in the last century</h1>\n<p>Pragma and Expires, and nothing newer.</p>\n",
        );
        add(
            "/odd/expires",
            Resource {
                odd: &[(names::PRAGMA, "no-cache"), (names::EXPIRES, "Thu, 01 Jan 1998 00:00:00 GMT")],
                ..Resource::new(HTML, expires)
            },
        );

        let missing = content::page(
            "Not found",
            "<h1>Nothing washed up here</h1>\n<p>Try the <a href=\"/\">front page</a>.</p>\n",
        );
        Self { resources, missing: missing.into() }
    }

    /// Answers one request; never fails, whatever it holds.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<SiteBody> {
        let head = request.method() == Method::HEAD;
        let mut response = self.route(request).await;
        if head {
            // The length stays, as RFC 9110 §9.3.2 wants it.
            *response.body_mut() = Either::Left(Full::default());
        }
        response
    }

    async fn route(&self, request: Request<Incoming>) -> Response<SiteBody> {
        let path = request.uri().path();
        if path == "/api/echo" {
            return echo(request).await;
        }
        let resource = self.resources.get(path);
        let post = path == "/login";
        if !(matches!(*request.method(), Method::GET | Method::HEAD) || post && request.method() == Method::POST) {
            let known = resource.is_some() || matches!(path, "/slow" | "/fail" | "/stream" | "/login" | "/private");
            return if known {
                not_allowed(if post { "GET, HEAD, POST" } else { "GET, HEAD" })
            } else {
                self.not_found()
            };
        }
        if let Some(resource) = resource {
            return resource.answer(request.method(), request.headers());
        }
        let query = request.uri().query();
        match path {
            "/slow" => slow(query).await,
            "/fail" => fail(query),
            "/stream" => stream(),
            "/login" => login(),
            "/private" => private(request.headers()),
            _ => self.not_found(),
        }
    }

    fn not_found(&self) -> Response<SiteBody> {
        whole(StatusCode::NOT_FOUND, HTML, self.missing.clone())
    }
}

/// A response with its type and its length.
fn whole(status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Response<SiteBody> {
    let bytes = bytes.into();
    let length = bytes.len();
    let mut response = Response::new(Either::Left(Full::new(bytes)));
    *response.status_mut() = status;
    response.headers_mut().insert(names::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(names::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn not_allowed(allowed: &'static str) -> Response<SiteBody> {
    let mut response = whole(StatusCode::METHOD_NOT_ALLOWED, TEXT, "This path does not take that method.\n");
    response.headers_mut().insert(names::ALLOW, HeaderValue::from_static(allowed));
    response
}

async fn echo(request: Request<Incoming>) -> Response<SiteBody> {
    if !matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE
    ) {
        return not_allowed("GET, HEAD, POST, PUT, PATCH, DELETE");
    }
    let (head, mut body) = request.into_parts();
    let mut length = 0_u64;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return whole(StatusCode::BAD_REQUEST, TEXT, "The body broke off.\n");
        };
        let data = frame.data_ref().map_or(0, Bytes::len);
        length = length.saturating_add(u64::try_from(data).unwrap_or(u64::MAX));
        if length > MAX_ECHO_BYTES {
            return whole(StatusCode::PAYLOAD_TOO_LARGE, TEXT, "No more than 64 MiB here.\n");
        }
    }
    // Pairs and not a map: how many lines came, and in which order, is what one wants to see.
    let lines: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| [name.as_str().into(), String::from_utf8_lossy(value.as_bytes())])
        .collect();
    let uri = head.uri.to_string();
    let text = json!({"method": head.method.as_str(), "uri": uri, "headers": lines, "body_bytes": length}).to_string();
    let mut response = whole(StatusCode::OK, JSON, text);
    // What a visitor wrote goes back to the visitor: nobody may take it for a page.
    response.headers_mut().insert(names::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn slow(query: Option<&str>) -> Response<SiteBody> {
    let Ok(wanted) = parameter(query, "ms").map_or(Ok(DEFAULT_SLOW_MS), str::parse::<u64>) else {
        return whole(StatusCode::BAD_REQUEST, TEXT, "ms is a number of milliseconds, such as /slow?ms=800.\n");
    };
    let pause = wanted.min(MAX_SLOW_MS);
    tokio::time::sleep(Duration::from_millis(pause)).await;
    whole(StatusCode::OK, TEXT, format!("That took {pause} ms.\n"))
}

fn fail(query: Option<&str>) -> Response<SiteBody> {
    let status =
        parameter(query, "status").unwrap_or("503").parse::<u16>().ok().filter(|code| (500..=599).contains(code));
    match status.and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(status) => {
            let inner = "<h1>The stove has gone out</h1>\n<p>This is the origin's own words for a failure.</p>\n";
            whole(status, HTML, content::page("Out of order", inner))
        }
        None => whole(StatusCode::BAD_REQUEST, TEXT, "status is a number from 500 to 599, such as /fail?status=503.\n"),
    }
}

fn stream() -> Response<SiteBody> {
    let mut ticks = tokio::time::interval(STREAM_PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut response = Response::new(Either::Right(Events { ticks, sent: 0 }));
    response.headers_mut().insert(names::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

fn login() -> Response<SiteBody> {
    let page = content::page("Signed in", "<h1>Welcome aboard</h1>\n<p>You have been given a cookie.</p>\n");
    let mut response = whole(StatusCode::OK, HTML, page);
    let cookie = HeaderValue::from_static("session=a-visitor; Path=/; HttpOnly; SameSite=Lax");
    response.headers_mut().insert(names::SET_COOKIE, cookie);
    response
}

fn private(request: &HeaderMap) -> Response<SiteBody> {
    if request.contains_key(names::AUTHORIZATION) {
        return whole(
            StatusCode::OK,
            HTML,
            content::page("Private", "<h1>For your eyes</h1>\n<p>And for no shared cache.</p>\n"),
        );
    }
    let mut response = whole(StatusCode::UNAUTHORIZED, HTML, content::page("Private", "<h1>Who goes there?</h1>\n"));
    response
        .headers_mut()
        .insert(names::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"any name will do\""));
    response
}

/// The body of `/stream`: server-sent events, one at each tick.
#[derive(Debug)]
pub(super) struct Events {
    ticks: Interval,
    sent: u32,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.sent >= STREAM_EVENTS {
            return Poll::Ready(None);
        }
        ready!(self.ticks.poll_tick(cx));
        self.sent += 1;
        let event = format!("id: {0}\ndata: wave {0} of {STREAM_EVENTS}\n\n", self.sent);
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent >= STREAM_EVENTS
    }
}

/// What a Range field asks for of a thing of known length.
#[derive(Debug, PartialEq, Eq)]
enum Span {
    Whole,
    Part(Range<usize>),
    Outside,
}

/// RFC 9110 §14.1.2, one range only: several, and what cannot be read, are answered with the whole (§14.2 allows it).
fn span(field: &[u8], total: usize) -> Span {
    let spec = str::from_utf8(field).ok().and_then(|text| text.split_once('='));
    let Some((first, last)) =
        spec.filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes")).and_then(|(_, set)| set.trim().split_once('-'))
    else {
        return Span::Whole;
    };
    let part = match (digits(first), digits(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(total),
        (Some(first), None) if last.is_empty() => first..total,
        (None, Some(tail)) if first.is_empty() => total.saturating_sub(tail)..total,
        _ => return Span::Whole,
    };
    if part.is_empty() { Span::Outside } else { Span::Part(part) }
}

/// Digits and nothing else; a number too large to hold is as large as can be.
fn digits(text: &str) -> Option<usize> {
    let sound = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    sound.then(|| text.parse().unwrap_or(usize::MAX))
}

fn date(field: Option<&HeaderValue>) -> Option<SystemTime> {
    httpdate::parse_http_date(field?.to_str().ok()?).ok()
}

fn parameter<'query>(query: Option<&'query str>, name: &str) -> Option<&'query str> {
    query?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// A header value of our own making: digits, hex and dates, which always fit.
fn visible(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn start() -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let mut server = JoinSet::new();
        server.spawn(serve(listener));
        (address, server)
    }

    /// One request on a connection of its own: the answer's head in lower case, and its body.
    async fn ask(address: SocketAddr, line: &str, fields: &str, body: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(address).await.expect("connect");
        let request = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n{body}");
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("read");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("head") + 4;
        let body = answer.split_off(end);
        (String::from_utf8(answer).expect("text").to_lowercase(), body)
    }

    fn status(head: &str) -> u16 {
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("status")
    }

    fn field<'head>(head: &'head str, name: &str) -> Option<&'head str> {
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    #[tokio::test]
    async fn site_when_walked_answers_every_listed_path_with_its_length() {
        let (address, _server) = start().await;
        for path in paths() {
            let (head, body) = ask(address, &format!("GET {path}"), "", "").await;
            assert_eq!(status(&head), if path == "/nowhere" { 404 } else { 200 }, "{path}");
            assert_eq!(field(&head, "content-length"), Some(body.len().to_string().as_str()), "{path}");
            assert!(field(&head, "content-encoding").is_none() && !body.is_empty());
        }
    }

    #[tokio::test]
    async fn site_when_pages_link_to_something_has_it() {
        let site = Site::new();
        let pages = site.resources.values().filter(|resource| resource.content_type == HTML);
        for resource in pages {
            let page = str::from_utf8(&resource.bytes).expect("text");
            for link in page.split(['"']).filter(|text| text.starts_with('/')) {
                let path = link.split('?').next().expect("path");
                let made = ["/slow", "/fail", "/stream", "/login", "/private", "/api/echo", "/nowhere"].contains(&path);
                assert!(made || site.resources.contains_key(path), "{link}");
            }
        }
    }

    #[tokio::test]
    async fn site_when_asked_twice_on_one_connection_keeps_it() {
        let (address, _server) = start().await;
        let mut stream = TcpStream::connect(address).await.expect("connect");
        let two = "HEAD / HTTP/1.1\r\nHost: x\r\n\r\nHEAD /about HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(two.as_bytes()).await.expect("write");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("read");
        assert_eq!(text.matches("HTTP/1.1 200").count(), 2);
    }

    #[tokio::test]
    async fn site_when_the_validators_match_says_304_without_a_body() {
        let (address, _server) = start().await;
        let (head, _) = ask(address, "GET /about", "", "").await;
        let (etag, date) = (field(&head, "etag").expect("etag"), field(&head, "last-modified").expect("date"));
        let cases = [
            (format!("If-None-Match: {etag}\r\n"), 304),
            (format!("If-None-Match: \"a\", W/{etag}\r\n"), 304),
            ("If-None-Match: *\r\n".to_owned(), 304),
            (format!("If-None-Match: \"a\"\r\nIf-Modified-Since: {date}\r\n"), 200),
            (
                format!(
                    "If-Modified-Since: {}\r\n",
                    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(SITE_DATE))
                ),
                304,
            ),
            ("If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT\r\n".to_owned(), 200),
            ("If-Modified-Since: yesterday\r\n".to_owned(), 200),
        ];
        for (fields, wanted) in cases {
            let (head, body) = ask(address, "GET /about", &fields, "").await;
            assert_eq!(status(&head), wanted, "{fields}");
            assert_eq!(body.is_empty(), wanted == 304, "{fields}");
            assert_eq!(field(&head, "etag"), Some(etag), "{fields}");
        }
    }

    #[tokio::test]
    async fn site_when_asked_by_head_says_the_length_and_sends_nothing() {
        let (address, _server) = start().await;
        for path in ["/", "/images/lamp.png", "/api/echo", "/fail?status=507", "/private", "/nowhere"] {
            let (head, body) = ask(address, &format!("HEAD {path}"), "", "").await;
            assert!(body.is_empty(), "{path}");
            let length: u64 = field(&head, "content-length").and_then(|length| length.parse().ok()).expect("length");
            assert!(length > 0, "{path}");
        }
    }

    #[tokio::test]
    async fn site_when_asked_for_a_range_of_an_image_sends_that_part() {
        let (address, _server) = start().await;
        let (head, all) = ask(address, "GET /images/lamp.png", "", "").await;
        assert_eq!(field(&head, "accept-ranges"), Some("bytes"));
        let etag = field(&head, "etag").expect("etag");
        let (head, part) = ask(address, "GET /images/lamp.png", "Range: bytes=10-19\r\n", "").await;
        assert_eq!((status(&head), part.as_slice()), (206, &all[10..20]));
        assert_eq!(field(&head, "content-range"), Some(format!("bytes 10-19/{}", all.len()).as_str()));
        let (head, part) = ask(address, "GET /images/lamp.png", "Range: bytes=-5\r\n", "").await;
        assert_eq!((status(&head), part.as_slice()), (206, &all[all.len() - 5..]));
        let (head, part) = ask(address, "GET /images/lamp.png", "Range: bytes=99999999-\r\n", "").await;
        assert_eq!((status(&head), part.len()), (416, 0));
        assert_eq!(field(&head, "content-range"), Some(format!("bytes */{}", all.len()).as_str()));
        for (fields, wanted) in [
            (format!("Range: bytes=0-1\r\nIf-Range: {etag}\r\n"), 206),
            ("Range: bytes=0-1\r\nIf-Range: \"other\"\r\n".to_owned(), 200),
            ("Range: bytes=0-1,4-5\r\n".to_owned(), 200),
            ("Range: lines=0-1\r\n".to_owned(), 200),
        ] {
            assert_eq!(status(&ask(address, "GET /images/lamp.png", &fields, "").await.0), wanted, "{fields}");
        }
        assert_eq!(status(&ask(address, "GET /about", "Range: bytes=0-1\r\n", "").await.0), 200);
    }

    #[tokio::test]
    async fn site_when_asked_for_its_odd_routes_does_as_they_say() {
        let (address, _server) = start().await;
        for (line, fields, wanted) in [
            ("GET /fail", "", 503),
            ("GET /fail?status=599", "", 599),
            ("GET /fail?status=200", "", 400),
            ("GET /slow?ms=1", "", 200),
            ("GET /slow?ms=soon", "", 400),
            ("GET /private", "", 401),
            ("GET /private", "Authorization: Basic YTpi\r\n", 200),
            ("POST /", "Content-Length: 0\r\n", 405),
            ("DELETE /stream", "", 405),
            ("POST /nowhere", "Content-Length: 0\r\n", 404),
            ("POST /login", "Content-Length: 0\r\n", 200),
            ("TRACE /api/echo", "", 405),
        ] {
            assert_eq!(status(&ask(address, line, fields, "").await.0), wanted, "{line}");
        }
        let (head, _) = ask(address, "GET /login", "", "").await;
        assert!(field(&head, "set-cookie").is_some());
        let (head, _) = ask(address, "GET /odd/two-lines", "", "").await;
        assert_eq!(head.matches("cache-control: ").count(), 2);
        let (head, _) = ask(address, "GET /odd/expires", "", "").await;
        assert!(field(&head, "expires").is_some() && field(&head, "pragma").is_some());
        let (head, body) = ask(address, "POST /api/echo", "X-Odd: 1\r\nContent-Length: 5\r\n", "12345").await;
        assert_eq!(status(&head), 200);
        let echoed: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((&echoed["method"], &echoed["body_bytes"]), (&json!("POST"), &json!(5)));
        assert!(echoed["headers"].as_array().expect("array").contains(&json!(["x-odd", "1"])));
    }

    #[tokio::test]
    async fn stream_when_read_to_its_end_holds_ten_events_a_pause_apart() {
        let (address, _server) = start().await;
        let begun = std::time::Instant::now();
        let (head, body) = ask(address, "GET /stream", "", "").await;
        assert_eq!(field(&head, "content-type"), Some("text/event-stream"));
        assert_eq!(String::from_utf8_lossy(&body).matches("data: wave").count(), 10);
        assert!(begun.elapsed() >= STREAM_PAUSE * (STREAM_EVENTS - 1));
    }

    proptest! {
        #[test]
        fn span_when_given_any_field_stays_inside(field in "(bytes=)?[0-9-]{0,24}|[ -~]{0,30}", total in 0_usize..1000) {
            if let Span::Part(part) = span(field.as_bytes(), total) {
                prop_assert!(part.start < part.end && part.end <= total);
            }
        }

        #[test]
        fn span_when_first_and_last_are_given_has_those_bytes(first in 0_usize..500, more in 0_usize..500) {
            let last = first + more;
            prop_assert_eq!(span(format!("bytes={first}-{last}").as_bytes(), 1000), Span::Part(first..last + 1));
            prop_assert_eq!(span(format!("bytes={first}-{last}").as_bytes(), first), Span::Outside);
        }
    }
}
