//! Everything between a socket and the layers: listeners, workers, connections and the drain.

mod batched;
mod conn;
mod connection_limits;
mod discard;
mod drain;
mod endings;
mod flag;
mod lazy;
mod listen;
mod peers;
mod permit;
mod plain;
mod plain_request;
mod plain_response;
mod requests;
mod sniff;
mod state;
mod tls;
mod trailers;
mod watched;
mod worker;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use drain::{Cut, Drain};
pub(crate) use listen::Bound;
pub use plain_request::plain_head_bytes;

use self::listen::Listener;
use self::permit::{ListenerState, Permits};
use self::workers::Workers;
use crate::config::Listen;
use crate::runtime::{Passed, Slot, Socket, name_in_hand_over, with_file};

/// The longest wait for the first worker to close a removed listener.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A running server.
#[derive(Debug)]
pub struct Server {
    slot: &'static Slot,
    drain: Arc<Drain>,
    workers: Workers,
    permits: Arc<Permits>,
    listeners: Mutex<Vec<Open>>,
    /// Whether the listeners can no longer change: the drain closes them, or another process serves their sockets.
    is_ending: AtomicBool,
    /// Whether another process serves the listening sockets now.
    has_successor: AtomicBool,
}

/// An open listener.
struct Open {
    listen: Listen,
    /// A second descriptor of the socket. A reload that turns TLS on or off at the address needs this descriptor, and
    /// so does the hand-over to another process.
    listener: Listener,
    state: Arc<ListenerState>,
    /// Disconnected when the first worker has closed its descriptor.
    closed: Receiver<()>,
    /// Whether this process has to remove the file of the unix socket at its end. A process has to remove a file that
    /// it has made, and a file that the process before it had to remove.
    owns_file: bool,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// A bound listener, with a second descriptor of its socket.
#[derive(Debug)]
struct Added {
    listen: Listen,
    listener: Listener,
    second: Listener,
    owns_file: bool,
}

impl Added {
    fn new(listen: Listen, listener: Listener, owns_file: bool) -> io::Result<Self> {
        Ok(Self { listen, second: listener.try_clone()?, listener, owns_file })
    }
}

/// A prepared change of the listeners. After the preparation, the change cannot fail.
#[derive(Debug)]
pub(crate) struct ListenerChange {
    added: Vec<Added>,
}

impl Server {
    /// Binds the addresses of `server.listen` and `server.tls.listen`, and starts the workers.
    ///
    /// # Errors
    /// Returns an error if an address cannot be bound or a thread cannot be started. An error about an address contains
    /// the address.
    pub fn start(slot: &'static Slot, drain: &Arc<Drain>) -> io::Result<Self> {
        Self::start_with(slot, drain, Vec::new())
    }

    /// Starts like [`Server::start`]. `inherited` has the inherited sockets, in the order of the configured listeners.
    pub(crate) fn start_with(
        slot: &'static Slot,
        drain: &Arc<Drain>,
        inherited: Vec<Option<Passed>>,
    ) -> io::Result<Self> {
        let runtime = slot.load();
        let mut inherited = inherited.into_iter();
        let mut opened = Vec::new();
        for wanted in runtime.settings().server.listeners() {
            let passed = inherited.next().flatten();
            let owns_file = passed.as_ref().is_none_or(|passed| passed.owns_file);
            let listener = listen::bind(&wanted, passed.map(|passed| passed.socket))?;
            opened.push(Added::new(wanted, listener, owns_file)?);
        }
        let server = Self {
            slot,
            drain: Arc::clone(drain),
            workers: workers::start(slot, drain)?,
            permits: Arc::new(Permits::new(runtime.settings().server.max_connections)),
            listeners: Mutex::default(),
            is_ending: AtomicBool::new(false),
            has_successor: AtomicBool::new(false),
        };
        let mut listeners = server.listeners();
        listeners.extend(opened.into_iter().map(|added| server.open(added)));
        drop(listeners);
        Ok(server)
    }

