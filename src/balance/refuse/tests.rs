//! Tests of the refusals.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
use crate::balance::balance_file::{ProviderKeys, ServiceKeys, TargetKeys};
use crate::balance::journal::{Entry, STARTED};
use crate::balance::node::{Found, Node, Record};
use crate::balance::plan::compute;
use crate::balance::share::{Mode, Share, Shares};

fn shares(entries: &[(&str, Mode, u32)]) -> Shares {
    Shares(entries.iter().map(|&(name, mode, weight)| (name.to_owned(), Share::new(mode, weight))).collect())
}

fn file() -> BalanceFile {
    let provider = |name: &str| {
        (name.to_owned(), ProviderKeys { cname: format!("{name}.example.net"), ..ProviderKeys::default() })
    };
    let target =
        TargetKeys { name: "images".to_owned(), providers: ["a", "b"].map(provider).into(), ..TargetKeys::default() };
    BalanceFile { targets: vec![target], ..BalanceFile::default() }
}

fn node(number: usize, holding: Holding) -> Node {
    let found = Found { holding, raw: Value::Null };
    Node { target: "images".to_owned(), service: "pdns".to_owned(), name: format!("img{number}.example.com"), found }
}

fn record(shares: &Shares) -> Record {
    let weights = shares.served().into_iter().map(|(name, weight)| (name.to_owned(), weight)).collect();
    Record { shares: shares.clone(), weights }
}

fn ours(shares: &Shares) -> Holding {
    Holding::Ours(record(shares))
}

fn set(provider: &str, mode: Option<Mode>, permille: Option<u32>) -> Action {
    Action::Set { provider: provider.to_owned(), weight: None, mode, permille }
}

fn found_with(last: &[(&str, Shares)], nodes: &[Node], action: Action) -> Vec<Refusal> {
    let last = last.iter().map(|(target, shares)| ((*target).to_owned(), shares.clone())).collect();
    found_after(&Journal { last, ..Journal::default() }, nodes, action)
}

fn found_after(journal: &Journal, nodes: &[Node], action: Action) -> Vec<Refusal> {
    let file = file();
    let plan = compute(&file, &[&file.targets[0]], nodes, action).expect("a plan");
    refusals(&file, &plan, journal)
}

fn found(nodes: &[Node], action: Action) -> Vec<(String, bool)> {
    found_with(&[], nodes, action).into_iter().map(|refusal| (refusal.text, refusal.can_be_forced)).collect()
}

fn half() -> Shares {
    shares(&[("a", Mode::Obey, 500), ("b", Mode::Obey, 500)])
}

#[test]
fn step_when_larger_than_max_step_then_is_refused_for_each_provider() {
    let nodes = [node(0, ours(&half()))];
    for small in [500, 750, 250] {
        assert_eq!(found(&nodes, set("a", None, Some(small))), [], "{small}");
    }
    let texts = found(&nodes, set("a", None, Some(249)));
    assert_eq!(
        texts,
        [
            (
                "images: a would fall by 25.1 points in one step, and max_step allows 25; go in smaller \
                 steps with --pct"
                    .to_owned(),
                true
            ),
            (
                "images: b would rise by 25.1 points in one step, and max_step allows 25; go in smaller \
                 steps with --pct"
                    .to_owned(),
                true
            ),
        ]
    );
    // If a provider gets the mode no, its share falls too.
    assert_eq!(found(&nodes, set("a", Some(Mode::No), None)).len(), 2);
}

#[test]
fn large_step_when_rollback_or_when_first_weights_move_no_client_then_is_not_refused() {
    let to = BTreeMap::from([("images".to_owned(), shares(&[("a", Mode::Obey, 1), ("b", Mode::No, 1)]))]);
    assert_eq!(found(&[node(0, ours(&half()))], Action::Rollback { changes: 1, to }), []);
    assert_eq!(found(&[node(0, Holding::Cname("a".to_owned()))], Action::Init), []);
    assert_eq!(found(&[node(0, Holding::Nothing)], Action::Init), []);
}

#[test]
fn first_weights_when_cname_loses_all_clients_then_step_is_refused() {
    // The second node has weights already, and the first node gets the same weights.
    let b = shares(&[("a", Mode::Obey, 0), ("b", Mode::Obey, 15)]);
    let nodes = [node(0, Holding::Cname("a".to_owned())), node(1, ours(&b))];
    let texts = found(&nodes, Action::Init);
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[0].1 && texts[0].0.contains("images: a would fall by 100.0 points in one step"), "{texts:?}");
    assert!(texts[1].1 && texts[1].0.contains("images: b would rise by 100.0 points in one step"), "{texts:?}");
    let nodes = [node(0, Holding::Cname("b".to_owned())), node(1, ours(&b))];
    assert_eq!(found(&nodes, Action::Init), [], "the clients stay at b");
}

#[test]
fn last_served_provider_when_taken_away_then_is_refused_unless_forced() {
    let nodes = [node(0, ours(&shares(&[("a", Mode::Obey, 15), ("b", Mode::No, 15)])))];
    let texts = found(&nodes, set("a", Some(Mode::No), None));
    assert!(
        texts.iter().any(|(text, forced)| *forced && text.contains("the last provider that is served")),
        "{texts:?}"
    );
    assert!(texts.iter().all(|(_, forced)| *forced));
    // The weight of a provider whose mode is no does not matter, even if it is 0.
    let nodes = [node(0, ours(&shares(&[("a", Mode::Obey, 15), ("b", Mode::No, 0)])))];
    assert!(found(&nodes, set("a", Some(Mode::No), None))[0].0.contains("the last provider"));
}

