//! The checks of the cache: miss-then-hit and ttl, and the cookies of the URL itself.

use std::time::Duration;

use http::StatusCode;

use crate::smoke::cache_result::{Served, age};
use crate::smoke::recorded::Recorded;
use crate::smoke::results::Verdict;
use crate::wire::cache_control::CacheControl;
use crate::wire::names::{
    AGE, CACHE_CONTROL, CDN_CACHE_CONTROL, CLOUDFLARE_CDN_CACHE_CONTROL, SET_COOKIE, SURROGATE_CONTROL,
};

/// The number of seconds by which a cache may exceed a lifetime. Caches count in whole seconds and add the time of the
/// transfer.
const SLACK_SECONDS: u64 = 2;

/// The responses to a repeated request, for the check `miss-then-hit`.
pub(crate) struct Repeated<'a> {
    /// The first response and how it was served.
    pub first: &'a Recorded,
    pub first_served: Option<&'a Served>,
    /// The response to the last of the repeated requests.
    pub last: &'a Recorded,
    pub last_served: Option<&'a Served>,
    /// The number of requests.
    pub requests: usize,
    /// The result if a later request got an error or no response. `last` is then an earlier response.
    pub failure: Option<&'a Verdict>,
    /// Whether a response of edgeshim that caches may store arrived twice. `None`: this was not measured.
    pub kept_signed: Option<bool>,
}

/// Whether a repeated request gets a response from the cache.
pub(crate) fn miss_then_hit(repeated: &Repeated<'_>) -> Verdict {
    let Repeated { first, first_served, last, last_served, requests, failure, kept_signed } = repeated;
    if let Some(failure) = failure {
        return (*failure).clone();
    }
    let control = last.cache_control();
    if control.is_unshared() || control.no_cache {
        let policy = format!("Cache-Control: {}", last.text(&CACHE_CONTROL));
        return match last_served {
            Some(served) if served.is_hit() && (control.no_store || control.private) => Verdict::fail(
                format!("{} although the response has {policy}", served.evidence),
                "no response from the cache, because Cache-Control forbids it",
                "remove the rule at the CDN that overrides Cache-Control of the origin",
            ),
            _ => Verdict::skip(format!(
                "the response must not be stored ({policy}); write the URL of an object that may be stored"
            )),
        };
    }
    let Some(served) = last_served else {
        return match kept_signed {
            Some(true) => Verdict::pass(
                "no field shows whether the cache was used, but a response of edgeshim came from the cache",
            ),
            Some(false) => Verdict::skip(
                "no field shows whether the cache was used, and the edge does not store responses of edgeshim; let the \
                 edge send Cache-Status or X-Cache",
            ),
            None => Verdict::skip(
                "no field shows whether the cache was used; let the edge send Cache-Status or X-Cache, or use --token",
            ),
        };
    };
    if served.is_hit() {
        let before = match first_served {
            Some(first) if first.is_hit() => "HIT already at the first request".to_owned(),
            Some(first) => format!("{}, then HIT", first.word()),
            None => "HIT".to_owned(),
        };
        let age = age(&last.headers).map(|age| format!(", Age: {age}")).unwrap_or_default();
        return Verdict::pass(format!("{before} ({}{age})", served.evidence));
    }
    let why = if first.has(&SET_COOKIE) || last.has(&SET_COOKIE) {
        "remove Set-Cookie at the origin (strip_cookies of the class): most CDNs store no response with a cookie"
    } else if !control.has_lifetime() {
        "give the response a lifetime at the origin (cache of the class), or a rule for its type at the CDN"
    } else {
        "find out at the CDN why the response is not stored: a rule for the type or path, Vary, or a size limit; or \
         write the URL of an object that may be stored"
    };
    Verdict::fail(
        format!("{} at each of {requests} requests ({})", served.word(), served.evidence),
        "MISS, then HIT",
        why,
    )
}

/// The input of the check `ttl`.
pub(crate) struct Lifetimes<'a> {
    pub edge: &'a Recorded,
    /// The response of the origin, if `--origin` was given and the origin responded.
    pub origin: Option<&'a Recorded>,
    /// How long the edge kept a response of edgeshim, if this was measured.
    pub kept: Option<Kept>,
    /// Whether a token was given.
    pub has_token: bool,
}

/// Returns the last part of the reason for a skipped check that needs a response of edgeshim. `what` is the advice if
/// there is no token.
fn help(has_token: bool, what: &'static str) -> &'static str {
    if has_token { "edgeshim sent no report, see the check provider" } else { what }
}

/// How long the edge kept a response whose lifetime is `granted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub granted: Duration,
    /// The time until another response arrived. `None`: no other response arrived before the measurement ended.
    pub until_other: Option<Duration>,
    /// The time after which the measurement ended.
    pub limit: Duration,
    /// Whether the response arrived twice, so that it was in a cache.
    pub was_stored: bool,
}

