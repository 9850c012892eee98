//! Tests of the response head that each CDN gets from a running shim. Each case of a preset has a golden file below
//! `tests/golden/dialects/`. The golden file contains the reason for the case, the source of the reason, the origin's
//! response, and the fields that the shim must send. Further tests here check responses that the shim makes, limits and
//! counters.
//!
//! A line in a golden file starts with one of these marks:
//!
//! - `#`: a comment. The comments contain the reason and, after `Source:`, the source of the reason.
//! - `class:`: the name of a class in [`CLASSES`].
//! - `body:`: the length of the origin's body, in bytes.
//! - `>`: a header field of the pull.
//! - `<`: the status of the origin's response, then its header fields.
//! - `=`: the status that the shim sends, then the sent header fields that are in [`SHOWN`].
//!
//! `EDGESHIM_BLESS=1 cargo test --test dialects` writes the `=` lines again. Read the difference before you commit it.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use support::presets::{PresetFile, presets};
use support::{Config, Origin, Raw, Response, Shim, origin, raw, shim};

const CASES: [&str; 8] = ["override", "default", "never", "guards", "404", "5xx", "304", "206"];

/// The header fields in the `=` lines of a golden file, in this order.
const SHOWN: [&str; 24] = [
    "cache-control",
    "surrogate-control",
    "cloudflare-cdn-cache-control",
    "cdn-cache-control",
    "akamai-cache-control",
    "edge-control",
    "netlify-cdn-cache-control",
    "vercel-cdn-cache-control",
    "x-accel-expires",
    "pragma",
    "expires",
    "age",
    "vary",
    "content-encoding",
    "content-range",
    "etag",
    "set-cookie",
    "retry-after",
    "surrogate-key",
    "cache-tag",
    "edge-cache-tag",
    "cdn-tag",
    "netlify-cache-tag",
    TAG_HEADER,
];

/// The field for cache tags, for the presets that let the operator choose this field.
const TAG_HEADER: &str = "x-purge-tags";

/// The classes. The first segment of a path is the name of its class.
const CLASSES: &str = r#"
[[class]]
name = "keep"
path = ["/keep/*"]
[[class]]
name = "default"
path = ["/default/*"]
cache = { mode = "default", ttl = "10m", edge_ttl = "1d", stale_while_revalidate = "60s" }
[[class]]
name = "override"
path = ["/override/*"]
cache = { mode = "override", ttl = "1h", edge_ttl = "1d", stale_while_revalidate = "60s", stale_if_error = "7d" }
[[class]]
name = "stripped"
path = ["/stripped/*"]
cache = { mode = "override", ttl = "1h", edge_ttl = "1d", strip_cookies = true }
[[class]]
name = "never"
path = ["/never/*"]
cache = { mode = "never" }
[[class]]
name = "own-errors"
path = ["/own-errors/*"]
cache = { mode = "override", ttl = "1h", edge_ttl = "1d" }
whoopsie = "never"
"#;

/// Configures a provider for each preset. The provider has the name of its preset.
fn config(origin: &Origin) -> Config {
    let mut config = Shim::config(origin.addr).with(CLASSES);
    for preset in presets() {
        let tags = if preset.takes_tag_header() { format!("tag_header = \"{TAG_HEADER}\"\n") } else { String::new() };
        config = config.with(&format!("[[provider]]\nname = \"{}\"\n{tags}", preset.name));
    }
    config
}

type Fields = Vec<(String, String)>;

/// One golden file.
struct Golden {
    file: PathBuf,
    preset: String,
    reason: String,
    /// All lines that do not start with `=`.
    given: String,
    class: String,
    body: usize,
    pull_fields: Fields,
    status: u16,
    origin_fields: Fields,
    /// The `=` lines.
    sent: String,
}

