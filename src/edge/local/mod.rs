//! Responds to requests that are not pulls. These are the beacon, load times from browsers (RUM), the logs that CDNs
//! push, Fastly's question whether Fastly is allowed to push logs, and the signed paths of `edgeshim smoke`. RUM is on
//! if `rum.path` is set. Logs are on if a token for logs is configured.
//!
//! **Place:** outside of `verify` and `pulls`, because these requests do not come from a cache that needs an object.
//! They come from browsers, log services and `edgeshim smoke`. So the requests are not counted as pulls and are never
//! refused because of their identity or Host. edgeshim also responds to these requests while the origin is down.
//! **Reads:** path, query and method. For RUM: type and length of the body, and a form of at most 16 KiB that arrives
//! within `server.body_timeout`. For logs: the token, the request id of Firehose, and type, coding, length and content
//! of the body. For a signed path: the fields that the report repeats. For all requests except logs: the proofs of the
//! CDN that forwards the request. The proofs decide under which provider a load time is counted, and whether the client
//! address that the CDN reports is trusted.
//! **Metrics:** `edgeshim_beacons_total`, `edgeshim_rum_seconds`, `edgeshim_rum_rejected_total`. From the logs:
//! `edgeshim_edge_requests_total`, `edgeshim_edge_bytes_total`, `edgeshim_edge_log_lines_total`,
//! `edgeshim_edge_log_batches_total`, `edgeshim_edge_log_lag_seconds`, and the requests in `edgeshim_offload_ratio`.
//! **Cost:** for each request, a few comparisons of paths; for a signed path, also a message authentication code (MAC).
//! **Can fail:** no.
//!
//! The responses have no CORS fields, because no script reads the responses. An image does not need CORS fields. A form
//! does not need CORS fields either if it is sent with `mode: "no-cors"`, as `navigator.sendBeacon` does.

mod batch_result;
mod browser_keys;
mod echo;
mod edge_logs;
mod patience;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode, response};
use http_body::{Body, Frame, SizeHint};
use metrics::{Counter, Histogram};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

pub(crate) use self::browser_keys::{BeaconSettings, RumSettings};
pub(crate) use self::echo::{SmokeSettings, token as smoke_token};
pub(crate) use self::edge_logs::EdgeLogSettings;
pub(crate) use self::edge_logs::{EdgeLogParts, LogSource};
use self::edge_logs::{EdgeLogs, LogBatch};
use super::request::{EdgeBody, EdgeRequest, EdgeResponse, Facts, Tally, uncacheable};
use crate::cdn::known::Known;
use crate::fault::Fault;
use crate::ids::{ClassId, Country, PageId, ProviderId, SourceId};
use crate::intake::beacon;
use crate::intake::country::Countries;
use crate::intake::posted::Posted;
use crate::intake::rum::{self, RumReason};
use crate::intake::signed_path::Signed;
use crate::metrics::{LazyCounters, Ledger, Table, describe};
use crate::origin::Pipe;
use crate::wire::names::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use crate::wire::values::content_length;

/// The values that the layer needs in addition to the [`Ledger`].
#[derive(Debug)]
pub(crate) struct LocalParts {
    pub beacon: BeaconSettings,
    pub rum: RumSettings,
    /// The values of the beacon's query parameter `source` that are counted by name, in the order of their ids.
    pub sources: Vec<&'static str>,
    /// The country file. If it is `None`, beacons are not counted by country.
    pub countries: Option<Arc<Countries>>,
    pub edge_logs: EdgeLogParts,
    pub smoke: SmokeSettings,
    /// The time within which the complete body of a RUM request must arrive. Also the longest pause between two pieces
    /// of a pushed log.
    pub body_timeout: Duration,
}

/// Puts [`Local`] around a service.
#[derive(Debug, Clone)]
pub(crate) struct LocalLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    parts: LocalParts,
    /// The configured providers, in the order of their ids.
    providers: Arc<[Known]>,
    ledger: Arc<Ledger>,
    beacons: Beacons,
    rum: Option<Rum>,
    edge_logs: EdgeLogs,
}

