//! Tests of the duties of a proxy. A proxy must not forward hop-by-hop fields, and must record the path of a message in
//! Via and similar fields. A proxy must not send ambiguous framing, and must forward targets and end-to-end fields
//! without changing a byte.

mod support;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use std::io::Write as _;
use std::net::SocketAddr;
use support::http1::Framing;
use support::{After, Origin, PATIENCE, Raw, Request, Response, Shim, origin, raw, wait_until};

/// Sends a request over HTTP/2 without TLS. Returns the head, the body and the trailers of the response.
fn h2(addr: SocketAddr, request: http::Request<Bytes>) -> (http::response::Parts, Bytes, Option<http::HeaderMap>) {
    let exchange = async move {
        let mut sender = support::h2::connect(addr).await;
        let response = sender.send_request(request.map(Full::new)).await.expect("a response");
        let (head, body) = response.into_parts();
        let collected = body.collect().await.expect("a complete body");
        let trailers = collected.trailers().cloned();
        (head, collected.to_bytes(), trailers)
    };
    support::h2::runtime()
        .block_on(async { tokio::time::timeout(PATIENCE, exchange).await.expect("a response in time") })
}

/// Returns the builder of a request for [`h2`].
fn h2_request(method: &str, target: &str) -> http::request::Builder {
    http::Request::builder().method(method).version(http::Version::HTTP_2).uri(format!("http://shim.test{target}"))
}

/// Returns the value of a field that the origin received. Panics if the field is missing or has several lines.
fn single<'a>(request: &'a Request, name: &str) -> &'a str {
    let values = request.fields_named(name);
    assert_eq!(values.len(), 1, "{name} must have one line but has the lines {values:?}, in {:?}", request.fields);
    values[0]
}

/// Checks that every request at the origin was complete and well-formed.
fn assert_clean(origin: &Origin) {
    assert!(origin.problems().is_empty(), "{:?}", origin.problems());
    for request in origin.requests() {
        assert!(request.complete && request.problems.is_empty(), "{:?}: {:?}", request.target, request.problems);
    }
}

const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "te",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

// ---- hop-by-hop fields ----------------------------------------------------------------------------------------------

#[test]
fn hop_by_hop_fields_when_sent_by_cdn_then_not_forwarded_to_origin() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(Shim::config(origin.addr).with("[[provider]]\nname = \"fastly\""));
    let response = raw::fetch(
        shim.addr,
        "/",
        &[
            ("Connection", "X-One, keep-alive,, x-absent"),
            ("Connection", "X-TWO , X-CDN-Provider, Proxy-Authorization"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy-Authorization", "Basic Zm9vOmJhcg=="),
            ("Proxy-Authenticate", "Basic"),
            ("TE", "gzip;q=0.5"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
            ("X-One", "1"),
            ("X-Two", "2"),
            ("X-Two", "2"),
            ("X-Three", "3"),
            ("X-CDN-Provider", "Fastly"),
        ],
    );
    assert_eq!(response.status, 200);
    let seen = origin.last();
    for name in HOP_BY_HOP.into_iter().chain(["x-one", "x-two"]) {
        assert!(seen.field(name).is_none(), "{name} was forwarded: {:?}", seen.fields);
    }
    assert_eq!(single(&seen, "x-three"), "3");
    assert_eq!(single(&seen, "x-cdn-provider"), "fastly");
    let pulls = [("provider", "fastly"), ("code", "200")];
    shim.wait_metrics(|metrics| metrics.sum("edgeshim_pulls_total", &pulls) >= 1.0);
    assert_clean(&origin);
}

#[test]
fn renamed_identity_header_when_named_in_connection_then_read_and_not_forwarded() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let config =
        Shim::config(origin.addr).with("[identity]\nheader = \"X-Pulled-By\"\n[[provider]]\nname = \"akamai\"");
    let shim = Shim::start(config);
    let fields = [("Connection", "X-Pulled-By"), ("X-Pulled-By", "akamai"), ("X-CDN-Provider", "fastly")];
    assert_eq!(raw::fetch(shim.addr, "/", &fields).status, 200);
    let pulls = [("provider", "akamai"), ("code", "200")];
    shim.wait_metrics(|metrics| metrics.sum("edgeshim_pulls_total", &pulls) >= 1.0);
    let seen = origin.last();
    assert_eq!(single(&seen, "x-cdn-provider"), "akamai");
    assert!(seen.field("x-pulled-by").is_none(), "{:?}", seen.fields);
    // If the provider is unknown, the origin gets no X-CDN-Provider, even if the client sends this field.
    raw::fetch(shim.addr, "/", &[("X-Pulled-By", "unknown-cdn"), ("X-CDN-Provider", "akamai")]);
    assert!(origin.last().field("x-cdn-provider").is_none(), "{:?}", origin.last().fields);
}

