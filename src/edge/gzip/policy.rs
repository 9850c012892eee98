//! Which answers are compressed or inflated, and what becomes of their header fields: plain functions on a head.

use http::header::Entry;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request, response};

use super::tags::Kind;
use crate::cdn::dialect::Dialect;
use crate::ids::label;
use crate::keys::grammar::MEDIA_TYPE;
use crate::keys::quantities::SIZE;
use crate::keys::{Keys, Visitor};
use crate::wire::etag::{self, EntityTag, Listed};
use crate::wire::media_types::{MediaTypes, essence};
use crate::wire::names::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DIGEST, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_MD5,
    CONTENT_RANGE, CONTENT_TYPE, DIGEST, ETAG, HOST, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE,
    REPR_DIGEST, VARY, X_ACCEL_BUFFERING,
};
use crate::wire::quality::{Coding, gzip_acceptance};
use crate::wire::values::content_length;
use crate::wire::vary;

/// `[gzip]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GzipSettings {
    /// Off: nothing is compressed or inflated, and no Vary is added.
    pub enabled: bool,
    /// zlib's 1–9.
    pub level: u32,
    /// Shorter bodies are not worth it.
    pub min_bytes: u64,
    /// The size of the store of compressed twins, in bytes; 0 = none is stored.
    pub twins_bytes: u64,
    /// Whether the origin's gzip is undone for a CDN that does not take it.
    pub inflate: bool,
    /// Media types that compress.
    pub types: MediaTypes,
}

/// The types that compress and that browsers and CDNs request. Images, audio, video and woff are compressed already.
const TYPES: [&str; 23] = [
    "text/*",
    "application/json",
    "application/*+json",
    "application/javascript",
    "application/x-javascript",
    "application/ecmascript",
    "application/xml",
    "application/*+xml",
    "application/graphql",
    "application/manifest+json",
    "application/x-ndjson",
    "application/wasm",
    "application/vnd.ms-fontobject",
    "application/vnd.apple.mpegurl",
    "application/x-mpegurl",
    "application/x-font-ttf",
    "font/ttf",
    "font/otf",
    "font/collection",
    "image/svg+xml",
    "image/x-icon",
    "image/vnd.microsoft.icon",
    "image/bmp",
];

impl Default for GzipSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            level: 4,
            min_bytes: 256,
            twins_bytes: 64 * 1024 * 1024,
            inflate: false,
            types: MediaTypes::new(TYPES),
        }
    }
}

impl Keys for GzipSettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.flag("enabled", &mut self.enabled);
        v.integer("level", 1..=9, &mut self.level);
        v.integer("min_bytes", 0..=1024 * 1024 * 1024, &mut self.min_bytes);
        v.text("twins", &SIZE, &mut self.twins_bytes);
        v.flag("inflate", &mut self.inflate);
        let mut types = self.types.texts();
        v.list("types", &MEDIA_TYPE, &mut types);
        self.types = MediaTypes::new(types.iter().map(String::as_str));
    }
}

/// What of a request matters here.
#[allow(clippy::struct_excessive_bools, reason = "facts that have nothing to do with each other")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// gzip is at least as welcome as the bytes as they are.
    takes_gzip: bool,
    /// A range is counted in identity bytes, so a request for one gets those (complaints about sliced gzip are many).
    range: bool,
    pub(super) is_head: bool,
    /// A bit for each tag that the client's If-None-Match names, by form: a cache names every copy that it has stored.
    names_weak: u64,
    names_strong: u64,
    /// A checksum of host and target: tags are remembered by it, since some sites give one tag to all that they have.
    pub(super) target: u32,
    /// The 304 repeats the form that was named. Akamai's identity copy has no Vary, so that clients that take gzip revalidate it.
    by_name: bool,
    /// The path has the extension of a type that is packed already; asked for a 304 that does not give its type.
    packed: bool,
}

impl Asked {
    /// Looks at a request's head.
    pub(crate) fn of(settings: &GzipSettings, head: &request::Parts, dialect: Dialect) -> Self {
        let headers = &head.headers;
        let mut asked = Self {
            takes_gzip: gzip_acceptance(headers) == Coding::Gzip,
            range: headers.contains_key(RANGE),
            is_head: head.method == Method::HEAD,
            names_weak: 0,
            names_strong: 0,
            target: target(head),
            by_name: dialect == Dialect::Akamai,
            packed: false,
        };
        if headers.contains_key(IF_NONE_MATCH) {
            for listed in etag::listed(headers, &IF_NONE_MATCH) {
                if let Listed::Tag(tag) = listed {
                    let names = if tag.weak { &mut asked.names_weak } else { &mut asked.names_strong };
                    *names |= bit(tag.opaque);
                }
            }
        } else if !headers.contains_key(IF_MODIFIED_SINCE) {
            return asked;
        }
        let guess = mime_guess::from_path(head.uri.path()).iter_raw().next();
        asked.packed = guess.is_some_and(|essence| !settings.types.is_match(essence.as_bytes()));
        asked
    }

