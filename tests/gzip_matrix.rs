//! Tests of gzip with many combinations of properties: type, size, framing, status, method, Accept-Encoding, the
//! origin's coding, tag, Cache-Control, Vary, Range, If-Range and If-None-Match. An oracle, [`Expected::of`], computes
//! the response that a CDN must get. The oracle uses no code of the shim.
//!
//! The origin has a [`Resource`] at each target. The origin obeys Range and If-Range, sends no body in response to
//! HEAD, and sends a 304 if a condition matches. The origin compares tags as text. So if the shim forwards a tag to the
//! origin in a wrong form, the tag does not match.
//!
//! If `EDGESHIM_ANSWERS` names a file, each exchange is appended to this file as a line of JSON, for
//! `tests/real/httplint`.

mod support;

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use support::http1::{Fields, find, find_all, lossy};
use support::{After, Conn, Origin, Raw, Request, Response, Shim, origin, raw};

/// The smallest allowed number of responses in the test with `gzip.inflate = false`. If a change removes many
/// combinations by accident, the test fails.
const AT_LEAST: usize = 2_000;
/// The default of `gzip.min_bytes`.
const MIN_BYTES: usize = 256;
/// The Last-Modified date of every resource.
const LAST_MODIFIED: &str = "Tue, 01 Jul 2025 00:00:00 GMT";
/// A date before [`LAST_MODIFIED`].
const LONG_AGO: &str = "Sun, 01 Jun 2025 00:00:00 GMT";
/// Fields with digests of the bytes that the origin sends.
const DIGESTS: [(&str, &str); 4] = [
    ("Content-MD5", "Q2hlY2sgSW50ZWdyaXR5IQ=="),
    ("Digest", "sha-256=4REjxQ4yrqUVicfSKYNO/cF9zNj5ANbzgDZt3/h3Qxo="),
    ("Content-Digest", "sha-256=:4REjxQ4yrqUVicfSKYNO/cF9zNj5ANbzgDZt3/h3Qxo=:"),
    ("Repr-Digest", "sha-256=:4REjxQ4yrqUVicfSKYNO/cF9zNj5ANbzgDZt3/h3Qxo=:"),
];

// ---- resources of the origin ----------------------------------------------------------------------------------------

#[derive(Debug)]
struct Kind {
    content_type: Option<&'static str>,
    file: &'static str,
    shrinks: bool,
    /// Whether the shim must treat a 304 without Content-Type like a 304 for a compressible body. The value is true,
    /// except if the file extension belongs to a type that is not compressible.
    may_shrink: bool,
}

const fn kind(content_type: Option<&'static str>, file: &'static str, shrinks: bool, may_shrink: bool) -> Kind {
    Kind { content_type, file, shrinks, may_shrink }
}

static HTML: Kind = kind(Some("text/html; charset=utf-8"), "page.html", true, true);
static JSON: Kind = kind(Some("application/json"), "data.json", true, true);
static SVG: Kind = kind(Some("IMAGE/SVG+XML"), "drawing.svg", true, true);
static PNG: Kind = kind(Some("image/png"), "photo.png", false, false);
static UNTYPED: Kind = kind(None, "thing", false, true);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framed {
    Length,
    Chunked,
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Absent,
    Strong,
    Weak,
}

#[derive(Debug, Clone, Copy)]
struct Resource {
    kind: &'static Kind,
    size: usize,
    status: u16,
    framed: Framed,
    /// The value of Content-Encoding. "" means that the field is absent.
    coding: &'static str,
    tag: Tag,
    /// The value of Cache-Control. "" means that the field is absent.
    cache: &'static str,
    /// The lines of Vary.
    vary: &'static [&'static str],
    /// Whether the response has the fields of [`DIGESTS`].
    digests: bool,
    /// Whether the trailers contain digests too. Only a chunked body has trailers.
    trailers: bool,
    /// Whether a 304 has Content-Type. RFC 9110 §15.4.5 allows a 304 with or without this field.
    typed_304: bool,
    /// A number that changes the bytes but not the size.
    edition: usize,
}

const PAGE: Resource = Resource {
    kind: &HTML,
    size: 5000,
    status: 200,
    framed: Framed::Length,
    coding: "",
    tag: Tag::Strong,
    cache: "",
    vary: &[],
    digests: false,
    trailers: false,
    typed_304: false,
    edition: 0,
};

