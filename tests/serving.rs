//! Tests of listeners and protocols: TCP and Unix sockets, HTTP/1.0, HTTP/1.1 and HTTP/2 on one port, pipelining, HEAD,
//! and the even distribution of connections. The tests also cover the admin listener, which must be unreachable through
//! the listeners of `[server]`.

mod support;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;
use support::http1::Framing;
use support::raw::{exchange, fetch, get, request};
use support::{Gate, Origin, PATIENCE, Raw, Response, Shim, origin, temp_dir, wait_until};

/// The longest time that a test waits on a slow machine.
const LONG: Duration = Duration::from_secs(15);

/// Responds with the target as text, so that the test notices a response that belongs to another request.
fn named(request: &support::Request, conn: &mut support::Conn) -> support::After {
    origin::respond(request, conn, 200, &[("Content-Type", "text/x-target")], request.target.as_bytes())
}

/// Sends a request over a connection, which stays open. Returns the body of the response.
fn body_of(client: &mut Raw, target: &str) -> String {
    client.send(get(target));
    let response = client.response().unwrap_or_else(|why| panic!("no response to {target}: {why:?}"));
    assert_eq!((response.status, response.problems.len()), (200, 0), "{response:?}");
    response.text()
}

/// Sends several concurrent GET requests over one HTTP/2 connection. Returns the statuses and bodies.
fn h2<S>(connect: impl Future<Output = std::io::Result<S>>, targets: &[&str]) -> Vec<(u16, String)>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let asking = async {
        let sender = support::h2::handshake(connect.await.expect("a connection")).await;
        let mut tasks = Vec::new();
        for target in targets {
            let uri = format!("http://shim.test{target}");
            let request = http::Request::builder().uri(uri).body(Empty::<Bytes>::new()).expect("a valid request");
            let mut sender = sender.clone();
            tasks.push(tokio::spawn(async move {
                let (head, body) = sender.send_request(request).await?.into_parts();
                assert_eq!(head.version, http::Version::HTTP_2);
                let body = body.collect().await?.to_bytes();
                Ok::<_, hyper::Error>((head.status.as_u16(), String::from_utf8_lossy(&body).into_owned()))
            }));
        }
        let mut responses = Vec::new();
        for task in tasks {
            responses.push(task.await.expect("a task without a panic").expect("a response"));
        }
        responses
    };
    let tokio = support::h2::runtime();
    tokio.block_on(async { tokio::time::timeout(LONG, asking).await }).expect("responses in time")
}

fn ok(targets: &[&str]) -> Vec<(u16, String)> {
    targets.iter().map(|target| (200, (*target).to_owned())).collect()
}

fn listener(shim: &Shim, number: usize) -> SocketAddr {
    let url = &shim.listeners[number];
    url.strip_prefix("http://")
        .and_then(|address| address.parse().ok())
        .unwrap_or_else(|| panic!("{url} does not have the form http://ADDRESS"))
}

// ---- listeners and protocols ----------------------------------------------------------------------------------------

#[test]
fn listeners_when_several_are_configured_then_each_listener_serves_http1_and_http2() {
    let origin = Origin::start(named);
    let six = TcpListener::bind("[::1]:0").is_ok();
    let tcp = if six { "\"127.0.0.1:0\", \"127.0.0.2:0\", \"[::1]:0\"" } else { "\"127.0.0.1:0\", \"127.0.0.2:0\"" };
    let shim = Shim::start(
        Shim::config(origin.addr)
            .with(&format!("[server]\nworkers = 2\nlisten = [{tcp}, \"unix:a.sock\", \"unix:b.sock\"]")),
    );
    let count = if six { 5 } else { 4 };
    assert_eq!(shim.listeners.len(), count, "{:?}", shim.listeners);
    for number in 0..count - 2 {
        let addr = listener(&shim, number);
        assert_ne!(addr.port(), 0);
        assert_eq!(body_of(&mut Raw::connect(addr), "/one"), "/one", "{addr}");
        assert_eq!(h2(tokio::net::TcpStream::connect(addr), &["/two", "/three"]), ok(&["/two", "/three"]), "{addr}");
        let peer = origin.last().field("x-forwarded-for").map(str::to_owned);
        let expected = if addr.is_ipv6() { "::1" } else { "127.0.0.1" };
        assert_eq!(peer.as_deref(), Some(expected), "{addr}");
    }
    for name in ["a.sock", "b.sock"] {
        let path = shim.dir.join(name);
        assert!(shim.listeners.contains(&format!("unix:{}", path.display())), "{:?}", shim.listeners);
        assert_eq!(body_of(&mut Raw::connect_unix(&path), "/one"), "/one");
        assert_eq!(h2(tokio::net::UnixStream::connect(&path), &["/two", "/three"]), ok(&["/two", "/three"]));
        assert_eq!(
            origin.last().field("x-forwarded-for"),
            Some("127.0.0.1"),
            "a client on a Unix socket must have the address 127.0.0.1"
        );
    }
    assert!(origin.requests().iter().all(|request| request.problems.is_empty()));
}

