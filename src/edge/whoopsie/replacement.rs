//! Makes the response that replaces a 5xx of the origin or reports a fault.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, response};

use super::request_fields::RequestFields;
use super::statuses::StatusSet;
use crate::clock;
use crate::edge::request::class::{Classes, WhoopsieMode};
use crate::edge::request::{EdgeResponse, Facts, uncacheable};
use crate::fault::{Cause, Fault};
use crate::ids::{LocaleId, ProviderId, Reason};
use crate::metrics::labels::{Dimension, Labels};
use crate::metrics::{LazyCounters, Ledger};
use crate::pages::{LONGEST_COUNTDOWN_SECONDS, PageValues, Pages, problem_json};
use crate::wire::names::{
    self, CONNECTION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE, DATE, GRPC_STATUS,
    PROXY_STATUS, RETRY_AFTER, SERVER, STRICT_TRANSPORT_SECURITY, VARY, X_REQUEST_ID,
};
use crate::wire::quality::Preference;

/// The state that all copies of the layer share.
pub(super) struct Shared {
    pub(super) statuses: StatusSet,
    pub(super) retry_after: RetryAfter,
    pub(super) pages: Arc<Pages>,
    pub(super) classes: Arc<Classes>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) served: LazyCounters<(ProviderId, LocaleId, PageCause)>,
}

/// Why a page is sent: the label `cause` of `edgeshim_whoopsies_total`. `None` means that the page replaces a 5xx of
/// the origin.
#[derive(Clone, Copy)]
pub(super) struct PageCause(Option<Cause>);

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

/// The response that is sent in place of the origin's response or of a fault.
pub(super) struct Replacement {
    pub(super) head: response::Parts,
    pub(super) page: Bytes,
    pub(super) locale: Option<LocaleId>,
}

impl Shared {
    /// Whether the origin's response is forwarded, and not replaced by a page.
    pub(super) fn passes(&self, status: StatusCode, facts: &Facts) -> bool {
        !self.statuses.contains(status.as_u16()) || self.classes.rule(facts.class).whoopsie == WhoopsieMode::Never
    }

    /// Makes the response that replaces a response of the origin.
    pub(super) fn replace<B>(&self, request: &RequestFields, origin: &EdgeResponse<B>) -> Replacement {
        let (mode, fields) = (self.classes.rule(origin.facts.class).whoopsie, origin.fields());
        let retry_after =
            fields.get(&RETRY_AFTER).and_then(RetryAfter::parse).unwrap_or_else(|| self.retry_after.clone());
        let status = origin.head.status;
        let mut replacement = self.respond(request, status, None, mode, retry_after);
        let headers = &mut replacement.head.headers;
        let proxy_status = ["edgeshim; received-status=", status.as_str()].concat();
        if let Ok(value) = HeaderValue::try_from(proxy_status) {
            headers.insert(&PROXY_STATUS, value);
        }
        // These fields also apply to the page. The origin's other fields are not copied, except Retry-After and the
        // CORS fields below.
        for name in [&DATE, &SERVER, &STRICT_TRANSPORT_SECURITY] {
            if let Some(value) = fields.get(name) {
                headers.insert(name, value.clone());
            }
        }
        for (name, value) in &origin.head.headers {
            // Without these fields a browser hides the status from the script that sent the request.
            if names::is_cross_origin(name) {
                headers.append(name, value.clone());
            }
        }
        replacement
    }

