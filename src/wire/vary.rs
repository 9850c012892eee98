//! Vary (RFC 9110 §12.5.5): one merged line, each name once, `*` alone.
//!
//! Some caches read only the first line (and Imperva only the exact text `Accept-Encoding`), so what leaves here is one
//! line with the usual spelling. The common cases, no Vary at all and one line that is right already, allocate nothing.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};

use super::names::VARY;
use super::tokens;

/// How Accept-Encoding is spelt in Vary.
const ACCEPT_ENCODING: &str = "Accept-Encoding";
/// More distinct names than this become `*`: no cache could use such an answer twice, and it bounds the search for
/// duplicates.
const MOST_NAMES: usize = 64;

/// The names in all lines of Vary, as written.
pub(crate) fn names(headers: &HeaderMap) -> tokens::Tokens<'_> {
    tokens::tokens(headers, &VARY)
}

/// Whether Vary holds `*`: no later request can be known to match.
pub(crate) fn is_any(headers: &HeaderMap) -> bool {
    tokens::has_token(headers, &VARY, "*")
}

/// Whether Vary names `name`, in any case.
pub(crate) fn contains(headers: &HeaderMap, name: &str) -> bool {
    tokens::has_token(headers, &VARY, name)
}

/// Whether Vary names `name` and nothing else.
pub(crate) fn is_only(headers: &HeaderMap, name: &str) -> bool {
    let mut names = names(headers).peekable();
    names.peek().is_some() && names.all(|known| known.eq_ignore_ascii_case(name.as_bytes()))
}

/// Adds Accept-Encoding to Vary and merges its lines into one.
pub fn merge_accept_encoding(headers: &mut HeaderMap) {
    if !headers.contains_key(VARY) || is_only(headers, ACCEPT_ENCODING) {
        headers.insert(VARY, HeaderValue::from_static(ACCEPT_ENCODING));
        return;
    }
    merge(headers, &[ACCEPT_ENCODING]);
}

/// Adds `extra` to Vary and merges its lines into one: each name once in the order of appearance, spelt as in `extra`
/// where it is named there; `*` swallows all others. Without any name Vary is removed.
pub(crate) fn merge(headers: &mut HeaderMap, extra: &[&str]) {
    if is_right(headers, extra) {
        return;
    }
    let merged = merged(headers, extra);
    match merged {
        Some(line) => {
            headers.insert(VARY, line);
        }
        None => {
            headers.remove(VARY);
        }
    }
}

/// Whether there is one line already, without duplicates, that holds all of `extra` in their spelling.
fn is_right(headers: &HeaderMap, extra: &[&str]) -> bool {
    let mut lines = headers.get_all(VARY).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    if line == "*" {
        return true;
    }
    let (mut unique, mut found) = (Unique::default(), 0);
    for name in tokens::of_line(line.as_bytes()) {
        if name == b"*" || !unique.add(name) {
            return false;
        }
        found += usize::from(extra.iter().any(|extra| extra.as_bytes() == name));
    }
    found == extra.len() && unique.count > 0
}

fn merged(headers: &HeaderMap, extra: &[&str]) -> Option<HeaderValue> {
    let mut unique = Unique::default();
    let mut length = 0;
    for name in names(headers).chain(extra.iter().map(|name| name.as_bytes())) {
        if name == b"*" || (unique.add(name) && unique.count == MOST_NAMES) {
            return Some(HeaderValue::from_static("*"));
        }
        length += name.len() + 2;
    }
    let mut line = Vec::with_capacity(length);
    for name in unique.names() {
        if !line.is_empty() {
            line.extend_from_slice(b", ");
        }
        let spelt = extra.iter().map(|extra| extra.as_bytes()).find(|extra| extra.eq_ignore_ascii_case(name));
        line.extend_from_slice(spelt.unwrap_or(name));
    }
    if line.is_empty() { None } else { HeaderValue::from_maybe_shared(Bytes::from(line)).ok() }
}

/// A bounded set of names on the stack; the case of letters does not count.
struct Unique<'a> {
    names: [&'a [u8]; MOST_NAMES],
    count: usize,
}

impl Default for Unique<'_> {
    fn default() -> Self {
        Self { names: [&[]; MOST_NAMES], count: 0 }
    }
}

