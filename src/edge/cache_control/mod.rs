//! Writes the caching fields of every final response: at most one Cache-Control line without contradictions, and the
//! fields of the pulling CDN's dialect. The class's rule and the guards decide which directives these fields contain.
//!
//! **Place:** the innermost layer that changes a response, so that it sees the origin's own fields. Inside `gzip`,
//! because `gzip` reads the emitted `no-transform`. Inside `whoopsie`, because `whoopsie` sets no-store in its pages
//! itself.
//! **Reads:** `Ctx::dialect`, `Ctx::provider` and `Ctx::assigned`. Of the request: method, path and Authorization. Of
//! the response: status, type, caching fields, Vary, Set-Cookie and cache tags; the size of the head, if the provider
//! has limits. `Facts::stand_in`: a response of the stand-in gets short lifetimes.
//! **Metrics:** `edgeshim_cache_rewrites_total`, `edgeshim_cache_guards_total`, `edgeshim_tags_cut_total`,
//! `edgeshim_fields_cut_total`.
//! **Cost:** one pass over the response's field names. One more pass if the provider's cache tags are translated. One
//! pass over the lengths of the values if the provider has limits. One allocation for each field value that is not
//! prepared.
//! **Can fail:** no. A fault of an inner layer is passed on. A fault is counted under the guard `error`, except for a
//! failure of the client.

mod capped;
mod changes;
mod decision;
mod field_pair;
mod origin_fields;
pub(crate) mod outcome;
pub(crate) mod policy;
mod storing;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use metrics::Counter;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use self::outcome::{Action, Guard};
use self::policy::Prepared;
use super::request::class::{ClassRule, Classes};
use super::request::{Assigned, EdgeRequest, EdgeResponse};
use crate::cdn::dialect::Dialect;
use crate::cdn::limits::HeadLimits;
use crate::cdn::tags::TagRule;
use crate::fault::Fault;
use crate::ids::{ClassId, ProviderId};
use crate::metrics::{Ledger, Table, Throttle, describe};
use crate::wire::cache_fields::{self, CacheFields};
use crate::wire::head_fields::Fields;
use crate::wire::names::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, VARY};
use crate::wire::vary;

/// The rules of one provider that do not concern lifetimes.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProviderRules {
    /// The form in which the CDN accepts cache tags.
    pub tags: TagRule,
    /// The largest response head that the CDN accepts.
    pub limits: HeadLimits,
}

/// Limits the log message about removed header fields to one per minute, for all providers together.
static FIELDS_CUT_MESSAGE: Throttle = Throttle::new(Duration::from_mins(1));

/// Puts [`CacheControl`] around a service.
#[derive(Debug, Clone)]
pub(crate) struct CacheControlLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    classes: Arc<Classes>,
    /// The prepared rules, indexed by class id and then by dialect.
    rules: Vec<[Prepared; Dialect::ALL.len()]>,
    /// The prepared rules for responses from the stand-in, indexed by class id and then by dialect. Each class also has
    /// the longest lifetime of such a response, in seconds.
    stand_in_rules: Vec<([Prepared; Dialect::ALL.len()], u64)>,
    /// The rules of the providers, indexed by provider id.
    providers: Vec<ProviderRules>,
    /// Whether at least one class depends on the response's Content-Type.
    by_type: bool,
    /// For each experiment, the header field with the visitor's id. `None`: the id is in a cookie.
    id_fields: Vec<Option<HeaderName>>,
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

    /// Counts cache tags that were removed because the provider's CDN does not accept them.
    fn tags_cut(&self, provider: ProviderId, tags: usize) {
        if tags > 0 {
            self.tags_cut.get(provider).increment(tags as u64);
        }
    }

    /// Counts field lines that were removed because the response head was larger than the provider's CDN accepts. Logs
    /// the number of removed lines at most once a minute.
    fn fields_cut(&self, provider: ProviderId, lines: usize) {
        self.fields_cut.get(provider).increment(lines as u64);
        if let Some(count) = FIELDS_CUT_MESSAGE.pass_many(lines as u64) {
            tracing::warn!(
                "a response head is larger than {} accepts; header fields removed since the last message, for all \
                 providers: {count}; make the origin send fewer fields, especially cookies (the metric \
                 edgeshim_fields_cut_total counts the removed fields of each provider)",
                self.ledger.provider(provider)
            );
        }
    }
}

impl CacheControlLayer {
    /// Prepares the rules of `classes`. `providers` is in the order of provider ids. `id_fields` has the header field
    /// with the visitor's id of each experiment, or `None` if the id is in a cookie.
    pub(crate) fn new(
        classes: &Arc<Classes>,
        providers: Vec<ProviderRules>,
        id_fields: Vec<Option<HeaderName>>,
        ledger: Arc<Ledger>,
    ) -> Self {
        let rules = classes.all().map(|rule| Dialect::ALL.map(|dialect| Prepared::new(&rule.cache, dialect))).collect();
        let stand_in_rule = |rule: &ClassRule| {
            let policy = capped::policy(&rule.cache);
            (Dialect::ALL.map(|dialect| Prepared::new(&policy, dialect)), policy.error_ttl)
        };
        let stand_in_rules = classes.all().map(stand_in_rule).collect();
        let by_type = classes.need_type();
        let counts = Counts::new(ledger);
        Self {
            shared: Arc::new(Shared {
                classes: Arc::clone(classes),
                rules,
                stand_in_rules,
                providers,
                by_type,
                id_fields,
                counts,
            }),
        }
    }
}

