//! The price list of a CDN: tiers by bytes, or the 95th percentile of the traffic; a commit; requests; pulls.
//!
//! The quantity of a meter is a number of bytes: all bytes of a month for the meter `bytes`, and the bytes of one slot
//! of 5 minutes for the meter `p95`. GB = 10^9 bytes, and Mbps = 10^6 bits a second.

use super::money::{Money, Price, rounded};
use super::samples::{PULL_BYTES, PULLS, Volume};

pub(crate) const GB: u128 = 1_000_000_000;
/// The bytes of a slot at 1 Mbps: 10^6 bits a second, for 300 seconds, in bytes of 8 bits.
pub(crate) const MBPS: u128 = 1_000_000 * 300 / 8;
/// The prices of requests and of pulls apply to this number of requests or pulls.
const PER_REQUESTS: u128 = 10_000;

/// A range of quantities with one price for each GB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tier {
    /// The total at which the tier ends, in bytes. `None`: the tier has no end.
    pub up_to: Option<u128>,
    pub per_gb: Price,
}

/// The quantity that a CDN bills, and its price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meter {
    /// Each byte has the price of its tier. The last tier has no end.
    Bytes(Vec<Tier>),
    /// The price for each Mbps of the 95th percentile.
    P95(Price),
}

/// The price list of one CDN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tariff {
    pub provider: String,
    pub meter: Meter,
    /// The quantity that must be paid even if the traffic is less.
    pub commit: Option<u128>,
    /// The price of the quantity above the commit. `None`: the price of the meter applies.
    pub overage: Option<Price>,
    pub per_10k_requests: Option<Price>,
    pub per_10k_pulls: Option<Price>,
    pub per_pull_gb: Option<Price>,
}

/// The amounts that must be paid, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Charges {
    /// The amount for the traffic without the amount in `overage`, and at least the amount for the commit.
    pub traffic: Money,
    /// The amount for the traffic above the commit, if this traffic has a price of its own.
    pub overage: Money,
    pub requests: Money,
    pub pulls: Money,
}

impl Charges {
    pub(crate) fn total(self) -> Money {
        [self.traffic, self.overage, self.requests, self.pulls].into_iter().sum()
    }
}

impl Tariff {
    /// Returns what must be paid for a month.
    pub(crate) fn charges(&self, quantity: u128, volume: Volume) -> Charges {
        let commit = self.commit.unwrap_or(0);
        let above = quantity.saturating_sub(commit);
        let (traffic, overage) = match (self.overage, &self.meter) {
            (Some(price), Meter::Bytes(_)) => (self.traffic(commit), price.of(above, GB)),
            (Some(price), Meter::P95(_)) => (self.traffic(commit), price.of(above, MBPS)),
            (None, _) => (self.traffic(quantity.max(commit)), Money::default()),
        };
        let of = |price: Option<Price>, count, unit| price.map_or(Money::default(), |price| price.of(count, unit));
        Charges {
            traffic,
            overage,
            requests: of(self.per_10k_requests, volume.requests, PER_REQUESTS),
            pulls: of(self.per_10k_pulls, volume.pulls, PER_REQUESTS) + of(self.per_pull_gb, volume.pull_bytes, GB),
        }
    }

    fn traffic(&self, quantity: u128) -> Money {
        match &self.meter {
            Meter::Bytes(tiers) => of_tiers(tiers, quantity),
            Meter::P95(price) => price.of(quantity, MBPS),
        }
    }

    /// Returns the totals at which a tier ends, each with the price of the next tier.
    pub(crate) fn edges(&self) -> impl Iterator<Item = (u128, Price)> {
        let tiers = match &self.meter {
            Meter::Bytes(tiers) => tiers.as_slice(),
            Meter::P95(_) => &[],
        };
        tiers.iter().zip(tiers.iter().skip(1)).filter_map(|(tier, next)| Some((tier.up_to?, next.per_gb)))
    }

    /// Returns the members that each sample of this CDN must have in addition to the bytes and the requests.
    pub(crate) fn needed(&self) -> Vec<&'static str> {
        let pulls = self.per_10k_pulls.map(|_| PULLS);
        pulls.into_iter().chain(self.per_pull_gb.map(|_| PULL_BYTES)).collect()
    }

    /// Writes a quantity of the meter, for example `12.5 TB` or `480 Mbps`.
    pub(crate) fn quantity_text(&self, quantity: u128) -> String {
        match self.meter {
            Meter::Bytes(_) => bytes_text(quantity),
            Meter::P95(_) => format!("{} Mbps", decimals(quantity, MBPS)),
        }
    }

    pub(crate) fn meter_name(&self) -> &'static str {
        match self.meter {
            Meter::Bytes(_) => "bytes",
            Meter::P95(_) => "p95",
        }
    }
}

