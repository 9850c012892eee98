//! Makes a response head fit into the limits of a CDN by removing header lines. If a head exceeds the limits, the CDN
//! replaces the response with an error.
//!
//! A head that is within all limits is not changed. Otherwise, lines that are longer than the CDN's limit for one line
//! are removed first, unless their field is essential (see below). Then the lines of each list field are joined into
//! one line (RFC 9110 §5.3). This changes the number of lines, but not the meaning of the field. If the head is still
//! too large, lines are removed, one group after the other, in the order below. Inside a group the last line is removed
//! first. In most origins, a framework writes its fields before middleware adds more fields. So the fields of the
//! framework are removed last.
//!
//! 1. Cookies that a later line of the same response replaces. No browser keeps such a cookie.
//! 2. Fields that are in no list of this file. Most fields whose names begin with X- are in this group. Usually, no
//!    client reads such a field.
//! 3. Informational fields. The response has the same meaning without these fields.
//! 4. Cookies after the first 32. RFC 6265 §6.1 does not require browsers to store more than 50 cookies per domain. A
//!    response with more than 32 cookies usually deletes cookies or sets cookies again.
//! 5. Fields with rules that a browser enforces. Without these fields the page is less safe or a script fails, but the
//!    client still gets the right page.
//! 6. Cache tags. Without cache tags, no purge by tag finds the response.
//! 7. The first 32 cookies. Without these cookies a client loses its session.
//!
//! Essential fields are never removed, for example fields that describe the body, redirect the client or control
//! caching. Without such a field the response would have another meaning, or would reach the wrong client. If a head
//! with only these fields is still too large, edgeshim sends this head and the CDN rejects the response.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::wire::{cache_tags, names};

/// The number of lines that are added after this check. edgeshim adds up to 5 lines: Content-Encoding, Vary, Date,
/// Connection, and Content-Length or Transfer-Encoding. The CDN adds up to 8 lines, which also count against the limit.
/// Fastly adds Age, Via, Accept-Ranges, X-Served-By, X-Cache, X-Cache-Hits, X-Timer and one more line.
const LATER_LINES: usize = 5 + 8;
/// The bytes that are reserved for the later lines and for the status line.
const LATER_BYTES: usize = 1024;
/// The bytes of a line in addition to its name and value: the colon, a space and the two bytes of the line end.
const LINE_BYTES: usize = 4;

/// The limits of a CDN for a response head. `None`: the CDN does not have this limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct HeadLimits {
    /// The largest number of lines.
    pub lines: Option<u16>,
    /// The largest size of all lines together, in bytes.
    pub bytes: Option<u32>,
    /// The largest size of one line, in bytes.
    pub field_bytes: Option<u32>,
}

/// The group to which a header line belongs. The comment at the start of this file describes the groups. The variants
/// are in the order in which the groups are removed. `Essential` lines are never removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Priority {
    ReplacedCookie,
    Unknown,
    Informational,
    FurtherCookie,
    Enforced,
    Tags,
    Cookie,
    Essential,
}

/// The groups that can be removed, in the order of their removal.
const REMOVABLE: [Priority; 7] = [
    Priority::ReplacedCookie,
    Priority::Unknown,
    Priority::Informational,
    Priority::FurtherCookie,
    Priority::Enforced,
    Priority::Tags,
    Priority::Cookie,
];
/// The number of cookies in the group that is removed last.
const FIRST_COOKIES: usize = 32;

struct Line {
    name: HeaderName,
    value: HeaderValue,
    priority: Priority,
}

impl Line {
    fn bytes(&self) -> usize {
        self.name.as_str().len() + self.value.len() + LINE_BYTES
    }
}

impl HeadLimits {
    /// Returns the longest value that a field can have, in bytes. Returns `None` if the CDN does not limit the size of
    /// one line.
    pub(crate) fn value_bytes(&self, name: &HeaderName) -> Option<usize> {
        self.field_bytes.map(|_| most(self.field_bytes).saturating_sub(name.as_str().len() + LINE_BYTES))
    }

