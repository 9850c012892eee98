//! Finds the files that a configuration reads, for `server.watch`.
//!
//! Address lists, country files, and the files of `[server.tls]`, `[origin.tls]` and `client_cert.ca` are not in the
//! list, because edgeshim always reads these files again after a change.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{folder_of, read_text};

/// Returns the configuration file and the files of its secrets. If `whoopsie.pages` names a folder, also returns its
/// subfolders `pages` and `locales`, with their files. If the configuration file cannot be read or is not valid TOML,
/// the list has only this file.
pub(crate) fn sources(path: &Path) -> Vec<PathBuf> {
    let folder = folder_of(path);
    let mut sources = vec![path.to_path_buf()];
    let Ok(text) = read_text(path) else { return sources };
    let Ok(tree) = DeTable::parse(&text) else { return sources };
    let tree = tree.get_ref();
    secrets(tree, folder, &mut sources);
    let pages = tree.get("whoopsie").and_then(|whoopsie| whoopsie.get_ref().get("pages"));
    if let Some(DeValue::String(pages)) = pages.map(toml::Spanned::get_ref)
        && !pages.is_empty()
    {
        for name in ["pages", "locales"] {
            let inner = folder.join(&**pages).join(name);
            let entries = std::fs::read_dir(&inner).into_iter().flatten();
            sources.extend(entries.flatten().take(MAX_FILES).map(|entry| entry.path()));
            sources.push(inner);
        }
    }
    sources
}

/// The largest number of files that are watched in each of the two subfolders.
const MAX_FILES: usize = 100;

/// Adds the file of each value `file:PATH`. Leaves out the keys `output` (the access log) and `addresses`, because
/// their files contain no secrets.
fn secrets(table: &DeTable<'_>, folder: &Path, sources: &mut Vec<PathBuf>) {
    for (key, value) in table {
        if !["output", "addresses"].contains(&&**key.get_ref()) {
            secret(value.get_ref(), folder, sources);
        }
    }
}

fn secret(value: &DeValue<'_>, folder: &Path, sources: &mut Vec<PathBuf>) {
    match value {
        DeValue::String(text) => sources.extend(text.strip_prefix("file:").map(|path| folder.join(path))),
        DeValue::Array(list) => list.iter().for_each(|value| secret(value.get_ref(), folder, sources)),
        DeValue::Table(table) => secrets(table, folder, sources),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_when_configuration_reads_files_then_contain_secrets_and_pages() {
        let folder = std::env::temp_dir().join(format!("edgeshim-sources-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("site/locales")).unwrap();
        std::fs::write(folder.join("site/locales/de.toml"), "").unwrap();
        let file = folder.join("e.toml");
        let text = "[admin]\ntoken = \"file:token\"\n[access_log]\noutput = \"file:log\"\n\
                    [whoopsie]\npages = \"site\"\n[[provider]]\nname = \"a\"\n[provider.verify]\n\
                    addresses = [\"file:list\"]\nsecret = { header = \"X\", values = [\"file:/one\", \"env:TWO\"] }\n";
        std::fs::write(&file, text).unwrap();
        let mut found = sources(&file);
        std::fs::write(&file, "[admin\n").unwrap();
        let of_broken = sources(&file);
        std::fs::remove_dir_all(&folder).unwrap();
        found.sort();
        let mut expected: Vec<_> = ["e.toml", "token", "site/pages", "site/locales", "site/locales/de.toml"]
            .map(|name| folder.join(name))
            .into_iter()
            .chain(["/one".into()])
            .collect();
        expected.sort();
        assert_eq!(found, expected);
        assert_eq!(of_broken, [file]);
    }
}