    fn open(&self, Added { listen, listener, second, owns_file }: Added) -> Open {
        let runtime = self.slot.load();
        let state = Arc::new(ListenerState::new(&self.permits, &self.drain, &self.workers.loads, runtime.metrics()));
        state.set_tls(runtime.tls().cloned());
        let closed = self.workers.accept(listener, &state);
        Open { listen, listener: second, state, closed, owns_file }
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Open>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the listeners can no longer change: the first step of the drain has been taken, or another
    /// process serves the sockets.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_ending.load(Ordering::Acquire) || !self.drain.is_ready()
    }

    /// Binds the addresses that `wanted` adds. The new listeners accept no connection before
    /// [`change`](Self::change). The open listeners do not change.
    ///
    /// # Errors
    /// Returns an error if an address cannot be bound, if the first step of the drain has been taken, or if another
    /// process serves the sockets.
    pub(crate) fn prepare(&self, wanted: &[Listen]) -> io::Result<ListenerChange> {
        let listeners = self.listeners();
        if self.is_draining() {
            return Err(io::Error::other("this process is ending, so its listeners can no longer change"));
        }
        let mut removed: Vec<&Open> = listeners.iter().collect();
        let mut new: Vec<&Listen> = wanted.iter().collect();
        new.retain(|wanted| take(&mut removed, |open| open.listen == **wanted).is_none());
        let added = new.into_iter().map(|wanted| {
            // If a reload only turns TLS on or off at an address, the socket stays, so that no connection is lost.
            let open = take(&mut removed, |open| open.listen.without_tls() == wanted.without_tls());
            let socket = open.map(|open| open.listener.socket().try_clone()).transpose()?;
            let owns_file = open.is_none_or(|open| open.owns_file);
            Added::new(wanted.clone(), listen::bind(wanted, socket)?, owns_file)
        });
        Ok(ListenerChange { added: added.collect::<io::Result<_>>()? })
    }

    /// Opens the listeners that `prepare` has bound, and closes the listeners that are not in `wanted`. The connections
    /// of a closed listener end after their requests in flight. Also applies `server.max_connections` and the new
    /// certificates. Returns the addresses of the new listeners.
    pub(crate) fn change(&self, wanted: &[Listen], change: ListenerChange) -> Vec<Bound> {
        self.permits.set_limit(self.slot.load().settings().server.max_connections);
        let mut listeners = self.listeners();
        let mut wanted: Vec<&Listen> = wanted.iter().collect();
        let is_kept = |open: &mut Open| take(&mut wanted, |wanted| **wanted == open.listen).is_none();
        let removed: Vec<Open> = listeners.extract_if(.., is_kept).collect();
        let runtime = self.slot.load();
        for open in listeners.iter() {
            open.state.set_tls(runtime.tls().cloned());
        }
        // If `finish` or `handed_over` was called after `prepare`, the new sockets are closed again.
        let added = if self.is_ending.load(Ordering::Acquire) { Vec::new() } else { change.added };
        let bound: Vec<Bound> = added.iter().map(|added| added.listener.bound().clone()).collect();
        let kept = listeners.iter().map(|open| open.listener.bound().clone());
        let still_used: Vec<Bound> = kept.chain(bound.iter().cloned()).collect();
        // If the reload only turns TLS on or off at an address, the old and the new listener have the same queue. The
        // connections in this queue belong to the old listener, so the old listener is closed first.
        self.close(removed, &still_used);
        for added in added {
            listeners.push(self.open(added));
        }
        bound
    }

    /// Closes listeners. Removes the file of a unix socket if this process owns the file and no listener in
    /// `still_used` has the same path.
    fn close(&self, removed: Vec<Open>, still_used: &[Bound]) {
        for Open { listener, state, closed, owns_file, .. } in removed {
            let bound = listener.bound().clone();
            // The worker accepts the connections of the kernel's queue and then closes its descriptor. Until all
            // descriptors are closed, new connections enter the queue. So this descriptor must be closed first.
            drop(listener);
            state.removed.set();
            self.workers.wake();
            let _ = closed.recv_timeout(CLOSE_LIMIT);
            remove_file(&bound, owns_file && !still_used.contains(&bound));
        }
    }

