//! Cache-Control of a response (RFC 9111 §5.2, RFC 5861, RFC 8246). Reads any number of lines. Writes one line that
//! all caches read in the same way.
//!
//! Reading never fails. Origins send several lines, junk between commas, lifetimes that are not numbers, and quoted
//! strings without a closing quote. Text that cannot be read is dropped, with two exceptions. First, no-store, no-cache
//! and private take effect anywhere in such text. Second, a lifetime that is not a number is read as 0, because
//! RFC 9111 §4.2.1 encourages caches to treat such a response as stale. Reading takes time linear in the input and
//! stores a bounded part of the input.

use std::cmp::Ordering;

use http::{HeaderValue, StatusCode};

use super::decimal;
use super::directives::{Argument, Directive, Directives, is_token, is_token_byte};

/// The longest lifetime that is read or written, in seconds (RFC 9111 §1.2.2). A longer lifetime is reduced to this
/// lifetime.
pub(crate) const MAX_SECONDS: u64 = 1 << 31;

/// The largest number of field names in the no-cache directives of a response. The private directives have the same
/// limit, counted separately. If there are more names, the directive is read as a directive without a list.
const MAX_FIELD_NAMES: usize = 8;
/// The largest number of unknown directives that are stored.
const MAX_EXTENSIONS: usize = 16;
/// The longest name or argument of an unknown directive, and the longest name in a field list, in bytes.
const MAX_TEXT: usize = 64;

/// The directives of all Cache-Control lines of one response (RFC 9111 §5.2.2). Times are in seconds. The type
/// borrows from the lines, and allocates only for field lists and unknown directives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each field is one directive of the standard, and the directives are independent"
)]
pub struct CacheControl<'a> {
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    /// Defined in RFC 5861 §3.
    pub stale_while_revalidate: Option<u64>,
    /// Defined in RFC 5861 §4.
    pub stale_if_error: Option<u64>,
    pub no_store: bool,
    /// The directive `no-cache` without a field list.
    pub no_cache: bool,
    /// The directive `private` without a field list.
    pub private: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub no_transform: bool,
    /// Defined in RFC 8246.
    pub immutable: bool,
    pub must_understand: bool,
    // The next three lists are sorted, bounded and without duplicates.
    /// The names in `no-cache="…"`. The list is empty if `no_cache` is set.
    pub(crate) no_cache_fields: Vec<&'a str>,
    /// The names in `private="…"`. The list is empty if `private` is set.
    pub(crate) private_fields: Vec<&'a str>,
    /// Unknown directives.
    pub(crate) extensions: Vec<Extension<'a>>,
}

/// A directive that has no field in [`CacheControl`], in its original spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extension<'a> {
    /// The name, which is a token.
    pub name: &'a str,
    /// The argument: a token, or a quoted string with its quotes.
    pub argument: Option<&'a str>,
}

impl<'a> CacheControl<'a> {
    /// Reads all lines and merges their directives. The order of lines and directives does not matter.
    pub fn parse<I>(lines: I) -> Self
    where
        I: IntoIterator<Item = &'a [u8]>,
    {
        let mut merged = Self::default();
        for line in lines {
            for directive in Directives::new(line) {
                merged.add(&directive);
            }
        }
        merged
    }

    fn add(&mut self, directive: &Directive<'a>) {
        let Directive { name, argument, text } = *directive;
        if argument == Argument::Malformed {
            self.add_malformed(text);
        }
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        // The length is compared first, so most names need only one comparison of text. Of the directives without a
        // number, those that forbid something take effect with any argument. Those that allow something take effect
        // only without an argument.
        match name.len() {
            6 if is(b"public") => self.public |= argument == Argument::Absent,
            7 if is(b"max-age") => lower(&mut self.max_age, seconds(argument)),
            7 if is(b"private") => qualify(&mut self.private, &mut self.private_fields, field_names(argument)),
            8 if is(b"no-store") => self.no_store = true,
            8 if is(b"no-cache") => qualify(&mut self.no_cache, &mut self.no_cache_fields, field_names(argument)),
            8 if is(b"s-maxage") => lower(&mut self.s_maxage, seconds(argument)),
            9 if is(b"immutable") => self.immutable |= argument == Argument::Absent,
            12 if is(b"no-transform") => self.no_transform = true,
            14 if is(b"stale-if-error") => lower(&mut self.stale_if_error, seconds(argument)),
            15 if is(b"must-revalidate") => self.must_revalidate = true,
            15 if is(b"must-understand") => self.must_understand = true,
            16 if is(b"proxy-revalidate") => self.proxy_revalidate = true,
            22 if is(b"stale-while-revalidate") => lower(&mut self.stale_while_revalidate, seconds(argument)),
            _ => {
                if let Some(extension) = extension(directive) {
                    self.add_extension(extension);
                }
            }
        }
    }

