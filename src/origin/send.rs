//! Sends a request over an idle or a new connection. Sends the request again if a second attempt is safe.

use http::{Request, Response};
use hyper::body::{Body as _, Incoming};

use super::client::Client;
use super::connection::Connection;
use super::errors::{fault_of, is_dead, is_refused};
use super::upload::{Progress, Upload};
use super::{connect, forward};
use crate::clock;
use crate::fault::{Cause, Fault};

impl Client {
    /// Sends a request over an idle HTTP/1.1 connection, or over a new connection if no connection is idle.
    pub(super) async fn send(
        &self,
        mut request: Request<Upload>,
        progress: Option<&Progress>,
        replayable: bool,
    ) -> Result<(Response<Incoming>, Box<Connection>), Fault> {
        let mut retries = self.settings.origin.retries;
        let mut idle = self.idle_connection(replayable).await;
        loop {
            let mut connection = if let Some(connection) = idle.take() {
                connection
            } else {
                match connect::http1(&self.settings, self.metrics).await {
                    Ok(connection) => connection,
                    // A connect timeout is not retried, because a second attempt would double the time that the client
                    // waits.
                    Err(fault) if replayable && retries > 0 && fault.cause() != Cause::ConnectTimeout => {
                        retries -= 1;
                        continue;
                    }
                    Err(fault) => return Err(fault),
                }
            };
            let reused = connection.reused;
            if reused && replayable && retries > 0 {
                connection.remember(&request);
            }
            let sent = self.timely(connection.sender.try_send_request(request), &connection.deadline, progress).await?;
            connection.deadline.disarm();
            let mut error = match sent {
                Ok(response) => {
                    connection.forget();
                    return Ok((response, connection));
                }
                Err(error) => error,
            };
            let unsent = error.take_message();
            let fault = fault_of(error.into_error());
            if reused && let Some(unsent) = unsent {
                request = unsent;
                idle = self.idle_connection(replayable).await;
                continue;
            }
            match connection.recall() {
                Some(saved) if matches!(fault.cause(), Cause::Closed | Cause::Reset) => {
                    retries -= 1;
                    request = saved.map(|()| Upload::empty());
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
            if connection.sender.is_ready() {
                return Some(connection);
            }
        }
    }

    /// Sends a request over this worker's HTTP/2 connection. If that connection has ended, sends the request over a new
    /// connection.
    pub(super) async fn send_multiplexed(
        &self,
        mut request: Request<Upload>,
        progress: Option<&Progress>,
    ) -> Result<Response<Incoming>, Fault> {
        forward::absolute(&mut request)?;
        let mut retries = self.settings.origin.retries;
        // The origin can have received a request before the request fails. Such a request is sent again only if it has
        // no body, and only in two cases. First: the origin reports that it has not processed the request. Second: the
        // request is idempotent, and the connection that failed was a reused connection.
        let idempotent = request.method().is_idempotent();
        let mut saved = (retries > 0 && request.body().is_end_stream()).then(|| copy_of(&request));
        let deadline = clock::Deadline::new();
        let mut fresh = false;
        loop {
            let (mut number, ready) = {
                let multiplexed = self.multiplexed();
                (multiplexed.number, multiplexed.sender.clone())
            };
            let mut sender = if let Some(sender) = ready.filter(|sender| !fresh && !sender.is_closed()) {
                sender
            } else {
                fresh = true;
                let sender = connect::http2(&self.settings, self.metrics).await?;
                let mut multiplexed = self.multiplexed();
                multiplexed.number += 1;
                multiplexed.sender = Some(sender.clone());
                number = multiplexed.number;
                sender
            };
            let sent = self
                .timely(sender.try_send_request(request), &deadline, progress)
                .await
                .inspect_err(|fault| self.suspect(number, fault.cause()))?;
            let mut error = match sent {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let unsent = error.take_message();
            let error = error.into_error();
            let again = is_refused(&error) || (idempotent && !fresh && is_dead(&error));
            match (unsent, saved.take().filter(|_| again)) {
                // The connection was closed or about to close (GOAWAY), so hyper has not sent the request.
                (Some(unsent), _) if !fresh => {
                    saved = (retries > 0 && unsent.body().is_end_stream()).then(|| copy_of(&unsent));
                    request = unsent;
                    fresh = true;
                }
                (_, Some(copy)) => {
                    retries -= 1;
                    saved = (retries > 0).then(|| copy_of(&copy));
                    request = copy;
                    // If the origin refused only this stream, the connection can still be used.
                    fresh = is_dead(&error);
                }
                _ => return Err(fault_of(error)),
            }
        }
    }
}

/// Copies a request without a body.
fn copy_of(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}
