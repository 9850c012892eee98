//! Computes whether a change of shares moves the forecast of a CDN across its commit, or across the end of a tier.
//!
//! The samples have the traffic of each CDN, not of each target. So the computation assumes that all traffic has the
//! shares of the changed target.

use std::collections::BTreeMap;

use super::bill::unusable;
use super::forecast::Outlook;
use super::samples::{Samples, Series, Volume};
use super::tariff::Tariff;

/// Returns a sentence for each CDN whose forecast for the month of the samples crosses its commit or the end of a tier
/// because of the change. If a forecast is unknown, a sentence says why. `before` and `after` have the CDNs that are
/// served before and after the change, with their weights.
pub(crate) fn crossings(
    tariffs: &[Tariff],
    samples: &Samples,
    before: &BTreeMap<&str, u32>,
    after: &BTreeMap<&str, u32>,
) -> Vec<String> {
    let sum = |weights: &BTreeMap<&str, u32>| weights.values().copied().map(u128::from).sum::<u128>();
    let part = |weights: &BTreeMap<&str, u32>, name: &str| weights.get(name).copied().map_or(0, u128::from);
    let moved = |tariff: &&Tariff| {
        let name = tariff.provider.as_str();
        part(before, name) * sum(after) != part(after, name) * sum(before)
    };
    let moved: Vec<&Tariff> = tariffs.iter().filter(moved).collect();
    if moved.is_empty() || sum(before) == 0 || sum(after) == 0 {
        return Vec::new();
    }
    let unknown: Vec<&str> = before.keys().copied().filter(|name| !samples.providers.contains_key(*name)).collect();
    if !unknown.is_empty() {
        return vec![format!(
            "whether this change crosses a commit or a tier is unknown, because {} {} no samples of {}",
            unknown.join(", "),
            if unknown.len() == 1 { "has" } else { "have" },
            samples.month
        )];
    }
    let total = total(samples, before);
    let Some(all) = Outlook::new(&total, samples.month).filter(|all| all.step.is_some()) else {
        return vec![format!(
            "whether this change crosses a commit or a tier is unknown, because there are fewer than two periods \
             of {} for which all served CDNs have samples",
            samples.month
        )];
    };
    let filling = all.filling();
    // A CDN that is not served and has no samples had no traffic.
    let none = Series(total.0.keys().map(|slot| (*slot, Volume::default())).collect());
    let mut texts = Vec::new();
    for tariff in moved {
        let series = samples.providers.get(&tariff.provider).unwrap_or(&none);
        let Some(own) = Outlook::new(series, samples.month) else { continue };
        if let Some(reason) = unusable(tariff, &all).or_else(|| unusable(tariff, &own)) {
            texts.push(reason);
            continue;
        }
        let usage = |weights| own.filled(&filling.share(part(weights, &tariff.provider), sum(weights)));
        let (old, new) = (usage(before), usage(after));
        texts.extend(crossed(tariff, samples, tariff.quantity(&old), tariff.quantity(&new)).map(|text| {
            let bill = |usage| tariff.charges_of(usage).total();
            format!("{text}; the forecast of its bill changes from {} to {}", bill(&old), bill(&new))
        }));
    }
    texts
}

/// Returns the traffic of all CDNs that are served, in the slots in which all of them have samples.
fn total(samples: &Samples, served: &BTreeMap<&str, u32>) -> Series {
    let series: Vec<&Series> = served.keys().filter_map(|name| samples.providers.get(*name)).collect();
    let Some((first, others)) = series.split_first() else { return Series::default() };
    let sum = |(slot, volume): (&u32, &Volume)| {
        let sum = others.iter().try_fold(*volume, |sum, series| Some(sum.plus(*series.0.get(slot)?)))?;
        Some((*slot, sum))
    };
    Series(first.0.iter().filter_map(sum).collect())
}

