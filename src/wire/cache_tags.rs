//! Cache tags: the fields in which origins send them. Each is the field of some CDN.

use http::HeaderName;

use super::names;

/// Every field with tags. If a response has several, their tags are joined in this order.
pub(crate) static FIELDS: [&HeaderName; 5] =
    [&names::SURROGATE_KEY, &names::CACHE_TAG, &names::EDGE_CACHE_TAG, &names::CDN_TAG, &names::NETLIFY_CACHE_TAG];

/// The delimiter between two tags in the field; `None` if it is not a field with tags.
pub(crate) fn delimiter(name: &HeaderName) -> Option<u8> {
    // A comparison of strings is faster than a hash lookup for each of these names.
    match name.as_str() {
        "surrogate-key" => Some(b' '),
        "cache-tag" | "edge-cache-tag" | "cdn-tag" | "netlify-cache-tag" => Some(b','),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_when_listed_then_all_have_a_delimiter() {
        assert!(FIELDS.iter().all(|name| delimiter(name).is_some()));
        assert_eq!(delimiter(&names::CACHE_CONTROL), None);
    }
}