#[test]
fn stale_socket_file_when_listener_starts_then_replaced_but_any_other_file_is_kept() {
    let origin = Origin::start(named);
    let dir = support::temp_dir();
    let path = dir.join("own.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists(), "the socket file must remain when the listener is dropped");
    let config = Shim::config(origin.addr).with(&format!("[server]\nlisten = [\"unix:{}\"]", path.display()));
    let first = Shim::start_in(dir, &config);
    assert_eq!(body_of(&mut Raw::connect_unix(&path), "/"), "/");
    let (status, stderr) = Shim::try_start_in(support::temp_dir(), &config).err().expect("a failed start");
    assert_eq!(status.and_then(|status| status.code()), Some(2), "{stderr}");
    assert!(stderr.contains("own.sock"), "the message does not name the socket: {stderr}");
    assert_eq!(body_of(&mut Raw::connect_unix(&path), "/still"), "/still");
    drop(first);
    // The shim must not remove a file that is not a socket.
    let dir = support::temp_dir();
    let file = dir.write("precious", "data");
    let config = Shim::config(origin.addr).with(&format!("[server]\nlisten = [\"unix:{}\"]", file.display()));
    assert!(Shim::try_start_in(support::temp_dir(), config).is_err());
    assert_eq!(std::fs::read(&file).expect("the file"), b"data");
    // A stream connection to a datagram socket fails, although a process uses the socket.
    let path = dir.join("datagram.sock");
    let _socket = std::os::unix::net::UnixDatagram::bind(&path).expect("a datagram socket");
    let url = format!("unix:{}", path.display());
    for listen in [format!("[server]\nlisten = [\"{url}\"]"), format!("[admin]\nlisten = \"{url}\"")] {
        assert!(Shim::try_start_in(support::temp_dir(), Shim::config(origin.addr).with(&listen)).is_err(), "{listen}");
        assert!(path.exists(), "the socket file was removed: {listen}");
    }
}

#[test]
fn protocol_when_first_bytes_arrive_one_by_one_then_is_detected() {
    let origin = Origin::start(named);
    let shim = Shim::start(Shim::config(origin.addr));
    let mut client = Raw::connect(shim.addr);
    client.send_pieces("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 1).send([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let first = client.more().expect("the bytes of frames");
    assert_eq!(first.get(3), Some(&4), "the first frame is not SETTINGS: {first:?}");
    for start in [
        "PRI /a HTTP/1.1\r\nHost: shim.test\r\n\r\n",
        "PUT /a HTTP/1.1\r\nHost: shim.test\r\nContent-Length: 0\r\n\r\n",
    ] {
        let mut client = Raw::connect(shim.addr);
        client.send_pieces(start, 1);
        assert_eq!(client.response().expect("a response").status, 200, "{start:?}");
    }
}

#[test]
fn http10_request_when_served_then_response_is_unchunked_and_connection_ends_unless_keep_alive() {
    let chunked = origin::chunked(&[("Content-Type", "text/plain")], &[b"in two ", b"pieces"], &[]);
    let origin = Origin::start(move |request, conn| match request.target.as_str() {
        "/chunked" => chunked(request, conn),
        _ => named(request, conn),
    });
    let shim = Shim::start(Shim::config(origin.addr));
    let ask = |text: &str| {
        let mut client = Raw::connect(shim.addr);
        client.send(text);
        let response = client.response().expect("a response");
        assert!(response.status == 200 && response.complete && response.problems.is_empty(), "{response:?}");
        assert_eq!(response.field("transfer-encoding"), None, "a response to HTTP/1.0 must not be chunked");
        (response, client)
    };
    let (response, mut client) = ask("GET /old HTTP/1.0\r\n\r\n");
    assert_eq!((response.text().as_str(), response.framing), ("/old", Some(Framing::Length(4))));
    assert!(client.closed(), "the HTTP/1.0 connection is open after the response");
    let seen = origin.last();
    assert_eq!((seen.version.as_str(), seen.fields_named("host").len()), ("HTTP/1.1", 1));
    assert!(seen.field("via").is_some_and(|via| via.starts_with("1.0 ")), "{:?}", seen.field("via"));
    let (response, mut client) = ask("GET /chunked HTTP/1.0\r\nHost: shim.test\r\n\r\n");
    assert_eq!((response.text().as_str(), response.framing), ("in two pieces", Some(Framing::Close)));
    assert!(client.closed());
    let (response, mut client) = ask("GET /keep HTTP/1.0\r\nHost: shim.test\r\nConnection: keep-alive\r\n\r\n");
    assert!(response.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive")), "{response:?}");
    client.send("GET /kept HTTP/1.0\r\nHost: shim.test\r\n\r\n");
    assert_eq!(client.response().expect("the second response").text(), "/kept");
    assert!(client.closed());
}

#[test]
fn pipelined_requests_when_sent_at_once_then_served_in_order() {
    let origin = Origin::start(|request, conn| {
        // If the shim sent all requests to the origin at the same time, the response to `/0` would arrive last.
        if request.target == "/0" {
            std::thread::sleep(Duration::from_millis(150));
        }
        let text = format!("{} {}", request.target, String::from_utf8_lossy(&request.body));
        origin::respond(request, conn, 200, &[("Content-Type", "text/x-target")], text.as_bytes())
    });
    let shim = Shim::start(Shim::config(origin.addr));
    let post = |target: &str, framing: &str| format!("POST {target} HTTP/1.1\r\nHost: shim.test\r\n{framing}");
    let text = [
        get("/0"),
        post("/1", "Content-Length: 5\r\n\r\nhello"),
        get("/2"),
        post("/3", "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"),
        "HEAD /4 HTTP/1.1\r\nHost: shim.test\r\n\r\n".to_owned(),
        get("/5"),
    ]
    .concat();
    for piece in [usize::MAX, 7] {
        origin.forget();
        let mut client = Raw::connect(shim.addr).patient(LONG);
        client.send_pieces(&text, piece);
        for (number, body) in ["/0 ", "/1 hello", "/2 ", "/3 hello", "", "/5 "].into_iter().enumerate() {
            let response = if number == 4 { client.response_to_head() } else { client.response() };
            let response = response.unwrap_or_else(|why| panic!("response {number} did not arrive: {why:?}"));
            assert_eq!(
                (response.status, response.text().as_str()),
                (200, body),
                "response {number}; the requests were sent in pieces of {piece} bytes"
            );
        }
        let targets: Vec<String> = origin.requests().iter().map(|request| request.target.clone()).collect();
        assert_eq!(targets, ["/0", "/1", "/2", "/3", "/4", "/5"]);
    }
}

#[test]
fn pipelined_requests_when_responses_take_longer_than_timeouts_then_served() {
    let origin = Origin::start(|request, conn| {
        std::thread::sleep(Duration::from_millis(1300));
        named(request, conn)
    });
    let shim = Shim::start(Shim::config(origin.addr).with("[server]\nidle_timeout = \"1s\"\nheader_timeout = \"1s\""));
    let mut client = Raw::connect(shim.addr).patient(LONG);
    client.send([get("/0"), get("/1"), get("/2")].concat());
    for target in ["/0", "/1", "/2"] {
        let response = client.response().unwrap_or_else(|why| panic!("no response to {target}: {why:?}"));
        assert_eq!(response.text(), target);
    }
}

#[test]
fn request_when_sent_during_the_first_response_of_a_connection_then_is_served() {
    for is_unix in [false, true] {
        let gate = Gate::default();
        let origin = Origin::start(origin::gated(&gate));
        let listen = "[server]\nlisten = [\"127.0.0.1:0\", \"unix:shim.sock\"]";
        let shim = Shim::start(Shim::config(origin.addr).with(listen));
        let path = shim.dir.join("shim.sock");
        let client = if is_unix { Raw::connect_unix(&path) } else { Raw::connect(shim.addr) };
        let mut client = client.patient(LONG);
        client.send(get("/late"));
        assert!(wait_until(LONG, || origin.count() == 1));
        client.send(get("/quick"));
        gate.open();
        for body in ["late but complete", "quick"] {
            let response = client.response().expect("a response");
            assert_eq!((response.status, response.text().as_str()), (200, body));
        }
    }
}

#[test]
fn head_response_when_compared_with_get_then_has_equal_status_and_type_and_no_body() {
    let chunked = origin::chunked(&[("Content-Type", "image/x-test")], &[b"pieces"], &[]);
    let origin = Origin::start(move |request, conn| match request.target.as_str() {
        "/chunked" => chunked(request, conn),
        "/missing" => origin::respond(request, conn, 404, &[("Content-Type", "text/x-target")], b"none"),
        _ => named(request, conn),
    });
    let shim = Shim::start(Shim::config(origin.addr));
    let mut client = Raw::connect(shim.addr);
    for (target, status, length) in [("/four", 200, Some("5")), ("/missing", 404, Some("4")), ("/chunked", 200, None)] {
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: shim.test\r\n\r\n"));
        let head = client.response_to_head().expect("a response to HEAD");
        assert_eq!((head.status, head.field("content-length")), (status, length), "{target}");
        assert!(head.problems.is_empty(), "{:?}", head.problems);
        // If the response to HEAD had a body, the client would take the body for the next response.
        client.send(get(target));
        let whole = client.response().expect("a response to GET on the same connection");
        assert_eq!((whole.status, whole.complete), (status, true), "{target}");
        assert_eq!(whole.field("content-type"), head.field("content-type"), "{target}");
    }
    assert!(origin.requests().iter().any(|request| request.method == "HEAD"), "the shim must forward HEAD as HEAD");
}

// ---- workers --------------------------------------------------------------------------------------------------------

/// Groups idle client connections by worker. Workers do not share connections to the origin. So two clients have the
/// same worker if their requests used the same connection to the origin. Sends requests one after the other until at
/// most `workers` groups remain, but at most 20 requests for each client. Returns the groups. Each group contains the
/// numbers of its clients.
fn by_worker(origin: &Origin, clients: &mut [Raw], workers: usize) -> Vec<Vec<usize>> {
    // Each group has the numbers of its clients, and the numbers of the origin connections that these clients used.
    let mut groups: Vec<(Vec<usize>, Vec<usize>)> =
        (0..clients.len()).map(|number| (vec![number], Vec::new())).collect();
    for round in 0..20 {
        for (number, client) in clients.iter_mut().enumerate() {
            body_of(client, &format!("/{round}/{number}"));
            let used = origin.last().connection;
            let (mut same, others): (Vec<_>, Vec<_>) = groups
                .into_iter()
                .partition(|(members, connections)| members.contains(&number) || connections.contains(&used));
            let mut merged = same.pop().expect("the group of the client");
            for (members, connections) in same {
                merged.0.extend(members);
                merged.1.extend(connections);
            }
            merged.1.push(used);
            groups = others;
            groups.push(merged);
        }
        if groups.len() <= workers {
            break;
        }
    }
    groups.into_iter().map(|(members, _)| members).collect()
}

fn sizes(groups: &[Vec<usize>]) -> Vec<usize> {
    let mut sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
    sizes.sort_unstable();
    sizes
}

fn wait_connections(shim: &Shim, count: u32) {
    shim.wait_metrics(|metrics| (metrics.value("edgeshim_connections", &[]) - f64::from(count)).abs() < f64::EPSILON);
}

fn worker_threads(shim: &Shim) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", shim.pid)).expect("the threads of the process");
    let mut names: Vec<String> = threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| name.starts_with("worker-"))
        .collect();
    names.sort();
    names
}

#[test]
fn workers_when_eight_connections_are_idle_then_each_of_two_workers_has_four() {
    let origin = Origin::start(named);
    let shim = Shim::start(Shim::config(origin.addr).with("[server]\nworkers = 2"));
    // The shim may print the listeners before each worker thread has set its name.
    assert!(wait_until(PATIENCE, || worker_threads(&shim) == ["worker-0", "worker-1"]), "{:?}", worker_threads(&shim));
    let mut clients: Vec<Raw> = (0..8).map(|_| Raw::connect(shim.addr)).collect();
    wait_connections(&shim, 8);
    let groups = by_worker(&origin, &mut clients, 2);
    assert_eq!(sizes(&groups), [4, 4], "{groups:?}");
    // The test closes all connections of one worker. The next connections must go to this worker, because the other
    // worker has more connections.
    let mut left = Vec::new();
    for (number, client) in clients.into_iter().enumerate() {
        if groups[0].contains(&number) {
            left.push(client);
        }
    }
    wait_connections(&shim, 4);
    left.extend((0..4).map(|_| Raw::connect(shim.addr)));
    wait_connections(&shim, 8);
    let groups = by_worker(&origin, &mut left, 2);
    assert_eq!(sizes(&groups), [4, 4], "{groups:?}");
    assert!(
        groups.iter().any(|group| (0..4).all(|number| group.contains(&number))),
        "the four connections that stayed open are not in one group: {groups:?}"
    );
}

#[test]
fn workers_when_one_is_configured_then_one_worker_serves_all_connections() {
    let origin = Origin::start(named);
    let shim = Shim::start(Shim::config(origin.addr).with("[server]\nworkers = 1"));
    let mut clients: Vec<Raw> = (0..6).map(|_| Raw::connect(shim.addr)).collect();
    assert_eq!(sizes(&by_worker(&origin, &mut clients, 1)), [6]);
}

// ---- the admin listener ---------------------------------------------------------------------------------------------

const TOKEN: &str = "correct-horse-battery";

fn post(addr: SocketAddr, target: &str) -> Response {
    exchange(addr, request("POST", target, &[], b"x=1"))
}

/// Returns field 1, the name, of each `MetricFamily` message in a length-delimited stream.
fn protobuf_names(mut bytes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    while !bytes.is_empty() {
        let message = delimited(&mut bytes);
        assert_eq!(message[0], 0x0a, "a metric family must begin with field 1, the name");
        let name = delimited(&mut &message[1..]);
        names.push(String::from_utf8(name.to_vec()).expect("a name in UTF-8"));
    }
    names
}

/// Reads a length, which is a varint, and a message of this length. Returns the message.
fn delimited<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let mut length = 0;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first().expect("a length");
        *bytes = rest;
        length |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    let (message, rest) = bytes.split_at_checked(length).expect("the declared number of bytes");
    *bytes = rest;
    message
}

