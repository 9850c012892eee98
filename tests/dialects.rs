//! What each CDN is told, from end to end (spec §6): for each preset and case one file under `tests/golden/dialects/` with the reason,
//! where that stands to read, what the origin says and the exact head that goes out; and what no file can show: answers of the shim's
//! own, limits, and what is counted.
//!
//! A golden's lines: `#` comments, the reason and its `Source:`; `class:` the rule, one of [`CLASSES`]; `body:` the bytes of the
//! origin's body; `>` a field of the pull; `<` the origin's status and fields; `=` the status and those fields that go out on which
//! caching hangs ([`SHOWN`]). `EDGESHIM_BLESS=1 cargo test --test dialects` writes the `=` lines anew: read the difference before
//! it is committed.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use support::{Config, Origin, Raw, Response, Shim, origin, raw, shim};

const CASES: [&str; 8] = ["override", "default", "never", "guards", "404", "5xx", "304", "206"];

/// The fields that a golden shows, in this order.
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

/// What the presets get whose tag field the operator names.
const TAG_HEADER: &str = "x-purge-tags";

/// A class's name is its path's first part.
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

/// The presets, by their files.
fn presets() -> Vec<String> {
    let files = std::fs::read_dir(shim::repository("config/presets")).expect("the presets");
    let names = files.map(|file| file.expect("a preset").path());
    let mut names: Vec<_> = names.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort_unstable();
    names
}

/// A provider for each preset, under its name.
fn config(origin: &Origin) -> Config {
    let mut config = Shim::config(origin.addr).with(CLASSES);
    for preset in presets() {
        let named = ["cloudfront", "imperva"].contains(&preset.as_str());
        let tags = if named { format!("tag_header = \"{TAG_HEADER}\"\n") } else { String::new() };
        config = config.with(&format!("[[provider]]\nname = \"{preset}\"\n{tags}"));
    }
    config
}

type Fields = Vec<(String, String)>;

/// One golden file.
struct Golden {
    file: PathBuf,
    preset: String,
    reason: String,
    /// All but the `=` lines.
    given: String,
    class: String,
    body: usize,
    asked: Fields,
    status: u16,
    said: Fields,
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
            asked: Fields::new(),
            status: 0,
            said: Fields::new(),
            sent: String::new(),
        };
        for line in text.lines() {
            golden.line(line).ok_or_else(|| format!("{}: what is {line:?}?", golden.file.display()))?;
        }
        let (reason, source) = golden.reason.split_once("Source: ").unwrap_or_default();
        if reason.len() < 60 || source.is_empty() || golden.status == 0 || golden.class.is_empty() {
            return Err(format!("{} lacks a reason, a source, a class or a response", golden.file.display()));
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
            ">" => self.asked.push(field(rest)?),
            "<" if self.status == 0 => self.status = rest.parse().ok()?,
            "<" => self.said.push(field(rest)?),
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

    /// What of a response a golden shows.
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
        presets().iter().flat_map(|preset| CASES.map(|case| Golden::read(preset, case))).partition(Result::is_ok);
    let missing: Vec<_> = missing.into_iter().filter_map(Result::err).collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    read.into_iter().filter_map(Result::ok).collect()
}

