//! The requests for signed paths: what arrived at edgeshim, a cookie, a forced 503, and a response that caches store.

use std::time::{Duration, Instant};

use super::checks::caching::Kept;
use super::checks::shim::{self, FORGED, Recovery};
use super::probe::{Probe, Question};
use super::recorded::{Recorded, Trouble};
use super::results::Verdict;
use super::targets::{Note, Options, Target};
use crate::clock::unix_time;
use crate::intake::echo_report::EchoReport;
use crate::intake::signed_path::{ERROR_SECONDS, Task, WINDOW_SECONDS, nonce, sign};
use crate::wire::names::{CDN_LOOP, X_FORWARDED_FOR};
use crate::wire::secret::Secret;

/// The lifetime of the response whose time in the cache is measured.
const LIFETIME: Duration = Duration::from_secs(3);
/// The time after which the measurement ends.
const MOST_KEPT: Duration = Duration::from_secs(9);
/// The time for which smoke waits for a success after a forced 503.
const MOST_RECOVERY: Duration = Duration::from_secs(15);
/// The pause between two requests of a measurement.
const PAUSE: Duration = Duration::from_millis(200);

/// The largest accepted difference between the clock of this host and the clock of edgeshim. The time limit of a
/// request is added to it.
const MOST_CLOCK_DIFFERENCE: Duration = Duration::from_secs(WINDOW_SECONDS);

/// The results of the requests for signed paths.
pub(crate) struct Signed {
    /// What arrived at edgeshim, or the failure.
    pub echo: Result<EchoReport, Verdict>,
    /// The member that smoke wrote into CDN-Loop.
    pub mark: String,
    /// The result of the check `cookies` for a signed path, if edgeshim reported what arrived.
    pub cookie: Option<Verdict>,
    pub recovery: Result<Recovery, Trouble>,
    pub kept: Option<Kept>,
}

impl Signed {
    /// Returns the point of presence that arrived at edgeshim.
    pub(crate) fn pop(&self) -> Option<String> {
        self.echo.as_ref().ok().map(|echo| echo.pop.clone()).filter(|pop| !pop.is_empty())
    }
}

/// Signs paths with the clock of edgeshim.
pub(crate) struct Signer<'a> {
    token: &'a Secret,
    /// The clock of edgeshim minus the clock of this host, in milliseconds.
    ahead_ms: i128,
}

impl<'a> Signer<'a> {
    pub(crate) fn new(token: &'a Secret) -> Self {
        Self { token, ahead_ms: 0 }
    }

    /// Returns the time of edgeshim, in milliseconds since 1970.
    fn now_ms(&self) -> u64 {
        u64::try_from(our_ms().saturating_add(self.ahead_ms)).unwrap_or(0)
    }

    /// Uses the clock of edgeshim from now on. `timeout` is the longest time for which the report was on its way.
    ///
    /// # Errors
    /// The path was signed with the clock of this host. edgeshim accepts such a path only if its clock differs by at
    /// most [`WINDOW_SECONDS`]. So a report with a larger difference is wrong, and its time is not used. The error is
    /// the result of the check `provider`.
    fn follow(&mut self, now_ms: u64, timeout: Duration) -> Result<(), Verdict> {
        let ahead_ms = i128::from(now_ms).saturating_sub(our_ms());
        let most = MOST_CLOCK_DIFFERENCE.saturating_add(timeout);
        if ahead_ms.unsigned_abs() > most.as_millis() {
            return Err(Verdict::fail(
                format!("the report says that the clock of edgeshim differs from the clock of this host by {} s", {
                    ahead_ms.unsigned_abs() / 1000
                }),
                format!("at most {} s", most.as_secs()),
                "set the clocks of both hosts (NTP), and let the CDN send the responses of edgeshim unchanged",
            ));
        }
        self.ahead_ms = ahead_ms;
        Ok(())
    }

    /// Returns the report in the response to a signed path. Returns `None` if the response has no valid report for this
    /// request.
    pub(crate) fn report(&self, question: &Question, response: &Recorded) -> Option<EchoReport> {
        // A CDN can compress the report.
        EchoReport::read(&response.decoded().ok()?, self.token, nonce(&question.target))
    }

    /// Returns a new path for a task.
    pub(crate) fn path(&self, task: Task) -> String {
        sign(self.token, task, self.now_ms() / 1000, &format!("{:016x}", fastrand::u64(..)))
    }
}

/// Sends the requests for signed paths.
pub(crate) async fn requests(target: &Target, options: &Options, token: &Secret, note: &Note) -> Signed {
    let mut signer = Signer::new(token);
    let mut probe = target.probe(options);
    let mark = format!("smoke-{:08x}", fastrand::u32(..));
    note(target, "forwarded-address");
    let mut question =
        target.question(&signer.path(Task::Echo), "gzip").with(&X_FORWARDED_FOR, FORGED).with(&CDN_LOOP, &mark);
    if let Some(field) = target.provider.as_ref().and_then(|named| named.preset.client_field()) {
        question = question.with(field, FORGED);
    }
    let outcome = probe.ask(&question).await;
    let found = outcome.as_ref().ok().and_then(|response| signer.report(&question, response));
    let found = found.ok_or_else(|| shim::no_echo(&outcome));
    let echo = match found.and_then(|echo| signer.follow(echo.now_ms, options.timeout).map(|()| echo)) {
        Ok(echo) => echo,
        Err(failure) => {
            let recovery = Err(Trouble::Late("the report of edgeshim"));
            return Signed { echo: Err(failure), mark, cookie: None, recovery, kept: None };
        }
    };
    note(target, "cookies");
    let cookie = cookie(&mut probe, target, &signer).await;
    let (mut for_error, mut for_kept) = (target.probe(options), target.probe(options));
    note(target, "error-not-cached");
    let (recovery, kept) =
        tokio::join!(recovery(&mut for_error, target, &signer), keep(&mut for_kept, target, &signer));
    Signed { echo: Ok(echo), mark, cookie: Some(cookie), recovery, kept }
}

