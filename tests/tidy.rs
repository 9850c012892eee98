//! Holds the house's rules that the compiler does not: which room may import which (house §2), where serde, tokio, the metrics
//! macros and header names may stand, what may not stand in shipped code at all, names, file heads and the order of `lib.rs`.
//!
//! The reading is textual: comments, strings and `#[cfg(test)]` items are blanked first, then words are looked for. A breach
//! with a reason is allowed where a comment `// tidy: <reason>` stands on its line or on the line before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

use std::fmt;
use std::path::{Path, PathBuf};

/// The floors of the house, the top first; a room sees the floors below its own and nothing else.
const FLOORS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["serve", "admin"],
    &["runtime"],
    &["config"],
    &["edge"],
    &["origin", "intake"],
    &["cdn", "pages"],
    &["metrics"],
    &["fault", "ids", "wire", "clock"],
];

/// The order of the `mod` lines in `lib.rs`: the order in which a request meets them. `clock` may stand anywhere on its floor.
const READING_ORDER: &[&str] = &[
    "cli", "serve", "admin", "runtime", "config", "edge", "origin", "intake", "cdn", "pages", "metrics", "fault",
    "ids", "wire",
];

const SERDE_ROOMS: &[&str] = &["config", "intake", "admin", "cli"];
const TOKIO_ROOMS: &[&str] = &["serve", "origin", "admin", "cli"];

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq)]
struct Breach {
    path: String,
    /// From 1; 0 speaks of the file as a whole.
    line: usize,
    what: String,
    instead: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}; {}", self.path, self.line.max(1), self.what, self.instead)
    }
}

/// A source file, read in the three ways that the rules need. All three have the bytes of a line where the file has them.
struct Source<'a> {
    /// From the repository's root, with `/`.
    path: &'a str,
    /// As it stands.
    text: &'a str,
    /// Comments, the insides of strings, and test items blanked.
    code: String,
    /// Comments and test items blanked; strings stand.
    literal: String,
    /// `src/edge/gzip/policy.rs` is `edge`, `gzip`, `policy`.
    module: Vec<String>,
}

impl<'a> Source<'a> {
    fn new(path: &'a str, text: &'a str) -> Self {
        let (mut code, mut literal) = blanked(text);
        let module = module_of(path);
        if module.iter().any(|part| part == "tests") {
            code = blank(&code);
            literal = blank(&literal);
        }
        for (start, end) in test_items(&code) {
            code.replace_range(start..end, &blank(&code[start..end]));
            literal.replace_range(start..end, &blank(&literal[start..end]));
        }
        Self { path, text, code, literal, module }
    }

    fn room(&self) -> &str {
        self.module.first().map_or("lib", String::as_str)
    }

    /// A breach at a byte of the file, unless a comment beside it gives a reason.
    fn breach(&self, at: usize, what: impl Into<String>, instead: impl Into<String>) -> Option<Breach> {
        let line = self.text[..at].matches('\n').count();
        let mut lines = self.text.lines().skip(line.saturating_sub(1));
        let beside = if line == 0 { [None, lines.next()] } else { [lines.next(), lines.next()] };
        let [before, same] = beside.map(Option::unwrap_or_default);
        if reasoned(same) || (before.trim_start().starts_with("//") && reasoned(before)) {
            return None;
        }
        Some(Breach { path: self.path.into(), line: line + 1, what: what.into(), instead: instead.into() })
    }
}

fn reasoned(line: &str) -> bool {
    line.split_once("// tidy:").is_some_and(|(_, reason)| !reason.trim().is_empty())
}

/// Spaces for everything but line ends, byte for byte.
fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// The text without comments and the insides of strings, and the text without comments; lengths and lines stay.
fn blanked(text: &str) -> (String, String) {
    let mut code = String::with_capacity(text.len());
    let mut literal = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word_goes_on = code.ends_with(is_word);
        let (length, kind) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), Kind::Comment)
        } else if rest.starts_with("/*") {
            (block_comment(rest), Kind::Comment)
        } else if let Some(length) = (!word_goes_on).then(|| raw_string(rest)).flatten() {
            (length, Kind::String)
        } else if first == '"' {
            (quoted(rest, '"'), Kind::String)
        } else if let Some(length) = character(rest) {
            (length, Kind::String)
        } else {
            (first.len_utf8(), Kind::Code)
        };
        let piece = &rest[..length];
        match kind {
            Kind::Comment => {
                code.push_str(&blank(piece));
                literal.push_str(&blank(piece));
            }
            Kind::String => {
                code.push_str(&blank(piece));
                literal.push_str(piece);
            }
            Kind::Code => {
                // Every byte outside ASCII becomes a space, so that all three texts can be cut at the same places.
                let ascii = if piece.is_ascii() { piece.to_owned() } else { blank(piece) };
                code.push_str(&ascii);
                literal.push_str(piece);
            }
        }
        rest = &rest[length..];
    }
    (code, literal)
}

