//! Tests that forwarded requests and responses contain only allowed fields. The tests cover Content-Length, trailers,
//! whitespace, unusual heads and upgrades. The clients use HTTP/1.0, HTTP/1.1 and HTTP/2, and the origins use HTTP/1.1
//! and HTTP/2.

mod support;

use std::io::{Read, Write};
use std::time::Duration;
use support::clients::{CLIENTS, Client, plain, text};
use support::frames::{ACK, DATA, END_STREAM, FrameOrigin, SETTINGS, frame, head};
use support::{After, Conn, Origin, PATIENCE, Raw, Request, Shim, frames, origin, raw, wait_until};

const FAULTS: &str = "edgeshim_origin_faults_total";
const PULLS: &str = "edgeshim_pulls_total";

fn body_text() -> String {
    "Once upon a time there was a body. ".repeat(40)[..1200].to_owned()
}

// ---- Content-Length -------------------------------------------------------------------------------------------------

#[test]
fn response_content_length_when_not_one_plain_number_then_normalised_or_rejected() {
    let origin = Origin::start(|request, conn| {
        let (status, length) = request.target[1..].split_once('/').expect("a target of the form /STATUS/LENGTH");
        let length = length.replace('_', " ").replace('|', "\r\nContent-Length: ");
        let body = if request.method == "HEAD" || matches!(status, "204" | "304") { "" } else { "ab" };
        let head = format!("HTTP/1.1 {status} \r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n{body}");
        let _ = conn.write_all(head.as_bytes());
        After::Keep
    });
    let shim = Shim::start(Shim::config(origin.url()).with("[gzip]\nmin_bytes = 0"));
    for client in CLIENTS {
        for (length, valid) in [
            ("2,_2", true),
            ("2,2,_2", true),
            ("2|2", true),
            ("2,_2|2", true),
            ("002", true),
            ("2,_002", true),
            ("2,_3", false),
            ("2|3", false),
            ("2,_x", false),
            ("2,", false),
            (",2", false),
            ("2;2", false),
            ("99999999999999999999", false),
        ] {
            for (method, status) in [("GET", 200), ("HEAD", 200), ("GET", 304), ("GET", 204)] {
                for coding in ["identity", "gzip"] {
                    let target = format!("/{status}/{length}");
                    let got = client.ask(&shim, method, &target, &[("Accept-Encoding", coding)], || {});
                    let case = format!("{client:?}, {method} {target}, {coding}: {got:?}");
                    if !valid {
                        assert_eq!((got.status, got.complete), (502, true), "{case}");
                        continue;
                    }
                    assert_eq!((got.status, got.complete), (status, true), "{case}");
                    let lengths = got.fields_named("content-length");
                    match (method, status, coding) {
                        (_, 200, "identity") => assert_eq!(lengths, ["2"], "{case}"),
                        ("GET", 200, _) => assert_eq!(plain(&got).0, b"ab", "{case}"),
                        (_, 204, _) => assert!(lengths.is_empty(), "{case}"),
                        _ => assert!(lengths.is_empty() || lengths == ["2"], "{case}"),
                    }
                }
            }
        }
    }
    // If the origin uses HTTP/2, the crate h2 rejects a Content-Length whose value is a list.
    let origin = FrameOrigin::start();
    let shim = origin.shim();
    for lengths in [&["2, 2"][..], &["2", "3"], &["2", "2"]] {
        let is_valid = lengths == ["2", "2"];
        let lengths: Vec<&'static str> = lengths.to_vec();
        origin.does(move |stream, out| {
            let mut fields = vec![(":status", "200")];
            fields.extend(lengths.iter().map(|length| ("content-length", *length)));
            out.write_all(&[head(stream, 0, &fields), frame(DATA, END_STREAM, stream, b"ab")].concat())
        });
        for client in CLIENTS {
            let got = client.get(&shim, "/", &[], || {});
            assert_eq!((got.status, got.complete), (if is_valid { 200 } else { 502 }, true), "{client:?}: {got:?}");
            assert!(!is_valid || got.fields_named("content-length") == ["2"], "{client:?}: {got:?}");
        }
    }
}

// ---- trailers -------------------------------------------------------------------------------------------------------

