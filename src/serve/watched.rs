//! The stream between a client's socket and the server, which is hyper or `plain.rs`. All bytes in both directions pass
//! through this stream. The stream adds what hyper lacks:
//!
//! - Timeouts. hyper's timeout for heads would arm a timer for each head, and would also close connections that wait
//!   for their next request. Here each connection has one coarse deadline for the head, for the wait between requests,
//!   for a peer that does not read, and for the rest of a request body after an early response.
//! - Detection of ambiguous heads, for example with Content-Length and Transfer-Encoding (`wire/head_tracker.rs`). The
//!   layer `observe` refuses such requests.
//! - Detection of clients that flood an HTTP/2 connection with small frames (`wire/frame_tracker.rs`).
//! - Responses that end with the connection (HTTP/1.0, an upgraded connection). While such a response is in progress,
//!   the socket is set to send a reset on close. If the response is truncated, a TCP client therefore gets a reset,
//!   even if the cause is a timeout or the end of this process.
//! - Trailers that the response head does not announce (`trailers.rs`).
//! - Fewer system calls for a connection with one request (`lazy.rs`): while the first request is in flight, a read
//!   that would only register the socket is postponed. A connection without TLS is not shut down before it is closed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::state::{Purpose, State};
use super::trailers::LAST_CHUNK;
use crate::origin::Pipe;

/// A stream to which bytes can possibly be written from a pipe.
pub(super) trait PipeWrite: AsyncWrite + Unpin {
    /// Returns whether [`PipeWrite::poll_write_pipe`] can be called.
    fn takes_pipes(&self) -> bool {
        false
    }

    /// Writes bytes from `pipe`, which is not empty. Returns their number.
    fn poll_write_pipe(self: Pin<&mut Self>, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        let _ = (cx, pipe);
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

/// A socket that can wait for input without a read buffer.
pub(super) trait Socket: AsyncRead + PipeWrite + Send + 'static {
    /// Whether the stream needs no shutdown before the socket is closed, because closing the socket has the same
    /// effect.
    const CLOSE_SHUTS_DOWN: bool = false;

    /// Reads, without waiting, the first bytes of a connection that is not registered with the runtime. Returns no
    /// bytes if no bytes have arrived yet or the socket is registered.
    fn first_read(&mut self) -> io::Result<BytesMut> {
        Ok(BytesMut::new())
    }

    /// Returns whether the runtime notices input on this socket.
    fn is_registered(&self) -> bool {
        true
    }

    /// Returns `Ready` when there is something to read or the stream has ended.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Sets whether the connection is reset when the socket is closed. Returns `false` if the socket type has no reset.
    /// If `reset` is `false`, a TLS stream cancels the reset only after the stream has written its last byte.
    fn reset_at_close(&self, reset: bool) -> bool;
}

pin_project! {
    pub(super) struct Watched<S> {
        #[pin]
        stream: S,
        prefix: Bytes,
        state: Arc<State>,
    }
}

impl<S> Watched<S> {
    /// Wraps `stream`. `prefix` contains the bytes that have already been read from `stream` and that `state` has seen.
    pub(super) fn new(stream: S, prefix: Bytes, state: Arc<State>) -> Self {
        Self { stream, prefix, state }
    }

    pub(super) fn into_stream(self) -> S {
        self.stream
    }
}

impl<S: Socket> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buf.filled().len();
        if this.prefix.has_remaining() {
            let length = this.prefix.len().min(buf.remaining());
            buf.put_slice(this.prefix.get(..length).unwrap_or_default());
            this.prefix.advance(length);
            if this.prefix.is_empty() {
                // Frees the buffer of the first read, because an idle connection does not need the buffer.
                *this.prefix = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        if !this.stream.is_registered() && this.state.postpones_read() {
            return Poll::Pending;
        }
        match this.stream.poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                this.state.arm_for_input();
                return Poll::Pending;
            }
        }
        Poll::Ready(this.state.received(buf.filled().get(before..).unwrap_or_default()))
    }
}

