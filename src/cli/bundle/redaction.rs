//! Removes from log lines and from JSON what must not leave the machine in a bundle: complete client addresses, e-mail
//! addresses, values of parameters, and texts that look like secrets. The functions keep what a post-mortem needs:
//! paths, names of parameters, and networks. They hide a text if they cannot exclude that it is a secret.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::access_log::reader::entry::{Entry, rewritten};
use crate::wire::trace_context::valid_request_id;

/// The text that replaces a hidden value.
const HIDDEN: &str = "***";
/// The parameters of a beacon. The values of these parameters are not personal.
const BEACON_PARAMETERS: [&str; 5] = ["source", "beacon_source", "server_identity", "reason", "id"];
/// The least length of a text that can look random, in bytes.
const RANDOM_LENGTH: usize = 20;
/// A text of at least [`RANDOM_LENGTH`] looks random if the kind of its characters changes at least this many times
/// ([`changes`]). Words in a path, such as `a-long-slug-with-2013-words`, have fewer changes.
const RANDOM_CHANGES: usize = 4;
/// The largest number of times that a text is percent-decoded. A text that is still encoded afterwards is hidden.
const MOST_DECODINGS: usize = 3;
/// If a key of the configuration contains one of these texts, the value of the key is a secret. `/config` hides these
/// values already.
const SECRET_KEYS: [&str; 5] = ["token", "secret", "passw", "values", "nonce"];

/// Returns a log line without personal values and secrets. `is_pull` is false for a line of a local endpoint.
///
/// # Errors
/// The line is not a JSON object.
pub(super) fn line(line: &[u8], is_pull: bool) -> Result<String, &'static str> {
    rewritten(line, |key, text| {
        // Unknown keys are removed, because programs that ship logs can add keys with any content.
        Entry::has_key(key).then(|| match key {
            "client" => network(text),
            "path" => target(text, !is_pull),
            "referer" => target(text, false),
            "id" if valid_request_id(text.as_bytes()) => text.to_owned(),
            "time" => text.to_owned(),
            _ => prose(text),
        })
    })
}

/// Returns the network of an address: /24 of IPv4, /48 of IPv6. A text that is not an address becomes empty.
pub(super) fn network(address: &str) -> String {
    match address.parse() {
        Ok(IpAddr::V4(address)) => format!("{}/24", Ipv4Addr::from_bits(address.to_bits() & !0xFF)),
        Ok(IpAddr::V6(address)) => format!("{}/48", Ipv6Addr::from_bits(address.to_bits() & (!0 << 80))),
        Err(_) => String::new(),
    }
}

/// Returns a path or a URL without the values of its query, without its fragment, and without parts that can be
/// secrets. If `keeps_beacon` is set, values of the beacon's parameters are kept if they have the form that edgeshim
/// writes. A value that can be a secret is hidden even then, except the value of `id`.
pub(super) fn target(url: &str, keeps_beacon: bool) -> String {
    let url = url.split('#').next().unwrap_or_default();
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    let mut shown = String::with_capacity(url.len());
    let rest = match path.split_once("://") {
        Some((scheme, rest)) => {
            push_part(scheme, &mut shown);
            shown.push_str("://");
            let (authority, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            if host.len() < authority.len() {
                shown.push_str(HIDDEN);
                shown.push('@');
            }
            push_part(host, &mut shown);
            rest
        }
        None => path,
    };
    for (position, part) in rest.split('/').enumerate() {
        if position > 0 {
            shown.push('/');
        }
        push_part(part, &mut shown);
    }
    for (position, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        shown.push(if position == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, value))
                if keeps_beacon
                    && BEACON_PARAMETERS.contains(&name)
                    && is_word(value)
                    && (name == "id" || !can_be_secret(value)) =>
            {
                shown.push_str(pair);
            }
            Some((name, _)) if !can_be_secret(name) => {
                shown.push_str(name);
                shown.push('=');
                shown.push_str(HIDDEN);
            }
            None if pair.is_empty() => {}
            Some(_) | None => shown.push_str(HIDDEN),
        }
    }
    shown
}

