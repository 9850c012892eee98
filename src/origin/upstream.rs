//! The origin as all workers share it: its addresses with their states, and TLS.
//!
//! A name can have several addresses. New connections use the addresses in turn. If an attempt fails, the next address
//! is tried at once. If an attempt has no result after [`HEAD_START`], the next address is tried in parallel (RFC
//! 8305). The connection that succeeds first is used. `ARCHITECTURE.md` ("The addresses of the origin") describes the
//! rules.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use metrics::{Counter, Gauge};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::endpoint::{Endpoint, Place, Seen, Turn};
use super::options::{MessageLimits, OriginSettings};
use super::resolver::{Resolver, Running};
use super::socket::{Socket, connect, fault_of_connect};
use super::target::{Role, Target};
use super::tls::{Tls, TlsProblem};
use crate::fault::{Cause, Fault};
use crate::metrics::Metrics;

/// If an attempt has no result after this time, the next address is tried in parallel (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// The origin, or its stand-in, as all workers share it.
pub struct Upstream {
    pub(super) origin: OriginSettings,
    pub(super) limits: MessageLimits,
    pub(super) role: Role,
    pub(super) tls: Option<Tls>,
    /// The addresses. The list is empty until the first lookup of a name has succeeded.
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    /// Held during a change of the addresses or of their health, because both changes decide which kept connections get
    /// further requests.
    changing: Mutex<()>,
    /// The position in the list at which the next new connection begins.
    next: AtomicUsize,
    pub(super) resolver: Resolver,
    pub(super) running: Running,
    /// Wakes the thread in `upkeep.rs`: for a lookup before the regular time, or because the upstream has no lease any
    /// more.
    pub(super) stale: Arc<Notify>,
    /// `edgeshim_origin_connections`
    pub(super) connections: Gauge,
    /// `edgeshim_config_reloads_total{result="failed"}`
    pub(super) reloads_failed: Counter,
}

impl Upstream {
    /// Prepares connections to the origin. Reads the files of `[origin.tls]` if the URL starts with `https://`.
    ///
    /// # Errors
    /// Returns the problems of `[origin.tls]`.
    pub(crate) fn new(
        origin: OriginSettings,
        limits: MessageLimits,
        role: Role,
        resolver: Resolver,
        metrics: &'static Metrics,
    ) -> Result<Arc<Self>, Vec<TlsProblem>> {
        let (tls, place) = match &origin.target {
            Target::Unix(path) => (None, Some(Place::Unix(path.clone()))),
            Target::Tcp { host, port, tls } => {
                let tls = tls.then(|| origin.tls.load(host, origin.http2, role)).transpose()?;
                (tls, host.parse::<IpAddr>().ok().map(|ip| Place::Tcp(SocketAddr::new(ip, *port))))
            }
        };
        let endpoints = place.map(|place| Arc::new(Endpoint::new(place))).into_iter().collect();
        let connections = match role {
            Role::Origin => metrics.origin_connections.clone(),
            Role::StandIn => Gauge::noop(),
        };
        Ok(Arc::new(Self {
            origin,
            limits,
            role,
            tls,
            endpoints: ArcSwap::from_pointee(endpoints),
            changing: Mutex::default(),
            next: AtomicUsize::new(0),
            resolver,
            running: Running::default(),
            stale: Arc::default(),
            connections,
            reloads_failed: metrics.reloads_failed.clone(),
        }))
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Returns the Host for requests that edgeshim makes itself.
    pub(super) fn host_field(&self) -> HeaderValue {
        let configured = self.origin.host.as_deref().and_then(|host| HeaderValue::from_str(host).ok());
        configured.or_else(|| self.origin.target.host_field()).unwrap_or_else(|| HeaderValue::from_static("localhost"))
    }

    /// Returns the host and the port if the host is a name, which has to be looked up.
    pub(super) fn name(&self) -> Option<(&str, u16)> {
        match &self.origin.target {
            Target::Tcp { host, port, .. } if host.parse::<IpAddr>().is_err() => Some((host, *port)),
            _ => None,
        }
    }

    pub(super) fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.endpoints.load_full()
    }

    /// Uses these addresses for new connections. Kept connections to other addresses get no further requests.
    pub(super) fn set_endpoints(&self, endpoints: Vec<Arc<Endpoint>>) {
        let _changing = self.changing();
        for endpoint in self.endpoints().iter().filter(|old| !endpoints.iter().any(|new| Arc::ptr_eq(new, old))) {
            endpoint.set_left(true);
        }
        leave_unhealthy(&endpoints);
        self.endpoints.store(Arc::new(endpoints));
    }