impl Resource {
    /// Returns the bytes before any coding. The bytes are text that compresses about as well as HTML. Each resource has
    /// different bytes.
    fn plain(&self, number: usize) -> &'static [u8] {
        static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
        let text = TEXT.get_or_init(|| {
            let mut random = fastrand::Rng::with_seed(11);
            let mut text = String::new();
            while text.len() < 64 << 10 {
                let _ = writeln!(text, "<p class=\"row-{}\">{:x}</p>", text.len(), random.u32(..));
            }
            text.into_bytes()
        });
        let from = (number * 7 + self.edition) % (32 << 10);
        &text[from..from + self.size]
    }

    /// Returns the bytes that the origin sends, in the coding of the resource.
    fn coded(&self, number: usize) -> Vec<u8> {
        let plain = self.plain(number);
        match self.coding {
            "gzip" | "x-gzip" => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(plain).and_then(|()| encoder.finish()).expect("a write to memory")
            }
            "br" => {
                // A minimal brotli stream (RFC 7932 §9.2): one uncompressed meta-block, whose length has four nibbles,
                // then an empty last meta-block.
                let length = u32::try_from(plain.len() - 1).expect("at most 64 KiB");
                let head = ((length << 4) | (1 << 20)).to_le_bytes();
                [&head[..3], plain, b"\x03"].concat()
            }
            _ => plain.to_vec(),
        }
    }

    /// Returns the opaque part of the tag, without `W/`.
    fn opaque(number: usize) -> String {
        format!("\"r{number}\"")
    }

    fn etag(&self, number: usize) -> Option<String> {
        match self.tag {
            Tag::Absent => None,
            Tag::Strong => Some(Self::opaque(number)),
            Tag::Weak => Some(format!("W/{}", Self::opaque(number))),
        }
    }

    fn target(&self, number: usize) -> String {
        format!("/{number}/{}", self.kind.file)
    }

    fn forbids_transformation(&self) -> bool {
        self.cache.contains("no-transform")
    }

    /// Returns whether the body has no declared length and is shorter than the minimum for compression.
    fn ends_early(&self) -> bool {
        self.framed != Framed::Length && self.size < MIN_BYTES
    }
}

type Resources = Arc<Mutex<Vec<Resource>>>;

/// Responds as RFC 9110 requires, but compares tags as text.
fn respond_as_requested(resources: &Resources, request: &Request, conn: &mut Conn) -> After {
    let number = request.target.split('/').nth(1).and_then(|number| number.parse().ok()).unwrap_or(usize::MAX);
    let Some(resource) = resources.lock().unwrap_or_else(PoisonError::into_inner).get(number).copied() else {
        return After::Close;
    };
    let (etag, body) = (resource.etag(number), resource.coded(number));
    let fetches = matches!(&*request.method, "GET" | "HEAD") && resource.status == 200;
    let mut status = resource.status;
    let mut part = 0..body.len();
    let mut fields: Vec<(&str, &str)> = Vec::new();
    let content_range;
    let known = request.fields_named("if-none-match");
    let since = request.field("if-modified-since").filter(|_| known.is_empty());
    if fetches && (known.iter().any(|line| names(line, etag.as_deref())) || since == Some(LAST_MODIFIED)) {
        status = 304;
    } else if let Some(range) = request.field("range").filter(|_| fetches && request.method == "GET") {
        let holds = |validator| etag.as_deref() == Some(validator) && validator.starts_with('"');
        let unchanged =
            request.field("if-range").is_none_or(|validator| holds(validator) || validator == LAST_MODIFIED);
        match unchanged.then(|| bytes(range, body.len())).flatten() {
            None => {}
            Some(requested) if requested.is_empty() => {
                status = 416;
                part = 0..0;
                content_range = format!("bytes */{}", body.len());
                fields.push(("Content-Range", &content_range));
            }
            Some(requested) => {
                status = 206;
                part = requested;
                content_range = format!("bytes {}-{}/{}", part.start, part.end - 1, body.len());
                fields.push(("Content-Range", &content_range));
            }
        }
    }
    fields.extend(resource.vary.iter().map(|line| ("Vary", *line)));
    fields.extend(etag.as_deref().map(|etag| ("ETag", etag)));
    if !resource.cache.is_empty() {
        fields.push(("Cache-Control", resource.cache));
    }
    if status != 304 || resource.typed_304 {
        fields.extend(resource.kind.content_type.map(|content_type| ("Content-Type", content_type)));
    }
    if status != 304 {
        fields.push(("Last-Modified", LAST_MODIFIED));
        if resource.trailers {
            fields.push(("Trailer", "Content-MD5, Digest, Content-Digest, Repr-Digest, X-Sum"));
        }
        if !resource.coding.is_empty() {
            fields.push(("Content-Encoding", resource.coding));
        }
        if matches!(status, 201 | 301) {
            fields.push(("Location", "/elsewhere"));
        }
        if resource.digests && status != 206 {
            fields.push(("Accept-Ranges", "bytes"));
            fields.extend(DIGESTS);
        }
    }
    write(&resource, status, &fields, &body[part], request.method == "HEAD", conn)
}

/// Returns whether a line of If-None-Match is `*` or contains the tag. Tags are compared as text.
fn names(line: &str, etag: Option<&str>) -> bool {
    line == "*" || line.split(',').any(|named| Some(named.trim()) == etag)
}

/// Returns the requested range of bytes. The range is empty if it begins beyond the end. The result is `None` if the
/// origin must ignore the field.
fn bytes(range: &str, length: usize) -> Option<std::ops::Range<usize>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    match (first.parse::<usize>(), last.parse::<usize>()) {
        (Err(_), Ok(suffix)) if first.is_empty() => Some(length.saturating_sub(suffix)..length),
        (Ok(first), Ok(last)) => Some(first.min(length)..(last + 1).min(length)),
        (Ok(first), Err(_)) if last.is_empty() => Some(first.min(length)..length),
        _ => None,
    }
}

