//! Pages in which only the values of a request are missing.
//!
//! [`Page::new`] fills the settings and the texts of a locale into a template. The parts between the values of a
//! request are then fixed texts. Each fixed text is stored with its deflated form (`gzip_member.rs`). So a page for a
//! request takes one allocation, one copy of each fixed text and one copy of each value.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;

use super::escape::Escape;
use super::gzip_member::{self, Checksum, Deflater};
use super::locale_file::{LocaleTexts, NUMBER};
use super::page_settings::PageSettings;
use super::page_values::PageValues;
use super::plural::{Category, Plural};
use super::script_texts::texts_json;
use super::slots::{Clock, Digits, Numbers, Slot, SlotTexts};
use super::template::{Condition, Piece, RequestCondition, Template, Text};

/// The texts that the script in the page needs, one set for the error page and one for the wait page. The pages of all
/// locales share these sets.
#[derive(Debug)]
pub(super) struct ScriptTexts {
    page: Arc<Fixed>,
    wait_page: Arc<Fixed>,
}

impl ScriptTexts {
    /// Collects the texts of `locales` that the script of a template needs.
    pub(super) fn new(
        template: &Template<'_>,
        locales: &[LocaleTexts],
        settings: &PageSettings,
        texts: &mut FixedTexts,
    ) -> io::Result<Self> {
        let mut fixed = |is_wait| {
            let json = |first| texts_json(template, is_wait, first, locales, settings);
            texts.shared(locales.first().map(json).unwrap_or_default())
        };
        Ok(Self { page: fixed(false)?, wait_page: fixed(true)? })
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

/// The fixed texts of the pages that are being built. Many texts occur in the page of each locale. These pages share
/// one copy of such a text, and the text is deflated once.
#[derive(Debug)]
pub(super) struct FixedTexts {
    deflater: Deflater,
    known: HashMap<Vec<u8>, Arc<Fixed>>,
}

impl FixedTexts {
    pub(super) fn new() -> Self {
        Self { deflater: Deflater::new(), known: HashMap::new() }
    }

    /// Returns the fixed text `plain` before a value.
    fn shared(&mut self, plain: Vec<u8>) -> io::Result<Arc<Fixed>> {
        if let Some(fixed) = self.known.get(&plain) {
            return Ok(Arc::clone(fixed));
        }
        let deflated = self.deflater.before_value(&plain)?;
        let fixed = Arc::new(Fixed::new(plain.clone(), deflated));
        self.known.insert(plain, Arc::clone(&fixed));
        Ok(fixed)
    }

    /// Returns the fixed text `plain` at the end of a page.
    fn at_end(&mut self, plain: Vec<u8>) -> io::Result<Fixed> {
        let deflated = self.deflater.at_end(&plain)?;
        Ok(Fixed::new(plain, deflated))
    }
}

/// A set of results of conditions and of plural categories. Each element has one bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Results(u16);

impl Results {
    fn of(condition: RequestCondition, result: bool) -> Self {
        Self(1 << (condition as u16 * 2 + u16::from(result)))
    }

    fn form(category: Category) -> Self {
        Self(1 << (RequestCondition::ALL.len() * 2 + category as usize))
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A fixed text, and the value that follows the fixed text, if any.
#[derive(Debug)]
struct Part {
    /// What a request must have for the part to be shown: the result of the condition of the section that contains the
    /// part, and the plural category of the part. Empty if the part is always shown.
    needs: Results,
    fixed: Arc<Fixed>,
    value: Option<(Slot, Escape)>,
}

/// A page that [`Page::new`] is still building.
#[derive(Debug)]
struct Unfinished<'a> {
    texts: &'a mut FixedTexts,
    parts: Vec<Part>,
    /// The text that has been collected for the next part.
    fixed: Vec<u8>,
    /// The condition of the open section, and its result. Empty if no section with a [`RequestCondition`] is open.
    section: Results,
    /// The plural category of the open plural form. Empty if no plural form is open.
    form: Results,
}

impl Unfinished<'_> {
    /// Adds the collected text and `value` as a part. Does nothing if there is neither text nor a value.
    fn end_part(&mut self, value: Option<(Slot, Escape)>) -> io::Result<()> {
        if value.is_some() || !self.fixed.is_empty() {
            let fixed = self.texts.shared(std::mem::take(&mut self.fixed))?;
            self.parts.push(Part { needs: self.section.and(self.form), fixed, value });
        }
        Ok(())
    }
}

/// A page in one language, without the values of a request.
#[derive(Debug)]
pub(super) struct Page {
    parts: Vec<Part>,
    end: Fixed,
    plural: Arc<Plural>,
    thousands: String,
}

impl Page {
    /// Fills the settings and the texts of a locale into a template.
    pub(super) fn new(
        template: &Template<'_>,
        texts: &LocaleTexts,
        settings: &PageSettings,
        script: &ScriptTexts,
        fixed: &mut FixedTexts,
    ) -> io::Result<Self> {
        let (section, form) = (Results::default(), Results::default());
        let mut page = Unfinished { texts: fixed, parts: Vec::new(), fixed: Vec::new(), section, form };
        let mut skip = false;
        for piece in &template.pieces {
            match piece {
                Piece::Open(Condition::Setting(setting), wanted) => {
                    skip = settings.text(*setting, texts).is_empty() == *wanted;
                }
                Piece::Open(Condition::Known(_), wanted) => skip = !wanted,
                Piece::Open(Condition::Request(condition), wanted) => {
                    page.end_part(None)?;
                    page.section = Results::of(*condition, *wanted);
                }
                Piece::Close => {
                    if page.section != Results::default() {
                        page.end_part(None)?;
                        page.section = Results::default();
                    }
                    skip = false;
                }
                _ if skip => {}
                Piece::Fixed(text) => page.fixed.extend_from_slice(text.as_bytes()),
                Piece::Text(Text::Forms(key), escape) => {
                    page.end_part(None)?;
                    for (category, form) in texts.forms(key) {
                        page.form = Results::form(*category);
                        let after = match form.split_once(NUMBER) {
                            Some((before, after)) => {
                                escape.push(&mut page.fixed, before.as_bytes());
                                page.end_part(Some((Slot::WaitingGrouped, *escape)))?;
                                after
                            }
                            None => form,
                        };
                        escape.push(&mut page.fixed, after.as_bytes());
                        page.end_part(None)?;
                    }
                    page.form = Results::default();
                }
                Piece::Text(text, escape) => escape.push(&mut page.fixed, texts.text(text.name()).as_bytes()),
                Piece::Setting(setting, escape) => {
                    escape.push(&mut page.fixed, settings.text(*setting, texts).as_bytes());
                }
                Piece::Slot(slot, escape) => page.end_part(Some((*slot, *escape)))?,
                Piece::ScriptTexts(_) => {
                    page.end_part(None)?;
                    for (is_wait, fixed) in [(false, &script.page), (true, &script.wait_page)] {
                        let needs = Results::of(RequestCondition::Wait, is_wait);
                        page.parts.push(Part { needs, fixed: Arc::clone(fixed), value: None });
                    }
                }
            }
        }
        Ok(Self {
            parts: page.parts,
            end: page.texts.at_end(page.fixed)?,
            plural: Arc::clone(&texts.plural),
            thousands: texts.text("thousands").to_owned(),
        })
    }

    /// Returns the page with the values of a request. Allocates the page once, with its exact size.
    pub(super) fn render(&self, values: &PageValues<'_>, gzip: bool) -> Bytes {
        let status = StatusCode::from_u16(values.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let clock = Clock::at(values.unix_seconds);
        let waiting = values.waiting.filter(|&waiting| values.is_wait && waiting > 0);
        let numbers = Numbers {
            retry_after: Digits::plain(values.retry_after.unwrap_or_default()),
            waiting: Digits::plain(waiting.unwrap_or_default()),
            waiting_grouped: Digits::grouped(waiting.unwrap_or_default(), &self.thousands),
        };
        let texts = SlotTexts::new(values, status.as_str(), &clock, &numbers);
        let form = waiting.map(|waiting| self.plural.category(waiting));
        let holds = |condition| match condition {
            RequestCondition::Retry => values.retry_after.is_some(),
            RequestCondition::Wait => values.is_wait,
            RequestCondition::Waiting => form.is_some(),
            RequestCondition::Pop => !values.pop.is_empty(),
        };
        let results = RequestCondition::ALL.map(|(_, condition)| Results::of(condition, holds(condition)));
        let results = results.into_iter().fold(form.map(Results::form).unwrap_or_default(), Results::and);
        // The length and the bytes of the page are made from the same parts.
        let parts = self.parts.iter().filter(move |part| results.contains(part.needs));
        let out = if gzip { self.gzip(parts, &texts) } else { self.plain(parts, &texts) };
        // The capacity of `out` equals its length, so this conversion does not copy.
        Bytes::from(out)
    }

    fn plain<'p>(&self, parts: impl Iterator<Item = &'p Part> + Clone, texts: &SlotTexts<'_>) -> Vec<u8> {
        let bytes = |part: &Part| part.fixed.plain.len() + usize::from(texts.bytes(part.value));
        let mut out = Vec::with_capacity(parts.clone().map(bytes).sum::<usize>() + self.end.plain.len());
        for part in parts {
            out.extend_from_slice(&part.fixed.plain);
            texts.push(&mut out, part.value);
        }
        out.extend_from_slice(&self.end.plain);
        out
    }

    fn gzip<'p>(&self, parts: impl Iterator<Item = &'p Part> + Clone, texts: &SlotTexts<'_>) -> Vec<u8> {
        let bytes =
            |part: &Part| part.fixed.deflated.len() + gzip_member::LENGTH_BYTES + usize::from(texts.bytes(part.value));
        let overhead = gzip_member::HEADER.len() + self.end.deflated.len() + gzip_member::TRAILER_BYTES;
        let mut out = Vec::with_capacity(parts.clone().map(bytes).sum::<usize>() + overhead);
        out.extend_from_slice(&gzip_member::HEADER);
        let mut crc = 0;
        let mut plain_bytes = self.end.plain.len();
        for part in parts {
            out.extend_from_slice(&part.fixed.deflated);
            let value_bytes = texts.bytes(part.value);
            gzip_member::push_length(&mut out, value_bytes);
            let start = out.len();
            texts.push(&mut out, part.value);
            let mut hasher = crc32fast::Hasher::new_with_initial(part.fixed.checksum.after(crc));
            hasher.update(out.get(start..).unwrap_or_default());
            crc = hasher.finalize();
            plain_bytes += part.fixed.plain.len() + usize::from(value_bytes);
        }
        out.extend_from_slice(&self.end.deflated);
        gzip_member::push_trailer(&mut out, self.end.checksum.after(crc), plain_bytes);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::page_values::MAX_VALUE_BYTES;
    use crate::pages::tests::VALUES;

    fn texts() -> LocaleTexts {
        LocaleTexts::parse("en", include_str!("../../config/locales/en.toml")).unwrap()
    }

    fn values<'a>(id: &'a str, provider: &'a str) -> PageValues<'a> {
        PageValues { id, provider, ..VALUES }
    }

    fn rendered(source: &str, settings: &PageSettings, values: &PageValues<'_>) -> String {
        let template = Template::parse(source).unwrap();
        let mut fixed = FixedTexts::new();
        let script = ScriptTexts::new(&template, &[texts()], settings, &mut fixed).unwrap();
        let page = Page::new(&template, &texts(), settings, &script, &mut fixed).unwrap();
        String::from_utf8(page.render(values, false).to_vec()).unwrap()
    }

    #[test]
    fn fixed_text_when_repeated_then_is_shared() {
        let mut texts = FixedTexts::new();
        let first = texts.shared(b"</p>".to_vec()).unwrap();
        assert!(Arc::ptr_eq(&first, &texts.shared(b"</p>".to_vec()).unwrap()));
        assert_eq!(texts.shared(b"<p>".to_vec()).unwrap().plain, b"<p>");
    }

    #[test]
    fn known_value_when_used_as_a_condition_then_counts_as_present() {
        let source = "{{#id}}I{{/id}}{{^time}}t{{/time}}{{#status}}S{{/status}}";
        assert_eq!(rendered(source, &PageSettings::default(), &values("", "")), "IS");
    }

    #[test]
    fn placeholders_when_rendered_then_replaced_with_texts_settings_and_values() {
        let settings = PageSettings::default();
        let source = "<p lang=\"{{language}}\">{{text.retry}}{{! not\nseen }} {{site_name}} {{status}} {{id}} {{time}} \
                      {{time_rfc3339}}";
        assert_eq!(
            rendered(source, &settings, &values("a-1", "fastly")),
            "<p lang=\"en\">Try again This site 503 a-1 2026-11-22 11:09:01 UTC 2026-11-22T11:09:01Z"
        );
    }

    #[test]
    fn values_when_rendered_then_escaped_as_html_or_for_a_query() {
        let settings = PageSettings { site_name: "A & B".to_owned(), ..PageSettings::default() };
        let source = "<p>{{id}}? {{provider}}</p>{{site_name}}<img alt=\"{{id}}\" \
                      src=\"/x?a={{provider}}&amp;b={{id}}\" title=\"{{id}}\">{{id}}";
        assert_eq!(
            rendered(source, &settings, &values("<é>", "\"&' ")),
            "<p>&lt;é&gt;? &quot;&amp;&#39; </p>A &amp; B<img alt=\"&lt;é&gt;\" \
             src=\"/x?a=%22%26%27%20&amp;b=%3C%C3%A9%3E\" title=\"&lt;é&gt;\">&lt;é&gt;"
        );
    }

    #[test]
    fn value_when_too_long_then_cut_between_characters() {
        let settings = PageSettings::default();
        let id = format!("a{}", "é".repeat(100_000));
        assert_eq!(rendered("{{id}}", &settings, &values(&id, "")).len(), MAX_VALUE_BYTES - 1);
        let id = "\"".repeat(100_000);
        assert_eq!(rendered("{{id}}", &settings, &values(&id, "")).len(), MAX_VALUE_BYTES * 6);
    }

    #[test]
    fn section_when_setting_is_empty_then_is_left_out() {
        let source = "a{{#status_url}}<a href=\"{{status_url}}\">{{id}}</a>{{/status_url}}b";
        let mut settings = PageSettings::default();
        assert_eq!(rendered(source, &settings, &values("7", "")), "ab");
        settings.status_url = "https://status.example/?a=1&b=2".to_owned();
        assert_eq!(
            rendered(source, &settings, &values("7", "")),
            "a<a href=\"https://status.example/?a=1&amp;b=2\">7</a>b"
        );
    }

    #[test]
    fn section_when_condition_depends_on_request_then_shown_if_condition_is_met() {
        let source = "a{{#wait}}W{{id}}{{/wait}}{{^wait}}F{{/wait}}{{#retry}}R{{retry_after}}{{/retry}}\
                      {{^retry}}N{{/retry}}{{#waiting}}{{waiting}}{{text.waiting}}{{/waiting}}\
                      {{^status_url}}S{{/status_url}}{{#pop}}{{pop}}{{/pop}}b";
        let settings = PageSettings::default();
        let fault = values("7", "");
        let wait = PageValues { is_wait: true, waiting: Some(1), retry_after: None, ..fault };
        for (values, expected) in [
            (&fault, "aFR30SLHRb"),
            (&PageValues { retry_after: None, ..fault }, "aFNSLHRb"),
            (&PageValues { waiting: Some(9), ..fault }, "aFR30SLHRb"),
            (&wait, "aW7N11 visitor is waiting at the moment.SLHRb"),
            (&PageValues { waiting: Some(2_000), ..wait }, "aW7N20002000 visitors are waiting at the moment.SLHRb"),
            (&PageValues { waiting: None, ..wait }, "aW7NSLHRb"),
            (&PageValues { pop: "", ..fault }, "aFR30Sb"),
        ] {
            assert_eq!(rendered(source, &settings, values), expected);
        }
    }

    #[test]
    fn script_texts_when_site_name_contains_script_end_tag_then_tag_is_escaped() {
        let settings = PageSettings { site_name: "</script><!--".to_owned(), ..PageSettings::default() };
        let source = "{{site_name}}|{{#wait}}{{text.stop}}{{/wait}}{{words copy minutes}}";
        assert_eq!(
            rendered(source, &settings, &values("", "")),
            "&lt;/script&gt;&lt;!--|[[\"direction\",\"site_name\",\"copy\",\"minutes\"],{\n\
             \"en\":[\"ltr\",\"\\u003c/script>\\u003c!--\",\"Copy\",\
             {\"one\":\"Trying again in {n} minute\",\"other\":\"Trying again in {n} minutes\"}]}]"
        );
    }
}
