//! The observed shares: how the latest requests were divided among the CDNs. The shims (edgeshim processes) count these
//! requests.

use std::collections::BTreeMap;
use std::time::Duration;

use super::figures::{Counts, Growth};

/// The shortest time between the two readings of the counters from which the shares are computed.
pub(crate) const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// The observed shares, in per cent. They add up to 100, except for rounding.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Observed {
    /// What was counted: `edge requests` or `pulls`.
    pub source: &'static str,
    pub shares: BTreeMap<String, f64>,
}

impl Growth {
    /// Returns how the requests were divided among these providers. If the requests at the edge are known for each
    /// provider that has pulled, these requests are counted. Otherwise the pulls are counted. `None`: there were no
    /// requests.
    pub(crate) fn observed(&self, providers: &[&String]) -> Option<Observed> {
        let of = |count: fn(&Counts) -> f64| -> BTreeMap<&String, f64> {
            providers.iter().map(|name| (*name, self.providers.get(*name).map_or(0.0, count))).collect()
        };
        let (pulls, edge) = (of(|counts| counts.pulls), of(|counts| counts.edge_requests));
        // If a CDN has pulled, but has sent no log in this time, the requests at its edge are unknown.
        let is_known = |name: &&String| edge[*name] > 0.0 || pulls[*name] <= 0.0;
        let has_requests = edge.values().any(|&count| count > 0.0);
        let (source, counts) =
            if has_requests && providers.iter().all(is_known) { ("edge requests", edge) } else { ("pulls", pulls) };
        let sum: f64 = counts.values().sum();
        (sum > 0.0).then(|| {
            let share = |count: f64| (count / sum * 10_000.0).round() / 100.0;
            let shares = counts.into_iter().map(|(name, count)| (name.clone(), share(count))).collect();
            Observed { source, shares }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the source, and the shares of "a" and "b", after this growth of pulls and of requests at the edge.
    fn shares(pulls: [f64; 2], edge: [f64; 2]) -> Option<(&'static str, Vec<f64>)> {
        let names = ["a".to_owned(), "b".to_owned()];
        let counts = |at: usize| Counts { pulls: pulls[at], edge_requests: edge[at], ..Counts::default() };
        let mut growth = Growth::default();
        growth.providers.extend(names.iter().cloned().zip([counts(0), counts(1)]));
        growth.providers.insert("none".to_owned(), Counts { pulls: 7.0, ..Counts::default() });
        growth
            .observed(&names.iter().collect::<Vec<_>>())
            .map(|observed| (observed.source, observed.shares.into_values().collect()))
    }

    #[test]
    fn observed_shares_when_edge_requests_are_unknown_then_are_shares_of_the_pulls() {
        assert_eq!(shares([30.0, 10.0], [0.0, 0.0]), Some(("pulls", vec![75.0, 25.0])));
        assert_eq!(shares([0.0, 0.0], [0.0, 0.0]), None, "no request arrived");
    }

    #[test]
    fn edge_requests_when_known_for_each_provider_that_pulled_then_replace_pulls() {
        assert_eq!(shares([10.0, 10.0], [90.0, 10.0]), Some(("edge requests", vec![90.0, 10.0])));
        assert_eq!(shares([10.0, 0.0], [90.0, 0.0]), Some(("edge requests", vec![100.0, 0.0])));
        assert_eq!(shares([10.0, 10.0], [90.0, 0.0]), Some(("pulls", vec![50.0, 50.0])));
    }
}
