//! Speaks to people when the origin fails: a fault or a 5xx becomes the static page, with the same status.
//!
//! **Place:** outside of `gzip` (pages bring their own gzip twin) and of `cache_control` (no rule of a class makes an error
//! cacheable); inside `pulls`, which counts pages like any other answer. From here outwards nothing fails.
//! **Reads:** Accept, Accept-Encoding, Accept-Language, Host, X-Request-Id; the answer's status; the class's `whoopsie`.
//! **Metrics:** `edgeshim_whoopsies_total`; `edgeshim_refused_total` for bodies that are too large.
//! **Cost:** five reference counts a request; a page is one copy of some kilobytes. **Can fail:** no.

mod statuses;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request, response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use self::statuses::StatusSet;
use super::request::class::{Classes, WhoopsieMode};
use super::request::{Ctx, EdgeBody, EdgeFuture, EdgeRequest, EdgeResponse, Facts, Tally};
use crate::fault::{Cause, Fault};
use crate::ids::{ClassId, LocaleId, ProviderId, Reason};
use crate::keys::quantities::WHOLE_SECONDS;
use crate::keys::{Keys, Visitor};
use crate::metrics::labels::{Dimension, Labels};
use crate::metrics::{LazyCounters, Ledger, describe};
use crate::pages::{LONGEST_COUNTDOWN_SECONDS, PageValues, Pages, problem_json};
use crate::wire::names::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONNECTION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH,
    CONTENT_TYPE, DATE, GRPC_STATUS, HOST, PROXY_STATUS, RETRY_AFTER, SERVER, STRICT_TRANSPORT_SECURITY, VARY,
    X_REQUEST_ID,
};
use crate::wire::quality::{Coding, Preference, accept_prefers, gzip_acceptance};

/// Keys of `[whoopsie]`; `PageSettings` has the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WhoopsieSettings {
    /// The responses of the origin that are replaced.
    pub statuses: StatusSet,
    /// Retry-After where the origin sets none; whole seconds, at least 1.
    pub retry_after: Duration,
}

impl Default for WhoopsieSettings {
    fn default() -> Self {
        Self { statuses: StatusSet::all(), retry_after: Duration::from_secs(30) }
    }
}

impl Keys for WhoopsieSettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        let mut ranges = self.statuses.ranges();
        v.list("statuses", &StatusSet::RANGE, &mut ranges);
        self.statuses = ranges.into_iter().collect();
        v.text("retry_after", &WHOLE_SECONDS, &mut self.retry_after);
    }
}

/// How often the origin's connection gets another turn to bring the rest of a body that nobody will see.
const DRAIN_TURNS: u8 = 2;

/// Puts [`Whoopsie`] around a service.
#[derive(Clone)]
pub(crate) struct WhoopsieLayer {
    shared: Arc<Shared>,
}

struct Shared {
    statuses: StatusSet,
    retry_after: RetryAfter,
    pages: Arc<Pages>,
    classes: Arc<Classes>,
    ledger: Arc<Ledger>,
    served: LazyCounters<(ProviderId, LocaleId, PageCause)>,
}

/// Why a page is served: the label `cause` of `edgeshim_whoopsies_total`. None: it replaces the origin's own 5xx.
#[derive(Clone, Copy)]
struct PageCause(Option<Cause>);

impl PageCause {
    const ORIGIN_STATUS: &str = "origin_5xx";

    fn as_str(self) -> &'static str {
        self.0.map_or(Self::ORIGIN_STATUS, Cause::as_str)
    }
}

impl Dimension for PageCause {
    fn values(_: &Labels) -> Vec<&'static str> {
        Cause::ALL.map(Cause::as_str).into_iter().chain([Self::ORIGIN_STATUS]).collect()
    }

    fn position(self) -> usize {
        self.0.map_or(Cause::ALL.len(), Cause::position)
    }
}

impl WhoopsieLayer {
    /// Decides by `settings` and the classes, counts in `ledger`.
    pub(crate) fn new(
        settings: WhoopsieSettings,
        pages: Arc<Pages>,
        classes: Arc<Classes>,
        ledger: Arc<Ledger>,
    ) -> Self {
        let seconds = settings.retry_after.as_secs().max(1);
        let retry_after =
            RetryAfter { field: HeaderValue::from(seconds), seconds: u32::try_from(seconds).unwrap_or(u32::MAX) };
        let served = ledger.lazy(&describe::WHOOPSIES);
        let statuses = settings.statuses;
        Self { shared: Arc::new(Shared { statuses, retry_after, pages, classes, ledger, served }) }
    }
}

impl<S> Layer<S> for WhoopsieLayer {
    type Service = Whoopsie<S>;

