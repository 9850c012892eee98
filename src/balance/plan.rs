//! A plan: the record that a change writes at each node. A plan is a value. It is computed from the present records.
//! Then the plan is shown, checked by `refuse`, and written. This file uses no socket and no file.

use std::collections::BTreeMap;

use super::balance_file::{BalanceFile, TargetKeys};
use super::grid::Grid;
use super::node::{Holding, Node, Record};
use super::runs::rearranged;
use super::share::{Mode, PERMILLE, Share, Shares, WEIGHTS, apportion};

/// The weight of each provider that gets clients, if no node of the target has shares before `init`.
const FIRST_WEIGHT: u32 = *WEIGHTS.end();

/// The end of the description of a ramp's first step. With this text, `--resume` finds the start of the ramp.
pub(crate) const FIRST_STEP: &str = ", first step";

/// What a change does. A person, a ramp or `watch` makes the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// A new setting of one provider.
    Set { provider: String, weight: Option<u32>, mode: Option<Mode>, permille: Option<u32> },
    /// The first weights of a target.
    Init,
    /// Back to the shares before a number of earlier changes.
    Rollback { changes: usize, to: BTreeMap<String, Shares> },
    /// `watch` takes a provider away, or brings it back.
    Away { provider: String, away: bool },
    /// A step of a ramp. The step sets the share `share`, and the ramp ends at the share `end`. Both are in per cent.
    RampStep { provider: String, share: u32, end: u32, is_first: bool },
    /// Back to the shares before a ramp or before its most recent step, because a limit of the ramp was exceeded.
    RampBack { provider: String, end: u32, to: BTreeMap<String, Shares> },
}

impl Action {
    pub(crate) fn provider(&self) -> Option<&str> {
        match self {
            Self::Set { provider, .. }
            | Self::Away { provider, .. }
            | Self::RampStep { provider, .. }
            | Self::RampBack { provider, .. } => Some(provider),
            Self::Init | Self::Rollback { .. } => None,
        }
    }
}

/// Describes the action in a few words, for the journal and for annotations.
impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Set { weight, mode, permille, .. } => {
                let mut parts = Vec::new();
                parts.extend(mode.map(|mode| format!("mode {}", mode.name())));
                parts.extend(weight.map(|weight| format!("weight {weight}")));
                parts.extend(permille.map(|permille| format!("{} %", f64::from(permille) / 10.0)));
                f.write_str(&parts.join(", "))
            }
            Self::Init => f.write_str("init"),
            Self::Rollback { changes, .. } => write!(f, "rollback {changes}"),
            Self::Away { away, .. } => f.write_str(if *away { "away" } else { "back" }),
            Self::RampStep { share, end, is_first, .. } => {
                write!(f, "ramp to {end} %: {share} %{}", if *is_first { FIRST_STEP } else { "" })
            }
            Self::RampBack { end, .. } => write!(f, "ramp to {end} %: put back"),
        }
    }
}

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The requested change is not possible.
    Usage(String),
    /// The present records, or the shares to which the action returns, do not allow the action.
    Refused(String),
    /// Nodes cannot be read.
    Failed(Vec<String>),
}

