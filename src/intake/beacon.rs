//! The failure beacon: a pixel in the whoopsie page that tells us that a person saw it.

/// A transparent GIF of 1×1 pixel, 43 bytes.
pub const PIXEL: &[u8] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00!\xf9\x04\x01\x00\x00\x00\x00,\
\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";

/// The place of the beacon's source among `sources`: of `source=`, or else of `beacon_source=`, in any case of letters. None where it is
/// missing or unknown, which counts as `other`.
#[must_use]
pub fn source(query: &str, sources: &[String]) -> Option<usize> {
    let value = |name: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    };
    let source = value("source").or_else(|| value("beacon_source"))?;
    sources.iter().position(|known| known.eq_ignore_ascii_case(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_source_is_found_under_either_name() {
        let sources = ["fastly".to_owned(), "akamai".to_owned()];
        for (query, place) in [
            ("source=fastly", Some(0)),
            ("beacon_source=AKAMAI&x=1", Some(1)),
            ("id=7&source=fastly&server_identity=cache-ny57", Some(0)),
            ("SOURCE=fastly", Some(0)),
            ("source=fastly&beacon_source=akamai", Some(0)),
            ("source=", None),
            ("source=fastlyx", None),
            ("source", None),
            ("", None),
            ("&&&=&=fastly", None),
        ] {
            assert_eq!(source(query, &sources), place, "{query}");
        }
    }

    #[test]
    fn the_pixel_is_a_gif_of_43_bytes() {
        assert_eq!(PIXEL.len(), 43);
        assert!(PIXEL.starts_with(b"GIF89a\x01\x00\x01\x00") && PIXEL.ends_with(b";"));
    }
}