    fn layer(&self, inner: S) -> Whoopsie<S> {
        Whoopsie { inner, shared: Arc::clone(&self.shared) }
    }
}

/// See the head of this file.
#[derive(Clone)]
pub(crate) struct Whoopsie<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B> Service<Box<EdgeRequest>> for Whoopsie<S>
where
    S: Service<Box<EdgeRequest>, Response = EdgeResponse<B>, Error = Fault>,
    B: EdgeBody,
{
    type Response = EdgeResponse<WhoopsieBody<B>>;
    type Error = Infallible;
    type Future = WhoopsieFuture<S::Future, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Every layer below is always ready (the pipeline's test holds that), so there is nothing to ask.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Box<EdgeRequest>) -> Self::Future {
        let asked = Asked::of(&request.head, request.ctx);
        WhoopsieFuture {
            inner: self.inner.call(request),
            asked,
            shared: Arc::clone(&self.shared),
            leaving: None,
            turns: DRAIN_TURNS,
        }
    }
}

pin_project! {
    /// Waits for the answer or the fault.
    pub struct WhoopsieFuture<F, B> {
        #[pin]
        inner: F,
        asked: Asked,
        shared: Arc<Shared>,
        // The answer that a page takes the place of, while its body is read out.
        leaving: Option<Box<EdgeResponse<B>>>,
        turns: u8,
    }
}

impl<F, B> Future for WhoopsieFuture<F, B>
where
    F: Future<Output = Result<EdgeResponse<B>, Fault>>,
    B: EdgeBody,
{
    type Output = Result<EdgeResponse<WhoopsieBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = match this.leaving.take() {
            Some(answer) => Ok(*answer),
            None => ready!(this.inner.poll(cx)),
        };
        Poll::Ready(Ok(match answer {
            Ok(answer) if this.shared.keeps(answer.head.status, &answer.facts) => {
                answer.map(|inner| WhoopsieBody::Inner { inner })
            }
            Ok(mut answer) => {
                if !answer.body.drain() && *this.turns > 0 {
                    // The end of a chunked body is read by the connection's own task, which comes after this one.
                    *this.turns -= 1;
                    *this.leaving = Some(Box::new(answer));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let Failure { head, page, locale } = this.shared.replace(this.asked, &answer.head, answer.facts.class);
                let facts = Facts { locale, guard: "", ..answer.facts };
                EdgeResponse {
                    head,
                    body: WhoopsieBody::Page { page, tally: Tally { fault: None, ..answer.body.tally() } },
                    facts,
                }
            }
            Err(fault) => {
                let Failure { head, page, locale } = this.shared.fail(this.asked, &fault);
                let mut facts = Facts { cause: Some(fault.cause()), locale, ..Facts::new(this.asked.ctx.class) };
                let mut tally = Tally::default();
                if let Some(begun) = fault.begun() {
                    (facts.origin_status, facts.origin_us) = (Some(begun.status), Some(begun.micros));
                    tally.origin_bytes = begun.bytes;
                }
                EdgeResponse { head, body: WhoopsieBody::Page { page, tally }, facts }
            }
        }))
    }
}

impl<F: EdgeFuture, B: EdgeBody> EdgeFuture for WhoopsieFuture<F, B> {
    fn begun(&self) -> Option<(Facts, Tally)> {
        match &self.leaving {
            Some(answer) => Some((answer.facts, answer.body.tally())),
            None => self.inner.begun(),
        }
    }
}

/// What of a request is needed to speak to whoever sent it, once the request itself is with the origin.
#[derive(Debug)]
struct Asked {
    ctx: Ctx,
    is_head: bool,
    /// Whether asking again changes nothing, so that the page may do it by itself.
    is_repeatable: bool,
    grpc: bool,
    accept: Option<HeaderValue>,
    accept_encoding: Option<HeaderValue>,
    accept_language: Option<HeaderValue>,
    host: Option<HeaderValue>,
    id: Option<HeaderValue>,
}

impl Asked {
    fn of(request: &request::Parts, ctx: Ctx) -> Self {
        let headers = &request.headers;
        Self {
            ctx,
            is_head: request.method == Method::HEAD,
            is_repeatable: matches!(request.method, Method::GET | Method::HEAD),
            grpc: headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")),
            accept: line(headers, &ACCEPT),
            accept_encoding: line(headers, &ACCEPT_ENCODING),
            accept_language: line(headers, &ACCEPT_LANGUAGE),
            host: headers.get(HOST).cloned(),
            id: headers.get(&X_REQUEST_ID).cloned(),
        }
    }

    fn prefers(&self) -> Preference {
        judge(&ACCEPT, self.accept.as_ref(), accept_prefers)
    }

