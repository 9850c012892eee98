//! The state of a connection: its deadline, its requests in flight, and how its response ends.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::trailers::TrailerWriter;
use crate::clock::{self, Deadline};
use crate::wire::frame_tracker::FrameTracker;
use crate::wire::head_tracker::{HeadTracker, Phase, Verdict};

/// How long a connection that waits for a request stays open once the drain has begun, for bytes in flight.
pub(super) const LEAVE_AFTER: Duration = clock::TICK.saturating_mul(5);

/// After this time without a request an HTTP/1.1 connection is parked: hyper's state and buffers, some 9 KiB, are
/// dropped until bytes arrive. CDNs keep hundreds of connections open for the next peak.
const PARK_AFTER: Duration = clock::TICK.saturating_mul(2);

/// The timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) header: Duration,
    pub(super) body: Duration,
    pub(super) idle: Duration,
}

/// What a connection's deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    None,
    Head,
    Idle,
    Write,
    /// The rest of a request body whose response has been sent.
    Rest,
}

/// Shared by a connection's driver, its stream and its requests. All run in one task, so no lock is ever contended.
#[derive(Debug)]
pub(super) struct State {
    pub(super) deadline: Deadline,
    purpose: AtomicU8,
    in_flight: AtomicU32,
    /// When the wait for a request began, on the worker's clock; 0: no wait.
    idle_since_ms: AtomicU64,
    framing: Mutex<Framing>,
    pub(super) timeouts: Timeouts,
    leaving: AtomicBool,
    ending: AtomicU8,
    /// Whether the response that ends with the connection has been written completely.
    has_ended: AtomicBool,
    pub(super) trailers: TrailerWriter,
}

/// What the end of the connection means, for `State::ending`.
mod ending {
    /// Nothing: messages have a length or are chunked.
    pub(super) const FRAMED: u8 = 0;
    /// It is the end of the response that begins with the next write.
    pub(super) const WANTED: u8 = 1;
    /// The same, and closing the socket resets it unless it is shut down first.
    pub(super) const ARMED: u8 = 2;
}

impl State {
    /// For a connection before hyper reads from it. The deadline for the first head continues.
    pub(super) fn new(deadline: Deadline, is_h2: bool, timeouts: Timeouts) -> Self {
        let framing = if is_h2 { Framing::Frames(FrameTracker::new()) } else { Framing::Heads(HeadTracker::new()) };
        Self {
            deadline,
            purpose: AtomicU8::new(Purpose::Head as u8),
            in_flight: AtomicU32::new(0),
            idle_since_ms: AtomicU64::new(0),
            framing: Mutex::new(framing),
            timeouts,
            leaving: AtomicBool::new(false),
            ending: AtomicU8::new(ending::FRAMED),
            has_ended: AtomicBool::new(false),
            trailers: TrailerWriter::default(),
        }
    }

    /// The response that begins now ends with the connection.
    pub(super) fn ends_with_connection(&self) {
        self.has_ended.store(false, Ordering::Relaxed);
        self.ending.store(ending::WANTED, Ordering::Relaxed);
    }

