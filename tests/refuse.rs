//! Tests with ambiguous and hostile requests, and with valid requests for comparison. Each row of the table is one
//! request, in some rows with a second request on the same connection. The test sends the rows as raw bytes to one
//! shim.
//!
//! For each row, the test checks three things. First, the client must get responses with the allowed statuses. Second,
//! the origin must receive what the row allows: nothing, one complete and well-formed request, or an incomplete
//! request. Third, a normal request on another connection must get the correct response. If the row has left wrong
//! bytes on a connection to the origin, the normal request fails.
//!
//! At the end, when the shim has exited, the test checks all requests that the origin recorded. It reports all failed
//! rows together.

mod support;

use std::fmt::Write as _;
use std::time::Duration;
use support::raw::End;
use support::{After, Conn, Origin, PATIENCE, Raw, Request, Shim, origin, raw, wait_until};

/// What is allowed to reach the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Nothing.
    Nothing,
    /// Exactly one complete, well-formed request.
    Whole,
    /// Nothing, or one complete, well-formed request.
    NothingOrWhole,
    /// Nothing, or one incomplete request. The shim streams bodies, so it can forward a part of the body before it
    /// detects the error in the body.
    NeverWhole,
}

type Check = fn(&Request) -> Result<(), String>;

struct Row {
    name: String,
    /// The bytes to send. `{T}` is replaced by the target of the row, and `{S}` by a smuggled request, which the shim
    /// must not forward.
    send: Vec<u8>,
    seen: Seen,
    /// The allowed statuses of each response, in the order of the responses.
    responses: Vec<&'static [u16]>,
    /// Whether the shim is allowed to close the connection without a response. If the request is sent in pieces, a
    /// missing response is allowed for every row whose `seen` is not [`Seen::Whole`].
    silence: bool,
    /// Whether the connection is allowed to stay open after a refusal, because the request was well-formed.
    stays: bool,
    /// Whether the client closes its sending side after the last byte.
    cut: bool,
    body: Option<&'static [u8]>,
    check: Option<Check>,
}

impl Row {
    fn new(name: &str, send: impl AsRef<[u8]>) -> Self {
        let send = send.as_ref().to_vec();
        let (seen, responses) = (Seen::Nothing, vec![REFUSED]);
        Self {
            name: name.into(),
            send,
            seen,
            responses,
            silence: false,
            stays: false,
            cut: false,
            body: None,
            check: None,
        }
    }

    /// Expects 200 and one complete request at the origin.
    fn served(mut self) -> Self {
        (self.seen, self.responses) = (Seen::Whole, vec![SERVED]);
        self
    }

    /// Accepts two results: the shim either forwards the request in strict form or refuses the request.
    fn either(mut self) -> Self {
        (self.seen, self.responses) = (Seen::NothingOrWhole, vec![EITHER]);
        self
    }

    /// Marks a request whose error is in the body, so that the head and a part of the body can reach the origin.
    fn in_body(mut self) -> Self {
        (self.seen, self.responses, self.silence) = (Seen::NeverWhole, vec![IN_BODY], true);
        self
    }

    fn responses(mut self, responses: &[&'static [u16]]) -> Self {
        self.responses = responses.to_vec();
        self
    }

    /// Allows a missing response. The shim closes the connection while bytes of the request are unread, so the kernel
    /// can send a reset. A reset can discard the response.
    fn or_silence(mut self) -> Self {
        self.silence = true;
        self
    }

    fn stays(mut self) -> Self {
        self.stays = true;
        self
    }

    fn cut(mut self) -> Self {
        self.cut = true;
        self
    }

    fn body(mut self, body: &'static [u8]) -> Self {
        self.body = Some(body);
        self
    }

    fn check(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let smuggled = format!("GET /smuggled/{} HTTP/1.1\r\nHost: shim.test\r\n\r\n", self.name);
        let target = format!("/r/{}", self.name);
        replace(&replace(&self.send, b"{S}", smuggled.as_bytes()), b"{T}", target.as_bytes())
    }
}

const REFUSED: &[u16] = &[400];
const SERVED: &[u16] = &[200];
const EITHER: &[u16] = &[200, 400, 501, 505];
const IN_BODY: &[u16] = &[400, 408];

fn replace(text: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len() + with.len());
    let mut rest = text;
    while let Some(at) = rest.windows(what.len()).position(|window| window == what) {
        result.extend_from_slice(&rest[..at]);
        result.extend_from_slice(with);
        rest = &rest[at + what.len()..];
    }
    result.extend_from_slice(rest);
    result
}

