//! The request body on its way to the origin: its size limit, its timeout and its progress.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request};
use http_body::{Body, Frame, SizeHint};

use super::forward::clean_trailers;
use super::options::MessageLimits;
use crate::clock;
use crate::fault::{Cause, Fault};
use crate::wire::added_fields::AddedFields;
use crate::wire::received::Received;

/// The request body on its way to the origin. The body fails if it is longer than `server.max_request_body`. The body
/// reports its progress.
#[derive(Debug)]
pub(crate) struct Upload {
    /// The fields that are still missing in the request's head.
    pub(super) added: Option<AddedFields>,
    /// The client's body. `None`: the body is empty.
    incoming: Option<Received>,
    /// The number of bytes that the client is still allowed to send. `None`: no limit.
    left: Option<u64>,
    progress: Option<Arc<Progress>>,
    /// The timeout for a client that stops sending. After an early response nothing checks `progress` any more, so only
    /// this timeout ends the upload.
    stalled: Option<(clock::Deadline, Duration)>,
    /// The fields with the provider's name or a proof. These fields are removed from the trailers.
    claims: Option<Arc<[HeaderName]>>,
}

/// The side for which an upload waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The client has to send more.
    Client,
    /// The origin has to read the bytes that were passed to hyper.
    Origin,
    /// The complete body was passed to hyper, or the body was dropped.
    Sent,
}

/// The stage of an upload and the time when the stage began. The task that waits for the response shares this value.
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

    /// Returns the stage and how long it has lasted.
    pub(super) fn stage(&self) -> (Stage, Duration) {
        let since = self.since_ms.load(Ordering::Relaxed);
        let stage = match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Client,
            1 => Stage::Origin,
            _ => Stage::Sent,
        };
        (stage, Duration::from_millis(clock::now_ms().saturating_sub(since)))
    }
}

impl Upload {
    pub(super) fn new(
        incoming: Received,
        added: Option<AddedFields>,
        limits: &MessageLimits,
        claims: &Arc<[HeaderName]>,
    ) -> Self {
        if incoming.is_end_stream() {
            let mut empty = Self::empty();
            empty.added = added;
            return empty;
        }
        let stage = if incoming.is_complete() { Stage::Origin } else { Stage::Client };
        let progress = Progress { stage: AtomicU8::new(stage as u8), since_ms: AtomicU64::new(clock::now_ms()) };
        Self {
            added,
            incoming: Some(incoming),
            left: limits.max_request_body,
            progress: Some(Arc::new(progress)),
            stalled: Some((clock::Deadline::new(), limits.body_timeout)),
            claims: Some(Arc::clone(claims)),
        }
    }

    pub(super) fn empty() -> Self {
        Self { added: None, incoming: None, left: None, progress: None, stalled: None, claims: None }
    }

    /// Inserts into the head the fields that the head still lacks. hyper needs all fields in the head.
    pub(super) fn complete(request: &mut Request<Self>) {
        if let Some(added) = request.body_mut().added.take() {
            added.insert(request.headers_mut());
        }
    }

    /// Takes a request out, and leaves an empty request.
    pub(super) fn taken(request: &mut Request<Self>) -> Request<Self> {
        std::mem::replace(request, Request::new(Self::empty()))
    }

    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.clone()
    }

    fn enter(&self, stage: Stage) {
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
            // The stage is set only at the start of a wait, because the time of the stage must be the time of the last
            // progress.
            if self.progress.as_ref().is_some_and(|progress| progress.stage().0 != Stage::Client) {
                self.enter(Stage::Client);
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
                    // Only HTTP/2 delivers an empty trailer section. h2 removes pseudo-fields from trailers without an
                    // error, so an empty section usually had only pseudo-fields. RFC 9113 §8.1 calls a request with
                    // pseudo-fields in its trailers malformed.
                    return Poll::Ready(Some(Err(Fault::from_error(
                        Cause::RequestCut,
                        "the trailers are empty or have only pseudo-fields",
                    ))));
                }
                let size = frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Some(left) = &mut self.left {
                    match left.checked_sub(size) {
                        Some(rest) => *left = rest,
                        None => return Poll::Ready(Some(Err(Fault::new(Cause::RequestTooLarge)))),
                    }
                }
                self.enter(Stage::Origin);
                let frame = clean_trailers(frame, self.claims.as_deref().unwrap_or_default());
                if frame.is_none() {
                    self.enter(Stage::Sent);
                }
                Poll::Ready(frame.map(Ok))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(Fault::from_error(Cause::RequestCut, error)))),
            None => {
                self.enter(Stage::Sent);
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
    /// Sets the last stage. `poll_frame` does not always set this stage: hyper drops a body of known length after the
    /// last byte, without another poll.
    fn drop(&mut self) {
        self.enter(Stage::Sent);
    }
}
