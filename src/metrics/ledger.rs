//! The handles of series, in tables. A handle records values of one series. The handles are created once, from the
//! metrics in [`describe`] and the labels of one configuration. The label values of a handle define its position in the
//! table.
//!
//! When a layer is built, the layer gets its tables of handles from the [`Ledger`]. Adding to a counter is then one
//! lookup and one atomic add.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use metrics::Counter;

use super::Metrics;
use super::describe::{self, Handle, Metric};
use super::labels::{Dimension, Dimensions, Labels, Lengths};
use crate::ids::{ClassId, LocaleId, ProviderId, Reason};

/// The labels of one configuration. The ledger creates the handles of the series that have these labels.
pub struct Ledger {
    metrics: &'static Metrics,
    labels: Arc<Labels>,
    providers: Vec<&'static str>,
    classes: Vec<&'static str>,
    refused: Table<(ProviderId, Reason), Counter>,
}

impl Ledger {
    pub(super) fn new(metrics: &'static Metrics, labels: &Labels) -> Self {
        Self {
            metrics,
            labels: Arc::new(labels.clone()),
            providers: ProviderId::values(labels),
            classes: ClassId::values(labels),
            refused: Table::new(labels, |values| metrics.series(&describe::REFUSED, values)),
        }
    }

    /// Returns the metrics of the process.
    pub(crate) fn metrics(&self) -> &'static Metrics {
        self.metrics
    }

    /// Creates a table with one handle for each combination of label values.
    pub(crate) fn table<D: Dimensions, H: Handle>(&self, metric: &Metric<H>) -> Table<D, H> {
        Table::new(&self.labels, |values| self.metrics.series(metric, values))
    }

    /// Creates a table with one row for each combination of label values. `make` creates a row, for example a struct of
    /// several handles.
    pub(crate) fn rows<D: Dimensions, T>(&self, make: impl FnMut(&[&'static str]) -> T) -> Table<D, T> {
        Table::new(&self.labels, make)
    }

    /// Creates counters. The series of a counter exists only after the first use of the counter.
    pub(crate) fn lazy<D: Dimensions>(&self, metric: &'static Metric<Counter>) -> LazyCounters<D> {
        let (metrics, labels) = (self.metrics, Arc::clone(&self.labels));
        LazyCounters { metrics, labels, metric, slots: Table::new(&self.labels, |_| OnceLock::new()) }
    }

    /// Returns the labels of all providers, in the order of their ids.
    pub(crate) fn providers(&self) -> impl Iterator<Item = &'static str> {
        self.providers.iter().copied()
    }

    /// Returns the label of a provider.
    pub(crate) fn provider(&self, id: ProviderId) -> &'static str {
        self.providers.get(id.index()).copied().unwrap_or("other")
    }

    /// Returns the label of a class.
    pub(crate) fn class(&self, id: ClassId) -> &'static str {
        self.classes.get(id.index()).copied().unwrap_or("other")
    }

    /// Returns the label of a locale.
    pub(crate) fn locale(&self, id: LocaleId) -> &'static str {
        self.labels.locales.get(id.position()).copied().unwrap_or("other")
    }

    pub(crate) fn refused(&self, provider: ProviderId, reason: Reason) {
        self.refused.get((provider, reason)).increment(1);
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("providers", &self.providers).finish_non_exhaustive()
    }
}

/// A table with one row `T` for each combination of label values.
pub(crate) struct Table<D, T> {
    rows: Box<[T]>,
    lengths: Lengths,
    dimensions: PhantomData<fn(D)>,
}

impl<D: Dimensions, T> Table<D, T> {
    fn new(labels: &Labels, mut make: impl FnMut(&[&'static str]) -> T) -> Self {
        let values = D::lists(labels);
        let length = |label: usize| values.get(label).map_or(1, Vec::len);
        let combinations = values.iter().map(Vec::len).product();
        let rows = (0..combinations).map(|position| make(&at(position, &values))).collect();
        Self { rows, lengths: [length(1), length(2)], dimensions: PhantomData }
    }

    /// Returns the row for these label values.
    pub(crate) fn get(&self, dimensions: D) -> &T {
        // The ids and the table come from the same configuration, so the row exists. Only an id of another
        // configuration could be too large. For such an id, the result is the first row.
        self.rows.get(dimensions.index(self.lengths)).unwrap_or_else(|| &self.rows[0])
    }
}

impl<D, T> fmt::Debug for Table<D, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("rows", &self.rows.len()).finish_non_exhaustive()
    }
}

/// Counters for combinations of label values. Most of these combinations never occur, so each counter is created on its
/// first use.
pub(crate) struct LazyCounters<D> {
    metrics: &'static Metrics,
    labels: Arc<Labels>,
    metric: &'static Metric<Counter>,
    slots: Table<D, OnceLock<Counter>>,
}

impl<D: Dimensions> LazyCounters<D> {
    /// Returns the counter for these label values.
    pub(crate) fn get(&self, dimensions: D) -> &Counter {
        self.slots.get(dimensions).get_or_init(|| {
            let position = dimensions.index(self.slots.lengths);
            self.metrics.series(self.metric, &at(position, &D::lists(&self.labels)))
        })
    }
}