fn write(
    resource: &Resource,
    status: u16,
    fields: &[(&str, &str)],
    body: &[u8],
    to_head: bool,
    conn: &mut Conn,
) -> After {
    let mut message = format!("HTTP/1.1 {status} \r\n");
    for (name, value) in fields {
        let _ = write!(message, "{name}: {value}\r\n");
    }
    let framed = if matches!(status, 206 | 416) { Framed::Length } else { resource.framed };
    match framed {
        _ if status == 304 => {}
        Framed::Length => {
            let _ = write!(message, "Content-Length: {}\r\n", body.len());
        }
        Framed::Chunked => message.push_str("Transfer-Encoding: chunked\r\n"),
        Framed::Close => message.push_str("Connection: close\r\n"),
    }
    message.push_str("\r\n");
    let mut message = message.into_bytes();
    if !to_head && status != 304 {
        if framed == Framed::Chunked {
            message.extend(body.chunks(2000).flat_map(origin::chunk));
            message.extend_from_slice(b"0\r\n");
            if resource.trailers {
                for (name, value) in DIGESTS.into_iter().chain([("X-Sum", "9")]) {
                    message.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
                }
            }
            message.extend_from_slice(b"\r\n");
        } else {
            message.extend_from_slice(body);
        }
    }
    // If the end of the connection arrived later than the body, the shim would treat the body as a stream. So the
    // kernel sends the end with the last bytes of the body, also if this thread must wait before the shutdown.
    let is_ended_by_close = framed == Framed::Close && status != 304;
    if is_ended_by_close {
        conn.send_end_with_last_bytes();
    }
    if conn.write_all(&message).is_err() {
        return After::Close;
    }
    if is_ended_by_close {
        conn.shutdown(Shutdown::Write);
        return After::Close;
    }
    After::Keep
}

// ---- requests -------------------------------------------------------------------------------------------------------

