//! Idle HTTP/1.1 connections, last in, first out. The most recently used connection is taken first. So connections that
//! are not needed reach their timeout and are closed.

use std::time::Duration;

use super::connection::{Connection, State};
use crate::clock;

/// One worker's idle connections.
#[derive(Debug)]
pub(super) struct Pool {
    // Each connection is boxed once. For each response, the connection moves from the pool through the bodies of the
    // layers and back. Each of these moves copies only the pointer.
    #[allow(clippy::vec_box, reason = "a connection that is taken out stays boxed")]
    idle: Vec<Box<Connection>>,
    max_idle: usize,
    idle_timeout_ms: u64,
}

impl Pool {
    pub(super) fn new(max_idle: usize, idle_timeout: Duration) -> Self {
        let idle_timeout_ms = u64::try_from(idle_timeout.as_millis()).unwrap_or(u64::MAX);
        Self { idle: Vec::new(), max_idle, idle_timeout_ms }
    }

    /// Returns the most recently used connection that is ready.
    pub(super) fn take(&mut self) -> Option<Box<Connection>> {
        let mut position = self.idle.len();
        while let Some(next) = position.checked_sub(1) {
            position = next;
            let connection = self.idle.get(position)?;
            let state = if connection.endpoint.is_left() || self.is_old(connection) {
                State::Closed
            } else {
                connection.state()
            };
            match state {
                State::Ready => return Some(self.idle.remove(position)),
                State::Busy => {}
                State::Closed => drop(self.idle.remove(position)),
            }
        }
        None
    }

    /// Stores a connection whose response body was read to its end.
    pub(super) fn put(&mut self, mut connection: Box<Connection>) {
        if connection.is_spent() || self.max_idle == 0 {
            return;
        }
        if self.idle.len() >= self.max_idle {
            // The connection that has been idle longest is dropped, because the origin will probably close that
            // connection first.
            self.idle.remove(0);
        }
        connection.reused = true;
        connection.idle_since_ms = clock::now_ms();
        self.idle.push(connection);
    }

    /// Drops connections that have been idle for too long, connections that the origin has closed, and connections to
    /// an address that gets no further requests.
    pub(super) fn prune(&mut self) {
        let now = clock::now_ms();
        let timeout = self.idle_timeout_ms;
        self.idle.retain(|connection| {
            connection.state() != State::Closed
                && !connection.endpoint.is_left()
                && now.saturating_sub(connection.idle_since_ms) < timeout
        });
    }

    /// Drops all connections, and stores no further connections.
    pub(super) fn close(&mut self) {
        self.max_idle = 0;
        self.idle.clear();
    }

    fn is_old(&self, connection: &Connection) -> bool {
        clock::now_ms().saturating_sub(connection.idle_since_ms) >= self.idle_timeout_ms
    }
}