/// Whether the edge repeats the lifetimes of the origin, and keeps to them.
pub(crate) fn ttl(lifetimes: &Lifetimes<'_>) -> Verdict {
    let Lifetimes { edge, origin, kept, has_token } = lifetimes;
    let at_edge = edge.cache_control();
    if let Some(origin) = origin {
        let at_origin = origin.cache_control();
        if let Some(verdict) = differing(edge, &at_edge, origin, &at_origin) {
            return verdict;
        }
    }
    if let Some(verdict) = too_old(edge, *origin) {
        return verdict;
    }
    if let Some(Kept { granted, until_other, limit, was_stored: true }) = kept {
        let most = *granted + Duration::from_millis(2_500);
        if until_other.is_none_or(|time| time > most) {
            let time = until_other.map_or_else(
                || format!("more than {:.1} s", limit.as_secs_f64()),
                |time| format!("{:.1} s", time.as_secs_f64()),
            );
            return Verdict::fail(
                format!("the cache kept a response with max-age={} for {time}", granted.as_secs()),
                format!("at most {} s, and 2.5 s more for rounding", granted.as_secs()),
                "remove the rule at the CDN that sets a longer lifetime than the origin, or allows stale responses",
            );
        }
    }
    let measured = match kept {
        Some(Kept { granted, until_other: Some(time), was_stored: true, .. }) => {
            format!("; a response with max-age={} was kept for {:.1} s", granted.as_secs(), time.as_secs_f64())
        }
        _ => String::new(),
    };
    let policy = edge.text(&CACHE_CONTROL);
    let policy = if policy.is_empty() { "no Cache-Control".to_owned() } else { policy };
    match (origin, measured.is_empty()) {
        (Some(_), _) => Verdict::pass(format!("{policy}, as at the origin{measured}")),
        (None, false) => Verdict::pass(format!("{policy}{measured}")),
        (None, true) if kept.is_some() => {
            Verdict::skip(format!("{policy}; to compare, use --origin: the edge does not store responses of edgeshim"))
        }
        (None, true) => {
            let measure = help(*has_token, "to measure, use --token");
            Verdict::skip(format!("{policy}; to compare, use --origin; {measure}"))
        }
    }
}

/// Returns the failure if browsers get other caching rules from the edge than from the origin. s-maxage is not
/// compared, because it depends on the CDN and is not for browsers.
fn differing(
    edge: &Recorded,
    at_edge: &CacheControl<'_>,
    origin: &Recorded,
    at_origin: &CacheControl<'_>,
) -> Option<Verdict> {
    let rules = |control: &CacheControl<'_>| {
        (control.max_age, control.no_store, control.no_cache, control.private, control.must_revalidate)
    };
    // A cache may remove or split its own part of the field, but must keep the part for browsers.
    let is_same = rules(at_edge) == rules(at_origin);
    let is_success = origin.status.is_success() || origin.status == StatusCode::NOT_MODIFIED;
    (!is_same && is_success).then(|| {
        let value = |response: &Recorded| match response.text(&CACHE_CONTROL) {
            text if text.is_empty() => "no Cache-Control".to_owned(),
            text => format!("Cache-Control: {text}"),
        };
        Verdict::fail(
            value(edge),
            format!("{}, as at the origin", value(origin)),
            "remove the rule at the CDN that rewrites Cache-Control (a browser TTL); if the origin has changed, purge \
             the object",
        )
    })
}

/// Returns the failure if Age is not valid, or larger than the longest lifetime that the origin grants. Age can come
/// from any cache on the way, so hits and misses are checked alike.
///
/// Without the response of the origin, the response of the edge shows the lifetime. The edge can have removed a longer
/// lifetime for CDNs. But a response that is older than its lifetime for browsers is of no use for the caches of
/// browsers. A lifetime of 0 means that browsers must revalidate the response before each use, so this lifetime shows
/// nothing about Age.
fn too_old(edge: &Recorded, origin: Option<&Recorded>) -> Option<Verdict> {
    if !edge.has(&AGE) {
        return None;
    }
    let Some(age) = age(&edge.headers) else {
        return Some(Verdict::fail(
            format!("Age: {}", edge.text(&AGE)),
            "Age with a number of seconds of at most 2147483648",
            "correct the rule at the CDN, or the server behind it, that writes Age",
        ));
    };
    let most = longest_seconds(origin.unwrap_or(edge)).filter(|most| origin.is_some() || *most > 0)?;
    (age > most.saturating_add(SLACK_SECONDS)).then(|| {
        let (expected, remedy) = if origin.is_some() {
            (
                format!("at most {most} seconds, as the origin allows"),
                "remove the rule at the CDN that overrides the lifetime, or purge the object",
            )
        } else {
            (
                format!("at most {most} seconds, which is the lifetime in the response"),
                "remove the rule at the CDN that overrides the lifetime, or let the CDN send browsers an Age below \
                 this lifetime; if the origin grants CDNs a longer lifetime, name the origin with --origin",
            )
        };
        Verdict::fail(format!("a response with Age: {age}"), expected, remedy)
    })
}

