//! Decides which responses are compressed or inflated, with plain functions on a response head.

use http::{StatusCode, response};

use super::fields::{has_type, is_fixed, is_gzip, tag};
use super::keys::GzipSettings;
use super::known_tags::TagKind;
use super::request_facts::RequestFacts;
use crate::ids::label;
use crate::wire::etag::EntityTag;
use crate::wire::head_fields::{Fields, Names};
use crate::wire::names::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE};
use crate::wire::values::content_length;

label! {
    /// Why a body is not compressed: the label `reason` of `edgeshim_gzip_skipped_total`.
    pub(crate) enum Skip {
        /// `gzip.enabled` is off, or the class's `gzip` is off.
        Off = "off",
        /// The body of a response with this status is never compressed.
        Status = "status",
        /// The origin has set Content-Encoding.
        Encoded = "encoded",
        /// The status is 206, or a response with another status has Content-Range.
        Range = "range",
        /// The response has no type, or its type is not in `gzip.types`.
        Type = "type",
        /// Cache-Control contains no-transform.
        NoTransform = "no_transform",
        /// The body is shorter than `gzip.min_bytes`.
        TooShort = "too_short",
        /// The request does not accept gzip, or it has Range.
        NotAccepted = "not_accepted",
    }
}

impl Skip {
    /// Returns the reason as a text for people.
    pub(crate) fn explanation(self) -> &'static str {
        match self {
            Self::Off => "gzip.enabled or the class's gzip is false",
            Self::Status => "the body of a response with this status is never compressed",
            Self::Encoded => "the origin has set Content-Encoding",
            Self::Range => "the response has only a part of the body",
            Self::Type => "the response has no type, or its type is not in gzip.types",
            Self::NoTransform => "Cache-Control contains no-transform",
            Self::TooShort => "the body is shorter than gzip.min_bytes",
            Self::NotAccepted => "this request does not ask for gzip, or it asks for a range",
        }
    }
}

/// What to do with a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Change nothing, because this layer does not change the body for any request.
    Leave(Skip),
    /// Add Accept-Encoding to Vary, because another request can get the body in another coding. The body is not
    /// compressed or inflated. But if the reason is `NotAccepted`, the br form of a twin can replace the body.
    Vary(Skip),
    /// Add Accept-Encoding to the Vary of a 304, and make its tag weak if `weak` is true.
    NotModified {
        /// Whether to make the tag weak.
        weak: bool,
    },
    /// Compress the body.
    Compress,
    /// Inflate the origin's gzip.
    Inflate,
}

/// Returns the verdict on a response. `names` contains the names of all fields in the response's head, and can contain
/// further names. `length` is the length of the body, if known. For a 304, `known` is the kind of its tag, if known.
pub(crate) fn decide(
    settings: &GzipSettings,
    request: RequestFacts,
    head: &response::Parts,
    names: Names,
    length: Option<u64>,
    known: Option<TagKind>,
) -> Verdict {
    let fields = Fields::new(&head.headers, names);
    if !settings.enabled {
        return Verdict::Leave(Skip::Off);
    }
    if head.status == StatusCode::NOT_MODIFIED {
        return not_modified(settings, request, fields, known);
    }
    // A 206 is never compressed or inflated. Its Vary must be the Vary of the 200 (RFC 9110 §15.3.7), so most checks
    // are the same. The length of the complete body is not checked. So a part of a short body gets Vary, but the 200
    // with that body does not.
    let part = head.status == StatusCode::PARTIAL_CONTENT;
    let compressible = matches!(
        head.status,
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION | StatusCode::NOT_FOUND | StatusCode::GONE
    );
    let skip = if !compressible && !part {
        Some(Skip::Status)
    } else if fields.has(&CONTENT_RANGE) && !part {
        Some(Skip::Range)
    } else {
        None
    };
    if fields.has(&CONTENT_ENCODING) {
        if skip.is_none() && settings.inflate && !is_fixed(fields) && is_gzip(fields) {
            return if part || request.accepts_gzip { Verdict::Vary(Skip::Encoded) } else { Verdict::Inflate };
        }
        let skip = skip.unwrap_or(Skip::Encoded);
        // This layer does not change the body. But a cache must not send a body in the origin's coding to a client that
        // cannot decode that coding. So a response whose type is in `gzip.types` gets Vary.
        return if has_type(settings, fields) { Verdict::Vary(skip) } else { Verdict::Leave(skip) };
    }
    if let Some(skip) = skip {
        return Verdict::Leave(skip);
    }
    if !has_type(settings, fields) {
        return Verdict::Leave(Skip::Type);
    }
    if is_fixed(fields) {
        return Verdict::Leave(Skip::NoTransform);
    }
    if part {
        return Verdict::Vary(Skip::Range);
    }
    // A response to HEAD has no body, but its Content-Length is the length of the body for GET.
    let length = if request.is_head { content_length(fields).unwrap_or_default() } else { length };
    if length.is_some_and(|length| length < settings.min_bytes) {
        return Verdict::Leave(Skip::TooShort);
    }
    if request.wants_gzip() { Verdict::Compress } else { Verdict::Vary(Skip::NotAccepted) }
}

