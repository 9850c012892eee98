//! The paths of the admin listener. The probes, the metrics and a POST to `/log-in` need no token. If `admin.token` is
//! configured, all other GET and HEAD requests and a POST to `/annotations` need the token or the cookie of a session.
//! All other methods get a 405.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Either, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use serde::Deserialize;
use serde_json::{Value, json};

use super::annotations::{Mark, cleaned, now};
use super::events::EventBody;
use super::page::{Document, LOG_IN, LOG_IN_AGAIN, PAGE};
use super::sampler::{Board, Range};
use super::sessions::{Pass, Sessions, is_cross_site, is_rebound};
use super::top_list;
use crate::intake::form;
use crate::metrics::Metrics;
use crate::runtime::Slot;
use crate::wire::media_types::essence;
use crate::wire::names::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY,
    RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE, X_ACCEL_BUFFERING, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

/// The largest body of a POST, in bytes.
const MAX_BODY: usize = 4096;
/// The longest time until the body of a POST is complete.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest weight of a provider in an announcement.
const MAX_WEIGHT: f64 = 1e6;
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PROTOBUF: &str = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
const PATHS: &str =
    "/metrics, /livez, /readyz, /config, /api/summary, /api/series, /api/events, /api/top or /annotations";

pub(super) type Answer = Response<Either<Full<Bytes>, EventBody>>;

