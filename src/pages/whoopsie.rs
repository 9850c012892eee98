//! The page that people see: its template, its words, and putting one together.
//!
//! A template is split once. For each locale its words and the settings are filled in, and what lies between two values of a request
//! becomes one fixed text with its gzip twin (`deflate.rs`). A request then costs a copy for each piece into one allocation.
//!
//! What may stand in double braces:
//! - `{{text.NAME}}`: a word of the locale, any of [`TEXTS`]; `{{text.waiting}}`: the form that goes with the number waiting;
//! - a setting, filled in at start: `language`, `direction`, `site_name`, `status_url`, `support_url`, `beacon_base`, `beacon_path`;
//! - a value of the request: `status`, `id`, `provider`, `pop`, `cause`, `time`, `time_rfc3339`, `retry_after` (in seconds), `waiting`;
//! - `{{#NAME}} … {{/NAME}}`: left out where that setting is empty, or by the request: `retry` is there where the page may be asked
//!   for again without a click, `wait` on the wait page, `waiting` where the number waiting is known, `pop` where the point of presence
//!   is; by where the page is kept: `status`, `id` and `time`, which every page that edgeshim serves has, and one that a CDN keeps may not
//!   have (`export`); not nested;
//! - `{{^NAME}} … {{/NAME}}`: there where the other would be left out;
//! - `{{words NAME …}}`: for a script, as JSON, every locale's words: those that the template shows, and those that are named here;
//! - `{{! … }}`: a comment.
//!
//! Values are escaped for where they stand: percent-encoded after the `?` of a quoted attribute (RFC 3986 §2.1), else as HTML text.
//! Neither is enough inside a `<script>`, a `<style>` or an attribute without double quotes: there no value may stand, and of all these
//! only `words` in a script.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use time::UtcDateTime;

use super::deflate::{self, Checksum};
use super::plural::{self, Category, Plural};
use super::words::{FORMS, NUMBER, TEXTS, Words};
use super::{Mistake, Moment, PageSettings, cut, shown};
use crate::wire::json;

/// The `site_name` that stands for none; pages then say `this_site` in their own language.
pub(super) const NO_SITE_NAME: &str = "This site";

/// What a name stands for.
fn of_name<T: Copy>(all: &[(&str, T)], name: &str) -> Option<T> {
    all.iter().find(|(known, _)| *known == name).map(|(_, meant)| *meant)
}

