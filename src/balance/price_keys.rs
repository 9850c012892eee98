//! The keys of one `[[price]]` of `balance.toml`: what a CDN bills.

use std::collections::HashSet;
use std::path::Path;

use super::cost::money::{PRICE, Price};
use super::cost::tariff::{GB, MBPS, Meter, Tariff, Tier};
use crate::config::Section;
use crate::keys::grammar::{closest, label};
use crate::keys::{Checked, Keys, Text, Visitor, quote};

/// The largest number of tiers.
const MAX_TIERS: usize = 100;
/// The largest quantity, in the largest unit of its meter: PB or Gbps.
const MAX_COUNT: u128 = 1_000_000;

/// The name of a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MeterName {
    Bytes,
    P95,
}

const METERS: [(&str, MeterName); 2] = [("bytes", MeterName::Bytes), ("p95", MeterName::P95)];

/// A quantity with the unit of a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quantity {
    meter: MeterName,
    /// The bytes of a month for `Bytes`, or the bytes of 5 minutes for `P95`.
    bytes: u128,
}

const PROVIDER: Text<String> =
    Text { example: "fastly", read: |text, _| label(text, &[], "\"fastly\""), write: String::clone };
const QUANTITY: Text<Quantity> = Text { example: "100TB", read: |text, _| quantity(text), write: quantity_text };
const UNITS: [(&str, MeterName, u128); 6] = [
    ("MB", MeterName::Bytes, GB / 1_000),
    ("GB", MeterName::Bytes, GB),
    ("TB", MeterName::Bytes, GB * 1_000),
    ("PB", MeterName::Bytes, GB * 1_000_000),
    ("Mbps", MeterName::P95, MBPS),
    ("Gbps", MeterName::P95, MBPS * 1_000),
];

/// Reads a whole number and a unit of powers of ten.
fn quantity(text: &str) -> Checked<Quantity> {
    let (digits, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let found = UNITS.iter().find(|(name, ..)| *name == unit.trim_start());
    let Some((_, meter, each)) = found.filter(|_| !digits.is_empty()) else {
        let remedy = match unit.trim_start() {
            "MiB" | "GiB" | "TiB" | "PiB" => " (CDNs bill in powers of ten, GB = 10^9 bytes)",
            _ => "",
        };
        return Err(format!(
            "is not a quantity{remedy}; write a whole number and a unit (MB, GB, TB, PB, Mbps or Gbps), for example \
             \"100TB\" or \"500Mbps\""
        ));
    };
    let largest = UNITS.iter().filter(|unit| unit.1 == *meter).map(|unit| unit.2).max().unwrap_or(*each);
    let count = digits.parse::<u128>().ok().filter(|count| count.saturating_mul(*each) <= MAX_COUNT * largest);
    match count {
        None => Err(format!("is too large; write at most \"{MAX_COUNT}PB\" or \"{MAX_COUNT}Gbps\"")),
        Some(0) => Err("is zero; write a quantity above 0, or remove the key".to_owned()),
        Some(count) => Ok(Quantity { meter: *meter, bytes: count * each }),
    }
}

fn quantity_text(quantity: &Quantity) -> String {
    let fits =
        |(_, meter, each): &&(&str, MeterName, u128)| *meter == quantity.meter && quantity.bytes.is_multiple_of(*each);
    UNITS.iter().rev().find(fits).map(|(name, _, each)| format!("{}{name}", quantity.bytes / each)).unwrap_or_default()
}

/// The keys of one tier.
#[derive(Debug, Clone, Default)]
pub(super) struct TierKeys {
    up_to: Option<Quantity>,
    per_gb: Option<Price>,
}

impl Keys for TierKeys {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.optional("up_to", &QUANTITY, &mut self.up_to);
        v.number("per_gb", &PRICE, &mut self.per_gb);
    }
}

/// The keys of one `[[price]]`.
#[derive(Debug, Clone)]
pub(super) struct PriceKeys {
    provider: String,
    meter: MeterName,
    tiers: Vec<TierKeys>,
    per_mbps: Option<Price>,
    commit: Option<Quantity>,
    overage: Option<Price>,
    per_10k_requests: Option<Price>,
    per_10k_pulls: Option<Price>,
    per_pull_gb: Option<Price>,
}

impl Default for PriceKeys {
    fn default() -> Self {
        Self {
            provider: String::new(),
            meter: MeterName::Bytes,
            tiers: Vec::new(),
            per_mbps: None,
            commit: None,
            overage: None,
            per_10k_requests: None,
            per_10k_pulls: None,
            per_pull_gb: None,
        }
    }
}