/// Returns a sentence that names the commit and the ends of tiers between two quantities, if there are any.
fn crossed(tariff: &Tariff, samples: &Samples, old: u128, new: u128) -> Option<String> {
    let is_between = |edge: &u128| (old > *edge) != (new > *edge);
    let text = |quantity| tariff.quantity_text(quantity);
    let mut parts = Vec::new();
    if let Some(commit) = tariff.commit.filter(is_between) {
        let side = if new > old { "above" } else { "below" };
        let paid = if new > old { "" } else { ", which is paid anyway" };
        parts.push(format!("{side} the commit of {}{paid}", text(commit)));
    }
    for (edge, price) in tariff.edges().filter(|(edge, _)| is_between(edge)) {
        let side = if new > old { "above" } else { "below" };
        parts.push(format!("{side} the end of the tier at {}, above which a GB costs {price}", text(edge)));
    }
    (!parts.is_empty()).then(|| {
        format!(
            "{}: this change moves the forecast of {} from {} to {}, {}",
            tariff.provider,
            samples.month,
            text(old),
            text(new),
            parts.join(", and ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::cost::money::Price;
    use crate::balance::cost::month::Month;
    use crate::balance::cost::tariff::{GB, MBPS, Meter, Tier};

    const TB: u128 = 1_000 * GB;

    fn tariff(provider: &str, meter: Meter, commit: Option<u128>) -> Tariff {
        Tariff {
            provider: provider.to_owned(),
            meter,
            commit,
            overage: None,
            per_10k_requests: None,
            per_10k_pulls: None,
            per_pull_gb: None,
        }
    }

    /// Half of November, with this number of GB in each slot.
    fn half(providers: &[(&str, u128)]) -> Samples {
        let mut samples = Samples::new(Month::parse("2026-11").expect("a month"));
        for (name, gb) in providers {
            let volume = Volume { bytes: gb * GB, ..Volume::default() };
            let slots = (0..15 * 288).map(|slot| (slot, volume)).collect();
            samples.providers.insert((*name).to_owned(), Series(slots));
        }
        samples
    }

    fn tiers() -> Meter {
        let tier = |up_to, millionths| Tier { up_to, per_gb: Price(millionths) };
        Meter::Bytes(vec![tier(Some(20 * TB), 100_000), tier(None, 50_000)])
    }

    #[test]
    fn change_when_crossing_a_commit_and_a_tier_then_sentence_has_both_and_the_bill() {
        // 4320 slots are known and 4320 are missing. a and b have 2 GB each in a slot: 8.64 TB so far.
        let samples = half(&[("a", 2), ("b", 2)]);
        let tariffs = [tariff("a", tiers(), Some(22 * TB)), tariff("b", tiers(), Some(15 * TB))];
        let texts = crossings(&tariffs, &samples, &[("a", 1), ("b", 1)].into(), &[("a", 9), ("b", 1)].into());
        // a, before: 8.64 + 4320 * 2 GB = 17.28 TB; after: 8.64 + 4320 * 4 * 0.9 GB = 24.192 TB.
        // The bill of a, before: the commit, 20,000 * 0.1 + 2,000 * 0.05 = 2100; after: 2000 + 4192 * 0.05 = 2209.60.
        // b, after: 8.64 + 4320 * 4 * 0.1 GB = 10.368 TB. The bill of b, before: 1728; after: the commit, 1500.
        assert_eq!(
            texts,
            [
                "a: this change moves the forecast of 2026-11 from 17.28 TB to 24.192 TB, above the commit of 22 TB, \
                 and above the end of the tier at 20 TB, above which a GB costs 0.05; the forecast of its bill changes \
                 from 2100.00 to 2209.60",
                "b: this change moves the forecast of 2026-11 from 17.28 TB to 10.368 TB, below the commit of 15 TB, \
                 which is paid anyway; the forecast of its bill changes from 1728.00 to 1500.00",
            ]
        );
    }

    #[test]
    fn change_when_nothing_is_crossed_or_shares_are_equal_then_has_no_sentence() {
        let samples = half(&[("a", 2), ("b", 2)]);
        let tariffs = [tariff("a", tiers(), None), tariff("b", tiers(), None)];
        let before = [("a", 1), ("b", 1)].into();
        assert_eq!(crossings(&tariffs, &samples, &before, &[("a", 51), ("b", 49)].into()), [""; 0]);
        assert_eq!(crossings(&tariffs, &samples, &before, &[("a", 7), ("b", 7)].into()), [""; 0]);
        assert_eq!(crossings(&[], &samples, &before, &[("b", 1)].into()), [""; 0]);
    }

    #[test]
    fn p95_when_a_new_cdn_gets_traffic_then_crossing_of_commit_is_reported() {
        // a has 6 GB in each slot, which are 160 Mbps. c gets half of them for half of the month.
        let samples = half(&[("a", 6)]);
        let tariffs = [tariff("c", Meter::P95(Price(1_000_000)), Some(50 * MBPS))];
        let texts = crossings(&tariffs, &samples, &[("a", 1)].into(), &[("a", 1), ("c", 1)].into());
        assert_eq!(
            texts,
            ["c: this change moves the forecast of 2026-11 from 0 Mbps to 80 Mbps, above the commit of 50 Mbps; the \
              forecast of its bill changes from 50.00 to 80.00"]
        );
    }

    #[test]
    fn change_when_samples_are_missing_or_unusable_then_effect_is_reported_as_unknown() {
        let tariffs = [tariff("a", tiers(), None)];
        let (before, after) = ([("a", 1), ("b", 1)].into(), [("a", 1)].into());
        let texts = crossings(&tariffs, &half(&[("a", 2)]), &before, &after);
        assert!(texts.len() == 1 && texts[0].contains("is unknown, because b has no samples of 2026-11"), "{texts:?}");
        let texts = crossings(&tariffs, &half(&[]), &before, &after);
        assert!(texts.len() == 1 && texts[0].contains("because a, b have no samples"), "{texts:?}");
        let mut apart = half(&[("a", 2), ("b", 2)]);
        apart.providers.entry("b".to_owned()).and_modify(|series| series.0.retain(|slot, _| *slot > 5_000));
        let texts = crossings(&tariffs, &apart, &before, &after);
        assert!(texts.len() == 1 && texts[0].contains("fewer than two periods of 2026-11"), "{texts:?}");
        // Hourly samples have no 95th percentile of 5 minutes.
        let mut hourly = half(&[("a", 2)]);
        hourly.providers.entry("a".to_owned()).and_modify(|series| series.0.retain(|slot, _| slot % 12 == 0));
        let p95 = [tariff("c", Meter::P95(Price(1)), Some(MBPS))];
        let texts = crossings(&p95, &hourly, &[("a", 1)].into(), &[("c", 1)].into());
        assert!(texts.len() == 1 && texts[0].contains("3600 seconds apart"), "{texts:?}");
    }
}
