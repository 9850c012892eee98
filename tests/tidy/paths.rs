//! Finds the module paths in a file.

use crate::source::{Source, is_word, words};

/// A path in the code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// The offset of the path in the code.
    pub(crate) at: usize,
    /// The segments of the path, from the root of the crate.
    pub(crate) segments: Vec<String>,
    /// The last segment, or the name after `as`.
    pub(crate) name: String,
}

/// Returns every path that starts with `crate::`, `super::` or, in the binary, `edgeshim::`. From a `use` tree, returns
/// one path for each leaf.
pub(crate) fn named(source: &Source) -> Vec<Named> {
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

/// Returns every path that a `use` imports. A path into another crate is returned as if it were a path below the module
/// of the file.
pub(crate) fn imported(source: &Source) -> Vec<Named> {
    let mut found = Vec::new();
    for at in words(&source.code, "use") {
        tree(&source.code, at + 3, &[], at, &mut found);
    }
    for Named { segments, .. } in &mut found {
        let climbs = segments.iter().take_while(|segment| *segment == "super").count();
        let depth = source.module.len().saturating_sub(climbs);
        *segments = if segments.first().is_some_and(|first| first == "crate") {
            segments.split_off(1)
        } else {
            [&source.module[..depth], &segments[climbs..]].concat()
        };
    }
    found
}

/// Reads the `use` tree or the path at `from`. Adds each leaf to `found`. Returns the offset at which the tree or path
/// ends.
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
                // Skip `as name`, and anything that is not a `use` tree.
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
    let alias = code[here..].trim_start().strip_prefix("as ").map(str::trim_start);
    let alias =
        alias.map(|alias| alias[..alias.find(|character| !is_word(character)).unwrap_or(alias.len())].to_owned());
    let name = alias.or_else(|| segments.last().cloned()).unwrap_or_default();
    found.push(Named { at, segments, name });
    here
}
