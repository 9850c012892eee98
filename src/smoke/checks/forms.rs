//! The checks of the forms of one object: gzip, identity, range and head.

use bytes::Bytes;
use http::{HeaderName, StatusCode};

use crate::smoke::recorded::{Recorded, TOO_LARGE, is_same_version, spelled};
use crate::smoke::results::Verdict;
use crate::wire::decimal;
use crate::wire::media_types::essence;
use crate::wire::names::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, VARY};
use crate::wire::tokens::tokens;

/// The default of `gzip.min_bytes`. Smaller bodies are often not compressed.
const LEAST_COMPRESSED_BYTES: usize = 256;
/// The largest number of bytes that the check of ranges requests.
const RANGE_BYTES: usize = 100;

/// Whether a client that accepts gzip gets gzip with the right content. `origin` is the origin's response to the same
/// request. `plain` is the same content without a coding.
pub(crate) fn gzip(edge: &Recorded, origin: Option<&Recorded>, plain: Option<&Recorded>) -> Verdict {
    if edge.is_too_large() {
        return Verdict::skip(TOO_LARGE);
    }
    let content = match edge.decoded() {
        Ok(content) => content,
        Err(why) => return Verdict::fail(why, "a complete gzip body", "see the log of the edge and of the origin"),
    };
    if let Some(difference) = difference(&content, edge, plain) {
        return Verdict::fail(
            format!("the inflated body differs from the body without a coding: {difference}"),
            "the same content in both forms",
            "purge the object; if the bodies still differ, turn off rules at the CDN that change content",
        );
    }
    let kind = edge.text(&CONTENT_TYPE);
    if edge.coding().is_some() {
        return Verdict::pass(format!("{} bytes instead of {}", grouped(edge.body.len()), grouped(content.len())));
    }
    if content.len() < LEAST_COMPRESSED_BYTES {
        return Verdict::skip(format!("the body has only {} bytes", content.len()));
    }
    if !is_compressible(&kind) {
        let kind = if kind.is_empty() { "no Content-Type".to_owned() } else { kind };
        return Verdict::skip(format!("{kind} is not worth compressing"));
    }
    if edge.cache_control().no_transform {
        return Verdict::skip("Cache-Control has no-transform");
    }
    let remedy = match origin.map(Recorded::coding) {
        Some(Some(_)) => {
            "let the CDN forward Accept-Encoding and keep the coding of the origin: the origin does send gzip"
        }
        Some(None) => "turn on compression at the origin: [gzip] of edgeshim compresses these types by default",
        None => "turn on compression at the CDN, or let the CDN forward Accept-Encoding to the origin",
    };
    Verdict::fail(
        format!("{} bytes of {kind} without Content-Encoding, for Accept-Encoding: gzip", grouped(content.len())),
        "Content-Encoding: gzip",
        remedy,
    )
}

/// Whether a client that accepts no coding gets the content without a coding. `other` is the same content in another
/// form or from the origin.
pub(crate) fn identity(edge: &Recorded, other: Option<&Recorded>) -> Verdict {
    if edge.is_too_large() {
        return Verdict::skip(TOO_LARGE);
    }
    if !edge.status.is_success() {
        return unlike_first(edge.status, "Accept-Encoding: identity");
    }
    if let Some(coding) = edge.coding() {
        return Verdict::fail(
            format!("Content-Encoding: {coding}, for Accept-Encoding: identity"),
            "no Content-Encoding",
            "let the cache key of the CDN contain Accept-Encoding, or let the origin send Vary: Accept-Encoding",
        );
    }
    let content = match edge.decoded() {
        Ok(content) => content,
        Err(why) => return Verdict::fail(why, "a complete body", "see the log of the edge and of the origin"),
    };
    match difference(&content, edge, other) {
        Some(difference) => Verdict::fail(
            format!("the body differs from the other forms of the object: {difference}"),
            "the same content in each form",
            "purge the object; if the bodies still differ, turn off rules at the CDN that change content",
        ),
        None => Verdict::pass(format!("{} bytes without a coding", grouped(content.len()))),
    }
}

