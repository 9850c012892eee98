//! The requests that smoke sends for one URL to one edge, in their order, and the checks of the responses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;

use super::cache_result::{Served, age, aged, served};
use super::checks::caching::{self, Lifetimes, Repeated};
use super::checks::shim::NO_TOKEN;
use super::checks::validation::{self, Variants};
use super::checks::{forms, reached, shim};
use super::probe::{Probe, Question};
use super::recorded::{Ending, Outcome, Recorded, spelled};
use super::results::{Check, Report, Verdict};
use super::signed::{self, Signed};
use super::targets::{Note, Options, Target, probe_of};
use crate::wire::names::{
    ACCEPT_ENCODING, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, RANGE, USER_AGENT, X_CDN_PROVIDER,
};

/// The largest number of requests until a response must come from the cache. A point of presence has several caches,
/// and a cache can need a moment to store a response.
const MOST_REQUESTS: usize = 5;
/// The pause before each request after the second.
const PAUSE: Duration = Duration::from_millis(200);

/// The time between two requests after which Age must be larger. Age counts whole seconds.
const AGE_PAUSE: Duration = Duration::from_millis(1_100);

/// Makes all checks of one target, except for the time to the first byte.
pub(crate) async fn check(target: Target, options: Arc<Options>, note: Note) -> Report {
    let mut session = Session { probe: target.probe(&options), target, options, note, verdicts: Vec::new() };
    let pop = Box::pin(session.run()).await;
    let Session { target, mut verdicts, .. } = session;
    verdicts.sort_by_key(|(check, _)| Check::ALL.iter().position(|known| known == check));
    Report {
        url: target.url.text.clone(),
        provider: target.provider.map(|named| named.name),
        edge: target.edge.to_string(),
        verdicts,
        pop,
        ttfb: None,
    }
}

struct Session {
    target: Target,
    options: Arc<Options>,
    note: Note,
    probe: Probe,
    verdicts: Vec<(Check, Verdict)>,
}

/// The responses to the requests for the URL.
struct Seen {
    first: Recorded,
    last: Recorded,
    /// How the edge served `last`, if only Age shows how.
    aged: Option<Served>,
    requests: usize,
    /// The result of miss-then-hit if a later request got an error or no response. `last` is then the last response
    /// before the failure.
    failure: Option<Verdict>,
    plain: Outcome,
    part: Option<(Outcome, (usize, usize))>,
    head: Outcome,
    conditional: Option<(Outcome, String)>,
    others: Vec<(Recorded, Option<Served>)>,
    /// The result of vary if a request for `others` got an error or no response.
    others_failure: Option<Verdict>,
    origin: Option<Recorded>,
    origin_plain: Option<Recorded>,
}

impl Seen {
    /// Returns all responses of the edge for the URL.
    fn all(&self) -> Vec<&Recorded> {
        let outcomes = [
            Some(&self.plain),
            self.part.as_ref().map(|(outcome, _)| outcome),
            Some(&self.head),
            self.conditional.as_ref().map(|(outcome, _)| outcome),
        ];
        let outcomes = outcomes.into_iter().flatten().filter_map(|outcome| outcome.as_ref().ok());
        let others = self.others.iter().map(|(response, _)| response);
        [&self.first, &self.last].into_iter().chain(outcomes).chain(others).collect()
    }
}

/// Returns a response with success. The error is the result of the check. `asked` names the request.
fn success(outcome: Outcome, asked: &str) -> Result<Recorded, Verdict> {
    match outcome {
        Ok(response) if response.status.is_success() => Ok(response),
        Ok(response) => Err(forms::unlike_first(response.status, asked)),
        Err(trouble) => Err(trouble.later_verdict()),
    }
}

impl Session {
    /// Returns how the edge served a response. If Age has shown that a cache is in use, each response with an Age above
    /// 0 comes from this cache.
    fn how(&self, response: &Recorded, seen: &Seen) -> Option<Served> {
        served(response, self.target.fields()).or_else(|| {
            let is_aged = age(&response.headers).is_some_and(|age| age > 0);
            seen.aged.clone().filter(|_| is_aged)
        })
    }

