//! The metrics of pulls.

use std::sync::{Arc, OnceLock};

use metrics::{Counter, Gauge, Histogram};

use crate::edge::request::objects::Objects;
use crate::edge::request::top::TopList;
use crate::ids::{ClassId, ProviderId, PullKind, PullReason, intern, label};
use crate::metrics::offload::Book;
use crate::metrics::{Ledger, Table, describe};

label! {
    /// The kind of the origin's response to a conditional pull: the label `result` of `edgeshim_revalidations_total`.
    pub(super) enum Revalidation {
        /// The origin responded with 304.
        NotModified = "not_modified",
        /// The origin responded with a 2xx status.
        Modified = "modified",
    }
}

/// The metrics of the layer.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) ledger: Arc<Ledger>,
    pub(super) rows: Table<(ProviderId, ClassId), Row>,
    pub(super) revalidations: Table<(ProviderId, ClassId, Revalidation), Counter>,
    pub(super) in_flight: Table<ProviderId, Gauge>,
    pub(super) origin_seconds: Table<ClassId, Histogram>,
    pub(super) origin_bytes: Table<ClassId, Counter>,
    pub(super) shields: Counter,
    pub(super) probes: Counter,
    pub(super) retries: Counter,
    pub(super) reasons: Table<(ProviderId, PullReason), Counter>,
    pub(super) objects: Arc<Objects>,
    pub(super) top: Arc<TopList>,
    /// The hashes of the providers' names, by which `objects` distinguishes the providers.
    pub(super) providers: Table<ProviderId, u64>,
}

/// The metrics of all pulls of one provider and one class.
pub(super) struct Row {
    pub(super) bytes: Counter,
    pub(super) seconds: Histogram,
    pub(super) ok: Counter,
    pub(super) codes: Codes,
    /// The totals of the provider's pulls, and of the requests at its edge as its logs report them. The offload is
    /// calculated from these totals.
    pub(super) book: Arc<Book>,
}

/// The counters for the statuses 100 to 599, except for 200, which has [`Row::ok`]. A counter is created when its
/// status first occurs.
type Codes = [OnceLock<Box<[OnceLock<Counter>; 100]>>; 5];

impl Counts {
    pub(super) fn new(ledger: Arc<Ledger>, objects: Arc<Objects>, top: Arc<TopList>) -> Self {
        let metrics = ledger.metrics();
        let row = |values: &[&'static str]| Row {
            bytes: metrics.series(&describe::PULL_BYTES, values),
            seconds: metrics.series(&describe::PULL_SECONDS, values),
            ok: metrics.series(&describe::PULLS, &[values, &["200"]].concat()),
            codes: [const { OnceLock::new() }; 5],
            book: metrics.offload.book(values.first().copied().unwrap_or("other")),
        };
        Self {
            rows: ledger.rows(row),
            revalidations: ledger.table(&describe::REVALIDATIONS),
            in_flight: ledger.table(&describe::IN_FLIGHT),
            origin_seconds: ledger.table(&describe::ORIGIN_SECONDS),
            origin_bytes: ledger.table(&describe::ORIGIN_BYTES),
            shields: metrics.series(&describe::SHIELD_PULLS, &[]),
            probes: metrics.series(&describe::PROBE_PULLS, &[]),
            retries: metrics.series(&describe::RETRY_PULLS, &[]),
            reasons: ledger.table(&describe::PULL_REASONS),
            providers: ledger.rows(|names| objects.provider(names.first().copied().unwrap_or_default())),
            objects,
            top,
            ledger,
        }
    }

    /// Counts the pull in the metric for its kind, if there is a metric for this kind.
    pub(super) fn kind(&self, kind: PullKind) {
        match kind {
            PullKind::Unknown | PullKind::Edge => {}
            PullKind::Shield => self.shields.increment(1),
            PullKind::Probe => self.probes.increment(1),
            PullKind::Retry => self.retries.increment(1),
        }
    }

    /// Counts a pull under the status `code`. Does nothing if the status is below 100 or above 599.
    pub(super) fn code(&self, row: &Row, provider: ProviderId, class: ClassId, code: u16) {
        let (hundred, rest) = (usize::from(code / 100), usize::from(code % 100));
        let Some(slot) = hundred.checked_sub(1).and_then(|hundred| row.codes.get(hundred)) else { return };
        let counters = slot.get_or_init(|| Box::new([const { OnceLock::new() }; 100]));
        let ledger = &self.ledger;
        let make = || {
            let values = [ledger.provider(provider), ledger.class(class), intern(&code.to_string())];
            ledger.metrics().series(&describe::PULLS, &values)
        };
        if let Some(counter) = counters.get(rest) {
            counter.get_or_init(make).increment(1);
        }
    }
}
