//! The connection limits of the configuration, in the form that hyper needs.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::{http1, http2};

use super::plain_request::HeadLimits;
use crate::clock::{self, Deadline};
use crate::config::Settings;

/// The largest number of response bytes that hyper buffers while the client does not read: for each connection on
/// HTTP/1.1, and for each stream on HTTP/2. On HTTP/1.1, the constant is also the largest number of upload bytes that
/// hyper reads before edgeshim asks for them. If `server.max_header_bytes` is larger than this constant, HTTP/1.1
/// connections use `server.max_header_bytes` instead.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;
/// The largest number of concurrent streams on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// The timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) header: Duration,
    pub(super) body: Duration,
    pub(super) idle: Duration,
}

/// hyper's builders and the timeouts. Each worker creates this value once for each configuration.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) http1: http1::Builder,
    /// The limits of requests that are served without hyper. `None` means that hyper serves all requests, because
    /// `origin.preserve_header_case` needs it.
    pub(super) plain: Option<HeadLimits>,
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
            .max_buf_size(BUFFER_BYTES.max(limits.max_header_bytes))
            .max_header_size(limits.max_header_bytes)
            .max_headers(limits.max_headers)
            // hyper's server stores the original spelling of the field names in the message, and hyper's client writes
            // this spelling. So this option must be set on the server and on the client.
            .preserve_header_case(origin.preserve_header_case);
        // A stream waits for the origin for at most the longest of these timeouts. If hyper has not polled a stream for
        // longer than this timeout, the stream waits for a client that does not read.
        let stalled = limits.body_timeout.max(origin.response_timeout).max(origin.connect_timeout) + clock::TICK * 2;
        let mut http2 = http2::Builder::new(StreamExecutor { stalled });
        http2
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(BUFFER_BYTES)
            .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX));
        let plain = HeadLimits { bytes: limits.max_header_bytes, fields: limits.max_headers };
        let plain = (!origin.preserve_header_case).then_some(plain);
        Self { http1, plain, http2, timeouts, proxy_protocol: server.proxy_protocol }
    }
}

/// Runs each HTTP/2 stream as a task. Drops the task if its client has stopped reading. Dropping the task resets the
/// stream.
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
                // hyper polls a stream only when something has happened on the stream, so each poll means progress.
                deadline.arm(stalled);
                deadline.watch(cx);
                Poll::Pending
            })
            .await;
        });
    }
}