    fn set(&mut self, check: Check, verdict: Verdict) {
        self.verdicts.push((check, verdict));
    }

    fn skip_the_rest(&mut self, reason: &str) {
        for check in Check::ALL {
            if check != Check::Ttfb && !self.verdicts.iter().any(|(done, _)| *done == check) {
                self.set(check, Verdict::skip(reason));
            }
        }
    }

    /// Makes the checks. Returns the point of presence.
    async fn run(&mut self) -> Option<String> {
        (self.note)(&self.target, "reach");
        let first = self.ask("gzip").await;
        self.set(Check::Reach, reached::reach(&first, &self.target.edge.to_string()));
        let is_checked = self.options.trust.as_ref().is_none_or(|trust| trust.is_checked);
        let tls = reached::tls(self.target.url.is_https, is_checked, self.probe.tls.as_ref(), &first);
        self.set(Check::Tls, tls);
        let first = match first {
            Ok(first) if reached::is_loop(&first) => {
                self.set(Check::Loop, reached::looped(&first));
                self.skip_the_rest("the request is in a loop");
                return None;
            }
            Ok(first) if first.status.is_success() => first,
            Ok(first) => {
                self.skip_the_rest(&format!("the status is {}", first.status.as_u16()));
                return None;
            }
            Err(_) => {
                self.skip_the_rest("there is no response");
                return None;
            }
        };
        let (origin, origin_plain) = match self.ask_origin().await {
            Ok(pair) => pair,
            Err(verdict) => {
                self.verdicts.retain(|(check, _)| *check != Check::Reach);
                self.set(Check::Reach, verdict);
                (None, None)
            }
        };
        // The measurements with signed paths take seconds, so the requests for the URL run beside them.
        let token = self.options.token.clone();
        let (target, options, note) = (self.target.clone(), Arc::clone(&self.options), Arc::clone(&self.note));
        let signed = async move {
            match token {
                Some(token) => Some(signed::requests(&target, &options, &token, &note).await),
                None => None,
            }
        };
        let (seen, signed) = tokio::join!(self.requests(first, origin, origin_plain), signed);
        let named = self.target.fields().pop(&seen.last.headers).or_else(|| signed.as_ref().and_then(Signed::pop));
        self.judge(&seen, signed.as_ref());
        self.judge_signed(signed.as_ref());
        let field = self.target.fields().pop.as_ref().map(|pop| spelled(pop.name()));
        self.set(Check::Pop, reached::pop(named.as_deref(), field.as_deref()));
        named
    }

    async fn ask(&mut self, coding: &str) -> Outcome {
        let question = self.target.question(self.target.url.target(), coding);
        self.probe.ask(&question).await
    }

    /// Returns the responses of the origin: with gzip and without a coding. Both are `None` without `--origin`. The
    /// error is the result of the check `reach`.
    async fn ask_origin(&mut self) -> Result<(Option<Recorded>, Option<Recorded>), Verdict> {
        let Some(url) = self.options.origin.clone() else { return Ok((None, None)) };
        (self.note)(&self.target, "origin");
        let mut probe = probe_of(&url, &self.target.url.authority, &self.options);
        let mut pair = Vec::new();
        for coding in ["gzip", "identity"] {
            let mut question = Question::get(self.target.url.target()).with(&ACCEPT_ENCODING, coding);
            if let Some(named) = &self.target.provider {
                // With this field, edgeshim sends the response that this CDN gets.
                question = question.with(&X_CDN_PROVIDER, &named.name);
            }
            match probe.ask(&question).await {
                Ok(response) if response.status.is_success() => pair.push(response),
                Ok(response) => {
                    return Err(Verdict::fail(
                        format!("the origin {} sends the status {}", url.server, response.status.as_u16()),
                        "a response with success, as from the edge",
                        "correct --origin; if edgeshim requires a proof, name the origin behind edgeshim",
                    ));
                }
                Err(trouble) => {
                    return Err(Verdict::fail(
                        format!("the origin {}: {}", url.server, trouble.seen()),
                        "a response",
                        "correct --origin",
                    ));
                }
            }
        }
        let plain = pair.pop();
        Ok((pair.pop(), plain))
    }

