//! The fields of a head, with a filter: a small set of the names of the fields. The set can have too many names.
//!
//! Most layers look for fields that are absent in nearly all messages. A look-up in a `HeaderMap` costs about 100
//! instructions, also for an absent field. [`Names`] is a filter of 128 bits. One pass over the names of the head sets
//! the bits. Each name has one bit. If the bit of a name is 0, the field is absent, and no look-up is necessary. If the
//! bit is 1, the field can be present or absent, because several names share a bit.
//!
//! A filter may contain names of fields that have been removed, but it must contain all names of the head. So code that
//! adds a field to a head must also add the name of the field to the filter of the head. Debug builds check the filter
//! in each look-up.

use http::header::{HeaderMap, HeaderName, HeaderValue, ValueIter};

use super::names::{ASSIGNMENT, is_assignment};

/// The filter: a set of names that can have too many names, but never too few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Names([u64; 2]);

impl Names {
    /// The filter that contains every name.
    pub(crate) const ALL: Self = Self([u64::MAX; 2]);

    /// Returns the filter that contains the names of `list`. The names must be in lowercase.
    pub(crate) const fn of_list(list: &[&str]) -> Self {
        let mut names = Self([0; 2]);
        let mut at = 0;
        while at < list.len() {
            let (word, bit) = place(list[at].as_bytes());
            names.0[word] |= bit;
            at += 1;
        }
        names
    }

    /// Returns the filter that contains the names of all fields of a head.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut names = Self([0; 2]);
        headers.keys().for_each(|name| names.add(name));
        names
    }

    /// Adds the name of a field. For a field with the arm of an experiment, also adds [`ASSIGNMENT`].
    pub(crate) fn add(&mut self, name: &HeaderName) {
        let name = name.as_str().as_bytes();
        self.set(name);
        // The first letter is compared here, because most names begin with another letter.
        if name.first() == ASSIGNMENT.as_bytes().first() && is_assignment(name) {
            self.set(ASSIGNMENT.as_bytes());
        }
    }

    /// Adds all names of another filter.
    pub(crate) fn add_all(&mut self, list: Self) {
        self.0[0] |= list.0[0];
        self.0[1] |= list.0[1];
    }

    fn set(&mut self, name: &[u8]) {
        let (word, bit) = place(name);
        self.0[word] |= bit;
    }

    fn has_bit(self, name: &[u8]) -> bool {
        let (word, bit) = place(name);
        self.0[word] & bit != 0
    }

    fn can_have(self, name: &HeaderName) -> bool {
        self.has_bit(name.as_str().as_bytes())
    }

    /// If the result is `false`, this filter contains no name of `list`.
    pub(crate) fn can_have_any(self, list: Self) -> bool {
        (self.0[0] & list.0[0]) | (self.0[1] & list.0[1]) != 0
    }

    /// If the result is `false`, no field has the arm of an experiment.
    pub(crate) fn can_have_assignment(self) -> bool {
        self.has_bit(ASSIGNMENT.as_bytes())
    }
}

/// Returns the word and the bit of a name. The factors 60 and 17 are chosen so that the names that layers look for
/// rarely share a bit with names that are in most heads.
const fn place(name: &[u8]) -> (usize, u64) {
    match name {
        name @ [first, .., last] => {
            let sum = *first as usize + 60 * *last as usize;
            let place = sum.wrapping_sub(17 * name.len()) % 128;
            (place / 64, 1 << (place % 64))
        }
        _ => (0, 1),
    }
}

/// The fields of a head, borrowed with their filter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    headers: &'a HeaderMap,
    names: Names,
}

impl<'a> Fields<'a> {
    /// Borrows a head whose filter is known.
    pub(crate) fn new(headers: &'a HeaderMap, names: Names) -> Self {
        Self { headers, names }
    }

    /// Returns the head without its filter.
    pub(crate) fn headers(self) -> &'a HeaderMap {
        self.headers
    }

    /// If the result is `false`, the field is absent. If the result is `true`, only a look-up shows whether the field
    /// is present.
    pub(crate) fn can_have(self, name: &HeaderName) -> bool {
        let can_have = self.names.can_have(name);
        debug_assert!(can_have || !self.headers.contains_key(name), "the filter of the head does not contain {name}");
        can_have
    }

    /// If the result is `false`, all fields of the list are absent.
    pub(crate) fn can_have_any(self, list: Names) -> bool {
        debug_assert!(
            self.headers.keys().all(|name| !list.can_have(name) || self.names.can_have(name)),
            "the filter of the head does not contain all names of {:?}",
            self.headers
        );
        self.names.can_have_any(list)
    }

    /// Returns whether the field is present.
    pub(crate) fn has(self, name: &HeaderName) -> bool {
        self.can_have(name) && self.headers.contains_key(name)
    }

    /// Returns the value of the field's first line.
    pub(crate) fn get(self, name: &HeaderName) -> Option<&'a HeaderValue> {
        if self.can_have(name) { self.headers.get(name) } else { None }
    }

    /// Returns the values of all lines of the field.
    pub(crate) fn lines(self, name: &HeaderName) -> Lines<'a> {
        Lines(self.can_have(name).then(|| self.headers.get_all(name).iter()))
    }
}

/// A head without a filter. Each look-up searches the head.
impl<'a> From<&'a HeaderMap> for Fields<'a> {
    fn from(headers: &'a HeaderMap) -> Self {
        Self::new(headers, Names::ALL)
    }
}

/// The iterator that [`Fields::lines`] returns.
#[derive(Debug)]
pub(crate) struct Lines<'a>(Option<ValueIter<'a, HeaderValue>>);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a HeaderValue;

    fn next(&mut self) -> Option<&'a HeaderValue> {
        self.0.as_mut()?.next()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::names::{EXPECT, HOST, RANGE, TE, UPGRADE, X_CDN_PROVIDER};
    use super::*;

    #[test]
    fn filter_when_head_has_only_host_and_provider_then_shows_that_rare_fields_are_absent() {
        let headers: HeaderMap =
            [HOST, X_CDN_PROVIDER.clone()].into_iter().map(|name| (name, HeaderValue::from_static("a"))).collect();
        let fields = Fields::new(&headers, Names::of(&headers));
        for name in [EXPECT, RANGE, TE, UPGRADE] {
            assert!(!fields.can_have(&name), "{name}");
        }
    }

    #[test]
    fn name_when_added_to_the_filter_then_field_is_found() {
        let mut headers = HeaderMap::new();
        let mut names = Names::of(&headers);
        headers.insert(HOST, HeaderValue::from_static("a"));
        names.add(&HOST);
        assert_eq!(Fields::new(&headers, names).get(&HOST).unwrap(), "a");
    }

    proptest! {
        #[test]
        fn fields_when_names_are_arbitrary_then_result_equals_a_map_lookup(
            present in prop::collection::vec("[a-z-]{1,12}", 0..12),
            wanted in prop::collection::vec("[a-z-]{1,12}", 0..12),
        ) {
            let mut headers = HeaderMap::new();
            for name in &present {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("v"));
            }
            let fields = Fields::new(&headers, Names::of(&headers));
            for name in present.iter().chain(&wanted) {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                prop_assert_eq!(fields.has(&name), headers.contains_key(&name));
                prop_assert_eq!(fields.get(&name), headers.get(&name));
                prop_assert!(fields.lines(&name).eq(headers.get_all(&name)));
            }
        }
    }
}
