//! The addresses from which a CDN pulls. The check of a pull's address is one lookup in a set of addresses. The set can
//! be replaced while requests are checked.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use ipnet::{IpNet, Ipv4Net};

use crate::keys::{Checked, Text};

/// The length of the prefix of IPv4-mapped IPv6 addresses, in bits. The prefix is `::ffff:0:0/96`.
const MAPPED_PREFIX_BITS: u8 = 96;

/// A set of addresses, stored as sorted ranges. A lookup is a binary search.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl AddressSet {
    /// Returns the set of all addresses of these networks. The networks are allowed to overlap.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match canonical(network) {
                IpNet::V4(network) => v4.push((network.network().to_bits(), network.broadcast().to_bits())),
                IpNet::V6(network) => v6.push((network.network().to_bits(), network.broadcast().to_bits())),
            }
        }
        Self { v4: disjoint(v4, |bits| bits.checked_add(1)), v6: disjoint(v6, |bits| bits.checked_add(1)) }
    }

    /// Returns whether the set contains an address. An IPv4-mapped IPv6 address is looked up as its IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => within(&self.v4, address.to_bits()),
            IpAddr::V6(address) => within(&self.v6, address.to_bits()),
        }
    }
}

/// Returns the network with all bits after its prefix set to 0. An IPv4-mapped IPv6 network becomes an IPv4 network.
pub(crate) fn canonical(network: IpNet) -> IpNet {
    let network = network.trunc();
    if let IpNet::V6(mapped) = network
        && let Some(address) = mapped.network().to_ipv4_mapped()
        && let Some(prefix) = mapped.prefix_len().checked_sub(MAPPED_PREFIX_BITS)
        && let Ok(network) = Ipv4Net::new(address, prefix)
    {
        return IpNet::V4(network);
    }
    network
}

/// The text form of a configuration value that is a network.
pub(crate) const NETWORK: Text<IpNet> =
    Text { example: "10.0.0.0/8", read: |text, _| network(text), write: IpNet::to_string };

/// Reads a network. A single address becomes a network that contains only this address. Bits after the prefix are set
/// to 0. An IPv4-mapped IPv6 network becomes an IPv4 network, because a lookup converts every IPv4-mapped address to
/// IPv4.
pub(crate) fn network(text: &str) -> Checked<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(canonical(address.into()));
    }
    text.parse::<IpNet>().map(canonical).map_err(|_| {
        "is not a network; write an address or a CIDR, for example \"10.0.0.0/8\" or \"2001:db8::/32\"".to_owned()
    })
}

/// Sorts ranges, and joins ranges that overlap or touch each other.
fn disjoint<T: Copy + Ord>(mut ranges: Vec<(T, T)>, next: impl Fn(T) -> Option<T>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    ranges.dedup_by(|later, kept| {
        // The highest address has no next address. A range that ends with the highest address contains every range that
        // is sorted after it.
        let joins = next(kept.1).is_none_or(|next| later.0 <= next);
        if joins {
            kept.1 = kept.1.max(later.1);
        }
        joins
    });
    ranges.shrink_to_fit();
    ranges
}

fn within<T: Copy + Ord>(ranges: &[(T, T)], bits: T) -> bool {
    let begun = ranges.partition_point(|range| range.0 <= bits);
    begun.checked_sub(1).and_then(|position| ranges.get(position)).is_some_and(|range| bits <= range.1)
}

/// The addresses of one provider. The set can be replaced while other threads use it. A lookup takes no lock.
#[derive(Debug)]
pub(crate) struct AddressList {
    in_force: ArcSwap<InForce>,
}

#[derive(Debug)]
struct InForce {
    set: AddressSet,
    as_of: Option<SystemTime>,
}

impl AddressList {
    /// Returns a list that contains `set`. `as_of` is the time at which the oldest file of the set was written. `as_of`
    /// is `None` if no part of the set comes from a file.
    pub(crate) fn new(set: AddressSet, as_of: Option<SystemTime>) -> Self {
        Self { in_force: ArcSwap::from_pointee(InForce { set, as_of }) }
    }

