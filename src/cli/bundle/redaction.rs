//! Removes from log lines and from JSON what must not leave the machine in a bundle: complete client addresses, values
//! in queries, secrets in paths and in the configuration. The functions keep what a post-mortem needs: which path,
//! which names of parameters, which network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use crate::access_log::reader::entry::rewritten;

/// The text in place of a value.
const HIDDEN: &str = "***";
/// The keys of a log line that are kept. Programs that ship logs can add keys with any content.
const KEPT: [&str; 27] = [
    "time",
    "id",
    "provider",
    "claimed",
    "proof",
    "pop",
    "client",
    "method",
    "host",
    "path",
    "protocol",
    "class",
    "status",
    "bytes",
    "origin_status",
    "origin_bytes",
    "origin_ms",
    "total_ms",
    "encoding",
    "guard",
    "cause",
    "locale",
    "referer",
    "user_agent",
    "pull",
    "revalidated",
    "why",
];
/// The parameters of a beacon, whose values are not personal.
const BEACON_PARAMETERS: [&str; 5] = ["source", "beacon_source", "server_identity", "reason", "id"];
/// A part of a path with at least this many letters and digits in a row is hidden if it has both, because it looks
/// random.
const RANDOM_LENGTH: usize = 20;
/// Parts of the keys of the configuration whose texts are secrets. `/config` hides them already.
const SECRET_KEYS: [&str; 5] = ["token", "secret", "passw", "values", "nonce"];

/// Returns a log line without personal values and secrets. `is_pull` is false for a line of a local endpoint.
///
/// # Errors
/// The line is not a JSON object.
pub(super) fn line(line: &[u8], is_pull: bool) -> Result<String, &'static str> {
    rewritten(line, |key, text| {
        KEPT.contains(&key).then(|| match key {
            "client" => network(text),
            "path" => target(text, !is_pull),
            "referer" => target(text, false),
            _ => text.to_owned(),
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

/// Returns a path or a URL without the values of its query, and without parts that can be secrets. The values of the
/// beacon's parameters are kept if `keeps_beacon` is set.
pub(super) fn target(url: &str, keeps_beacon: bool) -> String {
    let url = url.split('#').next().unwrap_or_default();
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    let mut shown = String::with_capacity(url.len());
    let rest = match path.split_once("://") {
        Some((scheme, rest)) => {
            shown.push_str(scheme);
            shown.push_str("://");
            let (authority, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            if host.len() < authority.len() {
                shown.push_str(HIDDEN);
                shown.push('@');
            }
            shown.push_str(host);
            rest
        }
        None => path,
    };
    for (position, part) in rest.split('/').enumerate() {
        if position > 0 {
            shown.push('/');
        }
        shown.push_str(if can_be_secret(part) { HIDDEN } else { part });
    }
    for (position, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        shown.push(if position == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, value)) if keeps_beacon && BEACON_PARAMETERS.contains(&name) && is_word(value) => {
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

/// Returns whether a part of a path looks like a token or an e-mail address.
fn can_be_secret(part: &str) -> bool {
    let is_random = |run: &str| {
        run.len() >= RANDOM_LENGTH
            && run.bytes().any(|byte| byte.is_ascii_digit())
            && run.bytes().any(|byte| byte.is_ascii_alphabetic())
    };
    // A JSON Web Token begins with these characters.
    part.starts_with("eyJ")
        || part.contains('@')
        || part.to_ascii_lowercase().contains("%40")
        || part.split(|character: char| !character.is_ascii_alphanumeric()).any(is_random)
}

/// Hides secrets in JSON from the admin listener. The listener hides the secrets of the configuration itself, but the
/// bundle does not rely on it. URLs lose their passwords.
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
        Value::String(text) if text.contains("://") && text.contains('@') => *text = target(text, false),
        _ => {}
    }
}

/// Hides all texts in a value that are not empty.
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
    fn address_when_cut_then_is_its_network() {
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
            ("/?", "/?"),
            ("", ""),
        ] {
            assert_eq!(target(url, false), shown, "{url}");
        }
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
        fn url_when_arbitrary_then_value_of_query_is_hidden(url in "/[a-z/?&=#@:%]{0,30}") {
            let marked = format!("{url}?a=hunter2");
            prop_assert!(!target(&marked, false).contains("hunter2"), "{}", marked);
            prop_assert!(!target(&marked, true).contains("hunter2"), "{}", marked);
        }
    }
}
