//! Which answers are compressed, and what becomes of their header fields: plain functions on a head.

use http::header::Entry;
use http::{HeaderMap, HeaderValue, Method, StatusCode, request, response};

use crate::wire::names::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DIGEST, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_MD5, CONTENT_RANGE,
    CONTENT_TYPE, DIGEST, ETAG, IF_MATCH, IF_NONE_MATCH, RANGE, REPR_DIGEST, X_ACCEL_BUFFERING,
};
use crate::wire::quality::{Coding, gzip_acceptance};
use crate::wire::{etag, vary};

/// What `gzip` needs to know.
#[derive(Debug, Clone)]
pub struct GzipSettings {
    /// Off: nothing is compressed, and no Vary is added.
    pub enabled: bool,
    /// zlib's 1–9.
    pub level: u32,
    /// Shorter bodies are not worth it.
    pub min_bytes: u64,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    gzip: bool,
    pub(super) is_head: bool,
    /// A validator of the visitor's is weak: one of ours, perhaps.
    weak_validator: bool,
}

impl Asked {
    /// Looks at a request's head.
    #[must_use]
    pub fn of(head: &request::Parts) -> Self {
        Self {
            // A range is counted in identity bytes, so a request for one gets those (complaints about sliced gzip are many).
            gzip: gzip_acceptance(&head.headers) == Coding::Gzip && !head.headers.contains_key(RANGE),
            is_head: head.method == Method::HEAD,
            weak_validator: head
                .headers
                .get(IF_NONE_MATCH)
                .is_some_and(|value| value.as_bytes().windows(2).any(|pair| pair == b"W/")),
        }
    }
}

/// What to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it would never be compressed.
    Leave,
    /// It goes out plain, but another request would have got it compressed: Vary says so.
    Vary,
    /// A 304 for what went out compressed.
    Revalidated,
    /// Compress it.
    Compress,
}

/// How often the compressor lets go of what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Only at the end: a body of known length.
    End,
    /// When nothing has come for a moment: a stream.
    Idle,
    /// After every piece: events.
    Always,
}

/// The verdict on an answer. `length` is its body's, where it is known.
#[must_use]
pub fn decide(settings: &GzipSettings, asked: Asked, head: &response::Parts, length: Option<u64>) -> Verdict {
    let headers = &head.headers;
    if head.status == StatusCode::NOT_MODIFIED {
        return revalidated(settings, asked, headers);
    }
    // A part is never compressed, but says what the 200 would about who gets it how (RFC 9110 §15.3.7).
    let part = head.status == StatusCode::PARTIAL_CONTENT;
    let status = matches!(
        head.status,
        StatusCode::OK
            | StatusCode::PARTIAL_CONTENT
            | StatusCode::NON_AUTHORITATIVE_INFORMATION
            | StatusCode::NOT_FOUND
            | StatusCode::GONE
    );
    if !status
        || headers.contains_key(CONTENT_ENCODING)
        || (headers.contains_key(CONTENT_RANGE) && !part)
        || !has_type(settings, headers)
        || headers.get_all(CACHE_CONTROL).iter().any(forbids_transformation)
    {
        return Verdict::Leave;
    }
    // A HEAD's body is empty, but its Content-Length says how long the GET's would be.
    let length = if asked.is_head { content_length(headers) } else { length };
    let too_short = !part && length.is_some_and(|length| length < settings.min_bytes);
    // A tag that is no tag cannot be made weak, and two codings must not share it.
    let bad_tag = headers.get(ETAG).is_some_and(|tag| {
        etag::EntityTag::parse(tag.as_bytes()).is_none() || headers.get_all(ETAG).iter().nth(1).is_some()
    });
    if too_short || bad_tag {
        return Verdict::Leave;
    }
    if asked.gzip && !part { Verdict::Compress } else { Verdict::Vary }
}

/// A 304 carries what the 200 would (RFC 9110 §15.4.5); without a type, the visitor's validator tells whether that was ours.
fn revalidated(settings: &GzipSettings, asked: Asked, headers: &HeaderMap) -> Verdict {
    if headers.contains_key(CONTENT_ENCODING) {
        return Verdict::Leave;
    }
    let typed = headers.contains_key(CONTENT_TYPE);
    if typed && !has_type(settings, headers) {
        return Verdict::Leave;
    }
    match (asked.gzip && asked.weak_validator, typed) {
        (true, _) => Verdict::Revalidated,
        (false, true) => Verdict::Vary,
        (false, false) => Verdict::Leave,
    }
}

/// Brings the head in line with the verdict; for an answer to compress, says how often to flush.
pub fn apply(verdict: Verdict, head: &mut response::Parts) -> Option<Flush> {
    let headers = &mut head.headers;
    match verdict {
        Verdict::Leave => None,
        Verdict::Vary => {
            vary::merge_accept_encoding(headers);
            None
        }
        Verdict::Revalidated => {
            weaken(headers);
            vary::merge_accept_encoding(headers);
            None
        }
        Verdict::Compress => {
            let flush = flush(headers);
            weaken(headers);
            vary::merge_accept_encoding(headers);
            headers.remove(CONTENT_LENGTH);
            headers.remove(ACCEPT_RANGES);
            // Digests of the plain bytes; Repr-Digest counts the coding in (RFC 9530 §3).
            for name in [&CONTENT_MD5, &DIGEST, &CONTENT_DIGEST, &REPR_DIGEST] {
                headers.remove(name);
            }
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            Some(flush)
        }
    }
}

