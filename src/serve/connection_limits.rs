//! The limits of `[server]` in the form that hyper needs.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::{http1, http2};

use super::state::Timeouts;
use crate::clock::{self, Deadline};
use crate::config::Settings;

/// The largest amount that hyper buffers for a client that does not read, or reads ahead of an upload. A head may be
/// larger.
const BUFFER_BYTES: usize = 64 * 1024;
/// The smallest buffer that hyper accepts.
const MIN_BUFFER_BYTES: usize = 8192;
/// Concurrent streams on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Made once for each worker and configuration.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<StreamExecutor>,
    pub(super) timeouts: Timeouts,
    pub(super) proxy_protocol: bool,
}

impl Limits {
    pub(super) fn new(settings: &Settings) -> Self {
        let Settings { server, limits, origin, .. } = settings;
        let timeouts = Timeouts { header: server.header_timeout, body: limits.body_timeout, idle: server.idle_timeout };
        let mut http1 = http1::Builder::new();
        http1
            .max_buf_size(BUFFER_BYTES.max(limits.max_header_bytes).max(MIN_BUFFER_BYTES))
            .max_header_size(limits.max_header_bytes)
            .max_headers(limits.max_headers)
            // hyper stores the original names in the message, so both of its sides need this option.
            .preserve_header_case(origin.preserve_header_case);
        // A stream that is not polled for longer than this waits for a client that does not read.
        let stalled = limits.body_timeout.max(origin.response_timeout).max(origin.connect_timeout) + clock::TICK * 2;
        let mut http2 = http2::Builder::new(StreamExecutor { stalled });
        http2
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(BUFFER_BYTES)
            .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX));
        Self { http1, http2, timeouts, proxy_protocol: server.proxy_protocol }
    }
}

/// Spawns each HTTP/2 stream as a task, and drops a stream whose client has stopped reading, which resets it.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamExecutor {
    stalled: Duration,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let deadline = Deadline::new();
        let stalled = self.stalled;
        tokio::spawn(async move {
            let mut stream = pin!(stream);
            poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                if deadline.is_due() {
                    return Poll::Ready(());
                }
                // hyper polls a stream only when something has happened to it, so each poll is progress.
                deadline.arm(stalled);
                deadline.watch(cx);
                Poll::Pending
            })
            .await;
        });
    }
}
