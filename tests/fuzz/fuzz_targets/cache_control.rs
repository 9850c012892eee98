//! Fuzzes Cache-Control from hostile origins: reading, writing and the cache policy.
//!
//! The first byte of the input selects the cache policy. The second byte selects the status, the method, whether the
//! request has Authorization, and whether an experiment has assigned the visitor. Together with the number of lines,
//! the second byte selects the dialect. The rest of the input is split at line feeds. The check of the parser reads
//! each line as Cache-Control. For the check of the policy, a line whose first byte is 0 to 8 or 11 becomes a line of
//! another header field, and each other line becomes a line of Cache-Control.

#![no_main]

use std::time::SystemTime;

use edgeshim::internals::{CacheControl, CacheMode, CachePolicy, Dialect, Facts, Prepared, edge_control, names};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[class, request], rest)) = data.split_first_chunk::<2>() else { return };
    let lines: Vec<&[u8]> = rest.split(|&b| b == b'\n').collect();
    reads_what_it_wrote(&lines);
    decides(class, request, &lines);
});

fn reads_what_it_wrote(lines: &[&[u8]]) {
    let mut parsed = CacheControl::parse(lines.iter().copied());
    let backwards = CacheControl::parse(lines.iter().rev().copied());
    assert_eq!(parsed, backwards);

    parsed.settle();
    let value = parsed.settled_value();
    assert_eq!(parsed, CacheControl::parse(value.as_ref().map(HeaderValue::as_bytes)));
    assert!(value.is_none_or(|value| parsed.is_written_as(value.as_bytes())));
}

fn decides(class: u8, request: u8, lines: &[&[u8]]) {
    let mut response = HeaderMap::new();
    for line in lines {
        let (name, text) = match line {
            [0, text @ ..] => (&names::EXPIRES, text),
            [1, text @ ..] => (&names::DATE, text),
            [2, text @ ..] => (&names::PRAGMA, text),
            [3, text @ ..] => (&names::VARY, text),
            [4, text @ ..] => (&names::SET_COOKIE, text),
            [5, text @ ..] => (&names::SURROGATE_CONTROL, text),
            [6, text @ ..] => (&names::CDN_CACHE_CONTROL, text),
            [7, text @ ..] => (&names::AGE, text),
            [8, text @ ..] => (&names::CLOUDFLARE_CDN_CACHE_CONTROL, text),
            [11, text @ ..] => (&names::EDGE_CONTROL, text),
            text => (&names::CACHE_CONTROL, *text),
        };
        if let Ok(value) = HeaderValue::from_bytes(text) {
            response.append(name, value);
        }
    }
    let bit = |byte: u8, index: u32| byte >> index & 1 == 1;
    let policy = CachePolicy {
        mode: [CacheMode::Keep, CacheMode::Default, CacheMode::Override, CacheMode::Never][usize::from(class & 3)],
        ttl: bit(class, 2).then_some(60),
        edge_ttl: bit(class, 3).then_some(u64::MAX),
        stale_while_revalidate: bit(class, 4).then_some(5),
        immutable: bit(class, 4),
        strip_cookies: bit(class, 5),
        vary: bit(class, 6).then(|| vec!["Accept-Encoding".to_owned()]),
        allow_authorization: bit(class, 7),
        ..CachePolicy::default()
    };
    let status = [200, 206, 304, 404, 302, 201, 503, 101][usize::from(request & 7)];
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let method = if bit(request, 3) { Method::POST } else { Method::GET };
    let assigned = bit(request, 5);
    let facts = Facts { method: &method, authorization: bit(request, 4), assigned, now: SystemTime::now };

    // Two bits select one of four dialects. The number of lines decides which dialect is the last of the four.
    let last = if lines.len() % 2 == 0 { Dialect::Rfc9213 } else { Dialect::Akamai };
    let dialects = [Dialect::Generic, Dialect::Fastly, Dialect::Cloudflare, last];
    let dialect = dialects[usize::from(request >> 6)];

    let prepared = Prepared::new(&policy, dialect);
    prepared.apply(&mut response, status, &facts);
    let once = response.clone();
    let again = prepared.apply(&mut response, status, &facts);
    assert_eq!(once, response);
    assert!(again.action.is_none());
    if status.is_informational() {
        return;
    }

    assert!(response.get_all(&names::CACHE_CONTROL).iter().count() <= 1);
    let mut lasting = false;
    // The targeted field is read last, because the CDN prefers the lifetime in the targeted field.
    for name in std::iter::once(&names::CACHE_CONTROL).chain(dialect.targeted_field()) {
        let directives = CacheControl::parse(response.get(name).map(HeaderValue::as_bytes));
        assert!(!(directives.is_restricted() && directives.has_lifetime()));
        if status.is_server_error() {
            assert!(directives.no_store);
        }
        if directives.has_lifetime() || directives.is_restricted() {
            lasting = directives.s_maxage.or(directives.max_age).is_some_and(|seconds| seconds > 0);
        }
    }
    assert!(dialect == Dialect::Akamai || !response.contains_key(&names::EDGE_CONTROL));
    let edge_control = edge_control(response.get_all(&names::EDGE_CONTROL).iter().map(HeaderValue::as_bytes));
    let edge_lasting = edge_control.and_then(|directives| directives.max_age).is_some_and(|seconds| seconds > 0);
    assert!(!(edge_lasting && status.is_server_error()));
    lasting |= edge_lasting;
    assert!(!(method == Method::GET && lasting && response.contains_key(&names::SET_COOKIE)));
}
