//! `edgeshim smoke`: sends requests to the edge of a CDN and to the origin, and checks that the CDN obeys the header
//! fields of the origin. Only `cli` uses this room.
//!
//! `session` sends the requests for one URL. `signed` sends the requests to which edgeshim itself responds. `probe` is
//! the client. The functions in `checks` decide about recorded responses, so these functions can be tested without a
//! socket. `score` compares two CDNs.

mod cache_result;
mod checks;
mod place;
mod probe;
mod recorded;
mod results;
mod score;
mod session;
mod signed;
mod targets;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::checks::timing;
pub(crate) use self::checks::timing::millis;
pub(crate) use self::place::{Server, Url};
use self::probe::{Probe, Question};
pub(crate) use self::results::{Check, Flaw, Report, Verdict};
pub(crate) use self::score::{Card, Row, compare};
use self::targets::probe_of;
pub(crate) use self::targets::{Named, Note, Options, Target};
pub(crate) use self::trust::Trust;
use crate::wire::names::ACCEPT_ENCODING;

/// The largest number of targets that are checked at the same time.
const AT_ONCE: usize = 4;
/// The number of responses whose time to the first byte is measured.
const SAMPLES: usize = 21;

/// The number of failed requests after which the measurement ends.
const MOST_FAILED: usize = 3;

/// What the time to the first byte is compared with.
#[derive(Debug, Clone)]
pub(crate) enum Baseline {
    /// Times of an earlier run: URL, provider and time. The text is the name of the file.
    Times(String, Vec<(String, Option<String>, Duration)>),
    /// A server. If the URL has no path, the path of each checked URL is used.
    Url(Url),
}

/// Makes all checks of all targets. `measures`: whether the time to the first byte is measured even without a baseline.
pub(crate) async fn smoke(
    targets: Vec<Target>,
    options: Arc<Options>,
    baseline: Option<Baseline>,
    measures: bool,
    note: Note,
    done: impl Fn(&Report),
) -> Vec<Report> {
    let check = |target| Box::pin(session::check(target, Arc::clone(&options), Arc::clone(&note)));
    let mut reports = all(&targets, check, |report| {
        // Times are measured when no other request runs, so a result with a baseline is not complete yet.
        if baseline.is_none() {
            report.verdicts.push((Check::Ttfb, Verdict::skip("no --baseline is given")));
        }
        done(report);
    })
    .await;
    if baseline.is_some() || measures {
        for (target, report) in targets.iter().zip(&mut reports) {
            // `reach` passes if only TLS fails or if the request is in a loop, but then no response can be measured.
            let decisive = [Check::Reach, Check::Tls, Check::Loop].map(Check::name);
            if !report.failed().any(|name| decisive.contains(&name)) {
                note(target, "ttfb");
                time(target, &options, baseline.as_ref(), report).await;
            } else if baseline.is_some() {
                report.verdicts.push((Check::Ttfb, Verdict::skip("there is no response")));
            }
        }
    }
    reports
}

/// Calls `check` for each target, at most [`AT_ONCE`] times in parallel. Calls `done` for each report. Returns the
/// reports in the order of the targets.
async fn all<F>(targets: &[Target], check: impl Fn(Target) -> F, mut done: impl FnMut(&mut Report)) -> Vec<Report>
where
    F: Future<Output = Report> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for (position, target) in targets.iter().enumerate() {
        let (task, permits) = (check(target.clone()), Arc::clone(&permits));
        tasks.spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire_owned().await;
            // The checks of a target run in a task of their own, so that the position is still known after a panic.
            (position, tokio::spawn(task).await.ok())
        });
    }
    let mut reports: Vec<Option<Report>> = vec![None; targets.len()];
    while let Some(result) = tasks.join_next().await {
        if let Ok((position, Some(mut report))) = result {
            done(&mut report);
            if let Some(place) = reports.get_mut(position) {
                *place = Some(report);
            }
        }
    }
    let mut lost = |target: &Target| {
        let mut report = lost(target);
        done(&mut report);
        report
    };
    reports.into_iter().zip(targets).map(|(report, target)| report.unwrap_or_else(|| lost(target))).collect()
}

