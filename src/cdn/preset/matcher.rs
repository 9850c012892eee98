//! A signal of a preset: one header field, and a test of its value.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::wire::names::VIA;
use crate::wire::tokens;

/// The largest number of entries of Fastly-FF that are read. Each is one hop inside Fastly.
const MOST_FASTLY_HOPS: usize = 16;

/// A header field, with the spelling of its CDN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    pub name: HeaderName,
    /// The spelling that the CDN documents, for people.
    pub spelled: String,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelled)
    }
}

/// The largest number of hops of CDN-Loop and Via that are read, nearest first. Real requests have some ten.
pub(in crate::cdn) const MOST_HOPS: u16 = 32;
/// The longest entry of either that is read. Real ones have some 60 bytes.
const MOST_HOP_BYTES: usize = 256;

/// One header field and the test of its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Matcher {
    pub field: Field,
    /// The test. With several field lines, one must pass.
    pub test: Test,
}

/// A test of a field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Test {
    /// Any value: the field itself is the signal.
    Present,
    /// One of the last list members has this name, compared without case. In Via any word of a member counts.
    Member(String),
    /// The value is equal to this text.
    Value(String),
    /// The value starts with this text.
    Starts(String),
    /// The value is an integer, and at least this one.
    AtLeast(u64),
    /// Fastly-FF has at least this number of different points of presence.
    Pops(usize),
}

impl Matcher {
    /// Whether the request passes.
    pub(crate) fn holds(&self, headers: &HeaderMap) -> bool {
        match &self.test {
            Test::Member(name) if self.field.name == VIA => hops(headers, &VIA).any(|member| is_via(member, name)),
            Test::Member(name) => hops(headers, &self.field.name).any(|member| is_named(member, name)),
            test => headers.get_all(&self.field.name).iter().any(|line| test.holds_in(line)),
        }
    }
}

impl Test {
    /// Whether one field line passes. For lists see [`Matcher::holds`].
    pub(in crate::cdn) fn holds_in(&self, line: &HeaderValue) -> bool {
        let line = line.as_bytes();
        match self {
            Self::Present => true,
            // A list spans all lines of a field.
            Self::Member(_) => false,
            Self::Value(value) => line.trim_ascii() == value.as_bytes(),
            Self::Starts(start) => line.starts_with(start.as_bytes()),
            Self::AtLeast(least) => std::str::from_utf8(line)
                .is_ok_and(|text| text.trim().parse::<u64>().is_ok_and(|number| number >= *least)),
            Self::Pops(least) => {
                // Without a comma the field has at most one entry. Most pulls are like this.
                if *least > 1 && memchr::memchr(b',', line).is_none() {
                    return false;
                }
                let pops = || fastly_pops(line).take(MOST_FASTLY_HOPS);
                pops().enumerate().filter(|&(at, pop)| !pops().take(at).any(|earlier| earlier == pop)).count() >= *least
            }
        }
    }
}

/// For people: the field and the test.
impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = &self.field;
        match &self.test {
            Test::Present => write!(f, "{field}"),
            Test::Member(name) => write!(f, "{field} with {name}"),
            Test::Value(value) => write!(f, "{field}: {value}"),
            Test::Starts(start) => write!(f, "{field}: {start}…"),
            Test::AtLeast(least) => write!(f, "{field} of {least} or more"),
            Test::Pops(least) => write!(f, "{field} with {least} points of presence or more"),
        }
    }
}

/// The nearest hops that a list names, nearest first. Further ones are not read, so that a long list costs nothing.
pub(in crate::cdn) fn hops<'a>(headers: &'a HeaderMap, list: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    tokens::last(headers, list, usize::from(MOST_HOPS)).filter(|member| member.len() <= MOST_HOP_BYTES)
}

/// Whether a member of CDN-Loop has this name, which comes before any parameters (RFC 8586 §2).
pub(in crate::cdn) fn is_named(member: &[u8], name: &str) -> bool {
    tokens::with_parameters(member).0.eq_ignore_ascii_case(name.as_bytes())
}

/// Whether a member of Via contains this name, or a host name below it, as a word.
///
/// CDNs do not follow RFC 9110 §7.6.3: they omit the version (`BunnyCDN`), add the name of the protocol (`HTTP/1.1 ECS
/// (x)`) or write their name in a comment. So any word counts.
pub(in crate::cdn) fn is_via(member: &[u8], name: &str) -> bool {
    let name = name.as_bytes();
    let is_in_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    member.split(|byte| !is_in_word(byte)).any(|word| {
        let start = word.len().checked_sub(name.len());
        start.and_then(|at| word.split_at_checked(at)).is_some_and(|(before, end)| {
            end.eq_ignore_ascii_case(name) && before.last().is_none_or(|&byte| byte == b'.')
        })
    })
}

