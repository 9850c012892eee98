//! `edgeshim balance` with test servers on real sockets, which act as PowerDNS and Route 53, and with a real program.

#![allow(clippy::unwrap_used)] // a test fails by a panic

#[path = "balance/ramps.rs"]
mod ramps;
#[path = "balance/rollbacks.rs"]
mod rollbacks;
mod support;
#[path = "balance/transactions.rs"]
mod transactions;
#[path = "balance/watch.rs"]
mod watch;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::origin::respond;
use support::shim::{binary, repository};
use support::{After, Conn, Gate, Origin, PATIENCE, Request, TempDir, origin, temp_dir, wait_until};

const KEY: &str = "s3cret";

/// What the API does with a request in place of the usual response.
#[derive(Clone)]
enum Plant {
    Status(u16),
    /// A 429 with this value of Retry-After.
    Later(&'static str),
    /// Writes the records, and closes the connection before the response.
    WriteAndCut,
    /// Writes the records if the status is 204. Then another person makes img1 a CNAME. Responds with the status,
    /// and with Retry-After if the status is 429 or 503.
    Other(u16),
    /// Waits until the client gives up. The records are not written.
    Hang,
    /// Opens the first gate, waits for the second gate, and then writes the records.
    Wait(Arc<Gate>, Arc<Gate>),
}

#[derive(Default)]
struct Zone {
    /// The record sets, by name and type.
    rrsets: BTreeMap<(String, String), Value>,
    /// What happens to the PATCH with this number. The numbers start at 0.
    plants: BTreeMap<usize, Plant>,
    patches: usize,
    /// What happens to every request.
    always: Option<Plant>,
    servfail: bool,
}

/// A test server that acts as PowerDNS: its API and its DNS server.
struct Dns {
    api: Origin,
    lookup: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

fn lock(zone: &Mutex<Zone>) -> MutexGuard<'_, Zone> {
    zone.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dns {
    fn start() -> Self {
        let zone = Arc::new(Mutex::new(Zone::default()));
        let shared = Arc::clone(&zone);
        let api = Origin::start(move |request, conn| api(&shared, request, conn));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let lookup = socket.local_addr().expect("the port's number");
        let shared = Arc::clone(&zone);
        std::thread::spawn(move || serve_dns(&socket, &shared));
        Self { api, lookup, zone }
    }

    fn zone(&self) -> MutexGuard<'_, Zone> {
        lock(&self.zone)
    }

    fn patches(&self) -> usize {
        self.zone().patches
    }

    /// Returns the contents of all records, for comparison.
    fn contents(&self) -> BTreeMap<(String, String), Value> {
        self.zone().rrsets.clone()
    }

    fn plant(&self, patch: usize, plant: Plant) {
        let number = self.patches() + patch;
        self.zone().plants.insert(number, plant);
    }

    fn put(&self, name: &str, kind: &str, content: &str) {
        let rrset =
            json!({ "name": name, "type": kind, "ttl": 60, "records": [{ "content": content, "disabled": false }] });
        self.zone().rrsets.insert((name.to_owned(), kind.to_owned()), rrset);
    }

    fn service(&self, name: &str) -> String {
        format!(
            "[[dns]]\nname = \"{name}\"\nkind = \"powerdns\"\nurl = \"http://{}\"\nkey = \"{KEY}\"\nlookup = \"{}\"\n\
             timeout = \"10s\"\n",
            self.api.addr, self.lookup
        )
    }
}

fn api(zone: &Mutex<Zone>, request: &Request, conn: &mut Conn) -> After {
    let error = |conn: &mut Conn, status, text: &str| {
        respond(request, conn, status, &[], json!({ "error": text }).to_string().as_bytes())
    };
    if request.field("x-api-key") != Some(KEY) {
        return error(conn, 401, "Unauthorized");
    }
    let always = lock(zone).always.clone();
    let plant = match request.method.as_str() {
        "PATCH" => {
            let mut zone = lock(zone);
            zone.patches += 1;
            let number = zone.patches - 1;
            always.or_else(|| zone.plants.remove(&number))
        }
        _ => always,
    };
    match plant {
        Some(Plant::Status(status)) => return error(conn, status, "planted\u{1b}[2J"),
        Some(Plant::Later(when)) => return respond(request, conn, 429, &[("Retry-After", when)], b""),
        Some(Plant::Other(status)) => {
            if status == 204 {
                patch(zone, request);
            }
            let content = json!([{ "content": "emergency.example.", "disabled": false }]);
            let rrset = json!({ "name": "img1.example.com.", "type": "CNAME", "ttl": 60, "records": content });
            let mut zone = lock(zone);
            zone.rrsets.remove(&("img1.example.com.".to_owned(), "LUA".to_owned()));
            zone.rrsets.insert(("img1.example.com.".to_owned(), "CNAME".to_owned()), rrset);
            drop(zone);
            let later: &[_] = if matches!(status, 429 | 503) { &[("Retry-After", "0")] } else { &[] };
            return respond(request, conn, status, later, b"");
        }
        Some(Plant::Hang) => return origin::silent()(request, conn),
        Some(Plant::Wait(arrived, go_on)) => {
            arrived.open();
            go_on.wait();
        }
        Some(Plant::WriteAndCut) => {
            patch(zone, request);
            return After::Close;
        }
        None => {}
    }
    if request.target != "/api/v1/servers/localhost/zones/example.com." {
        return error(conn, 404, "Could not find domain");
    }
    if request.method == "PATCH" {
        patch(zone, request);
        return respond(request, conn, 204, &[], b"");
    }
    let rrsets: Vec<Value> = lock(zone).rrsets.values().cloned().collect();
    respond(request, conn, 200, &[], json!({ "rrsets": rrsets }).to_string().as_bytes())
}

fn patch(zone: &Mutex<Zone>, request: &Request) {
    let body: Value = serde_json::from_slice(&request.body).expect("JSON");
    for rrset in body["rrsets"].as_array().expect("record sets") {
        let mut rrset = rrset.clone();
        let change = rrset.as_object_mut().expect("a record set").remove("changetype");
        let key = (rrset["name"].as_str().unwrap().to_owned(), rrset["type"].as_str().unwrap().to_owned());
        match change.as_ref().and_then(Value::as_str) {
            Some("DELETE") => lock(zone).rrsets.remove(&key),
            Some("REPLACE") => lock(zone).rrsets.insert(key, rrset),
            other => panic!("an unknown change: {other:?}"),
        };
    }
}

/// Answers each query with a CNAME to the first provider of the LUA record. If the record has no provider, the answer
/// has no CNAME. If `servfail` is set, the answer is SERVFAIL. The name in the query begins at byte 12.
fn serve_dns(socket: &UdpSocket, zone: &Mutex<Zone>) {
    let mut packet = [0; 512];
    while let Ok((length, peer)) = socket.recv_from(&mut packet) {
        let question = &packet[12..length];
        let end = question.iter().position(|&byte| byte == 0).expect("the end of the name");
        let mut name = String::new();
        let mut at = 0;
        while question[at] != 0 {
            let label = &question[at + 1..=at + usize::from(question[at])];
            let _ = write!(name, "{}.", String::from_utf8_lossy(label));
            at += 1 + label.len();
        }
        let zone = lock(zone);
        let content = zone.rrsets.get(&(name, "LUA".to_owned()));
        let content = content.and_then(|rrset| rrset["records"][0]["content"].as_str()).unwrap_or_default().to_owned();
        let failing = zone.servfail;
        drop(zone);
        let cname = content.split_once(",'").and_then(|(_, rest)| rest.split_once('\'')).map(|(cname, _)| cname);
        let mut answer = packet[..2].to_vec();
        answer.extend([0x84, if failing { 2 } else { 0 }, 0, 1, 0, u8::from(cname.is_some() && !failing), 0, 0, 0, 0]);
        answer.extend(&question[..end + 5]);
        if let Some(cname) = cname.filter(|_| !failing) {
            let labels: Vec<u8> = cname
                .split_terminator('.')
                .flat_map(|label| std::iter::once(u8::try_from(label.len()).unwrap()).chain(label.bytes()))
                .chain([0])
                .collect();
            answer.extend([0xC0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, u8::try_from(labels.len()).unwrap()]);
            answer.extend(labels);
        }
        let _ = socket.send_to(&answer, peer);
    }
}

const PROVIDERS: &str = "{ akamai = { cname = \"a.akamai.example\" }, edgecast = { cname = \"e.edgecast.example\" }, \
                         fastly = { cname = \"f.fastly.example\" } }";

fn target(name: &str, services: &str, nodes: &str) -> String {
    format!(
        "[[target]]\nname = \"{name}\"\ndns = [{services}]\nzone = \"example.com\"\nnodes = [{nodes}]\n\
         providers = {PROVIDERS}\n"
    )
}

/// A folder with a `balance.toml`.
struct Desk {
    dir: TempDir,
}

#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Desk {
    fn new(config: &str) -> Self {
        let dir = temp_dir();
        dir.write("balance.toml", config);
        Self { dir }
    }

    /// Three targets at one service. The target `images` has two nodes.
    fn of_three(dns: &Dns) -> Self {
        Self::new(&format!(
            "{}{}{}{}",
            dns.service("pdns"),
            target("html", "\"pdns\"", "\"www.example.com\""),
            target("images", "\"pdns\"", "\"img0.example.com\", \"img1.example.com\""),
            target("static", "\"pdns\"", "\"static.example.com\""),
        ))
    }

