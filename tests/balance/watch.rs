//! `edgeshim balance watch` with edges on real sockets. The weights in DNS follow the state of the edges and the modes.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::support::tls_origin::{Authority, Options, TlsOrigin, Valid};
use super::*;

#[path = "watch_slow.rs"]
mod watch_slow;

/// With this status, an edge resets the connection and sends no response.
const RESET: u16 = 0;
const NODE: &str = "www.example.com";

/// The edge of a CDN.
struct Edge {
    origin: Origin,
    status: Arc<AtomicU16>,
}

impl Edge {
    fn start() -> Self {
        let status = Arc::new(AtomicU16::new(200));
        let shared = Arc::clone(&status);
        let origin = Origin::start(move |request, conn| match shared.load(Ordering::SeqCst) {
            RESET => origin::reset()(request, conn),
            status => respond(request, conn, status, &[], b"pong"),
        });
        Self { origin, status }
    }

    fn set(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Waits until this many further probes have arrived.
    fn wait_probes(&self, probes: usize) {
        let wanted = self.origin.count() + probes;
        assert!(wait_until(PATIENCE, || self.origin.count() >= wanted), "no further probes arrive");
    }

    fn probe(&self) -> String {
        format!(", probe = \"{}/ping?a=b\"", self.origin.url())
    }
}

const KEYS: &str = "[watch]\nevery = \"100ms\"\ntimeout = \"10s\"\ndown_after = 2\nup_after = 3\n";

/// A target with three providers and first weights of 15. The providers in `probes` have a probe.
fn desk_of(dns: &Dns, probes: &[(&str, String)], further: &str) -> Desk {
    let probe = |name: &str| probes.iter().find(|one| one.0 == name).map_or("", |one| one.1.as_str());
    let desk = Desk::new(&format!(
        "max_step = 1\n{further}{}[[target]]\nname = \"html\"\ndns = [\"pdns\"]\nzone = \"example.com\"\n\
         nodes = [\"{NODE}\"]\n[target.providers]\nakamai = {{ cname = \"a.akamai.example\"{} }}\n\
         edgecast = {{ cname = \"e.edgecast.example\"{} }}\nfastly = {{ cname = \"f.fastly.example\"{} }}\n{KEYS}",
        dns.service("pdns"),
        probe("akamai"),
        probe("edgecast"),
        probe("fastly"),
    ));
    desk.fine(&["init", "-t", "html", "--yes"]);
    desk
}

/// A running watch.
struct Watch {
    child: Child,
    /// Standard output and standard error, as far as they have arrived.
    text: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Watch {
    fn start(desk: &Desk) -> Self {
        Self::spawn(&mut desk.command(&["watch"]))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("edgeshim starts");
        let text = Arc::new(Mutex::new(String::new()));
        let out: Box<dyn std::io::Read + Send> = Box::new(child.stdout.take().expect("standard output"));
        let err: Box<dyn std::io::Read + Send> = Box::new(child.stderr.take().expect("standard error"));
        let reader = |stream: Box<dyn std::io::Read + Send>| {
            let text = Arc::clone(&text);
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines() {
                    let line = line.expect("UTF-8") + "\n";
                    text.lock().unwrap_or_else(PoisonError::into_inner).push_str(&line);
                }
            })
        };
        let readers = [out, err].map(reader).into_iter().collect();
        Self { child, text, readers }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wait(&self, part: &str) {
        assert!(wait_until(PATIENCE * 4, || self.text().contains(part)), "no {part:?} in:\n{}", self.text());
    }