    /// Sends the requests for the URL.
    async fn requests(&mut self, first: Recorded, origin: Option<Recorded>, origin_plain: Option<Recorded>) -> Seen {
        let fields = self.target.fields();
        (self.note)(&self.target, "miss-then-hit");
        let (mut last, mut requests, mut failure) = (first.clone(), 1, None);
        while requests < MOST_REQUESTS {
            if requests > 1 {
                tokio::time::sleep(PAUSE).await;
            }
            requests += 1;
            let response = match success(self.ask("gzip").await, &format!("request {requests} for the same URL")) {
                Ok(response) => response,
                Err(verdict) => {
                    failure = Some(verdict);
                    break;
                }
            };
            let is_decided = served(&response, fields).is_none_or(|served| served.is_hit());
            last = response;
            let is_complete = matches!(last.ending, Ending::Whole | Ending::TooLarge);
            if is_decided || !is_complete || last.cache_control().is_unshared() {
                break;
            }
        }
        let mut aged_served = None;
        if failure.is_none() && served(&last, fields).is_none() && age(&last.headers).is_some() {
            let from = Instant::now();
            tokio::time::sleep(AGE_PAUSE).await;
            if let Ok(later) = success(self.ask("gzip").await, "") {
                aged_served = aged(&last, &later, from.elapsed());
            }
        }
        (self.note)(&self.target, "identity");
        let plain = self.ask("identity").await;
        (self.note)(&self.target, "range");
        let length = plain.as_ref().ok().and_then(|plain| Some(plain.decoded().ok()?.len()));
        let part = match length.and_then(forms::wanted_range) {
            Some((from, to)) => {
                let question = self.target.question(self.target.url.target(), "identity");
                let outcome = self.probe.ask(&question.with(&RANGE, &format!("bytes={from}-{to}"))).await;
                Some((outcome, (from, to)))
            }
            None => None,
        };
        (self.note)(&self.target, "head");
        let question = self.target.question(self.target.url.target(), "gzip");
        let head = self.probe.ask(&Question { method: Method::HEAD, ..question.clone() }).await;
        (self.note)(&self.target, "revalidate");
        let pairs = [(&ETAG, &IF_NONE_MATCH), (&LAST_MODIFIED, &IF_MODIFIED_SINCE)];
        let validator = pairs.into_iter().find_map(|(has, asks)| Some((asks, last.headers.get(has)?.to_str().ok()?)));
        let conditional = match validator {
            Some((asks, value)) => {
                Some((self.probe.ask(&question.clone().with(asks, value)).await, format!("{}: {value}", spelled(asks))))
            }
            None => None,
        };
        (self.note)(&self.target, "vary");
        let (mut others, mut others_failure) = (Vec::new(), None);
        let last_served = served(&last, fields).or_else(|| aged_served.clone());
        if last_served.is_some_and(|served| served.is_hit()) {
            let nonce = fastrand::u32(..);
            for browser in ["A", "B", "A"] {
                let agent = format!("edgeshim-smoke-{browser}/{nonce}");
                let outcome = self.probe.ask(&question.clone().with(&USER_AGENT, &agent)).await;
                match success(outcome, &format!("User-Agent: {agent}")) {
                    Ok(response) => {
                        let how = served(&response, fields);
                        others.push((response, how));
                    }
                    Err(verdict) => {
                        others_failure = Some(verdict);
                        break;
                    }
                }
            }
        }
        if self.options.token.is_some() {
            (self.note)(&self.target, "ttl and error-not-cached take some seconds");
        }
        Seen {
            first,
            last,
            aged: aged_served,
            requests,
            failure,
            plain,
            part,
            head,
            conditional,
            others,
            others_failure,
            origin,
            origin_plain,
        }
    }

