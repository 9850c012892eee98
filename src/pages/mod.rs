//! The pages that people see when the origin fails, ready before anybody asks for one.
//!
//! Place: below the layers. `whoopsie` decides that a page goes out and with which header fields; this room knows languages, words
//! and bytes, and nothing of requests. [`Pages`] is built with a configuration and then only read.
//!
//! `locale.rs` picks the language, `plural.rs` the form that goes with a number, `whoopsie.rs` turns a template and words into a page,
//! `deflate.rs` makes gzip of it without compressing per request. The wait page is the same template with other sections. `files.rs` holds
//! the template and the words (`words.rs`), built in or an operator's own; `export` writes pages for others to keep.
//!
//! Cost: a choice of locale reads Accept-Language once and allocates nothing; a page is one allocation and some thirty copies.

mod deflate;
mod export;
mod files;
mod locale;
mod plural;
mod whoopsie;
mod words;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

pub(crate) use self::export::{Exported, export};
pub(crate) use self::files::{FileProblem, PageFiles, PageFilesError};
use self::locale::{HostTwice, Locales};
use self::whoopsie::{Page, Template};
use self::words::Words;
use crate::ids::LocaleId;
use crate::keys::grammar::LOCALE;
use crate::keys::urls::{HOST, LINK, LINK_BASE};
use crate::keys::{Checked, Keys, PATH, Text, Visitor};
use crate::wire::json;

/// How much of a value is shown. Escaped sixfold at most, it fits into one stored block.
const MOST_VALUE_BYTES: usize = 256;

/// What the configuration says about the pages: `[whoopsie]`, and the beacon's path from `[beacon]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageSettings {
    /// A folder with a template and locale files of the operator's own; empty = the built-in ones.
    pub folder: PathBuf,
    /// What is in that folder; no key.
    pub files: Arc<PageFiles>,
    /// The locale for readers who get no other; the tag of one there is, in any case.
    pub default_locale: String,
    /// Host names, and the locale where Accept-Language gives none.
    pub hosts: BTreeMap<String, String>,
    /// Stands over the page. Empty or `This site`: those words in the page's own language.
    pub site_name: String,
    /// Where the service's status is told; empty: no link. The scheme is not looked at.
    pub status_url: String,
    /// Where support is; empty: no link. The scheme is not looked at.
    pub support_url: String,
    /// What the beacon's path is appended to, such as `//beacon.example.com`; empty: the page's own host.
    pub beacon_base: String,
    /// The beacon's path, from its first slash; the key `beacon.path`.
    pub beacon_path: String,
}

impl Default for PageSettings {
    fn default() -> Self {
        Self {
            folder: PathBuf::new(),
            files: Arc::default(),
            default_locale: "en".to_owned(),
            hosts: BTreeMap::new(),
            site_name: whoopsie::NO_SITE_NAME.to_owned(),
            status_url: String::new(),
            support_url: String::new(),
            beacon_base: String::new(),
            beacon_path: "/status/images/beacon.gif".to_owned(),
        }
    }
}

impl Keys for PageSettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.text("pages", &PATH, &mut self.folder);
        v.text("default_locale", &LOCALE, &mut self.default_locale);
        v.map("hosts", "\"www.example.de\" = \"de\"", (&HOST, &LOCALE), &mut self.hosts);
        v.text("site_name", &SITE_NAME, &mut self.site_name);
        v.text("status_url", &LINK, &mut self.status_url);
        v.text("support_url", &LINK, &mut self.support_url);
        v.text("beacon_base", &LINK_BASE, &mut self.beacon_base);
    }
}

/// The longest site name, in bytes; it stands in a heading.
const MAX_SITE_NAME_BYTES: usize = 200;

const SITE_NAME: Text<String> =
    Text { example: whoopsie::NO_SITE_NAME, read: |text, _| site_name(text), write: String::clone };

fn site_name(text: &str) -> Checked<String> {
    if text.trim().is_empty() || text.len() > MAX_SITE_NAME_BYTES || text.contains(char::is_control) {
        return Err(format!(
            "is no name for a heading; write 1 to {MAX_SITE_NAME_BYTES} bytes of visible text, for example \"This site\""
        ));
    }
    Ok(text.to_owned())
}

