//! Clients that send a request over HTTP/1.0, HTTP/1.1 or HTTP/2, through one interface.

use super::h2::{H2, Pieces, Received};
use super::{Raw, Shim};
use std::fmt::Write as _;
use std::io::Read as _;

/// The protocol of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Http10,
    Http11,
    Http2,
}

pub const CLIENTS: [Client; 3] = [Client::Http10, Client::Http11, Client::Http2];

/// Returns the body without gzip, and whether the body is complete. If the gzip stream is damaged or truncated, returns
/// the bytes before the damage.
pub fn plain(received: &Received) -> (Vec<u8>, bool) {
    if received.field("content-encoding") != Some("gzip") {
        return (received.body.clone(), received.complete);
    }
    let mut plain = Vec::new();
    let ended = flate2::read::GzDecoder::new(&received.body[..]).read_to_end(&mut plain).is_ok();
    (plain, ended)
}

impl Client {
    pub fn get(self, shim: &Shim, target: &str, fields: &[(&str, &str)], at_head: impl FnOnce()) -> Received {
        self.ask(shim, "GET", target, fields, at_head)
    }

    /// Sends a request on a new connection. Calls `at_head` when the head of the response has arrived.
    pub fn ask(
        self,
        shim: &Shim,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        at_head: impl FnOnce(),
    ) -> Received {
        match self {
            Self::Http2 => ask_h2(shim, method, target, fields, at_head),
            Self::Http10 => {
                let mut client = Raw::connect(shim.addr);
                client.send(text(method, target, "1.0", fields));
                let Ok(head) = client.response_head() else { return Received::default() };
                at_head();
                let (body, was_reset) = client.read_to_reset();
                let length = head
                    .field("content-length")
                    .map(|length| length.parse::<usize>().expect("a number in Content-Length"));
                let complete = !was_reset && (method == "HEAD" || length.is_none_or(|length| length == body.len()));
                assert_eq!(head.field("connection"), None, "a response to HTTP/1.0 must not have the field Connection");
                Received { status: head.status, fields: head.fields, body, complete, ..Received::default() }
            }
            Self::Http11 => {
                let mut client = Raw::connect(shim.addr);
                client.send(text(method, target, "1.1", fields));
                let Ok(head) = client.response_head() else { return Received::default() };
                at_head();
                if method == "HEAD" || matches!(head.status, 204 | 304) {
                    return Received {
                        status: head.status,
                        fields: head.fields,
                        complete: true,
                        ..Received::default()
                    };
                }
                let body = client.body(&head);
                assert!(!body.complete || body.problems.is_empty(), "{target}: {:?}", body.problems);
                let (body, trailers, complete) = (body.data, body.trailers, body.complete);
                Received { status: head.status, fields: head.fields, body, trailers, complete, ..Received::default() }
            }
        }
    }
}

/// Returns the text of a request without a body.
pub fn text(method: &str, target: &str, version: &str, fields: &[(&str, &str)]) -> String {
    let mut text = format!("{method} {target} HTTP/{version}\r\nHost: shim.test\r\n");
    for (name, value) in fields {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text + "\r\n"
}

fn ask_h2(shim: &Shim, method: &str, target: &str, fields: &[(&str, &str)], at_head: impl FnOnce()) -> Received {
    let mut client = H2::connect(shim.addr);
    let allowed = |field: &&(&str, &str)| field.0 != "Connection" && field.1 != "trailers, x";
    let fields: Vec<_> = fields.iter().filter(allowed).copied().collect();
    let Ok(response) = client.head(method, target, &fields, Pieces::default()) else { return Received::default() };
    at_head();
    client.rest(response)
}
