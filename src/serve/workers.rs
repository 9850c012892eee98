//! The thread model. Each core has one worker, with a current-thread runtime, its own layers and its own connections to
//! the origin.
//!
//! CDNs keep few connections, which are long-lived and busy. If each worker had its own listener, the kernel could give
//! all these connections to one worker. So the first worker accepts each connection and hands it to the worker that has
//! the fewest connections. The connection stays there until it closes.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::MissedTickBehavior;

use super::conn;
use super::drain::Drain;
use super::listen::{Accepted, Detached, Incoming, Listener};
use super::permit::ConnectionPermit;
use super::worker::Worker;
use crate::clock;
use crate::metrics::Metrics;
use crate::runtime::{EdgeService, Runtime, Slot};

/// The pause of the acceptor after a failed accept. An accept usually fails because no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The number of clock sweeps between two calls of [`Worker::prune`].
const SWEEPS_PER_PRUNE: u32 = 10;

/// A connection that is handed to a worker.
struct Job {
    stream: Detached,
    permit: ConnectionPermit,
}

/// The acceptor's access to a worker: the channel for new connections, and the number of connections that the worker
/// has.
struct Handle {
    jobs: mpsc::UnboundedSender<Job>,
    load: Arc<AtomicUsize>,
}

/// The running workers.
pub(super) struct Workers {
    threads: Vec<JoinHandle<()>>,
    handles: Arc<[Handle]>,
}

impl Workers {
    /// Returns the number of connections of each worker.
    pub(super) fn loads(&self) -> Vec<usize> {
        self.handles.iter().map(|handle| handle.load.load(Ordering::Relaxed)).collect()
    }

    /// Waits until all workers have ended.
    pub(super) fn join(self) {
        for thread in self.threads {
            // A thread that panicked has already printed its panic message.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("loads", &self.loads()).finish_non_exhaustive()
    }
}

/// Starts the workers. The first worker also accepts connections.
pub(super) fn start(slot: &'static Slot, drain: &Arc<Drain>, listeners: Vec<Listener>) -> io::Result<Workers> {
    let count = slot.load().workers();
    let mut listeners = Some(listeners);
    let mut handles = Vec::with_capacity(count);
    let mut inboxes = Vec::with_capacity(count);
    for _ in 0..count {
        let (jobs, inbox) = mpsc::unbounded_channel();
        handles.push(Handle { jobs, load: Arc::new(AtomicUsize::new(0)) });
        inboxes.push(inbox);
    }
    let handles: Arc<[Handle]> = handles.into();
    let mut threads = Vec::with_capacity(count);
    for (index, inbox) in inboxes.into_iter().enumerate() {
        let listeners = listeners.take();
        let handles = Arc::clone(&handles);
        let drain = Arc::clone(drain);
        let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            if let Err(error) = run(slot, &drain, inbox, &handles, listeners) {
                tracing::error!(%error, "worker {index} cannot start");
            }
        })?;
        threads.push(thread);
    }
    Ok(Workers { threads, handles })
}

/// Begins the next turn and wakes a task that yielded.
struct NextTurn(Waker);

impl Wake for NextTurn {
    fn wake(self: Arc<Self>) {
        clock::begin_turn();
        self.0.wake_by_ref();
    }
}

fn run(
    slot: &'static Slot,
    drain: &Arc<Drain>,
    inbox: mpsc::UnboundedReceiver<Job>,
    handles: &Arc<[Handle]>,
    listeners: Option<Vec<Listener>>,
) -> io::Result<()> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    clock::on_yield(|cx| {
        // tokio first polls the sockets, and only then wakes a task that has called `yield_now`.
        let waker = Waker::from(Arc::new(NextTurn(cx.waker().clone())));
        let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
    });
    tokio.block_on(async {
        let worker = Arc::new(Worker::new(slot, Arc::clone(drain), Runtime::stack));
        tokio::spawn(sweep(Arc::clone(&worker)));
        if let Some(listeners) = listeners {
            accept_all(&worker, handles, listeners)?;
        }
        work(worker, inbox).await;
        Ok(())
    })
}

/// Serves the connections that are handed to this worker until the drain stops the worker. The caller then drops the
/// tasks that still run on this thread.
async fn work<E: EdgeService>(worker: Arc<Worker<E>>, mut inbox: mpsc::UnboundedReceiver<Job>) {
    let drain = Arc::clone(&worker.drain);
    let stopped = drain.stopped();
    tokio::pin!(stopped);
    let closing = drain.closing();
    tokio::pin!(closing);
    let mut woken = false;
    loop {
        tokio::select! {
            job = inbox.recv() => match job {
                Some(job) => match job.stream.attach() {
                    Ok(accepted) => spawn(accepted, job.permit, Arc::clone(&worker)),
                    Err(error) => tracing::warn!(%error, "a connection was lost while it was handed to another worker"),
                },
                None => return,
            },
            () = &mut closing, if !woken => {
                woken = true;
                clock::wake_all();
            }
            () = &mut stopped => return,
        }
    }
}

