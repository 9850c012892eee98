//! The log of a simulated CDN: a line for each request of a visitor, in the form in which the real CDN writes its log.

use std::fmt::Write as _;
use std::time::Duration;

use http::StatusCode;
use time::UtcDateTime;

use super::cache::Dialect;

use crate::clock;

/// If the lines that wait for a push have more bytes than this number, no further line is written. Without this limit,
/// the lines could exceed `edge_logs.max_body` while edgeshim does not respond.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;

/// How a CDN served a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Hit,
    Miss,
    Revalidated,
    Error,
}

/// One request, as the log reports it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'e> {
    pub(super) path: &'e str,
    pub(super) status: StatusCode,
    pub(super) bytes: usize,
    pub(super) outcome: Outcome,
}

impl Dialect {
    /// Returns the text of an outcome in the log of this CDN.
    fn outcome(self, outcome: Outcome) -> &'static str {
        match (self, outcome) {
            (Self::Fastly, Outcome::Hit) => "HIT",
            (Self::Fastly, Outcome::Miss | Outcome::Revalidated) => "MISS",
            (Self::Fastly, Outcome::Error) => "ERROR",
            (Self::Cloudflare, Outcome::Hit) => "hit",
            (Self::Cloudflare, Outcome::Revalidated) => "revalidated",
            (Self::Cloudflare, Outcome::Miss | Outcome::Error) => "miss",
            (Self::Akamai, Outcome::Hit) => "1",
            (Self::Akamai, Outcome::Miss | Outcome::Revalidated | Outcome::Error) => "0",
        }
    }

    /// Appends the line of a request to a log. `time` is the time since 1970.
    pub(super) fn log(self, log: &mut String, time: Duration, entry: &Entry<'_>) {
        if log.len() > MAX_WAITING_BYTES {
            return;
        }
        let Entry { path, status, bytes, outcome } = entry;
        let (outcome, status) = (self.outcome(*outcome), status.as_u16());
        // The paths come from the demo's site and from `crowd`. No path contains a character that JSON must escape.
        let _ = match self {
            Self::Fastly => writeln!(
                log,
                "{{\"timestamp\":\"{}\",\"url\":\"{path}\",\"response_state\":\"{outcome}\",\
                 \"response_status\":{status},\"response_body_size\":{bytes}}}",
                rfc3339(time),
            ),
            Self::Cloudflare => writeln!(
                log,
                "{{\"EdgeStartTimestamp\":{},\"ClientRequestURI\":\"{path}\",\"CacheCacheStatus\":\"{outcome}\",\
                 \"EdgeResponseStatus\":{status},\"EdgeResponseBytes\":{bytes}}}",
                time.as_nanos(),
            ),
            Self::Akamai => writeln!(
                log,
                "{{\"reqTimeSec\":\"{}.{:03}\",\"reqPath\":\"{path}\",\"cacheStatus\":\"{outcome}\",\
                 \"statusCode\":\"{status}\",\"bytes\":\"{bytes}\"}}",
                time.as_secs(),
                time.subsec_millis(),
            ),
        };
    }
}

/// Returns the current time since 1970.
pub(super) fn now() -> Duration {
    clock::unix_time()
}

fn rfc3339(time: Duration) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let date = UtcDateTime::from_unix_timestamp(seconds).unwrap_or(UtcDateTime::UNIX_EPOCH);
    format!(
        "{}-{:02}-{:02}T{:02}:{:02}:{:02}+0000",
        date.year(),
        u8::from(date.month()),
        date.day(),
        date.hour(),
        date.minute(),
        date.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_line_when_written_then_has_the_log_format_of_the_cdn() {
        let time = Duration::new(1_700_000_000, 250_000_000);
        let log = |dialect: Dialect, outcome| {
            let mut log = String::new();
            dialect.log(&mut log, time, &Entry { path: "/a?b=c", status: StatusCode::OK, bytes: 7, outcome });
            log
        };
        assert_eq!(
            log(Dialect::Fastly, Outcome::Hit),
            "{\"timestamp\":\"2023-11-14T22:13:20+0000\",\"url\":\"/a?b=c\",\"response_state\":\"HIT\",\
             \"response_status\":200,\"response_body_size\":7}\n"
        );
        assert_eq!(
            log(Dialect::Cloudflare, Outcome::Revalidated),
            "{\"EdgeStartTimestamp\":1700000000250000000,\"ClientRequestURI\":\"/a?b=c\",\
             \"CacheCacheStatus\":\"revalidated\",\"EdgeResponseStatus\":200,\"EdgeResponseBytes\":7}\n"
        );
        assert_eq!(
            log(Dialect::Akamai, Outcome::Error),
            "{\"reqTimeSec\":\"1700000000.250\",\"reqPath\":\"/a?b=c\",\"cacheStatus\":\"0\",\
             \"statusCode\":\"200\",\"bytes\":\"7\"}\n"
        );
    }
}
