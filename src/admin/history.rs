//! The history of the page: samples of one second for two minutes, and samples of ten seconds for an hour. The
//! history belongs to the admin listener, so a configuration swap does not reset the history.
//!
//! Memory: a sample has at most 14 KiB ([`MAX_PROVIDERS`] × [`MAX_CLASSES`]), and there are at most 481 samples. So the
//! history has at most 7 MiB, whatever the traffic is. With six providers and six classes, each including `other`, the
//! history has less than 1 MiB.

use std::collections::VecDeque;

use crate::ids::PullReason;
use crate::metrics::SECONDS;

/// The largest numbers of providers and of classes that have their own counts. Further providers and classes count as
/// `other`.
pub(super) const MAX_PROVIDERS: usize = 24;
const MAX_CLASSES: usize = 32;
/// The number of samples of one second.
const FINE: usize = 120;
/// The number of samples of ten seconds.
const COARSE: usize = 360;
/// The length of a coarse sample, in seconds.
const COARSE_SECONDS: f64 = 10.0;
/// The number of buckets of `edgeshim_pull_seconds`. The last bucket has no upper bound.
pub(super) const BUCKETS: usize = SECONDS.len() + 1;
const COLUMNS: usize = 6;
const GAUGES: usize = 3;
const REASONS: usize = PullReason::ALL.len();

/// A number that is counted for a provider or a class.
#[derive(Debug, Clone, Copy)]
pub(super) enum Column {
    Pulls,
    Bytes,
    NotModified,
    /// Pulls with a 5xx.
    Errors,
    Whoopsies,
    Beacons,
}

/// A value of a provider at one moment. NaN: the value is unknown.
#[derive(Debug, Clone, Copy)]
pub(super) enum Gauge {
    OffloadRequests,
    OffloadBytes,
    Lag,
}

/// The counts of a provider or a class.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Row<T> {
    pub counts: [T; COLUMNS],
    /// The buckets of `edgeshim_pull_seconds`. The counts are cumulative: each bucket includes the pulls of all buckets
    /// before it.
    pub buckets: [T; BUCKETS],
    pub reasons: [T; REASONS],
}

/// The counts of a provider.
#[derive(Debug, Clone, Default)]
pub(super) struct Provider<T> {
    pub row: Row<T>,
    /// For each class, the number of all pulls and the number of pulls with a 5xx.
    pub cells: Vec<[T; 2]>,
}

/// All totals since the start of the process, at one moment.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub providers: Vec<Provider<u64>>,
    pub classes: Vec<Row<u64>>,
    pub gauges: Vec<[f32; GAUGES]>,
    pub faults: u64,
}

/// The counts of an interval.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// The end of the interval, in seconds of Unix time.
    pub at: f64,
    /// The length of the interval.
    pub seconds: f64,
    pub providers: Vec<Provider<f32>>,
    pub classes: Vec<Row<f32>>,
    /// The gauges at the end of the interval.
    pub gauges: Vec<[f32; GAUGES]>,
    /// The faults of the origin.
    pub faults: f32,
}

/// The names of providers and classes. A position is never used for another name.
#[derive(Debug)]
pub(super) struct Names {
    pub providers: Vec<String>,
    pub classes: Vec<String>,
}

impl Default for Names {
    fn default() -> Self {
        Self { providers: vec!["other".to_owned()], classes: vec!["other".to_owned()] }
    }
}

impl Names {
    pub(super) fn provider(&mut self, name: &str) -> usize {
        position(&mut self.providers, name, MAX_PROVIDERS)
    }

    /// Returns the position of a provider, or the position of `other` if the name is not in the list. Does not add the
    /// name.
    pub(super) fn known_provider(&self, name: &str) -> usize {
        self.providers.iter().position(|known| known == name).unwrap_or(0)
    }

    pub(super) fn class(&mut self, name: &str) -> usize {
        position(&mut self.classes, name, MAX_CLASSES)
    }
}

/// Returns the position of a name, and adds a new name to the list. If the list is full, a new name gets the position
/// 0, which is the position of `other`.
fn position(names: &mut Vec<String>, name: &str, most: usize) -> usize {
    if let Some(position) = names.iter().position(|known| known == name) {
        return position;
    }
    if names.len() >= most {
        return 0;
    }
    names.push(name.to_owned());
    names.len() - 1
}

impl Row<u64> {
    pub(super) fn add(&mut self, column: Column, count: u64) {
        self.counts[column as usize] += count;
    }

    fn since(&self, before: &Self) -> Row<f32> {
        let mut row = Row::default();
        fill(&mut row.counts, &self.counts, &before.counts);
        fill(&mut row.buckets, &self.buckets, &before.buckets);
        fill(&mut row.reasons, &self.reasons, &before.reasons);
        row
    }
}