impl Golden {
    fn read(preset: &str, case: &str) -> Result<Self, String> {
        let file = shim::repository(&format!("tests/golden/dialects/{preset}/{case}.golden"));
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut golden = Self {
            file,
            preset: preset.to_owned(),
            reason: String::new(),
            given: String::new(),
            class: String::new(),
            body: 5,
            pull_fields: Fields::new(),
            status: 0,
            origin_fields: Fields::new(),
            sent: String::new(),
        };
        for line in text.lines() {
            golden.line(line).ok_or_else(|| format!("{}: unknown line {line:?}", golden.file.display()))?;
        }
        let (reason, source) = golden.reason.split_once("Source: ").unwrap_or_default();
        if reason.len() < 60 || source.is_empty() || golden.status == 0 || golden.class.is_empty() {
            let needs = "a reason of at least 60 characters, a `Source:`, a `class:` line and a `<` line";
            return Err(format!("{} needs {needs}", golden.file.display()));
        }
        golden.reason = reason.to_owned();
        Ok(golden)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let field = |text: &str| text.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
        let (mark, rest) = line.split_once(' ')?;
        match mark {
            "#" => self.reason = format!("{} {rest}", self.reason),
            "class:" => rest.clone_into(&mut self.class),
            "body:" => self.body = rest.parse().ok()?,
            ">" => self.pull_fields.push(field(rest)?),
            "<" if self.status == 0 => self.status = rest.parse().ok()?,
            "<" => self.origin_fields.push(field(rest)?),
            "=" => {
                let _ = writeln!(self.sent, "{line}");
                return Some(());
            }
            _ => return None,
        }
        let _ = writeln!(self.given, "{line}");
        Some(())
    }

    fn path(&self) -> String {
        let case = self.file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        format!("/{}/{}-{case}", self.class, self.preset)
    }

    /// Returns the `=` lines for a response.
    fn shown(response: &Response) -> String {
        let mut shown = format!("= {}\n", response.status);
        for name in SHOWN {
            for value in response.fields_named(name) {
                let _ = writeln!(shown, "= {name}: {value}");
            }
        }
        shown
    }
}

fn goldens() -> Vec<Golden> {
    let (read, missing): (Vec<_>, Vec<_>) =
        presets().iter().flat_map(|preset| CASES.map(|case| Golden::read(&preset.name, case))).partition(Result::is_ok);
    let missing: Vec<_> = missing.into_iter().filter_map(Result::err).collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    read.into_iter().filter_map(Result::ok).collect()
}