/// A Range field, and the part that the field selects by RFC 9110 §14.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ranged {
    Absent,
    /// The field, the position of the first byte of the part, and the length of the part.
    Part(&'static str, usize, usize),
    /// The field, and the length of the part at the end of the body.
    Tail(&'static str, usize),
    /// A field whose part begins after the end of the body.
    Beyond,
    /// A field that the origin must ignore.
    Ignored(&'static str),
}

impl Ranged {
    fn text(self) -> Option<&'static str> {
        match self {
            Self::Absent => None,
            Self::Part(text, ..) | Self::Tail(text, _) | Self::Ignored(text) => Some(text),
            Self::Beyond => Some("bytes=900000-"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfRange {
    Absent,
    Strong,
    Weak,
    OtherTag,
    Date,
    OldDate,
}

/// The tags in If-None-Match, or another condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Absent,
    Strong,
    Weak,
    Both,
    Other,
    OtherAndWeak,
    Any,
    /// If-Modified-Since with [`LAST_MODIFIED`], without If-None-Match.
    Since,
}

#[derive(Debug, Clone, Copy)]
struct Ask {
    method: &'static str,
    /// The value of Accept-Encoding, and whether the client can get gzip: the value prefers gzip to identity, or
    /// accepts both equally.
    accept: (Option<&'static str>, bool),
    range: Ranged,
    if_range: IfRange,
    named: Named,
}

const GZIP: (Option<&str>, bool) = (Some("gzip"), true);
const IDENTITY: (Option<&str>, bool) = (Some("identity"), false);
const GET: Ask =
    Ask { method: "GET", accept: GZIP, range: Ranged::Absent, if_range: IfRange::Absent, named: Named::Absent };

impl Ask {
    fn fields(&self, number: usize) -> Vec<(&'static str, String)> {
        let (strong, weak) = (Resource::opaque(number), format!("W/{}", Resource::opaque(number)));
        let mut fields = vec![("User-Agent", "matrix".to_owned()), ("Connection", "keep-alive, TE".to_owned())];
        fields.push(("TE", "trailers".to_owned()));
        fields.extend(self.accept.0.map(|accept| ("Accept-Encoding", accept.to_owned())));
        fields.extend(self.range.text().map(|range| ("Range", range.to_owned())));
        let if_range = match self.if_range {
            IfRange::Absent => None,
            IfRange::Strong => Some(strong.clone()),
            IfRange::Weak => Some(weak.clone()),
            IfRange::OtherTag => Some("\"other\"".to_owned()),
            IfRange::Date => Some(LAST_MODIFIED.to_owned()),
            IfRange::OldDate => Some(LONG_AGO.to_owned()),
        };
        fields.extend(if_range.map(|validator| ("If-Range", validator)));
        let named = match self.named {
            Named::Absent | Named::Since => None,
            Named::Strong => Some(strong),
            Named::Weak => Some(weak),
            Named::Both => Some(format!("{strong}, {weak}")),
            Named::Other => Some("\"other\"".to_owned()),
            Named::OtherAndWeak => Some(format!("\"other\", W/\"another\", {weak}")),
            Named::Any => Some("*".to_owned()),
        };
        fields.extend(named.map(|tags| ("If-None-Match", tags)));
        if self.named == Named::Since {
            fields.push(("If-Modified-Since", LAST_MODIFIED.to_owned()));
        }
        fields
    }
}

// ---- the oracle -----------------------------------------------------------------------------------------------------

/// How the shim changes the origin's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    AsTheyCame,
    Compressed,
    Inflated,
}

/// The response that a CDN must get.
#[derive(Debug)]
struct Expected {
    status: u16,
    made: Made,
    /// Whether the shim adds Accept-Encoding to Vary.
    varies: bool,
    /// The allowed tags.
    tags: Vec<Option<String>>,
    /// The Content-Length of the response. `None` for a 304, for a compressed body, and for a body whose length the
    /// shim knows only at the end of the body.
    length: Option<usize>,
    /// The bytes of the body. If the shim compresses the body, these are the bytes before the compression.
    content: Content,
}

/// The bytes of a body, with a short `Debug` form.
struct Content(Vec<u8>);

impl fmt::Debug for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.0.len())
    }
}

impl Expected {
    /// Computes the expected response. `inflate` is the value of `gzip.inflate`.
    fn of(resource: &Resource, number: usize, ask: &Ask, inflate: bool) -> Self {
        let body = resource.coded(number);
        let own = resource.etag(number);
        let weak = own.as_ref().map(|_| format!("W/{}", Resource::opaque(number)));
        let free = !resource.forbids_transformation();
        let packed = matches!(resource.coding, "gzip" | "x-gzip");
        let made = Made::AsTheyCame;
        if resource.status == 200 && ask.method != "POST" && ask.hits(resource) {
            // For a strong tag, the shim has stored how it treated the 200. For other tags, the type in the 304 decides
            // whether the body is compressible. If the 304 has no type, the file extension decides.
            let shrinks = if resource.typed_304 && resource.kind.content_type.is_some() {
                resource.kind.shrinks
            } else {
                resource.kind.may_shrink
            };
            let inflatable = inflate && packed && free;
            let too_short = resource.framed == Framed::Length && resource.size < MIN_BYTES;
            let ended_early = resource.framed != Framed::Length && resource.ends_early();
            let coded = !resource.coding.is_empty();
            let varies = match resource.tag {
                Tag::Strong if coded => inflatable || resource.kind.shrinks,
                Tag::Strong => free && resource.kind.shrinks && !too_short,
                _ => shrinks && free,
            };
            let tags = match (resource.tag, ask.accept.1) {
                (Tag::Strong, takes_gzip) if inflatable => vec![if takes_gzip { own } else { weak }],
                (Tag::Strong, true) if varies && !coded && !ended_early => vec![weak],
                _ => vec![own],
            };
            return Self { status: 304, made, varies, tags, length: None, content: Content(Vec::new()) };
        }
        let inflatable = inflate && packed && free;
        let compressible = resource.coding.is_empty() && free && resource.kind.shrinks;
        // Without Vary, a cache would send the coded body to clients that cannot decode the body.
        let coded_text = !resource.coding.is_empty() && resource.kind.shrinks;
        if let Some((status, part)) = ask.part(resource, &body) {
            let varies = status == 206 && (compressible || inflatable) || coded_text;
            let length = Some(part.len());
            return Self { status, made, varies, tags: vec![own], length, content: Content(part) };
        }
        let known = resource.framed == Framed::Length;
        let kept = matches!(resource.status, 200 | 203 | 404 | 410);
        let worth_it = !known || resource.size >= MIN_BYTES;
        let varies = kept && (inflatable || (compressible && worth_it)) || coded_text;
        // If a stream ends before the minimum for compression, the shim sends the stream uncompressed. If the stream
        // has no trailers, the shim also adds Content-Length. In response to HEAD the shim sees no body, so the shim
        // sends the fields of a longer stream.
        let held = varies && compressible && ask.takes_gzip() && resource.ends_early() && ask.method != "HEAD";
        let made = match (inflatable, ask.accept.1) {
            _ if !varies || held => Made::AsTheyCame,
            (true, false) if kept => Made::Inflated,
            (false, _) if compressible && ask.takes_gzip() => Made::Compressed,
            _ => Made::AsTheyCame,
        };
        let as_it_came = made == Made::AsTheyCame;
        let tags = vec![if as_it_came { own } else { weak }];
        let length = (as_it_came && (known || (held && !resource.trailers))).then_some(body.len());
        let content = Content(if made == Made::Inflated { resource.plain(number).to_vec() } else { body });
        Self { status: resource.status, made, varies, tags, length, content }
    }
}

impl Ask {
    /// Returns whether the shim is allowed to compress the response. A range refers to the origin's bytes, so the
    /// response to a request with Range is not compressed.
    fn takes_gzip(&self) -> bool {
        self.accept.1 && self.range == Ranged::Absent
    }

    /// Returns whether the condition matches the resource. Tags are compared weakly (RFC 9110 §13.1.2).
    fn hits(&self, resource: &Resource) -> bool {
        match self.named {
            Named::Absent | Named::Other => false,
            Named::Any | Named::Since => true,
            Named::Strong | Named::Weak | Named::Both | Named::OtherAndWeak => resource.tag != Tag::Absent,
        }
    }

    /// Returns the status and the bytes of the response to a valid Range.
    fn part(&self, resource: &Resource, body: &[u8]) -> Option<(u16, Vec<u8>)> {
        let unchanged = match self.if_range {
            IfRange::Absent | IfRange::Date => true,
            IfRange::Strong => resource.tag == Tag::Strong,
            IfRange::Weak | IfRange::OtherTag | IfRange::OldDate => false,
        };
        if self.method != "GET" || resource.status != 200 || !unchanged {
            return None;
        }
        match self.range {
            Ranged::Absent | Ranged::Ignored(_) => None,
            Ranged::Part(_, from, count) => Some((206, body[from..body.len().min(from + count)].to_vec())),
            Ranged::Tail(_, count) => Some((206, body[body.len() - count..].to_vec())),
            Ranged::Beyond => Some((416, Vec::new())),
        }
    }
}

// ---- exchange and comparison ----------------------------------------------------------------------------------------

struct Matrix {
    origin: Origin,
    resources: Resources,
    inflate: bool,
    shim: Shim,
    client: Raw,
    exchanges: usize,
    compressed: usize,
    /// The differences from the expected responses, by kind: the number of cases, and a description of the first case.
    faults: BTreeMap<String, (usize, String)>,
    /// The body that the shim sent for each resource and strong tag.
    strong: HashMap<(usize, String), Vec<u8>>,
    record: Option<File>,
}

impl Matrix {
    /// Returns the number of responses for which the shim used a twin.
    fn twins(&self) -> f64 {
        self.shim.metrics().value("edgeshim_gzip_twins_total", &[("result", "hit")])
    }

    fn start(inflate: bool) -> Self {
        let resources = Resources::default();
        let held = Arc::clone(&resources);
        let origin = Origin::start(move |request, conn| respond_as_requested(&held, request, conn));
        let shim = Shim::start(Shim::config(origin.addr).with(&format!("[gzip]\ninflate = {inflate}")));
        let client = Raw::connect(shim.addr);
        let record = std::env::var_os("EDGESHIM_ANSWERS").map(|path| {
            let file = File::options().create(true).append(true).open(&path);
            file.unwrap_or_else(|error| panic!("{} cannot be opened: {error}", path.display()))
        });
        let (faults, strong) = (BTreeMap::new(), HashMap::new());
        Self { origin, resources, inflate, shim, client, exchanges: 0, compressed: 0, faults, strong, record }
    }

    /// Adds a resource at a new target.
    fn hold(&self, resource: Resource) -> (usize, Resource) {
        let mut resources = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
        resources.push(resource);
        (resources.len() - 1, resource)
    }

    /// Replaces the resource at a target.
    fn replace(&self, (number, resource): (usize, Resource)) {
        self.resources.lock().unwrap_or_else(PoisonError::into_inner)[number] = resource;
    }

    /// Panics if there is a difference. The message contains each kind of difference and the first case of this kind.
    fn report(&self) {
        println!("{} responses, {} of them compressed by the shim", self.exchanges, self.compressed);
        let mut report = String::new();
        for (fault, (count, case)) in &self.faults {
            let _ = write!(report, "\n{fault}: {count} cases; the first case is\n  {case}");
        }
        assert!(report.is_empty(), "differences in {} responses:{report}", self.exchanges);
    }

    /// Sends the request as GET and as HEAD. If the request has no condition and the GET received a tag with a 200 or a
    /// 206, then revalidates this tag.
    fn ask(&mut self, held: &(usize, Resource), ask: Ask) {
        let (_, resource) = held;
        let to_get = self.exchange(held, &ask);
        let to_head = self.exchange(held, &Ask { method: "HEAD", ..ask });
        let may_differ = ask.range != Ranged::Absent || (resource.ends_early() && ask.accept.1);
        if !may_differ && described(&to_get.fields) != described(&to_head.fields) {
            self.fault("fields of HEAD and GET", held, &ask, &[&to_get, &to_head]);
        }
        if ask.named == Named::Absent && matches!(to_get.status, 200 | 206) && resource.tag != Tag::Absent {
            self.revalidate(held, &ask, &to_get);
        }
    }

    /// Sends the received tag in If-None-Match and checks that the response is a 304 with the same caching fields.
    fn revalidate(&mut self, held: &(usize, Resource), ask: &Ask, full: &Response) {
        let (_, resource) = held;
        let Some(tag) = full.field("etag") else { return };
        let named = if tag.starts_with("W/") { Named::Weak } else { Named::Strong };
        let again = Ask { range: Ranged::Absent, if_range: IfRange::Absent, named, ..*ask };
        let response = self.exchange(held, &again);
        for name in ["etag", "cache-control"] {
            // A 304 has the tag that a 200 to the same request would have (RFC 9110 §15.4.5), and the revalidation has
            // no Range. The response to a request with Range is not compressed, so its tag can differ from the 304's
            // tag.
            let may_differ = name == "etag" && ask.range != Ranged::Absent;
            if !may_differ && response.field(name) != full.field(name) {
                self.fault(&format!("{name} of the 304"), held, &again, &[full, &response]);
            }
        }
        let (whole, vary_names) = (members(full.fields_named("vary")), members(response.fields_named("vary")));
        // For a weak tag, the shim stores only that the tag is weak. So the shim does not know whether the 200 has
        // Vary. After a 304 without Vary, a cache continues to use the stored Vary.
        let is_unknown = resource.tag != Tag::Strong && resource.forbids_transformation();
        if !is_unknown && !whole.iter().all(|name| vary_names.contains(name)) {
            self.fault("missing name in Vary of the 304", held, &again, &[full, &response]);
        }
    }

    fn exchange(&mut self, held: &(usize, Resource), ask: &Ask) -> Response {
        let (number, resource) = held;
        let (target, fields) = (resource.target(*number), ask.fields(*number));
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.client.send(raw::request(ask.method, &target, &fields, b""));
        let response = if ask.method == "HEAD" { self.client.response_to_head() } else { self.client.response() };
        let response = response.unwrap_or_else(|why| panic!("no response to {ask:?} for {resource:?}: {why:?}"));
        let expected = Expected::of(resource, *number, ask, self.inflate);
        self.exchanges += 1;
        self.compressed += usize::from(expected.made == Made::Compressed && ask.method == "GET");
        for fault in faults(resource, ask, &expected, &response) {
            self.fault(fault, held, ask, &[&response]);
        }
        let whole = ask.method == "GET" && response.status == resource.status;
        let strong = response.field("etag").filter(|tag| whole && tag.starts_with('"'));
        if let Some(tag) = strong.map(str::to_owned) {
            let known = self.strong.entry((*number, tag)).or_insert_with(|| response.body.clone());
            if *known != response.body {
                self.fault("two bodies with the same strong tag", held, ask, &[&response]);
            }
        }
        if ask.range != Ranged::Absent {
            let seen = self.origin.last();
            let passed = (seen.field("range").is_some(), seen.field("if-range").is_some());
            // A weak tag in If-Range never allows a partial response (RFC 9110 §13.1.5), so the shim removes Range and
            // If-Range.
            let wanted =
                if ask.if_range == IfRange::Weak { (false, false) } else { (true, ask.if_range != IfRange::Absent) };
            if passed != wanted {
                self.fault("Range and If-Range at the origin", held, ask, &[&response]);
            }
        }
        self.record(ask, &target, &fields, &response);
        response
    }

    fn fault(&mut self, what: &str, (number, resource): &(usize, Resource), ask: &Ask, responses: &[&Response]) {
        let case = || {
            let expected = Expected::of(resource, *number, ask, self.inflate);
            let mut case = format!("{ask:?}\n  {number}: {resource:?}\n  {expected:?}");
            for response in responses {
                let _ = write!(case, "\n  {} {:?}, {} bytes", response.status, response.fields, response.body.len());
            }
            case
        };
        self.faults.entry(what.to_owned()).or_insert_with(|| (0, case())).0 += 1;
    }

    fn record(&mut self, ask: &Ask, target: &str, fields: &[(&str, &str)], response: &Response) {
        let Some(record) = &mut self.record else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let line = serde_json::json!({
            "time": now,
            "method": ask.method,
            "target": target,
            "request": fields,
            "line": response.line,
            "fields": response.fields,
            "body": lossy(&response.body),
            "complete": response.complete,
            "trailers": response.trailers,
        });
        // The test writes each line with one call, because parallel tests append to the same file.
        record.write_all(format!("{line}\n").as_bytes()).expect("a line in the file of exchanges");
    }
}

/// Returns the names in Vary, in lower case.
fn members(lines: Vec<&str>) -> Vec<String> {
    let members = lines.into_iter().flat_map(|line| line.split(',')).map(|member| member.trim().to_ascii_lowercase());
    members.filter(|member| !member.is_empty()).collect()
}

/// Returns the fields that must be the same in two responses. Date and the framing can differ.
fn described(fields: &Fields) -> Fields {
    let mut fields: Fields = fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    fields.retain(|(name, _)| !matches!(&**name, "date" | "transfer-encoding" | "content-length"));
    fields.sort();
    fields
}

/// Returns the differences between the response and the expected response.
fn faults(resource: &Resource, ask: &Ask, expected: &Expected, response: &Response) -> Vec<&'static str> {
    let mut faults = Vec::new();
    let mut check = |what, holds: bool| {
        if !holds {
            faults.push(what);
        }
    };
    let fields = &response.fields;
    let has_body = ask.method != "HEAD" && response.status != 304;
    check("framing", response.problems.is_empty() && response.complete);
    check("status", response.status == expected.status);

    let coding = match (expected.status, expected.made, resource.coding) {
        (304, ..) | (_, Made::Inflated, _) | (_, Made::AsTheyCame, "") => vec![],
        (_, Made::Compressed, _) => vec!["gzip"],
        (_, Made::AsTheyCame, own) => vec![own],
    };
    check("Content-Encoding", find_all(fields, "content-encoding") == coding);
    if has_body {
        let content =
            if expected.made == Made::Compressed { inflated(&response.body) } else { Some(response.body.clone()) };
        check("body", content.as_ref() == Some(&expected.content.0));
    }

    let (mut vary_names, mut wanted) = (members(find_all(fields, "vary")), members(resource.vary.to_vec()));
    if expected.varies {
        wanted.push("accept-encoding".to_owned());
        check("number of Vary lines", find_all(fields, "vary").len() == 1);
        let named = vary_names.len();
        vary_names.sort();
        vary_names.dedup();
        check("repeated name in Vary", vary_names.len() == named);
    }
    for names in [&mut vary_names, &mut wanted] {
        names.sort();
        names.dedup();
    }
    check("Vary", vary_names == wanted);

    let tags = find_all(fields, "etag");
    check("ETag", tags.len() <= 1 && expected.tags.contains(&tags.first().map(|tag| (*tag).to_owned())));

    let length = response.field("content-length").and_then(|length| length.parse::<usize>().ok());
    check(
        "Content-Length",
        match expected.length {
            _ if response.status == 304 => true,
            // If the complete body has arrived before the shim sends the head, the shim can first compress the body.
            // Then the head contains the length, which the client in `tests/support` has already checked.
            None => length.is_none() || (expected.made == Made::Compressed && has_body),
            known => length == known,
        },
    );

    if response.status != 304 {
        let has_digests = resource.digests && response.status != 206 && expected.made == Made::AsTheyCame;
        for name in DIGESTS.map(|(name, _)| name).into_iter().chain(["Accept-Ranges"]) {
            check(name, find(fields, name).is_some() == has_digests);
        }
    }
    if resource.trailers && has_body {
        for (name, _) in DIGESTS {
            check(
                "digests in trailers",
                find(&response.trailers, name).is_some() == (expected.made == Made::AsTheyCame),
            );
        }
        check("other trailers", find(&response.trailers, "x-sum") == Some("9"));
    }
    let stays = response.field("cache-control").is_some_and(|line| line.contains("no-transform"));
    check("no-transform", stays == resource.forbids_transformation());
    faults
}

