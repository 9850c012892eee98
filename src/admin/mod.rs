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
use tokio::sync::Notify;

pub(crate) use self::annotations::Mark;
pub(crate) use self::page::style;
use self::routes::Routes;
use self::sampler::Board;
use self::sessions::Sessions;
use crate::clock;
use crate::config::Listen;
use crate::metrics::Metrics;
use crate::runtime::{Slot, Socket};

/// The time between two upkeeps. An upkeep stores the totals of pulls, sends new numbers to the page, and moves the
/// histogram samples into their buckets. Without these moves, the samples would accumulate in memory until the next
/// scrape. The totals are stored at whole seconds of Unix time, because the sums of the CDNs' logs are also by whole
/// seconds.
const UPKEEP: Duration = Duration::from_secs(1);
/// The time within which a client must send a complete request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The time between two attempts to bind an address that another process still uses.
const BIND_PAUSE: Duration = Duration::from_millis(200);
/// The number of attempts between two warnings. These attempts take a minute.
const ATTEMPTS_PER_WARNING: u32 = 300;
/// The largest number of open connections. Each further connection is closed at once. One scraper uses one connection.
const MAX_CONNECTIONS: usize = 256;

/// The running admin listener.
pub(crate) struct Admin {
    /// The address as edgeshim prints it at its start: `http://…` or `unix:…`. If the address is still in use, the
    /// configured address with a note.
    pub address: String,
    board: &'static Board,
    /// A second descriptor of the socket, for the hand-over to another process.
    socket: Option<Socket>,
    handed_over: Arc<Notify>,
}

/// Where the listening socket comes from.
pub(crate) enum Source {
    Bind,
    /// The old process, which this process replaces, can still use the address. So the listener tries again until the
    /// address is free.
    BindWhenFree,
    Inherited(Socket),
}

impl Admin {
    /// Returns a descriptor of the listening socket, for another process.
    pub(crate) fn socket(&self) -> Option<Socket> {
        self.socket.as_ref().and_then(|socket| socket.try_clone().ok())
    }

    /// Accepts no further connections, because another process serves the socket now.
    pub(crate) fn hand_over(&self) {
        self.handed_over.notify_one();
    }

    /// Marks the current moment on the time axis of the page.
    pub(crate) fn mark(&self, kind: Mark, text: &str) {
        self.board.mark(kind, text, annotations::now());
    }
}

/// Binds the address of `[admin] listen`, or uses an inherited socket. Starts a thread that serves this address until
/// the socket is handed over or the process ends.
pub(crate) fn start(
    slot: &'static Slot,
    source: Source,
    is_ready: impl Fn() -> bool + Send + Sync + 'static,
) -> io::Result<Admin> {
    let runtime = slot.load();
    let listen = runtime.settings().admin.listen.clone();
    let named = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "; stop the other process, or write another address in admin.listen",
            _ => "",
        };
        io::Error::new(error.kind(), format!("cannot listen on {listen} for admin: {error}{remedy}"))
    };
    let listener = match source {
        Source::Inherited(socket) => Some(socket),
        Source::Bind => Some(bind(&listen).map_err(named)?),
        Source::BindWhenFree => match bind(&listen) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            bound => Some(bound.map_err(named)?),
        },
    };
    let address = match &listener {
        Some(listener) => address(listener)?,
        None => format!("{listen} (as soon as the process that has this address ends)"),
    };
    let socket = listener.as_ref().map(Socket::try_clone).transpose()?;
    let handed_over = Arc::new(Notify::new());
    let until = Arc::clone(&handed_over);
    let metrics = runtime.metrics();
    let board: &'static Board = Box::leak(Box::new(Board::new(slot, metrics)));
    let is_tcp = match &listener {
        Some(socket) => matches!(socket, Socket::Tcp(_)),
        None => !matches!(listen, Listen::Unix(_)),
    };
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
            let serve = async {
                let listener = match listener {
                    Some(listener) => listener,
                    None => bind_when_free(&listen).await?,
                };
                accept(listener, routes).await
            };
            tokio::select! {
                served = serve => if let Err(error) = served {
                    tracing::error!(%error, "the admin listener has failed");
                },
                // The connections and the upkeep continue.
                () = until.notified() => std::future::pending().await,
            }
        });
    })?;
    let admin = Admin { address, board, socket, handed_over };
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

fn address(listener: &Socket) -> io::Result<String> {
    Ok(match listener {
        Socket::Tcp(listener) => format!("http://{}", listener.local_addr()?),
        Socket::Unix(_) => listener.to_string(),
    })
}

fn bind(listen: &Listen) -> io::Result<Socket> {
    match listen {
        // The configuration has no TLS for `admin`.
        Listen::Tcp(address) | Listen::Tls(address) => std::net::TcpListener::bind(address).map(Socket::Tcp),
        Listen::Unix(path) => {
            // If a connection to the socket file is refused, no process listens on it: a killed process has left the
            // file behind. So the file is removed. In all other cases the file is not removed, and `bind` fails.
            let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
            let is_refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            if is_socket && std::os::unix::net::UnixStream::connect(path).is_err_and(is_refused) {
                std::fs::remove_file(path)?;
            }
            std::os::unix::net::UnixListener::bind(path).map(Socket::Unix)
        }
    }
}

/// Tries to bind the address until no other process uses the address.
async fn bind_when_free(listen: &Listen) -> io::Result<Socket> {
    let mut attempts = 0_u32;
    loop {
        match bind(listen) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => tokio::time::sleep(BIND_PAUSE).await,
            bound => return bound,
        }
        attempts += 1;
        if attempts.is_multiple_of(ATTEMPTS_PER_WARNING) {
            tracing::warn!(
                "admin.listen: {listen} is still in use; if the old process has ended, stop the other process that has \
                 this address"
            );
        }
    }
}

async fn accept(listener: Socket, routes: Arc<Routes>) -> io::Result<()> {
    match listener {
        Socket::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            serve(async || listener.accept().await.map(|(stream, _)| stream), &routes).await;
        }
        Socket::Unix(listener) => {
            listener.set_nonblocking(true)?;
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
