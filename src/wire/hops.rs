//! Fields that apply to one connection only, such as Connection and Upgrade, and fields to which each proxy appends an
//! entry: CDN-Loop and Via (RFC 9110 §7.6.1, RFC 9110 §7.6.3, RFC 9110 §7.8, RFC 8586).
//!
//! For a message without these fields, the cost is at most one pass over the names. [`strip_hop_by_hop`] allocates only
//! if there are several Connection lines.

use http::Version;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::cache_fields::CacheField;
use super::head_fields::{Fields, Names};
use super::names::{
    ACCEPT_RANGES, AGE, ALLOW, AUTHORIZATION, CACHE_CONTROL, CDN_CACHE_CONTROL, CDN_LOOP, CLOUDFLARE_CDN_CACHE_CONTROL,
    CONNECTION, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION,
    CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, DATE, EDGE_CONTROL, ETAG, EXPECT, EXPIRES, FORWARDED,
    HOST, HTTP2_SETTINGS, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, KEEP_ALIVE,
    LAST_MODIFIED, LOCATION, MAX_FORWARDS, ORIGIN, PRAGMA, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, PROXY_CONNECTION,
    RANGE, REFERER, REFRESH, RETRY_AFTER, SET_COOKIE, STRICT_TRANSPORT_SECURITY, SURROGATE_CONTROL, SURROGATE_KEY, TE,
    TRACEPARENT, TRACESTATE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT, VARY, VIA, WWW_AUTHENTICATE,
    X_CDN_PROVIDER, X_CONTENT_TYPE_OPTIONS, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_FRAME_OPTIONS,
    X_REQUEST_ID, is_assignment,
};
use super::{cache_tags, tokens};

/// The name of this proxy in CDN-Loop and Via.
pub(crate) const PSEUDONYM: &str = "edgeshim";
/// The entry of edgeshim in Via, for each version of the received message.
const PSEUDONYM_1_0: &str = "1.0 edgeshim";
const PSEUDONYM_1_1: &str = "1.1 edgeshim";
const PSEUDONYM_2_0: &str = "2.0 edgeshim";

/// The lengths of the names in `hop_by_hop`, one bit for each length. A name of any other length needs no comparison.
const LENGTHS: u32 = 1 << 2 | 1 << 7 | 1 << 10 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 19;

/// The names in `hop_by_hop`.
const HOP_BY_HOP: Names = Names::of_list(&[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
]);

/// Returns the fields that are never forwarded, even if Connection does not name them (RFC 9110 §7.6.1). Connection
/// must be the first field of the list, because `strip_hop_by_hop` checks bit 0 for Connection.
///
/// Trailer is not in the list, because trailers are forwarded together with the field that announces them.
#[rustfmt::skip] // a list
fn hop_by_hop() -> [&'static HeaderName; 9] {
    [
        &CONNECTION, &KEEP_ALIVE, &PROXY_CONNECTION, &PROXY_AUTHENTICATE, &PROXY_AUTHORIZATION, &TE,
        &TRANSFER_ENCODING, &UPGRADE, &HTTP2_SETTINGS,
    ]
}

/// Returns the fields that Connection cannot remove.
///
/// RFC 9110 §7.6.1 forbids senders to name in Connection a field that is meant for all recipients. An attacker can
/// still name such a field, so that a proxy removes the field: for example the client's address, a cookie, a condition,
/// or a directive that forbids caching. Therefore the fields of this list stay. All other fields that Connection names
/// are removed, as the RFC demands, except the identity header and the fields with the arms of experiments.
#[rustfmt::skip] // a list
fn end_to_end() -> [&'static HeaderName; 51] {
    [
        // Framing and the target of the request.
        &HOST, &CONTENT_LENGTH, &TRAILER, &EXPECT,
        // The client, and the proxies that the request has passed.
        &AUTHORIZATION, &COOKIE, &ORIGIN, &REFERER, &USER_AGENT, &FORWARDED, &X_FORWARDED_FOR, &X_FORWARDED_HOST,
        &X_FORWARDED_PROTO, &VIA, &CDN_LOOP, &X_REQUEST_ID, &TRACEPARENT, &TRACESTATE,
        // Ranges and conditions of the request.
        &RANGE, &IF_MATCH, &IF_NONE_MATCH, &IF_MODIFIED_SINCE, &IF_UNMODIFIED_SINCE, &IF_RANGE,
        // Fields of the response, above all about its content and about the caches that may store it.
        &CACHE_CONTROL, &CDN_CACHE_CONTROL, &CLOUDFLARE_CDN_CACHE_CONTROL, &EDGE_CONTROL, &SURROGATE_CONTROL,
        &SURROGATE_KEY, &PRAGMA, &EXPIRES, &AGE, &DATE, &VARY, &ETAG, &LAST_MODIFIED, &SET_COOKIE,
        &WWW_AUTHENTICATE, &CONTENT_TYPE, &CONTENT_ENCODING, &CONTENT_LANGUAGE, &CONTENT_LOCATION, &CONTENT_RANGE,
        &ACCEPT_RANGES, &LOCATION, &RETRY_AFTER,
        // Security rules for the browser.
        &CONTENT_SECURITY_POLICY, &STRICT_TRANSPORT_SECURITY, &X_CONTENT_TYPE_OPTIONS, &X_FRAME_OPTIONS,
    ]
}

