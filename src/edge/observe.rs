//! Checks the request's head, adds Host, X-Request-Id and traceparent if they are missing, replaces an invalid
//! X-Request-Id or traceparent, and begins the request's log line.
//!
//! **Place:** outermost, so that the other layers get only unambiguous requests with exactly one request id.
//! **Reads:** the peer, the version, target, method, Host, Transfer-Encoding, Content-Length, X-Forwarded-For,
//! CDN-Loop, X-Request-Id, traceparent, tracestate. For the log line also Referer and User-Agent.
//! **Metrics:** `edgeshim_refused_total{reason="malformed"}`. A request that must be refused for another reason is only
//! marked here. `pulls` responds to that request and counts the refusal.
//! **Cost:** one allocation if an id must be made, one if Host must be copied from the target (usual with HTTP/2), and
//! one for the log line while the log is on. **Can fail:** no. A request with an ambiguous head gets a 400, and a
//! request with too many header fields gets a 431. In both cases an HTTP/1 connection is closed.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, request};
use http_body::{Body, Frame, SizeHint};
use ipnet::IpNet;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::request::class::Classes;
use super::request::{Ctx, EdgeBody, EdgeRequest, EdgeResponse, Facts, Tally, refusal};
use crate::access_log::{AccessLog, Line, Record};
use crate::cdn::addresses::NETWORK;
use crate::cdn::dialect::Dialect;
use crate::cdn::preset::Pop;
use crate::fault::Fault;
use crate::ids::{ClassId, ProviderId, PullKind, Reason};
use crate::keys::urls::HOST as HOST_NAME;
use crate::keys::{Keys, Visitor};
use crate::metrics::Ledger;
use crate::origin::{MessageLimits, Pipe};
use crate::wire::forwarded::client_from_xff;
use crate::wire::head_fields::{Fields, Names};
use crate::wire::hops::{self, PSEUDONYM};
use crate::wire::host::{host, host_allowed, host_field, only_host, same_authority, valid_host};
use crate::wire::names::{
    HOST, REFERER, TRACEPARENT, TRACESTATE, TRANSFER_ENCODING, USER_AGENT, X_FORWARDED_FOR, X_REQUEST_ID,
};
use crate::wire::query_parameters::{uri_without, url_without};
use crate::wire::trace_context::{make_ids, valid_request_id, valid_traceparent};
use crate::wire::values::{Lines, content_length};

/// The default port of an `http` URL.
const HTTP_PORT: u16 = 80;

/// The keys of `[server]` that decide which requests are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObserveSettings {
    /// The allowed values of Host. If the list is empty, all values are allowed.
    pub hosts: Vec<String>,
    /// The networks of the operator's own load balancers, whose X-Forwarded-For is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// The number of times that a request is allowed to pass this proxy. If the request arrives once more, it is
    /// refused as a loop.
    pub max_hops: u32,
}

impl Default for ObserveSettings {
    fn default() -> Self {
        Self { hosts: Vec::new(), trusted_proxies: Vec::new(), max_hops: 4 }
    }
}

impl Keys for ObserveSettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.list("hosts", &HOST_NAME, &mut self.hosts);
        v.list("trusted_proxies", &NETWORK, &mut self.trusted_proxies);
        v.integer("max_hops", 1..=100, &mut self.max_hops);
    }
}

/// What the layer needs in addition to the classes and the ledger.
#[derive(Debug)]
pub(crate) struct ObserveParts {
    pub settings: ObserveSettings,
    /// The limits of a message. The number of header fields is checked here too, because hyper checks this number only
    /// on HTTP/1.1.
    pub limits: MessageLimits,
    /// The access log, or `None` if the access log is off.
    pub log: Option<AccessLog>,
    /// The query parameters that are removed from the target and from Referer in the log, because they contain secrets.
    pub hidden_parameters: Vec<String>,
}

/// Puts [`Observe`] around a service.
#[derive(Debug, Clone)]
pub(crate) struct ObserveLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    parts: ObserveParts,
    classes: Arc<Classes>,
    ledger: Arc<Ledger>,
}

impl ObserveLayer {
    pub(crate) fn new(parts: ObserveParts, classes: Arc<Classes>, ledger: Arc<Ledger>) -> Self {
        Self { shared: Arc::new(Shared { parts, classes, ledger }) }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { inner, shared: Arc::clone(&self.shared) }
    }
}

