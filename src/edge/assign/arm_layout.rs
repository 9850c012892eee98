//! Decides which ids get which arm. An id has a place, which is a hash of the experiment's name and the id. Each arm
//! owns as many places as its share says.
//!
//! Apart from rounding, the places are divided into lanes of equal width, one lane for each arm in the order of the
//! arms' names. An arm first owns places of its own lane, from the lane's beginning. An arm whose share is larger than
//! its lane also owns places at the end of other lanes, if the arms of these lanes do not own these places. Therefore:
//!
//! - If only one arm gets a larger share, this arm keeps all of its places and gets more places. If only one arm gets a
//!   smaller share, this arm only loses places.
//! - An arm whose share is not larger than a lane keeps exactly its places when the shares of other arms change.
//!   With two arms, this is true for shares of any size, as long as their sum stays within 100 %.
//! - With three or more arms, an arm that is larger than a lane can lose places in another lane, if the shares of
//!   other arms change.
//! - If an arm is added, removed or renamed, the lanes change, and ids get other arms.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::keys::{Checked, Text};

/// The number of places.
pub(crate) const PLACES: u32 = 1_000_000;
/// The number of places in one per cent.
const PLACES_IN_A_PER_CENT: u32 = PLACES / 100;

/// The share of an arm, in places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share(pub(crate) u32);

/// The share of an arm as a percentage, with up to four decimals.
pub(crate) const SHARE: Text<Share> = Text { example: "10.0", read: share, write: |share| per_cent(share.0) };

/// Returns a number of places as a percentage.
pub(crate) fn per_cent(places: u32) -> String {
    let (whole, rest) = (places / PLACES_IN_A_PER_CENT, places % PLACES_IN_A_PER_CENT);
    let decimals = format!("{rest:04}");
    let decimals = decimals.trim_end_matches('0');
    format!("{whole}.{}", if decimals.is_empty() { "0" } else { decimals })
}

fn share(text: &str, _: &Path) -> Checked<Share> {
    const WRONG: &str =
        "is not a percentage; write a number from 0 to 100 with at most four decimals, for example 10.0";
    let digits = |text: &str, most: usize| {
        let fine = (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        fine.then(|| text.parse::<u32>().ok()).flatten()
    };
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let has_decimals = !decimals.is_empty();
    let places = digits(whole, 3).zip(digits(&format!("{decimals:0<4}"), 4).filter(|_| has_decimals));
    match places.map(|(whole, decimals)| whole * PLACES_IN_A_PER_CENT + decimals) {
        Some(places) if places <= PLACES => Ok(Share(places)),
        _ => Err(WRONG.to_owned()),
    }
}

/// The places of all arms of one experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArmLayout {
    /// Runs of places, sorted. A run has its first place, the place after its last place, and the position of its arm.
    runs: Vec<(u32, u32, usize)>,
}

impl ArmLayout {
    /// Gives places to the arms. The sum of the shares must not be larger than [`PLACES`].
    pub(crate) fn new(shares: &[Share]) -> Self {
        let lanes = u32::try_from(shares.len()).unwrap_or(u32::MAX);
        let start = |lane: u32| u32::try_from(u64::from(PLACES) * u64::from(lane) / u64::from(lanes)).unwrap_or(PLACES);
        let (mut runs, mut free) = (Vec::new(), Vec::new());
        for ((lane, share), arm) in (0..lanes).zip(shares).zip(0..) {
            let (first, end) = (start(lane), start(lane + 1));
            let split = first + share.0.min(end - first);
            runs.push((first, split, arm));
            free.push((split, end));
        }
        for (arm, share) in shares.iter().enumerate() {
            let mut missing = share.0.saturating_sub(runs.get(arm).map_or(0, |(first, end, _)| end - first));
            let (before, after) = free.split_at_mut(arm);
            for (first, end) in after.iter_mut().chain(before) {
                let taken = missing.min(*end - *first);
                *end -= taken;
                missing -= taken;
                runs.push((*end, *end + taken, arm));
            }
        }
        runs.retain(|(first, end, _)| first < end);
        runs.sort_unstable();
        Self { runs }
    }

    /// Returns the position of the arm that owns a place.
    pub(crate) fn arm(&self, place: u32) -> Option<usize> {
        let at = self.runs.partition_point(|&(_, end, _)| end <= place);
        self.runs.get(at).filter(|(first, ..)| *first <= place).map(|&(.., arm)| arm)
    }
}

