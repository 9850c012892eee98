//! The settings of the pages: some keys of `[whoopsie]`, and the beacon's path.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::files::PageFiles;
use super::locale_file::LocaleTexts;
use super::template::Setting;
use crate::keys::grammar::LOCALE;
use crate::keys::urls::{HOST, LINK, LINK_BASE};
use crate::keys::{Checked, Keys, PATH, Text, Visitor};

/// The default of `site_name`. With this value, each page shows the text `this_site` of its language.
pub(super) const NO_SITE_NAME: &str = "This site";

/// The keys of `[whoopsie]` that the pages need. `edge::whoopsie` has the other keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageSettings {
    /// The folder with the operator's template and locale files. If empty, only the built-in files are used.
    pub folder: PathBuf,
    /// The content of `folder`. This field is not a configuration key.
    pub files: Arc<PageFiles>,
    /// The locale that is used if neither Accept-Language nor the host selects a locale. The value must be the tag of a
    /// known locale, in any letter case.
    pub default_locale: String,
    /// The locale for each host name. This locale is used if Accept-Language selects no locale and does
    /// not exclude this locale with `q=0`.
    pub hosts: BTreeMap<String, String>,
    /// The name of the site. The page shows the name at its top and in its title. If the name is empty or `This site`,
    /// the page shows the words "This site" in the language of the page.
    pub site_name: String,
    /// The link to a page about the status of the service. If empty, there is no link. The check of the configuration
    /// rejects unsafe schemes. The pages do not check the link again.
    pub status_url: String,
    /// The link to support. If empty, there is no link. The check is the same as for `status_url`.
    pub support_url: String,
    /// The part of the beacon's URL before its path, such as `//beacon.example.com`. If empty, the beacon is on the
    /// page's own host.
    pub beacon_base: String,
    /// The value of the key `beacon.path`. It starts with a slash.
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
    /// Returns the text for the placeholder of a setting.
    pub(super) fn text<'a>(&'a self, setting: Setting, texts: &'a LocaleTexts) -> &'a str {
        match setting {
            Setting::Language => &texts.language,
            Setting::Direction => &texts.direction,
            Setting::SiteName if self.site_name.is_empty() || self.site_name == NO_SITE_NAME => texts.text("this_site"),
            Setting::SiteName => &self.site_name,
            Setting::StatusUrl => &self.status_url,
            Setting::SupportUrl => &self.support_url,
            // Final slashes are removed, because the beacon's path follows and starts with a slash.
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

/// The longest site name, in bytes. The limit is low because the name is shown as one short line at the top of the
/// page.
const MAX_SITE_NAME_BYTES: usize = 200;

const SITE_NAME: Text<String> = Text { example: NO_SITE_NAME, read: |text, _| site_name(text), write: String::clone };

fn site_name(text: &str) -> Checked<String> {
    if text.trim().is_empty() || text.len() > MAX_SITE_NAME_BYTES || text.contains(char::is_control) {
        return Err(format!(
            "is not a valid site name; write 1 to {MAX_SITE_NAME_BYTES} bytes of visible text, for example \
             \"This site\""
        ));
    }
    Ok(text.to_owned())
}