    /// Adds the directives in an element with wrong syntax, such as `private; max-age=0` or `no-cache no-store`.
    /// private, no-store and no-cache take effect at any position in the element, and max-age and s-maxage are read as
    /// 0.
    fn add_malformed(&mut self, text: &[u8]) {
        for token in text.split(|&b| !is_token_byte(b)) {
            let is = |known: &[u8]| token.eq_ignore_ascii_case(known);
            match token.len() {
                7 if is(b"private") => qualify(&mut self.private, &mut self.private_fields, None),
                7 if is(b"max-age") => lower(&mut self.max_age, 0),
                8 if is(b"no-store") => self.no_store = true,
                8 if is(b"no-cache") => qualify(&mut self.no_cache, &mut self.no_cache_fields, None),
                8 if is(b"s-maxage") => lower(&mut self.s_maxage, 0),
                _ => {}
            }
        }
    }

    fn add_extension(&mut self, extension: Extension<'a>) {
        insert_sorted(
            &mut self.extensions,
            extension,
            |a, b| folded(a.name, b.name).then_with(|| a.argument.cmp(&b.argument)).then_with(|| a.name.cmp(b.name)),
            |a, b| a.argument == b.argument && a.name.eq_ignore_ascii_case(b.name),
        );
        // If there are too many directives, the last directives in sort order are dropped, not the last directives in
        // the input. So the order of the lines does not matter.
        self.extensions.truncate(MAX_EXTENSIONS);
    }

    /// Removes both field lists.
    pub(crate) fn drop_field_lists(&mut self) {
        self.no_cache_fields.clear();
        self.private_fields.clear();
    }

    /// Adds these directives of `other` if they are absent from `self`: stale-while-revalidate, stale-if-error, public,
    /// must-revalidate, proxy-revalidate.
    pub(crate) fn take_conditions(&mut self, other: &CacheControl<'_>) {
        self.stale_while_revalidate = self.stale_while_revalidate.or(other.stale_while_revalidate);
        self.stale_if_error = self.stale_if_error.or(other.stale_if_error);
        self.public |= other.public;
        self.must_revalidate |= other.must_revalidate;
        self.proxy_revalidate |= other.proxy_revalidate;
    }

    /// Returns whether there is no directive.
    pub fn is_empty(&self) -> bool {
        !self.has_lifetime()
            && !self.is_restricted()
            && self.stale_while_revalidate.is_none()
            && self.stale_if_error.is_none()
            && !self.public
            && !self.must_revalidate
            && !self.proxy_revalidate
            && !self.no_transform
            && !self.immutable
            && !self.must_understand
            && self.no_cache_fields.is_empty()
            && self.private_fields.is_empty()
            && self.extensions.is_empty()
    }

    /// Returns whether there is a lifetime, which can be 0.
    pub fn has_lifetime(&self) -> bool {
        self.max_age.is_some() || self.s_maxage.is_some()
    }

    /// Returns whether there is a no-store, or a no-cache or private without a field list. A response with one of these
    /// directives must not have a lifetime.
    pub fn is_restricted(&self) -> bool {
        self.no_store || self.no_cache || self.private
    }

    /// Returns whether shared caches must not store the response.
    pub(crate) fn is_unshared(&self) -> bool {
        self.no_store || self.private
    }

    /// Whether some shared cache is allowed to store a response with this status. This includes a response that the
    /// cache must revalidate before each use.
    pub(crate) fn is_storable(&self, status: StatusCode) -> bool {
        !self.is_unshared() && (self.has_lifetime() || self.public || is_stored_by_default(status))
    }