enum Kind {
    Comment,
    String,
    Code,
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text.as_bytes()[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if text.as_bytes()[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// The length of `r"…"`, `r#"…"#`, `br"…"`, when the text starts with one.
fn raw_string(text: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| text.starts_with(prefix))?;
    let hashes = text[prefix.len()..].bytes().take_while(|&byte| byte == b'#').count();
    let open = prefix.len() + hashes;
    if !text[open..].starts_with('"') {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let end = text[open + 1..].find(&close)?;
    Some(open + 1 + end + close.len())
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == quote {
            return at + quote.len_utf8();
        }
    }
    text.len()
}

/// The length of a character literal; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    let first = inside.chars().next()?;
    if first == '\\' {
        return Some(quoted(text, '\''));
    }
    let end = 1 + first.len_utf8();
    text[end..].starts_with('\'').then_some(end + 1)
}

/// The byte ranges of items under `#[cfg(test)]` or `#[test]`, attribute included.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let mut items = Vec::new();
    for attribute in ["#[cfg(test)]", "#[cfg(all(test", "#[test]"] {
        for (start, _) in code.match_indices(attribute) {
            items.push((start, item_end(code, start)));
        }
    }
    items
}

/// Where the item that starts at `start` ends: at a `;` or the brace that closes its first one; a field, a variant or an arm
/// (which starts with no keyword) at its comma too.
fn item_end(code: &str, start: usize) -> usize {
    const KEYWORDS: &[&str] =
        &["pub", "fn", "impl", "struct", "enum", "trait", "type", "const", "static", "async", "unsafe", "let", "use"];
    let item = code[start..].split(']').map(str::trim_start).find(|part| !part.starts_with("#[")).unwrap_or_default();
    let word = &item[..item.find(|character| !is_word(character)).unwrap_or(item.len())];
    let comma_ends = !KEYWORDS.contains(&word);
    let mut depth = 0_usize;
    let mut braces = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' => braces += 1,
            b'}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 {
                    // `use a::{b};` goes on to its semicolon; a body ends here.
                    let rest = code[at + 1..].trim_start();
                    return if rest.starts_with(';') {
                        at + 1 + code[at + 1..].find(';').map_or(0, |semi| semi + 1)
                    } else {
                        at + 1
                    };
                }
            }
            b';' if depth == 0 && braces == 0 => return at + 1,
            b',' if comma_ends && depth == 0 && braces == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// `src/edge/gzip/policy.rs` -> edge, gzip, policy; `mod.rs` and `lib.rs` add nothing.
fn module_of(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    inner.split('/').filter(|part| *part != "mod" && *part != "lib").map(str::to_owned).collect()
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

/// Where a whole word stands in the code.
fn words<'t>(code: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word))
}

/// A path that the code names: where it stands, and its segments from the crate's root.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    at: usize,
    segments: Vec<String>,
}

/// Every path through `crate::`, `super::` or (in the binary) `edgeshim::`, use trees taken apart.
fn named(source: &Source) -> Vec<Named> {
    let code = &source.code;
    let mut found = Vec::new();
    for at in words(code, "crate") {
        if code[at + 5..].starts_with("::") && !code[..at].ends_with("pub(in ") {
            tree(code, at + 7, &[], at, &mut found);
        }
    }
    if source.room() == "main" {
        for at in words(code, "edgeshim").filter(|at| code[at + 8..].starts_with("::")) {
            tree(code, at + 10, &[], at, &mut found);
        }
    }
    for at in words(code, "super").filter(|&at| code[at + 5..].starts_with("::") && !code[..at].ends_with("super::")) {
        let climbs = code[at..].split("::").take_while(|part| *part == "super").count();
        let Some(depth) = source.module.len().checked_sub(climbs) else { continue };
        tree(code, at + climbs * 7, &source.module[..depth], at, &mut found);
    }
    found
}

