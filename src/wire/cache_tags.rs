//! Cache tags: the fields in which origins send them, each for the CDN that made its name up.

use http::HeaderName;

use super::names;

/// Every field that carries tags, in the order in which several of one answer are united.
pub(crate) static FIELDS: [&HeaderName; 5] =
    [&names::SURROGATE_KEY, &names::CACHE_TAG, &names::EDGE_CACHE_TAG, &names::CDN_TAG, &names::NETLIFY_CACHE_TAG];

/// What stands between two tags in a field of that name; `None`: it carries none.
pub(crate) fn delimiter(name: &HeaderName) -> Option<u8> {
    // One comparison of strings by length and bytes for each field of an answer, which beats five look-ups.
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
    fn fields_when_listed_are_all_known() {
        assert!(FIELDS.iter().all(|name| delimiter(name).is_some()));
        assert_eq!(delimiter(&names::CACHE_CONTROL), None);
    }
}
