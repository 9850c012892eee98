//! Tests of provider identification and proofs, with pull heads for every preset and with 100,000 forged requests.

#![allow(clippy::unwrap_used)] // a test fails by a panic

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use support::raw::{Raw, exchange, fetch};
use support::shim::{Config, repository};
use support::{Metrics, Origin, PATIENCE, Shim, origin};

/// Configures one provider for each preset. Each provider has a different secret.
fn every_preset(origin: impl std::fmt::Display) -> Config {
    let config = Shim::config(origin).with("[access_log]\noutput = \"file:access.log\"");
    edgeshim::internals::PRESET_NAMES.iter().fold(config, |config, name| {
        config.with(&format!(
            "[[provider]]\nname = \"{name}\"\n\
             verify.secret = {{ header = \"X-Origin-Secret\", values = [\"{name}-secret\"] }}"
        ))
    })
}

/// A golden file, which contains a pull head and the expected results.
struct Golden {
    path: PathBuf,
    name: String,
    expected: BTreeMap<String, String>,
    head: String,
}

impl Golden {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("a golden head");
        let (about, head) = text
            .split_once("\n\n")
            .unwrap_or_else(|| panic!("{}: the empty line before the request is missing", path.display()));
        let mut expected = BTreeMap::new();
        for line in about.lines().filter(|line| !line.starts_with('#')) {
            let pair = line.strip_prefix("expect ").and_then(|line| line.split_once(" = "));
            let (key, value) =
                pair.unwrap_or_else(|| panic!("{}: {line:?} is not `expect KEY = VALUE`", path.display()));
            expected.insert(key.to_owned(), value.trim_matches('"').to_owned());
        }
        let keys: Vec<_> = expected.keys().map(String::as_str).collect();
        assert_eq!(keys, ["client", "pop", "proof", "provider", "pull"], "{}", path.display());
        let parts: Vec<_> = path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let path = path.to_owned();
        Self { path, name: parts[parts.len() - 2..].join("."), expected, head: head.trim_end().to_owned() }
    }

    /// Reads the golden heads of a preset. Each preset must have at least four heads.
    fn of(preset: &str) -> Vec<Self> {
        let folder = repository("tests/golden/heads").join(preset);
        let mut files: Vec<_> =
            std::fs::read_dir(&folder).expect("a folder of heads").map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 4, "{preset} has only {} heads; write at least 4", files.len());
        files.iter().map(|file| Self::read(file)).collect()
    }

    /// Returns the text of the request. The X-Request-Id of the request is the name of the golden.
    fn request(&self) -> String {
        format!("{}\r\nX-Request-Id: {}\r\n\r\n", self.head.replace('\n', "\r\n"), self.name)
    }
}

