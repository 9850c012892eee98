//! Tests of sockets that the shim gets from systemd or from the process that it replaces, and of the messages to
//! systemd.

mod support;

use command_fds::{CommandFdExt as _, FdMapping};
use std::fs::Permissions;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;
use support::raw::{fetch, get};
use support::{Config, Gate, Origin, PATIENCE, Raw, Shim, origin, temp_dir, wait_until};

const LONG: Duration = Duration::from_secs(20);

fn quick() -> Origin {
    Origin::start(origin::fixed(200, &[], "hi"))
}

fn config(origin: &Origin) -> Config {
    Shim::config(origin.addr).with("[server]\nworkers = 2")
}

fn socket() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

/// Passes sockets with these names, as systemd does.
fn pass(command: &mut Command, sockets: Vec<(&str, OwnedFd)>) {
    let names: Vec<_> = sockets.iter().map(|(name, _)| *name).collect();
    command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    let mappings = sockets.into_iter().zip(3..).map(|((_, parent_fd), child_fd)| FdMapping { parent_fd, child_fd });
    command.fd_mappings(mappings.collect()).expect("different descriptors");
}

/// A process that a shim has started. When this value is dropped, the process is killed.
struct Successor(String);

impl Successor {
    fn signal(&self, signal: &str) -> bool {
        let status = Command::new("sh").arg("-c").arg(format!("kill -{signal} {}", self.0)).output();
        status.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        self.signal("KILL");
    }
}

/// Sends SIGUSR2 and returns the new process when it serves.
fn hand_over(shim: &Shim) -> Successor {
    shim.signal("USR2");
    shim.wait_stderr("this process drains");
    let stderr = shim.stderr();
    let pid = stderr.lines().find_map(|line| line.split_once("hand-over: process ")?.1.split(' ').next());
    Successor(pid.expect("a process id").to_owned())
}

#[test]
fn socket_when_passed_then_matched_by_address_and_then_by_name() {
    let origin = quick();
    let ((http, by_address), (other, by_name), (admin, admin_address)) = (socket(), socket(), socket());
    let with = config(&origin).with(&format!("[server]\nlisten = [\"127.0.0.1:0\", \"{by_address}\"]"));
    let passed = vec![("web", http.into()), ("admin", admin.into()), ("http", other.into())];
    let shim = Shim::try_start_with(temp_dir(), with, |command| pass(command, passed)).expect("the shim listens");
    assert_eq!(shim.listeners, [format!("http://{by_name}"), format!("http://{by_address}")]);
    assert_eq!(shim.admin, admin_address);
    for address in [by_address, by_name] {
        assert_eq!(fetch(address, "/", &[]).status, 200);
    }
    assert_eq!(fetch(admin_address, "/readyz", &[]).status, 200);
}

#[test]
fn socket_when_no_listener_matches_then_shim_exits_with_2_and_names_the_socket() {
    let origin = quick();
    let (http, address) = socket();
    let passed = vec![("web", http.into())];
    let started = Shim::try_start_with(temp_dir(), config(&origin), |command| pass(command, passed));
    let (status, stderr) = started.err().expect("the shim must not start");
    assert_eq!(status.and_then(|status| status.code()), Some(2));
    assert!(stderr.contains(&address.to_string()) && stderr.contains("\"web\""), "{stderr}");
}

#[test]
fn sockets_when_passed_for_another_process_id_then_ignored() {
    let origin = quick();
    let (http, address) = socket();
    let shim = Shim::try_start_with(temp_dir(), config(&origin), |command| {
        pass(command, vec![("http", http.into())]);
        command.env("LISTEN_PID", "1");
    });
    assert_ne!(shim.expect("the shim listens").addr, address);
}

#[test]
fn admin_address_when_in_use_by_a_foreign_process_then_shim_exits_with_2_and_names_the_key() {
    let origin = quick();
    let ((http, _), (_held, admin)) = (socket(), socket());
    let with = config(&origin).with(&format!("[admin]\nlisten = \"{admin}\""));
    let passed = vec![("http", http.into())];
    let started = Shim::try_start_with(temp_dir(), with, |command| pass(command, passed));
    let (status, stderr) = started.err().expect("the shim must not start");
    assert_eq!(status.and_then(|status| status.code()), Some(2));
    assert!(stderr.contains(&admin.to_string()) && stderr.contains("admin.listen"), "{stderr}");
}

