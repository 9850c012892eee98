//! The texts that the placeholder `{{words}}` passes to the script in the page.

use super::locale_file::LocaleTexts;
use super::page_settings::PageSettings;
use super::plural;
use super::template::{Condition, Piece, RequestCondition, Setting, Template, Text};
use crate::wire::json;

/// Returns the JSON for the script: `[[NAME, …], {LANGUAGE: [TEXT, …], …}]`. The first name is `direction`. Each locale
/// has its direction, then its texts in the order of the names. A text with plural forms is an object: `{CATEGORY:
/// FORM, …}`. To keep the JSON short, the locales do not repeat the names.
///
/// The JSON has the texts that the page shows, and the texts that the template names in `{{words}}`. `is_wait` selects
/// the wait page. `shown` is the locale in which the template's conditions on settings are checked. It can be any
/// locale, because a setting is empty either in all locales or in no locale.
pub(super) fn texts_json(
    template: &Template<'_>,
    is_wait: bool,
    shown: &LocaleTexts,
    locales: &[LocaleTexts],
    settings: &PageSettings,
) -> Vec<u8> {
    let texts = texts_on(template, is_wait, shown, settings);
    let mut out = b"[[".to_vec();
    quote("direction", &mut out);
    for text in &texts {
        out.push(b',');
        quote(text.name(), &mut out);
    }
    out.extend_from_slice(b"],{");
    for (place, locale) in locales.iter().enumerate() {
        out.extend_from_slice(if place > 0 { b",\n" } else { b"\n" });
        quote(&locale.language, &mut out);
        out.extend_from_slice(b":[");
        quote(&locale.direction, &mut out);
        for text in &texts {
            out.push(b',');
            match text {
                Text::SiteName => quote(settings.text(Setting::SiteName, locale), &mut out),
                Text::Key(key) => quote(locale.text(key), &mut out),
                Text::Forms(key) => {
                    for (place, (category, form)) in locale.forms(key).iter().enumerate() {
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

fn quote(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    // `<` is escaped, because `</script>` would end the script.
    json::push_escaped(out, text.as_bytes(), |character| character == '<');
    out.push(b'"');
}

/// Returns the texts that the page shows, and the texts that the template names in `{{words}}`. Each text occurs once.
/// `is_wait` selects the wait page.
fn texts_on(template: &Template<'_>, is_wait: bool, shown: &LocaleTexts, settings: &PageSettings) -> Vec<Text> {
    let pieces = template.shown(|condition| match condition {
        Condition::Setting(setting) => Some(!settings.text(setting, shown).is_empty()),
        Condition::Request(RequestCondition::Wait) => Some(is_wait),
        Condition::Request(RequestCondition::Waiting) if !is_wait => Some(false),
        Condition::Request(_) | Condition::Known(_) => None,
    });
    let mut found = Vec::new();
    for piece in pieces {
        let here: &[Text] = match piece {
            Piece::Text(text, _) => &[*text],
            Piece::Setting(Setting::SiteName, _) => &[Text::SiteName],
            Piece::ScriptTexts(named) => named,
            _ => &[],
        };
        for text in here {
            if !found.contains(text) {
                found.push(*text);
            }
        }
    }
    found
}
