//! Every metric's name, labels and handle, in one place.
//!
//! Handles are made when a configuration is loaded and kept in arrays by id: recording is an atomic add, and no label is ever made
//! from what a client wrote. Series are made on first use where most of them would stay at 0 for ever: of `code` (500 at most for a
//! class), of pages by locale and cause, and of `country` (251 at most for a source).

mod protobuf;
mod throttle;

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Label, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use throttle::Throttle;

use crate::fault::{Cause, Fault};
use crate::ids::{ClassId, Country, LocaleId, ProviderId, PullKind, intern};

/// How often one cause of fault is logged.
const FAULT_MESSAGE_PERIOD: Duration = Duration::from_secs(5);
/// For all providers together.
static FIELDS_CUT_MESSAGE: Throttle = Throttle::new(Duration::from_mins(1));
/// One for each cause, for the whole process: all workers meet the same origin.
static FAULT_MESSAGES: [Throttle; Cause::ALL.len()] = [const { Throttle::new(FAULT_MESSAGE_PERIOD) }; Cause::ALL.len()];

/// Upper bounds of all histograms of seconds: from a memory answer to a timeout.
const SECONDS: [f64; 15] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Upper bounds of the histogram of load times in browsers: from a page out of the cache to one that nobody waits for.
const LOAD_SECONDS: [f64; 16] = [0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0];

/// Why a request was refused: the label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The head is ambiguous, broken or too large.
    Malformed,
    /// The head did not arrive within `server.header_timeout`.
    HeaderTimeout,
    /// No provider, or one that is not configured, and `identity.unknown = "reject"`.
    UnknownProvider,
    /// A claim that was not proved, and `identity.unverified = "reject"`.
    Unverified,
    /// A Host that `server.hosts` does not hold.
    Host,
    /// More than `server.max_hops` passes through this shim.
    Loop,
    /// CONNECT, which no origin behind a CDN has a use for.
    Method,
    /// A body longer than `server.max_request_body`.
    BodyTooLarge,
}

impl Reason {
    /// Every reason, in the order of their ids.
    pub const ALL: [Self; 8] = [
        Self::Malformed,
        Self::HeaderTimeout,
        Self::UnknownProvider,
        Self::Unverified,
        Self::Host,
        Self::Loop,
        Self::Method,
        Self::BodyTooLarge,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::HeaderTimeout => "header_timeout",
            Self::UnknownProvider => "unknown_provider",
            Self::Unverified => "unverified",
            Self::Host => "host",
            Self::Loop => "loop",
            Self::Method => "method",
            Self::BodyTooLarge => "body_too_large",
        }
    }
}

/// Why a RUM beacon was rejected: the label `reason` of `edgeshim_rum_rejected_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RumReason {
    /// There is no load time in it.
    Missing,
    /// The load time is no number, or out of range.
    Number,
    /// The body is no form.
    MediaType,
    /// The body is too long.
    TooLarge,
    /// The body did not come in time.
    Late,
    /// The body broke off.
    Cut,
    /// Neither GET nor POST.
    Method,
}

impl RumReason {
    /// Every reason, in the order of their ids.
    pub const ALL: [Self; 7] =
        [Self::Missing, Self::Number, Self::MediaType, Self::TooLarge, Self::Late, Self::Cut, Self::Method];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Number => "number",
            Self::MediaType => "media_type",
            Self::TooLarge => "too_large",
            Self::Late => "late",
            Self::Cut => "cut",
            Self::Method => "method",
        }
    }
}

/// The metrics of the process. They outlive every reload.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// `edgeshim_connections`
    pub connections: Gauge,
    /// `edgeshim_origin_connections`
    pub origin_connections: Gauge,
    /// `edgeshim_waiting`
    pub waiting: Gauge,
    /// `edgeshim_access_log_dropped_total`
    pub access_log_dropped: Counter,
    faults: Vec<Counter>,
    /// Of shields, of probes, tried again.
    pull_kinds: [Counter; 3],
}

