//! Tests of gzip with a running shim. For each length, framing and request, the decoded body must equal the origin's
//! body. Responses that must not be compressed must stay unchanged. Streams must not be delayed. If the origin's body
//! is truncated, a client must be able to see that the compressed body is incomplete.
//!
//! The request decides the origin's response. `X-Size` is the length of the body, `X-Framing` is `length`, `chunked` or
//! `close`, `X-Chunk` is the size of a chunk, `X-Status` is the status, and each `X-Say` is a header field of the
//! response.

mod support;

use flate2::bufread::GzDecoder;
use flate2::{Decompress, FlushDecompress};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use support::http1::Framing;
use support::{After, Conn, Origin, Raw, Request, Response, Shim, origin, raw};

/// Returns text that compresses about as well as HTML. Each line occurs only once, so that the test notices a lost or
/// moved byte.
fn text(size: usize) -> Vec<u8> {
    static LONGEST: OnceLock<Vec<u8>> = OnceLock::new();
    let longest = LONGEST.get_or_init(|| {
        let mut random = fastrand::Rng::with_seed(7);
        let mut text = String::new();
        while text.len() < (3 << 20) + 16 {
            let _ = writeln!(text, "<p class=\"row-{}\">{:x}</p>", text.len(), random.u32(..));
        }
        text.into_bytes()
    });
    longest[..size].to_vec()
}

fn respond_as_requested(request: &Request, conn: &mut Conn) -> After {
    let number =
        |name: &str, default: usize| request.field(name).and_then(|value| value.parse().ok()).unwrap_or(default);
    let body = text(number("x-size", 1000));
    let mut head = format!("HTTP/1.1 {} X\r\n", number("x-status", 200));
    for field in request.fields_named("x-say") {
        let _ = write!(head, "{field}\r\n");
    }
    if request.field("x-status") == Some("304") {
        head.push_str("\r\n");
        return if conn.write_all(head.as_bytes()).is_ok() { After::Keep } else { After::Close };
    }
    let framing = request.field("x-framing").unwrap_or("length");
    let mut message = head.into_bytes();
    let mut after = After::Keep;
    let framed = match framing {
        "length" => {
            message.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            body
        }
        "chunked" => {
            message.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            let chunks = body.chunks(number("x-chunk", 5000).max(1));
            chunks.flat_map(origin::chunk).chain(*b"0\r\n\r\n").collect()
        }
        _ => {
            message.extend_from_slice(b"Connection: close\r\n\r\n");
            after = After::Close;
            body
        }
    };
    if request.method != "HEAD" {
        message.extend_from_slice(&framed);
    }
    if conn.write_all(&message).is_ok() { after } else { After::Close }
}

const HTML: &str = "Content-Type: text/html; charset=utf-8";

