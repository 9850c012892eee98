//! Tests of complete pages.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::files::LOCALES;
use super::*;

pub(super) const VALUES: PageValues<'static> = PageValues {
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

const WAIT: PageValues<'static> = PageValues { is_wait: true, waiting: Some(12_345), ..VALUES };

/// The pages, which are built once because the property tests render thousands of pages.
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
    let (mut rest, mut plain) = (member, Vec::new());
    // `flate2::read::GzDecoder` would also consume the bytes after the member.
    flate2::bufread::GzDecoder::new(&mut rest).read_to_end(&mut plain).unwrap();
    assert!(rest.is_empty(), "there are bytes after the gzip member");
    plain
}

fn id_of(pages: &Pages, tag: &str) -> LocaleId {
    let position = pages.locales().position(|known| known == tag).unwrap();
    LocaleId(u8::try_from(position).unwrap())
}

fn plain(pages: &Pages, tag: &str, values: &PageValues<'_>) -> String {
    String::from_utf8(pages.render(id_of(pages, tag), values, false).to_vec()).unwrap()
}

fn english(settings: &PageSettings, values: &PageValues<'_>) -> String {
    plain(&Pages::build(settings).unwrap(), "en", values)
}

fn file(tag: &str) -> &'static str {
    LOCALES.iter().find(|(known, _)| *known == tag).unwrap().1
}

#[test]
fn built_in_locale_when_parsed_then_has_all_english_keys_and_unique_texts() {
    let keys = |file: &str| file.parse::<toml::Table>().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let mut words = BTreeSet::new();
    for (name, text) in LOCALES {
        LocaleTexts::parse(name, text).unwrap_or_else(|mistakes| panic!("{name}.toml: {mistakes:?}"));
        assert_eq!(keys(text), keys(file("en")), "{name}.toml");
        let table = text.parse::<toml::Table>().unwrap();
        // This range contains Hebrew, Arabic and other scripts that are written from right to left.
        let is_rtl = table["heading"].as_str().unwrap().contains(|char| matches!(char, '\u{590}'..='\u{8ff}'));
        assert_eq!(table["direction"].as_str(), Some(if is_rtl { "rtl" } else { "ltr" }), "{name}.toml");
        for key in ["heading", "explanation", "next_step", "wait_heading", "wait_explanation", "wait_next_step"] {
            assert!(words.insert(table[key].to_string()), "{name}.toml: the text of {key} is not unique");
        }
    }
}

#[test]
fn gzip_page_when_rendered_then_fits_the_initial_tcp_congestion_window() {
    let settings = PageSettings {
        site_name: "A shop with a rather long name & Söhne".to_owned(),
        beacon_base: "//beacon.shop.example.com".to_owned(),
        ..settings()
    };
    let pages = Pages::build(&settings).unwrap();
    let id = "0123456789abcdef0123456789abcdef0123";
    for locale in all_ids(&pages) {
        for values in [VALUES, WAIT] {
            let bytes = pages.render(locale, &PageValues { id, provider: "cloudfront", ..values }, true).len();
            assert!(bytes <= 14_336, "{locale:?}: {bytes} bytes");
        }
    }
}

#[test]
fn wait_page_when_rendered_then_shows_wait_heading_and_number_of_waiting_requests() {
    let pages = Pages::build(&settings()).unwrap();
    let page = |tag, values: &PageValues<'_>| plain(&pages, tag, values);
    let english = page("en", &WAIT);
    for part in [
        "<title>We have a lot of visitors right now – Shop &amp; Söhne</title>",
        ">We have a lot of visitors right now</h1>",
        "<p id=\"waiting\" data-number=\"12345\">12,345 visitors are waiting at the moment.</p>",
        "data-seconds=\"30\"",
    ] {
        assert!(english.contains(part), "the page does not contain {part}:\n{english}");
    }
    assert_eq!(english.matches("<h1").count(), 1);
    assert!(!english.contains("Something went wrong") && !english.contains("data-text=\"heading\""));
    assert!(
        !page("en", &VALUES).contains("We have a lot of visitors right now"),
        "the error page or its script contains a text of the wait page"
    );
    // The cases use the plural forms one, two, few, many and other. The number is not shown if it is zero or unknown.
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
        let page = page(locale, &PageValues { waiting, ..WAIT });
        assert_eq!(page.matches("id=\"waiting\"").count(), usize::from(words.is_some()), "{locale} {waiting:?}");
        if let Some(words) = words {
            assert!(page.contains(&format!(">{words}</p>")), "{locale} {waiting:?}: {page}");
        }
    }
    assert!(
        !page("en", &PageValues { is_wait: false, ..WAIT }).contains("id=\"waiting\""),
        "the error page shows the number of waiting requests"
    );
}