#[test]
fn protected_fields_when_named_in_connection_then_reach_origin() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(Shim::config(origin.addr));
    let named = "X-Forwarded-For, Forwarded, X-Forwarded-Proto, X-Forwarded-Host, Via, CDN-Loop, X-Request-Id, \
                 traceparent, Host, Cookie, Authorization";
    let fields = [("Connection", named), ("Cookie", "a=1"), ("Authorization", "Basic YTpi"), ("CDN-Loop", "Fastly")];
    assert_eq!(raw::fetch(shim.addr, "/", &fields).status, 200);
    let seen = origin.last();
    for name in named.split(", ") {
        assert!(seen.field(name).is_some(), "{name} is missing: {:?}", seen.fields);
    }
    assert_eq!(seen.fields_named("cdn-loop").join(", "), "Fastly, edgeshim");
}

#[test]
fn hop_by_hop_fields_when_sent_by_origin_then_not_forwarded_to_client() {
    let origin = Origin::start(origin::fixed(
        200,
        &[
            ("Connection", "X-Hop, keep-alive"),
            ("Keep-Alive", "timeout=7, max=77"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy-Authenticate", "Basic"),
            ("Proxy-Authorization", "Basic"),
            ("Upgrade", "h2c"),
            ("TE", "trailers"),
            ("X-Hop", "1"),
            ("X-End", "2"),
            ("Content-Type", "application/octet-stream"),
        ],
        "body",
    ));
    let shim = Shim::start(Shim::config(origin.addr));
    let mut client = Raw::connect(shim.addr);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response().expect("a response");
    assert_eq!((response.status, response.text().as_str()), (200, "body"));
    for name in HOP_BY_HOP.into_iter().chain(["x-hop"]) {
        assert!(response.field(name).is_none(), "{name} was forwarded: {:?}", response.fields);
    }
    assert_eq!(response.field("x-end"), Some("2"));

    let (head, body, _) = h2(shim.addr, h2_request("GET", "/").body(Bytes::new()).expect("a request"));
    assert_eq!((head.status.as_u16(), &body[..]), (200, &b"body"[..]));
    for name in HOP_BY_HOP.into_iter().chain(["x-hop"]) {
        assert!(!head.headers.contains_key(name), "{name} was forwarded over HTTP/2: {:?}", head.headers);
    }
    assert_eq!(head.headers["x-end"], "2");
}

// ---- trace fields ---------------------------------------------------------------------------------------------------

#[test]
fn via_when_request_is_forwarded_then_has_the_received_http_version() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(Shim::config(origin.addr));
    let via = |response: Response| {
        assert_eq!(response.status, 200, "{response:?}");
        origin.last().fields_named("via").join(", ")
    };
    assert_eq!(
        via(raw::fetch(shim.addr, "/", &[("Via", "1.1 varnish, HTTP/2 edge")])),
        "1.1 varnish, HTTP/2 edge, 1.1 edgeshim"
    );
    assert_eq!(
        via(raw::exchange(shim.addr, "GET / HTTP/1.0\r\nHost: a.test\r\nVia: 1.0 old\r\n\r\n")),
        "1.0 old, 1.0 edgeshim"
    );
    assert_eq!(single(&origin.last(), "host"), "a.test");
    // An HTTP/1.0 request needs no Host. The shim sends HTTP/1.1 to the origin, and HTTP/1.1 requires Host. So the shim
    // adds Host with the origin's address.
    assert_eq!(via(raw::exchange(shim.addr, "GET / HTTP/1.0\r\n\r\n")), "1.0 edgeshim");
    assert_eq!(single(&origin.last(), "host"), origin.addr.to_string());
    h2(shim.addr, h2_request("GET", "/").header("via", "2 edge").body(Bytes::new()).expect("a request"));
    assert_eq!(origin.last().fields_named("via").join(", "), "2 edge, 2.0 edgeshim");
    assert_clean(&origin);
}