async fn cookie(probe: &mut Probe, target: &Target, signer: &Signer<'_>) -> Verdict {
    let question = target.question(&signer.path(Task::Cookie), "identity");
    let mut pair: Vec<(Recorded, EchoReport)> = Vec::new();
    for _ in 0..2 {
        let outcome = probe.ask(&question).await;
        let report = outcome.as_ref().ok().and_then(|response| signer.report(&question, response));
        match (outcome, report) {
            (Ok(response), Some(report)) => pair.push((response, report)),
            (outcome, _) => return shim::no_echo(&outcome),
        }
    }
    match &pair[..] {
        [first, second] => shim::cookie((&first.0, &first.1), (&second.0, &second.1)),
        _ => Verdict::skip("edgeshim did not report"),
    }
}

/// Makes edgeshim fail with 503 for some seconds, and measures how long the edge sends errors after the end of this
/// failure.
async fn recovery(probe: &mut Probe, target: &Target, signer: &Signer<'_>) -> Result<Recovery, Trouble> {
    // edgeshim counts the duration of the failure from the start of the second in which the path was signed. So the
    // path is signed early in a second.
    let into_second = signer.now_ms() % 1000;
    if into_second > 300 {
        tokio::time::sleep(Duration::from_millis(1000 - into_second)).await;
    }
    let ends_ms = (signer.now_ms() / 1000).saturating_add(ERROR_SECONDS).saturating_mul(1000);
    let question = target.question(&signer.path(Task::Error), "identity");
    let first = probe.ask(&question).await?.status.as_u16();
    let limit = MOST_RECOVERY;
    if first < 500 {
        return Ok(Recovery { first, after: None, last: first, limit });
    }
    let left = Duration::from_millis(ends_ms.saturating_sub(signer.now_ms()));
    tokio::time::sleep(left + Duration::from_millis(50)).await;
    let from = Instant::now();
    loop {
        let response = probe.ask(&question).await?;
        let after = from.elapsed();
        let last = response.status.as_u16();
        // A page of the edge with the status 200 is no success.
        if response.status.is_success() && signer.report(&question, &response).is_some() {
            return Ok(Recovery { first, after: Some(after), last, limit });
        }
        if after > limit {
            return Ok(Recovery { first, after: None, last, limit });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Measures how long the edge keeps a response. Returns `None` if edgeshim did not report.
async fn keep(probe: &mut Probe, target: &Target, signer: &Signer<'_>) -> Option<Kept> {
    let question = target.question(&signer.path(Task::Cache(LIFETIME.as_secs())), "identity");
    let mut kept = Kept { granted: LIFETIME, until_other: None, limit: MOST_KEPT, was_stored: false };
    let first = id_of(probe, &question, signer).await?;
    let from = Instant::now();
    loop {
        tokio::time::sleep(PAUSE).await;
        let id = id_of(probe, &question, signer).await?;
        let time = from.elapsed();
        if id == first {
            kept.was_stored = true;
        } else if kept.was_stored || time > LIFETIME {
            kept.until_other = Some(time);
        }
        // Without a copy in the cache, each request gets another response.
        let is_uncached = !kept.was_stored && time > PAUSE * 5;
        if kept.until_other.is_some() || time > MOST_KEPT || is_uncached {
            return Some(kept);
        }
    }
}

/// Requests a signed path. Returns the id of the report, or `None` if edgeshim did not report.
pub(crate) async fn id_of(probe: &mut Probe, question: &Question, signer: &Signer<'_>) -> Option<String> {
    Some(signer.report(question, &probe.ask(question).await.ok()?)?.id)
}

/// Returns the time of this host, in milliseconds since 1970.
fn our_ms() -> i128 {
    i128::try_from(unix_time().as_millis()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_of_edgeshim_when_its_difference_exceeds_window_and_timeout_then_is_not_used() {
        let token = Secret::new("a-token-for-this-test");
        let ours = || u64::try_from(our_ms()).unwrap();
        let timeout = Duration::from_secs(10);
        for (now_ms, is_accepted) in [
            (ours() + 65_000, true),
            (ours() - 65_000, true),
            (ours() + 110_000, false),
            (ours() - 110_000, false),
            (0, false),
            (u64::MAX, false),
        ] {
            let mut signer = Signer::new(&token);
            assert_eq!(signer.follow(now_ms, timeout).is_ok(), is_accepted, "{now_ms}");
            let expected = if is_accepted { now_ms } else { ours() };
            assert!(signer.now_ms().abs_diff(expected) < 5_000, "{now_ms}: {}", signer.now_ms());
        }
    }
}
