//! Checks of texts with a grammar: labels, language tags, globs, media types and field names.

use globset::{GlobBuilder, GlobSetBuilder};
use http::HeaderName;

use super::{Checked, Text, quote};
use crate::wire::directives::is_token;
use crate::wire::names;

/// The longest name that becomes a metric label, in bytes.
const MAX_LABEL_BYTES: usize = 64;
/// The longest glob and the longest media type, in bytes. The limit bounds the size of a compiled glob.
const MAX_GLOB_BYTES: usize = 512;
/// The longest language tag (RFC 5646 §4.4.1), in bytes.
const MAX_LOCALE_BYTES: usize = 35;

/// A language tag.
pub(crate) const LOCALE: Text<String> = Text { example: "en", read: |text, _| locale(text), write: String::clone };

/// A glob that is matched against the decoded path.
pub(crate) const PATH_GLOB: Text<String> =
    Text { example: "*.png", read: |text, _| path_glob(text), write: String::clone };

/// A media type. `*` matches any number of characters.
pub(crate) const MEDIA_TYPE: Text<String> =
    Text { example: "image/*", read: |text, _| media_type(text), write: String::clone };

/// Returns the value of a text that must be one of `choices`.
pub(crate) fn one_of<T: Copy>(text: &str, choices: &[(&'static str, T)]) -> Checked<T> {
    if let Some(&(_, value)) = choices.iter().find(|&&(choice, _)| choice == text) {
        return Ok(value);
    }
    let names: Vec<&'static str> = choices.iter().map(|&(choice, _)| choice).collect();
    let hint = closest(text, &names).map(|choice| format!(" (did you mean {}?)", quote(choice))).unwrap_or_default();
    let names: Vec<String> = names.into_iter().map(quote).collect();
    Err(format!("is not allowed here{hint}; write one of {}", names.join(", ")))
}

/// Returns the text of a value of `choices`.
pub(crate) fn text_of<T: PartialEq>(value: &T, choices: &[(&'static str, T)]) -> &'static str {
    choices.iter().find(|(_, choice)| choice == value).map_or("", |(text, _)| text)
}

/// Returns the candidate that is most similar to a misspelt name, or `None` if no candidate is similar enough.
pub(crate) fn closest<'c>(typed: &str, candidates: &[&'c str]) -> Option<&'c str> {
    // The time to compute a distance grows with the product of both lengths, so long names are not compared.
    if typed.len() > MAX_LABEL_BYTES {
        return None;
    }
    let typed = typed.to_ascii_lowercase().replace('-', "_");
    candidates
        .iter()
        .map(|&candidate| (distance(typed.as_bytes(), candidate.replace('-', "_").as_bytes()), candidate))
        .filter(|&(distance, candidate)| distance <= ((candidate.len().max(typed.len()) + 1) / 3).max(1))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Computes the Levenshtein distance of two texts.
fn distance(left: &[u8], right: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, &l) in left.iter().enumerate() {
        let mut diagonal = above;
        let mut before = above + 1;
        for (cell, &r) in row.iter_mut().skip(1).zip(right) {
            let changed = diagonal + usize::from(l != r);
            diagonal = *cell;
            before = changed.min(diagonal + 1).min(before + 1);
            *cell = before;
        }
        if let Some(first) = row.first_mut() {
            *first = above + 1;
        }
    }
    row.last().copied().unwrap_or(left.len())
}

/// Checks a name that becomes a metric label. Returns the name in lower case.
pub(crate) fn label(text: &str, reserved: &[&str], example: &str) -> Checked<String> {
    let name = text.to_ascii_lowercase();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    if name.is_empty() || name.len() > MAX_LABEL_BYTES || !name.bytes().all(plain) {
        let allowed = format!("1 to {MAX_LABEL_BYTES} letters, digits, \"-\" and \"_\"");
        return Err(format!("is not a name that can be a metric label; write {allowed}, for example {example}"));
    }
    if reserved.contains(&name.as_str()) {
        return Err(format!("is a name that edgeshim uses itself; write another name, for example {example}"));
    }
    Ok(name)
}

/// Checks the name of a header field.
pub(crate) fn header_name(text: &str) -> Checked<HeaderName> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
        "is not a header field name; write letters, digits and \"-\", for example \"X-CDN-Provider\"".to_owned()
    })
}

