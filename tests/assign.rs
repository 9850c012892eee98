//! Tests of experiments: the arm that the origin gets, forged fields, overrides, and what caches may do with a
//! response.

#![allow(clippy::unwrap_used, reason = "a failed test is a panic")]

mod support;

use std::collections::BTreeMap;

use support::h2::{H2, Pieces};
use support::raw::{Raw, exchange, request};
use support::shim::{Config, run};
use support::{Origin, Shim, origin};

const COMMON: &str = r#"
[server]
trusted_proxies = ["192.0.2.0/24"]
[access_log]
output = "file:access.log"
[[provider]]
name = "fastly"
[[provider]]
name = "akamai"
[[provider]]
name = "cloudflare"
[[class]]
name = "image"
path = ["*.png"]
cache = { mode = "override", ttl = "1h", edge_ttl = "1d" }
[[class]]
name = "page"
path = ["/page*"]
cache = { mode = "override", ttl = "1h", edge_ttl = "1d" }
"#;

const EXPERIMENT: &str = r#"
[[experiment]]
name = "CDN"
arms = { fastly = 50.0, akamai = 50.0 }
id = { cookie = "uaid" }
users = { "4711" = "fastly", "4712" = "akamai" }
groups = { header = "X-Group", arms = { staff = "akamai" } }
override = "diversity"
override_secret = "s3cret"
hosts = { fastly = "img-f.test" }
classes = ["page"]
"#;

fn config(origin: &Origin, experiment: &str) -> Config {
    Shim::config(origin.addr).with(COMMON).with(experiment)
}

/// Starts an origin, and a shim with an experiment in front of the origin.
fn start(experiment: &str) -> (Origin, Shim) {
    let origin = Origin::start(origin::fixed(200, &[("ETag", "\"a\""), ("Content-Type", "text/html")], "page"));
    let shim = Shim::start(config(&origin, experiment));
    (origin, shim)
}

/// A connection with HTTP/1.1 or HTTP/2.
enum Client {
    Http1(std::net::SocketAddr),
    Http2(Box<H2>),
}

impl Client {
    fn both(shim: &Shim) -> [Self; 2] {
        [Self::Http1(shim.addr), Self::Http2(Box::new(H2::connect(shim.addr)))]
    }

    /// Sends a GET, and returns the fields of the response.
    fn get(&mut self, target: &str, fields: &[(&str, &str)]) -> Vec<(String, String)> {
        match self {
            Self::Http1(address) => exchange(*address, request("GET", target, fields, b"")).fields,
            Self::Http2(client) => client.ask("GET", target, fields, Pieces::default()).fields,
        }
    }
}

fn field<'f>(fields: &'f [(String, String)], name: &str) -> Option<&'f str> {
    fields.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

#[test]
fn origin_when_visitor_has_an_arm_then_gets_exactly_one_field_on_both_protocols() {
    let (origin, shim) = start(EXPERIMENT);
    for mut client in Client::both(&shim) {
        for (target, fields, expected) in [
            ("/page", &[("Cookie", "a=1; uaid=4711")][..], vec!["fastly; host=img-f.test"]),
            (
                "/page",
                &[("Cookie", "uaid=4712"), ("X-Assign-CDN", "fastly"), ("X_Assign_CDN", "fastly")],
                vec!["akamai"],
            ),
            ("/page", &[("x-assign-cdn", "fastly")], vec![]),
            ("/page", &[("X-Group", "staff")], vec![]),
            ("/a.png", &[("Cookie", "uaid=4711"), ("X-Assign-CDN", "akamai"), ("X-Assign-Old", "b")], vec![]),
        ] {
            client.get(target, fields);
            let got = origin.last();
            assert_eq!(got.fields_named("x-assign-cdn"), expected, "{fields:?}");
            let names = got.fields.iter().map(|(name, _)| name.to_ascii_lowercase().replace('_', "-"));
            assert_eq!(names.filter(|name| name.starts_with("x-assign-")).count(), expected.len(), "{:?}", got.fields);
        }
    }
    // The client's Connection field must not remove the arm.
    let fields = [("Cookie", "uaid=4711"), ("Connection", "close, X-Assign-CDN, Cookie")];
    exchange(shim.addr, request("GET", "/page", &fields, b""));
    assert_eq!(origin.last().fields_named("x-assign-cdn"), ["fastly; host=img-f.test"]);
    let count = |metrics: &support::Metrics, arm| metrics.count("edgeshim_assignments_total", &[("arm", arm)]);
    shim.wait_metrics(|metrics| ["fastly", "akamai", "none"].map(|arm| count(metrics, arm)) == [3, 2, 4]);
}

