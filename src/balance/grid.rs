//! The weights that a DNS service can store, and the computation of these weights from shares.

use std::collections::BTreeMap;

use super::share::{PERMILLE, apportion};

/// The largest accepted difference between a wanted share and the share that the service can store, in thousandths.
const MAX_ERROR_PERMILLE: u128 = 5;

/// Which weights a DNS service accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grid {
    /// The weights add up to 1000, the number of places to which PowerDNS hashes its clients.
    Thousandths,
    /// Each weight is at most this number.
    AtMost(u32),
}

impl Grid {
    /// Returns the weights for the service. `served` has the wanted weights, which are above 0.
    ///
    /// # Errors
    /// Returns a message if the service cannot store these shares closely enough.
    pub(crate) fn weights(self, served: &BTreeMap<&str, u32>) -> Result<BTreeMap<String, u32>, String> {
        let wanted: Vec<u64> = served.values().map(|&weight| u64::from(weight)).collect();
        let parts = match self {
            Self::Thousandths => apportion(PERMILLE, &wanted),
            Self::AtMost(most) => scale(&wanted, u64::from(most)),
        };
        let (sum_wanted, sum): (u64, u64) = (wanted.iter().sum(), parts.iter().map(|&part| u64::from(part)).sum());
        for ((name, &weight), &part) in served.iter().zip(&parts) {
            let stored = u128::from(part) * u128::from(sum_wanted);
            let exact = u128::from(weight) * u128::from(sum);
            let both = u128::from(sum) * u128::from(sum_wanted);
            if part == 0 || stored.abs_diff(exact) * u128::from(PERMILLE) > both * MAX_ERROR_PERMILLE {
                return Err(format!(
                    "{name} cannot have {}, because the nearest share that this service can store is {}",
                    percent(weight.into(), sum_wanted),
                    percent(part.max(1).into(), sum)
                ));
            }
        }
        Ok(served.keys().map(|name| (*name).to_owned()).zip(parts).collect())
    }
}

/// Scales weights so that the largest weight is at most `most`. If the weights fit after a division by their greatest
/// common divisor, their ratios stay exact.
fn scale(wanted: &[u64], most: u64) -> Vec<u32> {
    let divisor = wanted.iter().copied().fold(0, gcd).max(1);
    let largest = wanted.iter().copied().max().unwrap_or(1).max(1);
    let scaled = |&weight: &u64| {
        let part = if largest / divisor <= most {
            weight / divisor
        } else {
            // Rounded to the nearest whole number, but at least 1.
            ((weight * most * 2 + largest) / (largest * 2)).max(1)
        };
        u32::try_from(part).unwrap_or(u32::MAX)
    };
    wanted.iter().map(scaled).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Writes a part of a sum as per cent, with one decimal.
pub(crate) fn percent(part: u64, sum: u64) -> String {
    let tenths = if sum == 0 { 0 } else { (u128::from(part) * 2_000 + u128::from(sum)) / (u128::from(sum) * 2) };
    format!("{}.{} %", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of<'n>(weights: &[(&'n str, u32)]) -> BTreeMap<&'n str, u32> {
        weights.iter().copied().collect()
    }

    fn stored(grid: Grid, weights: &[(&str, u32)]) -> Result<Vec<u32>, String> {
        grid.weights(&of(weights)).map(|weights| weights.into_values().collect())
    }

    #[test]
    fn weights_when_grid_is_thousandths_then_add_up_to_1000() {
        let fine = [("a", 5), ("b", 15), ("c", 15)];
        assert_eq!(stored(Grid::Thousandths, &fine), Ok(vec![143, 429, 428]));
        assert_eq!(stored(Grid::Thousandths, &[("a", 7)]), Ok(vec![1000]));
    }

    #[test]
    fn weights_when_share_is_too_small_for_the_grid_then_message_names_the_nearest_share() {
        assert_eq!(stored(Grid::AtMost(255), &[("a", 10), ("b", 495), ("c", 495)]), Ok(vec![2, 99, 99]));
        assert_eq!(stored(Grid::AtMost(255), &[("a", 10), ("b", 990)]), Ok(vec![1, 99]));
        let error =
            stored(Grid::AtMost(15), &[("a", 10), ("b", 495), ("c", 495)]).expect_err("1 % needs weights up to 99");
        assert_eq!(error, "a cannot have 1.0 %, because the nearest share that this service can store is 3.2 %");
        let error = stored(Grid::Thousandths, &[("a", 1), ("b", 5000)]).expect_err("0.02 % is below 0.1 %");
        assert!(error.contains("is 0.1 %"), "{error}");
    }

    #[test]
    fn percent_when_written_then_is_rounded_to_one_decimal() {
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(2, 3), "66.7 %");
        assert_eq!(percent(1000, 1000), "100.0 %");
        assert_eq!(percent(1, 0), "0.0 %");
    }

    proptest! {
        #[test]
        fn weights_when_stored_then_are_on_the_grid_and_close_to_the_wanted_shares(
            weights in prop::collection::btree_map("[a-f]", 1..=1000_u32, 1..6),
            most in 1..=1000_u32,
        ) {
            let served: BTreeMap<&str, u32> = weights.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
            for grid in [Grid::Thousandths, Grid::AtMost(most)] {
                let Ok(stored) = grid.weights(&served) else { continue };
                let sum: u32 = stored.values().sum();
                match grid {
                    Grid::Thousandths => prop_assert_eq!(sum, 1000),
                    Grid::AtMost(most) => prop_assert!(stored.values().all(|weight| *weight <= most)),
                }
                let wanted: u32 = served.values().sum();
                for (name, weight) in &stored {
                    prop_assert!(*weight > 0);
                    let difference = f64::from(*weight) / f64::from(sum)
                        - f64::from(served[name.as_str()]) / f64::from(wanted);
                    prop_assert!(difference.abs() <= 0.005_001, "{grid:?}: {served:?} became {stored:?}");
                }
            }
        }
    }
}