fn names<T>(all: &[(&'static str, T)]) -> impl Iterator<Item = &'static str> {
    all.iter().map(|(name, _)| *name)
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
    const ALL: [(&str, Self); 7] = [
        ("language", Self::Language),
        ("direction", Self::Direction),
        ("site_name", Self::SiteName),
        ("status_url", Self::StatusUrl),
        ("support_url", Self::SupportUrl),
        ("beacon_base", Self::BeaconBase),
        ("beacon_path", Self::BeaconPath),
    ];

    fn text<'a>(self, settings: &'a PageSettings, words: &'a Words) -> &'a str {
        match self {
            Self::Language => &words.language,
            Self::Direction => &words.direction,
            Self::SiteName if settings.site_name.is_empty() || settings.site_name == NO_SITE_NAME => {
                words.text("this_site")
            }
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
    RetryAfter,
    Waiting,
    /// With signs between the thousands.
    WaitingSpoken,
}

const SLOTS: usize = 10;

impl Slot {
    const ALL: [(&str, Self); 9] = [
        ("status", Self::Status),
        ("id", Self::Id),
        ("provider", Self::Provider),
        ("pop", Self::Pop),
        ("cause", Self::Cause),
        ("time", Self::Time),
        ("time_rfc3339", Self::TimeRfc3339),
        ("retry_after", Self::RetryAfter),
        ("waiting", Self::Waiting),
    ];
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

    /// Whether a place after `before` is inside of a tag, but not of double quotes.
    fn is_bare(before: &str) -> bool {
        let tag = before.rfind('<').and_then(|open| before.get(open..)).unwrap_or_default();
        !tag.is_empty() && !tag.contains('>') && tag.matches('"').count().is_multiple_of(2)
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

/// How many bytes each byte becomes as HTML and in a query: every value is measured for both, so it is looked up.
#[expect(clippy::cast_possible_truncation, reason = "no entity is longer than a few bytes")]
static WIDTHS: [(u8, u8); 256] = {
    let mut all = [(1, 1); 256];
    let mut byte = u8::MAX;
    loop {
        let (html, query) = &mut all[byte as usize];
        if let Some(entity) = entity(byte) {
            *html = entity.len() as u8;
        }
        if !is_unreserved(byte) {
            *query = 3;
        }
        if byte == 0 {
            break all;
        }
        byte -= 1;
    }
};

/// How many bytes `text` becomes as HTML and in a query.
fn widths(text: &[u8]) -> (u16, u16) {
    text.iter().fold((0, 0), |sum: (u16, u16), &byte| {
        let (html, query) = WIDTHS[usize::from(byte)];
        (sum.0.saturating_add(u16::from(html)), sum.1.saturating_add(u16::from(query)))
    })
}

const fn entity(byte: u8) -> Option<&'static [u8]> {
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
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn hex(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 }
}

/// What a request decides about a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// It may be asked for again without a click.
    Retry,
    /// It is the wait page.
    Wait,
    /// How many are waiting is known.
    Waiting,
    /// The provider's point of presence is known.
    Pop,
}

impl Condition {
    const ALL: [(&str, Self); 4] =
        [("retry", Self::Retry), ("wait", Self::Wait), ("waiting", Self::Waiting), ("pop", Self::Pop)];
}

/// What a section goes by.
#[derive(Debug, Clone, Copy)]
enum Test {
    Setting(Setting),
    Condition(Condition),
    /// The value is known: always, but to some of those who keep a page.
    Known(Slot),
}

impl Test {
    const KNOWN: [(&str, Slot); 3] = [("status", Slot::Status), ("id", Slot::Id), ("time", Slot::Time)];

    fn named(name: &str) -> Option<Self> {
        let known = || of_name(&Self::KNOWN, name).map(Self::Known);
        let condition = || of_name(&Condition::ALL, name).map(Self::Condition);
        of_name(&Setting::ALL, name).map(Self::Setting).or_else(condition).or_else(known)
    }
}

/// A word by its place in a locale file, as a script gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    SiteName,
    Text(&'static str),
    Forms(&'static str),
}

impl Word {
    fn named(name: &str) -> Option<Self> {
        let among = |all: &[&'static str]| all.iter().copied().find(|known| *known == name);
        among(&TEXTS).map(Self::Text).or_else(|| among(&FORMS).map(Self::Forms))
    }

    fn name(self) -> &'static str {
        match self {
            Self::SiteName => "site_name",
            Self::Text(name) | Self::Forms(name) => name,
        }
    }
}

#[derive(Debug)]
enum Piece<'t> {
    Fixed(&'t str),
    Word(Word, Escape),
    Setting(Setting, Escape),
    Slot(Slot, Escape),
    /// For a script, with these beside those that are shown.
    Words(Vec<Word>),
    /// Whether the test has to hold or must not.
    Open(Test, bool),
    Close,
}

impl Piece<'_> {
    /// A word, a setting, a value or the script's words.
    fn named(name: &str, escape: Escape) -> Option<Self> {
        if let Some(word) = name.strip_prefix("text.") {
            let shown = Word::named(word).filter(|word| matches!(word, Word::Text(_) | Word::Forms("waiting")));
            return shown.map(|word| Self::Word(word, escape));
        }
        let mut parts = name.split_ascii_whitespace();
        if parts.next() == Some("words") {
            return parts.map(Word::named).collect::<Option<_>>().map(Self::Words);
        }
        let setting = of_name(&Setting::ALL, name).map(|setting| Self::Setting(setting, escape));
        setting.or_else(|| of_name(&Slot::ALL, name).map(|slot| Self::Slot(slot, escape)))
    }
}

fn unknown(name: &str) -> String {
    let known: Vec<_> = if name.starts_with(['#', '^']) {
        names(&Setting::ALL).chain(names(&Condition::ALL)).chain(names(&Test::KNOWN)).collect()
    } else {
        ["text.KEY"].into_iter().chain(names(&Setting::ALL)).chain(names(&Slot::ALL)).collect()
    };
    format!("unknown placeholder `{{{{{}}}}}`; write one of {}", shown(name), known.join(", "))
}

/// Which of the elements whose text is no HTML is open after a text, when that one was before.
fn raw_element(before: Option<&'static str>, text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    ["script", "style"]
        .into_iter()
        .flat_map(|name| [(text.rfind(&format!("<{name}")), Some(name)), (text.rfind(&format!("</{name}")), None)])
        .filter_map(|(at, element)| at.map(|at| (at, element)))
        .max()
        .map_or(before, |(_, element)| element)
}

/// The most pieces of a template: each costs something in each language at start, and with each page.
const MOST_PIECES: usize = 2_000;

/// A template, split.
#[derive(Debug)]
pub(super) struct Template<'t> {
    pieces: Vec<Piece<'t>>,
}

impl<'t> Template<'t> {
    /// Splits `source`. Tells every mistake, in the order of the lines.
    pub(super) fn parse(source: &'t str) -> Result<Self, Vec<Mistake>> {
        let mut pieces = Vec::new();
        let mut mistakes = Vec::new();
        let mut rest = source;
        let mut line = 1;
        let mut open: Vec<(&str, usize)> = Vec::new();
        let mut element = None;
        while let Some((fixed, after)) = rest.split_once("{{") {
            pieces.push(Piece::Fixed(fixed));
            line += fixed.matches('\n').count();
            element = raw_element(element, fixed);
            let mut tell = |message: String| mistakes.push(Mistake { line, message });
            if pieces.len() > MOST_PIECES {
                tell(format!("more than {} placeholders; take some out", MOST_PIECES / 2));
                break;
            }
            let before = source.get(..source.len() - after.len() - "{{".len()).unwrap_or_default();
            let Some((name, after)) = after.split_once("}}") else {
                tell(
                    "`{{` without `}}`; close it in the same place, or write `&#123;&#123;` for two braces".to_owned(),
                );
                break;
            };
            rest = after;
            if let Some(section) = name.strip_prefix(['#', '^']) {
                if !open.is_empty() {
                    tell(format!("`{{{{{}}}}}`: a section inside a section; end the other one first", shown(name)));
                }
                open.push((section, line));
                match Test::named(section) {
                    Some(test) => pieces.push(Piece::Open(test, name.starts_with('#'))),
                    None => tell(unknown(name)),
                }
            } else if let Some(section) = name.strip_prefix('/') {
                match open.pop() {
                    Some((opened, _)) if opened == section => pieces.push(Piece::Close),
                    Some((opened, at)) => tell(format!(
                        "`{{{{{}}}}}`: the end of a section that is not open; write `{{{{/{}}}}}` for the one of line {at}",
                        shown(name),
                        shown(opened)
                    )),
                    None => {
                        tell(format!("`{{{{{}}}}}`: the end of a section that is not open; take it out", shown(name)));
                    }
                }
            } else if !name.starts_with('!') {
                match Piece::named(name, Escape::after(before)) {
                    None => tell(unknown(name)),
                    Some(Piece::Words(_)) if !open.is_empty() => {
                        tell(
                            "`words` inside a section; put it outside, since a script needs it whatever is shown"
                                .to_owned(),
                        );
                    }
                    Some(piece @ Piece::Words(_)) => pieces.push(piece),
                    Some(_) if let Some(element) = element => tell(format!(
                        "`{{{{{name}}}}}` inside of <{element}>, where nothing can be escaped; put it into a data attribute of an element"
                    )),
                    Some(_) if Escape::is_bare(before) => {
                        tell(format!(
                            "`{{{{{name}}}}}` inside of a tag without double quotes; write NAME=\"{{{{{name}}}}}\""
                        ));
                    }
                    Some(piece) => pieces.push(piece),
                }
            }
            line += name.matches('\n').count();
        }
        pieces.push(Piece::Fixed(rest));
        mistakes.extend(open.into_iter().map(|(name, line)| Mistake {
            line,
            message: format!("`{0}`: a section that is not closed; write `{{{{/{0}}}}}` where it ends", shown(name)),
        }));
        mistakes.sort_by_key(|mistake| mistake.line);
        if mistakes.is_empty() { Ok(Self { pieces }) } else { Err(mistakes) }
    }

    /// What a page of one's own may not lack, as it would be written.
    pub(super) fn lacks(&self) -> impl Iterator<Item = &'static str> {
        [
            (Setting::Language, "<html lang=\"{{language}}\" …>"),
            (Setting::Direction, "<html … dir=\"{{direction}}\">"),
            (Setting::BeaconPath, "<img src=\"{{beacon_base}}{{beacon_path}}?source={{provider}}&amp;…\" alt=\"\">"),
        ]
        .into_iter()
        .filter(|(wanted, _)| {
            !self.pieces.iter().any(|piece| matches!(piece, Piece::Setting(setting, _) if setting == wanted))
        })
        .map(|(_, example)| example)
    }

    /// Every locale's words, as the script of the page and of the wait page gets them.
    pub(super) fn script_words(&self, locales: &[Words], settings: &PageSettings) -> io::Result<ScriptWords> {
        let of = |is_wait| {
            let words = locales.first().map(|first| self.words_on(is_wait, first, settings)).unwrap_or_default();
            let plain = words_json(&words, locales, settings);
            let deflated = deflate::before_value(&plain)?;
            Ok::<_, io::Error>(Arc::new(Fixed::new(plain, deflated)))
        };
        Ok(ScriptWords { page: of(false)?, wait_page: of(true)? })
    }

    /// The words that stand on one of the two pages, and those named for the script, each once.
    fn words_on(&self, is_wait: bool, words: &Words, settings: &PageSettings) -> Vec<Word> {
        let mut found = Vec::new();
        let mut skip = false;
        for piece in &self.pieces {
            let here: &[Word] = match piece {
                Piece::Open(test, wanted) => {
                    skip = match test {
                        Test::Setting(setting) => setting.text(settings, words).is_empty() == *wanted,
                        Test::Condition(Condition::Wait) => is_wait != *wanted,
                        Test::Condition(Condition::Waiting) => !is_wait && *wanted,
                        Test::Condition(Condition::Retry | Condition::Pop) | Test::Known(_) => false,
                    };
                    &[]
                }
                Piece::Close => {
                    skip = false;
                    &[]
                }
                Piece::Word(word, _) if !skip => &[*word],
                Piece::Setting(Setting::SiteName, _) if !skip => &[Word::SiteName],
                Piece::Words(named) => named,
                _ => &[],
            };
            for word in here {
                if !found.contains(word) {
                    found.push(*word);
                }
            }
        }
        found
    }

    /// The page in one language.
    pub(super) fn fill(&self, words: &Words, settings: &PageSettings, script: &ScriptWords) -> io::Result<Page> {
        let mut page = Unfinished::default();
        let mut skip = false;
        for piece in &self.pieces {
            match piece {
                Piece::Open(Test::Setting(setting), wanted) => {
                    skip = setting.text(settings, words).is_empty() == *wanted;
                }
                Piece::Open(Test::Known(_), wanted) => skip = !wanted,
                Piece::Open(Test::Condition(condition), wanted) => {
                    page.cut(None)?;
                    page.section = Some((*condition, *wanted));
                }
                Piece::Close => {
                    if page.section.is_some() {
                        page.cut(None)?;
                        page.section = None;
                    }
                    skip = false;
                }
                _ if skip => {}
                Piece::Fixed(text) => page.fixed.extend_from_slice(text.as_bytes()),
                Piece::Word(Word::Forms(name), escape) => {
                    page.cut(None)?;
                    for (category, form) in words.forms(name) {
                        page.form = Some(*category);
                        let after = match form.split_once(NUMBER) {
                            Some((before, after)) => {
                                escape.push(&mut page.fixed, before.as_bytes());
                                page.cut(Some((Slot::WaitingSpoken, *escape)))?;
                                after
                            }
                            None => form,
                        };
                        escape.push(&mut page.fixed, after.as_bytes());
                        page.cut(None)?;
                    }
                    page.form = None;
                }
                Piece::Word(word, escape) => escape.push(&mut page.fixed, words.text(word.name()).as_bytes()),
                Piece::Setting(setting, escape) => {
                    escape.push(&mut page.fixed, setting.text(settings, words).as_bytes());
                }
                Piece::Slot(slot, escape) => page.cut(Some((*slot, *escape)))?,
                Piece::Words(_) => {
                    page.cut(None)?;
                    for (is_wait, fixed) in [(false, &script.page), (true, &script.wait_page)] {
                        let section = Some((Condition::Wait, is_wait));
                        page.parts.push(Part { section, form: None, fixed: Arc::clone(fixed), value: None });
                    }
                }
            }
        }
        let deflated = deflate::at_end(&page.fixed)?;
        Ok(Page {
            parts: page.parts,
            end: Fixed::new(page.fixed, deflated),
            plural: Arc::clone(&words.plural),
            thousands: words.text("thousands").to_owned(),
        })
    }
}

impl Template<'_> {
    /// The page in the language of `words`, for somebody else to keep; its script gets those of `locales`.
    pub(super) fn host(
        &self,
        words: &Words,
        locales: &[Words],
        settings: &PageSettings,
        hosting: &Hosting<'_>,
    ) -> String {
        let script = words_json(&self.words_on(hosting.is_wait, words, settings), locales, settings);
        let mut out = String::new();
        let mut fixed = Vec::new();
        let mut skip = false;
        for piece in &self.pieces {
            match piece {
                Piece::Open(test, wanted) => {
                    let holds = match test {
                        Test::Setting(setting) => !setting.text(settings, words).is_empty(),
                        Test::Condition(Condition::Retry) => true,
                        Test::Condition(Condition::Wait) => hosting.is_wait,
                        Test::Condition(Condition::Waiting) => false,
                        Test::Condition(Condition::Pop) => !hosting.pop.is_empty(),
                        Test::Known(slot) => !hosting.value(*slot).is_empty(),
                    };
                    skip = holds != *wanted;
                }
                Piece::Close => skip = false,
                // How many are waiting nobody knows there.
                Piece::Word(Word::Forms(_), _) => {}
                _ if skip => {}
                Piece::Fixed(text) => fixed.extend_from_slice(text.as_bytes()),
                Piece::Word(word, escape) => escape.push(&mut fixed, words.text(word.name()).as_bytes()),
                Piece::Setting(setting, escape) => escape.push(&mut fixed, setting.text(settings, words).as_bytes()),
                Piece::Words(_) => fixed.extend_from_slice(&script),
                Piece::Slot(slot @ (Slot::Provider | Slot::Cause | Slot::RetryAfter), escape) => {
                    escape.push(&mut fixed, hosting.value(*slot).as_bytes());
                }
                Piece::Slot(slot, _) => {
                    out.push_str(&(hosting.fixed)(&String::from_utf8_lossy(&fixed)));
                    out.push_str(hosting.value(*slot));
                    fixed.clear();
                }
            }
        }
        out.push_str(&(hosting.fixed)(&String::from_utf8_lossy(&fixed)));
        out
    }
}

/// What a page says where somebody else keeps it. Provider, cause and seconds are the same in every answer. The others stand for what
/// that one fills in, in its own language, and go out as they are; what it does not know is empty, and the template's sections leave it
/// out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hosting<'a> {
    pub(super) provider: &'a str,
    pub(super) cause: &'a str,
    pub(super) retry_after: &'a str,
    pub(super) is_wait: bool,
    pub(super) status: &'a str,
    pub(super) id: &'a str,
    pub(super) pop: &'a str,
    pub(super) time: &'a str,
    pub(super) time_rfc3339: &'a str,
    /// How the text between two values is written.
    pub(super) fixed: fn(&str) -> String,
}

impl<'a> Hosting<'a> {
    fn value(&self, slot: Slot) -> &'a str {
        match slot {
            Slot::Status => self.status,
            Slot::Id => self.id,
            Slot::Provider => self.provider,
            Slot::Pop => self.pop,
            Slot::Cause => self.cause,
            Slot::Time => self.time,
            Slot::TimeRfc3339 => self.time_rfc3339,
            Slot::RetryAfter => self.retry_after,
            Slot::Waiting | Slot::WaitingSpoken => "",
        }
    }
}

