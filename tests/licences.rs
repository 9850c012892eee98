//! Checks the licences, the sources and the versions of the shipped crates. The rules are in `deploy/ci/deny.toml`,
//! which cargo-deny reads, too. The shipped crates are the normal dependencies and the build dependencies for Linux,
//! without dev-dependencies.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by a panic

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// A shipped crate.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
    licence: Option<String>,
    /// The registry or repository of the crate. `None` for a path dependency, which is a part of this repository.
    source: Option<String>,
}

/// The rules of `deny.toml`.
#[derive(Debug, Default)]
struct Policy {
    allowed: BTreeSet<String>,
    /// The licences that are allowed for one crate only. The key is the name of the crate or `name@version`.
    exceptions: BTreeMap<String, BTreeSet<String>>,
    /// Crates that are allowed to ship in more than one version. Each entry has the form `name@version`.
    skipped: BTreeSet<String>,
    /// The allowed sources in addition to crates.io.
    sources: BTreeSet<String>,
}

fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Returns the shipped crates from the output of `cargo metadata`: the members of the workspace, and their direct and
/// indirect normal and build dependencies.
fn shipped(metadata: &Value) -> Vec<Package> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let nodes: BTreeMap<String, Value> = list(&metadata["resolve"]["nodes"])
        .into_iter()
        .filter_map(|node| Some((text_of(&node["id"])?, node)))
        .collect();
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<String> = list(&metadata["workspace_members"]).iter().filter_map(text_of).collect();
    while let Some(id) = waiting.pop() {
        if !reached.insert(id.clone()) {
            continue;
        }
        let Some(node) = nodes.get(&id) else { continue };
        for dependency in list(&node["deps"]) {
            let ships = list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev");
            waiting.extend(text_of(&dependency["pkg"]).filter(|_| ships));
        }
    }
    let package = |value: &Value| Package {
        name: text_of(&value["name"]).unwrap_or_default(),
        version: text_of(&value["version"]).unwrap_or_default(),
        licence: text_of(&value["license"]),
        source: text_of(&value["source"]),
    };
    let ships = |value: &&Value| text_of(&value["id"]).is_some_and(|id| reached.contains(&id));
    list(&metadata["packages"]).iter().filter(ships).map(package).collect()
}

/// Reads the rules that this test checks from the text of `deny.toml`. Returns an error message if a rule is invalid.
fn policy(text: &str) -> Result<Policy, String> {
    let table: toml::Table = text.parse().map_err(|error| format!("{error}"))?;
    let strings = |value: Option<&toml::Value>| -> BTreeSet<String> {
        value
            .and_then(toml::Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    let block = |name: &str, key: &str| table.get(name).and_then(|block| block.get(key));
    let tables = |value: Option<&toml::Value>| value.and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let mut policy = Policy {
        allowed: strings(block("licenses", "allow")),
        sources: strings(block("sources", "allow-registry")),
        ..Policy::default()
    };
    if policy.allowed.is_empty() {
        return Err("[licenses] allow is empty: list the licences that may ship".into());
    }
    for exception in tables(block("licenses", "exceptions")) {
        let name = exception
            .get("crate")
            .and_then(toml::Value::as_str)
            .ok_or("[licenses] exceptions: an entry has no key `crate`")?;
        policy.exceptions.insert(name.to_owned(), strings(exception.get("allow")));
    }
    for skip in tables(block("bans", "skip")) {
        let name = skip.get("crate").and_then(toml::Value::as_str).ok_or("[bans] skip: an entry has no key `crate`")?;
        let reason = skip.get("reason").and_then(toml::Value::as_str).unwrap_or_default();
        if reason.trim().is_empty() || !name.contains('@') {
            return Err(format!("[bans] skip: {name} needs `crate = \"name@version\"` and a `reason`"));
        }
        policy.skipped.insert(name.to_owned());
    }
    Ok(policy)
}

/// Evaluates an SPDX expression. WITH binds closest, then AND, then OR. `/` is an old form of OR.
fn satisfied(expression: &str, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_ascii_whitespace().collect();
    let mut at = 0;
    let value = parse_or(&tokens, &mut at, allowed)?;
    if at == tokens.len() { Ok(value) } else { Err(format!("`{}` does not follow AND or OR", tokens[at])) }
}

fn parse_or(tokens: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let mut value = parse_and(tokens, at, allowed)?;
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        value |= parse_and(tokens, at, allowed)?;
    }
    Ok(value)
}

fn parse_and(tokens: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let mut value = parse_atom(tokens, at, allowed)?;
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        value &= parse_atom(tokens, at, allowed)?;
    }
    Ok(value)
}

