//! The whoopsie page: its template, its words, and putting one together.
//!
//! A template is split once. For each locale its words and the settings are filled in and what lies between two values of a request
//! becomes one fixed text with its gzip twin (`deflate.rs`). A request then costs a copy for each piece into one allocation.
//!
//! What may stand in double braces:
//! - `{{text.NAME}}`: a word of the locale, any key of `locales/en.toml` but the first two;
//! - a setting, filled in at start: `language`, `direction`, `site_name`, `status_url`, `support_url`, `beacon_base`, `beacon_path`;
//! - a value of the request: `status`, `id`, `provider`, `pop`, `cause`, `time`, `time_rfc3339`;
//! - `{{#SETTING}} … {{/SETTING}}`: left out where that setting is empty; not nested;
//! - `{{! … }}`: a comment.
//!
//! Values are escaped for where they stand: percent-encoded after the `?` of a quoted attribute (RFC 3986 §2.1), else as HTML text.
//! Neither is enough inside a `<script>`, a `<style>` or an unquoted attribute: no value may stand there.

use std::io;

use bytes::Bytes;
use http::StatusCode;

use super::deflate::{self, Checksum};
use super::{Moment, PageSettings, PagesError};

/// The `site_name` that stands for none; pages then say `this_site` in their own language.
pub(super) const NO_SITE_NAME: &str = "This site";

/// How much of a value is shown. Escaped sixfold at most, it fits into one stored block.
const MOST_VALUE_BYTES: usize = 256;

/// The keys of a locale file beside `language` and `direction`.
const WORDS: [&str; 12] = [
    "title",
    "this_site",
    "heading",
    "explanation",
    "next_step",
    "retry",
    "status_link",
    "support_link",
    "reference",
    "time",
    "provider",
    "status",
];

/// The words of one locale.
#[derive(Debug)]
pub(super) struct Words {
    /// BCP 47.
    pub(super) language: String,
    direction: String,
    /// In the order of [`WORDS`].
    texts: Vec<String>,
}

impl Words {
    /// Reads a locale file: every key there is, once, and no other.
    pub(super) fn parse(file: &str) -> Result<Self, String> {
        let mut table = file.parse::<toml::Table>().map_err(|error| error.to_string())?;
        let mut take = |key: &str| match table.remove(key) {
            Some(toml::Value::String(text)) if !text.trim().is_empty() => Ok(text),
            Some(_) => Err(format!("`{key}` must be a text that is not empty")),
            None => Err(format!("`{key}` is missing; `en.toml` shows what it says")),
        };
        let language = take("language")?;
        let well_formed =
            |subtag: &str| (1..=8).contains(&subtag.len()) && subtag.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !language.split('-').all(well_formed) {
            return Err(format!("`language` is `{language}`; write a BCP 47 tag such as `de` or `pt-BR`"));
        }
        let direction = take("direction")?;
        if direction != "ltr" && direction != "rtl" {
            return Err(format!("`direction` is `{direction}`; write `ltr` or `rtl`"));
        }
        let texts = WORDS.into_iter().map(take).collect::<Result<_, _>>()?;
        match table.keys().next() {
            Some(key) => Err(format!("`{key}` is not a key of locale files; take it out")),
            None => Ok(Self { language, direction, texts }),
        }
    }

    fn word(&self, position: usize) -> &str {
        self.texts.get(position).map_or("", String::as_str)
    }

    fn this_site(&self) -> &str {
        WORDS.iter().position(|name| *name == "this_site").map_or("", |position| self.word(position))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Language,
    Direction,
    SiteName,
    StatusUrl,
    SupportUrl,
    BeaconBase,
    BeaconPath,
}

impl Setting {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "language" => Self::Language,
            "direction" => Self::Direction,
            "site_name" => Self::SiteName,
            "status_url" => Self::StatusUrl,
            "support_url" => Self::SupportUrl,
            "beacon_base" => Self::BeaconBase,
            "beacon_path" => Self::BeaconPath,
            _ => return None,
        })
    }

    fn text<'a>(self, settings: &'a PageSettings, words: &'a Words) -> &'a str {
        match self {
            Self::Language => &words.language,
            Self::Direction => &words.direction,
            Self::SiteName if settings.site_name.is_empty() || settings.site_name == NO_SITE_NAME => words.this_site(),
            Self::SiteName => &settings.site_name,
            Self::StatusUrl => &settings.status_url,
            Self::SupportUrl => &settings.support_url,
            // The path begins with a slash of its own.
            Self::BeaconBase => settings.beacon_base.trim_end_matches('/'),
            Self::BeaconPath => &settings.beacon_path,
        }
    }
}

