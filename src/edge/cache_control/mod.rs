//! Gives every answer one Cache-Control line with one meaning, by the class's rule and the guards, in the words of the CDN that pulls.
//!
//! **Place:** innermost of the layers that touch an answer, so that it sees the origin's own fields; inside `gzip`, which has to
//! read the `no-transform` that is left, and inside `whoopsie`, whose pages say no-store themselves.
//! **Reads:** method, path, Authorization, `Ctx::dialect`, `Ctx::provider`; the answer's status, type, caching and tag fields.
//! **Metrics:** `edgeshim_cache_rewrites_total`, `edgeshim_cache_guards_total`, `edgeshim_tags_cut_total`, `edgeshim_fields_cut_total`.
//! **Cost:** one pass over the answer's field names, another for a provider whose tags are translated, one over the values' lengths for
//! a provider with such limits; one allocation where a line is written that was not prepared.
//! **Can fail:** no; faults pass through, counted as the `error` guard.

mod changes;
mod field_pair;
mod origin_fields;
pub(crate) mod outcome;
pub(crate) mod policy;
mod storing;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method, Uri};
use metrics::Counter;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use self::outcome::{Action, Guard};
use self::policy::Prepared;
use super::request::class::Classes;
use super::request::{EdgeRequest, EdgeResponse};
use crate::cdn::dialect::Dialect;
use crate::cdn::limits::HeadLimits;
use crate::cdn::tags::TagRule;
use crate::fault::Fault;
use crate::ids::{ClassId, ProviderId};
use crate::metrics::{Ledger, Table, Throttle, describe};
use crate::wire::names::{AUTHORIZATION, CONTENT_TYPE};

/// How an answer is put to one provider beside its lifetimes.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProviderWords {
    /// Its cache tags.
    pub tags: TagRule,
    /// The largest head that it takes.
    pub limits: HeadLimits,
}

/// One for all providers.
static FIELDS_CUT_MESSAGE: Throttle = Throttle::new(Duration::from_mins(1));

/// Puts [`CacheControl`] around a service.
#[derive(Debug, Clone)]
pub(crate) struct CacheControlLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    classes: Arc<Classes>,
    /// By class id, then in the order of the dialects.
    rules: Vec<[Prepared; Dialect::ALL.len()]>,
    /// By provider id.
    words: Vec<ProviderWords>,
    by_type: bool,
    counts: Counts,
}

#[derive(Debug)]
struct Counts {
    ledger: Arc<Ledger>,
    rewrites: Table<(ClassId, Action), Counter>,
    guards: Table<Guard, Counter>,
    tags_cut: Table<ProviderId, Counter>,
    fields_cut: Table<ProviderId, Counter>,
}

impl Counts {
    fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            rewrites: ledger.table(&describe::CACHE_REWRITES),
            guards: ledger.table(&describe::CACHE_GUARDS),
            tags_cut: ledger.table(&describe::TAGS_CUT),
            fields_cut: ledger.table(&describe::FIELDS_CUT),
            ledger,
        }
    }

    /// Counts cache tags that the provider's CDN does not accept.
    fn tags_cut(&self, provider: ProviderId, tags: usize) {
        if tags > 0 {
            self.tags_cut.get(provider).increment(tags as u64);
        }
    }

    /// Counts field lines of a response head that is larger than the provider's CDN accepts, and logs that once a minute.
    fn fields_cut(&self, provider: ProviderId, lines: usize) {
        if lines == 0 {
            return;
        }
        self.fields_cut.get(provider).increment(lines as u64);
        if let Some(count) = FIELDS_CUT_MESSAGE.pass_many(lines as u64) {
            tracing::warn!(
                "a response head is larger than {} takes: header fields left out since the last message: {count}; have the origin \
                 send fewer fields, cookies above all (edgeshim_fields_cut_total counts by provider)",
                self.ledger.provider(provider)
            );
        }
    }
}

