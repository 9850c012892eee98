//! Once a second, reads the numbers of the page from the metrics, stores the numbers in the history, and sends the
//! numbers to the open pages.
//!
//! Cost: one rendering of the metrics and one pass over its text, on the thread of the admin listener.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use super::annotations::{Annotation, Annotations, Mark, now};
use super::events::Events;
use super::history::History;
use super::outages::{Outage, Outages};
use super::scrape;
use super::summary::{self, OUTAGE_WINDOW, failing, series, subject_name};
use crate::metrics::Metrics;
use crate::runtime::{Runtime, Slot};

/// The data that the page shows. It exists until the process ends, so a configuration swap does not reset the data.
pub(super) struct Board {
    slot: &'static Slot,
    metrics: &'static Metrics,
    pub annotations: Annotations,
    pub events: Events,
    seen: Mutex<Seen>,
}

/// The history up to the last sample.
struct Seen {
    history: History,
    outages: Outages,
    /// The time of the last sample.
    last: Instant,
    /// The runtime that was active at the last sample.
    runtime: Arc<Runtime>,
}

/// The time range of a part of the history, up to now.
#[derive(Debug, Clone, Copy)]
pub(super) enum Range {
    TwoMinutes,
    QuarterHour,
    Hour,
}

impl Board {
    pub(super) fn new(slot: &'static Slot, metrics: &'static Metrics) -> Self {
        let runtime = slot.load();
        let seen = Seen { history: History::default(), outages: Outages::default(), last: Instant::now(), runtime };
        let annotations = Annotations::new(metrics);
        Self { slot, metrics, annotations, events: Events::default(), seen: Mutex::new(seen) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an annotation and sends the annotation to the open pages.
    pub(super) fn mark(&self, kind: Mark, text: &str, time: f64) -> Annotation {
        let annotation = self.annotations.add(kind, text, time);
        self.events.send("annotation", &json!(annotation));
        annotation
    }

    /// Adds the numbers of the last second to the history. Marks a configuration swap, and the start and the end of
    /// each outage.
    pub(super) fn sample(&self) {
        let text = self.metrics.render();
        let now = now();
        let mut seen = self.seen();
        if !self.slot.holds(&seen.runtime) {
            seen.runtime = self.slot.load();
            self.mark(Mark::Reload, &format!("configuration {} loaded", seen.runtime.fingerprint()), now);
        }
        let seconds = seen.last.elapsed().as_secs_f64();
        seen.last = Instant::now();
        let Seen { history, outages, .. } = &mut *seen;
        let snapshot = scrape::read(&text, &mut history.names);
        let coarse = history.push(snapshot, now, seconds);
        for outage in outages.check(history, now) {
            self.mark_outage(history, &outage);
        }
        if self.events.has_readers() {
            self.events.send("second", &self.second(&seen, coarse, now));
        }
    }

    fn mark_outage(&self, history: &History, outage: &Outage) {
        let name = subject_name(outage.subject, history);
        let what = if name == "origin" { "faults" } else { "5xx" };
        if let Some(ended) = outage.ended {
            let text = format!("{name}: {what} ended after {:.0} s", ended - outage.began);
            self.mark(Mark::Recovery, &text, ended);
        } else {
            let window = history.last(OUTAGE_WINDOW);
            let classes = failing(&window, history, outage.subject);
            let names: Vec<_> = classes.iter().filter_map(|class| class["name"].as_str()).collect();
            let classes = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
            self.mark(Mark::Outage, &format!("{name}: {what} above 5 % of pulls{classes}"), outage.began);
        }
    }

    /// Returns the data that each open page gets every second: the summary, and the new samples. `coarse` is true if
    /// there is a new sample of ten seconds.
    fn second(&self, seen: &Seen, coarse: bool, now: f64) -> Value {
        let Seen { history, outages, runtime, .. } = seen;
        let settings = runtime.settings();
        let mut added = vec![series(&history.fine().iter().rev().take(1), 1, history, settings)];
        if coarse {
            added.push(series(&history.coarse().iter().rev().take(1), 10, history, settings));
        }
        json!({
            "summary": summary::summary(history, outages, &self.annotations, settings, now),
            "added": added,
        })
    }

    /// Returns the body of `/api/summary`.
    pub(super) fn summary(&self) -> Value {
        let seen = self.seen();
        summary::summary(&seen.history, &seen.outages, &self.annotations, seen.runtime.settings(), now())
    }

    /// Returns the body of `/api/series`.
    pub(super) fn series(&self, range: Range) -> Value {
        let seen = self.seen();
        let (history, settings) = (&seen.history, seen.runtime.settings());
        let newest = |count: usize| history.coarse().len().saturating_sub(count);
        match range {
            Range::TwoMinutes => series(&history.fine().iter(), 1, history, settings),
            Range::QuarterHour => series(&history.coarse().iter().skip(newest(90)), 10, history, settings),
            Range::Hour => series(&history.coarse().iter(), 10, history, settings),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::ids::{ClassId, ProviderId};
    use crate::metrics::{Labels, Table, describe};

    #[test]
    fn history_when_configuration_is_swapped_then_kept_and_swap_is_marked() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        let runtime = |hops| {
            let mut settings = Settings::default();
            settings.observe.max_hops = hops;
            Runtime::build(settings, metrics, &Arc::default()).unwrap()
        };
        let slot: &'static Slot = Box::leak(Box::new(Slot::new(runtime(5))));
        let board = Board::new(slot, metrics);
        let bytes: Table<(ProviderId, ClassId), ::metrics::Counter> =
            metrics.ledger(&Labels::default()).table(&describe::PULL_BYTES);
        board.sample();
        for step in 0..6 {
            if step == 3 {
                slot.swap(runtime(6));
            }
            bytes.get((ProviderId::NONE, ClassId::OTHER)).increment(100);
            board.sample();
        }
        let seen = board.seen();
        let none = seen.history.names.known_provider("none");
        let counted = seen.history.fine().iter().map(|sample| sample.providers[none].row.counts[1]);
        assert_eq!(counted.collect::<Vec<_>>(), [100.0; 6]);
        let marks: Vec<_> = board.annotations.all().into_iter().map(|one| one.kind).collect();
        assert_eq!(marks, [Mark::Reload], "the swap must be marked once");
    }
}
