//! The settings of the endpoints for browsers: `[beacon]` and `[rum]`.

use std::path::PathBuf;

use crate::intake::country::Countries;
use crate::keys::grammar::label;
use crate::keys::urls::local_path;
use crate::keys::{Keys, Text, Visitor};

/// The keys of `[beacon]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeaconSettings {
    /// The path of the beacon.
    pub path: String,
    /// The values of the beacon's query parameter `source` that are counted by name, in addition to the names of the
    /// providers. Any other value counts as `other`.
    pub sources: Vec<String>,
    /// The path of the country file, which contains the country of each network. If it is `None`, beacons are not
    /// counted by country.
    pub country_database: Option<PathBuf>,
}

impl Default for BeaconSettings {
    fn default() -> Self {
        Self { path: "/status/images/beacon.gif".to_owned(), sources: Vec::new(), country_database: None }
    }
}

impl Keys for BeaconSettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.text("path", &BEACON_PATH, &mut self.path);
        v.list("sources", &SOURCE, &mut self.sources);
        v.nonempty("country_database", &COUNTRY_DATABASE, &mut self.country_database);
    }
}

/// The keys of `[rum]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RumSettings {
    /// The path to which browsers send load times. If it is `None`, RUM is off.
    pub path: Option<String>,
    /// The pages that are counted by name. Any other page counts as `other`.
    pub pages: Vec<String>,
}

impl Keys for RumSettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.nonempty("path", &RUM_PATH, &mut self.path);
        v.list("pages", &PAGE, &mut self.pages);
    }
}

const BEACON_PATH: Text<String> = Text {
    example: "/status/images/beacon.gif",
    read: |text, _| local_path(text, "/status/images/beacon.gif"),
    write: String::clone,
};

const RUM_PATH: Text<String> =
    Text { example: "/status/rum", read: |text, _| local_path(text, "/status/rum"), write: String::clone };

const SOURCE: Text<String> = Text {
    example: "my-other-page",
    read: |text, _| label(text, &["other"], "\"my-other-page\""),
    write: String::clone,
};

const PAGE: Text<String> =
    Text { example: "home", read: |text, _| label(text, &["other"], "\"home\""), write: String::clone };

const COUNTRY_DATABASE: Text<PathBuf> = Text {
    example: "GeoLite2-Country.mmdb",
    // The runtime opens the file again later. The file is opened here too, so that a problem with the file is reported
    // together with the other problems of the configuration.
    read: |text, folder| {
        let path = folder.join(text);
        Countries::open(&path).map(|_| ()).map_err(|error| error.to_string())?;
        Ok(path)
    },
    write: |path| path.display().to_string(),
};
