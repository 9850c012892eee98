//! Native histograms of Prometheus for the two latency metrics. The protobuf format has the native buckets beside the
//! classic buckets.
//!
//! The exporter crate supports native histograms only with its protobuf feature, which needs `protoc` on every build
//! machine, and only in place of the classic buckets. So [`NativeHistograms`] adds separate buckets to the exporter's
//! histograms.
//!
//! The buckets are those of schema 3: each bound is 2^(1/8) times the previous bound, which is 9 % more. The buckets
//! cover times from 15 µs to 18 hours, so a series needs 2 KiB.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Histogram, HistogramFn, Key, Label};

pub(super) const SCHEMA: i32 = 3;
/// Values up to 2^-16 seconds are counted in the zero bucket.
pub(super) const ZERO_THRESHOLD: f64 = 1.0 / 65536.0;
/// In Prometheus, the bucket with the index 0 has the upper bound 1. `OFFSET` is the position of this bucket in
/// `Buckets`.
const OFFSET: i32 = 16 << SCHEMA;
/// One zero bucket, and eight buckets for each power of two up to 2^16 seconds. The last bucket also counts all larger
/// values.
const LENGTH: usize = 1 + (32 << SCHEMA);

const MANTISSA: u64 = (1 << (f64::MANTISSA_DIGITS - 1)) - 1;
/// The mantissas of the bounds within a power of two: 2^(0/8), 2^(1/8), …, 2^(7/8).
const BOUNDS: [u64; 1 << SCHEMA] = [
    1.0_f64.to_bits() & MANTISSA,
    1.090_507_732_665_257_7_f64.to_bits() & MANTISSA,
    1.189_207_115_002_721_f64.to_bits() & MANTISSA,
    1.296_839_554_651_009_6_f64.to_bits() & MANTISSA,
    std::f64::consts::SQRT_2.to_bits() & MANTISSA,
    1.542_210_825_407_940_7_f64.to_bits() & MANTISSA,
    1.681_792_830_507_429_f64.to_bits() & MANTISSA,
    1.834_008_086_409_342_4_f64.to_bits() & MANTISSA,
];

/// The native histograms of the series of two metrics.
#[derive(Debug)]
pub(crate) struct NativeHistograms {
    metrics: [&'static str; 2],
    series: Mutex<HashMap<Key, Arc<Buckets>>>,
}

impl NativeHistograms {
    /// Creates the store. Only the series of these metrics get native histograms.
    pub(super) fn of(metrics: [&'static str; 2]) -> Self {
        Self { metrics, series: Mutex::default() }
    }

    /// Returns a handle that records into the classic buckets and into the native histogram of the series, if the
    /// metric has one.
    pub(super) fn add(&self, key: &Key, classic: Histogram) -> Histogram {
        if !self.metrics.contains(&key.name()) {
            return classic;
        }
        let native = Arc::clone(self.series().entry(key.clone()).or_default());
        Histogram::from_arc(Arc::new(Both { native, classic }))
    }

    /// Returns the counts of a series, or `None` if the series has no native histogram.
    pub(super) fn counts(&self, metric: &str, labels: Vec<Label>) -> Option<Counts> {
        self.series().get(&Key::from_parts(metric.to_owned(), labels)).map(|buckets| buckets.counts())
    }

    fn series(&self) -> MutexGuard<'_, HashMap<Key, Arc<Buckets>>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records into the native and the classic buckets.
struct Both {
    native: Arc<Buckets>,
    classic: Histogram,
}

impl HistogramFn for Both {
    fn record(&self, value: f64) {
        // A scrape reads the classic buckets first. So the classic buckets in a scrape never have more values than the
        // native buckets.
        self.native.record(value);
        self.classic.record(value);
    }
}

/// The buckets of one series. The first bucket is the zero bucket.
#[derive(Debug)]
struct Buckets([AtomicU64; LENGTH]);

impl Default for Buckets {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; LENGTH])
    }
}

