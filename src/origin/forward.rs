//! What changes in a head between the CDN's connection and the origin's, and back.

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, request, response};

use super::Upload;
use crate::fault::{Cause, Fault};
use crate::wire::forwarded::{self, Peer, Trail};
use crate::wire::hops;
use crate::wire::names::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE, X_CDN_PROVIDER};

/// What the origin is told about where a request came from.
#[derive(Debug, Clone, Copy)]
pub struct Outward<'a> {
    /// The connection's other end.
    pub peer: &'a Peer,
    /// How far X-Forwarded-For is believed.
    pub trail: Trail,
    /// The identity header, which Connection may not name away.
    pub identity: &'a HeaderName,
    /// The fields that say or prove who pulls, under whose like no other may come through.
    pub claims: &'a [HeaderName],
    /// The provider's name, where it is configured and not unverified.
    pub provider: Option<&'a HeaderValue>,
    /// The Host to send, where it is not the visitor's.
    pub host: Option<&'a HeaderValue>,
    /// The Host for a request without one: HTTP/1.0 needed none, HTTP/1.1 does (RFC 9112 §3.2).
    pub fallback_host: &'a HeaderValue,
    /// Our own id for CDN-Loop.
    pub loop_id: &'a HeaderValue,
}

/// Makes a request's head ready for an HTTP/1.1 origin (RFC 9110 §7.6).
pub fn outbound(head: &mut request::Parts, outward: &Outward<'_>) {
    // What is not asked for cannot be granted: a 101 to anything but a GET would be a broken answer.
    let may_upgrade = head.version == Version::HTTP_11 && head.method == Method::GET;
    let upgrade = if may_upgrade { hops::wants_upgrade(&head.headers).cloned() } else { None };
    let trailers = hops::wants_trailers(&head.headers);
    hops::strip_hop_by_hop(&mut head.headers, outward.identity);
    let headers = &mut head.headers;
    if head.version == Version::HTTP_2 {
        hops::join_cookies(headers);
    }
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    hops::strip_lookalikes(headers, outward.claims);
    forwarded::write(headers, outward.peer, outward.trail, None);
    hops::append_via(headers, head.version);
    hops::append_cdn_loop(headers, outward.loop_id);
    if let Some(name) = outward.provider {
        headers.insert(&X_CDN_PROVIDER, name.clone());
    } else {
        // Where the identity header has another name, this one is nobody's word but the visitor's.
        headers.remove(&X_CDN_PROVIDER);
    }
    if let Some(host) = outward.host {
        headers.insert(HOST, host.clone());
    } else if !headers.contains_key(HOST) {
        headers.insert(HOST, outward.fallback_host.clone());
    }
    canonical_length(headers);
    head.version = Version::HTTP_11;
    let path = head.uri.path_and_query().cloned();
    if head.uri.authority().is_some() {
        head.uri = path.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
    }
}

/// Whether a head made by [`outbound`] asks for an upgrade.
pub(crate) fn asks_upgrade(head: &request::Parts) -> bool {
    head.headers.contains_key(UPGRADE)
}

/// Says that a body of unknown length follows: of a GET or a HEAD hyper believes that it has none, and drops it without a word.
pub(super) fn frame(head: &mut request::Parts, bodiless: bool) {
    let doubted = matches!(head.method, Method::GET | Method::HEAD);
    if doubted && !bodiless && !head.headers.contains_key(CONTENT_LENGTH) {
        head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Gives a request the scheme and authority that HTTP/2 wants in its target (RFC 9113 §8.3.1), and takes the fields that it forbids.
pub(super) fn absolute(request: &mut Request<Upload>) -> Result<(), Fault> {
    let host = request.headers_mut().remove(HOST);
    for name in [CONNECTION, UPGRADE, TRANSFER_ENCODING] {
        request.headers_mut().remove(name);
    }
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = match host.as_ref().map(|host| host.as_bytes().try_into()) {
        Some(Ok(authority)) => Some(authority),
        // `observe` has let through nothing but a valid Host, and `outbound` has seen to it that there is one.
        _ => return Err(Fault::from_error(Cause::BrokenHead, "no authority for the target")),
    };
    let uri = Uri::from_parts(parts).map_err(|error| Fault::from_error(Cause::BrokenHead, error))?;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

/// `0005` means five to us and perhaps something else to the next one.
fn canonical_length(headers: &mut http::HeaderMap) {
    let Some(value) = headers.get(CONTENT_LENGTH) else { return };
    if value.len() > 1 && value.as_bytes().starts_with(b"0") {
        let length: u64 = value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// Refuses an answer that can be read in two ways.
pub(crate) fn check_answer<B>(response: &mut Response<B>) -> Result<(), Fault> {
    let broken = |why: &'static str| Err(Fault::from_error(Cause::BrokenHead, why));
    if !(200..600).contains(&response.status().as_u16()) {
        return broken("a status that is not between 200 and 599");
    }
    let version = response.version();
    let headers = response.headers_mut();
    if headers.contains_key(TRANSFER_ENCODING) {
        if headers.contains_key(CONTENT_LENGTH) {
            return broken("both Content-Length and Transfer-Encoding");
        }
        if version == Version::HTTP_10 || hops::has_unknown_coding(headers) {
            return broken("a Transfer-Encoding other than chunked on HTTP/1.1");
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let (Some(first), Some(_)) = (lengths.next().cloned(), lengths.next()) {
        // hyper has made sure that they are equal.
        headers.insert(CONTENT_LENGTH, first);
    }
    canonical_length(headers);
    Ok(())
}

/// Takes the hop's own fields off an answer.
pub(crate) fn tidy_answer(head: &mut response::Parts, is_head: bool) {
    hops::strip_hop_by_hop(&mut head.headers, &X_CDN_PROVIDER);
    if head.status == StatusCode::NO_CONTENT || (head.status == StatusCode::RESET_CONTENT && !is_head) {
        // RFC 9110 §8.6: a 204 carries no Content-Length; a 205's is 0, which hyper writes.
        head.headers.remove(CONTENT_LENGTH);
    }
    head.version = Version::HTTP_11;
}
