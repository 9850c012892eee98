//! The tests that a preset defines for requests. They recognise the CDN (signals), its health checks, and its pulls
//! through a shield, which is a server of the CDN that pulls for the CDN's other servers. Each [`Matcher`] is one
//! header field with a test of the field's value.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::wire::head_fields::Fields;
use crate::wire::names::VIA;
use crate::wire::tokens;

/// The largest number of entries of Fastly-FF in which [`Test::Pops`] counts points of presence. Each Fastly node on
/// the way appends one entry.
const MOST_FASTLY_HOPS: usize = 16;

/// A header field, and how the CDN spells its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    pub name: HeaderName,
    /// The name as the CDN's documentation spells it, to be shown to people.
    pub spelled: String,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelled)
    }
}

/// The largest number of hops that are read from CDN-Loop and from Via, the nearest hop first. A hop is a proxy or a
/// CDN on the way of the request, which adds an entry to the list. Real requests have at most about ten hops.
pub(in crate::cdn) const MOST_HOPS: u16 = 32;
/// The longest entry of CDN-Loop or Via that is read, in bytes. Real entries have about 60 bytes.
const MOST_HOP_BYTES: usize = 256;

/// One header field, and a test of its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Matcher {
    pub field: Field,
    /// The test. If the field has several lines, it is enough that one line passes.
    pub test: Test,
}

/// A test of a field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Test {
    /// Every value passes, because the presence of the field is the signal.
    Present,
    /// The field is a list, and one of its last 32 members has this name. The comparison ignores case. In Via, any word
    /// of a member can be the name.
    Member(String),
    /// The value equals this text. Whitespace at the edges of the value is ignored.
    Value(String),
    /// The value starts with this text.
    Starts(String),
    /// The value is an integer that is not smaller than this number.
    AtLeast(u64),
    /// Fastly-FF contains at least this number of different points of presence.
    Pops(usize),
}

impl Matcher {
    /// Returns whether the header fields of a request pass the test.
    pub(crate) fn holds<'a>(&self, fields: impl Into<Fields<'a>>) -> bool {
        let fields = fields.into();
        if !fields.can_have(&self.field.name) {
            return false;
        }
        let headers = fields.headers();
        match &self.test {
            Test::Member(name) if self.field.name == VIA => hops(headers, &VIA).any(|member| is_via(member, name)),
            Test::Member(name) => hops(headers, &self.field.name).any(|member| is_named(member, name)),
            test => headers.get_all(&self.field.name).iter().any(|line| test.holds_in(line)),
        }
    }
}

impl Test {
    /// Returns whether one field line passes the test. For [`Test::Member`] the result is always false, because only
    /// [`Matcher::holds`] tests lists.
    pub(in crate::cdn) fn holds_in(&self, line: &HeaderValue) -> bool {
        let line = line.as_bytes();
        match self {
            Self::Present => true,
            // A list can continue over several lines of the field, so one line is not enough to test it.
            Self::Member(_) => false,
            Self::Value(value) => line.trim_ascii() == value.as_bytes(),
            Self::Starts(start) => line.starts_with(start.as_bytes()),
            Self::AtLeast(least) => std::str::from_utf8(line)
                .is_ok_and(|text| text.trim().parse::<u64>().is_ok_and(|number| number >= *least)),
            Self::Pops(least) => {
                // A line without a comma has at most one entry. This check is fast and is enough for most pulls.
                if *least > 1 && memchr::memchr(b',', line).is_none() {
                    return false;
                }
                let (mut found, mut count) = ([&b""[..]; MOST_FASTLY_HOPS], 0);
                for pop in fastly_pops(line).take(MOST_FASTLY_HOPS) {
                    if !found[..count].contains(&pop) {
                        found[count] = pop;
                        count += 1;
                    }
                }
                count >= *least
            }
        }
    }
}

/// Writes the field and the test, to be shown to people.
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

/// Returns the last [`MOST_HOPS`] hops of a list in reverse order, so the nearest hop comes first. A client can send a
/// long list, so the limit bounds the cost. A hop of more than 256 bytes is left out.
pub(in crate::cdn) fn hops<'a>(headers: &'a HeaderMap, list: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    tokens::last(headers, list, usize::from(MOST_HOPS)).filter(|member| member.len() <= MOST_HOP_BYTES)
}

/// Returns whether a member of CDN-Loop has this name. The name comes before the parameters of the member (RFC 8586
/// §2).
pub(in crate::cdn) fn is_named(member: &[u8], name: &str) -> bool {
    tokens::with_parameters(member).0.eq_ignore_ascii_case(name.as_bytes())
}

/// Returns whether a word in a member of Via is this name, or is a host name that ends with a dot and this name.
///
/// The position of a CDN's name in a member varies. RFC 9110 §7.6.3 requires a version before the name and allows a
/// protocol name (`HTTP/1.1 ECS (x)`) and a comment. Some CDNs write their name into the comment, and some omit the
/// version (`BunnyCDN`). So every word of a member is compared.
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

/// Returns the points of presence in Fastly-FF. The point of presence nearest to the client comes first.
///
/// Each Fastly node appends an entry `signature!POP!node`. All nodes of one Fastly service write the same signature.
/// The last entry comes from the node that pulls. If an entry has another signature than the last entry, the entry
/// comes from a client or from another Fastly service, and is ignored.
fn fastly_pops(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let last = memchr::memrchr(b',', line).and_then(|comma| line.get(comma + 1..)).unwrap_or(line);
    let of_service = fastly_entry(last.trim_ascii()).map(|(signature, _)| signature);
    let entries = tokens::of_line(line).filter_map(fastly_entry);
    entries.filter(move |&(signature, _)| Some(signature) == of_service).map(|(_, pop)| pop)
}

/// Returns the point of presence in Fastly-FF that is nearest to the client.
pub(in crate::cdn) fn fastly_pop(line: &[u8]) -> Option<&[u8]> {
    if memchr::memchr(b',', line).is_none() {
        return fastly_entry(line.trim_ascii()).map(|(_, pop)| pop);
    }
    fastly_pops(line).next()
}

/// Returns the signature and the point of presence of an entry of Fastly-FF.
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
    fn via_when_a_word_is_the_name_or_a_host_below_the_name_then_matches() {
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
    fn matcher_when_value_passes_the_test_then_matches_and_otherwise_does_not() {
        let member = |line| holds(&CDN_LOOP, Test::Member("Fastly".to_owned()), line);
        assert!(member("cloudflare; subreqs=1, fastly;x=\"a, b\""));
        assert!(!member("fastlyy, x-fastly"));
        // The member that the CDN added is found even if a client sent an invalid member or many members before it.
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