#[test]
fn metrics_when_scraped_as_text_or_protobuf_then_have_the_same_families() {
    let origin = Origin::start(named);
    let shim = Shim::start(Shim::config(origin.addr).with("[[provider]]\nname = \"fastly\""));
    fetch(shim.addr, "/", &[("X-CDN-Provider", "fastly")]);
    let text = fetch(shim.admin, "/metrics", &[]);
    assert_eq!(text.status, 200);
    assert_eq!(text.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let families = |text: &str| -> Vec<String> {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let mut names: Vec<String> = types.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect();
        names.sort();
        names
    };
    let expected = families(&text.text());
    assert!(expected.len() > 10 && expected.contains(&"edgeshim_pulls_total".to_owned()), "{expected:?}");
    // A Prometheus server with native histograms sends this value.
    let accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
                  application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1";
    let binary = fetch(shim.admin, "/metrics", &[("Accept", accept)]);
    assert_eq!(
        binary.field("content-type"),
        Some("application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited")
    );
    let mut names = protobuf_names(&binary.body);
    names.sort();
    assert_eq!(names, expected);
    for accept in ["text/plain", "*/*", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"] {
        let response = fetch(shim.admin, "/metrics", &[("Accept", accept)]);
        assert!(
            response.field("content-type").is_some_and(|is| is.starts_with("text/plain")),
            "{accept}: {response:?}"
        );
    }
}

#[test]
fn admin_request_when_path_or_method_is_unsupported_then_gets_404_or_405_else_200() {
    let origin = Origin::start(named);
    let shim = Shim::start(Shim::config(origin.addr).with("[server]\nmax_hops = 7"));
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/", 200), ("/nothing", 404), ("/metrics/", 404)] {
        let response = fetch(shim.admin, path, &[]);
        assert_eq!(response.status, status, "{path}");
        assert!(response.complete && response.problems.is_empty(), "{response:?}");
    }
    let config = fetch(shim.admin, "/config", &[]);
    assert_eq!((config.status, config.field("content-type")), (200, Some("application/json")));
    assert_eq!(config.field("cache-control"), Some("no-store"));
    assert_eq!(config.json()["server"]["max_hops"], 7);
    assert_eq!(config.json()["server"]["max_headers"], 128, "/config must show defaults, too");
    assert_eq!(config.json()["origin"]["url"], origin.url());
    for path in ["/metrics", "/livez", "/config"] {
        let response = post(shim.admin, path);
        assert_eq!(response.status, 405, "POST {path}");
        assert_eq!(response.field("allow"), Some("GET, HEAD"), "POST {path}");
    }
    let head = exchange(shim.admin, request("HEAD", "/metrics", &[], b""));
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(head.field("content-length").is_some_and(|length| length != "0"), "{head:?}");
    assert_eq!(origin.count(), 0, "an admin request must not reach the origin");
    assert!(
        shim.metrics().sum("edgeshim_pulls_total", &[]).abs() < f64::EPSILON,
        "an admin request must not be counted as a pull"
    );
}