/// The points of presence in Fastly-FF, the client's first. Each node appends an entry `signature!POP!node`. The
/// signature is the service's: entries with another one come from a client or from another service before this one, and
/// are ignored.
fn fastly_pops(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let last = memchr::memrchr(b',', line).and_then(|comma| line.get(comma + 1..)).unwrap_or(line);
    let of_service = fastly_entry(last.trim_ascii()).map(|(signature, _)| signature);
    let entries = tokens::of_line(line).filter_map(fastly_entry);
    entries.filter(move |&(signature, _)| Some(signature) == of_service).map(|(_, pop)| pop)
}

/// The client's point of presence in Fastly-FF.
pub(in crate::cdn) fn fastly_pop(line: &[u8]) -> Option<&[u8]> {
    if memchr::memchr(b',', line).is_none() {
        return fastly_entry(line.trim_ascii()).map(|(_, pop)| pop);
    }
    fastly_pops(line).next()
}

/// An entry's signature and point of presence.
fn fastly_entry(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut marks = memchr::memchr_iter(b'!', entry);
    let (first, second) = (marks.next()?, marks.next()?);
    let pop = entry.get(first + 1..second).filter(|pop| !pop.is_empty())?;
    Some((entry.get(..first)?, pop))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::names::{CDN_LOOP, USER_AGENT};

    fn holds(field: &HeaderName, test: Test, line: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.append(field.clone(), HeaderValue::from_static("something else"));
        headers.append(field.clone(), HeaderValue::from_str(line).unwrap());
        Matcher { field: Field { name: field.clone(), spelled: field.to_string() }, test }.holds(&headers)
    }

    #[test]
    fn via_when_against_the_grammar_then_read() {
        for (line, name, is) in [
            ("1.1 google", "google", true),
            ("BunnyCDN", "bunnycdn", true),
            ("HTTP/1.1 ECS (ewr/15BD)", "ECS", true),
            ("1.1 v1-akamaitech.net(ghost) (AkamaiGHost), 1.1 akamai.net(ghost) (AkamaiGHost)", "akamai.net", true),
            ("2.0 a1b2.cloudfront.net (CloudFront)", "cloudfront.net", true),
            ("2.0 a1b2.notcloudfront.net (x)", "cloudfront.net", false),
            ("1.1 googleproxy", "google", false),
            ("1.1 my-google", "google", false),
            ("", "google", false),
        ] {
            assert_eq!(holds(&VIA, Test::Member(name.to_owned()), line), is, "{line}");
        }
    }

    #[test]
    fn test_when_value_matches_then_holds() {
        let member = |line| holds(&CDN_LOOP, Test::Member("Fastly".to_owned()), line);
        assert!(member("cloudflare; subreqs=1, fastly;x=\"a, b\""));
        assert!(!member("fastlyy, x-fastly"));
        // Invalid or many members from a client do not hide the CDN's own member.
        assert!(member("\"never closed, fastly") && member(&format!("{}fastly", "a, ".repeat(5_000))));
        assert!(holds(&USER_AGENT, Test::Value("Amazon CloudFront".to_owned()), "Amazon CloudFront"));
        assert!(!holds(&USER_AGENT, Test::Value("Amazon CloudFront".to_owned()), "Amazon CloudFront/2"));
        assert!(holds(&USER_AGENT, Test::Starts("GoogleHC/".to_owned()), "GoogleHC/1.0"));
        for (line, is) in
            [("2", true), (" 3 ", true), ("1", false), ("-2", false), ("2x", false), ("99999999999999999999", false)]
        {
            assert_eq!(holds(&USER_AGENT, Test::AtLeast(2), line), is, "{line}");
        }
        for (line, is) in [
            ("a!LHR!cache-1, a!FRA!cache-2", true),
            ("forged!JFK!cache-9, a!LHR!cache-1, a!LHR!cache-2", false),
            ("a!LHR!cache-1, a!LHR!cache-2", false),
            ("LHR, FRA", false),
            ("!!, a!!b", false),
        ] {
            assert_eq!(holds(&USER_AGENT, Test::Pops(2), line), is, "{line}");
        }
    }
}
