//! Tests of the configuration. They check the sample files, and the error messages for mistakes.

mod support;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgeshim::internals::config::{self, AddressSource, LogFormat, Settings, Target};
use edgeshim::internals::{CacheMode, Require, Secret};
use http::HeaderName;
use proptest::prelude::*;
use support::tls_origin::{Authority, Identity, Valid};

const REFERENCE: &str = include_str!("../config/edgeshim.toml");
const ETSY: &str = include_str!("../config/etsy.toml");

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn problems_of(text: &str) -> Vec<String> {
    match config::parse(text, "edgeshim.toml", &folder()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.to_string().lines().map(str::to_owned).collect(),
    }
}

/// Returns the reference file, with its examples uncommented.
fn uncommented() -> String {
    REFERENCE
        .lines()
        .map(|line| line.strip_prefix("#: ").unwrap_or(line))
        .fold(String::new(), |text, line| text + line + "\n")
}

/// Returns the reference file with its examples uncommented, and a folder with the files that the examples name. A
/// placeholder with the name of the environment variable replaces each secret, because a test cannot set environment
/// variables of its process. `examples_when_environment_variables_are_set_then_check_passes` reads the secrets from
/// environment variables.
fn examples() -> (support::TempDir, String) {
    let folder = support::temp_dir();
    write_files(&folder);
    (folder, uncommented().replace("\"env:", "\"SECRET-"))
}

/// Writes the files that the examples name: address lists, certificates, keys and CAs.
fn write_files(folder: &support::TempDir) {
    for list in lists() {
        folder.write(&list, RANGES);
    }
    let authority = Authority::new("authority");
    for ca in ["tls/client-ca.pem", "tls/cdn-ca.pem"] {
        folder.write(ca, authority.pem());
    }
    for (name, certificate, key) in
        [("www.test", "tls/cert.pem", "tls/key.pem"), ("img.test", "tls/img-cert.pem", "tls/img-key.pem")]
    {
        write_pair(folder, &authority.issue(&[name], Valid::Now), certificate, key);
    }
}

fn write_pair(folder: &support::TempDir, pair: &Identity, certificate: &str, key: &str) {
    folder.write(certificate, &pair.certificate);
    folder.write(key, &pair.key);
}

/// An address list in Fastly's format, which the tests use for every CDN.
const RANGES: &str = r#"{"addresses":["192.0.2.0/24"],"ipv6_addresses":["2001:db8::/32"]}"#;

/// Returns the file names of the address lists in the examples.
fn lists() -> Vec<String> {
    quoted_after("\"file:")
}

/// Returns each text in the examples that follows a prefix, up to the closing quote.
fn quoted_after(prefix: &str) -> Vec<String> {
    let live = REFERENCE.lines().filter_map(|line| line.strip_prefix("#: "));
    live.flat_map(|line| line.split(prefix).skip(1))
        .filter_map(|rest| rest.split('"').next().map(str::to_owned))
        .collect()
}

/// Replaces the secrets of all providers and experiments by `***`, as `/config` does.
fn starred(mut settings: Settings) -> Settings {
    let tokens = settings.providers.iter_mut().filter_map(|provider| provider.edge_log_token.as_mut());
    tokens.for_each(|token| *token = Secret::new("***"));
    let overrides = settings.experiments.iter_mut().filter_map(|experiment| experiment.override_secret.as_mut());
    overrides.for_each(|secret| *secret = Secret::new("***"));
    for verify in settings.providers.iter_mut().filter_map(|provider| provider.verify.as_mut()) {
        let field = verify.secret.iter_mut().flat_map(|secret| &mut secret.values);
        let keys = verify.g2o.iter_mut().flat_map(|g2o| g2o.keys.values_mut());
        for secret in field.chain(keys) {
            *secret = Secret::new("***");
        }
    }
    settings
}

#[test]
fn reference_file_when_read_then_equals_the_default_settings() {
    let path = folder().join("edgeshim.toml");
    assert_eq!(config::load(&path).map_err(|problems| problems.to_string()), Ok(Settings::default()));
}

#[test]
fn reference_file_when_read_then_contains_every_key_of_the_effective_config() {
    let reference: toml::Table = REFERENCE.parse().expect("valid TOML");
    let effective = Settings::default().effective_json();
    for (block, keys) in effective.as_object().expect("an object") {
        // By default there is no `[[provider]]`, no `[[class]]` and no `[[experiment]]`.
        if ["provider", "class", "experiment"].contains(&block.as_str()) {
            assert_eq!(keys.as_array().map(Vec::len), Some(0));
            continue;
        }
        for key in keys.as_object().expect("a block").keys() {
            assert!(reference[block].get(key).is_some(), "the reference file has no {block}.{key}");
        }
    }
}