/// A request to the scripted origin through the shim.
struct Ask<'a> {
    method: &'a str,
    size: usize,
    status: u16,
    framing: &'a str,
    chunk: usize,
    say: Vec<&'a str>,
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Ask<'a> {
    /// Requests HTML of this size, with `Accept-Encoding: gzip`.
    fn html(size: usize) -> Self {
        let fields = vec![("Accept-Encoding", "gzip")];
        Self { method: "GET", size, status: 200, framing: "length", chunk: 5000, say: vec![HTML], fields }
    }

    fn method(mut self, method: &'a str) -> Self {
        self.method = method;
        self
    }

    fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    fn framing(mut self, framing: &'a str) -> Self {
        self.framing = framing;
        self
    }

    fn say(mut self, fields: &[&'a str]) -> Self {
        self.say.extend_from_slice(fields);
        self
    }

    /// Replaces all fields of the response, including Content-Type.
    fn say_only(mut self, fields: &[&'a str]) -> Self {
        self.say = fields.to_vec();
        self
    }

    /// Replaces `Accept-Encoding: gzip`.
    fn fields(mut self, fields: &[(&'a str, &'a str)]) -> Self {
        self.fields = fields.to_vec();
        self
    }

    fn send(&self, client: &mut Raw) -> Response {
        let (size, status, chunk) = (self.size.to_string(), self.status.to_string(), self.chunk.to_string());
        let mut fields = vec![
            ("Connection", "keep-alive"),
            ("X-Size", &*size),
            ("X-Status", &*status),
            ("X-Framing", self.framing),
            ("X-Chunk", &*chunk),
        ];
        fields.extend(self.say.iter().map(|field| ("X-Say", *field)));
        fields.extend_from_slice(&self.fields);
        client.send(raw::request(self.method, "/", &fields, b""));
        let response = if self.method == "HEAD" { client.response_to_head() } else { client.response() };
        let response = response.unwrap_or_else(|why| panic!("no response to {fields:?}: {why:?}"));
        assert_eq!((response.status, response.problems.len()), (self.status, 0), "{fields:?}: {:?}", response.problems);
        response
    }
}

fn is_gzip(response: &Response) -> bool {
    match response.fields_named("content-encoding")[..] {
        [] => false,
        ["gzip"] => true,
        ref other => panic!("unexpected Content-Encoding {other:?}"),
    }
}

/// Inflates the body. Panics if the body is not exactly one valid gzip member.
fn decoded(response: &Response) -> Vec<u8> {
    assert!(response.complete, "the body is incomplete: {:?}", response.fields);
    if !is_gzip(response) {
        return response.body.clone();
    }
    let mut content = Vec::new();
    let mut rest = &response.body[..];
    GzDecoder::new(&mut rest)
        .read_to_end(&mut content)
        .unwrap_or_else(|error| panic!("the body is not a complete gzip member: {error}"));
    assert!(rest.is_empty(), "{} bytes follow the gzip member", rest.len());
    content
}

/// Returns whether Vary contains Accept-Encoding. Panics if Accept-Encoding is repeated, or if there is a second Vary
/// line.
fn varies(response: &Response) -> bool {
    let lines = response.fields_named("vary");
    assert!(lines.len() <= 1, "there are several Vary lines: {lines:?}");
    let members = lines.iter().flat_map(|line| line.split(','));
    match members.filter(|member| member.trim().eq_ignore_ascii_case("accept-encoding")).count() {
        0 => false,
        1 => true,
        _ => panic!("Accept-Encoding is repeated in Vary: {lines:?}"),
    }
}

fn start() -> (Origin, Shim, Raw) {
    let origin = Origin::start(respond_as_requested);
    let shim = Shim::start(Shim::config(origin.addr));
    let client = Raw::connect(shim.addr);
    (origin, shim, client)
}

#[test]
fn body_when_compressed_then_decodes_to_origins_bytes() {
    let (_origin, _shim, mut client) = start();
    for size in [0, 1, 255, 256, 1000, (16 << 10) - 1, 16 << 10, (16 << 10) + 1, 100 << 10, 3 << 20] {
        for framing in ["length", "chunked", "close"] {
            for (encoding, wanted) in [("gzip", true), ("identity", false)] {
                let case = format!("{size} bytes, {framing}, {encoding}");
                let response =
                    Ask::html(size).framing(framing).fields(&[("Accept-Encoding", encoding)]).send(&mut client);
                assert!(decoded(&response) == text(size), "{case}: the bytes differ");
                let short = size < 256;
                assert_eq!(is_gzip(&response), wanted && !short, "{case}: {:?}", response.fields);
                assert!(varies(&response) || (short && framing == "length"), "{case}: {:?}", response.fields);
                match response.framing {
                    // A chunked response must be compressed. There is one exception: the request does not accept gzip,
                    // and the origin's response has no Content-Length.
                    Some(Framing::Chunked) => assert!(is_gzip(&response) || !wanted && framing != "length", "{case}"),
                    Some(Framing::Length(length)) => assert_eq!(length, response.body.len() as u64, "{case}"),
                    other => panic!("{case}: unexpected framing {other:?}"),
                }
                if is_gzip(&response) && size >= 1000 {
                    assert!(
                        response.body.len() < size * 3 / 4,
                        "{case}: {} bytes after compression",
                        response.body.len()
                    );
                }
            }
        }
    }
}

#[test]
fn response_when_accept_encoding_varies_then_compressed_only_if_gzip_is_accepted() {
    let (_origin, _shim, mut client) = start();
    for (lines, wanted) in [
        (&["gzip"][..], true),
        (&["GZip"], true),
        (&["x-gzip"], true),
        (&["*"], true),
        (&["gzip, deflate, br, zstd"], true),
        (&["br", "gzip;q=0.1"], true),
        (&["gzip;q=1.000"], true),
        (&["gzip;q=0.001"], true),
        (&["identity;q=0, gzip;q=0.5"], true),
        (&["identity;q=0.5, gzip;q=0.5"], true),
        (&[], false),
        (&[""], false),
        (&["identity"], false),
        (&["br, zstd"], false),
        (&["gzip;q=0"], false),
        (&["gzip;q=0.000, *"], false),
        (&["*;q=0"], false),
        (&["identity, gzip;q=0.5"], false),
        (&["identity;q=0"], false),
        (&["gzip;q=0.0000"], false),
        (&["gzip;q=2"], false),
        (&["gzipx"], false),
    ] {
        let fields: Vec<_> = lines.iter().map(|line| ("Accept-Encoding", *line)).collect();
        let response = Ask::html(1000).fields(&fields).send(&mut client);
        assert_eq!(is_gzip(&response), wanted, "{lines:?}");
        assert!(varies(&response), "{lines:?}: Accept-Encoding is not in Vary");
        assert!(decoded(&response) == text(1000), "{lines:?}");
        // A request with Via must get the same coding.
        let via: Vec<_> = fields.iter().copied().chain([("Via", "1.1 some-cdn")]).collect();
        assert_eq!(is_gzip(&Ask::html(1000).fields(&via).send(&mut client)), wanted, "{lines:?} with Via");
    }
}

#[test]
fn response_when_compression_is_not_allowed_then_body_is_unchanged() {
    let (_origin, _shim, mut client) = start();
    for (case, ask) in [
        ("an image", Ask::html(1000).say_only(&["Content-Type: image/png"])),
        ("a JPEG", Ask::html(1000).say_only(&["Content-Type: image/jpeg"])),
        ("a packed font", Ask::html(1000).say_only(&["Content-Type: font/woff2"])),
        ("no type", Ask::html(1000).say_only(&[])),
        ("already br", Ask::html(1000).say(&["Content-Encoding: br", "ETag: \"b\""])),
        ("already br, weak tag", Ask::html(1000).say(&["Content-Encoding: br", "ETag: W/\"b\""])),
        ("no-transform", Ask::html(1000).say(&["Cache-Control: max-age=60, No-Transform"])),
        (
            "no-transform in a separate line",
            Ask::html(1000).say(&["Cache-Control: public", "Cache-Control: no-transform"]),
        ),
        ("a part", Ask::html(1000).status(206).say(&["Content-Range: bytes 0-999/5000"])),
        ("Content-Range on a 200", Ask::html(1000).say(&["Content-Range: bytes 0-999/1000"])),
        ("201", Ask::html(1000).status(201)),
        ("301", Ask::html(1000).status(301)),
        ("403", Ask::html(1000).status(403)),
        ("255 bytes", Ask::html(255)),
        ("255 bytes in chunks", Ask::html(255).framing("chunked")),
    ] {
        let response = ask.say(&["X-Case: 1"]).send(&mut client);
        assert!(response.complete && response.body == text(response.body.len()), "{case}: the bytes differ");
        assert_eq!(
            response.framing,
            Some(Framing::Length(response.body.len() as u64)),
            "{case}: {:?}",
            response.fields
        );
        let coding = response.field("content-encoding");
        assert_eq!(coding, case.starts_with("already br").then_some("br"), "{case}");
        let tag = match case {
            "already br" => Some("\"b\""),
            "already br, weak tag" => Some("W/\"b\""),
            _ => None,
        };
        assert_eq!(response.field("etag"), tag, "{case}");
    }
    for status in [203, 404, 410] {
        let response = Ask::html(1000).status(status).send(&mut client);
        assert!(is_gzip(&response) && decoded(&response) == text(1000), "the {status} is not compressed");
    }
    for kind in ["application/json", "image/svg+xml", "text/css", "application/ld+json", "TEXT/PLAIN"] {
        let field = format!("Content-Type: {kind}");
        let response = Ask::html(1000).say_only(&[&field]).send(&mut client);
        assert!(is_gzip(&response) && decoded(&response) == text(1000), "{kind} is not compressed");
    }
}

#[test]
fn partial_response_when_type_is_compressible_then_is_plain_with_vary_of_the_200() {
    // A 206 must have the Vary that a 200 to the same request has (RFC 9110 §15.3.7).
    let (_origin, _shim, mut client) = start();
    for encoding in ["gzip", "identity"] {
        let fields = [("Accept-Encoding", encoding), ("Range", "bytes=0-999")];
        let part = Ask::html(1000).status(206).say(&["Content-Range: bytes 0-999/5000", "ETag: \"s\""]).fields(&fields);
        let response = part.send(&mut client);
        assert!(!is_gzip(&response) && response.body == text(1000), "{encoding}");
        assert_eq!(
            (response.field("etag"), response.field("content-range")),
            (Some("\"s\""), Some("bytes 0-999/5000"))
        );
        assert!(varies(&response), "{encoding}: {:?}", response.fields);
    }
}

#[test]
fn range_request_when_origin_ignores_the_range_then_200_is_plain() {
    let (origin, _shim, mut client) = start();
    let fields = [("Accept-Encoding", "gzip"), ("Range", "bytes=0-99")];
    let response = Ask::html(1000).say(&["Accept-Ranges: bytes"]).fields(&fields).send(&mut client);
    assert!(!is_gzip(&response) && varies(&response) && response.body == text(1000));
    assert_eq!(response.field("accept-ranges"), Some("bytes"));
    assert_eq!(origin.last().field("range"), Some("bytes=0-99"), "the origin must get the range");
}

#[test]
fn compressed_response_when_sent_then_has_no_field_that_describes_the_plain_bytes() {
    let (_origin, _shim, mut client) = start();
    let origin_fields = [
        "ETag: \"strong\"",
        "Accept-Ranges: bytes",
        "Content-MD5: Q2hlY2sgSW50ZWdyaXR5IQ==",
        "Digest: sha-256=4REjxQ4yrqUVicfSKYNO/cF9zNj5ANbzgDZt3/h3Qxo=",
        "Repr-Digest: sha-256=:4REjxQ4yrqUVicfSKYNO/cF9zNj5ANbzgDZt3/h3Qxo=:",
        "Content-Digest: sha-256=:4REjxQ4yrqUVicfSKYNO/cF9zNj5ANbzgDZt3/h3Qxo=:",
        "Last-Modified: Tue, 01 Jul 2025 00:00:00 GMT",
        "Vary: Origin",
        "Vary: accept-encoding, X-Own",
    ];
    let response = Ask::html(1000).say(&origin_fields).send(&mut client);
    assert!(is_gzip(&response) && varies(&response));
    for gone in ["accept-ranges", "content-md5", "digest", "repr-digest", "content-digest"] {
        assert!(response.field(gone).is_none(), "{gone}: {:?}", response.fields);
    }
    assert_eq!(response.fields_named("etag"), ["W/\"strong\""]);
    assert_eq!(response.field("last-modified"), Some("Tue, 01 Jul 2025 00:00:00 GMT"));
    let vary = response.field("vary").unwrap_or_default().to_ascii_lowercase();
    assert!(vary.contains("origin") && vary.contains("x-own"), "{vary}");

    let plain = Ask::html(1000).say(&origin_fields).fields(&[]).send(&mut client);
    assert!(!is_gzip(&plain) && varies(&plain));
    assert_eq!((plain.field("etag"), plain.field("accept-ranges")), (Some("\"strong\""), Some("bytes")));
    assert!(plain.field("content-md5").is_some() && plain.field("repr-digest").is_some());
    let weak = Ask::html(1000).say(&["ETag: W/\"w\""]).send(&mut client);
    assert_eq!(weak.fields_named("etag"), ["W/\"w\""]);
    let star = Ask::html(1000).say(&["Vary: *"]).send(&mut client);
    assert_eq!(star.fields_named("vary"), ["*"], "Vary: * must have no other member");
}

#[test]
fn response_to_head_when_compared_with_get_then_has_the_same_fields() {
    let (_origin, _shim, mut client) = start();
    // Date can differ. The fields for framing can differ too (RFC 9110 §9.3.2), because the length of a compressed body
    // is known only after compression.
    let comparable = |response: &Response| {
        let mut fields: Vec<_> =
            response.fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
        fields.retain(|(name, _)| name != "date" && name != "transfer-encoding");
        if is_gzip(response) {
            fields.retain(|(name, _)| name != "content-length");
        }
        fields.sort();
        fields
    };
    for encoding in ["gzip", "identity", "br", ""] {
        for (size, framing) in [(0, "length"), (255, "length"), (256, "length"), (5000, "length"), (5000, "chunked")] {
            for say in [&[HTML, "ETag: \"a\"", "Accept-Ranges: bytes"][..], &["Content-Type: image/png", "ETag: \"a\""]]
            {
                let fields = [("Accept-Encoding", encoding)];
                let get = Ask::html(size).framing(framing).say_only(say).fields(&fields).send(&mut client);
                let head =
                    Ask::html(size).method("HEAD").framing(framing).say_only(say).fields(&fields).send(&mut client);
                assert!(head.body.is_empty() && head.complete);
                assert_eq!(comparable(&head), comparable(&get), "{encoding:?}, {size} bytes, {framing}, {say:?}");
            }
        }
    }
}

#[test]
fn entity_tag_when_returned_by_the_client_then_restored_for_the_origin() {
    // The shim changes `W/"a"` to `"a"` for the origin, because If-Match compares strongly (RFC 9110 §13.1.1) and
    // because some origins compare tags as text.
    let (origin, _shim, mut client) = start();
    let seen = |client: &mut Raw, name: &str, sent: &str| {
        let fields = [("Accept-Encoding", "gzip"), (name, sent)];
        Ask::html(1000).status(304).say_only(&[HTML]).fields(&fields).send(client);
        origin.last().fields_named(name).join(", ")
    };
    // After the start, the shim does not know yet whether the origin's tag is weak. If-None-Match stays unchanged,
    // because If-None-Match compares weakly. A weak tag in If-Match could never match, so the shim makes the tag
    // strong.
    assert_eq!(seen(&mut client, "If-None-Match", "W/\"a\""), "W/\"a\"");
    assert_eq!(seen(&mut client, "If-Match", "W/\"a\""), "\"a\"");
    let first = Ask::html(1000).say(&["ETag: \"a\""]).fields(&[("Accept-Encoding", "gzip")]).send(&mut client);
    assert_eq!(first.field("etag"), Some("W/\"a\""));
    for (sent, wanted) in [
        ("W/\"a\"", "\"a\""),
        ("\"a\"", "\"a\""),
        ("*", "*"),
        ("W/\"a\", W/\"b\"", "\"a\", W/\"b\""),
        ("\"b\", W/\"a\"", "\"b\", \"a\""),
    ] {
        assert_eq!(seen(&mut client, "If-None-Match", sent), wanted, "{sent}");
    }
    assert_eq!(seen(&mut client, "If-Match", "W/\"a\""), "\"a\"");
}

#[test]
fn not_modified_response_when_sent_then_has_vary_and_tag_of_the_200() {
    let (_origin, _shim, mut client) = start();
    let revalidated = |client: &mut Raw, encoding, tag, say: &[&str]| {
        let fields = [("Accept-Encoding", encoding), ("If-None-Match", tag)];
        let response = Ask::html(1000).status(304).say_only(say).fields(&fields).send(client);
        assert!(!is_gzip(&response) && response.body.is_empty());
        (varies(&response), response.field("etag").unwrap_or_default().to_owned())
    };
    let tag = "ETag: \"a\"";
    assert_eq!(revalidated(&mut client, "gzip", "W/\"a\"", &[tag, HTML]), (true, "W/\"a\"".to_owned()));
    assert_eq!(
        revalidated(&mut client, "gzip", "W/\"a\"", &[tag]),
        (true, "W/\"a\"".to_owned()),
        "a 304 without a type"
    );
    assert_eq!(revalidated(&mut client, "identity", "\"a\"", &[tag, HTML]), (true, "\"a\"".to_owned()));
    let image = "Content-Type: image/png";
    assert_eq!(revalidated(&mut client, "gzip", "\"i\"", &["ETag: \"i\"", image]), (false, "\"i\"".to_owned()));
}

#[test]
fn response_when_gzip_settings_vary_then_compressed_only_if_settings_allow() {
    let origin = Origin::start(respond_as_requested);
    let class = "[[class]]\nname = \"all\"\npath = [\"/*\"]\ngzip = false";
    for (piece, size, wanted) in [
        ("[gzip]\nenabled = false", 1000, false),
        (class, 1000, false),
        ("[gzip]\nmin_bytes = 1001", 1000, false),
        ("[gzip]\nmin_bytes = 1000\nlevel = 9", 1000, true),
        ("[gzip]\ntypes = [\"application/json\"]", 1000, false),
    ] {
        let shim = Shim::start(Shim::config(origin.addr).with(piece));
        let response = Ask::html(size).send(&mut Raw::connect(shim.addr));
        assert_eq!((is_gzip(&response), varies(&response)), (wanted, wanted), "{piece}");
        assert!(decoded(&response) == text(size), "{piece}");
    }
}

// ---- streams --------------------------------------------------------------------------------------------------------

/// Removes chunked framing from received bytes and inflates them.
struct Inflating {
    framed: Vec<u8>,
    packed: Vec<u8>,
    inflate: Decompress,
    header: bool,
    content: Vec<u8>,
}

impl Inflating {
    fn new() -> Self {
        let inflate = Decompress::new(false);
        Self { framed: Vec::new(), packed: Vec::new(), inflate, header: false, content: Vec::new() }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.framed.extend_from_slice(bytes);
        while let Some(end) = self.framed.windows(2).position(|pair| pair == b"\r\n") {
            let digits = std::str::from_utf8(&self.framed[..end]).expect("a chunk's size");
            let size = usize::from_str_radix(digits, 16).expect("a chunk's size");
            if self.framed.len() < end + 4 + size {
                break;
            }
            self.packed.extend_from_slice(&self.framed[end + 2..end + 2 + size]);
            self.framed.drain(..end + 4 + size);
        }
        if !self.header && self.packed.len() >= 10 {
            // RFC 1952 §2.3: without flags the header has ten bytes.
            assert_eq!(self.packed[..4], [0x1f, 0x8b, 8, 0]);
            self.packed.drain(..10);
            self.header = true;
        }
        if self.header {
            loop {
                self.content.reserve(64 * 1024);
                let before = (self.inflate.total_in(), self.content.len());
                self.inflate
                    .decompress_vec(&self.packed, &mut self.content, FlushDecompress::None)
                    .expect("a valid deflate stream");
                let used = usize::try_from(self.inflate.total_in() - before.0).expect("a count");
                self.packed.drain(..used);
                if used == 0 && self.content.len() == before.1 {
                    break;
                }
            }
        }
    }
}

/// The lengths of the fillers in pieces that fit into one read.
const SMALL: [usize; 6] = [0, 300, 600, 900, 1200, 1500];

/// Sends a response with this type, in pieces. Returns, for each piece, the time until the client has received and
/// inflated the complete piece.
fn delays(content_type: &str, more: &str, pieces: impl IntoIterator<Item = usize>) -> Vec<Duration> {
    let (go, wait) = mpsc::channel::<String>();
    let wait = std::sync::Mutex::new(wait);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{more}Transfer-Encoding: chunked\r\n\r\n");
    let origin = Origin::start(move |_, conn| {
        let mut alive = conn.write_all(head.as_bytes()).is_ok();
        let wait = wait.lock().expect("a lock without an earlier panic");
        while let (true, Ok(piece)) = (alive, wait.recv()) {
            alive = conn.write_all(&origin::chunk(piece.as_bytes())).is_ok();
        }
        After::Close
    });
    let shim = Shim::start(Shim::config(origin.addr));
    let mut client = Raw::connect(shim.addr);
    client.send(raw::request("GET", "/", &[("Accept-Encoding", "gzip")], b""));
    let response = client.response_head().expect("a head before any piece of the body");
    assert!(is_gzip(&response), "{:?}", response.fields);
    let mut reading = Inflating::new();
    let mut sent = String::new();
    let mut measured = Vec::new();
    for (number, filler) in pieces.into_iter().enumerate() {
        let piece = format!("data: {{\"event\": {number}, \"filler\": \"{}\"}}\n\n", "x".repeat(filler));
        sent.push_str(&piece);
        let from = Instant::now();
        go.send(piece).expect("an origin that waits for a piece");
        while reading.content != sent.as_bytes() {
            assert!(sent.as_bytes().starts_with(&reading.content), "the bytes differ");
            let bytes = client.more().unwrap_or_else(|error| panic!("piece {number} does not arrive: {error}"));
            assert!(!bytes.is_empty(), "the stream ended inside piece {number}");
            reading.take(&bytes);
        }
        measured.push(from.elapsed());
    }
    measured
}

/// Returns the median, because on a busy machine single pieces can be late.
fn median(mut delays: Vec<Duration>) -> Duration {
    delays.sort();
    delays[delays.len() / 2]
}

#[test]
fn event_stream_when_events_are_sent_then_median_delay_is_at_most_200_ms() {
    for more in ["", "Cache-Control: no-cache\r\n"] {
        let delays = delays("text/event-stream", more, SMALL);
        assert!(median(delays.clone()) <= Duration::from_millis(200), "{delays:?}");
    }
}

#[test]
fn event_stream_when_a_turn_ends_inside_an_event_then_complete_event_is_received() {
    // The shim compresses 128 KiB in one turn. Two events are longer than 128 KiB, so a turn ends inside the second
    // event. Each event fits into one read of 66 KiB.
    delays("text/event-stream", "", [66_400; 40]);
}

#[test]
fn page_when_sent_slowly_then_median_delay_of_a_piece_is_at_most_400_ms() {
    let delays = delays("text/html", "", SMALL);
    assert!(median(delays.clone()) <= Duration::from_millis(400), "{delays:?}");
}

/// Starts an origin that writes the pieces of a chunked page and waits for the time `pace` after each piece. Also
/// returns the number of written pieces.
fn paced(pace: Duration, pieces: Vec<Vec<u8>>) -> (Origin, Arc<AtomicUsize>) {
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let origin = Origin::start(move |_, conn| {
        let head = format!("HTTP/1.1 200 OK\r\n{HTML}\r\nTransfer-Encoding: chunked\r\n\r\n");
        let mut alive = conn.write_all(head.as_bytes()).is_ok();
        for piece in &pieces {
            alive = alive && conn.write_all(&origin::chunk(piece)).is_ok();
            counter.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(pace);
        }
        if alive && conn.write_all(b"0\r\n\r\n").is_ok() { After::Keep } else { After::Close }
    });
    (origin, written)
}

#[test]
fn page_when_sent_in_pieces_then_not_flushed_after_each_piece() {
    let body = text(300_000);
    let (origin, _) = paced(Duration::from_millis(2), body.chunks(3000).map(<[u8]>::to_vec).collect());
    let shim = Shim::start(Shim::config(origin.addr));
    let response = raw::fetch(shim.addr, "/", &[("Accept-Encoding", "gzip"), ("Connection", "close")]);
    assert!(is_gzip(&response) && decoded(&response) == body);
    // A flush writes an empty stored block, which ends with the bytes 00 00 FF FF.
    let flushes = response.body.windows(4).filter(|window| *window == [0, 0, 0xff, 0xff]).count();
    assert!(flushes < 50, "{flushes} flushes for 100 pieces");
}

#[test]
fn events_when_sent_without_a_long_pause_then_first_event_is_not_delayed() {
    // The media type does not show that the response is a stream, and the origin sends an event every 30 ms. The shim
    // must not wait for a longer pause before it sends the head and the first event.
    for first in ["", "<p>"] {
        let begin = vec![first.repeat(100).into_bytes()].into_iter().filter(|piece| !piece.is_empty());
        let events = (0..100).map(|number| format!("{number}\n").into_bytes());
        let (origin, written) = paced(Duration::from_millis(30), begin.chain(events).collect());
        let shim = Shim::start(Shim::config(origin.addr));
        let mut client = Raw::connect(shim.addr);
        client.send(raw::request("GET", "/", &[("Accept-Encoding", "gzip")], b""));
        assert!(is_gzip(&client.response_head().expect("a head")));
        let mut reading = Inflating::new();
        while !reading.content.ends_with(b"\n") {
            reading.take(&client.more().expect("an event"));
        }
        let sent = written.load(Ordering::Relaxed);
        assert!(sent < 30, "{first}: the first event was received after {sent} pieces were written");
    }
}

#[test]
fn trailers_when_body_is_compressed_then_forwarded() {
    let body = text(5000);
    let fields = [("Content-Type", "text/html"), ("Trailer", "X-Sum")];
    let origin = Origin::start(origin::chunked(&fields, &[&body[..2000], &body[2000..]], &[("X-Sum", "9")]));
    let shim = Shim::start(Shim::config(origin.addr));
    let request_fields = [("Accept-Encoding", "gzip"), ("TE", "trailers"), ("Connection", "TE, close")];
    let response = raw::fetch(shim.addr, "/", &request_fields);
    assert!(is_gzip(&response) && decoded(&response) == body && response.problems.is_empty());
    let trailers: Vec<_> =
        response.trailers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.as_str())).collect();
    assert_eq!(trailers, [("x-sum".to_owned(), "9")]);
}

