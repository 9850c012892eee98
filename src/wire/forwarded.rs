//! The client's address behind trusted proxies, and the fields that report the client's address, scheme and host to the
//! origin: X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host and Forwarded.
//!
//! If the peer is not trusted, edgeshim replaces these fields with values that describe the connection. These values
//! are prepared before the request arrives ([`Peer`]), except X-Forwarded-Host, which shares the bytes of Host. If a
//! CDN with a valid proof reported the client, edgeshim makes new values with the client in front. If the peer is a
//! trusted proxy, edgeshim reads X-Forwarded-For from right to left, because trusted machines wrote the right end of
//! the list. edgeshim forwards only the entries that it has read.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::certificate::Certificate;
use super::host::{host_field, valid_host};
use super::names::{FORWARDED, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};
use super::values::only_line;

/// The largest number of entries of X-Forwarded-For that are read.
const MOST_HOPS: usize = 32;
/// The space for one address, in bytes. edgeshim writes an IPv6 address with at most 39 characters.
const MOST_ADDRESS_BYTES: usize = 40;
/// The space for one element of Forwarded, in bytes: an address with `for=`, brackets and quotes, and the scheme.
const MOST_ELEMENT_BYTES: usize = MOST_ADDRESS_BYTES + 24;
/// The space for the names in the prepared lines of a peer, with the colons and the line ends, and for the scheme.
const MOST_NAME_BYTES: usize = 60;

/// The scheme of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// The connection is not encrypted.
    Http,
    /// The connection uses TLS.
    Https,
}

impl Scheme {
    /// Returns the scheme as it is written in header fields.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The peer of a connection, with its prepared field values.
#[derive(Clone, Debug)]
pub struct Peer {
    address: IpAddr,
    scheme: Scheme,
    certificate: Option<Arc<Certificate>>,
    x_forwarded_for: HeaderValue,
    forwarded: HeaderValue,
    /// The lines of X-Forwarded-For, Forwarded and X-Forwarded-Proto. The two values above are parts of this text.
    lines: Bytes,
}

impl Peer {
    /// Prepares the values for a connection. An IPv4-mapped IPv6 address becomes an IPv4 address.
    pub fn new(address: IpAddr, scheme: Scheme) -> Self {
        let address = address.to_canonical();
        // The capacity is sufficient for the text of all fields, so this function allocates twice instead of eight
        // times.
        let mut text = String::with_capacity(MOST_ADDRESS_BYTES + MOST_ELEMENT_BYTES + MOST_NAME_BYTES);
        let list = push_line(&mut text, &X_FORWARDED_FOR, |text| push_address(text, address));
        let elements = push_line(&mut text, &FORWARDED, |text| push_element(text, list.clone(), Some(scheme)));
        push_line(&mut text, &X_FORWARDED_PROTO, |text| text.push_str(scheme.as_str()));
        let lines = Bytes::from_owner(text);
        let (x_forwarded_for, forwarded) = (value(lines.slice(list)), value(lines.slice(elements)));
        Self { address, scheme, certificate: None, x_forwarded_for, forwarded, lines }
    }

    /// Returns the lines of X-Forwarded-For, Forwarded and X-Forwarded-Proto.
    pub(super) fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// Returns the same peer with its certificate.
    #[must_use]
    pub fn with_certificate(self, certificate: Arc<Certificate>) -> Self {
        Self { certificate: Some(certificate), ..self }
    }

    /// Returns the peer's address. An IPv4-mapped address is returned as IPv4.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Returns the client certificate, if there is one. The chain of the certificate is valid.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_deref()
    }
}

/// The result of reading X-Forwarded-For: the client's address, and the number of entries that edgeshim forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trail {
    /// The client's address: the address that a CDN with a valid proof reported, or else the last address that edgeshim
    /// read from X-Forwarded-For, or else the peer's address.
    pub client: IpAddr,
    /// Whether a CDN with a valid proof reported `client`. If so, `kept` does not include the entry of `client`.
    pub proven: bool,
    /// The number of entries of X-Forwarded-For that edgeshim forwards, counted from the right.
    pub kept: u8,
    /// Whether the peer is a trusted proxy. If so, edgeshim uses the peer's X-Forwarded-Proto and X-Forwarded-Host.
    pub peer_trusted: bool,
}