fn is_end_to_end(token: &[u8]) -> bool {
    // A client could otherwise remove the arm that `assign` has written.
    is_assignment(token) || end_to_end().into_iter().any(|name| token.eq_ignore_ascii_case(name.as_str().as_bytes()))
}

/// Removes the fields that apply to this connection only: Connection, the fields that Connection names, and the fields
/// that are never forwarded.
///
/// `keep` (the identity header) and the end-to-end fields stay even if Connection names them. A caller that forwards an
/// upgrade, `TE: trailers` or a transfer coding must read the field before this call and write a new field after this
/// call.
///
/// `names` is the set of the names of the head's fields. The set can have too many names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap, names: Names, keep: &HeaderName) {
    if !Fields::new(headers, names).can_have_any(HOP_BY_HOP) {
        return;
    }
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

/// Removes, from the trailers of a request or response, the fields that are allowed only in a head (RFC 9110 §6.5.1).
/// These fields concern, for example, the connection, framing, routing, conditions, caching, cookies, cache tags and
/// content metadata. `claims` contains the fields that name or prove the provider, which are removed too. The function
/// removes these fields because a recipient that merges trailers into the head would trust them. HTTP/2 also forbids
/// fields about the connection in trailers.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap, claims: &[HeaderName]) {
    let others = [&X_CDN_PROVIDER, &MAX_FORWARDS, &CONTENT_DISPOSITION, &ALLOW, &REFRESH];
    let of_head = |name: &&HeaderName| {
        CacheField::of(name).is_some()
            || cache_tags::delimiter(name).is_some()
            || hop_by_hop().contains(name)
            || end_to_end().contains(name)
            || others.contains(name)
            || claims.contains(name)
            || is_assignment(name.as_str().as_bytes())
    };
    let names: Vec<_> = trailers.keys().filter(of_head).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
    strip_lookalikes(trailers, claims);
}

