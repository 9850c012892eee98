//! Counts every pull once, and answers the ones that were refused.
//!
//! **Place:** outside of everything that makes an answer, so that pages, shed requests and refusals count like the origin's own
//! answers; inside `local`, whose requests are no pulls. `identify` and `observe` only *mark* a refusal, so that it is counted and
//! answered here and nowhere else.
//! **Reads:** `Ctx::{provider, kind, class, refusal}`, the answer's `Facts`, If-None-Match and If-Modified-Since, the field in which
//! the CDN names its request.
//! **Metrics:** `edgeshim_pulls_total`, `edgeshim_pull_bytes_total`, `edgeshim_pull_seconds`, `edgeshim_revalidations_total`,
//! `edgeshim_in_flight`, `edgeshim_origin_seconds`, `edgeshim_origin_bytes_total`, `edgeshim_refused_total`,
//! `edgeshim_shield_pulls_total`, `edgeshim_probe_pulls_total`, `edgeshim_retry_pulls_total`.
//! An upgraded connection is counted, and its log line written, when it ends.
//! **Cost:** eight atomic adds, and one hash where the CDN names its requests. **Can fail:** no; below it every fault has become an answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::request::attempts::Attempts;
use super::request::{EdgeBody, EdgeFuture, EdgeRequest, EdgeResponse, Facts, Tally, refusal};
use crate::access_log::Line;
use crate::cdn::dialect::Dialect;
use crate::fault::{Cause, Fault};
use crate::ids::{ClassId, ProviderId, PullKind};
use crate::metrics::{Ledger, Reason};
use crate::origin::Tunnel;
use crate::wire::names::{CONTENT_ENCODING, IF_MODIFIED_SINCE, IF_NONE_MATCH};

/// What `pulls` needs to know.
#[derive(Debug, Clone)]
pub(crate) struct PullsSettings {
    /// The field of an id that is the same when a pull is tried again, by configured provider.
    pub request_ids: Vec<Option<HeaderName>>,
    /// The pulls of late, shared by all workers.
    pub attempts: Arc<Attempts>,
}

impl PullsSettings {
    /// What sort of pull it is: a second attempt is told by the id that its CDN gave the first.
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
    settings: Arc<PullsSettings>,
    ledger: Arc<Ledger>,
}

impl PullsLayer {
    /// Counts in `ledger`.
    pub(crate) fn new(settings: PullsSettings, ledger: Arc<Ledger>) -> Self {
        Self { settings: Arc::new(settings), ledger }
    }
}

impl<S> Layer<S> for PullsLayer {
    type Service = Pulls<S>;

    fn layer(&self, inner: S) -> Pulls<S> {
        Pulls { inner, settings: Arc::clone(&self.settings), ledger: Arc::clone(&self.ledger) }
    }
}

/// See the head of this file.
#[derive(Debug, Clone)]
pub(crate) struct Pulls<S> {
    inner: S,
    settings: Arc<PullsSettings>,
    ledger: Arc<Ledger>,
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
        request.ctx.kind = self.settings.kind(&request);
        let pull = Pull::start(Arc::clone(&self.ledger), &mut request);
        match request.ctx.refusal {
            Some(reason) => PullsFuture::Refused { reason, dialect: request.ctx.dialect, pull: Some(pull) },
            None => PullsFuture::Inner { inner: self.inner.call(request), pull: Some(pull) },
        }
    }
}

