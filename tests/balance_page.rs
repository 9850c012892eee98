//! `edgeshim balance serve`: the API of the page, who may use it, and requests that other sites cause. A real program
//! stores the weights.

#![allow(clippy::unwrap_used)] // a test fails by a panic

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::thread;

use serde_json::{Value, json};
use support::raw::{Response, exchange, request};
use support::shim::binary;
use support::{TempDir, temp_dir};

const TOKEN: &str = "s3cret-of-the-page";
const BEARER: (&str, &str) = ("Authorization", "Bearer s3cret-of-the-page");
const JSON: (&str, &str) = ("Content-Type", "application/json");
const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

/// A program that stores the last write in a file, and answers each read with this file. While the file `broken`
/// exists, each write fails. While the file `holds` exists, a write waits for a line from a pipe. After the file
/// `flaky` is made, the first read succeeds, and each further read fails.
const PROGRAM: &str = r#"#!/bin/sh
input=$(cat)
case "$input" in
  *'"op":"write"'*) [ ! -e broken ] || { echo 'planted' >&2; exit 1; }
     [ ! -e holds ] || { : > arrived; read -r line < pipe; }
     printf '%s' "$input" > state; echo '{}' ;;
  *) [ ! -e flaky ] || { [ ! -e was_read ] || { echo 'planted' >&2; exit 1; }; : > was_read; }
     if [ -e state ]; then cat state; else echo '{"nodes":{"a.example.com":null,"b.example.com":null}}'; fi ;;
esac
"#;

/// A program for another node. The program stores the last write in another file. While the file `hangs` exists, a read
/// waits for a line from a pipe.
const SLOW_PROGRAM: &str = r#"#!/bin/sh
input=$(cat)
case "$input" in
  *'"op":"write"'*) printf '%s' "$input" > slow_state; echo '{}' ;;
  *) [ ! -e hangs ] || read -r line < pipe
     if [ -e slow_state ]; then cat slow_state; else echo '{"nodes":{"c.example.com":null}}'; fi ;;
esac
"#;

