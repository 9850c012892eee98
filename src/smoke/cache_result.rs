//! Reads from a response whether it came from the edge's cache.

use std::time::Duration;

use http::HeaderMap;

use super::recorded::{Recorded, spelled};
use crate::cdn::preset::edge_fields::{EdgeFields, Lookup, begins};
use crate::wire::decimal;
use crate::wire::names::{AGE, CACHE_STATUS, X_CACHE, X_VARNISH};
use crate::wire::tokens::{last, members, with_parameters};

/// The words with which values of X-Cache begin. Most caches use these words.
const HITS: [&str; 4] = ["HIT", "TCP_HIT", "TCP_MEM_HIT", "TCP_REFRESH_HIT"];
const MISSES: [&str; 7] = ["MISS", "TCP_MISS", "EXPIRED", "BYPASS", "PASS", "UNCACHEABLE", "TCP_REFRESH_MISS"];

/// The largest number of members of X-Cache that are read from its end, empty members included.
const MOST_MEMBERS: usize = 32;
/// The largest valid value of Age (RFC 9111 §5.1 and §1.2.2).
const MOST_AGE_SECONDS: u64 = 1 << 31;

/// How the edge served a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Served {
    pub lookup: Lookup,
    /// The field that shows the result of the lookup, with its value.
    pub evidence: String,
}

impl Served {
    pub(crate) fn is_hit(&self) -> bool {
        self.lookup == Lookup::Hit
    }

    pub(crate) fn word(&self) -> &'static str {
        match self.lookup {
            Lookup::Hit => "HIT",
            Lookup::Miss => "MISS",
        }
    }
}

/// Returns how the edge served a response. The provider's own field comes first, then Cache-Status (RFC 9211), then the
/// fields of common caches. Returns `None` if no field shows the result of the lookup.
///
/// The Age of a single response shows nothing, because an edge can forward the Age of another cache, or a constant: see
/// [`aged`].
pub(crate) fn served(response: &Recorded, fields: &EdgeFields) -> Option<Served> {
    let headers = &response.headers;
    if let (Some(field), Some(lookup)) = (&fields.status, fields.lookup(headers)) {
        return Some(Served { lookup, evidence: format!("{}: {}", spelled(field), response.text(field)) });
    }
    let known = [
        (CACHE_STATUS, cache_status(headers)),
        (X_CACHE.clone(), x_cache(headers)),
        (X_VARNISH.clone(), x_varnish(headers)),
    ];
    let (field, lookup) = known.into_iter().find_map(|(field, lookup)| Some((field, lookup?)))?;
    Some(Served { lookup, evidence: format!("{}: {}", spelled(&field), response.text(&field)) })
}

/// Returns a hit if Age of a response is larger than Age of an earlier response to the same request. Age must not grow
/// by more than the time between the responses, plus one second for rounding at each end.
pub(crate) fn aged(earlier: &Recorded, later: &Recorded, between: Duration) -> Option<Served> {
    let (before, after) = (age(&earlier.headers)?, age(&later.headers)?);
    let grows = after > before && after - before <= between.as_secs().saturating_add(2);
    let evidence = format!("Age: {before}, then Age: {after}");
    grows.then_some(Served { lookup: Lookup::Hit, evidence })
}

/// Returns the value of Age in seconds. Returns `None` if the field is absent or not valid.
pub(crate) fn age(headers: &HeaderMap) -> Option<u64> {
    decimal::read_saturating(headers.get(AGE)?.as_bytes().trim_ascii()).filter(|age| *age <= MOST_AGE_SECONDS)
}

/// Reads Cache-Status (RFC 9211). The last member describes the cache that is nearest to the client. An earlier member
/// can describe a cache behind edgeshim.
fn cache_status(headers: &HeaderMap) -> Option<Lookup> {
    let (_, parameters) = with_parameters(members(headers, &CACHE_STATUS).last()?);
    for parameter in parameters {
        let (name, value) = match parameter.iter().position(|&byte| byte == b'=') {
            Some(at) => parameter.split_at(at),
            None => (parameter, &b""[..]),
        };
        match (name.trim_ascii(), value) {
            (b"hit", b"" | b"=?1") => return Some(Lookup::Hit),
            (b"fwd", _) => return Some(Lookup::Miss),
            _ => {}
        }
    }
    None
}