#[test]
fn examples_when_uncommented_then_valid() {
    let (folder, text) = examples();
    let settings = config::parse(&text, "edgeshim.toml", &folder)
        .map_err(|problems| problems.to_string())
        .expect("a valid configuration");
    assert_eq!(
        settings.providers.iter().map(|p| (&*p.name, p.preset)).collect::<Vec<_>>(),
        [
            ("fastly", "fastly"),
            ("akamai", "akamai"),
            ("azure", "azure"),
            ("keycdn", "keycdn"),
            ("cloudfront", "cloudfront"),
            ("video-cdn", "rfc9213"),
            ("fastly-video", "fastly"),
            ("cloudflare", "cloudflare")
        ]
    );
    // The settings must contain the values of the examples for the proofs `addresses`, `secret` and `g2o`.
    let proofs = |name: &str| {
        let provider = settings.providers.iter().find(|provider| provider.name == name).expect("an example");
        provider.verify.as_ref().expect("proofs")
    };
    let fastly = proofs("fastly");
    assert_eq!(fastly.require, Require::All);
    assert_eq!(
        fastly.addresses,
        [
            AddressSource::Network("151.101.0.0/16".parse().expect("a network")),
            AddressSource::File(folder.join("ranges/fastly.json"))
        ]
    );
    let secret = fastly.secret.as_ref().expect("a secret");
    assert_eq!((secret.field.as_str(), secret.values.len()), ("x-origin-secret", 2));
    assert!(secret.values[0].matches(b"SECRET-FASTLY_SECRET"));
    let g2o = proofs("akamai").g2o.as_ref().expect("keys");
    assert!(g2o.keys["nonce1"].matches(b"SECRET-G2O_KEY") && g2o.versions == [5]);
    assert_eq!(settings.providers[4].tag_header.as_ref().map(HeaderName::as_str), Some("x-cache-tag"));
    assert_eq!(settings.classes.iter().map(|class| &*class.name).collect::<Vec<_>>(), ["image", "html", "account"]);
    let [experiment] = settings.experiments.as_slice() else { panic!("one experiment: {:?}", settings.experiments) };
    assert!(
        experiment.enabled && experiment.override_secret.as_ref().is_some_and(|s| s.matches(b"SECRET-ASSIGN_SECRET"))
    );
    assert_eq!((experiment.arms.len(), experiment.hosts.len(), experiment.classes.len()), (2, 2, 1));
    let certificate = proofs("cloudflare").client_cert.as_ref().expect("a rule for certificates");
    assert_eq!(certificate.san, ["*.cdn.example"]);
    let ca = proofs("cloudflare").client_cert_ca.as_ref().expect("a file with CAs");
    assert_eq!((ca.typed.as_str(), &ca.path), ("tls/cdn-ca.pem", &folder.join("tls/cdn-ca.pem")));
    let tls = settings.server.tls.as_ref().expect("[server.tls]");
    assert_eq!((tls.listen.len(), tls.files.more.len(), tls.files.client_ca.is_some()), (1, 1, true));
    // All other settings in the examples must equal the default settings.
    let mut rest = Settings { providers: Vec::new(), classes: Vec::new(), experiments: Vec::new(), ..settings };
    rest.server.tls = None;
    assert_eq!(rest, Settings::default());
}

#[test]
fn examples_when_environment_variables_are_set_then_check_passes() {
    let folder = support::temp_dir();
    let file = folder.write("edgeshim.toml", uncommented());
    let mut command = support::shim::binary();
    command.arg("check").arg("--config").arg(&file);
    let variables = quoted_after("\"env:");
    assert!(variables.len() > 4, "{variables:?}");
    let output = command.output().expect("the edgeshim binary starts");
    let problems_of = String::from_utf8_lossy(&output.stdout).into_owned();
    let certificates = ["tls/cert.pem", "tls/img-cert.pem", "tls/client-ca.pem", "tls/cdn-ca.pem"].map(str::to_owned);
    for missing in variables.iter().chain(&lists()).chain(&certificates) {
        assert!(problems_of.contains(missing), "check does not report that {missing} is missing: {problems_of}");
    }

    write_files(&folder);
    // Each secret needs a different value.
    command.envs(variables.iter().enumerate().map(|(index, name)| (name, format!("{index:032x}"))));
    let output = command.output().expect("the edgeshim binary starts");
    let problems_of = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && problems_of.trim_end().ends_with("edgeshim.toml: fine"), "{problems_of}");
    assert!(!problems_of.contains("00000000"), "{problems_of}");
}

