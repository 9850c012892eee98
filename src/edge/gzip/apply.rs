//! Changes a response head as the verdict requires.

use http::{HeaderMap, HeaderValue, StatusCode, response};

use super::decide::Verdict;
use super::fields::strong_tag;
use super::request_facts::RequestFacts;
use crate::wire::etag::{self, EntityTag};
use crate::wire::names::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_DIGEST, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_MD5, DIGEST, ETAG,
    REPR_DIGEST, VARY,
};
use crate::wire::vary;

/// Changes the head as the verdict requires.
pub(crate) fn apply(verdict: Verdict, head: &mut response::Parts) {
    let headers = &mut head.headers;
    match verdict {
        Verdict::Leave(_) => return,
        Verdict::Vary(_) | Verdict::NotModified { weak: false } => {}
        Verdict::NotModified { weak: true } => weaken(headers),
        Verdict::Compress | Verdict::Inflate => {
            weaken(headers);
            headers.remove(CONTENT_LENGTH);
            headers.remove(ACCEPT_RANGES);
            remove_digests(headers);
            if verdict == Verdict::Compress {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            } else {
                headers.remove(CONTENT_ENCODING);
            }
        }
    }
    vary::merge_accept_encoding(headers);
}

/// Removes `Vary: Accept-Encoding` from a response to Akamai whose body has no coding. Akamai stores a response with
/// Vary only if its coding is gzip or br. The removal is safe, because every client can read a body without a coding.
///
/// Vary stays if Vary has another member, or if the body has a coding. With Vary, Akamai does not store a body in a
/// coding other than gzip or br, so Akamai sends that body to no client that cannot decode it. A 304 updates a stored
/// response. A strong tag in the 304 counts as a sign that the stored response has no coding, so Vary is removed. If
/// the 304 has no tag, Vary stays only if the request accepts gzip and has no range.
pub(crate) fn vary_for_akamai(request: RequestFacts, head: &mut response::Parts) {
    let headers = &mut head.headers;
    if !vary::is_only(headers, ACCEPT_ENCODING.as_str()) || headers.contains_key(CONTENT_ENCODING) {
        return;
    }
    if head.status == StatusCode::NOT_MODIFIED {
        let coded = if headers.contains_key(ETAG) { strong_tag(headers).is_none() } else { request.wants_gzip() };
        if coded {
            return;
        }
    }
    headers.remove(VARY);
}

/// Removes the digests of a changed body from a head or from trailers. Repr-Digest is removed too, because this digest
/// is computed over the body with its coding (RFC 9530 §3).
pub(super) fn remove_digests(headers: &mut HeaderMap) {
    for name in [&CONTENT_MD5, &DIGEST, &CONTENT_DIGEST, &REPR_DIGEST] {
        headers.remove(name);
    }
}

/// Makes the tag weak. A tag that cannot be made weak is removed, because two codings of one body must not have the
/// same strong tag.
fn weaken(headers: &mut HeaderMap) {
    let mut tags = headers.get_all(ETAG).iter();
    let (Some(tag), None) = (tags.next(), tags.next()) else {
        headers.remove(ETAG);
        return;
    };
    match EntityTag::parse(tag.as_bytes()) {
        Some(parsed) if parsed.weak => {}
        _ => match etag::weaken(tag) {
            Some(weak) => {
                headers.insert(ETAG, weak);
            }
            None => {
                headers.remove(ETAG);
            }
        },
    }
}