/// The result of a check whose request got an error, although the first request for the URL got a success. `asked` says
/// how the request differs from the first request.
pub(crate) fn unlike_first(status: StatusCode, asked: &str) -> Verdict {
    Verdict::fail(
        format!("the status {} for {asked}", status.as_u16()),
        "a success, as for the first request",
        "find the reason in the log of the edge: an earlier request for the same URL got a success",
    )
}

/// Describes the difference between a content and another response of the same version. Returns `None` if the contents
/// are equal or cannot be compared.
fn difference(content: &Bytes, edge: &Recorded, other: Option<&Recorded>) -> Option<String> {
    let other = other.filter(|other| other.status == edge.status && is_same_version(edge, other))?;
    let theirs = other.decoded().ok()?;
    if theirs == *content {
        return None;
    }
    let at = content.iter().zip(theirs.iter()).take_while(|(a, b)| a == b).count();
    Some(format!("{} and {} bytes, equal up to byte {}", grouped(content.len()), grouped(theirs.len()), grouped(at)))
}

/// Returns whether a type is usually compressed.
fn is_compressible(kind: &str) -> bool {
    const TYPES: [&str; 8] = [
        "application/json",
        "application/javascript",
        "application/x-javascript",
        "application/xml",
        "application/manifest+json",
        "application/wasm",
        "image/svg+xml",
        "image/x-icon",
    ];
    let kind = String::from_utf8_lossy(essence(kind.as_bytes())).to_ascii_lowercase();
    kind.starts_with("text/") || kind.ends_with("+json") || kind.ends_with("+xml") || TYPES.contains(&kind.as_str())
}

/// Returns the first and the last byte of the range that is requested from a body. Returns `None` if the body is too
/// short.
pub(crate) fn wanted_range(length: usize) -> Option<(usize, usize)> {
    let first = length / 4;
    let last = (first + RANGE_BYTES).min(length).checked_sub(1)?;
    (length >= 2 && first <= last).then_some((first, last))
}

/// Whether a range is a part of the body. `complete` is the complete body without a coding, and `wanted` is the range.
pub(crate) fn range(complete: &Recorded, part: &Recorded, (first, last): (usize, usize)) -> Verdict {
    const REMEDY: &str = "turn off range requests for this type at the CDN, or let the CDN fetch the whole object; the \
                          origin's response must have a Content-Length and a strong ETag";
    let Ok(content) = complete.decoded() else { return Verdict::skip("the complete body is not known") };
    let length = content.len();
    if !is_same_version(complete, part) {
        return Verdict::skip("the object has changed between two requests");
    }
    let asked = format!("Range: bytes={first}-{last}");
    let expected =
        format!("206 with Content-Range: bytes {first}-{last}/{length} and these bytes, or 200 with all bytes");
    let fail = |seen: String| Verdict::fail(format!("{seen}, for {asked}"), expected.clone(), REMEDY);
    let body = match part.decoded() {
        Ok(body) => body,
        Err(why) => return fail(why),
    };
    if part.status == StatusCode::OK {
        return if body == content {
            Verdict::pass("the edge ignores Range and sends the whole body, which is allowed")
        } else {
            fail(format!("200 with {} bytes that are not the body of {length} bytes", body.len()))
        };
    }
    if part.status != StatusCode::PARTIAL_CONTENT {
        return fail(format!("the status {}", part.status.as_u16()));
    }
    let named = part.text(&CONTENT_RANGE);
    let names_range = |end: &str| named.eq_ignore_ascii_case(&format!("bytes {first}-{last}/{end}"));
    if !names_range(&length.to_string()) && !names_range("*") {
        let named = if named.is_empty() { "no Content-Range".to_owned() } else { format!("Content-Range: {named}") };
        return fail(format!("206 with {named}"));
    }
    if content.get(first..=last) != Some(&body[..]) {
        return fail(format!("206 with the right Content-Range, but {} other bytes", body.len()));
    }
    Verdict::pass(format!("206, {named}"))
}

