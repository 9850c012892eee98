//! Checks the `[[experiment]]` blocks: names, shares, and whether the keys fit together.

use std::collections::{BTreeMap, HashSet};

use super::file::{Entry, Section};
use super::settings::Settings;
use crate::edge::assign::MAX_EXPERIMENTS;
use crate::edge::assign::arm_layout::{PLACES, Share, per_cent};
use crate::edge::assign::experiment_keys::ExperimentSettings;
use crate::keys::quote;

/// The largest number of arms of one experiment. The number is limited, because each arm adds a metric series.
const MAX_ARMS: usize = 16;

pub(super) fn check(settings: &Settings, sections: Vec<Section<'_>>) {
    let (mut names, mut parameters) = (HashSet::new(), HashSet::new());
    let mut classes: Vec<&str> = settings.classes.iter().map(|class| class.name.as_str()).collect();
    classes.push("other");
    let blocks = settings.experiments.iter().zip(sections).enumerate();
    for (position, (experiment, mut section)) in blocks {
        if position == MAX_EXPERIMENTS {
            section.reject_block(format!("is one experiment too many; write at most {MAX_EXPERIMENTS} experiments"));
        }
        if !section.has("name") {
            section
                .missing("name", "is missing; write a name for X-Assign-NAME and metrics, for example name = \"cdn\"");
        } else if !section.is_bad("name") && !names.insert(experiment.name.as_str()) {
            section.reject("name", "is the name of an earlier experiment; write another name");
        }
        arms(experiment, &section);
        id(experiment, &mut section);
        groups(settings, experiment, &mut section);
        override_keys(experiment, &mut section, &mut parameters);
        class_names(experiment, &section, &classes);
    }
}

/// Checks the shares, and that the keys `users` and `hosts` name arms of the experiment.
fn arms(experiment: &ExperimentSettings, section: &Section<'_>) {
    if section.is_bad("arms") {
        return;
    }
    let arms = &experiment.arms;
    if arms.is_empty() {
        let message = "has no arm; write a name and a percentage for each arm, for example \
                       arms = { fastly = 10.0, akamai = 90.0 }";
        if section.has("arms") {
            section.reject("arms", message);
        } else {
            section.missing("arms", message);
        }
        return;
    }
    if arms.len() > MAX_ARMS {
        section.reject("arms", format!("has {} arms; write at most {MAX_ARMS}", arms.len()));
    }
    let sum: u32 = arms.values().fold(0, |sum, Share(places)| sum.saturating_add(*places));
    if sum > PLACES {
        let sum = per_cent(sum);
        section.reject("arms", format!("has a sum of {sum} per cent; lower the percentages to a sum of at most 100"));
    }
    for key in ["users", "hosts"] {
        known_arms(arms, section, key, key == "hosts");
    }
}

/// Reports each entry that does not name an arm. If `by_name` is true, the name of the entry must be an arm. If
/// `by_name` is false, the text of the entry must be an arm.
fn known_arms(arms: &BTreeMap<String, Share>, section: &Section<'_>, key: &str, by_name: bool) {
    let known = arms.keys().map(|arm| quote(arm)).collect::<Vec<_>>().join(", ");
    for (entry, text) in section.texts(key) {
        let Entry::Named(name) = entry else { continue };
        let arm = if by_name { name } else { text };
        if !arms.contains_key(&arm.to_ascii_lowercase()) {
            let what = if by_name { "belongs to a name that" } else { "" };
            let message = format!("{what} is not an arm of this experiment; write one of {known}");
            section.reject_entry(key, Entry::Named(name), message.trim_start());
        }
    }
}

fn id(experiment: &ExperimentSettings, section: &mut Section<'_>) {
    if section.is_bad("id") {
        return;
    }
    match (&experiment.id.cookie, &experiment.id.header) {
        (None, None) => section.missing(
            "id",
            "is missing; write the cookie or the header field with the visitor's id, for example \
             id = { cookie = \"uaid\" } or id = { header = \"X-Visitor-Id\" }",
        ),
        (Some(_), Some(_)) => {
            section.section("id").reject("header", "cannot be used together with cookie; remove one of the two keys");
        }
        _ => {}
    }
}