/// The plan of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub action: Action,
    pub targets: Vec<TargetPlan>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TargetPlan {
    pub name: String,
    /// The shares of all nodes. `None`: the nodes have different shares, or a node has no shares.
    pub before: Option<Shares>,
    pub after: Shares,
    pub nodes: Vec<NodePlan>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodePlan {
    pub node: Node,
    pub after: Record,
}

impl NodePlan {
    pub(crate) fn is_changed(&self) -> bool {
        !matches!(&self.node.found.holding, Holding::Ours(record) if record.equals(&self.after))
    }
}

impl Plan {
    pub(crate) fn is_changed(&self) -> bool {
        self.targets.iter().any(|target| target.nodes.iter().any(NodePlan::is_changed))
    }
}

/// Returns the shares of the nodes, if all nodes have the same shares.
pub(crate) fn common_shares(nodes: &[&Node]) -> Option<Shares> {
    let mut records = nodes.iter().map(|node| node.found.record());
    let first = records.next()??;
    records
        .all(|record| record.is_some_and(|record| record.shares.agrees_with(&first.shares)))
        .then(|| first.shares.clone())
}

/// Computes the plan of an action for some targets.
///
/// # Errors
/// Returns why the action is not possible.
pub(crate) fn compute(
    file: &BalanceFile,
    targets: &[&TargetKeys],
    nodes: &[Node],
    action: Action,
) -> Result<Plan, Trouble> {
    let mut plans = Vec::with_capacity(targets.len());
    for target in targets {
        let nodes: Vec<&Node> = nodes.iter().filter(|node| node.target == target.name).collect();
        let after = match &action {
            Action::Set { provider, weight, mode, permille } => {
                let base = present(target, &nodes)?;
                set(&base, provider, *weight, *mode, *permille).map_err(|trouble| in_target(target, trouble))?
            }
            Action::RampStep { provider, share, .. } => {
                let base = present(target, &nodes)?;
                if base.0.get(provider).is_some_and(|share| !share.is_enabled()) {
                    return Err(Trouble::Refused(format!(
                        "{}: {provider} has the mode no; before the ramp, write: edgeshim balance -t {} -p {provider} \
                         -m obey --pct 0",
                        target.name, target.name
                    )));
                }
                if let Some(share) = base.0.get(provider).filter(|share| share.away) {
                    // With the mode `remove`, `watch` does not bring the provider back.
                    let wait = if share.mode == Mode::Obey {
                        format!("wait until edgeshim balance watch brings {provider} back, or ")
                    } else {
                        String::new()
                    };
                    return Err(Trouble::Refused(format!(
                        "{}: {provider} is away, because its probe has failed; when the edge is up again, {wait}write: \
                         edgeshim balance -t {} -p {provider} -m {}",
                        target.name,
                        target.name,
                        share.mode.name()
                    )));
                }
                set(&base, provider, None, None, Some(share * 10)).map_err(|trouble| in_target(target, trouble))?
            }
            Action::Init => first(target, &nodes)?,
            Action::Away { provider, away } => {
                let mut shares = present(target, &nodes)?;
                if let Some(share) = shares.0.get_mut(provider) {
                    share.away = *away;
                }
                shares
            }
            Action::Rollback { to, .. } | Action::RampBack { to, .. } => {
                let shares = to.get(&target.name).cloned().unwrap_or_default();
                if let Some(unknown) = shares.served().into_keys().find(|name| !target.providers.contains_key(*name)) {
                    return Err(Trouble::Refused(format!(
                        "{}: the earlier weights have the provider {unknown}, which balance.toml does not have; add \
                         the provider to the target, or set the weights with -p",
                        target.name
                    )));
                }
                with_all_providers(target, shares)
            }
        };
        plans.push(target_plan(file, target, &nodes, after)?);
    }
    Ok(Plan { action, targets: plans })
}

fn target_plan(file: &BalanceFile, target: &TargetKeys, nodes: &[&Node], after: Shares) -> Result<TargetPlan, Trouble> {
    let mut plans = Vec::with_capacity(nodes.len());
    for &node in nodes {
        let grid = file.service(&node.service).map_or(Grid::Thousandths, super::balance_file::ServiceKeys::weight_grid);
        let weights = grid.weights(&after.served()).map_err(|message| {
            Trouble::Usage(format!("{}: the grid of {} is too coarse: {message}", target.name, node.service))
        })?;
        let weights = match grid {
            Grid::Thousandths => {
                let old = node.found.record().map(|record| record.weights.as_slice()).unwrap_or_default();
                rearranged(old, &weights)
            }
            Grid::AtMost(_) => weights.into_iter().collect(),
        };
        plans.push(NodePlan { node: node.clone(), after: Record { shares: after.clone(), weights } });
    }
    Ok(TargetPlan { name: target.name.clone(), before: common_shares(nodes), after, nodes: plans })
}

fn in_target(target: &TargetKeys, trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Usage(message) => Trouble::Usage(format!("{}: {message}", target.name)),
        Trouble::Refused(message) => Trouble::Refused(format!("{}: {message}", target.name)),
        Trouble::Failed(messages) => Trouble::Failed(messages),
    }
}

/// Returns the present shares of a target, with an entry for each configured provider. If the nodes have different
/// shares, the shares of the first node are used, and `refuse` reports the difference.
fn present(target: &TargetKeys, nodes: &[&Node]) -> Result<Shares, Trouble> {
    if let Some(node) = nodes.iter().find(|node| node.found.record().is_none()) {
        return Err(Trouble::Refused(format!(
            "{}: {} has {}, and no weights; write the first weights with: edgeshim balance init -t {}",
            target.name,
            node.place(),
            node.found.describe(),
            target.name
        )));
    }
    let first = nodes.first().and_then(|node| node.found.record());
    let shares = first.map(|record| record.shares.clone()).unwrap_or_default();
    Ok(with_all_providers(target, shares))
}

/// Adds each configured provider that the shares do not have, with the weight 0. Removes the providers that are not
/// configured.
fn with_all_providers(target: &TargetKeys, mut shares: Shares) -> Shares {
    shares.0.retain(|name, _| target.providers.contains_key(name));
    for name in target.providers.keys() {
        shares.0.entry(name.clone()).or_insert(Share::new(Mode::Obey, 0));
    }
    shares
}