/// Returns the price of a number of bytes. The parts of all tiers are added before the sum is rounded.
fn of_tiers(tiers: &[Tier], bytes: u128) -> Money {
    let (mut from, mut sum) = (0, 0_u128);
    for tier in tiers {
        let end = tier.up_to.unwrap_or(u128::MAX).min(bytes);
        let inside = end.saturating_sub(from);
        sum = sum.saturating_add(inside.saturating_mul(tier.per_gb.0.into()));
        from = from.max(end);
    }
    Money(rounded(sum, GB))
}

/// Writes a number of bytes with a unit of powers of ten.
pub(crate) fn bytes_text(bytes: u128) -> String {
    let units = [("PB", 1_000 * 1_000 * GB), ("TB", 1_000 * GB), ("GB", GB), ("MB", GB / 1_000)];
    match units.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{} {name}", decimals(bytes, *unit)),
        None => format!("{bytes} bytes"),
    }
}

/// Writes a quotient with at most three decimals.
pub(crate) fn decimals(dividend: u128, divisor: u128) -> String {
    let thousandths = rounded(dividend.saturating_mul(1_000), divisor);
    let text = format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TB: u128 = 1_000 * GB;

    /// A price in thousandths of the currency.
    fn price(thousandths: u64) -> Price {
        Price(thousandths * 1_000)
    }

    fn money(hundredths: u128) -> Money {
        Money(hundredths * 10_000)
    }

    fn tariff(meter: Meter) -> Tariff {
        Tariff {
            provider: "fastly".to_owned(),
            meter,
            commit: None,
            overage: None,
            per_10k_requests: None,
            per_10k_pulls: None,
            per_pull_gb: None,
        }
    }

    fn three_tiers() -> Vec<Tier> {
        vec![
            Tier { up_to: Some(10 * TB), per_gb: price(120) },
            Tier { up_to: Some(50 * TB), per_gb: price(80) },
            Tier { up_to: None, per_gb: price(50) },
        ]
    }

    fn bill(tariff: &Tariff, quantity: u128) -> Money {
        tariff.charges(quantity, Volume::default()).total()
    }

    #[test]
    fn bytes_when_in_several_tiers_then_each_part_has_the_price_of_its_tier() {
        let tariff = tariff(Meter::Bytes(three_tiers()));
        // 10,000 GB * 0.12 = 1200; 40,000 GB * 0.08 = 3200; 14,000 GB * 0.05 = 700; the sum is 5100.
        assert_eq!(bill(&tariff, 64 * TB), money(510_000));
        // 2,500 GB * 0.12 = 300.
        assert_eq!(bill(&tariff, 5 * TB / 2), money(30_000));
        // 1200 + 2,000 GB * 0.08 = 160.
        assert_eq!(bill(&tariff, 12 * TB), money(136_000));
        assert_eq!(bill(&tariff, 0), money(0));
        assert_eq!(tariff.edges().collect::<Vec<_>>(), [(10 * TB, price(80)), (50 * TB, price(50))]);
    }

    #[test]
    fn bytes_when_there_is_a_commit_then_at_least_the_commit_is_paid() {
        let mut tariff = tariff(Meter::Bytes(three_tiers()));
        tariff.commit = Some(20 * TB);
        // The commit: 10,000 GB * 0.12 + 10,000 GB * 0.08 = 2000. It is paid for 3 TB and for 20 TB.
        assert_eq!(bill(&tariff, 3 * TB), money(200_000));
        assert_eq!(bill(&tariff, 20 * TB), money(200_000));
        // Without a price of the overage, 5,000 GB more have the price of their tier: 5,000 * 0.08 = 400.
        assert_eq!(bill(&tariff, 25 * TB), money(240_000));
        // With a price of the overage: 5,000 * 0.15 = 750.
        tariff.overage = Some(price(150));
        let charges = tariff.charges(25 * TB, Volume::default());
        assert_eq!((charges.traffic, charges.overage), (money(200_000), money(75_000)));
        assert_eq!(bill(&tariff, 3 * TB), money(200_000));
    }

    #[test]
    fn p95_when_there_is_a_commit_then_at_least_the_commit_is_paid() {
        let mut tariff = tariff(Meter::P95(price(1_500)));
        // 15 GB in 300 seconds are 15 * 8,000 / 300 = 400 Mbps; 400 * 1.5 = 600.
        assert_eq!(bill(&tariff, 15 * GB), money(60_000));
        assert_eq!(tariff.quantity_text(15 * GB), "400 Mbps");
        tariff.commit = Some(500 * MBPS);
        // The commit: 500 * 1.5 = 750.
        assert_eq!(bill(&tariff, 15 * GB), money(75_000));
        // 30 GB are 800 Mbps; 800 * 1.5 = 1200. With the overage: 750 + 300 * 2 = 1350.
        assert_eq!(bill(&tariff, 30 * GB), money(120_000));
        tariff.overage = Some(price(2_000));
        assert_eq!(bill(&tariff, 30 * GB), money(135_000));
    }

    #[test]
    fn requests_and_pulls_when_price_is_set_then_are_added_to_the_total() {
        let mut tariff = tariff(Meter::Bytes(vec![Tier { up_to: None, per_gb: price(0) }]));
        (tariff.per_10k_requests, tariff.per_10k_pulls) = (Some(price(10)), Some(price(20)));
        tariff.per_pull_gb = Some(price(30));
        let volume = Volume { bytes: TB, requests: 123_456_789, pulls: 5_000_000, pull_bytes: 700 * GB };
        let charges = tariff.charges(TB, volume);
        // 123,456,789 / 10,000 * 0.01 = 123.456789.
        assert_eq!(charges.requests, Money(123_456_789));
        // 500 * 0.02 + 700 * 0.03 = 10 + 21.
        assert_eq!(charges.pulls, money(3_100));
        assert_eq!(charges.total(), Money(154_456_789));
        assert_eq!(tariff.needed(), [PULLS, PULL_BYTES]);
    }

    #[test]
    fn bytes_when_written_then_have_a_unit_of_powers_of_ten() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (999_999, "999999 bytes"),
            (1_500_000, "1.5 MB"),
            (GB, "1 GB"),
            (1_234_567_890_123, "1.235 TB"),
            (2_000 * TB, "2 PB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
    }

    fn any_tiers() -> impl Strategy<Value = Vec<Tier>> {
        (prop::collection::btree_set(1..10_000_000_000_000_u128, 0..5), prop::collection::vec(0..2_000_000_u64, 6))
            .prop_map(|(edges, prices)| {
                let ends = edges.into_iter().map(Some).chain([None]);
                ends.zip(prices).map(|(up_to, price)| Tier { up_to, per_gb: Price(price) }).collect()
            })
    }

    proptest! {
        #[test]
        fn tiers_when_bytes_grow_then_amount_never_falls_and_never_jumps(
            tiers in any_tiers(), bytes in 0..20_000_000_000_000_u128, more in 0..1_000_000_u128,
        ) {
            let highest = tiers.iter().map(|tier| tier.per_gb.0).max().unwrap_or(0);
            let edges: Vec<u128> = tiers.iter().filter_map(|tier| tier.up_to).collect();
            // The amount is also compared on both sides of each edge.
            for from in edges.iter().map(|edge| edge.saturating_sub(more / 2)).chain([bytes]) {
                let (less, greater) = (of_tiers(&tiers, from), of_tiers(&tiers, from + more));
                prop_assert!(less <= greater);
                // At most, the added bytes have the highest price. Rounding can add one millionth.
                prop_assert!(greater.0 - less.0 <= more * u128::from(highest) / GB + 1);
            }
        }

        #[test]
        fn tiers_when_all_prices_are_equal_then_amount_is_bytes_times_price(
            tiers in any_tiers(), price in 0..2_000_000_u64, bytes in 0..20_000_000_000_000_u128,
        ) {
            let tiers: Vec<Tier> = tiers.into_iter().map(|tier| Tier { per_gb: Price(price), ..tier }).collect();
            prop_assert_eq!(of_tiers(&tiers, bytes), Price(price).of(bytes, GB));
        }

        #[test]
        fn charges_when_quantity_grows_then_never_fall(
            tiers in any_tiers(), commit in prop::option::of(0..10_000_000_000_000_u128),
            overage in prop::option::of(0..2_000_000_u64),
            quantity in 0..20_000_000_000_000_u128, more in 0..1_000_000_000_u128,
        ) {
            let overage = overage.filter(|_| commit.is_some()).map(Price);
            let tariff = Tariff { commit, overage, ..tariff(Meter::Bytes(tiers)) };
            prop_assert!(bill(&tariff, quantity) <= bill(&tariff, quantity + more));
            prop_assert!(bill(&tariff, quantity) >= bill(&tariff, 0));
        }
    }
}
