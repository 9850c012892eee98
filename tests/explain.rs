//! Compares `edgeshim explain` with a running shim of the same configuration. `explain` must report the header fields
//! and the decisions of the shim. The text output and the JSON output must agree, and must not contain a secret.

#![allow(clippy::unwrap_used)] // a failed test is a panic

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgeshim::internals::PRESET_NAMES;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use support::presets::presets;
use support::shim::{binary, repository};
use support::{After, Config, Origin, PATIENCE, Raw, Response, Shim};

const G2O_KEY: &str = "a-g2o-key-that-stays-secret";
const EDGE_CONTROL: &str = "Edge-Control: cache-maxage=1d";
const MADE: &str = "(made for each request)";
const EACH_RESPONSE: &str = "(made for each response)";
const HIDDEN: &str = "***";

const CLASSES: &str = r#"
[server]
workers = 1
max_request_body = "1KiB"
[access_log]
output = "file:access.log"
[[class]]
name = "image"
path = ["*.png"]
cache = { mode = "override", ttl = "1h", edge_ttl = "7d", stale_if_error = "1d", strip_cookies = true }
[[class]]
name = "api"
path = ["/api/*"]
cache = { mode = "default", ttl = "2s", stale_while_revalidate = "5s" }
whoopsie = "never"
[[class]]
name = "account"
path = ["/account/*"]
cache = { mode = "never" }
[[class]]
name = "html"
content_type = ["text/html"]
cache = { mode = "default", ttl = "5s", edge_ttl = "60s", vary = ["Accept-Encoding"] }
"#;

/// Configures a provider for every preset. The secret of a provider is its name and `-secret`. Akamai has a G2O key
/// too.
fn every_preset(origin: impl std::fmt::Display) -> Config {
    presets().iter().fold(Shim::config(origin).with(CLASSES), |config, preset| {
        let g2o = if preset.has_g2o() { format!("g2o = {{ keys = {{ n = \"{G2O_KEY}\" }} }}") } else { String::new() };
        let tags = if preset.takes_tag_header() { "tag_header = \"X-Purge-Tags\"" } else { "" };
        let name = &preset.name;
        config.with(&format!(
            "[[provider]]\nname = \"{name}\"\n{tags}\n[provider.verify]\n{g2o}\n\
             secret = {{ header = \"X-Origin-Secret\", values = [\"{name}-secret\"] }}"
        ))
    })
}

/// A request, and the origin's response.
struct Case {
    name: String,
    method: String,
    path: String,
    fields: Vec<String>,
    status: u16,
    response: Vec<String>,
}

impl Case {
    fn new(request: &str, fields: &[&str], status: u16, response: &[&str]) -> Self {
        let (method, path) = request.split_once(' ').unwrap();
        let owned = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect();
        Self {
            name: format!("{request} {fields:?} {status} {response:?}"),
            method: method.to_owned(),
            path: path.to_owned(),
            fields: owned(fields),
            status,
            response: owned(response),
        }
    }

    /// Makes a case of each golden request head of a preset. The first case gets the response with the index `turn` in
    /// [`RESPONSES`], the second case gets the next response, and so on.
    fn of_preset(preset: &str, turn: usize) -> Vec<Self> {
        let folder = repository("tests/golden/heads").join(preset);
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let case = |(nth, file): (usize, &std::path::PathBuf)| {
            let text = std::fs::read_to_string(file).unwrap();
            let mut lines = text.split_once("\n\n").unwrap().1.trim_end().lines();
            let request = lines.next().unwrap().trim_end_matches(" HTTP/1.1");
            let (status, response) = RESPONSES[(turn + nth) % RESPONSES.len()];
            let fields: Vec<_> = lines.collect();
            Self { name: format!("{} {status}", file.display()), ..Self::new(request, &fields, status, response) }
        };
        files.iter().enumerate().map(case).collect()
    }

    fn has_body(&self) -> bool {
        self.method != "HEAD" && !matches!(self.status, 204 | 304)
    }

    /// Returns the arguments for `explain`.
    fn arguments(&self) -> Vec<String> {
        let mut all = ["--method", &self.method, "--path", &self.path].map(str::to_owned).to_vec();
        all.extend(["--status".to_owned(), self.status.to_string()]);
        for (argument, fields) in [("--request-header", &self.fields), ("--response-header", &self.response)] {
            all.extend(fields.iter().flat_map(|field| [argument.to_owned(), field.clone()]));
        }
        all
    }

