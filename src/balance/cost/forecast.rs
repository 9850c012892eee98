//! The forecast of the traffic of a month. A part of the month has no samples: the days to come, and gaps. The forecast
//! fills this part with the traffic of the last complete days. If no day is complete, the traffic of all samples fills
//! this part.
//!
//! For the expected traffic, the last complete days, at most seven, together fill the part. If seven days follow each
//! other, each day of the week counts once. The range has two ends. For the low end, one of these days fills the part:
//! the day that results in the least traffic. For the high end, the day that results in the most traffic fills the
//! part. The two days are chosen for each number separately: bytes, requests, pulls, bytes of pulls and the 95th
//! percentile.

use std::collections::BTreeMap;

use super::month::{DAY_SECONDS, Month, SLOT_SECONDS};
use super::samples::{Series, Volume};

/// The largest number of days that fill the part without samples.
const DAYS: usize = 7;
/// A day is complete if at least this percentage of the day has samples.
const COMPLETE_PERCENT: u64 = 95;
const SLOTS_OF_DAY: u32 = 288;

/// The traffic of a month as the meters count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub volume: Volume,
    /// The bytes of the slot at the 95th percentile.
    pub p95: u128,
}

impl Usage {
    fn with(self, other: Self, apply: impl Fn(u128, u128) -> u128) -> Self {
        Self { p95: apply(self.p95, other.p95), volume: self.volume.with(other.volume, &apply) }
    }
}

/// Traffic that fills a time without samples.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filling {
    volume: Volume,
    /// The length of the time with this traffic, in seconds.
    covered: u64,
    /// The bytes of each slot.
    slots: Vec<u128>,
}

impl Filling {
    fn plus(mut self, other: &Self) -> Self {
        self.volume = self.volume.plus(other.volume);
        self.covered += other.covered;
        self.slots.extend(&other.slots);
        self
    }

    /// Returns the part `weight / sum` of this traffic, in the same time.
    pub(crate) fn share(&self, weight: u128, sum: u128) -> Self {
        let part = |bytes: &u128| bytes.saturating_mul(weight).checked_div(sum).unwrap_or(0);
        Self {
            volume: self.volume.scaled(weight, sum),
            covered: self.covered,
            slots: self.slots.iter().map(part).collect(),
        }
    }
}

/// The known part of a month, and the days that fill the rest.
#[derive(Debug)]
pub(crate) struct Outlook {
    month: Month,
    known: Volume,
    slots: Vec<u128>,
    /// The length of the period of a sample, in seconds. `None`: all samples are in one slot.
    pub step: Option<u64>,
    /// The time with samples, in seconds.
    pub covered: u64,
    /// The Unix times of the start of the first sample and of the end of the last sample.
    pub from: u64,
    pub to: u64,
    /// The last complete days, at most seven.
    days: Vec<Filling>,
    /// All samples.
    all: Filling,
}

/// The traffic at the end of the month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forecast {
    pub expected: Usage,
    /// The least and the most. `None`: a part of the month has no samples, and fewer than two days are complete.
    pub range: Option<(Usage, Usage)>,
}

impl Outlook {
    /// Computes the outlook of a month from the samples of a CDN. Returns `None` if there are no samples, because the
    /// traffic is unknown then.
    pub(crate) fn new(series: &Series, month: Month) -> Option<Self> {
        let (first, last) = (*series.0.keys().next()?, *series.0.keys().next_back()?);
        let step = series.step();
        let slots_of_month = u32::try_from(month.seconds() / SLOT_SECONDS).unwrap_or(0);
        let slots_of_step = step.and_then(|step| u32::try_from(step / SLOT_SECONDS).ok()).unwrap_or(1);
        let mut days: BTreeMap<u32, Filling> = BTreeMap::new();
        let ends = series.0.keys().skip(1).copied().chain([slots_of_month]);
        let mut last_covered = 0;
        for ((slot, volume), next) in series.0.iter().zip(ends) {
            last_covered = u64::from(slots_of_step.min(next - slot)) * SLOT_SECONDS;
            let day = days.entry(slot / SLOTS_OF_DAY).or_default();
            *day = std::mem::take(day).plus(&Filling {
                volume: *volume,
                covered: last_covered,
                slots: vec![volume.bytes],
            });
        }
        let all = days.values().fold(Filling::default(), Filling::plus);
        let is_complete = |day: &Filling| day.covered * 100 >= DAY_SECONDS * COMPLETE_PERCENT;
        let complete: Vec<Filling> = days.into_values().filter(is_complete).collect();
        Some(Self {
            month,
            known: all.volume,
            slots: all.slots.clone(),
            step,
            covered: all.covered,
            from: month.start() + u64::from(first) * SLOT_SECONDS,
            to: month.start() + u64::from(last) * SLOT_SECONDS + last_covered,
            days: complete.iter().skip(complete.len().saturating_sub(DAYS)).cloned().collect(),
            all,
        })
    }

