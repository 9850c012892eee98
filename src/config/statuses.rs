//! Sets of 5xx statuses, as `whoopsie.statuses` names them.

use super::file::Checked;

/// A set of statuses from 500 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusSet(u128);

impl StatusSet {
    /// Every one of them.
    pub const fn all() -> Self {
        Self((1 << 100) - 1)
    }

    /// Whether `status` belongs to it.
    pub const fn contains(self, status: u16) -> bool {
        status >= 500 && status <= 599 && self.0 >> (status - 500) & 1 == 1
    }

    /// What belongs to either.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Adds what one text names: `5xx`, `502` or `500-504`.
    pub(super) fn add(&mut self, text: &str) -> Checked<()> {
        let status =
            |text: &str| text.parse::<u16>().ok().filter(|status| text.len() == 3 && (500..=599).contains(status));
        let range = match text.split_once('-') {
            _ if text.eq_ignore_ascii_case("5xx") => Some((500, 599)),
            Some((low, high)) => status(low).zip(status(high)).filter(|(low, high)| low <= high),
            None => status(text).map(|status| (status, status)),
        };
        let (low, high) =
            range.ok_or("is no status from 500 to 599; write \"5xx\", one like \"502\" or a range like \"500-504\"")?;
        self.0 |= (low..=high).fold(0, |bits, status| bits | 1 << (status - 500));
        Ok(())
    }

    /// The fewest texts that name it.
    pub(super) fn words(self) -> Vec<String> {
        if self == Self::all() {
            return vec!["5xx".to_owned()];
        }
        let mut words = Vec::new();
        let mut start = None;
        for status in 500..=600 {
            match (start, self.contains(status)) {
                (None, true) => start = Some(status),
                (Some(low), false) => {
                    words.push(if low == status - 1 { low.to_string() } else { format!("{low}-{}", status - 1) });
                    start = None;
                }
                _ => {}
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn status_sets_hold_what_was_named() {
        let mut set = StatusSet::default();
        for text in ["502", "504-506", "505"] {
            assert!(set.add(text).is_ok(), "{text}");
        }
        assert_eq!(set.words(), ["502", "504-506"]);
        assert!(
            set.contains(505) && !set.contains(503) && !set.contains(499) && !set.contains(600) && !set.contains(0)
        );
        for bad in ["", "4xx", "499", "600", "504-502", "5", "0502", "+502", "500-", "-500", "500-600"] {
            assert!(set.add(bad).is_err(), "{bad}");
        }
        assert!((500..600).all(|status| StatusSet::all().contains(status)));
    }

    proptest! {
        #[test]
        fn status_sets_are_shown_as_they_can_be_typed(bits in any::<u128>()) {
            let set = StatusSet(bits & StatusSet::all().0);
            let mut again = StatusSet::default();
            for word in set.words() {
                prop_assert_eq!(again.add(&word), Ok(()));
            }
            prop_assert_eq!(set, again);
        }
    }
}