    fn takes_gzip(&self) -> bool {
        judge(&ACCEPT_ENCODING, self.accept_encoding.as_ref(), gzip_acceptance) == Coding::Gzip
    }
}

/// What a function of a head's fields says of one field that was kept.
fn judge<T>(name: &HeaderName, value: Option<&HeaderValue>, judge: fn(&HeaderMap) -> T) -> T {
    let mut headers = HeaderMap::new();
    if let Some(value) = value {
        headers.insert(name, value.clone());
    }
    judge(&headers)
}

/// A list field as one line; nearly always it is one, and then nothing is copied.
fn line(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let first = headers.get(name)?;
    if headers.get_all(name).iter().nth(1).is_none() {
        return Some(first.clone());
    }
    let all: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&all.join(&b", "[..])).ok()
}

struct Failure {
    head: response::Parts,
    page: Bytes,
    locale: Option<LocaleId>,
}

impl Shared {
    /// Whether the origin's answer goes on as it is.
    fn keeps(&self, status: StatusCode, facts: &Facts) -> bool {
        !self.statuses.contains(status.as_u16()) || self.classes.rule(facts.class).whoopsie == WhoopsieMode::Never
    }

    /// The page in the place of an answer of the origin's.
    fn replace(&self, asked: &Asked, origin: &response::Parts, class: ClassId) -> Failure {
        let mode = self.classes.rule(class).whoopsie;
        let said = origin.headers.get(RETRY_AFTER).and_then(RetryAfter::said);
        let retry_after = said.unwrap_or_else(|| self.retry_after.clone());
        let mut failure = self.speak(asked, origin.status, None, mode, retry_after);
        let headers = &mut failure.head.headers;
        let proxy_status = format!("edgeshim; received-status={}", origin.status.as_u16());
        if let Ok(value) = HeaderValue::try_from(proxy_status) {
            headers.insert(&PROXY_STATUS, value);
        }
        // What concerns the connection between this site and its visitor stays; what describes the body that is gone does not.
        for name in [&DATE, &SERVER, &STRICT_TRANSPORT_SECURITY] {
            if let Some(value) = origin.headers.get(name) {
                headers.insert(name, value.clone());
            }
        }
        for (name, value) in &origin.headers {
            // Without them a browser hides the failure's cause from the script that asked.
            if name.as_str().starts_with("access-control-") {
                headers.append(name, value.clone());
            }
        }
        failure
    }

    /// The page, or less, for a request that has no answer: the one place where a fault becomes a status.
    fn fail(&self, asked: &Asked, fault: &Fault) -> Failure {
        let cause = fault.cause();
        if cause.is_client_error() {
            if cause == Cause::RequestTooLarge {
                self.ledger.refused(asked.ctx.provider, Reason::BodyTooLarge);
            }
            let (mut head, ()) = http::Response::new(()).into_parts();
            head.status = cause.status();
            asked.ctx.dialect.forbid_storing(&mut head.headers);
            // The rest of the body is still to come, or never will.
            head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
            head.headers.insert(&PROXY_STATUS, HeaderValue::from_static("edgeshim; error=http_request_error"));
            return Failure { head, page: Bytes::new(), locale: None };
        }
        let mode = self.classes.rule(asked.ctx.class).whoopsie;
        let mut failure = self.speak(asked, cause.status(), Some(fault), mode, self.retry_after.clone());
        let proxy_status = format!("edgeshim; error={}", fault.proxy_status());
        if let Ok(value) = HeaderValue::try_from(proxy_status) {
            failure.head.headers.insert(&PROXY_STATUS, value);
        }
        failure
    }

