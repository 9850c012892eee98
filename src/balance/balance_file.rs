//! The keys of `balance.toml`. The keys of `[ramp]`, `[[price]]`, `[watch]` and `[serve]` are in files of their own.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::base_url::{BASE_URL, BaseUrl};
use super::cost::tariff::Tariff;
use super::grid::Grid;
use super::page_keys::{PageKeys, check_page};
use super::price_keys::{self, PriceKeys};
use super::ramp_keys::{self, RampKeys};
use super::watch_keys::{PROBE_URL, ProbeUrl, WatchKeys};
use crate::config::{Problems, Section, load_keys};
use crate::keys::grammar::{closest, label};
use crate::keys::quantities::{TIMEOUT, WHOLE_SECONDS};
use crate::keys::secrets::SECRET;
use crate::keys::{Checked, Keys, PATH, Text, Visitor, quote};
use crate::wire::secret::Secret;

/// The file that is read without `--config`.
pub(crate) const DEFAULT_FILE: &str = "balance.toml";
/// The largest number of nodes of a target.
const MAX_NODES: usize = 500;
/// The largest number of providers of a target.
const MAX_PROVIDERS: usize = 50;

/// All keys of the file.
#[derive(Debug, Clone)]
pub(crate) struct BalanceFile {
    /// The file to which each change is appended.
    pub journal: PathBuf,
    /// The value of the key `journal`, until the file is checked.
    pub(super) typed_journal: Option<PathBuf>,
    /// The largest change of one provider's share that needs no `--force`, in percentage points.
    pub max_step: u32,
    /// The URLs of the admin listeners of all shims.
    pub shims: Vec<BaseUrl>,
    pub shims_token: Option<Secret>,
    /// The URL of the Prometheus server that has the counters of all shims. `None`: the counters come from the shims.
    pub prometheus: Option<BaseUrl>,
    pub ramp: RampKeys,
    pub services: Vec<ServiceKeys>,
    pub targets: Vec<TargetKeys>,
    /// The file with samples of the traffic of the CDNs.
    pub samples: Option<PathBuf>,
    /// The price lists of the CDNs, at most one for each CDN.
    pub prices: Vec<Tariff>,
    /// The blocks `[[price]]`. The check of the file makes `prices` from these blocks.
    pub(super) typed_prices: Vec<PriceKeys>,
    pub watch: WatchKeys,
    pub page: Option<PageKeys>,
}

impl Default for BalanceFile {
    fn default() -> Self {
        Self {
            journal: PathBuf::new(),
            typed_journal: None,
            max_step: 25,
            shims: Vec::new(),
            shims_token: None,
            prometheus: None,
            ramp: RampKeys::default(),
            services: Vec::new(),
            targets: Vec::new(),
            samples: None,
            prices: Vec::new(),
            typed_prices: Vec::new(),
            watch: WatchKeys::default(),
            page: None,
        }
    }
}

impl Keys for BalanceFile {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.nonempty("journal", &PATH, &mut self.typed_journal);
        v.integer("max_step", 1..=100, &mut self.max_step);
        v.list("shims", &BASE_URL, &mut self.shims);
        v.nonempty("shims_token", &SECRET, &mut self.shims_token);
        v.nonempty("prometheus", &BASE_URL, &mut self.prometheus);
        v.block("ramp", |v| self.ramp.keys(v));
        v.blocks("dns", &mut self.services);
        v.blocks("target", &mut self.targets);
        v.nonempty("samples", &PATH, &mut self.samples);
        v.blocks("price", &mut self.typed_prices);
        v.block("watch", |v| self.watch.keys(v));
        v.optional_block("serve", &mut self.page);
    }
}

/// The kind of a DNS service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceKind {
    PowerDns,
    Route53,
    Command,
}

const KINDS: [(&str, ServiceKind); 3] =
    [("powerdns", ServiceKind::PowerDns), ("route53", ServiceKind::Route53), ("command", ServiceKind::Command)];
/// The largest weight of a record of Route 53.
const ROUTE53_GRID: u32 = 255;

