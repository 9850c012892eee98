//! Tests of the test harness. The harness reads HTTP/1 with a strict reader, which must find breaches of the protocol.
//! The scripted origin must record every request.

mod support;

use support::http1::{Framing, Reader, framing};
use support::raw::{End, exchange, fetch};
use support::{After, Metrics, Origin, PATIENCE, Raw, Shim, origin, temp_dir, wait_until};

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[test]
fn head_when_malformed_then_reader_reports_a_problem() {
    for bad in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost\r\n\r\n",
    ] {
        let head = Reader::new(bad.as_bytes()).head().expect("a head");
        assert!(!head.problems.is_empty(), "the reader accepts {bad:?}");
    }
    let head = Reader::new(get("/").as_bytes()).head().expect("a head");
    assert!(head.problems.is_empty(), "{:?}", head.problems);
    assert_eq!(head.raw, get("/").as_bytes());
    assert!(Reader::new(&b"GET / HTTP/1.1\r\nHost:"[..]).head().is_err(), "the reader accepts a truncated head");
}

#[test]
fn framing_when_ambiguous_then_reader_reports_a_problem() {
    let of = |fields: &[(&str, &str)]| {
        let fields: Vec<_> = fields.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut problems = Vec::new();
        (framing(&fields, &mut problems), problems.len())
    };
    assert_eq!(of(&[]), (None, 0));
    assert_eq!(of(&[("content-length", "5")]), (Some(Framing::Length(5)), 0));
    assert_eq!(of(&[("Transfer-Encoding", "chunked")]), (Some(Framing::Chunked), 0));
    assert_eq!(of(&[("Transfer-Encoding", "chunked"), ("Content-Length", "5")]).1, 1);
    assert_eq!(of(&[("Transfer-Encoding", "gzip, chunked")]).1, 1);
    assert_eq!(of(&[("Content-Length", "+5")]).1, 1);
    assert_eq!(of(&[("Content-Length", "5"), ("Content-Length", "5")]).1, 1);
}

#[test]
fn body_when_truncated_or_malformed_then_is_incomplete() {
    let read = |text: &str, framing| Reader::new(text.as_bytes()).body(framing, 1000);
    let whole = read("5;a=b\r\nhello\r\n0\r\nX-T: 1\r\n\r\n", Framing::Chunked);
    assert!(whole.complete && whole.problems.is_empty() && whole.data == b"hello", "{whole:?}");
    assert_eq!(whole.trailers, [("X-T".to_owned(), "1".to_owned())]);
    for bad in [
        "5\r\nhel",
        "5\r\nhello\r\n",
        "5\r\nhello\r\n0\r\n",
        "x\r\n",
        "-1\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
    ] {
        assert!(!read(bad, Framing::Chunked).complete, "the reader accepts {bad:?}");
    }
    assert!(!read("hell", Framing::Length(5)).complete);
    assert!(read("hello", Framing::Length(5)).complete);
    assert!(read("hello", Framing::Close).complete);
}

#[test]
fn metrics_when_parsed_then_series_are_found_by_labels() {
    let text = "# TYPE a_total counter\na_total{x=\"1\",y=\"q\\\"\\\\\\n}\"} 3\na_total{x=\"2\",y=\"\"} 1e1\nup 1\n\
                b_sum NaN\n";
    let metrics = Metrics::parse(text);
    assert_eq!(metrics.series_count(), 4);
    assert_eq!(metrics.series[0].labels[1].1, "q\"\\\n}");
    assert!((metrics.value("a_total", &[("x", "2")]) - 10.0).abs() < f64::EPSILON);
    assert!((metrics.sum("a_total", &[]) - 13.0).abs() < f64::EPSILON);
    assert!(metrics.has("up", &[]) && !metrics.has("a_total", &[("x", "3")]));
    assert!(
        std::panic::catch_unwind(|| Metrics::parse("not a series\n")).is_err(),
        "`parse` must panic at a malformed line"
    );
    assert!(
        std::panic::catch_unwind(|| metrics.value("a_total", &[])).is_err(),
        "`value` must panic if two series match"
    );
}

