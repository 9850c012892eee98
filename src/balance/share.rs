//! The modes and weights of a target's providers, and the arithmetic of their shares.
//!
//! A weight has a meaning only in relation to the other weights. All arithmetic is on whole numbers, so a share that is
//! written and read back stays the same.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::keys::grammar::label;

/// The largest weight that is accepted from a DNS service or from the journal.
const MAX_WEIGHT: u64 = 1_000_000;
/// The weights that `-w` accepts.
pub(crate) const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=15;
/// The sum of the enabled providers' weights after `--pct`.
pub(crate) const PERMILLE: u32 = 1000;

/// Whether a provider with a weight above 0 is served, and whether `watch` can take the provider away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Served, whatever a probe reports.
    Always,
    /// Served, except while the provider is marked as away.
    Obey,
    /// As `Obey`, with one difference: a provider that is away stays away until its mode or weight is set again.
    Remove,
    /// Never served.
    No,
}

impl Mode {
    pub(crate) const NAMES: [(&'static str, Self); 4] =
        [("always", Self::Always), ("obey", Self::Obey), ("remove", Self::Remove), ("no", Self::No)];

    pub(crate) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, mode)| *mode)
    }
}

/// The setting of one provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub mode: Mode,
    pub weight: u32,
    /// Whether `watch` has taken the provider away. The flag has no effect in the modes `always` and `no`.
    pub away: bool,
}

impl Share {
    pub(crate) fn new(mode: Mode, weight: u32) -> Self {
        Self { mode, weight, away: false }
    }

    pub(crate) fn is_enabled(self) -> bool {
        self.mode != Mode::No
    }

    /// Returns whether clients get this provider.
    pub(crate) fn is_served(self) -> bool {
        self.weight > 0
            && match self.mode {
                Mode::Always => true,
                Mode::Obey | Mode::Remove => !self.away,
                Mode::No => false,
            }
    }
}

/// The settings of all providers of a target, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shares(pub BTreeMap<String, Share>);

impl Shares {
    /// Returns the weight that counts for clients: 0 for a provider that is not served.
    pub(crate) fn served_weight(&self, provider: &str) -> u32 {
        self.0.get(provider).filter(|share| share.is_served()).map_or(0, |share| share.weight)
    }

    /// Returns the providers that are served, with their weights.
    pub(crate) fn served(&self) -> BTreeMap<&str, u32> {
        let served = self.0.iter().filter(|(_, share)| share.is_served());
        served.map(|(name, share)| (name.as_str(), share.weight)).collect()
    }

    /// Returns the share of each provider among the enabled providers, in hundredths of a per cent. A disabled provider
    /// has 0. The shares of the enabled providers add up to 100 %, if one of their weights is above 0.
    pub(crate) fn percents(&self) -> BTreeMap<&str, u32> {
        self.percents_of(Share::is_enabled)
    }

    /// As [`percents`](Self::percents), but among the providers that are served. These are the shares of the clients: a
    /// provider that is away has 0.
    pub(crate) fn served_percents(&self) -> BTreeMap<&str, u32> {
        self.percents_of(Share::is_served)
    }

    fn percents_of(&self, counts: fn(Share) -> bool) -> BTreeMap<&str, u32> {
        let weight = |share: &Share| if counts(*share) { u64::from(share.weight) } else { 0 };
        let weights: Vec<u64> = self.0.values().map(weight).collect();
        self.0.keys().map(String::as_str).zip(apportion(10_000, &weights)).collect()
    }

    /// Returns whether both have the same effect and the same data. A provider that is missing on one side equals a
    /// provider with the weight 0.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        let same = |(name, share): (&String, &Share), other: &Self| match other.0.get(name) {
            Some(found) => found == share,
            None => share.weight == 0,
        };
        self.0.iter().all(|entry| same(entry, other)) && other.0.iter().all(|entry| same(entry, self))
    }

    /// Returns whether both agree, except for the marks of providers that are away.
    pub(crate) fn has_same_weights(&self, other: &Self) -> bool {
        let present = |shares: &Self| {
            let mut shares = shares.clone();
            shares.0.values_mut().for_each(|share| share.away = false);
            shares
        };
        present(self).agrees_with(&present(other))
    }

    /// Returns the JSON for the records of PowerDNS, for the journal and for the operator's programs.
    pub(crate) fn to_json(&self) -> Value {
        let share = |share: &Share| {
            let mut value = json!({ "mode": share.mode.name(), "weight": share.weight });
            if share.away {
                value["away"] = true.into();
            }
            value
        };
        self.0.iter().map(|(name, one)| (name.clone(), share(one))).collect::<serde_json::Map<_, _>>().into()
    }

    /// Reads the JSON that [`to_json`](Self::to_json) writes. Other members are ignored. Returns `None` if the JSON has
    /// another form.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let share = |(name, value): (&String, &Value)| {
            let weight = value.get("weight")?.as_u64().filter(|weight| *weight <= MAX_WEIGHT)?;
            let away = match value.get("away") {
                None => false,
                Some(away) => away.as_bool()?,
            };
            let mode = Mode::named(value.get("mode")?.as_str()?)?;
            // Messages show the names of providers, so a name must have only the characters of a label.
            if label(name, &[], "").as_ref() != Ok(name) {
                return None;
            }
            Some((name.clone(), Share { mode, weight: u32::try_from(weight).ok()?, away }))
        };
        value.as_object()?.iter().map(share).collect::<Option<_>>().map(Self)
    }
}