impl Metrics {
    /// A registry of its own, so that two shims in one process (a test, the demo) do not mix.
    ///
    /// # Errors
    /// None in practice: the exporter only refuses an empty list of buckets.
    pub fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Full("edgeshim_rum_seconds".to_owned()), &LOAD_SECONDS)?
            .build_recorder();
        let handle = recorder.handle();
        let metrics = metrics::with_local_recorder(&recorder, || {
            describe();
            (
                gauge!("edgeshim_connections"),
                gauge!("edgeshim_origin_connections"),
                gauge!("edgeshim_waiting"),
                counter!("edgeshim_access_log_dropped_total"),
                Cause::ALL
                    .iter()
                    .filter(|cause| !cause.is_visitors())
                    .map(|cause| counter!("edgeshim_origin_faults_total", "cause" => cause.as_str()))
                    .collect(),
                [
                    counter!("edgeshim_shield_pulls_total"),
                    counter!("edgeshim_probe_pulls_total"),
                    counter!("edgeshim_retry_pulls_total"),
                ],
            )
        });
        let (connections, origin_connections, waiting, access_log_dropped, faults, pull_kinds) = metrics;
        for gauge in [&connections, &origin_connections, &waiting] {
            gauge.set(0.0);
        }
        Ok(Self { recorder, handle, connections, origin_connections, waiting, access_log_dropped, faults, pull_kinds })
    }

    /// Counts a fault of the origin's, and logs the first of its cause in some seconds, with what to look at. The clients' own failures are
    /// no faults.
    pub fn fault(&self, fault: &Fault, origin: Option<&str>) {
        // The clients' causes stand at the end of the list, so the ids of the others are their places.
        let cause = fault.cause() as usize;
        let Some(counter) = self.faults.get(cause) else { return };
        counter.increment(1);
        if let Some(count) = FAULT_MESSAGES.get(cause).and_then(Throttle::pass) {
            let origin = origin.map_or_else(|| "the origin".to_owned(), |address| format!("the origin at {address}"));
            tracing::warn!("{origin}: {fault}; {} (such faults since the last message: {count})", fault.remedy());
        }
    }

    /// Counts a pull that was made for no visitor's own request, or again.
    pub fn pull_kind(&self, kind: PullKind) {
        let [shields, probes, retries] = &self.pull_kinds;
        match kind {
            PullKind::Unknown | PullKind::Edge => {}
            PullKind::Shield => shields.increment(1),
            PullKind::Probe => probes.increment(1),
            PullKind::Retry => retries.increment(1),
        }
    }

    /// Says which program and which configuration is running, since when.
    pub fn loaded(&self, version: &'static str, commit: &'static str, config: &str) {
        let config = intern(config);
        metrics::with_local_recorder(&self.recorder, || {
            gauge!("edgeshim_build_info", "version" => version, "commit" => commit, "config" => config).set(1.0);
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            gauge!("edgeshim_config_loaded_timestamp_seconds").set(now.as_secs_f64().floor());
        });
    }

    /// `edgeshim_ranges_age_seconds` of a provider that has address lists in files.
    pub fn ranges_age(&self, provider: &'static str) -> Gauge {
        metrics::with_local_recorder(&self.recorder, || gauge!("edgeshim_ranges_age_seconds", "provider" => provider))
    }

    /// The handles for one configuration's labels. Series of labels that were there before go on where they were.
    pub fn ledger(&'static self, labels: &Labels) -> Ledger {
        metrics::with_local_recorder(&self.recorder, || Ledger::new(self, labels))
    }

    /// The text format that Prometheus scrapes.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// The protobuf format, length-delimited.
    pub fn render_protobuf(&self) -> Vec<u8> {
        protobuf::from_text(&self.render())
    }

    /// Moves histogram samples into their buckets. Without it, and with nobody scraping, they would pile up: call it every few
    /// seconds.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// The label values of one configuration.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    /// Configured providers, in order.
    pub providers: Vec<&'static str>,
    /// Configured classes, in order.
    pub classes: Vec<&'static str>,
    /// Locales of the pages, in the order of their ids.
    pub locales: Vec<&'static str>,
    /// What `cache_control` can do to an answer, in the order of its ids.
    pub cache_actions: Vec<&'static str>,
    /// The guards of `cache_control`, in the order of their ids.
    pub cache_guards: Vec<&'static str>,
    /// Why `gzip` left a body alone, in the order of the ids.
    pub gzip_skips: Vec<&'static str>,
    /// What `gzip` found in its store of twins, in the order of the ids.
    pub gzip_found: Vec<&'static str>,
    /// Accepted `source` values of beacons, in order; `other` is added.
    pub beacon_sources: Vec<&'static str>,
    /// Whether beacons are counted by country too.
    pub countries: bool,
    /// Accepted pages of RUM beacons, in order; `other` is added. None while RUM is off.
    pub rum_pages: Option<Vec<&'static str>>,
}