/// Reads X-Forwarded-For from right to left while the addresses are trusted. All lines count as one list. If the peer
/// is not trusted, the function reads nothing, and the peer is the client.
///
/// Reading ends with the first address that is not trusted, which is the client's address. Reading also ends before the
/// first entry that is not an address, after 32 entries, and at the left end. Entries can have ports and quotes, and
/// IPv6 addresses can have brackets.
pub fn client_from_xff(headers: &HeaderMap, peer: IpAddr, trusted: impl Fn(IpAddr) -> bool) -> Trail {
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

/// Replaces X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host and Forwarded.
///
/// The new X-Forwarded-For lists the client first, if a CDN with a valid proof reported the client. Then follow the
/// received entries that edgeshim forwards, and the peer is last. If a trusted peer sent a valid X-Forwarded-Proto or
/// X-Forwarded-Host, edgeshim forwards that field. Otherwise X-Forwarded-Proto is the scheme of the connection, and
/// X-Forwarded-Host is the Host field. Forwarded has the same data without the host, so that its value can be prepared
/// before a request arrives.
///
/// Returns whether the request has Host.
pub fn write(headers: &mut HeaderMap, peer: &Peer, trail: Trail) -> bool {
    let reported = if trail.peer_trusted { Reported::read(headers) } else { Reported::default() };
    let scheme = reported.scheme.unwrap_or(peer.scheme);
    let host = host_field(headers).cloned();
    let has_host = host.is_some();
    let host = reported.host.or(host);
    if !trail.proven && trail.kept == 0 && scheme == peer.scheme {
        insert(headers, peer, host);
    } else {
        let (list, elements) = chain(headers, peer, trail, scheme);
        insert_values(headers, list, elements, scheme, host);
    }
    has_host
}

/// Replaces the four fields with the values of the peer. `host` is the value of X-Forwarded-Host.
pub(super) fn insert(headers: &mut HeaderMap, peer: &Peer, host: Option<HeaderValue>) {
    insert_values(headers, peer.x_forwarded_for.clone(), peer.forwarded.clone(), peer.scheme, host);
}

fn insert_values(
    headers: &mut HeaderMap,
    list: HeaderValue,
    elements: HeaderValue,
    scheme: Scheme,
    host: Option<HeaderValue>,
) {
    headers.insert(X_FORWARDED_FOR.clone(), list);
    headers.insert(FORWARDED, elements);
    headers.insert(X_FORWARDED_PROTO.clone(), HeaderValue::from_static(scheme.as_str()));
    match host {
        Some(host) => {
            headers.insert(X_FORWARDED_HOST.clone(), host);
        }
        None => {
            headers.remove(&X_FORWARDED_HOST);
        }
    }
}

/// Reads one entry: an address, with or without quotes, brackets and a port.
pub(crate) fn entry_address(entry: &[u8]) -> Option<IpAddr> {
    let entry = entry.trim_ascii();
    // The longest entry has 55 bytes: `"[`, 45 bytes of IPv6 with an embedded IPv4 address, and `]:65535"`.
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

/// Returns the addresses in X-Forwarded-For from right to left. Stops before the first entry that is not an address,
/// and after [`MOST_HOPS`] entries.
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

/// Returns the client's address that a CDN wrote into X-Forwarded-For. The function reads the list from the right and
/// skips three groups of entries: the entries that `trail` counts; the next `own` entries, which the CDN adds after the
/// client's entry; and nodes of the CDN. Returns `None` if no entry is left, if reading reaches an entry that is not an
/// address, or if the last 32 entries are skipped.
pub(crate) fn client_of_cdn(
    headers: &HeaderMap,
    trail: Trail,
    own: usize,
    is_node: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    entries_from_the_right(headers).skip(usize::from(trail.kept) + own).find(|&address| !is_node(address))
}

/// The scheme and the host of the client's request, as a trusted proxy reports them.
#[derive(Default)]
struct Reported {
    scheme: Option<Scheme>,
    host: Option<HeaderValue>,
}

impl Reported {
    fn read(headers: &HeaderMap) -> Self {
        let single = |name| only_line(headers, name).ok();
        let scheme = single(&X_FORWARDED_PROTO).and_then(|value| match value.as_bytes() {
            scheme if scheme.eq_ignore_ascii_case(b"https") => Some(Scheme::Https),
            scheme if scheme.eq_ignore_ascii_case(b"http") => Some(Scheme::Http),
            _ => None,
        });
        let host = single(&X_FORWARDED_HOST).filter(|value| valid_host(value.as_bytes())).cloned();
        Self { scheme, host }
    }
}

/// Returns new values of X-Forwarded-For and Forwarded. From left to right, each value lists the client (only if a CDN
/// with a valid proof reported the client), the entries that edgeshim forwards, and the peer.
fn chain(headers: &HeaderMap, peer: &Peer, trail: Trail, scheme: Scheme) -> (HeaderValue, HeaderValue) {
    let mut kept = [peer.address; MOST_HOPS];
    let mut count = 0;
    if trail.kept > 0 {
        for (slot, address) in kept.iter_mut().zip(entries_from_the_right(headers)).take(usize::from(trail.kept)) {
            *slot = address;
            count += 1;
        }
    }
    // Both values share one buffer. Each address is formatted only once, and the peer's text is already prepared.
    let mut text = String::with_capacity((MOST_ADDRESS_BYTES + MOST_ELEMENT_BYTES) * (count + 2));
    let walked = kept.iter().take(count).rev().copied();
    for address in trail.proven.then(|| trail.client.to_canonical()).into_iter().chain(walked) {
        push_address(&mut text, address);
        text.push_str(", ");
    }
    let before_bytes = text.len();
    text.push_str(peer.x_forwarded_for.to_str().unwrap_or_default());
    let list_bytes = text.len();
    // The scheme that a proxy reports is the scheme of the client's connection, so the first element contains the
    // scheme.
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
    // The two values share one block and one reference count.
    let block = Bytes::from_owner(text);
    (value(block.slice(..list_bytes)), value(block.slice(list_bytes..)))
}

/// Appends a line, and returns the place of its value in `text`.
fn push_line(text: &mut String, name: &HeaderName, push_value: impl FnOnce(&mut String)) -> Range<usize> {
    text.push_str(name.as_str());
    text.push_str(": ");
    let start = text.len();
    push_value(text);
    let end = text.len();
    text.push_str("\r\n");
    start..end
}

fn push_address(text: &mut String, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        // Writing to a String cannot fail.
        let _ = write!(text, "{address}");
        return;
    };
    // Formatting with `write!` takes ten times as long as this loop. If a CDN proves its pulls and reports the client,
    // edgeshim formats an address for each pull.
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        for (above, divisor) in [(99, 100), (9, 10), (0, 1)] {
            if octet > above || divisor == 1 {
                text.push(char::from(b'0' + octet / divisor % 10));
            }
        }
    }
}

