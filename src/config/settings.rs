//! The settings: valid types with nothing unset. Their defaults are the contract's, and `config/edgeshim.toml` says
//! the same in prose (a test compares the two).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use super::statuses::StatusSet;
use crate::access_log::AccessLogSettings;
use crate::cdn::proof::{CertificateRule, G2oKeys, Require, SecretField};
use crate::edge::request::class::ClassRule;
use crate::pages::PageFiles;
use crate::wire::names;
use crate::wire::secret::Secret;

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// `[server]`: the CDNs' side.
    pub server: Server,
    /// `[admin]`: the operator's side.
    pub admin: Admin,
    /// `[origin]`: what stands behind.
    pub origin: Origin,
    /// `[identity]`: how a pull says whose it is.
    pub identity: Identity,
    /// `[[provider]]`, in the file's order.
    pub providers: Vec<Provider>,
    /// `[[class]]`, in the file's order, which is the order of matching.
    pub classes: Vec<ClassRule>,
    /// `[gzip]`.
    pub gzip: Gzip,
    /// `[whoopsie]`: the page for 5xx.
    pub whoopsie: Whoopsie,
    /// `[beacon]`: the pixel in that page.
    pub beacon: Beacon,
    /// `[rum]`: load times that browsers tell.
    pub rum: Rum,
    /// `[access_log]`.
    pub access_log: AccessLogSettings,
}

/// `[server]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where CDNs connect to; never empty, no address twice.
    pub listen: Vec<Listen>,
    /// Threads; 0 = one per CPU that the cgroup grants.
    pub workers: usize,
    /// Allowed Host values in lower case, each with its port where one was typed; empty = any.
    pub hosts: Vec<String>,
    /// Own balancers, whose X-Forwarded-For is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections begin with a PROXY header, v1 or v2.
    pub proxy_protocol: bool,
    /// Connections at a time; at least 1.
    pub max_connections: usize,
    /// The size of a head, of a request or of the origin's response, in bytes; 4 KiB to 1 MiB.
    pub max_header_bytes: usize,
    /// Field lines in such a head; 1 to 1,000.
    pub max_headers: usize,
    /// A request body's size, in bytes; none = no limit.
    pub max_request_body: Option<u64>,
    /// For a whole request head.
    pub header_timeout: Duration,
    /// For no progress on a body, either way.
    pub body_timeout: Duration,
    /// For a kept connection between requests.
    pub idle_timeout: Duration,
    /// Between readyz's 503 and the drain; may be zero.
    pub drain_delay: Duration,
    /// For the drain.
    pub drain_timeout: Duration,
    /// Passes through this shim that CDN-Loop may show (RFC 8586); at least 1.
    pub max_hops: u32,
    /// For an upgraded connection on which nothing moves.
    pub tunnel_timeout: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))],
            workers: 0,
            hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            max_connections: 16_384,
            max_header_bytes: 64 * 1024,
            max_headers: 128,
            max_request_body: None,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_mins(1),
            idle_timeout: Duration::from_secs(75),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            max_hops: 4,
            tunnel_timeout: Duration::from_hours(1),
        }
    }
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// An address and a port; port 0 = any free one.
    Tcp(SocketAddr),
    /// A unix socket; a relative path has been joined to the file's folder.
    Unix(PathBuf),
}

/// As it is typed.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where the page, the metrics and the probes are.
    pub listen: Listen,
    /// The bearer token; always there where `listen` is neither loopback nor a unix socket.
    pub token: Option<Secret>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 9900))), token: None }
    }
}

/// `[origin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Where it is.
    pub target: Target,
    /// Whether it is spoken to in HTTP/2 by prior knowledge.
    pub http2: bool,
    /// For a connection to stand.
    pub connect_timeout: Duration,
    /// Until the response head.
    pub response_timeout: Duration,
    /// For a kept connection nobody uses.
    pub idle_timeout: Duration,
    /// Kept connections, all workers together; 0 = none is kept.
    pub max_idle: usize,
    /// Further tries of an idempotent request.
    pub retries: u32,
    /// Requests that it gets at once, all workers together; 0 = no limit.
    pub max_in_flight: usize,
    /// Requests above that which wait in line; above 0 only where there is a limit.
    pub max_waiting: usize,
    /// The Host it gets, in lower case; none = the request's own.
    pub host: Option<String>,
    /// Whether field names keep the case they came in.
    pub preserve_header_case: bool,
}

impl Default for Origin {
    fn default() -> Self {
        Self {
            target: Target::Tcp { host: "127.0.0.1".to_owned(), port: 3000 },
            http2: false,
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            max_idle: 256,
            retries: 1,
            max_in_flight: 0,
            max_waiting: 0,
            host: None,
            preserve_header_case: false,
        }
    }
}

/// Where the origin is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// Over TCP.
    Tcp {
        /// A name or an address in lower case; IPv6 without brackets.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// Over a unix socket; a relative path has been joined to the file's folder.
    Unix(PathBuf),
}