pin_project! {
    /// Waits for the answer; dropped before it comes, the visitor has left.
    #[project = Projected]
    pub enum PullsFuture<F: EdgeFuture> {
        /// On its way.
        Inner {
            #[pin]
            inner: F,
            pull: Option<Pull>,
        },
        /// Not to go further.
        Refused {
            reason: Reason,
            dialect: Dialect,
            pull: Option<Pull>,
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
        match self.project() {
            Projected::Inner { inner, pull } => {
                let Ok(mut answer) = ready!(inner.poll(cx));
                let mut pull = pull.take().expect("a future is not polled after it was ready");
                pull.answered(&answer);
                let pull = match answer.head.extensions.remove::<Arc<Tunnel>>() {
                    Some(tunnel) => {
                        tunnel.at_end(move |sent, origin_bytes| pull.tunnelled(sent, origin_bytes));
                        None
                    }
                    None => Some(pull),
                };
                Poll::Ready(Ok(answer.map(|inner| PullsBody { inner: Some(inner), pull })))
            }
            Projected::Refused { reason, dialect, pull } => {
                let mut pull = pull.take().expect("a future is not polled after it was ready");
                let head = refusal(*reason, *dialect);
                pull.refusal = Some(*reason);
                pull.ledger.refused(pull.provider, *reason);
                pull.code = head.status.as_u16();
                pull.expected = Some(0);
                let facts = Facts::new(pull.class);
                Poll::Ready(Ok(EdgeResponse { head, body: PullsBody { inner: None, pull: Some(pull) }, facts }))
            }
        }
    }
}

/// One pull from its head to its last byte; counts itself when dropped.
#[derive(Debug)]
pub(crate) struct Pull {
    ledger: Arc<Ledger>,
    provider: ProviderId,
    class: ClassId,
    arrived: Instant,
    conditional: bool,
    is_head: bool,
    /// 499 until an answer's head is there.
    code: u16,
    /// The body's length where it is known, so that a transport that stops asking after the last byte is no abort.
    expected: Option<u64>,
    sent: u64,
    whole: bool,
    tally: Tally,
    facts: Facts,
    refusal: Option<Reason>,
    encoding: &'static str,
    line: Option<Line>,
}

const CLIENT_CLOSED_REQUEST: u16 = 499;
const IDENTITY: &str = "identity";

/// The log's word for an answer's coding, whoever put it on.
fn encoding(headers: &HeaderMap) -> &'static str {
    let Some(coding) = headers.get(CONTENT_ENCODING) else { return IDENTITY };
    let coding = coding.as_bytes().trim_ascii();
    let known = ["gzip", "br", "zstd", "deflate", IDENTITY];
    known.into_iter().find(|known| coding.eq_ignore_ascii_case(known.as_bytes())).unwrap_or("other")
}

impl Pull {
    fn start(ledger: Arc<Ledger>, request: &mut EdgeRequest) -> Self {
        let ctx = &request.ctx;
        let headers = &request.head.headers;
        let mut line = request.line.take();
        if let Some(line) = &mut line {
            let record = &mut line.record;
            record.proof = ctx.proof.as_str();
            record.client = Some(ctx.trail.client);
            record.pop = ctx.pop;
            record.kind = ctx.kind;
        }
        ledger.in_flight(ctx.provider).increment(1.0);
        ledger.metrics().pull_kind(ctx.kind);
        Self {
            ledger,
            provider: ctx.provider,
            class: ctx.class,
            arrived: ctx.arrived,
            conditional: headers.contains_key(IF_NONE_MATCH) || headers.contains_key(IF_MODIFIED_SINCE),
            is_head: request.head.method == Method::HEAD,
            code: CLIENT_CLOSED_REQUEST,
            expected: None,
            sent: 0,
            whole: false,
            tally: Tally::default(),
            facts: Facts::new(ctx.class),
            refusal: None,
            encoding: IDENTITY,
            line,
        }
    }

    /// The status to count: 499 where the visitor has left. A body that the origin broke off keeps its status; its fault has been
    /// counted at the origin.
    fn counted(&self) -> u16 {
        let whole = self.whole || self.expected == Some(self.sent);
        if whole || self.tally.fault.is_some() { self.code } else { CLIENT_CLOSED_REQUEST }
    }

    /// The origin has begun to answer.
    fn begun(&mut self, facts: Facts, tally: Tally) {
        self.class = facts.class;
        self.facts = facts;
        self.tally = tally;
        if let Some(micros) = facts.origin_us {
            self.ledger.origin_seconds(self.class, Duration::from_micros(micros.into()));
        }
    }

