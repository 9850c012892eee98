//! Simulated CDNs and their visitors, so that the demo's offload and its page move.
//!
//! Three CDNs with real caches pull from the shim; visitors choose among the site's paths by Zipf's law, as real ones
//! do. What they choose follows from the seed alone. Whatever the shim answers is counted and never ends the run.

mod cache;
mod edge;

use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use http::{HeaderValue, StatusCode, Uri};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use self::cache::Dialect;
use self::edge::{Cdn, Delivered, Visit};
use super::site;

/// The Host that every visitor asks for.
pub(super) const HOST: &str = "demo.edgeshim.test";
/// Visitors under way at once; beyond that they turn away unserved and uncounted.
const MAX_VISITORS: usize = 256;
/// The most visitors a second that are believed.
const MAX_RATE: u32 = 10_000;
/// How often new visitors arrive.
const TICK: Duration = Duration::from_millis(10);
/// How long a run waits for those under way when its time is over.
const LAST_VISITORS: Duration = Duration::from_secs(10);
/// One visit in so many asks for a page that fails.
const FAILURE_EVERY: u32 = 200;
/// One visitor in so many takes no gzip.
const PLAIN_EVERY: u32 = 20;
/// The largest error page in which a beacon is looked for, unpacked.
const MAX_PAGE_BYTES: u64 = 1024 * 1024;
/// The longest beacon address that is followed.
const MAX_BEACON_BYTES: usize = 2048;
/// Places in a page that are looked at for one; each costs up to twice the bound above.
const MAX_BEACONS: usize = 16;
/// What the beacon's address holds (spec: its path).
const BEACON: &str = "beacon.gif?";

/// The simulated CDNs: name, weight among visitors, dialect, Via.
const PROVIDERS: [(&str, u32, Dialect, &str); 3] = [
    ("fastly", 50, Dialect::Fastly, "1.1 demo-fastly"),
    ("cloudflare", 30, Dialect::Cloudflare, "1.1 demo-cloudflare"),
    ("akamai", 20, Dialect::Akamai, "1.1 demo-akamai"),
];

/// Accept-Language of the visitors, with weights.
const LANGUAGES: [(&str, u32); 12] = [
    ("en-GB,en;q=0.9", 38),
    ("de-DE,de;q=0.9,en;q=0.5", 16),
    ("fr-FR,fr;q=0.9,en;q=0.4", 10),
    ("es-ES,es;q=0.9", 8),
    ("nl-NL,nl;q=0.9,en;q=0.7", 6),
    ("pl,en;q=0.5", 5),
    ("pt-BR,pt;q=0.9", 4),
    ("ja", 4),
    ("zh-CN,zh;q=0.9", 3),
    ("sv-SE,sv;q=0.9,en;q=0.8", 3),
    ("ar", 2),
    ("he-IL,he;q=0.9,en;q=0.5", 1),
];

/// The failing pages, all alike in weight.
const FAILURES: [&str; 4] = ["/fail?status=500", "/fail?status=502", "/fail?status=503", "/fail?status=504"];

/// What to simulate.
#[derive(Debug, Clone)]
pub(super) struct TrafficSettings {
    /// Where the shim listens.
    pub shim: SocketAddr,
    /// New visitors a second, all CDNs together, at most 10,000; each makes one request.
    pub visitors_per_second: u32,
    /// How long visitors keep coming; `None`: until the future is dropped.
    pub until: Option<Duration>,
    /// Where the visitors' choices start from.
    pub seed: u64,
    /// Counts as it goes, to be watched from elsewhere.
    pub live: Arc<Live>,
}

impl TrafficSettings {
    /// Forty visitors a second, without end.
    pub(super) fn new(shim: SocketAddr) -> Self {
        Self { shim, visitors_per_second: 40, until: None, seed: 1, live: Arc::default() }
    }
}

/// One CDN's counts as they grow.
#[derive(Debug, Default)]
struct Tally {
    edge_requests: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    revalidated: AtomicU64,
    pulls: AtomicU64,
    bytes_edge: AtomicU64,
    bytes_pulled: AtomicU64,
    errors: AtomicU64,
}

/// The counts of a run under way; shared, and read by [`Live::report`].
#[derive(Debug, Default)]
pub(super) struct Live {
    providers: [Tally; PROVIDERS.len()],
    beacons: AtomicU64,
    beacon_errors: AtomicU64,
}

