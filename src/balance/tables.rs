//! The weights as a table and as JSON, and the plan as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::balance_file::TargetKeys;
use super::observed_shares::Observed;
use super::plan::{Plan, TargetPlan};
use super::share::{Share, Shares};

/// Returns `{provider: {mode, weight, pct, enabled, observed}}`. A provider that is away also has `away`. `pct` is the
/// share among the enabled providers. If the share among the served providers differs, the provider also has
/// `served_pct`.
pub(crate) fn shown_json(shares: &Shares, observed: Option<&Observed>) -> Value {
    let (percents, served_percents) = (shares.percents(), shares.served_percents());
    let provider = |(name, share): (&String, &Share)| {
        let (percent, served) = (percents.get(name.as_str()).copied(), served_percents.get(name.as_str()).copied());
        let mut value = json!({
            "mode": share.mode.name(),
            "weight": share.weight,
            "pct": number(percent),
            "enabled": share.is_enabled(),
            "observed": observed.and_then(|observed| observed.shares.get(name)),
        });
        if share.away {
            value["away"] = true.into();
        }
        if served != percent {
            value["served_pct"] = number(served).into();
        }
        (name.clone(), value)
    };
    shares.0.iter().map(provider).collect::<Map<_, _>>().into()
}

/// Returns `{provider: {enabled, weight, pct}}`, the content of the file that other programs read.
pub(crate) fn written_json(shares: &Shares) -> Value {
    let percents = shares.percents();
    let provider = |(name, share): (&String, &Share)| {
        let percent = number(percents.get(name.as_str()).copied());
        (name.clone(), json!({ "enabled": share.is_enabled(), "weight": share.weight, "pct": percent }))
    };
    shares.0.iter().map(provider).collect::<Map<_, _>>().into()
}

/// Returns hundredths of a per cent as a number in per cent.
pub(crate) fn number(hundredths: Option<u32>) -> f64 {
    f64::from(hundredths.unwrap_or(0)) / 100.0
}

/// Writes the table of a target, below a heading line. The shares are those among the served providers.
pub(crate) fn table(target: &TargetKeys, shares: &Shares, observed: Option<&Observed>) -> String {
    let percents = shares.served_percents();
    let mut rows = vec![["provider", "mode", "weight", "share"].map(str::to_owned).to_vec()];
    if let (Some(row), Some(observed)) = (rows.first_mut(), observed) {
        row.push(format!("observed ({})", observed.source));
    }
    for (name, share) in &shares.0 {
        let percent = percents.get(name.as_str()).copied().unwrap_or(0);
        let mut row = vec![name.clone(), mode(*share), share.weight.to_string(), tenths(percent)];
        row.extend(observed.and_then(|observed| observed.shares.get(name)).map(|share| observed_text(*share)));
        rows.push(row);
    }
    heading(target) + &aligned(&rows)
}

/// Writes the old weights, the new weights and the difference of each target of a plan.
pub(crate) fn difference(targets: &[&TargetKeys], plan: &Plan) -> String {
    let one = |planned: &TargetPlan| {
        let target = targets.iter().find(|target| target.name == planned.name)?;
        Some(heading(target) + &rows_of(planned))
    };
    plan.targets.iter().filter_map(one).collect::<Vec<_>>().join("\n")
}

/// One provider before and after a change.
#[derive(Debug)]
pub(crate) struct Difference {
    pub name: String,
    pub old: Option<Share>,
    pub new: Option<Share>,
    /// The shares among the served providers in per cent, as texts.
    pub old_share: String,
    pub new_share: String,
    /// The difference of the shares in percentage points, as a text. `=` if the rounded difference is 0.
    pub points: String,
}

/// Returns the providers of a target before and after a change. If the nodes have no common shares, the first
/// changed node with shares stands for all nodes.
pub(crate) fn differences(planned: &TargetPlan) -> Vec<Difference> {
    let mut changed = planned.nodes.iter().filter(|node| node.is_changed());
    let mut first = || changed.find_map(|node| node.node.found.shares());
    let before = planned.before.clone().or_else(&mut first).unwrap_or_default();
    let (old, new) = (before.served_percents(), planned.after.served_percents());
    let mut names: Vec<&String> = before.0.keys().chain(planned.after.0.keys()).collect();
    names.sort();
    names.dedup();
    let of = |percents: &BTreeMap<&str, u32>, name: &str| percents.get(name).copied().map_or(0, i64::from);
    let one = |name: &String| Difference {
        name: name.clone(),
        old: before.0.get(name).copied(),
        new: planned.after.0.get(name).copied(),
        old_share: tenths_of(of(&old, name)),
        new_share: tenths_of(of(&new, name)),
        points: points(of(&new, name) - of(&old, name)),
    };
    names.into_iter().map(one).collect()
}

