//! What to do about a target: a pure function of the modes, the weights, the flags of the providers that are away, and
//! what is known about the edges.

use super::edge_health::EdgeState;
use crate::balance::share::{Mode, Shares};

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// No act is needed.
    Nothing,
    /// Bring this provider back: its edge is up again.
    Back(String),
    /// Take this provider away: its edge is down.
    Away(String),
    /// Keep these providers: their edges are down, but so are the edges of all providers that are served.
    Keep(Vec<String>),
}

/// Returns what to do next. `state` returns what is known about the edge of a provider.
///
/// If a provider with the mode `obey` is away and its edge is up, this provider comes back first. Only then is another
/// provider taken away.
pub(crate) fn next(shares: &Shares, state: impl Fn(&str) -> EdgeState) -> Next {
    let returned = |(name, share): &(&String, &crate::balance::share::Share)| {
        share.mode == Mode::Obey && share.away && state(name) == EdgeState::Up
    };
    if let Some((name, _)) = shares.0.iter().find(returned) {
        return Next::Back(name.clone());
    }
    let may_go = |mode| matches!(mode, Mode::Obey | Mode::Remove);
    let failing: Vec<&String> = shares
        .0
        .iter()
        .filter(|(name, share)| share.is_served() && may_go(share.mode) && state(name) == EdgeState::Down)
        .map(|(name, _)| name)
        .collect();
    let Some(first) = failing.first() else { return Next::Nothing };
    // Clients that leave an edge need another edge that is not down. If all edges are down, each edge keeps its
    // clients. The edge that recovers first then has clients at once.
    if shares.served().into_keys().all(|name| state(name) == EdgeState::Down) {
        return Next::Keep(failing.into_iter().cloned().collect());
    }
    Next::Away((*first).clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::EdgeState::{Down, Unknown, Up};
    use super::*;
    use crate::balance::share::Share;
    use crate::balance::share::tests::any_shares;

    type Setting = (&'static str, Mode, u32, bool, EdgeState);

    fn of(settings: &[Setting]) -> Next {
        let shares = |&(name, mode, weight, away, _): &Setting| (name.to_owned(), Share { mode, weight, away });
        let state = |name: &str| settings.iter().find(|one| one.0 == name).map_or(Unknown, |one| one.4);
        next(&Shares(settings.iter().map(shares).collect()), state)
    }

    #[test]
    fn next_act_when_edges_are_up_or_down_then_follows_the_modes() {
        use Mode::{Always, No, Obey, Remove};
        let (away, back) = (|name: &str| Next::Away(name.to_owned()), |name: &str| Next::Back(name.to_owned()));
        let keep = |names: &[&str]| Next::Keep(names.iter().map(|name| (*name).to_owned()).collect());
        let other = ("z", Always, 5, false, Unknown);
        let table: &[(&[Setting], Next)] = &[
            (&[("a", Obey, 5, false, Up), other], Next::Nothing),
            (&[("a", Obey, 5, false, Unknown), other], Next::Nothing),
            (&[("a", Obey, 5, false, Down), other], away("a")),
            (&[("a", Obey, 5, true, Down), other], Next::Nothing),
            (&[("a", Obey, 5, true, Unknown), other], Next::Nothing),
            (&[("a", Obey, 5, true, Up), other], back("a")),
            (&[("a", Obey, 0, true, Up), other], back("a")),
            (&[("a", Obey, 0, false, Down), other], Next::Nothing),
            (&[("a", Remove, 5, false, Down), other], away("a")),
            (&[("a", Remove, 5, true, Up), other], Next::Nothing),
            (&[("a", Always, 5, false, Down), other], Next::Nothing),
            (&[("a", Always, 5, true, Up), other], Next::Nothing),
            (&[("a", No, 5, false, Down), other], Next::Nothing),
            (&[("a", No, 5, true, Up), other], Next::Nothing),
            // Only one provider is served.
            (&[("a", Obey, 5, false, Down)], keep(&["a"])),
            (&[("a", Remove, 5, false, Down), ("b", No, 5, false, Up)], keep(&["a"])),
            (&[("a", Obey, 5, false, Down), ("b", Obey, 5, true, Down)], keep(&["a"])),
            (&[("a", Obey, 5, false, Down), ("b", Obey, 0, false, Up)], keep(&["a"])),
            // Several providers are served, or one of them can come back.
            (&[("a", Obey, 5, false, Down), ("b", Obey, 5, true, Up)], back("b")),
            (&[("a", Obey, 5, false, Down), ("b", Obey, 5, false, Down), other], away("a")),
            (&[("a", Obey, 5, false, Down), ("b", Obey, 5, false, Down)], keep(&["a", "b"])),
            (&[("a", Obey, 5, false, Down), ("b", Always, 5, false, Down)], keep(&["a"])),
            (&[("a", Obey, 5, false, Down), ("b", Always, 5, false, Up)], away("a")),
            // No provider.
            (&[], Next::Nothing),
        ];
        for (settings, wanted) in table {
            assert_eq!(&of(settings), wanted, "{settings:?}");
        }
    }

    proptest! {
        #[test]
        fn acts_when_made_one_after_the_other_then_end_and_leave_a_provider_served(
            mut shares in any_shares(),
            states in prop::collection::vec(0..3_usize, 5),
        ) {
            let state = |name: &str| [Unknown, Up, Down][states[usize::from(name.as_bytes()[0] - b'a')]];
            let was_served = !shares.served().is_empty();
            for _ in 0..=shares.0.len() {
                match next(&shares, state) {
                    Next::Back(name) => shares.0.get_mut(&name).expect("a provider").away = false,
                    Next::Away(name) => shares.0.get_mut(&name).expect("a provider").away = true,
                    Next::Nothing | Next::Keep(_) => break,
                }
                prop_assert!(!was_served || !shares.served().is_empty());
            }
            prop_assert!(matches!(next(&shares, state), Next::Nothing | Next::Keep(_)));
        }
    }
}