/// Reads a use tree or a path at `from` and notes each leaf; returns where it ends.
fn tree(code: &str, from: usize, before: &[String], at: usize, found: &mut Vec<Named>) -> usize {
    let mut segments = before.to_vec();
    let mut here = from;
    loop {
        here += code[here..].len() - code[here..].trim_start().len();
        if code[here..].starts_with('{') {
            here += 1;
            loop {
                here += code[here..].len() - code[here..].trim_start_matches([' ', '\n', '\t', ',']).len();
                if here >= code.len() || code[here..].starts_with('}') {
                    return (here + 1).min(code.len());
                }
                let end = tree(code, here, &segments, here, found);
                // `as name`, or something that is no use tree: on to the next comma.
                here = end + code[end..].find([',', '}']).unwrap_or(code.len() - end);
            }
        }
        let length =
            code[here..].find(|character| !is_word(character) && character != '*').unwrap_or(code.len() - here);
        if length == 0 {
            break;
        }
        let segment = &code[here..here + length];
        if segment != "self" {
            segments.push(segment.to_owned());
        }
        here += length;
        if !code[here..].starts_with("::") || code[here + 2..].starts_with('<') {
            break;
        }
        here += 2;
    }
    found.push(Named { at, segments });
    here
}

// ---- the rules ---------------------------------------------------------------------------------------------------------

/// Imports run down the stairs only, and a layer sees no other layer.
fn stairs(source: &Source) -> Vec<Breach> {
    let room = source.room();
    if room == "lib" {
        return Vec::new();
    }
    let Some(own) = floor(room) else {
        let what = format!("`{room}` is no room of the house");
        return source
            .breach(0, what, "move the file into a room, or add the room to FLOORS in tests/tidy.rs and house §1")
            .into_iter()
            .collect();
    };
    let layer = source.module.get(1).filter(|_| room == "edge").map(String::as_str);
    let mut breaches = Vec::new();
    for Named { at, segments } in named(source) {
        let Some(other) = segments.first() else { continue };
        let breach = match floor(other) {
            None => source.breach(
                at,
                format!("`crate::{other}` names no room"),
                "import the thing from the room that defines it, not from the crate's root",
            ),
            Some(_) if other == room => layer.and_then(|layer| layers(source, layer, at, &segments)),
            Some(floor) if floor > own => None,
            Some(floor) => {
                let why = if floor == own {
                    "they are on one floor and do not see each other"
                } else {
                    "imports run only downwards"
                };
                source.breach(
                    at,
                    format!("`{room}` imports `{}`: {why}", segments.join("::")),
                    "move what both need to a lower room, or hand it in from above",
                )
            }
        };
        breaches.extend(breach);
    }
    breaches
}

fn layers(source: &Source, layer: &str, at: usize, segments: &[String]) -> Option<Breach> {
    let other = segments.get(1)?;
    if layer == "pipeline" || other == layer || (other == "request" && layer != "request") {
        return None;
    }
    source.breach(
        at,
        format!("edge::{layer} imports edge::{other}: a layer sees `request` alone"),
        "put what both need into edge::request or a lower room; only edge::pipeline sees the layers",
    )
}

/// serde and tokio in their rooms only.
fn crates(source: &Source) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let rules = [
        ("serde", SERDE_ROOMS, "turn the data into a plain type there and pass that on"),
        ("serde_json", SERDE_ROOMS, "turn the data into a plain type there and pass that on"),
        ("tokio", TOKIO_ROOMS, "take the socket, timer or task from above, as a type parameter or a future"),
    ];
    for (name, rooms, instead) in rules {
        if rooms.contains(&source.room()) {
            continue;
        }
        for at in words(&source.code, name) {
            let rest = &source.code[at + name.len()..];
            let before = source.code[..at].trim_end();
            let used = rest.starts_with("::")
                || before.ends_with("use")
                || before.ends_with("use ::")
                || before.ends_with("#[");
            if used && !before.ends_with("crate::") {
                let what = format!("{name} in `{}`, where only {} may use it", source.room(), rooms.join(", "));
                breaches.extend(source.breach(at, what, instead));
            }
        }
    }
    breaches
}

