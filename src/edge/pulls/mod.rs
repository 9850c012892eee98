//! Counts every pull once, and responds to pulls that are refused.
//!
//! **Place:** outside of every layer that responds to pulls, so that pages, shed requests and refusals are counted like
//! the origin's responses; inside `local`, whose requests are not pulls. `observe`, `identify` and `verify` mark a
//! request that must be refused. This layer responds to the marked request and counts the refusal.
//! **Reads:** `Ctx`. Of the request: method, target, Host, Range, If-None-Match, If-Modified-Since, and the field with
//! the CDN's request id. Of the response: `Facts`, status, Content-Encoding, Vary, Cache-Control, and the fields in
//! which the CDN reads lifetimes before Cache-Control.
//! **Metrics:** `edgeshim_pulls_total`, `edgeshim_pull_bytes_total`, `edgeshim_pull_seconds`,
//! `edgeshim_revalidations_total`, `edgeshim_in_flight`, `edgeshim_origin_seconds`, `edgeshim_origin_bytes_total`,
//! `edgeshim_refused_total`, `edgeshim_shield_pulls_total`, `edgeshim_probe_pulls_total`, `edgeshim_retry_pulls_total`,
//! `edgeshim_pull_reasons_total`, `edgeshim_share_ratio`, and the pulls in `edgeshim_offload_ratio`.
//! **Cost:** one allocation; about ten atomic adds; a hash of the host and path; a hash of the query and a hash of the
//! CDN's request id, if present; a few lookups in the table of objects; two locks of the worker's list of URLs. **Can
//! fail:** no, because the layers below have turned every fault into a response.
//!
//! The pull of an upgraded connection is counted, and its log line is written, when the connection ends.

mod counts;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use self::counts::{Counts, Revalidation};
use super::request::attempts::Attempts;
use super::request::objects::{Objects, Pulled, Wanted};
use super::request::top::Tops;
use super::request::{EdgeBody, EdgeFuture, EdgeRequest, EdgeResponse, Facts, Tally, refusal};
use crate::access_log::Line;
use crate::cdn::dialect::Dialect;
use crate::cdn::grant::Grant;
use crate::fault::{Cause, Fault};
use crate::ids::{ContentCoding, ProviderId, PullKind, PullReason, Reason};
use crate::metrics::Ledger;
use crate::origin::{Pipe, Tunnel};
use crate::wire::head_fields::Fields;
use crate::wire::names::{CONTENT_ENCODING, IF_MODIFIED_SINCE, IF_NONE_MATCH};

/// The values that the layer needs in addition to the [`Ledger`].
#[derive(Debug, Clone)]
pub(crate) struct PullsParts {
    /// For each configured provider, the header field in which its CDN sends a request id. A retry of the CDN repeats
    /// the id of the first attempt.
    pub request_ids: Vec<Option<HeaderName>>,
    /// The recent request ids, by which retries are detected. All workers share these ids.
    pub attempts: Arc<Attempts>,
    /// The objects that the providers hold in their caches. All workers and configurations share this table.
    pub objects: Arc<Objects>,
    /// The lists of the URLs that are pulled most. Each worker adds one list.
    pub tops: Arc<Tops>,
}

impl PullsParts {
    /// Returns the kind of the pull. A pull from an edge or a shield is a retry if it repeats a recent pull with the
    /// same request id.
    fn kind(&self, request: &EdgeRequest) -> PullKind {
        let EdgeRequest { ctx, head, .. } = request;
        let field = ctx.provider.position().and_then(|position| self.request_ids.get(position)?.as_ref());
        match (ctx.kind, field) {
            (kind @ (PullKind::Edge | PullKind::Shield), Some(field)) => {
                if self.attempts.is_again(field, head) {
                    PullKind::Retry
                } else {
                    kind
                }
            }
            (kind, _) => kind,
        }
    }
}

/// Puts [`Pulls`] around a service.
#[derive(Debug, Clone)]
pub(crate) struct PullsLayer {
    parts: Arc<PullsParts>,
    counts: Arc<Counts>,
}