#[test]
fn cdn_loop_when_entries_exist_then_entries_stay_and_edgeshim_is_last() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(Shim::config(origin.addr));
    let seen = |fields: &[(&str, &str)]| {
        let status = raw::fetch(shim.addr, "/", fields).status;
        (status, origin.requests().last().map(|seen| seen.fields_named("cdn-loop").join(", ")).unwrap_or_default())
    };
    assert_eq!(seen(&[]), (200, "edgeshim".to_owned()));
    let others = "Fastly, cloudflare; subreqs=1";
    assert_eq!(
        seen(&[("CDN-Loop", others), ("CDN-Loop", "x; a=\"b, edgeshim\"")]).1,
        format!("{others}, x; a=\"b, edgeshim\", edgeshim")
    );
    // `server.max_hops` is 4 by default. So a request can pass the shim four times, and the shim refuses the fifth
    // pass.
    assert_eq!(seen(&[("CDN-Loop", "edgeshim, EdgeShim"), ("CDN-Loop", "edgeshim;v=1")]).0, 200);
    let before = origin.count();
    let refused = raw::fetch(shim.addr, "/", &[("CDN-Loop", "edgeshim, edgeshim, edgeshim, edgeshim")]);
    assert_eq!((refused.status, refused.field("cache-control")), (508, Some("no-store")));
    assert_eq!(origin.count(), before, "the refused request reached the origin");
}

#[test]
fn forwarded_fields_when_peer_is_untrusted_then_replaced() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    // No value contains the address from which this test connects.
    for trusted in ["[]", "[\"10.0.0.0/8\", \"6.6.6.6\", \"7.7.7.7\"]"] {
        let shim = Shim::start(Shim::config(origin.addr).with(&format!("[server]\ntrusted_proxies = {trusted}")));
        let lies = [
            ("X-Forwarded-For", "6.6.6.6"),
            ("X-Forwarded-For", "7.7.7.7"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil.test"),
            ("Forwarded", "for=6.6.6.6;proto=https;host=evil.test"),
            ("Host", "www.shop.test:8080"),
        ];
        assert_eq!(raw::fetch(shim.addr, "/", &lies).status, 200);
        let seen = origin.last();
        assert_eq!(single(&seen, "x-forwarded-for"), "127.0.0.1");
        assert_eq!(single(&seen, "x-forwarded-proto"), "http");
        assert_eq!(single(&seen, "x-forwarded-host"), "www.shop.test:8080");
        assert_eq!(single(&seen, "host"), "www.shop.test:8080");
        assert_eq!(single(&seen, "forwarded"), "for=127.0.0.1;proto=http");
        h2(
            shim.addr,
            h2_request("GET", "/").header("x-forwarded-for", "6.6.6.6").body(Bytes::new()).expect("a request"),
        );
        let seen = origin.last();
        assert_eq!(single(&seen, "x-forwarded-for"), "127.0.0.1");
        assert_eq!(single(&seen, "x-forwarded-host"), "shim.test");
        assert_eq!(single(&seen, "x-forwarded-proto"), "http");
    }
}

#[test]
fn forwarded_fields_when_peer_is_trusted_then_client_is_rightmost_untrusted_address() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let config = Shim::config(origin.addr).with("[server]\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]");
    let shim = Shim::start(config);
    let sent = [
        ("X-Forwarded-For", "6.6.6.6, 203.0.113.9"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "www.shop.test"),
    ];
    assert_eq!(raw::fetch(shim.addr, "/", &sent).status, 200);
    let seen = origin.last();
    assert_eq!(single(&seen, "x-forwarded-for"), "203.0.113.9, 10.0.0.1, 127.0.0.1");
    assert_eq!(single(&seen, "x-forwarded-proto"), "https");
    assert_eq!(single(&seen, "x-forwarded-host"), "www.shop.test");
    let forwarded = single(&seen, "forwarded").to_owned();
    let hops: Vec<_> = forwarded.split(", ").map(|element| element.split(';').next().unwrap_or_default()).collect();
    assert_eq!(hops, ["for=203.0.113.9", "for=10.0.0.1", "for=127.0.0.1"], "{forwarded}");
    assert!(forwarded.starts_with("for=203.0.113.9;proto=https"), "{forwarded}");
    // The shim drops `unknown`, because this entry is to the left of the client's address. In Forwarded, an IPv6
    // address has brackets and quotes (RFC 7239 §6).
    raw::fetch(shim.addr, "/", &[("X-Forwarded-For", "unknown, \"[2001:db8::1]:443\""), ("X-Forwarded-Host", "a b")]);
    let seen = origin.last();
    assert_eq!(single(&seen, "x-forwarded-for"), "2001:db8::1, 127.0.0.1");
    assert!(single(&seen, "forwarded").starts_with("for=\"[2001:db8::1]\""), "{:?}", seen.fields);
    assert_eq!(single(&seen, "x-forwarded-host"), shim.addr.to_string());
}

// ---- ids ------------------------------------------------------------------------------------------------------------