#[test]
fn admin_token_when_set_then_hidden_and_required_for_all_but_probes_and_metrics() {
    let origin = Origin::start(named);
    let shim = Shim::start(Shim::config(origin.addr).with(&format!("[admin]\ntoken = \"{TOKEN}\"")));
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(fetch(shim.admin, path, &[]).status, 200, "{path}");
    }
    for path in ["/config", "/", "/nothing", "/api/summary"] {
        let response = fetch(shim.admin, path, &[]);
        assert_eq!(response.status, 401, "{path}");
        assert!(
            response.field("www-authenticate").is_some_and(|value| value.starts_with("Bearer")),
            "{path}: {response:?}"
        );
        assert!(!response.text().contains("max_hops"), "{path}");
    }
    let with = |value: &str| fetch(shim.admin, "/config", &[("Authorization", value)]);
    let right = format!("Bearer {TOKEN}");
    for wrong in [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        TOKEN.to_owned(),
        right[..right.len() - 1].to_owned(),
        format!("{right}x"),
        format!("Bearer {}", TOKEN.to_uppercase()),
        format!("Basic {TOKEN}"),
    ] {
        assert_eq!(with(&wrong).status, 401, "{wrong:?}");
    }
    assert_eq!(
        fetch(shim.admin, &format!("/config?token={TOKEN}"), &[]).status,
        401,
        "a token in the query must not be accepted"
    );
    for scheme in ["Bearer", "bearer"] {
        let config = with(&format!("{scheme} {TOKEN}"));
        assert_eq!(config.status, 200, "{scheme}");
        assert_eq!(config.json()["admin"]["token"], "***");
        assert!(!config.text().contains(TOKEN), "/config shows the token");
    }
    assert_eq!(fetch(shim.admin, "/nothing", &[("Authorization", &right)]).status, 404);
    assert!(!shim.stderr().contains(TOKEN) && !shim.metrics().text.contains(TOKEN));
}

