//! The counters of all shims (edgeshim processes) at one moment, and the growth of the counters between two moments.
//!
//! If a shim was restarted or is missing, or if a counter is missing or is not a number, the growth of all shims is
//! unknown. So a number of errors that is too low never leads to a decision.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::metrics::describe;

/// The counters of one provider, or the growth of these counters.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Counts {
    pub pulls: f64,
    /// The pulls that ended with a 5xx.
    pub errors: f64,
    pub edge_requests: f64,
    pub beacons: f64,
    pub pull_times: Times,
    /// The load times that browsers report.
    pub load_times: Times,
}

/// A histogram of durations: for each bound, the number of durations up to this bound. A key is the bits of a bound in
/// seconds. The keys have the order of the bounds, because no bound is negative.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Times(BTreeMap<u64, f64>);

/// The counters of one shim.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Shim {
    /// The start of the process, in seconds of Unix time.
    started: Option<f64>,
    providers: BTreeMap<String, Counts>,
    /// The sources of beacons that this shim is configured to count. Empty if the shim counts beacons by country.
    beacon_sources: Vec<String>,
}

/// The counters of all shims, by the shim's name.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Snapshot {
    pub shims: BTreeMap<String, Shim>,
}

/// The growth of the counters of all shims, by provider.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Growth {
    pub seconds: f64,
    pub providers: BTreeMap<String, Counts>,
}

/// The snapshot since which the growth is computed, and the time of this snapshot.
#[derive(Debug, Default)]
pub(crate) struct Base(Option<(Snapshot, Duration)>);

/// The names of the metrics that this file reads.
pub(crate) fn names() -> [String; 6] {
    [
        describe::PULLS.name().to_owned(),
        describe::EDGE_REQUESTS.name().to_owned(),
        describe::BEACONS.name().to_owned(),
        bucket(describe::PULL_SECONDS.name()),
        bucket(describe::RUM_SECONDS.name()),
        describe::START.name().to_owned(),
    ]
}

fn bucket(name: &str) -> String {
    format!("{name}_bucket")
}

impl Shim {
    /// Reads Prometheus' text format.
    ///
    /// # Errors
    /// Returns a message if a counter is not a number of at least 0, or if the text is not that of a shim.
    pub(crate) fn from_text(text: &str) -> Result<Self, String> {
        let mut shim = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            if !names().iter().any(|known| known == name) {
                continue;
            }
            // The values of these labels need no escapes.
            let label = |name: &str| {
                let start = format!("{name}=\"");
                let mut parts = labels.split(',').map(str::trim_start);
                parts.find_map(|part| part.strip_prefix(&start)?.split('"').next())
            };
            let value = value.parse().map_err(|_| format!("{name} has a value that is not a number"))?;
            shim.add(name, label, value)?;
        }
        if shim.started.is_none() {
            return Err(format!("the metrics have no {}, so they are not those of a shim", describe::START.name()));
        }
        Ok(shim)
    }

    /// Adds one series. `label` returns the value of a label.
    ///
    /// # Errors
    /// Returns a message if the value is not a number of at least 0.
    pub(crate) fn add<'t>(
        &mut self,
        name: &str,
        label: impl Fn(&str) -> Option<&'t str>,
        value: f64,
    ) -> Result<(), String> {
        if !value.is_finite() || value < 0.0 {
            return Err(format!("{name} has the value {value}, which a counter cannot have"));
        }
        if name == describe::START.name() {
            self.started = Some(value);
            return Ok(());
        }
        if name == describe::BEACONS.name() {
            let Some(source) = label("source") else { return Ok(()) };
            if label("country").is_none_or(str::is_empty) {
                self.beacon_sources.push(source.to_owned());
            }
            self.providers.entry(source.to_owned()).or_default().beacons += value;
            return Ok(());
        }
        let Some(provider) = label("provider") else { return Ok(()) };
        let counts = self.providers.entry(provider.to_owned()).or_default();
        if name == describe::PULLS.name() {
            counts.pulls += value;
            if label("code").is_some_and(|code| code.starts_with('5')) {
                counts.errors += value;
            }
        } else if name == describe::EDGE_REQUESTS.name() {
            counts.edge_requests += value;
        } else if let Some(bound) = label("le").and_then(|bound| bound.parse::<f64>().ok()).filter(|&le| le >= 0.0) {
            let times = if name.starts_with(describe::RUM_SECONDS.name()) {
                &mut counts.load_times
            } else {
                &mut counts.pull_times
            };
            *times.0.entry(bound.to_bits()).or_default() += value;
        }
        Ok(())
    }
}

