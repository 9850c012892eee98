//! The bill of one CDN for a month: the bill so far, the forecast for the end of the month, and notes about both.

use super::forecast::{Forecast, Outlook, Usage};
use super::money::Money;
use super::month::{DAY_SECONDS, Month, SLOT_SECONDS};
use super::samples::Samples;
use super::tariff::{Charges, Meter, Tariff, bytes_text, decimals};

/// A CDN with its traffic and its bill, as far as they are known.
#[derive(Debug)]
pub(crate) struct Bill {
    pub provider: String,
    /// `None`: `balance.toml` has no price of this CDN.
    pub tariff: Option<Tariff>,
    /// `None`: there are no samples of this CDN in the month, so its traffic is unknown.
    pub outlook: Option<Outlook>,
    /// The charges for the samples so far. `None`: the charges are unknown.
    pub so_far: Option<Charges>,
    /// `None`: the forecast is unknown.
    pub forecast: Option<Projected>,
    /// Sentences that say what is unknown and why, and whether the commit is exceeded or missed.
    pub notes: Vec<String>,
}

/// The bill at the end of the month.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Projected {
    pub usage: Usage,
    pub charges: Charges,
    /// The smallest and the largest total. `None`: there are too few complete days.
    pub range: Option<(Money, Money)>,
}

impl Tariff {
    /// Returns the quantity that the meter of this price list counts.
    pub(crate) fn quantity(&self, usage: &Usage) -> u128 {
        match self.meter {
            Meter::Bytes(_) => usage.volume.bytes,
            Meter::P95(_) => usage.p95,
        }
    }

    /// Returns what must be paid for the traffic of a month.
    pub(crate) fn charges_of(&self, usage: &Usage) -> Charges {
        self.charges(self.quantity(usage), usage.volume)
    }
}

/// Returns the bills of all CDNs that have a price or samples, sorted by name.
pub(crate) fn bills(tariffs: &[Tariff], samples: &Samples) -> Vec<Bill> {
    let mut names: Vec<&String> = tariffs.iter().map(|tariff| &tariff.provider).collect();
    names.extend(samples.providers.keys());
    names.sort();
    names.dedup();
    names.into_iter().map(|name| bill(name, tariffs, samples)).collect()
}

/// Returns why the samples cannot be used with a price list. `None`: the samples can be used.
pub(crate) fn unusable(tariff: &Tariff, outlook: &Outlook) -> Option<String> {
    let step = outlook.step.filter(|step| *step != SLOT_SECONDS)?;
    matches!(tariff.meter, Meter::P95(_)).then(|| {
        format!(
            "{}: the bill is unknown, because the samples are {step} seconds apart, but the meter p95 needs a \
             sample for each 5 minutes, also for 5 minutes without traffic",
            tariff.provider
        )
    })
}

fn bill(provider: &str, tariffs: &[Tariff], samples: &Samples) -> Bill {
    let tariff = tariffs.iter().find(|tariff| tariff.provider == provider);
    let outlook = samples.providers.get(provider).and_then(|series| Outlook::new(series, samples.month));
    let (mut so_far, mut projected, mut notes) = (None, None, Vec::new());
    match (tariff, &outlook) {
        (_, None) => notes.push(format!("{provider}: the bill is unknown, because there are no samples")),
        (None, Some(outlook)) => notes.push(format!(
            "{provider}: the bill of {} is unknown, because balance.toml has no [[price]] with provider = {provider:?}",
            bytes_text(outlook.so_far().volume.bytes)
        )),
        (Some(tariff), Some(outlook)) => {
            if let Some(reason) = unusable(tariff, outlook) {
                notes.push(reason);
            } else {
                so_far = Some(tariff.charges_of(&outlook.so_far()));
                let forecast = outlook.forecast();
                projected = forecast.map(|forecast| project(tariff, forecast));
                notes.extend(coverage(provider, samples.month, outlook));
                notes.extend(commit(tariff, outlook, forecast));
            }
        }
    }
    Bill { provider: provider.to_owned(), tariff: tariff.cloned(), outlook, so_far, forecast: projected, notes }
}

fn project(tariff: &Tariff, forecast: Forecast) -> Projected {
    let total = |usage: &Usage| tariff.charges_of(usage).total();
    Projected {
        usage: forecast.expected,
        charges: tariff.charges_of(&forecast.expected),
        range: forecast.range.map(|(low, high)| (total(&low), total(&high))),
    }
}

