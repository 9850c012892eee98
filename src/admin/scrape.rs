//! Reads the numbers of the admin page, except the top list, from the text of the metrics. So the workers need no
//! further counters for these numbers.

use super::history::{BUCKETS, Column, Gauge, Names, Snapshot};
use crate::ids::PullReason;
use crate::metrics::{SECONDS, describe};

const PULLS: &str = describe::PULLS.name();
const PULL_BYTES: &str = describe::PULL_BYTES.name();
const PULL_SECONDS: &str = describe::PULL_SECONDS.name();
const WHOOPSIES: &str = describe::WHOOPSIES.name();
const BEACONS: &str = describe::BEACONS.name();
const PULL_REASONS: &str = describe::PULL_REASONS.name();
const ORIGIN_FAULTS: &str = describe::ORIGIN_FAULTS.name();
const OFFLOAD: &str = describe::OFFLOAD.name();
const EDGE_LOG_LAG: &str = describe::EDGE_LOG_LAG.name();

/// Reads the text of the metrics, in one pass. Adds new names of providers and classes to `names`.
pub(super) fn read(text: &str, names: &mut Names) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for series in text.lines().filter_map(Series::read) {
        if let Some(PULL_SECONDS) = series.name.strip_suffix("_bucket") {
            let count = series.count();
            if let Some(bucket) = bucket(series.label("le")) {
                let provider = names.provider(series.label("provider"));
                let class = names.class(series.label("class"));
                snapshot.provider(provider).row.buckets[bucket] += count;
                snapshot.class(class).buckets[bucket] += count;
            }
            continue;
        }
        match series.name {
            PULLS => pulls(&series, names, &mut snapshot),
            PULL_BYTES => {
                let provider = names.provider(series.label("provider"));
                let class = names.class(series.label("class"));
                snapshot.provider(provider).row.add(Column::Bytes, series.count());
                snapshot.class(class).add(Column::Bytes, series.count());
            }
            WHOOPSIES => {
                let provider = names.provider(series.label("provider"));
                snapshot.provider(provider).row.add(Column::Whoopsies, series.count());
            }
            BEACONS => {
                // A source that is not the name of a known provider counts as `other`.
                let provider = names.known_provider(series.label("source"));
                snapshot.provider(provider).row.add(Column::Beacons, series.count());
            }
            PULL_REASONS => {
                let provider = names.provider(series.label("provider"));
                let reason = PullReason::ALL.into_iter().find(|reason| reason.as_str() == series.label("reason"));
                if let Some(reason) = reason {
                    snapshot.provider(provider).row.reasons[reason.position()] += series.count();
                }
            }
            ORIGIN_FAULTS => snapshot.faults += series.count(),
            OFFLOAD => {
                let gauge = if series.label("of") == "bytes" { Gauge::OffloadBytes } else { Gauge::OffloadRequests };
                snapshot.set(names.provider(series.label("provider")), gauge, series.value);
            }
            EDGE_LOG_LAG => snapshot.set(names.provider(series.label("provider")), Gauge::Lag, series.value),
            _ => {}
        }
    }
    snapshot
}

fn pulls(series: &Series<'_>, names: &mut Names, snapshot: &mut Snapshot) {
    let (provider, class) = (names.provider(series.label("provider")), names.class(series.label("class")));
    let (count, code) = (series.count(), series.label("code"));
    let errors = if code.starts_with('5') { count } else { 0 };
    let not_modified = if code == "304" { count } else { 0 };
    let counted = [(Column::Pulls, count), (Column::Errors, errors), (Column::NotModified, not_modified)];
    for (column, count) in counted {
        snapshot.provider(provider).row.add(column, count);
        snapshot.class(class).add(column, count);
    }
    let cell = snapshot.provider(provider).cell(class);
    cell[0] += count;
    cell[1] += errors;
}

/// Returns the position of a bucket by its upper bound.
fn bucket(bound: &str) -> Option<usize> {
    if bound == "+Inf" {
        return Some(BUCKETS - 1);
    }
    let bound: f64 = bound.parse().ok()?;
    SECONDS.iter().position(|known| (known - bound).abs() < 1e-9)
}

