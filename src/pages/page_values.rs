//! What a page, or the JSON in its place, shows about one request.

use bytes::Bytes;
use http::StatusCode;

use crate::wire::json;

/// The longest value that is shown, in bytes. Escaping makes it up to six times longer, so it fits into one stored
/// block.
pub(super) const MAX_VALUE_BYTES: usize = 256;

/// The values of one request. The page escapes them, and cuts them after 256 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageValues<'a> {
    /// The response's status. A number that is not an HTTP status is shown as 500.
    pub status: u16,
    /// The request id.
    pub id: &'a str,
    /// The provider's label.
    pub provider: &'a str,
    /// The provider's point of presence; empty if unknown.
    pub pop: &'a str,
    /// The fault's label.
    pub cause: &'a str,
    /// Seconds since 1970, UTC.
    pub unix_seconds: u64,
    /// Seconds until the page reloads itself. None: it must not, because the request must not be sent twice.
    pub retry_after: Option<u32>,
    /// Whether to show the wait page, because the request was shed.
    pub is_wait: bool,
    /// The number of requests in the queue, if known. Only the wait page shows it, and only if it is not zero.
    pub waiting: Option<u32>,
}

/// The longest wait that a page counts down, in seconds.
pub(crate) const LONGEST_COUNTDOWN_SECONDS: u32 = 24 * 60 * 60;

/// The page for programs: `application/problem+json` (RFC 9457) of type `about:blank`, whose `title` is the reason
/// phrase. The request id is `reference`, because `instance` must be a URI.
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

/// The part of a text that is shown.
pub(super) fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_VALUE_BYTES)).unwrap_or_default()
}
