//! The facts about a request that `gzip` needs, and the changes that `gzip` makes to a request for the origin.

use http::header::Entry;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, request};

use super::keys::GzipSettings;
use super::known_tags::TagKind;
use crate::cdn::dialect::Dialect;
use crate::wire::etag::{self, Listed};
use crate::wire::head_fields::{Fields, Names};
use crate::wire::host::host;
use crate::wire::names::{ACCEPT_ENCODING, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};
use crate::wire::quality::{Acceptance, coding_acceptance};
use crate::wire::tokens;

/// The facts about a request that `gzip` needs.
#[allow(clippy::struct_excessive_bools, reason = "the flags are independent facts")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestFacts {
    /// Whether the request prefers gzip to identity, or accepts both equally.
    pub(super) accepts_gzip: bool,
    /// Whether the weight of br is above 0, and not below the weights of gzip and identity. False if `gzip.ripen` or
    /// the store of twins is off, or if the CDN cannot use br from an origin.
    accepts_br: bool,
    /// Whether the request asks for a range. A request with a range never gets gzip from this layer, because clients
    /// handle parts of a gzip body badly.
    has_range: bool,
    pub(super) is_head: bool,
    /// Whether the request has If-None-Match or If-Match.
    has_tags: bool,
    /// The weak tags in If-None-Match. Each tag sets the bit that a checksum of the tag selects. There can be several
    /// tags, because a cache lists every variant that it has stored.
    named_weak: u64,
    /// The strong tags in If-None-Match, stored in the same way.
    named_strong: u64,
    /// A checksum of host and target. The kind of a tag is stored under this checksum and the tag, because some sites
    /// use one tag for all objects.
    pub(super) target: u32,
    /// Whether a 304 repeats the form (weak or strong) that the tag has in If-None-Match. This is true for Akamai.
    /// Its stored response without a coding has no Vary, so a request that accepts gzip can revalidate that response.
    pub(super) repeats_form: bool,
    /// Whether the request is conditional and the extension of its path belongs to a type that is not in `gzip.types`.
    /// This fact replaces the type of a 304 without Content-Type.
    pub(super) has_packed_extension: bool,
}

impl RequestFacts {
    /// Reads the facts from a request's head. `takes_br` is whether the CDN can use br from an origin.
    pub(crate) fn of(
        settings: &GzipSettings,
        head: &request::Parts,
        filter: Names,
        dialect: Dialect,
        takes_br: bool,
    ) -> Self {
        let (headers, fields) = (&head.headers, Fields::new(&head.headers, filter));
        let Acceptance { gzip, br } = if fields.can_have(&ACCEPT_ENCODING) {
            coding_acceptance(tokens::members(headers, &ACCEPT_ENCODING))
        } else {
            Acceptance::default()
        };
        let mut facts = Self {
            accepts_gzip: gzip,
            accepts_br: br && takes_br && settings.ripen && settings.twins_bytes > 0,
            has_range: fields.has(&RANGE),
            has_tags: fields.has(&IF_NONE_MATCH) || fields.has(&IF_MATCH),
            is_head: head.method == Method::HEAD,
            named_weak: 0,
            named_strong: 0,
            target: target(head),
            repeats_form: dialect == Dialect::Akamai,
            has_packed_extension: false,
        };
        if fields.has(&IF_NONE_MATCH) {
            for listed in etag::listed(headers, &IF_NONE_MATCH) {
                if let Listed::Tag(tag) = listed {
                    let named = if tag.weak { &mut facts.named_weak } else { &mut facts.named_strong };
                    *named |= bit(tag.opaque);
                }
            }
        } else if !fields.has(&IF_MODIFIED_SINCE) {
            return facts;
        }
        let guess = mime_guess::from_path(head.uri.path()).iter_raw().next();
        facts.has_packed_extension = guess.is_some_and(|essence| !settings.types.is_match(essence.as_bytes()));
        facts
    }

    /// Whether the request gets gzip if the body can be compressed.
    pub(super) fn wants_gzip(self) -> bool {
        self.accepts_gzip && !self.has_range
    }