impl<D> fmt::Debug for LazyCounters<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.slots.fmt(f)
    }
}

/// Returns the combination of label values at a position of a table. `values` contains the values of each label.
fn at(mut position: usize, values: &[Vec<&'static str>]) -> Vec<&'static str> {
    let mut combination: Vec<_> = values
        .iter()
        .rev()
        .map(|values| {
            let value = values[position % values.len()];
            position /= values.len();
            value
        })
        .collect();
    combination.reverse();
    combination
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Country, PageId, SourceId};

    fn ledger() -> Ledger {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        metrics.ledger(&Labels {
            providers: vec!["fastly"],
            classes: vec!["image"],
            locales: vec!["en", "fr"],
            beacon_sources: vec!["akamai"],
            rum_pages: vec!["home", "cart"],
        })
    }

    fn check(ledger: &Ledger, lines: &[&str]) {
        let text = ledger.metrics().render();
        for line in lines {
            assert!(text.lines().any(|l| l == *line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn table_when_created_then_each_combination_has_a_separate_series() {
        let ledger = ledger();
        let bytes: Table<(ProviderId, ClassId), Counter> = ledger.table(&describe::PULL_BYTES);
        for provider in 0..4 {
            for class in 0..2 {
                bytes.get((ProviderId(provider), ClassId(class))).increment(u64::from(provider * 10 + class));
            }
        }
        check(
            &ledger,
            &[
                "edgeshim_pull_bytes_total{provider=\"none\",class=\"other\"} 0",
                "edgeshim_pull_bytes_total{provider=\"none\",class=\"image\"} 1",
                "edgeshim_pull_bytes_total{provider=\"unverified\",class=\"other\"} 20",
                "edgeshim_pull_bytes_total{provider=\"fastly\",class=\"image\"} 31",
            ],
        );
    }

    #[test]
    fn lazy_counter_when_not_yet_used_then_has_no_series() {
        let ledger = ledger();
        let pages: LazyCounters<(ProviderId, LocaleId, Reason)> = ledger.lazy(&describe::WHOOPSIES);
        assert!(!ledger.metrics().render().contains("edgeshim_whoopsies_total{"));
        pages.get((ProviderId::configured(0), LocaleId(1), Reason::Loop)).increment(2);
        pages.get((ProviderId::NONE, LocaleId(0), Reason::Malformed)).increment(1);
        check(
            &ledger,
            &[
                "edgeshim_whoopsies_total{provider=\"fastly\",locale=\"fr\",cause=\"loop\"} 2",
                "edgeshim_whoopsies_total{provider=\"none\",locale=\"en\",cause=\"malformed\"} 1",
            ],
        );
        assert_eq!(ledger.metrics().render().matches("edgeshim_whoopsies_total{").count(), 2);
    }

    #[test]
    fn series_when_last_labels_have_no_value_then_omits_the_labels() {
        let ledger = ledger();
        let sources: Table<SourceId, Counter> = ledger.table(&describe::BEACONS);
        let countries: LazyCounters<(SourceId, Country)> = ledger.lazy(&describe::BEACONS);
        sources.get(SourceId::OTHER).increment(1);
        countries.get((SourceId::configured(0), Country::from_code("DE"))).increment(1);
        countries.get((SourceId::OTHER, Country::from_code("ZZ"))).increment(1);
        check(
            &ledger,
            &[
                "edgeshim_beacons_total{source=\"other\"} 1",
                "edgeshim_beacons_total{source=\"akamai\"} 0",
                "edgeshim_beacons_total{source=\"akamai\",country=\"DE\"} 1",
                "edgeshim_beacons_total{source=\"other\",country=\"other\"} 1",
            ],
        );
    }

    #[test]
    fn load_times_when_recorded_then_counted_in_buckets_for_load_times() {
        let ledger = ledger();
        let seconds: Table<(ProviderId, PageId), metrics::Histogram> = ledger.table(&describe::RUM_SECONDS);
        seconds.get((ProviderId::configured(0), PageId::configured(0))).record(1.2);
        seconds.get((ProviderId::configured(0), PageId::OTHER)).record(45.0);
        check(
            &ledger,
            &[
                "edgeshim_rum_seconds_bucket{provider=\"fastly\",page=\"home\",le=\"1\"} 0",
                "edgeshim_rum_seconds_bucket{provider=\"fastly\",page=\"home\",le=\"1.5\"} 1",
                "edgeshim_rum_seconds_sum{provider=\"fastly\",page=\"other\"} 45",
                "edgeshim_rum_seconds_count{provider=\"none\",page=\"cart\"} 0",
            ],
        );
    }

    #[test]
    fn class_id_when_too_large_for_the_table_then_counted_in_the_first_row() {
        let ledger = ledger();
        let faults: Table<ClassId, Counter> = ledger.table(&describe::ORIGIN_BYTES);
        faults.get(ClassId::configured(7)).increment(1);
        check(&ledger, &["edgeshim_origin_bytes_total{class=\"other\"} 1"]);
    }
}
