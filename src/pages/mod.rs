//! The pages that people see when the origin fails. When edgeshim loads a configuration, it renders each page, but
//! leaves out the values that depend on the request.
//!
//! There are two pages: the error page, and the wait page. The wait page replaces the error page if edgeshim sheds the
//! request because of overload.
//!
//! Place: below the layers. `edge::whoopsie` decides which responses get a page, and sets the header fields of these
//! responses. This room handles languages, texts and bytes, but no requests. [`Pages`] is built once for each
//! configuration. After that, nothing changes it.
//!
//! - `locale.rs` chooses the language. `plural.rs` chooses the plural form for a number.
//! - `files.rs` has the template and the locale files. Each file is built in or comes from the operator's folder.
//!   `template.rs` parses the template, and `locale_file.rs` parses the locale files.
//! - `render.rs` builds the pages from the template and the texts. The error page and the wait page come from one
//!   template, in which some sections are for only one of the two pages. `gzip_member.rs` assembles the gzip form of a
//!   page from parts that are already compressed, so no request causes a compression.
//! - `export` makes the pages that CDNs host.
//!
//! Cost: the choice of a locale reads Accept-Language once and allocates nothing. Rendering a page takes one allocation
//! and about thirty copies.

mod escape;
mod export;
mod files;
mod gzip_member;
mod locale;
mod locale_file;
mod mistakes;
mod page_settings;
mod page_values;
mod plural;
mod render;
mod script_texts;
mod slots;
mod template;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::HeaderValue;

pub(crate) use self::export::{Exported, export};
pub(crate) use self::files::{PageFiles, PageFilesError};
use self::locale::{HostTwice, Locales};
use self::locale_file::LocaleTexts;
use self::mistakes::Mistake;
pub(crate) use self::mistakes::{FileProblem, PagesError};
pub(crate) use self::page_settings::PageSettings;
pub(crate) use self::page_values::{LONGEST_COUNTDOWN_SECONDS, PageValues, problem_json};
use self::render::{FixedTexts, Page, ScriptTexts};
use self::template::Template;
use crate::ids::LocaleId;

/// The pages in every language, and the choice among them.
#[derive(Debug)]
pub(crate) struct Pages {
    locales: Locales,
    /// The pages, in the order of the locales' ids.
    pages: Vec<LocalePage>,
}

#[derive(Debug)]
struct LocalePage {
    page: Page,
    content_language: HeaderValue,
}

impl Pages {
    /// Renders the pages, except for the values of a request.
    ///
    /// # Errors
    /// A setting names an unknown locale, a host occurs twice in `hosts`, or the compressor fails. Files that
    /// [`PageFiles::read`] has accepted cause no other error.
    pub(crate) fn build(settings: &PageSettings) -> Result<Self, PagesError> {
        Self::build_from(settings, settings.files.template(), settings.files.all())
    }

    fn build_from<'f>(
        settings: &PageSettings,
        template: &'f str,
        files: impl Iterator<Item = (&'f str, &'f str)>,
    ) -> Result<Self, PagesError> {
        let (template, locales) = parsed(template, files)?;
        let mut fixed = FixedTexts::new();
        let script = ScriptTexts::new(&template, &locales, settings, &mut fixed).map_err(PagesError::Deflate)?;
        let mut tags: Vec<String> = Vec::with_capacity(locales.len());
        let mut pages = Vec::with_capacity(locales.len());
        for texts in locales {
            let page = Page::new(&template, &texts, settings, &script, &mut fixed).map_err(PagesError::Deflate)?;
            let content_language = HeaderValue::try_from(&texts.language)
                .map_err(|error| broken(&texts.language, vec![Mistake { line: 1, message: error.to_string() }]))?;
            pages.push(LocalePage { page, content_language });
            tags.push(texts.language);
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
        let locales = Locales::new(tags, &hosts, default).map_err(|twice| {
            PagesError::Several(twice.into_iter().map(|HostTwice(host)| PagesError::HostTwice { host }).collect())
        })?;
        Ok(Self { locales, pages })
    }

    /// Returns the tags of the locales, in the order of the locales' ids.
    pub(crate) fn locales(&self) -> impl Iterator<Item = &str> {
        self.locales.tags()
    }

    /// Chooses the locale for a request: the best match of Accept-Language (RFC 4647 §3.4), else the locale that
    /// the setting `hosts` has for the Host value, else the default. If Accept-Language excludes the locale of the Host
    /// value with `q=0`, the default is chosen. The letter case and the port of the Host value are ignored.
    pub(crate) fn locale<'a>(&self, accept_language: impl Iterator<Item = &'a [u8]>, host: Option<&str>) -> LocaleId {
        self.locales.choose(accept_language, host)
    }

    /// Returns the Content-Language value (RFC 9110 §8.5) of a page. For an unknown id, the value is empty.
    pub(crate) fn content_language(&self, locale: LocaleId) -> HeaderValue {
        self.page(locale).map_or(HeaderValue::from_static(""), |page| page.content_language.clone())
    }

    /// Returns the page, as one gzip member (RFC 1952) or as plain text. For an unknown id, the result is empty.
    pub(crate) fn render(&self, locale: LocaleId, values: &PageValues<'_>, gzip: bool) -> Bytes {
        self.page(locale).map_or_else(Bytes::new, |page| page.page.render(values, gzip))
    }

    fn page(&self, locale: LocaleId) -> Option<&LocalePage> {
        self.pages.get(usize::from(locale.0))
    }
}

/// Parses the template and the texts of every locale.
fn parsed<'f>(
    template: &'f str,
    files: impl Iterator<Item = (&'f str, &'f str)>,
) -> Result<(Template<'f>, Vec<LocaleTexts>), PagesError> {
    let template = Template::parse(template).map_err(|mistakes| broken("whoopsie.html", mistakes))?;
    let texts = files.map(|(tag, file)| LocaleTexts::parse(tag, file).map_err(|mistakes| broken(tag, mistakes)));
    let texts = texts.take(usize::from(u8::MAX) + 2).collect::<Result<Vec<_>, _>>()?;
    if texts.len() > usize::from(u8::MAX) + 1 { Err(PagesError::TooManyLocales) } else { Ok((template, texts)) }
}

fn broken(file: &str, mistakes: Vec<Mistake>) -> PagesError {
    let problem = |Mistake { line, message }| FileProblem { file: file.to_owned(), line: Some(line), message };
    PagesError::Files(mistakes.into_iter().map(problem).collect())
}
