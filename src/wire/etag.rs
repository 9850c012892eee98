//! Entity tags (RFC 9110 §8.8.3) and lists of entity tags (If-Match, If-None-Match).
//!
//! A compressed body is another representation, and two representations must not share a strong tag. Therefore the gzip
//! layer makes the tags of compressed responses weak. A CDN can send such a weak tag back in a request. If the origin
//! needs the strong form, the layer makes the tag strong again ([`strengthen`]). Reading allocates nothing.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, ValueIter};

/// An entity tag. The field value owns the bytes of the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntityTag<'a> {
    /// Whether the tag starts with `W/`.
    pub weak: bool,
    /// The text between the quotes.
    pub opaque: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// Reads a field value such as `"abc"` or `W/"abc"`. Returns `None` if the value is malformed. Only an upper-case
    /// `W` is valid.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        match take_tag(value.trim_ascii()) {
            Some((tag, [])) => Some(tag),
            _ => None,
        }
    }

    /// Like [`Self::parse`], but does not trim white space and does not check the text between the quotes. The result
    /// is good enough for a lookup key, because a malformed key does no harm.
    pub fn outline(value: &'a [u8]) -> Option<Self> {
        let (weak, quoted) = match value {
            [b'W', b'/', quoted @ ..] => (true, quoted),
            quoted => (false, quoted),
        };
        match quoted {
            [b'"', opaque @ .., b'"'] => Some(Self { weak, opaque }),
            _ => None,
        }
    }
}

/// Returns the weak form of a strong tag, or `None` if the tag is weak already or malformed.
pub fn weaken(tag: &HeaderValue) -> Option<HeaderValue> {
    let parsed = EntityTag::parse(tag.as_bytes())?;
    if parsed.weak {
        return None;
    }
    let mut weak = Vec::with_capacity(parsed.opaque.len() + 4);
    weak.extend_from_slice(b"W/\"");
    weak.extend_from_slice(parsed.opaque);
    weak.push(b'"');
    HeaderValue::from_maybe_shared(Bytes::from(weak)).ok()
}

/// Makes the weak tags in one line of If-Match or If-None-Match strong, and returns the new line. A tag stays weak if
/// `stays_weak` returns true for the text between the quotes of the tag.
///
/// Returns `None` if no tag changes, if the line contains `*`, or if a member is malformed.
pub fn strengthen(line: &HeaderValue, stays_weak: impl Fn(&[u8]) -> bool) -> Option<HeaderValue> {
    let bytes = line.as_bytes();
    memchr::memmem::find(bytes, b"W/\"")?;
    let mut strong = Vec::with_capacity(bytes.len());
    let mut changed = false;
    let mut rest = bytes;
    while let Some((listed, after)) = take_listed(rest) {
        let Listed::Tag(tag) = listed else { return None };
        let stays_weak = tag.weak && stays_weak(tag.opaque);
        changed |= tag.weak && !stays_weak;
        if !strong.is_empty() {
            strong.extend_from_slice(b", ");
        }
        strong.extend_from_slice(if stays_weak { b"W/\"" } else { b"\"" });
        strong.extend_from_slice(tag.opaque);
        strong.push(b'"');
        rest = after;
    }
    if changed { HeaderValue::from_maybe_shared(Bytes::from(strong)).ok() } else { None }
}

/// A member of a list of tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed<'a> {
    /// The member `*`, which matches any tag.
    Any,
    /// A tag.
    Tag(EntityTag<'a>),
    /// Any other text, up to the next comma.
    Malformed,
}

/// Returns the members of all lines of `name` (If-Match or If-None-Match), in order. A comma inside a tag does not
/// separate members.
pub fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> ListedTags<'a> {
    ListedTags { lines: headers.get_all(name).iter(), rest: &[] }
}

/// The iterator that [`listed`] returns.
#[derive(Debug)]
pub struct ListedTags<'a> {
    lines: ValueIter<'a, HeaderValue>,
    rest: &'a [u8],
}

impl<'a> Iterator for ListedTags<'a> {
    type Item = Listed<'a>;

