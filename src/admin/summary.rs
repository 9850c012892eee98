//! The numbers of the page as JSON: `/api/summary` (the last half minute, the outages, the steps of the weights) and
//! `/api/series` (the history). A number that is unknown is null.

use serde_json::{Map, Value, json};

use super::annotations::Annotations;
use super::convergence::Shares;
use super::digits::{digits, round};
use super::history::{Column, Gauge, History, Row, Sample};
use super::outages::{Outage, Outages, Subject, share};
use crate::config::Settings;
use crate::ids::{ProviderId, PullReason};

/// The number of seconds, up to now, from which the rates, shares and quantiles of the summary are calculated.
const WINDOW: usize = 30;
/// The number of seconds, up to now, from which the shares of an outage are calculated. The number is small, so that
/// the page shows the share of a new outage at once.
pub(super) const OUTAGE_WINDOW: usize = 10;
/// The number of seconds, up to now, from which the shares of the reasons of pulls are calculated.
const REASONS_WINDOW: usize = 120;
/// The time for which an outage stays in the summary after its end, in seconds.
const SHOWN_SECONDS: f64 = 3600.0;
/// An outage lists a class if at least this share of the pulls of the class is 5xx.
const CLASS_SHARE: f64 = 0.05;
/// The largest number of classes that an outage lists.
const CLASSES: usize = 4;

const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)];

/// Returns the JSON of `/api/summary`: the numbers of the last half minute, the shares of the reasons in the last two
/// minutes, and the outages and the steps of the weights of the last hour.
pub(super) fn summary(
    history: &History,
    outages: &Outages,
    shares: &Shares,
    annotations: &Annotations,
    settings: &Settings,
    now: f64,
) -> Value {
    let (window, reasons) = (history.last(WINDOW), history.last(REASONS_WINDOW));
    let all = window.total();
    let provider = |position: usize| {
        let name = &history.names.providers[position];
        let none = Row::default();
        let row = window.providers.get(position).map_or(&none, |provider| &provider.row);
        let mut numbers = figures(row, window.seconds);
        let pulls = all.get(Column::Pulls);
        numbers.insert("name".to_owned(), json!(name));
        numbers.insert("share".to_owned(), ratio(row.get(Column::Pulls), pulls));
        for (column, key) in [(Column::Whoopsies, "whoopsies"), (Column::Beacons, "beacons")] {
            numbers.insert(key.to_owned(), ratio(row.get(column) * 60.0, window.seconds));
        }
        numbers.extend(gauges(&window, position));
        let counted = reasons.providers.get(position).map_or(&none, |provider| &provider.row).reasons;
        let sum: f64 = counted.iter().copied().map(f64::from).sum();
        let reasons = PullReason::ALL.into_iter().zip(counted);
        let reasons: Map<_, _> =
            reasons.map(|(reason, count)| (reason.as_str().to_owned(), ratio(count.into(), sum))).collect();
        numbers.insert("reasons".to_owned(), Value::Object(reasons));
        Value::Object(numbers)
    };
    let class = |position: usize| {
        let none = Row::default();
        let mut numbers = figures(window.classes.get(position).unwrap_or(&none), window.seconds);
        numbers.insert("name".to_owned(), json!(history.names.classes[position]));
        Value::Object(numbers)
    };
    let shown = |outage: &&Outage| outage.ended.is_none_or(|ended| now - ended < SHOWN_SECONDS);
    let outages = outages.list.iter().rev().filter(shown);
    json!({
        "time": round(now),
        "version": env!("CARGO_PKG_VERSION"),
        "from": history.coarse().front().or(history.fine().front()).map(|sample| round(sample.at - sample.seconds)),
        "window_seconds": WINDOW,
        "reasons_seconds": REASONS_WINDOW,
        "total": Value::Object(figures(&all, window.seconds)),
        "origin": { "faults": ratio(window.faults.into(), window.seconds) },
        "providers": providers(history, settings).into_iter().map(provider).collect::<Vec<_>>(),
        "classes": classes(history, settings).into_iter().map(class).collect::<Vec<_>>(),
        "outages": outages.map(|outage| described(outage, history, annotations)).collect::<Vec<_>>(),
        "convergence": shares.json(&history.names),
        "edge_logs": { "path": settings.edge_logs.path },
    })
}

