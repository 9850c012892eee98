//! Defines what passes through the layers: the request, the response, and small facts about both.
//!
//! [`Ctx`] and [`Facts`] are `Copy` structs, not entries of a map such as `http::Extensions`. So a layer can keep its
//! own copy and reads a fact without a search.

pub(crate) mod attempts;
pub(crate) mod class;
pub(crate) mod inspect;
pub(crate) mod objects;
pub(crate) mod top;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, StatusCode, request, response};
use http_body::Body;

use crate::access_log::Line;
use crate::cdn::dialect::Dialect;
use crate::cdn::grant::Grant;
use crate::cdn::known::Known;
use crate::cdn::preset::Pop;
use crate::cdn::proof::{Evidence, Proof};
use crate::fault::{Cause, Fault};
use crate::ids::{ClassId, LocaleId, ProviderId, PullKind, Reason};
use crate::origin::Pipe;
use crate::wire::forwarded::{Peer, Trail};
use crate::wire::head_fields::{Fields, Names};
use crate::wire::hops;
use crate::wire::names::{ALLOW, CONNECTION};
use crate::wire::received::Received;

/// The values of the keys `identity.unknown` and `identity.unverified`. `true` means that a pull with an unknown or
/// unproved provider is refused.
pub(crate) const COUNT_OR_REJECT: [(&str, bool); 2] = [("count", false), ("reject", true)];

/// A request on its way to the origin.
#[derive(Debug)]
pub struct EdgeRequest {
    pub ctx: Ctx,
    /// The other end of the connection on which the request arrived.
    pub peer: Arc<Peer>,
    /// The access log line of the request, with the data that is known so far. `None` while the log is off, before
    /// `observe`, and after `pulls`.
    pub(crate) line: Option<Line>,
    pub head: request::Parts,
    pub body: Received,
}

/// What the layers learn about a request on its way in.
#[derive(Debug, Clone, Copy)]
pub struct Ctx {
    /// The time at which the head of the request was complete.
    pub arrived: Instant,
    pub provider: ProviderId,
    /// How the claimed provider was proved, or why the proof failed.
    pub proof: Proof,
    pub dialect: Dialect,
    /// Whether the CDN can use br from an origin. Accept-Encoding decides whether the CDN asks for br.
    pub takes_br: bool,
    /// The kind of pull, or `Unknown` if the provider is unknown.
    pub kind: PullKind,
    /// The provider's point of presence; empty if unknown.
    pub pop: Pop,
    /// The class that was found by path. The type of the response can still change the class.
    pub class: ClassId,
    /// The client's address, and how much of X-Forwarded-For is trusted. Without a proof, the CDN's server counts as
    /// the client.
    pub trail: Trail,
    /// Whether the client accepts trailers (`TE: trailers`).
    pub takes_trailers: bool,
    /// The set of the field names in the request's head. The set can contain further names.
    pub(crate) names: Names,
    /// The reason why the request must not reach the origin, if there is a reason. `pulls` responds to such a request
    /// and counts the refusal.
    pub refusal: Option<Reason>,
    /// What the response must have because of experiments.
    pub(crate) assigned: Assigned,
}

/// What a response must have because the origin's response can depend on the arm of an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Assigned {
    /// Whether the response must not be stored by shared caches.
    pub is_private: bool,
    /// The experiments whose field with the visitor's id must be in Vary, one bit for each experiment.
    pub varies: u16,
}

impl Ctx {
    /// Returns the fields of the request's head, together with the set `names`.
    pub(crate) fn fields<'a>(&self, headers: &'a HeaderMap) -> Fields<'a> {
        Fields::new(headers, self.names)
    }

    /// Checks the claimed provider against its proofs, and updates `proof`, `pop` and, after a valid proof, the
    /// client's address. If the proof fails, the provider becomes `unverified`, the dialect becomes `Generic`, and the
    /// function returns false. If the request claims no configured provider, the function changes nothing and returns
    /// true.
    pub(crate) fn verify(&mut self, providers: &[Known], head: &request::Parts, peer: &Peer) -> bool {
        let Some(known) = self.provider.position().and_then(|position| providers.get(position)) else { return true };
        let evidence = Evidence {
            headers: &head.headers,
            target: head.uri.path_and_query().map_or("", PathAndQuery::as_str),
            address: self.trail.client,
            certificate: peer.certificate(),
            peer_trusted: self.trail.peer_trusted,
            now: SystemTime::now,
        };
        let verdict = known.judge(&evidence, self.fields(&head.headers), self.trail);
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

    /// Makes the context of a request that has just arrived. A request with ambiguous framing is marked as malformed.
    pub(crate) fn new(peer: &Peer, headers: &HeaderMap, is_unambiguous: bool) -> Self {
        let names = Names::of(headers);
        Self {
            arrived: Instant::now(),
            provider: ProviderId::NONE,
            proof: Proof::None,
            dialect: Dialect::Generic,
            takes_br: true,
            kind: PullKind::Unknown,
            pop: Pop::default(),
            class: ClassId::OTHER,
            trail: Trail { client: peer.address(), proven: false, kept: 0, peer_trusted: false },
            takes_trailers: hops::wants_trailers(Fields::new(headers, names)),
            names,
            refusal: (!is_unambiguous).then_some(Reason::Malformed),
            assigned: Assigned::default(),
        }
    }
}

