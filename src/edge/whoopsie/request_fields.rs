//! The parts of a request that a page needs.

use http::{HeaderMap, HeaderName, HeaderValue, Method, request};

use crate::edge::request::Ctx;
use crate::wire::head_fields::Fields;
use crate::wire::names::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_TYPE, HOST, X_REQUEST_ID};
use crate::wire::quality::{Coding, Preference, accept_prefers, gzip_acceptance};

/// The facts and fields of a request that are needed after the request was sent to the origin.
#[derive(Debug)]
pub(super) struct RequestFields {
    pub(super) ctx: Ctx,
    pub(super) is_head: bool,
    /// Whether the page is allowed to repeat the request automatically, because the method is safe.
    pub(super) is_repeatable: bool,
    pub(super) is_grpc: bool,
    accept: Option<HeaderValue>,
    accept_encoding: Option<HeaderValue>,
    pub(super) accept_language: Option<HeaderValue>,
    pub(super) host: Option<HeaderValue>,
    pub(super) id: Option<HeaderValue>,
}

impl RequestFields {
    pub(super) fn of(request: &request::Parts, ctx: Ctx) -> Self {
        let fields = ctx.fields(&request.headers);
        Self {
            ctx,
            is_head: request.method == Method::HEAD,
            is_repeatable: matches!(request.method, Method::GET | Method::HEAD),
            is_grpc: fields.get(&CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")),
            accept: line(fields, &ACCEPT),
            accept_encoding: line(fields, &ACCEPT_ENCODING),
            accept_language: line(fields, &ACCEPT_LANGUAGE),
            host: fields.get(&HOST).cloned(),
            id: fields.get(&X_REQUEST_ID).cloned(),
        }
    }

    /// Returns the form of the body that Accept prefers.
    pub(super) fn prefers(&self) -> Preference {
        evaluate(&ACCEPT, self.accept.as_ref(), accept_prefers)
    }

    pub(super) fn accepts_gzip(&self) -> bool {
        evaluate(&ACCEPT_ENCODING, self.accept_encoding.as_ref(), gzip_acceptance) == Coding::Gzip
    }
}

/// Calls a function that reads headers, with the stored field as the only header field.
fn evaluate<T>(name: &HeaderName, value: Option<&HeaderValue>, function: fn(&HeaderMap) -> T) -> T {
    let mut headers = HeaderMap::new();
    if let Some(value) = value {
        headers.insert(name, value.clone());
    }
    function(&headers)
}

/// Returns a list field as one line. Nearly always, the field has only one line. Then its bytes are not copied.
fn line(fields: Fields<'_>, name: &HeaderName) -> Option<HeaderValue> {
    let mut lines = fields.lines(name);
    let first = lines.next()?;
    if lines.next().is_none() {
        return Some(first.clone());
    }
    let all: Vec<&[u8]> = fields.lines(name).map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&all.join(&b", "[..])).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_field_when_sent_in_several_lines_then_is_joined_to_one_line() {
        let mut headers = HeaderMap::new();
        assert_eq!(line((&headers).into(), &ACCEPT), None);
        headers.append(ACCEPT, HeaderValue::from_static("text/html"));
        headers.append(ACCEPT, HeaderValue::from_static("*/*;q=0.1"));
        assert_eq!(line((&headers).into(), &ACCEPT).unwrap(), "text/html, */*;q=0.1");
    }
}