    /// Sets the time limit of all calls to one second.
    fn hurry(&self) {
        let config = std::fs::read_to_string(self.dir.join("balance.toml")).expect("the configuration");
        self.dir.write("balance.toml", config.replace("timeout = \"10s\"", "timeout = \"1s\""));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary();
        command.arg("balance").args(arguments).current_dir(&*self.dir).env_remove("SUDO_USER").env("USER", "alice");
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let output = self.command(arguments).stdin(Stdio::null()).output().expect("the edgeshim binary starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ended { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Runs a command that must succeed.
    fn fine(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{arguments:?}: {}", ended.out);
        ended.out
    }

    /// Runs a command that must fail with this code. Standard error must contain all parts.
    fn fails(&self, code: i32, arguments: &[&str], parts: &[&str]) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, code, "{arguments:?}: {}{}", ended.out, ended.err);
        for part in parts {
            assert!(ended.err.contains(part), "{arguments:?}: no {part:?} in:\n{}", ended.err);
        }
        assert!(!ended.err.contains(KEY) && !ended.err.contains('\u{1b}'), "{}", ended.err);
        ended.err
    }

    /// Returns all lines of the journal.
    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.join("balance.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// Returns the lines with the results of the changes. Each of these lines must follow a line `started` with the
    /// same id.
    fn journal(&self) -> Vec<Value> {
        let lines = self.lines();
        let mut pairs = lines.chunks(2);
        assert!(pairs.all(|pair| pair[0]["result"] == "started" && pair[0]["id"] == pair[1]["id"]), "{lines:#?}");
        lines.into_iter().skip(1).step_by(2).collect()
    }

    /// Writes a program for `kind = "command"`.
    fn program(&self, script: &str) {
        let path = self.dir.write("weights", format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("an executable file");
    }

    /// Starts a command, and waits until it asks its question.
    fn ask(&self, arguments: &[&str]) -> Child {
        asking(self.command(arguments))
    }
}

fn asking(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the edgeshim binary starts");
    let mut out = BufReader::new(child.stdout.as_mut().expect("standard output"));
    let mut seen = Vec::new();
    while !seen.ends_with(b"[y/N] ") {
        assert!(out.read_until(b' ', &mut seen).expect("output") > 0, "{}", String::from_utf8_lossy(&seen));
    }
    child
}

fn answer(mut child: Child, text: impl AsRef<[u8]>) -> Ended {
    child.stdin.take().expect("standard input").write_all(text.as_ref()).expect("the command reads");
    ended(child)
}

fn ended(mut child: Child) -> Ended {
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().expect("standard output").read_to_string(&mut out).expect("UTF-8");
    child.stderr.take().expect("standard error").read_to_string(&mut err).expect("UTF-8");
    Ended { code: child.wait().expect("the command ends").code().unwrap_or(-1), out, err }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status();
    assert!(status.expect("kill starts").success());
}

/// Sends SIGINT, and waits until the process has handled the signal.
fn interrupt(id: u32) {
    assert!(Command::new("kill").args(["-INT", &id.to_string()]).status().expect("kill starts").success());
    let handled = || {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("ShdPnd:") && line.ends_with("0000000000000000"))
    };
    assert!(wait_until(PATIENCE, handled));
}

/// A desk with first weights of 15 for each provider of each target.
fn started() -> (Dns, Desk) {
    let dns = Dns::start();
    let desk = Desk::of_three(&dns);
    desk.fine(&["init", "--all", "--yes"]);
    (dns, desk)
}

fn weights(dns: &Dns, node: &str) -> BTreeMap<String, u32> {
    let rrsets = dns.contents();
    let content = rrsets[&(format!("{node}."), "LUA".to_owned())]["records"][0]["content"].as_str().unwrap().to_owned();
    let mut weights = BTreeMap::new();
    for part in content.split('{').filter(|part| part.contains(",'")) {
        let (weight, rest) = part.split_once(",'").unwrap();
        *weights.entry(rest.split_once('.').unwrap().0.to_owned()).or_default() += weight.parse::<u32>().unwrap();
    }
    weights
}

// ---- a change -------------------------------------------------------------------------------------------------------

#[test]
fn weight_when_changed_then_every_node_and_the_journal_have_the_new_weight() {
    let (dns, desk) = started();
    let out = desk.fine(&["-t", "images", "-p", "Fastly", "-w", "5", "--yes", "--why", "a test", "-o", "."]);
    assert!(out.contains("15 -> 5") && out.contains("33.3 % -> 14.3 %"), "{out}");
    for node in ["img0.example.com", "img1.example.com"] {
        let weights = weights(&dns, node);
        assert_eq!(weights.values().sum::<u32>(), 1000);
        assert_eq!(weights["f"], 143, "{weights:?}");
    }
    assert_eq!(weights(&dns, "www.example.com")["f"], 333, "another target must not change");
    let journal = desk.journal();
    let last = journal.last().expect("a change");
    assert_eq!(
        (&last["who"], &last["why"], &last["result"], &last["provider"], &last["targets"]),
        (&json!("alice"), &json!("a test"), &json!("done"), &json!("fastly"), &json!(["images"]))
    );
    assert_eq!(last["from"]["images"]["fastly"], json!({ "mode": "obey", "weight": 15 }));
    assert_eq!(last["to"]["images"]["fastly"], json!({ "mode": "obey", "weight": 5 }));
    let file = std::fs::read_to_string(desk.dir.join("cdn_images.json")).expect("the file of -o");
    let file: Value = serde_json::from_str(&file).expect("JSON");
    assert_eq!(file["fastly"], json!({ "enabled": true, "weight": 5, "pct": 14.28 }));
}

#[test]
fn change_when_nothing_differs_then_writes_nothing() {
    let (dns, desk) = started();
    let (patches, lines) = (dns.patches(), desk.journal().len());
    let out = desk.fine(&["--all", "-p", "fastly", "-w", "15", "-m", "obey"]);
    assert!(out.contains("Nothing to do."), "{out}");
    desk.fine(&["init", "--all"]);
    assert_eq!((dns.patches(), desk.journal().len()), (patches, lines));
}

#[test]
fn dry_run_when_change_is_possible_or_refused_then_writes_nothing() {
    let (dns, desk) = started();
    let patches = dns.patches();
    let out = desk.fine(&["--all", "-p", "fastly", "-w", "5", "--dry-run"]);
    assert!(out.contains("Dry run: nothing was written."), "{out}");
    desk.fails(1, &["--all", "-p", "fastly", "-m", "no", "--dry-run"], &["refused: ", "max_step"]);
    assert_eq!((dns.patches(), desk.journal().len()), (patches, 1));
}

#[test]
fn confirmation_when_no_or_missing_then_exits_with_1_and_writes_nothing() {
    let (dns, desk) = started();
    let before = dns.contents();
    let change = ["-t", "images", "-p", "fastly", "-w", "5"];
    for text in ["n\n", "N\n", "no\n", "\n", "what\nn\n"] {
        let ended = answer(desk.ask(&change), text);
        assert_eq!(ended.code, 1, "{text:?}: {ended:?}");
        assert!(ended.err.contains("not confirmed; nothing was changed"), "{ended:?}");
    }
    // The second answer is one line of 1,026 bytes, whose end is not an answer.
    for text in ["", &("x".repeat(1024) + "y\n")] {
        let ended = answer(desk.ask(&change), text);
        assert!(ended.code == 1 && ended.err.contains("the input ended without an answer"), "{ended:?}");
    }
    let ended = answer(desk.ask(&change), b"\xFF\xFE\nn\n");
    assert!(ended.code == 1 && ended.err.contains("not confirmed"), "{ended:?}");
    for name in ["INT", "TERM", "HUP"] {
        let child = desk.ask(&change);
        signal(&child, name);
        let ended = ended_with_open_input(child);
        assert!(ended.code == 1 && ended.err.contains("interrupted; nothing was changed"), "{name}: {ended:?}");
    }
    assert_eq!((dns.contents(), desk.journal().len()), (before, 1));
    let ended = answer(desk.ask(&change), "maybe\nY\n");
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(weights(&dns, "img1.example.com")["f"], 143);
}

#[test]
fn hangup_when_the_command_was_started_by_nohup_then_is_ignored() {
    let (dns, desk) = started();
    let script = "exec nohup \"$0\" balance -t images -p fastly -w 5";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_edgeshim")]).current_dir(&*desk.dir);
    let child = asking(command);
    signal(&child, "HUP");
    let ended = answer(child, "y\n");
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(weights(&dns, "img0.example.com")["f"], 143);
}

/// Waits for the end of a command whose input stays open.
fn ended_with_open_input(mut child: Child) -> Ended {
    let input = child.stdin.take();
    let ended = ended(child);
    drop(input);
    ended
}

#[test]
fn first_weights_when_name_has_a_cname_or_another_record_then_are_written_or_refused() {
    let dns = Dns::start();
    let desk = Desk::of_three(&dns);
    dns.put("www.example.com.", "CNAME", "F.fastly.example.");
    dns.put("img1.example.com.", "A", "192.0.2.1");
    desk.fails(1, &["-t", "html", "--show"], &["a plain CNAME to fastly", "edgeshim balance init -t html"]);
    desk.fine(&["init", "-t", "html", "--yes"]);
    assert_eq!(weights(&dns, "www.example.com"), BTreeMap::from([("f".to_owned(), 1000)]), "the traffic must stay");
    assert!(!dns.contents().contains_key(&("www.example.com.".to_owned(), "CNAME".to_owned())));
    let patches = dns.patches();
    let parts = ["img1.example.com at pdns has another record (A \"192.0.2.1\")", "--force REASON"];
    desk.fails(1, &["init", "-t", "images", "--yes"], &parts);
    dns.put("static.example.com.", "CNAME", "elsewhere.example.");
    desk.fails(1, &["init", "-t", "static", "--yes"], &["another record (CNAME \"elsewhere.example.\")"]);
    dns.put("static.example.com.", "CNAME", "f.fastly.example.");
    let key = ("static.example.com.".to_owned(), "CNAME".to_owned());
    dns.zone().rrsets.get_mut(&key).unwrap()["records"][0]["disabled"] = true.into();
    desk.fails(1, &["init", "-t", "static", "--yes"], &["another record (disabled CNAME \"f.fastly.example.\")"]);
    assert_eq!(dns.patches(), patches);
    let ended = desk.run(&["init", "-t", "images", "--yes", "--force", "the old server is gone"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(!dns.contents().contains_key(&("img1.example.com.".to_owned(), "A".to_owned())));
    assert_eq!(desk.journal().last().unwrap()["force"], "the old server is gone");
}

#[test]
fn first_weights_when_provider_of_the_cname_would_fall_by_90_points_then_are_refused_as_a_large_step() {
    let (dns, desk) = started();
    desk.fine(&["-t", "images", "-p", "fastly", "--pct", "10", "--yes"]);
    dns.zone().rrsets.remove(&("img0.example.com.".to_owned(), "LUA".to_owned()));
    dns.put("img0.example.com.", "CNAME", "f.fastly.example.");
    let ended = desk.run(&["init", "-t", "images", "--yes"]);
    assert!(ended.code == 1 && ended.err.contains("images: fastly would fall by 90.0 points in one step"), "{ended:?}");
    assert!(ended.out.contains("100.0 % -> 10.0 %"), "{ended:?}");
    assert!(ended.out.contains("to write: img0.example.com at pdns (has a plain CNAME to fastly)"), "{ended:?}");
}

#[test]
fn weights_file_when_predictable_temporary_name_is_a_link_then_link_is_not_followed() {
    let (_dns, desk) = started();
    let change = ["-t", "images", "-p", "fastly", "-w", "5", "--yes", "-o", "out"];
    std::fs::create_dir(desk.dir.join("out")).expect("a folder");
    // An attacker could predict a temporary name that has only the number of the process.
    let script = "ln -s ../precious out/cdn_images.json.$$.tmp; echo kept > precious; exec \"$0\" balance \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_edgeshim")])
        .args(change)
        .current_dir(&*desk.dir)
        .output()
        .expect("a shell");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_to_string(desk.dir.join("precious")).unwrap(), "kept\n");
    assert!(std::fs::symlink_metadata(desk.dir.join("out/cdn_images.json")).unwrap().is_file());
}

