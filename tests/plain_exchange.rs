//! Tests of the two clients of HTTP/1.1 origins: edgeshim's plain exchange (`src/origin/plain/`), and hyper's client.
//! For each response of an origin, valid or not, both clients must send the same response to the CDN, count the same
//! fault, and reuse or close the same connections. With `origin.preserve_header_case`, hyper's client makes all
//! exchanges.

mod support;

use std::io::Write;
use std::sync::Arc;
use support::http1::Framing;
use support::{After, Metrics, Origin, Raw, Shim, raw};

/// A response of the origin: its name, the pieces that the origin writes, and what the origin does then.
struct Case {
    name: &'static str,
    pieces: Vec<Vec<u8>>,
    after: After,
}

fn case(name: &'static str, bytes: impl AsRef<[u8]>) -> Case {
    Case { name, pieces: vec![bytes.as_ref().to_vec()], after: After::Keep }
}

fn cut(name: &'static str, bytes: impl AsRef<[u8]>, after: After) -> Case {
    Case { after, ..case(name, bytes) }
}

fn in_pieces(name: &'static str, bytes: impl AsRef<[u8]>, size: usize) -> Case {
    Case { pieces: bytes.as_ref().chunks(size).map(<[u8]>::to_vec).collect(), ..case(name, "") }
}

/// Returns a response with these additional field lines and a body of five bytes.
fn with(lines: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{lines}Content-Length: 5\r\n\r\nhello")
}

fn of_length(value: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\nhello")
}

fn of_status(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello")
}

fn many(count: usize) -> String {
    let lines: Vec<String> = (0..count).map(|number| format!("X-{number}: {number}\r\n")).collect();
    with(&lines.concat())
}

/// Returns a response whose head has more than `kib` KiB.
fn large(kib: usize) -> String {
    with(&format!("X-Large: {}\r\n", "x".repeat(1000)).repeat(kib))
}