/// Returns one outage as JSON, with the classes that fail now, and with the newest possible cause: an annotation from
/// the hour before the outage.
fn described(outage: &Outage, history: &History, annotations: &Annotations) -> Value {
    let window = history.last(OUTAGE_WINDOW);
    let classes = if outage.ended.is_none() { failing(&window, history, outage.subject) } else { Vec::new() };
    json!({
        "subject": subject_name(outage.subject, history),
        "is_origin": outage.subject == Subject::Origin,
        "began": round(outage.began),
        "ended": outage.ended.map(round),
        "share": share(&window, outage.subject).map(digits),
        "worst": digits(outage.worst),
        "classes": classes,
        // An annotation that arrives up to one second after the start of the outage counts too, because a deployment
        // can break the site before its annotation arrives.
        "before": annotations.before(outage.began + 1.0),
    })
}

/// Returns the classes in which many pulls are 5xx, each with the share of its pulls that are 5xx. Returns at most
/// [`CLASSES`] classes: those with the most 5xx.
pub(super) fn failing(window: &Sample, history: &History, subject: Subject) -> Vec<Value> {
    let belongs = |position| subject == Subject::Origin || subject == Subject::Provider(position);
    let cells = |class: usize| {
        let providers = window.providers.iter().enumerate().filter(|(position, _)| belongs(*position));
        let cells = providers.filter_map(|(_, provider)| provider.cells.get(class));
        cells.fold((0.0, 0.0), |(pulls, errors), cell| (pulls + f64::from(cell[0]), errors + f64::from(cell[1])))
    };
    let classes = history.names.classes.iter().enumerate().map(|(class, name)| (name, cells(class)));
    let mut classes: Vec<_> =
        classes.filter(|(_, (pulls, errors))| *errors > 0.0 && *errors >= CLASS_SHARE * pulls).collect();
    classes.sort_by(|(_, one), (_, other)| other.1.total_cmp(&one.1));
    classes.truncate(CLASSES);
    classes.iter().map(|(name, (pulls, errors))| json!({ "name": name, "share": ratio(*errors, *pulls) })).collect()
}

/// Returns `origin`, or the name of the provider that has an outage.
pub(super) fn subject_name(subject: Subject, history: &History) -> &str {
    match subject {
        Subject::Origin => "origin",
        Subject::Provider(position) => history.names.providers.get(position).map_or("other", String::as_str),
    }
}

/// Returns samples as JSON, with one array for each kind of number. `step` is the length of a sample in seconds.
pub(super) fn series<'s>(
    samples: &(impl Iterator<Item = &'s Sample> + Clone),
    step: u32,
    history: &History,
    settings: &Settings,
) -> Value {
    let columns = |rows: &dyn Fn(&Sample) -> Map<String, Value>| {
        let mut columns = Map::new();
        for row in samples.clone().map(rows) {
            for (key, value) in row {
                if let Value::Array(column) = columns.entry(key).or_insert_with(|| json!([])) {
                    column.push(value);
                }
            }
        }
        Value::Object(columns)
    };
    let none = Row::default();
    let provider = |position: usize| {
        let row = |sample: &Sample| {
            let row = sample.providers.get(position).map_or(&none, |provider| &provider.row);
            let mut row = figures(row, sample.seconds);
            row.extend(gauges(sample, position));
            row
        };
        (history.names.providers[position].clone(), columns(&row))
    };
    let class = |position: usize| {
        let row = |sample: &Sample| figures(sample.classes.get(position).unwrap_or(&none), sample.seconds);
        (history.names.classes[position].clone(), columns(&row))
    };
    let faults = samples.clone().map(|sample| ratio(sample.faults.into(), sample.seconds));
    json!({
        "step": step,
        "times": samples.clone().map(|sample| round(sample.at)).collect::<Vec<_>>(),
        "providers": providers(history, settings).into_iter().map(provider).collect::<Map<_, _>>(),
        "classes": classes(history, settings).into_iter().map(class).collect::<Map<_, _>>(),
        "origin": { "faults": faults.collect::<Vec<_>>() },
    })
}