fn x_cache(headers: &HeaderMap) -> Option<Lookup> {
    // Each cache appends its result, so the last member is from the cache that is nearest to the client.
    let member = last(headers, &X_CACHE, MOST_MEMBERS).next()?;
    let is_any = |words: &[&str]| words.iter().any(|word| begins(member, word));
    if is_any(&HITS) { Some(Lookup::Hit) } else { is_any(&MISSES).then_some(Lookup::Miss) }
}

/// Reads the field of Varnish: the number of this request, and after a hit also the number of the request that filled
/// the cache.
fn x_varnish(headers: &HeaderMap) -> Option<Lookup> {
    let value = headers.get(&X_VARNISH)?.as_bytes();
    let numbers = value.split(u8::is_ascii_whitespace).filter(|number| decimal::read(number).is_some()).count();
    match numbers {
        1 => Some(Lookup::Miss),
        2 => Some(Lookup::Hit),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::tests::response;
    use super::*;
    use crate::cdn::preset::Preset;

    fn of(preset: &str, fields: &[(&str, &str)]) -> Option<Lookup> {
        let fields = response(200, fields, b"");
        served(&fields, &Preset::named(preset).unwrap().edge).map(|served| served.lookup)
    }

    #[test]
    fn lookup_when_a_known_field_is_present_then_is_read() {
        use Lookup::{Hit, Miss};
        for (value, expected) in [
            ("edge; hit", Some(Hit)),
            ("\"a;hit, b\"; fwd=uri-miss; stored", Some(Miss)),
            ("origin-cache; hit, edge; fwd=stale", Some(Miss)),
            ("origin-cache; fwd=miss, edge; hit; ttl=30", Some(Hit)),
            ("edge; hit=?0; detail=x", None),
            ("edge", None),
            ("", None),
        ] {
            assert_eq!(of("generic", &[("Cache-Status", value)]), expected, "{value}");
        }
        for (value, expected) in [
            ("HIT", Some(Hit)),
            ("miss from cache.test", Some(Miss)),
            ("TCP_HIT from a.test", Some(Hit)),
            ("MISS, HIT", Some(Hit)),
            ("HIT, MISS", Some(Miss)),
            ("HIT from shield, MISS from edge", Some(Miss)),
            ("HIT, NONE", None),
            ("HITS", None),
        ] {
            assert_eq!(of("generic", &[("X-Cache", value)]), expected, "{value}");
        }
        assert_eq!(of("generic", &[("X-Varnish", "32770 3")]), Some(Hit));
        assert_eq!(of("generic", &[("X-Varnish", "32770")]), Some(Miss));
        let lines = [("X-Cache", "HIT"), ("X-Cache", "MISS")];
        assert_eq!(of("generic", &lines), Some(Miss));
        assert_eq!(of("generic", &[]), None);
    }

    #[test]
    fn age_when_constant_invalid_or_faster_than_the_clock_then_shows_no_hit() {
        let with = |age| response(200, &[("Age", age)], b"");
        let hit = |earlier, later| aged(&with(earlier), &with(later), Duration::from_millis(1_100)).is_some();
        assert!(hit("0", "1") && hit("5", "7"));
        for (earlier, later) in [("5", "5"), ("5", "4"), ("5", "900"), ("-1", "1"), ("0", "x"), ("0", "4294967296")] {
            assert!(!hit(earlier, later), "{earlier} {later}");
        }
        assert_eq!(of("generic", &[("Age", "3")]), None);
    }

    #[test]
    fn lookup_when_several_fields_are_present_then_the_field_of_the_provider_decides() {
        let fields = [("CF-Cache-Status", "MISS"), ("Cache-Status", "x; hit"), ("Age", "9")];
        assert_eq!(of("cloudflare", &fields), Some(Lookup::Miss));
        assert_eq!(of("generic", &fields), Some(Lookup::Hit));
    }
}