/// Fields that are allowed only in a head, not in trailers.
const OF_HEAD: [&str; 34] = [
    "Keep-Alive",
    "Connection",
    "Proxy-Connection",
    "Transfer-Encoding",
    "Upgrade",
    "TE",
    "Content-Length",
    "Trailer",
    "Host",
    "Max-Forwards",
    "Authorization",
    "Cookie",
    "Set-Cookie",
    "Cache-Control",
    "Expires",
    "Age",
    "Vary",
    "ETag",
    "Surrogate-Control",
    "CDN-Cache-Control",
    "Edge-Control",
    "Surrogate-Key",
    "Cache-Tag",
    "Content-Type",
    "Content-Encoding",
    "Content-Range",
    "Content-Disposition",
    "Location",
    "Retry-After",
    "Strict-Transport-Security",
    "X-CDN-Provider",
    "X-Forwarded-For",
    "Forwarded",
    "Via",
];

#[test]
fn head_field_when_in_response_trailers_then_removed_and_body_is_complete() {
    let http1 = Origin::start(|request, conn| {
        let name = &request.target[1..];
        let mut message = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let body = body_text();
        message.extend_from_slice(format!("4b0\r\n{body}\r\n0\r\n{name}: timeout=5\r\n").as_bytes());
        if request.field("x-more").is_some() {
            message.extend_from_slice(b"X-Sum: 7\r\n");
        }
        message.extend_from_slice(b"\r\n");
        let _ = conn.write_all(&message);
        After::Keep
    });
    let shim = Shim::start(Shim::config(http1.url()).with("[gzip]\ntwins = \"0\""));
    for client in [Client::Http11, Client::Http2] {
        for coding in ["identity", "gzip"] {
            for name in OF_HEAD {
                for more in [false, true] {
                    let mut fields = vec![("Accept-Encoding", coding), ("TE", "trailers"), ("Connection", "te")];
                    if more {
                        fields.push(("X-More", "1"));
                    }
                    let got = client.get(&shim, &format!("/{name}"), &fields, || {});
                    let case = format!("{client:?}, {coding}, {name}, more = {more}: {got:?}");
                    assert_eq!((got.status, got.complete), (200, true), "{case}");
                    assert_eq!(plain(&got), (body_text().into_bytes(), true), "{case}");
                    let sum = vec![("x-sum".to_owned(), "7".to_owned())];
                    assert_eq!(got.trailers, if more { sum } else { Vec::new() }, "{case}");
                }
            }
        }
    }
    assert_eq!(shim.metrics().count(FAULTS, &[]), 0);
}

#[test]
fn response_trailers_when_not_announced_then_sent_to_clients_that_accept_trailers() {
    let origin = Origin::start(|request, conn| {
        let trailers: Vec<_> = [("X-Sum", "7"), ("Server-Timing", "db;dur=3"), ("X-Sum", "8")].to_vec();
        let announced = request.target == "/announced";
        let large = vec![b'x'; if request.target == "/large" { 3 << 20 } else { 5 }];
        let fields: &[_] = if announced { &[("Trailer", "X-Sum")] } else { &[] };
        origin::chunked(fields, &[&large], &trailers)(request, conn)
    });
    let shim = Shim::start(Shim::config(origin.url()));
    let wanted = [("x-sum", "7"), ("x-sum", "8"), ("server-timing", "db;dur=3")];
    let mut sorted: Vec<_> = wanted.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    sorted.sort();
    for target in ["/", "/announced", "/large"] {
        for client in [Client::Http11, Client::Http2] {
            let mut got = client.get(&shim, target, &[("TE", "trailers"), ("Connection", "te")], || {});
            got.trailers.sort();
            assert!(
                got.complete && got.trailers == sorted,
                "{client:?}, {target}: the trailers are {:?}, complete = {}",
                got.trailers,
                got.complete
            );
        }
        // An HTTP/1.1 client without `TE: trailers` gets no trailers.
        let got = Client::Http11.get(&shim, target, &[], || {});
        assert!(got.complete && got.trailers.is_empty(), "{target}: {:?}", got.trailers);
    }
    // This client sends several requests on one connection. It reads a large response only after the shim has read a
    // part of the response from the origin, so that the shim writes the response in several parts.
    let mut client = Raw::connect(shim.addr);
    for target in ["/", "/large", "/", "/announced", "/large"] {
        client.send(text("GET", target, "1.1", &[("TE", "trailers"), ("Connection", "te")]));
        if target == "/large" {
            let before = origin.bytes_written();
            let has_begun = wait_until(PATIENCE, || origin.bytes_written() > before + (256 << 10));
            assert!(has_begun, "the shim does not read the response from the origin");
        }
        let response = client.response().expect("a response");
        assert!(response.complete && response.trailers.len() == 3, "{target}: {:?}", response.trailers);
    }
    // The client sends two requests in one write.
    let both = text("GET", "/", "1.1", &[("TE", "trailers"), ("Connection", "te")]).repeat(2);
    client.send(both);
    for _ in 0..2 {
        let response = client.response().expect("a response");
        assert!(response.complete && response.trailers.len() == 3 && response.body == b"xxxxx", "{response:?}");
    }
}