/// Makes a request that has this request line and only the field Host.
fn line(name: &str, line: impl AsRef<[u8]>) -> Row {
    Row::new(name, [line.as_ref(), b"\r\nHost: shim.test\r\n\r\n"].concat())
}

/// Makes a GET with these field lines after Host.
fn get(name: &str, fields: impl AsRef<[u8]>) -> Row {
    Row::new(name, [b"GET {T} HTTP/1.1\r\nHost: shim.test\r\n", fields.as_ref(), b"\r\n\r\n"].concat())
}

/// Makes a GET with only these field lines, so that a row can omit or repeat Host.
fn host(name: &str, fields: impl AsRef<[u8]>) -> Row {
    Row::new(name, [b"GET {T} HTTP/1.1\r\n", fields.as_ref(), b"\r\n\r\n"].concat())
}

/// Makes a POST with these field lines, and with these bytes after the head.
fn post(name: &str, fields: impl AsRef<[u8]>, rest: &str) -> Row {
    let head = [b"POST {T} HTTP/1.1\r\nHost: shim.test\r\n", fields.as_ref(), b"\r\n\r\n"].concat();
    Row::new(name, [&head, rest.as_bytes()].concat())
}

/// Makes a POST with this Content-Length, five bytes of body and then a smuggled request.
fn length(name: &str, value: impl AsRef<[u8]>) -> Row {
    post(name, [b"Content-Length: ", value.as_ref()].concat(), "hello{S}")
}

/// Makes a POST with this Transfer-Encoding and a chunked body.
fn coding(name: &str, value: impl AsRef<[u8]>) -> Row {
    post(name, [b"Transfer-Encoding: ", value.as_ref()].concat(), "5\r\nhello\r\n0\r\n\r\n{S}")
}

/// Makes a POST whose chunked body consists of these bytes.
fn chunked(name: &str, body: &str) -> Row {
    post(name, "Transfer-Encoding: chunked", body)
}

/// Returns `count` different field lines, without the CRLF of the last line.
fn numbered(count: usize) -> String {
    let lines: Vec<String> = (0..count).map(|number| format!("X-{number}: {number}")).collect();
    lines.join("\r\n")
}

/// Returns valid requests, so that a proxy that refuses every request fails the test.
fn controls() -> Vec<Row> {
    let many = numbered(126);
    vec![
        get("control-get", "Accept: */*").served(),
        post("control-length", "Content-Length: 5", "hello").served().body(b"hello"),
        post("control-length-zero", "Content-Length: 0", "").served().body(b""),
        chunked("control-chunked", "5\r\nhello\r\n0\r\n\r\n").served().body(b"hello"),
        chunked("control-chunk-upper-hex", "A\r\nhellohello\r\n0\r\n\r\n").served().body(b"hellohello"),
        chunked("control-chunk-extension", "5;a=b\r\nhello\r\n0;z\r\n\r\n").served().body(b"hello"),
        chunked("control-trailer", "5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n").served().body(b"hello"),
        post("control-coding-case", "TRANSFER-encoding: Chunked", "5\r\nhello\r\n0\r\n\r\n").served().body(b"hello"),
        get("control-126-more-lines", &many).served(),
        get("control-60-KiB-head", format!("X-Big: {}", "a".repeat(60 << 10))).served(),
        Row::new("control-leading-crlf", "\r\nGET {T} HTTP/1.1\r\nHost: shim.test\r\n\r\n").served(),
        line("control-absolute-form", "GET http://shim.test{T} HTTP/1.1").served().check(host_is_ours),
        Row::new(
            "control-pipelined",
            "POST {T} HTTP/1.1\r\nHost: shim.test\r\nContent-Length: 5\r\n\r\nhello\
             GET /normal_request/control-pipelined HTTP/1.1\r\nHost: shim.test\r\n\r\n",
        )
        .served()
        .responses(&[SERVED, SERVED])
        .body(b"hello"),
    ]
}