/// `[[NAME, …], {LANGUAGE: [WORD, …], …}]`: each locale has its words in the order of the names, its direction first. Arrays take less
/// than half of what names in each locale would. Nothing in it ends a `<script>`.
fn words_json(words: &[Word], locales: &[Words], settings: &PageSettings) -> Vec<u8> {
    let mut out = b"[[".to_vec();
    let quote = |text: &str, out: &mut Vec<u8>| {
        out.push(b'"');
        // `<` could end the script.
        json::push_escaped(out, text.as_bytes(), |character| character == '<');
        out.push(b'"');
    };
    quote("direction", &mut out);
    for word in words {
        out.push(b',');
        quote(word.name(), &mut out);
    }
    out.extend_from_slice(b"],{");
    for (place, locale) in locales.iter().enumerate() {
        out.extend_from_slice(if place > 0 { &b",\n"[..] } else { b"\n" });
        quote(&locale.language, &mut out);
        out.extend_from_slice(b":[");
        quote(&locale.direction, &mut out);
        for word in words {
            out.push(b',');
            match word {
                Word::SiteName => quote(Setting::SiteName.text(settings, locale), &mut out),
                Word::Text(name) => quote(locale.text(name), &mut out),
                Word::Forms(name) => {
                    for (place, (category, form)) in locale.forms(name).iter().enumerate() {
                        out.push(if place > 0 { b',' } else { b'{' });
                        quote(plural::name(*category), &mut out);
                        out.push(b':');
                        quote(form, &mut out);
                    }
                    out.push(b'}');
                }
            }
        }
        out.push(b']');
    }
    out.extend_from_slice(b"}]");
    out
}

