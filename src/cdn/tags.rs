//! Writes the cache tags of a response into the field that the pulling CDN reads, whichever field the origin uses.
//!
//! Each CDN has its own field, delimiter and limits. edgeshim sends only the tags that are within the limits, and keeps
//! the order of the tags in each field. edgeshim counts the tags that it removes, because no purge by such a tag finds
//! the response. In a response without tags, edgeshim only compares the field names. If only the CDN's field has tags,
//! and its line already has the CDN's delimiter and is within the limits, the response is not changed.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::wire::cache_tags::{FIELDS, NAMES, delimiter};
use crate::wire::head_fields::{Fields, Names};
use crate::wire::values::only_line;

/// What edgeshim does with the cache tags in a response to one CDN.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum TagRule {
    /// The tags are sent as received, because it is not known from which field the CDN reads tags.
    #[default]
    Unchanged,
    /// The tags are removed, because the CDN does not use tags.
    Dropped,
    /// The tags are sent in the field `name`.
    Field {
        name: HeaderName,
        /// The byte between two tags.
        delimiter: u8,
        max_tags: Option<usize>,
        max_tag_bytes: Option<usize>,
        max_bytes: Option<usize>,
        /// Whether the CDN treats tags that differ only in case as different tags.
        case_sensitive: bool,
    },
}

impl TagRule {
    /// Rewrites the tags of a response. `filter` contains the names of all fields of the response. Returns how many
    /// tags were removed because the CDN would not accept these tags. [`Self::Dropped`] counts no tags.
    pub(crate) fn translate(&self, headers: &mut HeaderMap, filter: &mut Names) -> usize {
        let target = match self {
            Self::Unchanged => return 0,
            Self::Dropped => None,
            Self::Field { name, .. } => Some(name),
        };
        let fields = Fields::new(headers, *filter);
        if !fields.can_have_any(NAMES) && !target.is_some_and(|target| fields.can_have(target)) {
            return 0;
        }
        let (mut in_target, mut in_others) = (false, false);
        for name in headers.keys() {
            if target == Some(name) {
                in_target = true;
            } else {
                in_others |= delimiter(name).is_some();
            }
        }
        if !in_others && (!in_target || self.is_right(headers)) {
            return 0;
        }
        let names = *filter;
        let (line, cut) = self.written(Fields::new(headers, names));
        for name in FIELDS.into_iter().filter(|name| target != Some(name)) {
            if Fields::new(headers, names).can_have(name) {
                headers.remove(name);
            }
        }
        if let Some(target) = target {
            if let Ok(value) = HeaderValue::try_from(line)
                && !value.is_empty()
            {
                headers.insert(target, value);
                filter.add(target);
            } else {
                headers.remove(target);
            }
        }
        cut
    }

    /// Returns whether the CDN's field has exactly one line, and the line needs no change.
    fn is_right(&self, headers: &HeaderMap) -> bool {
        let Self::Field { name, delimiter, max_tags, max_bytes, .. } = self else { return false };
        let Ok(line) = only_line(headers, name).map(HeaderValue::as_bytes) else { return false };
        max_bytes.is_none_or(|most| line.len() <= most)
            && line.split(|byte| byte == delimiter).all(|tag| self.accepts(tag))
            && max_tags.is_none_or(|most| line.split(|byte| byte == delimiter).count() <= most)
    }

    /// Returns whether a tag can be written into the CDN's field.
    fn accepts(&self, tag: &[u8]) -> bool {
        let Self::Field { name, delimiter: between, max_tag_bytes, .. } = self else { return false };
        // The delimiter that this CDN reads in the field can differ from the usual delimiter of the field. A tag must
        // contain neither of the two delimiters.
        let usual = delimiter(name).unwrap_or(*between);
        !tag.is_empty()
            && max_tag_bytes.is_none_or(|most| tag.len() <= most)
            && tag.iter().all(|byte| byte.is_ascii_graphic() && *byte != usual && byte != between)
    }

