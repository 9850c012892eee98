//! Parameters in the query of a target or of a URL.

use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use percent_encoding::percent_decode_str;

/// Returns the percent-decoded values of the parameter `name` in the query of `target`. `target` is a path with a
/// query, or a URL.
pub(crate) fn values<'t>(target: &'t str, name: &'t str) -> impl Iterator<Item = Vec<u8>> + use<'t> {
    let query = without_fragment(target).0.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').map(pair);
    pairs.filter(move |(found, _)| is_name(found, name)).map(|(_, value)| percent_decode_str(value).collect())
}

/// Removes the parameters whose name is in `names` from the query of `target`. If no parameter remains, the `?` is
/// removed too. Returns `None` if the query has no parameter to remove.
pub(crate) fn without<N: AsRef<str>>(target: &str, names: &[N]) -> Option<String> {
    let (target, fragment) = without_fragment(target);
    let (path, query) = target.split_once('?')?;
    let is_removed = |piece: &&str| names.iter().any(|name| is_name(pair(piece).0, name.as_ref()));
    if !query.split('&').any(|piece| is_removed(&piece)) {
        return None;
    }
    let mut kept = path.to_owned();
    for (position, piece) in query.split('&').filter(|piece| !is_removed(piece)).enumerate() {
        kept.push(if position == 0 { '?' } else { '&' });
        kept.push_str(piece);
    }
    kept.push_str(fragment);
    Some(kept)
}

/// Returns the target of a request without the parameters whose name is in `names`, or `None` if the target has none of
/// these parameters.
pub(crate) fn uri_without(uri: &Uri, names: &[String]) -> Option<Uri> {
    let target = uri.path_and_query().filter(|target| target.query().is_some())?;
    let target = PathAndQuery::try_from(without(target.as_str(), names)?).ok()?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).ok()
}

/// Removes the parameters whose name is in `names` from a field value that is a URL. Returns `None` if the URL has none
/// of these parameters.
pub(crate) fn url_without(line: &HeaderValue, names: &[String]) -> Option<HeaderValue> {
    // Bytes that are not UTF-8 are not allowed in a URL, so they may be replaced.
    HeaderValue::try_from(without(&String::from_utf8_lossy(line.as_bytes()), names)?).ok()
}

/// Splits a target from the fragment after it. The fragment begins with `#`, and can contain `?`.
fn without_fragment(target: &str) -> (&str, &str) {
    target.find('#').map_or((target, ""), |at| target.split_at(at))
}

fn pair(piece: &str) -> (&str, &str) {
    piece.split_once('=').unwrap_or((piece, ""))
}

/// Whether a name in a query is `name`. The name in the query can be percent-encoded.
fn is_name(found: &str, name: &str) -> bool {
    found == name || (found.contains('%') && percent_decode_str(found).eq(name.bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn target_when_parameter_is_removed_then_keeps_the_other_parameters() {
        for (before, after) in [
            ("/?ab=x", Some("/")),
            ("/a?ab=x&c=1", Some("/a?c=1")),
            ("/a?c=1&ab=x&d", Some("/a?c=1&d")),
            ("/a?ab=x&ab=y", Some("/a")),
            ("/a?%61b=x&&c=%61b", Some("/a?&c=%61b")),
            ("/a?ab", Some("/a")),
            ("https://a.test/?ab=x#ab=y", Some("https://a.test/#ab=y")),
            ("/ab=x", None),
            ("/a?abc=x&b=ab=x&AB=x", None),
            ("/a#?b", None),
            ("https://a.test/#?ab=x", None),
            ("/a?c=1#?ab=x", None),
            ("*", None),
        ] {
            assert_eq!(without(before, &["ab"]).as_deref(), after, "{before}");
        }
    }

    #[test]
    fn parameter_when_encoded_or_repeated_then_all_decoded_values_are_returned() {
        let found: Vec<_> = values("/?ab=a%2Eb&c=1&%61%62=&ab=%zz+", "ab").collect();
        assert_eq!(found, [b"a.b".to_vec(), b"".to_vec(), b"%zz+".to_vec()]);
        assert_eq!(values("/ab=1", "ab").count(), 0);
        assert_eq!(values("/a#?ab=1", "ab").count(), 0);
    }

    proptest! {
        #[test]
        fn target_when_arbitrary_then_removed_parameter_is_absent(target in "[/?&=#a%61b]{0,24}") {
            if let Some(rest) = without(&target, &["a"]) {
                prop_assert_eq!(values(&rest, "a").count(), 0, "{}", rest);
                prop_assert!(without(&rest, &["a"]).is_none());
            } else {
                prop_assert_eq!(values(&target, "a").count(), 0);
            }
        }
    }
}
