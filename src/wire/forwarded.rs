//! The client's address through trusted proxies, and the fields that tell the origin: X-Forwarded-For, -Proto, -Host,
//! Forwarded.
//!
//! A peer that is not trusted is believed nothing: what it sent in these fields is replaced by what we saw ourselves.
//! That case, the usual one, clones values prepared once a connection ([`Peer`]) and allocates nothing. Behind a
//! trusted proxy the list is walked from its right end, the end that our own machines wrote, and only what was walked
//! is passed on.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};

use super::certificate::Certificate;
use super::host::valid_host;
use super::names::{FORWARDED, HOST, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};

/// The longest chain of trusted proxies that is walked; beyond it the walk ends as at junk.
const MOST_HOPS: usize = 32;
/// An IPv6 address in full.
const MOST_ADDRESS_BYTES: usize = 40;
/// The same as an element of Forwarded, with its scheme.
const MOST_ELEMENT_BYTES: usize = MOST_ADDRESS_BYTES + 24;

/// By which scheme a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Clear text.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// As it is written in a field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The other end of a connection, with the values that say so, made once.
#[derive(Clone, Debug)]
pub struct Peer {
    address: IpAddr,
    scheme: Scheme,
    certificate: Option<Arc<Certificate>>,
    x_forwarded_for: HeaderValue,
    forwarded: HeaderValue,
}

impl Peer {
    /// Prepares the values for a connection. IPv4 addresses in IPv6 clothes are undressed.
    pub fn new(address: IpAddr, scheme: Scheme) -> Self {
        let address = address.to_canonical();
        // With room for both at their longest, so that a connection costs two allocations here and not eight.
        let mut text = String::with_capacity(MOST_ADDRESS_BYTES + MOST_ELEMENT_BYTES);
        push_address(&mut text, address);
        let address_bytes = text.len();
        push_element(&mut text, 0..address_bytes, Some(scheme));
        let block = Bytes::from_owner(text);
        let (x_forwarded_for, forwarded) = (value(block.slice(..address_bytes)), value(block.slice(address_bytes..)));
        Self { address, scheme, certificate: None, x_forwarded_for, forwarded }
    }

    /// The same, with the certificate that it showed.
    pub fn with_certificate(self, certificate: Arc<Certificate>) -> Self {
        Self { certificate: Some(certificate), ..self }
    }

    /// The address, never an IPv4 one in IPv6 form.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The client certificate that was shown and checked against the authorities that we trust, if any.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_deref()
    }
}

/// How far X-Forwarded-For is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trail {
    /// Who talked to the outermost trusted machine; the peer itself when it is not trusted.
    pub client: IpAddr,
    /// Whether that machine is a CDN's, which has proved it: then `client` is its visitor, and stands in none of the kept entries.
    pub proven: bool,
    /// How many entries of X-Forwarded-For, counted from the right, stay.
    pub kept: u8,
    /// Whether the peer is a trusted proxy, so that its X-Forwarded-Proto and -Host count.
    pub peer_trusted: bool,
}

/// Walks X-Forwarded-For from right to left as long as the hops are trusted (all its lines, read as one list).
///
/// The walk ends with the first address that is not trusted (the client), before the first entry that is no address,
/// after 32 entries, or at the list's left end. Entries may carry ports, IPv6 may stand in brackets, either may be
/// quoted.
pub(crate) fn client_from_xff(headers: &HeaderMap, peer: IpAddr, trusted: impl Fn(IpAddr) -> bool) -> Trail {
    let peer = peer.to_canonical();
    let mut trail = Trail { client: peer, proven: false, kept: 0, peer_trusted: trusted(peer) };
    if !trail.peer_trusted {
        return trail;
    }
    for address in entries_from_the_right(headers) {
        trail.client = address;
        trail.kept += 1;
        if !trusted(address) {
            break;
        }
    }
    trail
}

