//! Sends one request through the same layers as in `run`, to an origin that responds with a given head.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, request, response};
use http_body::{Body, Frame, SizeHint};
use tower::Service as _;

use super::arguments::Failed;
use crate::clock;
use crate::edge::leaf::Origin;
use crate::edge::pipeline::recorded_stack;
use crate::edge::recorder::{Recorder, Recording};
use crate::edge::request::{Ctx, EdgeBody, EdgeRequest, EdgeResponse, Facts, Tally};
use crate::fault::{Cause, Fault};
use crate::origin::{OriginResponse, forward};
use crate::runtime::Runtime;
use crate::wire::added_fields::AddedFields;
use crate::wire::forwarded::Peer;
use crate::wire::head_fields::Names;
use crate::wire::head_tracker::{HeadTracker, Verdict};
use crate::wire::names::TRANSFER_ENCODING;
use crate::wire::received::Received;
use crate::wire::values::content_length;

/// The largest number of times that the layers are polled. Some layers wait for a body, for less than one second. No
/// body arrives here, so such a layer continues after its waiting time. There is a pause of at least one millisecond
/// after each poll, so polling does not stop before one second has passed.
const MOST_POLLS: usize = 1_000;

/// What happened to one request.
pub(super) struct Run {
    /// The request's fields, as received.
    pub(super) received: HeaderMap,
    pub(super) recording: Recording,
    /// The request, as the origin got it. `None`: the origin did not get the request.
    pub(super) sent: Option<request::Parts>,
    /// The fields of the origin's response.
    pub(super) origin: HeaderMap,
    /// The head of the response, as edgeshim sends it to the CDN.
    pub(super) head: response::Parts,
    pub(super) facts: Facts,
}

impl Run {
    pub(super) fn new(
        runtime: &Runtime,
        peer: &Arc<Peer>,
        head: request::Parts,
        response: Response<()>,
    ) -> Result<Self, Failed> {
        let (received, origin) = (head.headers.clone(), response.headers().clone());
        let script = Arc::new(Script { response: Mutex::new(Some(response)), sent: Mutex::default() });
        let recorder = Recorder::default();
        let mut stack = recorded_stack(runtime.parts(), Arc::clone(&script), &recorder);
        let mut future = pin!(stack.call(incoming(peer, head)));
        for _ in 0..MOST_POLLS {
            if let Poll::Ready(outcome) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                let Ok(EdgeResponse { head, facts, .. }) = outcome;
                let sent = script.sent.lock().unwrap_or_else(PoisonError::into_inner).take();
                return Ok(Self { received, recording: recorder.take(), sent, origin, head, facts });
            }
            thread::sleep(Duration::from_millis(1));
            clock::begin_turn();
            clock::sweep();
        }
        Err("the layers have not responded in time; this is a bug in edgeshim".into())
    }
}

/// Returns the request in the form in which a connection passes it to the layers.
fn incoming(peer: &Arc<Peer>, head: request::Parts) -> Box<EdgeRequest> {
    let ctx = Ctx::new(peer, &head.headers, is_unambiguous(&head));
    let has_body = head.headers.contains_key(TRANSFER_ENCODING)
        || content_length(&head.headers).ok().flatten().is_some_and(|length| length > 0);
    let body = if has_body { Received::unread() } else { Received::empty() };
    Box::new(EdgeRequest { ctx, peer: Arc::clone(peer), line: None, head, body })
}

/// Returns whether a head is unambiguous. This function uses the framing check of HTTP/1.1 connections.
fn is_unambiguous(head: &request::Parts) -> bool {
    let mut tracker = HeadTracker::new();
    tracker.feed(format!("{} {} HTTP/1.1\r\n", head.method, head.uri).as_bytes());
    for (name, value) in &head.headers {
        tracker.feed(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    tracker.feed(b"\r\n");
    tracker.take_verdict() == Verdict::Clear
}

/// An origin that responds to one request.
struct Script {
    response: Mutex<Option<Response<()>>>,
    sent: Mutex<Option<request::Parts>>,
}

impl Origin for Script {
    type Body = SilentBody;

    async fn call(
        self: Arc<Self>,
        mut head: request::Parts,
        added: Option<AddedFields>,
        _: Received,
    ) -> Result<OriginResponse<SilentBody>, Fault> {
        if let Some(added) = added {
            added.insert(&mut head.headers);
        }
        let is_head = head.method == Method::HEAD;
        let asks_upgrade = forward::asks_upgrade(&head);
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
        let response = self.response.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut response = response.ok_or_else(|| Fault::new(Cause::Cut))?;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            if !asks_upgrade {
                return Err(forward::unexpected_upgrade());
            }
            let (head, ()) = response.into_parts();
            let body = SilentBody { length: Some(0) };
            return Ok(OriginResponse { names: Names::of(&head.headers), head, body });
        }
        forward::check_response(&mut response)?;
        let (mut head, ()) = response.into_parts();
        let names = forward::clean_response(&mut head, is_head);
        let length = if is_head || forward::is_bodiless(status) {
            Some(0)
        } else {
            content_length(&head.headers).ok().flatten()
        };
        Ok(OriginResponse { head, names, body: SilentBody { length } })
    }
}

/// The body of the origin's response, which never has a frame. If its length is 0, the body ends at once. Otherwise the
/// body never ends.
struct SilentBody {
    length: Option<u64>,
}

impl Body for SilentBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if self.is_end_stream() { Poll::Ready(None) } else { Poll::Pending }
    }

    fn is_end_stream(&self) -> bool {
        self.length == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl EdgeBody for SilentBody {
    fn tally(&self) -> Tally {
        Tally::default()
    }
}
