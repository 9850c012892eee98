//! Tracks whether an HTTP/2 connection is inside a request head, for the timeout of heads (RFC 9113 §4.1,
//! RFC 9113 §6.2, RFC 9113 §6.10).
//!
//! The tracker does not check frames. The HTTP/2 codec (h2) checks them, but the codec sees a frame only when the frame
//! is complete. So the codec cannot tell that a head has begun.

use super::head_tracker::Phase;

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Tracks the bytes of one connection, frame by frame.
#[derive(Clone, Debug)]
pub(crate) struct FrameTracker {
    /// The number of bytes that are still missing from the preface or from the current payload.
    left: usize,
    /// The bytes of the current frame's header that have arrived, and their number.
    head: [u8; HEAD_BYTES],
    have: usize,
    /// Whether a head has begun with HEADERS and its last frame has not ended yet.
    in_head: bool,
    /// Whether the current frame is the last frame of the head.
    is_last: bool,
}

impl FrameTracker {
    /// Creates a tracker that expects the first byte of a connection, which is the first byte of the preface.
    pub(crate) const fn new() -> Self {
        Self { left: PREFACE_BYTES, head: [0; HEAD_BYTES], have: 0, in_head: false, is_last: false }
    }

    /// Reads the next bytes of the connection. The bytes can be split at any position.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
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
                if matches!(kind, HEADERS | CONTINUATION) {
                    self.in_head = true;
                    self.is_last = flags & END_HEADERS != 0;
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

    /// Returns the position after all bytes that were fed. An incomplete frame header counts as part of a head, because
    /// the frame can be a HEADERS frame.
    pub(crate) const fn phase(&self) -> Phase {
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
