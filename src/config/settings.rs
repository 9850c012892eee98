//! The settings: the values of a valid configuration. A key that the file leaves out has its default. The code that
//! uses a key declares the settings for this key. This file joins these settings, and declares the settings for
//! listeners, workers, connections, the drain and `[[provider]]`.
//!
//! The defaults are the values in `config/edgeshim.toml`. A test compares the defaults with that file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use super::listeners::{LISTEN, Listen, TLS_LISTEN};
use crate::access_log::AccessLogSettings;
use crate::cdn::preset::logs::RenamedFields;
use crate::cdn::proof::{CertificateRule, G2oKeys, Require, SecretField};
use crate::edge::admission::limiter::Limits;
use crate::edge::assign::experiment_keys::ExperimentSettings;
use crate::edge::gzip::GzipSettings;
use crate::edge::identify::IdentifySettings;
use crate::edge::local::{BeaconSettings, EdgeLogSettings, RumSettings, SmokeSettings};
use crate::edge::observe::ObserveSettings;
use crate::edge::request::class::ClassRule;
use crate::edge::verify::VerifySettings;
use crate::edge::whoopsie::WhoopsieSettings;
use crate::intake::server_tls::{TlsFiles, TypedPath};
use crate::keys::quantities::{DURATION, TIMEOUT};
use crate::keys::secrets::SECRET;
use crate::keys::{Keys, Visitor};
use crate::origin::{MessageLimits, OriginSettings};
use crate::pages::PageSettings;
use crate::wire::secret::Secret;

/// All settings of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The keys of `[server]` are in three fields: `server`, `limits` and `observe`.
    pub server: Server,
    pub limits: MessageLimits,
    pub observe: ObserveSettings,
    /// The keys of `[admin]`.
    pub admin: Admin,
    /// The keys of `[origin]` are in two fields: `origin` and `admission`.
    pub origin: OriginSettings,
    pub admission: Limits,
    /// The keys of `[identity]` are in two fields: `identity` and `verify`.
    pub identity: IdentifySettings,
    pub verify: VerifySettings,
    /// The `[[provider]]` blocks, in the order of the file.
    pub providers: Vec<Provider>,
    /// The `[[class]]` blocks, in the order of the file. Classes are matched in this order.
    pub classes: Vec<ClassRule>,
    /// The `[[experiment]]` blocks, in the order of the file.
    pub experiments: Vec<ExperimentSettings>,
    /// The keys of `[gzip]`.
    pub gzip: GzipSettings,
    /// The keys of `[whoopsie]` are in two fields: `whoopsie` and `pages`.
    pub whoopsie: WhoopsieSettings,
    pub pages: PageSettings,
    /// The keys of `[beacon]`.
    pub beacon: BeaconSettings,
    /// The keys of `[edge_logs]`.
    pub edge_logs: EdgeLogSettings,
    /// The keys of `[rum]`.
    pub rum: RumSettings,
    /// The keys of `[smoke]`.
    pub smoke: SmokeSettings,
    /// The keys of `[access_log]`.
    pub access_log: AccessLogSettings,
}

/// Visits all blocks except `[[provider]]`. `provider_blocks` reads those blocks, because their keys depend on each
/// other.
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
        });
        v.block("identity", |v| {
            self.identity.keys(v);
            self.verify.keys(v);
        });
        v.blocks("class", &mut self.classes);
        v.blocks("experiment", &mut self.experiments);
        v.block("gzip", |v| self.gzip.keys(v));
        v.block("whoopsie", |v| {
            self.whoopsie.keys(v);
            self.pages.keys(v);
        });
        v.block("beacon", |v| self.beacon.keys(v));
        v.block("edge_logs", |v| self.edge_logs.keys(v));
        v.block("rum", |v| self.rum.keys(v));
        v.block("smoke", |v| self.smoke.keys(v));
        v.block("access_log", |v| self.access_log.keys(v));
    }
}

