//! Limits how many requests are at the origin at the same time. Further requests wait in one queue, in the order of
//! arrival. If the queue is full, a new request is shed: it fails at once and does not reach the origin.
//!
//! The semaphore of the async runtime is not enough, because it has no bounded queue, does not report the length of its
//! queue, and cannot lower its limit while all permits are in use. When a permit becomes free, the limiter takes its
//! lock, assigns the permit to the first request in the queue, and then wakes the task of that request. So no later
//! request can take the permit, and one permit wakes one task. A [`Ticket`] represents a request from its arrival to
//! its end. Dropping the ticket removes the request from the queue or releases its permit. So if a request ends at the
//! moment when it gets a permit, the permit goes to the next request.
//!
//! **Cost:** a request takes the lock once when it arrives and once when its ticket is dropped, each time for a few
//! instructions. A request in the queue also takes the lock each time it is polled, and once when it has waited too
//! long. The lock is rarely contended. Tasks are woken, and wakers are dropped, after the lock is released. The queue
//! is a tree sorted by arrival number, so that a request can leave the queue without a search through all entries.

use std::collections::BTreeMap;
use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::fault::Fault;
use crate::keys::{Keys, Visitor};
use crate::metrics::Metrics;

/// The keys of `[origin]` that limit how many requests are at the origin at the same time and how many requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// The number of permits. 0 means no limit.
    pub max_in_flight: usize,
    /// The largest number of requests in the queue.
    pub max_waiting: usize,
}

impl Keys for Limits {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.integer("max_in_flight", 0..=10_000_000, &mut self.max_in_flight);
        v.integer("max_waiting", 0..=10_000_000, &mut self.max_waiting);
    }
}

/// The limiter that all workers share. A configuration swap does not replace the limiter, so requests with a ticket
/// stay counted when the limits change. A request that came while there was no limit has no ticket.
pub(crate) struct Limiter {
    metrics: &'static Metrics,
    state: Mutex<State>,
}

struct State {
    limits: Limits,
    in_flight: usize,
    /// The number of the next ticket.
    next: u64,
    /// The wakers of the queued requests, sorted by arrival number. While a request is in the queue, no permit is free.
    queue: BTreeMap<u64, Waker>,
}

/// The limiter's decision about a request.
#[derive(Debug)]
pub(crate) enum Entry {
    /// The request has a permit.
    Admitted(Ticket),
    /// The request waits in the queue for a permit.
    Queued(Ticket),
    /// The queue is full, so the request must be shed.
    Full(Fault),
}

impl Limiter {
    /// Creates a limiter that reports the length of its queue as `edgeshim_waiting`.
    pub(crate) fn new(limits: Limits, metrics: &'static Metrics) -> Self {
        let state = State { limits, in_flight: 0, next: 0, queue: BTreeMap::new() };
        Self { metrics, state: Mutex::new(state) }
    }