/// The metrics crate's macros in `metrics` only: each call hashes its key and takes a lock. Handles may go anywhere.
fn metrics(source: &Source) -> Vec<Breach> {
    const MACROS: &[&str] =
        &["counter", "gauge", "histogram", "describe_counter", "describe_gauge", "describe_histogram"];
    if source.room() == "metrics" {
        return Vec::new();
    }
    let code = &source.code;
    let called = |name: &'static str| words(code, name).filter(move |at| code[at + name.len()..].starts_with('!'));
    let mut found: Vec<usize> = MACROS.iter().flat_map(|name| called(name)).collect();
    found.sort_unstable();
    let instead = "add a handle to the room `metrics`, which makes it once, and count through that";
    found
        .into_iter()
        .filter_map(|at| source.breach(at, "a metrics macro outside the room `metrics`", instead))
        .collect()
}

/// A header's name is spelt in `wire` only.
fn header_names(source: &Source) -> Vec<Breach> {
    const CALLS: &[&str] = &[
        "HeaderName::from_static(",
        "from_static(\"x-",
        "headers.get(\"",
        "headers().get(\"",
        "headers.get_all(\"",
        "headers().get_all(\"",
        "headers.contains_key(\"",
        "headers().contains_key(\"",
        "headers.remove(\"",
        "headers_mut().remove(\"",
        "headers.insert(\"",
        "headers_mut().insert(\"",
        "headers_mut().append(\"",
        ".header(\"",
    ];
    if source.room() == "wire" {
        return Vec::new();
    }
    let mut found: Vec<usize> = CALLS
        .iter()
        .flat_map(|call| source.literal.match_indices(call))
        .map(|(at, _)| at)
        // Only where the call itself is code, not words in a string.
        .filter(|&at| source.code[at..].starts_with(|character: char| !character.is_whitespace()))
        .collect();
    found.sort_unstable();
    let instead = "use http::header's constant, or give the name a constant in src/wire and use that";
    // `HeaderName::from_static("x-…")` matches two of the calls: one line, one breach.
    let mut breaches: Vec<Breach> =
        found.into_iter().filter_map(|at| source.breach(at, "a header's name is spelt here", instead)).collect();
    breaches.dedup();
    breaches
}

/// What shipped code may not hold.
fn banned(source: &Source) -> Vec<Breach> {
    let words_banned = [
        (".unwrap()", "handle the case, or use expect with the invariant that makes it impossible"),
        ("todo!", "finish it, or leave the feature out"),
        ("unimplemented!", "finish it, or return the error that fits"),
        ("dbg!", "remove it, or log through tracing"),
    ];
    let mut breaches = Vec::new();
    for (word, instead) in words_banned {
        for (at, _) in source.code.match_indices(word) {
            let macro_of_another_name = !word.starts_with('.') && source.code[..at].ends_with(is_word);
            if !macro_of_another_name {
                breaches.extend(source.breach(at, format!("`{word}` in shipped code"), instead));
            }
        }
    }
    breaches
}

/// No drawer for odds and ends.
fn names(path: &str) -> Vec<Breach> {
    const DRAWERS: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "managers"];
    let parts = path.trim_end_matches(".rs").split('/').flat_map(|part| part.split(['_', '-', '.']));
    let drawer = parts.filter(|part| DRAWERS.contains(&part.to_ascii_lowercase().as_str())).map(|part| Breach {
        path: path.into(),
        line: 0,
        what: format!("`{part}` says nothing about what is in it"),
        instead: "name the file after what it does".into(),
    });
    drawer.take(1).collect()
}

/// Every file says at its top what it is for.
fn head(source: &Source) -> Vec<Breach> {
    let first = source.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if first.starts_with("//!") || first.starts_with("#![doc = include_str!") {
        return Vec::new();
    }
    source
        .breach(0, "the file has no head", "start it with `//! ` and a sentence: what it does and why here (house §3)")
        .into_iter()
        .collect()
}