/// Whether the response to HEAD has the same status, caching rules and description of the content as the response to
/// GET.
pub(crate) fn head(get: &Recorded, head: &Recorded) -> Verdict {
    const REMEDY: &str = "let the CDN answer HEAD from the object that it stored for GET; if the origin differs too, \
                          correct the origin";
    if head.status != get.status {
        return Verdict::fail(
            format!("{} for HEAD, {} for GET", head.status.as_u16(), get.status.as_u16()),
            "the same status",
            REMEDY,
        );
    }
    if !is_same_version(get, head) {
        return differs(&ETAG, get, head, REMEDY);
    }
    for field in [&CONTENT_TYPE, &CONTENT_ENCODING, &CACHE_CONTROL] {
        if !get.text(field).eq_ignore_ascii_case(&head.text(field)) {
            return differs(field, get, head, REMEDY);
        }
    }
    if get.has(&ETAG) != head.has(&ETAG) {
        return differs(&ETAG, get, head, REMEDY);
    }
    if sorted(get) != sorted(head) {
        return differs(&VARY, get, head, REMEDY);
    }
    let length = head.headers.get(CONTENT_LENGTH).and_then(|value| decimal::read(value.as_bytes()));
    if let Some(length) = length.filter(|length| !get.is_too_large() && *length != get.body.len() as u64) {
        return Verdict::fail(
            format!("Content-Length: {length} for HEAD, a body of {} bytes for GET", get.body.len()),
            "the same length",
            REMEDY,
        );
    }
    Verdict::pass("status, type, coding, ETag, Vary and Cache-Control as for GET")
}

fn differs(field: &HeaderName, get: &Recorded, head: &Recorded, remedy: &str) -> Verdict {
    let value = |response: &Recorded| match response.text(field) {
        text if text.is_empty() => format!("no {}", spelled(field)),
        text => format!("{}: {text}", spelled(field)),
    };
    Verdict::fail(format!("{} for HEAD", value(head)), format!("{}, as for GET", value(get)), remedy)
}

/// Returns the members of Vary in lower case, sorted.
fn sorted(response: &Recorded) -> Vec<Vec<u8>> {
    let mut names: Vec<_> = tokens(&response.headers, &VARY).map(<[u8]>::to_ascii_lowercase).collect();
    names.sort();
    names.dedup();
    names
}