/// Returns the longest time for which a shared cache may use a response, stale use included, in seconds.
fn longest_seconds(origin: &Recorded) -> Option<u64> {
    let fields = [&SURROGATE_CONTROL, &CLOUDFLARE_CDN_CACHE_CONTROL, &CDN_CACHE_CONTROL, &CACHE_CONTROL];
    let longest = fields.into_iter().filter_map(|field| {
        let lines = origin.headers.get_all(field).iter().map(http::HeaderValue::as_bytes);
        let control = CacheControl::parse(lines);
        let fresh = control.s_maxage.into_iter().chain(control.max_age).max()?;
        let stale = control.stale_while_revalidate.into_iter().chain(control.stale_if_error).max().unwrap_or(0);
        Some(fresh.saturating_add(stale))
    });
    longest.max()
}

/// Whether no response of the cache contains a cookie. `signed` is the result of the same check for responses in which
/// edgeshim sets a cookie.
pub(crate) fn cookies(responses: &[(&Recorded, Option<&Served>)], signed: Option<Verdict>, has_token: bool) -> Verdict {
    let from_cache = |(response, served): &&(&Recorded, Option<&Served>)| {
        response.has(&SET_COOKIE) && served.is_some_and(Served::is_hit)
    };
    if let Some((_, Some(served))) = responses.iter().find(from_cache) {
        return Verdict::fail(
            format!("a response of the cache has Set-Cookie ({})", served.evidence),
            "no cookie in a stored response",
            "let the CDN store no response with Set-Cookie, or remove Set-Cookie at the origin (strip_cookies)",
        );
    }
    let has_cookie = responses.iter().any(|(response, _)| response.has(&SET_COOKIE));
    match signed {
        Some(verdict) if matches!(verdict, Verdict::Fail(_)) || !has_cookie => verdict,
        _ if has_cookie => Verdict::pass("the responses with Set-Cookie do not come from the cache"),
        _ => Verdict::skip(format!(
            "the responses have no Set-Cookie; {}",
            help(has_token, "use --token for a response that has one")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdn::preset::edge_fields::Lookup;
    use crate::smoke::recorded::tests::response;

    fn served(lookup: Lookup) -> Served {
        Served { lookup, evidence: "x-cache: …".to_owned() }
    }

    fn repeated(first: Lookup, last: Lookup, fields: &[(&str, &str)]) -> Verdict {
        let response = response(200, fields, b"");
        miss_then_hit(&Repeated {
            first: &response,
            first_served: Some(&served(first)),
            last: &response,
            last_served: Some(&served(last)),
            requests: 5,
            failure: None,
            kept_signed: None,
        })
    }

    #[test]
    fn miss_then_hit_when_last_response_is_no_hit_then_fails_unless_storing_is_forbidden() {
        use Lookup::{Hit, Miss};
        let may = [("Cache-Control", "max-age=60")];
        assert_eq!(repeated(Miss, Hit, &may).word(), "pass");
        assert_eq!(repeated(Hit, Hit, &may).word(), "pass");
        assert_eq!(repeated(Miss, Miss, &may).word(), "fail");
        assert_eq!(repeated(Miss, Miss, &[]).word(), "fail");
        for forbids in ["no-store", "private", "no-cache"] {
            assert_eq!(repeated(Miss, Miss, &[("Cache-Control", forbids)]).word(), "skip", "{forbids}");
        }
        assert_eq!(repeated(Miss, Hit, &[("Cache-Control", "private")]).word(), "fail");
    }

    #[test]
    fn miss_then_hit_when_a_later_request_fails_then_fails_whatever_the_cache_reports() {
        let response = response(200, &[("Cache-Control", "max-age=60")], b"");
        let (hit, failure) = (served(Lookup::Hit), Verdict::fail("the status 503", "200", "x"));
        let repeated = Repeated {
            first: &response,
            first_served: Some(&hit),
            last: &response,
            last_served: Some(&hit),
            requests: 2,
            failure: Some(&failure),
            kept_signed: Some(true),
        };
        assert_eq!(miss_then_hit(&repeated), failure);
    }

    #[test]
    fn miss_then_hit_when_no_field_shows_the_lookup_then_the_response_of_edgeshim_decides() {
        let plain = response(200, &[("Cache-Control", "max-age=60")], b"");
        for (kept_signed, word) in [(None, "skip"), (Some(false), "skip"), (Some(true), "pass")] {
            let verdict = miss_then_hit(&Repeated {
                first: &plain,
                first_served: None,
                last: &plain,
                last_served: None,
                requests: 2,
                failure: None,
                kept_signed,
            });
            assert_eq!(verdict.word(), word);
        }
    }

    fn lifetimes(edge: &[(&str, &str)], origin: Option<&[(&str, &str)]>, kept: Option<Kept>) -> Verdict {
        let edge = response(200, edge, b"");
        let origin = origin.map(|fields| response(200, fields, b""));
        ttl(&Lifetimes { edge: &edge, origin: origin.as_ref(), kept, has_token: false })
    }

    #[test]
    fn ttl_when_edge_rewrites_the_lifetime_for_browsers_then_fails() {
        let control = |value| [("Cache-Control", value)];
        let word = |edge, origin| lifetimes(&control(edge), Some(&control(origin)), None).word();
        assert_eq!(word("max-age=60", "max-age=60"), "pass");
        assert_eq!(word("max-age=60", "max-age=60, s-maxage=3600"), "pass");
        assert_eq!(word("max-age=86400", "max-age=60"), "fail");
        assert_eq!(word("public", "max-age=60"), "fail");
        assert_eq!(word("max-age=60", "no-store"), "fail");
    }

    #[test]
    fn ttl_when_age_exceeds_every_lifetime_then_fails() {
        let edge = |age| [("Cache-Control", "max-age=60"), ("Age", age)];
        let origin = [("Cache-Control", "max-age=60"), ("Surrogate-Control", "max-age=3600, stale-if-error=600")];
        assert_eq!(lifetimes(&edge("4000"), Some(&origin), None).word(), "pass");
        assert_eq!(lifetimes(&edge("4300"), Some(&origin), None).word(), "fail");
        let short = [("Cache-Control", "max-age=60")];
        assert_eq!(lifetimes(&edge("70"), Some(&short), None).word(), "fail");
        // Without the origin, the response itself shows its lifetime.
        assert_eq!(lifetimes(&edge("61"), None, None).word(), "skip");
        assert_eq!(lifetimes(&edge("999999"), None, None).word(), "fail");
        let none = [("Cache-Control", "max-age=0, must-revalidate"), ("Age", "5000")];
        assert_eq!(lifetimes(&none, None, None).word(), "skip");
        for invalid in ["-1", "1.5", "x", "", "99999999999"] {
            assert_eq!(lifetimes(&edge(invalid), Some(&short), None).word(), "fail", "{invalid}");
        }
    }

    #[test]
    fn ttl_when_a_response_is_kept_for_too_long_then_fails() {
        let kept = |until_other: Option<f64>, was_stored| Kept {
            granted: Duration::from_secs(3),
            until_other: until_other.map(Duration::from_secs_f64),
            limit: Duration::from_secs(9),
            was_stored,
        };
        let word = |kept| lifetimes(&[("Cache-Control", "max-age=60")], None, Some(kept)).word();
        assert_eq!(word(kept(Some(3.4), true)), "pass");
        assert_eq!(word(kept(Some(6.0), true)), "fail");
        assert_eq!(word(kept(None, true)), "fail");
        assert_eq!(word(kept(Some(0.1), false)), "skip");
    }

    #[test]
    fn cookies_when_a_response_of_the_cache_has_a_cookie_then_fails() {
        let (with, without) = (response(200, &[("Set-Cookie", "a=1")], b""), response(200, &[], b""));
        let (hit, miss) = (served(Lookup::Hit), served(Lookup::Miss));
        assert_eq!(cookies(&[(&with, Some(&miss)), (&with, Some(&hit))], None, false).word(), "fail");
        assert_eq!(cookies(&[(&with, Some(&miss)), (&with, Some(&miss))], None, false).word(), "pass");
        assert_eq!(cookies(&[(&without, Some(&hit))], None, false).word(), "skip");
        assert_eq!(cookies(&[(&without, Some(&hit))], Some(Verdict::pass("x")), false).word(), "pass");
        assert_eq!(cookies(&[(&with, Some(&miss))], Some(Verdict::fail("x", "y", "z")), false).word(), "fail");
    }
}