    /// Decides again which kept connections get further requests, after the health of an address has changed.
    pub(super) fn settle(&self) {
        let _changing = self.changing();
        leave_unhealthy(&self.endpoints());
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a connection to one of the addresses.
    pub(super) async fn reach(self: &Arc<Self>, deadline: Instant) -> Result<(Socket, Arc<Endpoint>, Seen), Fault> {
        let mut endpoints = self.endpoints();
        if endpoints.is_empty() {
            endpoints = timeout_at(deadline, self.look_up())
                .await
                .map_err(|_| Fault::from_error(Cause::ConnectTimeout, "the lookup of the name takes too long"))?
                .map_err(fault_of_connect)?;
        }
        let candidates = self.candidates(&endpoints);
        let reached = match <[_; 1]>::try_from(candidates) {
            Ok([(endpoint, seen)]) => match timeout_at(deadline, connect(endpoint.place.clone())).await {
                Ok(Ok(socket)) => Ok((socket, endpoint, seen)),
                Ok(Err(error)) => {
                    endpoint.failed(seen);
                    Err(fault_of_connect(error))
                }
                Err(_) => {
                    endpoint.failed(seen);
                    Err(Fault::new(Cause::ConnectTimeout))
                }
            },
            Err(candidates) => race(candidates, deadline).await,
        };
        if reached.is_err() {
            self.stale.notify_one();
        }
        reached
    }

    /// Returns the addresses to try, in this order: an address to probe, if there is one, then the usable addresses in
    /// turn. An unhealthy address is not usable while another address is healthy. If no address is usable, all
    /// addresses are tried. So the only address of an origin is always tried.
    fn candidates(&self, endpoints: &[Arc<Endpoint>]) -> Vec<(Arc<Endpoint>, Seen)> {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % endpoints.len().max(1);
        let (before, after) = endpoints.split_at(first);
        let in_turn = || after.iter().chain(before);
        let some_healthy = endpoints.iter().any(|endpoint| endpoint.is_healthy());
        let (mut usable, mut probes) = (Vec::with_capacity(endpoints.len()), 0);
        for endpoint in in_turn().filter(|endpoint| endpoint.is_healthy() || !some_healthy) {
            if probes > 0 && endpoint.is_passed_over() {
                continue;
            }
            match endpoint.turn() {
                (Turn::Open, seen) => usable.push((Arc::clone(endpoint), seen)),
                (Turn::Probe, seen) => {
                    usable.insert(0, (Arc::clone(endpoint), seen));
                    probes += 1;
                }
                (Turn::Over, _) => {}
            }
        }
        if usable.is_empty() {
            usable.extend(in_turn().map(|endpoint| (Arc::clone(endpoint), Seen::FORCED)));
        }
        usable
    }
}

/// Marks the addresses whose kept connections get no further requests: the unhealthy addresses, if another address is
/// healthy.
fn leave_unhealthy(endpoints: &[Arc<Endpoint>]) {
    let some_healthy = endpoints.iter().any(|endpoint| endpoint.is_healthy());
    for endpoint in endpoints {
        endpoint.set_left(some_healthy && !endpoint.is_healthy());
    }
}

/// Tries the addresses one after the other. The next attempt begins when an attempt has failed, or when the most recent
/// attempt has run for [`HEAD_START`]. When an attempt succeeds, each other attempt that has run for [`HEAD_START`]
/// counts as failed. Without this rule, new connections would wait for the slow address again.
async fn race(
    candidates: Vec<(Arc<Endpoint>, Seen)>,
    deadline: Instant,
) -> Result<(Socket, Arc<Endpoint>, Seen), Fault> {
    let mut attempts = JoinSet::new();
    let mut running: Vec<(Arc<Endpoint>, Seen, Instant)> = Vec::new();
    let mut waiting = candidates.into_iter();
    let mut last = Fault::new(Cause::Unreachable);
    loop {
        if let Some((endpoint, seen)) = waiting.next() {
            running.push((Arc::clone(&endpoint), seen, Instant::now()));
            attempts.spawn(async move {
                let result = connect(endpoint.place.clone()).await;
                (result, endpoint)
            });
        } else if attempts.is_empty() {
            return Err(last);
        }
        let until = match waiting.len() {
            0 => deadline,
            _ => deadline.min(Instant::now() + HEAD_START),
        };
        let joined = match timeout_at(until, attempts.join_next()).await {
            Ok(Some(Ok(joined))) => joined,
            Ok(_) => continue,
            Err(_) if until < deadline => continue,
            Err(_) => {
                for (endpoint, seen, _) in running {
                    endpoint.failed(seen);
                }
                return Err(Fault::new(Cause::ConnectTimeout));
            }
        };
        let (result, endpoint) = joined;
        let Some(at) = running.iter().position(|(other, ..)| Arc::ptr_eq(other, &endpoint)) else { continue };
        let (_, seen, _) = running.swap_remove(at);
        match result {
            Ok(socket) => {
                for (slow, seen, began) in running {
                    if began.elapsed() >= HEAD_START {
                        slow.failed(seen);
                    }
                }
                return Ok((socket, endpoint, seen));
            }
            Err(error) => {
                tracing::debug!("the origin's address {}: {error}", endpoint.place);
                endpoint.failed(seen);
                last = fault_of_connect(error);
            }
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("target", &self.origin.target).finish_non_exhaustive()
    }
}