/// The service of [`ObserveLayer`].
#[derive(Debug, Clone)]
pub(crate) struct Observe<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B> Service<Box<EdgeRequest>> for Observe<S>
where
    S: Service<Box<EdgeRequest>, Response = EdgeResponse<B>, Error = Infallible>,
{
    type Response = EdgeResponse<ObserveBody<B>>;
    type Error = Infallible;
    type Future = ObserveFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Box<EdgeRequest>) -> Self::Future {
        let shared = &*self.shared;
        if let Some(status) = shared.parts.flaw(&request.head, &request.ctx) {
            shared.ledger.refused(ProviderId::NONE, Reason::Malformed);
            return ObserveFuture::Malformed { status };
        }
        shared.look(&mut request);
        ObserveFuture::Inner { inner: self.inner.call(request) }
    }
}

impl Shared {
    fn look(&self, request: &mut EdgeRequest) {
        let EdgeRequest { ctx, peer, line, head, .. } = request;
        let id = self.parts.look(&self.classes, peer.address(), head, ctx);
        if let Some(log) = &self.parts.log {
            let mut record = record(head, ctx, id);
            self.parts.hide_parameters(&mut record);
            *line = Some(Line::new(log, record));
        }
    }
}

impl ObserveParts {
    /// Returns the status for a malformed head, or `None` if the head is valid.
    pub(crate) fn flaw(&self, head: &request::Parts, ctx: &Ctx) -> Option<StatusCode> {
        if ctx.refusal == Some(Reason::Malformed) || is_ambiguous(head, ctx.fields(&head.headers)) {
            return Some(StatusCode::BAD_REQUEST);
        }
        if head.headers.len() > self.limits.max_headers {
            return Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        None
    }

    /// Sets the client's address, the class and the refusal in `ctx`. Copies the host of the target to Host if Host is
    /// missing. Sets X-Request-Id and traceparent if they are missing or invalid. Returns the id of the request.
    pub(crate) fn look(
        &self,
        classes: &Classes,
        peer: IpAddr,
        head: &mut request::Parts,
        ctx: &mut Ctx,
    ) -> HeaderValue {
        let proxies = &self.settings.trusted_proxies;
        if !proxies.is_empty() {
            let trusted = |address: IpAddr| proxies.iter().any(|net| net.contains(&address));
            ctx.trail = client_from_xff(&head.headers, peer, trusted);
        }
        // An HTTP/2 request usually has its host in the target and not in Host. The host is copied to Host, so that
        // later code reads only that field (`wire::host::host`).
        if host_field(&head.headers).is_none()
            && let Some(authority) = head.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            head.headers.insert(HOST, host);
            ctx.names.add(&HOST);
        }
        let id = ensure_ids(&mut head.headers, &mut ctx.names);
        ctx.class = classes.of_request(head.uri.path());
        ctx.refusal = self.refusal(head, ctx.fields(&head.headers));
        id
    }

    fn hide_parameters(&self, record: &mut Record) {
        if self.hidden_parameters.is_empty() {
            return;
        }
        if let Some(target) = uri_without(&record.target, &self.hidden_parameters) {
            record.target = target;
        }
        let referer = record.referer.as_ref();
        if let Some(referer) = referer.and_then(|line| url_without(line, &self.hidden_parameters)) {
            record.referer = Some(referer);
        }
    }

    fn refusal(&self, head: &request::Parts, fields: Fields<'_>) -> Option<Reason> {
        if head.method == Method::CONNECT {
            return Some(Reason::Method);
        }
        if !self.settings.hosts.is_empty() {
            let host = str::from_utf8(host(&head.headers)).unwrap_or_default();
            if !host_allowed(host, &self.settings.hosts) {
                return Some(Reason::Host);
            }
        }
        if hops::cdn_loop_count(fields, PSEUDONYM) >= self.settings.max_hops {
            return Some(Reason::Loop);
        }
        if let Some(limit) = self.limits.max_request_body
            && let Ok(Some(length)) = content_length(fields)
            && length > limit
        {
            return Some(Reason::BodyTooLarge);
        }
        None
    }
}

