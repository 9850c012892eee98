//! What was decided on a request and its answer, in words.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, response};

use crate::cdn::known::Known;
use crate::cdn::preset::{NAMES, Preset};
use crate::cdn::proof::{Failure, Proof};
use crate::edge::admission::limiter::Limits;
use crate::edge::gzip::Verdict;
use crate::edge::identify::Why;
use crate::edge::local::Endpoint;
use crate::edge::request::Ctx;
use crate::edge::request::class::{CacheMode, CachePolicy, ClassRule};
use crate::ids::{ClassId, PullKind, Reason};
use crate::wire::names::{CONTENT_LANGUAGE, CONTENT_TYPE};

/// Why a pull is taken for whose it is.
pub(super) fn identity(
    why: Why,
    header: &HeaderName,
    claimed: Option<&HeaderValue>,
    came: &HeaderMap,
    recognise: bool,
) -> String {
    let claimed = String::from_utf8_lossy(claimed.map_or(b"", HeaderValue::as_bytes));
    let name = |place: usize| NAMES.get(place).copied().unwrap_or_default();
    let sign = |place: usize| {
        let signals = Preset::named(name(place)).map_or(&[][..], |preset| &preset.signals);
        let first = signals.iter().find(|signal| signal.holds(came));
        first.map_or_else(String::new, ToString::to_string)
    };
    match why {
        Why::Named => format!("{header} names it"),
        Why::UnknownName => format!("no [[provider]] is named {claimed:?}"),
        Why::NamesDiffer => format!("the lines of {header} differ"),
        Why::SignalsDiffer(place) => {
            format!("{header} says {claimed:?}, of whom there is no sign; {} is {}'s", sign(place), name(place))
        }
        Why::Recognised(place) => format!("no {header}; {} is {}'s", sign(place), name(place)),
        Why::NotConfigured(place) => {
            format!("no {header}; {} is {}'s, and no [[provider]] is that", sign(place), name(place))
        }
        Why::Shared(place) => {
            format!("no {header}; {} is {}'s, and several [[provider]] are that", sign(place), name(place))
        }
        Why::Unclear => {
            format!("no {header}; there are signs of several, and none of CDN-Loop and Via tells the nearest")
        }
        Why::NoSignal if recognise => format!("no {header}, and no sign of anybody"),
        Why::NoSignal => format!("no {header}, and identity.recognise is off"),
    }
}

/// What a proof means, or why it failed.
pub(super) fn proof(proof: Proof, claims: Option<&Known>) -> String {
    let proofs = claims.and_then(|known| known.proofs.as_ref());
    let field = || proofs.and_then(|proofs| proofs.secret.as_ref()).map_or("", |secret| secret.field.as_str());
    let failure = match proof {
        Proof::None => return "no provider of the configuration, so nothing to prove".to_owned(),
        Proof::Believed => return "no [provider.verify], so the name is enough".to_owned(),
        Proof::Secret => return format!("{} holds a right secret", field()),
        Proof::Addresses => return "it comes from provider.verify.addresses".to_owned(),
        Proof::ClientCert => return "it shows a certificate of provider.verify.client_cert".to_owned(),
        Proof::G2o => return "it is signed with a key of provider.verify.g2o".to_owned(),
        Proof::All => return "each proof of [provider.verify] holds".to_owned(),
        Proof::Failed(failure) => failure,
    };
    match failure {
        Failure::NoSecret => format!("{} is missing", field()),
        Failure::WrongSecret => format!("{} holds no right secret, or is there twice", field()),
        Failure::WrongAddress => "it comes from none of provider.verify.addresses".to_owned(),
        Failure::NoCertificate => "no client certificate; explain can show none".to_owned(),
        Failure::WrongCertificate => "the client certificate is somebody else's".to_owned(),
        Failure::NoG2o => "a field of the signature is missing, there twice or cannot be read".to_owned(),
        Failure::G2oKey => "a version or a nonce that provider.verify.g2o does not hold".to_owned(),
        Failure::G2oSignature => "the signature is not one of this path".to_owned(),
        Failure::G2oTime => "signed longer ago, or later, than clocks may differ".to_owned(),
        Failure::G2oReplay => "the same signature was there before".to_owned(),
        Failure::G2oFull => "more signatures than are remembered".to_owned(),
    }
}

/// Whose the address is that counts as the client's.
pub(super) fn client(ctx: &Ctx, claims: Option<&Known>, peer: IpAddr) -> String {
    let field = claims.and_then(|known| known.preset.client_field());
    let signs = claims.and_then(|known| known.proofs.as_ref()).is_some_and(|proofs| proofs.g2o.is_some());
    if ctx.trail.proven {
        return match (ctx.proof, field) {
            (Proof::G2o, _) => "the visitor: it is signed".to_owned(),
            (Proof::All, _) if signs => "the visitor: it is signed".to_owned(),
            (_, Some(field)) => format!("the visitor: {field}, after proof"),
            (_, None) => "the visitor, after proof".to_owned(),
        };
    }
    let who = if ctx.trail.client == peer { "who connects" } else { "who talked to server.trusted_proxies" };
    match (ctx.proof, field) {
        (Proof::None | Proof::Failed(_), _) | (_, None) => who.to_owned(),
        (Proof::Believed, Some(field)) => format!("{who}; {field} counts after proof only"),
        (_, Some(field)) => format!("{who}; {field} names no visitor"),
    }
}

