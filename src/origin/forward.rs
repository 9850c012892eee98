//! Changes message heads between the client's connection and the origin's connection, in both directions.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, request, response};
use http_body::{Body, Frame};

use super::options::MessageLimits;
use crate::fault::{Cause, Fault};
use crate::wire::added_fields::{AddedFields, LOOP_ID};
use crate::wire::forwarded::{self, Peer, Trail};
use crate::wire::head_fields::{Fields, Names};
use crate::wire::hops;
use crate::wire::names::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE, X_CDN_PROVIDER};
use crate::wire::values::content_length;

/// The data with which [`outbound`] prepares a request head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outward<'a> {
    /// The peer of the client's connection.
    pub peer: &'a Arc<Peer>,
    /// The client's address, and the part of X-Forwarded-For that is trusted.
    pub trail: Trail,
    /// The name of the identity header. This header is not removed, even if Connection lists it.
    pub identity: &'a HeaderName,
    /// The names of the fields with the provider's name or a proof. A field with such a name, but with underscores in
    /// place of dashes, is removed, because some origins treat both names as the same field.
    pub claims: &'a [HeaderName],
    /// The provider's name. `None` if the provider is not configured or not verified.
    pub provider: Option<&'a HeaderValue>,
    /// The Host that replaces the client's Host, if one is configured.
    pub host: Option<&'a HeaderValue>,
    /// The Host for a request that has none. HTTP/1.0 does not require a Host, but HTTP/1.1 does (RFC 9112 §3.2).
    pub fallback_host: &'a HeaderValue,
    /// Whether the client accepts trailers.
    pub trailers: bool,
    /// The set of the field names in the request's head. It can have too many names.
    pub names: Names,
    /// Whether [`outbound`] inserts all fields into the head, and returns no fields.
    pub is_complete: bool,
}

/// Prepares a request head for an HTTP/1.1 origin (RFC 9110 §7.6). Returns the fields that are still missing in the
/// head.
pub(crate) fn outbound(head: &mut request::Parts, outward: &Outward<'_>) -> Option<AddedFields> {
    // Only a GET is allowed to ask for an upgrade. So a 101 in response to another method is a broken response.
    let may_upgrade = head.version == Version::HTTP_11 && head.method == Method::GET;
    let fields = Fields::new(&head.headers, outward.names);
    let upgrade = if may_upgrade { hops::wants_upgrade(fields).cloned() } else { None };
    let has_length = fields.can_have(&CONTENT_LENGTH);
    let has_provider = fields.can_have(&X_CDN_PROVIDER);
    hops::strip_hop_by_hop(&mut head.headers, outward.names, outward.identity);
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
    let fields = Fields::new(headers, outward.names);
    let added = AddedFields::of(fields, outward.peer, outward.trail, head.version).filter(|_| !outward.is_complete);
    let has_host = if let Some(added) = &added {
        added.has_host()
    } else {
        let has_host = forwarded::write(headers, outward.peer, outward.trail);
        hops::append_via(headers, head.version);
        hops::append_cdn_loop(headers, LOOP_ID);
        has_host
    };
    if let Some(name) = outward.provider {
        headers.insert(&X_CDN_PROVIDER, name.clone());
    } else if has_provider {
        // The client can have sent this field. `identify` has removed the field only if it is the identity header.
        headers.remove(&X_CDN_PROVIDER);
    }
    if let Some(host) = outward.host {
        headers.insert(HOST, host.clone());
    } else if !has_host {
        headers.insert(HOST, outward.fallback_host.clone());
    }
    if has_length {
        // `observe` and h2 have already refused a value that is not a number.
        let _ = canonical_length(headers);
    }
    head.version = Version::HTTP_11;
    let path = head.uri.path_and_query().cloned();
    if head.uri.authority().is_some() {
        head.uri = path.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
    }
    added
}

/// Returns whether a head that [`outbound`] has prepared asks for an upgrade.
pub(crate) fn asks_upgrade(head: &request::Parts) -> bool {
    head.headers.contains_key(UPGRADE)
}

