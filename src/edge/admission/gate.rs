//! The gate before the origin: so many may be inside, and who comes beyond that stands in one line, first come, first served.
//!
//! It is a structure of its own because a runtime's semaphore keeps no bounded line, tells nobody how long the line is, and cannot be
//! given another limit while it is held. A place that gets free is handed to the first in line under the lock, before that one even
//! wakes: nobody who comes later can take it, and one task is woken for one place. One guard, the [`Ticket`], stands for a request from
//! its arrival to its end, and dropping it is the only way out, whether of the line or of a place. So a place that is handed to somebody
//! who leaves at that moment goes on to the next, and none gets lost.
//!
//! Cost: one uncontended lock on the way in and one on the way out, each held for a few instructions; wakers are woken, and dropped,
//! outside of it. The line is a tree by number of arrival, so that leaving from its middle costs no search and leaves no hole.

use std::collections::BTreeMap;
use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::fault::Fault;
use crate::keys::{Keys, Visitor};
use crate::metrics::Metrics;

/// Keys of `[origin]`: how many requests the origin gets at once, and how many wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GateLimits {
    /// Inside at once; 0 = no limit.
    pub max_in_flight: usize,
    /// In line at once.
    pub max_waiting: usize,
}

impl Keys for GateLimits {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.integer("max_in_flight", 0..=10_000_000, &mut self.max_in_flight);
        v.integer("max_waiting", 0..=10_000_000, &mut self.max_waiting);
    }
}

/// One gate for all workers. It outlives every configuration: what is inside stays counted when the limits change.
pub(crate) struct Gate {
    metrics: &'static Metrics,
    line: Mutex<Line>,
}

struct Line {
    limits: GateLimits,
    in_flight: usize,
    /// The next ticket's number.
    next: u64,
    /// Who waits, by number of arrival, each with what wakes it. While anybody waits there is no free place.
    waiting: BTreeMap<u64, Waker>,
}

/// What became of a request that came to the gate.
#[derive(Debug)]
pub(crate) enum Entered {
    /// It has a place.
    Inside(Ticket),
    /// It stands in line; its place comes to it.
    InLine(Ticket),
    /// The line is full.
    Full(Fault),
}

impl Gate {
    /// Nobody is inside. Counts who waits in `edgeshim_waiting`.
    pub(crate) fn new(limits: GateLimits, metrics: &'static Metrics) -> Self {
        let line = Line { limits, in_flight: 0, next: 0, waiting: BTreeMap::new() };
        Self { metrics, line: Mutex::new(line) }
    }

    /// Puts other limits in force. Who is inside or in line stays there; places that this makes are handed out at once.
    pub(crate) fn limit(&self, limits: GateLimits) {
        let called: Vec<Waker> = {
            let mut line = self.line();
            line.limits = limits;
            iter::from_fn(|| line.call_next()).collect()
        };
        for waker in called {
            self.call(waker);
        }
    }

    /// A place, a number in line, or neither.
    pub(crate) fn enter(self: &Arc<Self>) -> Entered {
        let mut line = self.line();
        let inside = line.has_place();
        let waiting = line.waiting.len();
        if !inside && waiting >= line.limits.max_waiting {
            drop(line);
            return Entered::Full(self.overload(waiting));
        }
        let number = line.next;
        line.next += 1;
        let ticket = Ticket { gate: Arc::clone(self), number };
        if inside {
            line.in_flight += 1;
            return Entered::Inside(ticket);
        }
        line.waiting.insert(number, Waker::noop().clone());
        self.metrics.waiting.increment(1.0);
        Entered::InLine(ticket)
    }

    /// Counts a request that is shed, and says how many are in line then.
    fn overload(&self, waiting: usize) -> Fault {
        let fault = Fault::overload(waiting);
        self.metrics.fault(&fault, None);
        fault
    }

    /// Out of the line or out of a place, whichever it is by now.
    fn leave(&self, number: u64) {
        let (left, called) = {
            let mut line = self.line();
            let left = line.waiting.remove(&number);
            if left.is_none() {
                line.in_flight = line.in_flight.saturating_sub(1);
            }
            (left, line.call_next())
        };
        if left.is_some() {
            self.metrics.waiting.decrement(1.0);
        }
        if let Some(waker) = called {
            self.call(waker);
        }
    }

