//! The results of `smoke` for programs: JSON, `JUnit`, and the baseline that is read from the JSON of an earlier run.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::regular_file;
use crate::smoke::{Card, Report, Verdict};

/// The longest baseline file that is read, in bytes.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// Returns the results as one JSON object.
pub(super) fn json(reports: &[Report], cards: &[Card], passed: bool, seconds: f64) -> String {
    let value = json!({
        "passed": passed,
        "seconds": (seconds * 1000.0).round() / 1000.0,
        "targets": reports.iter().map(target).collect::<Vec<_>>(),
        "score_cards": cards.iter().map(card).collect::<Vec<_>>(),
    });
    format!("{value:#}\n")
}

fn target(report: &Report) -> Value {
    json!({
        "url": report.url,
        "provider": report.provider,
        "edge": report.edge,
        "pop": report.pop,
        "ttfb_ms": report.ttfb.map(|time| (time.as_secs_f64() * 1e6).round() / 1e3),
        "passed": report.count("pass"),
        "failed": report.count("fail"),
        "skipped": report.count("skip"),
        "checks": report.verdicts.iter().map(|(check, verdict)| {
            let mut value = json!({ "name": check.name(), "result": verdict.word() });
            match verdict {
                Verdict::Pass(text) => value["seen"] = json!(text),
                Verdict::Skip(reason) => value["reason"] = json!(reason),
                Verdict::Fail(flaw) => {
                    value["seen"] = json!(flaw.seen);
                    value["expected"] = json!(flaw.expected);
                    value["change"] = json!(flaw.remedy);
                }
            }
            value
        }).collect::<Vec<_>>(),
    })
}

fn card(card: &Card) -> Value {
    json!({
        "url": card.url,
        "candidate": card.candidate,
        "incumbent": card.incumbent,
        "rows": card.rows.iter().map(|row| json!({
            "name": row.name,
            "candidate": row.candidate,
            "incumbent": row.incumbent,
            "difference": row.difference,
            "passed": row.passed,
        })).collect::<Vec<_>>(),
    })
}

#[derive(Deserialize)]
struct Earlier {
    targets: Vec<EarlierTarget>,
}

#[derive(Deserialize)]
struct EarlierTarget {
    url: String,
    provider: Option<String>,
    ttfb_ms: Option<f64>,
}

/// Reads the times of an earlier run from its JSON.
pub(super) fn read_times(path: &Path) -> Result<Vec<(String, Option<String>, Duration)>, String> {
    let wrong = |why: &dyn std::fmt::Display| {
        format!(
            "--baseline: {} cannot be used ({why}); write a file that edgeshim smoke --json has written, or a URL that \
             begins with https:// or http://",
            path.display()
        )
    };
    let text = regular_file::read(path, MOST_BYTES).map_err(|error| wrong(&error))?;
    if text.len() as u64 > MOST_BYTES {
        return Err(wrong(&format_args!("it is longer than {MOST_BYTES} bytes")));
    }
    let earlier: Earlier = serde_json::from_slice(&text).map_err(|error| wrong(&error))?;
    let time = |target: EarlierTarget| {
        let time = Duration::try_from_secs_f64(target.ttfb_ms? / 1000.0).ok()?;
        Some((target.url, target.provider, time))
    };
    let times: Vec<_> = earlier.targets.into_iter().filter_map(time).collect();
    if times.is_empty() { Err(wrong(&"it has no ttfb_ms")) } else { Ok(times) }
}

/// Returns the results as `JUnit` XML.
pub(super) fn junit(reports: &[Report], seconds: f64) -> String {
    let sum = |word| reports.iter().map(|report| report.count(word)).sum::<usize>();
    let tests = reports.iter().map(|report| report.verdicts.len()).sum::<usize>();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"edgeshim smoke\" tests=\"{tests}\" \
         failures=\"{}\" skipped=\"{}\" time=\"{seconds:.3}\">\n",
        sum("fail"),
        sum("skip")
    );
    // Errors of `write!` are ignored in this function, because writing to a `String` cannot fail.
    for report in reports {
        let name = match &report.provider {
            Some(provider) => format!("{provider} {}", report.url),
            None => report.url.clone(),
        };
        let (name, count) = (escaped(&name), report.verdicts.len());
        let (failed, skipped) = (report.count("fail"), report.count("skip"));
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{name}\" tests=\"{count}\" failures=\"{failed}\" skipped=\"{skipped}\">"
        );
        for (check, verdict) in &report.verdicts {
            let _ = write!(xml, "    <testcase classname=\"{name}\" name=\"{}\"", check.name());
            let _ = match verdict {
                Verdict::Pass(_) => writeln!(xml, "/>"),
                Verdict::Skip(reason) => writeln!(xml, "><skipped message=\"{}\"/></testcase>", escaped(reason)),
                Verdict::Fail(flaw) => writeln!(
                    xml,
                    "><failure message=\"{}\">expected: {}\nchange: {}</failure></testcase>",
                    escaped(&flaw.seen),
                    escaped(&flaw.expected),
                    escaped(&flaw.remedy)
                ),
            };
        }
        xml += "  </testsuite>\n";
    }
    xml + "</testsuites>\n"
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            other if other.is_control() => out.push('?'),
            other => out.push(other),
        }
    }
    out
}
