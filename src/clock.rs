//! Coarse time: deadlines that cost a store to arm and nothing to keep; and turns, for work that takes long.
//!
//! A timer of the runtime's own costs some 1,600 instructions a request where a head is read with a timeout; a proxy needs its
//! timeouts to a tenth of a second. So each worker keeps a list of the deadlines made on it and looks through it ten times a
//! second ([`sweep`]). A deadline belongs to a connection, not to a request: arming it again allocates nothing.
//!
//! Cost: reading the time is a thread-local load; a sweep over 16,384 connections takes about 0.1 ms.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;
use std::time::{Duration, Instant};

use atomic_waker::AtomicWaker;

/// How often a worker sweeps, and so how late a timeout may be.
pub(crate) const TICK: Duration = Duration::from_millis(100);

thread_local! {
    static EPOCH: Instant = Instant::now();
    static TURN: Cell<u64> = const { Cell::new(1) };
    static NOW_MS: Cell<u64> = const { Cell::new(1) };
    static GIVE_WAY: Cell<fn(&mut Context<'_>)> = const { Cell::new(wake_at_once) };
    static DEADLINES: RefCell<Vec<Arc<Entry>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
struct Entry {
    /// Milliseconds of this worker's clock; 0: not armed.
    at_ms: AtomicU64,
    waker: AtomicWaker,
}

/// One deadline, armed again and again. Made on the worker that will wait for it; dropping it takes it off the worker's list at
/// the next sweep.
#[derive(Debug, Clone)]
pub(crate) struct Deadline {
    entry: Arc<Entry>,
}

impl Deadline {
    /// Not armed yet.
    pub(crate) fn new() -> Self {
        let entry = Arc::new(Entry { at_ms: AtomicU64::new(0), waker: AtomicWaker::new() });
        DEADLINES.with_borrow_mut(|all| all.push(Arc::clone(&entry)));
        Self { entry }
    }

    /// Due `after` from now, give or take a [`TICK`].
    pub(crate) fn arm(&self, after: Duration) {
        self.entry.at_ms.store(now_ms().saturating_add(millis(after)), Ordering::Relaxed);
    }

    /// Never due.
    pub(crate) fn disarm(&self) {
        self.entry.at_ms.store(0, Ordering::Relaxed);
    }

    /// Whether it is due at some time.
    pub(crate) fn is_armed(&self) -> bool {
        self.entry.at_ms.load(Ordering::Relaxed) != 0
    }

    /// Whether it is due now.
    pub(crate) fn is_due(&self) -> bool {
        let at = self.entry.at_ms.load(Ordering::Relaxed);
        at != 0 && at <= now_ms()
    }

    /// Has the task of `cx` woken when it is due, or when [`wake_all`] is called.
    pub(crate) fn watch(&self, cx: &Context<'_>) {
        self.entry.waker.register(cx.waker());
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Self::new()
    }
}

/// Milliseconds of this worker's clock, as of its last sweep; never 0.
pub(crate) fn now_ms() -> u64 {
    NOW_MS.get()
}

/// Moves this worker's clock on, wakes whoever waits for a deadline that is due, and forgets deadlines that were dropped.
pub(crate) fn sweep() {
    let now = EPOCH.with(|epoch| millis(epoch.elapsed())).max(1);
    NOW_MS.set(now);
    DEADLINES.with_borrow_mut(|all| {
        let mut position = 0;
        while let Some(entry) = all.get(position) {
            if Arc::strong_count(entry) == 1 {
                all.swap_remove(position);
                continue;
            }
            let at = entry.at_ms.load(Ordering::Relaxed);
            if at != 0 && at <= now {
                entry.waker.wake();
            }
            position += 1;
        }
        if all.capacity() > 1024 && all.len() < all.capacity() / 4 {
            all.shrink_to(all.len() * 2);
        }
    });
}

/// Wakes everybody who watches a deadline of this worker, due or not: a drain begins.
pub(crate) fn wake_all() {
    DEADLINES.with_borrow(|all| {
        for entry in all {
            entry.waker.wake();
        }
    });
}

/// Begins a turn: called when the sockets have been looked at for whoever gave way.
pub(crate) fn begin_turn() {
    TURN.set(TURN.get().wrapping_add(1));
}

/// The turn that runs on this worker. Who gave way in it rests until there is another, however often it is polled: hyper polls a body 16
/// times in a row whatever it answers, and then wakes its own task at once.
pub(crate) fn turn() -> u64 {
    TURN.get()
}

/// Ends the turn of the task of `cx`, which has to return `Pending` now: it is polled again when others have had theirs.
pub(crate) fn give_way(cx: &mut Context<'_>) {
    GIVE_WAY.get()(cx);
}

/// Says how tasks of this worker give way. A waker alone would not do: its task may run again many times before anybody looks at the
/// sockets, and only the runtime knows when that has been done.
pub(crate) fn on_give_way(how: fn(&mut Context<'_>)) {
    GIVE_WAY.set(how);
}

fn wake_at_once(cx: &mut Context<'_>) {
    begin_turn();
    cx.waker().wake_by_ref();
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_due_only_when_its_time_has_come() {
        sweep();
        let deadline = Deadline::new();
        assert!(!deadline.is_armed() && !deadline.is_due());
        deadline.arm(Duration::from_hours(1));
        assert!(deadline.is_armed() && !deadline.is_due());
        deadline.arm(Duration::ZERO);
        assert!(deadline.is_due());
        deadline.disarm();
        assert!(!deadline.is_due());
    }

    #[test]
    fn dropped_deadlines_leave_the_list() {
        let kept = Deadline::new();
        drop((0..100).map(|_| Deadline::new()).collect::<Vec<_>>());
        sweep();
        assert_eq!(DEADLINES.with_borrow(Vec::len), 1);
        drop(kept);
    }
}