impl Live {
    /// The counts at this moment.
    pub(super) fn report(&self) -> Report {
        let providers = PROVIDERS.iter().zip(&self.providers).map(|(&(name, ..), tally)| ProviderReport {
            name,
            edge_requests: tally.edge_requests.load(Relaxed),
            hits: tally.hits.load(Relaxed),
            misses: tally.misses.load(Relaxed),
            revalidated: tally.revalidated.load(Relaxed),
            pulls: tally.pulls.load(Relaxed),
            bytes_edge: tally.bytes_edge.load(Relaxed),
            bytes_pulled: tally.bytes_pulled.load(Relaxed),
            errors: tally.errors.load(Relaxed),
        });
        Report {
            providers: providers.collect(),
            beacons: self.beacons.load(Relaxed),
            beacon_errors: self.beacon_errors.load(Relaxed),
        }
    }
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    /// One for each simulated CDN: fastly, cloudflare, akamai.
    pub providers: Vec<ProviderReport>,
    /// Beacons that the shim took.
    pub beacons: u64,
    /// Beacons that it refused, or that got no answer.
    pub beacon_errors: u64,
}

/// One CDN's counts. `edge_requests` is the sum of `hits`, `misses`, `revalidated` and `errors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProviderReport {
    /// The provider's name.
    pub name: &'static str,
    /// Visitors' requests that were answered.
    pub edge_requests: u64,
    /// Answered from the cache without a pull.
    pub hits: u64,
    /// Pulled, and answered with what came.
    pub misses: u64,
    /// Pulled, and answered from the cache after a 304.
    pub revalidated: u64,
    /// Requests sent to the shim.
    pub pulls: u64,
    /// Bytes of bodies to visitors.
    pub bytes_edge: u64,
    /// Bytes of bodies from the shim.
    pub bytes_pulled: u64,
    /// Pulls that brought a 5xx or no answer, whatever the visitor was then given.
    pub errors: u64,
}

impl ProviderReport {
    /// Offload of requests in tenths of a percent, rounded down, as the spec has it; `None` while there was no edge
    /// request. Below zero where pulls outnumber edge requests, as they may while some are under way.
    pub(super) fn offload_permille(&self) -> Option<i64> {
        let (edge, pulls) = (i128::from(self.edge_requests), i128::from(self.pulls));
        let permille = (edge - pulls).checked_mul(1000)?.checked_div_euclid(edge)?;
        i64::try_from(permille).ok()
    }
}

impl fmt::Display for ProviderReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, edge_requests, pulls, .. } = self;
        write!(f, "{name:<10}  edge {edge_requests} req  pulled {pulls}  offload ")?;
        match self.offload_permille() {
            Some(permille) => {
                let sign = if permille < 0 { "-" } else { "" };
                write!(f, "{sign}{}.{} %", permille.unsigned_abs() / 10, permille.unsigned_abs() % 10)
            }
            None => f.write_str("unknown"),
        }
    }
}

/// Sends visitors through the simulated CDNs until the time is over and the last of them has been served.
///
/// Needs a tokio runtime with time and net; a current-thread one will do. Dropping the future ends everything at
/// once.
pub(super) async fn run(settings: TrafficSettings) -> Report {
    let TrafficSettings { shim, visitors_per_second, until, seed, live } = settings;
    let cdns = PROVIDERS.map(|(name, _, dialect, via)| Arc::new(Cdn::new(shim, name, dialect, via, HOST)));
    let rate = u128::from(visitors_per_second.min(MAX_RATE));
    let mut crowd = Crowd::new(seed);
    let mut visits = JoinSet::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let begun = Instant::now();
    let mut arrived = 0_u128;
    loop {
        ticks.tick().await;
        let elapsed = begun.elapsed();
        if until.is_some_and(|until| elapsed >= until) {
            break;
        }
        let due = elapsed.as_millis() * rate / 1000;
        // After a pause (a laptop that slept) nobody comes back for what was missed.
        arrived = arrived.max(due.saturating_sub(rate));
        while arrived < due {
            arrived += 1;
            while visits.try_join_next().is_some() {}
            let (place, visit) = crowd.next_visit();
            let Some(cdn) = cdns.get(place).filter(|_| visits.len() < MAX_VISITORS) else {
                continue;
            };
            let (cdn, live) = (Arc::clone(cdn), Arc::clone(&live));
            visits.spawn(async move {
                let Some(tally) = live.providers.get(place) else { return };
                let delivered = cdn.serve(&visit, tally).await;
                if let Some(beacon) = beacon(&delivered) {
                    let taken = edge::direct(shim, HOST, &beacon).await == Some(StatusCode::OK);
                    let counter = if taken { &live.beacons } else { &live.beacon_errors };
                    counter.fetch_add(1, Relaxed);
                }
            });
        }
    }
    // Whoever is not served by then is let go, uncounted; only a shim that hangs lets it come to that.
    let last_ones = async { while visits.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_VISITORS, last_ones).await;
    live.report()
}