#[test]
fn weights_when_all_would_be_0_then_are_refused_even_if_forced() {
    let nodes = [node(0, ours(&shares(&[("a", Mode::Obey, 15), ("b", Mode::Obey, 0)])))];
    let texts = found(&nodes, set("a", Some(Mode::No), None));
    assert!(texts.iter().any(|(text, forced)| !forced && text.contains("all weights would be 0")), "{texts:?}");
}

#[test]
fn last_served_provider_of_route_53_when_taken_away_then_is_refused_even_if_forced() {
    let mut file = file();
    let service = ServiceKeys { name: "pdns".to_owned(), kind: ServiceKind::Route53, ..ServiceKeys::default() };
    file.services = vec![service];
    let nodes = [node(0, ours(&shares(&[("a", Mode::Obey, 15), ("b", Mode::No, 15)])))];
    let plan = compute(&file, &[&file.targets[0]], &nodes, set("a", Some(Mode::No), None)).expect("a plan");
    let refusals = refusals(&file, &plan, &Journal::default());
    assert!(refusals.iter().any(|refusal| !refusal.can_be_forced && refusal.text.contains("equally often")));
}

#[test]
fn nodes_when_shares_differ_then_change_is_refused_with_both_states() {
    let other = shares(&[("a", Mode::Obey, 500), ("b", Mode::No, 500)]);
    // The second and the third node do not have the provider b.
    let less = shares(&[("a", Mode::Obey, 500)]);
    for other in [other, less] {
        let nodes = [node(0, ours(&half())), node(1, ours(&other)), node(2, ours(&other))];
        let texts = found(&nodes, set("a", None, Some(500)));
        let text = texts.iter().find(|(text, _)| text.contains("disagree")).expect("a refusal");
        assert!(
            text.1 && text.0.contains("img0.example.com at pdns has a obey 500, b obey 500, but img1"),
            "{texts:?}"
        );
        assert!(text.0.ends_with("(1 more differ)"), "{texts:?}");
    }
}

#[test]
fn node_when_shares_differ_from_last_change_in_journal_then_change_is_refused() {
    let nodes = [node(0, ours(&half()))];
    let action = || set("a", None, Some(500));
    assert_eq!(found_with(&[("images", half())], &nodes, action()), []);
    assert_eq!(found_with(&[("html", shares(&[]))], &nodes, action()), [], "another target does not count");
    let left = shares(&[("a", Mode::Obey, 1), ("b", Mode::Obey, 500)]);
    let texts = found_with(&[("images", left)], &nodes, action());
    assert!(texts.len() == 1 && texts[0].can_be_forced, "{texts:?}");
    assert!(texts[0].text.contains("img0.example.com at pdns is not as the last change in the journal left it"));
}

#[test]
fn node_when_last_change_has_no_result_then_old_and_new_weights_are_accepted() {
    let action = || set("a", None, Some(500));
    let with_a = |a: u32| shares(&[("a", Mode::Obey, a), ("b", Mode::Obey, 1000 - a)]);
    let entry = |from: Option<Shares>| Entry {
        time: "2026-01-01T00:00:00Z".to_owned(),
        id: "0a0b0c0d".to_owned(),
        who: "alice".to_owned(),
        action: "50 %".to_owned(),
        provider: Some("a".to_owned()),
        from: [("images".to_owned(), from)].into(),
        to: [("images".to_owned(), with_a(500))].into(),
        why: None,
        force: None,
        result: STARTED.to_owned(),
    };
    let with = |from| Journal { unfinished: [("images".to_owned(), entry(from))].into(), ..Journal::default() };
    let journal = with(Some(with_a(450)));
    for a in [450, 500] {
        assert_eq!(found_after(&journal, &[node(0, ours(&with_a(a)))], action()), [], "{a}");
    }
    let texts = found_after(&journal, &[node(0, ours(&with_a(460)))], action());
    assert!(texts.len() == 1 && texts[0].can_be_forced, "{texts:?}");
    assert!(texts[0].text.contains("nor the weights after the change 0a0b0c0d"), "{texts:?}");
    assert_eq!(found_after(&with(None), &[node(0, ours(&with_a(460)))], action()), []);
}

#[test]
fn record_when_foreign_edited_or_with_an_unknown_provider_then_change_is_refused() {
    let texts = found(&[node(0, Holding::Foreign("another record (A \"192.0.2.1\")".to_owned()))], Action::Init);
    assert!(texts[0].1 && texts[0].0.contains("has another record (A \"192.0.2.1\"), which edgeshim did not write"));
    let texts =
        found(&[node(0, Holding::Edited(record(&half()), "the TTL differs".to_owned()))], set("a", None, Some(500)));
    assert!(texts[0].1 && texts[0].0.contains("was changed without edgeshim: the TTL differs"), "{texts:?}");
    let more = shares(&[("a", Mode::Obey, 10), ("b", Mode::Obey, 10), ("z", Mode::Obey, 1)]);
    let texts = found(&[node(0, ours(&more))], set("a", None, Some(500)));
    assert!(texts[0].1 && texts[0].0.contains("serves the provider z"), "{texts:?}");
}
