//! Reads the head of a plain response. httparse checks the syntax, with the options that hyper uses. The other rules of
//! this file are stricter than hyper's rules: a valid but unusual head is [`Parsed::Odd`], and hyper then reads it
//! again.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::known_names;
use crate::origin::options::MessageLimits;
use crate::wire::names::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use crate::wire::tokens;

/// The largest number of fields of a plain response. The list of fields is on the stack.
const MOST_FIELDS: usize = 64;

/// The result of [`parse`].
#[derive(Debug)]
pub(super) enum Parsed {
    Plain(Head),
    /// The head has not arrived completely.
    Partial,
    /// The response is invalid, or its body does not have a known length, or the head is unusual.
    Odd,
}

/// The head of a plain response.
#[derive(Debug)]
pub(super) struct Head {
    /// The response, with the length of its body.
    pub(super) response: Response<u64>,
    /// The size of the head in bytes.
    pub(super) bytes: usize,
    /// Whether the origin keeps the connection open.
    pub(super) is_kept: bool,
}

/// Parses the response head at the start of `received`. `headers` is an empty map, whose capacity is used.
pub(super) fn parse(received: &Bytes, method: &Method, limits: &MessageLimits, mut headers: HeaderMap) -> Parsed {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut head = httparse::Response::new(&mut []);
    let bytes = match ParserConfig::default().parse_response_with_uninit_headers(&mut head, received, &mut fields) {
        Ok(Status::Complete(bytes)) => bytes,
        Ok(Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Odd,
    };
    let status = match head.code.map(StatusCode::from_u16) {
        Some(Ok(status)) if (200..600).contains(&status.as_u16()) => status,
        _ => return Parsed::Odd,
    };
    if head.version != Some(1) || bytes > limits.max_header_bytes || head.headers.len() > limits.max_headers {
        return Parsed::Odd;
    }
    let mut length = None;
    let mut is_kept = true;
    headers.reserve(head.headers.len());
    for field in &*head.headers {
        let name = known_names::name(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(received.slice_ref(field.value));
        let (Some(name), Ok(value)) = (name, value) else { return Parsed::Odd };
        if name == CONTENT_LENGTH {
            match decimal(field.value) {
                Some(number) if length.is_none() => length = Some(number),
                _ => return Parsed::Odd,
            }
        } else if name == TRANSFER_ENCODING {
            return Parsed::Odd;
        } else if name == CONNECTION {
            is_kept &= !tokens::of_line(field.value).any(|token| token.eq_ignore_ascii_case(b"close"));
        }
        headers.append(name, value);
    }
    // A response to HEAD, a 204 and a 304 have no body, even if they have a Content-Length (RFC 9112 §6.3).
    let has_no_body = method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let Some(length) = (if has_no_body { Some(0) } else { length }) else { return Parsed::Odd };
    let mut response = Response::new(length);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if head.reason != status.canonical_reason() {
        // hyper's server sends this phrase to the client.
        match ReasonPhrase::try_from(head.reason.unwrap_or_default().as_bytes()) {
            Ok(phrase) => response.extensions_mut().insert(phrase),
            Err(_) => return Parsed::Odd,
        };
    }
    Parsed::Plain(Head { response, bytes, is_kept })
}

/// Returns whether the head ends after the first `before` bytes, which contain no end. The head ends with an empty
/// line.
pub(super) fn ends_after(received: &[u8], before: usize) -> bool {
    let new = received.get(before.saturating_sub(3)..).unwrap_or_default();
    memchr::memchr_iter(b'\n', new).any(|at| matches!(new.get(at + 1..), Some([b'\n', ..] | [b'\r', b'\n', ..])))
}

/// Reads a number that is written in the shortest form, as [`forward`](crate::origin::forward) writes it.
fn decimal(digits: &[u8]) -> Option<u64> {
    // Every number of fewer than 20 digits fits into 64 bits.
    let is_shortest = matches!(digits, [_] | [b'1'..=b'9', ..]) && digits.len() < 20;
    let number = digits.iter().try_fold(0, |number: u64, digit| {
        digit.is_ascii_digit().then(|| number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
    });
    number.filter(|_| is_shortest)
}