/// Inflates a body. Returns `None` if the body is not exactly one gzip member.
fn inflated(body: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    let mut rest = body;
    GzDecoder::new(&mut rest).read_to_end(&mut content).ok()?;
    rest.is_empty().then_some(content)
}

// ---- the products ---------------------------------------------------------------------------------------------------
// Each function checks combinations of some properties. In `a × b`, each value of a is combined with each value of b.
// In `(a, b)`, only selected combinations are checked.

/// Checks type × size × framing × status × requested coding.
fn representations(matrix: &mut Matrix) {
    for kind in [&HTML, &JSON, &SVG, &PNG, &UNTYPED] {
        for size in [0, MIN_BYTES - 1, MIN_BYTES, 20_000] {
            for framed in [Framed::Length, Framed::Chunked, Framed::Close] {
                for status in [200, 203, 404, 410, 201, 301, 403] {
                    let held = matrix.hold(Resource { kind, size, status, framed, ..PAGE });
                    for accept in [GZIP, IDENTITY] {
                        matrix.ask(&held, Ask { accept, ..GET });
                    }
                }
            }
        }
    }
}

/// Checks Accept-Encoding × origin's coding × tag × framing × method, with the fields of [`DIGESTS`].
fn accepted_codings(matrix: &mut Matrix) {
    for coding in ["", "gzip", "x-gzip", "br"] {
        for tag in [Tag::Absent, Tag::Strong, Tag::Weak] {
            for framed in [Framed::Length, Framed::Chunked] {
                let digests = true;
                let held = matrix.hold(Resource { coding, tag, framed, digests, vary: &["Origin"], ..PAGE });
                for accept in [
                    GZIP,
                    IDENTITY,
                    (None, false),
                    (Some(""), false),
                    (Some("br, gzip;q=0.5"), true),
                    (Some("*"), true),
                    (Some("gzip;q=0"), false),
                    (Some("gzip;q=0, *"), false),
                    (Some("identity;q=0, gzip;q=0.1"), true),
                    (Some("identity;q=0"), false),
                    (Some("identity, gzip;q=0.5"), false),
                    (Some("deflate, zstd"), false),
                ] {
                    matrix.ask(&held, Ask { accept, ..GET });
                    matrix.exchange(&held, &Ask { method: "POST", accept, ..GET });
                }
            }
        }
    }
}