/// The keys of one `[[dns]]`.
#[derive(Debug, Clone)]
pub(crate) struct ServiceKeys {
    pub name: String,
    pub kind: ServiceKind,
    /// The URL of the API.
    pub url: Option<BaseUrl>,
    /// The key of the API of PowerDNS, or the id of an access key of AWS.
    pub key: Option<Secret>,
    /// The secret of the access key of AWS.
    pub secret: Option<Secret>,
    /// The id of the hosted zone in Route 53.
    pub zone_id: Option<String>,
    /// The time limit of one call, of one lookup and of one run of the program.
    pub timeout: Duration,
    /// The address to which the lookups after a change go. `None`: port 53 of the host of `url`.
    pub lookup: Option<SocketAddr>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The largest weight that the program's service accepts.
    pub grid: u32,
}

impl Default for ServiceKeys {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: ServiceKind::PowerDns,
            url: None,
            key: None,
            secret: None,
            zone_id: None,
            timeout: Duration::from_secs(10),
            lookup: None,
            command: Vec::new(),
            grid: 255,
        }
    }
}

impl ServiceKeys {
    pub(crate) fn weight_grid(&self) -> Grid {
        match self.kind {
            ServiceKind::PowerDns => Grid::Thousandths,
            ServiceKind::Route53 => Grid::AtMost(ROUTE53_GRID),
            ServiceKind::Command => Grid::AtMost(self.grid),
        }
    }
}

const NAME: Text<String> =
    Text { example: "images", read: |text, _| label(text, &[], "\"images\""), write: String::clone };
const ARGUMENT: Text<String> =
    Text { example: "/usr/local/bin/weights", read: |text, _| argument(text), write: String::clone };
const ADDRESS: Text<SocketAddr> =
    Text { example: "127.0.0.1:53", read: |text, _| address(text), write: ToString::to_string };
const DNS_NAME: Text<String> =
    Text { example: "img0.example.com", read: |text, _| dns_name(text), write: String::clone };

const ZONE_ID: Text<String> = Text { example: "Z148QEXAMPLE8V", read: |text, _| zone_id(text), write: String::clone };

fn zone_id(text: &str) -> Checked<String> {
    // The API of Route 53 writes /hostedzone/ before the id.
    let id = text.strip_prefix("/hostedzone/").unwrap_or(text);
    if !(1..=32).contains(&id.len()) || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err("is not the id of a hosted zone; write for example \"Z148QEXAMPLE8V\"".to_owned());
    }
    Ok(id.to_owned())
}

fn argument(text: &str) -> Checked<String> {
    if text.contains('\0') {
        return Err("has a NUL character, which an argument must not have; remove the character".to_owned());
    }
    Ok(text.to_owned())
}

fn address(text: &str) -> Checked<SocketAddr> {
    text.parse().map_err(|_| "is not an IP address with a port; write for example \"127.0.0.1:53\"".to_owned())
}

/// Checks a name in DNS. Returns the name in lower case, without the final dot.
fn dns_name(text: &str) -> Checked<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(letter);
    // A name of 253 bytes fills the 255 bytes that DNS allows (RFC 1035 §3.1).
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(
            "is not a name in DNS; write letters, digits, \"-\" and \"_\" with dots between them, for example \
                    \"img0.example.com\""
                .to_owned(),
        );
    }
    if name.parse::<std::net::Ipv4Addr>().is_ok() {
        return Err("is an IP address, but a name is needed here; write for example \"img0.example.com\"".to_owned());
    }
    Ok(name)
}

impl Keys for ServiceKeys {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.text("name", &NAME, &mut self.name);
        v.choice("kind", &KINDS, &mut self.kind);
        v.nonempty("url", &BASE_URL, &mut self.url);
        v.nonempty("key", &SECRET, &mut self.key);
        v.nonempty("secret", &SECRET, &mut self.secret);
        v.nonempty("zone_id", &ZONE_ID, &mut self.zone_id);
        v.text("timeout", &TIMEOUT, &mut self.timeout);
        v.nonempty("lookup", &ADDRESS, &mut self.lookup);
        v.list("command", &ARGUMENT, &mut self.command);
        v.integer("grid", 1..=65_535, &mut self.grid);
    }
}

/// The keys of one `[[target]]`: names in DNS that always have the same weights.
#[derive(Debug, Clone)]
pub(crate) struct TargetKeys {
    pub name: String,
    /// The names of the DNS services that have the target's zone. All of them are changed together.
    pub services: Vec<String>,
    pub zone: String,
    pub nodes: Vec<String>,
    pub ttl: Duration,
    pub providers: BTreeMap<String, ProviderKeys>,
}