impl<S> Layer<S> for CacheControlLayer {
    type Service = CacheControl<S>;

    fn layer(&self, inner: S) -> CacheControl<S> {
        CacheControl { inner, shared: Arc::clone(&self.shared) }
    }
}

/// The service of [`CacheControlLayer`].
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
        let kept = Kept {
            provider: request.ctx.provider,
            dialect: request.ctx.dialect,
            assigned: request.ctx.assigned,
            method: request.head.method.clone(),
            authorization: request.ctx.fields(&request.head.headers).has(&AUTHORIZATION),
            target: self.shared.by_type.then(|| request.head.uri.clone()),
        };
        CacheControlFuture { inner: self.inner.call(request), kept, shared: Arc::clone(&self.shared) }
    }
}

/// Adds the fields with the visitor's id to Vary, for the experiments whose bit in `varies` is set.
fn add_id_fields(headers: &mut HeaderMap, varies: u16, id_fields: &[Option<HeaderName>]) {
    for (position, field) in id_fields.iter().enumerate() {
        if let Some(field) = field
            && varies & 1 << position != 0
        {
            vary::add(headers, field.as_str());
        }
    }
}

/// The parts of the request that are needed when the response arrives.
struct Kept {
    provider: ProviderId,
    dialect: Dialect,
    assigned: Assigned,
    method: Method,
    authorization: bool,
    /// The request's target. It is present only if at least one class depends on the response's Content-Type.
    target: Option<Uri>,
}

pin_project! {
    /// The future of [`CacheControl`].
    pub struct CacheControlFuture<F> {
        #[pin]
        inner: F,
        kept: Kept,
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
        let Shared { classes, rules, stand_in_rules, providers, id_fields, counts, .. } = &**this.shared;
        let mut response = match ready!(this.inner.poll(cx)) {
            Ok(response) => response,
            Err(fault) if fault.cause().is_client_error() => return Poll::Ready(Err(fault)),
            Err(fault) => {
                // The response of `whoopsie` to this fault will have no-store, so the fault is counted like a 5xx of
                // the origin.
                counts.guards.get(Guard::Error).increment(1);
                return Poll::Ready(Err(fault.guarded(Guard::Error.as_str())));
            }
        };
        if let Some(target) = &this.kept.target {
            let content_type = response.head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            response.facts.class = classes.of_response(target.path(), content_type);
        }
        let class = response.facts.class;
        let mut rules = rules.get(class.index());
        if response.facts.stand_in
            && let Some((capped_rules, most_seconds)) = stand_in_rules.get(class.index())
        {
            capped::cap(&mut response.head.headers, *most_seconds);
            response.facts.names.add(&CACHE_CONTROL);
            rules = Some(capped_rules);
        }
        if let Some(rule) = rules.map(|rules| &rules[this.kept.dialect.index()]) {
            let facts = policy::Facts {
                method: &this.kept.method,
                authorization: this.kept.authorization,
                assigned: this.kept.assigned.is_private,
                now: SystemTime::now,
            };
            let EdgeResponse { head, facts: response_facts, .. } = &mut response;
            let present = CacheFields::of(Fields::new(&head.headers, response_facts.names));
            let outcome = rule.apply_to(&mut head.headers, present, head.status, &facts);
            if let Some(action) = outcome.action {
                counts.rewrites.get((class, action)).increment(1);
                response_facts.names.add_all(cache_fields::NAMES);
            }
            response_facts.grant = outcome.grant;
            for guard in outcome.guards.iter() {
                counts.guards.get(guard).increment(1);
                if response.facts.guard.is_empty() {
                    response.facts.guard = guard.as_str();
                }
            }
        }
        if this.kept.assigned.varies != 0 && !response.head.status.is_informational() {
            add_id_fields(&mut response.head.headers, this.kept.assigned.varies, id_fields);
            response.facts.names.add(&VARY);
        }
        // This step is the last in this layer, because the limits apply to a head that contains all caching fields.
        let provider = this.kept.provider;
        if !response.head.status.is_informational()
            && let Some(ProviderRules { tags, limits }) = providers.get(provider.index())
        {
            let EdgeResponse { head, facts, .. } = &mut response;
            counts.tags_cut(provider, tags.translate(&mut head.headers, &mut facts.names));
            let cut = limits.cut(&mut head.headers);
            if cut > 0 {
                counts.fields_cut(provider, cut);
                facts.grant = None;
            }
        }
        Poll::Ready(Ok(response))
    }
}