    /// If the response head does not fit, joins lines, and removes lines until the head fits or only essential lines
    /// are left. Returns the number of removed lines.
    pub(crate) fn cut(&self, headers: &mut HeaderMap) -> usize {
        if self.fits(headers) {
            return 0;
        }
        let (mut lines, mut removed) = self.joined(std::mem::take(headers));
        mark_cookies(&mut lines);
        let mut bytes = LATER_BYTES + lines.iter().map(Line::bytes).sum::<usize>();
        let most_lines = self.lines.map_or(usize::MAX, usize::from);
        for priority in REMOVABLE {
            let mut at = lines.len();
            while at > 0 && (lines.len() + LATER_LINES > most_lines || bytes > most(self.bytes)) {
                at -= 1;
                if lines[at].priority == priority {
                    bytes -= lines.remove(at).bytes();
                    removed += 1;
                }
            }
        }
        for line in lines {
            headers.append(line.name, line.value);
        }
        removed
    }

    /// Returns whether a head fits into the limits without a change.
    fn fits(&self, headers: &HeaderMap) -> bool {
        if self.lines.is_some_and(|most| headers.len() + LATER_LINES > usize::from(most)) {
            return false;
        }
        if self.bytes.is_none() && self.field_bytes.is_none() {
            return true;
        }
        let (mut bytes, longest) = (LATER_BYTES, most(self.field_bytes));
        for (name, value) in headers {
            let line = name.as_str().len() + value.len() + LINE_BYTES;
            if line > longest {
                return false;
            }
            bytes += line;
        }
        bytes <= most(self.bytes)
    }

    /// Returns the lines of the head, and the number of removed lines. A line that is not essential is removed here if
    /// the line is longer than the CDN's limit for one line. The lines of a list field are joined as far as this limit
    /// allows.
    fn joined(&self, headers: HeaderMap) -> (Vec<Line>, usize) {
        let longest = most(self.field_bytes);
        let mut lines: Vec<Line> = Vec::with_capacity(headers.len());
        let mut removed = 0;
        let mut field: Option<(Priority, bool, HeaderName)> = None;
        for (name, value) in headers {
            // The iterator returns the name only with the first line of each field.
            if let Some(name) = name {
                field = Some((priority(&name), is_list(&name), name));
            }
            let Some((priority, list, name)) = &field else { continue };
            let line = Line { name: name.clone(), value, priority: *priority };
            if line.priority != Priority::Essential && line.bytes() > longest {
                removed += 1;
                continue;
            }
            if let Some(last) = lines.last_mut().filter(|last| *list && last.name == line.name)
                && last.bytes() + 2 + line.value.len() <= longest
                && let Ok(joined) =
                    HeaderValue::try_from([last.value.as_bytes(), b", ", line.value.as_bytes()].concat())
            {
                last.value = joined;
            } else {
                lines.push(line);
            }
        }
        (lines, removed)
    }
}

/// Marks the cookies that a later line replaces. Of the remaining cookies, marks all cookies after the first 32.
fn mark_cookies(lines: &mut [Line]) {
    let mut later = HashSet::new();
    for line in lines.iter_mut().rev().filter(|line| line.priority == Priority::Cookie) {
        if !later.insert(cookie_key(line.value.as_bytes())) {
            line.priority = Priority::ReplacedCookie;
        }
    }
    let kept = lines.iter_mut().filter(|line| line.priority == Priority::Cookie);
    for line in kept.skip(FIRST_COOKIES) {
        line.priority = Priority::FurtherCookie;
    }
}

/// Returns the key under which a browser stores a cookie: its name, domain and path, and whether the cookie is
/// partitioned (RFC 6265 §5.3).
fn cookie_key(value: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>, bool) {
    let mut parts = value.split(|&byte| byte == b';');
    let name = |part: &[u8]| part.split(|&byte| byte == b'=').next().unwrap_or_default().trim_ascii().to_vec();
    let mut key = (name(parts.next().unwrap_or_default()), Vec::new(), Vec::new(), false);
    for part in parts {
        let attribute = name(part).to_ascii_lowercase();
        let value = || part.iter().position(|&byte| byte == b'=').map_or(&[][..], |at| &part[at + 1..]).trim_ascii();
        match attribute.as_slice() {
            b"domain" => key.1 = value().to_ascii_lowercase(),
            b"path" => key.2 = value().to_vec(),
            b"partitioned" => key.3 = true,
            _ => {}
        }
    }
    key
}

