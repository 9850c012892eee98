//! Coarse time: deadlines and turns.
//!
//! A turn is the time between two polls of the sockets by a worker's runtime. A long task works for a part of one turn
//! and then yields, so that the runtime can poll the sockets and run other tasks.
//!
//! A timer of the runtime for each request head would cost about 1,600 instructions per request. The timeouts of a
//! proxy need a precision of only a tenth of a second. So each worker has a list of its deadlines and checks this list
//! ten times a second ([`sweep`]), except while the worker rests. Most deadlines belong to a connection, not to a
//! request. The connection arms its deadline again for each request, which allocates nothing.
//!
//! If no deadline was armed between two sweeps and no deadline expires before the next [`TICK`], the worker rests: the
//! next sweep comes when the earliest deadline expires, at the latest after [`LONGEST_REST`]. Arming a deadline ends
//! the rest ([`armed`]). During the rest, the worker reads the time whenever it wakes ([`woke`]), so the time is as
//! precise as between the regular sweeps.
//!
//! Outside of a rest, arming a deadline costs one atomic store. [`now_ms`] costs one thread-local load. A sweep over
//! 16,384 connections takes about 0.1 ms. The entries of dropped deadlines are used again, so the deadline of a
//! connection with one request mostly costs no allocation.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atomic_waker::AtomicWaker;

/// The time between two sweeps, unless the worker rests. A timeout can be early or late by up to this time. If the
/// worker is too busy to sweep, a timeout is later.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// The longest time from one sweep to the next sweep during a rest.
pub(crate) const LONGEST_REST: Duration = Duration::from_secs(1);
/// The largest number of entries that a worker keeps for its next deadlines.
const MOST_FREE: usize = 256;

static WORKERS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// The number of this worker.
    static WORKER: u32 = WORKERS.fetch_add(1, Ordering::Relaxed);
    static EPOCH: Instant = Instant::now();
    static TURN: Cell<u64> = const { Cell::new(1) };
    static NOW_MS: Cell<u64> = const { Cell::new(1) };
    static YIELD: Cell<fn(&mut Context<'_>)> = const { Cell::new(wake_at_once) };
    static DEADLINES: RefCell<Vec<Arc<Entry>>> = const { RefCell::new(Vec::new()) };
    /// Entries of dropped deadlines. They are still in `DEADLINES`, so the next deadlines use them without an
    /// allocation.
    static FREE: RefCell<Vec<Arc<Entry>>> = const { RefCell::new(Vec::new()) };
    static ACTIVITY: Cell<Activity> = const { Cell::new(Activity::Armed) };
    /// The waker of the task that waits in [`armed`].
    static RESTING: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// What has happened since this worker's most recent sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Nothing.
    None,
    /// A deadline was armed.
    Armed,
    /// The worker rests.
    Rest,
}

#[derive(Debug)]
struct Entry {
    /// The time at which the deadline expires, in milliseconds of the worker's clock. 0 means that the deadline is not
    /// armed.
    at_ms: AtomicU64,
    waker: AtomicWaker,
    /// The address of the data of the waker in `waker`. 0 means that `waker` is empty.
    watcher: AtomicUsize,
    /// The number of the worker that checks the deadline.
    worker: u32,
}

impl Entry {
    fn wake(&self) {
        self.watcher.store(0, Ordering::Relaxed);
        self.waker.wake();
    }
}

/// A deadline that can be armed many times. The worker that creates the deadline also checks the deadline. No other
/// thread may use the deadline, except to drop it. After all clones of the deadline are dropped, the worker keeps the
/// entry for another deadline, or its next sweep removes the entry from the list.
#[derive(Debug, Clone)]
pub(crate) struct Deadline {
    entry: Arc<Entry>,
}

