//! Cache-Control of a response (RFC 9111 §5.2, RFC 5861, RFC 8246): read, merged and written as one line with one meaning.
//!
//! Reading never fails. Origins send several lines, junk between commas, numbers that are none and quotes that never end; what
//! cannot be understood is left out, except that anything which might forbid storing counts, and a lifetime that is no number
//! counts as 0 (RFC 9111 §4.2.1 asks for "stale"). Work is linear in the input and what is kept of it is bounded.

use std::cmp::Ordering;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue};

/// The longest lifetime that is read or written, in seconds (RFC 9111 §1.2.2).
pub(crate) const MAX_SECONDS: u64 = 1 << 31;

/// Most names kept in one field list; a longer list is read as the unqualified directive.
const MAX_FIELD_NAMES: usize = 8;
/// Most unknown directives kept.
const MAX_EXTENSIONS: usize = 16;
/// Longest name or argument of an unknown directive, and longest name in a field list, in bytes.
const MAX_TEXT: usize = 64;
/// Longest HTTP-date worth parsing; the longest valid form (RFC 850) stays below it.
const MAX_DATE: usize = 40;

/// What the Cache-Control lines of one response say. Times are seconds. Borrows from the lines; without field lists and unknown
/// directives it allocates nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one directive of the standard; they are independent")]
pub struct CacheControl<'a> {
    /// `max-age`.
    pub max_age: Option<u64>,
    /// `s-maxage`.
    pub s_maxage: Option<u64>,
    /// `stale-while-revalidate`, RFC 5861 §3.
    pub stale_while_revalidate: Option<u64>,
    /// `stale-if-error`, RFC 5861 §4.
    pub stale_if_error: Option<u64>,
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache` without a field list.
    pub no_cache: bool,
    /// `private` without a field list.
    pub private: bool,
    /// `public`.
    pub public: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `no-transform`.
    pub no_transform: bool,
    /// `immutable`, RFC 8246.
    pub immutable: bool,
    /// `must-understand`.
    pub must_understand: bool,
    // Sorted, without duplicates and bounded; in the crate's sight only so that `..CacheControl::default()` can be written.
    pub(crate) no_cache_fields: Vec<&'a str>,
    pub(crate) private_fields: Vec<&'a str>,
    pub(crate) extensions: Vec<Extension<'a>>,
}

/// A directive that this crate does not know, as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extension<'a> {
    /// A token.
    pub name: &'a str,
    /// A token, or a quoted string with its quotes.
    pub argument: Option<&'a str>,
}

/// What stands behind a directive's `=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Argument<'a> {
    /// No `=`.
    Absent,
    /// A token.
    Token(&'a [u8]),
    /// A quoted string without its quotes, escapes untouched.
    Quoted(&'a [u8]),
    /// Anything else, an empty argument too.
    Malformed,
}

/// One element of a comma-separated list of directives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Directive<'a> {
    /// A token, or empty where the element does not start with one.
    pub name: &'a [u8],
    /// What follows the name.
    pub argument: Argument<'a>,
    /// The whole element, without the white space around it.
    pub text: &'a [u8],
}

/// The directives of one field line, empty elements skipped.
///
/// A quote opens a string only right behind a `=`, and one that never closes opens none: it must not hide what follows it.
#[derive(Debug, Clone)]
pub(crate) struct Directives<'a> {
    rest: &'a [u8],
}

