//! Reads and discards the rest of a request body that nothing reads any more, for example after a refusal.
//!
//! Without this module, an early end of the upload could hide the response. On HTTP/1.1, closing a socket with unread
//! bytes resets the connection, and the reset can destroy the response in the client's receive buffer. On HTTP/2, the
//! codec resets the stream after the response, and curl then reports an error instead of the response. So edgeshim
//! continues to read for a short time. In this time, the client can read the response and stop sending.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Buf;
use http_body::Body as _;
use hyper::body::Incoming;

use crate::clock::Deadline;

/// The longest time for which edgeshim discards one body.
const LIMIT: Duration = Duration::from_secs(2);
/// The largest number of bytes that edgeshim discards of one body. Until a client notices that it must stop, it sends
/// what fits into the buffers of the network.
const MOST_BYTES: usize = 8 << 20;

/// Discards a body on this thread's runtime.
pub(super) fn discard(body: Incoming) {
    // When a runtime ends, it drops the bodies of its tasks. No task can be spawned then, so the body is only dropped.
    if let Ok(tokio) = tokio::runtime::Handle::try_current() {
        drop(tokio.spawn(read(body)));
    }
}

async fn read(mut body: Incoming) {
    let deadline = Deadline::new();
    deadline.arm(LIMIT);
    let mut left = MOST_BYTES;
    poll_fn(|cx| {
        loop {
            match Pin::new(&mut body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    left = left.saturating_sub(frame.data_ref().map_or(0, Buf::remaining).max(1));
                    if left == 0 {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        deadline.watch(cx);
        if deadline.is_due() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