impl Deadline {
    /// Creates a deadline that is not armed.
    pub(crate) fn new() -> Self {
        if let Some(entry) = FREE.with_borrow_mut(Vec::pop) {
            return Self { entry };
        }
        let worker = WORKER.with(|worker| *worker);
        let entry = Arc::new(Entry {
            at_ms: AtomicU64::new(0),
            waker: AtomicWaker::new(),
            watcher: AtomicUsize::new(0),
            worker,
        });
        DEADLINES.with_borrow_mut(|all| all.push(Arc::clone(&entry)));
        Self { entry }
    }

    /// Arms the deadline. The deadline expires after the time `after`, at most one [`TICK`] early or late.
    pub(crate) fn arm(&self, after: Duration) {
        let rests = ACTIVITY.replace(Activity::Armed) == Activity::Rest;
        // During a rest, no sweep reads the time. If the worker is busy, it does not wait for events, so `woke` does
        // not read the time either.
        let now = if rests { read_time() } else { now_ms() };
        self.entry.at_ms.store(now.saturating_add(millis(after)), Ordering::Relaxed);
        if rests && let Some(waker) = RESTING.take() {
            waker.wake();
        }
    }

    /// Disarms the deadline, so that the deadline does not expire.
    pub(crate) fn disarm(&self) {
        self.entry.at_ms.store(0, Ordering::Relaxed);
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.entry.at_ms.load(Ordering::Relaxed) != 0
    }

    /// Returns whether the deadline is armed and has expired.
    pub(crate) fn is_due(&self) -> bool {
        let at = self.entry.at_ms.load(Ordering::Relaxed);
        at != 0 && at <= now_ms()
    }

    /// Registers the task of `cx`. A sweep wakes this task when the deadline has expired. [`wake`](Self::wake) and
    /// [`wake_all`] wake the task even if the deadline has not expired.
    pub(crate) fn watch(&self, cx: &Context<'_>) {
        // A task calls this function in each of its polls, and mostly has the same waker each time. Two wakers with the
        // same data wake the same task, and the data exists as long as the entry has the waker. So the comparison
        // saves the two atomic instructions of the registration.
        // The comparison is safe because only the thread of the worker calls `watch` and `wake`. If another thread
        // called `wake` between the two lines of the registration, the next call of `watch` would not register the
        // waker again.
        let watcher = cx.waker().data().addr();
        if self.entry.watcher.load(Ordering::Relaxed) != watcher {
            self.entry.waker.register(cx.waker());
            self.entry.watcher.store(watcher, Ordering::Relaxed);
        }
    }

    /// Wakes the task that watches the deadline.
    pub(crate) fn wake(&self) {
        self.entry.wake();
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // This deadline has one reference, and the list of the worker has one. Each further reference is a clone.
        if Arc::strong_count(&self.entry) > 2 {
            return;
        }
        // If the waker stayed in the entry, it would keep the memory of its task.
        self.entry.watcher.store(0, Ordering::Relaxed);
        drop(self.entry.waker.take());
        self.disarm();
        // At the end of a thread, the list of free entries no longer exists.
        let is_own = WORKER.try_with(|worker| *worker == self.entry.worker) == Ok(true);
        if is_own {
            let _ = FREE.try_with(|free| {
                let mut free = free.borrow_mut();
                if free.len() < MOST_FREE {
                    free.push(Arc::clone(&self.entry));
                }
            });
        }
    }
}

/// Returns the Unix time: the time since the start of 1970. If the clock of the system is before 1970, the result is 0.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns the time that this worker has read most recently, in milliseconds of its clock. The worker reads the time in
/// each sweep. During a rest, it also reads the time when it wakes and when a deadline is armed. The time is never 0,
/// because 0 means "not armed".
pub(crate) fn now_ms() -> u64 {
    NOW_MS.get()
}

