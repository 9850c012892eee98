//! What pages are made of: the built-in template and words, and those of an operator's folder in their place.
//!
//! A folder is laid out like `config/`: `pages/whoopsie.html` takes the built-in template's place, `locales/TAG.toml` the words of a
//! built-in language, or adds one. Either may be missing; what it does not hold stays built in. Everything is read, bounded, when the
//! configuration is, and never again.

use std::error::Error;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::Mistake;
use super::whoopsie::Template;
use super::words::Words;

/// The built-in locale files: tag and content, in the order of their ids. `config/build.rs` lists `config/locales`.
pub(super) const LOCALES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/locales.rs"));

const WHOOPSIE: &str = include_str!("../../config/pages/whoopsie.html");

/// The longest template, in bytes: a page goes out to everybody when little else does.
const MOST_TEMPLATE_BYTES: u64 = 128 * 1024;
/// The longest locale file, in bytes: the words of all of them stand in every page.
const MOST_LOCALE_BYTES: u64 = 32 * 1024;
/// The most files in a folder of locales.
const MOST_LOCALES: usize = 100;

/// The template and the locale files that pages are made of. The default is what is built in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PageFiles {
    folder: PathBuf,
    template: Option<String>,
    /// Names without `.toml`, and contents, in the order of the names.
    locales: Vec<(String, String)>,
}

/// One mistake in a file of pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    /// The file's path, safe to print.
    pub file: String,
    /// From 1; none where the file cannot be read at all.
    pub line: Option<usize>,
    /// What is wrong there, and what to write instead.
    pub message: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(out, ":{line}")?;
        }
        write!(out, ": {}", self.message)
    }
}

/// Why a folder of pages cannot be used.
#[derive(Debug)]
pub enum PageFilesError {
    /// It is no folder of pages; a sentence that reads on from its name, with what to write instead.
    Folder(String),
    /// Everything that is wrong with its files.
    Files(Vec<FileProblem>),
}

impl fmt::Display for PageFilesError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(message) => out.write_str(message),
            Self::Files(problems) => {
                let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
                out.write_str(&lines.join("\n"))
            }
        }
    }
}

impl Error for PageFilesError {}

impl PageFiles {
    /// Reads and checks a folder.
    ///
    /// # Errors
    /// It is no folder, or holds no pages; or else every mistake in its files at once, in the order of files and lines.
    pub fn read(folder: &Path) -> Result<Self, PageFilesError> {
        const HOLDS: &str = "write a folder that holds pages/whoopsie.html, locales/TAG.toml (such as de.toml) or both";
        let entries = fs::read_dir(folder);
        entries.map_err(|error| PageFilesError::Folder(format!("cannot be read as a folder ({error}); {HOLDS}")))?;
        let mut reader = Reader::default();
        let mut template = None;
        for path in reader.entries(&folder.join("pages")) {
            if path.file_name().is_some_and(|name| name == "whoopsie.html") {
                template = reader.text(&path, MOST_TEMPLATE_BYTES);
                if let Some(text) = &template {
                    reader.check_template(&path, text);
                }
            } else {
                reader.tell(&path, None, "is no page that there is; call it whoopsie.html, or take it away");
            }
        }
        let mut locales: Vec<(String, String)> = Vec::new();
        for path in reader.entries(&folder.join("locales")) {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".toml"));
            let Some(name) = name else {
                reader.tell(
                    &path,
                    None,
                    "is no locale file; call it by its language, such as de.toml, or take it away",
                );
                continue;
            };
            let Some(text) = reader.text(&path, MOST_LOCALE_BYTES) else { continue };
            reader.tell_all(&path, Words::parse(name, &text).err().unwrap_or_default());
            if let Some((other, _)) = locales.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)) {
                let message = format!("is the same language as {other}.toml but for its case; keep one of the two");
                reader.tell(&path, Some(1), message);
            }
            locales.push((name.to_owned(), text));
        }
        if !reader.problems.is_empty() {
            return Err(PageFilesError::Files(reader.problems));
        }
        if template.is_none() && locales.is_empty() {
            return Err(PageFilesError::Folder(format!("holds no pages; {HOLDS}")));
        }
        Ok(Self { folder: folder.to_owned(), template, locales })
    }

    /// The folder as it was named; empty where everything is built in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The tags of all locales, in the order of their ids.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.all().map(|(tag, _)| tag)
    }

    pub(super) fn template(&self) -> &str {
        self.template.as_deref().unwrap_or(WHOOPSIE)
    }

    /// Names and contents: the built-in languages in their order, each from the folder where it is there, then the folder's others.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = self.locales.iter().map(|(tag, text)| (tag.as_str(), text.as_str()));
        let of_folder = move |wanted: &str| own.clone().find(|(tag, _)| tag.eq_ignore_ascii_case(wanted));
        let is_new = |(tag, _): &(&str, &str)| !LOCALES.iter().any(|(known, _)| known.eq_ignore_ascii_case(tag));
        let new = self.locales.iter().map(|(tag, text)| (tag.as_str(), text.as_str())).filter(is_new);
        LOCALES.iter().map(move |&built_in| of_folder(built_in.0).unwrap_or(built_in)).chain(new)
    }
}