    fn call(&self, waker: Waker) {
        self.metrics.waiting.decrement(1.0);
        waker.wake();
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn has_place(&self) -> bool {
        self.limits.max_in_flight == 0 || self.in_flight < self.limits.max_in_flight
    }

    /// Hands a free place to the first in line, if there are both.
    fn call_next(&mut self) -> Option<Waker> {
        if !self.has_place() {
            return None;
        }
        let (_, waker) = self.waiting.pop_first()?;
        self.in_flight += 1;
        Some(waker)
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = self.line();
        let (in_flight, waiting) = (line.in_flight, line.waiting.len());
        f.debug_struct("Gate").field("in_flight", &in_flight).field("waiting", &waiting).finish_non_exhaustive()
    }
}

/// One request's stay, in line and inside; dropping it ends the stay.
#[derive(Debug)]
pub(crate) struct Ticket {
    gate: Arc<Gate>,
    number: u64,
}

impl Ticket {
    /// Ready when it has a place; until then the task of `cx` is woken when one has been handed to it.
    pub(crate) fn poll_place(&self, cx: &Context<'_>) -> Poll<()> {
        let mut line = self.gate.line();
        let Some(waker) = line.waiting.get_mut(&self.number) else { return Poll::Ready(()) };
        if !waker.will_wake(cx.waker()) {
            let old = std::mem::replace(waker, cx.waker().clone());
            // Dropping the last waker of a task drops the task, and with it maybe a ticket.
            drop(line);
            drop(old);
        }
        Poll::Pending
    }

    /// What a request is told that has waited for too long; its own place in line is counted along.
    pub(crate) fn overload(&self) -> Fault {
        let waiting = self.gate.line().waiting.len();
        self.gate.overload(waiting)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.leave(self.number);
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

    fn gate(max_in_flight: usize, max_waiting: usize) -> Arc<Gate> {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        Arc::new(Gate::new(GateLimits { max_in_flight, max_waiting }, metrics))
    }

    fn shown(gate: &Gate) -> String {
        let text = gate.metrics.render();
        text.lines().find_map(|line| line.strip_prefix("edgeshim_waiting ")).unwrap().to_owned()
    }

    /// Counts how often it was woken.
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
        ticket.poll_place(&Context::from_waker(&waker)).is_ready()
    }

    fn in_line(gate: &Arc<Gate>) -> (Ticket, Arc<Bell>) {
        let Entered::InLine(ticket) = gate.enter() else { panic!("not in line") };
        let bell = Arc::new(Bell::default());
        assert!(!polled(&ticket, &bell));
        (ticket, bell)
    }

    /// How many are in line, where there is no room for more.
    fn full(gate: &Arc<Gate>) -> Option<u32> {
        let Entered::Full(fault) = gate.enter() else { return None };
        fault.waiting()
    }

    fn inside(gate: &Arc<Gate>) -> Ticket {
        let Entered::Inside(ticket) = gate.enter() else { panic!("no place") };
        ticket
    }

    #[test]
    fn place_when_freed_then_goes_to_the_first_in_line_and_to_nobody_who_comes_later() {
        let gate = gate(1, 2);
        let holder = inside(&gate);
        let (first, first_bell) = in_line(&gate);
        let (second, second_bell) = in_line(&gate);
        assert_eq!(full(&gate), Some(2));
        assert_eq!(shown(&gate), "2");
        drop(holder);
        assert_eq!((first_bell.rung(), second_bell.rung()), (1, 0), "one place wakes one");
        assert!(matches!(gate.enter(), Entered::InLine(_)), "the place is taken before its owner has woken");
        assert!(polled(&first, &first_bell) && !polled(&second, &second_bell));
        drop(first);
        assert!(polled(&second, &second_bell));
        drop(second);
        assert_eq!(shown(&gate), "0");
        drop(inside(&gate));
    }

    #[test]
    fn place_when_its_new_owner_leaves_at_that_moment_then_goes_on_to_the_next() {
        let gate = gate(1, 3);
        let holder = inside(&gate);
        let [(first, _), (second, _), (third, bell)] = [in_line(&gate), in_line(&gate), in_line(&gate)];
        drop(second);
        drop(holder);
        // `first` has a place now and never asks for it.
        drop(first);
        assert_eq!(bell.rung(), 1);
        assert!(polled(&third, &bell));
    }

    #[test]
    fn limits_when_they_change_then_nobody_is_forgotten() {
        let gate = gate(2, 4);
        let (one, two) = (inside(&gate), inside(&gate));
        let waits: Vec<_> = (0..4).map(|_| in_line(&gate)).collect();
        gate.limit(GateLimits { max_in_flight: 1, max_waiting: 1 });
        assert_eq!(full(&gate), Some(4));
        drop(one);
        assert!(waits.iter().all(|(_, bell)| bell.rung() == 0), "one is still inside, and no more may be");
        drop(two);
        assert!(polled(&waits[0].0, &waits[0].1) && !polled(&waits[1].0, &waits[1].1));
        gate.limit(GateLimits { max_in_flight: 0, max_waiting: 0 });
        assert!(waits.iter().all(|(ticket, bell)| polled(ticket, bell)), "no limit: all of them");
        gate.limit(GateLimits { max_in_flight: 4, max_waiting: 0 });
        assert_eq!(full(&gate), Some(0), "the four are still counted");
        drop(waits);
        drop(inside(&gate));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Enter,
        /// Ends one that is there, wherever it stands.
        Drop(prop::sample::Index),
        Poll(prop::sample::Index),
        Limit(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Enter),
            3 => any::<prop::sample::Index>().prop_map(Step::Drop),
            2 => any::<prop::sample::Index>().prop_map(Step::Poll),
            1 => (0..4_usize, 0..6_usize).prop_map(|(inside, line)| Step::Limit(inside, line)),
        ]
    }

