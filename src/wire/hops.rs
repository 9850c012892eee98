//! What belongs to one hop alone, and the traces a message gathers on its way: Connection, CDN-Loop, Via, Upgrade.
//!
//! The rules are RFC 9110 §7.6.1 and §7.8, RFC 8586 for CDN-Loop. A message without any of these fields costs one pass
//! over the names; nothing is allocated unless Connection names several lines' worth of fields.

use http::Version;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::cache_fields::CacheField;
use super::names::{
    ACCEPT_RANGES, AGE, ALLOW, AUTHORIZATION, CACHE_CONTROL, CDN_CACHE_CONTROL, CDN_LOOP, CLOUDFLARE_CDN_CACHE_CONTROL,
    CONNECTION, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION,
    CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, DATE, EDGE_CONTROL, ETAG, EXPECT, EXPIRES, FORWARDED,
    HOST, HTTP2_SETTINGS, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, KEEP_ALIVE,
    LAST_MODIFIED, LOCATION, MAX_FORWARDS, ORIGIN, PRAGMA, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, PROXY_CONNECTION,
    RANGE, REFERER, REFRESH, RETRY_AFTER, SET_COOKIE, STRICT_TRANSPORT_SECURITY, SURROGATE_CONTROL, SURROGATE_KEY, TE,
    TRACEPARENT, TRACESTATE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT, VARY, VIA, WWW_AUTHENTICATE,
    X_CDN_PROVIDER, X_CONTENT_TYPE_OPTIONS, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_FRAME_OPTIONS,
    X_REQUEST_ID,
};
use super::{cache_tags, tokens};

/// Our name in Via.
const PSEUDONYM_1_0: &str = "1.0 edgeshim";
const PSEUDONYM_1_1: &str = "1.1 edgeshim";
const PSEUDONYM_2_0: &str = "2.0 edgeshim";

/// Lengths of the names in `hop_by_hop`, one bit each: nearly every other name is told apart by its length.
const LENGTHS: u32 = 1 << 2 | 1 << 7 | 1 << 10 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 19;

/// Fields that never travel further, whether Connection names them or not (RFC 9110 §7.6.1), Connection itself first.
///
/// Trailer is not among them: trailers pass, and so does the field that announces them.
fn hop_by_hop() -> [&'static HeaderName; 9] {
    [
        &CONNECTION,
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
        &PROXY_AUTHENTICATE,
        &PROXY_AUTHORIZATION,
        &TE,
        &TRANSFER_ENCODING,
        &UPGRADE,
        &HTTP2_SETTINGS,
    ]
}

/// Fields that Connection cannot remove.
///
/// RFC 9110 §7.6.1 forbids to name there what is meant for all recipients. Whoever does it all the same wants to take
/// something off a message behind the back of those before us: the client's address, a cookie, a condition, what
/// forbids caching. So the fields by which an origin or a cache decides who asks, what is asked and who may keep the
/// answer stay. A field that is unknown to us goes, as the RFC wants.
fn end_to_end() -> [&'static HeaderName; 51] {
    [
        // Framing and target: ours to write, never a stranger's to remove.
        &HOST,
        &CONTENT_LENGTH,
        &TRAILER,
        &EXPECT,
        // Who asks, from where, by which way.
        &AUTHORIZATION,
        &COOKIE,
        &ORIGIN,
        &REFERER,
        &USER_AGENT,
        &FORWARDED,
        &X_FORWARDED_FOR,
        &X_FORWARDED_HOST,
        &X_FORWARDED_PROTO,
        &VIA,
        &CDN_LOOP,
        &X_REQUEST_ID,
        &TRACEPARENT,
        &TRACESTATE,
        // What is asked.
        &RANGE,
        &IF_MATCH,
        &IF_NONE_MATCH,
        &IF_MODIFIED_SINCE,
        &IF_UNMODIFIED_SINCE,
        &IF_RANGE,
        // What the answer is, and who may keep it.
        &CACHE_CONTROL,
        &CDN_CACHE_CONTROL,
        &CLOUDFLARE_CDN_CACHE_CONTROL,
        &EDGE_CONTROL,
        &SURROGATE_CONTROL,
        &SURROGATE_KEY,
        &PRAGMA,
        &EXPIRES,
        &AGE,
        &DATE,
        &VARY,
        &ETAG,
        &LAST_MODIFIED,
        &SET_COOKIE,
        &WWW_AUTHENTICATE,
        &CONTENT_TYPE,
        &CONTENT_ENCODING,
        &CONTENT_LANGUAGE,
        &CONTENT_LOCATION,
        &CONTENT_RANGE,
        &ACCEPT_RANGES,
        &LOCATION,
        &RETRY_AFTER,
        // What protects the reader's browser.
        &CONTENT_SECURITY_POLICY,
        &STRICT_TRANSPORT_SECURITY,
        &X_CONTENT_TYPE_OPTIONS,
        &X_FRAME_OPTIONS,
    ]
}

