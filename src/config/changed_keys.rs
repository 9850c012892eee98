//! Compares two configurations key by key, for a reload.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

use super::listeners::Listen;
use super::settings::Settings;
use crate::wire::secret::Secret;

/// The longest text of a value in a message, in characters.
const MAX_CHARACTERS: usize = 200;

/// A key whose value differs between two configurations. Secrets are hidden.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The complete path of the key. A block in a list has its name in the path, for example `class[html].gzip`.
    key: String,
    /// The difference as text: `OLD -> NEW`, or a description.
    difference: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.difference)
    }
}

impl Settings {
    /// Returns the differences between this configuration and a new configuration.
    pub(crate) fn changes(&self, new: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        compare("", Some(&self.effective_json()), Some(&new.effective_json()), &mut changes);
        let (old_secrets, new_secrets) = (secrets(self), secrets(new));
        for (key, secret) in &old_secrets {
            let is_known = changes.iter().any(|change: &Change| change.key == *key);
            if !is_known && new_secrets.get(key).is_some_and(|new| new != secret) {
                changes.push(Change { key: key.clone(), difference: "*** -> another secret".to_owned() });
            }
        }
        if self.pages.files != new.pages.files && self.pages.folder == new.pages.folder {
            changes.push(Change {
                key: "whoopsie.pages".to_owned(),
                difference: "the files in the folder have changed".to_owned(),
            });
        }
        changes
    }

    /// Some keys can change only at a restart. Gives these keys the values of the running configuration, and returns
    /// the changes that need a restart.
    pub(crate) fn keep_until_restart(&mut self, running: &Self) -> Vec<Change> {
        let wanted = self.clone();
        self.server.workers = running.server.workers;
        self.admin.listen = running.admin.listen.clone();
        // The new configuration may have no token because its admin address needs no token. But the old address stays
        // open until a restart, so the old address keeps its token.
        let is_local = match &self.admin.listen {
            Listen::Tcp(address) | Listen::Tls(address) => address.ip().to_canonical().is_loopback(),
            Listen::Unix(_) => true,
        };
        if self.admin.token.is_none() && !is_local {
            self.admin.token.clone_from(&running.admin.token);
        }
        self.changes(&wanted)
    }
}

/// Returns all secrets, by the path of their key.
fn secrets(settings: &Settings) -> BTreeMap<String, Vec<&Secret>> {
    let mut secrets: BTreeMap<String, Vec<&Secret>> = BTreeMap::new();
    secrets.insert("admin.token".to_owned(), settings.admin.token.iter().collect());
    secrets.insert("edge_logs.token".to_owned(), settings.edge_logs.token.iter().collect());
    secrets.insert("smoke.token".to_owned(), settings.smoke.token.iter().collect());
    for experiment in &settings.experiments {
        let key = format!("experiment[{}].override_secret", experiment.name);
        secrets.insert(key, experiment.override_secret.iter().collect());
    }
    for provider in &settings.providers {
        let key = |name: &str| format!("provider[{}].{name}", provider.name);
        secrets.insert(key("edge_log_token"), provider.edge_log_token.iter().collect());
        let Some(verify) = &provider.verify else { continue };
        secrets.insert(key("verify.secret.values"), verify.secret.iter().flat_map(|secret| &secret.values).collect());
        for (nonce, secret) in verify.g2o.iter().flat_map(|g2o| &g2o.keys) {
            secrets.insert(key(&format!("verify.g2o.keys.{nonce}")), vec![secret]);
        }
    }
    secrets
}

fn compare(key: &str, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    if let (Some(Value::Object(old)), Some(Value::Object(new))) = (old, new) {
        return compare_members(
            old,
            new,
            |name| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") },
            changes,
        );
    }
    if let (Some(old), Some(new)) = (old.and_then(by_name), new.and_then(by_name)) {
        let map = |blocks: &[(&str, &Value)]| -> Map<String, Value> {
            blocks.iter().map(|&(name, block)| (name.to_owned(), block.clone())).collect()
        };
        let (old_map, new_map) = (map(&old), map(&new));
        compare_members(&old_map, &new_map, |name| format!("{key}[{name}]"), changes);
        let order = |blocks: &[(&str, &Value)]| {
            let names = blocks.iter().map(|(name, _)| *name);
            names
                .filter(|name| old_map.contains_key(*name) && new_map.contains_key(*name))
                .collect::<Vec<_>>()
                .join(", ")
        };
        if order(&old) != order(&new) {
            let difference = format!("the order {} -> {}", order(&old), order(&new));
            changes.push(Change { key: key.to_owned(), difference });
        }
        return;
    }
    let shown = |value: Option<&Value>| value.map_or_else(|| "absent".to_owned(), |value| cut(&value.to_string()));
    changes.push(Change { key: key.to_owned(), difference: format!("{} -> {}", shown(old), shown(new)) });
}

