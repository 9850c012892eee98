//! A page that a CDN hosts. In place of the values of a request, the page has expressions of the CDN.

use crate::pages::locale_file::LocaleTexts;
use crate::pages::page_settings::PageSettings;
use crate::pages::script_texts::texts_json;
use crate::pages::slots::Slot;
use crate::pages::template::{Condition, Piece, RequestCondition, Template, Text};

/// Returns the page for a CDN, in the language of `texts`. The script in the page gets the texts of `locales`.
pub(super) fn page(
    template: &Template<'_>,
    texts: &LocaleTexts,
    locales: &[LocaleTexts],
    settings: &PageSettings,
    hosting: &Hosting<'_>,
) -> String {
    let script = texts_json(template, hosting.is_wait, texts, locales, settings);
    let pieces = template.shown(|condition| {
        Some(match condition {
            Condition::Setting(setting) => !settings.text(setting, texts).is_empty(),
            Condition::Request(RequestCondition::Retry) => true,
            Condition::Request(RequestCondition::Wait) => hosting.is_wait,
            Condition::Request(RequestCondition::Waiting) => false,
            Condition::Request(RequestCondition::Pop) => !hosting.pop.is_empty(),
            Condition::Known(slot) => !hosting.value(slot).is_empty(),
        })
    });
    let mut out = String::new();
    let mut fixed = Vec::new();
    for piece in pieces {
        match piece {
            // Plural forms are left out, because the CDN cannot fill in the number of waiting requests.
            Piece::Open(..) | Piece::Close | Piece::Text(Text::Forms(_), _) => {}
            Piece::Fixed(text) => fixed.extend_from_slice(text.as_bytes()),
            Piece::Text(text, escape) => escape.push(&mut fixed, texts.text(text.name()).as_bytes()),
            Piece::Setting(setting, escape) => escape.push(&mut fixed, settings.text(*setting, texts).as_bytes()),
            Piece::ScriptTexts(_) => fixed.extend_from_slice(&script),
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

/// The values of a page that a CDN hosts. `provider`, `cause` and `retry_after` are fixed texts. The other texts are
/// expressions of the CDN, which are written without escaping. If the CDN cannot fill in a value, the expression is
/// empty, and the template's section for the value is left out.
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
    /// Converts a piece of fixed text to the syntax of the CDN. Fixed text is before, between and after the values.
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
            Slot::Waiting | Slot::WaitingGrouped => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosted_page_when_cdn_lacks_a_value_then_omits_the_section_for_the_value() {
        let source = "{{#id}}I{{id}}{{/id}}{{^id}}i{{/id}}{{#time}}T{{/time}}{{^time}}t{{/time}}\
                      {{#status}}S{{status}}{{/status}}\
                      {{#pop}}P{{/pop}}{{#retry}}R{{retry_after}}{{/retry}}\
                      {{#waiting}}{{text.waiting}}{{/waiting}}{{#wait}}W{{/wait}}|{{text.retry}}";
        let texts = LocaleTexts::parse("en", include_str!("../../../config/locales/en.toml")).unwrap();
        let template = Template::parse(source).unwrap();
        let settings = PageSettings::default();
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
        let hosted = |hosting| page(&template, &texts, std::slice::from_ref(&texts), &settings, hosting);
        assert_eq!(hosted(&hosting), "[I]<esi/>[tR30|Try again]");
        let other = Hosting { id: "", status: "503", pop: "LHR", time: "now", is_wait: true, ..hosting };
        assert_eq!(hosted(&other), "[iTS]503[PR30W|Try again]");
    }
}