#[test]
fn forged_field_when_in_trailers_then_does_not_reach_the_origin() {
    let (origin, shim) = start(EXPERIMENT);
    let head = "POST /page HTTP/1.1\r\nHost: shim.test\r\nTransfer-Encoding: chunked\r\n\
                Trailer: X-Assign-CDN, X_Assign_CDN, X-Sum\r\nTE: trailers\r\nConnection: close, te\r\n\r\n";
    let body = "1\r\nx\r\n0\r\nX-Assign-CDN: fastly\r\nX_Assign_CDN: fastly\r\nX-Sum: 1\r\n\r\n";
    let mut client = Raw::connect(shim.addr);
    assert_eq!(client.send(format!("{head}{body}")).response().unwrap().status, 200);
    let trailers = origin.last().trailers;
    assert_eq!(trailers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect::<Vec<_>>(), ["x-sum"]);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-assign-cdn", "fastly".parse().unwrap());
    trailers.insert("x-sum", "2".parse().unwrap());
    let body = Pieces { trailers: Some(trailers), ..Pieces::of(["x".into()]) };
    H2::connect(shim.addr).ask("POST", "/page", &[("Trailer", "X-Assign-CDN, X-Sum")], body);
    assert_eq!(origin.last().trailers, [("x-sum".to_owned(), "2".to_owned())]);
}

#[test]
fn forged_field_when_there_is_no_experiment_then_does_not_reach_the_origin_on_both_protocols() {
    let (origin, shim) = start("");
    for mut client in Client::both(&shim) {
        let fields = [("X-Assign-CDN", "fastly"), ("X_Assign_CDN", "fastly"), ("X-Assigned", "1")];
        client.get("/page", &fields);
        let names = origin.last().fields.into_iter().map(|(name, _)| name.to_ascii_lowercase());
        let kept: Vec<String> = names.filter(|name| name.contains("assign")).collect();
        assert_eq!(kept, ["x-assigned"]);
    }
}

#[test]
fn experiment_when_disabled_then_nobody_gets_an_arm_and_secrets_are_still_removed() {
    let (origin, shim) = start(&EXPERIMENT.replace("\narms =", "\nenabled = false\narms ="));
    for mut client in Client::both(&shim) {
        let fields = [("Cookie", "uaid=4711"), ("X-Assign-CDN", "fastly"), ("X-CDN-Provider", "fastly")];
        let response = client.get("/page?diversity=fastly.s3cret", &fields);
        assert_eq!(origin.last().field("x-assign-cdn"), None);
        assert_eq!(origin.last().target, "/page");
        assert_eq!(field(&response, "cache-control"), Some("max-age=3600"));
        assert_eq!(field(&response, "surrogate-control"), Some("max-age=86400"));
    }
    assert!(!shim.metrics().has("edgeshim_assignments_total", &[]));
}

#[test]
fn override_when_secret_is_right_then_selects_the_arm_and_the_secret_is_removed_everywhere() {
    let (origin, shim) = start(EXPERIMENT);
    let referer = "http://shim.test/page?diversity=akamai.s3cret&b=2";
    for mut client in Client::both(&shim) {
        for (target, sent, arm) in [
            ("/page?diversity=akamai.s3cret", "/page", Some("akamai")),
            ("/page?a=1&diversity=AKAMAI.s3%63ret&b=2", "/page?a=1&b=2", Some("akamai")),
            ("/page?diversity=akamai.s3cres", "/page", Some("fastly; host=img-f.test")),
            ("/page?diversity=akamai", "/page", Some("fastly; host=img-f.test")),
            ("/page?diversity=other.s3cret", "/page", Some("fastly; host=img-f.test")),
            ("/a.png?diversity=akamai.s3cret", "/a.png", None),
        ] {
            client.get(target, &[("Cookie", "uaid=4711"), ("Referer", referer)]);
            let got = origin.last();
            assert_eq!((got.target.as_str(), got.field("x-assign-cdn")), (sent, arm), "{target}");
            assert_eq!(got.field("referer"), Some("http://shim.test/page?b=2"));
        }
        // The beacon is not a pull, but its log line has the Referer.
        client.get("/status/images/beacon.gif?diversity=akamai.s3cret", &[("Referer", referer)]);
    }
    let all = || std::fs::read_to_string(shim.dir.join("access.log")).is_ok_and(|log| log.lines().count() == 14);
    assert!(support::wait_until(support::PATIENCE, all), "the log does not have a line for each request");
    let log = std::fs::read_to_string(shim.dir.join("access.log")).unwrap();
    assert!(!log.contains("s3c") && !log.contains("diversity"), "{log}");
    assert!(log.contains("/page?a=1&b=2") && log.contains("http://shim.test/page?b=2"), "{log}");
}

