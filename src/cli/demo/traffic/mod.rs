//! Simulates CDNs and their visitors, so that the demo's offload and counters change. A visitor is one simulated
//! browser. The browser makes one request. If the response is an error page with a beacon, the browser also requests
//! the beacon.
//!
//! Three CDNs with caches pull from edgeshim, which the code here calls the shim. Visitors choose among the site's
//! paths by Zipf's law (see `crowd`), because requests to real sites follow Zipf's law. Errors are counted and do not
//! end the run. If there is a token, each CDN pushes its log to edgeshim once a second.

mod cache;
mod crowd;
mod edge_log;
mod log_push;
mod simulated_cdn;
mod tally;

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use http::Uri;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use self::cache::Dialect;
use self::crowd::Crowd;
use self::log_push::LogPush;
use self::simulated_cdn::{Cdn, Delivered};
use self::tally::{Counts, Tally};

/// The value of the Host field in every request.
const HOST: &str = "demo.edgeshim.test";
/// The largest number of visitors at one time. Further visitors are dropped without a request.
const MAX_VISITORS: usize = 256;
/// The largest number of new visitors per second. A larger number in the settings is reduced to this number.
const MAX_RATE: u32 = 10_000;
/// The interval at which new visitors arrive.
const TICK: Duration = Duration::from_millis(10);
/// The time limit for serving the remaining visitors after the last visitor has arrived.
const LAST_VISITORS: Duration = Duration::from_secs(10);
/// The number of bytes of an error page, after decompression, that are searched for a beacon.
const MAX_PAGE_BYTES: u64 = 1024 * 1024;
/// The number of bytes before and after an occurrence of [`BEACON`] that are searched for the quotes around the
/// address.
const MAX_BEACON_BYTES: usize = 2048;
/// The largest number of occurrences of [`BEACON`] in one page that are examined.
const MAX_BEACONS: usize = 16;
/// The text by which the address of a beacon is found in a page.
const BEACON: &str = "beacon.gif?";

/// The simulated CDNs. Each has a name, a weight in the choice of a visitor's CDN, a dialect and a Via value.
const PROVIDERS: [(&str, u32, Dialect, &str); 3] = [
    ("fastly", 50, Dialect::Fastly, "1.1 demo-fastly"),
    ("cloudflare", 30, Dialect::Cloudflare, "1.1 demo-cloudflare"),
    ("akamai", 20, Dialect::Akamai, "1.1 demo-akamai"),
];

#[derive(Debug, Clone)]
pub(super) struct TrafficSettings {
    /// The address on which edgeshim listens.
    pub(super) shim: SocketAddr,
    /// The number of new visitors per second, for all CDNs together, at most 10,000.
    pub(super) visitors_per_second: u32,
    /// The number of visitors. `None`: visitors arrive until the future is dropped.
    pub(super) visitors: Option<u32>,
    /// The seed of the random choices of the visitors.
    pub(super) seed: u64,
    /// The counts, which can be read during the run.
    pub(super) live: Arc<Live>,
    /// The token for pushing logs. `None`: the CDNs have no logs.
    pub(super) log_token: Option<String>,
}

impl TrafficSettings {
    /// Creates settings with forty visitors per second and without an end.
    pub(super) fn new(shim: SocketAddr) -> Self {
        Self { shim, visitors_per_second: 40, visitors: None, seed: 1, live: Arc::default(), log_token: None }
    }
}

/// The counts of all CDNs, which grow during the run.
#[derive(Debug)]
pub(super) struct Live([Tally; PROVIDERS.len()]);

impl Default for Live {
    fn default() -> Self {
        Self(PROVIDERS.map(|(name, ..)| Tally::new(name)))
    }
}

impl Live {
    pub(super) fn report(&self) -> Vec<Counts> {
        self.0.iter().map(Tally::counts).collect()
    }
}