/// As it is typed.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "http://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "http://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[identity]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The field in which a CDN says its name.
    pub header: HeaderName,
    /// Whether the presets' signals are asked where that field is missing.
    pub recognise: bool,
    /// What becomes of pulls by nobody or by somebody not configured.
    pub unknown: OnDoubt,
    /// What becomes of pulls whose proofs failed.
    pub unverified: OnDoubt,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            header: names::X_CDN_PROVIDER.clone(),
            recognise: true,
            unknown: OnDoubt::Count,
            unverified: OnDoubt::Count,
        }
    }
}

/// What becomes of a pull in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDoubt {
    /// It is served and counted.
    Count,
    /// It is refused with 403 and counted.
    Reject,
}

/// One `[[provider]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// The name in the identity field and the metric label, in lower case.
    pub name: String,
    /// The preset's name, one of [`NAMES`](crate::cdn::preset::NAMES).
    pub preset: String,
    /// The field in which it reads cache tags, where the operator names it.
    pub tag_header: Option<HeaderName>,
    /// What proves a pull; none = its name is believed.
    pub verify: Option<Verify>,
}

/// `[provider.verify]`; at least one proof.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verify {
    /// How many of the proofs have to hold.
    pub require: Require,
    /// A secret in a field.
    pub secret: Option<SecretField>,
    /// Where it pulls from; empty = not asked.
    pub addresses: Vec<AddressSource>,
    /// A certificate that it shows.
    pub client_cert: Option<CertificateRule>,
    /// Akamai's signature.
    pub g2o: Option<G2oKeys>,
}

/// One entry of `addresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressSource {
    /// A network.
    Network(IpNet),
    /// A list in a file, which was read when this was checked; a relative path has been joined to the configuration's folder.
    File(PathBuf),
}

/// `[gzip]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gzip {
    /// Whether anything is compressed at all.
    pub enabled: bool,
    /// 1 (fast) to 9 (small).
    pub level: u32,
    /// The shortest body worth it, in bytes.
    pub min_bytes: u64,
    /// The most that the store of ready gzip twins holds, in bytes; 0: none is kept.
    pub twins_bytes: u64,
    /// Whether the origin's gzip is undone for a CDN that does not take it.
    pub inflate: bool,
    /// Media types worth it, in lower case; `*` stands for any run of characters.
    pub types: Vec<String>,
}

/// What shrinks, and what browsers and CDNs ask for. Pictures, sound, video and woff are packed already.
const GZIP_TYPES: [&str; 23] = [
    "text/*",
    "application/json",
    "application/*+json",
    "application/javascript",
    "application/x-javascript",
    "application/ecmascript",
    "application/xml",
    "application/*+xml",
    "application/graphql",
    "application/manifest+json",
    "application/x-ndjson",
    "application/wasm",
    "application/vnd.ms-fontobject",
    "application/vnd.apple.mpegurl",
    "application/x-mpegurl",
    "application/x-font-ttf",
    "font/ttf",
    "font/otf",
    "font/collection",
    "image/svg+xml",
    "image/x-icon",
    "image/vnd.microsoft.icon",
    "image/bmp",
];

impl Default for Gzip {
    fn default() -> Self {
        Self {
            enabled: true,
            level: 4,
            min_bytes: 256,
            twins_bytes: 64 * 1024 * 1024,
            inflate: false,
            types: GZIP_TYPES.map(str::to_owned).to_vec(),
        }
    }
}

/// `[whoopsie]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whoopsie {
    /// Which of the origin's answers are replaced.
    pub statuses: StatusSet,
    /// The template and the words, which were read when this was checked; a relative folder has been joined to the file's.
    pub pages: Arc<PageFiles>,
    /// The locale where nothing else decides; a language tag.
    pub default_locale: String,
    /// Host in lower case to the locale where Accept-Language is missing.
    pub hosts: BTreeMap<String, String>,
    /// What the page calls the site; plain text, still to be escaped.
    pub site_name: String,
    /// A web link or empty.
    pub status_url: String,
    /// A web link or empty.
    pub support_url: String,
    /// What the beacon's path is appended to, without a slash at its end; empty = the same host.
    pub beacon_base: String,
    /// What Retry-After says; whole seconds, at least 1.
    pub retry_after: Duration,
}

impl Default for Whoopsie {
    fn default() -> Self {
        Self {
            statuses: StatusSet::all(),
            pages: Arc::default(),
            default_locale: "en".to_owned(),
            hosts: BTreeMap::new(),
            site_name: "This site".to_owned(),
            status_url: String::new(),
            support_url: String::new(),
            beacon_base: String::new(),
            retry_after: Duration::from_secs(30),
        }
    }
}

/// `[beacon]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beacon {
    /// Where the pixel is; starts with `/`.
    pub path: String,
    /// Accepted `source` values beside the providers' names, in lower case.
    pub sources: Vec<String>,
    /// The country file, which was read when this was checked; none = no countries. A relative path has been joined to the file's
    /// folder.
    pub country_database: Option<PathBuf>,
}

impl Default for Beacon {
    fn default() -> Self {
        Self { path: "/status/images/beacon.gif".to_owned(), sources: Vec::new(), country_database: None }
    }
}

/// `[rum]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rum {
    /// Where load times are sent; starts with `/`, and is not the beacon's. None = off.
    pub path: Option<String>,
    /// Accepted page names, in lower case.
    pub pages: Vec<String>,
}