    /// Removes every directive that contradicts a stricter directive, so that all caches read the line in the same way.
    ///
    /// If no-store is present, only no-store, no-transform and unknown directives stay. private and no-cache remove
    /// lifetimes, because Fastly would obey the lifetimes. private and no-cache also remove immutable. private removes
    /// public and proxy-revalidate. no-cache, private and must-revalidate remove stale-while-revalidate and
    /// stale-if-error, because some caches would still serve stale responses. All times are limited to [`MAX_SECONDS`].
    pub fn settle(&mut self) {
        if self.no_store {
            *self = Self {
                no_store: true,
                no_transform: self.no_transform,
                extensions: std::mem::take(&mut self.extensions),
                ..Self::default()
            };
            return;
        }
        if self.is_restricted() {
            self.max_age = None;
            self.s_maxage = None;
            self.immutable = false;
        }
        if self.is_restricted() || self.must_revalidate {
            self.stale_while_revalidate = None;
            self.stale_if_error = None;
        }
        if self.private {
            self.public = false;
            self.proxy_revalidate = false;
            self.private_fields.clear();
        }
        if self.no_cache {
            self.no_cache_fields.clear();
        }
        for seconds in
            [&mut self.max_age, &mut self.s_maxage, &mut self.stale_while_revalidate, &mut self.stale_if_error]
        {
            *seconds = seconds.map(|seconds| seconds.min(MAX_SECONDS));
        }
    }

    /// Returns one field line with all directives in a fixed order, or `None` if there is no directive. The caller must
    /// call [`Self::settle`] first. Allocates at most once.
    pub fn settled_value(&self) -> Option<HeaderValue> {
        for fixed in ["private", "no-store", "no-cache"] {
            if self.is_written_as(fixed.as_bytes()) {
                return Some(HeaderValue::from_static(fixed));
            }
        }
        let mut length = 0;
        self.write_parts(|part| length += part.len());
        if length == 0 {
            return None;
        }
        // The vector has no spare capacity, so it becomes the buffer of the value without a copy.
        let mut line = Vec::with_capacity(length);
        self.write_parts(|part| line.extend_from_slice(part));
        HeaderValue::try_from(line).ok()
    }

    /// Returns whether [`Self::settled_value`] would write exactly `line`. Allocates nothing.
    pub fn is_written_as(&self, line: &[u8]) -> bool {
        let mut rest = Some(line);
        self.write_parts(|part| rest = rest.and_then(|rest| rest.strip_prefix(part)));
        rest.is_some_and(<[u8]>::is_empty)
    }

    fn write_parts(&self, mut sink: impl FnMut(&[u8])) {
        let mut first = true;
        let mut separated = |sink: &mut dyn FnMut(&[u8]), part: &[u8]| {
            if !std::mem::take(&mut first) {
                sink(b", ");
            }
            sink(part);
        };
        for (is_set, name) in [
            (self.no_store, "no-store"),
            (self.private, "private"),
            (self.public, "public"),
            (self.no_cache, "no-cache"),
        ] {
            if is_set {
                separated(&mut sink, name.as_bytes());
            }
        }
        for (names, opening) in [(&self.no_cache_fields, "no-cache=\""), (&self.private_fields, "private=\"")] {
            for (index, name) in names.iter().enumerate() {
                if index == 0 {
                    separated(&mut sink, opening.as_bytes());
                } else {
                    sink(b", ");
                }
                sink(name.as_bytes());
            }
            if !names.is_empty() {
                sink(b"\"");
            }
        }
        for (seconds, name) in [
            (self.max_age, "max-age="),
            (self.s_maxage, "s-maxage="),
            (self.stale_while_revalidate, "stale-while-revalidate="),
            (self.stale_if_error, "stale-if-error="),
        ] {
            if let Some(seconds) = seconds {
                separated(&mut sink, name.as_bytes());
                let mut digits = [0; 20];
                sink(decimal::write(seconds, &mut digits));
            }
        }
        for (is_set, name) in [
            (self.immutable, "immutable"),
            (self.must_revalidate, "must-revalidate"),
            (self.proxy_revalidate, "proxy-revalidate"),
            (self.must_understand, "must-understand"),
            (self.no_transform, "no-transform"),
        ] {
            if is_set {
                separated(&mut sink, name.as_bytes());
            }
        }
        for extension in &self.extensions {
            separated(&mut sink, extension.name.as_bytes());
            if let Some(argument) = extension.argument {
                sink(b"=");
                sink(argument.as_bytes());
            }
        }
    }
}

