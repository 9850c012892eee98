//! Sends a request to the stand-in, a static mirror of the site, if the origin has a fault or sends a 5xx.
//!
//! The mirror gets only GET and HEAD requests without Upgrade. A response of the mirror is used only if its status is
//! 200. The response then passes the layers in place of the origin's response, so `gzip` compresses the body and
//! `cache_control` limits the lifetime to `error_ttl`. If the mirror fails, the layers get the fault or the 5xx of the
//! origin.
//!
//! The mirror gets a copy of the request head without Range and without conditions, so that the mirror's response is
//! complete. The copy has no Cookie and no Authorization, because a static mirror needs neither.

use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, request};
use metrics::Counter;

use super::Origin;
use crate::edge::request::{EdgeBody as _, EdgeResponse, Facts};
use crate::fault::Fault;
use crate::ids::{ClassId, label};
use crate::metrics::Table;
use crate::origin::OriginResponse;
use crate::wire::names::{
    ACCEPT_RANGES, AGE, AUTHORIZATION, CONTENT_LENGTH, COOKIE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE, TRANSFER_ENCODING, UPGRADE,
};
use crate::wire::received::Received;

label! {
    /// The result of a request to the stand-in: the label `result` of `edgeshim_stand_in_total`.
    pub(crate) enum Answer {
        /// The response of the stand-in replaced the failure of the origin.
        Served = "served",
        /// The stand-in did not respond with 200.
        Failed = "failed",
    }
}

/// The counters of `edgeshim_stand_in_total`.
pub(super) type Answers = Table<Answer, Counter>;

/// A request that can be sent to the stand-in.
pub(super) struct StandIn<O> {
    origin: Arc<O>,
    head: request::Parts,
}

impl<O: Origin> StandIn<O> {
    /// Copies a head that is ready for the origin. Returns `None` if the stand-in cannot respond to the request.
    pub(super) fn new(origin: &Arc<O>, head: &request::Parts) -> Option<Box<Self>> {
        if !matches!(head.method, Method::GET | Method::HEAD) || head.headers.contains_key(UPGRADE) {
            return None;
        }
        let (mut copy, ()) = http::Request::new(()).into_parts();
        copy.method = head.method.clone();
        copy.uri = head.uri.clone();
        copy.version = head.version;
        copy.headers = head.headers.clone();
        for name in [
            RANGE,
            IF_RANGE,
            IF_MATCH,
            IF_NONE_MATCH,
            IF_MODIFIED_SINCE,
            IF_UNMODIFIED_SINCE,
            COOKIE,
            AUTHORIZATION,
            // The copy has no body.
            CONTENT_LENGTH,
            TRANSFER_ENCODING,
        ] {
            copy.headers.remove(name);
        }
        Some(Box::new(Self { origin: Arc::clone(origin), head: copy }))
    }

    /// Sends the request to the stand-in. Returns the response of the stand-in, or `outcome` if the stand-in fails.
    pub(super) async fn ask(
        self,
        outcome: Result<EdgeResponse<O::Body>, Fault>,
        class: ClassId,
        answers: &Answers,
    ) -> Result<EdgeResponse<O::Body>, Fault> {
        let OriginResponse { mut head, names, mut body } =
            match self.origin.call(self.head, None, Received::empty()).await {
                Ok(response) if response.head.status == StatusCode::OK => response,
                failed => {
                    if let Ok(mut refused) = failed {
                        refused.body.drain();
                    }
                    answers.get(Answer::Failed).increment(1);
                    return outcome;
                }
            };
        let (facts, origin_bytes) = match outcome {
            Ok(mut replaced) => {
                replaced.body.drain();
                (replaced.facts, replaced.body.tally().origin_bytes)
            }
            Err(fault) => {
                let mut facts = Facts { cause: Some(fault.cause()), ..Facts::new(class) };
                if let Some(begun) = fault.begun() {
                    (facts.origin_status, facts.origin_us) = (Some(begun.status), Some(begun.micros));
                }
                (facts, fault.begun().map_or(0, |begun| begun.bytes))
            }
        };
        O::replaces(&mut body, origin_bytes);
        clean(&mut head.headers);
        answers.get(Answer::Served).increment(1);
        Ok(EdgeResponse { head, body, facts: Facts { stand_in: true, names, ..facts } })
    }
}

/// Whether the origin has failed, so that the stand-in gets the request. A failure of the client is no failure of the
/// origin.
pub(super) fn is_needed<B>(outcome: &Result<EdgeResponse<B>, Fault>) -> bool {
    match outcome {
        Ok(response) => response.head.status.is_server_error(),
        Err(fault) => !fault.cause().is_client_error(),
    }
}

/// Removes fields that describe the mirror's copy. A cache could otherwise treat this copy as a version of the origin's
/// response.
fn clean(headers: &mut HeaderMap) {
    for name in [AGE, ETAG, LAST_MODIFIED, ACCEPT_RANGES] {
        headers.remove(name);
    }
}