    /// Returns the time without samples, in seconds.
    pub(crate) fn missing(&self) -> u64 {
        self.month.seconds().saturating_sub(self.covered)
    }

    /// Returns the number of complete days that fill the rest.
    pub(crate) fn days(&self) -> usize {
        self.days.len()
    }

    /// Returns the traffic of the samples. Slots without samples are left out. They do not count as slots with 0 bytes.
    pub(crate) fn so_far(&self) -> Usage {
        Usage { volume: self.known, p95: percentile(&self.slots, &[], 0) }
    }

    /// Returns the traffic of the month, if `filling` continues in the time without samples.
    pub(crate) fn filled(&self, filling: &Filling) -> Usage {
        let missing = self.missing();
        let added = filling.volume.scaled(missing.into(), filling.covered.into());
        Usage {
            volume: self.known.plus(added),
            p95: percentile(&self.slots, &filling.slots, (missing / SLOT_SECONDS).into()),
        }
    }

    /// Returns the traffic of the last complete days, or of all samples if no day is complete.
    pub(crate) fn filling(&self) -> Filling {
        if self.days.is_empty() { self.all.clone() } else { self.days.iter().fold(Filling::default(), Filling::plus) }
    }

    /// Returns the forecast of the traffic of the whole month. `None`: all samples are in one slot, so the length of
    /// the period of a sample is unknown.
    pub(crate) fn forecast(&self) -> Option<Forecast> {
        self.step?;
        if self.missing() == 0 {
            let known = self.so_far();
            return Some(Forecast { expected: known, range: Some((known, known)) });
        }
        let expected = self.filled(&self.filling());
        let mut ends = self.days.iter().map(|day| self.filled(day));
        let first = ends.next().filter(|_| self.days.len() > 1);
        let range = first.map(|first| {
            ends.fold((first, first), |(low, high), usage| (low.with(usage, u128::min), high.with(usage, u128::max)))
        });
        Some(Forecast { expected, range })
    }
}