impl Default for TargetKeys {
    fn default() -> Self {
        Self {
            name: String::new(),
            services: Vec::new(),
            zone: String::new(),
            nodes: Vec::new(),
            ttl: Duration::from_mins(1),
            providers: BTreeMap::new(),
        }
    }
}

impl Keys for TargetKeys {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.text("name", &NAME, &mut self.name);
        v.list("dns", &NAME, &mut self.services);
        v.text("zone", &DNS_NAME, &mut self.zone);
        v.list("nodes", &DNS_NAME, &mut self.nodes);
        v.text("ttl", &WHOLE_SECONDS, &mut self.ttl);
        v.named_blocks(
            "providers",
            "fastly = { cname = \"global-ssl.fastly.example\" }",
            &PROVIDER_NAME,
            &mut self.providers,
        );
    }
}

const PROVIDER_NAME: Text<String> = Text {
    example: "fastly",
    read: |text, _| label(text, &["none", "other", "unverified"], "\"fastly\""),
    write: String::clone,
};

/// The keys of one provider of a target.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProviderKeys {
    /// The name to which the target's nodes point for this provider.
    pub cname: String,
    /// The URL that `watch` requests.
    pub probe: Option<ProbeUrl>,
}

impl Keys for ProviderKeys {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.text("cname", &DNS_NAME, &mut self.cname);
        v.nonempty("probe", &PROBE_URL, &mut self.probe);
    }
}

impl TargetKeys {
    /// Returns the provider that has this CNAME.
    pub(crate) fn provider_of(&self, cname: &str) -> Option<&str> {
        let cname = cname.trim_end_matches('.');
        let found = self.providers.iter().find(|(_, keys)| keys.cname.eq_ignore_ascii_case(cname));
        found.map(|(name, _)| name.as_str())
    }
}

impl BalanceFile {
    pub(crate) fn load(path: &Path) -> Result<Self, Problems> {
        load_keys(path, check)
    }

    pub(crate) fn target(&self, name: &str) -> Option<&TargetKeys> {
        self.targets.iter().find(|target| target.name == name)
    }

    pub(crate) fn service(&self, name: &str) -> Option<&ServiceKeys> {
        self.services.iter().find(|service| service.name == name)
    }
}

/// Checks that no key is missing and that the values of different keys fit together. Sets `journal` and `prices`.
fn check(file: &mut BalanceFile, root: &mut Section<'_>) {
    file.journal = file.typed_journal.take().unwrap_or_else(|| root.folder().join("balance.jsonl"));
    if let Some(keys) = &file.page {
        check_page(keys, &root.section("serve"));
    }
    // In a file without [ramp], a small max_step is not a mistake.
    if root.has("ramp") {
        ramp_keys::check(&file.ramp, file.max_step, &root.section("ramp"));
    }
    let mut names = HashSet::new();
    for (keys, block) in file.services.iter().zip(root.bounded_sections("dns")) {
        check_name(&keys.name, &block, &mut names, "name = \"pdns\"");
        check_service(keys, &block);
    }
    if file.services.is_empty() && !root.is_bad("dns") {
        root.missing("dns", "is missing; write at least one block [[dns]] with a DNS service");
    }
    if file.targets.is_empty() && !root.is_bad("target") {
        root.missing("target", "is missing; write at least one block [[target]] with the names to balance");
    }
    let (mut names, mut nodes) = (HashSet::new(), HashSet::new());
    for (keys, mut block) in file.targets.iter().zip(root.bounded_sections("target")) {
        check_name(&keys.name, &block, &mut names, "name = \"images\"");
        check_services_of_target(file, keys, &block);
        check_nodes(keys, &block, &mut nodes);
        check_providers(keys, &mut block);
    }
    let providers = file.targets.iter().flat_map(|target| target.providers.keys().map(String::as_str));
    let providers: Vec<&str> = providers.collect::<BTreeSet<_>>().into_iter().collect();
    file.prices = price_keys::tariffs(&file.typed_prices, &providers, file.samples.as_deref(), root);
    file.watch.check(&root.section("watch"));
    check_probes(file, root);
}

