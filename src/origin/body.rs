//! The two bodies at the origin: what the visitor sends, and what the origin answers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};

use super::pool::Connection;
use super::{Client, OriginSettings};
use crate::clock;
use crate::fault::{Cause, Fault, cause_in};
use crate::wire::hops;
use crate::wire::received::Received;

/// A request body on its way to the origin: bounded by `server.max_request_body`, and it tells who is waiting for whom.
#[derive(Debug)]
pub(crate) struct Upload {
    /// None: empty.
    incoming: Option<Received>,
    left: Option<u64>,
    progress: Option<Arc<Progress>>,
    /// For a visitor who stops sending; it holds after an early answer too, when nobody waits for one any more.
    stalled: Option<(clock::Deadline, Duration)>,
    claims: Option<Arc<[HeaderName]>>,
}

/// Whose turn it is in an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The visitor has to send more.
    Visitor,
    /// The origin has to take what was sent.
    Origin,
    /// All of it is on its way.
    Sent,
}

/// An upload's stage and since when, shared with whoever waits for the answer.
#[derive(Debug)]
pub(super) struct Progress {
    stage: AtomicU8,
    since_ms: AtomicU64,
}

impl Progress {
    fn set(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
        self.since_ms.store(clock::now_ms(), Ordering::Relaxed);
    }

    /// The stage, and for how long it has been that one.
    pub(super) fn stage(&self) -> (Stage, Duration) {
        let since = self.since_ms.load(Ordering::Relaxed);
        let stage = match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Visitor,
            1 => Stage::Origin,
            _ => Stage::Sent,
        };
        (stage, Duration::from_millis(clock::now_ms().saturating_sub(since)))
    }
}