#[test]
fn head_field_when_in_request_trailers_then_removed() {
    let origin = Origin::start(origin::echo());
    let shim = Shim::start(Shim::config(origin.url()));
    for name in OF_HEAD {
        let mut client = Raw::connect(shim.addr);
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum, {name}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n\
             0\r\n{name}: x\r\nX-Sum: 7\r\n\r\n"
        ));
        let response = client.response().expect("a response");
        assert_eq!((response.status, response.complete), (200, true), "{name}: {response:?}");
        let seen = origin.last();
        assert_eq!((seen.trailers.len(), seen.complete), (1, true), "{name}: {:?}", seen.trailers);
    }
}

// ---- whitespace in HTTP/2 -------------------------------------------------------------------------------------------

#[test]
fn http2_field_value_when_whitespace_is_at_the_edges_then_stripped() {
    const ODD: [(&str, &str); 5] = [("x-a", "b\t"), ("x-b", " c"), ("x-c", " \t d e\t"), ("x-d", "\t"), ("x-e", "f")];
    const CLEAN: [(&str, &str); 5] = [("x-a", "b"), ("x-b", "c"), ("x-c", "d e"), ("x-d", ""), ("x-e", "f")];
    let http1 = Origin::start(origin::echo());
    let shim = Shim::start(
        Shim::config(http1.url())
            .with("[[provider]]\nname = \"fastly\"\nverify.secret = { header = \"X-Secret\", values = [\"s3cret\"] }"),
    );
    let fields: Vec<_> = ODD.into_iter().chain([("x-cdn-provider", " fastly "), ("x-secret", "\ts3cret ")]).collect();
    let got = Client::Http2.get(&shim, "/", &fields, || {});
    assert_eq!(got.status, 200, "{got:?}");
    let seen = http1.last();
    for (name, value) in CLEAN {
        assert_eq!(seen.field(name), Some(value), "{name}");
    }
    assert_eq!(seen.field("x-cdn-provider"), Some("fastly"), "the provider's name or secret was not stripped");

    let http2 = FrameOrigin::start();
    let shim = http2.shim();
    http2.does(move |stream, out| {
        let mut fields = vec![(":status", "200"), ("cache-control", " max-age=5 ")];
        fields.extend(ODD);
        let trailers = [("x-sum", " 7 ")];
        out.write_all(
            &[head(stream, 0, &fields), frame(DATA, 0, stream, b"hi"), head(stream, END_STREAM, &trailers)].concat(),
        )
    });
    for client in [Client::Http11, Client::Http2] {
        let got = client.get(&shim, "/", &[("TE", "trailers"), ("Connection", "te")], || {});
        for (name, value) in CLEAN.into_iter().chain([("cache-control", "max-age=5")]) {
            assert_eq!(got.field(name), Some(value), "{client:?}, {name}: {got:?}");
        }
        assert_eq!(got.trailers, [("x-sum".to_owned(), "7".to_owned())], "{client:?}");
    }
}

// ---- heads ----------------------------------------------------------------------------------------------------------

