//! The three formats of an access log line: json, combined and etsy.
//!
//! Only the writer's thread formats lines, so no request waits for the formatting. One record becomes exactly one line.
//! A client cannot add a line, because every value from the network is cut, then escaped. After the first line,
//! formatting allocates nothing. A date is formatted only when the second of the record differs from the second of the
//! previous record.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Version};
use time::UtcDateTime;

use super::record::{Record, TARGET_BYTES, TEXT_BYTES};
use crate::ids::PullKind;
use crate::wire::{decimal, json};

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object for each line (RFC 8259).
    Json,
    /// The NCSA combined format, with the provider appended.
    Combined,
    /// The line format for Etsy's tool logster, which counts log lines. logster recognises beacons by a pattern.
    ///
    /// The pattern accepts only IPv4 and HTTP/1, and logster does not count a line that does not match. So an IPv6
    /// address or an unknown address of the client is written as 0.0.0.0, which belongs to no country. HTTP/2 is
    /// written as HTTP/1.1.
    Etsy,
}

/// Turns records into lines.
#[derive(Debug)]
pub(super) struct Formatter {
    format: LogFormat,
    clock: Clock,
}

impl Formatter {
    pub(super) fn new(format: LogFormat) -> Self {
        Self { format, clock: Clock::default() }
    }

    /// Appends the record's line, which contains exactly one newline.
    pub(super) fn line(&mut self, record: &Record, out: &mut Vec<u8>) {
        let millis = self.clock.set(record.time);
        match self.format {
            LogFormat::Json => self.json(record, millis, out),
            LogFormat::Combined => {
                match record.client {
                    Some(client) => address(client, out),
                    None => out.push(b'-'),
                }
                self.ncsa(record, version_ncsa(record.version), out);
            }
            LogFormat::Etsy => {
                unquoted(record.host(), out);
                out.push(b' ');
                chain(record, out);
                self.ncsa(record, version_etsy(record.version), out);
            }
        }
        out.push(b'\n');
    }

    fn json(&self, record: &Record, millis: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(&self.clock.rfc3339);
        out.push(b'.');
        thousandths(millis, out);
        out.extend_from_slice(b"Z\"");
        text("id", record.id.as_bytes(), out);
        text("provider", record.provider.as_bytes(), out);
        text("claimed", bytes(record.claimed.as_ref()), out);
        text("proof", record.proof.as_bytes(), out);
        text("pop", record.pop.as_str().as_bytes(), out);
        key("client", out);
        out.push(b'"');
        if let Some(client) = record.client {
            address(client, out);
        }
        out.push(b'"');
        text("method", record.method.as_str().as_bytes(), out);
        text("host", record.host(), out);
        key("path", out);
        quoted_json(cut(record.target().as_bytes(), TARGET_BYTES), out);
        text("protocol", version_json(record.version).as_bytes(), out);
        text("class", record.class.unwrap_or("").as_bytes(), out);
        number("status", Some(u64::from(record.status)), out);
        number("bytes", Some(record.bytes), out);
        number("origin_status", record.origin_status.map(u64::from), out);
        number("origin_bytes", Some(record.origin_bytes), out);
        millis_of("origin_ms", record.origin_us.map(u64::from), out);
        millis_of("total_ms", Some(record.total_us), out);
        text("encoding", record.encoding.as_bytes(), out);
        text("guard", record.guard.as_bytes(), out);
        text("cause", record.cause.as_bytes(), out);
        text("locale", record.locale.as_bytes(), out);
        text("referer", bytes(record.referer.as_ref()), out);
        text("user_agent", bytes(record.user_agent.as_ref()), out);
        // Most pulls are of the kind `Edge` or `Unknown`. The key `pull` is left out for these two kinds, so that most
        // lines are shorter.
        if !matches!(record.kind, PullKind::Unknown | PullKind::Edge) {
            text("pull", record.kind.as_str().as_bytes(), out);
        }
        // Few pulls are conditional, so the key `revalidated` is left out for all others.
        if !record.revalidated.is_empty() {
            text("revalidated", record.revalidated.as_bytes(), out);
        }
        if let Some(why) = record.why {
            text("why", why.as_bytes(), out);
        }
        out.push(b'}');
    }