/// What sort of pull it is.
pub(super) fn pull(kind: PullKind) -> &'static str {
    match kind {
        PullKind::Unknown => "unknown",
        known => known.as_str(),
    }
}

/// By what a pull is told from one of the edge's.
pub(super) fn pull_sign(kind: PullKind, claims: Option<&Known>, came: &HeaderMap) -> Option<String> {
    let preset = claims?.preset;
    let signs = match kind {
        // A second attempt is told by what came before it.
        PullKind::Unknown | PullKind::Edge | PullKind::Retry => return None,
        PullKind::Shield => &preset.shields,
        PullKind::Probe => &preset.probes,
    };
    signs.iter().find(|sign| sign.holds(came)).map(ToString::to_string)
}

/// Why it is this class.
pub(super) fn class(class: ClassId, rule: &ClassRule) -> &'static str {
    match (class, rule.path.is_empty(), rule.content_type.is_empty()) {
        (ClassId::OTHER, ..) => "no [[class]] matches",
        (_, false, true) => "the first whose path matches",
        (_, true, _) => "the first whose content_type matches",
        (_, false, false) => "the first whose path and content_type match",
    }
}

/// What a class does with lifetimes.
pub(super) fn rule(cache: &CachePolicy) -> String {
    let mut text = match cache.mode {
        CacheMode::Keep => "keep: the origin's words, tidied".to_owned(),
        CacheMode::Default => "default: a lifetime where the origin gave none".to_owned(),
        CacheMode::Override => "override: a lifetime whatever the origin said".to_owned(),
        CacheMode::Never => "never: no-store".to_owned(),
    };
    for (name, seconds) in [
        ("ttl", cache.ttl),
        ("edge_ttl", cache.edge_ttl),
        ("stale_while_revalidate", cache.stale_while_revalidate),
        ("stale_if_error", cache.stale_if_error),
    ] {
        if let Some(seconds) = seconds {
            let _ = write!(text, ", {name} {seconds} s");
        }
    }
    text
}

/// Whether a request has to wait for its place.
pub(super) fn admission(limits: Limits, holds: bool) -> String {
    if !holds {
        return "exempt: it neither counts nor waits (class.admission)".to_owned();
    }
    let Limits { max_in_flight, max_waiting } = limits;
    format!("at most {max_in_flight} at the origin at once, {max_waiting} more in line, then 503")
}

/// What becomes of the body's coding.
pub(super) fn gzip(verdict: Verdict, enabled: bool) -> String {
    match verdict {
        Verdict::Leave(crate::edge::gzip::Skip::Off) if !enabled => "off (gzip.enabled)".to_owned(),
        Verdict::Leave(crate::edge::gzip::Skip::Off) => "off for this class".to_owned(),
        Verdict::Leave(why) => format!("left alone: {}", why.explanation()),
        Verdict::Vary(why) => {
            format!("left alone: {}; Vary says that another request may get another coding", why.explanation())
        }
        Verdict::NotModified { weak: true } => "a 304 for what went out compressed".to_owned(),
        Verdict::NotModified { weak: false } => "a 304; Vary as the 200 would have it".to_owned(),
        Verdict::Compress => "compressed".to_owned(),
        Verdict::Inflate => "the origin's gzip is undone".to_owned(),
    }
}

/// What is sent where the origin failed.
pub(super) fn page(head: &response::Parts) -> String {
    let text = |name: &HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    match (text(&CONTENT_TYPE), text(&CONTENT_LANGUAGE)) {
        (Some(media), Some(language)) => format!("the whoopsie page ({media}, {language})"),
        (Some(media), None) => format!("a whoopsie without a page ({media})"),
        (None, _) => "a whoopsie with an empty body".to_owned(),
    }
}

/// Who answers in the origin's place.
pub(super) fn local(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Beacon => "from memory, by beacon.path; no pull, and never refused for identity",
        Endpoint::Rum => "from memory, by rum.path; no pull, and never refused for identity",
    }
}

/// Why a request goes no further.
pub(super) fn refusal(reason: Reason, status: StatusCode) -> &'static str {
    match reason {
        Reason::Malformed if status == StatusCode::BAD_REQUEST => "the head can be read in two ways",
        Reason::Malformed => "more fields than server.max_headers",
        Reason::HeaderTimeout => "the head took longer than server.header_timeout",
        Reason::UnknownProvider => "identity.unknown is \"reject\"",
        Reason::Unverified => "identity.unverified is \"reject\"",
        Reason::Host => "server.hosts does not hold this Host",
        Reason::Loop => "it has been here server.max_hops times, by CDN-Loop",
        Reason::Method => "CONNECT is for nobody behind a CDN",
        Reason::BodyTooLarge => "the body is longer than server.max_request_body",
    }
}
