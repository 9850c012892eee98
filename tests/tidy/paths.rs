//! The module paths that a file names.

use crate::source::{Source, is_word, words};

/// A path in the code: its offset, and its segments from the root of the crate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) at: usize,
    pub(crate) segments: Vec<String>,
}

/// Every path that starts with `crate::`, `super::` or, in the binary, `edgeshim::`. A `use` tree has one per leaf.
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

/// Reads the `use` tree or path at `from`, adds each leaf to `found` and returns the end.
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
    found.push(Named { at, segments });
    here
}