/// The values from which the responses are made.
pub(super) struct Routes {
    pub slot: &'static Slot,
    pub metrics: &'static Metrics,
    pub board: &'static Board,
    /// Whether browsers can connect to the listener: it has a TCP address and is not a unix socket.
    pub is_tcp: bool,
    pub sessions: Sessions,
    pub is_ready: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Routes {
    pub(super) async fn respond(&self, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let (head, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        let mut response = match (&head.method, head.uri.path()) {
            (&Method::POST, "/log-in" | "/annotations") => self.post(&head, body).await,
            (&Method::GET | &Method::HEAD, _) => self.get(&head),
            (_, "/annotations") => method_not_allowed("GET, HEAD, POST", "Use GET, HEAD or POST.\n"),
            (_, "/log-in") => method_not_allowed("POST", "Use POST.\n"),
            _ => method_not_allowed("GET, HEAD", "Use GET or HEAD.\n"),
        };
        // The rest of a refused body is not read, so the connection cannot be used again.
        if has_body && response.status().is_client_error() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    fn get(&self, head: &Parts) -> Answer {
        let path = head.uri.path();
        match path {
            "/livez" => return text(StatusCode::OK, "alive\n"),
            "/readyz" if (self.is_ready)() => return text(StatusCode::OK, "ready\n"),
            "/readyz" => return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            "/metrics" => return self.scrape(head),
            _ => {}
        }
        if self.is_tcp && !self.has_token() && is_rebound(head) {
            return text(
                StatusCode::FORBIDDEN,
                "Without admin.token, this path responds only under an IP address or localhost. Write such a host in \
                 the URL, or configure admin.token.\n",
            );
        }
        let Some(pass) = self.pass(head) else {
            return if path == "/" && accepts(head, "text/html") {
                unauthorized(document(StatusCode::UNAUTHORIZED, &LOG_IN))
            } else {
                unauthorized(text(
                    StatusCode::UNAUTHORIZED,
                    "Send the value of admin.token in the header field Authorization: Bearer TOKEN\n",
                ))
            };
        };
        match path {
            "/" => document(StatusCode::OK, &PAGE),
            "/config" => {
                let config = self.slot.load().settings().effective_json();
                with_type(StatusCode::OK, "application/json", format!("{config:#}\n"))
            }
            "/api/summary" => in_json(StatusCode::OK, &self.board.summary()),
            "/api/top" => in_json(StatusCode::OK, &top_list::json(self.slot.load().tops())),
            "/api/series" => self.series(head.uri.query().unwrap_or_default()),
            "/api/events" => self.events(head, pass),
            "/annotations" => in_json(StatusCode::OK, &json!({ "annotations": self.board.annotations.all() })),
            "/log-in" => method_not_allowed("POST", "Use POST.\n"),
            _ => with_type(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", format!("Not found. Use {PATHS}.\n")),
        }
    }

    fn series(&self, query: &str) -> Answer {
        let is = |word| form::value(query.as_bytes(), "range").is_none_or(|value| value.is(word));
        let range = match () {
            () if is("1h") => Range::Hour,
            () if is("15m") => Range::QuarterHour,
            () if is("2m") => Range::TwoMinutes,
            () => return text(StatusCode::BAD_REQUEST, "Write range=2m, range=15m or range=1h.\n"),
        };
        in_json(StatusCode::OK, &self.board.series(range))
    }

    fn events(&self, head: &Parts, pass: Pass) -> Answer {
        if head.method == Method::HEAD {
            return with_type(StatusCode::OK, "text/event-stream", "");
        }
        let Some(events) = self.board.events.open(pass) else {
            let mut response =
                text(StatusCode::SERVICE_UNAVAILABLE, "Too many pages are open. Close one of the pages.\n");
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
            return response;
        };
        let mut response = with_type(StatusCode::OK, "text/event-stream", "").map(|_| Either::Right(events));
        response.headers_mut().insert(&X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
        response
    }

    async fn post(&self, head: &Parts, body: Incoming) -> Answer {
        let is_log_in = head.uri.path() == "/log-in";
        if is_cross_site(&head.headers, self.has_token()) {
            return text(
                StatusCode::FORBIDDEN,
                "A page of another site seems to have sent this request. Open the page of edgeshim under an IP \
                 address or localhost, or configure admin.token.\n",
            );
        }
        if !is_log_in && self.pass(head).is_none() {
            return unauthorized(text(
                StatusCode::UNAUTHORIZED,
                "Send the value of admin.token in the header field Authorization: Bearer TOKEN\n",
            ));
        }
        let wanted = if is_log_in { "application/x-www-form-urlencoded" } else { "application/json" };
        let sent = head.headers.get(CONTENT_TYPE).map(|value| essence(value.as_bytes())).unwrap_or_default();
        if !sent.eq_ignore_ascii_case(wanted.as_bytes()) {
            let message = format!("Send Content-Type: {wanted}.\n");
            return with_type(StatusCode::UNSUPPORTED_MEDIA_TYPE, "text/plain; charset=utf-8", message);
        }
        let body = match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return text(StatusCode::PAYLOAD_TOO_LARGE, "Send at most 4096 bytes.\n");
            }
            Ok(Err(_)) => return text(StatusCode::BAD_REQUEST, "The body is not complete. Send the request again.\n"),
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "The body did not arrive within ten seconds.\n"),
        };
        if is_log_in { self.log_in(&body) } else { self.annotate(&body) }
    }

    fn log_in(&self, body: &[u8]) -> Answer {
        let runtime = self.slot.load();
        let mut response = text(StatusCode::SEE_OTHER, "");
        if let Some(token) = &runtime.settings().admin.token {
            let sent: Vec<u8> = form::value(body, "token").map(|value| value.bytes().collect()).unwrap_or_default();
            if !token.matches(sent.trim_ascii()) {
                return unauthorized(document(StatusCode::UNAUTHORIZED, &LOG_IN_AGAIN));
            }
            if let Ok(cookie) = HeaderValue::try_from(self.sessions.cookie(token, unix_seconds())) {
                response.headers_mut().insert(SET_COOKIE, cookie);
            }
        }
        response.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
        response
    }

    fn annotate(&self, body: &[u8]) -> Answer {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Note {
            text: String,
            share: Option<BTreeMap<String, f64>>,
        }
        let Ok(Note { text: note, share }) = serde_json::from_slice(body) else {
            return text(
                StatusCode::BAD_REQUEST,
                "Send a JSON object with the key text, such as {\"text\":\"deploy 1234\"}. If the weights \
                 of CDNs change, add the key share, such as \"share\":{\"fastly\":90,\"akamai\":10}. No other key is \
                 allowed.\n",
            );
        };
        if cleaned(&note).is_empty() {
            return text(StatusCode::BAD_REQUEST, "The text is empty. Write at least one visible character.\n");
        }
        let annotation = match share {
            None => self.board.mark(Mark::Note, &note, now()),
            Some(share) => match self.weights(share) {
                Ok(weights) => self.board.mark_share(&note, &weights, now()),
                Err(message) => return with_type(StatusCode::BAD_REQUEST, "text/plain; charset=utf-8", message),
            },
        };
        in_json(StatusCode::CREATED, &json!({ "id": annotation.id, "time": annotation.time }))
    }

    /// Checks announced weights. Returns the weights under the configured names of the providers, or a message.
    fn weights(&self, share: BTreeMap<String, f64>) -> Result<BTreeMap<String, f64>, String> {
        let runtime = self.slot.load();
        let names = || runtime.settings().providers.iter().map(|provider| provider.name.as_str());
        let mut weights = BTreeMap::new();
        for (sent, weight) in share {
            let Some(name) = names().find(|name| name.eq_ignore_ascii_case(&sent)) else {
                let names = names().collect::<Vec<_>>().join(", ");
                let sent = cleaned(&sent);
                return Err(format!("share names {sent:?}, which is not a configured provider. Use: {names}.\n"));
            };
            if !(0.0..=MAX_WEIGHT).contains(&weight) {
                return Err(format!("share.{name} is {weight}. Write a number from 0 to {MAX_WEIGHT}.\n"));
            }
            weights.insert(name.to_owned(), weight);
        }
        if weights.len() < 2 || weights.values().sum::<f64>() <= 0.0 {
            let wanted = "Name each CDN among which the clients are divided, with 0 for a CDN that gets no clients";
            return Err(format!("share needs at least two providers, and one weight above 0. {wanted}.\n"));
        }
        Ok(weights)
    }

    fn scrape(&self, head: &Parts) -> Answer {
        // Prometheus lists the formats that it accepts. The preferred format is first.
        let accept = head.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if accept.trim_start().starts_with("application/vnd.google.protobuf") {
            with_type(StatusCode::OK, PROTOBUF, self.metrics.render_protobuf())
        } else {
            with_type(StatusCode::OK, METRICS_TEXT, self.metrics.render())
        }
    }

    /// Returns the pass of a request that has the token or a session, or of any request if no token is configured.
    fn pass(&self, head: &Parts) -> Option<Pass> {
        let runtime = self.slot.load();
        match &runtime.settings().admin.token {
            Some(token) => self.sessions.pass(&head.headers, token, unix_seconds()),
            None => Some(Pass::without_token()),
        }
    }

    fn has_token(&self) -> bool {
        self.slot.load().settings().admin.token.is_some()
    }
}

fn accepts(head: &Parts, media_type: &str) -> bool {
    head.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| accept.contains(media_type))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time in seconds fits")]
fn unix_seconds() -> u64 {
    now() as u64
}

fn unauthorized(mut response: Answer) -> Answer {
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn method_not_allowed(allowed: &'static str, message: &'static str) -> Answer {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, message);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn document(status: StatusCode, document: &Document) -> Answer {
    let mut response = with_type(status, "text/html; charset=utf-8", document.html.clone());
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, document.policy.clone());
    // The policy is not `no-referrer`, because browsers would then send `Origin: null` with the log-in form.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}

fn in_json(status: StatusCode, body: &Value) -> Answer {
    with_type(status, "application/json", format!("{body}\n"))
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
