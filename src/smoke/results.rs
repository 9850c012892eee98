//! The checks, their results, and the report about one target.

use std::time::Duration;

/// A check. The order is the order in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// The edge responds with HTTP, and with a success.
    Reach,
    /// The edge has a valid certificate for the host.
    Tls,
    /// The edge names its point of presence.
    Pop,
    /// A repeated request gets a response from the cache.
    MissThenHit,
    /// The edge repeats the lifetimes of the origin, and keeps to them.
    Ttl,
    /// The edge repeats the validators of the origin.
    Validators,
    /// The edge sends gzip to a client that accepts gzip, and the body is right.
    Gzip,
    /// The edge sends no coding to a client that accepts none, and the body is right.
    Identity,
    /// The edge sends the requested range of the body, or the whole body.
    Range,
    /// The response to HEAD agrees with the response to GET.
    Head,
    /// A request with the validator gets a 304.
    Revalidate,
    /// The cache has one copy for all browsers. Vary has only fields with few values, and has Accept-Encoding if the
    /// body has a coding.
    Vary,
    /// No client gets the cookie of another client.
    Cookies,
    /// After a 503, the edge responds with success soon after the origin does.
    ErrorNotCached,
    /// No request reaches edgeshim twice, and edgeshim would notice a loop.
    Loop,
    /// edgeshim recognises the CDN.
    Provider,
    /// edgeshim gets the client's address, and no client can forge the address.
    ForwardedAddress,
    /// The edge responds as fast as the baseline.
    Ttfb,
}

impl Check {
    pub(crate) const ALL: [Self; 18] = [
        Self::Reach,
        Self::Tls,
        Self::Pop,
        Self::MissThenHit,
        Self::Ttl,
        Self::Validators,
        Self::Gzip,
        Self::Identity,
        Self::Range,
        Self::Head,
        Self::Revalidate,
        Self::Vary,
        Self::Cookies,
        Self::ErrorNotCached,
        Self::Loop,
        Self::Provider,
        Self::ForwardedAddress,
        Self::Ttfb,
    ];

    /// Returns the name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Reach => "reach",
            Self::Tls => "tls",
            Self::Pop => "pop",
            Self::MissThenHit => "miss-then-hit",
            Self::Ttl => "ttl",
            Self::Validators => "validators",
            Self::Gzip => "gzip",
            Self::Identity => "identity",
            Self::Range => "range",
            Self::Head => "head",
            Self::Revalidate => "revalidate",
            Self::Vary => "vary",
            Self::Cookies => "cookies",
            Self::ErrorNotCached => "error-not-cached",
            Self::Loop => "loop",
            Self::Provider => "provider",
            Self::ForwardedAddress => "forwarded-address",
            Self::Ttfb => "ttfb",
        }
    }
}

/// The result of a check. All texts are safe to print: they contain no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The check passed. The text says what was seen.
    Pass(String),
    /// The check could not be made. The text is the reason.
    Skip(String),
    /// The check failed.
    Fail(Box<Flaw>),
}

/// Why a check failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    pub seen: String,
    pub expected: String,
    /// What to change, and where.
    pub remedy: String,
}

impl Verdict {
    pub(crate) fn pass(text: impl Into<String>) -> Self {
        Self::Pass(text.into())
    }

    pub(crate) fn skip(reason: impl Into<String>) -> Self {
        Self::Skip(reason.into())
    }

    pub(crate) fn fail(seen: impl Into<String>, expected: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Fail(Box::new(Flaw { seen: seen.into(), expected: expected.into(), remedy: remedy.into() }))
    }

    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Pass(_) => "pass",
            Self::Skip(_) => "skip",
            Self::Fail(_) => "fail",
        }
    }
}

/// The results of all checks of one URL at one edge.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub url: String,
    /// The name of the provider. `None`: no provider was named.
    pub provider: Option<String>,
    /// The host and port to which smoke connected.
    pub edge: String,
    pub verdicts: Vec<(Check, Verdict)>,
    /// The point of presence that the edge named, or that arrived at edgeshim.
    pub pop: Option<String>,
    /// The median time until the first byte of a response. `None`: it was not measured.
    pub ttfb: Option<Duration>,
}

impl Report {
    pub(crate) fn count(&self, word: &str) -> usize {
        self.verdicts.iter().filter(|(_, verdict)| verdict.word() == word).count()
    }

    /// Returns the names of the checks that failed.
    pub(crate) fn failed(&self) -> impl Iterator<Item = &'static str> {
        self.verdicts.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Fail(_))).map(|(check, _)| check.name())
    }
}