#[test]
fn admin_address_when_in_use_by_the_replaced_process_then_is_bound_as_soon_as_it_is_free() {
    let origin = quick();
    let ((http, _), (held, admin)) = (socket(), socket());
    let with = config(&origin).with(&format!("[admin]\nlisten = \"{admin}\""));
    // The last socket shows that the shim replaces another process.
    let (predecessor, theirs) = UnixDatagram::pair().expect("two sockets");
    let passed = vec![("http", http.into()), ("edgeshim-predecessor", theirs.into())];
    let shim = Shim::try_start_with(temp_dir(), with, |command| pass(command, passed)).expect("the shim listens");
    predecessor.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut report = [0; 16];
    let length = predecessor.recv(&mut report).expect("a report that the shim serves");
    assert_eq!(&report[..length], b"READY=1");
    assert_eq!(fetch(shim.addr, "/", &[]).status, 200);
    drop(held);
    assert!(wait_until(LONG, || std::net::TcpStream::connect(admin).is_ok()), "the admin listener is not bound");
    assert_eq!(fetch(admin, "/readyz", &[]).status, 200);
}

#[test]
fn address_when_in_use_and_no_socket_is_passed_then_message_names_sigusr2() {
    let origin = quick();
    let (_held, address) = socket();
    let with = config(&origin).with(&format!("[server]\nlisten = [\"{address}\"]"));
    let (status, stderr) = Shim::try_start_in(temp_dir(), with).err().expect("the shim must not start");
    assert_eq!(status.and_then(|status| status.code()), Some(2));
    assert!(stderr.contains(&address.to_string()) && stderr.contains("SIGUSR2"), "{stderr}");
}

#[test]
fn process_when_replaced_then_requests_in_flight_complete_and_new_process_serves() {
    let gate = Gate::default();
    let origin = Origin::start(origin::gated(&gate));
    let mut shim = Shim::start(config(&origin).with("[server]\nlisten = [\"127.0.0.1:0\", \"unix:shim.sock\"]"));
    let mut late = Raw::connect(shim.addr).patient(LONG);
    late.send(get("/late"));
    assert!(wait_until(LONG, || origin.count() == 1));
    let mut kept = Raw::connect(shim.addr).patient(LONG);
    let mut ask = || {
        kept.send(get("/quick"));
        let response = kept.response().expect("a response");
        assert_eq!(response.status, 200);
        response.field("connection") == Some("close")
    };
    assert!(!ask());

    let successor = hand_over(&shim);
    assert!(wait_until(LONG, ask), "the old process does not drain");
    // The admin socket belongs to the new process alone, so /readyz does not report the drain.
    for _ in 0..5 {
        assert_eq!(fetch(shim.admin, "/readyz", &[]).status, 200);
    }
    assert!(shim.running(), "the old process has ended before its request in flight");
    gate.open();
    assert_eq!(late.response().expect("a response").status, 200);
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
    assert_eq!(fetch(shim.addr, "/", &[]).status, 200);
    let mut local = Raw::connect_unix(&shim.dir.join("shim.sock"));
    local.send(get("/"));
    assert_eq!(local.response().expect("a response on the unix socket").status, 200);
    assert!(successor.signal("TERM"));
    assert!(wait_until(LONG, || std::net::TcpStream::connect(shim.addr).is_err()), "the new process does not drain");
}

#[test]
fn socket_file_when_last_process_after_a_hand_over_ends_then_is_removed() {
    let origin = quick();
    let mut shim = Shim::start(config(&origin).with("[server]\nlisten = [\"127.0.0.1:0\", \"unix:shim.sock\"]"));
    let path = shim.dir.join("shim.sock");
    let successor = hand_over(&shim);
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
    assert!(path.exists(), "the old process has removed the file of the new process");
    assert!(successor.signal("TERM"));
    assert!(wait_until(LONG, || !path.exists()), "the socket file remains");
}

