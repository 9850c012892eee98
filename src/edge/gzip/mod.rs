//! Compresses what the origin sent plain, for CDNs that ask for gzip; undoes its gzip, where wished, for those that do not.
//!
//! **Place:** outside of `cache_control`, which must see the origin's own fields; inside `whoopsie`, whose pages bring their own twin.
//! **Reads:** `Ctx::dialect`, method, Accept-Encoding, Range, If-Range, If-Match, If-None-Match, host and target; the answer's status, type, length,
//! tag and the fields that forbid compression (see [`policy`]).
//! **Metrics:** `edgeshim_gzip_input_bytes_total`, `edgeshim_gzip_output_bytes_total`, `edgeshim_gzip_skipped_total`,
//! `edgeshim_gzip_twins_total`.
//! **Cost:** one look at Accept-Encoding; for an answer that is compressed the compressor's, whose state is kept for the next one, or,
//! where its twin is kept (`twins.rs`), a checksum.
//! **Can fail:** as the body below it does, and where the origin's gzip is broken; a compressor on memory has no errors of its own.

mod body;
mod deflate;
mod inflate;
pub(crate) mod policy;
mod tags;
mod twins;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, request, response};
use metrics::Counter;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use body::BYTES_PER_TURN;
pub(crate) use body::GzipBody;
use deflate::{Deflater, OUTPUT_BYTES};
use inflate::Inflater;
pub(crate) use policy::GzipSettings;
use policy::{Asked, Skip, Verdict};
use tags::{Kind, Tags};
use twins::{Draft, Found, Key, Loan, Twin, Twins};

use super::request::class::Classes;
use super::request::{EdgeBody, EdgeFuture, EdgeRequest, EdgeResponse, Facts, Tally};
use crate::cdn::dialect::Dialect;
use crate::fault::{Begun, Fault};
use crate::ids::ClassId;
use crate::metrics::{Ledger, Table, describe};
use crate::wire::etag::EntityTag;
use crate::wire::names::{ETAG, HOST};

/// How long a head waits for the whole of a body that may have a twin: 4 MiB come in that time from any origin that is near.
const PATIENCE: Duration = Duration::from_millis(300);

/// What outlives one answer, shared by the workers of one configuration.
#[derive(Debug, Clone)]
pub(crate) struct GzipMemory {
    twins: Option<Arc<Twins>>,
    tags: Arc<Tags>,
}

impl GzipMemory {
    /// Keeps at most `twins_bytes` of ready gzip twins; 0: none.
    pub(crate) fn new(twins_bytes: u64) -> Self {
        let twins = (twins_bytes > 0).then(|| Arc::new(Twins::new(twins_bytes)));
        Self { twins, tags: Arc::new(Tags::new()) }
    }
}

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

#[derive(Debug)]
struct Counts {
    ledger: Arc<Ledger>,
    skipped: Table<Skip, Counter>,
    twins: Table<Found, Counter>,
    input_bytes: Table<ClassId, Counter>,
    output_bytes: Table<ClassId, Counter>,
}

impl Counts {
    fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            skipped: ledger.table(&describe::GZIP_SKIPPED),
            twins: ledger.table(&describe::GZIP_TWINS),
            input_bytes: ledger.table(&describe::GZIP_INPUT_BYTES),
            output_bytes: ledger.table(&describe::GZIP_OUTPUT_BYTES),
            ledger,
        }
    }

    /// Counts a body before and after compression.
    fn compressed(&self, class: ClassId, input: u64, output: u64) {
        self.input_bytes.get(class).increment(input);
        self.output_bytes.get(class).increment(output);
    }
}