    /// Whether gzip is what it gets.
    pub(super) fn gzip(self) -> bool {
        self.takes_gzip && !self.range
    }
}

fn target(head: &request::Parts) -> u32 {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(head.headers.get(HOST).map_or(&[], HeaderValue::as_bytes));
    checksum.update(head.uri.path_and_query().map_or("/", PathAndQuery::as_str).as_bytes());
    checksum.finalize()
}

/// Where a tag stands in [`Asked::names_weak`]. Two may share a bit: then the 304 has the form that was asked for.
fn bit(opaque: &[u8]) -> u64 {
    1 << (crc32fast::hash(opaque) % 64)
}

/// Brings a request's head in line with what this layer does to responses.
///
/// A tag that left as `W/"a"` and is `"a"` at the origin comes back weak, and the origin may compare texts. So it is made strong again:
///
/// - in If-None-Match only if `kind` says that the origin sends it strong. Where nothing is known, the first time after a start, it stays
///   as it came. nginx, Apache, Express and Tomcat compare weakly, as RFC 9110 §13.1.2 wants, so both forms match there. Rails and Rack make
///   weak tags by default, and `Rack::ConditionalGet` compares the whole line as one text: for it `W/"a"` must stay, and a list of both
///   forms would never match. A tag that Rails or Sinatra were told to make strong costs one 200 after a start;
/// - in If-Match unless `kind` says that the origin sends it weak: a weak tag never matches there (RFC 9110 §13.1.1).
///
/// A range that hangs on a weak tag is not asked for: the condition is false by definition (RFC 9110 §13.1.5), and an origin that compared
/// carelessly would continue gzip with identity bytes. Any other range is asked for without gzip, so that all parts are cut from the same
/// bytes.
pub(crate) fn prepare(asked: Asked, headers: &mut HeaderMap, kind: impl Fn(&[u8]) -> Option<Kind>) {
    strengthen(headers, IF_NONE_MATCH, |opaque| kind(opaque).is_none_or(|kind| kind == Kind::Weak));
    strengthen(headers, IF_MATCH, |opaque| kind(opaque) == Some(Kind::Weak));
    if asked.range {
        if headers.get(IF_RANGE).is_some_and(|tag| tag.as_bytes().starts_with(b"W/")) {
            headers.remove(RANGE);
            headers.remove(IF_RANGE);
        }
        if asked.takes_gzip {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
    }
}

/// Makes the tags of a field strong, but for those that `stays_weak`.
fn strengthen(headers: &mut HeaderMap, name: HeaderName, stays_weak: impl Fn(&[u8]) -> bool) {
    if let Entry::Occupied(mut lines) = headers.entry(name) {
        for line in lines.iter_mut() {
            if let Some(strong) = etag::strengthen(line, &stays_weak) {
                *line = strong;
            }
        }
    }
}

label! {
    /// Why a body is not compressed: the label `reason` of `edgeshim_gzip_skipped_total`.
    pub(crate) enum Skip {
        /// `gzip.enabled` or the class' `gzip` is off.
        Off = "off",
        /// A status whose body is not for keeping.
        Status = "status",
        /// It has a Content-Encoding.
        Encoded = "encoded",
        /// A part of a body.
        Range = "range",
        /// Its type is not among `gzip.types`, or it has none.
        Type = "type",
        /// Cache-Control: no-transform.
        NoTransform = "no_transform",
        /// Shorter than `gzip.min_bytes`.
        TooShort = "too_short",
        /// The request does not take gzip.
        NotAccepted = "not_accepted",
    }
}

impl Skip {
    /// The same for people.
    pub(crate) fn explanation(self) -> &'static str {
        match self {
            Self::Off => "gzip is off here",
            Self::Status => "a status whose body is never compressed",
            Self::Encoded => "the origin has encoded it already",
            Self::Range => "a part of a body",
            Self::Type => "its type is not in gzip.types",
            Self::NoTransform => "Cache-Control says no-transform",
            Self::TooShort => "shorter than gzip.min_bytes",
            Self::NotAccepted => "this request does not ask for gzip",
        }
    }
}

