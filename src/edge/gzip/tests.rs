//! Tests of the decisions on heads, and of the changes to heads.

use http::{HeaderValue, request, response};

use super::apply::{apply, vary_for_akamai};
use super::decide::{Skip, Verdict, decide};
use super::keys::GzipSettings;
use super::known_tags::TagKind;
use super::request_facts::{RequestFacts, prepare};
use crate::cdn::dialect::Dialect;
use crate::wire::head_fields::Names;
use crate::wire::media_types::MediaTypes;
use crate::wire::names::{ETAG, VARY};

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

fn facts_of(settings: &GzipSettings, head: &request::Parts, dialect: Dialect) -> RequestFacts {
    RequestFacts::of(settings, head, Names::of(&head.headers), dialect, true)
}

fn facts(fields: Fields) -> RequestFacts {
    facts_of(&settings(), &request("/", fields), Dialect::Generic)
}

fn response(status: u16, fields: &[(&str, &str)]) -> response::Parts {
    let mut builder = http::Response::builder().status(status);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

const GZIP: Fields = &[("accept-encoding", "gzip")];
const HTML: (&str, &str) = ("content-type", "text/html; charset=utf-8");

#[test]
fn verdict_when_status_is_not_304_then_depends_on_both_heads_and_the_length() {
    for (case, fields, status, sent, length, verdict) in [
        ("gzip accepted", GZIP, 200, &[HTML][..], Some(1000), Verdict::Compress),
        ("the length is min_bytes", GZIP, 200, &[HTML], Some(256), Verdict::Compress),
        ("too short", GZIP, 200, &[HTML], Some(255), Verdict::Leave(Skip::TooShort)),
        ("unknown length", GZIP, 200, &[HTML], None, Verdict::Compress),
        ("type in capitals", GZIP, 200, &[("content-type", "TEXT/HTML")], Some(1000), Verdict::Compress),
        ("not accepted", &[], 200, &[HTML], Some(1000), Verdict::Vary(Skip::NotAccepted)),
        ("gzip refused", &[("accept-encoding", "gzip;q=0")], 200, &[HTML], None, Verdict::Vary(Skip::NotAccepted)),
        (
            "only identity refused",
            &[("accept-encoding", "identity;q=0")],
            200,
            &[HTML],
            None,
            Verdict::Vary(Skip::NotAccepted),
        ),
        (
            "any coding accepted except identity",
            &[("accept-encoding", "*, identity;q=0")],
            200,
            &[HTML],
            None,
            Verdict::Compress,
        ),
        ("with Via", &[("accept-encoding", "gzip"), ("via", "1.1 x")], 200, &[HTML], Some(1000), Verdict::Compress),
        (
            "range requested, complete body sent",
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
        ("200 with a range", GZIP, 200, &[HTML, ("content-range", "bytes 0-9/10")], None, Verdict::Leave(Skip::Range)),
        ("encoded", GZIP, 200, &[HTML, ("content-encoding", "br")], Some(1000), Verdict::Vary(Skip::Encoded)),
        ("encoded, not accepted", &[], 200, &[HTML, ("content-encoding", "br")], None, Verdict::Vary(Skip::Encoded)),
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
        assert_eq!(
            decide(&settings(), facts(fields), &response(status, sent), Names::ALL, length, None),
            verdict,
            "{case}"
        );
    }
}

#[test]
fn verdict_when_origin_sends_gzip_then_is_inflate_only_if_configured_and_needed() {
    let inflate = GzipSettings { inflate: true, ..settings() };
    let none: Fields = &[];
    for (case, fields, status, sent, verdict) in [
        ("not accepted", none, 200, &[HTML, ("content-encoding", "gzip")][..], Verdict::Inflate),
        ("the old name of gzip", none, 200, &[HTML, ("content-encoding", "X-GZIP")], Verdict::Inflate),
        ("without a type", none, 404, &[("content-encoding", "gzip")], Verdict::Inflate),
        ("accepted", GZIP, 200, &[HTML, ("content-encoding", "gzip")], Verdict::Vary(Skip::Encoded)),
        (
            "accepted, and a range requested",
            &[("accept-encoding", "gzip"), ("range", "bytes=0-9")],
            200,
            &[HTML, ("content-encoding", "gzip")],
            Verdict::Vary(Skip::Encoded),
        ),
        ("a part of a gzip body", none, 206, &[HTML, ("content-encoding", "gzip")], Verdict::Vary(Skip::Encoded)),
        ("two codings", none, 200, &[HTML, ("content-encoding", "gzip, gzip")], Verdict::Vary(Skip::Encoded)),
        ("another coding", none, 200, &[HTML, ("content-encoding", "br")], Verdict::Vary(Skip::Encoded)),
        (
            "no-transform",
            none,
            200,
            &[HTML, ("content-encoding", "gzip"), ("cache-control", "no-transform")],
            Verdict::Vary(Skip::Encoded),
        ),
    ] {
        assert_eq!(decide(&inflate, facts(fields), &response(status, sent), Names::ALL, None, None), verdict, "{case}");
        let off = decide(&settings(), facts(fields), &response(status, sent), Names::ALL, None, None);
        let typed = sent.contains(&HTML);
        let wanted = if typed { Verdict::Vary(Skip::Encoded) } else { Verdict::Leave(Skip::Encoded) };
        assert_eq!(off, wanted, "{case}, with gzip.inflate off");
    }
}

/// Returns the verdict on a 304 with the tag `"a"`, which responds to a request for `path`.
fn verdict_on_304(
    settings: &GzipSettings,
    path: &str,
    fields: &[(&str, &str)],
    dialect: Dialect,
    sent: &[(&str, &str)],
    known: Option<TagKind>,
) -> Verdict {
    let mut builder = http::Request::builder().uri(path);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    let facts = facts_of(settings, &builder.body(()).unwrap().into_parts().0, dialect);
    let sent: Vec<_> = sent.iter().copied().chain([("etag", "\"a\"")]).collect();
    decide(settings, facts, &response(304, &sent), Names::ALL, Some(0), known)
}

#[test]
fn tag_of_a_304_when_kind_is_unknown_then_form_depends_on_accept_encoding_and_dialect() {
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
    for (coding, accepts_gzip) in codings {
        for (named, akamai) in [(strong, Some(false)), (weak, Some(true)), (both, None), (date, None)] {
            for range in [None, Some(("range", "bytes=0-9"))] {
                for sent in [&[][..], &[HTML]] {
                    let fields: Vec<_> = coding.iter().copied().chain([named]).chain(range).collect();
                    for dialect in [Dialect::Generic, Dialect::Fastly, Dialect::Cloudflare, Dialect::Akamai] {
                        let named = if dialect == Dialect::Akamai { akamai } else { None };
                        let weak = named.unwrap_or(accepts_gzip);
                        let verdict = verdict_on_304(&settings(), "/a.css", &fields, dialect, sent, None);
                        assert_eq!(verdict, Verdict::NotModified { weak }, "{dialect:?} {fields:?} {sent:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn tag_of_a_304_when_type_or_known_kind_decides_then_equals_the_tag_of_the_200() {
    let none = Verdict::Leave(Skip::Status);
    let strong = Verdict::NotModified { weak: false };
    let weak = Verdict::NotModified { weak: true };
    let fields = &[("accept-encoding", "gzip"), ("if-none-match", "\"a\"")];
    for (case, path, sent, known, verdict) in [
        ("no-transform", "/", &[HTML, ("cache-control", "no-transform")][..], None, none),
        ("an image by its extension", "/a.png", &[], None, none),
        ("an image by its type", "/a", &[("content-type", "image/png")], None, none),
        ("a page with the name of an image", "/a.png", &[HTML], None, weak),
        ("an unknown extension", "/a.zzzz", &[], None, weak),
        ("the origin's coding", "/a", &[("content-encoding", "br")], None, strong),
        ("a tag known as kept", "/a", &[], Some(TagKind::Kept), strong),
        ("a tag known as fixed", "/a", &[], Some(TagKind::Fixed), none),
        ("a tag known as compressed", "/a", &[], Some(TagKind::Compressed), weak),
    ] {
        assert_eq!(verdict_on_304(&settings(), path, fields, Dialect::Generic, sent, known), verdict, "{case}");
    }
}

#[test]
fn tag_of_a_304_when_200_was_inflated_then_equals_the_tag_of_the_200() {
    let inflate = GzipSettings { inflate: true, ..settings() };
    let of = |fields: Fields, sent: &[(&str, &str)], known| {
        verdict_on_304(&inflate, "/a.ttf", fields, Dialect::Generic, sent, known)
    };
    let weak: Fields = &[("if-none-match", "W/\"a\"")];
    let strong: Fields = &[("if-none-match", "\"a\"")];
    for sent in [("content-type", "font/ttf"), ("content-encoding", "gzip")] {
        assert_eq!(of(weak, &[sent], None), Verdict::NotModified { weak: true }, "{sent:?}");
        assert_eq!(of(strong, &[sent], None), Verdict::Leave(Skip::Status), "{sent:?}");
        assert_eq!(of(weak, &[sent, ("cache-control", "no-transform")], None), Verdict::Leave(Skip::Status));
    }
    // The origin's gzip is sent under the strong tag, so the inflated variant must never have the strong tag.
    for fields in [weak, strong] {
        assert_eq!(of(fields, &[], Some(TagKind::Inflated)), Verdict::NotModified { weak: true }, "{fields:?}");
    }
    let gzip: Fields = &[("accept-encoding", "gzip"), ("if-none-match", "W/\"a\"")];
    assert_eq!(of(gzip, &[], Some(TagKind::Inflated)), Verdict::NotModified { weak: false });
}

#[test]
fn tag_of_a_304_when_only_br_is_accepted_then_is_weak_except_if_request_has_only_the_strong_form() {
    let off = GzipSettings { ripen: false, ..settings() };
    let date = ("if-modified-since", "Sat, 28 Nov 2026 00:00:00 GMT");
    for known in [None, Some(TagKind::Compressed), Some(TagKind::Mixed)] {
        for (named, weak) in [
            (("if-none-match", "\"a\""), false),
            (("if-none-match", "W/\"a\""), true),
            (("if-none-match", "\"a\", W/\"a\""), true),
            (date, true),
        ] {
            let fields = &[("accept-encoding", "br"), named];
            let verdict =
                |settings: &GzipSettings| verdict_on_304(settings, "/a.css", fields, Dialect::Generic, &[], known);
            assert_eq!(verdict(&settings()), Verdict::NotModified { weak }, "{known:?} {named:?}");
            if known != Some(TagKind::Mixed) {
                assert_eq!(verdict(&off), Verdict::NotModified { weak: false }, "{known:?} {named:?}, ripen off");
            }
        }
    }
}

#[test]
fn br_when_forbidden_by_range_or_settings_or_provider_then_is_not_wanted() {
    let wants = |settings: &GzipSettings, fields, takes_br| {
        let head = request("/", fields);
        RequestFacts::of(settings, &head, Names::of(&head.headers), Dialect::Generic, takes_br).wants_br()
    };
    let br: Fields = &[("accept-encoding", "br, gzip")];
    assert!(wants(&settings(), br, true));
    assert!(!wants(&settings(), GZIP, true));
    assert!(!wants(&settings(), &[("accept-encoding", "br"), ("range", "bytes=0-9")], true));
    assert!(!wants(&settings(), br, false));
    assert!(!wants(&GzipSettings { ripen: false, ..settings() }, br, true));
    assert!(!wants(&GzipSettings { twins_bytes: 0, ..settings() }, br, true));
}

#[test]
fn head_when_body_is_changed_then_loses_the_fields_of_the_old_body() {
    let sent = [
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
    let mut head = response(200, &sent);
    apply(Verdict::Compress, &mut head);
    let mut fields: Vec<_> =
        head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    fields.sort_unstable();
    let (kind, vary) = (sent[0], ("vary", "Origin, Accept-Encoding"));
    assert_eq!(fields, [("content-encoding", "gzip"), kind, ("etag", "W/\"a\""), vary]);
    let mut head = response(200, &[&sent[..], &[("content-encoding", "gzip")]].concat());
    apply(Verdict::Inflate, &mut head);
    assert_eq!(head.headers.len(), 3, "{:?}", head.headers);
    assert_eq!(head.headers[ETAG], "W/\"a\"");
}

#[test]
fn vary_when_sent_to_akamai_then_is_removed_only_if_body_has_no_coding() {
    const BY_CODING: (&str, &str) = ("vary", "Accept-Encoding");
    const STRONG: (&str, &str) = ("etag", "\"a\"");
    let none: Fields = &[];
    for (case, fields, status, sent, stays) in [
        ("identity", GZIP, 200, &[HTML, BY_CODING][..], false),
        ("identity, two lines", GZIP, 200, &[BY_CODING, ("vary", "accept-encoding")], false),
        ("gzip", GZIP, 200, &[BY_CODING, ("content-encoding", "gzip")], true),
        ("br", GZIP, 200, &[BY_CODING, ("content-encoding", "br")], true),
        ("a coding that Akamai does not store", GZIP, 200, &[BY_CODING, ("content-encoding", "zstd")], true),
        ("another Vary", GZIP, 200, &[("vary", "Accept-Encoding, Origin")], true),
        ("another line of Vary", GZIP, 200, &[BY_CODING, ("vary", "Cookie")], true),
        ("star", GZIP, 200, &[("vary", "*")], true),
        ("a part", none, 206, &[BY_CODING], false),
        ("a redirect", none, 301, &[BY_CODING], false),
        ("304 for an unknown tag, gzip accepted", GZIP, 304, &[BY_CODING, STRONG], true),
        ("304 for an unknown tag", none, 304, &[BY_CODING, STRONG], false),
        ("304 for an unknown weak tag", none, 304, &[BY_CODING, ("etag", "W/\"a\"")], true),
        ("304 by date, gzip accepted", GZIP, 304, &[BY_CODING], true),
        ("304 by date", none, 304, &[BY_CODING], false),
        ("304 with another Vary", none, 304, &[("vary", "Origin"), ("etag", "\"a\"")], true),
    ] {
        let mut head = response(status, sent);
        let before = head.headers.clone();
        vary_for_akamai(facts(fields), None, &mut head);
        assert_eq!(head.headers == before, stays, "{case}: {:?}", head.headers);
        assert_eq!(head.headers.contains_key(VARY), stays, "{case}");
    }
    for (known, strong_stays, weak_stays) in [
        (TagKind::Weak, true, true),
        (TagKind::Compressed, false, true),
        (TagKind::Kept, false, true),
        (TagKind::KeptCoded, true, true),
        (TagKind::Inflated, true, false),
        (TagKind::Fixed, false, true),
        (TagKind::FixedCoded, true, true),
        (TagKind::Mixed, true, true),
    ] {
        for (tag, stays) in [(STRONG, strong_stays), (("etag", "W/\"a\""), weak_stays)] {
            let mut head = response(304, &[BY_CODING, tag]);
            vary_for_akamai(facts(GZIP), Some(known), &mut head);
            assert_eq!(head.headers.contains_key(VARY), stays, "{known:?} {tag:?}");
        }
    }
}

#[test]
fn tag_when_no_weak_form_exists_then_is_removed() {
    for tags in [&["abc"][..], &["\"a\"", "\"b\""], &["\"a"], &["w/\"a\""], &[""]] {
        let fields: Vec<_> = tags.iter().map(|tag| ("etag", *tag)).chain([HTML]).collect();
        let mut head = response(200, &fields);
        apply(Verdict::Compress, &mut head);
        assert!(!head.headers.contains_key(ETAG), "{tags:?}: {:?}", head.headers);
    }
    let mut head = response(200, &[("etag", "W/\"a\""), HTML]);
    apply(Verdict::Compress, &mut head);
    assert_eq!(head.headers[ETAG], "W/\"a\"");
}

/// The weak forms of tags. The opaque part of each tag is its kind, and `new` is an unknown tag.
const TAGS: &str = "W/\"compressed\", W/\"weak\", W/\"new\", W/\"inflated\", W/\"kept\"";

#[test]
fn request_when_prepared_then_has_restored_tags_and_asks_for_ranges_without_gzip() {
    let prepared = |fields: Fields| {
        let mut head = request("/", fields);
        let facts = facts_of(&settings(), &head, Dialect::Generic);
        prepare(facts, &mut head.headers, |opaque| match opaque {
            b"compressed" => Some(TagKind::Compressed),
            b"inflated" => Some(TagKind::Inflated),
            b"weak" => Some(TagKind::Weak),
            b"kept" => Some(TagKind::Kept),
            _ => None,
        });
        let field = |(name, value): (&http::HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        head.headers.iter().map(field).collect::<Vec<_>>()
    };
    assert_eq!(
        prepared(&[("if-none-match", TAGS), ("if-match", TAGS)]),
        [
            "if-none-match: \"compressed\", W/\"weak\", W/\"new\", \"inflated\", \"kept\"",
            "if-match: \"compressed\", W/\"weak\", \"new\", \"inflated\", \"kept\"",
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