/// Replaces X-Forwarded-For, -Proto, -Host and Forwarded by what is known.
///
/// X-Forwarded-For is the CDN's visitor where that is proven, the kept entries, the peer.
/// Proto is the connection's scheme, Host is the request's Host (`host`, where the target is not in the map); a trusted
/// peer's own words for both win. Forwarded says the same, without the host: X-Forwarded-Host and Host have it, and so
/// the value can be prepared.
pub(crate) fn write(headers: &mut HeaderMap, peer: &Peer, trail: Trail, host: Option<&HeaderValue>) {
    let told = if trail.peer_trusted { told_by_proxy(headers) } else { Told::default() };
    let scheme = told.scheme.unwrap_or(peer.scheme);
    let (list, elements) = if !trail.proven && trail.kept == 0 && scheme == peer.scheme {
        (peer.x_forwarded_for.clone(), peer.forwarded.clone())
    } else {
        chain(headers, peer, trail, scheme)
    };
    headers.insert(X_FORWARDED_FOR.clone(), list);
    headers.insert(FORWARDED, elements);
    headers.insert(X_FORWARDED_PROTO.clone(), HeaderValue::from_static(scheme.as_str()));
    match told.host.or_else(|| host.cloned()).or_else(|| headers.get(HOST).cloned()) {
        Some(host) => {
            headers.insert(X_FORWARDED_HOST.clone(), host);
        }
        None => {
            headers.remove(&X_FORWARDED_HOST);
        }
    }
}

/// Reads one entry: an address, with or without quotes, brackets and port.
pub(crate) fn entry_address(entry: &[u8]) -> Option<IpAddr> {
    let entry = entry.trim_ascii();
    // The longest is `"[`, 45 bytes of IPv6, `]:65535"`: junk beyond that is not even looked at.
    if entry.len() > 64 {
        return None;
    }
    let entry = match entry {
        [b'"', inner @ .., b'"'] => inner,
        _ => entry,
    };
    let text = std::str::from_utf8(entry).ok()?;
    let address = match text.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            Some(inner) => IpAddr::V6(inner.parse().ok()?),
            None => text.parse::<SocketAddr>().ok()?.ip(),
        },
    };
    Some(address.to_canonical())
}

/// The readable entries of X-Forwarded-For from the right, at most [`MOST_HOPS`], up to the first that is no address.
fn entries_from_the_right(headers: &HeaderMap) -> impl Iterator<Item = IpAddr> {
    headers
        .get_all(&X_FORWARDED_FOR)
        .iter()
        .rev()
        .flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b','))
        .map(entry_address)
        .map_while(|address| address)
        .take(MOST_HOPS)
}

/// The visitor's address in what a CDN wrote into X-Forwarded-For: left of the entries that our own proxies wrote (`trail`) and of `own`
/// further ones that the CDN writes behind its visitor's, the rightmost that is no node of the CDN's. None where the list ends
/// first, or holds something that is no address.
pub(crate) fn client_of_cdn(
    headers: &HeaderMap,
    trail: Trail,
    own: usize,
    is_node: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    entries_from_the_right(headers).skip(usize::from(trail.kept) + own).find(|&address| !is_node(address))
}

/// What a trusted proxy says of the client's request.
#[derive(Default)]
struct Told {
    scheme: Option<Scheme>,
    host: Option<HeaderValue>,
}

fn told_by_proxy(headers: &HeaderMap) -> Told {
    let single = |name| {
        let mut lines = headers.get_all(name).iter();
        match (lines.next(), lines.next()) {
            (Some(line), None) => Some(line),
            _ => None,
        }
    };
    let scheme = single(&X_FORWARDED_PROTO).and_then(|value| match value.as_bytes() {
        scheme if scheme.eq_ignore_ascii_case(b"https") => Some(Scheme::Https),
        scheme if scheme.eq_ignore_ascii_case(b"http") => Some(Scheme::Http),
        _ => None,
    });
    let host = single(&X_FORWARDED_HOST).filter(|value| valid_host(value.as_bytes())).cloned();
    Told { scheme, host }
}

/// Both lists, written anew: the proven client, the kept entries from left to right, the peer.
fn chain(headers: &HeaderMap, peer: &Peer, trail: Trail, scheme: Scheme) -> (HeaderValue, HeaderValue) {
    let mut kept = [peer.address; MOST_HOPS];
    let mut count = 0;
    if trail.kept > 0 {
        for (slot, address) in kept.iter_mut().zip(entries_from_the_right(headers)).take(usize::from(trail.kept)) {
            *slot = address;
            count += 1;
        }
    }
    // Both stand in one block, the first from its start. Addresses are formatted once, and the peer's was when it connected.
    let mut text = String::with_capacity((MOST_ADDRESS_BYTES + MOST_ELEMENT_BYTES) * (count + 2));
    let walked = kept.iter().take(count).rev().copied();
    for address in trail.proven.then(|| trail.client.to_canonical()).into_iter().chain(walked) {
        push_address(&mut text, address);
        text.push_str(", ");
    }
    let before_bytes = text.len();
    text.push_str(peer.x_forwarded_for.to_str().unwrap_or_default());
    let list_bytes = text.len();
    // The scheme that a proxy told belongs to the request as it came to the outermost one: to the first element.
    let mut first = Some(scheme);
    let mut start = 0;
    while let Some(length) = text.get(start..before_bytes).and_then(|rest| rest.find(", ")) {
        push_element(&mut text, start..start + length, first.take());
        text.push_str(", ");
        start += length + 2;
    }
    match first {
        Some(scheme) if scheme != peer.scheme => push_element(&mut text, start..list_bytes, Some(scheme)),
        _ => text.push_str(peer.forwarded.to_str().unwrap_or_default()),
    }
    // An owner keeps the count of those that share it in a block of its own; `Bytes` made from a text would do so twice.
    let block = Bytes::from_owner(text);
    (value(block.slice(..list_bytes)), value(block.slice(list_bytes..)))
}