impl Buckets {
    fn record(&self, value: f64) {
        if let Some(bucket) = self.0.get(position(value)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        let (mut previous, mut end) = (0, 0);
        for (index, bucket) in (-OFFSET..).zip(&self.0) {
            let count = bucket.load(Ordering::Relaxed);
            counts.total += count;
            if index == -OFFSET {
                counts.zero = count;
            } else if count > 0 {
                match counts.spans.last_mut() {
                    Some((_, length)) if index == end => *length += 1,
                    _ => counts.spans.push((index - end, 1)),
                }
                counts.deltas.push(count.cast_signed() - previous);
                (previous, end) = (count.cast_signed(), index + 1);
            }
        }
        counts
    }
}

/// The counts of one series, in the form that the protobuf format needs.
#[derive(Default, Debug, PartialEq)]
pub(super) struct Counts {
    pub(super) total: u64,
    pub(super) zero: u64,
    /// Runs of buckets that are not empty. Each entry has the distance from the previous run, or from bucket 0 for the
    /// first run, and the length of the run.
    pub(super) spans: Vec<(i32, u32)>,
    /// The count of each bucket in a run, as the difference from the previous bucket's count.
    pub(super) deltas: Vec<i64>,
}

/// Returns the position of the bucket of a value. The exponent of a floating-point number is its power of two, so the
/// function needs no logarithm.
fn position(value: f64) -> usize {
    if value.is_nan() || value <= ZERO_THRESHOLD {
        return 0;
    }
    let (exponent, mantissa) = (value.to_bits() >> (f64::MANTISSA_DIGITS - 1), value.to_bits() & MANTISSA);
    let part = BOUNDS.iter().filter(|bound| **bound < mantissa).count();
    // The exponent of 2^-16, the smallest value here, is stored as 1023 - 16.
    let octave = usize::try_from(exponent).map_or(0, |exponent| exponent.saturating_sub(1023 - 16));
    ((octave << SCHEMA) + part).min(LENGTH - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The upper bound of the bucket at a position, by the definition of Prometheus.
    fn upper_bound(position: usize) -> f64 {
        2_f64.powf((f64::from(u32::try_from(position).unwrap()) - f64::from(OFFSET)) / 8.0)
    }

    #[test]
    fn value_when_recorded_then_is_in_the_bucket_that_prometheus_expects() {
        for step in 0..40_000 {
            let value = 1e-5 * 1.0006_f64.powi(step);
            let found = position(value);
            if found < LENGTH - 1 {
                assert!(value <= upper_bound(found) * (1.0 + 1e-15), "{value} is above bucket {found}");
            }
            assert!(found == 0 || value > upper_bound(found - 1) * (1.0 - 1e-15), "{value} is below bucket {found}");
        }
        for power in -15..=16 {
            let value = 2_f64.powi(power);
            let at = usize::try_from((power << SCHEMA) + OFFSET).unwrap();
            assert_eq!((position(value), position(value.next_up())), (at, (at + 1).min(LENGTH - 1)), "2^{power}");
        }
    }

    #[test]
    fn value_when_outside_the_buckets_then_is_in_the_first_or_last_bucket() {
        for value in [0.0, -1.0, f64::NEG_INFINITY, f64::NAN, f64::MIN_POSITIVE, 5e-324, ZERO_THRESHOLD] {
            assert_eq!(position(value), 0, "{value}");
        }
        assert_eq!(position(ZERO_THRESHOLD.next_up()), 1);
        for value in [65_537.0, f64::MAX, f64::INFINITY] {
            assert_eq!(position(value), LENGTH - 1, "{value}");
        }
    }

    #[test]
    fn counts_when_buckets_have_gaps_then_spans_and_deltas_describe_the_buckets() {
        let buckets = Buckets::default();
        assert_eq!(buckets.counts(), Counts::default());
        // 0.5 is in bucket -8, 1.0 in bucket 0, 1.05 in bucket 1.
        for (value, times) in [(0.0, 2), (0.5, 3), (1.0, 7), (1.05, 1)] {
            (0..times).for_each(|_| buckets.record(value));
        }
        let expected = Counts { total: 13, zero: 2, spans: vec![(-8, 1), (7, 2)], deltas: vec![3, 4, -6] };
        assert_eq!(buckets.counts(), expected);
    }
}
