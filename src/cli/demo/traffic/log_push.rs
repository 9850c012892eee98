//! Pushes the log of a simulated CDN to edgeshim each second. The simulated Cloudflare compresses its log with gzip, as
//! the real Cloudflare does.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use tokio::time::MissedTickBehavior;

use super::cache::Dialect;
use super::simulated_cdn::Connection;
use super::tally::Tally;

/// The time between two pushes.
const PERIOD: Duration = Duration::from_secs(1);
/// The time limit for the response to a push.
const PUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Where and how a CDN pushes its log.
#[derive(Debug)]
pub(super) struct LogPush {
    shim: SocketAddr,
    /// Whether the CDN compresses its log.
    compresses: bool,
    uri: String,
    authorization: HeaderValue,
    host: HeaderValue,
}

impl LogPush {
    /// Prepares pushes of the log that the CDN `name` writes. Returns `None` if the token has a character that is
    /// invalid in a header field.
    pub(super) fn new(shim: SocketAddr, name: &str, dialect: Dialect, token: &str, host: &'static str) -> Option<Self> {
        Some(Self {
            shim,
            compresses: dialect == Dialect::Cloudflare,
            uri: format!("/.edgeshim/edge-logs/{name}"),
            authorization: HeaderValue::from_str(&format!("Bearer {token}")).ok()?,
            host: HeaderValue::from_static(host),
        })
    }

    /// Each second, pushes the log lines that are not pushed yet, if there are any. If edgeshim does not respond with
    /// 200, the next push repeats the lines. When `ended` is set, makes one more push and returns. If this last push
    /// fails, its lines are never pushed.
    pub(super) async fn each_second(&self, tally: &Tally, ended: &AtomicBool) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let is_last = ended.load(Ordering::Relaxed);
            let lines = tally.take_log();
            if !lines.is_empty() && self.push(&lines).await != Some(StatusCode::OK) {
                tally.put_back(lines);
            }
            if is_last {
                return;
            }
        }
    }

    async fn push(&self, lines: &str) -> Option<StatusCode> {
        let mut body = Bytes::copy_from_slice(lines.as_bytes());
        if self.compresses {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&body).ok()?;
            body = gzip.finish().ok()?.into();
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.parse().ok()?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(AUTHORIZATION, self.authorization.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        if self.compresses {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let mut connection = Connection::open(self.shim).await?;
        let response = tokio::time::timeout(PUSH_TIMEOUT, connection.send(request)).await.ok()?;
        Some(response?.status())
    }
}
