//! The traffic at the CDNs' edges that the shims have counted from pushed logs. A counter starts at 0 when its shim
//! starts, so its value is not the traffic of a month.

use std::collections::BTreeMap;

use super::api_call::Caller;
use super::balance_file::BalanceFile;
use super::figure_source::{LIMIT, metrics};
use crate::metrics::describe;

/// The sums of the counters of all shims.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EdgeCounters {
    /// The Unix time at which each shim started to count.
    pub since: BTreeMap<String, u64>,
    pub providers: BTreeMap<String, EdgeTraffic>,
}

/// The traffic of one CDN.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EdgeTraffic {
    pub bytes: u128,
    pub requests: u128,
}

/// Reads the metrics of all shims.
///
/// # Errors
/// Returns a message if a shim fails, because the sum without this shim would be wrong.
pub(crate) async fn read(file: &BalanceFile, caller: &Caller) -> Result<EdgeCounters, String> {
    let mut counters = EdgeCounters::default();
    for (shim, text) in metrics(file, caller, LIMIT).await? {
        counters.add(&shim, &text);
    }
    Ok(counters)
}

impl EdgeCounters {
    /// Adds the counters of one shim. `text` has the text format of Prometheus.
    fn add(&mut self, shim: &str, text: &str) {
        for line in text.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Some(value) = whole(value) else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            if name == describe::START.name() {
                self.since.insert(shim.to_owned(), u64::try_from(value).unwrap_or(0));
            }
            // The names of providers need no escapes.
            let provider = labels.split_once("provider=\"").and_then(|(_, rest)| rest.split_once('"'));
            let Some((provider, _)) = provider else { continue };
            let is_bytes = name == describe::EDGE_BYTES.name();
            if is_bytes || name == describe::EDGE_REQUESTS.name() {
                let traffic = self.providers.entry(provider.to_owned()).or_default();
                let sum = if is_bytes { &mut traffic.bytes } else { &mut traffic.requests };
                *sum = sum.saturating_add(value);
            }
        }
        // If all counters of a CDN are 0, the CDN has sent no log, so its traffic is unknown.
        self.providers.retain(|_, traffic| *traffic != EdgeTraffic::default());
    }
}

/// Reads a number. The fraction is dropped.
fn whole(text: &str) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(whole) && digits(fraction)).then(|| whole.parse::<u64>().ok().map(u128::from))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_when_several_shims_report_then_are_added_and_providers_with_0_are_omitted() {
        let mut counters = EdgeCounters::default();
        let text = |start: &str, bytes: u32| {
            format!(
                "# HELP x y\nedgeshim_start_timestamp_seconds {start}\n\
                 edgeshim_edge_bytes_total{{provider=\"a\"}} {bytes}\n\
                 edgeshim_edge_requests_total{{provider=\"a\",result=\"hit\"}} 3\n\
                 edgeshim_edge_requests_total{{provider=\"a\",result=\"miss\"}} 4\n\
                 edgeshim_edge_bytes_total{{provider=\"b\"}} 0\nedgeshim_edge_bytes_total{{provider=\"c\"}} NaN\n\
                 edgeshim_pulls_total{{provider=\"d\"}} 5\n"
            )
        };
        counters.add("one", &text("1795000000.25", 100));
        counters.add("two", &text("1795000001", 11));
        let a = EdgeTraffic { bytes: 111, requests: 14 };
        assert_eq!(counters.providers, [("a".to_owned(), a)].into());
        let since = [("one".to_owned(), 1_795_000_000), ("two".to_owned(), 1_795_000_001)];
        assert_eq!(counters.since, since.into());
    }
}
