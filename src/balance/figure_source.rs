//! Reads the counters of all shims: from the shims' admin listeners, or from Prometheus.

use std::time::Duration;

use http::{HeaderMap, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::api_call::{Caller, Reply};
use super::balance_file::BalanceFile;
use super::base_url::BaseUrl;
use super::figures::{Growth, Shim, Snapshot, names};
use super::side_by_side::all;
use crate::keys::quote;

/// The time limit of one call to a shim or to Prometheus. The page has a shorter limit of its own.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// Whether balance.toml says where the counters are.
pub(crate) fn has_figures(file: &BalanceFile) -> bool {
    file.prometheus.is_some() || !file.shims.is_empty()
}

/// Reads the counters. If `prometheus` is set, Prometheus supplies the counters of all instances that it scrapes.
/// Otherwise all `shims` are read at the same time. `limit` is the time limit of one call.
///
/// # Errors
/// Returns a message if Prometheus or one of the shims fails, because the sum without this shim would be wrong.
pub(crate) async fn snapshot(file: &BalanceFile, caller: &Caller, limit: Duration) -> Result<Snapshot, String> {
    if let Some(url) = &file.prometheus {
        return from_prometheus(url, caller, "", limit).await;
    }
    let mut snapshot = Snapshot::default();
    for (shim, text) in metrics(file, caller, limit).await? {
        let read = Shim::from_text(&text).map_err(|error| format!("{shim}/metrics: {error}"))?;
        snapshot.shims.insert(shim, read);
    }
    Ok(snapshot)
}

/// Reads the metrics of all `shims` at the same time. Returns the URL and the metrics of each shim.
///
/// # Errors
/// Returns a message if one of the shims fails.
pub(super) async fn metrics(
    file: &BalanceFile,
    caller: &Caller,
    limit: Duration,
) -> Result<Vec<(String, String)>, String> {
    let fields = HeaderMap::new();
    let calls = file.shims.iter().map(|shim| caller.call_once(shim, (Method::GET, "/metrics"), &fields, b"", limit));
    let text = |(shim, reply): (&BaseUrl, Result<Reply, String>)| match reply? {
        Reply { status: 200, body, .. } => Ok((shim.to_string(), String::from_utf8_lossy(&body).into_owned())),
        Reply { status, .. } => Err(format!("{shim}/metrics answers {status}")),
    };
    file.shims.iter().zip(all(calls.collect()).await).map(text).collect()
}

/// Returns the growth of the counters in the last minute. Prometheus must have scraped the shims for more than a
/// minute.
///
/// # Errors
/// Returns a message if Prometheus fails, or if the growth is not known, for example after a restart of a shim.
pub(crate) async fn last_minute(url: &BaseUrl, caller: &Caller) -> Result<Growth, String> {
    let before =
        from_prometheus(url, caller, " offset 1m", LIMIT).await.map_err(|error| format!("a minute ago: {error}"))?;
    let now = from_prometheus(url, caller, "", LIMIT).await?;
    before.until(&now, 60.0)
}

/// Asks Prometheus for the value of each counter of each shim: the newest value, or the value at `offset`. balance
/// computes the growth itself, because the function `rate` of Prometheus would hide a restart.
async fn from_prometheus(url: &BaseUrl, caller: &Caller, offset: &str, limit: Duration) -> Result<Snapshot, String> {
    let query = format!(
        "sum by (__name__, job, instance, provider, source, country, code, le) ({{__name__=~\"{}\"}}{offset})",
        names().join("|")
    );
    let path = format!("/api/v1/query?query={}", utf8_percent_encode(&query, NON_ALPHANUMERIC));
    let reply = caller.call_once(url, (Method::GET, &path), &HeaderMap::new(), b"", limit).await?;
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    if reply.status != 200 || body["status"] != "success" {
        let error = body["error"].as_str().map(|error| format!(": {}", quote(error))).unwrap_or_default();
        return Err(format!("{url}/api/v1/query answers {}{error}", reply.status));
    }
    read_vector(&body).map_err(|error| format!("{url}/api/v1/query: {error}"))
}

/// Reads the answer of Prometheus: a vector of series.
fn read_vector(body: &Value) -> Result<Snapshot, String> {
    let list = body["data"]["result"].as_array().ok_or("the answer is not a vector of series")?;
    let mut snapshot = Snapshot::default();
    for series in list {
        let label = |name: &str| series["metric"][name].as_str();
        let (Some(name), Some(value)) = (label("__name__"), series["value"][1].as_str()) else {
            return Err("a series has no name or no value".to_owned());
        };
        let value = value.parse().map_err(|_| format!("{name} has a value that is not a number"))?;
        let of =
            |name: &str| label(name).unwrap_or_default().chars().filter(|one| !one.is_control()).collect::<String>();
        let shim = format!("{}/{}", of("job"), of("instance"));
        snapshot.shims.entry(shim).or_default().add(name, label, value)?;
    }
    if snapshot.shims.is_empty() {
        return Err("Prometheus has no series of edgeshim; is the scrape job of the shims running?".to_owned());
    }
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(pulls: &str) -> Value {
        let series = |name: &str, instance: &str, value: &str| {
            json!({
                "metric": { "__name__": name, "job": "e", "instance": instance, "provider": "a", "code": "503" },
                "value": [1_700_000_000.1, value],
            })
        };
        json!({ "status": "success", "data": { "resultType": "vector", "result": [
            series("edgeshim_pulls_total", "s1:9900", pulls),
            series("edgeshim_pulls_total", "s2:9900", "5"),
            series("edgeshim_start_timestamp_seconds", "s1:9900", "17"),
        ] } })
    }

    #[test]
    fn answer_of_prometheus_when_read_then_each_instance_is_a_shim() {
        let (before, after) = (read_vector(&answer("10")), read_vector(&answer("30")));
        let growth = before.and_then(|before| before.until(&after?, 15.0)).expect("growth").of("a");
        assert_eq!((growth.pulls, growth.errors), (20.0, 20.0));
    }

    #[test]
    fn answer_of_prometheus_when_empty_or_not_a_number_then_is_an_error() {
        assert!(read_vector(&answer("NaN")).is_err_and(|error| error.contains("NaN")));
        let empty = json!({ "data": { "result": [] } });
        assert!(read_vector(&empty).is_err_and(|error| error.contains("no series")));
        assert!(read_vector(&json!({})).is_err());
    }
}
