//! The choice of a locale for a request. The lookup of RFC 4647 §3.4 finds the best match for the Accept-Language
//! field (RFC 9110 §12.5.4).
//!
//! The field is read as bytes and not copied. At most 8 KiB, counted over all field lines, and at most 32 ranges are
//! read. The rest is ignored. A malformed range matches no locale.

use std::cmp::Ordering;

use crate::ids::LocaleId;
use crate::wire::quality::thousandths;

/// The number of bytes that are read, counted over all lines of the field.
const MAX_BYTES: usize = 8 * 1024;

/// The number of list members that are read, including malformed members.
const MAX_RANGES: usize = 32;

/// The known tags, and the locale for a request without a usable Accept-Language.
#[derive(Debug)]
pub(super) struct Locales {
    /// BCP 47 tags, in the order of the locales' ids. There are at most 256 tags, because an id is one byte.
    tags: Vec<String>,
    /// The positions of the tags that begin with the same letter, one list for each letter. So a range is compared with
    /// few tags.
    by_letter: [Vec<u8>; 26],
    /// Host names in lowercase, without a port, sorted by name.
    hosts: Vec<(String, LocaleId)>,
    default: LocaleId,
}

/// The error that two entries of `whoopsie.hosts` have the same host. The text is the host in lowercase, without a
/// port.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HostTwice(pub(super) String);

impl Locales {
    pub(super) fn new(
        tags: Vec<String>,
        hosts: &[(String, LocaleId)],
        default: LocaleId,
    ) -> Result<Self, Vec<HostTwice>> {
        let mut hosts: Vec<_> =
            hosts.iter().map(|(host, locale)| (name_of(host).to_ascii_lowercase(), *locale)).collect();
        hosts.sort_by(|a, b| a.0.cmp(&b.0));
        let same_host = hosts.chunk_by(|a, b| a.0 == b.0);
        let twice = same_host.filter_map(|entries| entries.get(1)).map(|(host, _)| HostTwice(host.clone()));
        let twice: Vec<_> = twice.collect();
        let mut by_letter: [Vec<u8>; 26] = Default::default();
        for (position, tag) in (0..=u8::MAX).zip(&tags) {
            if let Some(positions) = letter(tag.as_bytes()).and_then(|letter| by_letter.get_mut(letter)) {
                positions.push(position);
            }
        }
        if twice.is_empty() { Ok(Self { tags, by_letter, hosts, default }) } else { Err(twice) }
    }

    pub(super) fn tags(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().map(String::as_str)
    }

    /// Returns the best match of Accept-Language, else the host's locale, else the default. Accept-Language can exclude
    /// the host's locale with `q=0`. Accept-Language cannot exclude the default, because every client must get a page.
    pub(super) fn choose<'a>(&self, accept_language: impl Iterator<Item = &'a [u8]>, host: Option<&str>) -> LocaleId {
        let preferences = self.preferences(accept_language);
        preferences
            .best()
            .or_else(|| host.and_then(|host| self.of_host(host)).filter(|&locale| !preferences.exclude(locale)))
            .unwrap_or(self.default)
    }

    fn preferences<'a>(&self, lines: impl Iterator<Item = &'a [u8]>) -> Preferences {
        let mut preferences = Preferences { count: 0, all: [(LocaleId(0), 0); MAX_RANGES] };
        let mut bytes_left = MAX_BYTES;
        let mut ranges_left = MAX_RANGES;
        for line in lines {
            let seen = line.get(..bytes_left).unwrap_or(line);
            let cut = seen.len() < line.len();
            let mut members = seen.split(|&byte| byte == b',').peekable();
            while let Some(member) = members.next() {
                // The last member of a cut line is not read, because its weight or a part of its range can be missing.
                if ranges_left == 0 || (cut && members.peek().is_none()) {
                    return preferences;
                }
                let member = member.trim_ascii();
                if member.is_empty() {
                    continue;
                }
                ranges_left -= 1;
                if let Some((range, weight)) = parse(member) {
                    let locale = if weight == 0 { self.exactly(range) } else { self.lookup(range) };
                    if let Some(locale) = locale {
                        preferences.push(locale, weight);
                    }
                }
            }
            bytes_left -= seen.len();
        }
        preferences
    }

    /// Returns the known tag for a range. RFC 4647 §3.4 removes subtags from the end of the range until the range is a
    /// known tag. The result equals the longest known tag with which the range starts. One pass over the tags with the
    /// same first letter finds this tag.
    fn lookup(&self, range: &[u8]) -> Option<LocaleId> {
        let range = Range::new(range);
        self.position(range, |tag| range.starts_with(tag))
    }

    /// Returns the tag that a range with `q=0` excludes. This is only the tag that equals the range. A shorter tag is
    /// not excluded.
    fn exactly(&self, range: &[u8]) -> Option<LocaleId> {
        let (length, range) = (range.len(), Range::new(range));
        self.position(range, |tag| tag.len() == length && range.starts_with(tag))
    }

    /// Returns the longest tag that has the same first letter as `range` and for which `fits` is true.
    fn position(&self, range: Range<'_>, fits: impl Fn(&str) -> bool) -> Option<LocaleId> {
        let positions = self.by_letter.get(letter(range.primary)?)?;
        let tags = positions.iter().filter_map(|&position| Some((position, self.tags.get(usize::from(position))?)));
        let (position, _) = tags.filter(|(_, tag)| fits(tag)).max_by_key(|(_, tag)| tag.len())?;
        Some(LocaleId(position))
    }

    fn of_host(&self, host: &str) -> Option<LocaleId> {
        let wanted = name_of(host);
        let position = self.hosts.binary_search_by(|(name, _)| compare_lowercase(name, wanted)).ok()?;
        self.hosts.get(position).map(|&(_, locale)| locale)
    }
}

