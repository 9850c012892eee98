//! Reads from a response whether it came from the edge's cache.

use http::HeaderMap;

use super::recorded::{Recorded, spelled};
use crate::cdn::preset::edge_fields::{EdgeFields, Lookup, begins};
use crate::wire::decimal;
use crate::wire::names::{AGE, CACHE_STATUS, X_CACHE, X_VARNISH};
use crate::wire::tokens::{members, of_line, with_parameters};

/// The words with which the values of X-Cache begin at most caches.
const HITS: [&str; 4] = ["HIT", "TCP_HIT", "TCP_MEM_HIT", "TCP_REFRESH_HIT"];
const MISSES: [&str; 7] = ["MISS", "TCP_MISS", "EXPIRED", "BYPASS", "PASS", "UNCACHEABLE", "TCP_REFRESH_MISS"];

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
/// fields of common caches, then Age. Returns `None` if no field shows the result of the lookup.
pub(crate) fn served(response: &Recorded, fields: &EdgeFields) -> Option<Served> {
    let headers = &response.headers;
    if let (Some(field), Some(lookup)) = (&fields.status, fields.lookup(headers)) {
        return Some(Served { lookup, evidence: format!("{}: {}", spelled(field), response.text(field)) });
    }
    let known = [
        (CACHE_STATUS, cache_status(headers)),
        (X_CACHE.clone(), x_cache(headers)),
        (X_VARNISH.clone(), x_varnish(headers)),
        (AGE, age(headers).and_then(|age| (age > 0).then_some(Lookup::Hit))),
    ];
    let (field, lookup) = known.into_iter().find_map(|(field, lookup)| Some((field, lookup?)))?;
    Some(Served { lookup, evidence: format!("{}: {}", spelled(&field), response.text(&field)) })
}

/// Returns the value of Age in seconds.
pub(crate) fn age(headers: &HeaderMap) -> Option<u64> {
    decimal::read_saturating(headers.get(AGE)?.as_bytes().trim_ascii())
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
    let members = || headers.get_all(&X_CACHE).iter().flat_map(|line| of_line(line.as_bytes()));
    let is_any = |words: &[&str]| members().any(|member| words.iter().any(|word| begins(member, word)));
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
            ("HITS", None),
        ] {
            assert_eq!(of("generic", &[("X-Cache", value)]), expected, "{value}");
        }
        assert_eq!(of("generic", &[("X-Varnish", "32770 3")]), Some(Hit));
        assert_eq!(of("generic", &[("X-Varnish", "32770")]), Some(Miss));
        assert_eq!(of("generic", &[("Age", "3")]), Some(Hit));
        assert_eq!(of("generic", &[("Age", "0")]), None);
        assert_eq!(of("generic", &[]), None);
    }

    #[test]
    fn lookup_when_several_fields_are_present_then_the_field_of_the_provider_decides() {
        let fields = [("CF-Cache-Status", "MISS"), ("Cache-Status", "x; hit"), ("Age", "9")];
        assert_eq!(of("cloudflare", &fields), Some(Lookup::Miss));
        assert_eq!(of("generic", &fields), Some(Lookup::Hit));
    }
}