#[test]
fn page_when_retry_after_is_absent_then_has_no_countdown() {
    let page = english(&settings(), &PageValues { retry_after: None, ..VALUES });
    assert!(!page.contains("data-seconds") && !page.contains("id=\"stop\"") && page.contains("id=\"again\""));
    assert!(english(&settings(), &PageValues { retry_after: Some(0), ..VALUES }).contains("data-seconds=\"0\""));
}

#[test]
fn script_when_page_is_rendered_then_contains_the_texts_that_the_page_needs() {
    let words = |settings: &PageSettings, values: &PageValues<'_>| {
        let page = english(settings, values);
        let (_, rest) = page.split_once("<script type=\"application/json\" id=\"words\">").unwrap();
        serde_json::from_str::<serde_json::Value>(rest.split_once("</script>").unwrap().0).unwrap()
    };
    let settings = PageSettings { site_name: "</script> \"A\" & B".to_owned(), ..PageSettings::default() };
    let fault = words(&settings, &VALUES);
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
fn locales_when_listed_then_are_in_the_order_of_locale_ids() {
    let pages = Pages::build(&settings()).unwrap();
    assert!(pages.locales().eq(LOCALES.iter().map(|(name, _)| *name)));
    for (id, name) in all_ids(&pages).zip(LOCALES.iter().map(|(name, _)| *name)) {
        assert_eq!(pages.content_language(id), name);
        assert_eq!(pages.locale([name.as_bytes()].into_iter(), None), id);
        let page = String::from_utf8(pages.render(id, &VALUES, false).to_vec()).unwrap();
        assert!(page.contains(&format!("<html lang=\"{name}\" dir=")), "{name}");
    }
}

#[test]
fn locale_id_when_unknown_then_page_is_empty() {
    let pages = Pages::build(&settings()).unwrap();
    assert!(pages.render(LocaleId(255), &VALUES, true).is_empty());
    assert_eq!(pages.content_language(LocaleId(255)), "");
}

#[test]
fn page_when_rendered_then_has_the_reference_and_loads_only_the_beacon() {
    let page = english(&settings(), &VALUES);
    for part in [
        "<!doctype html>\n<html lang=\"en\" dir=\"ltr\">",
        "<meta name=\"robots\" content=\"noindex\">",
        "<title>Something went wrong on our end – Shop &amp; Söhne</title>",
        "<bdi>0193-a.b_c</bdi>&nbsp;· <time datetime=\"2026-11-22T11:09:01Z\">2026-11-22 11:09:01 UTC</time>\
         &nbsp;· <bdi>fastly LHR</bdi>&nbsp;· <bdi>503</bdi></p>",
        "<a href=\"https://status.example/?a=1&amp;b=2\" data-text=\"status_link\">Service status</a>",
        "<a href=\"mailto:help@example.com\" data-text=\"support_link\">Contact support</a>",
        "src=\"//beacon.example.com/status/images/beacon.gif?source=fastly\
         &amp;server_identity=LHR&amp;reason=overload&amp;id=0193-a.b_c\" width=\"1\" height=\"1\" alt=\"\"",
        " data-seconds=\"30\" hidden>",
    ] {
        assert!(page.contains(part), "the page does not contain {part}:\n{page}");
    }
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert_eq!(page.matches(" src=").count(), 1);
    for fetching in ["<script src", "<link", "<iframe", "@import", "url(", "fetch(", "{{", "}}\n"] {
        assert!(!page.contains(fetching), "the page contains {fetching}");
    }
    let (markup, _) = page.split_once("<script").unwrap();
    assert!(!markup.contains("\" on"), "the page has an inline event handler");
}

#[test]
fn page_when_settings_are_absent_then_has_the_default_site_name_and_no_links_to_help() {
    let page = english(&PageSettings::default(), &VALUES);
    assert_eq!(page.matches("<a ").count(), 1, "the page must have one link, which reloads the page");
    assert!(page.contains("src=\"/status/images/beacon.gif?source="));
    let pages = Pages::build(&PageSettings::default()).unwrap();
    let german = plain(&pages, "de", &VALUES);
    let (german, _) = german.split_once("<script").unwrap();
    assert!(german.contains("Diese Website") && !german.contains("This site"));
}

#[test]
fn values_when_hostile_then_page_contains_escaped_text() {
    let hostile = "\"><script>alert('1')</script>&";
    let values = PageValues { id: hostile, provider: hostile, pop: hostile, cause: hostile, ..VALUES };
    let page = english(&settings(), &values);
    assert_eq!(page.matches("<script").count(), 2, "the page must have only the two scripts of the template");
    assert!(!page.contains("alert('"));
    assert!(page.contains("?source=%22%3E%3Cscript%3E") && page.contains("<bdi>&quot;&gt;&lt;script&gt;"));
}

