//! The paths of the page. `/livez` and a POST to `/log-in` need no token. All other requests that show or change
//! anything need a token, a session or a user whom a trusted proxy names.

use std::net::IpAddr;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};

use super::gate::{TOKEN_KEY, now};
use super::{PAGE, Page};
use crate::operators::answers::{
    Answer, JSON, close_if_refused, document, in_json, log_in, logged_in, method_not_allowed, read_body, text,
    with_type, without_token,
};
use crate::operators::listener::Respond;
use crate::operators::sessions::is_cross_site;

/// The largest body of a POST, in bytes.
const MAX_BODY: usize = 16 * 1024;

pub(super) struct Paths(pub &'static Page);

impl Respond for Paths {
    type Body = Full<Bytes>;

    async fn respond(&self, request: Request<Incoming>, peer: Option<IpAddr>) -> Answer {
        let (head, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        let mut response = match (&head.method, head.uri.path()) {
            (&Method::POST, "/log-in" | "/api/preview" | "/api/change") => self.post(&head, body, peer).await,
            (&Method::GET | &Method::HEAD, _) => self.get(&head, peer).await,
            (_, "/log-in") => method_not_allowed("GET, HEAD, POST", "Use GET, HEAD or POST.\n"),
            (_, "/api/preview" | "/api/change") => method_not_allowed("POST", "Use POST.\n"),
            _ => method_not_allowed("GET, HEAD", "Use GET or HEAD.\n"),
        };
        close_if_refused(&mut response, has_body);
        response
    }
}

impl Paths {
    async fn get(&self, head: &Parts, peer: Option<IpAddr>) -> Answer {
        if head.uri.path() == "/livez" {
            return text(StatusCode::OK, "alive\n");
        }
        let Some(user) = self.0.gate.user(head, peer) else { return self.refused(head) };
        match head.uri.path() {
            "/" => document(StatusCode::OK, &PAGE),
            "/api/state" => with_type(StatusCode::OK, JSON, self.0.state(&user).await),
            "/log-in" => logged_in(),
            "/api/preview" | "/api/change" => method_not_allowed("POST", "Use POST.\n"),
            _ => text(StatusCode::NOT_FOUND, "Not found. Use /, /api/state, /api/preview or /api/change.\n"),
        }
    }

    async fn post(&self, head: &Parts, body: Incoming, peer: Option<IpAddr>) -> Answer {
        if is_cross_site(&head.headers, true) {
            return text(
                StatusCode::FORBIDDEN,
                "A page of another site seems to have sent this request. Open the page under its own address. A proxy \
                 in front of the page must forward the header field Host unchanged.\n",
            );
        }
        let gate = &self.0.gate;
        if head.uri.path() == "/log-in" {
            let session = (&gate.sessions, gate.keys().token.as_ref(), now());
            return log_in((head, body), MAX_BODY, session, &gate.log_in).await;
        }
        let Some(user) = gate.user(head, peer) else { return self.refused(head) };
        let body = match read_body(head, body, JSON, MAX_BODY).await {
            Ok(body) => body,
            Err(refused) => return refused,
        };
        let (status, answer) = match head.uri.path() {
            "/api/preview" => self.0.preview(&body).await,
            _ => self.0.change(user, body).await,
        };
        in_json(status, &answer)
    }

    fn refused(&self, head: &Parts) -> Answer {
        if self.0.gate.keys().token.is_some() {
            return without_token(head, &self.0.gate.log_in, TOKEN_KEY);
        }
        text(
            StatusCode::FORBIDDEN,
            "This request names no user. Open the page through the proxy that is configured in serve.trusted_proxies, \
             under the name in serve.host.\n",
        )
    }
}
