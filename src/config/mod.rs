//! Reads the operator's configuration file and converts it to valid settings.
//!
//! `settings` lists the blocks of the file, for example `[server]`. The code that uses a key also declares this key
//! ([`Keys`](crate::keys::Keys)). `file` reads single keys from the TOML tree. `reader` writes the values of these keys
//! to the settings, and `effective` shows the settings as JSON. `checks`, `classes`, `experiments` and `tls_block`
//! check whether the values of different keys fit together. `provider_blocks` and `provider_proofs` read the providers,
//! whose keys depend on each other. All problems of a file are reported together, so that operators can correct all
//! problems before the next try. All commands read the configuration with the same functions.

use std::io;
use std::path::Path;

use crate::keys::{Keys, quote};
use crate::regular_file;

mod changed_keys;
mod checks;
mod classes;
mod effective;
mod experiments;
mod file;
mod listeners;
mod problems;
mod provider_blocks;
mod provider_proofs;
mod reader;
mod settings;
mod shown;
mod sources;
mod tls_block;

pub(crate) use file::Section;
pub(crate) use listeners::{LISTEN, Listen};
pub(crate) use problems::{Problem, Problems};
pub use settings::{AddressSource, Settings};
pub(crate) use settings::{Provider, Verify};
pub(crate) use sources::sources;

use self::provider_proofs::Surroundings;

/// The largest accepted size of a configuration file, in bytes.
const MAX_FILE_BYTES: usize = 1024 * 1024;

/// Reads the file at `path` and checks it.
///
/// # Errors
///
/// Returns all problems of the file. If the file cannot be read, is too long, is not UTF-8 or is not TOML, the list
/// contains only this problem. Otherwise each unknown key, each missing required key and each wrong value is a problem.
pub fn load(path: &Path) -> Result<Settings, Problems> {
    let origin_name = path.display().to_string();
    parse(&text_of(path, &origin_name)?, &origin_name, folder_of(path))
}

/// Reads a file whose keys are those of `K`. `check` checks whether the values of different keys fit together. The
/// problems are reported as [`load`] reports them.
pub(crate) fn load_keys<K: Keys>(path: &Path, check: fn(&mut K, &mut Section<'_>)) -> Result<K, Problems> {
    let origin_name = path.display().to_string();
    parse_keys(&text_of(path, &origin_name)?, &origin_name, folder_of(path), check)
}

/// Reads keys as [`load_keys`] does, from a text in memory.
pub(crate) fn parse_keys<K: Keys>(
    text: &str,
    origin_name: &str,
    folder: &Path,
    check: fn(&mut K, &mut Section<'_>),
) -> Result<K, Problems> {
    read_root(text, origin_name, folder, |root| {
        let mut settings = K::default();
        settings.keys(root);
        check(&mut settings, root);
        settings
    })
}

fn text_of(path: &Path, origin_name: &str) -> Result<String, Problems> {
    let bytes = regular_file::read(path, MAX_FILE_BYTES as u64).map_err(|error| {
        let remedy = "with --config FILE, name a regular file that this user may read";
        let message = format!("cannot be read ({error}); {remedy}");
        Problems::one(origin_name, Problem::of_file(quote(origin_name), message))
    })?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            let (bytes, error) = (error.as_bytes(), error.utf8_error());
            let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let bad = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
            let (line, column) = problems::position(good);
            let mut problem = Problem::of_file(format!("byte 0x{bad:02x}"), "is not UTF-8; save the file as UTF-8");
            problem.line = Some(line);
            problem.column = Some(column);
            Err(Problems::one(origin_name, problem))
        }
    }
}

/// Returns the folder to which the paths in the file are relative.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(regular_file::read(path, MAX_FILE_BYTES as u64)?).map_err(io::Error::other)
}

/// Checks a configuration that is in memory. Messages use `origin_name` as the name of the file. Relative paths in the
/// configuration start at `folder`.
///
/// # Errors
///
/// Returns the same problems as [`load`], but never that the file cannot be read or is not UTF-8.
pub fn parse(text: &str, origin_name: &str, folder: &Path) -> Result<Settings, Problems> {
    read_root(text, origin_name, folder, |root| {
        let mut settings = Settings::default();
        settings.keys(root);
        checks::check(&mut settings, root);
        classes::check(&settings.classes, root.bounded_sections("class"));
        experiments::check(&settings, root.bounded_sections("experiment"));
        let surroundings = Surroundings::of(&settings);
        settings.providers = provider_blocks::providers(root.bounded_sections("provider"), &surroundings);
        settings
    })
}

/// Parses a text as TOML, and calls `read` with the block that contains all other blocks. Returns the result of `read`,
/// or all problems.
fn read_root<S>(
    text: &str,
    origin_name: &str,
    folder: &Path,
    read: impl FnOnce(&mut Section<'_>) -> S,
) -> Result<S, Problems> {
    if text.len() > MAX_FILE_BYTES {
        let message = format!("is longer than {MAX_FILE_BYTES} bytes; name a configuration file with --config FILE");
        return Err(Problems::one(origin_name, Problem::of_file(quote(origin_name), message)));
    }
    let tree =
        toml::de::DeTable::parse(text).map_err(|error| Problems::one(origin_name, problems::syntax(text, &error)))?;
    let file = file::TypedFile::new(text, folder);
    let settings = read(&mut file.root(tree.get_ref()));
    let problems = file.into_problems(tree.get_ref());
    if problems.is_empty() { Ok(settings) } else { Err(Problems::new(origin_name, problems)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        match parse(text, "edgeshim.toml", Path::new(".")) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.to_string().lines().map(str::to_owned).collect(),
        }
    }

    #[test]
    fn settings_when_file_is_empty_then_equal_the_defaults() {
        assert_eq!(parse("", "edgeshim.toml", Path::new(".")), Ok(Settings::default()));
    }

    #[test]
    fn problem_when_shown_then_names_file_line_key_value_and_remedy() {
        assert_eq!(
            problems("# a comment\n[server]\nheader_timeout = \"10 parsecs\"\n"),
            ["edgeshim.toml:3: server.header_timeout: \"10 parsecs\" is not a duration; \
                 write a whole number and a unit (ms, s, m, h or d), for example \"10s\""]
        );
    }

    #[test]
    fn syntax_error_when_reported_then_is_the_only_problem_and_has_a_line() {
        let found = problems("[server]\nworkers = = 3\nnonsense = true\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("edgeshim.toml:2:"), "{found:?}");
    }

    #[test]
    fn file_when_missing_or_a_folder_then_causes_one_problem() {
        for path in ["/nonexistent/edgeshim.toml", "/"] {
            let found = load(Path::new(path)).expect_err("a missing file and a folder are rejected");
            assert_eq!(found.len(), 1);
            assert!(found.to_string().contains("cannot be read"), "{found}");
        }
    }

    #[test]
    fn file_when_too_long_then_causes_one_problem() {
        assert_eq!(problems(&"#".repeat(MAX_FILE_BYTES + 1)).len(), 1);
    }
}