/// The handles that one configuration records through, in arrays by id.
pub struct Ledger {
    metrics: &'static Metrics,
    providers: Vec<&'static str>,
    classes: Vec<&'static str>,
    locales: Vec<&'static str>,
    rows: Vec<Row>,
    in_flight: Vec<Gauge>,
    refused: Vec<[Counter; Reason::ALL.len()]>,
    per_class: Vec<ClassRow>,
    gzip_skipped: Vec<Counter>,
    gzip_twins: Vec<Counter>,
    guards: Vec<Counter>,
    /// By provider id, as the next one.
    tags_cut: Vec<Counter>,
    fields_cut: Vec<Counter>,
    beacons: Beacons,
    rum: Option<Rum>,
    whoopsies: Vec<OnceLock<Counter>>,
}

/// What a request counts under: one provider and one class.
pub struct Row {
    /// `edgeshim_pull_bytes_total`
    pub bytes: Counter,
    /// `edgeshim_pull_seconds`
    pub seconds: Histogram,
    /// `edgeshim_revalidations_total{result="not_modified"}`
    pub not_modified: Counter,
    /// `edgeshim_revalidations_total{result="modified"}`
    pub modified: Counter,
    ok: Counter,
    codes: Codes,
}

/// Counters by status, 1xx to 5xx, made when a status is first seen.
type Codes = [OnceLock<Box<[OnceLock<Counter>; 100]>>; 5];

/// Beacons by source: one counter each, or one for each country, made when a beacon first comes from there.
enum Beacons {
    BySource(Vec<Counter>),
    ByCountry(Vec<(&'static str, Box<[OnceLock<Counter>; Country::COUNT]>)>),
}

/// What RUM beacons count under.
struct Rum {
    /// Pages, `other` among them: the columns of `seconds`.
    pages: usize,
    seconds: Vec<Histogram>,
    rejected: [Counter; RumReason::ALL.len()],
}

struct ClassRow {
    origin_seconds: Histogram,
    origin_bytes: Counter,
    gzip_input: Counter,
    gzip_output: Counter,
    rewrites: Vec<Counter>,
}

impl Ledger {
    fn new(metrics: &'static Metrics, labels: &Labels) -> Self {
        let providers: Vec<_> = ProviderId::RESERVED.into_iter().chain(labels.providers.iter().copied()).collect();
        let classes: Vec<_> = std::iter::once("other").chain(labels.classes.iter().copied()).collect();
        let mut rows = Vec::with_capacity(providers.len() * classes.len());
        for provider in &providers {
            for class in &classes {
                rows.push(Row::new(provider, class));
            }
        }
        let gauge_at_zero = |provider: &&'static str| {
            let gauge = gauge!("edgeshim_in_flight", "provider" => *provider);
            gauge.increment(0.0);
            gauge
        };
        let whoopsies = providers.len() * labels.locales.len() * WHOOPSIE_CAUSES;
        Self {
            metrics,
            in_flight: providers.iter().map(gauge_at_zero).collect(),
            refused: providers
                .iter()
                .map(|provider| {
                    Reason::ALL.map(|reason| {
                        counter!("edgeshim_refused_total", "provider" => *provider, "reason" => reason.as_str())
                    })
                })
                .collect(),
            per_class: classes.iter().map(|class| ClassRow::new(class, &labels.cache_actions)).collect(),
            gzip_skipped: labels
                .gzip_skips
                .iter()
                .map(|reason| counter!("edgeshim_gzip_skipped_total", "reason" => *reason))
                .collect(),
            gzip_twins: labels
                .gzip_found
                .iter()
                .map(|result| counter!("edgeshim_gzip_twins_total", "result" => *result))
                .collect(),
            guards: labels
                .cache_guards
                .iter()
                .map(|guard| counter!("edgeshim_cache_guards_total", "guard" => *guard))
                .collect(),
            tags_cut: providers.iter().map(|name| counter!("edgeshim_tags_cut_total", "provider" => *name)).collect(),
            fields_cut: providers
                .iter()
                .map(|name| counter!("edgeshim_fields_cut_total", "provider" => *name))
                .collect(),
            beacons: Beacons::new(labels),
            rum: labels.rum_pages.as_ref().map(|pages| Rum::new(&providers, pages)),
            whoopsies: (0..whoopsies).map(|_| OnceLock::new()).collect(),
            rows,
            providers,
            classes,
            locales: labels.locales.clone(),
        }
    }

    /// The process' own metrics.
    pub fn metrics(&self) -> &'static Metrics {
        self.metrics
    }

