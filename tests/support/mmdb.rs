//! A minimal writer of country files in `MaxMind`'s format 2.0. Records have 24 bits, and IPv4 networks are inside
//! `::/96`.

use std::net::IpAddr;

/// Makes a file with these networks and countries. If a network contains another network, the caller must list the
/// larger network first.
pub fn countries(networks: &[(&str, &str)]) -> Vec<u8> {
    write(networks, |code| map(&[("country", map(&[("iso_code", text(code))]))]))
}

/// Makes a file whose records contain a number instead of a country, as in files of autonomous systems.
pub fn systems(networks: &[&str]) -> Vec<u8> {
    let networks: Vec<_> = networks.iter().map(|network| (*network, "")).collect();
    write(&networks, |_| map(&[("autonomous_system_number", unsigned(6, 64_500))]))
}

/// The target of a branch in the search tree. Each node has two branches.
#[derive(Clone, Copy)]
enum Way {
    Nowhere,
    Node(usize),
    Data(usize),
}

fn write(networks: &[(&str, &str)], record: impl Fn(&str) -> Vec<u8>) -> Vec<u8> {
    let mut nodes = vec![[Way::Nowhere; 2]];
    let mut data = Vec::new();
    for (network, code) in networks {
        let (bits, length) = prefix(network);
        let mut node = 0;
        for depth in 0..length {
            let side = usize::from(bits >> (127 - depth) & 1 == 1);
            if depth + 1 == length {
                nodes[node][side] = Way::Data(data.len());
            } else if let Way::Node(next) = nodes[node][side] {
                node = next;
            } else {
                nodes.push([nodes[node][side]; 2]);
                nodes[node][side] = Way::Node(nodes.len() - 1);
                node = nodes.len() - 1;
            }
        }
        data.extend(record(code));
    }
    let count = nodes.len();
    let mut file = Vec::new();
    for way in nodes.iter().flatten() {
        let value = match *way {
            Way::Nowhere => count,
            Way::Node(node) => node,
            Way::Data(at) => count + 16 + at,
        };
        file.extend(&u32::try_from(value).expect("a small file").to_be_bytes()[1..]);
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    file.extend(map(&[
        ("binary_format_major_version", unsigned(5, 2)),
        ("binary_format_minor_version", unsigned(5, 0)),
        ("build_epoch", unsigned(9, 1_795_345_741)),
        ("database_type", text("Test-Country")),
        ("description", map(&[])),
        ("ip_version", unsigned(5, 6)),
        ("languages", control(11, 0)),
        ("node_count", unsigned(6, u32::try_from(count).expect("a small file"))),
        ("record_size", unsigned(5, 24)),
    ]));
    file
}

/// Reads a network in the form `address/length`. Returns the bits and the length of the IPv6 prefix. An IPv4 network
/// becomes a network inside `::/96`.
fn prefix(network: &str) -> (u128, u32) {
    let (address, length) = network.split_once('/').expect("a network in the form address/length");
    let length: u32 = length.parse().expect("a number as the prefix length");
    match address.parse().expect("an IP address") {
        IpAddr::V4(address) => (u128::from(u32::from(address)), length + 96),
        IpAddr::V6(address) => (address.into(), length),
    }
}

/// Returns the first bytes of a value. These bytes contain the type and the size of the value. The size must be below
/// 29.
fn control(kind: u8, size: usize) -> Vec<u8> {
    let size = u8::try_from(size).expect("a size below 29");
    assert!(size < 29, "the size {size} is not below 29; the form for larger sizes is not implemented");
    if kind < 8 { vec![kind << 5 | size] } else { vec![size, kind - 7] }
}

fn text(text: &str) -> Vec<u8> {
    [control(2, text.len()), text.as_bytes().to_vec()].concat()
}

fn unsigned(kind: u8, value: u32) -> Vec<u8> {
    let bytes: Vec<u8> = value.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    [control(kind, bytes.len()), bytes].concat()
}

fn map(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs_written = pairs.iter().flat_map(|(key, value)| [text(key), value.clone()]).flatten();
    control(7, pairs.len()).into_iter().chain(pairs_written).collect()
}