#[test]
fn address_when_changed_before_the_hand_over_then_new_process_listens_only_on_the_new_address() {
    let origin = quick();
    let ((held, first), (other, second)) = (socket(), socket());
    drop((held, other));
    let with = |address: SocketAddr| config(&origin).with(&format!("[server]\nlisten = [\"{address}\"]")).to_string();
    let shim = Shim::start(with(first));
    let text = std::fs::read_to_string(shim.dir.join("edgeshim.toml")).expect("the configuration");
    shim.dir.write("edgeshim.toml", text.replace(&first.to_string(), &second.to_string()));
    let _successor = hand_over(&shim);
    assert_eq!(fetch(second, "/", &[]).status, 200);
    assert!(wait_until(LONG, || std::net::TcpStream::connect(first).is_err()), "the old address is still open");
    assert_eq!(fetch(shim.admin, "/readyz", &[]).status, 200);
}

#[test]
fn old_process_when_new_process_cannot_start_then_serves_on_and_can_be_replaced() {
    let origin = quick();
    let shim = Shim::start(config(&origin));
    let text = std::fs::read_to_string(shim.dir.join("edgeshim.toml")).expect("the configuration");
    shim.dir.write("edgeshim.toml", "[server]\nnonsense = 1\n");
    shim.signal("USR2");
    shim.wait_stderr("this process continues to serve");
    assert_eq!(fetch(shim.addr, "/", &[]).status, 200);
    assert_eq!(fetch(shim.admin, "/readyz", &[]).status, 200);
    shim.dir.write("edgeshim.toml", text);
    let _successor = hand_over(&shim);
    assert_eq!(fetch(shim.addr, "/", &[]).status, 200);
}

#[test]
fn old_process_when_new_process_fails_during_the_drain_then_log_says_that_the_drain_continues() {
    let gate = Gate::default();
    let origin = Origin::start(origin::gated(&gate));
    let dir = temp_dir();
    let [program, started, end] = ["program", "started", "end"].map(|name| dir.join(name));
    // A hand-over starts the program by the name in the first argument. This program fails when
    // the file `end` exists.
    let script = format!(
        "#!/bin/sh\ntouch '{}'\nwhile [ ! -e '{}' ]; do sleep 0.05; done\nexit 1\n",
        started.display(),
        end.display()
    );
    dir.write("program", script);
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("the program can be made executable");
    let started_as = |command: &mut Command| {
        command.arg0(&program);
    };
    let mut shim = Shim::try_start_with(dir, config(&origin), started_as).expect("the shim listens");
    let mut client = Raw::connect(shim.addr).patient(LONG);
    client.send(get("/"));
    assert!(wait_until(LONG, || origin.count() == 1), "the origin got no request");
    shim.signal("USR2");
    assert!(wait_until(LONG, || started.exists()), "the new program has not started");
    shim.signal("TERM");
    assert!(wait_until(LONG, || fetch(shim.admin, "/readyz", &[]).status == 503), "the drain has not begun");
    std::fs::write(&end, "").expect("the file can be written");
    shim.wait_stderr("hand-over failed");
    let stderr = shim.stderr();
    assert!(stderr.contains("this process continues to drain") && !stderr.contains("to serve"), "{stderr}");
    gate.open();
    assert_eq!(client.response().expect("a response").status, 200);
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
}

#[test]
fn service_manager_when_present_then_gets_a_message_for_each_state() {
    let origin = quick();
    let dir = temp_dir();
    let path = dir.join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let receive = || {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    let started = Shim::try_start_with(dir, config(&origin), |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    let mut shim = started.expect("the shim listens");
    assert_eq!(receive(), "READY=1\nSTATUS=serving");
    shim.signal("HUP");
    let reloading = receive();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|time| time.parse::<u64>().ok());
    assert!(time.is_some_and(|time| time > 0), "{reloading}");
    assert_eq!(receive(), "READY=1");
    shim.signal("TERM");
    assert_eq!(receive(), "STOPPING=1\nSTATUS=draining");
    assert_eq!(shim.wait_exit(LONG).code(), Some(0));
}
