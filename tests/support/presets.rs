//! Reads the preset files as data, so that no test repeats the facts of the presets.

use super::shim::repository;

/// A file of `config/presets`.
pub struct PresetFile {
    /// The preset's name.
    pub name: String,
    table: toml::Table,
}

/// Returns every preset file, sorted by name.
pub fn presets() -> Vec<PresetFile> {
    let files = std::fs::read_dir(repository("config/presets")).expect("the folder config/presets");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file of config/presets").path()).collect();
    paths.sort_unstable();
    let read = |path: &std::path::PathBuf| PresetFile {
        name: path.file_stem().and_then(|name| name.to_str()).expect("a file name in UTF-8").to_owned(),
        table: std::fs::read_to_string(path).expect("a readable preset").parse().expect("valid TOML"),
    };
    paths.iter().map(read).collect()
}

impl PresetFile {
    /// Returns whether the operator chooses the name of the field for this CDN's cache tags.
    pub fn takes_tag_header(&self) -> bool {
        self.value("tags", "named_by_operator").and_then(toml::Value::as_bool) == Some(true)
    }

    /// Returns whether this CDN can sign its requests with G2O.
    pub fn has_g2o(&self) -> bool {
        let proofs = self.table.get("proof").and_then(toml::Value::as_array);
        proofs.is_some_and(|proofs| proofs.iter().any(|proof| proof["kind"].as_str() == Some("g2o")))
    }

    /// Returns the name of the header field into which edgeshim writes the lifetimes that only this CDN reads. The name
    /// is in lower case. Returns `None` if the shim writes no such field.
    pub fn targeted_field(&self) -> Option<String> {
        let is_passed_on = self.value("dialect", "passed_on").and_then(toml::Value::as_bool) == Some(true);
        self.value("dialect", "field").filter(|_| !is_passed_on)?.as_str().map(str::to_ascii_lowercase)
    }

    fn value(&self, table: &str, key: &str) -> Option<&toml::Value> {
        self.table.get(table)?.get(key)
    }
}