/// Returns whether a value of a beacon has the form that edgeshim writes.
fn is_word(value: &str) -> bool {
    value.len() <= 128 && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Appends a part of a path. The part can have parameters such as `;v=1`, or be a parameter, such as `token=a`. Hides
/// the values of the parameters, and also names and pieces that can be secrets.
fn push_part(part: &str, shown: &mut String) {
    for (position, piece) in part.split(';').enumerate() {
        if position > 0 {
            shown.push(';');
        }
        if can_be_secret(piece.split('=').next().unwrap_or_default()) {
            shown.push_str(HIDDEN);
        } else if let Some(end) = piece.find(['=', '&']) {
            // The name and its delimiter stay.
            shown.extend([piece.get(..=end).unwrap_or_default(), HIDDEN]);
        } else {
            shown.push_str(piece);
        }
    }
}

/// Returns a text without e-mail addresses, values of parameters, and words that look like secrets.
pub(super) fn prose(text: &str) -> String {
    let is_between = |character: char| character.is_whitespace() || "()[]{}<>\"',;|".contains(character);
    let mut shown = String::with_capacity(text.len());
    for word in text.split_inclusive(is_between) {
        let (word, end) = word.split_at(word.trim_end_matches(is_between).len());
        if word.contains("://") {
            shown.push_str(&target(word, false));
        } else {
            push_part(word, &mut shown);
        }
        shown.push_str(end);
    }
    shown
}

/// Applies [`prose`] to all texts in JSON. The keys stay.
pub(super) fn texts(value: &mut Value) {
    match value {
        Value::Object(object) => object.values_mut().for_each(texts),
        Value::Array(list) => list.iter_mut().for_each(texts),
        Value::String(text) => *text = prose(text),
        _ => {}
    }
}

/// Returns whether a part of a path looks like a token or an e-mail address, or contains an encoded delimiter.
fn can_be_secret(part: &str) -> bool {
    let mut decoded = Cow::Borrowed(part);
    for _ in 0..MOST_DECODINGS {
        if !decoded.contains('%') {
            break;
        }
        decoded = percent_decode_str(&decoded).decode_utf8_lossy().into_owned().into();
    }
    // An encoded delimiter can separate a name from a secret value.
    if decoded != part && decoded.contains(['?', '=', '&', '#', ';', '/', '\\', '%']) {
        return true;
    }
    // A JSON Web Token begins with `eyJ`.
    decoded.starts_with("eyJ")
        || decoded.contains('@')
        || decoded
            .split(|character: char| !character.is_ascii_alphanumeric() && !"-_+".contains(character))
            .any(is_random)
}

/// Returns whether a run of letters, digits, hyphens, underscores and plus signs looks random.
fn is_random(run: &str) -> bool {
    let pieces: Vec<&str> = run.split(['-', '_', '+']).collect();
    let is_mixed = |piece: &&str| {
        piece.len() >= RANDOM_LENGTH
            && piece.bytes().any(|byte| byte.is_ascii_digit())
            && piece.bytes().any(|byte| byte.is_ascii_alphabetic())
    };
    let is_hex = |piece: &&str| piece.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_uuid = |five: &[&str]| five.iter().map(|piece| piece.len()).eq([8, 4, 4, 4, 12]) && five.iter().all(is_hex);
    pieces.iter().any(is_mixed)
        || pieces.windows(5).any(is_uuid)
        || run.len() >= RANDOM_LENGTH && pieces.iter().map(|piece| changes(piece)).sum::<usize>() >= RANDOM_CHANGES
}

/// Returns how often the kind of the characters changes: to or from a digit, or from a small letter to a capital. The
/// change from a capital to a small letter does not count, because a capital often begins a word.
fn changes(piece: &str) -> usize {
    let is_change = |two: &[u8]| match two {
        [one, other] => {
            one.is_ascii_digit() != other.is_ascii_digit() || one.is_ascii_lowercase() && other.is_ascii_uppercase()
        }
        _ => false,
    };
    piece.as_bytes().windows(2).filter(|two| is_change(two)).count()
}

/// Hides the secrets in the configuration that the admin listener sent as JSON. The listener hides these secrets too,
/// but the bundle does not rely on the listener. URLs lose their user names, passwords and values of queries.
pub(super) fn config(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let key = key.to_ascii_lowercase();
                if SECRET_KEYS.iter().any(|part| key.contains(part)) {
                    hide(value);
                } else {
                    config(value);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(config),
        Value::String(text) if text.contains("://") => *text = target(text, false),
        _ => {}
    }
}

/// Hides all texts in a value, except empty texts.
fn hide(value: &mut Value) {
    match value {
        Value::Object(object) => object.values_mut().for_each(hide),
        Value::Array(list) => list.iter_mut().for_each(hide),
        Value::String(text) if !text.is_empty() => HIDDEN.clone_into(text),
        _ => {}
    }
}

/// Hides what can be secret in the URLs of the top list.
pub(super) fn top_list(value: &mut Value) {
    for row in value.as_array_mut().into_iter().flatten() {
        if let Some(Value::String(url)) = row.get_mut("url") {
            *url = target(url, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn address_when_redacted_then_only_its_network_stays() {
        for (address, cut) in [
            ("203.0.113.77", "203.0.113.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
            ("::1", "::/48"),
            ("", ""),
            ("203.0.113.77:80", ""),
        ] {
            assert_eq!(network(address), cut, "{address}");
        }
    }

    #[test]
    fn url_when_it_has_values_or_tokens_then_only_names_stay() {
        for (url, shown) in [
            ("/a/b.png?v=1&token=abc&flag&=x", "/a/b.png?v=***&token=***&***&=***"),
            ("/reset/0123456789abcdef0123/next", "/reset/***/next"),
            ("/u/a@b.test/x", "/u/***/x"),
            ("/u/a%40b.test", "/u/***"),
            ("/eyJhbGciOi.x.y", "/***"),
            (
                "/listing/123456789012345678901234567890/a-long-slug-with-2013-words",
                "/listing/123456789012345678901234567890/a-long-slug-with-2013-words",
            ),
            ("https://me:pw@www.test/a?b=c#frag", "https://***@www.test/a?b=***"),
            ("https://www.test", "https://www.test"),
            ("/reset/550e8400-e29b-41d4-a716-446655440000/x", "/reset/***/x"),
            ("/reset/u-00000000-1111-2222-3333-444444444444", "/reset/***"),
            ("/t/dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "/t/***"),
            ("/t/aB3-cD4_eF5-gH6_iJ7-kL", "/t/***"),
            ("/a;jsessionid=hunter2;v/b;x", "/a;jsessionid=***;v/b;x"),
            ("/a/token=hunter2/b", "/a/token=***/b"),
            ("/a%3Ftoken%3Dhunter2", "/***"),
            ("/a%3ftoken=hunter2", "/***"),
            ("/a%25253Fhunter2", "/***"),
            ("/a%2Fhunter2", "/***"),
            ("/caf%C3%A9/photo-1024x768-large_v2.jpg", "/caf%C3%A9/photo-1024x768-large_v2.jpg"),
            ("token=hunter2", "token=***"),
            ("/a/token&hunter2/b", "/a/token&***/b"),
            ("/a?hunter2", "/a?***"),
            ("/a?v=1&hunter2", "/a?v=***&***"),
            ("/?", "/?"),
            ("", ""),
        ] {
            assert_eq!(target(url, false), shown, "{url}");
        }
        assert_eq!(target("/b.gif?reason=550e8400-e29b-41d4-a716-446655440000", true), "/b.gif?reason=***");
        let beacon = "/b.gif?source=fastly&id=r-1&x=1&reason=a%20b";
        assert_eq!(target(beacon, true), "/b.gif?source=fastly&id=r-1&x=***&reason=***");
    }

    #[test]
    fn line_when_redacted_then_has_no_unknown_key_no_address_and_no_value_of_a_query() {
        let text = concat!(
            r#"{"time":"t","id":"r-1","client":"203.0.113.77","path":"/a?session=hunter2","cookie":"hunter3","#,
            r#""referer":"https://x.test/?q=hunter4","status":200,"origin_ms":null,"user_agent":"x\u001b","#,
            r#""kubernetes":{"pod":"hunter5"},"why":"first"}"#
        );
        let shown = line(text.as_bytes(), true).unwrap();
        let expected = concat!(
            r#"{"time":"t","id":"r-1","client":"203.0.113.0/24","path":"/a?session=***","#,
            r#""referer":"https://x.test/?q=***","status":200,"origin_ms":null,"user_agent":"x\u001b","why":"first"}"#
        );
        assert_eq!(shown, expected);
        assert!(line(b"{", true).is_err());
    }

    #[test]
    fn text_when_it_has_addresses_or_values_then_they_are_hidden() {
        let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:1.9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0";
        assert_eq!(prose(agent), agent);
        for (text, shown) in [
            ("bot/1 (a@b.test; token=hunter2)", "bot/1 (***; token=***)"),
            ("bot (+https://b.test/i?q=hunter2)", "bot (+https://b.test/i?q=***)"),
            ("by <a%40b.test>, 550e8400-e29b-41d4-a716-446655440000", "by <***>, ***"),
            ("deploy 1234", "deploy 1234"),
        ] {
            assert_eq!(prose(text), shown, "{text}");
        }
        let mut value = json!([{ "text": "deploy by a@b.test", "at": 7 }]);
        texts(&mut value);
        assert_eq!(value, json!([{ "text": "deploy by ***", "at": 7 }]));
    }

    #[test]
    fn line_when_a_value_of_the_client_has_an_address_or_a_parameter_then_hidden() {
        for key in ["id", "claimed", "host", "method", "user_agent", "referer", "path"] {
            for secret in ["hunter2@b.test", "k=hunter2"] {
                let shown = line(json!({ key: secret }).to_string().as_bytes(), true).unwrap();
                assert!(shown.contains(key) && !shown.contains("hunter2"), "{key}: {shown}");
            }
        }
        assert_eq!(line(br#"{"id":"550e8400-e29b-41d4-a716-446655440000"}"#, true).unwrap().len(), 45);
    }

    #[test]
    fn config_when_it_contains_secrets_then_hidden() {
        let mut value = json!({
            "admin": { "token": "hunter2", "listen": "127.0.0.1:9900" },
            "origin": { "url": "http://u:hunter3@o.test:80", "tls": { "key": "key.pem" } },
            "provider": [{ "verify": { "secret": { "values": ["hunter4"] }, "g2o": { "nonce1": "hunter5" } } }],
            "edge_logs": { "token": "" },
        });
        config(&mut value);
        let text = value.to_string();
        assert!(!text.contains("hunter"), "{text}");
        assert!(
            text.contains("127.0.0.1:9900") && text.contains("***@o.test:80") && text.contains("key.pem"),
            "{text}"
        );
        assert_eq!(value["edge_logs"]["token"], "");
    }

    #[test]
    fn top_list_when_redacted_then_tokens_in_urls_are_hidden() {
        let mut value = json!([{ "url": "www.test/reset/0123456789abcdef0123", "pulls": 3 }, 7]);
        top_list(&mut value);
        assert_eq!(value[0]["url"], "www.test/reset/***");
        top_list(&mut json!({ "no": "list" }));
    }

    proptest! {
        #[test]
        fn url_when_arbitrary_then_value_of_query_is_hidden(url in "/[a-z/?&=#@:%;]{0,30}") {
            let marked = format!("{url}?a=hunter2");
            prop_assert!(!target(&marked, false).contains("hunter2"), "{}", marked);
            prop_assert!(!target(&marked, true).contains("hunter2"), "{}", marked);
        }
    }
}