/// The counters of `edgeshim_beacons_total`, which have the label `country` only if there is a country file.
#[derive(Debug)]
enum Beacons {
    BySource(Table<SourceId, Counter>),
    ByCountry(LazyCounters<(SourceId, Country)>),
}

/// The metrics of RUM, which exist only while RUM is on.
#[derive(Debug)]
struct Rum {
    seconds: Table<(ProviderId, PageId), Histogram>,
    rejected: Table<RumReason, Counter>,
}

impl LocalLayer {
    pub(crate) fn new(parts: LocalParts, providers: Arc<[Known]>, ledger: Arc<Ledger>) -> Self {
        let beacons = Beacons::new(&parts, &ledger);
        let rum = parts.rum.path.as_ref().map(|_| Rum {
            seconds: ledger.table(&describe::RUM_SECONDS),
            rejected: ledger.table(&describe::RUM_REJECTED),
        });
        let edge_logs = EdgeLogs::new(&parts.edge_logs, &ledger);
        Self { shared: Arc::new(Shared { parts, providers, ledger, beacons, rum, edge_logs }) }
    }
}

impl Beacons {
    fn new(parts: &LocalParts, ledger: &Ledger) -> Self {
        if parts.countries.is_none() {
            return Self::BySource(ledger.table(&describe::BEACONS));
        }
        let counters = ledger.lazy(&describe::BEACONS);
        // Creates a series for each source now, so that each source has the value 0 before its first beacon.
        let configured = (0..parts.sources.len()).map(SourceId::configured);
        for source in configured.chain([SourceId::OTHER]) {
            counters.get((source, Country::OTHER));
        }
        Self::ByCountry(counters)
    }

    fn count(&self, source: SourceId, country: Country) {
        match self {
            Self::BySource(counters) => counters.get(source),
            Self::ByCountry(counters) => counters.get((source, country)),
        }
        .increment(1);
    }
}

impl<S> Layer<S> for LocalLayer {
    type Service = Local<S>;

    fn layer(&self, inner: S) -> Local<S> {
        Local { inner, shared: Arc::clone(&self.shared) }
    }
}

/// The service of [`LocalLayer`].
#[derive(Debug, Clone)]
pub(crate) struct Local<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B> Service<Box<EdgeRequest>> for Local<S>
where
    S: Service<Box<EdgeRequest>, Response = EdgeResponse<B>>,
{
    type Response = EdgeResponse<LocalBody<B>>;
    type Error = S::Error;
    type Future = LocalFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Box<EdgeRequest>) -> Self::Future {
        let parts = &self.shared.parts;
        let uri = &request.head.uri;
        match parts.endpoint(uri.path_and_query().map_or(uri.path(), PathAndQuery::as_str)) {
            Some(Endpoint::Smoke(signed)) if echo::is_answered(&request.head.method) => {
                return LocalFuture::Done { response: Some(self.shared.echo(request, signed)) };
            }
            None | Some(Endpoint::Smoke(_)) => return LocalFuture::Inner { inner: self.inner.call(request) },
            Some(Endpoint::Beacon) => return LocalFuture::Done { response: Some(self.shared.beacon(request)) },
            Some(Endpoint::EdgeLogs) => return self.shared.read_logs(request),
            Some(Endpoint::FastlyChallenge) => {
                return LocalFuture::Done { response: Some(self.shared.challenge(request)) };
            }
            Some(Endpoint::Rum) => {}
        }
        match has_form(&request) {
            Ok(true) => {
                let posted = Posted::new(rum::MAX_BODY_BYTES, parts.body_timeout);
                let form = Form { shared: Arc::clone(&self.shared), request, posted };
                LocalFuture::Reading { form: Some(Box::new(form)) }
            }
            Ok(false) => LocalFuture::Done { response: Some(self.shared.rum(request, Ok(&[]))) },
            Err(reason) => LocalFuture::Done { response: Some(self.shared.rum(request, Err(reason))) },
        }
    }
}