    /// Returns the bytes of the request.
    fn request(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for field in &self.fields {
            let _ = write!(head, "{field}\r\n");
        }
        let length = self.fields.iter().find_map(|field| field.strip_prefix("Content-Length: "));
        let body = "b".repeat(length.map_or(0, |length| length.parse().unwrap()));
        format!("{head}\r\n{body}")
    }

    /// Returns the bytes of the origin's response.
    fn response(&self) -> String {
        let length = self.response.iter().find_map(|field| field.strip_prefix("Content-Length: "));
        let body = "a".repeat(length.filter(|_| self.has_body()).map_or(0, |length| length.parse().unwrap()));
        let fields = self.response.iter().fold(String::new(), |all, field| all + field + "\r\n");
        format!("HTTP/1.1 {} X\r\n{fields}\r\n{body}", self.status)
    }
}

const RESPONSES: [(u16, &[&str]); 8] = [
    (
        200,
        &[
            "Content-Type: text/html; charset=utf-8",
            "Content-Length: 900",
            "Cache-Tag: home, news",
            "Pragma: no-cache",
            "ETag: \"a\"",
            "Connection: X-Hop",
            "X-Hop: 1",
        ],
    ),
    (200, &["Content-Type: image/png", "Content-Length: 900", "Cache-Control: private", "Surrogate-Key: a b"]),
    (200, &["Content-Type: text/plain", "Content-Length: 900", "Cache-Control: public, max-age=60", "Set-Cookie: a=1"]),
    (
        200,
        &[
            "Content-Type: text/css",
            "Content-Length: 900",
            "Surrogate-Control: max-age=9, content=\"ESI/1.0\"",
            "CDN-Cache-Control: max-age=8",
            "Cloudflare-CDN-Cache-Control: max-age=7",
            "Expires: 0",
            "Edge-Control: max-age=6",
            "Accept-Ranges: bytes",
        ],
    ),
    (200, &["Content-Type: text/plain", "Content-Length: 900", "Cache-Control: no-cache", "Vary: User-Agent, Cookie"]),
    (404, &["Content-Type: text/html", "Content-Length: 900", "Age: 3"]),
    (503, &["Content-Type: text/html", "Content-Length: 900", "Retry-After: 7", "Server: origin", "Set-Cookie: a=1"]),
    (304, &["ETag: \"a\"", "Cache-Control: max-age=5", "Vary: Cookie"]),
];

