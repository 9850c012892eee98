//! The files for Prometheus and Grafana in `deploy/` name only metrics, labels and rules that exist. The dashboard has
//! every metric, and the runbook a section for every alert.
//!
//! `tests/real/dashboard` runs the queries in a real Prometheus.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

mod support;

use std::collections::BTreeSet;

use edgeshim::internals::{Kind, METRICS};
use regex::Regex;
use support::shim::repository;

const DASHBOARD: &str = "deploy/grafana/edgeshim.json";
const RECORDING: &str = "deploy/prometheus/recording.yml";
const ALERTS: &str = "deploy/prometheus/alerts.yml";
const RULE_TESTS: [&str; 2] = ["deploy/prometheus/rules.test.yml", "deploy/prometheus/baseline.test.yml"];
const RUNBOOK: &str = "deploy/RUNBOOK.md";
/// The rows of the dashboard. The first rows answer the questions of an incident.
const ROWS: [&str; 9] = [
    "Is something wrong now?",
    "Which provider?",
    "Which class?",
    "Since when?",
    "Offload",
    "Reasons",
    "Origin",
    "gzip",
    "Process",
];

fn text(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the first group of each match of a pattern in a text.
fn all(pattern: &str, text: &str) -> BTreeSet<String> {
    Regex::new(pattern).unwrap().captures_iter(text).map(|found| found[1].to_owned()).collect()
}

fn dashboard() -> serde_json::Value {
    serde_json::from_str(&text(DASHBOARD)).unwrap()
}

/// Returns the queries of all panels and annotations.
fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let marks = dashboard["annotations"]["list"].as_array().unwrap().iter();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.chain(marks).map(|target| target["expr"].as_str().expect("a query").to_owned()).collect()
}

/// Returns the metric to which a name in a query belongs. The series of a histogram end with `_bucket`, `_sum` or
/// `_count`.
fn metric(name: &str) -> Option<&'static str> {
    let of = |metric: &edgeshim::internals::Description| match metric.kind {
        Kind::Histogram => {
            matches!(name.strip_prefix(metric.name), Some("_bucket" | "_sum" | "_count"))
        }
        Kind::Counter | Kind::Gauge => metric.name == name,
    };
    METRICS.iter().find(|metric| of(metric)).map(|metric| metric.name)
}

/// Returns the labels of all metrics, and the label that Prometheus adds.
fn labels() -> BTreeSet<&'static str> {
    METRICS.iter().flat_map(|metric| metric.labels).copied().chain(["instance"]).collect()
}

/// Fails if a query names a metric, a recording rule or a label that does not exist.
fn check_names(place: &str, query: &str) {
    for name in all(r"\b(edgeshim_[a-z_]+)", query) {
        assert!(metric(&name).is_some(), "{place}: there is no series {name}");
    }
    let rules = all(r"- record: (\S+)", &text(RECORDING));
    for name in all(r"(edgeshim:[a-z0-9_:]+)", query) {
        assert!(rules.contains(&name), "{place}: there is no recording rule {name}");
    }
    let labels = labels();
    for list in all(r"(?:by|on|group_left) \(([^)]*)\)", query) {
        for label in list.split(", ").filter(|label| !label.is_empty()) {
            assert!(labels.contains(label) || label == "le", "{place}: there is no label {label}");
        }
    }
}

#[test]
fn dashboard_when_read_then_shows_every_metric_and_no_other() {
    let queries = queries();
    let shown: BTreeSet<_> =
        queries.iter().flat_map(|query| all(r"\b(edgeshim_[a-z_]+)", query)).filter_map(|name| metric(&name)).collect();
    let missing: Vec<_> = METRICS.iter().map(|metric| metric.name).filter(|name| !shown.contains(name)).collect();
    assert!(missing.is_empty(), "not in {DASHBOARD}: {missing:?}");
    for query in &queries {
        check_names(DASHBOARD, query);
    }
}

#[test]
fn dashboard_when_read_from_the_top_then_answers_the_questions_of_an_incident_first() {
    let dashboard = dashboard();
    let mut panels: Vec<_> = dashboard["panels"].as_array().unwrap().iter().collect();
    panels.sort_by_key(|panel| panel["gridPos"]["y"].as_u64());
    let rows: Vec<_> = panels.iter().filter(|panel| panel["type"] == "row").map(|row| &row["title"]).collect();
    assert_eq!(rows, ROWS);
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have the same id");
}

#[test]
fn rules_when_read_then_name_only_existing_metrics_rules_and_labels() {
    for path in [RECORDING, ALERTS] {
        let text = text(path);
        // Comments and the names of groups are not checked, because they are free text.
        let rules =
            text.lines().filter(|line| !line.trim_start().starts_with('#')).filter(|line| !line.contains("- name: "));
        check_names(path, &rules.collect::<Vec<_>>().join("\n"));
    }
}

#[test]
fn recording_rules_when_a_preset_names_an_exporter_then_use_the_metrics_of_the_exporter() {
    let rules = text(RECORDING);
    let mut exporters = 0;
    for file in std::fs::read_dir(repository("config/presets")).unwrap() {
        let preset: toml::Table = std::fs::read_to_string(file.unwrap().path()).unwrap().parse().unwrap();
        let Some(statistics) = preset.get("statistics") else { continue };
        exporters += 1;
        let provider = format!("labels: {{provider: {}}}", preset["name"].as_str().unwrap());
        for (rule, key) in [("exporter_requests", "requests"), ("exporter_bytes", "bytes")] {
            let name = statistics[key].as_str().unwrap();
            let found = rules
                .split("- record: ")
                .any(|block| block.contains(rule) && block.contains(&provider) && block.contains(&format!("({name}[")));
            assert!(found, "{RECORDING} lacks a rule edgeshim:{rule} with {provider} and {name}");
        }
    }
    assert!(exporters >= 4, "only {exporters} presets name an exporter");
}

#[test]
fn alerts_when_read_then_each_has_a_section_in_the_runbook() {
    let (alerts, runbook) = (text(ALERTS), text(RUNBOOK));
    let names = all(r"- alert: (\S+)", &alerts);
    assert!(!names.is_empty(), "{ALERTS} has no alerts");
    for block in alerts.split("- alert: ").skip(1) {
        let name = block.lines().next().unwrap();
        let anchor = format!("deploy/RUNBOOK.md#{}\n", name.to_lowercase());
        assert!(block.contains("runbook: https://") && block.contains(&anchor), "{name}: its runbook must be {anchor}");
        assert!(block.contains("summary: ") && block.contains("severity: "), "{name} lacks a summary or a severity");
        for label in all(r"\$labels\.(\w+)", block) {
            assert!(labels().contains(label.as_str()), "{name}: there is no label {label}");
        }
        let section = runbook.split("\n### ").find(|section| section.lines().next() == Some(name));
        let section = section.unwrap_or_else(|| panic!("{RUNBOOK} lacks ### {name}"));
        assert!(
            section.contains("**Look at**") && section.contains("**Do**"),
            "{RUNBOOK}: {name} does not say what to do"
        );
    }
    assert_eq!(all(r"\n### (Edgeshim\w+)", &runbook), names, "sections of the runbook without an alert");
}

#[test]
fn alerts_when_rule_tests_are_read_then_each_alert_fires_in_a_test() {
    let tests = RULE_TESTS.map(text).concat();
    let firing = all(r#"ALERTS\{alertname="(\w+)", alertstate="firing""#, &tests);
    assert_eq!(firing, all(r"- alert: (\S+)", &text(ALERTS)));
}