impl GzipLayer {
    /// Decides by `settings` and the classes, remembers in `memory`, counts in `ledger`.
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

/// See the head of this file.
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
        let asked = Asked::of(settings, &request.head, request.ctx.dialect);
        let mut target = None;
        if settings.enabled {
            target = memory.twins.as_ref().and_then(|twins| target_of(twins, asked, &request.head));
            policy::prepare(asked, &mut request.head.headers, |opaque| memory.tags.kind(asked.target, opaque));
        }
        let dialect = request.ctx.dialect;
        let state = State::Waiting { inner: self.inner.call(request) };
        GzipFuture { state, asked, dialect, target, shared: Arc::clone(&self.shared) }
    }
}

/// The first half of a twin's key, for a request that may get one.
fn target_of(twins: &Twins, asked: Asked, head: &request::Parts) -> Option<u64> {
    if !asked.gzip() || head.method != Method::GET {
        return None;
    }
    // `observe` has seen to it that there is one, on HTTP/2 too.
    let host = head.headers.get(HOST).map(HeaderValue::as_bytes);
    let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    Some(twins.target(host.unwrap_or_default(), path.as_bytes()))
}

pin_project! {
    /// Waits for the answer, and where that decides, for the beginning of its body.
    pub struct GzipFuture<F, B> {
        #[pin]
        state: State<F, B>,
        asked: Asked,
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

/// An answer that is read ahead.
struct Undecided<B> {
    answer: EdgeResponse<GzipBody<B>>,
    question: Question,
}

/// What the body's beginning has to tell.
enum Question {
    /// Whether there are `gzip.min_bytes` of it.
    Length,
    /// Whether all of it comes at once: then it is compressed in one go, while the compressor is in the processor's cache, and its length
    /// is known.
    Whole { key: Option<Key> },
    /// Whether the origin's gzip, which is undone, begins as gzip does.
    Sound,
    /// Whether it is the body that this twin was made from.
    Twin { twin: Twin, key: Key },
}

impl<F, B> Future for GzipFuture<F, B>
where
    F: Future<Output = Result<EdgeResponse<B>, Fault>>,
    B: EdgeBody + Unpin,
{
    type Output = Result<EdgeResponse<GzipBody<B>>, Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = ready!(self.as_mut().poll_answer(cx))?;
        if self.dialect == Dialect::Akamai {
            policy::vary_for_akamai(self.asked, &mut answer.head);
        }
        Poll::Ready(Ok(answer))
    }
}

impl<F, B> GzipFuture<F, B>
where
    F: Future<Output = Result<EdgeResponse<B>, Fault>>,
    B: EdgeBody + Unpin,
{
    fn poll_answer(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<EdgeResponse<GzipBody<B>>, Fault>> {
        let mut this = self.project();
        let shared = &**this.shared;
        if let Projected::Waiting { inner } = this.state.as_mut().project() {
            let answer = ready!(inner.poll(cx))?;
            match shared.answer(*this.asked, *this.target, answer) {
                Ok(answer) => return Poll::Ready(Ok(answer)),
                Err(undecided) => this.state.set(State::Undecided { undecided: Some(undecided) }),
            }
        }
        let Projected::Undecided { undecided: slot } = this.state.as_mut().project() else { return Poll::Pending };
        let Some(undecided) = slot else { return Poll::Pending };
        let body = &mut undecided.answer.body;
        ready!(match &undecided.question {
            Question::Sound => body.poll_begin(cx),
            Question::Length => body.poll_ahead(cx, shared.settings.min_bytes, Duration::ZERO),
            Question::Whole { .. } => body.poll_ahead(cx, u64::MAX, Duration::ZERO),
            Question::Twin { .. } => body.poll_ahead(cx, u64::MAX, PATIENCE),
        });
        match slot.take() {
            Some(undecided) => Poll::Ready(shared.resolve(*this.asked, *undecided)),
            None => Poll::Pending,
        }
    }
}

impl<F, B: EdgeBody> EdgeFuture for GzipFuture<F, B> {
    fn begun(&self) -> Option<(Facts, Tally)> {
        let State::Undecided { undecided: Some(undecided) } = &self.state else { return None };
        Some((undecided.answer.facts, undecided.answer.body.tally()))
    }
}

impl Shared {
    /// The answer as it goes out, or as far as it can be said now.
    fn answer<B: EdgeBody>(
        &self,
        asked: Asked,
        target: Option<u64>,
        mut answer: EdgeResponse<B>,
    ) -> Result<EdgeResponse<GzipBody<B>>, Box<Undecided<B>>> {
        let length = answer.body.size_hint().exact();
        let headers = &answer.head.headers;
        let known = if answer.head.status == StatusCode::NOT_MODIFIED {
            policy::tag(headers).and_then(|tag| self.memory.tags.kind(asked.target, tag.opaque))
        } else {
            None
        };
        // A 304 without a type may be of another class than its 200; what is remembered of the tag is the 200's.
        let is_on = self.classes.rule(answer.facts.class).gzip || known.is_some_and(|kind| kind != Kind::Weak);
        let verdict = if is_on {
            policy::decide(&self.settings, asked, &answer.head, length, known)
        } else {
            Verdict::Leave(Skip::Off)
        };
        if known.is_none() && self.settings.enabled {
            self.note(asked, verdict, &answer.head);
        }
        // A HEAD's head says what the GET's would; there is no body to change.
        match verdict {
            Verdict::Compress if !asked.is_head => {}
            Verdict::Inflate if !asked.is_head => {
                policy::apply(verdict, &mut answer.head);
                let inflater = Inflater::new(self.counts.ledger.metrics());
                let is_unbuffered = policy::is_unbuffered(&answer.head.headers);
                let answer = answer.map(|inner| GzipBody::plain(inner).inflate(inflater));
                return if is_unbuffered {
                    Ok(answer)
                } else {
                    Err(Box::new(Undecided { answer, question: Question::Sound }))
                };
            }
            _ => {
                let bodiless = asked.is_head || answer.body.is_end_stream();
                if let Verdict::Leave(skip) | Verdict::Vary(skip) = verdict
                    && !bodiless
                {
                    self.counts.skipped.get(skip).increment(1);
                }
                policy::apply(verdict, &mut answer.head);
                return Ok(answer.map(GzipBody::plain));
            }
        }
        let Some(length) = length else {
            if policy::is_unbuffered(&answer.head.headers) || self.settings.min_bytes == 0 {
                return Ok(self.compress(answer.map(GzipBody::plain), None));
            }
            let answer = answer.map(|inner| GzipBody::undecided(inner, None));
            return Err(Box::new(Undecided { answer, question: Question::Length }));
        };
        let key = self.key(target, length, &answer);
        if let Some((twins, key)) = key
            && let Some(twin) = twins.find(&key)
            && let Some(loan) = Loan::take(twins, length)
        {
            let answer = answer.map(|inner| GzipBody::undecided(inner, Some(loan)));
            return Err(Box::new(Undecided { answer, question: Question::Twin { twin, key } }));
        }
        let key = key.map(|(_, key)| key);
        if key.is_some() {
            self.counts.twins.get(Found::Miss).increment(1);
        }
        if length > self.turn() || policy::is_unbuffered(&answer.head.headers) {
            return Ok(self.compress(answer.map(GzipBody::plain), key));
        }
        let answer = answer.map(|inner| GzipBody::undecided(inner, None));
        Err(Box::new(Undecided { answer, question: Question::Whole { key } }))
    }

    /// Remembers what the response's tag stands for. A HEAD does not tell: without a length it speaks of the usual, long body.
    fn note(&self, asked: Asked, verdict: Verdict, head: &response::Parts) {
        if !asked.is_head
            && let Some(tag) = head.headers.get(ETAG).and_then(|tag| EntityTag::outline(tag.as_bytes()))
            && let Some(kind) = policy::kind(&self.settings, verdict, tag, head)
        {
            self.memory.tags.note(asked.target, tag.opaque, kind);
        }
    }

    /// Bytes that may be compressed in one go.
    fn turn(&self) -> u64 {
        (BYTES_PER_TURN / deflate::weight(self.settings.level)) as u64
    }

    /// The key of an answer's twin, where it may have one.
    fn key<B>(&self, target: Option<u64>, length: u64, answer: &EdgeResponse<B>) -> Option<(&Arc<Twins>, Key)> {
        let twins = self.memory.twins.as_ref()?;
        let headers = &answer.head.headers;
        let fleeting = policy::is_private(headers) || policy::is_unbuffered(headers);
        if length > twins::LONGEST || answer.head.status != StatusCode::OK || fleeting {
            return None;
        }
        Some((twins, twins.key(target?, policy::strong_tag(headers)?, length)))
    }

    /// The answer compressed; under `key` its twin is made on the way.
    fn compress<B>(&self, mut answer: EdgeResponse<GzipBody<B>>, key: Option<Key>) -> EdgeResponse<GzipBody<B>> {
        let draft = key.zip(self.memory.twins.as_ref()).and_then(|(key, twins)| Draft::new(twins, key));
        let unbuffered = policy::is_unbuffered(&answer.head.headers);
        let ahead = answer.body.bytes_ahead();
        let whole = answer.body.is_whole_ahead() && ahead <= self.turn();
        // Markup shrinks to a quarter; what does not asks for more room.
        let room = if whole { usize::try_from(ahead / 4 + 512).unwrap_or(OUTPUT_BYTES) } else { OUTPUT_BYTES };
        let (class, counts) = (answer.facts.class, Arc::clone(&self.counts));
        let deflater = Deflater::new(self.settings.level, room, unbuffered, draft, class, counts);
        policy::apply(Verdict::Compress, &mut answer.head);
        answer.map(|body| if whole { body.whole(deflater) } else { body.deflate(deflater) })
    }

    /// The answer, now that enough of it has been read.
    fn resolve<B: EdgeBody>(&self, asked: Asked, undecided: Undecided<B>) -> Result<EdgeResponse<GzipBody<B>>, Fault> {
        let Undecided { mut answer, question } = undecided;
        if let Some(fault) = answer.body.take_fault() {
            if let Question::Twin { .. } = question {
                self.counts.twins.get(Found::Miss).increment(1);
            }
            return Err(failed(fault, &answer));
        }
        Ok(match question {
            Question::Length if answer.body.is_whole_ahead() && answer.body.bytes_ahead() < self.settings.min_bytes => {
                self.counts.skipped.get(Skip::TooShort).increment(1);
                let verdict = Verdict::Vary(Skip::TooShort);
                self.note(asked, verdict, &answer.head);
                policy::apply(verdict, &mut answer.head);
                answer
            }
            Question::Sound => answer,
            Question::Length => self.compress(answer, None),
            Question::Whole { key } => self.compress(answer, key),
            Question::Twin { twin, key } => {
                let whole = answer.body.is_whole_ahead();
                let same = whole && answer.body.crc_ahead() == twin.crc;
                let found = if same {
                    Found::Hit
                } else if whole {
                    Found::Changed
                } else {
                    Found::Miss
                };
                self.counts.twins.get(found).increment(1);
                if !same {
                    return Ok(self.compress(answer, Some(key)));
                }
                policy::apply(Verdict::Compress, &mut answer.head);
                let class = answer.facts.class;
                answer.map(|body| body.twin(twin, class, &self.counts))
            }
        })
    }
}

/// The fault of a response of which nothing has been sent yet, with what had come of it.
fn failed<B: EdgeBody>(fault: Fault, answer: &EdgeResponse<B>) -> Fault {
    let Facts { origin_status, origin_us, .. } = answer.facts;
    match origin_status.zip(origin_us) {
        Some((status, micros)) => fault.after(Begun { status, micros, bytes: answer.body.tally().origin_bytes }),
        None => fault,
    }
}