#[test]
fn traceparent_when_invalid_then_replaced_and_when_valid_then_unchanged() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(Shim::config(origin.addr));
    let seen = |fields: &[(&str, &str)]| {
        assert_eq!(raw::fetch(shim.addr, "/", fields).status, 200);
        let seen = origin.last();
        (single(&seen, "traceparent").to_owned(), seen.field("tracestate").map(str::to_owned))
    };
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(seen(&[("traceparent", good), ("tracestate", "a=1")]), (good.to_owned(), Some("a=1".to_owned())));
    let made = regex::Regex::new("^00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$").expect("a pattern");
    let mut all = std::collections::HashSet::new();
    for bad in [
        None,
        Some("00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
        Some("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"),
        Some("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        Some("00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01"),
        Some("junk"),
    ] {
        let fields: Vec<_> =
            bad.map(|value| ("traceparent", value)).into_iter().chain([("tracestate", "a=1")]).collect();
        let (parent, state) = seen(&fields);
        let ids = made.captures(&parent).unwrap_or_else(|| panic!("{bad:?} became {parent:?}"));
        assert!(ids[1].bytes().any(|byte| byte != b'0') && ids[2].bytes().any(|byte| byte != b'0'), "{parent}");
        assert!(
            Some(parent.as_str()) != bad && all.insert(ids[1].to_owned()),
            "{bad:?} became {parent:?}, which is not a new traceparent"
        );
        assert_eq!(state, None, "tracestate must be removed together with traceparent {bad:?}");
    }
    let (parent, _) = seen(&[("traceparent", good), ("traceparent", good)]);
    assert_ne!(parent, good, "two traceparent lines must be replaced by one new line");
}

#[test]
fn request_id_when_invalid_then_replaced_in_request_response_page_and_log() {
    let origin = Origin::start(origin::fixed(503, &[], "down"));
    let shim = Shim::start(Shim::config(origin.addr).with("[access_log]\noutput = \"file:access.log\""));
    let longest = "a".repeat(128);
    let too_long = "a".repeat(129);
    let mut expected = Vec::new();
    for (given, kept) in [
        (vec!["a"], true),
        (vec!["AZaz09._-"], true),
        (vec![longest.as_str()], true),
        (vec![], false),
        (vec![""], false),
        (vec![too_long.as_str()], false),
        (vec!["a b"], false),
        (vec!["a/b"], false),
        (vec!["a:b"], false),
        (vec!["<script>"], false),
        (vec!["caf\u{e9}"], false),
        (vec!["a,b"], false),
        (vec!["one", "two"], false),
    ] {
        let mut fields: Vec<_> = given.iter().map(|id| ("X-Request-Id", *id)).collect();
        fields.push(("Accept", "text/html"));
        let response = raw::fetch(shim.addr, "/", &fields);
        assert_eq!(response.status, 503);
        let seen = origin.last();
        let id = single(&seen, "x-request-id").to_owned();
        assert_eq!(given == [id.as_str()], kept, "{given:?} became {id:?}");
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        assert!((1..=128).contains(&id.len()) && id.bytes().all(valid), "{id:?}");
        assert_eq!(response.fields_named("x-request-id"), [id.as_str()], "the response has another X-Request-Id");
        let page = response.text();
        assert!(page.contains(&format!("<bdi>{id}</bdi>")), "the page does not show the id {id}:\n{page}");
        assert!(page.contains(&format!("id={id}")), "the beacon of the page does not contain the id {id}:\n{page}");
        expected.push(id);
    }
    let mut unique = expected.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), expected.len(), "two requests have the same id");
    let mut logged = Vec::new();
    let complete = wait_until(PATIENCE, || {
        let text = std::fs::read_to_string(shim.dir.join("access.log")).unwrap_or_default();
        logged = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["id"].as_str().map(str::to_owned))
            .collect();
        logged.len() >= expected.len()
    });
    assert!(complete && logged == expected, "ids in the log: {logged:?}\nids at the origin: {expected:?}");
}

// ---- framing --------------------------------------------------------------------------------------------------------