/// Returns the first shares of a target. If nodes have shares already, all nodes get the shares of the first of these
/// nodes. If no node has shares, but a node is a plain CNAME, the provider of the CNAME keeps all clients; CNAMEs to
/// different providers are refused. In all other cases, all providers get equal shares.
fn first(target: &TargetKeys, nodes: &[&Node]) -> Result<Shares, Trouble> {
    if let Some(record) = nodes.iter().find_map(|node| node.found.record()) {
        return Ok(with_all_providers(target, record.shares.clone()));
    }
    let cname = |node: &&&Node| match &node.found.holding {
        Holding::Cname(provider) => Some(provider.clone()),
        _ => None,
    };
    let adopted = nodes.iter().find_map(|node| cname(&node));
    if let Some(adopted) = &adopted
        && let Some(other) = nodes.iter().find(|node| cname(node).is_some_and(|provider| provider != *adopted))
    {
        return Err(Trouble::Refused(format!(
            "{}: some nodes are a CNAME to {adopted}, but {} is {}; give all nodes the same CNAME first",
            target.name,
            other.place(),
            other.found.describe()
        )));
    }
    let weight = |name: &String| match &adopted {
        Some(adopted) if name != adopted => 0,
        _ => FIRST_WEIGHT,
    };
    Ok(Shares(target.providers.keys().map(|name| (name.clone(), Share::new(Mode::Obey, weight(name)))).collect()))
}

/// Applies new settings of one provider. After that, the provider is not away. Exception: a provider with the mode
/// `obey` stays away if only its weight or its share is set.
fn set(
    shares: &Shares,
    provider: &str,
    weight: Option<u32>,
    mode: Option<Mode>,
    permille: Option<u32>,
) -> Result<Shares, Trouble> {
    let mut shares = shares.clone();
    let Some(share) = shares.0.get_mut(provider) else {
        return Err(Trouble::Usage(format!("there is no provider {provider}")));
    };
    share.away &= share.mode == Mode::Obey && mode.is_none();
    if let Some(mode) = mode {
        share.mode = mode;
    }
    if let Some(weight) = weight {
        share.weight = weight;
        let large = shares.0.iter().find(|(_, share)| share.is_enabled() && share.weight > *WEIGHTS.end());
        if let Some((name, share)) = large {
            return Err(Trouble::Refused(format!(
                "-w {weight} has no meaning here, because {name} has the weight {}, and -w writes weights from {} to \
                 {}; write --pct N, the share of {provider} in per cent",
                share.weight,
                WEIGHTS.start(),
                WEIGHTS.end()
            )));
        }
    }
    if let Some(permille) = permille {
        set_permille(&mut shares, provider, permille)?;
    }
    Ok(shares)
}

/// Sets the share of one provider among the enabled providers. The other providers keep the ratio of their weights.
fn set_permille(shares: &mut Shares, provider: &str, permille: u32) -> Result<(), Trouble> {
    if !shares.0.get(provider).is_some_and(|share| share.is_enabled()) {
        return Err(Trouble::Refused(format!(
            "{provider} has the mode no, so it gets no share; write also -m obey or -m always"
        )));
    }
    let others: Vec<(String, u64)> = shares
        .0
        .iter()
        .filter(|(name, share)| *name != provider && share.is_enabled())
        .map(|(name, share)| (name.clone(), u64::from(share.weight)))
        .collect();
    let rest = PERMILLE.saturating_sub(permille);
    let sum: u64 = others.iter().map(|(_, weight)| weight).sum();
    let parts = match others.as_slice() {
        [] if rest > 0 => {
            return Err(Trouble::Refused(format!(
                "{provider} is the only enabled provider, so its share is always 100 %; enable another provider \
                 first with -p PROVIDER -m obey"
            )));
        }
        // The only other provider gets the rest, even if its weight was 0.
        [_] => vec![rest],
        _ if sum == 0 && rest > 0 => {
            return Err(Trouble::Refused(format!(
                "all other enabled providers have the weight 0, so there is no ratio to keep; instead, set the \
                 share of one of these providers with -p PROVIDER --pct N: {}",
                others.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
            )));
        }
        _ => apportion(rest, &others.iter().map(|(_, weight)| *weight).collect::<Vec<_>>()),
    };
    for (name, share) in &mut shares.0 {
        if name == provider {
            share.weight = permille;
        } else if let Some(at) = others.iter().position(|(other, _)| other == name) {
            share.weight = parts.get(at).copied().unwrap_or(0);
        } else if let Some(scaled) = (u64::from(share.weight) * u64::from(rest.max(1))).checked_div(sum) {
            // A disabled provider also keeps its ratio to the other providers, as far as whole weights allow. So the
            // ratio is right when the provider is enabled again.
            let least = u32::from(share.weight > 0);
            share.weight = u32::try_from(scaled).unwrap_or(PERMILLE).clamp(least, PERMILLE);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
