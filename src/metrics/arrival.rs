//! When a change of a share has arrived: the arithmetic for the times t50, t90 and t99. The page of `admin` and
//! `edgeshim balance ramp` use this arithmetic. `admin/convergence.rs` describes the method and its error.
//!
//! A look begins at a step of the weights. During the look, the change is measured. A look has one entry for each
//! sample: the end of the sample in seconds after the step, the pulls of the provider, and the pulls of all providers
//! that count.
//! A ramp that has the requests at the edge uses these requests in place of the pulls.

/// The parts of the change whose arrival is calculated.
pub(crate) const PARTS: [(&str, f64); 3] = [("t50", 0.5), ("t90", 0.9), ("t99", 0.99)];
/// The number of standard deviations that count as chance.
const CHANCE: f64 = 2.0;
/// A difference of two measured shares is certain if it is larger than this number of standard errors.
const SURE: f64 = 3.0;

/// The time after a step at which a part of the change had arrived, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Arrival {
    pub seconds: f64,
    pub earliest: f64,
    pub latest: f64,
}

/// Returns the largest difference that chance explains, between a share and its measurement or between two
/// measurements. `parts`: the sum of 1 / pulls of the measurements.
pub(crate) fn chance(share: f64, parts: f64) -> f64 {
    SURE * (share * (1.0 - share) * parts).max(0.0).sqrt()
}

/// Returns the running sums of `pulls of the provider - level × all pulls`, with the opposite sign if the share falls.
/// Each entry has the time, the sum, and the number of all pulls until then. The first entry is the start of the look.
pub(crate) fn sums(look: &[(f64, f64, f64)], level: f64, is_rise: bool) -> Vec<(f64, f64, f64)> {
    let (mut sum, mut all) = (0.0, 0.0);
    let added = look.iter().map(|(time, pulls, of)| {
        let excess = pulls - level * of;
        sum += if is_rise { excess } else { -excess };
        all += of;
        (*time, sum, all)
    });
    std::iter::once((0.0, 0.0, 0.0)).chain(added).collect()
}

/// Returns the entry with the smallest sum.
pub(crate) fn minimum(sums: &[(f64, f64, f64)]) -> (f64, f64, f64) {
    sums.iter().copied().min_by(|one, other| one.1.total_cmp(&other.1)).unwrap_or_default()
}

/// Returns the moment after which a share stays beyond a level. `None`: the share has not passed the level, or the
/// pulls after this moment are too few to exclude chance.
pub(crate) fn arrival(look: &[(f64, f64, f64)], level: f64, is_rise: bool) -> Option<Arrival> {
    let sums = sums(look, level, is_rise);
    let (seconds, lowest, pulls) = minimum(&sums);
    let variance = (level * (1.0 - level)).max(0.0);
    let by_chance =
        |(_, sum, all): &&(f64, f64, f64)| sum - lowest <= CHANCE * (variance * (all - pulls).abs()).sqrt() + 1e-6;
    let earliest = sums.iter().find(by_chance)?.0;
    let latest = sums.iter().rev().find(by_chance)?.0;
    (latest < sums.last()?.0).then_some(Arrival { seconds, earliest, latest })
}