#[test]
fn pull_heads_when_sent_for_every_preset_then_results_equal_the_goldens() {
    let origin = Origin::start(origin::fixed(200, &[], b"fine"));
    let mut shim = Shim::start(every_preset(origin.url()));
    let goldens: Vec<_> = edgeshim::internals::PRESET_NAMES.iter().flat_map(|name| Golden::of(name)).collect();
    for golden in &goldens {
        assert_eq!(exchange(shim.addr, golden.request()).status, 200, "{}", golden.name);
    }
    let seen: BTreeMap<_, _> = origin
        .requests()
        .into_iter()
        .map(|request| (request.field("x-request-id").unwrap_or_default().to_owned(), request))
        .collect();
    shim.signal("TERM");
    assert!(shim.wait_exit(PATIENCE).success());
    let log = std::fs::read_to_string(shim.dir.join("access.log")).unwrap();
    let lines: BTreeMap<_, _> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| (line["id"].as_str().unwrap().to_owned(), line))
        .collect();
    let mut wrong = Vec::new();
    for Golden { name, expected, .. } in &goldens {
        let line = &lines[name];
        let logged = |key: &str| line.get(key).map_or("edge", |value| value.as_str().unwrap()).to_owned();
        let client = Some(logged("client")).filter(|client| client != "127.0.0.1").unwrap_or_default();
        let mut reported: BTreeMap<_, _> =
            ["pop", "proof", "provider", "pull"].map(|key| (key.to_owned(), logged(key))).into();
        reported.insert("client".to_owned(), client.clone());
        if reported != *expected {
            wrong.push(format!("{name}: the log has {reported:?}, expected {expected:?}"));
        }
        // Only after a valid proof, the origin gets the client address that a CDN reports. The origin
        // never gets a secret.
        let request = &seen[name];
        let provider =
            Some(expected["provider"].as_str()).filter(|name| !["none", "other", "unverified"].contains(name));
        let chain = if client.is_empty() { "127.0.0.1".to_owned() } else { format!("{client}, 127.0.0.1") };
        for (field, sent) in [("x-cdn-provider", provider), ("x-forwarded-for", Some(chain.as_str()))] {
            let received = request.fields_named(field);
            if received != sent.into_iter().collect::<Vec<_>>() {
                wrong.push(format!("{name}: the origin got {field} {received:?}, expected {sent:?}"));
            }
        }
        let secret = request.fields.iter().find(|(field, value)| field != "x-request-id" && value.contains("-secret"));
        assert_eq!(secret, None, "{name}: the origin got a secret");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pull_kind_when_shield_probe_or_retry_then_counted_and_logged() {
    let origin = Origin::start(origin::fixed(200, &[], b"fine"));
    let mut shim = Shim::start(every_preset(origin.url()));
    let [edge, shield, probe] = ["cloudflare/edge", "fastly/shield", "fastly/probe"]
        .map(|name| Golden::read(&repository("tests/golden/heads").join(format!("{name}.head"))));
    // A pull that repeats the CF-Ray and the target of an earlier pull is a retry. `other` has another target, so it is
    // not a retry.
    let other = Golden { head: edge.head.replacen("GET /", "GET /other/", 1), ..Golden::read(&edge.path) };
    for golden in [&edge, &shield, &edge, &probe, &edge, &other] {
        assert_eq!(exchange(shim.addr, golden.request()).status, 200, "{}", golden.name);
    }
    let metrics = shim.wait_metrics(|metrics| pulls(metrics, "cloudflare") == 4);
    for (name, count) in [("shield", 1.0), ("probe", 1.0), ("retry", 2.0)] {
        let counted = metrics.value(&format!("edgeshim_{name}_pulls_total"), &[]);
        assert!((counted - count).abs() < 0.5, "{name}: {counted}");
    }
    shim.signal("TERM");
    assert!(shim.wait_exit(PATIENCE).success());
    let log = std::fs::read_to_string(shim.dir.join("access.log")).unwrap();
    let reported: Vec<_> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["pull"].as_str().unwrap_or("").to_owned())
        .collect();
    assert_eq!(reported, ["", "shield", "retry", "probe", "retry", ""]);
}

// ---- forged identities ----------------------------------------------------------------------------------------------

const SECRETS: [&str; 3] = ["3f9c-fastly-new", "3f9c-fastly-old", "77aa-bunny"];
const G2O_KEY: &str = "a-g2o-key";

/// Configures providers with secrets, G2O and address lists. No address list contains the address of the test.
fn with_proofs(origin: &Origin, doubt: &str) -> Config {
    Shim::config(origin.url()).with(&format!(
        r#"
        [server]
        workers = 2
        [identity]
        unknown = "{doubt}"
        unverified = "{doubt}"
        [[provider]]
        name = "fastly"
        verify.secret = {{ header = "X-Origin-Secret", values = ["{}", "{}"] }}
        [[provider]]
        name = "akamai"
        verify.g2o = {{ keys = {{ n1 = "{G2O_KEY}", n2 = "another-key" }}, versions = [1, 2, 3, 4, 5] }}
        [[provider]]
        name = "cloudflare"
        verify.addresses = ["198.51.100.0/24", "2001:db8::/32"]
        [[provider]]
        name = "bunny"
        [provider.verify]
        require = "all"
        secret = {{ header = "X-Bunny-Secret", values = ["{}"] }}
        addresses = ["203.0.113.0/24"]
        "#,
        SECRETS[0], SECRETS[1], SECRETS[2],
    ))
}