/// Writes a number with a comma between groups of three digits.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smoke::recorded::Ending;
    use crate::smoke::recorded::tests::{gzip as zipped, response};

    const TEXT: &[u8] = &[b'a'; 1000];

    fn html(fields: &[(&str, &str)], body: &[u8]) -> Recorded {
        let fields: Vec<_> = fields.iter().copied().chain([("Content-Type", "text/html")]).collect();
        response(200, &fields, body)
    }

    #[test]
    fn gzip_when_text_has_no_coding_then_fails_and_the_remedy_depends_on_the_origin() {
        let plain = html(&[], TEXT);
        let coded = html(&[("Content-Encoding", "gzip")], &zipped(TEXT));
        for (origin, remedy) in [(None, "at the CDN"), (Some(&plain), "at the origin"), (Some(&coded), "forward")] {
            let Verdict::Fail(flaw) = gzip(&plain, origin, None) else { panic!("{origin:?}") };
            assert!(flaw.remedy.contains(remedy), "{}", flaw.remedy);
        }
        assert_eq!(gzip(&coded, None, Some(&plain)).word(), "pass");
    }

    #[test]
    fn gzip_when_body_need_not_be_compressed_then_skipped() {
        assert_eq!(gzip(&response(200, &[("Content-Type", "image/png")], TEXT), None, None).word(), "skip");
        assert_eq!(gzip(&html(&[], b"short"), None, None).word(), "skip");
        assert_eq!(gzip(&html(&[("Cache-Control", "no-transform")], TEXT), None, None).word(), "skip");
    }

    #[test]
    fn body_when_cut_or_different_or_in_an_unwanted_coding_then_fails() {
        let coded = html(&[("Content-Encoding", "gzip")], &zipped(TEXT));
        let other = html(&[], &[b'b'; 1000]);
        assert_eq!(gzip(&coded, None, Some(&other)).word(), "fail");
        assert_eq!(identity(&html(&[], TEXT), Some(&coded)).word(), "pass");
        assert_eq!(identity(&other, Some(&coded)).word(), "fail");
        assert_eq!(identity(&coded, None).word(), "fail");
        let cut = Recorded { ending: Ending::Cut("reset".to_owned()), ..html(&[], TEXT) };
        assert_eq!(identity(&cut, None).word(), "fail");
        assert_eq!(identity(&response(503, &[], TEXT), None).word(), "fail");
        assert_eq!(gzip(&cut, None, None).word(), "fail");
        let large = Recorded { ending: Ending::TooLarge, ..html(&[], TEXT) };
        assert_eq!(identity(&large, None).word(), "skip");
        // Another version of the object is not compared.
        let (one, two) = (html(&[("ETag", "\"1\"")], TEXT), html(&[("ETag", "\"2\"")], b"another"));
        assert_eq!(identity(&one, Some(&two)).word(), "pass");
    }

    #[test]
    fn range_when_not_the_requested_part_then_fails() {
        let body: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let complete = response(200, &[], &body);
        let wanted = wanted_range(body.len()).unwrap();
        assert_eq!(wanted, (250, 349));
        let word = |status, named: &str, body: &[u8]| {
            range(&complete, &response(status, &[("Content-Range", named)], body), wanted).word()
        };
        assert_eq!(word(206, "bytes 250-349/1000", &body[250..350]), "pass");
        assert_eq!(word(206, "bytes 250-349/*", &body[250..350]), "pass");
        assert_eq!(word(200, "", &body), "pass");
        assert_eq!(word(206, "bytes 250-349/1000", &body[251..351]), "fail");
        assert_eq!(word(206, "bytes 250-349/1000", &body[250..349]), "fail");
        assert_eq!(word(206, "bytes 250-349/999", &body[250..350]), "fail");
        assert_eq!(word(200, "", &body[250..]), "fail");
        assert_eq!(word(416, "", b""), "fail");
    }

    #[test]
    fn range_when_body_is_short_then_none_or_inside_the_body() {
        assert_eq!(wanted_range(0), None);
        assert_eq!(wanted_range(1), None);
        assert_eq!(wanted_range(2), Some((0, 1)));
        assert_eq!(wanted_range(5), Some((1, 4)));
    }

    #[test]
    fn head_when_status_or_a_compared_field_differs_from_get_then_fails() {
        let fields = [("ETag", "\"1\""), ("Vary", "Accept-Encoding"), ("Cache-Control", "max-age=60")];
        let get = html(&fields, TEXT);
        let with = |changed: &[(&str, &str)]| {
            let kept = fields.iter().filter(|(name, _)| !changed.iter().any(|(other, _)| other == name));
            html(
                &kept.copied().chain(changed.iter().copied()).filter(|(_, value)| *value != "-").collect::<Vec<_>>(),
                b"",
            )
        };
        assert_eq!(head(&get, &with(&[])).word(), "pass");
        assert_eq!(head(&get, &with(&[("Content-Length", "1000"), ("Vary", "accept-encoding")])).word(), "pass");
        assert_eq!(head(&get, &with(&[("ETag", "W/\"1\"")])).word(), "pass");
        for changed in [
            ("ETag", "\"2\""),
            ("ETag", "-"),
            ("Vary", "-"),
            ("Cache-Control", "max-age=61"),
            ("Content-Encoding", "gzip"),
            ("Content-Length", "999"),
        ] {
            assert_eq!(head(&get, &with(&[changed])).word(), "fail", "{changed:?}");
        }
        assert_eq!(head(&get, &response(404, &[], b"")).word(), "fail");
    }

    #[test]
    fn number_when_long_then_has_commas() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
