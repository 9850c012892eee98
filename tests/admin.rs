//! The admin listener: the numbers and the history of its page, annotations, server-sent events, log-in, and limits.
//! `tests/real/admin_page` opens the page in a browser.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::raw::{End, exchange, fetch, get, request};
use support::{Config, Metrics, Origin, PATIENCE, Raw, Response, Shim, origin, temp_dir, wait_until};

const TOKEN: &str = "correct-horse-battery";
const JSON: (&str, &str) = ("Content-Type", "application/json");
const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const TOTAL: &str = "edgeshim_annotations_total";

/// The longest wait for a summary or an event. This time is longer than [`PATIENCE`], because edgeshim takes a sample
/// only once a second.
const SECONDS: Duration = Duration::from_secs(15);

fn config(origin: &Origin) -> Config {
    Shim::config(origin.addr).with(
        "[[provider]]\nname = \"fastly\"\n[[provider]]\nname = \"akamai\"\n\
         [[class]]\nname = \"html\"\npath = [\"/news/*\"]\n[[class]]\nname = \"image\"\npath = [\"*.jpg\"]",
    )
}

fn locked(origin: &Origin) -> Shim {
    Shim::start(config(origin).with(&format!("[admin]\ntoken = \"{TOKEN}\"")))
}

fn annotate(admin: SocketAddr, fields: &[(&str, &str)], body: &str) -> Response {
    exchange(admin, request("POST", "/annotations", fields, body.as_bytes()))
}

fn annotations(admin: SocketAddr) -> Vec<Value> {
    fetch(admin, "/annotations", &[]).json()["annotations"].as_array().expect("a list").clone()
}

fn texts(admin: SocketAddr) -> Vec<String> {
    annotations(admin).iter().map(|one| one["text"].as_str().expect("a text").to_owned()).collect()
}

fn total(metrics: &Metrics) -> u64 {
    metrics.count(TOTAL, &[])
}

/// Returns the entry with a name, or null.
fn named(list: &Value, name: &str) -> Value {
    let found = list.as_array().expect("a list").iter().find(|entry| entry["name"] == name);
    found.cloned().unwrap_or_default()
}

