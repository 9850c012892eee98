//! The state of a client connection: its deadline, its requests in flight, and whether the connection's end marks the
//! end of a response.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::connection_limits::{Limits, Timeouts};
use super::permit::ConnectionPermit;
use super::trailers::TrailerWriter;
use crate::clock::{self, Deadline};
use crate::wire::frame_tracker::FrameTracker;
use crate::wire::head_tracker::{HeadTracker, Phase, Verdict};

/// The time for which a connection without a request stays open after the drain has begun. During this time, a request
/// that is already on its way can arrive.
pub(super) const LEAVE_AFTER: Duration = clock::TICK.saturating_mul(5);

/// An HTTP/1.1 connection is parked after this time without a request. Parking frees the state of the server, and also
/// the buffers of hyper if hyper serves the connection, until the next bytes arrive. This saves much memory, because
/// CDNs keep hundreds of connections open for the next peak of traffic.
const PARK_AFTER: Duration = clock::TICK.saturating_mul(2);

/// While a completely received request is in flight, edgeshim reads only to notice that the client closes the
/// connection. If the socket is not registered with the runtime, this read is postponed for at most this time.
const POSTPONE_READ: Duration = clock::TICK;

/// The event for which the deadline of a connection is currently armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    None,
    Head,
    Idle,
    Write,
    /// The complete response has been sent, but the client still sends the rest of the request body.
    Rest,
    /// A read is postponed.
    Read,
}

/// The state that a connection (`conn.rs`), its stream (`watched.rs`) and its requests (`requests.rs`) share. All of
/// them run on one thread, so no lock is ever contended. But even an uncontended lock, and an atomic update that reads
/// and writes in one step, cost time. So the fields that each request needs are updated by a load and a store.
#[derive(Debug)]
pub(super) struct State {
    pub(super) deadline: Deadline,
    purpose: AtomicU8,
    in_flight: AtomicU32,
    /// The time at which the wait for a request began, in milliseconds of the worker's clock. 0 means that the
    /// connection does not wait for a request.
    idle_since_ms: AtomicU64,
    framing: Mutex<Framing>,
    /// A copy of the phase of `framing`. Most code reads this copy, because the copy needs no lock.
    phase: AtomicU8,
    /// The limits of the configuration that was active when the connection was accepted.
    pub(super) limits: Arc<Limits>,
    is_h2: AtomicBool,
    leaving: AtomicBool,
    flooded: AtomicBool,
    ending: AtomicU8,
    /// Whether the body of a response that ends with the connection is complete.
    has_ended: AtomicBool,
    pub(super) trailers: TrailerWriter,
    pub(super) permit: ConnectionPermit,
}

/// The values of `State::ending`: what the end of the connection means.
mod ending {
    /// The end of the connection has no meaning, because each message has a length or is chunked.
    pub(super) const FRAMED: u8 = 0;
    /// The end of the connection is the end of the response that begins with the next write. The socket is not yet set
    /// to send a reset.
    pub(super) const WANTED: u8 = 1;
    /// The end of the connection is the end of the current response. The socket is set to send a reset if it is closed
    /// without a shutdown.
    pub(super) const ARMED: u8 = 2;
}

impl State {
    /// Creates the state of a new connection. The deadline is armed for the first head.
    pub(super) fn new(limits: Arc<Limits>, permit: ConnectionPermit) -> Self {
        let state = Self {
            deadline: Deadline::new(),
            purpose: AtomicU8::new(Purpose::None as u8),
            in_flight: AtomicU32::new(0),
            idle_since_ms: AtomicU64::new(0),
            framing: Mutex::new(Framing::Heads(HeadTracker::new())),
            phase: AtomicU8::new(Phase::Boundary as u8),
            limits,
            is_h2: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            flooded: AtomicBool::new(false),
            ending: AtomicU8::new(ending::FRAMED),
            has_ended: AtomicBool::new(false),
            trailers: TrailerWriter::default(),
            permit,
        };
        state.await_head();
        state
    }

    /// Arms the deadline for a head.
    pub(super) fn await_head(&self) {
        self.arm(Purpose::Head, self.timeouts().header);
    }

    /// Notes that the connection has begun with the HTTP/2 preface. Disarms the deadline, because no head has begun.
    pub(super) fn begin_h2(&self) {
        let tracker = FrameTracker::new();
        self.set_phase(tracker.phase());
        *self.framing() = Framing::Frames(Box::new(tracker));
        self.is_h2.store(true, Ordering::Relaxed);
        self.disarm();
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        self.limits.timeouts
    }

    /// Notes that the response that begins now ends with the connection.
    pub(super) fn ends_with_connection(&self) {
        self.has_ended.store(false, Ordering::Relaxed);
        self.ending.store(ending::WANTED, Ordering::Relaxed);
    }