fn spawn<E: EdgeService>(accepted: Accepted, permit: ConnectionPermit, worker: Arc<Worker<E>>) {
    let address = accepted.address();
    let permit = Arc::new(permit);
    match accepted {
        Accepted::Tcp(stream, _) => drop(tokio::spawn(conn::serve(stream, address, worker, permit))),
        Accepted::Unix(stream) => drop(tokio::spawn(conn::serve(stream, address, worker, permit))),
    }
}

fn accept_all<E: EdgeService>(
    worker: &Arc<Worker<E>>,
    handles: &Arc<[Handle]>,
    listeners: Vec<Listener>,
) -> io::Result<()> {
    let runtime = worker.slot.load();
    let permits = Arc::new(Semaphore::new(runtime.settings().server.max_connections.min(Semaphore::MAX_PERMITS)));
    for listener in listeners {
        let incoming = listener.attach()?;
        let acceptor = Acceptor {
            worker: Arc::clone(worker),
            handles: Arc::clone(handles),
            permits: Arc::clone(&permits),
            metrics: runtime.metrics(),
        };
        // The drain counts the listener as a connection, so that the drain waits until the listener is closed.
        let drain = Arc::clone(&worker.drain);
        drain.opened();
        tokio::spawn(async move {
            tokio::select! {
                () = acceptor.run(&incoming) => {}
                () = drain.closing() => {}
            }
            acceptor.finish(incoming);
            drain.closed();
        });
    }
    Ok(())
}

struct Acceptor<E> {
    worker: Arc<Worker<E>>,
    handles: Arc<[Handle]>,
    permits: Arc<Semaphore>,
    metrics: &'static Metrics,
}

impl<E: EdgeService> Acceptor<E> {
    async fn run(&self, incoming: &Incoming) {
        loop {
            match incoming.accept().await {
                Ok(accepted) => {
                    // If `server.max_connections` connections are open, this connection waits here without being read,
                    // and later connections wait in the kernel's queue. The permit is acquired after the accept,
                    // because an idle listener would otherwise keep a permit that another listener needs.
                    let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return };
                    self.hand_over(accepted, permit);
                }
                Err(error) => {
                    let transient = matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::InvalidInput
                    );
                    if !transient {
                        tracing::warn!(%error, "cannot accept a connection; raise the limit of open files (ulimit -n)");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Closes the listener, so that the kernel refuses new connections. The connections that the kernel has already
    /// accepted are still served, because their clients can already have sent a request.
    fn finish(&self, incoming: Incoming) {
        for detached in incoming.close() {
            match (detached.attach(), Arc::clone(&self.permits).try_acquire_owned()) {
                (Ok(accepted), Ok(permit)) => self.hand_over(accepted, permit),
                (Err(error), _) => tracing::warn!(%error, "a connection was lost while the listener closed"),
                // `server.max_connections` connections are open, so the remaining connections cannot be served.
                (_, Err(_)) => return,
            }
        }
    }

    /// Gives the connection to the worker that has the fewest connections. If several workers have the fewest
    /// connections, the first of these workers gets the connection. So if all loads are equal, the worker that accepts
    /// the connections serves the connection itself.
    fn hand_over(&self, accepted: Accepted, permit: OwnedSemaphorePermit) {
        let fewest = self.handles.iter().enumerate().min_by_key(|(_, handle)| handle.load.load(Ordering::Relaxed));
        let Some((index, handle)) = fewest else { return };
        let permit = ConnectionPermit::new(&handle.load, &self.worker.drain, self.metrics, permit);
        if index == 0 {
            spawn(accepted, permit, Arc::clone(&self.worker));
            return;
        }
        match accepted.detach() {
            // Sending fails only if the worker has ended. In this case the process is ending too.
            Ok(stream) => drop(handle.jobs.send(Job { stream, permit })),
            Err(error) => tracing::warn!(%error, "a connection was lost while it was handed to another worker"),
        }
    }
}

async fn sweep<E: EdgeService>(worker: Arc<Worker<E>>) {
    let mut ticks = tokio::time::interval(clock::TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweeps = 0_u32;
    loop {
        ticks.tick().await;
        clock::sweep();
        sweeps += 1;
        if sweeps.is_multiple_of(SWEEPS_PER_PRUNE) {
            worker.prune();
        }
    }
}
