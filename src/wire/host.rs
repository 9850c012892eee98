//! Host and authority (RFC 9110 §7.2, RFC 3986 §3.2): checks for valid hosts, equal authorities and allowed hosts.
//!
//! The checks are stricter than the grammar. The grammar allows sub-delims, percent-encoding and user information in a
//! URI's authority, but no real site uses them in Host. Attackers have used each of these three forms to deceive
//! caches, because caches and servers read such an authority in different ways.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use http::{HeaderMap, HeaderValue};

use super::decimal;
use super::names::HOST;
use super::values::{Lines, only_line};

/// The longest valid host name, in bytes, without the port. No name in DNS is longer (RFC 1035 §2.3.4).
const LONGEST_NAME: usize = 255;

/// Whether a host name can contain a byte. The host of each request is checked, and the table is faster than
/// comparisons.
static IS_NAME_BYTE: [bool; 256] = {
    let mut all = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        all[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    all
};

/// Returns the host of a request, with the port if the request names a port. The layer `observe` adds Host to requests
/// that have their host only in the target, so the authority of the target is not read here. The result is empty if an
/// HTTP/1.0 request has no host.
pub(crate) fn host(headers: &HeaderMap) -> &[u8] {
    host_field(headers).map(HeaderValue::as_bytes).unwrap_or_default()
}

/// Returns the value of the first line of Host. In nearly all requests, Host is the first field. A look at the first
/// field costs less than a look-up in the map.
pub(crate) fn host_field(headers: &HeaderMap) -> Option<&HeaderValue> {
    match headers.iter().next() {
        Some((name, value)) if *name == HOST => Some(value),
        _ => headers.get(HOST),
    }
}

/// Returns the value of Host.
///
/// # Errors
/// Returns an error if Host has no line or several lines.
pub(crate) fn only_host(headers: &HeaderMap) -> Result<&HeaderValue, Lines> {
    let mut fields = headers.iter();
    match (fields.next(), fields.next()) {
        // The map returns all lines of a field in a row.
        (Some((name, _)), Some((second, _))) if *name == HOST && *second == HOST => Err(Lines::Several),
        (Some((name, host)), _) if *name == HOST => Ok(host),
        _ => only_line(headers, &HOST),
    }
}

/// Returns whether `host` is a name, an IPv4 address or an IPv6 address in brackets, with or without a port.
///
/// A name consists of ASCII letters, digits and `-._~` only. A port has one to five digits and is at most 65535. The
/// port after a colon can be empty, which means the default port (RFC 3986 §3.2.3). These hosts are not valid: an empty
/// host (HTTP allows an empty host for targets without an authority), IPv6 addresses with zones, and the address forms
/// that RFC 3986 reserves for the future.
pub(crate) fn valid_host(host: &[u8]) -> bool {
    let Some((name, port)) = split(host) else { return false };
    let name_fits = match name {
        [b'[', address @ .., b']'] => ipv6(address).is_some(),
        _ => (1..=LONGEST_NAME).contains(&name.len()) && name.iter().all(|byte| IS_NAME_BYTE[usize::from(*byte)]),
    };
    name_fits && port.is_none_or(|port| port.is_empty() || port_number(port).is_some())
}

/// Returns whether two authorities are equivalent. The comparison ignores the case of names and compares IPv6 addresses
/// by value. A missing or empty port counts as `default_port`. If an authority cannot be split into a name
/// and a port, or if its port is invalid, the result is false.
pub(crate) fn same_authority(a: &[u8], b: &[u8], default_port: u16) -> bool {
    let (Some((name_a, port_a)), Some((name_b, port_b))) = (split(a), split(b)) else { return false };
    let number = |port: Option<&[u8]>| match port {
        None | Some([]) => Some(default_port),
        Some(digits) => port_number(digits),
    };
    let ports_alike = number(port_a).is_some_and(|port| Some(port) == number(port_b));
    ports_alike
        && (name_a.eq_ignore_ascii_case(name_b)
            || match (name_a, name_b) {
                ([b'[', a @ .., b']'], [b'[', b @ .., b']']) => ipv6(a).is_some_and(|a| Some(a) == ipv6(b)),
                _ => false,
            })
}

/// Returns whether `host` matches an entry of `allowed`. An empty list allows every host.
///
/// An entry is a host name or an address, with or without a port. The comparison ignores case. `*.example.com` matches
/// every name below example.com, at any depth, but not example.com itself. An entry with a port matches only that port.
/// An entry without a port matches any port. A dot at the end of the name in `host` (the DNS root) is ignored.
pub(crate) fn host_allowed(host: &str, allowed: &[String]) -> bool {
    if allowed.is_empty() {
        return true;
    }
    let Some((name, port)) = split(host.as_bytes()) else { return false };
    let name = name.strip_suffix(b".").unwrap_or(name);
    let port = port.and_then(port_number);
    allowed.iter().any(|entry| {
        let Some((entry_name, entry_port)) = split(entry.as_bytes()) else { return false };
        let name_fits = match entry_name {
            [b'*', suffix @ ..] if suffix.first() == Some(&b'.') => {
                name.len() > suffix.len()
                    && name
                        .split_at_checked(name.len() - suffix.len())
                        .is_some_and(|(_, end)| end.eq_ignore_ascii_case(suffix))
            }
            _ => entry_name.eq_ignore_ascii_case(name),
        };
        name_fits && entry_port.is_none_or(|entry_port| port.is_some() && port == port_number(entry_port))
    })
}

/// Splits a host into the name and the text after the colon. The name of an IPv6 host includes the brackets. Returns
/// `None` if a bracket has no counterpart, if a bracket is inside a name, if text without a colon follows a closing
/// bracket, or if the text after the colon contains another colon.
fn split(host: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let name_length = if host.first() == Some(&b'[') {
        memchr::memchr(b']', host)? + 1
    } else {
        match memchr::memchr3(b':', b'[', b']', host) {
            Some(at) if host.get(at) != Some(&b':') => return None,
            at => at.unwrap_or(host.len()),
        }
    };
    match host.split_at_checked(name_length)? {
        (name, []) => Some((name, None)),
        (name, [b':', port @ ..]) if !port.contains(&b':') => Some((name, Some(port))),
        _ => None,
    }
}

fn ipv6(address: &[u8]) -> Option<Ipv6Addr> {
    // No IPv6 address is longer than 45 bytes as text.
    if address.len() > 45 {
        return None;
    }
    match IpAddr::from_str(std::str::from_utf8(address).ok()?) {
        Ok(IpAddr::V6(address)) => Some(address),
        _ => None,
    }
}

fn port_number(digits: &[u8]) -> Option<u16> {
    if digits.len() > 5 { None } else { decimal::read(digits)?.try_into().ok() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn host_when_form_is_a_name_or_an_address_then_is_valid() {
        for host in [
            "example.com",
            "EXAMPLE.com:8080",
            "a_b-c~d.example",
            "example.com.",
            "localhost:0",
            "10.0.0.1:65535",
            "[::1]",
            "[2001:DB8::1]:443",
            "[::ffff:1.2.3.4]:80",
            "example.com:",
            "[::1]:",
        ] {
            assert!(valid_host(host.as_bytes()), "{host}");
        }
        assert!(valid_host("a".repeat(255).as_bytes()));
    }

    #[test]
    fn host_when_first_or_later_or_repeated_then_result_equals_a_map_lookup() {
        for (names, count) in [
            (&["host"][..], 1),
            (&["host", "accept"], 1),
            (&["accept", "host"], 1),
            (&["host", "accept", "host"], 2),
            (&["accept", "host", "host"], 2),
            (&["accept"], 0),
            (&[], 0),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in names.iter().zip(["a", "b", "c"]) {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(host_field(&headers), headers.get(HOST), "{names:?}");
            let only = match count {
                0 => Err(Lines::None),
                1 => Ok(&headers[HOST]),
                _ => Err(Lines::Several),
            };
            assert_eq!(only_host(&headers), only, "{names:?}");
        }
    }

    #[test]
    fn host_when_malformed_then_is_not_valid() {
        for host in [
            "",
            ":80",
            "user@example.com",
            "a,b",
            "a b",
            " a",
            "a/",
            "a\\b",
            "a?b",
            "a#b",
            "a%41",
            "a:65536",
            "a:123456",
            "a:8x",
            "a:+80",
            "a:80:80",
            "::1",
            "[::1",
            "[]",
            "[::1]x",
            "[::1]80",
            "[fe80::1%25eth0]",
            "[v1.a]",
            "[1.2.3.4]",
            "a[::1]",
            "a\u{e4}",
            "a!b",
            "a\0b",
        ] {
            assert!(!valid_host(host.as_bytes()), "{host}");
        }
        assert!(!valid_host("a".repeat(256).as_bytes()));
    }

    #[test]
    fn authorities_when_only_case_default_port_or_ipv6_form_differs_then_are_equivalent() {
        for (a, b) in [
            ("Example.com", "example.COM"),
            ("example.com:80", "example.com"),
            ("example.com:", "example.com:80"),
            ("example.com:080", "example.com"),
            ("[::1]:80", "[0:0:0:0:0:0:0:1]"),
        ] {
            assert!(same_authority(a.as_bytes(), b.as_bytes(), 80), "{a} {b}");
        }
        for (a, b) in [
            ("a", "b"),
            ("a:81", "a"),
            ("a:80", "a:443"),
            ("a:x", "a:x"),
            ("a:1:2", "a:1:2"),
            ("[::1]", "[::2]"),
            ("[::1", "[::1"),
            ("[::1]x", "[::1]x"),
            ("a]", "a]"),
            ("a[::1]:80", "a[::1]:80"),
            ("a.", "a"),
        ] {
            assert!(!same_authority(a.as_bytes(), b.as_bytes(), 80), "{a} {b}");
        }
    }

    #[test]
    fn host_when_equal_to_an_entry_or_below_a_wildcard_then_is_allowed() {
        let list = ["www.example.com", "*.img.example.com", "admin.example.com:8443", "[::1]"].map(String::from);
        for host in [
            "www.example.com",
            "WWW.example.com:8080",
            "www.example.com.",
            "a.img.example.com:1",
            "a.b.IMG.example.com",
            "admin.example.com:8443",
            "[::1]:9",
        ] {
            assert!(host_allowed(host, &list), "{host}");
        }
        for host in [
            "example.com",
            "img.example.com",
            ".img.example.com.evil",
            "ximg.example.com",
            "admin.example.com",
            "admin.example.com:443",
            "",
            "[::2]",
            "www.example.com:80:80",
        ] {
            assert!(!host_allowed(host, &list), "{host}");
        }
        assert!(host_allowed("anything", &[]));
    }

    proptest! {
        #[test]
        fn host_when_valid_then_is_equivalent_to_the_upper_case_form(
            name in "[a-z0-9-]{1,20}(\\.[a-z0-9_~-]{1,9}){0,3}",
            port in prop::option::of(any::<u16>()),
        ) {
            let host = port.map_or_else(|| name.clone(), |port| format!("{name}:{port}"));
            prop_assert!(valid_host(host.as_bytes()));
            prop_assert!(same_authority(host.as_bytes(), host.to_ascii_uppercase().as_bytes(), 443));
            prop_assert!(host_allowed(&host, std::slice::from_ref(&host)));
        }

        #[test]
        fn host_when_bytes_are_arbitrary_then_checks_do_not_panic(
            host in prop::collection::vec(prop::sample::select(b"a[]:1.%*@\xc3\xa4".to_vec()), 0..20),
            text in "[\\[\\]:a\u{e4}.*]{0,12}",
        ) {
            let _ = (valid_host(&host), same_authority(&host, &host, 80));
            let _ = host_allowed(&text, std::slice::from_ref(&text));
        }
    }
}
