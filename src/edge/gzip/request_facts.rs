//! What `gzip` needs of a request, and what it changes in one before it goes to the origin.

use http::header::Entry;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, request};

use super::keys::GzipSettings;
use super::known_tags::TagKind;
use crate::cdn::dialect::Dialect;
use crate::wire::etag::{self, Listed};
use crate::wire::names::{ACCEPT_ENCODING, HOST, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};
use crate::wire::quality::{Coding, gzip_acceptance};

/// What `gzip` needs of a request.
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestFacts {
    /// It prefers gzip to identity, or accepts both equally.
    pub(super) accepts_gzip: bool,
    /// It asks for a range, which is counted in identity bytes. Clients handle slices of gzip badly.
    has_range: bool,
    pub(super) is_head: bool,
    /// One bit for each weak tag in If-None-Match; a cache lists every variant that it has stored.
    named_weak: u64,
    named_strong: u64,
    /// A checksum of host and target. Known tags are found by it, because some sites use one tag for all objects.
    pub(super) target: u32,
    /// A 304 repeats the form of the tag in If-None-Match. Akamai's identity variant has no Vary, so a client that
    /// accepts gzip may revalidate it.
    pub(super) repeats_form: bool,
    /// The path has the extension of a type that is compressed already. Used for a 304 without a type.
    pub(super) has_packed_extension: bool,
}

impl RequestFacts {
    /// Reads a request's head.
    pub(crate) fn of(settings: &GzipSettings, head: &request::Parts, dialect: Dialect) -> Self {
        let headers = &head.headers;
        let mut facts = Self {
            accepts_gzip: gzip_acceptance(headers) == Coding::Gzip,
            has_range: headers.contains_key(RANGE),
            is_head: head.method == Method::HEAD,
            named_weak: 0,
            named_strong: 0,
            target: target(head),
            repeats_form: dialect == Dialect::Akamai,
            has_packed_extension: false,
        };
        if headers.contains_key(IF_NONE_MATCH) {
            for listed in etag::listed(headers, &IF_NONE_MATCH) {
                if let Listed::Tag(tag) = listed {
                    let named = if tag.weak { &mut facts.named_weak } else { &mut facts.named_strong };
                    *named |= bit(tag.opaque);
                }
            }
        } else if !headers.contains_key(IF_MODIFIED_SINCE) {
            return facts;
        }
        let guess = mime_guess::from_path(head.uri.path()).iter_raw().next();
        facts.has_packed_extension = guess.is_some_and(|essence| !settings.types.is_match(essence.as_bytes()));
        facts
    }

    /// Whether it gets gzip if the body can be compressed.
    pub(super) fn wants_gzip(self) -> bool {
        self.accepts_gzip && !self.has_range
    }

    /// Whether If-None-Match contains a tag in its weak form, and in its strong form. Two tags may share a bit; then
    /// the 304 has the form that the client sent.
    pub(super) fn named_forms(self, opaque: &[u8]) -> (bool, bool) {
        let bit = bit(opaque);
        (self.named_weak & bit != 0, self.named_strong & bit != 0)
    }
}

fn target(head: &request::Parts) -> u32 {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(head.headers.get(HOST).map_or(&[], HeaderValue::as_bytes));
    checksum.update(head.uri.path_and_query().map_or("/", PathAndQuery::as_str).as_bytes());
    checksum.finalize()
}

fn bit(opaque: &[u8]) -> u64 {
    1 << (crc32fast::hash(opaque) % 64)
}

/// Undoes in a request's head what this layer does to responses.
///
/// A tag that is `"a"` at the origin may have been sent as `W/"a"`, and comes back weak. Some origins compare tags as
/// text. So it becomes strong again:
///
/// - in If-None-Match only if `kind` reports that the origin sends it strong. An unknown tag, the first time after a
///   start, stays as it is. nginx, Apache, Express and Tomcat compare weakly, as RFC 9110 §13.1.2 requires, so both
///   forms match there. Rails and Rack make weak tags by default, and `Rack::ConditionalGet` compares the whole line as
///   one text: `W/"a"` must stay for it, and a list of both forms would never match. If Rails or Sinatra make a strong
///   tag, the first request after a start costs a 200 in place of a 304;
/// - in If-Match unless `kind` reports that the origin sends it weak: a weak tag never matches there (RFC 9110
///   §13.1.1).
///
/// A range with a weak tag in If-Range is removed: the condition is false by definition (RFC 9110 §13.1.5), and an
/// origin that compares carelessly would continue gzip with identity bytes. Any other range goes to the origin without
/// gzip, so that all parts come from the same bytes.
pub(crate) fn prepare(facts: RequestFacts, headers: &mut HeaderMap, kind: impl Fn(&[u8]) -> Option<TagKind>) {
    strengthen(headers, IF_NONE_MATCH, |opaque| kind(opaque).is_none_or(|kind| kind == TagKind::Weak));
    strengthen(headers, IF_MATCH, |opaque| kind(opaque) == Some(TagKind::Weak));
    if facts.has_range {
        if headers.get(IF_RANGE).is_some_and(|tag| tag.as_bytes().starts_with(b"W/")) {
            headers.remove(RANGE);
            headers.remove(IF_RANGE);
        }
        if facts.accepts_gzip {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
    }
}

/// Makes the tags of a field strong, except those for which `stays_weak` is true.
fn strengthen(headers: &mut HeaderMap, name: HeaderName, stays_weak: impl Fn(&[u8]) -> bool) {
    if let Entry::Occupied(mut lines) = headers.entry(name) {
        for line in lines.iter_mut() {
            if let Some(strong) = etag::strengthen(line, &stays_weak) {
                *line = strong;
            }
        }
    }
}
