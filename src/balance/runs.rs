//! Computes which places, and so which clients, each provider gets.
//!
//! PowerDNS hashes each client to one of 1000 places in a line, and each place has a provider. A run is a sequence of
//! neighbouring places with one provider. If the runs were sorted by provider, a small change would shift all later
//! runs, and many clients would move. So a change keeps the runs and moves only the places that must move.

use std::collections::BTreeMap;

use super::share::PERMILLE;

/// The largest number of runs. With more runs, the runs are sorted by provider again, which moves more clients once.
const MAX_RUNS: usize = 64;

/// A provider, and the number of its neighbouring places.
pub(crate) type Run = (String, u32);

/// Returns the runs for the wanted weights, which add up to 1000 or are empty. As few places as possible get a provider
/// that differs from the provider in `old`. If `old` does not add up to 1000, or if there would be more than `MAX_RUNS`
/// runs, the runs are sorted by provider.
pub(crate) fn rearranged(old: &[Run], wanted: &BTreeMap<String, u32>) -> Vec<Run> {
    let sorted = || wanted.iter().map(|(name, weight)| (name.clone(), *weight)).filter(|run| run.1 > 0).collect();
    let total: u64 = old.iter().map(|run| u64::from(run.1)).sum();
    if total != u64::from(PERMILLE) || wanted.values().sum::<u32>() != PERMILLE {
        return sorted();
    }
    let mut runs = merged(old.to_vec());
    while let Some((loser, gainer, places)) = next_move(&runs, wanted) {
        give(&mut runs, loser, &gainer, places);
        runs = merged(runs);
    }
    if runs.len() > MAX_RUNS { sorted() } else { runs }
}

/// The end of a run at which the run gives places away.
#[derive(Clone, Copy)]
enum Side {
    /// The first places go to the provider of the run before.
    Before,
    /// The last places go to the provider of the run after, or to a provider without a neighbouring run.
    After,
}

/// Returns the next run that gives places away: its position and the side, the provider that gets the places, and
/// their number. Moves between neighbouring runs come first, because they do not increase the number of runs.
fn next_move(runs: &[Run], wanted: &BTreeMap<String, u32>) -> Option<((usize, Side), String, u32)> {
    let held = |name: &str| runs.iter().filter(|run| run.0 == name).map(|run| run.1).sum::<u32>();
    let target = |name: &str| wanted.get(name).copied().unwrap_or(0);
    let surplus = |name: &str| held(name).saturating_sub(target(name));
    let deficit = |name: &str| target(name).saturating_sub(held(name));
    for (at, (name, length)) in runs.iter().enumerate().filter(|(_, run)| surplus(&run.0) > 0) {
        let before = at.checked_sub(1).and_then(|before| runs.get(before));
        for (side, neighbour) in [(Side::Before, before), (Side::After, runs.get(at + 1))] {
            if let Some((neighbour, _)) = neighbour
                && deficit(neighbour) > 0
            {
                let places = surplus(name).min(deficit(neighbour)).min(*length);
                return Some(((at, side), neighbour.clone(), places));
            }
        }
    }
    let (at, (name, length)) =
        runs.iter().enumerate().filter(|(_, run)| surplus(&run.0) > 0).max_by_key(|(_, run)| run.1)?;
    let gainer = wanted.keys().find(|name| deficit(name) > 0)?;
    Some(((at, Side::After), gainer.clone(), surplus(name).min(deficit(gainer)).min(*length)))
}

fn give(runs: &mut Vec<Run>, (at, side): (usize, Side), gainer: &str, places: u32) {
    if let Some(run) = runs.get_mut(at) {
        run.1 -= places;
        let position = match side {
            Side::Before => at,
            Side::After => at + 1,
        };
        runs.insert(position, (gainer.to_owned(), places));
    }
}

/// Removes empty runs, and joins neighbouring runs of one provider.
fn merged(runs: Vec<Run>) -> Vec<Run> {
    let mut merged: Vec<Run> = Vec::with_capacity(runs.len());
    for (name, length) in runs {
        match merged.last_mut() {
            _ if length == 0 => {}
            Some(last) if last.0 == name => last.1 += length,
            _ => merged.push((name, length)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weights(parts: &[(&str, u32)]) -> BTreeMap<String, u32> {
        parts.iter().map(|(name, part)| ((*name).to_owned(), *part)).collect()
    }

    fn runs(parts: &[(&str, u32)]) -> Vec<Run> {
        parts.iter().map(|(name, part)| ((*name).to_owned(), *part)).collect()
    }

    fn places(runs: &[Run]) -> Vec<&str> {
        runs.iter().flat_map(|(name, length)| (0..*length).map(move |_| name.as_str())).collect()
    }

    #[test]
    fn runs_when_old_runs_are_missing_or_incomplete_then_are_sorted_by_provider() {
        let wanted = weights(&[("a", 143), ("b", 429), ("c", 428), ("d", 0)]);
        assert_eq!(rearranged(&[], &wanted), runs(&[("a", 143), ("b", 429), ("c", 428)]));
        assert_eq!(rearranged(&runs(&[("x", 7)]), &wanted).len(), 3, "runs with another sum cannot be kept");
    }

    #[test]
    fn runs_when_first_provider_loses_then_only_places_of_this_provider_move() {
        // Sorted runs would also move 150 places from b to c.
        let old = runs(&[("a", 333), ("b", 333), ("c", 334)]);
        let new = rearranged(&old, &weights(&[("a", 32), ("b", 484), ("c", 484)]));
        let moved = places(&old).iter().zip(places(&new)).filter(|(old, new)| **old != *new).count();
        assert_eq!(moved, 301, "{new:?}");
    }

    #[test]
    fn runs_when_no_provider_is_served_then_are_empty() {
        assert_eq!(rearranged(&runs(&[("a", 1000)]), &BTreeMap::new()), []);
    }

    fn any_weights() -> impl Strategy<Value = BTreeMap<String, u32>> {
        prop::collection::btree_map("[a-f]", 1..=1000_u32, 1..6).prop_map(|weights| {
            let parts: Vec<u64> = weights.values().map(|&weight| weight.into()).collect();
            weights.into_keys().zip(crate::balance::share::apportion(PERMILLE, &parts)).collect()
        })
    }

    proptest! {
        #[test]
        fn runs_when_weights_change_then_as_few_places_as_possible_move(
            steps in prop::collection::vec(any_weights(), 2..8),
        ) {
            let mut old: Vec<Run> = Vec::new();
            for wanted in &steps {
                let new = rearranged(&old, wanted);
                let held = |runs: &[Run], name: &str| {
                    runs.iter().filter(|run| run.0 == name).map(|run| run.1).sum::<u32>()
                };
                for (name, weight) in wanted {
                    prop_assert_eq!(held(&new, name), *weight);
                }
                prop_assert_eq!(places(&new).len(), 1000);
                prop_assert!(new.len() <= MAX_RUNS);
                if !old.is_empty() {
                    let moved = places(&old).iter().zip(places(&new)).filter(|(old, new)| **old != *new).count();
                    let names: std::collections::BTreeSet<&str> = old.iter().map(|run| run.0.as_str()).collect();
                    let must: u32 =
                        names.iter().map(|name| held(&old, name).saturating_sub(held(&new, name))).sum();
                    prop_assert_eq!(moved, must as usize, "{:?} became {:?}", old, new);
                }
                old = new;
            }
        }
    }
}