/// Returns cases that no golden head covers.
fn more_cases() -> Vec<Case> {
    let host = "Host: www.example.com";
    let html = ["Content-Type: text/html", "Content-Length: 900"];
    let big: Vec<String> = (0..95).map(|nth| format!("X-Made-Up-{nth}: {nth}")).collect();
    let big: Vec<&str> = html.iter().copied().chain(big.iter().map(String::as_str)).collect();
    let named = |name: &str| [format!("X-CDN-Provider: {name}"), format!("X-Origin-Secret: {name}-secret")];
    let (fastly, akamai, bunny) = (named("fastly"), named("akamai"), named("bunny"));
    let with = |name: &'static [String; 2], rest: &[&'static str]| -> Vec<&'static str> {
        [host, &name[0], &name[1]].into_iter().chain(rest.iter().copied()).collect()
    };
    let (fastly, akamai, bunny) =
        (&*Box::leak(Box::new(fastly)), &*Box::leak(Box::new(akamai)), &*Box::leak(Box::new(bunny)));
    vec![
        Case::new("GET /", &[host], 200, &html),
        Case::new("GET /", &[host, "X-CDN-Provider: unknown-cdn"], 200, &html),
        Case::new("GET /", &[host, "X-CDN-Provider: fastly", "X-CDN-Provider: bunny"], 200, &html),
        Case::new("GET /", &[host, "X-CDN-Provider: fastly", "CF-Ray: 8a1-FRA"], 200, &html),
        Case::new("GET /", &[host, "X-CDN-Provider: fastly", "X-Origin-Secret: almost-secret"], 200, &html),
        Case::new("GET /", &with(fastly, &["Cookie: a=1", "Authorization: Basic c3Bpbm5ha2Vy"]), 200, &html),
        Case::new("HEAD /a.png", &with(fastly, &["Accept-Encoding: gzip"]), 200, &html),
        Case::new("GET /a.png", &with(fastly, &[]), 200, &["Content-Length: 9", "Set-Cookie: a=1", "Vary: *"]),
        Case::new("GET /b.png", &with(fastly, &[]), 200, &["Content-Length: 9", "Set-Cookie: a=1"]),
        Case::new("GET /", &with(fastly, &[]), 200, &big),
        Case::new("GET /", &with(akamai, &["Accept-Encoding: br"]), 200, &html),
        Case::new("GET /", &with(akamai, &[]), 200, &["Content-Length: 9", EDGE_CONTROL]),
        Case::new("GET /a.png", &with(akamai, &[]), 200, &["Content-Length: 9", EDGE_CONTROL]),
        Case::new("GET /", &with(akamai, &[]), 200, &["Content-Length: 9", "Set-Cookie: a=1", EDGE_CONTROL]),
        Case::new("GET /", &with(bunny, &[]), 200, &["Content-Length: 9", EDGE_CONTROL]),
        Case::new("GET /x", &with(akamai, &[]), 200, &["Content-Length: 9", "Edge-Control: !no-store,Max-Age=1d"]),
        Case::new(
            "GET /x",
            &with(akamai, &[]),
            200,
            &["Content-Length: 9", "Edge-Control: no-store, max-age=1d", "Edge-Control: dca=esi", "Set-Cookie: a=1"],
        ),
        Case::new("GET /api/x", &with(akamai, &[]), 503, &["Content-Length: 9", "Edge-Control: no-store, max-age=1d"]),
        Case::new("GET /a.png", &with(akamai, &[]), 302, &["Content-Length: 9", "Edge-Control: no-store"]),
        Case::new("GET /", &with(akamai, &["Accept-Encoding: gzip"]), 200, &html),
        Case::new("GET /account/x", &with(bunny, &[]), 200, &html),
        Case::new("POST /api/x", &with(bunny, &["Content-Length: 5"]), 200, &html),
        Case::new("POST /api/x", &with(bunny, &["Content-Length: 1025"]), 200, &html),
        Case::new("GET /api/x", &with(bunny, &[]), 503, &["Content-Length: 9", "Cache-Control: max-age=3"]),
        Case::new("GET /x", &with(bunny, &["Accept: application/json"]), 500, &["Content-Length: 9"]),
        Case::new(
            "GET /x",
            &with(bunny, &["Accept-Language: de", "Accept-Encoding: gzip"]),
            502,
            &["Content-Length: 9"],
        ),
        Case::new("GET /x", &with(bunny, &[]), 204, &["Cache-Control: max-age=3"]),
        Case::new("GET /x", &with(bunny, &[]), 200, &["Content-Length: 9", "Transfer-Encoding: chunked"]),
        Case::new(
            "GET /x",
            &with(bunny, &["Range: bytes=0-9", "If-Range: W/\"a\"", "Accept-Encoding: gzip", "If-None-Match: W/\"a\""]),
            200,
            &html,
        ),
        Case::new("GET /x", &with(bunny, &["Range: bytes=0-9", "Accept-Encoding: gzip"]), 200, &html),
        Case::new(
            "GET /x",
            &with(bunny, &["Connection: close, X-Mine, X-CDN-Provider", "X-Mine: 1", "TE: trailers", "Keep-Alive: 5"]),
            200,
            &html,
        ),
        Case::new(
            "GET /x",
            &with(bunny, &["X-Forwarded-For: 198.51.100.1", "Forwarded: for=198.51.100.1", "X-Forwarded-Proto: https"]),
            200,
            &html,
        ),
        Case::new(
            "GET /x",
            &with(bunny, &["traceparent: nonsense", "tracestate: a=1", "X-Request-Id: a b"]),
            200,
            &html,
        ),
        Case::new("GET /x", &with(bunny, &["CDN-Loop: edgeshim, edgeshim, edgeshim, edgeshim"]), 200, &html),
        Case::new("GET /x", &[host, "Host: www.example.org"], 200, &html),
        Case::new("POST /x", &[host, "Content-Length: 4", "Transfer-Encoding: chunked"], 200, &html),
    ]
}

/// Returns the G2O fields for a request for `target` at the current time.
fn signed(target: &str) -> [String; 2] {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let data = format!("5, 192.0.2.9, 198.51.100.99, {now}, 1.2, n");
    let mac = Hmac::<Sha256>::new_from_slice(G2O_KEY.as_bytes()).unwrap().chain_update(&data).chain_update(target);
    let sign = STANDARD.encode(mac.finalize().into_bytes());
    [format!("X-Akamai-G2O-Auth-Data: {data}"), format!("X-Akamai-G2O-Auth-Sign: {sign}")]
}

