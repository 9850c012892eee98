//! Looks up the name of the origin, and decides which addresses are in use after a lookup.
//!
//! At most one lookup of an [`Upstream`] runs at a time. All requests that need its result wait for the same lookup.
//! The lookup has a thread of its own, and nothing waits for the end of this thread. The reason: the resolver of the
//! system can block its thread for longer than `origin.connect_timeout` and `server.drain_timeout`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::watch;

use super::endpoint::{Endpoint, Place, now_ms};
use super::resolver::Outcome;
use super::upstream::Upstream;

/// The largest number of addresses of a name that are used.
const MOST_ADDRESSES: usize = 32;

impl Upstream {
    /// Looks the name up, or waits for the lookup that is already running. Then new connections use the addresses that
    /// [`after_lookup`] returns. If the lookup fails, the previous addresses stay in use.
    pub(super) async fn look_up(self: &Arc<Self>) -> io::Result<Arc<Vec<Arc<Endpoint>>>> {
        let Some((host, port)) = self.name() else { return Ok(self.endpoints()) };
        let mut outcome = self.started(host, port)?;
        let ended = outcome.wait_for(Option::is_some).await;
        match ended.as_deref() {
            Ok(Some(Err(error))) => Err(io::Error::new(error.kind(), Arc::clone(error))),
            Ok(_) => Ok(self.endpoints()),
            // The thread has panicked.
            Err(_) => Err(io::Error::other("the resolver has failed")),
        }
    }

    fn started(self: &Arc<Self>, host: &str, port: u16) -> io::Result<watch::Receiver<Outcome>> {
        let mut running = self.running.lock();
        if let Some(outcome) = running.as_ref().filter(|outcome| outcome.has_changed().is_ok()) {
            return Ok(outcome.clone());
        }
        let (sender, outcome) = watch::channel(None);
        let (upstream, host) = (Arc::clone(self), host.to_owned());
        thread::Builder::new().name("lookup".to_owned()).spawn(move || {
            let result = (upstream.resolver.look_up)(&host, port).and_then(|found| upstream.found(found));
            // The next caller starts a new lookup. The callers that wait for this lookup have their own receivers.
            *upstream.running.lock() = None;
            sender.send_replace(Some(result.map_err(Arc::new)));
        })?;
        *running = Some(outcome.clone());
        Ok(outcome)
    }

    fn found(&self, found: Vec<SocketAddr>) -> io::Result<()> {
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        self.set_endpoints(after_lookup(&self.endpoints(), found, self.resolver.hold, now_ms()));
        Ok(())
    }
}

/// Returns the addresses that are in use after a lookup: first the addresses that the lookup returned, then addresses
/// of earlier lookups. An address that the lookup did not return stays in use until `hold` has passed since the first
/// of such lookups. It is dropped earlier if the most recent attempt to connect to it has failed, if it is unhealthy,
/// or if the list already has [`MOST_ADDRESSES`] addresses.
fn after_lookup(before: &[Arc<Endpoint>], found: Vec<SocketAddr>, hold: Duration, now_ms: u64) -> Vec<Arc<Endpoint>> {
    let mut endpoints: Vec<Arc<Endpoint>> = Vec::new();
    for address in interleaved(found) {
        let place = Place::Tcp(address);
        let known = before.iter().find(|endpoint| endpoint.place == place).cloned();
        let endpoint = known.unwrap_or_else(|| Arc::new(Endpoint::new(place)));
        endpoint.returned();
        endpoints.push(endpoint);
    }
    for endpoint in before {
        let is_good = endpoint.is_healthy() && !endpoint.is_passed_over();
        if endpoints.len() < MOST_ADDRESSES
            && is_good
            && !endpoints.iter().any(|new| Arc::ptr_eq(new, endpoint))
            && endpoint.missing_for(now_ms) < hold
        {
            endpoints.push(Arc::clone(endpoint));
        }
    }
    endpoints
}