impl Snapshot {
    /// Whether a shim counts the beacons of this provider. True also if a shim counts beacons by country, because
    /// `beacon_sources` is empty for such a shim.
    pub(crate) fn counts_beacons_of(&self, provider: &str) -> bool {
        let configured = |shim: &Shim| shim.beacon_sources.iter().any(|source| source == provider);
        self.shims.values().any(|shim| shim.beacon_sources.is_empty()) || self.shims.values().any(configured)
    }

    /// Returns the growth from this moment until a later moment.
    ///
    /// # Errors
    /// Returns why the growth is not known.
    pub(crate) fn until(&self, later: &Self, seconds: f64) -> Result<Growth, String> {
        let mut growth = Growth { seconds, ..Growth::default() };
        for (name, before) in &self.shims {
            let Some(after) = later.shims.get(name) else {
                return Err(format!("{name} is missing"));
            };
            let restarted = || format!("{name} was restarted");
            if before.started != after.started {
                return Err(restarted());
            }
            if let Some(provider) = before.providers.keys().find(|provider| !after.providers.contains_key(*provider)) {
                return Err(format!("{name} no longer counts {provider}"));
            }
            for (provider, counts) in &after.providers {
                let none = Counts::default();
                let grown = counts.minus(before.providers.get(provider).unwrap_or(&none)).ok_or_else(restarted)?;
                growth.providers.entry(provider.clone()).or_default().add(&grown);
            }
        }
        Ok(growth)
    }
}

impl Base {
    /// Returns the growth since the base. Then the new snapshot becomes the base. In two cases the old base stays: the
    /// new snapshot lacks a shim of the old base, or none of `providers` has pulled anything since the old base. In the
    /// second case, the next growth also has the seconds of this growth. Prometheus can return the same counters at
    /// several looks.
    ///
    /// # Errors
    /// Returns why the growth is not known.
    pub(crate) fn growth(
        &mut self,
        found: Result<Snapshot, String>,
        now: Duration,
        providers: &[String],
    ) -> Result<Growth, String> {
        let found = found?;
        let Some((before, at)) = &self.0 else {
            self.0 = Some((found, now));
            return Err("these are the first figures".to_owned());
        };
        let growth = before.until(&found, now.saturating_sub(*at).as_secs_f64());
        let is_idle = growth.as_ref().is_ok_and(|growth| growth.sum(providers.iter()).pulls <= 0.0);
        if !is_idle && before.shims.keys().all(|name| found.shims.contains_key(name)) {
            self.0 = Some((found, now));
        }
        growth
    }
}

impl Growth {
    pub(crate) fn add(&mut self, other: &Self) {
        self.seconds += other.seconds;
        for (provider, counts) in &other.providers {
            self.providers.entry(provider.clone()).or_default().add(counts);
        }
    }

    pub(crate) fn of(&self, provider: &str) -> Counts {
        self.providers.get(provider).cloned().unwrap_or_default()
    }

