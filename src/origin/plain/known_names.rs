//! The names of recent response fields. Origins write the same names in each response, and a comparison with a known
//! name costs less than half of `HeaderName::from_bytes`. A known name that is not standard also needs no allocation.

use std::cell::RefCell;

use http::HeaderName;

/// The longest name that is stored, in bytes.
const LONGEST: usize = 31;
const SLOTS: usize = 64;

thread_local! {
    static KNOWN: RefCell<[Option<Known>; SLOTS]> = const { RefCell::new([const { None }; SLOTS]) };
}

/// A name, with the spelling in which the origin has written it.
struct Known {
    spelling: [u8; LONGEST],
    length: u8,
    name: HeaderName,
}

impl Known {
    fn new(spelled: &[u8], name: &HeaderName) -> Option<Self> {
        let mut spelling = [0; LONGEST];
        spelling.get_mut(..spelled.len())?.copy_from_slice(spelled);
        Some(Self { spelling, length: u8::try_from(spelled.len()).ok()?, name: name.clone() })
    }

    fn spelling(&self) -> &[u8] {
        self.spelling.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// Returns the name with this spelling, or `None` if the name is invalid.
pub(super) fn name(spelled: &[u8]) -> Option<HeaderName> {
    KNOWN.with_borrow_mut(|known| {
        let slot = known.get_mut(place(spelled))?;
        match slot {
            Some(known) if known.spelling() == spelled => Some(known.name.clone()),
            _ => {
                let name = HeaderName::from_bytes(spelled).ok()?;
                if let Some(new) = Known::new(spelled, &name) {
                    *slot = Some(new);
                }
                Some(name)
            }
        }
    })
}

/// Returns the slot of a name. Names that share a slot replace each other, so the factors give the usual names of
/// responses different slots.
fn place(spelled: &[u8]) -> usize {
    match spelled {
        [first, .., last] => {
            (3 * usize::from(*first) + 61 * usize::from(*last)).wrapping_sub(17 * spelled.len()) % SLOTS
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_when_spelled_in_any_way_and_repeated_then_equals_the_parsed_name() {
        let long = "x-".repeat(40);
        let names = ["ETag", "etag", "X-A", "X-B", "x-a", "a", "b", "", "a b", "Content-Length", &long];
        for name in names.iter().chain(names.iter().rev()) {
            let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
            assert_eq!(super::name(name.as_bytes()), parsed, "{name}");
            assert_eq!(super::name(name.as_bytes()), parsed, "{name}, again");
        }
    }

    #[test]
    fn names_when_they_share_a_slot_then_each_is_returned_correctly() {
        let names: Vec<_> = (0..4 * SLOTS).map(|number| format!("X-{number:03}-Field")).collect();
        for name in names.iter().chain(&names) {
            assert_eq!(super::name(name.as_bytes()).unwrap().as_str(), name.to_ascii_lowercase());
        }
    }
}
