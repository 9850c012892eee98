//! How large an answer's head one CDN takes, and what falls away before the CDN would answer with an error of its own in its place.
//!
//! Pure knowledge. First the lines of list fields are joined (RFC 9110 §5.3), which changes nothing but their number. Then lines fall
//! away, within each group from the end, since frameworks put their own fields before what middleware adds:
//!
//! 1. cookies that a later line of the same response replaces: no browser keeps them;
//! 2. fields that nobody here knows, and those that begin with X-: made up by somebody, and mostly read by nobody beyond the CDN;
//! 3. what tells people and tools about the response: a response without it is the same response;
//! 4. cookies beyond the first 32: browsers need not keep more than 50 a domain (RFC 6265 §6.1), and a response that sets so many at once
//!    clears or repeats them;
//! 5. what a browser enforces: losing it makes a page less safe or breaks a script, but it is the right page;
//! 6. cache tags: without them no purge finds the response until its lifetime is over;
//! 7. the first cookies: a client loses a session.
//!
//! What says what the body is, where to go instead and who may keep the answer never falls: without it the answer would be another
//! one, or somebody else's. A head that is too large by these alone stays, and the CDN refuses it.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::wire::{cache_tags, names};

/// Lines that are added later: here Content-Encoding, Vary, Date, Connection and framing; and by the CDN itself, which counts its own
/// (Fastly's Age, Via, Accept-Ranges, X-Served-By, X-Cache, X-Cache-Hits, X-Timer and one more).
const LATER_LINES: usize = 5 + 8;
/// Bytes of those and of the status line.
const LATER_BYTES: usize = 1024;
/// Bytes of a line beside its name and value: colon, space, line end.
const LINE_BYTES: usize = 4;

/// The largest head that a CDN takes from an origin; each only where it has such a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct HeadLimits {
    /// Most lines.
    pub lines: Option<u16>,
    /// Most bytes of all lines.
    pub bytes: Option<u32>,
    /// Most bytes of one line.
    pub field_bytes: Option<u32>,
}

/// What a line is good for, in the order in which lines fall away; see the head of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worth {
    ReplacedCookie,
    Unknown,
    Told,
    FurtherCookie,
    Enforced,
    Tags,
    Cookie,
    Answer,
}

/// All that fall away, first to last.
const FALLING: [Worth; 7] = [
    Worth::ReplacedCookie,
    Worth::Unknown,
    Worth::Told,
    Worth::FurtherCookie,
    Worth::Enforced,
    Worth::Tags,
    Worth::Cookie,
];
/// Cookies that outlive what a browser enforces.
const FIRST_COOKIES: usize = 32;

struct Line {
    name: HeaderName,
    value: HeaderValue,
    worth: Worth,
}

impl Line {
    fn bytes(&self) -> usize {
        self.name.as_str().len() + self.value.len() + LINE_BYTES
    }
}

impl HeadLimits {
    /// Most bytes of a value in a field of that name, where one line has a limit.
    pub(crate) fn value_bytes(&self, name: &HeaderName) -> Option<usize> {
        self.field_bytes.map(|_| most(self.field_bytes).saturating_sub(name.as_str().len() + LINE_BYTES))
    }

    /// Makes an answer's head small enough; says how many lines fell away.
    pub(crate) fn cut(&self, headers: &mut HeaderMap) -> usize {
        if self.holds(headers) {
            return 0;
        }
        let (mut lines, mut fallen) = self.joined(std::mem::take(headers));
        tell_cookies_apart(&mut lines);
        let mut bytes = LATER_BYTES + lines.iter().map(Line::bytes).sum::<usize>();
        let most_lines = self.lines.map_or(usize::MAX, usize::from);
        for worth in FALLING {
            let mut at = lines.len();
            while at > 0 && (lines.len() + LATER_LINES > most_lines || bytes > most(self.bytes)) {
                at -= 1;
                if lines[at].worth == worth {
                    bytes -= lines.remove(at).bytes();
                    fallen += 1;
                }
            }
        }
        for line in lines {
            headers.append(line.name, line.value);
        }
        fallen
    }