fn compare_members(
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    path: impl Fn(&str) -> String,
    changes: &mut Vec<Change>,
) {
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for name in names {
        compare(&path(name), old.get(name), new.get(name), changes);
    }
}

/// Returns the blocks of a list with their names, for example the classes. Returns `None` for any other list.
fn by_name(list: &Value) -> Option<Vec<(&str, &Value)>> {
    list.as_array()?.iter().map(|block| Some((block.get("name")?.as_str()?, block))).collect()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    fn settings(text: &str) -> Settings {
        parse(text, "e.toml", Path::new(".")).unwrap()
    }

    fn changes(old: &str, new: &str) -> Vec<String> {
        settings(old).changes(&settings(new)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn changes_when_keys_differ_then_have_path_old_value_and_new_value() {
        let old = "[server]\nidle_timeout = \"75s\"\n[[class]]\nname = \"a\"\npath = [\"/a\"]\n\
                   [[class]]\nname = \"b\"\npath = [\"/b\"]\n";
        let new = "[server]\nidle_timeout = \"60s\"\n[[class]]\nname = \"b\"\npath = [\"/b\", \"/c\"]\n\
                   [[class]]\nname = \"a\"\npath = [\"/a\"]\n[[class]]\nname = \"d\"\npath = [\"/d\"]\n";
        let found = changes(old, new);
        assert_eq!(found[0], "class[b].path: [\"/b\"] -> [\"/b\",\"/c\"]");
        assert!(found[1].starts_with("class[d]: absent -> {"), "{found:?}");
        assert_eq!(found[2..], ["class: the order a, b -> b, a", "server.idle_timeout: \"75s\" -> \"60s\""]);
        assert!(changes(old, old).is_empty());
    }

    #[test]
    fn changes_when_secret_differs_then_have_the_key_and_hide_the_value() {
        let with = |token: &str, values: &str, key: &str| {
            format!(
                "[admin]\ntoken = \"{token}\"\n[[provider]]\nname = \"akamai\"\n\
                 [provider.verify]\nsecret = {{ header = \"X-S\", values = [{values}] }}\n\
                 g2o = {{ keys = {{ n = \"{key}\" }}, versions = [5] }}\n"
            )
        };
        let old = with("hunter1", "\"hunter2\"", "hunter3-0123456789abcdef0123456");
        let new = with("hunter4", "\"hunter5\"", "hunter6-0123456789abcdef0123456");
        let expected = ["admin.token", "provider[akamai].verify.g2o.keys.n", "provider[akamai].verify.secret.values"];
        assert_eq!(changes(&old, &new), expected.map(|key| format!("{key}: *** -> another secret")));
        let more = with("hunter1", "\"hunter2\", \"hunter7\"", "hunter3-0123456789abcdef0123456");
        assert_eq!(changes(&old, &more), ["provider[akamai].verify.secret.values: [\"***\"] -> [\"***\",\"***\"]"]);
    }

    #[test]
    fn admin_address_when_changed_then_old_address_and_token_stay_until_restart() {
        let running = settings("[server]\nworkers = 2\n[admin]\nlisten = \"0.0.0.0:9900\"\ntoken = \"hunter2\"\n");
        let mut new = settings("[server]\nworkers = 4\n[admin]\nlisten = \"127.0.0.1:9901\"\n");
        let kept: Vec<_> = new.keep_until_restart(&running).iter().map(ToString::to_string).collect();
        assert_eq!(kept.len(), 3, "{kept:?}");
        assert!(kept[0].starts_with("admin.listen: ") && kept[1].starts_with("admin.token: "), "{kept:?}");
        assert_eq!(kept[2], "server.workers: 2 -> 4");
        assert_eq!((&new.admin, new.server.workers), (&running.admin, 2));
        let mut unchanged = running.clone();
        unchanged.admin.token = Some(Secret::new("hunter3"));
        assert!(unchanged.keep_until_restart(&running).is_empty(), "a new token needs no restart");
    }
}
