//! Decides when a target is read again, and which troubles are reported. A trouble that lasts several rounds is not
//! reported in each round. This file uses no clock: the time since the start of the watch is an argument.

use std::collections::BTreeSet;
use std::time::Duration;

/// The time between two readings of a target if nothing happens. A person can have changed a mode meanwhile.
const READ_EVERY: Duration = Duration::from_mins(1);
/// The longest pause after a failed change. The pauses grow, because each try adds two lines to the journal. If half of
/// `watch.every` (the time between two rounds) is longer than this constant, each pause is this half.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// How many rounds in a row must have the trouble `Busy` before this trouble is reported.
const BUSY_ROUNDS: u32 = 3;

/// What prevents an act on a target, or would prevent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// A DNS service cannot be read.
    Unreadable,
    /// The target needs no act now, but each act would be refused.
    Unfit,
    /// The act that the target needs is refused. Or an edge of the target is down, all acts would be refused, and no
    /// other edge can take its clients or the weights are not known.
    Refused,
    /// The watch cannot write now: someone else changes the weights, the nodes cannot be read again, or the journal
    /// cannot be locked, read or written.
    Busy,
    /// A change failed. The report lists the nodes that could not be put back.
    Failed,
}

/// The tries to bring one target into the wanted state.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    /// The time of the next try.
    next: Duration,
    reported: BTreeSet<Trouble>,
    busy: u32,
    failed: u32,
}

impl Tries {
    /// Whether the target is read in this round.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        now >= self.next
    }

    /// Makes the target due at once, because an edge of the target has changed its state. If the edge is down now, a
    /// trouble that was reported before is reported again.
    pub(crate) fn hurry(&mut self, is_down: bool) {
        self.next = Duration::ZERO;
        if is_down {
            self.reported.clear();
        }
    }

    /// Stores that the target needs no act and has no trouble. Returns whether a trouble was reported before.
    pub(crate) fn rest(&mut self, now: Duration) -> bool {
        let had_trouble = !self.reported.is_empty();
        *self = Self { next: now.saturating_add(READ_EVERY), ..Self::default() };
        had_trouble
    }

    /// Stores that a change was made. The target is read again at once. Returns whether a trouble was reported before.
    pub(crate) fn made(&mut self) -> bool {
        let had_trouble = self.rest(Duration::ZERO);
        self.next = Duration::ZERO;
        had_trouble
    }

    /// Stores a trouble, and the time of the next try. Returns whether to report the trouble.
    pub(crate) fn hindered(&mut self, trouble: Trouble, now: Duration, every: Duration) -> bool {
        self.busy = if trouble == Trouble::Busy { self.busy.saturating_add(1) } else { 0 };
        if trouble == Trouble::Failed {
            // The first pause is half of `every`, so it is over in the next round.
            let pause = every.saturating_mul(1_u32.checked_shl(self.failed).unwrap_or(u32::MAX)) / 2;
            self.failed = self.failed.saturating_add(1);
            self.next = now.saturating_add(pause.min(LONGEST_PAUSE.max(every / 2)));
        } else {
            self.next = Duration::ZERO;
        }
        let is_too_early = trouble == Trouble::Busy && self.busy < BUSY_ROUNDS;
        !is_too_early && self.reported.insert(trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    #[test]
    fn trouble_when_lasting_many_rounds_then_start_and_end_are_reported_once() {
        let mut target = Tries::default();
        for round in 0..5_u32 {
            let now = EVERY * round;
            assert!(target.is_due(now));
            assert_eq!(target.hindered(Trouble::Unreadable, now, EVERY), round == 0);
        }
        assert!(target.hindered(Trouble::Refused, EVERY, EVERY));
        assert!(!target.hindered(Trouble::Unreadable, EVERY, EVERY), "the troubles alternate");
        target.hurry(true);
        assert!(target.hindered(Trouble::Unreadable, EVERY, EVERY), "an edge has gone down since the first report");
        assert!(target.rest(EVERY));
        assert!(!target.rest(EVERY));
    }

    #[test]
    fn change_by_someone_else_when_short_then_is_not_reported() {
        let mut target = Tries::default();
        let busy = |target: &mut Tries| target.hindered(Trouble::Busy, EVERY, EVERY);
        assert_eq!([busy(&mut target), busy(&mut target)], [false, false]);
        assert!(!target.rest(EVERY));
        assert_eq!([(); 4].map(|()| busy(&mut target)), [false, false, true, false]);
    }

    #[test]
    fn failed_write_when_repeated_then_pauses_grow_to_5_minutes() {
        let (mut target, mut now, mut tries) = (Tries::default(), Duration::ZERO, Vec::new());
        while now < Duration::from_hours(1) {
            if target.is_due(now) {
                tries.push(now.as_secs());
                target.hindered(Trouble::Failed, now, EVERY);
            }
            now += EVERY;
        }
        assert_eq!(tries[..8], [0, 10, 20, 40, 80, 160, 320, 620], "{tries:?}");
        assert!(tries.len() < 20, "{tries:?}");
        target.hurry(false);
        assert!(target.is_due(now));
    }

    #[test]
    fn target_when_nothing_happens_then_is_read_once_a_minute() {
        let mut target = Tries::default();
        target.rest(EVERY);
        assert!(!target.is_due(EVERY * 6) && target.is_due(EVERY * 7));
        assert!(!target.made(), "there was no trouble");
        assert!(target.is_due(Duration::ZERO), "a further act may follow");
    }
}