/// The endpoint to which a request belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// The image in the whoopsie page.
    Beacon,
    /// Load times from browsers.
    Rum,
    /// Logs that CDNs push.
    EdgeLogs,
    /// The question of Fastly whether Fastly is allowed to push logs.
    FastlyChallenge,
    /// A signed path of `edgeshim smoke`. Only GET and HEAD get a response from this endpoint.
    Smoke(Signed),
}

impl LocalParts {
    /// Returns the endpoint at `target`, which is a path with or without a query. Returns `None` if the request is for
    /// the origin.
    pub(crate) fn endpoint(&self, target: &str) -> Option<Endpoint> {
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        if path == self.beacon.path {
            Some(Endpoint::Beacon)
        } else if self.rum.path.as_deref() == Some(path) {
            Some(Endpoint::Rum)
        } else if self.edge_logs.is_endpoint(path) {
            Some(Endpoint::EdgeLogs)
        } else if self.edge_logs.is_challenge(path) {
            Some(Endpoint::FastlyChallenge)
        } else {
            self.smoke.signed(target).map(Endpoint::Smoke)
        }
    }
}

/// Returns whether a RUM request has a form in its body, or the reason why the request is rejected.
fn has_form(request: &EdgeRequest) -> Result<bool, RumReason> {
    let headers = &request.head.headers;
    match request.head.method {
        Method::GET => Ok(false),
        Method::POST => {
            if !rum::is_form(headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes)) {
                return Err(RumReason::MediaType);
            }
            let length = content_length(headers).unwrap_or_default();
            if length.is_some_and(|length| length > rum::MAX_BODY_BYTES as u64) {
                return Err(RumReason::TooLarge);
            }
            Ok(true)
        }
        _ => Err(RumReason::Method),
    }
}

type Response = (response::Parts, Bytes);

impl Shared {
    /// Checks the CDN's proofs. The result decides the provider under which the request is counted, and the client's
    /// address. A failed proof does not lead to a refusal.
    fn check(&self, request: &mut EdgeRequest) {
        request.ctx.verify(&self.providers, &request.head, &request.peer);
    }

    fn beacon(&self, mut request: Box<EdgeRequest>) -> Response {
        self.check(&mut request);
        let mut head = uncacheable(StatusCode::OK, request.ctx.dialect);
        let pixel = match request.head.method {
            Method::GET | Method::HEAD => {
                let query = request.head.uri.query().unwrap_or_default();
                let source = beacon::source(query, &self.parts.sources);
                let countries = self.parts.countries.as_ref();
                let country = countries.map_or(Country::OTHER, |countries| countries.of(request.ctx.trail.client));
                self.beacons.count(source, country);
                head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("image/gif"));
                beacon::PIXEL
            }
            _ => {
                head.status = StatusCode::METHOD_NOT_ALLOWED;
                head.headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                b""
            }
        };
        self.complete(request, head, Bytes::from_static(pixel), "")
    }

    fn rum(&self, mut request: Box<EdgeRequest>, body: Result<&[u8], RumReason>) -> Response {
        self.check(&mut request);
        let mut head = uncacheable(StatusCode::OK, request.ctx.dialect);
        let query = request.head.uri.query().unwrap_or_default();
        let is_read = body.is_ok();
        let sample = body.and_then(|body| rum::sample(body, query, &self.parts.rum.pages));
        let (text, cause) = match sample {
            Ok(sample) => {
                if let Some(rum) = &self.rum {
                    rum.seconds.get((request.ctx.provider, sample.page)).record(sample.seconds);
                }
                head.status = StatusCode::NO_CONTENT;
                ("", "")
            }
            Err(reason) => {
                if let Some(rum) = &self.rum {
                    rum.rejected.get(reason).increment(1);
                }
                let (status, text) = rum::rejection(reason);
                head.status = status;
                head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
                if reason == RumReason::Method {
                    head.headers.insert(ALLOW, HeaderValue::from_static("GET, POST"));
                }
                if !is_read && !request.body.is_end_stream() {
                    // On HTTP/1, this closes the connection, because the rest of the request body is not read.
                    head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
                }
                (text, reason.as_str())
            }
        };
        self.complete(request, head, Bytes::from_static(text.as_bytes()), cause)
    }

    /// Completes the response and writes the log line of the request.
    fn complete(
        &self,
        mut request: Box<EdgeRequest>,
        mut head: response::Parts,
        mut body: Bytes,
        cause: &'static str,
    ) -> Response {
        if request.head.method == Method::HEAD {
            // hyper drops the body of a response to HEAD only on HTTP/1.1. For HTTP/2 the body is removed here.
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            body.clear();
        }
        if let Some(mut line) = request.line.take() {
            let record = &mut line.record;
            record.status = head.status.as_u16();
            record.bytes = body.len() as u64;
            record.provider = self.ledger.provider(request.ctx.provider);
            record.client = Some(request.ctx.trail.client);
            record.cause = cause;
            if let Some(cut) = beacon::cut(&record.target).and_then(|target| target.parse().ok()) {
                record.target = cut;
            }
            line.write(request.ctx.arrived);
        }
        (head, body)
    }
}

