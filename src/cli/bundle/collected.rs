//! The parts of a bundle that come from the admin listener. If a part cannot be read, a problem names the part, and
//! the other parts are still collected. After a failed first request, or after [`ALL_LIMIT`], no further part is
//! requested.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::redaction;
use crate::cli::admin_client::AdminClient;

const MIB: usize = 1 << 20;
/// The longest time for one part, and for all parts.
const PART_LIMIT: Duration = Duration::from_secs(10);
const ALL_LIMIT: Duration = Duration::from_secs(30);

/// The responses of the admin listener, and the problems.
#[derive(Default)]
pub(super) struct Collected {
    pub(super) metrics: Option<String>,
    pub(super) config: Option<Value>,
    pub(super) summary: Option<Value>,
    pub(super) series: Vec<(&'static str, Value)>,
    pub(super) top: Option<Value>,
    pub(super) annotations: Option<Value>,
    pub(super) problems: Vec<String>,
}

/// The ranges of the history. Each range has a file of its own, for example `series-2m.json`.
pub(super) const RANGES: [&str; 3] = ["2m", "15m", "1h"];

/// Collects all parts.
pub(super) fn collect(client: &AdminClient) -> Collected {
    let mut asked = Asked { client, begun: Instant::now(), missing: Vec::new(), is_reached: None };
    let mut collected = Collected {
        metrics: asked.text("/metrics", 32 * MIB),
        config: asked.json("/config", 4 * MIB),
        summary: asked.json("/api/summary", 4 * MIB),
        top: asked.json("/api/top", 4 * MIB),
        annotations: asked.json("/annotations", 4 * MIB),
        ..Collected::default()
    };
    for range in RANGES {
        if let Some(series) = asked.json(&format!("/api/series?range={range}"), 16 * MIB) {
            collected.series.push((range, series));
        }
    }
    collected.problems = asked.missing.into_iter().map(|(why, paths)| format!("{}: {why}", paths.join(", "))).collect();
    if let Some(config) = &mut collected.config {
        redaction::config(config);
    }
    if let Some(top) = &mut collected.top {
        redaction::top_list(top);
    }
    let series = collected.series.iter_mut().map(|(_, series)| series);
    series.chain(&mut collected.annotations).chain(&mut collected.summary).for_each(redaction::texts);
    collected
}

struct Asked<'c> {
    client: &'c AdminClient,
    begun: Instant,
    /// Why parts are missing, with the paths of the parts.
    missing: Vec<(String, Vec<String>)>,
    /// Whether the first request succeeded. `None` before the first request.
    is_reached: Option<bool>,
}

impl Asked<'_> {
    fn bytes(&mut self, path: &str, most: usize) -> Result<Vec<u8>, String> {
        // After a failed first request, each further request would probably fail too, or wait for its time limit.
        if self.is_reached == Some(false) {
            return Err("not requested, because the first request failed".to_owned());
        }
        let left = ALL_LIMIT.saturating_sub(self.begun.elapsed());
        if left.is_zero() {
            return Err(format!("not requested, because {} s have passed", ALL_LIMIT.as_secs()));
        }
        let got = self.client.get(path, most, left.min(PART_LIMIT));
        self.is_reached.get_or_insert(got.is_ok());
        got
    }

    fn text(&mut self, path: &str, most: usize) -> Option<String> {
        let text = self.bytes(path, most).and_then(|bytes| {
            String::from_utf8(bytes)
                .map_err(|_| "the response is not UTF-8; is this the admin listener of edgeshim?".to_owned())
        });
        self.noted(path, text)
    }

    fn json(&mut self, path: &str, most: usize) -> Option<Value> {
        let json = self.bytes(path, most).and_then(|bytes| {
            let wrong = |error| format!("the response is not JSON ({error}); is this the admin listener of edgeshim?");
            serde_json::from_slice(&bytes).map_err(wrong)
        });
        self.noted(path, json)
    }

    /// Returns the part, or notes why it is missing.
    fn noted<T>(&mut self, path: &str, part: Result<T, String>) -> Option<T> {
        let why = match part {
            Ok(part) => return Some(part),
            Err(why) => why,
        };
        match self.missing.iter_mut().find(|(known, _)| *known == why) {
            Some((_, paths)) => paths.push(path.to_owned()),
            None => self.missing.push((why, vec![path.to_owned()])),
        }
        None
    }
}

impl Collected {
    /// Returns the versions for the manifest.
    pub(super) fn versions(&self) -> Value {
        let build =
            self.metrics.iter().flat_map(|text| text.lines()).find(|line| line.starts_with("edgeshim_build_info{"));
        let label = |name: &str| {
            let (_, after) = build?.split_once(&format!("{name}=\""))?;
            after.split('"').next()
        };
        json!({ "version": label("version"), "commit": label("commit"), "config": label("config") })
    }
}