impl PullsLayer {
    pub(crate) fn new(parts: PullsParts, ledger: Arc<Ledger>) -> Self {
        let counts = Arc::new(Counts::new(ledger, Arc::clone(&parts.objects), parts.tops.list()));
        Self { parts: Arc::new(parts), counts }
    }
}

impl<S> Layer<S> for PullsLayer {
    type Service = Pulls<S>;

    fn layer(&self, inner: S) -> Pulls<S> {
        Pulls { inner, parts: Arc::clone(&self.parts), counts: Arc::clone(&self.counts) }
    }
}

/// The service of [`PullsLayer`].
#[derive(Debug, Clone)]
pub(crate) struct Pulls<S> {
    inner: S,
    parts: Arc<PullsParts>,
    counts: Arc<Counts>,
}

impl<S, B> Service<Box<EdgeRequest>> for Pulls<S>
where
    S: Service<Box<EdgeRequest>, Response = EdgeResponse<B>, Error = Infallible, Future: EdgeFuture>,
    B: EdgeBody,
{
    type Response = EdgeResponse<PullsBody<B>>;
    type Error = Infallible;
    type Future = PullsFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Box<EdgeRequest>) -> Self::Future {
        request.ctx.kind = self.parts.kind(&request);
        let pull = Pull::start(Arc::clone(&self.counts), &mut request);
        match request.ctx.refusal {
            Some(reason) => PullsFuture::Refused { reason, dialect: request.ctx.dialect, pull: Some(pull) },
            None => PullsFuture::Inner { inner: self.inner.call(request), pull: Some(pull) },
        }
    }
}

pin_project! {
    /// Waits for the response. If the client disconnects or the drain ends before the response, the future is dropped,
    /// and the pull is counted under 499.
    #[project = Projected]
    pub enum PullsFuture<F: EdgeFuture> {
        Inner {
            #[pin]
            inner: F,
            pull: Option<Box<Pull>>,
        },
        Refused {
            reason: Reason,
            dialect: Dialect,
            pull: Option<Box<Pull>>,
        },
    }

    impl<F: EdgeFuture> PinnedDrop for PullsFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            if let Projected::Inner { inner, pull: Some(pull) } = this.project()
                && let Some((facts, tally)) = inner.begun()
            {
                pull.begun(facts, tally);
            }
        }
    }
}

impl<F, B> Future for PullsFuture<F>
where
    F: Future<Output = Result<EdgeResponse<B>, Infallible>> + EdgeFuture,
    B: EdgeBody,
{
    type Output = Result<EdgeResponse<PullsBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const ONCE: &str = "the future was polled again after it had returned its result";
        match self.project() {
            Projected::Inner { inner, pull } => {
                let Ok(mut response) = ready!(inner.poll(cx));
                let mut pull = pull.take().expect(ONCE);
                pull.responded(&response);
                let pull = match response.head.extensions.remove::<Arc<Tunnel>>() {
                    Some(tunnel) => {
                        tunnel.at_end(move |sent, origin_bytes| pull.tunnelled(sent, origin_bytes));
                        None
                    }
                    None => Some(pull),
                };
                Poll::Ready(Ok(response.map(|inner| PullsBody { inner: Some(inner), pull })))
            }
            Projected::Refused { reason, dialect, pull } => {
                let mut pull = pull.take().expect(ONCE);
                let head = refusal(*reason, *dialect);
                pull.refusal = Some(*reason);
                pull.counts.ledger.refused(pull.provider, *reason);
                pull.code = head.status.as_u16();
                pull.expected = Some(0);
                let facts = Facts::new(pull.facts.class);
                Poll::Ready(Ok(EdgeResponse { head, body: PullsBody { inner: None, pull: Some(pull) }, facts }))
            }
        }
    }
}

