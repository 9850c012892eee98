//! Finds in the journal where a ramp stopped.

use std::collections::BTreeMap;

use crate::balance::journal::{Entry, Journal};
use crate::balance::plan::FIRST_STEP;
use crate::balance::share::Shares;

/// What the journal says about a change that puts the weights back.
const PUT_BACK: &str = "put back";

/// A ramp that stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stopped {
    /// The share at which the ramp ends, in per cent.
    pub end: u32,
    /// The shares before the ramp, by target. `None`: the weights were put back, so the ramp begins again.
    pub start: Option<BTreeMap<String, Shares>>,
    /// The shares before the most recent step.
    pub previous: Option<BTreeMap<String, Shares>>,
    /// The number of steps that the ramp has made.
    pub steps: usize,
}

/// Finds the last change of these targets, which must be part of a ramp of this provider. Changes of `watch` and
/// failed changes do not count.
///
/// # Errors
/// Returns a message if the last change is not part of such a ramp, or if the journal does not have the shares before
/// the ramp or before its most recent step.
pub(crate) fn stopped(journal: &Journal, targets: &[&str], provider: &str) -> Result<Stopped, String> {
    let is_ours = |entry: &&Entry| {
        let is_of_watch = matches!(entry.action.as_str(), "away" | "back");
        entry.counts() && !is_of_watch && targets.iter().any(|target| entry.to.contains_key(*target))
    };
    let mut changes = journal.entries.iter().rev().filter(is_ours).map(|entry| (entry, part(entry, targets, provider)));
    let Some((last, Some((end, what)))) = changes.next() else {
        return Err(format!(
            "the last change of {} in the journal is not a step of a ramp of {provider}, so there is nothing to \
             resume; edgeshim balance history lists the changes, and without --resume a new ramp begins",
            targets.join(", ")
        ));
    };
    if what == PUT_BACK {
        return Ok(Stopped { end, start: None, previous: None, steps: 0 });
    }
    // `--resume --to` can have changed the end of the ramp between two steps.
    let (mut first, mut steps, mut is_complete) = (last, 1, what.ends_with(FIRST_STEP));
    while !is_complete
        && let Some((entry, Some((_, what)))) = changes.next()
        && what != PUT_BACK
    {
        (first, steps, is_complete) = (entry, steps + 1, what.ends_with(FIRST_STEP));
    }
    let before = |entry: &Entry| {
        let shares = |(target, shares): (&String, &Option<Shares>)| Some((target.clone(), shares.clone()?));
        entry.from.iter().map(shares).collect::<Option<BTreeMap<_, _>>>().ok_or_else(|| {
            format!("the change {} does not say which weights the targets had before; begin a new ramp", entry.id)
        })
    };
    Ok(Stopped { end, start: Some(before(first)?), previous: Some(before(last)?), steps })
}

/// Returns the end of the ramp to which a change belongs, and what the change does. `None`: the change is not part of a
/// ramp of this provider and of exactly these targets.
fn part<'e>(entry: &'e Entry, targets: &[&str], provider: &str) -> Option<(u32, &'e str)> {
    let (end, what) = entry.action.strip_prefix("ramp to ")?.split_once(" %: ")?;
    let has_same_targets = entry.to.len() == targets.len() && targets.iter().all(|name| entry.to.contains_key(*name));
    let end = end.parse().ok().filter(|end| (1..=100).contains(end))?;
    (has_same_targets && entry.provider.as_deref() == Some(provider)).then_some((end, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::plan::Action;
    use crate::balance::share::{Mode, Share};

    fn shares(a: u32) -> Shares {
        let share = |weight| Share::new(Mode::Obey, weight);
        Shares([("a".to_owned(), share(a)), ("b".to_owned(), share(1000 - a))].into())
    }

    fn entry(action: &Action, from: u32, to: u32, result: &str) -> Entry {
        Entry {
            time: String::new(),
            id: "00000001".to_owned(),
            who: "alice".to_owned(),
            action: action.to_string(),
            provider: action.provider().map(str::to_owned),
            from: [("images".to_owned(), Some(shares(from)))].into(),
            to: [("images".to_owned(), shares(to))].into(),
            why: None,
            force: None,
            result: result.to_owned(),
        }
    }

    fn step(share: u32, from: u32) -> Entry {
        entry(&Action::RampStep { provider: "a".to_owned(), share, end: 50, is_first: false }, from, share * 10, "done")
    }

    fn step_to(end: u32, share: u32, from: u32, is_first: bool) -> Entry {
        entry(&Action::RampStep { provider: "a".to_owned(), share, end, is_first }, from, share * 10, "done")
    }

    fn found(entries: Vec<Entry>) -> Result<Stopped, String> {
        stopped(&Journal { entries: entries.into(), ..Journal::default() }, &["images"], "a")
    }

    #[test]
    fn ramp_when_last_change_is_a_step_then_start_has_the_shares_before_the_first_step() {
        let set = Action::Set { provider: "a".to_owned(), weight: None, mode: None, permille: Some(3) };
        let failed = Entry { result: "put back: 500".to_owned(), ..step(25, 100) };
        let changes = vec![entry(&set, 0, 3, "done"), step(1, 3), step(5, 10), step(10, 50), failed];
        let of = |weight| Some([("images".to_owned(), shares(weight))].into());
        assert_eq!(found(changes), Ok(Stopped { end: 50, start: of(3), previous: of(50), steps: 3 }));
    }

    #[test]
    fn ramp_when_resumed_with_another_end_then_start_has_the_shares_before_its_first_step() {
        let earlier = [step_to(10, 1, 0, true), step_to(10, 2, 10, false)];
        let ramp = [step_to(10, 5, 20, true), step_to(10, 10, 50, false), step_to(20, 20, 100, false)];
        let of = |weight| Some([("images".to_owned(), shares(weight))].into());
        let expected = Stopped { end: 20, start: of(20), previous: of(100), steps: 3 };
        assert_eq!(found([&earlier[..], &ramp[..]].concat()), Ok(expected), "the earlier ramp does not count");
    }

    #[test]
    fn ramp_when_watch_has_made_changes_meanwhile_then_they_do_not_count() {
        let away = |away| entry(&Action::Away { provider: "b".to_owned(), away }, 50, 50, "done");
        let changes = vec![step(1, 3), step(5, 10), away(true), away(false), step(10, 50), away(true)];
        let of = |weight| Some([("images".to_owned(), shares(weight))].into());
        assert_eq!(found(changes), Ok(Stopped { end: 50, start: of(3), previous: of(50), steps: 3 }));
    }

    #[test]
    fn ramp_when_weights_were_put_back_then_begins_again_with_the_same_end() {
        let to = [("images".to_owned(), shares(3))].into();
        let back = entry(&Action::RampBack { provider: "a".to_owned(), end: 50, to }, 10, 3, "done");
        assert_eq!(found(vec![step(1, 3), back]), Ok(Stopped { end: 50, start: None, previous: None, steps: 0 }));
    }

    #[test]
    fn ramp_when_last_change_is_not_its_step_then_is_not_resumed() {
        let set = Action::Set { provider: "a".to_owned(), weight: Some(1), mode: None, permille: None };
        assert!(found(vec![step(1, 3), entry(&set, 10, 3, "done")]).is_err());
        assert!(found(Vec::new()).is_err());
        let journal = Journal { entries: vec![step(1, 3)].into(), ..Journal::default() };
        assert!(stopped(&journal, &["images"], "b").is_err(), "the ramp of another provider");
        assert!(stopped(&journal, &["images", "html"], "a").is_err(), "a ramp of other targets");
    }
}