/// Returns whether a head that hyper accepts is invalid or can be read in two ways (RFC 9112 §3.2, §6.1; RFC 9113
/// §8.3).
fn is_ambiguous(head: &request::Parts, fields: Fields<'_>) -> bool {
    let host = match only_host(fields.headers()) {
        Ok(host) => Some(host.as_bytes()),
        Err(Lines::None) => None,
        Err(Lines::Several) => return true,
    };
    if host.is_some_and(|host| !valid_host(host)) {
        return true;
    }
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    if authority.is_some_and(|authority| !valid_host(authority)) {
        return true;
    }
    match (host, authority) {
        (None, None)
            // HTTP/1.0 does not require Host.
            if head.version != Version::HTTP_10 => {
                return true;
            }
        (Some(host), Some(authority)) if !same_authority(host, authority, HTTP_PORT) => return true,
        _ => {}
    }
    let scheme = head.uri.scheme_str();
    if scheme.is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return true;
    }
    if head.method != Method::CONNECT {
        // Only CONNECT can have an authority as its target, and only OPTIONS can have `*`.
        let path = head.uri.path();
        let asterisk = path == "*" && head.method == Method::OPTIONS;
        if !asterisk && !path.starts_with('/') {
            return true;
        }
    }
    if head.version == Version::HTTP_11 && hops::has_unknown_coding(fields) {
        return true;
    }
    head.version == Version::HTTP_2 && fields.has(&TRANSFER_ENCODING)
}

/// Ensures that X-Request-Id and traceparent each have one line with a valid value. If a field is missing, invalid or
/// repeated, it gets a new value. Returns the request id.
fn ensure_ids(headers: &mut HeaderMap, names: &mut Names) -> HeaderValue {
    let fields = Fields::new(headers, *names);
    let single = |name: &http::HeaderName, valid: fn(&[u8]) -> bool| {
        let mut lines = fields.lines(name);
        let first = lines.next().filter(|value| valid(value.as_bytes()))?;
        lines.next().is_none().then(|| first.clone())
    };
    let id = single(&X_REQUEST_ID, valid_request_id);
    let has_parent = single(&TRACEPARENT, valid_traceparent).is_some();
    if let (Some(id), true) = (&id, has_parent) {
        return id.clone();
    }
    let has_state = fields.can_have(&TRACESTATE);
    let mut random = [0; 24];
    fastrand::fill(&mut random);
    let (new_id, traceparent) = make_ids(random);
    if !has_parent {
        headers.insert(&TRACEPARENT, traceparent);
        names.add(&TRACEPARENT);
        if has_state {
            // tracestate is removed, because it belongs to a traceparent that is missing or invalid.
            headers.remove(&TRACESTATE);
        }
    }

    id.unwrap_or_else(|| {
        headers.insert(&X_REQUEST_ID, new_id.clone());
        names.add(&X_REQUEST_ID);
        new_id
    })
}

fn record(head: &request::Parts, ctx: &Ctx, id: HeaderValue) -> Record {
    let field = |name: &http::HeaderName| head.headers.get(name).cloned();
    Record {
        time: SystemTime::now(),
        id,
        provider: ProviderId::RESERVED[0],
        claimed: None,
        proof: "",
        pop: Pop::default(),
        kind: PullKind::Unknown,
        revalidated: "",
        why: None,
        client: Some(ctx.trail.client),
        client_chain: field(&X_FORWARDED_FOR),
        method: head.method.clone(),
        host: field(&HOST),
        target: head.uri.clone(),
        version: head.version,
        class: None,
        status: 0,
        bytes: 0,
        origin_status: None,
        origin_bytes: 0,
        origin_us: None,
        total_us: 0,
        encoding: "",
        guard: "",
        cause: "",
        locale: "",
        referer: field(&REFERER),
        user_agent: field(&USER_AGENT),
    }
}

pin_project! {
    /// Waits for the response, or refuses the request.
    #[project = Projected]
    pub enum ObserveFuture<F> {
        Inner {
            #[pin]
            inner: F,
        },
        Malformed {
            status: StatusCode,
        },
    }
}