fn admin_over(path: &Path, target: &str) -> Response {
    let mut client = Raw::connect_unix(path);
    client.send(get(target));
    client.response().unwrap_or_else(|why| panic!("no response to {target}: {why:?}"))
}

#[test]
fn admin_listener_when_on_unix_socket_then_serves_requests() {
    let origin = Origin::start(named);
    let shim = Shim::start(Shim::config(origin.addr).with("[admin]\nlisten = \"unix:admin.sock\""));
    let path = shim.dir.join("admin.sock");
    assert_eq!(fetch(shim.addr, "/served", &[]).status, 200);
    assert_eq!((admin_over(&path, "/livez").status, admin_over(&path, "/readyz").status), (200, 200));
    assert!(wait_until(PATIENCE, || {
        let metrics = support::Metrics::parse(&admin_over(&path, "/metrics").text());
        (metrics.sum("edgeshim_pulls_total", &[("code", "200")]) - 1.0).abs() < f64::EPSILON
    }));
    assert_eq!(admin_over(&path, "/config").json()["admin"]["listen"], format!("unix:{}", path.display()));
}

#[test]
fn admin_paths_when_requested_through_server_listener_then_forwarded_to_origin() {
    let origin = Origin::start(named);
    let shim = Shim::start(Shim::config(origin.addr));
    let paths = ["/metrics", "/livez", "/readyz", "/config", "/api/summary", "/api/series", "/api/top", "/annotations"];
    for path in paths {
        assert_eq!(body_of(&mut Raw::connect(shim.addr), path), path);
        // A target in absolute form with the admin address must not reach the admin listener either.
        let absolute = format!("GET http://{0}{path} HTTP/1.1\r\nHost: {0}\r\nConnection: close\r\n\r\n", shim.admin);
        assert_eq!(exchange(shim.addr, absolute).text(), path);
    }
    assert_eq!(origin.count(), 2 * paths.len());
    assert_eq!(
        fetch(shim.admin, "/served-by-the-origin", &[]).status,
        404,
        "the admin listener must not forward a request"
    );
    assert_eq!(origin.count(), 2 * paths.len());
}

