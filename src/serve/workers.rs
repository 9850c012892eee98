//! **The** thread model: one current-thread runtime a core, each with its own layers and its own connections to the origin.
//!
//! CDNs keep few, long and busy connections, and the kernel's hash may put them all on one core. So the first worker accepts, and
//! hands each connection to the worker that has the fewest; there it stays.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::MissedTickBehavior;

use super::conn::{self, Limits};
use super::drain::Drain;
use super::listen::{Accepted, Detached, Incoming, Listener};
use crate::clock;
use crate::edge::request::EdgeRequest;
use crate::metrics::Metrics;
use crate::origin;
use crate::runtime::{EdgeService, Runtime, Slot};

/// How long the acceptor rests when the system has no file descriptor to give.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Sweeps between two prunings of the pool.
const SWEEPS_PER_PRUNE: u32 = 10;

/// One worker's view of the configuration: the layers that are in force, and those before a swap until the next request.
pub(super) struct Worker<E> {
    slot: &'static Slot,
    drain: Arc<Drain>,
    current: Mutex<Current<E>>,
}

struct Current<E> {
    runtime: Arc<Runtime>,
    stack: E,
    origin: Arc<origin::Client>,
    limits: Arc<Limits>,
    /// Makes all of the above for a configuration.
    make: fn(&Runtime) -> (E, Arc<origin::Client>),
}

impl<E> Current<E> {
    fn new(runtime: Arc<Runtime>, make: fn(&Runtime) -> (E, Arc<origin::Client>)) -> Self {
        let (stack, origin) = make(&runtime);
        let limits = Arc::new(Limits::new(&runtime.settings().server, &runtime.settings().origin));
        Self { runtime, stack, origin, limits, make }
    }
}

impl<E: EdgeService> Worker<E> {
    /// The layers' call, under the configuration that is in force now: the one load of the slot in a request's life.
    pub(super) fn call(&self, request: Box<EdgeRequest>) -> E::Future {
        self.current().stack.call(request)
    }

    pub(super) fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.current().limits)
    }

    /// What is in force, made anew after a swap.
    fn current(&self) -> MutexGuard<'_, Current<E>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.slot.holds(&current.runtime) {
            *current = Current::new(self.slot.load(), current.make);
        }
        current
    }
}

impl<E> Worker<E> {
    pub(super) fn runtime(&self) -> Arc<Runtime> {
        self.slot.load()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.drain.is_closing()
    }

    fn prune(&self) {
        let origin = Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner).origin);
        origin.prune();
    }
}

/// A connection for a worker, with its place among `max_connections`.
struct Job {
    stream: Detached,
    place: Place,
}

/// Counts a connection wherever it is counted, for as long as it lives.
pub(super) struct Place {
    load: Arc<AtomicUsize>,
    drain: Arc<Drain>,
    metrics: &'static Metrics,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn new(
        load: &Arc<AtomicUsize>,
        drain: &Arc<Drain>,
        metrics: &'static Metrics,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        drain.opened();
        metrics.connections.increment(1.0);
        Self { load: Arc::clone(load), drain: Arc::clone(drain), metrics, _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections.decrement(1.0);
        self.drain.closed();
    }
}

/// A worker as the acceptor sees it.
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
    /// Connections of each.
    pub(super) fn loads(&self) -> Vec<usize> {
        self.handles.iter().map(|handle| handle.load.load(Ordering::Relaxed)).collect()
    }

    /// Waits for their end.
    pub(super) fn join(self) {
        for thread in self.threads {
            // A worker that panicked has said so on its own; the others are stopped all the same.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("loads", &self.loads()).finish_non_exhaustive()
    }
}

/// Starts the workers; the first of them accepts.
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
                tracing::error!(%error, "worker {index} cannot run");
            }
        })?;
        threads.push(thread);
    }
    Ok(Workers { threads, handles })
}