// ---- refusals -------------------------------------------------------------------------------------------------------

#[test]
fn dangerous_change_when_not_forced_then_is_refused_and_writes_nothing() {
    let (dns, desk) = started();
    let patches = dns.patches();
    desk.fails(1, &["-t", "html", "-p", "fastly", "-m", "no", "--yes"], &["fall by 33.3 points", "--force REASON"]);
    desk.fails(1, &["-t", "html", "-p", "fastly", "--pct", "59", "--yes"], &["rise by 25.7 points"]);
    assert_eq!(dns.patches(), patches);
    for provider in ["fastly", "akamai"] {
        let ended = desk.run(&["-t", "html", "-p", provider, "-m", "no", "--yes", "--force", "both are down"]);
        assert!(ended.code == 0 && ended.err.contains("forced: html: "), "{ended:?}");
    }
    let last = ["-t", "html", "-p", "edgecast", "-m", "no", "--yes"];
    desk.fails(1, &last, &["takes away the last provider that is served"]);
    desk.fails(
        1,
        &["-t", "html", "-p", "edgecast", "--pct", "0", "--yes", "--force", "x"],
        &["is the only enabled provider"],
    );
    // With --force, the last provider is taken away, so no provider is served.
    let ended = desk.run(&["-t", "html", "-p", "edgecast", "-m", "no", "--yes", "--force", "the site is closed"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(weights(&dns, "www.example.com").is_empty());
    desk.fine(&["rollback", "3", "--yes"]);
    assert_eq!(weights(&dns, "www.example.com")["f"], 333);
}

#[test]
fn weights_when_all_would_be_0_then_change_is_refused_even_with_force() {
    let dns = Dns::start();
    let desk = Desk::of_three(&dns);
    dns.put("www.example.com.", "CNAME", "f.fastly.example.");
    desk.fine(&["init", "-t", "html", "--yes"]);
    let change = ["-t", "html", "-p", "fastly", "-m", "no", "--yes", "--force", "x"];
    desk.fails(1, &change, &["refused: html: all weights would be 0"]);
    assert_eq!(dns.patches(), 1);
}

#[test]
fn node_when_changed_without_edgeshim_then_next_change_is_refused() {
    let (dns, desk) = started();
    let change = ["-t", "images", "-p", "fastly", "-w", "14", "--yes"];
    let key = ("img1.example.com.".to_owned(), "LUA".to_owned());
    let good = dns.contents()[&key].clone();
    // Another TTL.
    dns.zone().rrsets.get_mut(&key).unwrap()["ttl"] = 61.into();
    desk.fails(1, &change, &["img1.example.com at pdns was changed without edgeshim: its TTL is not 60 s"]);
    // A disabled record, which PowerDNS does not serve.
    dns.zone().rrsets.get_mut(&key).unwrap().clone_from(&good);
    dns.zone().rrsets.get_mut(&key).unwrap()["records"][0]["disabled"] = true.into();
    let part = "img1.example.com at pdns was changed without edgeshim: the record is disabled in PowerDNS";
    desk.fails(1, &change, &[part]);
    desk.fails(1, &["init", "-t", "images", "--yes"], &[part]);
    assert_eq!(desk.run(&["status", "-t", "images"]).code, 1);
    // Another program in the record.
    let content = good["records"][0]["content"].as_str().unwrap().replace("{333,", "{332,");
    dns.zone().rrsets.get_mut(&key).unwrap().clone_from(&good);
    dns.zone().rrsets.get_mut(&key).unwrap()["records"][0]["content"] = content.into();
    desk.fails(1, &change, &["the program in the record does not match"]);
    // The record of another target, with the same providers and other weights.
    desk.fine(&["-t", "html", "-p", "fastly", "-w", "10", "--yes"]);
    let mut other = dns.contents()[&("www.example.com.".to_owned(), "LUA".to_owned())].clone();
    other["name"] = "img1.example.com.".into();
    dns.zone().rrsets.insert(key.clone(), other);
    desk.fails(1, &change, &["the nodes disagree: img0.example.com", "not as the last change in the journal left it"]);
    assert_eq!(desk.run(&["status", "-t", "images"]).code, 1);
    // Another record under the same name, which PowerDNS accepts.
    dns.zone().rrsets.insert(key.clone(), good.clone());
    dns.put("img1.example.com.", "A", "192.0.2.1");
    let part = "the name also has records that edgeshim did not write (A \"192.0.2.1\"); a change deletes them";
    desk.fails(1, &change, &[part]);
    let ended = desk.run(&[&change[..], &["--dry-run", "--force", "x"]].concat());
    assert!(ended.err.contains(part) && ended.out.contains(part), "{ended:?}");
    dns.zone().rrsets.remove(&("img1.example.com.".to_owned(), "A".to_owned()));
    // The record is missing.
    dns.zone().rrsets.remove(&key);
    desk.fails(1, &change, &["img1.example.com at pdns has no record, and no weights"]);
    dns.zone().rrsets.insert(key, good);
    desk.fine(&change);
    desk.fine(&["status"]);
}

#[test]
fn command_line_when_wrong_then_exits_with_2_and_names_the_problem() {
    let (dns, desk) = started();
    let requests = dns.api.count();
    let change = |more: &[&'static str]| [&["-t", "images", "-p", "fastly", "--yes"], more].concat();
    for (arguments, part) in [
        (vec!["-t", "imags", "--show"], "write one of html, images, static"),
        (vec!["-t", "images", "-p", "fastl", "-w", "5"], "write one of akamai, edgecast, fastly"),
        (change(&["-m", "up"]), "write one of always, obey, remove, no"),
        (change(&["-w", "0"]), "write a whole number from 1 to 15"),
        (change(&["-w", "16"]), "write a whole number from 1 to 15"),
        (change(&["-w", "5x"]), "write a whole number from 1 to 15"),
        (change(&["-w", "-1"]), "write a whole number from 1 to 15"),
        (change(&["--pct", "101"]), "from 0 to 100"),
        (change(&["--pct", "0.05"]), "the smallest step is 0.1 %"),
        (change(&["--pct", "5", "-w", "5"]), "cannot be used with"),
        (change(&["-w", "5", "--force"]), "a value is required"),
        (change(&["-w", "5", "--force", " "]), "write the reason"),
        (change(&["-w", "5", "-o", "no/such/folder"]), "there is no such folder"),
        (change(&[]), "write -w N, -m MODE or --pct N"),
        (vec!["-t", "images", "-w", "5"], "write also -p PROVIDER"),
        (vec!["-p", "fastly", "-w", "5"], "write -t TARGET or --all"),
        (vec![], "write -t TARGET or --all"),
        (vec!["-t", "images", "--all"], "cannot be used with"),
        (vec!["rollback", "0"], "0 is not in 1..=1000"),
        (vec!["-t", "images", "--show", "--config", "absent.toml"], "cannot be read"),
    ] {
        desk.fails(2, &arguments, &[part]);
    }
    assert_eq!(dns.api.count(), requests, "a wrong command line must not cause a request");
}

#[test]
fn share_when_set_with_pct_then_w_option_is_refused_and_rollback_restores_weights() {
    let (dns, desk) = started();
    desk.fine(&["-t", "images", "-p", "fastly", "--pct", "12.5", "--yes"]);
    assert_eq!(weights(&dns, "img0.example.com")["f"], 125);
    desk.fails(1, &["-t", "images", "-p", "fastly", "-w", "5", "--yes"], &["write --pct N"]);
    desk.fine(&["-t", "images", "-p", "fastly", "--pct", "0", "--yes"]);
    assert_eq!(weights(&dns, "img0.example.com").get("f"), None);
    let table = desk.fine(&["-t", "images", "--show"]);
    let row = table.lines().find(|line| line.contains("fastly")).expect("a row");
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["fastly", "obey", "0", "0.0", "%"]);
    desk.fine(&["rollback", "2", "--yes", "--why", "too early"]);
    assert_eq!(weights(&dns, "img0.example.com")["f"], 333);
    desk.fine(&["-t", "images", "-p", "fastly", "-w", "5", "--yes"]);
    let history = desk.fine(&["history", "2"]);
    assert!(history.lines().count() == 2 && history.contains("rollback 2, why \"too early\": done"), "{history}");
    desk.fails(1, &["rollback", "9", "--yes"], &["the journal has 5 changes"]);
    desk.fails(1, &["rollback", "5", "--yes"], &["nothing to go back to"]);
}

// ---- failures -------------------------------------------------------------------------------------------------------

#[test]
fn api_when_failing_then_message_names_the_cause() {
    let (dns, desk) = started();
    let show = ["-t", "images", "--show"];
    for (status, part) in [
        (403, "the API rejects the key (403)"),
        (404, "there is no zone example.com: \"planted\\u{1b}[2J\"; create the zone"),
        (409, "the API rejects the record (409"),
        (422, "the API rejects the record (422"),
        (429, "too many requests (429"),
        (500, "the API failed (500"),
    ] {
        dns.zone().always = Some(Plant::Status(status));
        desk.fails(1, &show, &[part]);
        desk.fails(1, &["-t", "images", "-p", "fastly", "-w", "5", "--yes"], &[part]);
    }
    dns.zone().always = Some(Plant::Hang);
    desk.hurry();
    desk.fails(1, &show, &["no complete response within 1000 ms"]);
    dns.zone().always = None;
    let config = std::fs::read_to_string(desk.dir.join("balance.toml")).unwrap();
    desk.dir.write("wrong.toml", config.replace(KEY, "wrong"));
    let ended = desk.run(&["-t", "images", "--show", "-c", "wrong.toml"]);
    assert!(ended.code == 1 && ended.err.contains("rejects the key (401)"), "{ended:?}");
    let cut = Origin::start(origin::cut(1000, 10));
    let closed = support::origin::ClosedPort::new();
    for (address, part) in [(cut.addr, "the response is cut"), (closed.addr, "no connection")] {
        desk.dir.write("other.toml", config.replace(&dns.api.addr.to_string(), &address.to_string()));
        let ended = desk.run(&["-t", "images", "--show", "-c", "other.toml"]);
        assert!(ended.code == 1 && ended.err.contains(part), "{ended:?}");
    }
    let page = Origin::start(origin::fixed(200, &[], "<html>"));
    desk.dir.write("page.toml", config.replace(&dns.api.addr.to_string(), &page.addr.to_string()));
    let ended = desk.run(&["-t", "images", "--show", "-c", "page.toml"]);
    assert!(ended.code == 1 && ended.err.contains("is not JSON"), "{ended:?}");
}

#[test]
fn call_when_api_sends_429_with_retry_after_then_is_repeated_after_this_time() {
    let (dns, desk) = started();
    dns.plant(0, Plant::Later("1"));
    let begun = Instant::now();
    desk.fine(&["-t", "html", "-p", "fastly", "-w", "5", "--yes"]);
    assert!(begun.elapsed() >= Duration::from_secs(1), "repeated after {:?}", begun.elapsed());
    assert_eq!(weights(&dns, "www.example.com")["f"], 143);
    // An hour is too long a wait, so the command reports the 429.
    dns.plant(0, Plant::Later("3600"));
    desk.fails(1, &["-t", "html", "-p", "fastly", "-w", "6", "--yes"], &["too many requests (429"]);
    assert_eq!(weights(&dns, "www.example.com")["f"], 143);
}

#[test]
fn node_when_a_provider_is_missing_on_the_second_of_three_then_change_is_refused_before_any_write() {
    let dns = Dns::start();
    let desk_of = |nodes: &str| Desk::new(&(dns.service("pdns") + &target("images", "\"pdns\"", nodes)));
    let desk = desk_of("\"img0.example.com\", \"img1.example.com\", \"img2.example.com\"");
    desk.fine(&["init", "-t", "images", "--yes"]);
    // The second node is written with an older balance.toml, which does not have fastly.
    dns.zone().rrsets.remove(&("img1.example.com.".to_owned(), "LUA".to_owned()));
    let older = desk_of("\"img1.example.com\"");
    let config = std::fs::read_to_string(older.dir.join("balance.toml")).unwrap();
    older.dir.write("balance.toml", config.replace(", fastly = { cname = \"f.fastly.example\" }", ""));
    older.fine(&["init", "-t", "images", "--yes"]);
    let (before, patches) = (dns.contents(), dns.patches());
    let change = ["-t", "images", "-p", "fastly", "-w", "5", "--yes"];
    desk.fails(1, &change, &["the nodes disagree: img0.example.com", "but img1.example.com", "--force REASON"]);
    assert_eq!((dns.contents(), dns.patches()), (before, patches));
    let ended = desk.run(&[&change[..], &["--force", "img1 had an older file"]].concat());
    assert_eq!(ended.code, 0, "{ended:?}");
    for node in ["img0.example.com", "img1.example.com", "img2.example.com"] {
        assert_eq!(weights(&dns, node)["f"], 143, "{node}");
    }
}

#[test]
fn clock_when_set_back_then_the_order_of_the_journal_counts() {
    let (dns, desk) = started();
    desk.fine(&["-t", "html", "-p", "fastly", "-w", "5", "--yes"]);
    // The clock was wrong until now.
    let text = std::fs::read_to_string(desk.dir.join("balance.jsonl")).unwrap();
    let year = desk.lines()[0]["time"].as_str().unwrap()[..4].to_owned();
    desk.dir.write("balance.jsonl", text.replace(&format!("\"time\":\"{year}"), "\"time\":\"2099"));
    assert!(desk.lines().iter().all(|line| line["time"].as_str().unwrap().starts_with("2099")));
    desk.fine(&["-t", "html", "-p", "fastly", "-w", "6", "--yes"]);
    desk.fine(&["status"]);
    let history = desk.fine(&["history"]);
    let years: Vec<&str> = history.lines().map(|line| &line[..4]).collect();
    assert_eq!(years.iter().filter(|&&found| found == year).count(), 1, "{history}");
    // The last change is the one in the last line, not the one with the latest time.
    desk.fine(&["rollback", "--yes"]);
    assert_eq!(weights(&dns, "www.example.com")["f"], 143);
}

#[test]
fn lookup_when_answer_is_servfail_then_change_is_put_back() {
    let (dns, desk) = started();
    let before = dns.contents();
    dns.zone().servfail = true;
    let parts =
        ["answers SERVFAIL instead of akamai, edgecast, fastly", "enable-lua-records", "all nodes are as before"];
    desk.fails(1, &["-t", "images", "-p", "fastly", "-w", "5", "--yes"], &parts);
    assert_eq!(dns.contents(), before);
}

/// Three targets with two nodes each, at a service whose DNS server never answers.
fn silent() -> (Dns, UdpSocket, Desk) {
    let dns = Dns::start();
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let service = dns.service("pdns").replace(&dns.lookup.to_string(), &silent.local_addr().unwrap().to_string());
    let two = |name: &str| target(name, "\"pdns\"", &format!("\"{name}0.example.com\", \"{name}1.example.com\""));
    let desk = Desk::new(&(service + &["a", "b", "c"].map(two).concat()));
    (dns, silent, desk)
}

#[test]
fn lookup_when_no_server_answers_then_change_stays_with_a_warning_and_no_further_name_is_looked_up() {
    let (_dns, _silent, desk) = silent();
    let ended = desk.run(&["init", "--all", "--yes"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let part = "warning: the new records are written, but not looked up: ";
    let warnings: Vec<&str> = ended.err.lines().filter_map(|line| Some(line.split_once(part)?.1)).collect();
    assert_eq!(warnings.len(), 3, "{ended:?}");
    assert!(warnings[0].starts_with("a0.example.com at pdns: a lookup at "), "{ended:?}");
    assert!(warnings[0].ends_with(" failed (no answer); not looked up either: 1 more of this target"), "{ended:?}");
    assert_eq!(warnings[1..], ["the nodes of b at pdns", "the nodes of c at pdns"]);
    assert!(desk.journal()[0]["result"].as_str().unwrap().starts_with("done, not checked: "));
}

/// Confirms a change, and interrupts the command while the API handles the PATCH with this number. The numbers start at
/// 0.
fn interrupted_at(dns: &Dns, number: usize, desk: &Desk, arguments: &[&str]) -> Ended {
    let (arrived, go_on) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    dns.plant(number, Plant::Wait(Arc::clone(&arrived), Arc::clone(&go_on)));
    let child = desk.ask(arguments);
    let id = child.id();
    let change = std::thread::spawn(move || answer(child, "y\n"));
    arrived.wait();
    interrupt(id);
    go_on.open();
    change.join().expect("the command")
}

#[test]
fn signal_when_all_is_written_then_lookups_end_and_change_stays() {
    let (dns, _silent, desk) = silent();
    let ended = interrupted_at(&dns, 2, &desk, &["init", "--all"]);
    let part = "not looked up: a0.example.com at pdns: a signal has ended the lookups";
    assert!(ended.code == 0 && ended.err.contains(part), "{ended:?}");
}

#[test]
fn journal_when_not_writable_then_change_is_not_made_or_is_put_back() {
    let (dns, desk) = started();
    desk.fine(&["-t", "images", "-p", "fastly", "-w", "10", "--yes"]);
    let before = dns.contents();
    let config = std::fs::read_to_string(desk.dir.join("balance.toml")).unwrap();
    let change = ["-t", "images", "-p", "fastly", "-w", "5", "--yes", "-c", "other.toml"];
    desk.dir.write("other.toml", format!("journal = \"no/such/folder/j\"\n{config}"));
    let patches = dns.patches();
    desk.fails(1, &change, &["cannot be written", "no change is made"]);
    assert_eq!(dns.patches(), patches, "nothing may be written without the journal");
    desk.dir.write("other.toml", format!("journal = \"/dev/full\"\n{config}"));
    desk.fails(1, &change, &["it is not a regular file"]);
    assert_eq!(dns.patches(), patches);
    // The second line does not fit, as on a full disk. The padding leaves space for the first line only.
    let path = desk.dir.join("balance.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().last().unwrap().len() * 3 / 2;
    // The shell counts blocks of 512 bytes.
    let padding = " ".repeat(8 * 512 - text.len() - line);
    desk.dir.write("balance.jsonl", format!("{text}{padding}\n"));
    let script = |blocks: u32| {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" balance -t images -p fastly -w 5 --yes");
        let output = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_edgeshim")])
            .current_dir(&*desk.dir)
            .output()
            .expect("a shell");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        error
    };
    let error = script(8);
    assert!(error.contains("cannot be written") && error.contains("all nodes are as before"), "{error}");
    assert_eq!(dns.patches(), patches + 2, "the change must have been written and put back");
    assert_eq!(dns.contents(), before);
    let after = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = after.lines().collect();
    assert!(lines.len() == 6 && lines[5].contains("\"result\":\"started\"") && lines[5].ends_with('}'), "{after}");
    // No line fits.
    let error = script(0);
    assert!(error.contains("cannot be written") && error.contains("nothing was changed"), "{error}");
    assert_eq!(dns.patches(), patches + 2, "nothing may be written without the journal");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
}

#[test]
fn journal_when_last_line_is_cut_then_change_warns_and_is_made() {
    let (_dns, desk) = started();
    let path = desk.dir.join("balance.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{}", &text[..40])).unwrap();
    let ended = desk.run(&["-t", "html", "-p", "fastly", "-w", "5", "--yes"]);
    assert!(ended.code == 0 && ended.err.contains("warning: line 3 of "), "{ended:?}");
    assert!(ended.err.contains(" cannot be read as a change, and is skipped"), "{ended:?}");
    let lines = std::fs::read_to_string(&path).unwrap();
    assert_eq!(lines.lines().count(), 5, "{lines}");
    assert!(serde_json::from_str::<Value>(lines.lines().last().unwrap()).is_ok());
    std::fs::write(&path, format!("{lines}cut")).unwrap();
    let ended = desk.run(&["history"]);
    assert!(ended.err.contains("line 3 and 1 more line of ") && ended.err.contains(" cannot be read"), "{ended:?}");
}

#[test]
fn journal_when_a_name_has_characters_that_control_a_terminal_then_no_output_has_them() {
    let (_dns, desk) = started();
    let path = desk.dir.join("balance.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"alice\"", "\"al\u{202e}i\u{9b}ce\"")).unwrap();
    for arguments in [&["history"][..], &["history", "--json"], &["status"], &["status", "--json"]] {
        let out = desk.fine(arguments);
        let is_active = |character: char| matches!(character, '\u{202e}' | '\u{9b}');
        assert!(out.contains("al") && !out.contains(is_active), "{arguments:?}: {out:?}");
    }
    let line: Value = serde_json::from_str(&desk.fine(&["history", "--json"])).expect("JSON");
    assert_eq!(line["who"], "al\u{202e}i\u{9b}ce");
}

#[test]
fn journal_when_an_id_or_a_target_has_characters_that_control_a_terminal_then_its_line_is_ignored() {
    let (_dns, desk) = started();
    let text = std::fs::read_to_string(desk.dir.join("balance.jsonl")).unwrap();
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).expect("JSON");
    let id = line["id"].as_str().unwrap();
    for (old, new) in [(id, "\\u001b[2J"), ("\"static\"", "\"\\u009b2J\""), ("\"fastly\"", "\"\\u202ef\"")] {
        desk.dir.write("balance.jsonl", text.replace(old, new));
        let is_active = |character: char| matches!(character, '\u{1b}' | '\u{202e}' | '\u{9b}');
        for arguments in [&["rollback", "--yes"][..], &["-t", "html", "-p", "fastly", "-w", "9", "--dry-run"]] {
            let ended = desk.run(arguments);
            assert!(ended.err.contains("line 1 and 1 more line of "), "{new} {arguments:?}: {ended:?}");
            assert!(!ended.err.contains(is_active) && !ended.out.contains(is_active), "{new} {arguments:?}: {ended:?}");
        }
    }
}

// ---- two people, and signals ----------------------------------------------------------------------------------------

#[test]
fn first_change_when_dns_changes_before_the_answer_then_is_refused() {
    let (dns, desk) = started();
    let first = desk.ask(&["-t", "images", "-p", "fastly", "-w", "5"]);
    desk.fine(&["-t", "images", "-p", "akamai", "-w", "12", "--yes"]);
    let after = dns.contents();
    let ended = answer(first, "y\n");
    assert!(ended.code == 1 && ended.err.contains("DNS is no longer as it was shown"), "{ended:?}");
    assert_eq!((dns.contents(), desk.journal().len()), (after, 2));
}

#[test]
fn second_change_when_first_is_being_written_then_second_is_refused() {
    let (dns, desk) = started();
    let (arrived, go_on) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    dns.plant(0, Plant::Wait(Arc::clone(&arrived), Arc::clone(&go_on)));
    let first = desk.ask(&["-t", "images", "-p", "fastly", "-w", "5"]);
    let first = std::thread::spawn(move || answer(first, "y\n"));
    arrived.wait();
    let parts = ["another change is in progress (\"alice, process "];
    desk.fails(1, &["-t", "html", "-p", "fastly", "-w", "5", "--yes"], &parts);
    go_on.open();
    assert_eq!(first.join().expect("the first command").code, 0);
    assert_eq!(weights(&dns, "www.example.com")["f"], 333);
    assert_eq!(weights(&dns, "img0.example.com")["f"], 143);
}

#[test]
fn signal_when_change_is_being_written_then_everything_is_put_back() {
    let (dns, desk) = started();
    let before = dns.contents();
    let ended = interrupted_at(&dns, 1, &desk, &["--all", "-p", "fastly", "-w", "5"]);
    assert!(ended.code == 1 && ended.err.contains("interrupted by a signal"), "{ended:?}");
    assert_eq!(dns.contents(), before);
    assert!(desk.journal().last().unwrap()["result"].as_str().unwrap().starts_with("put back: interrupted"));
}

#[test]
fn change_of_all_targets_when_a_target_lacks_the_provider_then_only_other_targets_change() {
    let dns = Dns::start();
    let desk = Desk::of_three(&dns);
    let config = std::fs::read_to_string(desk.dir.join("balance.toml")).expect("the configuration");
    let (first, _) = config.rsplit_once(", fastly = ").expect("the last target has fastly");
    desk.dir.write("balance.toml", format!("{first} }}\n"));
    desk.fine(&["init", "--all", "--yes"]);
    desk.fails(2, &["--all", "-p", "fastl", "-w", "5"], &["no such provider"]);
    desk.fails(2, &["-t", "static", "-p", "fastly", "-w", "5"], &["static has no such provider"]);
    let ended = desk.run(&["--all", "-p", "fastly", "-w", "14", "--yes"]);
    assert_eq!(
        (ended.code, ended.err.as_str()),
        (0, "edgeshim balance: static: has no provider fastly, so nothing changes there\n")
    );
    let last = desk.journal().pop().expect("a change");
    assert_eq!(last["targets"], json!(["html", "images"]));
}

#[test]
fn change_when_killed_then_status_history_and_rollback_report_the_missing_result() {
    let (dns, desk) = started();
    let before = dns.contents();
    let (arrived, go_on) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    dns.plant(1, Plant::Wait(Arc::clone(&arrived), Arc::clone(&go_on)));
    let mut child = desk.ask(&["-t", "html", "-t", "images", "-p", "fastly", "-w", "5"]);
    child.stdin.take().expect("standard input").write_all(b"y\n").expect("the command reads");
    arrived.wait();
    // html has its new weights, and images has not.
    signal(&child, "KILL");
    child.wait().expect("the command ends");
    let mut after = dns.contents();
    assert_ne!(after, before);
    go_on.open();
    assert!(wait_until(PATIENCE, || dns.contents() != after), "the API completes the write of images");
    for node in ["img0", "img1"] {
        let key = (format!("{node}.example.com."), "LUA".to_owned());
        after.insert(key.clone(), before[&key].clone());
    }
    dns.zone().rrsets.clone_from(&after);
    let lines = desk.lines();
    assert_eq!(lines.last().unwrap()["result"], "started");
    let warning = "warning: the journal has no result of this change";
    let ended = desk.run(&["status"]);
    assert!(ended.code == 1 && ended.err.matches(warning).count() == 1, "{ended:?}");
    let id = lines.last().unwrap()["id"].as_str().unwrap();
    let split = format!("images: the change {id} of ");
    assert!(ended.out.contains(&format!("  WRONG: {split}")), "{ended:?}");
    assert_eq!(ended.out.matches("all nodes are as they should be").count(), 2, "{ended:?}");
    desk.fails(1, &["--all", "-p", "akamai", "-w", "14", "--dry-run"], &[&split, "rollback -t html -t images"]);
    let finished = desk.run(&["-t", "html", "-t", "images", "-p", "fastly", "-w", "5", "--dry-run"]);
    assert_eq!(finished.code, 0, "{finished:?}");
    assert!(
        ended.out.contains("the journal has no result of this change; the nodes have the new weights"),
        "{ended:?}"
    );
    assert!(
        ended.out.contains("the journal has no result of this change; the nodes have the old weights"),
        "{ended:?}"
    );
    let ended = desk.run(&["history", "1"]);
    assert!(ended.out.contains("fastly weight 5: started") && ended.err.contains(warning), "{ended:?}");
    let ended = desk.run(&["rollback", "--yes"]);
    assert!(ended.code == 0 && ended.err.contains(warning), "{ended:?}");
    assert_eq!(dns.contents(), before);
    desk.fine(&["status"]);
    // The journal again has the interrupted change as its last change.
    let kept: Vec<String> = lines[..2].iter().chain(lines.last()).map(Value::to_string).collect();
    desk.dir.write("balance.jsonl", kept.join("\n"));
    // A command that changes nothing in DNS writes the weights of images into the journal. The interrupted change of
    // html still has no result.
    let patches = dns.patches();
    let ended = desk.run(&["-t", "images", "-p", "fastly", "-w", "15"]);
    assert!(ended.code == 0 && ended.out.contains("Done ("), "{ended:?}");
    assert_eq!((dns.patches(), desk.lines().last().unwrap()["result"].as_str()), (patches, Some("done")));
    let ended = desk.run(&["status"]);
    assert_eq!(ended.out.matches("the journal has no result of this change").count(), 1, "{ended:?}");
    let wrong = "html: www.example.com at pdns has neither the weights before nor the weights after the change";
    let ended = desk.run(&["-t", "static", "-p", "fastly", "-w", "10", "--yes"]);
    assert!(ended.code == 0 && ended.err.contains(warning), "{ended:?}");
    let mut other = dns.contents()[&("static.example.com.".to_owned(), "LUA".to_owned())].clone();
    other["name"] = "www.example.com.".into();
    dns.zone().rrsets.insert(("www.example.com.".to_owned(), "LUA".to_owned()), other);
    desk.fails(1, &["-t", "html", "-p", "fastly", "-w", "11", "--yes"], &[wrong]);
}

#[test]
fn change_when_output_is_closed_then_is_completed() {
    let (dns, desk) = started();
    let mut child = desk.ask(&["--all", "-p", "fastly", "-w", "5", "-v"]);
    drop((child.stdout.take(), child.stderr.take()));
    child.stdin.take().expect("standard input").write_all(b"y\n").expect("the command reads");
    assert_eq!(child.wait().expect("the command ends").code(), Some(0));
    assert_eq!(weights(&dns, "static.example.com")["f"], 143);
    assert_eq!(desk.journal().last().unwrap()["result"], "done");
}

// ---- several services, programs, shims ------------------------------------------------------------------------------

fn program_service(path: &str, state: &str) -> String {
    format!("[[dns]]\nname = \"ours\"\nkind = \"command\"\ncommand = [\"{path}\", \"{state}\"]\ntimeout = \"5s\"\n")
}

#[test]
fn example_program_when_used_beside_powerdns_then_changes_reach_both_or_none() {
    let dns = Dns::start();
    let program = repository("deploy/balance/weights-in-a-file");
    let program = program.to_str().expect("a path in UTF-8");
    let desk = Desk::new(&format!(
        "{}{}{}",
        program_service(program, "weights.json"),
        dns.service("pdns"),
        target("html", "\"ours\", \"pdns\"", "\"www.example.com\"")
    ));
    desk.fine(&["init", "-t", "html", "--yes"]);
    let state = || -> Value {
        let text = std::fs::read_to_string(desk.dir.join("weights.json")).expect("the file of the program");
        serde_json::from_str(&text).expect("JSON")
    };
    assert_eq!(
        state()["www.example.com"]["providers"]["fastly"],
        json!({ "mode": "obey", "weight": 15, "cname": "f.fastly.example", "dns_weight": 1 })
    );
    desk.fine(&["-t", "html", "-p", "fastly", "-w", "5", "--yes"]);
    let stored = state();
    assert_eq!(stored["www.example.com"]["providers"]["akamai"]["dns_weight"], 3);
    dns.plant(0, Plant::Status(500));
    desk.fails(1, &["-t", "html", "-p", "fastly", "-w", "6", "--yes"], &["all nodes are as before"]);
    assert_eq!(state(), stored);
    desk.fine(&["status"]);
    // Someone changed the weight in DNS without edgeshim.
    let mut edited = stored.clone();
    edited["www.example.com"]["providers"]["akamai"]["dns_weight"] = 200.into();
    desk.dir.write("weights.json", edited.to_string());
    let part = "www.example.com at ours was changed without edgeshim: its weights in DNS are akamai 200, edgecast 3";
    desk.fails(1, &["-t", "html", "-p", "fastly", "-w", "6", "--yes"], &[part]);
    // A provider is missing at one of the two services.
    let mut less = stored.clone();
    less["www.example.com"]["providers"].as_object_mut().unwrap().remove("fastly");
    desk.dir.write("weights.json", less.to_string());
    desk.fails(1, &["-t", "html", "-p", "fastly", "-w", "6", "--yes"], &["the nodes disagree"]);
}

#[test]
fn program_when_failing_then_message_names_the_cause() {
    let desk = Desk::new(&(program_service("./weights", "x") + &target("html", "\"ours\"", "\"www.example.com\"")));
    let show = ["-t", "html", "--show"];
    desk.fails(1, &show, &["ours: \"./weights\" cannot be started"]);
    for (script, part) in [
        ("echo first >&2; printf 'no \\033access\\n' >&2; exit 3", "failed (exit status: 3): \"no \\u{1b}access\""),
        ("echo '{'", "the program's answer to \"read\" is not JSON"),
        ("echo '{}'", "has no object \"nodes\""),
        ("echo '{\"nodes\":{}}'", "has no entry for www.example.com"),
        // After 16 MiB, the output is closed.
        ("exec yes", "failed (signal: 13 (SIGPIPE))"),
        ("trap '' TERM; sleep 60", "did not end within 5000 ms, and was killed"),
    ] {
        desk.program(script);
        desk.fails(1, &show, &[part]);
    }
}

/// Returns whether the process whose number is in this file has ended.
fn has_ended(desk: &Desk, file: &str) -> bool {
    let id = std::fs::read_to_string(desk.dir.join(file)).expect("the number of the process");
    let status = std::fs::read_to_string(format!("/proc/{}/stat", id.trim())).unwrap_or_default();
    // A zombie has ended too. It remains because its parent has not waited for it.
    status.is_empty() || status.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
}

#[test]
fn program_when_killed_after_the_time_limit_then_child_processes_are_killed_too() {
    let service = program_service("./weights", "x").replace("\"5s\"", "\"1s\"");
    let desk = Desk::new(&(service + &target("html", "\"ours\"", "\"www.example.com\"")));
    desk.program("sleep 600 & echo $! > child; wait");
    desk.fails(1, &["-t", "html", "--show"], &["did not end within 1000 ms, and was killed"]);
    assert!(wait_until(PATIENCE, || has_ended(&desk, "child")), "the child still runs");
}

#[test]
fn program_when_child_process_keeps_the_output_open_then_answer_is_used() {
    // The output is read for one second after the end of the program. This second is not a part of the time limit.
    let service = program_service("./weights", "x").replace("\"5s\"", "\"1s\"");
    let desk = Desk::new(&(service + &target("html", "\"ours\"", "\"www.example.com\"")));
    desk.program("sleep 600 & echo $! > child; echo '{\"nodes\":{\"www.example.com\":null}}'");
    // On a busy machine, the program itself can need a second.
    let is_used = (0..5).any(|_| {
        let ended = desk.run(&["-t", "html", "--show"]);
        // After the time limit, the child process does not run any more, or was not even started.
        if let Ok(id) = std::fs::read_to_string(desk.dir.join("child")) {
            let _ = Command::new("kill").arg(id.trim()).stderr(Stdio::null()).status().expect("kill starts");
            std::fs::remove_file(desk.dir.join("child")).expect("the file can be removed");
        }
        assert_eq!(ended.code, 1, "{ended:?}");
        ended.err.contains("www.example.com at ours has no record")
    });
    assert!(is_used, "the answer is not used");
}

#[test]
fn change_when_made_then_shims_get_an_annotation_and_a_failure_only_warns() {
    let dns = Dns::start();
    let shim = Origin::start(origin::fixed(201, &[], "{}"));
    let bad = Origin::start(origin::fixed(401, &[], ""));
    let desk = Desk::new(&format!(
        "shims = [\"http://{}\", \"http://{}\"]\nshims_token = \"t0ken\"\n{}{}",
        shim.addr,
        bad.addr,
        dns.service("pdns"),
        target("html", "\"pdns\"", "\"www.example.com\"")
    ));
    let ended = desk.run(&["init", "-t", "html", "--yes", "--why", "first"]);
    assert!(ended.code == 0 && ended.err.contains("needs the right shims_token (401)"), "{ended:?}");
    let request = shim.last();
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/annotations"));
    assert_eq!(request.field("authorization"), Some("Bearer t0ken"));
    let body: Value = serde_json::from_slice(&request.body).expect("JSON");
    assert_eq!(body["text"], "balance html: init by alice: first");
    assert_eq!(body["share"], json!({ "akamai": 33.34, "edgecast": 33.33, "fastly": 33.33 }));
}

#[test]
fn announcement_when_there_are_several_shims_then_is_sent_to_all_at_the_same_time() {
    let dns = Dns::start();
    // Each shim answers only after the other shim has the request too.
    let gates = [Gate::default(), Gate::default()];
    let shim = |own: usize| {
        let (own, other) = (gates[own].clone(), gates[1 - own].clone());
        Origin::start(move |request, conn| {
            own.open();
            other.wait();
            respond(request, conn, 201, &[], b"{}")
        })
    };
    let shims = [shim(0), shim(1)];
    let list = format!("shims = [\"{}\", \"{}\"]\n", shims[0].url(), shims[1].url());
    let desk = Desk::new(&(list + &dns.service("pdns") + &target("html", "\"pdns\"", "\"www.example.com\"")));
    desk.fine(&["init", "-t", "html", "--yes"]);
    assert_eq!([shims[0].count(), shims[1].count()], [1, 1]);
}

#[test]
fn shim_when_sending_retry_after_then_no_command_waits() {
    let dns = Dns::start();
    let shim = Origin::start(origin::fixed(503, &[("Retry-After", "30")], ""));
    let list = format!("shims = [\"{}\"]\n", shim.url());
    let desk = Desk::new(&(list + &dns.service("pdns") + &target("html", "\"pdns\"", "\"www.example.com\"")));
    let begun = Instant::now();
    let ended = desk.run(&["init", "-t", "html", "--yes"]);
    assert!(ended.code == 0 && ended.err.contains("did not accept the annotation (503)"), "{ended:?}");
    let ended = desk.run(&["-t", "html", "--show"]);
    assert!(ended.code == 0 && ended.err.contains("/metrics answers 503"), "{ended:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

// ---- Route 53 -------------------------------------------------------------------------------------------------------

/// A test server that acts as Route 53. It lists one record set per page. Every second request for the state of a
/// change gets INSYNC.
#[derive(Default)]
struct Aws {
    /// The content of each record set as XML, in the order of name, type and identifier.
    sets: Vec<String>,
    /// What happens to the next POST.
    plant: Option<AwsPlant>,
    looks: usize,
    posts: usize,
    is_never_in_sync: bool,
    /// The number of the first POST that is denied.
    denied_from: Option<usize>,
}

enum AwsPlant {
    Throttle,
    /// Someone else changes a weight just before the batch.
    Edit,
    /// Writes the batch, and closes the connection before the response.
    WriteAndCut,
}

fn element<'x>(xml: &'x str, name: &str) -> &'x str {
    let found = xml.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once(&format!("</{name}>")));
    found.map_or("", |(text, _)| text)
}

