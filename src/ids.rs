//! Small `Copy` ids: the values of labels.
//!
//! No label is made from what a client sent: each id is an index into a table that the configuration or a standard
//! filled, or a variant of an enum.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// A label whose values are the variants of an enum. [`label!`] declares one.
pub(crate) trait Label: Copy + 'static {
    /// Every value, in the order of their positions.
    const ALL: &'static [Self];

    /// The text of the value.
    fn as_str(self) -> &'static str;

    /// The position in [`ALL`](Self::ALL).
    fn position(self) -> usize;
}

/// Declares an enum that is a [`Label`]: each variant with the text of its value.
macro_rules! label {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $vis enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of their positions.
            $vis const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            /// The text of the value.
            $vis fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// The position in [`ALL`](Self::ALL).
            $vis fn position(self) -> usize {
                self as usize
            }
        }

        impl $crate::ids::Label for $name {
            const ALL: &'static [Self] = &Self::ALL;

            fn as_str(self) -> &'static str {
                self.as_str()
            }

            fn position(self) -> usize {
                self.position()
            }
        }
    };
}
pub(crate) use label;

label! {
    /// Why a request was refused: the label `reason` of `edgeshim_refused_total`.
    pub enum Reason {
        /// The request head is ambiguous, broken or too large.
        Malformed = "malformed",
        /// The request head did not arrive within `server.header_timeout`.
        HeaderTimeout = "header_timeout",
        /// No provider, or one that is not configured, and `identity.unknown = "reject"`.
        UnknownProvider = "unknown_provider",
        /// A claim that was not proved, and `identity.unverified = "reject"`.
        Unverified = "unverified",
        /// A Host that `server.hosts` does not contain.
        Host = "host",
        /// More than `server.max_hops` passes through this shim.
        Loop = "loop",
        /// CONNECT, which no origin behind a CDN needs.
        Method = "method",
        /// A body longer than `server.max_request_body`.
        BodyTooLarge = "body_too_large",
    }
}

/// A CDN by its position in the table of providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProviderId(pub u16);