#[test]
fn golden_heads_when_each_preset_pulls_each_case_then_as_written() {
    let goldens: Arc<BTreeMap<String, Golden>> =
        Arc::new(goldens().into_iter().map(|golden| (golden.path(), golden)).collect());
    let scripted = Arc::clone(&goldens);
    let origin = Origin::start(move |request, conn| {
        let golden = &scripted[&request.target];
        let fields: Vec<_> = golden.said.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        origin::respond(request, conn, golden.status, &fields, &vec![b'x'; golden.body])
    });
    let shim = Shim::start(config(&origin));
    let mut client = Raw::connect(shim.addr);
    let mut wrong = String::new();
    for (path, golden) in goldens.iter() {
        let mut fields = vec![("Connection", "keep-alive"), ("X-CDN-Provider", golden.preset.as_str())];
        fields.extend(golden.asked.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        client.send(raw::request("GET", path, &fields, b""));
        let response = client.response().unwrap_or_else(|why| panic!("{path}: {why:?}"));
        assert_eq!(response.problems, [""; 0], "{path}");
        let shown = Golden::shown(&response);
        if shown == golden.sent {
            continue;
        }
        if std::env::var_os("EDGESHIM_BLESS").is_some() {
            std::fs::write(&golden.file, format!("{}{shown}", golden.given)).expect("a golden that can be written");
        } else {
            let _ = writeln!(wrong, "{}\n{}now:\n{shown}", golden.file.display(), golden.sent);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn goldens_when_listed_then_one_for_each_preset_and_case_with_a_reason_of_its_own() {
    let goldens = goldens();
    assert_eq!(goldens.len(), presets().len() * CASES.len());
    let reasons: BTreeSet<_> = goldens.iter().map(|golden| &golden.reason).collect();
    assert_eq!(reasons.len(), goldens.len(), "two cases have the same reason");
    let folder = shim::repository("tests/golden/dialects");
    let folders = std::fs::read_dir(folder).expect("the goldens").map(|folder| folder.expect("a folder").path());
    let files: usize = folders.map(|folder| std::fs::read_dir(folder).expect("a preset's goldens").count()).sum();
    assert_eq!(files, goldens.len(), "a file that no preset and case reads");
}

/// The own field of each preset that has one.
const OWN: [(&str, &str); 3] =
    [("fastly", "surrogate-control"), ("cloudflare", "cloudflare-cdn-cache-control"), ("rfc9213", "cdn-cache-control")];

#[test]
fn own_answers_when_the_shim_speaks_itself_then_no_store_in_every_dialect() {
    let origin = Origin::start(origin::hang_up());
    let strict = "[server]\nhosts = [\"shim.test\"]\nmax_request_body = \"1KiB\"\n[rum]\npath = \"/rum\"\n";
    let shim = Shim::start(config(&origin).with(strict));
    for preset in presets() {
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
            for (owner, name) in OWN {
                let wanted: &[&str] = if owner == preset { &["no-store"] } else { &[] };
                assert_eq!(response.fields_named(name), wanted, "{preset}, {what}, {name}");
            }
        }
    }
}

#[test]
fn wait_page_when_the_origin_is_full_then_no_store_in_every_dialect() {
    let origin = Origin::start(origin::silent());
    let shim = Shim::start(config(&origin).with("origin = { max_in_flight = 1, max_waiting = 0 }"));
    let mut first = Raw::connect(shim.addr);
    first.send(raw::request("GET", "/keep/a", &[], b""));
    support::wait_until(support::PATIENCE, || origin.count() == 1);
    for (preset, name) in OWN {
        let response = raw::fetch(shim.addr, "/keep/b", &[("X-CDN-Provider", preset), ("Accept", "text/html")]);
        assert_eq!((response.status, response.field("cache-control")), (503, Some("no-store")), "{preset}");
        assert_eq!(response.fields_named(name), ["no-store"], "{preset}");
    }
}

#[test]
fn unknown_cdns_when_they_pull_then_get_the_words_of_any_shared_cache() {
    let origin =
        Origin::start(origin::fixed(200, &[("Surrogate-Key", "a"), ("Surrogate-Control", "max-age=5")], "hello"));
    let shim = Shim::start(config(&origin));
    for fields in [&[][..], &[("X-CDN-Provider", "nobody")]] {
        let response = raw::fetch(shim.addr, "/stripped/a", fields);
        assert_eq!(
            Golden::shown(&response),
            "= 200\n= cache-control: max-age=3600, s-maxage=86400\n= surrogate-key: a\n"
        );
    }
}

#[test]
fn edge_control_when_the_origin_sends_it_then_only_akamai_gets_it_and_only_where_it_beats_nothing() {
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
    let told = |method: &str, class: &str, provider: &str, more: &[(&str, &str)]| {
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
                assert_eq!(told(method, class, "akamai", &[("X-Status", status)]), kept, "{method} {status} {class}");
            }
            let (edge_control, cache_control) = told(method, "override", "akamai", &[("X-Status", status)]);
            assert!(edge_control.is_empty() && cache_control.contains("max-age"), "{method} {status}: {cache_control}");
            assert_eq!(told(method, "never", "akamai", &[("X-Status", status)]), gone("no-store"), "{method} {status}");
        }
        assert_eq!(told(method, "keep", "akamai", &[("X-Cookie", "1")]), gone("private"), "{method}");
        assert_eq!(told(method, "keep", "akamai", &[("Authorization", "Basic YQ==")]), gone("private"), "{method}");
        for class in ["own-errors", "kept-errors"] {
            assert_eq!(told(method, class, "akamai", &[("X-Status", "503")]), gone("no-store"), "{method} {class}");
        }
        for provider in presets().iter().filter(|preset| *preset != "akamai") {
            assert_eq!(told(method, "keep", provider, &[]).0, "", "{method} {provider}");
        }
        // What cannot allow storing stays beside a guard and on an error.
        let (cookie, both) = (("X-Cookie", "1"), [("X-Edge", "no-store, max-age=1d"), ("X-Edge", "dca=esi")]);
        let say = |edge_control: &str, cache_control: &str| (edge_control.to_owned(), cache_control.to_owned());
        assert_eq!(told(method, "keep", "akamai", &both), say("no-store, max-age=1d + dca=esi", ""), "{method}");
        let guarded = told(method, "default", "akamai", &[&both[..], &[cookie]].concat());
        assert_eq!(guarded, say("no-store, dca=esi", "private"), "{method}");
        let failed = told(method, "kept-errors", "akamai", &[&both[..], &[("X-Status", "503")]].concat());
        assert_eq!(failed, say("no-store, dca=esi", "no-store"), "{method}");
        let dropped = told(method, "override", "akamai", &[("X-Edge", "bypass-cache"), ("X-Status", "302")]);
        assert_eq!(dropped, gone("no-store"), "{method}");
    }
}

#[test]
fn vary_to_akamai_when_head_and_get_differ_in_nothing_else_then_neither_in_vary() {
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
    // Whatever takes part in it: the origin's own Vary goes too where gzip is off.
    let origin = Origin::start(origin::fixed(200, &[("Vary", "Accept-Encoding")], "hello"));
    let off = Shim::start(config(&origin).with("[gzip]\nenabled = false\n"));
    assert_eq!(raw::fetch(off.addr, "/keep/a", &[("X-CDN-Provider", "akamai")]).field("vary"), None);
    assert_eq!(raw::fetch(off.addr, "/keep/a", &[("X-CDN-Provider", "google")]).field("vary"), Some("Accept-Encoding"));
}

#[test]
fn heads_when_larger_than_a_cdn_takes_then_cut_and_counted() {
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
    assert_eq!(fastly.fields_named("link").len(), 1, "a list is one line");
    assert_eq!(fastly.field("surrogate-key").map(|keys| keys.split(' ').count()), Some(200));
    assert_eq!(fastly.field("x-huge").map(str::len), Some(20_000), "there is room once the lists are joined");
    assert!(cut("edgeshim_fields_cut_total", "fastly") < 0.5);

    let fastly = raw::fetch(shim.addr, "/keep/many", &[("X-CDN-Provider", "fastly")]);
    let lines = fastly.fields.len();
    assert!(
        (80..=88).contains(&lines),
        "{lines} lines: room for what Fastly adds to 96, and no more lost than that takes"
    );
    assert_eq!(
        (fastly.field("set-cookie"), fastly.field("x-debug-89")),
        (Some("c=1"), None),
        "from the end, cookies last"
    );
    assert!(cut("edgeshim_fields_cut_total", "fastly") > 0.5);

    let cloudflare = raw::fetch(shim.addr, "/keep/lists", &[("X-CDN-Provider", "cloudflare")]);
    assert!(size(&cloudflare) <= 32_768, "{} bytes", size(&cloudflare));
    assert_eq!(cloudflare.field("x-huge"), None, "no field of more than 16 KiB");
    assert_eq!(cloudflare.field("x-debug-44").map(str::len), Some(400), "the others have room then");
    assert!((cut("edgeshim_fields_cut_total", "cloudflare") - 1.0).abs() < 0.5);

    let akamai = raw::fetch(shim.addr, "/keep/lists", &[("X-CDN-Provider", "akamai")]);
    assert_eq!(akamai.field("edge-cache-tag").map(|tags| tags.split(',').count()), Some(128));
    assert_eq!(akamai.fields_named("link").len(), 30, "no limit, nothing joined");
    assert!((cut("edgeshim_tags_cut_total", "akamai") - 72.0).abs() < 0.5);
    assert!(cut("edgeshim_tags_cut_total", "fastly") < 0.5);
    assert!(cut("edgeshim_fields_cut_total", "akamai") < 0.5);
}

#[test]
fn heads_when_they_hold_very_many_cookies_then_security_fields_stay_and_one_warning_says_so() {
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
        assert!(cookies.len() > 60 && cookies.len() < 95, "{}", cookies.len());
        let expected: Vec<_> = (0..cookies.len()).map(|number| format!("c{number}={number}")).collect();
        assert_eq!(cookies, expected, "the last ones are cut");
    }
    let cut = shim.metrics().value("edgeshim_fields_cut_total", &[("provider", "fastly")]);
    assert!(cut > 200.0, "{cut}");
    let stderr = shim.stderr();
    let warnings: Vec<&str> = stderr.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{stderr}");
    assert!(warnings[0].contains("fastly") && warnings[0].contains("send fewer fields"), "{stderr}");
}

