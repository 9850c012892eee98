//! The fields that edgeshim adds to a request so that the origin gets the request's way to edgeshim: X-Forwarded-For,
//! Forwarded, X-Forwarded-Proto, X-Forwarded-Host, Via and CDN-Loop.
//!
//! Most requests that passed no other proxy have none of these fields. If `origin/plain` sends such a request, it
//! writes these fields after the other fields of the head. This takes a quarter of the time of inserting the fields
//! into the head.

use std::sync::Arc;

use http::header::HeaderValue;
use http::{HeaderMap, Version};

use super::forwarded::{self, Peer, Trail};
use super::head_fields::{Fields, Names};
use super::hops::{self, PSEUDONYM};
use super::host::host_field;
use super::names::X_FORWARDED_HOST;

const NAMES: Names =
    Names::of_list(&["cdn-loop", "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]);

/// The entry of edgeshim in CDN-Loop.
pub(crate) const LOOP_ID: HeaderValue = HeaderValue::from_static(PSEUDONYM);

/// The fields that are still missing in a request's head.
#[derive(Debug)]
pub(crate) struct AddedFields {
    peer: Arc<Peer>,
    /// The Host of the client's request.
    host: Option<HeaderValue>,
    /// The version of the client's request.
    version: Version,
}

impl AddedFields {
    /// Returns `None` if the head can already have one of the fields, if the peer is a trusted proxy, or if a CDN with
    /// a valid proof reported the client's address.
    pub(crate) fn of(fields: Fields<'_>, peer: &Arc<Peer>, trail: Trail, version: Version) -> Option<Self> {
        let is_usual = !trail.proven && trail.kept == 0 && !trail.peer_trusted;
        (is_usual && !fields.can_have_any(NAMES)).then(|| Self {
            peer: Arc::clone(peer),
            host: host_field(fields.headers()).cloned(),
            version,
        })
    }

    /// Whether the client's request has Host.
    pub(crate) fn has_host(&self) -> bool {
        self.host.is_some()
    }

    /// Appends the lines of the fields to a head of HTTP/1.1.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.peer.lines());
        if let Some(host) = &self.host {
            out.extend_from_slice(X_FORWARDED_HOST.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(host.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"via: ");
        out.extend_from_slice(hops::via(self.version).as_bytes());
        out.extend_from_slice(b"\r\ncdn-loop: ");
        out.extend_from_slice(PSEUDONYM.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// Inserts the fields into the head of the request.
    pub(crate) fn insert(self, headers: &mut HeaderMap) {
        forwarded::insert(headers, &self.peer, self.host);
        hops::append_via(headers, self.version);
        hops::append_cdn_loop(headers, LOOP_ID);
    }
}

#[cfg(test)]
mod tests {
    use super::super::forwarded::Scheme;
    use super::super::names::{FORWARDED, HOST, VIA, X_FORWARDED_FOR, X_FORWARDED_PROTO};
    use super::*;

    fn trail(peer: &Peer) -> Trail {
        Trail { client: peer.address(), proven: false, kept: 0, peer_trusted: false }
    }

    #[test]
    fn fields_when_written_then_equal_the_fields_that_are_inserted() {
        for (address, scheme) in [("192.0.2.1", Scheme::Http), ("2001:db8::1", Scheme::Https)] {
            for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
                for host in [None, Some("www.example.com")] {
                    let peer = Arc::new(Peer::new(address.parse().unwrap(), scheme));
                    let mut headers = HeaderMap::new();
                    if let Some(host) = host {
                        headers.insert(HOST, HeaderValue::from_static(host));
                    }
                    let fields = Fields::new(&headers, Names::of(&headers));
                    let added = AddedFields::of(fields, &peer, trail(&peer), version).unwrap();
                    assert_eq!(added.has_host(), host.is_some());
                    let mut written = Vec::new();
                    added.write(&mut written);
                    let mut inserted = HeaderMap::new();
                    added.insert(&mut inserted);
                    let lines = inserted.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()));
                    assert_eq!(String::from_utf8(written).unwrap(), lines.collect::<String>());
                    assert_eq!(inserted.len(), if host.is_some() { 6 } else { 5 });
                }
            }
        }
    }

    #[test]
    fn added_fields_when_request_has_a_field_or_trail_is_not_usual_then_are_none() {
        let peer = Arc::new(Peer::new([192, 0, 2, 1].into(), Scheme::Http));
        for name in
            [&FORWARDED, &VIA, &X_FORWARDED_FOR, &X_FORWARDED_HOST, &X_FORWARDED_PROTO, &super::super::names::CDN_LOOP]
        {
            let headers = [(name.clone(), HeaderValue::from_static("a"))].into_iter().collect();
            let fields = Fields::new(&headers, Names::of(&headers));
            assert!(AddedFields::of(fields, &peer, trail(&peer), Version::HTTP_11).is_none(), "{name}");
        }
        let headers = HeaderMap::new();
        let usual = trail(&peer);
        for trail in
            [Trail { proven: true, ..usual }, Trail { kept: 1, ..usual }, Trail { peer_trusted: true, ..usual }]
        {
            let fields = Fields::new(&headers, Names::of(&headers));
            assert!(AddedFields::of(fields, &peer, trail, Version::HTTP_11).is_none(), "{trail:?}");
        }
    }
}
