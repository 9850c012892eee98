//! Compresses a response body if the request accepts gzip and `decide.rs` allows the compression. If `gzip.inflate` is
//! on and the request does not accept gzip, inflates the origin's gzip. If the twin of the body has a br form, a
//! request that accepts br gets this form.
//!
//! **Place:** outside of `cache_control`, because `cache_control` must see the origin's fields. Inside `whoopsie`,
//! because the whoopsie pages have their own gzip form.
//! **Reads:** `Ctx::dialect` and `Ctx::takes_br`. Of the request: method, host, target, Accept-Encoding, Range,
//! If-Range, If-Match, If-None-Match and If-Modified-Since. Of the response: class, status, type, length, entity tag,
//! Vary, Content-Encoding, Content-Range, Cache-Control and X-Accel-Buffering.
//! **Metrics:** `edgeshim_gzip_input_bytes_total`, `edgeshim_gzip_output_bytes_total`, `edgeshim_gzip_skipped_total`,
//! `edgeshim_gzip_twins_total`, `edgeshim_twins_ripened_total`; `edgeshim_origin_faults_total{cause="cut"}` if
//! inflating fails.
//! **Cost:** reading Accept-Encoding; a checksum of host and target; if the request can get a twin, also a hash of host
//! and target. A compressed response also costs the compression. The compressor's memory is reused for the next
//! response. If the body has a stored twin (`twins.rs`), a checksum of the body replaces the compression. A thread in
//! the background makes the gzip form of a twin smaller and adds a br form (`ripener.rs`).
//! **Can fail:** yes, if the inner layer or its body fails, or if the origin's gzip must be inflated and is invalid,
//! incomplete or above a limit of `inflate.rs`. The compressor works in memory and cannot fail.

mod apply;
mod counts;
mod decide;
mod deflate;
mod fields;
mod inflate;
mod keys;
mod known_tags;
mod memory;
mod request_facts;
mod ripener;
#[cfg(test)]
mod tests;
mod transform;
mod twins;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, StatusCode, request, response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use self::apply::{applied, apply_br, vary_for_akamai};
use self::counts::Counts;
use self::deflate::{Deflater, OUTPUT_BYTES};
use self::inflate::Inflater;
use self::known_tags::TagKind;
use self::transform::BYTES_PER_TURN;
use self::twins::{Draft, Found, Key, Loan, Twin, Twins};
pub(crate) use self::{
    decide::{Skip, Verdict, decide},
    keys::GzipSettings,
    memory::GzipMemory,
    request_facts::{RequestFacts, prepare},
    transform::GzipBody,
};

use super::request::class::Classes;
use super::request::{EdgeBody, EdgeFuture, EdgeRequest, EdgeResponse, Facts, Tally};
use crate::cdn::dialect::Dialect;
use crate::fault::{Begun, Fault};
use crate::metrics::Ledger;
use crate::wire::etag::EntityTag;
use crate::wire::host::host;
use crate::wire::names::ETAG;
use crate::wire::values::content_length;

/// The longest time that a response head waits for the whole body, so that the body can be compared with its stored
/// twin. A nearby origin can send 4 MiB, the longest body that can have a twin, within this time.
const PATIENCE: Duration = Duration::from_millis(300);

/// Puts [`Gzip`] around a service.
#[derive(Debug, Clone)]
pub(crate) struct GzipLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: GzipSettings,
    memory: GzipMemory,
    classes: Arc<Classes>,
    counts: Arc<Counts>,
}

impl GzipLayer {
    pub(crate) fn new(settings: GzipSettings, memory: GzipMemory, classes: Arc<Classes>, ledger: Arc<Ledger>) -> Self {
        Self { shared: Arc::new(Shared { settings, memory, classes, counts: Arc::new(Counts::new(ledger)) }) }
    }
}

impl<S> Layer<S> for GzipLayer {
    type Service = Gzip<S>;

    fn layer(&self, inner: S) -> Gzip<S> {
        Gzip { inner, shared: Arc::clone(&self.shared) }
    }
}