fn explain(folder: &Path, arguments: &[String]) -> (i32, String, String) {
    let mut command = binary();
    command.arg("explain").args(arguments).current_dir(folder);
    let output = command.output().expect("the edgeshim binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Explains one case as JSON. Panics if the text output differs from the JSON output, or if an output contains a
/// secret.
fn explained(folder: &Path, case: &Case) -> Value {
    let mut arguments = case.arguments();
    let (code, text, err) = explain(folder, &arguments);
    assert_eq!((code, err.as_str()), (0, ""), "{}", case.name);
    arguments.push("--json".to_owned());
    let (code, json, err) = explain(folder, &arguments);
    assert_eq!((code, err.as_str()), (0, ""), "{}", case.name);
    let secrets = PRESET_NAMES.iter().chain(&["right", "almost"]).map(|name| format!("{name}-secret"));
    for secret in secrets.chain([G2O_KEY.to_owned(), "c3Bpbm5ha2Vy".to_owned()]) {
        assert!(!text.contains(&secret) && !json.contains(&secret), "{}: {secret}\n{text}\n{json}", case.name);
    }
    let json: Value = serde_json::from_str(&json).unwrap();
    let lines: Vec<_> = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, as_lines(&json), "{}", case.name);
    json
}

/// Returns the lines that the text output must have, for a JSON output.
fn as_lines(json: &Value) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut lines = vec![format!("request {} {}", text(&json["request"]["method"]), text(&json["request"]["path"]))];
    let with_why = |key: &str, word: &str| {
        json.get(key).map(|value| format!("{key} {} ({})", text(&value[word]), text(&value["why"])))
    };
    lines.extend(with_why("provider", "label"));
    lines.extend(with_why("proof", "word"));
    lines.extend(with_why("client", "address"));
    lines.extend(json.get("pull").map(|pull| match json.get("pull_sign") {
        Some(sign) => format!("pull {} ({})", text(pull), text(sign)),
        None => format!("pull {}", text(pull)),
    }));
    lines.extend(json.get("pop").map(|pop| match pop.as_str().unwrap() {
        "" => "pop not known".to_owned(),
        pop => format!("pop {pop}"),
    }));
    lines.extend(with_why("class", "name"));
    lines.extend(["rule", "admission"].iter().filter_map(|key| Some(format!("{key} {}", text(json.get(key)?)))));
    lines.extend(json.get("guards").map(|guards| {
        let guards: Vec<_> = guards.as_array().unwrap().iter().map(text).collect();
        format!("guards {}", if guards.is_empty() { "none".to_owned() } else { guards.join(", ") })
    }));
    lines.extend(["caching", "gzip", "page"].iter().filter_map(|key| Some(format!("{key} {}", text(json.get(key)?)))));
    lines.extend(json.get("answer").map(|response| match response.get("status") {
        Some(status) => format!("answer {status}: {}", text(&response["reason"])),
        None => format!("answer {}", text(&response["reason"])),
    }));
    for (what, key) in [("in", "to_origin"), ("dropped", "not_to_origin"), ("out", "to_cdn"), ("dropped", "not_to_cdn")]
    {
        for field in json[key].as_array().unwrap() {
            let line =
                format!("{what} {}: {} <- {}", text(&field["name"]), text(&field["value"]), text(&field["reason"]));
            lines.push(line.split_ascii_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    lines
}

/// Compares the explained lines of a head with the real lines. If `explain` shows a placeholder instead of a value,
/// compares only the name.
fn compare_fields(explained: &Value, real: &[(String, String)], ignored: &[&str], case: &str) {
    let hidden: Vec<(&str, &str)> = explained
        .as_array()
        .unwrap()
        .iter()
        .map(|field| (field["name"].as_str().unwrap(), field["value"].as_str().unwrap()))
        .filter(|(name, _)| !ignored.contains(name))
        .collect();
    let veiled = |name: &str| {
        hidden.iter().find(|(known, value)| *known == name && [MADE, EACH_RESPONSE, HIDDEN].contains(value)).is_some()
    };
    let mut wanted: Vec<(String, String)> = hidden
        .iter()
        .map(|&(name, value)| (name.to_owned(), if veiled(name) { String::new() } else { value.to_owned() }))
        .collect();
    let mut found: Vec<(String, String)> = real
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, _)| !ignored.contains(&name.as_str()))
        .map(|(name, value)| if veiled(&name) { (name, String::new()) } else { (name, value) })
        .collect();
    wanted.sort();
    found.sort();
    assert_eq!(wanted, found, "{case}");
}

/// Returns whether the reason is `as sent`, which means that the line is unchanged. Further text may follow.
fn is_as_sent(reason: &str) -> bool {
    reason == "as sent" || reason.starts_with("as sent: ")
}

/// Checks that each received line is either forwarded unchanged or reported as dropped.
fn every_line_is_explained(json: &Value, sent: &[String], there: &str, gone: &str, case: &str) {
    let of = |key: &str, kept_alone: bool| -> Vec<String> {
        let fields = json[key].as_array().unwrap().iter();
        let kept = fields.filter(|field| !kept_alone || is_as_sent(field["reason"].as_str().unwrap()));
        kept.map(|field| field["name"].as_str().unwrap().to_owned()).collect()
    };
    let mut explanations = [of(there, true), of(gone, false)].concat();
    let mut sent: Vec<_> = sent.iter().map(|field| field.split(':').next().unwrap().to_ascii_lowercase()).collect();
    explanations.sort();
    sent.sort();
    assert_eq!(explanations, sent, "{case}");
}

/// Sends the request of a case to a running shim. Returns the response, and the request that the origin received, if
/// any.
fn exchange_with(
    shim: &Shim,
    origin: &Origin,
    scripted: &Mutex<String>,
    case: &Case,
) -> (Response, Option<support::Request>) {
    let before = origin.requests().len();
    *scripted.lock().unwrap() = case.response();
    let mut raw = Raw::connect(shim.addr);
    raw.send(case.request());
    let response = if case.method == "HEAD" { raw.response_to_head() } else { raw.response() }.unwrap();
    (response, origin.requests().into_iter().nth(before))
}

/// Compares the explanation of each case with a running shim of the same configuration.
fn compare(configure: impl Fn(&Origin) -> Config, cases: &[Case]) {
    let scripted = Arc::new(Mutex::new(String::new()));
    let scripted_response = Arc::clone(&scripted);
    let origin = Origin::start(move |_, conn| {
        let scripted_response = scripted_response.lock().unwrap().clone();
        if conn.write_all(scripted_response.as_bytes()).is_ok() { After::Close } else { After::Reset }
    });
    let mut shim = Shim::start(configure(&origin));
    let mut explanations = Vec::new();
    for (nth, case) in cases.iter().enumerate() {
        // The User-Agent identifies the request in the log. No layer uses this field.
        let agent = format!("User-Agent: case/{nth}");
        let case = &Case {
            name: format!("{nth}: {}", case.name),
            fields: case
                .fields
                .iter()
                .filter(|field| !field.to_ascii_lowercase().starts_with("user-agent:"))
                .cloned()
                .chain([agent])
                .collect(),
            method: case.method.clone(),
            path: case.path.clone(),
            status: case.status,
            response: case.response.clone(),
        };
        let name = &case.name;
        let json = explained(&shim.dir, case);
        let (response, request) = exchange_with(&shim, &origin, &scripted, case);
        let refused = json.get("answer").is_some();
        assert_eq!(request.is_none(), refused, "{name}");
        if refused {
            assert_eq!(json["answer"]["status"], response.status, "{name}");
        } else {
            let request = request.unwrap();
            compare_fields(&json["to_origin"], &request.fields, &["connection"], name);
            every_line_is_explained(&json, &case.fields, "to_origin", "not_to_origin", name);
            every_line_is_explained(&json, &case.response, "to_cdn", "not_to_cdn", name);
        }
        // These fields depend on the connection and the time. `explain` does not know the length of a compressed body
        // or of the response to a refused request.
        let mut ignored = vec!["date", "connection", "transfer-encoding"];
        if json["gzip"].as_str().is_some_and(|text| text.starts_with("compressed")) || refused {
            ignored.push("content-length");
        }
        compare_fields(&json["to_cdn"], &response.fields, &ignored, name);
        explanations.push((name.clone(), json, response.status));
    }
    shim.signal("TERM");
    assert!(shim.wait_exit(PATIENCE).success());
    let log = std::fs::read_to_string(shim.dir.join("access.log")).unwrap();
    let lines: BTreeMap<_, _> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| (line["user_agent"].as_str().unwrap().to_owned(), line))
        .collect();
    for (nth, (name, json, status)) in explanations.iter().enumerate() {
        let Some(line) = lines.get(&format!("case/{nth}")) else {
            // A request with a malformed head is not a pull, so the request has no line in the log.
            assert_eq!(*status, 400, "{name} is not in the log");
            continue;
        };
        let first = |value: &Value| value.as_array().and_then(|all| all.first()).cloned().unwrap_or("".into());
        let guard = first(&json["guards"]);
        let pull = Some(&json["pull"]).filter(|pull| *pull != "unknown" && *pull != "edge");
        let explanations =
            [&json["provider"]["label"], &json["proof"]["word"], &json["client"]["address"], &json["pop"], &guard];
        let logged = ["provider", "proof", "client", "pop", "guard"].map(|key| &line[key]);
        assert_eq!(explanations, logged, "{name}");
        assert_eq!(line.get("pull").filter(|pull| **pull != "edge"), pull, "{name}: {line}");
        assert_eq!((&line["class"], &line["status"]), (&json["class"]["name"], &Value::from(*status)), "{name}");
    }
}

