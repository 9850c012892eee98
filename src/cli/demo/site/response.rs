//! The bodies of the site's responses.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{Either, Full};
use tokio::time::{Interval, MissedTickBehavior};

use crate::wire::names;

/// The number of events in one response of `/stream`.
pub(super) const STREAM_EVENTS: u32 = 10;
/// The time between two events.
pub(super) const STREAM_PAUSE: Duration = Duration::from_millis(200);

pub(super) const HTML: &str = "text/html; charset=utf-8";
pub(super) const JSON: &str = "application/json";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// The body of a response: either complete, or the events of `/stream`.
pub(in crate::cli::demo) type SiteBody = Either<Full<Bytes>, Events>;

/// Creates a response with a complete body.
pub(super) fn whole(status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Response<SiteBody> {
    let bytes = bytes.into();
    let length = bytes.len();
    let mut response = Response::new(Either::Left(Full::new(bytes)));
    *response.status_mut() = status;
    response.headers_mut().insert(names::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(names::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// Creates the response of `/stream`: server-sent events, one at each tick of a timer.
pub(super) fn events() -> Response<SiteBody> {
    let mut ticks = tokio::time::interval(STREAM_PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut response = Response::new(Either::Right(Events { ticks, sent: 0 }));
    response.headers_mut().insert(names::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

#[derive(Debug)]
pub(in crate::cli::demo) struct Events {
    ticks: Interval,
    sent: u32,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.sent >= STREAM_EVENTS {
            return Poll::Ready(None);
        }
        ready!(self.ticks.poll_tick(cx));
        self.sent += 1;
        let event = format!("id: {0}\ndata: wave {0} of {STREAM_EVENTS}\n\n", self.sent);
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent >= STREAM_EVENTS
    }
}
