//! Reads a source file into the forms that the rules need.
//!
//! The rules search the text and do not parse Rust. A comment `// tidy: <reason>` allows a breach in the line of the
//! comment. If no code precedes the comment, the comment also allows a breach in the next line.

use std::fmt;

/// A place that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Breach {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) what: String,
    pub(crate) instead: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}; {}", self.path, self.line, self.what, self.instead)
    }
}

/// A source file in three forms. A byte has the same offset in each form.
pub(crate) struct Source<'a> {
    /// The path relative to the root of the repository, with `/` between folders.
    pub(crate) path: &'a str,
    /// The unchanged text.
    pub(crate) text: &'a str,
    /// The text, with spaces in place of comments, strings and test items.
    pub(crate) code: String,
    /// The text, with spaces in place of comments and test items. Strings are unchanged.
    pub(crate) literal: String,
    /// The module path, for example `edge`, `gzip`, `policy` for `src/edge/gzip/policy.rs`.
    pub(crate) module: Vec<String>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(path: &'a str, text: &'a str) -> Self {
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

    pub(crate) fn room(&self) -> &str {
        self.module.first().map_or("lib", String::as_str)
    }

    /// Returns a breach at a byte offset, or `None` if a comment allows the breach.
    pub(crate) fn breach(&self, at: usize, what: impl Into<String>, instead: impl Into<String>) -> Option<Breach> {
        self.breach_in(self.text[..at].matches('\n').count() + 1, what, instead)
    }

    /// Returns a breach in a line, or `None` if a comment allows the breach.
    pub(crate) fn breach_in(&self, line: usize, what: impl Into<String>, instead: impl Into<String>) -> Option<Breach> {
        let mut lines = self.text.lines().skip(line.saturating_sub(2));
        let before = if line > 1 { lines.next().unwrap_or_default() } else { "" };
        let same = lines.next().unwrap_or_default();
        if reasoned(same) || (before.trim_start().starts_with("//") && reasoned(before)) {
            return None;
        }
        Some(Breach { path: self.path.into(), line, what: what.into(), instead: instead.into() })
    }

    /// Returns a breach that concerns the complete file, or nothing if a comment in the first line allows the breach.
    pub(crate) fn breach_of_file(&self, what: impl Into<String>, instead: impl Into<String>) -> Vec<Breach> {
        self.breach_in(1, what, instead).into_iter().collect()
    }
}

fn reasoned(line: &str) -> bool {
    line.split_once("// tidy:").is_some_and(|(_, reason)| !reason.trim().is_empty())
}

/// Replaces every byte except line feeds by a space.
pub(crate) fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// Returns two copies of the text. In the first copy, spaces replace comments and strings. In the second copy, spaces
/// replace only comments. Offsets and line numbers do not change.
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
                // `code` contains only ASCII, so that the rules can split it at any offset.
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

pub(crate) fn is_word(character: char) -> bool {
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

/// Returns the length of the raw string at the start of the text, such as `r#"…"#` or `br"…"`.
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

/// Returns the length of the character literal at the start of the text, or `None` if the text starts with a lifetime.
fn character(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    let first = inside.chars().next()?;
    if first == '\\' {
        return Some(quoted(text, '\''));
    }
    let end = 1 + first.len_utf8();
    text[end..].starts_with('\'').then_some(end + 1)
}

/// Returns the byte ranges of items that are compiled only for tests. Each range starts at the attribute.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let mut items = Vec::new();
    for attribute in ["#[cfg(test)]", "#[cfg(all(test", "#[test]"] {
        for (start, _) in code.match_indices(attribute) {
            items.push((start, item_end(code, start)));
        }
    }
    items
}

/// Returns the end of the item at `start`. An item ends at a `;` or at the brace that closes its first brace. An item
/// that starts without a keyword is a field, a variant or a match arm. Such an item can also end at a comma.
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
                    // The body of an item ends at this brace. `use a::{b};` ends at the semicolon after the brace.
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

/// Returns the module path of a file. For `src/edge/gzip/policy.rs`, the segments are `edge`, `gzip` and `policy`. The
/// names `mod.rs` and `lib.rs` add no segment.
fn module_of(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    inner.split('/').filter(|part| *part != "mod" && *part != "lib").map(str::to_owned).collect()
}

/// Returns the offsets at which `word` appears in the code as a complete word.
pub(crate) fn words<'t>(code: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word))
}

/// Returns the numbers of the lines in which a sample breaks a rule.
pub(crate) fn lines_of(rule: fn(&Source) -> Vec<Breach>, path: &str, text: &str) -> Vec<usize> {
    rule(&Source::new(path, text)).into_iter().map(|breach| breach.line).collect()
}