    /// The labels of all providers, in the order of their ids.
    pub fn providers(&self) -> impl Iterator<Item = &'static str> {
        self.providers.iter().copied()
    }

    /// The label of a provider.
    pub fn provider(&self, id: ProviderId) -> &'static str {
        self.providers.get(id.index()).copied().unwrap_or("other")
    }

    /// The label of a class.
    pub fn class(&self, id: ClassId) -> &'static str {
        self.classes.get(id.index()).copied().unwrap_or("other")
    }

    /// The label of a locale.
    pub fn locale(&self, id: LocaleId) -> &'static str {
        self.locales.get(usize::from(id.0)).copied().unwrap_or("other")
    }

    /// The row of a provider and a class.
    pub fn row(&self, provider: ProviderId, class: ClassId) -> &Row {
        let index = provider.index() * self.classes.len() + class.index();
        // Ids are made from the same lists; one from elsewhere would count under `none`, `other`.
        self.rows.get(index).unwrap_or(&self.rows[0])
    }

    /// Counts one pull under the exact status that was sent (or 499).
    pub fn pull(&self, provider: ProviderId, class: ClassId, code: u16) {
        let row = self.row(provider, class);
        if code == 200 {
            row.ok.increment(1);
            return;
        }
        let (hundred, rest) = (usize::from(code / 100), usize::from(code % 100));
        let Some(slot) = hundred.checked_sub(1).and_then(|hundred| row.codes.get(hundred)) else {
            return;
        };
        let counters = slot.get_or_init(|| Box::new([const { OnceLock::new() }; 100]));
        if let Some(counter) = counters.get(rest) {
            counter
                .get_or_init(|| {
                    metrics::with_local_recorder(&self.metrics.recorder, || {
                        counter!("edgeshim_pulls_total",
                            "provider" => self.provider(provider),
                            "class" => self.class(class),
                            "code" => code.to_string())
                    })
                })
                .increment(1);
        }
    }

    /// `edgeshim_in_flight` of a provider.
    pub fn in_flight(&self, provider: ProviderId) -> &Gauge {
        self.in_flight.get(provider.index()).unwrap_or(&self.in_flight[0])
    }

    /// Counts a refusal.
    pub fn refused(&self, provider: ProviderId, reason: Reason) {
        if let Some(counters) = self.refused.get(provider.index()) {
            counters[reason as usize].increment(1);
        }
    }

    /// Records how long the origin took to its response head.
    pub fn origin_seconds(&self, class: ClassId, took: Duration) {
        self.class_row(class).origin_seconds.record(took.as_secs_f64());
    }

    /// Counts body bytes read from the origin.
    pub fn origin_bytes(&self, class: ClassId, bytes: u64) {
        self.class_row(class).origin_bytes.increment(bytes);
    }

    /// Counts what went into a compressor and what came out of it.
    pub fn gzip(&self, class: ClassId, input: u64, output: u64) {
        let row = self.class_row(class);
        row.gzip_input.increment(input);
        row.gzip_output.increment(output);
    }

    /// Counts a body that was not compressed, by the id of why.
    pub fn gzip_skipped(&self, reason: usize) {
        if let Some(counter) = self.gzip_skipped.get(reason) {
            counter.increment(1);
        }
    }

    /// Counts a pull that a twin could answer, by the id of what came of it.
    pub fn gzip_twin(&self, found: usize) {
        if let Some(counter) = self.gzip_twins.get(found) {
            counter.increment(1);
        }
    }

    /// Counts a rewritten Cache-Control, by the id of what was done.
    pub fn cache_rewrite(&self, class: ClassId, action: usize) {
        if let Some(counter) = self.class_row(class).rewrites.get(action) {
            counter.increment(1);
        }
    }

    /// Counts a guard that held, by its id.
    pub fn cache_guard(&self, guard: usize) {
        if let Some(counter) = self.guards.get(guard) {
            counter.increment(1);
        }
    }

    /// Counts cache tags that a provider's CDN would not have taken.
    pub fn tags_cut(&self, provider: ProviderId, tags: usize) {
        if let Some(counter) = self.tags_cut.get(provider.index()).filter(|_| tags > 0) {
            counter.increment(tags as u64);
        }
    }

    /// Counts lines of a head that was larger than a provider's CDN takes, and logs that once a minute.
    pub fn fields_cut(&self, provider: ProviderId, lines: usize) {
        let Some(counter) = self.fields_cut.get(provider.index()).filter(|_| lines > 0) else { return };
        counter.increment(lines as u64);
        if let Some(count) = FIELDS_CUT_MESSAGE.pass_many(lines as u64) {
            tracing::warn!(
                "a response head is larger than {} takes: header fields left out since the last message: {count}; have the origin \
                 send fewer fields, cookies above all (edgeshim_fields_cut_total counts by provider)",
                self.provider(provider)
            );
        }
    }

    /// Counts a beacon by its source and, where countries are known, its country. A place beyond the list of sources is `other`.
    pub fn beacon(&self, source: usize, country: Country) {
        match &self.beacons {
            Beacons::BySource(counters) => {
                if let Some(counter) = counters.get(source).or(counters.last()) {
                    counter.increment(1);
                }
            }
            Beacons::ByCountry(rows) => {
                let row = rows.get(source).or(rows.last());
                if let Some((source, counters)) = row
                    && let Some(slot) = counters.get(country.index())
                {
                    let made = || beacons_from(source, country);
                    slot.get_or_init(|| metrics::with_local_recorder(&self.metrics.recorder, made)).increment(1);
                }
            }
        }
    }

    /// Records a load time, by the place of its page; a place beyond the list is `other`.
    pub fn rum(&self, provider: ProviderId, page: usize, seconds: f64) {
        if let Some(rum) = &self.rum {
            let place = provider.index() * rum.pages + page.min(rum.pages - 1);
            if let Some(histogram) = rum.seconds.get(place) {
                histogram.record(seconds);
            }
        }
    }

    /// Counts a rejected RUM beacon.
    pub fn rum_rejected(&self, reason: RumReason) {
        if let Some(rum) = &self.rum {
            rum.rejected[reason as usize].increment(1);
        }
    }

    /// Counts a page. `cause` is a fault's, or none for the origin's own 5xx.
    pub fn whoopsie(&self, provider: ProviderId, locale: LocaleId, cause: Option<Cause>) {
        let place = cause.map_or(Cause::ALL.len(), |cause| cause as usize);
        let index = (provider.index() * self.locales.len() + usize::from(locale.0)) * WHOOPSIE_CAUSES + place;
        if let Some(slot) = self.whoopsies.get(index) {
            slot.get_or_init(|| {
                metrics::with_local_recorder(&self.metrics.recorder, || {
                    counter!("edgeshim_whoopsies_total",
                        "provider" => self.provider(provider),
                        "locale" => self.locale(locale),
                        "cause" => cause.map_or(ORIGIN_STATUS, Cause::as_str))
                })
            })
            .increment(1);
        }
    }

    fn class_row(&self, class: ClassId) -> &ClassRow {
        self.per_class.get(class.index()).unwrap_or(&self.per_class[0])
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("providers", &self.providers).finish_non_exhaustive()
    }
}

