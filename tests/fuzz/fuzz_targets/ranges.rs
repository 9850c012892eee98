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
                assert!(set.contains(network.network()) && set.contains(network.broadcast()), "{network}");
            }
            let lines: Vec<_> = networks.iter().map(ToString::to_string).collect();
            assert_eq!(parse_ranges(lines.join("\n").as_bytes()).ok(), Some(networks));
        }
        Err(fault) => assert!(fault.to_string().contains("; "), "the message does not say what to do: {fault}"),
    }
});