    /// Notes that the body of the current response is complete.
    pub(super) fn body_ended(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// Returns whether the response is complete and the connection waits only for the rest of the request body.
    pub(super) fn awaits_only_rest(&self) -> bool {
        self.purpose() == Purpose::Rest && self.has_ended.load(Ordering::Relaxed)
    }

    /// Returns whether the bytes that were read from the client so far end between two messages.
    pub(super) fn is_between_messages(&self) -> bool {
        self.phase() == Phase::Boundary
    }

    /// Returns whether a response that ends with the connection is in progress. An orderly close would then look like
    /// the end of that response.
    pub(super) fn is_open_ended(&self) -> bool {
        self.ending.load(Ordering::Relaxed) != ending::FRAMED
    }

    /// Returns whether the socket must be prepared before the next write, so that closing the socket sends a reset.
    /// Returns `true` once for each response that ends with the connection.
    pub(super) fn take_reset_request(&self) -> bool {
        let is_wanted = self.ending.load(Ordering::Relaxed) == ending::WANTED;
        if is_wanted {
            self.ending.store(ending::ARMED, Ordering::Relaxed);
        }
        is_wanted
    }

    /// Notes that a response that ends with the connection is complete and that the connection is being shut down.
    pub(super) fn shut_down(&self) {
        self.ending.store(ending::FRAMED, Ordering::Relaxed);
    }

    /// Notes that the connection must end after its requests in flight. From now on, the connection waits at
    /// most [`LEAVE_AFTER`] for another request, or for the rest of a request body whose response has been sent.
    pub(super) fn leave(&self) {
        if !self.leaving.swap(true, Ordering::Relaxed) && matches!(self.purpose(), Purpose::Idle | Purpose::Rest) {
            self.idle_since_ms.store(0, Ordering::Relaxed);
            self.disarm();
            self.arm_for_input();
        }
    }

    fn is_h2(&self) -> bool {
        self.is_h2.load(Ordering::Relaxed)
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
            5 => Purpose::Read,
            _ => Purpose::None,
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    /// Counts a request as in flight until the returned value is dropped.
    pub(super) fn begin_request(self: &Arc<Self>) -> InFlight {
        self.in_flight.store(self.in_flight.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.idle_since_ms.store(0, Ordering::Relaxed);
        // If the trailers of the previous response could not be written, the next response must not get these trailers.
        self.trailers.clear();
        if self.purpose() == Purpose::Idle {
            // This request is pipelined: it was read together with an earlier request. So `received` was not called
            // for this request and has not disarmed the deadline of the wait.
            self.disarm();
        }
        InFlight { state: Arc::clone(self) }
    }

    /// Returns whether the head that has just been parsed can be read in one way only. On HTTP/2 the result is always
    /// `true`.
    pub(super) fn is_unambiguous(&self) -> bool {
        match &mut *self.framing() {
            Framing::Heads(tracker) => tracker.take_verdict() == Verdict::Clear,
            Framing::Frames(_) => true,
        }
    }

    /// Notes that the connection changes to another protocol, which has no heads and no waits between requests.
    pub(super) fn upgraded(&self) {
        if let Framing::Heads(tracker) = &mut *self.framing() {
            tracker.set_opaque();
            self.set_phase(tracker.phase());
        }
        self.disarm();
        self.ends_with_connection();
        self.permit.upgraded();
    }

    fn framing(&self) -> MutexGuard<'_, Framing> {
        self.framing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Boundary,
            1 => Phase::Head,
            2 => Phase::Body,
            _ => Phase::Opaque,
        }
    }

    fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn arm(&self, purpose: Purpose, after: Duration) {
        self.purpose.store(purpose as u8, Ordering::Relaxed);
        self.deadline.arm(after);
    }

    pub(super) fn disarm(&self) {
        self.purpose.store(Purpose::None as u8, Ordering::Relaxed);
        self.deadline.disarm();
    }

    /// Updates the framing and the deadline after `bytes` were read from the client.
    ///
    /// # Errors
    /// Returns an error if the client floods the connection with HTTP/2 frames that carry no part of a request. The
    /// connection must then be closed.
    pub(super) fn received(&self, bytes: &[u8]) -> io::Result<()> {
        let phase = {
            let mut framing = self.framing();
            framing.feed(bytes);
            if framing.is_flooded() {
                self.flooded.store(true, Ordering::Relaxed);
                return Err(io::Error::other("the client sends too many frames that carry no part of a request"));
            }
            framing.phase()
        };
        self.set_phase(phase);
        match (phase, self.purpose()) {
            // Further bytes of a head do not extend the deadline of the head. Empty lines and HTTP/2 pings are not
            // requests, so they do not extend the deadline of the wait for a request.
            (Phase::Head, Purpose::Head) | (Phase::Boundary, Purpose::Idle) => {}
            (Phase::Head, _) => self.await_head(),
            // The rest of a body is still arriving. The deadline starts again and stays armed, because hyper can stop
            // reading at any time.
            (Phase::Body, Purpose::Rest) => self.await_rest(),
            (_, Purpose::Head | Purpose::Idle | Purpose::Rest) => self.disarm(),
            _ => {}
        }
        Ok(())
    }

    /// Returns whether the next read can be postponed: a complete request is in flight, and less than [`POSTPONE_READ`]
    /// has passed since the first call. The first call arms the deadline. When the deadline has expired, or the request
    /// has ended, the connection's task is woken, so that it reads again.
    pub(super) fn postpones_read(&self) -> bool {
        match self.purpose() {
            Purpose::None if self.is_busy() && !self.is_h2() && self.phase() == Phase::Boundary => {
                self.arm(Purpose::Read, POSTPONE_READ);
                true
            }
            Purpose::Read if self.deadline.is_due() => {
                self.disarm();
                false
            }
            Purpose::Read => true,
            _ => false,
        }
    }

    /// Notes that `bytes` bytes were written to the client. On HTTP/2, the client then sends `WINDOW_UPDATE` frames.
    /// These frames must not count as a flood.
    pub(super) fn wrote(&self, bytes: usize) {
        if self.is_h2()
            && let Framing::Frames(tracker) = &mut *self.framing()
        {
            tracker.wrote(bytes);
        }
    }

    /// Returns whether [`received`](Self::received) has returned an error.
    pub(super) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    /// Returns how long a connection that waits for a request is kept. After this time, an HTTP/1.1 connection is
    /// parked or closed, and an HTTP/2 connection is closed.
    fn idle_limit(&self) -> Duration {
        if self.is_leaving() {
            return LEAVE_AFTER;
        }
        let left = self.idle_left();
        // An HTTP/2 connection cannot be parked, because its streams, windows and header table must stay in memory.
        if self.is_h2() { left } else { left.min(PARK_AFTER) }
    }

    /// Returns how much longer the connection can wait for a request. The wait begins now if it has not begun yet.
    pub(super) fn idle_left(&self) -> Duration {
        let now = clock::now_ms();
        let begun = match self.idle_since_ms.load(Ordering::Relaxed) {
            0 => {
                self.idle_since_ms.store(now, Ordering::Relaxed);
                now
            }
            begun => begun,
        };
        self.timeouts().idle.saturating_sub(Duration::from_millis(now.saturating_sub(begun)))
    }

    fn await_rest(&self) {
        self.arm(Purpose::Rest, if self.is_leaving() { LEAVE_AFTER } else { self.timeouts().body });
    }

    /// Arms the deadline for the next input, if the deadline is not armed. The stream calls this function when nothing
    /// can be read and after a write that had to wait. [`InFlight`] calls this function when the last request in flight
    /// ends.
    pub(super) fn arm_for_input(&self) {
        if self.purpose() != Purpose::None {
            return;
        }
        match self.phase() {
            Phase::Head => self.await_head(),
            Phase::Boundary if !self.is_busy() => {
                self.arm(Purpose::Idle, self.idle_limit());
            }
            // The response was sent before the end of the request body arrived. No request is in flight any more, so
            // only this deadline limits the wait for the rest of the body.
            Phase::Body if !self.is_busy() => self.await_rest(),
            _ => {}
        }
    }
}

/// Tracks the bytes that are read from the client. The phase shows where in a message these bytes end.
#[derive(Debug)]
enum Framing {
    Heads(HeadTracker),
    // An enum is as large as its largest variant, and most idle connections use HTTP/1.1. So the tracker of HTTP/2 is
    // in a box.
    Frames(Box<FrameTracker>),
}

impl Framing {
    fn feed(&mut self, bytes: &[u8]) {
        match self {
            Self::Heads(tracker) => tracker.feed(bytes),
            Self::Frames(tracker) => tracker.feed(bytes),
        }
    }