#[test]
fn explain_when_compared_with_shim_then_reports_the_same_fields_and_decisions() {
    let goldens = PRESET_NAMES.iter().enumerate().flat_map(|(nth, name)| Case::of_preset(name, nth * 3));
    let mut cases: Vec<_> = goldens.chain(more_cases()).collect();
    let [data, sign] = signed("/logo.png?v=1");
    let fields = ["Host: www.example.com", "X-CDN-Provider: akamai", &data, &sign];
    cases.push(Case::new("GET /logo.png?v=1", &fields, 200, RESPONSES[0].1));
    let all = [data.replace('5', "4"), sign];
    let fields = ["Host: www.example.com", "X-CDN-Provider: akamai", &all[0], &all[1]];
    cases.push(Case::new("GET /logo.png?v=1", &fields, 200, RESPONSES[0].1));
    assert!(cases.len() > 80, "there are only {} cases", cases.len());
    compare(|origin| every_preset(origin.url()), &cases);
}

#[test]
fn explain_when_config_rejects_requests_and_trusts_proxies_then_agrees_with_shim() {
    let host = "Host: www.example.com";
    let html = ["Content-Type: text/html", "Content-Length: 900"];
    let chain = "X-Forwarded-For: 203.0.113.1, 203.0.113.2, 127.0.0.9";
    let cases = [
        Case::new("GET /", &[host], 200, &html),
        Case::new("GET /", &[host, "X-Pulled-By: unknown-cdn"], 200, &html),
        Case::new("GET /", &[host, "X-Pulled-By: fastly"], 200, &html),
        Case::new("GET /", &["Host: www.example.org", "X-Pulled-By: fastly", "X-Key: right-secret"], 200, &html),
        Case::new("CONNECT /", &[host, "X-Pulled-By: fastly", "X-Key: right-secret"], 200, &html),
        Case::new("GET /", &[host, "X-Pulled-By: fastly", "X-Key: right-secret", "X-CDN-Provider: bunny"], 200, &html),
        Case::new(
            "GET /",
            &[
                host,
                "X-Pulled-By: fastly",
                "X-Key: right-secret",
                chain,
                "X-Forwarded-Proto: https",
                "Fastly-Client-IP: ::1",
            ],
            200,
            &html,
        ),
        Case::new("GET /", &[host, "X-Pulled-By: bunny", chain, "X-Forwarded-Host: www.example.net"], 503, &html),
    ];
    let config = |origin: &Origin| {
        Shim::config(origin.url()).with(
            r#"
            [server]
            hosts = ["www.example.com"]
            trusted_proxies = ["127.0.0.0/8"]
            [origin]
            host = "origin.example.com"
            max_in_flight = 8
            [identity]
            header = "X-Pulled-By"
            unknown = "reject"
            unverified = "reject"
            [access_log]
            output = "file:access.log"
            [rum]
            path = "/rum"
            [[provider]]
            name = "fastly"
            verify.secret = { header = "X-Key", values = ["right-secret"] }
            [[provider]]
            name = "bunny"
            "#,
        )
    };
    compare(config, &cases);
}

