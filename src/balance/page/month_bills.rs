//! The bills of the present month on the page, and the warnings of a preview about the cost. The samples are read again
//! only if their file or the month has changed.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::super::cost::bill::bills;
use super::super::cost::month::Month;
use super::super::cost::samples::Samples;
use super::super::cost_tables::cost_rows;
use super::super::plan::Plan;
use super::super::plan_cost::{read_small_samples, unchecked, warnings_with};
use super::Page;
use crate::clock;

/// The size of a file and the time of its last change. `None`: the file cannot be read.
pub(super) type Stamp = Option<(u64, SystemTime)>;
type Read = Result<Arc<Samples>, Vec<String>>;
/// The samples, their month, and the stamp of their file.
pub(super) type KnownSamples = Option<(Month, Stamp, Read)>;

pub(super) fn stamp(path: &Path) -> Stamp {
    std::fs::metadata(path).ok().and_then(|found| Some((found.len(), found.modified().ok()?)))
}

impl Page {
    /// Returns the samples of the present month. If no file of samples is configured, the result has no samples.
    async fn samples(&self) -> Read {
        let month = Month::of_unix(clock::unix_time().as_secs());
        let Some(path) = self.file.samples.as_deref() else { return Ok(Arc::new(Samples::new(month))) };
        let mut known = self.samples.lock().await;
        let stamp = stamp(path);
        if let Some((known_month, known_stamp, read)) = &*known
            && (*known_month, *known_stamp) == (month, stamp)
        {
            return read.clone();
        }
        let file = self.file;
        let read = tokio::task::spawn_blocking(move || read_small_samples(file, path, month).map(Arc::new));
        let read = read.await.unwrap_or_else(|error| Err(vec![format!("a bug in edgeshim: {error}")]));
        *known = Some((month, stamp, read.clone()));
        read
    }

    /// Returns the bills as the same texts that `edgeshim balance cost` shows. Returns `null` if there are no prices.
    pub(super) async fn cost(&self) -> Value {
        if self.file.prices.is_empty() {
            return Value::Null;
        }
        let month = Month::of_unix(clock::unix_time().as_secs());
        match self.samples().await {
            Ok(samples) => {
                let bills = bills(&self.file.prices, &samples);
                let notes: Vec<&String> = bills.iter().flat_map(|bill| &bill.notes).collect();
                json!({ "month": samples.month.to_string(), "rows": cost_rows(&bills), "notes": notes, "errors": [] })
            }
            Err(errors) => json!({ "month": month.to_string(), "rows": [], "notes": [], "errors": errors }),
        }
    }

    /// Returns the same warnings about the cost of a plan as the command line shows.
    pub(super) async fn cost_warnings(&self, plan: &Plan) -> Vec<String> {
        if self.file.prices.is_empty() || self.file.samples.is_none() {
            return Vec::new();
        }
        match self.samples().await {
            Ok(samples) => warnings_with(self.file, &samples, plan),
            Err(messages) => unchecked(messages),
        }
    }
}
