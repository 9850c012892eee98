//! An upgraded connection, here called a tunnel. Bytes are copied in both directions. If one side ends its direction,
//! the other direction continues. The tunnel ends when both directions have ended, when a side fails, or when no byte
//! has moved for `server.tunnel_timeout`. The last step of the drain also ends the tunnel.
//!
//! If one side fails or the timeout passes, both connections are dropped without an orderly shutdown. A TCP client then
//! gets a reset (`serve/watched.rs`), so that the client notices that bytes can be missing.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::Deadline;

/// The byte counts of an upgraded connection, and the callback for its end. A `Tunnel` is stored in the extensions of
/// the 101 response's head.
#[derive(Default)]
pub(crate) struct Tunnel {
    client: Moved,
    origin: Moved,
    end: Mutex<End>,
}

/// The numbers of bytes that were read from and written to one of the two connections.
#[derive(Default)]
struct Moved {
    read: AtomicU64,
    written: AtomicU64,
}

#[derive(Default)]
enum End {
    #[default]
    Open,
    Then(Box<dyn FnOnce(u64, u64) + Send>),
    Over,
}

impl Tunnel {
    /// Calls `then` once, when the tunnel has ended. If the tunnel has already ended, calls `then` now. The arguments
    /// are the number of bytes written to the client and the number of bytes read from the origin.
    pub(crate) fn at_end(&self, then: impl FnOnce(u64, u64) + Send + 'static) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*end, End::Over) {
            drop(end);
            self.report(then);
        } else {
            *end = End::Then(Box::new(then));
        }
    }

    fn report(&self, then: impl FnOnce(u64, u64)) {
        then(self.client.written.load(Ordering::Relaxed), self.origin.read.load(Ordering::Relaxed));
    }

    /// Returns a sum of all byte counts. If the sum has changed, a byte has moved.
    fn moved(&self) -> u64 {
        let Self { client, origin, .. } = self;
        let counts = [&client.read, &client.written, &origin.read, &origin.written];
        counts.iter().map(|count| count.load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}

/// Marks the tunnel as ended and calls the callback, when this value is dropped. So the callback runs even if the task
/// is dropped or fails.
struct Ending(Arc<Tunnel>);

impl Drop for Ending {
    fn drop(&mut self) {
        let end = std::mem::replace(&mut *self.0.end.lock().unwrap_or_else(PoisonError::into_inner), End::Over);
        if let End::Then(then) = end {
            self.0.report(then);
        }
    }
}

/// Copies bytes until the tunnel ends. `timeout` is `server.tunnel_timeout`.
pub(super) async fn carry(tunnel: Arc<Tunnel>, client: OnUpgrade, origin: OnUpgrade, timeout: Duration) {
    let ending = Ending(tunnel);
    let tunnel = &*ending.0;
    let (Ok(client), Ok(origin)) = (client.await, origin.await) else { return };
    let mut client = Side { io: TokioIo::new(client), moved: &tunnel.client };
    let mut origin = Side { io: TokioIo::new(origin), moved: &tunnel.origin };
    let mut copying = pin!(tokio::io::copy_bidirectional(&mut client, &mut origin));
    let deadline = Deadline::new();
    deadline.arm(timeout);
    let mut before = tunnel.moved();
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = copying.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        let now = tunnel.moved();
        if now != before {
            before = now;
            deadline.arm(timeout);
        }
        deadline.watch(cx);
        if deadline.is_due() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await;
    match ended {
        Some(Ok(_)) => {}
        Some(Err(error)) => tracing::debug!(%error, "an upgraded connection failed"),
        None => tracing::debug!("an upgraded connection is closed: no byte has moved for server.tunnel_timeout"),
    }
}

/// One of the two connections, with the counts of its bytes.
struct Side<'a> {
    io: TokioIo<Upgraded>,
    moved: &'a Moved,
}

impl AsyncRead for Side<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.moved.read.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Side<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = polled {
            self.moved.written.fetch_add(written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