    /// Changes the limits. Requests keep their permits and their places in the queue. If permits are free under the new
    /// limits, the first requests in the queue get these permits at once.
    pub(crate) fn set_limits(&self, limits: Limits) {
        let granted: Vec<Waker> = {
            let mut state = self.state();
            state.limits = limits;
            iter::from_fn(|| state.grant_next()).collect()
        };
        for waker in granted {
            self.wake(waker);
        }
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Entry {
        let mut state = self.state();
        let admitted = state.has_permit();
        let waiting = state.queue.len();
        if !admitted && waiting >= state.limits.max_waiting {
            drop(state);
            return Entry::Full(self.overload(waiting));
        }
        let number = state.next;
        state.next += 1;
        let ticket = Ticket { limiter: Arc::clone(self), number };
        if admitted {
            state.in_flight += 1;
            return Entry::Admitted(ticket);
        }
        state.queue.insert(number, Waker::noop().clone());
        self.metrics.waiting.increment(1.0);
        Entry::Queued(ticket)
    }

    /// Counts a shed request and returns its fault, which contains the length of the queue.
    fn overload(&self, waiting: usize) -> Fault {
        let fault = Fault::overload(waiting);
        self.metrics.fault(&fault, None);
        fault
    }

    /// Removes a request from the queue, or releases its permit if the request is not in the queue.
    fn leave(&self, number: u64) {
        let (queued, granted) = {
            let mut state = self.state();
            let queued = state.queue.remove(&number);
            if queued.is_none() {
                state.in_flight = state.in_flight.saturating_sub(1);
            }
            (queued, state.grant_next())
        };
        if queued.is_some() {
            self.metrics.waiting.decrement(1.0);
        }
        if let Some(waker) = granted {
            self.wake(waker);
        }
    }

    fn wake(&self, waker: Waker) {
        self.metrics.waiting.decrement(1.0);
        waker.wake();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_permit(&self) -> bool {
        self.limits.max_in_flight == 0 || self.in_flight < self.limits.max_in_flight
    }

    /// Grants a permit to the first request in the queue, if a permit is free. Returns the waker of that request.
    fn grant_next(&mut self) -> Option<Waker> {
        if !self.has_permit() {
            return None;
        }
        let (_, waker) = self.queue.pop_first()?;
        self.in_flight += 1;
        Some(waker)
    }
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        let (in_flight, waiting) = (state.in_flight, state.queue.len());
        f.debug_struct("Limiter").field("in_flight", &in_flight).field("waiting", &waiting).finish_non_exhaustive()
    }
}

/// The place of one request in the queue, and later the permit of that request. Dropping the ticket gives up the place
/// or the permit.
#[derive(Debug)]
pub(crate) struct Ticket {
    limiter: Arc<Limiter>,
    number: u64,
}

impl Ticket {
    /// Returns `Ready` if the request has a permit. Otherwise the task of `cx` is woken when the request gets a permit.
    pub(crate) fn poll_permit(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.limiter.state();
        let Some(waker) = state.queue.get_mut(&self.number) else { return Poll::Ready(()) };
        if !waker.will_wake(cx.waker()) {
            let old = std::mem::replace(waker, cx.waker().clone());
            // Dropping the last waker of a task drops the task. That task can have a ticket, whose drop takes the lock.
            // So the lock is released first.
            drop(state);
            drop(old);
        }
        Poll::Pending
    }

