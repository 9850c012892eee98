//! Sends a request over an idle or a new connection. Sends the request again if a second attempt is safe.

use std::pin::pin;

use http::{Request, Response};
use hyper::body::Body as _;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use super::client::Client;
use super::connect::{Multiplexed, Opened};
use super::connection::{Connection, Content, Failure, State};
use super::errors::{fault_of, is_dead, is_refused};
use super::forward::{self, RemovedUpgrade};
use super::upload::{Progress, Upload};
use crate::clock;
use crate::fault::{Cause, Fault};

/// The result of sending a request over connections of one version of HTTP.
enum Sent {
    /// The response, and its connection if the connection is an HTTP/1.1 connection.
    Response(Response<Content>, Option<Box<Connection>>),
    /// The origin has chosen the other version of HTTP on a new connection, and the request has not been sent. The
    /// value is the new connection, or `None` if another request has opened that connection.
    Other(Option<Opened>),
}

impl Client {
    /// Sends a request over HTTP/1.1 or HTTP/2, as the configuration says or as the TLS origin chooses. The request is
    /// borrowed, because each function that owned the request would add a copy of the request to its future.
    pub(super) async fn dispatch(
        &self,
        request: &mut Request<Upload>,
        progress: Option<&Progress>,
        replayable: bool,
    ) -> Result<(Response<Content>, Option<Box<Connection>>), Fault> {
        let allowed = self.settings.upstream.origin.retries;
        let mut retries = allowed;
        let mut is_h2 = self.settings.upstream.origin.http2 && !self.multiplexed().chose_http1;
        let mut opened = None;
        loop {
            let sent = if is_h2 {
                // The future is boxed, because it is large and most origins speak HTTP/1.1.
                Box::pin(self.send_multiplexed(request, opened.take(), progress, replayable, &mut retries)).await?
            } else {
                self.send(request, opened.take(), progress, replayable, &mut retries).await?
            };
            match sent {
                Sent::Response(response, connection) => {
                    self.budget.refund(allowed - retries);
                    return Ok((response, connection));
                }
                Sent::Other(other) => {
                    is_h2 = !is_h2;
                    self.multiplexed().chose_http1 = !is_h2;
                    opened = other;
                }
            }
        }
    }

    /// Opens a connection. If this fails and the request may be retried, the function tries again.
    async fn open(&self, replayable: bool, retries: &mut u32) -> Result<Opened, Fault> {
        loop {
            // The future is boxed, because it has more than 10 KiB and would be a part of the future of every request.
            match Box::pin(self.settings.upstream.open()).await {
                // A connect timeout is not retried, because a second attempt would double the time that the client
                // waits. A fault of TLS is not retried, because the next attempt would fail too.
                Err(fault)
                    if replayable
                        && *retries > 0
                        && !fault.cause().is_tls()
                        && fault.cause() != Cause::ConnectTimeout
                        && self.budget.spend() =>
                {
                    *retries -= 1;
                }
                result => return result,
            }
        }
    }

    /// Sends a request over an idle HTTP/1.1 connection, or over a new connection if no connection is idle.
    async fn send(
        &self,
        request: &mut Request<Upload>,
        opened: Option<Opened>,
        progress: Option<&Progress>,
        replayable: bool,
        retries: &mut u32,
    ) -> Result<Sent, Fault> {
        let mut next = match opened {
            Some(Opened::Http1(connection)) => Some(connection),
            _ => self.idle_connection(replayable).await,
        };
        loop {
            let mut connection = if let Some(connection) = next.take() {
                connection
            } else {
                match self.open(replayable, retries).await? {
                    Opened::Http1(connection) => connection,
                    other @ Opened::Http2(_) => return Ok(Sent::Other(Some(other))),
                }
            };
            let reused = connection.reused;
            let deadline = connection.deadline.clone();
            let sent = {
                let is_remembered = reused && replayable && *retries > 0;
                let sending = pin!(connection.send(request, is_remembered, &self.settings.upstream));
                self.timely(sending, &deadline, progress).await?
            };
            deadline.disarm();
            let Failure { fault, unsent } = match sent {
                Ok(response) => return Ok(Sent::Response(response, Some(connection))),
                Err(failure) => failure,
            };
            if reused && let Some(unsent) = unsent {
                *request = unsent;
                next = self.idle_connection(replayable).await;
                continue;
            }
            match connection.recall() {
                Some(saved) if matches!(fault.cause(), Cause::Closed | Cause::Reset) && self.budget.spend() => {
                    *retries -= 1;
                    *request = saved.map(|()| Upload::empty());
                }
                _ => return Err(fault),
            }
        }
    }

    /// Returns an idle connection, if there is one. For a request that must not be sent twice, the runtime first polls
    /// the sockets. So a connection that the origin has just closed is not used.
    async fn idle_connection(&self, replayable: bool) -> Option<Box<Connection>> {
        loop {
            let connection = self.pool().take()?;
            if replayable {
                return Some(connection);
            }
            tokio::task::yield_now().await;
            if connection.state() == State::Ready {
                return Some(connection);
            }
        }
    }