/// Returns the rates, shares and quantiles of a row.
fn figures(row: &Row<f32>, seconds: f64) -> Map<String, Value> {
    let pulls = row.get(Column::Pulls);
    let mut figures = Map::new();
    for (column, key) in [(Column::Pulls, "pulls"), (Column::Bytes, "bytes")] {
        figures.insert(key.to_owned(), ratio(row.get(column), seconds));
    }
    for (column, key) in [(Column::NotModified, "not_modified"), (Column::Errors, "errors")] {
        figures.insert(key.to_owned(), ratio(row.get(column), pulls));
    }
    for (key, quantile) in QUANTILES {
        figures.insert(key.to_owned(), row.quantile(quantile).map(digits).into());
    }
    figures
}

fn gauges(sample: &Sample, provider: usize) -> impl Iterator<Item = (String, Value)> {
    let gauges =
        [(Gauge::OffloadRequests, "offload_requests"), (Gauge::OffloadBytes, "offload_bytes"), (Gauge::Lag, "log_lag")];
    gauges.map(|(gauge, key)| (key.to_owned(), sample.gauge(provider, gauge).map(digits).into())).into_iter()
}

/// Returns the positions of the providers that the page shows: first the configured providers that the history
/// contains, in the order of the configuration, then the other providers that have pulls in the history.
fn providers(history: &History, settings: &Settings) -> Vec<usize> {
    let configured = settings.providers.iter().map(|provider| provider.name.as_str());
    let has_pulls = |sample: &Sample, position: usize| {
        sample.providers.get(position).is_some_and(|provider| provider.row.get(Column::Pulls) > 0.0)
    };
    shown(&history.names.providers, configured, &ProviderId::RESERVED, history, has_pulls)
}

/// Returns the positions of the classes that the page shows. The same rule as in [`providers`] applies: first the
/// configured classes, then the other classes that have pulls in the history.
fn classes(history: &History, settings: &Settings) -> Vec<usize> {
    let configured = settings.classes.iter().map(|class| class.name.as_str());
    let has_pulls = |sample: &Sample, position: usize| {
        sample.classes.get(position).is_some_and(|class| class.get(Column::Pulls) > 0.0)
    };
    shown(&history.names.classes, configured, &[], history, has_pulls)
}

/// Returns the positions in `known` that the page shows. The configured names in `known` are always shown. All other
/// names are shown only if they have pulls in the history: first the reserved names, then the rest.
fn shown<'n>(
    known: &[String],
    configured: impl Iterator<Item = &'n str>,
    reserved: &[&str],
    history: &History,
    has_pulls: impl Fn(&Sample, usize) -> bool,
) -> Vec<usize> {
    let position = |name: &str| known.iter().position(|known| known == name);
    let mut order: Vec<usize> = configured.filter_map(position).collect();
    let others = reserved.iter().filter_map(|name| position(name)).chain(0..known.len());
    for other in others {
        let mut samples = history.coarse().iter().chain(history.fine());
        if !order.contains(&other) && samples.any(|sample| has_pulls(sample, other)) {
            order.push(other);
        }
    }
    order
}

/// Returns a quotient with four significant digits, or null if the divisor is 0.
fn ratio(part: f64, whole: f64) -> Value {
    if whole > 0.0 { json!(digits(part / whole)) } else { Value::Null }
}

#[cfg(test)]
mod tests {
    use super::super::history::Snapshot;
    use super::*;

    #[test]
    fn unconfigured_name_when_history_has_no_pulls_for_the_name_then_is_hidden() {
        let known = ["other", "none", "fastly", "stranger"].map(str::to_owned);
        let shown = |pulling: &[usize]| {
            let configured = ["akamai", "fastly"].into_iter();
            let mut history = History::default();
            for pulls in 0..2 {
                let mut snapshot = Snapshot::default();
                for position in pulling {
                    snapshot.provider(*position).row.add(Column::Pulls, pulls);
                }
                history.push(snapshot, 1.0, 1.0);
            }
            let has_pulls = |sample: &Sample, position: usize| {
                sample.providers.get(position).is_some_and(|provider| provider.row.get(Column::Pulls) > 0.0)
            };
            shown(&known, configured, &["none", "other"], &history, has_pulls)
        };
        assert_eq!(shown(&[]), [2], "only the configured name that the history contains must be shown");
        assert_eq!(shown(&[0, 1, 3]), [2, 1, 0, 3]);
    }
}
