//! Which answers are compressed or inflated, and what becomes of their header fields: plain functions on a head.

use http::header::Entry;
use http::{HeaderMap, HeaderValue, Method, StatusCode, request, response};

use crate::wire::etag::{self, Listed};
use crate::wire::names::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DIGEST, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_MD5,
    CONTENT_RANGE, CONTENT_TYPE, DIGEST, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE,
    REPR_DIGEST, VARY, X_ACCEL_BUFFERING,
};
use crate::wire::quality::{Coding, gzip_acceptance};
use crate::wire::vary;

/// What `gzip` needs to know.
#[derive(Debug, Clone)]
pub struct GzipSettings {
    /// Off: nothing is compressed or inflated, and no Vary is added.
    pub enabled: bool,
    /// zlib's 1–9.
    pub level: u32,
    /// Shorter bodies are not worth it.
    pub min_bytes: u64,
    /// Whether the origin's gzip is undone for a CDN that does not take it.
    pub inflate: bool,
    /// Media types that compress.
    pub types: TypePatterns,
}

/// Media types, with `*` for any run of characters: 23 of them are looked through in a tenth of the time that globs take.
#[derive(Debug, Clone, Default)]
pub struct TypePatterns {
    /// What stands before, between and after the stars.
    patterns: Vec<Vec<Box<str>>>,
}

impl TypePatterns {
    /// Compiles patterns such as `text/*` and `application/*+json`.
    #[must_use]
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Self {
        let split = |pattern: &str| pattern.to_ascii_lowercase().split('*').map(Box::from).collect();
        Self { patterns: patterns.into_iter().map(split).collect() }
    }

    /// Whether one of them matches `essence`, a type without parameters, in any case of letters.
    #[must_use]
    pub fn is_match(&self, essence: &[u8]) -> bool {
        self.patterns.iter().any(|parts| match parts.as_slice() {
            [] => false,
            [whole] => essence.eq_ignore_ascii_case(whole.as_bytes()),
            [first, middle @ .., last] => {
                let Some((start, mut rest)) = essence.split_at_checked(first.len()) else { return false };
                if !start.eq_ignore_ascii_case(first.as_bytes()) {
                    return false;
                }
                for part in middle {
                    let found = rest.windows(part.len().max(1)).position(|at| at.eq_ignore_ascii_case(part.as_bytes()));
                    match found.or(part.is_empty().then_some(0)) {
                        Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
                        None => return false,
                    }
                }
                rest.len()
                    .checked_sub(last.len())
                    .and_then(|start| rest.get(start..))
                    .is_some_and(|end| end.eq_ignore_ascii_case(last.as_bytes()))
            }
        })
    }
}

/// What of a request matters here.
#[allow(clippy::struct_excessive_bools, reason = "facts that have nothing to do with each other")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// gzip is at least as welcome as the bytes as they are.
    takes_gzip: bool,
    /// A range is counted in identity bytes, so a request for one gets those (complaints about sliced gzip are many).
    range: bool,
    pub(super) is_head: bool,
    /// A bit for each tag that the visitor's If-None-Match names, by form: a cache names every copy that it holds.
    names_weak: u64,
    names_strong: u64,
    /// The path has the extension of a type that is packed already; asked for a 304 that does not give its type.
    packed: bool,
}