/// Returns the number of pulls of a provider, with any status.
fn pulls(metrics: &Metrics, provider: &str) -> usize {
    // The sum of no series is -0.0, and adding 0.0 makes it 0.0.
    let counted = metrics.sum("edgeshim_pulls_total", &[("provider", provider)]) + 0.0;
    format!("{counted}").parse().expect("a whole number")
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Returns the values of the two G2O fields (version 5) that sign a request with this target.
fn signed(target: &str, key: &str, nonce: &str, at: u64, id: u64) -> (String, String) {
    let data = format!("5, 192.0.2.9, 198.51.100.99, {at}, {id}, {nonce}");
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap().chain_update(&data).chain_update(target);
    let mut text = [0; 64];
    let length = STANDARD.encode_slice(mac.finalize().into_bytes(), &mut text).unwrap();
    (data, String::from_utf8(text[..length].to_vec()).unwrap())
}

/// Makes requests that falsely claim to be from a CDN.
struct Forger {
    random: fastrand::Rng,
    /// The target and the signature of an Akamai pull that was accepted. An eavesdropper could record these values.
    overheard: (String, (String, String)),
}

impl Forger {
    fn choice<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.random.usize(..of.len())]
    }

    fn random_text(&mut self, most: usize) -> String {
        let length = self.random.usize(..=most);
        (0..length).map(|_| self.random.alphanumeric()).collect()
    }

    /// Returns a wrong secret. Most wrong secrets are similar to a valid secret.
    fn near_miss(&mut self) -> String {
        let secret = self.choice(&SECRETS).to_owned();
        match self.random.u8(..7) {
            0 => secret[..secret.len() - 1].to_owned(),
            1 => format!("{secret}x"),
            2 => secret.to_ascii_uppercase(),
            3 => format!("{secret}, {secret}"),
            4 => format!("\"{secret}\""),
            5 => String::new(),
            _ => self.random_text(40),
        }
    }

    fn address(&mut self) -> String {
        let byte = self.random.u8(..);
        match self.random.u8(..5) {
            0 => format!("198.51.100.{byte}"),
            1 => format!("203.0.113.{byte}:443"),
            2 => format!("[2001:db8::{byte:x}]"),
            3 => format!("{byte}.{byte}.1.1, 198.51.100.{byte}"),
            _ => self.random_text(20),
        }
    }

    fn g2o(&mut self, target: &str) -> (String, (String, String)) {
        let (now, id) = (now_seconds(), self.random.u64(..));
        let target = target.to_owned();
        match self.random.u8(..7) {
            // The forger replays an accepted signature, with the signed target (0) or with another target (1).
            0 => self.overheard.clone(),
            1 => (target, self.overheard.1.clone()),
            2 => (target.clone(), signed(&target, "a-guessed-key", "n1", now, id)),
            3 => (target.clone(), signed(&target, G2O_KEY, "n2", now, id)),
            4 => (target.clone(), signed(&target, G2O_KEY, "unknown", now, id)),
            5 => {
                let (early, late) = (now - 60 - self.random.u64(..1_000_000), now + 60 + self.random.u64(..1_000_000));
                let at = if self.random.bool() { early } else { late };
                (target.clone(), signed(&target, G2O_KEY, "n1", at, id))
            }
            _ => (target, (self.random_text(60), self.random_text(44))),
        }
    }

    fn request(&mut self) -> String {
        let mut target = format!("/{}?{}", self.random_text(8), self.random_text(8));
        let mut fields = String::new();
        let mut field = |name: &str, value: &str| {
            fields.push_str(name);
            fields.push_str(": ");
            fields.push_str(value);
            fields.push_str("\r\n");
        };
        // Each request has signals of a provider that requires a proof. Half of the requests also have the identity
        // header.
        let claimed = self.choice(&["fastly", "akamai", "cloudflare", "bunny"]);
        if self.random.bool() {
            let name = self.choice(&["X-CDN-Provider", "x-cdn-provider", "X-CDN-PROVIDER"]);
            let value = match self.random.u8(..4) {
                0 => claimed.to_ascii_uppercase(),
                1 => self.random_text(12),
                _ => claimed.to_owned(),
            };
            field(name, &value);
            if self.random.u8(..8) == 0 {
                field("X-CDN-Provider", self.choice(&["fastly", "none", "unverified", "gcore"]));
            }
        }
        match claimed {
            "fastly" => field("Fastly-FF", &format!("{}!LHR!cache-lhr1", self.random_text(20))),
            "akamai" => field("X-Akamai-CONFIG-LOG-DETAIL", "true"),
            "cloudflare" => field("CF-Ray", &format!("{}-FRA", self.random_text(16))),
            _ => field("Via", "BunnyCDN"),
        }
        for _ in 0..self.random.u8(1..4) {
            let address = self.address();
            let name = self.choice(&[
                "X-Forwarded-For",
                "Forwarded",
                "X-Real-IP",
                "True-Client-IP",
                "CF-Connecting-IP",
                "Fastly-Client-IP",
            ]);
            field(name, &if name == "Forwarded" { format!("for=\"{address}\"") } else { address });
        }
        for name in ["X-Origin-Secret", "X-Bunny-Secret"] {
            // bunny requires a secret and an address. Half of the requests have the valid secret, but no request has a
            // valid address.
            if self.random.bool() {
                let value = if name == "X-Bunny-Secret" { SECRETS[2].to_owned() } else { self.near_miss() };
                field(name, &value);
            }
        }
        if self.random.bool() {
            let (for_target, (data, sign)) = self.g2o(&target);
            target = for_target;
            field("X-Akamai-G2O-Auth-Data", &data);
            field("X-Akamai-G2O-Auth-Sign", &sign);
        }
        if self.random.u8(..8) == 0 {
            let (name, value) =
                (self.choice(&["X_CDN_Provider", "X_Origin_Secret", "X_Forwarded-For"]), self.random_text(8));
            field(name, &value);
        }
        if self.random.u8(..6) == 0 {
            field("Connection", self.choice(&["X-CDN-Provider", "X-Origin-Secret, keep-alive", "X-Forwarded-For"]));
        }
        format!("GET {target} HTTP/1.1\r\nHost: shim.test\r\n{fields}\r\n")
    }
}

