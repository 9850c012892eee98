//! Tests of plans. No test uses a socket.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::balance::balance_file::{ProviderKeys, ServiceKeys, ServiceKind};
use crate::balance::node::Found;

fn shares(entries: &[(&str, Mode, u32)]) -> Shares {
    Shares(entries.iter().map(|&(name, mode, weight)| (name.to_owned(), Share::new(mode, weight))).collect())
}

fn file(providers: &[&str]) -> BalanceFile {
    let provider = |name: &&str| {
        ((*name).to_owned(), ProviderKeys { cname: format!("{name}.example.net"), ..ProviderKeys::default() })
    };
    let target = TargetKeys {
        name: "images".to_owned(),
        services: vec!["pdns".to_owned()],
        zone: "example.com".to_owned(),
        nodes: vec!["img0.example.com".to_owned(), "img1.example.com".to_owned()],
        providers: providers.iter().map(provider).collect(),
        ..TargetKeys::default()
    };
    let service = ServiceKeys { name: "pdns".to_owned(), ..ServiceKeys::default() };
    BalanceFile { services: vec![service], targets: vec![target], ..BalanceFile::default() }
}

fn node(number: usize, holding: Holding) -> Node {
    let found = Found { holding, raw: Value::Null };
    Node { target: "images".to_owned(), service: "pdns".to_owned(), name: format!("img{number}.example.com"), found }
}

fn ours(shares: &Shares) -> Holding {
    let weights = Grid::Thousandths.weights(&shares.served()).expect("thousandths can store these shares");
    Holding::Ours(Record { shares: shares.clone(), weights: rearranged(&[], &weights) })
}

fn plan(file: &BalanceFile, nodes: &[Node], action: Action) -> Result<Plan, Trouble> {
    compute(file, &file.targets.iter().collect::<Vec<_>>(), nodes, action)
}

fn permille(provider: &str, permille: u32) -> Action {
    Action::Set { provider: provider.to_owned(), weight: None, mode: None, permille: Some(permille) }
}

fn weight(provider: &str, weight: u32) -> Action {
    Action::Set { provider: provider.to_owned(), weight: Some(weight), mode: None, permille: None }
}

const THREE: [&str; 3] = ["a", "b", "c"];

fn equal() -> Shares {
    shares(&[("a", Mode::Obey, 15), ("b", Mode::Obey, 15), ("c", Mode::Obey, 15)])
}

#[test]
fn plan_when_one_weight_changes_then_other_weights_stay_and_1000_places_are_divided_again() {
    let nodes = [node(0, ours(&equal())), node(1, ours(&equal()))];
    let plan = plan(&file(&THREE), &nodes, weight("a", 5)).expect("a plan");
    let target = &plan.targets[0];
    assert_eq!(target.before, Some(equal()));
    assert_eq!(target.after, shares(&[("a", Mode::Obey, 5), ("b", Mode::Obey, 15), ("c", Mode::Obey, 15)]));
    assert!(plan.is_changed() && target.nodes.iter().all(NodePlan::is_changed));
    for node in &target.nodes {
        let of = |name: &str| node.after.weights.iter().filter(|run| run.0 == name).map(|run| run.1).sum::<u32>();
        assert_eq!((of("a"), of("b"), of("c")), (143, 429, 428));
    }
}

#[test]
fn plan_when_nothing_changes_then_no_node_is_changed() {
    // A provider that is in balance.toml but not yet in DNS does not count as a change.
    let nodes = [node(0, ours(&equal())), node(1, ours(&equal()))];
    assert!(!plan(&file(&["a", "b", "c", "d"]), &nodes, weight("a", 15)).expect("a plan").is_changed());
}