/// The service of [`GzipLayer`].
#[derive(Debug, Clone)]
pub(crate) struct Gzip<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B> Service<Box<EdgeRequest>> for Gzip<S>
where
    S: Service<Box<EdgeRequest>, Response = EdgeResponse<B>, Error = Fault>,
    B: EdgeBody + Unpin,
{
    type Response = EdgeResponse<GzipBody<B>>;
    type Error = Fault;
    type Future = GzipFuture<S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Box<EdgeRequest>) -> Self::Future {
        let Shared { settings, memory, .. } = &*self.shared;
        let (names, dialect, takes_br) = (request.ctx.names, request.ctx.dialect, request.ctx.takes_br);
        let facts = RequestFacts::of(settings, &request.head, names, dialect, takes_br);
        let mut target = None;
        if settings.enabled {
            target = memory.twins.as_ref().and_then(|twins| target_of(twins, facts, &request.head));
            prepare(facts, &mut request.head.headers, |opaque| memory.tags.kind(facts.target, opaque));
        }
        let dialect = request.ctx.dialect;
        let state = State::Waiting { inner: self.inner.call(request) };
        GzipFuture { state, request: facts, dialect, target, shared: Arc::clone(&self.shared) }
    }
}

/// Returns the hash of host and target, from which the key of a twin is computed. Returns `None` if the response cannot
/// depend on a twin.
fn target_of(twins: &Twins, facts: RequestFacts, head: &request::Parts) -> Option<u64> {
    // A HEAD request gets no twin. But its response has the coding of the twin that a GET request would get.
    let gets_twin = if facts.is_head { facts.wants_br() } else { facts.wants_coding() && head.method == Method::GET };
    if !gets_twin {
        return None;
    }
    let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    Some(twins.target(host(&head.headers), path.as_bytes()))
}

pin_project! {
    /// Waits for the response. If the decision depends on the body, also waits for the part of the body that the
    /// decision needs.
    pub struct GzipFuture<F, B> {
        #[pin]
        state: State<F, B>,
        request: RequestFacts,
        dialect: Dialect,
        target: Option<u64>,
        shared: Arc<Shared>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<F, B> {
        Waiting {
            #[pin]
            inner: F,
        },
        Undecided {
            undecided: Option<Box<Undecided<B>>>,
        },
    }
}

/// A response whose body is read before the head is sent.
struct Undecided<B> {
    response: EdgeResponse<GzipBody<B>>,
    question: Question,
}

/// The fact about the body that must be known before the head is sent.
enum Question {
    /// Whether the body is at least `gzip.min_bytes` long.
    Length,
    /// Whether the complete body has arrived before the head is sent. Such a body is compressed in one step, while the
    /// compressor's memory is in the CPU's cache. So the head can contain the compressed length.
    Whole { key: Option<Key> },
    /// Whether a body that must be inflated starts with valid gzip.
    IsGzip,
    /// Whether `twin` was made from the same bytes as the body that arrives now.
    Twin { twin: Twin, key: Key },
}

impl<F, B> Future for GzipFuture<F, B>
where
    F: Future<Output = Result<EdgeResponse<B>, Fault>>,
    B: EdgeBody + Unpin,
{
    type Output = Result<EdgeResponse<GzipBody<B>>, Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(self.as_mut().poll_response(cx))?;
        if self.dialect == Dialect::Akamai {
            let known = self.shared.known(self.request, &response.head);
            vary_for_akamai(self.request, known, &mut response.head);
        }
        Poll::Ready(Ok(response))
    }
}

