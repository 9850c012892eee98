//! The responses to operators, and the reading of the bodies that they post.

use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::document::{Document, LogIn};
use super::sessions::Sessions;
use crate::intake::form;
use crate::wire::media_types::essence;
use crate::wire::names::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY,
    SET_COOKIE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use crate::wire::secret::Secret;

/// The longest time until the body of a POST is complete.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const FORM: &str = "application/x-www-form-urlencoded";
pub(crate) const JSON: &str = "application/json";

/// A response with a body that is complete.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Reads the body of a POST. The body must have the media type `wanted` and at most `most` bytes.
///
/// # Errors
/// Returns the response to a body that is refused.
pub(crate) async fn read_body(
    head: &Parts,
    body: Incoming,
    wanted: &str,
    most: usize,
) -> std::result::Result<Bytes, Answer> {
    let sent = head.headers.get(CONTENT_TYPE).map(|value| essence(value.as_bytes())).unwrap_or_default();
    if !sent.eq_ignore_ascii_case(wanted.as_bytes()) {
        return Err(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("Send Content-Type: {wanted}.\n")));
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(text(StatusCode::PAYLOAD_TOO_LARGE, format!("Send at most {most} bytes.\n")))
        }
        Ok(Err(_)) => Err(text(StatusCode::BAD_REQUEST, "The body is not complete. Send the request again.\n")),
        Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "The body did not arrive within ten seconds.\n")),
    }
}

/// Responds to the log-in form: with a cookie and a redirect to the page, or with the form again. While no token is
/// configured, the redirect has no cookie.
pub(crate) async fn log_in(
    (head, body): (&Parts, Incoming),
    most: usize,
    (sessions, token, now): (&Sessions, Option<&Secret>, u64),
    form: &LogIn,
) -> Answer {
    let body = match read_body(head, body, FORM, most).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let mut response = logged_in();
    if let Some(token) = token {
        let sent: Vec<u8> = form::value(&body, "token").map(|value| value.bytes().collect()).unwrap_or_default();
        if !token.matches(sent.trim_ascii()) {
            return unauthorized(document(StatusCode::UNAUTHORIZED, &form.again));
        }
        if let Ok(cookie) = HeaderValue::try_from(sessions.cookie(token, now)) {
            response.headers_mut().insert(SET_COOKIE, cookie);
        }
    }
    response
}

/// Returns a redirect to the page: the response to a correct token, and to a GET of the log-in form by a user who is
/// already allowed to use the page.
pub(crate) fn logged_in() -> Answer {
    let mut response = text(StatusCode::SEE_OTHER, "");
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
    response
}

/// Returns the response to a request without a valid token. A browser that opens the page or the path of the form gets
/// the log-in form. The response to any other request is a message. `key` is the configuration key of the token.
pub(crate) fn without_token(head: &Parts, form: &LogIn, key: &str) -> Answer {
    let is_form = head.method != http::Method::POST && matches!(head.uri.path(), "/" | "/log-in");
    if is_form && accepts(head, "text/html") {
        return unauthorized(document(StatusCode::UNAUTHORIZED, &form.first));
    }
    let message = format!("Send the value of {key} in the header field Authorization: Bearer TOKEN\n");
    unauthorized(text(StatusCode::UNAUTHORIZED, message))
}

fn accepts(head: &Parts, media_type: &str) -> bool {
    head.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| accept.contains(media_type))
}

fn unauthorized(mut response: Answer) -> Answer {
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Closes the connection after the refusal of a request with a body. The rest of a refused body is not read, so the
/// connection cannot be used again.
pub(crate) fn close_if_refused<B>(response: &mut Response<B>, has_body: bool) {
    if has_body && response.status().is_client_error() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

pub(crate) fn method_not_allowed(allowed: &'static str, message: &'static str) -> Answer {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, message);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

pub(crate) fn document(status: StatusCode, document: &Document) -> Answer {
    let mut response = with_type(status, "text/html; charset=utf-8", document.html.clone());
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, document.policy.clone());
    // The policy is not `no-referrer`, because browsers would then send `Origin: null` with the log-in form.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}

pub(crate) fn in_json(status: StatusCode, body: &impl std::fmt::Display) -> Answer {
    with_type(status, JSON, format!("{body}\n"))
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body)
}

pub(crate) fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
