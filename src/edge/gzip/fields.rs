//! The fields of a response head that `gzip` reads.

use http::HeaderValue;

use super::keys::GzipSettings;
use crate::wire::etag::EntityTag;
use crate::wire::head_fields::Fields;
use crate::wire::media_types::essence;
use crate::wire::names::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, X_ACCEL_BUFFERING};

/// Whether each piece of the body must be sent at once. This is true for server-sent events and for responses with
/// `X-Accel-Buffering: no`.
pub(super) fn is_unbuffered(fields: Fields<'_>) -> bool {
    fields.get(&CONTENT_TYPE).is_some_and(|value| essence(value.as_bytes()).eq_ignore_ascii_case(b"text/event-stream"))
        || fields.get(&X_ACCEL_BUFFERING).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"no"))
}

/// Returns the entity tag, if the head has exactly one `ETag` line and that line is well formed.
pub(super) fn tag<'a>(fields: impl Into<Fields<'a>>) -> Option<EntityTag<'a>> {
    let mut tags = fields.into().lines(&ETAG);
    let (Some(tag), None) = (tags.next(), tags.next()) else { return None };
    EntityTag::parse(tag.as_bytes())
}

/// Returns the opaque part of the entity tag, if the tag is strong.
pub(super) fn strong_tag<'a>(fields: impl Into<Fields<'a>>) -> Option<&'a [u8]> {
    tag(fields).filter(|tag| !tag.weak).map(|tag| tag.opaque)
}

/// Whether a response is for one user or must not be stored. The twin of such a response must not be stored either.
pub(super) fn is_private(fields: Fields<'_>) -> bool {
    has_directive(fields, b"private") || has_directive(fields, b"no-store")
}

/// Whether Cache-Control forbids transformation (RFC 9111 §5.2.2.6).
pub(super) fn is_fixed(fields: Fields<'_>) -> bool {
    has_directive(fields, b"no-transform")
}

/// Whether Cache-Control contains the text of `directive`. A text search is enough, because `cache_control` has written
/// one canonical line. If the text is a part of a quoted string or of a longer name, the result is wrong. A wrong
/// result does little harm: the body is not compressed or inflated, or its twin is not stored.
fn has_directive(fields: Fields<'_>, directive: &[u8]) -> bool {
    let [first, rest @ ..] = directive else { return true };
    fields.lines(&CACHE_CONTROL).map(HeaderValue::as_bytes).any(|line| {
        memchr::memchr2_iter(*first, first.to_ascii_uppercase(), line)
            .any(|at| line.get(at + 1..=at + rest.len()).is_some_and(|text| text.eq_ignore_ascii_case(rest)))
    })
}

/// Whether the response's type is in `gzip.types`.
pub(super) fn has_type(settings: &GzipSettings, fields: Fields<'_>) -> bool {
    fields.get(&CONTENT_TYPE).is_some_and(|value| settings.types.is_match(essence(value.as_bytes())))
}

/// Whether the only coding is gzip, or `x-gzip`, which is the old name of gzip.
pub(super) fn is_gzip(fields: Fields<'_>) -> bool {
    let mut lines = fields.lines(&CONTENT_ENCODING);
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let coding = line.as_bytes().trim_ascii();
    coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip")
}