fn key(set: &str) -> (String, String, String) {
    let text = |name| element(set, name).to_owned();
    (text("Name"), text("Type"), text("SetIdentifier"))
}

fn aws_error(code: &str, text: &str) -> String {
    format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{text}</Message></Error></ErrorResponse>"
    )
}

fn aws(shared: &Mutex<Aws>, request: &Request, conn: &mut Conn) -> After {
    let mut aws = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let authorization = request.field("authorization").unwrap_or_default();
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKID/"), "{authorization}");
    let info = |status: &str| {
        format!("<R xmlns=\"x\"><ChangeInfo><Id>/change/C1</Id><Status>{status}</Status></ChangeInfo></R>")
    };
    if request.target == "/2013-04-01/change/C1" {
        aws.looks += 1;
        let status = if aws.looks % 2 == 1 || aws.is_never_in_sync { "PENDING" } else { "INSYNC" };
        return respond(request, conn, 200, &[], info(status).as_bytes());
    }
    if request.method == "POST" {
        assert_eq!(request.target, "/2013-04-01/hostedzone/Z1/rrset");
        aws.posts += 1;
        if aws.denied_from.is_some_and(|first| aws.posts >= first) {
            return respond(request, conn, 403, &[], aws_error("AccessDenied", "not any more").as_bytes());
        }
        let plant = aws.plant.take();
        match plant {
            Some(AwsPlant::Throttle) => {
                let body = aws_error("Throttling", "Rate exceeded");
                return respond(request, conn, 400, &[], body.as_bytes());
            }
            Some(AwsPlant::Edit) => {
                let set = aws.sets.iter_mut().find(|set| set.contains("edgeshim fastly")).expect("a record of fastly");
                *set = set.replace("<Weight>1<", "<Weight>2<");
            }
            Some(AwsPlant::WriteAndCut) | None => {}
        }
        let body = String::from_utf8_lossy(&request.body);
        let mut sets = aws.sets.clone();
        for change in body.split("<Change>").skip(1) {
            let set = element(change, "ResourceRecordSet").to_owned();
            match element(change, "Action") {
                "DELETE" => {
                    let Some(at) = sets.iter().position(|present| *present == set) else {
                        let text = "<InvalidChangeBatch><Messages><Message>it was not found</Message></Messages>\
                                    </InvalidChangeBatch>";
                        return respond(request, conn, 400, &[], text.as_bytes());
                    };
                    sets.remove(at);
                }
                _ => sets.push(set),
            }
        }
        sets.sort_by_key(|set| key(set));
        aws.sets = sets;
        if matches!(plant, Some(AwsPlant::WriteAndCut)) {
            return After::Close;
        }
        return respond(request, conn, 200, &[], info("PENDING").as_bytes());
    }
    let (path, query) = request.target.split_once('?').expect("a query");
    assert_eq!(path, "/2013-04-01/hostedzone/Z1/rrset");
    let wanted = |name: &str| {
        let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        pair.unwrap_or_default().replace("%20", " ")
    };
    let start = (wanted("name"), wanted("type"), wanted("identifier"));
    let mut rest = aws.sets.iter().filter(|set| key(set) >= start);
    let set = rest.next().map(|set| format!("<ResourceRecordSet>\n {set}</ResourceRecordSet>")).unwrap_or_default();
    let next = rest.next().map_or("<IsTruncated>false</IsTruncated>".to_owned(), |next| {
        let (name, kind, identifier) = key(next);
        format!(
            "<IsTruncated>true</IsTruncated><NextRecordName>{name}</NextRecordName><NextRecordType>{kind}\
             </NextRecordType><NextRecordIdentifier>{identifier}</NextRecordIdentifier>"
        )
    });
    let text =
        format!("<?xml version=\"1.0\"?>\n<R xmlns=\"x\"><ResourceRecordSets>{set}</ResourceRecordSets>{next}</R>");
    respond(request, conn, 200, &[], text.as_bytes())
}