/// Who comes next and what they want.
#[derive(Debug)]
struct Crowd {
    draw: SplitMix64,
    paths: Vec<Arc<str>>,
    failures: [Arc<str>; FAILURES.len()],
    zipf: Zipf,
}

impl Crowd {
    fn new(seed: u64) -> Self {
        let paths: Vec<Arc<str>> = site::paths().into_iter().map(Arc::from).collect();
        let zipf = Zipf::new(paths.len());
        Self { draw: SplitMix64(seed), paths, failures: FAILURES.map(Arc::from), zipf }
    }

    /// The CDN's place in [`PROVIDERS`] and the request.
    fn next_visit(&mut self) -> (usize, Visit) {
        let place = self.draw.weighted(PROVIDERS.iter().map(|provider| provider.1));
        let language = self.draw.weighted(LANGUAGES.iter().map(|language| language.1));
        let language = LANGUAGES.get(language).map_or("en", |language| language.0);
        let gzip = self.draw.below(PLAIN_EVERY) != 0;
        let path = if self.draw.below(FAILURE_EVERY) == 0 {
            let place = self.draw.weighted(FAILURES.map(|_| 1));
            self.failures.get(place)
        } else {
            self.paths.get(self.zipf.draw(&mut self.draw))
        };
        let path = path.cloned().unwrap_or_else(|| Arc::from("/"));
        let accept = match &path {
            path if path.starts_with("/images/") => "image/avif,image/webp,image/*,*/*;q=0.8",
            path if path.starts_with("/assets/") || path.starts_with("/api/") => "*/*",
            _ => "text/html,application/xhtml+xml,*/*;q=0.8",
        };
        // RFC 5737: addresses that are nobody's.
        let address = format!("198.51.100.{}", 1 + self.draw.below(254));
        let visit = Visit {
            path,
            gzip,
            accept: HeaderValue::from_static(accept),
            language: HeaderValue::from_static(language),
            address: HeaderValue::from_str(&address).unwrap_or_else(|_| HeaderValue::from_static("198.51.100.1")),
        };
        (place, visit)
    }
}

/// Zipf's law with exponent 1: the n-th place is wanted 1 ÷ n as often as the first.
#[derive(Debug)]
struct Zipf {
    cumulative: Vec<f64>,
}

impl Zipf {
    fn new(places: usize) -> Self {
        let mut total = 0.0;
        let cumulative = (1_u32..).take(places).map(|rank| {
            total += 1.0 / f64::from(rank);
            total
        });
        Self { cumulative: cumulative.collect() }
    }

    /// A place counted from 0.
    fn draw(&self, draw: &mut SplitMix64) -> usize {
        let point = draw.fraction() * self.cumulative.last().copied().unwrap_or(0.0);
        self.cumulative.partition_point(|&sum| sum <= point).min(self.cumulative.len().saturating_sub(1))
    }
}

/// Steele, Lea and Flood's splitmix64: a few lines, a fair spread, the same everywhere.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn high(&mut self) -> u32 {
        u32::try_from(self.next() >> 32).unwrap_or(u32::MAX)
    }

    /// From 0 up to but not 1.
    fn fraction(&mut self) -> f64 {
        f64::from(self.high()) / (f64::from(u32::MAX) + 1.0)
    }

    /// From 0 up to but not `bound`; 0 for a bound of 0.
    fn below(&mut self, bound: u32) -> u32 {
        let scaled = (u64::from(self.high()) * u64::from(bound)) >> 32;
        u32::try_from(scaled).unwrap_or(0)
    }

    /// A place by weight.
    fn weighted(&mut self, weights: impl IntoIterator<Item = u32> + Clone) -> usize {
        let mut point = self.below(weights.clone().into_iter().fold(0, u32::saturating_add));
        for (place, weight) in weights.into_iter().enumerate() {
            if point < weight {
                return place;
            }
            point -= weight;
        }
        0
    }
}

/// The address that the page of a failure would have a browser fetch: path and query, whatever host it names.
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

