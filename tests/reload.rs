//! Tests of reloads: after SIGHUP, or after a change of a watched file, the shim uses the new configuration without
//! disturbing a connection.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;
use support::frames::{self, GOAWAY};
use support::raw::{fetch, get, upgrade};
use support::{After, Config, Conn, Gate, Origin, Raw, Request, Shim, origin, temp_dir, wait_until};

const LONG: Duration = Duration::from_secs(20);
const RELOADS: &str = "edgeshim_config_reloads_total";
const LOADED: &str = "edgeshim_config_loaded_timestamp_seconds";

/// Returns a configuration whose responses have `Cache-Control: max-age=TTL`.
fn config(origin: &Origin, ttl: u32) -> Config {
    Shim::config(origin.addr).with(&format!(
        "[server]\nworkers = 2\n[[class]]\nname = \"all\"\npath = [\"/*\"]\n\
         cache = {{ mode = \"override\", ttl = \"{ttl}s\" }}"
    ))
}

fn quick() -> Origin {
    Origin::start(origin::fixed(200, &[("Content-Type", "text/plain")], "hi"))
}

fn max_age(response: &support::raw::Response) -> u32 {
    let field = response.field("cache-control").unwrap_or_default();
    let lifetime = field.split("max-age=").nth(1).and_then(|rest| rest.split(',').next()).and_then(|n| n.parse().ok());
    lifetime.unwrap_or_else(|| panic!("no max-age in {field:?}"))
}

fn ask(client: &mut Raw) -> support::raw::Response {
    client.send(get("/x"));
    client.response().expect("a response")
}

fn reloads(shim: &Shim, result: &str) -> u64 {
    shim.metrics().count(RELOADS, &[("result", result)])
}

#[test]
fn rule_when_reloaded_then_used_by_kept_connections_and_not_by_requests_in_flight() {
    let gate = Gate::default();
    let origin = Origin::start(origin::gated(&gate));
    let shim = Shim::start(config(&origin, 11));
    let mut kept = Raw::connect(shim.addr).patient(LONG);
    assert_eq!(max_age(&ask(&mut kept)), 11);
    let mut late = Raw::connect(shim.addr).patient(LONG);
    late.send(get("/late"));
    assert!(wait_until(LONG, || origin.count() == 2));
    let before = shim.metrics();
    let build = |metrics: &support::metrics::Metrics| {
        let all: Vec<_> = metrics.text.lines().filter(|line| line.starts_with("edgeshim_build_info{")).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].to_owned()
    };

    shim.reload(config(&origin, 22));
    let response = ask(&mut kept);
    assert_eq!((max_age(&response), response.field("connection")), (22, None));
    gate.open();
    assert_eq!(max_age(&late.response().expect("a response")), 11);
    let after = shim.metrics();
    assert_eq!((reloads(&shim, "ok"), reloads(&shim, "failed")), (1, 0));
    assert_ne!(build(&before), build(&after));
    assert!(after.value(LOADED, &[]) >= before.value(LOADED, &[]));
    shim.wait_stderr("reload: class[all].cache.ttl: \"11s\" -> \"22s\"");
}

#[test]
fn reload_when_configuration_is_wrong_then_all_problems_are_logged_and_old_configuration_stays() {
    let origin = quick();
    let shim = Shim::start(config(&origin, 11));
    let mut kept = Raw::connect(shim.addr).patient(LONG);
    assert_eq!(max_age(&ask(&mut kept)), 11);
    let loaded = shim.metrics().value(LOADED, &[]);
    shim.reload(config(&origin, 22).with("[server]\nmax_hops = 0\nidle_timeout = \"soon\""));
    shim.wait_stderr("server.max_hops");
    shim.wait_stderr("server.idle_timeout");
    shim.reload("this is not TOML");
    shim.wait_stderr("this is not TOML;");
    assert_eq!((reloads(&shim, "ok"), reloads(&shim, "failed")), (0, 2));
    assert!((shim.metrics().value(LOADED, &[]) - loaded).abs() < 0.5, "the time of the load has changed");
    assert_eq!(max_age(&ask(&mut kept)), 11);
    shim.reload(config(&origin, 33));
    assert_eq!((max_age(&ask(&mut kept)), reloads(&shim, "ok")), (33, 1));
}