fn push_address(text: &mut String, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        // Writing to a String cannot fail.
        let _ = write!(text, "{address}");
        return;
    };
    // The formatter takes ten times as long, and this is written for every pull whose visitor is proved.
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            text.push('.');
        }
        for (above, divisor) in [(99, 100), (9, 10), (0, 1)] {
            if octet > above || divisor == 1 {
                text.push(char::from(b'0' + octet / divisor % 10));
            }
        }
    }
}

/// One element of Forwarded (RFC 7239 §4) for the address that stands there in `text`; IPv6 in brackets and quotes (§6).
fn push_element(text: &mut String, address: Range<usize>, scheme: Option<Scheme>) {
    let is_ipv6 = text.get(address.clone()).is_some_and(|address| address.contains(':'));
    text.push_str(if is_ipv6 { "for=\"[" } else { "for=" });
    text.extend_from_within(address);
    if is_ipv6 {
        text.push_str("]\"");
    }
    if let Some(scheme) = scheme {
        text.push_str(";proto=");
        text.push_str(scheme.as_str());
    }
}

fn value(text: Bytes) -> HeaderValue {
    // Addresses and names in ASCII are always a valid value; the fallback is what RFC 7239 §6.3 and Squid call such a
    // client.
    HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Ours are `10.0.0.0/8` and `fd00::/8`.
    fn ours(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address.octets()[0] == 10,
            IpAddr::V6(address) => address.octets()[0] == 0xfd,
        }
    }

    fn map(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR.clone(), HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn field<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> &'a str {
        let mut lines = headers.get_all(name).iter();
        let line = lines.next().map_or("", |line| line.to_str().unwrap());
        assert!(lines.next().is_none(), "one line of {name}");
        line
    }

    #[test]
    fn walk_ends_where_trust_ends() {
        for (lines, peer, client, kept) in [
            (&["1.1.1.1"][..], "9.9.9.9", "9.9.9.9", 0),
            (&[], "10.0.0.1", "10.0.0.1", 0),
            (&["1.1.1.1, 2.2.2.2"], "10.0.0.1", "2.2.2.2", 1),
            (&["1.1.1.1, 2.2.2.2, 10.0.0.2"], "10.0.0.1", "2.2.2.2", 2),
            (&["6.6.6.6, 2.2.2.2", "10.0.0.3,10.0.0.2"], "10.0.0.1", "2.2.2.2", 3),
            (&["10.0.0.3,10.0.0.2"], "10.0.0.1", "10.0.0.3", 2),
            (&["2.2.2.2, junk, 10.0.0.2"], "10.0.0.1", "10.0.0.2", 1),
            (&["2.2.2.2, , 10.0.0.2"], "10.0.0.1", "10.0.0.2", 1),
            (&["2.2.2.2, unknown"], "10.0.0.1", "10.0.0.1", 0),
            (&["2001:db8::1, [fd00::2]:8080"], "fd00::1", "2001:db8::1", 2),
            (&["[2001:db8::1]"], "fd00::1", "2001:db8::1", 1),
            (&["2.2.2.2:4711, ::ffff:10.0.0.2"], "::ffff:10.0.0.1", "2.2.2.2", 2),
            (&["\"[2001:db8::1]:80\""], "10.0.0.1", "2001:db8::1", 1),
            (&["1.2.3.4.5, 10.0.0.2:x"], "10.0.0.1", "10.0.0.1", 0),
        ] {
            let trail = client_from_xff(&map(lines), ip(peer), ours);
            assert_eq!((trail.client, trail.kept), (ip(client), kept), "{lines:?} {peer}");
        }
    }

    #[test]
    fn walk_is_bounded() {
        let trail = client_from_xff(&map(&[&"10.0.0.9,".repeat(5000), "10.0.0.8"]), ip("10.0.0.1"), ours);
        assert_eq!(
            trail,
            Trail { client: ip("10.0.0.8"), proven: false, kept: 1, peer_trusted: true },
            "an empty entry is junk"
        );
        let long = vec!["10.0.0.9"; 5000].join(",");
        assert_eq!(usize::from(client_from_xff(&map(&[&long]), ip("10.0.0.1"), ours).kept), MOST_HOPS);
    }

    #[test]
    fn what_an_untrusted_peer_says_is_replaced() {
        let mut headers = map(&["1.1.1.1", "10.0.0.5"]);
        headers.insert(HOST, HeaderValue::from_static("www.example.com"));
        headers.insert(X_FORWARDED_HOST.clone(), HeaderValue::from_static("evil.example"));
        headers.append(X_FORWARDED_PROTO.clone(), HeaderValue::from_static("https"));
        headers.append(FORWARDED, HeaderValue::from_static("for=1.1.1.1"));
        headers.append(FORWARDED, HeaderValue::from_static("for=2.2.2.2"));
        let peer = Peer::new(ip("::ffff:9.9.9.9"), Scheme::Http);
        let trail = client_from_xff(&headers, peer.address(), ours);
        write(&mut headers, &peer, trail, None);
        assert_eq!(field(&headers, &X_FORWARDED_FOR), "9.9.9.9");
        assert_eq!(field(&headers, &X_FORWARDED_PROTO), "http");
        assert_eq!(field(&headers, &X_FORWARDED_HOST), "www.example.com");
        assert_eq!(field(&headers, &FORWARDED), "for=9.9.9.9;proto=http");
    }

    #[test]
    fn prepared_values_are_shared_not_copied() {
        let peer = Peer::new(ip("192.0.2.1"), Scheme::Https);
        let mut headers = map(&[]);
        let trail = client_from_xff(&headers, peer.address(), ours);
        write(&mut headers, &peer, trail, None);
        assert_eq!(headers[&X_FORWARDED_FOR].as_bytes().as_ptr(), peer.x_forwarded_for.as_bytes().as_ptr());
        assert_eq!(headers[FORWARDED].as_bytes().as_ptr(), peer.forwarded.as_bytes().as_ptr());
        assert!(!headers.contains_key(&X_FORWARDED_HOST));
    }

    #[test]
    fn a_trusted_peer_is_believed_up_to_the_walk() {
        let mut headers = map(&["6.6.6.6, 2.2.2.2:99, fd00::2"]);
        headers.insert(HOST, HeaderValue::from_static("internal"));
        headers.insert(X_FORWARDED_HOST.clone(), HeaderValue::from_static("www.example.com"));
        headers.insert(X_FORWARDED_PROTO.clone(), HeaderValue::from_static("HTTPS"));
        let peer = Peer::new(ip("10.0.0.1"), Scheme::Http);
        let trail = client_from_xff(&headers, peer.address(), ours);
        write(&mut headers, &peer, trail, None);
        assert_eq!(field(&headers, &X_FORWARDED_FOR), "2.2.2.2, fd00::2, 10.0.0.1");
        assert_eq!(field(&headers, &X_FORWARDED_PROTO), "https");
        assert_eq!(field(&headers, &X_FORWARDED_HOST), "www.example.com");
        assert_eq!(field(&headers, &FORWARDED), "for=2.2.2.2;proto=https, for=\"[fd00::2]\", for=10.0.0.1;proto=http");
    }

    #[test]
    fn a_trusted_peer_that_talks_nonsense_is_not_believed() {
        let mut headers = map(&[]);
        headers.insert(X_FORWARDED_HOST.clone(), HeaderValue::from_static("a, b"));
        headers.insert(X_FORWARDED_PROTO.clone(), HeaderValue::from_static("https, http"));
        let peer = Peer::new(ip("fd00::1"), Scheme::Http);
        let host = HeaderValue::from_static("www.example.com");
        let trail = client_from_xff(&headers, peer.address(), ours);
        write(&mut headers, &peer, trail, Some(&host));
        assert_eq!(field(&headers, &X_FORWARDED_PROTO), "http");
        assert_eq!(field(&headers, &X_FORWARDED_HOST), "www.example.com");
        assert_eq!(field(&headers, &FORWARDED), "for=\"[fd00::1]\";proto=http");
    }

    #[test]
    fn a_certificate_when_shown_is_known_of_the_peer() {
        let peer = Peer::new(ip("151.101.0.1"), Scheme::Https);
        assert_eq!(peer.certificate(), None);
        let shown = Certificate { names: vec!["edge.example".to_owned()], sha256: [7; 32] };
        assert_eq!(peer.with_certificate(Arc::new(shown.clone())).certificate(), Some(&shown));
    }

    #[test]
    fn addresses_are_written_as_the_standard_library_does() {
        for octet in 0..=255 {
            let address = IpAddr::from([octet, 255 - octet, 0, octet]);
            let mut text = String::new();
            push_address(&mut text, address);
            assert_eq!(text, address.to_string());
        }
    }

    #[test]
    fn a_proven_client_stands_first() {
        let proven = |trail| Trail { client: ip("2001:db8::7"), proven: true, ..trail };
        let peer = Peer::new(ip("151.101.0.1"), Scheme::Https);
        let mut headers = map(&["6.6.6.6"]);
        let trail = proven(client_from_xff(&headers, peer.address(), ours));
        write(&mut headers, &peer, trail, None);
        assert_eq!(field(&headers, &X_FORWARDED_FOR), "2001:db8::7, 151.101.0.1");
        assert_eq!(field(&headers, &FORWARDED), "for=\"[2001:db8::7]\";proto=https, for=151.101.0.1;proto=https");

        let balancer = Peer::new(ip("10.0.0.1"), Scheme::Http);
        let mut headers = map(&["6.6.6.6, 151.101.0.1"]);
        let trail = client_from_xff(&headers, balancer.address(), ours);
        assert_eq!(trail.client, ip("151.101.0.1"));
        write(&mut headers, &balancer, proven(trail), None);
        assert_eq!(field(&headers, &X_FORWARDED_FOR), "2001:db8::7, 151.101.0.1, 10.0.0.1");
    }

    #[test]
    fn a_cdns_visitor_stands_left_of_all_that_is_known() {
        let client = |lines: &[&str], kept, own| {
            let trail = Trail { client: ip("10.0.0.1"), proven: false, kept, peer_trusted: kept > 0 };
            client_of_cdn(&map(lines), trail, own, |address| address == ip("192.0.2.50"))
        };
        assert_eq!(client(&["6.6.6.6, 2001:db8::7"], 0, 0), Some(ip("2001:db8::7")));
        assert_eq!(
            client(&["6.6.6.6, [2001:db8::7]:99, 192.0.2.50"], 0, 0),
            Some(ip("2001:db8::7")),
            "a node of the CDN's"
        );
        assert_eq!(
            client(&["6.6.6.6, 2.2.2.2", "192.0.2.50, 10.0.0.1"], 1, 0),
            Some(ip("2.2.2.2")),
            "behind a balancer"
        );
        assert_eq!(client(&["6.6.6.6, 2.2.2.2, 3.3.3.3"], 0, 1), Some(ip("2.2.2.2")), "before the CDN's own");
        for junk in [&["2.2.2.2, unknown"][..], &["2.2.2.2, "], &["192.0.2.50"], &[]] {
            assert_eq!(client(junk, 0, 0), None, "{junk:?}");
        }
        assert_eq!(client(&["2.2.2.2"], 0, 1), None);
    }

    proptest! {
        #[test]
        fn addresses_are_read_in_every_dress(v4 in any::<[u8; 4]>(), v6 in any::<[u16; 8]>(), port in any::<u16>()) {
            let v4 = IpAddr::from(v4);
            let v6 = IpAddr::from(v6).to_canonical();
            for text in [v4.to_string(), format!("{v4}:{port}"), format!(" \"{v4}\"\t")] {
                prop_assert_eq!(entry_address(text.as_bytes()), Some(v4), "{}", text);
            }
            if v6.is_ipv6() {
                for text in [v6.to_string(), format!("[{v6}]"), format!("[{v6}]:{port}"), format!("\"[{v6}]:{port}\"")] {
                    prop_assert_eq!(entry_address(text.as_bytes()), Some(v6), "{}", text);
                }
            }
        }

        #[test]
        fn whatever_is_sent_the_peer_is_last_and_nothing_untrusted_hides(text in "(10\\.0\\.0\\.[1-9]|[1-9]\\.1\\.1\\.1|junk|,|, ){0,12}") {
            let mut headers = map(&[&text]);
            let peer = Peer::new(ip("10.0.0.1"), Scheme::Http);
            let trail = client_from_xff(&headers, peer.address(), ours);
            write(&mut headers, &peer, trail, None);
            let sent: Vec<_> = field(&headers, &X_FORWARDED_FOR).split(", ").map(ip).collect();
            prop_assert_eq!(sent.last(), Some(&peer.address()));
            prop_assert_eq!(sent.first(), Some(&trail.client));
            prop_assert!(sent.iter().skip(1).all(|&address| ours(address)));
        }
    }
}
