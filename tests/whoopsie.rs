//! Tests of the whoopsie page: the status, language, format, header fields, gzip form and beacon of the page.
//!
//! Fields of the request select the origin's response. `X-Status` is the status of the response. Each `X-Say` is a
//! header field of the response. The body is about `X-Size` bytes long.

mod support;

use flate2::read::GzDecoder;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::time::Duration;
use support::{After, Origin, Raw, Response, Shim, origin, raw};

/// The text in the body of the origin's response. A page must never contain this text.
const SECRET: &str = "panicked at secret.rs";

/// Starts the origin that the comment at the top of this file describes. If the request has `X-Chunked`, the body is
/// chunked. If the request has `X-Split`, the origin sends the head and the body in two writes.
fn obedient_origin() -> Origin {
    Origin::start(|request, conn| {
        let number = |name: &str| request.field(name).and_then(|value| value.parse::<usize>().ok());
        let mut message = format!("HTTP/1.1 {} X\r\n", number("x-status").unwrap_or(500));
        for field in request.fields_named("x-say") {
            let _ = write!(message, "{field}\r\n");
        }
        let body = SECRET.repeat(1 + number("x-size").unwrap_or(1) / SECRET.len());
        let body = if request.field("x-chunked").is_some() {
            message.push_str("Transfer-Encoding: chunked\r\n\r\n");
            format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
        } else {
            let _ = write!(message, "Content-Length: {}\r\n\r\n", body.len());
            if request.method == "HEAD" { String::new() } else { body }
        };
        let split = request.field("x-split").is_some() && conn.write_all(message.as_bytes()).is_ok();
        let rest = if split { body } else { message + &body };
        if conn.write_all(rest.as_bytes()).is_ok() { After::Keep } else { After::Close }
    })
}

/// Starts a shim in front of `origin`, with one provider and the configuration `piece`.
fn shim(origin: &Origin, piece: &str) -> Shim {
    Shim::start(Shim::config(origin.addr).with("[[provider]]\nname = \"fastly\"").with(piece))
}

const BROWSER: (&str, &str) = ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8");

/// Returns the decoded page. Panics if the response is not a page.
fn page(response: &Response) -> String {
    assert_eq!(response.field("content-type"), Some("text/html; charset=utf-8"), "{response:?}");
    assert!(response.complete && response.problems.is_empty(), "{:?}", response.problems);
    let text = match response.field("content-encoding") {
        None => response.text(),
        Some("gzip") => {
            let mut text = String::new();
            GzDecoder::new(&response.body[..]).read_to_string(&mut text).expect("a complete gzip member");
            text
        }
        other => panic!("the page has an unknown Content-Encoding: {other:?}"),
    };
    assert!(text.starts_with("<!doctype html>") && text.trim_end().ends_with("</html>"), "{text}");
    assert!(!text.contains(SECRET), "the page contains the origin's body");
    text
}