/// Returns the reason that `explain` reports for one header field.
fn reason<'a>(json: &'a Value, key: &str, name: &str) -> &'a str {
    let field = json[key].as_array().unwrap().iter().find(|field| field["name"] == name);
    field.unwrap_or_else(|| panic!("the field {name} is not in {key}: {json}"))["reason"].as_str().unwrap()
}

#[test]
fn explain_when_a_field_is_kept_changed_or_removed_then_reports_the_reason() {
    let folder = support::temp_dir();
    folder.write("edgeshim.toml", every_preset("127.0.0.1:1").to_string());
    let responses = |nth: usize| RESPONSES[nth].1;
    let named = |name: &str| [format!("X-CDN-Provider: {name}"), format!("X-Origin-Secret: {name}-secret")];
    for (name, path, field, nth, reasons) in [
        (
            "fastly",
            "/a.png",
            "Accept-Encoding: gzip",
            0,
            &[
                ("to_origin", "x-cdn-provider", "edgeshim decided"),
                ("to_origin", "x-request-id", "one id"),
                ("to_origin", "via", "RFC 9110"),
                ("to_origin", "cdn-loop", "RFC 8586"),
                ("to_origin", "accept-encoding", "as sent"),
                ("not_to_origin", "x-cdn-provider", "read by edgeshim"),
                ("not_to_origin", "x-origin-secret", "never passed on"),
                ("to_cdn", "content-type", "as sent"),
                ("to_cdn", "surrogate-control", "edge_ttl"),
                ("to_cdn", "surrogate-key", "as fastly reads them"),
                ("to_cdn", "content-encoding", "compressed"),
                ("to_cdn", "etag", "weak"),
                ("not_to_cdn", "pragma", "RFC 9111"),
                ("not_to_cdn", "cache-tag", "surrogate-key"),
                ("not_to_cdn", "content-length", "not known yet"),
                ("not_to_cdn", "x-hop", "hop-by-hop"),
                ("not_to_cdn", "etag", "rewritten"),
            ][..],
        ),
        (
            "azure",
            "/",
            "Connection: X-Mine",
            0,
            &[("not_to_origin", "connection", "hop"), ("not_to_cdn", "cache-tag", "azure has no")],
        ),
        (
            "bunny",
            "/a.png",
            "X-Forwarded-For: ::1",
            1,
            &[("not_to_origin", "x-forwarded-for", "trusted_proxies"), ("to_cdn", "cache-control", "the class's rule")],
        ),
        (
            "keycdn",
            "/",
            "Range: bytes=0-1",
            2,
            &[("to_cdn", "cache-control", "the guard set_cookie"), ("to_cdn", "set-cookie", "as sent")],
        ),
        (
            "akamai",
            "/",
            "Accept-Encoding: br",
            3,
            &[("not_to_cdn", "cdn-cache-control", "another CDN's"), ("not_to_cdn", "expires", "RFC 9111")],
        ),
        (
            "cloudflare",
            "/",
            "Accept: a",
            6,
            &[
                ("to_cdn", "cache-control", "a page"),
                ("to_cdn", "proxy-status", "RFC 9209"),
                ("to_cdn", "retry-after", "as sent"),
                ("not_to_cdn", "set-cookie", "the page replaces"),
            ],
        ),
        ("gcore", "/account/", "Accept: a", 2, &[("to_cdn", "cache-control", "never")]),
    ] {
        let [by_name, secret] = named(name);
        let case = Case::new(&format!("GET {path}"), &[&by_name, &secret, field], RESPONSES[nth].0, responses(nth));
        let json = explained(&folder, &case);
        for (key, field, part) in reasons {
            let reason = reason(&json, key, field);
            assert!(reason.contains(part), "{name}, {key}, {field}: {reason}");
        }
    }
}