/// Checks Range × If-Range × type × tag × origin's coding × requested coding.
fn parts(matrix: &mut Matrix) {
    for kind in [&HTML, &PNG] {
        for tag in [Tag::Absent, Tag::Strong, Tag::Weak] {
            for coding in ["", "gzip"] {
                let held = matrix.hold(Resource { kind, tag, coding, digests: true, ..PAGE });
                for range in [
                    Ranged::Part("bytes=0-99", 0, 100),
                    Ranged::Part("bytes=100-", 100, usize::MAX - 100),
                    Ranged::Tail("bytes=-50", 50),
                    Ranged::Beyond,
                    Ranged::Ignored("bytes=0-9,20-29"),
                    Ranged::Ignored("lines=0-9"),
                ] {
                    for if_range in [
                        IfRange::Absent,
                        IfRange::Strong,
                        IfRange::Weak,
                        IfRange::OtherTag,
                        IfRange::Date,
                        IfRange::OldDate,
                    ] {
                        for accept in [GZIP, IDENTITY] {
                            matrix.ask(&held, Ask { accept, range, if_range, ..GET });
                        }
                    }
                }
            }
        }
    }
}

/// Checks type × (tag, If-None-Match) × Content-Type in the 304 × origin's coding × requested coding.
fn conditions(matrix: &mut Matrix) {
    for kind in [&HTML, &PNG, &UNTYPED] {
        for tag in [Tag::Absent, Tag::Strong, Tag::Weak] {
            for typed_304 in [false, true] {
                for coding in ["", "gzip"] {
                    let held = matrix.hold(Resource { kind, tag, typed_304, coding, vary: &["Origin"], ..PAGE });
                    // The shim stores the kind of a tag when it forwards a 200, so the test sends a GET first.
                    matrix.ask(&held, GET);
                    for accept in [GZIP, IDENTITY, (None, false)] {
                        // If the origin's tag is weak, the CDN never receives the strong form of the tag. So no request
                        // has only the strong form.
                        let forms: &[_] = match tag {
                            Tag::Absent => &[],
                            Tag::Strong => &[Named::Strong, Named::Weak, Named::Both, Named::OtherAndWeak],
                            Tag::Weak => &[Named::Weak, Named::Both, Named::OtherAndWeak],
                        };
                        for &named in forms.iter().chain(&[Named::Any, Named::Other, Named::Since]) {
                            matrix.ask(&held, Ask { accept, named, ..GET });
                        }
                    }
                }
            }
        }
    }
}

