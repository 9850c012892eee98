//! The innermost service: prepares a request for the origin, sends it, and measures the response time.
//!
//! **Place:** below every layer, so that the leaf sends the request with the changes of all layers.
//! **Reads:** `Ctx::{provider, class, trail, takes_trailers}`, the peer, the whole head.
//! **Metrics:** `edgeshim_stand_in_total`; `origin` counts the faults.
//! **Cost:** one allocation for the future. With a stand-in, also a copy of the head of each GET and HEAD. **Can
//! fail:** with every [`Fault`] of the origin.
//!
//! If a stand-in (a static mirror of the site) is configured and the origin has failed, the leaf sends the request to
//! the stand-in (see `stand_in.rs`). The leaf is the right place for two reasons. First: `gzip` and `cache_control`
//! must treat the stand-in's response like a response of the origin. Second: shed requests never reach the leaf, so
//! they never reach the stand-in.

mod stand_in;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{HeaderName, HeaderValue, Method, request};
use http_body::Body as _;
use tower::Service;

use self::stand_in::{Answers, StandIn};
use super::request::{EdgeBody, EdgeRequest, EdgeResponse, Facts, Tally};
use crate::cdn::known::{self, Known};
use crate::fault::{Begun, Fault};
use crate::ids::ProviderId;
use crate::metrics::{Ledger, describe};
use crate::origin::{Client, OriginBody, OriginResponse, Pipe, forward};
use crate::wire::added_fields::AddedFields;
use crate::wire::names::{CONTENT_LENGTH, SERVER_TIMING};
use crate::wire::received::Received;
use crate::wire::server_timing::ServerTiming;

/// What the leaf needs in addition to the providers.
#[derive(Debug, Clone)]
pub(crate) struct LeafParts {
    /// The Host for the origin (`origin.host`). If it is `None`, the origin gets the Host of the request.
    pub host: Option<HeaderValue>,
    /// The origin's authority (host and port), which is sent as Host if the request has no Host.
    pub fallback_host: HeaderValue,
    /// Whether responses have Server-Timing, in which browsers find the name of the CDN.
    pub server_timing: bool,
}

/// The data of the leaf, prepared once so that a request costs less.
pub(crate) struct PreparedLeaf {
    identity: HeaderName,
    claims: Vec<HeaderName>,
    /// The providers' names as header values for the origin, in the order of the provider ids.
    names: Vec<Option<HeaderValue>>,
    host: Option<HeaderValue>,
    fallback_host: HeaderValue,
    server_timing: Option<ServerTiming>,
    answers: Answers,
}

impl PreparedLeaf {
    pub(crate) fn new(parts: LeafParts, identity: &HeaderName, providers: &[Known], ledger: &Ledger) -> Self {
        let LeafParts { host, fallback_host, server_timing } = parts;
        Self {
            identity: identity.clone(),
            claims: known::claims(identity, providers).cloned().collect(),
            names: providers.iter().map(|known| HeaderValue::from_str(&known.name).ok()).collect(),
            host,
            fallback_host,
            answers: ledger.table(&describe::STAND_IN),
            server_timing: server_timing.then(|| ServerTiming::new(ledger.providers())),
        }
    }

    /// Prepares a request's head for the origin. If `is_complete` is false, some of the fields can be returned instead
    /// of being inserted into the head.
    fn write(&self, request: &mut EdgeRequest, is_complete: bool) -> Option<AddedFields> {
        let EdgeRequest { ctx, peer, head, body, .. } = request;
        let outward = forward::Outward {
            peer,
            trail: ctx.trail,
            identity: &self.identity,
            claims: &self.claims,
            provider: ctx.provider.position().and_then(|position| self.names.get(position)?.as_ref()),
            host: self.host.as_ref(),
            fallback_host: &self.fallback_host,
            trailers: ctx.takes_trailers,
            names: ctx.names,
            is_complete,
        };
        let added = forward::outbound(head, &outward);
        if body.is_end_stream() && head.method == Method::GET && ctx.fields(&head.headers).can_have(&CONTENT_LENGTH) {
            // Some origins reject a GET with `Content-Length: 0`.
            head.headers.remove(CONTENT_LENGTH);
        }
        added
    }

    /// Adds Server-Timing with the name of the CDN and the origin's response time. A 304 gets the field too: the 304
    /// updates a stored response (RFC 9111 §4.3.4), whose Server-Timing can have the name of another CDN.
    fn add_timing<B>(&self, response: &mut EdgeResponse<B>, provider: ProviderId, micros: u32) {
        if let Some(timing) = &self.server_timing
            && let Some(value) = timing.value(provider.index(), micros)
        {
            response.head.headers.append(&SERVER_TIMING, value);
            response.facts.names.add(&SERVER_TIMING);
        }
    }
}

