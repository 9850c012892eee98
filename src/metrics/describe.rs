//! The table of all metrics, with one row for each metric. The handles, the HELP lines and the tests of the documents
//! use these rows.

use std::marker::PhantomData;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};

use super::native::NativeHistograms;

/// The public description of a metric.
#[derive(Debug)]
pub struct Description {
    /// The name on the metrics page. The series of a histogram have this name and an ending, for example `_bucket`.
    pub name: &'static str,
    pub kind: Kind,
    /// The names of the metric's labels. Callers pass the label values in the same order.
    pub labels: &'static [&'static str],
    pub unit: Unit,
    /// The text of the HELP line.
    pub help: &'static str,
}

/// The kinds of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A row of the table. `H` is the type of the handle that records values of the metric.
pub(crate) struct Metric<H> {
    description: Description,
    handle: PhantomData<fn() -> H>,
}

/// A type of handle: a counter, a gauge or a histogram.
pub(crate) trait Handle: Sized {
    /// Returns the handle of the series `key`. Two handles of the same key record into the same series.
    fn register(recorder: &impl Recorder, key: &Key) -> Self;

    /// Returns a handle that also records into the native histogram of the series, if the metric has one.
    fn with_native(self, _native: &NativeHistograms, _key: &Key) -> Self {
        self
    }
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

impl Handle for Counter {
    fn register(recorder: &impl Recorder, key: &Key) -> Self {
        recorder.register_counter(key, &METADATA)
    }
}

impl Handle for Gauge {
    fn register(recorder: &impl Recorder, key: &Key) -> Self {
        recorder.register_gauge(key, &METADATA)
    }
}

impl Handle for Histogram {
    fn register(recorder: &impl Recorder, key: &Key) -> Self {
        recorder.register_histogram(key, &METADATA)
    }

    fn with_native(self, native: &NativeHistograms, key: &Key) -> Self {
        native.add(key, self)
    }
}

impl<H: Handle> Metric<H> {
    /// Returns the name on the metrics page.
    pub(crate) const fn name(&self) -> &'static str {
        self.description.name
    }