#[test]
fn explain_when_edge_control_is_kept_or_removed_then_reports_the_reason() {
    let folder = support::temp_dir();
    folder.write("edgeshim.toml", every_preset("127.0.0.1:1").to_string());
    for (name, path, status, more, key, part) in [
        ("akamai", "/api/a", 200, None, "to_cdn", "as sent: akamai's own field"),
        ("akamai", "/a.png", 200, None, "not_to_cdn", "before the class's rule (cache.mode override)"),
        ("akamai", "/a.png", 200, Some("Vary: *"), "not_to_cdn", "before the class's rule (cache.mode override)"),
        ("akamai", "/account/a", 200, None, "not_to_cdn", "before the class's rule (cache.mode never)"),
        ("akamai", "/api/a", 200, Some("Set-Cookie: a=b"), "not_to_cdn", "the guard set_cookie"),
        ("akamai", "/api/a", 503, None, "not_to_cdn", "the guard error"),
        (
            "akamai",
            "/api/a",
            503,
            Some("Edge-Control: no-store, max-age=1"),
            "to_cdn",
            "cannot allow storing: the guard error",
        ),
        ("bunny", "/api/a", 200, None, "not_to_cdn", "another CDN's"),
    ] {
        let [by_name, secret] = [format!("X-CDN-Provider: {name}"), format!("X-Origin-Secret: {name}-secret")];
        let response: Vec<&str> = [EDGE_CONTROL].into_iter().chain(more).collect();
        let case = Case::new(&format!("GET {path}"), &[&by_name, &secret], status, &response);
        let json = explained(&folder, &case);
        let reason = reason(&json, key, "edge-control");
        assert!(reason.contains(part), "{name} {path} {status} {more:?}: {reason}");
    }
    let pull_fields = ["X-CDN-Provider: akamai", "X-Origin-Secret: akamai-secret"];
    let case = Case::new("GET /api/a", &pull_fields, 200, &[EDGE_CONTROL, "Akamai-Cache-Control: max-age=9"]);
    let json = explained(&folder, &case);
    let reason = reason(&json, "not_to_cdn", "akamai-cache-control");
    assert!(reason.contains("only Edge-Control"), "{reason}");
}