/// The `mod` lines of `lib.rs` stand in reading order.
fn order(source: &Source) -> Vec<Breach> {
    if source.path != "src/lib.rs" {
        return Vec::new();
    }
    let mut breaches = Vec::new();
    let mut last: Option<(usize, usize, String)> = None;
    for at in words(&source.code, "mod") {
        let name = source.code[at + 3..].trim_start();
        let name = &name[..name.find(|character| !is_word(character)).unwrap_or(name.len())];
        let Some(floor) = floor(name) else {
            let what = format!("`mod {name}` is no room of the house");
            breaches.extend(source.breach(
                at,
                what,
                "make it a part of a room, or add the room to tests/tidy.rs and house §1",
            ));
            continue;
        };
        // `clock` takes the place of whatever stands before it on its floor.
        let place = READING_ORDER.iter().position(|room| *room == name);
        let place = place.unwrap_or_else(|| last.as_ref().map_or(0, |(_, place, _)| *place));
        if let Some((last_floor, last_place, before)) = &last
            && (floor < *last_floor || place < *last_place)
        {
            let what = format!("`mod {name}` stands after `mod {before}`");
            breaches.extend(source.breach(at, what, format!("keep the reading order: {}", READING_ORDER.join(", "))));
        }
        last = Some((floor, place, name.to_owned()));
    }
    breaches
}

/// All rules on one file.
fn breaches(path: &str, text: &str) -> Vec<Breach> {
    let source = Source::new(path, text);
    let mut all = names(path);
    for rule in [stairs, crates, metrics, header_names, banned, head, order] {
        all.extend(rule(&source));
    }
    all.sort_by_key(|breach| breach.line);
    all
}

// ---- on the tree -------------------------------------------------------------------------------------------------------

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
    assert!(lines.is_empty(), "{} breaches of the house's rules:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn sources_when_read_then_keep_the_house_rules() {
    let files = files_under("src");
    assert!(!files.is_empty(), "no sources found");
    report(&files.iter().flat_map(|(path, text)| breaches(path, text)).collect::<Vec<_>>());
}

#[test]
fn tests_and_benches_when_read_then_have_telling_names_and_heads() {
    let mut all = Vec::new();
    for (path, text) in files_under("tests").iter().chain(&files_under("benches")) {
        all.extend(names(path));
        all.extend(head(&Source::new(path, text)));
    }
    report(&all);
}

// ---- the rules can fail ------------------------------------------------------------------------------------------------

/// The lines at which a sample breaches a rule, the file's head supplied.
fn lines_of(rule: fn(&Source) -> Vec<Breach>, path: &str, text: &str) -> Vec<usize> {
    rule(&Source::new(path, text)).into_iter().map(|breach| breach.line).collect()
}

#[test]
fn stairs_when_an_import_runs_up_then_caught() {
    let up = [
        ("src/wire/vary.rs", "use crate::edge::request::Ctx;"),
        ("src/edge/mod.rs", "use crate::config::Settings;"),
        ("src/origin/pool.rs", "fn f() { crate::intake::beacon(); }"),
        ("src/cdn/mod.rs", "use crate::{\n    wire,\n    pages::locale,\n};"),
        ("src/ids.rs", "use crate::clock::Clock;"),
        ("src/runtime.rs", "use super::serve::Listener;"),
        ("src/edge/gzip/policy.rs", "use super::super::super::config;"),
        ("src/metrics/mod.rs", "use crate::{fault::Fault, ids::{Class, Provider}, cdn};"),
        ("src/serve/conn.rs", "use crate::Error;"),
        ("src/attic/mod.rs", ""),
    ];
    for (path, text) in up {
        assert_eq!(lines_of(stairs, path, text).len(), 1, "{path}: {text}");
    }
    let text = "use crate::{\n    wire,\n    pages::locale,\n};";
    assert_eq!(lines_of(stairs, "src/cdn/mod.rs", text), [3], "the line of the leaf, not of the `use`");
}

#[test]
fn stairs_when_an_import_runs_down_then_fine() {
    let down = [
        ("src/config/settings.rs", "use crate::edge::gzip::Settings;"),
        ("src/main.rs", "fn main() { edgeshim::cli::run() }"),
        ("src/serve/mod.rs", "use crate::{runtime::Runtime, config::Settings as S, wire::*};"),
        ("src/origin/mod.rs", "use crate::origin::pool; use super::fault; pub(crate) fn f() {}"),
        ("src/edge/mod.rs", "pub(in crate::edge) mod request; // use crate::config;\n"),
        ("src/wire/mod.rs", "const A: &str = \"use crate::edge\"; const B: &str = r#\"crate::cli\"#;"),
        (
            "src/wire/mod.rs",
            "fn f<'a>(x: &'a str) -> char { '\\'' }\n#[cfg(test)]\nmod tests { use crate::config::X; }",
        ),
        ("src/wire/mod.rs", "// tidy: a type of the root, since the macro needs it\nuse crate::Error;"),
        ("src/lib.rs", "pub mod cli;"),
    ];
    for (path, text) in down {
        assert_eq!(lines_of(stairs, path, text), [], "{path}: {text}");
    }
}