    /// Returns one line with the tags that the CDN accepts, and the number of tags that were left out. A tag that
    /// occurs again is ignored and not counted. After the first tag for which the line has no room, no further tag is
    /// added. So if the origin sends the most important tags first, these tags stay.
    fn written(&self, fields_of_head: Fields<'_>) -> (Vec<u8>, usize) {
        let Self::Field { name: target, delimiter: between, max_tags, max_bytes, case_sensitive, .. } = self else {
            return (Vec::new(), 0);
        };
        let known = delimiter(target).is_some();
        let fields = (!known).then_some((target, *between)).into_iter();
        let fields = fields.chain(FIELDS.into_iter().filter_map(|name| Some((name, delimiter(name)?))));
        let (mut seen, mut line, mut written, mut cut, mut full) = (HashSet::new(), Vec::new(), 0, 0, false);
        for (name, apart) in fields {
            if !fields_of_head.can_have(name) {
                continue;
            }
            // The written line needs about as many bytes as the lines that are read.
            line.reserve(fields_of_head.lines(name).map(HeaderValue::len).sum());
            // In the CDN's own field, the CDN's delimiter separates tags in addition to the usual delimiter of that
            // field.
            let splits =
                |byte: &u8| *byte == apart || (apart == b' ' && *byte == b'\t') || (name == target && byte == between);
            let lines = fields_of_head.lines(name).map(HeaderValue::as_bytes);
            for tag in lines.flat_map(|line| line.split(splits)).map(<[u8]>::trim_ascii).filter(|tag| !tag.is_empty()) {
                if !seen.insert(Tag { text: tag, case_sensitive: *case_sensitive }) {
                    continue;
                }
                let longer = line.len() + usize::from(written > 0) + tag.len();
                if !self.accepts(tag) {
                    cut += 1;
                } else if full
                    || max_tags.is_some_and(|most| written == most)
                    || max_bytes.is_some_and(|most| longer > most)
                {
                    full = true;
                    cut += 1;
                } else {
                    if written > 0 {
                        line.push(*between);
                    }
                    line.extend_from_slice(tag);
                    written += 1;
                }
            }
        }
        (line, cut)
    }
}

/// A tag. Two tags are equal if the CDN treats them as the same tag.
struct Tag<'a> {
    text: &'a [u8],
    case_sensitive: bool,
}

impl PartialEq for Tag<'_> {
    fn eq(&self, other: &Self) -> bool {
        if self.case_sensitive { self.text == other.text } else { self.text.eq_ignore_ascii_case(other.text) }
    }
}

impl Eq for Tag<'_> {}

impl Hash for Tag<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for byte in self.text {
            state.write_u8(if self.case_sensitive { *byte } else { byte.to_ascii_lowercase() });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::names;

    fn rule(name: &HeaderName, delimiter: u8) -> TagRule {
        TagRule::Field {
            name: name.clone(),
            delimiter,
            max_tags: Some(4),
            max_tag_bytes: Some(8),
            max_bytes: Some(20),
            case_sensitive: true,
        }
    }

    fn folding(mut rule: TagRule) -> TagRule {
        if let TagRule::Field { case_sensitive, .. } = &mut rule {
            *case_sensitive = false;
        }
        rule
    }

    fn translate(rule: &TagRule, headers: &mut HeaderMap) -> usize {
        let mut filter = Names::of(headers);
        rule.translate(headers, &mut filter)
    }