/// One line of the metrics: a series and its value.
#[derive(Debug)]
struct Series<'t> {
    name: &'t str,
    /// The labels as written: `a="b",c="d"`.
    labels: &'t str,
    value: &'t str,
}

impl<'t> Series<'t> {
    fn read(line: &'t str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}')?),
            None => (series, ""),
        };
        Some(Self { name, labels, value })
    }

    /// Returns the value of a label, or an empty text. The labels can be split at each comma, because no
    /// name of a provider or class contains a comma or a quote.
    fn label(&self, name: &str) -> &'t str {
        let value = self.labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\""));
        value.and_then(|value| value.strip_suffix('"')).unwrap_or_default()
    }

    fn count(&self) -> u64 {
        self.value.parse().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINES: &str = concat!(
        r"((edgeshim_(pulls_total|pull_seconds_bucket|offload_ratio)|x)[{]?",
        r#"((provider|class|le|of|code)="[a-c0-9.+]*"?,?){0,4}[}]? ?(-?[0-9]{0,20}|NaN)\n){0,8}"#
    );

    proptest! {
        #[test]
        fn metrics_text_when_nearly_valid_then_no_panic_and_each_provider_has_a_name(
            text in LINES,
        ) {
            let mut names = Names::default();
            let snapshot = read(&text, &mut names);
            prop_assert!(snapshot.providers.len() <= names.providers.len());
        }
    }

    #[test]
    fn metrics_text_when_read_then_counts_are_summed_by_provider_and_class() {
        let text = "# HELP edgeshim_pulls_total x\n# TYPE edgeshim_pulls_total counter\n\
            edgeshim_pulls_total{provider=\"fastly\",class=\"html\",code=\"200\"} 7\n\
            edgeshim_pulls_total{provider=\"fastly\",class=\"html\",code=\"503\"} 2\n\
            edgeshim_pulls_total{provider=\"fastly\",class=\"image\",code=\"304\"} 1\n\
            edgeshim_pull_bytes_total{provider=\"fastly\",class=\"html\"} 5000\n\
            edgeshim_pull_seconds_bucket{provider=\"fastly\",class=\"html\",le=\"0.0005\"} 3\n\
            edgeshim_pull_seconds_bucket{provider=\"fastly\",class=\"html\",le=\"+Inf\"} 9\n\
            edgeshim_pull_seconds_sum{provider=\"fastly\",class=\"html\"} 1.5\n\
            edgeshim_beacons_total{source=\"fastly\",country=\"DE\"} 4\n\
            edgeshim_beacons_total{source=\"mobile\"} 5\n\
            edgeshim_whoopsies_total{provider=\"fastly\",locale=\"en\",cause=\"reset\"} 6\n\
            edgeshim_pull_reasons_total{provider=\"fastly\",reason=\"early\"} 8\n\
            edgeshim_origin_faults_total{cause=\"reset\"} 11\n\
            edgeshim_offload_ratio{provider=\"fastly\",of=\"bytes\"} 0.75\n\
            edgeshim_waiting 3\nnonsense\nedgeshim_pulls_total{provider=\"fastly\" x\n";
        let mut names = Names::default();
        let mut snapshot = read(text, &mut names);
        assert_eq!((names.provider("fastly"), names.class("html"), names.class("image")), (1, 1, 2));
        let fastly = snapshot.provider(1).clone();
        assert_eq!(fastly.row.counts, [10, 5000, 1, 2, 6, 4]);
        assert_eq!((fastly.row.buckets[0], fastly.row.buckets[BUCKETS - 1]), (3, 9));
        assert_eq!(fastly.row.reasons[PullReason::Early.position()], 8);
        assert_eq!(fastly.cells, [[0, 0], [9, 2], [1, 0]]);
        assert_eq!(snapshot.class(1).counts[..4], [9, 5000, 0, 2]);
        assert_eq!(snapshot.provider(0).row.counts[5], 5, "a source that is not a provider must count as other");
        assert_eq!((snapshot.faults, names.providers.len()), (11, 2));
        assert!((snapshot.gauges[1][1] - 0.75).abs() < 1e-6 && snapshot.gauges[1][0].is_nan());
    }
}