    /// Appends the part of a line that the formats combined and etsy share, which is everything after the addresses.
    fn ncsa(&self, record: &Record, version: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b" - - [");
        out.extend_from_slice(&self.clock.ncsa);
        out.extend_from_slice(b"] \"");
        escape_ncsa(cut(record.method.as_str().as_bytes(), TEXT_BYTES), b'"', out);
        out.push(b' ');
        escape_ncsa(cut(record.target().as_bytes(), TARGET_BYTES), b' ', out);
        out.push(b' ');
        out.extend_from_slice(version.as_bytes());
        out.extend_from_slice(b"\" ");
        decimal(u64::from(record.status), out);
        out.push(b' ');
        decimal(record.bytes, out);
        for value in [&record.referer, &record.user_agent] {
            out.extend_from_slice(b" \"");
            match bytes(value.as_ref()) {
                b"" => out.push(b'-'),
                value => escape_ncsa(cut(value, TEXT_BYTES), b'"', out),
            }
            out.push(b'"');
        }
        out.push(b' ');
        unquoted(record.provider.as_bytes(), out);
    }
}

/// The formatted date of the previous record. The date is reused while the second stays the same, because thousands of
/// records can have the same second and most records arrive in order.
#[derive(Debug, Default)]
struct Clock {
    second: Option<u64>,
    rfc3339: Vec<u8>,
    ncsa: Vec<u8>,
}

impl Clock {
    /// Formats the second of `time` if this second differs from the stored second, and returns the milliseconds of
    /// `time`. A time outside the years 1970 to 9999 is written as the nearest second in these years.
    fn set(&mut self, time: SystemTime) -> u32 {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            let utc =
                i64::try_from(since.as_secs()).ok().and_then(|second| UtcDateTime::from_unix_timestamp(second).ok());
            let utc = utc.unwrap_or(UtcDateTime::MAX);
            let (year, month, day) = utc.to_calendar_date();
            let (hour, minute, second) = utc.as_hms();
            let name = MONTHS[usize::from(u8::from(month)) - 1];
            let month = u8::from(month);
            self.rfc3339.clear();
            self.ncsa.clear();
            // Writing to a Vec does not fail.
            let _ = write!(self.rfc3339, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
            let _ = write!(self.ncsa, "{day:02}/{name}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000");
        }
        since.subsec_millis()
    }
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

fn version_json(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

fn version_ncsa(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => version_json(version),
    }
}

fn version_etsy(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

fn bytes(value: Option<&HeaderValue>) -> &[u8] {
    value.map_or(b"", HeaderValue::as_bytes)
}

/// Returns at most `most` bytes of `text`. UTF-8 text is not cut inside a character.
fn cut(text: &[u8], most: usize) -> &[u8] {
    let Some(first_out) = text.get(most) else { return text };
    let mut end = most;
    let mut next = *first_out;
    // A continuation byte after the end means that the cut would be inside a character. No character is longer than
    // four bytes.
    while next & 0xC0 == 0x80 && end > 0 && most - end < 3 {
        end -= 1;
        next = text.get(end).copied().unwrap_or_default();
    }
    text.get(..end).unwrap_or_default()
}

/// Appends the trusted client address, then the other addresses of X-Forwarded-For. Only IPv4 addresses are written,
/// because Etsy's pattern does not allow letters or colons. The trusted address is written first, because the pattern
/// reads the first address as the client's address, and the first address in X-Forwarded-For is untrusted.
fn chain(record: &Record, out: &mut Vec<u8>) {
    let client = match record.client.map(|client| client.to_canonical()) {
        Some(IpAddr::V4(client)) => client,
        Some(IpAddr::V6(_)) | None => Ipv4Addr::UNSPECIFIED,
    };
    address(IpAddr::V4(client), out);
    let list = bytes(record.client_chain.as_ref());
    let kept = cut(list, TEXT_BYTES);
    let mut entries = kept.split(|&byte| byte == b',');
    if kept.len() < list.len() {
        // The cut can remove digits of the last address, which would then be another address. So the last address is
        // left out.
        entries.next_back();
    }
    let forwarded = entries.filter_map(|entry| {
        let entry = str::from_utf8(entry.trim_ascii()).ok()?;
        let ip = entry.parse().or_else(|_| entry.parse().map(|with_port: SocketAddr| with_port.ip())).ok()?;
        match IpAddr::to_canonical(&ip) {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        }
    });
    for ip in forwarded.filter(|&ip| ip != client) {
        out.extend_from_slice(b", ");
        address(IpAddr::V4(ip), out);
    }
}

fn address(ip: IpAddr, out: &mut Vec<u8>) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            for (at, part) in ip.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                decimal(u64::from(part), out);
            }
        }
        // Writing to a Vec does not fail.
        IpAddr::V6(ip) => drop(write!(out, "{ip}")),
    }
}