/// What a page says of one request. All of it is escaped, and cut after 256 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment<'a> {
    /// The status that goes out; one that is no HTTP status is shown as 500.
    pub status: u16,
    /// The request id.
    pub id: &'a str,
    /// The provider's label.
    pub provider: &'a str,
    /// The provider's point of presence; empty where it is not known.
    pub pop: &'a str,
    /// The fault's label.
    pub cause: &'a str,
    /// Seconds since 1970, UTC.
    pub unix_seconds: u64,
    /// After how many seconds the page asks for itself again. None: only at a click, because it answers a request that must not be sent
    /// twice.
    pub retry_after: Option<u32>,
    /// Whether the request was shed: the wait page.
    pub is_wait: bool,
    /// How many requests were in line then, where that is known. Only the wait page says it, and nothing of none.
    pub waiting: Option<u32>,
}

/// The longest wait that a page counts down, in seconds. Who is told to come back next year has closed it by then.
pub(crate) const LONGEST_COUNTDOWN_SECONDS: u32 = 24 * 60 * 60;

/// Why pages could not be built.
#[derive(Debug)]
pub enum PagesError {
    /// The template or a locale file cannot be used. [`PageFiles::read`] tells it before.
    Files(Vec<FileProblem>),
    /// A setting asks for a locale that there is not.
    UnknownLocale {
        /// The setting, as a path of keys.
        key: String,
        /// What it says.
        value: String,
        /// What it could say.
        known: String,
    },
    /// Two entries of `whoopsie.hosts` are one host, but for case or port.
    HostTwice {
        /// In lowercase, without a port.
        host: String,
    },
    /// More locales than a [`LocaleId`] can tell apart.
    TooManyLocales,
    /// The compressor failed.
    Deflate(io::Error),
}

impl fmt::Display for PagesError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(problems) => {
                let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
                out.write_str(&lines.join("\n"))
            }
            Self::UnknownLocale { key, value, known } => {
                write!(out, "{key} = \"{value}\": there is no such locale; write one of {known}")
            }
            Self::HostTwice { host } => {
                write!(out, "whoopsie.hosts: \"{host}\" is there more than once, case and port aside; keep one entry")
            }
            Self::TooManyLocales => out.write_str("more than 256 locale files; take some away"),
            Self::Deflate(_) => out.write_str("a page could not be compressed"),
        }
    }
}

impl Error for PagesError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Deflate(error) => Some(error),
            _ => None,
        }
    }
}

/// Every page in every language, and who gets which.
#[derive(Debug)]
pub(crate) struct Pages {
    locales: Locales,
    /// In the order of the locales' ids.
    whoopsies: Vec<Whoopsie>,
}

#[derive(Debug)]
struct Whoopsie {
    page: Page,
    content_language: HeaderValue,
}

impl Pages {
    /// Prepares the pages.
    ///
    /// # Errors
    /// A setting that names no locale or a host twice; files that [`PageFiles::read`] took and the built-in ones are sound.
    pub(crate) fn build(settings: &PageSettings) -> Result<Self, PagesError> {
        Self::build_from(settings, settings.files.template(), settings.files.all())
    }

