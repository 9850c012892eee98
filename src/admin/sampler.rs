//! The sampler. Once a second, it reads the numbers of the page from the metrics, stores the numbers in the history,
//! and sends the numbers to the open pages.
//!
//! Cost: one rendering of the metrics and one pass over their text, on the thread of the admin listener.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use super::annotations::{Annotation, Annotations, Mark, now};
use super::convergence::{Shares, Shift};
use super::events::Events;
use super::history::History;
use super::outages::{Outage, Outages};
use super::scrape;
use super::summary::{self, OUTAGE_WINDOW, failing, series, subject_name};
use crate::clock;
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

/// The history, the outages and the shares of the CDNs, up to the newest sample.
struct Seen {
    history: History,
    outages: Outages,
    shares: Shares,
    /// The time of the newest sample.
    last: Instant,
    /// The runtime that was active at the newest sample.
    runtime: Arc<Runtime>,
    /// How often this runtime had read changed certificates at the newest sample.
    certificate_changes: u64,
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
        let (history, outages, shares) = Default::default();
        let certificate_changes = certificate_changes(&runtime);
        let seen = Seen { history, outages, shares, last: Instant::now(), runtime, certificate_changes };
        let annotations = Annotations::new(metrics);
        Self { slot, metrics, annotations, events: Events::default(), seen: Mutex::new(seen) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an annotation and sends the annotation to the open pages.
    pub(super) fn mark(&self, kind: Mark, text: &str, time: f64) -> Annotation {
        let annotation = self.annotations.add(kind, text, time);
        self.end_streams();
        self.events.send("annotation", &json!(annotation));
        annotation
    }

    /// Adds the annotation and the step of an announced change of the weights. `weights` has the new weight of each
    /// provider that the announcement names.
    pub(super) fn mark_share(&self, text: &str, weights: &BTreeMap<String, f64>, time: f64) -> Annotation {
        let Seen { history, shares, .. } = &mut *self.seen();
        let weights: Vec<_> = weights.iter().map(|(name, weight)| (history.names.provider(name), *weight)).collect();
        let annotation = self.mark(Mark::Share, text, time);
        shares.announce(time, &annotation.text, &weights);
        annotation
    }

    /// Ends the streams whose token or session is not valid any more, so that they get no further event.
    fn end_streams(&self) {
        let runtime = self.slot.load();
        let token = runtime.settings().admin.token.as_ref();
        self.events.check(|pass| pass.is_valid(token, clock::unix_time().as_secs()));
    }

    /// Adds the numbers of the last second to the history. Marks a configuration swap, changed certificates, the start
    /// and the end of each outage, and each shift of the shares. Sends the new numbers to the open pages.
    pub(super) fn sample(&self) {
        let text = self.metrics.render();
        let now = now();
        let mut seen = self.seen();
        if !self.slot.holds(&seen.runtime) {
            seen.runtime = self.slot.load();
            self.mark(Mark::Reload, &format!("configuration {} loaded", seen.runtime.fingerprint()), now);
            seen.certificate_changes = 0;
        }
        let changes = certificate_changes(&seen.runtime);
        if changes > seen.certificate_changes {
            seen.certificate_changes = changes;
            self.mark(Mark::Certificate, "certificates or CAs of client certificates were read again", now);
        }
        let seconds = seen.last.elapsed().as_secs_f64();
        seen.last = Instant::now();
        let Seen { history, outages, shares, .. } = &mut *seen;
        let snapshot = scrape::read(&text, &mut history.names);
        let coarse = history.push(snapshot, now, seconds);
        for outage in outages.check(history, now) {
            self.mark_outage(history, &outage);
        }
        if let Some(sample) = history.fine().back() {
            shares.push(sample);
        }
        if let Some(shift) = shares.detect() {
            self.mark_shift(history, &shift);
        }
        self.end_streams();
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

    fn mark_shift(&self, history: &History, shift: &Shift) {
        let name = history.names.providers.get(shift.provider).map_or("other", String::as_str);
        let verb = if shift.is_rise { "rises" } else { "falls" };
        let text = format!("{name}: the share of pulls {verb} from {:.0} %", shift.before * 100.0);
        self.mark(Mark::Shift, &text, shift.at);
    }

    /// Returns the data that each open page gets every second: the summary, and the new samples. `coarse` is true if
    /// there is a new sample of ten seconds.
    fn second(&self, seen: &Seen, coarse: bool, now: f64) -> Value {
        let Seen { history, outages, shares, runtime, .. } = seen;
        let settings = runtime.settings();
        let mut added = vec![series(&history.fine().iter().rev().take(1), 1, history, settings)];
        if coarse {
            added.push(series(&history.coarse().iter().rev().take(1), 10, history, settings));
        }
        json!({
            "summary": summary::summary(history, outages, shares, &self.annotations, settings, now),
            "added": added,
        })
    }

    /// Returns the body of `/api/summary`.
    pub(super) fn summary(&self) -> Value {
        let seen = self.seen();
        let Seen { history, outages, shares, runtime, .. } = &*seen;
        summary::summary(history, outages, shares, &self.annotations, runtime.settings(), now())
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

/// Returns how often a runtime has read changed certificates.
fn certificate_changes(runtime: &Runtime) -> u64 {
    runtime.tls().map_or(0, |tls| tls.changes())
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use http::{HeaderMap, HeaderValue};
    use http_body::Body as _;

    use super::super::events::EventBody;
    use super::*;
    use crate::config::Settings;
    use crate::ids::{ClassId, ProviderId};
    use crate::metrics::{Labels, Table, describe};
    use crate::operators::sessions::Sessions;
    use crate::wire::names::AUTHORIZATION;
    use crate::wire::secret::Secret;

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

    #[test]
    fn event_stream_when_token_changes_then_gets_no_further_event_and_ends() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        let runtime = |token: &str| {
            let mut settings = Settings::default();
            settings.admin.token = Some(Secret::new(token));
            Runtime::build(settings, metrics, &Arc::default()).unwrap()
        };
        let slot: &'static Slot = Box::leak(Box::new(Slot::new(runtime("first"))));
        let board = Board::new(slot, metrics);
        let sessions = Sessions::new("session").unwrap();
        let pass = |token: &str| {
            let bearer = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
            sessions.pass(&HeaderMap::from_iter([(AUTHORIZATION, bearer)]), &Secret::new(token), 0).unwrap()
        };
        let old = board.events.open(pass("first")).unwrap();
        board.mark(Mark::Note, "seen", 1.0);
        slot.swap(runtime("second"));
        let new = board.events.open(pass("second")).unwrap();
        board.mark(Mark::Note, "secret", 2.0);
        board.sample();
        let read = |mut body: EventBody| {
            let mut events = String::new();
            let mut context = Context::from_waker(Waker::noop());
            loop {
                match Pin::new(&mut body).poll_frame(&mut context) {
                    Poll::Ready(Some(Ok(frame))) => events.push_str(str::from_utf8(frame.data_ref().unwrap()).unwrap()),
                    Poll::Ready(_) => break (events, true),
                    Poll::Pending => break (events, false),
                }
            }
        };
        let (events, has_ended) = read(old);
        assert!(has_ended && events.contains("seen") && !events.contains("secret"), "{events}");
        let (events, has_ended) = read(new);
        assert!(!has_ended && events.contains("secret") && events.contains("event: second"), "{events}");
    }
}
