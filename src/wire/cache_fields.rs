//! The fields of a response that control what caches do with the response.

use std::time::SystemTime;

use http::HeaderName;

use super::cache_control::{CacheControl, MAX_SECONDS};
use super::decimal;
use super::directives::{Argument, Directives};
use super::head_fields::{Fields, Names};
use super::names;

/// The longest text that is parsed as an HTTP-date, in bytes. The longest valid form (RFC 850) is shorter than this
/// limit.
const MAX_DATE: usize = 40;

/// A field of a response that controls what caches do with the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheField {
    Age,
    CacheControl,
    Expires,
    Pragma,
    SetCookie,
    /// Surrogate-Control. Besides lifetimes, this field can request ESI (Edge Side Includes).
    SurrogateControl,
    /// Any other field that at least one CDN prefers to Cache-Control.
    Targeted,
    Vary,
}

/// All fields of the variant [`CacheField::Targeted`].
pub(crate) static TARGETED: [&HeaderName; 7] = [
    &names::CDN_CACHE_CONTROL,
    &names::CLOUDFLARE_CDN_CACHE_CONTROL,
    &names::NETLIFY_CDN_CACHE_CONTROL,
    &names::VERCEL_CDN_CACHE_CONTROL,
    &names::AKAMAI_CACHE_CONTROL,
    &names::EDGE_CONTROL,
    &names::X_ACCEL_EXPIRES,
];

/// The names that [`CacheField::of`] recognises.
pub(crate) const NAMES: Names = Names::of_list(&[
    "age",
    "akamai-cache-control",
    "cache-control",
    "cdn-cache-control",
    "cloudflare-cdn-cache-control",
    "edge-control",
    "expires",
    "netlify-cdn-cache-control",
    "pragma",
    "set-cookie",
    "surrogate-control",
    "vary",
    "vercel-cdn-cache-control",
    "x-accel-expires",
]);

/// The set of [`CacheField`]s that a response has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CacheFields(u16);

impl CacheFields {
    /// Finds the fields in one pass over the names of the head. If [`Fields::can_have_any`] is false, all cache fields
    /// are absent, and the pass is skipped.
    pub(crate) fn of<'a>(fields: impl Into<Fields<'a>>) -> Self {
        let fields = fields.into();
        if !fields.can_have_any(NAMES) {
            return Self::default();
        }
        Self(fields.headers().keys().filter_map(CacheField::of).fold(0, |fields, field| fields | 1 << field as u16))
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn has(self, field: CacheField) -> bool {
        self.0 & (1 << field as u16) != 0
    }
}

impl CacheField {
    /// Returns the cache field that has this name.
    pub(crate) fn of(name: &HeaderName) -> Option<Self> {
        // Comparing the strings is faster than a lookup in a hash map.
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

/// Reads Akamai's Edge-Control as directives of Cache-Control. The function reads `no-store`, `bypass-cache`,
/// `cache-maxage` and `max-age`. `cache-maxage` and `max-age` have a number with an optional unit s, m, h or d. If
/// there are several directives, the strictest directive applies. Returns `None` if the lines contain none of the
/// directives that this comment names.
///
/// A lifetime that is not a number counts as one second, because Akamai might read more forms than this function. In
/// Akamai's syntax, `!no-store` and `!bypass-cache` allow caches to store the response. In this function `!no-store`
/// and `!bypass-cache` do not cancel a `no-store` or `bypass-cache`. If the lines contain no `no-store`, no
/// `bypass-cache` and no lifetime, `!no-store` and `!bypass-cache` count as a lifetime of one second.
pub fn edge_control<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Option<CacheControl<'static>> {
    let (mut read, mut allows) = (CacheControl::default(), false);
    for directive in lines.into_iter().flat_map(Directives::new) {
        let is = |name: &str| directive.name.eq_ignore_ascii_case(name.as_bytes());
        if is("no-store") || is("bypass-cache") {
            read.no_store = true;
        } else if is("cache-maxage") || is("max-age") {
            let seconds = match directive.argument {
                Argument::Token(text) | Argument::Quoted(text) => seconds_with_unit(text).unwrap_or(1),
                Argument::Absent | Argument::Malformed => 1,
            };
            read.max_age = Some(read.max_age.map_or(seconds, |known| known.min(seconds)));
        } else if is("!no-store") || is("!bypass-cache") {
            allows = true;
        }
    }
    if allows && !read.no_store {
        read.max_age = read.max_age.or(Some(1));
    }
    (!read.is_empty()).then_some(read)
}

fn seconds_with_unit(text: &[u8]) -> Option<u64> {
    let (number, unit) = match text {
        [number @ .., b'm' | b'M'] => (number, 60),
        [number @ .., b'h' | b'H'] => (number, 3_600),
        [number @ .., b'd' | b'D'] => (number, 86_400),
        [number @ .., b's' | b'S'] | number => (number, 1),
    };
    Some(decimal::read_saturating(number)?.saturating_mul(unit).min(MAX_SECONDS))
}

/// Returns the lifetime in seconds from Expires and Date (RFC 9111 §4.2.1, RFC 9111 §5.3), or `None` if Expires is
/// absent. An invalid Expires counts as a date in the past. If there are several Expires lines, the earliest date is
/// used. If Date is missing or invalid, the function uses the time that `received` returns.
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
        // `None` is less than any `Some`, so an invalid date counts as earlier than every valid date.
        earliest = Some(earliest.map_or(time, |known| known.min(time)));
    }
    let Some(expires) = earliest? else { return Some(0) };
    let date = date.and_then(http_date).unwrap_or_else(received);
    Some(expires.duration_since(date).map_or(0, |lifetime| lifetime.as_secs().min(MAX_SECONDS)))
}

fn http_date(line: &[u8]) -> Option<SystemTime> {
    let text = line.trim_ascii();
    if text.len() > MAX_DATE {
        return None;
    }
    httpdate::parse_http_date(std::str::from_utf8(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edge_control_when_read_then_is_no_store_or_the_shortest_lifetime() {
        let read = |lines: &[&'static str]| {
            edge_control(lines.iter().map(|line| line.as_bytes())).map(|read| (read.max_age, read.no_store))
        };
        for (lines, wanted) in [
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
            assert_eq!(read(lines), wanted, "{lines:?}");
        }
    }

    #[test]
    fn expires_lifetime_when_expires_is_after_date_then_is_the_difference_otherwise_zero() {
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
        assert_eq!(lifetime(&["Fri, 31 Dec 9999 23:59:59 GMT"], Some(date)), Some(MAX_SECONDS));
    }

    #[test]
    fn targeted_field_when_listed_then_is_recognised() {
        for name in TARGETED {
            assert_eq!(CacheField::of(name), Some(CacheField::Targeted), "{name}");
        }
        assert_eq!(CacheField::of(&names::SURROGATE_CONTROL), Some(CacheField::SurrogateControl));
        assert_eq!(CacheField::of(&names::DATE), None);
    }

    proptest! {
        #[test]
        fn expires_lifetime_when_bytes_are_arbitrary_then_does_not_panic(
            lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4),
        ) {
            let _ = expires_lifetime(lines.iter().map(Vec::as_slice), None, || SystemTime::UNIX_EPOCH);
        }
    }
}
