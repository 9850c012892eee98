//! The demo's origin: a small magazine with a shop. The content is in memory and is the same on every start.
//!
//! The site behaves like many real origins. The site has correct validators, ranges and lengths. The site has no
//! compression and almost no caching headers, because edgeshim adds both. A few routes are slow, fail, stream or send
//! contradictory headers on purpose.

mod content;
mod media;
mod resource;
mod response;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use self::content::CONTENT;
use self::resource::Resource;
pub(super) use self::response::SiteBody;
use self::response::{HTML, JSON, TEXT, events, whole};
use crate::wire::names;

/// The largest number of connections at one time. Further connections wait in the listener's queue.
const MAX_CONNECTIONS: usize = 1024;
/// The size of the largest body that `/api/echo` measures, in bytes.
const MAX_ECHO_BYTES: u64 = 64 * 1024 * 1024;
/// The longest delay of `/slow`, in milliseconds.
const MAX_SLOW_MS: u64 = 10_000;
/// The delay of `/slow` if the parameter `ms` is absent, in milliseconds.
const DEFAULT_SLOW_MS: u64 = 800;

/// Serves the site over HTTP/1.1 until the future is dropped. The drop closes all connections. While `fails` is set,
/// every response is a 503.
pub(super) async fn serve(listener: TcpListener, fails: &'static AtomicBool) {
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
                async move {
                    Ok::<_, Infallible>(if fails.load(Ordering::Relaxed) {
                        whole(StatusCode::SERVICE_UNAVAILABLE, TEXT, "The site is down.\n")
                    } else {
                        site.respond(request).await
                    })
                }
            });
            // Without TCP_NODELAY, small responses can arrive 40 ms late, because the kernel first waits for an
            // acknowledgement.
            let _ = stream.set_nodelay(true);
            // An error ends only this connection, so the error is ignored.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Returns the paths that the simulated visitors request, the most popular first.
pub(super) fn paths() -> Vec<String> {
    let mut paths: Vec<String> =
        ["/", "/assets/site.css", "/assets/site.js", "/images/logo.svg"].map(String::from).into();
    paths.extend(CONTENT.pictures.iter().take(4).map(|picture| picture.path.clone()));
    paths.extend(CONTENT.articles.iter().take(6).map(|article| format!("/articles/{}", article.slug)));
    paths.extend(["/assets/demo.woff2", "/shop", "/api/products", "/images/waves.svg"].map(String::from));
    paths.extend(CONTENT.pictures.iter().skip(4).map(|picture| picture.path.clone()));
    paths.extend(CONTENT.articles.iter().skip(6).map(|article| format!("/articles/{}", article.slug)));
    paths.extend((1..=CONTENT.products.len()).map(|number| format!("/api/products/{number}")));
    paths.extend(
        ["/about", "/images/compass.svg", "/login", "/nowhere", "/odd/two-lines", "/odd/expires"].map(String::from),
    );
    paths
}

/// The site with all its resources.
#[derive(Debug)]
pub(super) struct Site {
    resources: HashMap<String, Resource>,
    not_found: Bytes,
}

