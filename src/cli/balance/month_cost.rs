//! `edgeshim balance cost`: what each CDN costs in a month.

use std::process::ExitCode;

use serde_json::{Map, json};

use super::arguments::{Common, CostFlags};
use super::prompt::{Stop, with_runtime};
use super::{Failure, Result};
use crate::balance::api_call::Caller;
use crate::balance::balance_file::BalanceFile;
use crate::balance::cost::bill::bills;
use crate::balance::cost::month::{Month, time_text};
use crate::balance::cost::tariff::bytes_text;
use crate::balance::cost_tables::{cost_json, cost_table};
use crate::balance::edge_counters::{EdgeCounters, read};
use crate::balance::plan::Plan;
use crate::balance::plan_cost::{read_samples, warnings};
use crate::balance::tables::aligned;
use crate::cli::terminal::{print, print_json_lines};
use crate::clock;

/// Shows the bills of a month. Without samples, shows what the shims have counted.
pub(super) fn cost(file: &BalanceFile, flags: &CostFlags) -> Result {
    if file.prices.is_empty() {
        return Err(Failure::usage("balance.toml has no prices; write a block [[price]] for each CDN"));
    }
    let month = flags.month.unwrap_or_else(|| Month::of_unix(clock::unix_time().as_secs()));
    let Some(path) = flags.samples.as_ref().or(file.samples.as_ref()) else {
        return without_samples(file, &flags.common, flags.month, flags.json);
    };
    let samples = read_samples(file, path, month).map_err(Failure::Usage)?;
    let bills = bills(&file.prices, &samples);
    if flags.json {
        print_json_lines(&cost_json(&bills, &samples));
    } else {
        print(&cost_table(&bills, &samples));
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the warnings about the cost of a change: for each commit and each end of a tier that the forecast crosses
/// because of the change, and for an unknown cost.
pub(super) fn warn_about_cost(file: &BalanceFile, plan: &Plan) {
    for warning in warnings(file, plan) {
        complain!("warning: {warning}");
    }
}

/// Shows the counters of the shims. The counters belong to no month, so all bills are unknown.
fn without_samples(file: &BalanceFile, common: &Common, month: Option<Month>, as_json: bool) -> Result {
    const REMEDY: &str = "write --samples FILE, or samples = \"samples.ndjson\" in balance.toml";
    if let Some(month) = month {
        return Err(Failure::usage(format!("the bills of {month} need samples of this month; {REMEDY}")));
    }
    if file.shims.is_empty() {
        return Err(Failure::usage(format!("there are no samples, and no shims that could have counters; {REMEDY}")));
    }
    let mut counters = EdgeCounters::default();
    with_runtime(async {
        let stop = Stop::watch()?;
        let caller = Caller { is_verbose: common.verbose };
        counters = stop.or(read(file, &caller)).await?.map_err(Failure::failed)?;
        Ok(ExitCode::SUCCESS)
    })?;
    let mut names: Vec<&String> = file.prices.iter().map(|tariff| &tariff.provider).collect();
    names.extend(counters.providers.keys());
    names.sort();
    names.dedup();
    if as_json {
        let since: Map<_, _> =
            counters.since.iter().map(|(shim, time)| (shim.clone(), time_text(*time).into())).collect();
        let one = |name: &&String| {
            let traffic = counters.providers.get(*name).map(|traffic| {
                let number = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
                json!({ "bytes": number(traffic.bytes), "requests": number(traffic.requests) })
            });
            ((*name).clone(), json!({ "counted": traffic, "so_far": null, "forecast": null }))
        };
        let providers: Map<_, _> = names.iter().map(one).collect();
        print_json_lines(&json!({ "since": since, "providers": providers }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["provider", "bill", "edge bytes", "edge requests"].map(str::to_owned).to_vec()];
    for name in names {
        let counted = counters.providers.get(name);
        let text = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
        let bytes = text(counted.map(|traffic| bytes_text(traffic.bytes)));
        rows.push(vec![name.clone(), "unknown".to_owned(), bytes, text(counted.map(|one| one.requests.to_string()))]);
    }
    print(&aligned(&rows));
    say!("\nThe bills are unknown, because there are no samples. The shims count since their start, not by month:");
    for shim in &file.shims {
        let since = counters.since.get(&shim.to_string());
        say!("  {shim}: since {}", since.map_or_else(|| "an unknown time".to_owned(), |time| time_text(*time)));
    }
    say!("For the bills, {REMEDY}.");
    Ok(ExitCode::SUCCESS)
}
