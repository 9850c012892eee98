//! The end of a connection: what happens when its deadline expires, and the shutdown of its stream.

use std::pin::Pin;
use std::task::Context;

use tokio::io::AsyncWriteExt;

use super::state::{Purpose, State};
use super::watched::Socket;
use super::worker::Worker;
use crate::clock;
use crate::ids::Reason;
use crate::runtime::EdgeService;

/// Registers the task for the deadline, and notices the start of the drain.
pub(super) fn watch(state: &State, cx: &Context<'_>) {
    state.deadline.watch(cx);
    if state.permit.is_closing() {
        state.leave();
    }
}

/// Returns whether the deadline has expired and the connection must be parked or closed.
pub(super) fn has_expired(state: &State) -> bool {
    if !state.deadline.is_due() {
        return false;
    }
    if state.purpose() == Purpose::Read {
        // The time of the postponed read has passed, but nothing was read. So no input is needed at the moment.
        state.disarm();
        return false;
    }
    if state.purpose() == Purpose::Head && state.is_busy() {
        // A part of the next request's head has arrived while a response is in progress. The rest of this head is read
        // only after the response, so the deadline is extended.
        state.arm(Purpose::Head, clock::TICK * 10);
        return false;
    }
    true
}

/// Ends a connection whose deadline has expired. Returns the stream if the connection can be parked instead.
pub(super) fn expired<'a, S: Socket, E: EdgeService>(
    mut stream: S,
    state: &'a State,
    worker: &'a Worker<E>,
) -> Pin<Box<impl Future<Output = Option<S>> + 'a>> {
    // The box keeps the futures of the callers small.
    Box::pin(async move {
        match state.purpose() {
            Purpose::Idle if !state.is_leaving() => return Some(stream),
            Purpose::Head => {
                worker.refused(Reason::HeaderTimeout);
                // RFC 9110 §15.5.9 defines this response. If the socket's send buffer is full, the response is dropped
                // after one `TICK`.
                let response = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                let _ = tokio::time::timeout(clock::TICK, stream.write_all(response)).await;
                shut_down(&mut stream).await;
            }
            // The drain ends the connection. With TLS, the shutdown sends close_notify.
            Purpose::Idle => shut_down(&mut stream).await,
            // edgeshim sends no 408: the response was already sent, or the client does not read.
            Purpose::None | Purpose::Write | Purpose::Rest | Purpose::Read => {}
        }
        None
    })
}

/// Shuts a stream down. Waits for at most one [`TICK`](clock::TICK). The future is boxed, because few connections need
/// it. An unboxed future would enlarge the task of each connection.
pub(super) fn shut_down<S: Socket>(stream: &mut S) -> Pin<Box<impl Future<Output = ()>>> {
    Box::pin(async {
        let _ = tokio::time::timeout(clock::TICK, stream.shutdown()).await;
    })
}