fn rows_of(planned: &TargetPlan) -> String {
    let mut text = String::new();
    let changed: Vec<_> = planned.nodes.iter().filter(|node| node.is_changed()).collect();
    let mut rows = vec![["provider", "mode", "weight", "share", "difference"].map(str::to_owned).to_vec()];
    for Difference { name, old, new, old_share, new_share, points } in differences(planned) {
        let both = |text: &dyn Fn(Share) -> String| match (old, new) {
            (Some(old), Some(new)) if text(old) == text(new) => text(old),
            (Some(old), Some(new)) => format!("{} -> {}", text(old), text(new)),
            (None, Some(new)) => text(new),
            (Some(old), None) => format!("{} -> none", text(old)),
            (None, None) => String::new(),
        };
        let share =
            if old.is_some() && old_share != new_share { format!("{old_share} -> {new_share}") } else { new_share };
        rows.push(vec![name, both(&mode), both(&|share| share.weight.to_string()), share, points]);
    }
    text += &aligned(&rows);
    let is_uniform = planned.nodes.windows(2).all(|pair| match pair {
        [one, other] => one.node.found.describe() == other.node.found.describe(),
        _ => true,
    });
    if changed.is_empty() {
        text += "nothing to do: all nodes have these weights already\n";
    } else if changed.len() < planned.nodes.len() || !is_uniform {
        for node in changed {
            let _ = writeln!(text, "to write: {} (has {})", node.node.place(), node.node.found.describe());
        }
    }
    text
}

/// Writes a number with its unit: `1 edge`, `2 edges`.
pub(crate) fn counted<N: Copy + std::fmt::Display + PartialEq + From<u8>>(count: N, unit: &str) -> String {
    format!("{count} {unit}{}", if count == N::from(1) { "" } else { "s" })
}

fn heading(target: &TargetKeys) -> String {
    format!("{}: {} ({})\n", target.name, target.nodes.join(", "), target.services.join(", "))
}

fn mode(share: Share) -> String {
    let away = if share.away { ", away" } else { "" };
    format!("{}{away}", share.mode.name())
}

/// Writes an observed share with one decimal.
pub(crate) fn observed_text(percent: f64) -> String {
    format!("{percent:.1} %")
}

/// Writes hundredths of a per cent with one decimal.
pub(crate) fn tenths(hundredths: u32) -> String {
    tenths_of(hundredths.into())
}

fn tenths_of(hundredths: i64) -> String {
    let tenths = (hundredths + 5) / 10;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

fn points(hundredths: i64) -> String {
    let tenths = (hundredths.abs() + 5) / 10;
    match (tenths, hundredths < 0) {
        (0, _) => "=".to_owned(),
        (_, is_down) => format!("{}{}.{} points", if is_down { "-" } else { "+" }, tenths / 10, tenths % 10),
    }
}

/// Writes rows as aligned columns. The texts of the first two columns begin at the left, all others end at the right.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            let _ = if column < 2 { write!(line, " {cell}{padding} ") } else { write!(line, " {padding}{cell} ") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::share::Mode;

    fn shares(entries: &[(&str, Mode, u32)]) -> Shares {
        Shares(entries.iter().map(|&(name, mode, weight)| (name.to_owned(), Share::new(mode, weight))).collect())
    }

    #[test]
    fn json_when_a_provider_is_disabled_then_has_pct_0_and_other_pcts_add_up_to_100() {
        let shares =
            shares(&[("a", Mode::Obey, 5), ("b", Mode::Always, 15), ("c", Mode::Remove, 15), ("d", Mode::No, 9)]);
        assert_eq!(
            written_json(&shares),
            json!({
                "a": { "enabled": true, "weight": 5, "pct": 14.28 },
                "b": { "enabled": true, "weight": 15, "pct": 42.86 },
                "c": { "enabled": true, "weight": 15, "pct": 42.86 },
                "d": { "enabled": false, "weight": 9, "pct": 0.0 },
            })
        );
        assert_eq!(
            shown_json(&shares, None)["b"],
            json!({ "mode": "always", "weight": 15, "pct": 42.86, "enabled": true, "observed": null })
        );
        let observed = Observed { source: "pulls", shares: [("b".to_owned(), 41.5)].into() };
        assert_eq!(shown_json(&shares, Some(&observed))["b"]["observed"], 41.5);
    }

    #[test]
    fn json_when_a_provider_is_away_then_served_pct_has_the_shares_of_the_clients() {
        let mut shares = shares(&[("a", Mode::Obey, 5), ("b", Mode::Obey, 5), ("c", Mode::No, 5)]);
        shares.0.get_mut("a").expect("the provider").away = true;
        let shown = shown_json(&shares, None);
        let both = ["a", "b", "c"].map(|name| (shown[name]["pct"].as_f64(), shown[name]["served_pct"].as_f64()));
        assert_eq!(both, [(Some(50.0), Some(0.0)), (Some(50.0), Some(100.0)), (Some(0.0), None)], "{shown}");
    }

    #[test]
    fn table_when_written_then_columns_are_aligned() {
        let target = TargetKeys {
            name: "images".to_owned(),
            nodes: vec!["img.example.com".to_owned()],
            services: vec!["pdns".to_owned()],
            ..TargetKeys::default()
        };
        let observed =
            Observed { source: "pulls", shares: [("akamai".to_owned(), 99.96), ("fastly".to_owned(), 0.04)].into() };
        let seen = table(&target, &shares(&[("akamai", Mode::Always, 15), ("fastly", Mode::No, 1)]), Some(&observed));
        assert!(seen.contains("share  observed (pulls)\n") && seen.contains("100.0 %           100.0 %\n"), "{seen}");
        assert_eq!(
            table(&target, &shares(&[("akamai", Mode::Always, 15), ("fastly", Mode::No, 1)]), None),
            "images: img.example.com (pdns)\n  \
             provider  mode    weight    share\n  \
             akamai    always      15  100.0 %\n  \
             fastly    no           1    0.0 %\n"
        );
    }
}
