//! One worker's client for the origin: its settings, its connections, and the timeouts until a response arrives.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::sync::Semaphore;

use super::budget::Budget;
use super::connect::Multiplexed;
use super::pool::Pool;
use super::target::Role;
use super::upload::{Progress, Stage};
use super::upstream::Upstream;
use crate::clock;
use crate::fault::{Cause, Fault};
use crate::ids::intern;
use crate::metrics::{Metrics, Throttle};

/// Limits the log messages about failures of the stand-in.
static STAND_IN_MESSAGES: Throttle = Throttle::new(Duration::from_secs(5));

/// The settings of a [`Client`].
#[derive(Debug, Clone)]
pub struct ClientSettings {
    pub upstream: Arc<Upstream>,
    /// The stand-in (a static mirror of the site), which gets requests if the origin fails. It has a client of its own.
    pub stand_in: Option<Arc<Upstream>>,
    /// The largest number of idle HTTP/1.1 connections of this worker.
    pub max_idle: usize,
    /// The fields with the provider's name or a proof. These fields are removed from the trailers of a request.
    pub claims: Arc<[HeaderName]>,
}

/// One worker's client for the origin.
pub struct Client {
    pub(super) settings: ClientSettings,
    /// The address of the origin or of the stand-in, for metrics and messages.
    pub(super) name: &'static str,
    pub(super) metrics: &'static Metrics,
    pool: Mutex<Pool>,
    multiplexed: Mutex<Current>,
    /// The permit to open an HTTP/2 connection.
    pub(super) opening: Semaphore,
    /// The retries that this worker may still make.
    pub(super) budget: Budget,
    /// This worker's client for the stand-in, if one is configured.
    stand_in: Option<Arc<Client>>,
    /// The Host that replaces the Host of each request. Only the client for a stand-in can have this value.
    pub(super) host: Option<HeaderValue>,
}

/// The HTTP/2 connection for new requests. Each connection has a higher number than the connection before it. So a
/// timeout on an old connection does not remove the new connection.
#[derive(Default)]
pub(super) struct Current {
    pub(super) number: u64,
    pub(super) connection: Option<Multiplexed>,
    /// The time of the most recent request over the connection, in milliseconds of the worker's clock.
    pub(super) used_ms: u64,
    /// Whether the origin chose HTTP/1.1 on the most recent new TLS connection.
    pub(super) chose_http1: bool,
}

impl Client {
    /// Creates a client. The client connects only when the first request arrives.
    pub fn new(settings: ClientSettings, metrics: &'static Metrics) -> Self {
        let pool = Mutex::new(Pool::new(settings.max_idle, settings.upstream.origin.idle_timeout));
        let name = intern(&settings.upstream.origin.target.to_string());
        let stand_in = settings.stand_in.as_ref().map(|upstream| {
            let settings = ClientSettings { upstream: Arc::clone(upstream), stand_in: None, ..settings.clone() };
            Arc::new(Self::new(settings, metrics))
        });
        let host = match settings.upstream.role {
            Role::Origin => None,
            Role::StandIn => settings.upstream.origin.target.host_field(),
        };
        Self {
            settings,
            name,
            metrics,
            pool,
            host,
            multiplexed: Mutex::default(),
            opening: Semaphore::new(1),
            budget: Budget::new(),
            stand_in,
        }
    }

    /// Returns whether the client has these settings. The upstreams must be the same objects.
    pub(crate) fn has(&self, settings: &ClientSettings) -> bool {
        let ClientSettings { upstream, stand_in, max_idle, claims } = &self.settings;
        let same_stand_in = match (stand_in, &settings.stand_in) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (own, other) => own.is_none() && other.is_none(),
        };
        Arc::ptr_eq(upstream, &settings.upstream)
            && same_stand_in
            && *max_idle == settings.max_idle
            && *claims == settings.claims
    }

    /// Closes idle connections that must not be used again (`Pool::prune`), also those to the stand-in. The worker
    /// calls this function about once a second.
    pub fn prune(&self) {
        self.pool().prune();
        let mut current = self.multiplexed();
        let idle = Duration::from_millis(clock::now_ms().saturating_sub(current.used_ms));
        if idle >= self.settings.upstream.origin.idle_timeout {
            // Requests that are still in progress on this connection continue.
            current.connection = None;
        }
        drop(current);
        if let Some(stand_in) = &self.stand_in {
            stand_in.prune();
        }
    }

    /// Closes the idle connections after a reload has given the worker another client. Without this call, these
    /// connections would stay open until the last response of this client has ended, which can take hours. Requests in
    /// flight are not disturbed.
    pub(crate) fn retire(&self) {
        self.pool().close();
        let mut current = self.multiplexed();
        current.connection = None;
        drop(current);
        if let Some(stand_in) = &self.stand_in {
            stand_in.retire();
        }
    }

    /// Returns the client for the stand-in.
    pub(crate) fn stand_in(&self) -> Option<&Arc<Self>> {
        self.stand_in.as_ref()
    }

    /// Counts a fault of a request to the origin. A fault of a request to the stand-in is only logged, and only if the
    /// client did not cause the fault.
    pub(super) fn count(&self, fault: &Fault) {
        match self.settings.upstream.role {
            Role::Origin => self.metrics.fault(fault, Some(self.name)),
            Role::StandIn => {
                if !fault.cause().is_client_error()
                    && let Some(count) = STAND_IN_MESSAGES.pass()
                {
                    tracing::warn!(
                        "the stand-in at {}: {fault} (such failures since the last message: {count})",
                        self.name
                    );
                }
            }
        }
    }

    pub(super) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn multiplexed(&self) -> MutexGuard<'_, Current> {
        self.multiplexed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a response timeout on the HTTP/2 connection `number`, sends no new requests over this connection, because
    /// the connection could be dead. Requests that are already in progress on this connection continue.
    pub(super) fn suspect(&self, number: u64, cause: Cause) {
        if cause == Cause::Timeout {
            self.forget(number);
        }
    }

    /// Sends no new requests over the HTTP/2 connection `number`.
    pub(super) fn forget(&self, number: u64) {
        let mut current = self.multiplexed();
        if current.number == number {
            current.connection = None;
        }
    }

    /// Waits for `sending` and returns its output, or a fault if the request takes too long. `sending` is borrowed,
    /// because otherwise the future of this function would contain a second copy of `sending`.
    pub(super) async fn timely<T>(
        &self,
        mut sending: Pin<&mut impl Future<Output = T>>,
        deadline: &clock::Deadline,
        progress: Option<&Progress>,
    ) -> Result<T, Fault> {
        deadline.arm(self.first_check(progress));
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
            None => self.settings.upstream.origin.response_timeout,
            Some(_) => self.settings.upstream.origin.response_timeout.min(self.settings.upstream.limits.body_timeout),
        }
    }

    /// Returns a fault if the request has taken too long. For a request with a body, the limit and the cause depend on
    /// the stage of the upload.
    fn overdue(&self, progress: Option<&Progress>) -> Option<Fault> {
        let Some(progress) = progress else { return Some(Fault::new(Cause::Timeout)) };
        let (stage, elapsed) = progress.stage();
        let (cause, limit) = match stage {
            Stage::Client => (Cause::RequestStalled, self.settings.upstream.limits.body_timeout),
            Stage::Origin => (Cause::UploadStalled, self.settings.upstream.limits.body_timeout),
            Stage::Sent => (Cause::Timeout, self.settings.upstream.origin.response_timeout),
        };
        (elapsed >= limit).then(|| Fault::new(cause))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("target", &self.name).finish_non_exhaustive()
    }
}