    /// Makes the checks of the responses to the requests for the URL.
    fn judge(&mut self, seen: &Seen, signed: Option<&Signed>) {
        let fields = self.target.fields();
        let first_served = served(&seen.first, fields);
        let last_served = served(&seen.last, fields).or_else(|| seen.aged.clone());
        let kept = signed.and_then(|signed| signed.kept);
        let origin = seen.origin.as_ref();
        self.set(
            Check::MissThenHit,
            caching::miss_then_hit(&Repeated {
                first: &seen.first,
                first_served: first_served.as_ref(),
                last: &seen.last,
                last_served: last_served.as_ref(),
                requests: seen.requests,
                failure: seen.failure.as_ref(),
                kept_signed: kept.map(|kept| kept.was_stored),
            }),
        );
        let has_token = signed.is_some();
        let lifetimes = Lifetimes { edge: &seen.last, origin, kept, has_token };
        self.set(Check::Ttl, caching::ttl(&lifetimes));
        self.set(Check::Validators, validation::validators(&seen.last, origin));
        let plain = seen.plain.as_ref().ok();
        self.set(Check::Gzip, forms::gzip(&seen.last, origin, seen.origin_plain.as_ref()));
        self.set(
            Check::Identity,
            match &seen.plain {
                Ok(plain) => forms::identity(plain, seen.origin_plain.as_ref().or(Some(&seen.last))),
                Err(trouble) => trouble.later_verdict(),
            },
        );
        self.set(
            Check::Range,
            match (&seen.part, plain) {
                (Some((Ok(part), wanted)), Some(plain)) => forms::range(plain, part, *wanted),
                (Some((Err(trouble), _)), _) => trouble.later_verdict(),
                _ => Verdict::skip("the body without a coding is too short, too large or not known"),
            },
        );
        self.set(
            Check::Head,
            match &seen.head {
                Ok(head) => forms::head(&seen.last, head),
                Err(trouble) => trouble.later_verdict(),
            },
        );
        self.set(
            Check::Revalidate,
            match &seen.conditional {
                None => Verdict::skip("the response has no ETag and no Last-Modified"),
                Some((Ok(response), asked)) => validation::revalidate(&seen.last, response, asked),
                Some((Err(trouble), _)) => trouble.later_verdict(),
            },
        );
        let others_failure = seen.others_failure.as_ref();
        self.set(
            Check::Vary,
            validation::vary(&Variants { edge: &seen.last, others: &seen.others, failure: others_failure }),
        );
        let responses = seen.all();
        let served: Vec<_> = responses.iter().map(|response| self.how(response, seen)).collect();
        let pairs: Vec<_> = responses.iter().copied().zip(served.iter().map(Option::as_ref)).collect();
        let signed = signed.and_then(|signed| signed.cookie.clone());
        self.set(Check::Cookies, caching::cookies(&pairs, signed, has_token));
    }

    /// Makes the checks of the responses to signed paths.
    fn judge_signed(&mut self, signed: Option<&Signed>) {
        let checks = [Check::ErrorNotCached, Check::Loop, Check::Provider, Check::ForwardedAddress];
        let Some(signed) = signed else {
            for check in checks {
                self.set(check, Verdict::skip(NO_TOKEN));
            }
            return;
        };
        let echo = match &signed.echo {
            Ok(echo) => echo,
            Err(verdict) => {
                // There is one cause, so only the check `provider` fails. The other checks cannot be made, and are
                // skipped.
                self.set(Check::Provider, verdict.clone());
                for check in checks.into_iter().filter(|check| *check != Check::Provider) {
                    self.set(check, Verdict::skip("edgeshim did not report what arrived, see the check provider"));
                }
                return;
            }
        };
        let name = self.target.provider.as_ref().map(|named| named.name.clone());
        self.set(Check::Provider, shim::provider(echo, name.as_deref()));
        self.set(Check::ForwardedAddress, shim::forwarded_address(echo, self.probe.local));
        self.set(Check::Loop, shim::no_loop(echo, &signed.mark));
        self.set(
            Check::ErrorNotCached,
            match &signed.recovery {
                Ok(recovery) => shim::error_not_cached(recovery),
                Err(trouble) => trouble.later_verdict(),
            },
        );
    }
}
