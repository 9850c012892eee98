//! Gauges that describe something that a reload can remove, for example a certificate. After the removal, the series of
//! the gauge no longer exists. edgeshim writes these gauges without the exporter, because the exporter cannot remove a
//! series.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use metrics::Gauge;

use super::describe::Metric;

/// The value of one series. After the value is dropped, the metrics page no longer has the series, unless another value
/// of the same series is held.
#[derive(Debug)]
pub(crate) struct HeldGauge(Arc<AtomicU64>);

impl HeldGauge {
    pub(crate) fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

/// One series: the name of its metric, the value of its label, and its value.
#[derive(Debug)]
struct Held {
    metric: &'static str,
    label: &'static str,
    value: Weak<AtomicU64>,
}

/// All series whose values are held.
#[derive(Debug, Default)]
pub(super) struct HeldGauges(Mutex<Vec<Held>>);

impl HeldGauges {
    /// Adds a series of a metric with one label.
    pub(super) fn add(&self, metric: &Metric<Gauge>, label: &'static str, value: f64) -> HeldGauge {
        let gauge = HeldGauge(Arc::new(AtomicU64::new(value.to_bits())));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|held| held.value.strong_count() > 0);
        all.push(Held { metric: metric.name(), label, value: Arc::downgrade(&gauge.0) });
        gauge
    }

    /// Appends the series of a metric to the metrics page. During a reload, the old and the new configuration can both
    /// hold a series with the same label. The page then has the value of the new configuration.
    pub(super) fn render(&self, page: &mut String, metric: &Metric<Gauge>) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_metric = all.iter().filter(|held| held.metric == metric.name());
        let values = of_metric.filter_map(|held| Some((held.label, held.value.upgrade()?.load(Ordering::Relaxed))));
        let values: BTreeMap<_, _> = values.collect();
        drop(all);
        family(page, metric, values.iter().map(|(label, bits)| (vec![*label], f64::from_bits(*bits))));
    }
}

/// Appends the series of one gauge to the metrics page.
pub(super) fn family<'v>(page: &mut String, metric: &Metric<Gauge>, series: impl Iterator<Item = (Vec<&'v str>, f64)>) {
    let description = metric.description();
    let name = description.name;
    for (position, (values, value)) in series.enumerate() {
        if position == 0 {
            let _ = writeln!(page, "# HELP {name} {}\n# TYPE {name} gauge", description.help);
        }
        let labels: Vec<_> = description
            .labels
            .iter()
            .zip(values)
            .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
            .collect();
        let _ = writeln!(page, "{name}{{{}}} {value}", labels.join(","));
    }
}

/// Escapes the value of a label as the text format requires.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::super::describe;
    use super::*;

    #[test]
    fn gauge_series_when_value_is_dropped_then_is_absent_from_the_page() {
        let gauges = HeldGauges::default();
        let page = || {
            let mut page = String::new();
            gauges.render(&mut page, &describe::CERTIFICATE_EXPIRY);
            page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(page(), [""; 0]);
        let old = gauges.add(&describe::CERTIFICATE_EXPIRY, "a.pem", 1.0);
        let other = gauges.add(&describe::CERTIFICATE_EXPIRY, "b\\\"\n.pem", 2.0);
        let _another_metric = gauges.add(&describe::RANGES_AGE, "a.pem", 3.0);
        let new = gauges.add(&describe::CERTIFICATE_EXPIRY, "a.pem", 4.0);
        old.set(5.0);
        new.set(1_795_345_741.0);
        let name = "edgeshim_certificate_expiry_timestamp_seconds";
        let of_a = format!("{name}{{name=\"a.pem\"}} 1795345741");
        assert_eq!(page(), [of_a, format!("{name}{{name=\"b\\\\\\\"\\n.pem\"}} 2")]);
        drop((new, other));
        assert_eq!(page(), [format!("{name}{{name=\"a.pem\"}} 5")], "the old configuration still holds the series");
        drop(old);
        assert_eq!(page(), [""; 0]);
    }
}