#[test]
fn layers_when_one_sees_another_then_caught() {
    for text in
        ["use crate::edge::whoopsie::Page;", "use super::whoopsie::Page;", "use crate::edge::{request::Ctx, whoopsie};"]
    {
        assert_eq!(lines_of(stairs, "src/edge/gzip.rs", text), [1], "{text}");
    }
    assert_eq!(lines_of(stairs, "src/edge/gzip/body.rs", "use super::super::pulls;"), [1]);
    assert_eq!(lines_of(stairs, "src/edge/request.rs", "use super::gzip;"), [1]);
    assert_eq!(lines_of(stairs, "src/edge/gzip.rs", "use crate::edge::pipeline;"), [1]);
    let fine = [
        ("src/edge/pipeline.rs", "use super::{gzip, whoopsie};"),
        ("src/edge/mod.rs", "pub use self::gzip::X; use crate::edge::gzip;"),
        ("src/edge/gzip/body.rs", "use super::policy; use crate::edge::{gzip::Level, request::Ctx};"),
        ("src/edge/request/class.rs", "use super::Ctx; use crate::edge::request::Method;"),
    ];
    for (path, text) in fine {
        assert_eq!(lines_of(stairs, path, text), [], "{path}: {text}");
    }
}

#[test]
fn crates_when_in_a_wrong_room_then_caught() {
    for text in ["use serde::Deserialize;", "#[serde(default)]", "let x = serde_json::from_str(a);", "use ::serde::de;"]
    {
        assert_eq!(lines_of(crates, "src/edge/gzip.rs", text), [1], "{text}");
        assert_eq!(lines_of(crates, "src/config/file.rs", text), [], "{text}");
    }
    for text in ["use tokio::time::sleep;", "#[tokio::main]", "tokio::spawn(f);"] {
        assert_eq!(lines_of(crates, "src/config/file.rs", text), [1], "{text}");
        assert_eq!(lines_of(crates, "src/origin/pool.rs", text), [], "{text}");
    }
    let tests = "fn f() {}\n#[cfg(test)]\nmod tests {\n    use tokio::time;\n}\n";
    assert_eq!(lines_of(crates, "src/wire/mod.rs", tests), []);
    assert_eq!(lines_of(crates, "src/wire/mod.rs", "// tokio::spawn\nlet tokio_like = \"tokio::\";"), []);
}

#[test]
fn metrics_when_a_macro_is_used_outside_its_room_then_caught() {
    for text in
        ["metrics::counter!(\"a\")", "counter!(\"a\")", "let h = ::metrics::histogram!(\"a\");", "describe_gauge!(a)"]
    {
        assert_eq!(lines_of(metrics, "src/edge/pulls.rs", text), [1], "{text}");
        assert_eq!(lines_of(metrics, "src/metrics/mod.rs", text), [], "{text}");
    }
    for text in ["use metrics::Counter;", "let counter = 1;", "my_counter!(a)", "// counter!(\"a\")", "counter != a"] {
        assert_eq!(lines_of(metrics, "src/edge/pulls.rs", text), [], "{text}");
    }
}

#[test]
fn header_names_when_spelt_outside_wire_then_caught() {
    for text in [
        "const A: HeaderName = HeaderName::from_static(\"x-a\");",
        "let a = from_static(\"x-a\");",
        "request.headers().get(\"x-a\")",
        "headers.insert(\"age\", v)",
        "Request::builder().header(\"x-a\", \"b\")",
    ] {
        assert_eq!(lines_of(header_names, "src/edge/pulls.rs", text), [1], "{text}");
        assert_eq!(lines_of(header_names, "src/wire/names.rs", text), [], "{text}");
    }
    for text in [
        "HeaderValue::from_static(\"text/plain\")",
        "headers.get(&header::AGE)",
        "\"call headers.get(x)\"",
        "map.get(\"x-a\")",
    ] {
        assert_eq!(lines_of(header_names, "src/edge/pulls.rs", text), [], "{text}");
    }
}