    /// The body of the current response is complete.
    pub(super) fn body_ended(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// Whether such a response is complete and only the rest of the request body is awaited.
    pub(super) fn awaits_only_rest(&self) -> bool {
        self.purpose() == Purpose::Rest && self.has_ended.load(Ordering::Relaxed)
    }

    /// Whether such a response is in progress. An orderly close would then look like its end.
    pub(super) fn is_open_ended(&self) -> bool {
        self.ending.load(Ordering::Relaxed) != ending::FRAMED
    }

    /// Whether the socket has to be set to reset at close before the next write. True once for each such response.
    pub(super) fn take_reset_request(&self) -> bool {
        let is_wanted = self.ending.load(Ordering::Relaxed) == ending::WANTED;
        if is_wanted {
            self.ending.store(ending::ARMED, Ordering::Relaxed);
        }
        is_wanted
    }

    /// Such a response has ended, and the connection is being shut down.
    pub(super) fn shut_down(&self) {
        self.ending.store(ending::FRAMED, Ordering::Relaxed);
    }

    /// The drain has begun: the wait for a next request is short now.
    pub(super) fn leave(&self) {
        if !self.leaving.swap(true, Ordering::Relaxed) && matches!(self.purpose(), Purpose::Idle | Purpose::Rest) {
            self.idle_since_ms.store(0, Ordering::Relaxed);
            self.disarm();
            self.arm_for_input();
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

    /// Counts a request as in flight until the returned value is dropped.
    pub(super) fn begin_request(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.idle_since_ms.store(0, Ordering::Relaxed);
        // Trailers that could not be written must not end the next response.
        self.trailers.clear();
        if self.purpose() == Purpose::Idle {
            // A pipelined request was read earlier, so no read has ended the wait.
            self.disarm();
        }
        InFlight { state: Arc::clone(self) }
    }

    /// Whether the head that hyper has just parsed can be read in one way only. HTTP/2's framing always can.
    pub(super) fn is_unambiguous(&self) -> bool {
        match &mut *self.framing() {
            Framing::Heads(tracker) => tracker.take_verdict() == Verdict::Clear,
            Framing::Frames(_) => true,
        }
    }

    /// Another protocol follows, without heads and without waits between requests.
    pub(super) fn upgraded(&self) {
        if let Framing::Heads(tracker) = &mut *self.framing() {
            tracker.set_opaque();
        }
        self.disarm();
        self.ends_with_connection();
    }

    fn framing(&self) -> MutexGuard<'_, Framing> {
        self.framing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn arm(&self, purpose: Purpose, after: Duration) {
        self.purpose.store(purpose as u8, Ordering::Relaxed);
        self.deadline.arm(after);
    }

    pub(super) fn disarm(&self) {
        self.purpose.store(Purpose::None as u8, Ordering::Relaxed);
        self.deadline.disarm();
    }

    /// Bytes were read from the peer.
    pub(super) fn received(&self, bytes: &[u8]) {
        let phase = {
            let mut framing = self.framing();
            framing.feed(bytes);
            framing.phase()
        };
        match (phase, self.purpose()) {
            // The deadline of a head runs from its first byte to its last, however often bytes arrive. Empty lines and
            // pings are not requests, so the wait for a request continues.
            (Phase::Head, Purpose::Head) | (Phase::Boundary, Purpose::Idle) => {}
            (Phase::Head, _) => self.arm(Purpose::Head, self.timeouts.header),
            // Still the rest of a body: hyper may stop reading it at any time.
            (Phase::Body, Purpose::Rest) => self.await_rest(),
            (_, Purpose::Head | Purpose::Idle | Purpose::Rest) => self.disarm(),
            _ => {}
        }
    }

    /// How long hyper keeps a connection that waits for a request.
    fn idle_limit(&self) -> Duration {
        if self.is_leaving() {
            return LEAVE_AFTER;
        }
        let left = self.idle_left();
        match &*self.framing() {
            Framing::Heads(_) => left.min(PARK_AFTER),
            // HTTP/2 has streams, windows and a header table to keep, so it cannot be parked.
            Framing::Frames(_) => left,
        }
    }

    /// The rest of the wait for a request, which begins now unless it has begun.
    pub(super) fn idle_left(&self) -> Duration {
        let now = clock::now_ms();
        let begun = self.idle_since_ms.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        self.timeouts.idle.saturating_sub(Duration::from_millis(now.saturating_sub(begun.err().unwrap_or(now))))
    }

    fn await_rest(&self) {
        self.arm(Purpose::Rest, if self.is_leaving() { LEAVE_AFTER } else { self.timeouts.body });
    }

    /// There is nothing to read or write: arms the deadline for what the connection waits for.
    pub(super) fn arm_for_input(&self) {
        if self.purpose() != Purpose::None {
            return;
        }
        let phase = self.framing().phase();
        match phase {
            Phase::Head => self.arm(Purpose::Head, self.timeouts.header),
            Phase::Boundary if !self.is_busy() => {
                self.arm(Purpose::Idle, self.idle_limit());
            }
            // The response came before the end of the request body, so no request waits for the rest.
            Phase::Body if !self.is_busy() => self.await_rest(),
            _ => {}
        }
    }
}

/// Follows what is read, so that the deadline and the driver know what it is part of.
#[derive(Debug)]
enum Framing {
    Heads(HeadTracker),
    Frames(FrameTracker),
}

impl Framing {
    fn feed(&mut self, bytes: &[u8]) {
        match self {
            Self::Heads(tracker) => tracker.feed(bytes),
            Self::Frames(tracker) => tracker.feed(bytes),
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
    /// The state of its connection.
    pub(super) fn state(&self) -> &State {
        &self.state
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // hyper looks for the next request while this one is served. If it found nothing, it does not read again.
        if self.state.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.state.arm_for_input();
        }
    }
}