/// What changes per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Status,
    Id,
    Provider,
    Pop,
    Cause,
    Time,
    TimeRfc3339,
}

const SLOTS: usize = 7;

impl Slot {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "status" => Self::Status,
            "id" => Self::Id,
            "provider" => Self::Provider,
            "pop" => Self::Pop,
            "cause" => Self::Cause,
            "time" => Self::Time,
            "time_rfc3339" => Self::TimeRfc3339,
            _ => return None,
        })
    }
}

/// How a text is written where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    Html,
    Query,
}

impl Escape {
    /// For a place after `before`.
    fn after(before: &str) -> Self {
        let tag = match (before.rfind('<'), before.rfind('>')) {
            (Some(open), Some(close)) if close > open => "",
            (Some(open), _) => before.get(open..).unwrap_or_default(),
            (None, _) => "",
        };
        let mut quotes = tag.rsplit('"');
        let attribute = quotes.next().unwrap_or_default();
        let is_quoted = quotes.count() % 2 == 1;
        if is_quoted && attribute.contains('?') { Self::Query } else { Self::Html }
    }

    /// How many bytes `text` becomes.
    fn bytes(self, text: &[u8]) -> u16 {
        text.iter().fold(0_u16, |sum, &byte| {
            sum.saturating_add(match self {
                Self::Html => entity(byte).map_or(1, |entity| u16::try_from(entity.len()).unwrap_or(u16::MAX)),
                Self::Query if is_unreserved(byte) => 1,
                Self::Query => 3,
            })
        })
    }

    fn push(self, out: &mut Vec<u8>, text: &[u8]) {
        for &byte in text {
            match self {
                Self::Html => match entity(byte) {
                    Some(entity) => out.extend_from_slice(entity),
                    None => out.push(byte),
                },
                Self::Query if is_unreserved(byte) => out.push(byte),
                Self::Query => out.extend_from_slice(&[b'%', hex(byte >> 4), hex(byte & 15)]),
            }
        }
    }
}

fn entity(byte: u8) -> Option<&'static [u8]> {
    Some(match byte {
        b'&' => b"&amp;",
        b'<' => b"&lt;",
        b'>' => b"&gt;",
        b'"' => b"&quot;",
        b'\'' => b"&#39;",
        _ => return None,
    })
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn hex(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 }
}

#[derive(Debug)]
enum Piece<'t> {
    Fixed(&'t str),
    /// By its place in [`WORDS`].
    Word(usize, Escape),
    Setting(Setting, Escape),
    Slot(Slot, Escape),
    Open(Setting),
    Close,
}

/// A template, split.
#[derive(Debug)]
pub(super) struct Template<'t> {
    pieces: Vec<Piece<'t>>,
}

impl<'t> Template<'t> {
    /// Splits `source`. An error names the line that is wrong.
    pub(super) fn parse(source: &'t str) -> Result<Self, PagesError> {
        let mut pieces = Vec::new();
        let mut rest = source;
        let mut section: Option<(&str, usize)> = None;
        while let Some((fixed, after)) = rest.split_once("{{") {
            pieces.push(Piece::Fixed(fixed));
            let before = source.get(..source.len() - after.len() - "{{".len()).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let broken = |problem| PagesError::BrokenTemplate { line, problem };
            let Some((name, after)) = after.split_once("}}") else {
                return Err(broken("`{{` without `}}`"));
            };
            rest = after;
            let unknown = |name: &str| PagesError::UnknownPlaceholder { name: name.to_owned(), line };
            let escape = Escape::after(before);
            if name.starts_with('!') {
                continue;
            }
            if let Some(name) = name.strip_prefix('#') {
                if section.is_some() {
                    return Err(broken("a section inside a section"));
                }
                pieces.push(Piece::Open(Setting::named(name).ok_or_else(|| unknown(name))?));
                section = Some((name, line));
            } else if let Some(name) = name.strip_prefix('/') {
                if section.take().is_none_or(|(open, _)| open != name) {
                    return Err(broken("the end of a section that is not open"));
                }
                pieces.push(Piece::Close);
            } else if let Some(word) = name.strip_prefix("text.") {
                let position = WORDS.iter().position(|known| *known == word).ok_or_else(|| unknown(name))?;
                pieces.push(Piece::Word(position, escape));
            } else if let Some(setting) = Setting::named(name) {
                pieces.push(Piece::Setting(setting, escape));
            } else {
                pieces.push(Piece::Slot(Slot::named(name).ok_or_else(|| unknown(name))?, escape));
            }
        }
        pieces.push(Piece::Fixed(rest));
        match section {
            Some((_, line)) => Err(PagesError::BrokenTemplate { line, problem: "a section that is not closed" }),
            None => Ok(Self { pieces }),
        }
    }

