//! The texts that explain what was decided about a request and its response.

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

/// Returns the reason for the decision about the provider.
pub(super) fn identity(
    why: Why,
    header: &HeaderName,
    claimed: Option<&HeaderValue>,
    received: &HeaderMap,
    recognise: bool,
) -> String {
    let claimed = String::from_utf8_lossy(claimed.map_or(b"", HeaderValue::as_bytes));
    let name = |place: usize| NAMES.get(place).copied().unwrap_or_default();
    let signal = |place: usize| {
        let signals = Preset::named(name(place)).map_or(&[][..], |preset| &preset.signals);
        let first = signals.iter().find(|signal| signal.holds(received));
        format!("{} is a signal of {}", first.map_or_else(String::new, ToString::to_string), name(place))
    };
    match why {
        Why::Named => format!("named by {header}"),
        Why::UnknownName => format!("no [[provider]] is named {claimed:?}"),
        Why::NamesDiffer => format!("the lines of {header} differ"),
        Why::SignalsDiffer(place) => {
            format!("{header} is {claimed:?}, but no signal of this provider matches; {}", signal(place))
        }
        Why::Recognised(place) => format!("no {header}; {}", signal(place)),
        Why::NotConfigured(place) => {
            format!("no {header}; {}, and no [[provider]] has this preset", signal(place))
        }
        Why::Shared(place) => {
            format!("no {header}; {}, and several [[provider]] blocks have this preset", signal(place))
        }
        Why::Unclear => {
            format!("no {header}; signals of several CDNs match, and CDN-Loop and Via do not show the nearest CDN")
        }
        Why::NoSignal if recognise => format!("no {header}, and no signal matches"),
        Why::NoSignal => format!("no {header}, and identity.recognise is off"),
    }
}

/// Returns how the provider was proved, or why the proof failed.
pub(super) fn proof(proof: Proof, claims: Option<&Known>) -> String {
    let proofs = claims.and_then(|known| known.proofs.as_ref());
    let field = || proofs.and_then(|proofs| proofs.secret.as_ref()).map_or("", |secret| secret.field.as_str());
    let failure = match proof {
        Proof::None => return "no configured provider, so nothing to prove".to_owned(),
        Proof::Believed => return "no [provider.verify], so the name is enough".to_owned(),
        Proof::Secret => return format!("{} has a valid secret", field()),
        Proof::Addresses => return "the address is in provider.verify.addresses".to_owned(),
        Proof::ClientCert => return "the certificate matches provider.verify.client_cert".to_owned(),
        Proof::G2o => return "signed with a key of provider.verify.g2o".to_owned(),
        Proof::All => return "all proofs of [provider.verify] succeed".to_owned(),
        Proof::Failed(failure) => failure,
    };
    match failure {
        Failure::NoSecret => format!("{} is missing", field()),
        Failure::WrongSecret => format!("{} has no valid secret, or occurs twice", field()),
        Failure::WrongAddress => "the address is not in provider.verify.addresses".to_owned(),
        Failure::NoCertificate => "no client certificate (explain cannot send one)".to_owned(),
        Failure::WrongCertificate => "the certificate does not match provider.verify.client_cert".to_owned(),
        Failure::NoG2o => "a field of the signature is missing, occurs twice or cannot be parsed".to_owned(),
        Failure::G2oKey => "the version or the nonce is not in provider.verify.g2o".to_owned(),
        Failure::G2oSignature => "the signature does not match this path".to_owned(),
        Failure::G2oTime => "the signature's time differs too much from the clock".to_owned(),
        Failure::G2oReplay => "the signature was used before".to_owned(),
        Failure::G2oFull => "the store of used signatures is full".to_owned(),
    }
}

/// Returns the source of the client's address.
pub(super) fn client(ctx: &Ctx, claims: Option<&Known>, peer: IpAddr) -> String {
    let field = claims.and_then(|known| known.preset.client_field());
    let is_signed = claims.and_then(|known| known.proofs.as_ref()).is_some_and(|proofs| proofs.g2o.is_some());
    if ctx.trail.proven {
        return match (ctx.proof, field) {
            (Proof::G2o, _) => "from the G2O signature".to_owned(),
            (Proof::All, _) if is_signed => "from the G2O signature".to_owned(),
            (_, Some(field)) => format!("from {field}, after proof"),
            (_, None) => "after proof".to_owned(),
        };
    }
    let sender = if ctx.trail.client == peer { "the peer" } else { "reported by a proxy in server.trusted_proxies" };
    match (ctx.proof, field) {
        (Proof::None | Proof::Failed(_), _) | (_, None) => sender.to_owned(),
        (Proof::Believed, Some(field)) => format!("{sender}; {field} is trusted only after proof"),
        (_, Some(field)) => format!("{sender}; {field} has no address"),
    }
}

/// Returns the kind of the pull.
pub(super) fn pull(kind: PullKind) -> &'static str {
    match kind {
        PullKind::Unknown => "unknown",
        known => known.as_str(),
    }
}