/// The `cause` of a page that replaced the origin's own 5xx.
pub(crate) const ORIGIN_STATUS: &str = "origin_5xx";
const WHOOPSIE_CAUSES: usize = Cause::ALL.len() + 1;

impl Row {
    fn new(provider: &'static str, class: &'static str) -> Self {
        let labels = || vec![Label::from_static_parts("provider", provider), Label::from_static_parts("class", class)];
        let revalidations = |result: &'static str| {
            counter!("edgeshim_revalidations_total",
                "provider" => provider, "class" => class, "result" => result)
        };
        Self {
            bytes: counter!("edgeshim_pull_bytes_total", labels()),
            seconds: histogram!("edgeshim_pull_seconds", labels()),
            not_modified: revalidations("not_modified"),
            modified: revalidations("modified"),
            ok: counter!("edgeshim_pulls_total", "provider" => provider, "class" => class, "code" => "200"),
            codes: [const { OnceLock::new() }; 5],
        }
    }
}

impl Beacons {
    fn new(labels: &Labels) -> Self {
        let sources = labels.beacon_sources.iter().copied().chain(std::iter::once("other"));
        if !labels.countries {
            return Self::BySource(
                sources.map(|source| counter!("edgeshim_beacons_total", "source" => source)).collect(),
            );
        }
        let row = |source| {
            let counters = Box::new([const { OnceLock::new() }; Country::COUNT]);
            // So that each source is there from the start.
            let _ = counters[Country::OTHER.index()].set(beacons_from(source, Country::OTHER));
            (source, counters)
        };
        Self::ByCountry(sources.map(row).collect())
    }
}

