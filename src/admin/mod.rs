//! The listener for operators (`[admin]`): metrics, probes and the effective configuration. The listener has its own
//! thread and runtime, so that a scrape and a busy worker never wait for each other. The listener has its own socket,
//! so that nothing of `admin` can be reached through `[server]`.

mod top_list;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::config::Listen;
use crate::metrics::Metrics;
use crate::runtime::Slot;
use crate::wire::names::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};

/// The time between two upkeeps. An upkeep notes the totals of pulls, and moves the histogram samples into their
/// buckets. Without these moves, the samples would accumulate in memory until the next scrape.
const UPKEEP: Duration = Duration::from_secs(1);
/// The longest time in which a client must send a complete request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest number of open connections. Each further connection is closed at once. One scraper uses one connection.
const MAX_CONNECTIONS: usize = 256;
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PROTOBUF: &str = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// Binds the address of `[admin] listen`. Starts a thread that serves this address until the process ends. Returns the
/// bound address.
pub(crate) fn start(slot: &'static Slot, is_ready: impl Fn() -> bool + Send + Sync + 'static) -> io::Result<String> {
    let runtime = slot.load();
    let listen = &runtime.settings().admin.listen;
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {listen} for admin: {error}"));
    let (listener, address) = bind(listen).map_err(named)?;
    let metrics = runtime.metrics();
    let routes = Arc::new(Routes { slot, metrics, is_ready: Box::new(is_ready) });
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("admin".to_owned()).spawn(move || {
        tokio.block_on(async {
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(UPKEEP);
                loop {
                    ticks.tick().await;
                    metrics.upkeep();
                }
            });
            if let Err(error) = accept(listener, routes).await {
                tracing::error!(%error, "the admin listener has failed");
            }
        });
    })?;
    Ok(address)
}

enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

fn bind(listen: &Listen) -> io::Result<(Listener, String)> {
    match listen {
        Listen::Tcp(address) => {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let bound: SocketAddr = listener.local_addr()?;
            Ok((Listener::Tcp(listener), format!("http://{bound}")))
        }
        Listen::Unix(path) => {
            // A killed process leaves its socket file behind. So a socket file on which nothing listens is removed. Any
            // other file is not touched.
            let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
            if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
                std::fs::remove_file(path)?;
            }
            let listener = std::os::unix::net::UnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            Ok((Listener::Unix(listener), format!("unix:{}", path.display())))
        }
    }
}

async fn accept(listener: Listener, routes: Arc<Routes>) -> io::Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            serve(async || listener.accept().await.map(|(stream, _)| stream), &routes).await;
        }
        Listener::Unix(listener) => {
            let listener = UnixListener::from_std(listener)?;
            serve(async || listener.accept().await.map(|(stream, _)| stream), &routes).await;
        }
    }
    Ok(())
}

async fn serve<S>(accept: impl AsyncFn() -> io::Result<S>, routes: &Arc<Routes>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        match accept().await {
            Ok(stream) => spawn(stream, routes, &open),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn spawn<S>(stream: S, routes: &Arc<Routes>, open: &Arc<AtomicUsize>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if open.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
        return;
    }
    open.fetch_add(1, Ordering::Relaxed);
    let open = Arc::clone(open);
    let routes = Arc::clone(routes);
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let response = routes.respond(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "an admin connection failed");
        }
        open.fetch_sub(1, Ordering::Relaxed);
    });
}

struct Routes {
    slot: &'static Slot,
    metrics: &'static Metrics,
    is_ready: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Routes {
    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Use GET or HEAD.\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/livez" => return text(StatusCode::OK, "alive\n"),
            "/readyz" if (self.is_ready)() => return text(StatusCode::OK, "ready\n"),
            "/readyz" => return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            "/metrics" => return self.scrape(request),
            _ => {}
        }
        if !self.is_allowed(request) {
            let mut response = text(StatusCode::UNAUTHORIZED, "Send admin.token: Authorization: Bearer ...\n");
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response;
        }
        match path {
            "/config" => {
                let config = self.slot.load().settings().effective_json();
                with_type(StatusCode::OK, "application/json", format!("{config:#}\n").into_bytes())
            }
            "/api/top" => {
                with_type(StatusCode::OK, "application/json", top_list::json(self.slot.load().tops()).into_bytes())
            }
            "/" => text(StatusCode::OK, "edgeshim\n\n/metrics\n/livez\n/readyz\n/config\n/api/top\n"),
            _ => text(StatusCode::NOT_FOUND, "Not found. Use /metrics, /livez, /readyz, /config or /api/top.\n"),
        }
    }

    fn scrape(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let wants_protobuf =
            request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| {
                // Prometheus lists the accepted formats, with the preferred format first.
                accept.trim_start().starts_with("application/vnd.google.protobuf")
            });
        if wants_protobuf {
            with_type(StatusCode::OK, PROTOBUF, self.metrics.render_protobuf())
        } else {
            with_type(StatusCode::OK, TEXT, self.metrics.render().into_bytes())
        }
    }

    fn is_allowed(&self, request: &Request<Incoming>) -> bool {
        let runtime = self.slot.load();
        let Some(token) = &runtime.settings().admin.token else { return true };
        let sent = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        match sent.split_at_checked(7) {
            Some((scheme, sent)) => scheme.eq_ignore_ascii_case(b"Bearer ") && token.matches(sent),
            None => false,
        }
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body.as_bytes().to_vec())
}

fn with_type(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
