//! The state of a target: the weights of its nodes, and the problems because of which changes would be refused.

use super::balance_file::{BalanceFile, TargetKeys};
use super::journal::Journal;
use super::node::Node;
use super::plan::{Action, NodePlan, Trouble, compute};
use super::refuse::problems;
use super::share::Shares;

/// The weights of a target, and its problems.
#[derive(Debug)]
pub(crate) struct Standing {
    /// Empty if no node has weights.
    pub shares: Shares,
    /// The reasons why changes of the weights would be refused.
    pub problems: Vec<String>,
}

/// Returns the state of a target.
///
/// # Errors
/// Returns why no plan can be computed from the nodes.
pub(crate) fn standing(
    file: &BalanceFile,
    target: &TargetKeys,
    nodes: &[Node],
    journal: &Journal,
) -> Result<Standing, Trouble> {
    // A plan of `init` keeps the weights that the nodes have.
    let plan = compute(file, &[target], nodes, Action::Init)?;
    let mut problems: Vec<String> = problems(file, &plan, journal).into_iter().map(|refusal| refusal.text).collect();
    let planned = plan.targets.first();
    let nodes: Vec<_> = planned.map(|planned| planned.nodes.iter().collect()).unwrap_or_default();
    let bare = |node: &&&NodePlan| node.node.found.record().is_none();
    if let Some(node) = nodes.iter().find(bare)
        && problems.is_empty()
    {
        problems.push(format!(
            "{}: {} has {}, and no weights; write the first weights with: edgeshim balance init -t {}",
            target.name,
            node.node.place(),
            node.node.found.describe(),
            target.name
        ));
    }
    let has_weights = nodes.iter().any(|node| node.node.found.record().is_some());
    let shares = planned.filter(|_| has_weights).map(|planned| planned.after.clone()).unwrap_or_default();
    Ok(Standing { shares, problems })
}