fn parse_atom(tokens: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let token = *tokens.get(*at).ok_or("the expression ends before a licence")?;
    *at += 1;
    match token {
        "(" => {
            let value = parse_or(tokens, at, allowed)?;
            if tokens.get(*at) != Some(&")") {
                return Err("a bracket is not closed".into());
            }
            *at += 1;
            Ok(value)
        }
        "AND" | "OR" | "WITH" | ")" => Err(format!("a licence is expected instead of `{token}`")),
        licence if tokens.get(*at) == Some(&"WITH") => {
            let exception = tokens.get(*at + 1).ok_or("no exception follows WITH")?;
            *at += 2;
            Ok(allowed(&format!("{licence} WITH {exception}")))
        }
        licence => Ok(allowed(licence)),
    }
}

/// Returns a message for each breach of the policy.
fn objections(packages: &[Package], policy: &Policy) -> Vec<String> {
    let mut found = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut exceptions_used = BTreeSet::new();
    for package in packages {
        let id = format!("{}@{}", package.name, package.version);
        versions.entry(&package.name).or_default().insert(&package.version);
        if let Some(source) = &package.source
            && source != CRATES_IO
            && !policy.sources.iter().any(|allowed| source.ends_with(allowed.as_str()))
        {
            found.push(format!("{id} comes from {source}; use a release from crates.io"));
        }
        let exception =
            [package.name.as_str(), id.as_str()].into_iter().find_map(|key| policy.exceptions.get_key_value(key));
        exceptions_used.extend(exception.map(|(key, _)| key));
        let allowed = |licence: &str| {
            policy.allowed.contains(licence) || exception.is_some_and(|(_, licences)| licences.contains(licence))
        };
        match &package.licence {
            None => found.push(format!("{id} names no licence; replace the crate")),
            Some(licence) => match satisfied(licence, &allowed) {
                Ok(true) => {}
                Ok(false) => found.push(format!(
                    "{id} is under `{licence}`, which [licenses] in deploy/ci/deny.toml does not allow; replace the \
                     crate, or add the licence to [licenses]"
                )),
                Err(why) => found.push(format!("the licence `{licence}` of {id} is malformed: {why}")),
            },
        }
    }
    for (name, versions) in &versions {
        let loose: Vec<&&str> =
            versions.iter().filter(|version| !policy.skipped.contains(&format!("{name}@{version}"))).collect();
        if loose.len() > 1 {
            found.push(format!(
                "{name} ships in versions {}; use one version, or add the older version and a reason to `skip` of \
                 [bans] in deploy/ci/deny.toml",
                versions.iter().copied().collect::<Vec<_>>().join(" and ")
            ));
        }
    }
    for skip in &policy.skipped {
        let needed = skip
            .split_once('@')
            .and_then(|(name, version)| Some(versions.get(name)?.contains(version) && versions.get(name)?.len() > 1));
        if needed != Some(true) {
            found.push(format!("{skip} in `skip` of [bans] is no longer a duplicate; remove the line"));
        }
    }
    for exception in policy.exceptions.keys().filter(|key| !exceptions_used.contains(key)) {
        found.push(format!("{exception} in `exceptions` of [licenses] no longer ships; remove the line"));
    }
    found
}

/// Runs `cargo metadata`, if possible offline, and returns the output.
fn metadata() -> Value {
    let run = |offline: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]).args(offline);
        command.output().expect("cargo starts")
    };
    let mut output = run(&["--offline"]);
    if !output.status.success() {
        output = run(&[]);
    }
    assert!(output.status.success(), "cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON from cargo metadata")
}

fn deny_toml() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/ci/deny.toml");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read deploy/ci/deny.toml: {error}"))
}

#[test]
fn dependencies_when_shipped_then_licences_sources_and_versions_are_allowed() {
    let packages = shipped(&metadata());
    assert!(packages.len() > 1, "cargo metadata shows no dependencies: {packages:?}");
    let policy = policy(&deny_toml()).unwrap_or_else(|why| panic!("deploy/ci/deny.toml: {why}"));
    let objections = objections(&packages, &policy);
    assert!(objections.is_empty(), "{} objections:\n{}", objections.len(), objections.join("\n"));
}