    /// Returns whether the current set contains an address.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.in_force.load().set.contains(address)
    }

    /// Replaces the set. Each lookup uses either the complete old set or the complete new set.
    pub(crate) fn replace(&self, set: AddressSet, as_of: Option<SystemTime>) {
        self.in_force.store(Arc::new(InForce { set, as_of }));
    }

    /// Returns the time at which the oldest file of the current set was written, if any part of the set comes from a
    /// file.
    pub(crate) fn as_of(&self) -> Option<SystemTime> {
        self.in_force.load().as_of
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn set(networks: &[&str]) -> AddressSet {
        AddressSet::new(networks.iter().map(|network| network.parse().unwrap()))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_when_overlapping_or_adjacent_then_joined_into_one_range() {
        let set = set(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25", "10.0.0.7/32", "10.0.4.0/24", "2001:db8::/32"]);
        assert_eq!(set.v4.len(), 2);
        assert_eq!(set.v6.len(), 1);
        for inside in ["10.0.0.0", "10.0.0.255", "10.0.1.0", "10.0.1.255", "10.0.4.9", "2001:db8::", "2001:db8:ffff::1"]
        {
            assert!(set.contains(ip(inside)), "{inside}");
        }
        for outside in ["9.255.255.255", "10.0.2.0", "10.0.3.255", "10.0.5.0", "2001:db7:ffff::", "2001:db9::", "::"] {
            assert!(!set.contains(ip(outside)), "{outside}");
        }
    }

    #[test]
    fn set_when_network_has_the_first_or_last_address_then_does_not_overflow() {
        let set = set(&["255.255.255.255/32", "255.0.0.0/8", "0.0.0.0/32", "ffff::/16", "ffff:ffff::/32", "::1/128"]);
        for inside in ["255.255.255.255", "255.0.0.0", "0.0.0.0", "ffff::", "ffff:ffff::1", "::1"] {
            assert!(set.contains(ip(inside)), "{inside}");
        }
        assert!(!set.contains(ip("254.255.255.255")) && !set.contains(ip("::2")) && !set.contains(ip("fffe::")));
    }

    #[test]
    fn set_when_empty_then_contains_nothing() {
        assert!(!AddressSet::default().contains(ip("0.0.0.0")));
        assert!(!AddressSet::default().contains(ip("::")));
    }

    #[test]
    fn ipv4_mapped_address_when_in_set_or_lookup_then_treated_as_ipv4() {
        assert!(set(&["192.0.2.0/24"]).contains(ip("::ffff:192.0.2.9")));
        let mapped = set(&["::ffff:192.0.2.0/120"]);
        assert!(mapped.contains(ip("192.0.2.9")) && mapped.contains(ip("::ffff:192.0.2.9")));
        assert!(!mapped.contains(ip("192.0.3.0")) && mapped.v6.is_empty());
        assert_eq!(canonical("::ffff:0:0/96".parse().unwrap()), "0.0.0.0/0".parse::<IpNet>().unwrap());
        // The network `::/64` is larger than the range of IPv4-mapped addresses. So the network stays an IPv6 network
        // and contains no IPv4 address.
        assert!(!set(&["::/64"]).contains(ip("192.0.2.9")));
        assert_eq!(canonical("10.1.2.3/8".parse().unwrap()), "10.0.0.0/8".parse::<IpNet>().unwrap());
    }

    #[test]
    fn network_when_valid_then_read_in_canonical_form() {
        for (typed, read) in [
            ("10.0.0.1", "10.0.0.1/32"),
            ("::1", "::1/128"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ] {
            assert_eq!(network(typed).map(|n| n.to_string()).as_deref(), Ok(read));
        }
        for bad in ["", "10.0.0.0/33", "10.0.0", "fe80::/129", "host/8"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn address_list_when_set_is_replaced_then_uses_the_new_set() {
        let list = AddressList::new(set(&["192.0.2.0/24"]), None);
        assert!(list.contains(ip("192.0.2.1")) && list.as_of().is_none());
        list.replace(set(&["198.51.100.0/24"]), Some(SystemTime::UNIX_EPOCH));
        assert!(!list.contains(ip("192.0.2.1")) && list.contains(ip("198.51.100.1")));
        assert_eq!(list.as_of(), Some(SystemTime::UNIX_EPOCH));
    }

    proptest! {
        #[test]
        fn set_when_networks_are_arbitrary_then_agrees_with_each_network(
            v4 in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..12),
            v6 in prop::collection::vec((any::<u128>(), 0_u8..=128), 0..12),
            near in prop::collection::vec((any::<prop::sample::Index>(), -2_i8..=2), 0..16),
            far in any::<(u32, u128)>(),
        ) {
            let mut networks: Vec<IpNet> = Vec::new();
            networks.extend(v4.iter().map(|&(bits, prefix)| IpNet::new(Ipv4Addr::from(bits).into(), prefix).unwrap()));
            networks.extend(v6.iter().map(|&(bits, prefix)| IpNet::new(Ipv6Addr::from(bits).into(), prefix).unwrap()));
            let set = AddressSet::new(networks.iter().copied());
            let mut probes = vec![IpAddr::from(Ipv4Addr::from(far.0)), IpAddr::from(Ipv6Addr::from(far.1))];
            for (index, step) in near {
                if networks.is_empty() {
                    break;
                }
                let network = networks[index.index(networks.len())];
                let edge = if step < 0 { network.network() } else { network.broadcast() };
                probes.push(match edge {
                    IpAddr::V4(edge) => Ipv4Addr::from(edge.to_bits().wrapping_add_signed(step.into())).into(),
                    IpAddr::V6(edge) => Ipv6Addr::from(edge.to_bits().wrapping_add_signed(step.into())).into(),
                });
            }
            for address in probes {
                let expected = networks.iter().any(|&network| canonical(network).contains(&address.to_canonical()));
                prop_assert_eq!(set.contains(address), expected, "{} in {:?}", address, networks);
            }
        }
    }
}