/// Makes the head of the response to a refused request, in the CDN's dialect. The response has no body.
pub(crate) fn refusal(reason: Reason, dialect: Dialect) -> response::Parts {
    let status = match reason {
        // After a flood, the connection is closed without a response.
        Reason::Malformed | Reason::Flood => StatusCode::BAD_REQUEST,
        Reason::HeaderTimeout => StatusCode::REQUEST_TIMEOUT,
        Reason::UnknownProvider | Reason::Unverified => StatusCode::FORBIDDEN,
        Reason::Host => StatusCode::MISDIRECTED_REQUEST,
        Reason::Loop => StatusCode::LOOP_DETECTED,
        Reason::Method => StatusCode::METHOD_NOT_ALLOWED,
        Reason::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
    };
    let mut head = uncacheable(status, dialect);
    if reason == Reason::Method {
        head.headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    if matches!(reason, Reason::Malformed | Reason::BodyTooLarge | Reason::Method) {
        // On HTTP/1, this closes the connection, because the end of the refused request is unknown or its body is not
        // read.
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    head
}

/// Makes a response head that no cache is allowed to store.
pub(crate) fn uncacheable(status: StatusCode, dialect: Dialect) -> response::Parts {
    let (mut head, ()) = http::Response::new(()).into_parts();
    head.status = status;
    dialect.forbid_storing(&mut head.headers);
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
    /// Returns the fields of the response's head, together with the set `facts.names`.
    pub(crate) fn fields(&self) -> Fields<'_> {
        Fields::new(&self.head.headers, self.facts.names)
    }

    /// Returns the same response with another body.
    pub fn map<C>(self, body: impl FnOnce(B) -> C) -> EdgeResponse<C> {
        EdgeResponse { head: self.head, body: body(self.body), facts: self.facts }
    }
}

/// What the layers learn about a response.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The class that was found by path. After `cache_control`, the class that was found by path and type.
    pub class: ClassId,
    /// The status of the origin's response, if the origin responded.
    pub origin_status: Option<u16>,
    /// The microseconds from sending the request to the arrival of the origin's response head, if a head arrived.
    pub origin_us: Option<u32>,
    /// The name of the first guard that applied; empty if no guard applied.
    pub guard: &'static str,
    /// The cause of the fault to which `whoopsie` or the stand-in has responded. `None` if there was no fault.
    pub cause: Option<Cause>,
    /// The locale of the whoopsie page, if the response is a page.
    pub locale: Option<LocaleId>,
    /// The set of the field names in the response's head. The set can contain further names. For a response that
    /// edgeshim makes, the set contains every name.
    pub(crate) names: Names,
    /// What the CDN is allowed to do with the response. `None` if `pulls` must read the grant from the head.
    pub(crate) grant: Option<Grant>,
    /// Whether the response comes from the stand-in (`origin.stand_in`), which replaces a failure of the origin.
    /// `cause` or `origin_status` then shows how the origin failed.
    pub stand_in: bool,
}

impl Facts {
    pub fn new(class: ClassId) -> Self {
        Self {
            class,
            origin_status: None,
            origin_us: None,
            guard: "",
            cause: None,
            locale: None,
            names: Names::ALL,
            grant: None,
            stand_in: false,
        }
    }
}

/// What a response body has read from the origin so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// The number of body bytes that were read from the origin.
    pub origin_bytes: u64,
    /// The cause of the fault that cut the body. `None` if no fault cut the body.
    pub fault: Option<Cause>,
}

/// A future that waits for a response. Before the future is dropped, it can report what has arrived from the origin.
pub(crate) trait EdgeFuture {
    /// Returns what is known about the origin's response if its head has arrived but the future has not returned the
    /// response yet.
    fn begun(&self) -> Option<(Facts, Tally)>;
}

/// A response body between two layers.
pub trait EdgeBody: Body<Data = Bytes, Error = Fault> {
    fn tally(&self) -> Tally;

    /// Reads and discards the part of the body that has arrived. A layer calls this function when it replaces the
    /// response, so that the connection to the origin can be reused. Returns false if more of the body can arrive after
    /// the task of the connection has run. Then the layer can call the function again.
    fn drain(&mut self) -> bool {
        true
    }

    /// Moves the next bytes of the body from the origin's socket to a pipe, and returns the pipe. Returns `Ready(None)`
    /// if the next frame must be read with `poll_frame`, for example because a layer has to read the bytes.
    fn poll_splice(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, Fault>>> {
        let _ = cx;
        Poll::Ready(None)
    }
}
