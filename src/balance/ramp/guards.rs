//! The guards of a ramp. Each guard compares a figure of the provider with a limit, and with the same figure of the
//! other providers in the same time. If the figure is as bad for the other providers, the provider is not the cause, so
//! there is no breach.

use crate::balance::figures::{Counts, Growth};
use crate::balance::ramp_keys::GuardKeys;
use crate::metrics::arrival::chance;

/// The smallest number of errors, and of beacons, that can be a breach. One failure among ten pulls proves nothing.
const LEAST_EVENTS: f64 = 5.0;
/// The smallest number of load times or pull times for a percentile, and of requests at the edge for an offload.
const LEAST_TIMES: f64 = 100.0;

/// The result of a guard.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    Fine,
    /// There is no figure. The text says why.
    Unknown(&'static str),
    /// The figure is beyond the limit. If there is a figure of the other providers, that figure is better.
    Breach {
        /// Whether the numbers exclude chance. If they do not, a breach counts only at two looks in a row.
        is_certain: bool,
    },
}

/// One guard with its figures.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    pub guard: &'static str,
    pub verdict: Verdict,
    /// The provider's figure and the figure of the other providers, for people.
    pub figures: String,
}

/// What the guards compare.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Compared<'p> {
    pub provider: &'p str,
    /// The other providers that are served.
    pub others: &'p [String],
    /// Whether the shims count the provider's beacons.
    pub has_beacons: bool,
}

/// Returns the reading of each guard that is on. If there are no other providers, `p95_ratio` and `offload_drop` have
/// no reading.
pub(crate) fn read(guard: &GuardKeys, compared: Compared<'_>, growth: &Growth) -> Vec<Reading> {
    let (own, others) = (growth.of(compared.provider), growth.sum(compared.others.iter()));
    let mut readings = Vec::new();
    readings.extend(guard.errors.map(|limit| errors(limit, &own, &others)));
    readings.extend(guard.beacons_per_minute.map(|limit| beacons(limit, growth.seconds, compared, &own, &others)));
    // `p95_ratio` and `offload_drop` only compare the provider with the other providers.
    let has_others = !compared.others.is_empty();
    readings.extend(guard.p95_ratio.filter(|_| has_others).map(|limit| p95(limit, &own, &others)));
    readings.extend(guard.offload_drop.filter(|_| has_others).map(|limit| offload(limit, &own, &others)));
    readings
}

fn per_cent(part: f64) -> String {
    let per_cent = part * 100.0;
    if per_cent > 0.0 && per_cent < 0.995 { format!("{per_cent:.2} %") } else { format!("{per_cent:.1} %") }
}

fn errors(limit: f64, own: &Counts, others: &Counts) -> Reading {
    let reading = |verdict, figures| Reading { guard: "errors", verdict, figures };
    if own.pulls <= 0.0 {
        return reading(Verdict::Unknown("the provider has no pulls"), "errors unknown".to_owned());
    }
    let part = own.errors / own.pulls;
    let of_others = (others.pulls > 0.0).then(|| others.errors / others.pulls);
    let beside = of_others.map(|part| format!(" (others {})", per_cent(part))).unwrap_or_default();
    let is_worse = of_others.is_none_or(|of_others| {
        let all = own.pulls + others.pulls;
        let mean = (own.errors + others.errors) / all;
        part - of_others > chance(mean, 1.0 / own.pulls + 1.0 / others.pulls)
    });
    let is_breach = part > limit && own.errors >= LEAST_EVENTS && is_worse;
    let verdict = if is_breach { Verdict::Breach { is_certain: true } } else { Verdict::Fine };
    reading(verdict, format!("errors {} of {} pulls{beside}", per_cent(part), own.pulls))
}