impl Keys for PriceKeys {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.text("provider", &PROVIDER, &mut self.provider);
        v.choice("meter", &METERS, &mut self.meter);
        v.blocks("tiers", &mut self.tiers);
        v.number("per_mbps", &PRICE, &mut self.per_mbps);
        v.optional("commit", &QUANTITY, &mut self.commit);
        v.number("overage", &PRICE, &mut self.overage);
        v.number("per_10k_requests", &PRICE, &mut self.per_10k_requests);
        v.number("per_10k_pulls", &PRICE, &mut self.per_10k_pulls);
        v.number("per_pull_gb", &PRICE, &mut self.per_pull_gb);
    }
}

/// Checks the blocks `[[price]]`, and that `samples` is not standard input. Returns the price lists. `providers` has
/// the names of all CDNs of all targets.
pub(super) fn tariffs(
    prices: &[PriceKeys],
    providers: &[&str],
    samples: Option<&Path>,
    root: &mut Section<'_>,
) -> Vec<Tariff> {
    if samples.is_some_and(|path| path.ends_with("-")) {
        root.reject(
            "samples",
            "is standard input, but each change of the weights reads the samples again; write the name of a file",
        );
    }
    let mut seen = HashSet::new();
    let mut tariffs = Vec::new();
    for (keys, mut block) in prices.iter().zip(root.bounded_sections("price")) {
        if !block.has("provider") {
            block.missing("provider", "is missing; write for example provider = \"fastly\"");
        } else if !block.is_bad("provider") {
            check_provider(&keys.provider, providers, &block, &mut seen);
        }
        if !block.has("meter") {
            block.missing("meter", "is missing; write meter = \"bytes\" or meter = \"p95\"");
        } else if !block.is_bad("meter") {
            tariffs.extend(keys.tariff(&mut block));
        }
    }
    tariffs
}

fn check_provider<'p>(name: &'p str, providers: &[&str], block: &Section<'_>, seen: &mut HashSet<&'p str>) {
    if !seen.insert(name) {
        block.reject("provider", "has two blocks [[price]]; keep one of the two");
    } else if !providers.contains(&name) && !providers.is_empty() {
        let hint = closest(name, providers).map(|meant| format!(" (did you mean {}?)", quote(meant)));
        let hint = hint.unwrap_or_default();
        block.reject("provider", format!("is a provider of no target{hint}; write one of {}", providers.join(", ")));
    }
}

impl PriceKeys {
    /// Returns the price list, if its keys are complete.
    fn tariff(&self, block: &mut Section<'_>) -> Option<Tariff> {
        let meter = match self.meter {
            MeterName::Bytes => {
                block
                    .reject("per_mbps", "has no effect with the meter bytes; remove the key, or write meter = \"p95\"");
                self.checked_tiers(block).map(Meter::Bytes)
            }
            MeterName::P95 => {
                block.reject("tiers", "has no effect with the meter p95; remove the key, or write meter = \"bytes\"");
                if !block.has("per_mbps") {
                    block.missing("per_mbps", "is missing; write for example per_mbps = 1.5, the price of one Mbps");
                }
                self.per_mbps.map(Meter::P95)
            }
        };
        let example = if self.meter == MeterName::P95 { "\"500Mbps\"" } else { "\"100TB\"" };
        if let Some(commit) = self.commit
            && commit.meter != self.meter
        {
            block.reject("commit", format!("is not in the unit of the meter; write for example {example}"));
        }
        if block.has("overage") && !block.has("commit") {
            block.reject(
                "overage",
                format!("has no effect without a commit; write also for example commit = {example}"),
            );
        }
        Some(Tariff {
            provider: self.provider.clone(),
            meter: meter?,
            commit: self.commit.map(|commit| commit.bytes),
            overage: self.overage,
            per_10k_requests: self.per_10k_requests,
            per_10k_pulls: self.per_10k_pulls,
            per_pull_gb: self.per_pull_gb,
        })
    }

