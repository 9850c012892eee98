//! The template and the locale files. The program contains built-in files. Files in the operator's folder can replace
//! the built-in files.
//!
//! A folder has the layout of `config/`. Its `pages/whoopsie.html` replaces the built-in template. Each of its
//! `locales/TAG.toml` files replaces or adds a language. Every file is optional, but there must be at least one file.
//! The files are read only when the configuration is read, and their size is limited.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::locale_file::LocaleTexts;
use super::mistakes::{FileProblem, Mistake, lines};
use super::template::Template;
use crate::regular_file;

/// The built-in locale files, each with its tag and its content, in the order of the locales' ids. `config/build.rs`
/// makes this list from `config/locales`.
pub(super) const LOCALES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/locales.rs"));

const WHOOPSIE: &str = include_str!("../../config/pages/whoopsie.html");

/// The longest template, in bytes. The limit keeps pages short, because during an outage every client gets a page.
const MAX_TEMPLATE_BYTES: u64 = 128 * 1024;
/// The longest locale file, in bytes. The limit keeps pages short, because every page contains texts of all locales.
const MAX_LOCALE_BYTES: u64 = 32 * 1024;
/// The largest number of entries in the folder `locales`, and in the folder `pages`.
const MAX_LOCALES: usize = 100;

/// The template and the locale files of the pages. The default has only the built-in files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PageFiles {
    folder: PathBuf,
    template: Option<String>,
    /// The names of the files without `.toml`, each with the content of the file. Sorted by name.
    locales: Vec<(String, String)>,
}

/// The reason why a folder of pages cannot be used.
#[derive(Debug)]
pub enum PageFilesError {
    /// The path is not a folder of pages. The message is shown after the folder's name.
    Folder(String),
    /// The mistakes in the folder's files, in the order of files.
    Files(Vec<FileProblem>),
}

impl fmt::Display for PageFilesError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(message) => out.write_str(message),
            Self::Files(problems) => out.write_str(&lines(problems)),
        }
    }
}

impl Error for PageFilesError {}

impl PageFiles {
    /// Reads and checks a folder.
    ///
    /// # Errors
    /// The path is not a folder, or the folder has no pages, or its files have mistakes. The mistakes of all files are
    /// returned, not only those of the first file.
    pub fn read(folder: &Path) -> Result<Self, PageFilesError> {
        const CONTENT: &str = "name a folder that has pages/whoopsie.html, locales/TAG.toml (such as de.toml) or both";
        let entries = fs::read_dir(folder);
        entries.map_err(|error| PageFilesError::Folder(format!("cannot be read as a folder ({error}); {CONTENT}")))?;
        let mut reader = Reader::default();
        let mut template = None;
        for path in reader.entries(&folder.join("pages")) {
            if path.file_name().is_some_and(|name| name == "whoopsie.html") {
                template = reader.text(&path, MAX_TEMPLATE_BYTES);
                if let Some(text) = &template {
                    reader.check_template(&path, text);
                }
            } else {
                reader.report(&path, None, "is not a known page; name the file whoopsie.html, or remove the file");
            }
        }
        let mut locales: Vec<(String, String)> = Vec::new();
        for path in reader.entries(&folder.join("locales")) {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".toml"));
            let Some(name) = name else {
                reader.report(
                    &path,
                    None,
                    "is not a locale file; name the file after its language, such as de.toml, or remove the file",
                );
                continue;
            };
            let Some(text) = reader.text(&path, MAX_LOCALE_BYTES) else { continue };
            reader.report_all(&path, LocaleTexts::parse(name, &text).err().unwrap_or_default());
            if let Some((other, _)) = locales.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)) {
                let message = format!(
                    "has the same language as {other}.toml (letter case is ignored); keep one of the two files"
                );
                reader.report(&path, Some(1), message);
            }
            locales.push((name.to_owned(), text));
        }
        if !reader.problems.is_empty() {
            return Err(PageFilesError::Files(reader.problems));
        }
        if template.is_none() && locales.is_empty() {
            return Err(PageFilesError::Folder(format!("has no pages; {CONTENT}")));
        }
        Ok(Self { folder: folder.to_owned(), template, locales })
    }

    /// Returns the folder as configured. The path is empty if no folder is configured.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the tags of all locales, in the order of the locales' ids.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.all().map(|(tag, _)| tag)
    }

    pub(super) fn template(&self) -> &str {
        self.template.as_deref().unwrap_or(WHOOPSIE)
    }

    /// Returns the name and the content of each locale file, in the order of the locales' ids. The built-in languages
    /// come first. A file of the folder replaces the built-in file of the same language. The folder's files for other
    /// languages follow.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = self.locales.iter().map(|(tag, text)| (tag.as_str(), text.as_str()));
        let of_folder = move |wanted: &str| own.clone().find(|(tag, _)| tag.eq_ignore_ascii_case(wanted));
        let is_new = |(tag, _): &(&str, &str)| !LOCALES.iter().any(|(known, _)| known.eq_ignore_ascii_case(tag));
        let new = self.locales.iter().map(|(tag, text)| (tag.as_str(), text.as_str())).filter(is_new);
        LOCALES.iter().map(move |&built_in| of_folder(built_in.0).unwrap_or(built_in)).chain(new)
    }
}