#[test]
fn tags_when_more_than_one_line_takes_then_as_many_as_fit_and_not_none() {
    let tags: Vec<_> = (0..4000).map(|number| format!("tag-{number}")).collect();
    let origin = Origin::start(origin::fixed(200, &[("Surrogate-Key", &tags.join(" "))], "hello"));
    let shim = Shim::start(config(&origin));
    let response = raw::fetch(shim.addr, "/keep/a", &[("X-CDN-Provider", "cloudflare")]);
    let line = response.field("cache-tag").expect("a line of tags");
    let kept: Vec<_> = line.split(',').collect();
    assert_eq!(kept, tags[..kept.len()]);
    let room = 16_384 - "cache-tag: \r\n".len() - line.len();
    assert!(room <= ",tag-0000".len(), "one more would have fit: {room} bytes are left");
    let cut = |name: &str| shim.metrics().value(name, &[("provider", "cloudflare")]);
    let not_kept = u32::try_from(tags.len() - kept.len()).expect("a few");
    assert!((cut("edgeshim_tags_cut_total") - f64::from(not_kept)).abs() < 0.5);
    assert!(cut("edgeshim_fields_cut_total") < 0.5);
}

#[test]
fn trailers_when_they_speak_of_caching_then_only_the_head_does() {
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
    let shown = |sent: &[(&str, &str)], asked: &[(&str, &str)]| {
        let origin = Origin::start(origin::chunked(&fields, &[b"abc"], sent));
        let shim = Shim::start(config(&origin));
        let asked =
            [asked, &[("X-CDN-Provider", "cloudflare"), ("TE", "trailers"), ("Connection", "TE, close")]].concat();
        let response = raw::fetch(shim.addr, "/never/a", &asked);
        assert!(response.complete && response.problems.is_empty(), "{response:?}");
        response.trailers.into_iter().map(|(name, _)| name.to_ascii_lowercase()).collect::<Vec<_>>()
    };
    for asked in [&[][..], &[("Accept-Encoding", "gzip")]] {
        assert_eq!(shown(&[&trailers[..], &[("X-Sum", "9")]].concat(), asked), ["x-sum"]);
        assert_eq!(shown(&trailers, asked), [""; 0]);
    }
}