#[test]
fn listener_when_removed_or_added_then_other_listeners_are_unaffected() {
    let origin = quick();
    let with = |listen: &str| config(&origin, 11).with(&format!("[server]\nlisten = [{listen}]"));
    let shim = Shim::start(with("\"127.0.0.1:0\", \"unix:old.sock\""));
    let (old, new) = (shim.dir.join("old.sock"), shim.dir.join("new.sock"));
    let mut kept = Raw::connect(shim.addr).patient(LONG);
    let mut idle = Raw::connect_unix(&old).patient(LONG);
    let mut busy = Raw::connect_unix(&old).patient(LONG);
    for client in [&mut kept, &mut idle, &mut busy] {
        assert_eq!(ask(client).status, 200);
    }
    // A request whose head is not complete is a request in flight.
    busy.send("GET /busy HTTP/1.1\r\nHost: shim.test\r\n");

    shim.reload(with("\"127.0.0.1:0\", \"unix:new.sock\""));
    assert!(!old.exists(), "the file of the removed socket is still there");
    let mut added = Raw::connect_unix(&new).patient(LONG);
    assert_eq!(ask(&mut added).status, 200);
    assert!(idle.closed(), "an idle connection of the removed listener must close");
    busy.send("\r\n");
    let last = busy.response().expect("a response");
    assert_eq!((last.status, last.field("connection")), (200, Some("close")));
    assert!(busy.closed());
    let response = ask(&mut kept);
    assert_eq!((response.status, response.field("connection")), (200, None));

    // The same address can be added again at once.
    shim.reload(with("\"127.0.0.1:0\", \"unix:old.sock\""));
    assert_eq!(ask(&mut Raw::connect_unix(&old).patient(LONG)).status, 200);
    assert_eq!(ask(&mut kept).field("connection"), None);
    assert_eq!((reloads(&shim, "ok"), reloads(&shim, "failed")), (2, 0));
}

#[test]
fn http2_connection_when_listener_is_removed_then_gets_goaway() {
    let origin = quick();
    let with = |listen: &str| config(&origin, 11).with(&format!("[server]\nlisten = [{listen}]"));
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = held.local_addr().expect("an address");
    drop(held);
    let shim = Shim::start(with(&format!("\"{address}\", \"unix:other.sock\"")));
    let mut client = frames::Client::connect(address, 65_535);
    client.get(1, "/x");
    assert!(client.ended_normally(1));
    shim.reload(with("\"unix:other.sock\""));
    assert!(client.until(GOAWAY).is_some(), "the connection ended without a GOAWAY");
    assert!(std::net::TcpStream::connect(address).is_err(), "the removed listener still accepts connections");
}

#[test]
fn new_address_when_in_use_then_reload_fails_and_changes_nothing() {
    let origin = quick();
    let shim = Shim::start(config(&origin, 11));
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = other.local_addr().expect("an address");
    shim.reload(
        config(&origin, 22).with(&format!("[server]\nlisten = [\"127.0.0.1:0\", \"unix:new.sock\", \"{address}\"]")),
    );
    shim.wait_stderr(&format!("reload failed: cannot listen on {address}"));
    assert_eq!((reloads(&shim, "ok"), reloads(&shim, "failed")), (0, 1));
    assert_eq!(max_age(&fetch(shim.addr, "/x", &[])), 11);
    let new = std::os::unix::net::UnixStream::connect(shim.dir.join("new.sock"));
    assert!(new.is_err(), "a listener of the failed reload is open");
}

