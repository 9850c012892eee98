//! The origin as all workers share it: its addresses with their states, and TLS.
//!
//! A name can have several addresses. New connections use the addresses in turn. If an attempt fails, the next address
//! is tried at once. If an attempt has no result after [`HEAD_START`], the next address is tried in parallel (RFC
//! 8305). The connection that succeeds first is used. `ARCHITECTURE.md` ("The addresses of the origin") describes the
//! rules.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use metrics::Gauge;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::endpoint::{Endpoint, Place, Seen, Turn};
use super::options::{MessageLimits, OriginSettings};
use super::socket::{Socket, connect, fault_of_connect};
use super::target::{Role, Target};
use super::tls::{Tls, TlsProblem};
use crate::fault::{Cause, Fault};
use crate::metrics::Metrics;

/// If an attempt has no result after this time, the next address is tried in parallel (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);
/// The largest number of addresses of a name that are used.
const MOST_ADDRESSES: usize = 32;

type LookUp = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// How names are looked up. The function may block its thread.
#[derive(Clone)]
pub struct Resolver(Arc<LookUp>);

impl Resolver {
    pub fn new(look_up: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(look_up))
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
        f.write_str("Resolver")
    }
}

/// The origin, or its stand-in, as all workers share it.
pub struct Upstream {
    pub(super) origin: OriginSettings,
    pub(super) limits: MessageLimits,
    pub(super) role: Role,
    pub(super) tls: Option<Tls>,
    /// The addresses. The list is empty until the first lookup of a name has succeeded.
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    /// The position in the list at which the next new connection begins.
    next: AtomicUsize,
    resolver: Resolver,
    /// Asks the thread in `upkeep.rs` for a lookup before the regular time.
    pub(super) stale: Arc<Notify>,
    /// `edgeshim_origin_connections`
    pub(super) connections: Gauge,
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
            next: AtomicUsize::new(0),
            resolver,
            stale: Arc::default(),
            connections,
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

    /// Looks the name up. From then on, new connections use the addresses that were found. If the lookup fails, the
    /// previous addresses stay in use.
    pub(super) async fn look_up(&self) -> io::Result<Arc<Vec<Arc<Endpoint>>>> {
        let Some((host, port)) = self.name() else { return Ok(self.endpoints()) };
        let (resolver, host) = (self.resolver.clone(), host.to_owned());
        let found =
            tokio::task::spawn_blocking(move || (resolver.0)(&host, port)).await.map_err(io::Error::other)??;
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        let before = self.endpoints();
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::new();
        for address in interleaved(found) {
            let place = Place::Tcp(address);
            let known = before.iter().find(|endpoint| endpoint.place == place).cloned();
            endpoints.push(known.unwrap_or_else(|| Arc::new(Endpoint::new(place))));
        }
        for endpoint in before.iter().filter(|old| !endpoints.iter().any(|new| new.place == old.place)) {
            endpoint.set_left(true);
        }
        let endpoints = Arc::new(endpoints);
        self.endpoints.store(Arc::clone(&endpoints));
        self.settle();
        Ok(endpoints)
    }

    /// Decides which kept connections get further requests: the connections to healthy addresses, or all connections if
    /// no address is healthy.
    pub(super) fn settle(&self) {
        let endpoints = self.endpoints();
        let some_healthy = endpoints.iter().any(|endpoint| endpoint.is_healthy());
        for endpoint in endpoints.iter() {
            endpoint.set_left(some_healthy && !endpoint.is_healthy());
        }
    }

    /// Makes a connection to one of the addresses.
    pub(super) async fn reach(&self, deadline: Instant) -> Result<(Socket, Arc<Endpoint>, Seen), Fault> {
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

    /// Returns the addresses to try, in this order: an address to probe, then the usable addresses in turn. If no
    /// address is usable, all addresses are tried. So the only address of an origin is always tried.
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

/// Tries the addresses one after the other. The next attempt begins when an attempt has failed, or when the last
/// attempt has run for [`HEAD_START`]. When an attempt succeeds, each attempt that is still running after
/// [`HEAD_START`] counts as failed. Otherwise each new connection would wait for this slow address again.
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

/// Returns the addresses without duplicates. The address families alternate (RFC 8305 §4), so that an attempt at one
/// family is followed by an attempt at the other family.
fn interleaved(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = found.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut addresses = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] || addresses.len() >= MOST_ADDRESSES {
            break;
        }
        for address in pair.into_iter().flatten() {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    addresses
}

/// The upstreams that are in use. If a reload does not change the settings of an upstream, the new configuration uses
/// the same upstream, with its addresses and their states.
#[derive(Debug, Default)]
pub(crate) struct Upstreams(Mutex<Vec<Weak<Upstream>>>);

impl Upstreams {
    /// Returns an upstream with these settings, if there is one. An upstream whose TLS reads files is not returned,
    /// because a reload must read the files again.
    pub(crate) fn find(&self, origin: &OriginSettings, limits: MessageLimits, role: Role) -> Option<Arc<Upstream>> {
        let is_match = |upstream: &Arc<Upstream>| {
            let reads_files = upstream.tls.as_ref().is_some_and(|tls| !tls.stamps().is_empty());
            upstream.origin == *origin && upstream.limits == limits && upstream.role == role && !reads_files
        };
        self.lock().iter().filter_map(Weak::upgrade).find(is_match)
    }

    pub(crate) fn add(&self, upstream: &Arc<Upstream>) {
        let mut known = self.lock();
        known.retain(|upstream| upstream.strong_count() > 0);
        known.push(Arc::downgrade(upstream));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Upstream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("target", &self.origin.target).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_when_families_are_mixed_then_alternate_without_duplicates() {
        let all = ["[::1]:80", "[::2]:80", "[::1]:80", "10.0.0.1:80", "10.0.0.2:80"];
        let found = all.iter().map(|text| text.parse().unwrap()).collect();
        let texts: Vec<String> = interleaved(found).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["[::1]:80", "10.0.0.1:80", "[::2]:80", "10.0.0.2:80"]);
    }
}
