//! `edgeshim balance cost`: bills from samples and prices, and the counters of shims.

#![allow(clippy::unwrap_used)] // a test fails by a panic

mod support;

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::origin::respond;
use support::shim::{binary, repository};
use support::{Origin, TempDir, temp_dir};

/// A service that is never called, and a target with three CDNs.
const BASE: &str = r#"
[[dns]]
name = "ours"
kind = "command"
command = ["/nonexistent"]
[[target]]
name = "images"
dns = ["ours"]
zone = "example.com"
nodes = ["img.example.com"]
[target.providers]
akamai = { cname = "a.akamai.example" }
edgecast = { cname = "e.edgecast.example" }
fastly = { cname = "f.fastly.example" }
"#;
const PRICES: &str = r#"
[[price]]
provider = "akamai"
meter = "p95"
per_mbps = 2
per_10k_pulls = 0.5
[[price]]
provider = "fastly"
meter = "bytes"
tiers = [{ up_to = "1TB", per_gb = 0.1 }, { per_gb = 0.05 }]
"#;

/// Runs `balance cost`. Returns the exit code, standard output and standard error.
fn cost(dir: &TempDir, arguments: &[&str]) -> (i32, String, String) {
    let output = binary().args(["balance", "cost"]).args(arguments).current_dir(&**dir).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn fine(dir: &TempDir, arguments: &[&str]) -> String {
    let (code, out, err) = cost(dir, arguments);
    assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}: {out}");
    out
}

fn desk(top: &str, prices: &str) -> TempDir {
    let dir = temp_dir();
    dir.write("balance.toml", format!("{top}\n{BASE}{prices}"));
    dir
}

/// Returns the text of the first code block of a language in the document.
fn block<'d>(document: &'d str, language: &str) -> &'d str {
    let (_, rest) = document.split_once(&format!("```{language}\n")).expect(language);
    rest.split_once("```").expect("the end of the block").0
}

#[test]
fn example_of_cost_md_when_run_then_output_equals_the_output_in_cost_md() {
    let document = std::fs::read_to_string(repository("deploy/balance/cost.md")).unwrap();
    let (_, document) = document.split_once("## Example\n").expect("an example");
    let dir = desk("", block(document, "toml"));
    dir.write("samples.ndjson", block(document, "json"));
    assert_eq!(fine(&dir, &["--month", "2026-11", "--samples", "samples.ndjson"]), block(document, "text"));
    // These amounts are in the calculations below the output in cost.md.
    let json: Value =
        serde_json::from_str(&fine(&dir, &["--month", "2026-11", "--samples", "samples.ndjson", "--json"])).unwrap();
    let fastly = &json["providers"]["fastly"];
    for (amount, part) in [
        (&fastly["so_far"]["total"], "3025.000000"),
        (&fastly["forecast"]["total"], "5650.000000"),
        (&fastly["forecast"]["overage"], "600.000000"),
        (&fastly["low"], "5110.000000"),
        (&fastly["high"], "6190.000000"),
        (&json["providers"]["akamai"]["so_far"]["total"], "900.000000"),
    ] {
        assert_eq!(amount, part);
    }
    for unknown in [&json["providers"]["edgecast"]["so_far"], &json["so_far"], &json["low"]] {
        assert_eq!(*unknown, Value::Null);
    }
}

/// Returns samples for each slot of 5 minutes of February 2024.
fn february(sample: impl Fn(u32) -> Vec<Value>) -> String {
    let mut text = String::new();
    for slot in 0..29 * 288 {
        let (day, minute) = (slot / 288, slot % 288 * 5);
        let time = format!("2024-02-{:02}T{:02}:{:02}:00Z", day + 1, minute / 60, minute % 60);
        for mut sample in sample(slot) {
            sample["time"] = time.clone().into();
            writeln!(text, "{sample}").unwrap();
        }
    }
    text
}

