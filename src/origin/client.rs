//! One worker's client for the origin: its settings, its connections, and the timeouts until a response arrives.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hyper::client::conn::http2;

use super::options::ClientSettings;
use super::pool::Pool;
use super::upload::{Progress, Stage, Upload};
use crate::clock;
use crate::fault::{Cause, Fault};
use crate::ids::intern;
use crate::metrics::Metrics;

/// One worker's client for the origin.
pub struct Client {
    pub(super) settings: ClientSettings,
    /// The origin's address, for metrics and messages.
    pub(super) name: &'static str,
    pub(super) metrics: &'static Metrics,
    pool: Mutex<Pool>,
    multiplexed: Mutex<Multiplexed>,
}

/// The HTTP/2 connection for new requests. Each connection has a higher number than the connection before it. So a
/// timeout on an old connection does not remove the new connection.
#[derive(Default)]
pub(super) struct Multiplexed {
    pub(super) number: u64,
    pub(super) sender: Option<http2::SendRequest<Upload>>,
}

impl Client {
    /// Creates a client. The client connects only when the first request arrives.
    pub fn new(settings: ClientSettings, metrics: &'static Metrics) -> Self {
        let pool = Mutex::new(Pool::new(settings.max_idle, settings.origin.idle_timeout));
        let name = intern(&settings.origin.target.to_string());
        Self { settings, name, metrics, pool, multiplexed: Mutex::default() }
    }

    /// Closes connections that were idle for longer than `origin.idle_timeout`. The worker calls this function about
    /// once a second.
    pub fn prune(&self) {
        self.pool().prune();
    }

    pub(super) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn multiplexed(&self) -> MutexGuard<'_, Multiplexed> {
        self.multiplexed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a response timeout on the HTTP/2 connection `number`, sends no new requests over this connection, because
    /// the connection could be dead. Requests that are already in progress on this connection continue.
    pub(super) fn suspect(&self, number: u64, cause: Cause) {
        let mut multiplexed = self.multiplexed();
        if cause == Cause::Timeout && multiplexed.number == number {
            multiplexed.sender = None;
        }
    }

    /// Waits for `sending` and returns its output, or a fault if the request takes too long.
    pub(super) async fn timely<T>(
        &self,
        sending: impl Future<Output = T>,
        deadline: &clock::Deadline,
        progress: Option<&Progress>,
    ) -> Result<T, Fault> {
        deadline.arm(self.first_check(progress));
        let mut sending = pin!(sending);
        poll_fn(|cx| match sending.as_mut().poll(cx) {
            Poll::Ready(sent) => Poll::Ready(Ok(sent)),
            Poll::Pending => {
                deadline.watch(cx);
                if deadline.is_due() {
                    match self.overdue(progress) {
                        Some(fault) => return Poll::Ready(Err(fault)),
                        None => deadline.arm(clock::TICK),
                    }
                }
                Poll::Pending
            }
        })
        .await
    }

    /// Returns the time until a request's progress is checked for the first time.
    fn first_check(&self, progress: Option<&Progress>) -> Duration {
        match progress {
            None => self.settings.origin.response_timeout,
            Some(_) => self.settings.origin.response_timeout.min(self.settings.limits.body_timeout),
        }
    }

    /// Returns a fault if the request has taken too long. For a request with a body, the limit and the cause depend on
    /// the stage of the upload.
    fn overdue(&self, progress: Option<&Progress>) -> Option<Fault> {
        let Some(progress) = progress else { return Some(Fault::new(Cause::Timeout)) };
        let (stage, elapsed) = progress.stage();
        let (cause, limit) = match stage {
            Stage::Client => (Cause::RequestStalled, self.settings.limits.body_timeout),
            Stage::Origin => (Cause::UploadStalled, self.settings.limits.body_timeout),
            Stage::Sent => (Cause::Timeout, self.settings.origin.response_timeout),
        };
        (elapsed >= limit).then(|| Fault::new(cause))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("target", &self.settings.origin.target).finish_non_exhaustive()
    }
}
