//! The metrics of the process: the table of all metrics ([`describe`]), the label values ([`labels`]), the handles that
//! record values ([`ledger`]), the offload ([`offload`]) and the metrics page, which Prometheus scrapes.
//!
//! Most series exist from the start, with the value 0. Four kinds of series are created on first use, because most
//! series of these kinds would stay at 0:
//!
//! - pulls by `code`, except the code 200 (at most 499 series for each provider and class)
//! - whoopsie pages by locale and cause
//! - beacons by `country` (at most 251 series for each source)
//! - batches of pushed log lines by result
//!
//! The gauges in [`offload`] have no series while their value is unknown. The gauges in [`held_gauges`] have no series
//! after their certificate or address list was removed.

pub(crate) mod arrival;
pub(crate) mod describe;
mod held_gauges;
pub(crate) mod labels;
mod ledger;
mod native;
pub(crate) mod offload;
mod protobuf;
mod throttle;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

pub use self::describe::{Description, Kind, METRICS};
use self::describe::{Handle, Metric};
pub(crate) use self::held_gauges::HeldGauge;
use self::held_gauges::{HeldGauges, family};
pub(crate) use self::labels::Labels;
pub(crate) use self::ledger::{LazyCounters, Ledger, Table};
use self::native::NativeHistograms;
use self::offload::Offload;
pub(crate) use self::throttle::Throttle;
use crate::clock;
use crate::fault::{Cause, Fault};

/// The shortest time between two log messages about faults with the same cause.
const FAULT_MESSAGE_PERIOD: Duration = Duration::from_secs(5);
/// One throttle for each cause. All workers share the throttles, because all workers use the same origin.
static FAULT_MESSAGES: [Throttle; Cause::ALL.len()] = [const { Throttle::new(FAULT_MESSAGE_PERIOD) }; Cause::ALL.len()];

/// The upper bounds of the histogram buckets, in seconds. The lowest bounds are for responses from memory, the highest
/// for timeouts.
pub(crate) const SECONDS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The upper bounds of the histogram buckets for load times in browsers, in seconds. The lowest bounds are for pages in
/// the browser's cache, the highest for loads that most people do not wait for.
const LOAD_SECONDS: [f64; 16] = [0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0];

/// The metrics of the process. A reload does not reset the metrics.
pub struct Metrics {
    recorder: PrometheusRecorder,
    native: NativeHistograms,
    page: PrometheusHandle,
    /// `edgeshim_connections`
    pub connections: Gauge,
    /// `edgeshim_origin_connections`
    pub origin_connections: Gauge,
    /// `edgeshim_waiting`
    pub waiting: Gauge,
    /// `edgeshim_access_log_dropped_total`
    pub access_log_dropped: Counter,
    /// `edgeshim_config_reloads_total{result="ok"}`
    pub(crate) reloads_ok: Counter,
    /// `edgeshim_config_reloads_total{result="failed"}`
    pub(crate) reloads_failed: Counter,
    /// The labels of `edgeshim_build_info`: version, commit and configuration.
    build: Mutex<Option<[String; 3]>>,
    held: HeldGauges,
    /// The counts of pulls and of requests at the edge, from which the offload and the shares are calculated.
    pub(crate) offload: Offload,
    /// `edgeshim_origin_faults_total` by cause. `None` for causes that are failures of the client.
    faults: [Option<Counter>; Cause::ALL.len()],
}