#[test]
fn response_when_origin_truncates_the_body_then_is_incomplete_or_a_page() {
    let origin = Origin::start(|request, conn| {
        let body = text(300_000);
        let length = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 300000\r\n\r\n";
        let chunked = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n";
        let sent = match request.target.as_str() {
            "/length/0" => (length, vec![]),
            "/length/1" => (length, body[..1].to_vec()),
            "/length/most" => (length, body[..299_999].to_vec()),
            "/chunked/0" => (chunked, vec![]),
            "/chunked/within" => (chunked, [b"493e0\r\n", &body[..1000]].concat()),
            _ => (chunked, [b"3e8\r\n", &body[..1000], b"\r\n"].concat()),
        };
        let _ = conn.write_all(sent.0.as_bytes()).and_then(|()| conn.write_all(&sent.1));
        if request.target.ends_with("most") { After::Reset } else { After::Close }
    });
    let shim = Shim::start(Shim::config(origin.addr));
    for target in ["/length/0", "/length/1", "/length/most", "/chunked/0", "/chunked/within", "/chunked/between"] {
        for encoding in ["gzip", "identity"] {
            let mut client = Raw::connect(shim.addr);
            client.send(raw::request("GET", target, &[("Accept-Encoding", encoding)], b""));
            // Until the shim has sent a part of the response, the shim can send the error page instead.
            let Ok(response) = client.response() else { continue };
            if response.status == 502 {
                continue;
            }
            assert!(
                !response.complete,
                "{target}, {encoding}: the origin's body is truncated, but the response is complete: {:?}",
                response.fields
            );
            assert_eq!(is_gzip(&response), encoding == "gzip", "{target}");
            let mut content = Vec::new();
            if encoding == "gzip" {
                let ended = GzDecoder::new(&response.body[..]).read_to_end(&mut content);
                assert!(ended.is_err(), "{target}: the gzip member is complete");
            } else {
                content.clone_from(&response.body);
            }
            assert!(text(300_000).starts_with(&content), "{target}, {encoding}: the bytes differ");
        }
    }
}