#[test]
fn plan_when_one_node_already_has_the_weights_then_only_the_other_node_is_changed() {
    let new = shares(&[("a", Mode::Obey, 5), ("b", Mode::Obey, 15), ("c", Mode::Obey, 15)]);
    let nodes = [node(0, ours(&equal())), node(1, ours(&new))];
    let plan = plan(&file(&THREE), &nodes, weight("a", 5)).expect("a plan");
    assert_eq!(plan.targets[0].before, None, "the nodes have different weights");
    assert_eq!(plan.targets[0].nodes.iter().map(NodePlan::is_changed).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn percent_when_set_then_other_providers_keep_their_ratio() {
    let before = shares(&[("a", Mode::Obey, 5), ("b", Mode::Obey, 5), ("c", Mode::Always, 15), ("d", Mode::No, 10)]);
    let nodes = [node(0, ours(&before)), node(1, ours(&before))];
    let all = file(&["a", "b", "c", "d"]);
    let after = |permille_| plan(&all, &nodes, permille("a", permille_)).expect("a plan").targets[0].after.clone();
    let weights = |shares: &Shares| shares.0.values().map(|share| share.weight).collect::<Vec<_>>();
    // d is disabled, so d does not count for the share of a. But d keeps its ratio to b, which is 2 to 1.
    assert_eq!(weights(&after(200)), [200, 200, 600, 400]);
    assert_eq!(weights(&after(0)), [0, 250, 750, 500]);
    assert_eq!(weights(&after(1000)), [1000, 0, 0, 1]);
    assert_eq!(after(0).0["a"].mode, Mode::Obey, "0 % must keep the mode");
}

#[test]
fn percent_when_provider_is_disabled_or_alone_or_several_others_have_weight_0_then_is_refused() {
    let refused = |before: &Shares, providers: &[&str]| {
        plan(&file(providers), &[node(0, ours(before))], permille("a", 500)).expect_err("no plan is possible")
    };
    let three = shares(&[("a", Mode::Obey, 15), ("b", Mode::Obey, 0), ("c", Mode::Obey, 0)]);
    assert!(
        matches!(refused(&three, &THREE), Trouble::Refused(text) if text.contains("weight 0") && text.contains("b, c"))
    );
    let alone = shares(&[("a", Mode::Obey, 15), ("b", Mode::No, 15)]);
    assert!(matches!(refused(&alone, &["a", "b"]), Trouble::Refused(text) if text.contains("only enabled provider")));
    let disabled = shares(&[("a", Mode::No, 15), ("b", Mode::Obey, 15)]);
    assert!(matches!(refused(&disabled, &["a", "b"]), Trouble::Refused(text) if text.contains("-m obey")));
    let two = shares(&[("a", Mode::Obey, 15), ("b", Mode::Obey, 0)]);
    let plan = plan(&file(&["a", "b"]), &[node(0, ours(&two))], permille("a", 600)).expect("a plan");
    assert_eq!(plan.targets[0].after, shares(&[("a", Mode::Obey, 600), ("b", Mode::Obey, 400)]));
}

#[test]
fn weight_when_other_weights_are_above_15_then_is_refused_with_a_hint() {
    let before = shares(&[("a", Mode::Obey, 10), ("b", Mode::Obey, 990)]);
    let trouble = plan(&file(&["a", "b"]), &[node(0, ours(&before))], weight("a", 3)).expect_err("no meaning");
    assert!(matches!(trouble, Trouble::Refused(text) if text.contains("990") && text.contains("--pct")));
    // A provider that is not enabled does not count.
    let off = shares(&[("a", Mode::Obey, 10), ("b", Mode::No, 990)]);
    assert!(plan(&file(&["a", "b"]), &[node(0, ours(&off))], weight("a", 3)).is_ok());
}

#[test]
fn step_of_a_ramp_when_provider_is_away_then_is_refused() {
    let mut before = equal();
    before.0.insert("a".to_owned(), Share { mode: Mode::Obey, weight: 15, away: true });
    let action = Action::RampStep { provider: "a".to_owned(), share: 50, end: 50, is_first: true };
    let trouble = plan(&file(&THREE), &[node(0, ours(&before))], action).expect_err("a is away");
    assert!(matches!(trouble, Trouble::Refused(text) if text.contains("a is away")));
}

#[test]
fn mode_and_weight_when_set_together_then_both_change_and_the_away_mark_is_removed() {
    let mut before = equal();
    before.0.insert("a".to_owned(), Share { mode: Mode::Remove, weight: 15, away: true });
    let action = Action::Set { provider: "a".to_owned(), weight: Some(3), mode: Some(Mode::Always), permille: None };
    let plan = plan(&file(&THREE), &[node(0, ours(&before))], action).expect("a plan");
    assert_eq!(plan.targets[0].after.0["a"], Share::new(Mode::Always, 3));
}

#[test]
fn share_when_grid_is_too_coarse_then_plan_fails_with_a_usage_error() {
    let mut file = file(&THREE);
    file.services[0] =
        ServiceKeys { name: "pdns".to_owned(), kind: ServiceKind::Command, grid: 15, ..ServiceKeys::default() };
    let nodes = [node(0, ours(&equal()))];
    let trouble = plan(&file, &nodes, permille("a", 10)).expect_err("weights up to 15 cannot store 1 %");
    assert!(matches!(trouble, Trouble::Usage(text) if text.contains("pdns is too coarse") && text.contains("3.2 %")));
    assert!(plan(&file, &nodes, weight("a", 5)).is_ok());
}

#[test]
fn first_weights_when_nodes_are_empty_or_a_cname_then_are_equal_or_keep_all_clients() {
    let after =
        |nodes: &[Node]| plan(&file(&["a", "b"]), nodes, Action::Init).map(|plan| plan.targets[0].after.clone());
    assert_eq!(
        after(&[node(0, Holding::Nothing), node(1, Holding::Nothing)]),
        Ok(shares(&[("a", Mode::Obey, 15), ("b", Mode::Obey, 15)]))
    );
    let cname = |name: &str| Holding::Cname(name.to_owned());
    assert_eq!(
        after(&[node(0, Holding::Nothing), node(1, cname("b"))]),
        Ok(shares(&[("a", Mode::Obey, 0), ("b", Mode::Obey, 15)]))
    );
    assert!(matches!(after(&[node(0, cname("a")), node(1, cname("b"))]), Err(Trouble::Refused(_))));
    // A node that is added to a target later gets the weights of the other nodes.
    let present = shares(&[("a", Mode::Obey, 3), ("b", Mode::No, 15)]);
    assert_eq!(after(&[node(0, Holding::Nothing), node(1, ours(&present))]), Ok(present));
}

#[test]
fn change_when_a_node_has_no_weights_then_is_refused_with_the_command_to_use() {
    for holding in [Holding::Nothing, Holding::Cname("a".to_owned()), Holding::Foreign("x".to_owned())] {
        let trouble = plan(&file(&["a"]), &[node(0, holding)], weight("a", 1)).expect_err("no weights");
        assert!(matches!(trouble, Trouble::Refused(text) if text.contains("edgeshim balance init -t images")));
    }
}

#[test]
fn rollback_when_balance_toml_lacks_an_earlier_provider_then_is_refused() {
    let to = BTreeMap::from([("images".to_owned(), shares(&[("a", Mode::Obey, 1), ("z", Mode::Obey, 1)]))]);
    let action = Action::Rollback { changes: 1, to };
    let trouble = plan(&file(&["a", "b"]), &[node(0, ours(&equal()))], action).expect_err("z is gone");
    assert!(matches!(trouble, Trouble::Refused(text) if text.contains("provider z")));
}

proptest! {
    #[test]
    fn percent_when_other_weights_are_arbitrary_then_provider_gets_exactly_this_share(
        weights in prop::collection::vec(1..=1000_u32, 2..5),
        wanted in 0..=1000_u32,
    ) {
        let names = ["a", "b", "c", "d"];
        let share = |(name, weight): (&&str, &u32)| ((*name).to_owned(), Share::new(Mode::Obey, *weight));
        let before = Shares(names.iter().zip(&weights).map(share).collect());
        let mut after = before.clone();
        prop_assert_eq!(set_permille(&mut after, "a", wanted), Ok(()));
        prop_assert_eq!(after.0.values().map(|share| share.weight).sum::<u32>(), 1000);
        prop_assert_eq!(after.0["a"].weight, wanted);
        // Each other weight differs by less than one thousandth from the weight that keeps the ratio exactly.
        let others: u32 = weights.iter().skip(1).sum();
        for (name, weight) in names.iter().zip(&weights).skip(1) {
            let exact = f64::from(*weight) * f64::from(1000 - wanted) / f64::from(others);
            prop_assert!((f64::from(after.0[*name].weight) - exact).abs() < 1.0);
        }
    }
}
