//! Sets of 5xx statuses.

use crate::keys::{Checked, Text};

/// A set of statuses from 500 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusSet(u128);

/// The first and the last status of a range.
type Range = (u16, u16);

const ALL: Range = (500, 599);

impl StatusSet {
    /// The text form of one range, for example `5xx`, `502` or `500-504`.
    pub(super) const RANGE: Text<Range> =
        Text { example: "5xx", read: |text, _| range(text), write: |range| range_text(*range) };

    /// Returns the set of all 5xx statuses.
    pub(crate) const fn all() -> Self {
        Self((1 << 100) - 1)
    }

    pub(crate) const fn contains(self, status: u16) -> bool {
        status >= 500 && status <= 599 && self.0 >> (status - 500) & 1 == 1
    }

    /// Returns the smallest list of ranges that covers the set.
    pub(super) fn ranges(self) -> Vec<Range> {
        let mut ranges: Vec<Range> = Vec::new();
        for status in (500..=599).filter(|&status| self.contains(status)) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == status => *last = status,
                _ => ranges.push((status, status)),
            }
        }
        ranges
    }
}

impl FromIterator<Range> for StatusSet {
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        let statuses = ranges.into_iter().flat_map(|(low, high)| low..=high);
        Self(statuses.fold(0, |bits, status| bits | 1 << (status - 500)))
    }
}

fn range(text: &str) -> Checked<Range> {
    let status = |text: &str| text.parse::<u16>().ok().filter(|status| text.len() == 3 && (500..=599).contains(status));
    let range = match text.split_once('-') {
        _ if text.eq_ignore_ascii_case("5xx") => Some(ALL),
        Some((low, high)) => status(low).zip(status(high)).filter(|(low, high)| low <= high),
        None => status(text).map(|status| (status, status)),
    };
    range.ok_or_else(|| {
        "is not a status from 500 to 599; write \"5xx\", a status like \"502\" or a range like \"500-504\"".to_owned()
    })
}

fn range_text((low, high): Range) -> String {
    match (low, high) {
        ALL => "5xx".to_owned(),
        _ if low == high => low.to_string(),
        _ => format!("{low}-{high}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(texts: &[&str]) -> StatusSet {
        texts.iter().map(|text| range(text).unwrap()).collect()
    }

    #[test]
    fn status_set_when_read_then_contains_exactly_the_configured_statuses() {
        let set = read(&["502", "504-506", "505"]);
        assert_eq!(set.ranges(), [(502, 502), (504, 506)]);
        assert!(
            set.contains(505) && !set.contains(503) && !set.contains(499) && !set.contains(600) && !set.contains(0)
        );
        assert_eq!(read(&["5xx"]), StatusSet::all());
        assert_eq!(StatusSet::all().ranges(), [ALL]);
    }

    #[test]
    fn range_when_malformed_or_outside_of_5xx_then_is_rejected() {
        for bad in ["", "4xx", "499", "600", "504-502", "5", "0502", "+502", "500-", "-500", "500-600"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn status_set_when_written_as_ranges_then_reads_back_equal(bits in any::<u128>()) {
            let set = StatusSet(bits & StatusSet::all().0);
            let texts: Vec<String> = set.ranges().into_iter().map(range_text).collect();
            let again: StatusSet = texts.iter().map(|text| range(text).unwrap()).collect();
            prop_assert_eq!(set, again);
        }
    }
}
