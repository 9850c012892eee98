//! A connection's bytes on their way to hyper and back, watched for what hyper does not do.
//!
//! - Time. hyper's own timer arms one deadline a head, which also ends connections that wait for their next request; here one coarse
//!   deadline a connection serves for the head, the wait between requests and a peer that does not read.
//! - Heads with two lengths (`wire/guard.rs`).
//! - The end of a response that only the connection's end delimits (HTTP/1.0, an upgraded connection). While it is under way the socket
//!   is set to be reset when it is closed, so that a cut, a timeout and even the end of this process can be told from the body's end.
//! - Trailers that the response's head does not announce, which hyper leaves out.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use pin_project_lite::pin_project;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::clock::{self, Deadline};
use crate::wire::frames::FrameGuard;
use crate::wire::guard::{HeadGuard, Phase, Verdict};

/// How long a connection that waits for a request is kept once the drain has begun: what a visitor sent before it can have known.
pub(super) const LEAVE: Duration = clock::TICK.saturating_mul(5);

/// After so long without a request a connection of HTTP/1.1 is parked: hyper's state and buffers, some 9 KiB, are given up until
/// something comes. CDNs keep hundreds of connections for the next rush.
pub(super) const PARK_AFTER: Duration = clock::TICK.saturating_mul(2);

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
    /// The rest of a body whose request has been answered.
    Rest,
}

/// What the driver of a connection, its bytes and its requests share. All three run in one task, so nothing here is ever waited for.
#[derive(Debug)]
pub(super) struct State {
    pub(super) deadline: Deadline,
    purpose: AtomicU8,
    in_flight: AtomicU32,
    /// When the wait for a request began, by the worker's clock; 0: none is waited for.
    idle_since_ms: AtomicU64,
    guard: Mutex<Guard>,
    timeouts: Timeouts,
    leaving: AtomicBool,
    ending: AtomicU8,
    /// The response that ends with the connection has come to its end.
    has_ended: AtomicBool,
    closing: Mutex<Closing>,
    is_closing: AtomicBool,
}

/// What the connection's end means, for `State::ending`.
mod ending {
    /// Nothing: messages have lengths of their own.
    pub(super) const FRAMED: u8 = 0;
    /// The end of the response that begins with the next write.
    pub(super) const WANTED: u8 = 1;
    /// The same, and the socket is set to be reset unless it is shut down first.
    pub(super) const ARMED: u8 = 2;
}

/// The trailers of the response under way, in the form that ends a chunked body, and how far they have come.
#[derive(Debug, Default)]
enum Closing {
    #[default]
    None,
    /// hyper still has bytes that go before them.
    Behind(Bytes),
    /// hyper has written everything; what it writes next ends the body.
    Next(Bytes),
    /// This much is still to be written in the place of hyper's last chunk.
    Writing(Bytes),
}

