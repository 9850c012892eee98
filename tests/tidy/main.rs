//! Rules for the source tree that the compiler does not check. Each rule has a test that shows that it can fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

mod paths;
mod rooms;
mod shipped;
mod source;

use std::path::{Path, PathBuf};

use source::{Breach, Source};

/// Applies all rules to one file.
fn breaches(path: &str, text: &str) -> Vec<Breach> {
    let source = Source::new(path, text);
    let mut all = shipped::names(path);
    for rule in [
        rooms::stairs,
        rooms::crates,
        rooms::metrics,
        rooms::order,
        shipped::header_names,
        shipped::banned,
        shipped::head,
    ] {
        all.extend(rule(&source));
    }
    all.sort_by_key(|breach| breach.line);
    all
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn files_under(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join(folder), &mut files);
    files.sort();
    let named = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let path = file.strip_prefix(root).expect("a file of the repository").to_string_lossy().replace('\\', "/");
        (path, text)
    };
    files.into_iter().map(named).collect()
}

fn report(breaches: &[Breach]) {
    let lines: Vec<String> = breaches.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} breaches:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn sources_when_checked_then_no_breach() {
    let files = files_under("src");
    assert!(!files.is_empty(), "no sources found");
    report(&files.iter().flat_map(|(path, text)| breaches(path, text)).collect::<Vec<_>>());
}

#[test]
fn tests_and_benches_when_checked_then_named_and_described() {
    let mut all = Vec::new();
    for (path, text) in files_under("tests").iter().chain(&files_under("benches")) {
        all.extend(shipped::names(path));
        all.extend(shipped::head(&Source::new(path, text)));
    }
    report(&all);
}

#[test]
fn breach_when_displayed_then_names_place_problem_and_fix() {
    let breaches = breaches("src/ids.rs", "//! Ids.\n\nuse crate::edge::request;\n");
    let text = breaches.first().expect("a breach").to_string();
    assert!(
        text.starts_with("src/ids.rs:3: `ids` imports `edge::request`: a room may import only from lower floors; "),
        "{text}"
    );
}
