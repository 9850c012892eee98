//! Tests of the Cache-Control field of responses, with a running shim. They check modes and statuses, guards, classes
//! by path and by type, and `config/etsy.toml`. They also check that a response has at most one Cache-Control line and
//! no contradictions.

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use support::{After, Config, Origin, Raw, Response, Shim, origin, raw, shim};

/// Starts an origin that makes its response from the fields of the request: `X-Status` is the status of the response,
/// and each `X-Say` is a header field of the response. The body is `hello`, or empty for HEAD, 204 and 304.
fn obedient_origin() -> Origin {
    Origin::start(|request, conn| {
        let status: u16 = request.field("x-status").and_then(|status| status.parse().ok()).unwrap_or(200);
        let mut head = format!("HTTP/1.1 {status} X\r\n");
        for field in request.fields_named("x-say") {
            let _ = write!(head, "{field}\r\n");
        }
        let bodiless = status == 204 || status == 304;
        head.push_str(if bodiless { "\r\n" } else { "Content-Length: 5\r\n\r\n" });
        if !bodiless && request.method != "HEAD" {
            head.push_str("hello");
        }
        if conn.write_all(head.as_bytes()).is_ok() { After::Keep } else { After::Close }
    })
}

/// One class for each mode, and classes that single tests need.
const CLASSES: &str = r#"
[[class]]
name = "keep"
path = ["/keep/*"]
[[class]]
name = "default"
path = ["/default/*"]
cache = { mode = "default", ttl = "100s", error_ttl = "7s" }
[[class]]
name = "override"
path = ["/override/*"]
cache = { mode = "override", ttl = "100s", error_ttl = "7s" }
[[class]]
name = "never"
path = ["/never/*"]
cache = { mode = "never" }
[[class]]
name = "edge"
path = ["/edge/*"]
cache = { mode = "override", ttl = "10s", edge_ttl = "1h", stale_while_revalidate = "30s", stale_if_error = "1d" }
[[class]]
name = "stripped"
path = ["/stripped/*"]
cache = { mode = "override", ttl = "100s", strip_cookies = true, vary = ["Accept-Encoding"] }
[[class]]
name = "authorized"
path = ["/authorized/*"]
cache = { mode = "override", ttl = "100s", allow_authorization = true }
[[class]]
name = "own-errors"
path = ["/own-errors/*"]
cache = { mode = "override", ttl = "100s" }
whoopsie = "never"
[[class]]
name = "forever"
path = ["*.woff2"]
cache = { mode = "override", ttl = "365d", immutable = true }
[[class]]
name = "report"
path = ["/reports/*"]
content_type = ["text/csv"]
cache = { mode = "override", ttl = "300s" }
[[class]]
name = "html"
content_type = ["text/html", "application/xhtml+xml"]
cache = { mode = "override", ttl = "200s" }
"#;

fn classes(origin: &Origin) -> Config {
    Shim::config(origin.addr).with(CLASSES)
}

/// A client that sends many requests over one connection.
struct Connection(Raw);

impl Connection {
    fn new(shim: &Shim) -> Self {
        Self(Raw::connect(shim.addr))
    }

    fn ask(&mut self, method: &str, path: &str, status: u16, say: &[&str], fields: &[(&str, &str)]) -> Response {
        let status = status.to_string();
        let mut all = vec![("Connection", "keep-alive"), ("X-Status", status.as_str())];
        all.extend(say.iter().map(|field| ("X-Say", *field)));
        all.extend_from_slice(fields);
        self.0.send(raw::request(method, path, &all, b""));
        let response = if method == "HEAD" { self.0.response_to_head() } else { self.0.response() };
        let response =
            response.unwrap_or_else(|why| panic!("no response to {method} {path} {status} {say:?}: {why:?}"));
        assert_eq!(
            (response.status.to_string(), response.problems.len()),
            (status, 0),
            "{method} {path} {say:?}: {response:?}"
        );
        response
    }

    fn get(&mut self, path: &str, status: u16, say: &[&str]) -> Response {
        self.ask("GET", path, status, say, &[])
    }
}

