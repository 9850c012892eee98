//! Small `Copy` ids for what a request is counted under: provider, class, kind of pull, locale, country.
//!
//! Nothing that a client wrote becomes a label, so all of them index tables that the configuration or a standard filled.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// A CDN by its place in the table of providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProviderId(pub u16);

impl ProviderId {
    /// No sign of any CDN.
    pub const NONE: Self = Self(0);
    /// A name or a sign that the configuration does not hold, or two that disagree.
    pub const OTHER: Self = Self(1);
    /// Claims a provider and failed its proofs.
    pub const UNVERIFIED: Self = Self(2);
    /// The labels of the three above, in order; configured providers follow.
    pub const RESERVED: [&'static str; 3] = ["none", "other", "unverified"];

    /// The id of the `position`-th configured provider.
    pub fn configured(position: usize) -> Self {
        Self(u16::try_from(position + Self::RESERVED.len()).unwrap_or(Self::OTHER.0))
    }

    /// The place among the configured providers, for one of them.
    pub fn position(self) -> Option<usize> {
        self.index().checked_sub(Self::RESERVED.len())
    }

    /// The place in a table that starts with the reserved labels.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A class of the site by its place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClassId(pub u16);

impl ClassId {
    /// No class matched, or none was decided.
    pub const OTHER: Self = Self(0);

    /// The id of the `position`-th configured class.
    pub fn configured(position: usize) -> Self {
        Self(u16::try_from(position + 1).unwrap_or(0))
    }

    /// The place in a table that starts with `other`.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What sort of pull it is, as its CDN says: the log's `pull`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PullKind {
    /// Nobody's that is known.
    #[default]
    Unknown,
    /// From the edge, for a visitor.
    Edge,
    /// Through a shield.
    Shield,
    /// A health check.
    Probe,
    /// Tried again.
    Retry,
}

impl PullKind {
    /// The log's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Edge => "edge",
            Self::Shield => "shield",
            Self::Probe => "probe",
            Self::Retry => "retry",
        }
    }
}

/// A language of the pages by its place in their table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LocaleId(pub u8);

/// A country by its place in the list of ISO 3166-1: one that is not on it is [`OTHER`](Self::OTHER), so that no file can make more
/// labels than there are countries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Country(u8);

/// ISO 3166-1 alpha-2 in its order, with the code that everybody uses for Kosovo.
#[rustfmt::skip]
const CODES: [&str; 250] = [
    "AD", "AE", "AF", "AG", "AI", "AL", "AM", "AO", "AQ", "AR", "AS", "AT", "AU", "AW", "AX", "AZ", "BA", "BB", "BD", "BE", "BF", "BG",
    "BH", "BI", "BJ", "BL", "BM", "BN", "BO", "BQ", "BR", "BS", "BT", "BV", "BW", "BY", "BZ", "CA", "CC", "CD", "CF", "CG", "CH", "CI",
    "CK", "CL", "CM", "CN", "CO", "CR", "CU", "CV", "CW", "CX", "CY", "CZ", "DE", "DJ", "DK", "DM", "DO", "DZ", "EC", "EE", "EG", "EH",
    "ER", "ES", "ET", "FI", "FJ", "FK", "FM", "FO", "FR", "GA", "GB", "GD", "GE", "GF", "GG", "GH", "GI", "GL", "GM", "GN", "GP", "GQ",
    "GR", "GS", "GT", "GU", "GW", "GY", "HK", "HM", "HN", "HR", "HT", "HU", "ID", "IE", "IL", "IM", "IN", "IO", "IQ", "IR", "IS", "IT",
    "JE", "JM", "JO", "JP", "KE", "KG", "KH", "KI", "KM", "KN", "KP", "KR", "KW", "KY", "KZ", "LA", "LB", "LC", "LI", "LK", "LR", "LS",
    "LT", "LU", "LV", "LY", "MA", "MC", "MD", "ME", "MF", "MG", "MH", "MK", "ML", "MM", "MN", "MO", "MP", "MQ", "MR", "MS", "MT", "MU",
    "MV", "MW", "MX", "MY", "MZ", "NA", "NC", "NE", "NF", "NG", "NI", "NL", "NO", "NP", "NR", "NU", "NZ", "OM", "PA", "PE", "PF", "PG",
    "PH", "PK", "PL", "PM", "PN", "PR", "PS", "PT", "PW", "PY", "QA", "RE", "RO", "RS", "RU", "RW", "SA", "SB", "SC", "SD", "SE", "SG",
    "SH", "SI", "SJ", "SK", "SL", "SM", "SN", "SO", "SR", "SS", "ST", "SV", "SX", "SY", "SZ", "TC", "TD", "TF", "TG", "TH", "TJ", "TK",
    "TL", "TM", "TN", "TO", "TR", "TT", "TV", "TW", "TZ", "UA", "UG", "UM", "US", "UY", "UZ", "VA", "VC", "VE", "VG", "VI", "VN", "VU",
    "WF", "WS", "XK", "YE", "YT", "ZA", "ZM", "ZW",
];

impl Country {
    /// Not known, or not on the list.
    pub const OTHER: Self = Self(250);
    /// How many values there are, `OTHER` too.
    pub const COUNT: usize = CODES.len() + 1;

    /// The country of a code in capitals.
    pub fn from_code(code: &str) -> Self {
        CODES.binary_search(&code).ok().and_then(|place| u8::try_from(place).ok()).map_or(Self::OTHER, Self)
    }

    /// The label: two letters, or `other`.
    pub fn as_str(self) -> &'static str {
        CODES.get(self.index()).copied().unwrap_or("other")
    }

    /// The place in a table of [`COUNT`](Self::COUNT) values.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The one copy of a label that lives as long as the process.
///
/// Labels come from the configuration alone, so what is kept is bounded by the configurations that were ever loaded; a log line can
/// then name its provider without touching a reference count.
pub(crate) fn intern(label: &str) -> &'static str {
    static LABELS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut labels = LABELS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = labels.get(label) {
        return known;
    }
    let kept: &'static str = Box::leak(label.to_owned().into_boxed_str());
    labels.insert(kept);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_ids_follow_the_reserved_ones() {
        assert_eq!(ProviderId::configured(0).index(), 3);
        assert_eq!(ProviderId::configured(4).position(), Some(4));
        assert_eq!(ProviderId::NONE.position(), None);
        assert_eq!(ClassId::configured(0).index(), 1);
    }

    #[test]
    fn countries_are_those_of_the_list() {
        assert!(CODES.is_sorted(), "the search relies on it");
        for code in CODES {
            assert_eq!(Country::from_code(code).as_str(), code);
        }
        for code in ["", "de", "DEU", "EU", "ZZ", "other", "A\u{30a}"] {
            assert_eq!(Country::from_code(code), Country::OTHER, "{code}");
        }
        assert_eq!((Country::OTHER.as_str(), Country::OTHER.index()), ("other", Country::COUNT - 1));
    }

    #[test]
    fn a_label_is_kept_once() {
        assert!(std::ptr::eq(intern("fastly"), intern(&String::from("fastly"))));
    }
}
