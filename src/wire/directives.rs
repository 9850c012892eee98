//! Comma-separated directives (RFC 9110 §5.6.1, RFC 9111 §5.2) in Cache-Control and in fields with the same syntax.
//!
//! Reading never fails, takes time linear in the input and allocates nothing.

/// The argument of a directive: the text after `=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Argument<'a> {
    /// The directive has no `=`, and its name is a token.
    Absent,
    /// A token.
    Token(&'a [u8]),
    /// The text between the quotes of a quoted string. Escapes in the text are unchanged.
    Quoted(&'a [u8]),
    /// Any other text, for example an empty argument. Also the argument of a directive whose name is not a token.
    Malformed,
}

/// One element of a comma-separated list of directives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Directive<'a> {
    /// The name, which is a token. The name is empty if the text before `=` is not a token.
    pub name: &'a [u8],
    pub argument: Argument<'a>,
    /// The complete element, without the white space around the element.
    pub text: &'a [u8],
}

/// The directives of one field line. Empty elements are skipped.
///
/// A quote starts a quoted string only if the quote is the first character of the argument and a closing quote follows.
/// Without this rule, an unclosed quote would hide all later directives.
#[derive(Debug, Clone)]
pub(crate) struct Directives<'a> {
    rest: &'a [u8],
}

impl<'a> Directives<'a> {
    pub(crate) fn new(line: &'a [u8]) -> Self {
        Self { rest: line }
    }
}

impl<'a> Iterator for Directives<'a> {
    type Item = Directive<'a>;

    fn next(&mut self) -> Option<Directive<'a>> {
        while !self.rest.is_empty() {
            let mut end = self.rest.iter().position(|&b| matches!(b, b',' | b'=')).unwrap_or(self.rest.len());
            let equals = (self.rest.get(end) == Some(&b'=')).then_some(end);
            let mut string = None;
            if let Some(equals) = equals {
                let mut start = equals + 1;
                while self.rest.get(start).is_some_and(|b| matches!(b, b' ' | b'\t')) {
                    start += 1;
                }
                // In each line, at most one search for a closing quote fails, so the time is linear. After a failed
                // search, each later quote of the line is escaped and cannot start a string.
                if self.rest.get(start) == Some(&b'"') {
                    string = closing_quote(&self.rest[start + 1..]).map(|length| (start + 1, start + 1 + length));
                }
                let from = string.map_or(start, |(_, closing)| closing + 1);
                end = from + self.rest[from..].iter().position(|&b| b == b',').unwrap_or(self.rest.len() - from);
            }
            let element = &self.rest[..end];
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            let text = element.trim_ascii();
            if text.is_empty() {
                continue;
            }
            let name = element[..equals.unwrap_or(end)].trim_ascii();
            let argument = match (equals, string) {
                (None, _) => Argument::Absent,
                (_, Some((from, closing))) if element[closing + 1..].trim_ascii().is_empty() => {
                    Argument::Quoted(&element[from..closing])
                }
                (Some(equals), None) if is_token(element[equals + 1..].trim_ascii()) => {
                    Argument::Token(element[equals + 1..].trim_ascii())
                }
                _ => Argument::Malformed,
            };
            return Some(if is_token(name) {
                Directive { name, argument, text }
            } else {
                Directive { name: &[], argument: Argument::Malformed, text }
            });
        }
        None
    }
}

/// Returns the number of bytes before the closing quote, or `None` if the closing quote is missing. `text` starts after
/// the opening quote.
fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    text.iter().position(|&b| {
        let closes = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        closes
    })
}

/// Returns whether a text is a token (RFC 9110 §5.6.2).
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&b| is_token_byte(b))
}

/// Returns whether a token can contain the byte (`tchar` in RFC 9110 §5.6.2).
pub(super) fn is_token_byte(b: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut b = 0_u8;
        while b < 128 {
            table[b as usize] = b.is_ascii_alphanumeric()
                || matches!(b, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
            b += 1;
        }
        table
    };
    TABLE[usize::from(b)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_when_forms_differ_then_each_form_is_recognised() {
        let line = b"a, b=c, d=\"e,f\", g=, \"h\"=i";
        let read: Vec<_> = Directives::new(line).map(|directive| (directive.name, directive.argument)).collect();
        let wanted: Vec<(&[u8], Argument<'_>)> = vec![
            (b"a", Argument::Absent),
            (b"b", Argument::Token(b"c")),
            (b"d", Argument::Quoted(b"e,f")),
            (b"g", Argument::Malformed),
            (b"", Argument::Malformed),
        ];
        assert_eq!(read, wanted);
    }
}