/// Reads the guard of beacons. The number of the other providers' beacons is scaled to the number of the provider's
/// pulls.
fn beacons(limit: f64, seconds: f64, compared: Compared<'_>, own: &Counts, others: &Counts) -> Reading {
    let reading = |verdict, figures| Reading { guard: "beacons_per_minute", verdict, figures };
    if !compared.has_beacons {
        let why = "no shim counts beacons of this provider; write the provider into beacon.sources of edgeshim.toml";
        return reading(Verdict::Unknown(why), "beacons unknown".to_owned());
    }
    if seconds <= 0.0 {
        return reading(Verdict::Unknown("no time has passed"), "beacons unknown".to_owned());
    }
    let rate = own.beacons * 60.0 / seconds;
    let expected = (others.pulls > 0.0).then(|| others.beacons * own.pulls / others.pulls);
    let beside = expected.map(|beacons| format!(" (others {:.1})", beacons * 60.0 / seconds)).unwrap_or_default();
    // The standard deviation of a number of independent beacons is the square root of this number.
    let is_worse = expected.is_none_or(|expected| own.beacons - expected > 3.0 * own.beacons.max(expected).sqrt());
    let is_breach = rate > limit && own.beacons >= LEAST_EVENTS && is_worse;
    let verdict = if is_breach { Verdict::Breach { is_certain: true } } else { Verdict::Fine };
    reading(verdict, format!("beacons {rate:.1} a minute{beside}"))
}

fn p95(limit: f64, own: &Counts, others: &Counts) -> Reading {
    let reading = |verdict, figures| Reading { guard: "p95_ratio", verdict, figures };
    let has_enough = |times: fn(&Counts) -> f64| times(own) >= LEAST_TIMES && times(others) >= LEAST_TIMES;
    // Browsers report the load times that users get. If there are too few load times, the times of the pulls count.
    let (what, of_own, of_others) = if has_enough(|counts| counts.load_times.count()) {
        ("load time", &own.load_times, &others.load_times)
    } else if has_enough(|counts| counts.pull_times.count()) {
        ("pull time", &own.pull_times, &others.pull_times)
    } else {
        return reading(
            Verdict::Unknown("the provider or the others have fewer than 100 load times, and also too few pull times"),
            "p95 unknown".into(),
        );
    };
    let (Some(time), Some(beside)) = (of_own.quantile(0.95), of_others.quantile(0.95)) else {
        return reading(Verdict::Unknown("there are no times"), "p95 unknown".to_owned());
    };
    let verdict = if time > beside * limit { Verdict::Breach { is_certain: false } } else { Verdict::Fine };
    reading(verdict, format!("p95 of the {what} {} (others {})", seconds(time), seconds(beside)))
}

fn seconds(time: f64) -> String {
    if time < 1.0 { format!("{:.0} ms", time * 1000.0) } else { format!("{time:.2} s") }
}