    proptest! {
        /// Against a model that is too simple to be wrong: a list in order of arrival, each with whether it had to stand in line and
        /// whether it has a place.
        #[test]
        fn any_sequence_keeps_the_limit_the_order_and_everybody(steps in prop::collection::vec(step(), 0..120)) {
            let gate = gate(2, 3);
            let (mut max_in_flight, mut max_waiting) = (2, 3);
            let mut there: Vec<(Ticket, Arc<Bell>, bool, bool)> = Vec::new();
            for step in steps {
                let inside = there.iter().filter(|(.., inside)| *inside).count();
                let waiting = there.len() - inside;
                match step {
                    Step::Enter => match gate.enter() {
                        Entered::Inside(ticket) => {
                            prop_assert!(waiting == 0 && (max_in_flight == 0 || inside < max_in_flight));
                            there.push((ticket, Arc::default(), false, true));
                        }
                        Entered::InLine(ticket) => {
                            prop_assert!(max_in_flight != 0 && inside >= max_in_flight && waiting < max_waiting);
                            let bell = Arc::default();
                            prop_assert!(!polled(&ticket, &bell));
                            there.push((ticket, bell, true, false));
                        }
                        Entered::Full(told) => {
                            prop_assert!(max_in_flight != 0 && inside >= max_in_flight && waiting >= max_waiting);
                            prop_assert_eq!(told.waiting(), u32::try_from(waiting).ok());
                        }
                    },
                    Step::Drop(index) if !there.is_empty() => drop(there.remove(index.index(there.len()))),
                    Step::Poll(index) if !there.is_empty() => {
                        let (ticket, bell, _, inside) = &there[index.index(there.len())];
                        prop_assert_eq!(polled(ticket, bell), *inside);
                    }
                    Step::Limit(inside, line) => {
                        (max_in_flight, max_waiting) = (inside, line);
                        gate.limit(GateLimits { max_in_flight, max_waiting });
                    }
                    Step::Drop(_) | Step::Poll(_) => {}
                }
                // The model's own hand-over: free places go to the first without one.
                let mut inside = there.iter().filter(|(.., inside)| *inside).count();
                for (.., has_place) in there.iter_mut().filter(|(.., has_place)| !has_place) {
                    if max_in_flight == 0 || inside < max_in_flight {
                        *has_place = true;
                        inside += 1;
                    }
                }
                prop_assert_eq!(gate.line().waiting.len(), there.len() - inside);
                prop_assert_eq!(shown(&gate), (there.len() - inside).to_string());
            }
            for (ticket, bell, stood, inside) in &there {
                prop_assert_eq!(bell.rung(), usize::from(*stood && *inside), "woken once, with the place");
                prop_assert_eq!(polled(ticket, bell), *inside);
            }
            drop(there);
            prop_assert_eq!(format!("{gate:?}"), "Gate { in_flight: 0, waiting: 0, .. }");
        }
    }

    /// Wakes a thread that sleeps in `park`.
    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    #[test]
    fn threads_when_they_crowd_the_gate_then_never_more_inside_than_may_be_and_none_sleeps_for_ever() {
        const LIMIT: usize = 3;
        let gate = gate(LIMIT, 8);
        let (now, most, begin) = (AtomicUsize::new(0), AtomicUsize::new(0), Barrier::new(16));
        thread::scope(|scope| {
            for seed in 0..16_u64 {
                let (gate, now, most, begin) = (&gate, &now, &most, &begin);
                scope.spawn(move || {
                    let mut dice = fastrand::Rng::with_seed(seed);
                    let waker = Waker::from(Arc::new(Unpark(thread::current())));
                    let cx = Context::from_waker(&waker);
                    begin.wait();
                    for _ in 0..500 {
                        let ticket = match gate.enter() {
                            Entered::Inside(ticket) => ticket,
                            // Some leave the line before their turn, and maybe just as it comes.
                            Entered::InLine(ticket) if dice.u8(..4) == 0 => {
                                let _ = ticket.poll_place(&cx);
                                thread::yield_now();
                                continue;
                            }
                            Entered::InLine(ticket) => {
                                while ticket.poll_place(&cx).is_pending() {
                                    thread::park();
                                }
                                ticket
                            }
                            Entered::Full(_) => {
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
        assert!((1..=LIMIT).contains(&most.load(Ordering::SeqCst)), "{most:?}");
        assert_eq!(format!("{gate:?}"), "Gate { in_flight: 0, waiting: 0, .. }");
    }
}
