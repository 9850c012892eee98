//! A body received from a client or from the origin. It ends without an error only if its sender ended it.
//!
//! hyper treats `RST_STREAM(NO_ERROR)` and `GOAWAY(NO_ERROR)` as the end of an HTTP/2 body, as if `END_STREAM` had
//! arrived (RFC 9113 §8.1 allows that reset only after a complete response). Here such a body fails. So does a body
//! that ends before its Content-Length. A body that is longer than its Content-Length already fails in hyper and h2.
//!
//! An HTTP/2 body with a Content-Length releases its last bytes only after `END_STREAM`. Otherwise a recipient that
//! counts bytes would accept a body as complete that its sender continues or resets.
//!
//! Cost: one comparison at the end of a body. For HTTP/2 also a pass over the trailers, to trim their values.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::values;

/// hyper's body, with a check of how it ends.
#[derive(Debug)]
pub struct Received {
    /// `None`: there is no content, whatever the head declares.
    incoming: Option<Incoming>,
    is_h2: bool,
    /// Frames held back on HTTP/2. Boxed: few bodies need it, and each layer moves the body.
    held: Option<Box<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    /// The last bytes of the declared length, until `END_STREAM`.
    last: Bytes,
    /// The trailers after them.
    trailers: Option<HeaderMap>,
}

/// Why a body is incomplete.
#[derive(Debug)]
pub enum Broken {
    /// An error of hyper.
    Transport(hyper::Error),
    /// The stream was closed without `END_STREAM`.
    Reset,
    /// It ended, and this number of bytes of its declared length is missing.
    Short(u64),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) => error.fmt(f),
            Self::Reset => f.write_str("the stream was closed without END_STREAM"),
            Self::Short(left) => write!(f, "{left} bytes less than its Content-Length"),
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
    /// The body of a message of that version.
    pub fn new(incoming: Incoming, version: Version) -> Self {
        Self { incoming: Some(incoming), is_h2: version == Version::HTTP_2, held: None }
    }

    /// For a message that must not have content: the response to HEAD, a 204, a 304. Content that its sender sends
    /// anyway is not read; on HTTP/2 the stream is reset.
    pub fn empty() -> Self {
        Self { incoming: None, is_h2: false, held: None }
    }

    /// Content that is never read, for a request without a connection (`explain`).
    pub(crate) fn unread() -> Self {
        Self { incoming: None, is_h2: false, held: Some(Box::default()) }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Self { incoming, is_h2, held } = &mut *self;
        let Some(incoming) = incoming else { return Poll::Ready(None) };
        if *is_h2 {
            return poll_h2(incoming, held, cx);
        }
        Poll::Ready(match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(frame) => Some(frame.map_err(Broken::Transport)),
            None => missing(incoming).map(Err),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.incoming, &self.held) {
            (None, _) => SizeHint::with_exact(0),
            (Some(incoming), None) => incoming.size_hint(),
            (Some(_), Some(held)) => SizeHint::with_exact(held.last.len() as u64),
        }
    }
}

fn poll_h2(
    incoming: &mut Incoming,
    held: &mut Option<Box<Held>>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
    loop {
        if let Some(ready) = held.as_mut().filter(|_| incoming.is_end_stream()) {
            let last = std::mem::take(&mut ready.last);
            let frame = if last.is_empty() {
                held.take().and_then(|held| held.trailers).map(Frame::trailers)
            } else {
                if ready.trailers.is_none() {
                    *held = None;
                }
                Some(Frame::data(last))
            };
            return Poll::Ready(frame.map(Ok));
        }
        let frame = match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(frame) => frame.map_err(Broken::Transport)?,
            None if !incoming.is_end_stream() => return Poll::Ready(Some(Err(Broken::Reset))),
            // An empty frame ended the stream.
            None if held.is_some() => continue,
            None => return Poll::Ready(missing(incoming).map(Err)),
        };
        match frame.into_data() {
            Ok(data) if incoming.size_hint().exact() == Some(0) && !incoming.is_end_stream() => {
                // Only empty frames may follow these bytes.
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

/// The error of a body that ended before its declared length.
fn missing(incoming: &Incoming) -> Option<Broken> {
    incoming.size_hint().exact().filter(|&left| left > 0).map(Broken::Short)
}