fn is_end_to_end(token: &[u8]) -> bool {
    end_to_end().into_iter().any(|name| token.eq_ignore_ascii_case(name.as_str().as_bytes()))
}

/// Removes the fields of this hop: Connection, every field it names, and those that never travel further.
///
/// `keep` (the identity field) stays even when it is named, and so do the fields of which only an attacker gains by
/// their removal. A caller that wants to pass on an upgrade, `TE: trailers` or a coding reads them first and writes its
/// own.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap, keep: &HeaderName) {
    let known = hop_by_hop();
    let mut found = 0_u16;
    for name in headers.keys() {
        let length = name.as_str().len();
        if length < 32
            && LENGTHS & (1 << length) != 0
            && let Some(at) = known.iter().position(|&known| known == name)
        {
            found |= 1 << at;
        }
    }
    if found == 0 {
        return;
    }
    if found & 1 != 0 {
        remove_named(headers, keep);
    }
    for (at, name) in known.into_iter().enumerate() {
        if found & (1 << at) != 0 && name != keep {
            headers.remove(name);
        }
    }
}

/// Strips from trailers, of a request or of a response, the fields that only a head may hold (RFC 9110 §6.5.1): connection-specific ones,
/// framing, routing, conditions, caching, cookies, tags, identity (`claims`) and what describes the content. A recipient that merges
/// trailers into the head would believe them, and HTTP/2 forbids the connection-specific ones.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap, claims: &[HeaderName]) {
    let others = [&X_CDN_PROVIDER, &MAX_FORWARDS, &CONTENT_DISPOSITION, &ALLOW, &REFRESH];
    let of_head = |name: &&HeaderName| {
        CacheField::of(name).is_some()
            || cache_tags::delimiter(name).is_some()
            || hop_by_hop().contains(name)
            || end_to_end().contains(name)
            || others.contains(name)
            || claims.contains(name)
    };
    let names: Vec<_> = trailers.keys().filter(of_head).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
    strip_lookalikes(trailers, claims);
}

/// Removes the fields whose names are, with dashes for underscores, those of `claims` or of what says where a request comes from: CGI and
/// its kin know no difference (RFC 3875 §4.1.18), so to such an origin they would be the same field.
pub(crate) fn strip_lookalikes(headers: &mut HeaderMap, claims: &[HeaderName]) {
    let ours = [&X_CDN_PROVIDER, &X_FORWARDED_FOR, &X_FORWARDED_HOST, &X_FORWARDED_PROTO, &CDN_LOOP];
    let names = || ours.into_iter().chain(claims);
    // Two that are the same but for this are as long: few names are looked at more closely.
    let lengths = names().fold(0_u64, |lengths, name| lengths | 1 << (name.as_str().len() % 64));
    let is_odd = |name: &&HeaderName| lengths & 1 << (name.as_str().len() % 64) != 0 && name.as_str().contains('_');
    if !headers.keys().any(|name| is_odd(&name)) {
        return;
    }
    let same = |odd: &HeaderName, name: &HeaderName| odd.as_str().replace('_', "-") == name.as_str().replace('_', "-");
    let odd: Vec<HeaderName> =
        headers.keys().filter(is_odd).filter(|odd| names().any(|name| same(odd, name))).cloned().collect();
    for name in odd {
        headers.remove(name);
    }
}