fn offload(limit: f64, own: &Counts, others: &Counts) -> Reading {
    let reading = |verdict, figures| Reading { guard: "offload_drop", verdict, figures };
    let of = |counts: &Counts| {
        (counts.edge_requests >= LEAST_TIMES).then(|| (1.0 - counts.pulls / counts.edge_requests).max(0.0))
    };
    let (Some(part), Some(beside)) = (of(own), of(others)) else {
        let why = "the shims have logs of fewer than 100 requests at the edge of the provider or of the others";
        return reading(Verdict::Unknown(why), "offload unknown".to_owned());
    };
    let verdict = if beside - part > limit { Verdict::Breach { is_certain: false } } else { Verdict::Fine };
    reading(verdict, format!("offload {} (others {})", per_cent(part), per_cent(beside)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::figures::tests::{counts, times};

    const ERRORS: GuardKeys =
        GuardKeys { errors: Some(0.01), beacons_per_minute: None, p95_ratio: None, offload_drop: None };

    fn verdict_of(guard: &GuardKeys, own: Counts, others: Option<Counts>) -> Verdict {
        let names: Vec<String> = others.iter().map(|_| "b".to_owned()).collect();
        let providers = [("a".to_owned(), own)].into_iter().chain(others.map(|others| ("b".to_owned(), others)));
        let growth = Growth { seconds: 60.0, providers: providers.collect() };
        let compared = Compared { provider: "a", others: &names, has_beacons: true };
        let [reading] = &read(guard, compared, &growth)[..] else { panic!("one guard is on") };
        reading.verdict.clone()
    }

    #[test]
    fn errors_when_above_the_limit_then_are_a_breach_only_if_worse_than_errors_of_others() {
        let breach = Verdict::Breach { is_certain: true };
        for (own, others, expected) in [
            (counts(1000.0, 50.0), Some(counts(9000.0, 9.0)), breach.clone()),
            (counts(1000.0, 10.0), Some(counts(9000.0, 0.0)), Verdict::Fine),
            // All providers fail, so the origin is the cause.
            (counts(1000.0, 310.0), Some(counts(9000.0, 2700.0)), Verdict::Fine),
            // All providers fail, but the errors of this provider are clearly more.
            (counts(1000.0, 450.0), Some(counts(9000.0, 2700.0)), breach.clone()),
            // Four failures are too few, even if all pulls fail.
            (counts(4.0, 4.0), Some(counts(9000.0, 0.0)), Verdict::Fine),
            (counts(5.0, 5.0), Some(counts(9000.0, 0.0)), breach.clone()),
            // If there are no other providers, or if they have no pulls, the limit decides.
            (counts(1000.0, 11.0), None, breach.clone()),
            (counts(1000.0, 11.0), Some(counts(0.0, 0.0)), breach),
            // The provider has no pulls.
            (counts(0.0, 0.0), Some(counts(9000.0, 0.0)), Verdict::Unknown("the provider has no pulls")),
        ] {
            assert_eq!(verdict_of(&ERRORS, own.clone(), others), expected, "{own:?}");
        }
    }

    #[test]
    fn beacons_when_compared_then_beacons_of_others_are_scaled_to_the_pulls() {
        let guard = GuardKeys { errors: None, beacons_per_minute: Some(50.0), ..ERRORS };
        let with = |pulls, beacons| Counts { beacons, ..counts(pulls, 0.0) };
        let breach = Verdict::Breach { is_certain: true };
        assert_eq!(verdict_of(&guard, with(100.0, 60.0), Some(with(9900.0, 100.0))), breach);
        assert_eq!(verdict_of(&guard, with(100.0, 60.0), Some(with(900.0, 540.0))), Verdict::Fine);
        assert_eq!(verdict_of(&guard, with(100.0, 40.0), Some(with(9900.0, 0.0))), Verdict::Fine);
        // An edge that is down sends no pulls, but the browsers send beacons.
        assert_eq!(verdict_of(&guard, with(0.0, 60.0), Some(with(9900.0, 100.0))), breach);
    }

    #[test]
    fn p95_when_100_times_are_known_then_is_compared_and_otherwise_is_unknown() {
        let guard = GuardKeys { errors: None, p95_ratio: Some(1.2), ..ERRORS };
        let with = |count: f64, slow: f64| Counts {
            pull_times: times(&[(0.1, count - slow), (1.0, count), (f64::INFINITY, count)]),
            ..Counts::default()
        };
        let breach = Verdict::Breach { is_certain: false };
        assert_eq!(verdict_of(&guard, with(100.0, 50.0), Some(with(1000.0, 10.0))), breach);
        assert_eq!(verdict_of(&guard, with(100.0, 1.0), Some(with(1000.0, 10.0))), Verdict::Fine);
        assert!(matches!(verdict_of(&guard, with(99.0, 50.0), Some(with(1000.0, 10.0))), Verdict::Unknown(_)));
        assert!(matches!(verdict_of(&guard, with(100.0, 50.0), Some(with(9.0, 0.0))), Verdict::Unknown(_)));
    }

    #[test]
    fn offload_when_more_than_the_limit_below_others_then_is_a_breach() {
        let guard = GuardKeys { errors: None, offload_drop: Some(0.1), ..ERRORS };
        let with = |edge_requests, pulls| Counts { edge_requests, ..counts(pulls, 0.0) };
        let breach = Verdict::Breach { is_certain: false };
        assert_eq!(verdict_of(&guard, with(1000.0, 300.0), Some(with(1000.0, 100.0))), breach);
        assert_eq!(verdict_of(&guard, with(1000.0, 150.0), Some(with(1000.0, 100.0))), Verdict::Fine);
        assert!(matches!(verdict_of(&guard, with(0.0, 150.0), Some(with(1000.0, 100.0))), Verdict::Unknown(_)));
    }

    #[test]
    fn guards_when_there_are_no_others_then_only_absolute_figures_are_read() {
        let guard = GuardKeys {
            errors: Some(0.01),
            beacons_per_minute: Some(5.0),
            p95_ratio: Some(1.2),
            offload_drop: Some(0.1),
        };
        let growth = Growth { seconds: 60.0, providers: [("a".to_owned(), counts(10.0, 0.0))].into() };
        let compared = Compared { provider: "a", others: &[], has_beacons: false };
        let readings = read(&guard, compared, &growth);
        let names: Vec<&str> = readings.iter().map(|reading| reading.guard).collect();
        assert_eq!(names, ["errors", "beacons_per_minute"]);
        assert!(matches!(readings[1].verdict, Verdict::Unknown(_)));
    }
}