impl CacheControlLayer {
    /// Prepares the rules of `classes`, counts in `ledger`. `words` are those of every provider in the order of their ids.
    pub(crate) fn new(classes: &Arc<Classes>, words: Vec<ProviderWords>, ledger: Arc<Ledger>) -> Self {
        let rules = classes.all().map(|rule| Dialect::ALL.map(|dialect| Prepared::new(&rule.cache, dialect))).collect();
        let by_type = classes.ask_for_type();
        let counts = Counts::new(ledger);
        Self { shared: Arc::new(Shared { classes: Arc::clone(classes), rules, words, by_type, counts }) }
    }
}

impl<S> Layer<S> for CacheControlLayer {
    type Service = CacheControl<S>;

    fn layer(&self, inner: S) -> CacheControl<S> {
        CacheControl { inner, shared: Arc::clone(&self.shared) }
    }
}

/// See the head of this file.
#[derive(Debug, Clone)]
pub(crate) struct CacheControl<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B> Service<Box<EdgeRequest>> for CacheControl<S>
where
    S: Service<Box<EdgeRequest>, Response = EdgeResponse<B>, Error = Fault>,
{
    type Response = EdgeResponse<B>;
    type Error = Fault;
    type Future = CacheControlFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Box<EdgeRequest>) -> Self::Future {
        let asked = Asked {
            provider: request.ctx.provider,
            dialect: request.ctx.dialect,
            method: request.head.method.clone(),
            authorization: request.head.headers.contains_key(AUTHORIZATION),
            target: self.shared.by_type.then(|| request.head.uri.clone()),
        };
        CacheControlFuture { inner: self.inner.call(request), asked, shared: Arc::clone(&self.shared) }
    }
}

struct Asked {
    provider: ProviderId,
    dialect: Dialect,
    method: Method,
    authorization: bool,
    /// Kept where a class goes by the answer's type too.
    target: Option<Uri>,
}

pin_project! {
    /// Waits for the answer.
    pub struct CacheControlFuture<F> {
        #[pin]
        inner: F,
        asked: Asked,
        shared: Arc<Shared>,
    }
}

impl<F, B> Future for CacheControlFuture<F>
where
    F: Future<Output = Result<EdgeResponse<B>, Fault>>,
{
    type Output = Result<EdgeResponse<B>, Fault>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Shared { classes, rules, words, counts, .. } = &**this.shared;
        let mut answer = match ready!(this.inner.poll(cx)) {
            Ok(answer) => answer,
            Err(fault) => {
                // What is sent in its place says no-store, as with the origin's own 5xx.
                if !fault.cause().is_visitors() {
                    counts.guards.get(Guard::Error).increment(1);
                }
                return Poll::Ready(Err(fault));
            }
        };
        if let Some(target) = &this.asked.target {
            let content_type = answer.head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            answer.facts.class = classes.of_answer(target.path(), content_type);
        }
        let class = answer.facts.class;
        if let Some(rule) = rules.get(class.index()).map(|rules| &rules[this.asked.dialect as usize]) {
            let facts = policy::Facts {
                method: &this.asked.method,
                authorization: this.asked.authorization,
                now: SystemTime::now,
            };
            let outcome = rule.apply(&mut answer.head.headers, answer.head.status, &facts);
            if let Some(action) = outcome.action {
                counts.rewrites.get((class, action)).increment(1);
            }
            for guard in outcome.guards.iter() {
                counts.guards.get(guard).increment(1);
                if answer.facts.guard.is_empty() {
                    answer.facts.guard = guard.as_str();
                }
            }
        }
        // Last, so that what a CDN's limits leave is what the rule says.
        let provider = this.asked.provider;
        if let Some(words) = words.get(provider.index()).filter(|_| !answer.head.status.is_informational()) {
            counts.tags_cut(provider, words.tags.translate(&mut answer.head.headers));
            counts.fields_cut(provider, words.limits.cut(&mut answer.head.headers));
        }
        Poll::Ready(Ok(answer))
    }
}
