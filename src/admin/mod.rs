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
mod summary;
mod top_list;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;

pub(crate) use self::annotations::Mark;
pub(crate) use self::page::style;
use self::routes::Routes;
use self::sampler::Board;
use crate::clock;
use crate::config::Listen;
use crate::metrics::Metrics;
use crate::operators::listener::{accept, address, bind, bind_for};
use crate::operators::sessions::Sessions;
use crate::runtime::{Slot, Socket};

/// The time between two upkeeps. An upkeep stores the totals of pulls, sends new numbers to the page, and moves the
/// histogram samples into their buckets. Without these moves, the samples would accumulate in memory until the next
/// scrape. The totals are stored at whole seconds of Unix time, because the sums of the CDNs' logs are also by whole
/// seconds.
const UPKEEP: Duration = Duration::from_secs(1);
/// The time between two attempts to bind an address that another process still uses.
const BIND_PAUSE: Duration = Duration::from_millis(200);
/// The number of attempts between two warnings. These attempts take a minute.
const ATTEMPTS_PER_WARNING: u32 = 300;

/// The running admin listener.
pub(crate) struct Admin {
    /// The address as edgeshim prints it at its start: `http://…` or `unix:…`. If the address is still in use,
    /// the text is the configured address with a note.
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
    let listener = match source {
        Source::Inherited(socket) => Some(socket),
        Source::Bind => Some(bind_for(&listen, "admin.listen", "admin")?),
        Source::BindWhenFree => match bind_for(&listen, "admin.listen", "admin") {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            bound => Some(bound?),
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
    let (sessions, is_ready) = (Sessions::new("edgeshim_admin_session")?, Box::new(is_ready));
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
                () = until.notified() => {}
            }
            // The connections and the upkeep continue.
            std::future::pending::<()>().await;
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