impl<F, B> Future for ObserveFuture<F>
where
    F: Future<Output = Result<EdgeResponse<B>, Infallible>>,
{
    type Output = Result<EdgeResponse<ObserveBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match self.project() {
            Projected::Inner { inner } => {
                let Ok(response) = ready!(inner.poll(cx));
                response.map(|inner| ObserveBody { inner: Some(inner) })
            }
            Projected::Malformed { status } => {
                // The provider of a malformed request is unknown, so the refusal has the generic dialect.
                let mut head = refusal(Reason::Malformed, Dialect::Generic);
                head.status = *status;
                EdgeResponse { head, body: ObserveBody { inner: None }, facts: Facts::new(ClassId::OTHER) }
            }
        }))
    }
}

pin_project! {
    /// The body of the response. `inner` is `None` if this layer has refused the request.
    pub struct ObserveBody<B> {
        #[pin]
        inner: Option<B>,
    }
}

impl<B: EdgeBody> Body for ObserveBody<B> {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self.project().inner.as_pin_mut() {
            Some(inner) => inner.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: EdgeBody> EdgeBody for ObserveBody<B> {
    fn tally(&self) -> Tally {
        self.inner.as_ref().map_or_else(Tally::default, EdgeBody::tally)
    }

    fn poll_splice(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, Fault>>> {
        self.project().inner.as_pin_mut().map_or(Poll::Ready(None), |inner| inner.poll_splice(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, target: &str, version: Version, fields: &[(&str, &str)]) -> request::Parts {
        let mut builder = http::Request::builder().method(method).uri(target).version(version);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn ids(headers: &mut HeaderMap) -> HeaderValue {
        let mut names = Names::of(headers);
        ensure_ids(headers, &mut names)
    }

    #[test]
    fn head_when_invalid_or_readable_in_two_ways_then_is_ambiguous() {
        let host = ("host", "a.test");
        for (method, target, version, fields, ambiguous) in [
            ("GET", "/", Version::HTTP_11, vec![host], false),
            ("GET", "/", Version::HTTP_11, vec![], true),
            ("GET", "/", Version::HTTP_10, vec![], false),
            ("GET", "/", Version::HTTP_11, vec![host, host], true),
            ("GET", "/", Version::HTTP_11, vec![("host", "u@a.test")], true),
            ("GET", "/", Version::HTTP_11, vec![("host", "a.test, b.test")], true),
            ("GET", "http://a.test/", Version::HTTP_11, vec![host], false),
            ("GET", "http://A.test:80/", Version::HTTP_11, vec![host], false),
            ("GET", "http://b.test/", Version::HTTP_11, vec![host], true),
            ("GET", "ftp://a.test/", Version::HTTP_11, vec![host], true),
            ("GET", "a.test:80", Version::HTTP_11, vec![host], true),
            ("CONNECT", "a.test:80", Version::HTTP_11, vec![("host", "a.test:80")], false),
            ("OPTIONS", "*", Version::HTTP_11, vec![host], false),
            ("GET", "*", Version::HTTP_11, vec![host], true),
            ("GET", "http://a.test/", Version::HTTP_2, vec![], false),
            ("GET", "http://a.test/", Version::HTTP_2, vec![("host", "b.test")], true),
            ("GET", "http://u@a.test/", Version::HTTP_2, vec![], true),
            ("POST", "/", Version::HTTP_11, vec![host, ("transfer-encoding", "chunked")], false),
            ("POST", "/", Version::HTTP_11, vec![host, ("transfer-encoding", "gzip, chunked")], true),
            ("POST", "http://a.test/", Version::HTTP_2, vec![("transfer-encoding", "chunked")], true),
        ] {
            let head = head(method, target, version, &fields);
            assert_eq!(
                is_ambiguous(&head, (&head.headers).into()),
                ambiguous,
                "{method} {target} {version:?} {fields:?}"
            );
        }
    }

    #[test]
    fn request_id_when_invalid_or_repeated_then_is_replaced_else_is_kept() {
        let mut headers = HeaderMap::new();
        headers.insert(&X_REQUEST_ID, HeaderValue::from_static("abc-1"));
        assert_eq!(ids(&mut headers), "abc-1");
        assert!(headers.contains_key(&TRACEPARENT));
        headers.insert(&X_REQUEST_ID, HeaderValue::from_static("a b"));
        let made = ids(&mut headers);
        assert!(made.len() == 32 && headers[&X_REQUEST_ID] == made);
        headers.append(&X_REQUEST_ID, HeaderValue::from_static("second"));
        ids(&mut headers);
        assert_eq!(headers.get_all(&X_REQUEST_ID).iter().count(), 1);
    }
}