/// A folder with these files: a valid pair (`cert.pem`, `key.pem`), an expired pair (`old.pem`, `old-key.pem`), a CA
/// (`ca.pem`), an empty file (`empty.pem`) and a file whose PEM is broken (`broken.pem`).
fn tls_folder() -> support::TempDir {
    let folder = support::temp_dir();
    let authority = Authority::new("authority");
    let valid = authority.issue(&["www.test"], Valid::Now);
    write_pair(&folder, &valid, "cert.pem", "key.pem");
    write_pair(&folder, &authority.issue(&["www.test"], Valid::Until9DaysAgo), "old.pem", "old-key.pem");
    folder.write("ca.pem", authority.pem());
    folder.write("empty.pem", "");
    folder.write("broken.pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    folder
}

#[test]
fn tls_keys_when_invalid_then_message_says_what_to_write() {
    let folder = tls_folder();
    let problems_of = |text: &str| match config::parse(text, "edgeshim.toml", &folder) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.to_string().lines().map(str::to_owned).collect::<Vec<_>>(),
    };
    let good = "listen = [\"127.0.0.1:8443\"]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"";
    for (text, expected) in [
        ("certificate = \"cert.pem\"\nkey = \"key.pem\"", "server.tls.listen: is missing; write the addresses"),
        (
            "listen = []\ncertificate = \"cert.pem\"\nkey = \"key.pem\"",
            "server.tls.listen: [] is empty; write at least",
        ),
        (&good.replace("127.0.0.1:8443", "unix:tls.sock"), "server.tls.listen[0]: \"unix:tls.sock\" is a unix socket"),
        (&good.replace("8443", "8080"), "server.tls.listen[0]: \"127.0.0.1:8080\" is the address of another listener"),
        (
            &good.replace("[\"127.0.0.1:8443\"]", "[\"127.0.0.1:8443\", \"127.0.0.1:8443\"]"),
            "server.tls.listen[1]: \"127.0.0.1:8443\" is the address of another listener",
        ),
        (&good.replace("\"key.pem\"", "\"\""), "server.tls.key: \"\" is empty; write key = \"tls/key.pem\""),
        (&good.replace("\ncertificate = \"cert.pem\"", ""), "server.tls.certificate: is missing; write certificate ="),
        (&good.replace("cert.pem", "none.pem"), "server.tls.certificate: \"none.pem\" cannot be read (No such file"),
        (&good.replace("key.pem", "old-key.pem"), "server.tls.key: \"old-key.pem\" is not the key of the certificate"),
        (&good.replace("key.pem", "empty.pem"), "server.tls.key: \"empty.pem\" contains no private key; name a PEM"),
        (&good.replace("cert.pem", "broken.pem"), "server.tls.certificate: \"broken.pem\" is not a valid PEM file"),
        (&good.replace("cert.pem", "empty.pem"), "server.tls.certificate: \"empty.pem\" contains no certificate"),
        (&format!("{good}\nclient_ca = \"empty.pem\""), "server.tls.client_ca: \"empty.pem\" contains no certificate"),
        (&format!("{good}\nclient_ca = \"none.pem\""), "server.tls.client_ca: \"none.pem\" cannot be read (No such"),
        (
            &format!("{good}\nmore = [{{ certificate = \"old.pem\", key = \"key.pem\" }}]"),
            "server.tls.more[0].key: \"key.pem\" is not the key of the certificate",
        ),
        (
            &format!("{good}\nmore = [{{ certificate = \"cert.pem\" }}]"),
            "server.tls.more[0].key: is missing; write key = \"tls/key.pem\"",
        ),
    ] {
        let problems = problems_of(&format!("[server.tls]\n{text}"));
        assert!(problems.len() == 1 && problems[0].contains(expected), "{text}: {problems:#?}");
    }
    // HTTPS needs no listener without TLS.
    assert_eq!(problems_of(&format!("[server]\nlisten = []\n[server.tls]\n{good}")), [""; 0]);
}

#[test]
fn client_cert_when_invalid_then_message_says_what_to_write() {
    let folder = tls_folder();
    folder.write("other-ca.pem", Authority::new("other").pem());
    let tls = "[server.tls]\nlisten = [\"127.0.0.1:8443\"]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";
    let with_ca = &format!("{tls}client_ca = \"ca.pem\"\n");
    let trusting = "[server]\ntrusted_proxies = [\"10.0.0.0/8\"]\n";
    let problems_of = |text: &str, rule: &str| {
        let text = format!("{text}[[provider]]\nname = \"fastly\"\n[provider.verify]\nclient_cert = {{ {rule} }}");
        match config::parse(&text, "edgeshim.toml", &folder) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.to_string().lines().map(str::to_owned).collect::<Vec<_>>(),
        }
    };
    let san = "san = [\"*.cdn.example\"]";
    for (text, rule, expected) in [
        ("", san, "needs server.tls.client_ca"),
        (tls, san, "needs server.tls.client_ca"),
        (with_ca, "", "names no certificate; write san ="),
        (with_ca, "ca = \"other-ca.pem\"", "\"other-ca.pem\" has a CA that is not in server.tls.client_ca"),
        (with_ca, "ca = \"none.pem\"", "\"none.pem\" cannot be read"),
        ("", "san = [\"a.example\"], field = \"Client-Cert\"", "proves nothing while server.trusted_proxies is empty"),
        (
            trusting,
            "san = [\"a.example\"], field = \"X-Cert\"",
            "is not a field that edgeshim can read; write \"Client-Cert",
        ),
        (
            trusting,
            "ca = \"ca.pem\", field = \"Client-Cert\"",
            "edgeshim reads no certificate chain from a header field",
        ),
    ] {
        let problems = problems_of(text, rule);
        assert!(problems.len() == 1 && problems[0].contains(expected), "{text}{rule}: {problems:#?}");
    }
    for (text, rule) in [
        (&with_ca[..], san),
        (with_ca, "ca = \"ca.pem\""),
        (trusting, "san = [\"a.example\"], field = \"Client-Cert\""),
    ] {
        assert_eq!(problems_of(text, rule), [""; 0], "{text}{rule}");
    }
}