/// Sends `count` forged requests on one connection, in batches. Returns the number of responses by status.
fn forge(shim: &Shim, overheard: &(String, (String, String)), count: usize, seed: u64) -> BTreeMap<u16, usize> {
    const AT_ONCE: usize = 50;
    let mut forger = Forger { random: fastrand::Rng::with_seed(seed), overheard: overheard.clone() };
    let mut client = Raw::connect(shim.addr).patient(PATIENCE * 4);
    let mut statuses = BTreeMap::new();
    for _ in 0..count / AT_ONCE {
        client.send((0..AT_ONCE).map(|_| forger.request()).collect::<String>());
        for _ in 0..AT_ONCE {
            let response = client.response().unwrap_or_else(|why| panic!("no response arrived: {why:?}"));
            *statuses.entry(response.status).or_default() += 1;
        }
    }
    statuses
}

#[test]
fn forged_identity_when_sent_100_000_times_then_never_accepted() {
    const CLIENTS: u64 = 4;
    const EACH: usize = 12_500;
    let wrong: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&wrong);
    let served: Arc<AtomicUsize> = Arc::default();
    let counted = Arc::clone(&served);
    let origin = Origin::start(move |request, conn| {
        counted.fetch_add(1, Ordering::Relaxed);
        let is_forged = |(name, value): &(String, String)| {
            // A CGI origin cannot distinguish an underscore from a hyphen in a field name.
            let name = name.to_ascii_lowercase().replace('_', "-");
            name == "x-cdn-provider"
                || name.contains("secret")
                || name.contains("g2o")
                || SECRETS.iter().any(|secret| value.contains(secret))
                || (name == "x-forwarded-for" && value != "127.0.0.1")
        };
        for forged in request.fields.iter().filter(|field| is_forged(field)) {
            noted.lock().unwrap().push(format!("{forged:?} reached the origin"));
        }
        origin::respond(request, conn, 200, &[], b"fine")
    });
    for (doubt, status) in [("count", 200), ("reject", 403)] {
        let shim = Shim::start(with_proofs(&origin, doubt));
        // The shim accepts a genuine pull of Akamai. The forger then uses the signature of this pull.
        let (target, signature) = ("/overheard".to_owned(), signed("/overheard", G2O_KEY, "n1", now_seconds(), 1));
        let fields = [
            ("X-CDN-Provider", "akamai"),
            ("X-Akamai-G2O-Auth-Data", signature.0.as_str()),
            ("X-Akamai-G2O-Auth-Sign", signature.1.as_str()),
        ];
        wrong.lock().unwrap().clear();
        assert_eq!(fetch(shim.addr, &target, &fields).status, 200);
        let reported = std::mem::take(&mut *wrong.lock().unwrap());
        assert!(
            reported.len() == 2
                && reported.iter().any(|field| field.contains(r#"("x-cdn-provider", "akamai")"#))
                && reported.iter().any(|field| field.contains("198.51.100.99, 127.0.0.1")),
            "the genuine pull must reach the origin as Akamai's, with the client address of its signature: {reported:?}"
        );
        let before = shim.wait_metrics(|metrics| pulls(metrics, "akamai") == 1);
        let (series, seen) = (before.series_count(), served.load(Ordering::Relaxed));

        let overheard = (target, signature);
        let statuses = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|seed| {
                    scope.spawn({
                        let (shim, overheard) = (&shim, &overheard);
                        move || forge(shim, overheard, EACH, seed)
                    })
                })
                .collect();
            clients.into_iter().flat_map(|client| client.join().unwrap()).fold(
                BTreeMap::<u16, usize>::new(),
                |mut all, (status, count)| {
                    *all.entry(status).or_default() += count;
                    all
                },
            )
        });
        let total = EACH * usize::try_from(CLIENTS).unwrap();
        assert_eq!(statuses, BTreeMap::from([(status, total)]), "{doubt}");
        assert_eq!(wrong.lock().unwrap().first(), None, "{doubt}");
        let reached = if doubt == "count" { total } else { 0 };
        assert_eq!(served.load(Ordering::Relaxed) - seen, reached, "{doubt}");
        let after = shim.wait_metrics(|metrics| {
            let doubted = ["unverified", "other"].map(|label| pulls(metrics, label));
            doubted.into_iter().sum::<usize>() == total
        });
        // The refusals create series with the code 403. Clients cannot choose this value, so these series are allowed.
        // The forged requests must create no other series.
        let codes =
            after.series.iter().filter(|series| series.labels.contains(&("code".to_owned(), "403".to_owned()))).count();
        assert_eq!(after.series_count() - codes, series, "{doubt}");
        for name in ["fastly", "cloudflare", "bunny"] {
            assert_eq!(pulls(&after, name), 0, "{doubt} {name}");
        }
        assert_eq!(pulls(&after, "akamai"), 1, "{doubt}");
        let config = fetch(shim.admin, "/config", &[]).text();
        let spoken = [config, shim.stderr(), shim.stdout()];
        for secret in SECRETS.iter().chain([&G2O_KEY, &"another-key"]) {
            assert!(spoken.iter().all(|text| !text.contains(secret)), "the secret {secret} was printed: {spoken:?}");
        }
        origin.forget();
    }
}