/// Returns the report about a target whose checks ended with a panic. The panic hook has written the message.
fn lost(target: &Target) -> Report {
    let verdict = Verdict::fail(
        "the checks ended with an internal error of edgeshim, so there is no result",
        "a result of each check",
        "report the message on standard error to the maintainers of edgeshim",
    );
    Report {
        url: target.url.text.clone(),
        provider: target.provider.as_ref().map(|named| named.name.clone()),
        edge: target.edge.to_string(),
        verdicts: vec![(Check::Reach, verdict)],
        pop: None,
        ttfb: None,
    }
}

/// Measures the time to the first byte, and compares it with the baseline.
async fn time(target: &Target, options: &Options, baseline: Option<&Baseline>, report: &mut Report) {
    let mut probe = target.probe(options);
    let question = target.question(target.url.target(), "gzip");
    let (mut edge, mut other) = (Samples::default(), Samples::default());
    let mut beside = match baseline {
        Some(Baseline::Url(url)) => {
            let path = if url.path.is_empty() { target.url.target() } else { url.target() };
            let question = Question::get(path).with(&ACCEPT_ENCODING, "gzip");
            Some((probe_of(url, &url.authority, options), question))
        }
        _ => None,
    };
    // The first response of each server is not counted, because a new connection and an empty cache can make it slower.
    for counts in (0..=SAMPLES).map(|number| number > 0) {
        sample(&mut probe, &question, counts, &mut edge).await;
        if edge.failed >= MOST_FAILED {
            // Each further request could take as long as the time limit.
            break;
        }
        if let Some((probe, question)) = &mut beside {
            sample(probe, question, counts, &mut other).await;
        }
    }
    report.ttfb = timing::median(edge.times);
    let (baseline, name) = match baseline {
        None => return,
        Some(Baseline::Url(url)) => (timing::median(other.times), url.text.clone()),
        Some(Baseline::Times(name, times)) => {
            let is_this = |(url, provider, _): &&(String, Option<String>, Duration)| {
                *url == report.url && *provider == report.provider
            };
            (times.iter().find(is_this).map(|(_, _, time)| *time), name.clone())
        }
    };
    report.verdicts.push((Check::Ttfb, timing::ttfb(report.ttfb, edge.failed, baseline, &name)));
}

/// What was measured at one server.
#[derive(Debug, Default)]
struct Samples {
    times: Vec<Duration>,
    /// The number of requests that got an error or no response. Their times do not count, because an error can be
    /// faster than a success.
    failed: usize,
}

async fn sample(probe: &mut Probe, question: &Question, counts: bool, samples: &mut Samples) {
    match probe.ask(question).await {
        Ok(response) if response.status.is_success() => {
            if counts {
                samples.times.push(response.ttfb);
            }
        }
        _ => samples.failed += 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn report_when_checks_of_a_target_panic_then_fails_and_the_other_reports_remain() {
        let target = |text: &str| {
            let url = Url::parse(text).unwrap();
            Target { edge: url.server.clone(), url, provider: None }
        };
        let targets = ["http://a.test/", "http://panic.test/", "http://c.test/"].map(target);
        let check = |target: Target| async move {
            assert!(target.edge.host != "panic.test", "this panic is part of the test");
            Report { verdicts: vec![(Check::Reach, Verdict::pass("x"))], ..lost(&target) }
        };
        let mut done = 0;
        let reports = all(&targets, check, |_| done += 1).await;
        let urls: Vec<_> = reports.iter().map(|report| report.url.as_str()).collect();
        assert_eq!((done, urls), (3, vec!["http://a.test/", "http://panic.test/", "http://c.test/"]));
        let failed: Vec<_> = reports.iter().map(|report| report.failed().count()).collect();
        assert_eq!(failed, [0, 1, 0]);
    }
}