#[test]
fn certificate_when_expired_then_check_warns_and_passes() {
    let folder = tls_folder();
    let text = "[server.tls]\nlisten = [\"127.0.0.1:8443\"]\ncertificate = \"old.pem\"\nkey = \"old-key.pem\"";
    let file = folder.write("edgeshim.toml", text);
    let (code, stdout, _) = support::shim::run(&["check", "--config", &file.to_string_lossy()]);
    assert_eq!(code, 0, "{stdout}");
    assert!(stdout.contains("warning: server.tls.certificate: \"old.pem\" expired on "), "{stdout}");
    assert!(stdout.trim_end().ends_with("edgeshim.toml: fine"), "{stdout}");
}

#[test]
fn edge_log_keys_when_invalid_then_message_says_what_to_write() {
    for (text, expected) in [
        ("[edge_logs]\ntoken = \"env:EDGESHIM_UNSET\"", "edge_logs.token"),
        ("[edge_logs]\npath = \"logs\"", "edge_logs.path: \"logs\" is not a path; write a path"),
        ("[edge_logs]\nmax_body = \"many\"", "edge_logs.max_body"),
        (
            "[[provider]]\nname = \"a\"\nedge_log_fields = { statsu = \"x\" }",
            "is not a log field that edgeshim reads (did you mean \"status\"?); write one of time, url, status",
        ),
        (
            "[[provider]]\nname = \"a\"\nedge_log_fields = { status = 0 }",
            "is out of range; write a number from 1 to 1000",
        ),
        (
            "[[provider]]\nname = \"a\"\nedge_log_fields = { status = \"\" }",
            "is not a field name; write the name in the CDN's log",
        ),
        ("[[provider]]\nname = \"a\"\nedge_log_fields = { status = [1] }", "where a text in quotes belongs"),
        ("[[provider]]\nname = \"a\"\nedge_log_sampling = 0", "is out of range; write a number from 1 to 1000000"),
    ] {
        let problems_of = problems_of(text);
        assert!(problems_of.len() == 1 && problems_of[0].contains(expected), "{text}: {problems_of:?}");
    }
}

#[test]
fn smoke_token_when_short_or_missing_then_message_says_what_to_write() {
    for (token, expected) in [
        ("too-short", "is shorter than 16 bytes, so it could be guessed; write a longer token"),
        ("env:EDGESHIM_UNSET", "names an environment variable that is not set"),
    ] {
        let problems_of = problems_of(&format!("[smoke]\ntoken = \"{token}\""));
        assert!(
            problems_of.len() == 1
                && problems_of[0].contains("smoke.token")
                && problems_of[0].contains(expected)
                && !problems_of[0].contains("too-short"),
            "{problems_of:?}"
        );
    }
    assert_eq!(problems_of("[smoke]\ntoken = \"0123456789abcdef\""), [""; 0]);
}

#[test]
fn max_waiting_when_max_in_flight_is_absent_or_zero_then_rejected() {
    for text in ["max_waiting = 5", "max_in_flight = 0\nmax_waiting = 5"] {
        let problems_of = problems_of(&format!("[origin]\n{text}"));
        assert!(
            problems_of.len() == 1 && problems_of[0].contains("origin.max_waiting: 5 lets requests wait"),
            "{problems_of:?}"
        );
    }
    for text in ["max_in_flight = 16", "max_in_flight = 16\nmax_waiting = 200"] {
        assert_eq!(problems_of(&format!("[origin]\n{text}")), [""; 0]);
    }
    // An invalid limit must cause one message, not two.
    assert_eq!(problems_of("[origin]\nmax_in_flight = \"16\"\nmax_waiting = 200").len(), 1);
}

