//! The thread model. By default, each core has one worker. A worker has a current-thread runtime, its own layers and
//! its own connections to the origin.
//!
//! CDNs keep few connections, which are long-lived and busy. If each worker had its own listener, the kernel could give
//! all these connections to one worker. So the first worker accepts each connection and hands it to the worker that has
//! the fewest connections. The connection stays with this worker until the connection closes.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::mpsc;

use super::conn;
use super::drain::Drain;
use super::listen::{Accepted, Incoming, Listener, Queue};
use super::permit::{ConnectionPermit, ListenerState, Loads};
use super::worker::Worker;
use crate::clock;
use crate::intake::server_tls::ServerTls;
use crate::metrics::Throttle;
use crate::runtime::{EdgeService, Runtime, Slot};

/// The pause of the acceptor after a failed accept. An accept usually fails because no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Limits the messages about failed accepts of all listeners.
static ACCEPT_MESSAGES: Throttle = Throttle::new(Duration::from_secs(5));
/// After this number of sweeps of the clock, the worker calls [`Worker::prune`]. The worker also calls this function
/// before each rest (see `clock.rs`).
const SWEEPS_PER_PRUNE: u32 = 10;

/// The number of tasks that a worker polls before it gets new events from the kernel. One request needs about four
/// polls. With a larger number than tokio's default (61), the worker gets more events at once, and an HTTP/2 connection
/// writes several responses at once. Measured with 128 requests in flight: 4 to 8 percent less CPU time per request.
const POLLS_PER_LOOK: u32 = 256;

/// A message to a worker.
enum Message {
    /// A connection that the worker must serve.
    Connection(Accepted, ConnectionPermit, Option<Arc<ServerTls>>),
    /// A listener whose connections the worker must accept. The sender is dropped when the listener is closed.
    Listener(Listener, Arc<ListenerState>, std::sync::mpsc::Sender<()>),
    /// A listener was removed, so each connection must check whether it belongs to a removed listener.
    Wake,
}

/// The channels for messages to the workers.
type Handles = [mpsc::UnboundedSender<Message>];

/// The running workers.
pub(super) struct Workers {
    threads: Mutex<Vec<JoinHandle<()>>>,
    handles: Arc<Handles>,
    pub(super) loads: Arc<Loads>,
}

impl Workers {
    /// Returns the number of connections of each worker.
    pub(super) fn loads(&self) -> Vec<usize> {
        self.loads.iter().map(|load| load.load(Ordering::Relaxed)).collect()
    }

    /// Lets the first worker accept the connections of a listener. Returns a channel that is disconnected when the
    /// listener is closed.
    pub(super) fn accept(&self, listener: Listener, state: &Arc<ListenerState>) -> std::sync::mpsc::Receiver<()> {
        let (open, closed) = std::sync::mpsc::channel();
        // The drain counts the listener as a connection, so that the drain waits until the listener is closed.
        state.drain.opened();
        let message = Message::Listener(listener, Arc::clone(state), open);
        // Sending fails only if the worker has ended. In this case the process is ending too.
        if self.handles.first().is_none_or(|first| first.send(message).is_err()) {
            state.drain.closed();
        }
        closed
    }

    /// Makes each connection check whether its listener was removed.
    pub(super) fn wake(&self) {
        for handle in self.handles.iter() {
            drop(handle.send(Message::Wake));
        }
    }

