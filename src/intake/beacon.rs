//! The beacon: the image in the whoopsie page. The browser loads the image when a person sees the page.

use http::Uri;

use super::form;
use crate::ids::SourceId;
use crate::wire::values;

/// A transparent GIF image of 1×1 pixel. Its length is 43 bytes.
pub(crate) const PIXEL: &[u8] =
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00!\xf9\x04\x01\x00\x00\x00\x00,\
\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";

/// The longest name or value of a parameter that is logged completely, in bytes.
const MAX_LOGGED_BYTES: usize = 256;

/// Returns the source of a beacon: the value of the parameter `source`, or of `beacon_source` if `source` is missing.
/// Names and values are compared without regard to case. If the source is missing or is not one of `sources`, the
/// result is `other`.
pub(crate) fn source(query: &str, sources: &[&str]) -> SourceId {
    let value = |name| form::value(query.as_bytes(), name);
    let source = value("source").or_else(|| value("beacon_source"));
    let position = source.and_then(|source| sources.iter().position(|known| source.is(known)));
    position.map_or(SourceId::OTHER, SourceId::configured)
}

/// Returns a shorter form of a target for the log: the path, and the query with each long name and each long value
/// truncated. Returns `None` if the target has no query, or if the query is short enough to be logged unchanged.
pub(crate) fn cut(target: &Uri) -> Option<String> {
    let query = target.query().filter(|query| query.len() > MAX_LOGGED_BYTES)?;
    let mut kept = target.path().to_owned();
    for (position, piece) in query.split('&').enumerate() {
        kept.push(if position == 0 { '?' } else { '&' });
        match piece.split_once('=') {
            Some((name, value)) => {
                kept.push_str(head(name));
                kept.push('=');
                kept.push_str(head(value));
            }
            None => kept.push_str(head(piece)),
        }
    }
    Some(kept)
}

fn head(text: &str) -> &str {
    values::cut(text, MAX_LOGGED_BYTES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn source_when_configured_then_is_found_else_is_other() {
        let sources = ["fastly", "akamai"];
        for (query, position) in [
            ("source=fastly", Some(0)),
            ("beacon_source=AKAMAI&x=1", Some(1)),
            ("id=7&source=fastly&server_identity=cache-ny57", Some(0)),
            ("SOURCE=fastly", Some(0)),
            ("source=f%61stly", Some(0)),
            ("source=fastly&beacon_source=akamai", Some(0)),
            ("source=", None),
            ("source=fastlyx", None),
            ("source=fastly%00", None),
            ("source", None),
            ("", None),
            ("&&&=&=fastly", None),
        ] {
            assert_eq!(source(query, &sources), position.map_or(SourceId::OTHER, SourceId::configured), "{query}");
        }
    }

    #[test]
    fn target_when_query_is_long_then_keeps_all_parameters_and_truncates_long_texts() {
        let cut = |target: &str| cut(&target.parse().unwrap());
        let long = "x".repeat(1000);
        let kept = "x".repeat(256);
        for host in ["", "http://h.test"] {
            assert_eq!(
                cut(&format!("{host}/b?source=a&server_identity={long}&{long}&{long}=1&id=7")),
                Some(format!("/b?source=a&server_identity={kept}&{kept}&{kept}=1&id=7"))
            );
        }
        assert_eq!(cut(&format!("/b?a={kept}")), Some(format!("/b?a={kept}")));
        assert_eq!((cut("/b"), cut("/b?a=1")), (None, None));
        assert_eq!(cut(&format!("/b?a={}é", "x".repeat(255))), Some(format!("/b?a={}", "x".repeat(255))));
    }

    #[test]
    fn pixel_when_inspected_then_is_a_gif_of_43_bytes() {
        assert_eq!(PIXEL.len(), 43);
        assert!(PIXEL.starts_with(b"GIF89a\x01\x00\x01\x00") && PIXEL.ends_with(b";"));
    }

    proptest! {
        #[test]
        fn target_when_arbitrary_then_names_and_values_are_short(target in "/b\\?[a-zé&=%]{0,2000}") {
            let cut = cut(&target.parse().unwrap()).unwrap_or_else(|| target.clone());
            let long = |text: &str| text.len() > MAX_LOGGED_BYTES;
            let (_, query) = cut.split_once('?').unwrap();
            let whole = |piece: &str| match piece.split_once('=') {
                Some((name, value)) => !long(name) && !long(value),
                None => !long(piece),
            };
            let short = query.len() <= MAX_LOGGED_BYTES || query.split('&').all(whole);
            prop_assert!(short, "{}", cut);
            prop_assert_eq!(target.matches('&').count(), cut.matches('&').count());
        }
    }
}
