//! A body received from a client or from the origin. The body ends without an error only if the sender ended the body.
//!
//! hyper treats `RST_STREAM(NO_ERROR)` and `GOAWAY(NO_ERROR)` as the end of an HTTP/2 body, as if `END_STREAM` had
//! arrived. RFC 9113 §8.1 allows such a reset only after a complete response. Therefore [`Received`] returns an error
//! for a body that ends without `END_STREAM`, and for a body that is shorter than its Content-Length. If an HTTP/2 body
//! is longer than its Content-Length, h2 returns an error.
//!
//! An HTTP/2 body with a Content-Length releases its last bytes only after `END_STREAM`. Otherwise a recipient that
//! counts bytes would treat the body as complete, although the sender can still send more or reset the stream.
//!
//! Cost for HTTP/1.1: one comparison at the end of a body. Cost for HTTP/2: a few comparisons for each frame, and one
//! pass over the trailers, which trims their values.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::values;

/// A body from hyper. This type checks how the body ends.
#[derive(Debug)]
pub struct Received {
    /// The body from hyper. `None` means that nothing is read from a connection: the body was made by
    /// [`Received::empty`], [`Received::unread`] or [`Received::complete`].
    incoming: Option<Incoming>,
    is_h2: bool,
    /// The last frames of an HTTP/2 body, while they wait for `END_STREAM`, or the frames of a body from
    /// [`Received::complete`]. The box keeps [`Received`] small, because each layer moves the body and few bodies need
    /// this field.
    held: Option<Box<Held>>,
    /// Called with the body from hyper if this value is dropped before the end of the body.
    discard: Option<fn(Incoming)>,
}

#[derive(Debug, Default)]
struct Held {
    /// The last bytes of the declared length. The recipient gets these bytes only after `END_STREAM` has arrived. For
    /// [`Received::complete`], all bytes of the body.
    last: Bytes,
    /// The trailers that arrived after `last`.
    trailers: Option<HeaderMap>,
}

impl Held {
    /// Takes the next frame out. Returns `None` if no frame is left.
    fn release(held: &mut Option<Box<Self>>) -> Option<Frame<Bytes>> {
        let ready = held.as_mut()?;
        let last = std::mem::take(&mut ready.last);
        if last.is_empty() {
            return held.take().and_then(|held| held.trailers).map(Frame::trailers);
        }
        if ready.trailers.is_none() {
            *held = None;
        }
        Some(Frame::data(last))
    }
}

/// The reason why a body is incomplete.
#[derive(Debug)]
pub enum Broken {
    /// hyper reported an error.
    Transport(hyper::Error),
    /// The stream was closed without `END_STREAM`.
    Reset,
    /// The body ended before its declared length. The variant contains the number of missing bytes.
    Short(u64),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) => error.fmt(f),
            Self::Reset => f.write_str("the stream was closed without END_STREAM"),
            Self::Short(left) => write!(f, "the body is {left} bytes shorter than its Content-Length"),
        }
    }
}

impl Error for Broken {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Transport(error) => Some(error),
            Self::Reset | Self::Short(_) => None,
        }
    }
}

impl Received {
    /// Wraps the body of a message. `version` is the HTTP version of the message.
    pub fn new(incoming: Incoming, version: Version) -> Self {
        Self { incoming: Some(incoming), is_h2: version == Version::HTTP_2, held: None, discard: None }
    }

    /// Passes the body from hyper to `discard` if this value is dropped before the end of the body.
    pub(crate) fn discarded_by(self, discard: fn(Incoming)) -> Self {
        let mut body = self;
        body.discard = Some(discard);
        body
    }

    /// Returns an empty body, for a message without content, for example a response to HEAD, a 204 or a 304. If the
    /// sender sends content anyway, edgeshim does not read the content. On HTTP/2, edgeshim then resets the stream.
    pub fn empty() -> Self {
        Self { incoming: None, is_h2: false, held: None, discard: None }
    }

    /// Returns a body that counts as not empty. `explain` uses this body for a request without a connection and never
    /// reads the body.
    pub(crate) fn unread() -> Self {
        Self { incoming: None, is_h2: false, held: Some(Box::default()), discard: None }
    }

    /// Returns a body that has been read completely.
    pub(crate) fn complete(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        let is_empty = data.is_empty() && trailers.is_none();
        let held = (!is_empty).then(|| Box::new(Held { last: data, trailers }));
        Self { incoming: None, is_h2: false, held, discard: None }
    }

    /// Returns whether the body has frames and needs nothing more from a connection.
    pub(crate) fn is_complete(&self) -> bool {
        self.incoming.is_none() && self.held.is_some()
    }

    /// Returns whether the body arrives over HTTP/2.
    pub(crate) fn is_h2(&self) -> bool {
        self.is_h2
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Self { incoming, is_h2, held, .. } = self;
        let Some(incoming) = incoming else { return Poll::Ready(Held::release(held).map(Ok)) };
        if *is_h2 {
            return poll_h2(incoming, held, cx);
        }
        Poll::Ready(match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(frame) => Some(frame.map_err(Broken::Transport)),
            None => missing(incoming).map(Err),
        })
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let (Some(discard), Some(incoming)) = (self.discard, self.incoming.take())
            && !incoming.is_end_stream()
        {
            discard(incoming);
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let polled = ready!(self.poll_inner(cx));
        if !matches!(polled, Some(Ok(_))) {
            // The body has ended, so nothing is left to discard.
            self.discard = None;
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.incoming, &self.held) {
            (None, None) => SizeHint::with_exact(0),
            (Some(incoming), None) => incoming.size_hint(),
            (_, Some(held)) => SizeHint::with_exact(held.last.len() as u64),
        }
    }
}

fn poll_h2(
    incoming: &mut Incoming,
    held: &mut Option<Box<Held>>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
    loop {
        if held.is_some() && incoming.is_end_stream() {
            return Poll::Ready(Held::release(held).map(Ok));
        }
        let frame = match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(frame) => frame.map_err(Broken::Transport)?,
            None if !incoming.is_end_stream() => return Poll::Ready(Some(Err(Broken::Reset))),
            // An empty frame ended the stream, so the next iteration releases the frames that waited for `END_STREAM`.
            None if held.is_some() => continue,
            None => return Poll::Ready(missing(incoming).map(Err)),
        };
        match frame.into_data() {
            Ok(data) if incoming.size_hint().exact() == Some(0) && !incoming.is_end_stream() => {
                // These bytes complete the declared length, so only empty frames and trailers can follow.
                if !data.is_empty() {
                    held.get_or_insert_default().last = data;
                }
            }
            Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
            Err(frame) => {
                let Ok(mut trailers) = frame.into_trailers() else { continue };
                values::trim(&mut trailers);
                let Some(held) = held else { return Poll::Ready(Some(Ok(Frame::trailers(trailers)))) };
                held.trailers = Some(trailers);
            }
        }
    }
}

/// Returns an error if the body ended before its declared length.
fn missing(incoming: &Incoming) -> Option<Broken> {
    incoming.size_hint().exact().filter(|&left| left > 0).map(Broken::Short)
}
