//! Reads the head of a plain request: an HTTP/1.1 request without a body that asks for nothing unusual. httparse checks
//! the syntax, with the options that hyper uses. The other rules of this file are stricter than hyper's rules: a valid
//! but unusual head is [`Parsed::Odd`], and hyper then reads it again.

use std::cell::Cell;
use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, request};
use httparse::Status;

use crate::wire::hops;
use crate::wire::names::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING, UPGRADE};
use crate::wire::tokens;

/// The largest number of fields of a plain request. The list of fields is on the stack.
const MOST_FIELDS: usize = 64;
/// The longest target of a plain request, in bytes. hyper has a larger limit.
const LONGEST_TARGET: usize = 8 * 1024;
/// The largest capacity of a map that is kept for the next request.
const MOST_KEPT_FIELDS: usize = 128;

thread_local! {
    /// An empty map with capacity. The map of a response becomes the map of the next request.
    static FIELDS: Cell<Option<HeaderMap>> = const { Cell::new(None) };
}

/// The limits of a request head.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadLimits {
    pub(super) bytes: usize,
    pub(super) fields: usize,
}

/// The result of [`parse`].
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would cost an allocation for each request")]
pub(super) enum Parsed {
    Plain(PlainRequest),
    /// The head has not arrived completely.
    Partial,
    /// The request is invalid, has a body or is unusual.
    Odd,
}

/// A plain request.
#[derive(Debug)]
pub(super) struct PlainRequest {
    pub(super) head: request::Parts,
    /// The size of the head in bytes.
    pub(super) bytes: usize,
    /// Whether the client asks to close the connection after the response.
    pub(super) closes: bool,
}

/// Keeps the memory of a map for the next request.
pub(super) fn recycle(mut fields: HeaderMap) {
    if fields.capacity() <= MOST_KEPT_FIELDS {
        fields.clear();
        FIELDS.set(Some(fields));
    }
}

/// Parses the request head at the start of `received`.
pub(super) fn parse(received: &Bytes, limits: HeadLimits) -> Parsed {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut head = httparse::Request::new(&mut []);
    let bytes = match head.parse_with_uninit_headers(received, &mut fields) {
        Ok(Status::Complete(bytes)) => bytes,
        Ok(Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Odd,
    };
    let (Some(method), Some(target), Some(1)) = (head.method, head.path, head.version) else { return Parsed::Odd };
    if bytes > limits.bytes
        || head.headers.len() > limits.fields
        || !target.starts_with('/')
        || target.len() > LONGEST_TARGET
    {
        return Parsed::Odd;
    }
    let method = Method::from_bytes(method.as_bytes());
    let target = Uri::from_maybe_shared(received.slice_ref(target.as_bytes()));
    let (Ok(method), Ok(target)) = (method, target) else { return Parsed::Odd };
    if method == Method::CONNECT {
        return Parsed::Odd;
    }
    let mut headers = FIELDS.take().unwrap_or_default();
    headers.reserve(head.headers.len());
    let mut closes = false;
    for field in &*head.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(received.slice_ref(field.value));
        let (Ok(name), Ok(value)) = (name, value) else { return Parsed::Odd };
        match name {
            TRANSFER_ENCODING | CONTENT_LENGTH | EXPECT | UPGRADE => return Parsed::Odd,
            // Only hyper's responses can have trailers.
            TE if hops::has_trailers(field.value) => return Parsed::Odd,
            // hyper ignores such a line.
            CONNECTION if !field.value.is_ascii() => return Parsed::Odd,
            CONNECTION => closes |= tokens::of_line(field.value).any(|token| token.eq_ignore_ascii_case(b"close")),
            _ => {}
        }
        headers.append(name, value);
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = target;
    *request.headers_mut() = headers;
    Parsed::Plain(PlainRequest { head: request.into_parts().0, bytes, closes })
}

/// Returns the size of the request head at the start of `bytes` if the request is plain. For fuzz targets.
pub fn plain_head_bytes(bytes: &[u8]) -> Option<usize> {
    match parse(&Bytes::copy_from_slice(bytes), HeadLimits { bytes: 64 * 1024, fields: MOST_FIELDS }) {
        Parsed::Plain(request) => {
            recycle(request.head.headers);
            Some(request.bytes)
        }
        Parsed::Partial | Parsed::Odd => None,
    }
}
