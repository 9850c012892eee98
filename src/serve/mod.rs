//! Everything between a socket and the layers: listeners, workers, connections and the drain.

mod conn;
mod connection_limits;
mod drain;
mod listen;
mod permit;
mod requests;
mod sniff;
mod state;
mod trailers;
mod watched;
mod worker;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use drain::Drain;
pub(crate) use listen::Bound;

use self::workers::Workers;
use crate::runtime::Slot;

/// A running server.
#[derive(Debug)]
pub struct Server {
    drain: Arc<Drain>,
    workers: Workers,
    addresses: Vec<Bound>,
}

impl Server {
    /// Binds the addresses of `server.listen` and starts the workers.
    ///
    /// # Errors
    /// Returns an error if an address cannot be bound or a thread cannot be started. An error about an address contains
    /// the address.
    pub fn start(slot: &'static Slot, drain: &Arc<Drain>) -> io::Result<Self> {
        let runtime = slot.load();
        let server = &runtime.settings().server;
        let listeners = listen::bind(&server.listen)?;
        let addresses = listeners.iter().map(|listener| listener.bound().clone()).collect();
        let workers = workers::start(slot, drain, listeners)?;
        Ok(Self { drain: Arc::clone(drain), workers, addresses })
    }

    /// Returns the listening addresses in the order of the configuration. If port 0 was configured, the address
    /// contains the port that the kernel chose.
    pub fn addresses(&self) -> &[Bound] {
        &self.addresses
    }

    /// Returns the first TCP address, if there is one.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.addresses.iter().find_map(|bound| match bound {
            Bound::Tcp(address) => Some(*address),
            Bound::Unix(_) => None,
        })
    }

    /// Drains: closes the listeners and lets the requests in flight finish. Waits until all connections have closed,
    /// for at most `limit`. Then stops the workers, which drop the connections that are still open, and removes the
    /// socket files. Returns `true` if all connections closed in time.
    pub fn finish(self, limit: Duration) -> bool {
        self.drain.close();
        let completed = self.drain.wait(limit);
        self.drain.stop();
        self.workers.join();
        for bound in &self.addresses {
            if let Bound::Unix(path) = bound {
                let _ = std::fs::remove_file(path);
            }
        }
        completed
    }
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
        // Two connections close. The next two go to the workers that lost a connection.
        open.drain(..2);
        while server.workers.loads().iter().sum::<usize>() != 6 {
            std::thread::yield_now();
        }
        open.extend((0..2).map(|_| std::net::TcpStream::connect(address).unwrap()));
        wait_for_loads(&server, &[4, 4]);
        drop(open);
        assert!(server.finish(Duration::from_secs(10)));
    }
}