#[test]
fn etsy_file_when_read_then_has_classes_providers_and_log() {
    let settings = config::load(&folder().join("etsy.toml"))
        .map_err(|problems| problems.to_string())
        .expect("a valid configuration");
    assert_eq!(
        settings.providers.iter().map(|p| (&*p.name, p.preset)).collect::<Vec<_>>(),
        [("akamai", "akamai"), ("edgecast", "edgecast"), ("fastly", "fastly")]
    );
    let mut names: Vec<&str> = settings.classes.iter().map(|class| &*class.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["html", "image", "static"]);
    let long_lived: HashSet<&str> = settings
        .classes
        .iter()
        .filter(|class| class.cache.mode == CacheMode::Override && class.cache.ttl == Some(94_670_800))
        .flat_map(|class| class.path.iter().map(|glob| &**glob))
        .collect();
    for glob in ["*.gif", "*.jpg", "*.jpeg", "*.png", "*.css", "*.js"] {
        assert!(long_lived.contains(glob), "no class sets the long lifetime for {glob}");
    }
    assert_eq!(settings.origin.target, Target::Tcp { host: "127.0.0.1".to_owned(), port: 3000, tls: false });
    assert_eq!(settings.beacon.path, "/status/images/beacon.gif");
    assert_eq!(settings.access_log.format, LogFormat::Etsy);
}

#[test]
fn address_file_when_invalid_then_problem_names_the_list_entry() {
    let folder = support::temp_dir();
    folder.write("good.txt", "192.0.2.0/24\n2001:db8::/32\n");
    folder.write("every-address.txt", "192.0.2.0/24\n0.0.0.0/0\n");
    folder.write("other.json", "{\"token\": \"hunter2\"}");
    folder.write("empty.txt", "# a comment\n");
    let problems_of = |list: &str| {
        let text = format!(
            "[[provider]]\nname = \"fastly\"\n[provider.verify]\naddresses = [\"file:good.txt\", \"file:{list}\"]\n"
        );
        config::parse(&text, "edgeshim.toml", &folder).map_err(|problems| problems.to_string())
    };
    let settings = problems_of("good.txt").expect("a valid configuration");
    let file = || AddressSource::File(folder.join("good.txt"));
    assert_eq!(settings.providers[0].verify.as_ref().expect("proofs").addresses, [file(), file()]);
    for (list, remedy) in [
        ("every-address.txt", "write only the networks of the CDN"),
        ("other.json", "or write one network per line"),
        ("empty.txt", "or write one network per line"),
        ("missing.txt", "name a file that this user may read"),
    ] {
        let message = problems_of(list).expect_err(list);
        let place = format!("edgeshim.toml:4: provider[0].verify.addresses[1]: \"file:{list}\" ");
        assert!(message.starts_with(&place) && message.contains(remedy), "{message}");
        assert!(message.lines().count() == 1 && !message.contains("hunter"), "{message}");
    }
}

#[test]
fn names_and_paths_when_read_then_normalized() {
    let text = "[[provider]]\nname = \"Fastly\"\n[[provider]]\nname = \"mine\"\n[server]\n\
                hosts = [\"WWW.Example.COM\"]\n\
                trusted_proxies = [\"10.0.0.1\"]\n[whoopsie]\nhosts = { \"WWW.Example.DE\" = \"de\" }\n\
                [gzip]\ntypes = [\"Text/HTML\"]\n\
                [access_log]\noutput = \"file:access.log\"\n";
    let settings = config::parse(text, "edgeshim.toml", Path::new("/etc/edgeshim")).expect("a valid configuration");
    assert_eq!((&*settings.providers[0].name, settings.providers[0].preset), ("fastly", "fastly"));
    assert_eq!((&*settings.providers[1].name, settings.providers[1].preset), ("mine", "generic"));
    assert_eq!(settings.observe.hosts, ["www.example.com"]);
    assert_eq!(settings.observe.trusted_proxies[0].to_string(), "10.0.0.1/32");
    assert_eq!(settings.pages.hosts.get("www.example.de").map(String::as_str), Some("de"));
    assert_eq!(settings.effective_json()["gzip"]["types"], serde_json::json!(["text/html"]));
    assert_eq!(settings.access_log.output, config::LogOutput::File("/etc/edgeshim/access.log".into()));
}