#[test]
fn workers_and_admin_address_when_changed_then_need_a_restart_and_the_rest_is_active() {
    let origin = quick();
    let shim = Shim::start(config(&origin, 11));
    shim.reload(config(&origin, 22).with("[server]\nworkers = 3\n[admin]\nlisten = \"unix:admin.sock\""));
    shim.wait_stderr("admin.listen: \"127.0.0.1:0\" -> \"unix:");
    shim.wait_stderr("server.workers: 2 -> 3 needs a restart");
    assert_eq!((reloads(&shim, "ok"), reloads(&shim, "failed")), (1, 0));
    assert_eq!(max_age(&fetch(shim.addr, "/x", &[])), 22);
    let shown = fetch(shim.admin, "/config", &[]).json();
    assert_eq!((&shown["server"]["workers"], &shown["admin"]["listen"]), (&2.into(), &"127.0.0.1:0".into()));
}

/// Returns a request on a connection that stays open. `fields` are complete lines with CRLF.
fn kept_request(method: &str, fields: &str, body: &str) -> String {
    format!("{method} /x HTTP/1.1\r\nHost: shim.test\r\n{fields}\r\n{body}")
}

#[test]
fn server_keys_of_requests_when_reloaded_then_apply_to_the_next_request_of_an_open_connection() {
    let origin = quick();
    let shim = Shim::start(config(&origin, 11));
    let many = (0..40).fold(String::new(), |fields, number| fields + &format!("X-{number}: a\r\n"));
    for (key, request, status) in [
        ("hosts = [\"www.test\"]", kept_request("GET", "", ""), 421),
        ("max_hops = 1", kept_request("GET", "CDN-Loop: edgeshim\r\n", ""), 508),
        ("max_headers = 20", kept_request("GET", &many, ""), 431),
        ("max_request_body = \"4B\"", kept_request("POST", "Content-Length: 5\r\n", "12345"), 413),
    ] {
        let mut kept = Raw::connect(shim.addr).patient(LONG);
        assert_eq!(kept.send(&request).response().expect("a response").status, 200, "{key}");
        shim.reload(config(&origin, 11).with(&format!("[server]\n{key}")));
        assert_eq!(kept.send(&request).response().expect("a response").status, status, "{key}");
        shim.reload(config(&origin, 11));
    }
    let mut kept = Raw::connect(shim.addr).patient(LONG);
    let mut forwarded = || {
        let request = kept_request("GET", "X-Forwarded-For: 192.0.2.9\r\n", "");
        assert_eq!(kept.send(request).response().expect("a response").status, 200);
        origin.last().field("x-forwarded-for").unwrap_or_default().to_owned()
    };
    assert!(!forwarded().contains("192.0.2.9"));
    shim.reload(config(&origin, 11).with("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]"));
    assert!(forwarded().contains("192.0.2.9"));
}

#[test]
fn server_keys_of_connections_when_reloaded_then_apply_to_the_next_connection() {
    let origin = quick();
    let shim = Shim::start(config(&origin, 11));
    let mut kept = Raw::connect(shim.addr).patient(LONG);
    assert_eq!(ask(&mut kept).status, 200);
    let large = kept_request("GET", &format!("X-A: {}\r\n", "a".repeat(6000)), "");
    assert_eq!(fetch(shim.addr, "/x", &[("X-A", &"a".repeat(6000))]).status, 200);
    let keys = "header_timeout = \"1s\"\nidle_timeout = \"1s\"\nproxy_protocol = true\nmax_header_bytes = \"4KiB\"";
    shim.reload(config(&origin, 11).with(&format!("[server]\n{keys}")));
    assert!(Raw::connect(shim.addr).patient(LONG).send(get("/x")).closed(), "a PROXY header must be required");
    let connect = || {
        let mut client = Raw::connect(shim.addr).patient(LONG);
        client.send("PROXY TCP4 192.0.2.7 198.51.100.1 5000 80\r\n");
        client
    };
    let mut idle = connect();
    assert_eq!(ask(&mut idle).status, 200);
    let mut slow = connect();
    slow.send("GET /x HTTP/1.1\r\n");
    assert_eq!(connect().send(large).response().expect("a response").status, 431);
    assert_eq!(slow.response().expect("a response").status, 408);
    assert!(idle.closed());
    // The timeouts of the open connection are unchanged, and a PROXY header is not required.
    assert_eq!(ask(&mut kept).status, 200);
}

