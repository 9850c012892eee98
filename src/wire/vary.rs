//! Vary (RFC 9110 §12.5.5): one merged line that has each name once, or `*` only.
//!
//! Some caches read only the first line of Vary. Imperva recognises only the exact text `Accept-Encoding`. Therefore a
//! response gets one line with the usual spelling. The common cases allocate nothing: no Vary, or one line that is
//! correct already.

use bytes::Bytes;
use http::header::{Entry, HeaderMap, HeaderValue};

use super::names::VARY;
use super::tokens;

/// The spelling of Accept-Encoding in Vary.
const ACCEPT_ENCODING: &str = "Accept-Encoding";
/// If a merged line would have this number of distinct names or more, edgeshim writes `*`. In practice, no cache could
/// reuse a response with so many names. The limit also bounds the search for duplicates.
const MOST_NAMES: usize = 64;

/// Returns the names in all lines of Vary, in their original spelling.
pub(crate) fn names(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    tokens::tokens(headers, &VARY)
}

/// Returns whether Vary has `name` and no other name.
pub(crate) fn is_only(headers: &HeaderMap, name: &str) -> bool {
    let mut names = names(headers).peekable();
    names.peek().is_some() && names.all(|known| known.eq_ignore_ascii_case(name.as_bytes()))
}

/// Adds Accept-Encoding to Vary and merges all lines into one line. Each name appears once, in the order of first
/// appearance. If one of the names is `*`, the line is `*` only.
pub fn merge_accept_encoding(headers: &mut HeaderMap) {
    if let Entry::Vacant(absent) = headers.entry(VARY) {
        absent.insert(HeaderValue::from_static(ACCEPT_ENCODING));
        return;
    }
    let line = if is_only(headers, ACCEPT_ENCODING) {
        HeaderValue::from_static(ACCEPT_ENCODING)
    } else if is_merged(headers) {
        return;
    } else {
        merged(headers, ACCEPT_ENCODING)
    };
    headers.insert(VARY, line);
}

/// Returns whether Vary is already correct: `*`, or one line without duplicates that has Accept-Encoding in the usual
/// spelling.
fn is_merged(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(VARY).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    if line == "*" {
        return true;
    }
    let (mut unique, mut found) = (Unique::default(), false);
    for name in tokens::of_line(line.as_bytes()) {
        if name == b"*" || !unique.add(name) {
            return false;
        }
        found |= name == ACCEPT_ENCODING.as_bytes();
    }
    found
}

/// If Vary does not have the name, adds the name and merges all lines into one line.
pub(crate) fn add(headers: &mut HeaderMap, name: &str) {
    if !names(headers).any(|known| known.eq_ignore_ascii_case(name.as_bytes())) {
        let line = merged(headers, name);
        headers.insert(VARY, line);
    }
}

fn merged(headers: &HeaderMap, added: &str) -> HeaderValue {
    let any = HeaderValue::from_static("*");
    let mut unique = Unique::default();
    let mut length = 0;
    for name in names(headers).chain([added.as_bytes()]) {
        if name == b"*" || (unique.add(name) && unique.count == MOST_NAMES) {
            return any;
        }
        length += name.len() + 2;
    }
    let mut line = Vec::with_capacity(length);
    for name in unique.names() {
        if !line.is_empty() {
            line.extend_from_slice(b", ");
        }
        let is_accept_encoding = name.eq_ignore_ascii_case(ACCEPT_ENCODING.as_bytes());
        line.extend_from_slice(if is_accept_encoding { ACCEPT_ENCODING.as_bytes() } else { name });
    }
    // A line that is joined from parts of valid values is valid.
    HeaderValue::from_maybe_shared(Bytes::from(line)).unwrap_or(any)
}

/// A bounded set of names on the stack. The set ignores case.
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

    /// Adds a name and returns whether the name is new. Also returns false if the set is full.
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
    fn vary_when_merged_then_has_one_line_without_duplicates() {
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
    fn name_when_added_then_is_in_one_line_with_the_other_names() {
        for (before, after) in
            [(&[][..], "X-Id"), (&["x-id"], "x-id"), (&["Cookie", "Origin"], "Cookie, Origin, X-Id"), (&["*"], "*")]
        {
            let mut headers = map(before);
            add(&mut headers, "X-Id");
            assert_eq!(lines(&headers), [after], "{before:?}");
        }
    }

    #[test]
    fn vary_when_number_of_names_reaches_the_limit_then_becomes_a_star() {
        let names: Vec<_> = (0..MOST_NAMES).map(|n| format!("x-{n}")).collect();
        let mut headers = map(&[&names.join(",")]);
        merge_accept_encoding(&mut headers);
        assert_eq!(lines(&headers), ["*"]);
    }

    #[test]
    fn vary_when_every_name_is_accept_encoding_then_has_only_accept_encoding() {
        assert!(is_only(&map(&["accept-encoding", "Accept-Encoding"]), "Accept-Encoding"));
        assert!(!is_only(&map(&["Accept-Encoding, Origin"]), "Accept-Encoding"));
        assert!(!is_only(&map(&[]), "Accept-Encoding"));
    }

    proptest! {
        #[test]
        fn vary_when_names_repeat_then_keeps_each_name_once(
            before in prop::collection::vec(
                prop::collection::vec("[aAbBcC]{1,2}|Accept-Encoding|ACCEPT-encoding", 0..5),
                0..4,
            ),
        ) {
            let text: Vec<_> = before.iter().map(|line| line.join(", ")).collect();
            let mut headers = map(&text.iter().map(String::as_str).collect::<Vec<_>>());
            merge_accept_encoding(&mut headers);
            let first = lines(&headers).join("|");
            merge_accept_encoding(&mut headers);
            prop_assert_eq!(lines(&headers), [first.as_str()], "a second merge changes Vary");
            let mut after: Vec<_> = first.split(", ").map(str::to_ascii_lowercase).collect();
            after.sort();
            let names = before.iter().flatten().map(|name| name.to_ascii_lowercase());
            let mut wanted: Vec<_> = names.chain(["accept-encoding".into()]).collect();
            wanted.sort();
            wanted.dedup();
            prop_assert_eq!(after, wanted);
        }

        #[test]
        fn vary_when_names_are_arbitrary_then_keeps_all_names_or_becomes_a_star(
            before in prop::collection::vec("[aAbB*,\t ]{0,12}", 0..4),
        ) {
            let mut headers = map(&before.iter().map(String::as_str).collect::<Vec<_>>());
            let small = |headers: &HeaderMap| names(headers).map(<[u8]>::to_ascii_lowercase).collect::<Vec<_>>();
            let mut wanted = small(&headers);
            wanted.push(b"accept-encoding".to_vec());
            wanted.sort();
            wanted.dedup();
            if wanted.contains(&b"*".to_vec()) {
                wanted = vec![b"*".to_vec()];
            }
            merge_accept_encoding(&mut headers);
            prop_assert_eq!(headers.get_all(VARY).iter().count(), 1);
            let once = headers.clone();
            merge_accept_encoding(&mut headers);
            prop_assert_eq!(&once, &headers, "a second merge changes Vary");
            let mut after = small(&headers);
            after.sort();
            prop_assert_eq!(after, wanted);
        }
    }
}