#[test]
fn response_head_when_cdn_pulls_then_equals_the_golden_file() {
    let goldens: Arc<BTreeMap<String, Golden>> =
        Arc::new(goldens().into_iter().map(|golden| (golden.path(), golden)).collect());
    let scripted = Arc::clone(&goldens);
    let origin = Origin::start(move |request, conn| {
        let golden = &scripted[&request.target];
        let fields: Vec<_> = golden.origin_fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        origin::respond(request, conn, golden.status, &fields, &vec![b'x'; golden.body])
    });
    let shim = Shim::start(config(&origin));
    let mut client = Raw::connect(shim.addr);
    let mut wrong = String::new();
    for (path, golden) in goldens.iter() {
        let mut fields = vec![("Connection", "keep-alive"), ("X-CDN-Provider", golden.preset.as_str())];
        fields.extend(golden.pull_fields.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        client.send(raw::request("GET", path, &fields, b""));
        let response = client.response().unwrap_or_else(|why| panic!("no response for {path}: {why:?}"));
        assert_eq!(response.problems, [""; 0], "{path}");
        let shown = Golden::shown(&response);
        if shown == golden.sent {
            continue;
        }
        if std::env::var_os("EDGESHIM_BLESS").is_some() {
            std::fs::write(&golden.file, format!("{}{shown}", golden.given)).expect("a writable golden file");
        } else {
            let _ = writeln!(wrong, "{}, expected:\n{}sent:\n{shown}", golden.file.display(), golden.sent);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn preset_case_when_listed_then_has_a_golden_file_with_a_unique_reason() {
    let goldens = goldens();
    assert_eq!(goldens.len(), presets().len() * CASES.len());
    let reasons: BTreeSet<_> = goldens.iter().map(|golden| &golden.reason).collect();
    assert_eq!(reasons.len(), goldens.len(), "two cases have the same reason");
    let folder = shim::repository("tests/golden/dialects");
    let folders = std::fs::read_dir(folder).expect("a readable folder").map(|folder| folder.expect("a folder").path());
    let files: usize = folders.map(|folder| std::fs::read_dir(folder).expect("the folder of a preset").count()).sum();
    assert_eq!(files, goldens.len(), "there are more files than cases");
}

#[test]
fn responses_made_by_the_shim_when_sent_then_have_no_store_in_every_dialect() {
    let origin = Origin::start(origin::hang_up());
    let strict = "[server]\nhosts = [\"shim.test\"]\nmax_request_body = \"1KiB\"\n[rum]\npath = \"/rum\"\n";
    let shim = Shim::start(config(&origin).with(strict));
    let targeted: BTreeSet<_> = presets().iter().filter_map(PresetFile::targeted_field).collect();
    assert!(targeted.len() >= 3, "{targeted:?}");
    for file in presets() {
        let preset = &file.name;
        let provider = ("X-CDN-Provider", preset.as_str());
        let large = [b'x'; 2048];
        for (what, status, request) in [
            ("page", 502, raw::request("GET", "/keep/a", &[provider, ("Accept", "text/html")], b"")),
            ("page to HEAD", 502, raw::request("HEAD", "/keep/a", &[provider, ("Accept", "text/html")], b"")),
            ("problem+json", 502, raw::request("GET", "/keep/a", &[provider, ("Accept", "application/json")], b"")),
            ("empty body", 502, raw::request("GET", "/keep/a.png", &[provider, ("Accept", "image/*")], b"")),
            ("gRPC", 502, raw::request("POST", "/keep/a", &[provider, ("Content-Type", "application/grpc")], b"x")),
            ("own errors", 502, raw::request("GET", "/own-errors/a", &[provider], b"")),
            ("refused host", 421, raw::request("GET", "/keep/a", &[provider, ("Host", "other.test")], b"")),
            (
                "refused method",
                405,
                raw::request("CONNECT", "shim.test:443", &[provider, ("Host", "shim.test:443")], b""),
            ),
            ("refused body", 413, raw::request("POST", "/keep/a", &[provider], &large)),
            ("beacon", 200, raw::request("GET", "/status/images/beacon.gif", &[provider], b"")),
            ("RUM", 400, raw::request("GET", "/rum", &[provider], b"")),
        ] {
            let response = raw::exchange(shim.addr, request);
            assert_eq!(response.status, status, "{preset}, {what}: {response:?}");
            assert_eq!(response.fields_named("cache-control"), ["no-store"], "{preset}, {what}");
            for name in &targeted {
                let wanted: &[&str] = if file.targeted_field().as_ref() == Some(name) { &["no-store"] } else { &[] };
                assert_eq!(response.fields_named(name), wanted, "{preset}, {what}, {name}");
            }
        }
    }
}

#[test]
fn wait_page_when_limit_is_reached_then_has_no_store_in_every_dialect() {
    let origin = Origin::start(origin::silent());
    let shim = Shim::start(config(&origin).with("origin = { max_in_flight = 1, max_waiting = 0 }"));
    let mut first = Raw::connect(shim.addr);
    first.send(raw::request("GET", "/keep/a", &[], b""));
    assert!(support::wait_until(support::PATIENCE, || origin.count() == 1));
    for file in presets() {
        let (preset, Some(name)) = (file.name.as_str(), file.targeted_field()) else { continue };
        let response = raw::fetch(shim.addr, "/keep/b", &[("X-CDN-Provider", preset), ("Accept", "text/html")]);
        assert_eq!((response.status, response.field("cache-control")), (503, Some("no-store")), "{preset}");
        assert_eq!(response.fields_named(&name), ["no-store"], "{preset}");
    }
}

#[test]
fn unknown_cdn_when_pulling_then_gets_standard_directives() {
    let origin =
        Origin::start(origin::fixed(200, &[("Surrogate-Key", "a"), ("Surrogate-Control", "max-age=5")], "hello"));
    let shim = Shim::start(config(&origin));
    for fields in [&[][..], &[("X-CDN-Provider", "unknown-cdn")]] {
        let response = raw::fetch(shim.addr, "/stripped/a", fields);
        assert_eq!(
            Golden::shown(&response),
            "= 200\n= cache-control: max-age=3600, s-maxage=86400\n= surrogate-key: a\n"
        );
    }
}

#[test]
fn edge_control_when_nothing_overrides_the_origin_then_forwarded_only_to_akamai() {
    let origin = Origin::start(|request, conn| {
        let mut fields = vec![("ETag", "\"v1\"")];
        let edge_control = request.fields_named("x-edge");
        fields.extend(edge_control.iter().map(|line| ("Edge-Control", *line)));
        fields.extend(edge_control.is_empty().then_some(("Edge-Control", "cache-maxage=1d")));
        fields.extend(request.field("x-cookie").map(|_| ("Set-Cookie", "a=b")));
        let status = request.field("x-status").and_then(|status| status.parse().ok()).unwrap_or(200);
        origin::respond(request, conn, status, &fields, b"hello")
    });
    let kept_errors = "[[class]]\nname = \"kept-errors\"\npath = [\"/kept-errors/*\"]\nwhoopsie = \"never\"\n";
    let shim = Shim::start(config(&origin).with(kept_errors));
    let caching_fields = |method: &str, class: &str, provider: &str, more: &[(&str, &str)]| {
        let fields = [&[("X-CDN-Provider", provider)], more].concat();
        let response = raw::exchange(shim.addr, raw::request(method, &format!("/{class}/a"), &fields, b""));
        let lines = |name| response.fields_named(name).join(" + ");
        (lines("edge-control"), lines("cache-control"))
    };
    let kept = ("cache-maxage=1d".to_owned(), String::new());
    let gone = |cache_control: &str| (String::new(), cache_control.to_owned());
    for method in ["GET", "HEAD"] {
        for status in ["200", "206", "304", "404"] {
            for class in ["keep", "default"] {
                assert_eq!(
                    caching_fields(method, class, "akamai", &[("X-Status", status)]),
                    kept,
                    "{method} {status} {class}"
                );
            }
            let (edge_control, cache_control) = caching_fields(method, "override", "akamai", &[("X-Status", status)]);
            assert!(edge_control.is_empty() && cache_control.contains("max-age"), "{method} {status}: {cache_control}");
            assert_eq!(
                caching_fields(method, "never", "akamai", &[("X-Status", status)]),
                gone("no-store"),
                "{method} {status}"
            );
        }
        assert_eq!(caching_fields(method, "keep", "akamai", &[("X-Cookie", "1")]), gone("private"), "{method}");
        assert_eq!(
            caching_fields(method, "keep", "akamai", &[("Authorization", "Basic YQ==")]),
            gone("private"),
            "{method}"
        );
        for class in ["own-errors", "kept-errors"] {
            assert_eq!(
                caching_fields(method, class, "akamai", &[("X-Status", "503")]),
                gone("no-store"),
                "{method} {class}"
            );
        }
        for provider in presets().iter().map(|preset| preset.name.as_str()).filter(|name| *name != "akamai") {
            assert_eq!(caching_fields(method, "keep", provider, &[]).0, "", "{method} {provider}");
        }
        // If a guard applies or the status is 5xx, the shim removes the directives of Edge-Control that allow storing.
        // Prohibitions and `dca` stay.
        let (cookie, both) = (("X-Cookie", "1"), [("X-Edge", "no-store, max-age=1d"), ("X-Edge", "dca=esi")]);
        let say = |edge_control: &str, cache_control: &str| (edge_control.to_owned(), cache_control.to_owned());
        assert_eq!(
            caching_fields(method, "keep", "akamai", &both),
            say("no-store, max-age=1d + dca=esi", ""),
            "{method}"
        );
        let guarded = caching_fields(method, "default", "akamai", &[&both[..], &[cookie]].concat());
        assert_eq!(guarded, say("no-store, dca=esi", "private"), "{method}");
        let failed = caching_fields(method, "kept-errors", "akamai", &[&both[..], &[("X-Status", "503")]].concat());
        assert_eq!(failed, say("no-store, dca=esi", "no-store"), "{method}");
        let dropped = caching_fields(method, "override", "akamai", &[("X-Edge", "bypass-cache"), ("X-Status", "302")]);
        assert_eq!(dropped, gone("no-store"), "{method}");
    }
}

#[test]
fn vary_for_akamai_when_method_is_get_or_head_then_sent_only_with_gzip() {
    let page = [b'x'; 1000];
    let origin = Origin::start(origin::fixed(200, &[("Content-Type", "text/html"), ("ETag", "\"v1\"")], page));
    let off = Shim::start(config(&origin).with("[gzip]\nenabled = false\n"));
    let on = Shim::start(config(&origin));
    for (shim, coding, vary) in [(&on, "gzip", &["Accept-Encoding"][..]), (&on, "identity", &[]), (&off, "gzip", &[])] {
        for method in ["GET", "HEAD"] {
            let fields = [("X-CDN-Provider", "akamai"), ("Accept-Encoding", coding)];
            let response = raw::exchange(shim.addr, raw::request(method, "/keep/a", &fields, b""));
            assert_eq!((response.status, response.fields_named("vary")), (200, vary.to_vec()), "{method}, {coding}");
        }
    }
    // The shim also removes a Vary that the origin sent, even if gzip is off.
    let origin = Origin::start(origin::fixed(200, &[("Vary", "Accept-Encoding")], "hello"));
    let off = Shim::start(config(&origin).with("[gzip]\nenabled = false\n"));
    assert_eq!(raw::fetch(off.addr, "/keep/a", &[("X-CDN-Provider", "akamai")]).field("vary"), None);
    assert_eq!(raw::fetch(off.addr, "/keep/a", &[("X-CDN-Provider", "google")]).field("vary"), Some("Accept-Encoding"));
}

#[test]
fn vary_of_a_304_when_akamai_pulls_then_is_removed_only_if_the_body_has_no_coding() {
    let origin = Origin::start(|request, conn| {
        let is_coded = request.target.ends_with("coded");
        let mut fields = vec![("Content-Type", "text/html"), ("ETag", "\"v1\""), ("Vary", "Accept-Encoding")];
        if request.field("if-none-match").is_some() {
            return origin::respond(request, conn, 304, &fields, b"");
        }
        fields.extend(is_coded.then_some(("Content-Encoding", "br")));
        origin::respond(request, conn, 200, &fields, &[b'x'; 1000])
    });
    for gzip in [true, false] {
        let shim = Shim::start(config(&origin).with(&format!("[gzip]\nenabled = {gzip}\n")));
        for (target, vary) in [("/keep/plain", None), ("/keep/coded", Some("Accept-Encoding"))] {
            let pull = |coding, more: &[(&str, &str)]| {
                let fields = [&[("X-CDN-Provider", "akamai"), ("Accept-Encoding", coding)], more].concat();
                raw::fetch(shim.addr, target, &fields)
            };
            assert_eq!(pull("identity", &[]).field("vary"), vary, "{target}");
            let response = pull("gzip", &[("If-None-Match", "\"v1\"")]);
            assert_eq!((response.status, response.field("vary")), (304, vary), "{target}, gzip {gzip}");
            assert_eq!(response.field("etag"), Some("\"v1\""));
        }
    }
}

#[test]
fn head_when_above_the_limits_of_the_cdn_then_fields_are_cut_and_counted() {
    let tags: Vec<_> = (0..200).map(|number| format!("tag-{number}")).collect();
    let mut lists = vec![("Content-Type".to_owned(), "text/html".to_owned()), ("Cache-Tag".to_owned(), tags.join(","))];
    lists.extend((0..45).map(|number| (format!("X-Debug-{number}"), "y".repeat(400))));
    lists.extend((0..30).map(|number| ("Link".to_owned(), format!("</{number}.css>"))));
    lists.extend((0..10).map(|number| ("Set-Cookie".to_owned(), format!("c{number}=1"))));
    lists.push(("X-Huge".to_owned(), "z".repeat(20_000)));
    let mut many = vec![("Set-Cookie".to_owned(), "c=1".to_owned())];
    many.extend((0..90).map(|number| (format!("X-Debug-{number}"), "y".to_owned())));
    let origin = Origin::start(move |request, conn| {
        let fields = if request.target == "/keep/many" { &many } else { &lists };
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        origin::respond(request, conn, 200, &fields, b"hello")
    });
    let shim = Shim::start(config(&origin));
    let size = |response: &Response| -> usize {
        response.fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum()
    };
    let cut = |name: &str, provider: &str| shim.metrics().value(name, &[("provider", provider)]);

    let fastly = raw::fetch(shim.addr, "/keep/lists", &[("X-CDN-Provider", "fastly")]);
    assert_eq!(fastly.fields_named("set-cookie").len(), 10);
    assert_eq!(fastly.fields_named("link").len(), 1, "the Link lines are not joined into one line");
    assert_eq!(fastly.field("surrogate-key").map(|keys| keys.split(' ').count()), Some(200));
    assert_eq!(fastly.field("x-huge").map(str::len), Some(20_000), "X-Huge fits, because the Link lines are joined");
    assert!(cut("edgeshim_fields_cut_total", "fastly") < 0.5);

    let fastly = raw::fetch(shim.addr, "/keep/many", &[("X-CDN-Provider", "fastly")]);
    let lines = fastly.fields.len();
    assert!(
        (80..=88).contains(&lines),
        "the head has {lines} lines; 80 to 88 are expected, because Fastly adds lines and allows 96 in total"
    );
    assert_eq!(
        (fastly.field("set-cookie"), fastly.field("x-debug-89")),
        (Some("c=1"), None),
        "the last debug fields must be cut before the cookie"
    );
    assert!(cut("edgeshim_fields_cut_total", "fastly") > 0.5);

    let cloudflare = raw::fetch(shim.addr, "/keep/lists", &[("X-CDN-Provider", "cloudflare")]);
    assert!(size(&cloudflare) <= 32_768, "the head has {} bytes", size(&cloudflare));
    assert_eq!(cloudflare.field("x-huge"), None, "a field above 16 KiB was sent");
    assert_eq!(cloudflare.field("x-debug-44").map(str::len), Some(400), "X-Debug-44 fits, because X-Huge is cut");
    assert!((cut("edgeshim_fields_cut_total", "cloudflare") - 1.0).abs() < 0.5);

    let akamai = raw::fetch(shim.addr, "/keep/lists", &[("X-CDN-Provider", "akamai")]);
    assert_eq!(akamai.field("edge-cache-tag").map(|tags| tags.split(',').count()), Some(128));
    assert_eq!(akamai.fields_named("link").len(), 30, "the preset has no limit, so the Link lines must not be joined");
    assert!((cut("edgeshim_tags_cut_total", "akamai") - 72.0).abs() < 0.5);
    assert!(cut("edgeshim_tags_cut_total", "fastly") < 0.5);
    assert!(cut("edgeshim_fields_cut_total", "akamai") < 0.5);
}

#[test]
fn head_when_cookies_exceed_the_limit_then_security_fields_stay_and_shim_warns_once() {
    let origin = Origin::start(|request, conn| {
        let cookies: Vec<String> = (0..95).map(|number| format!("c{number}={number}")).collect();
        let mut fields: Vec<(&str, &str)> = cookies.iter().map(|cookie| ("Set-Cookie", cookie.as_str())).collect();
        fields.push(("Content-Security-Policy", "default-src 'self'"));
        origin::respond(request, conn, 200, &fields, b"hello")
    });
    let shim = Shim::start(config(&origin));
    for _ in 0..20 {
        let response = raw::fetch(shim.addr, "/keep/a", &[("X-CDN-Provider", "fastly")]);
        assert_eq!(response.field("content-security-policy"), Some("default-src 'self'"));
        let cookies = response.fields_named("set-cookie");
        assert!(cookies.len() > 60 && cookies.len() < 95, "{} cookies were sent", cookies.len());
        let expected: Vec<_> = (0..cookies.len()).map(|number| format!("c{number}={number}")).collect();
        assert_eq!(cookies, expected, "a cookie before the last cookies was cut");
    }
    let cut = shim.metrics().value("edgeshim_fields_cut_total", &[("provider", "fastly")]);
    assert!(cut > 200.0, "only {cut} fields were cut");
    let stderr = shim.stderr();
    let warnings: Vec<&str> = stderr.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{stderr}");
    assert!(warnings[0].contains("fastly") && warnings[0].contains("send fewer fields"), "{stderr}");
}

#[test]
fn tags_when_too_long_for_one_line_then_last_tags_are_cut() {
    let tags: Vec<_> = (0..4000).map(|number| format!("tag-{number}")).collect();
    let origin = Origin::start(origin::fixed(200, &[("Surrogate-Key", &tags.join(" "))], "hello"));
    let shim = Shim::start(config(&origin));
    let response = raw::fetch(shim.addr, "/keep/a", &[("X-CDN-Provider", "cloudflare")]);
    let line = response.field("cache-tag").expect("a line of tags");
    let kept: Vec<_> = line.split(',').collect();
    assert_eq!(kept, tags[..kept.len()]);
    let room = 16_384 - "cache-tag: \r\n".len() - line.len();
    assert!(room <= ",tag-0000".len(), "another tag would fit: {room} bytes are left");
    let cut = |name: &str| shim.metrics().value(name, &[("provider", "cloudflare")]);
    let not_kept = u32::try_from(tags.len() - kept.len()).expect("a small number");
    assert!((cut("edgeshim_tags_cut_total") - f64::from(not_kept)).abs() < 0.5);
    assert!(cut("edgeshim_fields_cut_total") < 0.5);
}

#[test]
fn caching_fields_and_cookies_when_in_trailers_then_removed() {
    let trailers = [
        ("Cache-Control", "max-age=9"),
        ("Surrogate-Control", "max-age=9"),
        ("CDN-Cache-Control", "max-age=9"),
        ("Set-Cookie", "session=1"),
        ("Vary", "*"),
        ("Cache-Tag", "a"),
    ];
    let names = trailers.map(|(name, _)| name).join(", ") + ", X-Sum";
    let fields = [("Content-Type", "text/plain"), ("Trailer", names.as_str())];
    let shown = |sent: &[(&str, &str)], pull_fields: &[(&str, &str)]| {
        let origin = Origin::start(origin::chunked(&fields, &[b"abc"], sent));
        let shim = Shim::start(config(&origin));
        let pull_fields =
            [pull_fields, &[("X-CDN-Provider", "cloudflare"), ("TE", "trailers"), ("Connection", "TE, close")]]
                .concat();
        let response = raw::fetch(shim.addr, "/never/a", &pull_fields);
        assert!(response.complete && response.problems.is_empty(), "{response:?}");
        response.trailers.into_iter().map(|(name, _)| name.to_ascii_lowercase()).collect::<Vec<_>>()
    };
    for pull_fields in [&[][..], &[("Accept-Encoding", "gzip")]] {
        assert_eq!(shown(&[&trailers[..], &[("X-Sum", "9")]].concat(), pull_fields), ["x-sum"]);
        assert_eq!(shown(&trailers, pull_fields), [""; 0]);
    }
}