/// Wakes a task that gave way.
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
    clock::on_give_way(|cx| {
        // The runtime wakes it after its next look at the sockets.
        let waker = Waker::from(Arc::new(NextTurn(cx.waker().clone())));
        let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
    });
    tokio.block_on(async {
        let current = Mutex::new(Current::new(slot.load(), Runtime::stack));
        let worker = Arc::new(Worker { slot, drain: Arc::clone(drain), current });
        tokio::spawn(sweep(Arc::clone(&worker)));
        if let Some(listeners) = listeners {
            accept_all(&worker, handles, listeners)?;
        }
        work(worker, inbox).await;
        Ok(())
    })
}

/// Takes connections until the process ends; leaving drops whatever is still running here.
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
                    Ok(accepted) => spawn(accepted, job.place, Arc::clone(&worker)),
                    Err(error) => tracing::warn!(%error, "a connection was lost between two workers"),
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

fn spawn<E: EdgeService>(accepted: Accepted, place: Place, worker: Arc<Worker<E>>) {
    let address = accepted.address();
    let place = Arc::new(place);
    match accepted {
        Accepted::Tcp(stream, _) => drop(tokio::spawn(conn::serve(stream, address, worker, place))),
        Accepted::Unix(stream) => drop(tokio::spawn(conn::serve(stream, address, worker, place))),
    }
}

fn accept_all<E: EdgeService>(
    worker: &Arc<Worker<E>>,
    handles: &Arc<[Handle]>,
    listeners: Vec<Listener>,
) -> io::Result<()> {
    let runtime = worker.runtime();
    let places = Arc::new(Semaphore::new(runtime.settings().server.max_connections.min(Semaphore::MAX_PERMITS)));
    for listener in listeners {
        let incoming = listener.attach()?;
        let acceptor = Acceptor {
            worker: Arc::clone(worker),
            handles: Arc::clone(handles),
            places: Arc::clone(&places),
            metrics: runtime.metrics(),
        };
        // It counts like a connection: the drain is not over before the listener is closed.
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
    places: Arc<Semaphore>,
    metrics: &'static Metrics,
}

impl<E: EdgeService> Acceptor<E> {
    async fn run(&self, incoming: &Incoming) {
        loop {
            match incoming.accept().await {
                Ok(accepted) => {
                    // Above max_connections this one waits here, unread, and those behind it in the kernel's queue. A place taken
                    // before the connection is there would be one that no other listener can give away.
                    let Ok(permit) = Arc::clone(&self.places).acquire_owned().await else { return };
                    self.place(accepted, permit);
                }
                Err(error) => {
                    let transient = matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::InvalidInput
                    );
                    if !transient {
                        tracing::warn!(%error, "cannot accept a connection; raise the limit of open files (ulimit -n)");
                        tokio::time::sleep(ACCEPT_REST).await;
                    }
                }
            }
        }
    }

    /// Closes the listener; the kernel refuses further connections. Those that it has accepted already are served: their visitors may
    /// have sent a request.
    fn finish(&self, incoming: Incoming) {
        for detached in incoming.close() {
            match (detached.attach(), Arc::clone(&self.places).try_acquire_owned()) {
                (Ok(accepted), Ok(permit)) => self.place(accepted, permit),
                (Err(error), _) => tracing::warn!(%error, "a connection was lost while the listener closed"),
                // Above max_connections there is nobody to serve it.
                (_, Err(_)) => return,
            }
        }
    }

    /// To the worker with the fewest connections; the first of equals, which is this one, costs no hand-over.
    fn place(&self, accepted: Accepted, permit: OwnedSemaphorePermit) {
        let fewest = self.handles.iter().enumerate().min_by_key(|(_, handle)| handle.load.load(Ordering::Relaxed));
        let Some((index, handle)) = fewest else { return };
        let place = Place::new(&handle.load, &self.worker.drain, self.metrics, permit);
        if index == 0 {
            spawn(accepted, place, Arc::clone(&self.worker));
            return;
        }
        match accepted.detach() {
            // A worker that ended has taken its inbox along; so does the process then.
            Ok(stream) => drop(handle.jobs.send(Job { stream, place })),
            Err(error) => tracing::warn!(%error, "a connection was lost between two workers"),
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
