//! The settings: valid values, with nothing unset. Each layer declares its own; those of the rooms above are here.
//!
//! The defaults are those of `config/edgeshim.toml`; a test compares the two.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use super::later;
use super::listeners::{LISTEN, Listen};
use super::secrets::SECRET;
use crate::access_log::AccessLogSettings;
use crate::cdn::proof::{CertificateRule, G2oKeys, Require, SecretField};
use crate::edge::admission::limiter::Limits;
use crate::edge::gzip::GzipSettings;
use crate::edge::identify::IdentifySettings;
use crate::edge::local::{BeaconSettings, RumSettings};
use crate::edge::observe::ObserveSettings;
use crate::edge::request::class::ClassRule;
use crate::edge::verify::VerifySettings;
use crate::edge::whoopsie::WhoopsieSettings;
use crate::keys::quantities::{DURATION, TIMEOUT};
use crate::keys::{Keys, Visitor};
use crate::origin::{MessageLimits, OriginSettings};
use crate::pages::PageSettings;
use crate::wire::secret::Secret;

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// `[server]`, with `limits` and `observe`.
    pub server: Server,
    pub limits: MessageLimits,
    pub observe: ObserveSettings,
    /// `[admin]`.
    pub admin: Admin,
    /// `[origin]`, with `admission`.
    pub origin: OriginSettings,
    pub admission: Limits,
    /// `[identity]`, with `verify`.
    pub identity: IdentifySettings,
    pub verify: VerifySettings,
    /// `[[provider]]`, in the file's order.
    pub providers: Vec<Provider>,
    /// `[[class]]`, in the file's order, which is the order of matching.
    pub classes: Vec<ClassRule>,
    /// `[gzip]`.
    pub gzip: GzipSettings,
    /// `[whoopsie]`, with `pages`.
    pub whoopsie: WhoopsieSettings,
    pub pages: PageSettings,
    /// `[beacon]`.
    pub beacon: BeaconSettings,
    /// `[rum]`.
    pub rum: RumSettings,
    /// `[access_log]`.
    pub access_log: AccessLogSettings,
}

/// All blocks except `[[provider]]`, whose keys depend on each other (`provider_blocks`).
impl Keys for Settings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.block("server", |v| {
            self.server.keys(v);
            self.limits.keys(v);
            self.observe.keys(v);
        });
        v.block("admin", |v| self.admin.keys(v));
        v.block("origin", |v| {
            self.origin.keys(v);
            self.admission.keys(v);
            later::origin(v);
        });
        v.block("identity", |v| {
            self.identity.keys(v);
            self.verify.keys(v);
        });
        v.blocks("class", &mut self.classes);
        v.block("gzip", |v| self.gzip.keys(v));
        v.block("whoopsie", |v| {
            self.whoopsie.keys(v);
            self.pages.keys(v);
        });
        v.block("beacon", |v| self.beacon.keys(v));
        v.block("rum", |v| self.rum.keys(v));
        v.block("access_log", |v| self.access_log.keys(v));
        v.block("edge_logs", later::edge_logs);
    }
}

/// Keys of `[server]` about sockets, connections and the drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where CDNs connect to; never empty, no address twice.
    pub listen: Vec<Listen>,
    /// Threads; 0 = one per CPU that the cgroup grants.
    pub workers: usize,
    /// Whether connections begin with a PROXY header, v1 or v2.
    pub proxy_protocol: bool,
    /// Connections at a time, all listeners together.
    pub max_connections: usize,
    /// For a whole request head.
    pub header_timeout: Duration,
    /// For a connection between two requests.
    pub idle_timeout: Duration,
    /// Between the 503 of `/readyz` and the drain.
    pub drain_delay: Duration,
    /// For the drain.
    pub drain_timeout: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))],
            workers: 0,
            proxy_protocol: false,
            max_connections: 16_384,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl Keys for Server {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.list("listen", &LISTEN, &mut self.listen);
        v.integer("workers", 0..=512, &mut self.workers);
        v.flag("proxy_protocol", &mut self.proxy_protocol);
        v.integer("max_connections", 1..=10_000_000, &mut self.max_connections);
        v.text("header_timeout", &TIMEOUT, &mut self.header_timeout);
        v.text("idle_timeout", &TIMEOUT, &mut self.idle_timeout);
        v.text("drain_delay", &DURATION, &mut self.drain_delay);
        v.text("drain_timeout", &TIMEOUT, &mut self.drain_timeout);
    }
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where the page, the metrics and the probes are.
    pub listen: Listen,
    /// The bearer token; required unless `listen` is loopback or a unix socket.
    pub token: Option<Secret>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 9900))), token: None }
    }
}

impl Keys for Admin {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.text("listen", &LISTEN, &mut self.listen);
        v.nonempty("token", &SECRET, &mut self.token);
    }
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
    /// The proofs of a pull; none = its name is accepted without a proof.
    pub verify: Option<Verify>,
}

/// `[provider.verify]`; at least one proof.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verify {
    /// How many of the proofs are required.
    pub require: Require,
    /// A secret in a field.
    pub secret: Option<SecretField>,
    /// The addresses it pulls from; empty = not checked.
    pub addresses: Vec<AddressSource>,
    /// A client certificate.
    pub client_cert: Option<CertificateRule>,
    /// Akamai's signature.
    pub g2o: Option<G2oKeys>,
}

/// One entry of `addresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressSource {
    Network(IpNet),
    /// A list in a file, which was read with the configuration.
    File(PathBuf),
}
