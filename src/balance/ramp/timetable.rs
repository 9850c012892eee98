//! The timetable of a ramp: the earliest and the latest time at which each step begins.

use std::fmt::Write as _;
use std::time::Duration;

use super::progress::time;
use crate::balance::ramp_keys::{OnBreach, RampKeys};
use crate::balance::tables::aligned;

/// Writes the timetable, the weights that a breach puts back, and the guards. `made` is the number of steps that
/// earlier processes have made. If a ramp is resumed, `inside` is the share of the last of these steps, whose soak is
/// repeated. `remaining` has the shares of the further steps. A step takes at least one look and the soak. If figures
/// are missing, a step can take longer than the timetable says.
pub(crate) fn timetable(keys: &RampKeys, made: usize, inside: Option<&str>, remaining: &[u32]) -> String {
    let (shortest, longest) = (keys.every + keys.soak, keys.arrive + keys.soak);
    let mut rows = vec![["step", "share", "not before", "not after"].map(str::to_owned).to_vec()];
    let (mut early, mut late) = (Duration::ZERO, Duration::ZERO);
    let mut row = |name: String, share: String, duration: u32| {
        rows.push(vec![name, share, time(early), time(late)]);
        (early, late) = (early + shortest * duration, late + longest * duration);
    };
    if let Some(share) = inside {
        row(format!("{made} (made)"), share.to_owned(), 1);
    }
    for (number, step) in (made + 1..).zip(remaining) {
        row(number.to_string(), format!("{step} %"), 1);
    }
    row("end".to_owned(), String::new(), 0);
    let back = match keys.on_breach {
        OnBreach::Start => "the weights before the ramp",
        OnBreach::Previous => "the weights before the step",
    };
    let mut text = aligned(&rows);
    let _ = writeln!(text, "A look every {}; a breach puts back {back}.", time(keys.every));
    let limits = keys.guard.limits();
    let on = limits.iter().filter_map(|(name, limit)| limit.map(|limit| format!("{name} {limit}")));
    let on: Vec<String> = on.collect();
    if !on.is_empty() {
        let _ = writeln!(text, "Guards: {}.", on.join(", "));
    }
    text
}

/// Returns a share in per cent as text, with at most one decimal.
pub(crate) fn per_cent(share: f64) -> String {
    format!("{} %", (share * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::ramp_keys::GuardKeys;

    #[test]
    fn timetable_when_a_ramp_is_resumed_then_begins_with_the_last_step_that_was_made() {
        let guard = GuardKeys { errors: Some(0.01), ..GuardKeys::default() };
        let keys = RampKeys { guard, on_breach: OnBreach::Previous, ..RampKeys::default() };
        assert_eq!(
            timetable(&keys, 2, Some("5 %"), &[10, 25]),
            "  step      share   not before   not after\n  \
             2 (made)  5 %            0 s         0 s\n  \
             3         10 %   10 min 15 s      25 min\n  \
             4         25 %   20 min 30 s      50 min\n  \
             end              30 min 45 s  1 h 15 min\n\
             A look every 15 s; a breach puts back the weights before the step.\n\
             Guards: errors 0.01.\n"
        );
    }
}