/// Returns the signal which shows that a pull came through a shield (another cache of the CDN) or is a probe (a health
/// check of the CDN).
pub(super) fn pull_sign(kind: PullKind, claims: Option<&Known>, received: &HeaderMap) -> Option<String> {
    let preset = claims?.preset;
    let signals = match kind {
        // No signal shows a retry. A retry is recognised by the request id of an earlier request.
        PullKind::Unknown | PullKind::Edge | PullKind::Retry => return None,
        PullKind::Shield => &preset.shields,
        PullKind::Probe => &preset.probes,
    };
    signals.iter().find(|signal| signal.holds(received)).map(ToString::to_string)
}

/// Returns the reason why the response has this class.
pub(super) fn class(class: ClassId, rule: &ClassRule) -> &'static str {
    match (class, rule.path.is_empty(), rule.content_type.is_empty()) {
        (ClassId::OTHER, ..) => "no [[class]] matches",
        (_, false, true) => "the first whose path matches",
        (_, true, _) => "the first whose content_type matches",
        (_, false, false) => "the first whose path and content_type match",
    }
}

/// Returns a description of the class's cache rule.
pub(super) fn rule(cache: &CachePolicy) -> String {
    let mut text = match cache.mode {
        CacheMode::Keep => "keep: the origin's directives, merged into one line".to_owned(),
        CacheMode::Default => "default: a lifetime where the origin sets none".to_owned(),
        CacheMode::Override => "override: a lifetime in place of the origin's".to_owned(),
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

/// Returns a description of how `admission` treats the request.
pub(super) fn admission(limits: Limits, holds: bool) -> String {
    if !holds {
        return "exempt: neither counted nor queued (class.admission)".to_owned();
    }
    let Limits { max_in_flight, max_waiting } = limits;
    format!("at most {max_in_flight} at the origin at once, {max_waiting} more in the queue, then 503")
}

/// Returns what happens to the content coding of the body. `wants_br`: whether the request gets br if there is a twin
/// with br.
pub(super) fn gzip(verdict: Verdict, enabled: bool, wants_br: bool) -> String {
    let may_have_twin = matches!(verdict, Verdict::Compress | Verdict::Vary(crate::edge::gzip::Skip::NotAccepted));
    let text = coding(verdict, enabled);
    if wants_br && may_have_twin {
        format!("{text}; br instead, if the body was pulled before and its stored form has br (gzip.ripen)")
    } else {
        text
    }
}

fn coding(verdict: Verdict, enabled: bool) -> String {
    match verdict {
        Verdict::Leave(crate::edge::gzip::Skip::Off) if !enabled => "off (gzip.enabled)".to_owned(),
        Verdict::Leave(crate::edge::gzip::Skip::Off) => "off for this class".to_owned(),
        Verdict::Leave(why) => format!("unchanged: {}", why.explanation()),
        Verdict::Vary(why) => {
            format!("unchanged: {}; Vary is added, because another request may get another coding", why.explanation())
        }
        Verdict::NotModified { weak: true } => "a 304 with a weak ETag, because the 200 is compressed".to_owned(),
        Verdict::NotModified { weak: false } => "a 304 with the Vary of the 200".to_owned(),
        Verdict::Compress => "compressed".to_owned(),
        Verdict::Inflate => "the origin's gzip is decompressed".to_owned(),
    }
}

/// Returns a description of the response that edgeshim sends in place of the origin's response.
pub(super) fn page(head: &response::Parts) -> String {
    let text = |name: &HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    match (text(&CONTENT_TYPE), text(&CONTENT_LANGUAGE)) {
        (Some(media), Some(language)) => format!("the whoopsie page ({media}, {language})"),
        (Some(media), None) => format!("{media} in place of the whoopsie page"),
        (None, _) => "an empty body in place of the whoopsie page".to_owned(),
    }
}

/// Returns the reason why `local` responds and the origin does not get the request.
pub(super) fn local(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Beacon => "from memory, because of beacon.path; not a pull, and never refused for identity",
        Endpoint::Rum => "from memory, because of rum.path; not a pull, and never refused for identity",
        Endpoint::EdgeLogs => {
            "by counting a log, because of edge_logs.path; not a pull, and never refused for identity"
        }
        Endpoint::FastlyChallenge => {
            "with permission to push logs, because Fastly requests this path before its first log"
        }
        Endpoint::Smoke(_) => {
            "with what arrived, because the path is signed with smoke.token; not a pull, and never refused for identity"
        }
    }
}

/// Returns the reason why a request is refused.
pub(super) fn refusal(reason: Reason, status: StatusCode) -> &'static str {
    match reason {
        Reason::Malformed if status == StatusCode::BAD_REQUEST => "the head can be read in two ways",
        Reason::Malformed => "more fields than server.max_headers",
        Reason::HeaderTimeout => "the head took longer than server.header_timeout",
        Reason::UnknownProvider => "identity.unknown is \"reject\"",
        Reason::Unverified => "identity.unverified is \"reject\"",
        Reason::Host => "this Host is not in server.hosts",
        Reason::Loop => "CDN-Loop names edgeshim server.max_hops times, so the request is in a loop",
        Reason::Method => "CONNECT is not supported",
        Reason::BodyTooLarge => "the body is longer than server.max_request_body",
        Reason::Flood => "the HTTP/2 connection carries too many frames that are no part of a request",
    }
}
