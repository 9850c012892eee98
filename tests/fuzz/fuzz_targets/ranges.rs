//! Fuzzes the address lists of CDNs, in plain text and in JSON. A list that is accepted is never empty and has no
//! network that contains every address. When the list is written and read again, the networks are the same.

#![no_main]

use edgeshim::internals::{AddressSet, parse_ranges};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match parse_ranges(data) {
        Ok(networks) => {
            assert!(!networks.is_empty());
            assert!(networks.iter().all(|network| network.prefix_len() > 0));
            let set = AddressSet::new(networks.iter().copied());
            for network in &networks {
                for address in [network.network(), network.broadcast()] {
                    // An IPv4-mapped address is looked up as its IPv4 address, and an IPv6 network has no IPv4 address.
                    let is_mapped = address.is_ipv6() && address.to_canonical().is_ipv4();
                    assert!(is_mapped || set.contains(address), "{network}");
                }
            }
            let lines: Vec<_> = networks.iter().map(ToString::to_string).collect();
            assert_eq!(parse_ranges(lines.join("\n").as_bytes()).ok(), Some(networks));
        }
        Err(fault) => assert!(fault.to_string().contains("; "), "the message does not say what to do: {fault}"),
    }
});
