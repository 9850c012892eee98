//! What passes through the layers: the request, the response, and small facts about both.
//!
//! [`Ctx`] and [`Facts`] are `Copy` and typed. So a layer can keep its own copy, and nothing is looked up by type in
//! a map.

pub(crate) mod attempts;
pub(crate) mod class;
pub(crate) mod inspect;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode, request, response};
use http_body::Body;

use crate::access_log::Line;
use crate::cdn::dialect::Dialect;
use crate::cdn::known::Known;
use crate::cdn::preset::Pop;
use crate::cdn::proof::{Evidence, Proof};
use crate::fault::{Cause, Fault};
use crate::ids::{ClassId, LocaleId, ProviderId, PullKind, Reason};
use crate::wire::forwarded::{Peer, Trail};
use crate::wire::names::{ALLOW, CONNECTION};
use crate::wire::received::Received;

/// Values of the keys that say whether a doubtful pull is refused.
pub(crate) const COUNT_OR_REJECT: [(&str, bool); 2] = [("count", false), ("reject", true)];

/// The name of this proxy in CDN-Loop and Via.
pub(crate) const PSEUDONYM: &str = "edgeshim";

/// A request on its way to the origin.
#[derive(Debug)]
pub struct EdgeRequest {
    pub ctx: Ctx,
    /// The other end of the connection.
    pub peer: Arc<Peer>,
    /// Its access log line, as far as it is known; none while the log is off.
    pub(crate) line: Option<Line>,
    pub head: request::Parts,
    pub body: Received,
}

/// What the layers learn about a request on its way in.
#[derive(Debug, Clone, Copy)]
pub struct Ctx {
    /// When its head was complete.
    pub arrived: Instant,
    pub provider: ProviderId,
    /// How the provider was proved, or why not.
    pub proof: Proof,
    /// The provider's dialect.
    pub dialect: Dialect,
    /// The kind of pull, as far as the CDN reports it.
    pub kind: PullKind,
    /// The provider's point of presence; empty if unknown.
    pub pop: Pop,
    /// The class by path; the response's type may still change it.
    pub class: ClassId,
    /// The client's address, which is the CDN's server without a proof, and how much of X-Forwarded-For is trusted.
    pub trail: Trail,
    /// Whether the client accepts trailers (`TE: trailers`).
    pub takes_trailers: bool,
    /// Set if it must not reach the origin. `pulls` responds and counts it.
    pub refusal: Option<Reason>,
}

impl Ctx {
    /// Checks the claimed provider, if any, against its proofs and updates the provider and the client. Returns false
    /// if the proof fails.
    pub(crate) fn verify(&mut self, providers: &[Known], head: &request::Parts, peer: &Peer) -> bool {
        let Some(known) = self.provider.position().and_then(|position| providers.get(position)) else { return true };
        let evidence = Evidence {
            headers: &head.headers,
            target: head.uri.path_and_query().map_or("", PathAndQuery::as_str),
            address: self.trail.client,
            certificate: peer.certificate(),
            now: SystemTime::now(),
        };
        let verdict = known.judge(&evidence, self.trail);
        (self.proof, self.pop) = (verdict.proof, verdict.pop);
        if let Some(client) = verdict.client {
            (self.trail.client, self.trail.proven) = (client, true);
        }
        let failed = matches!(verdict.proof, Proof::Failed(_));
        if failed {
            (self.provider, self.dialect) = (ProviderId::UNVERIFIED, Dialect::Generic);
        }
        !failed
    }

    pub fn new(trail: Trail) -> Self {
        Self {
            arrived: Instant::now(),
            provider: ProviderId::NONE,
            proof: Proof::None,
            dialect: Dialect::Generic,
            kind: PullKind::Unknown,
            pop: Pop::default(),
            class: ClassId::OTHER,
            trail,
            takes_trailers: false,
            refusal: None,
        }
    }
}

/// The head of the response to a refused request, in the CDN's dialect. It has no body.
pub(crate) fn refusal(reason: Reason, dialect: Dialect) -> response::Parts {
    let status = match reason {
        Reason::Malformed => StatusCode::BAD_REQUEST,
        Reason::HeaderTimeout => StatusCode::REQUEST_TIMEOUT,
        Reason::UnknownProvider | Reason::Unverified => StatusCode::FORBIDDEN,
        Reason::Host => StatusCode::MISDIRECTED_REQUEST,
        Reason::Loop => StatusCode::LOOP_DETECTED,
        Reason::Method => StatusCode::METHOD_NOT_ALLOWED,
        Reason::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
    };
    let (mut head, ()) = http::Response::new(()).into_parts();
    head.status = status;
    dialect.forbid_storing(&mut head.headers);
    if reason == Reason::Method {
        head.headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    if matches!(reason, Reason::Malformed | Reason::BodyTooLarge | Reason::Method) {
        // The end of the refused request is unknown, or its body is not read.
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    head
}

/// A response on its way to the client.
#[derive(Debug)]
pub struct EdgeResponse<B> {
    pub head: response::Parts,
    pub body: B,
    pub facts: Facts,
}

impl<B> EdgeResponse<B> {
    /// The same response with another body.
    pub fn map<C>(self, body: impl FnOnce(B) -> C) -> EdgeResponse<C> {
        EdgeResponse { head: self.head, body: body(self.body), facts: self.facts }
    }
}

/// What the layers learn about a response.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The class, by path and type.
    pub class: ClassId,
    /// The origin's status, if it responded.
    pub origin_status: Option<u16>,
    /// Microseconds until the origin's response head, if one arrived.
    pub origin_us: Option<u32>,
    /// The first guard that acted.
    pub guard: &'static str,
    /// Why the origin's response is missing.
    pub cause: Option<Cause>,
    /// The page's locale.
    pub locale: Option<LocaleId>,
}

impl Facts {
    pub fn new(class: ClassId) -> Self {
        Self { class, origin_status: None, origin_us: None, guard: "", cause: None, locale: None }
    }
}

/// What a body has read so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Body bytes read from the origin.
    pub origin_bytes: u64,
    /// The fault that cut it.
    pub fault: Option<Cause>,
}

/// A future of a response. Before it is dropped, it can report the part that has arrived.
pub(crate) trait EdgeFuture {
    /// The origin's response, if its head has arrived and is not returned yet.
    fn begun(&self) -> Option<(Facts, Tally)>;
}

/// A response body between two layers.
pub trait EdgeBody: Body<Data = Bytes, Error = Fault> {
    fn tally(&self) -> Tally;

    /// Reads what has arrived of a body that a page replaces, so that the origin's connection can be reused. Returns
    /// false if more may arrive after the connection's task has run.
    fn drain(&mut self) -> bool {
        true
    }
}
