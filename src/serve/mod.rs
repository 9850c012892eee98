//! From a socket to the layers: listening, the workers, connections, and the drain.

mod conn;
mod drain;
mod listen;
mod sniff;
mod watched;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

pub use drain::Drain;
pub use listen::Bound;

use crate::runtime::Slot;

/// A running server.
#[derive(Debug)]
pub struct Server {
    drain: Arc<Drain>,
    workers: Vec<JoinHandle<()>>,
    addresses: Vec<Bound>,
}

impl Server {
    /// Binds what `[server]` lists and starts the workers.
    ///
    /// # Errors
    /// An address that cannot be bound (the error names it), or no thread to be had.
    pub fn start(slot: &'static Slot, drain: &Arc<Drain>) -> io::Result<Self> {
        let runtime = slot.load();
        let server = &runtime.settings().server;
        let listeners = listen::bind(&server.listen)?;
        let addresses = listeners.iter().map(|listener| listener.bound().clone()).collect();
        let workers = workers::start(slot, drain, listeners)?;
        Ok(Self { drain: Arc::clone(drain), workers, addresses })
    }

    /// Where it listens, in the configuration's order, with real ports.
    #[must_use]
    pub fn addresses(&self) -> &[Bound] {
        &self.addresses
    }

    /// The first TCP address.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.addresses.iter().find_map(|bound| match bound {
            Bound::Tcp(address) => Some(*address),
            Bound::Unix(_) => None,
        })
    }

    /// Takes no new connection, lets requests in flight finish, and returns when all is done or `limit` has passed. True when
    /// nothing was cut off.
    pub fn finish(self, limit: Duration) -> bool {
        self.drain.close();
        let whole = self.drain.wait(limit);
        self.drain.stop();
        for worker in self.workers {
            // A worker that panicked has said so on its own; the others are stopped all the same.
            let _ = worker.join();
        }
        for bound in &self.addresses {
            if let Bound::Unix(path) = bound {
                let _ = std::fs::remove_file(path);
            }
        }
        whole
    }
}