/// A page that is served.
struct Served {
    child: Child,
    addr: SocketAddr,
    dir: TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn desk(serve: &str) -> TempDir {
    let dir = temp_dir();
    for (name, program) in [("weights", PROGRAM), ("slow", SLOW_PROGRAM)] {
        let path = dir.write(name, program);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("an executable file");
    }
    dir.write(
        "balance.toml",
        format!(
            "[[dns]]\nname = \"ours\"\nkind = \"command\"\ncommand = [\"./weights\"]\n[[target]]\nname = \"html\"\n\
             dns = [\"ours\"]\nzone = \"example.com\"\nnodes = [\"a.example.com\", \"b.example.com\"]\n\
             [target.providers]\nakamai = {{ cname = \"a.akamai.example\" }}\n\
             fastly = {{ cname = \"f.fastly.example\" }}\n\
             {serve}"
        ),
    );
    dir
}

fn balance(dir: &TempDir, arguments: &[&str]) -> Command {
    let mut command = binary();
    command.arg("balance").args(arguments).current_dir(&**dir).env_remove("SUDO_USER").env("USER", "alice");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Served {
    /// Serves a page after the first weights were written.
    fn start(serve: &str) -> Self {
        let dir = desk(&format!("[serve]\nlisten = \"127.0.0.1:0\"\n{serve}"));
        let init = balance(&dir, &["init", "--all", "--yes"]).output().expect("the edgeshim binary starts");
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        let mut child = balance(&dir, &["serve"]).spawn().expect("the edgeshim binary starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("standard output")).read_line(&mut line).expect("a line");
        let addr = line.trim().strip_prefix("edgeshim balance listens on http://").expect("the address");
        let addr = addr.parse().expect("an address");
        Self { child, addr, dir }
    }

    fn with_token() -> Self {
        Self::start(&format!("token = \"{TOKEN}\"\n"))
    }

    fn get(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        exchange(self.addr, request("GET", path, fields, b""))
    }

    fn post(&self, path: &str, fields: &[(&str, &str)], body: &Value) -> Response {
        exchange(self.addr, request("POST", path, &[&[JSON], fields].concat(), body.to_string().as_bytes()))
    }

    /// Posts with the token. Returns the status and the JSON.
    fn ask(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.post(path, &[BEARER], body);
        (response.status, response.json())
    }

    fn journal(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.join("balance.jsonl")).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
        lines.filter(|entry| entry["result"] != "started").collect()
    }

    /// Makes a preview. Returns the body of the change that the preview shows.
    fn preview(&self, mut body: Value) -> Value {
        let (status, preview) = self.ask("/api/preview", &body);
        assert_eq!(status, 200, "{preview}");
        body["preview"] = preview["preview"].clone();
        body
    }

    /// Makes a preview and the change that the preview shows.
    fn change(&self, body: Value) -> (u16, Value) {
        self.ask("/api/change", &self.preview(body))
    }

    /// Makes a pipe, at which a program waits.
    fn make_pipe(&self) {
        assert!(Command::new("mkfifo").arg(self.dir.join("pipe")).status().expect("mkfifo starts").success());
    }
}

fn errors(answer: &Value) -> String {
    answer["errors"].to_string()
}

#[test]
fn change_when_previewed_and_confirmed_then_is_made_and_noted_with_the_user() {
    let page = Served::with_token();
    let wanted = json!({ "targets": ["html"], "provider": "fastly", "pct": 62.5, "why": "first step" });
    let (status, preview) = page.ask("/api/preview", &wanted);
    assert_eq!((status, &preview["is_changed"], &preview["refusals"]), (200, &json!(true), &json!([])), "{preview}");
    let fastly = &preview["targets"][0]["providers"][1];
    assert_eq!(
        (&fastly["old"]["share"], &fastly["new"]["share"], &fastly["points"]),
        (&json!("50.0 %"), &json!("62.5 %"), &json!("+12.5 points")),
        "{preview}"
    );
    assert_eq!(page.journal().len(), 1, "a preview writes nothing");
    let (status, made) = page.change(wanted);
    assert_eq!((status, &made["result"]), (200, &json!("done")), "{made}");
    assert_eq!(made["nodes"].as_array().unwrap().len(), 2);
    let entry = page.journal().pop().unwrap();
    assert_eq!((&entry["who"], &entry["why"]), (&json!("token"), &json!("first step")));
    // The page and the command show the same values.
    let state = page.get("/api/state", &[BEARER]).json();
    let shown = balance(&page.dir, &["--all", "--json"]).output().unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    for provider in state["targets"][0]["providers"].as_array().unwrap() {
        let name = provider["name"].as_str().unwrap();
        for key in ["pct", "weight", "mode"] {
            assert_eq!(provider[key], shown["html"][name][key], "{name} {key}");
        }
    }
    assert_eq!(state["targets"][0]["providers"][1]["share"], "62.5 %");
    assert_eq!((&state["user"], &state["history"][0]["id"]), (&json!("token"), &made["id"]));
    assert_eq!(
        state["history"][0]["shares"][1],
        json!({
            "target": "html", "provider": "fastly", "from": "50.0 %", "to": "62.5 %"
        })
    );
    // The same change again changes nothing.
    let (status, again) = page.change(json!({ "targets": ["html"], "provider": "fastly", "pct": 62.5 }));
    assert_eq!((status, &again["is_changed"]), (200, &json!(false)), "{again}");
    assert_eq!(page.journal().len(), 2);
}

#[test]
fn wanted_share_when_a_provider_is_away_then_page_command_and_preview_show_the_share_of_the_clients() {
    let page = Served::with_token();
    // The state of the program becomes the state that `watch` writes when fastly goes away.
    let path = page.dir.join("state");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for node in state["nodes"].as_object_mut().unwrap().values_mut() {
        node["providers"]["fastly"]["away"] = true.into();
        node["providers"]["fastly"]["dns_weight"] = 0.into();
        node["providers"]["akamai"]["dns_weight"] = 1000.into();
    }
    std::fs::write(&path, state.to_string()).unwrap();
    let state = page.get("/api/state", &[BEARER]).json();
    let providers = &state["targets"][0]["providers"];
    let seen = [0, 1].map(|at| ["share", "served_pct", "pct"].map(|key| providers[at][key].clone()));
    assert_eq!(seen, [[json!("100.0 %"), json!(100.0), json!(50.0)], [json!("0.0 %"), json!(0.0), json!(50.0)]]);
    let shown = balance(&page.dir, &["--all", "--show"]).output().unwrap();
    let table = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(table.lines().any(|line| line.contains("fastly") && line.trim_end().ends_with(" 0.0 %")), "{table}");
    let (_, preview) = page.ask("/api/preview", &json!({ "targets": ["html"], "provider": "fastly", "pct": 40 }));
    assert_eq!(preview["targets"][0]["providers"][1]["old"]["share"], "0.0 %", "{preview}");
    // The history also shows the shares of the clients.
    let mut entry = page.journal().pop().unwrap();
    entry["from"] = entry["to"].clone();
    entry["to"]["html"]["fastly"]["away"] = true.into();
    (entry["action"], entry["id"]) = (json!("away"), json!("an-act-of-watch"));
    let mut journal = std::fs::OpenOptions::new().append(true).open(page.dir.join("balance.jsonl")).unwrap();
    writeln!(journal, "{entry}").unwrap();
    let shares = || page.get("/api/state", &[BEARER]).json()["history"][0]["shares"].clone();
    let wanted = json!([
        { "target": "html", "provider": "akamai", "from": "50.0 %", "to": "100.0 %" },
        { "target": "html", "provider": "fastly", "from": "50.0 %", "to": "0.0 %" }
    ]);
    assert!(support::wait_until(support::PATIENCE, || shares() == wanted), "{}", shares());
}

#[test]
fn state_when_a_service_does_not_respond_then_shows_the_other_targets_and_names_the_service() {
    let more = "[[dns]]\nname = \"slow\"\nkind = \"command\"\ncommand = [\"./slow\"]\ntimeout = \"60s\"\n[[target]]\n\
                name = \"late\"\ndns = [\"slow\"]\nzone = \"example.com\"\nnodes = [\"c.example.com\"]\n\
                [target.providers]\nakamai = { cname = \"a.akamai.example\" }\n\
                fastly = { cname = \"f.fastly.example\" }\n";
    let page = Served::start(&format!("token = \"{TOKEN}\"\n{more}"));
    let state = || page.get("/api/state", &[BEARER]).json();
    let before = state();
    assert_eq!(before["targets"][1]["providers"][0]["share"], "50.0 %", "{before}");
    page.make_pipe();
    page.dir.write("hangs", "");
    let problems = |state: &Value, target: usize| state["targets"][target]["problems"].to_string();
    // After a change, the earlier reading is too old.
    let wanted = json!({ "targets": ["html"], "provider": "fastly", "pct": 60 });
    assert_eq!(page.change(wanted).0, 200);
    let during = state();
    assert_eq!(during["targets"][0]["providers"][1]["share"], "60.0 %", "{during}");
    assert!(!problems(&during, 0).contains("slow"), "{during}");
    assert!(problems(&during, 1).contains("slow: has not responded for"), "{during}");
    std::fs::remove_file(page.dir.join("hangs")).unwrap();
    std::fs::write(page.dir.join("pipe"), "go\n").unwrap();
    assert!(support::wait_until(support::PATIENCE * 6, || problems(&state(), 1) == "[]"), "{}", state());
}

#[test]
fn cost_when_there_are_no_samples_then_page_shows_unknown_and_not_zero() {
    let prices = "[[price]]\nprovider = \"akamai\"\nmeter = \"bytes\"\ntiers = [{ per_gb = 0.1 }]\n";
    let page = Served::start(&format!("token = \"{TOKEN}\"\n{prices}"));
    let state = page.get("/api/state", &[BEARER]).json();
    let rows = &state["cost"]["rows"];
    assert_eq!((&rows[1][0], &rows[1][3], &rows[1][5]), (&json!("akamai"), &json!("unknown"), &json!("unknown")));
    assert!(state["cost"]["notes"].to_string().contains("there are no samples"), "{state}");
    let (_, preview) = page.ask("/api/preview", &json!({ "targets": ["html"], "provider": "fastly", "pct": 60 }));
    assert_eq!(preview["warnings"], json!([]), "{preview}");
}

#[test]
fn change_when_dns_has_changed_since_the_preview_then_is_refused() {
    let page = Served::with_token();
    let mut wanted = json!({ "targets": ["html"], "provider": "fastly", "pct": 60 });
    let (_, preview) = page.ask("/api/preview", &wanted);
    let other = balance(&page.dir, &["--all", "-p", "fastly", "--pct", "55", "--yes"]).output().unwrap();
    assert!(other.status.success());
    wanted["preview"] = preview["preview"].clone();
    let (status, refused) = page.ask("/api/change", &wanted);
    assert!(status == 409 && errors(&refused).contains("DNS is no longer as it was shown"), "{status} {refused}");
    // The preview is also not valid for another change.
    let (_, preview) = page.ask("/api/preview", &wanted);
    wanted["preview"] = preview["preview"].clone();
    wanted["pct"] = 70.into();
    assert_eq!(page.ask("/api/change", &wanted).0, 409);
    for malformed in ["", "x", &"A".repeat(64)] {
        wanted["preview"] = malformed.into();
        let (status, refused) = page.ask("/api/change", &wanted);
        assert!(status == 400 && errors(&refused).contains("is not a digest"), "{status} {refused}");
    }
    wanted.as_object_mut().unwrap().remove("preview");
    let (status, refused) = page.ask("/api/change", &wanted);
    assert!(status == 400 && errors(&refused).contains("is missing; copy its value"), "{status} {refused}");
    assert_eq!(page.journal().len(), 2, "only init and the change of the command");
}

#[test]
fn change_when_another_change_is_being_written_then_is_refused() {
    let page = Served::with_token();
    let fastly = |pct: u32| page.preview(json!({ "targets": ["html"], "provider": "fastly", "pct": pct }));
    let (first, second) = (fastly(60), fastly(55));
    page.make_pipe();
    page.dir.write("holds", "");
    let (status, made) = thread::scope(|scope| {
        let first = scope.spawn(|| page.ask("/api/change", &first));
        assert!(support::wait_until(support::PATIENCE * 2, || page.dir.join("arrived").exists()));
        let (status, refused) = page.ask("/api/change", &second);
        let part = "another change of this page is in progress; wait until it has ended";
        assert!(status == 409 && errors(&refused).contains(part), "{status} {refused}");
        let command = balance(&page.dir, &["--all", "-p", "fastly", "--pct", "52", "--yes"]).output().unwrap();
        let text = String::from_utf8_lossy(&command.stderr);
        let part = "another change is in progress (\"token, process ";
        assert!(command.status.code() == Some(1) && text.contains(part), "{text}");
        std::fs::remove_file(page.dir.join("holds")).unwrap();
        std::fs::write(page.dir.join("pipe"), "go\n").unwrap();
        first.join().expect("the first change")
    });
    assert_eq!((status, &made["result"]), (200, &json!("done")), "{made}");
    // The second preview is too old now.
    let (status, refused) = page.ask("/api/change", &second);
    assert!(status == 409 && errors(&refused).contains("DNS is no longer as it was shown"), "{status} {refused}");
    let state = page.get("/api/state", &[BEARER]).json();
    assert_eq!(state["targets"][0]["providers"][1]["share"], "60.0 %", "{state}");
    assert_eq!(page.journal().len(), 2, "only init and the first change");
}

#[test]
fn changes_when_confirmed_at_the_same_moment_then_one_is_made_and_the_others_are_refused() {
    let page = Served::with_token();
    let bodies = [55, 60, 65].map(|pct| page.preview(json!({ "targets": ["html"], "provider": "fastly", "pct": pct })));
    let start = Barrier::new(bodies.len());
    let answers: Vec<(u16, Value)> = thread::scope(|scope| {
        let post = |body| {
            start.wait();
            page.ask("/api/change", body)
        };
        let posts: Vec<_> = bodies.iter().map(|body| scope.spawn(move || post(body))).collect();
        posts.into_iter().map(|post| post.join().expect("an answer")).collect()
    });
    let (won, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| *status == 200);
    assert_eq!((won.len(), page.journal().len()), (1, 2), "{answers:?}");
    for (status, answer) in refused {
        let text = errors(answer);
        let is_clear = text.contains("another change of this page is in progress") || text.contains("DNS is no longer");
        assert!(*status == 409 && is_clear, "{status} {answer}");
    }
}

#[test]
fn change_when_step_is_too_large_then_needs_a_reason_and_a_failure_is_put_back() {
    let page = Served::with_token();
    let mut wanted = json!({ "targets": ["html"], "provider": "fastly", "pct": 90 });
    let (_, preview) = page.ask("/api/preview", &wanted);
    assert_eq!(preview["refusals"][0]["can_be_forced"], true, "{preview}");
    let (status, refused) = page.change(wanted.clone());
    assert!(status == 422 && errors(&refused).contains("max_step allows 25"), "{status} {refused}");
    assert!(!errors(&refused).contains("--force"), "the page has no flags: {refused}");
    wanted["force"] = " ".into();
    assert_eq!(page.ask("/api/preview", &wanted).0, 400, "a reason must not be empty");
    wanted["force"] = "fastly is needed".into();
    page.dir.write("broken", "");
    let (status, failed) = page.change(wanted.clone());
    assert!(status == 502 && errors(&failed).contains("all nodes are as before"), "{status} {failed}");
    std::fs::remove_file(page.dir.join("broken")).unwrap();
    let (status, made) = page.change(wanted);
    assert_eq!((status, &made["result"]), (200, &json!("done")), "{made}");
    assert_eq!(page.journal().pop().unwrap()["force"], "fastly is needed");
    // Without a reason, the last provider that is served cannot be taken away.
    let none = json!({ "targets": ["html"], "provider": "akamai", "mode": "no" });
    assert_eq!(page.change(none).0, 200, "a step of 10 points");
    let (_, last) = page.ask("/api/preview", &json!({ "targets": ["html"], "provider": "fastly", "mode": "no" }));
    assert!(last["refusals"].to_string().contains("the last provider that is served"), "{last}");
}

#[test]
fn change_when_journal_or_dns_service_fails_after_the_plan_then_response_is_502_and_dns_is_unchanged() {
    let page = Served::with_token();
    let body = page.preview(json!({ "targets": ["html"], "provider": "fastly", "pct": 60 }));
    let state = std::fs::read(page.dir.join("state")).unwrap();
    // The lock of the journal must not be a symbolic link, also for root.
    let lock = page.dir.join("balance.jsonl.lock");
    let _ = std::fs::remove_file(&lock);
    std::os::unix::fs::symlink(page.dir.join("elsewhere"), &lock).unwrap();
    let (status, failed) = page.ask("/api/change", &body);
    assert!(status == 502 && errors(&failed).contains("cannot be written"), "{status} {failed}");
    std::fs::remove_file(&lock).unwrap();
    page.dir.write("flaky", "");
    let (status, failed) = page.ask("/api/change", &body);
    assert!(page.dir.join("was_read").exists(), "the plan was made");
    assert!(status == 502 && errors(&failed).contains("planted"), "{status} {failed}");
    assert_eq!(std::fs::read(page.dir.join("state")).unwrap(), state);
    assert_eq!(page.journal().len(), 1, "only init");
}

#[test]
fn body_when_wrong_then_is_refused_with_a_remedy() {
    let page = Served::with_token();
    for (body, part) in [
        (json!({}), "missing field"),
        (json!([]), "for example"),
        (json!({ "targets": [], "provider": "fastly", "pct": 5 }), "at least one target"),
        (json!({ "targets": ["htm"], "provider": "fastly", "pct": 5 }), "write one of html"),
        (json!({ "targets": ["html"], "provider": "edgecast", "pct": 5 }), "write one of akamai, fastly"),
        (json!({ "targets": ["html"], "provider": "fastly" }), "write weight, pct or mode"),
        (json!({ "targets": ["html"], "provider": "fastly", "pct": 101 }), "from 0 to 100"),
        (json!({ "targets": ["html"], "provider": "fastly", "pct": -1 }), "from 0 to 100"),
        (json!({ "targets": ["html"], "provider": "fastly", "pct": 0.05 }), "0.1 %"),
        (json!({ "targets": ["html"], "provider": "fastly", "pct": 1e300 }), "from 0 to 100"),
        (json!({ "targets": ["html"], "provider": "fastly", "weight": 16 }), "from 1 to 15"),
        (json!({ "targets": ["html"], "provider": "fastly", "weight": 5, "pct": 5 }), "write one of them"),
        (json!({ "targets": ["html"], "provider": "fastly", "mode": "off" }), "always, obey, remove, no"),
        (json!({ "targets": ["html"], "provider": "fastly", "pct": 5, "why": "x".repeat(501) }), "at most 500"),
        (json!({ "targets": ["html"], "provider": "fastly", "pct": 5, "more": 1 }), "unknown field"),
    ] {
        let (status, refused) = page.ask("/api/preview", &body);
        assert!(status == 400 && errors(&refused).contains(part), "{body}: {status} {refused}");
        assert_eq!(page.ask("/api/change", &body).0, 400, "{body}");
    }
    let large = vec![b' '; 16 * 1024 + 1];
    let posted = |fields: &[(&str, &str)], body: &[u8]| {
        exchange(page.addr, request("POST", "/api/preview", &[&[BEARER], fields].concat(), body)).status
    };
    assert_eq!((posted(&[JSON], &large), posted(&[FORM], b"{}"), posted(&[], b"{}")), (413, 415, 415));
    assert_eq!(page.post("/api/state", &[BEARER], &json!({})).status, 405);
    assert_eq!(page.get("/api/change", &[BEARER]).status, 405);
    assert_eq!(page.get("/nothing", &[BEARER]).status, 404);
    assert_eq!(page.journal().len(), 1, "only init");
}

#[test]
fn request_when_token_is_missing_or_wrong_then_is_refused_and_log_in_gives_a_strict_cookie() {
    let page = Served::with_token();
    let body = json!({ "targets": ["html"], "provider": "fastly", "pct": 60 });
    let wrong = ("Authorization", "Bearer wrong");
    for fields in
        [&[][..], &[wrong], &[("Cookie", "edgeshim_balance_session=9999999999.00")], &[("X-Remote-User", "alice")]]
    {
        assert_eq!(page.get("/api/state", fields).status, 401, "{fields:?}");
        assert_eq!(page.post("/api/preview", fields, &body).status, 401, "{fields:?}");
        assert_eq!(page.post("/api/change", fields, &body).status, 401, "{fields:?}");
    }
    assert_eq!(page.get("/livez", &[]).status, 200);
    for path in ["/", "/log-in"] {
        let form = page.get(path, &[("Accept", "text/html")]);
        assert!(form.status == 401 && form.text().contains("serve.token"), "{path}: {}", form.text());
    }
    let log_in = |token: &str, fields: &[(&str, &str)]| {
        let body = format!("token={token}");
        exchange(page.addr, request("POST", "/log-in", &[&[FORM], fields].concat(), body.as_bytes()))
    };
    assert_eq!(log_in("wrong", &[]).status, 401);
    assert_eq!(log_in(TOKEN, &[("Origin", "http://evil.example")]).status, 403);
    let logged_in = log_in(TOKEN, &[]);
    let cookie = logged_in.field("set-cookie").expect("a cookie");
    assert!(logged_in.status == 303 && cookie.contains("HttpOnly; SameSite=Strict") && !cookie.contains(TOKEN));
    let cookie = ("Cookie", cookie.split(';').next().unwrap());
    let shown = page.get("/", &[cookie]);
    let policy = shown.field("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(page.get("/api/state", &[cookie]).status, 200);
    let again = page.get("/log-in", &[cookie]);
    assert_eq!((again.status, again.field("location")), (303, Some("/")));
    // If a browser ignores SameSite, a request that a page of another site causes has the cookie.
    let origin = format!("http://{}", page.addr);
    let host = page.addr.to_string();
    let host = ("Host", &*host);
    for fields in [
        &[("Origin", "http://evil.example")][..],
        &[("Origin", "null")],
        &[("Referer", "http://evil.example/page")],
        &[("Origin", &origin), ("Referer", "http://evil.example/page")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site"), ("Origin", &origin)],
    ] {
        for path in ["/api/preview", "/api/change"] {
            let refused = page.post(path, &[fields, &[host, cookie]].concat(), &body);
            assert_eq!(refused.status, 403, "{path} {fields:?}");
        }
    }
    let same = [host, cookie, ("Origin", &*origin), ("Sec-Fetch-Site", "same-origin")];
    assert_eq!(page.post("/api/preview", &same, &body).status, 200);
}

#[test]
fn user_when_named_by_a_trusted_proxy_then_is_in_the_journal() {
    let block = "user_header = \"X-Remote-User\"\ntrusted_proxies = [\"127.0.0.1\"]\nhost = \"balance.example.com\"\n";
    let page = Served::start(block);
    let body = json!({ "targets": ["html"], "provider": "fastly", "mode": "always" });
    let post = |host: &str, user: &str, origin: &str, path: &str, body: &Value| {
        let text = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nX-Remote-User: {user}\r\nOrigin: {origin}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        exchange(page.addr, head.into_bytes())
    };
    let right = "balance.example.com";
    let preview = post(right, "alice", "https://balance.example.com", "/api/preview", &body);
    assert_eq!(preview.status, 200, "{}", preview.text());
    let mut change = body.clone();
    change["preview"] = preview.json()["preview"].clone();
    for (host, user, origin) in [
        ("evil.example", "alice", "http://evil.example"),
        (right, "", "https://balance.example.com"),
        (right, "alice", "https://evil.example"),
    ] {
        assert_eq!(post(host, user, origin, "/api/change", &change).status, 403, "{host} {user} {origin}");
    }
    assert_eq!(post(right, "alice", "https://balance.example.com", "/api/change", &change).status, 200);
    assert_eq!(page.journal().pop().unwrap()["who"], "alice");
}

#[test]
fn serve_when_signalled_then_ends_and_without_a_block_exits_with_2() {
    let mut page = Served::with_token();
    let status = Command::new("kill").args(["-TERM", &page.child.id().to_string()]).status();
    assert!(status.expect("kill starts").success());
    assert_eq!(page.child.wait().unwrap().code(), Some(0));
    let mut text = String::new();
    page.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
    let dir = desk("");
    let ended = balance(&dir, &["serve"]).output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(2) && text.contains("no block [serve]"), "{text}");
}