    /// The page in one language.
    pub(super) fn fill(&self, words: &Words, settings: &PageSettings) -> io::Result<Page> {
        let mut stretches = Vec::new();
        let mut fixed = Vec::new();
        let mut skip = false;
        for piece in &self.pieces {
            match *piece {
                Piece::Open(setting) => skip = setting.text(settings, words).is_empty(),
                Piece::Close => skip = false,
                _ if skip => {}
                Piece::Fixed(text) => fixed.extend_from_slice(text.as_bytes()),
                Piece::Word(position, escape) => escape.push(&mut fixed, words.word(position).as_bytes()),
                Piece::Setting(setting, escape) => escape.push(&mut fixed, setting.text(settings, words).as_bytes()),
                Piece::Slot(slot, escape) => {
                    let deflated = deflate::before_value(&fixed)?;
                    stretches.push((Fixed::new(std::mem::take(&mut fixed), deflated), slot, escape));
                }
            }
        }
        let deflated = deflate::at_end(&fixed)?;
        let end = Fixed::new(fixed, deflated);
        let sum =
            |bytes: fn(&Fixed) -> usize| stretches.iter().map(|(fixed, ..)| bytes(fixed)).sum::<usize>() + bytes(&end);
        let plain_bytes = sum(|fixed| fixed.plain.len());
        let gzip_bytes = sum(|fixed| fixed.deflated.len())
            + deflate::HEADER.len()
            + stretches.len() * deflate::LENGTH_BYTES
            + deflate::TRAILER_BYTES;
        Ok(Page { stretches, end, plain_bytes, gzip_bytes })
    }
}

/// A text that is the same for all requests.
#[derive(Debug)]
struct Fixed {
    plain: Vec<u8>,
    deflated: Vec<u8>,
    checksum: Checksum,
}

impl Fixed {
    fn new(plain: Vec<u8>, deflated: Vec<u8>) -> Self {
        let checksum = Checksum::of(&plain);
        Self { plain, deflated, checksum }
    }
}

/// A page in one language, all but the values of a request.
#[derive(Debug)]
pub(super) struct Page {
    /// A fixed text, and the value that follows it.
    stretches: Vec<(Fixed, Slot, Escape)>,
    end: Fixed,
    /// Of the fixed texts.
    plain_bytes: usize,
    /// Of the fixed texts deflated and all that gzip puts around them and the values.
    gzip_bytes: usize,
}

