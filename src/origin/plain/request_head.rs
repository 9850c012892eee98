//! Writes the head of a request without a body, with the bytes that hyper would write.

use std::io::Write as _;

use http::{Method, Request, Version};
use http_body::Body;

use crate::origin::upload::Upload;
use crate::wire::names::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};

/// Appends the head to `out`, with the fields that the head of `request` still lacks. Returns `false` if the request is
/// not plain: it has a body, asks for an upgrade, or is not a usual HTTP/1.1 request. `out` can then contain a part of
/// the head.
pub(super) fn write(request: &Request<Upload>, out: &mut Vec<u8>) -> bool {
    if request.version() != Version::HTTP_11 || request.method() == Method::CONNECT || !request.body().is_end_stream() {
        return false;
    }
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    let uri = request.uri();
    match uri.path_and_query() {
        Some(target) if target.as_str().starts_with('/') && uri.authority().is_none() => {
            out.extend_from_slice(target.as_str().as_bytes());
        }
        _ => {
            // A write to a vector cannot fail.
            let _ = write!(out, "{uri}");
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in request.headers() {
        let value = value.as_bytes();
        if name == UPGRADE || name == TRANSFER_ENCODING || (name == CONTENT_LENGTH && value != b"0") {
            return false;
        }
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(added) = &request.body().added {
        added.write(out);
    }
    out.extend_from_slice(b"\r\n");
    true
}