/// The locales in Accept-Language, in the order of the field. Unknown languages are left out.
struct Preferences {
    count: usize,
    /// Each locale has its weight in thousandths. The weight 0 excludes the locale.
    all: [(LocaleId, u16); MAX_RANGES],
}

impl Preferences {
    fn push(&mut self, locale: LocaleId, weight: u16) {
        if let Some(place) = self.all.get_mut(self.count) {
            *place = (locale, weight);
            self.count += 1;
        }
    }

    fn iter(&self) -> impl Iterator<Item = (LocaleId, u16)> {
        self.all.iter().take(self.count).copied()
    }

    /// Returns the locale with the greatest weight. Of locales with equal weights, the first locale is returned.
    /// Excluded locales are skipped.
    fn best(&self) -> Option<LocaleId> {
        let wanted = self.iter().filter(|&(locale, _)| !self.exclude(locale));
        wanted.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(locale, _)| locale)
    }

    fn exclude(&self, locale: LocaleId) -> bool {
        self.iter().any(|preference| preference == (locale, 0))
    }
}

/// Parses a basic language range (RFC 4647 §2.1) and its weight in thousandths. Returns `None` for a malformed member.
/// Also returns `None` for `*`: a lookup skips `*` and uses the other ranges, or else the default (RFC 4647 §3.4).
fn parse(member: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = member.split(|&byte| byte == b';');
    let range = parts.next()?.trim_ascii_end();
    let mut subtags = range.split(|&byte| byte == b'-');
    let primary = subtags.next()?;
    let well_formed = primary.iter().all(u8::is_ascii_alphabetic)
        && (1..=8).contains(&primary.len())
        && subtags.all(|subtag| (1..=8).contains(&subtag.len()) && subtag.iter().all(u8::is_ascii_alphanumeric));
    if !well_formed {
        return None;
    }
    match (parts.next(), parts.next()) {
        (None, _) => Some((range, 1000)),
        (Some(weight), None) => match weight.trim_ascii() {
            [b'q' | b'Q', b'=', value @ ..] => Some((range, thousandths(value)?)),
            _ => None,
        },
        _ => None,
    }
}

/// A language range. It is split once, because it is compared with several tags.
#[derive(Clone, Copy)]
struct Range<'a> {
    /// The first subtag: the current code of the language.
    primary: &'a [u8],
    /// The other subtags, with the dash before each subtag.
    rest: &'a [u8],
}

