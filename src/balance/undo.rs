//! Computes the shares to which a rollback returns.
//!
//! An act of `watch` is not a change of a person. Without `--with-watch`, a rollback neither counts nor undoes such an
//! act. If `watch` took a provider away after the undone change, and has not brought the provider back, the provider
//! stays away, because its edge is down.

use std::collections::BTreeMap;

use super::journal::{Entry, Journal};
use super::plan::Action;
use super::share::Shares;
use super::tables::counted;

/// What a rollback undoes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Undo<'j> {
    /// The changes that are undone. The newest is first.
    pub undone: Vec<&'j Entry>,
    /// The acts of `watch` that stay. They were made after the oldest undone change. The oldest act is first.
    pub kept: Vec<&'j Entry>,
    /// The shares of each target after the rollback.
    pub to: BTreeMap<String, Shares>,
}

/// Returns what a rollback undoes. `changes` is the number of changes to undo. `targets` are the names of the targets
/// that are rolled back; `None` stands for all targets. A change without a result counts too, because DNS can have its
/// shares. A change that failed does not count.
///
/// # Errors
/// Returns a message if the journal does not have so many changes, or if the shares before a change are not known.
pub(crate) fn undo<'j>(
    journal: &'j Journal,
    changes: usize,
    targets: Option<&[&str]>,
    with_watch: bool,
) -> Result<Undo<'j>, String> {
    let is_chosen = |target: &String| targets.is_none_or(|targets| targets.contains(&target.as_str()));
    let entries: Vec<&Entry> =
        journal.entries.iter().filter(|entry| entry.counts() && entry.to.keys().any(is_chosen)).collect();
    let is_undone = |entry: &Entry| with_watch || away(entry).is_none();
    let undone: Vec<&Entry> = entries.iter().rev().copied().filter(|entry| is_undone(entry)).take(changes).collect();
    if undone.len() < changes || undone.is_empty() {
        let count = entries.iter().filter(|entry| is_undone(entry)).count();
        let of = targets.map(|targets| format!(" of {}", targets.join(", "))).unwrap_or_default();
        let acts = entries.len() - count;
        let acts = match acts {
            0 => String::new(),
            acts => format!(", and {} of watch, which --with-watch counts too", counted(acts, "act")),
        };
        let count = counted(count, "change");
        return Err(format!("the journal has {count}{of}{acts}; edgeshim balance history lists them"));
    }
    let (mut to, mut kept) = (BTreeMap::new(), Vec::new());
    let first = undone.last().and_then(|first| entries.iter().position(|entry| std::ptr::eq(*entry, *first)));
    for entry in entries.into_iter().skip(first.unwrap_or(0)) {
        if is_undone(entry) {
            for (target, shares) in entry.from.iter().filter(|(target, _)| is_chosen(target)) {
                let Some(shares) = shares else {
                    return Err(format!(
                        "the change {} of {} began with nodes of {target} that had no weights or different weights, so \
                         there is nothing to go back to; set the weights with -p",
                        entry.id, entry.time
                    ));
                };
                // If several changes are undone, the shares before the oldest change count.
                to.entry(target.clone()).or_insert_with(|| shares.clone());
            }
        } else if let Some((provider, away)) = away(entry) {
            let mut is_kept = false;
            for target in entry.to.keys() {
                let share = to.get_mut(target).and_then(|shares: &mut Shares| shares.0.get_mut(provider));
                if let Some(share) = share {
                    share.away = away;
                    is_kept = true;
                }
            }
            kept.extend(is_kept.then_some(entry));
        }
    }
    Ok(Undo { undone, kept, to })
}