/// Checks Cache-Control × Vary × (type, size) × requested coding.
fn caching_fields(matrix: &mut Matrix) {
    for cache in ["", "max-age=60", "private", "no-store", "no-transform", "max-age=60, no-transform", "no-cache"] {
        for vary in [
            &[][..],
            &["Origin"],
            &["accept-encoding"],
            &["Accept-Encoding, Origin"],
            &["Origin", "Accept-Encoding"],
            &["Origin", "X-Own", "Origin"],
        ] {
            for (kind, size) in [(&HTML, 5000), (&HTML, 100), (&PNG, 5000)] {
                let held = matrix.hold(Resource { kind, size, cache, vary, typed_304: true, ..PAGE });
                for accept in [GZIP, IDENTITY] {
                    matrix.ask(&held, Ask { accept, ..GET });
                }
            }
        }
    }
}

/// Checks bodies with trailers: size × requested coding.
fn trailers(matrix: &mut Matrix) {
    for size in [MIN_BYTES - 1, 5000] {
        let held = matrix.hold(Resource { size, framed: Framed::Chunked, trailers: true, ..PAGE });
        for accept in [GZIP, IDENTITY] {
            matrix.exchange(&held, &Ask { accept, ..GET });
        }
    }
}

/// Checks tag × Cache-Control × framing × method. The test repeats each pull, and checks whether the shim uses a twin.
/// The origin changes the bytes twice, but keeps the tag.
fn repeated_pulls(matrix: &mut Matrix) {
    for tag in [Tag::Absent, Tag::Strong, Tag::Weak] {
        for cache in ["", "max-age=60", "private", "no-store"] {
            for framed in [Framed::Length, Framed::Chunked] {
                let (number, resource) = matrix.hold(Resource { framed, tag, cache, ..PAGE });
                let kept = tag == Tag::Strong && framed == Framed::Length && !matches!(cache, "private" | "no-store");
                for edition in 0..3 {
                    let held = (number, Resource { edition, ..resource });
                    matrix.replace(held);
                    for pull in 0..3 {
                        let hits = matrix.twins();
                        let response = matrix.exchange(&held, &GET);
                        if (matrix.twins() > hits) != (kept && pull > 0) {
                            matrix.fault("use of a twin", &held, &GET, &[&response]);
                        }
                        matrix.exchange(&held, &Ask { method: "HEAD", ..GET });
                    }
                }
            }
        }
    }
}