fn beacons_from(source: &'static str, country: Country) -> Counter {
    counter!("edgeshim_beacons_total", "source" => source, "country" => country.as_str())
}

impl Rum {
    fn new(providers: &[&'static str], pages: &[&'static str]) -> Self {
        let pages: Vec<_> = pages.iter().copied().chain(std::iter::once("other")).collect();
        let row = |provider: &'static str| {
            pages.iter().map(move |page| histogram!("edgeshim_rum_seconds", "provider" => provider, "page" => *page))
        };
        Self {
            pages: pages.len(),
            seconds: providers.iter().copied().flat_map(row).collect(),
            rejected: RumReason::ALL.map(|reason| counter!("edgeshim_rum_rejected_total", "reason" => reason.as_str())),
        }
    }
}

impl ClassRow {
    fn new(class: &'static str, actions: &[&'static str]) -> Self {
        Self {
            origin_seconds: histogram!("edgeshim_origin_seconds", "class" => class),
            origin_bytes: counter!("edgeshim_origin_bytes_total", "class" => class),
            gzip_input: counter!("edgeshim_gzip_input_bytes_total", "class" => class),
            gzip_output: counter!("edgeshim_gzip_output_bytes_total", "class" => class),
            rewrites: actions
                .iter()
                .map(|action| counter!("edgeshim_cache_rewrites_total", "class" => class, "action" => *action))
                .collect(),
        }
    }
}