/// How hyper ends a chunked body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl State {
    /// For a connection of which nothing has been handed to hyper yet; its deadline for the first head goes on.
    pub(super) fn new(deadline: Deadline, is_h2: bool, timeouts: Timeouts) -> Self {
        let guard = if is_h2 { Guard::Frames(FrameGuard::new()) } else { Guard::Heads(HeadGuard::new()) };
        let guard = Mutex::new(guard);
        let purpose = AtomicU8::new(Purpose::Head as u8);
        Self {
            deadline,
            purpose,
            in_flight: AtomicU32::new(0),
            idle_since_ms: AtomicU64::new(0),
            guard,
            timeouts,
            leaving: AtomicBool::new(false),
            ending: AtomicU8::new(ending::FRAMED),
            has_ended: AtomicBool::new(false),
            closing: Mutex::default(),
            is_closing: AtomicBool::new(false),
        }
    }

    /// The response that begins now ends with the connection.
    pub(super) fn ends_with_connection(&self) {
        self.has_ended.store(false, Ordering::Relaxed);
        self.ending.store(ending::WANTED, Ordering::Relaxed);
    }

    /// The body under way has ended well.
    pub(super) fn body_ended(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// Whether such a response has been sent to its end, so that only the rest of the request's body is waited for.
    pub(super) fn awaits_rest_alone(&self) -> bool {
        self.purpose() == Purpose::Rest && self.has_ended.load(Ordering::Relaxed)
    }

    /// Whether such a response is under way, so that an orderly end would be taken for its end.
    pub(super) fn is_open_ended(&self) -> bool {
        self.ending.load(Ordering::Relaxed) != ending::FRAMED
    }

    /// Has `trailers` written at the end of the chunked body under way. To be called until it is ready; then the body may end. The
    /// connection's task is woken for that.
    pub(super) fn poll_trailers(&self, trailers: &mut Option<HeaderMap>) -> Poll<()> {
        let mut closing = self.closing();
        if let Some(trailers) = trailers.take() {
            *closing = Closing::Behind(last_chunk(&trailers));
            self.is_closing.store(true, Ordering::Relaxed);
        }
        if matches!(*closing, Closing::Behind(_)) { Poll::Pending } else { Poll::Ready(()) }
    }

    fn closing(&self) -> MutexGuard<'_, Closing> {
        self.closing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The drain has begun: no long wait for a next request any more.
    pub(super) fn leave(&self) {
        if !self.leaving.swap(true, Ordering::Relaxed) && matches!(self.purpose(), Purpose::Idle | Purpose::Rest) {
            self.idle_since_ms.store(0, Ordering::Relaxed);
            self.disarm();
            self.starved();
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    pub(super) fn purpose(&self) -> Purpose {
        match self.purpose.load(Ordering::Relaxed) {
            1 => Purpose::Head,
            2 => Purpose::Idle,
            3 => Purpose::Write,
            4 => Purpose::Rest,
            _ => Purpose::None,
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    /// One more request until the guard that is returned goes.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.idle_since_ms.store(0, Ordering::Relaxed);
        if self.is_closing.load(Ordering::Relaxed) {
            // Trailers that found no place are not another response's.
            *self.closing() = Closing::None;
            self.is_closing.store(false, Ordering::Relaxed);
        }
        if self.purpose() == Purpose::Idle {
            // A pipelined request was read long ago: no read has ended the wait.
            self.disarm();
        }
        Busy { state: Arc::clone(self) }
    }

    /// Whether the head that hyper has just given us is sound. HTTP/2's framing cannot be read in two ways.
    pub(super) fn is_sound(&self) -> bool {
        match &mut *self.guard() {
            Guard::Heads(guard) => guard.take_verdict() == Verdict::Clear,
            Guard::Frames(_) => true,
        }
    }

    /// What follows is another protocol: no heads, no waiting between requests.
    pub(super) fn upgraded(&self) {
        if let Guard::Heads(guard) = &mut *self.guard() {
            guard.set_opaque();
        }
        self.disarm();
        self.ends_with_connection();
    }

    fn guard(&self) -> MutexGuard<'_, Guard> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn arm(&self, purpose: Purpose, after: Duration) {
        self.purpose.store(purpose as u8, Ordering::Relaxed);
        self.deadline.arm(after);
    }

    pub(super) fn disarm(&self) {
        self.purpose.store(Purpose::None as u8, Ordering::Relaxed);
        self.deadline.disarm();
    }

    fn read(&self, bytes: &[u8]) {
        let phase = {
            let mut guard = self.guard();
            guard.feed(bytes);
            guard.phase()
        };
        match (phase, self.purpose()) {
            // The clock of a head runs from its first byte to its last, however often something comes.
            // Empty lines and pings are no requests: the wait for one goes on, and its beginning ends it.
            (Phase::Head, Purpose::Head) | (Phase::Boundary, Purpose::Idle) => {}
            (Phase::Head, _) => self.arm(Purpose::Head, self.timeouts.header),
            // More of the rest of a body is still its rest: hyper may stop reading it at any time.
            (Phase::Body, Purpose::Rest) => self.await_rest(),
            (_, Purpose::Head | Purpose::Idle | Purpose::Rest) => self.disarm(),
            _ => {}
        }
    }

    /// How long a connection that waits for a request stays with hyper.
    fn patience(&self) -> Duration {
        if self.is_leaving() {
            return LEAVE;
        }
        let left = self.idle_left();
        match &*self.guard() {
            Guard::Heads(_) => left.min(PARK_AFTER),
            // HTTP/2 has streams, windows and a table of fields to keep: nothing to park.
            Guard::Frames(_) => left,
        }
    }

    /// What is left of the wait for a request, which begins here unless it has begun.
    pub(super) fn idle_left(&self) -> Duration {
        let now = clock::now_ms();
        let begun = self.idle_since_ms.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        self.timeouts.idle.saturating_sub(Duration::from_millis(now.saturating_sub(begun.err().unwrap_or(now))))
    }

    fn await_rest(&self) {
        self.arm(Purpose::Rest, if self.is_leaving() { LEAVE } else { self.timeouts.body });
    }

    /// Nothing to read, nothing to write: what is there to wait for?
    fn starved(&self) {
        if self.purpose() != Purpose::None {
            return;
        }
        let phase = self.guard().phase();
        match phase {
            Phase::Head => self.arm(Purpose::Head, self.timeouts.header),
            Phase::Boundary if !self.is_busy() => {
                self.arm(Purpose::Idle, self.patience());
            }
            // The answer has come before all of the body, and nobody else waits for what is missing.
            Phase::Body if !self.is_busy() => self.await_rest(),
            _ => {}
        }
    }
}

/// Follows what is read, as far as the clock has to know it.
#[derive(Debug)]
enum Guard {
    Heads(HeadGuard),
    Frames(FrameGuard),
}

impl Guard {
    fn feed(&mut self, bytes: &[u8]) {
        match self {
            Self::Heads(guard) => guard.feed(bytes),
            Self::Frames(guard) => guard.feed(bytes),
        }
    }

    fn phase(&self) -> Phase {
        match self {
            Self::Heads(guard) => guard.phase(),
            Self::Frames(guard) => guard.phase(),
        }
    }
}

/// A request in flight on a connection.
#[derive(Debug)]
pub(super) struct Busy {
    state: Arc<State>,
}

impl Busy {
    /// The connection's.
    pub(super) fn state(&self) -> &State {
        &self.state
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // hyper looks for the next request while it waits for this one's answer; where it found nothing it does not look again.
        if self.state.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.state.starved();
        }
    }
}

/// A stream that can be waited for without a buffer to read into.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Ready when there is something to read, the end included.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Has the connection reset when it is closed, or not. False where there is no such thing.
    fn reset_at_close(&self, reset: bool) -> bool;
}

