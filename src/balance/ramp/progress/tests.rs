//! Tests of the decisions of a ramp. No test uses a socket or a clock.

use super::*;
use crate::balance::figures::Counts;
use crate::balance::figures::tests::{counts, times};
use crate::balance::ramp_keys::{GuardKeys, OnBreach};

const EVERY: u64 = 15;

/// A look each 15 s, a soak of four looks, and 90 s for the share to arrive.
fn keys(guard: GuardKeys) -> RampKeys {
    RampKeys {
        every: Duration::from_secs(EVERY),
        soak: Duration::from_secs(4 * EVERY),
        arrive: Duration::from_secs(6 * EVERY),
        on_breach: OnBreach::Start,
        guard,
        ..RampKeys::default()
    }
}

const ERRORS: GuardKeys =
    GuardKeys { errors: Some(0.01), beacons_per_minute: None, p95_ratio: None, offload_drop: None };

fn growth(own: Counts, others: Counts) -> Growth {
    Growth { seconds: 15.0, providers: [("a".to_owned(), own), ("b".to_owned(), others)].into() }
}

/// What a look finds.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// The provider has 100 pulls and the other provider has 900. The values are the failed pulls of the two providers.
    Failing(f64, f64),
    /// The share of the provider, in per cent. No pull fails.
    Share(f64),
    /// A shim was restarted or is missing.
    None,
    /// No shim has counted a pull.
    Idle,
}
use Seen::{Failing, Idle, None as Missing, Share};

const FINE: Seen = Failing(0.0, 0.0);

fn growth_of(seen: Seen) -> Result<Growth, &'static str> {
    match seen {
        Failing(own, others) => Ok(growth(counts(100.0, own), counts(900.0, others))),
        Share(share) => Ok(growth(counts(share * 10.0, 0.0), counts(1000.0 - share * 10.0, 0.0))),
        Missing => Err("http://s2 was restarted"),
        Idle => Ok(growth(Counts::default(), Counts::default())),
    }
}

fn parties(others: &[&str]) -> Parties {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Parties { provider: "a".to_owned(), others: names(others), all: names(&["a", "b"]) }
}

/// Passes these looks to a step to 10 %. Returns the decision at the last look. Each earlier decision must be to look
/// again.
fn after(keys: &RampKeys, looks: &[Seen]) -> Next {
    let mut step = Step::new(keys, parties(&["b"]), Some(5.0), 10.0, Duration::ZERO);
    let mut next = Next::Look;
    for (number, seen) in (1..).zip(looks) {
        assert_eq!(next, Next::Look, "the look {} of {looks:?} ended the step too early", number - 1);
        let growth = growth_of(*seen);
        next = step.look(Duration::from_secs(number * EVERY), growth.as_ref().map_err(|why| *why), true);
    }
    next
}

fn put_back(next: &Next) -> bool {
    matches!(next, Next::PutBack(text) if text.contains("errors"))
}

#[test]
fn step_when_guards_hold_for_the_soak_then_passes() {
    let keys = keys(ERRORS);
    // The first look finds the share, and the soak needs four more.
    assert_eq!(after(&keys, &[FINE; 4]), Next::Look);
    assert_eq!(after(&keys, &[FINE; 5]), Next::Passed);
    // At the fifth look, the share in the four most recent looks is 8.75 %, which is near enough to 10 %. The soak
    // needs four more looks.
    let slow = [Share(5.0), Share(5.0), FINE, FINE, FINE, FINE, FINE, FINE, FINE];
    assert_eq!((after(&keys, &slow[..8]), after(&keys, &slow)), (Next::Look, Next::Passed));
}

#[test]
fn step_when_a_guard_is_broken_then_weights_are_put_back_at_this_look() {
    let keys = keys(ERRORS);
    let bad = Failing(20.0, 0.0);
    for looks in [
        vec![bad],
        // Before the share has arrived.
        vec![Share(6.0), Share(6.0), bad],
        // During the soak.
        vec![FINE, FINE, bad],
        // At the last look of the soak.
        vec![FINE, FINE, FINE, FINE, bad],
        // Figures that go up and down: the sum of the looks is above the limit.
        vec![Failing(4.0, 0.0), FINE, Failing(4.0, 0.0)],
    ] {
        let next = after(&keys, &looks);
        assert!(put_back(&next), "{looks:?}: {next:?}");
    }
}

#[test]
fn step_when_failures_are_few_or_everywhere_then_passes() {
    let keys = keys(ERRORS);
    // One failure of 100 equals the limit, and is not above the limit.
    assert_eq!(after(&keys, &[Failing(1.0, 0.0); 5]), Next::Passed);
    // Four failures are too few for a breach.
    assert_eq!(after(&keys, &[Failing(4.0, 0.0), FINE, FINE, FINE, FINE]), Next::Passed);
    // The other provider fails as often, so the origin is the cause.
    assert_eq!(after(&keys, &[Failing(30.0, 270.0); 5]), Next::Passed);
}