impl<'a> Unique<'a> {
    fn names(&self) -> impl Iterator<Item = &'a [u8]> {
        self.names.into_iter().take(self.count)
    }

    /// Whether the name was new. A full set answers no to everything.
    fn add(&mut self, name: &'a [u8]) -> bool {
        if self.names().any(|known| known.eq_ignore_ascii_case(name)) {
            return false;
        }
        let Some(slot) = self.names.get_mut(self.count) else { return false };
        *slot = name;
        self.count += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(VARY, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn lines(headers: &HeaderMap) -> Vec<&str> {
        headers.get_all(VARY).iter().map(|line| line.to_str().unwrap()).collect()
    }

    #[test]
    fn accept_encoding_is_merged_into_one_line() {
        for (before, after) in [
            (&[][..], "Accept-Encoding"),
            (&[""], "Accept-Encoding"),
            (&["Accept-Encoding"], "Accept-Encoding"),
            (&["accept-encoding"], "Accept-Encoding"),
            (&["Accept-Encoding", "accept-ENCODING"], "Accept-Encoding"),
            (&["Cookie"], "Cookie, Accept-Encoding"),
            (&["Cookie", "Origin,cookie"], "Cookie, Origin, Accept-Encoding"),
            (&["accept-encoding,Origin"], "Accept-Encoding, Origin"),
            (&["Accept-Encoding , Origin"], "Accept-Encoding , Origin"),
            (&["*"], "*"),
            (&["Origin, *"], "*"),
            (&["Origin", "*", "Cookie"], "*"),
        ] {
            let mut headers = map(before);
            merge_accept_encoding(&mut headers);
            assert_eq!(lines(&headers), [after], "{before:?}");
        }
    }

    #[test]
    fn general_merge_without_names_removes_the_field() {
        let mut headers = map(&["", " , "]);
        merge(&mut headers, &[]);
        assert!(lines(&headers).is_empty());
        let mut headers = map(&["a", "A, b"]);
        merge(&mut headers, &[]);
        assert_eq!(lines(&headers), ["a, b"]);
    }

    #[test]
    fn very_many_names_become_any() {
        let names: Vec<_> = (0..MOST_NAMES).map(|n| format!("x-{n}")).collect();
        let mut headers = map(&[&names.join(",")]);
        merge_accept_encoding(&mut headers);
        assert_eq!(lines(&headers), ["*"]);
    }

    #[test]
    fn questions_see_all_lines() {
        assert!(is_any(&map(&["a", "b,*"])) && !is_any(&map(&["a"])));
        assert!(contains(&map(&["a", "User-Agent"]), "user-agent"));
        assert!(is_only(&map(&["accept-encoding", "Accept-Encoding"]), "Accept-Encoding"));
        assert!(!is_only(&map(&["Accept-Encoding, Origin"]), "Accept-Encoding"));
        assert!(!is_only(&map(&[]), "Accept-Encoding"));
    }

    proptest! {
        #[test]
        fn merged_lines_hold_each_name_once(before in prop::collection::vec(prop::collection::vec("[aAbBcC]{1,2}|Accept-Encoding|ACCEPT-encoding", 0..5), 0..4)) {
            let text: Vec<_> = before.iter().map(|line| line.join(", ")).collect();
            let mut headers = map(&text.iter().map(String::as_str).collect::<Vec<_>>());
            merge_accept_encoding(&mut headers);
            let first = lines(&headers).join("|");
            merge_accept_encoding(&mut headers);
            prop_assert_eq!(lines(&headers), [first.as_str()], "twice is once");
            let mut after: Vec<_> = first.split(", ").map(str::to_ascii_lowercase).collect();
            after.sort();
            let mut wanted: Vec<_> = before.iter().flatten().map(|name| name.to_ascii_lowercase()).chain(["accept-encoding".into()]).collect();
            wanted.sort();
            wanted.dedup();
            prop_assert_eq!(after, wanted);
        }

        #[test]
        fn merged_lines_keep_every_name_or_say_any(
            before in prop::collection::vec("[aAbB*,\t ]{0,12}", 0..4),
            extra in prop::sample::subsequence(vec!["Accept-Encoding", "A", "Origin"], 0..=3),
        ) {
            let mut headers = map(&before.iter().map(String::as_str).collect::<Vec<_>>());
            let small = |headers: &HeaderMap| names(headers).map(<[u8]>::to_ascii_lowercase).collect::<Vec<_>>();
            let mut wanted: Vec<_> = small(&headers).into_iter().chain(extra.iter().map(|name| name.to_ascii_lowercase().into())).collect();
            wanted.sort();
            wanted.dedup();
            if is_any(&headers) {
                wanted = vec![b"*".to_vec()];
            }
            merge(&mut headers, &extra);
            prop_assert_eq!(headers.get_all(VARY).iter().count(), usize::from(!wanted.is_empty()));
            let once = headers.clone();
            merge(&mut headers, &extra);
            prop_assert_eq!(&once, &headers, "twice is once");
            let mut after = small(&headers);
            after.sort();
            prop_assert_eq!(after, wanted);
        }
    }
}