/// What to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing: it would never be compressed.
    Leave(Skip),
    /// It goes out as it is, but another request would have got it in another coding: Vary says so.
    Vary(Skip),
    /// A 304: Vary, and the tag in the form that the 200 would have.
    NotModified {
        /// That form is the weak one.
        weak: bool,
    },
    /// Compress it.
    Compress,
    /// Undo the origin's gzip.
    Inflate,
}

/// The verdict on a response. `length` is its body's, where it is known; `known` is what a 304's tag stands for, where that is remembered.
pub(crate) fn decide(
    settings: &GzipSettings,
    asked: Asked,
    head: &response::Parts,
    length: Option<u64>,
    known: Option<Kind>,
) -> Verdict {
    let headers = &head.headers;
    if !settings.enabled {
        return Verdict::Leave(Skip::Off);
    }
    if head.status == StatusCode::NOT_MODIFIED {
        return not_modified(settings, asked, headers, known);
    }
    // A part is never touched, but says what the 200 would about who gets it how (RFC 9110 §15.3.7).
    let part = head.status == StatusCode::PARTIAL_CONTENT;
    let kept = matches!(
        head.status,
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION | StatusCode::NOT_FOUND | StatusCode::GONE
    );
    let skip = if !kept && !part {
        Some(Skip::Status)
    } else if headers.contains_key(CONTENT_RANGE) && !part {
        Some(Skip::Range)
    } else {
        None
    };
    if headers.contains_key(CONTENT_ENCODING) {
        if skip.is_none() && settings.inflate && !is_fixed(headers) && is_gzip(headers) {
            return if part || asked.takes_gzip { Verdict::Vary(Skip::Encoded) } else { Verdict::Inflate };
        }
        let skip = skip.unwrap_or(Skip::Encoded);
        // Whatever else holds it back, a cache must not hand the origin's coding to clients that cannot read it.
        return if has_type(settings, headers) { Verdict::Vary(skip) } else { Verdict::Leave(skip) };
    }
    if let Some(skip) = skip {
        return Verdict::Leave(skip);
    }
    if !has_type(settings, headers) {
        return Verdict::Leave(Skip::Type);
    }
    if is_fixed(headers) {
        return Verdict::Leave(Skip::NoTransform);
    }
    if part {
        return Verdict::Vary(Skip::Range);
    }
    // A HEAD's body is empty, but its Content-Length says how long the GET's would be.
    let length = if asked.is_head { content_length(headers).unwrap_or_default() } else { length };
    if length.is_some_and(|length| length < settings.min_bytes) {
        return Verdict::Leave(Skip::TooShort);
    }
    if asked.gzip() { Verdict::Compress } else { Verdict::Vary(Skip::NotAccepted) }
}

/// A 304 carries what the 200 to the same request without its conditions and its range would (RFC 9110 §14.2, §15.4.5), the tag above
/// all: a cache puts it on the copy that it renews, and some find that copy by Accept-Encoding and not by the tag that they named.
///
/// What is remembered of the tag tells that. Where nothing is, the head of the 304 does, or else the path's extension: many origins leave
/// type and coding out of a 304.
fn not_modified(settings: &GzipSettings, asked: Asked, headers: &HeaderMap, known: Option<Kind>) -> Verdict {
    let names = |names: u64| tag(headers).is_some_and(|tag| names & bit(tag.opaque) != 0);
    let (named_weak, named_strong) = (names(asked.names_weak), names(asked.names_strong));
    let weak = match known {
        Some(Kind::Fixed) => return Verdict::Leave(Skip::Status),
        Some(Kind::Kept) => return Verdict::NotModified { weak: false },
        Some(Kind::Inflated) => !asked.takes_gzip,
        Some(Kind::Mixed) if named_weak != named_strong => named_weak,
        Some(Kind::Compressed | Kind::Mixed) => asked.takes_gzip,
        Some(Kind::Weak) | None => {
            // What was inflated may have been of any type; that its weak tag alone is named shows that it was.
            let inflated = settings.inflate && named_weak && !named_strong;
            let says_type = headers.contains_key(CONTENT_TYPE);
            let compressible = if says_type { has_type(settings, headers) } else { !asked.packed };
            let has_coding = headers.contains_key(CONTENT_ENCODING);
            let fixed = is_fixed(headers);
            if !(compressible || inflated) || (fixed && !has_coding) || (fixed && inflated) {
                return Verdict::Leave(Skip::Status);
            }
            if has_coding && !inflated {
                return Verdict::NotModified { weak: false };
            }
            asked.takes_gzip || inflated
        }
    };
    let weak = if asked.by_name && named_weak != named_strong { named_weak } else { weak };
    Verdict::NotModified { weak }
}