#[test]
fn body_and_tunnel_timeouts_when_reloaded_then_apply_to_the_next_request() {
    let gate = Gate::default();
    let respond = origin::gated(&gate);
    let origin = Origin::start(move |request: &Request, conn: &mut Conn| {
        if request.field("upgrade").is_none() {
            return respond(request, conn);
        }
        let _ = conn.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
        let _ = conn.read(&mut [0; 16]);
        After::Close
    });
    let shim = Shim::start(config(&origin, 11));
    let mut kept = Raw::connect(shim.addr).patient(LONG);
    assert_eq!(ask(&mut kept).status, 200);
    shim.reload(config(&origin, 11).with("[server]\nbody_timeout = \"1s\"\ntunnel_timeout = \"1s\""));
    kept.send(get("/half"));
    let head = kept.response_head().expect("a head");
    assert!(head.status == 200 && !kept.body(&head).complete, "the stalled body did not end");
    let mut tunnel = Raw::connect(shim.addr).patient(LONG);
    tunnel.send(upgrade("echo"));
    assert_eq!(tunnel.response_head().expect("a head").status, 101);
    assert!(tunnel.closed(), "the silent tunnel is still open");
    gate.open();
}

#[test]
fn drain_keys_when_reloaded_then_apply_to_the_drain() {
    let gate = Gate::default();
    let origin = Origin::start(origin::gated(&gate));
    let with = |delay: &str, timeout: &str| {
        config(&origin, 11).with(&format!("[server]\ndrain_delay = \"{delay}\"\ndrain_timeout = \"{timeout}\""))
    };
    let mut shim = Shim::start(with("10m", "10m"));
    let mut late = Raw::connect(shim.addr).patient(LONG);
    late.send(get("/late"));
    assert!(wait_until(LONG, || origin.count() == 1));
    shim.reload(with("0s", "1s"));
    shim.signal("TERM");
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
    assert!(shim.stderr().contains("server.drain_timeout has passed"), "{}", shim.stderr());
    gate.open();
}

#[test]
fn watch_when_turned_on_by_reload_then_the_next_change_of_the_file_is_loaded() {
    let origin = quick();
    let shim = Shim::start(config(&origin, 11));
    shim.reload(config(&origin, 11).with("[server]\nwatch = true"));
    let text = std::fs::read_to_string(shim.dir.join("edgeshim.toml")).expect("the configuration");
    shim.dir.write("edgeshim.toml", text.replace("11s", "22s"));
    assert!(wait_until(LONG, || reloads(&shim, "ok") == 2), "{}", shim.stderr());
    assert_eq!(max_age(&fetch(shim.addr, "/x", &[])), 22);
}

#[test]
fn secret_when_changed_then_log_has_the_key_and_not_the_value() {
    let origin = quick();
    let with = |token: &str| config(&origin, 11).with(&format!("[admin]\ntoken = \"file:{token}\""));
    let dir = temp_dir();
    dir.write("one", "hunter1\n");
    dir.write("two", "hunter2\n");
    let shim = Shim::start_in(dir, with("one"));
    shim.reload(with("two"));
    shim.wait_stderr("reload: admin.token: *** -> another secret");
    assert!(!shim.stderr().contains("hunter"), "{}", shim.stderr());
    let status = |token: &str| fetch(shim.admin, "/config", &[("Authorization", &format!("Bearer {token}"))]).status;
    assert_eq!((status("hunter1"), status("hunter2")), (401, 200));
}