    fn is_flooded(&mut self) -> bool {
        match self {
            Self::Heads(_) => false,
            Self::Frames(tracker) => tracker.is_flooded(clock::now_ms()),
        }
    }

    fn phase(&self) -> Phase {
        match self {
            Self::Heads(tracker) => tracker.phase(),
            Self::Frames(tracker) => tracker.phase(),
        }
    }
}

/// A request in flight on a connection.
#[derive(Debug)]
pub(super) struct InFlight {
    state: Arc<State>,
}

impl InFlight {
    /// Returns the state of the request's connection.
    pub(super) fn state(&self) -> &State {
        &self.state
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.permit.drain().cut_request();
        // While a request is served, the server also tries to read the next request. If nothing has arrived at that
        // time, hyper does not try again when this request ends. So the stream does not arm the deadline, and the
        // deadline must be armed here.
        let left = self.state.in_flight.load(Ordering::Relaxed).saturating_sub(1);
        self.state.in_flight.store(left, Ordering::Relaxed);
        if left == 0 {
            match self.state.purpose() {
                Purpose::Read => {
                    self.state.disarm();
                    self.state.deadline.wake();
                }
                // A part of the next head arrived during the response. The rest is read from now on, so the time for
                // the head begins now.
                Purpose::Head => self.state.await_head(),
                _ => {}
            }
            self.state.arm_for_input();
        }
    }
}