impl ProviderId {
    /// No signal of any CDN.
    pub const NONE: Self = Self(0);
    /// A name or a signal of a provider that is not configured, or two that disagree.
    pub const OTHER: Self = Self(1);
    /// A claim of a provider whose proofs failed.
    pub const UNVERIFIED: Self = Self(2);
    /// The labels of the three above, in order; configured providers follow.
    pub const RESERVED: [&'static str; 3] = ["none", "other", "unverified"];

    /// The id of the `position`-th configured provider.
    pub fn configured(position: usize) -> Self {
        Self(u16::try_from(position + Self::RESERVED.len()).unwrap_or(Self::OTHER.0))
    }

    /// The position among the configured providers, if it is one of them.
    pub fn position(self) -> Option<usize> {
        self.index().checked_sub(Self::RESERVED.len())
    }

    /// The position in a table that starts with the reserved labels.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Declares ids of a list in the configuration.
macro_rules! configured_id {
    ($($(#[$meta:meta])* $vis:vis $name:ident)+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $vis struct $name($vis u16);

        impl $name {
            /// None of those configured.
            $vis const OTHER: Self = Self(0);

            /// The id of the `position`-th one that is configured.
            $vis fn configured(position: usize) -> Self {
                Self(u16::try_from(position + 1).unwrap_or(Self::OTHER.0))
            }

            /// The position in a table that starts with `other`.
            $vis fn index(self) -> usize {
                usize::from(self.0)
            }
        }
    )+};
}

configured_id! {
    /// A class of the site.
    pub ClassId
    /// A source of failure beacons.
    pub(crate) SourceId
    /// A page of RUM beacons.
    pub(crate) PageId
}

/// The kind of pull, as its CDN reports it: the log's `pull`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PullKind {
    /// Provider unknown.
    #[default]
    Unknown,
    /// From the edge, for a client.
    Edge,
    /// Through a shield.
    Shield,
    /// A health check.
    Probe,
    /// A retry.
    Retry,
}

impl PullKind {
    /// The value in the log.
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

/// A language of the pages by its position in their table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LocaleId(pub u8);

/// A country by its position in the list of ISO 3166-1. A code that is not in the list is [`OTHER`](Self::OTHER), so no
/// country file can make more labels than there are countries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Country(u8);

/// ISO 3166-1 alpha-2 in its order, with the usual code for Kosovo.
#[rustfmt::skip]
const CODES: [&str; 250] = [
    "AD", "AE", "AF", "AG", "AI", "AL", "AM", "AO", "AQ", "AR", "AS", "AT", "AU", "AW", "AX", "AZ", "BA", "BB", "BD",
    "BE", "BF", "BG", "BH", "BI", "BJ", "BL", "BM", "BN", "BO", "BQ", "BR", "BS", "BT", "BV", "BW", "BY", "BZ", "CA",
    "CC", "CD", "CF", "CG", "CH", "CI", "CK", "CL", "CM", "CN", "CO", "CR", "CU", "CV", "CW", "CX", "CY", "CZ", "DE",
    "DJ", "DK", "DM", "DO", "DZ", "EC", "EE", "EG", "EH", "ER", "ES", "ET", "FI", "FJ", "FK", "FM", "FO", "FR", "GA",
    "GB", "GD", "GE", "GF", "GG", "GH", "GI", "GL", "GM", "GN", "GP", "GQ", "GR", "GS", "GT", "GU", "GW", "GY", "HK",
    "HM", "HN", "HR", "HT", "HU", "ID", "IE", "IL", "IM", "IN", "IO", "IQ", "IR", "IS", "IT", "JE", "JM", "JO", "JP",
    "KE", "KG", "KH", "KI", "KM", "KN", "KP", "KR", "KW", "KY", "KZ", "LA", "LB", "LC", "LI", "LK", "LR", "LS", "LT",
    "LU", "LV", "LY", "MA", "MC", "MD", "ME", "MF", "MG", "MH", "MK", "ML", "MM", "MN", "MO", "MP", "MQ", "MR", "MS",
    "MT", "MU", "MV", "MW", "MX", "MY", "MZ", "NA", "NC", "NE", "NF", "NG", "NI", "NL", "NO", "NP", "NR", "NU", "NZ",
    "OM", "PA", "PE", "PF", "PG", "PH", "PK", "PL", "PM", "PN", "PR", "PS", "PT", "PW", "PY", "QA", "RE", "RO", "RS",
    "RU", "RW", "SA", "SB", "SC", "SD", "SE", "SG", "SH", "SI", "SJ", "SK", "SL", "SM", "SN", "SO", "SR", "SS", "ST",
    "SV", "SX", "SY", "SZ", "TC", "TD", "TF", "TG", "TH", "TJ", "TK", "TL", "TM", "TN", "TO", "TR", "TT", "TV", "TW",
    "TZ", "UA", "UG", "UM", "US", "UY", "UZ", "VA", "VC", "VE", "VG", "VI", "VN", "VU", "WF", "WS", "XK", "YE", "YT",
    "ZA", "ZM", "ZW",
];

impl Country {
    /// Unknown, or not in the list.
    pub const OTHER: Self = Self(250);
    /// The number of values, `OTHER` included.
    pub const COUNT: usize = CODES.len() + 1;

    /// Every value, in the order of their positions.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..=Self::OTHER.0).map(Self)
    }

    /// The country of an upper-case code.
    pub fn from_code(code: &str) -> Self {
        CODES.binary_search(&code).ok().and_then(|position| u8::try_from(position).ok()).map_or(Self::OTHER, Self)
    }

    /// The label: two letters, or `other`.
    pub fn as_str(self) -> &'static str {
        CODES.get(self.index()).copied().unwrap_or("other")
    }

    /// The position in a table of [`COUNT`](Self::COUNT) values.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The only copy of a label, which lives as long as the process.
///
/// Labels come only from configurations, so the memory is bounded by the configurations that were loaded. A log record
/// can name its provider without a reference count.
pub(crate) fn intern(label: &str) -> &'static str {
    static LABELS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut labels = LABELS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = labels.get(label) {
        return known;
    }
    let label: &'static str = Box::leak(label.to_owned().into_boxed_str());
    labels.insert(label);
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_when_declared_then_positions_follow_the_list() {
        for (position, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.position(), position);
        }
        assert_eq!(Reason::HeaderTimeout.as_str(), "header_timeout");
    }

    #[test]
    fn ids_when_configured_then_follow_the_reserved_ones() {
        assert_eq!(ProviderId::configured(0).index(), 3);
        assert_eq!(ProviderId::configured(4).position(), Some(4));
        assert_eq!(ProviderId::NONE.position(), None);
        assert_eq!(ClassId::configured(0).index(), 1);
    }

    #[test]
    fn country_when_code_is_not_in_the_list_then_other() {
        assert!(CODES.is_sorted(), "the binary search needs it");
        for code in CODES {
            assert_eq!(Country::from_code(code).as_str(), code);
        }
        for code in ["", "de", "DEU", "EU", "ZZ", "other", "A\u{30a}"] {
            assert_eq!(Country::from_code(code), Country::OTHER, "{code}");
        }
        assert_eq!((Country::OTHER.as_str(), Country::OTHER.index()), ("other", Country::COUNT - 1));
    }

    #[test]
    fn label_when_interned_twice_then_one_copy() {
        assert!(std::ptr::eq(intern("fastly"), intern(&String::from("fastly"))));
    }
}