/// Returns the provider that an act of `watch` took away or brought back, and whether the act took the provider away.
fn away(entry: &Entry) -> Option<(&str, bool)> {
    let provider = entry.provider.as_deref()?;
    let is = |away| entry.action == Action::Away { provider: provider.to_owned(), away }.to_string();
    [true, false].into_iter().find(|&away| is(away)).map(|away| (provider, away))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::share::{Mode, Share};

    /// The shares of the providers a and b. `!` marks a provider that is away.
    fn shares(text: &str) -> Shares {
        let share = |(name, part): (&str, &str)| {
            let away = part.ends_with('!');
            let weight = part.trim_end_matches('!').parse().expect("a weight");
            (name.to_owned(), Share { mode: Mode::Obey, weight, away })
        };
        Shares(["a", "b"].into_iter().zip(text.split(' ')).map(share).collect())
    }

    /// A change of the target t. `action` can begin with the name of a provider.
    fn entry(action: &str, from: &str, to: &str) -> Entry {
        let (provider, action) = action.split_once(' ').unwrap_or(("", action));
        let of = |text: &str| (!text.is_empty()).then(|| shares(text));
        Entry {
            time: "2026-11-29T00:00:00Z".to_owned(),
            id: format!("{action} {to}"),
            who: "someone".to_owned(),
            action: action.to_owned(),
            provider: (!provider.is_empty()).then(|| provider.to_owned()),
            from: [("t".to_owned(), of(from))].into(),
            to: [("t".to_owned(), shares(to))].into(),
            why: None,
            force: None,
            result: "done".to_owned(),
        }
    }

    fn journal(entries: &[Entry]) -> Journal {
        Journal { entries: entries.iter().cloned().collect(), ..Journal::default() }
    }

    #[test]
    fn rollback_when_watch_has_acted_then_undoes_changes_of_people_and_keeps_the_latest_flags() {
        let set = |from, to| entry("a weight", from, to);
        let away = |from, to| entry("a away", from, to);
        let back = |from, to| entry("a back", from, to);
        for (entries, changes, with_watch, wanted, kept) in [
            // The act after the change stays.
            (vec![set("15 15", "5 15"), away("5 15", "5! 15")], 1, false, "15! 15", 1),
            (vec![set("15 15", "5 15"), away("5 15", "5! 15"), back("5! 15", "5 15")], 1, false, "15 15", 2),
            // A change of a person brought the provider back. The rollback marks the provider as away again.
            (vec![away("15 15", "15! 15"), set("15! 15", "5 15")], 1, false, "15! 15", 0),
            // An act between two changes.
            (
                vec![set("15 15", "9 15"), away("9 15", "9! 15"), entry("b weight", "9! 15", "9! 5")],
                2,
                false,
                "15! 15",
                1,
            ),
            // In the next two rows, the acts count too, and are undone.
            (vec![set("15 15", "5 15"), away("5 15", "5! 15")], 1, true, "5 15", 0),
            (vec![set("15 15", "5 15"), away("5 15", "5! 15")], 2, true, "15 15", 0),
            // A rollback is a change of a person.
            (vec![set("15 15", "5 15"), entry("rollback 1", "5 15", "15 15")], 1, false, "5 15", 0),
        ] {
            let journal = journal(&entries);
            let undo = undo(&journal, changes, None, with_watch).expect("a rollback");
            assert_eq!((undo.to["t"].clone(), undo.kept.len(), undo.undone.len()), (shares(wanted), kept, changes));
        }
    }

    #[test]
    fn rollback_when_targets_are_named_then_undoes_only_their_changes() {
        let mut both = entry("a weight", "15 15", "5 15");
        both.from.insert("u".to_owned(), Some(shares("15 15")));
        both.to.insert("u".to_owned(), shares("5 15"));
        let mut other = entry("a weight", "5 15", "1 15");
        other.from = [("u".to_owned(), Some(shares("5 15")))].into();
        other.to = [("u".to_owned(), shares("1 15"))].into();
        let journal = journal(&[both, other]);
        let to = |changes, targets: Option<&[&str]>| undo(&journal, changes, targets, false).map(|undo| undo.to);
        let one = |name: &str, text| BTreeMap::from([(name.to_owned(), shares(text))]);
        assert_eq!(to(1, None), Ok(one("u", "5 15")));
        assert_eq!(to(1, Some(&["t"])), Ok(one("t", "15 15")));
        assert_eq!(to(2, Some(&["u"])), Ok(one("u", "15 15")));
        assert_eq!(to(1, Some(&["t", "u"])), Ok(one("u", "5 15")));
        let error = to(2, Some(&["t"])).expect_err("there is one change");
        assert_eq!(error, "the journal has 1 change of t; edgeshim balance history lists them");
    }

    #[test]
    fn rollback_when_changes_or_earlier_shares_are_missing_then_message_says_so() {
        let entries = [entry("init", "", "15 15"), entry("a away", "15 15", "15! 15")];
        let journal = journal(&entries);
        let error = undo(&journal, 2, None, false).expect_err("there is one change");
        assert!(error.contains("1 change, and 1 act of watch, which --with-watch counts too"), "{error}");
        let error = undo(&journal, 1, None, false).expect_err("there was nothing before");
        assert!(error.contains("nothing to go back to; set the weights with -p"), "{error}");
        assert!(undo(&Journal::default(), 1, None, true).is_err());
    }
}