#[test]
fn request_when_forwarded_then_has_at_most_one_framing_and_complete_body() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(Shim::config(origin.addr));
    let head = |method: &str, rest: &str| format!("{method} / HTTP/1.1\r\nHost: a\r\n{rest}");
    let chunked = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
    let declared = || {
        let seen = origin.last();
        let codings = seen.fields_named("transfer-encoding").join(",");
        (seen.fields_named("content-length").join(","), codings, String::from_utf8_lossy(&seen.body).into_owned())
    };
    let own = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    let mut client = Raw::connect(shim.addr);
    for (request, wanted) in [
        (head("GET", "\r\n"), own("", "", "")),
        (head("DELETE", "\r\n"), own("", "", "")),
        (head("POST", "Content-Length: 0\r\n\r\n"), own("0", "", "")),
        (head("POST", "Content-Length: 5\r\n\r\nabcde"), own("5", "", "abcde")),
        (head("PUT", "Content-Length: 0005\r\n\r\nabcde"), own("5", "", "abcde")),
        (head("GET", "Content-Length: 5\r\n\r\nabcde"), own("5", "", "abcde")),
        (head("POST", chunked), own("", "chunked", "abcde")),
        (head("PATCH", &chunked.replace("chunked", "Chunked")), own("", "chunked", "abcde")),
    ] {
        client.send(&request);
        let response = client.response().unwrap_or_else(|why| panic!("no response to {request:?}: {why:?}"));
        assert_eq!(response.status, 200, "{request:?}");
        assert_eq!(declared(), wanted, "{request:?}");
    }
    // HTTP/2 marks the end of a body in its frames. For an HTTP/1.1 origin the shim must add Content-Length or
    // Transfer-Encoding.
    let body = Bytes::from_static(b"abcde");
    h2(shim.addr, h2_request("POST", "/").body(body.clone()).expect("a request"));
    let seen = declared();
    assert!(seen.2 == "abcde" && (seen.0 == "5") != (seen.1 == "chunked"), "{seen:?}");
    h2(shim.addr, h2_request("POST", "/").header("content-length", "5").body(body).expect("a request"));
    assert_eq!(declared().2, "abcde");
    h2(shim.addr, h2_request("GET", "/").body(Bytes::new()).expect("a request"));
    assert_eq!(declared(), own("", "", ""));
    assert_clean(&origin);
}

#[test]
fn request_trailers_when_sent_by_client_then_reach_origin() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(Shim::config(origin.addr));
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\n\
                   Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n";
    assert_eq!(raw::exchange(shim.addr, request).status, 200);
    let seen = origin.last();
    assert_eq!(seen.body, b"abc");
    assert_eq!(support::http1::find_all(&seen.trailers, "x-sum"), ["9"], "{:?}", seen.trailers);
    assert_eq!(seen.trailers.len(), 1, "{:?}", seen.trailers);
    assert_eq!(single(&seen, "te"), "trailers", "the shim must forward `TE: trailers`");
    assert_clean(&origin);
}

/// Starts an origin whose framing depends on the target. For `/old`, the origin responds with HTTP/1.0. For `/both`,
/// `/differ` and unknown targets, the framing is invalid.
fn framings() -> Origin {
    Origin::start(|request, conn| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n";
        let (bytes, after) = match request.target.as_str() {
            "/length" => (format!("{head}Content-Length: 5\r\n\r\nhello"), After::Keep),
            "/empty" => (format!("{head}Content-Length: 0\r\n\r\n"), After::Keep),
            "/chunked" => {
                (format!("{head}Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), After::Keep)
            }
            "/close" => (format!("{head}Connection: close\r\n\r\nhello"), After::Close),
            "/old" => {
                ("HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\nhello".to_owned(), After::Close)
            }
            "/twice" => (format!("{head}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"), After::Keep),
            "/both" => {
                (format!("{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), After::Close)
            }
            "/differ" => (format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), After::Close),
            _ => (format!("{head}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), After::Close),
        };
        if conn.write_all(bytes.as_bytes()).is_ok() { after } else { After::Close }
    })
}

#[test]
fn response_when_origin_framing_varies_then_client_gets_one_valid_framing() {
    let origin = framings();
    let shim = Shim::start(Shim::config(origin.addr));
    let mut client = Raw::connect(shim.addr);
    for target in ["/length", "/chunked", "/close", "/old", "/twice", "/empty", "/length"] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = client.response().unwrap_or_else(|why| panic!("{target}: {why:?}"));
        assert!(response.complete && response.problems.is_empty(), "{target}: {:?}", response.problems);
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, if target == "/empty" { "" } else { "hello" }),
            "{target}"
        );
        let framed = matches!(response.framing, Some(Framing::Length(_) | Framing::Chunked));
        assert!(framed, "{target}: {:?} {:?}", response.framing, response.fields);
        if target == "/length" || target == "/twice" {
            assert_eq!(response.framing, Some(Framing::Length(5)), "{target}: the declared length must be forwarded");
        }
        let (head, body, _) = h2(shim.addr, h2_request("GET", target).body(Bytes::new()).expect("a request"));
        assert_eq!((head.status.as_u16(), body.len()), (200, response.body.len()), "{target}");
        assert!(!head.headers.contains_key("transfer-encoding"), "{target}: {:?}", head.headers);
    }
    for target in ["/length", "/chunked", "/close", "/old"] {
        // HTTP/1.0 has no chunked coding. So the response has Content-Length, or its end is the end of the connection.
        let response = raw::exchange(shim.addr, format!("GET {target} HTTP/1.0\r\n\r\n"));
        assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{target}");
        assert!(
            response.problems.is_empty() && response.field("transfer-encoding").is_none(),
            "{target}: {response:?}"
        );
    }
    for target in ["/both", "/differ", "/coded"] {
        let response = raw::fetch(shim.addr, target, &[("Accept", "image/png")]);
        assert_eq!((response.status, response.problems.len()), (502, 0), "{target}: {response:?}");
    }
}

/// Starts an origin whose responses have no body. The target selects the status and the declared length. For example,
/// `/304/length` selects a 304 with `Content-Length: 1234`.
fn bodiless() -> Origin {
    Origin::start(|request, conn| {
        let mut words = request.target.trim_start_matches('/').splitn(2, '/');
        let status = words.next().unwrap_or_default().to_owned();
        let field = match words.next() {
            Some("length") => "Content-Length: 1234\r\n",
            Some("zero") => "Content-Length: 0\r\n",
            Some("chunked") => "Transfer-Encoding: chunked\r\n",
            _ => "",
        };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: image/png\r\nETag: \"e\"\r\n{field}\r\n");
        if conn.write_all(head.as_bytes()).is_ok() { After::Keep } else { After::Close }
    })
}