#[test]
fn page_when_rendered_then_capacity_equals_length() {
    let pages = Pages::build(&settings()).unwrap();
    let hostile = PageValues { id: "<&>\"é", ..VALUES };
    for gzip in [false, true] {
        for values in [&VALUES, &hostile] {
            // `Bytes` has no method that returns its capacity, so the page is converted into a `BytesMut`.
            let page = bytes::BytesMut::from(pages.render(id_of(&pages, "en"), values, gzip));
            assert_eq!(page.capacity(), page.len());
        }
    }
}

#[test]
fn gzip_page_when_rendered_then_is_at_least_a_quarter_smaller_than_plain_page() {
    let pages = Pages::build(&settings()).unwrap();
    for id in all_ids(&pages) {
        let (plain, twin) = (pages.render(id, &VALUES, false).len(), pages.render(id, &VALUES, true).len());
        assert!(twin < plain * 3 / 4, "{id:?}: {plain} bytes as plain text, {twin} bytes with gzip");
    }
}

#[test]
fn pages_when_settings_or_files_are_invalid_then_error_names_the_problem() {
    let refused = |change: fn(&mut PageSettings)| {
        let mut settings = settings();
        change(&mut settings);
        Pages::build(&settings).unwrap_err().to_string()
    };
    let text = refused(|settings| settings.default_locale = "xx".to_owned());
    assert!(text.starts_with("whoopsie.default_locale = \"xx\": there is no such locale; write one of ar, "), "{text}");
    let text = refused(|settings| _ = settings.hosts.insert("www.example.de".to_owned(), "de-AT".to_owned()));
    assert!(text.starts_with("whoopsie.hosts.\"www.example.de\" = \"de-AT\""), "{text}");
    let text = refused(|settings| _ = settings.hosts.insert("WWW.example.de:80".to_owned(), "en".to_owned()));
    assert!(text.contains("\"www.example.de\" occurs more than once"), "{text}");
    let refused = |template: &str, files: &[(&str, &str)]| {
        Pages::build_from(&settings(), template, files.iter().copied()).unwrap_err().to_string()
    };
    assert!(refused("\n{{nonsense}}", LOCALES).contains("whoopsie.html:2: unknown placeholder `{{nonsense}}`"));
    assert!(refused("", &[("en", file("de"))]).contains("`language` is `de`"));
    assert!(refused("", &[LOCALES[0]; 257]).contains("more than 256"));
}

#[test]
fn problem_json_when_rendered_then_follows_rfc_9457() {
    assert_eq!(
        problem_json(&VALUES, "Service Unavailable"),
        r#"{"type":"about:blank","title":"Service Unavailable","status":503,"reference":"0193-a.b_c"}"#
    );
    let values = PageValues { status: 7, id: "a\"\\\n\u{1f}é", ..VALUES };
    assert_eq!(
        problem_json(&values, ""),
        r#"{"type":"about:blank","title":"","status":500,"reference":"a\"\\\n\u001fé"}"#
    );
}

proptest! {
    // There are only 64 cases, because each case of the first test inflates three pages in every locale.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn gzip_page_when_inflated_then_equals_the_plain_page(
        id in "[A-Za-z0-9._-]{1,128}", provider in "[a-z]{1,12}", pop in "[A-Z]{0,5}",
        unix_seconds in any::<u64>(), status in 500..600_u16, waiting: Option<u32>
    ) {
        let pages = &*PAGES;
        let values = PageValues {
            status, id: &id, provider: &provider, pop: &pop, cause: "timeout", unix_seconds, ..VALUES
        };
        for locale in all_ids(pages) {
            let without_retry = PageValues { retry_after: None, ..values };
            for values in [values, without_retry, PageValues { is_wait: true, waiting, ..values }] {
                prop_assert_eq!(gunzip(&pages.render(locale, &values, true)), pages.render(locale, &values, false));
            }
        }
    }

    #[test]
    fn gzip_page_when_values_are_hostile_then_inflates_to_the_plain_page(
        id in any::<String>(), provider in "[<>&\"' é]{0,400}", cause in ".{0,300}", status: u16,
    ) {
        let values =
            PageValues { status, id: &id, provider: &provider, pop: "", cause: &cause, unix_seconds: 0, ..WAIT };
        let english = id_of(&PAGES, "en");
        prop_assert_eq!(gunzip(&PAGES.render(english, &values, true)), PAGES.render(english, &values, false));
    }

    #[test]
    fn template_when_arbitrary_and_valid_then_gzip_page_inflates_to_the_plain_page(
        source in "([a-z<>\"?\n]|\\{\\{|\\}\\}|#|\\^|/|!|id|site_name|wait|words copied|text\\.retry\
                   |text\\.waiting|é){0,40}",
    ) {
        if let Ok(pages) = Pages::build_from(&PageSettings::default(), &source, [("en", file("en"))].into_iter()) {
            let page = pages.render(LocaleId(0), &VALUES, false);
                prop_assert_eq!(gunzip(&pages.render(LocaleId(0), &VALUES, true)), page);
        }
    }
}