#[test]
fn large_bodies_when_compressed_at_the_same_time_then_do_not_mix() {
    let origin = Origin::start(respond_as_requested);
    // The shim has one worker, so that both compressors share one thread.
    let shim = Shim::start(Shim::config(origin.addr).with("[server]\nworkers = 1"));
    let sizes = [3 << 20, (3 << 20) - 12_345];
    let mut clients: Vec<_> = sizes
        .iter()
        .map(|size| {
            let mut client = Raw::connect(shim.addr);
            let size = size.to_string();
            let fields = [("X-Size", &*size), ("X-Framing", "chunked"), ("X-Say", HTML), ("Accept-Encoding", "gzip")];
            client.send(raw::request("GET", "/", &fields, b""));
            let head = client.response_head().expect("a head");
            assert!(is_gzip(&head), "{:?}", head.fields);
            (client, Inflating::new())
        })
        .collect();
    let mut open = [true; 2];
    while open.contains(&true) {
        for (at, (client, reading)) in clients.iter_mut().enumerate().filter(|(at, _)| open[*at]).collect::<Vec<_>>() {
            let bytes = client.more().expect("bytes");
            open[at] = !bytes.is_empty();
            reading.take(&bytes);
            // The test stops at the end of the content. Another test checks the end of the gzip stream.
            if reading.content.len() == sizes[at] {
                open[at] = false;
            }
        }
    }
    for (at, (_, reading)) in clients.iter().enumerate() {
        assert!(reading.content == text(sizes[at]), "body {at} differs from the origin's body");
    }
}

