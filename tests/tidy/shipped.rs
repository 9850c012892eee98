//! What shipped code must not contain, and what each file must have.

use crate::source::{Breach, Source, is_word};

/// Only `wire` may contain the name of a header field as text.
pub(crate) fn header_names(source: &Source) -> Vec<Breach> {
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
        // Ignore a call that is quoted in a string.
        .filter(|&at| source.code[at..].starts_with(|character: char| !character.is_whitespace()))
        .collect();
    found.sort_unstable();
    let instead = "use the constant of http::header, or add one to src/wire";
    // `HeaderName::from_static("x-…")` matches two entries of CALLS; report it once.
    let mut breaches: Vec<Breach> =
        found.into_iter().filter_map(|at| source.breach(at, "the name of a header field as text", instead)).collect();
    breaches.dedup();
    breaches
}

/// Calls that shipped code must not contain.
pub(crate) fn banned(source: &Source) -> Vec<Breach> {
    let words_banned = [
        (".unwrap()", "handle the case, or call expect with the invariant that excludes it"),
        ("todo!", "finish the code, or leave the feature out"),
        ("unimplemented!", "finish the code, or return an error"),
        ("dbg!", "remove the call, or log with tracing"),
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

/// File names must say what the file does.
pub(crate) fn names(path: &str) -> Vec<Breach> {
    const VAGUE: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "managers"];
    let parts = path.trim_end_matches(".rs").split('/').flat_map(|part| part.split(['_', '-', '.']));
    let vague = parts.filter(|part| VAGUE.contains(&part.to_ascii_lowercase().as_str())).map(|part| Breach {
        path: path.into(),
        line: 0,
        what: format!("the name `{part}` does not say what the file contains"),
        instead: "name the file after what it does".into(),
    });
    vague.take(1).collect()
}

/// Every file starts with a doc comment that says what it does.
pub(crate) fn head(source: &Source) -> Vec<Breach> {
    let first = source.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if first.starts_with("//!") || first.starts_with("#![doc = include_str!") {
        return Vec::new();
    }
    source
        .breach(0, "the file has no doc comment", "start it with `//! ` and a sentence that says what it does")
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::lines_of;

    #[test]
    fn header_names_when_spelt_outside_wire_then_breach() {
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
    fn banned_when_in_shipped_code_then_breach() {
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
    fn names_when_vague_then_breach() {
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
    fn head_when_missing_then_breach() {
        assert_eq!(lines_of(head, "src/ids.rs", "use std::fmt;\n//! late"), [1]);
        assert_eq!(lines_of(head, "src/ids.rs", ""), [1]);
        assert_eq!(lines_of(head, "src/ids.rs", "\n//! What it does.\n"), []);
        assert_eq!(lines_of(head, "src/lib.rs", "#![doc = include_str!(\"ARCHITECTURE.md\")]"), []);
    }
}