/// What a response's tag stands for, as far as its verdict tells.
pub(super) fn kind(
    settings: &GzipSettings,
    verdict: Verdict,
    tag: EntityTag<'_>,
    head: &response::Parts,
) -> Option<Kind> {
    if tag.weak {
        return Some(Kind::Weak);
    }
    let headers = &head.headers;
    match verdict {
        Verdict::Compress => Some(Kind::Compressed),
        // With `inflate` on it may have been either.
        Verdict::NotModified { weak: true } if !settings.inflate => Some(Kind::Compressed),
        Verdict::Inflate => Some(Kind::Inflated),
        Verdict::Vary(Skip::Encoded) if settings.inflate && is_gzip(headers) && !is_fixed(headers) => {
            Some(Kind::Inflated)
        }
        Verdict::Vary(Skip::Encoded | Skip::TooShort) => Some(Kind::Kept),
        Verdict::Leave(Skip::Off | Skip::Encoded | Skip::Type | Skip::TooShort | Skip::NoTransform)
            if head.status == StatusCode::OK =>
        {
            Some(Kind::Fixed)
        }
        _ => None,
    }
}

/// Brings the head in line with the verdict.
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

/// Takes `Vary: Accept-Encoding` off an answer to Akamai that has no coding: it keeps nothing that varies but gzip and br, and bytes as
/// they are suit whoever asks.
///
/// Any other Vary stays, and so does this one on a body of another coding: then nothing is kept, which is right. A 304 speaks for what
/// is stored, which under a strong tag are the bytes as they are.
pub(crate) fn vary_for_akamai(asked: Asked, head: &mut response::Parts) {
    let headers = &mut head.headers;
    if !vary::is_only(headers, ACCEPT_ENCODING.as_str()) || headers.contains_key(CONTENT_ENCODING) {
        return;
    }
    if head.status == StatusCode::NOT_MODIFIED {
        let coded = if headers.contains_key(ETAG) { strong_tag(headers).is_none() } else { asked.gzip() };
        if coded {
            return;
        }
    }
    headers.remove(VARY);
}

/// Takes away the digests of bytes that are others now, from a head or from trailers; Repr-Digest counts the coding in (RFC 9530 §3).
pub(super) fn remove_digests(headers: &mut HeaderMap) {
    for name in [&CONTENT_MD5, &DIGEST, &CONTENT_DIGEST, &REPR_DIGEST] {
        headers.remove(name);
    }
}

/// A tag that cannot be made weak is taken away, since two codings must not share it.
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

/// Whether each piece of the body has to go out at once: events, or the origin says so.
pub(super) fn is_unbuffered(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| essence(value.as_bytes()).eq_ignore_ascii_case(b"text/event-stream"))
        || headers.get(&X_ACCEL_BUFFERING).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"no"))
}

/// The one entity tag, if it is well formed.
pub(super) fn tag(headers: &HeaderMap) -> Option<EntityTag<'_>> {
    let mut tags = headers.get_all(ETAG).iter();
    let (Some(tag), None) = (tags.next(), tags.next()) else { return None };
    EntityTag::parse(tag.as_bytes())
}

/// The opaque part of the one entity tag, if that is strong.
pub(super) fn strong_tag(headers: &HeaderMap) -> Option<&[u8]> {
    tag(headers).filter(|tag| !tag.weak).map(|tag| tag.opaque)
}

/// Whether an answer is for one visitor or not to be kept: then neither is its twin. `cache_control` has left one canonical line.
pub(super) fn is_private(headers: &HeaderMap) -> bool {
    headers.get_all(CACHE_CONTROL).iter().any(|line| contains(line, b"private") || contains(line, b"no-store"))
}

fn has_type(settings: &GzipSettings, headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| settings.types.is_match(essence(value.as_bytes())))
}

/// Whether gzip is the one coding.
fn is_gzip(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CONTENT_ENCODING).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let coding = line.as_bytes().trim_ascii();
    coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip")
}

/// Whether nothing may be transformed.
fn is_fixed(headers: &HeaderMap) -> bool {
    headers.get_all(CACHE_CONTROL).iter().any(forbids_transformation)
}

/// Whether a Cache-Control line holds `no-transform` (RFC 9111 §5.2.2.6). `cache_control` has left one canonical line, so the word is
/// looked for as it stands; inside another directive's quotes it forbids as well, which only costs the compression.
fn forbids_transformation(line: &HeaderValue) -> bool {
    contains(line, b"no-transform")
}