/// Returns the directives in a response's Cache-Control, or an empty set if there is no such line. Panics if there is a
/// second line, a repeated directive, or a lifetime together with `no-store`, `no-cache` or `private`. Panics too if
/// the response has a caching field that only some CDNs read.
fn directives(response: &Response) -> BTreeSet<String> {
    let lines = response.fields_named("cache-control");
    assert!(lines.len() <= 1, "there are several Cache-Control lines: {lines:?}");
    let listed: Vec<_> =
        lines.iter().flat_map(|line| line.split(',')).map(|word| word.trim().to_ascii_lowercase()).collect();
    let directives: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(directives.len(), listed.len(), "a directive is repeated: {lines:?}");
    let has = |start: &str| directives.iter().any(|word| word.starts_with(start));
    let refused = has("no-store") || has("no-cache") || has("private");
    assert!(
        !(refused && (has("max-age") || has("s-maxage") || has("public"))),
        "the directives contradict each other: {lines:?}"
    );
    for gone in [
        "pragma",
        "cdn-cache-control",
        "cloudflare-cdn-cache-control",
        "edge-control",
        "akamai-cache-control",
        "x-accel-expires",
    ] {
        assert!(response.field(gone).is_none(), "{gone} was sent: {:?}", response.fields);
    }
    directives
}

