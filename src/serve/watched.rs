//! A connection's bytes on their way to hyper, watched for two things that hyper does not do: time, and heads with two lengths.
//!
//! hyper's own timer arms one deadline a head, which also ends connections that wait for their next request; here one coarse
//! deadline a connection serves for the head, the wait between requests and a peer that does not read.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::Deadline;
use crate::wire::guard::{HeadGuard, Phase, Verdict};

/// The timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) header: Duration,
    pub(super) body: Duration,
    pub(super) idle: Duration,
}

/// What a connection's deadline stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    None,
    Head,
    Idle,
    Write,
}

/// What the driver of a connection, its bytes and its requests share. All three run in one task, so nothing here is ever waited for.
#[derive(Debug)]
pub(super) struct State {
    pub(super) deadline: Deadline,
    purpose: AtomicU8,
    in_flight: AtomicU32,
    /// None on HTTP/2, whose framing cannot be read in two ways.
    guard: Option<Mutex<HeadGuard>>,
}

impl State {
    /// For a connection of which nothing has been handed to hyper yet; its deadline for the first head goes on.
    pub(super) fn new(deadline: Deadline, is_h2: bool) -> Self {
        let guard = (!is_h2).then(|| Mutex::new(HeadGuard::new()));
        Self { deadline, purpose: AtomicU8::new(Purpose::Head as u8), in_flight: AtomicU32::new(0), guard }
    }

    pub(super) fn purpose(&self) -> Purpose {
        match self.purpose.load(Ordering::Relaxed) {
            1 => Purpose::Head,
            2 => Purpose::Idle,
            3 => Purpose::Write,
            _ => Purpose::None,
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    /// One more request until the guard that is returned goes.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Busy { state: Arc::clone(self) }
    }

    /// Whether the head that hyper has just given us is sound.
    pub(super) fn is_sound(&self) -> bool {
        self.guard.as_ref().is_none_or(|guard| {
            let mut guard = guard.lock().unwrap_or_else(PoisonError::into_inner);
            guard.take_verdict() == Verdict::Clear
        })
    }

    /// What follows is another protocol: no heads, no waiting between requests.
    pub(super) fn upgraded(&self) {
        if let Some(guard) = &self.guard {
            guard.lock().unwrap_or_else(PoisonError::into_inner).set_opaque();
        }
        self.disarm();
    }

    pub(super) fn arm(&self, purpose: Purpose, after: Duration) {
        self.purpose.store(purpose as u8, Ordering::Relaxed);
        self.deadline.arm(after);
    }

    pub(super) fn disarm(&self) {
        self.purpose.store(Purpose::None as u8, Ordering::Relaxed);
        self.deadline.disarm();
    }

    fn read(&self, bytes: &[u8], timeouts: Timeouts) {
        let phase = match &self.guard {
            Some(guard) => {
                let mut guard = guard.lock().unwrap_or_else(PoisonError::into_inner);
                guard.feed(bytes);
                guard.phase()
            }
            None => Phase::Opaque,
        };
        match (phase, self.purpose()) {
            // The clock of a head runs from its first byte to its last, however often something comes.
            (Phase::Head, Purpose::Head) => {}
            (Phase::Head, _) => self.arm(Purpose::Head, timeouts.header),
            (_, Purpose::Head | Purpose::Idle) => self.disarm(),
            _ => {}
        }
    }

    fn starved(&self, timeouts: Timeouts) {
        if self.purpose() != Purpose::None || self.is_busy() {
            return;
        }
        let between = self
            .guard
            .as_ref()
            .is_none_or(|guard| guard.lock().unwrap_or_else(PoisonError::into_inner).phase() == Phase::Boundary);
        if between {
            self.arm(Purpose::Idle, timeouts.idle);
        }
    }
}

/// A request in flight on a connection.
#[derive(Debug)]
pub(super) struct Busy {
    state: Arc<State>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

pin_project! {
    /// The watched stream.
    pub(super) struct Watched<S> {
        #[pin]
        stream: S,
        prefix: Bytes,
        state: Arc<State>,
        timeouts: Timeouts,
    }
}

impl<S> Watched<S> {
    /// `prefix` was read from `stream` before.
    pub(super) fn new(stream: S, prefix: Bytes, state: Arc<State>, timeouts: Timeouts) -> Self {
        Self { stream, prefix, state, timeouts }
    }

    pub(super) fn into_stream(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buf.filled().len();
        if this.prefix.has_remaining() {
            let part = this.prefix.split_to(this.prefix.len().min(buf.remaining()));
            buf.put_slice(&part);
            if this.prefix.is_empty() {
                // Lets go of the first read's buffer, which an idle connection has no use for.
                *this.prefix = Bytes::new();
            }
        } else {
            match this.stream.poll_read(cx, buf) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    this.state.starved(*this.timeouts);
                    return Poll::Pending;
                }
            }
        }
        this.state.read(buf.filled().get(before..).unwrap_or_default(), *this.timeouts);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite> Watched<S> {
    /// Watches a write's outcome: a peer that takes nothing for `body_timeout` is given up.
    fn wrote<T>(state: &State, timeouts: Timeouts, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match (&polled, state.purpose()) {
            (Poll::Pending, Purpose::Write) | (Poll::Ready(_), Purpose::None | Purpose::Head | Purpose::Idle) => {}
            (Poll::Pending, _) => state.arm(Purpose::Write, timeouts.body),
            (Poll::Ready(_), Purpose::Write) => state.disarm(),
        }
        polled
    }
}

impl<S: AsyncWrite> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        Self::wrote(this.state, *this.timeouts, this.stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        Self::wrote(this.state, *this.timeouts, this.stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_shutdown(cx)
    }
}