impl Page {
    pub(super) fn render(&self, moment: &Moment<'_>, gzip: bool) -> Bytes {
        let status = StatusCode::from_u16(moment.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let clock = Clock::at(moment.unix_seconds);
        let values = Values::new(moment, status.as_str(), &clock);
        let value_bytes: usize =
            self.stretches.iter().map(|&(_, slot, escape)| usize::from(values.bytes(slot, escape))).sum();
        let plain_bytes = self.plain_bytes + value_bytes;
        let out = if gzip { self.gzip(&values, value_bytes, plain_bytes) } else { self.plain(&values, plain_bytes) };
        // As long as its room, the vector becomes Bytes as it is.
        Bytes::from(out)
    }

    fn plain(&self, values: &Values<'_>, plain_bytes: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(plain_bytes);
        for (fixed, slot, escape) in &self.stretches {
            out.extend_from_slice(&fixed.plain);
            values.push(&mut out, *slot, *escape);
        }
        out.extend_from_slice(&self.end.plain);
        out
    }

    fn gzip(&self, values: &Values<'_>, value_bytes: usize, plain_bytes: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.gzip_bytes + value_bytes);
        out.extend_from_slice(&deflate::HEADER);
        let mut crc = 0;
        for (fixed, slot, escape) in &self.stretches {
            out.extend_from_slice(&fixed.deflated);
            deflate::push_length(&mut out, values.bytes(*slot, *escape));
            let start = out.len();
            values.push(&mut out, *slot, *escape);
            let mut hasher = crc32fast::Hasher::new_with_initial(fixed.checksum.after(crc));
            hasher.update(out.get(start..).unwrap_or_default());
            crc = hasher.finalize();
        }
        out.extend_from_slice(&self.end.deflated);
        deflate::push_trailer(&mut out, self.end.checksum.after(crc), plain_bytes);
        out
    }
}

/// The values of one request with their lengths as HTML and in a query, by slot: every `Slot` is a place in the array.
struct Values<'a> {
    all: [(&'a [u8], u16, u16); SLOTS],
}

impl<'a> Values<'a> {
    fn new(moment: &Moment<'a>, status: &'a str, clock: &'a Clock) -> Self {
        let cut = |text: &'a str| text.get(..text.floor_char_boundary(MOST_VALUE_BYTES)).unwrap_or_default().as_bytes();
        let measured = |text: &'a [u8]| (text, Escape::Html.bytes(text), Escape::Query.bytes(text));
        // In the order of `Slot`.
        let all = [
            status.as_bytes(),
            cut(moment.id),
            cut(moment.provider),
            cut(moment.pop),
            cut(moment.cause),
            &clock.spoken,
            &clock.rfc3339,
        ];
        Self { all: all.map(measured) }
    }

    fn bytes(&self, slot: Slot, escape: Escape) -> u16 {
        let (_, html, query) = self.all[slot as usize];
        match escape {
            Escape::Html => html,
            Escape::Query => query,
        }
    }

    fn push(&self, out: &mut Vec<u8>, slot: Slot, escape: Escape) {
        let (text, ..) = self.all[slot as usize];
        if text.len() == usize::from(self.bytes(slot, escape)) {
            out.extend_from_slice(text);
        } else {
            escape.push(out, text);
        }
    }
}

/// A second of UTC, written out (RFC 3339).
struct Clock {
    /// `2026-11-22 11:09:01 UTC`
    spoken: [u8; 23],
    /// `2026-11-22T11:09:01Z`
    rfc3339: [u8; 20],
}

impl Clock {
    /// Times after the year 9999, which RFC 3339 cannot write, become its last second.
    fn at(unix_seconds: u64) -> Self {
        let seconds = unix_seconds.min(253_402_300_799);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Days are counted from 1 March of the year 0, so that leap days come last: each month then begins at a fixed day.
        let days = days + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);

        let mut spoken = *b"0000-00-00 00:00:00 UTC";
        for (start, number) in [
            (0, year / 100),
            (2, year % 100),
            (5, month),
            (8, day),
            (11, second / 3_600),
            (14, second / 60 % 60),
            (17, second % 60),
        ] {
            for (place, digit) in spoken.iter_mut().skip(start).zip([number / 10, number % 10]) {
                *place += u8::try_from(digit).unwrap_or(0);
            }
        }
        let mut rfc3339 = *b"0000-00-00T00:00:00Z";
        for (to, from) in rfc3339.iter_mut().zip(spoken) {
            if from.is_ascii_digit() {
                *to = from;
            }
        }
        Self { spoken, rfc3339 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Words {
        Words::parse(include_str!("../../config/locales/en.toml")).unwrap()
    }

    fn moment<'a>(id: &'a str, provider: &'a str) -> Moment<'a> {
        Moment { status: 503, id, provider, pop: "LHR", cause: "overload", unix_seconds: 1_795_345_741 }
    }

    fn rendered(source: &str, settings: &PageSettings, moment: &Moment<'_>) -> String {
        let page = Template::parse(source).unwrap().fill(&words(), settings).unwrap();
        String::from_utf8(page.render(moment, false).to_vec()).unwrap()
    }

    #[test]
    fn placeholders_become_words_settings_and_values() {
        let settings = PageSettings::default();
        let source = "<p lang=\"{{language}}\">{{text.retry}}{{! not\nseen }} {{site_name}} {{status}} {{id}} {{time}} {{time_rfc3339}}";
        assert_eq!(
            rendered(source, &settings, &moment("a-1", "fastly")),
            "<p lang=\"en\">Try again This site 503 a-1 2026-11-22 11:09:01 UTC 2026-11-22T11:09:01Z"
        );
    }

    #[test]
    fn values_are_escaped_for_where_they_stand() {
        let settings = PageSettings { site_name: "A & B".to_owned(), ..PageSettings::default() };
        let source = "<p>{{id}}? {{provider}}</p>{{site_name}}<img alt=\"{{id}}\" src=\"/x?a={{provider}}&amp;b={{id}}\" title=\"{{id}}\">{{id}}";
        assert_eq!(
            rendered(source, &settings, &moment("<é>", "\"&' ")),
            "<p>&lt;é&gt;? &quot;&amp;&#39; </p>A &amp; B<img alt=\"&lt;é&gt;\" src=\"/x?a=%22%26%27%20&amp;b=%3C%C3%A9%3E\" \
             title=\"&lt;é&gt;\">&lt;é&gt;"
        );
    }

    #[test]
    fn values_of_any_length_are_cut_between_characters() {
        let settings = PageSettings::default();
        let id = format!("a{}", "é".repeat(100_000));
        assert_eq!(rendered("{{id}}", &settings, &moment(&id, "")).len(), MOST_VALUE_BYTES - 1);
        let id = "\"".repeat(100_000);
        assert_eq!(rendered("{{id}}", &settings, &moment(&id, "")).len(), MOST_VALUE_BYTES * 6);
    }

    #[test]
    fn sections_go_with_their_setting() {
        let source = "a{{#status_url}}<a href=\"{{status_url}}\">{{id}}</a>{{/status_url}}b";
        let mut settings = PageSettings::default();
        assert_eq!(rendered(source, &settings, &moment("7", "")), "ab");
        settings.status_url = "https://status.example/?a=1&b=2".to_owned();
        assert_eq!(
            rendered(source, &settings, &moment("7", "")),
            "a<a href=\"https://status.example/?a=1&amp;b=2\">7</a>b"
        );
    }

    #[test]
    fn a_wrong_template_is_told_with_its_line() {
        for (source, expected) in [
            ("a\nb {{nonsense}}", "line 2: unknown placeholder `{{nonsense}}`"),
            ("{{text.nonsense}}", "line 1: unknown placeholder `{{text.nonsense}}`"),
            ("\n\n{{#id}}{{/id}}", "line 3: unknown placeholder `{{id}}`"),
            ("{{ id }}", "line 1: unknown placeholder `{{ id }}`"),
            ("{{}}", "line 1: unknown placeholder `{{}}`"),
            ("\n{{id", "line 2: `{{` without `}}`"),
            ("{{#site_name}}\n{{#status_url}}{{/status_url}}{{/site_name}}", "line 2: a section inside a section"),
            ("{{#site_name}}\n{{/status_url}}", "line 2: the end of a section that is not open"),
            ("{{/site_name}}", "line 1: the end of a section that is not open"),
            ("\n{{#site_name}}\n\n", "line 2: a section that is not closed"),
        ] {
            let told = Template::parse(source).unwrap_err().to_string();
            assert!(told.contains(expected), "{source:?}: {told}");
        }
    }

    #[test]
    fn a_wrong_locale_file_is_told() {
        let english = include_str!("../../config/locales/en.toml");
        for (from, to, expected) in [
            ("retry = \"Try again\"\n", "", "`retry` is missing"),
            ("retry = \"Try again\"", "retry = \" \"", "`retry` must be a text"),
            ("retry = \"Try again\"", "retry = 1", "`retry` must be a text"),
            ("retry = ", "extra = \"x\"\nretry = ", "`extra` is not a key"),
            ("\"ltr\"", "\"left\"", "`direction` is `left`"),
            ("\"en\"", "\"en_GB\"", "`language` is `en_GB`"),
            ("\"en\"", "\"en\"x", ""),
        ] {
            assert!(english.contains(from), "{from}");
            let told = Words::parse(&english.replacen(from, to, 1)).unwrap_err();
            assert!(told.contains(expected), "{told}");
        }
    }

    #[test]
    fn the_clock_agrees_with_a_calendar_kept_by_hand() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..170_000_u64 {
            let clock = Clock::at(days * 86_400 + 3_661);
            assert_eq!(clock.spoken, format!("{year:04}-{month:02}-{day:02} 01:01:01 UTC").as_bytes());
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let month_days = match month {
                2 if is_leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > month_days {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert_eq!(Clock::at(0).rfc3339, *b"1970-01-01T00:00:00Z");
        assert_eq!(Clock::at(u64::MAX).rfc3339, *b"9999-12-31T23:59:59Z");
    }
}