impl Socket for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn reset_at_close(&self, reset: bool) -> bool {
        SockRef::from(self).set_linger(reset.then_some(Duration::ZERO)).is_ok()
    }
}

impl Socket for UnixStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn reset_at_close(&self, _: bool) -> bool {
        false
    }
}

pin_project! {
    /// The watched stream.
    pub(super) struct Watched<S> {
        #[pin]
        stream: S,
        prefix: Bytes,
        state: Arc<State>,
    }
}

impl<S> Watched<S> {
    /// `prefix` was read from `stream` before.
    pub(super) fn new(stream: S, prefix: Bytes, state: Arc<State>) -> Self {
        Self { stream, prefix, state }
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
                    this.state.starved();
                    return Poll::Pending;
                }
            }
        }
        this.state.read(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite> Watched<S> {
    /// Watches a write's outcome: a peer that takes nothing for `body_timeout` is given up.
    fn wrote<T>(state: &State, cx: &Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match (&polled, state.purpose()) {
            (Poll::Pending, Purpose::Write)
            | (Poll::Ready(_), Purpose::None | Purpose::Head | Purpose::Idle | Purpose::Rest) => {}
            (Poll::Pending, _) => state.arm(Purpose::Write, state.timeouts.body),
            (Poll::Ready(_), Purpose::Write) => {
                state.disarm();
                state.starved();
                // hyper may have the next request in its buffer, and does not look there after a write that took long.
                cx.waker().wake_by_ref();
            }
        }
        polled
    }

    /// Writes the trailers in the place of hyper's last chunk, if `bufs` are that. None: they are to be written as they are.
    fn poll_close(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Option<Poll<io::Result<usize>>> {
        let this = self.as_mut().project();
        let state = &**this.state;
        let mut closing = state.closing();
        let mut left = match std::mem::take(&mut *closing) {
            Closing::Next(last) if bufs.iter().flat_map(|buf| buf.iter()).eq(LAST_CHUNK) => last,
            Closing::Writing(left) => left,
            behind @ Closing::Behind(_) => {
                *closing = behind;
                return None;
            }
            // The body was not chunked, and has no room for trailers.
            Closing::Next(_) | Closing::None => {
                state.is_closing.store(false, Ordering::Relaxed);
                return None;
            }
        };
        let mut stream = this.stream;
        while !left.is_empty() {
            let polled = stream.as_mut().poll_write(cx, &left);
            match Self::wrote(state, cx, polled) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Ok(0))),
                Poll::Ready(Ok(written)) => left.advance(written),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => {
                    *closing = Closing::Writing(left);
                    return Some(Poll::Pending);
                }
            }
        }
        state.is_closing.store(false, Ordering::Relaxed);
        Some(Poll::Ready(Ok(LAST_CHUNK.len())))
    }
}

impl<S: AsyncWrite + Socket> Watched<S> {
    /// What has to be done before a write.
    fn before_write(&self) {
        if self.state.ending.load(Ordering::Relaxed) == ending::WANTED {
            self.stream.reset_at_close(true);
            self.state.ending.store(ending::ARMED, Ordering::Relaxed);
        }
    }
}

/// The end of a chunked body with trailers (RFC 9112 §7.1).
fn last_chunk(trailers: &HeaderMap) -> Bytes {
    let mut last = b"0\r\n".to_vec();
    for (name, value) in trailers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            last.extend_from_slice(part);
        }
    }
    last.extend_from_slice(b"\r\n");
    last.into()
}

impl<S: Socket> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.before_write();
        if self.state.is_closing.load(Ordering::Relaxed)
            && let Some(polled) = self.as_mut().poll_close(cx, &[io::IoSlice::new(buf)])
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
        if self.state.is_closing.load(Ordering::Relaxed)
            && let Some(polled) = self.as_mut().poll_close(cx, bufs)
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

    /// hyper asks for this when it has written all that it had.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if this.state.is_closing.load(Ordering::Relaxed) {
            let mut closing = this.state.closing();
            *closing = match std::mem::take(&mut *closing) {
                Closing::Behind(last) => {
                    cx.waker().wake_by_ref();
                    Closing::Next(last)
                }
                other => other,
            };
        }
        this.stream.poll_flush(cx)
    }

    /// hyper, or the tunnel, has come to the end of what it had to send.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if this.state.is_open_ended() {
            this.stream.reset_at_close(false);
            this.state.ending.store(ending::FRAMED, Ordering::Relaxed);
        }
        this.stream.poll_shutdown(cx)
    }
}