/// Returns the names of the trailers in lower case.
fn trailers_of(request: &support::Request) -> Vec<String> {
    request.trailers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect()
}

#[test]
fn identity_fields_when_sent_as_trailers_then_not_forwarded() {
    const NAMES: [&str; 7] = [
        "X-CDN-Provider",
        "X-Origin-Secret",
        "X-Akamai-G2O-Auth-Data",
        "X-Forwarded-For",
        "Forwarded",
        "X-Bunny-Secret",
        "Via",
    ];
    let origin = Origin::start(origin::fixed(200, &[], b"fine"));
    let shim = Shim::start(with_proofs(&origin, "count"));
    for others in ["", "X-Sum"] {
        let names: Vec<_> = NAMES.into_iter().chain([others]).filter(|name| !name.is_empty()).collect();
        let trailers: String = names.iter().map(|name| [*name, ": 6.6.6.6\r\n"].concat()).collect();
        let head = format!("POST / HTTP/1.1\r\nHost: shim.test\r\nTrailer: {}\r\n", names.join(", "));
        let response =
            exchange(shim.addr, format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n{trailers}\r\n"));
        assert_eq!(response.status, 200);
        let seen = origin.requests().pop().expect("a request");
        assert_eq!((seen.body.as_slice(), seen.complete), (&b"abc"[..], true));
        let left: Vec<_> = [others.to_ascii_lowercase()].into_iter().filter(|name| !name.is_empty()).collect();
        assert_eq!(trailers_of(&seen), left);
    }
}

#[test]
fn request_when_all_trailers_are_removed_then_reaches_http2_origin_complete() {
    let origin = Origin::start(origin::fixed(200, &[], b"fine"));
    let inner = Shim::start(Shim::config(origin.url()));
    let outer = Shim::start(Shim::config(format!("http://{}", inner.addr)).with("[origin]\nhttp2 = true"));
    let request = "POST / HTTP/1.1\r\nHost: shim.test\r\nTrailer: X-CDN-Provider\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n0\r\nX-CDN-Provider: fastly\r\n\r\n";
    assert_eq!(exchange(outer.addr, request).status, 200);
    assert_eq!(origin.requests().pop().expect("a request").body, b"abc");
}

// ---- address lists --------------------------------------------------------------------------------------------------

/// Sends a pull with `address` in X-Forwarded-For, as a trusted proxy does, and returns the status of the response.
fn pull_from(client: &mut Raw, address: &str) -> u16 {
    client.send(format!(
        "GET / HTTP/1.1\r\nHost: shim.test\r\nX-CDN-Provider: fastly\r\nX-Forwarded-For: {address}\r\n\r\n"
    ));
    client.response().unwrap_or_else(|why| panic!("no response arrived: {why:?}")).status
}

#[test]
fn address_list_when_replaced_under_load_then_every_decision_is_correct() {
    const ALWAYS: &str = "198.51.100.7";
    // The first list has the first of these addresses. Each later list has the address that the previous list lacked.
    const IN_TURN: [&str; 2] = ["192.0.2.1", "203.0.113.1"];
    let list = |listed: &str| {
        format!("{{\"addresses\":[\"198.51.100.0/24\",\"{listed}/32\"],\"ipv6_addresses\":[\"2001:db8::/32\"]}}")
    };
    let origin = Origin::start(origin::fixed(200, &[], b"fine"));
    let folder = support::temp_dir();
    folder.write("ranges.json", list(IN_TURN[0]));
    let config = Shim::config(origin.url()).with(
        r#"
        [server]
        workers = 2
        trusted_proxies = ["127.0.0.1"]
        [identity]
        unverified = "reject"
        [[provider]]
        name = "fastly"
        verify.addresses = ["file:ranges.json"]
        "#,
    );
    let shim = Shim::start_in(folder, config);
    let done = AtomicBool::new(false);
    let pulls = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = Raw::connect(shim.addr);
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(pull_from(&mut client, ALWAYS), 200, "the status of a pull from a listed address");
                    pulls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // The drop of this value ends the load, even if an assertion below fails.
        let ended = EndsLoad(&done);
        let mut client = Raw::connect(shim.addr);
        for turn in 1..=4 {
            let (new, old) = (IN_TURN[turn % 2], IN_TURN[(turn + 1) % 2]);
            assert_eq!(
                (pull_from(&mut client, old), pull_from(&mut client, new)),
                (200, 403),
                "the statuses before list {turn} is written"
            );
            // A rename replaces the old file by the new file. So the shim never reads an incomplete list.
            let written = shim.dir.write("ranges.json.new", list(new));
            std::fs::rename(written, shim.dir.join("ranges.json")).unwrap();
            assert!(
                support::wait_until(PATIENCE, || pull_from(&mut client, new) == 200),
                "the shim does not load list {turn}"
            );
            for _ in 0..100 {
                assert_eq!(
                    pull_from(&mut client, old),
                    403,
                    "the status of a pull from an address that list {turn} lacks"
                );
            }
        }
        // If a new list is unusable, the shim logs a warning and continues to use the previous list.
        for (broken, message) in [
            ("{\"addresses\":[\"198.51.100.0/24\",\"nonsense\"]}", "entry 2"),
            ("{\"addresses\":[", "ranges.json"),
            ("", "ranges.json"),
            ("0.0.0.0/0\n", "line 1"),
        ] {
            let warned = shim.stderr().lines().count();
            shim.dir.write("ranges.json", broken);
            assert!(
                support::wait_until(PATIENCE, || shim.stderr().lines().count() > warned),
                "the shim does not log a warning about {broken:?}"
            );
            let warning = shim.stderr().lines().nth(warned).unwrap_or_default().to_owned();
            assert!(warning.contains(message) && warning.contains("stays in"), "{warning}");
            assert_eq!((pull_from(&mut client, IN_TURN[0]), pull_from(&mut client, IN_TURN[1])), (200, 403));
        }
        shim.dir.write("ranges.json", list(IN_TURN[1]));
        assert!(
            support::wait_until(PATIENCE, || pull_from(&mut client, IN_TURN[1]) == 200),
            "the shim does not load a valid list after the invalid lists"
        );
        drop(ended);
    });
    let pulls = pulls.into_inner();
    assert!(pulls > 1_000, "the load had only {pulls} pulls");
    let age = shim.metrics().value("edgeshim_ranges_age_seconds", &[("provider", "fastly")]);
    assert!((0.0..60.0).contains(&age), "{age}");
}

/// Ends the load when this value is dropped.
struct EndsLoad<'a>(&'a AtomicBool);

impl Drop for EndsLoad<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
