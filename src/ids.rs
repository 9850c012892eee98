//! Small ids that can be copied (`Copy`). Most of these ids are values of labels of the metrics.
//!
//! Nothing that a client sends becomes a label. An id is an index into a table that the configuration or a standard
//! fills, or a variant of an enum.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// A label whose values are the variants of an enum. The macro [`label!`] declares such an enum.
pub(crate) trait Label: Copy + 'static {
    /// All values, in the order of their positions.
    const ALL: &'static [Self];

    /// Returns the text of the value.
    fn as_str(self) -> &'static str;

    /// Returns the position of the value in [`ALL`](Self::ALL).
    fn position(self) -> usize;
}

/// Declares an enum that is a [`Label`]. Each variant is written with the text of its value.
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
            /// All values, in the order of their positions.
            $vis const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            /// Returns the text of the value.
            $vis fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// Returns the position of the value in [`ALL`](Self::ALL).
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
    /// The reason for a refusal. `edgeshim_refused_total` uses the reason as the label `reason`.
    pub enum Reason {
        /// The request head is ambiguous, broken or too large. Or the PROXY header is malformed, or the client does not
        /// send the protocol that ALPN selected.
        Malformed = "malformed",
        /// A PROXY header or a request head did not arrive within `server.header_timeout`.
        HeaderTimeout = "header_timeout",
        /// The client flooded an HTTP/2 connection with frames that carry no part of a request.
        Flood = "flood",
        /// The provider of the request is `none` or `other`, and `identity.unknown` is `"reject"`.
        UnknownProvider = "unknown_provider",
        /// The request claims a provider without a valid proof, and `identity.unverified` is `"reject"`.
        Unverified = "unverified",
        /// `server.hosts` does not contain the request's Host.
        Host = "host",
        /// CDN-Loop shows that the request has already passed through edgeshim at least `server.max_hops` times.
        Loop = "loop",
        /// The method is CONNECT, which no origin behind a CDN needs.
        Method = "method",
        /// The request body is longer than `server.max_request_body`.
        BodyTooLarge = "body_too_large",
    }
}

label! {
    /// How a TLS handshake ended: the label `result` of `edgeshim_tls_handshakes_total`.
    pub(crate) enum Handshake {
        Ok = "ok",
        /// The handshake did not end within `server.header_timeout`.
        Timeout = "timeout",
        /// The client sent bytes that are not TLS, or broke the rules of TLS.
        NotTls = "not_tls",
        /// The client and edgeshim have no protocol version, cipher suite, signature or ALPN protocol in common.
        NoCommon = "no_common",
        /// The client certificate is not valid (for example expired), or no CA of `server.tls.client_ca` issued it.
        ClientCertificate = "client_certificate",
        /// The connection ended before the handshake. For example, the client does not accept the certificate.
        Gone = "gone",
    }
}

label! {
    /// Why a provider pulled: the label `reason` of `edgeshim_pull_reasons_total`. The first reason that applies
    /// counts. A provider "holds" an object until the end of the lifetime that the most recent response granted.
    pub(crate) enum PullReason {
        /// The response forbids storing, edgeshim refused the pull, the pull ended before the response, or the method
        /// is neither GET nor HEAD.
        Uncacheable = "uncacheable",
        /// The request has Range.
        Slice = "slice",
        /// The request is conditional.
        Revalidation = "revalidation",
        /// The provider holds the object.
        Early = "early",
        /// The provider held the object before.
        Expired = "expired",
        /// The provider holds the same path with another query.
        Variant = "variant",
        /// Another provider holds the object.
        Elsewhere = "elsewhere",
        /// No provider holds the object.
        First = "first",
    }
}

label! {
    /// The content coding of a response.
    pub(crate) enum ContentCoding {
        Identity = "identity",
        Gzip = "gzip",
        Br = "br",
        Zstd = "zstd",
        Deflate = "deflate",
        Other = "other",
    }
}

label! {
    /// How a CDN responded to a request at its edge: the label `result` of `edgeshim_edge_requests_total`.
    pub(crate) enum EdgeResult {
        /// The response came from the CDN's cache.
        Hit = "hit",
        /// The response came from the origin, because the cache had no usable copy.
        Miss = "miss",
        /// The response came from the origin, because the CDN did not use its cache for this request.
        Pass = "pass",
        /// The response was an error of the CDN.
        Error = "error",
        /// The CDN responded in another way, or the log does not contain the result.
        Other = "other",
    }
}

label! {
    /// The result of reading a line of a pushed log: the label `result` of `edgeshim_edge_log_lines_total`.
    pub(crate) enum LogLine {
        /// The line was read and counted.
        Parsed = "parsed",
        /// The line is damaged, is too long, or has no valid time.
        Unparsed = "unparsed",
        /// The time of the line is at least five minutes before the batch began to arrive, or more than a minute in the
        /// future.
        Outside = "outside",
    }
}

/// A provider, as its position in the table of provider labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProviderId(pub u16);