#[test]
fn reason_phrase_when_response_is_replaced_then_empty_and_otherwise_forwarded() {
    let origin = Origin::start(|request, conn| {
        let _ = conn.write_all(
            format!("HTTP/1.1 {}\r\nContent-Length: 0\r\n\r\n", request.target[1..].replace('_', " ")).as_bytes(),
        );
        After::Keep
    });
    let config = |mode: &str| format!("[[class]]\nname = \"all\"\npath = [\"*\"]\nwhoopsie = \"{mode}\"");
    for mode in ["never", "auto"] {
        let shim = Shim::start(Shim::config(origin.url()).with(&config(mode)));
        for (target, never) in
            [("/520_", "520 "), ("/530_Origin", "530 Origin"), ("/599_", "599 "), ("/200_", "200 "), ("/299_", "299 ")]
        {
            for version in ["1.0", "1.1"] {
                let mut client = Raw::connect(shim.addr);
                client.send(text("GET", target, version, &[]));
                let line = client.response_head().expect("a head").line;
                let replaced = mode == "auto" && target.starts_with("/5");
                let wanted = if replaced { format!("{} ", &target[1..4]) } else { never.to_owned() };
                assert_eq!(line, format!("HTTP/{version} {wanted}"), "{mode}");
            }
        }
    }
}

#[test]
fn request_when_method_is_post_put_or_patch_without_body_then_has_content_length_0() {
    let origin = Origin::start(origin::echo());
    let shim = Shim::start(Shim::config(origin.url()));
    for (method, wanted) in
        [("POST", Some("0")), ("PUT", Some("0")), ("PATCH", Some("0")), ("GET", None), ("DELETE", None)]
    {
        for client in CLIENTS {
            let got = client.ask(&shim, method, "/", &[("Connection", "close")], || {});
            assert_eq!(got.status, 200, "{client:?}, {method}: {got:?}");
            let seen = origin.last();
            assert_eq!(
                (seen.field("content-length"), seen.field("transfer-encoding")),
                (wanted, None),
                "{client:?}, {method}"
            );
        }
    }
}

#[test]
fn origin_head_when_above_a_configured_limit_then_shim_sends_502_with_proxy_status() {
    let fields = |count: usize, bytes: usize| -> Vec<(String, String)> {
        (0..count).map(|number| (format!("x-{number:04}"), "v".repeat(bytes))).collect()
    };
    let http1 = Origin::start(move |request, conn| {
        let (count, bytes) = request.target[1..].split_once('x').expect("a target with a count and a size");
        let fields = fields(count.parse().expect("a number"), bytes.parse().expect("a number"));
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        origin::respond(request, conn, 200, &fields, b"ok")
    });
    for (limits, cases) in [
        ("", &[("/110x5", 200), ("/127x5", 200), ("/128x5", 502), ("/90x600", 200), ("/90x900", 502)][..]),
        ("max_headers = 20", &[("/19x5", 200), ("/20x5", 502)]),
        ("max_headers = 500\nmax_header_bytes = \"256KiB\"", &[("/400x5", 200), ("/100x2000", 200), ("/501x5", 502)]),
        ("max_header_bytes = \"8KiB\"", &[("/20x300", 200), ("/20x600", 502)]),
    ] {
        let shim = Shim::start(Shim::config(http1.url()).with(&format!("[server]\n{limits}")));
        for (target, status) in cases {
            let got = Client::Http11.get(&shim, target, &[], || {});
            assert_eq!((got.status, got.complete), (*status, true), "{limits} {target}: {} fields", got.fields.len());
            if *status == 502 {
                let wanted = "edgeshim; error=http_response_header_section_size";
                assert_eq!(got.field("proxy-status"), Some(wanted), "{limits} {target}");
            }
        }
        let refused = cases.iter().filter(|(_, status)| *status == 502).count();
        let counted = shim.metrics().count(FAULTS, &[("cause", "broken_head")]);
        assert_eq!(counted, refused as u64, "{limits}");
    }
    let http2 = FrameOrigin::start();
    for (limits, count, bytes, status) in [
        ("", 110, 5, 200),
        ("", 129, 5, 502),
        ("max_headers = 20", 21, 5, 502),
        ("max_header_bytes = \"4KiB\"", 40, 90, 502),
    ] {
        let config = format!("[origin]\nhttp2 = true\n[server]\n{limits}");
        let shim = Shim::start(Shim::config(http2.addr).with(&config));
        http2.does(move |stream, out| {
            let own = fields(count, bytes);
            let own = own.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let all: Vec<_> = [(":status", "200")].into_iter().chain(own).collect();
            out.write_all(&head(stream, END_STREAM, &all))
        });
        let got = Client::Http2.get(&shim, "/", &[], || {});
        assert_eq!(got.status, status, "{limits} {count}: {got:?}");
        if status == 502 {
            assert_eq!(
                got.field("proxy-status"),
                Some("edgeshim; error=http_response_header_section_size"),
                "{limits}"
            );
        }
    }
}