/// Sends visitors through the simulated CDNs. After the last visitor has arrived, waits until all visitors have been
/// served, for at most [`LAST_VISITORS`]. If there is a token, then waits until each CDN has pushed its last log lines,
/// or has failed to push them. Then returns the counts.
pub(super) async fn run(settings: TrafficSettings) -> Vec<Counts> {
    let TrafficSettings { shim, visitors_per_second, visitors, seed, live, log_token } = settings;
    let token = log_token.as_deref();
    let cdns =
        PROVIDERS.map(|(name, _, dialect, via)| Arc::new(Cdn::new(shim, name, dialect, via, HOST, token.is_some())));
    let (mut pushing, ended) = (JoinSet::new(), Arc::<AtomicBool>::default());
    for (index, (name, _, dialect, _)) in PROVIDERS.into_iter().enumerate() {
        let Some(push) = token.and_then(|token| LogPush::new(shim, name, dialect, token, HOST)) else { continue };
        let (live, ended) = (Arc::clone(&live), Arc::clone(&ended));
        pushing.spawn(async move {
            let Some(tally) = live.0.get(index) else { return };
            push.each_second(tally, &ended).await;
        });
    }
    let rate = u128::from(visitors_per_second.min(MAX_RATE));
    let mut crowd = Crowd::new(seed, PROVIDERS.iter().map(|provider| provider.1).collect());
    let mut visits = JoinSet::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let begun = Instant::now();
    let mut arrived = 0_u128;
    let mut left = visitors;
    while left != Some(0) {
        ticks.tick().await;
        let due = begun.elapsed().as_millis() * rate / 1000;
        // If this loop was paused, for example because a laptop was suspended, only the missed visitors of the last
        // second are added.
        arrived = arrived.max(due.saturating_sub(rate));
        while arrived < due && left != Some(0) {
            arrived += 1;
            left = left.map(|left| left - 1);
            while visits.try_join_next().is_some() {}
            let (index, visit) = crowd.next_visit();
            let Some(cdn) = cdns.get(index).filter(|_| visits.len() < MAX_VISITORS) else {
                continue;
            };
            let (cdn, live) = (Arc::clone(cdn), Arc::clone(&live));
            visits.spawn(async move {
                let Some(tally) = live.0.get(index) else { return };
                let delivered = cdn.serve(&visit, tally).await;
                if let Some(beacon) = beacon(&delivered) {
                    simulated_cdn::fetch_beacon(shim, HOST, &beacon).await;
                }
            });
        }
    }
    // If edgeshim does not respond, some visitors are not served in time. The visitors that still wait when this
    // function returns are dropped, and their requests at the edge are not counted.
    let last_ones = async { while visits.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_VISITORS, last_ones).await;
    ended.store(true, Ordering::Relaxed);
    while pushing.join_next().await.is_some() {}
    live.report()
}

/// Returns the path and query of the beacon in an error page. The host in the beacon's address is ignored. `None`: the
/// response is not an error page with a beacon.
fn beacon(delivered: &Delivered) -> Option<String> {
    if delivered.status.as_u16() < 500 || delivered.body.is_empty() {
        return None;
    }
    let mut page = Vec::new();
    if delivered.gzip {
        MultiGzDecoder::new(delivered.body.as_ref()).take(MAX_PAGE_BYTES).read_to_end(&mut page).ok()?;
    } else {
        delivered.body.as_ref().take(MAX_PAGE_BYTES).read_to_end(&mut page).ok()?;
    }
    beacon_address(&String::from_utf8_lossy(&page))
}

