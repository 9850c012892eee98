//! Rules for the source tree that the compiler does not check. For each rule, a test shows that the rule finds a
//! breach.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by a panic

mod circles;
mod paths;
mod prose;
mod rooms;
mod shape;
mod shipped;
mod source;

use std::path::{Path, PathBuf};

use source::{Breach, Source};

/// A rule for one file.
type Rule = fn(&Source) -> Vec<Breach>;

const SHIPPED: &[Rule] = &[
    rooms::stairs,
    rooms::crates,
    rooms::metrics,
    rooms::order,
    shape::lengths,
    shipped::header_names,
    shipped::banned,
    shipped::casts,
];
const ALL_RUST: &[Rule] = &[shape::names, shape::head, prose::backticks, prose::columns];

fn files_under(path: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(path) else { return found.push(path.into()) };
    for entry in entries.flatten() {
        // The rules do not apply to the data in `golden` and the build output in `target`.
        if !["golden", "target"].contains(&entry.file_name().to_string_lossy().as_ref()) {
            files_under(&entry.path(), found);
        }
    }
}

/// Returns the path and the text of each text file below `paths`.
fn texts(paths: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for path in paths {
        files_under(&root.join(path), &mut files);
    }
    files.sort();
    let text = |file: PathBuf| {
        let path = file.strip_prefix(root).expect("a file of the repository").to_string_lossy().replace('\\', "/");
        Some((path, std::fs::read_to_string(&file).ok()?))
    };
    let texts: Vec<_> = files.into_iter().filter_map(text).collect();
    assert!(!texts.is_empty(), "there are no text files below {paths:?}");
    texts
}

fn rust_files(paths: &[&str]) -> Vec<(String, String)> {
    texts(paths)
        .into_iter()
        .filter(|(path, _)| Path::new(path).extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

fn sources(files: &[(String, String)]) -> Vec<Source<'_>> {
    files.iter().map(|(path, text)| Source::new(path, text)).collect()
}

fn breaches(sources: &[Source], rules: &[Rule]) -> Vec<Breach> {
    sources.iter().flat_map(|source| rules.iter().flat_map(move |rule| rule(source))).collect()
}

fn report(mut breaches: Vec<Breach>) {
    breaches.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    let lines: Vec<String> = breaches.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} breaches:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn files_of_src_when_checked_then_keep_the_rules_for_shipped_code() {
    let files = rust_files(&["src"]);
    let sources = sources(&files);
    let mut all = breaches(&sources, SHIPPED);
    all.extend(circles::circles(&sources));
    all.extend(shape::repeated(&sources));
    report(all);
}

#[test]
fn rust_files_when_checked_then_keep_the_rules_for_all_rust_files() {
    report(breaches(&sources(&rust_files(&["src", "tests", "benches"])), ALL_RUST));
}

#[test]
fn text_files_when_checked_then_refer_to_nothing_outside_the_repository() {
    let paths = ["src", "tests", "benches", "config", "deploy", ".ci", ".github", "Cargo.toml", "clippy.toml"];
    let mut files = texts(&paths);
    files.extend(texts(&["README.md", "CONTRIBUTING.md", "SECURITY.md"]));
    // `prose.rs` contains samples that break the rule, so the test does not check `prose.rs`.
    files.retain(|(path, _)| path != "tests/tidy/prose.rs");
    report(breaches(&sources(&files), &[prose::pointers]));
}

#[test]
fn breach_when_displayed_then_shows_place_problem_and_remedy() {
    let source = Source::new("src/ids.rs", "//! Ids.\n\nuse crate::edge::request;\n");
    let text = breaches(&[source], SHIPPED).first().expect("a breach").to_string();
    assert!(
        text.starts_with("src/ids.rs:3: `ids` imports `edge::request`: a room may import only from lower rooms; "),
        "{text}"
    );
}