fn groups(settings: &Settings, experiment: &ExperimentSettings, section: &mut Section<'_>) {
    let groups = section.section("groups");
    if section.is_bad("groups") {
        return;
    }
    match (&experiment.groups.header, experiment.groups.arms.is_empty()) {
        (None, true) => {}
        (None, false) => {
            groups
                .reject("arms", "needs the field with the group; write header = \"X-Visitor-Group\" in the same block");
        }
        (Some(_), true) => {
            groups
                .reject("header", "has no effect without arms; write arms = { staff = \"fastly\" } in the same block");
        }
        (Some(_), false) => {
            if settings.observe.trusted_proxies.is_empty() {
                let message = "is read only from trusted proxies, but server.trusted_proxies is empty; in \
                               server.trusted_proxies, write the networks of the proxies that set the field";
                groups.reject("header", message);
            }
            if !section.is_bad("arms") {
                known_arms(&experiment.arms, &groups, "arms", false);
            }
        }
    }
}

fn override_keys<'e>(experiment: &'e ExperimentSettings, section: &mut Section<'_>, parameters: &mut HashSet<&'e str>) {
    if section.is_bad("override") || section.is_bad("override_secret") {
        return;
    }
    match (&experiment.override_parameter, &experiment.override_secret) {
        (Some(_), None) => {
            let message = "needs a secret, because without a secret anybody could choose an arm; write \
                           override_secret = \"env:ASSIGN_SECRET\"";
            section.reject("override", message);
        }
        (None, Some(_)) => {
            let message = "has no effect without override; write override = \"cdn_diversity\", or remove this key";
            section.reject("override_secret", message);
        }
        _ => {}
    }
    if let Some(parameter) = &experiment.override_parameter
        && !parameters.insert(parameter.as_str())
    {
        section.reject("override", "is the parameter of an earlier experiment; write another parameter");
    }
}