    fn build_from<'f>(
        settings: &PageSettings,
        template: &'f str,
        files: impl Iterator<Item = (&'f str, &'f str)>,
    ) -> Result<Self, PagesError> {
        let (template, locales) = parsed(template, files)?;
        let script_words = template.script_words(&locales, settings).map_err(PagesError::Deflate)?;
        let mut tags: Vec<String> = Vec::with_capacity(locales.len());
        let mut whoopsies = Vec::with_capacity(locales.len());
        for words in locales {
            let page = template.fill(&words, settings, &script_words).map_err(PagesError::Deflate)?;
            let content_language = HeaderValue::try_from(&words.language)
                .map_err(|error| broken(&words.language, vec![Mistake { line: 1, message: error.to_string() }]))?;
            whoopsies.push(Whoopsie { page, content_language });
            tags.push(words.language);
        }
        let named = |key: &str, value: &str| {
            let position = tags.iter().position(|tag| tag.eq_ignore_ascii_case(value));
            position.and_then(|position| u8::try_from(position).ok()).map(LocaleId).ok_or_else(|| {
                PagesError::UnknownLocale { key: key.to_owned(), value: value.to_owned(), known: tags.join(", ") }
            })
        };
        let default = named("whoopsie.default_locale", &settings.default_locale)?;
        let hosts = settings.hosts.iter().map(|(host, locale)| {
            let locale = named(&format!("whoopsie.hosts.\"{host}\""), locale)?;
            Ok((host.clone(), locale))
        });
        let hosts = hosts.collect::<Result<Vec<_>, PagesError>>()?;
        let locales = Locales::new(tags, &hosts, default).map_err(|HostTwice(host)| PagesError::HostTwice { host })?;
        Ok(Self { locales, whoopsies })
    }

    /// The label values in the order of their ids.
    pub(crate) fn locales(&self) -> impl Iterator<Item = &str> {
        self.locales.tags()
    }

    /// The reader's language: RFC 4647 §3.4 on the lines of Accept-Language, else what `hosts` says for the Host value (any case,
    /// with or without a port), else the default.
    ///
    /// `iw` is Hebrew, `*` matches nothing, `q=0` takes away the very tag that it names. 8 KiB and 32 ranges are looked at.
    pub(crate) fn locale<'a>(&self, accept_language: impl Iterator<Item = &'a [u8]>, host: Option<&str>) -> LocaleId {
        self.locales.choose(accept_language, host)
    }

    /// Content-Language (RFC 9110 §8.5) of a page. Empty for an id that is not of these pages.
    pub(crate) fn content_language(&self, locale: LocaleId) -> HeaderValue {
        self.whoopsie(locale).map_or(HeaderValue::from_static(""), |whoopsie| whoopsie.content_language.clone())
    }

    /// The page, as one gzip member (RFC 1952) or plain; one allocation of the exact size. Empty for an id that is not of these pages.
    pub(crate) fn render(&self, locale: LocaleId, moment: &Moment<'_>, gzip: bool) -> Bytes {
        self.whoopsie(locale).map_or_else(Bytes::new, |whoopsie| whoopsie.page.render(moment, gzip))
    }

    fn whoopsie(&self, locale: LocaleId) -> Option<&Whoopsie> {
        self.whoopsies.get(usize::from(locale.0))
    }
}

/// The template and the words of every locale.
fn parsed<'f>(
    template: &'f str,
    files: impl Iterator<Item = (&'f str, &'f str)>,
) -> Result<(Template<'f>, Vec<Words>), PagesError> {
    let template = Template::parse(template).map_err(|mistakes| broken("whoopsie.html", mistakes))?;
    let words = files.map(|(tag, file)| Words::parse(tag, file).map_err(|mistakes| broken(tag, mistakes)));
    let words = words.take(usize::from(u8::MAX) + 2).collect::<Result<Vec<_>, _>>()?;
    if words.len() > usize::from(u8::MAX) + 1 { Err(PagesError::TooManyLocales) } else { Ok((template, words)) }
}

fn broken(file: &str, mistakes: Vec<Mistake>) -> PagesError {
    let problem = |Mistake { line, message }| FileProblem { file: file.to_owned(), line: Some(line), message };
    PagesError::Files(mistakes.into_iter().map(problem).collect())
}

/// Something wrong in a template or a locale file.
#[derive(Debug, PartialEq, Eq)]
struct Mistake {
    /// From 1.
    line: usize,
    message: String,
}

impl Mistake {
    fn at(text: &str, at: usize, message: String) -> Self {
        Self { line: Self::line_at(text, at), message }
    }

    fn line_at(text: &str, at: usize) -> usize {
        text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
    }
}

/// A piece of a file as messages show it: short, and without what could steer a terminal.
fn shown(text: &str) -> String {
    let mut shown = text.escape_debug().take(60).collect::<String>();
    if text.len() > 60 {
        shown.push('…');
    }
    shown
}