/// What `{{words}}` becomes.
#[derive(Debug)]
pub(super) struct ScriptWords {
    page: Arc<Fixed>,
    wait_page: Arc<Fixed>,
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

/// A fixed text, and the value that follows it.
#[derive(Debug)]
struct Part {
    /// Where it stands in a section that goes by the request: the condition, and whether it has to hold.
    section: Option<(Condition, bool)>,
    /// Where it belongs to one form of the number waiting.
    form: Option<Category>,
    fixed: Arc<Fixed>,
    value: Option<(Slot, Escape)>,
}

/// A page while it is filled.
#[derive(Debug, Default)]
struct Unfinished {
    parts: Vec<Part>,
    /// What the next part begins with.
    fixed: Vec<u8>,
    section: Option<(Condition, bool)>,
    form: Option<Category>,
}

impl Unfinished {
    /// Ends a part; nothing is none.
    fn cut(&mut self, value: Option<(Slot, Escape)>) -> io::Result<()> {
        if value.is_some() || !self.fixed.is_empty() {
            let plain = std::mem::take(&mut self.fixed);
            let deflated = deflate::before_value(&plain)?;
            let fixed = Arc::new(Fixed::new(plain, deflated));
            self.parts.push(Part { section: self.section, form: self.form, fixed, value });
        }
        Ok(())
    }
}

/// A page in one language, all but the values of a request.
#[derive(Debug)]
pub(super) struct Page {
    parts: Vec<Part>,
    end: Fixed,
    plural: Arc<Plural>,
    thousands: String,
}

impl Page {
    pub(super) fn render(&self, moment: &Moment<'_>, gzip: bool) -> Bytes {
        let status = StatusCode::from_u16(moment.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let clock = Clock::at(moment.unix_seconds);
        let waiting = moment.waiting.filter(|&waiting| moment.is_wait && waiting > 0);
        let numbers = Numbers {
            retry_after: Digits::plain(moment.retry_after.unwrap_or_default()),
            waiting: Digits::plain(waiting.unwrap_or_default()),
            waiting_spoken: Digits::spoken(waiting.unwrap_or_default(), &self.thousands),
        };
        let values = Values::new(moment, status.as_str(), &clock, &numbers);
        let form = waiting.map(|waiting| self.plural.category(waiting));
        let is_shown = |part: &&Part| {
            let holds = |condition| match condition {
                Condition::Retry => moment.retry_after.is_some(),
                Condition::Wait => moment.is_wait,
                Condition::Waiting => form.is_some(),
                Condition::Pop => !moment.pop.is_empty(),
            };
            part.section.is_none_or(|(condition, wanted)| holds(condition) == wanted)
                && (part.form.is_none() || part.form == form)
        };
        let parts = self.parts.iter().filter(is_shown);
        let out = if gzip { self.gzip(parts, &values) } else { self.plain(parts, &values) };
        // As long as its room, the vector becomes Bytes as it is.
        Bytes::from(out)
    }

    fn plain<'p>(&self, parts: impl Iterator<Item = &'p Part> + Clone, values: &Values<'_>) -> Vec<u8> {
        let bytes = |part: &Part| part.fixed.plain.len() + usize::from(values.bytes(part.value));
        let mut out = Vec::with_capacity(parts.clone().map(bytes).sum::<usize>() + self.end.plain.len());
        for part in parts {
            out.extend_from_slice(&part.fixed.plain);
            values.push(&mut out, part.value);
        }
        out.extend_from_slice(&self.end.plain);
        out
    }