/// A RUM request whose body this layer reads at the moment.
#[derive(Debug)]
pub(crate) struct Form {
    shared: Arc<Shared>,
    request: Box<EdgeRequest>,
    posted: Posted,
}

pin_project! {
    /// Waits for the response of the next layer, or for a form, or for a batch of log lines. In the variant `Done`, the
    /// response of this layer is ready.
    #[project = Projected]
    pub enum LocalFuture<F> {
        Inner {
            #[pin]
            inner: F,
        },
        Reading {
            form: Option<Box<Form>>,
        },
        ReadingLogs {
            batch: Option<Box<LogBatch>>,
        },
        Done {
            response: Option<Response>,
        },
    }
}

impl<F, B, E> Future for LocalFuture<F>
where
    F: Future<Output = Result<EdgeResponse<B>, E>>,
{
    type Output = Result<EdgeResponse<LocalBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const ONCE: &str = "the future was polled again after it had returned its result";
        let (head, text) = match self.project() {
            Projected::Inner { inner } => {
                return Poll::Ready(Ok(ready!(inner.poll(cx))?.map(|inner| LocalBody::Inner { inner })));
            }
            Projected::Reading { form } => {
                let reading = form.as_mut().expect(ONCE);
                let body = ready!(reading.posted.poll(&mut reading.request.body, cx));
                let Form { shared, request, .. } = *form.take().expect(ONCE);
                match &body {
                    Ok(body) => shared.rum(request, Ok(body)),
                    Err(unread) => shared.rum(request, Err((*unread).into())),
                }
            }
            Projected::ReadingLogs { batch } => {
                let sums = ready!(batch.as_mut().expect(ONCE).poll(cx));
                batch.take().expect(ONCE).response(sums)
            }
            Projected::Done { response } => response.take().expect(ONCE),
        };
        let facts = Facts::new(ClassId::OTHER);
        Poll::Ready(Ok(EdgeResponse { head, body: LocalBody::Text { text }, facts }))
    }
}

pin_project! {
    /// A body from the next layer or from this layer.
    #[project = ProjectedBody]
    pub enum LocalBody<B> {
        Inner {
            #[pin]
            inner: B,
        },
        /// The bytes that are still to be sent.
        Text {
            text: Bytes,
        },
    }
}

impl<B: EdgeBody> Body for LocalBody<B> {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self.project() {
            ProjectedBody::Inner { inner } => inner.poll_frame(cx),
            ProjectedBody::Text { text } if text.is_empty() => Poll::Ready(None),
            ProjectedBody::Text { text } => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Inner { inner } => inner.is_end_stream(),
            Self::Text { text } => text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Inner { inner } => inner.size_hint(),
            Self::Text { text } => SizeHint::with_exact(text.len() as u64),
        }
    }
}

impl<B: EdgeBody> EdgeBody for LocalBody<B> {
    fn tally(&self) -> Tally {
        match self {
            Self::Inner { inner } => inner.tally(),
            Self::Text { .. } => Tally::default(),
        }
    }

    fn poll_splice(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, Fault>>> {
        match self.project() {
            ProjectedBody::Inner { inner } => inner.poll_splice(cx),
            ProjectedBody::Text { .. } => Poll::Ready(None),
        }
    }
}