fn decimal(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(decimal::write(value, &mut [0; 20]));
}

fn thousandths(value: u32, out: &mut Vec<u8>) {
    for unit in [100, 10, 1] {
        out.push(b'0' + u8::try_from(value / unit % 10).unwrap_or_default());
    }
}

fn key(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn text(name: &str, value: &[u8], out: &mut Vec<u8>) {
    key(name, out);
    quoted_json(cut(value, TEXT_BYTES), out);
}

fn number(name: &str, value: Option<u64>, out: &mut Vec<u8>) {
    key(name, out);
    match value {
        Some(value) => decimal(value, out),
        None => out.extend_from_slice(b"null"),
    }
}

/// Appends a number of microseconds as milliseconds with three decimals.
fn millis_of(name: &str, micros: Option<u64>, out: &mut Vec<u8>) {
    number(name, micros.map(|micros| micros / 1_000), out);
    if let Some(micros) = micros {
        out.push(b'.');
        thousandths(u32::try_from(micros % 1_000).unwrap_or_default(), out);
    }
}

/// Appends a JSON string. A character that controls a terminal or a viewer is escaped too.
fn quoted_json(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    json::push_escaped(out, text, json::is_active);
    out.push(b'"');
}

/// Appends a text. Double quotes, backslashes, the byte `also` and bytes that are not printable ASCII are written as
/// `\xHH`, as nginx does. httpd writes `\"` for a quote, but a pattern such as `"[^"]*"` would treat that quote as the
/// end of the value.
fn escape_ncsa(text: &[u8], also: u8, out: &mut Vec<u8>) {
    const HEX: [u8; 16] = *b"0123456789ABCDEF";
    let plain = |&byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\') && byte != also;
    if text.iter().all(plain) {
        out.extend_from_slice(text);
        return;
    }
    for byte in text {
        if plain(byte) {
            out.push(*byte);
        } else {
            let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
            out.extend_from_slice(&[b'\\', b'x', high, low]);
        }
    }
}

/// Appends a value without quotes. An empty value becomes `-`, and spaces are escaped.
fn unquoted(text: &[u8], out: &mut Vec<u8>) {
    match text {
        b"" => out.push(b'-'),
        text => escape_ncsa(cut(text, TEXT_BYTES), b' ', out),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Method, Uri};
    use proptest::prelude::*;

    use super::super::record::tests::{record, value};
    use super::*;
    use crate::cdn::preset::Pop;
    use crate::wire::values;

    /// The time 9999-12-31T23:59:59Z, in seconds since 1970.
    const LAST_SECOND: u64 = 253_402_300_799;

    fn beacon() -> Record {
        Record {
            target: Uri::from_static("/status/images/beacon.gif?source=fastly&id=r-1"),
            class: None,
            origin_status: None,
            origin_bytes: 0,
            origin_us: None,
            ..record()
        }
    }

    fn line(format: LogFormat, record: &Record) -> String {
        let mut out = Vec::new();
        Formatter::new(format).line(record, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Etsy's logster pattern for beacons, with one change. The published pattern has `,- ` inside the brackets. Regex
    /// engines reject this reversed range, so here the hyphen is last.
    fn pattern() -> regex::Regex {
        regex::Regex::new(concat!(
            r#"^\S+(\s:)? (?P<remote_addr>[0-9.]+),? [0-9., -]+ \[.*\] "GET /status/images/beacon.gif\?(beacon_)?"#,
            r#"source=(?P<source>\S+) HTTP/1.\d" \d+ [\d-]+ "[^"]*" "[^"]*" .*"#
        ))
        .unwrap()
    }

    #[test]
    fn json_line_when_pull_is_complete_then_equals_the_expected_line() {
        assert_eq!(
            line(LogFormat::Json, &record()),
            concat!(
                r#"{"time":"2026-11-22T11:09:01.042Z","id":"r-1","provider":"fastly","claimed":"Fastly","#,
                r#""proof":"secret","#,
                r#""pop":"FRA","client":"203.0.113.9","method":"GET","host":"img.example.com","path":"/a.png?v=1","#,
                r#""protocol":"HTTP/1.1","class":"image","status":200,"bytes":1234,"#,
                r#""origin_status":200,"origin_bytes":4321,"#,
                r#""origin_ms":7.005,"total_ms":12.345,"encoding":"gzip","guard":"","cause":"","locale":"","#,
                r#""referer":"https://example.com/","user_agent":"curl/8"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn json_line_when_pull_is_shield_probe_or_retry_then_contains_the_kind() {
        for (kind, shown) in [
            (PullKind::Unknown, None),
            (PullKind::Edge, None),
            (PullKind::Shield, Some("shield")),
            (PullKind::Probe, Some("probe")),
            (PullKind::Retry, Some("retry")),
        ] {
            let line: serde_json::Value =
                serde_json::from_str(&line(LogFormat::Json, &Record { kind, ..record() })).unwrap();
            assert_eq!(line.get("pull").map(|kind| kind.as_str().unwrap()), shown);
        }
    }

    #[test]
    fn json_line_when_values_are_missing_then_numbers_are_null_and_texts_are_empty() {
        let bare = Record {
            claimed: None,
            pop: Pop::default(),
            kind: PullKind::Unknown,
            why: None,
            client: None,
            host: None,
            target: Uri::from_static("https://h2.example/x"),
            version: Version::HTTP_2,
            referer: None,
            user_agent: None,
            total_us: 1_000,
            ..beacon()
        };
        let line: serde_json::Value = serde_json::from_str(&line(LogFormat::Json, &bare)).unwrap();
        for name in ["claimed", "pop", "client", "host", "class", "referer", "user_agent"] {
            assert_eq!(line[name], "", "{name}");
        }
        assert!(line["origin_status"].is_null() && line["origin_ms"].is_null());
        assert_eq!((&line["path"], &line["protocol"]), (&"/x".into(), &"HTTP/2".into()));
        assert_eq!(line["total_ms"], 1.0);
    }

    #[test]
    fn combined_line_when_values_are_set_or_missing_then_equals_the_expected_line() {
        assert_eq!(
            line(LogFormat::Combined, &record()),
            "203.0.113.9 - - [22/Nov/2026:11:09:01 +0000] \"GET /a.png?v=1 HTTP/1.1\" 200 1234 \
             \"https://example.com/\" \"curl/8\" fastly\n"
        );
        let bare = Record {
            client: None,
            version: Version::HTTP_2,
            referer: None,
            user_agent: value("a\"b\\c\td"),
            ..record()
        };
        assert_eq!(
            line(LogFormat::Combined, &bare),
            "- - - [22/Nov/2026:11:09:01 +0000] \"GET /a.png?v=1 HTTP/2.0\" 200 1234 \"-\" \
             \"a\\x22b\\x5Cc\\x09d\" fastly\n"
        );
        let six = Record { client: "2001:db8::1".parse().ok(), ..record() };
        assert!(line(LogFormat::Combined, &six).starts_with("2001:db8::1 - - ["));
        let mapped = Record { client: "::ffff:192.0.2.1".parse().ok(), ..record() };
        assert!(line(LogFormat::Combined, &mapped).starts_with("192.0.2.1 - - ["));
    }

    #[test]
    fn etsy_line_when_all_fields_are_set_then_equals_the_expected_line() {
        let written = line(LogFormat::Etsy, &beacon());
        assert_eq!(
            written,
            "img.example.com 203.0.113.9, 151.101.1.1 - - [22/Nov/2026:11:09:01 +0000] \
             \"GET /status/images/beacon.gif?source=fastly&id=r-1 HTTP/1.1\" 200 1234 \
             \"https://example.com/\" \"curl/8\" fastly\n"
        );
        let found = pattern().captures(&written).unwrap();
        assert_eq!(&found["remote_addr"], "203.0.113.9");
        assert!(found["source"].starts_with("fastly"));
    }

    #[test]
    fn etsy_line_when_compared_with_a_line_of_2013_then_pattern_finds_equal_values() {
        // A line in the form that Etsy's servers wrote in October 2013. The line has the host, a colon, and a list of
        // addresses, whose first address is the client's. The host names are replaced by the example names of RFC 2606.
        let theirs = concat!(
            r#"img0.example.com : 203.0.113.9, 151.101.1.1 - - [31/Oct/2013:14:07:26 +0000] "#,
            r#""GET /status/images/beacon.gif?beacon_source=fastly HTTP/1.1" 200 43 "#,
            r#""http://www.example.com/" "Mozilla/5.0 (X11)" -"#
        );
        let sent = Record {
            time: UNIX_EPOCH + Duration::from_secs(1_383_228_446),
            target: Uri::from_static("/status/images/beacon.gif?beacon_source=fastly"),
            host: value("img0.example.com"),
            bytes: 43,
            ..beacon()
        };
        let ours = line(LogFormat::Etsy, &sent);
        assert!(ours.contains(" [31/Oct/2013:14:07:26 +0000] "), "{ours}");
        let pattern = pattern();
        let [theirs, ours] = [theirs, &ours]
            .map(|line| pattern.captures(line).unwrap_or_else(|| panic!("the pattern does not match: {line}")));
        for name in ["remote_addr", "source"] {
            assert_eq!(theirs[name], ours[name], "{name}");
        }
        assert_eq!((&ours["remote_addr"], &ours["source"]), ("203.0.113.9", "fastly"));
    }

    #[test]
    fn etsy_line_when_client_chain_and_version_vary_then_matches_the_pattern() {
        let chains =
            [None, value(""), value("2001:db8::7"), value("evil \" [x], 10.0.0.1:99, , 1.2.3"), value("203.0.113.9")];
        let clients = ["203.0.113.9", "::ffff:203.0.113.9", "2001:db8::1"].map(|client| client.parse().ok());
        for client_chain in chains {
            for client in clients.into_iter().chain([None]) {
                for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
                    let sample = Record { client_chain: client_chain.clone(), client, version, host: None, ..beacon() };
                    let written = line(LogFormat::Etsy, &sample);
                    let found =
                        pattern().captures(&written).unwrap_or_else(|| panic!("the pattern does not match: {written}"));
                    let four = client.is_some_and(|client: IpAddr| client.to_canonical().is_ipv4());
                    assert_eq!(&found["remote_addr"], if four { "203.0.113.9" } else { "0.0.0.0" });
                }
            }
        }
    }

    #[test]
    fn etsy_address_list_when_cut_then_omits_the_address_at_the_cut() {
        let long = value(&"203.0.113.123,".repeat(100));
        let mut sample = Record { client_chain: long, ..beacon() };
        let before = line(LogFormat::Etsy, &sample);
        assert!(before.contains("203.0.113.123 - - ["), "{before}");
        sample.detach();
        assert_eq!(line(LogFormat::Etsy, &sample), before);
    }

    #[test]
    fn log_line_when_values_are_forged_then_remains_a_single_line() {
        let agent = HeaderValue::from_bytes(b"x\" 200 1 \"-\" \"-\" fastly\t\xff\xc2\x9b31m\\").ok();
        let forged = Record {
            user_agent: agent,
            host: value("a b\"c"),
            target: Uri::from_static("/\"}{\"status\":200"),
            method: Method::from_bytes(b"GE'T").unwrap(),
            ..record()
        };
        for format in [LogFormat::Json, LogFormat::Combined, LogFormat::Etsy] {
            let line = line(format, &forged);
            assert_eq!(line.bytes().filter(|&byte| byte == b'\n').count(), 1);
            assert!(line.ends_with('\n') && !line.trim_end().contains(char::is_control));
            if format != LogFormat::Json {
                assert_eq!(line.matches('"').count(), 6, "{line}");
            }
        }
        assert!(line(LogFormat::Etsy, &forged).starts_with("a\\x20b\\x22c 203"));
        let parsed: serde_json::Value = serde_json::from_str(&line(LogFormat::Json, &forged)).unwrap();
        assert_eq!(parsed["path"], "/\"}{\"status\":200");
        assert_eq!(parsed["status"], 200);
    }

    #[test]
    fn ncsa_value_when_control_characters_or_quotes_are_present_then_escaped() {
        let mut ncsa = Vec::new();
        escape_ncsa(b"a\r\n\x1b[2J\0\x7f\xff\"\\", b'"', &mut ncsa);
        assert_eq!(ncsa, b"a\\x0D\\x0A\\x1B[2J\\x00\\x7F\\xFF\\x22\\x5C");
    }

    #[test]
    fn time_when_outside_the_calendar_then_written_as_the_nearest_second() {
        let before = Record { time: UNIX_EPOCH - Duration::from_secs(1), ..record() };
        assert!(line(LogFormat::Json, &before).starts_with("{\"time\":\"1970-01-01T00:00:00.000Z\""));
        let after = Record { time: UNIX_EPOCH + Duration::from_secs(LAST_SECOND + 9), ..record() };
        assert!(line(LogFormat::Json, &after).starts_with("{\"time\":\"9999-12-31T23:59:59.000Z\""));
    }

    proptest! {
        #[test]
        fn json_value_when_too_long_then_is_cut(raw in proptest::collection::vec(0x20_u8..=0xFF, 0..600)) {
            let raw: Vec<u8> = raw.into_iter().filter(|&byte| byte != 0x7F).collect();
            let mut sent = Record { user_agent: HeaderValue::from_bytes(&raw).ok(), ..record() };
            let first = line(LogFormat::Json, &sent);
            let read: serde_json::Value = serde_json::from_str(&first).unwrap();
            prop_assert_eq!(&read["user_agent"], &String::from_utf8_lossy(cut(&raw, TEXT_BYTES)).into_owned());
            sent.detach();
            prop_assert_eq!(line(LogFormat::Json, &sent), first);
        }

        #[test]
        fn cut_when_text_is_arbitrary_then_result_equals_values_cut(text in ".{0,400}", most in 0_usize..400) {
            let kept = cut(text.as_bytes(), most);
            prop_assert_eq!(kept, values::cut(&text, most).as_bytes());
        }

        #[test]
        fn ncsa_value_when_bytes_are_arbitrary_then_contains_no_delimiter(
            text in proptest::collection::vec(any::<u8>(), 0..400),
            unquoted in any::<bool>(),
        ) {
            let mut out = Vec::new();
            let also = if unquoted { b' ' } else { b'"' };
            escape_ncsa(&text, also, &mut out);
            let allowed = |byte| (b' '..=b'~').contains(&byte) && byte != b'"' && !(unquoted && byte == b' ');
            prop_assert!(out.iter().all(|&byte| allowed(byte)));
        }

        #[test]
        fn clock_when_set_then_formats_the_date_that_httpdate_formats(second in 0..=LAST_SECOND) {
            let time = UNIX_EPOCH + Duration::from_secs(second);
            let mut clock = Clock::default();
            clock.set(time);
            let ncsa = String::from_utf8(clock.ncsa).unwrap();
            let known = httpdate::fmt_http_date(time); // Sun, 22 Nov 2026 11:09:01 GMT
            let [day, month, year, hours] = [5..7, 8..11, 12..16, 17..25].map(|range| &known[range]);
            prop_assert_eq!(&ncsa, &format!("{day}/{month}/{year}:{hours} +0000"));
            let month = MONTHS.iter().position(|name| *name == month).unwrap() + 1;
            let rfc3339 = format!("{year}-{month:02}-{day}T{hours}");
            prop_assert_eq!(String::from_utf8(clock.rfc3339).unwrap(), rfc3339);
        }

        #[test]
        fn decimal_when_written_then_equals_the_standard_text(value in any::<u64>()) {
            let mut out = Vec::new();
            decimal(value, &mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
    }
}