/// Updates this worker's clock, wakes the tasks whose deadlines have expired, and removes the entries that nothing uses
/// any more. Returns the time until the next sweep: [`TICK`], or longer if the worker can rest.
pub(crate) fn sweep() -> Duration {
    let now = read_time();
    let earliest = DEADLINES.with_borrow_mut(|all| {
        let (mut position, mut earliest) = (0, u64::MAX);
        while let Some(entry) = all.get(position) {
            if Arc::strong_count(entry) == 1 {
                all.swap_remove(position);
                continue;
            }
            let at = entry.at_ms.load(Ordering::Relaxed);
            if at != 0 {
                earliest = earliest.min(at);
                if at <= now {
                    entry.wake();
                }
            }
            position += 1;
        }
        if all.capacity() > 1024 && all.len() < all.capacity() / 4 {
            all.shrink_to(all.len() * 2);
        }
        earliest
    });
    if ACTIVITY.replace(Activity::None) == Activity::Armed {
        return TICK;
    }
    Duration::from_millis(earliest.saturating_sub(now)).clamp(TICK, LONGEST_REST)
}

/// Waits until a deadline of this worker is armed. In the meantime, the worker rests.
pub(crate) async fn armed() {
    poll_fn(|cx| {
        if ACTIVITY.get() == Activity::Armed {
            return Poll::Ready(());
        }
        ACTIVITY.set(Activity::Rest);
        RESTING.set(Some(cx.waker().clone()));
        Poll::Pending
    })
    .await;
}

/// Updates this worker's clock if the worker rests. After the thread has waited for events, the runtime must call this
/// function before it polls tasks.
pub(crate) fn woke() {
    if ACTIVITY.get() == Activity::Rest {
        read_time();
    }
}

fn read_time() -> u64 {
    let now = EPOCH.with(|epoch| millis(epoch.elapsed())).max(1);
    NOW_MS.set(now);
    now
}

/// Wakes all tasks that watch a deadline of this worker, even if the deadline has not expired. For example, each worker
/// calls this function when the drain closes the listeners, so that each connection notices the drain.
pub(crate) fn wake_all() {
    DEADLINES.with_borrow(|all| {
        for entry in all {
            entry.wake();
        }
    });
}

/// Begins a turn. The function that [`on_yield`] sets must cause this call: after the runtime has polled the sockets,
/// and before the task that yielded runs again.
pub(crate) fn begin_turn() {
    TURN.set(TURN.get().wrapping_add(1));
}

/// Returns the number of this worker's current turn. A task that yields stores this number and does no work until the
/// number changes. This is necessary because hyper can poll a body in the same turn again, after the body has returned
/// `Pending`.
pub(crate) fn turn() -> u64 {
    TURN.get()
}

/// Makes the task of `cx` wait for the next turn. The task must return `Pending` immediately. The runtime polls the
/// task again after it has run other tasks and polled the sockets.
pub(crate) fn yield_turn(cx: &mut Context<'_>) {
    YIELD.get()(cx);
}

