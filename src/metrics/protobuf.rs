//! Converts the metrics page from the text format to the protobuf format.
//!
//! The exporter can write protobuf too, but that feature needs `protoc` on every build machine. So edgeshim parses the
//! exporter's text and writes `io.prometheus.client.MetricFamily` messages. The length of each message is written
//! before the message. The field numbers come from `metrics.proto`, a file of Prometheus.

use metrics::Label;
use prost::Message;

use super::native::{self, Counts};

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

/// The message for a gauge, a counter or an untyped metric. In all three messages, field 1 has the value.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<Span>,
    #[prost(sint64, repeated, tag = "13")]
    positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(sint32, optional, tag = "1")]
    offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    length: Option<u32>,
}

impl Histogram {
    /// Adds a native histogram, and replaces the count by the sum of the native buckets. Prometheus rejects a native
    /// histogram if the count differs from this sum. The classic buckets were read before the native buckets, so their
    /// sum can be smaller while requests end.
    fn add_native(&mut self, counts: Counts) {
        self.sample_count = Some(counts.total);
        self.schema = Some(native::SCHEMA);
        self.zero_threshold = Some(native::ZERO_THRESHOLD);
        self.zero_count = Some(counts.zero);
        let span = |(offset, length)| Span { offset: Some(offset), length: Some(length) };
        self.positive_span = counts.spans.into_iter().map(span).collect();
        self.positive_delta = counts.deltas;
    }
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Value>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Value>,
    #[prost(message, optional, tag = "5")]
    untyped: Option<Value>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(enumeration = "Kind", optional, tag = "3")]
    r#type: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Counter = 0,
    Gauge = 1,
    Untyped = 3,
    Histogram = 4,
}

/// Returns the metric families of `text` as messages. The length of each message is written before the message, as a
/// varint. `native` returns the native histogram of a series, if the series has one.
pub(super) fn from_text(text: &str, native: impl Fn(&str, Vec<Label>) -> Option<Counts>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut family = MetricFamily::default();
    let mut flush = |family: &mut MetricFamily| {
        for Metric { label, histogram, .. } in &mut family.metric {
            let labels = || label.iter().map(|pair| Label::new(pair.name().to_owned(), pair.value().to_owned()));
            if let Some(histogram) = histogram
                && let Some(counts) = native(family.name.as_deref().unwrap_or_default(), labels().collect())
            {
                histogram.add_native(counts);
            }
        }
        if !family.metric.is_empty() {
            // Encoding into a Vec cannot fail.
            let _ = family.encode_length_delimited(&mut out);
        }
        *family = MetricFamily::default();
    };
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            flush(&mut family);
            family.name = Some(name.to_owned());
            family.help = Some(help.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            if family.name.as_deref() != Some(name) {
                flush(&mut family);
                family.name = Some(name.to_owned());
            }
            family.set_type(match kind {
                "counter" => Kind::Counter,
                "gauge" => Kind::Gauge,
                "histogram" => Kind::Histogram,
                _ => Kind::Untyped,
            });
        } else if let Some(sample) = Sample::parse(line) {
            add(&mut family, sample);
        }
    }
    flush(&mut family);
    out
}

struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let Some((name, rest)) = line.split_once('{') else {
            let (name, value) = line.split_once(' ')?;
            return Some(Self { name, labels: Vec::new(), value: value.parse().ok()? });
        };
        let mut labels = Vec::new();
        let mut rest = rest;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next()? {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next()?.1 {
                        'n' => '\n',
                        other => other,
                    }),
                    (_, other) => value.push(other),
                }
            };
            labels.push((label, value));
            rest = after.get(end + 1..)?;
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        let value = rest.strip_prefix("} ")?.parse().ok()?;
        Some(Self { name, labels, value })
    }
}