fn describe() {
    let counters = [
        ("edgeshim_pulls_total", Unit::Count, "Requests from CDNs, by the exact status sent."),
        ("edgeshim_shield_pulls_total", Unit::Count, "Pulls that came through a CDN's shield."),
        ("edgeshim_probe_pulls_total", Unit::Count, "CDNs' health checks."),
        ("edgeshim_retry_pulls_total", Unit::Count, "Pulls that a CDN tried again."),
        ("edgeshim_pull_bytes_total", Unit::Bytes, "Response body bytes sent to CDNs, after gzip."),
        ("edgeshim_revalidations_total", Unit::Count, "Conditional pulls, by whether the origin said 304."),
        ("edgeshim_origin_bytes_total", Unit::Bytes, "Response body bytes read from the origin."),
        (
            "edgeshim_origin_faults_total",
            Unit::Count,
            "Requests that the origin could not answer, or whose body it broke off.",
        ),
        ("edgeshim_gzip_input_bytes_total", Unit::Bytes, "Body bytes that went into the compressor."),
        ("edgeshim_gzip_output_bytes_total", Unit::Bytes, "Body bytes that came out of the compressor."),
        ("edgeshim_gzip_skipped_total", Unit::Count, "Bodies that went out as they came, by why."),
        ("edgeshim_gzip_twins_total", Unit::Count, "Pulls that a kept gzip twin could answer, by what came of it."),
        ("edgeshim_cache_rewrites_total", Unit::Count, "Answers whose Cache-Control was rewritten."),
        ("edgeshim_cache_guards_total", Unit::Count, "Answers that a guard kept out of shared caches, or reports."),
        ("edgeshim_tags_cut_total", Unit::Count, "Cache tags left out because the CDN would not have taken them."),
        (
            "edgeshim_fields_cut_total",
            Unit::Count,
            "Lines of heads left out because the CDN takes no head of that size.",
        ),
        ("edgeshim_refused_total", Unit::Count, "Requests refused, by reason."),
        ("edgeshim_whoopsies_total", Unit::Count, "Whoopsie pages served."),
        ("edgeshim_beacons_total", Unit::Count, "Failure beacons that browsers sent."),
        ("edgeshim_rum_rejected_total", Unit::Count, "RUM beacons that were no load time, by what was wrong."),
        (
            "edgeshim_access_log_dropped_total",
            Unit::Count,
            "Access log lines dropped because the writer could not keep up.",
        ),
    ];
    for (name, unit, text) in counters {
        describe_counter!(name, unit, text);
    }
    let gauges = [
        ("edgeshim_connections", Unit::Count, "Open connections from CDNs."),
        ("edgeshim_origin_connections", Unit::Count, "Open connections to the origin, idle ones too."),
        ("edgeshim_waiting", Unit::Count, "Requests that wait in line for the origin."),
        ("edgeshim_in_flight", Unit::Count, "Pulls between their head and the last byte of their answer."),
        ("edgeshim_build_info", Unit::Count, "Always 1; the labels say what is running."),
        (
            "edgeshim_ranges_age_seconds",
            Unit::Seconds,
            "Since the oldest of a provider's address lists in force was written.",
        ),
        ("edgeshim_config_loaded_timestamp_seconds", Unit::Seconds, "When the running configuration was loaded."),
    ];
    for (name, unit, text) in gauges {
        describe_gauge!(name, unit, text);
    }
    describe_histogram!("edgeshim_pull_seconds", Unit::Seconds, "From a pull's head to the last byte of its answer.");
    describe_histogram!("edgeshim_origin_seconds", Unit::Seconds, "From sending to the origin to its response head.");
    describe_histogram!("edgeshim_rum_seconds", Unit::Seconds, "Load times of pages, as browsers tell them.");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        metrics.ledger(&Labels {
            providers: vec!["fastly"],
            classes: vec!["image"],
            locales: vec!["en"],
            cache_actions: vec!["tidied"],
            cache_guards: vec!["set_cookie"],
            gzip_skips: vec!["off", "type"],
            gzip_found: vec!["hit"],
            beacon_sources: vec!["fastly"],
            ..Labels::default()
        })
    }

    #[test]
    fn every_series_is_there_from_the_start() {
        let text = ledger().metrics().render();
        for line in [
            "edgeshim_pulls_total{provider=\"fastly\",class=\"image\",code=\"200\"} 0",
            "edgeshim_pull_bytes_total{provider=\"none\",class=\"other\"} 0",
            "edgeshim_pull_seconds_count{provider=\"fastly\",class=\"image\"} 0",
            "edgeshim_in_flight{provider=\"unverified\"} 0",
            "edgeshim_origin_faults_total{cause=\"cut\"} 0",
            "edgeshim_refused_total{provider=\"other\",reason=\"malformed\"} 0",
            "edgeshim_beacons_total{source=\"other\"} 0",
            "edgeshim_gzip_skipped_total{reason=\"type\"} 0",
            "edgeshim_tags_cut_total{provider=\"fastly\"} 0",
            "edgeshim_fields_cut_total{provider=\"unverified\"} 0",
            "edgeshim_connections 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn countries_are_made_when_seen_and_sources_are_there() {
        let first = ledger();
        let labels = Labels { beacon_sources: vec!["akamai"], countries: true, ..Labels::default() };
        let ledger = first.metrics().ledger(&labels);
        for (source, code) in [(0, "DE"), (0, "DE"), (7, "US"), (0, "ZZ")] {
            ledger.beacon(source, Country::from_code(code));
        }
        let text = ledger.metrics().render();
        for line in [
            "edgeshim_beacons_total{source=\"akamai\",country=\"DE\"} 2",
            "edgeshim_beacons_total{source=\"akamai\",country=\"other\"} 1",
            "edgeshim_beacons_total{source=\"other\",country=\"US\"} 1",
            "edgeshim_beacons_total{source=\"other\",country=\"other\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert_eq!(text.matches("country=").count(), 4, "{text}");
    }

    #[test]
    fn load_times_have_buckets_of_their_own_and_pages_bounds() {
        let first = ledger();
        first.rum(ProviderId::NONE, 0, 1.0);
        let off = first.metrics().render();
        assert!(!off.contains("edgeshim_rum_"), "{off}");
        let labels = Labels { providers: vec!["fastly"], rum_pages: Some(vec!["home"]), ..Labels::default() };
        let ledger = first.metrics().ledger(&labels);
        ledger.rum(ProviderId::configured(0), 0, 1.2);
        ledger.rum(ProviderId::configured(0), usize::MAX, 45.0);
        ledger.rum_rejected(RumReason::Method);
        let text = ledger.metrics().render();
        for line in [
            "edgeshim_rum_seconds_bucket{provider=\"fastly\",page=\"home\",le=\"1\"} 0",
            "edgeshim_rum_seconds_bucket{provider=\"fastly\",page=\"home\",le=\"1.5\"} 1",
            "edgeshim_rum_seconds_sum{provider=\"fastly\",page=\"other\"} 45",
            "edgeshim_rum_seconds_count{provider=\"none\",page=\"home\"} 0",
            "edgeshim_rum_rejected_total{reason=\"method\"} 1",
            "edgeshim_rum_rejected_total{reason=\"missing\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_code_is_counted_under_its_own_number() {
        let ledger = ledger();
        for code in [200, 200, 404, 499, 599, 99, 600, 0] {
            ledger.pull(ProviderId::configured(0), ClassId::OTHER, code);
        }
        let text = ledger.metrics().render();
        for (code, count) in [(200, 2), (404, 1), (499, 1), (599, 1)] {
            let line = format!("edgeshim_pulls_total{{provider=\"fastly\",class=\"other\",code=\"{code}\"}} {count}");
            assert!(text.lines().any(|l| l == line), "{line}");
        }
        assert!(!text.contains("code=\"600\"") && !text.contains("code=\"99\""));
    }

    #[test]
    fn a_second_ledger_goes_on_where_the_first_was() {
        let first = ledger();
        first.pull(ProviderId::NONE, ClassId::OTHER, 200);
        let labels = Labels { providers: vec!["akamai"], ..Labels::default() };
        let second = first.metrics().ledger(&labels);
        second.pull(ProviderId::NONE, ClassId::OTHER, 200);
        let text = first.metrics().render();
        assert!(text.contains("edgeshim_pulls_total{provider=\"none\",class=\"other\",code=\"200\"} 2"));
    }
}