impl<'a> Range<'a> {
    fn new(range: &'a [u8]) -> Self {
        let (primary, rest) = range.split_at(range.iter().position(|&byte| byte == b'-').unwrap_or(range.len()));
        Self { primary: current(primary), rest }
    }

    /// Returns whether the subtags of the range start with all subtags of `tag`. The comparison ignores letter case.
    fn starts_with(self, tag: &str) -> bool {
        let Some((start, more)) = tag.as_bytes().split_at_checked(self.primary.len()) else { return false };
        if !start.eq_ignore_ascii_case(self.primary) {
            return false;
        }
        let Some((begun, after)) = self.rest.split_at_checked(more.len()) else { return false };
        begun.eq_ignore_ascii_case(more) && matches!(after, [] | [b'-', ..])
    }
}

/// Returns the number of the first letter: 0 for `a`, 25 for `z`. `None`: the text does not begin with a letter.
fn letter(text: &[u8]) -> Option<usize> {
    let first = text.first().filter(|first| first.is_ascii_alphabetic())?;
    Some(usize::from(first.to_ascii_lowercase() - b'a'))
}

/// Returns the current code of a language. Old Java and Android systems send the former code `iw` for Hebrew.
fn current(primary: &[u8]) -> &[u8] {
    if primary.eq_ignore_ascii_case(b"iw") { b"he" } else { primary }
}