impl Upload {
    pub(super) fn new(incoming: Received, settings: &OriginSettings) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        let progress = Progress { stage: AtomicU8::new(0), since_ms: AtomicU64::new(clock::now_ms()) };
        Self {
            incoming: Some(incoming),
            left: settings.max_request_body,
            progress: Some(Arc::new(progress)),
            stalled: Some((clock::Deadline::new(), settings.body_timeout)),
            claims: Some(Arc::clone(&settings.claims)),
        }
    }

    pub(super) fn empty() -> Self {
        Self { incoming: None, left: None, progress: None, stalled: None, claims: None }
    }

    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.clone()
    }

    fn turn(&self, stage: Stage) {
        if let Some(progress) = &self.progress {
            progress.set(stage);
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(incoming).poll_frame(cx) else {
            // Not set again while nothing moves: the time since then is what counts.
            if self.progress.as_ref().is_some_and(|p| p.stage().0 != Stage::Visitor) {
                self.turn(Stage::Visitor);
            }
            if let Some((deadline, timeout)) = &self.stalled {
                if !deadline.is_armed() {
                    deadline.arm(*timeout);
                } else if deadline.is_due() {
                    return Poll::Ready(Some(Err(Fault::new(Cause::RequestStalled))));
                }
                deadline.watch(cx);
            }
            return Poll::Pending;
        };
        if let Some((deadline, _)) = &self.stalled {
            deadline.disarm();
        }
        match frame {
            Some(Ok(frame)) => {
                if frame.trailers_ref().is_some_and(http::HeaderMap::is_empty) {
                    // Only HTTP/2 hands over an empty trailer section: h2 has dropped what was in it, which is how a request that
                    // RFC 9113 §8.1 calls malformed for pseudo-fields in its trailers comes through to here.
                    return Poll::Ready(Some(Err(Fault::from_error(Cause::RequestCut, "pseudo-fields in trailers"))));
                }
                let size = frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Some(left) = &mut self.left {
                    match left.checked_sub(size) {
                        Some(rest) => *left = rest,
                        None => return Poll::Ready(Some(Err(Fault::new(Cause::RequestTooLarge)))),
                    }
                }
                self.turn(Stage::Origin);
                let frame = match frame.into_trailers() {
                    Ok(mut trailers) => {
                        hops::strip_trailers(&mut trailers, self.claims.as_deref().unwrap_or_default());
                        if trailers.is_empty() {
                            // On HTTP/2 an empty section is what others, we too, refuse.
                            self.turn(Stage::Sent);
                            return Poll::Ready(None);
                        }
                        Frame::trailers(trailers)
                    }
                    Err(frame) => frame,
                };
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(Fault::from_error(Cause::RequestCut, error)))),
            None => {
                self.turn(Stage::Sent);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Upload {
    /// hyper drops a body of known length when its last byte is written, without asking for the end.
    fn drop(&mut self) {
        self.turn(Stage::Sent);
    }
}

/// The origin's body: counted, timed, and giving its connection back when it has ended well.
pub struct OriginBody {
    incoming: Received,
    first: First,
    connection: Option<Box<Connection>>,
    deadline: clock::Deadline,
    client: Arc<Client>,
    bytes: u64,
    fault: Option<Cause>,
}

/// What of a body came with the head. It is looked at before the head goes on: where a body fails at once nothing has been sent, and the
/// client gets the page.
enum First {
    /// Nothing yet, or it has been handed on.
    Nothing,
    Data(Bytes),
    Trailers(Box<HeaderMap>),
}

/// Frames that [`OriginBody::drain`] looks at before it gives the connection up.
const DISCARD_FRAMES: usize = 8;

impl OriginBody {
    pub(super) fn new(incoming: Received, connection: Option<Box<Connection>>, client: Arc<Client>) -> Self {
        let deadline = connection.as_ref().map_or_else(clock::Deadline::new, |c| c.deadline.clone());
        let mut body = Self { incoming, first: First::Nothing, connection, deadline, client, bytes: 0, fault: None };
        if body.incoming.is_end_stream() {
            body.release();
        }
        body
    }

    /// Takes what has come with the head.
    ///
    /// # Errors
    /// The body fails at once; the fault has been counted.
    pub(super) fn begin(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        if self.incoming.is_end_stream() {
            return Ok(());
        }
        if let Poll::Ready(Some(frame)) = Pin::new(&mut *self).poll_frame(cx) {
            self.first = match frame?.into_data() {
                Ok(data) => First::Data(data),
                Err(frame) => {
                    frame.into_trailers().map_or(First::Nothing, |trailers| First::Trailers(Box::new(trailers)))
                }
            };
        }
        Ok(())
    }

    /// Body bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Why it broke off, if it did.
    pub fn fault(&self) -> Option<Cause> {
        self.fault
    }

    /// Takes what has arrived already, so that a short body of no use does not cost its connection; never waits for more. False where
    /// the connection may have more once it has had its turn.
    pub fn drain(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..DISCARD_FRAMES {
            if self.connection.is_none() {
                return true;
            }
            match Pin::new(&mut *self).poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(_))) => {}
                // Nobody gets this body; that it broke off has been counted all the same.
                Poll::Ready(Some(Err(_)) | None) => return true,
                Poll::Pending => return false,
            }
        }
        true
    }

    fn release(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.deadline.disarm();
            self.client.pool().put(connection);
        }
    }

    fn broken(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.connection = None;
        self.fault = Some(fault.cause());
        self.client.metrics.fault(&fault, Some(self.client.name));
        Poll::Ready(Some(Err(fault)))
    }
}

impl Body for OriginBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match std::mem::replace(&mut self.first, First::Nothing) {
            First::Nothing => {}
            First::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
            First::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(*trailers)))),
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.deadline.disarm();
                if let Some(data) = frame.data_ref() {
                    self.bytes += data.len() as u64;
                }
                // Nothing follows trailers, and hyper's server does not ask for the end after them.
                if frame.is_trailers() || self.incoming.is_end_stream() {
                    self.release();
                }
                let frame = match frame.into_trailers() {
                    Ok(mut trailers) => {
                        hops::strip_trailers(&mut trailers, &[]);
                        if trailers.is_empty() {
                            return Poll::Ready(None);
                        }
                        Frame::trailers(trailers)
                    }
                    Err(frame) => frame,
                };
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let cause = cause_in(&error).unwrap_or(Cause::Cut);
                self.broken(Fault::from_error(cause, error))
            }
            Poll::Ready(None) => {
                self.release();
                Poll::Ready(None)
            }
            Poll::Pending => {
                if !self.deadline.is_armed() {
                    self.deadline.arm(self.client.settings.body_timeout);
                } else if self.deadline.is_due() {
                    return self.broken(Fault::new(Cause::Stalled));
                }
                self.deadline.watch(cx);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.first, First::Nothing) && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.incoming.size_hint();
        match (&self.first, hint.exact()) {
            (First::Data(data), Some(left)) => SizeHint::with_exact(left + data.len() as u64),
            _ => hint,
        }
    }
}

impl std::fmt::Debug for OriginBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OriginBody").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
