//! `edgeshim smoke`: sends requests to the edge of a CDN and to the origin, and checks that the CDN does what the
//! origin tells it. Only `cli` uses this room.
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

/// The number of targets that are checked at the same time.
const AT_ONCE: usize = 4;
/// The number of responses whose time to the first byte is measured.
const SAMPLES: usize = 21;

/// What the time to the first byte is compared with.
#[derive(Debug, Clone)]
pub(crate) enum Baseline {
    /// Times of an earlier run: URL, provider and time. The text is the name of the file.
    Times(String, Vec<(String, Option<String>, Duration)>),
    /// A server. If the URL has no path, the path of each checked URL is used.
    Url(Url),
}

/// Makes all checks of all targets. `measures` requests the time to the first byte without a baseline.
pub(crate) async fn smoke(
    targets: Vec<Target>,
    options: Arc<Options>,
    baseline: Option<Baseline>,
    measures: bool,
    note: Note,
    done: impl Fn(&Report),
) -> Vec<Report> {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for (position, target) in targets.iter().cloned().enumerate() {
        let (options, note, permits) = (Arc::clone(&options), Arc::clone(&note), Arc::clone(&permits));
        tasks.spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire_owned().await;
            (position, Box::pin(session::check(target, options, note)).await)
        });
    }
    let mut reports = Vec::new();
    while let Some(result) = tasks.join_next().await {
        if let Ok((position, mut report)) = result {
            // Times are measured when no other request runs, so a result with a baseline is not complete yet.
            if baseline.is_none() {
                report.verdicts.push((Check::Ttfb, Verdict::skip("no --baseline is given")));
            }
            done(&report);
            reports.push((position, report));
        }
    }
    reports.sort_by_key(|(position, _)| *position);
    let mut reports: Vec<_> = reports.into_iter().map(|(_, report)| report).collect();
    if baseline.is_some() || measures {
        for (target, report) in targets.iter().zip(&mut reports) {
            if report.verdicts.iter().any(|(check, verdict)| *check == Check::Reach && verdict.word() == "pass") {
                note(target, "ttfb");
                time(target, &options, baseline.as_ref(), report).await;
            } else if baseline.is_some() {
                report.verdicts.push((Check::Ttfb, Verdict::skip("there is no response")));
            }
        }
    }
    reports
}

/// Measures the time to the first byte, and compares it with the baseline.
async fn time(target: &Target, options: &Options, baseline: Option<&Baseline>, report: &mut Report) {
    let mut probe = target.probe(options);
    let question = target.question(target.url.target(), "gzip");
    let (mut edge, mut other) = (Vec::new(), Vec::new());
    let mut beside = match baseline {
        Some(Baseline::Url(url)) => {
            let path = if url.path.is_empty() { target.url.target() } else { url.target() };
            let question = Question::get(path).with(&ACCEPT_ENCODING, "gzip");
            Some((probe_of(url, &url.authority, options), question))
        }
        _ => None,
    };
    // The first response of each server includes the connection, so it is not counted.
    for counts in (0..=SAMPLES).map(|number| number > 0) {
        sample(&mut probe, &question, counts, &mut edge).await;
        if let Some((probe, question)) = &mut beside {
            sample(probe, question, counts, &mut other).await;
        }
    }
    report.ttfb = timing::median(edge);
    let (baseline, name) = match baseline {
        None => return,
        Some(Baseline::Url(url)) => (timing::median(other), url.text.clone()),
        Some(Baseline::Times(name, times)) => {
            let is_this = |(url, provider, _): &&(String, Option<String>, Duration)| {
                *url == report.url && *provider == report.provider
            };
            (times.iter().find(is_this).map(|(_, _, time)| *time), name.clone())
        }
    };
    report.verdicts.push((Check::Ttfb, timing::ttfb(report.ttfb, baseline, &name)));
}

async fn sample(probe: &mut Probe, question: &Question, counts: bool, times: &mut Vec<Duration>) {
    if let Ok(response) = probe.ask(question).await
        && counts
    {
        times.push(response.ttfb);
    }
}