/// Starts a test server that acts as Route 53. Also returns its block for `balance.toml`, with the name `aws`.
fn start_aws() -> (Arc<Mutex<Aws>>, Origin, String) {
    let state = Arc::new(Mutex::new(Aws::default()));
    let shared = Arc::clone(&state);
    let api = Origin::start(move |request, conn| aws(&shared, request, conn));
    let service = format!(
        "[[dns]]\nname = \"aws\"\nkind = \"route53\"\nurl = \"http://{}\"\nkey = \"AKID\"\nsecret = \"{KEY}\"\n\
         zone_id = \"/hostedzone/Z1\"\n",
        api.addr
    );
    (state, api, service)
}

fn with_aws() -> (Arc<Mutex<Aws>>, Origin, Desk) {
    let (state, api, service) = start_aws();
    let desk = Desk::new(&(service + &target("images", "\"aws\"", "\"img0.example.com\", \"img1.example.com\"")));
    desk.fine(&["init", "-t", "images", "--yes"]);
    (state, api, desk)
}

#[test]
fn route_53_when_throttled_paged_and_pending_then_change_is_complete() {
    let (state, _api, desk) = with_aws();
    let state = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let counts = || {
        let state = state();
        (state.sets.len(), state.posts, state.looks)
    };
    assert_eq!(counts(), (6, 1, 2));
    state().plant = Some(AwsPlant::Throttle);
    let ended = desk.run(&["-t", "images", "-p", "fastly", "-w", "5", "--yes", "-v"]);
    assert!(ended.code == 0 && !ended.err.contains(KEY), "{ended:?}");
    assert_eq!(counts(), (6, 3, 4), "the batch is repeated once");
    let weights: Vec<String> = state().sets.iter().map(|set| element(set, "Weight").to_owned()).collect();
    assert_eq!(weights, ["3", "3", "1", "3", "3", "1"]);
    assert_eq!(key(&state().sets[2]).2, "edgeshim fastly obey 5");
    desk.fine(&["status"]);
    let before = state().sets.clone();
    state().plant = Some(AwsPlant::WriteAndCut);
    let parts = ["aws: POST http://127.0.0.1:", "all nodes are as before"];
    desk.fails(1, &["-t", "images", "-p", "fastly", "-w", "6", "--yes"], &parts);
    assert_eq!(state().sets, before);
}