fn check_name(name: &str, block: &Section<'_>, names: &mut HashSet<String>, example: &str) {
    if !block.has("name") {
        block.missing("name", format!("is missing; write for example {example}"));
    } else if !block.is_bad("name") && !names.insert(name.to_owned()) {
        block.reject("name", "is the name of an earlier block; write another name");
    }
}

/// Checks that a service has the keys of its kind, and no keys of other kinds.
fn check_service(keys: &ServiceKeys, block: &Section<'_>) {
    if block.is_bad("kind") {
        return;
    }
    if !block.has("kind") {
        block.missing("kind", "is missing; write kind = \"powerdns\", kind = \"route53\" or kind = \"command\"");
        return;
    }
    let key = keys.key.is_some();
    let (needed, foreign): (&[_], &[_]) = match keys.kind {
        ServiceKind::PowerDns => (
            &[
                ("url", keys.url.is_some(), "url = \"http://127.0.0.1:8081\", the API of PowerDNS"),
                ("key", key, "key = \"env:PDNS_KEY\", the value of api-key in pdns.conf"),
            ],
            &["secret", "zone_id", "command", "grid"],
        ),
        ServiceKind::Route53 => (
            &[
                ("key", key, "key = \"env:AWS_ACCESS_KEY_ID\", the id of an access key of AWS"),
                (
                    "secret",
                    keys.secret.is_some(),
                    "secret = \"env:AWS_SECRET_ACCESS_KEY\", the secret of the access key",
                ),
                ("zone_id", keys.zone_id.is_some(), "zone_id = \"Z148QEXAMPLE8V\", the id of the hosted zone"),
            ],
            &["lookup", "command", "grid"],
        ),
        ServiceKind::Command => (
            &[("command", !keys.command.is_empty(), "command = [\"/usr/local/bin/weights\"], the program to call")],
            &["url", "key", "secret", "zone_id", "lookup"],
        ),
    };
    for (name, is_set, example) in needed {
        if !is_set && !block.is_bad(name) {
            let message = format!("is missing; write for example {example}");
            if block.has(name) {
                block.reject(name, message);
            } else {
                block.missing(name, message);
            }
        }
    }
    for name in foreign {
        block.reject(name, "has no effect with this kind; remove the key, or write another kind");
    }
}

fn check_services_of_target(file: &BalanceFile, keys: &TargetKeys, block: &Section<'_>) {
    let known: Vec<&str> = file.services.iter().map(|service| service.name.as_str()).collect();
    if keys.services.is_empty() && !block.is_bad("dns") {
        let message = "is missing; write the names of the [[dns]] blocks that have this zone, for example [\"pdns\"]";
        if block.has("dns") { block.reject("dns", message) } else { block.missing("dns", message) }
    }
    for (at, name) in keys.services.iter().enumerate() {
        if !known.contains(&name.as_str()) {
            let hint = closest(name, &known).map(|meant| format!(" (did you mean {}?)", quote(meant)));
            let message =
                format!("is not a [[dns]] block{}; write one of {}", hint.unwrap_or_default(), known.join(", "));
            block.reject_at("dns", at, message);
        } else if keys.services.iter().take(at).any(|before| before == name) {
            block.reject_at("dns", at, "is in the list twice; remove one of the two");
        }
    }
}

fn check_nodes(keys: &TargetKeys, block: &Section<'_>, seen: &mut HashSet<(String, String)>) {
    for (name, is_missing, example) in [
        ("zone", keys.zone.is_empty(), "zone = \"example.com\""),
        ("nodes", keys.nodes.is_empty(), "nodes = [\"img0.example.com\"]"),
    ] {
        if is_missing && !block.is_bad(name) {
            let message = format!("is missing or empty; write for example {example}");
            if block.has(name) { block.reject(name, message) } else { block.missing(name, message) }
        }
    }
    if keys.nodes.len() > MAX_NODES {
        block.reject("nodes", format!("has {} entries; write at most {MAX_NODES}", keys.nodes.len()));
    }
    for (at, node) in keys.nodes.iter().enumerate() {
        if *node == keys.zone {
            block.reject_at(
                "nodes",
                at,
                "is the zone itself, where DNS allows no CNAME; write a name below the zone, for example \
                 \"img0.example.com\"",
            );
        } else if !keys.zone.is_empty() && !node.ends_with(&format!(".{}", keys.zone)) {
            let example = quote(&format!("img0.{}", keys.zone));
            block.reject_at("nodes", at, format!("is not in the zone {}; write for example {example}", keys.zone));
        }
        for service in keys.services.iter().collect::<BTreeSet<_>>() {
            if !seen.insert((service.clone(), node.clone())) {
                block.reject_at("nodes", at, "is in two lists of nodes, or twice in this list; remove one of the two");
                break;
            }
        }
    }
}

