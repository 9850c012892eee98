//! The refusals: the reasons why a change is not made.

use std::collections::BTreeMap;

use super::balance_file::{BalanceFile, ServiceKind};
use super::journal::Journal;
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

/// Returns all reasons not to make a change.
pub(crate) fn refusals(file: &BalanceFile, plan: &Plan, journal: &Journal) -> Vec<Refusal> {
    let mut found = problems(file, plan, journal);
    for target in &plan.targets {
        match plan.action {
            Action::Set { .. } | Action::RampStep { .. } => large_step(target, file.max_step, |_| true, &mut found),
            // Only nodes with a plain CNAME are checked. `disagreement` reports nodes with different weights.
            Action::Init => {
                let is_cname = |node: &NodePlan| matches!(node.node.found.holding, Holding::Cname(_));
                large_step(target, file.max_step, is_cname, &mut found);
            }
            Action::Rollback { .. } | Action::RampBack { .. } | Action::Away { .. } => {}
        }
    }
    found
}

/// Returns the reasons that do not depend on the size of the step. A change that was made at some targets only is no
/// reason against a rollback, because a rollback shows which changes it undoes.
pub(crate) fn problems(file: &BalanceFile, plan: &Plan, journal: &Journal) -> Vec<Refusal> {
    let mut found = Vec::new();
    for target in &plan.targets {
        nobody_served(file, target, &mut found);
        disagreement(target, &mut found);
        other_records(file, target, &mut found);
        not_as_left(target, journal, &mut found);
    }
    if !matches!(plan.action, Action::Rollback { .. }) {
        let states =
            plan.targets.iter().filter_map(|target| Some((&*target.name, target.before.as_ref()?, &target.after)));
        for text in half_made(&states.collect::<Vec<_>>(), journal).into_values() {
            forced(&mut found, text);
        }
    }
    found
}

fn forced(found: &mut Vec<Refusal>, text: String) {
    found.push(Refusal { text, can_be_forced: true });
}

/// Checks that a provider is served after the change. Without `--force`, the last served provider is not taken away.
/// With Route 53, or if all weights would be 0, the change is refused even with `--force`.
fn nobody_served(file: &BalanceFile, target: &TargetPlan, found: &mut Vec<Refusal>) {
    if !target.after.served().is_empty() {
        return;
    }
    let is_route53 = |name| file.service(name).is_some_and(|service| service.kind == ServiceKind::Route53);
    if let Some(node) = target.nodes.iter().find(|node| is_route53(&node.node.service)) {
        let text = format!(
            "{}: no provider would be served, and {} (Route 53) would then answer with each provider equally often; \
             leave one provider with a weight above 0",
            target.name, node.node.service
        );
        return found.push(Refusal { text, can_be_forced: false });
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
            "{}: this takes away the last provider that is served; the target's names would have no answer in DNS",
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

/// Checks that the share of each provider changes by at most `max_step` percentage points.
fn large_step(target: &TargetPlan, max_step: u32, counts: fn(&NodePlan) -> bool, found: &mut Vec<Refusal>) {
    for provider in target.after.0.keys() {
        let largest = target
            .nodes
            .iter()
            .filter(|node| counts(node))
            .filter_map(|node| {
                let before = node.node.found.shares()?;
                let ((a, b), (c, d)) = (fraction(&before, provider), fraction(&target.after, provider));
                let (difference, both) = (c * b - a * d, b * d);
                // The exact step is compared with `max_step`. The message has the step in tenths of a point, rounded.
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

/// Checks that all nodes with shares have the same shares, at all services of a target.
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

/// Checks the records. Each node must have an unchanged record of edgeshim, a plain CNAME to a provider, or no record.
/// `balance.toml` must have each served provider.
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

/// Checks that each node with shares has the shares of its target after the last change in the journal. If the journal
/// has no result of this change, the node can have the shares before or after the change.
fn not_as_left(target: &TargetPlan, journal: &Journal, found: &mut Vec<Refusal>) {
    let (left, what) = if let Some(entry) = journal.unfinished.get(&target.name) {
        let before = entry.from.get(&target.name).and_then(Option::as_ref);
        let after = entry.to.get(&target.name);
        let what = format!(
            "has neither the weights before nor the weights after the change {} of {}, which has no result in the \
             journal",
            entry.id, entry.time
        );
        // If the shares before the change are not known, the node is not checked.
        (before.zip(after).map(|(before, after)| vec![before, after]), what)
    } else {
        let what = "is not as the last change in the journal left it; someone changed it without this journal";
        (journal.last.get(&target.name).map(|left| vec![left]), what.to_owned())
    };
    let Some(left) = left else { return };
    let differs = |node: &&NodePlan| {
        let record = node.node.found.record();
        record.is_some_and(|record| !left.iter().any(|left| record.shares.agrees_with(left)))
    };
    if let Some(NodePlan { node, .. }) = target.nodes.iter().find(differs) {
        forced(found, format!("{}: {} {what}; it has {}", target.name, node.place(), node.found.describe()));
    }
}

/// Finds changes that have no result in the journal and were made at some of their targets only. `states` has the name
/// of each target, its shares now, and its shares after a plan. A plan that finishes or undoes such a change is fine.
/// Returns a message for each target that still has the weights before the change.
pub(crate) fn half_made<'s>(states: &[(&'s str, &Shares, &Shares)], journal: &Journal) -> BTreeMap<&'s str, String> {
    let mut found = BTreeMap::new();
    for &(name, now, _) in states {
        let Some(entry) = journal.unfinished.get(name) else { continue };
        let is_same = |name: &str| journal.unfinished.get(name).is_some_and(|other| other.id == entry.id);
        let same = || states.iter().filter(|state| is_same(state.0));
        let is_new = |name: &str, shares: &Shares| entry.to.get(name).is_some_and(|to| to.agrees_with(shares));
        let is_old = |name: &str, shares: &Shares| {
            entry.from.get(name).and_then(Option::as_ref).is_some_and(|from| from.agrees_with(shares))
        };
        if same().all(|state| is_new(state.0, state.2)) || same().all(|state| is_old(state.0, state.2)) {
            continue;
        }
        let made = same().find(|state| is_new(state.0, state.1) && !is_old(state.0, state.1));
        if let Some((other, ..)) = made
            && is_old(name, now)
            && !is_new(name, now)
        {
            let text = format!(
                "{name}: the change {} of {} was made at {other}, but not at {name}; to undo it, write: edgeshim \
                 balance rollback -t {}",
                entry.id,
                entry.time,
                same().map(|state| state.0).collect::<Vec<_>>().join(" -t ")
            );
            found.insert(name, text);
        }
    }
    found
}

#[cfg(test)]
mod tests;