/// One pull, from its head to its last byte. The pull is counted when this value is dropped. A `Pull` is boxed, because
/// the future and the body that contain the `Pull` are moved through all layers.
#[derive(Debug)]
pub(crate) struct Pull {
    counts: Arc<Counts>,
    provider: ProviderId,
    arrived: Instant,
    kind: PullKind,
    dialect: Dialect,
    method: Method,
    is_conditional: bool,
    /// The status of the response, or 499 until there is a response head.
    code: u16,
    /// The length of the body, if it is known. A body is complete when this number of bytes was sent, even if the
    /// transport stops polling after the last byte.
    expected: Option<u64>,
    sent: u64,
    /// Whether the layer outside has received the complete body.
    whole: bool,
    tally: Tally,
    facts: Facts,
    refusal: Option<Reason>,
    /// The data that decide the pull's [`PullReason`].
    pulled: Pulled,
    line: Option<Line>,
}

/// The status under which a pull is counted if the client disconnects, or the drain ends, before the response is
/// complete.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Returns the content coding of the response. Either edgeshim or the origin has applied the coding.
fn coding(fields: Fields<'_>) -> ContentCoding {
    let Some(coding) = fields.get(&CONTENT_ENCODING) else { return ContentCoding::Identity };
    let coding = coding.as_bytes().trim_ascii();
    let mut known = ContentCoding::ALL.into_iter();
    known.find(|known| coding.eq_ignore_ascii_case(known.as_str().as_bytes())).unwrap_or(ContentCoding::Other)
}

impl Pull {
    fn start(counts: Arc<Counts>, request: &mut EdgeRequest) -> Box<Self> {
        let ctx = &request.ctx;
        let fields = ctx.fields(&request.head.headers);
        let mut line = request.line.take();
        if let Some(line) = &mut line {
            let record = &mut line.record;
            record.proof = ctx.proof.as_str();
            record.client = Some(ctx.trail.client);
            record.pop = ctx.pop;
            record.kind = ctx.kind;
        }
        counts.in_flight.get(ctx.provider).increment(1.0);
        counts.kind(ctx.kind);
        let url = counts.objects.url(&request.head);
        counts.top.begin(url, ctx.provider, &request.head, ctx.arrived);
        let pulled = Pulled {
            url,
            provider: *counts.providers.get(ctx.provider),
            coding: ContentCoding::Identity,
            wanted: Wanted::of(fields),
            is_stored: false,
            is_not_modified: false,
            grant: None,
        };
        Box::new(Self {
            counts,
            provider: ctx.provider,
            arrived: ctx.arrived,
            kind: ctx.kind,
            dialect: ctx.dialect,
            is_conditional: fields.has(&IF_NONE_MATCH) || fields.has(&IF_MODIFIED_SINCE),
            method: request.head.method.clone(),
            code: CLIENT_CLOSED_REQUEST,
            expected: None,
            sent: 0,
            whole: false,
            tally: Tally::default(),
            facts: Facts::new(ctx.class),
            refusal: None,
            pulled,
            line,
        })
    }

    /// Returns the status to count. If a fault cut the body, the function returns the status that was sent, because the
    /// fault is counted by its cause. If the response is incomplete for another reason, the function returns 499: the
    /// client has disconnected, or the drain has ended.
    fn counted(&self) -> u16 {
        let whole = self.whole || self.expected == Some(self.sent);
        if whole || self.tally.fault.is_some() { self.code } else { CLIENT_CLOSED_REQUEST }
    }

    /// Stores the facts and the tally of a response, and records the origin's response time. Called when the response
    /// head arrives, or when the future is dropped while a layer below still delays the head.
    fn begun(&mut self, facts: Facts, tally: Tally) {
        self.facts = facts;
        self.tally = tally;
        if let Some(micros) = facts.origin_us {
            self.counts.origin_seconds.get(self.facts.class).record(Duration::from_micros(micros.into()).as_secs_f64());
        }
    }

    /// Stores the numbers of bytes of an upgraded connection that has ended. Dropping `self` counts the pull.
    fn tunnelled(mut self: Box<Self>, sent: u64, origin_bytes: u64) {
        self.whole = true;
        self.sent = sent;
        self.tally.origin_bytes = origin_bytes;
    }

