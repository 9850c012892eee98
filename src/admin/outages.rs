//! Detects outages in the history, once a second. A provider has an outage if too many of its pulls are 5xx. The origin
//! has an outage if too many of all pulls have a fault. The start and the end of each outage are reported once.

use std::collections::VecDeque;

use super::history::{Column, History, Sample};

/// An outage starts if at least this share of the pulls in the last [`SHORT`] samples fails, and at least [`FEWEST`]
/// pulls fail.
const BEGIN: f64 = 0.05;
const FEWEST: f64 = 5.0;
/// An outage ends if less than this share of the pulls in the last [`LONG`] samples fails.
const END: f64 = 0.02;
/// These numbers of samples are also numbers of seconds, because each sample covers one second.
const SHORT: usize = 10;
const LONG: usize = 30;
/// An outage also ends after this time without a pull, in seconds. Without pulls, a recovery cannot be seen.
const SILENCE: f64 = 300.0;
/// The largest number of stored outages, including outages that have not ended. If there are more, the oldest outage
/// that has ended is dropped. If no outage has ended, the oldest outage is dropped.
const MOST: usize = 32;

/// The origin or the provider that has an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Origin,
    /// A provider, by its position.
    Provider(usize),
}

/// An outage.
#[derive(Debug, Clone)]
pub(super) struct Outage {
    pub subject: Subject,
    /// The start of the first sample in which the share of failed pulls reached [`BEGIN`], in seconds of Unix time.
    pub began: f64,
    pub ended: Option<f64>,
    /// The largest share of failed pulls in [`SHORT`] samples so far.
    pub worst: f64,
    /// The time of the newest sample with a pull, in seconds of Unix time.
    last_pull: f64,
}

/// The outages. The oldest outage is first.
#[derive(Debug, Default)]
pub(super) struct Outages {
    pub list: VecDeque<Outage>,
}

/// Returns the number of pulls in a sample, and the number of failures: 5xx of a provider, or faults of the origin.
fn figures(sample: &Sample, subject: Subject) -> (f64, f64) {
    match subject {
        Subject::Origin => {
            let pulls = sample.providers.iter().map(|provider| provider.row.get(Column::Pulls)).sum();
            (pulls, sample.faults.into())
        }
        Subject::Provider(position) => sample
            .providers
            .get(position)
            .map_or((0.0, 0.0), |provider| (provider.row.get(Column::Pulls), provider.row.get(Column::Errors))),
    }
}

/// Returns the share of the pulls that failed, or `None` without pulls. A fault can be counted one sample before its
/// pull, so the share is limited to 1.
pub(super) fn share(sample: &Sample, subject: Subject) -> Option<f64> {
    let (pulls, failed) = figures(sample, subject);
    (pulls > 0.0).then(|| (failed / pulls).min(1.0))
}

impl Outages {
    /// Checks the newest samples for the start and the end of outages. Returns each outage that has started or ended
    /// since the previous check.
    pub(super) fn check(&mut self, history: &History, now: f64) -> Vec<Outage> {
        let (short, long) = (history.last(SHORT), history.last(LONG));
        let mut changed = Vec::new();
        let providers = (0..short.providers.len()).map(Subject::Provider);
        for subject in std::iter::once(Subject::Origin).chain(providers) {
            let open = self.list.iter_mut().find(|outage| outage.subject == subject && outage.ended.is_none());
            let Some(outage) = open else {
                let (pulls, failed) = figures(&short, subject);
                if failed >= FEWEST && failed >= BEGIN * pulls {
                    let outage = begun(history, subject, now, failed / pulls.max(failed));
                    changed.push(outage.clone());
                    self.add(outage);
                }
                continue;
            };
            if history.fine().back().is_some_and(|sample| figures(sample, subject).0 > 0.0) {
                outage.last_pull = now;
            }
            outage.worst = outage.worst.max(share(&short, subject).unwrap_or(0.0));
            let (pulls, failed) = figures(&long, subject);
            let recovered = pulls > 0.0 && failed < END * pulls;
            if recovered || now - outage.last_pull > SILENCE {
                outage.ended = Some(now);
                changed.push(outage.clone());
            }
        }
        changed
    }

