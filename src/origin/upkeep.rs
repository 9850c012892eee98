//! A thread beside the workers. It updates the data in an [`Upstream`], which all workers share: the addresses of the
//! origin's name, the health of these addresses, and the content of the files of `[origin.tls]`.
//!
//! The thread exists only if there is something to do. It ends when the last lease of its upstream is dropped, for
//! example after a reload that replaces the origin. Responses of the old origin can still continue at that time.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use http::{HeaderValue, Request};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::connect::Opened;
use super::endpoint::Endpoint;
use super::forward;
use super::health::record;
use super::lease::{InUse, Lease};
use super::tls::{Stamp, Tls};
use super::upload::Upload;
use super::upstream::Upstream;
use crate::clock;
use crate::metrics::Throttle;
use crate::wire::names::{HOST, USER_AGENT};

/// The shortest time between two lookups, while no connection can be made.
const SHORTEST_LOOKUP_PERIOD: Duration = Duration::from_secs(1);
/// The longest pause of the thread, and the time between two checks of the files.
const LONGEST_TURN: Duration = Duration::from_secs(1);
const SHORTEST_TURN: Duration = Duration::from_millis(50);

static LOOKUP_MESSAGES: Throttle = Throttle::new(Duration::from_mins(1));

impl Lease {
    /// Starts the thread, if there is something to do.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn watch(&self) -> io::Result<()> {
        let upstream = self.upstream();
        let files = upstream.tls.as_ref().is_some_and(|tls| !tls.stamps().is_empty());
        if upstream.name().is_none() && upstream.origin.health.path.is_none() && !files {
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (in_use, stale) = (self.downgrade(), Arc::clone(&upstream.stale));
        let plan = Plan::new(upstream);
        thread::Builder::new().name("origin".to_owned()).spawn(move || {
            runtime.block_on(keep(plan, in_use, stale));
        })?;
        Ok(())
    }
}

/// When each kind of work is done next.
struct Plan {
    lookup: Instant,
    /// The task of the most recent lookup.
    looking: Option<JoinHandle<()>>,
    checks: Instant,
    files: Files,
}

async fn keep(mut plan: Plan, in_use: Weak<InUse>, stale: Arc<Notify>) {
    loop {
        let Some(lease) = Lease::upgrade(&in_use) else { return };
        // Each connection of a health check has a deadline, and no worker sweeps the deadlines of this thread.
        clock::sweep();
        let next = plan.work(lease.upstream());
        let shortest = SHORTEST_LOOKUP_PERIOD.min(lease.upstream().resolver.period);
        drop(lease);
        let earliest = Instant::now() + shortest;
        if timeout(next, stale.notified()).await.is_ok() {
            // The notification has one of two reasons. First: a request got no connection, for example because the name
            // has other addresses now. Second: the last lease was dropped. Then the next round of this loop returns.
            plan.lookup = plan.lookup.min(earliest);
            sleep_until(Instant::now() + SHORTEST_TURN).await;
        }
    }
}

impl Plan {
    fn new(upstream: &Upstream) -> Self {
        let now = Instant::now();
        Self { lookup: now, looking: None, checks: now, files: Files::new(upstream) }
    }

    /// Does the work that is due, or starts a task for it. Returns the time until the next call.
    fn work(&mut self, upstream: &Arc<Upstream>) -> Duration {
        let now = Instant::now();
        // A lookup can take long. The other work does not wait for the lookup.
        if upstream.name().is_some() && now >= self.lookup && self.looking.as_ref().is_none_or(JoinHandle::is_finished)
        {
            self.lookup = now + upstream.resolver.period;
            self.looking = Some(tokio::spawn(look_up(Arc::clone(upstream))));
        }
        self.files.check(upstream);
        let longest = upstream.resolver.period.clamp(SHORTEST_TURN, LONGEST_TURN);
        let Some(path) = &upstream.origin.health.path else { return longest };
        let interval = upstream.origin.health.interval;
        if now >= self.checks {
            self.checks = now + interval;
            for endpoint in upstream.endpoints().iter().cloned() {
                let (upstream, path) = (Arc::clone(upstream), path.clone());
                tokio::spawn(async move {
                    let result = check(&upstream, &endpoint, &path).await;
                    let changed = record(&upstream.origin.health, &endpoint, result.is_ok());
                    upstream.settle();
                    let whose = upstream.role.name();
                    match (changed, result) {
                        (Some(false), Err(why)) => tracing::warn!(
                            "the address {} of the {whose} is unhealthy and is passed over while another address is \
                             healthy: {why}",
                            endpoint.place
                        ),
                        (Some(true), _) => {
                            tracing::info!("the address {} of the {whose} is healthy again", endpoint.place);
                        }
                        _ => {}
                    }
                });
            }
        }
        interval.clamp(SHORTEST_TURN, longest)
    }
}