/// Reads delta-seconds (RFC 9111 §1.2.2). A number above [`MAX_SECONDS`] becomes [`MAX_SECONDS`]. Text that is not a
/// number becomes 0.
fn seconds(argument: Argument<'_>) -> u64 {
    let (Argument::Token(text) | Argument::Quoted(text)) = argument else {
        return 0;
    };
    decimal::read_saturating(text.trim_ascii()).map_or(0, |seconds| seconds.min(MAX_SECONDS))
}

fn lower(known: &mut Option<u64>, seconds: u64) {
    *known = Some(known.map_or(seconds, |known| known.min(seconds)));
}

/// Adds `more`, the field list of one directive, to `names`. If `more` is `None`, the directive has no usable list, and
/// `unqualified` becomes true. Too many names have the same effect. While `unqualified` is true, no names are stored.
fn qualify<'a>(unqualified: &mut bool, names: &mut Vec<&'a str>, more: Option<Vec<&'a str>>) {
    match more {
        Some(more) if !*unqualified => {
            for name in more {
                insert_sorted(
                    names,
                    name,
                    |a, b| folded(a, b).then_with(|| a.cmp(b)),
                    |a, b| a.eq_ignore_ascii_case(b),
                );
            }
            *unqualified = names.len() > MAX_FIELD_NAMES;
        }
        Some(_) => {}
        None => *unqualified = true,
    }
    if *unqualified {
        names.clear();
    }
}

/// Returns the names in the field list of a directive, or `None` if the directive must be read as a directive without a
/// list. The result is `None` if the argument is absent, empty or not quoted (`no-cache=1` names no field), or if the
/// argument contains an escape, text that is not a field name, a name that is too long, or too many names.
fn field_names(argument: Argument<'_>) -> Option<Vec<&str>> {
    let Argument::Quoted(text) = argument else { return None };
    let mut names = Vec::new();
    for name in text.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
        if !is_token(name) || name.len() > MAX_TEXT || names.len() == MAX_FIELD_NAMES {
            return None;
        }
        names.push(std::str::from_utf8(name).ok()?);
    }
    (!names.is_empty()).then_some(names)
}

/// Returns an unknown directive as an [`Extension`], or `None` if edgeshim must drop the directive because it is
/// malformed, too long or not safe to write. A quoted string with commas or escapes is not safe to write, because a
/// cache that splits at every comma would read directives inside the string.
fn extension<'a>(directive: &Directive<'a>) -> Option<Extension<'a>> {
    let argument = match directive.argument {
        Argument::Absent => None,
        Argument::Token(text) => Some(text),
        Argument::Quoted(text) => {
            let plain = text.iter().all(|&b| matches!(b, b' '..=b'~') && !matches!(b, b',' | b'"' | b'\\'));
            let at = directive.text.iter().position(|&b| b == b'"')?;
            // The slice includes both quotes, because the string is the last part of the element.
            Some(directive.text.get(at..).filter(|_| plain)?)
        }
        Argument::Malformed => return None,
    };
    if directive.name.is_empty()
        || directive.name.len() > MAX_TEXT
        || argument.is_some_and(|text| text.len() > MAX_TEXT)
    {
        return None;
    }
    Some(Extension {
        name: std::str::from_utf8(directive.name).ok()?,
        argument: match argument {
            Some(text) => Some(std::str::from_utf8(text).ok()?),
            None => None,
        },
    })
}

/// Inserts `item` so that `sorted` stays sorted. If `same` is true for `item` and an item of `sorted`, only the smaller
/// of the two items is kept.
fn insert_sorted<T>(sorted: &mut Vec<T>, item: T, order: impl Fn(&T, &T) -> Ordering, same: impl Fn(&T, &T) -> bool) {
    let at = sorted.partition_point(|known| order(known, &item) == Ordering::Less);
    if at > 0 && sorted.get(at - 1).is_some_and(|before| same(before, &item)) {
        return;
    }
    match sorted.get_mut(at) {
        Some(after) if same(after, &item) => *after = item,
        _ => sorted.insert(at, item),
    }
}