#[test]
fn origin_head_when_unusual_then_client_gets_a_valid_response() {
    let origin = Origin::start(|request, conn| {
        let message = match request.target.as_str() {
            "/cookie-304" => "HTTP/1.1 304 \r\nETag: \"x\"\r\nSet-Cookie: a=b\r\nCache-Control: max-age=60\r\n\r\n",
            "/length-204" => "HTTP/1.1 204 \r\nContent-Length: 5\r\n\r\n",
            "/early" => {
                "HTTP/1.1 103 \r\nContent-Length: 5\r\nLink: </a>\r\n\r\nHTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"
            }
            "/early-coded" => {
                "HTTP/1.1 103 \r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"
            }
            _ => "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok",
        };
        let _ = conn.write_all(message.as_bytes());
        After::Keep
    });
    let config = "[[class]]\nname = \"all\"\npath = [\"*\"]\ncache = { mode = \"default\", ttl = \"60s\" }";
    let shim = Shim::start(Shim::config(origin.url()).with(config));
    for client in CLIENTS {
        let got = client.get(&shim, "/cookie-304", &[("If-None-Match", "\"x\"")], || {});
        assert_eq!(
            (got.status, got.complete, got.field("cache-control")),
            (304, true, Some("private")),
            "{client:?}: {got:?}"
        );
        let got = client.get(&shim, "/length-204", &[], || {});
        assert_eq!((got.status, got.field("content-length"), got.complete), (204, None, true), "{client:?}: {got:?}");
        for target in ["/early", "/early-coded", "/"] {
            let got = client.get(&shim, target, &[], || {});
            assert_eq!(
                (got.status, got.body.as_slice(), got.complete),
                (200, &b"ok"[..], true),
                "{client:?}, {target}: {got:?}"
            );
            assert_eq!(got.field("link"), None, "{client:?}");
        }
    }
    let refused = raw::exchange(shim.addr, "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n");
    assert_eq!(
        (refused.status, refused.field("content-length"), refused.complete),
        (405, Some("0"), true),
        "{refused:?}"
    );
}

#[test]
fn next_response_when_a_bodiless_response_had_content_then_is_correct() {
    let origin = Origin::start(|request, conn| {
        let head: &[u8] = match request.target.as_str() {
            "/204-length" => b"HTTP/1.1 204 \r\nContent-Length: 5\r\n\r\n",
            "/204-chunked" => b"HTTP/1.1 204 \r\nTransfer-Encoding: chunked\r\n\r\n",
            "/205-chunked" => b"HTTP/1.1 205 \r\nTransfer-Encoding: chunked\r\n\r\n",
            _ => return origin::respond(request, conn, 200, &[], b"fine"),
        };
        let _ = conn.write_all(head);
        // The forbidden content arrives shortly after the head.
        std::thread::sleep(Duration::from_millis(5));
        let content: &[u8] = if head.ends_with(b"5\r\n\r\n") { b"hello" } else { b"5\r\nhello\r\n0\r\n\r\n" };
        let _ = conn.write_all(content);
        After::Keep
    });
    let shim = Shim::start(Shim::config(origin.url()).with("[server]\nworkers = 1\n[origin]\nretries = 0"));
    for client in CLIENTS {
        for target in ["/204-length", "/204-chunked", "/205-chunked"] {
            for _ in 0..5 {
                let got = client.get(&shim, target, &[], || {});
                let status = target[1..4].parse::<u16>().expect("a status");
                assert_eq!(
                    (got.status, got.body.len(), got.complete),
                    (status, 0, true),
                    "{client:?}, {target}: {got:?}"
                );
                let got = client.get(&shim, "/next", &[], || {});
                assert_eq!((got.status, got.body.as_slice()), (200, &b"fine"[..]), "{client:?}, after {target}");
                let [.., bodiless, next] = &origin.requests()[..] else { panic!("two requests must arrive") };
                assert_eq!((bodiless.target.as_str(), next.target.as_str()), (target, "/next"));
                assert_ne!(
                    bodiless.connection, next.connection,
                    "{client:?}: the connection after {target} was reused"
                );
            }
        }
    }
}

