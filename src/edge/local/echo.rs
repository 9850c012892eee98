//! The endpoint for `edgeshim smoke` (`[smoke]`): responds to a signed path with what arrived through the CDN.
//!
//! A request with another path, with a query, without a valid signature, or with a method other than GET and HEAD goes
//! to the origin, as if this endpoint did not exist. So nobody without the token can find out whether the endpoint is
//! on.

use std::path::Path;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, request, response};

use super::{Response, Shared};
use crate::clock;
use crate::edge::request::{EdgeRequest, uncacheable};
use crate::intake::echo_report::EchoReport;
use crate::intake::signed_path::{self, ERROR_SECONDS, Signed, Task};
use crate::keys::secrets::SECRET;
use crate::keys::{Checked, Keys, Text, Visitor};
use crate::wire::names::{
    ACCEPT_ENCODING, CACHE_CONTROL, CDN_LOOP, CONTENT_TYPE, ETAG, FORWARDED, HOST, SET_COOKIE, VIA, X_FORWARDED_FOR,
    X_FORWARDED_PROTO, X_REQUEST_ID,
};
use crate::wire::secret::Secret;
use crate::wire::values::cut;

/// The length of the shortest allowed token, in bytes. A person who sees a signed path can check guesses of the token
/// without sending requests, so a token must be long.
const LEAST_TOKEN_BYTES: usize = 16;
/// The length to which a value of the request is cut, in bytes.
const MOST_VALUE_BYTES: usize = 512;

/// The key of `[smoke]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SmokeSettings {
    /// The token with which paths are signed. `None`: the endpoint is off.
    pub token: Option<Secret>,
}

impl Keys for SmokeSettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.nonempty("token", &TOKEN, &mut self.token);
    }
}

/// A token of at least [`LEAST_TOKEN_BYTES`] bytes.
const TOKEN: Text<Secret> = Text { example: "env:SMOKE_TOKEN", read: token, write: SECRET.write };

/// Reads a token from the text, an environment variable or a file.
pub(crate) fn token(text: &str, folder: &Path) -> Checked<Secret> {
    let token = (SECRET.read)(text, folder)?;
    if token.expose().len() < LEAST_TOKEN_BYTES {
        return Err(format!(
            "is shorter than {LEAST_TOKEN_BYTES} bytes, so it could be guessed; write a longer token, for example \
             the output of: openssl rand -hex 32"
        ));
    }
    Ok(token)
}

impl SmokeSettings {
    /// Returns the parts of a path with a valid signature. Returns `None` if the endpoint is off.
    ///
    /// `target` is the path with its query. A signed path has no query, because the signature does not cover a query.
    pub(super) fn signed(&self, target: &str) -> Option<Signed> {
        // Nearly all paths have another prefix, so no MAC is computed for them.
        let token = self.token.as_ref().filter(|_| target.starts_with(signed_path::PREFIX))?;
        signed_path::verify(token, target, clock::unix_time().as_secs())
    }
}

/// Returns whether the endpoint responds to this method.
pub(super) fn is_answered(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

impl Shared {
    /// Responds to a signed path.
    pub(super) fn echo(&self, mut request: Box<EdgeRequest>, signed: Signed) -> Response {
        self.check(&mut request);
        let now = clock::unix_time();
        let id = format!("{:016x}", fastrand::u64(..));
        let mut head = head(signed, now.as_secs(), &id, &request);
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let report = self.report(&request, signed.task, id, now.as_millis());
        // Without a token, no path has a valid signature, so this function is not called.
        let body = self.parts.smoke.token.as_ref().map(|token| report.write(token)).unwrap_or_default();
        self.complete(request, head, Bytes::from(body), "")
    }

    /// Returns what arrived. The report contains no value that can be a secret.
    fn report(&self, request: &EdgeRequest, task: Task, id: String, now_ms: u128) -> EchoReport {
        let EdgeRequest { ctx, peer, head, .. } = request;
        let text = |field: &HeaderName| joined(head, field);
        EchoReport {
            edgeshim: env!("CARGO_PKG_VERSION").to_owned(),
            nonce: signed_path::nonce(head.uri.path()).to_owned(),
            task: task.to_string(),
            id,
            provider: self.ledger.provider(ctx.provider).to_owned(),
            proof: ctx.proof.as_str().to_owned(),
            pop: ctx.pop.as_str().to_owned(),
            client: ctx.trail.client.to_string(),
            client_proven: ctx.trail.proven,
            peer: peer.address().to_string(),
            version: format!("{:?}", head.version),
            method: head.method.to_string(),
            host: text(&HOST),
            via: text(&VIA),
            cdn_loop: text(&CDN_LOOP),
            x_forwarded_for: text(&X_FORWARDED_FOR),
            x_forwarded_proto: text(&X_FORWARDED_PROTO),
            forwarded: text(&FORWARDED),
            accept_encoding: text(&ACCEPT_ENCODING),
            request_id: text(&X_REQUEST_ID),
            now_ms: u64::try_from(now_ms).unwrap_or(u64::MAX),
        }
    }
}

/// Returns the lines of a field, joined to one line and cut.
fn joined(head: &request::Parts, field: &HeaderName) -> String {
    let mut value = String::new();
    for line in head.headers.get_all(field) {
        if !value.is_empty() {
            value.push_str(", ");
        }
        value.push_str(&String::from_utf8_lossy(line.as_bytes()));
        if value.len() >= MOST_VALUE_BYTES {
            break;
        }
    }
    cut(&value, MOST_VALUE_BYTES).to_owned()
}

/// Returns the head of the response to a task.
fn head(signed: Signed, now_seconds: u64, id: &str, request: &EdgeRequest) -> response::Parts {
    let is_error = signed.task == Task::Error && now_seconds < signed.signed_at_seconds.saturating_add(ERROR_SECONDS);
    let status = if is_error { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let mut head = uncacheable(status, request.ctx.dialect);
    let fields = match signed.task {
        Task::Echo | Task::Error => Vec::new(),
        Task::Cookie => vec![
            (SET_COOKIE, format!("edgeshim-smoke={id}; Path={}; Max-Age=60; HttpOnly", signed_path::PREFIX)),
            (CACHE_CONTROL, "private".to_owned()),
        ],
        Task::Cache(seconds) => {
            // The CDN's targeted field must not forbid storing, so the fields of `uncacheable` are removed.
            head.headers.clear();
            vec![(CACHE_CONTROL, format!("public, max-age={seconds}")), (ETAG, format!("\"{id}\""))]
        }
    };
    for (name, value) in fields {
        // The values have only visible ASCII and spaces, so they are valid.
        if let Ok(value) = HeaderValue::try_from(value) {
            head.headers.insert(name, value);
        }
    }
    head
}