    /// Whether a head is within the limits already.
    fn holds(&self, headers: &HeaderMap) -> bool {
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

    /// The head's lines, those of a list field as one, or as few as the limit of one line allows; and how many were too long alone.
    fn joined(&self, headers: HeaderMap) -> (Vec<Line>, usize) {
        let longest = most(self.field_bytes);
        let mut lines: Vec<Line> = Vec::with_capacity(headers.len());
        let mut fallen = 0;
        let mut field: Option<(Worth, bool, HeaderName)> = None;
        for (name, value) in headers {
            // Further lines of one field come without its name.
            if let Some(name) = name {
                field = Some((worth(&name), is_list(&name), name));
            }
            let Some((worth, list, name)) = &field else { continue };
            let line = Line { name: name.clone(), value, worth: *worth };
            if line.worth != Worth::Answer && line.bytes() > longest {
                fallen += 1;
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
        (lines, fallen)
    }
}

/// Marks the cookies that a later line replaces, and those beyond the first ones.
fn tell_cookies_apart(lines: &mut [Line]) {
    let mut later = HashSet::new();
    for line in lines.iter_mut().rev().filter(|line| line.worth == Worth::Cookie) {
        if !later.insert(cookie_key(line.value.as_bytes())) {
            line.worth = Worth::ReplacedCookie;
        }
    }
    let kept = lines.iter_mut().filter(|line| line.worth == Worth::Cookie);
    for line in kept.skip(FIRST_COOKIES) {
        line.worth = Worth::FurtherCookie;
    }
}

/// What tells two cookies apart in a browser: name, domain, path, and whether it is partitioned (RFC 6265 §5.3).
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

/// Whether the lines of a field may be joined by commas. All that may stand there several times are lists but for three; what may
/// stand there once and came twice is broken, and joining would break it for those who take the first.
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
    // A cookie's date has a comma, and a challenge's parameters are lists themselves.
    let several = [names::SET_COOKIE, names::WWW_AUTHENTICATE, names::PROXY_AUTHENTICATE];
    cache_tags::delimiter(name) != Some(b' ') && !single.contains(name) && !several.contains(name)
}

fn worth(name: &HeaderName) -> Worth {
    if *name == names::SET_COOKIE {
        return Worth::Cookie;
    }
    if cache_tags::delimiter(name).is_some() {
        return Worth::Tags;
    }
    let answer: [&HeaderName; 40] = [
        // Who may keep it, and for how long.
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
        // What the body is.
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
        // What to do instead, or next.
        &names::LOCATION,
        &names::REFRESH,
        &names::RETRY_AFTER,
        &names::ALLOW,
        &names::WWW_AUTHENTICATE,
        &names::PROXY_AUTHENTICATE,
        &names::AUTHENTICATION_INFO,
        &names::GRPC_STATUS,
        // How it is sent; `gzip` still reads the last one.
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
    let told: [&HeaderName; 13] = [
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
    if answer.contains(&name) {
        Worth::Answer
    } else if enforced.contains(&name) || names::is_cross_origin(name) {
        Worth::Enforced
    } else if told.contains(&name) {
        Worth::Told
    } else {
        Worth::Unknown
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: HeadLimits = HeadLimits { lines: None, bytes: None, field_bytes: None };

    /// `name: value`, one a line.
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
    fn lines_when_too_many_then_fall_in_the_order_that_the_head_of_the_file_gives() {
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
            let fallen = (full.len() - most).min(order.len());
            assert_eq!(limits.cut(&mut headers), fallen, "{most}");
            let left: Vec<_> = FULL.lines().map(str::trim).filter(|line| !order[..fallen].contains(line)).collect();
            assert_eq!(headers, head(&left.join("\n")), "{most}");
            assert_eq!(limits.cut(&mut headers), 0, "{most}, twice");
        }
    }

    #[test]
    fn cookies_when_there_are_very_many_then_the_last_fall_before_what_a_browser_enforces() {
        let fastly = HeadLimits { lines: Some(96), ..NONE };
        let cookies: Vec<_> = (0..95).map(|number| format!("set-cookie: c{number}={number}; Path=/")).collect();
        let others = "content-security-policy: default-src 'self'\nstrict-transport-security: max-age=1\nsurrogate-key: k\nserver: z\nx-a: 1";
        let mut headers = head(&format!("{}\n{others}", cookies.join("\n")));
        let fallen = fastly.cut(&mut headers);
        assert_eq!((fallen, headers.len()), (100 - 83, 83));
        let left: Vec<_> = headers.get_all("set-cookie").iter().collect();
        assert_eq!(left.len(), 80, "the first ones, in their order");
        assert!(
            left.iter().zip(&cookies).all(|(left, sent)| format!("set-cookie: {}", left.to_str().unwrap()) == *sent)
        );
        for name in ["content-security-policy", "strict-transport-security", "surrogate-key"] {
            assert!(headers.contains_key(name), "{name}");
        }
        assert!(!headers.contains_key("server") && !headers.contains_key("x-a"));
        // The first 32 outlive everything else that may fall.
        let mut headers = head(&format!("{}\n{others}", cookies.join("\n")));
        HeadLimits { lines: Some(u16::try_from(32 + LATER_LINES).unwrap()), ..NONE }.cut(&mut headers);
        assert_eq!((headers.len(), headers.get_all("set-cookie").iter().count()), (32, 32));
    }

    #[test]
    fn cookies_when_a_later_line_replaces_them_then_fall_first_and_the_last_one_counts() {
        let sent = "set-cookie: a=1; Path=/\nset-cookie: a=2; Path=/x\nset-cookie: b=1\nmade-up: 1\nset-cookie: a=3; path=/; Secure\nset-cookie: b=2; Domain=d";
        let mut headers = head(sent);
        assert_eq!(HeadLimits { lines: Some(u16::try_from(5 + LATER_LINES).unwrap()), ..NONE }.cut(&mut headers), 1);
        assert_eq!(headers, head(&sent.replace("set-cookie: a=1; Path=/\n", "")));
    }

    #[test]
    fn list_fields_when_lines_are_too_many_then_joined_before_anything_falls() {
        let sent = "link: <a>\nlink: <b>\nset-cookie: a=1\nset-cookie: b=2\nx-a: 1\nx-a: 2\nvary: A\nvary: B\netag: \"a\"\netag: \"b\"
            www-authenticate: Basic\nwww-authenticate: Digest a=1, b=2\nsurrogate-key: a\nsurrogate-key: b";
        let joined = "link: <a>, <b>\nset-cookie: a=1\nset-cookie: b=2\nx-a: 1, 2\nvary: A, B\netag: \"a\"\netag: \"b\"
            www-authenticate: Basic\nwww-authenticate: Digest a=1, b=2\nsurrogate-key: a\nsurrogate-key: b";
        let mut headers = head(sent);
        assert_eq!(HeadLimits { lines: Some(24), ..NONE }.cut(&mut headers), 0);
        assert_eq!(headers, head(joined));
        let mut headers = head(sent);
        assert_eq!(HeadLimits { lines: Some(27), ..NONE }.cut(&mut headers), 0);
        assert_eq!(headers, head(sent), "nothing is joined where all have room");
    }

    #[test]
    fn a_line_when_too_long_then_falls_alone() {
        let limits = HeadLimits { field_bytes: Some(64), ..NONE };
        let long = "v".repeat(64);
        let mut headers = head(&format!("x-long: {long}\nvary: {long}\nx-a: 1\nset-cookie: {long}"));
        assert_eq!(limits.cut(&mut headers), 2);
        assert_eq!(headers, head(&format!("vary: {long}\nx-a: 1")), "what the answer hangs on stays");
        // Two lines that are too long together stay two.
        let half = "v".repeat(40);
        let mut headers = head(&format!("x-a: {half}\nx-a: {half}\nx-b: {long}"));
        assert_eq!(limits.cut(&mut headers), 1);
        assert_eq!(headers, head(&format!("x-a: {half}\nx-a: {half}")));
    }

    #[test]
    fn bytes_when_too_many_then_lines_fall_until_they_are_not() {
        let line = "v".repeat(100);
        let mut headers = head(&format!("server: {line}\nx-a: {line}\nx-b: {line}\ncontent-type: {line}"));
        let limits = HeadLimits { bytes: Some(1_368), ..NONE };
        assert_eq!(limits.cut(&mut headers), 1);
        assert_eq!(headers, head(&format!("server: {line}\nx-a: {line}\ncontent-type: {line}")));
    }

    proptest! {
        #[test]
        fn a_head_when_cut_then_within_the_limits_and_safe(
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
            let fallen = limits.cut(&mut headers);
            let vary = |headers: &HeaderMap| -> String {
                headers.get_all(names::VARY).iter().map(|line| line.to_str().unwrap()).collect::<Vec<_>>().join(", ")
            };
            prop_assert_eq!(vary(&headers), vary(&before));
            prop_assert!(limits.holds(&headers) || headers.keys().all(|name| *name == names::VARY) || longer(&headers, field_bytes));
            prop_assert!(fallen > 0 || headers.keys().len() == before.keys().len());
            let once = headers.clone();
            prop_assert_eq!(limits.cut(&mut headers), 0);
            prop_assert_eq!(headers, once);
        }
    }

    fn longer(headers: &HeaderMap, field_bytes: Option<u32>) -> bool {
        headers.get_all(names::VARY).iter().any(|line| line.len() + 8 > most(field_bytes))
    }
}
