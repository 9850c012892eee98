//! A body as it is received, from a client or from the origin: it ends well only where its sender ended it.
//!
//! hyper ends an HTTP/2 body at `RST_STREAM(NO_ERROR)` and at `GOAWAY(NO_ERROR)` as if END_STREAM had come (RFC 9113 §8.1 allows that
//! reset only after a complete response). Here such a body fails. So does one that ends before its declared Content-Length. hyper and h2
//! themselves fail a body that goes on beyond it.
//!
//! Cost: one comparison at the end of a body; for HTTP/2 also a pass over the trailers, whose values lose the white space at their edges.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::values;

/// hyper's body, with a check of how it ends.
#[derive(Debug)]
pub struct Received {
    /// None: there is no content, whatever the head says.
    incoming: Option<Incoming>,
    is_h2: bool,
}

/// Why a body is not whole.
#[derive(Debug)]
pub enum Broken {
    /// hyper says why.
    Transport(hyper::Error),
    /// The stream was closed without END_STREAM.
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
    #[must_use]
    pub fn new(incoming: Incoming, version: Version) -> Self {
        Self { incoming: Some(incoming), is_h2: version == Version::HTTP_2 }
    }

    /// For a message that has no content by its nature: the response to HEAD, a 204, a 304. What its sender frames as content all the
    /// same is not read; on HTTP/2 the stream is reset.
    #[must_use]
    pub fn empty() -> Self {
        Self { incoming: None, is_h2: false }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let is_h2 = self.is_h2;
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        Poll::Ready(match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(Ok(frame)) if is_h2 && frame.is_trailers() => Some(Ok(match frame.into_trailers() {
                Ok(mut trailers) => {
                    values::trim(&mut trailers);
                    Frame::trailers(trailers)
                }
                Err(frame) => frame,
            })),
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err(error)) => Some(Err(Broken::Transport(error))),
            None if is_h2 && !incoming.is_end_stream() => Some(Err(Broken::Reset)),
            None => incoming.size_hint().exact().filter(|&left| left > 0).map(|left| Err(Broken::Short(left))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