    fn speak(
        &self,
        asked: &Asked,
        status: StatusCode,
        fault: Option<&Fault>,
        mode: WhoopsieMode,
        retry_after: RetryAfter,
    ) -> Failure {
        let cause = fault.map(Fault::cause);
        let (mut head, ()) = http::Response::new(()).into_parts();
        head.status = status;
        let headers = &mut head.headers;
        headers.reserve(13);
        asked.ctx.dialect.forbid_storing(headers);
        headers.insert(RETRY_AFTER, retry_after.field);
        if let Some(id) = &asked.id {
            headers.insert(&X_REQUEST_ID, id.clone());
        }
        let values = PageValues {
            status: status.as_u16(),
            id: asked.id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default(),
            provider: self.ledger.provider(asked.ctx.provider),
            pop: asked.ctx.pop.as_str(),
            cause: PageCause(cause).as_str(),
            unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
            retry_after: Some(retry_after.seconds)
                .filter(|&seconds| asked.is_repeatable && seconds <= LONGEST_COUNTDOWN_SECONDS),
            is_wait: cause == Some(Cause::Overload),
            waiting: fault.and_then(Fault::waiting),
        };
        let mut locale = None;
        let page = if asked.grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            // UNAVAILABLE: the one code that gRPC clients take for a reason to try again.
            headers.insert(&GRPC_STATUS, HeaderValue::from_static("14"));
            Bytes::new()
        } else {
            let form = match mode {
                WhoopsieMode::Auto => asked.prefers(),
                WhoopsieMode::Always => Preference::Html,
                WhoopsieMode::Never => Preference::Nothing,
            };
            if mode == WhoopsieMode::Auto {
                headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding, Accept-Language"));
            }
            match form {
                Preference::Html => {
                    if mode == WhoopsieMode::Always {
                        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding, Accept-Language"));
                    }
                    let pages = &self.pages;
                    let languages = asked.accept_language.iter().map(HeaderValue::as_bytes);
                    let host = asked.host.as_ref().and_then(|host| host.to_str().ok());
                    let chosen = pages.locale(languages, host);
                    let gzip = asked.takes_gzip();
                    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
                    headers.insert(CONTENT_LANGUAGE, pages.content_language(chosen));
                    if gzip {
                        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                    }
                    locale = Some(chosen);
                    self.served.get((asked.ctx.provider, chosen, PageCause(cause))).increment(1);
                    pages.render(chosen, &values, gzip)
                }
                Preference::Json => {
                    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
                    problem_json(&values, status.canonical_reason().unwrap_or("Error"))
                }
                Preference::Nothing => Bytes::new(),
            }
        };
        headers.insert(CONTENT_LENGTH, HeaderValue::from(page.len()));
        let page = if asked.is_head { Bytes::new() } else { page };
        Failure { head, page, locale }
    }
}

/// How long to wait before asking again: Retry-After, and what it comes to now.
#[derive(Clone)]
struct RetryAfter {
    field: HeaderValue,
    seconds: u32,
}

impl RetryAfter {
    /// What the origin says, in seconds or as a date (RFC 9110 §10.2.3); none where it is neither.
    fn said(field: &HeaderValue) -> Option<Self> {
        let text = field.to_str().ok()?.trim();
        let is_number = (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = if is_number {
            text.parse().ok()?
        } else {
            let date = httpdate::parse_http_date(text).ok()?;
            let left = date.duration_since(SystemTime::now()).unwrap_or_default();
            u32::try_from(left.as_secs()).unwrap_or(u32::MAX)
        };
        Some(Self { field: field.clone(), seconds })
    }
}

pin_project! {
    /// The site's body, or a page.
    #[project = Projected]
    pub enum WhoopsieBody<B> {
        /// The site's.
        Inner {
            #[pin]
            inner: B,
        },
        /// From memory; empty when sent.
        Page {
            page: Bytes,
            tally: Tally,
        },
    }
}

impl<B: EdgeBody> Body for WhoopsieBody<B> {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self.project() {
            Projected::Inner { inner } => inner.poll_frame(cx),
            Projected::Page { page, .. } if page.is_empty() => Poll::Ready(None),
            Projected::Page { page, .. } => Poll::Ready(Some(Ok(Frame::data(std::mem::take(page))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Inner { inner } => inner.is_end_stream(),
            Self::Page { page, .. } => page.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Inner { inner } => inner.size_hint(),
            Self::Page { page, .. } => SizeHint::with_exact(page.len() as u64),
        }
    }
}

impl<B: EdgeBody> EdgeBody for WhoopsieBody<B> {
    fn tally(&self) -> Tally {
        match self {
            Self::Inner { inner } => inner.tally(),
            Self::Page { tally, .. } => *tally,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_seconds_or_a_date() {
        for (value, seconds) in [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("0", Some(0)),
            ("Fri, 31 Dec 1999 23:59:59 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(u32::MAX)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("99999999999999999999", None),
        ] {
            let said = RetryAfter::said(&HeaderValue::from_static(value)).map(|said| (said.field, said.seconds));
            assert_eq!(said, seconds.map(|seconds| (HeaderValue::from_static(value), seconds)), "{value}");
        }
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_hours(1));
        let seconds = RetryAfter::said(&HeaderValue::try_from(soon).unwrap()).unwrap().seconds;
        assert!((3_000..=3_600).contains(&seconds), "{seconds}");
    }

    #[test]
    fn several_lines_of_a_list_become_one() {
        let mut headers = HeaderMap::new();
        assert_eq!(line(&headers, &ACCEPT), None);
        headers.append(ACCEPT, HeaderValue::from_static("text/html"));
        headers.append(ACCEPT, HeaderValue::from_static("*/*;q=0.1"));
        assert_eq!(line(&headers, &ACCEPT).unwrap(), "text/html, */*;q=0.1");
    }
}
