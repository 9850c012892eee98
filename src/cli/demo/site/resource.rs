//! A resource of the site, with validators and ranges (RFC 9110 §13 and §14).

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::{Either, Full};

use super::response::{SiteBody, whole};
use crate::wire::{decimal, names, tokens};

/// The default Last-Modified of a resource, in seconds since 1970: 1 October 2026.
pub(super) const SITE_DATE: u64 = 1_790_812_800;

/// A resource whose response is the same for all requests, except for conditional requests and requests for ranges.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) content_type: &'static str,
    pub(super) bytes: Bytes,
    etag: HeaderValue,
    modified: SystemTime,
    ranges: bool,
    /// Further header fields of the response.
    fields: &'static [(HeaderName, &'static str)],
}

impl Resource {
    pub(super) fn new(content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let etag = visible(&format!("\"{:08x}-{:x}\"", crc32fast::hash(&bytes), bytes.len()));
        let modified = UNIX_EPOCH + Duration::from_secs(SITE_DATE);
        Self { content_type, bytes, etag, modified, ranges: false, fields: &[] }
    }

    /// Sets Last-Modified, in seconds since 1970.
    pub(super) fn modified(self, seconds: u64) -> Self {
        Self { modified: UNIX_EPOCH + Duration::from_secs(seconds), ..self }
    }

    pub(super) fn with_ranges(self) -> Self {
        Self { ranges: true, ..self }
    }

    pub(super) fn with_fields(self, fields: &'static [(HeaderName, &'static str)]) -> Self {
        Self { fields, ..self }
    }

    /// Responds to a GET or HEAD request, and evaluates the fields in the order of RFC 9110 §13.2.2. First comes
    /// If-None-Match, or If-Modified-Since if there is no If-None-Match. Then comes Range, together with If-Range.
    pub(super) fn respond(&self, method: &Method, request: &HeaderMap) -> Response<SiteBody> {
        if self.unchanged(request) {
            let mut response = Response::new(Either::Left(Full::default()));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            self.describe(response.headers_mut());
            return response;
        }
        let total = self.bytes.len();
        let span = match request.get(names::RANGE) {
            // Range applies only to GET (RFC 9110 §14.2).
            Some(field) if self.ranges && method == Method::GET && self.range_applies(request) => {
                requested_span(field.as_bytes(), total)
            }
            _ => Span::Whole,
        };
        let (status, bytes) = match &span {
            Span::Whole => (StatusCode::OK, self.bytes.clone()),
            Span::Part(part) => (StatusCode::PARTIAL_CONTENT, self.bytes.slice(part.clone())),
            Span::Outside => (StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new()),
        };
        let mut response = whole(status, self.content_type, bytes);
        let headers = response.headers_mut();
        self.describe(headers);
        match span {
            Span::Whole => {}
            Span::Part(part) => {
                let last = part.end.saturating_sub(1);
                headers.insert(names::CONTENT_RANGE, visible(&format!("bytes {}-{last}/{total}", part.start)));
            }
            Span::Outside => {
                headers.insert(names::CONTENT_RANGE, visible(&format!("bytes */{total}")));
            }
        }
        response
    }

    fn describe(&self, headers: &mut HeaderMap) {
        headers.insert(names::ETAG, self.etag.clone());
        headers.insert(names::LAST_MODIFIED, visible(&httpdate::fmt_http_date(self.modified)));
        if self.ranges {
            headers.insert(names::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        for (name, value) in self.fields {
            headers.append(name, HeaderValue::from_static(value));
        }
    }

    fn unchanged(&self, request: &HeaderMap) -> bool {
        if request.contains_key(names::IF_NONE_MATCH) {
            // The comparison of tags is weak. The tags of this site have no comma, so splitting at commas cannot create
            // a match.
            return tokens::tokens(request, &names::IF_NONE_MATCH)
                .any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == self.etag.as_bytes());
        }
        date(request.get(names::IF_MODIFIED_SINCE)).is_some_and(|since| self.modified <= since)
    }

    /// Whether Range applies. If-Range requires a strong comparison of tags, and a date must be equal to Last-Modified
    /// (RFC 9110 §13.1.5).
    fn range_applies(&self, request: &HeaderMap) -> bool {
        match request.get(names::IF_RANGE) {
            None => true,
            Some(field) => field == self.etag || date(Some(field)) == Some(self.modified),
        }
    }
}

/// The part that a Range field requests from a representation of known length.
#[derive(Debug, PartialEq, Eq)]
enum Span {
    Whole,
    Part(Range<usize>),
    Outside,
}

/// Parses a Range field with a single range (RFC 9110 §14.1.2). For several ranges and for an invalid range, returns
/// the whole representation, as RFC 9110 §14.2 allows.
fn requested_span(field: &[u8], total: usize) -> Span {
    let spec = str::from_utf8(field).ok().and_then(|text| text.split_once('='));
    let Some((first, last)) =
        spec.filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes")).and_then(|(_, set)| set.trim().split_once('-'))
    else {
        return Span::Whole;
    };
    let part = match (digits(first), digits(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(total),
        (Some(first), None) if last.is_empty() => first..total,
        (None, Some(tail)) if first.is_empty() => total.saturating_sub(tail)..total,
        _ => return Span::Whole,
    };
    if part.is_empty() { Span::Outside } else { Span::Part(part) }
}

/// Parses a number that consists only of digits. A number that is too large becomes `usize::MAX`.
fn digits(text: &str) -> Option<usize> {
    Some(usize::try_from(decimal::read_saturating(text.as_bytes())?).unwrap_or(usize::MAX))
}

fn date(field: Option<&HeaderValue>) -> Option<SystemTime> {
    httpdate::parse_http_date(field?.to_str().ok()?).ok()
}

/// Converts a text to a header value. The text consists of visible ASCII characters and spaces, so it is always a valid
/// value.
fn visible(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn span_when_range_field_is_arbitrary_then_stays_inside_the_resource(
            field in "(bytes=)?[0-9-]{0,24}|[ -~]{0,30}",
            total in 0_usize..1000,
        ) {
            if let Span::Part(part) = requested_span(field.as_bytes(), total) {
                prop_assert!(part.start < part.end && part.end <= total);
            }
        }

        #[test]
        fn span_when_first_and_last_are_given_then_is_the_requested_range(first in 0_usize..500, more in 0_usize..500) {
            let last = first + more;
            let field = format!("bytes={first}-{last}");
            prop_assert_eq!(requested_span(field.as_bytes(), 1000), Span::Part(first..last + 1));
            prop_assert_eq!(requested_span(field.as_bytes(), first), Span::Outside);
        }
    }
}