/// The keys of `[server]` that concern sockets, connections and the drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The addresses to which CDNs connect without TLS. With the addresses of `tls`, there is at least one address, and
    /// no address is listed twice, except with port 0.
    pub listen: Vec<Listen>,
    /// The keys of `[server.tls]`. `None`: no listener uses TLS.
    pub tls: Option<Tls>,
    /// The number of worker threads. 0 means one thread for each CPU that the cgroup grants.
    pub workers: usize,
    /// Whether each connection begins with a PROXY header of version 1 or 2.
    pub proxy_protocol: bool,
    /// The largest number of connections at one time, on all listeners together.
    pub max_connections: usize,
    /// The time limit for receiving a complete request head.
    pub header_timeout: Duration,
    /// The time limit for the wait between two requests on a connection.
    pub idle_timeout: Duration,
    /// The time between the first 503 of `/readyz` and the close of the listeners.
    pub drain_delay: Duration,
    /// The time limit for requests in flight after the listeners have closed.
    pub drain_timeout: Duration,
    /// Whether a change of the configuration file, of a file with a secret or of a file of the pages causes a reload.
    pub watch: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))],
            tls: None,
            workers: 0,
            proxy_protocol: false,
            max_connections: 16_384,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            watch: false,
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
        v.flag("watch", &mut self.watch);
        v.optional_block("tls", &mut self.tls);
    }
}

impl Server {
    /// Returns the addresses of all listeners, first the addresses without TLS.
    pub fn listeners(&self) -> Vec<Listen> {
        let secure = self.tls.iter().flat_map(|tls| &tls.listen);
        self.listen.iter().chain(secure).cloned().collect()
    }
}

/// The keys of `[server.tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// The addresses to which CDNs connect with TLS, at least one. Each is [`Listen::Tls`].
    pub listen: Vec<Listen>,
    /// The certificates, keys and CAs.
    pub files: TlsFiles,
}

impl Keys for Tls {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.list("listen", &TLS_LISTEN, &mut self.listen);
        self.files.keys(v);
    }
}

/// The keys of `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// The address on which edgeshim serves the page, the metrics, the probes and the effective configuration.
    pub listen: Listen,
    /// The bearer token, which is required if `listen` is neither a loopback address nor a unix socket.
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

/// The settings of one `[[provider]]` block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// The provider's name in lower case, which is the value of the identity header and a metric label.
    pub name: String,
    /// The preset's name, one of [`NAMES`](crate::cdn::preset::NAMES).
    pub preset: &'static str,
    /// The field in which the CDN reads cache tags, if the operator has named that field.
    pub tag_header: Option<HeaderName>,
    /// The token with which the CDN pushes its logs. `None`: the token of `[edge_logs]`.
    pub edge_log_token: Option<Secret>,
    /// The fields of the CDN's log that have another place than in the preset, each with its place.
    pub edge_log_fields: RenamedFields,
    /// The number of requests that one line of the CDN's log represents. The number is above 1 if the CDN logs
    /// only a sample.
    pub edge_log_sampling: u32,
    /// The proofs that are checked for each pull. `None`: the provider's name is accepted without a proof.
    pub verify: Option<Verify>,
}

/// The settings of `[provider.verify]`. At least one proof is present.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verify {
    /// Whether one proof is enough or all proofs are required.
    pub require: Require,
    /// The proof by a secret in a header field.
    pub secret: Option<SecretField>,
    /// The addresses from which the CDN pulls. If the list is empty, the address is not checked.
    pub addresses: Vec<AddressSource>,
    /// The proof by a client certificate.
    pub client_cert: Option<CertificateRule>,
    /// The file with the CAs of `client_cert`, if one is configured. The file was checked when the configuration was
    /// read.
    pub client_cert_ca: Option<TypedPath>,
    /// The proof by Akamai's G2O signature.
    pub g2o: Option<G2oKeys>,
}

/// One entry of `provider.verify.addresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressSource {
    Network(IpNet),
    /// A file with a list of networks. The file was checked when the configuration was read.
    File(PathBuf),
}