    /// Returns the names of the labels.
    pub(crate) const fn labels(&self) -> &'static [&'static str] {
        self.description.labels
    }

    pub(super) fn description(&self) -> &Description {
        &self.description
    }

    /// Returns the handle of the series with these label values. A caller can leave out the values of the last labels.
    /// The series then has no such labels.
    pub(super) fn register(&self, recorder: &impl Recorder, values: &[&'static str]) -> H {
        H::register(recorder, &self.key(values))
    }

    /// Returns the key of the series with these label values.
    pub(super) fn key(&self, values: &[&'static str]) -> Key {
        let Description { name, labels, .. } = self.description;
        debug_assert!(values.len() <= labels.len(), "{name}: more values than labels");
        let labels: Vec<Label> =
            labels.iter().zip(values).map(|(label, value)| Label::from_static_parts(label, value)).collect();
        Key::from_parts(name, labels)
    }
}

impl Description {
    /// Passes the HELP line and the unit to the exporter.
    pub(super) fn describe(&self, recorder: &impl Recorder) {
        let (name, unit, help) = (self.name.into(), Some(self.unit), self.help.into());
        match self.kind {
            Kind::Counter => recorder.describe_counter(name, unit, help),
            Kind::Gauge => recorder.describe_gauge(name, unit, help),
            Kind::Histogram => recorder.describe_histogram(name, unit, help),
        }
    }
}

/// Declares the rows, and [`METRICS`], the list of all rows. Each row has a kind, a name, labels, a unit and a HELP
/// line.
macro_rules! metrics {
    ($($row:ident: $kind:ident($name:literal, [$($label:literal),*], $unit:ident, $help:literal);)+) => {
        $(
            pub(crate) const $row: Metric<$kind> = Metric {
                description: Description {
                    name: $name,
                    kind: Kind::$kind,
                    labels: &[$($label),*],
                    unit: Unit::$unit,
                    help: $help,
                },
                handle: PhantomData,
            };
        )+

        /// The descriptions of all metrics.
        pub const METRICS: &[Description] = &[$($row.description),+];
    };
}

#[rustfmt::skip]
metrics! {
    // Metrics of pulls.
    PULLS: Counter("edgeshim_pulls_total", ["provider", "class", "code"], Count,
        "Requests from CDNs, by the exact status sent.");
    PULL_BYTES: Counter("edgeshim_pull_bytes_total", ["provider", "class"], Bytes,
        "Response body bytes sent to CDNs, after gzip.");
    PULL_SECONDS: Histogram("edgeshim_pull_seconds", ["provider", "class"], Seconds,
        "Time from the request head of a pull to the last byte of the response.");
    IN_FLIGHT: Gauge("edgeshim_in_flight", ["provider"], Count,
        "Pulls whose response has not ended.");
    REVALIDATIONS: Counter("edgeshim_revalidations_total", ["provider", "class", "result"], Count,
        "Conditional pulls, by whether the origin responded with 304.");
    SHIELD_PULLS: Counter("edgeshim_shield_pulls_total", [], Count, "Pulls through a CDN's shield.");
    PROBE_PULLS: Counter("edgeshim_probe_pulls_total", [], Count, "Health checks by CDNs.");
    RETRY_PULLS: Counter("edgeshim_retry_pulls_total", [], Count, "Pulls that repeat a recent pull.");
    PULL_REASONS: Counter("edgeshim_pull_reasons_total", ["provider", "reason"], Count,
        "Pulls, by the reason why the CDN pulled; approximate, because the table of objects has a fixed size.");
    REFUSED: Counter("edgeshim_refused_total", ["provider", "reason"], Count,
        "Requests that edgeshim refused, by reason.");

    // Metrics of the origin.
    ORIGIN_SECONDS: Histogram("edgeshim_origin_seconds", ["class"], Seconds,
        "Time from sending a request to the origin to the arrival of the response head.");
    ORIGIN_BYTES: Counter("edgeshim_origin_bytes_total", ["class"], Bytes, "Response body bytes read from the origin.");
    ORIGIN_FAULTS: Counter("edgeshim_origin_faults_total", ["cause"], Count,
        "Requests that the origin could not serve, or whose response body the origin truncated.");
    STAND_IN: Counter("edgeshim_stand_in_total", ["result"], Count,
        "Requests to the stand-in after a failure of the origin, by whether its response was served.");
    ORIGIN_CONNECTIONS: Gauge("edgeshim_origin_connections", [], Count,
        "Open connections to the origin, including idle connections.");
    WAITING: Gauge("edgeshim_waiting", [], Count, "Requests that wait in the queue for the origin.");

    // Metrics of the layers.
    ASSIGNMENTS: Counter("edgeshim_assignments_total", ["experiment", "arm"], Count,
        "Requests to which an experiment applies, by the arm that the visitor has.");
    CACHE_REWRITES: Counter("edgeshim_cache_rewrites_total", ["class", "action"], Count,
        "Responses whose Cache-Control was rewritten, by action.");
    CACHE_GUARDS: Counter("edgeshim_cache_guards_total", ["guard"], Count,
        "Responses that a guard kept out of shared caches or reported.");
    TAGS_CUT: Counter("edgeshim_tags_cut_total", ["provider"], Count,
        "Cache tags that edgeshim removed because the CDN would not accept these tags.");
    FIELDS_CUT: Counter("edgeshim_fields_cut_total", ["provider"], Count,
        "Header field lines that edgeshim removed because the response head was larger than the CDN accepts.");
    GZIP_INPUT_BYTES: Counter("edgeshim_gzip_input_bytes_total", ["class"], Bytes,
        "Size before compression of the bodies that were compressed or replaced by a stored gzip twin.");
    GZIP_OUTPUT_BYTES: Counter("edgeshim_gzip_output_bytes_total", ["class"], Bytes,
        "Size after compression of the bodies that were compressed or replaced by a stored gzip twin.");
    GZIP_SKIPPED: Counter("edgeshim_gzip_skipped_total", ["reason"], Count,
        "Bodies that were not compressed, by reason.");
    GZIP_TWINS: Counter("edgeshim_gzip_twins_total", ["result"], Count,
        "Lookups of stored gzip twins, by result.");
    TWINS_RIPENED: Counter("edgeshim_twins_ripened_total", ["coding"], Count,
        "Stored twins that were compressed again in the background, by coding.");
    WHOOPSIES: Counter("edgeshim_whoopsies_total", ["provider", "locale", "cause"], Count, "Whoopsie pages served.");

    // Metrics of the logs that CDNs push, and figures that are calculated from these logs and the pulls. The file
    // `offload.rs` writes the three gauges, because the exporter cannot leave out a gauge while its value is unknown.
    EDGE_REQUESTS: Counter("edgeshim_edge_requests_total", ["provider", "result"], Count,
        "Requests at the edge of a CDN, as its logs report them.");
    EDGE_BYTES: Counter("edgeshim_edge_bytes_total", ["provider"], Bytes,
        "Bytes that a CDN sent to its clients, as its logs report them.");
    EDGE_LOG_LINES: Counter("edgeshim_edge_log_lines_total", ["provider", "result"], Count,
        "Lines of pushed logs, by whether the line was read and counted.");
    EDGE_LOG_BATCHES: Counter("edgeshim_edge_log_batches_total", ["provider", "result"], Count,
        "Requests that pushed a batch of log lines, by result.");
    EDGE_LOG_LAG: Gauge("edgeshim_edge_log_lag_seconds", ["provider"], Seconds,
        "Age of the newest time in a CDN's pushed logs.");
    OFFLOAD: Gauge("edgeshim_offload_ratio", ["provider", "of"], Count,
        "Share of the requests or bytes at the edge that never became pulls, over five minutes.");
    SHARE: Gauge("edgeshim_share_ratio", ["provider"], Count,
        "Share of a provider in all pulls of the last five minutes.");

    // Metrics of browsers. The label `country` exists only while `beacon.country_database` is set.
    BEACONS: Counter("edgeshim_beacons_total", ["source", "country"], Count, "Failure beacons that browsers sent.");
    RUM_SECONDS: Histogram("edgeshim_rum_seconds", ["provider", "page"], Seconds,
        "Load times of pages, as browsers report them.");
    RUM_REJECTED: Counter("edgeshim_rum_rejected_total", ["reason"], Count,
        "RUM requests without a valid load time, by reason.");

    // Metrics of the process.
    ANNOTATIONS: Counter("edgeshim_annotations_total", [], Count,
        "Marks on the time axis of the operators' page.");
    CONNECTIONS: Gauge("edgeshim_connections", [], Count, "Open connections from clients.");
    TLS_HANDSHAKES: Counter("edgeshim_tls_handshakes_total", ["result"], Count,
        "TLS handshakes with clients, by result.");
    CERTIFICATE_EXPIRY: Gauge("edgeshim_certificate_expiry_timestamp_seconds", ["name"], Seconds,
        "Time at which a certificate expires, in seconds since 1970; the label is the path of the certificate's file.");
    ACCESS_LOG_DROPPED: Counter("edgeshim_access_log_dropped_total", [], Count,
        "Access log lines dropped because the queue was full or the output failed or was closed.");
    RANGES_AGE: Gauge("edgeshim_ranges_age_seconds", ["provider"], Seconds,
        "Age of the oldest file from which a provider's current address list was read.");
    BUILD_INFO: Gauge("edgeshim_build_info", ["version", "commit", "config"], Count,
        "Always 1; the labels name the running version and configuration.");
    START: Gauge("edgeshim_start_timestamp_seconds", [], Seconds,
        "Time at which the process started to count, in seconds since 1970.");
    CONFIG_RELOADS: Counter("edgeshim_config_reloads_total", ["result"], Count,
        "Reloads of the configuration, by result; a changed file that cannot be used also counts as failed.");
    CONFIG_LOADED: Gauge("edgeshim_config_loaded_timestamp_seconds", [], Seconds,
        "Time at which the running configuration was loaded, in seconds since 1970.");
}
