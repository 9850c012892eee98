//! The checks of validators and variants: validators, revalidate and vary.

use http::StatusCode;

use crate::smoke::cache_result::Served;
use crate::smoke::recorded::{Recorded, is_same_version, shown, spelled};
use crate::smoke::results::Verdict;
use crate::wire::names::{ETAG, LAST_MODIFIED, VARY};
use crate::wire::tokens::tokens;

/// Whether the edge repeats the validators of the origin. The values of Last-Modified are not compared.
pub(crate) fn validators(edge: &Recorded, origin: Option<&Recorded>) -> Verdict {
    let has = [&ETAG, &LAST_MODIFIED].map(|field| edge.has(field));
    let list = || {
        let present = [&ETAG, &LAST_MODIFIED].into_iter().filter(|field| edge.has(field));
        present.map(|field| format!("{}: {}", spelled(field), edge.text(field))).collect::<Vec<_>>().join(", ")
    };
    let Some(origin) = origin else {
        return match has {
            [false, false] => Verdict::skip("no ETag and no Last-Modified; to see those of the origin, use --origin"),
            _ => Verdict::pass(list()),
        };
    };
    for field in [&ETAG, &LAST_MODIFIED] {
        if origin.has(field) && !edge.has(field) {
            return Verdict::fail(
                format!("no {}", spelled(field)),
                format!("{}: {}, as at the origin (an ETag may be weak)", spelled(field), origin.text(field)),
                format!(
                    "remove the rule at the CDN that drops {}, or the feature that rewrites the body",
                    spelled(field)
                ),
            );
        }
    }
    if !is_same_version(edge, origin) {
        return Verdict::fail(
            format!("ETag: {}", edge.text(&ETAG)),
            format!("ETag: {}, as at the origin", origin.text(&ETAG)),
            "if the object has changed at the origin, purge it; otherwise let the CDN keep the origin's ETag",
        );
    }
    match has {
        [false, false] => Verdict::skip("the origin sends no ETag and no Last-Modified"),
        _ => Verdict::pass(format!("{}, as at the origin", list())),
    }
}

/// Whether a request with the validator of `full` gets a 304. `asked` is the field of the request.
pub(crate) fn revalidate(full: &Recorded, conditional: &Recorded, asked: &str) -> Verdict {
    let asked = shown(asked.as_bytes());
    if conditional.status == StatusCode::NOT_MODIFIED {
        return if is_same_version(full, conditional) {
            Verdict::pass(format!("304 for {asked}"))
        } else {
            Verdict::fail(
                format!("304 with ETag: {}, for {asked}", conditional.text(&ETAG)),
                format!("304 with ETag: {}", full.text(&ETAG)),
                "purge the object, and let the CDN keep the origin's ETag",
            )
        };
    }
    if conditional.status == StatusCode::OK && !is_same_version(full, conditional) {
        return Verdict::skip("the object has changed between two requests");
    }
    Verdict::fail(
        format!("the status {} for {asked}", conditional.status.as_u16()),
        "304",
        "let the CDN handle conditional requests, and let the origin keep its validators while the object is unchanged",
    )
}

/// The responses that the check `vary` looks at.
pub(crate) struct Variants<'a> {
    /// The response to a client that accepts gzip.
    pub edge: &'a Recorded,
    /// The responses to two other browsers, and then to the first of these two again, and how the edge served them.
    pub others: &'a [(Recorded, Option<Served>)],
    /// The result if one of these requests got an error or no response.
    pub failure: Option<&'a Verdict>,
}

/// The request fields that have only a few values, so that a cache can have a copy for each value.
const FEW_VALUES: [&str; 11] = [
    "accept",
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "origin",
    "save-data",
    "sec-ch-ua-mobile",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "x-forwarded-proto",
];