#[test]
fn group_when_sent_by_a_trusted_proxy_then_selects_the_arm() {
    let origin = Origin::start(origin::fixed(200, &[], "page"));
    let experiment = EXPERIMENT.to_owned();
    let common = COMMON.replace("192.0.2.0/24", "127.0.0.0/8");
    let shim = Shim::start(Shim::config(origin.addr).with(&common).with(&experiment));
    for mut client in Client::both(&shim) {
        client.get("/page", &[("X-Group", "staff")]);
        assert_eq!(origin.last().field("x-assign-cdn"), Some("akamai"));
        client.get("/page", &[("X-Group", "staff"), ("Cookie", "uaid=4711")]);
        assert_eq!(origin.last().field("x-assign-cdn"), Some("fastly; host=img-f.test"), "users come before groups");
    }
}

/// Returns Cache-Control, the CDN's own field and Vary of a response.
fn caching(fields: &[(String, String)]) -> [Option<&str>; 3] {
    let own = ["surrogate-control", "cloudflare-cdn-cache-control"].into_iter().find_map(|name| field(fields, name));
    [field(fields, "cache-control"), own, field(fields, "vary")]
}

#[test]
fn response_when_it_can_depend_on_an_arm_then_is_private_for_every_cdn() {
    let (_origin, shim) = start(EXPERIMENT);
    for mut client in Client::both(&shim) {
        for cdn in ["fastly", "akamai", "cloudflare", "unknown"] {
            for cookie in ["uaid=4711", "a=1"] {
                let page = client.get("/page", &[("X-CDN-Provider", cdn), ("Cookie", cookie)]);
                let [all, own, _] = caching(&page);
                assert_eq!((all, own), (Some("private"), None), "{cdn} {cookie}");
            }
            let image = client.get("/a.png", &[("X-CDN-Provider", cdn), ("Cookie", "uaid=4711")]);
            let [all, own, _] = caching(&image);
            assert!(!all.unwrap().contains("private"), "{cdn}: {image:?}");
            assert_eq!(own.is_some(), ["fastly", "cloudflare"].contains(&cdn));
        }
    }
    shim.wait_metrics(|metrics| metrics.count("edgeshim_cache_guards_total", &[("guard", "assignment")]) == 16);
}

#[test]
fn response_when_id_is_in_a_field_then_varies_for_fastly_and_is_private_for_others() {
    let experiment = EXPERIMENT.replace("cookie = \"uaid\"", "header = \"X-Visitor\"");
    let experiment = experiment.lines().filter(|line| !line.starts_with("groups")).collect::<Vec<_>>().join("\n");
    let (origin, shim) = start(&experiment);
    for mut client in Client::both(&shim) {
        let mut ask = |cdn: &str, target: &str, coding: &str| {
            let fields = [("X-CDN-Provider", cdn), ("X-Visitor", "4711"), ("Accept-Encoding", coding)];
            client.get(target, &fields)
        };
        let fastly = ask("fastly", "/page", "br");
        assert_eq!(origin.last().field("x-assign-cdn"), Some("fastly; host=img-f.test"));
        assert_eq!(caching(&fastly)[..2], [Some("max-age=3600"), Some("max-age=86400")]);
        assert!(field(&fastly, "vary").unwrap().contains("x-visitor"), "{fastly:?}");
        for cdn in ["akamai", "cloudflare", "none"] {
            assert_eq!(caching(&ask(cdn, "/page", "br"))[0], Some("private"), "{cdn}");
        }
        let forced = ask("fastly", "/page?diversity=akamai.s3cret", "br");
        assert_eq!(caching(&forced)[..2], [Some("private"), None]);
    }
}