impl<F, B> GzipFuture<F, B>
where
    F: Future<Output = Result<EdgeResponse<B>, Fault>>,
    B: EdgeBody + Unpin,
{
    fn poll_response(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<EdgeResponse<GzipBody<B>>, Fault>> {
        let mut this = self.project();
        let shared = &**this.shared;
        if let Projected::Waiting { inner } = this.state.as_mut().project() {
            let response = ready!(inner.poll(cx))?;
            match shared.decided(*this.request, *this.target, response) {
                Ok(response) => return Poll::Ready(Ok(response)),
                Err(undecided) => this.state.set(State::Undecided { undecided: Some(undecided) }),
            }
        }
        let Projected::Undecided { undecided: slot } = this.state.as_mut().project() else { return Poll::Pending };
        let Some(undecided) = slot else { return Poll::Pending };
        let body = &mut undecided.response.body;
        ready!(match &undecided.question {
            Question::IsGzip => body.poll_begin(cx),
            Question::Length => body.poll_ahead(cx, shared.settings.min_bytes, Duration::ZERO),
            Question::Whole { .. } => body.poll_ahead(cx, u64::MAX, Duration::ZERO),
            Question::Twin { .. } => body.poll_ahead(cx, u64::MAX, PATIENCE),
        });
        match slot.take() {
            Some(undecided) => Poll::Ready(shared.resolve(*this.request, *undecided)),
            None => Poll::Pending,
        }
    }
}

impl<F, B: EdgeBody> EdgeFuture for GzipFuture<F, B> {
    fn begun(&self) -> Option<(Facts, Tally)> {
        let State::Undecided { undecided: Some(undecided) } = &self.state else { return None };
        Some((undecided.response.facts, undecided.response.body.tally()))
    }
}

impl Shared {
    /// Returns `Ok` with the response that will be sent, or `Err` with a response whose body must be read ahead first.
    fn decided<B: EdgeBody>(
        &self,
        request: RequestFacts,
        target: Option<u64>,
        mut response: EdgeResponse<B>,
    ) -> Result<EdgeResponse<GzipBody<B>>, Box<Undecided<B>>> {
        let length = if request.is_head {
            content_length(&response.head.headers).unwrap_or_default()
        } else {
            response.body.size_hint().exact()
        };
        let known = self.known(request, &response.head);
        // A class can depend on the type. So a 304 without a type can get another class than the 200 with the same tag,
        // and that other class can have gzip off. A known kind (`TagKind`) comes from an earlier response with this
        // tag, usually the 200. So the kind overrides the class of the 304. The kind `Weak` does not override the
        // class, because every weak tag gets this kind, even if the class has gzip off.
        let is_on = self.classes.rule(response.facts.class).gzip || known.is_some_and(|kind| kind != TagKind::Weak);
        let verdict = if is_on {
            decide(&self.settings, request, &response.head, response.facts.names, length, known)
        } else {
            Verdict::Leave(Skip::Off)
        };
        // If `gzip.enabled` is off, the kinds are needed only for Akamai (`vary_for_akamai`).
        if known.is_none() && (self.settings.enabled || request.repeats_form) {
            self.note(request, verdict, &response, length);
        }
        // A response to HEAD gets the same head as the response to GET, but the response to HEAD has no body to change.
        match verdict {
            Verdict::Compress if !request.is_head => {}
            Verdict::Inflate if !request.is_head => {
                applied(verdict, &mut response);
                let inflater = Inflater::new(self.counts.ledger.metrics());
                let is_unbuffered = fields::is_unbuffered(response.fields());
                let response = response.map(|inner| GzipBody::plain(inner).inflate(inflater));
                return if is_unbuffered {
                    Ok(response)
                } else {
                    Err(Box::new(Undecided { response, question: Question::IsGzip }))
                };
            }
            _ => {
                if let Some((twins, key, twin)) = self.ripe(request, verdict, target, length, &response) {
                    if request.is_head {
                        apply_br(&mut response);
                        return Ok(response.map(GzipBody::plain));
                    }
                    if let Some(loan) = Loan::take(twins, key.length) {
                        let response = response.map(|inner| GzipBody::undecided(inner, Some(loan)));
                        return Err(Box::new(Undecided { response, question: Question::Twin { twin, key } }));
                    }
                }
                let has_no_body = request.is_head || response.body.is_end_stream();
                if let Verdict::Leave(skip) | Verdict::Vary(skip) = verdict
                    && !has_no_body
                {
                    self.counts.skipped.get(skip).increment(1);
                }
                applied(verdict, &mut response);
                return Ok(response.map(GzipBody::plain));
            }
        }
        let is_unbuffered = fields::is_unbuffered(response.fields());
        let Some(length) = length else {
            if is_unbuffered || self.settings.min_bytes == 0 {
                return Ok(self.compress(response.map(GzipBody::plain), None, is_unbuffered));
            }
            let response = response.map(|inner| GzipBody::undecided(inner, None));
            return Err(Box::new(Undecided { response, question: Question::Length }));
        };
        let key = self.key(target, length, &response).filter(|_| !is_unbuffered);
        if let Some((twins, key)) = key
            && let Some(twin) = twins.find(&key)
            && let Some(loan) = Loan::take(twins, length)
        {
            let response = response.map(|inner| GzipBody::undecided(inner, Some(loan)));
            return Err(Box::new(Undecided { response, question: Question::Twin { twin, key } }));
        }
        let key = key.map(|(_, key)| key);
        if key.is_some() {
            self.counts.twins.get(Found::Miss).increment(1);
        }
        if length > self.turn() || is_unbuffered {
            return Ok(self.compress(response.map(GzipBody::plain), key, is_unbuffered));
        }
        let response = response.map(|inner| GzipBody::undecided(inner, None));
        Err(Box::new(Undecided { response, question: Question::Whole { key } }))
    }

    /// For a response that is not compressed now: returns its twin, if the request accepts br and the twin has br. If
    /// the twin has no br yet, offers the twin to the ripener, except for a HEAD request.
    fn ripe<B: EdgeBody>(
        &self,
        request: RequestFacts,
        verdict: Verdict,
        target: Option<u64>,
        length: Option<u64>,
        response: &EdgeResponse<B>,
    ) -> Option<(&Arc<Twins>, Key, Twin)> {
        let may_have_twin = matches!(verdict, Verdict::Compress | Verdict::Vary(Skip::NotAccepted));
        if !may_have_twin || !request.wants_br() || fields::is_unbuffered(response.fields()) {
            return None;
        }
        let (twins, key) = self.key(target, length?, response)?;
        let twin = twins.find(&key)?;
        if twin.br.is_none() && !request.is_head {
            self.memory.ripen(twins, key, &twin);
        }
        twin.br.is_some().then_some((twins, key, twin))
    }

    /// Returns the kind of the tag of a 304, if the kind is known.
    fn known(&self, request: RequestFacts, head: &response::Parts) -> Option<TagKind> {
        if head.status != StatusCode::NOT_MODIFIED {
            return None;
        }
        fields::tag(&head.headers).and_then(|tag| self.memory.tags.kind(request.target, tag.opaque))
    }

    /// Stores the kind of the response's entity tag in [`KnownTags`], except for a response to HEAD. A response to HEAD
    /// can lack Content-Length. Then it is unknown whether the body is long enough to be compressed.
    fn note<B>(&self, request: RequestFacts, verdict: Verdict, response: &EdgeResponse<B>, length: Option<u64>) {
        let fields = response.fields();
        if !request.is_head
            && let Some(tag) = fields.get(&ETAG).and_then(|tag| EntityTag::outline(tag.as_bytes()))
            && let Some(kind) = decide::tag_kind(&self.settings, verdict, tag, response.head.status, fields, length)
        {
            self.memory.tags.note(request.target, tag.opaque, kind);
        }
    }

    /// Returns the largest number of bytes that a worker compresses in one turn, before it runs its other tasks.
    fn turn(&self) -> u64 {
        (BYTES_PER_TURN / deflate::weight(self.settings.level)) as u64
    }

    /// Returns the key of the response's twin, if the request and the response allow a twin.
    fn key<B>(&self, target: Option<u64>, length: u64, response: &EdgeResponse<B>) -> Option<(&Arc<Twins>, Key)> {
        let twins = self.memory.twins.as_ref()?;
        let fields = response.fields();
        if length > twins::LONGEST || response.head.status != StatusCode::OK || fields::is_private(fields) {
            return None;
        }
        Some((twins, twins.key(target?, fields::strong_tag(fields)?, length)))
    }

    /// Compresses the response. If there is a key, the output is also collected, to be stored as the twin.
    fn compress<B>(
        &self,
        mut response: EdgeResponse<GzipBody<B>>,
        key: Option<Key>,
        is_unbuffered: bool,
    ) -> EdgeResponse<GzipBody<B>> {
        let draft = key.zip(self.memory.twins.as_ref()).and_then(|(key, twins)| Draft::new(twins, key));
        let ahead = response.body.bytes_ahead();
        let whole = response.body.is_whole_ahead() && ahead <= self.turn();
        // Markup shrinks to about a quarter of its length. If the output is longer, the buffer grows.
        let room = if whole { usize::try_from(ahead / 4 + 512).unwrap_or(OUTPUT_BYTES) } else { OUTPUT_BYTES };
        let (class, counts) = (response.facts.class, Arc::clone(&self.counts));
        let deflater = Deflater::new(self.settings.level, room, is_unbuffered, draft, class, counts);
        applied(Verdict::Compress, &mut response);
        response.map(|body| if whole { body.whole(deflater) } else { body.deflate(deflater) })
    }

    /// Decides how to send a response whose body was read ahead for the question.
    fn resolve<B: EdgeBody>(
        &self,
        request: RequestFacts,
        undecided: Undecided<B>,
    ) -> Result<EdgeResponse<GzipBody<B>>, Fault> {
        let Undecided { mut response, question } = undecided;
        if let Some(fault) = response.body.take_fault() {
            if let Question::Twin { .. } = question {
                self.counts.twins.get(Found::Miss).increment(1);
            }
            return Err(failed(fault, &response));
        }
        Ok(match question {
            Question::Length
                if response.body.is_whole_ahead() && response.body.bytes_ahead() < self.settings.min_bytes =>
            {
                self.counts.skipped.get(Skip::TooShort).increment(1);
                let verdict = Verdict::Vary(Skip::TooShort);
                self.note(request, verdict, &response, None);
                applied(verdict, &mut response);
                response
            }
            Question::IsGzip => response,
            Question::Length => self.compress(response, None, false),
            Question::Whole { key } => self.compress(response, key, false),
            Question::Twin { twin, key } => {
                let whole = response.body.is_whole_ahead();
                let same = whole && response.body.crc_ahead() == twin.crc;
                let found = if same {
                    Found::Hit
                } else if whole {
                    Found::Changed
                } else {
                    Found::Miss
                };
                self.counts.twins.get(found).increment(1);
                if !same && request.wants_gzip() {
                    return Ok(self.compress(response, Some(key), false));
                }
                if !same {
                    // The request accepts br, but not gzip. So it gets the body without a coding.
                    if found == Found::Changed {
                        self.memory.forget(&key);
                    }
                    self.counts.skipped.get(Skip::NotAccepted).increment(1);
                    applied(Verdict::Vary(Skip::NotAccepted), &mut response);
                    return Ok(response);
                }
                if let Some(twins) = &self.memory.twins {
                    self.memory.ripen(twins, key, &twin);
                }
                let class = response.facts.class;
                let br = twin.br.filter(|_| request.wants_br());
                if br.is_some() {
                    apply_br(&mut response);
                } else {
                    applied(Verdict::Compress, &mut response);
                }
                response.map(|body| body.twin(br.unwrap_or(twin.gzip), class, &self.counts))
            }
        })
    }
}

/// Returns the fault of a response whose head has not been sent. If the origin's status and the time until the origin's
/// head arrived are known, they are added to the fault, with the number of bytes that arrived.
fn failed<B: EdgeBody>(fault: Fault, response: &EdgeResponse<B>) -> Fault {
    let Facts { origin_status, origin_us, .. } = response.facts;
    match origin_status.zip(origin_us) {
        Some((status, micros)) => fault.after(Begun { status, micros, bytes: response.body.tally().origin_bytes }),
        None => fault,
    }
}