/// Compares two texts without regard to ASCII case.
fn folded(a: &str, b: &str) -> Ordering {
    a.bytes().map(|b| b.to_ascii_lowercase()).cmp(b.bytes().map(|b| b.to_ascii_lowercase()))
}

/// Whether some cache stores a response with this status even if the response has no lifetime. The list has the
/// statuses of RFC 9110 §15.1 except 501, 304, and the statuses that some CDN adds: 302, 303, 307, and client errors
/// for which two CDNs have a default lifetime.
pub(crate) fn is_stored_by_default(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 206 | 300..=304 | 307 | 308 | 400 | 403 | 404 | 405 | 410 | 414 | 416 | 421 | 451
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{CacheControl, MAX_EXTENSIONS};

    fn parse<'a>(lines: &[&'a str]) -> CacheControl<'a> {
        CacheControl::parse(lines.iter().map(|line| line.as_bytes()))
    }

    /// Returns the line that is written for the input `lines`, which are separated by `|`.
    fn tidied(lines: &str) -> String {
        let mut parsed = CacheControl::parse(lines.split('|').map(str::as_bytes));
        parsed.settle();
        let value = parsed.settled_value();
        value.map_or_else(String::new, |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    #[test]
    #[rustfmt::skip] // a table
    fn cache_control_when_read_and_written_then_is_one_merged_line() {
        let rows: &[(&str, &str)] = &[
            ("", ""),
            (",,, ,\t,", ""),
            ("max-age=60", "max-age=60"),
            ("MAX-AGE=60", "max-age=60"),
            ("  max-age=60  ", "max-age=60"),
            ("max-age = 60", "max-age=60"),
            ("max-age=\"60\"", "max-age=60"),
            ("max-age=060", "max-age=60"),
            ("max-age=60, max-age=30", "max-age=30"),
            ("max-age=60|max-age=30", "max-age=30"),
            ("max-age=30|max-age=60", "max-age=30"),
            ("max-age=60, max-age=x", "max-age=0"),
            ("max-age", "max-age=0"),
            ("max-age=", "max-age=0"),
            ("max-age=-1", "max-age=0"),
            ("max-age=+60", "max-age=0"),
            ("max-age=1.5", "max-age=0"),
            ("max-age=1e3", "max-age=0"),
            ("max-age=60s", "max-age=0"),
            ("max-age='60'", "max-age=0"),
            ("max-age=\"60", "max-age=0"),
            ("max-age=\"60\"x", "max-age=0"),
            ("max-age=\"\\60\"", "max-age=0"),
            ("max-age==60", "max-age=0"),
            ("max-age=2147483648", "max-age=2147483648"),
            ("max-age=2147483649", "max-age=2147483648"),
            ("max-age=99999999999999999999999999", "max-age=2147483648"),
            ("s-maxage=x", "s-maxage=0"),
            ("stale-while-revalidate=x, max-age=1", "max-age=1, stale-while-revalidate=0"),
            ("s-maxage=9, max-age=5", "max-age=5, s-maxage=9"),
            (
                "immutable, stale-if-error=4, stale-while-revalidate=3, s-maxage=2, max-age=1, public",
                "public, max-age=1, s-maxage=2, stale-while-revalidate=3, stale-if-error=4, immutable",
            ),
            ("max-age=60, no-store", "no-store"),
            ("no-store, no-cache, must-revalidate, private, max-age=0", "no-store"),
            ("no-store, must-understand, max-age=60", "no-store"),
            ("no-store=yes, max-age=60", "no-store"),
            ("max-age=60|no-store", "no-store"),
            ("max-age=60, no-cache", "no-cache"),
            ("no-cache=1, max-age=60", "no-cache"),
            ("public, no-cache, s-maxage=3", "public, no-cache"),
            ("max-age=60, private", "private"),
            ("private, public, max-age=60, proxy-revalidate", "private"),
            ("private, no-cache, max-age=60, must-revalidate", "private, no-cache, must-revalidate"),
            ("private, immutable, max-age=9, stale-if-error=8", "private"),
            ("private, no-transform", "private, no-transform"),
            ("no-store, no-transform", "no-store, no-transform"),
            ("max-age=1, must-revalidate, stale-while-revalidate=9, stale-if-error=9", "max-age=1, must-revalidate"),
            ("max-age=1, proxy-revalidate", "max-age=1, proxy-revalidate"),
            ("must-understand, max-age=1", "max-age=1, must-understand"),
            ("no-cache=\"Set-Cookie\", max-age=60", "no-cache=\"Set-Cookie\", max-age=60"),
            ("no-cache=\"b, A\"|no-cache=\"a,B\"", "no-cache=\"A, B\""),
            ("no-cache=\"Set-Cookie\", no-cache, max-age=60", "no-cache"),
            ("private=\"X-User, Set-Cookie\", max-age=60", "private=\"Set-Cookie, X-User\", max-age=60"),
            ("private=\"X-User\", private", "private"),
            ("private=\"\", max-age=60", "private"),
            ("private=\",\", max-age=60", "private"),
            ("private=\"a b\", max-age=60", "private"),
            ("private=\"X\\-User\", max-age=60", "private"),
            ("private=X-User, max-age=60", "private"),
            ("private=\"a,b,c,d,e,f,g,h\"", "private=\"a, b, c, d, e, f, g, h\""),
            ("private=\"a,b,c,d,e,f,g,h,i\"", "private"),
            ("private=\"a,b,c,d,e\", private=\"f,g,h,i\", private=\"z\"", "private"),
            ("private=\"X-User\", no-store", "no-store"),
            ("community=UCI, max-age=1", "max-age=1, community=UCI"),
            ("Community=\"U C I\", max-age=1", "max-age=1, Community=\"U C I\""),
            ("z, y, x, X, x", "X, y, z"),
            ("a=1, a=2, a=1", "a=1, a=2"),
            ("a=\"1,max-age=60\", public", "public"),
            ("a=\"\\\"\", public", "public"),
            ("a=\"b, no-store\", public", "public"),
            ("a=\"b\\\", no-store\", public", "public"),
            ("a=\"b\\\\\", no-store, public", "no-store"),
            ("a=\"b, no-store, max-age=3", "no-store"),
            ("\"no-store, private, x\"", "no-store"),
            ("a=\"x, private=\"Y\", max-age=3", "private"),
            ("private; max-age=60", "private"),
            ("max-age=60; private", "private"),
            ("no-cache no-store", "no-store"),
            ("max-age:60", "max-age=0"),
            ("public max-age=60", "max-age=0"),
            ("=60", ""),
            ("=, =, =no-store", "no-store"),
            ("public=1, immutable=1", ""),
            ("pre-check=0, post-check=0", "post-check=0, pre-check=0"),
            ("b@d, no\u{e9}, max-age=1", "max-age=1"),
        ];
        for (sent, written) in rows {
            assert_eq!(&tidied(sent), written, "input: {sent}");
            assert_eq!(&tidied(written), written, "the written line changes in a second pass; input: {sent}");
        }
    }

    #[test]
    fn cache_control_when_lines_are_huge_then_stored_part_is_bounded() {
        let commas = vec![b','; 64 * 1024];
        assert!(CacheControl::parse([commas.as_slice()]).is_empty());

        let digits = format!("max-age={}", "9".repeat(64 * 1024));
        assert_eq!(tidied(&digits), "max-age=2147483648");

        let many = (0..8000).map(|n| format!("x{n}=\"{n}\"")).collect::<Vec<_>>().join(",");
        assert_eq!(CacheControl::parse([many.as_bytes()]).extensions.len(), MAX_EXTENSIONS);

        let quotes = "a=\"\\".repeat(16 * 1024);
        assert!(CacheControl::parse([quotes.as_bytes()]).is_empty());

        let long = format!("{}=1, x={}, private=\"{}\"", "n".repeat(65), "v".repeat(65), "f".repeat(65));
        assert_eq!(tidied(&long), "private");

        let binary: Vec<u8> = (0..=255).cycle().take(64 * 1024).collect();
        CacheControl::parse([binary.as_slice()]).settle();
    }

    #[test]
    fn written_form_when_line_differs_in_any_byte_then_does_not_match() {
        let parsed = parse(&["max-age=1, s-maxage=22"]);
        assert!(parsed.is_written_as(b"max-age=1, s-maxage=22"));
        for other in ["max-age=1, s-maxage=2", "max-age=1, s-maxage=222", "max-age=1,s-maxage=22", ""] {
            assert!(!parsed.is_written_as(other.as_bytes()), "{other}");
        }
        assert!(CacheControl::default().is_written_as(b""));
    }

    /// Generates lines of real directives, directives with small mistakes, and raw bytes.
    fn any_line() -> impl Strategy<Value = Vec<u8>> {
        let directive = prop::sample::select(vec![
            "no-store",
            "no-cache",
            "private",
            "public",
            "max-age=60",
            "max-age=0",
            "MAX-AGE=7",
            "max-age=-1",
            "s-maxage=10",
            "s-maxage=\"5\"",
            "stale-while-revalidate=3",
            "stale-if-error=9",
            "immutable",
            "must-revalidate",
            "proxy-revalidate",
            "no-transform",
            "must-understand",
            "no-cache=\"Set-Cookie\"",
            "no-cache=\"a, B\"",
            "private=\"b\"",
            "private=\"",
            "ext",
            "Ext",
            "ext=1",
            "eXt=1",
            "ext=\"a b\"",
            "ext=\"a,b\"",
            "\"",
            "=",
            "\\",
            ";",
            " ",
            "max-age",
            "junk junk",
        ])
        .prop_map(|directive| directive.as_bytes().to_vec());
        let raw = prop::collection::vec(any::<u8>(), 0..12);
        let field_list = "private=\"[a-kA-K](,[a-kA-K]){0,9}\"".prop_map(String::into_bytes);
        let extension = "[a-d]{1,2}[A-D]?(=[a-c\"])?".prop_map(String::into_bytes);
        prop::collection::vec(prop_oneof![6 => directive, 1 => raw, 1 => field_list, 2 => extension], 0..12)
            .prop_map(|directives| directives.join(&b','))
    }

    fn parse_all<'a>(lines: impl IntoIterator<Item = &'a Vec<u8>>) -> CacheControl<'a> {
        CacheControl::parse(lines.into_iter().map(Vec::as_slice))
    }

    proptest! {
        #[test]
        fn cache_control_when_written_and_read_then_is_unchanged(lines in prop::collection::vec(any_line(), 0..4)) {
            let mut parsed = parse_all(&lines);
            parsed.settle();
            let value = parsed.settled_value();
            let bytes = value.as_ref().map(http::HeaderValue::as_bytes);
            prop_assert_eq!(CacheControl::parse(bytes), parsed.clone());
            prop_assert_eq!(parsed.is_empty(), bytes.is_none());
            prop_assert!(parsed.is_written_as(bytes.unwrap_or_default()));
            let again = parsed.clone();
            parsed.settle();
            prop_assert_eq!(parsed, again);
        }

        #[test]
        fn restricted_cache_control_when_settled_then_has_no_lifetime(
            lines in prop::collection::vec(any_line(), 0..4),
        ) {
            let mut parsed = parse_all(&lines);
            parsed.settle();
            if parsed.is_restricted() {
                prop_assert!(!parsed.has_lifetime());
                prop_assert_eq!(parsed.stale_while_revalidate.or(parsed.stale_if_error), None);
            }
        }

        #[test]
        fn cache_control_when_order_of_lines_changes_then_is_unchanged(
            (lines, shuffled) in prop::collection::vec(any_line(), 0..5)
                .prop_flat_map(|lines| (Just(lines.clone()), Just(lines).prop_shuffle())),
        ) {
            prop_assert_eq!(parse_all(&shuffled), parse_all(&lines));
        }

        #[test]
        fn cache_control_when_bytes_are_arbitrary_then_reading_does_not_panic(
            lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4),
        ) {
            let mut parsed = parse_all(&lines);
            parsed.settle();
            let _ = parsed.settled_value();
        }
    }
}