    /// Sends a request over this worker's HTTP/2 connection, or over a new connection if this worker has no usable
    /// HTTP/2 connection.
    async fn send_multiplexed(
        &self,
        request: &mut Request<Upload>,
        mut opened: Option<Opened>,
        progress: Option<&Progress>,
        replayable: bool,
        retries: &mut u32,
    ) -> Result<Sent, Fault> {
        Upload::complete(request);
        // The origin can have received a request before the request fails. Such a request is sent again only if it has
        // no body, and only in two cases. First: the origin reports that it has not processed the request. Second: the
        // request is idempotent, and the connection that failed was a reused connection.
        let idempotent = request.method().is_idempotent();
        let mut saved = (*retries > 0 && request.body().is_end_stream()).then(|| copy_of(request));
        let deadline = clock::Deadline::new();
        let mut fresh = opened.is_some();
        // If a connection ends, its requests first move to one common new connection. A request that fails there too
        // opens a connection of its own.
        let mut has_moved = false;
        loop {
            let mut kept = if fresh { None } else { self.kept_connection() };
            let mut opening = None;
            if kept.is_none() && !fresh {
                // Only one request opens a connection. The other requests wait for this connection.
                opening = Some(self.opening().await?);
                kept = self.kept_connection();
                if kept.is_none() && self.multiplexed().chose_http1 {
                    forward::relative(request);
                    return Ok(Sent::Other(None));
                }
            }
            let (number, mut connection) = if let Some(kept) = kept {
                kept
            } else {
                fresh = true;
                let new = match opened.take() {
                    Some(opened) => opened,
                    None => self.open(replayable, retries).await?,
                };
                match new {
                    Opened::Http2(connection) => (self.keep(&connection), connection),
                    other @ Opened::Http1(_) => {
                        forward::relative(request);
                        return Ok(Sent::Other(Some(other)));
                    }
                }
            };
            drop(opening);
            // Only now it is certain that the request is sent over HTTP/2.
            forward::absolute(request, self.settings.upstream.is_tls())?;
            let sending = pin!(connection.sender.try_send_request(Upload::taken(request)));
            let sent = self
                .timely(sending, &deadline, progress)
                .await
                .inspect_err(|fault| self.suspect(number, fault.cause()))?;
            let mut error = match sent {
                Ok(response) => return Ok(Sent::Response(response.map(Content::Hyper), None)),
                Err(error) => error,
            };
            let unsent = error.take_message();
            let error = error.into_error();
            let again = is_refused(&error) || (idempotent && !fresh && is_dead(&error));
            match (unsent, saved.take().filter(|_| again && *retries > 0)) {
                // The connection was closed or about to close (GOAWAY), so hyper has not sent the request.
                (Some(unsent), _) if !fresh => {
                    saved = (*retries > 0 && unsent.body().is_end_stream()).then(|| copy_of(&unsent));
                    *request = unsent;
                    self.forget(number);
                    fresh = std::mem::replace(&mut has_moved, true);
                }
                (_, Some(copy)) if self.budget.spend() => {
                    *retries -= 1;
                    saved = (*retries > 0).then(|| copy_of(&copy));
                    *request = copy;
                    // If the origin refused only this stream, the connection can still be used.
                    fresh = false;
                    if is_dead(&error) {
                        self.forget(number);
                        fresh = std::mem::replace(&mut has_moved, true);
                    }
                }
                _ => return Err(fault_of(error, connection.tls.as_deref())),
            }
        }
    }

    /// Waits until no other request of this worker opens an HTTP/2 connection. Returns the permit to open a connection.
    async fn opening(&self) -> Result<SemaphorePermit<'_>, Fault> {
        match timeout(self.settings.upstream.origin.connect_timeout, self.opening.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Fault::new(Cause::ConnectTimeout)),
        }
    }

    /// Returns this worker's HTTP/2 connection with its number, if the connection can be used.
    fn kept_connection(&self) -> Option<(u64, Multiplexed)> {
        let mut current = self.multiplexed();
        current.used_ms = clock::now_ms();
        let usable = |connection: &&Multiplexed| !connection.sender.is_closed() && !connection.endpoint.is_left();
        Some((current.number, current.connection.as_ref().filter(usable)?.clone()))
    }

    /// Uses a new HTTP/2 connection for the next requests, and returns the number of the connection.
    fn keep(&self, connection: &Multiplexed) -> u64 {
        let mut current = self.multiplexed();
        current.number += 1;
        current.used_ms = clock::now_ms();
        // A retired client stores it too, because requests whose bodies were gathered during the reload share it.
        current.connection = Some(connection.clone());
        current.number
    }
}

/// Copies a request without a body.
fn copy_of(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    if let Some(removed) = request.extensions().get::<RemovedUpgrade>() {
        copy.extensions_mut().insert(removed.clone());
    }
    copy
}