/// Requests `/api/summary` again until `done` returns true for a response.
fn wait_summary(shim: &Shim, mut done: impl FnMut(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let reached = wait_until(SECONDS, || {
        last = fetch(shim.admin, "/api/summary", &[]).json();
        done(&last)
    });
    assert!(reached, "the last summary: {last:#}");
    last
}

/// Returns whether a share differs from `wanted` by less than 0.01.
fn is_about(share: &Value, wanted: f64) -> bool {
    share.as_f64().is_some_and(|share| (share - wanted).abs() < 0.01)
}

fn pull(shim: &Shim, provider: &str, path: &str) {
    fetch(shim.addr, path, &[("X-CDN-Provider", provider)]);
}

/// Opens a stream and reads its head.
fn stream(admin: SocketAddr) -> (Raw, Response) {
    let mut client = Raw::connect(admin);
    client.send(request("GET", "/api/events", &[("Host", &admin.to_string())], b""));
    let head = client.response_head().expect("a head");
    (client, head)
}

/// Reads a stream until the text that was read contains `part`. Returns this text.
fn read_until(client: &mut Raw, part: &str) -> String {
    let mut text = String::new();
    let end = Instant::now() + SECONDS;
    while !text.contains(part) {
        assert!(Instant::now() < end, "the stream does not contain {part:?}:\n{text}");
        text.push_str(&String::from_utf8_lossy(&client.some(part)));
    }
    text
}

// ---- numbers --------------------------------------------------------------------------------------------------------

#[test]
fn summary_when_providers_pull_then_has_rates_shares_and_quantiles_of_each_provider() {
    let origin = Origin::start(origin::fixed(200, &[], "x".repeat(1000)));
    let shim = Shim::start(config(&origin));
    let fresh = fetch(shim.admin, "/api/summary", &[]);
    assert_eq!((fresh.status, fresh.field("content-type")), (200, Some("application/json")));
    assert_eq!(fresh.field("cache-control"), Some("no-store"));
    // The first sample must exist before the pulls, so that the pulls are in a later sample.
    wait_summary(&shim, |summary| !summary["from"].is_null());
    for _ in 0..9 {
        pull(&shim, "fastly", "/news/1");
    }
    for _ in 0..3 {
        pull(&shim, "akamai", "/a.jpg");
    }
    let summary = wait_summary(&shim, |summary| {
        let share = |name| named(&summary["providers"], name)["share"].as_f64();
        share("fastly") == Some(0.75) && share("akamai") == Some(0.25)
    });
    let fastly = named(&summary["providers"], "fastly");
    let ratio = fastly["bytes"].as_f64().unwrap() / fastly["pulls"].as_f64().unwrap();
    assert!((ratio - 1000.0).abs() < 2.0, "{fastly}");
    for (key, wanted) in [("errors", 0.0), ("not_modified", 0.0), ("whoopsies", 0.0), ("beacons", 0.0)] {
        assert_eq!(fastly[key].as_f64(), Some(wanted), "{key}");
    }
    let quantile = |key: &str| fastly[key].as_f64().expect("a quantile");
    assert!(0.0 < quantile("p50") && quantile("p50") <= quantile("p95") && quantile("p95") <= quantile("p99"));
    // Without logs of the CDN the offload is not known.
    for key in ["offload_requests", "offload_bytes", "log_lag"] {
        assert_eq!(fastly.get(key), Some(&Value::Null), "{key}");
    }
    // The reason of the first pull is `first`. The other eight pulls are `expired`, because the lifetime is 0.
    assert_eq!((&fastly["reasons"]["first"], &fastly["reasons"]["expired"]), (&json!(0.1111), &json!(0.8889)));
    assert!(
        named(&summary["classes"], "html")["pulls"].as_f64() > named(&summary["classes"], "image")["pulls"].as_f64()
    );
    assert!(named(&summary["providers"], "none").is_null(), "a reserved provider without pulls is not listed");
    assert_eq!((&summary["outages"], &summary["version"]), (&json!([]), &json!(env!("CARGO_PKG_VERSION"))));

    let series = fetch(shim.admin, "/api/series?range=2m", &[]).json();
    let times = series["times"].as_array().unwrap();
    assert!((1..=120).contains(&times.len()) && series["step"] == 1);
    let pulls = series["providers"]["fastly"]["pulls"].as_array().unwrap();
    assert_eq!(pulls.len(), times.len());
    assert!(pulls.iter().any(|rate| rate.as_f64() > Some(0.0)), "{pulls:?}");
    assert_eq!(series["classes"]["image"]["p95"].as_array().unwrap().len(), times.len());
    for (query, step) in [("", 10), ("?range=1h", 10), ("?range=15m", 10)] {
        assert_eq!(fetch(shim.admin, &format!("/api/series{query}"), &[]).json()["step"], step, "{query}");
    }
    for query in ["?range=", "?range=2h", "?range=%00"] {
        assert_eq!(fetch(shim.admin, &format!("/api/series{query}"), &[]).status, 400, "{query}");
    }
    assert_eq!(fetch(shim.admin, "/api/nothing", &[]).status, 404);
}

#[test]
fn outage_when_one_provider_gets_5xx_then_names_provider_class_and_last_event() {
    let origin = Origin::start(|request, conn| {
        let fails = request.field("x-cdn-provider") == Some("fastly") && request.target.starts_with("/news/");
        origin::respond(request, conn, if fails { 503 } else { 200 }, &[], b"x")
    });
    let shim = Shim::start(config(&origin));
    wait_summary(&shim, |summary| !summary["from"].is_null());
    assert_eq!(annotate(shim.admin, &[JSON], r#"{"text":"deploy 1234"}"#).status, 201);
    let summary = wait_summary(&shim, |summary| {
        for provider in ["fastly", "akamai"] {
            pull(&shim, provider, "/news/1");
            pull(&shim, provider, "/a.jpg");
        }
        summary["outages"] != json!([])
    });
    let [outage] = &summary["outages"].as_array().unwrap()[..] else { panic!("not one outage: {summary:#}") };
    assert_eq!((&outage["subject"], &outage["ended"]), (&json!("fastly"), &Value::Null));
    assert_eq!(outage["before"]["text"], "deploy 1234");
    assert_eq!(outage["classes"].as_array().unwrap().len(), 1, "{outage:#}");
    assert_eq!(outage["classes"][0]["name"], "html");
    assert!(outage["share"].as_f64() > Some(0.3) && outage["began"].as_f64() <= summary["time"].as_f64(), "{outage:#}");
    let marks: Vec<_> = texts(shim.admin).into_iter().filter(|text| text.contains("5xx")).collect();
    assert_eq!(marks, ["fastly: 5xx reach 5 % of pulls (html)"]);
}

// ---- annotations ----------------------------------------------------------------------------------------------------

#[test]
fn annotation_when_posted_then_stored_counted_and_returned() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(config(&origin));
    let before = total(&shim.metrics());
    assert_eq!(before, 1, "the start of edgeshim must be marked");
    let posted = annotate(shim.admin, &[JSON], "{\"text\":\"deploy\\u0000\\r\\n 1234\\u202e\"}");
    assert_eq!(posted.status, 201, "{}", posted.text());
    let (id, time) = (posted.json()["id"].clone(), posted.json()["time"].as_f64().unwrap());
    let all = annotations(shim.admin);
    assert_eq!((all.len(), &all[0]["kind"], &all[1]["kind"]), (2, &json!("start"), &json!("note")));
    assert_eq!((&all[1]["id"], &all[1]["text"]), (&id, &json!("deploy 1234")), "control characters must be removed");
    assert!((all[1]["time"].as_f64().unwrap() - time).abs() < 0.001);
    assert_eq!(total(&shim.metrics()), before + 1);
    let long = json!({ "text": "é".repeat(300) }).to_string();
    assert_eq!(annotate(shim.admin, &[("Content-Type", "Application/JSON; charset=utf-8")], &long).status, 201);
    assert_eq!(texts(shim.admin)[2].chars().count(), 200);
}

#[test]
fn annotation_when_invalid_then_rejected_and_not_counted() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(config(&origin));
    let huge = format!("{{\"text\":\"{}\"}}", "x".repeat(4096));
    for (fields, body, status) in [
        (&[JSON][..], "", 400),
        (&[JSON], "{}", 400),
        (&[JSON], "[]", 400),
        (&[JSON], "{\"text\":5}", 400),
        (&[JSON], "{\"text\":\" \\n\"}", 400),
        (&[JSON], "{\"text\":\"a\",\"kind\":\"start\"}", 400),
        (&[JSON], "{\"text\":\"a\"", 400),
        (&[JSON], "{\"text\":\"a\",\"share\":{}}", 400),
        (&[JSON], "{\"text\":\"a\",\"share\":{\"fastly\":1}}", 400),
        (&[JSON], "{\"text\":\"a\",\"share\":{\"fastly\":0,\"akamai\":0}}", 400),
        (&[JSON], "{\"text\":\"a\",\"share\":{\"fastly\":-1,\"akamai\":2}}", 400),
        (&[JSON], "{\"text\":\"a\",\"share\":{\"fastly\":1e300,\"akamai\":2}}", 400),
        (&[JSON], "{\"text\":\"a\",\"share\":{\"fastly\":\"1\",\"akamai\":2}}", 400),
        (&[JSON], "{\"text\":\"a\",\"share\":{\"fastly\":1,\"cdn77\":2}}", 400),
        (&[JSON], "{\"text\":\" \",\"share\":{\"fastly\":1,\"akamai\":2}}", 400),
        (&[JSON], &huge, 413),
        (&[], "{\"text\":\"a\"}", 415),
        (&[("Content-Type", "text/plain")], "{\"text\":\"a\"}", 415),
        (&[FORM], "text=a", 415),
    ] {
        let response = annotate(shim.admin, fields, body);
        assert_eq!(response.status, status, "{fields:?} {body}: {}", response.text());
    }
    for method in ["PUT", "DELETE", "PATCH"] {
        let response = exchange(shim.admin, request(method, "/annotations", &[JSON], b"{\"text\":\"a\"}"));
        assert_eq!((response.status, response.field("allow")), (405, Some("GET, HEAD, POST")), "{method}");
    }
    assert_eq!((total(&shim.metrics()), annotations(shim.admin).len()), (1, 1));
}

#[test]
fn annotations_when_more_than_100_are_posted_then_the_last_100_and_the_start_are_kept() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(config(&origin));
    let mut client = Raw::connect(shim.admin);
    for number in 0..130 {
        let body = format!("{{\"text\":\"deploy {number}\"}}");
        let fields = [JSON, ("Connection", "keep-alive")];
        client.send(request("POST", "/annotations", &fields, body.as_bytes()));
        assert_eq!(client.response().expect("a response").status, 201);
    }
    let texts = texts(shim.admin);
    assert!(texts[0].starts_with("edgeshim "), "the mark of the start must be kept: {}", texts[0]);
    assert_eq!((texts.len(), texts[1].as_str(), texts[100].as_str()), (101, "deploy 30", "deploy 129"));
    assert_eq!(total(&shim.metrics()), 131);
}

