//! The listener for operators (`[admin]`): the page, metrics, probes, annotations and the effective configuration. The
//! listener has its own thread and runtime, so that a scrape and a busy worker never wait for each other. The listener
//! has its own socket, so that nothing of `admin` can be reached through `[server]`.

mod annotations;
mod convergence;
mod digits;
mod events;
mod history;
mod outages;
mod page;
mod routes;
mod sampler;
mod scrape;
mod sessions;
mod summary;
mod top_list;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

pub(crate) use self::annotations::Mark;
use self::routes::Routes;
use self::sampler::Board;
use self::sessions::Sessions;
use crate::clock;
use crate::config::Listen;
use crate::metrics::Metrics;
use crate::runtime::Slot;

/// The time between two upkeeps. An upkeep stores the totals of pulls, sends new numbers to the page, and moves the
/// histogram samples into their buckets. Without these moves, the samples would accumulate in memory until the next
/// scrape. The totals are stored at whole seconds of Unix time, because the sums of the CDNs' logs are also by whole
/// seconds.
const UPKEEP: Duration = Duration::from_secs(1);
/// The time within which a client must send a complete request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest number of open connections. Each further connection is closed at once. One scraper uses one connection.
const MAX_CONNECTIONS: usize = 256;

/// The running admin listener.
pub(crate) struct Admin {
    /// The address as edgeshim prints it at its start: `http://…` or `unix:…`.
    pub address: String,
    board: &'static Board,
}

impl Admin {
    /// Marks the current moment on the time axis of the page.
    pub(crate) fn mark(&self, kind: Mark, text: &str) {
        self.board.mark(kind, text, annotations::now());
    }
}

/// Binds the address of `[admin] listen`. Starts a thread that serves this address until the process ends.
pub(crate) fn start(slot: &'static Slot, is_ready: impl Fn() -> bool + Send + Sync + 'static) -> io::Result<Admin> {
    let runtime = slot.load();
    let listen = &runtime.settings().admin.listen;
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {listen} for admin: {error}"));
    let (listener, address) = bind(listen).map_err(named)?;
    let metrics = runtime.metrics();
    let board: &'static Board = Box::leak(Box::new(Board::new(slot, metrics)));
    let is_tcp = matches!(listener, Listener::Tcp(_));
    let (sessions, is_ready) = (Sessions::new()?, Box::new(is_ready));
    let routes = Arc::new(Routes { slot, metrics, board, is_tcp, sessions, is_ready });
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("admin".to_owned()).spawn(move || {
        tokio.block_on(async {
            tokio::spawn(async move {
                // Without upkeep the memory would grow, so upkeep goes on even after a panic.
                while tokio::spawn(upkeep(metrics, board)).await.is_err() {
                    tracing::error!("a bug in edgeshim: the upkeep of the metrics has panicked, and starts again");
                }
            });
            if let Err(error) = accept(listener, routes).await {
                tracing::error!(%error, "the admin listener has failed");
            }
        });
    })?;
    let admin = Admin { address, board };
    admin.mark(Mark::Start, concat!("edgeshim ", env!("CARGO_PKG_VERSION"), " started"));
    Ok(admin)
}

/// Does the upkeep at each whole second of Unix time. This function does not return.
async fn upkeep(metrics: &'static Metrics, board: &'static Board) {
    loop {
        let now = clock::unix_time();
        tokio::time::sleep(UPKEEP.saturating_sub(Duration::from_nanos(now.subsec_nanos().into()))).await;
        metrics.upkeep();
        board.sample();
    }
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
            // If a connection to the socket file is refused, no process listens on it: a killed process has left the
            // file behind. So the file is removed. In all other cases the file is not removed, and `bind` fails.
            let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
            let is_refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            if is_socket && std::os::unix::net::UnixStream::connect(path).is_err_and(is_refused) {
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
    let place = Place(Arc::clone(open));
    let routes = Arc::clone(routes);
    tokio::spawn(async move {
        let _place = place;
        let service = service_fn(|request| routes.respond(request));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "an admin connection failed");
        }
    });
}

/// The place of one connection in the count of open connections. Dropping it frees the place, even after a panic.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
