//! What a change must not do: the refusals.

use std::collections::BTreeMap;

use super::balance_file::BalanceFile;
use super::node::Holding;
use super::plan::{Action, NodePlan, Plan, TargetPlan};
use super::share::Shares;

/// A reason not to make a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub text: String,
    /// Whether `--force` allows the change.
    pub can_be_forced: bool,
}

/// Returns all reasons not to make a change. `last` has the shares that the last change of each target left.
pub(crate) fn refusals(file: &BalanceFile, plan: &Plan, last: &BTreeMap<String, Shares>) -> Vec<Refusal> {
    let mut found = Vec::new();
    for target in &plan.targets {
        nobody_served(target, &mut found);
        if matches!(plan.action, Action::Set { .. }) {
            large_step(target, file.max_step, &mut found);
        }
        disagreement(target, &mut found);
        other_records(file, target, &mut found);
        not_as_left(target, last, &mut found);
    }
    found
}

fn forced(found: &mut Vec<Refusal>, text: String) {
    found.push(Refusal { text, can_be_forced: true });
}

/// The weights must not all be 0. The last provider that is served is taken away only with `--force`.
fn nobody_served(target: &TargetPlan, found: &mut Vec<Refusal>) {
    if !target.after.served().is_empty() {
        return;
    }
    let enabled = || target.after.0.values().filter(|share| share.is_enabled());
    if enabled().next().is_some() && enabled().all(|share| share.weight == 0) {
        let text = format!(
            "{}: all weights would be 0, and DNS services then answer with an error or with any provider; give one \
             provider a weight above 0",
            target.name
        );
        return found.push(Refusal { text, can_be_forced: false });
    }
    let served_before = |node: &NodePlan| match &node.node.found.holding {
        Holding::Cname(_) => true,
        _ => node.node.found.record().is_some_and(|record| !record.shares.served().is_empty()),
    };
    if target.nodes.iter().any(served_before) {
        let text = format!(
            "{}: this takes away the last provider that is served; its names would have no answer in DNS",
            target.name
        );
        forced(found, text);
    }
}

/// The share of a provider among the clients, as a fraction.
fn fraction(shares: &Shares, provider: &str) -> (i128, i128) {
    let sum: u64 = shares.served().values().map(|&weight| u64::from(weight)).sum();
    (i128::from(shares.served_weight(provider)), i128::from(sum.max(1)))
}

/// A provider's share must not change by more than `max_step` percentage points.
fn large_step(target: &TargetPlan, max_step: u32, found: &mut Vec<Refusal>) {
    for provider in target.after.0.keys() {
        let largest = target
            .nodes
            .iter()
            .filter_map(|node| {
                let before = &node.node.found.record()?.shares;
                let ((a, b), (c, d)) = (fraction(before, provider), fraction(&target.after, provider));
                let (difference, both) = (c * b - a * d, b * d);
                // In tenths of a point, rounded, and whether the exact step is too large.
                let tenths = (difference.abs() * 2_000 + both) / (both * 2);
                (difference.abs() * 100 > i128::from(max_step) * both).then_some((tenths, difference < 0))
            })
            .max();
        if let Some((tenths, is_down)) = largest {
            let text = format!(
                "{}: {provider} would {} by {}.{} points in one step, and max_step allows {max_step}; go in smaller \
                 steps with --pct",
                target.name,
                if is_down { "fall" } else { "rise" },
                tenths / 10,
                tenths % 10
            );
            forced(found, text);
        }
    }
}

/// All nodes of a target, at all services, must have the same shares.
fn disagreement(target: &TargetPlan, found: &mut Vec<Refusal>) {
    let mut with_shares = target.nodes.iter().filter_map(|node| Some((node, &node.node.found.record()?.shares)));
    let Some((first, shares)) = with_shares.next() else { return };
    let others: Vec<_> = with_shares.filter(|(_, other)| !other.agrees_with(shares)).collect();
    if let Some((other, _)) = others.first() {
        let more = match others.len() - 1 {
            0 => String::new(),
            more => format!(" ({more} more differ)"),
        };
        let text = format!(
            "{}: the nodes disagree: {} has {}, but {} has {}{more}",
            target.name,
            first.node.place(),
            first.node.found.describe(),
            other.node.place(),
            other.node.found.describe()
        );
        forced(found, text);
    }
}

/// A name must have a record of edgeshim, or nothing.
fn other_records(file: &BalanceFile, target: &TargetPlan, found: &mut Vec<Refusal>) {
    let providers = file.target(&target.name).map(|keys| &keys.providers);
    for NodePlan { node, .. } in &target.nodes {
        let what = match &node.found.holding {
            Holding::Foreign(what) => format!("has {what}, which edgeshim did not write and would replace"),
            Holding::Edited(_, what) => format!("was changed without edgeshim: {what}"),
            Holding::Ours(record) => {
                let mut served = record.shares.served().into_keys();
                match served.find(|name| providers.is_some_and(|known| !known.contains_key(*name))) {
                    Some(name) => format!(
                        "serves the provider {name}, which balance.toml does not have for this target; add the \
                         provider to the target"
                    ),
                    None => continue,
                }
            }
            Holding::Nothing | Holding::Cname(_) => continue,
        };
        forced(found, format!("{}: {} {what}", target.name, node.place()));
    }
}

/// Each node must have the shares that the last change in the journal left.
fn not_as_left(target: &TargetPlan, last: &BTreeMap<String, Shares>, found: &mut Vec<Refusal>) {
    let Some(left) = last.get(&target.name) else { return };
    let differs = |node: &&NodePlan| node.node.found.record().is_some_and(|record| !record.shares.agrees_with(left));
    if let Some(NodePlan { node, .. }) = target.nodes.iter().find(differs) {
        let text = format!(
            "{}: {} is not as the last change in the journal left it; it has {}; someone changed it without this \
             journal",
            target.name,
            node.place(),
            node.found.describe()
        );
        forced(found, text);
    }
}

#[cfg(test)]
mod tests;