/// Makes the tags that come back strong again: what left as `W/"a"` is `"a"` at the origin, and If-Match compares strongly there.
pub(super) fn restore_validators(headers: &mut HeaderMap) {
    for name in [IF_MATCH, IF_NONE_MATCH] {
        if let Entry::Occupied(mut lines) = headers.entry(name) {
            for line in lines.iter_mut() {
                if let Some(strong) = etag::strengthen(line) {
                    *line = strong;
                }
            }
        }
    }
}

fn weaken(headers: &mut HeaderMap) {
    if let Some(weak) = headers.get(ETAG).and_then(etag::weaken) {
        headers.insert(ETAG, weak);
    }
}

fn flush(headers: &HeaderMap) -> Flush {
    let events = headers.get(CONTENT_TYPE).is_some_and(|value| {
        value.as_bytes().get(..17).is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"))
    });
    let unbuffered = headers.get(&X_ACCEL_BUFFERING).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"no"));
    if events || unbuffered {
        Flush::Always
    } else if headers.contains_key(CONTENT_LENGTH) {
        Flush::End
    } else {
        Flush::Idle
    }
}

fn has_type(settings: &GzipSettings, headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    settings.types.is_match(essence.trim_ascii())
}

/// Whether a Cache-Control line holds `no-transform` (RFC 9111 §5.2.2.6). `cache_control` has left one canonical line, so the word is
/// looked for as it stands; inside another directive's quotes it forbids as well, which only costs the compression.
fn forbids_transformation(line: &HeaderValue) -> bool {
    const WORD: &[u8] = b"no-transform";
    line.as_bytes().windows(WORD.len()).any(|at| at.eq_ignore_ascii_case(WORD))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn settings() -> GzipSettings {
        GzipSettings {
            enabled: true,
            level: 4,
            min_bytes: 256,
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

    fn asked(fields: &[(&str, &str)]) -> Asked {
        let mut builder = http::Request::builder();
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        Asked::of(&builder.body(()).unwrap().into_parts().0)
    }

    fn answer(status: u16, fields: &[(&str, &str)]) -> response::Parts {
        let mut builder = http::Response::builder().status(status);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_verdict_follows_the_table() {
        let html: &[(&str, &str)] = &[("content-type", "text/html; charset=utf-8")];
        let gzip: &[(&str, &str)] = &[("accept-encoding", "gzip")];
        let with = |extra: (&'static str, &'static str)| vec![html[0], extra];
        for (case, request, status, fields, length, verdict) in [
            ("plain case", gzip, 200, html.to_vec(), Some(1000), Verdict::Compress),
            ("type in capitals", gzip, 200, vec![("content-type", "TEXT/HTML")], Some(1000), Verdict::Compress),
            ("unknown length", gzip, 200, html.to_vec(), None, Verdict::Compress),
            ("not asked for", &[], 200, html.to_vec(), Some(1000), Verdict::Vary),
            ("refused", &[("accept-encoding", "gzip;q=0")], 200, html.to_vec(), Some(1000), Verdict::Vary),
            (
                "by Via",
                &[("accept-encoding", "gzip"), ("via", "1.1 x")],
                200,
                html.to_vec(),
                Some(1000),
                Verdict::Compress,
            ),
            (
                "range asked",
                &[("accept-encoding", "gzip"), ("range", "bytes=0-9")],
                200,
                html.to_vec(),
                Some(1000),
                Verdict::Vary,
            ),
            ("too short", gzip, 200, html.to_vec(), Some(255), Verdict::Leave),
            ("404", gzip, 404, html.to_vec(), Some(1000), Verdict::Compress),
            ("500", gzip, 500, html.to_vec(), Some(1000), Verdict::Leave),
            ("206", gzip, 206, with(("content-range", "bytes 0-9/100")), Some(10), Verdict::Vary),
            ("encoded", gzip, 200, with(("content-encoding", "br")), Some(1000), Verdict::Leave),
            ("said to be identity", gzip, 200, with(("content-encoding", "identity")), Some(1000), Verdict::Leave),
            ("no-transform", gzip, 200, with(("cache-control", "max-age=1, No-Transform")), Some(1000), Verdict::Leave),
            ("image", gzip, 200, vec![("content-type", "image/png")], Some(1000), Verdict::Leave),
            ("no type", gzip, 200, vec![], Some(1000), Verdict::Leave),
            ("broken tag", gzip, 200, with(("etag", "abc")), Some(1000), Verdict::Leave),
            (
                "304 of ours",
                &[("accept-encoding", "gzip"), ("if-none-match", "W/\"a\"")],
                304,
                vec![("etag", "\"a\"")],
                Some(0),
                Verdict::Revalidated,
            ),
            ("304 untyped", gzip, 304, vec![("etag", "\"a\"")], Some(0), Verdict::Leave),
            ("304 typed", gzip, 304, html.to_vec(), Some(0), Verdict::Vary),
        ] {
            let found = decide(&settings(), asked(request), &answer(status, &fields), length);
            assert_eq!(found, verdict, "{case}");
        }
    }

    #[test]
    fn a_compressed_head_says_nothing_false() {
        let mut head = answer(
            200,
            &[
                ("content-type", "text/html"),
                ("content-length", "1000"),
                ("accept-ranges", "bytes"),
                ("etag", "\"a\""),
                ("content-md5", "x"),
                ("digest", "x"),
                ("vary", "Origin"),
            ],
        );
        assert_eq!(apply(Verdict::Compress, &mut head), Some(Flush::End));
        let fields: Vec<(&HeaderName, &str)> =
            head.headers.iter().map(|(name, value)| (name, value.to_str().unwrap())).collect();
        assert_eq!(fields.len(), 4, "{fields:?}");
        assert_eq!(head.headers[ETAG], "W/\"a\"");
        assert_eq!(head.headers[CONTENT_ENCODING], "gzip");
        assert_eq!(head.headers.get_all("vary").iter().count(), 1);
    }
}