fn contains(line: &HeaderValue, word: &[u8]) -> bool {
    line.as_bytes().windows(word.len()).any(|at| at.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> GzipSettings {
        GzipSettings { types: MediaTypes::new(["text/*", "application/json"]), ..GzipSettings::default() }
    }

    type Fields = &'static [(&'static str, &'static str)];

    fn request(path: &str, fields: Fields) -> request::Parts {
        let mut builder = http::Request::builder().uri(path);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn asked(fields: Fields) -> Asked {
        Asked::of(&settings(), &request("/", fields), Dialect::Generic)
    }

    fn answer(status: u16, fields: &[(&str, &str)]) -> response::Parts {
        let mut builder = http::Response::builder().status(status);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    const GZIP: Fields = &[("accept-encoding", "gzip")];
    const HTML: (&str, &str) = ("content-type", "text/html; charset=utf-8");

    #[test]
    fn the_verdict_on_a_body_follows_the_table() {
        for (case, fields, status, said, length, verdict) in [
            ("plain case", GZIP, 200, &[HTML][..], Some(1000), Verdict::Compress),
            ("as long as min_bytes", GZIP, 200, &[HTML], Some(256), Verdict::Compress),
            ("too short", GZIP, 200, &[HTML], Some(255), Verdict::Leave(Skip::TooShort)),
            ("unknown length", GZIP, 200, &[HTML], None, Verdict::Compress),
            ("type in capitals", GZIP, 200, &[("content-type", "TEXT/HTML")], Some(1000), Verdict::Compress),
            ("not asked for", &[], 200, &[HTML], Some(1000), Verdict::Vary(Skip::NotAccepted)),
            ("refused", &[("accept-encoding", "gzip;q=0")], 200, &[HTML], None, Verdict::Vary(Skip::NotAccepted)),
            (
                "only identity refused",
                &[("accept-encoding", "identity;q=0")],
                200,
                &[HTML],
                None,
                Verdict::Vary(Skip::NotAccepted),
            ),
            ("anything but identity", &[("accept-encoding", "*, identity;q=0")], 200, &[HTML], None, Verdict::Compress),
            ("by Via", &[("accept-encoding", "gzip"), ("via", "1.1 x")], 200, &[HTML], Some(1000), Verdict::Compress),
            (
                "range asked, whole given",
                &[("accept-encoding", "gzip"), ("range", "bytes=0-9")],
                200,
                &[HTML],
                Some(1000),
                Verdict::Vary(Skip::NotAccepted),
            ),
            ("203", GZIP, 203, &[HTML], None, Verdict::Compress),
            ("404", GZIP, 404, &[HTML], Some(1000), Verdict::Compress),
            ("410", GZIP, 410, &[HTML], None, Verdict::Compress),
            ("201", GZIP, 201, &[HTML], None, Verdict::Leave(Skip::Status)),
            ("500", GZIP, 500, &[HTML], Some(1000), Verdict::Leave(Skip::Status)),
            ("206", GZIP, 206, &[HTML, ("content-range", "bytes 0-9/100")], Some(10), Verdict::Vary(Skip::Range)),
            ("206 of an image", GZIP, 206, &[("content-type", "image/png")], Some(10), Verdict::Leave(Skip::Type)),
            (
                "200 with a range",
                GZIP,
                200,
                &[HTML, ("content-range", "bytes 0-9/10")],
                None,
                Verdict::Leave(Skip::Range),
            ),
            ("encoded", GZIP, 200, &[HTML, ("content-encoding", "br")], Some(1000), Verdict::Vary(Skip::Encoded)),
            (
                "encoded, not asked for",
                &[],
                200,
                &[HTML, ("content-encoding", "br")],
                None,
                Verdict::Vary(Skip::Encoded),
            ),
            ("encoded, short", GZIP, 200, &[HTML, ("content-encoding", "br")], Some(9), Verdict::Vary(Skip::Encoded)),
            (
                "encoded and fixed",
                GZIP,
                200,
                &[HTML, ("content-encoding", "gzip"), ("cache-control", "no-transform")],
                None,
                Verdict::Vary(Skip::Encoded),
            ),
            ("an encoded 206", GZIP, 206, &[HTML, ("content-encoding", "br")], Some(10), Verdict::Vary(Skip::Encoded)),
            ("an encoded 301", GZIP, 301, &[HTML, ("content-encoding", "br")], None, Verdict::Vary(Skip::Status)),
            (
                "an encoded image",
                GZIP,
                200,
                &[("content-type", "image/png"), ("content-encoding", "br")],
                None,
                Verdict::Leave(Skip::Encoded),
            ),
            (
                "identity as a coding",
                GZIP,
                200,
                &[HTML, ("content-encoding", "identity")],
                None,
                Verdict::Vary(Skip::Encoded),
            ),
            ("two codings", &[], 200, &[HTML, ("content-encoding", "br, gzip")], None, Verdict::Vary(Skip::Encoded)),
            (
                "no-transform",
                GZIP,
                200,
                &[HTML, ("cache-control", "max-age=1, No-Transform")],
                Some(1000),
                Verdict::Leave(Skip::NoTransform),
            ),
            ("image", GZIP, 200, &[("content-type", "image/png")], Some(1000), Verdict::Leave(Skip::Type)),
            ("no type", GZIP, 200, &[], Some(1000), Verdict::Leave(Skip::Type)),
            ("broken tag", GZIP, 200, &[HTML, ("etag", "abc")], Some(1000), Verdict::Compress),
        ] {
            assert_eq!(decide(&settings(), asked(fields), &answer(status, said), length, None), verdict, "{case}");
        }
    }

    #[test]
    fn the_origins_gzip_is_undone_only_where_wished_and_needed() {
        let inflate = GzipSettings { inflate: true, ..settings() };
        let none: Fields = &[];
        for (case, fields, status, said, verdict) in [
            ("not taken", none, 200, &[HTML, ("content-encoding", "gzip")][..], Verdict::Inflate),
            ("an old name", none, 200, &[HTML, ("content-encoding", "X-GZIP")], Verdict::Inflate),
            ("of any type", none, 404, &[("content-encoding", "gzip")], Verdict::Inflate),
            ("taken", GZIP, 200, &[HTML, ("content-encoding", "gzip")], Verdict::Vary(Skip::Encoded)),
            (
                "taken, and a range asked",
                &[("accept-encoding", "gzip"), ("range", "bytes=0-9")],
                200,
                &[HTML, ("content-encoding", "gzip")],
                Verdict::Vary(Skip::Encoded),
            ),
            ("a part", none, 206, &[HTML, ("content-encoding", "gzip")], Verdict::Vary(Skip::Encoded)),
            ("two codings", none, 200, &[HTML, ("content-encoding", "gzip, gzip")], Verdict::Vary(Skip::Encoded)),
            ("another", none, 200, &[HTML, ("content-encoding", "br")], Verdict::Vary(Skip::Encoded)),
            (
                "no-transform",
                none,
                200,
                &[HTML, ("content-encoding", "gzip"), ("cache-control", "no-transform")],
                Verdict::Vary(Skip::Encoded),
            ),
        ] {
            assert_eq!(decide(&inflate, asked(fields), &answer(status, said), None, None), verdict, "{case}");
            let off = decide(&settings(), asked(fields), &answer(status, said), None, None);
            let typed = said.contains(&HTML);
            let wanted = if typed { Verdict::Vary(Skip::Encoded) } else { Verdict::Leave(Skip::Encoded) };
            assert_eq!(off, wanted, "{case}, off");
        }
    }

    /// A 304 with `"a"` to a request for `path`.
    fn renewed(
        settings: &GzipSettings,
        path: &str,
        fields: &[(&str, &str)],
        dialect: Dialect,
        said: &[(&str, &str)],
        known: Option<Kind>,
    ) -> Verdict {
        let mut builder = http::Request::builder().uri(path);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        let asked = Asked::of(settings, &builder.body(()).unwrap().into_parts().0, dialect);
        let said: Vec<_> = said.iter().copied().chain([("etag", "\"a\"")]).collect();
        decide(settings, asked, &answer(304, &said), Some(0), known)
    }

    #[test]
    fn tag_of_a_304_when_asked_for_then_that_of_the_200_whatever_form_was_named() {
        let codings: [(&[(&str, &str)], bool); 5] = [
            (&[], false),
            (&[("accept-encoding", "gzip")], true),
            (&[("accept-encoding", "br, gzip;q=.5")], true),
            (&[("accept-encoding", "gzip;q=0")], false),
            (&[("accept-encoding", "identity")], false),
        ];
        let strong: (&str, &str) = ("if-none-match", "\"a\"");
        let weak = ("if-none-match", "W/\"a\"");
        let both = ("if-none-match", "\"a\", W/\"a\"");
        let date = ("if-modified-since", "Sat, 28 Nov 2026 00:00:00 GMT");
        for (coding, takes_gzip) in codings {
            for (named, akamai) in [(strong, Some(false)), (weak, Some(true)), (both, None), (date, None)] {
                for range in [None, Some(("range", "bytes=0-9"))] {
                    for said in [&[][..], &[HTML]] {
                        let fields: Vec<_> = coding.iter().copied().chain([named]).chain(range).collect();
                        for dialect in [Dialect::Generic, Dialect::Fastly, Dialect::Cloudflare, Dialect::Akamai] {
                            let named = if dialect == Dialect::Akamai { akamai } else { None };
                            let weak = named.unwrap_or(takes_gzip);
                            let verdict = renewed(&settings(), "/a.css", &fields, dialect, said, None);
                            assert_eq!(verdict, Verdict::NotModified { weak }, "{dialect:?} {fields:?} {said:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn tag_of_a_304_when_the_200_is_not_compressed_here_then_stays() {
        let none = Verdict::Leave(Skip::Status);
        let strong = Verdict::NotModified { weak: false };
        let weak = Verdict::NotModified { weak: true };
        let fields = &[("accept-encoding", "gzip"), ("if-none-match", "\"a\"")];
        for (case, path, said, known, verdict) in [
            ("no-transform", "/", &[HTML, ("cache-control", "no-transform")][..], None, none),
            ("an image by its name", "/a.png", &[], None, none),
            ("an image by its type", "/a", &[("content-type", "image/png")], None, none),
            ("a page that is called an image", "/a.png", &[HTML], None, weak),
            ("a name that says nothing", "/a.zzzz", &[], None, weak),
            ("the origin's coding", "/a", &[("content-encoding", "br")], None, strong),
            ("the origin's coding, remembered", "/a", &[], Some(Kind::Kept), strong),
            ("left alone, remembered", "/a", &[], Some(Kind::Fixed), none),
            ("compressed, remembered", "/a", &[], Some(Kind::Compressed), weak),
        ] {
            assert_eq!(renewed(&settings(), path, fields, Dialect::Generic, said, known), verdict, "{case}");
        }
    }

    #[test]
    fn tag_of_a_304_when_the_200_was_inflated_then_that_of_the_200() {
        let inflate = GzipSettings { inflate: true, ..settings() };
        let of = |fields: Fields, said: &[(&str, &str)], known| {
            renewed(&inflate, "/a.ttf", fields, Dialect::Generic, said, known)
        };
        let weak: Fields = &[("if-none-match", "W/\"a\"")];
        let strong: Fields = &[("if-none-match", "\"a\"")];
        for said in [("content-type", "font/ttf"), ("content-encoding", "gzip")] {
            assert_eq!(of(weak, &[said], None), Verdict::NotModified { weak: true }, "{said:?}");
            assert_eq!(of(strong, &[said], None), Verdict::Leave(Skip::Status), "{said:?}");
            assert_eq!(of(weak, &[said, ("cache-control", "no-transform")], None), Verdict::Leave(Skip::Status));
        }
        // The origin's gzip goes on under the strong tag, so that the inflated copy may never have it.
        for fields in [weak, strong] {
            assert_eq!(of(fields, &[], Some(Kind::Inflated)), Verdict::NotModified { weak: true }, "{fields:?}");
        }
        let gzip: Fields = &[("accept-encoding", "gzip"), ("if-none-match", "W/\"a\"")];
        assert_eq!(of(gzip, &[], Some(Kind::Inflated)), Verdict::NotModified { weak: false });
    }

    #[test]
    fn a_compressed_head_says_nothing_false() {
        let said = [
            ("content-type", "text/html"),
            ("content-length", "1000"),
            ("accept-ranges", "bytes"),
            ("etag", "\"a\""),
            ("content-md5", "x"),
            ("digest", "x"),
            ("repr-digest", "x"),
            ("content-digest", "x"),
            ("vary", "Origin"),
        ];
        let mut head = answer(200, &said);
        apply(Verdict::Compress, &mut head);
        let mut fields: Vec<_> =
            head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        fields.sort_unstable();
        let (kind, vary) = (said[0], ("vary", "Origin, Accept-Encoding"));
        assert_eq!(fields, [("content-encoding", "gzip"), kind, ("etag", "W/\"a\""), vary]);
        let mut head = answer(200, &[&said[..], &[("content-encoding", "gzip")]].concat());
        apply(Verdict::Inflate, &mut head);
        assert_eq!(head.headers.len(), 3, "{:?}", head.headers);
        assert_eq!(head.headers[ETAG], "W/\"a\"");
    }

    #[test]
    fn akamai_gets_vary_only_where_it_would_keep_the_answer() {
        const VARY: (&str, &str) = ("vary", "Accept-Encoding");
        let none: Fields = &[];
        for (case, fields, status, said, stays) in [
            ("identity", GZIP, 200, &[HTML, VARY][..], false),
            ("identity, two lines", GZIP, 200, &[VARY, ("vary", "accept-encoding")], false),
            ("gzip", GZIP, 200, &[VARY, ("content-encoding", "gzip")], true),
            ("br", GZIP, 200, &[VARY, ("content-encoding", "br")], true),
            ("another coding, which it must not keep", GZIP, 200, &[VARY, ("content-encoding", "zstd")], true),
            ("another Vary", GZIP, 200, &[("vary", "Accept-Encoding, Origin")], true),
            ("another line of Vary", GZIP, 200, &[VARY, ("vary", "Cookie")], true),
            ("star", GZIP, 200, &[("vary", "*")], true),
            ("a part", none, 206, &[VARY], false),
            ("a redirect", none, 301, &[VARY], false),
            ("304 for identity", GZIP, 304, &[VARY, ("etag", "\"a\"")], false),
            ("304 for gzip", none, 304, &[VARY, ("etag", "W/\"a\"")], true),
            ("304 by date, gzip asked for", GZIP, 304, &[VARY], true),
            ("304 by date", none, 304, &[VARY], false),
            ("304 with another Vary", none, 304, &[("vary", "Origin"), ("etag", "\"a\"")], true),
        ] {
            let mut head = answer(status, said);
            let before = head.headers.clone();
            vary_for_akamai(asked(fields), &mut head);
            assert_eq!(head.headers == before, stays, "{case}: {:?}", head.headers);
            assert_eq!(head.headers.contains_key(super::VARY), stays, "{case}");
        }
    }

    #[test]
    fn a_tag_when_it_cannot_be_made_weak_then_is_not_shared() {
        for tags in [&["abc"][..], &["\"a\"", "\"b\""], &["\"a"], &["w/\"a\""], &[""]] {
            let fields: Vec<_> = tags.iter().map(|tag| ("etag", *tag)).chain([HTML]).collect();
            let mut head = answer(200, &fields);
            apply(Verdict::Compress, &mut head);
            assert!(!head.headers.contains_key(ETAG), "{tags:?}: {:?}", head.headers);
        }
        let mut head = answer(200, &[("etag", "W/\"a\""), HTML]);
        apply(Verdict::Compress, &mut head);
        assert_eq!(head.headers[ETAG], "W/\"a\"");
    }

    /// Weak tags of every kind.
    const TAGS: &str = "W/\"ours\", W/\"weak\", W/\"new\", W/\"undone\", W/\"kept\"";

    #[test]
    fn a_request_when_prepared_then_asks_the_origin_for_what_it_has() {
        let prepared = |fields: Fields| {
            let mut head = request("/", fields);
            let asked = Asked::of(&settings(), &head, Dialect::Generic);
            prepare(asked, &mut head.headers, |opaque| match opaque {
                b"ours" => Some(Kind::Compressed),
                b"undone" => Some(Kind::Inflated),
                b"weak" => Some(Kind::Weak),
                b"kept" => Some(Kind::Kept),
                _ => None,
            });
            let field =
                |(name, value): (&http::HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
            head.headers.iter().map(field).collect::<Vec<_>>()
        };
        assert_eq!(
            prepared(&[("if-none-match", TAGS), ("if-match", TAGS)]),
            [
                "if-none-match: \"ours\", W/\"weak\", W/\"new\", \"undone\", \"kept\"",
                "if-match: \"ours\", W/\"weak\", \"new\", \"undone\", \"kept\"",
            ]
        );
        assert_eq!(prepared(&[("if-none-match", "W/\"new\"")]), ["if-none-match: W/\"new\""]);
        assert_eq!(prepared(&[("range", "bytes=0-1"), ("if-range", "\"a\"")]).len(), 2);
        assert!(prepared(&[("range", "bytes=0-1"), ("if-range", "W/\"a\"")]).is_empty());
        assert_eq!(
            prepared(&[("range", "bytes=0-1"), ("accept-encoding", "gzip, br")]),
            ["range: bytes=0-1", "accept-encoding: identity"]
        );
        let untouched: Fields = &[("range", "bytes=0-1"), ("accept-encoding", "br")];
        assert_eq!(prepared(untouched).len(), 2);
    }
}