#[test]
fn effective_config_when_parsed_again_then_equals_the_original_settings() {
    let countries = support::temp_dir();
    let file = countries.write("geo.mmdb", support::mmdb::countries(&[("192.0.2.0/24", "DE")]));
    let intake = format!(
        "[beacon]\nsources = [\"dyn\"]\ncountry_database = {file:?}\n[rum]\npath = \"/rum\"\n\
         pages = [\"home\", \"cart\"]\n"
    );
    let own_pages = "[whoopsie]\npages = \".\"\n".to_owned();
    let odd = "[server]\nlisten = [\"[::1]:0\", \"unix:/run/e.sock\"]\nidle_timeout = \"1500ms\"\n\
               max_request_body = \"1000B\"\n\
               [origin]\nurl = \"http://[::1]:81\"\nmax_in_flight = 16\nmax_waiting = 200\n\
               stand_in = \"https://mirror.example\"\nhealth = { path = \"/healthz?a=b\", healthy_after = 1 }\n\
               [whoopsie]\nstatuses = [\"502\", \"504-506\"]\n";
    let (lists, examples) = examples();
    for (text, folder) in [
        (String::new(), folder()),
        (examples, lists.to_path_buf()),
        (ETSY.to_owned(), folder()),
        (odd.to_owned(), folder()),
        (intake, folder()),
        (own_pages, folder()),
    ] {
        let settings = config::parse(&text, "edgeshim.toml", &folder).expect("a valid configuration");
        let again = toml::to_string(&settings.effective_json()).expect("valid TOML");
        // The effective configuration hides each secret, so the test inserts another secret.
        let again = again.split("\"***\"").enumerate().fold(String::new(), |text, (index, part)| match index {
            0 => part.to_owned(),
            _ => format!("{text}\"secret-{index}\"{part}"),
        });
        let again = config::parse(&again, "effective", &folder).map_err(|problems| problems.to_string());
        assert_eq!(again.map(starred), Ok(starred(settings)));
    }
}

#[test]
fn secrets_when_settings_or_problems_are_printed_then_do_not_appear() {
    let text = "[admin]\nlisten = \"0.0.0.0:9900\"\ntoken = \"hunter2\"\n";
    let settings = config::parse(text, "edgeshim.toml", &folder()).expect("a valid configuration");
    assert!(settings.admin.token.as_ref().is_some_and(|token| token.matches(b"hunter2")));
    assert_eq!(settings.effective_json()["admin"]["token"], "***");
    for shown in [format!("{settings:?}"), settings.effective_json().to_string()] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let (folder, text) = examples();
    let settings = config::parse(&text, "edgeshim.toml", &folder).expect("a valid configuration");
    for shown in [format!("{settings:?}"), settings.effective_json().to_string()] {
        assert!(!shown.contains("SECRET-"), "{shown}");
    }
    assert_eq!(
        settings.effective_json()["provider"][0]["verify"]["secret"],
        serde_json::json!({ "header": "x-origin-secret", "values": ["***", "***"] })
    );
    assert_eq!(settings.effective_json()["provider"][1]["verify"]["g2o"]["keys"]["nonce1"], "***");
    for wrong in [
        "[admin]\ntoken = \"hunter 2\"",
        "[admin]\ntoken = [\"hunter2\"]",
        "[admin]\ntokens = \"hunter2\"",
        "[admin]\ntoken = \"hunter2",
    ] {
        let problems_of = problems_of(wrong);
        assert_eq!(problems_of.len(), 1, "{problems_of:?}");
        assert!(!problems_of[0].contains("hunter"), "{problems_of:?}");
    }
}

#[test]
fn admin_when_listening_beyond_loopback_then_requires_a_token() {
    assert_eq!(problems_of("[admin]\nlisten = \"[::1]:9900\""), [""; 0]);
    assert_eq!(problems_of("[admin]\nlisten = \"unix:/run/admin.sock\""), [""; 0]);
    for listen in ["0.0.0.0:9900", "[::]:9900", "192.0.2.1:0"] {
        let problems_of = problems_of(&format!("[admin]\nlisten = \"{listen}\""));
        assert!(problems_of.len() == 1 && problems_of[0].contains("token = \"env:ADMIN_TOKEN\""), "{problems_of:?}");
    }
    // An invalid token must cause one message, not two.
    assert_eq!(problems_of("[admin]\nlisten = \"0.0.0.0:9900\"\ntoken = \"env:EDGESHIM_UNSET\"").len(), 1);
}

#[test]
fn admin_when_address_overlaps_with_the_server_then_rejected() {
    for text in [
        "[server]\nlisten = [\"127.0.0.1:9900\"]",
        "[admin]\nlisten = \"127.0.0.1:8080\"",
        "[server]\nlisten = [\"0.0.0.0:9900\"]",
    ] {
        assert_eq!(problems_of(text).len(), 1, "{text}: {:?}", problems_of(text));
    }
}

#[test]
fn file_when_not_utf8_then_problem_names_line_and_column() {
    // The name contains the process id, so that parallel runs do not collide.
    let path = std::env::temp_dir().join(format!("edgeshim-config-test-{}.toml", std::process::id()));
    std::fs::write(&path, b"[server]\nworkers = \"\xff\"\n").expect("a temporary file");
    let problems_of = config::load(&path);
    std::fs::remove_file(&path).expect("a temporary file to remove");
    let problems_of = problems_of.expect_err("a problem, because the file is not UTF-8");
    assert_eq!(problems_of.len(), 1);
    assert!(problems_of.to_string().contains(":2:12: byte 0xff is not UTF-8"), "{problems_of}");
}