#[test]
fn route_53_when_record_is_changed_just_before_the_batch_then_other_change_stays() {
    let (state, _api, desk) = with_aws();
    let state = || state.lock().unwrap_or_else(PoisonError::into_inner);
    state().plant = Some(AwsPlant::Edit);
    let parts = ["aws: Route 53 rejects the change (400 \"InvalidChangeBatch\": \"it was not found\")", "look again"];
    desk.fails(1, &["-t", "images", "-p", "fastly", "-w", "5", "--yes"], &parts);
    assert_eq!(state().posts, 2, "there must be no batch that undoes the change of the other person");
    assert_eq!(element(&state().sets[2], "Weight"), "2");
    let part =
        "img0.example.com at aws was changed without edgeshim: its weights in DNS are akamai 1, edgecast 1, fastly 2";
    desk.fails(1, &["-t", "images", "-p", "fastly", "-w", "5", "--yes"], &[part]);
}

// ---- output, check --------------------------------------------------------------------------------------------------

#[test]
fn shares_when_shown_as_table_json_and_file_then_are_equal() {
    let (_dns, desk) = started();
    desk.fine(&["-t", "images", "-p", "fastly", "-w", "5", "--yes"]);
    let table = desk.fine(&["-t", "images", "--show"]);
    assert_eq!(
        table,
        "images: img0.example.com, img1.example.com (pdns)\n  provider  mode  weight   share\n  \
         akamai    obey      15  42.9 %\n  edgecast  obey      15  42.9 %\n  fastly    obey       5  14.3 %\n"
    );
    let shown: Value = serde_json::from_str(&desk.fine(&["-t", "images", "-t", "html", "--json"])).expect("JSON");
    assert_eq!(
        shown["images"]["fastly"],
        json!({ "mode": "obey", "weight": 5, "pct": 14.28, "enabled": true, "observed": null })
    );
    assert_eq!(shown.as_object().unwrap().len(), 2);
    let out = desk.fine(&["-t", "images", "--write"]);
    assert_eq!(out, "./cdn_images.json\n");
    let file: Value =
        serde_json::from_str(&std::fs::read_to_string(desk.dir.join("cdn_images.json")).unwrap()).unwrap();
    for (name, written) in file.as_object().unwrap() {
        for key in ["enabled", "weight", "pct"] {
            assert_eq!(written[key], shown["images"][name][key], "{name}.{key}");
        }
    }
    std::fs::remove_file(desk.dir.join("cdn_images.json")).unwrap();
    let both: Value = serde_json::from_str(&desk.fine(&["-t", "images", "--write", "--json"])).expect("only JSON");
    assert_eq!(both["images"], shown["images"]);
    assert!(desk.dir.join("cdn_images.json").exists());
    let status: Value = serde_json::from_str(&desk.fine(&["status", "--json"])).expect("JSON");
    assert_eq!(status["images"]["problems"], json!([]));
    assert_eq!(status["images"]["last"]["action"], "weight 5");
}

