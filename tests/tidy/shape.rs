//! The rules for the length, the name and the first comment of a file.

use std::collections::BTreeMap;

use crate::source::{Breach, Source};

/// The name of a file must describe what the file does.
pub(crate) fn names(source: &Source) -> Vec<Breach> {
    const VAGUE: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "managers"];
    let mut parts = source.path.trim_end_matches(".rs").split(['/', '_', '-', '.']);
    match parts.find(|part| VAGUE.contains(&part.to_ascii_lowercase().as_str())) {
        Some(part) => {
            let what = format!("the name `{part}` does not say what the file contains");
            source.breach_of_file(what, "name the file after what it does")
        }
        None => Vec::new(),
    }
}

/// Every file must start with a doc comment, which describes what the file does.
pub(crate) fn head(source: &Source) -> Vec<Breach> {
    let first = source.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if first.starts_with("//!") || first.starts_with("#![doc = include_str!") {
        return Vec::new();
    }
    source.breach_of_file(
        "the file has no doc comment",
        "start the file with `//! ` and a sentence that says what the file does",
    )
}

/// A file below `src` must not have more than 500 lines. Lines of tests are not counted.
pub(crate) fn lengths(source: &Source) -> Vec<Breach> {
    const MOST: usize = 500;
    if source.module.last().is_some_and(|name| name == "tests") {
        return Vec::new();
    }
    let tests = source.text.find("\n#[cfg(test)]\nmod tests").unwrap_or(source.text.len());
    let length = source.text[..tests].lines().count();
    if length <= MOST {
        return Vec::new();
    }
    source.breach_of_file(
        format!("the file has {length} lines without its tests"),
        "split the file by its tasks into files of at most 500 lines",
    )
}

/// A file name must appear in one room only, so that the file name identifies the room. Exceptions: `mod.rs` and
/// `tests.rs`.
pub(crate) fn repeated(sources: &[Source]) -> Vec<Breach> {
    let mut rooms: BTreeMap<&str, &Source> = BTreeMap::new();
    let mut breaches = Vec::new();
    for source in sources {
        let name = source.path.rsplit('/').next().unwrap_or_default();
        if ["mod.rs", "tests.rs"].contains(&name) {
            continue;
        }
        let first = *rooms.entry(name).or_insert(source);
        if first.room() != source.room() {
            let what = format!("{} in another room has the same file name", first.path);
            breaches.extend(source.breach_of_file(what, "give one of the two files a name that says how they differ"));
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::lines_of;

    #[test]
    fn file_name_when_vague_then_reported() {
        for path in
            ["src/utils.rs", "src/edge/common/mod.rs", "src/http_helpers.rs", "src/cdn/manager.rs", "tests/util/mod.rs"]
        {
            assert_eq!(lines_of(names, path, "").len(), 1, "{path}");
        }
        for path in ["src/edge/gzip.rs", "src/utilisation.rs", "src/commons.rs"] {
            assert_eq!(lines_of(names, path, ""), [], "{path}");
        }
    }

    #[test]
    fn doc_comment_when_missing_at_start_of_file_then_reported() {
        assert_eq!(lines_of(head, "src/ids.rs", "use std::fmt;\n//! late"), [1]);
        assert_eq!(lines_of(head, "src/ids.rs", ""), [1]);
        assert_eq!(lines_of(head, "src/ids.rs", "\n//! What it does.\n"), []);
        assert_eq!(lines_of(head, "src/lib.rs", "#![doc = include_str!(\"ARCHITECTURE.md\")]"), []);
    }

    #[test]
    fn file_when_longer_than_500_lines_then_reported() {
        let lines = |count: usize| "fn f() {}\n".repeat(count);
        assert_eq!(lines_of(lengths, "src/ids.rs", &lines(501)), [1]);
        assert_eq!(lines_of(lengths, "src/ids.rs", &lines(500)), []);
        let tested = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", lines(499), lines(99));
        assert_eq!(lines_of(lengths, "src/ids.rs", &tested), []);
        assert_eq!(lines_of(lengths, "src/edge/gzip/tests.rs", &lines(501)), []);
    }

    #[test]
    fn file_name_when_used_in_two_rooms_then_reported() {
        let found = |paths: &[&str]| {
            let sources: Vec<Source> = paths.iter().map(|path| Source::new(path, "//! a")).collect();
            repeated(&sources).into_iter().map(|breach| breach.path).collect::<Vec<_>>()
        };
        assert_eq!(found(&["src/edge/verify.rs", "src/config/verify.rs"]), ["src/config/verify.rs"]);
        assert_eq!(found(&["src/ids.rs", "src/wire/ids.rs"]), ["src/wire/ids.rs"]);
        assert!(found(&["src/edge/mod.rs", "src/cdn/mod.rs", "src/edge/tests.rs", "src/cdn/tests.rs"]).is_empty());
        assert!(found(&["src/edge/gzip/body.rs", "src/edge/pulls/body.rs"]).is_empty());
    }
}
