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
use crate::intake::signed_path::{ERROR_SECONDS, Task, sign};
use crate::wire::names::{CDN_LOOP, X_FORWARDED_FOR};
use crate::wire::secret::Secret;

/// The lifetime of the response whose time in the cache is measured.
const LIFETIME: Duration = Duration::from_secs(3);
/// The time after which the measurement ends.
const MOST_KEPT: Duration = Duration::from_secs(9);
/// The time for which success is awaited after a forced 503.
const MOST_RECOVERY: Duration = Duration::from_secs(15);
/// The pause between two requests of a measurement.
const PAUSE: Duration = Duration::from_millis(200);

/// What the signed paths led to.
pub(crate) struct Signed {
    /// What arrived at edgeshim, or the failure.
    pub echo: Result<EchoReport, Verdict>,
    /// The member that smoke wrote into CDN-Loop.
    pub mark: String,
    /// The result of the check `cookies`, if edgeshim reported.
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
        let ours = i128::try_from(unix_time().as_millis()).unwrap_or(0);
        u64::try_from(ours + self.ahead_ms).unwrap_or(0)
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
    let found = outcome.as_ref().ok().and_then(|response| EchoReport::read(&response.body));
    let Some(echo) = found else {
        let failure = Err(shim::no_echo(&outcome));
        let recovery = Err(Trouble::Late("the report of edgeshim"));
        return Signed { echo: failure, mark, cookie: None, recovery, kept: None };
    };
    let ours = i128::try_from(unix_time().as_millis()).unwrap_or(0);
    signer.ahead_ms = i128::from(echo.now_ms) - ours;
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
        let report = outcome.as_ref().ok().and_then(|response| EchoReport::read(&response.body));
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

/// Lets edgeshim send a 503, and measures how long the edge sends errors after that.
async fn recovery(probe: &mut Probe, target: &Target, signer: &Signer<'_>) -> Result<Recovery, Trouble> {
    // edgeshim counts from the start of the second of the signature. So the signature is made early in a second.
    let into_second = signer.now_ms() % 1000;
    if into_second > 300 {
        tokio::time::sleep(Duration::from_millis(1000 - into_second)).await;
    }
    let ends_ms = (signer.now_ms() / 1000 + ERROR_SECONDS) * 1000;
    let question = target.question(&signer.path(Task::Error), "identity");
    let first = probe.ask(&question).await?.status.as_u16();
    let limit = MOST_RECOVERY;
    if first < 500 {
        return Ok(Recovery { first, after: None, limit });
    }
    let left = Duration::from_millis(ends_ms.saturating_sub(signer.now_ms()));
    tokio::time::sleep(left + Duration::from_millis(50)).await;
    let from = Instant::now();
    loop {
        let is_success = probe.ask(&question).await?.status.is_success();
        let after = from.elapsed();
        if is_success {
            return Ok(Recovery { first, after: Some(after), limit });
        }
        if after > limit {
            return Ok(Recovery { first, after: None, limit });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Measures how long the edge keeps a response. Returns `None` if edgeshim did not report.
async fn keep(probe: &mut Probe, target: &Target, signer: &Signer<'_>) -> Option<Kept> {
    let question = target.question(&signer.path(Task::Cache(LIFETIME.as_secs())), "identity");
    let mut kept = Kept { granted: LIFETIME, until_other: None, limit: MOST_KEPT, was_stored: false };
    let first = EchoReport::read(&probe.ask(&question).await.ok()?.body)?.id;
    let from = Instant::now();
    loop {
        tokio::time::sleep(PAUSE).await;
        let report = EchoReport::read(&probe.ask(&question).await.ok()?.body)?;
        let time = from.elapsed();
        if report.id == first {
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

/// Requests a path without conditions. `None`: edgeshim did not report.
pub(crate) async fn id_of(probe: &mut Probe, question: &Question) -> Option<String> {
    Some(EchoReport::read(&probe.ask(question).await.ok()?.body)?.id)
}
