//! Probes: one GET for each edge. A probe succeeds if the status of the response is from 200 to 399, and if the whole
//! response, or its first 64 KiB, arrived within the time limit. Redirections are not followed.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::balance::api_call::{probe, report};
use crate::balance::watch_keys::ProbeUrl;
use crate::wire::json::is_active;

/// The largest number of probes that run at the same time.
const AT_ONCE: usize = 64;
/// The longest text about a failure, in characters.
const MAX_TEXT: usize = 300;

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probed {
    /// The status of the response, or why there is no complete response.
    pub answer: Result<u16, String>,
    pub took: Duration,
}

impl Probed {
    pub(crate) fn is_success(&self) -> bool {
        self.answer.as_ref().is_ok_and(|status| (200..400).contains(status))
    }
}

impl fmt::Display for Probed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.answer {
            Ok(status) => write!(f, "status {status} after {} ms", self.took.as_millis()),
            Err(text) => f.write_str(text),
        }
    }
}

/// Probes all URLs, up to `AT_ONCE` of them at the same time. Returns the results in the order of the URLs.
pub(crate) async fn probe_all(urls: Vec<ProbeUrl>, limit: Duration, is_verbose: bool) -> Vec<Probed> {
    let lost = Probed { answer: Err("the probe was not made".to_owned()), took: Duration::ZERO };
    let mut results = vec![lost; urls.len()];
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for (at, url) in urls.into_iter().enumerate() {
        let permits = Arc::clone(&permits);
        tasks.spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire_owned().await;
            let started = Instant::now();
            let answer = probe(&url.server, &url.target, limit).await.map_err(|text| shown(&text));
            let probed = Probed { answer, took: started.elapsed() };
            if is_verbose {
                report(&format!("GET {url}: {probed}"));
            }
            (at, probed)
        });
    }
    while let Some(result) = tasks.join_next().await {
        if let Ok((at, probed)) = result
            && let Some(place) = results.get_mut(at)
        {
            *place = probed;
        }
    }
    results
}

/// Shortens a text, and removes characters that control a terminal. The text can contain names from the certificate of
/// a server.
fn shown(text: &str) -> String {
    text.chars().filter(|&character| !character.is_control() && !is_active(character)).take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_when_status_is_2xx_or_3xx_then_succeeds() {
        let probed = |answer| Probed { answer, took: Duration::from_millis(12) };
        for (status, wanted) in [(200, true), (204, true), (302, true), (399, true), (400, false), (503, false)] {
            assert_eq!(probed(Ok(status)).is_success(), wanted, "{status}");
        }
        assert!(!probed(Err("no connection".to_owned())).is_success());
        assert_eq!(probed(Ok(503)).to_string(), "status 503 after 12 ms");
        assert_eq!(shown("a\u{1b}[2J\u{202e}b"), "a[2Jb");
    }
}