    fn checked_tiers(&self, block: &mut Section<'_>) -> Option<Vec<Tier>> {
        const EXAMPLE: &str = "tiers = [{ up_to = \"10TB\", per_gb = 0.12 }, { per_gb = 0.08 }]";
        if block.is_bad("tiers") {
            return None;
        }
        if self.tiers.is_empty() {
            let message = format!("is missing or empty; write for example {EXAMPLE}");
            if block.has("tiers") {
                block.reject("tiers", message);
            } else {
                block.missing("tiers", message);
            }
            return None;
        }
        if self.tiers.len() > MAX_TIERS {
            block.reject("tiers", format!("has {} tiers; write at most {MAX_TIERS}", self.tiers.len()));
            return None;
        }
        let (mut before, mut is_fine, mut tiers) = (0, true, Vec::with_capacity(self.tiers.len()));
        for (at, (tier, section)) in self.tiers.iter().zip(block.bounded_sections("tiers")).enumerate() {
            let is_last = at + 1 == self.tiers.len();
            let problem = match tier.up_to {
                Some(_) if is_last => Some(format!(
                    "is the end of the last tier, but traffic above it needs a price; remove this key, or add a tier \
                     without up_to, as in {EXAMPLE}"
                )),
                Some(up_to) if up_to.meter != MeterName::Bytes => {
                    Some("is not a number of bytes; write for example \"10TB\"".to_owned())
                }
                Some(up_to) if up_to.bytes <= before => {
                    Some("is not above the end of the tier before it; write the tiers in rising order".to_owned())
                }
                _ => None,
            };
            if let Some(problem) = problem {
                section.reject("up_to", problem);
                is_fine = false;
            }
            if tier.up_to.is_none() && !is_last {
                section
                    .missing("up_to", "is missing; only the last tier has no end; write for example up_to = \"10TB\"");
                is_fine = false;
            }
            if !section.has("per_gb") {
                section.missing("per_gb", "is missing; write for example per_gb = 0.12, the price of one GB");
            }
            before = tier.up_to.map_or(before, |up_to| up_to.bytes.max(before));
            tiers.extend(tier.per_gb.map(|per_gb| Tier { up_to: tier.up_to.map(|up_to| up_to.bytes), per_gb }));
        }
        (is_fine && tiers.len() == self.tiers.len()).then_some(tiers)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::parse_keys;

    #[derive(Default)]
    struct File {
        prices: Vec<PriceKeys>,
        tariffs: Vec<Tariff>,
    }

    impl Keys for File {
        fn keys<V: Visitor>(&mut self, v: &mut V) {
            v.blocks("price", &mut self.prices);
        }
    }

    fn read(text: &str) -> Result<Vec<Tariff>, String> {
        let check = |file: &mut File, root: &mut Section<'_>| {
            file.tariffs = tariffs(&file.prices, &["akamai", "fastly"], None, root);
        };
        let file = parse_keys(text, "b.toml", Path::new("."), check);
        file.map(|file: File| file.tariffs).map_err(|problems| problems.to_string())
    }

    #[test]
    fn prices_when_valid_then_have_exact_numbers() {
        let tariffs = read(
            r#"
[[price]]
provider = "Fastly"
meter = "bytes"
tiers = [{ up_to = "10TB", per_gb = 0.12 }, { up_to = "50 TB", per_gb = 0.08 }, { per_gb = 0.000001 }]
commit = "20TB"
overage = 0.15
per_10k_requests = 0.0075
per_pull_gb = 1
[[price]]
provider = "akamai"
meter = "p95"
per_mbps = 1_000.5
commit = "2Gbps"
per_10k_pulls = 0
"#,
        )
        .expect("the prices are valid");
        let tb = 1_000 * GB;
        let tier = |up_to, millionths| Tier { up_to, per_gb: Price(millionths) };
        assert_eq!(
            tariffs[0],
            Tariff {
                provider: "fastly".to_owned(),
                meter: Meter::Bytes(vec![tier(Some(10 * tb), 120_000), tier(Some(50 * tb), 80_000), tier(None, 1)]),
                commit: Some(20 * tb),
                overage: Some(Price(150_000)),
                per_10k_requests: Some(Price(7_500)),
                per_10k_pulls: None,
                per_pull_gb: Some(Price(1_000_000)),
            }
        );
        // 2 Gbps are 2 * 10^9 / 8 * 300 = 75 * 10^9 bytes in 5 minutes.
        assert_eq!((&tariffs[1].meter, tariffs[1].commit), (&Meter::P95(Price(1_000_500_000)), Some(75 * GB)));
        assert_eq!(tariffs[1].per_10k_pulls, Some(Price(0)));
    }