    fn add(&mut self, outage: Outage) {
        if self.list.len() >= MOST {
            let oldest_ended = self.list.iter().position(|outage| outage.ended.is_some());
            self.list.remove(oldest_ended.unwrap_or(0));
        }
        self.list.push_back(outage);
    }
}

/// Returns an outage that starts with the first of the newest [`SHORT`] samples in which the failed share reaches
/// [`BEGIN`].
fn begun(history: &History, subject: Subject, now: f64, worst: f64) -> Outage {
    let newest = history.fine().iter().rev().take(SHORT).collect::<Vec<_>>();
    let failing = |sample: &&&Sample| share(sample, subject).is_some_and(|share| share >= BEGIN);
    let began = newest.iter().rev().find(failing).map_or(now, |sample| sample.at - sample.seconds);
    Outage { subject, began, ended: None, worst, last_pull: now }
}

#[cfg(test)]
mod tests {
    use super::super::history::Snapshot;
    use super::*;

    /// The traffic of one provider, with one sample for each second.
    #[derive(Default)]
    struct Traffic {
        history: History,
        outages: Outages,
        totals: [u64; 3],
        time: f64,
    }

    impl Traffic {
        /// Adds some seconds with the given counts in each second. Returns the outages that started (`true`) or ended
        /// (`false`), each with the time of its start or end.
        fn run(&mut self, seconds: u32, pulls: u64, errors: u64, faults: u64) -> Vec<(Subject, bool, f64)> {
            let mut changes = Vec::new();
            for _ in 0..seconds {
                for (total, count) in self.totals.iter_mut().zip([pulls, errors, faults]) {
                    *total += count;
                }
                let mut snapshot = Snapshot::default();
                snapshot.provider(0).row.add(Column::Pulls, self.totals[0]);
                snapshot.provider(0).row.add(Column::Errors, self.totals[1]);
                snapshot.faults = self.totals[2];
                self.time += 1.0;
                self.history.push(snapshot, self.time, 1.0);
                for outage in self.outages.check(&self.history, self.time) {
                    changes.push((outage.subject, outage.ended.is_none(), outage.ended.unwrap_or(outage.began)));
                }
            }
            changes
        }
    }

    #[test]
    fn outage_when_5xx_rise_and_fall_then_start_and_end_are_reported_once() {
        let mut traffic = Traffic::default();
        assert_eq!(traffic.run(60, 100, 1, 0), [], "a share of 1 % is not an outage");
        assert_eq!(traffic.run(100, 100, 40, 0), [(Subject::Provider(0), true, 60.0)]);
        assert!(traffic.outages.list[0].worst > 0.39);
        let ended = traffic.run(100, 100, 1, 0);
        assert!(matches!(ended[..], [(Subject::Provider(0), false, at)] if at > 180.0 && at < 192.0), "{ended:?}");
    }

    #[test]
    fn outage_when_faults_of_the_origin_become_5xx_then_reported_for_origin_and_provider() {
        let mut traffic = Traffic::default();
        assert_eq!(traffic.run(10, 10, 0, 0), []);
        let begun = traffic.run(5, 10, 10, 10);
        assert_eq!(begun, [(Subject::Origin, true, 10.0), (Subject::Provider(0), true, 10.0)]);
    }

    #[test]
    fn outage_when_five_pulls_fail_then_starts_and_ends_after_300_seconds_without_pulls() {
        let mut traffic = Traffic::default();
        assert_eq!(traffic.run(4, 1, 1, 0), [], "four errors are too few");
        assert_eq!(traffic.run(3, 1, 1, 0).len(), 1);
        assert_eq!(traffic.run(299, 0, 0, 0), [], "an outage must not end before 300 seconds without pulls");
        assert_eq!(traffic.run(3, 0, 0, 0).len(), 1);
    }

    #[test]
    fn outage_list_when_full_then_stays_bounded() {
        let mut traffic = Traffic::default();
        for _ in 0..50 {
            traffic.run(10, 100, 50, 50);
            traffic.run(40, 100, 0, 0);
        }
        assert_eq!(traffic.outages.list.len(), MOST);
    }
}