#[test]
fn post_when_sent_by_a_page_of_another_site_then_refused() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(config(&origin));
    let note = "{\"text\":\"forged\"}";
    for forged in [
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Origin", "http://127.0.0.1:1"),
        ("Origin", ""),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ] {
        let response = annotate(shim.admin, &[JSON, forged], note);
        assert_eq!(response.status, 403, "{forged:?}");
        assert!(response.fields.iter().all(|(name, _)| !name.to_ascii_lowercase().starts_with("access-control")));
        let log_in = exchange(shim.admin, request("POST", "/log-in", &[FORM, forged], b"token=x"));
        assert_eq!(log_in.status, 403, "{forged:?}");
    }
    let post = |host: &str, origin: &str| {
        let head = format!("POST /annotations HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: close\r\n");
        exchange(shim.admin, format!("{head}Content-Type: application/json\r\nContent-Length: 17\r\n\r\n{note}"))
    };
    // DNS rebinding: the host name of another site resolves to the address of this listener.
    assert_eq!(post("evil.example", "http://evil.example").status, 403);
    assert_eq!(total(&shim.metrics()), 1);
    assert_eq!(post(&shim.admin.to_string(), &format!("http://{}", shim.admin)).status, 201);
    assert_eq!(annotate(shim.admin, &[JSON, ("Sec-Fetch-Site", "same-origin")], note).status, 201);
}