/// Removes each field whose name is a protected name with underscores in place of some or all dashes. The protected
/// names are the names in `claims` and the names of fields about the source of the request, for example
/// X-Forwarded-For. An origin with CGI or a similar interface treats both spellings as the same field (RFC 3875
/// §4.1.18).
pub(crate) fn strip_lookalikes(headers: &mut HeaderMap, claims: &[HeaderName]) {
    let ours = [&X_CDN_PROVIDER, &X_FORWARDED_FOR, &X_FORWARDED_HOST, &X_FORWARDED_PROTO, &CDN_LOOP];
    let names = || ours.into_iter().chain(claims);
    // Both spellings have the same length. So only names that have the length of a protected name are compared.
    let lengths = names().fold(0_u64, |lengths, name| lengths | 1 << (name.as_str().len() % 64));
    let is_odd = |name: &&HeaderName| {
        let name = name.as_str().as_bytes();
        lengths & 1 << (name.len() % 64) != 0 && name.contains(&b'_')
    };
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

/// Removes the fields that Connection names, except `keep` and the end-to-end fields.
fn remove_named(headers: &mut HeaderMap, keep: &HeaderName) {
    // The values are cloned, because `headers` must not be borrowed while fields are removed. A clone shares the bytes
    // of the value. A list is allocated only if there is a second line.
    let mut lines = headers.get_all(CONNECTION).iter();
    let Some(first) = lines.next().cloned() else { return };
    let more: Vec<HeaderValue> = lines.cloned().collect();
    for line in std::iter::once(&first).chain(&more) {
        for token in tokens::of_line(line.as_bytes()) {
            if token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close") {
                continue;
            }
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

/// The largest number of entries of CDN-Loop that are read.
const MOST_LOOP_ENTRIES: usize = 1_000;

/// Returns how often `our_id`, the entry of edgeshim, is in the lines of CDN-Loop. The comparison ignores case and
/// parameters (RFC 8586 §2).
pub(crate) fn cdn_loop_count<'a>(fields: impl Into<Fields<'a>>, our_id: &str) -> u32 {
    let fields = fields.into();
    if !fields.can_have(&CDN_LOOP) {
        return 0;
    }
    // Each hop appends its entry at the end, so the function reads the last entries. The limit bounds the cost of a
    // very long list.
    let is_ours = |text: &[u8]| text.eq_ignore_ascii_case(our_id.as_bytes());
    let ours = tokens::last(fields.headers(), &CDN_LOOP, MOST_LOOP_ENTRIES)
        // Most entries differ in their first bytes, so their parameters are not searched.
        .filter(|member| member.get(..our_id.len()).is_some_and(is_ours))
        .filter(|member| is_ours(tokens::with_parameters(member).0))
        .count();
    u32::try_from(ours).unwrap_or(u32::MAX)
}

/// Appends `our_id` to CDN-Loop as a separate line, so that other lines stay unchanged (RFC 8586 §2).
///
/// Does nothing if the map is full. The limits for heads are much lower than the capacity of the map.
pub(crate) fn append_cdn_loop(headers: &mut HeaderMap, our_id: HeaderValue) {
    let _ = headers.try_append(CDN_LOOP.clone(), our_id);
}

/// Returns the entry of edgeshim in Via. `version` is the version of the received message.
pub(super) fn via(version: Version) -> HeaderValue {
    // The constants are checked when edgeshim is compiled.
    match version {
        Version::HTTP_2 => const { HeaderValue::from_static(PSEUDONYM_2_0) },
        Version::HTTP_09 | Version::HTTP_10 => const { HeaderValue::from_static(PSEUDONYM_1_0) },
        _ => const { HeaderValue::from_static(PSEUDONYM_1_1) },
    }
}

/// Appends the entry of edgeshim to Via as a separate line, with the version of the received message (RFC 9110 §7.6.3).
///
/// Does nothing if the map is full, like [`append_cdn_loop`].
pub(crate) fn append_via(headers: &mut HeaderMap, version: Version) {
    let _ = headers.try_append(VIA, via(version));
}

/// Joins several Cookie lines into one line. HTTP/2 allows several lines (RFC 9113 §8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    if let (Some(_), Some(_)) = (lines.next(), lines.next()) {
        let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(line) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            headers.insert(COOKIE, line);
        }
    }
}

/// Returns the value of Upgrade, which lists the protocols that the client requests. Returns `None` if Upgrade is
/// absent, is empty or has several lines, if Connection does not name Upgrade, or if the list contains h2c.
///
/// After an upgrade to h2c, further requests on the connection would bypass every check. RFC 9113 §3.1 declares the
/// upgrade to h2c obsolete. The caller must check that the request is not HTTP/1.0, because that version has no
/// upgrade.
pub(crate) fn wants_upgrade<'a>(fields: impl Into<Fields<'a>>) -> Option<&'a HeaderValue> {
    let fields = fields.into();
    let mut lines = fields.lines(&UPGRADE);
    let (Some(upgrade), None) = (lines.next(), lines.next()) else { return None };
    if !tokens::has_token(fields.headers(), &CONNECTION, "upgrade") {
        return None;
    }
    let mut any = false;
    for protocol in tokens::of_line(upgrade.as_bytes()) {
        any = true;
        let name = protocol.split(|&byte| byte == b'/').next().unwrap_or(protocol);
        if name.trim_ascii().eq_ignore_ascii_case(b"h2c") {
            return None;
        }
    }
    any.then_some(upgrade)
}

/// Returns whether the client accepts trailers (`TE: trailers`, RFC 9110 §10.1.4). The caller must call this function
/// before [`strip_hop_by_hop`], which removes TE.
pub(crate) fn wants_trailers<'a>(fields: impl Into<Fields<'a>>) -> bool {
    fields.into().lines(&TE).any(|line| has_trailers(line.as_bytes()))
}

/// Returns whether a line of TE has the member `trailers`.
pub(crate) fn has_trailers(line: &[u8]) -> bool {
    tokens::of_line(line).any(|member| tokens::with_parameters(member).0.eq_ignore_ascii_case(b"trailers"))
}