    /// Whether the request gets br if the body has a twin with br.
    pub(crate) fn wants_br(self) -> bool {
        self.accepts_br && !self.has_range
    }

    /// Whether the request can get a body in gzip or br from this layer.
    pub(super) fn wants_coding(self) -> bool {
        self.wants_gzip() || self.wants_br()
    }

    /// Whether a 304 gets the weak form of its tag. If the request accepts gzip, the 304 gets the weak form, because
    /// the 200 with this tag would be compressed. A request that accepts br but not gzip gets br or no coding,
    /// depending on the twin. Then the 304 gets the strong form only if If-None-Match has only the strong form. The
    /// weak form is safe for both bodies.
    pub(super) fn gets_weak_tag(self, named_weak: bool, named_strong: bool) -> bool {
        self.accepts_gzip || (self.accepts_br && (named_weak || !named_strong))
    }

    /// Returns two facts about a tag: whether If-None-Match contains the tag's weak form, and whether If-None-Match
    /// contains the tag's strong form. Two tags can share a bit. Then the facts can be those of another tag in
    /// If-None-Match.
    pub(super) fn named_forms(self, opaque: &[u8]) -> (bool, bool) {
        let bit = bit(opaque);
        (self.named_weak & bit != 0, self.named_strong & bit != 0)
    }
}

fn target(head: &request::Parts) -> u32 {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(host(&head.headers));
    checksum.update(head.uri.path_and_query().map_or("/", PathAndQuery::as_str).as_bytes());
    checksum.finalize()
}

fn bit(opaque: &[u8]) -> u64 {
    1 << (crc32fast::hash(opaque) % 64)
}

/// Restores the origin's entity tags in a request's head, and asks the origin for ranges without gzip.
///
/// If the origin has sent the tag `"a"`, this layer can have sent `W/"a"` to the CDN. The CDN then sends the weak tag
/// back. Some origins compare tags as text. So the tag becomes strong again in these cases:
///
/// - In If-None-Match, if `kind` reports that the origin sends the tag strong. An unknown tag is not changed. After a
///   start of edgeshim or a swap of the configuration, every tag is unknown. nginx, Apache, Express and Tomcat compare
///   weakly, as RFC 9110 §13.1.2 requires, so both forms match there. Rails and Rack make weak tags by default, and
///   `Rack::ConditionalGet` compares the whole field as one text. So an unknown `W/"a"` must not be changed, and a list
///   of both forms would never match. If Rails or Sinatra make a strong tag, the tag is unknown after a start. Its weak
///   form then does not match, so the first conditional request gets a 200 in place of a 304.
/// - In If-Match, if `kind` does not report that the origin sends the tag weak. A weak tag never matches in If-Match
///   (RFC 9110 §13.1.1).
///
/// If the field If-Range has a weak tag, Range and If-Range are removed, because a condition with a weak tag is false
/// by definition (RFC 9110 §13.1.5). An origin that ignores this rule would send a part of the body without a coding,
/// and the client would append that part to its gzip bytes. If a request has a range and accepts gzip, its
/// Accept-Encoding becomes `identity`, so that all parts come from the same bytes.
pub(crate) fn prepare(facts: RequestFacts, headers: &mut HeaderMap, kind: impl Fn(&[u8]) -> Option<TagKind>) {
    if facts.has_tags {
        strengthen(headers, IF_NONE_MATCH, |opaque| kind(opaque).is_none_or(|kind| kind == TagKind::Weak));
        strengthen(headers, IF_MATCH, |opaque| kind(opaque) == Some(TagKind::Weak));
    }
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

/// Makes each tag in a field strong, except the tags for which `stays_weak` returns true.
fn strengthen(headers: &mut HeaderMap, name: HeaderName, stays_weak: impl Fn(&[u8]) -> bool) {
    if let Entry::Occupied(mut lines) = headers.entry(name) {
        for line in lines.iter_mut() {
            if let Some(strong) = etag::strengthen(line, &stays_weak) {
                *line = strong;
            }
        }
    }
}