/// Returns the 95th percentile of the slots of a month: the largest slot that remains after the top 5 % of the slots
/// are dropped. The number of dropped slots is rounded down. `missing` is the number of slots without samples. These
/// slots have the distribution of `filling`.
fn percentile(known: &[u128], filling: &[u128], missing: u128) -> u128 {
    // A known slot has the weight 1. The weight of each slot of the filling is the number of missing slots, divided by
    // the length of the filling. All weights are multiplied by this length, so that they are whole numbers.
    let missing = if filling.is_empty() { 0 } else { missing };
    let each = filling.len().max(1) as u128;
    let dropped = (known.len() as u128 + missing) / 20 * each;
    let weighted = known.iter().map(|bytes| (*bytes, each)).chain(filling.iter().map(|bytes| (*bytes, missing)));
    let mut weighted: Vec<(u128, u128)> = weighted.collect();
    weighted.sort_unstable_by(|one, other| other.cmp(one));
    let mut passed = 0;
    let found = weighted.into_iter().find(|(_, weight)| {
        passed += weight;
        passed > dropped
    });
    found.map_or(0, |(bytes, _)| bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOVEMBER_SLOTS: u32 = 30 * SLOTS_OF_DAY;

    fn november() -> Month {
        Month::parse("2026-11").expect("a month")
    }

    fn series(slots: impl IntoIterator<Item = (u32, u128)>) -> Series {
        let volume = |bytes| Volume { bytes, requests: bytes / 10, ..Volume::default() };
        Series(slots.into_iter().map(|(slot, bytes)| (slot, volume(bytes))).collect())
    }

    fn outlook(slots: impl IntoIterator<Item = (u32, u128)>) -> Outlook {
        Outlook::new(&series(slots), november()).expect("there are samples")
    }

    #[test]
    fn p95_when_month_is_complete_then_432_of_8640_slots_are_dropped() {
        // The slots have 0, 1, 2, … 8639 bytes. The top 5 % are 432 slots, 8208 to 8639.
        let full = outlook((0..NOVEMBER_SLOTS).map(|slot| (slot, u128::from(slot))));
        assert_eq!(full.so_far().p95, 8207);
        let forecast = full.forecast().expect("a forecast");
        assert_eq!((forecast.expected, forecast.range), (full.so_far(), Some((full.so_far(), full.so_far()))));
    }

    #[test]
    fn p95_when_fewer_than_20_slots_are_known_then_is_the_largest_slot() {
        assert_eq!(percentile(&[], &[], 0), 0);
        assert_eq!(percentile(&[7], &[], 0), 7);
        assert_eq!(percentile(&(0..19).collect::<Vec<_>>(), &[], 0), 18);
        assert_eq!(percentile(&(0..20).collect::<Vec<_>>(), &[], 0), 18, "one of 20 slots is dropped");
        assert_eq!(percentile(&(0..39).collect::<Vec<_>>(), &[], 0), 37, "5 % of 39 are rounded down to 1");
    }

    #[test]
    fn p95_when_slots_are_missing_then_only_known_slots_are_used() {
        // 5 of the 100 known slots are dropped. If the missing slots counted as slots without traffic, all 100 known
        // slots would be dropped.
        let gaps = outlook((0..100).map(|slot| (slot * 7, 1_000 + u128::from(slot))));
        assert_eq!(gaps.so_far().p95, 1_094);
    }

    #[test]
    fn forecast_when_days_are_equal_then_continues_the_traffic_and_range_has_one_value() {
        let even = outlook((0..10 * SLOTS_OF_DAY).map(|slot| (slot, 1_000)));
        assert_eq!(even.so_far().volume.bytes, 2_880_000);
        let forecast = even.forecast().expect("a forecast");
        // 8640 slots of 1000 bytes.
        assert_eq!((forecast.expected.volume.bytes, forecast.expected.p95), (8_640_000, 1_000));
        assert_eq!(forecast.range, Some((forecast.expected, forecast.expected)));
        assert_eq!((even.missing(), even.to - even.from), (20 * DAY_SECONDS, 10 * DAY_SECONDS));
    }

    #[test]
    fn forecast_when_days_differ_then_range_comes_from_the_last_seven_complete_days() {
        // Day 0 has 100,000 bytes in each slot. Days 1 to 7 have 1000, 2000, … 7000 bytes. Day 8 has half its slots.
        let bytes = |slot: u32| match slot / SLOTS_OF_DAY {
            0 => 100_000,
            day => u128::from(day) * 1_000,
        };
        let outlook = outlook((0..8 * SLOTS_OF_DAY + 144).map(|slot| (slot, bytes(slot))));
        assert_eq!(outlook.days(), 7);
        // Known: 288 * 100,000 + 288 * 28,000 + 144 * 8,000 = 28,800,000 + 8,064,000 + 1,152,000 = 38,016,000.
        let known = 38_016_000;
        assert_eq!(outlook.so_far().volume.bytes, known);
        let forecast = outlook.forecast().expect("a forecast");
        // 21.5 days are missing: 6192 slots, of 4000 bytes on average, at least 1000 and at most 7000.
        assert_eq!(forecast.expected.volume.bytes, known + 6_192 * 4_000);
        let (low, high) = forecast.range.expect("a range");
        assert_eq!((low.volume.bytes, high.volume.bytes), (known + 6_192 * 1_000, known + 6_192 * 7_000));
        // 432 slots are dropped: 288 of 100,000 bytes, and 144 of 8000 bytes. Then come slots of 7000 bytes.
        assert_eq!((low.p95, forecast.expected.p95, high.p95), (7_000, 7_000, 7_000));
    }

    #[test]
    fn forecast_when_fewer_than_two_days_are_complete_then_has_no_range() {
        let hours = outlook((0..36).map(|slot| (slot, 1_000)));
        let forecast = hours.forecast().expect("a forecast");
        assert_eq!((forecast.expected.volume.bytes, forecast.range), (8_640_000, None));
        let one_day = outlook((0..SLOTS_OF_DAY + 10).map(|slot| (slot, 1_000)));
        assert_eq!((one_day.days(), one_day.forecast().expect("a forecast").range), (1, None));
        assert_eq!(outlook([(5, 1_000)]).forecast(), None, "one sample has no step");
        assert!(Outlook::new(&Series::default(), november()).is_none());
    }

    #[test]
    fn forecast_when_samples_are_hourly_or_daily_then_each_sample_covers_one_step() {
        for (distance, count) in [(12, 24 * 10), (SLOTS_OF_DAY, 10)] {
            let sparse = outlook((0..count).map(|at| (at * distance, 1_000)));
            assert_eq!(sparse.missing(), 20 * DAY_SECONDS, "distance {distance}");
            let forecast = sparse.forecast().expect("a forecast");
            assert_eq!(forecast.expected.volume.bytes, u128::from(count) * 3_000, "distance {distance}");
            assert_eq!(forecast.range, Some((forecast.expected, forecast.expected)), "distance {distance}");
        }
    }

    #[test]
    fn forecast_when_start_of_month_is_missing_then_gap_is_filled_too() {
        let late = outlook((20 * SLOTS_OF_DAY..NOVEMBER_SLOTS).map(|slot| (slot, 1_000)));
        assert_eq!(late.missing(), 20 * DAY_SECONDS);
        assert_eq!(late.forecast().expect("a forecast").expected.volume.bytes, 8_640_000);
    }

    #[test]
    fn february_when_year_is_a_leap_year_then_forecast_has_one_more_day() {
        for (text, days) in [("2024-02", 29), ("2025-02", 28)] {
            let month = Month::parse(text).expect("a month");
            let slots = (0..3 * SLOTS_OF_DAY).map(|slot| (slot, 1_000));
            let outlook = Outlook::new(&series(slots), month).expect("there are samples");
            let bytes = outlook.forecast().expect("a forecast").expected.volume.bytes;
            assert_eq!(bytes, days * 288_000, "{text}");
        }
    }

    proptest! {
        #[test]
        fn p95_when_slots_are_arbitrary_then_equals_p95_of_the_sorted_slots(
            known in prop::collection::vec(0..1_000_u128, 1..300),
        ) {
            let mut sorted = known.clone();
            sorted.sort_unstable();
            let dropped = known.len() * 5 / 100;
            prop_assert_eq!(percentile(&known, &[], 0), sorted[known.len() - 1 - dropped]);
        }

        #[test]
        fn p95_when_missing_slots_are_filled_then_equals_p95_with_copies_of_the_filling(
            known in prop::collection::vec(0..1_000_u128, 0..100),
            filling in prop::collection::vec(0..1_000_u128, 1..30), copies in 0..20_usize,
        ) {
            let mut sorted = known.clone();
            sorted.extend(filling.iter().cycle().take(filling.len() * copies));
            sorted.sort_unstable();
            let missing = (filling.len() * copies) as u128;
            let expected = if sorted.is_empty() { 0 } else { sorted[sorted.len() - 1 - sorted.len() / 20] };
            prop_assert_eq!(percentile(&known, &filling, missing), expected);
        }

        #[test]
        fn forecast_when_days_are_arbitrary_then_is_within_the_range_and_not_below_the_samples(
            bytes in prop::collection::vec(0..1_000_000_u128, 2..12), hole in 0..288_u32,
        ) {
            let count = u32::try_from(bytes.len()).unwrap_or(0) * SLOTS_OF_DAY;
            let slots = (0..count).filter(|slot| *slot != hole);
            let bytes_of = |slot: u32| bytes[(slot / SLOTS_OF_DAY) as usize] + u128::from(slot % 7);
            let outlook = outlook(slots.map(|slot| (slot, bytes_of(slot))));
            let forecast = outlook.forecast().expect("a forecast");
            let (low, high) = forecast.range.expect("two days are complete");
            let inside = |low: u128, value: u128, high: u128| low <= value && value <= high;
            prop_assert!(inside(low.p95, forecast.expected.p95, high.p95));
            prop_assert!(inside(low.volume.bytes, forecast.expected.volume.bytes, high.volume.bytes));
            prop_assert!(inside(low.volume.requests, forecast.expected.volume.requests, high.volume.requests));
            prop_assert!(outlook.so_far().volume.bytes <= low.volume.bytes);
        }
    }
}
