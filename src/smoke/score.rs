//! The score card: two CDNs side by side, with the same requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cache_result::served;
use super::checks::timing::{self, TOLERANCE, deviation};
use super::probe::Probe;
use super::recorded::Outcome;
use super::signed::{Signer, id_of};
use super::targets::{Note, Options, Target};
use crate::intake::signed_path::Task;

/// The number of measured requests for the URL to each CDN. One request that is not measured comes before them.
const REQUESTS: usize = 40;
/// The number of requests for a signed path, from which the offload follows.
const SIGNED_REQUESTS: usize = 30;
/// The lifetime of the response whose change is measured.
const LIFETIME: Duration = Duration::from_secs(2);
/// The time after which the measurement of the change ends.
const MOST_CHANGE: Duration = Duration::from_secs(12);
const PAUSE: Duration = Duration::from_millis(100);
/// The largest allowed difference between the latencies of a change at the two CDNs. Caches count in whole seconds, so
/// one cache can be up to a second later than the other.
const CHANGE_TOLERANCE_SECONDS: f64 = 1.5;

/// The comparison of two CDNs for one URL.
#[derive(Debug, Clone)]
pub(crate) struct Card {
    pub url: String,
    pub candidate: String,
    pub incumbent: String,
    pub rows: Vec<Row>,
}

/// One row of a card.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub name: &'static str,
    /// The values with their unit. `None`: not measured.
    pub candidate: Option<String>,
    pub incumbent: Option<String>,
    /// The deviation of the candidate from the incumbent, as a text.
    pub difference: String,
    /// Whether the candidate is good enough. `None`: the row only informs, a value was not measured, or the value is
    /// good but other requests to the candidate failed.
    pub passed: Option<bool>,
}

/// What was measured at one CDN.
#[derive(Debug, Clone, Default, PartialEq)]
struct Measured {
    ttfb: Option<Duration>,
    slow: Option<Duration>,
    hit_ratio: Option<f64>,
    offload: Option<f64>,
    change: Option<f64>,
    /// The number of requests that got an error or no response.
    failed: usize,
}

/// Measures both CDNs and compares them. The incumbent is the CDN that is in use.
pub(crate) async fn compare(candidate: &Target, incumbent: &Target, options: &Arc<Options>, note: &Note) -> Card {
    let name = |target: &Target| target.provider.as_ref().map_or_else(|| "edge".to_owned(), |named| named.name.clone());
    note(candidate, "score card");
    let mut sides = [Side::new(candidate, options), Side::new(incumbent, options)];
    // The CDNs get the requests in turn, so that a slow moment of the network affects both.
    for number in 0..=REQUESTS {
        for side in &mut sides {
            side.ask(number > 0).await;
        }
    }
    let [one, other] = sides.map(Side::measured);
    let (mut one, mut other) = (one, other);
    if let Some(token) = &options.token {
        let signer = Signer::new(token);
        for (target, measured) in [(candidate, &mut one), (incumbent, &mut other)] {
            measured.offload = offload(target, options, &signer, &mut measured.failed).await;
        }
        (one.change, other.change) = tokio::join!(
            change(candidate, options, &signer, &mut one.failed),
            change(incumbent, options, &signer, &mut other.failed)
        );
    }
    Card {
        url: candidate.url.text.clone(),
        candidate: name(candidate),
        incumbent: name(incumbent),
        rows: rows(&one, &other),
    }
}

/// The requests to one CDN.
struct Side<'a> {
    target: &'a Target,
    probe: Probe,
    times: Vec<Duration>,
    hits: usize,
    known: usize,
    failed: usize,
}

impl<'a> Side<'a> {
    fn new(target: &'a Target, options: &Options) -> Self {
        Self { target, probe: target.probe(options), times: Vec::new(), hits: 0, known: 0, failed: 0 }
    }

    async fn ask(&mut self, counts: bool) {
        let question = self.target.question(self.target.url.target(), "gzip");
        let outcome: Outcome = self.probe.ask(&question).await;
        // An error can be faster than a success, so the time of an error does not count.
        let Some(response) = outcome.ok().filter(|response| response.status.is_success()) else {
            self.failed += 1;
            return;
        };
        if !counts {
            return;
        }
        self.times.push(response.ttfb);
        if let Some(served) = served(&response, self.target.fields()) {
            self.known += 1;
            self.hits += usize::from(served.is_hit());
        }
    }

    fn measured(mut self) -> Measured {
        self.times.sort_unstable();
        let slow = self.times.get(self.times.len() * 95 / 100).copied();
        let hit_ratio = (self.known > 0).then(|| ratio(self.hits, self.known));
        let ttfb = timing::median(self.times);
        Measured { ttfb, slow, hit_ratio, offload: None, change: None, failed: self.failed }
    }
}

/// Returns the share of requests that did not reach edgeshim. `None`: the first request got no report of edgeshim. Adds
/// the later requests without a report to `failed`.
async fn offload(target: &Target, options: &Options, signer: &Signer<'_>, failed: &mut usize) -> Option<f64> {
    let mut probe = target.probe(options);
    let question = target.question(&signer.path(Task::Cache(60)), "identity");
    let mut ids = Vec::new();
    for _ in 0..SIGNED_REQUESTS {
        match id_of(&mut probe, &question, signer).await {
            Some(id) => ids.push(id),
            // If edgeshim never reports, the check `provider` fails. So this request does not count here.
            None if ids.is_empty() => return None,
            None => *failed += 1,
        }
    }
    let reports = ids.len();
    ids.sort();
    ids.dedup();
    // Each response that edgeshim made has an id of its own.
    Some(1.0 - ratio(ids.len(), reports))
}