    /// Returns the listening addresses in the order of the configuration. If port 0 was configured, the address
    /// contains the port that the kernel chose.
    pub fn addresses(&self) -> Vec<Bound> {
        self.listeners().iter().map(|open| open.listener.bound().clone()).collect()
    }

    /// Returns the first TCP address without TLS, if there is one.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.addresses().into_iter().find_map(|bound| match bound {
            Bound::Tcp(address) => Some(address),
            Bound::Tls(_) | Bound::Unix(_) => None,
        })
    }

    /// Returns a descriptor of each listening socket and the name of the socket, for another process.
    pub(crate) fn sockets(&self) -> io::Result<Vec<(String, Socket)>> {
        let named = |open: &Open| {
            let name = name_in_hand_over(open.listen.socket_name(), &open.listen);
            let has_file = open.owns_file && matches!(open.listener.bound(), Bound::Unix(_));
            Ok((if has_file { with_file(&name) } else { name }, open.listener.socket().try_clone()?))
        };
        self.listeners().iter().map(named).collect()
    }

    /// Notes that another process now serves the listening sockets. So this process must not remove their files. The
    /// other process removes them at its end.
    pub(crate) fn handed_over(&self) {
        self.is_ending.store(true, Ordering::Release);
        self.has_successor.store(true, Ordering::Release);
    }

    /// Drains: closes the listeners and lets the requests in flight finish. Waits until all connections have closed,
    /// for at most `limit`. Then stops the workers, which drop the connections that are still open, and removes the
    /// socket files that this process has to remove. Returns what was cut off, or `None` if all connections closed in
    /// time.
    pub fn finish(&self, limit: Duration) -> Option<Cut> {
        let files: Vec<_> = {
            let mut listeners = self.listeners();
            // `change` must not open listeners any more when it gets the lock.
            self.is_ending.store(true, Ordering::Release);
            // Drops the second descriptors, which must be closed before the first worker closes its descriptors.
            listeners.drain(..).map(|open| (open.listener.bound().clone(), open.owns_file)).collect()
        };
        self.drain.close();
        let completed = self.drain.wait(limit);
        self.drain.stop();
        self.workers.join();
        for (bound, owns_file) in files {
            remove_file(&bound, owns_file && !self.has_successor.load(Ordering::Acquire));
        }
        (!completed).then(|| self.drain.cut())
    }
}

fn remove_file(bound: &Bound, is_owned: bool) {
    if let Bound::Unix(path) = bound
        && is_owned
    {
        let _ = std::fs::remove_file(path);
    }
}

/// Removes the first element for which `fits` is true, and returns this element.
fn take<T>(list: &mut Vec<T>, fits: impl Fn(&T) -> bool) -> Option<T> {
    list.iter().position(fits).map(|at| list.remove(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Listen, Settings};
    use crate::metrics::Metrics;
    use crate::runtime::Runtime;

    fn wait_for_loads(server: &Server, loads: &[usize]) {
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while server.workers.loads() != loads {
            assert!(
                std::time::Instant::now() < end,
                "the workers have {:?} connections instead of {loads:?}",
                server.workers.loads()
            );
            std::thread::yield_now();
        }
    }

    #[test]
    fn connections_when_opened_then_go_to_the_worker_with_the_fewest_connections() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        let mut settings = Settings::default();
        settings.server.workers = 2;
        settings.server.listen = vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))];
        let slot: &'static Slot =
            Box::leak(Box::new(Slot::new(Runtime::build(settings, metrics, &Arc::default()).unwrap())));
        let server = Server::start(slot, &Arc::new(Drain::default())).unwrap();
        let address = server.tcp_address().unwrap();
        let mut open: Vec<_> = (0..8).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        wait_for_loads(&server, &[4, 4]);
        // Two connections close. The next two connections go to the workers that lost a connection.
        open.drain(..2);
        while server.workers.loads().iter().sum::<usize>() != 6 {
            std::thread::yield_now();
        }
        open.extend((0..2).map(|_| std::net::TcpStream::connect(address).unwrap()));
        wait_for_loads(&server, &[4, 4]);
        drop(open);
        assert!(server.finish(Duration::from_secs(10)).is_none());
    }
}
