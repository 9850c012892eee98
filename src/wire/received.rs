//! A body as it is received, from a client or from the origin: it ends well only where its sender ended it.
//!
//! hyper ends an HTTP/2 body at `RST_STREAM(NO_ERROR)` and at `GOAWAY(NO_ERROR)` as if `END_STREAM` had come (RFC 9113 §8.1 allows that
//! reset only after a complete response). Here such a body fails. So does one that ends before its declared Content-Length. hyper and h2
//! themselves fail a body that goes on beyond it.
//!
//! An HTTP/2 body of declared length gives its last bytes away only when `END_STREAM` has come: else its recipient, who counts bytes, would
//! take a body for whole that its sender went on with or took back.
//!
//! Cost: one comparison at the end of a body; for HTTP/2 also a pass over the trailers, whose values lose the white space at their edges.

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
    /// None: there is no content, whatever the head says.
    incoming: Option<Incoming>,
    is_h2: bool,
    /// What is held back on HTTP/2. Boxed: few bodies have it, and bodies are moved from layer to layer.
    held: Option<Box<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    /// The last bytes of the declared length, while `END_STREAM` has not come.
    last: Bytes,
    /// What goes behind those.
    trailers: Option<HeaderMap>,
}

/// Why a body is not whole.
#[derive(Debug)]
pub enum Broken {
    /// hyper says why.
    Transport(hyper::Error),
    /// The stream was closed without `END_STREAM`.
    Reset,
    /// It ended with so many bytes of its declared length missing.
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
    /// The body of a message that came in that version.
    pub fn new(incoming: Incoming, version: Version) -> Self {
        Self { incoming: Some(incoming), is_h2: version == Version::HTTP_2, held: None }
    }

    /// For a message that has no content by its nature: the response to HEAD, a 204, a 304. What its sender frames as content all the
    /// same is not read; on HTTP/2 the stream is reset.
    pub fn empty() -> Self {
        Self { incoming: None, is_h2: false, held: None }
    }

    /// Content that nobody reads, for a request without a connection (`explain`).
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
            // That was an empty frame with the stream's end.
            None if held.is_some() => continue,
            None => return Poll::Ready(missing(incoming).map(Err)),
        };
        match frame.into_data() {
            Ok(data) if incoming.size_hint().exact() == Some(0) && !incoming.is_end_stream() => {
                // Nothing but empty frames may follow these.
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

/// What is missing of the declared length at the end of a body.
fn missing(incoming: &Incoming) -> Option<Broken> {
    incoming.size_hint().exact().filter(|&left| left > 0).map(Broken::Short)
}
