//! The header fields in which a CDN reports to its clients how it served a response: from its cache or not, and at
//! which point of presence.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::PopField;
use crate::wire::tokens::last;

/// The largest number of members of a field that are read, beginning at its end. Empty members count.
const MOST_MEMBERS: usize = 32;

/// The fields of one CDN. All parts are empty if the preset has no table `[edge]`.
#[derive(Debug, Default)]
pub(crate) struct EdgeFields {
    /// The field with the result of the lookup in the cache.
    pub status: Option<HeaderName>,
    /// The words that mean a response from the cache. A member of the field begins with such a word.
    pub hit: Vec<String>,
    /// The words that mean a response that the CDN has pulled.
    pub miss: Vec<String>,
    /// The field with the point of presence.
    pub pop: Option<PopField>,
    /// The request field without which the CDN does not send `status`.
    pub ask: Option<(HeaderName, HeaderValue)>,
}

/// How a cache served a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// From the cache.
    Hit,
    /// By a pull.
    Miss,
}

impl EdgeFields {
    /// Returns how the CDN served a response. Returns `None` if the preset names no field for this, or if the field is
    /// absent or has a value that is not known.
    ///
    /// With a shield, the field has a member for each server of the CDN. Only the last member counts: it describes the
    /// edge that responded to the client.
    pub(crate) fn lookup(&self, headers: &HeaderMap) -> Option<Lookup> {
        let field = self.status.as_ref()?;
        let member = last(headers, field, MOST_MEMBERS).next()?;
        let is_any = |texts: &[String]| texts.iter().any(|text| begins(member, text));
        if is_any(&self.hit) {
            Some(Lookup::Hit)
        } else if is_any(&self.miss) {
            Some(Lookup::Miss)
        } else {
            None
        }
    }

    /// Returns the point of presence that a response names.
    pub(crate) fn pop(&self, headers: &HeaderMap) -> Option<String> {
        let pop = self.pop.as_ref()?;
        let line = headers.get(&pop.field)?.as_bytes();
        let text = String::from_utf8_lossy(pop.part(line)).into_owned();
        (!text.is_empty()).then_some(text)
    }
}

/// Returns whether a text begins with a complete word. The comparison ignores case.
pub(crate) fn begins(text: &[u8], word: &str) -> bool {
    text.split_at_checked(word.len()).is_some_and(|(start, rest)| {
        start.eq_ignore_ascii_case(word.as_bytes())
            && !rest.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
    })
}

#[cfg(test)]
mod tests {
    use super::super::Preset;
    use super::*;

    fn headers(field: &str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(field.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        headers
    }

    #[test]
    fn lookup_when_value_is_of_a_real_cdn_then_is_the_expected_result() {
        use Lookup::{Hit, Miss};
        for (preset, field, value, expected) in [
            // The shield reports first, and the edge that is nearest to the client reports last.
            ("fastly", "X-Cache", "MISS, HIT", Some(Hit)),
            ("fastly", "X-Cache", "HIT, MISS", Some(Miss)),
            ("fastly", "X-Cache", "HIT, NONE", None),
            ("fastly", "X-Cache", "MISS, MISS", Some(Miss)),
            ("fastly", "X-Cache", "HITCHHIKE", None),
            ("cloudflare", "CF-Cache-Status", "HIT", Some(Hit)),
            ("cloudflare", "CF-Cache-Status", "DYNAMIC", Some(Miss)),
            ("cloudflare", "X-Cache", "HIT", None),
            (
                "akamai",
                "X-Cache",
                "TCP_MEM_HIT from a23-55-1-2.deploy.akamaitechnologies.com (AkamaiGHost/9)",
                Some(Hit),
            ),
            ("akamai", "X-Cache", "TCP_MISS from a23-55-1-2.deploy.akamaitechnologies.com", Some(Miss)),
            ("cloudfront", "X-Cache", "Hit from cloudfront", Some(Hit)),
            ("cloudfront", "X-Cache", "Miss from cloudfront", Some(Miss)),
            ("azure", "X-Cache", "TCP_REMOTE_HIT", Some(Hit)),
            ("azure", "X-Cache", "CONFIG_NOCACHE", Some(Miss)),
        ] {
            let preset = Preset::named(preset).unwrap();
            assert_eq!(preset.edge.lookup(&headers(field, value)), expected, "{}: {value}", preset.name);
        }
    }

    #[test]
    fn pop_when_field_is_of_a_real_cdn_then_is_the_expected_name() {
        for (preset, field, value, expected) in [
            ("fastly", "X-Served-By", "cache-lcy19222-LCY, cache-fra-eddf8230040-FRA", "FRA"),
            ("cloudflare", "CF-Ray", "8a1f3c2b4d5e6f70-AMS", "AMS"),
            ("cloudfront", "X-Amz-Cf-Pop", "FRA56-P4", "FRA56-P4"),
            ("bunny", "Server", "BunnyCDN-DE1-1079", "BunnyCDN-DE1-1079"),
        ] {
            let preset = Preset::named(preset).unwrap();
            assert_eq!(preset.edge.pop(&headers(field, value)).as_deref(), Some(expected), "{}", preset.name);
        }
    }
}