fn add(family: &mut MetricFamily, sample: Sample<'_>) {
    let kind = family.r#type();
    let mut bound = None;
    let label: Vec<LabelPair> = sample
        .labels
        .into_iter()
        .filter_map(|(name, value)| {
            if kind == Kind::Histogram && name == "le" {
                bound = value.parse::<f64>().ok();
                return None;
            }
            Some(LabelPair { name: Some(name.to_owned()), value: Some(value) })
        })
        .collect();
    let value = Some(Value { value: Some(sample.value) });
    let mut metric = Metric { label, ..Metric::default() };
    match kind {
        Kind::Counter => metric.counter = value,
        Kind::Gauge => metric.gauge = value,
        Kind::Untyped => metric.untyped = value,
        Kind::Histogram => {
            if family.metric.last().is_none_or(|last| last.label != metric.label) {
                metric.histogram = Some(Histogram::default());
                family.metric.push(metric);
            }
            let Some(histogram) = family.metric.last_mut().and_then(|m| m.histogram.as_mut()) else {
                return;
            };
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the count of a histogram is an integer below 2^53"
            )]
            let count = sample.value as u64;
            if sample.name.ends_with("_bucket") {
                histogram.bucket.push(Bucket { cumulative_count: Some(count), upper_bound: bound });
            } else if sample.name.ends_with("_count") {
                histogram.sample_count = Some(count);
            } else if sample.name.ends_with("_sum") {
                histogram.sample_sum = Some(sample.value);
            }
            return;
        }
    }
    family.metric.push(metric);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, describe};

    fn families(mut bytes: &[u8]) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        while !bytes.is_empty() {
            families.push(MetricFamily::decode_length_delimited(&mut bytes).unwrap());
        }
        families
    }

    #[test]
    fn protobuf_when_converted_from_text_then_has_equal_labels_and_values() {
        let text = "# HELP a_total What it is.\n# TYPE a_total counter\n\
            a_total{x=\"1\",y=\"q\\\"\\\\\"} 3\na_total{x=\"2\",y=\"\"} 4\n\n\
            # HELP h_seconds H.\n# TYPE h_seconds histogram\n\
            h_seconds_bucket{c=\"o\",le=\"0.5\"} 1\nh_seconds_bucket{c=\"o\",le=\"+Inf\"} 2\n\
            h_seconds_sum{c=\"o\"} 1.5\nh_seconds_count{c=\"o\"} 2\n\n# TYPE g gauge\ng 7\n";
        let families = families(&from_text(text, |_, _| None));
        assert_eq!(families.len(), 3);
        assert_eq!(families[0].metric.len(), 2);
        assert_eq!(families[0].metric[0].label[1].value.as_deref(), Some("q\"\\"));
        assert_eq!(families[0].metric[1].counter.as_ref().unwrap().value, Some(4.0));
        let histogram = families[1].metric[0].histogram.as_ref().unwrap();
        assert_eq!((histogram.sample_count, histogram.sample_sum), (Some(2), Some(1.5)));
        assert_eq!(histogram.bucket.len(), 2);
        assert_eq!(histogram.bucket[1].upper_bound, Some(f64::INFINITY));
        assert_eq!(families[2].metric[0].gauge.as_ref().unwrap().value, Some(7.0));
    }

    #[test]
    fn latencies_when_recorded_then_protobuf_has_classic_and_native_buckets() {
        let metrics = Metrics::new().unwrap();
        let seconds = metrics.series(&describe::PULL_SECONDS, &["fastly", "image"]);
        for value in [0.5, 1.0, 1.05] {
            seconds.record(value);
        }
        let _ = metrics.series(&describe::PULL_SECONDS, &["akamai", "image"]);
        metrics.series(&describe::RUM_SECONDS, &["fastly", "home"]).record(1.0);
        let families = families(&metrics.render_protobuf());
        let histogram = |name: &str, provider: &str| {
            let family = families.iter().find(|family| family.name() == name).unwrap();
            let series = family.metric.iter().find(|metric| metric.label[0].value() == provider).unwrap();
            series.histogram.clone().unwrap()
        };

        let pulls = histogram("edgeshim_pull_seconds", "fastly");
        assert_eq!((pulls.sample_count(), pulls.sample_sum(), pulls.bucket.len()), (3, 2.55, 16));
        assert_eq!((pulls.schema(), pulls.zero_threshold(), pulls.zero_count()), (3, 2_f64.powi(-16), 0));
        let spans: Vec<_> = pulls.positive_span.iter().map(|span| (span.offset(), span.length())).collect();
        assert_eq!((spans, pulls.positive_delta), (vec![(-8, 1), (7, 2)], vec![1, 0, 0]));
        // Prometheus recognises a native histogram without values by its threshold.
        let empty = histogram("edgeshim_pull_seconds", "akamai");
        assert_eq!((empty.sample_count(), empty.zero_threshold()), (0, 2_f64.powi(-16)));
        let loads = histogram("edgeshim_rum_seconds", "fastly");
        assert_eq!((loads.sample_count(), loads.schema), (1, None));
    }
}
