//! What changes in a head between the CDN's connection and the origin's, and back.

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, request, response};

use super::{OriginSettings, Upload};
use crate::fault::{Cause, Fault};
use crate::wire::forwarded::{self, Peer, Trail};
use crate::wire::hops;
use crate::wire::names::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE, X_CDN_PROVIDER};

/// What the origin is told about where a request came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outward<'a> {
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
    /// Whether the client takes trailers.
    pub trailers: bool,
}

/// Makes a request's head ready for an HTTP/1.1 origin (RFC 9110 §7.6).
pub(crate) fn outbound(head: &mut request::Parts, outward: &Outward<'_>) {
    // What is not asked for cannot be granted: a 101 to anything but a GET would be a broken answer.
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
        // Where the identity header has another name, this one is nobody's word but the visitor's.
        headers.remove(&X_CDN_PROVIDER);
    }
    if let Some(host) = outward.host {
        headers.insert(HOST, host.clone());
    } else if !headers.contains_key(HOST) {
        headers.insert(HOST, outward.fallback_host.clone());
    }
    // The head guard and h2 have refused what is no number.
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

/// Says how the body is framed where hyper would not: it takes a GET or a HEAD of unknown length for one without a body, and leaves
/// Content-Length off a POST without a body, which origins answer with 411 (RFC 9110 §8.6 wants a 0 there).
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

/// Writes Content-Length as one number in one form: `0005` and `5, 5` mean five to us and perhaps something else to the next recipient.
///
/// # Errors
/// Its values differ, or one is no number (RFC 9110 §8.6).
fn canonical_length(headers: &mut http::HeaderMap) -> Result<(), &'static str> {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let Some(line) = lines.next() else { return Ok(()) };
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let bytes = line.as_bytes();
    if lines.next().is_none()
        && bytes.len() < 20
        && is_number(bytes)
        && (bytes.len() == 1 || bytes.first() != Some(&b'0'))
    {
        return Ok(());
    }
    let mut length: Option<u64> = None;
    for line in headers.get_all(CONTENT_LENGTH) {
        for member in line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            let number = std::str::from_utf8(member).ok().filter(|text| is_number(text.as_bytes()));
            let Some(number) = number.and_then(|text| text.parse().ok()) else {
                return Err("a Content-Length that is no number");
            };
            if length.is_some_and(|known| known != number) {
                return Err("Content-Length with two values");
            }
            length = Some(number);
        }
    }
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

/// Refuses a response head that is larger than `server.max_headers` and `server.max_header_bytes` allow. hyper counts an HTTP/1.1 head as
/// it reads it; the lines of an HTTP/2 head are counted as RFC 9113 §6.5.2 does.
pub(super) fn check_size<B>(response: &Response<B>, settings: &OriginSettings) -> Result<(), Fault> {
    let headers = response.headers();
    if headers.len() > settings.max_headers {
        return Err(Fault::head_too_large(format!("{} lines in the response head", headers.len())));
    }
    if response.version() == Version::HTTP_2 {
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        if bytes > settings.max_header_bytes {
            return Err(Fault::head_too_large(format!("{bytes} bytes in the response head")));
        }
    }
    Ok(())
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
    canonical_length(headers).or_else(broken)
}

/// Whether a response's head announces a body, of any length but 0.
pub(super) fn declares_content(headers: &http::HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
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