    fn next(&mut self) -> Option<Listed<'a>> {
        loop {
            if let Some((listed, rest)) = take_listed(self.rest) {
                self.rest = rest;
                return Some(listed);
            }
            self.rest = self.lines.next()?.as_bytes();
        }
    }
}

/// Returns the next member of a list and the text after the member, or `None` at the end.
///
/// The time for a complete list is linear. The search for a closing quote stops at the next quote, so two searches
/// for a closing quote never read the same bytes.
fn take_listed(line: &[u8]) -> Option<(Listed<'_>, &[u8])> {
    let start = line.iter().position(|byte| !matches!(byte, b',' | b' ' | b'\t'))?;
    let line = line.get(start..)?;
    let (listed, after) = match take_tag(line) {
        Some((tag, after)) => (Listed::Tag(tag), after),
        None => match line {
            [b'*', after @ ..] => (Listed::Any, after),
            _ => (Listed::Malformed, line),
        },
    };
    let comma = memchr::memchr(b',', after).unwrap_or(after.len());
    let (between, rest) = after.split_at_checked(comma)?;
    let alone = between.iter().all(|byte| matches!(byte, b' ' | b'\t'));
    Some((if alone { listed } else { Listed::Malformed }, rest))
}

/// Reads a tag at the start of `bytes`. Returns the tag and the text after the tag.
fn take_tag(bytes: &[u8]) -> Option<(EntityTag<'_>, &[u8])> {
    let (weak, quoted) = match bytes {
        [b'W', b'/', b'"', rest @ ..] => (true, rest),
        [b'"', rest @ ..] => (false, rest),
        _ => return None,
    };
    let (opaque, rest) = quoted.split_at_checked(memchr::memchr(b'"', quoted)?)?;
    // A tag can contain visible ASCII except the quote, and bytes above ASCII (`etagc` in RFC 9110 §8.8.3).
    if !opaque.iter().all(|&byte| byte == 0x21 || (0x23..=0x7e).contains(&byte) || byte >= 0x80) {
        return None;
    }
    Some((EntityTag { weak, opaque }, rest.get(1..)?))
}

#[cfg(test)]
mod tests {
    use http::header::{IF_MATCH, IF_NONE_MATCH};
    use proptest::prelude::*;

    use super::*;

