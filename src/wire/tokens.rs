//! Comma-separated lists (RFC 9110 §5.6.1) over any number of lines of one field.
//!
//! There are two main readers. [`tokens`] is for fields whose members are plain tokens (Connection, Vary, TE). In these
//! fields a quote has no meaning. [`members`] is for fields whose members can contain quoted strings (Accept,
//! Accept-Encoding, Transfer-Encoding). In these fields a comma inside quotes does not separate members. Both readers
//! trim white space and skip empty members. Cost: one pass over the bytes, no allocation.

use http::header::{HeaderMap, HeaderName, HeaderValue, ValueIter};

/// Returns the members of all lines of `name`, split at every comma.
pub(crate) fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    headers.get_all(name).iter().flat_map(|line| of_line(line.as_bytes()))
}

/// Returns the members of all lines of `name`, split at commas outside quoted strings.
pub(crate) fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Members<'a> {
    Members { lines: Some(headers.get_all(name).iter()), rest: None }
}

/// Returns the members of one line, split at commas outside quoted strings.
pub(crate) fn members_of_line(line: &[u8]) -> Members<'_> {
    Members { lines: None, rest: Some(line) }
}

/// Returns the last members of all lines of `name`, split at every comma. The last member is returned first. The
/// function reads at most `most` members and skips the empty members among them.
///
/// This function is for lists to which each hop appends an entry. A long list or an unclosed quote from an earlier hop
/// cannot hide the last members. `most` limits the cost.
pub(crate) fn last<'a>(headers: &'a HeaderMap, name: &HeaderName, most: usize) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter().rev();
    let members = lines.flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b',')).take(most);
    members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Returns whether `token` is a member of the field `name`. The comparison ignores case.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
}

/// Returns the members of one line, split at every comma.
pub(crate) fn of_line(line: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    let mut rest = Some(line);
    let pieces = std::iter::from_fn(move || {
        let line = rest?;
        let comma = memchr::memchr(b',', line);
        rest = comma.and_then(|at| line.get(at + 1..));
        comma.and_then(|at| line.get(..at)).or(Some(line))
    });
    pieces.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Splits a member into its value and its parameters. For example, the value of `text/html;level=1;q=0.5` is
/// `text/html`, and the parameters are `level=1` and `q=0.5`.
///
/// A semicolon inside a quoted string does not separate parameters. Empty parameters are skipped.
pub(crate) fn with_parameters(member: &[u8]) -> (&[u8], Parameters<'_>) {
    let (value, rest) = cut(member, b';');
    (value.trim_ascii(), Parameters { rest })
}

/// The iterator that [`members`] and [`members_of_line`] return.
#[derive(Debug)]
pub(crate) struct Members<'a> {
    lines: Option<ValueIter<'a, HeaderValue>>,
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Members<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let line = match self.rest.take() {
                Some(rest) => rest,
                None => self.lines.as_mut()?.next()?.as_bytes(),
            };
            let (member, rest) = cut(line, b',');
            self.rest = rest;
            let member = member.trim_ascii();
            if !member.is_empty() {
                return Some(member);
            }
        }
    }
}

/// The iterator that [`with_parameters`] returns. A parameter is usually `name=value`. White space at the ends of a
/// parameter is removed.
#[derive(Clone, Debug)]
pub(crate) struct Parameters<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Parameters<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let (parameter, rest) = cut(self.rest.take()?, b';');
            self.rest = rest;
            let parameter = parameter.trim_ascii();
            if !parameter.is_empty() {
                return Some(parameter);
            }
        }
    }
}

/// Splits `input` at the first `separator` outside a quoted string. Returns the text before the separator and the text
/// after the separator. If no separator is found, returns `input` and `None`.
///
/// A quoted string without a closing quote extends to the end of `input`.
fn cut(input: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    let mut quoted = false;
    let mut at = 0;
    while let Some(rest) = input.get(at..) {
        let hit = if quoted { memchr::memchr2(b'"', b'\\', rest) } else { memchr::memchr2(b'"', separator, rest) };
        let Some(hit) = hit else { break };
        match rest.get(hit) {
            Some(b'"') => quoted = !quoted,
            // In a quoted string, the byte after a backslash is literal.
            Some(b'\\') if quoted => at += 1,
            _ => return (input.get(..at + hit).unwrap_or(input), rest.get(hit + 1..)),
        }
        at += hit + 1;
    }
    (input, None)
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, CONNECTION};
    use proptest::prelude::*;

    use super::*;

    fn map(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name.clone(), HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    #[test]
    fn tokens_when_lines_have_empty_members_then_empty_members_are_skipped() {
        let headers = map(&CONNECTION, &["a, ,b\t,", "", ",", " c"]);
        let all: Vec<_> = tokens(&headers, &CONNECTION).collect();
        assert_eq!(all, [b"a", b"b", b"c"]);
        assert!(has_token(&headers, &CONNECTION, "B"));
        assert!(!has_token(&headers, &CONNECTION, "d"));
        assert_eq!(of_line(b"a,,b , ").count(), 2);
    }

    #[test]
    fn member_when_comma_is_in_quotes_then_is_not_split() {
        let headers = map(&ACCEPT, &[r#"a;x="1,2\",3", b"#, r#"c"unclosed, d"#]);
        let all: Vec<_> = members(&headers, &ACCEPT).collect();
        assert_eq!(all, [&br#"a;x="1,2\",3""#[..], b"b", br#"c"unclosed, d"#]);
    }

    #[test]
    fn parameter_when_semicolon_is_in_quotes_then_is_not_split() {
        let (value, parameters) = with_parameters(br#"text/html ; a="x;y";; q=1 "#);
        assert_eq!(value, b"text/html");
        assert_eq!(parameters.collect::<Vec<_>>(), [&br#"a="x;y""#[..], b"q=1"]);
        assert_eq!(with_parameters(b"x").1.count(), 0);
        assert_eq!(with_parameters(b"").0, b"");
    }

    #[test]
    fn split_when_backslash_ends_quoted_text_or_is_outside_quotes_then_does_not_panic() {
        assert_eq!(cut(b"\"\\", b','), (&b"\"\\"[..], None));
        assert_eq!(cut(b"\\,a", b','), (&b"\\"[..], Some(&b"a"[..])));
    }

    proptest! {
        #[test]
        fn list_when_written_and_read_then_members_are_unchanged(
            lists in prop::collection::vec(prop::collection::vec("[a-zA-Z0-9-]{1,9}", 0..6), 0..4),
        ) {
            let mut headers = HeaderMap::new();
            for list in &lists {
                headers.append(CONNECTION, HeaderValue::from_str(&list.join(" ,\t")).unwrap());
            }
            let wanted: Vec<_> = lists.iter().flatten().map(String::as_bytes).collect();
            prop_assert_eq!(tokens(&headers, &CONNECTION).collect::<Vec<_>>(), wanted.clone());
            prop_assert_eq!(members(&headers, &CONNECTION).collect::<Vec<_>>(), wanted);
        }

        #[test]
        fn split_when_bytes_are_arbitrary_then_no_byte_is_lost(
            input in prop::collection::vec(prop::sample::select(b"a,;\"\\ ".to_vec()), 0..40),
        ) {
            let mut length = 0;
            let mut rest = Some(&input[..]);
            while let Some(piece) = rest {
                let (first, after) = cut(piece, b',');
                length += first.len() + usize::from(after.is_some());
                rest = after;
            }
            prop_assert_eq!(length, input.len());
        }
    }
}