/// Reads a folder and collects the problems in its files.
#[derive(Default)]
struct Reader {
    problems: Vec<FileProblem>,
}

impl Reader {
    fn report(&mut self, path: &Path, line: Option<usize>, message: impl Into<String>) {
        let file = path.display().to_string();
        // Control characters in the path are escaped, because a terminal could execute them.
        let file = if file.contains(char::is_control) { file.escape_debug().to_string() } else { file };
        self.problems.push(FileProblem { file, line, message: message.into() });
    }

    fn report_all(&mut self, path: &Path, mistakes: Vec<Mistake>) {
        for Mistake { line, message } in mistakes {
            self.report(path, Some(line), message);
        }
    }

    /// Returns the sorted entries of a folder, without hidden files. If the folder does not exist, the list is empty.
    /// If the folder cannot be used, reports the problem and returns an empty list.
    fn entries(&mut self, folder: &Path) -> Vec<PathBuf> {
        let read = fs::read_dir(folder).and_then(|entries| {
            let paths = entries.map(|entry| entry.map(|entry| entry.path())).filter(|path| {
                let name = path.as_ref().ok().and_then(|path| path.file_name());
                !name.is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
            });
            paths.take(MAX_LOCALES + 1).collect::<io::Result<Vec<_>>>()
        });
        match read {
            Ok(paths) if paths.len() > MAX_LOCALES => {
                self.report(folder, None, format!("has more than {MAX_LOCALES} files; remove some"));
                Vec::new()
            }
            Ok(mut paths) => {
                paths.sort();
                paths
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                self.report(
                    folder,
                    None,
                    format!(
                        "cannot be read ({error}); let the user of this process read the folder, or remove the folder"
                    ),
                );
                Vec::new()
            }
        }
    }

    /// Returns the text of a file. If the file cannot be used, reports the problem and returns `None`.
    fn text(&mut self, path: &Path, most_bytes: u64) -> Option<String> {
        let bytes = match regular_file::read(path, most_bytes) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.report(
                    path,
                    None,
                    format!("cannot be read ({error}); provide a regular file that this user may read"),
                );
                return None;
            }
        };
        if bytes.len() as u64 > most_bytes {
            self.report(path, Some(1), format!("is longer than {most_bytes} bytes; shorten the file"));
            return None;
        }
        match String::from_utf8(bytes) {
            Ok(text) => Some(text),
            Err(error) => {
                let text = String::from_utf8_lossy(error.as_bytes());
                let line = Mistake::line_at(&text, error.utf8_error().valid_up_to());
                self.report(path, Some(line), "is not UTF-8; save the file as UTF-8 text");
                None
            }
        }
    }

    fn check_template(&mut self, path: &Path, text: &str) {
        match Template::parse(text) {
            Ok(template) => {
                for example in template.missing() {
                    self.report(path, Some(1), format!("a required placeholder is missing; write {example}"));
                }
            }
            Err(mistakes) => self.report_all(path, mistakes),
        }
    }
}