    fn strong(opaque: &str) -> EntityTag<'_> {
        EntityTag { weak: false, opaque: opaque.as_bytes() }
    }

    fn weak(opaque: &str) -> EntityTag<'_> {
        EntityTag { weak: true, opaque: opaque.as_bytes() }
    }

    #[test]
    fn tag_when_malformed_then_rejected() {
        assert_eq!(EntityTag::parse(b"\"xyzzy\""), Some(strong("xyzzy")));
        assert_eq!(EntityTag::parse(b" W/\"a,b\" "), Some(weak("a,b")));
        assert_eq!(EntityTag::parse(b"\"\""), Some(strong("")));
        for bad in
            ["", "abc", "\"", "\"a", "a\"", "w/\"a\"", "W/a", "W/ \"a\"", "\"a b\"", "\"a\"b\"", "\"a\", \"b\"", "*"]
        {
            assert_eq!(EntityTag::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn tag_when_weak_or_malformed_then_is_not_weakened() {
        assert_eq!(weaken(&HeaderValue::from_static("\"a\"")).unwrap(), "W/\"a\"");
        assert_eq!(weaken(&HeaderValue::from_bytes(b"\"\xe4\"").unwrap()).unwrap().as_bytes(), b"W/\"\xe4\"");
        assert_eq!(weaken(&HeaderValue::from_static("W/\"a\"")), None);
        assert_eq!(weaken(&HeaderValue::from_static("a")), None);
        assert_eq!(weaken(&HeaderValue::from_static("\"a\"b")), None);
    }

    #[test]
    fn tag_list_when_tags_are_weak_then_tags_become_strong() {
        let line = |text: &'static str| strengthen(&HeaderValue::from_static(text), |opaque| opaque == b"known");
        assert_eq!(line("W/\"a\"").unwrap(), "\"a\"");
        assert_eq!(line("W/\"a,W\" ,, \"b\",W/\"c\"").unwrap(), "\"a,W\", \"b\", \"c\"");
        for same in ["", "*", "\"a\"", "\"aW/\", \"b\"", "W/\"a\", junk", "W/\"a\", *", "W/\"a"] {
            assert_eq!(line(same), None, "{same}");
        }
    }

    #[test]
    fn tag_list_when_field_has_several_lines_then_members_of_all_lines_are_read() {
        let mut headers = HeaderMap::new();
        headers.append(IF_NONE_MATCH, HeaderValue::from_static(" ,\"a\" , W/\"b,c\","));
        headers.append(IF_NONE_MATCH, HeaderValue::from_static(""));
        headers.append(IF_NONE_MATCH, HeaderValue::from_static("junk, \"d\"e, * , *x, \"open, \"f\""));
        let all: Vec<_> = listed(&headers, &IF_NONE_MATCH).collect();
        assert_eq!(
            all,
            [
                Listed::Tag(strong("a")),
                Listed::Tag(weak("b,c")),
                Listed::Malformed,
                Listed::Malformed,
                Listed::Any,
                Listed::Malformed,
                Listed::Malformed,
                Listed::Tag(strong("f")),
            ]
        );
        assert_eq!(listed(&headers, &IF_MATCH).count(), 0);
    }

    fn written(tags: &[(bool, String)]) -> String {
        let tag = |(weak, opaque): &(bool, String)| format!("{}\"{opaque}\"", if *weak { "W/" } else { "" });
        tags.iter().map(tag).collect::<Vec<_>>().join(" ,")
    }

    proptest! {
        #[test]
        fn tag_list_when_written_and_read_then_tags_are_unchanged(
            tags in prop::collection::vec((any::<bool>(), "[!#-~]{0,8}"), 0..8),
        ) {
            let text = written(&tags);
            let mut headers = HeaderMap::new();
            headers.append(IF_NONE_MATCH, HeaderValue::from_str(&text).unwrap());
            let wanted = tags.iter().map(|(weak, opaque)| EntityTag { weak: *weak, opaque: opaque.as_bytes() });
            let wanted: Vec<_> = wanted.map(Listed::Tag).collect();
            prop_assert_eq!(listed(&headers, &IF_NONE_MATCH).collect::<Vec<_>>(), wanted);
        }

        #[test]
        fn tag_when_weakened_and_strengthened_then_is_unchanged(opaque in "[!#-~]{0,20}") {
            let value = HeaderValue::from_str(&format!("\"{opaque}\"")).unwrap();
            let weakened = weaken(&value).unwrap();
            prop_assert_eq!(EntityTag::parse(weakened.as_bytes()), Some(weak(&opaque)));
            prop_assert_eq!(strengthen(&weakened, |_| false), Some(value));
        }

        #[test]
        fn tag_list_when_bytes_are_arbitrary_then_each_step_consumes_bytes(
            line in prop::collection::vec(prop::sample::select(b"\"W/*, ax".to_vec()), 0..60),
        ) {
            let mut rest = &line[..];
            while let Some((_, after)) = take_listed(rest) {
                prop_assert!(after.len() < rest.len());
                rest = after;
            }
        }

        #[test]
        fn tag_list_when_strengthened_then_texts_of_tags_are_unchanged(
            tags in prop::collection::vec((any::<bool>(), "[!#-~]{0,8}"), 1..8),
        ) {
            let stays_weak = |opaque: &[u8]| opaque.len() > 4;
            let text = written(&tags);
            let strengthened = strengthen(&HeaderValue::from_str(&text).unwrap(), stays_weak);
            let wanted: Vec<_> = tags
                .iter()
                .map(|(weak, opaque)| (weak, opaque.as_bytes()))
                .map(|(weak, opaque)| EntityTag { weak: *weak && stays_weak(opaque), opaque })
                .collect();
            prop_assert_eq!(strengthened.is_some(), tags.iter().zip(&wanted).any(|((weak, _), tag)| *weak != tag.weak));
            if let Some(line) = strengthened {
                prop_assert_eq!(strengthen(&line, stays_weak), None, "a second call changes the line");
                let headers = HeaderMap::from_iter([(IF_NONE_MATCH, line)]);
                prop_assert!(listed(&headers, &IF_NONE_MATCH).eq(wanted.into_iter().map(Listed::Tag)));
            }
        }
    }
}