#[test]
fn figures_when_missing_then_step_holds_and_then_stops() {
    let keys = keys(ERRORS);
    // Looks without figures are not part of the soak.
    assert_eq!(after(&keys, &[FINE, FINE, Missing, Idle, FINE, FINE]), Next::Look);
    assert_eq!(after(&keys, &[FINE, FINE, Missing, Idle, FINE, FINE, FINE]), Next::Passed);
    for blind in [Missing, Idle] {
        let next = after(&keys, &[FINE, FINE, blind, blind, blind, blind]);
        assert!(matches!(&next, Next::Stop(text) if text.contains("no figures for 1 min")), "{next:?}");
        let next = after(&keys, &[blind; 4]);
        assert!(matches!(next, Next::Stop(_)), "{next:?}");
    }
    // A restart does not hide the failures after it.
    assert!(put_back(&after(&keys, &[FINE, Missing, Failing(20.0, 0.0)])));
}

#[test]
fn share_when_it_has_not_arrived_in_time_then_ramp_stops() {
    let keys = keys(ERRORS);
    let next = after(&keys, &[Share(5.0); 6]);
    assert!(matches!(&next, Next::Stop(text) if text.contains("5.0 %") && text.contains("10 %")), "{next:?}");
    let mut step = Step::new(&keys, parties(&["b"]), Some(0.0), 18.2, Duration::ZERO);
    let seen = growth(counts(100.0, 0.0), counts(900.0, 0.0));
    let nexts: Vec<Next> = (1..=6).map(|look| step.look(Duration::from_secs(look * EVERY), Ok(&seen), true)).collect();
    assert!(matches!(&nexts[5], Next::Stop(text) if text.contains("18.2 % was wanted")), "{nexts:?}");
    // Two points below the wanted share is near enough.
    assert_eq!(after(&keys, &[Share(8.0), FINE, FINE, FINE, FINE]), Next::Passed);
    // A share of 0 % is near enough to 1 %. But without any request, the share has not arrived.
    let mut step = Step::new(&keys, parties(&["b"]), Some(0.0), 1.0, Duration::ZERO);
    let none = growth(Counts::default(), counts(1000.0, 0.0));
    let nexts: Vec<Next> = (1..=6).map(|look| step.look(Duration::from_secs(look * EVERY), Ok(&none), true)).collect();
    assert!(matches!(&nexts[5], Next::Stop(text) if text.contains("not one request")), "{nexts:?}");
}

#[test]
fn requests_of_provider_when_ending_during_the_soak_then_ramp_stops() {
    let keys = keys(ERRORS);
    let silent = Share(0.0);
    // The share is measured over the four most recent looks. These looks include the first look until the third silent
    // look.
    let mut looks = vec![FINE];
    looks.extend([silent; 8]);
    let mut step = Step::new(&keys, parties(&["b"]), Some(5.0), 10.0, Duration::ZERO);
    let mut last = Next::Look;
    for (number, seen) in (1..).zip(&looks) {
        let growth = growth_of(*seen).expect("figures");
        last = step.look(Duration::from_secs(number * EVERY), Ok(&growth), true);
        assert!(number > 7 || last == Next::Look, "look {number}: {last:?}");
        if last != Next::Look {
            break;
        }
    }
    assert!(matches!(&last, Next::Stop(text) if text.contains("no longer gets requests")), "{last:?}");
}

#[test]
fn guard_when_it_has_no_figures_then_step_holds_and_then_stops() {
    let keys = keys(GuardKeys { offload_drop: Some(0.1), ..ERRORS });
    assert_eq!(after(&keys, &[FINE; 8]), Next::Look);
    let next = after(&keys, &[FINE; 9]);
    assert!(matches!(&next, Next::Stop(text) if text.contains("offload_drop has had no figures")), "{next:?}");
}

#[test]
fn slow_times_when_seen_at_two_looks_in_a_row_then_weights_are_put_back() {
    let keys = keys(GuardKeys { errors: None, p95_ratio: Some(1.2), ..ERRORS });
    let with = |slow: f64| {
        let own = Counts { pull_times: times(&[(0.1, 100.0 - slow), (1.0, 100.0)]), ..counts(100.0, 0.0) };
        growth(own, Counts { pull_times: times(&[(0.1, 900.0), (1.0, 900.0)]), ..counts(900.0, 0.0) })
    };
    let mut step = Step::new(&keys, parties(&["b"]), Some(5.0), 10.0, Duration::ZERO);
    assert_eq!(step.look(Duration::from_secs(15), Ok(&with(50.0)), true), Next::Look);
    let next = step.look(Duration::from_secs(30), Ok(&with(50.0)), true);
    assert!(matches!(&next, Next::PutBack(text) if text.contains("p95")), "{next:?}");
}

