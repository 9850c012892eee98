//! Sends a request over an idle or a new connection, and again where that is safe.

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
    /// Sends over an idle HTTP/1.1 connection, or a new one.
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
                    // After a connect timeout a second attempt would only double the client's wait.
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

    /// An idle connection. For a request that cannot be sent twice the runtime polls its sockets first, so that a
    /// connection that the origin has just closed is not used.
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

    /// Sends over this worker's HTTP/2 connection, or a new one if that has ended.
    pub(super) async fn send_multiplexed(
        &self,
        mut request: Request<Upload>,
        progress: Option<&Progress>,
    ) -> Result<Response<Incoming>, Fault> {
        forward::absolute(&mut request)?;
        let mut retries = self.settings.origin.retries;
        // A request without a body is sent again if the origin reports that it did not process the request. An
        // idempotent one is also sent again if a reused connection fails.
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
                // The connection was closing (GOAWAY) or closed, and never took the request.
                (Some(unsent), _) if !fresh => {
                    saved = (retries > 0 && unsent.body().is_end_stream()).then(|| copy_of(&unsent));
                    request = unsent;
                    fresh = true;
                }
                (_, Some(copy)) => {
                    retries -= 1;
                    saved = (retries > 0).then(|| copy_of(&copy));
                    request = copy;
                    // After a refused stream the connection is still good.
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