    fn gzip<'p>(&self, parts: impl Iterator<Item = &'p Part> + Clone, values: &Values<'_>) -> Vec<u8> {
        let bytes =
            |part: &Part| part.fixed.deflated.len() + deflate::LENGTH_BYTES + usize::from(values.bytes(part.value));
        let around = deflate::HEADER.len() + self.end.deflated.len() + deflate::TRAILER_BYTES;
        let mut out = Vec::with_capacity(parts.clone().map(bytes).sum::<usize>() + around);
        out.extend_from_slice(&deflate::HEADER);
        let mut crc = 0;
        let mut plain_bytes = self.end.plain.len();
        for part in parts {
            out.extend_from_slice(&part.fixed.deflated);
            let value_bytes = values.bytes(part.value);
            deflate::push_length(&mut out, value_bytes);
            let start = out.len();
            values.push(&mut out, part.value);
            let mut hasher = crc32fast::Hasher::new_with_initial(part.fixed.checksum.after(crc));
            hasher.update(out.get(start..).unwrap_or_default());
            crc = hasher.finalize();
            plain_bytes += part.fixed.plain.len() + usize::from(value_bytes);
        }
        out.extend_from_slice(&self.end.deflated);
        deflate::push_trailer(&mut out, self.end.checksum.after(crc), plain_bytes);
        out
    }
}