/// Returns whether HTTP, CDNs or edgeshim use a header field in requests or responses. CDNs, proxies or edgeshim can
/// remove or replace such a field, so an operator must not choose it for another purpose, for example for a secret.
pub(crate) fn has_meaning(name: &HeaderName) -> bool {
    const FAMILIES: [&str; 7] = ["accept-", "access-control-", "content-", "if-", "proxy-", "sec-", "x-forwarded-"];
    #[rustfmt::skip] // several names on a line
    let single: [&HeaderName; 54] = [
        // Framing, target and connection.
        &names::HOST, &names::CONNECTION, &names::KEEP_ALIVE, &names::TE, &names::TRAILER, &names::TRANSFER_ENCODING,
        &names::UPGRADE, &names::HTTP2_SETTINGS, &names::EXPECT, &names::MAX_FORWARDS,
        // The client, and the hops between the client and the origin.
        &names::AUTHORIZATION, &names::COOKIE, &names::FORWARDED, &names::VIA, &names::CDN_LOOP, &names::X_REQUEST_ID,
        &names::TRACEPARENT, &names::TRACESTATE, &names::USER_AGENT, &names::REFERER, &names::ORIGIN,
        &names::X_AKAMAI_G2O_AUTH_DATA, &names::X_AKAMAI_G2O_AUTH_SIGN,
        // The request.
        &names::ACCEPT, &names::RANGE, &names::CACHE_CONTROL, &names::PRAGMA, &names::PRIORITY,
        // The response.
        &names::AGE, &names::ALLOW, &names::DATE, &names::DIGEST, &names::REPR_DIGEST, &names::ETAG, &names::EXPIRES,
        &names::GRPC_STATUS, &names::LAST_MODIFIED, &names::LINK, &names::LOCATION, &names::RETRY_AFTER,
        &names::SERVER, &names::SERVER_TIMING, &names::SET_COOKIE, &names::STRICT_TRANSPORT_SECURITY, &names::VARY,
        &names::WWW_AUTHENTICATE,
        // Caching in one CDN or in one kind of cache.
        &names::CDN_CACHE_CONTROL, &names::CLOUDFLARE_CDN_CACHE_CONTROL, &names::SURROGATE_CONTROL,
        &names::EDGE_CONTROL, &names::AKAMAI_CACHE_CONTROL, &names::NETLIFY_CDN_CACHE_CONTROL,
        &names::VERCEL_CDN_CACHE_CONTROL, &names::X_ACCEL_EXPIRES,
    ];
    // CGI treats `-` and `_` in a field name as the same character.
    let dashed = name.as_str().replace('_', "-").parse();
    let name = dashed.as_ref().unwrap_or(name);
    FAMILIES.iter().any(|family| name.as_str().starts_with(family)) || single.contains(&name)
}

/// Checks that a text has the form of a BCP 47 language tag, such as `pt-BR`. The language can be one in which edgeshim
/// has no pages.
pub(crate) fn locale(text: &str) -> Checked<String> {
    let mut parts = text.split('-');
    let language = parts.next().unwrap_or_default();
    let fine = text.len() <= MAX_LOCALE_BYTES
        && (2..=8).contains(&language.len())
        && language.bytes().all(|b| b.is_ascii_alphabetic())
        && parts.all(|part| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric()));
    if fine {
        Ok(text.to_owned())
    } else {
        Err("is not a language tag; write a tag such as \"en\", \"pt-BR\" or \"zh-Hant\"".to_owned())
    }
}

/// Checks a glob for the decoded path of a request.
pub(crate) fn path_glob(text: &str) -> Checked<String> {
    glob(text)?;
    // A glob must match the complete path, which begins with `/`. So a glob that begins with another literal character
    // never matches.
    if !text.starts_with(['/', '*', '{', '[', '?', '\\']) {
        let (here, anywhere) = (quote(&format!("/{text}")), quote(&format!("*/{text}")));
        return Err(format!(
            "matches nothing, because each path begins with \"/\"; write {here}, or {anywhere} for any folder"
        ));
    }
    Ok(text.to_owned())
}