/// Returns whether Transfer-Encoding is present and its value is not exactly one `chunked`. edgeshim does not decode
/// other transfer codings, so a body in another coding must not be forwarded as content.
pub(crate) fn has_unknown_coding<'a>(fields: impl Into<Fields<'a>>) -> bool {
    let fields = fields.into();
    if !fields.has(&TRANSFER_ENCODING) {
        return false;
    }
    let mut codings = tokens::members(fields.headers(), &TRANSFER_ENCODING);
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
        let filter = Names::of(&headers);
        strip_hop_by_hop(&mut headers, filter, &super::super::names::X_CDN_PROVIDER);
        let mut names: Vec<_> = headers.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn hop_by_hop_name_when_listed_then_bit_for_name_length_is_set() {
        for name in hop_by_hop() {
            assert!(LENGTHS & (1 << name.as_str().len()) != 0, "{name}");
        }
    }

    #[test]
    fn hop_by_hop_field_when_connection_does_not_name_the_field_then_is_removed() {
        let all: Vec<_> = hop_by_hop().iter().map(|name| (name.as_str(), "x")).collect();
        assert!(stripped(&all).is_empty());
        assert_eq!(
            stripped(&[("te", "trailers"), ("host", "a"), ("content-length", "0"), ("trailer", "x")]),
            ["content-length", "host", "trailer"]
        );
    }

    #[test]
    fn field_when_any_connection_line_names_the_field_then_is_removed() {
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
    fn identity_and_end_to_end_fields_when_connection_names_the_fields_then_are_kept() {
        let mut fields: Vec<_> = end_to_end().iter().map(|name| (name.as_str(), "x")).collect();
        fields.push(("x-cdn-provider", "x"));
        let named = fields.iter().map(|(name, _)| name.to_ascii_uppercase()).collect::<Vec<_>>().join(",");
        let mut wanted: Vec<_> = fields.iter().map(|(name, _)| (*name).to_owned()).collect();
        wanted.sort();
        fields.push(("connection", &named));
        assert_eq!(stripped(&fields), wanted);
    }

    #[test]
    fn configured_identity_header_when_connection_names_the_header_then_is_kept() {
        let mut headers = map(&[("connection", "x-pull"), ("x-pull", "a")]);
        strip_hop_by_hop(&mut headers, Names::ALL, &HeaderName::from_static("x-pull"));
        assert!(headers.contains_key("x-pull") && !headers.contains_key(CONNECTION));
    }

    #[test]
    fn cdn_loop_count_when_field_has_several_lines_then_includes_all_lines() {
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
    fn via_and_cdn_loop_when_other_entries_exist_then_other_entries_are_unchanged() {
        let mut headers = map(&[("cdn-loop", "Fastly"), ("via", "1.1 varnish")]);
        append_cdn_loop(&mut headers, HeaderValue::from_static("edgeshim"));
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
    fn upgrade_when_fields_are_incomplete_or_name_h2c_then_is_not_wanted() {
        let upgrade = |fields: &[(&str, &str)]| wants_upgrade(&map(fields)).is_some();
        assert!(upgrade(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]));
        assert!(upgrade(&[("connection", "upgrade"), ("upgrade", "a/1, b")]));
        assert!(!upgrade(&[("upgrade", "websocket")]));
        assert!(!upgrade(&[("connection", "upgrade")]));
        assert!(!upgrade(&[("connection", "upgrade"), ("upgrade", "")]));
        assert!(!upgrade(&[("connection", "upgrade"), ("upgrade", "H2C")]));
        assert!(!upgrade(&[("connection", "upgrade"), ("upgrade", "websocket, h2c/1")]));
        assert!(!upgrade(&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")]));
    }

    #[test]
    fn lookalike_field_when_name_has_underscores_then_is_removed() {
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
    fn trailers_when_te_lists_trailers_then_are_wanted() {
        assert!(wants_trailers(&map(&[("te", "deflate;q=0.5, Trailers")])));
        assert!(!wants_trailers(&map(&[("te", "gzip")])));
    }

    #[test]
    fn transfer_coding_when_not_exactly_one_chunked_then_is_unknown() {
        assert!(!has_unknown_coding(&map(&[])));
        assert!(!has_unknown_coding(&map(&[("transfer-encoding", "Chunked")])));
        for bad in ["", "gzip, chunked", "chunked, chunked", "identity", "chunked;x=1", "xchunked"] {
            assert!(has_unknown_coding(&map(&[("transfer-encoding", bad)])), "{bad}");
        }
        assert!(has_unknown_coding(&map(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")])));
    }

    proptest! {
        #[test]
        fn x_field_when_connection_is_arbitrary_then_is_removed_only_if_named(
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
            let filter = Names::of(&headers);
            strip_hop_by_hop(&mut headers, filter, &super::super::names::X_CDN_PROVIDER);
            prop_assert!(["host", "x-cdn-provider", "cookie"].iter().all(|name| headers.contains_key(*name)));
            prop_assert!(!headers.contains_key(CONNECTION) && !headers.contains_key(&KEEP_ALIVE));
            for name in there {
                let in_junk = junk.to_ascii_lowercase().split(',').any(|junk| junk.trim() == name);
                let gone = in_junk || named.iter().any(|named| named.eq_ignore_ascii_case(&name));
                prop_assert_eq!(headers.contains_key(&name), !gone);
            }
        }
    }
}