/// Returns the verdict on a 304. A 304 must have the fields of the 200 that the same request would get without its
/// conditions and its range (RFC 9110 §14.2, §15.4.5). The tag matters most. A cache copies the tag of the 304 to the
/// stored response that the 304 updates. Some caches find that stored response by Accept-Encoding and not by the tag in
/// the request.
///
/// If `known` is a kind other than `Weak`, this kind and Accept-Encoding decide. Otherwise the type, the coding and
/// `no-transform` in the head of the 304 decide, together with Accept-Encoding. Many origins send a 304 without a type.
/// Then the extension of the path replaces the type. If this layer never compresses or inflates the body, the tag is
/// not changed. If this layer can change the body, the forms (weak or strong) of the tag in If-None-Match also count:
///
/// - The kind is `Mixed`, and the client sent only one form: the tag gets this form.
/// - The kind is unknown or `Weak`, and `gzip.inflate` is on: if the client sent only the weak form, the body counts as
///   inflated, so the tag is weak. Exception: with `no-transform`, the tag stays unchanged.
/// - The request accepts br but not gzip: see [`RequestFacts::gets_weak_tag`].
/// - The CDN is Akamai, and the client sent only one form: the tag gets this form ([`RequestFacts::repeats_form`]).
fn not_modified(settings: &GzipSettings, request: RequestFacts, fields: Fields<'_>, known: Option<TagKind>) -> Verdict {
    let (named_weak, named_strong) = tag(fields).map_or((false, false), |tag| request.named_forms(tag.opaque));
    let weak = match known {
        Some(TagKind::Fixed | TagKind::FixedCoded) => return Verdict::Leave(Skip::Status),
        Some(TagKind::Kept | TagKind::KeptCoded) => return Verdict::NotModified { weak: false },
        Some(TagKind::Inflated) => !request.accepts_gzip,
        Some(TagKind::Mixed) if named_weak != named_strong => named_weak,
        Some(TagKind::Compressed | TagKind::Mixed) => request.gets_weak_tag(named_weak, named_strong),
        Some(TagKind::Weak) | None => {
            // Inflating does not depend on `gzip.types`, so a body of any type can have been inflated.
            let inflated = settings.inflate && named_weak && !named_strong;
            let compressible =
                if fields.has(&CONTENT_TYPE) { has_type(settings, fields) } else { !request.has_packed_extension };
            let has_coding = fields.has(&CONTENT_ENCODING);
            let fixed = is_fixed(fields);
            if !(compressible || inflated) || (fixed && !has_coding) || (fixed && inflated) {
                return Verdict::Leave(Skip::Status);
            }
            if has_coding && !inflated {
                return Verdict::NotModified { weak: false };
            }
            request.gets_weak_tag(named_weak, named_strong) || inflated
        }
    };
    let weak = if request.repeats_form && named_weak != named_strong { named_weak } else { weak };
    Verdict::NotModified { weak }
}

/// Returns the kind of the response's tag, if the tag or the verdict shows the kind. `length` is the length of the
/// body, if known.
pub(super) fn tag_kind(
    settings: &GzipSettings,
    verdict: Verdict,
    tag: EntityTag<'_>,
    status: StatusCode,
    fields: Fields<'_>,
    length: Option<u64>,
) -> Option<TagKind> {
    if tag.weak {
        return Some(TagKind::Weak);
    }
    match verdict {
        Verdict::Compress => Some(TagKind::Compressed),
        // If the length is not known, the body can be too short to be compressed.
        Verdict::Vary(Skip::NotAccepted) if length.is_some() => Some(TagKind::Compressed),
        // If `gzip.inflate` is on, the kind can also be `Inflated`, so the kind is unknown.
        Verdict::NotModified { weak: true } if !settings.inflate => Some(TagKind::Compressed),
        Verdict::Inflate => Some(TagKind::Inflated),
        Verdict::Vary(Skip::Encoded) if settings.inflate && is_gzip(fields) && !is_fixed(fields) => {
            Some(TagKind::Inflated)
        }
        Verdict::Vary(Skip::Encoded) => Some(TagKind::KeptCoded),
        Verdict::Vary(Skip::TooShort) => Some(TagKind::Kept),
        Verdict::Leave(Skip::Off | Skip::Encoded | Skip::Type | Skip::TooShort | Skip::NoTransform)
            if status == StatusCode::OK =>
        {
            let has_coding = fields.has(&CONTENT_ENCODING);
            Some(if has_coding { TagKind::FixedCoded } else { TagKind::Fixed })
        }
        _ => None,
    }
}