#[test]
fn connection_when_parked_between_requests_then_serves_requests_and_checks_framing() {
    let origin = Origin::start(origin::fixed(200, &[], "hi"));
    let shim = Shim::start(Shim::config(origin.addr).with("[server]\nheader_timeout = \"2s\"\nidle_timeout = \"30s\""));
    let mut client = Raw::connect(shim.addr);
    let pull = get("/");
    for round in 0..4 {
        match round {
            // Round 1 sends two requests in one write. Round 2 sends a request byte by byte. In each case, the framing
            // check must still work afterwards.
            1 => {
                client.send(format!("{pull}{pull}"));
                assert_eq!(client.response().expect("the first of two responses").status, 200);
                &mut client
            }
            2 => client.send_pieces(&pull, 1),
            _ => client.send(&pull),
        };
        assert_eq!(client.response().expect("a response").status, 200, "round {round}");
        // The shim frees hyper's state of a connection that is idle for 200 ms. The pause is longer.
        std::thread::sleep(Duration::from_millis(600));
    }
    // The framing check must detect this ambiguous request.
    client
        .send("POST / HTTP/1.1\r\nHost: shim.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n");
    assert_eq!(client.response().expect("a refusal").status, 400);
    assert_eq!(origin.count(), 5);
    shim.wait_metrics(|metrics| metrics.value("edgeshim_connections", &[]) < 0.5);
}

#[test]
fn file_at_admin_socket_path_when_not_a_socket_then_kept_and_start_fails() {
    let elsewhere = temp_dir();
    let path = elsewhere.write("admin.sock", "precious");
    let origin = Origin::start(named);
    let admin = format!("[admin]\nlisten = \"unix:{}\"", path.display());
    let Err((status, stderr)) = Shim::try_start_in(temp_dir(), Shim::config(origin.addr).with(&admin)) else {
        panic!("the shim started although a file that is not a socket exists at the path of the socket");
    };
    assert_eq!(status.and_then(|status| status.code()), Some(2), "{stderr}");
    assert!(stderr.contains("cannot listen on unix:"), "{stderr}");
    assert_eq!(std::fs::read(&path).expect("the file"), b"precious");
}
