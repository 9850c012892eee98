//! The shares that the shims (the edgeshim processes that `shims` in balance.toml names) observe: how the requests of
//! the last seconds were divided among the CDNs.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, Method};

use super::api_call::Caller;
use super::balance_file::BalanceFile;
use super::side_by_side::all;
use crate::metrics::describe;

/// The time between two readings of the metrics.
pub(crate) const BETWEEN_LOOKS: Duration = Duration::from_secs(2);
/// The time limit of one reading, in the commands.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// The counters of all shims at one moment, by provider.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Look {
    pulls: BTreeMap<String, f64>,
    edge_requests: BTreeMap<String, f64>,
}

/// The observed shares, in per cent. They add up to 100, except for rounding.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Observed {
    /// What was counted.
    pub source: &'static str,
    pub shares: BTreeMap<String, f64>,
}

/// Reads the metrics of all shims at the same time.
///
/// # Errors
/// Returns a message if a shim fails, because the sum without this shim would be wrong.
pub(crate) async fn look(file: &BalanceFile, caller: &Caller, limit: Duration) -> Result<Look, String> {
    let mut look = Look::default();
    let fields = HeaderMap::new();
    let calls = file.shims.iter().map(|shim| caller.call(shim, (Method::GET, "/metrics"), &fields, b"", limit));
    for (shim, reply) in file.shims.iter().zip(all(calls.collect()).await) {
        let reply = reply?;
        if reply.status != 200 {
            return Err(format!("{shim}/metrics answers {}", reply.status));
        }
        look.add(&String::from_utf8_lossy(&reply.body));
    }
    Ok(look)
}

impl Look {
    pub(crate) fn new(pulls: BTreeMap<String, f64>, edge_requests: BTreeMap<String, f64>) -> Self {
        Self { pulls, edge_requests }
    }

    /// Adds the counters in Prometheus' text format.
    fn add(&mut self, text: &str) {
        for line in text.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Some((name, labels)) = series.split_once('{') else { continue };
            let counters = match name {
                _ if name == describe::PULLS.name() => &mut self.pulls,
                _ if name == describe::EDGE_REQUESTS.name() => &mut self.edge_requests,
                _ => continue,
            };
            // The names of providers need no escapes.
            let provider = labels.split_once("provider=\"").and_then(|(_, rest)| rest.split_once('"'));
            if let (Some((provider, _)), Ok(value)) = (provider, value.parse::<f64>()) {
                *counters.entry(provider.to_owned()).or_default() += value;
            }
        }
    }
}

/// Returns how the requests between two looks were divided among these providers. The requests at the CDNs' edges count
/// if they are known for all providers, else the pulls. `None`: there were no requests, or a counter fell because
/// a shim was restarted.
pub(crate) fn between(first: &Look, second: &Look, providers: &[&String]) -> Option<Observed> {
    let growth = |first: &BTreeMap<String, f64>, second: &BTreeMap<String, f64>| -> Option<BTreeMap<String, f64>> {
        let of = |name: &&String| {
            let (before, after) = (first.get(*name).copied().unwrap_or(0.0), second.get(*name).copied().unwrap_or(0.0));
            (after >= before).then(|| ((*name).clone(), after - before))
        };
        providers.iter().map(of).collect()
    };
    let pulls = growth(&first.pulls, &second.pulls)?;
    let edge = growth(&first.edge_requests, &second.edge_requests)?;
    // A CDN that pulls, but has not sent a log, has unknown requests at its edge.
    let is_known = |name: &&String| {
        second.edge_requests.get(*name).is_some_and(|&count| count > 0.0)
            || pulls.get(*name).is_some_and(|&count| count == 0.0)
    };
    let has_requests = edge.values().any(|&count| count > 0.0);
    let (source, counts) =
        if has_requests && providers.iter().all(is_known) { ("edge requests", edge) } else { ("pulls", pulls) };
    let sum: f64 = counts.values().sum();
    (sum > 0.0).then(|| {
        let shares = counts.into_iter().map(|(name, count)| (name, (count / sum * 10_000.0).round() / 100.0)).collect();
        Observed { source, shares }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(texts: &[&str]) -> Look {
        let mut look = Look::default();
        for text in texts {
            look.add(text);
        }
        look
    }

    fn shares(first: &Look, second: &Look) -> Option<(&'static str, Vec<f64>)> {
        let names = ["a".to_owned(), "b".to_owned()];
        between(first, second, &names.iter().collect::<Vec<_>>())
            .map(|observed| (observed.source, observed.shares.into_values().collect()))
    }

    fn pulls(a: u32, b: u32) -> String {
        format!(
            "# HELP edgeshim_pulls_total Pulls.\nedgeshim_pulls_total{{provider=\"a\",class=\"x\",code=\"200\"}} {a}\n\
             edgeshim_pulls_total{{provider=\"b\",class=\"x\",code=\"200\"}} {b}\n\
             edgeshim_pulls_total{{provider=\"none\",class=\"x\",code=\"200\"}} 7\n"
        )
    }

    fn edge(a: u32, b: u32) -> String {
        format!(
            "edgeshim_edge_requests_total{{provider=\"a\",result=\"hit\"}} {a}\n\
             edgeshim_edge_requests_total{{provider=\"b\",result=\"hit\"}} {b}\n"
        )
    }

    #[test]
    fn shares_when_several_shims_report_then_increases_of_all_shims_are_added() {
        let first = seen(&[&pulls(10, 10), &pulls(0, 100)]);
        let second = seen(&[&pulls(20, 10), &pulls(20, 110)]);
        assert_eq!(shares(&first, &second), Some(("pulls", vec![75.0, 25.0])));
        assert_eq!(shares(&first, &first), None, "no request arrived");
        assert_eq!(shares(&second, &first), None, "a shim was restarted");
    }

    #[test]
    fn edge_requests_when_known_for_all_providers_then_replace_pulls() {
        let first = seen(&[&pulls(0, 0), &edge(1, 1)]);
        let both = seen(&[&pulls(10, 10), &edge(91, 11)]);
        assert_eq!(shares(&first, &both), Some(("edge requests", vec![90.0, 10.0])));
        let first = seen(&[&pulls(0, 0), &edge(1, 0)]);
        let one = seen(&[&pulls(10, 10), &edge(91, 0)]);
        assert_eq!(shares(&first, &one), Some(("pulls", vec![50.0, 50.0])));
    }

    #[test]
    fn metrics_line_when_invalid_then_is_skipped() {
        for text in
            ["edgeshim_pulls_total{provider=\"a\"", "edgeshim_pulls_total{provider=\"a\"} x", "{} 1", " ", "}{ 1"]
        {
            assert_eq!(seen(&[text]), Look::default(), "{text}");
        }
    }
}