fn class_names(experiment: &ExperimentSettings, section: &Section<'_>, classes: &[&str]) {
    if section.is_bad("classes") {
        return;
    }
    let known = classes.iter().copied().map(quote).collect::<Vec<_>>().join(", ");
    if experiment.classes.is_empty() {
        let message = format!("is empty; write the classes whose responses depend on the arm: {known}");
        if section.has("classes") {
            section.reject("classes", message);
        } else {
            section.missing("classes", message);
        }
    }
    for (entry, text) in section.texts("classes") {
        if !classes.iter().any(|class| class.eq_ignore_ascii_case(text)) {
            section.reject_entry("classes", entry, format!("is not the name of a class; write one of {known}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::parse;

    const GOOD: [(&str, &str); 4] = [
        ("name", "\"cdn\""),
        ("arms", "{ a = 10.0, b = 90 }"),
        ("id", "{ cookie = \"uaid\" }"),
        ("classes", "[\"html\"]"),
    ];

    /// Returns the problems of a file with these blocks. Each block has the keys of [`GOOD`], unless `blocks` has
    /// another value for the key. An empty value removes the key.
    fn problems(start: &str, blocks: &[&[(&str, &str)]]) -> String {
        let mut text = format!("{start}\n[[class]]\nname = \"html\"\ncontent_type = [\"text/html\"]\n");
        for keys in blocks {
            text += "[[experiment]]\n";
            let kept = GOOD.iter().filter(|(name, _)| !keys.iter().any(|(key, _)| key == name));
            for (name, value) in kept.chain(*keys).filter(|(_, value)| !value.is_empty()) {
                text.extend([name, " = ", value, "\n"]);
            }
        }
        parse(&text, "e.toml", Path::new(".")).map_or_else(|problems| problems.to_string(), |_| String::new())
    }

    #[test]
    fn experiment_when_one_key_is_wrong_then_exactly_one_problem_is_reported() {
        for (key, value, problem) in [
            ("name", "", "experiment[0].name: is missing"),
            ("name", "\"a b\"", "experiment[0].name: \"a b\" is not a name"),
            ("arms", "", "experiment[0].arms: has no arm"),
            ("arms", "{}", "has no arm"),
            ("arms", "{ a = 10.0, b = 90.0001 }", "has a sum of 100.0001 per cent; lower"),
            ("arms", "{ a = 101 }", "experiment[0].arms.\"a\": 101 is not a percentage"),
            ("arms", "{ a = \"1\" }", "a number belongs"),
            ("arms", "{ \"a b\" = 1 }", "is not a name that can be a metric label"),
            ("arms", "{ none = 1 }", "edgeshim uses itself"),
            (
                "users",
                "{ \"1\" = \"c\" }",
                "users.\"1\": \"c\" is not an arm of this experiment; write one of \"a\", \"b\"",
            ),
            ("hosts", "{ c = \"c.test\" }", "is not an arm of this experiment"),
            ("hosts", "{ a = \"https://c.test\" }", "is not a host"),
            ("id", "", "experiment[0].id: is missing"),
            ("id", "{ cookie = \"a\", header = \"X-A\" }", "cannot be used together with cookie"),
            ("id", "{ cookie = \"a;b\" }", "is not the name of a cookie"),
            ("id", "{ header = \"Cookie\" }", "is a field that has another purpose"),
            ("id", "{ header = \"X_Assign-cdn\" }", "is a field that has another purpose"),
            ("groups", "{ header = \"X-Group\" }", "has no effect without arms"),
            ("groups", "{ arms = { staff = \"a\" } }", "needs the field with the group"),
            ("groups", "{ header = \"X-Group\", arms = { s = \"a\" } }", "server.trusted_proxies is empty"),
            ("override", "\"o\"", "needs a secret"),
            ("override_secret", "\"s\"", "has no effect without override"),
            ("override", "\"a&b\"", "is not the name of a query parameter"),
            ("classes", "[]", "is empty; write the classes"),
            ("classes", "", "experiment[0].classes: is empty"),
            ("classes", "[\"image\"]", "\"image\" is not the name of a class; write one of \"html\", \"other\""),
            ("enable", "true", "did you mean \"enabled\"?"),
        ] {
            let found = problems("", &[&[(key, value)]]);
            assert_eq!(found.lines().count(), 1, "{key} = {value}: {found}");
            assert!(found.contains(problem), "{key} = {value}: {found}");
        }
    }

    #[test]
    fn experiments_when_too_many_or_names_or_parameters_repeat_then_rejected() {
        let overriding: &[(&str, &str)] = &[("name", "\"one\""), ("override", "\"o\""), ("override_secret", "\"s\"")];
        let second: &[(&str, &str)] = &[("name", "\"two\""), ("override", "\"o\""), ("override_secret", "\"t\"")];
        for (blocks, problem) in [
            (
                &[&[][..], &[("name", "\"CDN\"")]][..],
                "experiment[1].name: \"CDN\" is the name of an earlier experiment",
            ),
            (&[overriding, second], "is the parameter of an earlier experiment"),
        ] {
            let found = problems("", blocks);
            assert!(found.lines().count() == 1 && found.contains(problem), "{found}");
        }
        let names: Vec<_> = (0..17).map(|number| format!("\"e{number}\"")).collect();
        let keys: Vec<_> = names.iter().map(|name| [("name", name.as_str())]).collect();
        let blocks: Vec<_> = keys.iter().map(<[_; 1]>::as_slice).collect();
        assert_eq!(problems("", &blocks[..16]), "");
        assert!(problems("", &blocks).contains("write at most 16 experiments"));
        let arms = (0..17).map(|arm| format!("a{arm} = 1")).collect::<Vec<_>>().join(", ");
        assert!(problems("", &[&[("arms", &format!("{{ {arms} }}"))]]).contains("write at most 16"));
    }

    #[test]
    fn experiment_when_all_keys_are_valid_then_accepted_and_unknown_arm_rejected() {
        let all: &[(&str, &str)] = &[
            ("enabled", "false"),
            ("id", "{ header = \"X-Visitor-Id\" }"),
            ("users", "{ \"4711\" = \"a\" }"),
            ("groups", "{ header = \"X-Group\", arms = { staff = \"B\" } }"),
            ("override", "\"cdn_diversity\""),
            ("override_secret", "\"s\""),
            ("hosts", "{ a = \"img-a.test:8080\" }"),
            ("classes", "[\"HTML\", \"other\"]"),
        ];
        assert_eq!(problems("[server]\ntrusted_proxies = [\"10.0.0.0/8\"]", &[all]), "");
        let unknown: &[(&str, &str)] = &[("groups", "{ header = \"X-Group\", arms = { staff = \"c\" } }")];
        let found = problems("[server]\ntrusted_proxies = [\"10.0.0.0/8\"]", &[unknown]);
        assert!(found.contains("groups.arms.\"staff\": \"c\" is not an arm"), "{found}");
    }
}