#[test]
fn observed_shares_when_shims_count_pulls_then_are_shown_beside_the_wanted_shares() {
    let dns = Dns::start();
    let looks = Mutex::new(0);
    let shim = Origin::start(move |request, conn| {
        let mut looks = looks.lock().unwrap_or_else(PoisonError::into_inner);
        *looks += 1;
        let line = |name: &str, count: u32| {
            format!("edgeshim_pulls_total{{provider=\"{name}\",class=\"html\",code=\"200\"}} {}\n", count * *looks)
        };
        let started = "edgeshim_start_timestamp_seconds 1\n".to_owned();
        let text = started + &line("akamai", 70) + &line("fastly", 30) + &line("none", 5);
        respond(request, conn, 200, &[], text.as_bytes())
    });
    let config = format!("{}{}", dns.service("pdns"), target("html", "\"pdns\"", "\"www.example.com\""));
    let desk = Desk::new(&format!("shims = [\"http://{}\"]\n{config}", shim.addr));
    desk.run(&["init", "-t", "html", "--yes"]);
    let out = desk.fine(&["-t", "html", "--show"]);
    assert!(out.contains("observed (pulls)") && out.contains("70.0 %") && out.contains("30.0 %"), "{out}");
    let shown: Value = serde_json::from_str(&desk.fine(&["-t", "html", "--json"])).expect("JSON");
    for (name, share) in [("akamai", 70.0), ("edgecast", 0.0), ("fastly", 30.0)] {
        assert_eq!(shown["html"][name]["observed"], share, "{name}");
    }
    drop(shim);
    let ended = desk.run(&["-t", "html", "--json"]);
    assert!(ended.code == 0 && ended.err.contains("warning: the observed shares are not known"), "{ended:?}");
    assert!(ended.out.contains("\"observed\": null"), "{ended:?}");
}