/// Whether Vary has only fields with few values, and Accept-Encoding if the body has a coding, and whether the cache
/// has one copy for all browsers.
pub(crate) fn vary(variants: &Variants<'_>) -> Verdict {
    let Variants { edge, others, failure } = variants;
    let names: Vec<_> = tokens(&edge.headers, &VARY).map(<[u8]>::to_ascii_lowercase).collect();
    let shown_vary = edge.text(&VARY);
    let has = |name: &[u8]| names.iter().any(|known| known == name);
    let has_few = |name: &[u8]| FEW_VALUES.iter().any(|known| known.as_bytes() == name);
    if let Some(name) = names.iter().find(|name| !has_few(name)) {
        let why = if name == b"*" {
            "no cache may use the response again".to_owned()
        } else {
            format!("a cache has a copy for each value of {}, which can have many values", shown(name))
        };
        return Verdict::fail(
            format!("Vary: {shown_vary}, so {why}"),
            "Vary with fields of few values only, such as Accept-Encoding",
            "remove this member at the origin: the key `vary` of the class in edgeshim reduces Vary",
        );
    }
    if edge.coding().is_some() && !has(b"accept-encoding") {
        let vary = if shown_vary.is_empty() { "no Vary".to_owned() } else { format!("Vary: {shown_vary}") };
        return Verdict::fail(
            format!("a gzip body with {vary}"),
            "Vary: Accept-Encoding",
            "let the origin send Vary: Accept-Encoding, and let the CDN keep it: other caches and browsers read it",
        );
    }
    if let Some(failure) = failure {
        return (*failure).clone();
    }
    let is_hit = |served: &Option<Served>| served.as_ref().map(Served::is_hit);
    if let [(_, second), (_, third), (_, again)] = others
        && (is_hit(second), is_hit(third), is_hit(again)) == (Some(false), Some(false), Some(true))
    {
        return Verdict::fail(
            "a MISS for each new User-Agent, and a HIT for a known one",
            "one copy for all browsers",
            "remove User-Agent from the cache key of the CDN",
        );
    }
    Verdict::pass(if shown_vary.is_empty() { "no Vary, and no gzip".to_owned() } else { format!("Vary: {shown_vary}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdn::preset::edge_fields::Lookup;
    use crate::smoke::recorded::tests::response;

    #[test]
    fn validators_when_edge_lacks_one_of_the_origin_then_fails() {
        let both = [("ETag", "\"1\""), ("Last-Modified", "Sat, 28 Nov 2026 12:00:00 GMT")];
        let with = |fields: &[(&str, &str)]| response(200, fields, b"");
        assert_eq!(validators(&with(&both), Some(&with(&both))).word(), "pass");
        assert_eq!(validators(&with(&[("ETag", "W/\"1\""), both[1]]), Some(&with(&both))).word(), "pass");
        assert_eq!(validators(&with(&both[1..]), Some(&with(&both))).word(), "fail");
        assert_eq!(validators(&with(&both[..1]), Some(&with(&both))).word(), "fail");
        assert_eq!(validators(&with(&[("ETag", "\"2\""), both[1]]), Some(&with(&both))).word(), "fail");
        assert_eq!(validators(&with(&[]), Some(&with(&[]))).word(), "skip");
        assert_eq!(validators(&with(&[]), None).word(), "skip");
        assert_eq!(validators(&with(&both), None).word(), "pass");
    }

    #[test]
    fn revalidate_when_status_is_not_304_then_fails() {
        let full = response(200, &[("ETag", "\"1\"")], b"x");
        let word =
            |status, tag| revalidate(&full, &response(status, &[("ETag", tag)], b""), "If-None-Match: \"1\"").word();
        assert_eq!(word(304, "W/\"1\""), "pass");
        assert_eq!(word(304, "\"2\""), "fail");
        assert_eq!(word(200, "\"1\""), "fail");
        assert_eq!(word(200, "\"2\""), "skip");
        assert_eq!(word(412, "\"1\""), "fail");
    }

    #[test]
    fn vary_when_it_splits_the_cache_or_lacks_accept_encoding_then_fails() {
        let word = |fields: &[(&str, &str)]| {
            vary(&Variants { edge: &response(200, fields, b""), others: &[], failure: None }).word()
        };
        let gzip = ("Content-Encoding", "gzip");
        assert_eq!(word(&[gzip, ("Vary", "Accept-Encoding")]), "pass");
        assert_eq!(word(&[gzip, ("Vary", "Origin"), ("Vary", "accept-encoding")]), "pass");
        assert_eq!(word(&[]), "pass");
        assert_eq!(word(&[gzip]), "fail");
        for bad in [
            "User-Agent",
            "Accept-Encoding, user-agent",
            "Cookie",
            "*",
            "Referer",
            "Accept-Language",
            "Accept-Encoding, X-Foo",
        ] {
            assert_eq!(word(&[("Vary", bad)]), "fail", "{bad}");
        }
    }

    #[test]
    fn vary_when_another_browser_gets_an_error_then_fails() {
        let (plain, failure) = (response(200, &[], b""), Verdict::fail("the status 503", "200", "x"));
        assert_eq!(vary(&Variants { edge: &plain, others: &[], failure: Some(&failure) }), failure);
    }

    #[test]
    fn vary_when_only_known_browsers_get_hits_then_fails() {
        use Lookup::{Hit, Miss};
        let word = |lookups: [Lookup; 3]| {
            let plain = response(200, &[], b"");
            let others = lookups.map(|lookup| (plain.clone(), Some(Served { lookup, evidence: String::new() })));
            vary(&Variants { edge: &plain, others: &others, failure: None }).word()
        };
        assert_eq!(word([Miss, Miss, Hit]), "fail");
        assert_eq!(word([Hit, Hit, Hit]), "pass");
        assert_eq!(word([Miss, Hit, Hit]), "pass");
        assert_eq!(word([Miss, Miss, Miss]), "pass");
    }
}