impl Metrics {
    /// Creates a separate registry, so that two instances in one process (a test, the demo) do not share counts.
    ///
    /// # Errors
    /// In practice this function does not fail, because the exporter rejects only an empty list of buckets.
    pub fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Full(describe::RUM_SECONDS.name().to_owned()), &LOAD_SECONDS)?
            .build_recorder();
        for metric in METRICS {
            metric.describe(&recorder);
        }
        let fault = |cause: Cause| {
            (!cause.is_client_error()).then(|| describe::ORIGIN_FAULTS.register(&recorder, &[cause.as_str()]))
        };
        let millis = clock::unix_time().as_millis();
        #[allow(clippy::cast_precision_loss, reason = "a time in milliseconds is below 2^53")]
        describe::START.register(&recorder, &[]).set(millis as f64 / 1_000.0);
        Ok(Self {
            page: recorder.handle(),
            connections: describe::CONNECTIONS.register(&recorder, &[]),
            origin_connections: describe::ORIGIN_CONNECTIONS.register(&recorder, &[]),
            waiting: describe::WAITING.register(&recorder, &[]),
            access_log_dropped: describe::ACCESS_LOG_DROPPED.register(&recorder, &[]),
            reloads_ok: describe::CONFIG_RELOADS.register(&recorder, &["ok"]),
            reloads_failed: describe::CONFIG_RELOADS.register(&recorder, &["failed"]),
            build: Mutex::default(),
            held: HeldGauges::default(),
            offload: Offload::default(),
            faults: Cause::ALL.map(fault),
            native: NativeHistograms::of([describe::PULL_SECONDS.name(), describe::ORIGIN_SECONDS.name()]),
            recorder,
        })
    }

    /// Returns the handle of one series. Each call searches the registry, so callers store the handle.
    pub(crate) fn series<H: Handle>(&self, metric: &Metric<H>, values: &[&'static str]) -> H {
        let key = metric.key(values);
        H::register(&self.recorder, &key).with_native(&self.native, &key)
    }

    /// Returns a gauge whose series exists until the returned value is dropped. `label` is the value of the metric's
    /// only label. The series is on the metrics page only if [`render`](Self::render) lists the metric.
    pub(crate) fn held(&self, metric: &Metric<Gauge>, label: &'static str, value: f64) -> HeldGauge {
        self.held.add(metric, label, value)
    }

    /// Counts a fault of the origin. Also logs the first fault of each cause in each period of five seconds. Ignores a
    /// failure of the client, because such a failure is not a fault of the origin. `origin` is the origin's address,
    /// for the message.
    pub fn fault(&self, fault: &Fault, origin: Option<&str>) {
        let cause = fault.cause().position();
        let Some(counter) = self.faults.get(cause).and_then(Option::as_ref) else { return };
        counter.increment(1);
        if let Some(count) = FAULT_MESSAGES.get(cause).and_then(Throttle::pass) {
            let origin = origin.map_or_else(|| "the origin".to_owned(), |address| format!("the origin at {address}"));
            tracing::warn!("{origin}: {fault}; {} (such faults since the last message: {count})", fault.remedy());
        }
    }

    /// Sets the gauge with the running version and configuration, and the gauge with the time at which the
    /// configuration was loaded. This time is the time of the call.
    pub fn loaded(&self, version: &str, commit: &str, config: &str) {
        *self.build.lock().unwrap_or_else(PoisonError::into_inner) = Some([version, commit, config].map(str::to_owned));
        let now = clock::unix_time();
        self.series(&describe::CONFIG_LOADED, &[]).set(now.as_secs_f64().floor());
    }

    /// Returns the handles for the labels of one configuration. A series that already exists keeps its value.
    pub(crate) fn ledger(&'static self, labels: &Labels) -> Ledger {
        Ledger::new(self, labels)
    }

    /// Returns the metrics in the text format that Prometheus scrapes.
    pub fn render(&self) -> String {
        let mut page = self.page.render();
        self.offload.render(&mut page);
        // edgeshim writes this gauge without the exporter, because the exporter would keep the series of the previous
        // configuration.
        let build = self.build.lock().unwrap_or_else(PoisonError::into_inner);
        let series = build.iter().map(|labels| (labels.iter().map(String::as_str).collect(), 1.0));
        family(&mut page, &describe::BUILD_INFO, series);
        drop(build);
        for metric in [&describe::CERTIFICATE_EXPIRY, &describe::RANGES_AGE] {
            self.held.render(&mut page, metric);
        }
        page
    }

    /// Returns the metrics in the protobuf format, with native histograms. The length of each message is written before
    /// the message.
    pub fn render_protobuf(&self) -> Vec<u8> {
        protobuf::from_text(&self.render(), |metric, labels| self.native.counts(metric, labels))
    }

    /// Moves histogram samples into their buckets, and stores the totals of pulls for the offload. The thread of
    /// `admin` calls this function once a second. With fewer calls, the samples would fill the memory while no scraper
    /// reads the metrics, and the offload would be less precise.
    pub fn upkeep(&self) {
        self.page.run_upkeep();
        self.offload.sample();
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ProviderId, Reason};

    fn metrics() -> &'static Metrics {
        Box::leak(Box::new(Metrics::new().unwrap()))
    }

    #[test]
    fn metric_names_when_listed_then_are_distinct_and_match_kind_and_unit() {
        for (position, metric) in METRICS.iter().enumerate() {
            let Description { name, kind, help, .. } = metric;
            assert!(name.starts_with("edgeshim_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert_eq!(name.ends_with("_seconds"), metric.unit == metrics::Unit::Seconds, "{name}");
            assert!(help.ends_with('.') || help.contains(';'), "{name}: {help}");
            assert!(METRICS.iter().skip(position + 1).all(|other| other.name != *name), "duplicate name {name}");
        }
    }

    #[test]
    fn metrics_page_when_no_event_has_occurred_then_has_the_series_of_the_process() {
        let text = metrics().render();
        for line in [
            "edgeshim_connections 0",
            "edgeshim_origin_connections 0",
            "edgeshim_waiting 0",
            "edgeshim_access_log_dropped_total 0",
            "edgeshim_origin_faults_total{cause=\"cut\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("cause=\"request_"), "{text}");
    }

    #[test]
    fn ledger_when_created_again_then_series_keep_the_old_values() {
        let metrics = metrics();
        metrics.ledger(&Labels::default()).refused(ProviderId::NONE, Reason::Host);
        let second = metrics.ledger(&Labels { providers: vec!["akamai"], ..Labels::default() });
        second.refused(ProviderId::NONE, Reason::Host);
        second.refused(ProviderId::configured(0), Reason::Loop);
        let text = metrics.render();
        for line in [
            "edgeshim_refused_total{provider=\"none\",reason=\"host\"} 2",
            "edgeshim_refused_total{provider=\"akamai\",reason=\"loop\"} 1",
            "edgeshim_refused_total{provider=\"other\",reason=\"malformed\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