    /// Waits until all workers have ended.
    pub(super) fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
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

/// Starts the workers.
pub(super) fn start(slot: &'static Slot, drain: &Arc<Drain>) -> io::Result<Workers> {
    let count = slot.load().workers();
    let mut handles = Vec::with_capacity(count);
    let mut inboxes = Vec::with_capacity(count);
    for _ in 0..count {
        let (messages, inbox) = mpsc::unbounded_channel();
        handles.push(messages);
        inboxes.push(inbox);
    }
    let handles: Arc<Handles> = handles.into();
    let loads = (0..count).map(|_| AtomicUsize::new(0)).collect();
    let mut threads = Vec::with_capacity(count);
    for (index, inbox) in inboxes.into_iter().enumerate() {
        let handles = Arc::clone(&handles);
        let drain = Arc::clone(drain);
        // The runtime is made here, so that a worker that cannot start ends the process. Otherwise the connections that
        // are handed to this worker would be lost.
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .event_interval(POLLS_PER_LOOK)
            .on_thread_unpark(clock::woke)
            .build();
        let tokio = tokio.map_err(|error| {
            let remedy = "raise the limit of open files (ulimit -n), or lower server.workers";
            io::Error::new(error.kind(), format!("worker {index} cannot start ({error}); {remedy}"))
        })?;
        let name = format!("worker-{index}");
        threads.push(thread::Builder::new().name(name).spawn(move || run(slot, &drain, inbox, &handles, &tokio))?);
    }
    Ok(Workers { threads: Mutex::new(threads), handles, loads })
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
    inbox: mpsc::UnboundedReceiver<Message>,
    handles: &Arc<Handles>,
    tokio: &tokio::runtime::Runtime,
) {
    clock::on_yield(|cx| {
        // tokio first polls the sockets, and only then wakes a task that has called `yield_now`.
        let waker = Waker::from(Arc::new(NextTurn(cx.waker().clone())));
        let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
    });
    tokio.block_on(async {
        let worker = Arc::new(Worker::new(slot, Arc::clone(drain), Runtime::stack));
        tokio::spawn(sweep(Arc::clone(&worker)));
        work(worker, inbox, handles).await;
    });
}

/// Serves the connections that are handed to this worker until the drain stops the worker. The caller then drops the
/// tasks that still run on this thread.
async fn work<E: EdgeService>(
    worker: Arc<Worker<E>>,
    mut inbox: mpsc::UnboundedReceiver<Message>,
    handles: &Arc<Handles>,
) {
    let drain = Arc::clone(&worker.drain);
    let stopped = drain.stopped();
    tokio::pin!(stopped);
    let closing = drain.closing();
    tokio::pin!(closing);
    let mut woken = false;
    loop {
        tokio::select! {
            message = inbox.recv() => match message {
                Some(Message::Connection(accepted, permit, tls)) => spawn(accepted, permit, tls, Arc::clone(&worker)),
                Some(Message::Listener(listener, state, open)) => {
                    let (worker, handles) = (Arc::clone(&worker), Arc::clone(handles));
                    drop(tokio::spawn(accept(listener, Acceptor { worker, handles, state }, open)));
                }
                Some(Message::Wake) => clock::wake_all(),
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

fn spawn<E: EdgeService>(
    accepted: Accepted,
    permit: ConnectionPermit,
    tls: Option<Arc<ServerTls>>,
    worker: Arc<Worker<E>>,
) {
    let Accepted { stream, address, is_tls } = accepted;
    if !is_tls {
        drop(tokio::spawn(conn::serve(stream, address, worker, permit)));
    } else if let Some(tls) = tls {
        // A listener with TLS always has certificates.
        drop(tokio::spawn(conn::serve_tls(stream, address, tls, worker, permit)));
    }
}

/// Accepts connections until the drain begins or the listener is removed. Then closes the listener.
async fn accept<E: EdgeService>(listener: Listener, acceptor: Acceptor<E>, open: std::sync::mpsc::Sender<()>) {
    let state = Arc::clone(&acceptor.state);
    match listener.attach() {
        Ok(incoming) => {
            let waiting = acceptor.run(&incoming).await;
            let queued = acceptor.empty(incoming.into_queue()).await;
            // From now on, the kernel refuses new connections, unless another listener or process shares the socket.
            drop(open);
            acceptor.finish(waiting, queued).await;
            // The thread that follows the certificate files runs until the last reference to `ServerTls` is dropped.
            state.set_tls(None);
        }
        Err(error) => tracing::error!(%error, "a listener cannot be used; raise the limit of open files (ulimit -n)"),
    }
    state.drain.closed();
}

struct Acceptor<E> {
    worker: Arc<Worker<E>>,
    handles: Arc<Handles>,
    state: Arc<ListenerState>,
}

impl<E: EdgeService> Acceptor<E> {
    /// Accepts connections until the drain begins or the listener is removed. Returns the connection that waits for a
    /// permit at that moment, if there is one.
    async fn run(&self, incoming: &Incoming) -> Option<Accepted> {
        let mut closing = pin!(async {
            tokio::select! {
                () = self.state.drain.closing() => {}
                () = self.state.removed.wait() => {}
            }
        });
        while !self.state.is_closing() {
            let accepted = poll_fn(|cx| match incoming.poll_accept(cx) {
                Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
                Poll::Pending => closing.as_mut().poll(cx).map(|()| None),
            });
            match accepted.await? {
                Ok(accepted) => {
                    if self.state.permits.try_acquire() {
                        self.hand_over(accepted);
                        continue;
                    }
                    // If `server.max_connections` connections are open, this connection waits here without being read,
                    // and later connections wait in the kernel's queue. The permit is acquired after the accept,
                    // because an idle listener would otherwise keep a permit that another listener needs.
                    tokio::select! {
                        is_acquired = self.state.permits.acquire() => {
                            is_acquired.then(|| self.hand_over(accepted))?;
                        }
                        () = &mut closing => return Some(accepted),
                    }
                }
                Err(error) => after_failure(&error).await,
            }
        }
        None
    }

    /// Closes the listener. Returns the connections from the kernel's queue, because their clients can already have
    /// sent a request.
    async fn empty(&self, mut queue: Queue) -> Vec<Accepted> {
        let mut queued = Vec::new();
        while let Some(accepted) = queue.accept() {
            match accepted {
                Ok(accepted) => queued.push(accepted),
                Err(error) => after_failure(&error).await,
            }
        }
        queued
    }

    /// Serves the connections that were accepted before the listener was closed. If `server.max_connections`
    /// connections are open, each of these connections waits until another connection closes. The last step of the
    /// drain closes the connections that still wait.
    async fn finish(&self, waiting: Option<Accepted>, queued: Vec<Accepted>) {
        for accepted in waiting.into_iter().chain(queued) {
            if !self.state.permits.acquire().await {
                return;
            }
            self.hand_over(accepted);
        }
    }

    /// Gives the connection to the worker that has the fewest connections. If all loads are equal, the worker that
    /// accepts the connections serves the connection itself. The caller must have taken a permit.
    fn hand_over(&self, accepted: Accepted) {
        let worker = self.state.least_loaded();
        let permit = ConnectionPermit::new(&self.state, worker);
        let tls = if accepted.is_tls { self.state.tls() } else { None };
        if worker == 0 {
            spawn(accepted, permit, tls, Arc::clone(&self.worker));
            return;
        }
        // Sending fails only if the worker has ended. In this case the process is ending too.
        drop(self.handles.get(worker).map(|handle| handle.send(Message::Connection(accepted, permit, tls))));
    }
}

/// Logs why an accept has failed, and pauses. Does nothing if the next accept can succeed at once: the next connection
/// in the queue was already closed, or a signal has interrupted the accept.
async fn after_failure(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, InvalidInput};
    if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | InvalidInput) {
        return;
    }
    if let Some(count) = ACCEPT_MESSAGES.pass() {
        tracing::warn!(
            "cannot accept a connection ({error}); raise the limit of open files (ulimit -n); failed attempts since \
             the last message: {count}"
        );
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn sweep<E: EdgeService>(worker: Arc<Worker<E>>) {
    let mut sweeps = 0_u32;
    loop {
        let wait = clock::sweep();
        sweeps += 1;
        if wait > clock::TICK || sweeps.is_multiple_of(SWEEPS_PER_PRUNE) {
            worker.prune();
        }
        if wait > clock::TICK {
            tokio::select! {
                () = tokio::time::sleep(wait) => continue,
                () = clock::armed() => {}
            }
        }
        tokio::time::sleep(clock::TICK).await;
    }
}