    #[test]
    fn prices_when_wrong_then_exactly_one_problem_names_the_mistake() {
        let fine = "meter = \"bytes\"\ntiers = [{ per_gb = 1 }]\n";
        let of = |provider: &str, rest: &str| format!("[[price]]\nprovider = \"{provider}\"\n{rest}\n");
        let tiers = |tiers: &str| of("fastly", &format!("meter = \"bytes\"\ntiers = {tiers}"));
        for (text, part) in [
            (of("fastly", fine) + &of("fastly", fine), "price[1].provider: \"fastly\" has two blocks [[price]]"),
            (of("fastlyy", fine), "is a provider of no target (did you mean \"fastly\"?); write one of akamai, fastly"),
            (format!("[[price]]\n{fine}"), "price[0].provider: is missing"),
            (of("fastly", ""), "price[0].meter: is missing; write meter = \"bytes\" or meter = \"p95\""),
            (of("fastly", "meter = \"hits\""), "\"hits\" is not allowed here"),
            (of("fastly", "meter = \"bytes\""), "price[0].tiers: is missing or empty; write for example tiers = [{"),
            (tiers("[]"), "price[0].tiers: [] is missing or empty"),
            (tiers("[1]"), "price[0].tiers[0]: 1 is a whole number where a block belongs"),
            (tiers("[{ per_gb = -0.12 }]"), "price[0].tiers[0].per_gb: -0.12 is negative"),
            (tiers("[{ per_gb = \"0.12\" }]"), "is a text where a decimal number belongs; write for example 0.085"),
            (tiers("[{ per_gb = 0x10 }]"), "where a decimal number belongs"),
            (tiers("[{ per_gb = 1e3 }]"), "1e3 is not a price"),
            (tiers("[{ per_gb = inf }]"), "inf is not a price"),
            (tiers("[{ per_gb = 0.1234567 }]"), "has more than six decimals"),
            (tiers("[{ up_to = \"1TB\", per_gb = 1 }]"), "is the end of the last tier, but traffic above it needs a"),
            (
                tiers("[{ up_to = \"5TB\", per_gb = 1 }, { up_to = \"5TB\", per_gb = 1 }, { per_gb = 1 }]"),
                "price[0].tiers[1].up_to: \"5TB\" is not above the end of the tier before it",
            ),
            (tiers("[{ per_gb = 1 }, { per_gb = 1 }]"), "price[0].tiers[0].up_to: is missing; only the last tier"),
            (tiers("[{ up_to = \"5TB\" }, { per_gb = 1 }]"), "price[0].tiers[0].per_gb: is missing"),
            (tiers("[{ up_to = \"5Mbps\", per_gb = 1 }, { per_gb = 1 }]"), "is not a number of bytes"),
            (tiers("[{ up_to = \"10TiB\", per_gb = 1 }, { per_gb = 1 }]"), "CDNs bill in powers of ten"),
            (tiers("[{ up_to = \"0TB\", per_gb = 1 }, { per_gb = 1 }]"), "is zero"),
            (tiers("[{ per_gb = 1 }]\nper_mbps = 1"), "price[0].per_mbps: 1 has no effect with the meter bytes"),
            (
                tiers("[{ per_gb = 1 }]\ncommit = \"5Mbps\""),
                "is not in the unit of the meter; write for example \"100TB\"",
            ),
            (tiers("[{ per_gb = 1 }]\noverage = 1"), "price[0].overage: 1 has no effect without a commit"),
            (of("fastly", "meter = \"p95\""), "price[0].per_mbps: is missing"),
            (of("fastly", "meter = \"p95\"\nper_mbps = 1\ncommit = \"5TB\""), "write for example \"500Mbps\""),
            (of("fastly", "meter = \"p95\"\nper_mbps = 1\ntiers = []"), "has no effect with the meter p95"),
        ] {
            let problems = read(&text).expect_err(&text);
            assert!(problems.contains(part), "no {part:?} in:\n{problems}\nof:\n{text}");
            assert_eq!(problems.lines().count(), 1, "{problems}");
        }
    }

    #[test]
    fn quantity_when_larger_than_the_limit_then_message_names_the_limit() {
        for (most, more) in
            [("1000000PB", "1000000001TB"), ("1000000PB", "1000001PB"), ("1000000Gbps", "1000000001Mbps")]
        {
            assert!(quantity(most).is_ok(), "{most}");
            assert!(quantity(more).is_err_and(|message| message.contains(most)), "{more}");
        }
    }

    proptest! {
        #[test]
        fn quantity_when_written_then_read_back_as_the_same_quantity(
            count in 1..100_000_u128, unit in 0..UNITS.len(),
        ) {
            let (_, meter, each) = UNITS[unit];
            let value = Quantity { meter, bytes: count * each };
            prop_assert_eq!(quantity(&quantity_text(&value)), Ok(value));
        }

        #[test]
        fn quantity_when_text_is_arbitrary_then_is_read_without_panic(text in "[0-9]{0,45} ?[A-Za-z]{0,5}|.{0,20}") {
            let _ = quantity(&text);
        }
    }
}