#[test]
fn bodiless_response_when_length_is_declared_then_next_response_is_read_correctly() {
    let origin = bodiless();
    let shim = Shim::start(Shim::config(origin.addr));
    let mut client = Raw::connect(shim.addr);
    let mut exchanges = 0;
    for (method, target, length) in [
        ("GET", "/204/-", None),
        ("GET", "/304/-", None),
        ("GET", "/304/length", Some("1234")),
        ("HEAD", "/200/length", Some("1234")),
        ("HEAD", "/200/zero", Some("0")),
        // The shim must not add `Content-Length: 0`, because the response to a GET may have a body.
        ("HEAD", "/200/-", None),
        ("HEAD", "/200/chunked", None),
        ("HEAD", "/404/length", Some("1234")),
        ("HEAD", "/206/length", Some("1234")),
        ("HEAD", "/304/length", Some("1234")),
        ("HEAD", "/204/-", None),
        ("HEAD", "/301/length", Some("1234")),
        ("GET", "/304/-", None),
    ] {
        exchanges += 1;
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = if method == "HEAD" { client.response_to_head() } else { client.response() };
        let response = response.unwrap_or_else(|why| panic!("{method} {target}: {why:?}"));
        assert_eq!(response.status.to_string(), target[1..4], "{method} {target}");
        assert!(response.problems.is_empty() && response.body.is_empty(), "{method} {target}: {response:?}");
        assert_eq!(response.field("etag"), Some("\"e\""), "{method} {target}");
        let declared = response.field("content-length");
        if target.starts_with("/304") {
            // The shim is allowed to remove Content-Length, but must not change the length (RFC 9110 §8.6).
            assert!(declared.is_none() || declared == length, "{method} {target}: {declared:?}");
        } else {
            assert_eq!(declared, length, "{method} {target}: {:?}", response.fields);
        }
        assert!(
            response.field("transfer-encoding").is_none() || method == "HEAD",
            "{method} {target}: {:?}",
            response.fields
        );
        let request = h2_request(method, target).body(Bytes::new()).expect("a request");
        let (head, body, _) = h2(shim.addr, request);
        assert_eq!((head.status.as_u16(), body.len()), (response.status, 0), "{method} {target} over HTTP/2");
    }
    assert_eq!(origin.count(), exchanges * 2);
    assert_clean(&origin);
}

#[test]
fn content_length_when_status_is_204_then_removed() {
    // A 204 must not have Content-Length (RFC 9110 §8.6). If an origin sends Content-Length with a 204, the shim must
    // not treat the next response as the body of the 204.
    let origin = bodiless();
    let shim = Shim::start(Shim::config(origin.addr));
    for target in ["/204/zero", "/204/length"] {
        let response = raw::fetch(shim.addr, target, &[]);
        assert_eq!((response.status, response.problems.len()), (204, 0), "{target}: {response:?}");
        assert!(response.field("content-length").is_none(), "{target}: {:?}", response.fields);
        assert_eq!(raw::fetch(shim.addr, "/204/-", &[]).status, 204, "the status of the response after {target}");
    }
}

