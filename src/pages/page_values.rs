//! The values of a request that are shown on a page or in the JSON that replaces a page.

use bytes::Bytes;
use http::StatusCode;

use crate::wire::{json, values};

/// The longest value that is shown, in bytes. Longer values are cut. Escaping can multiply the length of a value by
/// six. Even the escaped value fits into one stored block of deflate, which has at most 65,535 bytes.
pub(super) const MAX_VALUE_BYTES: usize = 256;

/// The values of one request. The page shows at most the first 256 bytes of each text, and escapes these bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageValues<'a> {
    /// The response's status. A number outside the range of HTTP statuses is shown as 500.
    pub status: u16,
    /// The request id.
    pub id: &'a str,
    /// The provider's label.
    pub provider: &'a str,
    /// The provider's point of presence. Empty if the point of presence is unknown.
    pub pop: &'a str,
    /// The reason for the page: the fault's label, or `origin_5xx` if the page replaces a 5xx of the origin.
    pub cause: &'a str,
    /// The current time, in seconds since 1970-01-01 00:00:00 UTC.
    pub unix_seconds: u64,
    /// Seconds until the page reloads itself. `None` if the page must not reload itself: the request must not be sent
    /// twice, or the countdown would be longer than [`LONGEST_COUNTDOWN_SECONDS`].
    pub retry_after: Option<u32>,
    /// Whether to show the wait page instead of the error page.
    pub is_wait: bool,
    /// The number of requests in the queue, if known. The wait page shows this number if the number is not zero. The
    /// error page never shows this number.
    pub waiting: Option<u32>,
}

/// The longest countdown to the reload of a page, in seconds.
pub(crate) const LONGEST_COUNTDOWN_SECONDS: u32 = 24 * 60 * 60;

/// Returns the JSON that programs get in place of a page: `application/problem+json` (RFC 9457). Its type is
/// `about:blank`, so `title` must be the reason phrase of the status. The request id is in `reference`, because
/// `instance` must be a URI.
pub(crate) fn problem_json(values: &PageValues<'_>, title: &str) -> Bytes {
    let status = StatusCode::from_u16(values.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut out = Vec::with_capacity(96 + title.len().min(256) + values.id.len().min(256));
    out.extend_from_slice(br#"{"type":"about:blank","title":""#);
    json::push_escaped(&mut out, cut(title).as_bytes(), json::is_active);
    out.extend_from_slice(br#"","status":"#);
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(br#","reference":""#);
    json::push_escaped(&mut out, cut(values.id).as_bytes(), json::is_active);
    out.extend_from_slice(b"\"}");
    Bytes::from(out)
}

/// Cuts a text after at most [`MAX_VALUE_BYTES`] bytes, between two characters.
pub(super) fn cut(text: &str) -> &str {
    values::cut(text, MAX_VALUE_BYTES)
}