    /// Sends SIGTERM. Returns everything that the watch has written.
    fn stop(mut self) -> String {
        if self.child.try_wait().expect("the state of the watch").is_none() {
            signal(&self.child, "TERM");
        }
        let code = self.child.wait().expect("the watch ends").code();
        self.readers.drain(..).for_each(|reader| reader.join().expect("a reader"));
        let text = self.text();
        assert!(code == Some(0) && !text.contains(KEY) && !text.contains('\u{1b}'), "{code:?}: {text}");
        text
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a change although it is refused.
fn forced(desk: &Desk, change: &[&str]) {
    let ended = desk.run(&[change, &["--yes", "--force", "a test"]].concat());
    assert_eq!(ended.code, 0, "{ended:?}");
}

fn is_served(dns: &Dns, provider: &str) -> bool {
    weights(dns, NODE).contains_key(provider)
}

fn wait_served(dns: &Dns, watch: &Watch, provider: &str, wanted: bool) {
    let done = wait_until(PATIENCE, || is_served(dns, provider) == wanted);
    assert!(done, "{provider}: served must be {wanted}: {:?}\n{}", weights(dns, NODE), watch.text());
}

#[test]
fn edge_when_down_and_mode_is_obey_then_provider_is_away_until_edge_is_up() {
    let (dns, edge) = (Dns::start(), Edge::start());
    let shim = Origin::start(origin::fixed(201, &[], "{}"));
    let desk = desk_of(&dns, &[("fastly", edge.probe())], &format!("shims = [\"http://{}\"]\n", shim.addr));
    let watch = Watch::start(&desk);
    watch.wait("html: not watched, because there is no probe: akamai, edgecast");
    edge.wait_probes(4);
    assert_eq!((edge.origin.last().target.as_str(), desk.journal().len()), ("/ping?a=b", 1));
    edge.set(503);
    wait_served(&dns, &watch, "f", false);
    watch.wait("html: fastly is away now (change ");
    assert_eq!(weights(&dns, NODE).values().sum::<u32>(), 1000, "max_step does not limit the watch");
    let entry = desk.journal().pop().expect("a change");
    assert_eq!((&entry["who"], &entry["action"], &entry["result"]), (&json!("watch"), &json!("away"), &json!("done")));
    assert_eq!(entry["to"]["html"]["fastly"], json!({ "mode": "obey", "weight": 15, "away": true }));
    let why = entry["why"].as_str().unwrap();
    assert!(
        why.contains(" probes of http://") && why.contains(" failed in a row, the last: status 503 after "),
        "{why}"
    );
    assert!(wait_until(PATIENCE, || shim.count() == 2), "the change is announced");
    let body: Value = serde_json::from_slice(&shim.last().body).expect("JSON");
    assert!(body["text"].as_str().unwrap().starts_with("balance html: fastly away by watch: "), "{body}");
    assert_eq!(body["share"], json!({ "akamai": 50.0, "edgecast": 50.0, "fastly": 0.0 }));
    assert!(desk.run(&["-t", "html", "--show"]).out.contains("obey, away"));
    edge.set(302);
    wait_served(&dns, &watch, "f", true);
    watch.wait("html: fastly is back (change ");
    let text = watch.stop();
    assert!(text.contains("stopped; no provider is away\n"), "{text}");
    let entry = desk.journal().pop().expect("a change");
    assert_eq!(
        (&entry["action"], &entry["why"].as_str().unwrap().contains("succeeded in a row")),
        (&json!("back"), &true)
    );
    assert_eq!((desk.journal().len(), dns.patches()), (3, 3), "nothing else is written");
    assert_eq!(desk.run(&["status"]).code, 0);
}

#[test]
fn edge_when_down_and_mode_is_remove_then_provider_is_away_until_mode_is_set_again() {
    let (dns, edge) = (Dns::start(), Edge::start());
    let desk = desk_of(&dns, &[("fastly", edge.probe())], "");
    desk.fine(&["-t", "html", "-p", "fastly", "-m", "remove", "--yes"]);
    let watch = Watch::start(&desk);
    edge.set(RESET);
    wait_served(&dns, &watch, "f", false);
    edge.set(200);
    watch.wait("fastly is up: ");
    edge.wait_probes(6);
    assert!(!is_served(&dns, "f"));
    let text = watch.stop();
    assert!(text.contains("stopped; html: away: fastly (remove)\n"), "{text}");
    // A new watch does not bring the provider back either.
    let watch = Watch::start(&desk);
    edge.wait_probes(6);
    assert!(!is_served(&dns, "f"), "{}", watch.text());
    forced(&desk, &["-t", "html", "-p", "fastly", "-m", "remove"]);
    assert!(is_served(&dns, "f"));
    edge.wait_probes(3);
    assert!(is_served(&dns, "f"), "{}", watch.stop());
}

#[test]
fn edge_when_down_and_mode_is_always_then_dns_is_unchanged() {
    let (dns, edge, other) = (Dns::start(), Edge::start(), Edge::start());
    let desk = desk_of(&dns, &[("fastly", edge.probe()), ("akamai", other.probe())], "");
    desk.fine(&["-t", "html", "-p", "fastly", "-m", "always", "--yes"]);
    let patches = dns.patches();
    let watch = Watch::start(&desk);
    edge.set(500);
    watch.wait("fastly is down: 2 probes of ");
    edge.wait_probes(5);
    assert_eq!((dns.patches(), is_served(&dns, "f")), (patches, true), "{}", watch.stop());
}

#[test]
fn edge_when_flapping_then_dns_is_unchanged() {
    let dns = Dns::start();
    let count = AtomicU16::new(0);
    let edge = Origin::start(move |request, conn| {
        let status = if count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) { 500 } else { 200 };
        respond(request, conn, status, &[], b"")
    });
    let desk = desk_of(&dns, &[("fastly", format!(", probe = \"{}\"", edge.url()))], "");
    let (patches, lines) = (dns.patches(), desk.lines().len());
    let watch = Watch::start(&desk);
    assert!(wait_until(PATIENCE, || edge.count() > 20));
    let text = watch.stop();
    assert!(!text.contains(" is down") && !text.contains(" is up"), "{text}");
    assert_eq!((dns.patches(), desk.lines().len()), (patches, lines));
}

#[test]
fn last_provider_when_edge_is_down_then_stays_and_journal_has_one_line_with_the_reason() {
    let (dns, fastly, akamai) = (Dns::start(), Edge::start(), Edge::start());
    let desk = desk_of(&dns, &[("fastly", fastly.probe()), ("akamai", akamai.probe())], "");
    forced(&desk, &["-t", "html", "-p", "edgecast", "-m", "no"]);
    fastly.set(503);
    let watch = Watch::start(&desk);
    wait_served(&dns, &watch, "f", false);
    akamai.set(503);
    watch.wait("html: akamai is down, but stays, because all other providers are down or not served");
    akamai.wait_probes(8);
    let kept = |desk: &Desk| desk.lines().into_iter().filter(|line| line["result"] == "kept").collect::<Vec<_>>();
    assert_eq!(weights(&dns, NODE), [("a".to_owned(), 1000)].into());
    assert_eq!(kept(&desk).len(), 1);
    assert_eq!((&kept(&desk)[0]["provider"], &kept(&desk)[0]["who"]), (&json!("akamai"), &json!("watch")));
    let text = watch.stop();
    assert_eq!(text.matches("but stays").count(), 1, "{text}");
    // A watch that starts later writes no second line into the journal.
    let watch = Watch::start(&desk);
    fastly.set(200);
    wait_served(&dns, &watch, "f", true);
    watch.wait("html: akamai is away now");
    wait_served(&dns, &watch, "a", false);
    assert_eq!(kept(&desk).len(), 1, "{}", watch.stop());
    desk.fine(&["status"]);
    assert!(desk.fine(&["history"]).contains(" watch html: akamai away, why "));
}

#[test]
fn edges_when_all_fail_at_the_same_time_then_the_probes_do_not_count() {
    let (dns, fastly, akamai) = (Dns::start(), Edge::start(), Edge::start());
    let desk = desk_of(&dns, &[("fastly", fastly.probe()), ("akamai", akamai.probe())], "");
    let patches = dns.patches();
    fastly.set(RESET);
    akamai.set(RESET);
    let watch = Watch::start(&desk);
    watch.wait("all probes fail, and the edges that were not down before belong to several providers");
    akamai.wait_probes(6);
    assert_eq!(dns.patches(), patches, "{}", watch.text());
    akamai.set(200);
    watch.wait("the probes count again");
    wait_served(&dns, &watch, "f", false);
    let text = watch.stop();
    assert_eq!(text.matches("all probes fail").count(), 1, "{text}");
}

#[test]
fn api_when_failing_then_failure_is_not_reported_in_each_round_and_change_is_tried_again() {
    let (dns, edge) = (Dns::start(), Edge::start());
    let desk = desk_of(&dns, &[("fastly", edge.probe())], "");
    let lines = desk.lines().len();
    dns.zone().always = Some(Plant::Status(500));
    let watch = Watch::start(&desk);
    watch.wait("html: the weights cannot be read; watch tries again in each round");
    edge.wait_probes(5);
    assert_eq!(watch.text().matches("cannot be read").count(), 1, "{}", watch.text());
    // The trouble is reported again when an edge is down.
    edge.set(503);
    watch.wait("fastly is down");
    assert!(wait_until(PATIENCE, || watch.text().matches("cannot be read").count() == 2), "{}", watch.text());
    edge.wait_probes(5);
    assert_eq!((watch.text().matches("cannot be read").count(), desk.lines().len()), (2, lines));
    for patch in 0..2 {
        dns.plant(patch, Plant::Status(422));
    }
    dns.zone().always = None;
    // Without this wait, the signal could end the lookups after the write, and the journal would have another result.
    watch.wait("html: fastly is away now");
    let text = watch.stop();
    assert_eq!(text.matches("html: a change failed").count(), 1, "{text}");
    let results: Vec<_> = desk.journal().into_iter().skip(1).map(|line| line["result"].clone()).collect();
    assert_eq!(results.len(), 3, "{results:?}");
    assert!(results[0].as_str().unwrap().starts_with("put back: ") && results[2] == "done", "{results:?}");
}

#[test]
fn weights_when_changed_by_a_person_meanwhile_then_both_changes_are_made() {
    let (dns, edge) = (Dns::start(), Edge::start());
    let desk = desk_of(&dns, &[("fastly", edge.probe())], "");
    let (arrived, go_on) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    dns.plant(0, Plant::Wait(Arc::clone(&arrived), Arc::clone(&go_on)));
    let change = ["-t", "html", "-p", "akamai", "-w", "5", "--yes", "--force", "a test"];
    let mut person = desk.command(&change);
    let person = person.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
    arrived.wait();
    edge.set(503);
    let watch = Watch::start(&desk);
    watch.wait("html: watch has to wait");
    watch.wait("another change is in progress");
    go_on.open();
    let ended = ended(person);
    assert_eq!(ended.code, 0, "{ended:?}");
    watch.wait("html: fastly is away now");
    let journal = desk.journal();
    assert_eq!(journal.last().unwrap()["to"]["html"]["akamai"]["weight"], 5);
    assert_eq!(journal.last().unwrap()["to"]["html"]["fastly"]["away"], true);
    // With the mode `always`, the provider stays.
    forced(&desk, &["-t", "html", "-p", "fastly", "-m", "always"]);
    edge.wait_probes(5);
    assert!(is_served(&dns, "f"), "{}", watch.stop());
}

#[test]
fn rollback_when_watch_has_acted_then_provider_stays_away_unless_the_act_is_undone_too() {
    let (dns, edge) = (Dns::start(), Edge::start());
    let desk = desk_of(&dns, &[("fastly", edge.probe())], "");
    forced(&desk, &["-t", "html", "-p", "fastly", "-w", "5"]);
    let watch = Watch::start(&desk);
    edge.set(503);
    watch.wait("html: fastly is away now");
    watch.stop();
    let out = desk.fine(&["rollback", "--yes"]);
    let (undone, kept) =
        out.split_once("Acts of watch that stay (--with-watch undoes them too):\n").expect("two lists");
    assert!(undone.contains("fastly weight 5, forced"), "{out}");
    assert!(kept.lines().next().unwrap().contains(" watch html: fastly away, why "), "{out}");
    let fastly = |desk: &Desk| desk.journal().last().unwrap()["to"]["html"]["fastly"].clone();
    assert_eq!(fastly(&desk), json!({ "mode": "obey", "weight": 15, "away": true }));
    assert!(!is_served(&dns, "f"));
    // The rollback, the act and the change are undone.
    let out = desk.fine(&["rollback", "3", "--with-watch", "--yes"]);
    assert!(out.contains(" watch html: fastly away, why ") && !out.contains("that stay"), "{out}");
    assert_eq!(fastly(&desk), json!({ "mode": "obey", "weight": 15 }));
    assert!(is_served(&dns, "f"));
    desk.fine(&["status"]);
}

#[test]
fn nodes_when_changed_without_the_journal_then_watch_reports_the_refusal_at_once() {
    let (dns, edge) = (Dns::start(), Edge::start());
    let desk = desk_of(&dns, &[("fastly", edge.probe())], "");
    std::fs::rename(desk.dir.join("balance.jsonl"), desk.dir.join("old")).unwrap();
    forced(&desk, &["-t", "html", "-p", "akamai", "-w", "14"]);
    std::fs::rename(desk.dir.join("old"), desk.dir.join("balance.jsonl")).unwrap();
    let patches = dns.patches();
    let watch = Watch::start(&desk);
    watch.wait("html: watch could not take a provider away, because a change would be refused");
    watch.wait("is not as the last change in the journal left it");
    edge.set(503);
    watch.wait("html: watch cannot do what the modes ask for");
    edge.wait_probes(5);
    assert_eq!((dns.patches(), is_served(&dns, "f")), (patches, true));
    forced(&desk, &["-t", "html", "-p", "akamai", "-w", "15"]);
    wait_served(&dns, &watch, "f", false);
    watch.wait("fastly is away now");
    watch.wait("html: fine again");
    let text = watch.stop();
    assert_eq!((text.matches("watch cannot do").count(), text.matches("fine again").count()), (1, 1), "{text}");
}

#[test]
fn change_when_refused_while_provider_is_already_away_then_is_not_reported_as_needed() {
    let (dns, edge) = (Dns::start(), Edge::start());
    let desk = desk_of(&dns, &[("fastly", edge.probe())], "");
    edge.set(503);
    let watch = Watch::start(&desk);
    watch.wait("html: fastly is away now");
    watch.stop();
    // A weight that the journal does not have.
    std::fs::rename(desk.dir.join("balance.jsonl"), desk.dir.join("old")).unwrap();
    forced(&desk, &["-t", "html", "-p", "akamai", "-w", "14"]);
    std::fs::rename(desk.dir.join("old"), desk.dir.join("balance.jsonl")).unwrap();
    let watch = Watch::start(&desk);
    watch.wait("fastly is down");
    let unfit = "html: watch could not take a provider away, because a change would be refused";
    // The edge was unknown at the first report, and is down at the second report.
    assert!(wait_until(PATIENCE * 4, || watch.text().matches(unfit).count() == 2), "{}", watch.text());
    let text = watch.stop();
    assert!(!text.contains("cannot do what the modes ask for"), "{text}");
}

#[test]
fn watch_when_started_then_reports_ready_rejects_a_second_watch_and_ends_after_sigterm() {
    let (dns, edge) = (Dns::start(), Edge::start());
    let desk = desk_of(&dns, &[("fastly", edge.probe())], "");
    let path = desk.dir.join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let watch = Watch::spawn(desk.command(&["watch", "--all"]).env("NOTIFY_SOCKET", &path));
    let mut message = [0; 200];
    let length = socket.recv(&mut message).expect("a message");
    assert_eq!(&message[..length], b"READY=1\n");
    edge.wait_probes(2);
    desk.fails(1, &["watch", "-t", "html"], &["another watch with this journal runs already (", "watch, process "]);
    let started = Instant::now();
    watch.stop();
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    let mut messages = Vec::new();
    while let Ok(length) = {
        socket.set_nonblocking(true).unwrap();
        socket.recv(&mut message)
    } {
        messages.push(String::from_utf8_lossy(&message[..length]).into_owned());
    }
    assert_eq!(messages, ["STATUS=edges down: 0 of 1\n", "STOPPING=1\n"]);
}

#[test]
fn probe_when_made_once_then_results_are_shown_and_nothing_is_changed() {
    let dns = Dns::start();
    let endless = Origin::start(|request, conn| {
        origin::endless(b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")(request, conn)
    });
    let (cut, silent) = (Origin::start(origin::cut(100, 10)), Origin::start(origin::silent()));
    let probe = |origin: &Origin| format!(", probe = \"{}\"", origin.url());
    let probes = [("akamai", probe(&endless)), ("edgecast", probe(&cut)), ("fastly", probe(&silent))];
    let desk = desk_of(&dns, &probes, "");
    let config = std::fs::read_to_string(desk.dir.join("balance.toml")).unwrap();
    desk.dir.write("balance.toml", config.replace(KEYS, "[watch]\ntimeout = \"1s\"\n"));
    let requests = dns.api.count();
    let ended = desk.run(&["watch", "--once"]);
    assert_eq!((ended.code, ended.err.as_str()), (1, ""), "{ended:?}");
    let lines: Vec<&str> = ended.out.lines().collect();
    assert!(lines[0].contains("akamai    up ") && lines[0].contains("status 200 after "), "{ended:?}");
    assert!(lines[1].contains("edgecast  FAILS ") && lines[1].contains("the response is cut"), "{ended:?}");
    assert!(
        lines[2].contains("fastly    FAILS ") && lines[2].contains("no complete response within 1000 ms"),
        "{ended:?}"
    );
    assert_eq!(dns.api.count(), requests);
}

#[test]
fn https_edge_when_certificate_is_not_trusted_then_is_down_with_the_reason() {
    let (dns, authority, stranger) = (Dns::start(), Authority::new("known"), Authority::new("unknown"));
    let edge = |identity| TlsOrigin::start(&Options { protocols: &[], ..Options::new(&identity) });
    let trusted = edge(authority.issue(&["localhost"], Valid::Now));
    let expired = edge(authority.issue(&["localhost"], Valid::Until9DaysAgo));
    let foreign = edge(stranger.issue(&["localhost"], Valid::Now));
    let probe = |edge: &TlsOrigin| format!(", probe = \"https://localhost:{}/ping\"", edge.addr.port());
    let probes = [("akamai", probe(&trusted)), ("edgecast", probe(&expired)), ("fastly", probe(&foreign))];
    let desk = desk_of(&dns, &probes, "");
    let authorities = desk.dir.write("authorities.pem", authority.pem());
    let output = desk.command(&["watch", "--once"]).env("SSL_CERT_FILE", &authorities).output().expect("a process");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((output.status.code(), lines.len()), (Some(1), 3), "{out}");
    for (line, parts) in lines.iter().zip([
        ["akamai    up ", "status 200 after "],
        ["edgecast  FAILS ", "TLS failed (invalid peer certificate: certificate expired"],
        ["fastly    FAILS ", "TLS failed (invalid peer certificate: UnknownIssuer)"],
    ]) {
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
    let watch = Watch::spawn(desk.command(&["watch"]).env("SSL_CERT_FILE", &authorities));
    for provider in ["e", "f"] {
        wait_served(&dns, &watch, provider, false);
    }
    watch.wait("html: edgecast is away now");
    watch.wait("html: fastly is away now");
    let journal = desk.journal();
    let why =
        |provider: &str| journal.iter().find(|line| line["provider"] == provider).expect("an act")["why"].to_string();
    assert!(why("fastly").contains("UnknownIssuer") && why("edgecast").contains("expired"), "{journal:#?}");
    assert!(is_served(&dns, "a"), "{}", watch.stop());
}

#[test]
fn probes_when_absent_or_wrong_then_exit_code_is_2_with_a_remedy() {
    let dns = Dns::start();
    let desk = desk_of(&dns, &[], "");
    desk.fails(2, &["watch"], &["no provider of these targets has a probe", "probe = \"https://"]);
    desk.fails(2, &["watch", "-t", "nothing"], &["there is no such target; write one of html"]);
    let config = std::fs::read_to_string(desk.dir.join("balance.toml")).unwrap();
    for (from, to, part) in [
        ("cname = \"f.fastly.example\"", "cname = \"f.fastly.example\", probe = \"f.example/ping\"", "is not a URL"),
        (
            "cname = \"f.fastly.example\"",
            "cname = \"f.fastly.example\", probe = \"https://www.example.com/\"",
            "is a node",
        ),
        ("every = \"100ms\"", "every = \"99ms\"", "is shorter than 100 ms"),
        ("down_after = 2", "down_after = 0", "down_after"),
        ("up_after = 3", "upafter = 3", "up_after"),
    ] {
        assert!(config.contains(from));
        desk.dir.write("balance.toml", config.replace(from, to));
        let ended = desk.run(&["check"]);
        assert!(ended.code == 2 && ended.out.contains(part), "{to}: {ended:?}");
    }
}