// ---- tests of the checks --------------------------------------------------------------------------------------------

fn package(name: &str, version: &str, licence: &str) -> Package {
    Package {
        name: name.into(),
        version: version.into(),
        licence: Some(licence.into()),
        source: Some(CRATES_IO.into()),
    }
}

fn sample() -> Policy {
    policy(
        r#"
        [licenses]
        allow = ["MIT", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"]
        exceptions = [{ crate = "odd", allow = ["MPL-2.0"] }]
        [bans]
        skip = [{ crate = "twice@1.0.0", reason = "required by a crate" }]
        "#,
    )
    .expect("a valid policy")
}

#[test]
fn licence_expression_when_evaluated_then_operators_and_brackets_are_applied() {
    let allowed = |licence: &str| ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].contains(&licence);
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("MIT OR Apache-2.0 AND GPL-3.0", true),
        ("(MIT OR Apache-2.0) AND GPL-3.0", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
        ("Apache-2.0", false),
    ] {
        assert_eq!(satisfied(expression, &allowed), Ok(expected), "{expression}");
    }
    for expression in ["", "MIT OR", "(MIT", "MIT MIT", "AND MIT", "MIT WITH"] {
        assert!(satisfied(expression, &allowed).is_err(), "{expression}");
    }
}

#[test]
fn packages_when_all_are_allowed_then_cause_no_objection() {
    let fine = [
        package("a", "1.0.0", "MIT"),
        package("odd", "1.0.0", "MPL-2.0"),
        package("twice", "1.0.0", "MIT"),
        package("twice", "2.0.0", "MIT"),
    ];
    assert_eq!(objections(&fine, &sample()), Vec::<String>::new());
}

#[test]
fn package_when_forbidden_then_objection_names_the_reason() {
    let base = [package("odd", "1.0.0", "MPL-2.0"), package("twice", "1.0.0", "MIT"), package("twice", "2.0.0", "MIT")];
    let unlicensed = Package { licence: None, ..package("a", "1.0.0", "") };
    let elsewhere = Package { source: Some("git+https://example.com/a".into()), ..package("a", "1.0.0", "MIT") };
    for (extra, part) in [
        (package("a", "1.0.0", "GPL-3.0"), "GPL-3.0"),
        (package("a", "1.0.0", "MPL-2.0"), "MPL-2.0"),
        (package("twice", "3.0.0", "MIT"), "twice ships in versions"),
        (unlicensed, "names no licence"),
        (elsewhere, "comes from git+"),
    ] {
        let packages = [&base[..], &[extra]].concat();
        let found = objections(&packages, &sample());
        assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:?}");
    }
    let stale = objections(&[package("twice", "2.0.0", "MIT")], &sample());
    assert_eq!(stale.len(), 2, "the unused skip and the unused exception must be reported: {stale:?}");
}

#[test]
fn policy_when_incomplete_then_rejected() {
    for skip in [r#"{ crate = "a@1.0.0" }"#, r#"{ crate = "a", reason = "b" }"#, r#"{ name = "a", reason = "b" }"#] {
        assert!(policy(&format!("[licenses]\nallow = [\"MIT\"]\n[bans]\nskip = [{skip}]")).is_err(), "{skip}");
    }
    assert!(policy("[licenses]\nallow = []").is_err());
}

#[test]
fn dev_dependency_when_shipped_crates_are_listed_then_left_out() {
    let metadata = serde_json::json!({
        "workspace_members": ["root"],
        "packages": [
            {"id": "root", "name": "root", "version": "1.0.0", "license": "MIT"},
            {"id": "n", "name": "n", "version": "1.0.0", "license": "MIT"},
            {"id": "b", "name": "b", "version": "1.0.0", "license": "MIT"},
            {"id": "d", "name": "d", "version": "1.0.0", "license": "MIT"},
        ],
        "resolve": {"nodes": [
            {"id": "root", "deps": [
                {"pkg": "n", "dep_kinds": [{"kind": null}]},
                {"pkg": "d", "dep_kinds": [{"kind": "dev"}]},
            ]},
            {"id": "n", "deps": [{"pkg": "b", "dep_kinds": [{"kind": "build"}, {"kind": "dev"}]}]},
            {"id": "b", "deps": []},
            {"id": "d", "deps": []},
        ]},
    });
    let names: Vec<String> = shipped(&metadata).into_iter().map(|package| package.name).collect();
    assert_eq!(names, ["root", "n", "b"]);
}
