//! Tracks the frames of an HTTP/2 connection: whether the connection is inside a request head, for the timeout of heads
//! (RFC 9113 §4.1, RFC 9113 §6.2, RFC 9113 §6.10), and whether the client floods the connection with frames that carry
//! no part of a request (RFC 9113 §10.5).
//!
//! The tracker does not check frames. The HTTP/2 codec (h2) checks them, but the codec sees a frame only when the frame
//! is complete. So the codec cannot show that a head has begun.

use super::head_tracker::Phase;

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// The largest number of overhead frames in one window of [`FLOOD_WINDOW_MS`]. An overhead frame is any frame that
/// carries no part of a request, for example SETTINGS, PING or PRIORITY. Exception: a `WINDOW_UPDATE` frame is an
/// overhead frame only if the client has no credit for the frame. The codec handles each overhead frame and answers
/// some of them, so a flood costs CPU time that other connections need. Real clients send fewer than a hundred overhead
/// frames in a second, not counting one `RST_STREAM` for each request that they cancel.
const FLOOD_FRAMES: u32 = 10_000;
const FLOOD_WINDOW_MS: u64 = 1000;

/// The credit for `WINDOW_UPDATE` frames grows by this number with each HEADERS frame.
const CREDIT_OF_REQUEST: u32 = 2;
/// The largest credit. The credit grows by one with each byte that is written to the client. The shortest DATA frame
/// with content has ten bytes, so each such frame adds at least ten. A real client sends at most one `WINDOW_UPDATE`
/// for the stream and one for the connection after each DATA frame. Envoy allows ten
/// (`max_inbound_window_update_frames_per_data_frame_sent`). The largest credit must be enough for all bytes that the
/// sockets of both sides can buffer: up to 4 MiB on each side.
const MOST_CREDIT: u32 = 1 << 23;

/// Tracks the bytes of one connection, frame by frame.
#[derive(Clone, Debug)]
pub struct FrameTracker {
    /// The number of bytes that are still missing from the preface or from the current payload.
    left: usize,
    /// The bytes of the current frame's header that have arrived, and their number.
    head: [u8; HEAD_BYTES],
    have: usize,
    /// Whether a head has begun with HEADERS or CONTINUATION, and its last frame has not ended yet.
    in_head: bool,
    /// Whether the current frame is the last frame of the head.
    is_last: bool,
    /// The number of further `WINDOW_UPDATE` frames that will not count as overhead.
    credit: u32,
    /// The number of overhead frames since `window_ms`, which is a time of the worker's clock in milliseconds.
    overhead: u32,
    window_ms: u64,
}

impl FrameTracker {
    /// Creates a tracker that expects the first byte of a connection, which is the first byte of the preface.
    #[expect(clippy::new_without_default, reason = "`new` names the state: the start of a connection")]
    pub const fn new() -> Self {
        Self {
            left: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            have: 0,
            in_head: false,
            is_last: false,
            credit: 0,
            overhead: 0,
            window_ms: 0,
        }
    }

    /// Returns whether more than [`FLOOD_FRAMES`] overhead frames have arrived in the current window. If the result is
    /// false and the window is over, a new window begins. The caller must call this function after each call of
    /// [`feed`](Self::feed).
    pub fn is_flooded(&mut self, now_ms: u64) -> bool {
        if self.overhead > FLOOD_FRAMES {
            return true;
        }
        if now_ms.saturating_sub(self.window_ms) >= FLOOD_WINDOW_MS {
            (self.overhead, self.window_ms) = (0, now_ms);
        }
        false
    }

