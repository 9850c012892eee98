//! The paths of the admin listener. The probes, the metrics and a POST to `/log-in` need no token. If `admin.token` is
//! configured, all other GET and HEAD requests and a POST to `/annotations` need the token or the cookie of a session.
//! All other requests get a 405.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use serde::Deserialize;
use serde_json::json;

use super::annotations::{Mark, cleaned, now};
use super::events::EventBody;
use super::page::PAGE;
use super::sampler::{Board, Range};
use super::top_list;
use crate::intake::form;
use crate::metrics::Metrics;
use crate::operators::answers::{
    self, JSON, close_if_refused, document, in_json, logged_in, method_not_allowed, read_body, text, with_type,
    without_token,
};
use crate::operators::document::LogIn;
use crate::operators::listener::Respond;
use crate::operators::sessions::{Pass, Sessions, is_cross_site, is_rebound};
use crate::runtime::Slot;
use crate::wire::names::{ACCEPT, RETRY_AFTER, X_ACCEL_BUFFERING};

/// The largest body of a POST, in bytes.
const MAX_BODY: usize = 4096;
/// The largest weight of a provider in an announcement.
const MAX_WEIGHT: f64 = 1e6;
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PROTOBUF: &str = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
const PATHS: &str =
    "/, /metrics, /livez, /readyz, /config, /api/summary, /api/series, /api/events, /api/top or /annotations";

static LOG_IN: LazyLock<LogIn> = LazyLock::new(|| LogIn::new(TOKEN_KEY));
/// The configuration key of the token.
const TOKEN_KEY: &str = "admin.token";

type Answer = Response<Either<Full<Bytes>, EventBody>>;

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

impl Respond for Routes {
    type Body = Either<Full<Bytes>, EventBody>;

    async fn respond(&self, request: Request<Incoming>, _peer: Option<IpAddr>) -> Answer {
        let (head, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        let mut response = match (&head.method, head.uri.path()) {
            (&Method::POST, "/log-in" | "/annotations") => self.post(&head, body).await.map(Either::Left),
            (&Method::GET | &Method::HEAD, _) => self.get(&head),
            (_, "/annotations" | "/log-in") => {
                method_not_allowed("GET, HEAD, POST", "Use GET, HEAD or POST.\n").map(Either::Left)
            }
            _ => method_not_allowed("GET, HEAD", "Use GET or HEAD.\n").map(Either::Left),
        };
        close_if_refused(&mut response, has_body);
        response
    }
}

impl Routes {
    fn get(&self, head: &Parts) -> Answer {
        if let Some(response) = self.get_without_token(head) {
            return response.map(Either::Left);
        }
        let Some(pass) = self.pass(head) else { return without_token(head, &LOG_IN, TOKEN_KEY).map(Either::Left) };
        if head.uri.path() == "/api/events" { self.events(head, pass) } else { self.get_page(head).map(Either::Left) }
    }

    /// Returns the response to a request that needs no token, or that is refused because of its Host.
    fn get_without_token(&self, head: &Parts) -> Option<answers::Answer> {
        match head.uri.path() {
            "/livez" => Some(text(StatusCode::OK, "alive\n")),
            "/readyz" if (self.is_ready)() => Some(text(StatusCode::OK, "ready\n")),
            "/readyz" => Some(text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")),
            "/metrics" => Some(self.scrape(head)),
            _ if self.is_tcp && !self.has_token() && is_rebound(head) => Some(text(
                StatusCode::FORBIDDEN,
                "Without admin.token, this path responds only under an IP address or localhost. Write such a host in \
                 the URL, or configure admin.token.\n",
            )),
            _ => None,
        }
    }

    fn get_page(&self, head: &Parts) -> answers::Answer {
        match head.uri.path() {
            "/" => document(StatusCode::OK, &PAGE),
            "/config" => {
                let config = self.slot.load().settings().effective_json();
                with_type(StatusCode::OK, JSON, format!("{config:#}\n"))
            }
            "/api/summary" => in_json(StatusCode::OK, &self.board.summary()),
            "/api/top" => in_json(StatusCode::OK, &top_list::json(self.slot.load().tops())),
            "/api/series" => self.series(head.uri.query().unwrap_or_default()),
            "/annotations" => in_json(StatusCode::OK, &json!({ "annotations": self.board.annotations.all() })),
            "/log-in" => logged_in(),
            _ => text(StatusCode::NOT_FOUND, format!("Not found. Use {PATHS}.\n")),
        }
    }

    fn series(&self, query: &str) -> answers::Answer {
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
            return with_type(StatusCode::OK, "text/event-stream", "").map(Either::Left);
        }
        let Some(events) = self.board.events.open(pass) else {
            let mut response =
                text(StatusCode::SERVICE_UNAVAILABLE, "Too many pages are open. Close one of the pages.\n");
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
            return response.map(Either::Left);
        };
        let mut response = with_type(StatusCode::OK, "text/event-stream", "").map(|_| Either::Right(events));
        response.headers_mut().insert(&X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
        response
    }

    async fn post(&self, head: &Parts, body: Incoming) -> answers::Answer {
        if is_cross_site(&head.headers, self.has_token()) {
            return text(
                StatusCode::FORBIDDEN,
                "A page of another site seems to have sent this request. Open the page of edgeshim itself. Without \
                 admin.token, open it under an IP address or localhost, or configure admin.token. A proxy in front of \
                 this listener must not change Host.\n",
            );
        }
        if head.uri.path() == "/log-in" {
            let token = self.slot.load().settings().admin.token.clone();
            let session = (&self.sessions, token.as_ref(), unix_seconds());
            return answers::log_in((head, body), MAX_BODY, session, &LOG_IN).await;
        }
        if self.pass(head).is_none() {
            return without_token(head, &LOG_IN, TOKEN_KEY);
        }
        match read_body(head, body, JSON, MAX_BODY).await {
            Ok(body) => self.annotate(&body),
            Err(refused) => refused,
        }
    }

    fn annotate(&self, body: &[u8]) -> answers::Answer {
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
                Err(message) => return text(StatusCode::BAD_REQUEST, message),
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
                let remedy = if names.is_empty() {
                    "Write [[provider]] blocks into the configuration".to_owned()
                } else {
                    format!("Use: {names}")
                };
                let sent = cleaned(&sent);
                return Err(format!(
                    "The key share contains {sent:?}, which is not a configured provider. {remedy}.
"
                ));
            };
            if !(0.0..=MAX_WEIGHT).contains(&weight) {
                return Err(format!("share.{name} is {weight}. Write a number from 0 to {MAX_WEIGHT}.\n"));
            }
            if weights.insert(name.to_owned(), weight).is_some() {
                let remedy = "Name each provider once; names that differ only in case are equal";
                return Err(format!("The key share contains {name} twice. {remedy}.\n"));
            }
        }
        if weights.len() < 2 || weights.values().sum::<f64>() <= 0.0 {
            let wanted = "Write a weight for each CDN that gets clients, and 0 for a CDN that gets no clients";
            return Err(format!("The key share needs at least two providers, and one weight above 0. {wanted}.\n"));
        }
        Ok(weights)
    }

    fn scrape(&self, head: &Parts) -> answers::Answer {
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

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time in seconds fits")]
fn unix_seconds() -> u64 {
    now() as u64
}