    /// Counts this request as shed, because it waited too long. Returns the fault of the request. The fault contains
    /// the length of the queue, in which this request is still counted.
    pub(crate) fn overload(&self) -> Fault {
        let waiting = self.limiter.state().queue.len();
        self.limiter.overload(waiting)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.limiter.leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    fn limiter(max_in_flight: usize, max_waiting: usize) -> Arc<Limiter> {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        Arc::new(Limiter::new(Limits { max_in_flight, max_waiting }, metrics))
    }

    fn shown(limiter: &Limiter) -> String {
        let text = limiter.metrics.render();
        text.lines().find_map(|line| line.strip_prefix("edgeshim_waiting ")).unwrap().to_owned()
    }

    /// A waker that counts how often it was woken.
    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Bell {
        fn rung(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn polled(ticket: &Ticket, bell: &Arc<Bell>) -> bool {
        let waker = Waker::from(Arc::clone(bell));
        ticket.poll_permit(&Context::from_waker(&waker)).is_ready()
    }

    fn queued(limiter: &Arc<Limiter>) -> (Ticket, Arc<Bell>) {
        let Entry::Queued(ticket) = limiter.enter() else { panic!("the limiter did not queue the request") };
        let bell = Arc::new(Bell::default());
        assert!(!polled(&ticket, &bell));
        (ticket, bell)
    }

    /// Tries to enter. Returns the length of the queue if the queue is full.
    fn full(limiter: &Arc<Limiter>) -> Option<u32> {
        let Entry::Full(fault) = limiter.enter() else { return None };
        fault.waiting()
    }

    fn admitted(limiter: &Arc<Limiter>) -> Ticket {
        let Entry::Admitted(ticket) = limiter.enter() else { panic!("the limiter did not grant a permit") };
        ticket
    }

    #[test]
    fn permit_when_released_then_goes_to_the_first_request_in_the_queue() {
        let limiter = limiter(1, 2);
        let holder = admitted(&limiter);
        let (first, first_bell) = queued(&limiter);
        let (second, second_bell) = queued(&limiter);
        assert_eq!(full(&limiter), Some(2));
        assert_eq!(shown(&limiter), "2");
        drop(holder);
        assert_eq!((first_bell.rung(), second_bell.rung()), (1, 0), "one permit must wake exactly one task");
        assert!(matches!(limiter.enter(), Entry::Queued(_)), "a freed permit must have a new owner at once");
        assert!(polled(&first, &first_bell) && !polled(&second, &second_bell));
        drop(first);
        assert!(polled(&second, &second_bell));
        drop(second);
        assert_eq!(shown(&limiter), "0");
        drop(admitted(&limiter));
    }

    #[test]
    fn permit_when_new_owner_leaves_before_polling_then_goes_to_the_next_request() {
        let limiter = limiter(1, 3);
        let holder = admitted(&limiter);
        let [(first, _), (second, _), (third, bell)] = [queued(&limiter), queued(&limiter), queued(&limiter)];
        drop(second);
        drop(holder);
        // `first` has a permit now, but is dropped before it polls.
        drop(first);
        assert_eq!(bell.rung(), 1);
        assert!(polled(&third, &bell));
    }

    #[test]
    fn requests_when_limits_change_then_stay_counted() {
        let limiter = limiter(2, 4);
        let (one, two) = (admitted(&limiter), admitted(&limiter));
        let waits: Vec<_> = (0..4).map(|_| queued(&limiter)).collect();
        limiter.set_limits(Limits { max_in_flight: 1, max_waiting: 1 });
        assert_eq!(full(&limiter), Some(4));
        drop(one);
        assert!(waits.iter().all(|(_, bell)| bell.rung() == 0), "the request in flight must use the only permit");
        drop(two);
        assert!(polled(&waits[0].0, &waits[0].1) && !polled(&waits[1].0, &waits[1].1));
        limiter.set_limits(Limits { max_in_flight: 0, max_waiting: 0 });
        assert!(waits.iter().all(|(ticket, bell)| polled(ticket, bell)), "all requests must have a permit");
        limiter.set_limits(Limits { max_in_flight: 4, max_waiting: 0 });
        assert_eq!(full(&limiter), Some(0), "the four requests must still be counted");
        drop(waits);
        drop(admitted(&limiter));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Enter,
        /// Ends a queued or admitted request.
        Drop(prop::sample::Index),
        Poll(prop::sample::Index),
        Limit(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Enter),
            3 => any::<prop::sample::Index>().prop_map(Step::Drop),
            2 => any::<prop::sample::Index>().prop_map(Step::Poll),
            1 => (0..4_usize, 0..6_usize).prop_map(|(permits, queue)| Step::Limit(permits, queue)),
        ]
    }

    proptest! {
        /// Compares the limiter with a simple list of requests in the order of arrival. Each entry of the list has two
        /// flags: whether the request was queued, and whether it has a permit.
        #[test]
        fn limiter_when_steps_are_random_then_agrees_with_simple_list(steps in prop::collection::vec(step(), 0..120)) {
            let limiter = limiter(2, 3);
            let (mut max_in_flight, mut max_waiting) = (2, 3);
            let mut requests: Vec<(Ticket, Arc<Bell>, bool, bool)> = Vec::new();
            for step in steps {
                let inside = requests.iter().filter(|(.., inside)| *inside).count();
                let waiting = requests.len() - inside;
                match step {
                    Step::Enter => match limiter.enter() {
                        Entry::Admitted(ticket) => {
                            prop_assert!(waiting == 0 && (max_in_flight == 0 || inside < max_in_flight));
                            requests.push((ticket, Arc::default(), false, true));
                        }
                        Entry::Queued(ticket) => {
                            prop_assert!(max_in_flight != 0 && inside >= max_in_flight && waiting < max_waiting);
                            let bell = Arc::default();
                            prop_assert!(!polled(&ticket, &bell));
                            requests.push((ticket, bell, true, false));
                        }
                        Entry::Full(fault) => {
                            prop_assert!(max_in_flight != 0 && inside >= max_in_flight && waiting >= max_waiting);
                            prop_assert_eq!(fault.waiting(), u32::try_from(waiting).ok());
                        }
                    },
                    Step::Drop(index) if !requests.is_empty() => drop(requests.remove(index.index(requests.len()))),
                    Step::Poll(index) if !requests.is_empty() => {
                        let (ticket, bell, _, inside) = &requests[index.index(requests.len())];
                        prop_assert_eq!(polled(ticket, bell), *inside);
                    }
                    Step::Limit(permits, queue) => {
                        (max_in_flight, max_waiting) = (permits, queue);
                        limiter.set_limits(Limits { max_in_flight, max_waiting });
                    }
                    Step::Drop(_) | Step::Poll(_) => {}
                }
                // The list grants free permits to the first requests that have no permit.
                let mut inside = requests.iter().filter(|(.., inside)| *inside).count();
                for (.., has_permit) in requests.iter_mut().filter(|(.., has_permit)| !has_permit) {
                    if max_in_flight == 0 || inside < max_in_flight {
                        *has_permit = true;
                        inside += 1;
                    }
                }
                prop_assert_eq!(limiter.state().queue.len(), requests.len() - inside);
                prop_assert_eq!(shown(&limiter), (requests.len() - inside).to_string());
            }
            for (ticket, bell, was_queued, inside) in &requests {
                let wakes = usize::from(*was_queued && *inside);
                prop_assert_eq!(bell.rung(), wakes, "a permit must wake a waiting task exactly once");
                prop_assert_eq!(polled(ticket, bell), *inside);
            }
            drop(requests);
            prop_assert_eq!(format!("{limiter:?}"), "Limiter { in_flight: 0, waiting: 0, .. }");
        }
    }

    /// A waker for a thread that sleeps in `park`.
    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    #[test]
    fn limiter_when_many_threads_enter_then_keeps_the_limit_and_wakes_every_thread() {
        const LIMIT: usize = 3;
        let limiter = limiter(LIMIT, 8);
        let (now, most, begin) = (AtomicUsize::new(0), AtomicUsize::new(0), Barrier::new(16));
        thread::scope(|scope| {
            for seed in 0..16_u64 {
                let (limiter, now, most, begin) = (&limiter, &now, &most, &begin);
                scope.spawn(move || {
                    let mut dice = fastrand::Rng::with_seed(seed);
                    let waker = Waker::from(Arc::new(Unpark(thread::current())));
                    let cx = Context::from_waker(&waker);
                    begin.wait();
                    for _ in 0..500 {
                        let ticket = match limiter.enter() {
                            Entry::Admitted(ticket) => ticket,
                            // One in four queued requests leaves the queue early. Some of these requests leave at the
                            // moment when they get a permit.
                            Entry::Queued(ticket) if dice.u8(..4) == 0 => {
                                let _ = ticket.poll_permit(&cx);
                                thread::yield_now();
                                continue;
                            }
                            Entry::Queued(ticket) => {
                                while ticket.poll_permit(&cx).is_pending() {
                                    thread::park();
                                }
                                ticket
                            }
                            Entry::Full(_) => {
                                thread::yield_now();
                                continue;
                            }
                        };
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                        drop(ticket);
                    }
                });
            }
        });
        assert!((1..=LIMIT).contains(&most.load(Ordering::SeqCst)), "{most:?} requests had a permit at the same time");
        assert_eq!(format!("{limiter:?}"), "Limiter { in_flight: 0, waiting: 0, .. }");
    }
}