#[test]
fn watched_file_when_symbolic_link_is_replaced_then_reloaded() {
    let origin = quick();
    let dir = temp_dir();
    // The folder has the layout of a mounted ConfigMap on Kubernetes.
    dir.write("..one/edgeshim.toml", "");
    std::os::unix::fs::symlink("..one", dir.join("..data")).expect("a link");
    std::os::unix::fs::symlink("..data/edgeshim.toml", dir.join("edgeshim.toml")).expect("a link");
    dir.write("token", "hunter1");
    let watching = config(&origin, 11).with("[server]\nwatch = true\n[admin]\ntoken = \"file:token\"");
    let shim = Shim::start_in(dir, watching);
    let text = std::fs::read_to_string(shim.dir.join("..one/edgeshim.toml")).expect("the configuration");
    assert!(text.contains("11s"), "{text}");
    let exchange = |folder: &str, ttl: &str| {
        shim.dir.write(&format!("{folder}/edgeshim.toml"), text.replace("11s", ttl));
        std::os::unix::fs::symlink(folder, shim.dir.join("..new")).expect("a link");
        std::fs::rename(shim.dir.join("..new"), shim.dir.join("..data")).expect("the link is exchanged");
    };
    let wait = |result: &str, count: u64| {
        assert!(wait_until(LONG, || reloads(&shim, result) == count), "{result}: {}", shim.stderr());
    };
    exchange("..two", "22s");
    wait("ok", 1);
    assert_eq!(max_age(&fetch(shim.addr, "/x", &[])), 22);
    exchange("..three", "soon");
    wait("failed", 1);
    assert_eq!(max_age(&fetch(shim.addr, "/x", &[])), 22);
    exchange("..four", "44s");
    wait("ok", 2);
    assert_eq!(max_age(&fetch(shim.addr, "/x", &[])), 44);
    shim.dir.write("token", "hunter2");
    wait("ok", 3);
    shim.wait_stderr("admin.token: *** -> another secret");
}

#[test]
fn watched_file_when_changed_during_the_drain_then_listeners_stay_closed() {
    let gate = Gate::default();
    let origin = Origin::start(origin::gated(&gate));
    let mut shim = Shim::start(config(&origin, 11).with("[server]\nwatch = true"));
    let mut late = Raw::connect(shim.addr).patient(LONG);
    late.send(get("/late"));
    assert!(wait_until(LONG, || origin.count() == 1));
    shim.signal("TERM");
    assert!(wait_until(LONG, || std::net::TcpStream::connect(shim.addr).is_err()));
    let text = std::fs::read_to_string(shim.dir.join("edgeshim.toml")).expect("the configuration");
    shim.dir.write("edgeshim.toml", text.replace("11s", "22s"));
    shim.wait_stderr("the drain has begun");
    assert!(std::net::TcpStream::connect(shim.addr).is_err(), "the closed listener is open again");
    gate.open();
    assert_eq!(late.response().expect("a response").status, 200);
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
    assert!(!shim.stderr().contains("reload failed"), "{}", shim.stderr());
}

#[test]
fn reload_when_configuration_is_a_fifo_then_fails_at_once_and_next_reload_works() {
    let origin = quick();
    let shim = Shim::start(config(&origin, 11));
    let path = shim.dir.join("edgeshim.toml");
    let text = std::fs::read_to_string(&path).expect("the configuration");
    std::fs::remove_file(&path).expect("the file is removed");
    let status = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
    assert!(status.success());
    shim.signal("HUP");
    shim.wait_stderr("it is not a regular file, but a pipe");
    assert!(wait_until(LONG, || reloads(&shim, "failed") == 1));
    std::fs::remove_file(&path).expect("the FIFO is removed");
    shim.dir.write("edgeshim.toml", text.replace("11s", "22s"));
    shim.signal("HUP");
    assert!(wait_until(LONG, || reloads(&shim, "ok") == 1));
}

#[test]
fn reload_when_it_fails_then_leaves_no_new_access_log() {
    let origin = quick();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("an address");
    let shim = Shim::start(config(&origin, 11));
    let wrong = format!("[server]\nlisten = [\"{taken}\"]\n[access_log]\noutput = \"file:new.log\"");
    shim.reload(config(&origin, 11).with(&wrong));
    assert_eq!(reloads(&shim, "failed"), 1);
    assert!(!shim.dir.join("new.log").exists(), "the failed reload has left a file");
}