impl<'a> Directives<'a> {
    /// Reads one field line.
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
                while self.rest.get(start).is_some_and(|&b| is_space(b)) {
                    start += 1;
                }
                // At most one search of a line runs to its end in vain: no unescaped quote is left behind it to start another.
                if self.rest.get(start) == Some(&b'"') {
                    string = closing_quote(&self.rest[start + 1..]).map(|length| (start + 1, start + 1 + length));
                }
                let from = string.map_or(start, |(_, closing)| closing + 1);
                end = from + self.rest[from..].iter().position(|&b| b == b',').unwrap_or(self.rest.len() - from);
            }
            let element = &self.rest[..end];
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            let text = trim(element);
            if text.is_empty() {
                continue;
            }
            let name = trim(&element[..equals.unwrap_or(end)]);
            let argument = match (equals, string) {
                (None, _) => Argument::Absent,
                (_, Some((from, closing))) if trim(&element[closing + 1..]).is_empty() => {
                    Argument::Quoted(&element[from..closing])
                }
                (Some(equals), None) if is_token(trim(&element[equals + 1..])) => {
                    Argument::Token(trim(&element[equals + 1..]))
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

/// How far the string's closing quote stands behind its opening one.
fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    text.iter().position(|&b| {
        let closes = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        closes
    })
}

impl<'a> CacheControl<'a> {
    /// Reads and merges all lines. The order of lines and of directives never matters.
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
        // By length first: one comparison for most words. A prohibition counts whatever argument it carries, a permission only
        // without one.
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

    /// `private; max-age=0`, `no-cache no-store` and the like: what might forbid storing counts, a lifetime counts as 0.
    fn add_malformed(&mut self, text: &[u8]) {
        for word in text.split(|&b| !is_token_byte(b)) {
            let is = |known: &[u8]| word.eq_ignore_ascii_case(known);
            match word.len() {
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
        // The smallest stay, not the first, so that the order of lines does not show.
        self.extensions.truncate(MAX_EXTENSIONS);
    }

    /// Names in `no-cache="…"`; empty where no-cache stands without a list.
    pub fn no_cache_fields(&self) -> &[&'a str] {
        &self.no_cache_fields
    }

    /// Names in `private="…"`; empty where private stands without a list.
    pub fn private_fields(&self) -> &[&'a str] {
        &self.private_fields
    }

    /// Forgets both field lists.
    pub fn drop_field_lists(&mut self) {
        self.no_cache_fields.clear();
        self.private_fields.clear();
    }

    /// Takes over what `other` says beside lifetimes and prohibitions and what is not said here.
    pub(crate) fn take_conditions(&mut self, other: &CacheControl<'_>) {
        self.stale_while_revalidate = self.stale_while_revalidate.or(other.stale_while_revalidate);
        self.stale_if_error = self.stale_if_error.or(other.stale_if_error);
        self.public |= other.public;
        self.must_revalidate |= other.must_revalidate;
        self.proxy_revalidate |= other.proxy_revalidate;
    }

    /// Whether nothing at all is said.
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

    /// Whether a lifetime is given, be it 0.
    pub fn has_lifetime(&self) -> bool {
        self.max_age.is_some() || self.s_maxage.is_some()
    }

    /// Whether no-store, no-cache or private forbids a lifetime.
    pub fn is_restricted(&self) -> bool {
        self.no_store || self.no_cache || self.private
    }

    /// Whether shared caches must not store it at all.
    pub fn is_unshared(&self) -> bool {
        self.no_store || self.private
    }

    /// Removes what contradicts a stricter word, so that every cache reads the same.
    ///
    /// no-store leaves only no-transform and unknown directives beside it; private and no-cache leave no lifetime (Fastly would
    /// act on it); must-revalidate takes the stale windows away, which some caches would use all the same.
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

    /// One field line with all directives in canonical order, for directives that [`Self::settle`] has been called on; `None` if there
    /// are none. One allocation at most.
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
        // A vector that is exactly full becomes the value's buffer as it is.
        let mut line = Vec::with_capacity(length);
        self.write_parts(|part| line.extend_from_slice(part));
        HeaderValue::try_from(line).ok()
    }

    /// Whether `line` is, byte for byte, what [`Self::settled_value`] would write; allocates nothing.
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
        for (said, name) in [
            (self.no_store, "no-store"),
            (self.private, "private"),
            (self.public, "public"),
            (self.no_cache, "no-cache"),
        ] {
            if said {
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
                sink(decimal(seconds, &mut digits));
            }
        }
        for (said, name) in [
            (self.immutable, "immutable"),
            (self.must_revalidate, "must-revalidate"),
            (self.proxy_revalidate, "proxy-revalidate"),
            (self.must_understand, "must-understand"),
            (self.no_transform, "no-transform"),
        ] {
            if said {
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

/// Header fields that take part in the decision what caches may do, found in one pass over a response's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheField {
    /// Age.
    Age,
    /// Cache-Control.
    CacheControl,
    /// Expires.
    Expires,
    /// Pragma.
    Pragma,
    /// Set-Cookie.
    SetCookie,
    /// Surrogate-Control, which may ask for ESI beside its lifetimes.
    SurrogateControl,
    /// Any other field that one CDN obeys before Cache-Control.
    Targeted,
    /// Vary.
    Vary,
}

/// Every field of [`CacheField::Targeted`].
pub(crate) static TARGETED: [&HeaderName; 7] = [
    &super::names::CDN_CACHE_CONTROL,
    &super::names::CLOUDFLARE_CDN_CACHE_CONTROL,
    &super::names::NETLIFY_CDN_CACHE_CONTROL,
    &super::names::VERCEL_CDN_CACHE_CONTROL,
    &super::names::AKAMAI_CACHE_CONTROL,
    &super::names::EDGE_CONTROL,
    &super::names::X_ACCEL_EXPIRES,
];

impl CacheField {
    /// Which of them `name` is.
    pub(crate) fn of(name: &HeaderName) -> Option<Self> {
        // One comparison of strings by length and bytes beats a hash lookup for each of these names.
        Some(match name.as_str() {
            "age" => Self::Age,
            "cache-control" => Self::CacheControl,
            "expires" => Self::Expires,
            "pragma" => Self::Pragma,
            "set-cookie" => Self::SetCookie,
            "surrogate-control" => Self::SurrogateControl,
            "vary" => Self::Vary,
            "akamai-cache-control"
            | "cdn-cache-control"
            | "cloudflare-cdn-cache-control"
            | "edge-control"
            | "netlify-cdn-cache-control"
            | "vercel-cdn-cache-control"
            | "x-accel-expires" => Self::Targeted,
            _ => return None,
        })
    }
}

/// What Edge-Control lines say about keeping a response, in the terms of Cache-Control: `cache-maxage` and `max-age` (a number with an
/// optional unit s, m, h or d), `no-store` and `bypass-cache`. `None`: nothing. The strictest of several counts. A lifetime that cannot be
/// read counts as one second, since a reader of another version may find one there, and so does a `!` that takes a prohibition back.
pub fn edge_control<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Option<CacheControl<'static>> {
    let (mut said, mut allows) = (CacheControl::default(), false);
    for directive in lines.into_iter().flat_map(Directives::new) {
        let is = |name: &str| directive.name.eq_ignore_ascii_case(name.as_bytes());
        if is("no-store") || is("bypass-cache") {
            said.no_store = true;
        } else if is("cache-maxage") || is("max-age") {
            let seconds = match directive.argument {
                Argument::Token(text) | Argument::Quoted(text) => seconds_with_unit(text).unwrap_or(1),
                Argument::Absent | Argument::Malformed => 1,
            };
            said.max_age = Some(said.max_age.map_or(seconds, |known| known.min(seconds)));
        } else if is("!no-store") || is("!bypass-cache") {
            allows = true;
        }
    }
    if allows && !said.no_store {
        said.max_age = said.max_age.or(Some(1));
    }
    (!said.is_empty()).then_some(said)
}

fn seconds_with_unit(text: &[u8]) -> Option<u64> {
    let (number, unit) = match text {
        [number @ .., b'm' | b'M'] => (number, 60),
        [number @ .., b'h' | b'H'] => (number, 3_600),
        [number @ .., b'd' | b'D'] => (number, 86_400),
        [number @ .., b's' | b'S'] | number => (number, 1),
    };
    if number.is_empty() || !number.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(number).ok()?.parse().unwrap_or(MAX_SECONDS);
    Some(number.saturating_mul(unit).min(MAX_SECONDS))
}

/// The lifetime in seconds that Expires lines give relative to Date (RFC 9111 §4.2.1, §5.3): an invalid one is in the past, of
/// several the earliest counts, and where Date is missing or no date `received` stands for it. `None` without any line.
pub(crate) fn expires_lifetime<'a, I>(
    expires: I,
    date: Option<&[u8]>,
    received: impl FnOnce() -> SystemTime,
) -> Option<u64>
where
    I: IntoIterator<Item = &'a [u8]>,
{
    let mut earliest: Option<Option<SystemTime>> = None;
    for line in expires {
        let time = http_date(line);
        // `None < Some(_)`: a line that is no date beats every date.
        earliest = Some(earliest.map_or(time, |known| known.min(time)));
    }
    let Some(expires) = earliest? else { return Some(0) };
    let date = date.and_then(http_date).unwrap_or_else(received);
    Some(expires.duration_since(date).map_or(0, |lifetime| lifetime.as_secs().min(MAX_SECONDS)))
}

fn http_date(line: &[u8]) -> Option<SystemTime> {
    let text = trim(line);
    if text.len() > MAX_DATE {
        return None;
    }
    httpdate::parse_http_date(std::str::from_utf8(text).ok()?).ok()
}

/// Delta-seconds: too large is the largest, and what is no number is 0.
fn seconds(argument: Argument<'_>) -> u64 {
    let (Argument::Token(text) | Argument::Quoted(text)) = argument else {
        return 0;
    };
    let text = trim(text);
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    text.iter().fold(0, |seconds: u64, digit| (seconds * 10 + u64::from(digit - b'0')).min(MAX_SECONDS))
}

fn lower(known: &mut Option<u64>, seconds: u64) {
    *known = Some(known.map_or(seconds, |known| known.min(seconds)));
}

/// Adds a field list, or with `None` the unqualified directive. That one, and a list that grows too long, forgets all names.
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

/// The names in a directive's field list; `None` where it has to be read as the unqualified directive: no list, no string (a sloppy
/// `no-cache=1` names no field), an empty one, an escape, anything that is no field name.
fn field_names(argument: Argument<'_>) -> Option<Vec<&str>> {
    let Argument::Quoted(text) = argument else { return None };
    let mut names = Vec::new();
    for name in text.split(|&b| b == b',').map(trim).filter(|name| !name.is_empty()) {
        if !is_token(name) || name.len() > MAX_TEXT || names.len() == MAX_FIELD_NAMES {
            return None;
        }
        names.push(std::str::from_utf8(name).ok()?);
    }
    (!names.is_empty()).then_some(names)
}

/// An unknown directive worth writing back. Strings with commas or escapes are not: a cache that splits at every comma would read
/// directives in them.
fn extension<'a>(directive: &Directive<'a>) -> Option<Extension<'a>> {
    let argument = match directive.argument {
        Argument::Absent => None,
        Argument::Token(text) => Some(text),
        Argument::Quoted(text) => {
            let plain = text.iter().all(|&b| matches!(b, b' '..=b'~') && !matches!(b, b',' | b'"' | b'\\'));
            let at = directive.text.iter().position(|&b| b == b'"')?;
            // With its quotes, which stand around it and end the element.
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

/// Puts `item` where it belongs; of two that are the same the smaller stays.
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

/// Order without regard to ASCII case.
fn folded(a: &str, b: &str) -> Ordering {
    a.bytes().map(|b| b.to_ascii_lowercase()).cmp(b.bytes().map(|b| b.to_ascii_lowercase()))
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut start = digits.len();
    for (index, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        start = index;
        if number == 0 {
            break;
        }
    }
    digits.get(start..).unwrap_or_default()
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t')
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_space(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_space(*last)
    {
        text = rest;
    }
    text
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&b| is_token_byte(b))
}

/// tchar of RFC 9110 §5.6.2.
fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(b, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::{
        Argument, CacheControl, CacheField, Directives, MAX_EXTENSIONS, MAX_SECONDS, TARGETED, edge_control,
        expires_lifetime,
    };

    fn parse<'a>(lines: &[&'a str]) -> CacheControl<'a> {
        CacheControl::parse(lines.iter().map(|line| line.as_bytes()))
    }

    /// What is written for these lines; lines are separated by `|`.
    fn tidied(lines: &str) -> String {
        let mut parsed = CacheControl::parse(lines.split('|').map(str::as_bytes));
        parsed.settle();
        let value = parsed.settled_value();
        value.map_or_else(String::new, |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    #[test]
    fn edge_control_when_read_then_its_lifetime_or_prohibition() {
        let read = |lines: &[&'static str]| {
            edge_control(lines.iter().map(|line| line.as_bytes())).map(|said| (said.max_age, said.no_store))
        };
        for (lines, said) in [
            (&["cache-maxage=1d"][..], Some((Some(86_400), false))),
            (&["max-age=90"], Some((Some(90), false))),
            (&["Cache-MaxAge=10M, downstream-ttl=1h"], Some((Some(600), false))),
            (&["cache-maxage=2h", "cache-maxage=90s"], Some((Some(90), false))),
            (&["cache-maxage=0s"], Some((Some(0), false))),
            (&["cache-maxage=\"1h\""], Some((Some(3_600), false))),
            (&["cache-maxage=soon"], Some((Some(1), false))),
            (&["cache-maxage"], Some((Some(1), false))),
            (&["cache-maxage=99999999999999999999d"], Some((Some(MAX_SECONDS), false))),
            (&["no-store"], Some((None, true))),
            (&["bypass-cache"], Some((None, true))),
            (&["!no-store, cache-maxage=5m"], Some((Some(300), false))),
            (&["!bypass-cache"], Some((Some(1), false))),
            (&["downstream-ttl=1d"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(read(lines), said, "{lines:?}");
        }
    }

    #[test]
    #[rustfmt::skip] // One row a line.
    fn cache_control_when_read_and_written() {
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
        for (said, written) in rows {
            assert_eq!(&tidied(said), written, "for {said}");
            assert_eq!(&tidied(written), written, "again for {said}");
        }
    }

    #[test]
    fn cache_control_stays_bounded_when_lines_are_huge() {
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
    fn directives_when_arguments_differ() {
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

    #[test]
    fn cache_control_knows_its_own_line_when_it_is_there_already() {
        let parsed = parse(&["max-age=1, s-maxage=22"]);
        assert!(parsed.is_written_as(b"max-age=1, s-maxage=22"));
        for other in ["max-age=1, s-maxage=2", "max-age=1, s-maxage=222", "max-age=1,s-maxage=22", ""] {
            assert!(!parsed.is_written_as(other.as_bytes()), "{other}");
        }
        assert!(CacheControl::default().is_written_as(b""));
    }

    #[test]
    fn expires_when_compared_with_date() {
        let lifetime = |expires: &[&str], date: Option<&str>| {
            let received = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
            expires_lifetime(expires.iter().map(|line| line.as_bytes()), date.map(str::as_bytes), || received)
        };
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let later = "Sun, 06 Nov 1994 08:50:37 GMT";
        assert_eq!(lifetime(&[], Some(date)), None);
        assert_eq!(lifetime(&[later], Some(date)), Some(60));
        assert_eq!(lifetime(&[later], None), Some(60));
        assert_eq!(lifetime(&[later], Some("nonsense")), Some(60));
        assert_eq!(lifetime(&["Sunday, 06-Nov-94 08:50:37 GMT"], Some("Sun Nov  6 08:49:37 1994")), Some(60));
        assert_eq!(lifetime(&[date], Some(later)), Some(0));
        assert_eq!(lifetime(&["0"], Some(date)), Some(0));
        assert_eq!(lifetime(&["-1"], None), Some(0));
        assert_eq!(lifetime(&[""], None), Some(0));
        assert_eq!(lifetime(&[later, "0"], Some(date)), Some(0));
        assert_eq!(lifetime(&[later, date], Some(date)), Some(0));
        assert_eq!(lifetime(&["Fri, 31 Dec 9999 23:59:59 GMT"], Some(date)), Some(super::MAX_SECONDS));
    }

    #[test]
    fn cache_fields_when_targeted_are_all_listed() {
        for name in TARGETED {
            assert_eq!(CacheField::of(name), Some(CacheField::Targeted), "{name}");
        }
        assert_eq!(CacheField::of(&super::super::names::SURROGATE_CONTROL), Some(CacheField::SurrogateControl));
        assert_eq!(CacheField::of(&super::super::names::DATE), None);
    }

    /// Lines made of real directives, near misses and raw bytes.
    fn any_line() -> impl Strategy<Value = Vec<u8>> {
        let word = prop::sample::select(vec![
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
        .prop_map(|word| word.as_bytes().to_vec());
        let raw = prop::collection::vec(any::<u8>(), 0..12);
        let field_list = "private=\"[a-kA-K](,[a-kA-K]){0,9}\"".prop_map(String::into_bytes);
        let extension = "[a-d]{1,2}[A-D]?(=[a-c\"])?".prop_map(String::into_bytes);
        prop::collection::vec(prop_oneof![6 => word, 1 => raw, 1 => field_list, 2 => extension], 0..12)
            .prop_map(|words| words.join(&b','))
    }

    fn parse_all<'a>(lines: impl IntoIterator<Item = &'a Vec<u8>>) -> CacheControl<'a> {
        CacheControl::parse(lines.into_iter().map(Vec::as_slice))
    }

    proptest! {
        #[test]
        fn cache_control_reads_the_same_when_written_and_read_again(lines in prop::collection::vec(any_line(), 0..4)) {
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
        fn cache_control_holds_no_lifetime_when_restricted(lines in prop::collection::vec(any_line(), 0..4)) {
            let mut parsed = parse_all(&lines);
            parsed.settle();
            if parsed.is_restricted() {
                prop_assert!(!parsed.has_lifetime());
                prop_assert_eq!(parsed.stale_while_revalidate.or(parsed.stale_if_error), None);
            }
        }

        #[test]
        fn cache_control_reads_the_same_when_the_order_of_lines_changes(
            (lines, shuffled) in prop::collection::vec(any_line(), 0..5)
                .prop_flat_map(|lines| (Just(lines.clone()), Just(lines).prop_shuffle())),
        ) {
            prop_assert_eq!(parse_all(&shuffled), parse_all(&lines));
        }

        #[test]
        fn parse_never_panics_when_bytes_are_arbitrary(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
            let mut parsed = parse_all(&lines);
            parsed.settle();
            let _ = parsed.settled_value();
            let _ = expires_lifetime(lines.iter().map(Vec::as_slice), None, || SystemTime::UNIX_EPOCH);
        }
    }
}