    fn head(lines: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn tags_when_in_the_field_of_another_cdn_then_translated() {
        let (fastly, akamai) = (rule(&names::SURROGATE_KEY, b' '), rule(&names::EDGE_CACHE_TAG, b','));
        let named = rule(&HeaderName::from_static("x-tags"), b',');
        let (key, tag) = (&names::SURROGATE_KEY, &names::CACHE_TAG);
        let (edge, cdn, netlify) = (&names::EDGE_CACHE_TAG, &names::CDN_TAG, &names::NETLIFY_CACHE_TAG);
        let own = &HeaderName::from_static("x-tags");
        for (rule, sent, line, cut) in [
            (&fastly, &[(tag, "a, b,,c")][..], "a b c", 0),
            (&fastly, &[(key, "a b"), (key, "c")], "a b c", 0),
            (&fastly, &[(key, "a  b")], "a b", 0),
            (&fastly, &[(key, "a\tb a")], "a b", 0),
            (&fastly, &[(netlify, "d"), (cdn, "c"), (edge, "b"), (tag, "a"), (key, "k")], "k a b c", 1),
            (&fastly, &[(tag, "a b, c")], "c", 1),
            (&akamai, &[(key, "a b"), (edge, "b,c")], "a,b,c", 0),
            (&akamai, &[(edge, "a"), (edge, "b")], "a,b", 0),
            (&akamai, &[(edge, "a, b")], "a,b", 0),
            (&akamai, &[(key, "a,b c")], "c", 1),
            (&akamai, &[(key, "a A")], "a,A", 0),
            (&folding(akamai.clone()), &[(key, "a A"), (tag, "a,B")], "a,B", 0),
            (&akamai, &[(key, "a b c d e f")], "a,b,c,d", 2),
            (&akamai, &[(key, "12345678 123456789 z")], "12345678,z", 1),
            (&akamai, &[(key, "12345678 abcdefgh ijk l")], "12345678,abcdefgh", 2),
            (&akamai, &[(key, "\u{e4} x")], "x", 1),
            (&akamai, &[(key, " ")], "", 0),
            (&named, &[(own, "a,b"), (key, "b c")], "a,b,c", 0),
            (&rule_of_spaces(), &[(tag, "a b,c")], "a b c", 0),
        ] {
            let mut headers = head(sent);
            let TagRule::Field { name, .. } = rule else { panic!("the rule has no field") };
            assert_eq!(translate(rule, &mut headers), cut, "{sent:?}");
            let wanted = if line.is_empty() { HeaderMap::new() } else { head(&[(name, line)]) };
            assert_eq!(headers, wanted, "{sent:?}");
            assert_eq!(translate(rule, &mut headers), 0, "second call: {sent:?}");
            assert_eq!(headers, wanted, "second call: {sent:?}");
        }
    }

    /// Returns the rule of a CDN that separates tags by spaces, in a field where other CDNs separate tags by commas.
    fn rule_of_spaces() -> TagRule {
        rule(&names::CACHE_TAG, b' ')
    }

    #[test]
    fn tags_when_rule_names_no_field_then_removed_or_unchanged() {
        let sent = [(&names::SURROGATE_KEY, "a"), (&names::CACHE_TAG, "b"), (&names::VARY, "c")];
        let mut headers = head(&sent);
        assert_eq!(translate(&TagRule::Unchanged, &mut headers), 0);
        assert_eq!(headers, head(&sent));
        assert_eq!(translate(&TagRule::Dropped, &mut headers), 0);
        assert_eq!(headers, head(&sent[2..]));
    }

    #[test]
    fn tags_when_line_needs_no_change_then_value_is_not_rewritten() {
        let rule = rule(&names::CACHE_TAG, b',');
        let mut headers = head(&[(&names::CACHE_TAG, "a,b,a")]);
        let before = headers[&names::CACHE_TAG].as_bytes().as_ptr();
        assert_eq!(translate(&rule, &mut headers), 0);
        assert_eq!(headers, head(&[(&names::CACHE_TAG, "a,b,a")]));
        assert_eq!(headers[&names::CACHE_TAG].as_bytes().as_ptr(), before, "the value must not be rewritten");
    }

    proptest! {
        #[test]
        fn tags_when_translated_then_respect_every_limit_and_stay_unchanged_in_a_second_call(
            sent in prop::collection::vec((0..FIELDS.len(), "[aAbc, \t\u{e4}]{0,30}"), 0..5),
            spaces in any::<bool>(),
            case_sensitive in any::<bool>(),
        ) {
            let (name, delimiter) = if spaces { (&names::SURROGATE_KEY, b' ') } else { (&names::CDN_TAG, b',') };
            let mut rule = rule(name, delimiter);
            if !case_sensitive {
                rule = folding(rule);
            }
            let mut headers = HeaderMap::new();
            for (field, line) in &sent {
                headers.append(FIELDS[*field], HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            translate(&rule, &mut headers);
            prop_assert!(headers.len() <= 1);
            if let Some(line) = headers.get(name) {
                prop_assert!(line.len() <= 20);
                let tags: Vec<_> = line.as_bytes().split(|byte| *byte == delimiter).collect();
                prop_assert!(tags.len() <= 4);
                let is_valid = |tag: &&[u8]| (1..=8).contains(&tag.len()) && tag.iter().all(u8::is_ascii_graphic);
                prop_assert!(tags.iter().all(is_valid));
            }
            let once = headers.clone();
            prop_assert_eq!(translate(&rule, &mut headers), 0);
            prop_assert_eq!(headers, once);
        }
    }
}