    /// The upgraded connection has ended, after so many bytes to the client and so many from the origin: it is counted now.
    fn tunnelled(mut self, sent: u64, origin_bytes: u64) {
        self.whole = true;
        self.sent = sent;
        self.tally.origin_bytes = origin_bytes;
    }

    fn answered<B: EdgeBody>(&mut self, answer: &EdgeResponse<B>) {
        self.begun(answer.facts, answer.body.tally());
        if self.line.is_some() {
            self.encoding = encoding(&answer.head.headers);
        }
        let status = answer.head.status;
        self.code = status.as_u16();
        let bodiless = self.is_head
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
            || status == StatusCode::SWITCHING_PROTOCOLS
            || answer.body.is_end_stream();
        self.expected = if bodiless { Some(0) } else { answer.body.size_hint().exact() };
        if self.conditional {
            let row = self.ledger.row(self.provider, self.class);
            match answer.facts.origin_status {
                Some(304) => row.not_modified.increment(1),
                Some(200..=299) => row.modified.increment(1),
                _ => {}
            }
        }
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.ledger.in_flight(self.provider).decrement(1.0);
        let code = self.counted();
        self.ledger.pull(self.provider, self.class, code);
        let row = self.ledger.row(self.provider, self.class);
        row.bytes.increment(self.sent);
        row.seconds.record(self.arrived.elapsed().as_secs_f64());
        self.ledger.origin_bytes(self.class, self.tally.origin_bytes);
        if let Some(mut line) = self.line.take() {
            let record = &mut line.record;
            record.provider = self.ledger.provider(self.provider);
            record.class = Some(self.ledger.class(self.class));
            record.status = code;
            record.bytes = self.sent;
            record.origin_bytes = self.tally.origin_bytes;
            record.origin_status = self.facts.origin_status;
            record.origin_us = self.facts.origin_us;
            record.encoding = self.encoding;
            record.guard = self.facts.guard;
            let fault = self.tally.fault.or(self.facts.cause).map(Cause::as_str);
            record.cause = fault.or(self.refusal.map(Reason::as_str)).unwrap_or("");
            record.locale = self.facts.locale.map_or("", |locale| self.ledger.locale(locale));
            line.write(self.arrived);
        }
    }
}

pin_project! {
    /// Counts what is sent.
    pub struct PullsBody<B> {
        #[pin]
        inner: Option<B>,
        // None: it is counted when the connection that was upgraded ends.
        pull: Option<Pull>,
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
        // Before it is known whether anything comes of it: a compressor holds back what was read.
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Labels, Metrics};

    /// Has read five bytes and gives nothing away, as a compressor does.
    struct HeldBack;

    impl Body for HeldBack {
        type Data = Bytes;
        type Error = Fault;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
            Poll::Pending
        }
    }

    impl EdgeBody for HeldBack {
        fn tally(&self) -> Tally {
            Tally { origin_bytes: 5, fault: None }
        }
    }

    #[test]
    fn bytes_that_were_read_and_held_back_when_the_visitor_left_are_counted() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        let pull = Pull {
            ledger: Arc::new(metrics.ledger(&Labels::default())),
            provider: ProviderId::NONE,
            class: ClassId::OTHER,
            arrived: Instant::now(),
            conditional: false,
            is_head: false,
            code: 200,
            expected: None,
            sent: 0,
            whole: false,
            tally: Tally::default(),
            facts: Facts::new(ClassId::OTHER),
            refusal: None,
            encoding: IDENTITY,
            line: None,
        };
        let mut body = PullsBody { inner: Some(HeldBack), pull: Some(pull) };
        assert!(Pin::new(&mut body).poll_frame(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        drop(body);
        let counted = metrics.render();
        assert!(counted.contains("edgeshim_origin_bytes_total{class=\"other\"} 5\n"), "{counted}");
    }
}