/// Returns at most [`MOST_ADDRESSES`] of the addresses, without duplicates. The address families alternate (RFC 8305
/// §4), so that an attempt at one family is followed by an attempt at the other family.
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
    addresses.truncate(MOST_ADDRESSES);
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(20);

    fn looked_up(before: &[Arc<Endpoint>], found: &[&str], now_ms: u64) -> Vec<Arc<Endpoint>> {
        after_lookup(before, found.iter().map(|text| text.parse().unwrap()).collect(), HOLD, now_ms)
    }

    fn texts(endpoints: &[Arc<Endpoint>]) -> Vec<String> {
        endpoints.iter().map(|endpoint| endpoint.place.to_string()).collect()
    }

    #[test]
    fn addresses_when_families_are_mixed_then_alternate_without_duplicates() {
        let all = ["[::1]:80", "[::2]:80", "[::1]:80", "10.0.0.1:80", "10.0.0.2:80"];
        let found = all.iter().map(|text| text.parse().unwrap()).collect();
        let texts: Vec<String> = interleaved(found).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["[::1]:80", "10.0.0.1:80", "[::2]:80", "10.0.0.2:80"]);
    }

    #[test]
    fn addresses_when_name_has_too_many_then_number_is_limited() {
        // Because of the duplicate, each step of `interleaved` after the first step ends with an odd number of
        // addresses. So the number goes from 31 to 33 before it is limited to 32.
        let pairs = (0..17).flat_map(|number| [format!("[::{number:x}]:80"), format!("10.0.0.{number}:80")]);
        let all: Vec<_> = ["[::0]:80".to_owned()].into_iter().chain(pairs).collect();
        let found = all.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(interleaved(found).len(), MOST_ADDRESSES);
    }

    #[test]
    fn address_when_missing_in_lookups_then_stays_in_use_for_the_hold_time() {
        let both = looked_up(&[], &["10.0.0.1:80", "10.0.0.2:80"], 1_000);
        let once = looked_up(&both, &["10.0.0.2:80"], 11_000);
        assert_eq!(texts(&once), ["10.0.0.2:80", "10.0.0.1:80"], "one lookup must not drop the address");
        let twice = looked_up(&once, &["10.0.0.2:80"], 30_999);
        assert_eq!(twice.len(), 2);
        assert_eq!(texts(&looked_up(&twice, &["10.0.0.2:80"], 31_000)), ["10.0.0.2:80"]);
        // The address keeps its state, and the hold time begins again.
        let again = looked_up(&twice, &["10.0.0.1:80"], 31_000);
        assert!(Arc::ptr_eq(&again[0], &both[0]));
        let missing = looked_up(&again, &["10.0.0.3:80"], 100_000);
        assert_eq!(texts(&missing), ["10.0.0.3:80", "10.0.0.1:80"]);
    }

    #[test]
    fn missing_address_when_failed_or_unhealthy_then_dropped_at_once() {
        let all = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
        let before = looked_up(&[], &all, 1_000);
        let (_, seen) = before[1].turn();
        before[1].failed(seen);
        before[2].set_healthy(false);
        assert_eq!(looked_up(&before, &all, 11_000).len(), 3, "the name still has the addresses");
        assert_eq!(texts(&looked_up(&before, &["10.0.0.4:80"], 11_000)), ["10.0.0.4:80", "10.0.0.1:80"]);
    }

    #[test]
    fn addresses_when_each_lookup_returns_other_addresses_then_number_is_limited() {
        let mut endpoints = Vec::new();
        for third in 0..20 {
            let found: Vec<_> = (0..20).map(|fourth| format!("10.0.{third}.{fourth}:80")).collect();
            let found: Vec<_> = found.iter().map(String::as_str).collect();
            endpoints = looked_up(&endpoints, &found, 1_000);
            assert_eq!(texts(&endpoints)[..20], found);
        }
        assert_eq!(endpoints.len(), MOST_ADDRESSES);
    }
}