/// Collects what is wrong while a folder is read.
#[derive(Default)]
struct Reader {
    problems: Vec<FileProblem>,
}

impl Reader {
    fn tell(&mut self, path: &Path, line: Option<usize>, message: impl Into<String>) {
        let file = path.display().to_string();
        // A name can hold anything, and is shown on terminals.
        let file = if file.contains(char::is_control) { file.escape_debug().to_string() } else { file };
        self.problems.push(FileProblem { file, line, message: message.into() });
    }

    fn tell_all(&mut self, path: &Path, mistakes: Vec<Mistake>) {
        for Mistake { line, message } in mistakes {
            self.tell(path, Some(line), message);
        }
    }

    /// What a folder holds, sorted, but for hidden files; nothing where it is not there.
    fn entries(&mut self, folder: &Path) -> Vec<PathBuf> {
        let read = fs::read_dir(folder).and_then(|entries| {
            let paths = entries.map(|entry| entry.map(|entry| entry.path())).filter(|path| {
                let name = path.as_ref().ok().and_then(|path| path.file_name());
                !name.is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
            });
            paths.take(MOST_LOCALES + 1).collect::<io::Result<Vec<_>>>()
        });
        match read {
            Ok(paths) if paths.len() > MOST_LOCALES => {
                self.tell(folder, None, format!("holds more than {MOST_LOCALES} files; take some away"));
                Vec::new()
            }
            Ok(mut paths) => {
                paths.sort();
                paths
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                self.tell(folder, None, format!("cannot be read ({error}); let this user read it, or take it away"));
                Vec::new()
            }
        }
    }

    /// A file's text; none where it has none, which has been noted.
    fn text(&mut self, path: &Path, most_bytes: u64) -> Option<String> {
        let mut bytes = Vec::new();
        // Anything but a file, such as a pipe, may never end or never begin.
        let read = fs::metadata(path).and_then(|about| {
            if !about.is_file() {
                return Err(io::Error::other("it is no file"));
            }
            File::open(path)?.take(most_bytes + 1).read_to_end(&mut bytes)
        });
        if let Err(error) = read {
            self.tell(path, None, format!("cannot be read ({error}); put a file there that this user may read"));
            return None;
        }
        if bytes.len() as u64 > most_bytes {
            self.tell(path, Some(1), format!("is longer than {most_bytes} bytes; make it shorter"));
            return None;
        }
        match String::from_utf8(bytes) {
            Ok(text) => Some(text),
            Err(error) => {
                let text = String::from_utf8_lossy(error.as_bytes());
                let line = Mistake::line_at(&text, error.utf8_error().valid_up_to());
                self.tell(path, Some(line), "is no UTF-8; save the file as UTF-8 text");
                None
            }
        }
    }

    fn check_template(&mut self, path: &Path, text: &str) {
        match Template::parse(text) {
            Ok(template) => {
                for example in template.lacks() {
                    self.tell(path, Some(1), format!("lacks what every page has to have; write {example}"));
                }
            }
            Err(mistakes) => self.tell_all(path, mistakes),
        }
    }
}