/// Checks bodies that the origin has compressed: origin's coding × tag × (status, size, framing, type, Cache-Control) ×
/// requested coding × (Range, If-None-Match).
fn origin_codings(matrix: &mut Matrix) {
    let mut held = Vec::new();
    for coding in ["gzip", "x-gzip", "br"] {
        for tag in [Tag::Absent, Tag::Strong, Tag::Weak] {
            for (status, size) in [(200, 5000), (200, 100), (410, 5000), (403, 5000)] {
                for framed in [Framed::Length, Framed::Chunked] {
                    held.push(Resource { coding, tag, status, framed, size, digests: true, ..PAGE });
                }
            }
            held.push(Resource { coding, tag, framed: Framed::Close, kind: &UNTYPED, vary: &["Origin"], ..PAGE });
            held.push(Resource { coding, tag, cache: "no-transform", ..PAGE });
        }
    }
    for resource in held {
        let held = matrix.hold(resource);
        for accept in [GZIP, (None, false)] {
            matrix.ask(&held, Ask { accept, ..GET });
            for range in [Ranged::Part("bytes=0-99", 0, 100), Ranged::Beyond, Ranged::Ignored("lines=0-9")] {
                matrix.ask(&held, Ask { accept, range, ..GET });
            }
            for named in [Named::Any, Named::Other, Named::Since] {
                matrix.ask(&held, Ask { accept, named, ..GET });
            }
        }
    }
}

#[test]
fn response_when_inflate_is_off_then_equals_the_expected_response_in_every_case() {
    let mut matrix = Matrix::start(false);
    for product in [representations, accepted_codings, parts, conditions, caching_fields, trailers, repeated_pulls] {
        product(&mut matrix);
    }
    matrix.report();
    assert!(
        matrix.exchanges >= AT_LEAST && matrix.compressed >= 200,
        "there are {} responses, {} of them compressed; at least {AT_LEAST} and 200 are needed",
        matrix.exchanges,
        matrix.compressed
    );
}

#[test]
fn response_when_inflate_is_on_then_equals_the_expected_response_in_every_case() {
    let mut matrix = Matrix::start(true);
    for product in [origin_codings, trailers] {
        product(&mut matrix);
    }
    matrix.report();
}