/// Returns a price of fastly with this commit.
fn fastly_price(commit: &str) -> String {
    format!(
        "[[price]]\nprovider = \"fastly\"\nmeter = \"bytes\"\ntiers = [{{ per_gb = 0.1 }}]\ncommit = \"{commit}\"\n"
    )
}

/// Returns two samples of 5 minutes with 100 MB each for each of these providers.
fn samples_of_this_month(providers: &[&str]) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = time::UtcDateTime::from_unix_timestamp(i64::try_from(now.as_secs()).unwrap()).unwrap();
    let month = format!("{:04}-{:02}", now.year(), u8::from(now.month()));
    let mut samples = String::new();
    for (provider, minute) in providers.iter().flat_map(|name| [(name, 0), (name, 5)]) {
        let time = format!("{month}-01T00:{minute:02}:00Z");
        let sample = json!({ "time": time, "provider": provider, "bytes": 100_000_000, "requests": 1 });
        writeln!(samples, "{sample}").unwrap();
    }
    samples
}

#[test]
fn change_when_crossing_a_commit_then_warns_and_is_made() {
    let (dns, desk) = started();
    let config = std::fs::read_to_string(desk.dir.join("balance.toml")).unwrap();
    desk.dir.write("balance.toml", format!("samples = \"traffic\"\n{config}{}", fastly_price("1150GB")));
    let change = |pct| desk.run(&["-t", "images", "-p", "fastly", "--pct", pct, "--yes", "--force", "a test"]);
    let ended = change("40");
    assert!(ended.code == 0 && ended.err.contains("warning: the cost of this change is unknown: "), "{ended:?}");
    assert!(ended.err.contains("traffic cannot be read"), "{ended:?}");
    desk.dir.write("traffic", samples_of_this_month(&["akamai", "edgecast", "fastly"]));
    // Together, the three CDNs have 300 MB in 5 minutes, which are 2.4 to 2.7 TB in a month of 28 to 31 days. 40 % of
    // this are at most 1.1 TB, and 50 % are at least 1.2 TB.
    let ended = change("50");
    assert!(ended.code == 0 && ended.err.contains("warning: fastly: this change moves the forecast of "), "{ended:?}");
    assert!(ended.err.contains("above the commit of 1.15 TB; the forecast of its bill changes from "), "{ended:?}");
    let ended = change("51");
    assert!(ended.code == 0 && !ended.err.contains("warning"), "{ended:?}");
    assert_eq!(weights(&dns, "img0.example.com")["f"], 510);
}

#[test]
fn calls_when_verbose_then_are_reported_without_the_key() {
    let (_dns, desk) = started();
    let ended = desk.run(&["-t", "images", "--show", "-v"]);
    assert!(
        ended.code == 0 && ended.err.contains("GET http://127.0.0.1:") && ended.err.contains(": 200, "),
        "{ended:?}"
    );
    assert!(!ended.err.contains(KEY), "{ended:?}");
}

/// The variables that the sample file names.
const ENVIRONMENT: [(&str, &str); 4] =
    [("PDNS_KEY", "x"), ("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x"), ("BALANCE_TOKEN", "x")];

#[test]
fn sample_file_when_checked_then_is_fine_and_names_every_key() {
    let sample = repository("config/balance.toml");
    let check = |path: &str| {
        let output = binary().args(["balance", "check", "--config", path]).envs(ENVIRONMENT).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, out) = check(sample.to_str().expect("a path in UTF-8"));
    assert!(code == Some(0) && out.ends_with("balance.toml: fine\n"), "{out}");
    // An unknown key makes `check` list the known keys of each block.
    let dir = temp_dir();
    let text = std::fs::read_to_string(&sample).unwrap();
    let wrong = ["[[dns]]\n", "[[target]]\n", "[[price]]\n", "[watch]\n"]
        .iter()
        .fold(text.clone(), |text, block| text.replace(block, &format!("{block}zzzzzzzz = 1\n")))
        .replace("{ per_gb", "{ zzzzzzzz = 1, per_gb");
    let path = dir.write("wrong.toml", format!("zzzzzzzz = 1\n{wrong}"));
    let (code, out) = check(path.to_str().unwrap());
    assert_eq!(code, Some(2), "{out}");
    assert!(out.ends_with("wrong.toml: 10 problems\n"), "{out}");
    for list in out.lines().filter_map(|line| line.split_once("write one of ")) {
        let keys = list.1.split(", or remove").next().unwrap();
        for key in keys.split(", ") {
            let named =
                text.lines().any(|line| line.starts_with(&format!("{key} = ")) || line.contains(&format!("[{key}]")));
            let named = named || text.contains(&format!("{{ {key} = ")) || text.contains(&format!(", {key} = "));
            assert!(named || text.contains(&format!(".{key}]")), "config/balance.toml does not name the key {key}");
        }
    }
}

#[test]
fn history_when_journal_is_absent_then_reports_no_changes() {
    let dns = Dns::start();
    let desk = Desk::of_three(&dns);
    assert!(desk.fine(&["history"]).contains("has no changes yet"));
    desk.fails(1, &["rollback", "--yes"], &["the journal has 0 changes"]);
    assert_eq!(dns.api.count(), 0);
}
