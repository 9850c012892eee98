//! Changes a response head as the verdict requires.

use http::{HeaderMap, HeaderValue, StatusCode, response};

use super::decide::Verdict;
use super::fields::strong_tag;
use super::known_tags::TagKind;
use super::request_facts::RequestFacts;
use crate::edge::request::EdgeResponse;
use crate::wire::etag::{self, EntityTag};
use crate::wire::names::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_DIGEST, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_MD5, DIGEST, ETAG,
    REPR_DIGEST, VARY,
};
use crate::wire::vary;

/// Changes the head as the verdict requires.
pub(super) fn apply(verdict: Verdict, head: &mut response::Parts) {
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

/// Changes the head of a response as the verdict requires. Adds the names of new fields to the set `facts.names`.
pub(super) fn applied<B>(verdict: Verdict, response: &mut EdgeResponse<B>) {
    apply(verdict, &mut response.head);
    if !matches!(verdict, Verdict::Leave(_)) {
        response.facts.names.add(&VARY);
    }
    if verdict == Verdict::Compress {
        response.facts.names.add(&CONTENT_ENCODING);
    }
}

/// Changes the head of a response to the head that belongs to the br form of its twin.
pub(super) fn apply_br<B>(response: &mut EdgeResponse<B>) {
    applied(Verdict::Compress, response);
    response.head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
}

/// Removes `Vary: Accept-Encoding` from a response to Akamai, if the body has no coding. Akamai stores a response with
/// Vary only if its coding is gzip or br. The removal is safe, because every client can read a body without a coding.
///
/// Vary stays if Vary has another member, or if the body has a coding. With Vary, Akamai does not store a body in a
/// coding other than gzip or br. So Akamai does not send that body to later clients that cannot decode it.
///
/// A 304 updates a stored response. If Vary were removed from a stored response with a coding, Akamai would send its
/// body to clients that cannot decode it. So Vary is removed only if the stored response has no coding. The kind
/// (`known`) and the form of the tag show whether the stored response has a coding. If the kind does not show this, the
/// stored response counts as coded in two cases: the 304 has a tag that is not strong, or the request accepts gzip and
/// has no range.
pub(crate) fn vary_for_akamai(request: RequestFacts, known: Option<TagKind>, head: &mut response::Parts) {
    let headers = &mut head.headers;
    if !vary::is_only(headers, ACCEPT_ENCODING.as_str()) || headers.contains_key(CONTENT_ENCODING) {
        return;
    }
    if head.status == StatusCode::NOT_MODIFIED {
        let is_strong = strong_tag(&*headers).is_some();
        let is_coded = match known {
            Some(TagKind::Compressed | TagKind::Kept | TagKind::Fixed) if is_strong => false,
            Some(TagKind::KeptCoded | TagKind::FixedCoded | TagKind::Inflated) if is_strong => true,
            Some(TagKind::Inflated) => false,
            _ if headers.contains_key(ETAG) && !is_strong => true,
            _ => request.wants_gzip(),
        };
        if is_coded {
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

/// Makes the tag weak. A tag that cannot be made weak, and several `ETag` lines, are removed, because two codings of
/// one body must not have the same strong tag.
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
