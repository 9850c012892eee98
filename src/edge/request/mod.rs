//! What travels through the layers: the request on its way in, the answer on its way out, and the small facts about both.
//!
//! [`Ctx`] and [`Facts`] are `Copy` and typed, so that a layer can keep its own and nothing is looked up by type in a map.

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

/// What becomes of a pull in doubt: whether it is refused.
pub(crate) const COUNT_OR_REJECT: [(&str, bool); 2] = [("count", false), ("reject", true)];

/// The name of this proxy in CDN-Loop and Via.
pub(crate) const PSEUDONYM: &str = "edgeshim";

/// A request on its way to the origin.
#[derive(Debug)]
pub struct EdgeRequest {
    /// What is known about it so far.
    pub ctx: Ctx,
    /// Who is at the other end of the connection.
    pub peer: Arc<Peer>,
    /// Its line in the access log, as far as it is known; none while the log is off.
    pub(crate) line: Option<Line>,
    /// Method, target, version and fields.
    pub head: request::Parts,
    /// The body, still in hyper's hands.
    pub body: Received,
}

/// What the layers learn about a request on its way in.
#[derive(Debug, Clone, Copy)]
pub struct Ctx {
    /// When its head was complete.
    pub arrived: Instant,
    /// Which CDN pulls.
    pub provider: ProviderId,
    /// How that is known.
    pub proof: Proof,
    /// In which words it is answered: those of the provider's preset.
    pub dialect: Dialect,
    /// What sort of pull it is, as far as its CDN tells.
    pub kind: PullKind,
    /// The provider's point of presence; empty where it is not known.
    pub pop: Pop,
    /// Its class by path; the answer's type may still change it.
    pub class: ClassId,
    /// The CDN's machine, after the own balancers, or its visitor where that is proven; and how far X-Forwarded-For is believed.
    pub trail: Trail,
    /// Whether the client takes trailers (`TE: trailers`).
    pub takes_trailers: bool,
    /// Set where it is not to reach the origin; `pulls` counts and answers it.
    pub refusal: Option<Reason>,
}

impl Ctx {
    /// Holds the claim, if there is one, against the proofs of `providers` and notes what follows; false where it proves nothing.
    pub(crate) fn judge(&mut self, providers: &[Known], head: &request::Parts, peer: &Peer) -> bool {
        let Some(known) = self.provider.position().and_then(|position| providers.get(position)) else { return true };
        let evidence = Evidence {
            headers: &head.headers,
            target: head.uri.path_and_query().map_or("", PathAndQuery::as_str),
            address: self.trail.client,
            certificate: peer.certificate(),
            now: SystemTime::now(),
        };
        let judged = known.judge(&evidence, self.trail);
        (self.proof, self.pop) = (judged.proof, judged.pop);
        if let Some(client) = judged.client {
            (self.trail.client, self.trail.proven) = (client, true);
        }
        let failed = matches!(judged.proof, Proof::Failed(_));
        if failed {
            (self.provider, self.dialect) = (ProviderId::UNVERIFIED, Dialect::Generic);
        }
        !failed
    }

    /// A request that arrived now.
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

/// The head of a refusal's answer, in the words of the CDN that pulled; it has no body.
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
        // What follows on the connection cannot be told from what was refused, or is a body that nobody wants.
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    head
}

/// An answer on its way out.
#[derive(Debug)]
pub struct EdgeResponse<B> {
    /// Status and fields.
    pub head: response::Parts,
    /// The body.
    pub body: B,
    /// What the layers know about it.
    pub facts: Facts,
}

impl<B> EdgeResponse<B> {
    /// The same answer with another body.
    pub fn map<C>(self, body: impl FnOnce(B) -> C) -> EdgeResponse<C> {
        EdgeResponse { head: self.head, body: body(self.body), facts: self.facts }
    }
}

/// What the layers learn about an answer on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Its class, by path and type.
    pub class: ClassId,
    /// The origin's status, where it answered.
    pub origin_status: Option<u16>,
    /// Microseconds to the origin's response head, where one came.
    pub origin_us: Option<u32>,
    /// The first guard that held.
    pub guard: &'static str,
    /// Why there is no answer of the origin's.
    pub cause: Option<Cause>,
    /// The page's language.
    pub locale: Option<LocaleId>,
}

impl Facts {
    /// Nothing known but the class.
    pub fn new(class: ClassId) -> Self {
        Self { class, origin_status: None, origin_us: None, guard: "", cause: None, locale: None }
    }
}

/// What a body has seen so far, asked from outside when it ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Body bytes read from the origin.
    pub origin_bytes: u64,
    /// The fault that broke it off.
    pub fault: Option<Cause>,
}

/// An answer in the making, asked from outside when it comes to nothing.
pub(crate) trait EdgeFuture {
    /// What is known of an answer of the origin's that has begun, while it is still held back.
    fn begun(&self) -> Option<(Facts, Tally)>;
}

/// A response body between two layers.
pub trait EdgeBody: Body<Data = Bytes, Error = Fault> {
    /// What it has seen so far.
    fn tally(&self) -> Tally;

    /// Reads what has arrived of a body that a page takes the place of, so that the origin's connection is kept. False: more may be
    /// there when the connection has had its turn.
    fn drain(&mut self) -> bool {
        true
    }
}
