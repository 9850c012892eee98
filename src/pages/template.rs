//! Page templates: the names that are allowed in double braces, and the parser.
//!
//! A template is parsed once for each configuration. `render.rs` then fills in the settings and the texts of each
//! locale. When edgeshim sends a page, `render.rs` fills in the values of the request. These names are allowed in
//! double braces:
//!
//! - `{{text.NAME}}`: a text of the locale. NAME is one of [`TEXT_KEYS`]. `{{text.waiting}}` is the text with the
//!   plural form for the number of waiting requests.
//! - A setting of the configuration or of the locale: `language`, `direction`, `site_name`, `status_url`,
//!   `support_url`, `beacon_base`, `beacon_path`.
//! - A value of the request: `status`, `id`, `provider`, `pop`, `cause`, `time`, `time_rfc3339`, `retry_after` (in
//!   seconds), `waiting`.
//! - `{{#NAME}} … {{/NAME}}`: a section that is shown only if a condition is true. Sections must not be nested. NAME
//!   selects the condition:
//!   - A setting: the section is shown if the setting is not empty.
//!   - A condition of the request: `retry` means that the page is allowed to reload itself. `wait` means that the page
//!     is the wait page. `waiting` means that the page is the wait page and that the number of waiting requests is
//!     known and not zero. `pop` means that the point of presence is known.
//!   - One of the values `status`, `id` and `time`: the section is always shown on pages that edgeshim serves. On an
//!     exported page, the section is shown if the CDN can fill in the value (`export`).
//! - `{{^NAME}} … {{/NAME}}`: a section with the opposite condition.
//! - `{{words NAME …}}`: texts of every locale as JSON, for a script. The JSON has the texts that the page shows, and
//!   the texts that the placeholder names.
//! - `{{! … }}`: a comment.
//!
//! The position of a value decides how the value is escaped. After a `?` in an attribute in double quotes, the value is
//! percent-encoded (RFC 3986 §2.1). In all other positions, the value is escaped as HTML text. HTML escaping is not
//! safe inside `<script>`, `<style>` or an attribute without double quotes, so the parser rejects values in these
//! positions. `words` is allowed in a script.

use super::escape::Escape;
use super::locale_file::{FORM_KEYS, TEXT_KEYS};
use super::mistakes::{Mistake, shown};
use super::slots::Slot;