#[test]
fn tag_of_a_304_when_responses_share_the_tag_then_equals_the_tag_of_the_200() {
    let origin = Origin::start(|request, conn| {
        let is_conditional = request.field("if-none-match").is_some();
        let body =
            if request.field("host") == Some("short.test") { "short".to_owned() } else { "long text ".repeat(200) };
        let takes_br = request.field("accept-encoding").is_some_and(|codings| codings.contains("br"));
        let mut fields = vec![("ETag", "\"x\"")];
        if is_conditional {
            return origin::respond(request, conn, 304, &fields, b"");
        }
        fields.push(("Content-Type", if request.target == "/styled" { "text/css" } else { "text/html" }));
        if request.target == "/br" && takes_br {
            fields.push(("Content-Encoding", "br"));
        }
        origin::respond(request, conn, 200, &fields, body.as_bytes())
    });
    let class = "[[class]]\nname = \"styles\"\ncontent_type = [\"text/css\"]\ngzip = false";
    let shim = Shim::start(Shim::config(origin.addr).with(class));
    let get = |host: &str, target: &str, coding: &str, named: Option<&str>| {
        let mut fields = vec![("Host", host), ("Accept-Encoding", coding)];
        fields.extend(named.map(|tag| ("If-None-Match", tag)));
        let response = raw::fetch(shim.addr, target, &fields);
        (response.status, response.field("etag").unwrap_or_default().to_owned(), response.field("vary").is_some())
    };
    let weak = |status| (status, "W/\"x\"".to_owned(), true);
    // Two hosts use the same tag.
    assert_eq!(get("long.test", "/", "gzip", None), weak(200));
    assert_eq!(get("short.test", "/", "gzip", None), (200, "\"x\"".to_owned(), false));
    assert_eq!(get("long.test", "/", "gzip", Some("W/\"x\"")), weak(304));
    assert_eq!(get("short.test", "/", "gzip", Some("\"x\"")), (304, "\"x\"".to_owned(), false));
    // The origin's brotli body has the same tag as its plain body, from which the shim makes gzip.
    assert_eq!(get("long.test", "/br", "gzip", None), weak(200));
    assert_eq!(get("long.test", "/br", "br, gzip", None), (200, "\"x\"".to_owned(), true));
    assert_eq!(get("long.test", "/br", "gzip", Some("W/\"x\"")), weak(304));
    assert_eq!(get("long.test", "/br", "br, gzip", Some("\"x\"")), (304, "\"x\"".to_owned(), true));
    assert_eq!(get("long.test", "/br", "br, gzip", Some("W/\"x\"")), weak(304));
    // The class of this response depends on its type, and the 304 has no type.
    assert_eq!(get("long.test", "/styled", "gzip", None), (200, "\"x\"".to_owned(), false));
    assert_eq!(get("long.test", "/styled", "gzip", Some("\"x\"")), (304, "\"x\"".to_owned(), false));
}