/// Divides `total` in proportion to the weights, by the method of the largest remainder. The parts add up to `total`.
/// If all weights are 0, all parts are 0.
pub(crate) fn apportion(total: u32, weights: &[u64]) -> Vec<u32> {
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let exact = |weight: u64| u128::from(weight) * u128::from(total);
    // The quotients are at most `total`, so they fit.
    let mut parts: Vec<u32> =
        weights.iter().map(|&weight| u32::try_from(exact(weight) / sum).unwrap_or(total)).collect();
    let missing = total - parts.iter().sum::<u32>();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(weights.get(at).map_or(0, |&weight| exact(weight) % sum)));
    for at in order.into_iter().take(usize::try_from(missing).unwrap_or(0)) {
        if let Some(part) = parts.get_mut(at) {
            *part += 1;
        }
    }
    parts
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(entries: &[(&str, Mode, u32)]) -> Shares {
        Shares(entries.iter().map(|&(name, mode, weight)| (name.to_owned(), Share::new(mode, weight))).collect())
    }

    #[test]
    fn percents_when_a_provider_is_disabled_then_others_add_up_to_100() {
        let three = shares(&[("a", Mode::Obey, 5), ("b", Mode::Always, 15), ("c", Mode::No, 15)]);
        let percents = three.percents();
        assert_eq!((percents["a"], percents["b"], percents["c"]), (2_500, 7_500, 0));
        assert_eq!(shares(&[("a", Mode::Obey, 0)]).percents()["a"], 0);
    }

    #[test]
    fn percents_when_a_provider_is_away_then_only_its_served_percent_is_0() {
        let mut three = shares(&[("a", Mode::Obey, 100), ("b", Mode::Obey, 500), ("c", Mode::Obey, 400)]);
        three.0.get_mut("b").expect("b").away = true;
        assert_eq!((three.percents()["a"], three.percents()["b"]), (1_000, 5_000));
        assert_eq!((three.served_percents()["a"], three.served_percents()["b"]), (2_000, 0));
    }

    #[test]
    fn provider_when_away_then_is_served_only_in_mode_always() {
        for (mode, served) in [(Mode::Always, true), (Mode::Obey, false), (Mode::Remove, false), (Mode::No, false)] {
            assert_eq!(Share { mode, weight: 1, away: true }.is_served(), served, "{mode:?}");
        }
        assert!(!Share::new(Mode::Always, 0).is_served(), "a provider without weight is not served");
    }

    #[test]
    fn shares_when_json_has_another_form_then_are_rejected() {
        for text in [
            "[]",
            "7",
            r#"{"a":7}"#,
            r#"{"a":{"mode":"obey"}}"#,
            r#"{"\u001b[2J":{"mode":"obey","weight":1}}"#,
            r#"{"":{"mode":"obey","weight":1}}"#,
            r#"{"a":{"mode":"up","weight":1}}"#,
            r#"{"a":{"mode":"obey","weight":-1}}"#,
            r#"{"a":{"mode":"obey","weight":1.5}}"#,
            r#"{"a":{"mode":"obey","weight":99999999999}}"#,
            r#"{"a":{"mode":"obey","weight":1,"away":"yes"}}"#,
        ] {
            let value: Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(Shares::from_json(&value), None, "{text}");
        }
    }

    #[test]
    fn missing_provider_when_other_side_has_weight_0_then_both_agree() {
        let two = shares(&[("a", Mode::Obey, 5), ("b", Mode::Obey, 0)]);
        assert!(two.agrees_with(&shares(&[("a", Mode::Obey, 5)])) && shares(&[("a", Mode::Obey, 5)]).agrees_with(&two));
        assert!(!two.agrees_with(&shares(&[("b", Mode::Obey, 0)])));
    }

    pub(crate) fn any_shares() -> impl Strategy<Value = Shares> {
        let share = (0..4_usize, 0..=1000_u32, any::<bool>()).prop_map(|(mode, weight, away)| Share {
            mode: Mode::NAMES[mode].1,
            weight,
            away,
        });
        prop::collection::btree_map("[a-e]", share, 1..6).prop_map(Shares)
    }

    proptest! {
        #[test]
        fn parts_when_apportioned_then_add_up_and_differ_from_exact_parts_by_less_than_1(
            total in 1..100_000_u32,
            weights in prop::collection::vec(0..2_000_u64, 1..9),
        ) {
            let parts = apportion(total, &weights);
            let sum: u64 = weights.iter().sum();
            prop_assert_eq!(parts.iter().sum::<u32>(), if sum == 0 { 0 } else { total });
            for (&part, &weight) in parts.iter().zip(&weights) {
                // |part − total·weight/sum| < 1
                let (scaled, exact) = (u64::from(part) * sum, u64::from(total) * weight);
                prop_assert!(sum == 0 || scaled.abs_diff(exact) < sum, "{parts:?} of {weights:?}");
                prop_assert!(weight > 0 || part == 0);
            }
        }

        #[test]
        fn shares_when_written_as_json_then_read_back_as_the_same_shares(shares in any_shares()) {
            prop_assert_eq!(Shares::from_json(&shares.to_json()), Some(shares));
        }
    }
}
