//! The fields in which origins send cache tags. At least one CDN reads each field.

use http::HeaderName;

use super::head_fields::Names;
use super::names;

/// Every field that contains cache tags. If a response has several of these fields, their tags are joined in this
/// order.
pub(crate) static FIELDS: [&HeaderName; 5] =
    [&names::SURROGATE_KEY, &names::CACHE_TAG, &names::EDGE_CACHE_TAG, &names::CDN_TAG, &names::NETLIFY_CACHE_TAG];

/// The names of [`FIELDS`].
pub(crate) const NAMES: Names =
    Names::of_list(&["surrogate-key", "cache-tag", "edge-cache-tag", "cdn-tag", "netlify-cache-tag"]);

/// Returns the delimiter between two tags in the field, or `None` if the field does not contain tags.
pub(crate) fn delimiter(name: &HeaderName) -> Option<u8> {
    // Comparing the strings is faster than a lookup in a hash map.
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
    fn cache_tag_field_when_listed_then_has_a_delimiter() {
        assert!(FIELDS.iter().all(|name| delimiter(name).is_some()));
        for name in FIELDS {
            let headers = [(name.clone(), http::HeaderValue::from_static("a"))].into_iter().collect();
            assert!(Names::of(&headers).can_have_any(NAMES), "{name} is missing in NAMES");
        }
        assert_eq!(delimiter(&names::CACHE_CONTROL), None);
    }
}