#[test]
fn config_when_pieces_are_merged_then_replaces_keys_and_appends_tables() {
    let config = Shim::config("127.0.0.1:1")
        .with("[server]\nidle_timeout = \"1s\"\n[[provider]]\nname = \"a\"")
        .with("[server]\nidle_timeout = \"2s\"\nworkers = 1\n[[provider]]\nname = \"b\"");
    let table: toml::Table = config.to_string().parse().expect("valid TOML");
    assert_eq!(table["server"]["idle_timeout"].as_str(), Some("2s"));
    assert_eq!(table["server"]["workers"].as_integer(), Some(1));
    assert_eq!(table["provider"].as_array().map(Vec::len), Some(2));
    assert_eq!(table["origin"]["url"].as_str(), Some("http://127.0.0.1:1"));
}

#[test]
fn origin_when_request_arrives_then_records_the_request_and_runs_the_script() {
    let origin = Origin::start(origin::echo());
    let mut client = Raw::connect(origin.addr);
    client.send_pieces(
        "POST /a HTTP/1.1\r\nHost: a\r\nX-Case: Kept\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        3,
    );
    let response = client.response().expect("a response");
    assert!(response.complete && response.problems.is_empty(), "{response:?}");
    assert_eq!(response.json()["fields"][1], serde_json::json!(["X-Case", "Kept"]));
    client.send(get("/b"));
    assert_eq!(client.response().expect("a second response").json()["target"], "/b");
    assert_eq!((origin.count(), origin.connections()), (2, 1), "the two requests must use one connection");
    assert_eq!(origin.requests()[0].body, b"hi");
    assert!(origin.requests().iter().all(|request| request.complete && request.problems.is_empty()));
    client.send("no request\r\n\r\n");
    assert!(wait_until(PATIENCE, || origin.count() == 3), "the malformed request is not recorded");
    assert!(!origin.last().problems.is_empty());
}

#[test]
fn origin_when_scripted_then_client_gets_the_scripted_response_or_failure() {
    let request = get("/");
    let first = |origin: &Origin| {
        let mut client = Raw::connect(origin.addr);
        client.send(&request);
        client.response()
    };
    assert!(first(&Origin::start(origin::hang_up())).is_err());
    assert!(first(&Origin::start(origin::reset())).is_err());
    let cut = first(&Origin::start(origin::cut(10, 4))).expect("a head");
    assert!(!cut.complete && cut.body == b"xxxx", "{cut:?}");
    let chunked = first(&Origin::start(origin::chunked(&[], &[b"a", b"bc"], &[("X-T", "1")]))).expect("a response");
    assert!(chunked.complete && chunked.body == b"abc" && chunked.trailers.len() == 1, "{chunked:?}");
    let silent = Origin::start(origin::silent());
    let mut client = Raw::connect(silent.addr).patient(std::time::Duration::from_millis(50));
    client.send(&request);
    assert_eq!(client.end(), End::Open);
    let early = Origin::start_at_head(|request, conn| {
        origin::respond(request, conn, 413, &[], b"");
        After::Close
    });
    let response = exchange(early.addr, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n");
    assert_eq!(response.status, 413);
    assert!(!early.last().complete);
}

#[test]
fn origin_when_client_disconnects_then_closes_the_connection() {
    let endless = Origin::start(origin::endless(b"more"));
    let mut client = Raw::connect(endless.addr);
    client.send(get("/"));
    assert_eq!(client.response_head().expect("a head").status, 200);
    assert!(!client.more().expect("bytes").is_empty());
    drop(client);
    assert!(wait_until(PATIENCE, || endless.open_connections() == 0), "the origin did not notice the disconnect");
}

#[test]
fn origin_when_started_on_tcp_or_unix_socket_then_responds() {
    let dir = temp_dir();
    let path = dir.join("origin.sock");
    let origin = Origin::start_unix(&path, origin::fixed(204, &[("X-A", "b")], ""));
    let mut client = Raw::connect_unix(&path);
    client.send(get("/"));
    let response = client.response().expect("a response");
    assert_eq!((response.status, response.field("x-a"), response.framing), (204, Some("b"), None));
    assert_eq!(origin.url(), format!("unix:{}", path.display()));
    let closed = origin::ClosedPort::new();
    assert!(std::net::TcpStream::connect(closed.addr).is_err());
    let fixed = Origin::start(origin::fixed(200, &[], "hi"));
    assert_eq!(fetch(fixed.addr, "/", &[]).text(), "hi");
}