    fn responded<B: EdgeBody>(&mut self, response: &EdgeResponse<B>) {
        self.begun(response.facts, response.body.tally());
        let (status, fields) = (response.head.status, response.fields());
        self.pulled.coding = coding(fields);
        self.pulled.is_not_modified = status == StatusCode::NOT_MODIFIED && self.method == Method::GET;
        if matches!(self.method, Method::GET | Method::HEAD) {
            let grant = response.facts.grant.unwrap_or_else(|| Grant::of(self.dialect, status, fields));
            debug_assert_eq!(grant, Grant::of(self.dialect, status, fields), "{status} {:?}", response.head.headers);
            self.pulled.grant = Some(grant);
        }
        self.code = status.as_u16();
        let bodiless = self.method == Method::HEAD
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
            || status == StatusCode::SWITCHING_PROTOCOLS
            || response.body.is_end_stream();
        self.expected = if bodiless { Some(0) } else { response.body.size_hint().exact() };
        if self.is_conditional {
            let result = match response.facts.origin_status {
                Some(304) => Revalidation::NotModified,
                Some(200..=299) => Revalidation::Modified,
                _ => return,
            };
            self.counts.revalidations.get((self.provider, self.facts.class, result)).increment(1);
            if let Some(line) = &mut self.line {
                line.record.revalidated = result.as_str();
            }
        }
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.counts.in_flight.get(self.provider).decrement(1.0);
        let code = self.counted();
        self.pulled.is_stored = self.method == Method::GET && code == self.code && self.tally.fault.is_none();
        let now = Instant::now();
        let reason = self.counts.objects.reason(&self.pulled, now);
        self.counts.reasons.get((self.provider, reason)).increment(1);
        self.counts.top.end(self.pulled.url, self.sent, reason == PullReason::Early);
        let row = self.counts.rows.get((self.provider, self.facts.class));
        if code == 200 {
            row.ok.increment(1);
        } else {
            self.counts.code(row, self.provider, self.facts.class, code);
        }
        row.bytes.increment(self.sent);
        match self.kind {
            // A health check does not count for the offload, because no request at the edge caused the health check.
            PullKind::Probe => {}
            // A retry counts only its bytes for the offload: the first attempt was counted for the same request at the
            // edge.
            PullKind::Retry => row.book.pull(0, self.sent),
            PullKind::Unknown | PullKind::Edge | PullKind::Shield => row.book.pull(1, self.sent),
        }
        row.seconds.record(now.saturating_duration_since(self.arrived).as_secs_f64());
        self.counts.origin_bytes.get(self.facts.class).increment(self.tally.origin_bytes);
        if let Some(mut line) = self.line.take() {
            let record = &mut line.record;
            let ledger = &self.counts.ledger;
            record.provider = ledger.provider(self.provider);
            record.class = Some(ledger.class(self.facts.class));
            record.status = code;
            record.bytes = self.sent;
            record.origin_bytes = self.tally.origin_bytes;
            record.origin_status = self.facts.origin_status;
            record.origin_us = self.facts.origin_us;
            record.encoding = self.pulled.coding.as_str();
            record.why = Some(reason.as_str());
            record.guard = self.facts.guard;
            let fault = self.tally.fault.or(self.facts.cause).map(Cause::as_str);
            record.cause = fault.or(self.refusal.map(Reason::as_str)).unwrap_or("");
            record.locale = self.facts.locale.map_or("", |locale| ledger.locale(locale));
            line.write(self.arrived);
        }
    }
}

pin_project! {
    /// Counts the bytes of the body that are sent.
    pub struct PullsBody<B> {
        #[pin]
        inner: Option<B>,
        // `None` for an upgraded connection, whose pull is counted when the connection ends.
        pull: Option<Box<Pull>>,
    }
}