/// Returns notes about time without samples, and about a forecast or a range that is unknown.
fn coverage(provider: &str, month: Month, outlook: &Outlook) -> Vec<String> {
    let mut notes = Vec::new();
    let days = |seconds: u64| decimals(seconds.into(), DAY_SECONDS.into());
    let gaps = (outlook.to - outlook.from).saturating_sub(outlook.covered) + (outlook.from - month.start());
    if gaps > 0 {
        notes.push(format!(
            "{provider}: {} days before the last sample have no samples; the bill so far leaves them out, and the \
             forecast fills them",
            days(gaps)
        ));
    }
    if outlook.step.is_none() {
        notes.push(format!("{provider}: the forecast is unknown, because all samples begin in the same 5 minutes"));
    } else if outlook.missing() > 0 && outlook.days() < 2 {
        notes.push(format!(
            "{provider}: the forecast has no range, because the samples cover only {} days, and fewer than 2 complete \
             days",
            days(outlook.covered)
        ));
    }
    notes
}

/// Returns a note that says whether the commit is or will be exceeded or missed.
fn commit(tariff: &Tariff, outlook: &Outlook, forecast: Option<Forecast>) -> Option<String> {
    let (commit, provider) = (tariff.commit?, &tariff.provider);
    let text = |quantity| tariff.quantity_text(quantity);
    let now = tariff.quantity(&outlook.so_far());
    // The bytes of a month only grow, but the 95th percentile can fall until the end of the month.
    let is_final = outlook.missing() == 0 || (now > commit && matches!(tariff.meter, Meter::Bytes(_)));
    if is_final {
        return Some(match now.checked_sub(commit) {
            Some(0) => format!("{provider}: the commit of {} is used exactly", text(commit)),
            Some(more) => format!("{provider}: the commit of {} is exceeded, by {}", text(commit), text(more)),
            None => format!(
                "{provider}: the commit of {} is missed; {} are paid and not used",
                text(commit),
                text(commit - now)
            ),
        });
    }
    let forecast = forecast?;
    let expected = tariff.quantity(&forecast.expected);
    if expected == commit {
        return None;
    }
    let range = forecast.range.map(|(low, high)| (tariff.quantity(&low), tariff.quantity(&high)));
    let span = range.map(|(low, high)| format!(" ({} to {})", text(low), text(high))).unwrap_or_default();
    let is_certain = range.is_some_and(|(low, high)| (low > commit) == (high > commit));
    let will = if is_certain { "will be" } else { "will probably be" };
    Some(if expected > commit {
        format!("{provider}: the commit of {} {will} exceeded; the forecast is {}{span}", text(commit), text(expected))
    } else {
        format!(
            "{provider}: the commit of {} {will} missed; the forecast is {}{span}, so about {} are paid and not used",
            text(commit),
            text(expected),
            text(commit - expected)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::cost::money::Price;
    use crate::balance::cost::samples::{Series, Volume};
    use crate::balance::cost::tariff::{GB, MBPS, Tier};

    fn tariff(meter: Meter, commit: Option<u128>) -> Tariff {
        Tariff {
            provider: "a".to_owned(),
            meter,
            commit,
            overage: None,
            per_10k_requests: None,
            per_10k_pulls: None,
            per_pull_gb: None,
        }
    }

    fn by_bytes(commit: Option<u128>) -> Tariff {
        // 0.1 for each GB.
        tariff(Meter::Bytes(vec![Tier { up_to: None, per_gb: Price(100_000) }]), commit)
    }

    fn samples(slots: impl Iterator<Item = (u32, u128)>) -> Samples {
        let mut samples = Samples::new(Month::parse("2026-11").expect("a month"));
        let slots = slots.map(|(slot, bytes)| (slot, Volume { bytes, ..Volume::default() }));
        samples.providers.insert("a".to_owned(), Series(slots.collect()));
        samples
    }

    /// Days with 288 GB each.
    fn days(count: u32) -> Samples {
        samples((0..count * 288).map(|slot| (slot, GB)))
    }

    fn only(tariff: Tariff, samples: &Samples) -> Bill {
        let mut bills = bills(&[tariff], samples);
        assert_eq!(bills.len(), 1);
        bills.remove(0)
    }

    #[test]
    fn bill_when_ten_days_are_known_then_forecast_is_three_times_the_bill() {
        let bill = only(by_bytes(None), &days(10));
        // 10 * 288 GB * 0.1 = 288; 30 * 288 GB * 0.1 = 864.
        let money = |whole: u128| Money(whole * 1_000_000);
        assert_eq!(bill.so_far.map(Charges::total), Some(money(288)));
        let forecast = bill.forecast.expect("a forecast");
        assert_eq!((forecast.charges.total(), forecast.range), (money(864), Some((money(864), money(864)))));
        assert_eq!(bill.notes, [""; 0]);
    }

    #[test]
    fn bill_when_price_or_samples_are_missing_then_is_unknown_and_not_0() {
        let mut some = days(1);
        let series = some.providers.remove("a").expect("a series");
        some.providers.insert("b".to_owned(), series);
        let bills = bills(&[by_bytes(None)], &some);
        assert!(bills.iter().all(|bill| bill.so_far.is_none() && bill.forecast.is_none()), "{bills:?}");
        let notes: Vec<&String> = bills.iter().flat_map(|bill| &bill.notes).collect();
        assert_eq!(notes[0], "a: the bill is unknown, because there are no samples");
        assert!(notes[1].starts_with("b: the bill of 288 GB is unknown, because balance.toml has no [[price]]"));
    }

    #[test]
    fn commit_when_missed_exceeded_or_used_exactly_then_note_has_this_result() {
        let note = |tariff: Tariff, samples: &Samples| only(tariff, samples).notes.pop().unwrap_or_default();
        let tb = 1_000 * GB;
        // The forecast is 30 * 288 GB = 8.64 TB; so far, 2.88 TB.
        for (commit, part) in [
            (
                10 * tb,
                "will be missed; the forecast is 8.64 TB (8.64 TB to 8.64 TB), so about 1.36 TB are paid and not",
            ),
            (5 * tb, "will be exceeded; the forecast is 8.64 TB"),
            (2 * tb, "is exceeded, by 880 GB"),
        ] {
            let note = note(by_bytes(Some(commit)), &days(10));
            assert!(note.contains(part), "{note}");
        }
        let complete = note(by_bytes(Some(10 * tb)), &days(30));
        assert!(complete.contains("is missed; 1.36 TB are paid and not used"), "{complete}");
        assert!(note(by_bytes(Some(8_640 * GB)), &days(30)).contains("is used exactly"));
        // Two days: 288 GB and 576 GB. The forecast is 30 * 432 GB = 12.96 TB, at least 8.928 TB, at most 16.992 TB.
        let two = samples((0..576).map(|slot| (slot, if slot < 288 { GB } else { 2 * GB })));
        let uncertain = note(by_bytes(Some(10 * tb)), &two);
        assert!(
            uncertain.contains("will probably be exceeded; the forecast is 12.96 TB (8.928 TB to 16.992 TB)"),
            "{uncertain}"
        );
        // 30 MB in 5 minutes are 0.8 Mbps; the percentile can still fall.
        let p95 = tariff(Meter::P95(Price(1_000_000)), Some(MBPS / 2));
        let falling = note(p95, &samples((0..576).map(|slot| (slot, 30_000_000))));
        assert_eq!(
            falling,
            "a: the commit of 0.5 Mbps will be exceeded; the forecast is 0.8 Mbps (0.8 Mbps to 0.8 Mbps)"
        );
    }

    #[test]
    fn p95_bill_when_samples_are_hourly_then_is_unknown() {
        let bill = only(tariff(Meter::P95(Price(1)), None), &samples((0..48).map(|hour| (hour * 12, GB))));
        assert!(bill.so_far.is_none() && bill.notes[0].contains("the samples are 3600 seconds apart"), "{bill:?}");
    }

    #[test]
    fn samples_when_days_are_missing_then_note_has_the_number_of_days() {
        let gaps = samples((288..1_440).filter(|slot| !(576..720).contains(slot)).map(|slot| (slot, GB)));
        let bill = only(by_bytes(None), &gaps);
        assert!(bill.notes[0].starts_with("a: 1.5 days before the last sample have no samples"), "{:?}", bill.notes);
        let few = only(by_bytes(None), &samples((0..36).map(|slot| (slot, GB))));
        assert!(few.notes[0].contains("cover only 0.125 days"), "{:?}", few.notes);
        let one = only(by_bytes(None), &samples([(3, GB)].into_iter()));
        assert!(one.forecast.is_none() && one.notes.iter().any(|note| note.contains("the same 5 minutes")), "{one:?}");
    }
}
