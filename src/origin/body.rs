//! The response body from the origin. The body counts its bytes, has a timeout, and returns its connection to the pool.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::client::Client;
use super::connection::{Connection, Link};
use super::forward::clean_trailers;
use super::pipe::Pipe;
use crate::clock;
use crate::fault::{Cause, Fault, cause_in};
use crate::wire::received::Received;

/// The response body from the origin. When the body has been read to its end, its connection returns to the pool.
pub struct OriginBody {
    source: Source,
    first: First,
    connection: Option<Box<Connection>>,
    deadline: clock::Deadline,
    client: Arc<Client>,
    bytes: u64,
    /// For the body of a stand-in (a static mirror of the site): the number of bytes that the origin sent before the
    /// stand-in got the request.
    replaced_bytes: Option<u64>,
    fault: Option<Cause>,
}

/// Where the body comes from.
pub(super) enum Source {
    /// The body of a plain exchange, with `left` bytes that have not been read, or an empty body of any exchange.
    Plain { left: u64 },
    /// The body is boxed, because the response is moved through all layers and most exchanges are plain.
    Hyper(Box<Received>),
}

/// The part of a body that arrived together with the head. This part is read before the head is passed on. So if the
/// body fails at once, nothing has been sent, and the client gets the whoopsie page or the response of the stand-in.
enum First {
    /// No part arrived with the head, or the part has been passed on.
    Nothing,
    Data(Bytes),
    Trailers(Box<HeaderMap>),
}

impl Source {
    pub(super) fn empty() -> Self {
        Self::Plain { left: 0 }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain { left } => *left == 0,
            Self::Hyper(received) => received.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain { left } => SizeHint::with_exact(*left),
            Self::Hyper(received) => received.size_hint(),
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        connection: Option<&mut Connection>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match (self, connection) {
            (Self::Plain { left }, Some(Connection { link: Link::Plain(plain), .. })) if *left > 0 => {
                let data = ready!(plain.poll_data(cx, *left)).inspect(|data| *left -= data.len() as u64);
                Poll::Ready(Some(data.map(Frame::data).map_err(|error| Fault::from_error(Cause::Cut, error))))
            }
            (Self::Plain { .. }, _) => Poll::Ready(None),
            (Self::Hyper(received), _) => {
                let frame = ready!(Pin::new(&mut **received).poll_frame(cx));
                Poll::Ready(frame.map(|frame| {
                    frame.map_err(|error| Fault::from_error(cause_in(&error).unwrap_or(Cause::Cut), error))
                }))
            }
        }
    }
}

/// The largest number of frames that one call of [`OriginBody::drain`] reads. If more frames have arrived, the
/// connection is not reused.
const DISCARD_FRAMES: usize = 8;

impl OriginBody {
    pub(super) fn new(source: Source, connection: Option<Box<Connection>>, client: Arc<Client>) -> Self {
        let deadline = connection.as_ref().map_or_else(clock::Deadline::new, |c| c.deadline.clone());
        let mut body = Self {
            source,
            first: First::Nothing,
            connection,
            deadline,
            client,
            bytes: 0,
            replaced_bytes: None,
            fault: None,
        };
        if body.source.is_end_stream() {
            body.release();
        }
        body
    }

    /// Reads the part of the body that arrived together with the head.
    ///
    /// # Errors
    /// The body failed. The fault has already been counted.
    pub(super) fn begin(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        if self.source.is_end_stream() {
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

    /// Returns the number of body bytes that were read from the origin so far. The bytes of a stand-in do not count.
    pub fn bytes(&self) -> u64 {
        self.replaced_bytes.unwrap_or(self.bytes)
    }

    /// Marks this body as the body of a stand-in. From then on, [`Self::bytes`] returns `bytes`, which is the number of
    /// bytes that the origin sent before the stand-in got the request.
    pub(crate) fn replaces(&mut self, bytes: u64) {
        self.replaced_bytes = Some(bytes);
    }

    /// Returns why the body failed, or `None` if the body has not failed.
    pub fn fault(&self) -> Option<Cause> {
        self.fault
    }

    /// Reads and discards the part of an unneeded body that has already arrived, and does not wait for more. If the end
    /// of the body has arrived, the connection can be reused. Returns `false` if it is useful to call this function
    /// again after the connection's task has run.
    pub fn drain(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..DISCARD_FRAMES {
            if self.connection.is_none() {
                return true;
            }
            match Pin::new(&mut *self).poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(_))) => {}
                // A failure has already been counted. Nothing else has to be done, because nobody needs this body.
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

    /// Returns whether the origin has sent nothing for too long. Otherwise the task is woken when this can be so.
    fn is_stalled(&mut self, cx: &Context<'_>) -> bool {
        if !self.deadline.is_armed() {
            self.deadline.arm(self.client.settings.upstream.limits.body_timeout);
        } else if self.deadline.is_due() {
            return true;
        }
        self.deadline.watch(cx);
        false
    }

    /// Moves body bytes to a pipe ([`EdgeBody::poll_splice`](crate::edge::request::EdgeBody::poll_splice)).
    pub(crate) fn poll_splice(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, Fault>>> {
        let (First::Nothing, Source::Plain { left }, Some(connection)) =
            (&self.first, &mut self.source, self.connection.as_deref_mut())
        else {
            return Poll::Ready(None);
        };
        let Link::Plain(plain) = &connection.link else { return Poll::Ready(None) };
        match plain.poll_splice(cx, *left) {
            Poll::Ready(Ok(Some(pipe))) => {
                self.deadline.disarm();
                *left -= pipe.bytes() as u64;
                self.bytes += pipe.bytes() as u64;
                if *left == 0 {
                    self.release();
                }
                Poll::Ready(Some(Ok(pipe)))
            }
            Poll::Ready(Ok(None)) => Poll::Ready(None),
            Poll::Ready(Err(error)) => self.broken(Fault::from_error(Cause::Cut, error)),
            Poll::Pending if self.is_stalled(cx) => self.broken(Fault::new(Cause::Stalled)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn broken<T>(&mut self, fault: Fault) -> Poll<Option<Result<T, Fault>>> {
        self.connection = None;
        self.fault = Some(fault.cause());
        self.client.count(&fault);
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
        let this = &mut *self;
        match this.source.poll_frame(cx, this.connection.as_deref_mut()) {
            Poll::Ready(Some(Ok(frame))) => {
                self.deadline.disarm();
                if let Some(data) = frame.data_ref() {
                    self.bytes += data.len() as u64;
                }
                // Trailers are the last frame, and hyper's server does not poll the body again after trailers.
                if frame.is_trailers() || self.source.is_end_stream() {
                    self.release();
                }
                Poll::Ready(clean_trailers(frame, &[]).map(Ok))
            }
            Poll::Ready(Some(Err(fault))) => self.broken(fault),
            Poll::Ready(None) => {
                self.release();
                Poll::Ready(None)
            }
            Poll::Pending if self.is_stalled(cx) => self.broken(Fault::new(Cause::Stalled)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.first, First::Nothing) && self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.source.size_hint();
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