/// The same for programs: `application/problem+json` (RFC 9457) of type `about:blank`, whose `title` is the status' reason phrase.
/// The request id goes as `reference`: it is no URI, so it cannot be `instance`. Texts are cut after 256 bytes.
pub(crate) fn problem_json(moment: &Moment<'_>, title: &str) -> Bytes {
    let status = StatusCode::from_u16(moment.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut out = Vec::with_capacity(96 + title.len().min(256) + moment.id.len().min(256));
    out.extend_from_slice(br#"{"type":"about:blank","title":""#);
    json::push_escaped(&mut out, cut(title).as_bytes(), json::is_active);
    out.extend_from_slice(br#"","status":"#);
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(br#","reference":""#);
    json::push_escaped(&mut out, cut(moment.id).as_bytes(), json::is_active);
    out.extend_from_slice(b"\"}");
    Bytes::from(out)
}

/// The beginning of a text, as long as it is shown.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MOST_VALUE_BYTES)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Read;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::files::LOCALES;
    use super::*;

    pub(super) const MOMENT: Moment<'static> = Moment {
        status: 503,
        id: "0193-a.b_c",
        provider: "fastly",
        pop: "LHR",
        cause: "overload",
        unix_seconds: 1_795_345_741,
        retry_after: Some(30),
        is_wait: false,
        waiting: None,
    };

    const WAIT: Moment<'static> = Moment { is_wait: true, waiting: Some(12_345), ..MOMENT };

    /// Built once: the property tests render thousands of pages.
    static PAGES: LazyLock<Pages> = LazyLock::new(|| Pages::build(&settings()).unwrap());

    fn settings() -> PageSettings {
        PageSettings {
            hosts: BTreeMap::from([("www.example.de".to_owned(), "de".to_owned())]),
            site_name: "Shop & Söhne".to_owned(),
            status_url: "https://status.example/?a=1&b=2".to_owned(),
            support_url: "mailto:help@example.com".to_owned(),
            beacon_base: "//beacon.example.com/".to_owned(),
            ..PageSettings::default()
        }
    }

    fn all_ids(pages: &Pages) -> impl Iterator<Item = LocaleId> {
        (0..u8::try_from(pages.locales().count()).unwrap()).map(LocaleId)
    }

    fn gunzip(member: &[u8]) -> Vec<u8> {
        let mut decoder = flate2::read::GzDecoder::new(member);
        let mut plain = Vec::new();
        decoder.read_to_end(&mut plain).unwrap();
        assert!(decoder.into_inner().is_empty(), "bytes after the member");
        plain
    }

    fn id_of(pages: &Pages, tag: &str) -> LocaleId {
        let position = pages.locales().position(|known| known == tag).unwrap();
        LocaleId(u8::try_from(position).unwrap())
    }

    fn plain(pages: &Pages, tag: &str, moment: &Moment<'_>) -> String {
        String::from_utf8(pages.render(id_of(pages, tag), moment, false).to_vec()).unwrap()
    }

    fn english(settings: &PageSettings, moment: &Moment<'_>) -> String {
        plain(&Pages::build(settings).unwrap(), "en", moment)
    }

    fn file(tag: &str) -> &'static str {
        LOCALES.iter().find(|(known, _)| *known == tag).unwrap().1
    }

    #[test]
    fn locale_when_built_in_then_has_the_keys_of_english_and_texts_of_its_own() {
        let keys = |file: &str| file.parse::<toml::Table>().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        let mut words = BTreeSet::new();
        for (name, text) in LOCALES {
            Words::parse(name, text).unwrap_or_else(|mistakes| panic!("{name}.toml: {mistakes:?}"));
            assert_eq!(keys(text), keys(file("en")), "{name}.toml");
            let table = text.parse::<toml::Table>().unwrap();
            // Hebrew, Arabic and their neighbours.
            let is_rtl = table["heading"].as_str().unwrap().contains(|char| matches!(char, '\u{590}'..='\u{8ff}'));
            assert_eq!(table["direction"].as_str(), Some(if is_rtl { "rtl" } else { "ltr" }), "{name}.toml");
            for key in ["heading", "explanation", "next_step", "wait_heading", "wait_explanation", "wait_next_step"] {
                assert!(words.insert(table[key].to_string()), "{name}.toml: {key}");
            }
        }
    }

    #[test]
    fn every_page_goes_out_in_the_first_window_of_a_connection() {
        let settings = PageSettings {
            site_name: "A shop with a rather long name & Söhne".to_owned(),
            beacon_base: "//beacon.shop.example.com".to_owned(),
            ..settings()
        };
        let pages = Pages::build(&settings).unwrap();
        let id = "0123456789abcdef0123456789abcdef0123";
        for locale in all_ids(&pages) {
            for moment in [MOMENT, WAIT] {
                let bytes = pages.render(locale, &Moment { id, provider: "cloudfront", ..moment }, true).len();
                assert!(bytes <= 14_336, "{locale:?}: {bytes} bytes");
            }
        }
    }

    #[test]
    fn the_wait_page_has_words_of_its_own_and_the_number_waiting() {
        let pages = Pages::build(&settings()).unwrap();
        let page = |tag, moment: &Moment<'_>| plain(&pages, tag, moment);
        let english = page("en", &WAIT);
        for part in [
            "<title>Many people are here right now – Shop &amp; Söhne</title>",
            ">Many people are here right now</h1>",
            "<p id=\"waiting\" data-number=\"12345\">12,345 visitors are waiting at the moment.</p>",
            "data-seconds=\"30\"",
        ] {
            assert!(english.contains(part), "no {part} in\n{english}");
        }
        assert_eq!(english.matches("<h1").count(), 1);
        assert!(!english.contains("Something went wrong") && !english.contains("data-text=\"heading\""));
        assert!(!page("en", &MOMENT).contains("Many people are here right now"), "not in its script either");
        // The forms: one, few, many; a number of none and an unknown one are not told.
        for (locale, waiting, words) in [
            ("en", Some(1), Some("1 visitor is waiting at the moment.")),
            ("de", Some(1_000_000), Some("Im Moment warten 1.000.000 Personen.")),
            ("fr", Some(98_765), Some("98\u{202f}765 personnes attendent en ce moment.")),
            ("es", Some(1_234), Some("En este momento esperan 1234 personas.")),
            ("ru", Some(21), Some("Сейчас ожидает 21 посетитель.")),
            ("ru", Some(22), Some("Сейчас ожидают 22 посетителя.")),
            ("ru", Some(u32::MAX), Some("Сейчас ожидают 4\u{a0}294\u{a0}967\u{a0}295 посетителей.")),
            ("ar", Some(2), Some("ينتظر الآن زائران.")),
            ("en", Some(0), None),
            ("en", None, None),
        ] {
            let page = page(locale, &Moment { waiting, ..WAIT });
            assert_eq!(page.matches("id=\"waiting\"").count(), usize::from(words.is_some()), "{locale} {waiting:?}");
            if let Some(words) = words {
                assert!(page.contains(&format!(">{words}</p>")), "{locale} {waiting:?}: {page}");
            }
        }
        assert!(
            !page("en", &Moment { is_wait: false, ..WAIT }).contains("id=\"waiting\""),
            "a number without the wait page"
        );
    }

    #[test]
    fn the_page_asks_again_by_itself_only_where_it_may() {
        let page = english(&settings(), &Moment { retry_after: None, ..MOMENT });
        assert!(!page.contains("data-seconds") && !page.contains("id=\"stop\"") && page.contains("id=\"again\""));
        assert!(english(&settings(), &Moment { retry_after: Some(0), ..MOMENT }).contains("data-seconds=\"0\""));
    }

    #[test]
    fn the_script_gets_the_words_that_the_page_shows() {
        let words = |settings: &PageSettings, moment: &Moment<'_>| {
            let page = english(settings, moment);
            let (_, rest) = page.split_once("<script type=\"application/json\" id=\"words\">").unwrap();
            serde_json::from_str::<serde_json::Value>(rest.split_once("</script>").unwrap().0).unwrap()
        };
        let settings = PageSettings { site_name: "</script> \"A\" & B".to_owned(), ..PageSettings::default() };
        let fault = words(&settings, &MOMENT);
        let keys: Vec<_> = fault[0].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
        assert_eq!(
            keys,
            [
                "direction",
                "heading",
                "site_name",
                "explanation",
                "next_step",
                "retry",
                "stop",
                "reference",
                "copy",
                "retrying",
                "stopped",
                "copied",
                "seconds",
                "minutes"
            ]
        );
        for (tag, file) in LOCALES {
            let table = serde_json::to_value(file.parse::<toml::Table>().unwrap()).unwrap();
            for (place, key) in keys.iter().enumerate() {
                let wanted = if *key == "site_name" { settings.site_name.as_str().into() } else { table[key].clone() };
                assert_eq!(fault[1][*tag][place], wanted, "{tag} {key}");
            }
        }
        let wait = words(&PageSettings { status_url: "/status".to_owned(), ..settings }, &WAIT);
        let has = |key: &str| wait[0].as_array().unwrap().contains(&key.into());
        assert!(has("wait_heading") && has("waiting") && has("status_link") && !has("support_link") && !has("heading"));
    }

    #[test]
    fn locales_keep_the_order_of_their_ids() {
        let pages = Pages::build(&settings()).unwrap();
        assert!(pages.locales().eq(LOCALES.iter().map(|(name, _)| *name)));
        for (id, name) in all_ids(&pages).zip(LOCALES.iter().map(|(name, _)| *name)) {
            assert_eq!(pages.content_language(id), name);
            assert_eq!(pages.locale([name.as_bytes()].into_iter(), None), id);
            let page = String::from_utf8(pages.render(id, &MOMENT, false).to_vec()).unwrap();
            assert!(page.contains(&format!("<html lang=\"{name}\" dir=")), "{name}");
        }
    }

    #[test]
    fn an_id_of_other_pages_gives_nothing_and_does_not_panic() {
        let pages = Pages::build(&settings()).unwrap();
        assert!(pages.render(LocaleId(255), &MOMENT, true).is_empty());
        assert_eq!(pages.content_language(LocaleId(255)), "");
    }

    #[test]
    fn the_page_says_what_support_needs_and_fetches_only_the_beacon() {
        let page = english(&settings(), &MOMENT);
        for part in [
            "<!doctype html>\n<html lang=\"en\" dir=\"ltr\">",
            "<meta name=\"robots\" content=\"noindex\">",
            "<title>Something went wrong on our side – Shop &amp; Söhne</title>",
            "<bdi>0193-a.b_c</bdi>&nbsp;· <time datetime=\"2026-11-22T11:09:01Z\">2026-11-22 11:09:01 UTC</time>&nbsp;· <bdi>fastly LHR</bdi>&nbsp;· <bdi>503</bdi></p>",
            "<a href=\"https://status.example/?a=1&amp;b=2\" data-text=\"status_link\">Service status</a>",
            "<a href=\"mailto:help@example.com\" data-text=\"support_link\">Contact support</a>",
            "src=\"//beacon.example.com/status/images/beacon.gif?source=fastly&amp;server_identity=LHR&amp;reason=overload&amp;id=0193-a.b_c\" width=\"1\" height=\"1\" alt=\"\"",
            " data-seconds=\"30\" hidden>",
        ] {
            assert!(page.contains(part), "no {part} in\n{page}");
        }
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert_eq!(page.matches(" src=").count(), 1);
        for fetching in ["<script src", "<link", "<iframe", "@import", "url(", "fetch(", "{{", "}}\n"] {
            assert!(!page.contains(fetching), "{fetching}");
        }
        let (markup, _) = page.split_once("<script").unwrap();
        assert!(!markup.contains("\" on"), "an inline handler");
    }

    #[test]
    fn links_and_site_name_are_there_only_when_configured() {
        let page = english(&PageSettings::default(), &MOMENT);
        assert_eq!(page.matches("<a ").count(), 1, "only the retry link");
        assert!(page.contains("src=\"/status/images/beacon.gif?source="));
        let pages = Pages::build(&PageSettings::default()).unwrap();
        let german = plain(&pages, "de", &MOMENT);
        let (german, _) = german.split_once("<script").unwrap();
        assert!(german.contains("Diese Website") && !german.contains("This site"));
    }

    #[test]
    fn hostile_values_stay_text() {
        let hostile = "\"><script>alert('1')</script>&";
        let moment = Moment { id: hostile, provider: hostile, pop: hostile, cause: hostile, ..MOMENT };
        let page = english(&settings(), &moment);
        assert_eq!(page.matches("<script").count(), 2, "our own");
        assert!(!page.contains("alert('"));
        assert!(page.contains("?source=%22%3E%3Cscript%3E") && page.contains("<bdi>&quot;&gt;&lt;script&gt;"));
    }

    #[test]
    fn a_page_is_one_allocation_of_the_exact_size() {
        let pages = Pages::build(&settings()).unwrap();
        let hostile = Moment { id: "<&>\"é", ..MOMENT };
        for gzip in [false, true] {
            for moment in [&MOMENT, &hostile] {
                // Bytes tells its room only when turned back.
                let page = bytes::BytesMut::from(pages.render(id_of(&pages, "en"), moment, gzip));
                assert_eq!(page.capacity(), page.len());
            }
        }
    }

    #[test]
    fn the_gzip_twin_is_smaller_by_a_quarter() {
        let pages = Pages::build(&settings()).unwrap();
        for id in all_ids(&pages) {
            let (plain, twin) = (pages.render(id, &MOMENT, false).len(), pages.render(id, &MOMENT, true).len());
            assert!(twin < plain * 3 / 4, "{id:?}: {plain} and {twin}");
        }
    }

    #[test]
    fn wrong_settings_are_told() {
        let told = |change: fn(&mut PageSettings)| {
            let mut settings = settings();
            change(&mut settings);
            Pages::build(&settings).unwrap_err().to_string()
        };
        let text = told(|settings| settings.default_locale = "xx".to_owned());
        assert!(
            text.starts_with("whoopsie.default_locale = \"xx\": there is no such locale; write one of ar, "),
            "{text}"
        );
        let text = told(|settings| _ = settings.hosts.insert("www.example.de".to_owned(), "de-AT".to_owned()));
        assert!(text.starts_with("whoopsie.hosts.\"www.example.de\" = \"de-AT\""), "{text}");
        let text = told(|settings| _ = settings.hosts.insert("WWW.example.de:80".to_owned(), "en".to_owned()));
        assert!(text.contains("\"www.example.de\" is there more than once"), "{text}");
        let told = |template: &str, files: &[(&str, &str)]| {
            Pages::build_from(&settings(), template, files.iter().copied()).unwrap_err().to_string()
        };
        assert!(told("\n{{nonsense}}", LOCALES).contains("whoopsie.html:2: unknown placeholder `{{nonsense}}`"));
        assert!(told("", &[("en", file("de"))]).contains("`language` is `de`"));
        assert!(told("", &[LOCALES[0]; 257]).contains("more than 256"));
    }

    #[test]
    fn problem_json_is_what_rfc_9457_asks_for() {
        assert_eq!(
            problem_json(&MOMENT, "Service Unavailable"),
            r#"{"type":"about:blank","title":"Service Unavailable","status":503,"reference":"0193-a.b_c"}"#
        );
        let moment = Moment { status: 7, id: "a\"\\\n\u{1f}é", ..MOMENT };
        assert_eq!(
            problem_json(&moment, ""),
            r#"{"type":"about:blank","title":"","status":500,"reference":"a\"\\\n\u001fé"}"#
        );
    }

    proptest! {
        // Each case inflates a page in every locale.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_gzip_twin_inflates_to_the_page(
            id in "[A-Za-z0-9._-]{1,128}", provider in "[a-z]{1,12}", pop in "[A-Z]{0,5}", unix_seconds in any::<u64>(), status in 500..600_u16, waiting: Option<u32>
        ) {
            let pages = &*PAGES;
            let moment = Moment { status, id: &id, provider: &provider, pop: &pop, cause: "timeout", unix_seconds, ..MOMENT };
            for locale in all_ids(pages) {
                for moment in [moment, Moment { retry_after: None, ..moment }, Moment { is_wait: true, waiting, ..moment }] {
                    prop_assert_eq!(gunzip(&pages.render(locale, &moment, true)), pages.render(locale, &moment, false));
                }
            }
        }

        #[test]
        fn the_gzip_twin_inflates_to_the_page_whatever_the_values(id in any::<String>(), provider in "[<>&\"' é]{0,400}", cause in ".{0,300}", status: u16) {
            let moment = Moment { status, id: &id, provider: &provider, pop: "", cause: &cause, unix_seconds: 0, ..WAIT };
            prop_assert_eq!(gunzip(&PAGES.render(id_of(&PAGES, "en"), &moment, true)), PAGES.render(id_of(&PAGES, "en"), &moment, false));
        }

        #[test]
        fn any_template_is_split_or_refused(source in "([a-z<>\"?\n]|\\{\\{|\\}\\}|#|\\^|/|!|id|site_name|wait|words copied|text\\.retry|text\\.waiting|é){0,40}") {
            if let Ok(pages) = Pages::build_from(&PageSettings::default(), &source, [("en", file("en"))].into_iter()) {
                prop_assert_eq!(gunzip(&pages.render(LocaleId(0), &MOMENT, true)), pages.render(LocaleId(0), &MOMENT, false));
            }
        }
    }
}