fn check_providers(keys: &TargetKeys, block: &mut Section<'_>) {
    let section = block.section("providers");
    if block.is_bad("providers") && keys.providers.is_empty() {
        return;
    }
    if keys.providers.is_empty() {
        let message = "is missing or empty; write for example \
                       providers = { fastly = { cname = \"global-ssl.fastly.example\" } }";
        if block.has("providers") { block.reject("providers", message) } else { block.missing("providers", message) }
    }
    if keys.providers.len() > MAX_PROVIDERS {
        block.reject("providers", format!("has {} blocks; write at most {MAX_PROVIDERS}", keys.providers.len()));
    }
    let mut cnames = HashSet::new();
    for (name, provider) in &keys.providers {
        let problem = if provider.cname.is_empty() {
            "no cname; write for example { cname = \"global-ssl.fastly.example\" }"
        } else if keys.nodes.contains(&provider.cname) {
            "a cname that is a node of this target, so the name would point to itself; write the CDN's own name"
        } else if !cnames.insert(&provider.cname) {
            "the cname of another provider of this target; write the CDN's own name"
        } else {
            continue;
        };
        // A wrong cname has been reported already.
        if !section.is_bad(name) {
            block.reject("providers", format!("has the provider {name} with {problem}"));
        }
    }
}