/// Returns the place of an id: the first 64 bits of the SHA-256 of the experiment's name, a zero byte and the id,
/// scaled to the number of places.
pub(crate) fn place(experiment: &str, id: &[u8]) -> u32 {
    let digest = Sha256::new().chain_update(experiment).chain_update([0]).chain_update(id).finalize();
    let high = digest.iter().take(8).fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
    u32::try_from((u128::from(high) * u128::from(PLACES)) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(per_cents: &[f64]) -> ArmLayout {
        ArmLayout::new(&per_cents.iter().map(|&number| read(&number.to_string()).unwrap()).collect::<Vec<_>>())
    }

    fn read(text: &str) -> Checked<Share> {
        share(text, Path::new(""))
    }

    #[test]
    fn share_when_valid_then_is_read_and_written_else_is_rejected() {
        for (text, places, written) in [
            ("0", 0, "0.0"),
            ("10", 100_000, "10.0"),
            ("10.0", 100_000, "10.0"),
            ("0.0001", 1, "0.0001"),
            ("33.33", 333_300, "33.33"),
            ("100.0", PLACES, "100.0"),
        ] {
            assert_eq!(read(text), Ok(Share(places)), "{text}");
            assert_eq!(per_cent(places), written);
        }
        for wrong in
            ["", ".", "1.", ".5", "-1", "+1", "100.0001", "101", "0.00001", "1e1", "nan", "inf", "1_0", "999999"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ids_when_100_000_are_assigned_then_shares_differ_by_less_than_1_percentage_point() {
        for shares in [&[10.0, 90.0][..], &[1.0, 10.0, 50.0], &[45.0, 45.0, 5.0], &[0.0, 33.3333, 0.5, 20.0]] {
            let layout = layout(shares);
            let mut counts = vec![0_u32; shares.len() + 1];
            for id in 0..100_000 {
                let arm = layout.arm(place("cdn", format!("visitor-{id}").as_bytes()));
                counts[arm.unwrap_or(shares.len())] += 1;
            }
            let rest = 100.0 - shares.iter().sum::<f64>();
            for (share, count) in shares.iter().chain([&rest]).zip(&counts) {
                let found = f64::from(*count) / 1000.0;
                assert!((found - share).abs() < 1.0, "{shares:?}: found {found} per cent, expected {share}");
            }
        }
    }

    #[test]
    fn id_when_hashed_then_place_is_the_same_in_every_release() {
        // If these numbers change, visitors move to other arms.
        assert_eq!([place("cdn", b"4711"), place("cdn", b""), place("image", b"4711")], PINNED);
    }

    const PINNED: [u32; 3] = [138_990, 669_735, 482_970];

    #[test]
    fn id_with_an_arm_when_an_arm_is_raised_then_keeps_the_arm() {
        let (before, after) = (layout(&[1.0, 30.0, 1.0]), layout(&[10.0, 30.0, 1.0]));
        let mut added = 0;
        for id in 0..100_000 {
            let place = place("cdn", id.to_string().as_bytes());
            match (before.arm(place), after.arm(place)) {
                (None, Some(0)) => added += 1,
                (before, after) => assert_eq!(before, after, "{id}"),
            }
        }
        assert!((8_000..10_000).contains(&added), "{added} ids were added");
    }

    /// Returns the number of places that each arm owns.
    fn owned(layout: &ArmLayout, arms: usize) -> Vec<u32> {
        let mut owned = vec![0; arms];
        for (first, end, arm) in &layout.runs {
            owned[*arm] += end - first;
        }
        owned
    }

    /// Whether every place that `arm` owns in `before` is also a place of `arm` in `after`.
    fn keeps(before: &ArmLayout, after: &ArmLayout, arm: usize) -> bool {
        let edges = || before.runs.iter().chain(&after.runs).flat_map(|&(first, end, _)| [first, end, end - 1]);
        edges().filter(|&place| before.arm(place) == Some(arm)).all(|place| after.arm(place) == Some(arm))
    }

    fn shares() -> impl Strategy<Value = Vec<Share>> {
        prop::collection::vec(0..=PLACES, 1..=8).prop_map(|weights| {
            let sum = weights.iter().map(|&weight| u64::from(weight)).sum::<u64>().max(u64::from(PLACES));
            let share = |&weight: &u32| Share(u32::try_from(u64::from(weight) * u64::from(PLACES) / sum).unwrap());
            weights.iter().map(share).collect()
        })
    }

    proptest! {
        #[test]
        fn arms_when_laid_out_then_own_exactly_their_shares(shares in shares()) {
            let layout = ArmLayout::new(&shares);
            let expected: Vec<u32> = shares.iter().map(|share| share.0).collect();
            prop_assert_eq!(owned(&layout, shares.len()), expected);
            prop_assert!(layout.runs.windows(2).all(|pair| pair[0].1 <= pair[1].0), "runs overlap");
        }

        #[test]
        fn arm_when_raised_alone_then_keeps_its_places(shares in shares(), arm in 0_usize..8, more in 0..=PLACES) {
            let arm = arm % shares.len();
            let rest = PLACES - shares.iter().map(|share| share.0).sum::<u32>();
            let mut raised = shares.clone();
            raised[arm].0 += more.min(rest);
            let (before, after) = (ArmLayout::new(&shares), ArmLayout::new(&raised));
            prop_assert!(keeps(&before, &after, arm));
        }

        #[test]
        fn arm_when_not_larger_than_a_lane_and_other_arms_change_then_keeps_its_places(
            before in shares(), after in shares(), small in 0_usize..8, share in 0..=PLACES,
        ) {
            let arms = before.len().min(after.len());
            let (small, lane) = (small % arms, PLACES / u32::try_from(arms).unwrap());
            // The other arms share what remains, so that the sum stays within 100 per cent.
            let fixed = share % (lane + 1);
            let with = |shares: &[Share]| {
                let rest = u64::from(PLACES - fixed);
                let scaled = |share: &Share| {
                    Share(u32::try_from(u64::from(share.0) * rest / u64::from(PLACES)).unwrap())
                };
                let mut shares: Vec<_> = shares[..arms].iter().map(scaled).collect();
                shares[small] = Share(fixed);
                ArmLayout::new(&shares)
            };
            prop_assert!(keeps(&with(&before), &with(&after), small));
        }

        #[test]
        fn one_of_two_arms_when_not_lowered_then_keeps_its_places(
            first in 0..=PLACES, second in 0..=PLACES, raised in 0..=PLACES, other in 0..=PLACES,
        ) {
            let second = second.min(PLACES - first);
            let raised = first.max(raised);
            let other = other.min(PLACES - raised);
            let of = |first, second| ArmLayout::new(&[Share(first), Share(second)]);
            prop_assert!(keeps(&of(first, second), &of(raised, other), 0));
            let mirrored = |first, second| ArmLayout::new(&[Share(second), Share(first)]);
            prop_assert!(keeps(&mirrored(first, second), &mirrored(raised, other), 1));
        }
    }
}