#[test]
fn ramp_when_there_are_no_other_providers_then_only_absolute_limits_count() {
    let keys = keys(GuardKeys { p95_ratio: Some(1.2), offload_drop: Some(0.1), ..ERRORS });
    let run = |failed: f64| {
        let mut step = Step::new(&keys, parties(&[]), Some(75.0), 100.0, Duration::ZERO);
        let growth = growth(counts(1000.0, failed), Counts::default());
        let mut nexts = (1..=5).map(|look| step.look(Duration::from_secs(look * EVERY), Ok(&growth), true));
        nexts.find(|next| *next != Next::Look).expect("an end")
    };
    assert_eq!(run(0.0), Next::Passed);
    assert!(put_back(&run(20.0)));
}

#[test]
fn convergence_when_share_arrives_in_parts_then_times_are_right() {
    let keys = RampKeys { soak: Duration::from_mins(10), ..keys(ERRORS) };
    let mut step = Step::new(&keys, parties(&["b"]), Some(0.0), 50.0, Duration::ZERO);
    for look in 1..=40_u64 {
        // After 30 s, 60 % of the change has arrived. After 60 s, all of it has arrived.
        let share = if look <= 2 {
            20.0
        } else if look <= 4 {
            30.0
        } else {
            50.0
        };
        let growth = growth(counts(share * 100.0, 0.0), counts(10_000.0 - share * 100.0, 0.0));
        step.look(Duration::from_secs(look * EVERY), Ok(&growth), true);
    }
    let text = step.convergence().expect("the step was measured from its start");
    assert!(text.contains("t50 30 s, t90 1 min,"), "{text}");
    let resumed = Step::new(&keys, parties(&["b"]), None, 50.0, Duration::ZERO);
    assert_eq!(resumed.convergence(), None);
}

#[test]
fn convergence_when_clients_have_a_long_tail_then_times_differ_by_at_most_one_look_from_the_truth() {
    // Four of five clients keep a DNS answer for a minute on average, the others for ten minutes.
    const TAIL: [(f64, f64); 2] = [(0.8, 60.0), (0.2, 600.0)];
    const HOUR: Duration = Duration::from_hours(1);
    let sum = |part: &dyn Fn(f64, f64) -> f64| TAIL.iter().map(|&(share, mean)| part(share, mean)).sum::<f64>();
    let left = |time: f64| sum(&|share, mean| share * (-time / mean).exp());
    let left_until = |time: f64| sum(&|share, mean| share * mean * (1.0 - (-time / mean).exp()));
    let keys = RampKeys { soak: HOUR, arrive: HOUR, ..keys(ERRORS) };
    let mut step = Step::new(&keys, parties(&["b"]), Some(0.0), 50.0, Duration::ZERO);
    for look in 1..=240_u32 {
        let (before, now) = (f64::from(look - 1) * 15.0, f64::from(look) * 15.0);
        let old = (left_until(now) - left_until(before)) / 15.0;
        let pulls = 500_000.0 * (1.0 - old);
        step.look(
            Duration::from_secs_f64(now),
            Ok(&growth(counts(pulls, 0.0), counts(1_000_000.0 - pulls, 0.0))),
            true,
        );
    }
    let text = step.convergence().expect("the step was measured from its start").replace("; ", ", ");
    for (name, part) in PARTS {
        let look = (1..=240).find(|look| left(f64::from(*look) * 15.0) < 1.0 - part).expect("the share arrives");
        let near = [look - 1, look].map(|look| format!("{name} {}", time(Duration::from_secs(EVERY) * look)));
        assert!(text.split(", ").any(|found| near.iter().any(|near| near == found)), "{near:?} of {text}");
    }
}

#[test]
fn steps_when_share_or_end_is_between_two_steps_then_begin_above_the_share_and_end_at_the_end() {
    let keys = RampKeys { steps: vec![1, 5, 10, 25, 50], ..RampKeys::default() };
    for (present, end, expected) in [
        (0, 50, vec![1, 5, 10, 25, 50]),
        (0, 3, vec![1, 3]),
        (500, 30, vec![10, 25, 30]),
        (499, 5, vec![5]),
        (5_000, 60, vec![60]),
        (6_000, 60, vec![]),
        (9_000, 60, vec![]),
    ] {
        assert_eq!(steps(&keys, present, end), expected, "{present} {end}");
    }
}

#[test]
fn time_when_written_then_has_at_most_two_units() {
    for (seconds, text) in
        [(0, "0 s"), (59, "59 s"), (60, "1 min"), (75, "1 min 15 s"), (3600, "1 h"), (9061, "2 h 31 min")]
    {
        assert_eq!(time(Duration::from_secs(seconds)), text);
    }
    assert_eq!(time(Duration::from_millis(200)), "200 ms");
}