impl Asked {
    /// Looks at a request's head.
    #[must_use]
    pub fn of(settings: &GzipSettings, head: &request::Parts) -> Self {
        let headers = &head.headers;
        let mut asked = Self {
            takes_gzip: gzip_acceptance(headers) == Coding::Gzip,
            range: headers.contains_key(RANGE),
            is_head: head.method == Method::HEAD,
            names_weak: 0,
            names_strong: 0,
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

/// Where a tag stands in [`Asked::names_weak`]. Two may share a bit: then the 304 has the form that was asked for.
fn bit(opaque: &[u8]) -> u64 {
    1 << (crc32fast::hash(opaque) % 64)
}

/// Brings a request's head in line with what this layer does to answers.
///
/// The tags that come back are made strong again, since what left as `W/"a"` is `"a"` at the origin, where If-Match compares strongly
/// and some compare texts; but not those that `stays_weak` knows to be weak there. A range that hangs on a weak tag is not asked for:
/// the condition is false by definition (RFC 9110 §13.1.5), and an origin that compared carelessly would continue gzip with identity
/// bytes. Any other range is asked for without gzip, so that all slices are cut from the same bytes.
pub(crate) fn prepare(asked: Asked, headers: &mut HeaderMap, stays_weak: impl Fn(&[u8]) -> bool) {
    for name in [IF_MATCH, IF_NONE_MATCH] {
        if let Entry::Occupied(mut lines) = headers.entry(name) {
            for line in lines.iter_mut() {
                if let Some(strong) = etag::strengthen(line, &stays_weak) {
                    *line = strong;
                }
            }
        }
    }
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

/// Why a body went out as it came: the label `reason` of `edgeshim_gzip_skipped_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// `gzip.enabled` or the class' `gzip` is off.
    Off,
    /// A status whose body is not for keeping.
    Status,
    /// It has a Content-Encoding.
    Encoded,
    /// A part of a body.
    Range,
    /// Its type is not among `gzip.types`, or it has none.
    Type,
    /// Cache-Control: no-transform.
    NoTransform,
    /// Shorter than `gzip.min_bytes`.
    TooShort,
    /// The request does not take gzip.
    NotAccepted,
}

impl Skip {
    /// The labels, in the order of the ids.
    pub const LABELS: [&'static str; 8] =
        ["off", "status", "encoded", "range", "type", "no_transform", "too_short", "not_accepted"];

    /// The same for people.
    #[must_use]
    pub fn explanation(self) -> &'static str {
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
pub enum Verdict {
    /// Nothing: it would never be compressed.
    Leave(Skip),
    /// It goes out as it is, but another request would have got it in another coding: Vary says so.
    Vary(Skip),
    /// A 304: Vary, and the tag in the form that the visitor knows.
    NotModified {
        /// That form is the weak one.
        weak: bool,
    },
    /// Compress it.
    Compress,
    /// Undo the origin's gzip.
    Inflate,
}

/// The verdict on an answer. `length` is its body's, where it is known.
#[must_use]
pub fn decide(settings: &GzipSettings, asked: Asked, head: &response::Parts, length: Option<u64>) -> Verdict {
    let headers = &head.headers;
    if !settings.enabled {
        return Verdict::Leave(Skip::Off);
    }
    if head.status == StatusCode::NOT_MODIFIED {
        return not_modified(settings, asked, headers);
    }
    // A part is never touched, but says what the 200 would about who gets it how (RFC 9110 §15.3.7).
    let part = head.status == StatusCode::PARTIAL_CONTENT;
    let kept = matches!(
        head.status,
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION | StatusCode::NOT_FOUND | StatusCode::GONE
    );
    if !kept && !part {
        return Verdict::Leave(Skip::Status);
    }
    if headers.contains_key(CONTENT_RANGE) && !part {
        return Verdict::Leave(Skip::Range);
    }
    let fixed = headers.get_all(CACHE_CONTROL).iter().any(forbids_transformation);
    if headers.contains_key(CONTENT_ENCODING) {
        return match settings.inflate && !fixed && is_gzip(headers) {
            true if part || asked.takes_gzip => Verdict::Vary(Skip::Encoded),
            true => Verdict::Inflate,
            false => Verdict::Leave(Skip::Encoded),
        };
    }
    if !has_type(settings, headers) {
        return Verdict::Leave(Skip::Type);
    }
    if fixed {
        return Verdict::Leave(Skip::NoTransform);
    }
    if part {
        return Verdict::Vary(Skip::Range);
    }
    // A HEAD's body is empty, but its Content-Length says how long the GET's would be.
    let length = if asked.is_head { content_length(headers) } else { length };
    if length.is_some_and(|length| length < settings.min_bytes) {
        return Verdict::Leave(Skip::TooShort);
    }
    if asked.gzip() { Verdict::Compress } else { Verdict::Vary(Skip::NotAccepted) }
}

/// A 304 carries what the 200 would (RFC 9110 §15.4.5). Many origins leave the type out of it; then the path's extension stands in.
fn not_modified(settings: &GzipSettings, asked: Asked, headers: &HeaderMap) -> Verdict {
    // The cache finds the copy to renew by its tag (RFC 9111 §4.3.4), so it is told the one that it named.
    let named = |names: u64| strong_tag(headers).is_some_and(|tag| names & bit(tag) != 0);
    let (weak, strong) = (named(asked.names_weak), named(asked.names_strong));
    let compressible = if headers.contains_key(CONTENT_TYPE) { has_type(settings, headers) } else { !asked.packed };
    let compressible = compressible && !headers.contains_key(CONTENT_ENCODING);
    let fixed = headers.get_all(CACHE_CONTROL).iter().any(forbids_transformation);
    // What was inflated may have been of any type; that its weak tag is named shows that it was.
    let inflated = settings.inflate && weak && !strong;
    if fixed || !(compressible || inflated) {
        return Verdict::Leave(Skip::Status);
    }
    let weak = if weak == strong { asked.gzip() } else { weak };
    Verdict::NotModified { weak }
}

/// Brings the head in line with the verdict.
pub fn apply(verdict: Verdict, head: &mut response::Parts) {
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
pub fn vary_for_akamai(asked: Asked, head: &mut response::Parts) {
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
    match etag::EntityTag::parse(tag.as_bytes()) {
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
    headers.get(CONTENT_TYPE).is_some_and(|value| essence(value).eq_ignore_ascii_case(b"text/event-stream"))
        || headers.get(&X_ACCEL_BUFFERING).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"no"))
}

/// The opaque part of the one entity tag, if that is strong.
pub(super) fn strong_tag(headers: &HeaderMap) -> Option<&[u8]> {
    let mut tags = headers.get_all(ETAG).iter();
    let (Some(tag), None) = (tags.next(), tags.next()) else { return None };
    etag::EntityTag::parse(tag.as_bytes()).filter(|tag| !tag.weak).map(|tag| tag.opaque)
}

/// The opaque part of a weak entity tag.
pub(super) fn weak_tag(headers: &HeaderMap) -> Option<&[u8]> {
    let tag = headers.get(ETAG)?.as_bytes();
    // Most are strong, and need not be read to their end.
    if !tag.starts_with(b"W") {
        return None;
    }
    etag::EntityTag::parse(tag).map(|tag| tag.opaque)
}

/// Whether an answer is for one visitor or not to be kept: then neither is its twin. `cache_control` has left one canonical line.
pub(super) fn is_private(headers: &HeaderMap) -> bool {
    headers.get_all(CACHE_CONTROL).iter().any(|line| contains(line, b"private") || contains(line, b"no-store"))
}

fn has_type(settings: &GzipSettings, headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| settings.types.is_match(essence(value)))
}

/// A media type without its parameters.
fn essence(value: &HeaderValue) -> &[u8] {
    value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

/// Whether gzip is the one coding.
fn is_gzip(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CONTENT_ENCODING).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let coding = line.as_bytes().trim_ascii();
    coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip")
}

/// Whether a Cache-Control line holds `no-transform` (RFC 9111 §5.2.2.6). `cache_control` has left one canonical line, so the word is
/// looked for as it stands; inside another directive's quotes it forbids as well, which only costs the compression.
fn forbids_transformation(line: &HeaderValue) -> bool {
    contains(line, b"no-transform")
}

fn contains(line: &HeaderValue, word: &[u8]) -> bool {
    line.as_bytes().windows(word.len()).any(|at| at.eq_ignore_ascii_case(word))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> GzipSettings {
        GzipSettings {
            enabled: true,
            level: 4,
            min_bytes: 256,
            inflate: false,
            types: TypePatterns::new(["text/*", "application/json"]),
        }
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        let types = TypePatterns::new(["text/*", "application/*+json", "a*b*c", "*/x"]);
        for (essence, matches) in [
            ("text/html", true),
            ("TEXT/", true),
            ("text", false),
            ("application/problem+JSON", true),
            ("application/json", false),
            ("application/+json", true),
            ("abc", true),
            ("a-b-c", true),
            ("acb", false),
            ("ac", false),
            ("y/x", true),
            ("", false),
        ] {
            assert_eq!(types.is_match(essence.as_bytes()), matches, "{essence}");
        }
        assert!(!TypePatterns::default().is_match(b"text/html"));
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
        Asked::of(&settings(), &request("/", fields))
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
            ("encoded", GZIP, 200, &[HTML, ("content-encoding", "br")], Some(1000), Verdict::Leave(Skip::Encoded)),
            (
                "identity as a coding",
                GZIP,
                200,
                &[HTML, ("content-encoding", "identity")],
                None,
                Verdict::Leave(Skip::Encoded),
            ),
            ("two codings", &[], 200, &[HTML, ("content-encoding", "br, gzip")], None, Verdict::Leave(Skip::Encoded)),
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
            assert_eq!(decide(&settings(), asked(fields), &answer(status, said), length), verdict, "{case}");
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
            ("two codings", none, 200, &[HTML, ("content-encoding", "gzip, gzip")], Verdict::Leave(Skip::Encoded)),
            ("another", none, 200, &[HTML, ("content-encoding", "br")], Verdict::Leave(Skip::Encoded)),
            (
                "no-transform",
                none,
                200,
                &[HTML, ("content-encoding", "gzip"), ("cache-control", "no-transform")],
                Verdict::Leave(Skip::Encoded),
            ),
        ] {
            assert_eq!(decide(&inflate, asked(fields), &answer(status, said), None), verdict, "{case}");
            let off = decide(&settings(), asked(fields), &answer(status, said), None);
            assert_eq!(off, Verdict::Leave(Skip::Encoded), "{case}, off");
        }
    }

    #[test]
    fn the_tag_of_a_304_is_the_one_that_the_visitor_named() {
        let weak = Verdict::NotModified { weak: true };
        let strong = Verdict::NotModified { weak: false };
        let none = Verdict::Leave(Skip::Status);
        for (case, path, fields, said, verdict) in [
            ("ours", "/", &[("accept-encoding", "gzip"), ("if-none-match", "W/\"a\"")][..], &[][..], weak),
            ("ours, asked for without gzip", "/", &[("if-none-match", "W/\"a\"")], &[HTML], weak),
            ("the origin's", "/", &[("if-none-match", "\"a\"")], &[HTML], strong),
            (
                "the origin's, asked for with gzip",
                "/",
                &[("accept-encoding", "gzip"), ("if-none-match", "\"a\"")],
                &[],
                strong,
            ),
            ("both", "/", &[("accept-encoding", "gzip"), ("if-none-match", "\"a\", W/\"a\"")], &[], weak),
            ("both, asked for without gzip", "/", &[("if-none-match", "\"a\", W/\"a\"")], &[], strong),
            ("one of several", "/", &[("if-none-match", "\"b\", W/\"a\"")], &[], weak),
            ("fixed", "/", &[("if-none-match", "W/\"a\"")], &[HTML, ("cache-control", "no-transform")], none),
            ("a date", "/", &[("accept-encoding", "gzip"), ("if-modified-since", "x")], &[], weak),
            ("a style sheet by its name", "/a.css", &[("if-none-match", "\"a\"")], &[], strong),
            ("a name that says nothing", "/a.zzzz", &[("if-none-match", "\"a\"")], &[], strong),
            ("an image by its name", "/a.png", &[("if-none-match", "W/\"a\"")], &[], none),
            ("an image by its type", "/a", &[("if-none-match", "W/\"a\"")], &[("content-type", "image/png")], none),
            ("a page that is called an image", "/a.png", &[("if-none-match", "\"a\"")], &[HTML], strong),
        ] {
            let asked = Asked::of(&settings(), &request(path, fields));
            let said: Vec<_> = said.iter().copied().chain([("etag", "\"a\"")]).collect();
            assert_eq!(decide(&settings(), asked, &answer(304, &said), Some(0)), verdict, "{case}");
        }
    }

    #[test]
    fn the_304_of_what_was_inflated_says_what_the_200_said() {
        let inflate = GzipSettings { inflate: true, ..settings() };
        let of = |known, said: &[(&str, &str)]| {
            let said: Vec<_> = said.iter().copied().chain([("etag", "\"a\"")]).collect();
            decide(&inflate, asked(known), &answer(304, &said), Some(0))
        };
        let weak: Fields = &[("if-none-match", "W/\"a\"")];
        let strong: Fields = &[("if-none-match", "\"a\"")];
        for said in [("content-type", "font/ttf"), ("content-encoding", "gzip")] {
            assert_eq!(of(weak, &[said]), Verdict::NotModified { weak: true }, "{said:?}");
            assert_eq!(of(strong, &[said]), Verdict::Leave(Skip::Status), "{said:?}");
            assert_eq!(of(weak, &[said, ("cache-control", "no-transform")]), Verdict::Leave(Skip::Status), "{said:?}");
        }
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

    #[test]
    fn a_request_when_prepared_then_asks_the_origin_for_what_it_has() {
        let prepared = |fields: Fields| {
            let mut head = request("/", fields);
            prepare(Asked::of(&settings(), &head), &mut head.headers, |opaque| opaque == b"known");
            let field =
                |(name, value): (&http::HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
            head.headers.iter().map(field).collect::<Vec<_>>()
        };
        assert_eq!(prepared(&[("if-none-match", "W/\"a\", W/\"known\"")]), ["if-none-match: \"a\", W/\"known\""]);
        assert_eq!(prepared(&[("if-match", "W/\"a\"")]), ["if-match: \"a\""]);
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