/// Checks that the host of a probe is not a node. Otherwise DNS would select the edge that is probed, and this edge
/// could be an edge of another provider.
fn check_probes(file: &BalanceFile, root: &mut Section<'_>) {
    let nodes: HashSet<&String> = file.targets.iter().flat_map(|target| &target.nodes).collect();
    for (keys, block) in file.targets.iter().zip(root.bounded_sections("target")) {
        for (name, provider) in &keys.providers {
            if let Some(probe) = provider.probe.as_ref().filter(|probe| nodes.contains(&probe.server.host)) {
                let text = format!(
                    "has the provider {name} with a probe of {}, which is a node of a target, so the probe would reach \
                     any CDN; write a name that only {name} serves",
                    probe.server.host
                );
                block.reject("providers", text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_keys;

    fn read(text: &str) -> Result<BalanceFile, String> {
        parse_keys(text, "b.toml", Path::new("conf"), check).map_err(|problems| problems.to_string())
    }

    const FINE: &str = r#"
[[dns]]
name = "pdns"
kind = "powerdns"
url = "http://127.0.0.1:8081"
key = "s3cret"
[[target]]
name = "images"
dns = ["pdns"]
zone = "Example.com."
nodes = ["img0.example.com", "IMG1.example.com."]
providers = { Fastly = { cname = "global.fastly.example." }, akamai = { cname = "a.akamai.example" } }
"#;

    #[test]
    fn file_when_valid_then_names_are_in_lower_case_and_journal_is_beside_the_file() {
        let file = read(FINE).expect("the file is valid");
        assert_eq!(file.journal, Path::new("conf/balance.jsonl"));
        assert_eq!(file.max_step, 25);
        let target = file.target("images").expect("the target");
        assert_eq!(target.nodes, ["img0.example.com", "img1.example.com"]);
        assert_eq!(target.provider_of("Global.fastly.example."), Some("fastly"));
        assert_eq!(file.service("pdns").map(ServiceKeys::weight_grid), Some(Grid::Thousandths));
    }

    #[test]
    fn file_when_many_values_are_wrong_then_all_are_reported_with_a_remedy() {
        let wrong = r#"
max_step = 0
colour = "blue"
shims = ["127.0.0.1:9900"]
[[dns]]
name = "pdns"
kind = "bind"
[[dns]]
name = "pdns"
kind = "powerdns"
command = ["x"]
[[dns]]
name = "two"
kind = "command"
key = "hunter2"
[[dns]]
name = "three"
kind = "route53"
zone_id = "../x"
grid = 7
[[target]]
name = "images"
dns = ["pdnss"]
zone = "example.com"
nodes = ["example.com", "img.example.org", "a b", "img0.example.com"]
ttl = "1m30s"
providers = { fastly = { cnam = "a" }, akamai = { cname = "b.example" }, other = { cname = "c" }, x = 3 }
[[target]]
name = "images"
dns = []
zone = "example.com"
nodes = []
"#;
        let problems = read(wrong).expect_err("many values are wrong");
        for part in [
            "b.toml:2: max_step: 0 is out of range",
            "b.toml:3: colour: \"blue\" is the value of an unknown key",
            "b.toml:4: shims[0]: \"127.0.0.1:9900\" is not a URL",
            "b.toml:7: dns[0].kind: \"bind\" is not allowed here; write one of \"powerdns\", \"route53\", \"command\"",
            "b.toml:9: dns[1].name: \"pdns\" is the name of an earlier block",
            "dns[1].url: is missing; write for example url = \"http://127.0.0.1:8081\"",
            "dns[1].key: is missing; write for example key = \"env:PDNS_KEY\"",
            "b.toml:11: dns[1].command: […] has no effect with this kind",
            "dns[2].command: is missing",
            "b.toml:15: dns[2].key: *** has no effect with this kind",
            "b.toml:19: dns[3].zone_id: \"../x\" is not the id of a hosted zone; write for example \"Z148QEXAMPLE8V\"",
            "b.toml:20: dns[3].grid: 7 has no effect with this kind",
            "dns[3].key: is missing; write for example key = \"env:AWS_ACCESS_KEY_ID\"",
            "dns[3].secret: is missing; write for example secret = \"env:AWS_SECRET_ACCESS_KEY\"",
            "b.toml:23: target[0].dns[0]: \"pdnss\" is not a [[dns]] block (did you mean \"pdns\"?)",
            "target[0].nodes[2]: \"a b\" is not a name in DNS",
            "target[0].ttl: \"1m30s\" is not a duration",
            "target[0].providers.fastly.cnam: \"a\" is the value of an unknown key; did you mean \"cname\"?",
            "target[0].providers: \"other\" is a name that edgeshim uses itself",
            "target[0].providers.x: 3 is a whole number where a block belongs",
            "target[1].name: \"images\" is the name of an earlier block",
            "target[1].dns: [] is missing",
            "target[1].nodes: [] is missing or empty; write for example nodes = [\"img0.example.com\"]",
            "target[1].providers: is missing or empty",
        ] {
            assert!(problems.contains(part), "no problem contains {part:?}:\n{problems}");
        }
        assert!(!problems.contains("hunter2"), "{problems}");
    }

    #[test]
    fn nodes_and_cnames_when_outside_zone_repeated_or_circular_then_are_rejected() {
        for (nodes, part) in [
            (r#"["example.com"]"#, "is the zone itself"),
            (r#"["img.example.org"]"#, "is not in the zone example.com; write for example \"img0.example.com\""),
            (r#"["badexample.com"]"#, "is not in the zone"),
            (r#"["a.example.com", "a.example.com"]"#, "twice in this list"),
            (r#"["a.akamai.example"]"#, "is not in the zone"),
        ] {
            let text = FINE.replace(r#"["img0.example.com", "IMG1.example.com."]"#, nodes);
            let problems = read(&text).expect_err(nodes);
            assert!(problems.contains(part), "{nodes}: {problems}");
        }
        let twice = read(&FINE.replace("dns = [\"pdns\"]", "dns = [\"pdns\", \"pdns\"]")).expect_err("a name twice");
        assert!(twice.lines().count() == 1 && twice.contains("target[0].dns[1]: \"pdns\" is in the list"), "{twice}");
        let same = FINE.replace("a.akamai.example", "global.fastly.example");
        assert!(read(&same).expect_err("equal").contains("fastly with the cname of another provider"));
        let own = FINE.replace("a.akamai.example", "img0.example.com");
        assert!(read(&own).expect_err("own").contains("would point to itself"));
    }

    #[test]
    fn file_when_empty_then_dns_and_target_are_missing() {
        let problems = read("").expect_err("nothing is configured");
        assert!(problems.contains("dns: is missing") && problems.contains("target: is missing"), "{problems}");
    }
}