fn most(limit: Option<u32>) -> usize {
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Returns whether the lines of a field are joined with commas. The lines of three kinds of fields are not joined:
///
/// - A field that is allowed only once. A client that reads only the first line would get an invalid value if the lines
///   were joined.
/// - A field in which one value can contain a comma.
/// - A field of cache tags that are separated by spaces.
fn is_list(name: &HeaderName) -> bool {
    let single = [
        names::AGE,
        names::CONTENT_DISPOSITION,
        names::CONTENT_LENGTH,
        names::CONTENT_LOCATION,
        names::CONTENT_RANGE,
        names::CONTENT_TYPE,
        names::DATE,
        names::ETAG,
        names::EXPIRES,
        names::LAST_MODIFIED,
        names::LOCATION,
        names::REFERRER_POLICY,
        names::REFRESH,
        names::RETRY_AFTER,
        names::SERVER,
        names::STRICT_TRANSPORT_SECURITY,
        names::X_FRAME_OPTIONS,
    ];
    // The date in a cookie contains a comma, and the parameters of an authentication challenge are a list with commas.
    let several = [names::SET_COOKIE, names::WWW_AUTHENTICATE, names::PROXY_AUTHENTICATE];
    cache_tags::delimiter(name) != Some(b' ') && !single.contains(name) && !several.contains(name)
}

fn priority(name: &HeaderName) -> Priority {
    if *name == names::SET_COOKIE {
        return Priority::Cookie;
    }
    if cache_tags::delimiter(name).is_some() {
        return Priority::Tags;
    }
    let essential: [&HeaderName; 40] = [
        // Fields that control caching.
        &names::CACHE_CONTROL,
        &names::SURROGATE_CONTROL,
        &names::CDN_CACHE_CONTROL,
        &names::CLOUDFLARE_CDN_CACHE_CONTROL,
        &names::EDGE_CONTROL,
        &names::VARY,
        &names::AGE,
        &names::DATE,
        &names::EXPIRES,
        &names::PRAGMA,
        // Fields that describe the body.
        &names::CONTENT_TYPE,
        &names::CONTENT_ENCODING,
        &names::GRPC_ENCODING,
        &names::CONTENT_LENGTH,
        &names::CONTENT_RANGE,
        &names::CONTENT_LANGUAGE,
        &names::CONTENT_LOCATION,
        &names::CONTENT_DISPOSITION,
        &names::CONTENT_DIGEST,
        &names::CONTENT_MD5,
        &names::DIGEST,
        &names::REPR_DIGEST,
        &names::ACCEPT_RANGES,
        &names::ETAG,
        &names::LAST_MODIFIED,
        // Fields on which the next request of the client depends, for example redirects and authentication challenges.
        &names::LOCATION,
        &names::REFRESH,
        &names::RETRY_AFTER,
        &names::ALLOW,
        &names::WWW_AUTHENTICATE,
        &names::PROXY_AUTHENTICATE,
        &names::AUTHENTICATION_INFO,
        &names::GRPC_STATUS,
        // Fields of the connection, and X-Accel-Buffering, which the `gzip` layer reads.
        &names::CONNECTION,
        &names::TRANSFER_ENCODING,
        &names::TRAILER,
        &names::TE,
        &names::UPGRADE,
        &names::KEEP_ALIVE,
        &names::X_ACCEL_BUFFERING,
    ];
    let enforced: [&HeaderName; 11] = [
        &names::STRICT_TRANSPORT_SECURITY,
        &names::CONTENT_SECURITY_POLICY,
        &names::X_CONTENT_TYPE_OPTIONS,
        &names::X_FRAME_OPTIONS,
        &names::REFERRER_POLICY,
        &names::PERMISSIONS_POLICY,
        &names::CROSS_ORIGIN_OPENER_POLICY,
        &names::CROSS_ORIGIN_EMBEDDER_POLICY,
        &names::CROSS_ORIGIN_RESOURCE_POLICY,
        &names::TIMING_ALLOW_ORIGIN,
        &names::CLEAR_SITE_DATA,
    ];
    let informational: [&HeaderName; 13] = [
        &names::SERVER,
        &names::VIA,
        &names::LINK,
        &names::WARNING,
        &names::ALT_SVC,
        &names::CACHE_STATUS,
        &names::PROXY_STATUS,
        &names::SERVER_TIMING,
        &names::CONTENT_SECURITY_POLICY_REPORT_ONLY,
        &names::REPORTING_ENDPOINTS,
        &names::REPORT_TO,
        &names::NEL,
        &names::X_REQUEST_ID,
    ];
    if essential.contains(&name) {
        Priority::Essential
    } else if enforced.contains(&name) || names::is_cross_origin(name) {
        Priority::Enforced
    } else if informational.contains(&name) {
        Priority::Informational
    } else {
        Priority::Unknown
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: HeadLimits = HeadLimits { lines: None, bytes: None, field_bytes: None };

    /// Parses a head. Each line of the text is `name: value`.
    fn head(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    const FULL: &str = "content-type: text/html
        x-powered-by: y
        server: z
        set-cookie: a=1
        set-cookie: b=2
        content-security-policy: default-src 'self'
        access-control-allow-origin: *
        surrogate-key: k
        cache-control: private
        vary: Cookie
        made-up: 1";

    #[test]
    fn lines_when_too_many_then_removed_in_the_documented_order() {
        let order = [
            "made-up: 1",
            "x-powered-by: y",
            "server: z",
            "access-control-allow-origin: *",
            "content-security-policy: default-src 'self'",
            "surrogate-key: k",
            "set-cookie: b=2",
            "set-cookie: a=1",
        ];
        let full = head(FULL);
        for most in 0..=full.len() {
            let limits = HeadLimits { lines: Some(u16::try_from(most + LATER_LINES).unwrap()), ..NONE };
            let mut headers = full.clone();
            let removed = (full.len() - most).min(order.len());
            assert_eq!(limits.cut(&mut headers), removed, "{most} lines");
            let left: Vec<_> = FULL.lines().map(str::trim).filter(|line| !order[..removed].contains(line)).collect();
            assert_eq!(headers, head(&left.join("\n")), "{most} lines");
            assert_eq!(limits.cut(&mut headers), 0, "{most} lines, second call");
        }
    }

    #[test]
    fn cookies_when_more_than_32_then_last_cookies_are_removed_before_enforced_fields() {
        let fastly = HeadLimits { lines: Some(96), ..NONE };
        let cookies: Vec<_> = (0..95).map(|number| format!("set-cookie: c{number}={number}; Path=/")).collect();
        let others = "content-security-policy: default-src 'self'\nstrict-transport-security: max-age=1\n\
                      surrogate-key: k\nserver: z\nx-a: 1";
        let mut headers = head(&format!("{}\n{others}", cookies.join("\n")));
        let removed = fastly.cut(&mut headers);
        assert_eq!((removed, headers.len()), (100 - 83, 83));
        let left: Vec<_> = headers.get_all("set-cookie").iter().collect();
        assert_eq!(left.len(), 80);
        assert!(
            left.iter().zip(&cookies).all(|(left, sent)| format!("set-cookie: {}", left.to_str().unwrap()) == *sent),
            "the first 80 cookies must remain, in their order"
        );
        for name in ["content-security-policy", "strict-transport-security", "surrogate-key"] {
            assert!(headers.contains_key(name), "{name}");
        }
        assert!(!headers.contains_key("server") && !headers.contains_key("x-a"));
        // The first 32 cookies stay when all other lines are removed.
        let mut headers = head(&format!("{}\n{others}", cookies.join("\n")));
        HeadLimits { lines: Some(u16::try_from(32 + LATER_LINES).unwrap()), ..NONE }.cut(&mut headers);
        assert_eq!((headers.len(), headers.get_all("set-cookie").iter().count()), (32, 32));
    }

    #[test]
    fn replaced_cookie_when_lines_are_too_many_then_removed_first() {
        let sent = "set-cookie: a=1; Path=/\nset-cookie: a=2; Path=/x\nset-cookie: b=1\nmade-up: 1\n\
                    set-cookie: a=3; path=/; Secure\nset-cookie: b=2; Domain=d";
        let mut headers = head(sent);
        assert_eq!(HeadLimits { lines: Some(u16::try_from(5 + LATER_LINES).unwrap()), ..NONE }.cut(&mut headers), 1);
        assert_eq!(headers, head(&sent.replace("set-cookie: a=1; Path=/\n", "")));
    }

    #[test]
    fn list_fields_when_lines_are_too_many_then_joined_before_lines_are_removed() {
        let sent = "link: <a>\nlink: <b>\nset-cookie: a=1\nset-cookie: b=2\nx-a: 1\nx-a: 2\nvary: A\nvary: B
            etag: \"a\"\netag: \"b\"\nwww-authenticate: Basic
            www-authenticate: Digest a=1, b=2\nsurrogate-key: a\nsurrogate-key: b";
        let joined = "link: <a>, <b>\nset-cookie: a=1\nset-cookie: b=2\nx-a: 1, 2\nvary: A, B\netag: \"a\"\netag: \"b\"
            www-authenticate: Basic\nwww-authenticate: Digest a=1, b=2\nsurrogate-key: a\nsurrogate-key: b";
        let mut headers = head(sent);
        assert_eq!(HeadLimits { lines: Some(24), ..NONE }.cut(&mut headers), 0);
        assert_eq!(headers, head(joined));
        let mut headers = head(sent);
        assert_eq!(HeadLimits { lines: Some(27), ..NONE }.cut(&mut headers), 0);
        assert_eq!(headers, head(sent), "nothing is joined if all lines fit");
    }

    #[test]
    fn line_when_too_long_and_not_essential_then_removed_and_other_lines_stay() {
        let limits = HeadLimits { field_bytes: Some(64), ..NONE };
        let long = "v".repeat(64);
        let mut headers = head(&format!("x-long: {long}\nvary: {long}\nx-a: 1\nset-cookie: {long}"));
        assert_eq!(limits.cut(&mut headers), 2);
        assert_eq!(headers, head(&format!("vary: {long}\nx-a: 1")), "essential fields stay");
        // Two lines are not joined if the joined line would be too long.
        let half = "v".repeat(40);
        let mut headers = head(&format!("x-a: {half}\nx-a: {half}\nx-b: {long}"));
        assert_eq!(limits.cut(&mut headers), 1);
        assert_eq!(headers, head(&format!("x-a: {half}\nx-a: {half}")));
    }

    #[test]
    fn head_when_bytes_exceed_the_limit_then_lines_are_removed_until_head_fits() {
        let line = "v".repeat(100);
        let mut headers = head(&format!("server: {line}\nx-a: {line}\nx-b: {line}\ncontent-type: {line}"));
        let limits = HeadLimits { bytes: Some(1_368), ..NONE };
        assert_eq!(limits.cut(&mut headers), 1);
        assert_eq!(headers, head(&format!("server: {line}\nx-a: {line}\ncontent-type: {line}")));
    }

    proptest! {
        #[test]
        fn head_when_cut_then_keeps_vary_and_fits_the_limits_if_vary_fits(
            sent in prop::collection::vec(("x-[ab]|set-cookie|vary|link|server|made", "[a-z]{0,40}"), 0..40),
            lines in prop::option::of(0..40_u16),
            bytes in prop::option::of(900..1_800_u32),
            field_bytes in prop::option::of(10..60_u32),
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in &sent {
                headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let limits = HeadLimits { lines, bytes, field_bytes };
            let before = headers.clone();
            let removed = limits.cut(&mut headers);
            let vary = |headers: &HeaderMap| -> String {
                headers.get_all(names::VARY).iter().map(|line| line.to_str().unwrap()).collect::<Vec<_>>().join(", ")
            };
            prop_assert_eq!(vary(&headers), vary(&before));
            let only_vary = headers.keys().all(|name| *name == names::VARY);
            prop_assert!(limits.fits(&headers) || only_vary || longer(&headers, field_bytes));
            prop_assert!(removed > 0 || headers.keys().len() == before.keys().len());
            let once = headers.clone();
            prop_assert_eq!(limits.cut(&mut headers), 0);
            prop_assert_eq!(headers, once);
        }
    }

    fn longer(headers: &HeaderMap, field_bytes: Option<u32>) -> bool {
        headers.get_all(names::VARY).iter().any(|line| line.len() + 8 > most(field_bytes))
    }
}