    /// Adds credit for `bytes` bytes that were written to the client.
    pub fn wrote(&mut self, bytes: usize) {
        self.grant(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    fn grant(&mut self, credit: u32) {
        self.credit = self.credit.saturating_add(credit).min(MOST_CREDIT);
    }

    /// Reads the next bytes of the connection. The bytes can be split at any position.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (_, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.left -= bytes.len() - rest.len();
                bytes = rest;
                self.payload_ended();
                continue;
            }
            let (part, rest) = bytes.split_at((HEAD_BYTES - self.have).min(bytes.len()));
            if let Some(room) = self.head.get_mut(self.have..self.have + part.len()) {
                room.copy_from_slice(part);
            }
            self.have += part.len();
            bytes = rest;
            if self.have == HEAD_BYTES {
                let [high, middle, low, kind, flags, ..] = self.head;
                self.have = 0;
                self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                match kind {
                    HEADERS | CONTINUATION => {
                        self.in_head = true;
                        self.is_last = flags & END_HEADERS != 0;
                        if kind == HEADERS {
                            self.grant(CREDIT_OF_REQUEST);
                        }
                    }
                    WINDOW_UPDATE if self.credit > 0 => self.credit -= 1,
                    // The codec limits the number of DATA frames that are empty, have only padding or are very short.
                    DATA => {}
                    _ => self.overhead = self.overhead.saturating_add(1),
                }
                self.payload_ended();
            }
        }
    }

    fn payload_ended(&mut self) {
        if self.left == 0 && self.is_last {
            (self.in_head, self.is_last) = (false, false);
        }
    }

    /// Returns whether the connection is inside a head after all bytes that were fed. An incomplete frame header counts
    /// as part of a head, because the frame can be a HEADERS frame.
    pub const fn phase(&self) -> Phase {
        if self.in_head || self.have > 0 { Phase::Head } else { Phase::Boundary }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0, 0, u8::try_from(payload).unwrap(), kind, flags, 0, 0, 0, 1];
        bytes.resize(HEAD_BYTES + payload, 0xff);
        bytes
    }

    #[test]
    fn overhead_frames_when_too_many_arrive_in_one_window_then_are_a_flood() {
        let all = |tracker: &mut FrameTracker, frame: &[u8], count: u32| {
            for _ in 0..count {
                tracker.feed(frame);
            }
        };
        for (kind, flags, payload) in
            [(4, 0, 6), (4, 1, 0), (6, 0, 8), (2, 0, 5), (3, 0, 4), (WINDOW_UPDATE, 0, 4), (200, 0, 3)]
        {
            let bytes = frame(kind, flags, payload);
            let mut tracker = FrameTracker::new();
            tracker.feed(&[b'p'; PREFACE_BYTES]);
            assert!(!tracker.is_flooded(5000));
            all(&mut tracker, &bytes, FLOOD_FRAMES);
            assert!(!tracker.is_flooded(5999), "kind {kind}");
            // A new window begins.
            assert!(!tracker.is_flooded(6000), "kind {kind}");
            all(&mut tracker, &bytes, FLOOD_FRAMES);
            assert!(!tracker.is_flooded(6999), "kind {kind}");
            tracker.feed(&bytes);
            assert!(tracker.is_flooded(6999) && tracker.is_flooded(9000), "kind {kind}");
        }
        for (kind, flags, payload) in [(HEADERS, 5, 3), (DATA, 0, 1)] {
            let mut tracker = FrameTracker::new();
            tracker.feed(&[b'p'; PREFACE_BYTES]);
            all(&mut tracker, &frame(kind, flags, payload), FLOOD_FRAMES + 1);
            assert!(!tracker.is_flooded(1), "kind {kind}");
        }
    }

    #[test]
    fn window_updates_when_in_proportion_to_written_bytes_then_are_no_flood() {
        let mut tracker = FrameTracker::new();
        tracker.feed(&[b'p'; PREFACE_BYTES]);
        let updates = frame(WINDOW_UPDATE, 0, 4).repeat(2);
        for _ in 0..FLOOD_FRAMES {
            // edgeshim has written a DATA frame with one byte of content.
            tracker.wrote(HEAD_BYTES + 1);
            tracker.feed(&updates);
            tracker.feed(&frame(HEADERS, 5, 3));
            tracker.feed(&updates);
        }
        assert!(!tracker.is_flooded(999));
        tracker.wrote(usize::MAX);
        // The credit is limited.
        assert_eq!(tracker.credit, MOST_CREDIT);
        tracker.credit = 1;
        for _ in 0..=FLOOD_FRAMES {
            tracker.feed(&frame(WINDOW_UPDATE, 0, 4));
        }
        assert!(!tracker.is_flooded(999));
        tracker.feed(&frame(WINDOW_UPDATE, 0, 4));
        assert!(tracker.is_flooded(999));
    }

    #[test]
    fn phase_when_inside_headers_or_continuation_frames_then_is_head() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut expected = vec![Phase::Boundary; PREFACE_BYTES];
        for (kind, flags, payload, head_ends) in [
            (4, 0, 0, true),
            (HEADERS, END_HEADERS, 5, true),
            (0, 1, 30, true),
            (HEADERS, 1, 3, false),
            (CONTINUATION, 0, 0, false),
            (CONTINUATION, END_HEADERS, 2, true),
            (HEADERS, END_HEADERS, 0, true),
            // In a PING frame, the bit of END_HEADERS has no meaning.
            (6, END_HEADERS, 8, true),
        ] {
            let is_head = matches!(kind, HEADERS | CONTINUATION);
            bytes.extend(frame(kind, flags, payload));
            expected.extend([Phase::Head; HEAD_BYTES - 1]);
            expected.extend(vec![if is_head { Phase::Head } else { Phase::Boundary }; payload + 1]);
            if head_ends {
                *expected.last_mut().unwrap() = Phase::Boundary;
            }
        }
        let mut one_by_one = FrameTracker::new();
        for (position, (byte, phase)) in bytes.iter().zip(&expected).enumerate() {
            one_by_one.feed(&[*byte]);
            assert_eq!(one_by_one.phase(), *phase, "byte {position} of {bytes:?}");
            let mut at_once = FrameTracker::new();
            at_once.feed(&bytes[..=position]);
            assert_eq!(at_once.phase(), *phase, "{} bytes in one call", position + 1);
        }
    }
}