#[test]
fn gzip_body_when_two_arms_have_different_bodies_of_one_length_then_each_arm_gets_its_own() {
    let origin = Origin::start(|request, conn| {
        let arm = request.field("x-assign-cdn").unwrap_or("none").chars().next().unwrap().to_string();
        let fields = [("ETag", "\"same\""), ("Content-Type", "text/html")];
        origin::respond(request, conn, 200, &fields, arm.repeat(5_000).as_bytes())
    });
    let experiment = EXPERIMENT.replace("cookie = \"uaid\"", "header = \"X-Visitor\"");
    let experiment = experiment.lines().filter(|line| !line.starts_with("groups")).collect::<Vec<_>>().join("\n");
    let shim = Shim::start(config(&origin, &experiment));
    for cdn in ["fastly", "akamai"] {
        for (visitor, arm) in [("4711", b'f'), ("4712", b'a')].repeat(3) {
            let fields = [("X-CDN-Provider", cdn), ("X-Visitor", visitor), ("Accept-Encoding", "gzip")];
            let response = exchange(shim.addr, request("GET", "/page", &fields, b""));
            assert_eq!(response.field("content-encoding"), Some("gzip"));
            let mut body = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(response.body.as_slice()), &mut body).unwrap();
            assert!(body.len() == 5_000 && body.iter().all(|&byte| byte == arm), "{cdn} {visitor}");
        }
    }
}

#[test]
fn assign_command_when_run_then_prints_the_arm_that_the_origin_gets() {
    let (origin, shim) = start(EXPERIMENT);
    let file = shim.dir.join("edgeshim.toml");
    let file = file.to_str().unwrap();
    let mut arms = BTreeMap::new();
    for id in 0..20 {
        let id = id.to_string();
        exchange(shim.addr, request("GET", "/page", &[("Cookie", &format!("uaid={id}"))], b""));
        let (code, out, err) = run(&["assign", "--config", file, "--id", &id, "--json"]);
        assert_eq!((code, err.as_str()), (0, ""));
        let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(shown[0]["value"].as_str(), origin.last().field("x-assign-cdn"), "{id}: {out}");
        *arms.entry(shown[0]["arm"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(arms.len(), 2, "{arms:?}");
    let text = |more: &[&str]| run(&[&["assign", "--config", file, "--id", "4711"], more].concat());
    assert_eq!(text(&[]), (0, "cdn: fastly (the id is in experiment.users)\n".to_owned(), String::new()));
    assert_eq!(text(&["--experiment", "cdn"]).0, 0);
    let (code, _, err) = text(&["--experiment", "other"]);
    assert!(code == 2 && err.contains("write one of cdn"), "{err}");
    let (_, out, _) = run(&["assign", "--config", file, "--id", "x", "--group", "staff"]);
    assert_eq!(out, "cdn: akamai (the group is in experiment.groups.arms)\n");
    assert_eq!(run(&["assign", "--config", file]).0, 2);
    assert_eq!(run(&["assign", "--config", file, "--id", ""]).0, 2);
    let (code, _, err) = run(&["assign", "--id", "1"]);
    assert!(code == 2 && err.contains("[[experiment]]"), "{err}");
}

#[test]
fn explain_when_visitor_has_an_arm_then_shows_the_arm_and_no_secret() {
    let (_origin, shim) = start(EXPERIMENT);
    let file = shim.dir.join("edgeshim.toml");
    let (code, out, _) = run(&[
        "explain",
        "--config",
        file.to_str().unwrap(),
        "--path",
        "/page?diversity=akamai.s3cret&a=1",
        "--request-header",
        "Referer: http://a.test/?diversity=akamai.s3cret",
        "--request-header",
        "X-Assign-CDN: fastly",
    ]);
    assert_eq!(code, 0, "{out}");
    assert!(!out.contains("s3cret"), "{out}");
    for part in [
        "GET /page?a=1\n",
        "arm       cdn: akamai (by the parameter of experiment.override)\n",
        "x-assign-cdn: akamai",
        "the visitor's arm ([[experiment]])",
        "sent by the client, so not trusted",
        "guards    assignment\n",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
}
