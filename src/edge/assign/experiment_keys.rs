//! The keys of `[[experiment]]`.

use std::collections::BTreeMap;
use std::path::Path;

use http::HeaderName;

use super::arm_layout::{SHARE, Share};
use crate::keys::grammar::{has_meaning, header_name, label};
use crate::keys::secrets::SECRET;
use crate::keys::{Checked, Keys, Text, Visitor};
use crate::wire::directives::is_token;
use crate::wire::host::valid_host;
use crate::wire::names::is_assignment;
use crate::wire::secret::Secret;

/// The arm label of requests without an arm. No arm of an experiment can have this name.
pub(crate) const NO_ARM: &str = "none";
/// The largest size of an id in `users` or of a group in `groups.arms`, in bytes.
const MAX_ID_BYTES: usize = 256;

/// The settings of one `[[experiment]]` block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExperimentSettings {
    /// The name of the experiment in lower case. It is a metric label and a part of the name of the field
    /// X-Assign-NAME.
    pub name: String,
    /// Whether requests get arms.
    pub enabled: bool,
    /// The share of each arm.
    pub arms: BTreeMap<String, Share>,
    /// Where requests have the visitor's id.
    pub id: IdSource,
    /// The arms of single visitors, by the visitor's id.
    pub users: BTreeMap<String, String>,
    pub groups: Groups,
    /// The query parameter that selects an arm, as `ARM.SECRET`.
    pub override_parameter: Option<String>,
    pub override_secret: Option<Secret>,
    /// The hosts that the origin gets together with arms, by the name of the arm.
    pub hosts: BTreeMap<String, String>,
    /// The classes whose responses depend on the arm.
    pub classes: Vec<String>,
}

impl Default for ExperimentSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            enabled: true,
            arms: BTreeMap::new(),
            id: IdSource::default(),
            users: BTreeMap::new(),
            groups: Groups::default(),
            override_parameter: None,
            override_secret: None,
            hosts: BTreeMap::new(),
            classes: Vec::new(),
        }
    }
}

impl Keys for ExperimentSettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.text("name", &EXPERIMENT_NAME, &mut self.name);
        v.flag("enabled", &mut self.enabled);
        v.numbers("arms", "fastly = 10.0", &ARM, &SHARE, &mut self.arms);
        v.block("id", |v| self.id.keys(v));
        v.map("users", "\"4711\" = \"fastly\"", (&ID, &ARM), &mut self.users);
        v.block("groups", |v| self.groups.keys(v));
        v.nonempty("override", &PARAMETER, &mut self.override_parameter);
        v.nonempty("override_secret", &SECRET, &mut self.override_secret);
        v.map("hosts", "fastly = \"img-f.example.com\"", (&ARM, &ASSET_HOST), &mut self.hosts);
        v.list("classes", &CLASS, &mut self.classes);
    }
}

/// The keys of `experiment.id`. A valid configuration sets exactly one of the two keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdSource {
    /// The name of the cookie with the visitor's id.
    pub cookie: Option<String>,
    /// The name of the header field with the visitor's id.
    pub header: Option<HeaderName>,
}

impl Keys for IdSource {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.nonempty("cookie", &COOKIE_NAME, &mut self.cookie);
        v.nonempty("header", &ID_HEADER, &mut self.header);
    }
}

/// The keys of `experiment.groups`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Groups {
    /// The header field with the visitor's group. Only requests from trusted proxies are searched for this field.
    pub header: Option<HeaderName>,
    /// The arms of groups.
    pub arms: BTreeMap<String, String>,
}

impl Keys for Groups {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.nonempty("header", &ID_HEADER, &mut self.header);
        v.map("arms", "staff = \"fastly\"", (&ID, &ARM), &mut self.arms);
    }
}

const EXPERIMENT_NAME: Text<String> =
    Text { example: "cdn", read: |text, _| label(text, &[], "\"cdn\""), write: String::clone };

const ARM: Text<String> =
    Text { example: "fastly", read: |text, _| label(text, &[NO_ARM], "\"fastly\""), write: String::clone };

const CLASS: Text<String> =
    Text { example: "html", read: |text, _| label(text, &[], "\"html\""), write: String::clone };

const ID: Text<String> = Text { example: "4711", read: id, write: String::clone };

const COOKIE_NAME: Text<String> = Text { example: "uaid", read: cookie_name, write: String::clone };

const ID_HEADER: Text<HeaderName> =
    Text { example: "X-Visitor-Id", read: id_header, write: |name| name.as_str().to_owned() };

const PARAMETER: Text<String> = Text { example: "cdn_diversity", read: parameter, write: String::clone };

const ASSET_HOST: Text<String> = Text { example: "img-f.example.com", read: asset_host, write: String::clone };

fn id(text: &str, _: &Path) -> Checked<String> {
    if (1..=MAX_ID_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(format!("is not a value of a cookie or header field; write 1 to {MAX_ID_BYTES} visible ASCII characters"))
}

fn cookie_name(text: &str, _: &Path) -> Checked<String> {
    if is_token(text.as_bytes()) {
        return Ok(text.to_owned());
    }
    Err("is not the name of a cookie; write for example \"uaid\"".to_owned())
}

fn id_header(text: &str, _: &Path) -> Checked<HeaderName> {
    let name = header_name(text)?;
    if has_meaning(&name) || is_assignment(text.as_bytes()) {
        return Err("is a field that has another purpose; write a field of your own, for example \"X-Visitor-Id\"; \
                    for a cookie, write id = { cookie = \"NAME\" }"
            .to_owned());
    }
    Ok(name)
}

fn parameter(text: &str, _: &Path) -> Checked<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.len() <= 64 && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err("is not the name of a query parameter; write up to 64 letters, digits, \"-\", \"_\" and \".\", \
         for example \"cdn_diversity\""
        .to_owned())
}

fn asset_host(text: &str, _: &Path) -> Checked<String> {
    if text.is_ascii() && valid_host(text.as_bytes()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("is not a host; write a host name without a scheme and a path, for example \"img-f.example.com\"".to_owned())
}