    /// Returns the sum of the growth of these providers.
    pub(crate) fn sum<'p>(&self, providers: impl Iterator<Item = &'p String>) -> Counts {
        let mut sum = Counts::default();
        for counts in providers.filter_map(|provider| self.providers.get(provider)) {
            sum.add(counts);
        }
        sum
    }
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.pulls += other.pulls;
        self.errors += other.errors;
        self.edge_requests += other.edge_requests;
        self.beacons += other.beacons;
        self.pull_times.add(&other.pull_times);
        self.load_times.add(&other.load_times);
    }

    /// Returns the difference to earlier counts. `None`: a counter has fallen, or a bound of a histogram is missing.
    fn minus(&self, before: &Self) -> Option<Self> {
        let less = |after: f64, before: f64| (after >= before).then_some(after - before);
        Some(Self {
            pulls: less(self.pulls, before.pulls)?,
            errors: less(self.errors, before.errors)?,
            edge_requests: less(self.edge_requests, before.edge_requests)?,
            beacons: less(self.beacons, before.beacons)?,
            pull_times: self.pull_times.minus(&before.pull_times)?,
            load_times: self.load_times.minus(&before.load_times)?,
        })
    }
}

impl Times {
    fn add(&mut self, other: &Self) {
        for (bound, count) in &other.0 {
            *self.0.entry(*bound).or_default() += count;
        }
    }

    fn minus(&self, before: &Self) -> Option<Self> {
        if before.0.keys().any(|bound| !self.0.contains_key(bound)) {
            return None;
        }
        let less = |(&bound, &after): (&u64, &f64)| {
            let before = before.0.get(&bound).copied().unwrap_or(0.0);
            (after >= before).then_some((bound, after - before))
        };
        self.0.iter().map(less).collect::<Option<_>>().map(Self)
    }

    /// Returns the number of all durations.
    pub(crate) fn count(&self) -> f64 {
        self.0.values().copied().last().unwrap_or(0.0)
    }