async fn look_up(upstream: Arc<Upstream>) {
    if let Err(error) = upstream.look_up().await
        && let Some(count) = LOOKUP_MESSAGES.pass()
    {
        let target = &upstream.origin.target;
        let rest = if upstream.endpoints().is_empty() {
            "no address is known yet, so requests to this server fail"
        } else {
            "the previous addresses stay in use"
        };
        tracing::warn!(
            "the name of the server {target} (origin or stand-in) cannot be looked up ({error}); {rest}; check DNS on \
             this machine (such failures since the last message: {count})"
        );
    }
}

/// Checks one address once, with a GET on a new connection. A response with a status from 200 to 399 is good.
///
/// # Errors
/// Returns why the check was bad.
async fn check(upstream: &Upstream, endpoint: &Arc<Endpoint>, path: &str) -> Result<(), String> {
    let limit = upstream.origin.health.interval;
    let checking = async {
        let deadline = Instant::now() + upstream.origin.connect_timeout.min(limit);
        let opened = upstream.open_at(endpoint, deadline).await.map_err(|fault| fault.to_string())?;
        let mut request = Request::new(Upload::empty());
        *request.uri_mut() = path.parse().map_err(|error| format!("the path is invalid ({error})"))?;
        request.headers_mut().insert(HOST, upstream.host_field());
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("edgeshim-health"));
        let sent = match opened {
            Opened::Http1(mut connection) => {
                let sent = connection.send(&mut request, false, upstream).await;
                sent.map(|response| response.status()).map_err(|failure| failure.fault.to_string())
            }
            Opened::Http2(mut multiplexed) => {
                forward::absolute(&mut request, upstream.is_tls()).map_err(|fault| fault.to_string())?;
                let sent = multiplexed.sender.send_request(request).await;
                sent.map(|response| response.status()).map_err(|error| error.to_string())
            }
        };
        let status = sent?;
        if status.is_success() || status.is_redirection() { Ok(()) } else { Err(format!("the status is {status}")) }
    };
    match tokio::time::timeout(limit, checking).await {
        Ok(result) => result,
        Err(_) => Err(format!("there was no response within {limit:?}")),
    }
}

/// The states of the files of `[origin.tls]` at the most recent read and at the most recent check.
struct Files {
    read: Vec<Option<Stamp>>,
    checked: Vec<Option<Stamp>>,
    next: Instant,
}

impl Files {
    fn new(upstream: &Upstream) -> Self {
        let read = upstream.tls.as_ref().map(Tls::used).unwrap_or_default();
        Self { checked: read.clone(), read, next: Instant::now() }
    }

    /// Reads the files again if they have changed since the most recent read. If they have also changed since the
    /// previous check about a second ago, a tool could still be writing a file. Then the files are read at a later
    /// check.
    fn check(&mut self, upstream: &Upstream) {
        let Some(tls) = &upstream.tls else { return };
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now + LONGEST_TURN;
        let stamps = tls.stamps();
        let before = std::mem::replace(&mut self.checked, stamps.clone());
        if stamps == self.read || stamps != before {
            return;
        }
        self.read = stamps;
        match tls.reload() {
            Ok(true) => tracing::info!("the files of [origin.tls] have changed and are in use"),
            // A reload of the configuration has already read the files.
            Ok(false) => {}
            Err(_) if upstream.origin.shares_files => {}
            Err(problems) => {
                upstream.reloads_failed.increment(1);
                for problem in problems {
                    tracing::error!("{problem}; the last good files stay in use");
                }
            }
        }
    }
}