// ---- convergence ----------------------------------------------------------------------------------------------------

#[test]
fn share_step_when_announced_then_marked_and_reported_times_equal_client_times() {
    let origin = Origin::start(origin::fixed(200, &[], "x"));
    let shim = Shim::start(config(&origin));
    let mut clients = [Raw::connect(shim.addr), Raw::connect(shim.addr)];
    // In each round, each of ten clients pulls once. `moved` clients of Akamai have changed to Fastly.
    let mut round = |moved: usize| {
        for number in 0..10 {
            let position = usize::from(number >= 5 + moved);
            let provider = ("X-CDN-Provider", ["fastly", "akamai"][position]);
            clients[position].send(request("GET", "/a.jpg", &[provider, ("Connection", "keep-alive")], b""));
            assert_eq!(clients[position].response().expect("a response").status, 200);
        }
    };
    let before = wait_summary(&shim, |summary| {
        round(0);
        // A sample can be taken in the middle of a round.
        is_about(&named(&summary["providers"], "fastly")["share"], 0.5)
    });
    assert_eq!(before["convergence"], json!([]));
    let body = r#"{"text":"weights 50/50 to 90/10","share":{"Fastly":90,"akamai":10}}"#;
    let posted = annotate(shim.admin, &[JSON], body);
    let announced = Instant::now();
    assert_eq!(posted.status, 201, "{}", posted.text());
    let mark = annotations(shim.admin).pop().expect("an annotation");
    assert_eq!((&mark["kind"], &mark["text"]), (&json!("share"), &json!("weights 50/50 to 90/10")));
    // After two seconds, 75 % of the change arrives at once. After four seconds, the rest arrives.
    let (mut half, mut all) = (None, None);
    let mut waiting = true;
    let summary = wait_summary(&shim, |summary| {
        let seconds = announced.elapsed().as_secs_f64();
        let moved = if seconds < 2.0 {
            0
        } else if seconds < 4.0 {
            3
        } else {
            4
        };
        half = half.or((moved == 3).then_some(seconds));
        all = all.or((moved == 4).then_some(seconds));
        round(moved);
        let step = &summary["convergence"][0];
        waiting &= step["providers"][0]["t50"].is_null() || moved > 0;
        (0..2).all(|provider| step["providers"][provider]["t90"].is_object())
    });
    assert!(waiting, "a time must not be reported before its part has arrived");
    let step = &summary["convergence"][0];
    assert_eq!((&step["is_announced"], &step["text"]), (&json!(true), &json!("weights 50/50 to 90/10")));
    let names: Vec<_> = step["providers"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!((names, &step["providers"][1]["to"]), (vec![json!("akamai"), json!("fastly")], &json!(0.9)));
    assert!(is_about(&step["providers"][0]["from"], 0.5) && step["providers"][0]["to"] == 0.1, "{step}");
    for (key, wanted) in [("t50", half.unwrap()), ("t90", all.unwrap())] {
        for provider in 0..2 {
            let found = step["providers"][provider][key]["seconds"].as_f64().expect("a number of seconds");
            assert!((found - wanted).abs() <= 1.2, "{key}: {found} s, but the clients changed after {wanted} s");
        }
    }
}

#[test]
fn share_step_when_weights_are_refused_then_message_says_what_to_write() {
    let origin = Origin::start(origin::fixed(200, &[], "x"));
    let shim = Shim::start(config(&origin));
    for (share, part) in [
        (
            r#"{"fastly":1,"cdn77":2}"#,
            "The key share contains \"cdn77\", which is not a configured provider. Use: fastly, akamai.",
        ),
        (r#"{"fastly":1,"akamai":-2}"#, "share.akamai is -2. Write a number from 0 to 1000000."),
        (r#"{"akamai":1}"#, "The key share needs at least two providers"),
        (r#"{"Fastly":1,"akamai":2,"fastly":3}"#, "The key share contains fastly twice. Name each provider once;"),
    ] {
        let response = annotate(shim.admin, &[JSON], &format!("{{\"text\":\"a\",\"share\":{share}}}"));
        assert!(response.status == 400 && response.text().contains(part), "{share}: {}", response.text());
    }
    assert_eq!(annotations(shim.admin).len(), 1);
    let bare = Shim::start(Shim::config(origin.addr));
    let text = annotate(bare.admin, &[JSON], r#"{"text":"a","share":{"fastly":1,"akamai":2}}"#).text();
    assert!(
        text.ends_with("is not a configured provider. Write [[provider]] blocks into the configuration.\n"),
        "{text}"
    );
}

// ---- hosts ----------------------------------------------------------------------------------------------------------

#[test]
fn get_when_host_is_a_name_and_no_token_is_set_then_refused_except_for_probes_and_metrics() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(config(&origin));
    let status = |admin, path: &str, host: &str| fetch(admin, path, &[("Host", host)]).status;
    let port = shim.admin.port();
    for path in ["/", "/config", "/api/summary", "/api/series", "/api/top", "/api/events", "/annotations", "/nothing"] {
        let refused = fetch(shim.admin, path, &[("Host", &format!("evil.example:{port}"))]);
        assert_eq!(refused.status, 403, "{path}");
        assert!(refused.text().contains("configure admin.token"), "{}", refused.text());
    }
    for host in ["127.0.0.1", "127.0.0.1:1", "[::1]", "localhost", &format!("LocalHost:{port}"), ""] {
        assert_eq!(status(shim.admin, "/config", host), 200, "{host}");
    }
    assert_eq!(exchange(shim.admin, "GET /config HTTP/1.0\r\n\r\n").status, 200);
    for path in ["/metrics", "/livez", "/readyz"] {
        assert_eq!(status(shim.admin, path, "node-7.example"), 200, "{path}");
    }
    // With a token, another site cannot read anything, because a browser does not send the cookie to another host.
    let locked = locked(&origin);
    let fields = [("Host", "ops.example"), ("Authorization", &format!("Bearer {TOKEN}"))];
    assert_eq!(fetch(locked.admin, "/config", &fields).status, 200);
    assert_eq!(status(locked.admin, "/config", "ops.example"), 401);
}

#[test]
fn get_when_admin_listens_on_a_unix_socket_then_any_host_is_served() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let dir = temp_dir();
    let path = dir.join("admin");
    let config = config(&origin).with(&format!("[admin]\nlisten = \"unix:{}\"", path.display()));
    let _shim = Shim::start_in(dir, config);
    for host in ["", "localhost", "ops.example"] {
        let mut client = Raw::connect_unix(&path);
        client.send(request("GET", "/config", &[("Host", host)], b""));
        assert_eq!(client.response().expect("a response").status, 200, "{host}");
    }
}

// ---- log-in ---------------------------------------------------------------------------------------------------------

#[test]
fn log_in_when_token_is_right_then_cookie_opens_protected_paths() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = locked(&origin);
    for path in ["/", "/log-in"] {
        let form = fetch(shim.admin, path, &[("Accept", "text/html,*/*;q=0.8")]);
        assert_eq!((form.status, form.field("www-authenticate")), (401, Some("Bearer")), "{path}");
        assert!(form.text().contains("<form method=\"post\" action=\"/log-in\">"), "{path}: {}", form.text());
    }
    let log_in = |body: &str| exchange(shim.admin, request("POST", "/log-in", &[FORM], body.as_bytes()));
    for wrong in ["", "token=", "token=wrong", "token=correct-horse", &format!("token={TOKEN}x"), &format!("x={TOKEN}")]
    {
        let response = log_in(wrong);
        assert_eq!((response.status, response.field("set-cookie")), (401, None), "{wrong}");
        assert!(response.text().contains("This is not the token"), "{wrong}");
    }
    let right = log_in(&format!("token={TOKEN}"));
    assert_eq!((right.status, right.field("location")), (303, Some("/")));
    let cookie = right.field("set-cookie").expect("a cookie").to_owned();
    for part in ["; HttpOnly", "; SameSite=Strict", "; Path=/", "; Max-Age=43200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains(TOKEN));
    let value = cookie.split(';').next().unwrap();
    let session = ("Cookie", value);
    for path in ["/", "/config", "/api/summary", "/api/series", "/annotations"] {
        assert_eq!(fetch(shim.admin, path, &[session]).status, 200, "{path}");
        assert_eq!(fetch(shim.admin, path, &[]).status, 401, "{path}");
        assert_eq!(fetch(shim.admin, path, &[("Authorization", &format!("Bearer {TOKEN}"))]).status, 200, "{path}");
    }
    let again = fetch(shim.admin, "/log-in", &[session]);
    assert_eq!((again.status, again.field("location")), (303, Some("/")));
    assert_eq!(fetch(shim.admin, "/api/events", &[]).status, 401);
    assert_eq!(annotate(shim.admin, &[JSON], "{\"text\":\"a\"}").status, 401);
    assert_eq!(annotate(shim.admin, &[JSON, session], "{\"text\":\"a\"}").status, 201);
    let forged = format!("{}{}", &value[..value.len() - 1], if value.ends_with('0') { '1' } else { '0' });
    for bad in [forged.as_str(), "edgeshim_admin_session=", &format!("edgeshim_admin_session={TOKEN}")] {
        assert_eq!(fetch(shim.admin, "/config", &[("Cookie", bad)]).status, 401, "{bad}");
    }
    // Another process with the same token must refuse the session.
    assert_eq!(fetch(locked(&origin).admin, "/config", &[session]).status, 401);
    assert!(!shim.stderr().contains(TOKEN));
}

// ---- the page and its events ----------------------------------------------------------------------------------------

#[test]
fn page_when_opened_then_has_a_strict_content_security_policy() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(config(&origin));
    let page = fetch(shim.admin, "/", &[]);
    assert_eq!((page.status, page.field("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.field("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert_eq!((page.field("x-frame-options"), page.field("x-content-type-options")), (Some("DENY"), Some("nosniff")));
    assert!(page.field("access-control-allow-origin").is_none());
    let head = exchange(shim.admin, request("HEAD", "/", &[("Host", "localhost")], b""));
    assert_eq!(head.field("content-length"), Some(page.body.len().to_string().as_str()));
}

#[test]
fn event_stream_when_open_then_sends_events_every_second_and_annotations_at_once() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(config(&origin));
    let (mut client, head) = stream(shim.admin);
    assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")));
    read_until(&mut client, "event: second\ndata: {");
    let started = Instant::now();
    read_until(&mut client, "event: second\ndata: {");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let posted = Instant::now();
    assert_eq!(annotate(shim.admin, &[JSON], r#"{"text":"deploy 1234"}"#).status, 201);
    let text = read_until(&mut client, "deploy 1234");
    assert!(posted.elapsed() < Duration::from_secs(2), "{:?}", posted.elapsed());
    assert!(text.contains("event: annotation\ndata: {"), "{text}");
}

#[test]
fn event_stream_when_16_are_open_then_refused_with_503_until_a_stream_closes() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(config(&origin));
    let mut open: Vec<_> = (0..16).map(|_| stream(shim.admin)).collect();
    assert!(open.iter().all(|(_, head)| head.status == 200));
    let refused = fetch(shim.admin, "/api/events", &[]);
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("5")));
    assert_eq!(fetch(shim.admin, "/api/summary", &[]).status, 200, "other paths must still be served");
    open.pop();
    assert!(wait_until(PATIENCE, || stream(shim.admin).1.status == 200));
}

#[test]
fn connection_when_256_others_are_open_then_closed_until_the_others_end() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(config(&origin));
    let held: Vec<_> = (0..256).map(|_| Raw::connect(shim.admin)).collect();
    // Connections are accepted in the order in which they arrive.
    assert_eq!(Raw::connect(shim.admin).end(), End::Closed);
    drop(held);
    assert!(wait_until(PATIENCE, || {
        let mut client = Raw::connect(shim.admin);
        client.send(get("/livez"));
        client.response().is_ok_and(|response| response.status == 200)
    }));
}

#[test]
fn drain_when_started_then_marked_and_page_is_still_served() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(config(&origin).with("[server]\ndrain_delay = \"30s\""));
    shim.signal("TERM");
    assert!(wait_until(PATIENCE, || texts(shim.admin).contains(&"the drain begins".to_owned())));
    assert_eq!(fetch(shim.admin, "/", &[]).status, 200);
}
