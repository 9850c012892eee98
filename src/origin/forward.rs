//! Changes to a head between the client's connection and the origin's, in both directions.

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, request, response};
use http_body::Frame;

use super::options::ClientSettings;
use crate::fault::{Cause, Fault};
use crate::wire::forwarded::{self, Peer, Trail};
use crate::wire::hops;
use crate::wire::names::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE, X_CDN_PROVIDER};
use crate::wire::values::content_length;

/// What the origin learns about a request's source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outward<'a> {
    /// The other end of the client's connection.
    pub peer: &'a Peer,
    /// How much of X-Forwarded-For is trusted.
    pub trail: Trail,
    /// The identity header. It stays even if Connection names it.
    pub identity: &'a HeaderName,
    /// The fields that name or prove the provider. Fields with a name that looks the same to some origins are removed.
    pub claims: &'a [HeaderName],
    /// The provider's name, if it is configured and not unverified.
    pub provider: Option<&'a HeaderValue>,
    /// The Host to send instead of the client's.
    pub host: Option<&'a HeaderValue>,
    /// The Host for a request without one: HTTP/1.0 needs none, HTTP/1.1 does (RFC 9112 §3.2).
    pub fallback_host: &'a HeaderValue,
    /// This proxy's id for CDN-Loop.
    pub loop_id: &'a HeaderValue,
    /// Whether the client accepts trailers.
    pub trailers: bool,
}

/// Prepares a request head for an HTTP/1.1 origin (RFC 9110 §7.6).
pub(crate) fn outbound(head: &mut request::Parts, outward: &Outward<'_>) {
    // Only a GET may ask for an upgrade, so a 101 to any other method is a broken response.
    let may_upgrade = head.version == Version::HTTP_11 && head.method == Method::GET;
    let upgrade = if may_upgrade { hops::wants_upgrade(&head.headers).cloned() } else { None };
    hops::strip_hop_by_hop(&mut head.headers, outward.identity);
    let headers = &mut head.headers;
    if head.version == Version::HTTP_2 {
        hops::join_cookies(headers);
    }
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else if outward.trailers {
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
        // If the identity header has another name, this one is client-supplied, so untrusted.
        headers.remove(&X_CDN_PROVIDER);
    }
    if let Some(host) = outward.host {
        headers.insert(HOST, host.clone());
    } else if !headers.contains_key(HOST) {
        headers.insert(HOST, outward.fallback_host.clone());
    }
    // `observe` and h2 have already refused a value that is not a number.
    let _ = canonical_length(headers);
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

/// Sets the framing that hyper leaves out. hyper treats a GET or HEAD of unknown length as one without a body. And it
/// writes no Content-Length on a POST without a body: RFC 9110 §8.6 asks for a 0 there, and origins respond with 411.
pub(super) fn frame(head: &mut request::Parts, bodiless: bool) {
    if head.headers.contains_key(CONTENT_LENGTH) {
        return;
    }
    match head.method {
        Method::GET | Method::HEAD if !bodiless => {
            head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Method::POST | Method::PUT | Method::PATCH if bodiless => {
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        _ => {}
    }
}

/// Gives a request the scheme and authority that HTTP/2 requires (RFC 9113 §8.3.1), and removes the fields that it
/// forbids.
pub(super) fn absolute<B>(request: &mut Request<B>) -> Result<(), Fault> {
    let host = request.headers_mut().remove(HOST);
    for name in [CONNECTION, UPGRADE, TRANSFER_ENCODING] {
        request.headers_mut().remove(name);
    }
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = match host.as_ref().map(|host| host.as_bytes().try_into()) {
        Some(Ok(authority)) => Some(authority),
        // `observe` refuses an invalid Host, and `outbound` adds a missing one.
        _ => return Err(Fault::from_error(Cause::BrokenHead, "no valid authority for the HTTP/2 target")),
    };
    let uri = Uri::from_parts(parts).map_err(|error| Fault::from_error(Cause::BrokenHead, error))?;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

/// Writes Content-Length as one plain number: `0005` and `5, 5` mean five here, but may mean something else to the next
/// recipient.
///
/// # Errors
/// Its values differ, or one is not a number (RFC 9110 §8.6).
fn canonical_length(headers: &mut http::HeaderMap) -> Result<(), &'static str> {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let is_canonical = match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some([digit]), None) => digit.is_ascii_digit(),
        // Every number of fewer than 20 digits fits into 64 bits.
        (Some(line @ [b'1'..=b'9', ..]), None) => line.len() < 20 && line.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !is_canonical && let Some(length) = content_length(headers)? {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

/// Refuses a response head that is larger than `server.max_headers` and `server.max_header_bytes` allow. hyper counts
/// the bytes of an HTTP/1.1 head itself. The bytes of an HTTP/2 head are counted here, by RFC 9113 §6.5.2.
pub(super) fn check_size<B>(response: &Response<B>, settings: &ClientSettings) -> Result<(), Fault> {
    let headers = response.headers();
    if headers.len() > settings.limits.max_headers {
        return Err(Fault::head_too_large(format!("{} field lines in the response head", headers.len())));
    }
    if response.version() == Version::HTTP_2 {
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        if bytes > settings.limits.max_header_bytes {
            return Err(Fault::head_too_large(format!("{bytes} bytes in the response head")));
        }
    }
    Ok(())
}

/// Refuses a response that can be read in two ways.
pub(crate) fn check_response<B>(response: &mut Response<B>) -> Result<(), Fault> {
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
    canonical_length(headers).or_else(broken)
}

/// Removes trailers that may not pass. `None` if none is left: many HTTP/2 recipients refuse an empty trailer section.
pub(super) fn clean_trailers(frame: Frame<Bytes>, claims: &[HeaderName]) -> Option<Frame<Bytes>> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            hops::strip_trailers(&mut trailers, claims);
            (!trailers.is_empty()).then(|| Frame::trailers(trailers))
        }
        Err(frame) => Some(frame),
    }
}

/// Whether a response head announces a body of any length but 0.
pub(super) fn declares_content(headers: &http::HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// Removes the hop-by-hop fields from a response.
pub(crate) fn clean_response(head: &mut response::Parts, is_head: bool) {
    hops::strip_hop_by_hop(&mut head.headers, &X_CDN_PROVIDER);
    if head.status == StatusCode::NO_CONTENT || (head.status == StatusCode::RESET_CONTENT && !is_head) {
        // RFC 9110 §8.6: a 204 has no Content-Length. That of a 205 is 0, and hyper writes it.
        head.headers.remove(CONTENT_LENGTH);
    }
    head.version = Version::HTTP_11;
}
