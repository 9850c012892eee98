//! The settings of the pages: keys of `[whoopsie]`, and the beacon's path.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::files::PageFiles;
use super::locale_file::LocaleTexts;
use super::template::Setting;
use crate::keys::grammar::LOCALE;
use crate::keys::urls::{HOST, LINK, LINK_BASE};
use crate::keys::{Checked, Keys, PATH, Text, Visitor};

/// This `site_name` means that there is none. Pages then show `this_site` in their own language.
pub(super) const NO_SITE_NAME: &str = "This site";

/// Keys of `[whoopsie]` for the pages; `edge::whoopsie` has the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageSettings {
    /// A folder with the operator's template and locale files; empty = the built-in ones.
    pub folder: PathBuf,
    /// The content of that folder; no key.
    pub files: Arc<PageFiles>,
    /// The locale if neither Accept-Language nor the host gives one. A known tag; letter case does not count.
    pub default_locale: String,
    /// The locale for a host name, if Accept-Language gives none.
    pub hosts: BTreeMap<String, String>,
    /// The text above the page. Empty or `This site` = that text in the page's language.
    pub site_name: String,
    /// The link to the service's status; empty = no link. The scheme is not checked.
    pub status_url: String,
    /// The link to support; empty = no link. The scheme is not checked.
    pub support_url: String,
    /// The part before the beacon's path, such as `//beacon.example.com`; empty = the page's own host.
    pub beacon_base: String,
    /// The key `beacon.path`; starts with a slash.
    pub beacon_path: String,
}

impl Default for PageSettings {
    fn default() -> Self {
        Self {
            folder: PathBuf::new(),
            files: Arc::default(),
            default_locale: "en".to_owned(),
            hosts: BTreeMap::new(),
            site_name: NO_SITE_NAME.to_owned(),
            status_url: String::new(),
            support_url: String::new(),
            beacon_base: String::new(),
            beacon_path: "/status/images/beacon.gif".to_owned(),
        }
    }
}

impl PageSettings {
    /// The text for a placeholder.
    pub(super) fn text<'a>(&'a self, setting: Setting, texts: &'a LocaleTexts) -> &'a str {
        match setting {
            Setting::Language => &texts.language,
            Setting::Direction => &texts.direction,
            Setting::SiteName if self.site_name.is_empty() || self.site_name == NO_SITE_NAME => texts.text("this_site"),
            Setting::SiteName => &self.site_name,
            Setting::StatusUrl => &self.status_url,
            Setting::SupportUrl => &self.support_url,
            // The path starts with a slash.
            Setting::BeaconBase => self.beacon_base.trim_end_matches('/'),
            Setting::BeaconPath => &self.beacon_path,
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

/// The longest site name, in bytes: it is a heading.
const MAX_SITE_NAME_BYTES: usize = 200;

const SITE_NAME: Text<String> = Text { example: NO_SITE_NAME, read: |text, _| site_name(text), write: String::clone };

fn site_name(text: &str) -> Checked<String> {
    if text.trim().is_empty() || text.len() > MAX_SITE_NAME_BYTES || text.contains(char::is_control) {
        return Err(format!(
            "is not a name for a heading; write 1 to {MAX_SITE_NAME_BYTES} bytes of visible text, for example \
             \"This site\""
        ));
    }
    Ok(text.to_owned())
}