fn glob(text: &str) -> Checked<()> {
    const EXAMPLE: &str = "write for example \"*.png\" or \"/static/**\"";
    if text.is_empty() || text.len() > MAX_GLOB_BYTES || text.contains(char::is_control) {
        return Err(format!("is not a glob of 1 to {MAX_GLOB_BYTES} bytes without control characters; {EXAMPLE}"));
    }
    // A glob that can be parsed can still be too large to compile. So this function compiles the glob.
    let compiled = GlobBuilder::new(text).case_insensitive(true).build().and_then(|glob| {
        let mut set = GlobSetBuilder::new();
        set.add(glob);
        set.build()
    });
    compiled
        .map(|_| ())
        .map_err(|error| format!("is not a glob ({}); {EXAMPLE}", error.kind().to_string().replace('\n', " ")))
}

/// Checks a media type without parameters. Returns the media type in lower case.
pub(crate) fn media_type(text: &str) -> Checked<String> {
    if text.contains(';') {
        return Err(
            "has parameters, which this key does not allow; write only the type, for example \"text/html\"".to_owned()
        );
    }
    // `*` is allowed in a token (RFC 9110 §5.6.2), so a pattern such as `text/*` can be checked like a media type.
    let token = |part: &str| is_token(part.as_bytes());
    match text.split_once('/') {
        Some((kind, subtype)) if text.len() <= MAX_GLOB_BYTES && token(kind) && token(subtype) => {
            Ok(text.to_ascii_lowercase())
        }
        _ => {
            Err("is not a media type; write type/subtype, where \"*\" matches anything, for example \"text/*\""
                .to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn closest_key_when_name_is_misspelt_then_is_the_most_similar_key() {
        let keys = ["header_timeout", "body_timeout", "listen", "max_headers"];
        assert_eq!(closest("header_timout", &keys), Some("header_timeout"));
        assert_eq!(closest("Header-Timeout", &keys), Some("header_timeout"));
        assert_eq!(closest("lisen", &keys), Some("listen"));
        assert_eq!(closest("colour", &keys), None);
        assert_eq!(distance(b"kitten", b"sitting"), 3);
        assert_eq!(distance(b"", b"abc"), 3);
        assert_eq!(distance(b"abc", b""), 3);
    }

    #[test]
    fn label_when_too_long_reserved_or_with_invalid_characters_then_rejected() {
        assert_eq!(label("Fastly", &["other"], "\"fastly\"").as_deref(), Ok("fastly"));
        for bad in ["", "a b", "ü", "Other", &"a".repeat(65), "a\"b"] {
            assert!(label(bad, &["other"], "\"fastly\"").is_err(), "{bad}");
        }
    }

    #[test]
    fn locale_when_not_in_the_form_of_a_language_tag_then_rejected() {
        for good in ["en", "pt-BR", "zh-Hant-TW", "sl-rozaj-biske-1994"] {
            assert!(locale(good).is_ok(), "{good}");
        }
        for bad in ["", "e", "en_GB", "en-", "-en", "12", "en--GB", "abcdefghi"] {
            assert!(locale(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn glob_when_unable_to_match_or_compile_then_rejected() {
        for good in ["*.png", "/static/**", "**/img/*", "*/favicon.ico", "{/a,/b}/*"] {
            assert!(path_glob(good).is_ok(), "{good}");
        }
        for bad in ["", "[", "{a", "images/*.png", "favicon.ico", &"a".repeat(600)] {
            assert!(path_glob(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn media_type_when_invalid_or_with_parameters_then_rejected() {
        for good in ["text/*", "application/*+json", "*/*", "IMAGE/svg+xml"] {
            assert!(media_type(good).is_ok(), "{good}");
        }
        for bad in ["text", "text/", "/html", "text/html; charset=utf-8", "a/b/c", "text /html"] {
            assert!(media_type(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn grammars_when_text_is_arbitrary_then_read_without_panic(text in any::<String>()) {
            let _ = (label(&text, &[], ""), locale(&text), path_glob(&text), media_type(&text), quote(&text));
            let _ = (header_name(&text), closest(&text, &["listen", "level"]));
        }

        #[test]
        fn glob_when_accepted_then_compiles(text in r"[a-z*?{}\[\]!,/.\\-]{0,40}") {
            if path_glob(&text).is_ok() {
                let glob = GlobBuilder::new(&text).case_insensitive(true).build().expect("the glob was accepted");
                let _ = glob.compile_matcher().is_match("/a/b.png");
            }
        }
    }
}