/// Writes the framing field that hyper leaves out. hyper treats a GET or HEAD whose body has an unknown length as a
/// request without a body. hyper also writes no Content-Length for a POST, PUT or PATCH without a body. For these
/// methods RFC 9110 §8.6 recommends `Content-Length: 0`, and some origins respond with 411 if the field is missing.
pub(super) fn frame<B: Body>(request: &mut Request<B>) {
    let bodiless = request.body().is_end_stream();
    let (name, value) = match *request.method() {
        Method::GET | Method::HEAD if !bodiless => (TRANSFER_ENCODING, "chunked"),
        Method::POST | Method::PUT | Method::PATCH if bodiless => (CONTENT_LENGTH, "0"),
        _ => return,
    };
    if !request.headers().contains_key(CONTENT_LENGTH) {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
}

/// The value of the field Upgrade that [`absolute`] has removed from a request. It is stored in the request's
/// extensions.
#[derive(Debug, Clone)]
pub(super) struct RemovedUpgrade(HeaderValue);

/// Gives a request the scheme and the authority that HTTP/2 requires (RFC 9113 §8.3.1). Removes the fields that HTTP/2
/// forbids. A request that already has this form stays unchanged.
pub(super) fn absolute<B>(request: &mut Request<B>, is_tls: bool) -> Result<(), Fault> {
    if request.version() == Version::HTTP_2 {
        return Ok(());
    }
    let host = request.headers_mut().remove(HOST);
    for name in [CONNECTION, TRANSFER_ENCODING] {
        request.headers_mut().remove(name);
    }
    if let Some(protocol) = request.headers_mut().remove(UPGRADE) {
        request.extensions_mut().insert(RemovedUpgrade(protocol));
    }
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(if is_tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = match host.as_ref().map(|host| host.as_bytes().try_into()) {
        Some(Ok(authority)) => Some(authority),
        // `observe` refuses an invalid Host, and `outbound` adds a missing Host.
        _ => return Err(Fault::from_error(Cause::BrokenHead, "the request has no valid Host for HTTP/2")),
    };
    let uri = Uri::from_parts(parts).map_err(|error| Fault::from_error(Cause::BrokenHead, error))?;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

/// Undoes [`absolute`], for an origin that has chosen HTTP/1.1 on a new connection. The request gets its framing, its
/// Upgrade and its Connection again. A request that [`absolute`] has not changed stays unchanged.
pub(super) fn relative<B: Body>(request: &mut Request<B>) {
    if request.version() != Version::HTTP_2 {
        return;
    }
    let host = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    if let Some(RemovedUpgrade(protocol)) = request.extensions_mut().remove() {
        request.headers_mut().insert(UPGRADE, protocol);
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else if request.headers().contains_key(TE) {
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("te"));
    }
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = path.into();
    *request.version_mut() = Version::HTTP_11;
    frame(request);
}

/// Writes Content-Length as one plain number. edgeshim reads `0005` and `5, 5` as five, but the next recipient might
/// read such a value as another number.
///
/// # Errors
/// The values of Content-Length differ, or one of them is not a number (RFC 9110 §8.6).
fn canonical_length(headers: &mut http::HeaderMap) -> Result<(), &'static str> {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let is_canonical = match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some([digit]), None) => digit.is_ascii_digit(),
        // Every number of fewer than 20 digits fits into 64 bits.
        (Some(line @ [b'1'..=b'9', ..]), None) => line.len() < 20 && line.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !is_canonical && let Some(length) = content_length(&*headers)? {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

/// Refuses a response head that exceeds `server.max_headers` or `server.max_header_bytes`. On HTTP/1.1 hyper or
/// `plain/` has already limited the bytes of the head. On HTTP/2 the bytes are counted here, as RFC 9113 §6.5.2 defines
/// the size.
pub(super) fn check_size<B>(response: &Response<B>, limits: &MessageLimits) -> Result<(), Fault> {
    let headers = response.headers();
    if headers.len() > limits.max_headers {
        return Err(Fault::head_too_large(format!("the response head has {} field lines", headers.len())));
    }
    if response.version() == Version::HTTP_2 {
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        if bytes > limits.max_header_bytes {
            return Err(Fault::head_too_large(format!("the response head has {bytes} bytes")));
        }
    }
    Ok(())
}

/// Returns whether a final response with this status never has a body (RFC 9110 §6.4.1 and §15.3.6).
pub(crate) fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Returns the fault of a 101 that the request did not ask for.
pub(crate) fn unexpected_upgrade() -> Fault {
    Fault::from_error(Cause::BrokenHead, "the origin sent a 101, but the request did not ask for an upgrade")
}

/// Refuses a response that is ambiguous or has an invalid status. Writes Content-Length as one plain number.
pub(crate) fn check_response<B>(response: &mut Response<B>) -> Result<(), Fault> {
    let broken = |why: &'static str| Err(Fault::from_error(Cause::BrokenHead, why));
    if !(200..600).contains(&response.status().as_u16()) {
        return broken("the response has a status that is not between 200 and 599");
    }
    let version = response.version();
    let headers = response.headers_mut();
    if headers.contains_key(TRANSFER_ENCODING) {
        if headers.contains_key(CONTENT_LENGTH) {
            return broken("the response has both Content-Length and Transfer-Encoding");
        }
        if version == Version::HTTP_10 || hops::has_unknown_coding(&*headers) {
            return broken("the response has a Transfer-Encoding that is not chunked, or that HTTP/1.0 does not allow");
        }
    }
    canonical_length(headers).or_else(broken)
}

/// Removes the trailers that must not be passed on. Returns `None` if no trailer remains, because many HTTP/2
/// recipients refuse an empty trailer section. Returns a frame with data unchanged.
pub(super) fn clean_trailers(frame: Frame<Bytes>, claims: &[HeaderName]) -> Option<Frame<Bytes>> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            hops::strip_trailers(&mut trailers, claims);
            (!trailers.is_empty()).then(|| Frame::trailers(trailers))
        }
        Err(frame) => Some(frame),
    }
}

/// Returns whether a response head announces a body that is not empty.
pub(super) fn declares_content(headers: &http::HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// Removes the hop-by-hop fields from a response, and Content-Length if the status forbids this field. Returns the
/// set of the field names, which can have too many names.
pub(crate) fn clean_response(head: &mut response::Parts, is_head: bool) -> Names {
    let names = Names::of(&head.headers);
    hops::strip_hop_by_hop(&mut head.headers, names, &X_CDN_PROVIDER);
    if head.status == StatusCode::NO_CONTENT || (head.status == StatusCode::RESET_CONTENT && !is_head) {
        // RFC 9110 §8.6 forbids Content-Length in a 204. In a 205 the value must be 0, and hyper writes the field.
        head.headers.remove(CONTENT_LENGTH);
    }
    head.version = Version::HTTP_11;
    names
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;

    use super::*;

    #[test]
    fn request_when_prepared_for_http2_and_then_for_http1_then_has_the_same_fields_again() {
        for fields in [
            &[("host", "a.test"), ("upgrade", "websocket"), ("connection", "upgrade"), ("x-a", "1")][..],
            &[("host", "a.test"), ("te", "trailers"), ("connection", "te")],
            &[("host", "a.test")],
        ] {
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.uri_mut() = Uri::from_static("/a?b");
            for (name, value) in fields {
                request.headers_mut().insert(*name, HeaderValue::from_static(value));
            }
            let before = request.headers().clone();
            absolute(&mut request, true).unwrap();
            assert_eq!(request.uri(), "https://a.test/a?b");
            assert!([HOST, UPGRADE, CONNECTION].iter().all(|name| !request.headers().contains_key(name)));
            relative(&mut request);
            assert_eq!((request.uri().to_string().as_str(), request.version()), ("/a?b", Version::HTTP_11));
            assert_eq!(*request.headers(), before);
        }
    }
}