#[allow(clippy::cast_precision_loss, reason = "a page shows four digits")]
fn fill(to: &mut [f32], now: &[u64], before: &[u64]) {
    for ((to, now), before) in to.iter_mut().zip(now).zip(before) {
        *to = now.saturating_sub(*before) as f32;
    }
}

impl Row<f32> {
    pub(super) fn get(&self, column: Column) -> f64 {
        self.counts[column as usize].into()
    }

    fn merge(&mut self, other: &Self) {
        let pairs = self.counts.iter_mut().zip(&other.counts).chain(self.buckets.iter_mut().zip(&other.buckets));
        for (to, from) in pairs.chain(self.reasons.iter_mut().zip(&other.reasons)) {
            *to += from;
        }
    }

    /// Returns a quantile of the times of the pulls, by linear interpolation in a bucket. `None`: there are no pulls.
    /// If the quantile is above the last bound of the buckets, the result is the last bound.
    pub(super) fn quantile(&self, quantile: f64) -> Option<f64> {
        let all = f64::from(self.buckets[BUCKETS - 1]);
        if all <= 0.0 {
            return None;
        }
        let rank = quantile * all;
        let (mut below, mut from) = (0.0, 0.0);
        for (count, bound) in self.buckets.iter().zip(SECONDS) {
            let count = f64::from(*count);
            if count >= rank && count > below {
                return Some(from + (bound - from) * (rank - below) / (count - below));
            }
            (below, from) = (count, bound);
        }
        SECONDS.last().copied()
    }
}

impl<T: Copy + Default> Provider<T> {
    pub(super) fn cell(&mut self, class: usize) -> &mut [T; 2] {
        if self.cells.len() <= class {
            self.cells.resize(class + 1, Default::default());
        }
        &mut self.cells[class]
    }
}

impl Snapshot {
    pub(super) fn provider(&mut self, position: usize) -> &mut Provider<u64> {
        at(&mut self.providers, position)
    }

    pub(super) fn class(&mut self, position: usize) -> &mut Row<u64> {
        at(&mut self.classes, position)
    }

    pub(super) fn set(&mut self, provider: usize, gauge: Gauge, value: &str) {
        while self.gauges.len() <= provider {
            self.gauges.push([f32::NAN; GAUGES]);
        }
        self.gauges[provider][gauge as usize] = value.parse().unwrap_or(f32::NAN);
    }

    #[allow(clippy::cast_precision_loss, reason = "a page shows four digits")]
    fn since(&self, before: &Self, at: f64, seconds: f64) -> Sample {
        let (no_provider, no_class) = (Provider::default(), Row::default());
        let provider = |(position, now): (usize, &Provider<u64>)| {
            let before = before.providers.get(position).unwrap_or(&no_provider);
            let cell = |(class, now): (usize, &[u64; 2])| {
                let mut cell = [0.0; 2];
                fill(&mut cell, now, before.cells.get(class).unwrap_or(&[0; 2]));
                cell
            };
            Provider { row: now.row.since(&before.row), cells: now.cells.iter().enumerate().map(cell).collect() }
        };
        let class = |(position, now): (usize, &Row<u64>)| now.since(before.classes.get(position).unwrap_or(&no_class));
        Sample {
            at,
            seconds,
            providers: self.providers.iter().enumerate().map(provider).collect(),
            classes: self.classes.iter().enumerate().map(class).collect(),
            gauges: self.gauges.clone(),
            faults: self.faults.saturating_sub(before.faults) as f32,
        }
    }
}

fn at<T: Default>(list: &mut Vec<T>, position: usize) -> &mut T {
    while list.len() <= position {
        list.push(T::default());
    }
    &mut list[position]
}

impl Sample {
    /// Adds a later sample to this sample.
    fn merge(&mut self, other: &Self) {
        for (position, provider) in other.providers.iter().enumerate() {
            let own = at(&mut self.providers, position);
            own.row.merge(&provider.row);
            for (class, [pulls, errors]) in provider.cells.iter().enumerate() {
                let cell = own.cell(class);
                cell[0] += pulls;
                cell[1] += errors;
            }
        }
        for (position, class) in other.classes.iter().enumerate() {
            at(&mut self.classes, position).merge(class);
        }
        self.gauges.clone_from(&other.gauges);
        self.faults += other.faults;
        self.at = other.at;
        self.seconds += other.seconds;
    }

    /// Returns a gauge of a provider, or `None` if the value is unknown.
    pub(super) fn gauge(&self, provider: usize, gauge: Gauge) -> Option<f64> {
        let value = *self.gauges.get(provider)?.get(gauge as usize)?;
        value.is_finite().then_some(value.into())
    }

    /// Returns the sum over all providers.
    pub(super) fn total(&self) -> Row<f32> {
        let mut total = Row::default();
        self.providers.iter().for_each(|provider| total.merge(&provider.row));
        total
    }
}

/// The samples, and the totals at the newest sample.
#[derive(Debug, Default)]
pub(super) struct History {
    pub names: Names,
    fine: VecDeque<Sample>,
    coarse: VecDeque<Sample>,
    /// The sum of the fine samples since the newest coarse sample.
    partial: Sample,
    last: Option<Snapshot>,
}