/// Each row has one mistake and the texts that the message about the mistake must contain.
#[rustfmt::skip] // one row per line
const MISTAKES: [(&str, &str, &str, &str); 42] = [
    // The block, the line with the mistake, the value in the message, and a part of what to write instead.
    ("server", "listen = [\"127.0.0.1:8080\", \"127.0.0.1:8080\"]", "\"127.0.0.1:8080\"", "another address"),
    ("server", "workers = 513", "513", "from 0 to 512"),
    ("server", "hosts = [\"*.example.com\"]", "\"*.example.com\"", "write each name"),
    ("server", "trusted_proxies = [\"10.0.0.0/33\"]", "\"10.0.0.0/33\"", "\"10.0.0.0/8\""),
    ("server", "proxy_protocol = \"v2\"", "\"v2\"", "write true or false"),
    ("server", "max_connections = 0", "0", "from 1 to"),
    ("server", "max_header_bytes = \"1KiB\"", "\"1KiB\"", "from \"4KiB\" to \"1MiB\""),
    ("server", "max_request_body = \"10MB\"", "\"10MB\"", "write \"10MiB\""),
    ("server", "header_timeout = \"10 parsecs\"", "\"10 parsecs\"", "write a whole number and a unit"),
    ("server", "body_timeout = \"0s\"", "\"0s\"", "write a duration above 0"),
    ("server", "idle_timeot = \"75s\"", "\"75s\"", "did you mean \"idle_timeout\"?"),
    ("admin", "listen = \"localhost:9900\"", "\"localhost:9900\"", "write \"127.0.0.1:9900\""),
    ("admin", "token = \"env:EDGESHIM_UNSET\"", "\"env:EDGESHIM_UNSET\"", "set \"EDGESHIM_UNSET\""),
    ("origin", "url = \"ftp://origin.example\"", "\"ftp://origin.example\"", "write http://HOST:PORT"),
    ("origin", "connect_timeout = 2", "2", "write for example \"2s\""),
    ("origin", "stand_in = \"mirror\"", "\"mirror\"", "write http://HOST:PORT"),
    ("origin", "health.path = \"healthz\"", "\"healthz\"", "for example \"/healthz\""),
    ("origin", "health.unhealthy_after = 0", "0", "from 1 to 1000"),
    ("origin", "max_waiting = 200", "200", "write max_in_flight = 100"),
    ("identity", "header = \"X CDN\"", "\"X CDN\"", "\"X-CDN-Provider\""),
    ("identity", "unknown = \"refuse\"", "\"refuse\"", "write one of \"count\", \"reject\""),
    ("gzip", "level = 10", "10", "from 1 to 9"),
    ("gzip", "types = [\"text/html; charset=utf-8\"]", "\"text/html; charset=utf-8\"", "write only the type"),
    ("whoopsie", "statuses = [\"404\"]", "\"404\"", "write \"5xx\""),
    ("whoopsie", "default_locale = \"en_GB\"", "\"en_GB\"", "write a tag such as \"en\""),
    ("whoopsie", "status_url = \"javascript:alert(1)\"", "\"javascript:alert(1)\"", "\"https://status.example.com/\""),
    ("beacon", "path = \"beacon.gif\"", "\"beacon.gif\"", "starts with one \"/\""),
    ("access_log", "output = \"stderr\"", "\"stderr\"", "write \"off\", \"stdout\" or file:PATH"),
    ("provider", "name = \"other\"", "\"other\"", "write another"),
    ("provider", "preset = \"fastley\"", "\"fastley\"", "did you mean \"fastly\"?"),
    ("provider", "tag_header = \"Cache Tag\"", "\"Cache Tag\"", "for example \"Cache-Tag\""),
    ("provider", "verify.require = \"both\"", "\"both\"", "write one of \"any\", \"all\""),
    ("provider", "verify.secret.header = \"Host\"", "***", "write a field that only your CDNs set"),
    ("provider", "verify.secret.values = [\"env:EDGESHIM_UNSET\"]", "\"env:EDGESHIM_UNSET\"", "set \"EDGESHIM_UNSET\""),
    ("provider", "verify.addresses = [\"0.0.0.0/0\"]", "\"0.0.0.0/0\"", "write the networks that the CDN pulls from"),
    ("provider", "verify.client_cert.san = [\"192.0.2.1\"]", "\"192.0.2.1\"", "for example \"*.cdn.example\""),
    ("provider", "verify.client_cert.sha256 = [\"9f86\"]", "\"9f86\"", "write 64 hexadecimal digits"),
    ("provider", "verify.g2o.keys = { \"a b\" = \"hunter2\" }", "***", "for example nonce1 = \"env:G2O_KEY\""),
    ("provider", "verify.g2o.versions = [6]", "6", "from 1 to 5"),
    ("class", "path = [\"images/*.png\"]", "\"images/*.png\"", "write \"/images/*.png\""),
    ("class", "cache = { mode = \"keep\", ttl = \"7d\" }", "\"7d\"", "write mode = \"override\" or \"default\""),
    ("class", "whoopsie = \"sometimes\"", "\"sometimes\"", "write one of \"auto\", \"always\", \"never\""),
];