// ---- upgraded connections -------------------------------------------------------------------------------------------

/// Accepts an upgrade and sends `hello`. For `/reset` and `/close`, the origin resets or closes the connection when the
/// next bytes arrive. For other targets, the origin sends all received bytes back.
fn upgrading(request: &Request, conn: &mut Conn) -> After {
    let _ = conn.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello");
    let mut some = [0; 64];
    match request.target.as_str() {
        "/reset" => {
            let _ = conn.read(&mut some);
            conn.reset_at_close();
        }
        "/close" => {
            let _ = conn.read(&mut some);
        }
        _ => {
            while let Ok(read) = conn.read(&mut some) {
                if read == 0 || conn.write_all(&some[..read]).is_err() {
                    break;
                }
            }
        }
    }
    After::Close
}

fn upgraded(shim: &Shim, target: &str) -> Raw {
    let mut client = Raw::connect(shim.addr);
    client.send(text("GET", target, "1.1", &[("Connection", "upgrade"), ("Upgrade", "echo")]));
    assert_eq!(client.response_head().expect("a head").status, 101);
    let mut received = Vec::new();
    while received.len() < 5 {
        received.extend(client.more().expect("the bytes of `hello`"));
    }
    assert_eq!(received, b"hello");
    client
}

#[test]
fn upgraded_connection_when_idle_then_reset_and_logged_with_bytes_and_duration() {
    let origin = Origin::start(upgrading);
    let config = "[server]\ntunnel_timeout = \"1200ms\"\n[access_log]\noutput = \"stdout\"";
    let shim = Shim::start(Shim::config(origin.url()).with(config));
    let mut client = upgraded(&shim, "/");
    for round in 0..6 {
        // Each pause is shorter than the timeout, but all pauses together are longer than the timeout.
        std::thread::sleep(Duration::from_millis(400));
        client.send(format!("ping{round}"));
        assert_eq!(client.more().expect("an echo").len(), 5, "round {round}");
    }
    assert_eq!(shim.stdout(), "", "the pull must not be logged before the end of the connection");
    assert_eq!(shim.metrics().count("edgeshim_in_flight", &[]), 1);
    let (_, was_reset) = client.read_to_reset();
    assert!(was_reset, "the shim must reset the connection, so that the truncation is visible");
    assert!(wait_until(PATIENCE, || shim.stdout().lines().count() == 1));
    let line: serde_json::Value = serde_json::from_str(&shim.stdout()).expect("one line of JSON");
    assert_eq!(
        (&line["status"], &line["bytes"], &line["origin_bytes"]),
        (&101.into(), &35.into(), &35.into()),
        "{line}"
    );
    assert!(line["total_ms"].as_f64().expect("a time") >= 2400.0, "{line}");
    let metrics = shim.metrics();
    assert!(metrics.count(PULLS, &[("code", "101")]) == 1 && metrics.count("edgeshim_pull_bytes_total", &[]) == 35);
    assert_eq!(metrics.count("edgeshim_in_flight", &[]), 0);
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0));
}

#[test]
fn upgraded_connection_when_one_side_closes_or_resets_then_other_side_ends_too() {
    let origin = Origin::start(upgrading);
    let shim = Shim::start(Shim::config(origin.url()));
    for (target, reset) in [("/close", false), ("/reset", true)] {
        let mut client = upgraded(&shim, target);
        client.send("bye");
        assert_eq!(client.read_to_reset(), (Vec::new(), reset), "{target}");
    }
    let client = upgraded(&shim, "/");
    client.reset();
    assert!(wait_until(PATIENCE, || origin.open_connections() == 0));
    shim.wait_metrics(|metrics| metrics.count(PULLS, &[("code", "101")]) == 3);
}

#[test]
fn settings_when_sent_in_hand_written_frames_then_acknowledged_by_shim() {
    // This test checks that the shim accepts the hand-written frames of the test harness.
    let origin = Origin::start(origin::fixed(200, &[], "ok"));
    let shim = Shim::start(Shim::config(origin.url()));
    let mut client = frames::connect(shim.addr);
    let acknowledged = std::iter::from_fn(|| frames::read(&mut client))
        .take(5)
        .any(|frame| frame.kind == SETTINGS && frame.flags == ACK);
    assert!(acknowledged);
}