#[test]
fn banned_when_in_shipped_code_then_caught() {
    for text in ["let a = b.unwrap();", "todo!()", "unimplemented!(\"x\")", "dbg!(a);"] {
        assert_eq!(lines_of(banned, "src/ids.rs", text), [1], "{text}");
    }
    for text in [
        "let a = b.unwrap_or_default();",
        "// b.unwrap()",
        "/* outer /* b.unwrap() */ dbg!(a) */",
        "let s = \"a\\\".unwrap()\";",
        "#[cfg(test)]\nmod tests {\n    fn f() { let a = b.unwrap(); }\n}",
        "#[cfg(test)]\nuse a::{b};\nfn f() {}",
        "#[cfg(test)]\n#[allow(dead_code)]\nfn f<A, B>(a: [u8; 2]) { a.unwrap() }",
        "let a = b.unwrap(); // tidy: a literal above, parsed by a const",
        "my_todo!()",
    ] {
        assert_eq!(lines_of(banned, "src/ids.rs", text), [], "{text}");
    }
    assert_eq!(
        lines_of(banned, "src/ids.rs", "#[cfg(test)]\nmod tests { }\nfn f() { a.unwrap(); }"),
        [3],
        "after the tests"
    );
    assert_eq!(
        lines_of(banned, "src/ids.rs", "#[cfg(test)]\nuse a::{b};\nfn f() { a.unwrap(); }"),
        [3],
        "after a test import"
    );
    assert_eq!(
        lines_of(banned, "src/ids.rs", "struct A {\n#[cfg(test)]\na: u8,\n}\nfn f() { a.unwrap(); }"),
        [5],
        "after a test field"
    );
    assert_eq!(lines_of(banned, "src/ids.rs", "let é = '\"'; a.unwrap();"), [1], "letters beyond ASCII");
    assert_eq!(lines_of(banned, "src/ids.rs", "a.unwrap(); // tidy:"), [1], "a waiver without a reason");
    assert_eq!(lines_of(banned, "src/wire/tests.rs", "a.unwrap();"), [], "a file of tests");
}

#[test]
fn names_when_a_drawer_then_caught() {
    for path in
        ["src/utils.rs", "src/edge/common/mod.rs", "src/http_helpers.rs", "src/cdn/manager.rs", "tests/util/mod.rs"]
    {
        assert_eq!(names(path).len(), 1, "{path}");
    }
    for path in ["src/edge/gzip.rs", "src/utilisation.rs", "src/commons.rs"] {
        assert_eq!(names(path), [], "{path}");
    }
}

#[test]
fn head_when_missing_then_caught() {
    assert_eq!(lines_of(head, "src/ids.rs", "use std::fmt;\n//! late"), [1]);
    assert_eq!(lines_of(head, "src/ids.rs", ""), [1]);
    assert_eq!(lines_of(head, "src/ids.rs", "\n//! What it does.\n"), []);
    assert_eq!(lines_of(head, "src/lib.rs", "#![doc = include_str!(\"ARCHITECTURE.md\")]"), []);
}

#[test]
fn order_when_lib_lists_rooms_out_of_order_then_caught() {
    assert_eq!(lines_of(order, "src/lib.rs", "pub mod edge;\npub mod config;\n"), [2]);
    assert_eq!(lines_of(order, "src/lib.rs", "pub mod admin;\npub mod serve;\n"), [2]);
    assert_eq!(lines_of(order, "src/lib.rs", "pub mod wire;\npub mod attic;\n"), [2]);
    assert_eq!(lines_of(order, "src/lib.rs", "mod clock;\npub mod metrics;\n"), [2]);
    let right = "pub mod cli;\npub mod serve;\npub mod admin;\npub mod edge;\nmod fault;\nmod clock;\npub mod ids;\npub mod wire;\n";
    assert_eq!(lines_of(order, "src/lib.rs", right), []);
}

#[test]
fn breach_when_shown_then_says_where_what_and_what_instead() {
    let breaches = breaches("src/ids.rs", "//! Ids.\n\nuse crate::edge::request;\n");
    let text = breaches.first().expect("a breach").to_string();
    assert!(text.starts_with("src/ids.rs:3: `ids` imports `edge::request`: imports run only downwards; "), "{text}");
}