/// The first quoted text in a page that holds the beacon's name and is an address.
fn beacon_address(page: &str) -> Option<String> {
    let quotes = ['"', '\''];
    page.match_indices(BEACON).take(MAX_BEACONS).find_map(|(at, _)| {
        let earliest = page.floor_char_boundary(at.saturating_sub(MAX_BEACON_BYTES));
        let latest = page.floor_char_boundary(at.saturating_add(MAX_BEACON_BYTES));
        let start = page.get(earliest..at)?.rfind(quotes)? + earliest + 1;
        let end = page.get(at..latest)?.find(quotes)? + at;
        let address = page.get(start..end)?.replace("&amp;", "&");
        // With a host it is the browser's way to another name of the same shim.
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
    use crate::wire::names;
    use flate2::{Compression, write::GzEncoder};
    use http::Request;
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use proptest::prelude::*;
    use std::convert::Infallible;
    use std::io::Write;
    use tokio::net::TcpListener;

    #[test]
    fn splitmix_when_seeded_gives_its_known_numbers() {
        let mut draw = SplitMix64(1_234_567);
        let known = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([draw.next(), draw.next(), draw.next()], known);
    }

    #[test]
    fn zipf_when_drawn_often_is_skewed_as_the_law_says() {
        let (zipf, mut draw) = (Zipf::new(50), SplitMix64(7));
        let mut counts = [0_u32; 50];
        for _ in 0..100_000 {
            counts[zipf.draw(&mut draw)] += 1;
        }
        // 1 ÷ H(50) = 22.2 % for the first, half of that for the second, a fiftieth for the last.
        assert!((21_700..22_800).contains(&counts[0]), "{counts:?}");
        assert!((10_700..11_600).contains(&counts[1]), "{counts:?}");
        assert!((350..550).contains(&counts[49]), "{counts:?}");
        assert_eq!(Zipf::new(0).draw(&mut draw), 0);
    }

    #[test]
    fn crowd_when_seeded_alike_wants_the_same() {
        let visits = |seed| {
            let mut crowd = Crowd::new(seed);
            (0..500)
                .map(|_| crowd.next_visit())
                .map(|(place, visit)| (place, visit.path, visit.language))
                .collect::<Vec<_>>()
        };
        assert_eq!(visits(3), visits(3));
        assert_ne!(visits(3), visits(4));
    }

    #[test]
    fn crowd_when_large_divides_among_cdns_by_weight_and_seldom_fails() {
        let mut crowd = Crowd::new(11);
        let (mut shares, mut failures) = ([0_u32; 3], 0_u32);
        for _ in 0..20_000 {
            let (place, visit) = crowd.next_visit();
            shares[place] += 1;
            failures += u32::from(visit.path.starts_with("/fail"));
        }
        for (share, weight) in shares.into_iter().zip([50, 30, 20]) {
            assert!(share.abs_diff(weight * 200) < 400, "{shares:?}");
        }
        assert!((50..160).contains(&failures), "{failures}");
    }

    #[test]
    fn beacon_when_the_page_is_gzip_is_found_and_unescaped() {
        let page = r#"<p title="beacon.gif?"><img src="/status/images/beacon.gif?source=fastly&amp;id=ab1" alt="">"#;
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(page.as_bytes()).expect("gzip");
        let packed = packed.finish().expect("gzip");
        let wanted = Some("/status/images/beacon.gif?source=fastly&id=ab1".to_owned());
        let delivered = |status, body: &[u8], gzip| Delivered { status, body: body.to_vec().into(), gzip };
        assert_eq!(beacon(&delivered(StatusCode::SERVICE_UNAVAILABLE, &packed, true)), wanted);
        assert_eq!(beacon(&delivered(StatusCode::BAD_GATEWAY, page.as_bytes(), false)), wanted);
        assert_eq!(beacon(&delivered(StatusCode::NOT_FOUND, page.as_bytes(), false)), None);
        assert_eq!(beacon(&delivered(StatusCode::BAD_GATEWAY, page.as_bytes(), true)), None);
    }

    #[test]
    fn beacon_address_when_it_names_a_host_keeps_the_path() {
        assert_eq!(beacon_address("'//b.example/x/beacon.gif?id=1'"), Some("/x/beacon.gif?id=1".to_owned()));
        assert_eq!(
            beacon_address("'https://b.example/beacon.gif?u=http://a/'"),
            Some("/beacon.gif?u=http://a/".to_owned())
        );
        assert_eq!(beacon_address("'beacon.gif?id=1' 'é/beacon.gif?"), None);
    }

    proptest! {
        #[test]
        fn beacon_address_when_given_any_page_is_a_path_or_nothing(page in "([ -~é\"']|beacon\\.gif\\?|//){0,60}") {
            if let Some(address) = beacon_address(&page) {
                prop_assert!(address.starts_with('/') && address.parse::<Uri>().is_ok());
            }
        }
    }

    #[test]
    fn offload_when_nothing_came_is_unknown() {
        let live = Live::default();
        let report = live.report();
        assert_eq!(report.providers.iter().map(|one| one.name).collect::<Vec<_>>(), ["fastly", "cloudflare", "akamai"]);
        assert_eq!(report.providers[0].to_string(), "fastly      edge 0 req  pulled 0  offload unknown");
        live.providers[0].edge_requests.store(1234, Relaxed);
        live.providers[0].pulls.store(120, Relaxed);
        assert_eq!(live.report().providers[0].to_string(), "fastly      edge 1234 req  pulled 120  offload 90.2 %");
    }

    /// The site with one Cache-Control line on everything and 304s that it counts; stands in for the shim.
    async fn cached_site(listener: TcpListener, pulls: Arc<AtomicU64>, bytes: Arc<AtomicU64>) {
        let site = Arc::new(site::Site::new());
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (site, pulls, bytes) = (Arc::clone(&site), Arc::clone(&pulls), Arc::clone(&bytes));
            connections.spawn(async move {
                let service = service_fn(|request: Request<Incoming>| async {
                    assert_eq!(request.headers()[names::HOST], HOST);
                    pulls.fetch_add(1, Relaxed);
                    let mut response = site.answer(request).await;
                    let exact = http_body::Body::size_hint(response.body()).exact();
                    bytes.fetch_add(exact.expect("whole"), Relaxed);
                    response.headers_mut().insert(names::CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
                    if request_is_static(&response) {
                        response.headers_mut().insert(names::CACHE_CONTROL, HeaderValue::from_static("s-maxage=600"));
                    }
                    Ok::<_, Infallible>(response)
                });
                let _ = http1::Builder::new().serve_connection(site::Socket::new(stream), service).await;
            });
        }
    }

    fn request_is_static(response: &http::Response<site::SiteBody>) -> bool {
        response.headers().get(names::CONTENT_TYPE).is_some_and(|kind| !kind.as_bytes().starts_with(b"text/html"))
    }

    #[tokio::test]
    async fn run_when_the_origin_grants_lifetimes_hits_revalidates_and_counts_as_the_origin_does() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let shim = listener.local_addr().expect("address");
        let (pulls, bytes) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let server = tokio::spawn(cached_site(listener, Arc::clone(&pulls), Arc::clone(&bytes)));
        let settings = TrafficSettings {
            visitors_per_second: 1_000,
            until: Some(Duration::from_secs(1)),
            ..TrafficSettings::new(shim)
        };
        let report = run(settings).await;
        server.abort();
        for one in &report.providers {
            assert!(one.hits > 0 && one.misses > 0 && one.revalidated > 0, "{one:?}");
            assert_eq!(one.edge_requests, one.hits + one.misses + one.revalidated + one.errors);
            assert_eq!(one.pulls, one.misses + one.revalidated + one.errors);
            assert!(one.bytes_edge > one.bytes_pulled);
        }
        assert_eq!(report.providers.iter().map(|one| one.pulls).sum::<u64>(), pulls.load(Relaxed));
        assert_eq!(report.providers.iter().map(|one| one.bytes_pulled).sum::<u64>(), bytes.load(Relaxed));
    }

    #[tokio::test]
    async fn run_when_straight_at_the_site_pulls_everything() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let shim = listener.local_addr().expect("address");
        let server = tokio::spawn(site::serve(listener));
        let settings = TrafficSettings {
            visitors_per_second: 300,
            until: Some(Duration::from_millis(400)),
            ..TrafficSettings::new(shim)
        };
        let report = run(settings).await;
        server.abort();
        for one in &report.providers {
            assert!(one.edge_requests > 0, "{one:?}");
            assert_eq!((one.hits, one.revalidated, one.pulls), (0, 0, one.edge_requests));
        }
    }

    #[tokio::test]
    async fn run_when_nobody_listens_counts_errors_and_no_pulls() {
        let gone = TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr()).expect("address");
        let settings = TrafficSettings {
            visitors_per_second: 200,
            until: Some(Duration::from_millis(200)),
            ..TrafficSettings::new(gone)
        };
        let live = Arc::clone(&settings.live);
        let report = run(settings).await;
        assert_eq!(report, live.report());
        assert!(report.providers[0].errors > 0);
        assert!(report.providers.iter().all(|one| one.errors == one.edge_requests && one.pulls == 0));
    }
}