/// Sets `how`, the function with which tasks of this worker yield. A function that only wakes the task is not enough:
/// the task could then run many times before the runtime polls the sockets.
pub(crate) fn on_yield(how: fn(&mut Context<'_>)) {
    YIELD.set(how);
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
    fn deadline_when_armed_and_its_time_has_passed_then_is_due() {
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
    fn worker_when_no_deadline_was_armed_then_rests_until_the_earliest_deadline() {
        let (first, second) = (Deadline::new(), Deadline::new());
        assert_eq!(sweep(), TICK);
        assert_eq!(sweep(), LONGEST_REST);
        first.arm(Duration::from_millis(600));
        second.arm(Duration::from_hours(1));
        assert_eq!(sweep(), TICK);
        let rest = sweep();
        assert!(rest > Duration::from_millis(300) && rest <= Duration::from_millis(600), "{rest:?}");
        first.arm(Duration::ZERO);
        assert_eq!((sweep(), sweep()), (TICK, TICK), "the deadline has expired and is still armed");
    }

    struct Count(AtomicU64);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn rest_when_deadline_is_armed_then_ends() {
        let count = Arc::new(Count(AtomicU64::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let cx = &mut Context::from_waker(&waker);
        let deadline = Deadline::new();
        let _ = (sweep(), sweep());
        let mut rest = std::pin::pin!(armed());
        assert!(rest.as_mut().poll(cx).is_pending());
        NOW_MS.set(0);
        woke();
        assert!(now_ms() > 0, "the worker must read the time when it wakes from a rest");
        deadline.arm(Duration::from_hours(1));
        deadline.arm(Duration::from_hours(1));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(rest.poll(cx).is_ready());
        NOW_MS.set(0);
        woke();
        assert_eq!(now_ms(), 0, "between the regular sweeps, the worker must not read the time");
        assert_eq!(sweep(), TICK);
    }

    #[test]
    fn deadline_when_watched_again_then_wakes_the_task_that_watched_most_recently() {
        let counts = [Arc::new(Count(AtomicU64::new(0))), Arc::new(Count(AtomicU64::new(0)))];
        let wakers = counts.each_ref().map(|count| Waker::from(Arc::clone(count)));
        let deadline = Deadline::new();
        // In each step, `tasks` watch the deadline. Then the deadline is woken, and `woken` has the totals of wakes.
        for (tasks, woken) in [(&[0, 0][..], [1, 0]), (&[0], [2, 0]), (&[], [2, 0]), (&[0, 1], [2, 1]), (&[1], [2, 2])]
        {
            for task in tasks {
                deadline.watch(&Context::from_waker(&wakers[*task]));
            }
            deadline.wake();
            assert_eq!(counts.each_ref().map(|count| count.0.load(Ordering::Relaxed)), woken, "{tasks:?}");
        }
    }

    #[test]
    fn deadline_when_dropped_then_entry_is_used_again_or_removed() {
        let remaining = Deadline::new();
        drop((0..2 * MOST_FREE).map(|_| Deadline::new()).collect::<Vec<_>>());
        sweep();
        assert_eq!(DEADLINES.with_borrow(Vec::len), 1 + MOST_FREE);
        let next = Deadline::new();
        assert!(!next.is_armed());
        assert_eq!(DEADLINES.with_borrow(Vec::len), 1 + MOST_FREE, "an entry that is free was not used");
        drop(remaining);
    }

    #[test]
    fn deadline_when_dropped_then_releases_its_task_at_once() {
        let deadline = Deadline::new();
        let task = Arc::new(Count(AtomicU64::new(0)));
        deadline.watch(&Context::from_waker(&Waker::from(Arc::clone(&task))));
        let clone = deadline.clone();
        drop(deadline);
        assert_eq!(Arc::strong_count(&task), 2);
        drop(clone);
        assert_eq!(Arc::strong_count(&task), 1);
    }

    #[test]
    fn deadline_when_dropped_on_another_thread_then_entry_is_not_used_there() {
        let deadline = Deadline::new();
        std::thread::spawn(move || {
            drop(deadline);
            let _own = Deadline::new();
            assert_eq!(DEADLINES.with_borrow(Vec::len), 1);
        })
        .join()
        .unwrap();
        sweep();
        assert_eq!(DEADLINES.with_borrow(Vec::len), 0);
    }

    #[test]
    fn deadline_when_armed_during_a_rest_then_counts_from_the_current_time() {
        let waker = Waker::from(Arc::new(Count(AtomicU64::new(0))));
        let deadline = Deadline::new();
        let _ = (sweep(), sweep());
        assert!(std::pin::pin!(armed()).poll(&mut Context::from_waker(&waker)).is_pending());
        let before = now_ms();
        let (begun, after) = (Instant::now(), Duration::from_millis(20));
        while begun.elapsed() < after {
            std::hint::spin_loop();
        }
        deadline.arm(after);
        let armed_for = deadline.entry.at_ms.load(Ordering::Relaxed) - before;
        assert!(armed_for >= 2 * millis(after) - 1, "the deadline expires {armed_for} ms after the last sweep");
    }
}