    /// Makes the response that reports a fault.
    pub(super) fn fail(&self, request: &RequestFields, fault: &Fault) -> Replacement {
        let cause = fault.cause();
        if cause.is_client_error() {
            if cause == Cause::RequestTooLarge {
                self.ledger.refused(request.ctx.provider, Reason::BodyTooLarge);
            }
            let mut head = uncacheable(cause.status(), request.ctx.dialect);
            // On HTTP/1, this closes the connection, because the rest of the request body can still arrive on it.
            head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
            head.headers.insert(&PROXY_STATUS, HeaderValue::from_static("edgeshim; error=http_request_error"));
            return Replacement { head, page: Bytes::new(), locale: None };
        }
        let mode = self.classes.rule(request.ctx.class).whoopsie;
        let mut replacement = self.respond(request, cause.status(), Some(fault), mode, self.retry_after.clone());
        let proxy_status = format!("edgeshim; error={}", fault.proxy_status());
        if let Ok(value) = HeaderValue::try_from(proxy_status) {
            replacement.head.headers.insert(&PROXY_STATUS, value);
        }
        replacement
    }

    /// Makes the page, or its JSON, gRPC or empty form, with the fields that all these forms have.
    fn respond(
        &self,
        request: &RequestFields,
        status: StatusCode,
        fault: Option<&Fault>,
        mode: WhoopsieMode,
        retry_after: RetryAfter,
    ) -> Replacement {
        let cause = fault.map(Fault::cause);
        let (mut head, ()) = http::Response::new(()).into_parts();
        head.status = status;
        let headers = &mut head.headers;
        headers.reserve(13);
        request.ctx.dialect.forbid_storing(headers);
        headers.insert(RETRY_AFTER, retry_after.field);
        if let Some(id) = &request.id {
            headers.insert(&X_REQUEST_ID, id.clone());
        }
        let values = PageValues {
            status: status.as_u16(),
            id: request.id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default(),
            provider: self.ledger.provider(request.ctx.provider),
            pop: request.ctx.pop.as_str(),
            cause: PageCause(cause).as_str(),
            unix_seconds: clock::unix_time().as_secs(),
            retry_after: Some(retry_after.seconds)
                .filter(|&seconds| request.is_repeatable && seconds <= LONGEST_COUNTDOWN_SECONDS),
            is_wait: cause == Some(Cause::Overload),
            waiting: fault.and_then(Fault::waiting),
        };
        let mut locale = None;
        let page = if request.is_grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            // 14 is UNAVAILABLE, the usual code after which gRPC clients retry.
            headers.insert(&GRPC_STATUS, HeaderValue::from_static("14"));
            Bytes::new()
        } else {
            let form = match mode {
                WhoopsieMode::Auto => request.prefers(),
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
                    let languages = request.accept_language.iter().map(HeaderValue::as_bytes);
                    let host = request.host.as_ref().and_then(|host| host.to_str().ok());
                    let chosen = pages.locale(languages, host);
                    let gzip = request.accepts_gzip();
                    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
                    headers.insert(CONTENT_LANGUAGE, pages.content_language(chosen));
                    if gzip {
                        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                    }
                    locale = Some(chosen);
                    self.served.get((request.ctx.provider, chosen, PageCause(cause))).increment(1);
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
        let page = if request.is_head { Bytes::new() } else { page };
        Replacement { head, page, locale }
    }
}

/// The value of Retry-After, and the number of seconds after which the client may retry.
#[derive(Clone)]
pub(super) struct RetryAfter {
    pub(super) field: HeaderValue,
    pub(super) seconds: u32,
}

impl RetryAfter {
    /// Parses the origin's value, which is a number of seconds or a date (RFC 9110 §10.2.3). Returns `None` if the
    /// value is malformed or has more than nine digits.
    fn parse(field: &HeaderValue) -> Option<Self> {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn retry_after_when_seconds_or_date_then_is_parsed_else_is_rejected() {
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
            let parsed =
                RetryAfter::parse(&HeaderValue::from_static(value)).map(|parsed| (parsed.field, parsed.seconds));
            assert_eq!(parsed, seconds.map(|seconds| (HeaderValue::from_static(value), seconds)), "{value}");
        }
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_hours(1));
        let seconds = RetryAfter::parse(&HeaderValue::try_from(soon).unwrap()).unwrap().seconds;
        assert!((3_000..=3_600).contains(&seconds), "{seconds} seconds");
    }
}