#[test]
fn explain_when_tags_or_targeted_field_are_removed_then_reports_the_reason() {
    let folder = support::temp_dir();
    folder.write("edgeshim.toml", every_preset("127.0.0.1:1").to_string());
    for (name, response, field, part) in [
        ("fastly", &["Cache-Tag: home, news"][..], "cache-tag", "the tags are in surrogate-key"),
        ("fastly", &["Cache-Tag: home, two words"], "cache-tag", "the tags that fastly accepts are in surrogate-key"),
        ("fastly", &["Cache-Tag: two words"], "cache-tag", "fastly accepts none of these tags"),
        ("fastly", &["Cache-Tag: ,"], "cache-tag", "has no cache tag"),
        ("fastly", &["Surrogate-Control: max-age=9", "Set-Cookie: a=b"], "surrogate-control", "the guard set_cookie"),
        ("fastly", &["Surrogate-Control: ,"], "surrogate-control", "has no directive"),
        ("cloudflare", &["CDN-Cache-Control: max-age=9"], "cdn-cache-control", "into cloudflare-cdn-cache-control"),
    ] {
        let pull_fields = [format!("X-CDN-Provider: {name}"), format!("X-Origin-Secret: {name}-secret")];
        let case = Case::new("GET /x", &pull_fields.each_ref().map(String::as_str), 200, response);
        let json = explained(&folder, &case);
        let reason = reason(&json, "not_to_cdn", field);
        assert!(reason.contains(part), "{name} {response:?}: {reason}");
    }
}

#[test]
fn explain_when_address_list_is_in_a_file_then_compares_the_peer_with_the_list() {
    let folder = support::temp_dir();
    folder.write("ranges.txt", "192.0.2.0/24\n");
    let provider = "[[provider]]\nname = \"bunny\"\nverify.addresses = [\"file:ranges.txt\"]";
    folder.write("edgeshim.toml", Shim::config("127.0.0.1:1").with(provider).to_string());
    let proof = |peer: &str| {
        let (code, out, err) =
            explain(&folder, &["--path", "/", "--provider", "bunny", "--peer", peer, "--json"].map(str::to_owned));
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        serde_json::from_str::<Value>(&out).unwrap()["proof"]["word"].clone()
    };
    assert_eq!(proof("192.0.2.7"), "addresses");
    assert_eq!(proof("::ffff:192.0.2.7"), "addresses");
    assert_eq!(proof("192.0.3.7"), "wrong_address");
    std::fs::remove_file(folder.join("ranges.txt")).unwrap();
    let (code, out, err) = explain(&folder, &["--path", "/"].map(str::to_owned));
    assert!(code == 2 && out.is_empty() && err.contains("ranges.txt"), "{code} {out} {err}");
}

#[test]
fn explain_when_path_is_served_from_memory_then_names_the_key_of_the_path() {
    let folder = support::temp_dir();
    folder.write("edgeshim.toml", Shim::config("127.0.0.1:1").with("[identity]\nunknown = \"reject\"").to_string());
    let json = explained(&folder, &Case::new("GET /status/images/beacon.gif?source=x", &[], 200, &[]));
    assert!(json["answer"]["reason"].as_str().unwrap().contains("beacon.path"), "{json}");
    assert!(json["answer"].get("status").is_none() && json["to_origin"].as_array().unwrap().is_empty(), "{json}");
}

#[test]
fn explain_when_field_is_malformed_then_exits_with_2_and_does_not_print_the_value() {
    let folder = support::temp_dir();
    for wrong in ["X-Origin-Secret my-secret", "X-Origin Secret: my-secret", "X-Origin-Secret: my-secret\u{7}"] {
        for argument in ["--request-header", "--response-header"] {
            let (code, out, err) = explain(&folder, &["--path", "/", argument, wrong].map(str::to_owned));
            assert!(code == 2 && out.is_empty() && !err.contains("my-secret"), "{code} {out} {err}");
            assert!(err.contains(argument) && err.contains("'Name: value'"), "{err}");
        }
    }
}
