//! The peers of a worker's recent connections.
//!
//! The connections of a CDN come from few addresses. Connections without a client certificate share one [`Peer`] with
//! its prepared field values, if their address and scheme are equal. So a further connection neither writes these
//! values nor keeps a copy of them. A copy needs about 300 bytes.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::wire::forwarded::{Peer, Scheme};

/// The number of addresses that a worker remembers. A new address replaces the address that has the same slot.
const SLOTS: usize = 64;

#[derive(Debug, Clone)]
struct Known {
    address: IpAddr,
    scheme: Scheme,
    peer: Arc<Peer>,
}

/// The peers of recent connections, each in the slot of its address. Only one thread uses the mutex.
#[derive(Debug)]
pub(super) struct Peers(Mutex<Vec<Option<Known>>>);

impl Default for Peers {
    fn default() -> Self {
        Self(Mutex::new(vec![None; SLOTS]))
    }
}

impl Peers {
    /// Returns the peer for a connection without a client certificate.
    pub(super) fn peer(&self, address: IpAddr, scheme: Scheme) -> Arc<Peer> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = slots.get_mut(slot(address)) else { return Arc::new(Peer::new(address, scheme)) };
        if let Some(known) = slot
            && known.address == address
            && known.scheme == scheme
        {
            return Arc::clone(&known.peer);
        }
        let peer = Arc::new(Peer::new(address, scheme));
        *slot = Some(Known { address, scheme, peer: Arc::clone(&peer) });
        peer
    }
}

/// Returns the slot of an address. The servers of a CDN mostly differ in the last bytes of their addresses.
fn slot(address: IpAddr) -> usize {
    let mix = |octets: &[u8]| octets.iter().fold(0_u8, |sum, octet| sum.rotate_left(3) ^ octet);
    let sum = match address {
        IpAddr::V4(address) => mix(&address.octets()),
        IpAddr::V6(address) => mix(&address.octets()),
    };
    usize::from(sum) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_when_address_and_scheme_repeat_then_is_shared() {
        let peers = Peers::default();
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let first = peers.peer(address, Scheme::Http);
        assert!(Arc::ptr_eq(&first, &peers.peer(address, Scheme::Http)));
        assert!(!Arc::ptr_eq(&first, &peers.peer(address, Scheme::Https)));
        assert_eq!(first.address(), address);
    }

    #[test]
    fn peer_when_two_addresses_have_one_slot_then_each_address_gets_its_peer() {
        let peers = Peers::default();
        for number in 0..=u16::MAX {
            let [high, low] = number.to_be_bytes();
            let address = IpAddr::from([10, 0, high, low]);
            assert_eq!(peers.peer(address, Scheme::Http).address(), address);
        }
        let mapped: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        assert_eq!(peers.peer(mapped, Scheme::Http).address(), mapped.to_canonical());
        assert_eq!(peers.0.lock().unwrap().len(), SLOTS);
    }
}