#[test]
fn messages_when_file_has_many_mistakes_then_contain_line_key_value_and_remedy() {
    let mut text = String::new();
    let mut expected = Vec::new();
    let mut before = "";
    for (block, typed, value, remedy) in MISTAKES {
        if block != before {
            let header = match block {
                "class" => "[[class]]\nname = \"c\"\n".to_owned(),
                "provider" => "[[provider]]\n".to_owned(),
                other => format!("[{other}]\n"),
            };
            text += &header;
            before = block;
        }
        text += typed;
        text += "\n";
        let key = typed.split(" = ").next().expect("a key");
        expected.push((text.lines().count(), key, value, remedy));
    }
    let problems_of = problems_of(&text);
    assert_eq!(problems_of.len(), MISTAKES.len(), "{problems_of:#?}");
    for ((line, key, value, remedy), problems_of) in expected.into_iter().zip(&problems_of) {
        assert!(problems_of.starts_with(&format!("edgeshim.toml:{line}: ")), "{key} is in line {line}: {problems_of}");
        let (_, rest) = problems_of.split_once(key).unwrap_or_else(|| panic!("no key {key}: {problems_of}"));
        let (_, rest) =
            rest.split_once(&format!(": {value} ")).unwrap_or_else(|| panic!("no value {value}: {problems_of}"));
        assert!(rest.contains(remedy), "no remedy {remedy}: {problems_of}");
    }
}

#[test]
fn entries_when_several_are_invalid_then_each_entry_causes_one_problem() {
    assert_eq!(problems_of("[server]\ntrusted_proxies = [\"a\", \"10.0.0.0/8\", \"b\", 3]\n").len(), 3);
    assert_eq!(
        problems_of("provider = 3\n[[class]]\nname = \"a\"\n[[class]]\nname = \"A\"\npath = [\"*\"]\n").len(),
        3
    );
    assert_eq!(problems_of("[provider]\nname = \"fastly\"\n").len(), 1);
    assert_eq!(problems_of("nonsense = 1\n[sever]\nworkers = 1\n").len(), 2);
}

#[test]
fn drain_delay_when_written_in_milliseconds_then_read_exactly() {
    let settings = config::parse("[server]\ndrain_delay = \"250ms\"\n", "edgeshim.toml", &folder())
        .expect("a valid configuration");
    assert_eq!(settings.server.drain_delay, Duration::from_millis(250));
}

/// Returns texts for the mutation of a file: arbitrary strings and pieces of TOML, some of which are valid values.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        prop::sample::select(vec![
            "=",
            "[",
            "]",
            "[[class]]",
            "{",
            "}",
            "\"",
            "\n",
            "#",
            "'",
            "1",
            "-9",
            "true",
            "\"env:PATH\"",
            "cache.ttl = \"1s\"",
            "\"\"\"",
            "[server]",
            "mode = \"never\"",
            "\"unix:/x\"",
            "1979-05-27",
            "0xff",
            "1e9",
            "nan",
            "\"5xx\"",
            "é",
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #[test]
    fn file_when_bytes_are_arbitrary_then_parse_returns_settings_or_problems(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let text = String::from_utf8_lossy(&bytes);
        if let Err(problems) = config::parse(&text, "edgeshim.toml", &folder()) {
            prop_assert!(problems.len() > 0 && !problems.to_string().is_empty());
        }
    }

    #[test]
    fn reference_file_when_mutated_then_parse_returns_settings_or_printable_problems(
        example in any::<bool>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..40_usize, piece()), 1..4),
    ) {
        let (folder, live) = examples();
        let mut text: Vec<char> = if example { live } else { REFERENCE.to_owned() }.chars().collect();
        for (at, length, piece) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + length).min(text.len());
            text.splice(at..end, piece.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(problems) = config::parse(&text, "edgeshim.toml", &folder) {
            for problem in problems.iter() {
                prop_assert!(!problem.to_string().contains(char::is_control));
            }
        }
    }

    #[test]
    fn key_when_value_is_arbitrary_then_parse_returns_without_a_panic(key in 0..200_usize, value in piece()) {
        // The test changes the value of one key of the reference file.
        let (folder, text) = examples();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let live = |at: &usize| lines[*at].contains(" = ") && !lines[*at].starts_with('#');
        let assignments: Vec<usize> = (0..lines.len()).filter(live).collect();
        let at = assignments[key % assignments.len()];
        let name = lines[at].split(" = ").next().unwrap_or_default().to_owned();
        lines[at] = format!("{name} = {value}");
        _ = config::parse(&lines.join("\n"), "edgeshim.toml", &folder);
        lines[at] = format!("{name} = {value:?}");
        _ = config::parse(&lines.join("\n"), "edgeshim.toml", &folder);
    }
}