/// The destination of the leaf's requests: the pool of connections, or in `explain` a response from the command line.
pub(crate) trait Origin {
    type Body: EdgeBody + Unpin;

    /// Sends a request and returns the origin's response. The request has the fields of `head` and the fields `added`.
    fn call(
        self: Arc<Self>,
        head: request::Parts,
        added: Option<AddedFields>,
        body: Received,
    ) -> impl Future<Output = Result<OriginResponse<Self::Body>, Fault>>;

    /// Returns the stand-in, if one is configured.
    fn stand_in(&self) -> Option<&Arc<Self>>
    where
        Self: Sized,
    {
        None
    }

    /// Sets the bytes in the tally of a stand-in's body to `origin_bytes`. The origin sent these bytes before the
    /// stand-in responded.
    fn replaces(_body: &mut Self::Body, _origin_bytes: u64) {}
}

impl Origin for Client {
    type Body = OriginBody;

    fn call(
        self: Arc<Self>,
        head: request::Parts,
        added: Option<AddedFields>,
        body: Received,
    ) -> impl Future<Output = Result<OriginResponse<OriginBody>, Fault>> {
        Self::call(self, head, added, body)
    }

    fn stand_in(&self) -> Option<&Arc<Self>> {
        Self::stand_in(self)
    }

    fn replaces(body: &mut OriginBody, origin_bytes: u64) {
        body.replaces(origin_bytes);
    }
}

impl EdgeBody for OriginBody {
    fn tally(&self) -> Tally {
        Tally { origin_bytes: self.bytes(), fault: self.fault() }
    }

    fn drain(&mut self) -> bool {
        OriginBody::drain(self)
    }

    fn poll_splice(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, Fault>>> {
        OriginBody::poll_splice(self.get_mut(), cx)
    }
}

/// The service below all layers. `call` is a closure that calls [`boxed`]. The type of the closure is a parameter,
/// because the future of an async function has no name.
#[derive(Clone)]
pub(crate) struct Leaf<C> {
    pub call: C,
}

impl<C, F, B> Service<Box<EdgeRequest>> for Leaf<C>
where
    C: Fn(Box<EdgeRequest>) -> F,
    F: Future<Output = Result<EdgeResponse<B>, Fault>>,
{
    type Response = EdgeResponse<B>;
    type Error = Fault;
    type Future = F;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Box<EdgeRequest>) -> F {
        (self.call)(request)
    }
}

/// Calls [`send`], and boxes its future.
pub(crate) fn boxed<O: Origin>(
    origin: Arc<O>,
    prepared: Arc<PreparedLeaf>,
    request: Box<EdgeRequest>,
) -> Pin<Box<impl Future<Output = Result<EdgeResponse<O::Body>, Fault>>>> {
    // The box exists before the future, and the future comes from a call. So the compiler can create the future in the
    // box. Otherwise it would create the future, of several KiB, on the stack and copy it.
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, begin(origin, prepared, request)))
}

#[inline(never)]
fn begin<O: Origin>(
    origin: Arc<O>,
    prepared: Arc<PreparedLeaf>,
    request: Box<EdgeRequest>,
) -> impl Future<Output = Result<EdgeResponse<O::Body>, Fault>> {
    send(origin, prepared, request)
}

/// Prepares a request, sends it to the origin and measures the response time.
pub(crate) async fn send<O: Origin>(
    origin: Arc<O>,
    prepared: Arc<PreparedLeaf>,
    mut request: Box<EdgeRequest>,
) -> Result<EdgeResponse<O::Body>, Fault> {
    let ctx = request.ctx;
    // If there is a stand-in, it gets a copy of the head, so the head must be complete.
    let added = prepared.write(&mut request, origin.stand_in().is_some());
    let stand_in = origin.stand_in().and_then(|stand_in| StandIn::new(stand_in, &request.head));
    let sent = Instant::now();
    let outcome = origin.call(request.head, added, request.body).await;
    let micros = u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX);
    let mut outcome = match outcome {
        Ok(OriginResponse { head, names, body }) => {
            let origin_status = Some(head.status.as_u16());
            let facts = Facts { origin_status, origin_us: Some(micros), names, ..Facts::new(ctx.class) };
            Ok(EdgeResponse { head, body, facts })
        }
        Err(fault) => Err(match fault.begun() {
            Some(begun) => fault.after(Begun { micros, ..begun }),
            None => fault,
        }),
    };
    if let Some(stand_in) = stand_in
        && stand_in::is_needed(&outcome)
    {
        // Without the box, this future would make the future of every request larger.
        outcome = Box::pin(stand_in.ask(outcome, ctx.class, &prepared.answers)).await;
    }
    let mut response = outcome?;
    prepared.add_timing(&mut response, ctx.provider, micros);
    Ok(response)
}