/// Removes the fields that Connection names.
fn remove_named(headers: &mut HeaderMap, keep: &HeaderName) {
    // The values must not be borrowed while fields go. A clone shares its bytes; only a second line needs a list.
    let mut lines = headers.get_all(CONNECTION).iter();
    let Some(first) = lines.next().cloned() else { return };
    let more: Vec<HeaderValue> = lines.cloned().collect();
    for line in std::iter::once(&first).chain(&more) {
        for token in tokens::of_line(line.as_bytes()) {
            if token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close") {
                continue;
            }
            // Connection itself stays until the caller takes it off, so that it is found there.
            if let Ok(name) = std::str::from_utf8(token)
                && headers.contains_key(name)
                && !token.eq_ignore_ascii_case(keep.as_str().as_bytes())
                && !is_end_to_end(token)
            {
                headers.remove(name);
            }
        }
    }
}

/// The most entries of CDN-Loop that are looked at.
const MOST_LOOP_ENTRIES: usize = 1_000;

/// How often `our_id` stands in CDN-Loop, over all lines, in any case, with or without parameters (RFC 8586 §2).
pub(crate) fn cdn_loop_count(headers: &HeaderMap, our_id: &str) -> u32 {
    if !headers.contains_key(&CDN_LOOP) {
        return 0;
    }
    // Counted from its end, to which each hop appends: a list that somebody made very long costs no more than this.
    let ours = tokens::last(headers, &CDN_LOOP, MOST_LOOP_ENTRIES)
        .filter(|member| tokens::with_parameters(member).0.eq_ignore_ascii_case(our_id.as_bytes()))
        .count();
    u32::try_from(ours).unwrap_or(u32::MAX)
}

/// Appends `our_id` to CDN-Loop as a line of its own; the lines of others stay as they are (RFC 8586 §2).
///
/// A map that is full (32,768 fields, far beyond what a head may hold) is left as it is.
pub(crate) fn append_cdn_loop(headers: &mut HeaderMap, our_id: &HeaderValue) {
    let _ = headers.try_append(CDN_LOOP.clone(), our_id.clone());
}

/// Appends `edgeshim` to Via as a line of its own, with the version in which the message was received (RFC 9110
/// §7.6.3).
///
/// A map that is full (32,768 fields, far beyond what a head may hold) is left as it is.
pub(crate) fn append_via(headers: &mut HeaderMap, version: Version) {
    let entry = match version {
        Version::HTTP_2 => PSEUDONYM_2_0,
        Version::HTTP_09 | Version::HTTP_10 => PSEUDONYM_1_0,
        _ => PSEUDONYM_1_1,
    };
    let _ = headers.try_append(VIA, HeaderValue::from_static(entry));
}

/// Makes one line of the Cookie lines into which HTTP/2 may split the field (RFC 9113 §8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    if let (Some(_), Some(_)) = (lines.next(), lines.next()) {
        let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(line) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            headers.insert(COOKIE, line);
        }
    }
}

/// The protocol the client wants to change to: Upgrade, if Connection names it.
///
/// Not h2c, not even beside others: who passes that on hands the connection's further requests past every check (RFC
/// 9113 §3.1 took it back). Several Upgrade lines are no wish either. That HTTP/1.0 cannot upgrade is the caller's to
/// know.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut lines = headers.get_all(UPGRADE).iter();
    let (Some(wish), None) = (lines.next(), lines.next()) else { return None };
    if !tokens::has_token(headers, &CONNECTION, "upgrade") {
        return None;
    }
    let mut any = false;
    for protocol in tokens::of_line(wish.as_bytes()) {
        any = true;
        let name = protocol.split(|&byte| byte == b'/').next().unwrap_or(protocol);
        if name.trim_ascii().eq_ignore_ascii_case(b"h2c") {
            return None;
        }
    }
    any.then_some(wish)
}