fn syntax() -> Vec<Case> {
    vec![
        case("usual", with("")),
        case("names in capitals", with("").replace("Content", "CONTENT")),
        case("lines that end with LF", with("").replace("\r\n", "\n")),
        case("empty lines before the status line", format!("\r\n\r\n{}", with(""))),
        case("no reason", of_status("200 ")),
        case("no reason and no space", of_status("200")),
        case("own reason", of_status("200 Fine by me")),
        case("reason of another status", of_status("404 OK")),
        case("reason with a tab", of_status("200 a\tb")),
        case("reason with a control character", of_status("200 a\x01b")),
        case("reason outside of ASCII", of_status("200 \u{e9}t\u{e9}")),
        case("two spaces before the status", "HTTP/1.1  200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        case("empty value", with("X-Empty:\r\n")),
        case("spaces and tabs around a value", with("X-Wide: \t a b \t \r\n")),
        case("value outside of ASCII", with("X-Name: \u{e9}t\u{e9}\r\n")),
        case("field that repeats", with("X-A: 1\r\nX-B: 2\r\nX-A: 3\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n")),
        case("value with NUL", with("X-Bad: a\0b\r\n")),
        case("value with CR", with("X-Bad: a\rb\r\n")),
        case("name with a space", with("X Bad: a\r\n")),
        case("space before the colon", with("X-Bad : a\r\n")),
        case("name with a quote", with("X-\"Bad\": a\r\n")),
        case("name outside of ASCII", with("X-\u{e9}: a\r\n")),
        case("empty name", with(": a\r\n")),
        case("no colon", with("X-Bad\r\n")),
        case("folded line", with("X-Folded: a\r\n b\r\n")),
        case("folded first line", "HTTP/1.1 200 OK\r\n X-Folded: a\r\nContent-Length: 5\r\n\r\nhello"),
        case("garbage", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        case("HTTP/1.0", with("").replace("1.1", "1.0")),
        case("HTTP/1.0 with keep-alive", with("Connection: keep-alive\r\n").replace("1.1", "1.0")),
        case("HTTP/1.2", with("").replace("1.1", "1.2")),
        case("HTTP/2.0", with("").replace("1.1", "2.0")),
        case("64 fields", many(62)),
        case("65 fields", many(63)),
        case("128 fields", many(126)),
        case("129 fields", many(127)),
        case("head of 15 KiB", large(15)),
        case("head of 40 KiB", large(40)),
        case("head of 80 KiB", large(80)),
    ]
}

fn framing() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        ("5, 5", "list of equal lengths"),
        ("5, 6", "list of different lengths"),
        ("5\r\nContent-Length: 5", "two equal lengths"),
        ("5\r\nContent-Length: 6", "two different lengths"),
        ("05", "length with a zero"),
        ("+5", "length with a sign"),
        ("-5", "negative length"),
        ("5 ", "length with a space"),
        ("0x5", "hexadecimal length"),
        ("", "empty length"),
        ("five", "length in words"),
        ("5\r\nTransfer-Encoding: chunked", "length and chunked"),
        ("5\r\nTransfer-Encoding: identity", "length and identity"),
        ("18446744073709551616", "length above 64 bits"),
        ("18446744073709551615", "length that is reserved"),
        ("5\r\nConnection: close", "close"),
        ("5\r\nConnection: Keep-Alive", "keep-alive"),
        ("5\r\nConnection: x-a, CLOSE", "close in a list"),
        ("5\r\nConnection: keep-alive\r\nConnection: close", "close in the second line"),
        ("5\r\nConnection: closed", "word that begins with close"),
        ("5\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nConnection: Upgrade, Keep-Alive", "offer of an upgrade"),
    ]
    .map(|(value, name)| case(name, of_length(value)))
    .into();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    cases.extend([
        case("empty body", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        case("bytes after the body", format!("{}HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", with(""))),
        case("bytes after an empty body", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nbad"),
        case("chunked", format!("{chunked}5\r\nhello\r\n0\r\n\r\n")),
        case("chunked with trailers", format!("{chunked}5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n")),
        case("chunked with a broken size", format!("{chunked}5\r\nhello\r\nz\r\n\r\n")),
        case("gzip and chunked", format!("{}5\r\nhello\r\n0\r\n\r\n", chunked.replace("chunked", "gzip, chunked"))),
        case("204", "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"),
        case("204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
        case("204 with a body", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello"),
        case("205", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"),
        case("205 with a body", "HTTP/1.1 205 Reset Content\r\nContent-Length: 5\r\n\r\nhello"),
        case("304", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
        case("304 with a length", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\n"),
        case("304 with two lengths", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"),
        case("100 before the response", format!("HTTP/1.1 100 Continue\r\n\r\n{}", with(""))),
        case("103 before the response", format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{}", with(""))),
        case("101 without a request", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        case("status 99", of_status("099 Low")),
        case("status 600", of_status("600 High")),
        case("status 999", of_status("999 High")),
        case("status of four digits", of_status("2000 High")),
        case("status 299", of_status("299 Odd")),
        case("status 500", of_status("500 Internal Server Error")),
        in_pieces("usual, byte by byte", with(""), 1),
        in_pieces("chunked, byte by byte", format!("{chunked}5\r\nhello\r\n0\r\n\r\n"), 1),
        in_pieces("head of 15 KiB in pieces", large(15), 700),
        in_pieces("head of 80 KiB in pieces", large(80), 700),
        in_pieces("body of 300 KB", of_length("300000") + &"x".repeat(299_995), 50_000),
        in_pieces("body of 300 KB in small pieces", of_length("300000") + &"x".repeat(299_995), 1000),
        case("body of 300 KB and close", of_length("300000\r\nConnection: close") + &"x".repeat(299_995)),
        case("bytes after a body of 300 KB", of_length("300000") + &"x".repeat(299_995) + &with("")),
    ]);
    cases
}

fn ends() -> Vec<Case> {
    let mut cases = Vec::new();
    for after in [After::Close, After::Reset] {
        cases.extend([
            cut("nothing", "", after),
            cut("part of a status line", "HTTP/1.1 20", after),
            cut("part of a head", "HTTP/1.1 200 OK\r\nContent-Len", after),
            cut("head without a body", of_length("9").replace("hello", ""), after),
            cut("part of a body", of_length("9"), after),
            cut("part of a body of 300 KB", of_length("300000") + &"x".repeat(200_000), after),
            cut("part of a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello", after),
        ]);
    }
    cases.push(cut("complete response", with(""), After::Close));
    cases.push(cut("body that ends with the connection", "HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nhello", After::Close));
    cases
}

/// What the CDN and the metrics show of a response, and whether the next request used the same connection.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: u16,
    reason: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    is_chunked: bool,
    complete: bool,
    faults: Vec<(String, u64)>,
    requests: usize,
    reused: bool,
}

fn faults(metrics: &Metrics) -> Vec<(String, u64)> {
    let causes = ["closed", "reset", "broken_head", "cut", "timeout", "stalled", "refused"];
    causes
        .iter()
        .map(|cause| ((*cause).to_owned(), metrics.count("edgeshim_origin_faults_total", &[("cause", cause)])))
        .collect()
}

impl Seen {
    /// Removes what depends on chance. If the body was truncated, only the timing decides whether the CDN gets the
    /// error page or a truncated body.
    fn without_chance(self) -> Self {
        if !self.faults.contains(&("cut".to_owned(), 1)) {
            return self;
        }
        assert!(self.status == 502 || !self.complete, "a truncated response looks complete: {self:?}");
        Self { status: 0, reason: String::new(), fields: Vec::new(), body: Vec::new(), complete: false, ..self }
    }
}

/// Makes the shim open a connection to the origin, sends a request for case `number`, and then sends a usual request.
fn seen(shim: &Shim, origin: &Origin, method: &str, number: usize) -> Seen {
    raw::fetch(shim.addr, "/usual", &[]);
    let before = faults(&shim.metrics());
    origin.forget();
    let mut client = Raw::connect(shim.addr);
    client.send(raw::request(method, &format!("/{number}"), &[("X-Request-Id", "0123456789abcdef")], b""));
    let response = if method == "HEAD" { client.response_to_head() } else { client.response() };
    let response = response.unwrap_or_else(|why| panic!("no response: {why:?}"));
    let requests = origin.requests();
    raw::fetch(shim.addr, "/usual", &[]);
    let mut fields: Vec<_> = response.fields.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect();
    fields.retain(|(name, _)| !["date", "traceparent"].contains(&name.as_str()));
    // The order of fields with different names depends on the map of hyper or of edgeshim.
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    let after = faults(&shim.metrics());
    Seen {
        status: response.status,
        reason: response.line.clone(),
        fields,
        // The body is edgeshim's error page, which shows the time.
        body: if response.status >= 500 { Vec::new() } else { response.body },
        is_chunked: matches!(response.framing, Some(Framing::Chunked)),
        complete: response.complete,
        faults: after.into_iter().zip(before).map(|((cause, after), (_, before))| (cause, after - before)).collect(),
        requests: requests.len(),
        reused: origin.last().connection == requests.last().map_or(usize::MAX, |request| request.connection),
    }
}

fn compare(cases: Vec<Case>) {
    let cases = Arc::new(cases);
    let served = Arc::clone(&cases);
    let start = || {
        let cases = Arc::clone(&served);
        Origin::start(move |request, conn| {
            let number = request.target.trim_start_matches('/').parse::<usize>();
            let Some(case) = number.ok().and_then(|number| cases.get(number)) else {
                let _ = conn.write_all(with("").as_bytes());
                return After::Keep;
            };
            for piece in &case.pieces {
                if conn.write_all(piece).is_err() {
                    return After::Close;
                }
            }
            case.after
        })
    };
    let (plain_origin, hyper_origin) = (start(), start());
    let config = |origin: &Origin| Shim::config(origin.url()).with("[server]\nworkers = 1");
    let plain = Shim::start(config(&plain_origin));
    let hyper = Shim::start(config(&hyper_origin).with("[origin]\npreserve_header_case = true"));
    for (number, case) in cases.iter().enumerate() {
        for method in ["GET", "HEAD"] {
            let found = seen(&plain, &plain_origin, method, number).without_chance();
            let wanted = seen(&hyper, &hyper_origin, method, number).without_chance();
            assert_eq!(
                found, wanted,
                "{method}, {}, {:?}: edgeshim's client differs from hyper's",
                case.name, case.after
            );
        }
    }
}

#[test]
fn response_when_syntax_is_odd_then_both_clients_agree() {
    compare(syntax());
}

#[test]
fn response_when_framing_is_odd_then_both_clients_agree() {
    compare(framing());
}

#[test]
fn response_when_connection_ends_then_both_clients_agree() {
    compare(ends());
}