/// Returns the name in a Host value, without the port and without the final dot of the DNS root.
fn name_of(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// Compares `name`, which is lowercase, with `other` in any letter case.
fn compare_lowercase(name: &str, other: &str) -> Ordering {
    name.bytes().cmp(other.bytes().map(|byte| byte.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TAGS: [&str; 7] = ["en", "de", "fr", "he", "zh", "pt", "pt-BR"];

    fn locales() -> Locales {
        let id = |tag: &str| LocaleId(u8::try_from(TAGS.iter().position(|known| *known == tag).unwrap()).unwrap());
        let hosts = [
            ("www.example.de", "de"),
            ("Example.FR:8443", "fr"),
            ("[2001:db8::1]", "he"),
            ("brasil.example.", "pt-BR"),
        ];
        let hosts = hosts.map(|(host, tag)| (host.to_owned(), id(tag)));
        Locales::new(TAGS.map(str::to_owned).to_vec(), &hosts, id("en")).unwrap()
    }

    fn chosen(lines: &[&[u8]], host: Option<&str>) -> &'static str {
        TAGS[usize::from(locales().choose(lines.iter().copied(), host).0)]
    }

    /// Accept-Language values and the chosen locales. The default is `en`.
    const TABLE: [(&str, &str); 84] = [
        // One range.
        ("", "en"),
        ("de", "de"),
        ("DE", "de"),
        ("fr", "fr"),
        ("ja", "en"),
        ("*", "en"),
        (" de ", "de"),
        ("\tde\t", "de"),
        // Ranges with more subtags than a known tag, and ranges that only resemble a known tag.
        ("de-AT", "de"),
        ("de-at", "de"),
        ("de-Latn-CH-1996", "de"),
        ("zh-Hant", "zh"),
        ("zh-Hant-TW", "zh"),
        ("zh-Hans-CN", "zh"),
        ("zh-a-bbb-x-c", "zh"),
        ("pt", "pt"),
        ("pt-PT", "pt"),
        ("pt-BR", "pt-BR"),
        ("PT-br-abnt2", "pt-BR"),
        ("pt-BRA", "pt"),
        ("dex", "en"),
        ("d", "en"),
        ("deutsch", "en"),
        ("x-de", "en"),
        // The former code `iw` of Hebrew.
        ("iw", "he"),
        ("IW-IL", "he"),
        ("he-IL", "he"),
        ("iwx", "en"),
        ("de-iw", "de"),
        // Weights.
        ("de,fr", "de"),
        ("fr,de", "fr"),
        ("de;q=0.5,fr", "fr"),
        ("de;q=0.5,fr;q=0.6", "fr"),
        ("de;q=0.5,fr;q=0.5", "de"),
        ("de;q=0.001,ja", "de"),
        ("de;q=0.999,fr;q=1.000", "fr"),
        ("de;q=0.9,fr;q=0.91", "fr"),
        ("de;q=0.09,fr;q=0.1", "fr"),
        ("de;Q=0.1,fr;q=0.2", "fr"),
        ("de ; q=0.1 , fr\t;\tq=0.2", "fr"),
        ("de;q=1.,fr;q=0.", "de"),
        ("fr;q=.9,en;q=.5", "fr"),
        ("de;q=.5,fr;q=.6", "fr"),
        ("de;q=.0,fr;q=.001", "fr"),
        ("de;q=.,fr;q=0.1", "fr"),
        ("ja,ko;q=0.9,fr;q=0.1", "fr"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("en-GB,de", "en"),
        ("en-GB;q=0.3,de;q=0.4", "de"),
        ("*,de;q=0.1", "de"),
        ("*;q=0.5,fr;q=0.1", "fr"),
        ("*;q=0", "en"),
        ("de,*;q=0", "de"),
        // Excluded ranges.
        ("de;q=0", "en"),
        ("de;q=0,fr;q=0.1", "fr"),
        ("de-AT,de;q=0", "en"),
        ("de;q=0,de", "en"),
        ("de,de;q=0.000,fr;q=0.2", "fr"),
        ("de-AT;q=0,de", "de"),
        ("de-AT;q=0", "en"),
        ("en;q=0", "en"),
        ("en;q=0,de;q=0.1", "de"),
        ("iw;q=0,he,fr;q=0.5", "fr"),
        ("pt-BR;q=0,pt", "pt"),
        ("pt;q=0,pt-BR;q=0.5", "pt-BR"),
        // Malformed members match nothing, and do not affect other members.
        (",,, de", "de"),
        (",", "en"),
        (";q=1,fr", "fr"),
        ("de;q=1.1,fr;q=0.1", "fr"),
        ("de;q=2,fr;q=0.1", "fr"),
        ("de;q=-1,fr;q=0.1", "fr"),
        ("de;q=0.1234,fr;q=0.1", "fr"),
        ("de;q=,fr;q=0.1", "fr"),
        ("de;q,fr;q=0.1", "fr"),
        ("de;,fr;q=0.1", "fr"),
        ("de;q = 1,fr;q=0.1", "fr"),
        ("de;level=1,fr;q=0.1", "fr"),
        ("de;q=1;q=1,fr;q=0.1", "fr"),
        ("de_AT,fr;q=0.1", "fr"),
        ("de-,fr;q=0.1", "fr"),
        ("-de,fr;q=0.1", "fr"),
        ("de-*,fr;q=0.1", "fr"),
        ("de-123456789,fr;q=0.1", "fr"),
        ("de fr,fr;q=0.1", "fr"),
    ];

    #[test]
    fn locale_when_accept_language_is_sent_then_is_the_best_match_or_the_default() {
        for (field, expected) in TABLE {
            assert_eq!(chosen(&[field.as_bytes()], None), expected, "Accept-Language: {field}");
        }
    }

    #[test]
    fn accept_language_when_sent_on_several_lines_then_read_as_one_list() {
        assert_eq!(chosen(&[b"de;q=0.5", b"fr"], None), "fr");
        assert_eq!(chosen(&[b"de", b"de;q=0"], None), "en");
        assert_eq!(chosen(&[], None), "en");
    }

    #[test]
    fn locale_when_no_range_matches_then_equals_the_locale_of_the_host() {
        for (host, expected) in [
            ("www.example.de", "de"),
            ("WWW.Example.De:8080", "de"),
            ("www.example.de:", "de"),
            ("www.example.de.:80", "de"),
            ("example.fr", "fr"),
            ("[2001:DB8::1]:443", "he"),
            ("[2001:db8::1]", "he"),
            ("brasil.example", "pt-BR"),
            ("example.de", "en"),
            ("www.example.de:8x", "en"),
            ("", "en"),
            (":", "en"),
        ] {
            assert_eq!(chosen(&[], Some(host)), expected, "Host: {host}");
        }
        assert_eq!(chosen(&[b"fr"], Some("www.example.de")), "fr");
        assert_eq!(chosen(&[b"ja, *"], Some("www.example.de")), "de");
        assert_eq!(chosen(&[b"de;q=0"], Some("www.example.de")), "en");
    }

    #[test]
    fn hosts_when_two_entries_name_the_same_host_then_rejected() {
        let hosts = ["c.example", "a.example", "b.example", "A.example:80", "C.example", "c.example:1"];
        let hosts = hosts.map(|host| (host.to_owned(), LocaleId(0)));
        assert_eq!(
            Locales::new(vec!["en".to_owned()], &hosts, LocaleId(0)).unwrap_err(),
            ["a.example", "c.example"].map(|host| HostTwice(host.to_owned()))
        );
    }

    #[test]
    fn accept_language_when_longer_than_the_limits_then_rest_is_ignored() {
        let many = |count: usize| format!("{}de", "ja,".repeat(count));
        assert_eq!(chosen(&[many(31).as_bytes()], None), "de");
        assert_eq!(chosen(&[many(32).as_bytes()], None), "en");
        // Empty members do not count as ranges.
        assert_eq!(chosen(&[format!("{}de", ",".repeat(100)).as_bytes()], None), "de");
        // In the first line, the last member ends at the limit and is read. In the next two lines, the last member ends
        // after the limit and is not read: the part before the limit would have another meaning.
        let ending = |member: &str, bytes: usize| format!("{}{member}", ",".repeat(bytes - member.len()));
        assert_eq!(chosen(&[ending("de", MAX_BYTES).as_bytes()], None), "de");
        assert_eq!(chosen(&[ending("de-AT", MAX_BYTES + 3).as_bytes()], None), "en");
        assert_eq!(chosen(&[ending("de;q=0", MAX_BYTES + 4).as_bytes()], Some("www.example.de")), "de");
        // The limit applies to the sum of all lines.
        assert_eq!(chosen(&[",".repeat(MAX_BYTES).as_bytes(), b"de"], None), "en");
        assert_eq!(chosen(&[",".repeat(MAX_BYTES - 2).as_bytes(), b"de", b"fr"], None), "de");
    }

    /// Chooses a locale by the simplest implementation of RFC 4647 §3.4 and of the rules of this file. A test compares
    /// its results with those of [`Locales::choose`]. The lists must be within the limits.
    fn simple_form(members: &[(String, u16)]) -> &'static str {
        let excluded: Vec<_> =
            members.iter().filter(|(_, weight)| *weight == 0).map(|(range, _)| range.to_lowercase()).collect();
        let mut wanted: Vec<_> = members.iter().filter(|(_, weight)| *weight > 0).collect();
        wanted.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
        for (range, _) in wanted {
            let mut subtags: Vec<_> = range.split('-').collect();
            while !subtags.is_empty() {
                let tried = subtags.join("-");
                if let Some(tag) = TAGS.iter().find(|tag| tag.eq_ignore_ascii_case(&tried)) {
                    if excluded.contains(&tag.to_lowercase()) {
                        break;
                    }
                    return tag;
                }
                subtags.pop();
                if subtags.last().is_some_and(|last| last.len() == 1) {
                    subtags.pop();
                }
            }
        }
        "en"
    }

    proptest! {
        #[test]
        fn locale_when_ranges_are_arbitrary_then_equals_the_result_of_simple_form(
            members in proptest::collection::vec(
                ("(en|de|fr|he|zh|pt|ja)(-(BR|br|Hant|x|a))?(-[a-z0-9]{1,8})?", 0..=1000_u16),
                0..12,
            )
        ) {
            let field: Vec<_> = members.iter().map(|(range, weight)| {
                format!("{range};q={}.{:03}", weight / 1000, weight % 1000)
            }).collect();
            prop_assert_eq!(chosen(&[field.join(", ").as_bytes()], None), simple_form(&members));
        }

        #[test]
        fn locale_when_field_is_arbitrary_bytes_then_is_a_known_locale(
            lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..5),
            host in ".{0,40}",
        ) {
            let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
            prop_assert!(TAGS.contains(&chosen(&lines, Some(&host))));
        }

        #[test]
        fn locale_when_field_resembles_the_grammar_then_is_a_known_locale(field in "[a-zA-Z0-9;,=.*q -]{0,300}") {
            prop_assert!(TAGS.contains(&chosen(&[field.as_bytes()], None)));
        }
    }
}