/// Returns the value that `name` has in a list.
fn of_name<T: Copy>(all: &[(&str, T)], name: &str) -> Option<T> {
    all.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

fn names<T>(all: &[(&'static str, T)]) -> impl Iterator<Item = &'static str> {
    all.iter().map(|(name, _)| *name)
}

/// A placeholder for a setting of the configuration or of the locale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
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
}

/// A condition that depends on the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestCondition {
    /// The page is allowed to reload itself.
    Retry,
    /// The page is the wait page.
    Wait,
    /// The page is the wait page, and the number of waiting requests is known and not zero.
    Waiting,
    /// The provider's point of presence is known.
    Pop,
}

impl RequestCondition {
    pub(super) const ALL: [(&str, Self); 4] =
        [("retry", Self::Retry), ("wait", Self::Wait), ("waiting", Self::Waiting), ("pop", Self::Pop)];
}

/// The condition of a section.
#[derive(Debug, Clone, Copy)]
pub(super) enum Condition {
    /// The setting is not empty.
    Setting(Setting),
    Request(RequestCondition),
    /// The value is known. On pages that edgeshim serves, each value is known. On exported pages, a value is known if
    /// the CDN can fill in the value.
    Known(Slot),
}

impl Condition {
    const KNOWN: [(&str, Slot); 3] = [("status", Slot::Status), ("id", Slot::Id), ("time", Slot::Time)];

    fn named(name: &str) -> Option<Self> {
        let known = || of_name(&Self::KNOWN, name).map(Self::Known);
        let request = || of_name(&RequestCondition::ALL, name).map(Self::Request);
        of_name(&Setting::ALL, name).map(Self::Setting).or_else(request).or_else(known)
    }
}

/// A text of a locale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    SiteName,
    /// One of [`TEXT_KEYS`].
    Key(&'static str),
    /// One of [`FORM_KEYS`].
    Forms(&'static str),
}

impl Text {
    fn named(name: &str) -> Option<Self> {
        let among = |all: &[&'static str]| all.iter().copied().find(|known| *known == name);
        among(&TEXT_KEYS).map(Self::Key).or_else(|| among(&FORM_KEYS).map(Self::Forms))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SiteName => "site_name",
            Self::Key(name) | Self::Forms(name) => name,
        }
    }
}

/// A piece of a template: text, or a placeholder.
#[derive(Debug)]
pub(super) enum Piece<'t> {
    Fixed(&'t str),
    Text(Text, Escape),
    Setting(Setting, Escape),
    Slot(Slot, Escape),
    /// JSON for a script: the texts in this list, and the texts that the page shows.
    ScriptTexts(Vec<Text>),
    /// The start of a section. The section is shown if the condition has this result.
    Open(Condition, bool),
    Close,
}

impl Piece<'_> {
    /// Returns the piece for a name in double braces, or `None` if the name is unknown. Does not handle sections and
    /// comments.
    fn named(name: &str, escape: Escape) -> Option<Self> {
        if let Some(key) = name.strip_prefix("text.") {
            let shown = Text::named(key).filter(|text| matches!(text, Text::Key(_) | Text::Forms("waiting")));
            return shown.map(|text| Self::Text(text, escape));
        }
        let mut parts = name.split_ascii_whitespace();
        if parts.next() == Some("words") {
            return parts.map(Text::named).collect::<Option<_>>().map(Self::ScriptTexts);
        }
        let setting = of_name(&Setting::ALL, name).map(|setting| Self::Setting(setting, escape));
        setting.or_else(|| of_name(&Slot::ALL, name).map(|slot| Self::Slot(slot, escape)))
    }
}

fn unknown(name: &str) -> String {
    let known: Vec<_> = if name.starts_with(['#', '^']) {
        names(&Setting::ALL).chain(names(&RequestCondition::ALL)).chain(names(&Condition::KNOWN)).collect()
    } else {
        ["text.KEY", "words KEY …"].into_iter().chain(names(&Setting::ALL)).chain(names(&Slot::ALL)).collect()
    };
    format!("unknown placeholder `{{{{{}}}}}`; write one of {}", shown(name), known.join(", "))
}

/// Returns the name of the `script` or `style` element that is open after `text`. The content of these elements is not
/// HTML. `before` is the element that was open before `text`.
fn raw_element(before: Option<&'static str>, text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    ["script", "style"]
        .into_iter()
        .flat_map(|name| [(text.rfind(&format!("<{name}")), Some(name)), (text.rfind(&format!("</{name}")), None)])
        .filter_map(|(at, element)| at.map(|at| (at, element)))
        .max()
        .map_or(before, |(_, element)| element)
}

/// The largest number of pieces in a template. Each piece takes time when edgeshim builds the pages of each language,
/// and when edgeshim sends a page.
const MAX_PIECES: usize = 2_000;

/// A parsed template.
#[derive(Debug)]
pub(super) struct Template<'t> {
    pub(super) pieces: Vec<Piece<'t>>,
}

impl<'t> Template<'t> {
    /// Parses `source`. If there are mistakes, returns all mistakes, in the order of lines. Parsing stops at a `{{`
    /// without a `}}` after it, and after too many pieces.
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
            let mut report = |message: String| mistakes.push(Mistake { line, message });
            if pieces.len() > MAX_PIECES {
                report(format!("the template has more than {} placeholders; remove some", MAX_PIECES / 2));
                break;
            }
            let before = source.get(..source.len() - after.len() - "{{".len()).unwrap_or_default();
            let Some((name, after)) = after.split_once("}}") else {
                report("`{{` without a `}}` after it; add `}}`, or write `&#123;&#123;` to show two braces".to_owned());
                break;
            };
            rest = after;
            if let Some(section) = name.strip_prefix(['#', '^']) {
                if !open.is_empty() {
                    report(format!(
                        "`{{{{{}}}}}`: a section starts inside another section; close the outer section first",
                        shown(name)
                    ));
                }
                open.push((section, line));
                match Condition::named(section) {
                    Some(condition) => pieces.push(Piece::Open(condition, name.starts_with('#'))),
                    None => report(unknown(name)),
                }
            } else if let Some(section) = name.strip_prefix('/') {
                match open.pop() {
                    Some((opened, _)) if opened == section => pieces.push(Piece::Close),
                    Some((opened, at)) => report(format!(
                        "`{{{{{}}}}}`: no such section is open; write `{{{{/{}}}}}` to close the section of line {at}",
                        shown(name),
                        shown(opened)
                    )),
                    None => {
                        report(format!("`{{{{{}}}}}`: no such section is open; remove this placeholder", shown(name)));
                    }
                }
            } else if !name.starts_with('!') {
                match Piece::named(name, Escape::after(before)) {
                    None => report(unknown(name)),
                    Some(Piece::ScriptTexts(_)) if !open.is_empty() => {
                        report(
                            "`words` is inside a section, but the script always needs these texts; \
                             move `words` out of the section"
                                .to_owned(),
                        );
                    }
                    Some(piece @ Piece::ScriptTexts(_)) => pieces.push(piece),
                    Some(_) if let Some(element) = element => report(format!(
                        "`{{{{{name}}}}}` inside <{element}>, where values cannot be escaped; \
                         put the value into a data attribute of an element"
                    )),
                    Some(_) if Escape::is_bare(before) => {
                        report(format!(
                            "`{{{{{name}}}}}` inside a tag, without double quotes around the value; \
                             write NAME=\"{{{{{name}}}}}\""
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
            message: format!("`{0}`: the section is not closed; write `{{{{/{0}}}}}` at its end", shown(name)),
        }));
        mistakes.sort_by_key(|mistake| mistake.line);
        if mistakes.is_empty() { Ok(Self { pieces }) } else { Err(mistakes) }
    }

    /// Returns all pieces except those in sections that are not shown. `holds` returns the result of a condition, or
    /// `None` if the result is not known yet. A section is included if the result of its condition is not known yet.
    pub(super) fn shown(&self, holds: impl Fn(Condition) -> Option<bool>) -> impl Iterator<Item = &Piece<'t>> {
        let mut skip = false;
        self.pieces.iter().filter(move |piece| {
            match piece {
                Piece::Open(condition, wanted) => skip = holds(*condition).is_some_and(|holds| holds != *wanted),
                Piece::Close => skip = false,
                _ => {}
            }
            !skip
        })
    }

    /// Returns an example of each required placeholder that is missing in the template.
    pub(super) fn missing(&self) -> impl Iterator<Item = &'static str> {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_when_invalid_then_mistake_names_problem_and_line() {
        for (source, line, expected) in [
            ("a\nb {{nonsense}}", 2, "unknown placeholder `{{nonsense}}`"),
            ("{{text.nonsense}}", 1, "unknown placeholder `{{text.nonsense}}`"),
            ("{{text.seconds}}", 1, "unknown placeholder `{{text.seconds}}`"),
            ("\n{{words copied nonsense}}", 2, "unknown placeholder `{{words copied nonsense}}`"),
            ("{{#wait}}\n{{words}}{{/wait}}", 2, "`words` is inside a section"),
            ("{{^wait}}\n{{#wait}}{{/wait}}{{/wait}}", 2, "a section starts inside another section"),
            ("\n\n{{#cause}}{{/cause}}", 3, "unknown placeholder `{{#cause}}`"),
            ("{{ id }}", 1, "unknown placeholder `{{ id }}`"),
            ("{{}}", 1, "unknown placeholder `{{}}`"),
            ("{{\u{1b}[2J}}", 1, "unknown placeholder `{{\\u{1b}[2J}}`"),
            ("\n{{id", 2, "`{{` without a `}}`"),
            ("{{#site_name}}\n{{#status_url}}{{/status_url}}{{/site_name}}", 2, "starts inside another section"),
            ("{{#site_name}}\n{{/status_url}}", 2, "write `{{/site_name}}` to close the section of line 1"),
            ("{{/site_name}}", 1, "no such section is open"),
            ("\n{{#site_name}}\n\n", 2, "the section is not closed"),
            ("{{! a\nb }}{{nonsense}}", 2, "unknown placeholder"),
            ("<script>\n'{{id}}'</script>", 2, "inside <script>"),
            ("<STYLE>a{{#wait}}b{{status}}", 1, "inside <style>"),
            ("<p title={{id}}>", 1, "inside a tag, without double quotes"),
            ("<p title='{{id}}'>", 1, "inside a tag, without double quotes"),
        ] {
            let mistakes = Template::parse(source).unwrap_err();
            assert_eq!(mistakes[0].line, line, "{source:?}: {mistakes:?}");
            assert!(mistakes[0].message.contains(expected), "{source:?}: {mistakes:?}");
            assert!(mistakes.len() == 1 || source.starts_with("<STYLE"), "{source:?}: {mistakes:?}");
        }
        let many = "{{id}}".repeat(1_001);
        assert!(Template::parse(&many).unwrap_err()[0].message.contains("more than 1000 placeholders"));
        assert!(Template::parse("<script>{{! <b }}{{^time}}1{{/time}}</script><p title=\"{{id}}\">{{id}}</p>").is_ok());
    }
}