fn set(line: &str) -> BTreeSet<String> {
    line.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

#[test]
fn cache_control_when_mode_and_status_vary_then_has_the_expected_directives() {
    let origin = obedient_origin();
    let shim = Shim::start(classes(&origin));
    let mut connection = Connection::new(&shim);
    // Each pair contains the origin's header fields and the directives that remain in the mode `keep`.
    let origin_fields = [
        (&[][..], ""),
        (&["Cache-Control: max-age=60"][..], "max-age=60"),
        (&["Cache-Control: private, max-age=60"][..], "private"),
        (&["Cache-Control: no-store"][..], "no-store"),
        (&["Cache-Control: no-cache"][..], "no-cache"),
    ];
    for status in [200, 203, 206, 301, 304, 308, 404, 410, 204, 302, 307, 400, 403, 500, 503, 511] {
        let given = match status {
            200 | 203 | 206 | 301 | 304 | 308 => Some("max-age=100"),
            404 | 410 => Some("max-age=7"),
            _ => None,
        };
        for (fields, tidied) in origin_fields {
            for mode in ["keep", "default", "override", "never"] {
                let wanted = match mode {
                    _ if status >= 500 => "no-store",
                    "never" => "no-store",
                    "default" if tidied.is_empty() => given.unwrap_or(tidied),
                    "override" => given.unwrap_or(tidied),
                    _ => tidied,
                };
                let response = connection.get(&format!("/{mode}/x"), status, fields);
                assert_eq!(directives(&response), set(wanted), "{mode}, {status}, {fields:?}: {:?}", response.fields);
            }
        }
    }
}

#[test]
fn cache_control_when_origin_sends_several_caching_fields_then_merged_into_one_line() {
    let origin = obedient_origin();
    let shim = Shim::start(classes(&origin));
    let mut connection = Connection::new(&shim);
    for (origin_fields, wanted) in [
        (&["Cache-Control: public", "Cache-Control: max-age=60"][..], "public, max-age=60"),
        (&["Cache-Control: max-age=60, max-age=10"], "max-age=10"),
        (&["Cache-Control: max-age=60", "Cache-Control: max-age=10"], "max-age=10"),
        (&["Cache-Control: public, max-age=60", "Cache-Control: no-store"], "no-store"),
        (&["Cache-Control: PUBLIC,Max-Age=60,,"], "public, max-age=60"),
        (&["Cache-Control: private, s-maxage=60"], "private"),
        (&["Pragma: no-cache"], "no-cache"),
        (&["Pragma: no-cache", "Cache-Control: max-age=60"], "max-age=60"),
        (&["Cache-Control: max-age=60", "Surrogate-Control: max-age=9", "CDN-Cache-Control: max-age=8"], "max-age=60"),
        (
            &["Cache-Control: max-age=60", "Cloudflare-CDN-Cache-Control: no-store", "Edge-Control: !no-store"],
            "max-age=60",
        ),
        (&["Cache-Control: max-age=60, no-transform"], "max-age=60, no-transform"),
        (&["Cache-Control: max-age=60, must-revalidate, x-own=1"], "max-age=60, must-revalidate, x-own=1"),
        (&["Date: Tue, 01 Jul 2025 00:00:00 GMT", "Expires: Tue, 01 Jul 2025 00:02:00 GMT"], "max-age=120"),
        (&["Expires: 0"], "max-age=0"),
    ] {
        let response = connection.get("/keep/x", 200, origin_fields);
        let mut wanted = set(wanted);
        let mut have = directives(&response);
        // This test does not check whether the origin's extension directives stay.
        wanted.remove("x-own=1");
        have.remove("x-own=1");
        assert_eq!(have, wanted, "{origin_fields:?}");
        assert!(response.field("surrogate-control").is_none(), "{:?}", response.fields);
        if let Some(expires) = response.field("expires") {
            let allowed = origin_fields.iter().any(|field| field.contains(expires));
            assert!(allowed, "the origin did not send this Expires: {expires}");
        }
    }
    let response = connection.get("/override/x", 200, &["Cache-Control: no-store", "Pragma: no-cache", "Expires: 0"]);
    assert_eq!(directives(&response), set("max-age=100"));
    assert!(response.field("expires").is_none(), "Expires contradicts max-age: {:?}", response.fields);
}

#[test]
fn lifetimes_when_class_sets_several_keys_then_all_are_written() {
    let origin = obedient_origin();
    let shim = Shim::start(classes(&origin));
    let mut connection = Connection::new(&shim);
    let edge = "max-age=10, s-maxage=3600, stale-while-revalidate=30, stale-if-error=86400";
    assert_eq!(directives(&connection.get("/edge/x", 200, &[])), set(edge));
    assert_eq!(directives(&connection.get("/edge/x", 200, &["Cache-Control: max-age=5, stale-if-error=1"])), set(edge));
    assert_eq!(directives(&connection.get("/fonts/a.WOFF2", 200, &[])), set("max-age=31536000, immutable"));
    // `no-transform` concerns the bytes and not caching, so every mode keeps `no-transform`.
    let kept = connection.get("/override/x", 200, &["Cache-Control: no-transform, private"]);
    assert_eq!(directives(&kept), set("max-age=100, no-transform"));
}

#[test]
fn guards_when_response_must_not_be_shared_then_override_the_mode_and_are_counted() {
    let origin = obedient_origin();
    let shim = Shim::start(classes(&origin));
    let mut connection = Connection::new(&shim);
    let count = |guard: &str| shim.metrics().value("edgeshim_cache_guards_total", &[("guard", guard)]).to_string();
    let cookie = "Set-Cookie: session=1; HttpOnly";

    for path in ["/override/x", "/default/x"] {
        let response = connection.get(path, 200, &[cookie]);
        assert_eq!(
            (directives(&response), response.field("set-cookie")),
            (set("private"), Some("session=1; HttpOnly")),
            "{path}"
        );
    }
    assert_eq!(
        directives(&connection.get("/keep/x", 200, &[cookie, "Cache-Control: public, max-age=60"])),
        set("private")
    );
    assert_eq!(count("set_cookie"), "3");
    let response = connection.get("/keep/x", 200, &[cookie, "Cache-Control: no-store"]);
    assert_eq!(
        (directives(&response), response.fields_named("set-cookie").len()),
        (set("no-store"), 1),
        "a guard must not apply to a response with no-store"
    );
    assert_eq!(count("set_cookie"), "3");

    let response = connection.get("/stripped/x", 200, &[cookie, "Set-Cookie: b=2", "Vary: Cookie, Accept-Encoding"]);
    assert_eq!((directives(&response), response.fields_named("set-cookie").len()), (set("max-age=100"), 0));
    assert_eq!(response.fields_named("vary"), ["Accept-Encoding"]);
    assert_eq!(count("cookie_stripped"), "1");

    let authorization = [("Authorization", "Basic YTpi")];
    let response = connection.ask("GET", "/override/x", 200, &["Cache-Control: max-age=60"], &authorization);
    assert_eq!(directives(&response), set("private"));
    assert_eq!(count("authorization"), "1");
    let allowed = directives(&connection.ask("GET", "/authorized/x", 200, &[], &authorization));
    assert!(allowed.contains("max-age=100") && !allowed.contains("private"), "{allowed:?}");
    assert_eq!(count("authorization"), "1");

    for path in ["/override/x", "/keep/x", "/stripped/x"] {
        let response = connection.get(path, 200, &["Vary: *", "Cache-Control: max-age=60"]);
        assert_eq!((directives(&response), response.field("vary")), (set("private"), Some("*")), "{path}");
    }
    assert_eq!(count("vary_star"), "3");

    // The guards `vary_user_agent` and `vary_cookie` are counted but do not change the response.
    let response = connection.get("/override/x", 200, &["Vary: User-Agent"]);
    assert_eq!((directives(&response), response.field("vary")), (set("max-age=100"), Some("User-Agent")));
    let response = connection.get("/override/x", 200, &["Vary: Accept, cookie"]);
    assert_eq!((directives(&response), response.field("vary")), (set("max-age=100"), Some("Accept, cookie")));
    // The origin's response for `/stripped/x` above has Cookie in Vary too, so `vary_cookie` counts 2.
    assert_eq!((count("vary_user_agent").as_str(), count("vary_cookie").as_str()), ("1", "2"));

    // This class has no whoopsie page. So the shim forwards the origin's 5xx, but makes it uncacheable.
    let origin_fields = ["Cache-Control: public, max-age=60", "Age: 5", "Expires: Tue, 01 Jul 2031 00:00:00 GMT"];
    let response = connection.get("/own-errors/x", 500, &origin_fields);
    assert_eq!((directives(&response), response.text().as_str()), (set("no-store"), "hello"));
    assert!(response.field("age").is_none() && response.field("expires").is_none(), "{:?}", response.fields);
    assert_eq!(count("error"), "1");
}

#[test]
fn response_when_method_is_not_get_or_head_then_gets_no_lifetime() {
    let origin = obedient_origin();
    let shim = Shim::start(classes(&origin));
    let mut connection = Connection::new(&shim);
    for method in ["POST", "DELETE", "OPTIONS"] {
        let fields = [("Content-Length", "0")];
        assert_eq!(directives(&connection.ask(method, "/override/x", 200, &[], &fields)), set(""), "{method}");
        assert_eq!(directives(&connection.ask(method, "/never/x", 200, &[], &fields)), set("no-store"), "{method}");
        let response = connection.ask(method, "/override/x", 200, &["Cache-Control: private"], &fields);
        assert_eq!(directives(&response), set("private"), "{method}");
    }
}

#[test]
fn class_when_several_classes_match_path_or_type_then_first_class_applies() {
    let origin = obedient_origin();
    let shim = Shim::start(classes(&origin));
    let mut connection = Connection::new(&shim);
    for (path, content_type, wanted) in [
        ("/x", Some("text/html; charset=utf-8"), "max-age=200"),
        ("/x", Some("TEXT/HTML"), "max-age=200"),
        ("/x", Some("application/xhtml+xml"), "max-age=200"),
        ("/x", Some("text/htmlx"), ""),
        ("/x", Some("image/png"), ""),
        ("/x", None, ""),
        // If an earlier class matches by path and a later class by type, the earlier class applies.
        ("/override/x", Some("text/html"), "max-age=100"),
        ("/a/b.woff2", Some("text/html"), "max-age=31536000, immutable"),
        // A class with a path and a type applies only if both match.
        ("/reports/x", Some("text/csv"), "max-age=300"),
        ("/reports/x", Some("text/html"), "max-age=200"),
        ("/other/x", Some("text/csv"), ""),
        // Paths match without regard to case and percent-encoding. The query is not part of the path.
        ("/OVERRIDE/x", None, "max-age=100"),
        ("/%6fverride/x", None, "max-age=100"),
        ("/a/b%2Ewoff2?c=d.png", None, "max-age=31536000, immutable"),
        ("/a?x=/override/x", None, ""),
        ("/a?b.woff2", None, ""),
    ] {
        let field = content_type.map(|value| format!("Content-Type: {value}"));
        let origin_fields: Vec<_> = field.iter().map(String::as_str).collect();
        let response = connection.get(path, 200, &origin_fields);
        assert_eq!(directives(&response), set(wanted), "{path} {content_type:?}");
        // The response to HEAD, a 206 and a 304 get the same directives as the 200.
        assert_eq!(
            directives(&connection.ask("HEAD", path, 200, &origin_fields, &[])),
            set(wanted),
            "HEAD {path} {content_type:?}"
        );
        let mut part = origin_fields.clone();
        part.push("Content-Range: bytes 0-4/10");
        assert_eq!(directives(&connection.get(path, 206, &part)), set(wanted), "206 of {path} {content_type:?}");
        assert_eq!(
            directives(&connection.get(path, 304, &origin_fields)),
            set(wanted),
            "304 of {path} {content_type:?}"
        );
    }
    // A 304 without a type can match classes by path only.
    assert_eq!(directives(&connection.get("/reports/x", 304, &[])), set("max-age=300"));
    assert_eq!(directives(&connection.get("/x", 304, &[])), set(""));
}

#[test]
fn page_when_origin_refuses_connections_then_has_no_store_in_every_mode() {
    let closed = origin::ClosedPort::new();
    let shim = Shim::start(Shim::config(closed.addr).with(CLASSES));
    for path in ["/keep/x", "/default/x", "/override/x", "/never/x", "/edge/x", "/a.woff2", "/own-errors/x", "/x"] {
        let response = raw::fetch(shim.addr, path, &[]);
        assert_eq!((response.status, directives(&response)), (502, set("no-store")), "{path}");
        for name in ["age", "expires", "etag", "last-modified", "surrogate-control"] {
            assert!(response.field(name).is_none(), "{name} was sent for {path}: {:?}", response.fields);
        }
    }
}

#[test]
fn etsy_config_when_used_then_only_the_listed_file_extensions_get_the_lifetime() {
    let origin = obedient_origin();
    let file =
        std::fs::read_to_string(shim::repository("config/etsy.toml")).expect("config/etsy.toml must be readable");
    let own = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[origin]\nurl = \"http://{}\"",
        origin.addr
    );
    let shim = Shim::start(Config::default().with(&file).with(&own));
    let mut connection = Connection::new(&shim);
    let three_years = set("max-age=94670800");
    for path in [
        "/a.gif",
        "/a.jpg",
        "/a.jpeg",
        "/a.png",
        "/a.css",
        "/a.js",
        "/il/deep/er/a.b.JPG",
        "/a.png?version=2",
        "/a%2Epng",
        "/.css",
    ] {
        for origin_fields in
            [&[][..], &["Cache-Control: private"], &["Cache-Control: no-store", "Pragma: no-cache"], &["Expires: 0"]]
        {
            for status in [200, 206, 304, 301] {
                let response = connection.get(path, status, origin_fields);
                assert_eq!(
                    directives(&response),
                    three_years,
                    "{path} {status} {origin_fields:?}: {:?}",
                    response.fields
                );
                assert!(response.field("expires").is_none(), "{path} {status} {origin_fields:?}");
            }
        }
        for status in [404, 500, 302, 403] {
            let response = connection.get(path, status, &[]);
            assert!(!directives(&response).contains("max-age=94670800"), "{path} {status}: {:?}", response.fields);
        }
        assert_eq!(directives(&connection.get(path, 500, &["Cache-Control: max-age=9"])), set("no-store"), "{path}");
    }
    for path in ["/", "/xpng", "/png", "/a.pngx", "/a.png/", "/a.js/b", "/a.jp", "/a?b.png", "/a.html", "/a.json"] {
        assert_eq!(directives(&connection.get(path, 200, &[])), set(""), "{path}");
        let response = connection.get(path, 200, &["Cache-Control: max-age=60"]);
        assert_eq!(directives(&response), set("max-age=60"), "{path}");
    }
    // HTML keeps the origin's directives. The pull is counted under the provider in the identity header.
    let html = "Content-Type: text/html; charset=utf-8";
    let response =
        connection.ask("GET", "/listing/1", 200, &[html, "Cache-Control: private"], &[("X-CDN-Provider", "EdgeCast")]);
    assert_eq!(directives(&response), set("private"));
    let pulls = [("provider", "edgecast"), ("class", "html"), ("code", "200")];
    shim.wait_metrics(|metrics| metrics.sum("edgeshim_pulls_total", &pulls) >= 1.0);
    assert_eq!(shim.metrics().value("edgeshim_pulls_total", &pulls).to_string(), "1");
}
