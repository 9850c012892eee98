//! Fuzzes the trackers that see each byte of a client's connection before hyper. The result must not depend on how the
//! bytes are split.
//!
//! The first byte of the input is the size of the pieces.

#![no_main]

use edgeshim::internals::trackers::{FrameTracker, HeadTracker, Verdict};
use libfuzzer_sys::fuzz_target;

/// The largest number of verdicts that are read. No input has so many heads.
const MANY: usize = 65_536;

fuzz_target!(|data: &[u8]| {
    let Some((&size, bytes)) = data.split_first() else { return };
    let size = usize::from(size).max(1);

    let (mut whole, mut parts) = (HeadTracker::new(), HeadTracker::new());
    whole.feed(bytes);
    for part in bytes.chunks(size) {
        parts.feed(part);
    }
    assert_eq!(whole.phase(), parts.phase());
    assert_eq!(clear(&mut whole), clear(&mut parts));

    let (mut whole, mut parts) = (FrameTracker::new(), FrameTracker::new());
    whole.feed(bytes);
    for part in bytes.chunks(size) {
        parts.feed(part);
    }
    assert_eq!(whole.phase(), parts.phase());
    assert_eq!(whole.is_flooded(1), parts.is_flooded(1));
});

/// Takes all clear verdicts and returns their number.
fn clear(tracker: &mut HeadTracker) -> usize {
    let count = (0..MANY).take_while(|_| tracker.take_verdict() == Verdict::Clear).count();
    assert!(count < MANY, "there are more verdicts than bytes");
    count
}
