//! Formats a value of the file for messages: short, escaped and without secrets.

use toml::de::DeValue;

use crate::keys::quote;

/// What messages show in place of a possible secret.
pub(super) const HIDDEN: &str = "***";

/// Returns the name that messages use for the type of a value.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a block",
    }
}

/// Returns a value in the form that messages show. `key` is the complete path of the value's key. Lists and blocks are
/// abbreviated. A possible secret is hidden, even if no setting has this key.
pub(super) fn shown(key: &str, value: &DeValue<'_>) -> String {
    const SECRET_PARTS: [&str; 6] = ["token", "secret", "passw", "key", "value", "verify"];
    // The complete path is searched and not only its last name, because in a block of G2O keys the operator chooses the
    // last name.
    let key = key.to_ascii_lowercase();
    let may_be_secret =
        SECRET_PARTS.iter().any(|part| key.contains(part)) && !is_plain_proof(&key) && !is_file_of_tls(&key, value);
    match value {
        DeValue::String(text) if may_be_secret && !text.is_empty() => {
            // A reference such as `env:NAME` is not a secret, and operators need to see the reference to correct it.
            if text.starts_with("env:") || text.starts_with("file:") { quote(text) } else { HIDDEN.to_owned() }
        }
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_) if may_be_secret => HIDDEN.to_owned(),
        DeValue::String(text) => quote(&without_password(text)),
        DeValue::Integer(number) => cut(&number.to_string()),
        DeValue::Float(number) => cut(number.as_str()),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(list) if list.is_empty() => "[]".to_owned(),
        DeValue::Array(_) => "[…]".to_owned(),
        DeValue::Table(_) => "{…}".to_owned(),
    }
}

/// Whether the value of this key is public: the key is `origin.tls.key`, whose value is the path of a file, or one of
/// the keys `PLAIN` of `[provider.verify]`. Any other key in `[provider.verify]` can contain a secret, at least by
/// mistake.
fn is_plain_proof(key: &str) -> bool {
    const PLAIN: [&str; 7] = [
        "require",
        "addresses",
        "client_cert.san",
        "client_cert.sha256",
        "client_cert.ca",
        "client_cert.field",
        "g2o.versions",
    ];
    let Some((_, name)) = key.split_once("].verify.") else { return key == "origin.tls.key" };
    PLAIN.contains(&name.split('[').next().unwrap_or(name))
}

/// Whether the value is the path of a file of `[server.tls]`. A private key in place of its path is hidden.
fn is_file_of_tls(key: &str, value: &DeValue<'_>) -> bool {
    key.starts_with("server.tls.") && value.as_str().is_some_and(|text| !text.contains("-----"))
}

/// Returns a URL without its user name and password.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("//") else {
        return text.to_owned();
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    match authority.rfind('@').and_then(|at| rest.get(at..)) {
        Some(after) => format!("{scheme}//***{after}"),
        None => text.to_owned(),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(key: &str, text: &str) -> String {
        shown(key, &DeValue::String(text.into()))
    }

    #[test]
    fn value_when_key_or_url_can_contain_a_secret_then_secret_is_hidden() {
        assert_eq!(show("admin.token", "hunter2"), "***");
        assert_eq!(show("server.tls.more[0].key", "tls/key.pem"), "\"tls/key.pem\"");
        assert_eq!(show("server.tls.key", "-----BEGIN PRIVATE KEY-----"), "***");
        assert_eq!(show("admin.token", "env:TOKEN"), "\"env:TOKEN\"");
        assert_eq!(show("origin.url", "http://me:hunter2@host/a@b"), "\"http://***@host/a@b\"");
        assert_eq!(show("origin.url", "no//url"), "\"no//url\"");
    }

    #[test]
    fn proof_value_when_key_is_not_public_then_is_hidden() {
        for key in [
            "verify",
            "verify.secret",
            "verify.secret.header",
            "verify.secret.values[0]",
            "verify.secret.value",
            "verify.secret.addresses",
            "verify.g2o",
            "verify.g2o.keys",
            "verify.g2o.keys.\"nonce1\"",
            "verify.g2o.nonce1",
            "verify.client_cert",
            "verify.hunter",
            "value",
        ] {
            assert_eq!(show(&format!("provider[0].{key}"), "hunter2"), "***", "{key}");
        }
        for key in ["require", "addresses[1]", "client_cert.san[0]", "client_cert.sha256[7]", "g2o.versions[0]"] {
            assert_eq!(show(&format!("provider[0].verify.{key}"), "any"), "\"any\"", "{key}");
        }
    }

    #[test]
    fn value_when_long_then_is_shortened() {
        assert!(show("server.hosts[0]", &"ü".repeat(5_000)).chars().count() < 100);
        assert_eq!(cut(&"9".repeat(100)).chars().count(), 41);
    }
}