/// Whether the client takes trailers (`TE: trailers`, RFC 9110 §10.1.4). To be asked before the hop's fields go.
pub(crate) fn wants_trailers(headers: &HeaderMap) -> bool {
    tokens::tokens(headers, &TE).any(|member| tokens::with_parameters(member).0.eq_ignore_ascii_case(b"trailers"))
}

/// Whether Transfer-Encoding holds anything but one single `chunked`: a coding we do not undo must not be passed on as
/// content.
pub(crate) fn has_unknown_coding(headers: &HeaderMap) -> bool {
    if !headers.contains_key(TRANSFER_ENCODING) {
        return false;
    }
    let mut codings = tokens::members(headers, &TRANSFER_ENCODING);
    !codings.next().is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked")) || codings.next().is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn stripped(fields: &[(&str, &str)]) -> Vec<String> {
        let mut headers = map(fields);
        strip_hop_by_hop(&mut headers, &super::super::names::X_CDN_PROVIDER);
        let mut names: Vec<_> = headers.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn lengths_tell_every_name() {
        for name in hop_by_hop() {
            assert!(LENGTHS & (1 << name.as_str().len()) != 0, "{name}");
        }
    }

    #[test]
    fn the_fields_of_a_hop_go_unnamed_too() {
        let all: Vec<_> = hop_by_hop().iter().map(|name| (name.as_str(), "x")).collect();
        assert!(stripped(&all).is_empty());
        assert_eq!(
            stripped(&[("te", "trailers"), ("host", "a"), ("content-length", "0"), ("trailer", "x")]),
            ["content-length", "host", "trailer"]
        );
    }

    #[test]
    fn named_fields_go_over_several_lines() {
        assert_eq!(
            stripped(&[
                ("connection", "keep-alive, X-One,, x-absent"),
                ("connection", "x-two , \u{e4}, close, connection"),
                ("connection", "X-THREE"),
                ("x-one", "1"),
                ("x-one", "1"),
                ("x-two", "2"),
                ("x-three", "3"),
                ("x-four", "4"),
            ]),
            ["x-four"]
        );
    }

    #[test]
    fn the_identity_field_and_end_to_end_fields_stay_when_named() {
        let mut fields: Vec<_> = end_to_end().iter().map(|name| (name.as_str(), "x")).collect();
        fields.push(("x-cdn-provider", "x"));
        let named = fields.iter().map(|(name, _)| name.to_ascii_uppercase()).collect::<Vec<_>>().join(",");
        let mut wanted: Vec<_> = fields.iter().map(|(name, _)| (*name).to_owned()).collect();
        wanted.sort();
        fields.push(("connection", &named));
        assert_eq!(stripped(&fields), wanted);
    }

    #[test]
    fn an_identity_field_of_any_name_is_kept() {
        let mut headers = map(&[("connection", "x-pull"), ("x-pull", "a")]);
        strip_hop_by_hop(&mut headers, &HeaderName::from_static("x-pull"));
        assert!(headers.contains_key("x-pull") && !headers.contains_key(CONNECTION));
    }

    #[test]
    fn loops_are_counted_over_lines_and_parameters() {
        let headers = map(&[
            ("cdn-loop", "Fastly, EdgeShim; v=\"a,edgeshim\" , edgeshimx"),
            ("cdn-loop", "edgeshim;x"),
            ("cdn-loop", "edgeshim"),
        ]);
        assert_eq!(cdn_loop_count(&headers, "edgeshim"), 3);
        assert_eq!(cdn_loop_count(&headers, "fastly"), 1);
        assert_eq!(cdn_loop_count(&HeaderMap::new(), "edgeshim"), 0);
    }

    #[test]
    fn appending_keeps_what_others_wrote() {
        let mut headers = map(&[("cdn-loop", "Fastly"), ("via", "1.1 varnish")]);
        append_cdn_loop(&mut headers, &HeaderValue::from_static("edgeshim"));
        append_via(&mut headers, Version::HTTP_2);
        append_via(&mut headers, Version::HTTP_11);
        append_via(&mut headers, Version::HTTP_10);
        let lines = |name: &HeaderName| {
            headers.get_all(name).iter().map(|line| line.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(lines(&CDN_LOOP), ["Fastly", "edgeshim"]);
        assert_eq!(lines(&VIA), ["1.1 varnish", "2.0 edgeshim", "1.1 edgeshim", "1.0 edgeshim"]);
    }

    #[test]
    fn upgrades_need_both_fields_and_no_h2c() {
        let wish = |fields: &[(&str, &str)]| wants_upgrade(&map(fields)).is_some();
        assert!(wish(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]));
        assert!(wish(&[("connection", "upgrade"), ("upgrade", "a/1, b")]));
        assert!(!wish(&[("upgrade", "websocket")]));
        assert!(!wish(&[("connection", "upgrade")]));
        assert!(!wish(&[("connection", "upgrade"), ("upgrade", "")]));
        assert!(!wish(&[("connection", "upgrade"), ("upgrade", "H2C")]));
        assert!(!wish(&[("connection", "upgrade"), ("upgrade", "websocket, h2c/1")]));
        assert!(!wish(&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")]));
    }

    #[test]
    fn names_that_cgi_takes_for_ours_go() {
        let mut headers = map(&[
            ("x_cdn_provider", "fastly"),
            ("x-forwarded_for", "6.6.6.6"),
            ("x_origin_secret", "guessed"),
            ("x_custom", "stays"),
            ("x-forwarded-for", "stays"),
        ]);
        strip_lookalikes(&mut headers, &[HeaderName::from_static("x-origin-secret")]);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-forwarded-for", "x_custom"]);
    }

    #[test]
    fn trailers_and_codings_are_read() {
        assert!(wants_trailers(&map(&[("te", "deflate;q=0.5, Trailers")])));
        assert!(!wants_trailers(&map(&[("te", "gzip")])));
        assert!(!has_unknown_coding(&map(&[])));
        assert!(!has_unknown_coding(&map(&[("transfer-encoding", "Chunked")])));
        for bad in ["", "gzip, chunked", "chunked, chunked", "identity", "chunked;x=1", "xchunked"] {
            assert!(has_unknown_coding(&map(&[("transfer-encoding", bad)])), "{bad}");
        }
        assert!(has_unknown_coding(&map(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")])));
    }

    proptest! {
        #[test]
        fn nothing_of_the_hop_survives_and_nothing_else_is_lost(
            named in prop::collection::vec("[xX]-[a-c]", 0..4),
            there in prop::collection::vec("x-[a-e]", 0..6),
            junk in "[ -~]{0,12}",
        ) {
            let mut headers = map(&[("host", "a"), ("x-cdn-provider", "b"), ("keep-alive", "1"), ("cookie", "c")]);
            for name in &there {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("v"));
            }
            headers.append(CONNECTION, HeaderValue::from_str(&named.join(",")).unwrap());
            headers.append(CONNECTION, HeaderValue::from_str(&junk).unwrap());
            strip_hop_by_hop(&mut headers, &super::super::names::X_CDN_PROVIDER);
            prop_assert!(headers.contains_key(HOST) && headers.contains_key("x-cdn-provider") && headers.contains_key(COOKIE));
            prop_assert!(!headers.contains_key(CONNECTION) && !headers.contains_key(&KEEP_ALIVE));
            for name in there {
                let gone = named.iter().any(|named| named.eq_ignore_ascii_case(&name)) || junk.to_ascii_lowercase().split(',').any(|junk| junk.trim() == name);
                prop_assert_eq!(headers.contains_key(&name), !gone);
            }
        }
    }
}