/// Returns requests whose body length or framing is ambiguous, malformed or unusual.
fn framing() -> Vec<Row> {
    let both = "0\r\n\r\n{S}";
    vec![
        post("length-and-coding", "Content-Length: 5\r\nTransfer-Encoding: chunked", both),
        post("coding-and-length", "Transfer-Encoding: chunked\r\nContent-Length: 5", both),
        post("length-and-coding-any-case", "cOnTeNt-LeNgTh: 5\r\ntRaNsFeR-eNcOdInG: cHuNkEd", both),
        post("length-zero-and-coding", "Content-Length: 0\r\nTransfer-Encoding: chunked", both),
        post("coding-between-lengths", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", both),
        get("get-length-and-coding", "Content-Length: 5\r\nTransfer-Encoding: chunked"),
        post("lengths-differ", "Content-Length: 5\r\nContent-Length: 6", "hello{S}"),
        post("lengths-differ-zero", "Content-Length: 0\r\nContent-Length: 5", "hello{S}"),
        post("lengths-equal", "Content-Length: 5\r\nContent-Length: 5", "hello").either().body(b"hello"),
        post("lengths-equal-as-numbers", "Content-Length: 5\r\nContent-Length: 05", "hello").either().body(b"hello"),
        post("length-list-equal", "Content-Length: 5, 5", "hello").either().body(b"hello"),
        post("length-leading-zeros", "Content-Length: 0005", "hello").either().body(b"hello"),
        length("length-list", "5, 6"),
        length("length-list-no-space", "5,6"),
        length("length-comma-first", ",5"),
        length("length-comma-last", "5,"),
        length("length-plus", "+5"),
        length("length-minus", "-5"),
        length("length-hex", "0x5"),
        length("length-decimals", "5.0"),
        length("length-exponent", "5e0"),
        length("length-empty", ""),
        length("length-spaces", "5 5"),
        length("length-quoted", "\"5\""),
        length("length-underscore", "5_0"),
        length("length-nul", b"5\0"),
        length("length-vertical-tab", b"\x0b5"),
        length("length-arabic-digit", "\u{665}"),
        length("length-above-64-bits", "18446744073709551621"),
        length("length-40-digits", "9".repeat(40)),
        coding("coding-gzip", "gzip"),
        coding("coding-identity", "identity"),
        coding("coding-chunked-gzip", "chunked, gzip"),
        coding("coding-gzip-chunked", "gzip, chunked"),
        coding("coding-identity-chunked", "identity, chunked"),
        coding("coding-xchunked", "xchunked"),
        coding("coding-chunkedx", "chunkedx"),
        coding("coding-quoted", "\"chunked\""),
        coding("coding-parameter", "chunked;q=1"),
        coding("coding-twice-in-a-list", "chunked, chunked"),
        coding("coding-twice", "chunked\r\nTransfer-Encoding: chunked"),
        coding("coding-identity-then-chunked", "identity\r\nTransfer-Encoding: chunked"),
        coding("coding-chunked-then-identity", "chunked\r\nTransfer-Encoding: identity"),
        coding("coding-empty", ""),
        coding("coding-vertical-tab", b"\x0bchunked"),
        coding("coding-no-break-space", b"\xa0chunked"),
        coding("coding-ff", b"\xffchunked"),
        post("coding-comma-last", "Transfer-Encoding: chunked,", "5\r\nhello\r\n0\r\n\r\n").either().body(b"hello"),
        Row::new(
            "coding-in-1.0",
            "POST {T} HTTP/1.0\r\nHost: shim.test\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n\
             0\r\n\r\n{S}",
        ),
        post("connection-names-length", "Connection: close, content-length\r\nContent-Length: 5", "hello")
            .either()
            .body(b"hello"),
        post(
            "connection-names-coding",
            "Connection: close, Transfer-Encoding\r\nTransfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\n\r\n",
        )
        .either()
        .body(b"hello"),
    ]
}

/// Returns requests with malformed chunks, malformed trailers or a truncated body.
fn chunks() -> Vec<Row> {
    vec![
        chunked("chunk-size-junk", "5zz\r\nhello\r\n0\r\n\r\n{S}").in_body(),
        chunked("chunk-size-word", "INVALID\r\n{S}").in_body(),
        chunked("chunk-size-empty", "\r\nhello\r\n0\r\n\r\n{S}").in_body(),
        chunked("chunk-size-minus", "-5\r\nhello\r\n0\r\n\r\n{S}").in_body(),
        chunked("chunk-size-plus", "+5\r\nhello\r\n0\r\n\r\n{S}").in_body(),
        chunked("chunk-size-0x", "0x5\r\nhello\r\n0\r\n\r\n{S}").in_body(),
        chunked("chunk-size-underscore", "0_5\r\nhello\r\n0\r\n\r\n{S}").in_body(),
        chunked("chunk-size-above-64-bits", "10000000000000005\r\nhello\r\n0\r\n\r\n{S}").in_body(),
        chunked("chunk-size-32-digits", "ffffffffffffffffffffffffffffffff\r\nhello\r\n0\r\n\r\n{S}").in_body(),
        chunked("chunk-size-leading-space", " 5\r\nhello\r\n0\r\n\r\n{S}").in_body(),
        chunked("chunk-size-ends-in-lf", "5\nhello\r\n0\r\n\r\n{S}").in_body(),
        chunked("chunk-size-ends-in-cr", "5\rhello\r\n0\r\n\r\n{S}").in_body(),
        chunked("chunk-extension-ends-in-lf", "5;a\nhello\r\n0\r\n\r\n{S}").in_body(),
        chunked("chunk-data-without-crlf", "5\r\nhello0\r\n\r\n{S}").in_body(),
        chunked("chunk-data-too-long", "5\r\nhelloXX0\r\n\r\n{S}").in_body(),
        chunked("chunk-data-ends-in-lf", "5\r\nhello\n0\r\n\r\n{S}").in_body(),
        chunked("trailer-without-colon", "5\r\nhello\r\n0\r\nbad trailer\r\n\r\n{S}").in_body(),
        chunked("trailer-space-before-colon", "5\r\nhello\r\n0\r\nX-T : 1\r\n\r\n{S}").in_body(),
        chunked("trailer-is-a-request", "5\r\nhello\r\n0\r\n{S}").in_body(),
        chunked("chunk-cut-in-size", "5\r\nhello\r\n5").cut().in_body(),
        chunked("chunk-cut-in-data", "5\r\nhel").cut().in_body(),
        chunked("chunk-cut-before-last", "5\r\nhello\r\n").cut().in_body(),
        chunked("chunk-cut-before-trailer-end", "5\r\nhello\r\n0\r\n").cut().in_body(),
        post("length-cut", "Content-Length: 50", "hello").cut().in_body(),
    ]
}

/// Returns requests with malformed lines: line ends, control characters, field names and folded field values. In some
/// rows, a second request follows on the same connection.
fn lines() -> Vec<Row> {
    vec![
        get("fold", "X-A: a\r\n b"),
        get("fold-tab", "X-A: a\r\n\tb"),
        post("fold-hides-length", "X-A: a\r\n Content-Length: 5", "hello{S}"),
        post("fold-coding", "Transfer-Encoding:\r\n chunked", "0\r\n\r\n{S}"),
        Row::new("fold-first", "GET {T} HTTP/1.1\r\n Host: evil.test\r\nHost: shim.test\r\n\r\n"),
        get("cr-in-value", b"X-A: a\rb"),
        get("cr-in-value-then-field", b"X-A: a\rX-Injected: 1"),
        get("cr-in-name", b"X-\rA: a"),
        line("cr-in-request-line", b"GET {T}\rX HTTP/1.1"),
        line("cr-before-version", b"GET {T} \rHTTP/1.1"),
        get("cr-cr-lf", b"X-A: a\r"),
        get("nul-in-value", b"X-A: a\0b"),
        get("nul-in-name", b"X\0A: a"),
        line("nul-in-target", b"GET {T}\0 HTTP/1.1"),
        get("control-character-in-value", b"X-A: a\x01b"),
        get("delete-in-value", b"X-A: a\x7fb"),
        get("space-before-colon", "X-A : a"),
        get("tab-before-colon", "X-A\t: a"),
        post("space-before-colon-of-length", "Content-Length : 5", "hello{S}"),
        post("space-before-colon-of-coding", "Transfer-Encoding : chunked\r\nContent-Length: 5", "0\r\n\r\n{S}"),
        host("space-before-colon-of-host", "Host : shim.test"),
        get("no-colon", "XABC"),
        get("name-empty", ": a"),
        get("name-with-space", "X A: a"),
        get("name-in-parentheses", "(X): a"),
        get("name-above-ascii", b"X-\xe9: a"),
        Row::new("lf-line-ends", "GET {T} HTTP/1.1\nHost: shim.test\n\n").either(),
        get("lf-in-head", "X-A: a\nX-B: b").either(),
        Row::new("pipelined-after-bad", "GET {T} HTTP/1.1\r\nHost: shim.test\r\nX A: a\r\n\r\n{S}"),
        Row::new("pipelined-after-two-hosts", "GET {T} HTTP/1.1\r\nHost: shim.test\r\nHost: shim.test\r\n\r\n{S}"),
        Row::new(
            "bad-after-good",
            "GET {T} HTTP/1.1\r\nHost: shim.test\r\n\r\nGET /smuggled/x HTTP/1.1\r\nX A: a\r\n\r\n{S}",
        )
        .served()
        .responses(&[SERVED, REFUSED]),
    ]
}

/// Returns requests with a missing, repeated or malformed Host, and requests whose Connection field names Host or
/// X-CDN-Provider.
fn hosts() -> Vec<Row> {
    vec![
        host("hosts-same", "Host: shim.test\r\nHost: shim.test"),
        host("hosts-differ", "Host: shim.test\r\nHost: evil.test"),
        host("hosts-differ-in-case", "Host: shim.test\r\nhOST: evil.test"),
        host("hosts-apart", "Host: shim.test\r\nX-A: a\r\nHost: evil.test"),
        host("host-missing", "X-A: a"),
        Row::new("host-missing-1.0", "GET {T} HTTP/1.0\r\n\r\n").either(),
        host("host-userinfo", "Host: a@shim.test"),
        host("host-userinfo-password", "Host: a:b@shim.test"),
        host("host-port-junk", "Host: shim.test:80x"),
        host("host-port-above-16-bits", "Host: shim.test:99999"),
        host("host-port-minus", "Host: shim.test:-1"),
        host("host-two-ports", "Host: shim.test:80:80"),
        host("host-list", "Host: shim.test, evil.test"),
        host("host-space", "Host: shim.test evil.test"),
        host("host-tab", "Host: shim.test\tevil.test"),
        host("host-slash", "Host: shim.test/evil"),
        host("host-backslash", "Host: shim.test\\evil"),
        host("host-question-mark", "Host: shim.test?a"),
        host("host-number-sign", "Host: shim.test#a"),
        host("host-bracket-open", "Host: [::1"),
        host("host-nul", b"Host: shim.test\0.evil.test"),
        host("host-above-ascii", b"Host: shim\xe9.test"),
        get("connection-names-host", "Connection: Host").either().check(host_is_ours),
        get("connection-names-identity", "X-CDN-Provider: fastly\r\nConnection: X-CDN-Provider").served().check(
            |request| match request.fields_named("x-cdn-provider").as_slice() {
                ["fastly"] => Ok(()),
                other => Err(format!("X-CDN-Provider at the origin is {other:?}")),
            },
        ),
    ]
}

/// Returns requests with malformed or unusual request lines.
fn request_lines() -> Vec<Row> {
    const VERSION: &[u16] = &[400, 505];
    const METHOD: &[u16] = &[400, 403, 405, 501];
    vec![
        line("absolute-form-disagrees", "GET http://evil.test{T} HTTP/1.1"),
        line("absolute-form-other-port", "GET http://shim.test:81{T} HTTP/1.1"),
        line("absolute-form-userinfo", "GET http://a@shim.test{T} HTTP/1.1"),
        line("absolute-form-case", "GET HTTP://SHIM.test{T} HTTP/1.1").either(),
        line("absolute-form-ftp", "GET ftp://shim.test{T} HTTP/1.1"),
        line("absolute-form-no-host", "GET http://{T} HTTP/1.1"),
        line("authority-form-get", "GET shim.test:80 HTTP/1.1"),
        line("target-relative", "GET r/target-relative HTTP/1.1"),
        line("target-asterisk-get", "GET * HTTP/1.1"),
        line("target-missing", "GET HTTP/1.1").responses(&[VERSION]),
        line("target-space", "GET {T} x HTTP/1.1").responses(&[VERSION]),
        line("target-two-spaces", "GET  {T} HTTP/1.1").either(),
        line("target-control-character", b"GET {T}\x01 HTTP/1.1"),
        line("target-fragment", "GET {T}#a HTTP/1.1").either(),
        line("connect", "CONNECT shim.test:443 HTTP/1.1").responses(&[METHOD]).stays(),
        Row::new("version-0.9", "GET {T}\r\n\r\n").responses(&[VERSION]).or_silence(),
        line("version-1.10", "GET {T} HTTP/1.10").responses(&[VERSION]),
        line("version-2.0", "GET {T} HTTP/2.0").responses(&[VERSION]),
        line("version-3.0", "GET {T} HTTP/3.0").responses(&[VERSION]),
        line("version-1.1x", "GET {T} HTTP/1.1x").responses(&[VERSION]),
        line("version-above-32-bits", "GET {T} HTTP/4294967297.1").responses(&[VERSION]),
        line("version-lower-case", "GET {T} http/1.1").responses(&[VERSION]),
        line("version-other-protocol", "GET {T} ICAP/1.1").responses(&[VERSION]),
        line("method-quote", "G\"T {T} HTTP/1.1"),
        line("method-parenthesis", "GET( {T} HTTP/1.1"),
        line("method-colon", "GET: {T} HTTP/1.1"),
        line("method-above-ascii", b"G\xc9T {T} HTTP/1.1"),
        line("method-tab-after", "GET\t{T} HTTP/1.1"),
        line("method-empty", " {T} HTTP/1.1"),
        Row::new("tls-to-plain-port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").or_silence(),
    ]
}

/// Returns requests whose heads exceed a limit of the shim. Some heads exceed the limit by a little, others by far.
fn sizes() -> Vec<Row> {
    const FIELDS: &[u16] = &[431];
    const TARGET: &[u16] = &[414, 431];
    let many = numbered(128);
    let crowd = numbered(5000);
    vec![
        get("head-129-lines", &many).responses(&[FIELDS]),
        get("head-5001-lines", &crowd).responses(&[FIELDS]).or_silence(),
        get("head-66-KiB-field", format!("X-Big: {}", "a".repeat(66 << 10))).responses(&[FIELDS]).or_silence(),
        get("head-1-MB-field", format!("X-Big: {}", "a".repeat(1_000_000))).responses(&[FIELDS]).or_silence(),
        get("head-1-MB-name", format!("X-{}: a", "a".repeat(1_000_000))).responses(&[FIELDS]).or_silence(),
        line("target-1-MB", format!("GET {{T}}?{} HTTP/1.1", "a".repeat(1_000_000))).responses(&[TARGET]).or_silence(),
        line("method-1-MB", format!("{} {{T}} HTTP/1.1", "A".repeat(1_000_000))).responses(&[&[400, 431]]).or_silence(),
    ]
}

fn host_is_ours(request: &Request) -> Result<(), String> {
    match request.field("host") {
        Some("shim.test") => Ok(()),
        other => Err(format!("Host at the origin is {other:?}")),
    }
}

fn table() -> Vec<Row> {
    [controls(), framing(), chunks(), lines(), hosts(), request_lines(), sizes()].into_iter().flatten().collect()
}

/// Responds with the target of the request, so that the test notices a response that belongs to another request.
fn named(request: &Request, conn: &mut Conn) -> After {
    origin::respond(
        request,
        conn,
        200,
        &[("X-Target", &request.target), ("Cache-Control", "no-store")],
        b"here you are\n",
    )
}

fn start(origin: &Origin) -> Shim {
    Shim::start(Shim::config(origin.addr).with(
        r#"
        [server]
        header_timeout = "3s"
        body_timeout = "3s"
        [[provider]]
        name = "fastly"
        "#,
    ))
}

/// Sends all rows in writes of `piece` bytes, and checks each row.
fn run(piece: usize, rows: &[Row]) {
    let origin = Origin::start(named);
    let shim = start(&origin);
    let mut failures = Vec::new();
    let mut statuses = Vec::new();
    for row in rows {
        let (got, wrong) = exchange(&shim, row, piece);
        failures.extend(wrong.into_iter().map(|wrong| format!("{}: {wrong}", row.name)));
        statuses.push(got);
        if let Err(wrong) = normal_request(&shim, &row.name) {
            failures.push(format!("{}: the next normal request failed: {wrong}", row.name));
        }
    }
    // The origin has recorded all requests only when the shim has exited and all connections to the origin have ended.
    drop(shim);
    let quiet = wait_until(PATIENCE, || origin.open_connections() == 0);
    assert!(quiet, "connections to the origin are open after the shim has exited");
    let requests = origin.requests();
    for (row, statuses) in rows.iter().zip(&statuses) {
        let target = format!("/r/{}", row.name);
        let mine: Vec<&Request> = requests.iter().filter(|request| request.target == target).collect();
        failures.extend(compare(row, statuses, &mine).into_iter().map(|wrong| format!("{}: {wrong}", row.name)));
    }
    let known = |request: &Request| {
        let name = request.target.strip_prefix("/r/").or_else(|| request.target.strip_prefix("/normal_request/"));
        name.is_some_and(|name| rows.iter().any(|row| row.name == name))
    };
    for request in requests.iter().filter(|request| !known(request)) {
        failures.push(format!("the origin got a smuggled request: {} {}", request.method, request.target));
    }
    failures.extend(origin.problems().into_iter().map(|problem| format!("the origin got malformed bytes: {problem}")));
    let mut report = String::new();
    for failure in &failures {
        let _ = writeln!(report, "  {failure}");
    }
    assert!(failures.is_empty(), "{} failures in {} rows:\n{report}", failures.len(), rows.len());
}

/// Sends a row and reads the responses. Returns the statuses of the responses, and a message for each error.
fn exchange(shim: &Shim, row: &Row, piece: usize) -> (Vec<u16>, Vec<String>) {
    let mut wrong = Vec::new();
    let mut statuses = Vec::new();
    let mut client = Raw::connect(shim.addr);
    client.send_pieces(row.bytes(), piece);
    if row.cut {
        client.finish();
    }
    loop {
        match client.end() {
            End::Closed => break,
            End::Open => {
                wrong.push(format!("the connection is open but silent after the statuses {statuses:?}"));
                break;
            }
            End::More if statuses.len() > 3 => {
                wrong.push(format!("too many responses arrived, with the statuses {statuses:?}"));
                break;
            }
            End::More => match client.response() {
                Ok(response) => {
                    if !response.complete || !response.problems.is_empty() {
                        wrong.push(format!("the response {:?} is malformed: {:?}", response.line, response.problems));
                    }
                    let own = format!("/r/{}", row.name);
                    let target = response.field("x-target");
                    if target.is_some_and(|target| target != own && !target.starts_with("/normal_request/")) {
                        wrong.push(format!("a response to another request arrived, with the target {target:?}"));
                    }
                    statuses.push(response.status);
                    if statuses.len() == row.responses.len() && (response.status < 400 || row.stays) {
                        client.finish();
                    }
                }
                Err(why) => {
                    wrong.push(format!("no readable response arrived after the statuses {statuses:?}: {why:?}"));
                    break;
                }
            },
        }
    }
    let silent = statuses.is_empty() && (row.silence || (piece < row.send.len() && row.seen != Seen::Whole));
    let expected = statuses.len() == row.responses.len()
        && statuses.iter().zip(&row.responses).all(|(status, allowed)| allowed.contains(status));
    if !silent && !expected {
        wrong.push(format!("the statuses are {statuses:?}, expected {:?}", row.responses));
    }
    (statuses, wrong)
}

/// Checks that a normal request on another connection gets the response with the target of the normal request.
fn normal_request(shim: &Shim, name: &str) -> Result<(), String> {
    let target = format!("/normal_request/{name}");
    let mut client = Raw::connect(shim.addr).patient(Duration::from_secs(5));
    client.send(raw::request("GET", &target, &[], b""));
    let response = client.response().map_err(|why| format!("{why:?}"))?;
    match (response.status, response.field("x-target")) {
        (200, Some(own)) if own == target => Ok(()),
        (status, other) => Err(format!("the response has the status {status} and the target {other:?}")),
    }
}

/// Compares the requests of a row at the origin with what is allowed.
fn compare(row: &Row, statuses: &[u16], mine: &[&Request]) -> Vec<String> {
    let mut wrong = Vec::new();
    let whole = mine.iter().filter(|request| request.complete).count();
    let allowed = match row.seen {
        Seen::Nothing => mine.is_empty(),
        Seen::Whole => mine.len() == 1 && whole == 1,
        Seen::NothingOrWhole => mine.len() == whole && whole <= 1,
        Seen::NeverWhole => mine.len() <= 1 && whole == 0,
    };
    if !allowed {
        wrong.push(format!(
            "the origin got {} requests, {whole} of them complete; expected {:?}",
            mine.len(),
            row.seen
        ));
    }
    if row.seen == Seen::NothingOrWhole && (whole == 1) != statuses.contains(&200) {
        wrong.push(format!("the origin got {whole} complete requests, but the client got the statuses {statuses:?}"));
    }
    for request in mine.iter().filter(|request| request.complete) {
        if !request.problems.is_empty() {
            wrong.push(format!("the forwarded request is malformed: {}", request.problems.join("; ")));
        }
        if row.body.is_some_and(|body| body != request.body) {
            wrong.push(format!("the origin got a wrong body: {:?}", String::from_utf8_lossy(&request.body)));
        }
        if let Some(Err(why)) = row.check.map(|check| check(request)) {
            wrong.push(why);
        }
    }
    wrong
}

#[test]
fn hostile_request_when_sent_in_one_write_then_origin_gets_no_ambiguous_request() {
    let rows = table();
    assert!(rows.len() >= 150, "the table has only {} rows", rows.len());
    run(usize::MAX, &rows);
}

#[test]
fn hostile_request_when_sent_byte_by_byte_then_origin_gets_no_ambiguous_request() {
    let mut rows = table();
    // The test omits the large requests, because it takes too long to send a megabyte byte by byte.
    rows.retain(|row| row.send.len() < 4096);
    run(1, &rows);
}

#[test]
fn row_names_when_compared_then_are_unique() {
    let rows = table();
    for (index, row) in rows.iter().enumerate() {
        assert!(rows[..index].iter().all(|other| other.name != row.name), "two rows have the name {}", row.name);
    }
}