impl<B: EdgeBody> Body for PullsBody<B> {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let mut this = self.project();
        let Some(mut inner) = this.inner.as_mut().as_pin_mut() else {
            if let Some(pull) = this.pull {
                pull.whole = true;
            }
            return Poll::Ready(None);
        };
        let frame = inner.as_mut().poll_frame(cx);
        let Some(pull) = this.pull else { return frame };
        // The tally is updated even if there is no frame, because a compressor can have read bytes for which it has not
        // returned output yet.
        pull.tally = inner.tally();
        let frame = ready!(frame);
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    pull.sent += data.len() as u64;
                }
                pull.whole = inner.is_end_stream() || frame.is_trailers();
            }
            Some(Err(_)) => {}
            None => pull.whole = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: EdgeBody> EdgeBody for PullsBody<B> {
    fn tally(&self) -> Tally {
        self.pull.as_ref().map_or_else(Tally::default, |pull| pull.tally)
    }

    fn poll_splice(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, Fault>>> {
        let mut this = self.project();
        let Some(mut inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let filled = ready!(inner.as_mut().poll_splice(cx));
        if let Some(pull) = this.pull {
            pull.tally = inner.tally();
            if let Some(Ok(pipe)) = &filled {
                pull.sent += pipe.bytes() as u64;
                pull.whole = inner.is_end_stream();
            }
        }
        Poll::Ready(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::request::objects::UrlHash;
    use crate::ids::ClassId;
    use crate::metrics::{Labels, Metrics};

    /// A body that has read five bytes and returns no frame yet, like the body of a compressor.
    struct Unready;

    impl Body for Unready {
        type Data = Bytes;
        type Error = Fault;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
            Poll::Pending
        }
    }

    impl EdgeBody for Unready {
        fn tally(&self) -> Tally {
            Tally { origin_bytes: 5, fault: None }
        }
    }

    #[test]
    fn status_when_from_100_to_599_then_increments_the_counter_of_the_exact_code() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        let labels = Labels { providers: vec!["fastly"], ..Labels::default() };
        let counts = Counts::new(Arc::new(metrics.ledger(&labels)), Arc::default(), Tops::default().list());
        let provider = ProviderId::configured(0);
        for code in [404, 499, 599, 99, 600, 0, 499] {
            counts.code(counts.rows.get((provider, ClassId::OTHER)), provider, ClassId::OTHER, code);
        }
        let text = metrics.render();
        for (code, count) in [(200, 0), (404, 1), (499, 2), (599, 1)] {
            let line = format!("edgeshim_pulls_total{{provider=\"fastly\",class=\"other\",code=\"{code}\"}} {count}");
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("code=\"600\"") && !text.contains("code=\"99\""));
    }

    #[test]
    fn origin_bytes_when_read_but_not_sent_before_disconnect_then_are_counted() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        let counts =
            Arc::new(Counts::new(Arc::new(metrics.ledger(&Labels::default())), Arc::default(), Tops::default().list()));
        let pulled = Pulled {
            url: UrlHash::default(),
            provider: 0,
            coding: ContentCoding::Identity,
            wanted: Wanted::Whole,
            is_stored: false,
            is_not_modified: false,
            grant: None,
        };
        let pull = Pull {
            counts: Arc::clone(&counts),
            provider: ProviderId::NONE,
            arrived: Instant::now(),
            kind: PullKind::Unknown,
            dialect: Dialect::Generic,
            method: Method::GET,
            is_conditional: false,
            code: 200,
            expected: None,
            sent: 0,
            whole: false,
            tally: Tally::default(),
            facts: Facts::new(ClassId::OTHER),
            refusal: None,
            pulled,
            line: None,
        };
        let mut body = PullsBody { inner: Some(Unready), pull: Some(Box::new(pull)) };
        assert!(Pin::new(&mut body).poll_frame(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        drop(body);
        let counted = metrics.render();
        assert!(counted.contains("edgeshim_origin_bytes_total{class=\"other\"} 5\n"), "{counted}");
    }
}
