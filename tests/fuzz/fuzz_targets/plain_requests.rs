//! Fuzzes the parser of plain requests. If the parser accepts a head, it needs all bytes of the head and no byte after
//! the head. The tracker, which decides whether a head is ambiguous, must find the same end or refuse the head.

#![no_main]

use edgeshim::internals::plain_head_bytes;
use edgeshim::internals::trackers::{HeadTracker, Verdict};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(size) = plain_head_bytes(data) else { return };
    let (head, _) = data.split_at(size);
    assert_eq!(plain_head_bytes(head), Some(size));
    assert_eq!(plain_head_bytes(&head[..size - 1]), None);

    let (mut whole, mut cut) = (HeadTracker::new(), HeadTracker::new());
    whole.feed(head);
    cut.feed(&head[..size - 1]);
    if whole.take_verdict() == Verdict::Clear {
        assert_eq!(format!("{:?}", whole.phase()), "Boundary");
        assert_eq!(cut.take_verdict(), Verdict::Refuse, "the tracker finds an earlier end of the head");
    }
});