impl<S: AsyncWrite> Watched<S> {
    /// Arms the deadline if a write must wait, and disarms the deadline when a later write does not wait.
    fn after_write<T>(state: &State, cx: &Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match (&polled, state.purpose()) {
            (Poll::Pending, Purpose::Write)
            | (Poll::Ready(_), Purpose::None | Purpose::Head | Purpose::Idle | Purpose::Rest | Purpose::Read) => {}
            (Poll::Pending, _) => state.arm(Purpose::Write, state.timeouts().body),
            (Poll::Ready(_), Purpose::Write) => {
                state.disarm();
                state.arm_for_input();
                // The next request can already be in hyper's buffer. After a slow write, hyper reads this buffer only
                // if the connection's task is woken.
                cx.waker().wake_by_ref();
            }
        }
        polled
    }

    /// Notes the number of written bytes, and does what [`after_write`](Self::after_write) does.
    fn wrote(state: &State, cx: &Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = polled {
            state.wrote(bytes);
        }
        Self::after_write(state, cx, polled)
    }

    /// Writes the chunk with the trailers if `bufs` are hyper's last chunk. Otherwise returns `None`, and the caller
    /// must write `bufs` unchanged.
    fn poll_trailers(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Option<Poll<io::Result<usize>>> {
        let this = self.project();
        let state = &**this.state;
        let mut rest = state.trailers.replacement(bufs)?;
        let mut stream = this.stream;
        while !rest.is_empty() {
            let polled = stream.as_mut().poll_write(cx, &rest);
            match Self::after_write(state, cx, polled) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Ok(0))),
                Poll::Ready(Ok(written)) => rest.advance(written),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => {
                    state.trailers.pending(rest);
                    return Some(Poll::Pending);
                }
            }
        }
        state.trailers.written();
        Some(Poll::Ready(Ok(LAST_CHUNK.len())))
    }
}

impl<S: AsyncWrite + Socket> Watched<S> {
    fn before_write(&self) {
        if self.state.take_reset_request() {
            self.stream.reset_at_close(true);
        }
    }
}

impl<S: Socket> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.before_write();
        if self.state.trailers.is_active()
            && let Some(polled) = self.as_mut().poll_trailers(cx, &[io::IoSlice::new(buf)])
        {
            return polled;
        }
        let this = self.project();
        let polled = this.stream.poll_write(cx, buf);
        Self::wrote(this.state, cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.before_write();
        if self.state.trailers.is_active()
            && let Some(polled) = self.as_mut().poll_trailers(cx, bufs)
        {
            return polled;
        }
        let this = self.project();
        let polled = this.stream.poll_write_vectored(cx, bufs);
        Self::wrote(this.state, cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper calls this function when hyper has no more bytes to write at the moment.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if this.state.trailers.is_active() && this.state.trailers.flushed() {
            cx.waker().wake_by_ref();
        }
        // A TLS stream can still have encrypted bytes in memory.
        let polled = this.stream.poll_flush(cx);
        Self::after_write(this.state, cx, polled)
    }

    /// The server, or the tunnel of an upgraded connection (`origin/tunnel.rs`), calls this function after the last
    /// byte.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if this.state.is_open_ended() {
            this.stream.reset_at_close(false);
            this.state.shut_down();
        }
        if S::CLOSE_SHUTS_DOWN && this.state.is_between_messages() {
            // The stream is dropped now.
            return Poll::Ready(Ok(()));
        }
        let polled = this.stream.poll_shutdown(cx);
        Self::after_write(this.state, cx, polled)
    }
}

impl<S: Socket> PipeWrite for Watched<S> {
    fn takes_pipes(&self) -> bool {
        self.stream.takes_pipes()
    }

    fn poll_write_pipe(self: Pin<&mut Self>, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        self.before_write();
        let this = self.project();
        let polled = this.stream.poll_write_pipe(cx, pipe);
        Self::wrote(this.state, cx, polled)
    }
}