/// Returns the members of Vary. Panics if the response has several Vary lines.
fn vary(response: &Response) -> BTreeSet<String> {
    let lines = response.fields_named("vary");
    assert!(lines.len() <= 1, "the response has several Vary lines: {lines:?}");
    lines.iter().flat_map(|line| line.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect()
}

/// Returns the page's attribute `lang`. Panics if Content-Language or the page's text direction does not fit `lang`.
fn language(response: &Response) -> String {
    let page = page(response);
    let language = page.split_once("<html lang=\"").and_then(|(_, rest)| rest.split_once('"')).expect("a language").0;
    assert_eq!(response.fields_named("content-language"), [language]);
    let direction = if language == "ar" || language == "he" { "rtl" } else { "ltr" };
    assert!(page.contains(&format!("dir=\"{direction}\"")), "{language}: {page}");
    language.to_owned()
}

#[test]
fn status_when_origin_sends_5xx_then_kept_and_shown_on_page() {
    let origin = obedient_origin();
    let shim = shim(&origin, "");
    for status in [500, 501, 502, 503, 504, 505, 507, 511, 520, 599] {
        let status = status.to_string();
        for method in ["GET", "POST", "DELETE"] {
            let fields = [BROWSER, ("X-Status", &*status)];
            let response = raw::exchange(shim.addr, raw::request(method, "/", &fields, b""));
            assert_eq!(response.status.to_string(), status, "{method}");
            assert!(page(&response).contains(&format!("<bdi>{status}</bdi>")), "the page does not show {status}");
            assert_eq!(response.fields_named("cache-control"), ["no-store"], "{method} {status}");
            assert_eq!(response.fields_named("retry-after"), ["30"], "{method} {status}");
            assert_eq!(response.fields_named("proxy-status"), [format!("edgeshim; received-status={status}")]);
            let all = ["accept", "accept-encoding", "accept-language"].map(str::to_owned);
            assert_eq!(vary(&response), BTreeSet::from(all), "{method} {status}");
            assert_eq!(language(&response), "en");
            assert_eq!(response.field("content-length"), Some(response.body.len().to_string().as_str()));
        }
    }
    // The shim forwards responses with other statuses unchanged.
    for status in ["200", "301", "404", "429"] {
        let response = raw::fetch(shim.addr, "/", &[BROWSER, ("X-Status", status)]);
        assert_eq!((response.status.to_string().as_str(), response.text().starts_with(SECRET)), (status, true));
        assert!(response.field("proxy-status").is_none() && response.field("retry-after").is_none());
    }
}

#[test]
fn origin_fields_for_caching_and_body_when_response_is_replaced_then_are_removed() {
    let origin = obedient_origin();
    let shim = shim(&origin, "");
    let origin_fields = [
        "ETag: \"origin\"",
        "Last-Modified: Tue, 01 Jul 2025 00:00:00 GMT",
        "Set-Cookie: session=1",
        "Set-Cookie: b=2",
        "Age: 7",
        "Expires: Tue, 01 Jul 2031 00:00:00 GMT",
        "Cache-Control: public, max-age=600",
        "Cache-Control: s-maxage=600",
        "Pragma: cache",
        "Surrogate-Control: max-age=600",
        "CDN-Cache-Control: max-age=600",
        "Cloudflare-CDN-Cache-Control: max-age=600",
        "Surrogate-Key: a b",
        "Cache-Tag: a,b",
        "Content-Type: application/vnd.origin",
        "Content-Disposition: attachment",
        "Content-Range: bytes 0-1/2",
        "Accept-Ranges: bytes",
        "Content-MD5: Q2hlY2sgSW50ZWdyaXR5IQ==",
        "Digest: sha-256=x",
        "Repr-Digest: sha-256=:eA==:",
        "Content-Security-Policy: default-src 'none'",
        "Content-Language: tlh",
        "Content-Location: /elsewhere",
        "Vary: X-Own",
        "Proxy-Status: other; error=dns_error",
    ];
    for accept in ["text/html", "application/json", "image/png"] {
        for encoding in ["gzip", "identity"] {
            let mut fields = vec![("Accept", accept), ("Accept-Encoding", encoding), ("X-Status", "503")];
            fields.extend(origin_fields.iter().map(|field| ("X-Say", *field)));
            let response = raw::fetch(shim.addr, "/", &fields);
            assert_eq!((response.status, response.fields_named("cache-control")), (503, vec!["no-store"]), "{accept}");
            for gone in [
                "etag",
                "last-modified",
                "set-cookie",
                "age",
                "expires",
                "pragma",
                "surrogate-control",
                "cdn-cache-control",
                "cloudflare-cdn-cache-control",
                "surrogate-key",
                "cache-tag",
                "content-disposition",
                "content-range",
                "accept-ranges",
                "content-md5",
                "digest",
                "repr-digest",
                "content-location",
            ] {
                assert!(response.field(gone).is_none(), "{gone} was not removed, with {accept}: {:?}", response.fields);
            }
            assert!(
                response.fields.iter().all(|(_, value)| !value.contains("origin") && value != "tlh"),
                "{response:?}"
            );
            assert!(!vary(&response).contains("x-own"), "{:?}", response.fields);
            assert!(!response.text().contains(SECRET));
        }
    }
}

#[test]
fn accept_language_when_supported_then_overrides_host_language_and_default() {
    let origin = obedient_origin();
    let hosts =
        "[whoopsie]\ndefault_locale = \"nl\"\nhosts = { \"www.example.de\" = \"de\", \"WWW.Example.SE\" = \"sv\" }";
    let shim = shim(&origin, hosts);
    let all = ["en", "de", "fr", "es", "it", "nl", "pt", "pl", "ru", "ja", "zh", "ko", "tr", "sv", "ar", "he"];
    for (host, lines, wanted) in [
        ("a.test", &["de-AT, en;q=0.5"][..], "de"),
        ("a.test", &["fr-CA"], "fr"),
        ("a.test", &["FR-ca"], "fr"),
        ("a.test", &["pt-BR,pt;q=0.9,en;q=0.8"], "pt"),
        ("a.test", &["zh-Hant-TW"], "zh"),
        ("a.test", &["iw-IL"], "he"),
        ("a.test", &["en;q=0.1, fr;q=0.9"], "fr"),
        ("a.test", &["en;q=0.1", "fr;q=0.9"], "fr"),
        ("a.test", &["xx, de;q=0.1"], "de"),
        ("a.test", &["de;q=0, fr;q=0.1"], "fr"),
        ("a.test", &["de-CH;q=0.7, de;q=0, it;q=0.5"], "it"),
        ("a.test", &["fr;q=0"], "nl"),
        ("a.test", &["*"], "nl"),
        ("a.test", &["xx"], "nl"),
        ("a.test", &["deu"], "nl"),
        ("a.test", &["de;q=junk"], "nl"),
        ("a.test", &["; ,, -de-"], "nl"),
        ("a.test", &[""], "nl"),
        ("a.test", &[], "nl"),
        ("www.example.de", &[], "de"),
        ("WWW.EXAMPLE.DE:8080", &[], "de"),
        ("www.example.se", &[], "sv"),
        ("www.example.de", &["fr"], "fr"),
        ("www.example.de", &["xx, *"], "de"),
        ("example.de", &[], "nl"),
    ] {
        let mut fields = vec![BROWSER, ("Host", host)];
        fields.extend(lines.iter().map(|line| ("Accept-Language", *line)));
        let response = raw::fetch(shim.addr, "/", &fields);
        assert_eq!(language(&response), wanted, "{host} {lines:?}");
    }
    let mut pages = BTreeSet::new();
    for tag in all {
        let response = raw::fetch(shim.addr, "/", &[BROWSER, ("Accept-Language", tag)]);
        assert_eq!(language(&response), tag);
        let page = page(&response);
        let title = page.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>")).expect("a title").0;
        pages.insert(title.to_owned());
        let counted = [("provider", "none"), ("locale", tag)];
        shim.wait_metrics(|metrics| metrics.sum("edgeshim_whoopsies_total", &counted) >= 1.0);
    }
    assert_eq!(pages.len(), all.len(), "two languages have the same title: {pages:?}");
}

#[test]
fn retry_after_when_valid_then_kept_and_otherwise_the_configured_value_is_sent() {
    let origin = obedient_origin();
    let shim = shim(&origin, "[whoopsie]\nretry_after = \"7s\"");
    for (retry_after, wanted) in [
        ("Retry-After: 120", "120"),
        ("Retry-After: 0", "0"),
        ("Retry-After: Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 1999 23:59:59 GMT"),
        ("Retry-After: soon", "7"),
        ("Retry-After: -5", "7"),
        ("Retry-After: 1.5", "7"),
        ("Retry-After:", "7"),
        ("X-Other: 1", "7"),
    ] {
        for accept in ["text/html", "application/json", "image/png"] {
            let response = raw::fetch(shim.addr, "/", &[("Accept", accept), ("X-Say", retry_after)]);
            assert_eq!(response.fields_named("retry-after"), [wanted], "{retry_after}, {accept}");
        }
        // The countdown in the page starts at the value of Retry-After.
        let page = page(&raw::fetch(shim.addr, "/", &[BROWSER, ("X-Say", retry_after)]));
        let seconds = wanted.parse().unwrap_or(0);
        assert!(page.contains(&format!(" data-seconds=\"{seconds}\"")), "{retry_after}: {page}");
    }
}

#[test]
fn countdown_when_longer_than_a_day_then_left_out() {
    let origin = obedient_origin();
    let shim = shim(&origin, "");
    for (retry_after, counts) in
        [("86400", true), ("86401", false), ("999999999", false), ("Fri, 31 Dec 9999 23:59:59 GMT", false)]
    {
        let response = raw::fetch(shim.addr, "/", &[BROWSER, ("X-Say", &format!("Retry-After: {retry_after}"))]);
        assert_eq!(response.field("retry-after"), Some(retry_after));
        assert_eq!(page(&response).contains("data-seconds="), counts, "{retry_after}");
    }
}

#[test]
fn countdown_when_method_is_not_get_then_left_out() {
    let origin = obedient_origin();
    let shim = shim(&origin, "");
    for (method, counts) in [("GET", true), ("POST", false), ("PUT", false), ("DELETE", false), ("OPTIONS", false)] {
        let page = page(&raw::exchange(shim.addr, raw::request(method, "/", &[BROWSER], b"")));
        assert_eq!(page.contains("data-seconds="), counts, "{method}");
        assert!(page.contains("id=\"again\" href=\"\""), "{method}: the page must have the link to try again");
    }
}

#[test]
fn whoopsie_format_when_client_sends_accept_then_follows_accept() {
    let origin = obedient_origin();
    let shim = shim(&origin, "");
    for (lines, form) in [
        (&[][..], "html"),
        (&[""], "html"),
        (&["*/*"], "html"),
        (&["text/html"], "html"),
        (&[BROWSER.1], "html"),
        (&["text/*"], "html"),
        (&["text/html;q=0.9, application/json;q=0.8"], "html"),
        (&["application/json"], "json"),
        (&["application/problem+json"], "json"),
        (&["application/vnd.api+json"], "json"),
        (&["application/json, text/plain, */*"], "json"),
        (&["text/html;q=0.5", "application/json"], "json"),
        (&["image/avif,image/webp,image/*,*/*;q=0.8"], ""),
        (&["image/png"], ""),
        (&["text/css,*/*;q=0.1"], ""),
        (&["font/woff2"], ""),
        (&["video/mp4"], ""),
    ] {
        let mut fields = vec![("X-Status", "503"), ("X-Request-Id", "the-id"), ("Accept-Encoding", "identity")];
        fields.extend(lines.iter().map(|line| ("Accept", *line)));
        let response = raw::fetch(shim.addr, "/", &fields);
        assert_eq!((response.status, response.field("cache-control")), (503, Some("no-store")), "{lines:?}");
        assert_eq!(response.field("proxy-status"), Some("edgeshim; received-status=503"), "{lines:?}");
        assert_eq!(response.field("retry-after"), Some("30"), "{lines:?}");
        assert!(vary(&response).contains("accept"), "{lines:?}: {:?}", response.fields);
        match form {
            "html" => drop(page(&response)),
            "json" => {
                assert_eq!(response.field("content-type"), Some("application/problem+json"), "{lines:?}");
                let problem = response.json();
                assert_eq!((&problem["status"], &problem["title"]), (&503.into(), &"Service Unavailable".into()));
                assert_eq!(problem["reference"], "the-id", "{problem}");
                assert!(response.field("content-language").is_none() && response.field("content-encoding").is_none());
            }
            _ => {
                assert!(response.body.is_empty() && response.problems.is_empty(), "{lines:?}: {response:?}");
                assert!(
                    response.field("content-type").is_none(),
                    "an empty body must not have a type: {:?}",
                    response.fields
                );
            }
        }
    }
}

#[test]
fn grpc_request_when_origin_sends_5xx_then_response_has_grpc_status_14() {
    let origin = obedient_origin();
    let shim = shim(&origin, "");
    for kind in ["application/grpc", "application/grpc+proto"] {
        let request =
            raw::request("POST", "/pkg.Service/Method", &[("Content-Type", kind), ("TE", "trailers")], b"\0\0\0\0\0");
        let response = raw::exchange(shim.addr, request);
        assert_eq!(response.field("grpc-status"), Some("14"), "{kind}: {:?}", response.fields);
        assert!(response.field("content-type").is_some_and(|kind| kind.starts_with("application/grpc")));
        assert!(response.body.is_empty() && response.field("cache-control") == Some("no-store"), "{response:?}");
    }
}

#[test]
fn class_whoopsie_mode_when_always_or_never_then_decides_whether_page_is_sent() {
    let origin = obedient_origin();
    let classes = "[[class]]\nname = \"always\"\npath = [\"/always/*\"]\nwhoopsie = \"always\"\n\
                   [[class]]\nname = \"never\"\npath = [\"/never/*\"]\nwhoopsie = \"never\"";
    let shim = shim(&origin, classes);
    for accept in ["image/png", "application/json", "text/html", "*/*"] {
        let always = raw::fetch(shim.addr, "/always/x", &[("Accept", accept)]);
        assert_eq!((always.status, language(&always).as_str()), (500, "en"), "{accept}");
        assert!(!vary(&always).contains("accept") && vary(&always).contains("accept-language"), "{accept}");
        let say = ("X-Say", "Content-Type: text/x-own");
        let never = raw::fetch(shim.addr, "/never/x", &[("Accept", accept), say, ("X-Say", "Retry-After: 9")]);
        assert_eq!((never.status, never.text().starts_with(SECRET)), (500, true), "{accept}");
        assert_eq!((never.field("content-type"), never.field("retry-after")), (Some("text/x-own"), Some("9")));
        assert_eq!(never.fields_named("cache-control"), ["no-store"], "{accept}");
        assert!(never.field("proxy-status").is_none(), "{accept}");
    }
    // After a fault, the shim has no origin response to forward. So in a class without pages, the shim sends an empty
    // body. The head has the fields that every response to a fault has.
    let closed = origin::ClosedPort::new();
    let shim = Shim::start(Shim::config(closed.addr).with(classes));
    let never = raw::fetch(shim.addr, "/never/x", &[BROWSER]);
    assert_eq!((never.status, never.body.len(), never.field("content-type")), (502, 0, None), "{never:?}");
    assert_eq!(never.field("proxy-status"), Some("edgeshim; error=connection_refused"));
    assert_eq!((never.field("cache-control"), never.field("retry-after")), (Some("no-store"), Some("30")));
    let always = raw::fetch(shim.addr, "/always/x", &[("Accept", "image/png")]);
    assert_eq!((always.status, language(&always).as_str()), (502, "en"));
}

#[test]
fn statuses_when_configured_then_only_responses_with_a_listed_status_are_replaced() {
    let origin = obedient_origin();
    let some = shim(&origin, "[whoopsie]\nstatuses = [\"502\", \"504-506\"]");
    let none = shim(&origin, "[whoopsie]\nstatuses = []");
    for (status, replaced) in
        [("500", false), ("502", true), ("503", false), ("504", true), ("506", true), ("507", false)]
    {
        let response = raw::fetch(some.addr, "/", &[BROWSER, ("X-Status", status)]);
        assert_eq!(response.status.to_string(), status);
        assert_eq!(!response.text().contains(SECRET), replaced, "{status}");
        assert_eq!(response.fields_named("cache-control"), ["no-store"], "{status}");
        let response = raw::fetch(none.addr, "/", &[BROWSER, ("X-Status", status)]);
        assert!(response.text().contains(SECRET), "{status}");
    }
    // The response to a fault is always the page, even if `statuses` is empty.
    let closed = origin::ClosedPort::new();
    let dead = Shim::start(Shim::config(closed.addr).with("[whoopsie]\nstatuses = []"));
    let response = raw::fetch(dead.addr, "/", &[BROWSER]);
    assert_eq!((response.status, language(&response).as_str()), (502, "en"));
}

#[test]
fn head_response_when_replaced_then_has_the_fields_of_the_get_response_and_no_body() {
    let origin = obedient_origin();
    let shim = shim(&origin, "");
    let mut client = Raw::connect(shim.addr);
    for accept in ["text/html", "application/json", "image/png"] {
        for encoding in ["gzip", "identity"] {
            let fields = [
                ("Accept", accept),
                ("Accept-Encoding", encoding),
                ("X-Request-Id", "one"),
                ("Connection", "keep-alive"),
            ];
            let mut both = Vec::new();
            for method in ["GET", "HEAD"] {
                client.send(raw::request(method, "/", &fields, b""));
                let response = if method == "HEAD" { client.response_to_head() } else { client.response() };
                let response = response.expect("a response");
                assert_eq!((response.status, response.problems.len()), (500, 0), "{response:?}");
                both.push(response);
            }
            assert!(both[1].body.is_empty());
            let comparable = |response: &Response| {
                let mut fields = response.fields.clone();
                fields.retain(|(name, _)| !name.eq_ignore_ascii_case("date"));
                fields.sort();
                fields
            };
            assert_eq!(comparable(&both[0]), comparable(&both[1]), "{accept}, {encoding}");
        }
    }
}

#[test]
fn gzip_page_when_decoded_then_equals_plain_page() {
    let origin = obedient_origin();
    let shim = shim(&origin, "[whoopsie]\nsite_name = \"A & B\"\nstatus_url = \"https://status.example.com/?a=b&c\"");
    let time = regex::Regex::new("<time.*?</time>").expect("a pattern");
    for tag in ["en", "ja", "ar"] {
        for (status, id) in
            [("500", "a"), ("503", "b.b_b-b"), ("599", "c-that-is-a-good-deal-longer-than-the-others-are")]
        {
            let fetch = |encoding: &str| {
                let fields = [
                    BROWSER,
                    ("Accept-Language", tag),
                    ("Accept-Encoding", encoding),
                    ("X-Status", status),
                    ("X-Request-Id", id),
                    ("X-CDN-Provider", "fastly"),
                ];
                raw::fetch(shim.addr, "/", &fields)
            };
            let (plain, packed) = (fetch("identity"), fetch("gzip"));
            assert_eq!((plain.field("content-encoding"), packed.field("content-encoding")), (None, Some("gzip")));
            assert!(
                packed.body.len() < plain.body.len(),
                "the gzip form must be smaller than the plain form, but the sizes are {} and {} bytes",
                packed.body.len(),
                plain.body.len()
            );
            let untimed = |response: &Response| time.replace_all(&page(response), "").into_owned();
            assert_ne!(untimed(&plain), page(&plain), "the page must contain a `time` element");
            assert_eq!(untimed(&plain), untimed(&packed), "{tag} {status} {id}");
            for encoding in ["gzip;q=0", "br", "", "identity, gzip;q=0.5"] {
                assert_eq!(fetch(encoding).field("content-encoding"), None, "{encoding}");
            }
        }
    }
}

#[test]
fn beacon_url_when_page_is_sent_then_has_provider_cause_and_request_id() {
    let origin = obedient_origin();
    let shim = shim(&origin, "");
    let image = |page: &str| {
        let tag = page.split("<img").nth(1).and_then(|rest| rest.split_once('>')).expect("an img tag").0.to_owned();
        let source = tag.split_once("src=\"").and_then(|(_, rest)| rest.split_once('"')).expect("a src attribute").0;
        source.replace("&amp;", "&")
    };
    let fields = [BROWSER, ("X-CDN-Provider", "Fastly"), ("X-Request-Id", "req-1"), ("X-Status", "503")];
    let source = image(&page(&raw::fetch(shim.addr, "/", &fields)));
    let (path, query) = source.split_once('?').expect("a query");
    assert_eq!(path, "/status/images/beacon.gif");
    let pairs: BTreeSet<_> = query.split('&').collect();
    assert!(pairs.contains("source=fastly") && pairs.contains("id=req-1"), "{query}");
    assert!(pairs.contains("server_identity="), "{query}");
    assert!(pairs.iter().any(|pair| pair.strip_prefix("reason=").is_some_and(|cause| !cause.is_empty())), "{query}");

    let seen = origin.count();
    let pixel = raw::fetch(shim.addr, &source, &[]);
    assert_eq!(
        (pixel.status, pixel.field("content-type"), pixel.field("cache-control")),
        (200, Some("image/gif"), Some("no-store"))
    );
    assert!(pixel.body.starts_with(b"GIF89a"));
    shim.wait_metrics(|metrics| metrics.sum("edgeshim_beacons_total", &[("source", "fastly")]) >= 1.0);
    assert_eq!(origin.count(), seen, "the request for the beacon reached the origin");

    // `beacon_base` moves the beacon's URL to another host. After a fault, the URL contains the cause of the fault.
    let closed = origin::ClosedPort::new();
    let piece = "[whoopsie]\nbeacon_base = \"//beacon.example.com\"\n[beacon]\npath = \"/b.gif\"\n\
                 [[provider]]\nname = \"akamai\"";
    let dead = Shim::start(Shim::config(closed.addr).with(piece));
    let response = raw::fetch(dead.addr, "/", &[BROWSER, ("X-CDN-Provider", "akamai"), ("X-Request-Id", "req-2")]);
    let source = image(&page(&response));
    let query = source
        .strip_prefix("//beacon.example.com/b.gif?")
        .unwrap_or_else(|| panic!("the beacon's URL does not begin with `beacon_base`: {source}"));
    let pairs: BTreeSet<_> = query.split('&').collect();
    for pair in ["source=akamai", "reason=refused", "id=req-2"] {
        assert!(pairs.contains(pair), "{pair} is missing in {query}");
    }
    let counted = [("provider", "akamai"), ("locale", "en"), ("cause", "refused")];
    dead.wait_metrics(|metrics| metrics.sum("edgeshim_whoopsies_total", &counted) >= 1.0);
    assert_eq!(
        raw::fetch(dead.addr, "/b.gif?source=akamai", &[]).status,
        200,
        "the shim must serve the beacon without the origin"
    );
}

#[test]
fn page_when_origin_fails_or_is_silent_then_sent() {
    let timeouts = "[origin]\nresponse_timeout = \"300ms\"\nretries = 0";
    let closed = origin::ClosedPort::new();
    let refused = Shim::start(Shim::config(closed.addr));
    let silent_origin = Origin::start(origin::silent());
    let silent = Shim::start(Shim::config(silent_origin.addr).with(timeouts));
    let gone_origin = Origin::start(origin::hang_up());
    let gone = Shim::start(Shim::config(gone_origin.addr).with(timeouts));
    for (shim, status, error) in [
        (&refused, 502, "connection_refused"),
        (&silent, 504, "http_response_timeout"),
        (&gone, 502, "connection_terminated"),
    ] {
        for encoding in ["gzip", "identity"] {
            let fields =
                [BROWSER, ("Accept-Language", "fr"), ("Accept-Encoding", encoding), ("X-Request-Id", "the-id")];
            let response = raw::fetch(shim.addr, "/", &fields);
            assert_eq!((response.status, language(&response).as_str()), (status, "fr"), "{error}");
            assert_eq!(response.fields_named("proxy-status"), [format!("edgeshim; error={error}")]);
            assert_eq!(
                (response.field("cache-control"), response.field("retry-after")),
                (Some("no-store"), Some("30"))
            );
            assert!(page(&response).contains("<bdi>the-id</bdi>"), "{error}");
            for name in ["etag", "last-modified", "age", "expires", "set-cookie"] {
                assert!(response.field(name).is_none(), "{name}: {:?}", response.fields);
            }
        }
    }
}

#[test]
fn origin_connection_when_small_503_is_replaced_then_usually_reused() {
    let origin = obedient_origin();
    let shim = shim(&origin, "");
    let mut client = Raw::connect(shim.addr).patient(Duration::from_secs(10));
    for (size, how) in [("1", ""), ("200", ""), ("4096", ""), ("4096", "X-Split"), ("4096", "X-Chunked")] {
        let before = origin.connections();
        for number in 0..100 {
            let mut fields = vec![BROWSER, ("X-Status", "503"), ("X-Size", size), ("Connection", "keep-alive")];
            fields.extend((!how.is_empty()).then_some((how, "1")));
            client.send(raw::request("GET", "/", &fields, b""));
            let response = client.response().unwrap_or_else(|why| panic!("no response to request {number}: {why:?}"));
            assert_eq!(response.status, 503);
            page(&response);
        }
        // If the shim sends the page before the rest of the origin's body has arrived, the shim closes the origin
        // connection. The number of closed connections depends on the load of the machine.
        let used = origin.connections() - before;
        let most = if how == "X-Split" { 99 } else { 20 };
        assert!(used <= most, "100 responses ({size} bytes, {how:?}) opened {used} connections, more than {most}");
    }
    assert_eq!(origin.count(), 500);
}

#[test]
fn weight_when_leading_zero_is_missing_then_accepted_in_all_accept_fields() {
    let origin = obedient_origin();
    let shim = shim(&origin, "");
    let fetch = |accept, languages, codings| {
        let fields =
            [("X-Status", "503"), ("Accept", accept), ("Accept-Language", languages), ("Accept-Encoding", codings)];
        let response = raw::fetch(shim.addr, "/", &fields);
        let field = |name| response.field(name).unwrap_or_default().to_owned();
        (field("content-language"), field("content-type"), field("content-encoding"))
    };
    let html = "text/html; charset=utf-8".to_owned();
    let json = "application/problem+json".to_owned();
    let first = fetch("text/html;q=.9, application/json;q=.5", "fr;q=.9,en;q=.5", "gzip;q=.5, identity;q=.4");
    assert_eq!(first, ("fr".to_owned(), html.clone(), "gzip".to_owned()));
    let second = fetch("text/html;q=.5, */*;q=.1", "fr;q=.5,en;q=.9", "gzip;q=.4, identity;q=.5");
    assert_eq!(second, ("en".to_owned(), html.clone(), String::new()));
    let third = fetch("text/html;q=.25, */*;q=.1", "fr;q=.0,de;q=.001", "gzip;q=.0");
    assert_eq!(third, ("de".to_owned(), html, String::new()));
    assert_eq!(fetch("text/html;q=.5, application/json;q=.9", "fr", "gzip").1, json);
}