/// Returns the seconds from the end of a lifetime to the first response with the new content. `None`: the first
/// request got no report, or the response was not stored or did not change in time. Adds the later requests without a
/// report to `failed`.
async fn change(target: &Target, options: &Options, signer: &Signer<'_>, failed: &mut usize) -> Option<f64> {
    let mut probe = target.probe(options);
    let question = target.question(&signer.path(Task::Cache(LIFETIME.as_secs())), "identity");
    let first = id_of(&mut probe, &question, signer).await?;
    let from = Instant::now();
    let mut was_stored = false;
    while from.elapsed() < MOST_CHANGE {
        tokio::time::sleep(PAUSE).await;
        let Some(id) = id_of(&mut probe, &question, signer).await else {
            *failed += 1;
            continue;
        };
        if id == first {
            was_stored = true;
        } else {
            return was_stored.then(|| (from.elapsed().as_secs_f64() - LIFETIME.as_secs_f64()).max(0.0));
        }
    }
    None
}

#[allow(clippy::cast_precision_loss)] // the numbers are small
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// Compares what was measured.
fn rows(one: &Measured, other: &Measured) -> Vec<Row> {
    let milliseconds = |time: Duration| format!("{} ms", timing::millis(time));
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let seconds = |time: f64| format!("{time:.1} s");
    let time_row = |name, one: Option<Duration>, other: Option<Duration>, is_judged: bool| {
        let both = one.zip(other);
        Row {
            name,
            candidate: one.map(milliseconds),
            incumbent: other.map(milliseconds),
            difference: both.map(|(one, other)| deviation(one.as_secs_f64(), other.as_secs_f64())).unwrap_or_default(),
            passed: both.filter(|_| is_judged).map(|(one, other)| timing::is_as_fast(one, other)),
        }
    };
    let share_row = |name, one: Option<f64>, other: Option<f64>| {
        let both = one.zip(other);
        Row {
            name,
            candidate: one.map(percent),
            incumbent: other.map(percent),
            difference: both.map(|(one, other)| format!("{:+.1} points", (one - other) * 100.0)).unwrap_or_default(),
            passed: both.map(|(one, other)| one >= other - TOLERANCE),
        }
    };
    let both = one.change.zip(other.change);
    let mut rows = vec![
        time_row("ttfb, median", one.ttfb, other.ttfb, true),
        // Two slow responses out of 40 decide this row, so the row only informs.
        time_row("ttfb, 95th percentile", one.slow, other.slow, false),
        share_row("hit ratio", one.hit_ratio, other.hit_ratio),
        share_row("offload", one.offload, other.offload),
        Row {
            name: "latency of a change",
            candidate: one.change.map(seconds),
            incumbent: other.change.map(seconds),
            difference: both.map(|(one, other)| format!("{:+.1} s", one - other)).unwrap_or_default(),
            passed: both.map(|(one, other)| one <= other + CHANGE_TOLERANCE_SECONDS),
        },
    ];
    if one.failed > 0 {
        // The other rows count only responses with success, so the candidate cannot be called equal or better in them.
        for row in &mut rows {
            row.passed = row.passed.filter(|passed| !passed);
        }
    }
    rows.push(Row {
        name: "failed requests",
        candidate: Some(one.failed.to_string()),
        incumbent: Some(other.failed.to_string()),
        difference: String::new(),
        passed: Some(one.failed == 0),
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(ttfb_ms: u64, hit_ratio: f64, offload: f64, change: f64) -> Measured {
        let ttfb = Some(Duration::from_millis(ttfb_ms));
        Measured {
            ttfb,
            slow: ttfb,
            hit_ratio: Some(hit_ratio),
            offload: Some(offload),
            change: Some(change),
            failed: 0,
        }
    }

    #[test]
    fn card_when_candidate_is_within_5_per_cent_then_passes() {
        let incumbent = measured(100, 0.9, 0.9, 0.5);
        let passed = |candidate| rows(&candidate, &incumbent).iter().filter_map(|row| row.passed).collect::<Vec<_>>();
        assert_eq!(passed(measured(104, 0.86, 0.86, 1.9)), [true; 5]);
        assert_eq!(passed(measured(106, 0.84, 0.84, 2.1)), [false, false, false, false, true]);
    }

    #[test]
    fn card_when_requests_to_the_candidate_fail_then_no_row_passes() {
        let fast = Measured { failed: 1, ..measured(50, 0.9, 0.9, 2.1) };
        let decided: Vec<_> = rows(&fast, &measured(100, 0.9, 0.9, 0.5)).iter().map(|row| row.passed).collect();
        assert_eq!(decided, [None, None, None, None, Some(false), Some(false)]);
    }

    #[test]
    fn card_when_a_value_is_not_measured_then_row_is_undecided() {
        let rows = rows(&Measured::default(), &measured(100, 0.9, 0.9, 0.5));
        let rows = &rows[..rows.len() - 1];
        assert!(rows.iter().all(|row| row.passed.is_none() && row.candidate.is_none() && row.difference.is_empty()));
    }
}