#[test]
fn file_when_not_watched_then_reloaded_only_after_sighup() {
    let origin = quick();
    let shim = Shim::start(config(&origin, 11));
    let text = std::fs::read_to_string(shim.dir.join("edgeshim.toml")).expect("the configuration");
    shim.dir.write("edgeshim.toml", text.replace("11s", "22s"));
    // A watched file would be loaded within about two seconds.
    assert!(!wait_until(Duration::from_secs(4), || reloads(&shim, "ok") > 0));
    // Several signals cause at least one reload after the last signal.
    for _ in 0..5 {
        shim.signal("HUP");
    }
    shim.dir.write("edgeshim.toml", text.replace("11s", "33s"));
    shim.signal("HUP");
    assert!(wait_until(LONG, || max_age(&fetch(shim.addr, "/x", &[])) == 33));
    assert!((1..=6).contains(&reloads(&shim, "ok")) && reloads(&shim, "failed") == 0);
}

#[test]
fn event_stream_and_tunnel_when_configuration_is_reloaded_then_continue() {
    let gate = Gate::default();
    let waiting = gate.clone();
    let origin = Origin::start(move |request: &Request, conn: &mut Conn| {
        if request.field("upgrade").is_some() {
            let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
            let mut buffer = [0; 16];
            let _ = conn.write_all(head);
            while let Ok(length @ 1..) = conn.read(&mut buffer) {
                let _ = conn.write_all(&buffer[..length]);
            }
            return After::Close;
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 24\r\n\r\ndata: one\n\n";
        let _ = conn.write_all(head.as_bytes());
        waiting.wait();
        let _ = conn.write_all(b"data: two...\n");
        After::Keep
    });
    let shim = Shim::start(config(&origin, 11));
    let mut tunnel = Raw::connect(shim.addr).patient(LONG);
    tunnel.send(upgrade("echo"));
    assert_eq!(tunnel.response_head().expect("a head").status, 101);
    let mut stream = Raw::connect(shim.addr).patient(LONG);
    stream.send(get("/events"));
    assert_eq!(stream.response_head().expect("a head").status, 200);
    // The origin changes too, so that the old configuration's client of the origin is dropped.
    let other = quick();
    shim.reload(config(&other, 22));
    assert_eq!(max_age(&fetch(shim.addr, "/x", &[])), 22);
    tunnel.send("ping");
    assert_eq!(tunnel.more().expect("bytes through the tunnel"), b"ping");
    gate.open();
    let mut events = Vec::new();
    while events.len() < 24 {
        events.extend(stream.more().ok().filter(|bytes| !bytes.is_empty()).expect("the second event"));
    }
    assert_eq!(events, b"data: one\n\ndata: two...\n");
}

#[test]
fn origin_connections_when_reloaded_then_stay_open_if_origin_keys_are_unchanged() {
    let origin = quick();
    let one_worker = |ttl: u32| config(&origin, ttl).with("[server]\nworkers = 1");
    let shim = Shim::start(one_worker(11));
    let mut client = Raw::connect(shim.addr).patient(LONG);
    assert_eq!(max_age(&ask(&mut client)), 11);
    for ttl in [12, 13] {
        shim.reload(one_worker(ttl));
        assert_eq!(max_age(&ask(&mut client)), ttl);
    }
    assert_eq!(origin.connections(), 1, "a reload closed the connection to the origin");
    shim.reload(one_worker(14).with("[origin]\nresponse_timeout = \"29s\""));
    assert_eq!(max_age(&ask(&mut client)), 14);
    assert_eq!(origin.connections(), 2, "a connection with the old settings was used");
    assert!(wait_until(LONG, || origin.open_connections() == 1), "the old connection stays open");
}

#[test]
fn origin_when_replaced_during_a_response_then_its_checks_and_idle_connections_end() {
    let gate = Gate::default();
    let waiting = gate.clone();
    let old = Origin::start(move |request: &Request, conn: &mut Conn| {
        if request.target != "/events" {
            return origin::respond(request, conn, 200, &[("Content-Type", "text/plain")], b"hi");
        }
        let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 4\r\n\r\non");
        waiting.wait();
        let _ = conn.write_all(b"ce");
        After::Close
    });
    let new = quick();
    let with = |origin: &Origin, ttl| {
        config(origin, ttl).with(
            "[server]\nworkers = 1\n[origin]\nhealth = { path = \"/healthz\", interval = \"100ms\" }\n\
             idle_timeout = \"1h\"",
        )
    };
    let shim = Shim::start(with(&old, 11));
    let mut stream = Raw::connect(shim.addr).patient(LONG);
    stream.send(get("/events"));
    let head = stream.response_head().expect("a head");
    assert_eq!(max_age(&fetch(shim.addr, "/x", &[])), 11);
    shim.reload(with(&new, 22));
    assert!(wait_until(LONG, || max_age(&fetch(shim.addr, "/x", &[])) == 22));

    let checks = |origin: &Origin| origin.requests().iter().filter(|request| request.target == "/healthz").count();
    let has_ended = || {
        let (of_old, of_new) = (checks(&old), checks(&new));
        wait_until(LONG, || checks(&new) >= of_new + 5) && checks(&old) == of_old
    };
    assert!(wait_until(LONG, has_ended), "the replaced origin still gets health checks");
    assert!(wait_until(LONG, || old.open_connections() == 1), "idle connections to the replaced origin are open");
    gate.open();
    assert_eq!(stream.body(&head).data, b"once");
}

#[test]
fn max_connections_when_raised_by_reload_then_waiting_connection_is_served() {
    let origin = quick();
    let with = |most: u32| config(&origin, 11).with(&format!("[server]\nmax_connections = {most}"));
    let shim = Shim::start(with(1));
    let mut first = Raw::connect(shim.addr).patient(LONG);
    assert_eq!(ask(&mut first).status, 200);
    let mut second = Raw::connect(shim.addr).patient(LONG);
    second.send(get("/x"));
    shim.reload(with(2));
    assert_eq!(second.response().expect("a response").status, 200);
    assert_eq!(ask(&mut first).status, 200);
}

#[test]
fn access_log_when_configuration_is_reloaded_then_every_request_has_one_line() {
    let origin = quick();
    let with = |ttl: u32, name: &str| config(&origin, ttl).with(&format!("[access_log]\noutput = \"file:{name}\""));
    let mut shim = Shim::start(with(11, "one.log"));
    for (ttl, name) in [(12, "one.log"), (13, "two.log"), (14, "two.log")] {
        assert_eq!(fetch(shim.addr, "/x", &[]).status, 200);
        shim.reload(with(ttl, name));
    }
    assert_eq!(fetch(shim.addr, "/x", &[]).status, 200);
    shim.signal("TERM");
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
    let lines = |name: &str| std::fs::read_to_string(shim.dir.join(name)).expect("a log").lines().count();
    assert_eq!((lines("one.log"), lines("two.log")), (2, 2));
}

#[test]
fn provider_when_removed_then_series_stay_and_do_not_increase() {
    let origin = quick();
    let with = config(&origin, 11).with("[[provider]]\nname = \"fastly\"");
    let shim = Shim::start(with);
    let pull = || assert_eq!(fetch(shim.addr, "/x", &[("X-CDN-Provider", "fastly")]).status, 200);
    pull();
    shim.reload(config(&origin, 11));
    pull();
    let pulls = |provider: &str| shim.metrics().count("edgeshim_pulls_total", &[("provider", provider)]);
    assert!(wait_until(LONG, || pulls("other") == 1));
    assert_eq!(pulls("fastly"), 1);
}

#[test]
fn address_list_when_replaced_by_a_broken_list_then_counts_as_one_failed_reload() {
    let origin = quick();
    let dir = temp_dir();
    dir.write("list", "127.0.0.0/8\n");
    let with =
        config(&origin, 11).with("[[provider]]\nname = \"fastly\"\n[provider.verify]\naddresses = [\"file:list\"]");
    let shim = Shim::start_in(dir, &with);
    shim.dir.write("list", "not a network\n");
    assert!(wait_until(LONG, || reloads(&shim, "failed") == 1));
    // After SIGHUP, the broken list makes the whole reload fail.
    shim.reload(with.with("[server]\nmax_hops = 7"));
    assert!(wait_until(LONG, || reloads(&shim, "failed") == 2));
    assert_eq!(reloads(&shim, "ok"), 0);
}
