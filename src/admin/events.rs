//! The server-sent events of the page. Each open page reads one stream, which is a bounded queue of events. If a page
//! reads so slowly that its queue is full, the stream ends. The page then connects again and loads the history again. A
//! stream also ends when the token or the session with which it was opened is not valid any more.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::operators::sessions::Pass;

/// The largest number of open streams.
pub(super) const MAX_STREAMS: usize = 16;
/// The largest number of events in the queue of one stream.
const QUEUE: usize = 16;

/// The open streams.
#[derive(Debug, Default)]
pub(super) struct Events {
    streams: Mutex<Vec<Stream>>,
}

#[derive(Debug)]
struct Stream {
    queue: Sender<Bytes>,
    pass: Pass,
}

/// The body of a stream. The body ends if an event is sent while the queue is full, or if the stream's pass becomes
/// invalid.
#[derive(Debug)]
pub(super) struct EventBody {
    queue: Receiver<Bytes>,
}

impl Events {
    fn streams(&self) -> MutexGuard<'_, Vec<Stream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream. `None`: [`MAX_STREAMS`] streams are open already.
    pub(super) fn open(&self, pass: Pass) -> Option<EventBody> {
        let mut streams = self.streams();
        streams.retain(|stream| !stream.queue.is_closed());
        if streams.len() >= MAX_STREAMS {
            return None;
        }
        let (sender, queue) = channel(QUEUE);
        // The page waits two seconds before it connects again.
        let _ = sender.try_send(Bytes::from_static(b"retry: 2000\n\n"));
        streams.push(Stream { queue: sender, pass });
        Some(EventBody { queue })
    }

    pub(super) fn has_readers(&self) -> bool {
        !self.streams().is_empty()
    }

    /// Ends each stream whose pass is not valid any more.
    pub(super) fn check(&self, is_valid: impl Fn(&Pass) -> bool) {
        self.streams().retain(|stream| is_valid(&stream.pass));
    }

    /// Sends an event to all streams. `data` is written as JSON on one line, because a line break would end the field
    /// `data` of the event.
    pub(super) fn send(&self, name: &str, data: &serde_json::Value) {
        let event = Bytes::from(format!("event: {name}\ndata: {data}\n\n"));
        self.streams().retain(|stream| stream.queue.try_send(event.clone()).is_ok());
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.queue.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_when_too_many_are_open_then_refused_and_unread_streams_end() {
        let events = Events::default();
        let mut open: Vec<_> = (0..MAX_STREAMS).filter_map(|_| events.open(Pass::without_token())).collect();
        assert!(open.len() == MAX_STREAMS && events.open(Pass::without_token()).is_none());
        open.pop();
        assert!(events.open(Pass::without_token()).is_some(), "after a stream is closed, another stream must open");
        let mut reader = open.pop().unwrap();
        for number in 0..QUEUE {
            while reader.queue.try_recv().is_ok() {}
            events.send("second", &number.into());
        }
        assert!(events.has_readers());
        let left = events.streams().len();
        assert_eq!(left, 1, "only the stream that is read must stay open");
        assert_eq!(reader.queue.try_recv().unwrap(), "event: second\ndata: 15\n\n");
    }
}
