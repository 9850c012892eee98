//! The rules for what shipped code must not contain.

use crate::source::{Breach, Source, is_word, words};

/// Only `wire` is allowed to contain the name of a header field as text.
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
        // A call inside a string is not code, so it does not count.
        .filter(|&at| source.code[at..].starts_with(|character: char| !character.is_whitespace()))
        .collect();
    found.sort_unstable();
    let instead = "use the constant from http::header, or add a constant to src/wire";
    // `HeaderName::from_static("x-…")` matches two entries of CALLS, but must be reported once.
    let mut breaches: Vec<Breach> = found
        .into_iter()
        .filter_map(|at| source.breach(at, "the name of a header field is written as text", instead))
        .collect();
    breaches.dedup();
    breaches
}

/// Finds calls that shipped code must not contain.
pub(crate) fn banned(source: &Source) -> Vec<Breach> {
    let words_banned = [
        (".unwrap()", "handle the case, or call expect with the reason why the case is impossible"),
        ("todo!", "finish the code, or leave the feature out"),
        ("unimplemented!", "finish the code, or return an error"),
        ("dbg!", "remove the call, or log with tracing"),
    ];
    let mut breaches = Vec::new();
    for (word, instead) in words_banned {
        for (at, _) in source.code.match_indices(word) {
            let macro_of_another_name = !word.starts_with('.') && source.code[..at].ends_with(is_word);
            if !macro_of_another_name {
                breaches.extend(source.breach(at, format!("shipped code contains `{word}`"), instead));
            }
        }
    }
    breaches
}

/// Finds casts to `usize` in `metrics` and `edge`. In these rooms, ids and enums select handles, and a cast to `usize`
/// would hide their types.
pub(crate) fn casts(source: &Source) -> Vec<Breach> {
    if !["metrics", "edge"].contains(&source.room()) {
        return Vec::new();
    }
    let casts = words(&source.code, "as").filter(|at| source.code[at + 2..].trim_start().starts_with("usize"));
    let instead = "pass the typed value, or call usize::from";
    casts.filter_map(|at| source.breach(at, "the code casts a value to usize", instead)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::lines_of;

    #[test]
    fn header_name_when_written_as_text_outside_wire_then_reported() {
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
    fn banned_call_when_in_shipped_code_then_reported() {
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
            "code after the tests must be checked"
        );
        assert_eq!(
            lines_of(banned, "src/ids.rs", "#[cfg(test)]\nuse a::{b};\nfn f() { a.unwrap(); }"),
            [3],
            "code after an import for tests must be checked"
        );
        assert_eq!(
            lines_of(banned, "src/ids.rs", "struct A {\n#[cfg(test)]\na: u8,\n}\nfn f() { a.unwrap(); }"),
            [5],
            "code after a field for tests must be checked"
        );
        assert_eq!(
            lines_of(banned, "src/ids.rs", "let é = '\"'; a.unwrap();"),
            [1],
            "code after a letter outside ASCII must be checked"
        );
        assert_eq!(
            lines_of(banned, "src/ids.rs", "a.unwrap(); // tidy:"),
            [1],
            "a comment without a reason must not allow the breach"
        );
        assert_eq!(
            lines_of(banned, "src/wire/tests.rs", "a.unwrap();"),
            [],
            "the rule must not apply to a file of tests"
        );
    }

    #[test]
    fn cast_to_usize_when_in_metrics_or_edge_then_reported() {
        for text in ["let a = b as usize;", "x[class\n    as usize]"] {
            assert_eq!(lines_of(casts, "src/edge/pulls.rs", text).len(), 1, "{text}");
            assert_eq!(lines_of(casts, "src/serve/conn.rs", text), [], "{text}");
        }
        for text in ["b as u64", "use a::usize;", "// b as usize", "// tidy: an index of a bucket\nb as usize"] {
            assert_eq!(lines_of(casts, "src/metrics/mod.rs", text), [], "{text}");
        }
    }
}