/// Returns the path and query of the first quoted address that contains [`BEACON`].
fn beacon_address(page: &str) -> Option<String> {
    let quotes = ['"', '\''];
    page.match_indices(BEACON).take(MAX_BEACONS).find_map(|(at, _)| {
        let earliest = page.floor_char_boundary(at.saturating_sub(MAX_BEACON_BYTES));
        let latest = page.floor_char_boundary(at.saturating_add(MAX_BEACON_BYTES));
        let start = page.get(earliest..at)?.rfind(quotes)? + earliest + 1;
        let end = page.get(at..latest)?.find(quotes)? + at;
        let address = page.get(start..end)?.replace("&amp;", "&");
        // In the demo, a host in the address is only another name for the same edgeshim, so the host is removed.
        let named = ["//", "https://", "http://"].into_iter().find_map(|prefix| address.strip_prefix(prefix));
        let local = match named {
            Some(rest) => rest.get(rest.find('/')?..)?,
            None => &address,
        };
        let uri: Uri = local.parse().ok()?;
        local.starts_with('/').then(|| uri.path_and_query().map(ToString::to_string))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::site;
    use crate::wire::names;
    use flate2::{Compression, write::GzEncoder};
    use http::{HeaderValue, Request, StatusCode};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use std::convert::Infallible;
    use std::io::Write;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;
    use tokio::net::TcpListener;

    #[test]
    fn beacon_when_page_is_a_readable_5xx_then_is_found_and_unescaped() {
        let page = r#"<p title="beacon.gif?"><img src="/status/images/beacon.gif?source=fastly&amp;id=ab1" alt="">"#;
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(page.as_bytes()).expect("a write to memory succeeds");
        let packed = packed.finish().expect("a write to memory succeeds");
        let wanted = Some("/status/images/beacon.gif?source=fastly&id=ab1".to_owned());
        let delivered = |status, body: &[u8], gzip| Delivered { status, body: body.to_vec().into(), gzip };
        assert_eq!(beacon(&delivered(StatusCode::SERVICE_UNAVAILABLE, &packed, true)), wanted);
        assert_eq!(beacon(&delivered(StatusCode::BAD_GATEWAY, page.as_bytes(), false)), wanted);
        assert_eq!(beacon(&delivered(StatusCode::NOT_FOUND, page.as_bytes(), false)), None);
        assert_eq!(beacon(&delivered(StatusCode::BAD_GATEWAY, page.as_bytes(), true)), None);
    }

    #[test]
    fn beacon_address_when_host_is_present_then_host_is_removed() {
        assert_eq!(beacon_address("'//b.example/x/beacon.gif?id=1'"), Some("/x/beacon.gif?id=1".to_owned()));
        assert_eq!(
            beacon_address("'https://b.example/beacon.gif?u=http://a/'"),
            Some("/beacon.gif?u=http://a/".to_owned())
        );
        assert_eq!(beacon_address("'beacon.gif?id=1' 'é/beacon.gif?"), None);
    }

    proptest! {
        #[test]
        fn beacon_address_when_page_is_arbitrary_then_is_a_valid_path_or_absent(
            page in "([ -~é\"']|beacon\\.gif\\?|//){0,60}",
        ) {
            if let Some(address) = beacon_address(&page) {
                prop_assert!(address.starts_with('/') && address.parse::<Uri>().is_ok());
            }
        }
    }

    /// Serves the site in place of edgeshim. Adds Cache-Control to each response, and counts the pulls and body bytes.
    async fn cached_site(listener: TcpListener, pulls: Arc<AtomicU64>, bytes: Arc<AtomicU64>) {
        let site = Arc::new(site::Site::new());
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (site, pulls, bytes) = (Arc::clone(&site), Arc::clone(&pulls), Arc::clone(&bytes));
            connections.spawn(async move {
                let service = service_fn(|request: Request<Incoming>| async {
                    assert_eq!(request.headers()[names::HOST], HOST);
                    pulls.fetch_add(1, Relaxed);
                    let mut response = site.respond(request).await;
                    let exact = http_body::Body::size_hint(response.body()).exact();
                    bytes.fetch_add(exact.expect("the body has a known length"), Relaxed);
                    response.headers_mut().insert(names::CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
                    if request_is_static(&response) {
                        response.headers_mut().insert(names::CACHE_CONTROL, HeaderValue::from_static("s-maxage=600"));
                    }
                    Ok::<_, Infallible>(response)
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    fn request_is_static(response: &http::Response<site::SiteBody>) -> bool {
        response.headers().get(names::CONTENT_TYPE).is_some_and(|kind| !kind.as_bytes().starts_with(b"text/html"))
    }

    #[tokio::test]
    async fn traffic_when_origin_sets_lifetimes_then_counts_equal_the_counts_of_the_origin() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port is available");
        let shim = listener.local_addr().expect("the listener has an address");
        let (pulls, bytes) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let server = tokio::spawn(cached_site(listener, Arc::clone(&pulls), Arc::clone(&bytes)));
        let settings =
            TrafficSettings { visitors_per_second: 1_000, visitors: Some(1_000), ..TrafficSettings::new(shim) };
        let report = run(settings).await;
        server.abort();
        for one in &report {
            assert!(one.hits > 0 && one.misses > 0 && one.revalidated > 0, "{one:?}");
            assert_eq!(one.edge_requests, one.hits + one.misses + one.revalidated + one.errors);
            assert_eq!(one.pulls, one.misses + one.revalidated + one.errors);
            assert!(one.bytes_edge > one.bytes_pulled);
        }
        assert_eq!(report.iter().map(|one| one.pulls).sum::<u64>(), pulls.load(Relaxed));
        assert_eq!(report.iter().map(|one| one.bytes_pulled).sum::<u64>(), bytes.load(Relaxed));
    }

    #[tokio::test]
    async fn traffic_when_no_response_is_cacheable_then_every_request_causes_a_pull() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port is available");
        let shim = listener.local_addr().expect("the listener has an address");
        let server = tokio::spawn(site::serve(listener, Box::leak(Box::default())));
        let settings = TrafficSettings { visitors_per_second: 300, visitors: Some(120), ..TrafficSettings::new(shim) };
        let report = run(settings).await;
        server.abort();
        for one in &report {
            assert!(one.edge_requests > 0, "{one:?}");
            assert_eq!((one.hits, one.revalidated, one.pulls), (0, 0, one.edge_requests));
        }
    }

    #[tokio::test]
    async fn traffic_when_edgeshim_is_down_then_counts_errors_and_no_pulls() {
        let gone = TcpListener::bind("127.0.0.1:0")
            .await
            .and_then(|listener| listener.local_addr())
            .expect("the listener has an address");
        let settings = TrafficSettings { visitors_per_second: 200, visitors: Some(40), ..TrafficSettings::new(gone) };
        let live = Arc::clone(&settings.live);
        let report = run(settings).await;
        assert_eq!(report, live.report());
        assert!(report[0].errors > 0);
        assert!(report.iter().all(|one| one.errors == one.edge_requests && one.pulls == 0));
    }
}