impl ProviderId {
    /// The request has no identity header, and edgeshim found no signal of a CDN or ignores signals
    /// (`identity.recognise = false`).
    pub const NONE: Self = Self(0);
    /// The request names a provider that is not configured, its signals belong to a CDN that is not configured, or its
    /// identity header and signals do not identify one provider.
    pub const OTHER: Self = Self(1);
    /// The request claims a provider, but does not have the proofs that this provider requires.
    pub const UNVERIFIED: Self = Self(2);
    /// The labels of the three ids above, in the same order. In the table, the configured providers come after these
    /// labels.
    pub const RESERVED: [&'static str; 3] = ["none", "other", "unverified"];

    /// Returns the id of the configured provider at `position`.
    pub fn configured(position: usize) -> Self {
        Self(u16::try_from(position + Self::RESERVED.len()).unwrap_or(Self::OTHER.0))
    }

    /// Returns the position among the configured providers, or `None` for the three reserved ids.
    pub fn position(self) -> Option<usize> {
        self.index().checked_sub(Self::RESERVED.len())
    }

    /// Returns the position in a table that starts with the reserved labels.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Declares id types. Each type is for the entries of one list that is made from the configuration.
macro_rules! configured_id {
    ($($(#[$meta:meta])* $vis:vis $name:ident)+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $vis struct $name($vis u16);

        impl $name {
            /// The id of everything that is not in the configured list.
            $vis const OTHER: Self = Self(0);

            /// Returns the id of the configured entry at `position`.
            $vis fn configured(position: usize) -> Self {
                Self(u16::try_from(position + 1).unwrap_or(Self::OTHER.0))
            }

            /// Returns the position in a table that starts with `other`.
            $vis fn index(self) -> usize {
                usize::from(self.0)
            }
        }
    )+};
}

configured_id! {
    /// A class of the site (`[[class]]`).
    pub ClassId
    /// The source in the query of a beacon: a provider, or an entry of `beacon.sources`.
    pub(crate) SourceId
    /// A page whose load times browsers report (`rum.pages`).
    pub(crate) PageId
}

/// The kind of a pull. The access log writes the kind in the field `pull`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PullKind {
    /// The provider is unknown, so the kind is unknown too.
    #[default]
    Unknown,
    /// A pull from an edge server of the CDN, for a client's request.
    Edge,
    /// A pull through the CDN's shield.
    Shield,
    /// A health check by the CDN.
    Probe,
    /// A pull that the CDN sends again.
    Retry,
}

impl PullKind {
    /// Returns the text that the access log writes. The text is empty if the kind is unknown.
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

/// A language of the whoopsie pages, as its position in the table of languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LocaleId(pub u8);

/// A country, as its position in the list `CODES`. Each code outside the list becomes [`OTHER`](Self::OTHER). So the
/// number of country labels is limited, whatever a country file contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Country(u8);

/// The two-letter codes of ISO 3166-1 (alpha-2), and XK, the usual code for Kosovo. The order is alphabetical.
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
    /// The country is unknown, or its code is not in the list.
    pub const OTHER: Self = Self(250);
    /// The number of values, including `OTHER`.
    pub const COUNT: usize = CODES.len() + 1;

    /// Returns all values, in the order of their positions.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..=Self::OTHER.0).map(Self)
    }

    /// Returns the country with the code `code`, or [`OTHER`](Self::OTHER). The code must be in upper case.
    pub fn from_code(code: &str) -> Self {
        CODES.binary_search(&code).ok().and_then(|position| u8::try_from(position).ok()).map_or(Self::OTHER, Self)
    }

    /// Returns the label: the two-letter code, or `other`.
    pub fn as_str(self) -> &'static str {
        CODES.get(self.index()).copied().unwrap_or("other")
    }

    /// Returns the position in a table that has [`COUNT`](Self::COUNT) values.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Returns the only copy of `label`, which lives as long as the process.
///
/// So a log record needs no reference count for the label of its provider. The copies are never freed. Their number is
/// limited, because labels come only from configurations and from statuses. There are at most 500 statuses.
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
    fn label_when_declared_then_positions_follow_the_order_of_the_declaration() {
        for (position, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.position(), position);
        }
        assert_eq!(Reason::HeaderTimeout.as_str(), "header_timeout");
    }

    #[test]
    fn id_when_configured_then_index_comes_after_the_reserved_ids() {
        assert_eq!(ProviderId::configured(0).index(), 3);
        assert_eq!(ProviderId::configured(4).position(), Some(4));
        assert_eq!(ProviderId::NONE.position(), None);
        assert_eq!(ClassId::configured(0).index(), 1);
    }

    #[test]
    fn country_when_code_is_not_in_the_list_then_is_other() {
        assert!(CODES.is_sorted(), "the list of codes must be sorted for the binary search");
        for code in CODES {
            assert_eq!(Country::from_code(code).as_str(), code);
        }
        for code in ["", "de", "DEU", "EU", "ZZ", "other", "A\u{30a}"] {
            assert_eq!(Country::from_code(code), Country::OTHER, "{code}");
        }
        assert_eq!((Country::OTHER.as_str(), Country::OTHER.index()), ("other", Country::COUNT - 1));
    }

    #[test]
    fn label_when_interned_twice_then_is_stored_once() {
        assert!(std::ptr::eq(intern("fastly"), intern(&String::from("fastly"))));
    }
}