#[test]
fn leap_month_when_complete_then_bills_equal_the_amounts_computed_by_hand() {
    let dir = desk("samples = \"traffic\"", PRICES);
    // akamai: the slots have 0, 30, 60 … MB, so 0, 0.8, 1.6 … Mbps. Of 8352 slots, 417 are dropped: 8352 / 20 = 417.6.
    // The slot 7934 counts: 7934 * 0.8 = 6347.2 Mbps, and 6347.2 * 2 = 12694.40. 8352 * 100 pulls are 835,200 pulls:
    // 83.52 * 0.5 = 41.76. The sum is 12736.16.
    // fastly: two samples in a slot, 8352 * 2 * 0.1 GB = 1670.4 GB: 1000 * 0.1 + 670.4 * 0.05 = 133.52.
    let text = february(|slot| {
        let fastly = json!({ "provider": "fastly", "bytes": 100_000_000, "requests": 5 });
        let akamai =
            json!({ "provider": "akamai", "bytes": u64::from(slot) * 30_000_000, "requests": 7, "pulls": 100 });
        vec![fastly.clone(), akamai, fastly]
    });
    dir.write("traffic", &text);
    let json: Value = serde_json::from_str(&fine(&dir, &["--month", "2024-02", "--json"])).unwrap();
    assert_eq!(json["providers"]["akamai"]["so_far"]["total"], "12736.160000");
    assert_eq!(json["providers"]["akamai"]["quantity"], "6347.2 Mbps");
    assert_eq!(json["providers"]["fastly"]["so_far"]["total"], "133.520000");
    assert_eq!(json["providers"]["fastly"]["traffic"]["requests"], 8352 * 10);
    for amount in ["so_far", "forecast", "low", "high"] {
        assert_eq!(json[amount], "12869.680000", "the month is complete, so {amount} is the bill");
    }
    // Standard input, and a month without samples.
    let mut child = binary()
        .args(["balance", "cost", "--month", "2024-03", "--samples", "-"])
        .current_dir(&*dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let out = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(out.contains("fastly: the bill is unknown, because there are no samples"), "{out}");
    assert!(out.contains("samples of other months, which are left out: 25056"), "{out}");
    assert!(!out.contains(" 0.00"), "an unknown bill must not be 0: {out}");
}

#[test]
fn cost_command_when_input_is_wrong_then_exits_with_2_and_names_the_problem() {
    let dir = desk("", PRICES);
    dir.write("good", r#"{"time": "2026-11-01T00:00:00Z", "provider": "fastly", "bytes": 1, "requests": 1}"#);
    dir.write(
        "bad",
        "{\"time\": \"2026-11-01T00:00:00Z\", \"provider\": \"akamai\", \"bytes\": 1, \"requests\": 1}\nx\u{1b}[2J\n",
    );
    for (arguments, part) in [
        (&["--month", "2026-13", "--samples", "good"][..], "write a year and a month, for example 2026-11"),
        (&["--month", "November", "--samples", "good"], "write a year and a month"),
        (&["--samples", "bad"], "bad: line 1 has no pulls, but the price of akamai bills pulls"),
        (&["--samples", "bad"], "bad: line 2 is not a JSON object"),
        (&["--samples", "absent"], "absent cannot be read"),
        (&["--samples", "."], "it is not a regular file"),
        (&["--month", "2026-11"], "the bills of 2026-11 need samples"),
        (&[], "there are no samples, and no shims"),
    ] {
        let (code, out, err) = cost(&dir, arguments);
        assert!(code == 2 && out.is_empty() && err.contains(part), "{arguments:?}: no {part:?} in {code}:\n{err}");
        assert!(!err.contains('\u{1b}'), "{err}");
    }
    let (code, _, err) = cost(&desk("", ""), &["--samples", "good"]);
    assert!(code == 2 && err.contains("write a block [[price]] for each CDN"), "{err}");
    let (code, _, err) = cost(&desk("samples = \"-\"", PRICES), &[]);
    assert!(code == 2 && err.contains("is standard input, but each change"), "{err}");
    let (code, _, err) = cost(&desk("", &PRICES.replace("\"fastly\"", "\"akamai\"")), &["--samples", "good"]);
    assert!(code == 2 && err.contains("has two blocks [[price]]"), "{err}");
}

#[test]
fn provider_when_price_is_missing_then_is_listed_and_the_sum_is_unknown() {
    let dir = desk("", PRICES);
    let sample = |name: &str| {
        let sample = json!({
            "time": "2026-11-01T00:00:00Z", "provider": name, "bytes": 5_000_000_000_u64, "requests": 1, "pulls": 0,
        });
        format!("{sample}\n")
    };
    dir.write("samples", sample("fastly") + &sample("akamai") + &sample("keycdn"));
    let out = fine(&dir, &["--month", "2026-11", "--samples", "samples"]);
    assert!(out.contains("keycdn: the bill of 5 GB is unknown, because balance.toml has no [[price]]"), "{out}");
    let sum = out.lines().find(|line| line.trim_start().starts_with("all")).expect("the sum");
    assert!(sum.contains("unknown"), "{sum}");
}

#[test]
fn shim_counters_when_samples_are_missing_then_are_shown_and_bills_are_unknown() {
    let shim = Origin::start(|request, conn| {
        let text = "edgeshim_start_timestamp_seconds 1795000000.5\n\
                    edgeshim_edge_bytes_total{provider=\"fastly\"} 2500000000\n\
                    edgeshim_edge_requests_total{provider=\"fastly\",result=\"hit\"} 77\n\
                    edgeshim_edge_bytes_total{provider=\"akamai\"} 0\n";
        respond(request, conn, 200, &[], text.as_bytes())
    });
    let dir = desk(&format!("shims = [\"http://{}\"]", shim.addr), PRICES);
    let out = fine(&dir, &[]);
    let words = |name: &str| -> Vec<String> {
        let line = out.lines().find(|line| line.trim_start().starts_with(name)).expect(name);
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(words("fastly"), ["fastly", "unknown", "2.5", "GB", "77"]);
    assert_eq!(words("akamai"), ["akamai", "unknown", "unknown", "unknown"]);
    assert!(out.contains("since 2026-11-18T11:06:40Z") && out.contains("not by month"), "{out}");
    let json: Value = serde_json::from_str(&fine(&dir, &["--json"])).unwrap();
    assert_eq!(json["providers"]["fastly"]["counted"], json!({ "bytes": 2_500_000_000_u64, "requests": 77 }));
    assert_eq!(json["providers"]["akamai"], json!({ "counted": null, "so_far": null, "forecast": null }));
    drop(shim);
    let (code, out, _) = cost(&dir, &[]);
    assert_eq!((code, out.as_str()), (1, ""));
}

#[test]
fn samples_from_prometheus_when_read_by_cost_command_then_give_a_bill() {
    let prometheus = Origin::start(|request, conn| {
        let number = |value: &str| json!([[1_706_745_900, value], [1_706_746_200.0, value]]);
        let result = |name: &str, value: &str| json!({ "metric": { "provider": name }, "values": number(value) });
        let results = match request.target.as_str() {
            target if target.contains("edge_bytes") => vec![result("fastly", "5e9"), result("akamai", "0")],
            target if target.contains("edge_requests") => vec![result("fastly", "12.4")],
            _ => Vec::new(),
        };
        let answer = json!({ "status": "success", "data": { "resultType": "matrix", "result": results } });
        respond(request, conn, 200, &[], answer.to_string().as_bytes())
    });
    let output = Command::new(repository("deploy/balance/samples-from-prometheus"))
        .args([&format!("http://{}", prometheus.addr), "2024-02"])
        .output()
        .unwrap();
    let samples = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        samples.lines().next(),
        Some(
            "{\"time\": \"2024-02-01T00:00:00Z\", \"provider\": \"fastly\", \"bytes\": 5000000000, \"requests\": 12, \
             \"pulls\": 0, \"pull_bytes\": 0}"
        ),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let dir = desk("", PRICES);
    dir.write("samples", &samples);
    let json: Value =
        serde_json::from_str(&fine(&dir, &["--month", "2024-02", "--samples", "samples", "--json"])).unwrap();
    // 10 GB * 0.1 = 1. The bill of a CDN that pushes no logs is unknown.
    assert_eq!(json["providers"]["fastly"]["so_far"]["total"], "1.000000");
    assert_eq!(json["providers"]["akamai"]["so_far"], Value::Null);
}