    /// Returns a quantile in seconds: `part` (from 0 to 1) of the durations are below it. The quantile is interpolated
    /// within its bucket. A duration above the last finite bound counts as this bound. `None`: there are no durations.
    pub(crate) fn quantile(&self, part: f64) -> Option<f64> {
        let wanted = self.count() * part;
        let (mut lower, mut below) = (0.0, 0.0);
        for (&bound, &count) in &self.0 {
            let upper = f64::from_bits(bound);
            if count >= wanted && count > below {
                let inside = (wanted - below) / (count - below);
                return Some(if upper.is_finite() { lower + (upper - lower) * inside } else { lower });
            }
            if upper.is_finite() {
                (lower, below) = (upper, count);
            }
        }
        None
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Counts without times.
    pub(crate) fn counts(pulls: f64, errors: f64) -> Counts {
        Counts { pulls, errors, ..Counts::default() }
    }

    pub(crate) fn times(bounds: &[(f64, f64)]) -> Times {
        Times(bounds.iter().map(|&(bound, count)| (f64::to_bits(bound), count)).collect())
    }

    fn text(started: u32, pulls: u32, failed: u32) -> String {
        format!(
            "# TYPE edgeshim_pulls_total counter\n\
             edgeshim_start_timestamp_seconds {started}\n\
             edgeshim_pulls_total{{provider=\"a\",class=\"x\",code=\"200\"}} {pulls}\n\
             edgeshim_pulls_total{{provider=\"a\",class=\"x\",code=\"503\"}} {failed}\n\
             edgeshim_pull_seconds_bucket{{provider=\"a\",class=\"x\",le=\"0.5\"}} {pulls}\n\
             edgeshim_pull_seconds_bucket{{provider=\"a\",class=\"x\",le=\"+Inf\"}} {pulls}\n\
             edgeshim_beacons_total{{source=\"a\"}} 3\n"
        )
    }

    fn snapshot(shims: &[(&str, &str)]) -> Snapshot {
        let shim = |(name, text): &(&str, &str)| ((*name).to_owned(), Shim::from_text(text).expect("metrics"));
        Snapshot { shims: shims.iter().map(shim).collect() }
    }

    #[test]
    fn growth_when_two_shims_report_then_is_the_sum_of_the_differences() {
        let before = snapshot(&[("s1", &text(1, 100, 0)), ("s2", &text(2, 10, 1))]);
        let after = snapshot(&[("s1", &text(1, 150, 5)), ("s2", &text(2, 20, 1))]);
        let growth = before.until(&after, 15.0).expect("growth").of("a");
        assert_eq!((growth.pulls, growth.errors, growth.beacons, growth.pull_times.count()), (65.0, 5.0, 0.0, 60.0));
    }

    #[test]
    fn growth_when_a_shim_restarts_or_is_missing_then_is_not_known() {
        let before = snapshot(&[("s1", &text(1, 100, 0)), ("s2", &text(2, 10, 1))]);
        for (later, part) in [
            // The counters of the second shim are higher, but they began again.
            (snapshot(&[("s1", &text(1, 150, 0)), ("s2", &text(3, 50, 40))]), "s2 was restarted"),
            (snapshot(&[("s1", &text(1, 150, 0)), ("s2", &text(2, 5, 1))]), "s2 was restarted"),
            (snapshot(&[("s1", &text(1, 150, 0))]), "s2 is missing"),
            (
                snapshot(&[("s1", "edgeshim_start_timestamp_seconds 1\n"), ("s2", &text(2, 10, 1))]),
                "s1 no longer counts a",
            ),
        ] {
            assert_eq!(before.until(&later, 15.0), Err(part.to_owned()));
        }
        let more = snapshot(&[("s1", &text(1, 150, 0)), ("s2", &text(2, 10, 1)), ("s3", &text(9, 900, 900))]);
        assert_eq!(before.until(&more, 15.0).map(|growth| growth.of("a").pulls), Ok(50.0), "a new shim has no growth");
    }

    #[test]
    fn growth_when_earlier_looks_had_no_pulls_then_has_the_seconds_of_these_looks() {
        let mut base = Base::default();
        let mut seconds_at = |second: u64, pulls: u32| {
            let found = Ok(snapshot(&[("s", &text(1, pulls, 0))]));
            base.growth(found, Duration::from_secs(second), &["a".to_owned()]).map(|growth| growth.seconds)
        };
        assert!(seconds_at(0, 100).is_err(), "the first figures have no growth");
        assert_eq!([seconds_at(1, 100), seconds_at(2, 100), seconds_at(4, 130)], [Ok(1.0), Ok(2.0), Ok(4.0)]);
        assert_eq!(seconds_at(5, 140), Ok(1.0), "a look with pulls becomes the base");
    }

    #[test]
    fn metrics_when_a_value_is_no_count_or_start_is_missing_then_are_rejected() {
        for bad in ["NaN", "-1", "+Inf", "x", ""] {
            let text = format!("{}edgeshim_pulls_total{{provider=\"a\",code=\"200\"}} {bad}\n", text(1, 1, 0));
            assert!(Shim::from_text(&text).is_err(), "{bad}");
        }
        assert!(Shim::from_text("<html>not found</html>\n").is_err());
        assert!(Shim::from_text("edgeshim_pulls_total{provider=\"a\" 1\nedgeshim_start_timestamp_seconds 1\n").is_ok());
    }

    #[test]
    fn quantile_when_inside_a_bucket_then_is_interpolated() {
        let seen = times(&[(1.0, 90.0), (2.0, 100.0), (f64::INFINITY, 100.0)]);
        assert_eq!((seen.quantile(0.95), seen.quantile(0.5)), (Some(1.5), Some(50.0 / 90.0)));
        assert_eq!(times(&[(1.0, 0.0), (f64::INFINITY, 10.0)]).quantile(0.95), Some(1.0));
        assert_eq!(times(&[(1.0, 0.0), (f64::INFINITY, 0.0)]).quantile(0.95), None);
        assert_eq!(Times::default().quantile(0.95), None);
    }

    #[test]
    fn beacons_when_provider_is_not_a_configured_source_then_are_not_counted() {
        let plain =
            snapshot(&[("s", "edgeshim_start_timestamp_seconds 1\nedgeshim_beacons_total{source=\"other\"} 0\n")]);
        assert!(!plain.counts_beacons_of("a") && snapshot(&[("s", &text(1, 1, 1))]).counts_beacons_of("a"));
        // A shim that counts beacons by country has no series without a country.
        let by_country = snapshot(&[("s", "edgeshim_start_timestamp_seconds 1\n")]);
        assert!(by_country.counts_beacons_of("a"));
    }
}