#[test]
fn response_trailers_when_sent_by_origin_then_reach_client() {
    let origin = Origin::start(origin::chunked(
        &[("Content-Type", "application/octet-stream"), ("Trailer", "X-Sum")],
        &[b"abc"],
        &[("X-Sum", "9")],
    ));
    let shim = Shim::start(Shim::config(origin.addr));
    let response = raw::fetch(shim.addr, "/", &[("TE", "trailers"), ("Connection", "TE, close")]);
    assert!(response.complete && response.problems.is_empty() && response.body == b"abc", "{response:?}");
    let trailers: Vec<_> =
        response.trailers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.as_str())).collect();
    assert_eq!(trailers, [("x-sum".to_owned(), "9")]);
    let (_, body, trailers) = h2(shim.addr, h2_request("GET", "/").body(Bytes::new()).expect("a request"));
    assert_eq!(&body[..], b"abc");
    assert_eq!(trailers.expect("trailers over HTTP/2")["x-sum"], "9");
}

// ---- unchanged targets and fields -----------------------------------------------------------------------------------

/// Targets that a proxy must not normalize.
const TARGETS: [&str; 27] = [
    "/",
    "//",
    "//a//b/",
    "/a/../b/./c",
    "/..",
    "/a;v=1/b;c",
    "/%41%2f%2F%2e%2E/%7e",
    "/%00%0a%0d%20",
    "/%e2%82%ac/%E2%82%AC",
    "/%zz%",
    "/-._~!$&'()*+,;=:@",
    "/a?",
    "/a??",
    "/a?b=c&b=d&&e",
    "/a?q=%20+%2B%26",
    "/a?/?/;:@-._~!$'()*,",
    "/a?u=http://b.test/c?d=e",
    "/a?b[]=1&b[x]=2",
    "/a?x=%5B%5D%7B%7D",
    "/:80/",
    "/@a:b",
    "/*",
    "/http://b.test/",
    "/a%23b?c%23d",
    "/a%3Fb",
    "/+a+b",
    "/index.html.gz?",
];

#[test]
fn target_when_forwarded_then_bytes_do_not_change() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(Shim::config(origin.addr));
    let mut client = Raw::connect(shim.addr);
    let long = format!("/{}?{}", "a%2F".repeat(2000), "b=c&".repeat(2000));
    for target in TARGETS.into_iter().chain([long.as_str()]) {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = client.response().unwrap_or_else(|why| panic!("no response to {target}: {why:?}"));
        assert_eq!(response.status, 200, "{target}");
        assert_eq!(origin.last().target, target);
    }
    for target in TARGETS {
        let before = origin.count();
        let (head, ..) = h2(shim.addr, h2_request("GET", target).body(Bytes::new()).expect("a request"));
        assert_eq!(head.status.as_u16(), 200, "{target} over HTTP/2");
        assert_eq!((origin.count(), origin.last().target.as_str()), (before + 1, target), "{target} over HTTP/2");
    }
    assert_clean(&origin);
}

#[test]
fn target_when_in_absolute_form_then_becomes_origin_form() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(Shim::config(origin.addr));
    for (target, host, seen) in [
        ("http://shim.test/a%2Fb?c=d", "shim.test", "/a%2Fb?c=d"),
        ("http://SHIM.test:80/", "shim.test", "/"),
        ("http://shim.test", "shim.test", "/"),
        ("http://shim.test?x=1", "shim.test", "/?x=1"),
        ("http://shim.test:8080//a", "shim.test:8080", "//a"),
        ("HTTP://shim.test/a", "shim.test", "/a"),
    ] {
        let response = raw::fetch(shim.addr, target, &[("Host", host)]);
        assert_eq!(response.status, 200, "{target}");
        let last = origin.last();
        assert_eq!(last.target, seen, "{target}");
        assert!(single(&last, "host").eq_ignore_ascii_case(host), "{target}: {:?}", last.fields);
    }
    assert_clean(&origin);
}

#[test]
fn options_target_when_asterisk_then_forwarded_unchanged() {
    let origin = Origin::start(origin::fixed(204, &[("Allow", "GET")], ""));
    let shim = Shim::start(Shim::config(origin.addr));
    let response = raw::exchange(shim.addr, raw::request("OPTIONS", "*", &[], b""));
    assert_eq!((response.status, response.field("allow")), (204, Some("GET")));
    assert_eq!((origin.last().method.as_str(), origin.last().target.as_str()), ("OPTIONS", "*"));
    assert_eq!(raw::exchange(shim.addr, raw::request("OPTIONS", "/a", &[], b"")).status, 204);
    assert_eq!(origin.last().target, "/a");
    assert_clean(&origin);
}

#[test]
fn methods_when_unusual_then_forwarded_except_connect() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(Shim::config(origin.addr));
    for method in ["PURGE", "PROPFIND", "M-SEARCH", "TRACE", "X!#$%&'*+-.^_`|~9", "get", "QUERY"] {
        assert_eq!(raw::exchange(shim.addr, raw::request(method, "/", &[], b"")).status, 200, "{method}");
        assert_eq!(origin.last().method, method);
    }
    let before = origin.count();
    let refused = raw::exchange(shim.addr, "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n");
    assert_eq!((refused.status, origin.count()), (405, before));
    assert_clean(&origin);
}