/// The numbers of one request, written out.
struct Numbers {
    retry_after: Digits,
    waiting: Digits,
    waiting_spoken: Digits,
}

/// A number, written out without an allocation.
#[derive(Clone, Copy)]
struct Digits {
    /// Ten digits and three signs between them, of up to four bytes each, fit in.
    bytes: [u8; 22],
    count: usize,
}

impl Digits {
    fn plain(number: u32) -> Self {
        let mut digits = Self { bytes: [0; 22], count: 0 };
        // There is room for every number.
        let _ = write!(digits, "{number}");
        digits
    }

    /// With `between` after each three digits. Numbers of four digits are read well without, and in some languages must be.
    fn spoken(number: u32, between: &str) -> Self {
        let plain = Self::plain(number);
        if plain.count < 5 {
            return plain;
        }
        let mut digits = Self { bytes: [0; 22], count: 0 };
        for (place, digit) in plain.as_bytes().iter().enumerate() {
            let sign = if place > 0 && (plain.count - place).is_multiple_of(3) { between } else { "" };
            let _ = digits.write_str(sign).and_then(|()| digits.write_char(char::from(*digit)));
        }
        digits
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.count).unwrap_or_default()
    }
}

impl fmt::Write for Digits {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.count + text.len();
        self.bytes.get_mut(self.count..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.count = end;
        Ok(())
    }
}