impl History {
    /// Adds a fine sample, from the totals at the moment `at`. `seconds` is the time since the previous call. The first
    /// call adds no sample, because there are no earlier totals. Returns whether this call has completed a coarse
    /// sample.
    pub(super) fn push(&mut self, snapshot: Snapshot, at: f64, seconds: f64) -> bool {
        let Some(last) = self.last.replace(snapshot) else { return false };
        let Some(sample) = self.last.as_ref().map(|now| now.since(&last, at, seconds)) else { return false };
        self.partial.merge(&sample);
        bounded(&mut self.fine, sample, FINE);
        // The seconds are not exact, so ten fine samples can be slightly shorter than ten seconds. They still complete
        // a coarse sample.
        let complete = self.partial.seconds > COARSE_SECONDS - 0.5;
        if complete {
            bounded(&mut self.coarse, std::mem::take(&mut self.partial), COARSE);
        }
        complete
    }

    pub(super) fn fine(&self) -> &VecDeque<Sample> {
        &self.fine
    }

    pub(super) fn coarse(&self) -> &VecDeque<Sample> {
        &self.coarse
    }

    /// Returns the sum of the newest fine samples. The sum has at most `samples` samples.
    pub(super) fn last(&self, samples: usize) -> Sample {
        let mut sum = Sample::default();
        let skipped = self.fine.len().saturating_sub(samples);
        self.fine.iter().skip(skipped).for_each(|sample| sum.merge(sample));
        sum
    }
}

fn bounded(ring: &mut VecDeque<Sample>, sample: Sample, most: usize) {
    if ring.len() >= most {
        ring.pop_front();
    }
    ring.push_back(sample);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(pulls: u64) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for provider in 0..MAX_PROVIDERS {
            snapshot.provider(provider).row.add(Column::Pulls, pulls);
            for class in 0..MAX_CLASSES {
                snapshot.provider(provider).cell(class)[0] = pulls;
            }
        }
        for class in 0..MAX_CLASSES {
            snapshot.class(class).add(Column::Pulls, pulls);
        }
        snapshot
    }

    #[test]
    fn history_when_full_then_keeps_two_minutes_and_an_hour_in_less_than_7_mib() {
        let mut history = History::default();
        let mut time = 1e9;
        for second in 0..=4000 {
            history.push(snapshot(second * 3), time, 1.0);
            time += 1.0;
        }
        assert_eq!((history.fine().len(), history.coarse().len()), (FINE, COARSE));
        assert!(history.fine().iter().all(|sample| (sample.providers[3].row.get(Column::Pulls) - 3.0).abs() < 1e-6));
        assert!(history.coarse().iter().all(|sample| (sample.providers[3].row.get(Column::Pulls) - 30.0).abs() < 1e-6));
        assert!((history.last(10).seconds - 10.0).abs() < 1e-6);
        let bytes = |sample: &Sample| {
            let cells: usize = sample.providers.iter().map(|provider| provider.cells.capacity()).sum();
            cells * 8
                + sample.providers.capacity() * size_of::<Provider<f32>>()
                + sample.classes.capacity() * size_of::<Row<f32>>()
                + sample.gauges.capacity() * size_of::<[f32; GAUGES]>()
        };
        let all: usize = history.fine().iter().chain(history.coarse()).map(bytes).sum();
        assert!(all < 7 << 20, "{all} bytes");
    }

    #[test]
    fn names_when_too_many_then_count_as_other() {
        let mut names = Names::default();
        for number in 0..100 {
            names.provider(&format!("provider-{number}"));
            names.class(&format!("class-{number}"));
        }
        assert_eq!((names.providers.len(), names.classes.len()), (MAX_PROVIDERS, MAX_CLASSES));
        assert_eq!((names.provider("provider-0"), names.provider("provider-99")), (1, 0));
    }

    #[test]
    fn quantile_when_pulls_are_in_buckets_then_interpolated() {
        let mut row = Row::<f32>::default();
        assert_eq!(row.quantile(0.5), None);
        // Ten pulls between 1 ms and 2.5 ms, and ten between 25 ms and 50 ms.
        for (bucket, count) in row.buckets.iter_mut().enumerate() {
            *count = if bucket >= 6 {
                20.0
            } else if bucket >= 2 {
                10.0
            } else {
                0.0
            };
        }
        for (quantile, wanted) in [(0.25, 0.00175), (0.5, 0.0025), (0.75, 0.0375), (1.0, 0.05)] {
            assert!(row.quantile(quantile).is_some_and(|found| (found - wanted).abs() < 1e-9), "{quantile}");
        }
        row.buckets[BUCKETS - 1] = 1000.0;
        assert_eq!(row.quantile(0.99), Some(30.0), "a quantile above the last bound must be the last bound");
    }
}