impl Site {
    pub(super) fn new() -> Self {
        let mut resources = HashMap::new();
        let mut add = |path: &str, resource| {
            resources.insert(path.to_owned(), resource);
        };
        add("/", Resource::new(HTML, content::front()).modified(CONTENT.articles[0].published));
        add("/shop", Resource::new(HTML, content::shop()));
        add("/about", Resource::new(HTML, content::about()));
        add("/assets/site.css", Resource::new("text/css; charset=utf-8", content::STYLE));
        add("/assets/site.js", Resource::new("text/javascript; charset=utf-8", content::SCRIPT));
        add("/assets/demo.woff2", Resource::new("font/woff2", media::font(24_000)).with_ranges());
        for (index, article) in CONTENT.articles.iter().enumerate() {
            let page = Resource::new(HTML, content::article(index, article)).modified(article.published);
            add(&format!("/articles/{}", article.slug), page);
        }
        for (path, drawing) in content::DRAWINGS {
            add(path, Resource::new("image/svg+xml", drawing).with_ranges());
        }
        for content::Picture { path, palette } in &CONTENT.pictures {
            let picture = match path.rsplit_once('.') {
                Some((_, "png")) => Resource::new("image/png", media::png(240, 160, palette)),
                _ => Resource::new("image/jpeg", media::jpeg(120, 80, palette)),
            };
            add(path, picture.with_ranges());
        }
        let mut records = Vec::new();
        for (number, product) in (1..).zip(&CONTENT.products) {
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
        let odd = &[(names::CACHE_CONTROL, "public, max-age=600"), (names::CACHE_CONTROL, "no-store")];
        add("/odd/two-lines", Resource::new(HTML, two_lines).with_fields(odd));
        let expires = content::page(
            "Expires",
            "<h1>As in the last century</h1>\n<p>Pragma and Expires, and nothing newer.</p>\n",
        );
        let odd = &[(names::PRAGMA, "no-cache"), (names::EXPIRES, "Thu, 01 Jan 1998 00:00:00 GMT")];
        add("/odd/expires", Resource::new(HTML, expires).with_fields(odd));

        let not_found = content::page(
            "Not found",
            "<h1>Nothing washed up here</h1>\n<p>Try the <a href=\"/\">front page</a>.</p>\n",
        );
        Self { resources, not_found: not_found.into() }
    }

    pub(super) async fn respond(&self, request: Request<Incoming>) -> Response<SiteBody> {
        let head = request.method() == Method::HEAD;
        let mut response = self.route(request).await;
        if head {
            // The response keeps the Content-Length that the response to a GET would have, as RFC 9110 §9.3.2
            // recommends.
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
            return resource.respond(request.method(), request.headers());
        }
        let query = request.uri().query();
        match path {
            "/slow" => slow(query).await,
            "/fail" => fail(query),
            "/stream" => events(),
            "/login" => login(),
            "/private" => private(request.headers()),
            _ => self.not_found(),
        }
    }

    fn not_found(&self) -> Response<SiteBody> {
        whole(StatusCode::NOT_FOUND, HTML, self.not_found.clone())
    }
}

fn not_allowed(allowed: &'static str) -> Response<SiteBody> {
    let mut response =
        whole(StatusCode::METHOD_NOT_ALLOWED, TEXT, "This path does not support the request's method.\n");
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
            return whole(StatusCode::BAD_REQUEST, TEXT, "The request body is incomplete.\n");
        };
        let data = frame.data_ref().map_or(0, Bytes::len);
        length = length.saturating_add(u64::try_from(data).unwrap_or(u64::MAX));
        if length > MAX_ECHO_BYTES {
            return whole(StatusCode::PAYLOAD_TOO_LARGE, TEXT, "The request body is too large; send at most 64 MiB.\n");
        }
    }
    // The fields are pairs and not a map, so that repeated lines and the order of the lines stay visible.
    let lines: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| [name.as_str().into(), String::from_utf8_lossy(value.as_bytes())])
        .collect();
    let uri = head.uri.to_string();
    let text = json!({"method": head.method.as_str(), "uri": uri, "headers": lines, "body_bytes": length}).to_string();
    let mut response = whole(StatusCode::OK, JSON, text);
    // The body repeats data from the request, so browsers must not treat the body as HTML.
    response.headers_mut().insert(names::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn slow(query: Option<&str>) -> Response<SiteBody> {
    let Ok(wanted) = parameter(query, "ms").map_or(Ok(DEFAULT_SLOW_MS), str::parse::<u64>) else {
        return whole(
            StatusCode::BAD_REQUEST,
            TEXT,
            "ms is not a number of milliseconds; write for example /slow?ms=800.\n",
        );
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
            let inner = "<h1>The stove has gone out</h1>\n<p>This is the origin's own error page.</p>\n";
            whole(status, HTML, content::page("Out of order", inner))
        }
        None => whole(
            StatusCode::BAD_REQUEST,
            TEXT,
            "status is not a number from 500 to 599; write for example /fail?status=503.\n",
        ),
    }
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

fn parameter<'query>(query: Option<&'query str>, name: &str) -> Option<&'query str> {
    query?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::response::{STREAM_EVENTS, STREAM_PAUSE};
    use super::*;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn start() -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port is available");
        let address = listener.local_addr().expect("the listener has an address");
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Box::leak(Box::default())));
        (address, server)
    }

    /// Sends one request on a new connection. Returns the response head in lower case, and the body.
    async fn fetch(address: SocketAddr, line: &str, fields: &str, body: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(address).await.expect("the connection is made");
        let request = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n{body}");
        stream.write_all(request.as_bytes()).await.expect("the write succeeds");
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.expect("the read succeeds");
        let end = response.windows(4).position(|four| four == b"\r\n\r\n").expect("the response has a head") + 4;
        let body = response.split_off(end);
        (String::from_utf8(response).expect("the text is UTF-8").to_lowercase(), body)
    }

    fn status(head: &str) -> u16 {
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("the head has a status")
    }

    fn field<'head>(head: &'head str, name: &str) -> Option<&'head str> {
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    #[tokio::test]
    async fn listed_path_when_requested_then_response_has_the_right_status_and_content_length() {
        let (address, _server) = start().await;
        for path in paths() {
            let (head, body) = fetch(address, &format!("GET {path}"), "", "").await;
            assert_eq!(status(&head), if path == "/nowhere" { 404 } else { 200 }, "{path}");
            assert_eq!(field(&head, "content-length"), Some(body.len().to_string().as_str()), "{path}");
            assert!(field(&head, "content-encoding").is_none() && !body.is_empty());
        }
    }

    #[tokio::test]
    async fn page_links_when_checked_then_lead_to_known_paths() {
        let site = Site::new();
        let pages = site.resources.values().filter(|resource| resource.content_type == HTML);
        for resource in pages {
            let page = str::from_utf8(&resource.bytes).expect("the text is UTF-8");
            for link in page.split(['"']).filter(|text| text.starts_with('/')) {
                let path = link.split('?').next().expect("the link has a path");
                let dynamic =
                    ["/slow", "/fail", "/stream", "/login", "/private", "/api/echo", "/nowhere"].contains(&path);
                assert!(dynamic || site.resources.contains_key(path), "{link}");
            }
        }
    }

    #[tokio::test]
    async fn site_when_two_requests_use_one_connection_then_sends_two_responses() {
        let (address, _server) = start().await;
        let mut stream = TcpStream::connect(address).await.expect("the connection is made");
        let two = "HEAD / HTTP/1.1\r\nHost: x\r\n\r\nHEAD /about HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(two.as_bytes()).await.expect("the write succeeds");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("the read succeeds");
        assert_eq!(text.matches("HTTP/1.1 200").count(), 2);
    }

    #[tokio::test]
    async fn site_when_request_is_conditional_then_sends_304_without_a_body_only_if_validators_match() {
        let (address, _server) = start().await;
        let (head, _) = fetch(address, "GET /about", "", "").await;
        let (etag, date) = (
            field(&head, "etag").expect("the response has an entity tag"),
            field(&head, "last-modified").expect("the response has Last-Modified"),
        );
        let cases = [
            (format!("If-None-Match: {etag}\r\n"), 304),
            (format!("If-None-Match: \"a\", W/{etag}\r\n"), 304),
            ("If-None-Match: *\r\n".to_owned(), 304),
            (format!("If-None-Match: \"a\"\r\nIf-Modified-Since: {date}\r\n"), 200),
            (
                format!(
                    "If-Modified-Since: {}\r\n",
                    httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(resource::SITE_DATE))
                ),
                304,
            ),
            ("If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT\r\n".to_owned(), 200),
            ("If-Modified-Since: yesterday\r\n".to_owned(), 200),
        ];
        for (fields, wanted) in cases {
            let (head, body) = fetch(address, "GET /about", &fields, "").await;
            assert_eq!(status(&head), wanted, "{fields}");
            assert_eq!(body.is_empty(), wanted == 304, "{fields}");
            assert_eq!(field(&head, "etag"), Some(etag), "{fields}");
        }
    }

    #[tokio::test]
    async fn site_when_method_is_head_then_sends_content_length_without_a_body() {
        let (address, _server) = start().await;
        for path in ["/", "/images/lamp.png", "/api/echo", "/fail?status=507", "/private", "/nowhere"] {
            let (head, body) = fetch(address, &format!("HEAD {path}"), "", "").await;
            assert!(body.is_empty(), "{path}");
            let length: u64 = field(&head, "content-length")
                .and_then(|length| length.parse().ok())
                .expect("the response has Content-Length");
            assert!(length > 0, "{path}");
        }
    }

    #[tokio::test]
    async fn site_when_range_is_requested_then_sends_the_part_or_416_or_the_whole_resource() {
        let (address, _server) = start().await;
        let (head, all) = fetch(address, "GET /images/lamp.png", "", "").await;
        assert_eq!(field(&head, "accept-ranges"), Some("bytes"));
        let etag = field(&head, "etag").expect("the response has an entity tag");
        let (head, part) = fetch(address, "GET /images/lamp.png", "Range: bytes=10-19\r\n", "").await;
        assert_eq!((status(&head), part.as_slice()), (206, &all[10..20]));
        assert_eq!(field(&head, "content-range"), Some(format!("bytes 10-19/{}", all.len()).as_str()));
        let (head, part) = fetch(address, "GET /images/lamp.png", "Range: bytes=-5\r\n", "").await;
        assert_eq!((status(&head), part.as_slice()), (206, &all[all.len() - 5..]));
        let (head, part) = fetch(address, "GET /images/lamp.png", "Range: bytes=99999999-\r\n", "").await;
        assert_eq!((status(&head), part.len()), (416, 0));
        assert_eq!(field(&head, "content-range"), Some(format!("bytes */{}", all.len()).as_str()));
        for (fields, wanted) in [
            (format!("Range: bytes=0-1\r\nIf-Range: {etag}\r\n"), 206),
            ("Range: bytes=0-1\r\nIf-Range: \"other\"\r\n".to_owned(), 200),
            ("Range: bytes=0-1,4-5\r\n".to_owned(), 200),
            ("Range: lines=0-1\r\n".to_owned(), 200),
        ] {
            assert_eq!(status(&fetch(address, "GET /images/lamp.png", &fields, "").await.0), wanted, "{fields}");
        }
        assert_eq!(status(&fetch(address, "GET /about", "Range: bytes=0-1\r\n", "").await.0), 200);
    }

    #[tokio::test]
    async fn route_when_method_query_or_fields_differ_then_sends_the_expected_status_and_fields() {
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
            assert_eq!(status(&fetch(address, line, fields, "").await.0), wanted, "{line}");
        }
        let (head, _) = fetch(address, "GET /login", "", "").await;
        assert!(field(&head, "set-cookie").is_some());
        let (head, _) = fetch(address, "GET /odd/two-lines", "", "").await;
        assert_eq!(head.matches("cache-control: ").count(), 2);
        let (head, _) = fetch(address, "GET /odd/expires", "", "").await;
        assert!(field(&head, "expires").is_some() && field(&head, "pragma").is_some());
        let (head, body) = fetch(address, "POST /api/echo", "X-Odd: 1\r\nContent-Length: 5\r\n", "12345").await;
        assert_eq!(status(&head), 200);
        let echoed: serde_json::Value = serde_json::from_slice(&body).expect("the body is JSON");
        assert_eq!((&echoed["method"], &echoed["body_bytes"]), (&json!("POST"), &json!(5)));
        assert!(echoed["headers"].as_array().expect("the fields are an array").contains(&json!(["x-odd", "1"])));
    }

    #[tokio::test]
    async fn stream_when_read_to_the_end_then_has_ten_events_with_pauses() {
        let (address, _server) = start().await;
        let begun = std::time::Instant::now();
        let (head, body) = fetch(address, "GET /stream", "", "").await;
        assert_eq!(field(&head, "content-type"), Some("text/event-stream"));
        assert_eq!(String::from_utf8_lossy(&body).matches("data: wave").count(), 10);
        assert!(begun.elapsed() >= STREAM_PAUSE * (STREAM_EVENTS - 1));
    }
}