/// Appends an element of Forwarded (RFC 7239 §4). `address` is the range of `text` that contains the address. IPv6
/// addresses get brackets and quotes (RFC 7239 §6).
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
    // A text of ASCII addresses and names is always a valid value. The fallback `unknown` is the text for an unknown
    // address in RFC 7239 §6.2 and in Squid.
    HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::names::HOST;
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Returns whether the address is in `10.0.0.0/8` or `fd00::/8`.
    fn trusted(address: IpAddr) -> bool {
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
        assert!(lines.next().is_none(), "{name} has more than one line");
        line
    }

    #[test]
    fn x_forwarded_for_when_entry_is_untrusted_or_invalid_then_reading_ends() {
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
            let trail = client_from_xff(&map(lines), ip(peer), trusted);
            assert_eq!((trail.client, trail.kept), (ip(client), kept), "{lines:?} {peer}");
        }
    }

    #[test]
    fn x_forwarded_for_when_list_is_long_then_reading_is_bounded() {
        let trail = client_from_xff(&map(&[&"10.0.0.9,".repeat(5000), "10.0.0.8"]), ip("10.0.0.1"), trusted);
        assert_eq!(
            trail,
            Trail { client: ip("10.0.0.8"), proven: false, kept: 1, peer_trusted: true },
            "reading must stop at an empty entry"
        );
        let long = vec!["10.0.0.9"; 5000].join(",");
        assert_eq!(usize::from(client_from_xff(&map(&[&long]), ip("10.0.0.1"), trusted).kept), MOST_HOPS);
    }

    #[test]
    fn forwarding_fields_when_peer_is_untrusted_then_are_replaced() {
        let mut headers = map(&["1.1.1.1", "10.0.0.5"]);
        headers.insert(HOST, HeaderValue::from_static("www.example.com"));
        headers.insert(X_FORWARDED_HOST.clone(), HeaderValue::from_static("evil.example"));
        headers.append(X_FORWARDED_PROTO.clone(), HeaderValue::from_static("https"));
        headers.append(FORWARDED, HeaderValue::from_static("for=1.1.1.1"));
        headers.append(FORWARDED, HeaderValue::from_static("for=2.2.2.2"));
        let peer = Peer::new(ip("::ffff:9.9.9.9"), Scheme::Http);
        let trail = client_from_xff(&headers, peer.address(), trusted);
        write(&mut headers, &peer, trail);
        assert_eq!(field(&headers, &X_FORWARDED_FOR), "9.9.9.9");
        assert_eq!(field(&headers, &X_FORWARDED_PROTO), "http");
        assert_eq!(field(&headers, &X_FORWARDED_HOST), "www.example.com");
        assert_eq!(field(&headers, &FORWARDED), "for=9.9.9.9;proto=http");
    }

    #[test]
    fn forwarding_fields_when_peer_is_untrusted_then_share_prepared_values() {
        let peer = Peer::new(ip("192.0.2.1"), Scheme::Https);
        let mut headers = map(&[]);
        let trail = client_from_xff(&headers, peer.address(), trusted);
        write(&mut headers, &peer, trail);
        assert_eq!(headers[&X_FORWARDED_FOR].as_bytes().as_ptr(), peer.x_forwarded_for.as_bytes().as_ptr());
        assert_eq!(headers[FORWARDED].as_bytes().as_ptr(), peer.forwarded.as_bytes().as_ptr());
        assert!(!headers.contains_key(&X_FORWARDED_HOST));
    }

    #[test]
    fn forwarding_fields_when_peer_is_trusted_then_keep_the_entries_that_were_read() {
        let mut headers = map(&["6.6.6.6, 2.2.2.2:99, fd00::2"]);
        headers.insert(HOST, HeaderValue::from_static("internal"));
        headers.insert(X_FORWARDED_HOST.clone(), HeaderValue::from_static("www.example.com"));
        headers.insert(X_FORWARDED_PROTO.clone(), HeaderValue::from_static("HTTPS"));
        let peer = Peer::new(ip("10.0.0.1"), Scheme::Http);
        let trail = client_from_xff(&headers, peer.address(), trusted);
        write(&mut headers, &peer, trail);
        assert_eq!(field(&headers, &X_FORWARDED_FOR), "2.2.2.2, fd00::2, 10.0.0.1");
        assert_eq!(field(&headers, &X_FORWARDED_PROTO), "https");
        assert_eq!(field(&headers, &X_FORWARDED_HOST), "www.example.com");
        assert_eq!(field(&headers, &FORWARDED), "for=2.2.2.2;proto=https, for=\"[fd00::2]\", for=10.0.0.1;proto=http");
    }

    #[test]
    fn malformed_fields_when_sent_by_a_trusted_peer_then_are_ignored() {
        let mut headers = map(&[]);
        headers.insert(X_FORWARDED_HOST.clone(), HeaderValue::from_static("a, b"));
        headers.insert(X_FORWARDED_PROTO.clone(), HeaderValue::from_static("https, http"));
        let peer = Peer::new(ip("fd00::1"), Scheme::Http);
        headers.insert(HOST, HeaderValue::from_static("www.example.com"));
        let trail = client_from_xff(&headers, peer.address(), trusted);
        write(&mut headers, &peer, trail);
        assert_eq!(field(&headers, &X_FORWARDED_PROTO), "http");
        assert_eq!(field(&headers, &X_FORWARDED_HOST), "www.example.com");
        assert_eq!(field(&headers, &FORWARDED), "for=\"[fd00::1]\";proto=http");
    }

    #[test]
    fn certificate_when_added_to_the_peer_then_is_returned() {
        let peer = Peer::new(ip("151.101.0.1"), Scheme::Https);
        assert_eq!(peer.certificate(), None);
        let shown = Certificate { names: vec!["edge.example".to_owned()], sha256: [7; 32], authorities: vec![] };
        assert_eq!(peer.with_certificate(Arc::new(shown.clone())).certificate(), Some(&shown));
    }

    #[test]
    fn ipv4_address_when_written_then_equals_the_display_form() {
        for octet in 0..=255 {
            let address = IpAddr::from([octet, 255 - octet, 0, octet]);
            let mut text = String::new();
            push_address(&mut text, address);
            assert_eq!(text, address.to_string());
        }
    }

    #[test]
    fn forwarding_fields_when_client_is_proven_then_list_the_client_first() {
        let proven = |trail| Trail { client: ip("2001:db8::7"), proven: true, ..trail };
        let peer = Peer::new(ip("151.101.0.1"), Scheme::Https);
        let mut headers = map(&["6.6.6.6"]);
        let trail = proven(client_from_xff(&headers, peer.address(), trusted));
        write(&mut headers, &peer, trail);
        assert_eq!(field(&headers, &X_FORWARDED_FOR), "2001:db8::7, 151.101.0.1");
        assert_eq!(field(&headers, &FORWARDED), "for=\"[2001:db8::7]\";proto=https, for=151.101.0.1;proto=https");

        let balancer = Peer::new(ip("10.0.0.1"), Scheme::Http);
        let mut headers = map(&["6.6.6.6, 151.101.0.1"]);
        let trail = client_from_xff(&headers, balancer.address(), trusted);
        assert_eq!(trail.client, ip("151.101.0.1"));
        write(&mut headers, &balancer, proven(trail));
        assert_eq!(field(&headers, &X_FORWARDED_FOR), "2001:db8::7, 151.101.0.1, 10.0.0.1");
    }

    #[test]
    fn client_of_cdn_when_proxies_follow_then_is_the_entry_before_the_proxies() {
        let client = |lines: &[&str], kept, own| {
            let trail = Trail { client: ip("10.0.0.1"), proven: false, kept, peer_trusted: kept > 0 };
            client_of_cdn(&map(lines), trail, own, |address| address == ip("192.0.2.50"))
        };
        assert_eq!(client(&["6.6.6.6, 2001:db8::7"], 0, 0), Some(ip("2001:db8::7")));
        assert_eq!(
            client(&["6.6.6.6, [2001:db8::7]:99, 192.0.2.50"], 0, 0),
            Some(ip("2001:db8::7")),
            "a node of the CDN is not the client"
        );
        assert_eq!(
            client(&["6.6.6.6, 2.2.2.2", "192.0.2.50, 10.0.0.1"], 1, 0),
            Some(ip("2.2.2.2")),
            "a load balancer is not the client"
        );
        assert_eq!(
            client(&["6.6.6.6, 2.2.2.2, 3.3.3.3"], 0, 1),
            Some(ip("2.2.2.2")),
            "the CDN's own entry is not the client"
        );
        for junk in [&["2.2.2.2, unknown"][..], &["2.2.2.2, "], &["192.0.2.50"], &[]] {
            assert_eq!(client(junk, 0, 0), None, "{junk:?}");
        }
        assert_eq!(client(&["2.2.2.2"], 0, 1), None);
    }

    proptest! {
        #[test]
        fn address_when_written_in_any_form_then_is_read(
            v4 in any::<[u8; 4]>(),
            v6 in any::<[u16; 8]>(),
            port in any::<u16>(),
        ) {
            let v4 = IpAddr::from(v4);
            let v6 = IpAddr::from(v6).to_canonical();
            for text in [v4.to_string(), format!("{v4}:{port}"), format!(" \"{v4}\"\t")] {
                prop_assert_eq!(entry_address(text.as_bytes()), Some(v4), "{}", text);
            }
            if v6.is_ipv6() {
                let forms = [v6.to_string(), format!("[{v6}]"), format!("[{v6}]:{port}"), format!("\"[{v6}]:{port}\"")];
                for text in forms {
                    prop_assert_eq!(entry_address(text.as_bytes()), Some(v6), "{}", text);
                }
            }
        }

        #[test]
        fn x_forwarded_for_when_list_is_arbitrary_then_client_is_first_and_peer_is_last(
            text in "(10\\.0\\.0\\.[1-9]|[1-9]\\.1\\.1\\.1|junk|,|, ){0,12}",
        ) {
            let mut headers = map(&[&text]);
            let peer = Peer::new(ip("10.0.0.1"), Scheme::Http);
            let trail = client_from_xff(&headers, peer.address(), trusted);
            write(&mut headers, &peer, trail);
            let sent: Vec<_> = field(&headers, &X_FORWARDED_FOR).split(", ").map(ip).collect();
            prop_assert_eq!(sent.last(), Some(&peer.address()));
            prop_assert_eq!(sent.first(), Some(&trail.client));
            prop_assert!(sent.iter().skip(1).all(|&address| trusted(address)));
        }
    }
}