#[test]
fn end_to_end_fields_when_unusual_but_valid_then_arrive_unchanged() {
    let odd: &[(&str, &str)] = &[
        ("X-Empty", ""),
        ("X-Tab", "a\tb"),
        ("X-Latin", "caf\u{e9} \u{ff}"),
        ("X-Quoted", "\"a, b\"; c=\"\\\"d\""),
        ("X-Twice", "1"),
        ("X-Between", "-"),
        ("X-Twice", "2"),
        ("!#$%&'*+-.^_`|~9aZ", "token"),
        ("X_Under_Score", "1"),
        ("Cookie", "a=1; b=\"2\""),
        ("Accept", "text/html;q=0.5, */*;q=0.1"),
        ("Range", "bytes=0-0,-1"),
        ("If-Modified-Since", "junk"),
        ("Cache-Control", "no-cache"),
        ("User-Agent", "(a(b)c) d/1.0"),
    ];
    let origin = Origin::start(|request, conn| {
        // The origin returns all `X-` fields of the request except X-Forwarded-*. So one exchange checks both
        // directions.
        let back: Vec<_> = request
            .fields
            .iter()
            .filter(|(name, _)| {
                name.to_ascii_lowercase().starts_with("x-") && !name.to_ascii_lowercase().starts_with("x-f")
            })
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let text = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", back.concat());
        let latin: Vec<u8> = text.chars().map(|character| u8::try_from(u32::from(character)).unwrap_or(b'?')).collect();
        if conn.write_all(&latin).is_ok() { After::Keep } else { After::Close }
    });
    let shim = Shim::start(Shim::config(origin.addr));
    let mut request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n".to_vec();
    for (name, value) in odd {
        let line = format!("{name}: {value}\r\n");
        request.extend(line.chars().map(|character| u8::try_from(u32::from(character)).expect("Latin-1")));
    }
    request.extend_from_slice(b"\r\n");
    let response = raw::exchange(shim.addr, request);
    assert_eq!(response.status, 200);
    let seen = origin.last();
    for (name, _) in odd {
        let sent: Vec<_> = odd.iter().filter(|(other, _)| other == name).map(|(_, value)| *value).collect();
        assert_eq!(seen.fields_named(name), sent, "{name}");
        if name.starts_with("X-") {
            assert_eq!(response.fields_named(name), sent, "{name} in the response");
        }
    }
    assert_clean(&origin);
}

// ---- HTTP/2 clients -------------------------------------------------------------------------------------------------

#[test]
fn host_when_request_is_http2_then_is_the_authority() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(Shim::config(origin.addr));
    for authority in ["www.shop.test", "www.shop.test:8443", "[::1]:80"] {
        let request = http::Request::builder().uri(format!("http://{authority}/a")).version(http::Version::HTTP_2);
        let (head, ..) = h2(shim.addr, request.body(Bytes::new()).expect("a request"));
        assert_eq!(head.status.as_u16(), 200);
        let seen = origin.last();
        assert_eq!(single(&seen, "host"), authority);
        assert_eq!((seen.version.as_str(), seen.target.as_str()), ("HTTP/1.1", "/a"));
        assert!(seen.fields.iter().all(|(name, _)| !name.starts_with(':')), "{:?}", seen.fields);
    }
    assert_clean(&origin);
}

#[test]
fn cookie_lines_when_request_is_http2_then_joined_into_one_line() {
    // A proxy must join several Cookie lines with "; " before it forwards them over HTTP/1.1 (RFC 9113 §8.2.3).
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(Shim::config(origin.addr));
    let request = h2_request("GET", "/").header("cookie", "a=1").header("cookie", "b=2; c=3").header("cookie", "d=4");
    h2(shim.addr, request.body(Bytes::new()).expect("a request"));
    assert_eq!(single(&origin.last(), "cookie"), "a=1; b=2; c=3; d=4");
}

#[test]
fn refusal_when_sent_over_http2_then_has_no_hop_by_hop_field() {
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(Shim::config(origin.addr).with("[server]\nmax_request_body = \"4B\""));
    let request = h2_request("POST", "/").header("content-length", "5").body(Bytes::from_static(b"abcde"));
    let (head, ..) = h2(shim.addr, request.expect("a request"));
    assert_eq!(head.status.as_u16(), 413);
    for name in HOP_BY_HOP {
        assert!(!head.headers.contains_key(name), "{name}: {:?}", head.headers);
    }
    assert_eq!(origin.count(), 0);
}
