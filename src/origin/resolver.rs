//! How the name of the origin is looked up, and the lookup that is running. `lookup.rs` does the lookups.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

type LookUp = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// How and how often names are looked up.
#[derive(Clone)]
pub struct Resolver {
    pub(super) look_up: Arc<LookUp>,
    /// The time between two lookups of a name.
    pub(super) period: Duration,
    /// The time for which an address stays in use after the first lookup that does not return the address.
    pub(super) hold: Duration,
}

impl Resolver {
    /// Creates a resolver from a function, which may block its thread.
    ///
    /// The system's resolver does not report the lifetime of its answer, so the period is a constant. The hold time is
    /// two periods, because some name servers return only some of the addresses in each answer. So an address that
    /// works is dropped only after three lookups in a row that do not return it.
    pub fn new(look_up: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        let period = Duration::from_secs(10);
        Self { look_up: Arc::new(look_up), period, hold: period * 2 }
    }

    /// Uses another period and another hold time.
    #[must_use]
    pub fn with_times(self, period: Duration, hold: Duration) -> Self {
        Self { period, hold, ..self }
    }
}

/// The resolver of the system, which reads `/etc/hosts` and asks DNS.
impl Default for Resolver {
    fn default() -> Self {
        Self::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("period", &self.period).field("hold", &self.hold).finish_non_exhaustive()
    }
}

/// The result of a lookup. `None`: the lookup has not ended.
pub(super) type Outcome = Option<Result<(), Arc<io::Error>>>;

/// The lookup that is running, if there is one.
#[derive(Default)]
pub(super) struct Running(Mutex<Option<watch::Receiver<Outcome>>>);

impl Running {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<watch::Receiver<Outcome>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