/// The values of one request with their lengths as HTML and in a query, by slot: every `Slot` is a place in the array.
struct Values<'a> {
    all: [(&'a [u8], u16, u16); SLOTS],
}

impl<'a> Values<'a> {
    fn new(moment: &Moment<'a>, status: &'a str, clock: &'a Clock, numbers: &'a Numbers) -> Self {
        let measured = |text: &'a [u8]| {
            let (html, query) = widths(text);
            (text, html, query)
        };
        // In the order of `Slot`.
        let all = [
            status.as_bytes(),
            cut(moment.id).as_bytes(),
            cut(moment.provider).as_bytes(),
            cut(moment.pop).as_bytes(),
            cut(moment.cause).as_bytes(),
            &clock.spoken,
            &clock.rfc3339,
            numbers.retry_after.as_bytes(),
            numbers.waiting.as_bytes(),
            numbers.waiting_spoken.as_bytes(),
        ];
        Self { all: all.map(measured) }
    }

    fn bytes(&self, value: Option<(Slot, Escape)>) -> u16 {
        value.map_or(0, |(slot, escape)| {
            let (_, html, query) = self.all[slot as usize];
            match escape {
                Escape::Html => html,
                Escape::Query => query,
            }
        })
    }

    fn push(&self, out: &mut Vec<u8>, value: Option<(Slot, Escape)>) {
        let Some((slot, escape)) = value else { return };
        let (text, ..) = self.all[slot as usize];
        if text.len() == usize::from(self.bytes(value)) {
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
        const LAST_SECOND: i64 = 253_402_300_799;
        let seconds = i64::try_from(unix_seconds).unwrap_or(LAST_SECOND).min(LAST_SECOND);
        let time = UtcDateTime::from_unix_timestamp(seconds).unwrap_or(UtcDateTime::UNIX_EPOCH);
        let (year, month, day) = time.to_calendar_date();
        let (hour, minute, second) = time.as_hms();
        let mut spoken = [b' '; 23];
        // It has the room for every time until the year 9999.
        let _ = write!(
            spoken.as_mut_slice(),
            "{year:04}-{:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC",
            u8::from(month)
        );
        let mut rfc3339 = [b'Z'; 20];
        for (to, from) in rfc3339.iter_mut().zip(spoken).take(19) {
            *to = if from == b' ' { b'T' } else { from };
        }
        Self { spoken, rfc3339 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::MOST_VALUE_BYTES;
    use super::*;

    fn words() -> Words {
        Words::parse("en", include_str!("../../config/locales/en.toml")).unwrap()
    }

    fn moment<'a>(id: &'a str, provider: &'a str) -> Moment<'a> {
        Moment { id, provider, ..crate::pages::tests::MOMENT }
    }

    fn rendered(source: &str, settings: &PageSettings, moment: &Moment<'_>) -> String {
        let template = Template::parse(source).unwrap();
        let script = template.script_words(&[words()], settings).unwrap();
        let page = template.fill(&words(), settings, &script).unwrap();
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
    fn sections_go_with_the_request() {
        let source = "a{{#wait}}W{{id}}{{/wait}}{{^wait}}F{{/wait}}{{#retry}}R{{retry_after}}{{/retry}}{{^retry}}N{{/retry}}\
                      {{#waiting}}{{waiting}}{{text.waiting}}{{/waiting}}{{^status_url}}S{{/status_url}}{{#pop}}{{pop}}{{/pop}}b";
        let settings = PageSettings::default();
        let fault = moment("7", "");
        let wait = Moment { is_wait: true, waiting: Some(1), retry_after: None, ..fault };
        for (moment, expected) in [
            (&fault, "aFR30SLHRb"),
            (&Moment { retry_after: None, ..fault }, "aFNSLHRb"),
            (&Moment { waiting: Some(9), ..fault }, "aFR30SLHRb"),
            (&wait, "aW7N11 visitor is waiting at the moment.SLHRb"),
            (&Moment { waiting: Some(2_000), ..wait }, "aW7N20002000 visitors are waiting at the moment.SLHRb"),
            (&Moment { waiting: None, ..wait }, "aW7NSLHRb"),
            (&Moment { pop: "", ..fault }, "aFR30Sb"),
        ] {
            assert_eq!(rendered(source, &settings, moment), expected);
        }
    }

    #[test]
    fn words_for_a_script_cannot_end_it() {
        let settings = PageSettings { site_name: "</script><!--".to_owned(), ..PageSettings::default() };
        let source = "{{site_name}}|{{#wait}}{{text.stop}}{{/wait}}{{words copy minutes}}";
        assert_eq!(
            rendered(source, &settings, &moment("", "")),
            "&lt;/script&gt;&lt;!--|[[\"direction\",\"site_name\",\"copy\",\"minutes\"],{\n\"en\":[\"ltr\",\"\\u003c/script>\\u003c!--\",\"Copy\",\
             {\"one\":\"Trying again in {n} minute\",\"other\":\"Trying again in {n} minutes\"}]}]"
        );
    }

    #[test]
    fn numbers_are_grouped_from_five_digits_on() {
        for (number, between, spoken) in [
            (0, ",", "0"),
            (9_999, ",", "9999"),
            (10_000, ",", "10,000"),
            (123_456, "", "123456"),
            (u32::MAX, "\u{10ffff}", "4\u{10ffff}294\u{10ffff}967\u{10ffff}295"),
        ] {
            assert_eq!(Digits::spoken(number, between).as_bytes(), spoken.as_bytes());
        }
    }

    #[test]
    fn a_wrong_template_is_told_with_its_line() {
        for (source, line, expected) in [
            ("a\nb {{nonsense}}", 2, "unknown placeholder `{{nonsense}}`"),
            ("{{text.nonsense}}", 1, "unknown placeholder `{{text.nonsense}}`"),
            ("{{text.seconds}}", 1, "unknown placeholder `{{text.seconds}}`"),
            ("\n{{words copied nonsense}}", 2, "unknown placeholder `{{words copied nonsense}}`"),
            ("{{#wait}}\n{{words}}{{/wait}}", 2, "`words` inside a section"),
            ("{{^wait}}\n{{#wait}}{{/wait}}{{/wait}}", 2, "a section inside a section"),
            ("\n\n{{#cause}}{{/cause}}", 3, "unknown placeholder `{{#cause}}`"),
            ("{{ id }}", 1, "unknown placeholder `{{ id }}`"),
            ("{{}}", 1, "unknown placeholder `{{}}`"),
            ("{{\u{1b}[2J}}", 1, "unknown placeholder `{{\\u{1b}[2J}}`"),
            ("\n{{id", 2, "`{{` without `}}`"),
            ("{{#site_name}}\n{{#status_url}}{{/status_url}}{{/site_name}}", 2, "a section inside a section"),
            ("{{#site_name}}\n{{/status_url}}", 2, "write `{{/site_name}}` for the one of line 1"),
            ("{{/site_name}}", 1, "the end of a section that is not open"),
            ("\n{{#site_name}}\n\n", 2, "a section that is not closed"),
            ("{{! a\nb }}{{nonsense}}", 2, "unknown placeholder"),
            ("<script>\n'{{id}}'</script>", 2, "inside of <script>"),
            ("<STYLE>a{{#wait}}b{{status}}", 1, "inside of <style>"),
            ("<p title={{id}}>", 1, "inside of a tag without double quotes"),
            ("<p title='{{id}}'>", 1, "inside of a tag without double quotes"),
        ] {
            let told = Template::parse(source).unwrap_err();
            assert_eq!(told[0].line, line, "{source:?}: {told:?}");
            assert!(told[0].message.contains(expected), "{source:?}: {told:?}");
            assert!(told.len() == 1 || source.starts_with("<STYLE"), "{source:?}: {told:?}");
        }
        let many = "{{id}}".repeat(1_001);
        assert!(Template::parse(&many).unwrap_err()[0].message.contains("more than 1000 placeholders"));
        assert!(Template::parse("<script>{{! <b }}{{^time}}1{{/time}}</script><p title=\"{{id}}\">{{id}}</p>").is_ok());
    }

    #[test]
    fn a_hosted_page_has_only_what_its_host_can_fill_in() {
        let source = "{{#id}}I{{id}}{{/id}}{{^id}}i{{/id}}{{#time}}T{{/time}}{{^time}}t{{/time}}{{#status}}S{{status}}{{/status}}\
                      {{#pop}}P{{/pop}}{{#retry}}R{{retry_after}}{{/retry}}{{#waiting}}{{text.waiting}}{{/waiting}}{{#wait}}W{{/wait}}|{{text.retry}}";
        let (words, settings) = (words(), PageSettings::default());
        let hosting = Hosting {
            provider: "akamai",
            cause: "edge",
            retry_after: "30",
            is_wait: false,
            status: "",
            id: "<esi/>",
            pop: "",
            time: "",
            time_rfc3339: "",
            fixed: |text| format!("[{text}]"),
        };
        let hosted =
            |hosting| Template::parse(source).unwrap().host(&words, std::slice::from_ref(&words), &settings, hosting);
        assert_eq!(hosted(&hosting), "[I]<esi/>[tR30|Try again]");
        let other = Hosting { id: "", status: "503", pop: "LHR", time: "now", is_wait: true, ..hosting };
        assert_eq!(hosted(&other), "[iTS]503[PR30W|Try again]");
        // What edgeshim serves has all of them.
        assert_eq!(
            rendered("{{#id}}I{{/id}}{{^time}}t{{/time}}{{#status}}S{{/status}}", &settings, &moment("", "")),
            "IS"
        );
    }

    #[test]
    fn clock_when_second_is_given_then_written_in_utc() {
        for (second, spoken) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_868_799, "2000-02-29 23:59:59 UTC"),
            (1_795_345_741, "2026-11-22 11:09:01 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (253_402_300_799, "9999-12-31 23:59:59 UTC"),
            (u64::MAX, "9999-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(Clock::at(second).spoken, spoken.as_bytes());
        }
        assert_eq!(Clock::at(1_795_345_741).rfc3339, *b"2026-11-22T11:09:01Z");
    }
}
