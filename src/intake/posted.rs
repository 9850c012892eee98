//! Reads a small request body into memory, within a limit for the bytes and a limit for the time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;

use crate::clock::Deadline;

/// The reason why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    TooLarge,
    /// The body did not arrive in time.
    Late,
    /// The body was truncated, or its framing is invalid.
    Cut,
}

/// The part of a body that has arrived so far.
#[derive(Debug)]
pub(crate) struct Posted {
    read: Vec<u8>,
    left: usize,
    timeout: Duration,
    /// The deadline for the whole body. Arriving bytes do not extend the deadline. Otherwise a client that sends single
    /// bytes could keep a connection open for hours.
    deadline: Option<Deadline>,
}

impl Posted {
    /// Prepares to read at most `limit` bytes. The `timeout` begins at the first poll that finds no frame.
    pub(crate) fn new(limit: usize, timeout: Duration) -> Self {
        Self { read: Vec::new(), left: limit, timeout, deadline: None }
    }

    /// Reads the frames that have arrived. Returns `Ready` when the whole body has been read, the body is too large or
    /// has failed, or the deadline is over. After `Ready`, this function must not be called again.
    pub(crate) fn poll<B: Body<Data = Bytes> + Unpin>(
        &mut self,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Vec<u8>, Unread>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
                let deadline = self.deadline.get_or_insert_with(|| {
                    let deadline = Deadline::new();
                    deadline.arm(self.timeout);
                    deadline
                });
                if deadline.is_due() {
                    return Poll::Ready(Err(Unread::Late));
                }
                deadline.watch(cx);
                return Poll::Pending;
            };
            match frame {
                None => return Poll::Ready(Ok(std::mem::take(&mut self.read))),
                Some(Err(_)) => return Poll::Ready(Err(Unread::Cut)),
                Some(Ok(frame)) => {
                    let data = frame.data_ref().map_or(&[][..], |data| data);
                    // An empty frame counts as one byte, because the flow control of HTTP/2 does not limit empty
                    // frames.
                    let Some(left) = self.left.checked_sub(data.len().max(1)) else {
                        return Poll::Ready(Err(Unread::TooLarge));
                    };
                    self.left = left;
                    self.read.extend_from_slice(data);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use http_body::Frame;

    use super::*;
    use crate::clock;

    type Polled = Poll<Option<Result<Frame<Bytes>, &'static str>>>;

    /// A body that returns the given frames. After the last frame, the body is always pending.
    struct Script(VecDeque<Polled>);

    impl Body for Script {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled {
            self.0.pop_front().unwrap_or(Poll::Pending)
        }
    }

    fn data(bytes: &'static [u8]) -> Polled {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(bytes)))))
    }

    fn read(limit: usize, frames: impl IntoIterator<Item = Polled>) -> Poll<Result<Vec<u8>, Unread>> {
        let mut body = Script(frames.into_iter().collect());
        let mut cx = Context::from_waker(Waker::noop());
        let mut posted = Posted::new(limit, Duration::from_hours(1));
        loop {
            let polled = posted.poll(&mut body, &mut cx);
            if polled.is_ready() || body.0.is_empty() {
                return polled;
            }
        }
    }

    #[test]
    fn body_when_polled_then_returns_bytes_or_failure_or_is_pending() {
        let end = Poll::Ready(None);
        assert_eq!(read(4, [data(b"ab"), Poll::Pending, data(b"cd"), end]), Poll::Ready(Ok(b"abcd".to_vec())));
        assert_eq!(read(4, [Poll::Ready(None)]), Poll::Ready(Ok(Vec::new())));
        assert_eq!(read(3, [data(b"ab"), data(b"cd")]), Poll::Ready(Err(Unread::TooLarge)));
        assert_eq!(read(4, [data(b"ab"), Poll::Ready(Some(Err("reset")))]), Poll::Ready(Err(Unread::Cut)));
        assert_eq!(read(4, [data(b"ab")]), Poll::Pending);
        assert_eq!(read(9, (0..10).map(|_| data(b""))), Poll::Ready(Err(Unread::TooLarge)), "ten empty frames");
    }

    #[test]
    fn body_when_incomplete_at_the_deadline_then_fails_as_late() {
        clock::sweep();
        let mut cx = Context::from_waker(Waker::noop());
        let mut posted = Posted::new(4, Duration::ZERO);
        let mut silent = Script(VecDeque::from([data(b"a")]));
        assert_eq!(posted.poll(&mut silent, &mut cx), Poll::Ready(Err(Unread::Late)));
    }
}
